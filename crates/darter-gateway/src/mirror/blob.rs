//! Blobs: from the agent, to callers who may have them.
//!
//! A GET is answered once the first verified bytes are there, so that any earlier failure can still be answered
//! otherwise: with the upstream's own answer. But the answer begins at most a few seconds after length and access are known, since engines wait
//! only a few seconds for headers, and far longer for a body (`flow`). So a slow origin is waited for
//! after the headers were sent, if the registry has shown that it is reachable: it has just answered, or answers a request for the blob's
//! length. A registry that does not answer at all is an error, since only on an error engines try their next host. A HEAD never makes the agent fetch.

use std::sync::Arc;
use std::time::Duration;

use darter_agent::FetchError;
use darter_core::source::Credentials;
use darter_core::{Blamed as _, ByteRange, Digest, Source, in_full};
use darter_metrics::{AccessCheck, Failed, Fallback};
use darter_oci::error::Code;
use darter_oci::manifest::DOCKER_CONTENT_DIGEST;
use darter_origin::{Answer, ErrorKind};
use darter_registries::question::Reply;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use tokio::time::Instant;

use crate::body::{self, Body};
use crate::mirror::ahead::{Judged, ORDER_TIMEOUT, Stretch};
use crate::mirror::compared;
use crate::mirror::flow::{self, Giver, NEAR, Opening, Reopen, Slice, Start};
use crate::mirror::grants::NamedBlob;
use crate::mirror::problem::Problem;
use crate::mirror::range::{self, RequestedRange};
use crate::mirror::rescue::{self, Rescue};
use crate::mirror::sampled::Sampled;
use crate::mirror::wrong::WrongDigests;
use crate::mirror::{Ask, Blob, Blobs, Mirror, Nearness, entity_tag, header};

/// The requested blob, and the agent that delivers it.
struct Wanted {
    digest: Digest,
    source: Source,
    blobs: Arc<dyn Blobs>,
    /// Where wrong content is reported.
    wrong: WrongDigests,
}

/// A registry's reply about a blob.
pub(super) struct BlobReply {
    member: NamedBlob,
    /// True if the answer named the digest.
    names_it: bool,
    reply: Reply,
}

/// A blob that is being opened.
type BlobOpening = BoxFuture<'static, Result<Box<dyn Blob>, FetchError>>;

/// The state of the opening at the time when headers go out.
enum BegunBlob {
    Now(Result<Box<dyn Blob>, FetchError>),
    /// Not opened yet.
    Later {
        length: u64,
    },
}

impl BlobReply {
    /// True if the registry has shown that it has the blob: it named the digest, or a length that was known.
    pub(super) fn shows(&self, believed: Option<NamedBlob>) -> bool {
        let is_as_told = believed.is_some_and(|known| known.size.is_none() || known.size == self.member.size);
        self.names_it || is_as_told || self.reply.stale.is_some()
    }
}

