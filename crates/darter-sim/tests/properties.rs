//! What must hold whatever happens to a fleet: everybody who stays finishes, the origin
//! is asked for nothing that a live node holds, and the same seed gives the same run.

use std::time::Duration;

use darter_core::{Place, Rate};
use darter_sim::{Fleet, Lie, NodeSpec, Operation, Scenario};
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

fn operation(nodes: usize) -> impl Strategy<Value = Operation> {
    let any = 1..=nodes;
    prop_oneof![
        3 => any.clone().prop_map(Operation::Join),
        2 => any.clone().prop_map(Operation::Leave),
        2 => any.clone().prop_map(Operation::Kill),
        2 => (any.clone(), any.clone()).prop_map(|(one, other)| Operation::Lose(one, other)),
        3 => (any.clone(), prop::sample::select(Lie::ALL.as_slice()))
            .prop_map(|(node, (lie, _))| Operation::Lie(node, lie)),
        2 => (any.clone(), 2_u32..5).prop_map(|(node, by)| Operation::SlowDown(node, by)),
        1 => Just(Operation::KillLead),
        1 => Just(Operation::RestartSeed),
        2 => (any, 0_u32..40, 0_u64..1500).prop_map(|(node, from, patience)| Operation::Read {
            node,
            from,
            patience: Duration::from_millis(patience),
        }),
    ]
}

/// Nobody who may come to lead lies: leads that do are not simulated.
fn lie_only_while_the_seed_leads(operations: &mut Vec<(Duration, Operation)>) {
    if operations.iter().any(|(_, what)| *what == Operation::KillLead) {
        operations.retain(|(_, what)| !matches!(what, Operation::Lie(..)));
    }
}

fn scenario() -> impl Strategy<Value = Scenario> {
    (2_usize..9).prop_flat_map(|nodes| {
        let operations =
            prop::collection::vec(((0_u64..6000).prop_map(Duration::from_millis), operation(nodes)), 0..12);
        let origin =
            prop::option::of((1_u64..30).prop_map(|rate| Rate::from_bytes_per_second(rate * 1_000_000).unwrap()));
        let specs = prop::collection::vec(node(), nodes + 1);
        (specs, operations, origin, 1_u32..150, any::<u64>()).prop_map(
            |(nodes, mut operations, origin, pieces, seed)| {
                lie_only_while_the_seed_leads(&mut operations);
                let rate = Rate::from_bytes_per_second(1_000_000).unwrap();
                Scenario {
                    nodes,
                    operations,
                    origin,
                    seed,
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
        // Who is slow or lies is waited for a little, and so is who stands still for a lead that takes over.
        let is_waited_for =
            |what: &Operation| matches!(what, Operation::SlowDown(..) | Operation::Lie(..) | Operation::KillLead);
        if !scenario.operations.iter().any(|(_, what)| is_waited_for(what)) {
            prop_assert_eq!(report.origin_needless, 0, "the origin is asked for nothing that somebody holds");
        }
        prop_assert_eq!(&report, &Fleet::new(&scenario).run(), "the same seed gives the same run");
    }
}
