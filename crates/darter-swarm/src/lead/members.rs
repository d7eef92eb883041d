//! The members of the swarm, their groups, and the pairs that must not use each other. Neighbourhood is decided in
//! `links`.

mod links;
#[cfg(test)]
pub(in crate::lead) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex, PieceSet, Place, Tier};

use crate::lead::members::links::REACHES;
use crate::lead::notices::{Notice, Notices};
use crate::lead::standing::Reliability;
use crate::locality::{is_across, same_group};
use crate::random::Random;
use crate::tuning::Tuning;

/// If a member reports more other members than this at a time as unreachable, its reports are ignored: each one costs another member a neighbour.
const MAX_UNREACHED: usize = 64;

/// A member that reports more others than this for wrong pieces, and more than one in [`ONE_IN_REPORTED`] of them, is ignored: either it lies or all those
/// others do, and most likely it is the single one.
const MAX_REPORTED: usize = 2;
const ONE_IN_REPORTED: usize = 4;

/// Members whose reports are remembered, at most: the reports are kept when the members leave.
const MAX_REPORTERS: usize = 4096;

/// One member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: NodeId,
    place: Place,
    /// How far away it is from the lead.
    tier: Tier,
    group: usize,
    pub(super) held: PieceSet,
    /// Pieces that the lead is sending it, and since when.
    pub(super) coming: Vec<(PieceIndex, Moment)>,
    /// How many pieces the lead sent it long ago that it has not announced, since it last announced one; and whether it ever announced any.
    pub(super) untold: u32,
    pub(super) tells: bool,
    /// Average time from the sending of a piece to the member's confirmation.
    pub(super) delivery: Duration,
    /// Until this moment the member counts as slow, and other members get the pieces that nobody has.
    pub(super) slow_until: Moment,
    pub(super) wants: bool,
    /// The pieces that it waits for, in this order, while it does not want everything.
    pub(super) parts: Option<Vec<Range<u32>>>,
    /// True if it was found to send wrong pieces: it is nobody's neighbour and no holder.
    pub(super) aside: bool,
    /// The member's reliability as a holder.
    pub(super) standing: Reliability,
    /// When it last came to hold a piece, or first had to wait for one.
    gained: Option<Moment>,
    /// Since when there has been no piece for it, while it wants parts and receives nothing.
    waits_since: Option<Moment>,
    /// True if it should have a neighbour outside its zone.
    reaches_out: bool,
    neighbours: Vec<usize>,
    /// How many of its neighbours are of each reach.
    reaches: [u32; REACHES],
}

/// The members of one rack; kept when all are gone.
#[derive(Debug)]
struct Group {
    place: Place,
    members: Vec<usize>,
    /// By piece: how many members hold it, and when the lead last sent it to this group.
    pieces: Vec<(u32, Option<Moment>)>,
}

#[derive(Debug)]
pub(super) struct Members {
    me: NodeId,
    place: Place,
    tuning: Tuning,
    total: Option<u32>,
    random: Random,
    slots: Vec<Option<Member>>,
    free: Vec<usize>,
    by_id: BTreeMap<NodeId, usize>,
    groups: Vec<Group>,
    /// Reports: for each suspect the members that reported it; kept when the suspect leaves.
    reports: BTreeMap<NodeId, Vec<NodeId>>,
    /// The number of others that each member reported, and the members that reported too many: their reports count for nothing.
    reported: BTreeMap<NodeId, usize>,
    false_reporters: BTreeSet<NodeId>,
    /// Pairs of which one reported the other, in both orders; kept when they leave.
    separated: BTreeSet<(NodeId, NodeId)>,
    /// Pairs that can't reach each other, in both orders, while both are members.
    unreached: BTreeSet<(NodeId, NodeId)>,
    notices: Notices,
    /// The members that have fewer neighbours than they should, without those that were put aside.
    open: BTreeSet<usize>,
    /// Members that lost a neighbour, with the reach of that link, or want more of them: until `fill_places`.
    loosened: Vec<(usize, Option<usize>)>,
}

/// The consequence of a report.
#[derive(Debug, Default)]
pub(super) struct Reported {
    /// The suspect is to be put aside.
    pub(super) convicts: bool,
    /// The reporter reports too many: these members were put aside because of it, and no longer are.
    pub(super) cleared: Vec<usize>,
}

