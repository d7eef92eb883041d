//! Origins that limit each connection, and others, on machines of every kind.

use super::world::{MIB, World};
use super::*;

fn at(millis: u64) -> Moment {
    Moment::from_micros(1_000_000 + millis * 1000)
}

#[test]
fn a_store_that_limits_each_connection_is_read_by_many_soon() {
    for (each, length) in [(8, 80), (8, 128), (1, 32), (24, 256), (40, 1024), (8, 4096)] {
        let read = World::new(each * MIB, u64::MAX).read(length * MIB);
        let best = length as f64 / (8 * each) as f64;
        assert_eq!(read.connections, 8, "{read:?}");
        assert!(read.found < Some(0.5) && read.seconds < best * 1.05 + 0.5, "{read:?}: {best}");
        assert_eq!(read.trials, 2);
    }
}

#[test]
fn where_the_link_is_the_limit_one_reads_and_a_trial_or_two_are_made() {
    for all in [12, 30, 60] {
        let read = World::new(u64::MAX, all * MIB).read(256 * MIB);
        assert_eq!((read.connections, read.widest), (1, 1), "{read:?}");
        assert!((1..=2).contains(&read.trials));
        let Some(Widening::Back { connections: 1, tried: 2, rate, before }) = read.widenings.first() else {
            panic!("{read:?}");
        };
        assert!((0.5..1.2).contains(&(*rate as f64 / *before as f64)), "{rate} and {before}");
    }
    let read = World::new(u64::MAX, MIB).read(512 * MIB);
    assert!(read.trials <= 11, "{read:?}: in eight minutes");
}

#[test]
fn no_other_connection_is_tried_for_little_or_for_a_moment_or_where_no_limit_is_that_high() {
    for (rate, length) in [(MIB, 16 * MIB), (60 * MIB, 100 * MIB), (300 * MIB, 4096 * MIB)] {
        let read = World::new(rate, u64::MAX).read(length);
        assert_eq!((read.widenings.len(), read.trials), (0, 0));
    }
}

#[test]
fn what_brings_no_more_is_taken_back() {
    let three = World::new(8 * MIB, 24 * MIB).read(128 * MIB);
    assert_eq!(three.connections, 4, "{three:?}: three get all that there is");
    let read = World::new(8 * MIB, 16 * MIB).read(128 * MIB);
    assert_eq!(read.connections, 2, "{read:?}");
    assert!(matches!(
        read.widenings[..2],
        [Widening::Wider { connections: 4, tried: 2, .. }, Widening::Back { connections: 2, tried: 4, .. }]
    ));
}

/// nginx sends what a connection is to get in bursts of two megabytes, or in those of its upstream.
#[test]
fn a_store_that_sends_in_bursts_is_measured_over_whole_ones() {
    for burst in [10, 30, 90, 250] {
        let read = World { burst, ..World::new(8 * MIB, u64::MAX) }.read(128 * MIB);
        let soon = if burst < 250 { 0.55 } else { 0.85 };
        assert!(read.connections == 8 && read.found < Some(soon), "{burst} ms: {read:?}");
        let read = World { burst, ..World::new(u64::MAX, 8 * MIB) }.read(128 * MIB);
        assert_eq!(read.widest, 1, "{burst} ms: {read:?}");
    }
}

/// nginx gives a connection what it is to get in a second at once, and then again: at 1 MiB/s a MiB each second, at 4 MiB/s two each half. A host with other work
/// takes a while to read those.
#[test]
fn a_store_of_long_bursts_is_found_by_hosts_that_take_a_while_to_read_one() {
    let mut failed = false;
    for (each, burst, takes) in [(1, 1000, 60), (1, 1000, 10), (4, 500, 60), (4, 500, 20), (8, 250, 60), (8, 250, 30)] {
        for answer in [2, 50] {
            let (reads, soon) = (100, (burst * 4 + answer * 4) as f64 / 1000.0);
            let world =
                World { burst, takes: takes * 1000, answer, tries_on: true, ..World::new(each * MIB, u64::MAX) };
            let found = world.count(reads, 128 * MIB, |read| read.found.is_some_and(|found| found < soon));
            let widest = world.count(reads, 128 * MIB, |read| read.widest == 8);
            println!(
                "{each} MiB/s in bursts of {burst} ms, {takes} kB a ms, {answer} ms: {found} of {reads} soon, {widest} by eight"
            );
            failed |= found * 10 < reads * 9 || widest * 20 < reads * 19;
        }
    }
    assert!(!failed);
}

