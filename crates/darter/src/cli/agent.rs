//! Flags of the agents, in groups. A group is one heading in the help, and other commands take whole groups.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, OsStringValueParser, TypedValueParser as _};
use clap::{ArgAction, Args, ValueEnum};
use darter_agent::options::{Amount, LazyOption, LoginOption, StaleTags};
use darter_core::Rate;
use darter_mount::Fill;

use super::upstream::{self, UpstreamList};
use super::values;

/// All settings of an agent, except the agents that it joins.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) origin: OriginArgs,
    #[command(flatten)]
    pub(crate) upstream: UpstreamArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) lazy: LazyArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// A node: an agent, and the agents that it joins.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    pub(crate) join: JoinArgs,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Fleet")]
pub(crate) struct JoinArgs {
    /// The peer address of a seed, or of another node where there is no seed; repeat for several
    ///
    /// A name stands for all its addresses, and is looked up again every few seconds. This agent's own address may be among
    /// them. Nodes that join only each other need no seed: the node that is chosen for a blob reads its origin for all.
    ///
    /// A node remembers the nodes that it has met. But if a node starts for the first time while the only agent that it was told
    /// of is down, it knows no other agent, and reads origins by itself until that agent is back: give several addresses, or a
    /// name that stands for nodes, too.
    #[arg(long, env = "DARTER_JOIN", value_name = "HOST:PORT", value_delimiter = ',', value_parser = values::endpoint_or_nothing)]
    pub(crate) join: Vec<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Files")]
pub(crate) struct PlaceArgs {
    /// Read settings from a TOML file whose keys are the long flags
    ///
    /// By default agents, `darter config` and root's commands read /etc/darter/darter.toml if it exists; an empty name
    /// means no file. An agent reads it anew on SIGHUP.
    ///
    /// Precedence: flag, environment variable, file, default. `darter config` shows where each value came from, and what it
    /// prints can be used as such a file.
    #[arg(long, env = "DARTER_CONFIG", value_name = "FILE", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub(crate) config: Option<PathBuf>,

    /// Directory of the pieces, the index and the daemon's socket
    ///
    /// By default /var/lib/darter for root, and $XDG_DATA_HOME/darter or ~/.local/share/darter for other users. If that is not writable,
    /// `darter get` without a daemon uses $TMPDIR/darter-UID.
    #[arg(long, env = "DARTER_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// The daemon's socket, for the `darter` command
    ///
    /// An agent listens on this socket besides DATA_DIR/darter.sock; commands use only this one. By default a service, and root with the
    /// default data directory, listen on /run/darter/darter.sock if /run is writable. All users' commands try that socket after the one in their own DATA_DIR.
    #[arg(long, env = "DARTER_SOCKET", value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// Listen for other agents on this address [default: 0.0.0.0:7400; 127.0.0.1:7400 for `darter up` without --insecure]
    #[arg(long, env = "DARTER_LISTEN", value_name = "ADDR:PORT", value_parser = values::address)]
    pub(crate) listen: Option<SocketAddr>,

    /// Listen on this address for programs of this host: registry mirror and metrics
    #[arg(long, env = "DARTER_LOCAL", value_name = "ADDR:PORT", default_value = "127.0.0.1:7401", value_parser = values::address)]
    pub(crate) local: SocketAddr,

    /// A name under which programs reach the local port, besides localhost and 127.0.0.1; repeat for several
    ///
    /// On loopback other names are refused, because a web page could use a name of its own to read private content.
    #[arg(long, env = "DARTER_LOCAL_NAME", value_name = "HOST", value_delimiter = ',', value_parser = values::host_name)]
    pub(crate) local_name: Vec<String>,

    /// Let the members of this group use the daemon, too: to download, and to see its status
    ///
    /// By default only root and the user that the daemon runs as may open its socket.
    #[arg(long, env = "DARTER_SOCKET_GROUP", value_name = "GROUP", value_parser = values::group)]
    pub(crate) socket_group: Option<u32>,

    /// Also serve /metrics, /healthz and /readyz on a port of their own, for a Prometheus on another host
    #[arg(long, env = "DARTER_METRICS", value_name = "ADDR:PORT", value_parser = values::address)]
    pub(crate) metrics: Option<SocketAddr>,

