//! Gathers facts: the only part of the doctor that looks at anything.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use darter_api::{Client, Status};
use darter_core::in_full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::cli::DoctorArgs;
use crate::setup;
use crate::setup::containerd::{Config, Release};
use crate::setup::registries::RegistryFiles;
use crate::setup::tree::Tree;

/// How long the daemon and the mirror have to answer: both are on this host.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that is judged.
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
    /// As it calls itself.
    pub(super) name: String,
    pub(super) release: Release,
    /// File systems that it knows now.
    pub(super) filesystems: Vec<String>,
    /// The modules that the kernel can load.
    pub(super) modules: Vec<&'static str>,
    /// True if EROFS can be mounted from files; `None` where the kernel's configuration is not to be had.
    pub(super) file_backed: Option<bool>,
    pub(super) fuse_device: bool,
    /// This user may open it.
    pub(super) fuse_open: bool,
    pub(super) fusermount: bool,
    pub(super) root: bool,
}

#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) socket: PathBuf,
    /// The daemon's status, or the reason why it gives none.
    pub(super) status: Result<Box<Status>, String>,
    /// The address where the mirror is looked for.
    pub(super) local: SocketAddr,
    /// Why the mirror's port does not answer.
    pub(super) mirror: Result<(), String>,
    /// How many files it may have open.
    pub(super) max_files: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Containerd {
    pub(super) installed: bool,
    pub(super) release: Option<Release>,
    /// The configuration and the registries' directories, or what is wrong with them.
    pub(super) configuration: Result<(Config, RegistryFiles), String>,
    pub(super) mirror: String,
    /// True if mkfs.erofs reads tars, as it does from 1.7 on; `None`: it is not there.
    pub(super) mkfs: Option<bool>,
    /// Of `layer_content_caches`: those that are not there.
    pub(super) missing: Vec<String>,
    /// The answer of Darter's snapshotter; `None`: none is configured on this host.
    pub(super) snapshotter: Option<SocketState>,
}

/// The outcome of connecting to a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SocketState {
    Yes,
    /// Why not.
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
    /// `daemon.json`.
    pub(super) text: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Podman {
    pub(super) installed: bool,
    /// registries.conf and the files of registries.conf.d, by path.
    pub(super) files: Vec<(PathBuf, String)>,
}

/// Gathers all facts.
pub(super) async fn all(args: &DoctorArgs) -> anyhow::Result<Facts> {
    let tree = Tree::new(args.root.clone());
    let daemon = daemon(args).await?;
    // The daemon knows better where its mirror is than a flag that nobody gave.
    let mirror = setup::mirror(args.local);
    let engine = args.containerd_version;
    let (containerd, docker, podman, kernel) = tokio::task::block_in_place(|| {
        (containerd(&tree, args, engine, &mirror), docker(&tree), podman(&tree), kernel())
    });
    Ok(Facts { kernel, daemon, mirror, containerd, docker, podman })
}

async fn daemon(args: &DoctorArgs) -> anyhow::Result<Daemon> {
    let client = Client::choose(args.place.clients()?).await;
    let status = match tokio::time::timeout(ANSWER_TIMEOUT, client.status()).await {
        Ok(Ok(status)) => Ok(Box::new(status)),
        Ok(Err(error)) => Err(in_full(&error).to_string()),
        Err(_) => Err(format!(
            "the daemon at {} has not answered for {} s",
            client.socket().display(),
            ANSWER_TIMEOUT.as_secs()
        )),
    };
    let mirror = match tokio::time::timeout(ANSWER_TIMEOUT, healthy(args.local)).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer in {} s", ANSWER_TIMEOUT.as_secs())),
    };
    let max_files = status.as_ref().ok().and_then(|status| max_files(status.pid));
    Ok(Daemon { socket: client.socket().to_owned(), status, local: args.local, mirror, max_files })
}

/// Asks what answers at an address whether it is well, as an agent does.
async fn healthy(local: SocketAddr) -> io::Result<()> {
    let address = setup::mirror(local);
    let host = address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).await?;
    stream.write_all(format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let first = answer.lines().next().unwrap_or_default();
    if first.split(' ').nth(1) == Some("200") {
        Ok(())
    } else {
        Err(io::Error::other(format!("another program answers there, or the agent is not well: {first:?}")))
    }
}

