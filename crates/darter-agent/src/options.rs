//! Everything an agent can be told. The command line fills this in; nothing below reads files or the environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use darter_api::Role;
use darter_core::Rate;
pub use darter_registries::StaleTags;
pub use darter_store::Amount;
use url::Url;

/// A registry by the name that engines use for it, and what is particular to it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UpstreamOption {
    /// Name, such as `docker.io` or `10.0.0.1:5000`.
    pub name: String,
    /// Base addresses, such as `http://10.0.0.1:5000`, of which the first that answers is used. None: where the name says.
    pub urls: Vec<Url>,
    /// A file of PEM certificates to trust besides the system's and [`Options::origin_ca`].
    pub ca: Option<PathBuf>,
    /// A file with the PEM certificate to show to the registry.
    pub client_cert: Option<PathBuf>,
    /// A file with its key; without, it is in the certificate's.
    pub client_key: Option<PathBuf>,
    /// Its certificate is not checked.
    pub skip_verify: bool,
    /// How long a connection to it may take.
    pub connect_timeout: Option<Duration>,
    /// How long the first byte of an answer may take, instead of [`Options::origin_timeout`].
    pub first_byte_timeout: Option<Duration>,
    /// The proxy to it, instead of the environment's.
    pub proxy: Option<Url>,
    /// Headers for each request to it.
    pub headers: Vec<(String, String)>,
    /// Put in front of each repository's name there.
    pub prefix: Option<String>,
    /// Fronts of repositories' names, and what takes their place there.
    pub rewrite: Vec<(String, String)>,
}

impl UpstreamOption {
    /// The servers that the settings are about, as `host` or `host:port`.
    pub fn servers(&self) -> Vec<String> {
        if self.urls.is_empty() {
            // Docker Hub's API is not where its name says.
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

/// Without the values of headers, which may be secret.
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
        // A token may stand in the place of the user.
        write!(f, "{}=…", self.registry)
    }
}

/// How layers of images are given to the engines of this host to be mounted before they have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LazyOption {
    /// How long a question for a layer may wait until it is read and expanded.
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
    /// Peer port; `None` listens nowhere.
    pub listen: Option<SocketAddr>,
    /// Address under which peers reach this agent, when it is not the one they see.
    pub advertise: Option<String>,
    /// Port for programs of this host: mirror, metrics; `None` listens nowhere.
    pub local: Option<SocketAddr>,
    /// Query parameters that sign addresses, besides those of the usual object stores; in lower case.
    pub signed_parameters: Vec<String>,
    /// Another port for `/metrics`, `/healthz` and `/readyz` alone; they stay on the local port too.
    pub metrics: Option<SocketAddr>,
    /// Names of the local port, besides those of loopback.
    pub local_names: Vec<String>,
    /// Seeds, as `HOST:PORT`.
    pub join: Vec<String>,
    /// Labels: `region`, `zone` and `rack` place the node.
    pub labels: BTreeMap<String, String>,
    /// Limit on bytes sent to peers.
    pub upload_limit: Option<Rate>,
    /// Limit on bytes received from peers.
    pub download_limit: Option<Rate>,
    /// Limit on bytes read from origins.
    pub origin_limit: Option<Rate>,
    /// Connections by which the origin of one blob is read at a time, at most.
    pub origin_connections: u8,
    /// Peer connections without TLS.
    pub insecure: bool,
    /// The most that the store keeps.
    pub quota: Option<Amount>,
    /// Bytes to leave free on the store's file system.
    pub reserve: Amount,
    /// Registries by name.
    pub upstreams: Vec<UpstreamOption>,
    /// The registry of requests that name none (Docker's mirror requests).
    pub default_upstream: Option<String>,
    /// Registries whose word counts for content that came from elsewhere, besides those in `upstreams` and the default one.
    pub trusted_registries: Vec<String>,
    /// The mirror asks programs for the login that their user has for it.
    pub ask_login: bool,
    /// Registries that are spoken to without TLS.
    pub plain_http: Vec<String>,
    /// Logins used for callers that bring no credentials of their own.
    pub logins: Vec<LoginOption>,
    /// A Docker `config.json` with logins, used likewise.
    pub docker_config: Option<PathBuf>,
    /// A file of PEM certificates trusted besides the system's when reading origins.
    pub origin_ca: Option<PathBuf>,
    /// How long an origin that fails is tried again without any progress.
    pub origin_patience: Duration,
    /// How long an origin may take to the first byte of an answer.
    pub origin_timeout: Duration,
    /// How long an upstream's yes to a caller's credentials is cached.
    pub grant_ttl: Duration,
    /// When a tag is answered without its registry.
    pub stale_tags: StaleTags,
    /// Each node hashes the whole content itself, instead of believing its seed.
    pub verify_whole: bool,
    /// How long a program waits for an answer of the mirror to begin.
    pub answer_timeout: Duration,
    /// How long a download may get nothing at all from whoever leads it, before another one or the origin is asked, which has as long, or it fails; zero: for
    /// ever.
    pub stall_timeout: Duration,
    /// How layers are given to engines to be mounted; `None`: none is.
    pub lazy: Option<LazyOption>,
    /// True if first touches of layers are noted, told, merged and fetched.
    pub profiles: bool,
    /// Local files are read below these directories only, whose paths have no links; `None`: anywhere. A daemon reads none.
    pub local_roots: Option<Vec<PathBuf>>,
    /// How long a drain waits for transfers that are under way.
    pub drain_timeout: Duration,
}