    /// The address to tell peers, if it is not the one that they see (behind NAT, in a container)
    #[arg(long, env = "DARTER_ADVERTISE", value_name = "HOST:PORT", value_parser = values::endpoint)]
    pub(crate) advertise: Option<String>,

    /// Label this agent, KEY=VALUE, repeatable. Peers with the same host, rack, zone and region are preferred, in this order
    ///
    /// A label with an empty value is ignored, so that values may come from a template.
    #[arg(long, env = "DARTER_LABEL", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = values::label)]
    pub(crate) label: Vec<(String, String)>,

    /// Accept that peer traffic is not encrypted or authenticated yet: anybody who reaches the --listen port can read what is cached
    ///
    /// Without this flag, an agent refuses to listen beyond loopback. Keep the port behind a firewall.
    #[arg(long, env = "DARTER_INSECURE", value_name = "BOOL", default_value = "false", default_missing_value = "true",
        action = ArgAction::Set, num_args = 0..=1, require_equals = true, value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) insecure: bool,

    /// Also verify the complete SHA-256 on this host, instead of trusting the seed's check
    #[arg(long, env = "DARTER_VERIFY_WHOLE", value_name = "BOOL", default_value = "false", default_missing_value = "true",
        action = ArgAction::Set, num_args = 0..=1, require_equals = true, value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) verify_whole: bool,

    /// How long a shutdown waits for running transfers
    #[arg(long, env = "DARTER_DRAIN_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = values::duration)]
    pub(crate) drain_timeout: Duration,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Limit the rate of sending to peers (25MB/s, 200mbit)
    #[arg(long, env = "DARTER_UPLOAD_LIMIT", value_name = "RATE")]
    pub(crate) upload_limit: Option<Rate>,

    /// Limit the rate of receiving from peers
    #[arg(long, env = "DARTER_DOWNLOAD_LIMIT", value_name = "RATE")]
    pub(crate) download_limit: Option<Rate>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Store")]
pub(crate) struct StoreArgs {
    /// Keep at most this much on disk: a size, or a share of the file system. If more is needed, the least recently used
    /// content is evicted first, unless it is pinned (`darter pin`) or being read
    #[arg(long, env = "DARTER_QUOTA", value_name = "SIZE|PERCENT", default_value = "80%", value_parser = values::amount)]
    pub(crate) quota: Amount,

    /// Leave this much of the file system free for other programs, whatever the quota
    #[arg(long, env = "DARTER_RESERVE", value_name = "SIZE|PERCENT", default_value = "10%", value_parser = values::amount)]
    pub(crate) reserve: Amount,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Lazy start")]
pub(crate) struct LazyArgs {
    /// Start images before they are downloaded: keep a directory of their layers here, for containerd 2.4 and later (its erofs snapshotter's
    /// layer_content_caches)
    ///
    /// Each layer of an image that is pulled through this agent is a file in DIR, which the kernel mounts at once; parts are fetched when they are read. A
    /// process of its own (`darter lazy-dir`) keeps the directory: this agent starts it unless it runs already, and it
    /// outlives the agent, so that containers keep running while the agent restarts. This needs root, or a `darter lazy-dir` that root runs.
    #[arg(long, env = "DARTER_LAZY_DIR", value_name = "DIR")]
    pub(crate) lazy_dir: Option<PathBuf>,

    /// How long a pull waits for a layer that no agent has expanded yet, before it downloads the image the ordinary way
    #[arg(long, env = "DARTER_LAZY_WAIT", value_name = "TIME", default_value = "2m", value_parser = values::duration)]
    pub(crate) lazy_wait: Duration,

    /// How long to keep a layer that was shown to containerd and that none of its snapshots names (--lazy-containerd), counted from containerd's last request for it
    ///
    /// If a layer was deleted, containerd can't start containers of its image until the image is removed and pulled again. Starting a
    /// container requests all layers of its image.
    #[arg(long, env = "DARTER_LAZY_KEEP", value_name = "TIME", default_value = "90d", value_parser = values::duration)]
    pub(crate) lazy_keep: Duration,

    /// When to fetch the parts of open layers that no container has read: always (from now on), idle (while no container waits) or never
    ///
    /// --lazy-fill, --lazy-fill-rate and --lazy-timeout take effect when this agent starts the process that keeps the directory; a process that runs already keeps its own.
    #[arg(long, env = "DARTER_LAZY_FILL", value_name = "WHEN", default_value_t = Fill::Idle, value_parser = values::fill())]
    pub(crate) lazy_fill: Fill,

