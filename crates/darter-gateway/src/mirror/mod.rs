//! The registry mirror: the pull side of the OCI distribution specification, for the engines of this host.
//!
//! | file | what lives there |
//! |---|---|
//! | `mod` | [`Mirror`]: from a request to an answer; what all kinds of requests share |
//! | `route` | which upstream a request is for |
//! | `rewrite` | the names of repositories at their upstream |
//! | `manifest` | manifests by tag and by digest |
//! | `blob` | blobs, through the agent |
//! | `compared` | a registry's own copy of content that came from elsewhere |
//! | `flow` | a blob's bytes: from the agent, or from the upstream whenever the agent can't deliver |
//! | `rescue` | reads a blob from its upstream without the agent |
//! | `ahead` | which ranges begin with the upstream |
//! | `listing`, `link`, `page`, `walk` | tags and referrers, passed through; links to their further pages; which of these the mirror follows; circles of pages |
//! | `grants` | who may read what is cached |
//! | `blobs` | [`Blobs`], what the mirror needs of the agent |
//! | `learnt`, `lazy` | which layers diff ids belong to, and the answers to engines that want to mount one |
//! | `watchers` | notifies clients when such an answer may have become wrong |
//! | `logins` | the credentials with which layers were given |
//! | `given`, `given_layers` | layers that were given to engines, which stay in the store |
//! | `kept_room` | reserves space for the list of these layers on a full disk |
//! | `sampled` | blobs for a caller to whom the registry did not show what it has |
//! | `problem` | errors in the specification's form |
//! | `wrong` | blobs whose content was wrong a short time ago |
//! | `conditions`, `told` | `If-Match` and `If-None-Match`; headers of registries that are passed on |
//! | `range`, `account` | the `Range` header; the log and count of each request |
//!
//! # One request
//!
//! Method and path are parsed (`route`), the upstream is chosen and the caller's `Authorization` taken. A manifest that is requested
//! by tag is always checked with the upstream, with the caller's credentials; immutable content is served from the cache
//! if the caller may have it (`grants`), else the upstream is asked. Blobs come from the agent, that is from its store and the
//! swarm.
//!
//! # Whose credentials
//!
//! A caller's own `Authorization` goes to the upstream unchanged, and the upstream's refusal goes back with its
//! challenges, so that the engine can get a token itself; a user and password are traded for a token on the caller's
//! behalf if the upstream wants one. A caller without any is served with the login that is configured for that
//! registry, or an anonymous token; if neither is enough, the upstream's 401 goes back, too.
//!
//! Podman, skopeo and CRI-O send a login only if `/v2/` asked for one, and a request to `/v2/` does not name the registry that they mean:
//! with [`MirrorOptions::ask_login`], the mirror asks.
//!
//! # Invariants
//!
//! - A tag is never answered without asking the upstream, unless the upstream does not answer ([`darter_registries`]): then the
//!   answer says so.
//! - A manifest that does not match its digest is never passed on.
//! - No cached byte goes to a caller whose credentials the upstream did not accept for its repository, nor because of the answer
//!   of a registry that neither delivered the content nor is trusted.
//! - A failure of Darter itself does not fail the engine: before the first byte the upstream is read instead, in the middle
//!   of a blob the rest comes from the upstream, and if that fails the connection is closed.
//!
//! Non-goals: pushing, catalogues, rewriting manifests.

