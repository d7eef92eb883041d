//! The first bytes of every connection: is this Darter, which version of it, what is the connection for, who is there.
//!
//! Both sides send the same form; the one that connected speaks first, so that whoever probes the port learns nothing:
//!
//! ```text
//! offset  size  field
//!      0     4  magic, "DRTR"
//!      4     1  protocol version, 3
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
//! agent ([`Message::since`](crate::Message::since)).
//!
//! An agent of a version that is not spoken here is told so by the answer, in the version of this one. Its bytes are
//! read away before the connection is closed: closed with bytes unread, TCP would take the answer back.

use std::net::SocketAddr;
use std::time::Duration;

use darter_core::{NodeId, Place};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::{PeerStream, Result, Transport, WireError};

/// The version of the protocol spoken here.
pub const VERSION: u8 = 3;

/// The oldest version spoken with agents that don't speak [`VERSION`] yet.
pub const OLDEST_VERSION: u8 = 2;

/// The first version whose hello tells the run.
const TELLS_RUN: u8 = 3;

const MAGIC: [u8; 4] = *b"DRTR";
const MAX_HELLO: usize = 4096;

/// How long the other side may take for its preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the bytes of an agent of another version are read away, and how many of them at most.
const LINGER: (Duration, usize) = (Duration::from_millis(500), 64 * 1024);

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

/// A connection whose other side introduced itself.
#[derive(Debug)]
pub struct Greeted {
    /// What the connection is for.
    pub kind: Kind,
    /// The version of the protocol that both sides speak.
    pub version: u8,
    /// Who is there, with its listening address completed.
    pub hello: Hello,
    /// The connection, past the preface.
    pub stream: PeerStream,
}

/// Connects to a node and exchanges prefaces.
///
/// # Errors
/// Those of [`Transport::connect`], [`WireError::NotDarter`], [`WireError::NoAnswer`], [`WireError::HungUp`],
/// [`WireError::Version`], [`WireError::Oneself`], [`WireError::SameId`], and [`WireError::Malformed`] or
/// [`WireError::TooLong`] for a hello that makes no sense.
pub async fn open(transport: &dyn Transport, addr: &str, kind: Kind, me: &Hello) -> Result<Greeted> {
    match open_in(VERSION, transport, addr, kind, me).await {
        // The answer of an older agent is lost where it hung up with bytes unread.
        Err(WireError::HungUp { .. } | WireError::Version { theirs: OLDEST_VERSION, .. }) => {
            open_in(OLDEST_VERSION, transport, addr, kind, me).await
        }
        other => other,
    }
}

async fn open_in(version: u8, transport: &dyn Transport, addr: &str, kind: Kind, me: &Hello) -> Result<Greeted> {
    let stream = transport.connect(addr).await?;
    let exchange = async {
        let mut stream = stream;
        stream.writer.write_all(&encode(version, kind, me)?).await.map_err(|_| hung_up(addr))?;
        let (theirs, their_kind) = read_head(&mut stream, addr).await?;
        if theirs != version {
            return Err(WireError::Version { addr: addr.to_owned(), ours: version, theirs });
        }
        if known(their_kind)? != kind {
            return Err(WireError::Violation { what: "an answer for another kind of connection" });
        }
        meet(stream, addr, me, version, kind).await
    };
    timeout(PREFACE_TIMEOUT, exchange).await.unwrap_or_else(|_| Err(no_answer(addr)))
}

/// Exchanges prefaces on a connection that was accepted.
///
/// # Errors
/// As [`open`].
pub async fn greet(stream: PeerStream, me: &Hello) -> Result<Greeted> {
    let addr = stream.peer_addr().to_string();
    let exchange = async {
        let mut stream = stream;
        let (theirs, their_kind) = read_head(&mut stream, &addr).await?;
        let is_spoken = (OLDEST_VERSION..=VERSION).contains(&theirs);
        let version = if is_spoken { theirs } else { VERSION };
        // Before judging: the other side should learn from this preface what is wrong between the two.
        let answer = encode(version, kind_of(their_kind).unwrap_or(Kind::Control), me)?;
        stream.writer.write_all(&answer).await.map_err(WireError::io("answer a preface"))?;
        if !is_spoken {
            linger(stream).await;
            return Err(WireError::Version { addr: addr.clone(), ours: VERSION, theirs });
        }
        let kind = known(their_kind)?;
        meet(stream, &addr, me, version, kind).await
    };
    timeout(PREFACE_TIMEOUT, exchange).await.unwrap_or_else(|_| Err(no_answer(&addr)))
}

