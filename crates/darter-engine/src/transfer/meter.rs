//! Counters for the live view: `Meter`, a rate over the last two seconds, and [`TierBytes`], all bytes by the distance
//! of the other agent.
//!
//! A meter has a fixed size of 80 bytes, and adding to it takes a few instructions: there may be two for each peer of each transfer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use darter_core::{Moment, Tier};

/// Buckets in the window.
const BUCKETS: u64 = 8;

/// A bucket's length in microseconds.
const BUCKET: u64 = 250_000;

/// The shortest time over which a rate is computed, so that one piece after a pause does not look like
/// a burst.
const MIN_SPAN: Duration = Duration::from_secs(1);

/// Counts bytes in buckets of a quarter of a second and forgets those older than the window.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meter {
    /// Bytes by bucket, in a ring.
    buckets: [u64; BUCKETS as usize],
    /// The newest bucket's number, counted from the clock's origin.
    newest: u64,
    /// When the first bytes came after a window without any.
    began: Moment,
}

impl Meter {
    /// Counts bytes.
    pub(crate) fn add(&mut self, now: Moment, bytes: u64) {
        self.turn(now);
        if self.is_quiet() {
            self.began = now;
        }
        self.buckets[(self.newest % BUCKETS) as usize] += bytes;
    }

    /// Bytes per second over the window, or since the bytes began to come if that is shorter, but no less than a second.
    pub(crate) fn rate(&mut self, now: Moment) -> u64 {
        self.turn(now);
        let window = Duration::from_micros((BUCKETS - 1) * BUCKET + now.as_micros() % BUCKET);
        let span = now.since(self.began).min(window).max(MIN_SPAN);
        let sum: u64 = self.buckets.iter().sum();
        (sum as f64 / span.as_secs_f64()) as u64
    }

    /// Clears buckets that have become too old.
    fn turn(&mut self, now: Moment) {
        let number = now.as_micros() / BUCKET;
        let passed = number.saturating_sub(self.newest).min(BUCKETS);
        for old in 1..=passed {
            self.buckets[((self.newest + old) % BUCKETS) as usize] = 0;
        }
        self.newest = self.newest.max(number);
    }

    fn is_quiet(&self) -> bool {
        self.buckets.iter().all(|bytes| *bytes == 0)
    }
}

/// All tiers, in numerical order.
pub const TIERS: [Tier; 5] = [Tier::Host, Tier::Rack, Tier::Zone, Tier::Region, Tier::Far];

/// Bytes of pieces received and sent since start, by tier.
#[derive(Debug, Default)]
pub struct TierBytes {
    received: [AtomicU64; TIERS.len()],
    sent: [AtomicU64; TIERS.len()],
}

impl TierBytes {
    /// Counts bytes of pieces received.
    pub(crate) fn came(&self, from: Tier, bytes: u64) {
        self.received[from as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes of pieces sent.
    pub(crate) fn went(&self, to: Tier, bytes: u64) {
        self.sent[to as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// The bytes received and sent so far, in the order of [`TIERS`].
    pub fn read(&self) -> [[u64; TIERS.len()]; 2] {
        [&self.received, &self.sent].map(|tiers| tiers.each_ref().map(|bytes| bytes.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn old_bytes_are_forgotten() {
        let mut meter = Meter::default();
        for tenth in 0..10 {
            meter.add(at(tenth * 100), 100);
        }
        assert_eq!(meter.rate(at(1000)), 1000);
        assert_eq!(meter.rate(at(5000)), 0);
        meter.add(at(60_000), 10);
        assert_eq!(meter.rate(at(60_001)), 10, "nothing of before the pause");
    }

    #[test]
    fn a_piece_every_second_is_an_even_rate() {
        let mut meter = Meter::default();
        for second in 0..20 {
            meter.add(at(second * 1000), 1000);
        }
        for millis in [19_010, 19_500, 19_700, 19_990] {
            let rate = meter.rate(at(millis));
            assert!((900..1200).contains(&rate), "{rate} at {millis}");
        }
    }

    #[test]
    fn tiers_are_counted_apart() {
        let bytes = TierBytes::default();
        for (amount, tier) in (1..).zip(TIERS) {
            bytes.came(tier, amount);
        }
        bytes.went(Tier::Rack, 7);
        assert_eq!(bytes.read(), [[1, 2, 3, 4, 5], [0, 7, 0, 0, 0]]);
    }
}
