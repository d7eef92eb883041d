//! containerd with another lazy snapshotter for its snapshots, each as its own documentation has it: a proxy that is told of images by annotations.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::config::UNUSED_PLUGINS;
use super::containerd::{Containerd, NAMESPACE};
use super::peers::Peer;
use super::release;
use super::route::ENGINE_TIMEOUT;
use crate::netns::Host;
use crate::process::{Process, wait_until};
use crate::registry;

/// An engine that pulls an image and starts containers of it.
pub trait Starter {
    /// How it names the laboratory's registry.
    fn registry(&self) -> &str {
        registry::NAME
    }
    /// Starts pulling an image.
    fn pull(&self, reference: &str) -> Result<Process>;
    /// Starts a container of a pulled image.
    fn begin_run(&self, reference: &str, arguments: &[&str]) -> Result<Process>;
    /// Ends all containers that were started.
    fn end_runs(&self);
}

impl Starter for Containerd<'_> {
    fn pull(&self, reference: &str) -> Result<Process> {
        self.pull(reference)
    }

    fn begin_run(&self, reference: &str, arguments: &[&str]) -> Result<Process> {
        self.begin_run(reference, arguments)
    }

    fn end_runs(&self) {
        self.end_runs();
    }
}

/// The release of containerd with a peer's snapshotter. Fields are dropped in order: who mounts before who gives, and last what holds the mounts.
#[derive(Debug)]
pub struct Remote<'host> {
    host: &'host Host,
    peer: Peer,
    registry: String,
    programs: PathBuf,
    socket: PathBuf,
    hosts: PathBuf,
    started: Mutex<Vec<String>>,
    _process: Process,
    _snapshotter: Process,
    anchor: Process,
    _own: Option<OwnPlace>,
}

/// A directory in which SOCI's snapshotter keeps some of its files in spite of its flags; another directory is mounted there for it.
const SOCI_OWN: &str = "/var/lib/soci-snapshotter-grpc";

/// An empty directory that was made outside the laboratory's own; it goes again.
#[derive(Debug)]
struct OwnPlace(&'static str);

impl OwnPlace {
    /// `None`: it is there, and another's.
    fn make(at: &'static str) -> Result<Option<Self>> {
        match fs::create_dir(at) {
            Ok(()) => Ok(Some(Self(at))),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error).with_context(|| format!("create {at}")),
        }
    }
}

impl Drop for OwnPlace {
    fn drop(&mut self) {
        // A directory that is not empty is in use.
        let _ = fs::remove_dir(self.0);
    }
}

impl<'host> Remote<'host> {
    /// Starts both on a host. They go to the registry themselves, and call it by its address: one of them does so whatever mirrors it is told of.
    pub fn start(host: &'host Host, registry: &str, peer: Peer) -> Result<Self> {
        let own_place = if peer == Peer::Soci { OwnPlace::make(SOCI_OWN)? } else { None };
        let anchor = host.hold_mounts()?;
        let (snapshotter, sock, root) = snapshotter(host, registry, peer, &anchor)?;
        let programs = release::programs()?;
        let directory = host.make_directory("containerd")?;
        let socket = directory.join("sock");
        let hosts = host.make_directory("containerd/certs.d")?;
        let own = host.make_directory(&format!("containerd/certs.d/{registry}"))?.join("hosts.toml");
        let text = format!(
            "server = \"http://{registry}\"\n[host.\"http://{registry}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        );
        fs::write(&own, text).with_context(|| format!("write {}", own.display()))?;
        let (name, config) = (peer.name(), directory.join("config.toml"));
        let text = format!(
            "version = 4\nroot = {:?}\nstate = {:?}\ndisabled_plugins = {UNUSED_PLUGINS:?}\n\
             [plugins.'io.containerd.server.v1.grpc']\naddress = {socket:?}\n\
             [plugins.'io.containerd.server.v1.ttrpc']\naddress = {:?}\n\
             [plugins.'io.containerd.transfer.v1.local']\nconfig_path = {hosts:?}\n\
             [[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\nplatform = \"linux\"\nsnapshotter = {name:?}\ndiffer = \"walking\"\n\
             [proxy_plugins.{name}]\ntype = \"snapshot\"\naddress = {sock:?}\n\
             [proxy_plugins.{name}.exports]\nroot = {root:?}\nenable_remote_snapshot_annotations = \"true\"\n",
            directory.join("root"),
            directory.join("state"),
            directory.join("ttrpc"),
        );
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let mut command = host.command_beside(anchor.id(), programs.join("containerd"));
        // containerd looks for its shim among the system's programs.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", programs.display())).arg("--config").arg(&config);
        let process = host.spawn("containerd", &mut command)?;
        let (registry, started, _snapshotter) = (registry.to_owned(), Mutex::default(), snapshotter);
        let engine = Self {
            host,
            peer,
            registry,
            programs,
            socket,
            hosts,
            started,
            _process: process,
            _snapshotter,
            anchor,
            _own: own_place,
        };
        wait_until("containerd to answer", ENGINE_TIMEOUT, || {
            let mut version = engine.ctr(&["version"]);
            Ok(engine.socket.exists() && host.run("ctr-version", &mut version, Duration::from_secs(10)).is_ok())
        })?;
        Ok(engine)
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command_beside(self.anchor.id(), self.programs.join("ctr"));
        command.arg("--address").arg(&self.socket).args(["--namespace", NAMESPACE]).args(arguments);
        command
    }
}

impl Starter for Remote<'_> {
    fn registry(&self) -> &str {
        &self.registry
    }

