//! Blobs: from the agent, to callers who may have them.
//!
//! A GET is answered once the first verified bytes are there, so that whatever fails before them can still be answered
//! otherwise: with the upstream's own answer. But not later than a few seconds after length and access are known: engines
//! wait only so long for headers, and far longer for a body (`flow`). A HEAD never makes the agent fetch.

use std::sync::Arc;
use std::time::Duration;

use darter_core::{ByteRange, Digest, Source};
use darter_origin::{Answer, ErrorKind};
use futures_util::StreamExt;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use tokio::time::Instant;

use crate::error::FetchError;
use crate::local::{self, Body};
use crate::metrics::{AccessCheck, Fallback};
use crate::mirror::ahead::Stretch;
use crate::mirror::compared;
use crate::mirror::flow::{self, Reopen, Slice, Start};
use crate::mirror::grants::Member;
use crate::mirror::problem::{Code, Problem};
use crate::mirror::range::{self, Asked};
use crate::mirror::rescue::{self, Rescue};
use crate::mirror::{Ask, Blob, DOCKER_CONTENT_DIGEST, Mirror, Nearness, entity_tag, header};

/// How long the agent may take to open a blob.
const OPEN_WAIT: Duration = Duration::from_secs(9);

/// How long the headers of an answer of known length wait for its first byte.
const FIRST_WAIT: Duration = Duration::from_secs(3);

/// The same for a blob of unknown length.
const UNKNOWN_LENGTH_WAIT: Duration = Duration::from_secs(8);

/// Bytes that the agent is waited for, even by who jumps ahead: it reads them in a moment.
const NEAR: u64 = 256 << 10;

