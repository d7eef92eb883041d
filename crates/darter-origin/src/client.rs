//! HTTP requests as all origins here make them: with time limits, with verified TLS, and with redirects that are followed here rather than by the HTTP stack, since credentials must not be sent
//! to another host.
//!
//! Bodies are requested as they are stored (`Accept-Encoding: identity`), since lengths and digests are those of the stored bytes. The duration of a request is not limited, only that of each wait: a large
//! blob may take hours as long as bytes arrive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use darter_core::source::{Credentials, SIGNED_QUERY};
use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use parking_lot::RwLock;
use tokio::time::Instant;
use url::Url;

use crate::error::{ConfigError, ErrorKind, OriginError, status_text};

mod address;
mod config;
mod failure;
mod location;
mod no_proxy;
mod reach;
mod server;

pub(crate) use address::{authority, shown};
pub use config::{HttpConfig, ServerConfig};
pub use failure::of_status;
pub(crate) use failure::{no_answer_in, of_body};
pub(crate) use location::{keeps_credentials, same_server};
pub(crate) use reach::Reach;
pub use reach::{Requester, is_this_host};

use address::place;
use server::Server;

/// The maximum number of redirects for one request. wget follows as many, Go 10, curl 50.
const MAX_REDIRECTS: usize = 20;

/// How often a request is sent if its connection breaks before an answer comes. The server may have closed an idle connection at the moment at which
/// the request was sent.
const MAX_SENDINGS: u32 = 3;

/// Makes HTTP requests. Cheap to clone: all clones share their connections.
#[derive(Clone, Debug)]
pub struct HttpClient(Arc<RwLock<Arc<Inner>>>);

#[derive(Debug)]
struct Inner {
    /// The settings of servers without settings of their own.
    others: Server,
    servers: BTreeMap<String, Server>,
    configured: Vec<Url>,
    signed_parameters: Arc<[String]>,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    /// Headers that are sent wherever a redirect leads.
    pub(crate) headers: HeaderMap,
    /// The user's credentials, as headers. Those that authorise are sent only to the server of `url`.
    pub(crate) credentials: HeaderMap,
    /// Another server, and the credentials that are sent to it instead if a redirect leads there.
    pub(crate) elsewhere: Option<(Url, HeaderMap)>,
    /// The server on whose behalf the request is made (for a token service, the registry). Its TLS settings and timeouts
    /// apply unless the token service has settings of its own.
    pub(crate) behalf: Option<Url>,
    pub(crate) body: Option<String>,
    /// The addresses to which the request and its redirects may go. They may also go to configured servers, unless `stranger` is set.
    pub(crate) reach: Reach,
    /// True if a caller named the server and no configuration does. Then redirects to configured servers are followed only within `reach`, and
    /// the headers and certificates that are configured for those are not shown.
    pub(crate) stranger: bool,
    /// Until when the caller waits for an answer.
    pub(crate) until: Option<Instant>,
}

/// How long the next bytes of a response's body may take; set on each response, for `body`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StallTimeout(pub(crate) Duration);

/// Headers of a redirect that describe its target, as the Hugging Face hub sends them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Linked {
    /// `X-Linked-Etag`: its hash.
    pub(crate) tag: Option<String>,
    /// `X-Linked-Size`: its length.
    pub(crate) size: Option<u64>,
}

impl Request {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            credentials: HeaderMap::new(),
            elsewhere: None,
            behalf: None,
            body: None,
            reach: Reach::Anywhere,
            stranger: false,
            until: None,
        }
    }
}

impl HttpClient {
    /// Creates a client; makes no connection yet.
    ///
    /// # Errors
    /// A file of certificates can't be read or has none, or a header can't be sent.
    pub fn new(config: &HttpConfig) -> Result<Self, ConfigError> {
        Ok(Self(Arc::new(RwLock::new(Arc::new(Inner::new(config)?)))))
    }

