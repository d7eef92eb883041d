//! The connections to one server: which certificates are trusted, which client certificate is shown, and how long things may take.
//!
//! Each server with settings of its own has its own connections, since TLS settings belong to a connection. So has each reach: a connection that was made within one reach must not be used for
//! another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use hyper_util::client::proxy::matcher::Matcher;
use parking_lot::Mutex;
use url::Url;

use crate::client::address::authority;
use crate::client::config::{HttpConfig, ServerConfig};
use crate::client::failure;
use crate::client::location::same_server;
use crate::client::no_proxy::Exceptions;
use crate::client::reach::{self, Reach, Resolver};
use crate::error::{ConfigError, ErrorKind, OriginError};
use crate::settings;

mod tunnel;

/// Most headers of an answer. A registry's gateway may add some dozens to those of an object store.
const MAX_HEADERS: usize = 1_000;
/// How many bytes one HTTP/2 stream may be ahead of its reader.
const STREAM_WINDOW: u32 = 2 << 20;
/// How many bytes one HTTP/2 connection may be ahead of its readers: enough for more streams than servers allow at a time, so that streams
/// with slow readers don't delay the others.
const CONNECTION_WINDOW: u32 = 256 << 20;
/// Most bytes of headers in an HTTP/2 answer.
const MAX_HEADER_BYTES: u32 = 256 << 10;
/// Most servers of which it is remembered that they require HTTP/1.1.
const MAX_ONLY_HTTP1: usize = 1024;

/// One server's settings, ready for use.
pub(super) struct Server {
    plan: Plan,
    /// The clients, by reach, whether the client certificate is shown, whether HTTP/2 is used, and whether the environment's proxies are ignored. The
    /// first is created at once, since wrong settings may make that fail.
    clients: [OnceLock<reqwest::Client>; 24],
    /// The client that asks the proxy why it refused a tunnel; `None` if it can't be made.
    tunnels: OnceLock<Option<reqwest::Client>>,
    /// The servers, by host and port, that offer HTTP/2 and then require HTTP/1.1.
    only_http1: Mutex<BTreeSet<String>>,
    urls: Vec<Url>,
    pub(super) first_byte_timeout: Duration,
    pub(super) stall_timeout: Duration,
    headers: HeaderMap,
    proxies: Proxies,
}

/// The settings for creating clients.
struct Plan {
    config: HttpConfig,
    own: ServerConfig,
    authorities: Vec<reqwest::Certificate>,
    identity: Option<reqwest::Identity>,
    proxy: Option<reqwest::Proxy>,
    /// The hosts of proxies, which may be anywhere.
    exempt: BTreeSet<String>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("own", &self.plan.own).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Proxies {
    None,
    One(Url),
    Environment(Box<Matcher>, Exceptions),
}

impl Plan {
    /// Reads the files that the settings name; makes no connection.
    fn new(config: &HttpConfig, own: &ServerConfig) -> Result<Self, ConfigError> {
        let mut authorities = Vec::new();
        for file in config.extra_ca.iter().chain(&own.ca) {
            authorities.extend(read_authorities(file)?);
        }
        let identity = own.client_cert.as_deref().map(|cert| read_identity(cert, own.client_key.as_deref()));
        let proxy = own.proxy.clone().map(reqwest::Proxy::all).transpose().map_err(ConfigError::Client)?;
        let mut exempt = if config.proxy_from_environment { reach::proxies_of_environment() } else { BTreeSet::new() };
        exempt.extend(own.proxy.as_ref().and_then(Url::host_str).map(str::to_owned));
        let config = HttpConfig { servers: BTreeMap::new(), ..config.clone() };
        Ok(Self { config, own: own.clone(), authorities, identity: identity.transpose()?, proxy, exempt })
    }

    fn client(
        &self,
        ClientPurpose { reach, is_shown, only_http1, is_direct }: ClientPurpose,
    ) -> Result<reqwest::Client, reqwest::Error> {
        let builder = || {
            let mut builder = builder(&self.config, &self.own);
            if only_http1 {
                builder = builder.http1_only();
            }
            if is_direct {
                builder = builder.no_proxy();
            }
            if reach != Reach::Anywhere {
                builder = builder.dns_resolver(Arc::new(Resolver { reach, exempt: self.exempt.clone() }));
            }
            if let Some(identity) = self.identity.as_ref().filter(|_| is_shown) {
                builder = builder.identity(identity.clone());
            }
            if let Some(proxy) = &self.proxy {
                builder = builder.proxy(proxy.clone());
            }
            builder
        };
        self.with_authorities(builder)
    }

