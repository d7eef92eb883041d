//! Who is there: the exchange of [prefaces](darter_protocol::preface) that opens every connection.
//!
//! The side that connected speaks first, so that whoever probes the port learns nothing. An agent of a version that is not
//! spoken here is told so by the answer, and its bytes are read away before the connection is closed: closed with bytes
//! unread, TCP would take the answer back.

use std::net::SocketAddr;
use std::time::Duration;

use darter_protocol::preface::{HEAD_LENGTH, Head, OLDEST_VERSION, VERSION, decode_hello, encode, hello_length};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::{Hello, Kind, PeerStream, Result, Transport, WireError};

/// How long the other side may take for its preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the bytes of an agent of another version are read away, and how many of them at most.
const LINGER: (Duration, usize) = (Duration::from_millis(500), 64 * 1024);

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
        Err(WireError::Version { theirs, .. }) if (OLDEST_VERSION..VERSION).contains(&theirs) => {
            open_in(theirs, transport, addr, kind, me).await
        }
        Err(WireError::HungUp { .. }) => open_in(OLDEST_VERSION, transport, addr, kind, me).await,
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
        let answer = encode(version, Kind::from_number(their_kind).unwrap_or(Kind::Control), me)?;
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
    let mut head = [0; HEAD_LENGTH];
    let mut filled = 0;
    while filled < head.len() {
        match stream.reader.read(&mut head[filled..]).await {
            Ok(0) | Err(_) => return Err(hung_up(addr)),
            Ok(read) => filled += read,
        }
        if !Head::may_begin_with(&head[..filled]) {
            return Err(not_darter(addr));
        }
    }
    Head::decode(&head).map(|head| (head.version, head.kind)).ok_or_else(|| not_darter(addr))
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
    let mut hello = vec![0; hello_length(length)?];
    stream.reader.read_exact(&mut hello).await.map_err(failed())?;
    Ok(decode_hello(version, &hello)?)
}

fn known(kind: u8) -> Result<Kind> {
    Kind::from_number(kind).ok_or(WireError::Violation { what: "an unknown kind of connection" })
}

/// Puts the address a connection comes from in place of an unspecified one.
fn reachable(listen: &str, from: SocketAddr) -> String {
    match listen.parse::<SocketAddr>() {
        Ok(addr) if addr.ip().is_unspecified() => SocketAddr::new(from.ip().to_canonical(), addr.port()).to_string(),
        _ => listen.to_owned(),
    }
}
