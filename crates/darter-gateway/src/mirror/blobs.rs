//! What the mirror needs of an agent: blobs, opened by their source. [`Agent`] gets them from its store and the swarm; the
//! mirror's tests use a stand-in in memory.

use std::time::Duration;

use async_trait::async_trait;
use darter_agent::{Access, Agent, AtHand, Download, FetchError, Misfit, MountRoom, Nearness, Part};
use darter_api::LayerRequest;
use darter_core::source::Credentials;
use darter_core::{BlobId, ByteRange, Digest, Source};
use futures_util::stream::BoxStream;

/// Opens blobs.
#[async_trait]
pub trait Blobs: Send + Sync + 'static {
    /// True if stored content may be served for this source: it came from there, or that registry has delivered it since. Also true if nothing is
    /// stored.
    async fn is_proven(&self, source: &Source) -> bool;

    /// Notes that the source has shown that it has the content it names.
    fn proven(&self, source: &Source);

    /// True if all of this source's content is stored, checked, and may be served for it.
    async fn is_whole(&self, source: &Source) -> bool;

    /// Opens a blob, either because the whole is wanted (`everything`) or only lone ranges of it. The caller has made sure that these credentials may read it:
    /// stored content is served without asking its origin again.
    ///
    /// # Errors
    /// The origin's refusal, or a failure of the agent itself; [`FetchError::Unproven`] if the content is stored, but
    /// nothing shows that this source has it.
    async fn open(
        &self,
        source: Source,
        credentials: Credentials,
        everything: bool,
    ) -> Result<Box<dyn Blob>, FetchError>;
}

/// Supplies layers in the form that the kernel mounts.
#[async_trait]
pub trait MountableLayers: Send + Sync + 'static {
    /// Opens a layer in mountable form, within this time. The caller has made sure that these credentials may read it.
    ///
    /// # Errors
    /// Why it can't be mounted, or not yet.
    async fn expanded(
        &self,
        layer: &LayerRequest,
        credentials: Credentials,
        within: Duration,
    ) -> Result<Mountable, FetchError>;

    /// Fetches what every mount reads of these layers of an image, which are open. `room` is the image's.
    fn fetch_for_mount(&self, layers: &[BlobId], room: &mut MountRoom);

    /// The image with these layers will not be mounted: stops the work on their expanded form that only this image needed.
    fn let_go(&self, diff_ids: &[Digest]);

    /// Compares the layers of an image, given the lowest first, which are open. Returns a directory that would differ between the mounted and the
    /// unpacked image, if there is one.
    ///
    /// # Errors
    /// Why that can't be found out, or not within this time.
    async fn misfit(&self, layers: Vec<BlobId>, within: Duration) -> Result<Option<Misfit>, FetchError>;

    /// True if a layer's tar has entries for all of its directories, so that the layers below need not be compared with it. False if that is not known within
    /// this time.
    async fn names_all(&self, layer: BlobId, within: Duration) -> bool;

    /// For each of `blobs`, true if its bytes can be had without opening it again: it is open and has not failed, or is complete.
    async fn are_ready(&self, blobs: Vec<BlobId>) -> Vec<bool>;

    /// How much of each of these blobs is stored.
    async fn at_hand(&self, blobs: Vec<BlobId>) -> Vec<AtHand>;

    /// Protects blobs from eviction, or ends that.
    async fn spare(&self, blobs: Vec<BlobId>, spared: bool);
}

/// A layer in mountable form. Both values follow from its tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mountable {
    /// The blob.
    pub blob: BlobId,
    /// Its length.
    pub length: u64,
}

/// A blob that is being fetched, or is stored. Dropping it ends the interest in it.
pub trait Blob: Send + Sync + 'static {
    /// Length in bytes, if known.
    fn length(&self) -> Option<u64>;

    /// How much of it is stored, in any unit: shows whether the transfer makes progress.
    fn held(&self) -> u64;

    /// For how much of the time since the last byte its origin asked not to be asked.
    fn excused(&self) -> Duration;

    /// How near the byte at offset `at` is, for a reader of a `lone` range or of everything in order.
    fn nearness(&self, at: u64, lone: bool) -> Nearness;

    /// Verified bytes of `range` (everything if `None`), in order, as they arrive. Ends early only with an error.
    fn parts(&self, range: Option<ByteRange>) -> BoxStream<'static, Result<Part, FetchError>>;

    /// Verified bytes of a lone range: they do not wait until the whole was checked.
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

    fn fetch_for_mount(&self, layers: &[BlobId], room: &mut MountRoom) {
        Self::fetch_for_mount(self, layers, room);
    }

    fn let_go(&self, diff_ids: &[Digest]) {
        self.let_go_of_layers(diff_ids);
    }

    async fn misfit(&self, layers: Vec<BlobId>, within: Duration) -> Result<Option<Misfit>, FetchError> {
        Self::misfit(self, &layers, within).await
    }

    async fn names_all(&self, layer: BlobId, within: Duration) -> bool {
        Self::names_all(self, layer, within).await
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
