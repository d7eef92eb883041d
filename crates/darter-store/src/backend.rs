//! The place that a keeper keeps blobs in, as the keeper needs it.

use std::path::PathBuf;

use darter_core::BlobId;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::medium::Medium;
use crate::sidecar::Sidecar;
use crate::space::Space;
use crate::store::{SetAside, SourceRecord};

/// When a blob was last used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LastUse {
    /// Greater than that of every use before.
    pub(crate) order: u64,
    /// Seconds since 1970, for people.
    pub(crate) at: u64,
}

/// A place for blobs. Methods that take a blob's id are never called for the same blob at the same time, except the ones
/// of the index, which are cheap and may be called from anywhere.
pub(crate) trait Backend: Send + Sync + 'static {
    /// The medium that holds a blob's bytes.
    type Medium: Medium;

    /// An empty place for a new blob's bytes.
    fn create(&self, blob: BlobId) -> Result<Self::Medium>;

    /// The saved state of a blob; `None` when it is gone or damaged.
    fn load(&self, blob: BlobId) -> Result<Option<(Sidecar, Self::Medium)>>;

    /// Makes a blob's bytes durable, then what `sidecar` says of them.
    ///
    /// # Errors
    /// [`SaveError::Bytes`] when what was written may be lost.
    fn save(&self, sidecar: &Sidecar, medium: &Self::Medium) -> Result<(), SaveError>;

    /// Takes a blob away: quickly, since the caller that wants its room waits. The result is to be given to [`dispose`](Self::dispose).
    fn remove(&self, blob: BlobId) -> Result<Option<String>>;

    /// Gives the disk back what a removed blob took: may be slow.
    fn dispose(&self, trash: String);

    /// True if a blob that nobody uses can be loaded again after its body was dropped.
    fn unloads(&self) -> bool;

    /// The file that a blob's bytes are in, if they are in one.
    fn path(&self, _: BlobId) -> Option<PathBuf> {
        None
    }

    /// The file system that the blobs are on; `None` where only the quota counts.
    fn space(&self) -> Option<Space>;

    /// The files that were not used at the start because a newer version wrote them.
    fn set_aside(&self) -> SetAside {
        SetAside::default()
    }

    /// Wakes the thread that evicts in the background; false if there is none.
    fn wake(&self) -> bool;

    /// Notes a use.
    fn note_use(&self, blob: BlobId, last_use: LastUse);

    /// Notes that a blob is gone, and with it the sources that it was remembered for.
    fn forget(&self, blob: BlobId);

    /// Notes what a source was.
    fn remember(&self, key: BlobId, record: SourceRecord);

    /// The record of a source.
    fn recall(&self, key: BlobId) -> Result<Option<SourceRecord>>;

    /// Makes what was noted durable.
    fn commit(&self) -> Result<()>;
}

/// Why a blob was not saved.
pub(crate) enum SaveError {
    /// Its bytes could not be made durable.
    Bytes(crate::StoreError),
    /// Its sidecar could not be written; the one before stands.
    Sidecar(crate::StoreError),
}
