//! The first bytes of every connection: is this Darter, which protocol does it speak, what is the connection for, who is
//! there. Both sides send the same form; the one that connected speaks first.
//!
//! ```text
//! offset  size  field
//!      0     4  magic, "DRTR"
//!      4     1  form: the lowest version, from 3 on, that the sender speaks
//!      5     1  kind: 1 control channel, 2 data channel; the answer repeats it
//!      6     2  length of the hello, little-endian, at most 4096
//!      8     n  hello
//! ```
//!
//! The hello is in postcard's encoding. A text is its length as a varint, then UTF-8:
//!
//! | field | bytes | where it is missing |
//! |---|---|---|
//! | node | 16 | |
//! | listen | text | |
//! | place | four texts: region, zone, rack, host | |
//! | role | varint: 0 seed, 1 node; another is taken for a node | |
//! | program | text | |
//! | run | varint | 0, not told |
//! | lowest, highest version | one byte each; the form lies between them, unless both are below 3 | the form is all that the sender speaks |
//! | capabilities | length as a varint, then as many bytes ([`Capabilities`]) | none |
//!
//! These bytes are the same in every version of the protocol from 3 on: fields are only added at the end, and a reader skips
//! those that it does not know. So each of two agents learns what the other speaks, however far apart their releases are.
//!
//! # Which version is spoken
//!
//! The highest that both ranges have ([`Versions::common`]); each side finds it by itself. If there is none, both sides know both ranges and say so.
//! Agents of version 3 tell no range and take the form for the one version that is spoken: so this release and those agents speak 3. They demand that
//! an answer has the form of what they said, which it has as long as 3 is spoken here.
//!
//! Form 2 has no field behind the program. It is written only to agents that know no other: the side that accepted answers
//! in it whoever used it, and the side that connected tries again in it where the other side answers in it, or hangs up
//! without a word.

use darter_core::{NodeId, Place};

use crate::open_enum::open_enum;
use crate::{Capabilities, MAX_HELLO, ProtocolError, Result, Versions};

/// The form that agents of the oldest version know.
pub const OLDEST_FORM: u8 = 2;

/// The first form that has all fields.
const FULL_FORM: u8 = 3;

/// The first bytes of every preface.
const MAGIC: [u8; 4] = *b"DRTR";

/// Bytes of what every version begins with.
pub const HEAD_LENGTH: usize = 6;

/// The purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ConnectionKind {
    /// [Messages](crate::Message), both ways.
    Control = 1,
    /// Pieces, from the side that accepted to the side that connected.
    Data = 2,
}

open_enum! {
    /// An agent's role in the fleet.
    pub enum Role else Node {
        /// Reads origins and leads swarms, besides what a node does.
        Seed = 0,
        /// Holds and wants blobs.
        Node = 1,
    }
}

/// How a node introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The node's id.
    pub node: NodeId,
    /// The address at which others reach it, `HOST:PORT`; empty if they can't. An unspecified address such as `0.0.0.0:7400` stands
    /// for "the address I come from": the receiver puts that in its place.
    pub listen: String,
    /// Its place: region, zone, rack and host.
    pub place: Place,
    /// The node's role.
    pub role: Role,
    /// Its program version, for people.
    pub program: String,
    /// Drawn when the process starts, so that two processes with one id are told from one process with two
    /// connections; zero where the version of the protocol does not tell it.
    pub run: u64,
    /// The versions of the protocol that it speaks.
    pub versions: Versions,
    /// Abilities beyond those of its version.
    pub capabilities: Capabilities,
}

/// The fields with which a preface of any version begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The form of what follows, which is a version that the sender speaks.
    pub form: u8,
    /// The connection's purpose, by [`ConnectionKind`]'s numbers.
    pub kind: u8,
}

impl Head {
    /// True if a preface can begin with these bytes.
    pub fn may_begin_with(bytes: &[u8]) -> bool {
        MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())])
    }

    /// Reads it; `None` if these are no bytes of Darter's.
    pub fn decode(bytes: &[u8; HEAD_LENGTH]) -> Option<Self> {
        let [.., form, kind] = *bytes;
        bytes.starts_with(&MAGIC).then_some(Self { form, kind })
    }
}

impl ConnectionKind {
    /// The kind with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Control),
            2 => Some(Self::Data),
            _ => None,
        }
    }
}

/// The form in which an agent that speaks these versions introduces itself.
pub const fn form_of(versions: Versions) -> u8 {
    if versions.lowest > FULL_FORM { versions.lowest } else { FULL_FORM }
}

/// The form in which it answers somebody who introduced itself in `asked`.
pub const fn form_of_answer(versions: Versions, asked: u8) -> u8 {
    if versions.contains(asked) { asked } else { form_of(versions) }
}

/// A preface's bytes.
///
/// # Errors
/// [`ProtocolError::TooLong`] for an introduction that nobody would read.
pub fn encode(form: u8, kind: ConnectionKind, me: &Hello) -> Result<Vec<u8>> {
    let Hello { node, listen, place, role, program, run, versions, capabilities } = me;
    let mut hello = postcard::to_stdvec(&(node, listen, place, role, program)).expect("a hello is plain data");
    if form >= FULL_FORM {
        hello = postcard::to_extend(&(run, versions, capabilities), hello).expect("a hello is plain data");
    }
    let length = check_length(hello.len())?;
    let mut preface = Vec::with_capacity(HEAD_LENGTH + 2 + hello.len());
    preface.extend_from_slice(&MAGIC);
    preface.extend_from_slice(&[form, kind as u8]);
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

/// Reads an introduction.
///
/// # Errors
/// [`ProtocolError::Malformed`]; [`ProtocolError::Violation`] for versions that contradict the form, which is one of them.
pub fn decode_hello(form: u8, bytes: &[u8]) -> Result<Hello> {
    let malformed = |source| ProtocolError::Malformed { what: "hello", source };
    let ((node, listen, place, role, program), rest) = postcard::take_from_bytes(bytes).map_err(malformed)?;
    let (mut run, mut versions, mut capabilities) = (0, Versions::exactly(form), Capabilities::NONE);
    if form >= FULL_FORM && !rest.is_empty() {
        let (told, rest) = postcard::take_from_bytes(rest).map_err(malformed)?;
        run = told;
        if !rest.is_empty() {
            let (told, rest) = postcard::take_from_bytes(rest).map_err(malformed)?;
            versions = told;
            if !may_be_told_in(form, versions) {
                return Err(ProtocolError::Violation { what: "a hello whose versions contradict its form" });
            }
            if !rest.is_empty() {
                (capabilities, _) = postcard::take_from_bytes(rest).map_err(malformed)?;
            }
        }
    }
    Ok(Hello { node, listen, place, role, program, run, versions, capabilities })
}

/// True if an agent that speaks `versions` introduces itself in `form`, which is one of them; only the first form that has all fields is
/// used by agents of older versions, too.
fn may_be_told_in(form: u8, versions: Versions) -> bool {
    let Versions { lowest, highest } = versions;
    (1..=form).contains(&lowest) && (form <= highest || (form == FULL_FORM && lowest <= highest))
}

fn check_length(length: usize) -> Result<u16> {
    match u16::try_from(length) {
        Ok(short) if length <= MAX_HELLO => Ok(short),
        _ => Err(ProtocolError::TooLong { what: "hello", length: length as u64, limit: MAX_HELLO as u64 }),
    }
}

#[cfg(test)]
mod tests;
