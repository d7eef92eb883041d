//! The registry mirror: the pull side of the OCI distribution specification, for the engines of this host.
//!
//! | file | what lives there |
//! |---|---|
//! | `mod` | [`Mirror`]: from a request to an answer; what all kinds of requests share |
//! | `route` | what a path asks for, and of which upstream |
//! | `manifest` | manifests by tag and by digest |
//! | `blob` | blobs, by way of the agent |
//! | `compared` | a registry's own copy of content that came from elsewhere |
//! | `rescue` | the way back to the upstream when the agent fails a blob |
//! | `listing` | tags and referrers, passed through |
//! | `grants` | who may read what is cached |
//! | `cache` | manifests in memory and on disk |
//! | `provenance` | which registry and repository delivered a cached manifest |
//! | `blobs` | [`Blobs`], what the mirror needs of the agent |
//! | `problem` | errors in the specification's form |
//! | `range`, `recent`, `account` | the `Range` header; a bounded map; the log and count of each request |
//!
//! # One request
//!
//! Method and path are read (`route`), the upstream is chosen and the caller's `Authorization` taken. A manifest asked
//! for by tag is always checked with the upstream, with the caller's credentials; what is immutable is served from here
//! if the caller may have it (`grants`), else the upstream is asked. Blobs come from the agent, that is from store and
//! swarm.
//!
//! # Whose credentials
//!
//! A caller's own `Authorization` goes to the upstream as it is, and the upstream's refusal goes back with its
//! challenges, so that the engine does its own token dance; a user and password are traded for a token on the caller's
//! behalf where the upstream wants one. A caller without any is served with the login that is configured for that
//! registry, or an anonymous token; where neither is enough, the upstream's 401 goes back too.
//!
//! Podman, skopeo and CRI-O send a login only if `/v2/` asked for one, and say nothing there of the registry they mean:
//! [`MirrorOptions::ask_login`] makes the mirror ask.
//!
//! # Invariants
//!
//! - A tag is never answered without the upstream's word on it in the same request.
//! - A manifest that is not what its digest says is never passed on.
//! - No cached byte goes to a caller whose credentials the upstream did not accept for its repository, nor on the word
//!   of a registry that neither delivered it nor is trusted.
//! - A failure of Darter's own is not the engine's: before the first byte the upstream is read instead, in the middle
//!   of a blob the rest comes from the upstream, and where that fails the connection breaks off.
//!
//! Non-goals: pushing, catalogues, rewriting manifests.

mod account;
mod blob;
mod blobs;
mod cache;
mod compared;
mod grants;
mod listing;
mod manifest;
mod problem;
mod provenance;
mod range;
mod recent;
mod rescue;
mod route;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use darter_core::source::Credentials;
use darter_core::{Clock, Digest};
use darter_origin::{Answer, RegistryClient, Upstream};
use http::header::{ACCEPT, AUTHORIZATION, IF_NONE_MATCH};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use parking_lot::Mutex;

use crate::local::outlet::Outlet;
use crate::local::{self, Body};
use crate::metrics::{AccessCheck, Metrics, MirrorKind};
use crate::options::Options;

use self::account::Account;
use self::cache::Manifests;
use self::grants::{Fingerprint, Grants, Member, Scope};
use self::problem::{Code, Problem};
use self::provenance::Provenance;
use self::recent::Recent;
use self::route::{Known, Naming, Route};

pub use self::blobs::{Blob, Blobs};
pub use crate::transfer::stream::Part;

/// Tags remembered as seen.
const TAGS_REMEMBERED: u64 = 10_000;

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// Options of a mirror.
#[derive(Clone, Debug)]
pub struct MirrorOptions {
    /// Where manifests are kept.
    pub manifests: PathBuf,
    /// Names of configured upstreams, which may stand as a repository's first component.
    pub upstreams: Vec<String>,
    /// The upstream of requests that name none.
    pub default_upstream: Option<String>,
    /// Whether `/v2/` asks for the login that the caller has for this mirror.
    pub ask_login: bool,
    /// How long an upstream's yes to a caller's credentials is believed.
    pub grant_ttl: Duration,
}

impl From<&Options> for MirrorOptions {
    fn from(options: &Options) -> Self {
        Self {
            manifests: options.data_dir.join("manifests"),
            upstreams: options.upstreams.iter().map(|upstream| upstream.name.clone()).collect(),
            default_upstream: options.default_upstream.clone(),
            ask_login: options.ask_login,
            grant_ttl: options.grant_ttl,
        }
    }
}

