//! One question to a registry itself, and its answer read.
//!
//! HEAD is asked first where a HEAD is wanted: it costs the registry least, and nothing of the quota of those that count
//! pulls. But some registries and stores refuse HEAD, or never answer it, where GET works: what HEAD does not say yes to is
//! asked again by GET, for one byte where it is a blob; only that answer counts. It also has what a HEAD never has: the
//! registry's own words of a refusal. A registry whose GET said yes where its HEAD did not is asked by GET for a while.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use darter_core::{Clock, Moment};
use darter_origin::{Answer, ErrorKind, HEAD_PATIENCE, OriginError, OriginFailure, RegistryClient};
use futures_util::StreamExt as _;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use url::Url;

use super::flights::Outcome;
use super::question::{About, MAX_MANIFEST, Question, Reply, without_the_connections};
use crate::metrics::Metrics;
use crate::mirror::named;
use crate::mirror::recent::Recent;

/// A registry's answer about something small is waited for so long. Engines wait longer, but go on to the registry
/// itself when they are told.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(8);
/// The same for a list, which a registry may have to compute.
const LIST_TIMEOUT: Duration = Duration::from_secs(15);
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

/// How long an answer to this question is waited for.
pub(super) fn timeout_for(question: &Question) -> Duration {
    match question.about().1 {
        About::Other => LIST_TIMEOUT,
        _ => REGISTRY_TIMEOUT,
    }
}

impl Requests {
    pub(super) fn new(client: RegistryClient, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        let without_head = Mutex::new(Recent::new(MAX_WITHOUT_HEAD));
        Self { client, metrics, clock, room: Semaphore::new(MAX_REQUESTS), without_head }
    }

    pub(super) const fn client(&self) -> &RegistryClient {
        &self.client
    }

    /// Asks the registry.
    pub(super) async fn ask(&self, question: &Question) -> Outcome {
        self.ask_with(&self.client, question).await
    }

    /// Asks the registry without this agent's own logins.
    pub(super) async fn ask_without_logins(&self, question: &Question) -> Outcome {
        self.ask_with(&self.client.without_logins(), question).await
    }

    async fn ask_with(&self, client: &RegistryClient, question: &Question) -> Outcome {
        let timeout = timeout_for(question);
        let asked = async {
            let _room = self.room.acquire().await.expect("the semaphore is never closed");
            match question.method {
                Method::HEAD => self.head(client, question).await,
                _ => self.send(client, question).await,
            }
        };
        match tokio::time::timeout(timeout, asked).await {
            Ok(outcome) => outcome.map_err(|error| OriginFailure::from(&error)),
            Err(_) => {
                let text = format!("{} did not answer within {} s", question.upstream, timeout.as_secs());
                Err(OriginFailure { kind: ErrorKind::Timeout, status: None, text })
            }
        }
    }

    async fn head(&self, client: &RegistryClient, question: &Question) -> Result<Reply, OriginError> {
        if let (repository, About::Blob(digest)) = question.about() {
            self.metrics.mirror_upstream_request(question.kind());
            let asked = client.head_blob(&question.upstream, repository, &digest, &question.credentials).await?;
            return read(question, asked).await;
        }
        let (base, now) = (question.base().clone(), self.clock.now());
        let skip = self.without_head.lock().get(&base).is_some_and(|since| now - *since < WITHOUT_HEAD_FOR);
        if !skip && let Ok(Ok(reply)) = tokio::time::timeout(HEAD_PATIENCE, self.send(client, question)).await {
            if reply.status.is_success() {
                return Ok(reply);
            }
            tracing::debug!(%base, path = question.path, status = %reply.status, "asking by GET what HEAD refuses");
        }
        let by_get = Question { method: Method::GET, ..question.clone() };
        let reply = as_of_head(question, self.send(client, &by_get).await?);
        if reply.status.is_success() {
            self.without_head.lock().insert(base, now, 1);
        }
        Ok(reply)
    }

    async fn send(&self, client: &RegistryClient, question: &Question) -> Result<Reply, OriginError> {
        self.metrics.mirror_upstream_request(question.kind());
        let (method, headers) = (question.method.clone(), question.headers.clone());
        let answer = client.send(&question.upstream, method, &question.path, headers, &question.credentials).await?;
        read(question, answer).await
    }
}

/// Reads an answer whole, as far as it is passed on. A manifest beyond all measure is cut, and found too long by whoever
/// wants it.
async fn read(question: &Question, answer: Answer) -> Result<Reply, OriginError> {
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
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk?);
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

/// What a GET for a manifest answered, as the answer to a HEAD: with a digest. The body stays, for whoever wants it next.
fn as_of_head(question: &Question, mut reply: Reply) -> Reply {
    let expected = match question.about().1 {
        About::Manifest(digest) => Some(digest),
        About::Tag(_) => None,
        About::Blob(_) | About::Other => return reply,
    };
    if reply.status == StatusCode::OK
        && reply.digest().is_none()
        && let Ok(checked) = named::check(&reply.headers, reply.body.clone(), expected)
        && let Ok(digest) = checked.manifest.digest.to_string().parse()
    {
        reply.headers.insert("docker-content-digest", digest);
    }
    reply
}
