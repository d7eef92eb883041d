//! Requests to registries.

use std::fmt;
use std::sync::Arc;

use darter_core::source::Credentials;
use darter_core::{Clock, Digest};
use http::{HeaderMap, Method, StatusCode};
use url::Url;

use crate::body;
use crate::client::{HttpClient, Request, credential_headers, of_status, shown};
use crate::error::{ErrorKind, OriginError};
use crate::origin::Body;
use crate::registry::upstreams::{RegistryConfig, Upstream, Upstreams};

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
    clock: Arc<dyn Clock>,
}

impl RegistryClient {
    /// A client with these options. `clock` decides when tokens expire.
    pub fn new(http: HttpClient, config: &RegistryConfig, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner { http, upstreams: Upstreams::new(config), clock }))
    }

    /// The names it resolves.
    pub fn upstreams(&self) -> &Upstreams {
        &self.0.upstreams
    }

    /// Sends a GET or HEAD for `path_and_query`, which starts with `/v2/`, and gives back whatever the registry
    /// answers. Redirects are followed; `Authorization` stays behind when they lead to another host.
    ///
    /// A caller's own `Authorization` is passed on as it is, and a 401 comes back with its challenges. Without one, the
    /// registry's login if configured, or an anonymous token, is tried first.
    ///
    /// # Errors
    /// Only when there is no answer: network, TLS, time, or a request that can't be made.
    pub async fn send(
        &self,
        upstream: &Upstream,
        method: Method,
        path_and_query: &str,
        headers: HeaderMap,
        caller: &Credentials,
    ) -> Result<Answer, OriginError> {
        let url = address(upstream, path_and_query)?;
        let what = shown(&url);
        let request = Request { headers, credentials: credential_headers(caller)?, ..Request::new(method, url) };
        let response = self.0.http.send(request).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Answer { status, headers, body: body::of_response(response, None, what.clone()), what })
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
