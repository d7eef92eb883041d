//! The command line's words for a fleet.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use darter_core::{Place, Rate};
use darter_scenario::{Event, Lie, SEED};

use crate::scenario::{Scenario, SharedLink, Starts};

/// A fleet of equal nodes, and what makes them differ.
#[derive(Clone, Debug, Args)]
pub struct FleetOptions {
    /// How many pieces the blob has.
    #[arg(long, default_value_t = 1024)]
    pub pieces: u32,
    /// Bytes in each piece.
    #[arg(long, default_value_t = 1 << 20)]
    pub piece_bytes: u64,
    /// Rate of each node, up and down.
    #[arg(long, default_value = "125MB/s")]
    pub rate: Rate,
    /// Rate of the seed; a node's rate if not given.
    #[arg(long)]
    pub seed_rate: Option<Rate>,
    /// Seeds that hold the blob from the start; the first leads.
    #[arg(long, default_value_t = 1)]
    pub seeds: usize,
    /// Rate of the origin; without it the seeds hold the blob from the start.
    #[arg(long)]
    pub origin_rate: Option<Rate>,
    /// The rate that the origin gives one connection; the lead reads it by several then.
    #[arg(long, requires = "origin_rate")]
    pub origin_each: Option<Rate>,
    /// The most connections by which the lead reads such an origin.
    #[arg(long, default_value_t = 8)]
    pub origin_connections: u8,
    /// When nodes come: all, poisson:NODES_PER_SECOND, rolling:NODES/SECONDS (NODES of them every SECONDS).
    #[arg(long, default_value = "all")]
    pub arrivals: Arrivals,
    /// Kills at a share of T*: seed@0.6, or a share of the nodes such as 0.05@0.5. May be given several times.
    #[arg(long = "kill", value_name = "WHO@WHEN")]
    pub kills: Vec<Kill>,
    /// A share of the nodes is slower from the start by this factor: 0.05:8. May be given several times.
    #[arg(long = "slow", value_name = "SHARE:FACTOR")]
    pub slow: Vec<Slow>,
    /// So many of the nodes lie, such as silent:1: silent, drip (answers a byte at a time), refuse, claim (says that it holds all),
    /// withdraw (takes back what it is asked for), late (answers after ten seconds), wrong (sends wrong pieces), vanish (is gone when half
    /// of T* has passed). T* stays that of all; times are those of the honest ones. May be given several times.
    #[arg(long = "liars", value_name = "KIND:COUNT")]
    pub liars: Vec<Liars>,
    /// Spreads the nodes over this many racks; the seeds stand in the first.
    #[arg(long, default_value_t = 1)]
    pub racks: usize,
    /// Spreads the racks over this many zones.
    #[arg(long, default_value_t = 1)]
    pub zones: usize,
    /// Rate of the link between a rack and the others.
    #[arg(long)]
    pub rack_rate: Option<Rate>,
    /// Rate of the link between a zone and the others.
    #[arg(long)]
    pub zone_rate: Option<Rate>,
    /// Every node starts a program that reads this many of the pieces, here and there, one after the other, and nothing else. T* and
    /// copies are of these.
    #[arg(long, value_name = "PIECES", conflicts_with = "read")]
    pub touch: Option<u32>,
    /// Nodes know from the start which pieces these are, as by a first-touch profile.
    #[arg(long, requires = "touch")]
    pub listed: bool,
    /// Every node has a reader in order, from its joining on.
    #[arg(long)]
    pub read: bool,
    /// Time of a message from node to node, one way, in microseconds.
    #[arg(long, default_value_t = 200)]
    pub latency: u64,
    /// Latency between racks besides, in microseconds.
    #[arg(long, default_value_t = 0)]
    pub rack_latency: u64,
    /// Latency between zones besides, in microseconds.
    #[arg(long, default_value_t = 1000)]
    pub zone_latency: u64,
    /// The seed of all randomness: the same number gives the same run.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// When nodes come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// All at the start.
    All,
    /// At random, this many a second on average.
    Poisson(f64),
    /// A rolling update: the number of nodes at a time, and the seconds between.
    Rolling(usize, f64),
}

