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
  Beside an agent that keeps a directory of layers (contrib/darter-snapshotter.service is the unit):
    $ darter up --lazy-dir /run/darter/layers
    $ darter snapshotter
  Write containerd's configuration for it:
    $ darter setup containerd --lazy

A container by hand: ctr run --snapshotter darter --rm docker.io/library/debian:12 hello cat /etc/os-release

Layers that the fleet can show lazily are mounted by EROFS out of the directory of layers when a container starts: they are not downloaded, nor \
unpacked. All others are downloaded and unpacked as by containerd's own overlayfs snapshotter; images with some of each kind work.

Clients that fetch first and unpack afterwards download everything: ctr images pull before 2.0, and with --local (docs/lazy.md has more for 2.0 and later). CRI \
(kubelet, crictl) and nerdctl do not.

The snapshotter may be stopped, killed and started again at any moment: containers keep running, and it finds its mounts again. It never removes what a \
snapshot needs, and names these layers to the agent, which keeps them in its store.";

/// Give containerd its snapshots
#[derive(Debug, Args)]
pub(crate) struct SnapshotterArgs {
    /// The socket for containerd, which is made; only root may open it
    #[arg(long, value_name = "PATH", default_value = ADDRESS, value_parser = values::absolute)]
    pub(crate) address: PathBuf,

    /// Directory of unpacked layers, of the files that containers write, and of the list of all snapshots
    ///
    /// On a file system that overlayfs writes to (ext4, XFS with ftype=1).
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