    /// Sets other options, for requests that begin from now on.
    ///
    /// # Errors
    /// As of [`new`](Self::new); then the options stay as they were.
    pub fn reload(&self, config: &HttpConfig) -> Result<(), ConfigError> {
        let fresh = Arc::new(Inner::new(config)?);
        *self.0.write() = fresh;
        Ok(())
    }

    /// The query parameters that sign addresses, in addition to those of the usual object stores.
    pub(crate) fn signed_parameters(&self) -> Arc<[String]> {
        Arc::clone(&self.0.read().signed_parameters)
    }

    /// True if requests to `url` show headers or a certificate that are configured for it.
    pub(crate) fn has_keys_for(&self, url: &Url) -> bool {
        self.0.read().of(url).is_some_and(|own| own.has_keys_for(url))
    }

    /// Sends a request and follows redirects, except those of a request with a body, which the caller gets, since the body
    /// may be secret. Any other status counts as a success here.
    pub(crate) async fn send(&self, request: Request) -> Result<reqwest::Response, OriginError> {
        let inner = Arc::clone(&self.0.read());
        inner.send(request).await
    }
}

impl Inner {
    fn new(config: &HttpConfig) -> Result<Self, ConfigError> {
        let own = config.servers.iter();
        let servers = own.map(|(name, own)| Ok((name.to_ascii_lowercase(), Server::new(config, own)?)));
        let servers = servers.collect::<Result<_, ConfigError>>()?;
        let others = Server::new(config, &ServerConfig::default())?;
        let signed_parameters = config.signed_parameters.clone().into();
        Ok(Self { others, servers, configured: config.configured.clone(), signed_parameters })
    }

    async fn send(&self, mut request: Request) -> Result<reqwest::Response, OriginError> {
        request.headers.entry(ACCEPT_ENCODING).or_insert(HeaderValue::from_static("identity"));
        let behalf = self.of(request.behalf.as_ref().unwrap_or(&request.url)).unwrap_or(&self.others);
        let mut linked = Linked::default();
        let mut last = StatusCode::FOUND;
        for _ in 0..=MAX_REDIRECTS {
            let mut response = self.send_on(&request, behalf).await?;
            if request.stranger && !self.of(&request.url).unwrap_or(behalf).has_proxy_to(&request.url) {
                request.reach = request.reach.beyond(response.remote_addr());
            }
            let Some(target) = location::redirect_target(&response)?.filter(|_| request.body.is_none()) else {
                response.extensions_mut().insert(linked);
                return Ok(response);
            };
            let says = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            linked.tag = says("x-linked-etag").map(str::to_owned).or(linked.tag);
            linked.size = says("x-linked-size").and_then(|size| size.trim().parse().ok()).or(linked.size);
            tracing::debug!(from = %place(&request.url), to = %place(&target), "following a redirect");
            if !keeps_credentials(&request.url, &target) {
                location::remove_credentials(&mut request.credentials);
            }
            if let Some((server, credentials)) = &request.elsewhere
                && same_server(server, &target)
            {
                request.credentials = credentials.clone();
            }
            (last, request.url) = (response.status(), target);
        }
        let text = format!(
            "{} redirects more than {MAX_REDIRECTS} times (HTTP {}): check the address",
            place(&request.url),
            status_text(last)
        );
        Err(OriginError::new(ErrorKind::Protocol, text))
    }

