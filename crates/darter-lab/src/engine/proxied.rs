//! A containerd with `darter snapshotter` for its snapshots: the distribution's, or the one whose programs are in the directory
//! `$DARTER_LAB_CONTAINERD`. Images are pulled by CRI, as a kubelet does: `ctr` of the distribution's release fetches before it asks a snapshotter anything.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use darter_core::Digest;

use super::PULL_TIMEOUT;
use super::config::{CRI, UNUSED_PLUGINS};
use super::containerd::set_up;
use super::route::{ENGINE_TIMEOUT, Route};
use crate::image::architecture;
use crate::netns::Host;
use crate::process::{Process, wait_until};
use crate::snapshotter::Snapshotter;

/// CRI's namespace.
const NAMESPACE: &str = "k8s.io";
/// The variable that names the directory of another release's programs, in place of the distribution's.
const OTHER: &str = "DARTER_LAB_CONTAINERD";
/// The first release whose configuration has the version 3, and CRI in parts.
const FIRST_IN_PARTS: (u32, u32) = (2, 0);
/// The first release with plugins of nodes.
const FIRST_NRI: (u32, u32) = (1, 7);
/// The first release whose `ctr` lets the daemon pull, unless it is told otherwise: until then it unpacks when everything was fetched.
const FIRST_TRANSFER: (u32, u32) = (2, 0);
/// The call by which a kubelet pulls.
const PULL: &str = "http://containerd/runtime.v1.ImageService/PullImage";

/// A running containerd.
#[derive(Debug)]
pub struct Proxied<'host> {
    host: &'host Host,
    root: PathBuf,
    socket: PathBuf,
    directory: PathBuf,
    programs: Programs,
    config: PathBuf,
    /// The process among whose mounts it runs.
    beside: u32,
    process: Process,
}

/// A release of containerd.
#[derive(Debug)]
struct Programs {
    /// The directory of its programs, if they are not the distribution's.
    directory: Option<PathBuf>,
    version: (u32, u32),
}

impl Programs {
    fn find() -> Result<Self> {
        let directory = env::var_os(OTHER).map(PathBuf::from);
        let mut programs = Self { directory, version: (0, 0) };
        let mut command = Command::new(programs.path("containerd"));
        let told = command.arg("--version").output().context("ask containerd for its version")?;
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        programs.version = version(&told).with_context(|| format!("containerd says {told:?} of its version"))?;
        Ok(programs)
    }

    fn path(&self, program: &str) -> PathBuf {
        self.directory.as_ref().map_or_else(|| program.into(), |directory| directory.join(program))
    }

    /// The configuration before it was set up for Darter.
    fn configuration(&self, directory: &Path, root: &Path, socket: &Path) -> String {
        let unused: Vec<_> = UNUSED_PLUGINS.iter().filter(|plugin| **plugin != CRI).collect();
        let in_parts = self.version >= FIRST_IN_PARTS;
        let (version, runtime) = if in_parts { (3, "io.containerd.cri.v1.runtime") } else { (2, CRI) };
        let nri =
            if self.version >= FIRST_NRI { "[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n" } else { "" };
        let unpacking = if self.version >= FIRST_TRANSFER {
            // For a snapshotter that stands here the daemon unpacks.
            format!(
                "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\nplatform = \"linux/{}\"\nsnapshotter = \"darter\"\n",
                architecture()
            )
        } else {
            String::new()
        };
        let own = if in_parts { format!("[plugins.{runtime:?}]\n") } else { String::new() };
        format!(
            "version = {version}\nroot = {root:?}\nstate = {:?}\ndisabled_plugins = {unused:?}\n[grpc]\naddress = {socket:?}\n{nri}{unpacking}\
             [plugins.{CRI:?}]\ndisable_tcp_service = true\nstream_server_port = \"0\"\n{own}restrict_oom_score_adj = true\n",
            directory.join("state")
        )
    }
}

