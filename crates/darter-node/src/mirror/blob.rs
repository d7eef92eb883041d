//! Blobs: from the agent, to callers who may have them.
//!
//! A GET is answered once the first verified bytes are there, so that whatever fails before them can still be answered
//! otherwise: with the upstream's own answer, passed through (`rescue`). A HEAD never makes the agent fetch.

use std::sync::Arc;

use darter_core::{ByteRange, Digest, Source};
use darter_origin::{Answer, ErrorKind};
use futures_util::StreamExt;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use crate::error::FetchError;
use crate::local::{self, Body};
use crate::metrics::{AccessCheck, Fallback};
use crate::mirror::compared;
use crate::mirror::grants::Member;
use crate::mirror::problem::{Code, Problem};
use crate::mirror::range::{self, Asked};
use crate::mirror::rescue::{self, Rescue, Served};
use crate::mirror::{Ask, Blob, DOCKER_CONTENT_DIGEST, Mirror, entity_tag, header};

impl Mirror {
    pub(super) async fn blob(&self, ask: &Ask<'_>, digest: Digest) -> Result<Response<Body>, Problem> {
        let source =
            Source::Registry { registry: ask.upstream.base().clone(), repository: ask.repository.clone(), digest };
        // What a manifest names is not yet its registry's word that the repository has it.
        let vouch = ask.upstream.is_trusted() && !self.blobs.is_proven(&source).await;
        let member = match self.believed(ask, digest) {
            Some(Member { size: None }) if ask.head => self.ask_for_blob(ask, digest).await?,
            Some(member) if !vouch => member,
            _ => self.ask_for_blob(ask, digest).await?,
        };
        if vouch {
            if let Some(reason) = ask.stale_because() {
                let text = format!("{} can't be asked whether it has this blob: {reason}", ask.upstream.name());
                return Err(Problem::bad_upstream(Code::Unavailable, text));
            }
            self.blobs.proven(&source);
        }
        let mut response = Response::new(local::empty());
        put_headers(response.headers_mut(), &digest)?;
        if ask.has_already(&digest) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        if ask.head {
            if let Some(size) = member.size {
                response.headers_mut().insert(CONTENT_LENGTH, size.into());
            }
            return Ok(response);
        }
        match self.blobs.open(source.clone(), ask.credentials.clone()).await {
            Err(FetchError::Unproven { .. }) => self.compare(ask, digest, source, response).await,
            Ok(blob) => self.serve(ask, digest, blob, response).await,
            Err(error) => self.go_upstream(ask, digest, error, response).await,
        }
    }

    /// Asks the upstream whether this caller may read the blob there, and how long it is.
    async fn ask_for_blob(&self, ask: &Ask<'_>, digest: Digest) -> Result<Member, Problem> {
        let rest = format!("blobs/{digest}");
        let answer = self.request(ask, Method::HEAD, &rest, HeaderMap::new()).await?;
        if !answer.status.is_success() {
            self.refused(ask, answer.status, Some(digest));
            return Err(Problem::of_reply(answer, ask.upstream.name(), Code::BlobUnknown));
        }
        let length = answer.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let member = Member { size: length.and_then(|length| length.parse().ok()) };
        self.metrics.mirror_access_check(AccessCheck::Granted);
        self.accepted(ask, &answer);
        self.grants.lock().belongs(&ask.scope, digest, member);
        Ok(member)
    }

    async fn serve(
        &self,
        ask: &Ask<'_>,
        digest: Digest,
        blob: Box<dyn Blob>,
        mut response: Response<Body>,
    ) -> Result<Response<Body>, Problem> {
        let length = blob.length();
        // Content of unknown length is sent whole: a server may ignore any range.
        let asked = length.map_or(Asked::Whole, |length| range::parse(wanted_range(ask, &digest), length));
        let part = match asked {
            Asked::Unsatisfiable => return Err(unsatisfiable(length.unwrap_or_default())),
            Asked::Part(part) => Some(part),
            Asked::Whole => None,
        };
        let mut parts = blob.parts(part);
        let first = match parts.next().await.transpose() {
            Ok(first) => first,
            Err(error) => return self.go_upstream(ask, digest, error, response).await,
        };
        let whole = length.map(|length| ByteRange::new(0, length));
        if let Some(sent) = part.or(whole) {
            response.headers_mut().insert(CONTENT_LENGTH, sent.len().into());
        }
        if let (Some(part), Some(length)) = (part, length) {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let text = format!("bytes {}-{}/{length}", part.start(), part.end() - 1);
            response.headers_mut().insert(CONTENT_RANGE, header(&text)?);
        }
        let served = Served {
            first,
            parts,
            blob,
            at: part.map_or(0, ByteRange::start),
            end: part.or(whole).map(ByteRange::end),
        };
        *response.body_mut() = rescue::body(served, self.rescue(ask, digest), ask.outlet.clone());
        Ok(response)
    }

