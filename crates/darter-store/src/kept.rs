//! Stores that leave everything to their keeper: each call is passed to it. The guard checks that calls that may wait for the disk are made on threads that may wait.

use std::path::PathBuf;
use std::sync::Arc;

use darter_core::{BlobId, Manifest};

use crate::backend::Backend;
use crate::error::Result;
use crate::keeper::Keeper;
use crate::store::{Amount, BlobInfo, BlobSummary, SetAside, SourceRecord, Store, StoredBlob, Usage};

/// A store that leaves everything to its keeper.
pub(crate) trait Kept: Send + Sync {
    type Backend: Backend;

    fn keeper(&self) -> &Arc<Keeper<Self::Backend>>;
}

impl<T: Kept> Store for T {
    fn open(&self, blob: BlobId) -> Result<Option<Arc<dyn StoredBlob>>> {
        self.keeper().guard.enter("open");
        Ok(self.keeper().open(blob)?.map(|handle| handle as Arc<dyn StoredBlob>))
    }

    fn is_absent(&self, blob: BlobId) -> bool {
        self.keeper().is_absent(blob)
    }

    fn open_or_create(&self, blob: BlobId, info: BlobInfo, manifest: Manifest) -> Result<Arc<dyn StoredBlob>> {
        self.keeper().guard.enter("open_or_create");
        Ok(self.keeper().open_or_create(blob, info, &manifest)?)
    }

    fn list(&self) -> Vec<BlobSummary> {
        self.keeper().guard.enter("list");
        self.keeper().list()
    }

    fn remove(&self, blob: BlobId) -> Result<bool> {
        self.keeper().guard.enter("remove");
        self.keeper().remove(blob)
    }

    fn pin(&self, blob: BlobId, pinned: bool) -> Result<()> {
        self.keeper().guard.enter("pin");
        self.keeper().pin(blob, pinned)
    }

    fn spare(&self, blob: BlobId, spared: bool) {
        self.keeper().spare(blob, spared);
    }

    fn path(&self, blob: BlobId) -> Option<PathBuf> {
        self.keeper().path(blob)
    }

    fn touch(&self, blob: BlobId) {
        self.keeper().touch(blob);
    }

    fn usage(&self) -> Usage {
        self.keeper().usage()
    }

    fn set_aside(&self) -> SetAside {
        self.keeper().backend.set_aside()
    }

    fn set_limits(&self, quota: Option<Amount>, reserve: Amount) {
        self.keeper().guard.enter("set_limits");
        self.keeper().set_limits(quota, reserve);
    }

    fn remember_source(&self, key: BlobId, record: SourceRecord) {
        self.keeper().backend.remember(key, record);
    }

    fn recall_source(&self, key: BlobId) -> Result<Option<SourceRecord>> {
        self.keeper().guard.enter("recall_source");
        self.keeper().recall(key)
    }

    fn flush(&self) -> Result<()> {
        self.keeper().guard.enter("flush");
        self.keeper().flush()
    }
}
