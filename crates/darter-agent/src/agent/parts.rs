//! Parts of a blob on demand, for a program that keeps it open and reads here and there: a mount. Goes on with `impl Download`.
//!
//! A wait is told to the swarm as a few seconds at a time, however long the caller can wait: reads with a short deadline go first, and a program that
//! stands still on a page needs that.
//!
//! Parts that lie in no file are given in memory: [`MAX_INLINE`] bytes in all, until the receiver drops them.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_core::{ByteRange, PieceHash, PieceIndex, PieceLength};
use darter_engine::FetchError;
use darter_engine::transfer::Outcome;
use darter_engine::transfer::stream::Part;
use darter_engine::transfer::wants::KeptOpen;
use darter_swarm::Foresight;
use futures_util::TryStreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Download;

/// The deadline that is told for a range at a time.
const URGENT: Duration = Duration::from_secs(5);

/// Bytes that parts in memory may have at a time, of all blobs.
pub(super) const MAX_INLINE: usize = 64 << 20;

/// Verified bytes, as the asker of a part gets them.
#[derive(Debug)]
pub enum HeldPart {
    /// In this file, at their own offsets, and in the page cache a moment ago.
    File(Arc<File>),
    /// In memory: they lie in no file.
    Bytes(Bytes),
}

impl Download {
    /// Its length, as soon as that is known: an origin that tells none is read to its end first.
    ///
    /// # Errors
    /// Why the blob can't be had.
    pub async fn length_when_known(&self) -> Result<u64, FetchError> {
        self.transfer.length_when_known().await
    }

    /// How it is cut into pieces.
    pub fn piece_length(&self) -> PieceLength {
        self.transfer.piece_length
    }

    /// The hashes of the pieces that `range` touches; `None` while one of them is not known, and of bytes that there are not.
    pub fn hashes(&self, range: ByteRange) -> Option<Vec<PieceHash>> {
        if range.is_empty() || range.end() > self.length()? {
            return None;
        }
        let pieces = self.transfer.piece_length.pieces_of(range);
        pieces.map(|piece| self.transfer.stored.hash(PieceIndex(piece))).collect()
    }

    /// All of the blob is wanted from now on. Parts that readers wait for still come first.
    pub fn want_everything(&self) {
        self.transfer.want_everything();
    }

    /// Counts as use until it is dropped, though nothing is read: the blob is not evicted, not removed, and not put away.
    pub fn keep_open(&self) -> KeptOpen {
        self.transfer.keep_open()
    }

    /// Fetches what other hosts touched first when they started the same, as long as this is polled: for a program that has just opened the blob. Returns when that is
    /// of no use any more.
    pub async fn fetch_first_touches(&self) {
        self.transfer.fetch_first_touches().await;
    }

    /// A program has touched these bytes, in this order, since it opened it.
    pub fn touched(&self, ranges: &[ByteRange]) {
        self.transfer.touched(ranges);
    }

    /// True if the bytes of `range` are here.
    fn is_held(&self, range: ByteRange) -> bool {
        let pieces = self.transfer.piece_length.pieces_of(range);
        self.transfer.stored.held().first_missing_from(PieceIndex(pieces.start)).0 >= pieces.end
    }

    /// Waits until all of it is here and was checked.
    ///
    /// # Errors
    /// Why it can't be had by this handle.
    pub async fn whole(&self) -> Result<(), FetchError> {
        self.transfer.whole().await
    }

    /// Waits until nothing more can be had of it by this handle, and says why.
    pub async fn ended(&self) -> FetchError {
        self.transfer.ended().await
    }

    /// Sees to it that the bytes of `range` are here and verified; false if they are not within this time.
    ///
    /// # Errors
    /// Why they can't be had by this handle, now or later.
    pub async fn fetch(&self, range: ByteRange, within: Duration) -> Result<bool, FetchError> {
        let fetched = async {
            loop {
                match self.ensure(range, URGENT.min(within)).await {
                    // Of the transfer it would be the end.
                    Err(FetchError::Stalled { .. }) if !matches!(self.transfer.outcome(), Outcome::Failed(_)) => {}
                    result => return result,
                }
            }
        };
        tokio::time::timeout(within, fetched).await.map_or(Ok(false), |fetched| fetched.map(|()| true))
    }