    /// The upstream's own answer, since the agent failed before the first byte. A refusal that the agent met is asked
    /// for again too: it may have been meant for another caller who wanted the same blob at the same time.
    async fn go_upstream(
        &self,
        ask: &Ask<'_>,
        digest: Digest,
        error: FetchError,
        mut response: Response<Body>,
    ) -> Result<Response<Body>, Problem> {
        match &error {
            FetchError::Origin(failure) if matches!(failure.kind, ErrorKind::RateLimited { .. }) => {
                return Err(Problem::of_failure(failure, Code::BlobUnknown));
            }
            FetchError::WrongDigest { .. } => {
                return Err(Problem::bad_upstream(Code::DigestInvalid, error.to_string()));
            }
            FetchError::Range { length } => return Err(unsatisfiable(*length)),
            _ => {}
        }
        tracing::warn!(upstream = ask.upstream.name(), %digest, %error, "the agent failed a blob; reading the upstream");
        self.metrics.mirror_fallback(Fallback::Start);
        let answer = self.read_upstream(ask, digest, &mut response).await?;
        *response.body_mut() = rescue::passed_through(answer.body, &self.metrics);
        Ok(response)
    }

    /// The upstream's own copy of content that is here from elsewhere. Once it was delivered whole, the upstream has shown
    /// that it has the content.
    async fn compare(
        &self,
        ask: &Ask<'_>,
        digest: Digest,
        source: Source,
        mut response: Response<Body>,
    ) -> Result<Response<Body>, Problem> {
        tracing::info!(upstream = ask.upstream.name(), %digest, "cached from elsewhere; passing on the upstream's own copy");
        let answer = self.read_upstream(ask, digest, &mut response).await?;
        *response.body_mut() = if answer.status == StatusCode::OK {
            let blobs = Arc::clone(&self.blobs);
            compared::body(answer.body, digest, &self.metrics, move || blobs.proven(&source))
        } else {
            rescue::passed_through(answer.body, &self.metrics)
        };
        Ok(response)
    }

    /// Asks the upstream for what the caller asked for, and puts its status and lengths into the response.
    async fn read_upstream(
        &self,
        ask: &Ask<'_>,
        digest: Digest,
        response: &mut Response<Body>,
    ) -> Result<Answer, Problem> {
        let range = wanted_range(ask, &digest).map(header).transpose()?;
        let answer = match self.rescue(ask, digest).read(range).await {
            Ok(answer) => answer,
            Err(error) => return Err(Problem::of_error(&error, Code::BlobUnknown)),
        };
        if !matches!(answer.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            self.refused(ask, answer.status, Some(digest));
            return Err(Problem::of_answer(answer, ask.upstream.name(), Code::BlobUnknown).await);
        }
        *response.status_mut() = answer.status;
        for name in [CONTENT_LENGTH, CONTENT_RANGE] {
            if let Some(value) = answer.headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        Ok(answer)
    }

    fn rescue(&self, ask: &Ask<'_>, digest: Digest) -> Rescue {
        Rescue {
            registry: self.registries.client().clone(),
            upstream: ask.upstream.clone(),
            path: format!("/v2/{}/blobs/{digest}", ask.repository),
            credentials: ask.credentials.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }
}

fn put_headers(headers: &mut HeaderMap, digest: &Digest) -> Result<(), Problem> {
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(DOCKER_CONTENT_DIGEST, header(&digest.to_string())?);
    headers.insert(ETAG, header(&entity_tag(digest))?);
    Ok(())
}

/// The `Range` header, unless an `If-Range` says that it is meant for other content.
fn wanted_range<'a>(ask: &'a Ask<'_>, digest: &Digest) -> Option<&'a str> {
    let text = |name| ask.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if text(IF_RANGE).is_some_and(|condition| condition != entity_tag(digest)) {
        return None;
    }
    text(RANGE)
}

fn unsatisfiable(length: u64) -> Problem {
    let text = format!("the range lies outside of the blob, which has {length} bytes");
    let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, Code::Unsupported, text);
    let value = HeaderValue::from_str(&format!("bytes */{length}")).expect("digits can stand in a header");
    problem.with_header(CONTENT_RANGE, value)
}
