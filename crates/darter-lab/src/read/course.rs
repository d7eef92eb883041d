//! One turn: every stage, several rounds each, on new hosts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use darter_mount::erofs;
use rustix::mount::{UnmountFlags, unmount};

use super::reader::TimedReader;
use super::row::Row;
use super::{Read, Stage};
use crate::cluster::Agent;
use crate::engine::{Build, Containerd, PULL_TIMEOUT, Route};
use crate::lazy::LazyNode;
use crate::lazy::content::{Content, LARGE, What};
use crate::netns::{Host, Network};
use crate::process::wait_until;
use crate::registry::{NAME, Registry};

/// The file in the image.
const FILE: &str = "data/large";
/// A container that only holds its mounts.
const SLEEP: [&str; 2] = ["/bin/sleep", "100000"];
/// The rest comes all the time while half is read, and is not here before that was.
const FILL: [&str; 4] = ["--lazy-fill", "always", "--lazy-fill-rate", "500kB/s"];
const WHOLE_TIMEOUT: Duration = Duration::from_secs(300);

impl Read {
    /// The image that is read.
    pub fn content(&self) -> Result<Content> {
        What::File.content()
    }

    /// Plays it once: a row for each stage.
    pub fn run(&self, content: &Content) -> Result<Vec<Row>> {
        let network = Network::new()?;
        let [origin, seed_host, plain, lazy] =
            [network.host("registry")?, network.host("seed")?, network.host("plain")?, network.host("lazy")?];
        let registry = Registry::public(&origin, &content.storage)?;
        let _seed = Agent::seed(&seed_host, &registry.url())?;
        let link = self.link()?;
        for host in [&origin, &seed_host, &plain, &lazy] {
            host.shape(link)?;
        }
        let mut rows = self.unpacked(content, &plain, registry.authority())?;
        // The first who pulls gets all of a layer while it waits for it.
        let warm = network.host("warm")?;
        let first = LazyNode::start(&warm, &seed_host, registry.authority())?;
        first.pull(&content.image.reference(NAME)).context("let the seed read all")?;
        drop(first);
        rows.extend(self.lazily(content, &lazy, &seed_host, registry.authority())?);
        let native = rows.first().map(|row| (row.speed, row.latency)).context("native is read first")?;
        for row in &mut rows {
            row.compare(native);
        }
        Ok(rows)
    }

    /// Below and through overlayfs.
    fn unpacked(&self, content: &Content, host: &Host, registry: &str) -> Result<Vec<Row>> {
        let engine = Containerd::start_build(host, &Route::direct(registry), Build::Release { ranges: None })?;
        let reference = content.image.reference(NAME);
        engine.pull(&reference)?.finish(PULL_TIMEOUT)?;
        let container = engine.start_container(&reference, "reader", &SLEEP)?;
        let file = unpacked_file(&engine.snapshots())?;
        let below = vec![opened(&file)?];
        let native = TimedReader { file, below: Vec::new(), length: LARGE };
        let overlay = TimedReader { file: in_container(container), below, length: LARGE };
        Ok(vec![self.rounds(Stage::Native, &native)?, self.rounds(Stage::Overlay, &overlay)?])
    }

    /// Through a mounted layer, at every stage of it.
    fn lazily(&self, content: &Content, host: &Host, seed: &Host, registry: &str) -> Result<Vec<Row>> {
        let reference = content.image.reference(NAME);
        let node = LazyNode::start_with(host, seed, registry, &FILL)?;
        node.pull(&reference)?;
        let container = node.engine.start_container(&reference, "reader", &SLEEP)?;
        let large = content.image.layers.last().context("the image has layers")?.diff;
        let layer = node.layer(&large)?;
        // Opened now: later there is a link of this name, and this mount keeps the file.
        let mounted = opened(&layer)?;
        let below = vec![mounted, opened(&store_file(node.agent.data())?)?];
        let mut reader = TimedReader { file: in_container(container), below, length: LARGE / 2 };
        reader.touch()?;
        let is_link = || fs::symlink_metadata(&layer).is_ok_and(|state| state.is_symlink());
        ensure!(!is_link(), "the layer is whole before half of it was read");
        let filling = self.rounds(Stage::Filling, &reader)?;
        ensure!(!is_link(), "the layer became whole while half of it was read");
        reader.length = LARGE;
        reader.touch()?;
        // Reads the rest of the layer, which belongs to no file: the metadata.
        std::io::copy(&mut File::open(&layer).context("open a layer")?, &mut std::io::sink())
            .context("read a layer")?;
        wait_until("the layer to be whole", WHOLE_TIMEOUT, || Ok(is_link()))?;
        let target = fs::read_link(&layer).context("read a link")?;
        reader.below.push(opened(&node.seen(&target))?);
        let whole = self.rounds(Stage::Whole, &reader)?;
        let container = node.engine.start_container(&reference, "later-reader", &SLEEP)?;
        reader.file = in_container(container);
        let renewed = self.rounds(Stage::Renewed, &reader)?;
        reader.forget()?;
        let mounted = OwnMount::new(&node.seen(&target), host.make_directory("own")?)?;
        reader.file = mounted.0.join(FILE);
        let own = self.rounds(Stage::Own, &reader)?;
        Ok(vec![filling, whole, renewed, own])
    }

    fn rounds(&self, stage: Stage, reader: &TimedReader) -> Result<Row> {
        let rounds = (0..self.rounds).map(|number| reader.round(number as u64)).collect::<Result<Vec<_>>>();
        Ok(Row::new(self, stage, &rounds.with_context(|| stage.name())?))
    }
}

/// A layer mounted here as Darter's snapshotter mounts it.
struct OwnMount(PathBuf);

impl OwnMount {
    fn new(file: &Path, dir: PathBuf) -> Result<Self> {
        erofs::mount(file, &dir, erofs::INERT)?;
        Ok(Self(dir))
    }
}

impl Drop for OwnMount {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn opened(path: &Path) -> Result<Arc<File>> {
    File::open(path).map(Arc::new).with_context(|| format!("open {}", path.display()))
}

/// The file in the directory to which its layer was unpacked.
fn unpacked_file(snapshots: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(snapshots).with_context(|| format!("list {}", snapshots.display()))?;
    let mut files = entries.flatten().map(|entry| entry.path().join("fs").join(FILE));
    files.find(|file| file.is_file()).context("no layer was unpacked that has the file")
}

/// The largest file of an agent's store.
fn store_file(data: &Path) -> Result<PathBuf> {
    let mut largest = None;
    let mut pending = vec![data.join("blobs")];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?.flatten() {
            let (path, state) = (entry.path(), entry.metadata().context("look at a stored file")?);
            if state.is_dir() {
                pending.push(path);
            } else if largest.as_ref().is_none_or(|(length, _)| state.len() > *length) {
                largest = Some((state.len(), path));
            }
        }
    }
    largest.map(|(_, path)| path).context("the store is empty")
}

fn in_container(process: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{process}/root/{FILE}"))
}