/// The release that `containerd --version` tells.
fn version(told: &str) -> Option<(u32, u32)> {
    let mut numbers = told.split_whitespace().nth(2)?.trim_start_matches('v').split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

impl<'host> Proxied<'host> {
    /// Starts it on a host among the mounts of the process `beside`, which the snapshotter sees, too.
    pub fn start(host: &'host Host, route: &Route, snapshotter: &Snapshotter<'_>, beside: u32) -> Result<Self> {
        let mirror = route.mirror.context("it pulls through the mirror")?;
        let directory = host.make_directory("containerd")?;
        let (root, socket) = (directory.join("root"), directory.join("sock"));
        let tree = host.make_directory("containerd/tree")?;
        let etc = host.make_directory("containerd/tree/etc/containerd")?;
        let config = etc.join("config.toml");
        let programs = Programs::find()?;
        let text = programs.configuration(&directory, &root, &socket);
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let flags = [
            "--lazy".as_ref(),
            "--snapshotter-address".as_ref(),
            snapshotter.socket().as_os_str(),
            "--snapshotter-root".as_ref(),
            snapshotter.root().as_os_str(),
        ];
        let (major, minor) = programs.version;
        set_up(host, &tree, route, mirror, &format!("{major}.{minor}"), &flags)?;
        // Files for a host's /etc lie elsewhere here.
        let text = fs::read_to_string(&config).with_context(|| format!("read {}", config.display()))?;
        let certs = tree.join("etc/containerd/certs.d");
        let text = ['"', '\''].into_iter().fold(text, |text, quote| {
            text.replace(&format!("{quote}/etc/containerd/certs.d{quote}"), &format!("{certs:?}"))
        });
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let process = daemon(host, beside, &programs, &config)?;
        let engine = Self { host, root, socket, directory, programs, config, beside, process };
        engine.wait_until_ready()?;
        Ok(engine)
    }

    /// Ends the daemon as a crash would, and starts it again. Containers run on meanwhile.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = daemon(self.host, self.beside, &self.programs, &self.config)?;
        self.wait_until_ready()
    }

    fn wait_until_ready(&self) -> Result<()> {
        wait_until("containerd to answer", ENGINE_TIMEOUT, || {
            let mut version = self.ctr(&["version"]);
            Ok(self.socket.exists() && self.host.run("ctr-version", &mut version, Duration::from_secs(10)).is_ok())
        })
    }

    /// Major and minor version of the release.
    pub fn version(&self) -> (u32, u32) {
        self.programs.version
    }

    /// True if [`pull_into`](Self::pull_into) works with this release.
    pub fn pulls_into_namespaces(&self) -> bool {
        self.version() >= FIRST_TRANSFER
    }

    /// Pulls an image as a kubelet does.
    pub fn pull(&self, reference: &str) -> Result<()> {
        self.pull_as(reference, None)
    }

    /// Pulls an image with a login, `USER:PASSWORD`, as a pod's secret has it.
    pub fn pull_as(&self, reference: &str, login: Option<&str>) -> Result<()> {
        let (question, headers) = (self.directory.join("pull"), self.directory.join("pull.headers"));
        fs::write(&question, pull_request(reference, login))
            .with_context(|| format!("write {}", question.display()))?;
        let mut command = self.host.command("curl");
        command.args(["--silent", "--show-error", "--http2-prior-knowledge", "--output", "/dev/null"]);
        command.arg("--unix-socket").arg(&self.socket).arg("--dump-header").arg(&headers);
        command.args(["--header", "content-type: application/grpc", "--header", "te: trailers", "--data-binary"]);
        command.arg(format!("@{}", question.display())).arg(PULL);
        self.host.run("cri-pull", &mut command, PULL_TIMEOUT)?;
        let told = fs::read_to_string(&headers).with_context(|| format!("read {}", headers.display()))?;
        ensure!(told.lines().any(|line| line.trim() == "grpc-status: 0"), "the pull of {reference} failed: {told}");
        Ok(())
    }

    /// Pulls an image into another of containerd's namespaces, with a login or without one: by the transfer service, from a release on (`FIRST_TRANSFER`).
    pub fn pull_into(&self, namespace: &str, reference: &str, login: Option<&str>) -> Result<()> {
        let mut command = self.ctr_of(namespace, &["images", "pull", "--snapshotter", "darter"]);
        command.arg("--hosts-dir").arg(self.directory.join("tree/etc/containerd/certs.d"));
        if let Some(login) = login {
            command.args(["--user", login]);
        }
        self.host.run("ctr-pull", command.arg(reference), PULL_TIMEOUT).map(drop)
    }

    /// Runs a command in a container of an image that another of containerd's namespaces pulled.
    pub fn run_in(&self, namespace: &str, reference: &str, name: &str, arguments: &[&str]) -> Result<String> {
        let id = self.id_of(name);
        let run = ["run", "--snapshotter", "darter", "--rm", "--net-host", reference, &id];
        self.host.run("ctr-run", self.ctr_of(namespace, &run).args(arguments), ENGINE_TIMEOUT)
    }

    /// Starts a container again that there was before the host ended; gives its process's id.
    pub fn start_again(&self, name: &str) -> Result<u32> {
        let id = self.id_of(name);
        let file = self.directory.join(format!("{id}.pid"));
        let mut command = self.ctr(&["tasks", "start", "--detach", "--pid-file"]);
        self.host.run("ctr-task-start", command.arg(&file).arg(&id), ENGINE_TIMEOUT)?;
        read_process(&file)
    }

    /// Runs a command in a container of a pulled image; gives its standard output.
    pub fn run(&self, reference: &str, name: &str, arguments: &[&str]) -> Result<String> {
        let id = self.id_of(name);
        let mut command = self.ctr(&["run", "--snapshotter", "darter", "--rm", "--net-host", reference, &id]);
        self.host.run("ctr-run", command.args(arguments), ENGINE_TIMEOUT)
    }

    /// Starts a container of a pulled image; its standard output goes to a file of its host.
    pub fn begin(&self, reference: &str, name: &str, arguments: &[&str]) -> Result<Process> {
        let id = self.id_of(name);
        let mut command = self.ctr(&["run", "--snapshotter", "darter", "--rm", "--net-host", reference, &id]);
        self.host.spawn("ctr-run", command.args(arguments))
    }

    /// Starts a container of a pulled image that runs until it is stopped; gives its process's id.
    pub fn start_container(&self, reference: &str, name: &str, arguments: &[&str]) -> Result<u32> {
        let id = self.id_of(name);
        let file = self.directory.join(format!("{id}.pid"));
        let mut command = self.ctr(&["run", "--snapshotter", "darter", "--detach", "--net-host", "--pid-file"]);
        self.host.run("ctr-run", command.arg(&file).args([reference, &id]).args(arguments), ENGINE_TIMEOUT)?;
        read_process(&file)
    }

    /// Ends a container that was started, and removes it.
    pub fn remove_container(&self, name: &str) -> Result<()> {
        let id = self.id_of(name);
        self.host.run("ctr-task-rm", &mut self.ctr(&["tasks", "rm", "--force", &id]), ENGINE_TIMEOUT)?;
        self.host.run("ctr-rm", &mut self.ctr(&["containers", "rm", &id]), ENGINE_TIMEOUT).map(drop)
    }

    /// Removes all images, and waits until what nothing else uses is collected. CRI gives an image several names.
    pub fn remove_images(&self) -> Result<()> {
        let names = self.host.run("ctr-images", &mut self.ctr(&["images", "list", "--quiet"]), ENGINE_TIMEOUT)?;
        let names: Vec<_> = names.split_whitespace().collect();
        let mut remove = self.ctr(&["images", "rm", "--sync"]);
        self.host.run("ctr-rm", remove.args(names), ENGINE_TIMEOUT).map(drop)
    }

    /// Ends a container.
    pub fn stop(&self, name: &str) -> Result<()> {
        let mut kill = self.ctr(&["tasks", "kill", "--signal", "KILL", &self.id_of(name)]);
        self.host.run("ctr-kill", &mut kill, ENGINE_TIMEOUT).map(drop)
    }

    /// Waits until what nothing uses any more is collected.
    pub fn collect(&self) -> Result<()> {
        // The command waits for a garbage collection at its end.
        let mut prune = self.ctr(&["content", "prune", "references"]);
        self.host.run("ctr-prune", &mut prune, ENGINE_TIMEOUT).map(drop)
    }

    /// True if containerd has a blob.
    pub fn has(&self, digest: &Digest) -> bool {
        let blobs = self.root.join("io.containerd.content.v1.content/blobs");
        blobs.join(digest.to_string().replace(':', "/")).exists()
    }

    /// runc and the kernel's control groups know containers of all hosts by their ids, and those that an earlier run left behind.
    fn id_of(&self, name: &str) -> String {
        format!("{}-{name}", self.host.unique_name())
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        self.ctr_of(NAMESPACE, arguments)
    }

    fn ctr_of(&self, namespace: &str, arguments: &[&str]) -> Command {
        let mut command = self.host.command_beside(self.process.id(), self.programs.path("ctr"));
        command.arg("--address").arg(&self.socket).args(["--namespace", namespace]).args(arguments);
        command
    }
}

