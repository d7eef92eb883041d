//! Histories of a swarm's leads: deaths, partitions, lost messages and late ones, thousands of each kind, all drawn from a number.
//! A failing history names its number; `DARTER_HISTORY=NUMBER cargo test -p darter-swarm --test histories` tells what happens in it.

mod world;

use std::time::Duration;

use darter_core::{NodeId, rendezvous};
use darter_swarm::Leader;

use crate::world::{BLOB, Fault, Random, World};

/// Histories of each kind.
const HISTORIES: u64 = 2_000;

/// How long everything is quiet before the world is looked at.
const QUIET: Duration = Duration::from_secs(60);

/// Runs each history; that of `DARTER_HISTORY` alone, with all that happens in it, if that is set.
fn each(mut run: impl FnMut(u64) -> (World, Result<(), String>)) {
    let only = std::env::var("DARTER_HISTORY").ok().map(|number| number.parse::<u64>().expect("a history is a number"));
    let numbers = only.map_or(0..HISTORIES, |number| number..number + 1);
    for number in numbers {
        let (world, outcome) = run(number);
        if only.is_some() {
            println!("{}", world.trace);
        }
        if let Err(what) = outcome {
            panic!("{what}; tell the history with DARTER_HISTORY={number}");
        }
    }
}

/// Whether everybody who lives is led, and by whom in the end.
fn led(world: &World) -> Result<Vec<usize>, String> {
    let mut roots = Vec::new();
    for (at, agent) in world.agents.iter().enumerate().filter(|(_, agent)| agent.alive) {
        if agent.leadership.is_searching() {
            return Err(format!("{at} still looks for a lead"));
        }
        let (mut on, mut steps) = (at, 0);
        loop {
            let it = &world.agents[on];
            match it.leadership.leader() {
                Leader::Me => break,
                Leader::Nobody => return Err(format!("nobody leads {on}")),
                Leader::Node(lead) => {
                    let lead = world.at(lead);
                    if !world.agents[lead].alive || !world.agents[lead].inside.contains(&it.id) {
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
    each(|number| {
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
            let strangers = (1..=nodes).find(|at| world.agents[*at].met.len() != nodes - 1);
            strangers.map_or(Ok(()), |at| Err(format!("{at} has not met everybody")))
        });
        (world, outcome)
    });
}

#[test]
fn whatever_happens_everybody_is_led_and_by_a_seed_where_one_lives() {
    each(|number| {
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
fn in_a_large_swarm_whose_members_know_few_others_they_still_come_to_one_lead() {
    let (mut histories, mut leads) = (0, 0);
    each(|number| {
        if number % 10 > 0 {
            return (World::new(number, 1, 1, 4), Ok(()));
        }
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
    each(|number| {
        if number % 10 > 0 {
            return (World::new(number, 1, 1, 6), Ok(()));
        }
        // They come one after the other, so that there is somebody who may be out of reach.
        let mut world = World::new(number, 1, 0, 6);
        world.add(NODES, |random| random.one_in(10));
        world.run_for(QUIET);
        let least = world.agents[1..].iter().map(|agent| agent.met.len()).min().unwrap_or_default();
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
        world.loses_one_in = 40;
        faults(&mut world, 12, Duration::from_secs(20));
        world.run_for(Duration::from_secs(30));
        world.trace
    };
    assert_eq!(tell(7), tell(7));
    assert_ne!(tell(7), tell(8));
}
