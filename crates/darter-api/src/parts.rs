//! How a mount reads a blob here and there without moving its bytes: over the administration socket go questions for ranges, a
//! descriptor of the blob's file, and word of which ranges of it are verified.
//!
//! `POST /v1/parts` with a [`GetRequest`](crate::GetRequest), `Connection: upgrade` and `Upgrade: darter-parts` is answered by 101 with the headers
//! `darter-blob`, `darter-length`, `darter-pieces` (the base-two logarithm of the piece length), when known `darter-last-modified`, and
//! `darter-touches: none` if the daemon keeps no profiles. Then both sides send frames: four bytes, the length as a little-endian number, and JSON of that length: an [`Ask`] one way, a [`PartReply`] the other. A descriptor
//! travels with [`PartReply::File`]; the bytes of [`PartReply::Bytes`] follow its frame.
//!
//! While the connection lasts, the blob is not evicted. The daemon closes it when nothing more can be had of the blob, after
//! [`PartReply::Over`], and when it shuts down. A client opens another one then, and compares the blob's id: the same id is the same content.
//!
//! Fields and kinds are added, never renamed; an unknown kind is passed over.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_core::{BlobId, ByteRange, PieceHash, PieceLength};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Mutex as AsyncMutex, oneshot, watch};

use crate::answers::Problem;
use crate::descriptors::{fill, read_only, send_with};

/// The value of the `Upgrade` header.
pub const PROTOCOL: &str = "darter-parts";

/// The longest frame that is believed.
const MAX_FRAME: u32 = 4 << 20;

/// The most bytes that are asked for at a time.
pub const MAX_PART: u64 = 64 << 20;

/// The most bytes that are read at a time, and come inline, of a blob with such pieces: what the kernel asks for at once, with all of
/// the pieces that it touches.
pub const fn max_read(pieces: PieceLength) -> u64 {
    (1 << 20) + 2 * pieces.bytes()
}

/// A mount's question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub enum Ask {
    /// For bytes that somebody waits for: they are verified, and come as a part of the file where they lie in one, else inline.
    Read(PartAsk),
    /// That bytes be fetched and verified; those that somebody waits for come first.
    Fetch(PartAsk),
    /// That all of the blob be fetched behind what is waited for.
    Everything,
    /// How much of it is here.
    Progress {
        /// Names the question.
        id: u64,
    },
    /// Nothing, but what programs have touched since the blob was opened, in the order of first touches: for whoever opens it later. In place of
    /// what was said before. An older daemon passes it over.
    Touched {
        /// The first byte of each run, and one past its last.
        ranges: Vec<(u64, u64)>,
    },
    /// A question that only a newer release knows.
    #[serde(other)]
    Unknown,
}

/// A part of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartAsk {
    /// Names the question.
    pub id: u64,
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// How long the asker waits, in milliseconds.
    pub within_ms: u64,
}

impl PartAsk {
    /// Its bytes.
    pub const fn range(&self) -> ByteRange {
        ByteRange::new(self.start, self.end)
    }

    /// How long the asker waits.
    pub const fn within(&self) -> Duration {
        Duration::from_millis(self.within_ms)
    }
}

/// An answer to a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "lowercase")]
pub enum PartReply {
    /// A descriptor of the blob's file, read-only: what follows is about this file.
    File,
    /// The bytes that were asked for are verified; of a read, they lie in the file.
    Here {
        /// The question.
        id: u64,
        /// The hashes of the pieces that the range touches, in hexadecimal digits.
        hashes: Vec<String>,
    },
    /// The bytes that were asked for follow.
    Bytes {
        /// The question.
        id: u64,
        /// How many.
        count: u64,
    },
    /// The bytes are not here in time.
    Late {
        /// The question.
        id: u64,
    },
    /// How much of the blob is here.
    Progress {
        /// The question.
        id: u64,
        /// Bytes held and verified.
        held_bytes: u64,
        /// True if all of it is held and the whole was checked.
        whole: bool,
    },
    /// This question can't be answered, and why.
    Failed {
        /// The question.
        id: u64,
        /// Why.
        problem: Problem,
    },
    /// Nothing more comes of this blob by this connection, and why.
    Over {
        /// Why.
        problem: Problem,
        /// True if the content turned out to be another than its digest says: what was read is wrong, too.
        wrong: bool,
    },
    /// An answer that only a newer release knows.
    #[serde(other)]
    Unknown,
}