    /// Limit --lazy-fill to this rate for each layer, such as 20MB/s or 200mbit [default: no limit]
    #[arg(long, env = "DARTER_LAZY_FILL_RATE", value_name = "RATE")]
    pub(crate) lazy_fill_rate: Option<Rate>,

    /// Note which parts of layers are read first after a start, share these notes with the fleet, and fetch the parts at once at the next start
    ///
    /// With false, none of this happens, for `darter mount` and the snapshotter either, and this agent exchanges no notes with others. Earlier notes are kept.
    #[arg(long, env = "DARTER_LAZY_PROFILES", value_name = "BOOL", default_value = "true", default_missing_value = "true",
        action = ArgAction::Set, num_args = 0..=1, require_equals = true, value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) lazy_profiles: bool,

    /// Compress pieces of layers on their way between agents where the connection is slower than compressing
    ///
    /// With false, this agent neither sends nor takes compressed pieces: the bytes on the wire are more, and no processor is needed for them.
    #[arg(long, env = "DARTER_LAZY_PACKED", value_name = "BOOL", default_value = "true", default_missing_value = "true",
        action = ArgAction::Set, num_args = 0..=1, require_equals = true, value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) lazy_packed: bool,

    /// How long a container's read waits for its bytes before it fails
    #[arg(long, env = "DARTER_LAZY_TIMEOUT", value_name = "TIME", default_value = "60s", value_parser = values::some_time)]
    pub(crate) lazy_timeout: Duration,

    /// Socket of the containerd whose snapshots say which layers have to stay on this host; several are separated by commas
    #[arg(long, env = "DARTER_LAZY_CONTAINERD", value_name = "SOCKET", value_delimiter = ',', default_value = values::CONTAINERD)]
    pub(crate) lazy_containerd: Vec<PathBuf>,
}

impl LazyArgs {
    pub(crate) fn option(&self) -> Option<LazyOption> {
        self.lazy_dir.is_some().then_some(LazyOption { wait: self.lazy_wait, keep: self.lazy_keep })
    }

    /// The arguments of the process that keeps the directory, without the agent's address.
    pub(crate) fn for_keeper(&self) -> Vec<OsString> {
        let timeout = humantime::format_duration(self.lazy_timeout);
        let mut flags = vec![format!("--fill={}", self.lazy_fill), format!("--timeout={timeout}")];
        flags.extend(self.lazy_fill_rate.map(|rate| format!("--fill-rate={}bit", rate.bytes_per_second() * 8)));
        let mut flags: Vec<OsString> = flags.into_iter().map(OsString::from).collect();
        for socket in &self.lazy_containerd {
            flags.extend(["--containerd".into(), socket.clone().into_os_string()]);
        }
        flags
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Origins")]
pub(crate) struct OriginArgs {
    /// Limit the rate of reading from origins
    #[arg(long, env = "DARTER_ORIGIN_LIMIT", value_name = "RATE")]
    pub(crate) origin_limit: Option<Rate>,

    /// End a download that received nothing for this long, with an error that says what it waited for
    ///
    /// Before that, the download leaves a seed or node that sends nothing, for another one or the origin, which gets as long.
    /// The registry mirror then continues from the registry itself. A pause that an origin asked for does not count. With 0s
    /// there is no limit.
    #[arg(long, env = "DARTER_STALL_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = values::duration)]
    pub(crate) stall_timeout: Duration,

    /// Read the origin of one blob by at most this many connections at a time
    ///
    /// Many stores and CDNs limit the rate of each connection. The first request for a blob is for its first 16 MiB. A blob that
    /// takes longer than two seconds is read by one connection until its rate is known. If that rate is steady, a second connection is tried: it reads
    /// the following range, and more are added as long as they increase the total rate. The trials read nothing twice. At most a thousandth of a blob is read
    /// twice, if one of several connections is slow and another one takes over the end of its range. If trials bring no more, the origin gets two to
    /// five more requests for a blob of more than 16 MiB, and no trials for other blobs for a minute. If the origin refuses (no ranges, 429, 503),
    /// one connection goes on, and this origin's other blobs are read by one connection, too, for ten minutes; `darter explain` says what was found. All bytes count for
    /// --origin-limit. Signed addresses, which may expire meanwhile, and content that has neither a digest nor an ETag nor a date are always read by
    /// one connection. With 1, each blob is one request.
    #[arg(long, env = "DARTER_ORIGIN_CONNECTIONS", value_name = "COUNT", default_value_t = darter_swarm::ORIGIN_CONNECTIONS, value_parser = clap::value_parser!(u8).range(1..=i64::from(darter_swarm::MAX_ORIGIN_CONNECTIONS)))]
    pub(crate) origin_connections: u8,

    /// Trust the certificates in this PEM file, besides the system's, when reading origins
    #[arg(long, env = "DARTER_ORIGIN_CA", value_name = "FILE")]
    pub(crate) origin_ca: Option<PathBuf>,

    /// How long to retry an origin that fails: broken connections, 429, 502, 503 and the like
    ///
    /// The time counts from the last byte received. Pauses grow to 10 s. If an origin says how long to wait (Retry-After), it is asked again
    /// after that time, or not at all if that is longer than this. With 0s nothing is retried.
    #[arg(long, env = "DARTER_ORIGIN_PATIENCE", value_name = "TIME", default_value = "2m", value_parser = values::duration)]
    pub(crate) origin_patience: Duration,

    /// How long an origin may take until the first byte of an answer
    #[arg(long, env = "DARTER_ORIGIN_TIMEOUT", value_name = "TIME", default_value = "2m", value_parser = values::duration)]
    pub(crate) origin_timeout: Duration,

    /// A query parameter that signs addresses, besides those of the usual object stores; repeat for several
    ///
    /// Such a parameter authorises a request and is no part of a blob's name, so that all signed addresses of an object name the
    /// same blob. Its value never appears in logs, listings or files. Every agent of a fleet needs the same list.
    #[arg(long, env = "DARTER_SIGNED_PARAMETER", value_name = "NAME", value_delimiter = ',',
        value_parser = values::parameter)]
    pub(crate) signed_parameter: Vec<String>,
}

