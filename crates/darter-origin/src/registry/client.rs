//! Requests to registries, with tokens for callers that do not get them themselves.
//!
//! ```text
//! caller has a token  ──► pass it on ────────────────────────────────────────► answer with any status
//! caller has a login ─┬─► with what this repository required last ─► not 401 ─► answer
//! caller has nothing ─┘                                           └► 401 ────► answer the challenge ──► answer with any status
//! ```
//!
//! A registry may have several addresses: the first one that answers is used, and one that failed is tried only after the others for a while. If a redirect leads to another registry (from `lscr.io` to
//! `ghcr.io`), that registry's challenge is answered, too, with the login that is configured for *it*, or with none: the caller's credentials are sent only to the registry that the caller named.
//!
//! A caller's login is used like a configured one, and instead of it: it is sent unchanged until the registry requires a token. An engine that got a mirror's challenge for a login does not know the
//! registry's token service.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use darter_core::source::Credentials;
use darter_core::{Blamed as _, ByteRange, Clock, Digest, Moment, in_full};
use darter_oci::challenge::challenges_of;
use darter_oci::route;
use futures_util::stream::{self, StreamExt};
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;
use tokio::time::Instant;
use url::Url;

use crate::body;
use crate::client::{HttpClient, Request, credential_headers, left_until, of_status, same_server, shown};
use crate::error::{ErrorKind, OriginError, status_text};
use crate::registry::answer::Answer;
use crate::registry::config::{Login, RegistryConfig};
use crate::registry::encoding;
use crate::registry::login::Logins;
use crate::registry::probe::{self, HEAD_ALONE_TIMEOUT};
use crate::registry::proof::LoginKeys;
use crate::registry::token::{self, Demand, Grant, Tokens};
use crate::registry::upstreams::{Upstream, Upstreams};
use crate::web::{self, AnswerPart, content_length};

/// Sends requests to registries. Cheap to clone.
#[derive(Clone)]
pub struct RegistryClient {
    pub(super) inner: Arc<Inner>,
    uses: Uses,
    /// Until when the caller waits for answers.
    pub(super) until: Option<Instant>,
}

/// The credentials with which a client answers challenges of registries for callers without credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Uses {
    /// The configured logins.
    Logins,
    /// Only anonymous tokens.
    NoLogins,
}

pub(super) struct Inner {
    pub(super) http: HttpClient,
    pub(super) upstreams: Upstreams,
    pub(super) logins: Logins,
    pub(super) tokens: Tokens,
    pub(super) login_keys: LoginKeys,
    /// What each repository required last, so that the next request has it at once.
    pub(super) remembered: Mutex<HashMap<RequestPlace, Wanted>>,
    /// For each place whose redirects led to another registry that required a login or a token, that registry's place.
    pub(super) beyond: Mutex<HashMap<RequestPlace, RequestPlace>>,
    /// Addresses that did not answer, and until when others are tried before them.
    failed: Mutex<HashMap<Url, Moment>>,
    clock: Arc<dyn Clock>,
}

/// The place of a request: a registry's base address, and the repository if the request is about one.
pub(super) type RequestPlace = (Url, Option<String>);

/// Most repositories that are remembered.
const MAX_REMEMBERED: usize = 4096;
/// For how long an address that failed is tried only after the registry's others.
const ADDRESS_PAUSE: Duration = Duration::from_secs(30);

/// The credentials that a registry requires, as far as this client can give them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Password,
    Token(Arc<Demand>),
}

/// The answer to what a registry requires.
pub(super) enum Met {
    /// This `Authorization`.
    By(HeaderValue),
    /// None; with the token service's refusal, if it refused.
    Not(Option<OriginError>),
}

impl RegistryClient {
    /// A client with these options. `clock` decides when tokens expire.
    pub fn new(http: HttpClient, config: &RegistryConfig, clock: Arc<dyn Clock>) -> Self {
        let inner = Inner {
            upstreams: Upstreams::new(config),
            logins: Logins::new(config, clock.clone()),
            tokens: Tokens::new(http.clone(), clock.clone()),
            http,
            login_keys: LoginKeys::default(),
            remembered: Mutex::default(),
            beyond: Mutex::default(),
            failed: Mutex::default(),
            clock,
        };
        Self { inner: Arc::new(inner), uses: Uses::Logins, until: None }
    }

    /// This client, for callers that must not get content that requires a configured login, not even after a redirect.
    #[must_use]
    pub fn without_logins(&self) -> Self {
        Self { uses: Uses::NoLogins, ..self.clone() }
    }

