//! The settings of an HTTP client: for all servers, and for single ones.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::client::location::same_server;

/// The settings of an [`HttpClient`](crate::HttpClient).
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long the first byte of an answer may take.
    pub first_byte_timeout: Duration,
    /// How long the next bytes of a body may take.
    pub stall_timeout: Duration,
    /// After this long without a frame, an HTTP/2 connection is checked with a ping, which has to be answered within the same time. All
    /// requests to a server share a connection, so all would wait for one that a firewall has forgotten.
    pub ping_timeout: Duration,
    /// A PEM file of certificate authorities to trust in addition to the system's.
    pub extra_ca: Option<PathBuf>,
    /// The settings of single servers, by host (`registry.lab`) or by host and port (`10.0.0.1:5000`).
    pub servers: BTreeMap<String, ServerConfig>,
    /// The addresses of configured servers, with or without settings: these may be anywhere.
    pub configured: Vec<Url>,
    /// True to use `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.
    pub proxy_from_environment: bool,
    /// Most idle connections to each host.
    pub idle_per_host: usize,
    /// Query parameters that sign addresses, in addition to those of the usual object stores, in lower case.
    pub signed_parameters: Vec<String>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            first_byte_timeout: Duration::from_secs(120),
            // Less than readers wait (`--stall-timeout`): a body that stalls is to be asked for again before they leave.
            stall_timeout: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(5),
            extra_ca: None,
            servers: BTreeMap::new(),
            configured: Vec::new(),
            proxy_from_environment: true,
            idle_per_host: 8,
            signed_parameters: Vec::new(),
        }
    }
}

/// The settings of one server, as far as they differ from those of all servers.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ServerConfig {
    /// The addresses to which the headers and the certificate are shown. Scheme, host and port have to match: no other port of the host
    /// gets them, and they are not sent in the clear if the address is an `https` one.
    pub urls: Vec<Url>,
    /// A PEM file of certificate authorities to trust in addition to the system's and those for all servers.
    pub ca: Option<PathBuf>,
    /// A PEM file with the client certificate that is shown to the `urls`, and its chain.
    pub client_cert: Option<PathBuf>,
    /// A PEM file with its private key; `None` if the key is in the certificate's file.
    pub client_key: Option<PathBuf>,
    /// True to accept any certificate of the server.
    pub skip_verify: bool,
    /// How long a connection may take to be made.
    pub connect_timeout: Option<Duration>,
    /// How long the first byte of an answer may take.
    pub first_byte_timeout: Option<Duration>,
    /// Headers for each request to one of the `urls`, unless the request has such a header itself.
    pub headers: Vec<(String, String)>,
    /// The proxy to this server, instead of the one of the environment.
    pub proxy: Option<Url>,
}

impl ServerConfig {
    /// Adds other settings for the same server.
    ///
    /// # Errors
    /// The name of a setting that both have, with different values.
    pub fn merge(&mut self, other: &Self) -> Result<(), String> {
        fn one<T: Clone + PartialEq>(name: &str, own: &mut Option<T>, other: &Option<T>) -> Result<(), String> {
            match (&own, other) {
                (Some(a), Some(b)) if a != b => Err(name.to_owned()),
                (None, Some(_)) => {
                    own.clone_from(other);
                    Ok(())
                }
                _ => Ok(()),
            }
        }
        // Neither is shown in the clear what is meant for the other by TLS.
        let has_keys = |it: &Self| it.client_cert.is_some() || !it.headers.is_empty();
        let is_at_same = other.urls.iter().all(|url| self.urls.iter().any(|known| same_server(known, url)));
        if !is_at_same && (has_keys(self) || has_keys(other)) {
            return Err("http and https".to_owned());
        }
        one("ca", &mut self.ca, &other.ca)?;
        one("client-cert", &mut self.client_cert, &other.client_cert)?;
        one("client-key", &mut self.client_key, &other.client_key)?;
        one("connect-timeout", &mut self.connect_timeout, &other.connect_timeout)?;
        one("first-byte-timeout", &mut self.first_byte_timeout, &other.first_byte_timeout)?;
        one("proxy", &mut self.proxy, &other.proxy)?;
        self.skip_verify |= other.skip_verify;
        for (name, value) in &other.headers {
            match self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
                Some((known, its)) if its != value => return Err(format!("the header {known}")),
                Some(_) => {}
                None => self.headers.push((name.clone(), value.clone())),
            }
        }
        for url in &other.urls {
            if !self.urls.contains(url) {
                self.urls.push(url.clone());
            }
        }
        Ok(())
    }
}

/// Prints only the names of headers, since values may be secret.
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
