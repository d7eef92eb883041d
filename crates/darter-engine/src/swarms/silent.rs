//! Nodes that were asked to lead and did not answer at all: for a while none of them is asked again, for any source. A node that only claims
//! to hold a blob would otherwise delay each node that asks it, one after the other.
//!
//! Invariant: the number of entries is bounded.
//!
//! Non-goals: nodes that let others in and give nothing ([`LetDowns`](darter_swarm::LetDowns)).

use std::collections::HashMap;
use std::time::Duration;

use darter_core::{Moment, NodeId};
use parking_lot::Mutex;

/// How long such a node is not asked: as long as nodes that ask each other for one source need to find another lead.
const PAUSE: Duration = Duration::from_secs(10);

/// Most nodes that are remembered.
const MAX_NODES: usize = 256;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct SilentNodes(Mutex<HashMap<NodeId, Moment>>);

impl SilentNodes {
    pub(super) fn note(&self, node: NodeId, now: Moment) {
        let mut nodes = self.0.lock();
        nodes.retain(|_, since| now < *since + PAUSE);
        if nodes.len() < MAX_NODES {
            nodes.insert(node, now);
        }
    }

    pub(super) fn has(&self, node: NodeId, now: Moment) -> bool {
        self.0.lock().get(&node).is_some_and(|since| now < *since + PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_said_nothing_is_left_alone_for_a_moment_and_few_are_remembered() {
        let (nodes, one, now) = (SilentNodes::default(), NodeId([1; 16]), Moment::ZERO);
        nodes.note(one, now);
        assert!(nodes.has(one, now) && !nodes.has(NodeId([2; 16]), now));
        assert!(!nodes.has(one, now + PAUSE));
        (0..1000_u128).for_each(|number| nodes.note(NodeId(number.to_be_bytes()), now));
        assert_eq!(nodes.0.lock().len(), MAX_NODES);
        nodes.note(NodeId([3; 16]), now + PAUSE);
        assert!(nodes.has(NodeId([3; 16]), now + PAUSE), "the others are over");
    }
}
