//! Plain TCP. Bytes of files are sent with `sendfile`, from the page cache to the socket.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use darter_core::ahead::MAX_AHEAD;
use darter_kernel::socket::{delivery_rate, set_receive_low_water, set_unsent_low_water};
use rustix::fs::sendfile;
use rustix::io::retry_on_intr;
use rustix::net::{SendFlags, send, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{FILE_CHUNK, Listener, PeerReader, PeerStream, PeerWriter, Transport};
use crate::{Result, WireError};

/// A reader that expects more bytes than this is woken before all have come, so that it reads while the kernel receives.
const MAX_EXPECTED: u32 = 256 * 1024;

/// The settings of the TCP transport.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// How long an attempt to connect may take.
    pub connect_timeout: Duration,
    /// How long a connection may be idle before the kernel asks the other end whether it is there.
    pub keepalive: Duration,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(3), keepalive: Duration::from_secs(15) }
    }
}

/// Peer connections over plain TCP.
#[derive(Clone, Debug, Default)]
pub struct TcpTransport {
    config: TcpConfig,
}

impl TcpTransport {
    /// A transport with these settings.
    pub const fn new(config: TcpConfig) -> Self {
        Self { config }
    }
}

#[async_trait]
impl Transport for TcpTransport {
    async fn connect(&self, addr: &str) -> Result<PeerStream> {
        let failed = |source| WireError::Connect { addr: addr.to_owned(), source };
        let attempt = timeout(self.config.connect_timeout, TcpStream::connect(addr));
        let stream = attempt.await.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)?;
        stream_of(stream, &self.config).map_err(failed)
    }

    async fn listen(&self, addr: &str) -> Result<Box<dyn Listener>> {
        let failed = |source| WireError::Listen { addr: addr.to_owned(), source };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        Ok(Box::new(Accepting { listener, local_addr, config: self.config.clone() }))
    }
}

struct Accepting {
    listener: TcpListener,
    local_addr: SocketAddr,
    config: TcpConfig,
}

#[async_trait]
impl Listener for Accepting {
    async fn accept(&self) -> Result<PeerStream> {
        let failed = |source| WireError::Io { doing: "accept a connection", source };
        let (stream, _) = self.listener.accept().await.map_err(failed)?;
        stream_of(stream, &self.config).map_err(failed)
    }

    fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

fn stream_of(stream: TcpStream, config: &TcpConfig) -> io::Result<PeerStream> {
    stream.set_nodelay(true)?;
    sockopt::set_tcp_keepidle(&stream, config.keepalive)?;
    sockopt::set_tcp_keepintvl(&stream, config.keepalive / 3)?;
    sockopt::set_tcp_keepcnt(&stream, 3)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    let (peer_addr, local_addr) = (stream.peer_addr()?, stream.local_addr()?);
    set_unsent_low_water(&stream, MAX_AHEAD)?;
    let (reader, writer) = stream.into_split();
    let stream = PeerStream::new(
        Box::new(TcpReader { half: reader, expected: 1, mark: 1 }),
        Box::new(TcpWriter(writer)),
        peer_addr,
    );
    Ok(stream.at(local_addr))
}

struct TcpReader {
    half: OwnedReadHalf,
    /// The bytes that the reader waits for.
    expected: u32,
    /// The socket's low-water mark. The mark matters only while a reader sleeps, so it is set then: bytes that have come are read without it.
    mark: u32,
}

impl PeerReader for TcpReader {
    fn expect(&mut self, bytes: u32) {
        self.expected = bytes.clamp(1, MAX_EXPECTED);
    }
}

impl AsyncRead for TcpReader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.half).poll_read(cx, buffer);
        // That many bytes may have come by now: then the kernel wakes this reader at once. Without a mark there are more wake-ups, and nothing worse.
        if read.is_pending()
            && self.mark != self.expected
            && set_receive_low_water(self.half.as_ref(), self.expected).is_ok()
        {
            self.mark = self.expected;
        }
        read
    }
}

struct TcpWriter(OwnedWriteHalf);

#[async_trait]
impl PeerWriter for TcpWriter {
    fn hold_ahead(&mut self, bytes: u32) {
        // A socket that is not told holds what it held.
        if let Err(error) = set_unsent_low_water(self.0.as_ref(), bytes) {
            tracing::debug!(%error, "cannot limit what waits in a socket");
        }
    }

    fn rate(&self) -> Option<u64> {
        delivery_rate(self.0.as_ref()).ok().flatten()
    }

    async fn write_head(&mut self, mut head: &[u8]) -> io::Result<()> {
        let stream: &TcpStream = self.0.as_ref();
        while !head.is_empty() {
            let send = || Ok(retry_on_intr(|| send(stream, head, SendFlags::MORE | SendFlags::NOSIGNAL))?);
            let sent = stream.async_io(Interest::WRITABLE, send).await?;
            head = &head[sent..];
        }
        Ok(())
    }

    async fn send_file(&mut self, file: &Arc<File>, offset: &mut u64, end: u64) -> io::Result<()> {
        let stream: &TcpStream = self.0.as_ref();
        while *offset < end {
            let chunk = usize::try_from((end - *offset).min(FILE_CHUNK)).expect("at most 256 KiB");
            let send = || Ok(retry_on_intr(|| sendfile(stream, file, Some(&mut *offset), chunk))?);
            if stream.async_io(Interest::WRITABLE, send).await? == 0 {
                return Err(super::too_short(io::ErrorKind::UnexpectedEof.into()));
            }
            // Pages that are not cached are read from the disk within the call: others get a turn in between.
            tokio::task::consume_budget().await;
        }
        Ok(())
    }
}

impl AsyncWrite for TcpWriter {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_mark_is_set_for_who_sleeps_and_not_for_what_is_there_already() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (here, there) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let ((half, _writer), mut there) = (here.unwrap().into_split(), there.unwrap().0);
        let mut reader = TcpReader { half, expected: 1, mark: 1 };
        there.write_all(&[7; 5000]).await.unwrap();
        while reader.half.peek(&mut [0; 5000]).await.unwrap() < 5000 {
            tokio::task::yield_now().await;
        }
        for bytes in [16, 3000, 16, 1968] {
            reader.expect(bytes);
            reader.read_exact(&mut vec![0; bytes as usize]).await.unwrap();
        }
        assert_eq!(reader.mark, 1, "nobody slept");
        reader.expect(3000);
        let sleeps = std::future::poll_fn(|cx| {
            let read = Pin::new(&mut reader).poll_read(cx, &mut ReadBuf::new(&mut [0; 1]));
            Poll::Ready(read.is_pending())
        });
        assert!(sleeps.await);
        assert_eq!(reader.mark, 3000);
        // Too few to wake anybody, until fewer are waited for.
        there.write_all(&[7; 100]).await.unwrap();
        reader.expect(16);
        let read = timeout(Duration::from_secs(60), reader.read_exact(&mut [0; 100])).await;
        read.expect("the kernel tells of what is there").unwrap();
    }
}