    /// This client, for a caller that waits `until` then for an answer to begin. The error names the server that did not answer: the registry, its token
    /// service or the target of a redirect. A body may take longer.
    #[must_use]
    pub fn until(&self, until: Instant) -> Self {
        Self { until: Some(until), ..self.clone() }
    }

    /// How long to wait for an answer to HEAD before GET is tried, too.
    pub fn head_patience(&self) -> Duration {
        // Most of a short time is GET's, which has to answer after it.
        self.until.map_or(HEAD_ALONE_TIMEOUT, |until| HEAD_ALONE_TIMEOUT.min(left_until(until).mul_f64(0.4)))
    }

    /// Sets the logins of `config`, and nothing else. Tokens of the old logins are used until they expire.
    pub fn reload_logins(&self, config: &RegistryConfig) {
        self.inner.logins.reload(config);
    }

    /// The registries' names and addresses.
    pub fn upstreams(&self) -> &Upstreams {
        &self.inner.upstreams
    }

    /// The login that is configured for a registry.
    pub(super) async fn login_of(&self, upstream: &Upstream) -> Option<Login> {
        match self.uses {
            Uses::Logins => self.inner.logins.of(upstream.name()).await,
            Uses::NoLogins => None,
        }
    }

    /// True if a request to this registry with these credentials also sends something that is configured here: a login,
    /// headers or a client certificate.
    pub async fn shows_own_keys(&self, upstream: &Upstream, caller: &Credentials) -> bool {
        self.shows_own_headers(upstream) || caller.headers.is_empty() && self.login_of(upstream).await.is_some()
    }

    fn shows_own_headers(&self, upstream: &Upstream) -> bool {
        let keys_for = |at: Upstream| !at.is_stranger() && self.inner.http.has_keys_for(at.base());
        upstream.addresses().any(keys_for)
    }

    /// Proves to another agent that this one has the login that is configured for a registry, without revealing the login: an agent with
    /// the same login computes the same from the same `about`. `None` without a login, and if something else is also configured for the registry.
    pub async fn login_proof(&self, upstream: &Upstream, about: [&[u8]; 2]) -> Option<Digest> {
        if self.shows_own_headers(upstream) {
            return None;
        }
        let login = self.login_of(upstream).await?;
        Some(self.inner.login_keys.proof(&login, upstream.base(), about).await)
    }

    /// Sends a GET or HEAD for `path_and_query`, which starts with `/v2/`, and returns the registry's answer with any status.
    /// Redirects are followed, but `Authorization` is not sent to another host.
    ///
    /// A caller's own `Authorization` is passed on unchanged, and a 401 is returned with its challenges; only a Basic one
    /// is exchanged for a token if the registry requires a token. Without `Authorization`, the registry's configured login, or
    /// else an anonymous token, is used if the registry requires it; if that is not sufficient, the registry's
    /// 401 is returned, too, so that the caller can bring other credentials.
    ///
    /// # Errors
    /// Only if the registry or its token service gives no answer (network, TLS, timeout, overload), or the
    /// request can't be sent.
    pub async fn send(
        &self,
        upstream: &Upstream,
        method: Method,
        path_and_query: &str,
        headers: HeaderMap,
        caller: &Credentials,
    ) -> Result<Answer, OriginError> {
        if !matches!(method, Method::GET | Method::HEAD) {
            let text = format!("{method} is not among the methods that are passed on: GET and HEAD are");
            return Err(OriginError::new(ErrorKind::Protocol, text));
        }
        let mut addresses = self.in_order(upstream);
        let last = addresses.pop();
        let mut behind = addresses.len();
        for at in addresses {
            // An address that hangs leaves time to those behind it.
            let share = self.until.map(|until| Instant::now() + left_until(until).div_f64(behind as f64 + 1.0));
            behind -= 1;
            let client = Self { until: share, ..self.clone() };
            let sent = client.send_to(&at, method.clone(), path_and_query, headers.clone(), caller).await;
            let trouble = match &sent {
                Ok(answer) if answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS => {
                    status_text(answer.status)
                }
                Err(error) if !error.blame().is_final() => in_full(error).to_string(),
                _ => return sent,
            };
            tracing::warn!(upstream = upstream.name(), address = %shown(at.base()), trouble, "trying another address");
            self.inner.failed.lock().insert(at.base().clone(), self.inner.clock.now() + ADDRESS_PAUSE);
        }
        let last = last.as_ref().unwrap_or(upstream);
        self.send_to(last, method, path_and_query, headers, caller).await
    }

