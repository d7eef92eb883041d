//! Neighbourhood: which members know each other.
//!
//! A small swarm is a full mesh. In a larger one the links are a random regular graph: all members have the same number of neighbours, so that
//! no link to a member carries more than others, and any two are few steps apart. A member that joins is spliced into
//! existing links, so that all others keep their number of neighbours; when a member leaves, its neighbours are linked to each other
//! (Cooper, Dyer and Greenhill, "Sampling regular graphs and a peer-to-peer network", 2007). If the number of neighbours is odd, one member may lack
//! a neighbour until the next one joins or leaves. If there are several groups, each member has its share
//! of links within the rack, within the zone and beyond ([`Tuning::neighbours_inside`](crate::Tuning::neighbours_inside)), and each of these kinds is a regular graph
//! of its own: a member with few links in its rack knows neither which members there have a piece nor which others would fetch it, and becomes the straggler; one with
//! many links outside fetches copies.
//!
//! Invariants: links are mutual; both ends are told of every link made or undone, except that of a link to a newcomer in a large swarm only the newcomer
//! is told, which meets the other end; nobody is told of links to the lead's own node;
//! `Member::reaches` counts `Member::neighbours` by reach: both change only in `link` and `unlink`.

use darter_core::Tier;

use super::{Member, Members};
use crate::lead::notices::NewNeighbour;

/// See [`Members::link_to_some`].
const STEP: usize = 7919;

/// Members with room that are looked at when one of them looks for another, and how many of those it is put into a link together with. There are
/// many only where most hold everything, and may not be linked at all.
const MAX_OPEN: usize = 64;
const MAX_MATES: usize = 4;

/// How many members are looked at to find a link into which another can be spliced: in a large swarm the first few are enough.
const MAX_SEEN: usize = 256;

/// Reaches of a link: within the rack, within the zone, beyond.
pub(super) const REACHES: usize = 3;

const fn reach(tier: Tier) -> usize {
    match tier {
        Tier::Host | Tier::Rack => 0,
        Tier::Zone => 1,
        Tier::Region | Tier::Far => 2,
    }
}

impl Members {
    /// Gives new neighbours to the members that lost one, and to a newcomer that found too few. `open` has the members that have room.
    ///
    /// Two members with room are linked. If the two are neighbours already, or must not be, or one has room for two, they are spliced into a link
    /// between two others, which keep their number of neighbours. All these links have the reach of the one that was lost, or else the nearest
    /// reach that is possible: so members keep their shares of each reach, and few links are added through which copies come.
    pub(in crate::lead) fn fill_places(&mut self) {
        while let Some((slot, lost)) = self.loosened.pop() {
            let nearest_first = (0..REACHES).filter(|reach| Some(*reach) != lost);
            for reach in lost.into_iter().chain(nearest_first).map(Some).chain([None]) {
                while self.is_open(slot) && (self.link_to_open(slot, reach) || self.put_between(slot, reach)) {}
            }
        }
    }

    /// Links a member to one that has room, by a link of `reach` if that is given. Returns true if there is one.
    fn link_to_open(&mut self, slot: usize, reach: Option<usize>) -> bool {
        let open = self.scattered_open();
        let is_fit =
            |other: &usize| self.may_link(slot, *other) && reach.is_none_or(|reach| self.reach(slot, *other) == reach);
        let Some(other) = open.into_iter().find(is_fit) else { return false };
        self.link(slot, other);
        true
    }

    /// Splices a member that has room for two, or the member and another that has room, into a link of others. Returns true if there is such a link.
    fn put_between(&mut self, slot: usize, reach: Option<usize>) -> bool {
        if self.is_mesh() {
            return false;
        }
        let has_room_for_two = self.degree(slot) + 2 <= self.wanted();
        let others = self.scattered_open().into_iter().filter(|other| *other != slot).take(MAX_MATES);
        let mates: Vec<usize> = has_room_for_two.then_some(slot).into_iter().chain(others).collect();
        let start = self.random.below(self.slots.len());
        mates.into_iter().any(|mate| self.splice(slot, mate, reach, start))
    }

    /// Undoes a link between two members and links `one` to the first and `other` to the second of them.
    fn splice(&mut self, one: usize, other: usize, reach: Option<usize>, start: usize) -> bool {
        let is_far = |from: usize, to: usize| reach.is_none_or(|reach| self.reach(from, to) == reach);
        let fits = |from: usize, to: usize| self.may_link(from, to) && is_far(from, to);
        let slots = (start..start + self.slots.len()).map(|at| at % self.slots.len()).take(MAX_SEEN);
        let link = slots.filter(|third| *third != other && fits(one, *third)).find_map(|third| {
            let mut near = self.get(third).neighbours.iter().copied();
            let fourth = near.find(|fourth| *fourth != one && fits(other, *fourth) && is_far(third, *fourth))?;
            Some((third, fourth))
        });
        let Some((third, fourth)) = link else { return false };
        self.unlink(third, fourth);
        self.link(one, third);
        self.link(other, fourth);
        true
    }