#[test]
fn a_store_whose_answers_take_their_time_is_found_all_the_same() {
    let mut failed = false;
    for answer in [60, 150, 400] {
        for (name, world) in [
            ("quiet", World::new(8 * MIB, u64::MAX)),
            ("stalls", World { stalls: Some(3000), stalls_here: true, ..World::new(8 * MIB, u64::MAX) }),
        ] {
            let (reads, world) = (200, World { answer, takes: 60_000, tries_on: true, ..world });
            let found = world.count(reads, 256 * MIB, |read| read.widest == 8);
            let quick = world.count(reads, 256 * MIB, |read| read.seconds < 7.0);
            println!("{name}, {answer} ms: {found} of {reads} by eight, {quick} in seven seconds");
            failed |= found * 20 < reads * 19 || quick * 10 < reads * 9;
        }
    }
    assert!(!failed);
}

/// How many of them are read by several is to be less than one in a hundred, and none is asked for more than two trials.
#[test]
fn noise_makes_no_more_of_what_all_connections_share() {
    let noisy = |all: u64| World { noise: 0.3, ..World::new(u64::MAX, all * MIB) };
    let worlds = [
        ("quick noise", World { every: 5, ..noisy(40) }),
        ("noise", noisy(40)),
        ("noise", noisy(12)),
        ("slow noise", World { every: 100, ..noisy(40) }),
        ("very slow noise", World { every: 700, ..noisy(40) }),
        ("stalls", World { stalls: Some(1500), ..World::new(u64::MAX, 40 * MIB) }),
        ("stalls of this host", World { stalls: Some(1500), stalls_here: true, ..World::new(u64::MAX, 40 * MIB) }),
        ("noise and stalls", World { stalls: Some(1500), stalls_here: true, ..noisy(40) }),
        ("a slow answer", World { answer: 60, tries_on: true, ..noisy(40) }),
        (
            "a slow answer and stalls",
            World { answer: 60, tries_on: true, stalls: Some(1500), stalls_here: true, ..noisy(12) },
        ),
    ];
    let mut failed = false;
    for (name, world) in worlds {
        let reads = 300;
        let wider = world.count(reads, 300 * MIB, |read| read.widest > 1);
        let asked = world.count(reads, 300 * MIB, |read| read.widest == 1 && read.trials > TRIALS.into());
        println!("{name}: {wider} of {reads} were read by several");
        failed |= wider * 100 >= reads || asked > 0;
    }
    assert!(!failed);
}

#[test]
fn a_limit_is_found_on_a_busy_machine_too() {
    let world = World::new(8 * MIB, u64::MAX);
    let worlds = [
        ("quiet", 1.0, world),
        ("a slow answer", 1.0, World { answer: 30, tries_on: true, ..world }),
        ("stalls", 0.85, World { stalls: Some(3000), ..world }),
        ("stalls of this host", 0.85, World { stalls: Some(3000), stalls_here: true, ..world }),
        ("a noisy link behind", 0.98, World { noise: 0.3, all: 400 * MIB, ..world }),
    ];
    for (name, most, world) in worlds {
        let reads = 200;
        let soon = world.count(reads, 128 * MIB, |read| read.found < Some(0.5));
        let found = world.count(reads, 128 * MIB, |read| read.widest == 8);
        println!("{name}: {soon} of {reads} within half a second, {found} at all");
        assert!(soon as f64 >= most * reads as f64, "{name}: {soon} of {reads} within half a second");
        assert!(found * 20 >= reads * 19, "{name}: {found} of {reads} at all");
    }
}

