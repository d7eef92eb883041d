//! Members that hold pieces and do not pass them on: pieces that only they have would reach nobody.
//!
//! A member may announce pieces that it will never send: it hangs, its link is cut in one direction, or it lies. The lead notices this in two
//! ways. Its own picker finds that the member fails ([`Lead::doubt`]), or nothing comes from any member while pieces are lacking. Or none of the
//! pieces that the lead gave the member ever turns up at others. Pieces of such a member count as held by nobody, so that they are read from the
//! origin, or given to another member.
//!
//! Invariant: a change of what [`Reliability::counts`] says of a held piece is a change of the piece's holders.
//!
//! Non-goals: wrong pieces (see [`Lead::report`]); which peers members ask (see [`crate::picker`]).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex, PieceSet};

use crate::lead::pieces::Piece;
use crate::lead::{Lead, OriginReader};
use crate::tuning::Tuning;

/// How many doubts double the number of pieces that a member has to give before it counts again.
const MAX_DOUBLINGS: u32 = 10;

/// How many pieces a member may keep before it gets none that nobody has.
const KEPT_BY_CHANCE: u32 = 1;

/// Members whose doubts are remembered, at most.
const MAX_REMEMBERED: usize = 1024;

/// How many pieces a member that was doubted `doubts` times before has to give.
fn owed(doubts: u32) -> u32 {
    1 << doubts.min(MAX_DOUBLINGS)
}

/// One member's reliability as a holder.
#[derive(Debug, Default)]
pub(super) struct Reliability {
    /// Pieces that it has to give to the lead before it counts as a holder.
    owes: u32,
    /// The pieces that it was given and kept to itself.
    kept: PieceSet,
    /// True if it therefore gets no pieces that nobody has while other members can take them.
    pub(super) keeps: bool,
    /// When something that it was given first turned up elsewhere, and how often it did.
    passed_on: Moment,
    passed: u32,
    /// Pieces that it asked for by name and was sent though others had them or were being sent them.
    copies: u32,
}

impl Reliability {
    /// True if the member counts as a holder of a piece.
    pub(super) fn counts(&self, piece: PieceIndex) -> bool {
        self.owes == 0 && !self.kept.contains(piece)
    }

    /// A piece that it was given first turned up at another member.
    const fn passes_on(&mut self, now: Moment) {
        (self.passed_on, self.keeps) = (now, false);
        self.passed = self.passed.saturating_add(1);
    }

    /// How many more copies it asked for by name than it passed on pieces.
    const fn debt(&self) -> u32 {
        self.copies.saturating_sub(self.passed)
    }

    pub(super) const fn memory(&self) -> usize {
        self.kept.memory()
    }
}

/// The lead's watch over holders.
#[derive(Debug, Default)]
pub(super) struct HolderWatch {
    /// By reader of the origin: since when pieces that members hold are lacking and none has come from a member.
    waits: [Option<Moment>; 2],
    /// Pieces that were confirmed by their first holder, oldest first.
    confirmed: VecDeque<(Moment, u32, PieceIndex)>,
    /// How long it usually takes from the first holder's confirmation to a second holder.
    spread: Duration,
    /// How often members were doubted: a member that leaves and comes back owes as much as before.
    doubts: BTreeMap<NodeId, u32>,
    /// Of members that left: how many more copies they asked for by name than they passed on pieces.
    debts: BTreeMap<NodeId, u32>,
}

/// The index of a reader in `waits`. Connections besides the reader of everything do not wait for members.
const fn waits_of(reader: OriginReader) -> usize {
    match reader {
        OriginReader::Everything | OriginReader::Beside(_) => 0,
        OriginReader::Errands => 1,
    }
}

impl HolderWatch {
    /// When the lead no longer waits for members from which nothing comes.
    pub(super) fn gives_up_at(&self, tuning: &Tuning) -> Option<Moment> {
        self.waits.iter().flatten().min().map(|since| *since + tuning.holders_patience)
    }

