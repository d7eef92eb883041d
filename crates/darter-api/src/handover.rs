//! How a daemon hands a blob to `darter get` without moving its bytes: over the administration socket goes a descriptor of
//! the blob's file, then word of which parts of it are verified. The receiver shares, links or copies them as its file
//! system allows. [`Sender`] and [`Receiver`] are the two ends.
//!
//! `POST /v1/get` with `Connection: upgrade` and `Upgrade: darter-file` is answered by 101. The client then sends one byte,
//! [`READY`], which says that from now on it reads with room for descriptors. Frames of 17 bytes follow:
//!
//! | kind | a | b | then |
//! |---|---|---|---|
//! | 1 file | 0 | 0 | a descriptor, read-only, travels with the frame |
//! | 2 range | first byte | one past the last | these bytes of the last file are verified, at the blob's own offsets |
//! | 3 bytes | count | their place, see below | `count` bytes |
//! | 4 end | bytes in all | count, see below | `count` bytes of JSON: an array of [`Checked`] |
//! | 5 failed | count | 1 if the content changed and may be asked for again, else 0 | `count` bytes of UTF-8 that say why, and frame 7 |
//! | 6 anew | count | 0 | `count` bytes of JSON, an [`Anew`]: what came is void, everything is handed over anew |
//! | 7 problem | count | 0 | `count` bytes of JSON, a [`Problem`]: the same as `failed`, and whose fault it is. An older daemon ends before it |
//!
//! `kind` is one byte; `a` and `b` are 64-bit little-endian numbers. A connection that
//! ends without `end` or `failed` is a daemon that died.
//!
//! # The order
//!
//! A request with the header [`ORDER_HEADER`] says in which order it wants the parts, and is answered with the same header by a
//! daemon that understands it:
//!
//! - `in-order`: in order and without gaps, as a pipe needs them;
//! - `any-order`: as pieces become true. Parts may come again, when a piece was found damaged meanwhile: the last word counts.
//!   At the `end`, the parts are all bytes.
//!
//! Releases without that header know frames 1 to 5, give and want parts in order, `bytes` without a place (`b` is 0) and `end`
//! without a list. That is what they are given, and how they are understood.
//!
//! The descriptor is opened anew for reading: the daemon's own could be written to. The program that gets it may read
//! what the daemon would have sent, and nothing else.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use darter_core::{BlobId, ByteRange};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use crate::answers::{Checked, Problem};
use crate::descriptors::{read_only, receive, send_with};

/// The value of the `Upgrade` header.
pub const PROTOCOL: &str = "darter-file";

/// The header that says in which order parts are wanted, and come.
pub const ORDER_HEADER: &str = "darter-order";

/// The byte by which a client says that it is ready for descriptors.
pub const READY: u8 = b'+';

/// The longest text or run of bytes that a frame may have.
const MAX_INLINE: u64 = 16 << 20;

/// Bytes of a file that are read and sent at a time.
const COPIED: u64 = 1 << 20;

const FRAME: usize = 17;

/// Bytes that are received at a time: some frames.
const RECEIVED: usize = 64 * FRAME;

const FILE: u8 = 1;
const RANGE: u8 = 2;
const BYTES: u8 = 3;
const END: u8 = 4;
const FAILED: u8 = 5;
const ANEW: u8 = 6;
const PROBLEM: u8 = 7;

/// The order in which a blob's parts are handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From the first byte to the last.
    InOrder,
    /// As pieces become true; some may come again.
    Any,
}

/// The start of a handover from the beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anew {
    /// The blob.
    pub blob: BlobId,
    /// Its length, if known.
    pub length: Option<u64>,
    /// When it was last modified, as the origin writes it.
    pub modified: Option<String>,
}

/// One message to the receiver of a handover.
#[derive(Debug)]
pub enum Handed {
    /// Verified bytes at this place of the file.
    Range(Arc<File>, ByteRange),
    /// Verified bytes, and their place in the blob.
    Bytes(u64, Bytes),
    /// All bytes before are void.
    Anew(Anew),
    /// That was all.
    End {
        /// The blob's length.
        length: u64,
        /// The digests that were checked.
        checked: Vec<Checked>,
    },
    /// The daemon could not go on, and why.
    Failed(Problem),
    /// The content changed at its origin while it was read, as this says: what came is of a former version.
    Changed(String),
}

