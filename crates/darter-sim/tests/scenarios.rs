//! Scenarios with a number attached: how near the bound, how many copies, who is held up by whom.

use std::time::Duration;

use darter_core::{Place, Rate};
use darter_sim::{Event, Fleet, Lie, Report, Scenario, SharedLink};

fn megabytes(rate: u64) -> Rate {
    Rate::from_bytes_per_second(rate * 1_000_000).unwrap()
}

fn rack(name: &str) -> Place {
    Place { rack: name.into(), ..Place::default() }
}

/// Eight nodes at 200 Mbit/s, 256 MiB.
fn eight() -> Scenario {
    Scenario::equal(8, 1024, 256 << 10, megabytes(25))
}

fn run(scenario: &Scenario) -> Report {
    let report = Fleet::new(scenario).run();
    println!(
        "last/T* {:.3}  p50 {:.3}  seed copies {:.3}  origin {:.3}  duplicates {}  crossings {:?}  messages {}  events {}",
        over_bound(&report, scenario),
        report.quantile(0.5).as_secs_f64() / scenario.least_time().as_secs_f64(),
        copies(report.seed_pieces, scenario),
        copies(report.origin_pieces, scenario),
        report.duplicates,
        report.crossings,
        report.tracker_messages.iter().sum::<u64>(),
        report.events,
    );
    assert_eq!(report.unfinished, [0_usize; 0], "everybody finishes");
    assert_eq!(report.origin_needless, 0);
    report
}

fn copies(pieces: u64, scenario: &Scenario) -> f64 {
    pieces as f64 / f64::from(scenario.pieces)
}

fn over_bound(report: &Report, scenario: &Scenario) -> f64 {
    report.quantile(1.0).as_secs_f64() / scenario.least_time().as_secs_f64()
}

#[test]
fn eight_equal_nodes_finish_near_the_bound_with_one_copy_from_the_seed() {
    let scenario = eight();
    let report = run(&scenario);
    assert!(over_bound(&report, &scenario) <= 1.10);
    assert!(copies(report.seed_pieces, &scenario) <= 1.05);
}

#[test]
fn a_seed_that_reads_the_origin_as_it_goes_reads_it_once() {
    let mut scenario = eight();
    scenario.origin = Some(megabytes(20));
    let report = run(&scenario);
    assert!(over_bound(&report, &scenario) <= 1.10);
    assert_eq!(report.origin_pieces, u64::from(scenario.pieces));
    assert!(copies(report.seed_pieces, &scenario) <= 1.05);
}

/// 256 MiB of which one connection would take 34 s.
#[test]
fn a_store_that_limits_each_connection_is_read_by_several_as_soon_as_its_bound_and_once() {
    let mut scenario = Scenario::equal(8, 1024, 256 << 10, megabytes(100));
    (scenario.origin, scenario.origin_each) = (Some(megabytes(1000)), Some(megabytes(8)));
    let alone = run(&scenario);
    scenario.origin_connections = 8;
    let report = run(&scenario);
    assert_eq!(report.origin_connections, 8);
    assert_eq!(report.origin_pieces, u64::from(scenario.pieces));
    assert!(over_bound(&report, &scenario) <= 1.15);
    assert!(report.quantile(1.0) * 5 < alone.quantile(1.0));
}

#[test]
fn an_origin_that_gives_several_connections_no_more_than_one_is_read_by_one_and_costs_nothing() {
    let mut scenario = eight();
    scenario.origin = Some(megabytes(20));
    let alone = run(&scenario);
    scenario.origin_connections = 8;
    let report = run(&scenario);
    assert_eq!(report.origin_pieces, u64::from(scenario.pieces));
    assert!(report.origin_connections <= 2);
    assert!(report.quantile(1.0).as_secs_f64() <= alone.quantile(1.0).as_secs_f64() * 1.02);
}