    /// This reader waits for no member.
    pub(super) const fn forget(&mut self, reader: OriginReader) {
        self.waits[waits_of(reader)] = None;
    }

    pub(super) fn memory(&self) -> usize {
        let remembered = (self.doubts.len() + self.debts.len()) * size_of::<(NodeId, u32)>() * 4 / 3;
        self.confirmed.capacity() * size_of::<(Moment, u32, PieceIndex)>() + remembered
    }
}

impl Lead {
    /// A holder failed the lead's own node. It does not count as a holder until it has given pieces: the more often this happens, the
    /// more of them.
    pub(crate) fn doubt(&mut self, node: NodeId) {
        let slot = self.members.slot(node).filter(|_| node != self.me);
        if let Some(slot) = slot.filter(|slot| self.members.get(*slot).standing.owes == 0) {
            self.doubt_slot(slot);
        }
    }

    fn doubt_slot(&mut self, slot: usize) {
        self.count_held(slot, false);
        let member = self.members.get_mut(slot);
        let doubts = self.watch.doubts.get(&member.id).copied().unwrap_or_default();
        member.standing.owes = owed(doubts);
        if doubts > 0 || self.watch.doubts.len() < MAX_REMEMBERED {
            self.watch.doubts.insert(member.id, doubts + 1);
        }
        self.count_held(slot, true);
    }

    /// Gives a member that joins the reliability that it had before.
    pub(super) fn recall_standing(&mut self, slot: usize) {
        let member = self.members.get_mut(slot);
        if let Some(doubts) = self.watch.doubts.get(&member.id) {
            member.standing.owes = owed(doubts - 1);
        }
        member.standing.copies = self.watch.debts.remove(&member.id).unwrap_or_default();
    }

    /// Remembers what a member that leaves owes, so that it owes no less when it comes back.
    pub(super) fn remember_debt(&mut self, slot: usize) {
        let member = self.members.get(slot);
        let debt = member.standing.debt();
        if debt > 0 && self.watch.debts.len() < MAX_REMEMBERED {
            self.watch.debts.insert(member.id, debt);
        }
    }

    /// A member is sent a piece that it asked for by name.
    pub(super) fn names(&mut self, slot: usize, piece: PieceIndex) {
        let Piece { holders, coming, .. } = self.pieces.get(piece);
        let member = self.members.get_mut(slot);
        let is_copy = holders + coming > u32::from(member.is_coming(piece));
        member.standing.copies += u32::from(is_copy);
    }

    /// True if a member asked by name for more pieces that others have than it was seen to pass on, and some pieces were never sent to anybody. An honest member
    /// gets pieces that others have from them, and asks for them here only if it lags behind or they fail it.
    pub(super) fn only_takes(&self, slot: usize) -> bool {
        self.members.get(slot).standing.debt() >= self.tuning.copies_named && self.pieces.any_unsent()
    }

    /// A member gave the lead's own node a correct piece, or a part of one that it sends at a fair pace.
    pub(crate) fn gave(&mut self, node: NodeId, is_whole: bool, now: Moment) {
        self.watch.waits.iter_mut().flatten().for_each(|waits| *waits = now);
        let Some(slot) = self.members.slot(node).filter(|_| is_whole) else { return };
        if self.members.get(slot).standing.owes > 0 {
            self.count_held(slot, false);
            self.members.get_mut(slot).standing.owes -= 1;
            self.count_held(slot, true);
        }
    }

    /// True if nothing has come for too long from the members to which a reader leaves pieces. None of those members counts as a holder any more then.
    pub(super) fn members_stand_still(&mut self, reader: OriginReader, now: Moment) -> bool {
        let since = *self.watch.waits[waits_of(reader)].get_or_insert(now);
        if now < since + self.tuning.holders_patience {
            return false;
        }
        self.watch.forget(reader);
        let slots: Vec<usize> = self.members.slots().collect();
        for slot in slots {
            let member = self.members.get(slot);
            let is_waited_for = member.held.difference(&self.pieces.own).any(|piece| member.counts(piece));
            if is_waited_for {
                self.doubt_slot(slot);
            }
        }
        true
    }

