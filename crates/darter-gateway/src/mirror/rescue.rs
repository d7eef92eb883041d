//! Reads a blob, or a range of it, from its upstream without the agent, with the caller's own credentials.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_core::Digest;
use darter_core::source::Credentials;
use darter_metrics::{Metrics, MirrorKind};
use darter_origin::{Answer, OriginError, RegistryClient, Upstream};
use futures_util::{Stream, StreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::Instant;

use crate::body::Body;
use crate::mirror::grants::Scope;
use crate::mirror::wrong::WrongDigests;

/// How many bytes are requested from the upstream at a time, if the agent is to continue after them.
const SLICE: u64 = 4 << 20;

/// What is needed to read one blob from its upstream, for one caller.
pub(crate) struct Rescue {
    pub(crate) registry: RegistryClient,
    pub(crate) upstream: Upstream,
    pub(crate) path: String,
    pub(crate) credentials: Credentials,
    pub(crate) metrics: Arc<Metrics>,
    /// The digest that the blob must have.
    pub(crate) digest: Digest,
    /// The repository of the blob.
    pub(crate) scope: Scope,
    /// Where wrong content is reported.
    pub(crate) wrong: WrongDigests,
    /// How long the upstream may take until its answer begins, in the middle of a body.
    pub(crate) wait: Duration,
}

impl Rescue {
    /// Requests the blob, or a range of it, from the upstream; waits for the answer to begin until the given time.
    pub(crate) async fn read(&self, range: Option<HeaderValue>, until: Instant) -> Result<Answer, OriginError> {
        self.metrics.mirror_upstream_request(MirrorKind::Blob);
        let headers: HeaderMap = range.into_iter().map(|range| (RANGE, range)).collect();
        let registry = self.registry.until(until);
        registry.send(&self.upstream, Method::GET, &self.path, headers, &self.credentials).await
    }

    /// The first bytes of `at..end`, few enough that the agent can continue soon.
    pub(crate) async fn slice(&self, at: u64, end: u64) -> io::Result<darter_origin::Body> {
        self.resume(at, Some(end.min(at.saturating_add(SLICE)))).await
    }

    /// The upstream's bytes from `at` on; fails if it sends any others.
    pub(crate) async fn resume(&self, at: u64, end: Option<u64>) -> io::Result<darter_origin::Body> {
        let last = end.map(|end| end.saturating_sub(1).to_string()).unwrap_or_default();
        let range = HeaderValue::from_str(&format!("bytes={at}-{last}")).expect("digits can stand in a header");
        let until = Instant::now() + self.wait;
        let answer = self.read(Some(range), until).await.map_err(io::Error::other)?;
        let content_range = answer.headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let fits = content_range.starts_with(&format!("bytes {at}-"));
        if answer.status == StatusCode::PARTIAL_CONTENT && fits {
            return Ok(answer.body);
        }
        // A server without ranges sends the whole blob, which is right if the whole was requested.
        let length = answer.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if answer.status == StatusCode::OK && at == 0 && (end.is_none() || end == length) {
            return Ok(answer.body);
        }
        Err(io::Error::other(format!("{} does not serve the range: it answered {}", self.upstream, answer.status)))
    }
}

/// An upstream's answer as a body, passed through.
pub(crate) fn passed_through(body: darter_origin::Body, metrics: &Arc<Metrics>) -> Body {
    let metrics = Arc::clone(metrics);
    to_body(body.map(move |chunk| chunk.inspect(|bytes| count(&metrics, bytes)).map_err(io::Error::other)))
}

/// Counts bytes that go from the upstream to the caller. Bytes from the agent are counted elsewhere.
pub(crate) fn count(metrics: &Metrics, bytes: &Bytes) {
    let length = bytes.len() as u64;
    metrics.origin_bytes.inc_by(length);
    metrics.local_served_bytes.inc_by(length);
}

/// A stream of bytes as a body.
pub(crate) fn to_body(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(stream.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}
