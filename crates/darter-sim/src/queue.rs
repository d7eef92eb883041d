//! The queue of events: earliest first, those of one moment in the order in which they were put in.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use darter_core::Moment;

/// Something that happens at a moment. Small and without pointers: there are millions of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// The scenario's operation of this index.
    Operation(u32),
    /// A node's picker is polled.
    Poll(u32),
    /// A node's new piece becomes known to its neighbours and the lead.
    Announce { node: u32, piece: u32 },
    /// A request for a named piece reaches a node.
    Request { to: u32, from: u32, id: u64, piece: u32, urgent: bool },
    /// An ask reaches the lead.
    Ask { to: u32, from: u32, id: u64 },
    /// A transfer's first bytes reach the receiver.
    Started(u32),
    /// A transfer's last bytes left the sender.
    Sent(u32),
    /// A transfer's last bytes reach the receiver.
    Ended(u32),
    /// A request failed, and the node that made it finds out.
    Failed { node: u32, id: u64 },
    /// The lead looks again.
    Lead(u32),
    /// The lead has read a piece from the origin. The number tells one reading from another.
    Read { piece: u32, reading: u32 },
    /// The others find out that a node died.
    Noticed(u32),
    /// Those who found no lead elect one.
    Elect,
    /// Members learn of hashes that came since.
    Manifest,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<(Moment, u64, What)>>,
    next: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at: Moment, what: What) {
        self.heap.push(Reverse((at, self.next, what)));
        self.next += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<(Moment, What)> {
        self.heap.pop().map(|Reverse((at, _, what))| (at, what))
    }
}