/// Bytes in a socket are sent though their request was called back: on slow cables few of them are to be there.
#[test]
fn a_large_swarm_on_slow_cables_is_as_near_the_bound_as_on_fast_ones() {
    for kilobytes in [625, 1000, 2500] {
        let rate = Rate::from_bytes_per_second(kilobytes * 1000).unwrap();
        let mut scenario = Scenario::equal(80, 256, 128 << 10, rate);
        scenario.origin = Some(megabytes(125));
        scenario.network.queue = Duration::from_millis(15);
        let report = run(&scenario);
        assert!(over_bound(&report, &scenario) <= 1.22, "{kilobytes} kB/s");
    }
}

#[test]
fn a_faster_seed_uses_what_it_has() {
    let mut scenario = eight();
    scenario.nodes[0].up = megabytes(100);
    let weak: Vec<_> = (1..=8).collect();
    for node in weak {
        scenario.nodes[node].up = megabytes(5);
    }
    let report = run(&scenario);
    assert!(over_bound(&report, &scenario) <= 1.25);
}

#[test]
fn a_node_that_joins_late_is_served_by_everybody() {
    let mut scenario = eight();
    for node in 1..=8 {
        scenario.nodes[node].joins = Some(Duration::from_secs(2 * node as u64));
    }
    let report = run(&scenario);
    let slowest = scenario.bytes() as f64 / 25e6;
    assert!(report.quantile(1.0).as_secs_f64() <= slowest * 1.15);
}

#[test]
fn a_node_that_comes_when_everybody_holds_everything_gets_little_twice() {
    let mut scenario = eight();
    let before = run(&scenario).duplicates;
    scenario.nodes[8].joins = Some(Duration::from_secs(60));
    let report = run(&scenario);
    let twice = report.duplicates.saturating_sub(before);
    assert!(copies(twice, &scenario) <= 0.05, "{twice} pieces came twice");
}

#[test]
fn one_slow_node_does_not_slow_the_others() {
    let mut scenario = eight();
    scenario.events = vec![(Duration::ZERO, Event::Slow { node: 8, by: 8 })];
    let report = run(&scenario);
    let bound = eight().least_time().as_secs_f64();
    for node in 1..8 {
        let took = report.finished[node].unwrap().as_secs_f64();
        assert!(took <= bound * 1.25, "node {node} took {:.2} of the bound", took / bound);
    }
}

#[test]
fn a_holder_that_turns_slow_or_hangs_never_decides() {
    for trouble in [Event::Slow { node: 3, by: 50 }, Event::Lie { node: 3, how: Lie::Silent }] {
        let mut scenario = eight();
        scenario.nodes[3].down = megabytes(25);
        scenario.events = vec![(Duration::from_secs(6), trouble)];
        let report = Fleet::new(&scenario).run();
        let bound = scenario.least_time().as_secs_f64();
        for node in [1, 2, 4, 5, 6, 7, 8] {
            let took = report.finished[node].unwrap().as_secs_f64();
            assert!(took <= bound * 1.4, "node {node} took {:.2} of the bound", took / bound);
        }
    }
}

#[test]
fn each_piece_crosses_into_a_rack_about_once() {
    let mut scenario = eight();
    for node in 0..=8 {
        scenario.nodes[node].place = rack(if node < 5 { "a" } else { "b" });
    }
    let report = run(&scenario);
    let into_b = report.crossings.iter().find(|(rack, _)| rack == "b").unwrap().1;
    assert!(copies(into_b, &scenario) <= 1.2);
    assert!(over_bound(&report, &scenario) <= 1.25);
}

#[test]
fn a_seed_of_its_own_rack_sends_each_piece_once_into_each_other_rack() {
    let mut scenario = eight();
    scenario.nodes[0].place = rack("seeds");
    for node in 1..=8 {
        scenario.nodes[node].place = rack(if node % 2 == 0 { "a" } else { "b" });
    }
    let report = run(&scenario);
    for (rack, pieces) in &report.crossings {
        assert!(copies(*pieces, &scenario) <= 1.2, "{rack}");
    }
}

