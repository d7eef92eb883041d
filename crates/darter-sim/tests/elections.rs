//! Leads die: each member looks for another by itself, with the decisions that agents make, and all come to one.

use std::time::Duration;

use darter_core::{NodeId, Rate, rendezvous};
use darter_sim::{BLOB, Event, Fleet, Report, Scenario, id_of};
use darter_swarm::leadership::trace::Decided;
use darter_swarm::session::trace::SessionTrace;
use darter_swarm::{Choice, Found, Input, Leader, Leadership, Loss, Output, ReadsOn, Step};

fn megabytes(rate: u64) -> Rate {
    Rate::from_bytes_per_second(rate * 1_000_000).unwrap()
}

/// Nodes and a seed that reads the origin over two seconds and a half.
fn read(nodes: usize) -> Scenario {
    Scenario { origin: Some(megabytes(100)), ..Scenario::equal(nodes, 256, 1 << 20, megabytes(125)) }
}

fn run(scenario: &Scenario) -> Report {
    let report = Fleet::new(scenario).run();
    println!("{:?} elected, {} pieces of the origin", report.elected, report.origin_pieces);
    assert_eq!(report.unfinished, [0_usize; 0], "everybody finishes");
    report
}

/// The first step of an agent with these ids when the lead of such a history is gone: the agent that it asks, if any.
fn agent_asks(me: NodeId, others: &[NodeId]) -> Option<NodeId> {
    let seed = id_of(0);
    let mut leadership = Leadership::new(me, BLOB, BLOB, true);
    leadership.set(Leader::Node(seed));
    assert!(leadership.lost(seed, Loss::Failed) && leadership.begin_search());
    let mut step = leadership.next(&[], others);
    if step == Step::Survey {
        leadership.found(Found { members: others.to_vec(), ..Found::default() });
        step = leadership.next(&[], others);
    }
    match step {
        Step::Ask(node) => Some(node),
        Step::Lead => None,
        step => panic!("{step:?}"),
    }
}

#[test]
fn a_member_whose_lead_dies_is_served_by_the_one_that_agents_choose() {
    for nodes in [3, 8, 14] {
        let mut scenario = read(nodes);
        scenario.events = vec![(Duration::from_millis(1200), Event::KillLead {})];
        let report = run(&scenario);
        let ids: Vec<NodeId> = (1..=nodes as u32).map(id_of).collect();
        let others = |me: NodeId| ids.iter().copied().filter(|id| *id != me).collect::<Vec<_>>();
        let chosen: Vec<_> = ids.iter().filter_map(|me| agent_asks(*me, &others(*me))).collect();
        assert_eq!(chosen.len(), nodes - 1, "all but the one that ranks first ask it");
        let leads: Vec<NodeId> = report.elected.iter().map(|(_, node)| id_of(*node as u32)).collect();
        assert_eq!(leads, [chosen[0]]);
        assert_eq!(Some(chosen[0]), rendezvous::owner(&BLOB.0, &ids));
    }
}

#[test]
fn what_a_node_decided_in_a_history_an_agent_decides_that_hears_the_same() {
    for seed in 1..=3 {
        let mut scenario = Scenario { seed, ..read(24) };
        scenario.events = [800, 1400, 1600].map(|at| (Duration::from_millis(at), Event::KillLead {})).to_vec();
        scenario.events.push((Duration::from_millis(1900), Event::Join(0)));
        let report = run(&scenario);
        assert_eq!(report.decisions.len(), 25, "everybody's");
        let steps = report.decisions.iter().map(|trace| {
            assert_eq!(trace.replay(), trace.decided(), "{}", trace.me);
            trace.decided().iter().filter(|decided| matches!(decided, Decided::Do(Step::Ask(_)))).count()
        });
        assert!(steps.sum::<usize>() >= 22, "those that live looked for a lead");
    }
}