impl Order {
    /// As it stands in the header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InOrder => "in-order",
            Self::Any => "any-order",
        }
    }

    /// The order of this name.
    pub fn named(name: &[u8]) -> Option<Self> {
        [Self::InOrder, Self::Any].into_iter().find(|order| order.name().as_bytes() == name)
    }
}

/// The sending side, on a connection whose other end has said [`READY`].
#[derive(Debug)]
pub struct Sender {
    stream: UnixStream,
    /// False for a client that did not say which order it wants: it knows nothing of places and digests, and its parts have to come in
    /// order.
    tells: bool,
    /// The file whose descriptor went last.
    sent: Option<Arc<File>>,
    /// Frames of ranges that have not gone out yet.
    waiting: Vec<u8>,
}

impl Sender {
    /// Takes a connection. `tells` says whether the request had [`ORDER_HEADER`].
    pub const fn new(stream: UnixStream, tells: bool) -> Self {
        Self { stream, tells, sent: None, waiting: Vec::new() }
    }

    /// These bytes of the file are verified; the file's descriptor goes first, if it did not go already. If the file can't be opened anew (without
    /// /proc, or when no descriptor is left), its bytes go instead. This goes out with the next other message, or by [`flush`](Self::flush).
    ///
    /// # Errors
    /// When the receiver is gone, or the file can't be read.
    pub async fn range(&mut self, file: &Arc<File>, range: ByteRange) -> io::Result<()> {
        if !self.sent.as_ref().is_some_and(|sent| Arc::ptr_eq(sent, file)) {
            let Ok(opened) = read_only(file) else { return self.bytes_of(file, range).await };
            self.flush().await?;
            send_with(&self.stream, &frame(FILE, 0, 0), &opened).await?;
            self.sent = Some(Arc::clone(file));
        }
        self.waiting.extend_from_slice(&frame(RANGE, range.start(), range.end()));
        Ok(())
    }

    /// Sends the ranges that have not gone out yet.
    ///
    /// # Errors
    /// When the receiver is gone.
    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.waiting.is_empty() {
            self.stream.write_all(&self.waiting).await?;
            self.waiting.clear();
        }
        Ok(())
    }

    /// Sends a frame behind those that wait.
    async fn say(&mut self, frame: &[u8]) -> io::Result<()> {
        self.waiting.extend_from_slice(frame);
        self.flush().await
    }

    /// Sends the bytes of a range of a file.
    async fn bytes_of(&mut self, file: &Arc<File>, range: ByteRange) -> io::Result<()> {
        let mut at = range.start();
        while at < range.end() {
            let count = COPIED.min(range.end() - at);
            let (file, mut buffer) = (Arc::clone(file), vec![0; usize::try_from(count).map_err(io::Error::other)?]);
            let read = tokio::task::spawn_blocking(move || file.read_exact_at(&mut buffer, at).map(|()| buffer));
            let buffer = read.await.map_err(io::Error::other)??;
            self.bytes(at, &buffer).await?;
            at += count;
        }
        Ok(())
    }

    /// These bytes are verified, and their place in the blob is `at`.
    ///
    /// # Errors
    /// When the receiver is gone.
    pub async fn bytes(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let place = if self.tells { at } else { 0 };
        self.say(&frame(BYTES, bytes.len() as u64, place)).await?;
        self.stream.write_all(bytes).await
    }

    /// Declares all bytes before void.
    ///
    /// # Errors
    /// When the receiver is gone.
    pub async fn anew(&mut self, anew: &Anew) -> io::Result<()> {
        self.sent = None;
        let anew = serde_json::to_vec(anew)?;
        self.say(&frame(ANEW, anew.len() as u64, 0)).await?;
        self.stream.write_all(&anew).await
    }

    /// That was all: the blob has this length, and these of its digests were checked.
    ///
    /// # Errors
    /// When the receiver is gone.
    pub async fn end(mut self, length: u64, checked: &[Checked]) -> io::Result<()> {
        let checked = if self.tells { serde_json::to_vec(checked)? } else { Vec::new() };
        self.say(&frame(END, length, checked.len() as u64)).await?;
        self.stream.write_all(&checked).await
    }

    /// The blob can't be handed over; `changed` if it is another by now and may be asked for again.
    ///
    /// # Errors
    /// When the receiver is gone.
    pub async fn failed(mut self, problem: &Problem, changed: bool) -> io::Result<()> {
        let (reason, told) = (problem.error.as_bytes(), serde_json::to_vec(problem)?);
        let mut last = frame(FAILED, reason.len() as u64, u64::from(changed)).to_vec();
        last.extend_from_slice(reason);
        last.extend_from_slice(&frame(PROBLEM, told.len() as u64, 0));
        last.extend_from_slice(&told);
        self.say(&last).await
    }
}