#[test]
fn when_the_lead_dies_one_member_reads_the_tail_once() {
    let mut scenario = eight();
    scenario.origin = Some(megabytes(25));
    scenario.events = vec![(Duration::from_secs_f64(0.6 * scenario.least_time().as_secs_f64()), Event::KillLead {})];
    let report = run(&scenario);
    // Pieces that only the dead seed had have to be read again, and few others.
    assert!(copies(report.origin_pieces, &scenario) <= 1.05);
    assert!(over_bound(&report, &scenario) <= 1.35);
}

#[test]
fn four_hundred_nodes_finish_near_the_bound_with_one_copy_from_the_seed() {
    let scenario = Scenario::equal(400, 256, 1 << 20, megabytes(100));
    let report = run(&scenario);
    let least = scenario.least_time().as_secs_f64();
    assert!(report.quantile(0.99).as_secs_f64() / least <= 1.25);
    assert!(over_bound(&report, &scenario) <= 1.3);
    assert!(copies(report.seed_pieces, &scenario) <= 1.05);
}

/// 240 nodes and a seed in twelve racks of two zones that share a link of 1 GB/s each.
fn twelve_racks() -> Scenario {
    let mut scenario = Scenario::equal(240, 192, 1 << 20, megabytes(125));
    for (node, spec) in scenario.nodes.iter_mut().enumerate() {
        spec.place = Place { zone: format!("z{}", node % 2), rack: format!("r{}", node % 12), ..Place::default() };
    }
    for zone in ["z0", "z1"] {
        let place = Place { zone: zone.into(), ..Place::default() };
        scenario.links.push(SharedLink { place, rate: megabytes(1000) });
    }
    scenario
}

#[test]
fn in_many_racks_pieces_cross_seldom_and_nobody_is_left_behind() {
    for (inside, outside, most) in [(8, 4, 2.2), (11, 5, 1.8), (16, 8, 2.4)] {
        let mut scenario = twelve_racks();
        (scenario.tuning.neighbours_inside, scenario.tuning.neighbours_outside) = (inside, outside);
        let report = run(&scenario);
        let into_racks = report.crossings.iter().map(|(_, pieces)| pieces).sum();
        assert!(copies(into_racks, &scenario) / 12.0 <= 2.3);
        assert!(copies(report.zone_crossings, &scenario) <= 3.3);
        // With so few pieces the steps from rack to rack are much of the time, and when the last is through is a matter of chance: with
        // 16 neighbours sixteen seeds give 1.60 to 1.74, with 24 they give 2.03 to 2.42 and half of them no more than 2.16.
        let (mut times, mut behind): (Vec<f64>, Vec<f64>) = (1..=5)
            .map(|seed| {
                scenario.seed = seed;
                let report = run(&scenario);
                let behind = report.quantile(1.0).as_secs_f64() / report.quantile(0.5).as_secs_f64();
                (over_bound(&report, &scenario), behind)
            })
            .unzip();
        behind.sort_by(f64::total_cmp);
        assert!(behind[2] <= 1.2, "{behind:?}");
        times.sort_by(f64::total_cmp);
        assert!(times[2] <= most, "{times:?}");
    }
}

#[test]
fn several_seeds_that_hold_the_blob_all_give_of_it() {
    let rate = |megabytes: u64| Rate::from_bytes_per_second(megabytes * 1_000_000).unwrap();
    let mut scenario = Scenario::equal(8 + 2, 256, 256 << 10, rate(125));
    for seed in &mut scenario.nodes[..3] {
        (seed.up, seed.holds) = (rate(20), true);
    }
    let report = run(&scenario);
    assert!(over_bound(&report, &scenario) < 1.6, "it is 3 where one gives and the bound counts three");
}

