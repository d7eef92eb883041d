//! The least time in which anything can serve a swarm (Kumar and Ross, 2006), against which runs are measured.

use std::time::Duration;

use darter_core::Rate;

/// T* = max(F/u_s, F/d_min, N·F/(u_s + Σu_i)): the time for `bytes` to reach all of `nodes`, each given as its rates
/// up and down, from one seed that sends at `seed_up`. Zero when there is nobody to serve.
pub fn least_time(bytes: u64, seed_up: Rate, nodes: &[(Rate, Rate)]) -> Duration {
    let Some(slowest_down) = nodes.iter().map(|(_, down)| down.bytes_per_second()).min() else {
        return Duration::ZERO;
    };
    let bytes = bytes as f64;
    let seed_up = seed_up.bytes_per_second() as f64;
    let all_up = seed_up + nodes.iter().map(|(up, _)| up.bytes_per_second() as f64).sum::<f64>();
    let by_seed = bytes / seed_up;
    let by_receiver = bytes / slowest_down as f64;
    let by_capacity = nodes.len() as f64 * bytes / all_up;
    Duration::from_secs_f64(by_seed.max(by_receiver).max(by_capacity))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(megabytes: u64) -> Rate {
        Rate::from_bytes_per_second(megabytes * 1_000_000).unwrap()
    }

    #[test]
    fn each_of_the_three_limits_decides_in_turn() {
        let equal = [(rate(25), rate(25)); 8];
        assert_eq!(least_time(100_000_000, rate(25), &equal), Duration::from_secs(4));
        let mut one_slow = equal;
        one_slow[3].1 = rate(5);
        assert_eq!(least_time(100_000_000, rate(25), &one_slow), Duration::from_secs(20));
        let weak_up = [(rate(5), rate(100)); 8];
        assert_eq!(least_time(100_000_000, rate(40), &weak_up), Duration::from_secs(10));
        assert_eq!(least_time(1, rate(1), &[]), Duration::ZERO);
    }
}
