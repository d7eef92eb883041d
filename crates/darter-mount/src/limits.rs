//! How long a read may wait, and how long to pause before the next try. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use darter_core::{ByteRange, Moment};

/// How long a read may wait that repeats a read that has timed out. The kernel itself repeats the read of a page that its read-ahead did not get,
/// so otherwise a program would wait for twice the limit.
const AGAIN: Duration = Duration::from_millis(100);

/// For how long after a timeout a read counts as a repetition, at most.
const MAX_REPETITION: Duration = Duration::from_secs(2);

/// How many failed reads are remembered.
const MAX_FAILED: usize = 256;

/// The limit for the reads of a mount.
#[derive(Debug)]
pub struct Limits {
    limit: Duration,
    failed: VecDeque<(ByteRange, Moment)>,
}

impl Limits {
    /// Reads may wait this long.
    pub const fn new(limit: Duration) -> Self {
        Self { limit, failed: VecDeque::new() }
    }

    /// How long a read of `range` that begins now may wait.
    pub fn patience(&self, range: ByteRange, now: Moment) -> Duration {
        let recent = (self.limit / 4).min(MAX_REPETITION);
        let overlaps = |failed: ByteRange| failed.start() < range.end() && range.start() < failed.end();
        let is_repeated = self.failed.iter().any(|(failed, at)| overlaps(*failed) && now.since(*at) < recent);
        if is_repeated { AGAIN.min(self.limit) } else { self.limit }
    }

    /// A read of `range` that could wait for `patience` has timed out.
    pub fn failed(&mut self, range: ByteRange, patience: Duration, now: Moment) {
        // A repetition is not repeated: the next read of the program may wait for the whole limit.
        if patience < self.limit {
            return;
        }
        if self.failed.len() >= MAX_FAILED {
            self.failed.pop_front();
        }
        self.failed.push_back((range, now));
    }
}

/// Pauses between tries to open a connection.
#[derive(Debug, Default)]
pub struct RetryPauses {
    tries: u32,
}

impl RetryPauses {
    /// The next pause: short while the agent may be restarting, and while programs wait.
    pub fn next(&mut self, somebody_waits: bool) -> Duration {
        let grown = Duration::from_millis(50) * 2_u32.saturating_pow(self.tries.min(10));
        self.tries += 1;
        grown.min(if somebody_waits { Duration::from_secs(1) } else { Duration::from_secs(10) })
    }

    /// A connection was opened that delivered something.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn a_read_that_waited_in_vain_is_not_repeated_at_length_and_later_waits_again() {
        let mut limits = Limits::new(LIMIT);
        let now = Moment::from_micros(9);
        let range = ByteRange::new(1000, 2000);
        assert_eq!(limits.patience(range, now), LIMIT);
        limits.failed(range, LIMIT, now);
        let page = ByteRange::new(1500, 1600);
        assert_eq!(limits.patience(page, now), AGAIN);
        assert_eq!(limits.patience(ByteRange::new(2000, 2001), now), LIMIT, "another page");
        limits.failed(page, AGAIN, now + (MAX_REPETITION - AGAIN));
        assert_eq!(limits.patience(page, now + MAX_REPETITION), LIMIT, "works again");
    }

    #[test]
    fn failures_are_remembered_within_bounds_and_a_short_limit_stays_one() {
        let mut limits = Limits::new(Duration::from_millis(10));
        let now = Moment::ZERO;
        for at in 0..10_000 {
            limits.failed(ByteRange::new(at, at + 1), Duration::from_millis(10), now);
        }
        assert_eq!(limits.failed.len(), MAX_FAILED);
        assert_eq!(limits.patience(ByteRange::new(9_999, 10_000), now), Duration::from_millis(10));
    }

    #[test]
    fn pauses_grow_and_no_program_waits_for_a_long_one() {
        let mut pauses = RetryPauses::default();
        assert_eq!(pauses.next(true), Duration::from_millis(50));
        assert_eq!(pauses.next(true), Duration::from_millis(100));
        for _ in 0..50 {
            pauses.next(false);
        }
        assert_eq!((pauses.next(true), pauses.next(false)), (Duration::from_secs(1), Duration::from_secs(10)));
        pauses.reset();
        assert_eq!(pauses.next(false), Duration::from_millis(50));
    }
}