    /// A member came to hold a piece, and counts as its holder.
    pub(super) fn note_spread(&mut self, slot: usize, piece: PieceIndex, was_given: bool, now: Moment) {
        let state = self.pieces.get(piece);
        if state.holders == 1 && was_given {
            let slot = u32::try_from(slot).expect("fewer members than 2^32");
            self.pieces.change(piece, |state| state.first = Some((slot, now)));
            self.watch.confirmed.push_back((now, slot, piece));
            let at = slot as usize;
            if self.members.get(at).parts.is_some() && self.members.get(at).standing.keeps {
                // It was found to pass on nothing: other members are not to wait for each of its pieces before that is found again.
                self.keeps(at, piece);
            }
        } else if state.holders == 1 && state.first.is_some_and(|(first, _)| first as usize != slot) {
            // The piece that the first holder was said to keep came from there after all.
            let (first, _) = state.first.expect("as was just seen");
            if self.members.holds(first as usize, piece) && !was_given {
                self.members.get_mut(first as usize).standing.passes_on(now);
            }
        } else if let Some((first, since)) = state.first.filter(|_| state.holders > 1) {
            self.pieces.change(piece, |state| state.first = None);
            let took = now.since(since);
            if was_given {
                // The lead gave this member the piece, too: nothing was passed on.
                let is_late = !self.watch.spread.is_zero() && took > self.watch.spread * self.tuning.keeping_factor / 2;
                if is_late && self.members.holds(first as usize, piece) && self.has_kept(first as usize, since) {
                    self.keeps(first as usize, piece);
                }
                return;
            }
            let usual = if self.watch.spread.is_zero() { took } else { self.watch.spread };
            self.watch.spread = (usual * 7 + took) / 8;
            if self.members.holds(first as usize, piece) {
                self.members.get_mut(first as usize).standing.passes_on(now);
            }
        }
    }

    /// When the oldest piece that was given to a single member counts as kept by it, unless it turns up at another by then.
    pub(super) fn kept_due(&self) -> Option<Moment> {
        let (since, slot, piece) = *self.watch.confirmed.front()?;
        let at = slot as usize;
        let many = self.members.count() >= self.tuning.few_members as usize;
        let starts = self.members.holds(at, piece) && self.members.get(at).parts.is_some();
        let floor = if starts { self.tuning.parts_floor } else { self.tuning.keeping_floor * if many { 4 } else { 1 } };
        Some(since + (self.watch.spread * self.tuning.keeping_factor).max(floor))
    }

    /// Finds members that keep pieces to themselves: these pieces are to be given to others.
    pub(super) fn look_for_kept(&mut self, now: Moment) {
        while self.kept_due().is_some_and(|due| due <= now) {
            let Some((since, slot, piece)) = self.watch.confirmed.pop_front() else { return };
            let at = slot as usize;
            let starts = self.members.holds(at, piece) && self.members.get(at).parts.is_some();
            let is_alone = self.pieces.get(piece).first == Some((slot, since)) && self.members.holds(at, piece);
            if is_alone && self.has_kept(at, since) && self.is_wanted_by_others(at, piece) {
                self.keeps(at, piece);
                if starts && self.members.get(at).standing.keeps {
                    self.keeps_all(slot);
                }
            }
        }
    }

    /// The member at `slot`, which starts a program, asks for `piece` by name or is to be sent a copy: it waited in vain for other members to pass the piece on. If
    /// only one other member was given the piece, and has passed on nothing since, that member keeps pieces to itself. The report of a single member is enough: the only
    /// consequence is that the lead sends more by itself.
    pub(super) fn waits_in_vain(&mut self, slot: usize, piece: PieceIndex, now: Moment) {
        let Some((first, since)) = self.pieces.get(piece).first else { return };
        let at = first as usize;
        let starts = |slot: usize| self.members.get(slot).parts.is_some();
        let is_soon = now < since + self.tuning.parts_patience / 2;
        if at == slot || is_soon || !self.members.holds(at, piece) || !starts(at) || !starts(slot) {
            return;
        }
        if self.has_kept(at, since) {
            self.keeps(at, piece);
            self.members.get_mut(at).standing.keeps = true;
            self.keeps_all(first);
        }
    }

