//! One turn of a scenario: every way once, each on a new host.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use darter_core::{Clock as _, Moment, SystemClock};

use super::Start;
use super::content::Content;
use super::converted;
use super::delay::Delay;
use super::node::LazyNode;
use super::row::Row;
use super::way::Way;
use crate::cluster::Agent;
use crate::engine::peers::Peer;
use crate::engine::{Build, Containerd, PULL_TIMEOUT, Remote, Route, Skopeo, Starter};
use crate::link::Link;
use crate::netns::{Host, Network};
use crate::process::wait_until;
use crate::race::account::MachineTime;
use crate::registry::{NAME, Registry};

/// Hosts of [`Way::Eight`].
const TOGETHER: usize = 8;
/// No program waits while other containers start, and what is fetched then is not what a start touches.
const NO_FILL: [&str; 2] = ["--lazy-fill", "never"];
/// A pull that does not wait for layers to be expanded.
const SHORT_WAIT: [&str; 2] = ["--lazy-wait", "1s"];
/// How long the fleet may take to learn what a start touched.
const PROFILE_TIMEOUT: Duration = Duration::from_secs(60);
/// First touches are complete when they have not changed for so long: keepers tell of a minute's touches at its end.
const PROFILE_SETTLED: Duration = Duration::from_secs(3);
/// How long the rest of an image may take over a cable without a shape.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(300);

/// The hosts of a turn that all ways share.
struct Ground<'a> {
    network: &'a Network,
    seed: &'a Agent<'a>,
    /// `ADDRESS:PORT`.
    registry: &'a str,
    link: Link,
    content: &'a Content,
}

/// The figures of one start.
#[derive(Clone, Copy, Debug)]
struct Measured {
    pulled: Moment,
    ready: Moment,
    /// Bytes that came to the host.
    came: u64,
}

impl Start {
    /// Plays it once: a row for each way.
    pub fn run(&self, content: &Content, ways: &[Way]) -> Result<Vec<Row>> {
        let network = Network::new()?;
        let [origin, seed_host] = [network.host("registry")?, network.host("seed")?];
        let registry = Registry::public(&origin, &content.storage)?;
        let delay = Delay::start(&origin, registry.authority(), Duration::from_millis(self.delay_milliseconds))?;
        let seed = Agent::seed(&seed_host, &delay.url())?;
        let ground =
            Ground { network: &network, seed: &seed, registry: delay.authority(), link: self.link()?, content };
        if ways.iter().any(|way| !matches!(way, Way::Direct | Way::First | Way::Late | Way::Peer(_))) {
            warm_up(&network.host("warm")?, &ground).context("let the seed read all")?;
        }
        for host in [&origin, &seed_host] {
            host.shape(ground.link)?;
        }
        let mut rows = Vec::new();
        for &way in ways {
            let played = match way {
                Way::Peer(peer) => self.play_peer(peer, content),
                _ => self.play(way, &ground),
            };
            rows.extend(played.with_context(|| format!("{}, {way}", self.name))?);
        }
        self.compare(&mut rows);
        Ok(rows)
    }

    /// Fills in the figures that compare rows with each other.
    fn compare(&self, rows: &mut [Row]) {
        let whole = rows.iter().filter(|row| [Way::Direct.name(), Way::Mirror.name()].contains(&&*row.method));
        let best = whole.map(|row| row.ready).fold(f64::INFINITY, f64::min);
        let local = rows.iter().find(|row| row.method == Way::Local.name()).map(|row| row.ready);
        let rate = self.link().ok().and_then(|link| link.down).map(|rate| rate.bytes_per_second() as f64);
        for row in rows {
            row.over_whole = best.is_finite().then_some(row.ready / best);
            if row.method == Way::Second.name()
                && let (Some(local), Some(touched), Some(rate)) = (local, row.touched, rate)
            {
                // Packed, fewer bytes came than are touched. Bytes that came besides are no excuse.
                row.over_local = Some((row.ready - row.came.min(touched) as f64 / rate) / local);
            }
        }
    }