    /// Fetches the bytes of `range` as [`fetch`](Self::fetch) does, without hurry: readers that wait for other bytes go first. Nothing is
    /// fetched so while a start goes by what others touched first.
    ///
    /// # Errors
    /// As [`Download::fetch`].
    pub async fn fetch_ahead(&self, range: ByteRange, within: Duration) -> Result<bool, FetchError> {
        if self.transfer.goes_by_first_touches() {
            return Ok(false);
        }
        match self.transfer.foresee(range, within.max(2 * URGENT), Foresight::Pattern).await {
            Err(FetchError::Stalled { .. }) if !matches!(self.transfer.outcome(), Outcome::Failed(_)) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// The bytes of `range`, verified; `None` if they are not here within this time.
    ///
    /// # Errors
    /// Why they can't be had by this handle, now or later.
    pub async fn part(&self, range: ByteRange, within: Duration) -> Result<Option<HeldPart>, FetchError> {
        let metrics = &self.swarms.house.context.metrics;
        if self.is_held(range) {
            metrics.part_reads_here.inc();
        } else {
            metrics.part_reads_waited.inc();
            self.transfer.noted_wait(range);
        }
        let given = async {
            if !self.fetch(range, within).await? {
                return Ok(None);
            }
            self.transfer.noted_read(range);
            let file = self.file_of(range).await?;
            self.is_still_this()?;
            let held = match file {
                Some(file) => HeldPart::File(file),
                None => HeldPart::Bytes(self.memory_of(range).await?),
            };
            Ok(Some(held))
        };
        tokio::time::timeout(within, given).await.unwrap_or(Ok(None))
    }

    /// The bytes of `range` in memory, for a question of the agent's own: no program's read counts.
    pub(super) async fn bytes_at(&self, range: ByteRange, within: Duration) -> Result<Vec<u8>, FetchError> {
        let waited = || FetchError::Silent;
        let read = async {
            if !self.fetch(range, within).await? {
                return Err(waited());
            }
            let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
            let (mut bytes, mut all) = (self.bytes_of(range), Vec::with_capacity(length.min(MAX_INLINE)));
            while let Some(some) = bytes.try_next().await? {
                all.extend_from_slice(&some);
            }
            self.is_still_this()?;
            Ok(all)
        };
        tokio::time::timeout(within, read).await.unwrap_or_else(|_| Err(waited()))
    }

    /// The file that all of it is in.
    async fn file_of(&self, range: ByteRange) -> Result<Option<Arc<File>>, FetchError> {
        let (mut parts, mut only) = (self.parts_of(range), None::<Arc<File>>);
        while let Some(part) = parts.try_next().await? {
            match part {
                Part::File(part) if only.as_ref().is_none_or(|only| Arc::ptr_eq(only, &part.file)) => {
                    only = Some(part.file);
                }
                Part::File(_) | Part::Bytes(_) => return Ok(None),
            }
        }
        Ok(only)
    }

    async fn memory_of(&self, range: ByteRange) -> Result<Bytes, FetchError> {
        let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
        let counted = counted(&self.inline, length).await;
        let mut all = Vec::with_capacity(length.min(MAX_INLINE));
        let mut bytes = self.bytes_of(range);
        while let Some(some) = bytes.try_next().await? {
            all.extend_from_slice(&some);
        }
        self.is_still_this()?;
        Ok(Bytes::from_owner(Counted { bytes: all, _counted: counted }))
    }

    /// The bytes that are read may come of another try at the source once this one has failed: of other content, maybe.
    fn is_still_this(&self) -> Result<(), FetchError> {
        match self.transfer.outcome() {
            Outcome::Failed(error) => Err(error),
            Outcome::Open | Outcome::Complete => Ok(()),
        }
    }
}

/// Bytes that count until they are dropped.
struct Counted {
    bytes: Vec<u8>,
    _counted: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Waits until `length` bytes may be in memory; a `length` over [`MAX_INLINE`] counts as that.
async fn counted(inline: &Arc<Semaphore>, length: usize) -> Option<OwnedSemaphorePermit> {
    let count = u32::try_from(length.min(MAX_INLINE)).unwrap_or(u32::MAX);
    // It is never closed.
    Arc::clone(inline).acquire_many_owned(count).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_in_memory_wait_for_others_to_be_dropped() {
        let inline = Arc::new(Semaphore::new(MAX_INLINE));
        let part = async |length| {
            let counted = counted(&inline, length).await;
            Bytes::from_owner(Counted { bytes: Vec::new(), _counted: counted })
        };
        let first = part(MAX_INLINE / 2).await;
        let _second = part(MAX_INLINE / 2).await;
        let mut third = std::pin::pin!(part(1));
        assert!(futures_util::poll!(third.as_mut()).is_pending());
        let clone = first.clone();
        drop(first);
        assert!(futures_util::poll!(third.as_mut()).is_pending(), "one still has it");
        drop(clone);
        third.await;
        drop(_second);
        part(usize::MAX).await;
    }
}