/// Runs it without readers and with one in order at each node: both reports.
fn without_and_with_readers(scenario: &Scenario) -> (Report, Report) {
    let mut reading = scenario.clone();
    reading.read_in_order();
    (run(scenario), run(&reading))
}

/// 32 MiB, or a twentieth of the blob if that is more, as a part of the blob.
fn allowed_lag(scenario: &Scenario) -> f64 {
    (f64::from(32 << 20) / scenario.bytes() as f64).max(0.05)
}

#[test]
fn readers_in_order_are_near_what_came_though_the_seed_could_give_all_at_once() {
    for seed_rate in [50, 100, 200] {
        let mut scenario = Scenario::equal(8, 512, 512 << 10, megabytes(25));
        scenario.nodes[0].up = megabytes(seed_rate);
        let (without, with) = without_and_with_readers(&scenario);
        let lag = |report: &Report| report.lag_quantile(1.0, scenario.pieces);
        assert!(lag(&without) > 0.8, "nobody reads in order: {}", lag(&without));
        assert!(lag(&with) <= allowed_lag(&scenario), "a seed of {seed_rate} MB/s: {}", lag(&with));
        assert!(over_bound(&with, &scenario) <= over_bound(&without, &scenario) + 0.01);
        assert!(copies(with.seed_pieces, &scenario) <= 4.0, "at most half of the copies come from the seed");
    }
}

#[test]
fn readers_in_order_cost_a_large_swarm_nothing() {
    let scenario = Scenario::equal(200, 512, 1 << 20, megabytes(125));
    let (without, with) = without_and_with_readers(&scenario);
    assert!(with.lag_quantile(1.0, scenario.pieces) <= allowed_lag(&scenario) * 1.5);
    assert!(over_bound(&with, &scenario) <= over_bound(&without, &scenario) + 0.02);
    assert!(copies(with.seed_pieces, &scenario) <= 1.05);
    let messages = |report: &Report| report.tracker_messages.iter().sum::<u64>() as f64;
    assert!(messages(&with) <= messages(&without) * 1.1);
}

/// Eight nodes at 25 MB/s and a blob of `mib` MiB in 1,024 pieces, changed by `change`.
fn eight_with(mib: u64, change: impl FnOnce(&mut Scenario)) -> Scenario {
    let mut scenario = Scenario::equal(8, 1024, mib << 10, megabytes(25));
    change(&mut scenario);
    scenario
}

#[test]
fn readers_in_order_are_near_what_came_in_every_regime_while_links_are_full() {
    let read_of_origin = |scenario: &mut Scenario| scenario.origin = Some(megabytes(125));
    let killed = |scenario: &mut Scenario| {
        scenario.origin = Some(megabytes(125));
        scenario.events.push((scenario.least_time() * 3 / 5, Event::Kill(0)));
    };
    let slow = |scenario: &mut Scenario| scenario.events.push((Duration::ZERO, Event::Slow { node: 3, by: 8 }));
    let fast_seed = |scenario: &mut Scenario| scenario.nodes[0].up = megabytes(200);
    let fast = Scenario::equal(8, 1024, 256 << 10, megabytes(100));
    let many = |piece: u64, seed: u64| {
        let mut scenario = Scenario::equal(64, 1024, piece, megabytes(125));
        scenario.nodes[0].up = megabytes(seed);
        scenario
    };
    let regimes = [
        ("a seed as fast as a node", eight_with(256, |_| {}), 1.0),
        ("all of them four times as fast", fast, 1.0),
        ("a seed that could serve all", eight_with(256, fast_seed), 1.0),
        ("the same, 2 GiB", eight_with(2048, fast_seed), 1.0),
        ("a seed that reads the origin", eight_with(256, read_of_origin), 1.0),
        ("a seed that dies", eight_with(256, killed), 1.0),
        ("a slow node", eight_with(256, slow), 1.0),
        (
            "a slow node and a fast seed",
            eight_with(256, |it| {
                slow(it);
                fast_seed(it);
            }),
            1.0,
        ),
        ("sixty-four", many(1 << 20, 125), 1.0),
        ("sixty-four, 256 MiB", many(256 << 10, 125), 1.0),
        ("sixty-four and a fast seed, 256 MiB", many(256 << 10, 1000), 1.0),
        ("sixty-four and a fast seed", many(1 << 20, 1000), 1.05),
    ];
    for (regime, mut scenario, times) in regimes {
        scenario.read_in_order();
        let report = run(&scenario);
        let lag = report.lag_quantile(1.0, scenario.pieces);
        assert!(lag <= allowed_lag(&scenario) * times, "{regime}: {lag:.3} of {:.3}", allowed_lag(&scenario));
    }
}