    fn pull(&self, reference: &str) -> Result<Process> {
        let mut command = self.ctr(&["image", "pull", "--snapshotter", self.peer.name(), "--hosts-dir"]);
        self.host.spawn("ctr-pull", command.arg(&self.hosts).arg(reference))
    }

    fn begin_run(&self, reference: &str, arguments: &[&str]) -> Result<Process> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let id = format!("{}-{}", self.host.unique_name(), started.len());
        let mut command = self.ctr(&["run", "--snapshotter", self.peer.name(), "--rm", "--net-host", reference, &id]);
        started.push(id);
        self.host.spawn("ctr-run", command.args(arguments))
    }

    fn end_runs(&self) {
        let started = std::mem::take(&mut *self.started.lock().unwrap_or_else(PoisonError::into_inner));
        for id in started {
            let mut command = self.ctr(&["tasks", "rm", "--force", &id]);
            // A task that ran to its end is gone.
            let _ = self.host.run("ctr-task-rm", &mut command, ENGINE_TIMEOUT);
        }
    }
}

impl Drop for Remote<'_> {
    fn drop(&mut self) {
        self.end_runs();
    }
}

/// Starts a peer's process; gives its socket, and where it keeps what it has.
fn snapshotter(host: &Host, registry: &str, peer: Peer, anchor: &Process) -> Result<(Process, PathBuf, PathBuf)> {
    let root = host.make_directory(peer.name())?;
    let socket = root.join("sock");
    let program = peer.program(false)?;
    let mut command = match peer {
        Peer::Stargz => {
            let mut command = host.command_beside(anchor.id(), program);
            command.arg("serve").arg(&root).arg(&socket).args([registry, registry]);
            command
        }
        Peer::Soci => {
            let config = root.join("config.toml");
            let text = format!(
                "no_prometheus = true\n[[resolver.host.{registry:?}.mirrors]]\nhost = \"http://{registry}\"\ninsecure = true\n"
            );
            fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
            const OWN: &str = "mount --bind \"$0\" \"$1\"; shift; exec \"$@\"";
            let mut command = host.command_beside(anchor.id(), "sh");
            command.args(["-euc", OWN]).arg(host.make_directory("soci/own")?).arg(SOCI_OWN).arg(program);
            command.arg("--address").arg(&socket).arg("--config").arg(&config);
            command
        }
    };
    let process = host.spawn(peer.name(), &mut command)?;
    wait_until(&format!("{} to answer", peer.name()), ENGINE_TIMEOUT, || Ok(UnixStream::connect(&socket).is_ok()))
        .with_context(|| process.tail())?;
    Ok((process, socket, root))
}
