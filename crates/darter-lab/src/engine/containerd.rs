//! containerd with `hosts.toml`, driven by `ctr`; containers run with runc. The distribution's release, or one that fetches
//! layers by several ranges at a time.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use darter_core::Digest;

use super::{PATIENCE, Route, release};
use crate::cluster::LOCAL;
use crate::netns::Host;
use crate::process::{Process, wait_until};

/// Plugins that need a kubelet's world, other file systems, or directories of the machine.
const UNUSED_PLUGINS: [&str; 7] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
];
/// containerd's own kind of namespace, for all that the laboratory does.
const NAMESPACE: &str = "darter-lab";
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
    _process: Process,
}

impl<'host> Containerd<'host> {
    /// Starts containerd on a host, with directories and a socket of its own.
    pub fn start(host: &'host Host, route: &Route) -> Result<Self> {
        let directory = host.make_directory("containerd")?;
        let (root, socket) = (directory.join("root"), directory.join("sock"));
        let config = directory.join("config.toml");
        let text = format!(
            "version = 2\nroot = {root:?}\nstate = {:?}\ndisabled_plugins = {UNUSED_PLUGINS:?}\n[grpc]\naddress = {socket:?}\n",
            directory.join("state")
        );
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let hosts = host.make_directory("containerd/hosts")?;
        let own = host.make_directory(&format!("containerd/hosts/{}", route.name))?.join("hosts.toml");
        fs::write(&own, hosts_toml(route)).with_context(|| format!("write {}", own.display()))?;
        let process = host.spawn("containerd", host.command("containerd").arg("--config").arg(&config))?;
        let login = route.login.clone();
        let engine = Self { host, root, socket, hosts, login, programs: None, _process: process };
        engine.wait_until_ready()?;
        Ok(engine)
    }

    /// The same of the later release, whose daemon fetches a layer by eight ranges of `step` bytes at a time.
    pub fn start_with_ranges(host: &'host Host, route: &Route, step: u64) -> Result<Self> {
        let programs = release::programs()?;
        let directory = host.make_directory("containerd")?;
        let (root, socket) = (directory.join("root"), directory.join("sock"));
        let hosts = host.make_directory("containerd/hosts")?;
        let own = host.make_directory(&format!("containerd/hosts/{}", route.name))?.join("hosts.toml");
        fs::write(&own, hosts_toml(route)).with_context(|| format!("write {}", own.display()))?;
        let config = directory.join("config.toml");
        let text = format!(
            "version = 4\nroot = {root:?}\nstate = {:?}\ndisabled_plugins = {UNUSED_PLUGINS:?}\n\
             [plugins.'io.containerd.server.v1.grpc']\naddress = {socket:?}\n\
             [plugins.'io.containerd.server.v1.ttrpc']\naddress = {:?}\n\
             [plugins.'io.containerd.transfer.v1.local']\nconfig_path = {hosts:?}\n\
             max_concurrent_downloads = {PARALLEL}\nconcurrent_layer_fetch_buffer = {step}\n",
            directory.join("state"),
            directory.join("ttrpc"),
        );
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let mut command = host.command(programs.join("containerd"));
        // The daemon looks for its shim beside the other programs of the system.
        let path = env::var("PATH").unwrap_or_default();
        command.arg("--config").arg(&config).env("PATH", format!("{}:{path}", programs.display()));
        let process = host.spawn("containerd", &mut command)?;
        let (login, programs) = (route.login.clone(), Some(programs));
        let engine = Self { host, root, socket, hosts, login, programs, _process: process };
        engine.wait_until_ready()?;
        Ok(engine)
    }

    /// Starts pulling and unpacking an image. `ctr` itself speaks to the registry, so it runs on the host too.
    pub fn pull(&self, reference: &str) -> Result<Process> {
        let mut command = self.ctr(&["image", "pull"]);
        self.describe_registry(&mut command);
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
        let mut command = self.ctr(&["run", "--rm", "--net-host", reference, self.host.unique_name()]);
        self.host.run("ctr-run", command.args(arguments), PATIENCE)
    }

    /// Where containerd keeps a blob that it has.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("io.containerd.content.v1.content/blobs").join(digest.to_string().replace(':', "/"))
    }

    fn wait_until_ready(&self) -> Result<()> {
        wait_until("containerd to answer", PATIENCE, || {
            Ok(self.socket.exists()
                && self.host.run("ctr-version", &mut self.ctr(&["version"]), Duration::from_secs(10)).is_ok())
        })
    }

    fn describe_registry(&self, command: &mut Command) {
        command.arg("--hosts-dir").arg(&self.hosts);
        if let Some(login) = &self.login {
            command.args(["--user", login]);
        }
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let ctr = self.programs.as_ref().map_or_else(|| "ctr".into(), |programs| programs.join("ctr"));
        let mut command = self.host.command(ctr);
        command.arg("--address").arg(&self.socket).args(["--namespace", NAMESPACE]).args(arguments);
        command
    }
}

/// The mirror first, if any; then the registry itself, which containerd also tries when the mirror is gone.
fn hosts_toml(route: &Route) -> String {
    let first = if route.mirrored { LOCAL } else { &route.registry };
    format!(
        "server = \"http://{}\"\n[host.\"http://{first}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        route.registry
    )
}
