//! Sends ranges of files in HTTP answers with `sendfile(2)`: from the page cache into the socket, without copying them through this process.
//!
//! hyper takes bodies only as memory. So a body that has a range of a file to send *promises* it to its connection's
//! [`Outlet`] and yields a slice of the same length of a *stand-in*: memory that is never sent. hyper queues that slice
//! like any other and hands it down in a vectored write, where [`OutletStream`] recognises it by its address and sends the
//! promised range of the file instead. On a file system without `sendfile`, the range is read and written instead.
//!
//! The alternative, a mapping of the file instead of the stand-in, would have the right bytes in any case. But it needs unsafe code and a mapping
//! for every answer, and a file that another process truncates would kill this one.
//!
//! Invariants:
//! - The stand-in's bytes are never sent. A slice of it must lie exactly where the oldest promise says, else
//!   the connection is closed; and whatever is written while promises are open is searched for the stand-in's mark, a
//!   random number made by each process, so that a copy of the stand-in closes the connection, too.
//! - Promises are kept in the order in which bodies made them, which is the order in which hyper writes.
//!
//! If a file can't be read, bytes of the answer are missing: the connection is closed, and the reader
//! sees an incomplete body. The callers that promise ranges of files make sure that this is rare.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use darter_core::ByteRange;
use darter_store::PieceFile;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use rustix::fs::sendfile;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::SendFlags;
use rustix::rand::GetRandomFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// Most bytes of a file in one promise, and in one call of `sendfile`: more than hyper queues (400 KiB), and at most about
/// 100 µs of a worker's time if the pages are cached.
pub(crate) const MAX_PROMISE: u64 = 512 * 1024;

/// A shorter range is read instead of promised: a copy of fewer bytes of the stand-in might not contain its mark.
const MIN_PROMISE: usize = 2 * size_of::<Mark>();

/// Promises begin at different offsets of the stand-in, this many bytes apart, so that none can be taken for another.
const STEP: usize = 64;
/// How many offsets there are.
const PLACES: usize = 1024;
/// How many bytes are read at a time if a file can't be sent.
const COPIED: usize = 64 * 1024;

type Mark = [u8; 32];

/// The memory from which slices are given in place of files: the mark, repeated.
static STAND_IN: LazyLock<Bytes> = LazyLock::new(|| {
    let mut mark = Mark::default();
    // If the system has no random numbers yet, the mark is a fixed one, of bytes that no text contains.
    if rustix::rand::getrandom(&mut mark[..], GetRandomFlags::NONBLOCK) != Ok(mark.len()) {
        mark = [0xfe; 32];
    }
    mark.repeat((PLACES * STEP + MAX_PROMISE as usize) / mark.len()).into()
});

/// The ranges of files that the bodies of one connection have promised, in order.
#[derive(Clone, Default)]
pub(crate) struct Outlet(Arc<Mutex<Promises>>);

#[derive(Default)]
struct Promises {
    open: VecDeque<Promise>,
    next_place: usize,
}

/// The range of a file that a slice of the stand-in represents.
struct Promise {
    file: Arc<File>,
    offset: u64,
    /// Where its slice of the stand-in begins, and the slice's length; without the bytes that were sent already.
    place: usize,
    length: usize,
}

impl Outlet {
    /// Promises the first bytes of `part`, at most [`MAX_PROMISE`], and removes them from it. The result has to be sent in a body of this
    /// connection, whole and in order: it is either a placeholder for the bytes or, if they are few, the bytes themselves.
    ///
    /// # Errors
    /// Reading the few bytes failed.
    pub(crate) fn promise(&self, part: &mut PieceFile) -> io::Result<Bytes> {
        let range = part.range;
        let length = range.len().min(MAX_PROMISE);
        part.range = ByteRange::new(range.start() + length, range.end());
        let length = usize::try_from(length).expect("at most half a MiB");
        if length < MIN_PROMISE {
            let mut bytes = vec![0; length];
            part.file.read_exact_at(&mut bytes, range.start())?;
            return Ok(bytes.into());
        }
        let mut promises = self.0.lock();
        let place = promises.next_place * STEP;
        promises.next_place = (promises.next_place + 1) % PLACES;
        promises.open.push_back(Promise { file: Arc::clone(&part.file), offset: range.start(), place, length });
        Ok(STAND_IN.slice(place..place + length))
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outlet({} promises)", self.0.lock().open.len())
    }
}

