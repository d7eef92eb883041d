//! Failure of Darter is not failure of the pull.
//!
//! If a pull is to be disturbed in its middle, the registry's cable is so slow until then that the pull can't be over before,
//! however long the machine pauses between looking and striking.

use anyhow::{Context, Result, ensure};
use darter_lab::engine::{Containerd, PULL_TIMEOUT, Podman, Route, Skopeo, ensure_copied};
use darter_lab::registry::NAME;
use darter_lab::{Agent, Host, Link, Registry};
use serde_json::Value;

use crate::world::{Came, World, ensure_held, sizes, wait_for_bytes, wait_until_came, wait_until_saved};

/// Cables of hosts in these scenarios.
const RATE: &str = "160mbit";
/// The registry's cable until the fault has struck: the whole image takes half a minute.
const TRICKLE: &str = "32mbit";
/// How much a node has received when the fault strikes: past the first layer's start, long before the end.
const MIDDLE: u64 = 16_000_000;

/// Sets the rate of a host's cable both ways.
fn shape(host: &Host, rate: &str) -> Result<()> {
    host.shape(Link::symmetric(rate.parse()?))
}

pub(crate) fn no_agent_at_all(world: &World) -> Result<()> {
    let [origin, one, two, three] = world.hosts(["registry", "node-1", "node-2", "node-3"], "1gbit")?;
    let registry = Registry::public(&origin, world.shelf.storage())?;
    let route = Route::mirrored(registry.authority());
    let containerd = Containerd::start(&one, &route)?;
    let podman = Podman::configure(&two, &route)?;
    let skopeo = Skopeo::configure(&three, &route)?;
    let image = &world.shelf.tools;
    let reference = image.reference(NAME);
    let mut pulls = [containerd.pull(&reference)?, podman.pull(&reference)?, skopeo.copy(&reference, "copy")?];
    for pull in &mut pulls {
        pull.finish(PULL_TIMEOUT)?;
    }
    ensure_held(&containerd, image)?;
    ensure_copied(&skopeo.directory("copy")?, &image.manifest, &image.blobs())?;
    let program = ["/bin/bash", "-ec", "python3 -c 'print(6 * 7)'"];
    for said in [containerd.run(&reference, &program)?, podman.run(&reference, &program)?] {
        ensure!(said.trim() == "42", "a container said {said:?}");
    }
    Ok(())
}

pub(crate) fn no_seed_at_the_start(world: &World) -> Result<()> {
    let [origin, nobody, one, two] = world.hosts(["registry", "nobody", "node-1", "node-2"], RATE)?;
    let registry = Registry::public(&origin, world.shelf.storage())?;
    let first = Agent::node(&one, &registry.url(), &nobody)?;
    let _second = Agent::node(&two, &registry.url(), &nobody)?;
    let route = Route::mirrored(registry.authority());
    let containerd = Containerd::start(&one, &route)?;
    let skopeo = Skopeo::configure(&two, &route)?;

    let image = &world.shelf.tools;
    let mut pulls = [containerd.fetch(&image.reference(NAME))?, skopeo.copy(&image.reference(NAME), "copy")?];
    for pull in &mut pulls {
        pull.finish(PULL_TIMEOUT)?;
    }
    ensure_held(&containerd, image)?;
    ensure_copied(&skopeo.directory("copy")?, &image.manifest, &image.blobs())?;
    let came = Came::to(&first)?;
    ensure!(came.from_origin + came.from_peers >= image.size(), "the agent moved nothing for containerd: {came:?}");
    Ok(())
}

pub(crate) fn seed_killed_in_mid_pull(world: &World) -> Result<()> {
    let [origin, seed_host, one, two] = world.hosts(["registry", "seed", "node-1", "node-2"], RATE)?;
    shape(&origin, TRICKLE)?;
    let registry = Registry::public(&origin, world.shelf.storage())?;
    let mut seed = Agent::seed(&seed_host, &registry.url())?;
    let nodes = [Agent::node(&one, &registry.url(), &seed_host)?, Agent::node(&two, &registry.url(), &seed_host)?];
    let route = Route::mirrored(registry.authority());
    let containerd = Containerd::start(&one, &route)?;
    let skopeo = Skopeo::configure(&two, &route)?;

    let image = &world.shelf.tools;
    let mut pulls = [containerd.fetch(&image.reference(NAME))?, skopeo.copy(&image.reference(NAME), "copy")?];
    for node in &nodes {
        wait_for_bytes(node.host(), MIDDLE)?;
        wait_until_came(node, "the seed", |came| came.from_seed)?;
    }
    seed.kill();
    ensure!(pulls.iter_mut().all(|pull| pull.is_running()), "the pulls were over before the seed was killed");
    shape(&origin, RATE)?;
    for pull in &mut pulls {
        pull.finish(PULL_TIMEOUT)?;
    }
    ensure_held(&containerd, image)?;
    ensure_copied(&skopeo.directory("copy")?, &image.manifest, &image.blobs())?;
    for node in &nodes {
        let came = Came::to(node)?;
        ensure!(came.from_seed > 0, "{} had nothing of the seed before: {came:?}", node.host().name());
        ensure!(came.all() >= image.size(), "{}'s engine went past its agent: {came:?}", node.host().name());
    }
    let last = &image.layers[image.layers.len() - 1].digest.to_string();
    let explained = nodes[0].ask(&["explain", last])?;
    ensure!(!explained["events"].as_array().is_none_or(Vec::is_empty), "nothing is said of what happened: {explained}");
    Ok(())
}

