//! A race: a TOML file, and the bound that follows from it.
//!
//! Shares of T* in [`events`](Scenario::events) are of T* without regard to nodes that join by an event, since when they join may be
//! such a share.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use darter_core::Rate;
use serde::{Deserialize, Serialize};

use crate::events::{At, Event, Lie, SEED, When, percent};
use crate::files;
use crate::goal::Goal;

/// Content bytes in a full segment (an MTU of 1500, timestamps on).
const SEGMENT_CONTENT: f64 = 1448.0;
/// Bytes of a full segment as a shaper counts it, with its Ethernet header.
const SEGMENT_FRAME: f64 = 1514.0;

/// The word for a cable without a rate.
const UNSHAPED: &str = "unshaped";

/// Hosts, links, content and events of a race. Every field without a default must be given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The file's name without `.toml`.
    #[serde(skip)]
    pub name: String,
    /// The claim that it shows, in one line.
    pub about: String,
    /// The goal.
    #[serde(default)]
    pub goal: Goal,
    /// Size of each blob in KiB.
    pub size_kib: u64,
    /// Blobs that every node asks for at once.
    #[serde(default = "one")]
    pub blobs: u32,
    /// Nodes that want the content.
    pub nodes: u32,
    /// A node's cable, each way; a rate or `unshaped`.
    pub rate: String,
    /// The seed's cable, each way.
    pub seed_rate: String,
    /// The origin's cable, each way. Only methods that read an origin use it.
    pub origin_rate: String,
    /// True if the blobs are an image's layers, which engines can pull. Its registry is the origin.
    #[serde(default)]
    pub layers: bool,
    /// True if engines are of the release that the laboratory builds, instead of the distribution's.
    #[serde(default)]
    pub built_engine: bool,
    /// True if the seed holds the content from the start. The bound stays that of a seed that reads it.
    #[serde(default)]
    pub warm: bool,
    /// Nodes whose cables differ.
    #[serde(default)]
    pub slow: Vec<Slow>,
    /// A second rack that holds the second half of the nodes.
    pub rack: Option<RackLink>,
    /// Seconds between the starts of one node and the next.
    #[serde(default)]
    pub arrive_every: f64,
    /// Events with their times.
    #[serde(default)]
    pub events: Vec<At>,
}

/// How fast a host's cable is; `None` is as fast as the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// From the host to the switch.
    pub up: Option<Rate>,
    /// From the switch to the host.
    pub down: Option<Rate>,
}

impl Link {
    /// A cable with one rate both ways.
    pub const fn symmetric(rate: Rate) -> Self {
        Self { up: Some(rate), down: Some(rate) }
    }
}

/// A node with a cable of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slow {
    /// Number of the node, from 1.
    pub node: u32,
    /// Its cable, each way.
    pub rate: String,
}

/// The link between the racks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RackLink {
    /// Its rate, each way.
    pub rate: String,
}

const fn one() -> u32 {
    1
}

impl Scenario {
    /// `nodes` equal nodes and a seed that reads one blob of an origin, all at the same rate, to which nothing happens.
    pub fn equal(nodes: u32, size_kib: u64, rate: &str) -> Self {
        Self {
            name: format!("{nodes} nodes"),
            about: String::new(),
            goal: Goal::default(),
            size_kib,
            blobs: 1,
            nodes,
            rate: rate.to_owned(),
            seed_rate: rate.to_owned(),
            origin_rate: rate.to_owned(),
            layers: false,
            built_engine: false,
            warm: false,
            slow: Vec::new(),
            rack: None,
            arrive_every: 0.0,
            events: Vec::new(),
        }
    }

    /// This scenario, in which `event` happens at a time, too.
    #[must_use]
    pub fn at(mut self, when: impl Into<When>, event: Event) -> Self {
        self.events.push(At { when: when.into(), event });
        self
    }

    /// This scenario, in which a node lies from the start.
    #[must_use]
    pub fn lie(self, node: u32, how: Lie) -> Self {
        let lying = self.at(Duration::ZERO, Event::Lie { node, how });
        if how == Lie::Vanish { lying.at(percent(50), Event::Kill(node)) } else { lying }
    }

    /// Reads a scenario: a file's path, or the name of one in the tree.
    ///
    /// # Errors
    /// For a file that can't be read, or is no race.
    pub fn open(name: &str) -> Result<Self> {
        let (name, text) = files::read(name)?;
        ensure!(!files::is_bench(&text)?, "{name} is no race");
        Self::parse(&name, &text)
    }

