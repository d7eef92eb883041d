//! The facts that are judged, about this host, its kernel, the daemon and the engines.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use darter_api::Status;

use crate::setup::containerd::{Config, Release};
use crate::setup::registries::RegistryFiles;

/// All facts.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) kernel: Kernel,
    pub(super) daemon: Daemon,
    /// The mirror's address, `http://HOST:PORT`.
    pub(super) mirror: String,
    pub(super) containerd: Containerd,
    pub(super) docker: Docker,
    pub(super) podman: Podman,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    /// The kernel's release.
    pub(super) name: String,
    pub(super) release: Release,
    /// File systems that the kernel supports now.
    pub(super) filesystems: Vec<String>,
    /// The modules that the kernel can load.
    pub(super) modules: Vec<&'static str>,
    /// True if EROFS can be mounted from files; `None` if the kernel's configuration can't be read.
    pub(super) file_backed: Option<bool>,
    pub(super) fuse_device: bool,
    /// True if this user may open it.
    pub(super) fuse_open: bool,
    pub(super) fusermount: bool,
    pub(super) root: bool,
}

#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) socket: PathBuf,
    /// The daemon's status, or the reason why it gives none.
    pub(super) status: Result<Box<Status>, String>,
    /// The address where the mirror is expected.
    pub(super) local: SocketAddr,
    /// An error if the mirror's port does not answer.
    pub(super) mirror: Result<(), String>,
    /// How many files the daemon may have open.
    pub(super) max_files: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Containerd {
    pub(super) installed: bool,
    pub(super) release: Option<Release>,
    /// The configuration and the registries' directories, or why they can't be read.
    pub(super) configuration: Result<(Config, RegistryFiles), String>,
    pub(super) mirror: String,
    /// True if mkfs.erofs reads tars, as it does from 1.7 on; `None` if it is not installed.
    pub(super) mkfs: Option<bool>,
    /// The directories in `layer_content_caches` that do not exist.
    pub(super) missing: Vec<String>,
    /// Whether Darter's snapshotter answers; `None` if none is configured on this host.
    pub(super) snapshotter: Option<SocketState>,
}

/// The outcome of connecting to a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SocketState {
    Yes,
    /// The connection failed, for this reason.
    No(String),
    /// This user may not connect to it.
    Hidden,
}

impl From<io::Result<()>> for SocketState {
    fn from(connected: io::Result<()>) -> Self {
        match connected {
            Ok(()) => Self::Yes,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Self::Hidden,
            Err(error) => Self::No(error.to_string()),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Docker {
    pub(super) installed: bool,
    /// The text of `daemon.json`.
    pub(super) text: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Podman {
    pub(super) installed: bool,
    /// The texts of registries.conf and the files in registries.conf.d, by path.
    pub(super) files: Vec<(PathBuf, String)>,
}
