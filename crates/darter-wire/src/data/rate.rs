//! How fast one connection is handed pieces: what a holder's own limits and a peer that reads slowly leave of the cable.

use std::time::Duration;

/// The part of a new sample in what is known.
const WEIGHT: f32 = 0.25;

/// Bytes per second while pieces are handed over, from how long each took. Bytes that a socket had room for make it too high, and never too
/// low: the lower one of it and the connection's own counts. Kept as seconds for each byte, of which a piece that was taken at once has
/// none: it hides a limit for a few pieces and no longer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HandedRate(Option<f32>);

impl HandedRate {
    /// `bytes` were handed over in this time, waits for room and for the budget included.
    pub(super) fn handed(&mut self, bytes: u32, took: Duration) {
        let sample = took.as_secs_f32() / bytes.max(1) as f32;
        self.0 = Some(self.0.map_or(sample, |cost| cost + (sample - cost) * WEIGHT));
    }

    /// The lower one of this rate and `measured`, that of the connection; `None` while that is not known.
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