/// A share of the nodes, or the seed, killed at a share of T*.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kill {
    /// `None` for the seed.
    share: Option<f64>,
    at: f64,
}

/// A share of the nodes that is slower by a factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slow {
    share: f64,
    factor: u32,
}

/// Nodes that lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liars {
    lie: Lie,
    count: usize,
}

impl FromStr for Liars {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not KIND:COUNT, such as silent:1");
        let (lie, count) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Self { lie: lie.parse()?, count: count.parse().map_err(|_| wrong())? })
    }
}

impl FromStr for Arrivals {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not all, poisson:NODES_PER_SECOND or rolling:NODES/SECONDS");
        if text == "all" {
            return Ok(Self::All);
        }
        match text.split_once(':').ok_or_else(wrong)? {
            ("poisson", rate) => rate.parse().ok().filter(|rate| *rate > 0.0).map(Self::Poisson).ok_or_else(wrong),
            ("rolling", batches) => {
                let (nodes, seconds) = batches.split_once('/').ok_or_else(wrong)?;
                let nodes = nodes.parse().ok().filter(|nodes| *nodes > 0).ok_or_else(wrong)?;
                let seconds = seconds.parse().ok().filter(|seconds: &f64| *seconds >= 0.0).ok_or_else(wrong)?;
                Ok(Self::Rolling(nodes, seconds))
            }
            _ => Err(wrong()),
        }
    }
}

impl FromStr for Kill {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not seed@WHEN or SHARE@WHEN, such as 0.05@0.5");
        let (who, at) = text.split_once('@').ok_or_else(wrong)?;
        let at = at.parse().ok().filter(|at: &f64| at.is_finite() && *at >= 0.0).ok_or_else(wrong)?;
        let share = if who == "seed" { None } else { Some(share(who).ok_or_else(wrong)?) };
        Ok(Self { share, at })
    }
}

impl FromStr for Slow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not SHARE:FACTOR, such as 0.05:8");
        let (part, factor) = text.split_once(':').ok_or_else(wrong)?;
        let share = share(part).ok_or_else(wrong)?;
        let factor = factor.parse().ok().filter(|factor| *factor > 0).ok_or_else(wrong)?;
        Ok(Self { share, factor })
    }
}

fn share(text: &str) -> Option<f64> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share))
}

impl FleetOptions {
    /// The scenario of `nodes` nodes.
    pub fn scenario(&self, nodes: usize) -> Scenario {
        let seeds = self.seeds.max(1);
        let mut scenario = Scenario::equal(nodes + seeds - 1, self.pieces, self.piece_bytes, self.rate);
        scenario.origin = self.origin_rate;
        scenario.origin_each = self.origin_each;
        scenario.origin_connections = if self.origin_each.is_some() { self.origin_connections } else { 1 };
        scenario.seed = self.seed;
        scenario.starts = self.touch.map(|touched| Starts::scattered(touched, self.pieces, self.listed));
        scenario.network.latency = Duration::from_micros(self.latency);
        scenario.network.rack_latency = Duration::from_micros(self.rack_latency);
        scenario.network.zone_latency = Duration::from_micros(self.zone_latency);
        for seed in &mut scenario.nodes[..seeds] {
            seed.up = self.seed_rate.unwrap_or(self.rate);
            seed.holds = self.origin_rate.is_none();
        }
        self.place(&mut scenario, seeds);
        let mut random = Random(self.seed);
        let least = scenario.least_time().as_secs_f64();
        self.arrive(&mut scenario, seeds, &mut random);
        if self.read {
            scenario.read_in_order();
        }
        for slow in &self.slow {
            for node in chosen(slow.share, seeds, nodes, &mut random) {
                scenario.events.push((Duration::ZERO, Event::Slow { node, by: slow.factor }));
            }
        }
        let mut honest = (seeds + nodes) as u32;
        for Liars { lie, count } in &self.liars {
            for _ in 0..*count {
                honest = honest.saturating_sub(1).max(seeds as u32);
                scenario.lie(honest, *lie);
            }
        }
        for kill in &self.kills {
            let at = Duration::from_secs_f64(kill.at * least);
            match kill.share {
                None => scenario.events.push((at, Event::Kill(SEED))),
                Some(share) => {
                    let victims = chosen(share, seeds, nodes, &mut random);
                    scenario.events.extend(victims.into_iter().map(|node| (at, Event::Kill(node))));
                }
            }
        }
        scenario
    }

