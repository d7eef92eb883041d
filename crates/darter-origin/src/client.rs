//! HTTP requests as every origin here makes them: with time limits, TLS that is verified, and redirects followed by
//! hand, because what authorises a request must not follow it to another host.
//!
//! Bodies are asked for as they are stored (`Accept-Encoding: identity`): lengths and digests are about those bytes.
//! There is no limit on the whole of a request, only on waiting: a large blob may take hours as long as it flows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use darter_core::source::Credentials;
use http::header::{ACCEPT_ENCODING, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use url::Url;

use crate::error::{ConfigError, ErrorKind, OriginError};

mod failure;

pub(crate) use failure::{of_body, of_status};

/// Redirects followed before giving up; what browsers and curl do lies between 10 and 50.
const MOST_REDIRECTS: usize = 10;

/// Options of an [`HttpClient`].
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long nothing may arrive, of the answer or within its body.
    pub read_timeout: Duration,
    /// PEM file of certificate authorities to trust besides the system's.
    pub extra_ca: Option<PathBuf>,
    /// Hosts (`registry.lab`) or authorities (`10.0.0.1:5000`) whose TLS certificates are not checked.
    pub insecure_hosts: BTreeSet<String>,
    /// Whether `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` are honoured.
    pub proxy_from_environment: bool,
    /// Idle connections kept for each host.
    pub idle_per_host: usize,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            read_timeout: Duration::from_secs(30),
            extra_ca: None,
            insecure_hosts: BTreeSet::new(),
            proxy_from_environment: true,
            idle_per_host: 8,
        }
    }
}

/// Makes HTTP requests; cheap to clone, all clones share one pool of connections.
#[derive(Clone, Debug)]
pub struct HttpClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    verifying: reqwest::Client,
    trusting: Option<reqwest::Client>,
    insecure_hosts: BTreeSet<String>,
}

/// One request. `credentials` go to the first host only, `headers` to wherever a redirect leads.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) credentials: HeaderMap,
    pub(crate) body: Option<String>,
}

impl Request {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), credentials: HeaderMap::new(), body: None }
    }
}

impl HttpClient {
    /// Sets a client up; makes no connection yet.
    ///
    /// # Errors
    /// When the file of certificate authorities can't be read or holds none.
    pub fn new(config: &HttpConfig) -> Result<Self, ConfigError> {
        let extra = config.extra_ca.as_deref().map(read_authorities).transpose()?.unwrap_or_default();
        let with_roots = || builder(config).tls_certs_merge(extra.iter().cloned());
        // A host without any certificate authorities (a scratch container) can still read plain HTTP; over TLS it
        // trusts nobody and is told so.
        let verifying = with_roots()
            .build()
            .or_else(|_| builder(config).tls_certs_only(extra.iter().cloned()).build())
            .map_err(ConfigError::Client)?;
        let trusting = if config.insecure_hosts.is_empty() {
            None
        } else {
            Some(builder(config).tls_danger_accept_invalid_certs(true).build().map_err(ConfigError::Client)?)
        };
        Ok(Self(Arc::new(Inner { verifying, trusting, insecure_hosts: config.insecure_hosts.clone() })))
    }

    /// Sends a request and follows redirects; those of a request with a body are left to the caller, since the body
    /// may be secret. Any status that is not a redirect is a success here.
    pub(crate) async fn send(&self, mut request: Request) -> Result<reqwest::Response, OriginError> {
        request.headers.entry(ACCEPT_ENCODING).or_insert(HeaderValue::from_static("identity"));
        for _ in 0..=MOST_REDIRECTS {
            let response = self.send_once(&request).await?;
            let target = redirect_target(&response).filter(|_| request.body.is_none());
            let Some(target) = target else { return Ok(response) };
            if !matches!(target.scheme(), "http" | "https") {
                let text = format!("{} redirects to {}, which is not HTTP", shown(&request.url), shown(&target));
                return Err(OriginError::new(ErrorKind::Protocol, text));
            }
            tracing::debug!(from = %shown(&request.url), to = %shown(&target), "following a redirect");
            if !keeps_credentials(&request.url, &target) {
                request.credentials.clear();
            }
            request.url = target;
        }
        let text = format!("{} redirects more than {MOST_REDIRECTS} times: check the address", shown(&request.url));
        Err(OriginError::new(ErrorKind::Protocol, text))
    }

