//! The agent as the mirror needs it: blobs, opened by their source. [`Agent`] gives them from store and swarm; the
//! mirror's tests have a twin in memory.

use std::time::Duration;

use async_trait::async_trait;
use darter_agent::{Access, Agent, AtHand, Download, FetchError, Misfit, Nearness, Part};
use darter_api::LayerRequest;
use darter_core::source::Credentials;
use darter_core::{BlobId, ByteRange, Digest, Source};
use futures_util::stream::BoxStream;

/// Gives blobs.
#[async_trait]
pub trait Blobs: Send + Sync + 'static {
    /// True if content at hand may be given for this source: it came from there, or that registry delivered it since. True when nothing is
    /// at hand.
    async fn is_proven(&self, source: &Source) -> bool;

    /// Notes that the source has shown to have the content it names.
    fn proven(&self, source: &Source);

    /// True if all of this source's content is at hand, checked, and may be given for it.
    async fn is_whole(&self, source: &Source) -> bool;

    /// Opens a blob, of which `everything` is wanted or lone parts alone. The caller has made sure that these credentials may read it:
    /// content at hand is given without asking its origin again.
    ///
    /// # Errors
    /// The origin's refusal, or a failure of the agent's own; [`FetchError::Unproven`] when the content is at hand, but
    /// nothing shows that this source has it.
    async fn open(
        &self,
        source: Source,
        credentials: Credentials,
        everything: bool,
    ) -> Result<Box<dyn Blob>, FetchError>;
}

/// Gives layers in the form that the kernel mounts.
#[async_trait]
pub trait MountableLayers: Send + Sync + 'static {
    /// Opens a layer in the form that the kernel mounts, within this time. The caller has made sure that these credentials may read it.
    ///
    /// # Errors
    /// Why it can't be mounted, or not now.
    async fn expanded(
        &self,
        layer: &LayerRequest,
        credentials: Credentials,
        within: Duration,
    ) -> Result<Mountable, FetchError>;

    /// These are the layers of an image, and open: somebody is about to mount all of them.
    fn fetch_for_mount(&self, layers: &[BlobId]);

    /// An image whose layers have these tars is not going to be mounted: nobody needs what else comes of their expanded form.
    fn let_go(&self, diff_ids: &[Digest]);

    /// `layers` are the layers of an image, the lowest first, and open. Answers with a directory that mounting them would make other than
    /// unpacking the image does, if there is one.
    ///
    /// # Errors
    /// Why that can't be found out, or not within this time.
    async fn misfit(&self, layers: Vec<BlobId>, within: Duration) -> Result<Option<Misfit>, FetchError>;

    /// For each of `blobs`, true if its parts can be had without opening it anew: it is open, and has not failed, or all of it is here.
    async fn are_ready(&self, blobs: Vec<BlobId>) -> Vec<bool>;

    /// How much of each of these blobs is here.
    async fn at_hand(&self, blobs: Vec<BlobId>) -> Vec<AtHand>;

    /// Spares blobs from eviction, or not any more.
    async fn spare(&self, blobs: Vec<BlobId>, spared: bool);
}

/// A layer in the form that the kernel mounts. Both follow from its tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mountable {
    /// The blob.
    pub blob: BlobId,
    /// Its length.
    pub length: u64,
}

/// A blob being fetched, or at hand. Dropping it ends the interest in it.
pub trait Blob: Send + Sync + 'static {
    /// Length in bytes, if known.
    fn length(&self) -> Option<u64>;

    /// How much of it is here, in any unit: tells whether it moves.
    fn held(&self) -> u64;

    /// How much of the time since something last came its origin asked to be let alone.
    fn excused(&self) -> Duration;

    /// The nearness of the byte at offset `at`, for a reader of a `lone` range or of everything in order.
    fn nearness(&self, at: u64, lone: bool) -> Nearness;

    /// Verified bytes of `range` (everything if `None`) in order, as they arrive; an error rather than a short end.
    fn parts(&self, range: Option<ByteRange>) -> BoxStream<'static, Result<Part, FetchError>>;

    /// Verified bytes of a range that is no part of a reading of everything: its bytes don't wait for the whole to be checked.
    fn lone_parts(&self, range: ByteRange) -> BoxStream<'static, Result<Part, FetchError>>;
}

#[async_trait]
impl Blobs for Agent {
    async fn is_proven(&self, source: &Source) -> bool {
        Self::is_proven(self, source).await
    }

    fn proven(&self, source: &Source) {
        Self::proven(self, source);
    }

    async fn is_whole(&self, source: &Source) -> bool {
        Self::is_whole(self, source).await
    }

    async fn open(
        &self,
        source: Source,
        credentials: Credentials,
        everything: bool,
    ) -> Result<Box<dyn Blob>, FetchError> {
        let download = self.open_named(source, credentials, everything).await?;
        Ok(Box::new(download))
    }
}

#[async_trait]
impl MountableLayers for Agent {
    async fn expanded(
        &self,
        layer: &LayerRequest,
        credentials: Credentials,
        within: Duration,
    ) -> Result<Mountable, FetchError> {
        let download = Self::expanded(self, layer, credentials, Access::Granted, within).await?;
        let length = download.length_when_known().await?;
        Ok(Mountable { blob: download.blob(), length })
    }

    fn fetch_for_mount(&self, layers: &[BlobId]) {
        Self::fetch_for_mount(self, layers);
    }

    fn let_go(&self, diff_ids: &[Digest]) {
        self.let_go_of_layers(diff_ids);
    }

    async fn misfit(&self, layers: Vec<BlobId>, within: Duration) -> Result<Option<Misfit>, FetchError> {
        Self::misfit(self, &layers, within).await
    }

    async fn are_ready(&self, blobs: Vec<BlobId>) -> Vec<bool> {
        Self::are_ready(self, blobs).await
    }

    async fn at_hand(&self, blobs: Vec<BlobId>) -> Vec<AtHand> {
        Self::at_hand(self, blobs).await
    }

    async fn spare(&self, blobs: Vec<BlobId>, spared: bool) {
        Self::spare(self, blobs, spared).await;
    }
}

impl Blob for Download {
    fn length(&self) -> Option<u64> {
        Self::length(self)
    }

    fn held(&self) -> u64 {
        Self::held(self)
    }

    fn excused(&self) -> Duration {
        Self::excused(self)
    }

    fn nearness(&self, at: u64, lone: bool) -> Nearness {
        Self::nearness(self, at, lone)
    }

    fn parts(&self, range: Option<ByteRange>) -> BoxStream<'static, Result<Part, FetchError>> {
        Self::parts(self, range)
    }

    fn lone_parts(&self, range: ByteRange) -> BoxStream<'static, Result<Part, FetchError>> {
        Self::parts_of(self, range)
    }
}