impl Mirror {
    pub(super) async fn blob(&self, ask: &Ask<'_>, digest: Digest) -> Result<Response<Body>, Problem> {
        self.note_beginning(ask, digest);
        self.refuse_wrong(ask, [digest]).await?;
        let deadline = self.waits.opening();
        let source = ask.source(digest);
        ask.waits_for("the disk to tell what is here".to_owned());
        // A manifest that names a blob does not show that the registry has the blob in this repository.
        let vouch = ask.upstream.is_trusted() && !self.blobs.is_proven(&source).await;
        let believed = self.believed(ask, digest);
        let (member, said) = match believed {
            Some(member) if !(vouch || ask.head && member.size.is_none()) => (member, None),
            _ => match self.ask_for_blob(ask, digest).await {
                Ok(said) => (said.member, Some(said)),
                // A pull that has begun goes on even if its upstream can't confirm access now.
                Err(problem) if problem.is_trouble() && !ask.head => {
                    (self.was_given(ask, digest).ok_or(problem)?, None)
                }
                Err(problem) => return Err(problem),
            },
        };
        // True if the upstream has shown what it would serve to this caller.
        let is_shown = said.as_ref().is_none_or(|said| said.shows(believed));
        if let Some(said) = said.as_ref().filter(|_| is_shown) {
            self.gave(ask, digest, said);
        }
        if vouch && is_shown {
            if let Some(reason) = ask.stale_because() {
                let text = format!("{} can't be asked whether it has this blob: {reason}", ask.upstream.name());
                return Err(Problem::bad_upstream(Code::Unavailable, text));
            }
            self.blobs.proven(&source);
        }
        let mut response = Response::new(body::empty());
        put_headers(response.headers_mut(), &digest)?;
        ask.pass_on(response.headers_mut());
        if let Some(status) = ask.condition(&digest) {
            *response.status_mut() = status;
            return Ok(response);
        }
        if ask.head {
            if let Some(size) = member.size {
                response.headers_mut().insert(CONTENT_LENGTH, size.into());
            }
            return Ok(response);
        }
        let mut wanted = Wanted { digest, source, blobs: Arc::clone(&self.blobs), wrong: self.wrong.clone() };
        if !is_shown {
            wanted.wrong = self.wrong.only_for(ask.caller);
            let (blobs, rescue) = (wanted.blobs, self.rescue(ask, digest, &wanted.wrong));
            wanted.blobs = Arc::new(Sampled { blobs, rescue, told: member.size });
        }
        let lone = match member.size {
            Some(_) => Some(self.lone_part(ask, digest, member.size).await?),
            None => None,
        };
        let mut opening = wanted.open(ask.credentials.clone(), lone.flatten().is_none());
        ask.waits_for(format!("the fleet or {} to begin {digest}", ask.upstream.name()));
        let response = match self.opened(ask, digest, member.size, &mut opening, deadline).await? {
            BegunBlob::Now(Ok(blob)) => {
                if let Some(said) = said.as_ref().filter(|_| !is_shown) {
                    self.gave(ask, digest, said);
                }
                self.serve(ask, wanted, (blob, lone), deadline, response).await
            }
            BegunBlob::Now(Err(FetchError::Unproven { .. })) => self.compare(ask, wanted, response).await,
            BegunBlob::Now(Err(error)) => self.go_upstream(ask, wanted, Some(error), response).await,
            BegunBlob::Later { length } => self.serve_later(ask, wanted, (length, lone.flatten(), opening), response),
        }?;
        self.grants.lock().give(&ask.scope, ask.caller, digest, member, self.clock.now());
        Ok(response)
    }

    /// Asks the upstream whether this caller may read the blob, and for its length.
    pub(super) async fn ask_for_blob(&self, ask: &Ask<'_>, digest: Digest) -> Result<BlobReply, Problem> {
        let rest = format!("blobs/{digest}");
        let answer = self.request(ask, Method::HEAD, &rest, HeaderMap::new()).await?;
        if !answer.status.is_success() {
            self.refused(ask, answer.status, Some(digest));
            return Err(Problem::of_reply(answer, ask.upstream.name(), Code::BlobUnknown));
        }
        let length = answer.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let member = NamedBlob { size: length.and_then(|length| length.parse().ok()) };
        self.metrics.mirror_access_check(AccessCheck::Granted);
        Ok(BlobReply { member, names_it: answer.digest() == Some(digest), reply: answer })
    }

    /// Notes that the upstream serves this blob to this caller.
    pub(super) fn gave(&self, ask: &Ask<'_>, digest: Digest, said: &BlobReply) {
        self.accepted(ask, &said.reply);
        self.grants.lock().belongs(&ask.scope, digest, said.member);
    }