/// A connection that sends what its outlet has promised.
pub(crate) struct OutletStream {
    stream: TcpStream,
    outlet: Outlet,
    /// Counts bytes that are sent by `sendfile`.
    sent: Counter,
}

impl OutletStream {
    pub(crate) fn new(stream: TcpStream, outlet: Outlet, sent: Counter) -> Self {
        Self { stream, outlet, sent }
    }

    /// Sends the range of the oldest promise in place of `slice`, as far as the socket has room.
    fn poll_keep(&self, context: &mut Context<'_>, slice: &[u8]) -> Poll<io::Result<usize>> {
        let (file, offset) = {
            let promises = self.outlet.0.lock();
            let place = slice.as_ptr().addr() - STAND_IN.as_ptr().addr();
            match promises.open.front() {
                Some(promise) if (promise.place, promise.length) == (place, slice.len()) => {
                    (Arc::clone(&promise.file), promise.offset)
                }
                _ => return Poll::Ready(Err(astray())),
            }
        };
        let sent = ready!(self.poll_try(context, || send_part(&self.stream, &file, offset, slice.len())))?;
        let Sent { bytes, copied } = sent;
        if bytes == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a file is shorter than it was")));
        }
        if !copied {
            self.sent.inc_by(bytes as u64);
        }
        let mut promises = self.outlet.0.lock();
        if let Some(promise) = promises.open.front_mut() {
            promise.offset += bytes as u64;
            promise.place += bytes;
            promise.length -= bytes;
            if promise.length == 0 {
                promises.open.pop_front();
            }
        }
        Poll::Ready(Ok(bytes))
    }

    /// Writes ordinary bytes; `more` is true if a file's bytes follow, which then share a segment with them.
    fn poll_plain(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>], more: bool) -> Poll<io::Result<usize>> {
        if !self.outlet.0.lock().open.is_empty() && slices.iter().any(|slice| has_mark(slice)) {
            return Poll::Ready(Err(astray()));
        }
        match slices {
            [one] if more => {
                self.poll_try(context, || Ok(retry_on_intr(|| rustix::net::send(&self.stream, one, SendFlags::MORE))?))
            }
            _ => Pin::new(&mut self.stream).poll_write_vectored(context, slices),
        }
    }

    /// Tries `work` on the socket as soon as the socket accepts bytes.
    fn poll_try<T>(&self, context: &mut Context<'_>, work: impl Fn() -> io::Result<T>) -> Poll<io::Result<T>> {
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            match self.stream.try_io(Interest::WRITABLE, &work) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncRead for OutletStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for OutletStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let plain = slices.iter().position(|slice| stands_in(slice)).unwrap_or(slices.len());
        if slices[..plain].iter().all(|slice| slice.is_empty()) {
            return match slices.get(plain) {
                Some(slice) => self.poll_keep(context, slice),
                None => Poll::Ready(Ok(0)),
            };
        }
        self.poll_plain(context, &slices[..plain], plain < slices.len())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

struct Sent {
    bytes: usize,
    copied: bool,
}

/// Sends bytes of a file with a single call.
fn send_part(stream: &TcpStream, file: &File, offset: u64, length: usize) -> io::Result<Sent> {
    let mut at = offset;
    match retry_on_intr(|| sendfile(stream, file, Some(&mut at), length)) {
        Ok(bytes) => Ok(Sent { bytes, copied: false }),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            let mut buffer = vec![0; length.min(COPIED)];
            let read = file.read_at(&mut buffer, offset)?;
            Ok(Sent { bytes: stream.try_write(&buffer[..read])?, copied: true })
        }
        Err(error) => Err(error.into()),
    }
}

/// True if a slice lies inside the stand-in.
fn stands_in(slice: &[u8]) -> bool {
    !slice.is_empty() && STAND_IN.as_ptr_range().contains(&slice.as_ptr())
}

/// True if the bytes contain the stand-in's mark, as every copy of at least twice the mark's length does.
fn has_mark(bytes: &[u8]) -> bool {
    let (mark, _) = STAND_IN.split_at(size_of::<Mark>());
    bytes.windows(mark.len()).any(|window| window == mark)
}

fn astray() -> io::Error {
    io::Error::other(
        "a placeholder for a file's bytes is not where it was promised; closing the connection before wrong bytes are sent",
    )
}

#[cfg(test)]
mod tests;