    /// A member that starts a program asks by name for a piece that it says it holds: from now on it does not count as a holder of any piece.
    pub(super) fn contradicts_itself(&mut self, slot: usize, piece: PieceIndex) {
        let member = self.members.get(slot);
        if member.parts.is_some() && member.held.contains(piece) && member.standing.owes == 0 {
            self.doubt_slot(slot);
        }
    }

    /// A member that starts a program keeps pieces to itself: all that it alone holds is to be given to others, who wait for them.
    fn keeps_all(&mut self, slot: u32) {
        let at = slot as usize;
        let confirmed = self.watch.confirmed.iter().filter(|(_, other, _)| *other == slot);
        let of_it: Vec<_> = confirmed.map(|(since, _, piece)| (*since, *piece)).collect();
        for (since, piece) in of_it {
            if self.pieces.get(piece).first == Some((slot, since)) && self.members.holds(at, piece) {
                self.keeps(at, piece);
            }
        }
    }

    /// True if no piece that a member was given has turned up at another since `since`.
    fn has_kept(&self, slot: usize, since: Moment) -> bool {
        self.members.get(slot).standing.passed_on < since
    }

    /// True if the member at `slot` can hardly expect `piece` from its holders: the lead never sent the piece; or the only holder announced it before the lead
    /// sent it; or the first holder got it from the lead, and since then has passed on none of the pieces that the lead gave it.
    pub(super) fn is_not_passed_on(&self, slot: usize, piece: PieceIndex) -> bool {
        let state = self.pieces.get(piece);
        let keeps = |(first, since): (u32, Moment)| first as usize != slot && self.has_kept(first as usize, since);
        state.sent == 0 || state.first.map_or(state.holders == 1, keeps)
    }

    fn is_wanted_by_others(&self, slot: usize, piece: PieceIndex) -> bool {
        let others = self.members.slots().filter(|other| *other != slot).map(|other| self.members.get(other));
        others.into_iter().any(|it| it.id != self.me && it.may_take(piece) && !it.aside && !it.held.contains(piece))
    }