    /// The registry at each of its addresses. Those that failed a short time ago come last.
    fn in_order(&self, upstream: &Upstream) -> Vec<Upstream> {
        let now = self.inner.clock.now();
        let failed = self.inner.failed.lock();
        let mut addresses: Vec<_> = upstream.addresses().collect();
        addresses.sort_by_key(|at| failed.get(at.base()).is_some_and(|&until| now < until));
        addresses
    }

    async fn send_to(
        &self,
        upstream: &Upstream,
        method: Method,
        path_and_query: &str,
        headers: HeaderMap,
        caller: &Credentials,
    ) -> Result<Answer, OriginError> {
        let mut request = Request::new(method, address(upstream, path_and_query)?);
        (request.reach, request.stranger) = (upstream.reach(), upstream.is_stranger());
        request.headers = headers;
        // Headers that authorise come from the caller's credentials alone, so that they stay behind at a redirect.
        request.headers.remove(AUTHORIZATION);
        request.credentials = credential_headers(caller)?;
        let brought = request.credentials.contains_key(AUTHORIZATION);
        let login = if brought {
            let Some(login) = login_of_caller(&request.credentials) else {
                return self.once(&request).await.map(|(answer, _)| answer);
            };
            Some(login)
        } else {
            self.login_of(upstream).await
        };
        let place = (upstream.base().clone(), repository_of(path_and_query).map(str::to_owned));
        self.send_authorised(upstream, request, login.as_ref(), brought, place).await
    }

    /// Sends the request with the credentials that the repository required last, and after a 401 once more with those that it requires now.
    async fn send_authorised(
        &self,
        upstream: &Upstream,
        mut request: Request,
        login: Option<&Login>,
        callers: bool,
        place: RequestPlace,
    ) -> Result<Answer, OriginError> {
        let sent = self.inner.remembered.lock().get(&place).cloned();
        let mut refusal = None;
        if let Some(wanted) = &sent {
            match self.meet(wanted, login).await? {
                Met::By(authorization) => drop(request.credentials.insert(AUTHORIZATION, authorization)),
                Met::Not(reason) => refusal = Some(reason),
            }
        }
        let sent_beyond = self.prepare_beyond(&mut request, callers, &place).await?;
        let (answer, from) = self.once(&request).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        if !same_server(&from, upstream.base()) {
            return self.send_beyond(request, callers, place, answer, &from, sent_beyond).await;
        }
        let Some(wanted) = wanted_by(&answer.headers, upstream, place.1.as_deref(), login) else { return Ok(answer) };
        if let Wanted::Token(demand) = &wanted
            && sent.as_ref() == Some(&wanted)
        {
            // Token services count wrong passwords: one request shows it once.
            if let Some(reason) = refusal {
                return Ok(answer.without_token(reason));
            }
            self.inner.tokens.forget(demand, login);
        }
        let authorization = match self.meet(&wanted, login).await? {
            Met::By(authorization) => authorization,
            Met::Not(reason) => return Ok(answer.without_token(reason)),
        };
        if request.credentials.get(AUTHORIZATION) == Some(&authorization) {
            return Ok(answer);
        }
        request.credentials.insert(AUTHORIZATION, authorization);
        let sent_beyond = self.prepare_beyond(&mut request, callers, &place).await?;
        let (second, from) = self.once(&request).await?;
        if second.status != StatusCode::UNAUTHORIZED {
            remember(&mut self.inner.remembered.lock(), place, wanted);
            return Ok(second);
        }
        if same_server(&from, upstream.base()) {
            return Ok(second);
        }
        self.send_beyond(request, callers, place, second, &from, sent_beyond).await
    }

    /// The required `Authorization`, if this client can give it.
    pub(super) async fn meet(&self, wanted: &Wanted, login: Option<&Login>) -> Result<Met, OriginError> {
        match (wanted, login) {
            (Wanted::Password, Some(Login::Password { user, password })) => token::basic(user, password).map(Met::By),
            (Wanted::Password, _) => Ok(Met::Not(None)),
            (Wanted::Token(demand), login) => match self.inner.tokens.get(demand, login, self.until).await? {
                Grant::Token(token) => token::bearer(&token).map(Met::By),
                Grant::Refused(refusal) => Ok(Met::Not(Some(refusal))),
            },
        }
    }