    fn play(&self, way: Way, ground: &Ground<'_>) -> Result<Vec<Row>> {
        let shaped = |name: &str| {
            let host = ground.network.host(name)?;
            host.shape(ground.link)?;
            Ok::<_, anyhow::Error>(host)
        };
        let build = Build::Release { ranges: None };
        let (seed, registry) = (ground.seed.host(), ground.registry);
        match way {
            Way::Direct => {
                let host = shaped("direct")?;
                let engine = Containerd::start_build(&host, &Route::direct(registry), build)?;
                Ok(vec![self.measure(way, ground.content, &engine, &host)?])
            }
            Way::Mirror => {
                let host = shaped("mirror")?;
                let _agent = Agent::node(&host, &format!("http://{registry}"), seed)?;
                let engine = Containerd::start_build(&host, &Route::mirrored(registry), build)?;
                Ok(vec![self.measure(way, ground.content, &engine, &host)?])
            }
            Way::Converted => {
                let host = shaped("converted")?;
                let anchor = host.hold_mounts()?;
                let _agent = Agent::node(&host, &format!("http://{registry}"), seed)?;
                // There is nothing in it.
                let layers = host.make_directory("layers")?;
                let engine = Containerd::start_lazy(&host, &Route::mirrored(registry), &layers, anchor.id())?;
                Ok(vec![self.measure(way, ground.content, &engine, &host)?])
            }
            Way::First | Way::Late => {
                let names = if way == Way::First { ["first-seed", "first"] } else { ["late-seed", "late"] };
                let (seed_host, host) = (shaped(names[0])?, shaped(names[1])?);
                let seed = Agent::seed(&seed_host, &format!("http://{registry}"))?;
                let flags: &[&str] = if way == Way::First { &[] } else { &SHORT_WAIT };
                let node = LazyNode::start_with(&host, seed.host(), registry, flags)?;
                Ok(vec![self.measure(way, ground.content, &node.engine, &host)?])
            }
            Way::Lazy | Way::Again => {
                let host = shaped("lazy")?;
                let node = LazyNode::start(&host, seed, registry)?;
                let mut lazy = self.measure(Way::Lazy, ground.content, &node.engine, &host)?;
                lazy.touched = Some(ground.touched()?);
                let again = self.measure(Way::Again, ground.content, &node.engine, &host)?;
                Ok(vec![lazy, again])
            }
            Way::Second | Way::Local => {
                let host = shaped("second")?;
                let node = LazyNode::start(&host, seed, registry)?;
                // The list that it is given; what it touches itself is added to that.
                let touched = ground.known()?;
                let mut second = self.measure(Way::Second, ground.content, &node.engine, &host)?;
                second.touched = Some(touched).filter(|touched| *touched > 0);
                host.shape(Link { up: None, down: None })?;
                node.complete(&ground.content.image, WHOLE_TIMEOUT)?;
                let local = self.measure(Way::Local, ground.content, &node.engine, &host)?;
                Ok(vec![second, local])
            }
            Way::Eight => self.play_together(ground).map(|row| vec![row]),
            Way::Peer(peer) => self.play_peer(peer, ground.content),
        }
    }

    /// A peer with a registry of its own, which has the image as it wants it.
    fn play_peer(&self, peer: Peer, content: &Content) -> Result<Vec<Row>> {
        let storage = converted::storage(content, peer)?;
        let (network, link) = (Network::new()?, self.link()?);
        let [origin, host] = [network.host("registry")?, network.host(peer.name())?];
        let registry = Registry::public(&origin, &storage)?;
        let delay = Delay::start(&origin, registry.authority(), Duration::from_millis(self.delay_milliseconds))?;
        for host in [&origin, &host] {
            host.shape(link)?;
        }
        let engine = Remote::start(&host, delay.authority(), peer)?;
        Ok(vec![self.measure(Way::Peer(peer), content, &engine, &host)?])
    }

