//! The main job: many engines, one image, one read of the registry.

use anyhow::{Context, Result, ensure};
use darter_lab::engine::{Containerd, PULL_TIMEOUT, Podman, Route, Skopeo, ensure_copied};
use darter_lab::registry::NAME;
use darter_lab::{Agent, Link, Registry};
use serde_json::json;

use crate::world::{Came, World, ensure_held, sizes};

/// Most that an agent keeps resident at full speed, whatever the image's size, in bytes.
const MAX_RESIDENT: u64 = 150_000_000;
/// Software of every layer speaks: the base, the interpreter's layer, the compiler's.
const SPEAK: [&str; 3] =
    ["/bin/bash", "-ec", "cat /etc/debian_version; python3 -c 'print(6 * 7)'; gcc --version; java -version 2>&1"];

pub(crate) fn four_engines_pull_one_image(world: &World) -> Result<()> {
    let [origin, seed, one, two, three, four] =
        world.hosts(["registry", "seed", "node-1", "node-2", "node-3", "node-4"], "500mbit")?;
    let registry = Registry::public(&origin, world.shelf.storage())?;
    let seed_agent = Agent::seed(&seed, &registry.url())?;
    let mut nodes = Vec::new();
    for host in [&one, &two, &three, &four] {
        nodes.push(Agent::node(host, &registry.url(), &seed)?);
    }
    let route = Route::mirrored(registry.authority());
    let first = Containerd::start(&one, &route)?;
    let second = Containerd::start(&two, &route)?;
    let skopeo = Skopeo::configure(&three, &route)?;
    let podman = Podman::configure(&four, &route)?;

    let image = &world.shelf.app;
    let reference = image.reference(NAME);
    let mut pulls =
        [first.pull(&reference)?, second.pull(&reference)?, skopeo.copy(&reference, "copy")?, podman.pull(&reference)?];
    for pull in &mut pulls {
        pull.finish(PULL_TIMEOUT)?;
    }

    registry.ensure_read_once(sizes(image)).context("the registry's own log")?;
    for engine in [&first, &second] {
        ensure_held(engine, image)?;
        ensure_software_runs(&engine.run(&reference, &SPEAK)?)?;
    }
    ensure_copied(&skopeo.directory("copy")?, &image.manifest, &image.blobs())?;
    let diffs: Vec<_> = image.layers.iter().map(|layer| layer.diff).collect();
    let inspected = podman.inspect(&reference)?;
    ensure!(inspected["RootFS"]["Layers"] == json!(diffs), "podman's layers are {}", inspected["RootFS"]);
    ensure_software_runs(&podman.run(&reference, &SPEAK)?)?;

    let mut fleet = Came::default();
    for node in &nodes {
        let name = node.host().name();
        let came = Came::to(node)?;
        ensure!(came.from_origin < image.size() / 100, "{name} read the registry itself: {came:?}");
        for (layer, size) in sizes(image) {
            let came = Came::to_blob(node, layer)?;
            ensure!(came.from_seed + came.from_peers >= size, "{name} explains {size} bytes of {layer} as {came:?}");
        }
        fleet.from_seed += came.from_seed;
        fleet.from_peers += came.from_peers;
    }
    // On a machine that has not the time for all of them members confirm late, and the seed sends a piece again when it is asked: up
    // to two of the four copies were seen. Nodes that feed each other need less than one copy each.
    ensure!(fleet.from_peers > image.size(), "peers gave less than one of four copies: {fleet:?}");
    let mut resident = 0;
    for agent in nodes.iter().chain([&seed_agent]) {
        let memory = agent.memory()?;
        ensure!(memory.peak < MAX_RESIDENT, "{} kept {memory:?}", agent.host().name());
        resident = resident.max(memory.peak);
    }
    let copies = |bytes: u64| bytes as f64 / image.size() as f64;
    eprintln!(
        "four copies of {} bytes: {:.2} from the seed, {:.2} from peers; at most {resident} bytes resident",
        image.size(),
        copies(fleet.from_seed),
        copies(fleet.from_peers),
    );
    Ok(())
}

pub(crate) fn a_late_node_is_served_without_the_registry(world: &World) -> Result<()> {
    let [origin, seed, early, late] = world.hosts(["registry", "seed", "early", "late"], "500mbit")?;
    let registry = Registry::public(&origin, world.shelf.storage())?;
    let seed_agent = Agent::seed(&seed, &registry.url())?;
    let early_agent = Agent::node(&early, &registry.url(), &seed)?;
    let late_agent = Agent::node(&late, &registry.url(), &seed)?;
    let route = Route::mirrored(registry.authority());
    let image = &world.shelf.tools;
    let reference = image.reference(NAME);
    Skopeo::configure(&early, &route)?.copy(&reference, "copy")?.finish(PULL_TIMEOUT)?;

    // From here on the seed alone would need half a minute: whenever the early node is met within that, it gives.
    seed.shape(Link { up: Some("40mbit".parse()?), down: Some("500mbit".parse()?) })?;
    let skopeo = Skopeo::configure(&late, &route)?;
    skopeo.copy(&reference, "copy")?.finish(PULL_TIMEOUT)?;
    ensure_copied(&skopeo.directory("copy")?, &image.manifest, &image.blobs())?;
    registry.ensure_read_once(sizes(image))?;
    let came = Came::to(&late_agent)?;
    ensure!(came.from_peers > 0, "the early node gave nothing: {came:?}");
    for mut agent in [early_agent, late_agent, seed_agent] {
        agent.stop()?;
    }
    Ok(())
}

fn ensure_software_runs(said: &str) -> Result<()> {
    for word in ["42", "gcc", "Runtime Environment"] {
        ensure!(said.contains(word), "the container's software said {said:?}, without {word:?}");
    }
    Ok(())
}
