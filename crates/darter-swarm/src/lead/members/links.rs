//! Neighbourhood: which members know each other.
//!
//! A small swarm is a full mesh. In a larger one the links are a random regular graph: all members have equally many neighbours, so that
//! nobody's cable is asked for more than others', and any two are few steps apart. A member that comes takes its place in the middle of
//! existing links, so that all others keep their number of links; when somebody goes, those it stood between are linked to each other
//! (Cooper, Dyer and Greenhill, "Sampling regular graphs and a peer-to-peer network", 2007). If there are several groups, each member has its share
//! of links within the rack, within the zone and beyond ([`Tuning::one_in_anywhere`](crate::Tuning::one_in_anywhere)), each of these a regular graph
//! of its own: a member with few links in its rack knows neither who has a piece there nor who else would fetch it, and is the straggler; one with
//! many outside fetches copies.
//!
//! Invariants: links are mutual; every link made or undone is told to both ends, but one of a newcomer to a large swarm to the newcomer
//! alone, which meets the other end; the lead's own node is told of to nobody;
//! `Member::reaches` counts `Member::neighbours` by reach: both change only in `link` and `unlink`.

use darter_core::Tier;

use super::{Member, Members};
use crate::lead::notices::NewNeighbour;

/// See [`Members::link_to_some`].
const STEP: usize = 7919;

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
    /// Links members to each other who have lost a common neighbour; who is left with too few gets new ones.
    pub(super) fn close_gap(&mut self, left_behind: &[usize]) {
        for (at, &one) in left_behind.iter().enumerate() {
            let others = left_behind[at + 1..].iter().copied();
            let short = |slot: usize| self.degree(slot) < self.tuning.neighbours as usize;
            let other = others.clone().find(|&other| short(one) && short(other) && self.may_link(one, other));
            if let Some(other) = other {
                self.link(one, other);
            }
        }
        self.relink(left_behind);
    }

    pub(super) fn relink(&mut self, slots: &[usize]) {
        for &slot in slots {
            if self.degree(slot) < self.tuning.neighbours_least as usize {
                self.link_up(slot);
            }
        }
    }

    /// Unlinks two members. Of two others that are linked each takes one instead, as far away as the two are from each other if
    /// there are such: everybody has as many neighbours as before.
    pub(super) fn swap_out(&mut self, one: usize, other: usize) {
        let reach = self.reach(one, other);
        self.unlink(one, other);
        let start = self.random.below(self.slots.len());
        for is_alike in [true, false] {
            let fits = |from: usize, to: usize| self.may_link(from, to) && (!is_alike || self.reach(from, to) == reach);
            let swap = (start..start + self.slots.len()).map(|at| at % self.slots.len()).find_map(|third| {
                let mut near = fits(one, third).then(|| self.get(third).neighbours.iter().copied())?;
                let fourth =
                    near.find(|fourth| fits(other, *fourth) && (!is_alike || self.reach(third, *fourth) == reach))?;
                Some((third, fourth))
            });
            if let Some((third, fourth)) = swap {
                self.unlink(third, fourth);
                self.link(one, third);
                self.link(other, fourth);
                return;
            }
        }
        self.relink(&[one, other]);
    }

    fn degree(&self, slot: usize) -> usize {
        self.get(slot).neighbours.len()
    }

    /// Gives a member as many neighbours as it should have.
    pub(in crate::lead) fn link_up(&mut self, slot: usize) {
        let wanted = self.tuning.neighbours as usize;
        if self.get(slot).aside {
            return;
        }
        if self.by_id.len() <= wanted + 1 {
            let all: Vec<usize> = self.by_id.values().copied().collect();
            for other in all {
                self.link(slot, other);
            }
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
        for _ in 0..wanted * 4 {
            if self.degree(slot) >= wanted {
                break;
            }
            let other = self.random.below(self.slots.len());
            self.link_in(slot, other, REACHES, wanted);
        }
    }

    /// How many neighbours of each reach a member should have, as far as there are any.
    fn shares(&self, slot: usize) -> [usize; REACHES] {
        let wanted = self.tuning.neighbours as usize;
        let outside = wanted / self.tuning.one_in_anywhere as usize;
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
            if self.within(slot, reach) >= wanted {
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
        let most = self.tuning.neighbours as usize;
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
        self.unlink(other, third);
        self.link(slot, other);
        let to_third = self.reach(slot, third);
        let lacks_such = self.reaches(slot)[to_third] < self.shares(slot)[to_third];
        if self.degree(slot) < most && (!too_few || lacks_such) {
            self.link(slot, third);
        }
    }

    /// Most members are compared with those of their own rack, and texts are slow to compare.
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

    /// True if two members may be neighbours and are not: trusted, not parted, and at least one of them wants the blob, or both lack
    /// pieces: whoever wants parts gets them from others that do.
    fn may_link(&self, one: usize, other: usize) -> bool {
        let (Some(Some(one_member)), Some(Some(other_member))) = (self.slots.get(one), self.slots.get(other)) else {
            return false;
        };
        let lacks = |member: &Member| !self.holds_all(member);
        let useful = one_member.wants || other_member.wants || (lacks(one_member) && lacks(other_member));
        let trusted = !one_member.aside && !other_member.aside;
        let is_new = one != other && !one_member.neighbours.contains(&other);
        useful && trusted && is_new && !self.are_parted(one_member.id, other_member.id)
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
        }
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
        // Members ask the lead's node as the lead, not by name.
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
            let (to, peer) = (self.get(from).id, self.get(gone).id);
            if peer != self.me {
                self.notices.lost(to, peer);
            }
        }
    }

    pub(super) fn unlink_all(&mut self, slot: usize) -> Vec<usize> {
        let neighbours = self.get(slot).neighbours.clone();
        for other in &neighbours {
            self.unlink(slot, *other);
        }
        neighbours
    }
}
