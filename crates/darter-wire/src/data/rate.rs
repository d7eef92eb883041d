//! Measures how fast a connection takes pieces, so that the limits of the holder itself and of a peer that reads slowly count, and not only the network's.

use std::time::Duration;

/// The weight of a new sample in the average.
const WEIGHT: f32 = 0.25;

/// A moving average of the rate at which the connection takes pieces. A socket with room takes a piece at once, so the average may be too high, but is never too
/// low: so the lower one of this rate and the connection's own counts. Kept as seconds per byte, which are zero for a piece that was taken
/// at once: such pieces hide a limit only for a few pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HandedRate(Option<f32>);

impl HandedRate {
    /// The connection took `bytes` in the time `took`, which includes waiting for the socket and for the budget.
    pub(super) fn handed(&mut self, bytes: u32, took: Duration) {
        let sample = took.as_secs_f32() / bytes.max(1) as f32;
        self.0 = Some(self.0.map_or(sample, |cost| cost + (sample - cost) * WEIGHT));
    }

    /// The lower one of this rate and `measured`, the connection's own, in bytes per second; `None` while that is unknown.
    pub(super) fn limits(&self, measured: Option<u64>) -> Option<u64> {
        let measured = measured?;
        Some(self.0.map_or(measured, |cost| measured.min(cost.recip() as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_the_holder_counts_where_it_is_lower_and_what_a_socket_takes_at_once_does_not() {
        let mut rate = HandedRate::default();
        assert_eq!((rate.limits(None), rate.limits(Some(9_000_000))), (None, Some(9_000_000)));
        (0..60).for_each(|_| rate.handed(1 << 17, Duration::ZERO));
        assert_eq!(rate.limits(Some(9_000_000)), Some(9_000_000));
        (0..4).for_each(|_| rate.handed(1_000_000, Duration::from_millis(500)));
        let limited = rate.limits(Some(9_000_000)).unwrap();
        assert!((2_000_000..3_000_000).contains(&limited), "{limited}");
        assert_eq!(rate.limits(Some(1_000_000)), Some(1_000_000));
    }
}