    async fn send_once(&self, request: &Request) -> Result<reqwest::Response, OriginError> {
        let mut headers = request.headers.clone();
        headers.extend(request.credentials.clone());
        let mut outgoing = self.client_for(&request.url).request(request.method.clone(), request.url.clone());
        if let Some(body) = &request.body {
            outgoing = outgoing.body(body.clone());
        }
        outgoing.headers(headers).send().await.map_err(|error| failure::of_request(error, &request.url))
    }

    fn client_for(&self, url: &Url) -> &reqwest::Client {
        let Some(trusting) = &self.0.trusting else { return &self.0.verifying };
        let listed = |name: &str| self.0.insecure_hosts.contains(name);
        if url.host_str().is_some_and(listed) || listed(&authority(url)) { trusting } else { &self.0.verifying }
    }
}

/// A caller's credentials as headers, without those that would change what a request means.
///
/// # Errors
/// When a name or a value can't stand in an HTTP header.
pub(crate) fn credential_headers(credentials: &Credentials) -> Result<HeaderMap, OriginError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &credentials.headers {
        let wrong =
            || OriginError::new(ErrorKind::Protocol, format!("header {name:?} can't be sent: check its spelling"));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| wrong().caused_by(error))?;
        let mut value = HeaderValue::from_str(value).map_err(|error| wrong().caused_by(error))?;
        if !is_ours(&name) {
            value.set_sensitive(true);
            headers.append(name, value);
        }
    }
    Ok(headers)
}

/// Headers that say which bytes are wanted, or belong to the connection: only this crate writes them.
fn is_ours(name: &HeaderName) -> bool {
    const OURS: [&str; 12] = [
        "connection",
        "content-length",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "range",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    OURS.contains(&name.as_str())
}

/// An address without its password, for messages.
pub(crate) fn shown(url: &Url) -> String {
    if url.password().is_none() && url.username().is_empty() {
        return url.to_string();
    }
    let mut bare = url.clone();
    // Only addresses without a host refuse, and those have no user either.
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    bare.to_string()
}

/// `host` or `host:port`, as registries are named.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether credentials for `from` may be sent to `to`: the same server, or the same host moving up to HTTPS.
pub(crate) fn keeps_credentials(from: &Url, to: &Url) -> bool {
    let same_server = from.scheme() == to.scheme() && from.port_or_known_default() == to.port_or_known_default();
    let moves_up = from.scheme() == "http" && to.scheme() == "https" && from.port().is_none() && to.port().is_none();
    from.host() == to.host() && (same_server || moves_up)
}

fn redirect_target(response: &reqwest::Response) -> Option<Url> {
    let follows = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    if !follows.contains(&response.status()) {
        return None;
    }
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    response.url().join(location).ok()
}

fn builder(config: &HttpConfig) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("darter/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(config.connect_timeout)
        .read_timeout(config.read_timeout)
        .pool_max_idle_per_host(config.idle_per_host)
        .pool_idle_timeout(Duration::from_secs(60))
        .tcp_nodelay(true);
    if config.proxy_from_environment { builder } else { builder.no_proxy() }
}

fn read_authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, ConfigError> {
    let pem = std::fs::read(path).map_err(|source| ConfigError::CaFile { path: path.to_owned(), source })?;
    let not_certificates = |source| ConfigError::NotCertificates { path: path.to_owned(), source };
    let authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| not_certificates(Some(error)))?;
    if authorities.is_empty() {
        return Err(not_certificates(None));
    }
    Ok(authorities)
}
