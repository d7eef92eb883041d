//! Layers by way of loop devices, as kernels before 6.12 mount them: none is left over, however its mount ends.
//!
//! A newer kernel wants a device, too, for a file of a file system that is stacked on others. So the directory of layers is shown through an overlay here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darter_lab::engine::{Containerd, PULL_TIMEOUT, Proxied, Route};
use darter_lab::netns::loop_devices;
use darter_lab::process::wait_until;
use darter_lab::{Agent, Host, Process, Registry, Snapshotter, lazy};

use super::reading::read_everything;
use super::stand::{Known, SLEEP, data_of, first_pull};
use crate::lazy::can_mount;
use crate::world::World;

const RATE: &str = "200mbit";
/// The name of a layer that is whole leads out of the directory, to a file that the kernel mounts as it is.
const NEVER_WHOLE: [&str; 2] = ["--lazy-fill", "never"];
/// How long anything may take that has nothing in its way.
const TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) fn loop_devices_go_with_their_layers(world: &World) -> Result<()> {
    if !can_mount()? {
        return Ok(());
    }
    if !Path::new("/dev/loop-control").exists() {
        eprintln!("skipped: this machine has no loop devices");
        return Ok(());
    }
    let known = Known::make()?;
    let [origin, seed_host, first, one, two] = world.hosts(["registry", "seed", "node-first", "one", "two"], RATE)?;
    let registry = Registry::public(&origin, &known.storage)?;
    let seed = Agent::seed(&seed_host, &registry.url())?;
    first_pull(&first, seed.host(), registry.authority(), &known.reference())?;
    let route = Route::mirrored(registry.authority());
    by_the_snapshotter(&known, &seed, &route, &one)?;
    by_containerd(&known, &seed, &route, &two)
}

/// The snapshotter of containerd before 2.4.
fn by_the_snapshotter(known: &Known, seed: &Agent<'_>, route: &Route, host: &Host) -> Result<()> {
    let anchor = host.hold_mounts()?;
    let (mut agent, layers) = lazy::node::agent_with(host, seed.host(), &route.registry, &anchor, &NEVER_WHOLE)?;
    let shown = overlaid(host, &anchor, &layers)?;
    let mut snapshotter = Snapshotter::beside(&agent, &shown)?;
    let engine = Proxied::start(host, route, &snapshotter, anchor.id())?;
    let reference = known.reference();
    engine.pull(&reference)?;
    let container = engine.start_container(&reference, "reader", &SLEEP)?;
    let mounted = ensure_devices(&shown, known.image.layers.len())?;
    snapshotter.restart()?;
    agent.kill();
    agent.start()?;
    read_everything(&known.truth, &data_of(container)?, 1, TIMEOUT)?;
    ensure!(ensure_devices(&shown, mounted)? == mounted, "a restart took loop devices");
    engine.remove_images()?;
    ensure_devices(&shown, mounted).context("under a container's feet")?;
    engine.remove_container("reader")?;
    engine.collect()?;
    wait_until_gone("the loop devices of layers that no snapshot names", &shown)
}

/// The erofs snapshotter of 2.4, which makes its own.
fn by_containerd(known: &Known, seed: &Agent<'_>, route: &Route, host: &Host) -> Result<()> {
    let anchor = host.hold_mounts()?;
    let (agent, layers) = lazy::node::agent_with(host, seed.host(), &route.registry, &anchor, &NEVER_WHOLE)?;
    let shown = overlaid(host, &anchor, &layers)?;
    let engine = Containerd::start_lazy(host, route, &shown, anchor.id())?;
    let reference = known.reference();
    engine.pull(&reference)?.finish(PULL_TIMEOUT)?;
    let container = engine.start_container(&reference, "reader", &SLEEP)?;
    ensure_devices(&shown, known.image.layers.len())?;
    read_everything(&known.truth, &data_of(container)?, 2, TIMEOUT)?;
    // Everything ends at once, as in a crash of the host: nobody unmounts anything.
    engine.end_runs();
    drop((engine, agent, anchor));
    wait_until_gone("the loop devices of a host that crashed", &shown)
}

/// How many loop devices there are: an error if not one for each layer at least.
fn ensure_devices(shown: &Path, layers: usize) -> Result<usize> {
    let files = loop_devices(shown)?;
    ensure!(files.len() >= layers, "{files:?} are behind loop devices, of {layers} layers");
    Ok(files.len())
}

fn wait_until_gone(what: &str, shown: &Path) -> Result<()> {
    wait_until(&format!("{what} to go"), TIMEOUT, || Ok(loop_devices(shown)?.is_empty()))
}

/// Shows a directory through an overlay, whose files the kernel mounts from devices alone.
fn overlaid(host: &Host, anchor: &Process, layers: &Path) -> Result<PathBuf> {
    let (nothing, shown) = (host.make_directory("nothing")?, host.make_directory("shown")?);
    let mut mount = host.command_beside(anchor.id(), "mount");
    let options = format!("lowerdir={}:{}", layers.display(), nothing.display());
    mount.args(["-t", "overlay", "-o", &options, "overlay"]).arg(&shown);
    host.run("mount", &mut mount, TIMEOUT)?;
    Ok(shown)
}
