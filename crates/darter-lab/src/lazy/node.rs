//! A node whose containerd mounts layers before they have come.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use darter_core::Digest;

use crate::cluster::Agent;
use crate::engine::{Containerd, PULL_TIMEOUT, Route};
use crate::image::Image;
use crate::netns::Host;
use crate::process::{Process, wait_until};
use crate::read::reader::forget_pages;

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

    /// Starts agent and containerd among the mounts that this process holds.
    pub fn start_beside(host: &'host Host, seed: &Host, registry: &str, anchor: Process) -> Result<Self> {
        Self::begin(host, seed, registry, anchor, &[])
    }

    /// Starts agent and containerd with these flags of the agent besides.
    pub fn start_with(host: &'host Host, seed: &Host, registry: &str, flags: &[&str]) -> Result<Self> {
        Self::begin(host, seed, registry, host.hold_mounts()?, flags)
    }

    fn begin(host: &'host Host, seed: &Host, registry: &str, anchor: Process, flags: &[&str]) -> Result<Self> {
        let (agent, layers) = agent_with(host, seed, registry, &anchor, flags)?;
        let engine = Containerd::start_lazy(host, &Route::mirrored(registry), &layers, anchor.id())?;
        Ok(Self { engine, agent, anchor, layers })
    }

    /// Pulls an image.
    pub fn pull(&self, reference: &str) -> Result<()> {
        self.engine.pull(reference)?.finish(PULL_TIMEOUT).map(drop)
    }

    /// The file of a layer in the directory of layers, as this process sees it.
    pub fn layer(&self, diff: &Digest) -> Result<PathBuf> {
        let digest = diff.to_string();
        let hex = digest.split_once(':').context("a digest names its algorithm")?.1;
        Ok(self.seen(&self.layers).join("sha256").join(&hex[..2]).join(format!("{hex}.erofs")))
    }

    /// Waits until all of an image's layers are whole on this host, which fetches the rest of those that are open; and lets the page cache forget what
    /// it has of them.
    pub fn complete(&self, image: &Image, patience: Duration) -> Result<()> {
        let layers = image.layers.iter().map(|layer| self.layer(&layer.diff)).collect::<Result<Vec<_>>>()?;
        let is_link = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|state| state.is_symlink());
        let mut open = Vec::new();
        for path in layers.iter().filter(|path| !is_link(path)) {
            open.push(File::open(path).with_context(|| format!("open {}", path.display()))?);
        }
        wait_until("all layers to be whole", patience, || Ok(layers.iter().all(is_link)))?;
        drop(open);
        for path in &layers {
            let target = fs::read_link(path).with_context(|| format!("read {}", path.display()))?;
            let file = File::open(self.seen(&target)).with_context(|| format!("open {}", target.display()))?;
            forget_pages(&file)?;
        }
        Ok(())
    }

    /// A path of this node, as this process sees it.
    pub fn seen(&self, path: &Path) -> PathBuf {
        seen(&self.anchor, path)
    }

    /// The process that keeps the directory of layers.
    pub fn keeper(&self) -> Result<Option<u32>> {
        keeper("lazy-dir", &self.layers)
    }
}

/// The process that keeps a directory, started with this command of the program.
pub fn keeper(command: &str, directory: &Path) -> Result<Option<u32>> {
    let wanted = directory.display().to_string();
    for entry in fs::read_dir("/proc").context("list processes")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // The process may end just now.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        if words.nth(1) == Some(command.as_bytes()) && words.next() == Some(wanted.as_bytes()) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// Starts an agent with a directory of layers among the mounts that a process holds; gives that directory.
pub fn agent<'host>(
    host: &'host Host,
    seed: &Host,
    registry: &str,
    anchor: &Process,
) -> Result<(Agent<'host>, PathBuf)> {
    agent_with(host, seed, registry, anchor, &[])
}

/// Starts the agent with these flags besides.
pub fn agent_with<'host>(
    host: &'host Host,
    seed: &Host,
    registry: &str,
    anchor: &Process,
    flags: &[&str],
) -> Result<(Agent<'host>, PathBuf)> {
    let layers = host.make_directory("layers")?;
    let directory = layers.display().to_string();
    let flags = [&["--lazy-dir", &directory], flags].concat();
    let agent = Agent::node_beside(host, &format!("http://{registry}"), seed, anchor.id(), &flags)?;
    let inside = seen(anchor, &layers).join("sha256");
    wait_until("the directory of layers", PULL_TIMEOUT, || Ok(fs::exists(&inside)?))?;
    Ok((agent, layers))
}

fn seen(anchor: &Process, path: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}", anchor.id(), path.display()))
}
