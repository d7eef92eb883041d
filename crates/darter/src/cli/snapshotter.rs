//! Flags of `darter snapshotter`.

use std::path::PathBuf;

use clap::Args;

use super::agent::{LogArgs, PlaceArgs};
use super::values;

/// The default socket, to which containerd connects.
pub(crate) const ADDRESS: &str = "/run/darter-snapshotter/snapshotter.sock";
/// The default directory of its snapshots.
pub(crate) const ROOT: &str = "/var/lib/darter-snapshotter";

pub(crate) const SNAPSHOTTER_EXAMPLES: &str = "\
Examples:
  With an agent that keeps a directory of layers (contrib/darter-snapshotter.service is a unit file):
    $ darter up --lazy-dir /run/darter/layers
    $ darter snapshotter
  Write containerd's configuration for it:
    $ darter setup containerd --lazy

To start a container by hand: ctr run --snapshotter darter --rm docker.io/library/debian:12 hello cat /etc/os-release

Layers that the fleet can show lazily are mounted with EROFS from the directory of layers when a container starts: they are neither downloaded nor \
unpacked first. All others are downloaded and unpacked as by containerd's own overlayfs snapshotter; an image may have layers of both kinds.

Clients that fetch first and unpack afterwards download everything: ctr images pull before 2.0, and with --local (docs/lazy.md has more about 2.0 and later). CRI \
(kubelet, crictl) and nerdctl start lazily.

The snapshotter may be stopped, killed and started again at any moment: containers keep running, and it finds its mounts again. It never removes layers that a \
snapshot needs, and reports them to the agent, which keeps them in its store.";

/// Serve snapshots to containerd before 2.4
#[derive(Debug, Args)]
pub(crate) struct SnapshotterArgs {
    /// The socket for containerd, which this command creates; only root may open it
    #[arg(long, value_name = "PATH", default_value = ADDRESS, value_parser = values::absolute)]
    pub(crate) address: PathBuf,

    /// Directory for unpacked layers, for files that containers write, and for the list of all snapshots
    ///
    /// Its file system must be one that overlayfs can write to (ext4, XFS with ftype=1).
    #[arg(long, value_name = "DIR", default_value = ROOT, value_parser = values::absolute)]
    pub(crate) root: PathBuf,

    /// The directory in which Darter shows layers
    #[arg(long, value_name = "DIR", default_value = "/run/darter/layers", value_parser = values::absolute)]
    pub(crate) layers: PathBuf,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}