/// Answers what engines ask of `/v2/`.
pub struct Mirror {
    registry: RegistryClient,
    blobs: Arc<dyn Blobs>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    known: Known,
    ask_login: bool,
    manifests: Manifests,
    provenance: Provenance,
    grants: Mutex<Grants>,
    /// Tags that were answered before, so that it pays to ask for their digest first.
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
    repository: String,
    naming: Naming,
    /// The query without `ns`.
    query: String,
    credentials: Credentials,
    caller: Fingerprint,
    /// Takes parts of files for this connection.
    outlet: Outlet,
}

impl Mirror {
    /// Opens the mirror. Blocking: it lists the manifests kept.
    ///
    /// # Errors
    /// When the directory of manifests can't be made or listed.
    pub fn open(
        options: MirrorOptions,
        registry: RegistryClient,
        blobs: Arc<dyn Blobs>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        Ok(Self {
            registry,
            blobs,
            metrics,
            clock,
            known: Known { names: options.upstreams.into_iter().collect(), default: options.default_upstream },
            ask_login: options.ask_login,
            provenance: Provenance::open(&options.manifests),
            manifests: Manifests::open(&options.manifests)?,
            grants: Mutex::new(Grants::new(options.grant_ttl)),
            tags: Mutex::new(Recent::new(TAGS_REMEMBERED)),
        })
    }

    /// Answers one request; never fails, since errors are answers too. The response's headers are complete; its body
    /// streams. Every request is logged and counted when its body ends or is dropped.
    pub async fn handle(&self, request: &Parts) -> Response<Body> {
        let path = route::decoded(request.uri.path());
        let route = route::parse(&path);
        let kind = route.map_or(MirrorKind::Other, kind_of);
        let mut account = Account::open(kind, request, Arc::clone(&self.metrics), Arc::clone(&self.clock));
        let head = request.method == Method::HEAD;
        let answer = self.answer(request, route, &mut account).await;
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
    ) -> Result<Response<Body>, Problem> {
        if request.method != Method::GET && request.method != Method::HEAD {
            return Err(Problem::read_only());
        }
        let Some(route) = route else {
            let text = "the mirror serves manifests, blobs, tags and referrers: check the path";
            return Err(Problem::new(StatusCode::NOT_FOUND, Code::Unsupported, text));
        };
        match route {
            Route::Ping => self.ping(request, account).await,
            Route::Manifest { name, reference } => {
                let ask = self.ask(request, name, account)?;
                self.manifest(&ask, route::reference(reference)?).await
            }
            Route::Blob { name, digest } => {
                let ask = self.ask(request, name, account)?;
                self.blob(&ask, route::digest(digest)?).await
            }
            Route::Tags { name } => {
                let ask = self.ask(request, name, account)?;
                self.listing(&ask, MirrorKind::Tags, "tags/list").await
            }
            Route::Referrers { name, digest } => {
                let ask = self.ask(request, name, account)?;
                let digest = route::digest(digest)?;
                self.listing(&ask, MirrorKind::Referrers, &format!("referrers/{digest}")).await
            }
        }
    }

