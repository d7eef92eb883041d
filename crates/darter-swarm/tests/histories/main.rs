//! Histories of a swarm's leads: deaths, partitions, lost messages and late ones, thousands of each kind, all drawn from a number.
//! A failing history names its number; `DARTER_HISTORY=NUMBER cargo test -p darter-swarm --test histories NAME` tells what happens in it.
//! Put the number into `KEPT` with the test's name, so that it is told first from then on. `DARTER_HISTORIES=COUNT` tells COUNT of each test.

mod origin;
mod pull;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use darter_core::{NodeId, rendezvous};
use darter_swarm::{Leader, OriginReader};

use crate::origin::Led;
use crate::pull::Lie;
use crate::world::{Agent, BLOB, Fault, Random, World};

/// Histories that failed once, each by the name of its test and its number.
const KEPT: &[(&str, u64)] = &[];

/// How long everything is quiet before the world is looked at.
const QUIET: Duration = Duration::from_secs(60);

/// Runs `histories` histories of a test, the kept ones first; that of `DARTER_HISTORY` alone, with all that happens in it, if that is set.
fn each<W: Transcript>(test: &str, histories: u64, mut run: impl FnMut(u64) -> (W, Result<(), String>)) {
    let number = |name| std::env::var(name).ok().map(|number| number.parse::<u64>().expect("a number"));
    let kept = KEPT.iter().filter(|(name, _)| *name == test).map(|(_, number)| *number);
    let (only, histories) = (number("DARTER_HISTORY"), number("DARTER_HISTORIES").unwrap_or(histories));
    let numbers: Vec<u64> = only.map_or_else(|| kept.chain(0..histories).collect(), |number| vec![number]);
    for number in numbers {
        let (world, outcome) = run(number);
        if only.is_some() {
            println!("{}", world.told());
        }
        if let Err(what) = outcome {
            panic!("{what}; tell the history with DARTER_HISTORY={number}");
        }
    }
}

/// The events of a history, a line each.
trait Transcript {
    fn told(&self) -> String;
}

impl Transcript for World {
    fn told(&self) -> String {
        self.trace.clone()
    }
}

impl Transcript for Led {
    fn told(&self) -> String {
        self.told.join("\n")
    }
}

/// The lead of each living agent in the end, or why one has none.
fn led(world: &World) -> Result<Vec<usize>, String> {
    let mut roots = Vec::new();
    for (at, agent) in world.agents.iter().enumerate().filter(|(_, agent)| agent.alive) {
        if agent.session.leadership().is_searching() {
            return Err(format!("{at} still looks for a lead"));
        }
        let (mut on, mut steps) = (at, 0);
        loop {
            let it = &world.agents[on];
            match it.session.leader() {
                Leader::Me => break,
                Leader::Nobody => return Err(format!("nobody leads {on}")),
                Leader::Node(lead) => {
                    let lead = world.at(lead);
                    if !world.agents[lead].alive || !world.agents[lead].leads(it.id) {
                        return Err(format!("{on} follows {lead}, which does not lead it"));
                    }
                    on = lead;
                }
            }
            steps += 1;
            if steps > world.agents.len() {
                return Err(format!("{at} follows itself by way of others"));
            }
        }
        roots.push(on);
    }
    roots.sort_unstable();
    roots.dedup();
    Ok(roots)
}

/// Draws up to `count` faults that happen within `within`.
fn faults(world: &mut World, count: u64, within: Duration) {
    let (agents, within) = (world.agents.len() as u64, within.as_millis() as u64);
    for _ in 0..world.random().below(count + 1) {
        let random = world.random();
        let (one, other) = (random.below(agents) as usize, random.below(agents) as usize);
        let fault = match random.below(6) {
            0 | 1 => Fault::Kill(one),
            2 => Fault::Start(one),
            3 => Fault::Part(random.next()),
            4 => Fault::Heal,
            _ => Fault::Break(one, other),
        };
        let at = world.random().millis(0, within);
        world.fault(at, fault);
    }
}

fn ids(world: &World, alive: impl Fn(usize) -> bool) -> Vec<NodeId> {
    world.agents.iter().enumerate().filter(|(at, _)| alive(*at)).map(|(_, agent)| agent.id).collect()
}

#[test]
fn when_the_lead_dies_all_choose_the_one_that_ranks_first_and_are_greeted_by_it() {
    each("when_the_lead_dies", 2_600, |number| {
        let nodes = 3 + Random(number).below(7) as usize;
        let mut world = World::new(number, 1, nodes, 16);
        world.run_for(Duration::from_secs(5));
        world.fault(Duration::ZERO, Fault::Kill(0));
        // The last one comes when the seed is long gone, and knows nobody.
        world.fault(Duration::ZERO, Fault::Kill(nodes));
        world.fault(Duration::from_secs(20), Fault::Start(nodes));
        world.run_for(QUIET);
        let first = rendezvous::owner(&BLOB.0, &ids(&world, |at| (1..nodes).contains(&at))).map(|id| world.at(id));
        let outcome = led(&world).and_then(|roots| {
            if roots != first.into_iter().collect::<Vec<_>>() {
                return Err(format!("{roots:?} lead instead of {first:?}"));
            }
            let strangers = (1..=nodes).find(|at| world.agents[*at].session.met().len() != nodes - 1);
            strangers.map_or(Ok(()), |at| Err(format!("{at} has not met everybody")))
        });
        (world, outcome)
    });
}

