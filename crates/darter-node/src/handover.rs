//! How a daemon hands a blob to `darter get` without moving its bytes: over the administration socket goes a descriptor of
//! the blob's file, then word of which parts of it are verified. The receiver shares, links or copies them as its file
//! system allows.
//!
//! `POST /v1/get` with `Connection: upgrade` and `Upgrade: darter-file` is answered by 101. The client then sends one byte,
//! [`READY`], which says that from now on it reads with room for descriptors. What follows are frames of 17 bytes:
//!
//! | kind | a | b | then |
//! |---|---|---|---|
//! | 1 file | 0 | 0 | a descriptor, read-only, travels with the frame |
//! | 2 range | first byte | one past the last | these bytes of the last file are verified, at the blob's own offsets |
//! | 3 bytes | count | 0 | so many bytes, which follow those before |
//! | 4 end | bytes in all | 0 | nothing |
//! | 5 failed | count | 1 if the content changed and may be asked for again, else 0 | so many bytes of UTF-8 that say why |
//!
//! `kind` is one byte; `a` and `b` are 64-bit little-endian numbers. Parts come in order and without gaps. A connection that
//! ends without `end` or `failed` is a daemon that died.
//!
//! The descriptor is opened anew for reading: the daemon's own could be written to. Whoever gets it may read what the
//! daemon would have sent, and nothing else.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use darter_core::ByteRange;
use futures_util::{Stream, StreamExt as _};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

use crate::error::FetchError;
use crate::transfer::stream::Part;

/// The value of the `Upgrade` header.
pub const PROTOCOL: &str = "darter-file";

/// The byte by which a client says that it is ready for descriptors.
pub const READY: u8 = b'+';

/// The longest `bytes` or `failed` frame that is believed.
const MAX_INLINE: u64 = 16 << 20;

const FRAME: usize = 17;

const FILE: u8 = 1;
const RANGE: u8 = 2;
const BYTES: u8 = 3;
const END: u8 = 4;
const FAILED: u8 = 5;

/// What a receiver gets.
#[derive(Debug)]
pub enum Handed {
    /// Verified bytes at this place of the file.
    Range(Arc<File>, ByteRange),
    /// Verified bytes that follow those before.
    Bytes(Bytes),
    /// That was all: the blob's length.
    End(u64),
    /// The daemon could not go on, and why.
    Failed(String),
    /// The content changed at its origin while it was read, as this says: what came is of a former version.
    Changed(String),
}

/// Sends verified parts until their end. The caller has seen [`READY`].
pub(crate) async fn send(
    mut stream: UnixStream,
    mut parts: impl Stream<Item = Result<Part, FetchError>> + Unpin,
) -> io::Result<()> {
    let mut sent: Option<Arc<File>> = None;
    let mut at = 0;
    while let Some(part) = parts.next().await {
        match part {
            Ok(Part::File(part)) => {
                if !sent.as_ref().is_some_and(|file| Arc::ptr_eq(file, &part.file)) {
                    send_file(&stream, &read_only(&part.file)?).await?;
                    sent = Some(Arc::clone(&part.file));
                }
                at = part.range.end();
                stream.write_all(&frame(RANGE, part.range.start(), at)).await?;
            }
            Ok(Part::Bytes(bytes)) => {
                at += bytes.len() as u64;
                stream.write_all(&frame(BYTES, bytes.len() as u64, 0)).await?;
                stream.write_all(&bytes).await?;
            }
            Err(error) => {
                let reason = error.to_string();
                stream.write_all(&frame(FAILED, reason.len() as u64, u64::from(error.is_changed()))).await?;
                return stream.write_all(reason.as_bytes()).await;
            }
        }
    }
    stream.write_all(&frame(END, at, 0)).await
}

