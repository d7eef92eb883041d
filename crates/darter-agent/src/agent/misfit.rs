//! Misfits: directories that would differ between the mounted and the unpacked image. A part of `impl Agent`.
//!
//! If a layer has entries in a directory but no entry for the directory itself, the unpacked directory has the attributes from the layers below ([`inherited`]). No layer's file contains these, so an image in which
//! it matters is not mounted.
//!
//! A layer with entries for all of its directories need not be compared, and its lead says so ([`Naming`](darter_wire::Message::Naming)).
//! Metadata is read only for an image in which some layer lacks an entry.

use std::time::Duration;

use darter_core::source::Credentials;
use darter_core::{BlobId, ByteRange};
use darter_engine::FetchError;
use darter_image::{LayerDirectories, TAR_START, Unsound, inherited, metadata_at};
use darter_origin::Requester;
use darter_store::threads;
use futures_util::future::{Either, select, try_join_all};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Agent, Download};

/// How many bytes of metadata are in memory at a time for an image: about 100 MB for a million files.
const MAX_COMPARED: u64 = 128 << 20;

/// The unit of the semaphore for memory, in bytes.
const UNIT: u64 = 1 << 10;

/// How many bytes are read at a time.
const CHUNK: u64 = 4 << 20;

/// A difference between the mounted and the unpacked image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The layers with entries in such a directory but none for it, counted from 0 at the bottom; empty if the layers can't be compared at all.
    pub layers: Vec<usize>,
    /// The first such directory, or why the layers can't be compared, as text.
    pub why: String,
}

/// Why layers can't be compared now, or what differs.
enum Found {
    Failed(FetchError),
    Misfit(Misfit),
}

/// The layers can never be compared.
fn unsaid(why: impl Into<String>) -> Found {
    Found::Misfit(Misfit { layers: Vec::new(), why: why.into() })
}

fn too_many() -> Found {
    unsaid("its layers have too many files to be compared")
}

impl From<Unsound> for Found {
    fn from(error: Unsound) -> Self {
        unsaid(error.to_string())
    }
}

impl From<FetchError> for Found {
    fn from(error: FetchError) -> Self {
        Self::Failed(error)
    }
}

impl Agent {
    /// Compares the expanded layers of an image, given the lowest first, which are open. Returns a directory that would differ between the mounted and the unpacked image, if
    /// there is one; or why the layers can't be compared, if they never can.
    ///
    /// # Errors
    /// Why they can't be compared now; [`FetchError::Silent`] after this time.
    pub async fn misfit(&self, layers: &[BlobId], within: Duration) -> Result<Option<Misfit>, FetchError> {
        match tokio::time::timeout(within, self.compare(layers, within)).await {
            Ok(Ok(())) => Ok(None),
            Ok(Err(Found::Misfit(what))) => Ok(Some(what)),
            Ok(Err(Found::Failed(error))) => Err(error),
            Err(_) => Err(FetchError::Silent),
        }
    }

    /// True if an open layer has entries for all of its directories, according to its lead. False if that is not known within this time. Reads nothing.
    pub async fn names_all(&self, layer: BlobId, within: Duration) -> bool {
        let Some(transfer) = self.inner.swarms.get(layer) else { return false };
        tokio::time::timeout(within, transfer.names_all()).await.unwrap_or(false)
    }

    async fn compare(&self, layers: &[BlobId], within: Duration) -> Result<(), Found> {
        // The lowest layer has no layers below from which a directory could have attributes.
        let above = layers.get(1..).unwrap_or_default();
        let room = MetadataRoom::default();
        let name_all = try_join_all(above.iter().map(|layer| self.looks_named(*layer, &room, within))).await?;
        if name_all.iter().all(|names_all| *names_all) {
            return Ok(());
        }
        let metadata = try_join_all(layers.iter().map(|layer| self.metadata_of(*layer, within))).await?;
        if metadata.iter().map(|it| it.range.len()).sum::<u64>() > MAX_COMPARED {
            return Err(too_many());
        }
        let compared = try_join_all(metadata.iter().map(|it| it.read(within))).await?;
        let mut inherited = threads::run(move || inherited(&compared)).await?;
        inherited.retain(|it| !it.is_covered);
        let Some(first) = inherited.first() else { return Ok(()) };
        let mut layers: Vec<_> = inherited.iter().map(|it| it.layer).collect();
        layers.dedup();
        Err(Found::Misfit(Misfit { layers, why: first.to_string() }))
    }