    fn keeps(&mut self, slot: usize, piece: PieceIndex) {
        let counted = self.members.get(slot).counts(piece);
        let member = self.members.get_mut(slot);
        member.standing.kept.insert(piece);
        member.standing.keeps = member.standing.kept.len() > KEPT_BY_CHANCE;
        if counted {
            self.members.count_in_group(slot, piece, false);
            self.pieces.change(piece, |state| state.holders -= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use darter_core::Place;

    use super::*;
    use crate::lead::{OriginRun, Start};

    fn node(name: u8) -> NodeId {
        NodeId([name; 16])
    }

    fn at(millis: u64) -> Moment {
        Moment::from_micros(millis * 1000)
    }

    fn lead(pieces: u32, owned: u32) -> Lead {
        let mut lead = Lead::new(node(0), Place::default(), Start::Fresh, Tuning::default(), 1, at(0));
        lead.set_total(pieces);
        (0..owned).for_each(|piece| lead.own(PieceIndex(piece)));
        lead
    }

    /// The next stretch to read of a blob of ten pieces whose hashes are known.
    fn plan(lead: &mut Lead, now: Moment) -> Option<OriginRun> {
        lead.origin_plan(OriginReader::Everything, &PieceSet::full(10), now)
    }

    fn join(lead: &mut Lead, name: u8, held: &PieceSet) {
        lead.join(node(name), Place::default(), held, true);
    }

    #[test]
    fn who_says_that_it_holds_all_and_gives_nothing_does_not_keep_the_lead_from_the_origin() {
        let mut lead = lead(10, 0);
        join(&mut lead, 1, &PieceSet::full(10));
        assert_eq!(plan(&mut lead, at(0)), None, "it may give");
        let gives_up = lead.next_wakeup(at(0)).expect("nothing else may happen");
        assert!(gives_up <= at(2000));
        let run = plan(&mut lead, gives_up).expect("it gave nothing");
        assert_eq!((run.first, run.end), (PieceIndex(0), Some(PieceIndex(10))));
        lead.own(PieceIndex(0));
        assert_eq!(plan(&mut lead, at(2001)).map(|run| run.first), Some(PieceIndex(1)), "and goes on so");
        lead.gave(node(1), true, at(2100));
        assert_eq!(plan(&mut lead, at(2101)), None, "who gives counts again");
        // The next time it has to give twice.
        assert!(plan(&mut lead, at(4200)).is_some());
        lead.gave(node(1), true, at(4300));
        assert!(plan(&mut lead, at(4301)).is_some());
        lead.gave(node(1), true, at(4400));
        assert_eq!(plan(&mut lead, at(4401)), None);
        assert!(plan(&mut lead, at(6500)).is_some());
        join(&mut lead, 1, &PieceSet::full(10));
        assert!(plan(&mut lead, at(6500)).is_some(), "coming in anew changes nothing");
    }

    #[test]
    fn members_that_give_are_waited_for_and_those_that_let_the_lead_down_are_not() {
        let mut lead = lead(10, 0);
        join(&mut lead, 1, &[0, 1, 2, 3, 4].map(PieceIndex).into_iter().collect());
        join(&mut lead, 2, &[5, 6, 7, 8, 9].map(PieceIndex).into_iter().collect());
        for tenth in 0..40_u64 {
            lead.gave(node(1), tenth % 10 == 9, at(tenth * 100));
            assert_eq!(plan(&mut lead, at(tenth * 100)), None);
        }
        lead.doubt(node(2));
        let run = plan(&mut lead, at(4000)).unwrap();
        assert_eq!((run.first, run.end), (PieceIndex(5), Some(PieceIndex(10))), "what only that one holds");
        lead.leave(node(2));
        lead.leave(node(1));
        assert_eq!(plan(&mut lead, at(4000)).unwrap().first, PieceIndex(0));
    }

    #[test]
    fn what_a_member_keeps_to_itself_is_given_to_others_and_it_gets_little_that_nobody_has() {
        let mut lead = lead(100, 100);
        (1..=3).for_each(|name| join(&mut lead, name, &PieceSet::new()));
        let mut given = [0_u32; 4];
        let mut now = 0;
        let mut held: Vec<PieceIndex> = Vec::new();
        let mut kept: Vec<PieceIndex> = Vec::new();
        while held.len() + kept.len() < 100 || !kept.is_empty() {
            now += 100;
            assert!(now < 60_000, "{} of 100 got about, {kept:?} did not", held.len());
            for name in 1..=3 {
                let Some(piece) = lead.choose_fresh(node(name), at(now)) else { continue };
                given[usize::from(name)] += 1;
                lead.have(node(name), &[piece], at(now + 20));
                if name == 3 {
                    kept.push(piece);
                } else {
                    lead.have(node(3 - name), &[piece], at(now + 40));
                    kept.retain(|it| *it != piece);
                    held.push(piece);
                }
            }
        }
        assert!(given[3] <= 14, "it was found out after a second: {given:?}");
        assert_eq!(held.len(), 100, "each got about once");
    }

    #[test]
    fn a_member_whose_rack_is_said_to_hold_all_and_gives_nothing_is_given_it_from_afar() {
        let mut lead = lead(4, 4);
        let far = Place { rack: "far".into(), ..Place::default() };
        lead.join(node(1), far.clone(), &PieceSet::full(4), true);
        lead.join(node(2), far, &PieceSet::new(), true);
        assert_eq!(lead.choose(node(2), at(0)), None, "its neighbour has it");
        let mut now = 0;
        while lead.held_by(node(2)) < Some(4) {
            now = lead.next_wakeup(at(now)).map_or(now + 100, |at| at.as_micros() / 1000).max(now + 10);
            assert!(now < 60_000, "{:?} pieces came", lead.held_by(node(2)));
            if let Some(piece) = lead.choose(node(2), at(now)) {
                lead.have(node(2), &[piece], at(now + 5));
            }
        }
        assert!(now >= 2000, "it was not sent across at once");
    }

    #[test]
    fn who_passes_on_some_of_what_it_was_given_keeps_nothing() {
        let mut lead = lead(100, 100);
        (1..=2).for_each(|name| join(&mut lead, name, &PieceSet::new()));
        // Ten pieces a second come, and one is passed on: the others have no room for more.
        for second in 1..=8_u64 {
            for tenth in 0..10 {
                let piece = lead.choose_fresh(node(1), at(second * 1000 + tenth)).expect("it is given what nobody has");
                lead.have(node(1), &[piece], at(second * 1000 + 10 + tenth));
                if tenth == 0 {
                    lead.have(node(2), &[piece], at(second * 1000 + 500));
                }
            }
        }
        assert_eq!(lead.holders(PieceIndex(5)), 1, "it counts as the holder");
    }

    fn numbered(number: usize) -> NodeId {
        let mut id = [255; 16];
        id[..8].copy_from_slice(&(number as u64).to_be_bytes());
        NodeId(id)
    }

    #[test]
    fn doubts_of_members_that_come_and_go_take_a_bounded_memory() {
        let mut lead = lead(4, 0);
        let comes = |lead: &mut Lead, number| lead.join(numbered(number), Place::default(), &PieceSet::full(4), true);
        for number in 0..MAX_REMEMBERED * 2 {
            comes(&mut lead, number);
            lead.doubt(numbered(number));
            assert_eq!(lead.holders(PieceIndex(0)), 0, "each doubt counts while its member stays");
            lead.leave(numbered(number));
            assert_eq!(lead.watch.doubts.len(), (number + 1).min(MAX_REMEMBERED));
        }
        // A member whose doubts are remembered owes more each time, though there is room for no other.
        comes(&mut lead, 7);
        for owed in [1, 2, 4] {
            (0..owed).for_each(|_| {
                assert_eq!(lead.holders(PieceIndex(0)), 0);
                lead.gave(numbered(7), true, at(1));
            });
            assert_eq!(lead.holders(PieceIndex(0)), 1);
            lead.doubt(numbered(7));
        }
        assert_eq!(lead.watch.doubts.len(), MAX_REMEMBERED);
    }

    #[test]
    fn debts_of_members_that_come_and_go_take_a_bounded_memory() {
        let mut lead = lead(4, 4);
        join(&mut lead, 1, &PieceSet::full(4));
        let takes = |lead: &mut Lead, number, copies| {
            lead.join(numbered(number), Place::default(), &PieceSet::new(), true);
            (0..copies).for_each(|piece| lead.sending(numbered(number), PieceIndex(piece), at(1)));
            lead.leave(numbered(number));
        };
        (0..MAX_REMEMBERED).for_each(|number| takes(&mut lead, number, 0));
        assert!(lead.watch.debts.is_empty(), "members that owe nothing");
        for number in 0..MAX_REMEMBERED * 2 {
            takes(&mut lead, number, 2);
            assert_eq!(lead.watch.debts.len(), (number + 1).min(MAX_REMEMBERED));
        }
        // A member whose debt is remembered makes room when it comes back, and takes it again when it leaves.
        takes(&mut lead, 7, 1);
        assert_eq!((lead.watch.debts.len(), lead.watch.debts.get(&numbered(7))), (MAX_REMEMBERED, Some(&3)));
    }
}
