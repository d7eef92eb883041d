//! Plays a scenario with real agents: everything that happens in it happens to them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use darter_core::source::blob_of;
use darter_core::{PieceLength, Rate};
use darter_scenario::{Clock, Event, Link, Scenario};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::cables::ORIGIN;
use super::world::{Content, SEED, World, fetches, ip};

/// Nobody needs longer in virtual time, over T*.
const AT_LAST: f64 = 20.0;

/// How a story ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Seconds from when each node came until it had all, by its number; of those that live and are honest.
    pub(crate) took: BTreeMap<u32, f64>,
    /// Errors at nodes that live and are honest.
    pub(crate) unfinished: BTreeMap<u32, String>,
    /// When the last of them had all, over T*.
    pub(crate) last_over_bound: f64,
    /// Copies read from the origin, by whomever.
    pub(crate) origin_copies: f64,
}

/// A node that fetches.
struct Runner {
    came: Duration,
    fetching: JoinHandle<(Instant, Result<(), String>)>,
}

struct Play<'a> {
    scenario: &'a Scenario,
    world: World,
    content: Content,
    start: Instant,
    /// Bytes that the seed read from the origin before.
    read_before: u64,
    runners: BTreeMap<u32, Runner>,
    liars: BTreeSet<u32>,
}

/// Plays a scenario to its end.
pub(crate) async fn play(scenario: &Scenario) -> Outcome {
    let mut world = World::new();
    let content = world.publish(&scenario.name.replace(' ', "-"), scenario.size() as usize);
    for host in 0..=scenario.nodes {
        world.cables.rate(ip(host as u8), cable(scenario, host));
    }
    world.cables.rate(ORIGIN, carried(scenario.origin_link().unwrap()));
    world.starts(SEED, |_| {}).await;
    if scenario.warm {
        fetches(world.agent(SEED).clone(), content.clone(), 0).await.unwrap();
    }
    let (start, runners, liars) = (Instant::now(), BTreeMap::new(), BTreeSet::new());
    let read_before = world.origin.bytes_read(&content.source);
    let mut play = Play { scenario, world, content, start, read_before, runners, liars };
    let joins = (0..scenario.nodes).map(|node| (scenario.arrival(node as usize).unwrap(), Event::Join(node + 1)));
    let mut line: Vec<_> = joins.chain(scenario.timeline().unwrap()).collect();
    line.sort_by_key(|(after, _)| *after);
    for (after, event) in line {
        sleep_until(start + after).await;
        play.happens(event).await;
    }
    play.ends().await
}

/// Bytes of content that a cable carries in a second, up and down.
fn carried(link: Link) -> [f64; 2] {
    // As the laboratory counts T*.
    let rate = |rate: Option<Rate>| rate.map_or(f64::INFINITY, |rate| rate.bytes_per_second() as f64 * 1448.0 / 1514.0);
    [rate(link.up), rate(link.down)]
}

/// Bytes of content that the cable of a host carries in a second, up and down.
fn cable(scenario: &Scenario, host: u32) -> [f64; 2] {
    let link = match host.checked_sub(1) {
        None => scenario.seed_link(),
        Some(node) => scenario.node_link(node as usize),
    };
    carried(link.unwrap())
}

