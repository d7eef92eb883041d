//! Histories of whole pulls: fleets that are drawn from a number, with nodes that come, go, die, turn slow and lie, hosts that are cut off,
//! bits that flip, disks that fill, clocks that jump, and leads that die. Everybody who stays ends, the origin is asked for nothing that a
//! live node holds, whoever lies, but for less than a copy where leads die, or one for each node where the seed lies; and the same number is the same history.
//!
//! A failing history names its number; `DARTER_HISTORY=NUMBER cargo test -p darter-sim --test histories` tells what happens in it.
//! Put it into `KEPT`, so that it is told first from then on. `DARTER_HISTORIES=COUNT` tells COUNT of them.

use std::time::Duration;

use darter_core::{Place, Rate};
use darter_sim::{Clock, Event, Fleet, Lie, NodeSpec, SEED, Scenario};

/// Histories of each run.
const HISTORIES: u64 = 1_000;

/// Histories that failed once.
const KEPT: [u64; 4] = [530, 532, 2090, 2225];

/// The same of those with a false seed.
const KEPT_OF_FALSE_SEEDS: [u64; 6] = [1903, 2686, 4654, 5742, 5880, 8329];

/// The same of those with a seed that makes up hashes.
const KEPT_OF_FORGING_SEEDS: [u64; 3] = [497, 4654, 5742];

/// One history in this many is told twice.
const TOLD_TWICE: u64 = 10;

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % bound
    }

    fn millis(&mut self, to: u64) -> Duration {
        Duration::from_millis(self.below(to))
    }

    /// From `from` to `to` megabytes per second.
    fn rate(&mut self, from: u64, to: u64) -> Rate {
        Rate::from_bytes_per_second((from + self.below(to - from)) * 1_000_000).unwrap()
    }

    fn node(&mut self) -> NodeSpec {
        NodeSpec {
            place: Place { rack: format!("r{}", self.below(3)), ..Place::default() },
            up: self.rate(2, 20),
            down: self.rate(2, 20),
            joins: (self.below(10) > 0).then(|| self.millis(3000)),
            holds: false,
        }
    }

    fn event(&mut self, nodes: u64) -> Event {
        let node = 1 + self.below(nodes) as u32;
        match self.below(24) {
            0..=2 => Event::Join(node),
            3 | 4 => Event::Leave(node),
            5 | 6 => Event::Kill(node),
            7..=9 => Event::Lie { node, how: Lie::ALL[self.below(Lie::ALL.len() as u64) as usize].0 },
            10 | 11 => Event::Slow { node, by: 2 + self.below(3) as u32 },
            12 => Event::KillLead {},
            13 => Event::Join(SEED),
            14 | 15 => Event::Cut(self.below(nodes + 1) as u32, node),
            16 | 17 => Event::Heal(self.below(nodes + 1) as u32, node),
            18 => Event::Corrupt(node),
            19 => Event::Flip(1 + self.below(nodes) as u32, node),
            20 => Event::FullDisk(node),
            21 => Event::Jump { node, clock: Clock::Monotonic, by: (1 + self.below(99)) as f64 },
            _ => Event::Read { node, from: self.below(40) as u32 },
        }
    }

    fn scenario(&mut self, number: u64) -> Scenario {
        let nodes = 2 + self.below(7);
        let mut events: Vec<_> = (0..self.below(12)).map(|_| (self.millis(6000), self.event(nodes))).collect();
        rot_only_while_the_seed_leads(&mut events);
        let rate = Rate::from_bytes_per_second(1_000_000).unwrap();
        Scenario {
            nodes: (0..=nodes).map(|_| self.node()).collect(),
            events,
            patience: self.millis(1500),
            origin: (self.below(2) > 0).then(|| self.rate(1, 30)),
            seed: number,
            // Slowed down several times over, a node gets little.
            limit: Duration::from_secs(1800),
            ..Scenario::equal(0, 1 + self.below(149) as u32, 256 << 10, rate)
        }
    }
}

/// Nobody who may come to lead has a disk that is full or rotten: leads that do are not simulated.
fn rot_only_while_the_seed_leads(events: &mut Vec<(Duration, Event)>) {
    let needs_another =
        |what: &Event| matches!(what, Event::KillLead {} | Event::Cut(SEED, _) | Event::Lie { node: SEED, .. });
    if events.iter().any(|(_, what)| needs_another(what)) {
        events.retain(|(_, what)| !matches!(what, Event::Corrupt(_) | Event::FullDisk(_)));
    }
    // One with a full disk asks by name alone; what it wishes of a lead that has put it aside for wrong pieces is not simulated.
    if events.iter().any(|(_, what)| matches!(what, Event::FullDisk(_))) {
        events.retain(|(_, what)| !matches!(what, Event::Corrupt(_) | Event::Flip(..)));
    }
}

/// The same with a seed that turns liar, before anybody comes or later, and an origin that whoever finds that out may read.
fn with_a_false_seed(number: u64) -> Scenario {
    let mut scenario = Random(number).scenario(number);
    let mut random = Random(!number);
    // One that dies by itself is told elsewhere.
    let lies = Lie::ALL.map(|(lie, _)| lie).into_iter().filter(|lie| *lie != Lie::Vanish);
    let how = lies.clone().nth(random.below(lies.count() as u64) as usize).expect("there are some");
    let when = random.below(4) * random.below(1500);
    scenario.events.push((Duration::from_millis(when), Event::Lie { node: SEED, how }));
    rot_only_while_the_seed_leads(&mut scenario.events);
    scenario.origin = Some(scenario.origin.unwrap_or_else(|| random.rate(1, 30)));
    scenario
}

