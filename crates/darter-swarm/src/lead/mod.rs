//! The tracker of one swarm, and which piece its seed sends to which member.
//!
//! A lead normally runs at the seed; when no seed is up, at a node that the others elect. It knows all members and
//! what they hold, gives each its neighbours, answers asks for "any piece" *late*, when there is room to send, and
//! says what must be read from the origin. Its state is soft: members tell it again after a change of lead.
//!
//! Why late-bound: the time of a swarm is near its bound only if the seed sends every piece once before it sends any
//! twice, and sends it to whoever can take it now. The lead doesn't announce its own pieces; receivers announce theirs.
//!
//! Invariants: `Piece::holders` counts the members that hold a piece and count as its holders (`Member::counts`); `Piece::coming` counts the
//! members that have it in `coming`; links are mutual.
//!
//! Non-goals: the lead moves no bytes, and trusts no member's word on content (nodes verify).
//!
//! | file | |
//! |---|---|
//! | `beside` | what further connections to the origin read |
//! | `giving` | which piece is sent to a member that asked for any |
//! | `members` | the members, and which of them are neighbours (`members/links.rs`) |
//! | `notices` | changes of neighbours, until members are told of them |
//! | `origin` | what is read from the origin next, by which connection |
//! | `pieces` | holders, copies sent, gaps for the origin |
//! | `rests` | the end of a slow connection's stretch, which another connection reads |
//! | `standing` | members that hold pieces and do not give them |

mod beside;
mod giving;
mod members;
mod notices;
mod origin;
mod pieces;
mod rests;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex, PieceSet, Place};

use crate::MAX_PIECES;
use crate::lead::giving::slow_delivery;
use crate::lead::members::{Members, Reported};
pub(crate) use crate::lead::notices::{NewNeighbour, Notice};
use crate::lead::origin::Readings;
pub use crate::lead::origin::Wish;
use crate::lead::pieces::{Piece, Pieces};
use crate::lead::standing::HolderWatch;
use crate::random::Random;
use crate::tuning::Tuning;

/// How a lead came to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nobody led before: the origin may be asked at once.
    Fresh,
    /// Another lead is gone: members need a moment to say what they hold before the origin is asked.
    TakeOver,
}

/// One of the lead's readers of the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OriginReader {
    /// Reads everything that nobody has.
    Everything,
    /// Reads the pieces that somebody waits for.
    Errands,
    /// Reads as well as the reader of everything: a further connection, by its number from 0.
    Beside(u8),
}

/// Pieces to be read from the origin, in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginRun {
    /// The first piece.
    pub first: PieceIndex,
    /// One past the last piece; `None` for "to the end of the blob".
    pub end: Option<PieceIndex>,
}

/// The lead of one swarm.
#[derive(Debug)]
pub(crate) struct Lead {
    me: NodeId,
    tuning: Tuning,
    total: Option<u32>,
    pieces: Pieces,
    members: Members,
    random: Random,
    /// Deliveries by time, receiver and piece, oldest first; a confirmed one stays until its time has passed.
    deliveries: VecDeque<(Moment, NodeId, PieceIndex)>,
    /// Deliveries of pieces that nobody had, while they are not late.
    fresh_deliveries: VecDeque<(Moment, NodeId, PieceIndex)>,
    /// Before this moment nothing is sent or read: members are still saying what they hold.
    settled: Moment,
    /// Average time from the sending of a piece to its receiver's confirmation.
    delivery: Duration,
    /// When a member that is not slow was last given a piece that nobody had.
    quick_given: Moment,
    /// The lead's share, of late, in all pieces that members came to hold.
    share: f32,
    /// No piece may be sent again before this moment.
    copies_from: Moment,
    /// When an ask for which there was no piece is worth another try.
    look_again: Option<Moment>,
    readings: Readings,
    /// Observations of members as holders.
    watch: HolderWatch,
}

