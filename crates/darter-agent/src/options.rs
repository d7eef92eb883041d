//! The options of an agent. The command line fills them in; nothing below reads files or the environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use darter_api::Role;
use darter_core::Rate;
pub use darter_registries::StaleTags;
pub use darter_store::Amount;
use url::Url;

/// A registry by the name that engines use for it, and its settings.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UpstreamOption {
    /// Name, such as `docker.io` or `10.0.0.1:5000`.
    pub name: String,
    /// Base URLs, such as `http://10.0.0.1:5000`; the first that answers is used. If empty, the URL follows from the name.
    pub urls: Vec<Url>,
    /// A file of PEM certificates to trust besides the system's and [`Options::origin_ca`].
    pub ca: Option<PathBuf>,
    /// A file with the PEM client certificate for the registry.
    pub client_cert: Option<PathBuf>,
    /// A file with its key; if `None`, the key is in the certificate's file.
    pub client_key: Option<PathBuf>,
    /// True if its certificate is not checked.
    pub skip_verify: bool,
    /// How long a connection to it may take.
    pub connect_timeout: Option<Duration>,
    /// How long the first byte of an answer may take, instead of [`Options::origin_timeout`].
    pub first_byte_timeout: Option<Duration>,
    /// The proxy to it, instead of the environment's.
    pub proxy: Option<Url>,
    /// Headers for each request to it.
    pub headers: Vec<(String, String)>,
    /// Put before each repository's name there.
    pub prefix: Option<String>,
    /// Beginnings of repositories' names, and their replacements there.
    pub rewrite: Vec<(String, String)>,
}

impl UpstreamOption {
    /// The servers to which the settings apply, as `host` or `host:port`.
    pub fn servers(&self) -> Vec<String> {
        if self.urls.is_empty() {
            // Docker Hub's API is at another host than its name.
            let name = if self.name == "docker.io" { "registry-1.docker.io" } else { &self.name };
            return vec![name.to_owned()];
        }
        let server = |url: &Url| {
            let host = url.host_str()?;
            Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
        };
        self.urls.iter().filter_map(server).collect()
    }
}

/// Prints no values of headers, which may be secret.
impl std::fmt::Debug for UpstreamOption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let urls = self.urls.iter().map(Url::as_str).collect::<Vec<_>>();
        write!(f, "{} at {urls:?}, {} headers", self.name, self.headers.len())
    }
}

/// User name and password for a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct LoginOption {
    /// The registry's name, as in [`UpstreamOption::name`].
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for LoginOption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The user may be a token.
        write!(f, "{}=…", self.registry)
    }
}

/// How layers of images are given to the engines of this host, to be mounted before they are downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LazyOption {
    /// How long a request for a layer may wait until the layer is read and expanded.
    pub wait: Duration,
    /// How long a layer is kept that no engine asks for.
    pub keep: Duration,
}

/// Options of an agent.
#[derive(Clone, Debug)]
pub struct Options {
    /// The agent's role in its fleet.
    pub role: Role,
    /// The directory of the pieces, the index, the identity and the administration socket.
    pub data_dir: PathBuf,
    /// Administration sockets besides the one in the data directory.
    pub sockets: Vec<PathBuf>,
    /// The group that may use the administration sockets.
    pub socket_group: Option<u32>,
    /// The peer port; `None` to listen nowhere.
    pub listen: Option<SocketAddr>,
    /// The address under which peers reach this agent, if it is not the one that they see.
    pub advertise: Option<String>,
    /// The port for programs of this host: mirror, metrics; `None` to listen nowhere.
    pub local: Option<SocketAddr>,
    /// Query parameters that sign addresses, besides those of the usual object stores; in lower case.
    pub signed_parameters: Vec<String>,
    /// Another port for only `/metrics`, `/healthz` and `/readyz`, which stay on the local port, too.
    pub metrics: Option<SocketAddr>,
    /// Names by which programs reach the local port, besides those of loopback.
    pub local_names: Vec<String>,
    /// Seeds, as `HOST:PORT`.
    pub join: Vec<String>,
    /// Labels: `region`, `zone` and `rack` say where the node is.
    pub labels: BTreeMap<String, String>,
    /// Limit on bytes sent to peers.
    pub upload_limit: Option<Rate>,
    /// Limit on bytes received from peers.
    pub download_limit: Option<Rate>,
    /// Limit on bytes read from origins.
    pub origin_limit: Option<Rate>,
    /// Most connections by which the origin of one blob is read at a time.
    pub origin_connections: u8,
    /// True if peers may connect without TLS from other hosts.
    pub insecure: bool,
    /// The most that the store may hold.
    pub quota: Option<Amount>,
    /// How much of the store's file system is left free.
    pub reserve: Amount,
    /// Registries by name.
    pub upstreams: Vec<UpstreamOption>,
    /// The registry of requests that name none (Docker's requests to a mirror).
    pub default_upstream: Option<String>,
    /// Registries whose answer is enough for content that came from elsewhere, besides those in `upstreams` and the default one.
    pub trusted_registries: Vec<String>,
    /// True if the mirror asks programs for the login that their user has for it.
    pub ask_login: bool,
    /// Registries that are read without TLS.
    pub plain_http: Vec<String>,
    /// Logins used for callers that bring no credentials of their own.
    pub logins: Vec<LoginOption>,
    /// A Docker `config.json` with logins, used in the same way.
    pub docker_config: Option<PathBuf>,
    /// A file of PEM certificates to trust besides the system's when reading origins.
    pub origin_ca: Option<PathBuf>,
    /// How long an origin that fails is retried without any progress.
    pub origin_patience: Duration,
    /// How long an origin may take until the first byte of an answer.
    pub origin_timeout: Duration,
    /// How long an upstream's acceptance of a caller's credentials is cached.
    pub grant_ttl: Duration,
    /// When a tag is answered without asking its registry.
    pub stale_tags: StaleTags,
    /// True if each node hashes the whole content itself, instead of trusting its seed.
    pub verify_whole: bool,
    /// How long a program waits for an answer of the mirror to begin.
    pub answer_timeout: Duration,
    /// How long a download may receive nothing from its lead before another lead or the origin is asked, which gets as long before the download fails; zero for
    /// no limit.
    pub stall_timeout: Duration,
    /// How layers are given to engines; `None` if none are.
    pub lazy: Option<LazyOption>,
    /// True to record, exchange, merge and use profiles of layers: which parts are read first.
    pub profiles: bool,
    /// True to send and take packed pieces of expanded layers, where that pays.
    pub packed: bool,
    /// Local files are read only below these directories, whose paths contain no links; `None` for no restriction. A daemon reads none.
    pub local_roots: Option<Vec<PathBuf>>,
    /// How long a drain waits for running transfers.
    pub drain_timeout: Duration,
}