    /// True if a layer has entries for all of its directories, according to its lead or else its metadata.
    async fn looks_named(&self, layer: BlobId, room: &MetadataRoom, within: Duration) -> Result<bool, Found> {
        let transfer = self.inner.swarms.get(layer).ok_or(FetchError::Silent)?;
        let look = async {
            let metadata = self.metadata_of(layer, within).await?;
            let _room = room.take(metadata.range.len()).await.ok_or_else(too_many)?;
            let directories = metadata.read(within).await?;
            let unnamed = threads::run(move || directories.maybe_unnamed()).await;
            Ok(unnamed?.is_empty())
        };
        // The lead's answer is preferred if it has arrived already.
        match select(Box::pin(transfer.names_all()), Box::pin(look)).await {
            Either::Left((names_all, _)) => Ok(names_all),
            Either::Right((looked, _)) => looked.inspect(|names_all| transfer.found_naming(*names_all)),
        }
    }

    /// The range of a layer's metadata.
    async fn metadata_of(&self, layer: BlobId, within: Duration) -> Result<Metadata, Found> {
        let download = self.opened(layer).ok_or(FetchError::Silent)?;
        let length = download.length_when_known().await?;
        let beginning = download.bytes_at(ByteRange::new(0, TAR_START.min(length)), within).await?;
        let unsound = || unsaid("its layers can't be compared: one has no metadata");
        let start = metadata_at(&beginning).filter(|start| *start < length).ok_or_else(unsound)?;
        Ok(Metadata { download, beginning, range: ByteRange::new(start, length) })
    }

    /// A blob that is open.
    fn opened(&self, blob: BlobId) -> Option<Download> {
        let transfer = self.inner.swarms.get(blob)?;
        Some(Download {
            swarms: std::sync::Arc::clone(&self.inner.swarms),
            _hold: transfer.hold()?,
            transfer,
            credentials: Credentials::none(),
            requester: Requester::Named,
            inline: std::sync::Arc::clone(&self.inner.inline),
            before: darter_api::Traffic::default(),
        })
    }
}

/// A layer's metadata, which may not be here yet.
struct Metadata {
    download: Download,
    beginning: Vec<u8>,
    range: ByteRange,
}

impl Metadata {
    async fn read(&self, within: Duration) -> Result<LayerDirectories, Found> {
        let (download, end) = (&self.download, self.range.end());
        let mut metadata = Vec::with_capacity(usize::try_from(self.range.len()).unwrap_or_default());
        // All of it is requested at once, and read in parts.
        download.fetch(self.range, within).await?;
        for at in (self.range.start()..end).step_by(CHUNK as usize) {
            metadata.extend(download.bytes_at(ByteRange::new(at, (at + CHUNK).min(end)), within).await?);
        }
        Ok(LayerDirectories::new(&self.beginning, metadata)?)
    }
}

/// The memory for the metadata of layers that are examined: if there is not enough, the next layer waits.
struct MetadataRoom(Semaphore);

impl Default for MetadataRoom {
    fn default() -> Self {
        Self(Semaphore::new((MAX_COMPARED / UNIT) as usize))
    }
}

impl MetadataRoom {
    /// Reserves `bytes` of memory; `None` if there will never be that much.
    async fn take(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).ok().filter(|_| bytes <= MAX_COMPARED)?;
        self.0.acquire_many(units).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn layers_of_one_image_share_the_room_for_metadata_and_wait_for_each_other() {
        let room = MetadataRoom::default();
        let take = |bytes| room.take(bytes).now_or_never();
        assert!(matches!(take(MAX_COMPARED + 1), Some(None)), "it would wait for ever");
        let first = take(MAX_COMPARED - 10 * UNIT).flatten().expect("nobody else is there");
        let second = take(10 * UNIT - 1).flatten().expect("it fits beside the first");
        assert!(take(1).is_none(), "it waits");
        drop(second);
        assert!(take(UNIT).flatten().is_some() && take(MAX_COMPARED).is_none());
        drop(first);
        assert!(take(MAX_COMPARED).flatten().is_some());
    }
}
