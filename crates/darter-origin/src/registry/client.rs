//! Requests to registries, with the token dance for those who don't dance themselves.
//!
//! ```text
//! caller has a Bearer ──► pass on ───────────────────────────────────► answer, whatever it is
//! caller has a login ─┬─► with what this repository wanted last ─────► not 401 ──► answer
//! caller has nothing ─┘                                          └───► 401 ──► meet the challenge ──► answer, whatever it is
//! ```
//!
//! A login that a caller brings goes the same way as a configured one, and in its place: it is sent as it came until
//! the registry asks for a token. Engines that were asked for a login by a mirror know nothing of the registry's token
//! service.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use darter_core::source::Credentials;
use darter_core::{Clock, Digest};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;
use url::Url;

use crate::body;
use crate::client::{HttpClient, Request, authority, credential_headers, of_status, shown};
use crate::error::{ErrorKind, OriginError};
use crate::origin::Body;
use crate::registry::challenge::challenges_of;
use crate::registry::login::{Login, Logins};
use crate::registry::token::{self, Demand, Tokens};
use crate::registry::upstreams::{RegistryConfig, Upstream, Upstreams};
use crate::web::content_length;

/// What a registry answered, whatever the status.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers, as they came; hop-by-hop headers are among them.
    pub headers: HeaderMap,
    /// The body, checked against its `Content-Length`. Empty for HEAD.
    pub body: Body,
    /// What was asked for, in messages.
    what: String,
}

impl Answer {
    /// The answer itself if its status is a success or 304.
    ///
    /// # Errors
    /// What the status stands for.
    pub fn into_success(self) -> Result<Self, OriginError> {
        if self.status.is_success() || self.status == StatusCode::NOT_MODIFIED {
            return Ok(self);
        }
        Err(of_status(self.status, &self.headers, &self.what))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).field("headers", &self.headers).finish_non_exhaustive()
    }
}

/// Speaks to registries; cheap to clone.
#[derive(Clone)]
pub struct RegistryClient(Arc<Inner>);

struct Inner {
    http: HttpClient,
    upstreams: Upstreams,
    logins: Logins,
    tokens: Tokens,
    /// What each repository asked for last, so that the next request brings it along at once.
    remembered: Mutex<HashMap<Place, Wanted>>,
}

/// Where something is asked for: a registry's base address, and the repository if the request is about one.
type Place = (Url, Option<String>);

/// Repositories remembered at most.
const MOST_REMEMBERED: usize = 4096;

/// What a registry wants to see, reduced to what can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Password,
    Token(Arc<Demand>),
}

