//! Transports: the only place in Darter that opens or accepts connections between agents. So encryption will need one more [`Transport`], and no other change.
//!
//! A transport that authenticates the other end says which key that end has proved to have ([`PeerStream::proven`]). Plain TCP proves none. Both sides compare the id that a peer claims with that key
//! when they exchange prefaces ([`preface`](crate::preface)), so that nobody can claim the id of an agent without its key.
//!
//! A connection is a [`PeerStream`]: a reading and a writing half that can be used separately, since both kinds of channel read and write at the same time. The writing half can send bytes
//! of a file without copying them through the process.

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

/// Opens and accepts connections between agents.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Connects to `HOST:PORT`.
    ///
    /// # Errors
    /// [`WireError::Connect`](crate::WireError::Connect), also when the attempt takes too long.
    async fn connect(&self, addr: &str) -> Result<PeerStream>;

    /// Listens on `ADDR:PORT`; with port 0 the system chooses a free port.
    ///
    /// # Errors
    /// [`WireError::Listen`](crate::WireError::Listen).
    async fn listen(&self, addr: &str) -> Result<Box<dyn Listener>>;
}

/// Accepts peer connections on one address.
#[async_trait]
pub trait Listener: Send + Sync + 'static {
    /// The next connection. An error concerns one connection only; the listener goes on.
    ///
    /// # Errors
    /// [`WireError::Io`](crate::WireError::Io).
    async fn accept(&self) -> Result<PeerStream>;

    /// The address on which it listens, with the port that was chosen.
    fn local_addr(&self) -> SocketAddr;
}

/// One connection to a peer.
pub struct PeerStream {
    /// Bytes from the peer.
    pub reader: Box<dyn PeerReader>,
    /// Bytes to the peer. When it is dropped, the peer reads the end.
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

    /// The key that the other end has proved to have, if the transport authenticates it.
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

    /// The address of the connection's other end (not the one on which the peer listens).
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
    /// Wakes the reader only when `bytes` more have come, if the connection can do that: it saves wakeups. At least `bytes` must be
    /// due from the sender, or the reader sleeps for ever.
    fn expect(&mut self, bytes: u32) {
        let _ = bytes;
    }
}

/// Most bytes of a file that are sent without giving other tasks a turn.
const FILE_CHUNK: u64 = 256 * 1024;

/// The writing half of a connection.
#[async_trait]
pub trait PeerWriter: AsyncWrite + Send + Unpin {
    /// Writes all of `head`, after which more is written at once: a connection that can do so sends both in one packet.
    ///
    /// # Errors
    /// Those of writing.
    async fn write_head(&mut self, head: &[u8]) -> io::Result<()> {
        self.write_all(head).await
    }

    /// Limits to `bytes` the unsent bytes that wait in the connection; a writer that waits is woken when about half of them were sent. Does nothing if the
    /// connection has no such limit.
    fn hold_ahead(&mut self, bytes: u32) {
        let _ = bytes;
    }

    /// The rate at which the other end receives, in bytes per second, if the connection knows it.
    fn rate(&self) -> Option<u64> {
        None
    }

    /// Sends the bytes of `file` from `offset` to `end` in the cheapest way of this connection. `offset` is increased by the bytes that the
    /// connection has taken, and is right also if the future is dropped. This default reads the bytes on a blocking thread and
    /// writes them.
    ///
    /// # Errors
    /// Those of reading and writing; `InvalidData` if the file is too short, when some bytes may have been sent already.
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

/// The error for a file that is too short; it must not look like a connection that has ended.
fn too_short(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(io::ErrorKind::InvalidData, "the file is shorter than expected"),
        _ => error,
    }
}