/// A registry on the machine that the agent is on, and so are their callers: a rate that was measured while these began is none.
#[test]
fn what_comes_slowly_while_the_machine_has_other_work_is_no_limit() {
    let mut failed = false;
    for (starved, all) in [(600, 80), (1500, 80), (3000, 40), (1500, 20)] {
        let reads = 300;
        let world = World { starved, ..World::new(u64::MAX, all * MIB) };
        let wider = world.count(reads, 79_000_000, |read| read.connections > 1);
        println!("{starved} ms, {all} MiB/s: {wider} of {reads} were read by several");
        failed |= wider * 100 >= reads;
    }
    assert!(!failed);
}

/// A cable is given its full rate while a blob is read, at whatever moment of measuring and trying.
#[test]
fn a_link_that_is_widened_midway_is_no_limit() {
    let mut failed = false;
    for burst in [1, 12, 60, 110] {
        for (before, after, until) in
            [(1, 40, 1500), (4, 40, 1500), (10, 80, 1200), (10, 20, 1200), (10, 16, 1200), (30, 60, 900)]
        {
            let reads = 300;
            let world = World { narrow: Some((before * MIB, until)), burst, ..World::new(u64::MAX, after * MIB) };
            let wider = world.count(reads, 300 * MIB, |read| read.connections > 1);
            let asked = world.count(reads, 300 * MIB, |read| read.widest > 1);
            println!(
                "{before} to {after} MiB/s in bursts of {burst} ms: {asked} of {reads} were read by several, {wider} to the end"
            );
            failed |= wider > 0 || asked * 100 >= reads;
        }
    }
    assert!(!failed);
}

/// The first connection gets so much for so long.
fn read_alone(breadth: &mut Breadth, rate: u64, from: u64, until: u64) {
    for millis in (from..until).step_by(2) {
        breadth.came(0, rate / 500, Duration::MAX, 1 << 30, at(millis));
    }
}

#[test]
fn an_origin_that_refuses_is_read_by_one_for_good_and_one_that_fails_is_tried_once_more() {
    let mut breadth = Breadth::new(8, 1 << 30);
    read_alone(&mut breadth, 8 * MIB, 0, 500);
    assert!(breadth.is_trial_due());
    let stretch = breadth.trial_stretch().unwrap();
    let judged = breadth.tries(1, stretch, at(500)).unwrap();
    assert!(stretch == 2 * MIB && judged <= 8 * MIB / 20, "{judged} of {stretch}");
    assert!(!breadth.is_trial_due() && breadth.connections() == 1);
    breadth.failed(at(400), at(500));
    read_alone(&mut breadth, 8 * MIB, 500, 1400);
    assert!(!breadth.is_trial_due());
    read_alone(&mut breadth, 8 * MIB, 1400, 5000);
    assert!(breadth.is_trial_due());
    breadth.refused(at(5000));
    read_alone(&mut breadth, 8 * MIB, 5000, 100_000);
    assert!(!breadth.is_trial_due() && breadth.connections() == 1);
    let mut alone = Breadth::new(1, 1 << 30);
    read_alone(&mut alone, 8 * MIB, 0, 10_000);
    assert!(!alone.is_trial_due());
}

/// Eight connections, as many as there may be.
fn eight() -> Breadth {
    let mut breadth = Breadth::new(8, 1 << 30);
    (breadth.connections, breadth.rate) = (8, (64 * MIB) as f64);
    (breadth.phase, breadth.is_limited) = (TrialPhase::Full, true);
    breadth
}

/// Each connection gets 8 MiB a second for so long.
fn read_on(breadth: &mut Breadth, from: u64, until: u64) {
    for millis in (from..until).step_by(10) {
        for connection in 0..breadth.connections() {
            breadth.came(connection, 8 * MIB / 100, Duration::MAX, 1 << 30, at(millis));
        }
    }
}

#[test]
fn one_interruption_that_breaks_all_connections_counts_once_and_they_are_as_many_again_soon() {
    let mut breadth = eight();
    for later in 0..7 {
        breadth.failed(at(900), at(1000 + later * 300));
    }
    assert_eq!(breadth.connections(), 4);
    read_on(&mut breadth, 3000, 6000);
    assert_eq!(breadth.connections(), 8, "{:?}", breadth.phase);
    // One that is noticed late broke with the others.
    breadth.failed(at(950), at(6000));
    assert_eq!(breadth.connections(), 8);
    breadth.failed(at(5900), at(6100));
    assert_eq!(breadth.connections(), 4, "another one counts");
}

