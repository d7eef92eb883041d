//! Verified bytes in order, for a program of this host. A stream starts with the first verified piece and never
//! ends short: its last piece is held back until the whole was checked, so that a reader who gets everything has the
//! right content. A lone range, which is not part of a read of the whole blob, does not wait for that: lazy snapshotters read
//! a layer's end first, and check what they read. A program waits for just those bytes, so all their pieces are fetched before others.
//!
//! Bytes are passed on in memory, or, to a receiver that can send them so, as ranges of the blob's file ([`Part`]). A range of a file is
//! verified like memory is; what is not in the page cache is read on a blocking thread before it is passed on, so that the
//! sender does not wait for the disk, and a disk failure is noticed while the piece can still be had from others. While a blob
//! arrives, nearly all of it was verified and written a moment ago: that is passed on at once, as many contiguous pieces as there are, since
//! waking a thread for each piece would cost more than the piece.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use darter_core::{ByteRange, Moment, PieceIndex, PieceLength};
use darter_store::{DiskWork, PieceFile, StoreError, StoredBlob};
use darter_swarm::{Input, ReaderId};
use futures_util::Stream;
use tokio::sync::watch;

use super::rest::Hold;
use super::wants::{MAX_AHEAD, WaitingReader, kept, next_reader};
use super::{Outcome, Transfer};
use crate::error::FetchError;
use crate::part::Part;

/// How many bytes are read from the store at a time.
const CHUNK: u64 = 256 * 1024;

/// Most bytes of a file that are passed on at a time.
pub(super) const FILE_CHUNK: u64 = 8 << 20;

/// Most bytes of a file that are passed on at a time without a disk thread: a runtime thread asks whether they are in the page cache.
const READY_CHUNK: u64 = 1 << 20;

/// After how long the next piece becomes urgent. A container engine can wait a little for one piece while others arrive.
const URGENT_AFTER: Duration = Duration::from_secs(1);

/// How bytes are passed on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Giving {
    /// True if ranges of files are accepted.
    pub files: bool,
    /// True if the range is lone: not part of a read of the whole blob.
    pub lone: bool,
    /// True if the agent itself reads them: no bytes for a program are counted.
    pub own: bool,
}

/// A reader in order.
struct Reader {
    transfer: Arc<Transfer>,
    /// `None` if the blob was evicted before this reader came.
    _hold: Option<Hold>,
    id: ReaderId,
    changed: watch::Receiver<()>,
    at: u64,
    /// The offset after the last byte that is wanted; the blob's end if `None`.
    end: Option<u64>,
    told: Option<PieceIndex>,
    /// Since when this has waited for the next piece.
    since: Option<Moment>,
    giving: Giving,
    /// Tells others what this waits for, if the range is lone.
    waiting: Option<WaitingReader>,
    /// The next range of a file, which is being verified and read into memory while this one is sent: its offset, and the work.
    ahead: Option<(u64, DiskRead)>,
}

type DiskRead = DiskWork<Result<Part, StoreError>>;

