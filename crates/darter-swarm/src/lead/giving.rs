//! Which piece is sent to a member that asked for any piece.
//!
//! A piece that nobody has goes first, since the time of a swarm is near its bound only while the lead sends every piece once before it sends any
//! twice. Copies come after a pause: by then, members pass most pieces on by themselves. A piece that is late, or was lost on the way, is given again.
//!
//! Invariant: a piece that is sent is counted as sent until its receiver confirms it, or has not confirmed it for too long.
//!
//! Non-goals: room to send, which is the caller's; members that keep what they are given (`standing`).

use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex};

use crate::lead::Lead;
use crate::tuning::Tuning;

impl Lead {
    /// A piece that nobody has yet, for a member that asked for any piece and for which an upload slot is free. It is counted as sent: call
    /// [`Lead::unsent`] if it did not arrive. `None` if there is none for this member now: the ask stands, and is worth another try after
    /// anything changed, and at [`Lead::next_wakeup`].
    pub(crate) fn choose_fresh(&mut self, node: NodeId, now: Moment) -> Option<PieceIndex> {
        let slot = self.members.slot(node)?;
        if now < self.settled {
            return None;
        }
        self.forget_undelivered(now);
        self.look_for_late(now);
        self.look_for_kept(now);
        let piece = self.fresh_for(slot).filter(|_| !self.leaves_to_others(slot, now))?;
        if !self.is_slow(slot, now) {
            self.quick_given = now;
        }
        self.count_sent(slot, piece, now);
        Some(piece)
    }

    /// One more copy of a piece, for a member for which no blob has a piece that nobody has yet ([`Lead::choose_fresh`]). Of the pieces that were not
    /// sent for a while: the piece sent least often, then the one with the fewest holders, ties by chance. It is counted as sent.
    pub(crate) fn choose_copy(&mut self, node: NodeId, now: Moment) -> Option<PieceIndex> {
        let slot = self.members.slot(node)?;
        if now < self.settled {
            return None;
        }
        let piece = self.copy_for(slot, now);
        match piece {
            Some(piece) => {
                self.waits_in_vain(slot, piece, now);
                self.count_sent(slot, piece, now);
            }
            None => self.look_again_later(now),
        }
        piece
    }

    /// True if an ask may be answered now; while it is false, asks that stand need not be tried. [`Lead::next_wakeup`] then says when time alone may
    /// change it.
    pub(crate) fn may_give(&mut self, now: Moment) -> bool {
        if now < self.settled {
            return false;
        }
        self.forget_undelivered(now);
        self.look_for_late(now);
        self.look_for_kept(now);
        if self.pieces.first_fresh().is_some() || self.may_copy(now) {
            return true;
        }
        self.look_again_later(now);
        false
    }

    /// True if a piece was last sent long enough ago to be sent again.
    fn may_copy(&mut self, now: Moment) -> bool {
        if self.copies_from <= now {
            let pause = if self.readings.everything { self.lonely_pause() } else { self.pauses_of_parts().1 };
            self.copies_from = self.pieces.oldest_sent().map_or(now, |sent| sent + pause);
        }
        self.copies_from <= now
    }

    /// True if there is a piece that nobody has yet and that `node` lacks, even if it is left to quicker members: while there is one, a copy of
    /// another piece would keep the lead from sending it.
    pub(crate) fn has_fresh_for(&self, node: NodeId, now: Moment) -> bool {
        now >= self.settled && self.members.slot(node).is_some_and(|slot| self.fresh_for(slot).is_some())
    }

    fn fresh_for(&self, slot: usize) -> Option<PieceIndex> {
        let member = self.members.get(slot);
        let first = |accept: &dyn Fn(PieceIndex) -> bool| {
            let accept = |piece| !member.is_coming(piece) && accept(piece);
            match &member.parts {
                None => self.pieces.first_fresh_besides(&member.held, accept),
                Some(parts) => self.pieces.first_fresh_of(parts, &member.held, accept),
            }
        };
        // A piece that came late to one member must not come late to the next, too: a member that was never seen to be quick gets it only if there is nothing else.
        let is_new = member.delivery.is_zero();
        let not_late = is_new.then(|| first(&|piece| self.pieces.get(piece).late == 0)).flatten();
        not_late.or_else(|| first(&|_| true))
    }

