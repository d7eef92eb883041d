//! The time that a process spends on its first key: in a file of its own, since tests of one file share a process.

use darter_core::NodeKey;
use rustix::time::{ClockId, clock_gettime};

/// The CPU seconds that this thread spends on drawing a key.
fn spent_on_a_key() -> f64 {
    let spent = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let before = spent();
    let _drawn = NodeKey::draw();
    spent() - before
}

#[test]
fn the_first_key_of_a_process_costs_no_gathering_of_entropy() {
    let first = spent_on_a_key();
    let mut others: Vec<_> = (0..9).map(|_| spent_on_a_key()).collect();
    others.sort_by(f64::total_cmp);
    // Gathering took three thousand times as long; what is done for the first time takes ten times as long.
    assert!(first < 300.0 * others[4], "{first} and {}", others[4]);
}