pub(crate) fn peer_killed_in_mid_pull(world: &World) -> Result<()> {
    let [origin, seed_host, one, two, three] = world.hosts(["registry", "seed", "node-1", "node-2", "node-3"], RATE)?;
    shape(&origin, TRICKLE)?;
    let registry = Registry::public(&origin, world.shelf.storage())?;
    let _seed = Agent::seed(&seed_host, &registry.url())?;
    let first = Agent::node(&one, &registry.url(), &seed_host)?;
    let _second = Agent::node(&two, &registry.url(), &seed_host)?;
    let mut victim = Agent::node(&three, &registry.url(), &seed_host)?;
    let route = Route::mirrored(registry.authority());
    let containerd = Containerd::start(&one, &route)?;
    let skopeo = Skopeo::configure(&two, &route)?;
    let image = &world.shelf.tools;
    let mut pulls = [containerd.fetch(&image.reference(NAME))?, skopeo.copy(&image.reference(NAME), "copy")?];
    let mut doomed = Skopeo::configure(&three, &route)?.copy(&image.reference(NAME), "copy")?;
    wait_for_bytes(&three, MIDDLE)?;
    // Its engine would read the registry itself, which is not what the log is to show.
    doomed.kill();
    victim.kill();
    ensure!(pulls.iter_mut().all(|pull| pull.is_running()), "the pulls were over before the peer was killed");
    shape(&origin, RATE)?;
    for pull in &mut pulls {
        pull.finish(PULL_TIMEOUT)?;
    }
    ensure_held(&containerd, image)?;
    ensure_copied(&skopeo.directory("copy")?, &image.manifest, &image.blobs())?;
    registry.ensure_read_once(sizes(image))?;
    let came = Came::to(&first)?;
    ensure!(came.from_peers > 0, "peers gave nothing: {came:?}");
    Ok(())
}

pub(crate) fn agent_restarted_in_mid_pull(world: &World) -> Result<()> {
    let [origin, seed_host, one, two] = world.hosts(["registry", "seed", "node-1", "node-2"], RATE)?;
    shape(&origin, TRICKLE)?;
    let registry = Registry::public(&origin, world.shelf.storage())?;
    let _seed = Agent::seed(&seed_host, &registry.url())?;
    let mut restarted = Agent::node(&one, &registry.url(), &seed_host)?;
    let _other = Agent::node(&two, &registry.url(), &seed_host)?;
    let route = Route::mirrored(registry.authority());
    let containerd = Containerd::start(&one, &route)?;
    let skopeo = Skopeo::configure(&two, &route)?;
    let image = &world.shelf.tools;
    let mut pull = containerd.fetch(&image.reference(NAME))?;
    let mut other = skopeo.copy(&image.reference(NAME), "copy")?;
    wait_for_bytes(&one, MIDDLE)?;
    wait_until_saved(&restarted)?;
    restarted.kill();
    ensure!(pull.is_running(), "the pull was over before the agent was killed");
    shape(&origin, RATE)?;
    restarted.start()?;
    pull.finish(PULL_TIMEOUT)?;
    other.finish(PULL_TIMEOUT)?;
    ensure_held(&containerd, image)?;
    ensure_copied(&skopeo.directory("copy")?, &image.manifest, &image.blobs())?;

    // The agent serves on from what it held when it was killed, less what was not durable yet.
    let again = Skopeo::configure(&one, &route)?;
    again.copy(&image.reference(NAME), "again")?.finish(PULL_TIMEOUT)?;
    ensure_copied(&again.directory("again")?, &image.manifest, &image.blobs())?;
    let mut from_disk = 0;
    for (layer, size) in sizes(image) {
        let explained = restarted.ask(&["explain", &layer.to_string()])?;
        let resumed = bytes_from_disk(&explained)?;
        let fetched = Came::of(&explained)?.all();
        ensure!(resumed + fetched == size, "{resumed} bytes from disk and {fetched} fetched are not {layer}'s {size}");
        from_disk += resumed;
    }
    ensure!(from_disk > 0, "of {MIDDLE} bytes received before its restart the agent used none");
    Ok(())
}

/// How many bytes of a blob an agent explains as held from before it started.
fn bytes_from_disk(explained: &Value) -> Result<u64> {
    let ranges = explained["ranges"].as_array().context("an explanation has ranges")?;
    let disk = ranges.iter().filter(|range| range["from"]["kind"] == "disk");
    disk.map(|range| Some(range["end"].as_u64()? - range["start"].as_u64()?))
        .sum::<Option<u64>>()
        .context("a range ends")
}