/// Starts the daemon.
fn daemon(host: &Host, beside: u32, programs: &Programs, config: &Path) -> Result<Process> {
    let mut command = host.command_beside(beside, programs.path("containerd"));
    if let Some(programs) = &programs.directory {
        // containerd looks for its shim among the system's programs.
        let path = env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", programs.display()));
    }
    host.spawn("containerd", command.arg("--config").arg(config))
}

fn read_process(file: &Path) -> Result<u32> {
    let process = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    process.trim().parse().with_context(|| format!("{process:?} is no process's id"))
}

/// The message of a call, framed: `PullImageRequest { image: ImageSpec { image: reference }, auth: AuthConfig { username, password } }`.
fn pull_request(reference: &str, login: Option<&str>) -> Vec<u8> {
    let field = |number: u8, content: &[u8]| {
        let mut field = vec![number << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            field.push(length as u8 | 0x80);
            length >>= 7;
        }
        field.push(length as u8);
        field.extend_from_slice(content);
        field
    };
    let mut message = field(1, &field(1, reference.as_bytes()));
    if let Some((user, password)) = login.and_then(|login| login.split_once(':')) {
        message.extend(field(2, &[field(1, user.as_bytes()), field(2, password.as_bytes())].concat()));
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(&message);
    framed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_by_what_they_say() {
        for (told, is) in [
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1", (1, 6)),
            ("containerd github.com/containerd/containerd 1.7.35+unknown ", (1, 7)),
            ("containerd github.com/containerd/containerd/v2 v2.1.9 abcdef", (2, 1)),
        ] {
            assert_eq!(version(told), Some(is));
        }
        assert_eq!(version("containerd"), None);
    }

    #[test]
    fn a_pull_is_asked_for_in_a_frame_of_grpc() {
        assert_eq!(pull_request("a/b", None), b"\0\0\0\0\x07\x0a\x05\x0a\x03a/b");
        let long = pull_request(&"x".repeat(200), None);
        assert_eq!(&long[..11], b"\0\0\0\0\xce\x0a\xcb\x01\x0a\xc8\x01");
        let login = pull_request("a/b", Some("c:d"));
        assert_eq!(&login[5..], b"\x0a\x05\x0a\x03a/b\x12\x06\x0a\x01c\x12\x01d");
    }
}
