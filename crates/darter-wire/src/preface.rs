//! The exchange of [prefaces](darter_protocol::preface) with which every connection begins: who is there, and for what.
//!
//! The side that connected sends its preface first, so that a port scan learns nothing. If the two sides have no common version of the protocol, both know both ranges of versions by then, and each
//! says which side has to be upgraded. Before the accepting side closes such a connection, it reads what the other side still sends: if TCP closes a connection with unread bytes, the other side may lose the answer.
//!
//! An agent that claims another id than that of its proven key ([`PeerStream::proven`]) is refused.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use darter_protocol::preface::{
    HEAD_LENGTH, Head, OLDEST_FORM, decode_hello, encode, form_of, form_of_answer, hello_length,
};
use darter_protocol::{ConnectionKind, Hello, Versions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::error::is_cut;
use crate::{PeerStream, Result, Transport, WireError};

/// How long the other side may take to send its preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);

/// For how long, and how many, bytes of an agent of another version are read before the connection is closed.
const LINGER: (Duration, usize) = (Duration::from_millis(500), 64 * 1024);

/// A connection after the exchange of prefaces.
#[derive(Debug)]
pub struct Greeted {
    /// The connection's purpose.
    pub kind: ConnectionKind,
    /// The highest version of the protocol that both sides speak.
    pub version: u8,
    /// The peer's introduction, with its listening address completed.
    pub hello: Hello,
    /// The connection, past the preface.
    pub stream: PeerStream,
}

/// Connects to a node and exchanges prefaces.
///
/// # Errors
/// Those of [`Transport::connect`], [`WireError::NotDarter`], [`WireError::NoAnswer`], [`WireError::HungUp`],
/// [`WireError::Version`], [`WireError::Identity`], [`WireError::Oneself`], [`WireError::SameId`], and
/// [`WireError::Protocol`] for a malformed introduction.
pub async fn open(transport: &dyn Transport, addr: &str, kind: ConnectionKind, me: &Hello) -> Result<Greeted> {
    match open_in(form_of(me.versions), transport, addr, kind, me).await {
        Err(error) if me.versions.contains(OLDEST_FORM) && may_know_only_the_oldest(&error) => {
            open_in(OLDEST_FORM, transport, addr, kind, me).await
        }
        other => other,
    }
}

/// True if this may be the answer of an agent that knows no other form than the oldest. The answer is lost if that agent closed the connection with bytes
/// unread: then TCP resets it.
fn may_know_only_the_oldest(error: &WireError) -> bool {
    match error {
        WireError::HungUp { source, .. } => source.as_ref().is_none_or(is_cut),
        WireError::Version { theirs, .. } => *theirs == Versions::exactly(OLDEST_FORM),
        _ => false,
    }
}

async fn open_in(form: u8, transport: &dyn Transport, addr: &str, kind: ConnectionKind, me: &Hello) -> Result<Greeted> {
    let stream = transport.connect(addr).await?;
    let exchange = async {
        let mut stream = stream;
        stream.writer.write_all(&encode(form, kind, me)?).await.map_err(|error| hung_up(addr, Some(error)))?;
        let theirs = read_head(&mut stream, addr).await?;
        if theirs.form == OLDEST_FORM && form != OLDEST_FORM {
            let theirs = Versions::exactly(OLDEST_FORM);
            return Err(WireError::Version { addr: addr.to_owned(), ours: me.versions, theirs });
        }
        if me.versions.contains(theirs.form) && known(theirs.kind)? != kind {
            return Err(WireError::violation("an answer for another kind of connection"));
        }
        let (hello, version) = read_hello(&mut stream, addr, theirs, me).await?;
        meet(stream, addr, me, kind, hello, version)
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
        let theirs = read_head(&mut stream, &addr).await?;
        // Before judging: the other side should learn from this preface what is wrong between the two.
        let form = form_of_answer(me.versions, theirs.form);
        let answer = encode(form, ConnectionKind::from_number(theirs.kind).unwrap_or(ConnectionKind::Control), me)?;
        stream.writer.write_all(&answer).await.map_err(WireError::io("answer a preface"))?;
        let (hello, version) = match read_hello(&mut stream, &addr, theirs, me).await {
            Err(error @ WireError::Version { .. }) => {
                linger(stream).await;
                return Err(error);
            }
            read => read?,
        };
        let kind = known(theirs.kind)?;
        meet(stream, &addr, me, kind, hello, version)
    };
    timeout(PREFACE_TIMEOUT, exchange).await.unwrap_or_else(|_| Err(no_answer(&addr)))
}

fn not_darter(addr: &str) -> WireError {
    WireError::NotDarter { addr: addr.to_owned() }
}

fn hung_up(addr: &str, source: Option<io::Error>) -> WireError {
    WireError::HungUp { addr: addr.to_owned(), source }
}

fn no_answer(addr: &str) -> WireError {
    WireError::NoAnswer { addr: addr.to_owned(), after: PREFACE_TIMEOUT }
}

/// Reads the part with which the prefaces of all versions begin.
async fn read_head(stream: &mut PeerStream, addr: &str) -> Result<Head> {
    let mut head = [0; HEAD_LENGTH];
    let mut filled = 0;
    while filled < head.len() {
        match stream.reader.read(&mut head[filled..]).await {
            Ok(0) => return Err(hung_up(addr, None)),
            Err(error) => return Err(hung_up(addr, Some(error))),
            Ok(read) => filled += read,
        }
        if !Head::may_begin_with(&head[..filled]) {
            return Err(not_darter(addr));
        }
    }
    Head::decode(&head).ok_or_else(|| not_darter(addr))
}

/// Reads the peer's introduction, and finds the highest common version.
async fn read_hello(stream: &mut PeerStream, addr: &str, head: Head, me: &Hello) -> Result<(Hello, u8)> {
    let differs = |theirs| WireError::Version { addr: addr.to_owned(), ours: me.versions, theirs };
    if me.versions.contains(head.form) {
        known(head.kind)?;
    }
    match read_introduction(stream, head.form).await {
        Ok(hello) => match me.versions.common(hello.versions) {
            Some(version) => Ok((hello, version)),
            None => Err(differs(hello.versions)),
        },
        // In a version that nobody knows yet, anything may follow the form.
        Err(_) if !me.versions.contains(head.form) => Err(differs(Versions::exactly(head.form))),
        Err(error) => Err(error),
    }
}

/// Refuses an agent that claims an id that is not its own, or that has this agent's id.
fn meet(
    stream: PeerStream,
    addr: &str,
    me: &Hello,
    kind: ConnectionKind,
    mut hello: Hello,
    version: u8,
) -> Result<Greeted> {
    hello.listen = reachable(&hello.listen, stream.peer_addr());
    if let Some(proven) = stream.proven().map(|key| key.node())
        && proven != hello.node
    {
        return Err(WireError::Identity { addr: addr.to_owned(), claimed: hello.node, proven });
    }
    if hello.node == me.node {
        let tell_apart = hello.run != 0 && me.run != 0 && hello.run != me.run;
        return Err(match tell_apart {
            true => WireError::SameId { addr: addr.to_owned(), node: me.node, other: "this agent".to_owned() },
            false => WireError::Oneself { addr: addr.to_owned() },
        });
    }
    Ok(Greeted { kind, version, hello, stream })
}

/// Reads what an agent of another version still sends, so that it gets the answer before the connection ends.
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

async fn read_introduction(stream: &mut PeerStream, form: u8) -> Result<Hello> {
    let failed = || WireError::io("read a preface");
    let mut length = [0; 2];
    stream.reader.read_exact(&mut length).await.map_err(failed())?;
    let mut hello = vec![0; hello_length(length)?];
    stream.reader.read_exact(&mut hello).await.map_err(failed())?;
    Ok(decode_hello(form, &hello)?)
}

fn known(kind: u8) -> Result<ConnectionKind> {
    ConnectionKind::from_number(kind).ok_or(WireError::violation("an unknown kind of connection"))
}

/// Replaces an unspecified listening address by the address from which the connection comes.
fn reachable(listen: &str, from: SocketAddr) -> String {
    match listen.parse::<SocketAddr>() {
        Ok(addr) if addr.ip().is_unspecified() => SocketAddr::new(from.ip().to_canonical(), addr.port()).to_string(),
        _ => listen.to_owned(),
    }
}