impl Member {
    fn memory(&self) -> usize {
        let texts = [&self.place.region, &self.place.zone, &self.place.rack, &self.place.host];
        self.held.memory()
            + self.standing.memory()
            + self.coming.capacity() * size_of::<(PieceIndex, Moment)>()
            + self.neighbours.capacity() * size_of::<usize>()
            + self.parts.as_ref().map_or(0, Vec::capacity) * size_of::<Range<u32>>()
            + texts.iter().map(|text| text.capacity()).sum::<usize>()
    }

    /// The member came to hold a piece.
    pub(super) const fn gains(&mut self, now: Moment) {
        self.gained = Some(now);
        self.waits_since = None;
    }

    /// True if the member wants parts, and got no piece for `patience`, neither from the lead nor from its neighbours.
    pub(super) fn waits_long(&mut self, patience: Duration, now: Moment) -> bool {
        *self.waits_since.get_or_insert(now) + patience <= now
    }

    /// True if the member has waited in vain for a time in which its neighbours could have given it something.
    pub(super) fn is_starved(&mut self, patience: Duration, now: Moment) -> bool {
        *self.gained.get_or_insert(now) + patience <= now
    }

    /// True if the member may be given a piece that it did not name.
    pub(super) fn may_take(&self, piece: PieceIndex) -> bool {
        self.parts.as_ref().is_none_or(|parts| parts.iter().any(|part| part.contains(&piece.0)))
    }

    /// True if the member counts as a holder of a piece that it holds.
    pub(super) fn counts(&self, piece: PieceIndex) -> bool {
        !self.aside && self.standing.counts(piece)
    }

    pub(super) fn is_coming(&self, piece: PieceIndex) -> bool {
        self.coming.iter().any(|(coming, _)| *coming == piece)
    }

    /// Ends the sending of a piece. Returns when it began.
    pub(super) fn take_coming(&mut self, piece: PieceIndex) -> Option<Moment> {
        let at = self.coming.iter().position(|(coming, _)| *coming == piece)?;
        Some(self.coming.swap_remove(at).1)
    }

    /// Ends the sending of a piece if it began at `since`. Returns true if it did.
    pub(super) fn take_coming_since(&mut self, piece: PieceIndex, since: Moment) -> bool {
        let at = self.coming.iter().position(|coming| *coming == (piece, since));
        at.map(|at| self.coming.swap_remove(at)).is_some()
    }
}

impl Group {
    const fn memory(&self) -> usize {
        self.members.capacity() * size_of::<usize>() + self.pieces.capacity() * size_of::<(u32, Option<Moment>)>()
    }

    fn piece_mut(&mut self, piece: PieceIndex) -> &mut (u32, Option<Moment>) {
        if piece.as_usize() >= self.pieces.len() {
            self.pieces.resize(piece.as_usize() + 1, (0, None));
        }
        &mut self.pieces[piece.as_usize()]
    }
}

impl Members {
    pub(super) fn new(me: NodeId, place: Place, tuning: Tuning, seed: u64) -> Self {
        Self {
            me,
            place,
            tuning,
            total: None,
            random: Random::new(seed),
            slots: Vec::new(),
            free: Vec::new(),
            by_id: BTreeMap::new(),
            groups: Vec::new(),
            reports: BTreeMap::new(),
            reported: BTreeMap::new(),
            false_reporters: BTreeSet::new(),
            separated: BTreeSet::new(),
            unreached: BTreeSet::new(),
            notices: Notices::default(),
            open: BTreeSet::new(),
            loosened: Vec::new(),
        }
    }

    pub(super) fn slot(&self, node: NodeId) -> Option<usize> {
        self.by_id.get(&node).copied()
    }

