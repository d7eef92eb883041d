//! A network in memory, for tests: hosts with addresses, and pipes between them. Nothing waits for a real socket, so it works with tokio's paused time. A host can
//! [prove](MemTransport::proving) to have a key, as over a transport that authenticates both ends.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use darter_core::PublicKey;
use parking_lot::Mutex;
use tokio::io::{AsyncWrite, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::{Listener, PeerReader, PeerStream, PeerWriter, Transport};
use crate::{Result, WireError};

/// How many bytes a pipe holds before its writer waits.
const PIPE: usize = 256 * 1024;

/// Most connections that wait to be accepted.
const BACKLOG: usize = 64;

/// The network that its hosts share.
#[derive(Clone, Debug, Default)]
pub struct MemNetwork {
    book: Arc<Mutex<Book>>,
}

#[derive(Debug, Default)]
struct Book {
    listeners: HashMap<SocketAddr, Listening>,
    last_port: u16,
}

#[derive(Clone, Debug)]
struct Listening {
    backlog: mpsc::Sender<PeerStream>,
    proves: Option<PublicKey>,
}

impl Book {
    fn free_port(&mut self) -> u16 {
        self.last_port = self.last_port.checked_add(1).unwrap_or_default().max(10_000);
        self.last_port
    }
}

impl MemNetwork {
    /// A network without hosts.
    pub fn new() -> Self {
        Self::default()
    }

    /// The transport of the host with this address.
    pub fn host(&self, ip: impl Into<IpAddr>) -> MemTransport {
        MemTransport { book: Arc::clone(&self.book), ip: ip.into(), proves: None }
    }
}

/// One host's view of a [`MemNetwork`].
#[derive(Clone, Debug)]
pub struct MemTransport {
    book: Arc<Mutex<Book>>,
    ip: IpAddr,
    proves: Option<PublicKey>,
}

impl MemTransport {
    /// This host, which proves to its peers that it has `key`.
    pub const fn proving(mut self, key: PublicKey) -> Self {
        self.proves = Some(key);
        self
    }
}

#[async_trait]
impl Transport for MemTransport {
    async fn connect(&self, addr: &str) -> Result<PeerStream> {
        let failed = |source| WireError::Connect { addr: addr.to_owned(), source };
        let to: SocketAddr = addr.parse().map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        let (listening, from) = {
            let mut book = self.book.lock();
            let from = SocketAddr::new(self.ip, book.free_port());
            (book.listeners.get(&to).cloned(), from)
        };
        let Some(Listening { backlog, proves }) = listening else {
            return Err(failed(io::ErrorKind::ConnectionRefused.into()));
        };
        let (here, there) = tokio::io::duplex(PIPE);
        let refused = backlog.try_send(stream_of(there, from, self.proves)).is_err();
        if refused {
            return Err(failed(io::ErrorKind::ConnectionRefused.into()));
        }
        Ok(stream_of(here, to, proves))
    }

    async fn listen(&self, addr: &str) -> Result<Box<dyn Listener>> {
        let failed = |kind: io::ErrorKind| WireError::Listen { addr: addr.to_owned(), source: kind.into() };
        let mut local_addr: SocketAddr = addr.parse().map_err(|_| failed(io::ErrorKind::InvalidInput))?;
        let mut book = self.book.lock();
        if local_addr.port() == 0 {
            local_addr.set_port(book.free_port());
        }
        let reached_at = match local_addr.ip().is_unspecified() {
            true => SocketAddr::new(self.ip, local_addr.port()),
            false => local_addr,
        };
        if book.listeners.get(&reached_at).is_some_and(|listening| !listening.backlog.is_closed()) {
            return Err(failed(io::ErrorKind::AddrInUse));
        }
        let (backlog, receiver) = mpsc::channel(BACKLOG);
        book.listeners.insert(reached_at, Listening { backlog, proves: self.proves });
        Ok(Box::new(Accepting { backlog: tokio::sync::Mutex::new(receiver), local_addr }))
    }
}

struct Accepting {
    backlog: tokio::sync::Mutex<mpsc::Receiver<PeerStream>>,
    local_addr: SocketAddr,
}

#[async_trait]
impl Listener for Accepting {
    async fn accept(&self) -> Result<PeerStream> {
        self.backlog.lock().await.recv().await.ok_or(WireError::closed())
    }

    fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

fn stream_of(pipe: DuplexStream, peer_addr: SocketAddr, proven: Option<PublicKey>) -> PeerStream {
    let (reader, writer) = tokio::io::split(pipe);
    let stream = PeerStream::new(Box::new(reader), Box::new(MemWriter(writer)), peer_addr);
    match proven {
        Some(key) => stream.proven_by(key),
        None => stream,
    }
}

/// The writing half. When it is dropped, the other side reads the end, as with TCP; the pipe's own half would leave the pipe open.
struct MemWriter(WriteHalf<DuplexStream>);

impl Drop for MemWriter {
    fn drop(&mut self) {
        // A pipe shuts down at once or has broken already.
        let _ = Pin::new(&mut self.0).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }
}

impl PeerWriter for MemWriter {}

impl PeerReader for ReadHalf<DuplexStream> {}

impl AsyncWrite for MemWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