#[test]
fn what_a_nodes_session_did_in_a_history_another_does_that_is_told_the_same() {
    let mut scenario = Scenario { records: true, pieces: 64, ..read(8) };
    scenario.events = vec![(Duration::from_millis(300), Event::KillLead {})];
    let (report, traces) = Fleet::new(&scenario).run_recorded();
    assert!(report.unfinished.is_empty() && report.elected.len() == 1, "{report:?}");
    assert_eq!(traces.len(), 8, "of all that live");
    let led: Vec<_> =
        traces.iter().filter(|trace| trace.inputs().any(|it| matches!(it, Input::Leads { .. }))).collect();
    assert_eq!(led.len(), 1);
    assert!(led[0].outputs().any(|it| matches!(it, Output::Read { .. })), "it reads the origin");
    assert!(led[0].reads_on().any(|it| it == ReadsOn::Planned), "piece by piece");
    assert!(led[0].choices().any(|it| matches!(it, Choice::Send(_))), "and sends what it has");
    let looked = traces.iter().filter(|trace| {
        assert_eq!(trace.diverges(), None);
        let is_lost = trace.inputs().any(|it| matches!(it, Input::LeadLost { .. }));
        is_lost && trace.outputs().any(|it| matches!(it, Output::Seek(Step::Ask(_))))
    });
    assert!(looked.count() >= 7, "all but the one that leads ask another to");
}

/// Everything that sessions did but what they said: keys are drawn anew in each run.
fn acts(scenario: &Scenario) -> Vec<(Vec<Output>, Vec<Choice>, Vec<ReadsOn>)> {
    let (report, traces) = Fleet::new(scenario).run_recorded();
    assert!(report.unfinished.is_empty(), "{report:?}");
    let act = |trace: &SessionTrace| {
        assert_eq!(trace.diverges(), None);
        let outputs = trace.outputs().filter(|it| !matches!(it, Output::Say { .. })).cloned().collect();
        (outputs, trace.choices().collect(), trace.reads_on().collect())
    };
    traces.iter().map(act).collect()
}

#[test]
fn the_same_seed_gives_the_same_decisions_of_what_is_read_and_sent_by_one_connection_and_by_several() {
    let one = Scenario { records: true, pieces: 64, ..read(6) };
    let several = Scenario {
        origin: Some(megabytes(400)),
        origin_each: Some(megabytes(30)),
        origin_connections: 4,
        pieces: 512,
        ..one.clone()
    };
    for scenario in [one, several] {
        let acts_of = |seed| acts(&Scenario { seed, ..scenario.clone() });
        assert_eq!(acts_of(1), acts_of(1));
        assert_ne!(acts_of(1), acts_of(2));
    }
}

#[test]
fn leads_that_die_one_after_the_other_are_followed_by_the_next_in_rank() {
    let mut scenario = read(8);
    scenario.events = [800, 1400, 2000].map(|at| (Duration::from_millis(at), Event::KillLead {})).to_vec();
    let report = run(&scenario);
    let ids: Vec<NodeId> = (1..=8).map(id_of).collect();
    let leads: Vec<NodeId> = report.elected.iter().map(|(_, node)| id_of(*node as u32)).collect();
    assert_eq!(leads, rendezvous::ranking(&BLOB.0, &ids)[..3]);
}

#[test]
fn in_a_swarm_whose_members_know_few_others_most_come_to_one_lead_which_reads_the_rest_once() {
    let with_one_lead = (1..=5).filter(|seed| {
        let mut scenario = Scenario { seed: *seed, ..read(300) };
        scenario.events = vec![(Duration::from_millis(1200), Event::KillLead {})];
        let report = run(&scenario);
        let pieces = u64::from(scenario.pieces);
        // Views that differ cost a copy of what is lacking.
        assert!(report.elected.len() <= 3 && report.origin_pieces <= pieces * 9 / 4, "{:?}", report.elected);
        report.elected.len() == 1 && report.origin_pieces <= pieces * 5 / 4
    });
    assert!(with_one_lead.count() >= 3);
}

#[test]
fn a_newcomer_without_a_seed_finds_who_leads() {
    let mut scenario = read(6);
    scenario.events = vec![(Duration::from_millis(500), Event::KillLead {})];
    scenario.nodes[6].joins = Some(Duration::from_millis(1500));
    let report = run(&scenario);
    assert_eq!(report.elected.len(), 1, "{:?}", report.elected);
}

#[test]
fn what_a_node_that_is_done_holds_is_not_read_again_when_the_lead_dies() {
    let mut scenario = read(3);
    scenario.nodes[2].joins = Some(Duration::from_secs(30));
    scenario.nodes[3].joins = Some(Duration::from_secs(30));
    scenario.events = vec![(Duration::from_millis(30_500), Event::KillLead {})];
    let report = run(&scenario);
    assert_eq!(report.origin_pieces, u64::from(scenario.pieces));
}