/// Every answer is slow by its own cable, so each of its holders lets it down now and then; none is held to that for ever.
#[test]
fn a_slow_node_that_reads_in_order_is_as_slow_as_its_cable_and_no_slower() {
    let mut scenario =
        eight_with(2048, |scenario| scenario.events.push((Duration::ZERO, Event::Slow { node: 3, by: 8 })));
    scenario.read_in_order();
    let report = run(&scenario);
    let last = over_bound(&report, &scenario);
    assert!(last <= 13.0, "{last:.2}");
}

#[test]
fn who_comes_later_and_reads_in_order_holds_up_nobody_who_came_before() {
    let mut scenario = Scenario::equal(8, 512, 512 << 10, megabytes(25));
    for node in 1..=8 {
        scenario.nodes[node].joins = Some(Duration::from_secs(node as u64));
    }
    let (without, with) = without_and_with_readers(&scenario);
    assert!(over_bound(&with, &scenario) <= over_bound(&without, &scenario) + 0.02);
    assert!(with.lag_quantile(1.0, scenario.pieces) <= 0.45);
}

/// Eight nodes, of which `liars` lie by `lie`: the time of the last honest one over T*.
fn among_eight(lie: Lie, liars: u32, mut scenario: Scenario) -> f64 {
    for node in 0..liars {
        scenario.lie(8 - node, lie);
    }
    let report = Fleet::new(&scenario).run();
    assert_eq!(report.unfinished, [0_usize; 0], "{lie:?}: the honest ones finish");
    over_bound(&report, &scenario)
}

#[test]
fn nobody_who_does_not_give_what_it_holds_stops_the_others() {
    for (lie, word) in Lie::ALL {
        for (liars, most) in [(1, 1.1), (2, 1.3)] {
            // A seed that has it, and one that reads an origin as fast as itself.
            for origin in [None, Some(megabytes(25))] {
                let last = among_eight(lie, liars, Scenario { origin, ..eight() });
                println!("{liars} {word}, origin {}: {last:.3}", origin.is_some());
                assert!(last <= most, "{liars} {word}, origin {}: {last:.3}", origin.is_some());
            }
        }
    }
}

/// 16 MiB, of which one piece is a hundredth, and of which the last ones take a twelfth of the time where nobody lies. Pieces that a liar was given
/// before it was found out have to be sent again, and beside two that give nothing seven cables feed eight nodes.
#[test]
fn of_a_short_blob_liars_cost_what_their_cables_would_have_carried_and_little_more() {
    let short = Scenario { origin: Some(megabytes(12)), ..Scenario::equal(8, 128, 128 << 10, megabytes(2)) };
    for (lie, word) in Lie::ALL {
        for (liars, most) in [(1, 1.18), (2, 1.35)] {
            let times = (1..=12).map(|seed| among_eight(lie, liars, Scenario { seed, ..short.clone() }));
            let worst = times.max_by(f64::total_cmp).unwrap();
            println!("{liars} {word}: {worst:.3}");
            assert!(worst <= most, "{liars} {word}: {worst:.3}");
        }
    }
}