impl Lead {
    /// A lead that runs at node `me`, which holds nothing yet, in a swarm without members.
    pub(crate) fn new(me: NodeId, place: Place, start: Start, tuning: Tuning, seed: u64, now: Moment) -> Self {
        let settled = match start {
            Start::Fresh => now,
            Start::TakeOver => now + tuning.settle,
        };
        Self {
            me,
            tuning,
            total: None,
            pieces: Pieces::default(),
            members: Members::new(me, place, tuning, seed),
            random: Random::new(!seed),
            deliveries: VecDeque::new(),
            fresh_deliveries: VecDeque::new(),
            settled,
            delivery: Duration::ZERO,
            quick_given: Moment::ZERO,
            share: 1.0,
            copies_from: now,
            look_again: None,
            readings: Readings::default(),
            watch: HolderWatch::default(),
        }
    }

    /// Learns how many pieces the blob has.
    pub(crate) const fn set_total(&mut self, total: u32) {
        self.total = Some(total);
        self.members.set_total(total);
    }

    /// A node joins: it says what it holds, and whether it wants the whole blob. If it joins again, what was known of it is replaced.
    /// The lead's own node joins too if it fetches pieces from members (after a take-over): it is told of neighbours, which are not told of it, and
    /// only [`Lead::own`] says what it holds.
    pub(crate) fn join(&mut self, node: NodeId, place: Place, held: &PieceSet, wants: bool) {
        // Changes of its former neighbours that it was not told yet are told together with the new ones.
        self.remove(node);
        let most = if node == self.me { 0 } else { self.total.unwrap_or(MAX_PIECES) };
        let held = held.iter().filter(|piece| piece.0 < most).collect();
        self.readings.everything |= wants && node != self.me;
        let slot = self.members.add(node, place, held, wants);
        self.recall_standing(slot);
        self.count_held(slot, true);
        self.members.link_up(slot);
    }

    /// Admits a node ([`join`](Self::join)) that is told of its neighbours at once ([`Lead::take_notice`]): in a large swarm these
    /// are not told of it.
    pub(crate) fn let_in(&mut self, node: NodeId, place: Place, held: &PieceSet, wants: bool) {
        self.members.comes(node);
        self.join(node, place, held, wants);
    }

    /// A node left, or its connection is lost.
    pub(crate) fn leave(&mut self, node: NodeId) {
        self.remove(node);
        self.readings.leave(node);
        self.members.take_notice(node);
    }

    fn remove(&mut self, node: NodeId) {
        let Some(slot) = self.members.slot(node) else { return };
        self.remember_debt(slot);
        self.count_held(slot, false);
        for (piece, _) in std::mem::take(&mut self.members.get_mut(slot).coming) {
            self.uncount_sent(piece);
        }
        self.members.remove(slot);
    }

    /// A member holds these pieces, too.
    pub(crate) fn have(&mut self, node: NodeId, pieces: &[PieceIndex], now: Moment) {
        let Some(slot) = self.members.slot(node).filter(|_| node != self.me) else { return };
        let most = self.total.unwrap_or(MAX_PIECES);
        for piece in pieces.iter().filter(|piece| piece.0 < most) {
            self.has(slot, *piece, now);
        }
    }

    fn has(&mut self, slot: usize, piece: PieceIndex, now: Moment) {
        let member = self.members.get_mut(slot);
        let sent_at = member.take_coming(piece);
        let fresh = member.held.insert(piece);
        if fresh {
            member.gains(now);
        }
        let counts = fresh && member.counts(piece);
        if let Some(sent_at) = sent_at {
            (member.untold, member.tells) = (0, true);
            self.delivered(slot, now.since(sent_at), now);
        }
        if fresh {
            self.share += (f32::from(u8::from(sent_at.is_some())) - self.share) / 64.0;
        }
        if counts {
            self.members.count_in_group(slot, piece, true);
        }
        self.pieces.change(piece, |state| {
            state.coming -= u32::from(sent_at.is_some());
            state.holders += u32::from(counts);
        });
        if counts {
            self.note_spread(slot, piece, sent_at.is_some(), now);
        }
    }

