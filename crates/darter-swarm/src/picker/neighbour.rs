//! What a picker knows of one neighbour, or of the lead: what it holds and how fast it has been.

use std::time::Duration;

use darter_core::{Moment, NodeId, PieceSet, Tier};

use crate::tuning::Tuning;

/// A peer that can be asked.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) id: NodeId,
    pub(super) tier: Tier,
    pub(super) wants: bool,
    pub(super) held: PieceSet,
    pub(super) meter: Meter,
    /// Requests of this node that stand there for other blobs.
    pub(super) elsewhere: u32,
    /// Found slower than the others; left alone until then, except for what only it has.
    pub(super) slow_until: Option<Moment>,
}

/// How fast a peer answers, and when it may be asked again after failures.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Requests open there, overdue ones included: they still stand in its queue.
    pub(super) open: u32,
    rate: f64,
    samples: u32,
    last_arrival: Moment,
    failures: u32,
    pub(super) paused_until: Moment,
}

impl Neighbour {
    pub(super) fn new(id: NodeId, tier: Tier, wants: bool, held: PieceSet) -> Self {
        Self { id, tier, wants, held, meter: Meter::default(), elsewhere: 0, slow_until: None }
    }

    /// How many requests of this node stand in its queue, for this blob and for others.
    pub(super) const fn queued(&self) -> u32 {
        self.meter.open + self.elsewhere
    }

    /// Whether it may be asked at all now, slow or not.
    pub(super) fn is_ready(&self, now: Moment) -> bool {
        self.meter.paused_until <= now
    }
}

impl Meter {
    /// An answer of `bytes` to a request made at `asked` is complete. A peer answers its requests one after the other,
    /// so the time since its last answer is what this one took.
    pub(super) fn arrived(&mut self, bytes: u64, asked: Moment, now: Moment, tuning: &Tuning) {
        self.sample(bytes, asked, now, tuning);
        self.last_arrival = now;
        self.failures = 0;
    }

    /// Counts a request that got nowhere as `bytes` that took until now.
    pub(super) fn overdue(&mut self, bytes: u64, asked: Moment, now: Moment, tuning: &Tuning) {
        self.sample(bytes, asked, now, tuning);
    }

    fn sample(&mut self, bytes: u64, asked: Moment, now: Moment, tuning: &Tuning) {
        let since = asked.max(self.last_arrival);
        let seconds = now.since(since).as_secs_f64().max(1e-5);
        let rate = bytes as f64 / seconds;
        let weight = if self.samples == 0 { 1.0 } else { tuning.rate_weight };
        self.rate += (rate - self.rate) * weight;
        self.samples += 1;
    }

    pub(super) fn failed(&mut self, now: Moment, tuning: &Tuning) {
        let pause = tuning.retry_least * 2_u32.pow(self.failures.min(10));
        self.paused_until = now + pause.min(tuning.retry_most);
        self.failures += 1;
    }

    /// Bytes per second, once it is known well enough to judge by.
    pub(super) fn rate(&self, tuning: &Tuning) -> Option<f64> {
        (self.samples >= tuning.rate_samples).then_some(self.rate)
    }

    /// Forgets the rate, so that it is measured anew.
    pub(super) const fn forget_rate(&mut self) {
        self.samples = 0;
    }

    /// What one piece takes, as far as known.
    pub(super) fn piece_time(&self, piece_bytes: u64, tuning: &Tuning) -> Duration {
        if self.samples == 0 {
            return tuning.first_guess;
        }
        Duration::from_secs_f64((piece_bytes as f64 / self.rate.max(1.0)).min(3600.0))
    }

    /// By when an open request must have moved; later it is overdue.
    pub(super) fn deadline(&self, moved: Moment, piece_bytes: u64, tuning: &Tuning) -> Moment {
        let expected = self.piece_time(piece_bytes, tuning) * self.open.max(1);
        let patience = (expected * tuning.overdue_factor).max(tuning.overdue_floor);
        moved.max(self.last_arrival) + patience
    }
}