/// Settings of registries and web servers, for all commands that read from them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Registries")]
pub(crate) struct UpstreamArgs {
    /// Address of a registry that is not at https://NAME; repeat for several
    ///
    /// A table in place of the URL, or in the configuration file, gives further settings:
    ///
    ///   [upstream."registry.corp"]
    ///   url = ["https://10.0.0.1:5000", "https://10.0.0.2:5000"]  # the first that answers
    ///   ca = "/etc/corp/ca.pem"             # trusted besides the system's
    ///   client-cert = "/etc/corp/host.pem"  # shown to the registry
    ///   client-key = "/etc/corp/host.key"   # or in the same file
    ///   skip-verify = false                 # true: any certificate will do
    ///   connect-timeout = "3s"
    ///   first-byte-timeout = "2m"
    ///   login-file = "/etc/corp/login"      # USER:PASSWORD, for callers that bring none; as --login
    ///   proxy = "http://proxy.corp:3128"    # instead of HTTPS_PROXY
    ///   proxy-login-file = "/etc/corp/proxy-login"  # USER:PASSWORD
    ///   headers = { X-Team = "infra", Authorization = { file = "/etc/corp/token" } }
    ///   prefix = "hub-proxy"                # put before names: a Harbor project, an Artifactory repository
    ///   rewrite = { "team/" = "squad/" }    # beginnings of names; the longest that matches is replaced
    ///
    /// Headers are sent with each request. Secrets are read from the first lines of files, which
    /// only the agent needs to be able to read: `Bearer …` for a token in a header. `darter config
    /// --write-secrets` moves secrets that are given here (a header's value, a login in url or
    /// proxy) into such files.
    ///
    /// These settings also apply to web servers of that name.
    #[allow(rustdoc::bare_urls, reason = "this is the help text, where URLs stand as they are typed")]
    #[arg(long, env = "DARTER_UPSTREAM", value_name = "NAME=URL|TABLE", value_parser = upstream::upstreams, verbatim_doc_comment)]
    pub(crate) upstream: Vec<UpstreamList>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Registries")]
pub(crate) struct RegistryArgs {
    /// The registry of requests that name none: docker.io, if Docker's engine uses this mirror
    #[arg(long, env = "DARTER_DEFAULT_UPSTREAM", value_name = "NAME", value_parser = values::registry_name)]
    pub(crate) default_upstream: Option<String>,