    /// Notes how long a piece took to the member at `slot`. A member's average begins with the average of all members, so that a single late piece counts for little
    /// unless it is very late.
    fn delivered(&mut self, slot: usize, took: Duration, now: Moment) {
        let usual = if self.delivery.is_zero() { took } else { self.delivery };
        self.delivery = (usual * 7 + took) / 8;
        let member = self.members.get_mut(slot);
        let before = if member.delivery.is_zero() { usual } else { member.delivery };
        member.delivery = (before * 3 + took) / 4;
        if member.delivery > slow_delivery(usual, &self.tuning) {
            member.slow_until = now + self.tuning.slow_for;
            member.delivery = Duration::ZERO;
        }
    }

    /// A member turned out not to hold a piece that it was thought to hold.
    pub(crate) fn lacks(&mut self, node: NodeId, piece: PieceIndex) {
        let Some(slot) = self.members.slot(node) else { return };
        let member = self.members.get_mut(slot);
        let counts = member.counts(piece);
        if member.held.remove(piece) && counts {
            self.members.count_in_group(slot, piece, false);
            self.pieces.change(piece, |state| state.holders -= 1);
        }
    }

    /// `reporter` got a wrong piece from `suspect`. Reports of two different nodes, or the lead's own, put the suspect
    /// aside: it is nobody's neighbour and does not count as a holder. A single member that reports only loses the suspect as its
    /// own neighbour. The reports of a member that reports too many others do not count, and members that were put aside because of them are taken in again. Returns
    /// true if this report put the suspect aside.
    pub(crate) fn report(&mut self, reporter: NodeId, suspect: NodeId) -> bool {
        let Reported { convicts, cleared } = self.members.report(reporter, suspect);
        for slot in cleared {
            self.members.get_mut(slot).aside = false;
            self.count_held(slot, true);
            self.members.link_up(slot);
        }
        if let Some(slot) = self.members.slot(suspect).filter(|_| convicts) {
            self.count_held(slot, false);
            self.members.put_aside(slot);
        }
        convicts
    }

    /// Two neighbours cannot reach each other: until one of them leaves, neither is expected to get anything from the other, and in a large
    /// swarm each gets another neighbour instead.
    pub(crate) fn separate(&mut self, one: NodeId, other: NodeId) {
        self.members.separate(one, other);
    }

    /// The lead's own store has a piece now.
    pub(crate) fn own(&mut self, piece: PieceIndex) {
        self.pieces.set_own(piece, true);
        let Piece { holders, sent, .. } = self.pieces.get(piece);
        if holders > 0 && sent == 0 {
            // The piece does not count as one that nobody has, and is to be sent at once all the same.
            self.copies_from = Moment::ZERO;
        }
    }

    /// The lead's own store lost a piece.
    pub(crate) fn disown(&mut self, piece: PieceIndex) {
        self.pieces.set_own(piece, false);
    }

    /// A piece that a member asked for by name is being sent.
    pub(crate) fn sending(&mut self, node: NodeId, piece: PieceIndex, now: Moment) {
        if let Some(slot) = self.members.slot(node) {
            self.contradicts_itself(slot, piece);
            self.waits_in_vain(slot, piece, now);
            self.names(slot, piece);
            self.count_sent(slot, piece, now);
        }
    }

    fn count_sent(&mut self, slot: usize, piece: PieceIndex, now: Moment) {
        self.members.note_crossing(slot, piece, now);
        let member = self.members.get_mut(slot);
        // The arrival of a second copy at a member is never confirmed.
        let counts = !member.held.contains(piece) && !member.is_coming(piece);
        if counts {
            member.coming.push((piece, now));
            self.deliveries.push_back((now, member.id, piece));
            let Piece { holders, coming, late, .. } = self.pieces.get(piece);
            if holders == 0 && coming == late {
                self.fresh_deliveries.push_back((now, member.id, piece));
            }
        }
        self.pieces.change(piece, |state| {
            state.coming += u32::from(counts);
            state.sent += 1;
            state.last_sent = now;
        });
    }