#[test]
fn a_failure_of_more_connections_than_before_is_taken_back_to_those() {
    let mut breadth = eight();
    (breadth.connections, breadth.phase) = (6, TrialPhase::Wider { before: 4 });
    breadth.failed(at(10), at(20));
    assert_eq!(breadth.connections(), 4);
}

#[test]
fn what_the_agent_itself_holds_up_is_not_tried_by_more() {
    let mut breadth = Breadth::new(8, 1 << 30);
    for millis in (0..5000).step_by(2) {
        breadth.held_up();
        breadth.came(0, MIB / 60, Duration::MAX, 1 << 30, at(millis));
    }
    assert!(!breadth.is_trial_due());
    for millis in (5000..10_000).step_by(2) {
        breadth.came(0, MIB / 60, Duration::ZERO, 1 << 30, at(millis));
    }
    assert!(!breadth.is_trial_due(), "it has all hands full");
    read_alone(&mut breadth, 8 * MIB, 10_000, 12_000);
    assert!(breadth.is_trial_due());
}

#[test]
fn an_origin_that_was_tried_a_moment_ago_for_another_blob_is_not_tried_at_once() {
    let mut breadth = Breadth::new(8, 1 << 30);
    breadth.wait_until(at(3000));
    read_alone(&mut breadth, 8 * MIB, 0, 3000);
    assert!(!breadth.is_trial_due());
    read_alone(&mut breadth, 8 * MIB, 3000, 3500);
    assert!(breadth.is_trial_due());
}

#[test]
fn a_trial_that_is_not_made_or_gets_no_answer_ends() {
    for is_made in [false, true] {
        let mut breadth = Breadth::new(2, 1 << 30);
        read_alone(&mut breadth, 8 * MIB, 0, 4000);
        assert!(breadth.is_trial_due());
        if is_made {
            breadth.tries(1, 2 * MIB, at(4000)).unwrap();
        }
        read_alone(&mut breadth, 8 * MIB, 4000, 10_000);
        assert!(matches!(breadth.phase, TrialPhase::Settled { .. } | TrialPhase::Measured | TrialPhase::TrialDue(_)));
        assert_eq!(breadth.trials, if is_made { 1 } else { 2 });
    }
}

#[test]
fn stretches_are_shorter_towards_the_end_and_while_more_are_tried() {
    let mut breadth = Breadth::new(8, 1 << 30);
    assert_eq!(breadth.stretch(1 << 30), Some(16 * MIB));
    breadth = eight();
    assert_eq!(breadth.stretch(4 << 30), Some(32 * MIB));
    assert_eq!(breadth.stretch(64 * MIB), Some(8 * MIB));
    assert_eq!(breadth.stretch(MIB), Some(2 * MIB), "no request is for less");
    (breadth.phase, breadth.rate) = (TrialPhase::Wider { before: 4 }, (32 * MIB) as f64);
    assert_eq!(breadth.stretch(1 << 30), Some(8 * MIB));
}

#[test]
fn a_lone_connection_reads_longer_and_longer_stretches_and_then_the_rest() {
    let mut breadth = Breadth::new(8, 1 << 30);
    let (mut left, mut stretches) = (1 << 30, Vec::new());
    while let Some(stretch) = breadth.stretch(left) {
        stretches.push(stretch / MIB);
        left -= stretch;
    }
    assert_eq!(stretches, [16, 16, 32]);
    breadth.reads_the_rest();
    read_alone(&mut breadth, 8 * MIB, 10, 100_000);
    assert!(!breadth.is_trial_due(), "all of it is asked for");
    let mut breadth = Breadth::new(8, 1 << 30);
    breadth.wait_until(at(60_000));
    assert_eq!(breadth.stretch(1 << 30), None, "others would get nothing more");
    assert_eq!(Breadth::new(1, 1 << 30).stretch(1 << 30), None);
    let mut failed = Breadth::new(8, 1 << 30);
    failed.failed(at(10), at(20));
    assert_eq!(failed.stretch(1 << 30), Some(16 * MIB), "it is tried again soon");
    let mut several = eight();
    several.reads_the_rest();
    assert_eq!(several.connections(), 8, "others read it with the first one");
}

