//! What a picker knows of one neighbour, or of the lead: the pieces that it holds and how fast it has been.

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
    pub(super) meter: PeerRecord,
    /// Set if it was found slower than the others: it is left alone until then, except for pieces that it alone has.
    pub(super) slow_until: Option<Moment>,
}

/// A peer's answers, the requests in its queue, and when it may be asked again after failures.
#[derive(Debug, Default)]
pub(super) struct PeerRecord {
    /// Requests for this blob that are open there, overdue ones included: they still stand in its queue.
    pub(super) open: u32,
    /// Requests of this node for other blobs that stand there; at the lead, where asks for this blob may stand unanswered, a lower bound.
    pub(super) elsewhere: u32,
    pub(super) pace: Pace,
    /// Measurements from before this moment do not count.
    forgotten: Moment,
    pub(super) failures: Failures,
}

/// A peer's recent failures.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failures {
    in_a_row: u32,
    /// How many requested pieces in a row it took back.
    taken_back: u32,
    paused_until: Moment,
}

impl Failures {
    /// True if the peer failed since it last answered in time.
    pub(super) const fn is_failing(&self) -> bool {
        self.in_a_row > 0
    }
}

impl Neighbour {
    pub(super) fn new(id: NodeId, tier: Tier, wants: bool, held: PieceSet) -> Self {
        Self { id, tier, wants, held, meter: PeerRecord::default(), slow_until: None }
    }

    /// True if the neighbour may be asked at all now, slow or not.
    pub(super) fn is_ready(&self, now: Moment) -> bool {
        self.meter.paused_until() <= now
    }
}

impl PeerRecord {
    /// How many requests of this node stand in the peer's queue, for this blob and for others.
    pub(super) const fn queued(&self) -> u32 {
        self.open + self.elsewhere
    }

    /// Takes over what all blobs together know of the peer.
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

    /// An answer came. A late answer is used, but does not reset the count of failures. An answer is `in_time` if an honest holder may take that long, even one
    /// that is slower than the others and whose request was marked overdue because of earlier failures.
    pub(super) const fn succeeded(&mut self, in_time: bool) {
        if in_time {
            (self.failures.in_a_row, self.failures.taken_back) = (0, 0);
        }
    }

    /// True if the peer failed so often in a row that it is asked for one piece at a time.
    pub(super) const fn is_bad(&self, tuning: &Tuning) -> bool {
        self.failures.in_a_row >= tuning.failures_of_a_bad_one
    }

    /// Until when nothing is requested from it.
    pub(super) const fn paused_until(&self) -> Moment {
        self.failures.paused_until
    }

    /// It took back a requested piece. Returns true if this counts as a failure.
    pub(super) const fn takes_back(&mut self, tuning: &Tuning) -> bool {
        self.failures.taken_back += 1;
        self.failures.taken_back > tuning.may_take_back
    }

    pub(super) fn failed(&mut self, now: Moment, tuning: &Tuning) {
        let Failures { in_a_row, paused_until, .. } = &mut self.failures;
        let pause = tuning.retry_least * 2_u32.pow((*in_a_row).min(10));
        *paused_until = now + pause.min(tuning.retry_most);
        *in_a_row += 1;
    }

    /// The time that the peer may take to answer all requests in its queue, counting at least one: what it usually takes, limited by what
    /// may be expected in view of the `others`.
    pub(super) fn queue_time(&self, others: Option<Duration>, piece_bytes: u64, tuning: &Tuning) -> Duration {
        let factor = if self.is_failing() { 1 } else { tuning.overdue_factor_of_others };
        let most = others.map_or(Duration::MAX, |others| others * factor);
        self.pace.piece_time(piece_bytes, tuning).min(most) * self.queued().max(1)
    }

    /// The time that the peer would take to answer one more request.
    pub(super) fn time_for_one_more(&self, piece_bytes: u64, tuning: &Tuning) -> Duration {
        self.pace.piece_time(piece_bytes, tuning) * (self.queued() + 1)
    }

    /// True if the peer failed since it last answered in time.
    pub(super) const fn is_failing(&self) -> bool {
        self.failures.is_failing()
    }

    /// How long the answer to an open request may take to begin, or to go on: a multiple of what this peer takes, and at most a
    /// multiple of what the `others` take, if that is known. A peer gains no time by being slow or by never having answered, and one that
    /// failed has no more time than the others.
    fn patience(&self, queued: u32, others: Option<Duration>, piece_bytes: u64, tuning: &Tuning) -> Duration {
        let patience = match (self.pace.measured(piece_bytes), others) {
            (own, Some(others)) if self.is_failing() => {
                queued * own.map_or(others, |own| own.min(others)) * tuning.overdue_factor
            }
            (Some(own), None) => own * queued * tuning.overdue_factor,
            (Some(own), Some(others)) => {
                queued * (own * tuning.overdue_factor).min(others * tuning.overdue_factor_of_others)
            }
            (None, Some(others)) => (others * queued * tuning.overdue_factor).max(tuning.overdue_floor * 2),
            (None, None) => tuning.first_guess * queued.min(2) * tuning.overdue_factor,
        };
        patience.max(tuning.overdue_floor)
    }

    /// The moment by which an open request at place `queued` in the peer's queue must have made progress; after it the request is overdue. Answers to other
    /// requests show that the peer is up, and extend the time. But they do not extend it without end, in case the peer never answers this request; nor if the
    /// peer has failed, since these answers may be to requests that are long overdue.
    pub(super) fn deadline(
        &self,
        (moved, queued): (Moment, u32),
        others: Option<Duration>,
        piece_bytes: u64,
        tuning: &Tuning,
    ) -> Moment {
        let patience = self.patience(queued.max(1), others, piece_bytes, tuning);
        let alive = self.pace.last_answer().min(moved + patience * tuning.overdue_factor);
        if self.is_failing() { moved + patience } else { moved.max(alive) + patience }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_may_take_what_it_usually_does_unless_others_are_quicker_by_far_or_it_failed() {
        let (tuning, second, mib) = (Tuning::default(), Duration::from_secs(1), 1 << 20);
        let taking = |seconds: u32| {
            let mut record = PeerRecord { open: 1, ..PeerRecord::default() };
            record.pace.answered(mib, Moment::ZERO, Moment::ZERO + second * seconds, &tuning);
            record
        };
        let whole = |record: &PeerRecord, others| record.queue_time(others, mib, &tuning).as_secs_f64().round();
        let (mut slow, quick) = (taking(4), taking(1));
        assert_eq!([&slow, &quick].map(|it| whole(it, None)), [4.0, 1.0]);
        assert_eq!([&slow, &quick].map(|it| whole(it, Some(second))), [4.0, 1.0], "it is not slower by that much");
        let most = second * tuning.overdue_factor_of_others;
        assert_eq!(whole(&taking(100), Some(second)), most.as_secs_f64());
        (slow.open, slow.elsewhere) = (2, 1);
        assert_eq!(whole(&slow, Some(second)), 12.0, "three stand there");
        slow.failed(Moment::ZERO, &tuning);
        assert_eq!(whole(&slow, Some(second)), 3.0, "it has no more time than others");
    }
}