mod account;
mod ahead;
mod blob;
mod blobs;
mod compared;
mod conditions;
mod flow;
mod given;
mod given_layers;
mod grants;
mod kept_room;
mod lazy;
mod learnt;
mod link;
mod listing;
mod logins;
mod manifest;
mod page;
pub(crate) mod problem;
mod range;
mod rescue;
mod rewrite;
pub(crate) mod route;
mod sampled;
mod told;
mod walk;
mod watchers;
mod wrong;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use darter_agent::options::Options;
use darter_core::recent::Recent;
use darter_core::source::Credentials;
use darter_core::{Clock, Digest, Moment, Source};
use darter_metrics::{AccessCheck, Fallback, Metrics, MirrorKind};
use darter_oci::error::Code;
use darter_oci::name::{DOCKER_HUB, NameError, Reference};
use darter_oci::route::{self as path, Route};
use darter_origin::Upstream;
use darter_registries::Registries;
use darter_registries::question::{Question, Reply, Stale};
use darter_registries::waits::Waits;
use http::header::{ACCEPT, AUTHORIZATION, RANGE, WARNING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::body::{self, Body};
use crate::outlet::Outlet;

use self::account::Account;
use self::grants::{Fingerprint, Grants, NamedBlob, Scope};
use self::page::Pages;
use self::problem::Problem;
use self::route::{KnownUpstreams, Naming};
use self::wrong::WrongDigests;

pub use self::blobs::{Blob, Blobs, Mountable, MountableLayers};
pub use self::given_layers::GivenLayers;
pub use self::lazy::{Beside, FoundLayer, LayerFound, LazyOptions};
pub use self::rewrite::Rewrites;
pub use darter_agent::{AtHand, Nearness, Part};

/// How many tags are remembered as seen.
const TAGS_REMEMBERED: u64 = 10_000;

/// Says how many seconds ago the registry last confirmed what a tag refers to.
const DARTER_STALE: HeaderName = HeaderName::from_static("darter-stale");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// Options of a mirror.
#[derive(Clone, Debug)]
pub struct MirrorOptions {
    /// Names of configured upstreams, which may be a repository's first component.
    pub upstreams: Vec<String>,
    /// The names of repositories at their upstreams.
    pub rewrites: Rewrites,
    /// The upstream of requests that name none.
    pub default_upstream: Option<String>,
    /// True if `/v2/` asks callers for a login.
    pub ask_login: bool,
    /// How long an upstream's acceptance of a caller's credentials is cached.
    pub grant_ttl: Duration,
    /// How long a program waits for an answer to begin.
    pub answer_timeout: Duration,
    /// How long a body may stall; zero for no limit.
    pub stall_timeout: Duration,
    /// Options for giving layers to engines; `None` if no layers are given.
    pub lazy: Option<LazyOptions>,
}

impl From<&Options> for MirrorOptions {
    fn from(options: &Options) -> Self {
        Self {
            upstreams: options.upstreams.iter().map(|upstream| upstream.name.clone()).collect(),
            rewrites: Rewrites::from(options.upstreams.as_slice()),
            default_upstream: options.default_upstream.clone(),
            ask_login: options.ask_login,
            grant_ttl: options.grant_ttl,
            answer_timeout: options.answer_timeout,
            stall_timeout: options.stall_timeout,
            lazy: None,
        }
    }
}

/// Answers requests of engines for `/v2/`.
pub struct Mirror {
    registries: Arc<Registries>,
    blobs: Arc<dyn Blobs>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    known: KnownUpstreams,
    rewrites: Rewrites,
    ask_login: bool,
    waits: Waits,
    stall_timeout: Duration,
    grants: Mutex<Grants>,
    /// Requested ranges of blobs, to recognise sweeps.
    sweeps: Mutex<ahead::AskedRanges<(Scope, Digest)>>,
    /// Permits to read a blob from its upstream because the agent stalls.
    around: Arc<Semaphore>,
    wrong: WrongDigests,
    pages: Pages,
    lazy: Option<lazy::Lazy>,
    /// Tags that were answered before: for these, asking for the digest first pays.
    tags: Mutex<Recent<(Scope, String), ()>>,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("known", &self.known).finish_non_exhaustive()
    }
}

/// A request for something of one repository.
struct Ask<'a> {
    headers: &'a HeaderMap,
    head: bool,
    upstream: Upstream,
    scope: Scope,
    /// The repository's name at the upstream.
    repository: String,
    /// The repository's name as programs write it, before it is rewritten for the upstream.
    named: String,
    /// The repository's name in the request, without the upstream's.
    asked_name: String,
    naming: Naming,
    /// The query without `ns`.
    query: String,
    credentials: Credentials,
    caller: Fingerprint,
    /// Sends ranges of files on this connection.
    outlet: Outlet,
    /// Notes on the registry's last reply to this request.
    said: Mutex<ReplyNotes>,
    awaited: &'a Awaited,
    /// The deadline for the answer to begin.
    until: Instant,
}

/// What a request is waiting for now, for its error message.
#[derive(Default)]
struct Awaited(Mutex<String>);

/// Notes on a registry's reply in addition to its content.
#[derive(Default)]
struct ReplyNotes {
    /// Headers to be passed on.
    told: HeaderMap,
    /// Set if the reply is a cached one because the registry does not answer.
    stale: Option<Stale>,
    /// True if the registry answered during this request, or a moment before.
    now: bool,
}