    /// Reads a scenario's text.
    ///
    /// # Errors
    /// For a key that is unknown or lacking, and for a value that is impossible.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut scenario: Self = toml::from_str(text)?;
        name.clone_into(&mut scenario.name);
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<()> {
        ensure!((1..=200).contains(&self.nodes), "nodes is not in 1..=200");
        ensure!(self.size_kib > 0 && self.blobs > 0, "there is no content");
        ensure!(self.arrive_every.is_finite() && self.arrive_every >= 0.0, "arrive_every is not a time");
        for node in self.slow.iter().map(|slow| slow.node) {
            ensure!((1..=self.nodes).contains(&node), "slow names node {node}, which is not there");
        }
        if let Some(mistake) = self.events.iter().find_map(|at| at.event.mistake(self.nodes)) {
            bail!("{mistake}");
        }
        let rates = [&self.rate, &self.seed_rate, &self.origin_rate];
        for rate in rates.into_iter().chain(self.slow.iter().map(|slow| &slow.rate)) {
            cable(rate)?;
        }
        if let Some(rack) = &self.rack {
            rack.rate.parse::<Rate>()?;
        }
        let plain = !self.warm && self.rack.is_none() && self.events.is_empty();
        ensure!(plain || !self.layers, "layers go with neither warm, nor rack, nor events");
        Ok(())
    }

    /// Bytes of each blob.
    pub const fn blob_size(&self) -> u64 {
        self.size_kib * 1024
    }

    /// Bytes that every node wants.
    pub const fn size(&self) -> u64 {
        self.blob_size() * self.blobs as u64
    }

    /// The cable of a node, numbered from 0.
    ///
    /// # Errors
    /// For a rate that can't be read.
    pub fn node_link(&self, node: usize) -> Result<Link> {
        let own = self.slow.iter().find(|slow| slow.node as usize == node + 1);
        both_ways(own.map_or(&self.rate, |slow| &slow.rate))
    }

    /// True if the cable of a node, numbered from 0, differs from the others'.
    pub fn has_own_cable(&self, node: usize) -> bool {
        self.slow.iter().any(|slow| slow.node as usize == node + 1)
    }

    /// The seed's cable.
    ///
    /// # Errors
    /// For a rate that can't be read.
    pub fn seed_link(&self) -> Result<Link> {
        both_ways(&self.seed_rate)
    }

    /// The origin's cable.
    ///
    /// # Errors
    /// For a rate that can't be read.
    pub fn origin_link(&self) -> Result<Link> {
        both_ways(&self.origin_rate)
    }

    /// True if a node, numbered from 0, stands in the second rack.
    pub fn is_in_second_rack(&self, node: usize) -> bool {
        self.rack.is_some() && node >= (self.nodes as usize).div_ceil(2)
    }

    /// When a node, numbered from 0, starts: with the event that has it join, if it neither leaves nor dies before.
    ///
    /// # Errors
    /// For a rate that can't be read.
    pub fn arrival(&self, node: usize) -> Result<Duration> {
        let bound = self.bound_of(|node| self.usual_arrival(node))?;
        let number = node as u32 + 1;
        let is_its = |event: Event| [Event::Join(number), Event::Leave(number), Event::Kill(number)].contains(&event);
        let own = self.events.iter().filter(|at| is_its(at.event));
        let first = own.map(|at| (at.when.after(bound), at.event)).min_by_key(|(after, _)| *after);
        let joins = first.filter(|(_, event)| *event == Event::Join(number));
        Ok(joins.map_or_else(|| self.usual_arrival(node), |(after, _)| after))
    }

    /// When a node, numbered from 0, starts if no event says so.
    fn usual_arrival(&self, node: usize) -> Duration {
        Duration::from_secs_f64(self.arrive_every * node as f64)
    }

    /// The events in the order of time, each with how long after the start; without the joins that are
    /// [`arrival`](Self::arrival)s.
    ///
    /// # Errors
    /// For a rate that can't be read.
    pub fn timeline(&self) -> Result<Vec<(Duration, Event)>> {
        let bound = self.bound_of(|node| self.usual_arrival(node))?;
        let mut line: Vec<_> = self.events.iter().map(|at| (at.when.after(bound), at.event)).collect();
        line.sort_by_key(|(after, _)| *after);
        let mut seen = BTreeSet::from([SEED]);
        line.retain(|(_, event)| match event {
            Event::Join(node) => !seen.insert(*node),
            Event::Leave(node) | Event::Kill(node) => {
                seen.insert(*node);
                true
            }
            _ => true,
        });
        Ok(line)
    }

    /// Seconds that a node, numbered from 0, needs at the least from its own start; 0 where no cable is shaped.
    ///
    /// # Errors
    /// For a rate that can't be read.
    pub fn own_bound(&self, node: usize) -> Result<f64> {
        let size = self.size() as f64;
        let mut uploads = goodput(&self.seed_rate)?;
        for other in 0..self.nodes as usize {
            uploads += carried(self.node_link(other)?.up);
        }
        let mut bound = f64::from(self.nodes) * size / uploads;
        for rate in [&self.seed_rate, &self.origin_rate] {
            bound = bound.max(size / goodput(rate)?);
        }
        if let Some(rack) = self.rack.as_ref().filter(|_| self.is_in_second_rack(node)) {
            bound = bound.max(size / goodput(&rack.rate)?);
        }
        Ok(bound.max(size / carried(self.node_link(node)?.down)))
    }