#[test]
fn a_trial_is_judged_by_its_own_connection_and_ends_though_nothing_more_comes() {
    let mut breadth = Breadth::new(8, 1 << 30);
    read_alone(&mut breadth, 8 * MIB, 0, 500);
    breadth.tries(2, 2 * MIB, at(500)).unwrap();
    for millis in (500..600).step_by(2) {
        for connection in 0..2 {
            breadth.came(connection, 8 * MIB / 500, Duration::MAX, 1 << 30, at(millis));
        }
    }
    assert!(breadth.is_tried(), "what another one gets tells nothing");
    breadth.came(2, 1000, Duration::MAX, 1 << 30, at(600));
    read_alone(&mut breadth, 8 * MIB, 600, 5590);
    assert!(breadth.is_tried());
    read_alone(&mut breadth, 8 * MIB, 5590, 5610);
    assert!(!breadth.is_tried());
}

/// The rate is the one that connections get now: a stretch lasts about as long as it should.
#[test]
fn stretches_follow_the_rate() {
    let mut breadth = eight();
    breadth.rate = 8.0 * 1e5;
    assert_eq!(breadth.stretch(1 << 30), Some(8 * MIB));
    read_on(&mut breadth, 0, 500);
    assert!(breadth.stretch(1 << 30) > Some(24 * MIB));
}

/// Layers of an image share a link: when one ends another one gets twice as much, and two connections would seem to.
#[test]
fn what_another_blob_gives_back_is_owed_to_no_connection() {
    let mut breadth = Breadth::new(8, 1 << 30);
    read_alone(&mut breadth, 6 * MIB, 0, 400);
    assert!(breadth.is_trial_due());
    breadth.given_back(at(400));
    assert!(!breadth.is_trial_due());
    read_alone(&mut breadth, 12 * MIB, 400, 800);
    assert!(breadth.is_trial_due(), "it is measured anew");
    breadth.tries(1, 2 * MIB, at(800)).unwrap();
    breadth.given_back(at(801));
    assert!(!breadth.is_tried());
    let trials = breadth.trials;
    assert_eq!(trials, TRIALS, "it told nothing");
    breadth.several_get_more((24 * MIB) as f64, (12 * MIB) as f64, at(900));
    assert_eq!(breadth.connections(), 4);
    breadth.given_back(at(910));
    assert_eq!(breadth.connections(), 1);
    breadth.several_get_more((24 * MIB) as f64, (12 * MIB) as f64, at(920));
    assert!(!breadth.is_limited(), "they have not been measured yet");
    breadth.is_limited = true;
    breadth.given_back(at(930));
    assert_eq!(breadth.connections(), 4, "it was seen before");
    let mut full = eight();
    full.given_back(at(10));
    assert_eq!(full.connections(), 8, "these were seen to get more");
}

#[test]
fn connections_that_get_more_than_a_limit_would_let_them_are_taken_back() {
    let read = |each: u64, gap: u64| {
        let mut breadth = Breadth::new(8, 1 << 30);
        breadth.pace = Some(MeasuredRate {
            rate: MIB as f64,
            span: Duration::from_millis(20),
            gap: Duration::from_millis(gap),
            is_regular: true,
            noise: 0.0,
            is_waited_for: true,
        });
        breadth.several_get_more((2 * MIB) as f64, MIB as f64, at(0));
        let mut told = Vec::new();
        for millis in (10..1000).step_by(10) {
            for connection in 0..breadth.connections() {
                told.extend(breadth.came(connection, each / 100, Duration::MAX, 1 << 30, at(millis)));
            }
        }
        (breadth.connections(), told)
    };
    assert_eq!(read(MIB, 10).0, 8);
    // Of a window one moment does not count. If bursts lie far apart, two may come in one window.
    assert_eq!((read(2 * MIB, 10).0, read(2 * MIB, 40).0), (1, 8));
    let (connections, told) = read(4 * MIB, 10);
    assert_eq!(connections, 1);
    assert!(matches!(told[..], [Widening::NoLimit { tried: 4, .. }]), "{told:?}");
}