    /// Some of the members that have room, beginning at a random one.
    fn scattered_open(&mut self) -> Vec<usize> {
        let start = self.random.below(self.slots.len());
        self.open.range(start..).chain(self.open.range(..start)).copied().take(MAX_OPEN).collect()
    }

    /// How many neighbours each member should have.
    pub(super) fn wanted(&self) -> usize {
        self.tuning.neighbours_with(self.groups.len() > 1)
    }

    /// Members stand in several racks from now on, so that each should have more neighbours.
    pub(super) fn spreads(&mut self) {
        for slot in self.slots().collect::<Vec<_>>() {
            self.note_room(slot);
            self.loosened.push((slot, None));
        }
    }

    /// True if all members are to be neighbours.
    pub(super) fn is_mesh(&self) -> bool {
        self.by_id.len() <= self.wanted() + 1
    }

    /// True if a member has fewer neighbours than it should.
    fn is_open(&self, slot: usize) -> bool {
        self.open.contains(&slot)
    }

    /// Keeps `open` correct when a member has gained or lost a neighbour, has joined or was put aside.
    pub(super) fn note_room(&mut self, slot: usize) {
        let member = self.get(slot);
        if !member.aside && member.neighbours.len() < self.wanted() {
            self.open.insert(slot);
        } else {
            self.open.remove(&slot);
        }
    }

    fn degree(&self, slot: usize) -> usize {
        self.get(slot).neighbours.len()
    }

    /// Gives a member as many neighbours as it should have.
    pub(in crate::lead) fn link_up(&mut self, slot: usize) {
        if self.get(slot).aside {
            return;
        }
        if self.is_mesh() {
            let all: Vec<usize> = self.by_id.values().copied().collect();
            for other in all {
                self.link(slot, other);
            }
            self.fill_places();
            return;
        }
        let place = &self.get(slot).place;
        let mut groups = [const { Vec::new() }; REACHES];
        for (at, group) in self.groups.iter().enumerate().filter(|(_, group)| !group.members.is_empty()) {
            groups[reach(place.tier_to(&group.place))].push(at);
        }
        let mut wanted_within = 0;
        for (reach, share) in self.shares(slot).into_iter().enumerate() {
            wanted_within += share;
            self.link_to_some(slot, reach, &groups[reach], wanted_within);
        }
        self.loosened.push((slot, None));
        self.fill_places();
    }

    /// How many neighbours of each reach a member should have, as far as there are any.
    fn shares(&self, slot: usize) -> [usize; REACHES] {
        let wanted = self.wanted();
        if self.groups.len() < 2 {
            return [wanted, 0, 0];
        }
        let outside = self.tuning.neighbours_outside as usize;
        let beyond = usize::from(self.get(slot).reaches_out).min(outside);
        [wanted - outside, outside - beyond, beyond]
    }

    /// Links to members of these groups, picked at random, until there are `wanted` neighbours no farther than `reach`.
    fn link_to_some(&mut self, slot: usize, reach: usize, groups: &[usize], wanted: usize) {
        if groups.is_empty() {
            return;
        }
        // A prime step visits a list of another length in a scattered order; a random start makes it differ.
        let start = self.random.below(1 << 32);
        for at in 0..wanted * 8 {
            let within = self.within(slot, reach);
            // The last of an odd number of neighbours: with one group only another member with room would do, and there is none.
            if within >= wanted || (within + 1 == wanted && self.open.len() == 1 && self.groups.len() == 1) {
                return;
            }
            let members = &self.groups[groups[(start + at) % groups.len()]].members;
            let step = if members.len().is_multiple_of(STEP) { 1 } else { STEP };
            let other = members[(start + at / groups.len() * step) % members.len()];
            self.link_in(slot, other, reach, wanted);
        }
    }

