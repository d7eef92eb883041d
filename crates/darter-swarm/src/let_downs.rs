//! Agents that led a blob and let this one down: they gave nothing, or made this agent throw away what it had.
//!
//! If there is no seed, this agent follows a node that claims to lead or to hold everything. Whatever that node says of the blob is only a node's claim: a node
//! that turns out to give nothing is not followed again for this source for a while, and after two such nodes no node is. Then this agent reads the origin.
//! So it does if several tries at a source failed though no node is known to have lied.
//! A seed that let this agent down is left out in the same way, but other seeds are followed. Decided without I/O; time is an argument.
//!
//! A lead that gives up because the origin failed may or may not be honest. If the origin then fails for this agent, too, it was, and
//! the lead may be followed again at once. A liar gains nothing by this: it can't make the origin fail for others, and while the origin
//! fails nobody has anything to give. What other agents say excuses no lead, and nothing excuses a lead that also let this agent down in another way.
//!
//! Non-goals: wrong content; single pieces ([`Picker`](crate::Picker)).

use std::collections::BTreeMap;
use std::time::Duration;

use darter_core::{BlobId, Moment, NodeId};

use crate::Guilt;

/// How long a node that let this agent down is not followed for the same source.
const PAUSE: Duration = Duration::from_secs(300);

/// The tries of one opening follow each other within this time.
const ONE_OPENING: Duration = Duration::from_secs(30);

/// After this many nodes let this agent down, no node is followed.
const MAX_NODES: usize = 2;

/// Most seeds that are remembered for a source; nodes are counted separately.
const MAX_SEEDS: usize = 16;

/// Most sources that are remembered.
const MAX_SOURCES: usize = 1024;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct LetDowns {
    /// For each source, those that let this agent down.
    by_source: BTreeMap<BlobId, Vec<LetDown>>,
    /// The sources for which no node is followed, and since when.
    alone: BTreeMap<BlobId, Moment>,
}

#[derive(Debug)]
struct LetDown {
    by: NodeId,
    is_seed: bool,
    last: Moment,
    is_sure: bool,
    /// True if it only ever gave up because the origin failed.
    only_blames: bool,
}

