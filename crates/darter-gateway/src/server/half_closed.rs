//! Clients that close their side of a connection once they have asked (`printf … | nc -N`), as HTTP allows: they are answered all the same.
//!
//! A client that gives up closes its connection, and the two look alike from here. They differ in time: a client that has only closed
//! its side does so with its request, one that gives up does so later. So the end of what a client says is kept from the server if it
//! comes right behind the request and before any of the answer went out. It is kept until the answer is sent, or until none of it went
//! out for a while; then a client is taken for gone, as it is at once in all other cases, so that nothing is done for nobody.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::seats::Seat;

/// How long behind its request a client closes its side that waits for the answer.
const CLOSES_WITHIN: Duration = Duration::from_millis(100);

/// How long such a client waits for more of its answer.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection that a client may have closed on its side.
pub(super) struct HalfClosed<S> {
    stream: S,
    seat: Arc<Seat>,
    /// When the last of the request came, until the answer begins.
    asked: Option<Instant>,
    /// The client's side is closed, and it waits for its answer.
    waits: bool,
    silence: Option<Pin<Box<Sleep>>>,
}

impl<S> HalfClosed<S> {
    pub(super) const fn new(stream: S, seat: Arc<Seat>) -> Self {
        Self { stream, seat, asked: None, waits: false, silence: None }
    }

    fn wrote(&mut self, written: usize) {
        if written > 0 {
            (self.asked, self.silence) = (None, None);
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
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.asked = Some(Instant::now());
            return Poll::Ready(Ok(()));
        }
        self.waits |= self.asked.is_some_and(|asked| asked.elapsed() < CLOSES_WITHIN);
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