    /// Trust this registry's answer that one of its repositories has a layer; repeat for several
    ///
    /// A cached layer is given to callers that may read it at the registry and repository that it came from. Any other
    /// registry has to deliver the layer itself once, since anybody can run a registry that claims to have it. For a
    /// registry that is named here, or by --upstream or --default-upstream, its answer is enough, and images of different
    /// repositories share layers at once.
    #[arg(
        long,
        env = "DARTER_TRUSTED_REGISTRY",
        value_name = "NAME",
        value_delimiter = ',',
        value_parser = values::registry_name,
        default_value = "docker.io,ghcr.io,quay.io,gcr.io,registry.k8s.io,mcr.microsoft.com,public.ecr.aws"
    )]
    pub(crate) trusted_registry: Vec<String>,

    /// Ask Podman, skopeo and CRI-O for the login that their user has for this mirror
    ///
    /// For private images: these programs send a login only to a mirror that asks for one. It is passed on to the
    /// registry that the mirror's path names, and to nobody else; log in for that path, as in `podman login
    /// --tls-verify=false 127.0.0.1:7401/ghcr.io`. Callers without a login still get public content.
    ///
    /// Off by default, because Docker's engine sends mirrors no login: if a mirror asks for one, Docker bypasses the mirror.
    /// containerd does not need this flag.
    #[arg(long, env = "DARTER_ASK_LOGIN", value_name = "BOOL", default_value = "false", default_missing_value = "true",
        action = ArgAction::Set, num_args = 0..=1, require_equals = true, value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) ask_login: bool,

    /// Use plain HTTP for this registry, without TLS; repeat for several
    #[arg(long, env = "DARTER_PLAIN_HTTP", value_name = "HOST", value_delimiter = ',', value_parser = values::registry_name)]
    pub(crate) plain_http: Vec<String>,

    /// Log in to a registry for callers that bring no credentials of their own
    ///
    /// If a seed logs in, every program on every host of the fleet that brings no credentials can read what this login can read.
    ///
    /// Every user of the host can read command lines: leave out the password and write it into a file that
    /// --password-file names, or use --docker-config.
    #[arg(long, env = "DARTER_LOGIN", value_name = "REGISTRY=USER[:PASSWORD]", value_parser = values::login)]
    pub(crate) login: Vec<LoginOption>,

    /// File with the password of a --login; repeat for several
    #[arg(long, env = "DARTER_PASSWORD_FILE", value_name = "REGISTRY=FILE", value_delimiter = ',', value_parser = values::password_file)]
    pub(crate) password_file: Vec<(String, PathBuf)>,

    /// Take logins from a Docker config.json
    #[arg(long, env = "DARTER_DOCKER_CONFIG", value_name = "FILE")]
    pub(crate) docker_config: Option<PathBuf>,

    /// How long a successful authorization by a registry is cached
    #[arg(long, env = "DARTER_GRANT_TTL", value_name = "TIME", default_value = "5m", value_parser = values::duration)]
    pub(crate) grant_ttl: Duration,

    /// When to answer for a tag as it was last seen, because its registry does not answer
    ///
    /// This applies to content that callers may have without credentials of their own: public content, and what --login or
    /// --docker-config can read. The headers Darter-Stale and Warning of the answer say so. Content that is requested by digest
    /// cannot be stale; it is served whenever its registry does not answer.
    #[arg(long, env = "DARTER_STALE_TAGS", value_name = "WHEN", value_enum, default_value = "unreachable")]
    pub(crate) stale_tags: StaleTagsArg,
}

/// When tags may be stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StaleTagsArg {
    /// Never: a tag always needs its registry
    Never,
    /// When the registry cannot be reached, does not answer in time, or answers 429
    Unreachable,
    /// Also when the registry answers 5xx
    Errors,
}

impl From<StaleTagsArg> for StaleTags {
    fn from(when: StaleTagsArg) -> Self {
        match when {
            StaleTagsArg::Never => Self::Never,
            StaleTagsArg::Unreachable => Self::Unreachable,
            StaleTagsArg::Errors => Self::Errors,
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Plain text
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LogArgs {
    /// Log level, or a filter such as `info,darter_wire=debug`
    #[arg(long, env = "DARTER_LOG", value_name = "LEVEL|FILTER", value_parser = values::log_filter)]
    pub(crate) log: Option<String>,

    /// Log format
    #[arg(long, env = "DARTER_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,

    /// More output (-vv: even more)
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}