    pub(super) fn get(&self, slot: usize) -> &Member {
        self.slots[slot].as_ref().expect("slots in use are only freed by remove")
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> &mut Member {
        self.slots[slot].as_mut().expect("slots in use are only freed by remove")
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        self.by_id.iter().filter(|(_, slot)| !self.get(**slot).aside).map(|(id, _)| *id).collect()
    }

    /// How many [`Members::ids`] there are.
    pub(super) fn ids_count(&self) -> usize {
        // Without a report nobody is put aside. Counting ten thousand members at each join would take noticeable time.
        if self.reports.is_empty() {
            self.by_id.len()
        } else {
            self.slots.iter().flatten().filter(|it| !it.aside).count()
        }
    }

    /// True if a member other than the lead's own node wants pieces of a blob of `total`.
    pub(super) fn others_want(&self, total: u32) -> bool {
        let others = self.slots.iter().flatten().filter(|member| member.id != self.me && !member.aside);
        others.into_iter().any(|member| member.wants && member.held.len() < total)
    }

    pub(super) fn count(&self) -> usize {
        self.by_id.len()
    }

    /// The slots of all members.
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.slots.len()).filter(|slot| self.slots[*slot].is_some())
    }

    /// The blob has `total` pieces.
    pub(super) const fn set_total(&mut self, total: u32) {
        self.total = Some(total);
    }

    /// True if a member is known to hold everything.
    pub(super) fn holds_all(&self, member: &Member) -> bool {
        self.total.is_some_and(|total| member.held.len() >= total)
    }

    /// True if the member in a slot is the same as before, and holds `piece`.
    pub(super) fn holds(&self, slot: usize, piece: PieceIndex) -> bool {
        self.slots.get(slot).and_then(Option::as_ref).is_some_and(|member| member.held.contains(piece))
    }

    /// About how many bytes of memory this takes: maps of ids and pairs take little compared with the members.
    pub(super) fn memory(&self) -> usize {
        let of_members: usize = self.slots.iter().flatten().map(Member::memory).sum();
        let of_groups: usize = self.groups.iter().map(Group::memory).sum();
        self.slots.capacity() * size_of::<Option<Member>>() + of_members + of_groups + self.notices.memory()
    }

    pub(super) fn take_notices(&mut self, now: Moment) -> Vec<Notice> {
        let pause = self.tuning.tell_links_pause(self.by_id.len());
        self.notices.take(now, pause)
    }

    /// A node that is no member joins, and is told of its neighbours at once.
    pub(super) fn comes(&mut self, node: NodeId) {
        if self.slot(node).is_none() {
            self.notices.comes(node);
        }
    }

    pub(super) fn take_notice(&mut self, node: NodeId) -> Option<Notice> {
        self.notices.take_of(node)
    }

    pub(super) fn notices_due(&self) -> Option<Moment> {
        self.notices.due()
    }

    /// Adds a node that is no member.
    pub(super) fn add(&mut self, id: NodeId, place: Place, held: PieceSet, wants: bool) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let group = self.group_of(&place);
        // The first member of each rack does, whatever its number.
        let one_in = self.tuning.one_in_beyond as usize;
        let reaches_out = self.groups[group].members.len().is_multiple_of(one_in);
        self.groups[group].members.push(slot);
        let member = Member {
            id,
            tier: self.place.tier_to(&place),
            place,
            group,
            held,
            coming: Vec::new(),
            untold: 0,
            tells: false,
            delivery: Duration::ZERO,
            slow_until: Moment::ZERO,
            wants,
            parts: (!wants).then(Vec::new),
            aside: self.is_convicted(id),
            standing: Reliability::default(),
            gained: None,
            waits_since: None,
            reaches_out,
            neighbours: Vec::new(),
            reaches: [0; REACHES],
        };
        self.slots[slot] = Some(member);
        self.by_id.insert(id, slot);
        self.note_room(slot);
        slot
    }

    fn group_of(&mut self, place: &Place) -> usize {
        if let Some(at) = self.groups.iter().position(|group| same_group(&group.place, place)) {
            return at;
        }
        self.groups.push(Group { place: place.clone(), members: Vec::new(), pieces: Vec::new() });
        if self.groups.len() == 2 {
            self.spreads();
        }
        self.groups.len() - 1
    }

    /// Removes a member; its neighbours are linked to each other.
    pub(super) fn remove(&mut self, slot: usize) {
        self.unlink_all(slot);
        self.open.remove(&slot);
        let Some(member) = self.slots[slot].take() else { return };
        self.groups[member.group].members.retain(|other| *other != slot);
        self.by_id.remove(&member.id);
        for (one, other) in self.unreached_by(member.id).copied().collect::<Vec<_>>() {
            self.unreached.remove(&(one, other));
            self.unreached.remove(&(other, one));
        }
        self.free.push(slot);
        self.fill_places();
    }

    /// Notes that two nodes must not use each other, and unlinks them.
    fn keep_apart(&mut self, one: NodeId, other: NodeId) {
        self.separated.insert((one, other));
        self.separated.insert((other, one));
        if let (Some(one), Some(other)) = (self.slot(one), self.slot(other))
            && self.get(one).neighbours.contains(&other)
        {
            self.unlink(one, other);
            self.fill_places();
        }
    }

    /// Two neighbours can't reach each other. In a small swarm, where all are neighbours, there is no other member to meet, and one may still reach
    /// the other later; in a larger one each is given another neighbour instead.
    pub(super) fn separate(&mut self, one: NodeId, other: NodeId) {
        let (Some(one_slot), Some(other_slot)) = (self.slot(one), self.slot(other)) else { return };
        let is_heeded = self.unreached_by(one).count() < MAX_UNREACHED;
        if !is_heeded || !self.get(one_slot).neighbours.contains(&other_slot) {
            return;
        }
        self.unreached.insert((one, other));
        self.unreached.insert((other, one));
        if !self.is_mesh() {
            self.unlink(one_slot, other_slot);
            self.fill_places();
        }
    }

    fn unreached_by(&self, node: NodeId) -> impl Iterator<Item = &(NodeId, NodeId)> {
        self.unreached.range((node, NodeId([0; 16]))..=(node, NodeId([255; 16])))
    }

    /// True if two members must not, or can't, use each other.
    fn are_separated(&self, one: NodeId, other: NodeId) -> bool {
        self.separated.contains(&(one, other)) || self.unreached.contains(&(one, other))
    }

    fn is_convicted(&self, suspect: NodeId) -> bool {
        let Some(by) = self.reports.get(&suspect) else { return false };
        by.contains(&self.me) || by.iter().filter(|by| !self.false_reporters.contains(*by)).count() >= 2
    }

    /// Notes a report and parts the two. Only members are heard, and none of those that report too many.
    pub(super) fn report(&mut self, reporter: NodeId, suspect: NodeId) -> Reported {
        let is_own = reporter == self.me;
        let has_room = self.reported.len() < MAX_REPORTERS || self.reported.contains_key(&reporter);
        let is_member = self.slot(reporter).is_some() && has_room;
        if !is_own && (!is_member || self.false_reporters.contains(&reporter)) {
            return Reported::default();
        }
        let before = self.is_convicted(suspect);
        let by = self.reports.entry(suspect).or_default();
        let is_new = !by.contains(&reporter);
        if is_new {
            by.push(reporter);
        }
        self.keep_apart(reporter, suspect);
        let reported = self.reported.entry(reporter).or_default();
        *reported += usize::from(is_new);
        if !is_own && *reported > MAX_REPORTED.max(self.by_id.len() / ONE_IN_REPORTED) {
            self.false_reporters.insert(reporter);
            let is_cleared = |slot: &usize| self.get(*slot).aside && !self.is_convicted(self.get(*slot).id);
            return Reported { convicts: false, cleared: self.slots().filter(is_cleared).collect() };
        }
        Reported { convicts: !before && self.is_convicted(suspect), cleared: Vec::new() }
    }

    pub(super) fn put_aside(&mut self, slot: usize) {
        self.get_mut(slot).aside = true;
        self.unlink_all(slot);
        self.note_room(slot);
        self.fill_places();
    }

    pub(super) fn count_in_group(&mut self, slot: usize, piece: PieceIndex, present: bool) {
        let group = self.get(slot).group;
        let (holders, _) = self.groups[group].piece_mut(piece);
        if present {
            *holders += 1;
        } else {
            *holders -= 1;
        }
    }

    pub(super) fn note_crossing(&mut self, slot: usize, piece: PieceIndex, now: Moment) {
        let group = self.get(slot).group;
        self.groups[group].piece_mut(piece).1 = Some(now);
    }

    /// True if a holder of `piece` is in the member's group and not separated from it.
    fn has_holder_in_reach(&self, member: &Member, piece: PieceIndex) -> bool {
        let separated = self.separated.range((member.id, NodeId([0; 16]))..=(member.id, NodeId([255; 16])));
        if separated.count() == 0 && self.unreached_by(member.id).next().is_none() {
            return true;
        }
        self.groups[member.group]
            .members
            .iter()
            .map(|slot| self.get(*slot))
            .any(|other| other.held.contains(piece) && other.counts(piece) && !self.are_separated(member.id, other.id))
    }

    /// True if the lead may send `piece` into the group of the member at `slot`: always if it is the lead's own group. Otherwise only while no reachable member of
    /// that group has the piece or is being sent it, or if the member is starved: then the members of its group don't give the pieces that they announced.
    pub(super) fn may_cross(
        &self,
        slot: usize,
        piece: PieceIndex,
        (pause, is_starved): (Duration, bool),
        now: Moment,
    ) -> bool {
        let member = self.get(slot);
        let group = &self.groups[member.group];
        if !is_across(member.tier) || group.members.len() < 2 {
            return true;
        }
        let (holders, sent) = group.pieces.get(piece.as_usize()).copied().unwrap_or((0, None));
        let in_reach = holders > 0 && !is_starved && self.has_holder_in_reach(member, piece);
        !in_reach && sent.is_none_or(|sent| sent + pause <= now)
    }
}
