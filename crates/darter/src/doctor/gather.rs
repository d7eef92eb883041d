//! Gathers the facts: the only part of the doctor that does I/O.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use darter_api::Client;
use darter_core::in_full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::facts::{Containerd, Daemon, Docker, Facts, Kernel, Podman, SocketState};
use crate::cli::DoctorArgs;
use crate::cli::values::version;
use crate::setup::containerd::{self, Config, Release};
use crate::setup::hosts::mirror_address;
use crate::setup::registries::RegistryFiles;
use crate::setup::tree::Tree;

/// How long the daemon and the mirror have to answer. Both are on this host.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Gathers all facts.
pub(super) async fn all(args: &DoctorArgs) -> anyhow::Result<Facts> {
    let tree = Tree::new(args.root.clone());
    let daemon = daemon(args).await?;
    // Unless a flag says where the mirror is, the daemon's answer counts.
    let mirror = mirror_address(args.local);
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

/// Asks whether an agent answers at this address, and is healthy.
async fn healthy(local: SocketAddr) -> io::Result<()> {
    let address = mirror_address(local);
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
        Err(io::Error::other(format!("another program answers there, or the agent is not healthy: {first:?}")))
    }
}

/// The soft limit of open files of a process.
fn max_files(pid: u32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

/// The kernel's release, and its features that Darter needs.
pub(super) fn kernel() -> Kernel {
    let name = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let modules = Path::new("/lib/modules").join(&name);
    let lists =
        ["modules.dep", "modules.builtin"].map(|list| fs::read_to_string(modules.join(list)).unwrap_or_default());
    let has = |module: &&str| lists.iter().any(|list| list.contains(&format!("/{module}.ko")));
    Kernel {
        release: version(&name).unwrap_or_default(),
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

/// True if the kernel can mount EROFS from files.
fn file_backed(name: &str) -> Option<bool> {
    const OPTION: &str = "CONFIG_EROFS_FS_BACKED_BY_FILE";
    let places = [format!("/boot/config-{name}"), format!("/lib/modules/{name}/config")];
    let text = places.iter().find_map(|place| fs::read_to_string(place).ok())?;
    Some(text.lines().any(|line| line == format!("{OPTION}=y")))
}

/// True if mkfs.erofs reads tars. containerd checks this in the same way.
pub(super) fn mkfs() -> Option<bool> {
    let said = Command::new("mkfs.erofs").arg("--help").output().ok()?;
    let said = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    Some(said.contains("--tar="))
}

fn containerd(tree: &Tree, args: &DoctorArgs, engine: Option<Release>, mirror: &str) -> Containerd {
    let is_host = tree.is_host();
    let installed = engine.is_some() || (is_host && find("containerd").is_some());
    let release = engine.or_else(|| is_host.then(containerd::installed).flatten());
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
    // Directories for system administration, which are often not on a user's path.
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|directory| directory.join(program)).find(|path| path.is_file())
}
