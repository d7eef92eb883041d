//! One question to a registry itself, and its answer read.
//!
//! HEAD is asked first where a HEAD is wanted: it costs the registry least, and nothing of the quota of those that count
//! pulls. But some registries and stores refuse HEAD, or never answer it, where GET works: what HEAD does not say yes to is
//! asked again by GET, for one byte where it is a blob; only that answer counts. It also has what a HEAD never has: the
//! registry's own words of a refusal. A registry whose GET said yes where its HEAD did not is asked by GET for a while.
//!
//! A yes about a manifest names its digest. Without one it may be anything, such as a login page that a redirect leads to.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use darter_core::recent::Recent;
use darter_core::{Clock, Moment};
use darter_metrics::Metrics;
use darter_oci::manifest::{self, MAX_MANIFEST};
use darter_origin::{Answer, ErrorKind, OriginError, OriginFailure, RegistryClient, status_text};
use futures_util::StreamExt as _;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use url::Url;

use super::flights::Outcome;
use super::question::{About, Question, Reply, without_the_connections};

/// A step without a limit of its own (a credential helper, say) ends this long after those that have one, since these say
/// more.
const SLACK: Duration = Duration::from_millis(200);
/// How long the text of a refusal is waited for. The refusal's status and headers say what the engine is to do next.
pub const REFUSAL_BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a registry that does no HEAD is asked by GET at once.
const WITHOUT_HEAD_FOR: Duration = Duration::from_secs(600);
/// Registries remembered for that.
const MAX_WITHOUT_HEAD: u64 = 1000;

/// Requests to registries at a time.
const MAX_REQUESTS: usize = 256;
/// Longest list that is passed on.
const MAX_LIST: usize = 32 << 20;
/// Longest body of an error that is passed on.
const MAX_ERROR: usize = 64 << 10;

/// Asks registries.
pub(super) struct Requests {
    client: RegistryClient,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    room: Semaphore,
    /// Since when a registry's manifests and lists are asked for by GET.
    without_head: Mutex<Recent<Url, Moment>>,
}

impl Requests {
    pub(super) fn new(client: RegistryClient, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        let without_head = Mutex::new(Recent::new(MAX_WITHOUT_HEAD));
        Self { client, metrics, clock, room: Semaphore::new(MAX_REQUESTS), without_head }
    }

    pub(super) const fn client(&self) -> &RegistryClient {
        &self.client
    }

    /// Asks the registry, and waits until then for the whole of its answer.
    pub(super) async fn ask(&self, question: &Question, until: Instant) -> Outcome {
        self.ask_with(&self.client, question, until).await
    }

    /// Asks the registry without this agent's own logins.
    pub(super) async fn ask_without_logins(&self, question: &Question, until: Instant) -> Outcome {
        self.ask_with(&self.client.without_logins(), question, until).await
    }

    async fn ask_with(&self, client: &RegistryClient, question: &Question, until: Instant) -> Outcome {
        let late = |text: String| Err(OriginFailure::new(ErrorKind::Timeout, text));
        let Ok(room) = tokio::time::timeout_at(until, self.room.acquire()).await else {
            let upstream = &question.upstream;
            return late(format!(
                "{upstream} was not asked: {MAX_REQUESTS} requests to registries are under way, and none ended in time"
            ));
        };
        let _room = room.expect("the semaphore is never closed");
        let asking = Asking { requests: self, client: client.until(until), question, until };
        match tokio::time::timeout_at(until + SLACK, asking.ask()).await {
            Ok(outcome) => outcome.map_err(|error| OriginFailure::from(&error)),
            Err(_) => late(format!("{} was not asked in time: check the credential helper", question.upstream)),
        }
    }
}

/// One question under way.
struct Asking<'a> {
    requests: &'a Requests,
    client: RegistryClient,
    question: &'a Question,
    until: Instant,
}

