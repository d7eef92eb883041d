//! Supports clients that close their sending side after the request (`printf … | nc -N`), as HTTP allows: they still get their answer.
//!
//! A client that gives up closes its connection, and from here both look the same. They differ in time: a client that only closes
//! its sending side does so together with its request, and a client that gives up does so later. So the end of the client's side is hidden from the server if it
//! comes right after the request and before any of the answer was sent. The time runs from when the server first waited for more: a busy server may look late. It is hidden until the answer is complete, or until none of it could be sent
//! for a while; then the client counts as gone. In all other cases it counts as gone at once, so that no work is done for nothing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::seats::Seat;

/// How long after its request a client that waits for the answer may close its side.
const CLOSES_WITHIN: Duration = Duration::from_millis(100);

/// How long such a client waits for more of its answer.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// What has come since a request.
enum Asked {
    /// No request was read since an answer began.
    No,
    /// Its last bytes were read, and the connection was not looked at since: however long that takes, nothing shows when the client closed its side.
    Read,
    /// Then nothing more had come, at this time.
    Silent(Instant),
}

/// A connection whose client may have closed its sending side.
pub(super) struct HalfClosed<S> {
    stream: S,
    seat: Arc<Seat>,
    asked: Asked,
    /// True if the client has closed its side and waits for its answer.
    waits: bool,
    silence: Option<Pin<Box<Sleep>>>,
}

impl<S> HalfClosed<S> {
    pub(super) const fn new(stream: S, seat: Arc<Seat>) -> Self {
        Self { stream, seat, asked: Asked::No, waits: false, silence: None }
    }

    fn wrote(&mut self, written: usize) {
        if written > 0 {
            self.asked = Asked::No;
            // The read that waits for this is woken then, although nothing is being read meanwhile.
            if let Some(silence) = &mut self.silence {
                silence.as_mut().reset(Instant::now() + SILENCE_TIMEOUT);
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HalfClosed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) else {
            if matches!(self.asked, Asked::Read) {
                self.asked = Asked::Silent(Instant::now());
            }
            return Poll::Pending;
        };
        read?;
        if buffer.filled().len() > before {
            self.asked = Asked::Read;
            return Poll::Ready(Ok(()));
        }
        self.waits |= match self.asked {
            Asked::No => false,
            Asked::Read => true,
            Asked::Silent(since) => since.elapsed() < CLOSES_WITHIN,
        };
        if !self.waits || !self.seat.is_answered() {
            return Poll::Ready(Ok(()));
        }
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(SILENCE_TIMEOUT)));
        silence.as_mut().poll(context).map(Ok)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HalfClosed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices))?;
        self.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::advance;

    use super::super::seats::{Busy, Seats};
    use super::*;

    /// A client that has sent a request, the server's end of the connection, and the guard of a request in progress.
    async fn asked() -> (DuplexStream, HalfClosed<DuplexStream>, Busy) {
        let (mut client, port) = duplex(1024);
        let seat = Seats::new().seat().await;
        let busy = seat.request();
        let mut port = HalfClosed::new(port, seat);
        client.write_all(b"GET").await.unwrap();
        port.read_exact(&mut [0; 3]).await.unwrap();
        (client, port, busy)
    }

    /// The server reads nothing while it writes: the timeout for silence has to wake it.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_closes_its_side_with_its_request_is_there_until_it_gets_nothing_for_a_while() {
        for written in [&b""[..], b"200"] {
            let (mut client, mut port, _busy) = asked().await;
            client.shutdown().await.unwrap();
            let (mut polls, began) = (0, Instant::now());
            std::future::poll_fn(|context| {
                polls += 1;
                if polls > 1 {
                    return Poll::Ready(());
                }
                let mut bytes = [0];
                assert!(Pin::new(&mut port).poll_read(context, &mut ReadBuf::new(&mut bytes)).is_pending());
                assert!(written.is_empty() || Pin::new(&mut port).poll_write(context, written).is_ready());
                Poll::Pending
            })
            .await;
            assert_eq!(port.read(&mut [0]).await.unwrap(), 0, "it is gone");
            assert!((SILENCE_TIMEOUT..SILENCE_TIMEOUT * 2).contains(&began.elapsed()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_closed_before_the_server_looked_again_is_there_however_late_that_is() {
        let (mut client, mut port, _busy) = asked().await;
        client.shutdown().await.unwrap();
        advance(CLOSES_WITHIN * 10).await;
        assert!(futures_util::poll!(pin!(port.read(&mut [0]))).is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_closes_later_is_gone_at_once() {
        let (mut client, mut port, _busy) = asked().await;
        assert!(futures_util::poll!(pin!(port.read(&mut [0]))).is_pending(), "nothing more has come");
        advance(CLOSES_WITHIN * 2).await;
        client.shutdown().await.unwrap();
        let began = Instant::now();
        assert_eq!(port.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