    /// True if the member's request for `piece` by name is answered after those of others: because it announced this piece itself, does not announce pieces
    /// that it is given, keeps them to itself, or requests pieces that others have and passes on none. For a member that starts a program only the first reason
    /// counts: it waits for the pieces that it names, and leaves soon.
    pub(crate) fn goes_last(&self, node: NodeId, piece: PieceIndex, now: Moment) -> bool {
        let Some(slot) = self.members.slot(node) else { return false };
        let member = self.members.get(slot);
        let patience = slow_delivery(self.delivery, &self.tuning) * 2;
        // A member that never told of a piece is given no time for the latest ones.
        let counts = |(_, since): &&(PieceIndex, Moment)| !member.tells || *since + patience <= now;
        let untold = member.untold as usize + member.coming.iter().filter(counts).count();
        let most = if member.tells { self.tuning.untold_of_one_that_told } else { self.tuning.untold } as usize;
        let is_no_help = member.aside || member.standing.keeps || untold >= most || self.only_takes(slot);
        member.held.contains(piece) || (is_no_help && member.parts.is_none())
    }

    fn is_slow(&self, slot: usize, now: Moment) -> bool {
        let member = self.members.get(slot);
        now < member.slow_until || member.aside || member.standing.keeps
    }

    /// True if a member has to make do with pieces that others hold: it is slow to receive, and so to pass on, and quicker members take all the pieces
    /// that nobody has.
    fn leaves_to_others(&self, slot: usize, now: Moment) -> bool {
        self.is_slow(slot, now) && now < self.quick_given + self.copy_pause() && self.pieces.first_fresh().is_some()
    }

    fn copy_for(&mut self, slot: usize, now: Moment) -> Option<PieceIndex> {
        if now < self.copies_from || self.leaves_to_others(slot, now) || !self.may_copy(now) {
            return None;
        }
        let wants_parts = self.members.get(slot).parts.is_some();
        let leaves_held = wants_parts && !self.members.get_mut(slot).waits_long(self.tuning.parts_starved, now);
        let (pause, lonely) =
            if wants_parts { self.pauses_of_parts() } else { (self.copy_pause(), self.lonely_pause()) };
        let salt = self.random.next();
        let is_starved = self.members.get_mut(slot).is_starved(self.tuning.keeping_floor * 2, now);
        let cross_pause = if is_starved { pause.max(self.tuning.keeping_floor * 2) } else { pause };
        let member = self.members.get(slot);
        let from = (&member.held, member.parts.as_deref());
        let may = |piece| !leaves_held || self.is_not_passed_on(slot, piece);
        let crosses = |piece| self.members.may_cross(slot, piece, (cross_pause, is_starved), now);
        let accept = |piece| !member.is_coming(piece) && may(piece) && crosses(piece);
        self.pieces.copy(from, (pause, lonely), now, salt, accept)
    }

    /// An ask stands: notes when time alone may bring an answer.
    fn look_again_later(&mut self, now: Moment) {
        let undelivered = self.deliveries.front().map(|(sent, ..)| *sent + self.delivery_patience());
        let late = self.fresh_deliveries.front().map(|(sent, ..)| *sent + slow_delivery(self.delivery, &self.tuning));
        let late = late.filter(|_| !self.delivery.is_zero());
        // The pieces that are left to quicker members now.
        let left = self.pieces.first_fresh().map(|_| self.quick_given + self.copy_pause());
        let due = [undelivered, late, left, self.kept_due(), Some(self.copies_from)].into_iter().flatten().min();
        let soon = now + self.tuning.copy_floor / 4;
        let again = due.map_or(soon, |due| due.max(soon));
        self.look_again =
            Some(self.look_again.filter(|before| now < *before).map_or(again, |before| before.min(again)));
    }

