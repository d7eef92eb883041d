//! Parts of files in HTTP answers, sent by `sendfile(2)`: from the page cache into the socket, past this process.
//!
//! hyper takes bodies as memory. So a body that has a part of a file to give *promises* it to its connection's
//! [`Outlet`] and yields a slice of the same length of a *stand-in*: memory that is never sent. hyper queues that slice
//! like any other and hands it down in a vectored write, where [`OutletStream`] knows it by its address and sends the
//! promised part of the file in its place. A file system without `sendfile` is read and written instead.
//!
//! The alternative, a mapping of the file in the stand-in's place, would be right wherever it is touched. But it takes
//! unsafe code, a mapping for every answer, and lets a file that somebody cut short kill the process.
//!
//! Invariants:
//! - The stand-in's bytes never go out. A slice of it must lie exactly where the oldest promise says, else
//!   the connection is broken off; and what is written while promises are open is searched for the stand-in's mark, a
//!   random number made by each process, so a copy of it breaks the connection off too.
//! - Promises are kept in the order in which bodies made them, which is the order in which hyper writes.
//!
//! When a file can't be read, bytes of the answer are owed that nobody has: the connection breaks off, and the reader
//! sees an incomplete body. The callers that promise parts of files see to it that this is rare.

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

/// Most bytes of a file in one promise, and in one call of `sendfile`: more than hyper lets wait (400 KiB), and at most some
/// 100 µs of a worker's time while the pages are cached.
pub(crate) const MAX_PROMISE: u64 = 512 * 1024;

/// A shorter part is read instead of promised: a copy of fewer bytes of the stand-in might not hold its mark.
const MIN_PROMISE: usize = 2 * size_of::<Mark>();

/// Promises begin at different places of the stand-in, this many bytes apart, so that none can pass for another.
const STEP: usize = 64;
/// How many places there are.
const PLACES: usize = 1024;
/// Bytes that a part of a file is read in where it can't be sent.
const COPIED: usize = 64 * 1024;

type Mark = [u8; 32];

/// Memory of which slices are given instead of files: the mark, again and again.
static STAND_IN: LazyLock<Bytes> = LazyLock::new(|| {
    let mut mark = Mark::default();
    // A system that is too young to have random numbers gives a mark that tells less, of bytes no text has.
    if rustix::rand::getrandom(&mut mark[..], GetRandomFlags::NONBLOCK) != Ok(mark.len()) {
        mark = [0xfe; 32];
    }
    mark.repeat((PLACES * STEP + MAX_PROMISE as usize) / mark.len()).into()
});

/// The parts of files that the bodies of one connection have promised, in their order.
#[derive(Clone, Default)]
pub(crate) struct Outlet(Arc<Mutex<Promises>>);

#[derive(Default)]
struct Promises {
    open: VecDeque<Promise>,
    next_place: usize,
}

/// The part of a file that a slice of the stand-in stands for.
struct Promise {
    file: Arc<File>,
    offset: u64,
    /// The beginning of its slice of the stand-in, and the slice's length; both without the bytes that were sent already.
    place: usize,
    length: usize,
}

impl Outlet {
    /// Promises the part's first bytes, at most [`MAX_PROMISE`], and takes them off it. Its result belongs into a body of this
    /// connection, whole and in order: either a placeholder for the bytes or, if they are few, the bytes themselves.
    ///
    /// # Errors
    /// Those of reading the few.
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

/// A connection that keeps its outlet's promises.
pub(crate) struct OutletStream {
    stream: TcpStream,
    outlet: Outlet,
    /// Counts what goes out by `sendfile`, in bytes.
    sent: Counter,
}

impl OutletStream {
    pub(crate) fn new(stream: TcpStream, outlet: Outlet, sent: Counter) -> Self {
        Self { stream, outlet, sent }
    }

    /// Sends what the oldest promise says in place of `slice`, as far as the socket has room.
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

    /// Writes what stands in for nothing; `more` says that a file's bytes follow, which then share a segment with it.
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

    /// Does something to the socket as soon as it takes bytes.
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

/// Sends bytes of a file, once.
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

/// True if a slice lies in the stand-in.
fn stands_in(slice: &[u8]) -> bool {
    !slice.is_empty() && STAND_IN.as_ptr_range().contains(&slice.as_ptr())
}

/// True if bytes hold the stand-in's mark, as every copy of twice the mark's length does.
fn has_mark(bytes: &[u8]) -> bool {
    let (mark, _) = STAND_IN.split_at(size_of::<Mark>());
    bytes.windows(mark.len()).any(|window| window == mark)
}

fn astray() -> io::Error {
    io::Error::other("what stands in for a file went astray; breaking off before wrong bytes go out")
}

#[cfg(test)]
mod tests;
