//! containerd with `hosts.toml`, driven by `ctr`; containers run with runc. The distribution's release, or one that fetches
//! layers by several ranges at a time.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use darter_core::Digest;

use super::release;
use super::route::{ENGINE_TIMEOUT, Route};
use crate::netns::Host;
use crate::place::darter_binary;
use crate::process::{Process, wait_until};

/// Plugins that need a kubelet's world, other file systems, or directories of the machine.
pub(super) const UNUSED_PLUGINS: [&str; 7] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
];
/// containerd's own kind of namespace, for all that the laboratory does.
pub const NAMESPACE: &str = "darter-lab";
/// The distribution's release.
pub(super) const PACKAGED: &str = "1.6";
/// Ranges of a layer at a time.
const PARALLEL: u32 = 8;

/// A running containerd.
#[derive(Debug)]
pub struct Containerd<'host> {
    host: &'host Host,
    root: PathBuf,
    socket: PathBuf,
    hosts: PathBuf,
    login: Option<String>,
    /// Where its programs are, if they are not the distribution's.
    programs: Option<PathBuf>,
    /// The process among whose mounts it runs, if that mounts its layers.
    beside: Option<u32>,
    process: Process,
}

/// Which containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// The distribution's. Its `ctr` fetches, hands the content to the daemon, and has it unpacked when all is there.
    Packaged,
    /// The later release that the laboratory builds. Its daemon fetches, and unpacks a layer as soon as it is there.
    Release {
        /// Bytes of each of the eight ranges by which the daemon fetches a layer at a time; `None`: it asks for layers whole.
        ranges: Option<u64>,
    },
}

impl Build {
    fn configuration(self, directory: &Path, root: &Path, socket: &Path, hosts: &Path) -> String {
        let state = directory.join("state");
        let Self::Release { ranges } = self else {
            return format!(
                "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = {UNUSED_PLUGINS:?}\n\
                 [grpc]\naddress = {socket:?}\n"
            );
        };
        let ranges = ranges.map_or_else(String::new, |step| {
            format!("max_concurrent_downloads = {PARALLEL}\nconcurrent_layer_fetch_buffer = {step}\n")
        });
        format!(
            "version = 4\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = {UNUSED_PLUGINS:?}\n\
             [plugins.'io.containerd.server.v1.grpc']\naddress = {socket:?}\n\
             [plugins.'io.containerd.server.v1.ttrpc']\naddress = {:?}\n\
             [plugins.'io.containerd.transfer.v1.local']\nconfig_path = {hosts:?}\n{ranges}",
            directory.join("ttrpc"),
        )
    }
}

impl<'host> Containerd<'host> {
    /// Starts the later release on a host, with the snapshotter that mounts layers out of the directory `layers`, among the mounts of
    /// the process `beside`, which sees it.
    pub fn start_lazy(host: &'host Host, route: &Route, layers: &Path, beside: u32) -> Result<Self> {
        Self::begin(host, route, Build::Release { ranges: None }, Some((layers, beside)))
    }

    /// Starts the distribution's containerd on a host, with directories and a socket of its own.
    pub fn start(host: &'host Host, route: &Route) -> Result<Self> {
        Self::start_build(host, route, Build::Packaged)
    }

    /// The same of this build.
    pub fn start_build(host: &'host Host, route: &Route, build: Build) -> Result<Self> {
        Self::begin(host, route, build, None)
    }

    fn begin(host: &'host Host, route: &Route, build: Build, lazy: Option<(&Path, u32)>) -> Result<Self> {
        let programs = match build {
            Build::Packaged => None,
            Build::Release { .. } => Some(release::programs()?),
        };
        let directory = host.make_directory("containerd")?;
        let (root, socket) = (directory.join("root"), directory.join("sock"));
        // Below this one lies what is in /etc of a host.
        let tree = host.make_directory("containerd/tree")?;
        let etc = host.make_directory("containerd/tree/etc/containerd")?;
        let hosts = host.make_directory("containerd/tree/etc/containerd/certs.d")?;
        let config = etc.join("config.toml");
        let text = build.configuration(&directory, &root, &socket, &hosts);
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        match route.mirror {
            Some(mirror) => {
                let version = match build {
                    Build::Packaged => PACKAGED,
                    Build::Release { .. } => "2.4",
                };
                let layers = lazy.map(|(layers, _)| ["--lazy".as_ref(), "--layers".as_ref(), layers.as_os_str()]);
                set_up(host, &tree, route, mirror, version, layers.as_ref().map_or(&[][..], |flags| flags))?;
            }
            None => {
                let own = host.make_directory(&format!("containerd/tree/etc/containerd/certs.d/{}", route.name))?;
                let own = own.join("hosts.toml");
                fs::write(&own, hosts_toml(route)).with_context(|| format!("write {}", own.display()))?;
            }
        }
        let program = programs.as_ref().map_or_else(|| "containerd".into(), |programs| programs.join("containerd"));
        let beside = lazy.map(|(_, process)| process);
        let mut command = command_on(host, beside, program);
        if let Some(programs) = &programs {
            // The daemon looks for its shim among the system's programs.
            let path = env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", programs.display()));
        }
        let process = host.spawn("containerd", command.arg("--config").arg(&config))?;
        let engine = Self { host, root, socket, hosts, login: route.login.clone(), programs, beside, process };
        engine.wait_until_ready()?;
        Ok(engine)
    }

