//! containerd with `hosts.toml`, driven by `ctr`; containers run with runc. The distribution's release, or one that fetches
//! layers by several ranges at a time.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use darter_core::Digest;

use super::config::{self, UNUSED_PLUGINS};
use super::route::{ENGINE_TIMEOUT, Route};
use super::{PULL_TIMEOUT, release};
use crate::netns::Host;
use crate::place::darter_binary;
use crate::process::{Process, wait_until};

/// containerd's own kind of namespace, for all that the laboratory does.
pub const NAMESPACE: &str = "darter-lab";
/// The distribution's release.
const PACKAGED: &str = "1.6";
/// The snapshotter that unpacks layers.
const OVERLAYFS: &str = "overlayfs";
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
    /// The directory of its programs, if they are not the distribution's.
    programs: Option<PathBuf>,
    /// The process among whose mounts it runs, if that mounts its layers.
    beside: Option<u32>,
    config: PathBuf,
    /// Containers that were run to their ends.
    runs: AtomicU32,
    /// Containers that were started, by their ids.
    started: Mutex<Vec<String>>,
    process: Process,
}

/// How a containerd mounts layers before they have come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lazy<'a> {
    /// The directory of layers.
    pub(super) layers: &'a Path,
    /// The process among whose mounts it runs.
    pub(super) beside: u32,
    /// The image of pods' sandboxes, where a kubelet may ask.
    pub(super) sandbox: Option<&'a str>,
    /// The runtime handler that mounts layers so, if not all do.
    pub(super) handler: Option<&'a str>,
}