    /// `/v2/`: engines look here for who they are to authenticate with. Where the upstream is known (by `ns` or by
    /// default), its challenge is passed on; in all other cases, one where it can't be reached included, the mirror
    /// says that it is there: what it has is served without its upstream as long as grants last.
    ///
    /// A registry that is satisfied with the configured login or an anonymous token counts as open. Podman, whose
    /// paths have a prefix, would otherwise ask the registry's token service for a repository that is not there; the
    /// price is that Docker, which decides here once for all, brings its own login only to registries that give
    /// nothing to strangers. Docker Hub gives something to everybody, so as the default it is not asked.
    ///
    /// With `ask_login`, a ping that names no upstream is the mirror's own to answer: the login that it brings is for
    /// one upstream of several, and must not be shown to the default one.
    async fn ping(&self, request: &Parts, account: &mut Account) -> Result<Response<Body>, Problem> {
        let caller = credentials(&request.headers);
        let (namespace, _) = route::split_query(request.uri.query());
        let asked = if let Some(name) = namespace {
            Some(self.resolve(&name)?)
        } else if self.ask_login {
            if caller.headers.is_empty() {
                return Err(Problem::log_in());
            }
            None
        } else {
            let default = self.known.default.as_deref().map(|name| self.resolve(name)).transpose()?;
            default.filter(|upstream| !upstream.is_docker_hub())
        };
        if let Some(upstream) = asked {
            account.upstream(upstream.name());
            self.metrics.mirror_upstream_request(MirrorKind::Ping);
            match self.registry.send(&upstream, Method::GET, "/v2/", HeaderMap::new(), &caller).await {
                Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => {
                    return Err(Problem::of_answer(answer, upstream.name(), Code::NameUnknown).await);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(upstream = upstream.name(), %error, "an upstream does not answer"),
            }
        }
        let mut response = Response::new(local::full("{}".into()));
        response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }

    fn ask<'a>(&self, request: &'a Parts, name: &str, account: &mut Account) -> Result<Ask<'a>, Problem> {
        let (namespace, query) = route::split_query(request.uri.query());
        let place = route::place(namespace, name, &self.known)?;
        let upstream = self.resolve(&place.upstream)?;
        account.upstream(upstream.name());
        let credentials = credentials(&request.headers);
        Ok(Ask {
            headers: &request.headers,
            head: request.method == Method::HEAD,
            scope: Scope::new(upstream.name(), &place.repository),
            upstream,
            repository: place.repository,
            naming: place.naming,
            query,
            caller: credentials.fingerprint(),
            credentials,
            outlet: request.extensions.get::<Outlet>().cloned().unwrap_or_default(),
        })
    }

    fn resolve(&self, name: &str) -> Result<Upstream, Problem> {
        let resolved = self.registry.upstreams().resolve(name);
        resolved.map_err(|error| Problem::new(StatusCode::NOT_FOUND, Code::NameUnknown, error.to_string()))
    }

    /// Asks the upstream, with the caller's credentials, for `rest` of the repository. Any status is an answer.
    async fn request(
        &self,
        ask: &Ask<'_>,
        kind: MirrorKind,
        method: Method,
        rest: &str,
        headers: HeaderMap,
    ) -> Result<Answer, Problem> {
        self.metrics.mirror_upstream_request(kind);
        let path = format!("/v2/{}/{rest}", ask.repository);
        let sent = self.registry.send(&ask.upstream, method, &path, headers, &ask.credentials).await;
        sent.map_err(|error| Problem::of_error(&error, Code::NameUnknown))
    }

    /// What is known of the content, if the caller may read it without the upstream being asked.
    fn believed(&self, ask: &Ask<'_>, digest: Digest) -> Option<Member> {
        let known = self.grants.lock().look_up(&ask.scope, ask.caller, digest, self.clock.now());
        if known.is_some() {
            self.metrics.mirror_access_check(AccessCheck::Believed);
        }
        known
    }

    /// Notes that the upstream gave this caller something of the repository.
    fn accepted(&self, ask: &Ask<'_>) {
        self.grants.lock().accept(&ask.scope, ask.caller, self.clock.now());
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
    /// The `Accept` headers, to be passed on.
    fn accept(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in self.headers.get_all(ACCEPT) {
            headers.append(ACCEPT, value.clone());
        }
        headers
    }

    /// Whether the caller says that it has this very content already.
    fn has_already(&self, digest: &Digest) -> bool {
        let tag = entity_tag(digest);
        let values = self.headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|one| one.trim() == tag || one.trim() == "*")
    }
}

/// What authorises the caller: its `Authorization` headers and nothing else. The empty login, which Podman's family
/// sends for want of a better one when it is asked, authorises nobody.
fn credentials(headers: &HeaderMap) -> Credentials {
    let values = headers.get_all(AUTHORIZATION).iter().filter_map(|value| value.to_str().ok());
    let said = values.filter(|value| !is_empty_login(value));
    Credentials { headers: said.map(|value| (AUTHORIZATION.as_str().to_owned(), value.to_owned())).collect() }
}

/// Whether this is Basic with neither a user nor a password.
fn is_empty_login(authorization: &str) -> bool {
    const ENCODED_COLON: &str = "Og==";
    let parts = authorization.trim().split_once(' ');
    parts.is_some_and(|(scheme, login)| scheme.eq_ignore_ascii_case("basic") && login.trim() == ENCODED_COLON)
}

fn entity_tag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// A header value of text that the mirror made itself.
fn header(text: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(text)
        .map_err(|_| Problem::bad_upstream(Code::Unavailable, "the upstream gave a header that can't be passed on"))
}

const fn kind_of(route: Route<'_>) -> MirrorKind {
    match route {
        Route::Ping => MirrorKind::Ping,
        Route::Manifest { .. } => MirrorKind::Manifest,
        Route::Blob { .. } => MirrorKind::Blob,
        Route::Tags { .. } => MirrorKind::Tags,
        Route::Referrers { .. } => MirrorKind::Referrers,
    }
}
