//! [`Agent`], the handle on a running agent.

use std::sync::Arc;

use bytes::Bytes;
use darter_core::source::Credentials;
use darter_core::{BlobId, ByteRange, Source};
use futures_util::stream::BoxStream;

use crate::api;
use crate::error::{FetchError, StartError};
use crate::options::Options;

/// A running agent. Cheap to clone.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {}

/// One blob being fetched or already here. Dropping it ends this caller's interest; the blob stays in the store.
pub struct Download {}

impl Agent {
    /// Starts an agent: opens the store, listens, joins. Ready when it returns.
    pub async fn start(_options: Options) -> Result<Self, StartError> {
        todo!()
    }
    /// Opens a blob: answers once the origin's (or the swarm's) first word on it is in, so that "no such file" and
    /// "not allowed" come from here and not from the stream.
    pub async fn open(&self, _source: Source, _credentials: Credentials) -> Result<Download, FetchError> {
        let _ = &self.inner;
        todo!()
    }
    /// The agent at a glance.
    pub fn status(&self) -> api::Status {
        todo!()
    }
    /// Blobs in the store.
    pub async fn list(&self) -> Result<Vec<api::BlobRow>, FetchError> {
        todo!()
    }
    /// Removes a blob by id (or a prefix of it), digest or URL. `Ok(None)`: no such blob.
    pub async fn remove(&self, _name: &str) -> Result<Option<BlobId>, FetchError> {
        todo!()
    }
    /// Where a blob's bytes came from. `None`: nothing known of it.
    pub async fn explain(&self, _name: &str) -> Option<api::Explanation> {
        todo!()
    }
    /// How far a blob is.
    pub fn progress(&self, _blob: BlobId) -> Option<api::Progress> {
        todo!()
    }
    /// Takes no new work, lets transfers under way end (up to the drain timeout), writes everything down.
    pub async fn drain(&self) {
        todo!()
    }
}

impl Download {
    /// The blob's id.
    pub fn blob(&self) -> BlobId {
        todo!()
    }
    /// Its length, once known (an origin may not say).
    pub fn length(&self) -> Option<u64> {
        todo!()
    }
    /// Verified bytes in order, from the first byte of `range` (everything if `None`) as they arrive. Ends with an
    /// error rather than short.
    pub fn stream(&self, _range: Option<ByteRange>) -> BoxStream<'static, Result<Bytes, FetchError>> {
        todo!()
    }
    /// How far it is.
    pub fn progress(&self) -> api::Progress {
        todo!()
    }
}
