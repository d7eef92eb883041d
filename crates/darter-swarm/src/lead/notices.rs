//! Which neighbours each member gained and lost, gathered until the member is told.
//!
//! A newcomer is spliced into existing links, which changes the neighbours of three dozen members. In a large swarm these notices wait a moment
//! ([`Tuning::tell_links_pause`](crate::Tuning::tell_links_pause)), since thousands of newcomers in a second would be half a million
//! messages. The newcomer itself is told at once, and meets its neighbours by itself. No neighbour was told of it before that.
//!
//! Invariants: a notice contains what changed since its receiver was last told; a peer that was lost and gained again is in both lists, and
//! was lost first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use darter_core::{Moment, NodeId, Place};

/// A member has to be told of neighbours that it lost, and of those that it gained after that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// The member to be told.
    pub to: NodeId,
    /// Former neighbours that it was told of.
    pub lost: Vec<NodeId>,
    /// Its new neighbours: both are to tell each other what they hold. After a change of lead some of them may have been neighbours before.
    pub gained: Vec<NewNeighbour>,
}

/// Another member that the member is to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewNeighbour {
    /// The neighbour's id.
    pub node: NodeId,
    /// Its place: rack, zone and region.
    pub place: Place,
    /// True if the neighbour wants the whole blob.
    pub wants: bool,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Notices {
    by_member: BTreeMap<NodeId, Notice>,
    /// Newcomers that are to be told for the first time.
    newcomers: BTreeSet<NodeId>,
    /// The members whose notice was begun since notices were last taken.
    begun: Vec<NodeId>,
    /// When to tell which member, the earliest first; its notice may have been sent or dropped since.
    due: VecDeque<(Moment, NodeId)>,
}

impl Notices {
    fn of(&mut self, to: NodeId) -> &mut Notice {
        self.by_member.entry(to).or_insert_with(|| {
            self.begun.push(to);
            Notice { to, lost: Vec::new(), gained: Vec::new() }
        })
    }

    pub(super) fn gained(&mut self, to: NodeId, neighbour: NewNeighbour) {
        self.of(to).gained.push(neighbour);
    }

    /// A node that is no member is to be told soon: until then it knows no other member.
    pub(super) fn comes(&mut self, newcomer: NodeId) {
        self.newcomers.insert(newcomer);
    }

    /// True if a node is to be told for the first time.
    pub(super) fn is_newcomer(&self, node: NodeId) -> bool {
        self.newcomers.contains(&node)
    }

    /// True if `newcomer` will meet `other` by itself, so that `other` need not be told of it.
    pub(super) fn meets(&self, newcomer: NodeId, other: NodeId) -> bool {
        // A member that is about to forget the newcomer might do so after they met.
        let forgets = self.by_member.get(&other).is_some_and(|notice| notice.lost.contains(&newcomer));
        self.newcomers.contains(&newcomer) && !forgets
    }

    /// `to` lost its neighbour `peer`. This is told even if `to` was not told of `peer`, which may have met it by itself.
    pub(super) fn lost(&mut self, to: NodeId, peer: NodeId) {
        let have_met = ![to, peer].iter().any(|node| self.newcomers.contains(node));
        let notice = self.of(to);
        notice.gained.retain(|neighbour| neighbour.node != peer);
        if have_met && !notice.lost.contains(&peer) {
            notice.lost.push(peer);
        }
    }

    /// The notice for a member, whether its time has come or not.
    pub(super) fn take_of(&mut self, to: NodeId) -> Option<Notice> {
        self.newcomers.remove(&to);
        self.by_member.remove(&to)
    }

    /// The notices whose time has come, when each waits for `pause`.
    pub(super) fn take(&mut self, now: Moment, pause: Duration) -> Vec<Notice> {
        self.due.extend(self.begun.drain(..).map(|to| (now + pause, to)));
        let mut taken = Vec::new();
        while let Some((_, to)) = self.due.pop_front_if(|(at, _)| *at <= now) {
            let notice = self.take_of(to);
            taken.extend(notice.filter(|notice| !notice.lost.is_empty() || !notice.gained.is_empty()));
        }
        taken
    }

    /// When the next notice is to be taken.
    pub(super) fn due(&self) -> Option<Moment> {
        self.due.front().map(|(at, _)| *at)
    }

    /// About how many bytes of memory this takes.
    pub(super) fn memory(&self) -> usize {
        let lists = |notice: &Notice| {
            notice.lost.capacity() * size_of::<NodeId>() + notice.gained.capacity() * size_of::<NewNeighbour>()
        };
        let of_members: usize = self.by_member.values().map(lists).sum();
        let of_newcomers = self.newcomers.len() * size_of::<NodeId>();
        of_members + of_newcomers + self.by_member.len() * size_of::<(NodeId, Notice)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: u8) -> NodeId {
        NodeId([name; 16])
    }

    fn neighbour(name: u8) -> NewNeighbour {
        NewNeighbour { node: node(name), place: Place::default(), wants: true }
    }

    fn at(millis: u64) -> Moment {
        Moment::from_micros(millis * 1000)
    }

    const PAUSE: Duration = Duration::from_millis(100);

    #[test]
    fn what_happens_within_a_pause_is_one_notice() {
        let mut notices = Notices::default();
        notices.gained(node(1), neighbour(2));
        assert_eq!(notices.take(at(0), PAUSE), []);
        assert_eq!(notices.due(), Some(at(100)));
        notices.gained(node(1), neighbour(3));
        notices.gained(node(4), neighbour(3));
        assert_eq!(notices.take(at(50), PAUSE), []);
        let first = Notice { to: node(1), lost: Vec::new(), gained: vec![neighbour(2), neighbour(3)] };
        assert_eq!(notices.take(at(100), PAUSE), [first]);
        assert_eq!(notices.due(), Some(at(150)));
        assert_eq!(notices.take(at(150), PAUSE).len(), 1);
        assert_eq!(notices.due(), None);
    }

    #[test]
    fn who_is_gained_and_lost_is_lost_and_who_is_lost_and_gained_is_both() {
        let mut notices = Notices::default();
        notices.gained(node(1), neighbour(2));
        notices.lost(node(1), node(2));
        notices.lost(node(1), node(3));
        notices.gained(node(1), neighbour(3));
        let notice = Notice { to: node(1), lost: vec![node(2), node(3)], gained: vec![neighbour(3)] };
        assert_eq!(notices.take(at(0), Duration::ZERO), [notice]);
    }

    #[test]
    fn what_a_newcomer_was_told_is_not_told_again() {
        let mut notices = Notices::default();
        notices.gained(node(1), neighbour(2));
        assert_eq!(notices.take(at(0), PAUSE), []);
        assert_eq!(notices.take_of(node(1)).unwrap().gained, [neighbour(2)]);
        assert_eq!(notices.take(at(100), PAUSE), []);
    }
}
