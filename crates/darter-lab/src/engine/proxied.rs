//! The distribution's containerd with `darter snapshotter` for its snapshots. Images are pulled by CRI, as a kubelet does: its `ctr` fetches before it asks a
//! snapshotter anything.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use darter_core::Digest;

use super::PULL_TIMEOUT;
use super::containerd::{PACKAGED, UNUSED_PLUGINS, set_up};
use super::route::{ENGINE_TIMEOUT, Route};
use crate::netns::Host;
use crate::process::{Process, wait_until};
use crate::snapshotter::Snapshotter;

/// CRI's namespace.
const NAMESPACE: &str = "k8s.io";
const CRI: &str = "io.containerd.grpc.v1.cri";
/// The call by which a kubelet pulls.
const PULL: &str = "http://containerd/runtime.v1.ImageService/PullImage";

/// A running containerd.
#[derive(Debug)]
pub struct Proxied<'host> {
    host: &'host Host,
    root: PathBuf,
    socket: PathBuf,
    directory: PathBuf,
    process: Process,
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
        let unused: Vec<_> = UNUSED_PLUGINS.iter().filter(|plugin| **plugin != CRI).collect();
        let text = format!(
            "version = 2\nroot = {root:?}\nstate = {:?}\ndisabled_plugins = {unused:?}\n[grpc]\naddress = {socket:?}\n\
             [plugins.{CRI:?}]\ndisable_tcp_service = true\nstream_server_port = \"0\"\nrestrict_oom_score_adj = true\n",
            directory.join("state")
        );
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let flags = [
            "--lazy".as_ref(),
            "--snapshotter-address".as_ref(),
            snapshotter.socket().as_os_str(),
            "--snapshotter-root".as_ref(),
            snapshotter.root().as_os_str(),
        ];
        set_up(host, &tree, route, mirror, PACKAGED, &flags)?;
        // What is written for a host's /etc lies elsewhere here.
        let text = fs::read_to_string(&config).with_context(|| format!("read {}", config.display()))?;
        let certs = tree.join("etc/containerd/certs.d");
        let text = text.replace("\"/etc/containerd/certs.d\"", &format!("{certs:?}"));
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let mut command = host.command_beside(beside, "containerd");
        let process = host.spawn("containerd", command.arg("--config").arg(&config))?;
        let engine = Self { host, root, socket, directory, process };
        wait_until("containerd to answer", ENGINE_TIMEOUT, || {
            let mut version = engine.ctr(&["version"]);
            Ok(engine.socket.exists() && host.run("ctr-version", &mut version, Duration::from_secs(10)).is_ok())
        })?;
        Ok(engine)
    }

    /// Pulls an image as a kubelet does.
    pub fn pull(&self, reference: &str) -> Result<()> {
        let (question, headers) = (self.directory.join("pull"), self.directory.join("pull.headers"));
        fs::write(&question, pull_request(reference)).with_context(|| format!("write {}", question.display()))?;
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

    /// Runs a command in a container of a pulled image; gives its standard output.
    pub fn run(&self, reference: &str, id: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.ctr(&["run", "--snapshotter", "darter", "--rm", "--net-host", reference, id]);
        self.host.run("ctr-run", command.args(arguments), ENGINE_TIMEOUT)
    }

    /// Starts a container of a pulled image; its standard output goes to a file of its host.
    pub fn begin(&self, reference: &str, id: &str, arguments: &[&str]) -> Result<Process> {
        let mut command = self.ctr(&["run", "--snapshotter", "darter", "--rm", "--net-host", reference, id]);
        self.host.spawn("ctr-run", command.args(arguments))
    }

    /// Removes all images, and waits until what nothing else uses is collected. CRI gives an image several names.
    pub fn remove_images(&self) -> Result<()> {
        let names = self.host.run("ctr-images", &mut self.ctr(&["images", "list", "--quiet"]), ENGINE_TIMEOUT)?;
        let names: Vec<_> = names.split_whitespace().collect();
        let mut remove = self.ctr(&["images", "rm", "--sync"]);
        self.host.run("ctr-rm", remove.args(names), ENGINE_TIMEOUT).map(drop)
    }

    /// Ends a container.
    pub fn stop(&self, id: &str) -> Result<()> {
        let mut kill = self.ctr(&["tasks", "kill", "--signal", "KILL", id]);
        self.host.run("ctr-kill", &mut kill, ENGINE_TIMEOUT).map(drop)
    }

    /// Waits until what nothing uses any more is collected.
    pub fn collect(&self) -> Result<()> {
        // It waits for a collection at its end.
        let mut prune = self.ctr(&["content", "prune", "references"]);
        self.host.run("ctr-prune", &mut prune, ENGINE_TIMEOUT).map(drop)
    }

    /// True if containerd has a blob.
    pub fn has(&self, digest: &Digest) -> bool {
        let blobs = self.root.join("io.containerd.content.v1.content/blobs");
        blobs.join(digest.to_string().replace(':', "/")).exists()
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command_beside(self.process.id(), "ctr");
        command.arg("--address").arg(&self.socket).args(["--namespace", NAMESPACE]).args(arguments);
        command
    }
}

/// The message of a call, framed: `PullImageRequest { image: ImageSpec { image: reference } }`.
fn pull_request(reference: &str) -> Vec<u8> {
    let field = |content: &[u8]| {
        let mut field = vec![0x0a];
        let mut length = content.len();
        while length >= 0x80 {
            field.push(length as u8 | 0x80);
            length >>= 7;
        }
        field.push(length as u8);
        field.extend_from_slice(content);
        field
    };
    let message = field(&field(reference.as_bytes()));
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(&message);
    framed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_asked_for_in_a_frame_of_grpc() {
        assert_eq!(pull_request("a/b"), b"\0\0\0\0\x07\x0a\x05\x0a\x03a/b");
        let long = pull_request(&"x".repeat(200));
        assert_eq!(&long[..11], b"\0\0\0\0\xce\x0a\xcb\x01\x0a\xc8\x01");
    }
}
