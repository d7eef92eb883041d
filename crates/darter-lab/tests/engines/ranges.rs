//! containerd 2.4 with `concurrent_layer_fetch_buffer`: its daemon asks for a layer by eight ranges at a time, waits 30 s for
//! the headers of each, and gives the pull up when one of them fails.

use std::env;
use std::time::Duration;

use anyhow::{Result, ensure};
use darter_core::{Clock as _, Rate, SystemClock};
use darter_lab::engine::{Build, Containerd, PULL_TIMEOUT, Route};
use darter_lab::process::wait_until;
use darter_lab::registry::{AccessLog, NAME};
use darter_lab::{Agent, Host, Image, Limited, Link, Registry};

use crate::world::{Came, World, ensure_held, sizes};

/// So slow that the last of the ranges that are asked for together comes long after the first.
const RATE: &str = "60mbit";
/// Steps of the largest layer, and bytes that they leave: a short rest used to be read of the registry by every host.
const STEPS: u64 = 16;
const REST: u64 = 1000;

pub(crate) fn engines_that_fetch_by_ranges(world: &World) -> Result<()> {
    let [origin, seed, one, two, three] = world.hosts(["registry", "seed", "node-1", "node-2", "node-3"], RATE)?;
    let registry = Registry::public(&origin, world.shelf.storage())?;
    let _seed = Agent::seed_with(&seed, &registry.url(), &["--origin-connections", "1"])?;
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
    registry.ensure_read_once(sizes(image))?;
    // One connection asks once, whatever the engines ask for.
    registry.access_log()?.ensure_read_by_one(sizes(image))
}

/// The buffer that containerd's users set.
const STEP: u64 = 16 << 20;

/// Turns of each regime, one directly and one by way of agents, if `DARTER_LAB_TURNS` says no other number.
const TURNS: usize = 1;

/// A regime that misses gets up to this many turns: what one turn takes on a busy machine is half chance.
const MAX_TURNS: usize = 3;

/// How much of a layer may be read of the registry in the best of these turns, as a multiple of it, and in each: what a busy machine looks
/// like may be taken for a limit of each connection once, and then what an answer has under way that is broken off was sent in vain.
const MAX_COPIES: f64 = 1.005;
const MAX_COPIES_ONCE: f64 = 1.1;

/// By how much the quickest pull by way of agents may be later than the quickest one directly.
const LATER: f64 = 1.75;

/// The rate of all cables, if they have one, and what the registry gives one connection, if it limits each.
struct Regime {
    name: &'static str,
    cable: Option<&'static str>,
    each: Option<Rate>,
}

/// A registry, with or without a limit for each connection.
enum Source {
    Plain(Registry),
    Limited(Limited),
}

impl Source {
    fn start(host: &Host, world: &World, each: Option<Rate>) -> Result<Self> {
        let storage = world.shelf.storage();
        Ok(match each {
            None => Self::Plain(Registry::public(host, storage)?),
            Some(each) => Self::Limited(Limited::start(host, storage, each)?),
        })
    }

    fn authority(&self) -> &str {
        match self {
            Self::Plain(registry) => registry.authority(),
            Self::Limited(limited) => limited.authority(),
        }
    }

    fn access_log(&self) -> Result<AccessLog> {
        match self {
            Self::Plain(registry) => registry.access_log(),
            Self::Limited(limited) => limited.access_log(),
        }
    }

    /// The most copies that were read of one layer, by however many connections. A request is logged a moment after its last byte left,
    /// which is waited for.
    fn copies(&self, image: &Image) -> Result<f64> {
        let all_are_logged = || {
            let reads = self.access_log()?.blob_reads();
            Ok(sizes(image).iter().all(|(digest, size)| reads.get(*digest).is_some_and(|read| read.bytes >= *size)))
        };
        wait_until("the registry's log of the last reads", PULL_TIMEOUT, all_are_logged)?;
        let reads = self.access_log()?.blob_reads();
        let mut most = 0.0_f64;
        for (digest, size) in sizes(image) {
            let read = reads.get(digest).copied().unwrap_or_default();
            let copies = read.bytes as f64 / size as f64;
            eprintln!("  {size} bytes by {} requests, {copies:.4} copies", read.requests);
            most = most.max(copies);
        }
        Ok(most)
    }
}