/// Hashes as they stand in a frame.
pub fn hashes_told(hashes: &[PieceHash]) -> Vec<String> {
    hashes.iter().map(ToString::to_string).collect()
}

fn hashes_heard(hashes: &[String]) -> Vec<PieceHash> {
    // A reader that does not understand one hash takes none: they are for reading without the daemon.
    let heard: Option<Vec<_>> =
        hashes.iter().map(|hash| hash.parse::<BlobId>().ok().map(|it| PieceHash(it.0))).collect();
    heard.unwrap_or_default()
}

/// Sends frames of one kind, and receives those of the other.
#[derive(Debug)]
pub struct Frames {
    stream: Arc<UnixStream>,
    /// The file whose descriptor went last.
    sent: Option<Arc<File>>,
}

impl Frames {
    /// The sending half of a connection.
    pub const fn over(stream: Arc<UnixStream>) -> Self {
        Self { stream, sent: None }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When the other end is gone.
    pub async fn send(&mut self, frame: &impl Serialize) -> io::Result<()> {
        write_all(&self.stream, &framed(frame)?).await
    }

    /// Sends bytes and the frame in front of them.
    ///
    /// # Errors
    /// When the other end is gone.
    pub async fn send_bytes(&mut self, id: u64, bytes: &[u8]) -> io::Result<()> {
        self.send(&PartReply::Bytes { id, count: bytes.len() as u64 }).await?;
        write_all(&self.stream, bytes).await
    }

    /// Sends a descriptor of a file, unless it went last; false where it can't be opened anew.
    ///
    /// # Errors
    /// When the other end is gone.
    pub async fn send_file(&mut self, file: &Arc<File>) -> io::Result<bool> {
        if self.sent.as_ref().is_some_and(|sent| Arc::ptr_eq(sent, file)) {
            return Ok(true);
        }
        let Ok(opened) = read_only(file) else { return Ok(false) };
        send_with(&self.stream, &framed(&PartReply::File)?, &opened).await?;
        self.sent = Some(Arc::clone(file));
        Ok(true)
    }
}

fn framed(frame: &impl Serialize) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(frame)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let mut all = length.to_le_bytes().to_vec();
    all.extend_from_slice(&json);
    Ok(all)
}

async fn write_all(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = stream.async_io(Interest::WRITABLE, || stream.try_write(bytes)).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// The next frame, and the descriptor that came with it.
///
/// # Errors
/// When the other end is gone, or says what makes no sense.
pub async fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<(T, Option<File>)> {
    let mut length = [0; 4];
    let descriptor = fill(stream, &mut length).await?;
    let length = u32::from_le_bytes(length);
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame past all limits"));
    }
    let mut json = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    let late = fill(stream, &mut json).await?;
    Ok((serde_json::from_slice(&json)?, descriptor.or(late).map(File::from)))
}

/// The description of a blob whose parts can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The blob.
    pub blob: BlobId,
    /// Its length.
    pub length: u64,
    /// How it is cut.
    pub pieces: PieceLength,
    /// When it was last modified, as its origin writes it.
    pub modified: Option<String>,
    /// True if the daemon wants reports of the parts that programs touch first ([`Asker::touched`]).
    pub takes_touches: bool,
}

/// An answer to a question.
#[derive(Debug)]
pub enum Answer {
    /// The bytes are verified; the file that the read ones lie in, and the hashes of their pieces.
    Here(Option<Arc<File>>, Vec<PieceHash>),
    /// The bytes.
    Bytes(Bytes),
    /// They are not here in time.
    Late,
    /// Bytes held, and whether that is all and was checked.
    Progress(u64, bool),
    /// It can't be answered, and why.
    Failed(Problem),
}

/// Why nothing more comes by a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    /// Why; `None` if the daemon went away without a word.
    pub problem: Option<Problem>,
    /// True if the content is another than its digest says.
    pub wrong: bool,
}

/// The asking side of a connection. Ends with its last clone.
#[derive(Debug)]
pub struct Asker {
    shared: Arc<AskerState>,
    sending: AsyncMutex<Frames>,
    over: watch::Receiver<Option<Over>>,
    hearing: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct AskerState {
    waiting: Mutex<OpenAsks>,
}

#[derive(Debug, Default)]
struct OpenAsks {
    next: u64,
    asked: HashMap<u64, oneshot::Sender<Answer>>,
    /// Nobody answers any more.
    closed: bool,
}

/// The connection ended before an answer came: [`Asker::over`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended;

impl Asker {
    /// Takes a connection that was upgraded. Needs a tokio runtime.
    pub fn begin(stream: UnixStream) -> Self {
        let stream = Arc::new(stream);
        let shared = Arc::new(AskerState::default());
        let (tell_over, over) = watch::channel(None);
        let hearing = tokio::spawn(hear(Arc::clone(&stream), Arc::clone(&shared), tell_over));
        Self { shared, sending: AsyncMutex::new(Frames::over(stream)), over, hearing }
    }