impl<'a> Lazy<'a> {
    /// The flags of `darter setup containerd`.
    fn flags(self) -> Vec<&'a OsStr> {
        let mut flags = vec!["--lazy".as_ref(), "--layers".as_ref(), self.layers.as_os_str()];
        flags.extend(self.handler.iter().flat_map(|handler| ["--runtime-handler".as_ref(), OsStr::new(*handler)]));
        flags
    }
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
        let build = Build::Release { ranges: None };
        Self::begin(host, route, build, Some(Lazy { layers, beside, sandbox: None, handler: None }))
    }

    /// Starts the distribution's containerd on a host, with directories and a socket of its own.
    pub fn start(host: &'host Host, route: &Route) -> Result<Self> {
        Self::start_build(host, route, Build::Packaged)
    }

    /// Starts a containerd of this build on a host, with directories and a socket of its own.
    pub fn start_build(host: &'host Host, route: &Route, build: Build) -> Result<Self> {
        Self::begin(host, route, build, None)
    }

    pub(super) fn begin(host: &'host Host, route: &Route, build: Build, lazy: Option<Lazy<'_>>) -> Result<Self> {
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
        let text = match lazy.and_then(|lazy| lazy.sandbox) {
            Some(sandbox) => config::with_cri(&directory, &root, &socket, sandbox),
            None => build.configuration(&directory, &root, &socket, &hosts),
        };
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        match route.mirror {
            Some(mirror) => {
                let version = match build {
                    Build::Packaged => PACKAGED,
                    Build::Release { .. } => "2.4",
                };
                let flags = lazy.map(Lazy::flags).unwrap_or_default();
                set_up(host, &tree, route, mirror, version, &flags)?;
            }
            None => {
                let own = host.make_directory(&format!("containerd/tree/etc/containerd/certs.d/{}", route.name))?;
                let own = own.join("hosts.toml");
                fs::write(&own, hosts_toml(route)).with_context(|| format!("write {}", own.display()))?;
            }
        }
        let beside = lazy.map(|lazy| lazy.beside);
        let process = daemon(host, beside, programs.as_deref(), &config)?;
        let login = route.login.clone();
        let (runs, started) = (AtomicU32::new(0), Mutex::default());
        let engine = Self { host, root, socket, hosts, login, programs, beside, config, runs, started, process };
        engine.wait_until_ready()?;
        Ok(engine)
    }

    /// Ends the daemon as a crash would, and starts it again. Containers run on meanwhile.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = daemon(self.host, self.beside, self.programs.as_deref(), &self.config)?;
        self.wait_until_ready()
    }

    /// The id of containerd's process.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// The host that containerd runs on.
    pub(super) fn host(&self) -> &'host Host {
        self.host
    }

    /// containerd's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The directory of its content: finished in `blobs`, under way in `ingest`.
    pub fn content(&self) -> PathBuf {
        self.root.join("io.containerd.content.v1.content")
    }

    /// The directory in which it unpacks layers: each in a directory with a number, below that in `fs`.
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

    /// Pulls an image for overlayfs, however others are pulled, and waits for it.
    pub fn pull_unpacked(&self, reference: &str) -> Result<()> {
        let mut command = self.ctr(&["image", "pull", "--snapshotter", OVERLAYFS]);
        self.describe_registry(&mut command);
        self.host.run("ctr-pull", command.arg(reference), PULL_TIMEOUT).map(drop)
    }

    /// Mounts the root of a pulled image at a directory, read-only: as it was pulled, or as it was unpacked for overlayfs. It ends with the mounts
    /// among which containerd runs.
    pub fn mount_image(&self, reference: &str, is_unpacked: bool, at: &Path) -> Result<()> {
        let mut command = self.ctr(&["image", "mount"]);
        if is_unpacked {
            command.args(["--snapshotter", OVERLAYFS]);
        } else {
            self.describe_snapshotter(&mut command);
        }
        self.host.run("ctr-mount", command.arg(reference).arg(at), ENGINE_TIMEOUT).map(drop)
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
        self.begin_run(reference, arguments)?.finish(ENGINE_TIMEOUT).with_context(|| format!("on {}", self.host.name()))
    }

    /// Begins to run a command in a container of a pulled image, and does not wait for its end.
    pub fn begin_run(&self, reference: &str, arguments: &[&str]) -> Result<Process> {
        let mut command = self.ctr(&["run"]);
        self.describe_snapshotter(&mut command);
        let id = self.id_of(&self.runs.fetch_add(1, Ordering::Relaxed).to_string());
        command.args(["--rm", "--net-host", reference, &id]).args(arguments);
        self.started.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        self.host.spawn("ctr-run", &mut command)
    }

    /// Ends all containers that were started, however they were.
    pub fn end_runs(&self) {
        let started = std::mem::take(&mut *self.started.lock().unwrap_or_else(PoisonError::into_inner));
        for id in started {
            // A task that ran to its end is gone; the process of one that can't be removed ends with the host at the latest.
            let mut command = self.ctr(&["tasks", "rm", "--force", &id]);
            let _ = self.host.run("ctr-task-rm", &mut command, ENGINE_TIMEOUT);
        }
    }

    /// Starts a container of a pulled image that runs as long as this value is there; gives its process's id.
    pub fn start_container(&self, reference: &str, name: &str, arguments: &[&str]) -> Result<u32> {
        let file = self.host.directory().join(format!("{name}.pid"));
        let id = self.id_of(name);
        let mut command = self.ctr(&["run"]);
        self.describe_snapshotter(&mut command);
        command.args(["--detach", "--net-host", "--pid-file"]).arg(&file).args([reference, &id]).args(arguments);
        self.started.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        self.host.run("ctr-run", &mut command, ENGINE_TIMEOUT)?;
        let process = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        process.trim().parse().with_context(|| format!("{process:?} is no process's id"))
    }

    /// True if a container's process runs, as containerd tells.
    pub fn runs_container(&self, name: &str) -> Result<bool> {
        let id = self.id_of(name);
        let tasks = self.host.run("ctr-tasks", &mut self.ctr(&["tasks", "list"]), ENGINE_TIMEOUT)?;
        let mut lines = tasks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        Ok(lines.any(|fields| matches!(fields[..], [its, _, "RUNNING"] if *its == id)))
    }

    /// Removes an image, and waits until what nothing else uses is collected.
    pub fn remove_image(&self, reference: &str) -> Result<()> {
        self.host.run("ctr-rm", self.ctr(&["images", "rm", "--sync"]).arg(reference), ENGINE_TIMEOUT).map(drop)
    }

    /// The path of a blob that containerd has.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.content().join("blobs").join(digest.to_string().replace(':', "/"))
    }

    /// runc and the kernel's control groups know containers of all hosts by their ids.
    fn id_of(&self, name: &str) -> String {
        format!("{}-{name}", self.host.unique_name())
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
        self.ctr_of(NAMESPACE, arguments)
    }

    fn ctr_of(&self, namespace: &str, arguments: &[&str]) -> Command {
        let ctr = self.programs.as_ref().map_or_else(|| "ctr".into(), |programs| programs.join("ctr"));
        let mut command = command_on(self.host, self.beside, ctr);
        command.arg("--address").arg(&self.socket).args(["--namespace", namespace]).args(arguments);
        command
    }

    /// Runs `ctr` on one of containerd's namespaces, and gives its output.
    pub(super) fn ctr_in(&self, namespace: &str, arguments: &[&str]) -> Result<String> {
        self.host.run("ctr", &mut self.ctr_of(namespace, arguments), ENGINE_TIMEOUT)
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        self.end_runs();
    }
}

/// Starts the daemon.
fn daemon(host: &Host, beside: Option<u32>, programs: Option<&Path>, config: &Path) -> Result<Process> {
    let program = programs.map_or_else(|| "containerd".into(), |programs| programs.join("containerd"));
    let mut command = command_on(host, beside, program);
    if let Some(programs) = programs {
        // containerd looks for its shim among the system's programs.
        let path = env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", programs.display()));
    }
    host.spawn("containerd", command.arg("--config").arg(config))
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
