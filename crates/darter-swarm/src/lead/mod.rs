//! The tracker of one swarm, and what its seed sends to whom.
//!
//! A lead normally runs at the seed; when no seed lives, at a node that the others elect. It knows all members and
//! what they hold, gives each its neighbours, answers asks for "any piece" *late*, when there is room to send, and
//! says what must be read from the origin. Its state is soft: members tell it again after a change of lead.
//!
//! Why late-bound: the time of a swarm is near its bound only if the seed sends every piece once before it sends any
//! twice, and sends it to whoever can take it now. The lead doesn't announce its own pieces; receivers announce theirs.
//!
//! Invariants: `Piece::holders` counts the members that hold a piece and are not put aside; `Piece::coming` counts the
//! members that have it in `coming`; links are mutual.
//!
//! Non-goals: the lead moves no bytes, and trusts no member's word on content (nodes verify).
//!
//! | file | |
//! |---|---|
//! | `members` | who is here, and who is whose neighbour |
//! | `pieces` | holders, copies sent, gaps for the origin |

mod members;
mod pieces;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex, PieceSet, Place};

use crate::MOST_PIECES;
use crate::lead::members::Members;
use crate::lead::pieces::Pieces;
use crate::tuning::Tuning;

/// How a lead came to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nobody led before: the origin may be asked at once.
    Fresh,
    /// Another lead is gone: members need a moment to say what they hold before the origin is asked.
    TakeOver,
}

/// What [`Lead::serve`] decided: answer `node`'s ask `ask` with `piece`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who gets it.
    pub node: NodeId,
    /// The ask that is answered, as named by the node.
    pub ask: u64,
    /// The piece to send.
    pub piece: PieceIndex,
}

/// A member has to be told of a neighbour it gained or lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// `to` and `peer` are neighbours now: they tell each other what they hold. After a change of lead this is said of
    /// neighbours that were so before, too; they tell each other anew, since a lead announces nothing while it leads.
    Linked {
        /// Who is to be told.
        to: NodeId,
        /// Its new neighbour.
        peer: NodeId,
        /// Where the neighbour stands.
        place: Place,
        /// Whether the neighbour wants the whole blob.
        wants: bool,
    },
    /// They are neighbours no more.
    Unlinked {
        /// Who is to be told.
        to: NodeId,
        /// Its former neighbour.
        peer: NodeId,
    },
}

/// Pieces to be read from the origin, in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginRun {
    /// The first piece.
    pub first: PieceIndex,
    /// One past the last; `None` for "to the end of the blob".
    pub end: Option<PieceIndex>,
}

/// The lead of one swarm.
#[derive(Debug)]
pub struct Lead {
    me: NodeId,
    tuning: Tuning,
    total: Option<u32>,
    pieces: Pieces,
    members: Members,
    /// Members with open asks, by their tier from here; served in turn.
    rings: [VecDeque<usize>; 5],
    /// Before this nothing is sent or read: members are still saying what they hold.
    settled: Moment,
    /// Average time from sending a piece to the receiver's word that it has it.
    delivery: Duration,
    /// When it is worth looking for a copy to send again.
    next_copy: Moment,
}

