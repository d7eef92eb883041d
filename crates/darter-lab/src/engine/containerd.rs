//! containerd with `hosts.toml`, driven by `ctr`; containers run with runc.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use darter_core::Digest;

use super::{PATIENCE, Route};
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

/// A running containerd.
#[derive(Debug)]
pub struct Containerd<'host> {
    host: &'host Host,
    root: PathBuf,
    socket: PathBuf,
    hosts: PathBuf,
    login: Option<String>,
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
        let engine = Self { host, root, socket, hosts, login: route.login.clone(), _process: process };
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
        let mut command = self.host.command("ctr");
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