/// The soft limit of open files of a process.
fn max_files(pid: u32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

/// The kernel's release, and those of its features that Darter needs.
pub(super) fn kernel() -> Kernel {
    let name = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let modules = Path::new("/lib/modules").join(&name);
    let lists =
        ["modules.dep", "modules.builtin"].map(|list| fs::read_to_string(modules.join(list)).unwrap_or_default());
    let has = |module: &&str| lists.iter().any(|list| list.contains(&format!("/{module}.ko")));
    Kernel {
        release: setup::version(&name).unwrap_or_default(),
        filesystems: known.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect(),
        modules: ["erofs", "fuse", "overlay"].into_iter().filter(|module| has(module)).collect(),
        file_backed: file_backed(&name),
        fuse_device: Path::new("/dev/fuse").exists(),
        fuse_open: fs::File::options().read(true).write(true).open("/dev/fuse").is_ok(),
        fusermount: find("fusermount3").is_some(),
        root: rustix::process::geteuid().is_root(),
        name,
    }
}

/// True if the kernel was built to mount EROFS from files.
fn file_backed(name: &str) -> Option<bool> {
    const OPTION: &str = "CONFIG_EROFS_FS_BACKED_BY_FILE";
    let places = [format!("/boot/config-{name}"), format!("/lib/modules/{name}/config")];
    let text = places.iter().find_map(|place| fs::read_to_string(place).ok())?;
    Some(text.lines().any(|line| line == format!("{OPTION}=y")))
}

/// True if mkfs.erofs reads tars: containerd asks in the same way.
pub(super) fn mkfs() -> Option<bool> {
    let said = Command::new("mkfs.erofs").arg("--help").output().ok()?;
    let said = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    Some(said.contains("--tar="))
}

fn containerd(tree: &Tree, args: &DoctorArgs, engine: Option<Release>, mirror: &str) -> Containerd {
    let is_host = tree.is_host();
    let installed = engine.is_some() || (is_host && find("containerd").is_some());
    let release = engine.or_else(|| is_host.then(setup::installed).flatten());
    let configuration = Config::load(tree, &args.containerd_config, release).and_then(|config| {
        let roots = config.certs();
        Ok((config, RegistryFiles::read(tree, &roots)?))
    });
    let caches = configuration.as_ref().ok().map(|(config, _)| super::lazy::caches(config)).unwrap_or_default();
    let missing = caches.into_iter().filter(|path| !tree.has_directory(Path::new(path))).collect();
    let address = configuration.as_ref().ok().and_then(|(config, _)| super::proxy::address(config));
    let connect = |address| SocketState::from(UnixStream::connect(address).map(drop));
    let snapshotter = address.filter(|_| is_host).map(connect);
    let there = installed || matches!(tree.read(&args.containerd_config), Ok(Some(_)));
    Containerd {
        installed: there,
        release,
        configuration: configuration.map_err(|error| in_full(error.as_ref()).to_string()),
        mirror: mirror.to_owned(),
        mkfs: mkfs(),
        missing,
        snapshotter,
    }
}

fn docker(tree: &Tree) -> Docker {
    let text = tree.read(Path::new("/etc/docker/daemon.json")).ok().flatten();
    Docker { installed: text.is_some() || (tree.is_host() && find("dockerd").is_some()), text }
}

fn podman(tree: &Tree) -> Podman {
    let mut paths = vec![PathBuf::from("/etc/containers/registries.conf")];
    let beside = Path::new("/etc/containers/registries.conf.d");
    let names = tree.list(beside).unwrap_or_default();
    paths.extend(names.into_iter().filter(|(name, _)| name.ends_with(".conf")).map(|(name, _)| beside.join(name)));
    let read = |path: PathBuf| tree.read(&path).ok().flatten().map(|text| (path, text));
    let programs = ["podman", "crio", "skopeo"];
    let installed = if tree.is_host() {
        programs.into_iter().any(|program| find(program).is_some())
    } else {
        matches!(tree.read(&paths[0]), Ok(Some(_)))
    };
    Podman { installed, files: paths.into_iter().filter_map(read).collect() }
}

/// The path of a program, if it is installed.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Directories of administrators' programs, which users do not always have on their path.
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|directory| directory.join(program)).find(|path| path.is_file())
}
