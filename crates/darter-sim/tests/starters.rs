//! Nodes that start the same at the same moment: each reads pieces here and there, one after the other, and waits for each.

use std::time::Duration;

use darter_core::Rate;
use darter_scenario::Lie;
use darter_sim::{Event, Fleet, Report, Scenario, Starts};

/// Pieces of half a MiB, of which a start reads 40, at 200 Mbit/s.
fn scenario(nodes: usize, is_listed: bool) -> Scenario {
    let mut scenario = Scenario::equal(nodes, 500, 512 << 10, Rate::from_bytes_per_second(25_000_000).unwrap());
    scenario.network.latency = Duration::from_millis(1);
    scenario.starts = Some(Starts::scattered(40, 500, is_listed));
    scenario.limit = Duration::from_secs(120);
    scenario
}

/// Copies that the seed sent, and how long the last honest node took, in times of what one alone would need.
fn run(scenario: &Scenario) -> (f64, f64) {
    let report: Report = Fleet::new(scenario).run();
    let copies = report.seed_pieces as f64 / f64::from(scenario.wanted());
    let last = report.last.as_secs_f64() / scenario.least_time().as_secs_f64();
    assert_eq!(report.unfinished, [0; 0]);
    (copies, last)
}

#[test]
#[ignore = "prints figures"]
fn figures() {
    for is_listed in [true, false] {
        for nodes in [1, 2, 4, 8, 16, 64, 200] {
            let (copies, last) = run(&scenario(nodes, is_listed));
            println!("{nodes} nodes, listed {is_listed}: {copies:.2} copies, last {last:.2}");
        }
        for nodes in [8, 64] {
            for lie in
                [Lie::Silent, Lie::Refuse, Lie::Claim, Lie::Wrong, Lie::Drip, Lie::Withdraw, Lie::Late, Lie::Vanish]
            {
                for liar in [1, 4] {
                    let mut scenario = scenario(nodes, is_listed);
                    scenario.lie(liar, lie);
                    let (copies, last) = run(&scenario);
                    println!("{nodes} nodes, listed {is_listed}, {lie:?} {liar}: {copies:.2} copies, last {last:.2}");
                }
            }
        }
    }
}

/// When the last honest one of eight is through beside so many liars: the average of fleets that differ by chance, and by who lies.
fn last_beside(liars: u32, lie: Lie, is_listed: bool) -> f64 {
    let runs = (0..DRAWS).map(|draw| {
        let mut scenario = Scenario { seed: u64::from(draw + 1), ..scenario(8, is_listed) };
        let who = [1 + draw % 8, 1 + (draw + 1 + draw / 8) % 8];
        who.iter().take(liars as usize).for_each(|liar| scenario.lie(*liar, lie));
        run(&scenario).1
    });
    runs.sum::<f64>() / f64::from(DRAWS)
}

/// Each of eight lies in as many of them.
const DRAWS: u32 = 16;

#[test]
fn one_liar_among_eight_costs_the_others_a_tenth_and_two_three_tenths() {
    for is_listed in [true, false] {
        let alone = last_beside(0, Lie::Silent, is_listed);
        for (lie, word) in Lie::ALL {
            let ratios = [1, 2].map(|liars| last_beside(liars, lie, is_listed) / alone);
            println!("listed {is_listed}, {word}: {ratios:.3?} of {alone:.2}");
            assert!(ratios[0] <= 1.1 && ratios[1] <= 1.3, "listed {is_listed}, {word}: {ratios:.3?}");
        }
    }
}

#[test]
fn one_that_is_alone_asks_as_ever() {
    for is_listed in [true, false] {
        let (copies, last) = run(&scenario(1, is_listed));
        assert!(copies == 1.0 && last < if is_listed { 1.1 } else { 1.4 }, "{copies}, {last}");
    }
}

/// Sent to each of them, it would be as many copies as they are, and the last one as many times later.
#[test]
fn the_seed_sends_what_many_touch_about_once_where_they_know_the_list() {
    for (nodes, most, latest) in [(8, 1.0, 1.5), (64, 1.7, 2.6)] {
        let (copies, last) = run(&scenario(nodes, true));
        assert!(copies <= most && last < latest, "{nodes} nodes: {copies} copies, {last}");
    }
}

#[test]
fn where_nobody_knows_the_list_those_behind_follow_those_ahead() {
    for (nodes, most, latest) in [(8, 1.0, 3.0), (64, 2.5, 6.5)] {
        let (copies, last) = run(&scenario(nodes, false));
        assert!(copies <= most && last < latest, "{nodes} nodes: {copies} copies, {last}");
    }
}

#[test]
fn one_that_gives_nothing_costs_the_others_a_moment() {
    let lies = [Lie::Silent, Lie::Refuse, Lie::Claim, Lie::Wrong, Lie::Drip, Lie::Withdraw, Lie::Late, Lie::Vanish];
    for (lie, liar) in lies.into_iter().flat_map(|lie| [(lie, 1), (lie, 4)]) {
        for (is_listed, latest) in [(true, 2.4), (false, 5.0)] {
            let mut scenario = scenario(8, is_listed);
            scenario.lie(liar, lie);
            let (copies, last) = run(&scenario);
            assert!(last < latest, "{lie:?}, {is_listed}: {copies} copies, {last}");
        }
    }
    let mut scenario = scenario(8, true);
    let half = scenario.least_time() / 2;
    scenario.events.push((half, Event::Kill(2)));
    run(&scenario);
}
