//! How one server is spoken to: whose certificates are trusted, which certificate is shown, how long it may take.
//!
//! Each server with settings of its own has its own pool of connections, since TLS settings belong to a connection.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use crate::client::reach::{self, Resolver};
use crate::client::{HttpConfig, Reach, authority, same_server};
use crate::error::ConfigError;

/// Most headers in an answer; a registry's gateway may add some dozens to an object store's.
const MAX_HEADERS: usize = 1_000;
/// Bytes that one HTTP/2 stream may be ahead of its reader.
const STREAM_WINDOW: u32 = 2 << 20;
/// The same for a whole connection. Room for more streams than servers allow at a time, so that those whose readers wait
/// don't hold up the others.
const CONNECTION_WINDOW: u32 = 256 << 20;
/// Most bytes of headers in an HTTP/2 answer.
const MAX_HEADER_BYTES: u32 = 256 << 10;

/// Settings for one server, where they differ from those for all.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ServerConfig {
    /// Addresses with whose scheme, host and port the headers and the certificate are shown: no other port of the host
    /// gets them, and nobody in the clear who was meant to by TLS.
    pub urls: Vec<Url>,
    /// PEM file of certificate authorities to trust besides the system's and those for all.
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate to show at the `urls`, with its chain.
    pub client_cert: Option<PathBuf>,
    /// PEM file of its private key; without, the key is in the certificate's file.
    pub client_key: Option<PathBuf>,
    /// Whether the server's certificate is not checked.
    pub skip_verify: bool,
    /// How long a connection may take to be made.
    pub connect_timeout: Option<Duration>,
    /// How long the first byte of an answer may take.
    pub first_byte_timeout: Option<Duration>,
    /// Headers for each request to one of the `urls`, unless a request has its own.
    pub headers: Vec<(String, String)>,
    /// The proxy to this server, instead of the environment's.
    pub proxy: Option<Url>,
}

/// Prints the headers' names alone: values may be secret.
impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("urls", &self.urls)
            .field("ca", &self.ca)
            .field("client_cert", &self.client_cert)
            .field("skip_verify", &self.skip_verify)
            .field("connect_timeout", &self.connect_timeout)
            .field("first_byte_timeout", &self.first_byte_timeout)
            .field("headers", &self.headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// One server's settings, ready for use.
#[derive(Debug)]
pub(super) struct Server {
    /// Shows the certificate, where there is one.
    known: reqwest::Client,
    /// Shows none.
    unknown: reqwest::Client,
    urls: Vec<Url>,
    has_certificate: bool,
    pub(super) first_byte_timeout: Duration,
    pub(super) stall_timeout: Duration,
    headers: HeaderMap,
    proxies: Proxies,
}

#[derive(Debug)]
enum Proxies {
    None,
    One(String),
    Environment(Box<Matcher>),
}

impl Server {
    /// Reads the files that the settings name; makes no connection.
    pub(super) fn new(config: &HttpConfig, own: &ServerConfig, reach: Reach) -> Result<Self, ConfigError> {
        let mut authorities = Vec::new();
        for file in config.extra_ca.iter().chain(&own.ca) {
            authorities.extend(read_authorities(file)?);
        }
        let identity = own.client_cert.as_deref().map(|cert| read_identity(cert, own.client_key.as_deref()));
        let identity = identity.transpose()?;
        let proxy = own.proxy.clone().map(reqwest::Proxy::all).transpose().map_err(ConfigError::Client)?;
        let exempt = if config.proxy_from_environment { reach::proxies_of_environment() } else { BTreeSet::new() };
        let builder = |identity: Option<&reqwest::Identity>| {
            let mut builder = builder(config, own);
            if reach != Reach::Anywhere {
                builder = builder.dns_resolver(Arc::new(Resolver { reach, exempt: exempt.clone() }));
            }
            if let Some(identity) = identity {
                builder = builder.identity(identity.clone());
            }
            if let Some(proxy) = &proxy {
                builder = builder.proxy(proxy.clone());
            }
            builder
        };
        let client = |identity| {
            let client = if own.skip_verify {
                builder(identity).tls_danger_accept_invalid_certs(true).build()
            } else {
                // A host without any certificate authorities (a scratch container) can still read plain HTTP; over TLS it
                // trusts nobody and is told so.
                let merged = builder(identity).tls_certs_merge(authorities.iter().cloned()).build();
                merged.or_else(|_| builder(identity).tls_certs_only(authorities.iter().cloned()).build())
            };
            client.map_err(ConfigError::Client)
        };
        let unknown = client(None)?;
        let known = identity.as_ref().map_or_else(|| Ok(unknown.clone()), |identity| client(Some(identity)))?;
        let proxies = match &own.proxy {
            Some(proxy) => Proxies::One(authority(proxy)),
            None if config.proxy_from_environment => Proxies::Environment(Box::new(Matcher::from_system())),
            None => Proxies::None,
        };
        Ok(Self {
            known,
            unknown,
            urls: own.urls.clone(),
            has_certificate: identity.is_some(),
            first_byte_timeout: own.first_byte_timeout.unwrap_or(config.first_byte_timeout),
            stall_timeout: config.stall_timeout,
            headers: headers(&own.headers)?,
            proxies,
        })
    }

    /// The client for a request to `url`.
    pub(super) fn client_for(&self, url: &Url) -> &reqwest::Client {
        if self.is_at(url) { &self.known } else { &self.unknown }
    }

    /// The headers for a request to `url`.
    pub(super) fn headers_for(&self, url: &Url) -> Option<&HeaderMap> {
        self.is_at(url).then_some(&self.headers)
    }

    /// Whether it shows a server at `url` something that is this agent's own: headers, or a certificate.
    pub(super) fn has_keys_for(&self, url: &Url) -> bool {
        self.is_at(url) && (self.has_certificate || !self.headers.is_empty())
    }

    fn is_at(&self, url: &Url) -> bool {
        self.urls.iter().any(|configured| same_server(configured, url))
    }

    /// The proxy through which `url` is reached, as `host:port`.
    pub(super) fn proxy_to(&self, url: &Url) -> Option<String> {
        match &self.proxies {
            Proxies::None => None,
            Proxies::One(proxy) => Some(proxy.clone()),
            Proxies::Environment(matcher) => {
                let intercept = matcher.intercept(&url.as_str().parse().ok()?)?;
                let uri = intercept.uri();
                let host = uri.host()?;
                Some(uri.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
            }
        }
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
        // What curl and browsers read, too: a folded line, a space before the colon, a line that is no header.
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
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
    let pem = std::fs::read(path).map_err(|source| ConfigError::CaFile { path: path.to_owned(), source })?;
    let not_certificates = |source| ConfigError::NotCertificates { path: path.to_owned(), source };
    let authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| not_certificates(Some(error)))?;
    if authorities.is_empty() {
        return Err(not_certificates(None));
    }
    Ok(authorities)
}

fn read_identity(cert: &Path, key: Option<&Path>) -> Result<reqwest::Identity, ConfigError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| ConfigError::ClientCertificate { path: path.to_owned(), source })
    };
    let mut pem = read(cert)?;
    if let Some(key) = key {
        pem.push(b'\n');
        pem.extend(read(key)?);
    }
    reqwest::Identity::from_pem(&pem)
        .map_err(|source| ConfigError::NotAClientCertificate { path: cert.to_owned(), source })
}