impl RegistryClient {
    /// A client with these options. `clock` decides when tokens expire.
    pub fn new(http: HttpClient, config: &RegistryConfig, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            upstreams: Upstreams::new(config),
            logins: Logins::new(config, clock.clone()),
            tokens: Tokens::new(http.clone(), clock),
            http,
            remembered: Mutex::default(),
        }))
    }

    /// The names it resolves.
    pub fn upstreams(&self) -> &Upstreams {
        &self.0.upstreams
    }

    /// Sends a GET or HEAD for `path_and_query`, which starts with `/v2/`, and gives back whatever the registry
    /// answers. Redirects are followed; `Authorization` stays behind when they lead to another host.
    ///
    /// A caller's own `Authorization` is passed on as it is, and a 401 comes back with its challenges; only a Basic one
    /// is traded for a token first where the registry asks for a token. Without any, the registry's login if
    /// configured, or else an anonymous token, is used where the registry asks for it; if that does not satisfy it, its
    /// 401 comes back too, so that the caller can bring something better.
    ///
    /// # Errors
    /// Only when there is no answer, of the registry or of its token service: network, TLS, time, overload, or a
    /// request that can't be made.
    pub async fn send(
        &self,
        upstream: &Upstream,
        method: Method,
        path_and_query: &str,
        headers: HeaderMap,
        caller: &Credentials,
    ) -> Result<Answer, OriginError> {
        let url = address(upstream, path_and_query)?;
        if !matches!(method, Method::GET | Method::HEAD) {
            let text = format!("{method} is not among the methods that are passed on: GET and HEAD are");
            return Err(OriginError::new(ErrorKind::Protocol, text));
        }
        let mut request = Request::new(method, url);
        request.headers = headers;
        // What authorises comes from the caller's credentials alone, so that it stays behind at a redirect.
        request.headers.remove(AUTHORIZATION);
        request.credentials = credential_headers(caller)?;
        let login = if request.credentials.contains_key(AUTHORIZATION) {
            let Some(login) = login_of_caller(&request.credentials) else {
                return self.once(&request).await.map(|(answer, _)| answer);
            };
            Some(login)
        } else {
            self.0.logins.of(upstream.name()).await
        };
        let place = (upstream.base().clone(), repository_of(path_and_query).map(str::to_owned));
        self.send_authorised(upstream, request, login.as_ref(), place).await
    }

    /// Sends with what is known to be wanted; on a 401, once more with what is wanted now.
    async fn send_authorised(
        &self,
        upstream: &Upstream,
        mut request: Request,
        login: Option<&Login>,
        place: Place,
    ) -> Result<Answer, OriginError> {
        let brought = self.0.remembered.lock().get(&place).cloned();
        let mut refused = false;
        if let Some(wanted) = &brought {
            match self.meet(wanted, login).await? {
                Some(authorization) => drop(request.credentials.insert(AUTHORIZATION, authorization)),
                None => refused = true,
            }
        }
        let (answer, from) = self.once(&request).await?;
        // A 401 from where a redirect led is not the registry's own.
        if answer.status != StatusCode::UNAUTHORIZED || authority(&from) != authority(upstream.base()) {
            return Ok(answer);
        }
        let Some(wanted) = wanted_by(&answer.headers, upstream, place.1.as_deref(), login) else { return Ok(answer) };
        if let Wanted::Token(demand) = &wanted
            && brought.as_ref() == Some(&wanted)
        {
            // Token services count wrong passwords: one request shows it once.
            if refused {
                return Ok(answer);
            }
            self.0.tokens.forget(demand, login);
        }
        let Some(authorization) = self.meet(&wanted, login).await? else { return Ok(answer) };
        if request.credentials.get(AUTHORIZATION) == Some(&authorization) {
            return Ok(answer);
        }
        request.credentials.insert(AUTHORIZATION, authorization);
        let (second, _) = self.once(&request).await?;
        if second.status == StatusCode::UNAUTHORIZED {
            return Ok(second);
        }
        let mut remembered = self.0.remembered.lock();
        if remembered.len() >= MOST_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(place, wanted);
        Ok(second)
    }

    /// The `Authorization` that meets what is wanted, if there is one.
    async fn meet(&self, wanted: &Wanted, login: Option<&Login>) -> Result<Option<HeaderValue>, OriginError> {
        match (wanted, login) {
            (Wanted::Password, Some(Login::Password { user, password })) => token::basic(user, password).map(Some),
            (Wanted::Password, _) => Ok(None),
            (Wanted::Token(demand), login) => {
                let token = self.0.tokens.get(demand, login).await?;
                token.map(|token| token::bearer(&token)).transpose()
            }
        }
    }

    /// One request and its answer, with the address that gave it in the end.
    async fn once(&self, request: &Request) -> Result<(Answer, Url), OriginError> {
        let what = shown(&request.url);
        let response = self.0.http.send(request.clone()).await?;
        let (status, headers, from) = (response.status(), response.headers().clone(), response.url().clone());
        let length = if request.method == Method::GET { content_length(&headers) } else { None };
        let body = body::of_response(response, length, what.clone());
        Ok((Answer { status, headers, body, what }, from))
    }

    /// Whether the registry lets this caller read the blob: asks for it by HEAD with the caller's credentials.
    ///
    /// # Errors
    /// When the registry gives neither permission nor refusal (401, 403, 404).
    pub async fn may_read_blob(
        &self,
        upstream: &Upstream,
        repository: &str,
        digest: &Digest,
        caller: &Credentials,
    ) -> Result<bool, OriginError> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let answer = self.send(upstream, Method::HEAD, &path, HeaderMap::new(), caller).await?;
        match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Ok(false),
            _ => answer.into_success().map(|_| true),
        }
    }
}

impl fmt::Debug for RegistryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryClient").field("upstreams", &self.0.upstreams).finish_non_exhaustive()
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

/// The user and password in the caller's one `Authorization`; `None` for anything else, which is not ours to read.
fn login_of_caller(credentials: &HeaderMap) -> Option<Login> {
    let mut values = credentials.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => token::login_of_basic(value),
        _ => None,
    }
}

/// What these challenges ask for, as far as it can be met.
fn wanted_by(
    headers: &HeaderMap,
    upstream: &Upstream,
    repository: Option<&str>,
    login: Option<&Login>,
) -> Option<Wanted> {
    let challenges = challenges_of(headers);
    let of_scheme = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
    let demand = of_scheme("bearer").and_then(|challenge| Demand::of(challenge, upstream, repository));
    if let Some(demand) = demand {
        return Some(Wanted::Token(Arc::new(demand)));
    }
    let has_password = matches!(login, Some(Login::Password { .. }));
    of_scheme("basic").filter(|_| has_password).map(|_| Wanted::Password)
}

/// The repository that a path of the API is about: what stands between `/v2/` and the kind of thing asked for.
fn repository_of(path_and_query: &str) -> Option<&str> {
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
