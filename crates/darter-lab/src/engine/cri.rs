//! containerd as a kubelet drives it: the later release with its CRI service, set up by `darter setup containerd --lazy`, asked by `crictl`.
//!
//! The configuration names `/etc/containerd`, as on a real host: the directory that was written is mounted there for the daemon. Pods have their
//! host's network, so that there is nothing to be set up by plugins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use darter_core::Digest;
use serde_json::{Value, json};

use super::PULL_TIMEOUT;
use super::containerd::{Build, Containerd, Lazy};
use super::release;
use super::route::{ENGINE_TIMEOUT, Route};
use crate::netns::Host;
use crate::process::wait_until;

/// The directory of a host's configuration of containerd.
const ETC: &str = "/etc/containerd";
/// containerd's own kind of namespace, for all that a kubelet asks.
const NAMESPACE: &str = "k8s.io";
/// The annotation by which a pull is told of a pod's runtime handler.
const HANDLER: &str = "io.containerd.cri.runtime-handler";
/// Of the namespace options: the host's.
const NODE: u32 = 2;

/// A running containerd with its CRI service.
#[derive(Debug)]
pub struct Cri<'host> {
    engine: Containerd<'host>,
    beside: u32,
    crictl: PathBuf,
}

impl<'host> Cri<'host> {
    /// Starts it among the mounts of the process `beside`, which sees the directory `layers`: for all pods, or for those of one runtime
    /// handler. Sandboxes are containers of the image `sandbox`.
    pub fn start(
        host: &'host Host,
        route: &Route,
        (layers, beside): (&Path, u32),
        handler: Option<&str>,
        sandbox: &str,
    ) -> Result<Self> {
        let written = host.make_directory("containerd/tree/etc/containerd")?;
        let mut bind = host.command_beside(beside, "mount");
        host.run("mount", bind.arg("--bind").arg(written).arg(ETC), ENGINE_TIMEOUT)
            .with_context(|| format!("show the configuration at {ETC}, a directory of containerd's package"))?;
        let lazy = Lazy { layers, beside, sandbox: Some(sandbox), handler };
        let engine = Containerd::begin(host, route, Build::Release { ranges: None }, Some(lazy))?;
        let cri = Self { engine, beside, crictl: release::crictl()? };
        wait_until("CRI's services to answer", ENGINE_TIMEOUT, || {
            Ok(cri.ask("crictl-info", &["info"]).is_ok() && cri.ask("crictl-images", &["images"]).is_ok())
        })?;
        Ok(cri)
    }

    /// Pulls an image as a kubelet does for a pod of this runtime handler.
    pub fn pull(&self, reference: &str, handler: Option<&str>) -> Result<()> {
        let pod = self.write("pull", &self.pod("pull", handler)?)?;
        let mut command = self.crictl(&["pull", "--pod-config", &pod]);
        self.engine.host().run("crictl-pull", command.arg(reference), PULL_TIMEOUT).map(drop)
    }

    /// Runs a command in a container of a pulled image, in a pod of its own with this name; gives what it said.
    pub fn run(&self, reference: &str, name: &str, handler: Option<&str>, command: &[&str]) -> Result<String> {
        let pod = self.write(&format!("{name}-pod"), &self.pod(name, handler)?)?;
        let container = json!({
            "metadata": { "name": name },
            "image": { "image": reference },
            "command": command,
            "log_path": "log",
            "linux": {},
        });
        let container = self.write(&format!("{name}-container"), &container)?;
        let mut arguments = vec!["run", "--no-pull"];
        arguments.extend(handler.iter().flat_map(|handler| ["--runtime", handler]));
        arguments.extend([container.as_str(), pod.as_str()]);
        let id = self.ask("crictl-run", &arguments)?;
        let state = || -> Result<Value> {
            let said = self.ask("crictl-inspect", &["inspect", "--output", "json", id.trim()])?;
            serde_json::from_str(&said).with_context(|| format!("crictl inspect said {said}"))
        };
        wait_until(&format!("the pod {name} to end"), ENGINE_TIMEOUT, || {
            Ok(state()?["status"]["state"] == "CONTAINER_EXITED")
        })?;
        let log = self.logs(name)?.join("log");
        let text = fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
        let said: Vec<&str> = text.lines().filter_map(|line| line.split_once(" F ").map(|(_, said)| said)).collect();
        let code = &state()?["status"]["exitCode"];
        ensure!(code == 0, "the container of the pod {name} ended with {code}: {}", said.join("\n"));
        Ok(said.join("\n"))
    }

    /// True if a snapshotter has a snapshot of this layer alone, the lowest one of an image.
    pub fn has_snapshot(&self, snapshotter: &str, diff: &Digest) -> Result<bool> {
        let list = self.engine.ctr_in(NAMESPACE, &["snapshots", "--snapshotter", snapshotter, "list"])?;
        Ok(list.lines().any(|line| line.starts_with(&diff.to_string())))
    }

    /// The path of a blob that containerd has.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.engine.blob(digest)
    }

    fn pod(&self, name: &str, handler: Option<&str>) -> Result<Value> {
        let mut annotations = json!({});
        if let Some(handler) = handler {
            annotations[HANDLER] = handler.into();
        }
        Ok(json!({
            "metadata": { "name": name, "uid": self.engine.host().unique_name(), "namespace": "default", "attempt": 0 },
            "annotations": annotations,
            "log_directory": self.logs(name)?,
            "linux": { "security_context": { "namespace_options": { "network": NODE } } },
        }))
    }

    fn logs(&self, name: &str) -> Result<PathBuf> {
        self.engine.host().make_directory(&format!("pods/{name}"))
    }

    fn write(&self, name: &str, content: &Value) -> Result<String> {
        let path = self.engine.host().make_directory("pods")?.join(format!("{name}.json"));
        fs::write(&path, content.to_string()).with_context(|| format!("write {}", path.display()))?;
        Ok(path.display().to_string())
    }

    fn ask(&self, name: &str, arguments: &[&str]) -> Result<String> {
        self.engine.host().run(name, &mut self.crictl(arguments), ENGINE_TIMEOUT)
    }

    fn crictl(&self, arguments: &[&str]) -> Command {
        let mut command = self.engine.host().command_beside(self.beside, &self.crictl);
        let endpoint = format!("unix://{}", self.engine.socket().display());
        // The machine's own settings are none of the laboratory's business.
        command.args(["--config", "/dev/null", "--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint]);
        command.args(["--timeout", "60s"]).args(arguments);
        command
    }
}
