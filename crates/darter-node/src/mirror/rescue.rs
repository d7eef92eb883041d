//! The way back to the upstream: a blob that the agent fails half-way goes on from there.
//!
//! The engine never notices, as long as the upstream serves ranges; if it does not, the connection breaks off, so that
//! the engine sees an incomplete body and asks again. What comes this way is not checked here: the engine checks the
//! whole against the digest, as it does with a registry. Two failures are no reason to go on, since they cast doubt on
//! what was sent already: content that is not what its digest says, and a blob that was withdrawn.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use darter_core::source::Credentials;
use darter_origin::{Answer, OriginError, RegistryClient, Upstream};
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use http::header::{CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

use crate::error::FetchError;
use crate::local::Body;
use crate::local::outlet::Outlet;
use crate::metrics::{Fallback, Metrics, MirrorKind};
use crate::mirror::{Blob, Part};

/// How to read one blob from its upstream, for one caller.
pub(crate) struct Rescue {
    pub(crate) registry: RegistryClient,
    pub(crate) upstream: Upstream,
    pub(crate) path: String,
    pub(crate) credentials: Credentials,
    pub(crate) metrics: Arc<Metrics>,
}

/// A blob that the agent has begun to give.
pub(crate) struct Served {
    /// Its first bytes.
    pub(crate) first: Option<Part>,
    /// The bytes after them.
    pub(crate) parts: BoxStream<'static, Result<Part, FetchError>>,
    /// Kept as long as it streams: dropping it ends the interest in it.
    pub(crate) blob: Box<dyn Blob>,
    /// Offset of the first byte.
    pub(crate) at: u64,
    /// One past the last byte, if known.
    pub(crate) end: Option<u64>,
}

/// A body in progress.
struct Progress {
    giver: Giver,
    /// What the agent gave and the connection has not been given yet.
    given: Option<Part>,
    outlet: Outlet,
    at: u64,
    end: Option<u64>,
    rescue: Rescue,
}

enum Giver {
    Agent {
        parts: BoxStream<'static, Result<Part, FetchError>>,
        _blob: Box<dyn Blob>,
    },
    Upstream(darter_origin::Body),
    /// Nothing more comes.
    Nobody,
}

impl Rescue {
    /// Asks the upstream for the blob, or a range of it.
    pub(crate) async fn read(&self, range: Option<HeaderValue>) -> Result<Answer, OriginError> {
        self.metrics.mirror_upstream_request(MirrorKind::Blob);
        let headers: HeaderMap = range.into_iter().map(|range| (RANGE, range)).collect();
        self.registry.send(&self.upstream, Method::GET, &self.path, headers, &self.credentials).await
    }

    /// The upstream's bytes from `at` on, if it gives exactly those.
    async fn resume(&self, at: u64, end: Option<u64>) -> io::Result<darter_origin::Body> {
        let last = end.map(|end| end.saturating_sub(1).to_string()).unwrap_or_default();
        let range = HeaderValue::from_str(&format!("bytes={at}-{last}")).expect("digits can stand in a header");
        let answer = self.read(Some(range)).await.map_err(io::Error::other)?;
        let content_range = answer.headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let fits = content_range.starts_with(&format!("bytes {at}-"));
        if answer.status == StatusCode::PARTIAL_CONTENT && fits {
            return Ok(answer.body);
        }
        Err(io::Error::other(format!("{} does not serve the range: it answered {}", self.upstream, answer.status)))
    }
}

impl Progress {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.given.is_none()
            && let Giver::Agent { parts, .. } = &mut self.giver
        {
            match parts.next().await {
                Some(Ok(part)) => self.given = Some(part),
                None if self.end.is_none_or(|end| self.at >= end) => return None,
                short => {
                    if let Err(cut) = self.go_on_upstream(short.and_then(Result::err)).await {
                        return Some(Err(cut));
                    }
                }
            }
        }
        if let Some(part) = self.given.take() {
            return Some(self.hand_on(part));
        }
        let Giver::Upstream(body) = &mut self.giver else { return None };
        match body.next().await? {
            Ok(bytes) => {
                count(&self.rescue.metrics, &bytes);
                self.at += bytes.len() as u64;
                Some(Ok(bytes))
            }
            Err(error) => Some(Err(self.cut(io::Error::other(error)))),
        }
    }

    /// The part's bytes, or what stands in for the first of them on this connection; the rest comes next.
    fn hand_on(&mut self, part: Part) -> io::Result<Bytes> {
        let bytes = match part {
            Part::Bytes(bytes) => bytes,
            Part::File(mut part) => {
                let bytes = self.outlet.promise(&mut part).map_err(|error| self.cut(error))?;
                if !part.range.is_empty() {
                    self.given = Some(Part::File(part));
                }
                bytes
            }
        };
        self.at += bytes.len() as u64;
        Ok(bytes)
    }

    /// Turns to the upstream after the agent failed (`None`: after it ended short).
    async fn go_on_upstream(&mut self, error: Option<FetchError>) -> io::Result<()> {
        let (path, at) = (&self.rescue.path, self.at);
        match error {
            Some(error @ (FetchError::WrongDigest { .. } | FetchError::Withdrawn { .. })) => {
                tracing::warn!(path, at, %error, "the agent took a blob back; breaking off");
                return Err(self.cut(io::Error::other(error)));
            }
            Some(error) => tracing::warn!(path, at, %error, "the agent failed a blob half-way; reading the upstream"),
            None => tracing::warn!(path, at, "the agent ended a blob short; reading the upstream"),
        }
        match self.rescue.resume(self.at, self.end).await {
            Ok(body) => {
                self.rescue.metrics.mirror_fallback(Fallback::Resumed);
                self.giver = Giver::Upstream(body);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(path = self.rescue.path, at, %error, "the upstream can't go on; breaking off");
                Err(self.cut(error))
            }
        }
    }

    fn cut(&mut self, error: io::Error) -> io::Error {
        self.rescue.metrics.mirror_fallback(Fallback::Cut);
        self.giver = Giver::Nobody;
        error
    }
}

/// The body of a blob that the agent has begun to give.
pub(crate) fn body(served: Served, rescue: Rescue, outlet: Outlet) -> Body {
    let Served { first, parts, blob, at, end } = served;
    let giver = Giver::Agent { parts, _blob: blob };
    let progress = Progress { giver, given: first, outlet, at, end, rescue };
    to_body(stream::unfold(progress, |mut progress| async move { Some((progress.next().await?, progress)) }))
}

/// The body of an upstream's answer, passed through.
pub(crate) fn passed_through(body: darter_origin::Body, metrics: &Arc<Metrics>) -> Body {
    let metrics = Arc::clone(metrics);
    to_body(body.map(move |chunk| chunk.inspect(|bytes| count(&metrics, bytes)).map_err(io::Error::other)))
}

/// Counts bytes that go from the upstream to the caller; what comes from the agent is counted there.
pub(crate) fn count(metrics: &Metrics, bytes: &Bytes) {
    let length = bytes.len() as u64;
    metrics.origin_bytes.inc_by(length);
    metrics.local_served_bytes.inc_by(length);
}

/// A stream of bytes as a body.
pub(crate) fn to_body(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(stream.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}