fn not_darter(addr: &str) -> WireError {
    WireError::NotDarter { addr: addr.to_owned() }
}

fn hung_up(addr: &str) -> WireError {
    WireError::HungUp { addr: addr.to_owned() }
}

fn no_answer(addr: &str) -> WireError {
    WireError::NoAnswer { addr: addr.to_owned(), after: PREFACE_TIMEOUT }
}

/// Reads what every version begins with: the version and the kind of the connection.
async fn read_head(stream: &mut PeerStream, addr: &str) -> Result<(u8, u8)> {
    let mut head = [0; 6];
    let mut filled = 0;
    while filled < head.len() {
        match stream.reader.read(&mut head[filled..]).await {
            Ok(0) | Err(_) => return Err(hung_up(addr)),
            Ok(read) => filled += read,
        }
        let magic = &head[..filled.min(MAGIC.len())];
        if !MAGIC.starts_with(magic) {
            return Err(not_darter(addr));
        }
    }
    let [.., version, kind] = head;
    Ok((version, kind))
}

/// Reads who is there, once the version is settled.
async fn meet(mut stream: PeerStream, addr: &str, me: &Hello, version: u8, kind: Kind) -> Result<Greeted> {
    let mut hello = read_hello(&mut stream, version).await?;
    hello.listen = reachable(&hello.listen, stream.peer_addr());
    if hello.node == me.node {
        let tell_apart = hello.run != 0 && me.run != 0 && hello.run != me.run;
        return Err(match tell_apart {
            true => WireError::SameId { addr: addr.to_owned(), node: me.node, other: "this agent".to_owned() },
            false => WireError::Oneself { addr: addr.to_owned() },
        });
    }
    Ok(Greeted { kind, version, hello, stream })
}

/// Reads away what an agent of another version still sends, so that it gets the answer before the connection ends.
async fn linger(mut stream: PeerStream) {
    let (patience, most) = LINGER;
    let read_away = async {
        // An agent that is gone by now needs no answer.
        let _ = stream.writer.shutdown().await;
        let mut buffer = [0; 1024];
        let mut read = 0;
        while read < most
            && let Ok(more @ 1..) = stream.reader.read(&mut buffer).await
        {
            read += more;
        }
    };
    let _ = timeout(patience, read_away).await;
}

async fn read_hello(stream: &mut PeerStream, version: u8) -> Result<Hello> {
    let failed = || WireError::io("read a preface");
    let mut length = [0; 2];
    stream.reader.read_exact(&mut length).await.map_err(failed())?;
    let length = usize::from(u16::from_le_bytes(length));
    check_length(length)?;
    let mut hello = vec![0; length];
    stream.reader.read_exact(&mut hello).await.map_err(failed())?;
    let malformed = |source| WireError::Malformed { what: "hello", source };
    let (mut hello, rest) = postcard::take_from_bytes::<Hello>(&hello).map_err(malformed)?;
    if version >= TELLS_RUN {
        (hello.run, _) = postcard::take_from_bytes(rest).map_err(malformed)?;
    }
    Ok(hello)
}

fn encode(version: u8, kind: Kind, me: &Hello) -> Result<Vec<u8>> {
    let mut hello = postcard::to_stdvec(me).expect("a hello is plain data");
    if version >= TELLS_RUN {
        hello = postcard::to_extend(&me.run, hello).expect("a number is plain data");
    }
    let length = check_length(hello.len())?;
    let mut preface = Vec::with_capacity(8 + hello.len());
    preface.extend_from_slice(&MAGIC);
    preface.extend_from_slice(&[version, kind as u8]);
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

fn known(kind: u8) -> Result<Kind> {
    kind_of(kind).ok_or(WireError::Violation { what: "an unknown kind of connection" })
}

/// Puts the address a connection comes from in place of an unspecified one.
fn reachable(listen: &str, from: SocketAddr) -> String {
    match listen.parse::<SocketAddr>() {
        Ok(addr) if addr.ip().is_unspecified() => SocketAddr::new(from.ip().to_canonical(), addr.port()).to_string(),
        _ => listen.to_owned(),
    }
}
