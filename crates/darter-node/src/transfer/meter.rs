//! A rate over the last second or so, from amounts and moments.

use std::collections::VecDeque;
use std::time::Duration;

use darter_core::Moment;

const WINDOW: Duration = Duration::from_millis(1500);
const BUCKET: Duration = Duration::from_millis(100);

/// Counts bytes in buckets of a tenth of a second and forgets those older than the window.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    buckets: VecDeque<(Moment, u64)>,
}

impl Meter {
    /// Counts bytes.
    pub(crate) fn add(&mut self, now: Moment, bytes: u64) {
        match self.buckets.back_mut() {
            Some((start, sum)) if now.since(*start) < BUCKET => *sum += bytes,
            _ => self.buckets.push_back((now, bytes)),
        }
        self.forget(now);
    }

    /// Bytes per second over the window.
    pub(crate) fn rate(&mut self, now: Moment) -> u64 {
        self.forget(now);
        let Some((first, _)) = self.buckets.front() else { return 0 };
        let span = now.since(*first).max(BUCKET).as_secs_f64();
        let sum: u64 = self.buckets.iter().map(|(_, bytes)| bytes).sum();
        (sum as f64 / span) as u64
    }

    fn forget(&mut self, now: Moment) {
        while self.buckets.front().is_some_and(|(start, _)| now.since(*start) > WINDOW) {
            self.buckets.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_bytes_are_forgotten() {
        let mut meter = Meter::default();
        let at = |millis: u64| Moment::ZERO + Duration::from_millis(millis);
        for tenth in 0..10 {
            meter.add(at(tenth * 100), 100);
        }
        assert_eq!(meter.rate(at(1000)), 1000);
        assert_eq!(meter.rate(at(5000)), 0);
    }
}