/// The receiving side.
#[derive(Debug)]
pub struct Receiver {
    stream: UnixStream,
    /// True if the daemon tells the places of bytes: it understood the order that was asked for.
    tells: bool,
    file: Option<Arc<File>>,
    /// One past the last byte that came.
    at: u64,
    /// The bytes that were received last, how many of them were understood, and the descriptor that came with its last frame.
    received: Vec<u8>,
    understood: usize,
    descriptor: Option<OwnedFd>,
}

impl Receiver {
    /// Takes a connection that was upgraded, and says that it is ready. `tells` says whether the answer had [`ORDER_HEADER`].
    ///
    /// # Errors
    /// When the daemon is gone.
    pub async fn begin(mut stream: UnixStream, tells: bool) -> io::Result<Self> {
        stream.write_all(&[READY]).await?;
        let received = Vec::new();
        Ok(Self { stream, tells, file: None, at: 0, received, understood: 0, descriptor: None })
    }

    /// Receives the next message.
    ///
    /// # Errors
    /// When the daemon went away, or says what nobody understands.
    pub async fn next(&mut self) -> io::Result<Handed> {
        loop {
            let mut head = [0; FRAME];
            self.fill(&mut head).await?;
            let (a, b) = (number(&head[1..9]), number(&head[9..17]));
            match head[0] {
                FILE => {
                    let file = self.descriptor.take().ok_or_else(|| invalid("a file without its descriptor"))?;
                    self.file = Some(Arc::new(file.into()));
                }
                RANGE if a <= b => {
                    let file = self.file.clone().ok_or_else(|| invalid("a part of no file"))?;
                    self.at = b;
                    return Ok(Handed::Range(file, ByteRange::new(a, b)));
                }
                BYTES if a <= MAX_INLINE => {
                    let at = if self.tells { b } else { self.at };
                    self.at = at.checked_add(a).ok_or_else(|| invalid("bytes past all ends"))?;
                    return Ok(Handed::Bytes(at, self.inline(a).await?.into()));
                }
                ANEW if a <= MAX_INLINE => {
                    (self.file, self.at) = (None, 0);
                    return Ok(Handed::Anew(self.json(a).await?));
                }
                END if b <= MAX_INLINE => {
                    let checked = if b > 0 { self.json(b).await? } else { Vec::new() };
                    return Ok(Handed::End { length: a, checked });
                }
                FAILED if a <= MAX_INLINE => {
                    let reason = self.inline(a).await?;
                    let reason = String::from_utf8_lossy(&reason).into_owned();
                    return Ok(if b == 0 {
                        Handed::Failed(self.problem(reason).await)
                    } else {
                        Handed::Changed(reason)
                    });
                }
                _ => return Err(invalid("an unknown frame")),
            }
        }
    }

    /// The problem that follows its text, if the daemon tells.
    async fn problem(&mut self, error: String) -> Problem {
        let mut head = [0; FRAME];
        let told = match self.fill(&mut head).await {
            Ok(_) if head[0] == PROBLEM && number(&head[1..9]) <= MAX_INLINE => {
                self.json(number(&head[1..9])).await.ok()
            }
            _ => None,
        };
        told.unwrap_or(Problem { error, fault: None, retry: None, retry_after_seconds: None })
    }

    async fn inline(&mut self, bytes: u64) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        self.fill(&mut buffer).await?;
        Ok(buffer)
    }

    /// Fills `into`. Short messages are received several at a time, long ones straight into their place.
    async fn fill(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            if self.understood == self.received.len() {
                if into.len() >= RECEIVED {
                    let bytes = self.receive(into).await?;
                    into = &mut into[bytes..];
                    continue;
                }
                let mut buffer = std::mem::take(&mut self.received);
                self.understood = 0;
                buffer.resize(RECEIVED, 0);
                let bytes = self.receive(&mut buffer).await?;
                buffer.truncate(bytes);
                self.received = buffer;
            }
            let there = &self.received[self.understood..];
            let (now, later) = into.split_at_mut(there.len().min(into.len()));
            now.copy_from_slice(&there[..now.len()]);
            self.understood += now.len();
            into = later;
        }
        Ok(())
    }

    /// Receives some bytes. The kernel ends what it gives at a frame that came with a descriptor: it is the last one's.
    async fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (bytes, descriptor) = receive(&self.stream, into).await?;
        self.descriptor = descriptor.or(self.descriptor.take());
        Ok(bytes)
    }

    async fn json<T: DeserializeOwned>(&mut self, bytes: u64) -> io::Result<T> {
        Ok(serde_json::from_slice(&self.inline(bytes).await?)?)
    }
}

