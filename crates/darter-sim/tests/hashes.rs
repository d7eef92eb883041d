//! How hashes get about in swarms in which the lead does not tell everybody: what it costs the seed, and that everybody gets them.

use std::time::Duration;

use darter_core::Rate;
use darter_sim::{Event, Fleet, Report, Scenario};

/// Pieces of each blob here: more than a list that every newcomer is given.
const PIECES: u32 = 128;

fn megabytes(rate: u64) -> Rate {
    Rate::from_bytes_per_second(rate * 1_000_000).unwrap()
}

/// Nodes and a seed at 1 Gbit/s that reads the origin over a second and a third.
fn read(nodes: usize) -> Scenario {
    Scenario { origin: Some(megabytes(100)), ..Scenario::equal(nodes, PIECES, 1 << 20, megabytes(125)) }
}

/// Runs a scenario to its end, which is no more than twice the least time after `last` came.
fn run(scenario: &Scenario, last: Duration) -> Report {
    let report = Fleet::new(scenario).run();
    println!("{:?} {} bytes of hashes", report.quantile(1.0), report.lead_hash_bytes);
    assert_eq!(report.unfinished, [0_usize; 0], "everybody finishes");
    assert_eq!(report.origin_needless, 0);
    assert!(report.ended <= last + 2 * scenario.least_time(), "ended after {:?}", report.ended);
    report
}

/// How many lists of all hashes the leads' bytes of hashes would be.
fn lists(report: &Report) -> f64 {
    report.lead_hash_bytes as f64 / (f64::from(PIECES) * 32.0)
}

#[test]
fn in_a_large_swarm_hashes_cost_the_seed_little_whether_it_holds_the_blob_or_reads_it() {
    for origin in [None, Some(megabytes(100))] {
        let told = |few_members| {
            let mut scenario = Scenario { origin, ..read(600) };
            scenario.tuning.few_members = few_members;
            lists(&run(&scenario, Duration::ZERO))
        };
        let (asked_for, told_to_all) = (told(64), told(u32::MAX));
        assert!(told_to_all >= 600.0, "{told_to_all} lists");
        assert!(asked_for <= 120.0, "{asked_for} lists instead of {told_to_all}");
    }
}

#[test]
fn when_the_lead_of_a_large_swarm_dies_while_it_reads_everybody_finishes() {
    let mut scenario = read(150);
    scenario.events = vec![(Duration::from_millis(700), Event::KillLead {})];
    let report = run(&scenario, Duration::ZERO);
    assert!(report.origin_pieces < u64::from(PIECES) * 5 / 4, "{} pieces read", report.origin_pieces);
    assert!(lists(&report) <= 100.0, "{} lists", lists(&report));
}

#[test]
fn a_swarm_that_becomes_large_or_small_while_the_origin_is_read_finishes() {
    let half = Duration::from_millis(600);
    let mut grows = read(120);
    for node in 51..=120 {
        grows.nodes[node].joins = Some(half + Duration::from_millis(2) * (node as u32 - 51));
    }
    run(&grows, half);
    let mut shrinks = read(80);
    shrinks.events = (21..=80).map(|node| (half, Event::Leave(node))).collect();
    run(&shrinks, Duration::ZERO);
}

#[test]
fn who_comes_late_and_in_small_numbers_is_given_the_list() {
    let mut scenario = Scenario { origin: None, ..read(100) };
    let late = Duration::from_secs(20);
    scenario.nodes[100].joins = Some(late);
    let before = lists(&run(&Scenario { nodes: scenario.nodes[..100].to_vec(), ..scenario.clone() }, Duration::ZERO));
    let report = run(&scenario, late);
    assert!((0.9..1.2).contains(&(lists(&report) - before)), "{} lists after {before}", lists(&report));
}
