//! The queue of events: earliest first, those of one moment in the order in which they were put in.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use darter_core::Moment;

/// Something that happens at a moment. Small and without pointers: there are millions of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// The scenario's operation of this index.
    Operation(u32),
    /// A node's picker is polled.
    Poll(u32),
    /// A node's new pieces become known to its neighbours.
    Announce(u32),
    /// A node's new pieces become known to the lead.
    TellLead(u32),
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
    heap: BinaryHeap<Entry>,
    next: u64,
}

/// Ordered by one number, the earliest as the greatest: comparing is what a large run does most.
#[derive(Debug)]
struct Entry {
    /// Microseconds in the high half, then the order of arrival.
    key: u128,
    what: What,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key.cmp(&self.key)
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Entry {}

impl Queue {
    pub(crate) fn push(&mut self, at: Moment, what: What) {
        let key = (u128::from(at.as_micros()) << 64) | u128::from(self.next);
        self.heap.push(Entry { key, what });
        self.next += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<(Moment, What)> {
        let Entry { key, what } = self.heap.pop()?;
        let micros = u64::try_from(key >> 64).expect("the high half is a u64");
        Some((Moment::from_micros(micros), what))
    }
}
