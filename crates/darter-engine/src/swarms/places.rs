//! A blob's place in the store, for a transfer that begins.
//!
//! A stored part is continued if it is the same source's, or comes from a source that is as good ([`may_go_on_with`]). Otherwise the blob is
//! started over in its place; but not while a transfer reads or writes it: that transfer keeps the place, and the new blob passes through
//! without one. A blob also passes through if the disk refuses it, or does not create it in time.

use std::sync::Arc;
use std::time::Duration;

use darter_core::{BlobId, Manifest, Source, Version};
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
        let info = BlobInfo {
            name: if on_trust { format!("a node's copy of {source}") } else { source.to_string() },
            digest: source.digest(),
            version: version.clone(),
            created: self.house.context.unix(),
        };
        let (name, whole) = (info.clone(), manifest.clone());
        let disk = &self.house.context.disk;
        // A part that another source has begun is continued under that source's
        // name.
        let (is_free, asked) = (self.get(blob).is_none(), source.clone());
        let registries = self.house.context.registries.clone();
        let begin =
            Arc::new(move |store: &dyn Store| match store.open_or_create(blob, info.clone(), manifest.clone()) {
                Ok(stored)
                    if is_free
                        && !stored.is_complete()
                        && !may_go_on_with(&registries, &stored.info().name, &asked) =>
                {
                    drop(stored);
                    begin_anew(store, blob, info.clone(), manifest.clone())
                }
                Ok(stored) if on_trust && !stored.is_complete() && stored.info().name != info.name => {
                    Err(StoreError::InUse(blob))
                }
                // A part with another piece length is worth less than being compatible with the swarm.
                Err(StoreError::OtherPieces { .. } | StoreError::Manifest { .. }) => {
                    begin_anew(store, blob, info.clone(), manifest.clone())
                }
                other => other,
            });
        let created = async {
            let (mut looks, mut is_full) = (0, false);
            loop {
                let (begin, creates) = (Arc::clone(&begin), Arc::clone(&self.creates));
                let begun = disk.on_store(move |store| {
                    let creates = creates.read();
                    creates.then(|| begin(store))
                });
                match begun.await {
                    None => return None,
                    Some(Err(StoreError::Full { .. })) if !is_full => {
                        is_full = true;
                        // Blobs that were in use at the last check may be idle by now.
                        self.all().iter().for_each(|transfer| transfer.may_rest());
                        continue;
                    }
                    Some(Err(StoreError::InUse(_))) if looks < MAX_LOOKS && !on_trust => {}
                    begun => return begun,
                }
                looks += 1;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let created = match tokio::time::timeout(NEW_BLOB_TIMEOUT, created).await {
            Ok(created) => created.ok_or(FetchError::Draining)?,
            Err(_) => Err(StoreError::Io {
                action: "use in time",
                path: self.house.context.options.data_dir.clone(),
                source: std::io::ErrorKind::TimedOut.into(),
            }),
        };
        match created {
            Ok(stored) => Ok(Passing::over(stored)),
            Err(error) if lets_pass(&error) => {
                {
                    let why: &dyn std::error::Error = &error;
                    tracing::warn!(blob = %blob.short(), name = name.name, error = why, "the blob does not fit: it is passed on without being stored");
                }
                let config = StoreConfig::new(dates(&self.house.context.clock));
                Ok(disk.run(move || Passing::in_memory(blob, name, &whole, &config)).await?)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Starts a blob over in place of what is stored of it. A blob that is being read or written is not removed.
///
/// # Errors
/// [`StoreError::InUse`], and those of the store.
fn begin_anew(
    store: &dyn Store,
    blob: BlobId,
    info: BlobInfo,
    manifest: Manifest,
) -> Result<Arc<dyn StoredBlob>, StoreError> {
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
    let stored = store.open_or_create(blob, info, manifest)?;
    if is_pinned {
        store.pin(blob, true)?;
    }
    Ok(stored)
}