impl Mirror {
    /// A mirror for these registries.
    pub fn new(
        options: MirrorOptions,
        registries: Arc<Registries>,
        blobs: Arc<dyn Blobs>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            registries,
            blobs,
            metrics,
            known: KnownUpstreams { names: options.upstreams.into_iter().collect(), default: options.default_upstream },
            rewrites: options.rewrites,
            ask_login: options.ask_login,
            waits: Waits::new(options.answer_timeout),
            stall_timeout: options.stall_timeout,
            grants: Mutex::new(Grants::new(options.grant_ttl)),
            sweeps: Mutex::new(ahead::AskedRanges::new()),
            around: Arc::new(Semaphore::new(flow::MAX_AROUND)),
            wrong: WrongDigests::new(Arc::clone(&clock)),
            pages: Pages::new(),
            lazy: options.lazy.map(|lazy| lazy::Lazy::new(lazy, options.grant_ttl)),
            clock,
            tags: Mutex::new(Recent::new(TAGS_REMEMBERED)),
        }
    }

    /// Answers one request; never fails, since errors are answers, too. The response's headers are complete; its body
    /// streams. Every request is logged and counted when its body ends or is dropped.
    pub async fn handle(&self, request: &Parts) -> Response<Body> {
        let path = path::decoded(request.uri.path());
        let route = path::parse(&path);
        let kind = route.map_or(MirrorKind::Other, MirrorKind::of);
        let mut account = Account::open(kind, request, Arc::clone(&self.metrics), Arc::clone(&self.clock));
        let head = request.method == Method::HEAD;
        let (until, awaited) = (self.waits.answer(), Awaited::default());
        let answer = self.answer(request, route, &mut account, (until, &awaited));
        let answer = tokio::time::timeout_at(until, answer).await;
        let answer = answer.unwrap_or_else(|_| Err(self.too_slow(&awaited)));
        let mut response = answer.unwrap_or_else(|problem| {
            account.failed(problem.message());
            problem.into_response(head)
        });
        response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        account.attach(response)
    }

    async fn answer(
        &self,
        request: &Parts,
        route: Option<Route<'_>>,
        account: &mut Account,
        waits: (Instant, &Awaited),
    ) -> Result<Response<Body>, Problem> {
        if request.method != Method::GET && request.method != Method::HEAD {
            return Err(Problem::read_only());
        }
        let Some(route) = route else {
            let text = "the mirror serves manifests, blobs, tags and referrers: check the path";
            return Err(Problem::new(StatusCode::NOT_FOUND, Code::Unsupported, text));
        };
        match route {
            Route::Ping => self.ping(request),
            Route::Manifest { name, reference } => {
                let ask = self.ask(request, name, account, waits)?;
                self.manifest(&ask, Reference::parse(reference)?).await
            }
            Route::Blob { name, digest } => {
                let ask = self.ask(request, name, account, waits)?;
                self.blob(&ask, digest_of(digest)?).await
            }
            Route::Tags { name } => {
                let ask = self.ask(request, name, account, waits)?;
                self.listing(&ask, MirrorKind::Tags, "tags/list").await
            }
            Route::Referrers { name, digest } => {
                let ask = self.ask(request, name, account, waits)?;
                let digest = digest_of(digest)?;
                self.listing(&ask, MirrorKind::Referrers, &format!("referrers/{digest}")).await
            }
        }
    }

    /// `/v2/`: engines look here for the service to authenticate with. The mirror answers that it is there without asking any
    /// upstream: the request does not say which one is meant, and each later request brings that upstream's own
    /// challenge.
    ///
    /// With `ask_login`, a client without a login is asked for one, unless the request names its upstream, as containerd's does:
    /// containerd handles the upstream's own challenges.
    fn ping(&self, request: &Parts) -> Result<Response<Body>, Problem> {
        let named = route::namespace_of(request).0.is_some();
        if self.ask_login && !named && credentials(&request.headers).headers.is_empty() {
            return Err(Problem::log_in());
        }
        let mut response = Response::new(body::full("{}".into()));
        response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }

    fn too_slow(&self, awaited: &Awaited) -> Problem {
        Problem::too_slow(self.waits.whole(), &awaited.0.lock())
    }

    fn ask<'a>(
        &self,
        request: &'a Parts,
        name: &str,
        account: &mut Account,
        (until, awaited): (Instant, &'a Awaited),
    ) -> Result<Ask<'a>, Problem> {
        let (namespace, query) = route::namespace_of(request);
        let target = route::target(namespace, name, &self.known)?;
        let upstream = self.resolve(&target.upstream)?;
        let asked_name = target.repository.clone();
        account.upstream(upstream.name());
        let credentials = credentials(&request.headers);
        // Engines that know the registry write `library/` for Docker Hub's own images; here the registry is part of the path.
        let is_short = matches!(target.naming, Naming::Prefix(_)) && !target.repository.contains('/');
        let repository = if is_short && upstream.name() == DOCKER_HUB {
            format!("library/{}", target.repository)
        } else {
            target.repository
        };
        let named = repository.clone();
        let repository = self.rewrites.apply(upstream.name(), repository);
        Ok(Ask {
            headers: &request.headers,
            head: request.method == Method::HEAD,
            scope: Scope::new(upstream.name(), &repository),
            upstream,
            repository,
            named,
            asked_name,
            naming: target.naming,
            query,
            caller: credentials.fingerprint(),
            credentials,
            outlet: request.extensions.get::<Outlet>().cloned().unwrap_or_default(),
            said: Mutex::default(),
            awaited,
            until,
        })
    }

    fn resolve(&self, name: &str) -> Result<Upstream, Problem> {
        let resolved = self.registries.client().upstreams().resolve(name);
        resolved.map_err(|error| Problem::new(StatusCode::NOT_FOUND, Code::NameUnknown, error.to_string()))
    }

    /// Requests `rest` of the repository from the upstream, with the caller's credentials. Any status counts as an answer.
    async fn request(&self, ask: &Ask<'_>, method: Method, rest: &str, headers: HeaderMap) -> Result<Reply, Problem> {
        self.request_path(ask, method, format!("/v2/{}/{rest}", ask.repository), headers).await
    }

    /// Requests a path of the registry from the upstream, with the caller's credentials. Any status counts as an answer.
    async fn request_path(
        &self,
        ask: &Ask<'_>,
        method: Method,
        path: String,
        headers: HeaderMap,
    ) -> Result<Reply, Problem> {
        let (upstream, credentials) = (ask.upstream.clone(), ask.credentials.clone());
        ask.waits_for(format!("{upstream} to answer {method} {path}"));
        let question = Question { upstream, method, path, headers, credentials };
        let reply = self.registries.ask(question).await;
        let reply = reply.map_err(|failure| Problem::of_failure(&failure, Code::NameUnknown))?;
        let now = reply.stale.is_none() && reply.age < self.waits.whole();
        *ask.said.lock() = ReplyNotes { told: told::of(&reply.headers), stale: reply.stale.clone(), now };
        Ok(reply)
    }

    /// What is known of the content, if the caller may read it without asking the upstream.
    fn believed(&self, ask: &Ask<'_>, digest: Digest) -> Option<NamedBlob> {
        let known = self.grants.lock().look_up(&ask.scope, ask.caller, digest, self.clock.now());
        if known.is_some() {
            self.metrics.mirror_access_check(AccessCheck::Believed);
        }
        known
    }

    /// What is known of a blob of which this caller requests a range, if the caller got a part of it a while ago.
    fn was_given(&self, ask: &Ask<'_>, digest: Digest) -> Option<NamedBlob> {
        if !ask.headers.contains_key(RANGE) {
            return None;
        }
        self.grants.lock().was_given(&ask.scope, ask.caller, digest, self.clock.now())
    }

    /// Notes that the upstream served something of the repository to this caller; not if the reply is only a cached one.
    fn accepted(&self, ask: &Ask<'_>, reply: &Reply) {
        if reply.stale.is_none() {
            let age = u64::try_from(reply.age.as_micros()).unwrap_or(u64::MAX);
            let then = Moment::from_micros(self.clock.now().as_micros().saturating_sub(age));
            self.grants.lock().accept(&ask.scope, ask.caller, then);
        }
    }

    /// Fails if one of the digests had wrong content a short time ago and the blob is not complete here by now.
    async fn refuse_wrong(&self, ask: &Ask<'_>, digests: impl IntoIterator<Item = Digest>) -> Result<(), Problem> {
        let refusal = |digest| self.wrong.refusal(&ask.scope, ask.caller, digest);
        for digest in digests {
            if refusal(digest).is_some() && self.blobs.is_whole(&ask.source(digest)).await {
                self.wrong.forget(&ask.scope, digest);
            }
            if let Some(problem) = refusal(digest) {
                self.metrics.mirror_fallback(Fallback::Refused);
                return Err(problem);
            }
        }
        Ok(())
    }

    /// Notes that the upstream refused this caller.
    fn refused(&self, ask: &Ask<'_>, status: StatusCode, digest: Option<Digest>) {
        self.metrics.mirror_access_check(AccessCheck::Refused);
        let mut grants = self.grants.lock();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => grants.refuse(&ask.scope, ask.caller),
            StatusCode::NOT_FOUND => {
                if let Some(digest) = digest {
                    grants.is_gone(&ask.scope, digest);
                }
            }
            _ => {}
        }
    }
}

