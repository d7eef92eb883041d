//! Flags of `darter setup` and `darter doctor`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, ValueEnum};

use super::agent::{PlaceArgs, UpstreamArgs};
use super::{snapshotter, values};

pub(crate) const SETUP_EXAMPLES: &str = "\
Examples:
  See what it would change, then do it; every registry is then asked through Darter:
    $ darter setup containerd --dry-run
    $ darter setup containerd
  Two registries and no other:
    $ darter setup containerd --registry docker.io --registry registry.corp:5000
  Images that start before they are downloaded, for pods of the runtime class whose handler is lazy (containerd 1.7 and later):
    $ darter setup containerd --lazy --runtime-handler lazy
  Restore every file as it was:
    $ darter setup containerd --undo
  In an image that is mounted somewhere:
    $ darter setup containerd --root /mnt/image --containerd-version 1.7.24

For each registry, the mirror's address is put at the front of the file hosts.toml in the registry's directory \
(/etc/containerd/certs.d/NAME). What others wrote there stays as it is: other hosts, comments, CA files, client certificates. Where \
there are only certificates, the new hosts.toml names them, since containerd looks for none beside one. Without --registry it is \
done for _default, which stands for every registry without a directory, for the registries that Darter's own configuration names \
(--upstream), and for each directory that is there.

If containerd's config.toml does not say where these directories are, config_path is set in it, in the form of the version that \
the file has. If it names several directories, as by default, it is set to the first: containerd 2.1 and later take the list for one name, and read no \
hosts.toml. Old-style registry.mirrors stop containerd's CRI if config_path is set, too: nothing is changed then, and the error names the \
lines.

Files are replaced in one step, with owner and mode kept. A second run changes nothing. What was there before is kept in \
/var/lib/darter-setup (below --root) for --undo. Nothing is ever restarted: containerd reads hosts.toml at each \
pull, and config.toml only when it starts; the last line says which it is. Running containers outlive a restart.

k3s and RKE2 write these files by themselves: name the mirror in their registries.yaml instead \
(mirrors: { \"*\": { endpoint: [\"http://127.0.0.1:7401\"] } }).";

/// Which engine to set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// hosts.toml of each registry, and config.toml
    Containerd,
}

/// Let a container engine of this host pull through Darter
#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    /// Which engine
    #[arg(value_name = "ENGINE", value_enum)]
    pub(crate) engine: Engine,

    /// Set up this registry, as images name it; repeat for several [default: all of them]
    #[arg(long, value_name = "NAME", value_parser = values::setup_registry, conflicts_with = "undo")]
    pub(crate) registry: Vec<String>,

    /// Address of the mirror of this host's agent
    #[arg(long, env = "DARTER_LOCAL", value_name = "ADDR:PORT", default_value = "127.0.0.1:7401", value_parser = values::address)]
    pub(crate) local: SocketAddr,

    /// Print the differences, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Restore every file as it was before the first run
    ///
    /// Files that were not there are removed. One that somebody has changed since is left alone and named.
    #[arg(long)]
    pub(crate) undo: bool,

    /// With --undo: restore files that somebody has changed since, too
    #[arg(long, requires = "undo")]
    pub(crate) force: bool,

    /// Also let containerd mount layers before they are downloaded
    ///
    /// From containerd 2.4 on: names the directory in which Darter shows layers (layer_content_caches), and lets the erofs snapshotter be
    /// used for everything, or for one runtime class with --runtime-handler. Layers that Darter does not show are pulled and converted
    /// by mkfs.erofs, of erofs-utils 1.7 or later. Before 2.4: lets Darter's own snapshotter be used (`darter snapshotter`, which has to
    /// run), which unpacks what Darter does not show.
    #[arg(long, conflicts_with = "undo")]
    pub(crate) lazy: bool,

    /// With --lazy: only for pods of this runtime handler, as a RuntimeClass names it
    ///
    /// A handler that does not exist is created as a copy of runc's.
    #[arg(long, value_name = "NAME", requires = "lazy", value_parser = values::plain_name)]
    pub(crate) runtime_handler: Option<String>,

    /// With --lazy: the directory in which Darter shows layers
    #[arg(long, value_name = "DIR", default_value = "/run/darter/layers", value_parser = values::absolute)]
    pub(crate) layers: PathBuf,

    /// With --lazy before containerd 2.4: the socket of `darter snapshotter`
    #[arg(long, value_name = "PATH", default_value = snapshotter::ADDRESS, value_parser = values::absolute)]
    pub(crate) snapshotter_address: PathBuf,

    /// With --lazy before containerd 2.4: the --root of `darter snapshotter`
    #[arg(long, value_name = "DIR", default_value = snapshotter::ROOT, value_parser = values::absolute)]
    pub(crate) snapshotter_root: PathBuf,

    /// Work on the files below this directory, as of an image that is mounted there
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,

    /// containerd's configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml", value_parser = values::absolute)]
    pub(crate) containerd_config: PathBuf,

    /// Which containerd the files are for [default: what `containerd --version` says; with --root, unknown]
    #[arg(long, value_name = "VERSION", value_parser = values::engine_version)]
    pub(crate) containerd_version: Option<(u32, u32)>,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// Read Darter's own settings (local, upstream) from this file
    ///
    /// By default root's commands read /etc/darter/darter.toml where it exists; an empty name means no file.
    #[arg(long, env = "DARTER_CONFIG", value_name = "FILE", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) upstream: UpstreamArgs,
}

pub(crate) const DOCTOR_EXAMPLES: &str = "\
Examples:
    $ darter doctor
  For a program: whether anything is a problem, and what
    $ darter doctor --json

Each line is `ok`, `warning` or `problem`, with the reason, and below it what to do. It looks at the kernel (EROFS, FUSE, overlayfs), the daemon, \
its seeds and its disk, at limits, and at the engines: whether containerd, Docker and Podman ask the mirror first, whether its port answers, and what \
silently switches the mirror or lazy start off. It changes nothing.

Exit codes: 0 no problem, though maybe warnings; 1 at least one problem.";

/// Check this host: what works, what does not, and what to do
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Look at the engines' files below this directory, as of an image that is mounted there
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,

    /// containerd's configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml", value_parser = values::absolute)]
    pub(crate) containerd_config: PathBuf,

    /// Which containerd it is [default: what `containerd --version` says; with --root, unknown]
    #[arg(long, value_name = "VERSION", value_parser = values::engine_version)]
    pub(crate) containerd_version: Option<(u32, u32)>,

    /// Address of the mirror of this host's agent
    #[arg(long, env = "DARTER_LOCAL", value_name = "ADDR:PORT", default_value = "127.0.0.1:7401", value_parser = values::address)]
    pub(crate) local: SocketAddr,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}
