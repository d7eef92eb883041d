//! Transports: the only place in Darter that opens or accepts a peer connection, so that encryption takes one more [`Transport`] and no other change.
//!
//! A transport that authenticates the other end says which key that end has proved to have ([`PeerStream::proven`]). Plain TCP
//! proves none. A peer's claim about itself is compared with that key where prefaces are exchanged ([`preface`](crate::preface)),
//! on both sides: nobody can be called as another node is without that node's key.
//!
//! A connection is a [`PeerStream`]: two halves that live apart, because both kinds of channel read and write at
//! the same time. The writing half can send a file's bytes without passing them through the process.

pub mod cuts;
pub mod mem;
pub mod tcp;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use async_trait::async_trait;
use darter_core::PublicKey;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use crate::Result;

/// Makes and accepts peer connections.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Connects to `HOST:PORT`.
    ///
    /// # Errors
    /// [`WireError::Connect`](crate::WireError::Connect), also when the attempt takes too long.
    async fn connect(&self, addr: &str) -> Result<PeerStream>;

    /// Listens on `ADDR:PORT`; port 0 asks for a free one.
    ///
    /// # Errors
    /// [`WireError::Listen`](crate::WireError::Listen).
    async fn listen(&self, addr: &str) -> Result<Box<dyn Listener>>;
}

/// Accepts peer connections on one address.
#[async_trait]
pub trait Listener: Send + Sync + 'static {
    /// The next connection. An error is about that one connection; the listener lives on.
    ///
    /// # Errors
    /// [`WireError::Io`](crate::WireError::Io).
    async fn accept(&self) -> Result<PeerStream>;

    /// The address listened on, with its real port.
    fn local_addr(&self) -> SocketAddr;
}

/// One connection to a peer.
pub struct PeerStream {
    /// Bytes from the peer.
    pub reader: Box<dyn PeerReader>,
    /// Bytes to the peer. Dropping it tells the peer that nothing more comes.
    pub writer: Box<dyn PeerWriter>,
    peer_addr: SocketAddr,
    local_addr: Option<SocketAddr>,
    proven: Option<PublicKey>,
}

impl PeerStream {
    /// A connection of these halves.
    pub fn new(reader: Box<dyn PeerReader>, writer: Box<dyn PeerWriter>, peer_addr: SocketAddr) -> Self {
        Self { reader, writer, peer_addr, local_addr: None, proven: None }
    }

    /// This connection, whose other end has proved to have this key.
    pub const fn proven_by(mut self, key: PublicKey) -> Self {
        self.proven = Some(key);
        self
    }

    /// The key that the other end has proved to have, if the transport makes it prove one.
    pub const fn proven(&self) -> Option<PublicKey> {
        self.proven
    }

    /// This connection, with the address of this end.
    pub const fn at(mut self, local_addr: SocketAddr) -> Self {
        self.local_addr = Some(local_addr);
        self
    }

    /// True if the other end is on this host: it is at a loopback address, or at the address of this end.
    pub fn is_within_host(&self) -> bool {
        let peer = self.peer_addr.ip().to_canonical();
        peer.is_loopback() || self.local_addr.is_some_and(|local| local.ip().to_canonical() == peer)
    }

    /// The address of the other end of this very connection (not where the peer listens).
    pub const fn peer_addr(&self) -> SocketAddr {
        self.peer_addr
    }
}

impl std::fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PeerStream({})", self.peer_addr)
    }
}

/// The reading half of a connection.
pub trait PeerReader: AsyncRead + Send + Unpin {
    /// Asks that the reader be woken only when `bytes` more have come; a connection that can do so saves wakeups by it. The sender must
    /// owe as many, or the reader sleeps for ever.
    fn expect(&mut self, bytes: u32) {
        let _ = bytes;
    }
}

/// The most bytes of a file that are handed on without giving other tasks a turn.
const FILE_CHUNK: u64 = 256 * 1024;

/// The writing half of a connection.
#[async_trait]
pub trait PeerWriter: AsyncWrite + Send + Unpin {
    /// Writes all of `head`, behind which more follows at once: a connection that can sends both in one packet.
    ///
    /// # Errors
    /// Those of writing.
    async fn write_head(&mut self, head: &[u8]) -> io::Result<()> {
        self.write_all(head).await
    }

    /// Limits the bytes that wait in the connection and were never sent: a write takes no more than `bytes`, and a writer that waits is
    /// woken when about half of them are gone. A connection that can't limit them holds as many as it does.
    fn hold_ahead(&mut self, bytes: u32) {
        let _ = bytes;
    }

    /// The rate at which bytes arrive at the other end, in bytes per second, if the connection knows it.
    fn rate(&self) -> Option<u64> {
        None
    }

    /// Sends the bytes of `file` from `offset` to `end`, by the cheapest way this connection has. `offset` moves on with what the
    /// connection has taken, and is right also when the future is dropped. This default reads the bytes on a blocking thread and
    /// writes them.
    ///
    /// # Errors
    /// Those of reading and writing; `InvalidData` when the file ends too soon, some bytes may have gone out then.
    async fn send_file(&mut self, file: &Arc<File>, offset: &mut u64, end: u64) -> io::Result<()> {
        while *offset < end {
            let chunk = usize::try_from((end - *offset).min(FILE_CHUNK)).expect("at most 256 KiB");
            let (file, from) = (Arc::clone(file), *offset);
            let read = tokio::task::spawn_blocking(move || {
                let mut buffer = vec![0; chunk];
                file.read_exact_at(&mut buffer, from).map(|()| buffer)
            });
            let buffer = read.await.map_err(io::Error::other)?.map_err(too_short)?;
            let mut left = &buffer[..];
            while !left.is_empty() {
                let written = self.write(left).await?;
                if written == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                *offset += written as u64;
                left = &left[written..];
            }
        }
        Ok(())
    }
}

/// A file that ends too soon must not look like a connection that did.
fn too_short(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(io::ErrorKind::InvalidData, "the file is shorter than expected"),
        _ => error,
    }
}
