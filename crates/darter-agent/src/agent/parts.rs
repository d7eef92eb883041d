//! Ranges of a blob on demand, for a program that keeps the blob open and reads anywhere in it: a mount. A part of `impl Download`.
//!
//! The swarm is told a deadline of a few seconds at a time, however long the caller can wait: reads with a short deadline go first, and a program that
//! waits for a page needs that.
//!
//! Ranges that are in no file are passed on in memory: [`MAX_INLINE`] bytes in all, until the receiver drops them.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_core::{ByteRange, PieceHash, PieceIndex, PieceLength};
use darter_engine::FetchError;
use darter_engine::part::Part;
use darter_engine::transfer::Outcome;
use darter_engine::transfer::wants::KeptOpen;
use darter_swarm::Foresight;
use futures_util::TryStreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Download;

/// The deadline of a range that the swarm is told at a time.
const URGENT: Duration = Duration::from_secs(5);

/// Most bytes of ranges in memory at a time, for all blobs together.
pub(super) const MAX_INLINE: usize = 64 << 20;

/// Verified bytes, in the form for the program that requested a range.
#[derive(Debug)]
pub enum HeldPart {
    /// In this file, at the same offsets, and in the page cache a moment ago.
    File(Arc<File>),
    /// In memory, because they are in no file.
    Bytes(Bytes),
}

impl Download {
    /// Its length, as soon as it is known: if the origin does not say, the blob is first read to its end.
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

    /// The hashes of the pieces that `range` touches; `None` while one of them is unknown, and for a range outside the blob.
    pub fn hashes(&self, range: ByteRange) -> Option<Vec<PieceHash>> {
        if range.is_empty() || range.end() > self.length()? {
            return None;
        }
        let pieces = self.transfer.piece_length.pieces_of(range);
        pieces.map(|piece| self.transfer.stored.hash(PieceIndex(piece))).collect()
    }

    /// From now on, the whole blob is wanted. Ranges for which readers wait still come first.
    pub fn want_everything(&self) {
        self.transfer.want_everything();
    }

    /// Counts as use until dropped, although nothing is read: the blob is not evicted, not removed, and its transfer not closed.
    pub fn keep_open(&self) -> KeptOpen {
        self.transfer.keep_open()
    }

    /// Prefetches the parts in the profile, as long as this is polled, for a program that has just opened the blob. Returns when that is
    /// no longer useful.
    pub async fn fetch_first_touches(&self) {
        self.transfer.fetch_first_touches().await;
    }

    /// A program has read these bytes, in this order, since it opened the blob.
    pub fn touched(&self, ranges: &[ByteRange]) {
        self.transfer.touched(ranges);
    }

    /// True if the bytes of `range` are here.
    fn is_held(&self, range: ByteRange) -> bool {
        let pieces = self.transfer.piece_length.pieces_of(range);
        self.transfer.stored.held().first_missing_from(PieceIndex(pieces.start)).0 >= pieces.end
    }

    /// Waits until all of the blob is here and was checked.
    ///
    /// # Errors
    /// The reason for which it can't be had through this handle.
    pub async fn whole(&self) -> Result<(), FetchError> {
        self.transfer.whole().await
    }

    /// Waits until nothing more of the blob can be had through this handle, and returns why.
    pub async fn ended(&self) -> FetchError {
        self.transfer.ended().await
    }

    /// Makes sure that the bytes of `range` are here and verified; false if they are not within this time.
    ///
    /// # Errors
    /// Why they can't be had through this handle, now or later.
    pub async fn fetch(&self, range: ByteRange, within: Duration) -> Result<bool, FetchError> {
        let fetched = async {
            loop {
                match self.ensure(range, URGENT.min(within)).await {
                    // For the transfer itself, this error would be the end.
                    Err(FetchError::Stalled { .. }) if !matches!(self.transfer.outcome(), Outcome::Failed(_)) => {}
                    result => return result,
                }
            }
        };
        tokio::time::timeout(within, fetched).await.map_or(Ok(false), |fetched| fetched.map(|()| true))
    }

    /// Fetches the bytes of `range` like [`fetch`](Self::fetch), but after everything that readers wait for. While a start
    /// follows a profile, nothing else is fetched in this way.
    ///
    /// # Errors
    /// The same as of [`Download::fetch`].
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
    /// Why they can't be had through this handle, now or later.
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

    /// The bytes of `range` in memory, for the agent itself: they do not count as a program's read.
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

    /// The file with all bytes of `range`.
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

    /// Fails if this try at the source has failed: then the bytes may come from another try, with other content.
    fn is_still_this(&self) -> Result<(), FetchError> {
        match self.transfer.outcome() {
            Outcome::Failed(error) => Err(error),
            Outcome::Open | Outcome::Complete => Ok(()),
        }
    }
}

/// Bytes in memory that count against the limit until dropped.
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