    /// The opened blob. If opening takes long, an opening in progress instead, so that the headers can go out: the blob's length must be known, and its
    /// registry must be reachable.
    async fn opened(
        &self,
        ask: &Ask<'_>,
        digest: Digest,
        size: Option<u64>,
        opening: &mut BlobOpening,
        deadline: Instant,
    ) -> Result<BegunBlob, Problem> {
        let soon = deadline.min(Instant::now() + self.waits.headers());
        if let Ok(opened) = tokio::time::timeout_at(soon, &mut *opening).await {
            return Ok(BegunBlob::Now(opened));
        }
        let Some(length) = size else {
            let opened = tokio::time::timeout_at(deadline, opening).await;
            return opened.map(BegunBlob::Now).map_err(|_| self.too_slow(ask.awaited));
        };
        // A client that has read part of the blob would give up the whole pull if another of its requests failed.
        let begun = self.was_given(ask, digest).is_some();
        tokio::select! {
            opened = opening => Ok(BegunBlob::Now(opened)),
            there = self.is_there(ask, digest) => there.map(|()| BegunBlob::Later { length }),
            () = tokio::time::sleep_until(deadline) => match begun {
                true => Ok(BegunBlob::Later { length }),
                false => Err(self.too_slow(ask.awaited)),
            },
        }
    }

    /// Ends when the registry has confirmed that it has the blob; fails if it says something else.
    async fn is_there(&self, ask: &Ask<'_>, digest: Digest) -> Result<(), Problem> {
        // The answer may be a cached one: once because of the cache here, and once because of the
        // seed's.
        for _ in 0..3 {
            if ask.was_heard() {
                break;
            }
            match self.ask_for_blob(ask, digest).await {
                Err(problem) if problem.is_trouble() => {
                    let name = ask.upstream.name();
                    ask.waits_for(format!("the fleet or {name} to begin {digest} ({})", problem.message()));
                    std::future::pending::<()>().await;
                }
                said => drop(said?),
            }
            if ask.stale_because().is_some() {
                std::future::pending::<()>().await;
            }
        }
        Ok(())
    }

    async fn serve(
        &self,
        ask: &Ask<'_>,
        wanted: Wanted,
        (blob, lone): (Box<dyn Blob>, Option<Option<ByteRange>>),
        deadline: Instant,
        mut response: Response<Body>,
    ) -> Result<Response<Body>, Problem> {
        let (digest, length) = (wanted.digest, blob.length());
        let part = part_of(ask, digest, length)?;
        let sent = part.or(length.map(|length| ByteRange::new(0, length)));
        let soon = deadline.min(Instant::now() + self.waits.headers());
        let lone = match lone {
            Some(lone) => lone.filter(|lone| part == Some(*lone)),
            // The registry did not tell the length.
            None => self.lone_part(ask, digest, length).await?,
        };
        let (mut giver, mut first) = (None, None);
        if let Some(part) = lone.filter(|part| is_far(&*blob, part.start())) {
            let mut opening = self.ahead(ask, &wanted, part);
            giver = match tokio::time::timeout_at(soon, &mut opening).await {
                Ok(Ok(flow::Opened::Upstream(slice))) => Some(Giver::Upstream(slice)),
                Ok(_) => None,
                Err(_) => Some(Giver::Opening(opening)),
            };
        }
        if giver.is_none() {
            let mut parts = lone.map_or_else(|| blob.parts(part), |part| blob.lone_parts(part));
            // Without a first byte, the answer still begins if its length is known.
            let until = if length.is_some() { soon } else { deadline };
            giver = match tokio::time::timeout_at(until, parts.next()).await {
                Ok(Some(Err(error))) => return self.go_upstream(ask, wanted, Some(error), response).await,
                Ok(None) if sent.is_some_and(|sent| !sent.is_empty()) => {
                    return self.go_upstream(ask, wanted, None, response).await;
                }
                // An empty blob has no first byte.
                Ok(None) => Some(Giver::Nobody),
                Ok(Some(Ok(part))) => {
                    first = Some(part);
                    Some(Giver::Agent(parts))
                }
                Err(_) => Some(Giver::Agent(parts)),
            };
        }
        put_part(&mut response, part, length)?;
        let giver = giver.unwrap_or(Giver::Nobody);
        let start = Start { giver, first, length, blob: Some(blob), lone: lone.is_some(), ..Start::of(sent) };
        *response.body_mut() = self.flow(ask, wanted, start);
        Ok(response)
    }

