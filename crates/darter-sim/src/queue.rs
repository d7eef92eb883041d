//! The queue of events: earliest first, those of one moment in the order in which they were put in.
//!
//! A hierarchical timing wheel (Varghese and Lauck, 1987). Moments are numbers of microseconds with digits to the base of 64, and each digit
//! is a wheel of 64 lists. An event stands in the wheel of the highest digit in which its moment differs from the present, in that
//! digit's list. When the present comes to a list it is dealt out to the wheels below, in order, so that nothing is ever
//! compared or sorted, and all that is touched is the end of a list. A large run has tens of thousands of events waiting, and a
//! single heap of them is a cache miss for each of its levels.
//!
//! Invariants: a list of a wheel above the lowest is of a digit greater than the present's; the lowest wheel's list of the present
//! has `next` events that were taken out; nothing is put in before the present (it is moved there).

use darter_core::Moment;
use darter_swarm::{OriginReader, OriginRun};

/// Something that happens at a moment. Small and without pointers: there are millions of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// The scenario's event of this index.
    Event(u32),
    /// Two hosts have heard nothing of each other since they were cut off.
    Silent { one: u32, other: u32, since: Moment },
    /// A node's picker is polled.
    Poll(u32),
    /// A node's picker may have something to do though nothing happened.
    Wake(u32),
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
    Failed(Failed),
    /// A lead has read the first piece of a run from the origin.
    Read { by: u32, life: u8, reader: OriginReader, run: OriginRun },
    /// The others find out that a node died.
    Noticed(u32),
    /// A node asks another to lead.
    AskToLead { to: u32, from: u32, life: u8 },
    /// A node that was asked to lead does not, and the one that asked finds out.
    NotLed { node: u32, by: u32, life: u8 },
    /// A node that asks around has heard all that it will of a round.
    Heard { node: u32, life: u8 },
    /// A node has found out that it can't reach a neighbour.
    Unreached { node: u32, peer: u32, life: u8 },
    /// A node goes on to look for a lead.
    Rested { node: u32, life: u8 },
    /// A message, at this place of the mail, reaches its receivers.
    Letter(u32),
    /// A liar goes on with a request.
    Lied(Lied),
}

/// An answer that a liar gives later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lied {
    pub(crate) liar: u32,
    pub(crate) asker: u32,
    pub(crate) id: u32,
    pub(crate) piece: u32,
    /// How often before.
    pub(crate) times: u16,
}

/// A request that is refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed {
    pub(crate) node: u32,
    pub(crate) by: u32,
    pub(crate) id: u32,
    /// The piece, if one was asked for by name.
    pub(crate) wanted: Option<u32>,
    /// True if the holder says that it lacks the piece.
    pub(crate) lost: bool,
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
}

/// Bits of a digit.
const DIGIT: u32 = 6;
/// Lists of a wheel: as many as bits of a word.
const LISTS: usize = 1 << DIGIT;
const WHEELS: usize = u64::BITS.div_ceil(DIGIT) as usize;

#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// The present, in microseconds.
    now: u64,
    next: usize,
    wheels: [Wheel; WHEELS],
    /// Lists that were dealt out, empty: the next to begin take their memory while it is still in the cache.
    spare: Vec<Vec<QueuedEvent>>,
}

#[derive(Debug)]
struct Wheel {
    lists: [Vec<QueuedEvent>; LISTS],
    /// A bit for each list that is not empty.
    filled: u64,
}

#[derive(Clone, Copy, Debug)]
struct QueuedEvent {
    micros: u64,
    what: What,
}

impl Default for Wheel {
    fn default() -> Self {
        Self { lists: [const { Vec::new() }; LISTS], filled: 0 }
    }
}

impl Queue {
    pub(crate) fn push(&mut self, at: Moment, what: What) {
        self.put(QueuedEvent { micros: at.as_micros().max(self.now), what });
    }

    fn put(&mut self, entry: QueuedEvent) {
        let difference = entry.micros ^ self.now;
        let wheel = difference.checked_ilog2().map_or(0, |bit| bit / DIGIT);
        let digit = digit(entry.micros, wheel);
        let Wheel { lists, filled } = &mut self.wheels[wheel as usize];
        let list = &mut lists[digit];
        if list.capacity() == 0 {
            *list = self.spare.pop().unwrap_or_default();
        }
        list.push(entry);
        *filled |= 1 << digit;
    }

    pub(crate) fn pop(&mut self) -> Option<(Moment, What)> {
        loop {
            let digit = digit(self.now, 0);
            let Wheel { lists, filled } = &mut self.wheels[0];
            if let Some(entry) = lists[digit].get(self.next) {
                self.next += 1;
                return Some((Moment::from_micros(entry.micros), entry.what));
            }
            lists[digit].clear();
            *filled &= !(1 << digit);
            self.next = 0;
            self.go_on()?;
        }
    }

    /// Goes on to the next list, and deals it out unless it is one of the lowest wheel; `None` when all are empty.
    fn go_on(&mut self) -> Option<()> {
        let wheel = self.wheels.iter().position(|wheel| wheel.filled != 0)?;
        let Wheel { lists, filled } = &mut self.wheels[wheel];
        let digit = filled.trailing_zeros();
        let shift = wheel as u32 * DIGIT;
        self.now = (self.now >> shift & !(LISTS as u64 - 1) | u64::from(digit)) << shift;
        if wheel > 0 {
            *filled &= !(1 << digit);
            let mut list = std::mem::take(&mut lists[digit as usize]);
            for entry in list.drain(..) {
                self.put(entry);
            }
            self.spare.push(list);
        }
        Some(())
    }
}

const fn digit(micros: u64, wheel: u32) -> usize {
    (micros >> (wheel * DIGIT)) as usize % LISTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_by_time_and_those_of_one_moment_in_their_order() {
        let mut queue = Queue::default();
        let mut times = Vec::new();
        for nth in 0..5000_u32 {
            // Near, wheels away, and many at the same moment.
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
    fn what_comes_too_late_happens_after_all_that_was_put_into_the_present() {
        let mut queue = Queue::default();
        queue.push(Moment::from_micros(70_000), What::Poll(1));
        queue.push(Moment::from_micros(70_000), What::Poll(2));
        assert!(matches!(queue.pop(), Some((_, What::Poll(1)))));
        queue.push(Moment::from_micros(300), What::Poll(3));
        assert!(matches!(queue.pop(), Some((_, What::Poll(2)))));
        assert!(matches!(queue.pop(), Some((at, What::Poll(3))) if at.as_micros() == 70_000));
        assert!(queue.pop().is_none());
        queue.push(Moment::from_micros(u64::MAX), What::Poll(0));
        assert_eq!(queue.pop().unwrap().0.as_micros(), u64::MAX);
    }

    #[test]
    fn what_is_put_in_meanwhile_takes_its_place() {
        let mut queue = Queue::default();
        for at in [10_u64, 2_000_000] {
            queue.push(Moment::from_micros(at), What::Poll(0));
        }
        assert_eq!(queue.pop().unwrap().0.as_micros(), 10);
        for at in [11_u64, 1_999_999, 600_000] {
            queue.push(Moment::from_micros(at), What::Poll(0));
        }
        let rest: Vec<u64> = std::iter::from_fn(|| queue.pop()).map(|(at, _)| at.as_micros()).collect();
        assert_eq!(rest, [11, 600_000, 1_999_999, 2_000_000]);
    }
}
