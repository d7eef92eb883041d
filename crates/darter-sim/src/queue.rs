//! The queue of events: earliest first, those of one moment in the order in which they were put in.
//!
//! A timing wheel of three levels (Varghese and Lauck, 1987): the microseconds of the present *turn*, the turns of the present
//! *era*, and eras. An event is appended to the list of its microsecond, turn or era, whichever it shares with the present; when an era
//! or a turn begins its list is dealt out to the level below, in order. So nothing is ever compared or sorted, and all that is
//! touched is the end of a list: a heap of the tens of thousands of events of a large run is a cache miss for each of its levels.
//! A list that was dealt out leaves its memory to the next one that begins, while it is still in the cache.
//!
//! Invariants: `moments` has the events of turn `now / TURN`, from `next` on those still to come of the microsecond `now`; `turns` has
//! those of later turns of era `now / ERA`; `eras` has the rest. Nothing is put in before `now` (it is moved there).

use std::collections::BTreeMap;

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

/// Microseconds in a turn, and bits of a word.
const TURN: u64 = 64;
/// Microseconds in an era: a quarter of a second.
const ERA: u64 = TURN * TURNS;
const TURNS: u64 = 4096;

/// Lists of the events of a turn or an era, each with its microsecond within that.
type List = Vec<(u32, What)>;

#[derive(Debug)]
pub(crate) struct Queue {
    /// The present microsecond.
    now: u64,
    /// How many of its events were taken out.
    next: usize,
    moments: Vec<Vec<What>>,
    /// Which of `moments` are not empty, a bit each.
    filled: u64,
    turns: Vec<List>,
    /// Events in `turns`.
    in_turns: usize,
    eras: BTreeMap<u64, List>,
    /// Lists of turns that are over, empty.
    spare: Vec<List>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            now: 0,
            next: 0,
            moments: vec![Vec::new(); TURN as usize],
            filled: 0,
            turns: vec![List::new(); TURNS as usize],
            in_turns: 0,
            eras: BTreeMap::new(),
            spare: Vec::new(),
        }
    }
}

impl Queue {
    pub(crate) fn push(&mut self, at: Moment, what: What) {
        let micros = at.as_micros().max(self.now);
        if micros / TURN == self.now / TURN {
            self.add_to_moment(micros % TURN, what);
        } else if micros / ERA == self.now / ERA {
            self.add_to_turn(micros % ERA, what);
        } else {
            self.eras.entry(micros / ERA).or_default().push(((micros % ERA) as u32, what));
        }
    }

    fn add_to_moment(&mut self, moment: u64, what: What) {
        self.moments[moment as usize].push(what);
        self.filled |= 1 << moment;
    }

    fn add_to_turn(&mut self, in_era: u64, what: What) {
        let list = &mut self.turns[(in_era / TURN) as usize];
        if list.capacity() == 0 {
            *list = self.spare.pop().unwrap_or_default();
        }
        list.push(((in_era % TURN) as u32, what));
        self.in_turns += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<(Moment, What)> {
        loop {
            let moment = self.now % TURN;
            let events = &mut self.moments[moment as usize];
            if let Some(what) = events.get(self.next) {
                self.next += 1;
                return Some((Moment::from_micros(self.now), *what));
            }
            events.clear();
            self.next = 0;
            self.filled &= !(1 << moment);
            if self.filled == 0 {
                self.begin_turn()?;
            }
            self.now = self.now / TURN * TURN + u64::from(self.filled.trailing_zeros());
        }
    }

    /// Goes on to the next turn that has events; `None` when there are none at all.
    fn begin_turn(&mut self) -> Option<()> {
        if self.in_turns == 0 {
            self.begin_era()?;
        } else {
            self.now += TURN;
        }
        while self.turns[(self.now % ERA / TURN) as usize].is_empty() {
            self.now += TURN;
        }
        let mut list = std::mem::take(&mut self.turns[(self.now % ERA / TURN) as usize]);
        self.in_turns -= list.len();
        for (moment, what) in list.drain(..) {
            self.add_to_moment(u64::from(moment), what);
        }
        self.spare.push(list);
        Some(())
    }

    /// Goes on to the start of the next era that has events.
    fn begin_era(&mut self) -> Option<()> {
        let (era, list) = self.eras.pop_first()?;
        self.now = era * ERA;
        for (in_era, what) in list {
            self.add_to_turn(u64::from(in_era), what);
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