impl Play<'_> {
    async fn happens(&mut self, event: Event) {
        let host = |node: u32| ip(node as u8);
        match event {
            Event::Join(node) => self.joins(node).await,
            Event::Leave(node) => {
                self.forget(node);
                self.world.leaves(node as u8).await;
            }
            Event::Kill(node) => self.dies(node).await,
            Event::KillLead {} => {
                if let Some(lead) = self.lead() {
                    self.dies(lead).await;
                }
            }
            Event::Cut(one, other) => self.world.cuts.cut(host(one), host(other)),
            Event::Heal(one, other) => self.world.cuts.heal(host(one), host(other)),
            Event::Slow { node, by } => self.world.cables.slow_down(host(node), by),
            Event::Lie { node, how } => {
                let length = self.content.bytes.len() as u64;
                let blob = blob_of(&self.content.source.digest().unwrap());
                self.world.cables.lie(host(node), how, blob, PieceLength::for_blob(length).count(length));
                self.liars.insert(node);
            }
            Event::Corrupt(node) => self.world.hosts[&(node as u8)].store.flip_bits(),
            Event::Flip(from, to) => self.world.cables.flip(host(from), host(to)),
            Event::FullDisk(node) => self.world.hosts[&(node as u8)].store.fill(),
            Event::Jump { node, clock: Clock::Monotonic, by } => {
                self.world.hosts[&(node as u8)].clock.jump(Duration::from_secs_f64(by));
            }
            Event::Jump { node, clock: Clock::Wall, by } => self.world.hosts[&(node as u8)].clock.set(by as i64),
            Event::Read { node, from } => {
                let length = PieceLength::for_blob(self.content.bytes.len() as u64).bytes();
                let (agent, content) = (self.world.agent(node as u8).clone(), self.content.clone());
                tokio::spawn(async move { fetches(agent, content, u64::from(from) * length).await.unwrap() });
            }
        }
    }

    async fn joins(&mut self, node: u32) {
        if self.world.hosts.get(&(node as u8)).is_some_and(|host| host.agent.is_some()) {
            return;
        }
        self.world.starts(node as u8, |_| {}).await;
        if node == u32::from(SEED) {
            return;
        }
        let fetching = fetches(self.world.agent(node as u8).clone(), self.content.clone(), 0);
        let fetching = tokio::spawn(async move {
            let fetched = fetching.await;
            (Instant::now(), fetched)
        });
        self.runners.insert(node, Runner { came: self.start.elapsed(), fetching });
    }

    async fn dies(&mut self, node: u32) {
        self.forget(node);
        self.world.dies(node as u8).await;
    }

    fn forget(&mut self, node: u32) {
        if let Some(runner) = self.runners.remove(&node) {
            runner.fetching.abort();
        }
    }

    /// The node that leads most.
    fn lead(&self) -> Option<u32> {
        let running = self.world.hosts.iter().filter_map(|(host, it)| Some((u32::from(*host), it.agent.as_ref()?)));
        let led = running.filter_map(|(host, agent)| {
            let swarms = agent.status().swarms;
            let members = swarms.iter().filter(|swarm| swarm.leads).map(|swarm| swarm.members).max()?;
            Some((members, std::cmp::Reverse(host)))
        });
        led.max().map(|(_, std::cmp::Reverse(host))| host)
    }

    async fn ends(mut self) -> Outcome {
        let bound = self.scenario.bound().unwrap();
        let until = self.start + Duration::from_secs_f64(bound * AT_LAST + 60.0);
        let mut outcome = Outcome::default();
        for (node, Runner { came, mut fetching }) in std::mem::take(&mut self.runners) {
            if self.liars.contains(&node) {
                fetching.abort();
                continue;
            }
            let wrong = match timeout_at(until, &mut fetching).await {
                Err(_) => {
                    fetching.abort();
                    let held = self.world.agent(node as u8).status().swarms.first().map(|it| it.progress.map.clone());
                    format!("it is not done, and holds {held:?}")
                }
                Ok(ended) => match ended.unwrap() {
                    (at, Ok(())) => {
                        let after = at.duration_since(self.start);
                        outcome.took.insert(node, (after - came).as_secs_f64());
                        outcome.last_over_bound = outcome.last_over_bound.max(after.as_secs_f64() / bound);
                        continue;
                    }
                    (_, Err(error)) => error,
                },
            };
            outcome.unfinished.insert(node, wrong);
        }
        // Bytes still on their way from the origin count.
        sleep(Duration::from_millis(100)).await;
        let read = self.world.origin.bytes_read(&self.content.source) - self.read_before;
        outcome.origin_copies = read as f64 / self.content.bytes.len() as f64;
        for host in self.world.hosts.keys().copied().collect::<Vec<_>>() {
            self.world.leaves(host).await;
        }
        outcome
    }
}