    /// Asks for a part: `make` says what of it.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn part(&self, make: fn(PartAsk) -> Ask, range: ByteRange, within: Duration) -> Result<Answer, Ended> {
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.ask(|id| make(PartAsk { id, start: range.start(), end: range.end(), within_ms })).await
    }

    /// How much of the blob is here, and whether that is all and was checked.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn progress(&self) -> Result<Answer, Ended> {
        self.ask(|id| Ask::Progress { id }).await
    }

    /// Asks for all of the blob behind what is waited for.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn everything(&self) -> Result<(), Ended> {
        self.sending.lock().await.send(&Ask::Everything).await.map_err(|_| Ended)
    }

    /// Says what programs have touched since the blob was opened.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn touched(&self, ranges: &[ByteRange]) -> Result<(), Ended> {
        let ranges = ranges.iter().map(|range| (range.start(), range.end())).collect();
        self.sending.lock().await.send(&Ask::Touched { ranges }).await.map_err(|_| Ended)
    }

    /// Waits until nothing more comes, and says why.
    pub async fn over(&self) -> Over {
        let mut over = self.over.clone();
        match over.wait_for(Option::is_some).await {
            Ok(told) => told.clone().unwrap_or(GONE),
            Err(_) => GONE,
        }
    }

    async fn ask(&self, make: impl FnOnce(u64) -> Ask) -> Result<Answer, Ended> {
        let (answer, asked) = oneshot::channel();
        let id = {
            let mut waiting = self.shared.waiting.lock();
            if waiting.closed {
                return Err(Ended);
            }
            waiting.next += 1;
            let id = waiting.next;
            waiting.asked.insert(id, answer);
            id
        };
        let _forget = Forget { shared: &self.shared, id };
        // A frame that is sent by half would spoil all others: it is sent whole, or the connection ends.
        self.sending.lock().await.send(&make(id)).await.map_err(|_| Ended)?;
        asked.await.map_err(|_| Ended)
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.hearing.abort();
    }
}

const GONE: Over = Over { problem: None, wrong: false };

/// Forgets a question that nobody waits for any more.
struct Forget<'a> {
    shared: &'a AskerState,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.waiting.lock().asked.remove(&self.id);
    }
}

/// Gives answers to whoever asked, until the connection ends.
async fn hear(stream: Arc<UnixStream>, shared: Arc<AskerState>, tell_over: watch::Sender<Option<Over>>) {
    let mut file = None;
    let mut over = GONE;
    while let Ok((told, descriptor)) = receive::<PartReply>(&stream).await {
        if let Some(descriptor) = descriptor {
            file = Some(Arc::new(descriptor));
        }
        let (id, answer) = match told {
            PartReply::File | PartReply::Unknown => continue,
            PartReply::Here { id, hashes } => (id, Answer::Here(file.clone(), hashes_heard(&hashes))),
            PartReply::Bytes { id, count } if count <= MAX_PART => {
                let mut bytes = vec![0; usize::try_from(count).unwrap_or_default()];
                if fill(&stream, &mut bytes).await.is_err() {
                    break;
                }
                (id, Answer::Bytes(bytes.into()))
            }
            PartReply::Bytes { .. } => break,
            PartReply::Late { id } => (id, Answer::Late),
            PartReply::Progress { id, held_bytes, whole } => (id, Answer::Progress(held_bytes, whole)),
            PartReply::Failed { id, problem } => (id, Answer::Failed(problem)),
            PartReply::Over { problem, wrong } => {
                over = Over { problem: Some(problem), wrong };
                break;
            }
        };
        if let Some(asker) = shared.waiting.lock().asked.remove(&id) {
            // An asker that waits no longer has dropped its receiver.
            let _ = asker.send(answer);
        }
    }
    tell_over.send_replace(Some(over));
    let mut waiting = shared.waiting.lock();
    waiting.closed = true;
    waiting.asked.clear();
}

#[cfg(test)]
mod tests;