/// The same with a seed that makes up hashes from the start, and gives nothing.
fn with_a_forging_seed(number: u64) -> Scenario {
    let mut scenario = with_a_false_seed(number);
    let names_seed = |what: &Event| matches!(what, Event::Lie { node: SEED, .. });
    scenario.events.retain(|(_, what)| !names_seed(what));
    scenario.events.push((Duration::ZERO, Event::Lie { node: SEED, how: Lie::Silent }));
    Scenario { forges: true, ..scenario }
}

/// The same with a lead that dies, and one in its place that falls silent within a second of having taken over: it is cut off from everybody, and nobody is told, or
/// it says that it leads and gives nothing.
fn with_a_handover_to_a_silent_lead(number: u64) -> Scenario {
    let mut scenario = Random(number).scenario(number);
    let mut random = Random(!number);
    scenario.origin = Some(scenario.origin.unwrap_or_else(|| random.rate(1, 30)));
    let dies = random.millis(4000);
    scenario.events.push((dies, Event::KillLead {}));
    rot_only_while_the_seed_leads(&mut scenario.events);
    // Until then the same happens as without it.
    let elected = Fleet::new(&scenario).run().elected;
    let Some((takes_over, lead)) = elected.into_iter().find(|(when, _)| *when >= dies) else { return scenario };
    let (lead, others) = (lead as u32, scenario.nodes.len() as u32);
    let silent = takes_over + random.millis(1000);
    if random.below(3) == 0 {
        scenario.events.push((silent, Event::Lie { node: lead, how: Lie::Silent }));
        return scenario;
    }
    let back = (random.below(2) == 0).then(|| silent + random.millis(20_000));
    for other in (0..others).filter(|other| *other != lead) {
        scenario.events.push((silent, Event::Cut(other, lead)));
        scenario.events.extend(back.map(|back| (back, Event::Heal(other, lead))));
    }
    scenario
}

/// Tells a history. Fails with what is wrong with it.
fn tell(number: u64, scenario: &Scenario) -> Result<(), String> {
    let report = Fleet::new(scenario).run();
    if std::env::var_os("DARTER_HISTORY").is_some() {
        println!("{scenario:#?}\n{report:#?}");
    }
    if !report.unfinished.is_empty() {
        return Err(format!("{:?} never end", report.unfinished));
    }
    let has = |is: fn(&Event) -> bool| scenario.events.iter().any(|(_, what)| is(what));
    // A node that is cut off, or gave something wrong, is as good as away to others.
    let some_are_away =
        has(|what| matches!(what, Event::Cut(..) | Event::Corrupt(_) | Event::Flip(..) | Event::FullDisk(_)));
    // One that begins just when a lead dies may lead before those come to it that hold something.
    // A false seed is left by one after the other, and goes on leading those who have not left it: each may begin alone.
    let most = if has(|what| matches!(what, Event::Lie { node: SEED, .. })) {
        u64::from(scenario.pieces) * (scenario.nodes.len() as u64 - 1)
    } else if has(|what| matches!(what, Event::KillLead {})) {
        u64::from(scenario.pieces)
    } else {
        0
    };
    if report.origin_needless > most && !some_are_away {
        return Err(format!("{} pieces were read of the origin that a live node holds", report.origin_needless));
    }
    if number.is_multiple_of(TOLD_TWICE) && Fleet::new(scenario).run() != report {
        return Err("it is another one the second time".to_owned());
    }
    Ok(())
}

/// Tells the histories `kept`, which failed once, and `histories` others.
fn tell_all(kept: &[u64], histories: u64, scenario: impl Fn(u64) -> Scenario) {
    let number = |name| std::env::var(name).ok().map(|number| number.parse::<u64>().expect("a number"));
    let histories = 0..number("DARTER_HISTORIES").unwrap_or(histories);
    let only = number("DARTER_HISTORY").map(|number| vec![number]);
    let numbers: Vec<u64> = only.unwrap_or_else(|| kept.iter().copied().chain(histories).collect());
    let mut failed = Vec::new();
    for number in numbers {
        if let Err(what) = tell(number, &scenario(number)) {
            failed.push(format!("{what}; tell the history with DARTER_HISTORY={number}"));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn whatever_happens_everybody_who_stays_ends_with_right_bytes_read_once() {
    tell_all(&KEPT, HISTORIES, |number| Random(number).scenario(number));
}

/// Members find out that nothing comes of it, or nothing right, and one of them reads the origin for the others.
#[test]
fn a_seed_that_lies_keeps_nobody_from_what_the_origin_has() {
    tell_all(&KEPT_OF_FALSE_SEEDS, HISTORIES / 4, with_a_false_seed);
}

/// Nothing bears its hashes out: they are thrown away with it, also by whoever comes to lead with them and reads the origin.
#[test]
fn a_seed_that_makes_up_hashes_keeps_nobody_from_what_the_origin_has() {
    tell_all(&KEPT_OF_FORGING_SEEDS, HISTORIES / 4, with_a_forging_seed);
}

#[test]
fn a_lead_that_falls_silent_as_soon_as_it_has_taken_over_keeps_nobody_waiting() {
    tell_all(&[], HISTORIES / 4, with_a_handover_to_a_silent_lead);
}