    /// T*: seconds from the first start until the last node can have all.
    ///
    /// # Errors
    /// For a rate that can't be read.
    pub fn bound(&self) -> Result<f64> {
        let arrivals: Vec<Duration> = (0..self.nodes as usize).map(|node| self.arrival(node)).collect::<Result<_>>()?;
        self.bound_of(|node| arrivals[node])
    }

    fn bound_of(&self, arrival: impl Fn(usize) -> Duration) -> Result<f64> {
        let mut bound = 0.0_f64;
        for node in 0..self.nodes as usize {
            bound = bound.max(self.own_bound(node)? + arrival(node).as_secs_f64());
        }
        Ok(bound)
    }
}

/// The rate of a cable, if it has one.
fn cable(text: &str) -> Result<Option<Rate>> {
    if text == UNSHAPED { Ok(None) } else { Ok(Some(text.parse()?)) }
}

fn both_ways(text: &str) -> Result<Link> {
    let rate = cable(text)?;
    Ok(Link { up: rate, down: rate })
}

/// Content bytes that a cable of this rate carries in a second.
fn carried(rate: Option<Rate>) -> f64 {
    rate.map_or(f64::INFINITY, |rate| rate.bytes_per_second() as f64 * SEGMENT_CONTENT / SEGMENT_FRAME)
}

fn goodput(rate: &str) -> Result<f64> {
    Ok(carried(cable(rate)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(name: &str) -> Scenario {
        Scenario::open(name).unwrap()
    }

    #[test]
    fn the_trees_scenarios_have_bounds() {
        let bound = open("gate").bound().unwrap();
        assert!((bound - 11.23).abs() < 0.01, "{bound}");
        // The slow node alone decides when the last can be done; the last to arrive does so where they are staggered.
        let slow = open("one-slow");
        assert!(slow.own_bound(7).unwrap() > 7.9 * slow.own_bound(0).unwrap());
        let staggered = open("staggered");
        assert!(staggered.bound().unwrap() > staggered.own_bound(0).unwrap() + 6.9);
    }

    #[test]
    fn without_shaped_cables_there_is_no_bound() {
        let unshaped = Scenario::open("pull-unshaped").unwrap();
        assert_eq!((unshaped.bound().unwrap(), unshaped.node_link(0).unwrap()), (0.0, Link::default()));
        assert!(Scenario::open("pull").unwrap().bound().unwrap() > 1.0);
    }

    #[test]
    fn a_node_that_joins_by_an_event_arrives_with_it_and_shares_are_of_the_bound_of_the_others() {
        let scenario =
            Scenario::equal(4, 8 << 10, "8mbit").at(percent(50), Event::Join(2)).at(percent(25), Event::Kill(3));
        let all_at_once = Scenario::equal(4, 8 << 10, "8mbit").bound().unwrap();
        let half = scenario.arrival(1).unwrap().as_secs_f64();
        assert!((half - all_at_once / 2.0).abs() < 1e-6, "{half}");
        assert!((scenario.bound().unwrap() - all_at_once * 1.5).abs() < 1e-6);
        let again = scenario.at(percent(80), Event::Join(2)).at(percent(75), Event::Join(3));
        let told: Vec<Event> = again.timeline().unwrap().into_iter().map(|(_, event)| event).collect();
        assert_eq!(told, [Event::Kill(3), Event::Join(3), Event::Join(2)], "the first join of 2 is its arrival");
        assert_eq!(again.arrival(2).unwrap(), Duration::ZERO, "3 was there before it died");
    }

    #[test]
    fn a_scenario_is_written_as_it_is_read() {
        let mut scenario = open("killed");
        scenario.name.clear();
        let text = toml::to_string(&scenario).unwrap();
        assert_eq!(Scenario::parse("", &text).unwrap(), scenario, "{text}");
    }

    #[test]
    fn a_misspelt_key_is_an_error() {
        let text = std::fs::read_to_string(files::directory().join("gate.toml")).unwrap();
        assert!(Scenario::parse("gate", &text).is_ok());
        for (right, wrong) in
            [("nodes", "noeds"), ("nodes = 8", "nodes = 0"), ("200mbit", "fast"), ("seed_copies", "copies")]
        {
            assert!(Scenario::parse("gate", &text.replace(right, wrong)).is_err(), "{wrong}");
        }
    }
}