    /// Eight hosts that pull and run at the same moment: the last one's times, and what the seed sent until then.
    fn play_together(&self, ground: &Ground<'_>) -> Result<Row> {
        let hosts = (0..TOGETHER).map(|number| ground.network.host(&format!("eight-{number}")));
        let hosts = hosts.collect::<Result<Vec<_>>>()?;
        let mut nodes = Vec::new();
        for host in &hosts {
            host.shape(ground.link)?;
            nodes.push(LazyNode::start_with(host, ground.seed.host(), ground.registry, &NO_FILL)?);
        }
        let (seed, machine, clock) = (ground.seed.host(), MachineTime::now()?, SystemClock::start());
        let (sent, start) = (seed.traffic()?.sent, clock.now());
        let measured = thread::scope(|scope| {
            let starting = hosts.iter().zip(&nodes).map(|(host, node)| {
                let clock = &clock;
                scope.spawn(move || start_container(ground.content, &node.engine, host, clock))
            });
            let starting: Vec<_> = starting.collect();
            let measured = starting.into_iter().map(|thread| match thread.join() {
                Ok(measured) => measured,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            measured.collect::<Result<Vec<_>>>()
        })?;
        let (sent, busy) = (seed.traffic()?.sent - sent, MachineTime::now()?.busy_since(machine));
        for node in &nodes {
            node.engine.end_runs();
        }
        let touched = ground.touched()?;
        let last = measured.iter().max_by_key(|one| one.ready).context("there are eight")?;
        Ok(Row {
            pull: last.pulled.since(start).as_secs_f64(),
            run: last.ready.since(last.pulled).as_secs_f64(),
            ready: last.ready.since(start).as_secs_f64(),
            came: measured.iter().map(|one| one.came).sum::<u64>() / TOGETHER as u64,
            touched: Some(touched),
            copies: Some(sent as f64 / touched as f64),
            busy,
            ..Row::new(self, Way::Eight, ground.content.image.size())
        })
    }

    fn measure(&self, way: Way, content: &Content, engine: &impl Starter, host: &Host) -> Result<Row> {
        let (machine, clock) = (MachineTime::now()?, SystemClock::start());
        let start = clock.now();
        let measured = start_container(content, engine, host, &clock)?;
        let row = Row {
            pull: measured.pulled.since(start).as_secs_f64(),
            run: measured.ready.since(measured.pulled).as_secs_f64(),
            ready: measured.ready.since(start).as_secs_f64(),
            came: measured.came,
            busy: MachineTime::now()?.busy_since(machine),
            ..Row::new(self, way, content.image.size())
        };
        engine.end_runs();
        Ok(row)
    }
}

/// Pulls the image, and starts its container, until that is ready.
fn start_container(content: &Content, engine: &impl Starter, host: &Host, clock: &SystemClock) -> Result<Measured> {
    let reference = content.image.reference(engine.registry());
    let command: Vec<&str> = content.command.iter().map(String::as_str).collect();
    let before = host.traffic()?.received;
    engine.pull(&reference)?.finish(PULL_TIMEOUT)?;
    let pulled = clock.now();
    let mut container = engine.begin_run(&reference, &command)?;
    content.wait_until_ready(&mut container)?;
    let ready = clock.now();
    Ok(Measured { pulled, ready, came: host.traffic()?.received - before })
}

impl Ground<'_> {
    /// Bytes that starts touch, as far as the fleet knows now.
    fn known(&self) -> Result<u64> {
        let reference = self.content.image.reference(NAME);
        let profile = match self.seed.ask(&["image", "profile", &reference]) {
            Ok(profile) => profile,
            // So it says while nothing is known.
            Err(error) if format!("{error:#}").contains("it is not known yet") => return Ok(0),
            Err(error) => return Err(error),
        };
        let layers = profile["layers"].as_array().context("a profile has layers")?;
        Ok(layers.iter().filter_map(|layer| layer["bytes"].as_u64()).sum())
    }

    /// Bytes that starts touch, once the seed was told of the start that ended just now.
    fn touched(&self) -> Result<u64> {
        let clock = SystemClock::start();
        let (mut known, mut since) = (0, clock.now());
        wait_until("the fleet to learn what was touched", PROFILE_TIMEOUT, || {
            let now = self.known()?;
            if now != known {
                (known, since) = (now, clock.now());
            }
            Ok(known > 0 && clock.now().since(since) > PROFILE_SETTLED)
        })?;
        Ok(known)
    }
}

/// Lets the seed read and expand everything that is wanted of it later, over cables without a shape.
fn warm_up(host: &Host, ground: &Ground<'_>) -> Result<()> {
    let reference = ground.content.image.reference(NAME);
    let node = LazyNode::start(host, ground.seed.host(), ground.registry)?;
    node.pull(&reference)?;
    let skopeo = Skopeo::configure(host, &Route::mirrored(ground.registry))?;
    skopeo.copy(&reference, "copy")?.finish(PULL_TIMEOUT).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_is_excused_for_what_passed_its_cable_and_for_no_byte_that_it_does_not_touch() {
        let text = "kind = \"lazy\"\nabout = \"x\"\nimage = \"tool\"\nrate = \"200mbit\"\ndelay_milliseconds = 20";
        let start = Start::parse("tool", text).unwrap();
        let over_local = |ready: f64, came: u64| {
            let second = Row { ready, came, touched: Some(20_000_000), ..Row::new(&start, Way::Second, 1) };
            let mut rows = [second, Row { ready: 0.2, ..Row::new(&start, Way::Local, 1) }];
            start.compare(&mut rows);
            rows[0].over_local.unwrap()
        };
        // 25 MB pass in a second.
        let is = |value: f64, expected: f64| (value - expected).abs() < 1e-9;
        assert!(is(over_local(1.0, 20_000_000), 1.0));
        assert!(is(over_local(0.5, 7_500_000), 1.0), "they came packed");
        assert!(is(over_local(1.2, 25_000_000), 2.0), "more came than is touched");
    }
}
