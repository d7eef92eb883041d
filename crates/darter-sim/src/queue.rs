//! The queue of events: earliest first, those of one moment in the order in which they were put in.
//!
//! A calendar queue (Brown, 1988): a ring of short days, each a heap or a list of its own, and one heap for what lies beyond the
//! ring. A large run has tens of thousands of events waiting, nearly all within a few milliseconds, and a single heap of them
//! is a cache miss for each of its levels. A day that is over leaves its memory to the next one that begins, while it is
//! still in the cache.
//!
//! Invariants: `days[today % DAYS]` is in `now`, the heap; the other days in the ring are unsorted; nothing is put in before
//! the moment last taken out (it is moved to it).

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
    /// A node's picker may have something to do though nothing happened.
    Wake(u32),
    /// A node's new pieces become known to its neighbours.
    Announce(u32),
    /// A node's new pieces become known to the lead.
    TellLead(u32),
    /// A request for a named piece reaches a node.
    Request { to: u32, from: u32, id: u32, piece: u32, urgent: bool },
    /// An ask reaches the lead.
    Ask { to: u32, from: u32, id: u32 },
    /// A request or an ask is called back.
    Cancel { to: u32, from: u32, id: u32 },
    /// A node's cable has taken up one grain of what it sends.
    Grain { from: u32, life: u8 },
    /// A piece is received.
    Arrived(Arrival),
    /// A connection of a node that had as much under way as it may has room again.
    Room { from: u32, connection: u32, life: u8 },
    /// A request's answer begins to be received.
    Started { node: u32, id: u32, piece: u32, life: u8 },
    /// A request failed, and the node that made it finds out.
    Failed { node: u32, id: u32, lost: Option<(u32, u32)> },
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

/// A piece at its receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) from_life: u8,
    pub(crate) to_life: u8,
    pub(crate) id: u32,
    pub(crate) piece: u32,
    /// Whether the lead chose it.
    pub(crate) chosen: bool,
}

/// Microseconds in a day, as a power of two.
const DAY: u32 = 2;
/// Days in the ring: a quarter of a second in all.
const DAYS: usize = 1 << 16;

#[derive(Debug)]
pub(crate) struct Queue {
    now: BinaryHeap<Entry>,
    days: Vec<Vec<Entry>>,
    /// Lists of days that are over, empty, for days to come.
    spare: Vec<Vec<Entry>>,
    today: u64,
    /// Events in the ring, without today's.
    in_ring: usize,
    later: BinaryHeap<Entry>,
    next: u64,
}

/// Ordered so that the earliest is the greatest.
#[derive(Clone, Copy, Debug)]
struct Entry {
    micros: u64,
    order: u64,
    what: What,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.micros, other.order).cmp(&(self.micros, self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Entry {}

impl Default for Queue {
    fn default() -> Self {
        Self {
            now: BinaryHeap::new(),
            days: vec![Vec::new(); DAYS],
            spare: Vec::new(),
            today: 0,
            in_ring: 0,
            later: BinaryHeap::new(),
            next: 0,
        }
    }
}

impl Queue {
    pub(crate) fn push(&mut self, at: Moment, what: What) {
        let entry = Entry { micros: at.as_micros(), order: self.next, what };
        self.next += 1;
        let day = entry.micros >> DAY;
        if day <= self.today {
            self.now.push(entry);
        } else if day - self.today < DAYS as u64 {
            let list = &mut self.days[day as usize % DAYS];
            if list.capacity() == 0 {
                *list = self.spare.pop().unwrap_or_default();
            }
            list.push(entry);
            self.in_ring += 1;
        } else {
            self.later.push(entry);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<(Moment, What)> {
        while self.now.is_empty() {
            self.next_day()?;
        }
        let Entry { micros, what, .. } = self.now.pop()?;
        Some((Moment::from_micros(micros), what))
    }

    /// Goes on to the next day that may have events; `None` when there are none at all.
    fn next_day(&mut self) -> Option<()> {
        self.today = if self.in_ring > 0 { self.today + 1 } else { self.later.peek()?.micros >> DAY };
        let mut day = std::mem::take(&mut self.days[self.today as usize % DAYS]);
        self.in_ring -= day.len();
        self.now.extend(day.drain(..));
        if day.capacity() > 0 {
            self.spare.push(day);
        }
        while self.later.peek().is_some_and(|first| first.micros >> DAY <= self.today) {
            self.now.extend(self.later.pop());
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_by_time_and_those_of_one_moment_in_their_order() {
        let mut queue = Queue::default();
        let mut times = Vec::new();
        for nth in 0..5000_u32 {
            // Near, far beyond the ring, and many at the same moment.
            let at = u64::from(nth).wrapping_mul(0x9e37_79b9) % [40, 900, 70_000, 5_000_000][nth as usize % 4];
            times.push((at, nth));
            queue.push(Moment::from_micros(at), What::Poll(nth));
        }
        times.sort_unstable();
        let order = std::iter::from_fn(|| match queue.pop()? {
            (at, What::Poll(nth)) => Some((at.as_micros(), nth)),
            (_, other) => panic!("{other:?}"),
        });
        assert_eq!(order.collect::<Vec<_>>(), times);
    }

    #[test]
    fn what_is_put_in_meanwhile_takes_its_place() {
        let mut queue = Queue::default();
        for at in [10_u64, 2_000_000] {
            queue.push(Moment::from_micros(at), What::Elect);
        }
        assert_eq!(queue.pop().unwrap().0.as_micros(), 10);
        for at in [11_u64, 1_999_999, 600_000] {
            queue.push(Moment::from_micros(at), What::Elect);
        }
        let rest: Vec<u64> = std::iter::from_fn(|| queue.pop()).map(|(at, _)| at.as_micros()).collect();
        assert_eq!(rest, [11, 600_000, 1_999_999, 2_000_000]);
    }
}
