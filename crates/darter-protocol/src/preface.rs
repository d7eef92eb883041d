//! The first bytes of every connection: is this Darter, which version of it, what is the connection for, who is there.
//!
//! Both sides send the same form; the one that connected speaks first, so that whoever probes the port learns nothing:
//!
//! ```text
//! offset  size  field
//!      0     4  magic, "DRTR"
//!      4     1  protocol version, 4
//!      5     1  kind: 1 control channel, 2 data channel; the answer repeats it
//!      6     2  length of the hello, little-endian, at most 4096
//!      8     n  hello, in postcard's encoding: node (16 bytes), listen (text), place (four texts), role (varint),
//!               program (text); since version 3 also run (varint). A text is its length as a varint, then UTF-8.
//!               What follows is for later versions, and is skipped
//! ```
//!
//! The first six bytes are the same in every version of the protocol.
//!
//! # Other versions
//!
//! A fleet is upgraded agent by agent, so this version speaks the one before it, too: the side that accepted answers in
//! the version it was spoken to in, and the side that connected tries again in the older version when the other side
//! answers in that, or hangs up without a word. Messages that the older version does not know are not sent to such an
//! agent ([`Message::since`](crate::Message::since)). An agent of a version that is not spoken here is told so by the
//! answer, in the version of this one.

use darter_core::{NodeId, Place};
use serde::{Deserialize, Serialize};

use crate::{MAX_HELLO, ProtocolError, Result};

/// The version of the protocol spoken here.
pub const VERSION: u8 = 4;

/// The oldest version spoken with agents that don't speak [`VERSION`] yet.
pub const OLDEST_VERSION: u8 = 2;

/// The first version whose hello tells the run.
const TELLS_RUN: u8 = 3;

/// What every preface begins with.
const MAGIC: [u8; 4] = *b"DRTR";

/// Bytes of what every version begins with.
pub const HEAD_LENGTH: usize = 6;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// [Messages](crate::Message), both ways.
    Control = 1,
    /// Pieces, from the side that accepted to the side that connected.
    Data = 2,
}

/// What a node is to the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Reads origins and leads swarms, besides what a node does.
    Seed,
    /// Holds and wants blobs.
    Node,
}

/// How a node introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who it is.
    pub node: NodeId,
    /// Where others reach it, `HOST:PORT`; empty if nowhere. An unspecified address such as `0.0.0.0:7400` stands
    /// for "the address I come from": the receiver puts that in its place.
    pub listen: String,
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub role: Role,
    /// Its program version, for people.
    pub program: String,
    /// Drawn when the process starts, so that two processes with one id are told from one process with two
    /// connections; zero where the version of the protocol does not tell it.
    #[serde(skip)]
    pub run: u64,
}

/// What every version of a preface begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The version of the protocol that the sender speaks.
    pub version: u8,
    /// What the connection is for, by [`Kind`]'s numbers.
    pub kind: u8,
}

impl Head {
    /// Whether a preface can begin with these bytes.
    pub fn may_begin_with(bytes: &[u8]) -> bool {
        MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())])
    }

    /// Reads it; `None` if these are no bytes of Darter's.
    pub fn decode(bytes: &[u8; HEAD_LENGTH]) -> Option<Self> {
        let [.., version, kind] = *bytes;
        bytes.starts_with(&MAGIC).then_some(Self { version, kind })
    }
}

impl Kind {
    /// The kind with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Control),
            2 => Some(Self::Data),
            _ => None,
        }
    }
}

/// A preface's bytes.
///
/// # Errors
/// [`ProtocolError::TooLong`] for an introduction that nobody would read.
pub fn encode(version: u8, kind: Kind, me: &Hello) -> Result<Vec<u8>> {
    let mut hello = postcard::to_stdvec(me).expect("a hello is plain data");
    if version >= TELLS_RUN {
        hello = postcard::to_extend(&me.run, hello).expect("a number is plain data");
    }
    let length = check_length(hello.len())?;
    let mut preface = Vec::with_capacity(HEAD_LENGTH + 2 + hello.len());
    preface.extend_from_slice(&MAGIC);
    preface.extend_from_slice(&[version, kind as u8]);
    preface.extend_from_slice(&length.to_le_bytes());
    preface.extend_from_slice(&hello);
    Ok(preface)
}

/// The length of the hello that follows these bytes.
///
/// # Errors
/// [`ProtocolError::TooLong`].
pub fn hello_length(bytes: [u8; 2]) -> Result<usize> {
    let length = u16::from_le_bytes(bytes).into();
    check_length(length)?;
    Ok(length)
}

/// Reads an introduction in the form that `version` has.
///
/// # Errors
/// [`ProtocolError::Malformed`].
pub fn decode_hello(version: u8, bytes: &[u8]) -> Result<Hello> {
    let malformed = |source| ProtocolError::Malformed { what: "hello", source };
    let (mut hello, rest) = postcard::take_from_bytes::<Hello>(bytes).map_err(malformed)?;
    if version >= TELLS_RUN {
        (hello.run, _) = postcard::take_from_bytes(rest).map_err(malformed)?;
    }
    Ok(hello)
}

fn check_length(length: usize) -> Result<u16> {
    match u16::try_from(length) {
        Ok(short) if length <= MAX_HELLO => Ok(short),
        _ => Err(ProtocolError::TooLong { what: "hello", length: length as u64, limit: MAX_HELLO as u64 }),
    }
}