    /// The client that asks `proxy` why it refused a tunnel.
    fn tunnel_client(&self, proxy: &reqwest::Proxy) -> Result<reqwest::Client, reqwest::Error> {
        self.with_authorities(|| builder(&self.config, &self.own).http1_only().proxy(proxy.clone()))
    }

    /// Builds a client with the certificate authorities of the settings.
    fn with_authorities(
        &self,
        builder: impl Fn() -> reqwest::ClientBuilder,
    ) -> Result<reqwest::Client, reqwest::Error> {
        if self.own.skip_verify {
            return builder().tls_danger_accept_invalid_certs(true).build();
        }
        // A host without any certificate authorities (a scratch container) can still read plain HTTP; over TLS it trusts
        // nobody and is told so.
        let merged = builder().tls_certs_merge(self.authorities.iter().cloned()).build();
        merged.or_else(|_| builder().tls_certs_only(self.authorities.iter().cloned()).build())
    }
}

impl Server {
    /// Reads the files that the settings name; makes no connection.
    pub(super) fn new(config: &HttpConfig, own: &ServerConfig) -> Result<Self, ConfigError> {
        let plan = Plan::new(config, own)?;
        let clients: [OnceLock<reqwest::Client>; 24] = Default::default();
        // Settings that don't fit together are told of now. Without any a client is made when it is asked for: reading this host's certificate
        // authorities takes most of what an agent's start takes, and most nodes read no origin.
        let shown: &[bool] = match (&plan.identity, plan.authorities.is_empty() && plan.proxy.is_none()) {
            (Some(_), _) => &[false, true],
            (None, false) => &[false],
            (None, true) => &[],
        };
        for &is_shown in shown {
            let kind = ClientPurpose { reach: Reach::Anywhere, is_shown, only_http1: false, is_direct: false };
            let first = plan.client(kind).map_err(ConfigError::Client)?;
            let _ = clients[kind.place()].set(first);
        }
        let proxies = match &own.proxy {
            Some(proxy) => Proxies::One(proxy.clone()),
            None if config.proxy_from_environment => {
                Proxies::Environment(Box::new(Matcher::from_system()), Exceptions::of_environment())
            }
            None => Proxies::None,
        };
        Ok(Self {
            plan,
            clients,
            tunnels: OnceLock::new(),
            only_http1: Mutex::default(),
            urls: own.urls.clone(),
            first_byte_timeout: own.first_byte_timeout.unwrap_or(config.first_byte_timeout),
            stall_timeout: config.stall_timeout,
            headers: headers(&own.headers)?,
            proxies,
        })
    }

    /// The client for requests of this reach to `url`.
    pub(super) fn client(&self, url: &Url, reach: Reach, is_shown: bool) -> Result<&reqwest::Client, OriginError> {
        let is_shown = is_shown && self.plan.identity.is_some();
        let is_direct = matches!(&self.proxies, Proxies::Environment(_, but) if but.include(url));
        let kind =
            ClientPurpose { reach, is_shown, only_http1: self.only_http1.lock().contains(&authority(url)), is_direct };
        let client = &self.clients[kind.place()];
        if let Some(client) = client.get() {
            return Ok(client);
        }
        let made = self.plan.client(kind).map_err(|error| {
            OriginError::new(ErrorKind::Io, "the HTTP client can't be set up").caused_by(error.without_url())
        })?;
        Ok(client.get_or_init(|| made))
    }

    /// Notes that the server of `url` requires HTTP/1.1. False if that was known.
    pub(super) fn wants_http1(&self, url: &Url) -> bool {
        let mut known = self.only_http1.lock();
        if known.len() >= MAX_ONLY_HTTP1 {
            known.clear();
        }
        known.insert(authority(url))
    }

    /// The configured headers for requests to its addresses.
    pub(super) const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// True if requests to `url` have configured headers or a client certificate.
    pub(super) fn has_keys_for(&self, url: &Url) -> bool {
        self.is_at(url) && (self.plan.identity.is_some() || !self.headers.is_empty())
    }