    /// The answer for a blob of known length that is not open yet.
    fn serve_later(
        &self,
        ask: &Ask<'_>,
        wanted: Wanted,
        (length, lone, opening): (u64, Option<ByteRange>, BlobOpening),
        mut response: Response<Body>,
    ) -> Result<Response<Body>, Problem> {
        let digest = wanted.digest;
        let part = part_of(ask, digest, Some(length))?;
        put_part(&mut response, part, Some(length))?;
        let sent = part.unwrap_or(ByteRange::new(0, length));
        let start = Start {
            giver: flow::opening(opening),
            length: Some(length),
            lone: lone.is_some(),
            ..Start::of(Some(sent))
        };
        *response.body_mut() = self.flow(ask, wanted, start);
        Ok(response)
    }

    /// Notes a request for a blob's first bytes, so that concurrent requests for ranges can be judged.
    fn note_beginning(&self, ask: &Ask<'_>, digest: Digest) {
        let end = match range::parse(wanted_range(ask, &digest), u64::MAX) {
            RequestedRange::Whole => u64::MAX,
            RequestedRange::Part(range) if range.start() == 0 => range.end(),
            RequestedRange::Part(_) | RequestedRange::Unsatisfiable => return,
        };
        if !ask.head {
            self.sweeps.lock().begins((ask.scope.clone(), digest), end);
        }
    }

    /// The requested range of a blob of this length, if it is lone (see `ahead`). To be called once for each request, since the range is noted
    /// for judging later ones.
    async fn lone_part(
        &self,
        ask: &Ask<'_>,
        digest: Digest,
        length: Option<u64>,
    ) -> Result<Option<ByteRange>, Problem> {
        let Some(length) = length else { return Ok(None) };
        let Some(part) = part_of(ask, digest, Some(length))? else { return Ok(None) };
        let asked = Stretch { range: part, open_ended: range::is_open_ended(wanted_range(ask, &digest)) };
        let judge = |again| self.sweeps.lock().judge((ask.scope.clone(), digest), asked, length, again);
        let mut judged = judge(false);
        if judged == Judged::Unsure {
            // If the whole blob is here, nothing has to be fetched.
            if !self.blobs.is_whole(&ask.source(digest)).await {
                tokio::time::sleep(ORDER_TIMEOUT).await;
            }
            judged = judge(true);
        }
        Ok(Some(part).filter(|_| judged == Judged::Lone))
    }

    /// The first bytes of a range from the upstream, or else from the agent.
    fn ahead(&self, ask: &Ask<'_>, wanted: &Wanted, part: ByteRange) -> Opening {
        let (digest, rescue) = (wanted.digest, self.rescue(ask, wanted.digest, &wanted.wrong));
        Box::pin(async move {
            match rescue.slice(part.start(), part.end()).await {
                Ok(body) => {
                    rescue.metrics.mirror_fallback(Fallback::Ahead);
                    Ok(flow::Opened::Upstream(Slice { body, _permit: None }))
                }
                Err(error) => {
                    tracing::info!(%digest, error = %in_full(&error), "the upstream does not give a range that lies ahead; waiting for it");
                    Ok(flow::Opened::Before)
                }
            }
        })
    }

    fn flow(&self, ask: &Ask<'_>, Wanted { digest, source, blobs, wrong }: Wanted, start: Start) -> Body {
        let reopen = Reopen { blobs, source, credentials: ask.credentials.clone() };
        let rest = flow::Rest {
            rescue: self.rescue(ask, digest, &wrong),
            reopen,
            outlet: ask.outlet.clone(),
            around: Arc::clone(&self.around),
            stall_timeout: self.stall_timeout,
        };
        flow::body(start, rest)
    }

