//! [`Backend`]: what a keeper needs from the disk or from memory, where its blobs are.

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
    /// Increases with each use.
    pub(crate) order: u64,
    /// Seconds since 1970, for people.
    pub(crate) at: u64,
}

/// A place for blobs. Methods that take a blob's id are never called for the same blob at the same time, except the ones
/// of the index, which are cheap and may be called from anywhere.
pub(crate) trait Backend: Send + Sync + 'static {
    /// The medium that holds a blob's bytes.
    type Medium: Medium;

    /// Creates an empty place for a new blob's bytes.
    fn create(&self, blob: BlobId) -> Result<Self::Medium>;

    /// Loads the saved state of a blob; `None` if it is missing or damaged.
    fn load(&self, blob: BlobId) -> Result<Option<(Sidecar, Self::Medium)>>;

    /// Makes a blob's bytes durable, and then `sidecar`, which describes them.
    ///
    /// # Errors
    /// [`SaveError::Bytes`] if bytes that were written may be lost.
    fn save(&self, sidecar: &Sidecar, medium: &Self::Medium) -> Result<(), SaveError>;

    /// Removes a blob, quickly, since a caller waits for its space. The result has to be given to [`dispose`](Self::dispose).
    fn remove(&self, blob: BlobId) -> Result<Option<String>>;

    /// Frees the space of a removed blob on the disk, which may take long.
    fn dispose(&self, trash: String);

    /// True if the body of an unused blob may be dropped, since [`load`](Self::load) loads it again.
    fn unloads(&self) -> bool;

    /// The file with a blob's bytes, if they are in a file.
    fn path(&self, _: BlobId) -> Option<PathBuf> {
        None
    }

    /// The file system of the blobs; `None` if only the quota limits them.
    fn space(&self) -> Option<Space>;

    /// The files that were not used at the start because a newer version wrote them.
    fn set_aside(&self) -> SetAside {
        SetAside::default()
    }

    /// Wakes the thread that evicts in the background; false if there is none.
    fn wake(&self) -> bool;

    /// Records a use.
    fn note_use(&self, blob: BlobId, last_use: LastUse);

    /// Records that a blob is gone, and forgets the sources of which it was the content.
    fn forget(&self, blob: BlobId);

    /// Records the content of a source.
    fn remember(&self, key: BlobId, record: SourceRecord);

    /// The record of a source.
    fn recall(&self, key: BlobId) -> Result<Option<SourceRecord>>;

    /// Makes all records durable.
    fn commit(&self) -> Result<()>;
}

/// Why a blob was not saved.
pub(crate) enum SaveError {
    /// Its bytes could not be made durable.
    Bytes(crate::StoreError),
    /// Its sidecar could not be written; the previous one is still valid.
    Sidecar(crate::StoreError),
}
