//! What must hold whatever happens to a fleet: everybody who stays finishes, the origin
//! is asked for nothing that a live node holds, and the same seed gives the same run.

use std::time::Duration;

use darter_core::{Place, Rate};
use darter_sim::{Clock, Event, Fleet, Lie, NodeSpec, SEED, Scenario};
use proptest::prelude::*;

fn node() -> impl Strategy<Value = NodeSpec> {
    let joins = prop::option::weighted(0.9, (0_u64..3000).prop_map(Duration::from_millis));
    (0_u8..3, 2_u64..20, 2_u64..20, joins).prop_map(|(rack, up, down, joins)| NodeSpec {
        place: Place { rack: format!("r{rack}"), ..Place::default() },
        up: Rate::from_bytes_per_second(up * 1_000_000).unwrap(),
        down: Rate::from_bytes_per_second(down * 1_000_000).unwrap(),
        joins,
        holds: false,
    })
}

fn event(nodes: usize) -> impl Strategy<Value = Event> {
    let any = 1..=nodes as u32;
    prop_oneof![
        3 => any.clone().prop_map(Event::Join),
        2 => any.clone().prop_map(Event::Leave),
        2 => any.clone().prop_map(Event::Kill),
        2 => (0..=nodes as u32, any.clone()).prop_map(|(one, other)| Event::Cut(one, other)),
        3 => (any.clone(), prop::sample::select(Lie::ALL.as_slice()))
            .prop_map(|(node, (how, _))| Event::Lie { node, how }),
        2 => (any.clone(), 2_u32..5).prop_map(|(node, by)| Event::Slow { node, by }),
        2 => (0..=nodes as u32, any.clone()).prop_map(|(one, other)| Event::Heal(one, other)),
        1 => any.clone().prop_map(Event::Corrupt),
        1 => (any.clone(), any.clone()).prop_map(|(from, to)| Event::Flip(from, to)),
        1 => any.clone().prop_map(Event::FullDisk),
        1 => (any.clone(), 1_u32..100)
            .prop_map(|(node, by)| Event::Jump { node, clock: Clock::Monotonic, by: by.into() }),
        1 => Just(Event::KillLead {}),
        1 => Just(Event::Join(SEED)),
        2 => (any, 0_u32..40).prop_map(|(node, from)| Event::Read { node, from }),
    ]
}

/// Nobody who may come to lead lies, or has a disk that is full or rotten: leads that do are not simulated.
fn lie_only_while_the_seed_leads(events: &mut Vec<(Duration, Event)>) {
    let needs_another = |what: &Event| matches!(what, Event::KillLead {} | Event::Cut(SEED, _));
    if events.iter().any(|(_, what)| needs_another(what)) {
        events.retain(|(_, what)| !matches!(what, Event::Lie { .. } | Event::Corrupt(_) | Event::FullDisk(_)));
    }
    // One with a full disk asks by name alone; what it wishes of a lead that has put it aside for wrong pieces is not simulated.
    if events.iter().any(|(_, what)| matches!(what, Event::FullDisk(_))) {
        events.retain(|(_, what)| !matches!(what, Event::Corrupt(_) | Event::Flip(..)));
    }
}

fn scenario() -> impl Strategy<Value = Scenario> {
    (2_usize..9).prop_flat_map(|nodes| {
        let events = prop::collection::vec(((0_u64..6000).prop_map(Duration::from_millis), event(nodes)), 0..12);
        let origin =
            prop::option::of((1_u64..30).prop_map(|rate| Rate::from_bytes_per_second(rate * 1_000_000).unwrap()));
        let specs = prop::collection::vec(node(), nodes + 1);
        let patience = (0_u64..1500).prop_map(Duration::from_millis);
        (specs, events, origin, 1_u32..150, any::<u64>(), patience).prop_map(
            |(nodes, mut events, origin, pieces, seed, patience)| {
                lie_only_while_the_seed_leads(&mut events);
                let rate = Rate::from_bytes_per_second(1_000_000).unwrap();
                Scenario {
                    nodes,
                    events,
                    origin,
                    seed,
                    patience,
                    // Slowed down several times over, a node gets little.
                    limit: Duration::from_secs(1800),
                    ..Scenario::equal(0, pieces, 256 << 10, rate)
                }
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_everybody_who_stays_ends_with_right_bytes_read_once(scenario in scenario()) {
        let report = Fleet::new(&scenario).run();
        prop_assert_eq!(&report.unfinished, &Vec::<usize>::new(), "everybody who stays finishes");
        // Who is slow or lies is waited for a little, and so is who stands still for a lead that takes over. Whoever is cut off, or gave
        // something wrong, is as good as away to others.
        let is_waited_for = |what: &Event| !matches!(what, Event::Join(_) | Event::Leave(_) | Event::Kill(_) | Event::Read { .. });
        if !scenario.events.iter().any(|(_, what)| is_waited_for(what)) {
            prop_assert_eq!(report.origin_needless, 0, "the origin is asked for nothing that somebody holds");
        }
        prop_assert_eq!(&report, &Fleet::new(&scenario).run(), "the same seed gives the same run");
    }
}