    /// The upstream's own answer, because the agent failed before the first byte. This is also done if the agent met a refusal,
    /// which may have been for another caller who wanted the same blob at the same time.
    async fn go_upstream(
        &self,
        ask: &Ask<'_>,
        wanted: Wanted,
        error: Option<FetchError>,
        mut response: Response<Body>,
    ) -> Result<Response<Body>, Problem> {
        let digest = wanted.digest;
        let error = error.unwrap_or(FetchError::Silent);
        match &error {
            // The caller asked too often; one more request would not help.
            FetchError::Origin(failure) if failure.blame().is_final() && failure.blame().may_pass() => {
                return Err(Problem::of_failure(failure, Code::BlobUnknown));
            }
            // The upstream would serve the same page again, and a pause has begun during which nobody asks.
            FetchError::Origin(failure) if failure.kind == ErrorKind::Page => {
                return Err(Problem::of_failure(failure, Code::BlobUnknown));
            }
            FetchError::WrongDigest { .. } => {
                wanted.wrong.note(&ask.scope, digest);
                return Err(Problem::bad_upstream(Code::DigestInvalid, in_full(&error).to_string()));
            }
            FetchError::Range { length } => return Err(unsatisfiable(*length)),
            _ => {}
        }
        tracing::warn!(upstream = ask.upstream.name(), %digest, error = %in_full(&error), "the agent failed a blob; reading the upstream");
        self.metrics.mirror_fallback(Fallback::Start);
        self.metrics.failed(Failed::Mirror, error.blame().fault);
        let answer = self.read_upstream(ask, &wanted, &mut response).await?;
        *response.body_mut() = match sent_range(&answer) {
            Some(sent) => {
                let whole = answer.status == StatusCode::OK;
                let giver = Giver::Upstream(Slice { body: answer.body, _permit: None });
                let start = Start { giver, whole, ..Start::of(Some(sent)) };
                self.flow(ask, wanted, start)
            }
            None => self.copy(ask, answer, &wanted, |_| {}),
        };
        Ok(response)
    }

    /// The upstream's own copy of content that is cached from elsewhere. Once the copy was delivered whole, the upstream has shown
    /// that it has the content.
    async fn compare(
        &self,
        ask: &Ask<'_>,
        wanted: Wanted,
        mut response: Response<Body>,
    ) -> Result<Response<Body>, Problem> {
        let digest = wanted.digest;
        tracing::info!(upstream = ask.upstream.name(), %digest, "cached from elsewhere; passing on the upstream's own copy");
        let answer = self.read_upstream(ask, &wanted, &mut response).await?;
        let answer = compared::read_first(answer, digest).await.map_err(|text| {
            wanted.wrong.note(&ask.scope, digest);
            Problem::bad_upstream(Code::DigestInvalid, format!("{}: {text}", ask.upstream.name()))
        })?;
        let (blobs, source) = (Arc::clone(&self.blobs), wanted.source.clone());
        *response.body_mut() = self.copy(ask, answer, &wanted, move |right| {
            if right {
                blobs.proven(&source);
            }
        });
        Ok(response)
    }

    /// The body of an upstream's own copy. A whole copy is compared with its digest, and `then` gets the result; after a
    /// wrong one, the digest is refused for a while.
    fn copy(&self, ask: &Ask<'_>, answer: Answer, wanted: &Wanted, then: impl FnOnce(bool) + Send + 'static) -> Body {
        if answer.status != StatusCode::OK {
            return rescue::passed_through(answer.body, &self.metrics);
        }
        let (digest, wrong, scope) = (wanted.digest, wanted.wrong.clone(), ask.scope.clone());
        compared::body(answer.body, digest, &self.metrics, move |right| {
            if !right {
                wrong.note(&scope, digest);
            }
            then(right);
        })
    }