    /// Its process's id.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where it keeps content: finished in `blobs`, what comes in `ingest`.
    pub fn content(&self) -> PathBuf {
        self.root.join("io.containerd.content.v1.content")
    }

    /// Where it unpacks layers: each in a directory with a number, below that in `fs`.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("io.containerd.snapshotter.v1.overlayfs/snapshots")
    }

    /// Starts pulling and unpacking an image. `ctr` itself speaks to the registry, so it runs on the host too.
    pub fn pull(&self, reference: &str) -> Result<Process> {
        let mut command = self.ctr(&["image", "pull"]);
        self.describe_registry(&mut command);
        self.describe_snapshotter(&mut command);
        self.host.spawn("ctr-pull", command.arg(reference))
    }

    /// Starts fetching an image's content without unpacking it: a pull at the speed of the network.
    pub fn fetch(&self, reference: &str) -> Result<Process> {
        let mut command = self.ctr(&["content", "fetch"]);
        self.describe_registry(&mut command);
        self.host.spawn("ctr-fetch", command.arg(reference))
    }

    /// Runs a command in a container of a pulled image; gives its standard output. The container shares the host's
    /// network, so that it ends with the host at the latest.
    pub fn run(&self, reference: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.ctr(&["run"]);
        self.describe_snapshotter(&mut command);
        command.args(["--rm", "--net-host", reference, self.host.unique_name()]);
        self.host.run("ctr-run", command.args(arguments), ENGINE_TIMEOUT)
    }

    /// Where containerd keeps a blob that it has.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.content().join("blobs").join(digest.to_string().replace(':', "/"))
    }

    fn wait_until_ready(&self) -> Result<()> {
        wait_until("containerd to answer", ENGINE_TIMEOUT, || {
            Ok(self.socket.exists()
                && self.host.run("ctr-version", &mut self.ctr(&["version"]), Duration::from_secs(10)).is_ok())
        })
    }

    fn describe_snapshotter(&self, command: &mut Command) {
        if self.beside.is_some() {
            command.args(["--snapshotter", "erofs"]);
        }
    }

    fn describe_registry(&self, command: &mut Command) {
        command.arg("--hosts-dir").arg(&self.hosts);
        if let Some(login) = &self.login {
            command.args(["--user", login]);
        }
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let ctr = self.programs.as_ref().map_or_else(|| "ctr".into(), |programs| programs.join("ctr"));
        let mut command = command_on(self.host, self.beside, ctr);
        command.arg("--address").arg(&self.socket).args(["--namespace", NAMESPACE]).args(arguments);
        command
    }
}

/// Lets the program itself write what an operator would: the mirror first, then the registry, which containerd also tries when the mirror is
/// gone.
pub(super) fn set_up(
    host: &Host,
    tree: &Path,
    route: &Route,
    mirror: &str,
    version: &str,
    flags: &[&OsStr],
) -> Result<()> {
    let mut command = host.command(darter_binary()?);
    // The machine's own settings are none of the laboratory's business.
    command.env("DARTER_CONFIG", "").args(["setup", "containerd", "--containerd-version", version, "--root"]).arg(tree);
    command.args(["--local", mirror, "--registry", route.name, "--upstream"]);
    command.arg(format!("{}=http://{}", route.name, route.registry));
    command.args(flags);
    host.run("darter-setup", &mut command, ENGINE_TIMEOUT).map(drop)
}

/// The registry itself.
fn hosts_toml(route: &Route) -> String {
    format!("server = \"http://{0}\"\n[host.\"http://{0}\"]\ncapabilities = [\"pull\", \"resolve\"]\n", route.registry)
}

fn command_on(host: &Host, beside: Option<u32>, program: PathBuf) -> Command {
    match beside {
        Some(process) => host.command_beside(process, program),
        None => host.command(program),
    }
}
