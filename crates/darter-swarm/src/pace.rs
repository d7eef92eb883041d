//! How fast a peer answers the requests of one node.
//!
//! A pace belongs to a pair of nodes and not to a blob: a peer answers the requests of one node one after the other, whatever blob they are for.
//! A node that fetches several blobs measures it once for all of them (see [`Standing`]). If a holder sends pieces of sixty-four blobs, the times
//! of a single blob depend on chance: they would make the best holders seem slow, and their answers overdue.

use std::time::Duration;

use darter_core::Moment;

use crate::tuning::Tuning;

/// An answer with fewer bytes is not measured: it takes as long as the round trip. A configuration of two kilobytes would
/// make a holder on a gigabit link seem one on a few megabits, for all blobs.
const MIN_SAMPLE: u64 = 32 << 10;

/// The average rate of a peer's answers, and when the last one came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    rate: f64,
    samples: u32,
    last_answer: Moment,
}

/// The open requests to a peer and its pace, for all blobs together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// Unanswered requests for pieces by name.
    pub named: u32,
    /// How fast the peer answers.
    pub pace: Pace,
}

impl Pace {
    /// An answer of `bytes` to a request made at `asked` is complete. A peer answers one request after the other, so the
    /// time since its last answer is what this one took.
    pub fn answered(&mut self, bytes: u64, asked: Moment, now: Moment, tuning: &Tuning) {
        self.sample(bytes, asked, now, tuning);
        self.last_answer = now;
    }

    /// Counts an overdue request as `bytes` that took until now.
    pub(crate) fn overdue(&mut self, bytes: u64, asked: Moment, now: Moment, tuning: &Tuning) {
        self.sample(bytes, asked, now, tuning);
    }

    fn sample(&mut self, bytes: u64, asked: Moment, now: Moment, tuning: &Tuning) {
        if bytes < MIN_SAMPLE {
            return;
        }
        let since = asked.max(self.last_answer);
        let seconds = now.since(since).as_secs_f64().max(1e-5);
        let rate = bytes as f64 / seconds;
        let weight = if self.samples == 0 { 1.0 } else { tuning.rate_weight };
        self.rate += (rate - self.rate) * weight;
        self.samples += 1;
    }

    /// Bytes per second, once measured often enough to judge by.
    pub(crate) fn rate(&self, tuning: &Tuning) -> Option<f64> {
        (self.samples >= tuning.rate_samples).then_some(self.rate)
    }

    /// Forgets the rate, so that it is measured anew.
    pub(crate) const fn forget_rate(&mut self) {
        self.samples = 0;
    }

    /// The time that one piece takes, as far as known.
    pub(crate) fn piece_time(&self, piece_bytes: u64, tuning: &Tuning) -> Duration {
        self.measured(piece_bytes).unwrap_or(tuning.first_guess)
    }

    /// The time that one piece takes; `None` while nothing was measured.
    pub(crate) fn measured(&self, piece_bytes: u64) -> Option<Duration> {
        let seconds = (piece_bytes as f64 / self.rate.max(1.0)).min(3600.0);
        (self.samples > 0).then(|| Duration::from_secs_f64(seconds))
    }

    /// When the last answer was complete; [`Moment::ZERO`] before the first.
    pub(crate) const fn last_answer(&self) -> Moment {
        self.last_answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 1 << 20;

    fn at(millis: u64) -> Moment {
        Moment::from_micros(millis * 1000)
    }

    /// A peer that was asked for a piece at these moments, and had answered at those.
    fn after(answers: &[(u64, u64)]) -> Pace {
        let mut pace = Pace::default();
        answers.iter().for_each(|(asked, now)| pace.answered(PIECE, at(*asked), at(*now), &Tuning::default()));
        pace
    }

    fn millis(pace: &Pace) -> u128 {
        pace.piece_time(PIECE, &Tuning::default()).as_millis()
    }

    #[test]
    fn of_answers_that_come_one_after_the_other_each_took_the_time_since_the_last() {
        assert_eq!(millis(&after(&[(0, 100)])), 100);
        assert_eq!(millis(&after(&[(0, 100), (0, 200), (0, 300)])), 100);
        assert_eq!(
            millis(&after(&[(0, 100), (1000, 1100), (2000, 2100)])),
            100,
            "and since it was asked where it had rested"
        );
        assert_eq!(after(&[(0, 100)]).measured(2 * PIECE), Some(Duration::from_millis(200)));
        assert_eq!(after(&[(0, 100), (50, 220)]).last_answer(), at(220));
    }

    #[test]
    fn a_rate_counts_after_some_answers_and_a_single_one_changes_it_little() {
        let tuning = Tuning::default();
        let steady: Vec<_> = (0..8).map(|nth| (nth * 100, nth * 100 + 100)).collect();
        assert_eq!(after(&steady[..2]).rate(&tuning), None);
        let rate = after(&steady[..3]).rate(&tuning).unwrap();
        assert!((rate - PIECE as f64 * 10.0).abs() < 1000.0, "{rate}");
        let late = [&steady[..], &[(800, 1600)]].concat();
        assert!((110..200).contains(&millis(&after(&late))), "{}", millis(&after(&late)));
        let early = [&steady[..], &[(800, 820)]].concat();
        assert!((40..90).contains(&millis(&after(&early))), "{}", millis(&after(&early)));
    }

    #[test]
    fn a_rate_that_is_forgotten_is_measured_anew() {
        let tuning = Tuning::default();
        let mut pace = after(&[(0, 100), (100, 200), (200, 300)]);
        pace.forget_rate();
        assert_eq!((pace.rate(&tuning), pace.measured(PIECE)), (None, None));
        assert_eq!(pace.piece_time(PIECE, &tuning), tuning.first_guess);
        pace.answered(PIECE, at(300), at(700), &tuning);
        assert_eq!(millis(&pace), 400, "what was before does not count");
        let before = pace.last_answer();
        pace.overdue(PIECE, at(700), at(1700), &tuning);
        assert!(millis(&pace) > 400 && pace.last_answer() == before);
    }
}
