//! One turn of a scenario: every way once, each on a new host.

use std::time::Duration;

use anyhow::{Context, Result};
use darter_core::{Clock as _, SystemClock};

use super::Start;
use super::content::Content;
use super::delay::Delay;
use super::node::LazyNode;
use super::row::Row;
use crate::cluster::Agent;
use crate::engine::{Build, Containerd, PULL_TIMEOUT, Route, Skopeo};
use crate::netns::{Host, Network};
use crate::race::account::MachineTime;
use crate::registry::{NAME, Registry};

/// How an image comes to a container. All with the same containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the registry, unpacked for overlayfs.
    Direct,
    /// Through the host's agent, unpacked for overlayfs.
    Mirror,
    /// Mounted out of the agent's directory of layers.
    Lazy,
    /// The same with everything on the node: what a start takes by itself.
    Local,
}

impl Way {
    /// In their turns: the last one has the host of the one before.
    const ALL: [Self; 3] = [Self::Direct, Self::Mirror, Self::Lazy];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct-pull",
            Self::Mirror => "darter-pull",
            Self::Lazy => "darter-lazy",
            Self::Local => "lazy, all here",
        }
    }
}

impl Start {
    /// Plays it once: a row for each way.
    pub fn run(&self, content: &Content) -> Result<Vec<Row>> {
        let network = Network::new()?;
        let [origin, seed_host] = [network.host("registry")?, network.host("seed")?];
        let registry = Registry::public(&origin, &content.storage)?;
        let delay = Delay::start(&origin, registry.authority(), Duration::from_millis(self.delay_milliseconds))?;
        let _seed = Agent::seed(&seed_host, &delay.url())?;
        warm_up(&network.host("warm")?, &seed_host, delay.authority(), content).context("let the seed read all")?;
        let link = self.link()?;
        for host in [&origin, &seed_host] {
            host.shape(link)?;
        }
        let mut rows = Vec::new();
        for way in Way::ALL {
            let host = network.host(way.name())?;
            host.shape(link)?;
            let played = self.play(way, content, &host, (&seed_host, delay.authority()));
            rows.extend(played.with_context(|| format!("{}, {}", self.name, way.name()))?);
        }
        let whole = rows.iter().filter(|row| [Way::Direct.name(), Way::Mirror.name()].contains(&&*row.method));
        let best = whole.map(|row| row.ready).fold(f64::INFINITY, f64::min);
        for row in &mut rows {
            row.over_whole = Some(row.ready / best);
        }
        Ok(rows)
    }

    fn play(&self, way: Way, content: &Content, host: &Host, (seed, registry): (&Host, &str)) -> Result<Vec<Row>> {
        let build = Build::Release { ranges: None };
        match way {
            Way::Direct => {
                let engine = Containerd::start_build(host, &Route::direct(registry), build)?;
                Ok(vec![self.measure(way, content, &engine, host)?])
            }
            Way::Mirror => {
                let _agent = Agent::node(host, &format!("http://{registry}"), seed)?;
                let engine = Containerd::start_build(host, &Route::mirrored(registry), build)?;
                Ok(vec![self.measure(way, content, &engine, host)?])
            }
            Way::Lazy | Way::Local => {
                let node = LazyNode::start(host, seed, registry)?;
                let lazy = self.measure(Way::Lazy, content, &node.engine, host)?;
                let local = self.measure(Way::Local, content, &node.engine, host)?;
                Ok(vec![lazy, local])
            }
        }
    }

    fn measure(&self, way: Way, content: &Content, engine: &Containerd<'_>, host: &Host) -> Result<Row> {
        let reference = content.image.reference(NAME);
        let command: Vec<&str> = content.command.iter().map(String::as_str).collect();
        let (before, machine, clock) = (host.traffic()?.received, MachineTime::now()?, SystemClock::start());
        let start = clock.now();
        engine.pull(&reference)?.finish(PULL_TIMEOUT)?;
        let pulled = clock.now();
        let mut container = engine.begin_run(&reference, &command)?;
        content.wait_until_ready(&mut container)?;
        let ready = clock.now();
        let row = Row {
            pull: pulled.since(start).as_secs_f64(),
            run: ready.since(pulled).as_secs_f64(),
            ready: ready.since(start).as_secs_f64(),
            came: host.traffic()?.received - before,
            busy: MachineTime::now()?.busy_since(machine),
            ..Row::new(self, way.name(), content.image.size())
        };
        engine.end_runs();
        Ok(row)
    }
}

/// Lets the seed read and expand everything that is wanted of it later, over cables without a shape.
fn warm_up(host: &Host, seed: &Host, registry: &str, content: &Content) -> Result<()> {
    let reference = content.image.reference(NAME);
    let node = LazyNode::start(host, seed, registry)?;
    node.pull(&reference)?;
    let skopeo = Skopeo::configure(host, &Route::mirrored(registry))?;
    skopeo.copy(&reference, "copy")?.finish(PULL_TIMEOUT).map(drop)
}
