//! A node whose containerd mounts layers before they have come.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cluster::Agent;
use crate::engine::{Containerd, PULL_TIMEOUT, Route};
use crate::netns::Host;
use crate::process::{Process, wait_until};

/// Fields are dropped in order: who mounts before who gives, and last what holds the mounts.
#[derive(Debug)]
pub struct LazyNode<'host> {
    /// Its containerd.
    pub engine: Containerd<'host>,
    /// Its agent.
    pub agent: Agent<'host>,
    /// The process that holds its mounts, and outlives everything else.
    pub anchor: Process,
    /// The directory of layers.
    pub layers: PathBuf,
}

impl<'host> LazyNode<'host> {
    /// Starts agent and containerd, which go to the registry at `ADDRESS:PORT`.
    pub fn start(host: &'host Host, seed: &Host, registry: &str) -> Result<Self> {
        Self::start_beside(host, seed, registry, host.hold_mounts()?)
    }

    /// The same among the mounts that this process holds.
    pub fn start_beside(host: &'host Host, seed: &Host, registry: &str, anchor: Process) -> Result<Self> {
        let (agent, layers) = agent(host, seed, registry, &anchor)?;
        let engine = Containerd::start_lazy(host, &Route::mirrored(registry), &layers, anchor.id())?;
        Ok(Self { engine, agent, anchor, layers })
    }

    /// Pulls an image.
    pub fn pull(&self, reference: &str) -> Result<()> {
        self.engine.pull(reference)?.finish(PULL_TIMEOUT).map(drop)
    }

    /// A path of this node, as this process sees it.
    pub fn seen(&self, path: &Path) -> PathBuf {
        seen(&self.anchor, path)
    }

    /// The process that keeps the directory of layers.
    pub fn keeper(&self) -> Result<Option<u32>> {
        let wanted = self.layers.display().to_string();
        for entry in fs::read_dir("/proc").context("list processes")?.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // It may end just now.
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            if words.nth(1) == Some(b"lazy-dir") && words.next() == Some(wanted.as_bytes()) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }
}

/// Starts an agent with a directory of layers among the mounts that a process holds; gives that directory.
pub fn agent<'host>(
    host: &'host Host,
    seed: &Host,
    registry: &str,
    anchor: &Process,
) -> Result<(Agent<'host>, PathBuf)> {
    let layers = host.make_directory("layers")?;
    let flags = ["--lazy-dir", &layers.display().to_string()];
    let agent = Agent::node_beside(host, &format!("http://{registry}"), seed, anchor.id(), &flags)?;
    let inside = seen(anchor, &layers).join("sha256");
    wait_until("the directory of layers", PULL_TIMEOUT, || Ok(fs::exists(&inside)?))?;
    Ok((agent, layers))
}

fn seen(anchor: &Process, path: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}", anchor.id(), path.display()))
}