impl Asking<'_> {
    async fn ask(&self) -> Result<Reply, OriginError> {
        if self.question.method == Method::HEAD { self.head().await } else { self.send(self.question).await }
    }

    async fn head(&self) -> Result<Reply, OriginError> {
        let Self { requests, question, .. } = self;
        if let (repository, About::Blob(digest)) = question.about() {
            requests.metrics.mirror_upstream_request(question.kind());
            let asked = self.client.head_blob(&question.upstream, repository, &digest, &question.credentials).await?;
            return read(question, asked, self.until).await;
        }
        let (base, now) = (question.base().clone(), requests.clock.now());
        let skip = requests.without_head.lock().get(&base).is_some_and(|since| now - *since < WITHOUT_HEAD_FOR);
        if !skip && let Ok(Ok(reply)) = tokio::time::timeout(self.client.head_patience(), self.send(question)).await {
            if reply.status == StatusCode::OK && shows(question, &reply) {
                return Ok(reply);
            }
            tracing::debug!(%base, path = question.path, status = %reply.status, "asking by GET what HEAD does not say");
        }
        let by_get = Question { method: Method::GET, ..(*question).clone() };
        let reply = as_of_head(question, self.send(&by_get).await?);
        if reply.status.is_success() && shows(question, &reply) {
            requests.without_head.lock().insert(base, now, 1);
        }
        Ok(reply)
    }

    async fn send(&self, question: &Question) -> Result<Reply, OriginError> {
        self.requests.metrics.mirror_upstream_request(question.kind());
        let (method, headers) = (question.method.clone(), question.headers.clone());
        let answer =
            self.client.send(&question.upstream, method, &question.path, headers, &question.credentials).await?;
        read(question, answer, self.until).await
    }
}

/// Reads an answer whole, as far as it is passed on. A manifest beyond all measure is cut, and its reader finds it too long; a
/// refusal whose text does not come goes on without one.
async fn read(question: &Question, answer: Answer, until: Instant) -> Result<Reply, OriginError> {
    let Answer { status, headers, mut body, .. } = answer;
    let headers = without_the_connections(headers);
    let reply = |body: Bytes| Reply { status, headers, body, age: Duration::ZERO, stale: None };
    let about = question.about().1;
    if matches!(about, About::Blob(_)) && status.is_success() {
        return Ok(reply(Bytes::new()));
    }
    let (limit, cuts) = match about {
        _ if !status.is_success() => (MAX_ERROR, true),
        About::Other => (MAX_LIST, false),
        _ => (MAX_MANIFEST, true),
    };
    let mut bytes = BytesMut::new();
    let refused = !status.is_success();
    let until = if refused { until.min(Instant::now() + REFUSAL_BODY_TIMEOUT) } else { until };
    loop {
        let chunk = match tokio::time::timeout_at(until, body.next()).await {
            Ok(None) => break,
            Ok(Some(Ok(chunk))) => chunk,
            _ if refused => return Ok(reply(Bytes::new())),
            Ok(Some(Err(error))) => return Err(error),
            Err(_) => {
                let text = format!(
                    "{} began to answer {} {} (HTTP {}), and the rest did not come in time: {} bytes did; check that it \
                     is well, and the network",
                    question.upstream,
                    question.method,
                    question.path,
                    status_text(status),
                    bytes.len()
                );
                return Err(OriginError::new(ErrorKind::Timeout, text));
            }
        };
        bytes.extend_from_slice(&chunk);
        if bytes.len() > limit {
            if cuts {
                break;
            }
            let text = format!("{} answers with more than {limit} bytes: ask for fewer (n=1000)", question.upstream);
            return Err(OriginError::new(ErrorKind::Protocol, text));
        }
    }
    Ok(reply(bytes.freeze()))
}

/// True if a yes is about what was asked for.
fn shows(question: &Question, reply: &Reply) -> bool {
    match question.about().1 {
        About::Manifest(digest) => reply.digest() == Some(digest),
        About::Tag(_) => reply.digest().is_some(),
        About::Blob(_) | About::Other => true,
    }
}

/// The answer to a HEAD, from that of a GET for a manifest: with a digest. The body stays, for the next asker that wants it.
fn as_of_head(question: &Question, mut reply: Reply) -> Reply {
    let expected = match question.about().1 {
        About::Manifest(digest) => Some(digest),
        About::Tag(_) => None,
        About::Blob(_) | About::Other => return reply,
    };
    if reply.status == StatusCode::OK
        && reply.digest().is_none()
        && let Ok(checked) = manifest::check(&reply.headers, reply.body.clone(), expected)
        && let Ok(digest) = checked.manifest.digest.to_string().parse()
    {
        reply.headers.insert("docker-content-digest", digest);
    }
    reply
}