#[test]
fn whatever_happens_everybody_is_led_and_by_a_seed_where_one_lives() {
    each("whatever_happens", 3_000, |number| {
        let mut random = Random(number);
        let (seeds, nodes) = (1 + random.below(2) as usize, 2 + random.below(8) as usize);
        let mut world = World::new(number, seeds, nodes, 16);
        world.loses_one_in = [0, 200, 40][random.below(3) as usize];
        faults(&mut world, 12, Duration::from_secs(20));
        world.run_for(Duration::from_secs(20));
        world.loses_one_in = 0;
        world.fault(Duration::ZERO, Fault::Heal);
        world.run_for(QUIET);
        let outcome = led(&world).and_then(|roots| {
            let has_seed = world.agents[..seeds].iter().any(|seed| seed.alive);
            let others = roots.iter().any(|root| *root >= seeds);
            if has_seed && others { Err(format!("{roots:?} lead though a seed lives")) } else { Ok(()) }
        });
        (world, outcome)
    });
}

#[test]
fn whatever_happens_and_whoever_lies_all_others_are_given_the_whole_and_find_it_right() {
    each("whoever_lies", 4_000, |number| {
        let mut random = Random(number);
        let (seeds, nodes) = (random.below(3) as usize, 3 + random.below(7) as usize);
        let mut world = World::new(number, seeds, nodes, 16);
        let liars = random.below(4) as usize;
        let lies = (0..liars).map(|_| {
            let lie = Lie::ALL[random.below(Lie::ALL.len() as u64) as usize];
            (random.below((seeds + nodes) as u64) as usize, lie)
        });
        world.pull(lies.collect::<Vec<_>>());
        world.loses_one_in = [0, 200, 40][random.below(3) as usize];
        faults(&mut world, 12, Duration::from_secs(20));
        world.run_for(Duration::from_secs(20));
        world.loses_one_in = 0;
        world.fault(Duration::ZERO, Fault::Heal);
        // Two seeds and two leads in a row may give nothing before somebody reads the origin by itself.
        world.run_for(QUIET * 4);
        let is_open = |agent: &Agent| agent.alive && agent.lie.is_none() && !agent.is_complete;
        let open: Vec<usize> = (0..world.agents.len()).filter(|at| is_open(&world.agents[*at])).collect();
        (world, if open.is_empty() { Ok(()) } else { Err(format!("{open:?} are never done")) })
    });
}

#[test]
fn in_a_large_swarm_whose_members_know_few_others_they_still_come_to_one_lead() {
    let (mut histories, mut leads) = (0, 0);
    each("in_a_large_swarm", 200, |number| {
        let mut world = World::new(number, 1, 40, 4);
        world.run_for(Duration::from_secs(5));
        world.fault(Duration::ZERO, Fault::Kill(0));
        world.run_for(QUIET);
        let outcome = led(&world).map(|roots| {
            histories += 1;
            leads += roots.len();
        });
        (world, outcome)
    });
    assert!(leads * 10 <= histories * 12, "{leads} leads in {histories} swarms");
}

#[test]
fn who_cannot_reach_some_gets_other_neighbours_in_their_place() {
    const NODES: usize = 40;
    each("who_cannot_reach_some", 200, |number| {
        // They come one after the other, so that there is somebody who may be out of reach.
        let mut world = World::new(number, 1, 0, 6);
        world.add(NODES, |random| random.one_in(10));
        world.run_for(QUIET);
        let least = world.agents[1..].iter().map(|agent| agent.session.met().len()).min().unwrap_or_default();
        let outcome = led(&world).and_then(|_| {
            if least < 5 { Err(format!("one has only {least} neighbours that it reaches")) } else { Ok(()) }
        });
        (world, outcome)
    });
}

#[test]
fn the_same_number_is_the_same_history() {
    let tell = |number| {
        let mut world = World::new(number, 1, 8, 16);
        (world.is_traced, world.loses_one_in) = (true, 40);
        faults(&mut world, 12, Duration::from_secs(20));
        world.run_for(Duration::from_secs(30));
        world.trace
    };
    assert_eq!(tell(7), tell(7));
    assert_ne!(tell(7), tell(8));
}

#[test]
fn whatever_happens_to_its_readers_a_lead_reads_each_piece_once_and_comes_to_the_end() {
    let (mut sent, mut given, mut worked) = (0, 0, BTreeSet::new());
    each("whatever_happens_to_its_readers", 300, |number| {
        let mut led = Led::new(number);
        let outcome = led.run();
        (sent, given) = (sent + led.sent, given + led.given);
        worked.extend(led.worked.iter().copied());
        let twice = led.read.iter().position(|times| *times > 1);
        let outcome = outcome.and(twice.map_or(Ok(()), |piece| Err(format!("piece {piece} is read twice"))));
        (led, outcome)
    });
    // All that may happen does.
    let beside = OriginReader::Beside(1);
    for reader in [OriginReader::Everything, OriginReader::Errands, beside] {
        assert!(worked.contains(&reader), "{worked:?}");
    }
    assert!(sent > 0 && given > 0, "{sent} sent, {given} given");
}

#[test]
fn the_same_number_is_the_same_lead() {
    let tell = |number| {
        let mut led = Led::new(number);
        led.run().expect("it comes to its end");
        led.told
    };
    assert!(!tell(7).is_empty());
    assert_eq!(tell(7), tell(7));
    assert_ne!(tell(7), tell(8));
}