    /// Sends one request. Returns its answer, with the address from which it came after redirects.
    pub(super) async fn once(&self, request: &Request) -> Result<(Answer, Url), OriginError> {
        let what = shown(&request.url);
        let response = self.inner.http.send(Request { until: self.until, ..request.clone() }).await?;
        let (mut status, mut headers, from) = (response.status(), response.headers().clone(), response.url().clone());
        if status == StatusCode::NON_AUTHORITATIVE_INFORMATION {
            status = StatusCode::OK;
        }
        let is_get = request.method == Method::GET;
        let length = if is_get { content_length(&headers) } else { None };
        let mut body = body::of_response(response, length, what.clone());
        // If nothing depends on the bytes (lists, error texts), an encoding that is not known here goes on as it is.
        let is_plain = status.is_success() && (is_of_blob(request.url.path()) || is_of_manifest(request.url.path()));
        let encoding = encoding::encoding_of(&headers);
        if let Some(encoding) = encoding.filter(|encoding| is_plain || *encoding != encoding::Encoding::Unknown) {
            if is_get && status != StatusCode::NOT_MODIFIED {
                let whole_form = !status.is_success() || !is_of_blob(request.url.path());
                let decoded = encoding::decoded(body, encoding, what.clone()).filter(|_| whole_form);
                body = decoded.ok_or_else(|| encoding::unasked(status, &headers, &what))?;
            }
            // Both are about the encoded form.
            headers.remove(CONTENT_ENCODING);
            headers.remove(CONTENT_LENGTH);
        }
        Ok((Answer { status, headers, body, what, no_token: None }, from))
    }

    /// Asks the registry, with the caller's credentials, whether a blob exists and how long it is: with HEAD; with a GET of
    /// its first byte if HEAD does not succeed, or is not answered for a while; and with a GET of all bytes if that is refused, too,
    /// except if the blob is missing or requires a login. Registries, their gateways, and addresses that are signed for GET refuse HEAD and
    /// ranges with various statuses although a plain GET would succeed.
    ///
    /// The answer to a successful GET is returned like one to HEAD: 200, the whole length, no body. A web page is not a
    /// success: gateways show it to callers that have to log in.
    ///
    /// # Errors
    /// As of [`send`](Self::send), and if a web page comes instead of the blob.
    pub async fn head_blob(
        &self,
        upstream: &Upstream,
        repository: &str,
        digest: &Digest,
        caller: &Credentials,
    ) -> Result<Answer, OriginError> {
        let path = blob_path(repository, digest)?;
        let head = Box::pin(self.send(upstream, Method::HEAD, &path, HeaderMap::new(), caller));
        let first = Box::pin(self.get_headers(upstream, &path, Some(ByteRange::new(0, 1)), caller));
        let all = Box::pin(self.get_headers(upstream, &path, None, caller));
        // Some registries say of everything that it has no bytes.
        let is_empty = digest.hasher().finish() == *digest;
        let says_yes = |answer: &Answer| {
            let is_there = is_empty || content_length(&answer.headers) != Some(0);
            answer.status == StatusCode::OK && is_there && !answer.is_page()
        };
        let is_final = |answer: &Answer| {
            let finals = [StatusCode::UNAUTHORIZED, StatusCode::NOT_FOUND, StatusCode::TOO_MANY_REQUESTS];
            says_yes(answer) || finals.contains(&answer.status)
        };
        let get = Box::pin(probe::either(self.head_patience(), first, all, is_final));
        let answer = probe::either(self.head_patience(), head, get, says_yes).await?;
        let answer = answer.into_blob(upstream)?;
        if answer.status != StatusCode::OK && answer.status.is_success() {
            return Err(of_status(answer.status, &answer.headers, &answer.what));
        }
        if answer.status == StatusCode::OK && !says_yes(&answer) {
            let text = format!(
                "{upstream} says (HTTP {}) that {digest} has no bytes: check its address, and who answers there",
                status_text(answer.status)
            );
            return Err(OriginError::new(ErrorKind::Protocol, text));
        }
        Ok(answer)
    }

    /// The headers of the answer to a GET for a blob; its body is not read.
    async fn get_headers(
        &self,
        upstream: &Upstream,
        path: &str,
        range: Option<ByteRange>,
        caller: &Credentials,
    ) -> Result<Answer, OriginError> {
        let mut headers = HeaderMap::new();
        web::ask_for_range(&mut headers, range);
        let mut answer = self.send(upstream, Method::GET, path, headers, caller).await?;
        if let Ok(part) = AnswerPart::of(answer.status, &answer.headers, range, &answer.what) {
            answer.status = StatusCode::OK;
            answer.headers.remove(CONTENT_RANGE);
            answer.headers.remove(CONTENT_LENGTH);
            if let Some(length) = part.length {
                answer.headers.insert(CONTENT_LENGTH, length.into());
            }
            answer.body = stream::empty().boxed();
        }
        Ok(answer)
    }
}