fn frame(kind: u8, a: u64, b: u64) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[0] = kind;
    frame[1..9].copy_from_slice(&a.to_le_bytes());
    frame[9..].copy_from_slice(&b.to_le_bytes());
    frame
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn ranges_go_out_together_and_are_received_together() {
        const RANGES: u64 = 40;
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut receiver = Receiver::begin(ours, true).await.unwrap();
        theirs.readable().await.unwrap();
        assert_eq!(theirs.try_read(&mut [0]).unwrap(), 1);
        let (file, mut sender) = (Arc::new(tempfile::tempfile().unwrap()), Sender::new(theirs, true));
        for at in 0..RANGES {
            sender.range(&file, ByteRange::new(at, at + 1)).await.unwrap();
        }
        {
            let mut first = std::pin::pin!(receiver.next());
            let waits = std::future::poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_pending())).await;
            assert!(waits, "the file alone says nothing");
            sender.flush().await.unwrap();
            assert!(matches!(first.await.unwrap(), Handed::Range(_, range) if range == ByteRange::new(0, 1)));
        }
        let left = receiver.stream.try_read(&mut [0]).unwrap_err();
        assert_eq!(left.kind(), io::ErrorKind::WouldBlock, "one call received them all");
        // Another file's descriptor comes behind what was said of the first.
        let other = Arc::new(tempfile::tempfile().unwrap());
        sender.range(&other, ByteRange::new(7, 9)).await.unwrap();
        sender.bytes(9, b"abc").await.unwrap();
        let mut first = None;
        for at in 1..RANGES {
            let handed = receiver.next().await.unwrap();
            let Handed::Range(of, range) = handed else { panic!("{handed:?}") };
            assert_eq!(range, ByteRange::new(at, at + 1));
            first = Some(of);
        }
        let handed = receiver.next().await.unwrap();
        let Handed::Range(second, range) = handed else { panic!("{handed:?}") };
        assert!(range == ByteRange::new(7, 9) && !Arc::ptr_eq(&first.unwrap(), &second));
        assert!(matches!(receiver.next().await.unwrap(), Handed::Bytes(9, bytes) if &bytes[..] == b"abc"));
    }

    #[tokio::test]
    async fn a_file_that_can_not_be_opened_anew_comes_as_bytes_in_their_places() {
        let content: Vec<u8> = (0..COPIED as usize + 10).map(|at| at as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let (file, end) = (Arc::new(file), content.len() as u64);
        for tells in [true, false] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut receiver = Receiver::begin(ours, tells).await.unwrap();
            let file = Arc::clone(&file);
            let sending = tokio::spawn(async move {
                theirs.readable().await.unwrap();
                assert_eq!(theirs.try_read(&mut [0]).unwrap(), 1);
                let mut sender = Sender::new(theirs, tells);
                sender.bytes_of(&file, ByteRange::new(0, end - 4)).await.unwrap();
                // By then there are descriptors again.
                sender.range(&file, ByteRange::new(end - 4, end)).await.unwrap();
                sender.end(end, &[]).await.unwrap();
            });
            let mut came = Vec::new();
            loop {
                match receiver.next().await.unwrap() {
                    Handed::Bytes(at, bytes) => {
                        assert_eq!(at, came.len() as u64);
                        came.extend_from_slice(&bytes);
                    }
                    Handed::Range(file, range) => {
                        let mut bytes = vec![0; range.len() as usize];
                        file.read_exact_at(&mut bytes, range.start()).unwrap();
                        came.extend_from_slice(&bytes);
                    }
                    Handed::End { length, .. } => break assert_eq!(length, end),
                    other => panic!("{other:?}"),
                }
            }
            sending.await.unwrap();
            assert!(came == content, "{tells}");
        }
    }
}
