//! podman with a mirror in `registries.conf`; containers run with runc.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::route::{ENGINE_TIMEOUT, Route, containers_command, log_in, write_registries_conf};
use crate::netns::Host;
use crate::process::Process;

/// podman on a host, with a storage of its own. It has no daemon.
#[derive(Debug)]
pub struct Podman<'host> {
    host: &'host Host,
    login: Option<PathBuf>,
}

impl<'host> Podman<'host> {
    /// Writes podman's configuration for a host, and logs in if the route says so.
    pub fn configure(host: &'host Host, route: &Route) -> Result<Self> {
        write_registries_conf(host, route)?;
        let config = host.make_directory("containers")?.join("containers.conf");
        // Locks in shared memory would be the machine's, not the host's; and a sandbox may not raise limits, as podman does
        // by default.
        fs::write(&config, "[engine]\nlock_type = \"file\"\n[containers]\ndefault_ulimits = []\n")
            .with_context(|| format!("write {}", config.display()))?;
        Ok(Self { host, login: log_in(host, route)? })
    }

    /// Starts pulling an image.
    pub fn pull(&self, reference: &str) -> Result<Process> {
        let mut command = self.podman()?;
        command.args(["pull", "--quiet"]);
        if let Some(login) = &self.login {
            command.arg("--authfile").arg(login);
        }
        self.host.spawn("podman-pull", command.arg(reference))
    }

    /// Podman's description of a pulled image.
    pub fn inspect(&self, reference: &str) -> Result<Value> {
        let mut command = self.podman()?;
        let text = self.host.run("podman-inspect", command.args(["image", "inspect", reference]), ENGINE_TIMEOUT)?;
        let images: Value = serde_json::from_str(&text).context("read what podman image inspect printed")?;
        images.get(0).cloned().context("podman image inspect printed no image")
    }

    /// Runs a command in a container of a pulled image; gives its standard output.
    pub fn run(&self, reference: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.podman()?;
        command.args(["run", "--rm", "--network", "host", "--ulimit", "host", reference]).args(arguments);
        self.host.run("podman-run", &mut command, ENGINE_TIMEOUT)
    }

    fn podman(&self) -> Result<Command> {
        let directory = self.host.make_directory("containers")?;
        let mut command = containers_command(self.host, "podman")?;
        command.env("CONTAINERS_CONF", directory.join("containers.conf"));
        command.env("CONTAINERS_REGISTRIES_CONF", directory.join("registries.conf"));
        // Below the host's own mount, since podman takes no run root of more than 50 characters.
        command.args(["--runroot", "/var/lib/containers/run", "--tmpdir", "/var/lib/containers/tmp"]);
        command.args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        command.args(["--runtime", "runc"]);
        Ok(command)
    }
}