/// containerd by its eight ranges, directly and by way of agents. The times are printed; the bytes that are read of the registry are checked.
pub(crate) fn a_pull_by_ranges_is_no_later(world: &World) -> Result<()> {
    let turns = env::var("DARTER_LAB_TURNS").ok().and_then(|turns| turns.parse().ok()).unwrap_or(TURNS);
    let regimes = [
        Regime { name: "no limit", cable: None, each: None },
        Regime { name: "1 Gbit/s", cable: Some("1gbit"), each: None },
        Regime { name: "100 Mbit/s", cable: Some("100mbit"), each: None },
        Regime { name: "8 MB/s a connection", cable: None, each: Rate::from_bytes_per_second(8_000_000) },
    ];
    for (number, regime) in regimes.iter().enumerate() {
        let (mut directly, mut by_agents, mut copies) = (Vec::new(), Vec::new(), f64::INFINITY);
        for turn in 0..turns.max(MAX_TURNS) {
            if turn >= turns && later(&directly, &by_agents) <= LATER && copies <= MAX_COPIES {
                break;
            }
            let plug = |name: &str| -> Result<Host> {
                let host = world.network.host(&format!("{name}-{number}-{turn}"))?;
                if let Some(cable) = regime.cable {
                    host.shape(Link::symmetric(cable.parse()?))?;
                }
                Ok(host)
            };
            let image = &world.shelf.tools;
            // A registry for each: what its log says of the one is said of the one.
            let (origin, host) = (plug("registry")?, plug("direct")?);
            let source = Source::start(&origin, world, regime.each)?;
            directly.push(pull(&host, &Route::direct(source.authority()), image)?);
            let (origin, seed_host, host) = (plug("origin")?, plug("seed")?, plug("node")?);
            let source = Source::start(&origin, world, regime.each)?;
            let url = format!("http://{}", source.authority());
            let seed = Agent::seed(&seed_host, &url)?;
            let node = Agent::node(&host, &url, &seed_host)?;
            by_agents.push(pull(&host, &Route::mirrored(source.authority()), image)?);
            let came = Came::to(&node)?;
            ensure!(came.from_origin == 0, "the node read the registry itself: {came:?}");
            for layer in &image.layers {
                let told = seed.ask(&["explain", &layer.digest.to_string()])?;
                let events = told["events"].as_array().into_iter().flatten();
                events
                    .filter_map(|event| event["what"].as_str())
                    .filter(|what| what.contains("connections"))
                    .for_each(|what| eprintln!("  {what}"));
            }
            let read = source.copies(image)?;
            ensure!(read <= MAX_COPIES_ONCE, "{}: a layer was read {read:.4} times", regime.name);
            copies = copies.min(read);
        }
        let (direct, by_agent) = (median(&mut directly), median(&mut by_agents));
        eprintln!(
            "{}: {direct:.2} s directly, {by_agent:.2} s by agents ({:.2}); {directly:.2?}, {by_agents:.2?}",
            regime.name,
            by_agent / direct
        );
        let ratio = later(&directly, &by_agents);
        ensure!(ratio <= LATER, "{}: {ratio:.2} times as long", regime.name);
        ensure!(copies <= MAX_COPIES, "{}: a layer was read {copies:.4} times", regime.name);
    }
    Ok(())
}

/// How much longer the quickest pull by way of agents took than the quickest one directly.
fn later(directly: &[Duration], by_agents: &[Duration]) -> f64 {
    let quickest = |times: &[Duration]| times.iter().min().map_or(f64::INFINITY, Duration::as_secs_f64);
    quickest(by_agents) / quickest(directly)
}

/// In seconds. Sorts them.
fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

/// How long a containerd takes that fetches by ranges, from the command to the unpacked image.
fn pull(host: &Host, route: &Route, image: &Image) -> Result<Duration> {
    let engine = Containerd::start_build(host, route, Build::Release { ranges: Some(STEP) })?;
    let clock = SystemClock::start();
    let before = clock.now();
    engine.pull(&image.reference(NAME))?.finish(PULL_TIMEOUT)?;
    let took = clock.now().since(before);
    ensure_held(&engine, image)?;
    Ok(took)
}

/// How many requests for blobs an agent answered with a part.
fn ranges_answered(node: &Agent<'_>) -> Result<u64> {
    let text = node.metrics()?;
    let lines =
        text.lines().filter(|line| line.starts_with("darter_mirror_requests_total{kind=\"blob\",status=\"206\""));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}