impl Ask<'_> {
    /// The source of a blob of the repository.
    fn source(&self, digest: Digest) -> Source {
        Source::Registry { registry: self.upstream.base().clone(), repository: self.repository.clone(), digest }
    }

    /// The `Accept` headers, to be passed on.
    fn accept(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in self.headers.get_all(ACCEPT) {
            headers.append(ACCEPT, value.clone());
        }
        headers
    }

    /// The status that answers the request in place of this content, by the caller's conditions.
    fn condition(&self, digest: &Digest) -> Option<StatusCode> {
        conditions::status(self.headers, &entity_tag(digest))
    }

    /// Adds the registry's headers for the caller to an answer.
    fn pass_on(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.said.lock().told {
            headers.append(name, value.clone());
        }
    }

    /// Notes what the request waits for from now on.
    fn waits_for(&self, what: String) {
        *self.awaited.0.lock() = what;
    }

    /// True if the registry has answered during this request.
    fn was_heard(&self) -> bool {
        self.said.lock().now
    }

    /// If the registry's last reply is only a cached one, why.
    fn stale_because(&self) -> Option<String> {
        self.said.lock().stale.as_ref().map(|stale| stale.reason.clone())
    }

    /// If the answer for a tag is stale, adds the headers that say so.
    fn say_stale(&self, tag: &str, headers: &mut HeaderMap) {
        let Some(Stale { age, reason }) = self.said.lock().stale.clone() else { return };
        let age = age.as_secs();
        headers.insert(DARTER_STALE, age.into());
        let name = format!("{}/{}:{tag}", self.upstream.name(), self.repository);
        tracing::warn!(image = name, age_s = age, reason, "a tag is served as it was last seen");
        let reason: String = reason
            .chars()
            .map(|it| if matches!(it, ' '..='~') && it != '"' && it != '\\' { it } else { '?' })
            .collect();
        let text =
            format!("299 - \"{name} is served as it was {age} s ago, since its registry does not answer: {reason}\"");
        if let Ok(warning) = HeaderValue::from_str(&text) {
            headers.append(WARNING, warning);
        }
    }
}