impl Mirror {
    pub(super) async fn blob(&self, ask: &Ask<'_>, digest: Digest) -> Result<Response<Body>, Problem> {
        self.refuse_wrong(ask, [digest])?;
        let deadline = Instant::now() + OPEN_WAIT;
        let source =
            Source::Registry { registry: ask.upstream.base().clone(), repository: ask.repository.clone(), digest };
        // What a manifest names is not yet its registry's word that the repository has it.
        let vouch = ask.upstream.is_trusted() && !self.blobs.is_proven(&source).await;
        let member = match self.believed(ask, digest) {
            Some(Member { size: None }) if ask.head => self.ask_for_blob(ask, digest).await?,
            Some(member) if !vouch => member,
            _ => match self.ask_for_blob(ask, digest).await {
                // A pull that has begun goes on while its upstream can't say so again.
                Err(problem) if problem.is_trouble() => self.was_given(ask, digest).ok_or(problem)?,
                asked => asked?,
            },
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
        let begun = self.was_given(ask, digest).is_some();
        let opened = self.blobs.open(source.clone(), ask.credentials.clone());
        let response = match tokio::time::timeout_at(deadline, opened).await {
            Ok(Err(FetchError::Unproven { .. })) => self.compare(ask, digest, source, response).await,
            Ok(Ok(blob)) => self.serve(ask, digest, source, blob, response).await,
            Ok(Err(error)) => self.go_upstream(ask, digest, source, Some(error), response).await,
            Err(_) if begun => self.go_upstream(ask, digest, source, None, response).await,
            Err(_) => Err(Problem::too_slow()),
        }?;
        self.grants.lock().give(&ask.scope, ask.caller, digest, member, self.clock.now());
        Ok(response)
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
        source: Source,
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
        let whole = length.map(|length| ByteRange::new(0, length));
        let sent = part.or(whole);
        let (at, end) = (sent.map_or(0, ByteRange::start), sent.map(ByteRange::end));
        let lone = part.filter(|part| self.is_lone(ask, digest, *part, length));
        let ahead = match lone {
            Some(part) => self.ahead(ask, digest, &*blob, part).await,
            None => None,
        };
        let start = match ahead {
            Some(slice) => {
                let slice = Some(slice);
                Start { parts: None, first: None, slice, at, end, blob: Some(blob), whole: false, lone: true }
            }
            None => {
                let mut parts = lone.map_or_else(|| blob.parts(part), |part| blob.lone_parts(part));
                let wait = if length.is_some() { FIRST_WAIT } else { UNKNOWN_LENGTH_WAIT };
                // Without a first byte the answer begins all the same: its length is known, and the engine is told so.
                let first = match tokio::time::timeout(wait, parts.next()).await {
                    Ok(Some(Err(error))) => return self.go_upstream(ask, digest, source, Some(error), response).await,
                    Ok(None) if sent.is_some_and(|sent| !sent.is_empty()) => {
                        return self.go_upstream(ask, digest, source, None, response).await;
                    }
                    Ok(first) => first.map(Result::ok),
                    Err(_) => Some(None),
                };
                // Of nothing there is nothing to wait for.
                let parts = first.is_some().then_some(parts);
                let (first, lone) = (first.flatten(), lone.is_some());
                Start { parts, first, slice: None, at, end, blob: Some(blob), whole: false, lone }
            }
        };
        if let Some(sent) = sent {
            response.headers_mut().insert(CONTENT_LENGTH, sent.len().into());
        }
        if let (Some(part), Some(length)) = (part, length) {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let text = format!("bytes {}-{}/{length}", part.start(), part.end() - 1);
            response.headers_mut().insert(CONTENT_RANGE, header(&text)?);
        }
        *response.body_mut() = self.flow(ask, digest, source, start);
        Ok(response)
    }

    /// Whether a range is no part of a reading of everything.
    fn is_lone(&self, ask: &Ask<'_>, digest: Digest, part: ByteRange, length: Option<u64>) -> bool {
        let Some(length) = length else { return false };
        let asked = Stretch { range: part, open_ended: range::is_open_ended(wanted_range(ask, &digest)) };
        self.sweeps.lock().jumps((ask.scope.clone(), digest), asked, length)
    }

    /// The upstream's first bytes of a lone range that the agent could give only after much that lies before it.
    async fn ahead(&self, ask: &Ask<'_>, digest: Digest, blob: &dyn Blob, part: ByteRange) -> Option<Slice> {
        let far = matches!(blob.nearness(part.start()), Nearness::After(before) if before > NEAR);
        if !far {
            return None;
        }
        match self.rescue(ask, digest).slice(part.start(), part.end()).await {
            Ok(body) => {
                self.metrics.mirror_fallback(Fallback::Ahead);
                Some(Slice { body, _permit: None })
            }
            Err(error) => {
                tracing::info!(%digest, %error, "the upstream does not give a range that lies ahead; waiting for it");
                None
            }
        }
    }

    fn flow(&self, ask: &Ask<'_>, digest: Digest, source: Source, start: Start) -> Body {
        let reopen = Reopen { blobs: Arc::clone(&self.blobs), source, credentials: ask.credentials.clone() };
        flow::body(start, self.rescue(ask, digest), reopen, ask.outlet.clone(), Arc::clone(&self.around))
    }

    /// The upstream's own answer, since the agent failed before the first byte. A refusal that the agent met is asked
    /// for again too: it may have been meant for another caller who wanted the same blob at the same time.
    async fn go_upstream(
        &self,
        ask: &Ask<'_>,
        digest: Digest,
        source: Source,
        error: Option<FetchError>,
        mut response: Response<Body>,
    ) -> Result<Response<Body>, Problem> {
        let error = error.unwrap_or(FetchError::Silent);
        match &error {
            FetchError::Origin(failure) if matches!(failure.kind, ErrorKind::RateLimited { .. }) => {
                return Err(Problem::of_failure(failure, Code::BlobUnknown));
            }
            FetchError::WrongDigest { .. } => {
                self.wrong.note(&ask.scope, digest);
                return Err(Problem::bad_upstream(Code::DigestInvalid, error.to_string()));
            }
            FetchError::Range { length } => return Err(unsatisfiable(*length)),
            _ => {}
        }
        tracing::warn!(upstream = ask.upstream.name(), %digest, %error, "the agent failed a blob; reading the upstream");
        self.metrics.mirror_fallback(Fallback::Start);
        let answer = self.read_upstream(ask, digest, &mut response).await?;
        *response.body_mut() = match sent_range(&answer) {
            Some(sent) => {
                let whole = answer.status == StatusCode::OK;
                let slice = Some(Slice { body: answer.body, _permit: None });
                let (at, end) = (sent.start(), Some(sent.end()));
                let start = Start { parts: None, first: None, slice, at, end, blob: None, whole, lone: false };
                self.flow(ask, digest, source, start)
            }
            None => self.copy(ask, answer, digest, |_| {}),
        };
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
        let blobs = Arc::clone(&self.blobs);
        *response.body_mut() = self.copy(ask, answer, digest, move |right| {
            if right {
                blobs.proven(&source);
            }
        });
        Ok(response)
    }

    /// The body of an upstream's own copy. A whole one is compared with its digest, and `then` is told the outcome; one
    /// that is wrong is refused from then on.
    fn copy(&self, ask: &Ask<'_>, answer: Answer, digest: Digest, then: impl FnOnce(bool) + Send + 'static) -> Body {
        if answer.status != StatusCode::OK {
            return rescue::passed_through(answer.body, &self.metrics);
        }
        let (wrong, scope) = (self.wrong.clone(), ask.scope.clone());
        compared::body(answer.body, digest, &self.metrics, move |right| {
            if !right {
                wrong.note(&scope, digest);
            }
            then(right);
        })
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
            digest,
            scope: ask.scope.clone(),
            wrong: self.wrong.clone(),
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

/// Which bytes an upstream's success holds, if it says so.
fn sent_range(answer: &Answer) -> Option<ByteRange> {
    let text = |name| answer.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if answer.status == StatusCode::OK {
        return Some(ByteRange::new(0, text(CONTENT_LENGTH)?.parse().ok()?));
    }
    let (first, rest) = text(CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('-')?;
    let last: u64 = rest.split('/').next()?.parse().ok()?;
    let first: u64 = first.parse().ok()?;
    (first <= last).then(|| ByteRange::new(first, last.saturating_add(1)))
}

fn unsatisfiable(length: u64) -> Problem {
    let text = format!("the range lies outside of the blob, which has {length} bytes");
    let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, Code::Unsupported, text);
    let value = HeaderValue::from_str(&format!("bytes */{length}")).expect("digits can stand in a header");
    problem.with_header(CONTENT_RANGE, value)
}