    /// A piece that was counted as sent did not arrive.
    pub(crate) fn unsent(&mut self, node: NodeId, piece: PieceIndex) {
        let Some(slot) = self.members.slot(node) else { return };
        if self.members.get_mut(slot).take_coming(piece).is_some() {
            self.uncount_sent(piece);
        }
    }

    fn uncount_sent(&mut self, piece: PieceIndex) {
        self.pieces.change(piece, |state| {
            state.coming -= 1;
            state.sent = state.sent.saturating_sub(1);
        });
    }

    fn count_held(&mut self, slot: usize, present: bool) {
        let member = self.members.get(slot);
        let pieces: Vec<PieceIndex> = member.held.iter().filter(|piece| member.counts(*piece)).collect();
        for piece in pieces {
            self.members.count_in_group(slot, piece, present);
            self.pieces.change(piece, |state| if present { state.holders += 1 } else { state.holders -= 1 });
        }
    }

    /// Takes the notices to send to members now.
    pub(crate) fn take_notices(&mut self, now: Moment) -> Vec<Notice> {
        self.members.take_notices(now)
    }

    /// When the next notice is to be sent, as far as known when notices were last taken.
    pub(crate) fn notices_due(&self) -> Option<Moment> {
        self.members.notices_due()
    }

    /// Takes what a member was not told yet, whether its time has come or not: a newcomer is told at once.
    pub(crate) fn take_notice(&mut self, node: NodeId) -> Option<Notice> {
        self.members.take_notice(node)
    }

    /// When [`Lead::choose_fresh`], [`Lead::choose_copy`] or [`Lead::origin_plan`] may say something new though nothing happens, if ever.
    pub(crate) fn next_wakeup(&self, now: Moment) -> Option<Moment> {
        if now < self.settled {
            return Some(self.settled);
        }
        let gives_up_at = self.watch.gives_up_at(&self.tuning);
        self.look_again.into_iter().chain(gives_up_at).filter(|again| now < *again).min()
    }

    /// Nobody led before after all: the origin may be asked at once.
    pub(crate) const fn settle(&mut self) {
        self.settled = Moment::ZERO;
    }

    /// How many live members, not put aside, hold a piece.
    pub(crate) fn holders(&self, piece: PieceIndex) -> u32 {
        self.pieces.get(piece).holders
    }

    /// True if the lead sent a piece to somebody.
    pub(crate) fn was_sent(&self, piece: PieceIndex) -> bool {
        self.pieces.get(piece).sent > 0
    }

    /// The live members that are not put aside, in the order of their ids. The lead's own node is among them if it joined.
    pub(crate) fn members(&self) -> Vec<NodeId> {
        self.members.ids()
    }

    /// How many these are.
    pub(crate) fn member_count(&self) -> usize {
        self.members.ids_count()
    }

    /// True if some other member still wants pieces.
    pub(crate) fn is_wanted(&self) -> bool {
        let total = self.total.unwrap_or(u32::MAX);
        self.members.others_want(total)
    }

    /// The first piece that no member holds.
    pub(crate) fn first_unheld(&self) -> PieceIndex {
        let total = self.total.unwrap_or(u32::MAX);
        (0..total).map(PieceIndex).find(|piece| self.holders(*piece) == 0).unwrap_or(PieceIndex(total))
    }

    /// How many pieces a member is known to hold; `None` if `node` is no member.
    pub(crate) fn held_by(&self, node: NodeId) -> Option<u32> {
        self.members.slot(node).map(|slot| self.members.get(slot).held.len())
    }

    /// Bytes of memory that the lead's own tables take, with their spare room.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>()
            + self.pieces.memory()
            + self.members.memory()
            + (self.deliveries.capacity() + self.fresh_deliveries.capacity())
                * size_of::<(Moment, NodeId, PieceIndex)>()
            + self.watch.memory()
    }

    /// The node that runs this lead.
    pub(crate) const fn node(&self) -> NodeId {
        self.me
    }
}