impl Transfer {
    /// The bytes of `range`, or all. Counts as use until the stream is dropped.
    pub(crate) fn read_on(
        self: &Arc<Self>,
        range: Option<ByteRange>,
        giving: Giving,
    ) -> impl Stream<Item = Result<Part, FetchError>> + Send + use<> {
        if !giving.lone {
            self.want_everything();
        }
        self.readers.fetch_add(1, Ordering::Relaxed);
        let id = next_reader();
        self.reader_stands(id, self.piece_length.piece_at(range.map_or(0, ByteRange::start)));
        let reader = Reader {
            transfer: Arc::clone(self),
            _hold: self.hold(),
            id,
            changed: self.changed.subscribe(),
            at: range.map_or(0, ByteRange::start),
            end: range.map(ByteRange::end),
            told: None,
            since: None,
            giving,
            waiting: giving.lone.then(|| self.waiting_reader(id, None)),
            ahead: None,
        };
        futures_util::stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(part)) => Some((Ok(part), Some(reader))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

impl Transfer {
    /// The store could not read a piece that it held. The reader goes on if the piece is fetched again; otherwise this is its error.
    pub(super) fn after_unread(self: &Arc<Self>, error: StoreError) -> Result<(), FetchError> {
        match error {
            StoreError::NotHeld { piece, .. } => {
                if let Some(error) = self.forgot(piece) {
                    return Err(error);
                }
                self.note_losses();
                Ok(())
            }
            StoreError::Discarded(_) => match self.outcome() {
                Outcome::Failed(error) => Err(error),
                _ => Err(FetchError::Withdrawn { blob: self.blob, reason: "it was removed".to_owned() }),
            },
            error => Err(error.into()),
        }
    }
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Part>, FetchError> {
        loop {
            // Before checking: a change during the check wakes this again.
            self.changed.mark_unchanged();
            let transfer = Arc::clone(&self.transfer);
            let length = transfer.stored.length();
            let outcome = transfer.outcome();
            if let Outcome::Failed(error) = outcome {
                return Err(error);
            }
            let end = match (self.end, length) {
                (Some(end), Some(length)) => Some(end.min(length)),
                (end, length) => end.or(length),
            };
            let complete = matches!(outcome, Outcome::Complete);
            if transfer.closed.is_cancelled() && !complete {
                return Err(FetchError::Stopped { kept: kept(&transfer) });
            }
            if end.is_some_and(|end| self.at >= end) {
                // Even an empty blob ends only after the check of the whole.
                if complete || length != Some(self.at) || self.giving.lone {
                    return Ok(None);
                }
            } else {
                let piece = transfer.piece_length.piece_at(self.at);
                transfer.reader_stands(self.id, piece);
                if transfer.stored.passes() {
                    self.tell(piece);
                }
                let is_last = transfer.pieces() == Some(piece.0 + 1);
                // If the blob has one piece only, the whole is checked right after it.
                let waits = is_last && !(self.giving.lone && piece.0 > 0);
                // While the length is unknown, it is also unknown whether a piece is the last.
                let free = complete || (length.is_some() && !waits) || piece.0 + 1 < transfer.stored.prefix();
                if complete && !transfer.stored.holds(piece) {
                    if transfer.stored.is_discarded() {
                        let reason = "it was removed".to_owned();
                        return Err(FetchError::Withdrawn { blob: transfer.blob, reason });
                    }
                    // Somebody else has found damage, here or further ahead.
                    transfer.note_losses();
                    continue;
                }
                if free && transfer.stored.holds(piece) {
                    self.note_wait(piece, is_last);
                    if let Some(part) = self.read(piece, end, complete).await? {
                        return Ok(Some(part));
                    }
                    continue;
                }
                self.tell(piece);
            }
            self.since.get_or_insert_with(|| transfer.context.now());
            if self.changed.changed().await.is_err() {
                return Err(FetchError::Draining);
            }
        }
    }

    /// Reads on within a held piece, or several of a `complete` blob; `None` if a piece turned out damaged, and is being
    /// fetched again.
    async fn read(&mut self, piece: PieceIndex, end: Option<u64>, complete: bool) -> Result<Option<Part>, FetchError> {
        let transfer = &self.transfer;
        let end = end.unwrap_or(u64::MAX).min(transfer.stored.length().unwrap_or(u64::MAX));
        let piece_end = transfer.piece_length.offset(piece) + transfer.piece_length.bytes();
        // The pieces after it may not be held, or may be held back, before the whole was checked.
        if self.giving.files && !complete {
            // The last piece is passed on by itself, once it may be.
            let last =
                transfer.pieces().map_or(piece_end, |pieces| transfer.piece_length.offset(PieceIndex(pieces - 1)));
            let range = ByteRange::new(self.at, end.min(last.max(piece_end)).min(self.at + READY_CHUNK));
            if let Some(part) = ready_part(&*transfer.stored, transfer.piece_length, range) {
                self.ahead = None;
                return Ok(Some(self.given(Part::File(part))));
            }
        }
        let end = if complete && self.giving.files { end } else { end.min(piece_end) };
        let read = match self.ahead.take() {
            Some((at, reading)) if at == self.at => reading,
            _ => self.begin_to_read(self.at, end),
        };
        let limit = transfer.context.options.stall_timeout;
        let limit = if limit.is_zero() { Duration::MAX } else { limit };
        let Ok(read) = tokio::time::timeout(limit, read).await else {
            let what = format!("the disk to give piece {}", piece.0 + 1);
            return Err(FetchError::Stalled { waited: limit, what });
        };
        match read {
            Ok(part) => {
                let part = self.given(part);
                if matches!(part, Part::File(_)) && self.at < end {
                    self.ahead = Some((self.at, self.begin_to_read(self.at, end)));
                }
                Ok(Some(part))
            }
            Err(error) => transfer.after_unread(error).map(|()| None),
        }
    }

    /// Notes a part that is passed on now.
    fn given(&mut self, part: Part) -> Part {
        let length = part.len();
        self.at += length;
        if !self.giving.own {
            let transfer = &self.transfer;
            transfer.state().journal.served(length);
            transfer.context.metrics.local_served_bytes.inc_by(length);
        }
        part
    }

    /// Starts to read from `at`, at most a chunk and not beyond `end`.
    fn begin_to_read(&self, at: u64, end: u64) -> DiskRead {
        let (stored, pieces, files) =
            (Arc::clone(&self.transfer.stored), self.transfer.piece_length, self.giving.files);
        self.transfer.context.disk.run(move || {
            let in_file = ByteRange::new(at, end.min(at + FILE_CHUNK));
            let part = if files { file_part(&*stored, pieces, in_file)? } else { None };
            part.map_or_else(|| memory(&*stored, at, end.min(at + CHUNK)), |part| Ok(Part::File(part)))
        })
    }

    /// Notes how long this waited for a piece that has arrived now.
    fn note_wait(&mut self, piece: PieceIndex, is_last: bool) {
        let Some(since) = self.since.take() else { return };
        let now = self.transfer.context.now();
        self.transfer.state().journal.waited(piece, since, is_last, now);
    }

    fn tell(&mut self, piece: PieceIndex) {
        if self.told != Some(piece) {
            self.told = Some(piece);
            let passes = self.transfer.stored.passes();
            let end = match (self.end, self.transfer.stored.length()) {
                (Some(end), Some(length)) => self.transfer.piece_length.count(end.min(length)),
                _ => piece.0 + 1,
            };
            if let Some(waiting) = &mut self.waiting {
                waiting.at(piece, end);
            }
            let patience = if passes || self.giving.lone { Duration::ZERO } else { URGENT_AFTER };
            let count = match self.end.filter(|end| self.giving.lone && !passes && *end > self.at) {
                Some(end) => (self.transfer.piece_length.piece_at(end - 1).0 + 1 - piece.0).min(MAX_AHEAD),
                None => self.transfer.pieces_ahead(),
            };
            self.transfer.tell(Input::ReaderAt { reader: self.id, piece, count, patience });
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.transfer.readers.fetch_sub(1, Ordering::Relaxed);
        self.transfer.reader_left(self.id);
        if self.told.is_some() {
            self.transfer.tell(Input::ReaderGone(self.id));
        }
    }
}

fn memory(stored: &dyn StoredBlob, at: u64, stop: u64) -> Result<Part, StoreError> {
    let mut buffer = vec![0; usize::try_from(stop - at).expect("at most a chunk")];
    stored.read_at(at, &mut buffer)?;
    Ok(Part::Bytes(buffer.into()))
}

/// Verified bytes of held pieces as a range of the file, if they are there at their own offsets, with the pages in memory: all of `range`, or its beginning if a later
/// piece is damaged. `None` from a store without files.
pub(super) fn file_part(
    stored: &dyn StoredBlob,
    pieces: PieceLength,
    range: ByteRange,
) -> Result<Option<PieceFile>, StoreError> {
    let mut found: Option<PieceFile> = None;
    let mut at = range.start();
    while at < range.end() {
        let part = match stored.file_run(pieces.piece_at(at)..pieces_up_to(pieces, range)) {
            Ok(Some(part)) => part,
            Ok(None) => return Ok(None),
            // The call for the rest will return the error.
            Err(_) if found.is_some() => break,
            Err(error) => return Err(error),
        };
        at = part.range.end().min(range.end());
        found = Some(PieceFile { range: ByteRange::new(range.start(), at), ..part });
    }
    Ok(found)
}

/// The beginning of `range` that can be sent at once: verified by this process, and in the page cache. `None` if its first byte can't be,
/// which only means that a disk thread has to read it.
fn ready_part(stored: &dyn StoredBlob, pieces: PieceLength, range: ByteRange) -> Option<PieceFile> {
    let part = stored.ready_run(pieces.piece_at(range.start())..pieces_up_to(pieces, range))?;
    let end = part.range.end().min(range.end());
    Some(PieceFile { range: ByteRange::new(range.start(), end), ..part })
}

/// The piece after those of a range.
fn pieces_up_to(pieces: PieceLength, range: ByteRange) -> PieceIndex {
    PieceIndex(pieces.pieces_of(range).end)
}

#[cfg(test)]
mod tests {
    use darter_core::manifest::hash_piece;
    use darter_core::{BlobId, Manifest, Version};
    use darter_store::{Amount, BlobInfo, DiskStore, MemStore, Store, StoreConfig};

    use super::*;

    const PIECE: PieceLength = PieceLength::UNKNOWN_BLOB;

    /// A blob of four pieces in `store`, of which the third is missing.
    fn blob(store: &dyn Store) -> Arc<dyn StoredBlob> {
        let content = vec![7; PIECE.bytes() as usize];
        let info = BlobInfo { name: "blob".to_owned(), digest: None, version: Version::default(), created: 0 };
        let manifest = Manifest::new(PIECE, Some(4 * PIECE.bytes()));
        let stored = store.open_or_create(BlobId([7; 32]), info, manifest).unwrap();
        for piece in [0, 1, 2, 3].map(PieceIndex) {
            stored.extend(piece.0, &[hash_piece(PIECE, piece, &content, false)]).unwrap();
            if piece.0 != 2 {
                stored.put(piece, &content).unwrap();
            }
        }
        stored
    }

    #[test]
    fn pieces_that_were_just_stored_are_ready_as_far_as_there_is_no_gap() {
        let directory = tempfile::tempdir().unwrap();
        let config = StoreConfig { reserve_free: Amount::Bytes(0), ..StoreConfig::new(Arc::new(|| 0)) };
        let store = DiskStore::open(directory.path(), &config).unwrap();
        let stored = blob(&store);
        let length = PIECE.bytes();
        let ready = |start, end| ready_part(&*stored, PIECE, ByteRange::new(start, end)).map(|part| part.range);
        assert_eq!(ready(5, 4 * length), Some(ByteRange::new(5, 2 * length)), "the third is not here");
        assert_eq!(ready(5, length + 9), Some(ByteRange::new(5, length + 9)), "no more than was asked for");
        assert_eq!(ready(2 * length, 4 * length), None);
        let memory = MemStore::new(&StoreConfig::new(Arc::new(|| 0)));
        assert_eq!(
            ready_part(&*blob(&memory), PIECE, ByteRange::new(0, length)).map(|part| part.range),
            None,
            "no file"
        );
    }
}
