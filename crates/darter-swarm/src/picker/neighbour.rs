//! What a picker knows of one neighbour, or of the lead: what it holds and how fast it has been.

use std::time::Duration;

use darter_core::{Moment, NodeId, PieceSet, Tier};

use crate::pace::{Pace, Standing};
use crate::tuning::Tuning;

/// A peer that can be asked.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) id: NodeId,
    pub(super) tier: Tier,
    pub(super) wants: bool,
    pub(super) held: PieceSet,
    pub(super) meter: Meter,
    /// Found slower than the others; left alone until then, except for what only it has.
    pub(super) slow_until: Option<Moment>,
}

/// How a peer answers, what stands there, and when it may be asked again after failures.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Requests for this blob open there, overdue ones included: they still stand in its queue.
    pub(super) open: u32,
    /// Requests of this node that stand there for other blobs; at the lead, where asks of this one may just stand, at least so many.
    pub(super) elsewhere: u32,
    pub(super) pace: Pace,
    /// What was measured before this is not to be gone by.
    forgotten: Moment,
    failures: u32,
    pub(super) paused_until: Moment,
}

impl Neighbour {
    pub(super) fn new(id: NodeId, tier: Tier, wants: bool, held: PieceSet) -> Self {
        Self { id, tier, wants, held, meter: Meter::default(), slow_until: None }
    }

    /// Whether it may be asked at all now, slow or not.
    pub(super) fn is_ready(&self, now: Moment) -> bool {
        self.meter.paused_until <= now
    }
}

impl Meter {
    /// How many requests of this node stand in the peer's queue, for this blob and for others.
    pub(super) const fn queued(&self) -> u32 {
        self.open + self.elsewhere
    }

    /// Takes over what is known of the peer by all blobs.
    pub(super) const fn adopt(&mut self, standing: Standing) {
        self.elsewhere = standing.named.saturating_sub(self.open);
        self.pace = standing.pace;
        if self.pace.last_answer().as_micros() < self.forgotten.as_micros() {
            self.pace.forget_rate();
        }
    }

    /// Forgets how fast the peer was, so that it is measured anew.
    pub(super) const fn forget_rate(&mut self, now: Moment) {
        self.forgotten = now;
        self.pace.forget_rate();
    }

    /// An answer came.
    pub(super) const fn succeeded(&mut self) {
        self.failures = 0;
    }

    pub(super) fn failed(&mut self, now: Moment, tuning: &Tuning) {
        let pause = tuning.retry_least * 2_u32.pow(self.failures.min(10));
        self.paused_until = now + pause.min(tuning.retry_most);
        self.failures += 1;
    }

    /// What the peer takes to answer all that stands in its queue, and at least one request.
    pub(super) fn queue_time(&self, piece_bytes: u64, tuning: &Tuning) -> Duration {
        self.pace.piece_time(piece_bytes, tuning) * self.queued().max(1)
    }

    /// What the peer would take to answer one request more.
    pub(super) fn time_for_one_more(&self, piece_bytes: u64, tuning: &Tuning) -> Duration {
        self.pace.piece_time(piece_bytes, tuning) * (self.queued() + 1)
    }

    /// By when an open request must have moved; later it is overdue. Answers to other requests show that the peer is alive, but a peer
    /// that answers those and this one never is not waited for without end.
    pub(super) fn deadline(&self, moved: Moment, piece_bytes: u64, tuning: &Tuning) -> Moment {
        let patience = (self.queue_time(piece_bytes, tuning) * tuning.overdue_factor).max(tuning.overdue_floor);
        let alive = self.pace.last_answer().min(moved + patience * tuning.overdue_factor);
        moved.max(alive) + patience
    }
}
