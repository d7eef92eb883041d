//! A blob's place in the store, for a transfer that begins.
//!
//! A stored part is continued if it is the same source's, or comes from a source that is as good ([`may_go_on_with`]). Otherwise the blob is
//! started over in its place; but not while a transfer reads or writes it: that transfer keeps the place, and the new blob passes through
//! without one. A blob also passes through if the disk refuses it, or does not create it in time.

use std::sync::Arc;
use std::time::Duration;

use darter_core::{BlobId, Manifest, Source, Version};
use darter_origin::Upstreams;
use darter_store::{BlobInfo, Passing, Store, StoreConfig, StoreError, StoredBlob};

use super::Swarms;
use super::proof::may_go_on_with;
use crate::context::dates;
use crate::error::FetchError;
use crate::transfer::passing::lets_pass;

/// How long the disk may take to create a blob before the blob passes through without it.
const NEW_BLOB_TIMEOUT: Duration = Duration::from_secs(4);

/// How often to check whether the reader of what is in a new blob's place has finished, and the number of checks. If it still reads then, it keeps the
/// place, and the new blob passes through without one.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const MAX_LOOKS: u32 = 50;

/// A blob for which a place is to be found.
struct NewBlob {
    blob: BlobId,
    info: BlobInfo,
    manifest: Manifest,
    source: Source,
    /// True if a seed takes it from a node, and has not checked it yet.
    on_trust: bool,
    /// True if no transfer of this agent had the blob.
    is_free: bool,
    registries: Upstreams,
}

impl NewBlob {
    /// Opens what is stored of the blob, or creates it, or starts it over. Blocking.
    fn open_or_begin(&self, store: &dyn Store) -> Result<Arc<dyn StoredBlob>, StoreError> {
        match store.open_or_create(self.blob, self.info.clone(), self.manifest.clone()) {
            Ok(stored) if !stored.is_complete() && self.is_free && !self.may_go_on_with(&*stored) => {
                drop(stored);
                self.begin_anew(store)
            }
            Ok(stored) if !stored.is_complete() && self.on_trust && stored.info().name != self.info.name => {
                Err(StoreError::InUse(self.blob))
            }
            // A part with another piece length is worth less than being compatible with the swarm.
            Err(StoreError::OtherPieces { .. } | StoreError::Manifest { .. }) => self.begin_anew(store),
            other => other,
        }
    }

    /// True if the stored part may be continued. A part that another source has begun keeps that source's name.
    fn may_go_on_with(&self, stored: &dyn StoredBlob) -> bool {
        may_go_on_with(&self.registries, &stored.info().name, &self.source)
    }

    /// Starts the blob over in place of what is stored of it, and keeps it pinned if it was. A blob that is being read or written is not removed.
    ///
    /// # Errors
    /// [`StoreError::InUse`], and those of the store.
    fn begin_anew(&self, store: &dyn Store) -> Result<Arc<dyn StoredBlob>, StoreError> {
        let blob = self.blob;
        let is_pinned = match store.remove(blob) {
            Err(StoreError::Pinned(_)) => {
                store.pin(blob, false)?;
                store.remove(blob)?;
                true
            }
            removed => {
                removed?;
                false
            }
        };
        let stored = store.open_or_create(blob, self.info.clone(), self.manifest.clone())?;
        if is_pinned {
            store.pin(blob, true)?;
        }
        Ok(stored)
    }
}

impl Swarms {
    /// Creates a place for a blob, or finds the existing one. A blob that a seed takes `on_trust` gets a name of its own, so that it is not
    /// continued after a restart; but an existing part that it can continue keeps its place.
    pub(super) async fn create(
        &self,
        blob: BlobId,
        source: &Source,
        version: &Version,
        manifest: Manifest,
        on_trust: bool,
    ) -> Result<Arc<dyn StoredBlob>, FetchError> {
        let context = &self.house.context;
        let info = BlobInfo {
            name: if on_trust { format!("a node's copy of {source}") } else { source.to_string() },
            digest: source.digest(),
            version: version.clone(),
            created: context.unix(),
        };
        let (is_free, registries) = (self.get(blob).is_none(), context.registries.clone());
        let source = source.clone();
        let new = Arc::new(NewBlob { blob, info, manifest, source, on_trust, is_free, registries });
        let created = match tokio::time::timeout(NEW_BLOB_TIMEOUT, self.create_on_disk(&new)).await {
            Ok(created) => created.ok_or(FetchError::Draining)?,
            Err(_) => Err(StoreError::Io {
                action: "use in time",
                path: context.options.data_dir.clone(),
                source: std::io::ErrorKind::TimedOut.into(),
            }),
        };
        match created {
            Ok(stored) => Ok(Passing::over(stored)),
            Err(error) if lets_pass(&error) => {
                {
                    let why: &dyn std::error::Error = &error;
                    tracing::warn!(blob = %blob.short(), name = new.info.name, error = why, "the blob does not fit: it is passed on without being stored");
                }
                let config = StoreConfig::new(dates(&context.clock));
                let passing = move || Passing::in_memory(blob, new.info.clone(), &new.manifest, &config);
                Ok(context.disk.run(passing).await?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Creates or opens the blob in the store. Tries again once if the store is full, after releasing blobs that are idle by now, and up to `MAX_LOOKS` times while
    /// the blob in its place is in use. `None` if this agent is ending, and creates no more blobs.
    async fn create_on_disk(&self, new: &Arc<NewBlob>) -> Option<Result<Arc<dyn StoredBlob>, StoreError>> {
        let (mut looks, mut is_full) = (0, false);
        loop {
            let (begins, creates) = (Arc::clone(new), Arc::clone(&self.creates));
            let begun = self.house.context.disk.on_store(move |store| {
                let creates = creates.read();
                creates.then(|| begins.open_or_begin(store))
            });
            match begun.await? {
                Err(StoreError::Full { .. }) if !is_full => {
                    is_full = true;
                    // Blobs that were in use at the last check may be idle by now.
                    self.all().iter().for_each(|transfer| transfer.may_rest());
                    continue;
                }
                Err(StoreError::InUse(_)) if looks < MAX_LOOKS && !new.on_trust => {}
                begun => return Some(begun),
            }
            looks += 1;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
