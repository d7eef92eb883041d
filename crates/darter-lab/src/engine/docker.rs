//! The Docker engine with a registry mirror. It asks mirrors for Docker Hub alone, by repository and without `?ns=`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::route::ENGINE_TIMEOUT;
use crate::cluster::LOCAL;
use crate::netns::Host;
use crate::process::{Process, wait_until};

/// A running dockerd.
#[derive(Debug)]
pub struct Docker<'host> {
    host: &'host Host,
    socket: PathBuf,
    configuration: PathBuf,
    _process: Process,
}

impl<'host> Docker<'host> {
    /// Starts dockerd on a host, with directories and a socket of its own, and the host's agent as its mirror. It makes no
    /// networks: containers share the host's.
    pub fn start(host: &'host Host) -> Result<Self> {
        let directory = host.make_directory("docker")?;
        let socket = directory.join("sock");
        let configuration = host.make_directory("docker/client")?;
        let config = directory.join("daemon.json");
        let text = json!({
            "registry-mirrors": [format!("http://{LOCAL}")],
            "bridge": "none",
            "iptables": false,
            "ip-masq": false,
            "hosts": [format!("unix://{}", socket.display())],
            "data-root": directory.join("root"),
            "exec-root": directory.join("exec"),
            "pidfile": directory.join("pid"),
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
        });
        fs::write(&config, text.to_string()).with_context(|| format!("write {}", config.display()))?;
        let process = host.spawn("dockerd", host.command("dockerd").arg("--config-file").arg(&config))?;
        let engine = Self { host, socket, configuration, _process: process };
        wait_until("dockerd to answer", ENGINE_TIMEOUT, || {
            let asked = || host.run("docker-info", engine.docker().arg("info"), Duration::from_secs(10));
            Ok(engine.socket.exists() && asked().is_ok())
        })?;
        Ok(engine)
    }

    /// Starts pulling an image of Docker Hub.
    pub fn pull(&self, reference: &str) -> Result<Process> {
        self.host.spawn("docker-pull", self.docker().args(["pull", reference]))
    }

    /// Docker's description of a pulled image.
    pub fn inspect(&self, reference: &str) -> Result<Value> {
        let text =
            self.host.run("docker-inspect", self.docker().args(["image", "inspect", reference]), ENGINE_TIMEOUT)?;
        let images: Value = serde_json::from_str(&text).context("read what docker image inspect printed")?;
        images.get(0).cloned().context("docker image inspect printed no image")
    }

    /// Runs a command in a container of a pulled image; gives its standard output.
    pub fn run(&self, reference: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.docker();
        command.args(["run", "--rm", "--network", "host", reference]).args(arguments);
        self.host.run("docker-run", &mut command, ENGINE_TIMEOUT)
    }

    fn docker(&self) -> Command {
        let mut command = self.host.command("docker");
        command.arg("--config").arg(&self.configuration);
        command.arg("--host").arg(format!("unix://{}", self.socket.display()));
        command
    }
}
