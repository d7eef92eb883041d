//! The scenarios that only virtual time can play, in the simulator: everybody who lives and is honest has the content, and they reach what
//! they aim at. That agents come to the same end is tried where agents are (`darter-agent`, `stories`).

use darter_scenario::Scenario;
use darter_sim::{Fleet, lab};

#[test]
fn whatever_befalls_a_fleet_those_who_live_and_are_honest_have_the_content() {
    let mut played = 0;
    for file in std::fs::read_dir(darter_scenario::fleets()).unwrap() {
        let path = file.unwrap().path();
        let told = Scenario::open(path.to_str().unwrap()).unwrap();
        assert!(!told.events.is_empty() && !told.about.is_empty(), "{}", told.name);
        let scenario = lab::scenario(&told).unwrap();
        let report = Fleet::new(&scenario).run();
        println!("{}", lab::row(&told, &scenario, &report).unwrap());
        assert_eq!(report.unfinished, [0_usize; 0], "{}", told.name);
        let reached = lab::reached(&told, &scenario, &report).unwrap();
        assert_eq!(told.goal.missed(&reached), Some(Vec::new()), "{}", told.name);
        assert_eq!(report, Fleet::new(&scenario).run(), "{}: the same each time", told.name);
        played += 1;
    }
    assert!(played >= 10, "{played} played");
}
