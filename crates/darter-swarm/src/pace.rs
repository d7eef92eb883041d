//! How fast a peer answers one node.
//!
//! A pace belongs to a pair of nodes and not to a blob: a peer answers the requests of one node one after the other, whatever blob they
//! are for. A node that fetches several blobs measures it once for all of them (see [`Standing`]); what one blob sees of a
//! holder that gives sixty-four is chance, and would call the best holders slow and their answers overdue.

use std::time::Duration;

use darter_core::Moment;

use crate::tuning::Tuning;

/// Answers of fewer bytes say nothing of a rate: they take as long as their way does. An image's configuration of two kilobytes would
/// make a holder of gigabit seem one of some megabit, for all blobs.
const MIN_SAMPLE: u64 = 32 << 10;

/// The average rate of a peer's answers, and when the last one came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    rate: f64,
    samples: u32,
    last_answer: Moment,
}

/// What stands between this node and a peer, for all blobs together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// Unanswered requests for pieces that are named.
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

    /// Counts a request that got nowhere as `bytes` that took until now.
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

    /// Bytes per second, once it is known well enough to judge by.
    pub(crate) fn rate(&self, tuning: &Tuning) -> Option<f64> {
        (self.samples >= tuning.rate_samples).then_some(self.rate)
    }

    /// Forgets the rate, so that it is measured anew.
    pub(crate) const fn forget_rate(&mut self) {
        self.samples = 0;
    }

    /// What one piece takes, as far as known.
    pub(crate) fn piece_time(&self, piece_bytes: u64, tuning: &Tuning) -> Duration {
        self.measured(piece_bytes).unwrap_or(tuning.first_guess)
    }

    /// What one piece takes; `None` while nothing was measured.
    pub(crate) fn measured(&self, piece_bytes: u64) -> Option<Duration> {
        let seconds = (piece_bytes as f64 / self.rate.max(1.0)).min(3600.0);
        (self.samples > 0).then(|| Duration::from_secs_f64(seconds))
    }

    /// When the last answer was complete; the beginning of time before the first.
    pub(crate) const fn last_answer(&self) -> Moment {
        self.last_answer
    }
}