impl Lead {
    /// A lead that runs at node `me`, which holds nothing yet, in a swarm without members.
    pub fn new(me: NodeId, place: Place, start: Start, tuning: Tuning, seed: u64, now: Moment) -> Self {
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
            rings: [const { VecDeque::new() }; 5],
            settled,
            delivery: Duration::ZERO,
            next_copy: now,
        }
    }

    /// Learns how many pieces the blob has.
    pub const fn set_total(&mut self, total: u32) {
        self.total = Some(total);
    }

    /// A node says that it is here, what it holds, and whether it wants the whole blob. Joining again replaces what
    /// was known of it. The lead's own node joins too if it fetches pieces from members (after a take-over): it is
    /// told of neighbours, they are not told of it, and what it holds is said by [`Lead::own`] alone.
    pub fn join(&mut self, node: NodeId, place: Place, held: &PieceSet, wants: bool) {
        self.leave(node);
        let most = if node == self.me { 0 } else { self.total.unwrap_or(MOST_PIECES) };
        let held = held.iter().filter(|piece| piece.0 < most).collect();
        let slot = self.members.add(node, place, held, wants);
        self.count_held(slot, true);
        self.members.link_up(slot);
    }

    /// A node is gone, or its connection is.
    pub fn leave(&mut self, node: NodeId) {
        let Some(slot) = self.members.slot(node) else { return };
        self.count_held(slot, false);
        for (piece, _) in std::mem::take(&mut self.members.get_mut(slot).coming) {
            self.uncount_sent(piece);
        }
        let ring = &mut self.rings[self.members.get(slot).tier as usize];
        ring.retain(|waiting| *waiting != slot);
        self.members.remove(slot);
    }

    /// A member holds one more piece.
    pub fn have(&mut self, node: NodeId, piece: PieceIndex, now: Moment) {
        if piece.0 >= self.total.unwrap_or(MOST_PIECES) || node == self.me {
            return;
        }
        let Some(slot) = self.members.slot(node) else { return };
        let member = self.members.get_mut(slot);
        let sent_at = member.take_coming(piece);
        let fresh = member.held.insert(piece);
        let counts = fresh && !member.aside;
        if let Some(sent_at) = sent_at {
            let took = now.since(sent_at);
            self.delivery = if self.delivery.is_zero() { took } else { (self.delivery * 7 + took) / 8 };
        }
        if counts {
            self.members.count_in_group(slot, piece, true);
        }
        self.pieces.change(piece, |state| {
            state.coming -= u32::from(sent_at.is_some());
            state.holders += u32::from(counts);
        });
    }

    /// A member turned out not to hold a piece that it was thought to hold.
    pub fn lacks(&mut self, node: NodeId, piece: PieceIndex) {
        let Some(slot) = self.members.slot(node) else { return };
        let member = self.members.get_mut(slot);
        if member.held.remove(piece) && !member.aside {
            self.members.count_in_group(slot, piece, false);
            self.pieces.change(piece, |state| state.holders -= 1);
        }
    }

    /// A member began or ceased to want the whole blob.
    pub fn wants(&mut self, node: NodeId, wants: bool) {
        let Some(slot) = self.members.slot(node) else { return };
        self.members.get_mut(slot).wants = wants;
        if wants {
            self.members.link_up(slot);
        }
    }

    /// `reporter` got a wrong piece from `suspect`. Reports of two different nodes, or the lead's own, put the suspect
    /// aside: it is nobody's neighbour and counts as no holder. A member that reports just loses the suspect as its
    /// own neighbour. True when this report put the suspect aside.
    pub fn report(&mut self, reporter: NodeId, suspect: NodeId) -> bool {
        let aside = self.members.report(reporter, suspect);
        let Some(slot) = self.members.slot(suspect) else { return aside };
        if aside {
            self.count_held(slot, false);
            self.members.put_aside(slot);
        }
        aside
    }

    /// Two members cannot reach each other: they are no neighbours any more, and neither is expected to get anything
    /// from the other.
    pub fn part(&mut self, one: NodeId, other: NodeId) {
        self.members.part(one, other);
    }

    /// The lead's own store has a piece now.
    pub fn own(&mut self, piece: PieceIndex) {
        self.pieces.set_own(piece, true);
    }

    /// The lead's own store lost a piece.
    pub fn disown(&mut self, piece: PieceIndex) {
        self.pieces.set_own(piece, false);
    }

    /// A member asks for any piece. The ask stands until [`Lead::serve`] answers it, or it is withdrawn.
    pub fn ask(&mut self, node: NodeId, ask: u64) {
        let Some(slot) = self.members.slot(node) else { return };
        let member = self.members.get_mut(slot);
        if member.asks.is_empty() {
            self.rings[member.tier as usize].push_back(slot);
        }
        member.asks.push_back(ask);
    }

    /// A member needs an ask no longer.
    pub fn withdraw(&mut self, node: NodeId, ask: u64) {
        let Some(slot) = self.members.slot(node) else { return };
        let member = self.members.get_mut(slot);
        let before = member.asks.len();
        member.asks.retain(|waiting| *waiting != ask);
        if member.asks.is_empty() && before > 0 {
            self.rings[member.tier as usize].retain(|waiting| *waiting != slot);
        }
    }

    /// Call with a free upload slot, after anything changed, and at [`Lead::next_wakeup`]: which ask to answer now,
    /// and with what. The piece counts as sent; say [`Lead::unsent`] if it did not arrive.
    ///
    /// The nearest come first, each in turn, unless they are being sent enough already: pieces that stay near cost
    /// least, and peers carry them on.
    pub fn serve(&mut self, now: Moment) -> Option<Grant> {
        if now < self.settled {
            return None;
        }
        if let Some(fresh) = self.pieces.first_fresh() {
            let (ring, at) = self.next_in_turn(fresh, now)?;
            return self.answer(ring, at, now);
        }
        if now < self.next_copy {
            return None;
        }
        for ring in 0..self.rings.len() {
            for at in 0..self.rings[ring].len().min(self.tuning.look_at as usize) {
                if self.is_busy(self.rings[ring][at], now) {
                    continue;
                }
                if let Some(grant) = self.answer(ring, at, now) {
                    return Some(grant);
                }
            }
            // Whoever was looked at in vain goes to the end, so that everybody's turn comes.
            let looked_at = self.rings[ring].len().min(self.tuning.look_at as usize);
            self.rings[ring].rotate_left(looked_at);
        }
        // Only time makes more copies worth sending: look again after a while.
        self.next_copy = now + self.tuning.copy_floor / 4;
        None
    }

    /// The ring, and the place in it, of the member to be sent a piece that nobody has. (One that was put aside may have it.)
    fn next_in_turn(&self, fresh: PieceIndex, now: Moment) -> Option<(usize, usize)> {
        for (ring, waiting) in self.rings.iter().enumerate() {
            let looked_at = waiting.iter().enumerate().take(self.tuning.look_at as usize);
            let free = looked_at
                .filter(|(_, slot)| !self.is_busy(**slot, now) && !self.members.get(**slot).held.contains(fresh));
            if let Some((at, _)) = free.min_by_key(|(at, slot)| (self.members.get(**slot).coming.len(), *at)) {
                return Some((ring, at));
            }
        }
        None
    }

    /// Whether a member is being sent so much already that it has to wait: a slow one must not fill all slots. What was
    /// sent long ago and never heard of again doesn't count.
    fn is_busy(&self, slot: usize, now: Moment) -> bool {
        let patience = self.tuning.abandon.max(self.delivery * 8);
        let coming = self.members.get(slot).coming.iter().filter(|(_, since)| *since + patience > now);
        coming.count() >= self.tuning.sends_at_once as usize
    }

    fn answer(&mut self, ring: usize, at: usize, now: Moment) -> Option<Grant> {
        let slot = *self.rings[ring].get(at)?;
        let piece = self.choose_for(slot, now)?;
        self.rings[ring].remove(at);
        let member = self.members.get_mut(slot);
        let ask = member.asks.pop_front().expect("whoever stands in a ring has an ask");
        let node = member.id;
        if !member.asks.is_empty() {
            self.rings[ring].push_back(slot);
        }
        Some(Grant { node, ask, piece })
    }

    /// The piece that `node` should get next, counted as sent: one that nobody has yet; else, when it was not sent for
    /// a while, the one sent least, then held by fewest. `None` while there is nothing worth sending.
    pub fn choose(&mut self, node: NodeId, now: Moment) -> Option<PieceIndex> {
        let slot = self.members.slot(node)?;
        self.choose_for(slot, now)
    }

    fn choose_for(&mut self, slot: usize, now: Moment) -> Option<PieceIndex> {
        let member = self.members.get(slot);
        // A member put aside may hold what counts as fresh.
        let fresh = self.pieces.first_fresh().filter(|piece| !member.held.contains(*piece));
        let piece = fresh.or_else(|| {
            let pause = self.copy_pause();
            self.pieces.copy(&member.held, pause, now, |piece| {
                !member.is_coming(piece) && self.members.may_cross(slot, piece, pause, now)
            })
        })?;
        self.count_sent(slot, piece, now);
        Some(piece)
    }

    fn copy_pause(&self) -> Duration {
        let pause = (self.delivery * self.tuning.copy_factor).max(self.tuning.copy_floor);
        let reading = self.total != Some(self.pieces.own.len());
        if reading { pause * self.tuning.copy_factor_while_reading } else { pause }
    }

    /// A piece is being sent that a member asked for by name.
    pub fn sending(&mut self, node: NodeId, piece: PieceIndex, now: Moment) {
        if let Some(slot) = self.members.slot(node) {
            self.count_sent(slot, piece, now);
        }
    }

    fn count_sent(&mut self, slot: usize, piece: PieceIndex, now: Moment) {
        self.members.note_crossing(slot, piece, now);
        let member = self.members.get_mut(slot);
        // A second copy on its way to one member is never told of when it arrives.
        let counts = !member.held.contains(piece) && !member.is_coming(piece);
        if counts {
            member.coming.push((piece, now));
        }
        self.pieces.change(piece, |state| {
            state.coming += u32::from(counts);
            state.sent += 1;
            state.last_sent = now;
        });
    }

    /// A piece counted as sent did not get there.
    pub fn unsent(&mut self, node: NodeId, piece: PieceIndex) {
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
        if self.members.get(slot).aside {
            return;
        }
        let pieces: Vec<PieceIndex> = self.members.get(slot).held.iter().collect();
        for piece in pieces {
            self.members.count_in_group(slot, piece, present);
            self.pieces.change(piece, |state| if present { state.holders += 1 } else { state.holders -= 1 });
        }
    }

    /// The next pieces that must be read from the origin: not owned, and held by no live member (those are the lead's
    /// own picker's business). Ask again after each piece, and stop reading when the answer no longer begins with the
    /// piece that comes next: somebody who holds it has turned up.
    pub fn origin_plan(&self, now: Moment) -> Option<OriginRun> {
        if now < self.settled {
            return None;
        }
        let (first, end) = self.pieces.first_gap(self.total)?;
        Some(OriginRun { first, end })
    }

    /// Takes the notices that members have to be given.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.members.take_notices()
    }

    /// When [`Lead::serve`] or [`Lead::origin_plan`] may say something new though nothing happens, if ever.
    pub fn next_wakeup(&self, now: Moment) -> Option<Moment> {
        if now < self.settled {
            return Some(self.settled);
        }
        let somebody_asks = self.rings.iter().any(|ring| !ring.is_empty());
        let may_send = somebody_asks && !self.pieces.own.is_empty();
        may_send.then(|| self.next_copy.max(now + self.tuning.copy_floor / 4))
    }

    /// What the lead's own store has.
    pub const fn owned(&self) -> &PieceSet {
        &self.pieces.own
    }

    /// How many live members, not put aside, hold a piece.
    pub fn holders(&self, piece: PieceIndex) -> u32 {
        self.pieces.get(piece).holders
    }

    /// How often the lead sent a piece, failed sends not counted.
    pub fn times_sent(&self, piece: PieceIndex) -> u32 {
        self.pieces.get(piece).sent
    }

    /// The live members that are not put aside, in the order of their ids. The lead's own node is among them if it joined.
    pub fn members(&self) -> Vec<NodeId> {
        self.members.ids()
    }

    /// The node that runs this lead.
    pub const fn node(&self) -> NodeId {
        self.me
    }
}