    /// True if `url` is at one of its addresses.
    pub(super) fn is_at(&self, url: &Url) -> bool {
        self.urls.iter().any(|configured| same_server(configured, url))
    }

    /// True if `url` is reached through a proxy.
    pub(super) fn has_proxy_to(&self, url: &Url) -> bool {
        self.proxy_to(url).is_some()
    }

    /// The proxy through which `url` is reached, as `host:port`.
    pub(super) fn proxy_to(&self, url: &Url) -> Option<String> {
        match &self.proxies {
            Proxies::None => None,
            Proxies::One(proxy) => Some(authority(proxy)),
            Proxies::Environment(_, but) if but.include(url) => None,
            Proxies::Environment(matcher, _) => {
                let intercept = matcher.intercept(&url.as_str().parse().ok()?)?;
                let uri = intercept.uri();
                let host = uri.host()?;
                Some(uri.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
            }
        }
    }

    /// Refuses a `url` that would be reached through a proxy that is not an HTTP proxy: the HTTP stack would use it as one.
    pub(super) fn check_proxy_to(&self, url: &Url) -> Result<(), OriginError> {
        let scheme = match &self.proxies {
            Proxies::None => return Ok(()),
            Proxies::One(proxy) => Some(proxy.scheme().to_owned()),
            Proxies::Environment(_, but) if but.include(url) => return Ok(()),
            Proxies::Environment(matcher, _) => {
                let intercept = url.as_str().parse().ok().and_then(|uri| matcher.intercept(&uri));
                intercept.and_then(|intercept| intercept.uri().scheme_str().map(str::to_owned))
            }
        };
        match (scheme, self.proxy_to(url)) {
            (Some(scheme), Some(proxy)) if !matches!(scheme.as_str(), "http" | "https") => {
                Err(failure::unspoken_proxy(url, &format!("{scheme}://{proxy}")))
            }
            _ => Ok(()),
        }
    }
}

/// The properties by which clients differ.
#[derive(Clone, Copy)]
struct ClientPurpose {
    reach: Reach,
    is_shown: bool,
    only_http1: bool,
    /// True if `NO_PROXY` names the server in a form that the HTTP stack does not support.
    is_direct: bool,
}

impl ClientPurpose {
    /// The client's place in the table.
    const fn place(self) -> usize {
        let first = match self.reach {
            Reach::Anywhere => 0,
            Reach::BeyondHost => 4,
            Reach::Public => 8,
        };
        12 * self.is_direct as usize + first + 2 * self.only_http1 as usize + self.is_shown as usize
    }
}

fn builder(config: &HttpConfig, own: &ServerConfig) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("darter/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(own.connect_timeout.unwrap_or(config.connect_timeout))
        .pool_max_idle_per_host(config.idle_per_host)
        .pool_idle_timeout(Duration::from_secs(60))
        .http1_max_headers(MAX_HEADERS)
        // curl and browsers read these, too: a folded line, a space before the colon, a line that is no header.
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_keep_alive_interval(config.ping_timeout)
        .http2_keep_alive_timeout(config.ping_timeout)
        .http2_keep_alive_while_idle(true)
        .tcp_nodelay(true);
    if config.proxy_from_environment { builder } else { builder.no_proxy() }
}

fn headers(pairs: &[(String, String)]) -> Result<HeaderMap, ConfigError> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let wrong = || ConfigError::Header { name: name.clone() };
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.append(header, value);
    }
    Ok(headers)
}

fn read_authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, ConfigError> {
    let pem = settings::read(path).map_err(|source| ConfigError::CaFile { path: path.to_owned(), source })?;
    let not_certificates = |source| ConfigError::NotCertificates { path: path.to_owned(), source };
    let authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| not_certificates(Some(error)))?;
    if authorities.is_empty() {
        return Err(not_certificates(None));
    }
    Ok(authorities)
}

fn read_identity(cert: &Path, key: Option<&Path>) -> Result<reqwest::Identity, ConfigError> {
    let read = |path: &Path| {
        settings::read(path).map_err(|source| ConfigError::ClientCertificate { path: path.to_owned(), source })
    };
    let mut pem = read(cert)?;
    if let Some(key) = key {
        pem.push(b'\n');
        pem.extend(read(key)?);
    }
    reqwest::Identity::from_pem(&pem)
        .map_err(|source| ConfigError::NotAClientCertificate { path: cert.to_owned(), source })
}