/// The same file, open for reading only and with a position of its own.
fn read_only(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

async fn send_file(stream: &UnixStream, file: &File) -> io::Result<()> {
    let frame = frame(FILE, 0, 0);
    let sent = stream
        .async_io(Interest::WRITABLE, || {
            let descriptors = [file.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
            Ok(sendmsg(stream, &[IoSlice::new(&frame)], &mut control, SendFlags::NOSIGNAL)?)
        })
        .await?;
    // The descriptor went with the first byte; a socket's buffer takes so few bytes whole or not at all.
    if sent == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// The receiving side.
#[derive(Debug)]
pub struct Receiver {
    stream: UnixStream,
    file: Option<Arc<File>>,
}

impl Receiver {
    /// Takes a connection that was upgraded, and says that it is ready.
    ///
    /// # Errors
    /// When the daemon is gone.
    pub async fn begin(mut stream: UnixStream) -> io::Result<Self> {
        stream.write_all(&[READY]).await?;
        Ok(Self { stream, file: None })
    }

    /// What comes next.
    ///
    /// # Errors
    /// When the daemon went away, or says what nobody understands.
    pub async fn next(&mut self) -> io::Result<Handed> {
        loop {
            let mut head = [0; FRAME];
            let descriptor = self.fill(&mut head).await?;
            let (a, b) = (number(&head[1..9]), number(&head[9..17]));
            match head[0] {
                FILE => {
                    let file = descriptor.ok_or_else(|| invalid("a file without its descriptor"))?;
                    self.file = Some(Arc::new(file.into()));
                }
                RANGE if a <= b => {
                    let file = self.file.clone().ok_or_else(|| invalid("a part of no file"))?;
                    return Ok(Handed::Range(file, ByteRange::new(a, b)));
                }
                BYTES if a <= MAX_INLINE => return Ok(Handed::Bytes(self.inline(a).await?.into())),
                END => return Ok(Handed::End(a)),
                FAILED if a <= MAX_INLINE => {
                    let reason = self.inline(a).await?;
                    let reason = String::from_utf8_lossy(&reason).into_owned();
                    return Ok(if b == 0 { Handed::Failed(reason) } else { Handed::Changed(reason) });
                }
                _ => return Err(invalid("an unknown frame")),
            }
        }
    }

    async fn inline(&mut self, bytes: u64) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        self.fill(&mut buffer).await?;
        Ok(buffer)
    }

    /// Fills `buffer`, and returns the descriptor that came with it.
    async fn fill(&mut self, buffer: &mut [u8]) -> io::Result<Option<OwnedFd>> {
        let (mut filled, mut found) = (0, None);
        while filled < buffer.len() {
            let rest = &mut buffer[filled..];
            let (bytes, descriptor) = self
                .stream
                .async_io(Interest::READABLE, || {
                    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                    let mut control = RecvAncillaryBuffer::new(&mut space);
                    let mut vectors = [IoSliceMut::new(rest)];
                    let got = recvmsg(&self.stream, &mut vectors, &mut control, RecvFlags::CMSG_CLOEXEC)?;
                    let descriptor = control.drain().find_map(|message| match message {
                        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                        _ => None,
                    });
                    Ok((got.bytes, descriptor))
                })
                .await?;
            if bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += bytes;
            found = descriptor.or(found);
        }
        Ok(found)
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
    use std::os::unix::fs::FileExt as _;

    use darter_store::PieceFile;
    use futures_util::stream;

    use super::*;

    async fn handed(parts: Vec<Result<Part, FetchError>>) -> Vec<Handed> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sending = tokio::spawn(async move {
            theirs.readable().await.unwrap();
            assert_eq!(theirs.try_read(&mut [0]).unwrap(), 1);
            send(theirs, stream::iter(parts)).await.unwrap();
        });
        let mut receiver = Receiver::begin(ours).await.unwrap();
        let mut all = Vec::new();
        loop {
            all.push(receiver.next().await.unwrap());
            if matches!(all.last(), Some(Handed::End(_) | Handed::Failed(_))) {
                break;
            }
        }
        sending.await.unwrap();
        assert_eq!(receiver.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        all
    }

    #[tokio::test]
    async fn a_file_is_handed_over_for_reading_with_its_verified_parts() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let file = Arc::new(file);
        let part = |start, end| Part::File(PieceFile { file: Arc::clone(&file), range: ByteRange::new(start, end) });
        let all = handed(vec![Ok(part(0, 4)), Ok(part(4, 10))]).await;
        let [Handed::Range(first, a), Handed::Range(second, b), Handed::End(10)] = all.as_slice() else {
            panic!("{all:?}")
        };
        assert!(Arc::ptr_eq(first, second), "one descriptor for one file");
        assert_eq!((a.start(), a.end(), b.start(), b.end()), (0, 4, 4, 10));
        let mut read = [0; 10];
        first.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"0123456789");
        assert!(first.write_at(b"x", 0).is_err(), "the store's bytes can't be changed through it");
    }

    #[tokio::test]
    async fn bytes_without_a_file_and_a_failure_half_way() {
        let all = handed(vec![Ok(Part::Bytes(Bytes::from_static(b"abc"))), Err(FetchError::Draining)]).await;
        let [Handed::Bytes(bytes), Handed::Failed(reason)] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(&bytes[..], b"abc");
        assert_eq!(*reason, FetchError::Draining.to_string());
    }
}
