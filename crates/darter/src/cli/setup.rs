//! Flags of `darter setup` and `darter doctor`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, ValueEnum};

use super::agent::{PlaceArgs, UpstreamArgs};
use super::{snapshotter, values};

pub(crate) const SETUP_EXAMPLES: &str = "\
Examples:
  See what would change, then change it; containerd then asks every registry through Darter:
    $ darter setup containerd --dry-run
    $ darter setup containerd
  Only these two registries:
    $ darter setup containerd --registry docker.io --registry registry.corp:5000
  Images that start before they are downloaded, for pods of the runtime class whose handler is lazy (containerd 1.7 and later):
    $ darter setup containerd --lazy --runtime-handler lazy
  Restore every file as it was:
    $ darter setup containerd --undo
  In a mounted image of a host:
    $ darter setup containerd --root /mnt/image --containerd-version 1.7.24

For each registry, the mirror's address is put at the front of the file hosts.toml in the registry's directory \
(/etc/containerd/certs.d/NAME). Everything else in the file stays as it is: other hosts, comments, CA files, client certificates. If \
a directory has only certificates, the new hosts.toml names them, since containerd then no longer looks for certificate files. Without --registry, this is \
done for _default, which stands for every registry without a directory, for the registries that Darter's own configuration names \
(--upstream), and for each existing directory.

If containerd's config.toml does not say where these directories are, config_path is set in it, in the form of the file's \
version. If config_path names several directories, as by default, it is set to the first: containerd 2.1 and later take the list for one name, and read no \
hosts.toml. containerd's CRI does not start with both config_path and old-style registry.mirrors: then nothing is changed, and the error names the \
lines.

Files are replaced in one step, with owner and mode kept. A second run changes nothing. The old contents are kept in \
/var/lib/darter-setup (below --root) for --undo. Nothing is ever restarted: containerd reads hosts.toml at each \
pull, and config.toml only when it starts; the last line says whether a restart is needed. Running containers outlive a restart.

k3s and RKE2 write these files by themselves: name the mirror in their registries.yaml instead \
(mirrors: { \"*\": { endpoint: [\"http://127.0.0.1:7401\"] } }).";

/// Which engine to set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// hosts.toml of each registry, and config.toml
    Containerd,
}

/// Configure a container engine of this host to pull through Darter
#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    /// The engine
    #[arg(value_name = "ENGINE", value_enum)]
    pub(crate) engine: Engine,

    /// Set up this registry, as images name it; repeat for several [default: all of them]
    #[arg(long, value_name = "NAME", value_parser = values::setup_registry, conflicts_with = "undo")]
    pub(crate) registry: Vec<String>,

    /// Address of the local agent's mirror
    #[arg(long, env = "DARTER_LOCAL", value_name = "ADDR:PORT", default_value = "127.0.0.1:7401", value_parser = values::address)]
    pub(crate) local: SocketAddr,

    /// Print the changes, and make none
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Restore every file as it was before the first run
    ///
    /// Files that did not exist are removed. A file that was changed since then is left alone, and its name is printed.
    #[arg(long)]
    pub(crate) undo: bool,

    /// With --undo: also restore files that were changed since then
    #[arg(long, requires = "undo")]
    pub(crate) force: bool,

    /// Also let containerd mount layers before they are downloaded
    ///
    /// For containerd 2.4 and later: names the directory in which Darter shows layers (layer_content_caches), and configures the erofs snapshotter
    /// for everything, or for one runtime class with --runtime-handler. Layers that Darter does not show are pulled and converted
    /// by mkfs.erofs, of erofs-utils 1.7 or later. Before 2.4: configures Darter's own snapshotter (`darter snapshotter`, which has to
    /// run), which unpacks layers that Darter does not show.
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

    /// Change the files below this directory, such as a mounted image of a host
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,

    /// containerd's configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml", value_parser = values::absolute)]
    pub(crate) containerd_config: PathBuf,

    /// The version of containerd that the files are for [default: what `containerd --version` says; with --root, unknown]
    #[arg(long, value_name = "VERSION", value_parser = values::engine_version)]
    pub(crate) containerd_version: Option<(u32, u32)>,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// Read Darter's own settings (local, upstream) from this file
    ///
    /// By default root's commands read /etc/darter/darter.toml if it exists; an empty name means no file.
    #[arg(long, env = "DARTER_CONFIG", value_name = "FILE", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) upstream: UpstreamArgs,
}

pub(crate) const DOCTOR_EXAMPLES: &str = "\
Examples:
    $ darter doctor
  For a program, as JSON:
    $ darter doctor --json

Each line is `ok`, `warning` or `problem`, with the reason, and below it what to do. The command checks the kernel (EROFS, FUSE, overlayfs), the daemon, \
its seeds, disk and limits, and the engines: whether containerd, Docker and Podman ask the mirror first, whether the mirror's port answers, and which settings \
silently switch the mirror or lazy start off. It changes nothing.

Exit codes: 0 no problem, though maybe warnings; 1 at least one problem.";

/// Check this host: what works, what does not, and what to do about it
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Look at the engines' files below this directory, such as a mounted image of a host
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,

    /// containerd's configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml", value_parser = values::absolute)]
    pub(crate) containerd_config: PathBuf,

    /// The version of containerd [default: what `containerd --version` says; with --root, unknown]
    #[arg(long, value_name = "VERSION", value_parser = values::engine_version)]
    pub(crate) containerd_version: Option<(u32, u32)>,

    /// Address of the local agent's mirror
    #[arg(long, env = "DARTER_LOCAL", value_name = "ADDR:PORT", default_value = "127.0.0.1:7401", value_parser = values::address)]
    pub(crate) local: SocketAddr,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}