impl LetDowns {
    /// Notes that an agent let this one down. A source is named by its blob, and by the caller's credentials where these decide.
    pub fn note(&mut self, source: BlobId, by: NodeId, is_seed: bool, guilt: Guilt, now: Moment) {
        let sources = &mut self.by_source;
        sources.retain(|_, nodes| {
            nodes.retain(|node| now < node.last + PAUSE);
            !nodes.is_empty()
        });
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&source) {
            return;
        }
        let nodes = sources.entry(source).or_default();
        let alike = nodes.iter().filter(|node| node.is_seed == is_seed).count();
        let has_room = alike < if is_seed { MAX_SEEDS } else { 2 * MAX_NODES };
        let (is_sure, only_blames) = (guilt == Guilt::Sure, guilt == Guilt::BlamesOrigin);
        match nodes.iter_mut().find(|node| node.by == by) {
            Some(node) => {
                node.is_sure |= !only_blames || now < node.last + ONE_OPENING;
                node.only_blames &= only_blames;
                node.last = now;
            }
            None if has_room => nodes.push(LetDown { by, is_seed, last: now, is_sure, only_blames }),
            None => {}
        }
    }

    /// The origin failed for this agent itself.
    pub fn origin_failed(&mut self, source: BlobId) {
        if let Some(nodes) = self.by_source.get_mut(&source) {
            nodes.retain(|node| !node.only_blames);
        }
    }

    /// No node is followed for this source for a while: hashes that a liar made up may come from any node that believed it.
    pub fn follow_no_node(&mut self, source: BlobId, now: Moment) {
        self.alone.retain(|_, since| now < *since + PAUSE);
        if self.alone.len() < MAX_SOURCES || self.alone.contains_key(&source) {
            self.alone.insert(source, now);
        }
    }

    /// True if a node or seed is not to be followed.
    pub fn is_barred(&self, source: BlobId, node: NodeId, is_seed: bool, now: Moment) -> bool {
        if !is_seed && self.alone.get(&source).is_some_and(|since| now < *since + PAUSE) {
            return true;
        }
        let Some(nodes) = self.by_source.get(&source) else { return false };
        let mut sure = nodes.iter().filter(|node| node.is_sure && now < node.last + PAUSE);
        (!is_seed && sure.clone().filter(|down| !down.is_seed).count() >= MAX_NODES) || sure.any(|down| down.by == node)
    }

    /// True if any node let this agent down recently.
    pub fn is_any(&self, source: BlobId, now: Moment) -> bool {
        self.by_source.get(&source).is_some_and(|nodes| nodes.iter().any(|node| now < node.last + PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NodeId = NodeId([1; 16]);
    const OTHER: NodeId = NodeId([2; 16]);
    const THIRD: NodeId = NodeId([3; 16]);

    fn source(number: u32) -> BlobId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        BlobId(id)
    }

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn after_several_failed_tries_seeds_alone_are_followed() {
        let mut downs = LetDowns::default();
        downs.follow_no_node(source(1), at(10));
        let barred =
            |downs: &LetDowns, number, is_seed, seconds| downs.is_barred(source(number), ONE, is_seed, at(seconds));
        assert!(barred(&downs, 1, false, 10) && barred(&downs, 1, false, 309) && !barred(&downs, 1, false, 310));
        assert!(!barred(&downs, 1, true, 10) && !barred(&downs, 2, false, 10));
        (0..2 * MAX_SOURCES as u32).for_each(|number| downs.follow_no_node(source(number), at(20)));
        assert_eq!(downs.alone.len(), MAX_SOURCES);
        downs.follow_no_node(source(1), at(300));
        assert!(barred(&downs, 1, false, 599), "it is counted from the last time");
    }

    #[test]
    fn who_let_this_agent_down_is_not_followed_for_a_while_and_after_two_nobody_is() {
        let mut downs = LetDowns::default();
        assert!(!downs.is_any(source(1), at(0)));
        downs.note(source(1), ONE, false, Guilt::Sure, at(0));
        let barred = |downs: &LetDowns, node, seconds| downs.is_barred(source(1), node, false, at(seconds));
        assert!(barred(&downs, ONE, 0) && !barred(&downs, OTHER, 0) && downs.is_any(source(1), at(0)));
        assert!(!downs.is_barred(source(2), ONE, false, at(0)), "it is about that source alone");
        downs.note(source(1), OTHER, false, Guilt::Sure, at(200));
        assert!(barred(&downs, THIRD, 200) && barred(&downs, THIRD, 299), "two are enough");
        let is_seed_barred = |seed| downs.is_barred(source(1), seed, true, at(200));
        assert!(!is_seed_barred(THIRD) && is_seed_barred(ONE), "a seed is barred for itself");
        assert!(!barred(&downs, THIRD, 300) && !barred(&downs, ONE, 300) && barred(&downs, OTHER, 300));
        assert!(!downs.is_any(source(1), at(500)));
    }

    #[test]
    fn what_an_honest_node_may_do_once_it_may_not_do_twice() {
        let mut downs = LetDowns::default();
        downs.note(source(1), ONE, false, Guilt::Perhaps, at(0));
        assert!(!downs.is_barred(source(1), ONE, false, at(0)) && downs.is_any(source(1), at(0)));
        downs.note(source(1), ONE, false, Guilt::Perhaps, at(1));
        assert!(downs.is_barred(source(1), ONE, false, at(1)));
    }

    #[test]
    fn an_origin_that_changes_or_fails_twice_is_no_fault_of_a_lead_that_says_so_unless_it_is_to_one_opening() {
        for (second, is_barred) in [(1, true), (60, false)] {
            let mut downs = LetDowns::default();
            downs.note(source(1), ONE, true, Guilt::BlamesOrigin, at(0));
            downs.note(source(1), ONE, true, Guilt::BlamesOrigin, at(second));
            assert_eq!(downs.is_barred(source(1), ONE, true, at(second)), is_barred);
        }
    }

    #[test]
    fn a_lead_that_blamed_the_origin_is_excused_when_the_origin_fails_this_agent_too_and_one_that_did_more_is_not() {
        use Guilt::{BlamesOrigin, Perhaps, Sure};
        for (guilts, is_excused) in [
            (&[BlamesOrigin, BlamesOrigin][..], true),
            (&[BlamesOrigin, Perhaps, BlamesOrigin], false),
            (&[Sure, BlamesOrigin], false),
            (&[BlamesOrigin, BlamesOrigin, Sure], false),
        ] {
            for is_seed in [true, false] {
                let mut downs = LetDowns::default();
                guilts.iter().for_each(|guilt| downs.note(source(1), ONE, is_seed, *guilt, at(1)));
                let is_barred = |downs: &LetDowns| downs.is_barred(source(1), ONE, is_seed, at(2));
                assert!(is_barred(&downs), "{guilts:?}");
                downs.origin_failed(source(2));
                assert!(is_barred(&downs), "that is another source");
                downs.origin_failed(source(1));
                assert_eq!(is_barred(&downs), !is_excused, "{guilts:?}");
                downs.note(source(1), ONE, is_seed, BlamesOrigin, at(3));
                assert_eq!(is_barred(&downs), !is_excused, "once more is the first time");
            }
        }
    }

    #[test]
    fn seeds_that_let_this_agent_down_bar_no_node_and_nodes_leave_room_for_a_seed() {
        let mut downs = LetDowns::default();
        downs.note(source(1), ONE, true, Guilt::Sure, at(0));
        downs.note(source(1), OTHER, true, Guilt::Sure, at(0));
        assert!(!downs.is_barred(source(1), THIRD, false, at(0)));
        for node in 10..30 {
            downs.note(source(2), NodeId([node; 16]), false, Guilt::Sure, at(0));
        }
        downs.note(source(2), ONE, true, Guilt::Sure, at(0));
        assert!(downs.is_barred(source(2), ONE, true, at(0)));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut downs = LetDowns::default();
        for number in 0..MAX_SOURCES as u32 + 4 {
            for node in 0..40 {
                downs.note(source(number), NodeId([node; 16]), node % 2 == 0, Guilt::Perhaps, at(1));
            }
        }
        let sources = &downs.by_source;
        assert!(sources.len() <= MAX_SOURCES && sources.values().all(|nodes| nodes.len() <= 2 * MAX_NODES + MAX_SEEDS));
    }
}
