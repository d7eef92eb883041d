//! The first bytes of every connection: is this Darter, which version of it, what is the connection for, who is there.
//!
//! Both sides send the same form; the one that connected speaks first, so that whoever probes the port learns nothing:
//!
//! ```text
//! offset  size  field
//!      0     4  magic, "DRTR"
//!      4     1  protocol version, 1
//!      5     1  kind: 1 control channel, 2 data channel; the answer repeats it
//!      6     2  length of the hello, little-endian, at most 4096
//!      8     n  hello, in postcard's encoding: node (16 bytes), listen (text), place (four texts), role (varint),
//!               program (text); a text is its length as a varint, then UTF-8
//! ```
//!
//! The first six bytes are the same in every version of the protocol. Silence for five seconds, or anything else in
//! place of these bytes, means that it is not Darter.

use std::net::SocketAddr;
use std::time::Duration;

use darter_core::{NodeId, Place};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::{PeerStream, Result, Transport, WireError};

/// The version of the protocol spoken here.
pub const VERSION: u8 = 2;

const MAGIC: [u8; 4] = *b"DRTR";
const MAX_HELLO: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(5);

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
}

/// A connection whose other side introduced itself.
#[derive(Debug)]
pub struct Greeted {
    /// What the connection is for.
    pub kind: Kind,
    /// Who is there, with its listening address completed.
    pub hello: Hello,
    /// The connection, past the preface.
    pub stream: PeerStream,
}

/// Connects to a node and exchanges prefaces.
///
/// # Errors
/// Those of [`Transport::connect`], [`WireError::NotDarter`], [`WireError::Version`], [`WireError::Oneself`], and
/// [`WireError::Malformed`] or [`WireError::TooLong`] for a hello that makes no sense.
pub async fn open(transport: &dyn Transport, addr: &str, kind: Kind, me: &Hello) -> Result<Greeted> {
    let stream = transport.connect(addr).await?;
    let exchange = exchange(stream, addr, me, Some(kind));
    timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(not_darter(addr)))
}

/// Exchanges prefaces on a connection that was accepted.
///
/// # Errors
/// As [`open`].
pub async fn greet(stream: PeerStream, me: &Hello) -> Result<Greeted> {
    let addr = stream.peer_addr().to_string();
    let exchange = exchange(stream, &addr, me, None);
    timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(not_darter(&addr)))
}

fn not_darter(addr: &str) -> WireError {
    WireError::NotDarter { addr: addr.to_owned() }
}

/// `kind` is what this side connected for, or none if it accepted.
async fn exchange(mut stream: PeerStream, addr: &str, me: &Hello, kind: Option<Kind>) -> Result<Greeted> {
    // Whatever goes wrong before the other side proved to be Darter means that it is not.
    let unproven = |_| not_darter(addr);
    if let Some(kind) = kind {
        stream.writer.write_all(&encode(kind, me)?).await.map_err(unproven)?;
    }
    let mut magic = [0; 4];
    stream.reader.read_exact(&mut magic).await.map_err(unproven)?;
    if magic != MAGIC {
        return Err(not_darter(addr));
    }
    let mut versioned = [0; 2];
    stream.reader.read_exact(&mut versioned).await.map_err(unproven)?;
    let [theirs, their_kind] = versioned;
    let their_kind = kind_of(their_kind);
    if kind.is_none() {
        // Before judging theirs: the other side should learn from this preface what is wrong between the two.
        let answer = encode(their_kind.unwrap_or(Kind::Control), me)?;
        stream.writer.write_all(&answer).await.map_err(WireError::io("answer a preface"))?;
    }
    if theirs != VERSION {
        return Err(WireError::Version { addr: addr.to_owned(), ours: VERSION, theirs });
    }
    let their_kind = their_kind.ok_or(WireError::Violation { what: "an unknown kind of connection" })?;
    if kind.is_some_and(|kind| kind != their_kind) {
        return Err(WireError::Violation { what: "an answer for another kind of connection" });
    }
    let mut hello = read_hello(&mut stream).await?;
    if hello.node == me.node {
        return Err(WireError::Oneself { addr: addr.to_owned() });
    }
    hello.listen = reachable(&hello.listen, stream.peer_addr());
    Ok(Greeted { kind: their_kind, hello, stream })
}

async fn read_hello(stream: &mut PeerStream) -> Result<Hello> {
    let failed = || WireError::io("read a preface");
    let mut length = [0; 2];
    stream.reader.read_exact(&mut length).await.map_err(failed())?;
    let length = usize::from(u16::from_le_bytes(length));
    check_length(length)?;
    let mut hello = vec![0; length];
    stream.reader.read_exact(&mut hello).await.map_err(failed())?;
    postcard::from_bytes(&hello).map_err(|source| WireError::Malformed { what: "hello", source })
}

fn encode(kind: Kind, me: &Hello) -> Result<Vec<u8>> {
    let hello = postcard::to_stdvec(me).expect("a hello is plain data");
    let length = check_length(hello.len())?;
    let mut preface = Vec::with_capacity(8 + hello.len());
    preface.extend_from_slice(&MAGIC);
    preface.extend_from_slice(&[VERSION, kind as u8]);
    preface.extend_from_slice(&length.to_le_bytes());
    preface.extend_from_slice(&hello);
    Ok(preface)
}

fn check_length(length: usize) -> Result<u16> {
    match u16::try_from(length) {
        Ok(short) if length <= MAX_HELLO => Ok(short),
        _ => Err(WireError::TooLong { what: "hello", length: length as u64, limit: MAX_HELLO as u64 }),
    }
}

const fn kind_of(byte: u8) -> Option<Kind> {
    match byte {
        1 => Some(Kind::Control),
        2 => Some(Kind::Data),
        _ => None,
    }
}

/// Puts the address a connection comes from in place of an unspecified one.
fn reachable(listen: &str, from: SocketAddr) -> String {
    match listen.parse::<SocketAddr>() {
        Ok(addr) if addr.ip().is_unspecified() => SocketAddr::new(from.ip().to_canonical(), addr.port()).to_string(),
        _ => listen.to_owned(),
    }
}
