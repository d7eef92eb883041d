//! `darter snapshotter`, asked as containerd asks: by containerd's own suite, and by the distribution's containerd, which has no other way to start lazily.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use darter_core::{Clock as _, SystemClock};
use darter_lab::engine::{PULL_TIMEOUT, Proxied, Route, suite};
use darter_lab::process::wait_until;
use darter_lab::registry::NAME;
use darter_lab::{Agent, Process, Registry, Snapshotter};

use crate::world::{Came, World, sizes};

const RATE: &str = "200mbit";

/// Tests of the suite in containerd 2.4.2.
const SUITE: usize = 21;

pub(crate) fn containerds_own_suite_passes(world: &World) -> Result<()> {
    let [host] = world.hosts(["snapshotter"], RATE)?;
    let snapshotter = Snapshotter::alone(&host)?;
    let passed = suite::run(&host, snapshotter.socket(), snapshotter.process_id())?;
    eprintln!("  {} of {SUITE} pass", passed.len());
    ensure!(passed.len() == SUITE, "{passed:?} passed, and {SUITE} are there");
    Ok(())
}

/// Reads a file of its image again and again, and says so, until there is a file of this name.
const READER: &str =
    "while ! test -e /stop; do cat /etc/os-release /usr/bin/perl > /dev/null || exit 3; echo read; sleep 0.2; done";

pub(crate) fn the_distributions_containerd_starts_lazily(world: &World) -> Result<()> {
    let kernel = fs::read_to_string("/proc/filesystems").context("read which file systems there are")?;
    if !kernel.contains("\terofs") || !fs::exists("/dev/fuse")? {
        eprintln!("skipped: this kernel has no EROFS, or no FUSE");
        return Ok(());
    }
    let [origin, seed, host] = world.hosts(["registry", "seed", "node-1"], RATE)?;
    let registry = Registry::public(&origin, world.shelf.storage())?;
    let _seed = Agent::seed(&seed, &registry.url())?;
    let layers = host.make_directory("layers")?;
    let mut node = Agent::node_with(&host, &registry.url(), &seed, &["--lazy-dir", &layers.display().to_string()])?;
    let process = node.process_id().context("the agent runs")?;
    let seen = format!("/proc/{process}/root{}/sha256", layers.display());
    wait_until("the directory of layers", PULL_TIMEOUT, || Ok(fs::exists(&seen)?))?;
    let mut snapshotter = Snapshotter::beside(&node, &layers)?;
    let engine = Proxied::start(&host, &Route::mirrored(registry.authority()), &snapshotter, process)?;

    let image = &world.shelf.tools;
    let reference = image.reference(NAME);
    let clock = SystemClock::start();
    let start = clock.now();
    engine.pull(&reference)?;
    let pulled = clock.now();
    ensure!(snapshotter.mounted()?.is_empty(), "a pull mounts nothing");
    let told = engine.run(&reference, "first", &["sh", "-c", "ls / && cat /etc/os-release"])?;
    let came = Came::to(&node)?;
    eprintln!(
        "  pull {:.2} s, run {:.2} s, {} of {} bytes came",
        pulled.since(start).as_secs_f64(),
        clock.now().since(pulled).as_secs_f64(),
        came.all(),
        image.size()
    );
    ensure!(told.contains("PRETTY_NAME"), "the container said {told}");
    for (digest, _) in sizes(image) {
        ensure!(!engine.has(digest), "containerd fetched the layer {digest}");
    }
    ensure!(came.from_origin == 0, "the node read the registry itself: {came:?}");
    let mounted = snapshotter.mounted()?;
    ensure!(mounted.len() == image.layers.len(), "each layer is mounted once: {mounted:?}");

    // Killed and started again under a container.
    let mut reader = engine.begin(&reference, "reader", &["sh", "-c", READER])?;
    let reads = |reader: &Process| -> Result<usize> { Ok(reader.output()?.lines().count()) };
    wait_until("the container to read", PULL_TIMEOUT, || Ok(reads(&reader)? > 2))?;
    snapshotter.restart()?;
    let before = reads(&reader)?;
    ensure!(snapshotter.mounted()? == mounted, "its mounts were found again: {:?}", snapshotter.mounted()?);
    let told = engine.run(&reference, "second", &["cat", "/etc/os-release"])?;
    ensure!(told.contains("PRETTY_NAME"), "the second container said {told}");
    ensure!(snapshotter.mounted()? == mounted, "and are not doubled: {:?}", snapshotter.mounted()?);
    // So is the agent.
    node.kill();
    node.start()?;
    wait_until("the container to read on", PULL_TIMEOUT, || Ok(reads(&reader)? > before + 5 || !reader.is_running()))?;
    ensure!(reader.is_running(), "the container's reads failed: {}", reader.tail());
    let told = engine.run(&reference, "third", &["cat", "/etc/os-release"])?;
    ensure!(told.contains("PRETTY_NAME"), "the third container said {told}");
    Ok(())
}