    /// Sends a request to one server, without following redirects.
    async fn send_on(&self, request: &Request, behalf: &Server) -> Result<reqwest::Response, OriginError> {
        let own = self.of(&request.url);
        let server = own.unwrap_or(behalf);
        // A server's secrets are for those who were told of them, and so is its address.
        let trusts = own.filter(|own| !request.stranger && own.is_at(&request.url));
        let is_configured = !request.stranger && self.configured.iter().any(|known| same_server(known, &request.url));
        let reach = if trusts.is_some() || is_configured { Reach::Anywhere } else { request.reach };
        reach.check(&request.url)?;
        server.check_proxy_to(&request.url)?;
        let mut client = server.client(&request.url, reach, trusts.is_some())?;
        let mut headers = request.headers.clone();
        headers.extend(request.credentials.clone());
        for (name, value) in trusts.map(Server::headers).into_iter().flatten() {
            headers.entry(name).or_insert_with(|| value.clone());
        }
        let idempotent = matches!(request.method, Method::GET | Method::HEAD) && request.body.is_none();
        let mut sendings = 0;
        loop {
            let mut outgoing = client.request(request.method.clone(), request.url.clone());
            if let Some(body) = &request.body {
                outgoing = outgoing.body(body.clone());
            }
            let sent = outgoing.headers(headers.clone()).send();
            let proxy = || server.proxy_to(&request.url);
            let (own, left) = (server.first_byte_timeout, request.until.map(left_until));
            let error = match tokio::time::timeout(left.map_or(own, |left| left.min(own)), sent).await {
                Ok(Ok(response)) if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                    return Err(failure::proxy_login(&request.url, proxy().as_deref()));
                }
                Ok(Ok(mut response)) => {
                    response.extensions_mut().insert(StallTimeout(server.stall_timeout));
                    return Ok(response);
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    return Err(match left.filter(|left| *left < own) {
                        Some(left) => failure::no_answer_in(left, &authority(&request.url)),
                        None => failure::no_first_byte(&request.url, proxy().as_deref(), own),
                    });
                }
            };
            if failure::wants_http1(&error) && server.wants_http1(&request.url) {
                tracing::debug!(url = %place(&request.url), "the server wants HTTP/1.1, asking again by that");
                client = server.client(&request.url, reach, trusts.is_some())?;
                continue;
            }
            if failure::is_refused_tunnel(&error)
                && let Some(proxy) = proxy()
                && let Some((status, headers)) =
                    server.tunnel_refusal(&request.url, request.until.map(left_until)).await
            {
                return Err(failure::of_tunnel(error, &request.url, &proxy, status, &headers));
            }
            sendings += 1;
            if !idempotent || sendings >= MAX_SENDINGS || !failure::broke_off(&error) {
                return Err(failure::of_request(error, &request.url, proxy().as_deref(), reach));
            }
            tracing::debug!(url = %place(&request.url), "the connection broke before an answer, asking again");
        }
    }

    /// The server of this address, if it has settings of its own. The settings of a host without a port are for all of its ports, except for
    /// secrets (see [`ServerConfig::urls`]).
    fn of(&self, url: &Url) -> Option<&Server> {
        let servers = &self.servers;
        servers.get(&authority(url)).or_else(|| servers.get(url.host_str()?))
    }
}

/// The time until then.
pub(crate) fn left_until(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// A caller's credentials as headers, without those that would change what a request means.
///
/// # Errors
/// A name or a value is not allowed in an HTTP header.
pub(crate) fn credential_headers(credentials: &Credentials) -> Result<HeaderMap, OriginError> {
    let mut headers = HeaderMap::new();
    for (name, value) in credentials.headers.iter().filter(|(name, _)| name != SIGNED_QUERY) {
        let wrong =
            || OriginError::new(ErrorKind::Protocol, format!("header {name:?} can't be sent: check its spelling"));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| wrong().caused_by(error))?;
        let mut value = HeaderValue::from_str(value).map_err(|error| wrong().caused_by(error))?;
        if !is_own_header(name.as_str()) {
            value.set_sensitive(true);
            headers.append(name, value);
        }
    }
    Ok(headers)
}

/// True for headers that say which bytes are wanted, or that belong to the connection: only this crate sets them. The name may be in any case.
pub fn is_own_header(name: &str) -> bool {
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
    OURS.iter().any(|own| own.eq_ignore_ascii_case(name))
}
