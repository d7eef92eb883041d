//! Verified bytes in order, for whoever asked on this host. A stream starts with the first verified piece and never
//! ends short: its last piece is held back until the whole was checked, so that a reader who gets everything got the
//! right thing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use darter_core::{ByteRange, PieceIndex};
use darter_store::StoreError;
use darter_swarm::{Event, ReaderId};
use futures_util::Stream;
use tokio::sync::watch;

use super::{Outcome, Transfer};
use crate::error::FetchError;

/// Bytes that are read from the store at a time.
const CHUNK: u64 = 256 * 1024;

/// A container engine can wait a little for one piece while others flow.
const PATIENCE: Duration = Duration::from_secs(1);

static READERS: AtomicU64 = AtomicU64::new(0);

/// Somebody who reads in order.
struct Reader {
    transfer: Arc<Transfer>,
    id: ReaderId,
    changed: watch::Receiver<()>,
    at: u64,
    /// One past the last byte wanted; the blob's end if `None`.
    end: Option<u64>,
    told: Option<PieceIndex>,
}

impl Transfer {
    /// The bytes of `range`, or all. Reading counts as use until the stream is dropped.
    pub(crate) fn stream(
        self: &Arc<Self>,
        range: Option<ByteRange>,
    ) -> impl Stream<Item = Result<Bytes, FetchError>> + Send + use<> {
        self.readers.fetch_add(1, Ordering::Relaxed);
        let reader = Reader {
            transfer: Arc::clone(self),
            id: ReaderId(READERS.fetch_add(1, Ordering::Relaxed)),
            changed: self.changed.subscribe(),
            at: range.map_or(0, ByteRange::start),
            end: range.map(ByteRange::end),
            told: None,
        };
        futures_util::stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(reader))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            // Before looking: what changes while this looks wakes it again.
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
                let reason = "its transfer was ended here".to_owned();
                return Err(FetchError::Withdrawn { blob: transfer.blob, reason });
            }
            if end.is_some_and(|end| self.at >= end) {
                // Even of nothing, the end is told only once it is sure.
                if complete || length != Some(self.at) {
                    return Ok(None);
                }
            } else {
                let piece = transfer.piece_length.piece_at(self.at);
                let is_last = transfer.pieces() == Some(piece.0 + 1);
                // While the length is unknown, whether a piece is the last is, too.
                let free = complete || (length.is_some() && !is_last) || piece.0 + 1 < transfer.stored.known();
                if free && transfer.stored.holds(piece) {
                    if let Some(bytes) = self.read(piece, end).await? {
                        return Ok(Some(bytes));
                    }
                    continue;
                }
                self.tell(piece);
            }
            if self.changed.changed().await.is_err() {
                return Err(FetchError::Draining);
            }
        }
    }

    /// Reads on within a held piece; `None` when the piece turned out damaged, and is being fetched again.
    async fn read(&mut self, piece: PieceIndex, end: Option<u64>) -> Result<Option<Bytes>, FetchError> {
        let transfer = &self.transfer;
        let piece_end = transfer.piece_length.offset(piece) + transfer.piece_length.bytes();
        let stop = end.unwrap_or(u64::MAX).min(piece_end).min(self.at + CHUNK);
        let stop = transfer.stored.length().map_or(stop, |length| stop.min(length));
        let length = usize::try_from(stop - self.at).expect("at most a chunk");
        let (stored, at) = (Arc::clone(&transfer.stored), self.at);
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; length];
            stored.read_at(at, &mut buffer).map(|()| buffer)
        });
        match read.await.expect("reading does not panic") {
            Ok(buffer) => {
                self.at = stop;
                transfer.state.lock().journal.served(length as u64);
                transfer.context.metrics.local_served_bytes.inc_by(length as u64);
                Ok(Some(buffer.into()))
            }
            Err(StoreError::NotHeld { .. }) => {
                transfer.note_losses();
                Ok(None)
            }
            Err(StoreError::Discarded(_)) => match transfer.outcome() {
                Outcome::Failed(error) => Err(error),
                _ => Err(FetchError::Withdrawn { blob: transfer.blob, reason: "it was removed".to_owned() }),
            },
            Err(error) => Err(error.into()),
        }
    }

    fn tell(&mut self, piece: PieceIndex) {
        if self.told != Some(piece) {
            self.told = Some(piece);
            self.transfer.tell(Event::ReaderAt { reader: self.id, piece, count: 1, patience: PATIENCE });
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.transfer.readers.fetch_sub(1, Ordering::Relaxed);
        if self.told.is_some() {
            self.transfer.tell(Event::ReaderGone { reader: self.id });
        }
    }
}
