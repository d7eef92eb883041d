//! containerd 2.4 with `concurrent_layer_fetch_buffer`: its daemon asks for a layer by eight ranges at a time, waits 30 s for
//! the headers of each, and gives the pull up when one of them fails.

use anyhow::{Result, ensure};
use darter_lab::engine::{Build, Containerd, PULL_TIMEOUT, Route};
use darter_lab::registry::NAME;
use darter_lab::{Agent, Registry};

use crate::world::{Came, World, ensure_held, sizes};

/// So slow that the last of the ranges that are asked for together comes long after the first.
const RATE: &str = "60mbit";
/// Steps of the largest layer, and bytes that they leave: a short rest used to be read of the registry by every host.
const STEPS: u64 = 16;
const REST: u64 = 1000;

pub(crate) fn engines_that_fetch_by_ranges(world: &World) -> Result<()> {
    let [origin, seed, one, two, three] = world.hosts(["registry", "seed", "node-1", "node-2", "node-3"], RATE)?;
    let registry = Registry::public(&origin, world.shelf.storage())?;
    let _seed = Agent::seed(&seed, &registry.url())?;
    let image = &world.shelf.tools;
    let largest = sizes(image).into_iter().map(|(_, size)| size).max().unwrap_or_default();
    let step = (largest - REST) / STEPS;
    let route = Route::mirrored(registry.authority());
    let (mut nodes, mut engines) = (Vec::new(), Vec::new());
    for host in [&one, &two, &three] {
        nodes.push(Agent::node(host, &registry.url(), &seed)?);
        engines.push(Containerd::start_build(host, &route, Build::Release { ranges: Some(step) })?);
    }
    let reference = image.reference(NAME);
    let mut pulls = engines.iter().map(|engine| engine.pull(&reference)).collect::<Result<Vec<_>>>()?;
    for pull in &mut pulls {
        pull.finish(PULL_TIMEOUT)?;
    }
    for engine in &engines {
        ensure_held(engine, image)?;
    }
    let steps: u64 = sizes(image).iter().map(|(_, size)| size.div_ceil(step)).sum();
    for node in &nodes {
        let name = node.host().name();
        let ranges = ranges_answered(node)?;
        ensure!(ranges >= steps, "{name} answered {ranges} ranges of {steps}: its engine asked otherwise");
        let came = Came::to(node)?;
        ensure!(came.all() >= image.size(), "{name}'s engine went past its agent: {came:?}");
        ensure!(came.from_origin == 0, "{name} read the registry itself: {came:?}");
    }
    registry.ensure_read_once(sizes(image))
}

/// How many requests for blobs an agent answered with a part.
fn ranges_answered(node: &Agent<'_>) -> Result<u64> {
    let text = node.metrics()?;
    let lines =
        text.lines().filter(|line| line.starts_with("darter_mirror_requests_total{kind=\"blob\",status=\"206\""));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}