    /// Links `slot` to `other`. If `other` is full, splices `slot` into one of its links: one of the same reach, or one of a reach that
    /// `other` has too many of. Either only while `slot` has fewer than `wanted` neighbours no farther than `until`.
    fn link_in(&mut self, slot: usize, other: usize, until: usize, wanted: usize) {
        if !self.may_link(slot, other) {
            return;
        }
        let first = self.random.below(self.degree(other));
        let most = self.wanted();
        if self.degree(other) < most {
            self.link(slot, other);
            return;
        }
        let (reach, shares, counts) = (self.reach(other, slot), self.shares(other), self.reaches(other));
        let too_few = counts[reach] < shares[reach];
        let room_for_two = self.within(slot, until) + 2 <= wanted && self.degree(slot) + 2 <= most;
        if !too_few && !room_for_two {
            return;
        }
        let surplus = |reach: &usize| counts[*reach].saturating_sub(shares[*reach]);
        let gives = if too_few { (0..REACHES).max_by_key(surplus).unwrap_or(reach) } else { reach };
        let (before, after) = self.get(other).neighbours.split_at(first);
        let mut scattered = after.iter().chain(before).copied();
        let fits = |third: usize| self.reach(other, third) == gives && (too_few || self.may_link(slot, third));
        let Some(third) = scattered.find(|third| fits(*third)) else { return };
        let waiting = self.loosened.len();
        self.unlink(other, third);
        // A member that lost a far link is given another one when a member joins or leaves that needs one, too.
        self.loosened.truncate(waiting);
        self.link(slot, other);
        let to_third = self.reach(slot, third);
        let lacks_such = self.reaches(slot)[to_third] < self.shares(slot)[to_third];
        if self.degree(slot) < most && (!too_few || lacks_such) {
            self.link(slot, third);
        }
    }

    /// The reach of a link between two members. Most are compared with members of their own rack, and texts are slow to compare.
    fn reach(&self, one: usize, other: usize) -> usize {
        let (one, other) = (self.get(one), self.get(other));
        if one.group == other.group { 0 } else { reach(one.place.tier_to(&other.place)) }
    }

    /// How many neighbours a member has of each reach.
    fn reaches(&self, slot: usize) -> [usize; REACHES] {
        self.get(slot).reaches.map(|count| count as usize)
    }

    fn within(&self, slot: usize, reach: usize) -> usize {
        self.reaches(slot).iter().take(reach + 1).sum()
    }

    /// True if two members may become neighbours: both are trusted, they are not separated, and at least one of them wants the blob, or both lack
    /// pieces: a member that wants parts gets them from others that do.
    pub(super) fn may_link(&self, one: usize, other: usize) -> bool {
        let (Some(Some(one_member)), Some(Some(other_member))) = (self.slots.get(one), self.slots.get(other)) else {
            return false;
        };
        let lacks = |member: &Member| !self.holds_all(member);
        let useful = one_member.wants || other_member.wants || (lacks(one_member) && lacks(other_member));
        let trusted = !one_member.aside && !other_member.aside;
        let is_new = one != other && !one_member.neighbours.contains(&other);
        useful && trusted && is_new && !self.are_separated(one_member.id, other_member.id)
    }

    fn link(&mut self, one: usize, other: usize) {
        if !self.may_link(one, other) {
            return;
        }
        let reach = self.reach(one, other);
        for (from, to) in [(one, other), (other, one)] {
            let member = self.get_mut(from);
            member.neighbours.push(to);
            member.reaches[reach] += 1;
            self.note_room(from);
        }
        let is_other_new = self.notices.is_newcomer(self.get(other).id);
        let (one, other) = if is_other_new { (other, one) } else { (one, other) };
        self.tell_linked(one, other);
        // In a small swarm both are told, so that each tries to reach the other.
        let (newcomer, peer) = (self.get(one).id, self.get(other).id);
        let are_few = self.by_id.len() < self.tuning.few_members as usize;
        if are_few || peer == self.me || !self.notices.meets(newcomer, peer) {
            self.tell_linked(other, one);
        }
    }

    fn tell_linked(&mut self, to: usize, peer: usize) {
        let (to, peer) = (self.get(to), self.get(peer));
        // Members ask the lead's own node as the lead, not by the name of a neighbour.
        if peer.id == self.me {
            return;
        }
        let (to, neighbour) = (to.id, NewNeighbour { node: peer.id, place: peer.place.clone(), wants: peer.wants });
        self.notices.gained(to, neighbour);
    }

    pub(super) fn unlink(&mut self, one: usize, other: usize) {
        let reach = self.reach(one, other);
        for (from, gone) in [(one, other), (other, one)] {
            let member = self.get_mut(from);
            member.neighbours.retain(|neighbour| *neighbour != gone);
            member.reaches[reach] -= 1;
            self.note_room(from);
            self.loosened.push((from, Some(reach)));
            let (to, peer) = (self.get(from).id, self.get(gone).id);
            if peer != self.me {
                self.notices.lost(to, peer);
            }
        }
    }

    pub(super) fn unlink_all(&mut self, slot: usize) {
        for other in self.get(slot).neighbours.clone() {
            self.unlink(slot, other);
        }
    }
}