impl fmt::Debug for RegistryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryClient").field("upstreams", &self.inner.upstreams).finish_non_exhaustive()
    }
}

fn address(upstream: &Upstream, path_and_query: &str) -> Result<Url, OriginError> {
    let wrong = || {
        let text = format!("{path_and_query:?} is not a path of a registry's API: it starts with /v2/");
        OriginError::new(ErrorKind::Protocol, text)
    };
    let url = upstream.base().join(path_and_query.strip_prefix('/').ok_or_else(wrong)?);
    let url = url.map_err(|error| wrong().caused_by(error))?;
    let inside = url.as_str().strip_prefix(upstream.base().as_str()).is_some_and(|rest| rest.starts_with("v2/"));
    if inside { Ok(url) } else { Err(wrong()) }
}

/// The path of a blob.
///
/// # Errors
/// The repository's name is invalid.
pub(super) fn blob_path(repository: &str, digest: &Digest) -> Result<String, OriginError> {
    route::of_blob(repository, digest).map_err(|error| OriginError::new(ErrorKind::Protocol, error.to_string()))
}

/// Remembers `value`; forgets all others if there are too many.
pub(super) fn remember<T>(table: &mut HashMap<RequestPlace, T>, place: RequestPlace, value: T) {
    if table.len() >= MAX_REMEMBERED {
        table.clear();
    }
    table.insert(place, value);
}

/// True if a path of the API is that of a blob.
fn is_of_blob(path: &str) -> bool {
    path.rsplit('/').nth(1) == Some("blobs")
}

/// True if a path of the API is that of a manifest.
fn is_of_manifest(path: &str) -> bool {
    path.rsplit('/').nth(1) == Some("manifests")
}

/// The user and password in the caller's only `Authorization` header; `None` if it has another scheme, or there are several.
fn login_of_caller(credentials: &HeaderMap) -> Option<Login> {
    let mut values = credentials.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => token::login_of_basic(value),
        _ => None,
    }
}

/// The credentials that these challenges require, as far as this client can give them.
pub(super) fn wanted_by(
    headers: &HeaderMap,
    upstream: &Upstream,
    repository: Option<&str>,
    login: Option<&Login>,
) -> Option<Wanted> {
    let challenges = challenges_of(headers);
    let of_scheme = |scheme: &'static str| challenges.iter().filter(move |challenge| challenge.scheme == scheme);
    // One of several challenges may name no token service, and only say what is wrong with the token that came.
    let demand = of_scheme("bearer").find_map(|challenge| Demand::of(challenge, upstream, repository));
    if let Some(demand) = demand {
        return Some(Wanted::Token(Arc::new(demand)));
    }
    let has_password = matches!(login, Some(Login::Password { .. }));
    of_scheme("basic").next().filter(|_| has_password).map(|_| Wanted::Password)
}

/// The repository in a path of the API: the part between `/v2/` and the kind of the requested thing.
pub(super) fn repository_of(path_and_query: &str) -> Option<&str> {
    let path = path_and_query.split('?').next()?.strip_prefix("/v2/")?;
    let ends = ["/manifests/", "/blobs/", "/tags/", "/referrers/"].iter().filter_map(|kind| path.rfind(kind));
    ends.max().map(|end| &path[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream() -> Upstream {
        Upstreams::new(&RegistryConfig::default()).resolve("registry.lab").unwrap()
    }

    #[test]
    fn repositories_may_be_named_like_kinds() {
        assert_eq!(repository_of("/v2/library/debian/manifests/12?ns=docker.io"), Some("library/debian"));
        assert_eq!(repository_of("/v2/blobs/tags/list"), Some("blobs"));
        assert_eq!(repository_of("/v2/a/tags/b/blobs/sha256:0"), Some("a/tags/b"));
        assert_eq!(repository_of("/v2/"), None);
    }

    #[test]
    fn only_paths_of_the_api_are_asked_for() {
        let url = address(&upstream(), "/v2/a/b/tags/list?n=2").unwrap();
        assert_eq!(url.as_str(), "https://registry.lab/v2/a/b/tags/list?n=2");
        for wrong in
            ["", "/", "v2/", "/v1/x", "/v2/../admin", "/v2/%2e%2e/%2e%2e/x", "//other/v2/x", "http://other/v2/"]
        {
            assert!(address(&upstream(), wrong).is_err(), "{wrong}");
        }
    }
}