    /// How long a member may take to confirm a piece that it was sent.
    fn delivery_patience(&self) -> Duration {
        (self.delivery * self.tuning.delivery_factor).max(self.tuning.delivery_floor)
    }

    /// If a receiver takes long to confirm a piece that nobody else has, the piece is given to another as well: a slow member passes it on late, and
    /// until then readers in order wait for it.
    fn look_for_late(&mut self, now: Moment) {
        if self.delivery.is_zero() {
            return;
        }
        let patience = slow_delivery(self.delivery, &self.tuning);
        while let Some((_, node, piece)) =
            self.fresh_deliveries.front().copied().filter(|(sent, ..)| *sent + patience <= now)
        {
            self.fresh_deliveries.pop_front();
            let slot = self.members.slot(node);
            let Some(slot) = slot.filter(|slot| self.members.get(*slot).is_coming(piece)) else { continue };
            self.pieces.change(piece, |state| state.late += 1);
            // A member that starts a program waits for each piece: one that confirms nothing costs the others this time once, and not for each piece.
            let member = self.members.get_mut(slot);
            if member.parts.is_some() {
                member.slow_until = now + self.tuning.slow_for;
            }
        }
    }

    /// A piece that was sent long ago and never confirmed was lost on the way, or failed verification: it may be given again, to
    /// the same member too.
    fn forget_undelivered(&mut self, now: Moment) {
        let patience = self.delivery_patience();
        while let Some((sent, node, piece)) =
            self.deliveries.front().copied().filter(|(sent, ..)| *sent + patience <= now)
        {
            self.deliveries.pop_front();
            let Some(slot) = self.members.slot(node) else { continue };
            let member = self.members.get_mut(slot);
            if member.take_coming_since(piece, sent) {
                member.untold += 1;
                self.pieces.change(piece, |state| state.coming -= 1);
            }
        }
    }

    /// How long after its last sending a piece that at most one member holds is sent again. In a small swarm, where members tell soon what they hold, this
    /// is shorter than for other pieces: the holder may keep the piece to itself, or answer late.
    fn lonely_pause(&self) -> Duration {
        let usual = (self.delivery * self.tuning.copy_factor).max(self.tuning.copy_floor);
        let is_told_soon = self.members.count() <= self.tuning.neighbours_few as usize;
        let pause = self.copy_pause();
        if is_told_soon { pause.min(usual * self.tuning.copy_factor_while_reading) } else { pause }
    }

    fn copy_pause(&self) -> Duration {
        let pause = (self.delivery * self.tuning.copy_factor).max(self.tuning.copy_floor);
        let reading = self.total != Some(self.pieces.own.len());
        let pause = if reading { pause * self.tuning.copy_factor_while_reading } else { pause };
        if self.share < self.tuning.copy_share { pause * self.tuning.copy_factor_when_minor } else { pause }
    }

    /// For a member that wants parts: the pause after which a piece is sent again, and that for a piece which at most one member holds. Unlike other pauses, they are
    /// not longer while the lead lacks pieces, since it reads those that somebody waits for.
    fn pauses_of_parts(&self) -> (Duration, Duration) {
        let usual = (self.delivery * self.tuning.copy_factor).max(self.tuning.copy_floor);
        let is_minor = self.share < self.tuning.copy_share;
        let pause = if is_minor { usual * self.tuning.copy_factor_when_minor } else { usual };
        let is_told_soon = self.members.count() <= self.tuning.neighbours_few as usize;
        (pause, if is_told_soon { usual } else { pause })
    }
}

/// The time that a delivery takes at a slow member, if deliveries usually take `usual`.
pub(super) fn slow_delivery(usual: Duration, tuning: &Tuning) -> Duration {
    (usual * tuning.slow_delivery).max(tuning.copy_floor)
}
