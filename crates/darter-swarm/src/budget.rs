//! Byte budgets. [`TokenBucket`] lends: a caller that takes bytes is told how long to wait before using them, so that a
//! single piece larger than the burst passes too and the long-run rate is still exact.

use std::time::Duration;

use darter_core::{Moment, Rate};

/// A budget of bytes per second with a burst; without a rate it never makes anybody wait.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: Option<Rate>,
    /// Most credit that idle time can gather, as time.
    burst: Duration,
    /// When all that was taken so far will have been paid for.
    paid_at: Moment,
}

impl TokenBucket {
    /// A budget of `rate` that lets `burst` bytes pass at once after idle time.
    pub fn new(rate: Option<Rate>, burst: u64) -> Self {
        let burst = rate.map_or(Duration::ZERO, |rate| time_for(burst, rate));
        Self { rate, burst, paid_at: Moment::ZERO }
    }

    /// Takes `bytes` and returns how long to wait before using them.
    pub fn take(&mut self, bytes: u64, now: Moment) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        // Idle time counts as paid beforehand, as far as the burst goes.
        let idle = now.since(self.paid_at).min(self.burst);
        let cost = time_for(bytes, rate);
        let from_credit = idle.min(cost);
        let start = if self.paid_at > now { self.paid_at } else { now };
        let credit_left = idle.checked_sub(from_credit).expect("the smaller of both was taken");
        let owed = cost.checked_sub(from_credit).expect("the smaller of both was taken");
        self.paid_at = if owed.is_zero() {
            Moment::from_micros(now.as_micros().saturating_sub(micros(credit_left)))
        } else {
            start + owed
        };
        self.paid_at.since(now)
    }
}

fn time_for(bytes: u64, rate: Rate) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate.bytes_per_second() as f64)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(burst: u64) -> TokenBucket {
        TokenBucket::new(Rate::from_bytes_per_second(1_000_000), burst)
    }

    #[test]
    fn the_long_run_rate_is_exact_whatever_the_sizes() {
        let mut bucket = bucket(10_000);
        let start = Moment::from_micros(5_000_000);
        let mut now = start;
        for size in [1_000, 400_000, 7, 2_000_000, 98_993].into_iter().cycle().take(50) {
            now = now + bucket.take(size, now);
        }
        let bytes = 10 * (1_000 + 400_000 + 7 + 2_000_000 + 98_993_u64);
        let ideal = Duration::from_micros(bytes - 10_000);
        let off = now.since(start).abs_diff(ideal);
        assert!(off < Duration::from_millis(1), "{off:?}");
    }

    #[test]
    fn a_burst_passes_at_once_but_only_once() {
        let mut bucket = bucket(10_000);
        let now = Moment::from_micros(60_000_000);
        assert_eq!(bucket.take(4_000, now), Duration::ZERO);
        assert_eq!(bucket.take(6_000, now), Duration::ZERO);
        assert_eq!(bucket.take(1_000, now), Duration::from_millis(1));
        assert_eq!(bucket.take(1_000, now), Duration::from_millis(2));
    }

    #[test]
    fn no_rate_means_no_waiting() {
        assert_eq!(TokenBucket::new(None, 0).take(u64::MAX, Moment::ZERO), Duration::ZERO);
    }
}
