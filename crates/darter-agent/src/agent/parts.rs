//! Parts of a blob on demand, for whoever keeps it open and reads here and there: a mount. Goes on with `impl Download`.
//!
//! What is waited for is said to the swarm for a few seconds at a time, however long the caller can wait: whoever waits with a short
//! deadline goes first, and a program that stands still on a page is somebody who waits.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_core::{ByteRange, PieceHash, PieceIndex, PieceLength};
use darter_engine::FetchError;
use darter_engine::transfer::Outcome;
use darter_engine::transfer::stream::Part;
use darter_engine::transfer::wants::KeptOpen;
use futures_util::TryStreamExt as _;

use super::Download;

/// The deadline that is told for a range at a time.
const URGENT: Duration = Duration::from_secs(5);

/// Verified bytes, as whoever asked for a part gets them.
#[derive(Debug)]
pub enum Held {
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

    /// The hashes of the pieces that `range` touches; `None` while one of them is not known.
    pub fn hashes(&self, range: ByteRange) -> Option<Vec<PieceHash>> {
        let pieces = self.transfer.piece_length.pieces_of(range);
        pieces.map(|piece| self.transfer.stored.hash(PieceIndex(piece))).collect()
    }

    /// All of it is wanted from now on, by whoever reads parts of it: what these wait for still comes first.
    pub fn want_everything(&self) {
        self.transfer.want_everything();
    }

    /// Counts as use until it is dropped, though nothing is read: the blob is not evicted, not removed, and not put away.
    pub fn keep_open(&self) -> KeptOpen {
        self.transfer.keep_open()
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

    /// The same without hurry: whoever waits for other bytes goes first.
    ///
    /// # Errors
    /// As [`Download::fetch`].
    pub async fn fetch_ahead(&self, range: ByteRange, within: Duration) -> Result<bool, FetchError> {
        match self.ensure(range, within.max(2 * URGENT)).await {
            Err(FetchError::Stalled { .. }) if !matches!(self.transfer.outcome(), Outcome::Failed(_)) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// The bytes of `range`, verified; `None` if they are not here within this time.
    ///
    /// # Errors
    /// Why they can't be had by this handle, now or later.
    pub async fn part(&self, range: ByteRange, within: Duration) -> Result<Option<Held>, FetchError> {
        let given = async {
            if !self.fetch(range, within).await? {
                return Ok(None);
            }
            let parts: Vec<_> = self.parts_of(range).try_collect().await?;
            self.is_still_this()?;
            let held = match in_one_file(&parts) {
                Some(file) => Held::File(file),
                None => Held::Bytes(self.memory_of(range).await?),
            };
            Ok(Some(held))
        };
        tokio::time::timeout(within, given).await.unwrap_or(Ok(None))
    }

    async fn memory_of(&self, range: ByteRange) -> Result<Bytes, FetchError> {
        let mut all = Vec::with_capacity(usize::try_from(range.len()).unwrap_or_default());
        let mut bytes = self.bytes_of(range);
        while let Some(some) = bytes.try_next().await? {
            all.extend_from_slice(&some);
        }
        self.is_still_this()?;
        Ok(all.into())
    }

    /// What is read may come of another try at the source once this one has failed: of other content, maybe.
    fn is_still_this(&self) -> Result<(), FetchError> {
        match self.transfer.outcome() {
            Outcome::Failed(error) => Err(error),
            Outcome::Open | Outcome::Complete => Ok(()),
        }
    }
}

/// The file that all parts are in.
fn in_one_file(parts: &[Part]) -> Option<Arc<File>> {
    let file_of = |part: &Part| match part {
        Part::File(part) => Some(Arc::clone(&part.file)),
        Part::Bytes(_) => None,
    };
    let first = file_of(parts.first()?)?;
    parts.iter().all(|part| file_of(part).is_some_and(|file| Arc::ptr_eq(&file, &first))).then_some(first)
}