    /// Asks the upstream for the requested bytes, and puts its status and lengths into the response.
    async fn read_upstream(
        &self,
        ask: &Ask<'_>,
        wanted: &Wanted,
        response: &mut Response<Body>,
    ) -> Result<Answer, Problem> {
        let digest = wanted.digest;
        let range = wanted_range(ask, &digest).map(header).transpose()?;
        ask.waits_for(format!("{} to begin {digest}", ask.upstream.name()));
        let answer = match self.rescue(ask, digest, &wanted.wrong).read(range, self.waits.last(ask.until)).await {
            Ok(answer) => answer,
            Err(error) => {
                if *error.kind() == ErrorKind::Encoded {
                    self.wrong.note_encoded(&ask.scope, digest);
                }
                return Err(Problem::of_error(&error, Code::BlobUnknown));
            }
        };
        if !matches!(answer.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            self.refused(ask, answer.status, Some(digest));
            return Err(Problem::of_answer(answer, ask.upstream.name(), Code::BlobUnknown).await);
        }
        let answer = answer.into_blob(ask.upstream.name());
        let answer = answer.map_err(|error| Problem::bad_upstream(Code::BlobUnknown, error.to_string()))?;
        *response.status_mut() = answer.status;
        for name in [CONTENT_LENGTH, CONTENT_RANGE] {
            if let Some(value) = answer.headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        Ok(answer)
    }

    fn rescue(&self, ask: &Ask<'_>, digest: Digest, wrong: &WrongDigests) -> Rescue {
        Rescue {
            registry: self.registries.client().clone(),
            upstream: ask.upstream.clone(),
            path: format!("/v2/{}/blobs/{digest}", ask.repository),
            credentials: ask.credentials.clone(),
            metrics: Arc::clone(&self.metrics),
            digest,
            scope: ask.scope.clone(),
            wrong: wrong.clone(),
            wait: self.resuming(),
        }
    }

    /// How long the upstream may take to begin an answer in the middle of a body: it is asked so early that the body does not
    /// stall for too long.
    fn resuming(&self) -> Duration {
        let wait = self.waits.resuming();
        if self.stall_timeout.is_zero() { wait } else { wait.min(self.stall_timeout / 2) }
    }
}

impl Wanted {
    fn open(&self, credentials: Credentials, everything: bool) -> BlobOpening {
        let (blobs, source) = (Arc::clone(&self.blobs), self.source.clone());
        Box::pin(async move { blobs.open(source, credentials, everything).await })
    }
}

fn put_headers(headers: &mut HeaderMap, digest: &Digest) -> Result<(), Problem> {
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(DOCKER_CONTENT_DIGEST, header(&digest.to_string())?);
    headers.insert(ETAG, header(&entity_tag(digest))?);
    Ok(())
}

/// The requested range of the blob; `None` for all of it. Content of unknown length is sent whole, since a server may ignore
/// any range.
fn part_of(ask: &Ask<'_>, digest: Digest, length: Option<u64>) -> Result<Option<ByteRange>, Problem> {
    let Some(length) = length else { return Ok(None) };
    match range::parse(wanted_range(ask, &digest), length) {
        RequestedRange::Unsatisfiable => Err(unsatisfiable(length)),
        RequestedRange::Part(part) => Ok(Some(part)),
        RequestedRange::Whole => Ok(None),
    }
}

/// Sets the headers that say which bytes an answer carries.
fn put_part(response: &mut Response<Body>, part: Option<ByteRange>, length: Option<u64>) -> Result<(), Problem> {
    let Some(length) = length else { return Ok(()) };
    response.headers_mut().insert(CONTENT_LENGTH, part.map_or(length, ByteRange::len).into());
    if let Some(part) = part {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let text = format!("bytes {}-{}/{length}", part.start(), part.end() - 1);
        response.headers_mut().insert(CONTENT_RANGE, header(&text)?);
    }
    Ok(())
}

/// True if the agent would deliver a byte only after much that lies before it.
fn is_far(blob: &dyn Blob, at: u64) -> bool {
    matches!(blob.nearness(at, true), Nearness::After(before) if before > NEAR)
}

/// The `Range` header, unless an `If-Range` says that it is for other content.
fn wanted_range<'a>(ask: &'a Ask<'_>, digest: &Digest) -> Option<&'a str> {
    let text = |name| ask.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if text(IF_RANGE).is_some_and(|condition| condition != entity_tag(digest)) {
        return None;
    }
    text(RANGE)
}

/// The range of bytes in an upstream's successful answer, if it says so.
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
    let text = format!("the range lies outside the blob, which has {length} bytes");
    let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, Code::Unsupported, text);
    let value = HeaderValue::from_str(&format!("bytes */{length}")).expect("digits can stand in a header");
    problem.with_header(CONTENT_RANGE, value)
}