/// The caller's credentials: its `Authorization` headers and nothing else. The empty login, which Podman, skopeo and CRI-O send
/// if they are asked for a login and have none, counts as no credentials.
fn credentials(headers: &HeaderMap) -> Credentials {
    let values = headers.get_all(AUTHORIZATION).iter().filter_map(|value| value.to_str().ok());
    let said = values.filter(|value| !value.trim().is_empty() && !is_empty_login(value));
    Credentials { headers: said.map(|value| (AUTHORIZATION.as_str().to_owned(), value.to_owned())).collect() }
}

/// True if this is Basic authentication with an empty user and an empty password.
fn is_empty_login(authorization: &str) -> bool {
    const ENCODED_COLON: &str = "Og==";
    let parts = authorization.trim().split_once(' ');
    parts.is_some_and(|(scheme, login)| scheme.eq_ignore_ascii_case("basic") && login.trim() == ENCODED_COLON)
}

/// A digest in a path.
fn digest_of(text: &str) -> Result<Digest, Problem> {
    Ok(text.parse().map_err(NameError::Digest)?)
}

fn entity_tag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// A header value from text that the mirror made itself.
fn header(text: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(text)
        .map_err(|_| Problem::bad_upstream(Code::Unavailable, "the upstream gave a header that can't be passed on"))
}