    fn place(&self, scenario: &mut Scenario, seeds: usize) {
        let racks = self.racks.max(self.zones).max(1);
        let zone = |rack: usize| if self.zones > 1 { format!("z{}", rack % self.zones) } else { String::new() };
        let name = |rack: usize| if racks > 1 { format!("r{rack}") } else { String::new() };
        for (index, node) in scenario.nodes.iter_mut().enumerate() {
            let rack = index.saturating_sub(seeds - 1) % racks;
            node.place = Place { zone: zone(rack), rack: name(rack), ..Place::default() };
        }
        for rack in 0..racks {
            let place = Place { zone: zone(rack), rack: name(rack), ..Place::default() };
            scenario.links.extend(self.rack_rate.map(|rate| SharedLink { place, rate }));
        }
        for at in 0..self.zones.max(1) {
            let place = Place { zone: zone(at), ..Place::default() };
            scenario.links.extend(self.zone_rate.map(|rate| SharedLink { place, rate }));
        }
    }

    fn arrive(&self, scenario: &mut Scenario, seeds: usize, random: &mut Random) {
        let mut at = 0.0;
        for (nth, node) in scenario.nodes[seeds..].iter_mut().enumerate() {
            match self.arrivals {
                Arrivals::All => {}
                Arrivals::Poisson(rate) => at -= (1.0 - random.part()).ln() / rate,
                Arrivals::Rolling(batch, seconds) => at = (nth / batch) as f64 * seconds,
            }
            node.joins = Some(Duration::from_secs_f64(at));
        }
    }
}

/// So many of the nodes, each at most once.
fn chosen(share: f64, seeds: usize, nodes: usize, random: &mut Random) -> Vec<u32> {
    let mut all: Vec<u32> = (seeds as u32..(seeds + nodes) as u32).collect();
    let count = (share * nodes as f64).round() as usize;
    for at in 0..count {
        let other = at + (random.part() * (nodes - at) as f64) as usize;
        all.swap(at, other.min(nodes - 1));
    }
    all.truncate(count);
    all
}

/// A small generator (SplitMix64), for what is fixed before a run.
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// A number from 0 up to, not including, 1.
    fn part(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((value ^ (value >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood_or_refused() {
        assert_eq!("poisson:12.5".parse(), Ok(Arrivals::Poisson(12.5)));
        assert_eq!("rolling:100/5".parse(), Ok(Arrivals::Rolling(100, 5.0)));
        for wrong in ["", "poisson:0", "rolling:5", "rolling:0/1", "often"] {
            assert!(wrong.parse::<Arrivals>().is_err(), "{wrong}");
        }
        assert_eq!("seed@0.6".parse(), Ok(Kill { share: None, at: 0.6 }));
        assert!("1.5@0.6".parse::<Kill>().is_err());
        assert_eq!("0.05:8".parse(), Ok(Slow { share: 0.05, factor: 8 }));
        assert_eq!("drip:2".parse(), Ok(Liars { lie: Lie::Drip, count: 2 }));
        for wrong in ["drip", "loud:1", "drip:some"] {
            assert!(wrong.parse::<Liars>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_chosen_differ_and_are_as_many_as_said() {
        let mut some = chosen(0.25, 2, 400, &mut Random(7));
        some.sort_unstable();
        some.dedup();
        assert_eq!(some.len(), 100);
        assert!(some.iter().all(|node| (2..402).contains(node)));
    }
}
