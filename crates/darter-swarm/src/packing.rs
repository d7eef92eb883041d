//! Decides when a holder packs (compresses) a piece for a requester that accepts packed pieces. Without I/O.
//!
//! Packing costs CPU time at the holder and at the requester, and saves time on the connection. A piece is packed if the time that its saved
//! bytes would take on the connection is longer than packing and unpacking, by a margin, since other work needs the processors, too. All of these
//! are measured: the connection's rate, the time that packing takes (including the wait for a turn, so that a busy holder packs less), and how
//! much the pieces of a blob shrink. While a connection's rate is unknown, it gets plain pieces.
//!
//! If pieces of a blob do not shrink, some of the next ones are sent plain without an attempt: more of them each time, until one shrinks.
//!
//! Invariants: memory is bounded by `MAX_BLOBS`; an old measurement of time counts for less, so that a holder that was busy tries again.
//!
//! Non-goals: packing itself, and keeping packed pieces (`darter-engine`).

use std::collections::HashMap;
use std::time::Duration;

use darter_core::{BlobId, Moment};

/// The most blobs whose pieces' shrinking is remembered.
const MAX_BLOBS: usize = 1024;

/// Packing has to save this many times the time that it takes.
const MARGIN: f64 = 2.0;

/// The time that unpacking takes, as a part of packing's.
const UNPACKING: f64 = 0.3;

/// The seconds that packing a byte is assumed to take before anything was measured, and at least: an idle processor packs 400 MB in a second.
const FIRST_COST: f64 = 2.5e-9;

/// The time in which a higher measured cost falls halfway to `FIRST_COST`, unless it is measured again.
const HALF_LIFE: Duration = Duration::from_secs(1);

/// The packed length that is assumed before any piece of a blob was packed, as a part of the plain length.
const FIRST_RATIO: f64 = 0.5;

/// The weight of a new measurement in the running average.
const WEIGHT: f64 = 0.125;

/// After this many pieces in a row that did not shrink, some pieces of the blob are not tried.
const MAX_IN_VAIN: u32 = 4;

/// How many pieces are not tried then: at first, and at most.
const LEFT_ALONE: (u32, u32) = (8, 512);

/// An agent's measurements of packing.
#[derive(Debug)]
pub struct Packing {
    /// Seconds that packing takes for each byte, and when that was measured.
    cost: f64,
    measured: Moment,
    blobs: HashMap<BlobId, Shrinking>,
}

/// How pieces of one blob shrink.
#[derive(Clone, Copy, Debug)]
struct Shrinking {
    /// The packed length as a part of the plain one, of pieces that shrank.
    ratio: f64,
    /// Pieces in a row that did not shrink.
    in_vain: u32,
    /// How many of the next pieces are not tried, and how many will be the next time.
    left_alone: u32,
    next_left_alone: u32,
}

impl Default for Shrinking {
    fn default() -> Self {
        Self { ratio: FIRST_RATIO, in_vain: 0, left_alone: 0, next_left_alone: LEFT_ALONE.0 }
    }
}

impl Default for Packing {
    fn default() -> Self {
        Self { cost: FIRST_COST, measured: Moment::ZERO, blobs: HashMap::new() }
    }
}

/// True if packing pays on a connection of `rate` bytes per second, when packing takes `cost` seconds for each byte and leaves the part `ratio`
/// of the bytes; `is_packed` if the piece is stored packed, and only has to be unpacked.
pub fn pays(rate: f64, cost: f64, ratio: f64, is_packed: bool) -> bool {
    let saved = (1.0 - ratio) / rate.max(1.0);
    let spent = if is_packed { cost * UNPACKING } else { cost * (1.0 + UNPACKING) };
    saved > MARGIN * spent
}

impl Packing {
    /// True if a piece of the blob is to be packed for a connection that takes `rate` bytes per second.
    pub fn packs(&mut self, blob: BlobId, rate: Option<u64>, now: Moment) -> bool {
        let Some(rate) = rate else { return false };
        let cost = self.cost_at(now);
        let Some(shrinking) = self.blobs.get_mut(&blob) else { return pays(rate as f64, cost, FIRST_RATIO, false) };
        if !pays(rate as f64, cost, shrinking.ratio, false) {
            return false;
        }
        if shrinking.left_alone > 0 {
            shrinking.left_alone -= 1;
            return false;
        }
        true
    }

    /// True if a piece that is stored packed is to be sent packed; `ratio` is its packed length as a part of the plain one.
    pub fn sends_packed(&self, ratio: f64, rate: Option<u64>, now: Moment) -> bool {
        rate.is_some_and(|rate| pays(rate as f64, self.cost_at(now), ratio, true))
    }

    /// A piece of `plain` bytes was tried. It `took` this time from the moment at which it was requested. `packed` is its packed length, if it
    /// shrank enough.
    pub fn tried(&mut self, blob: BlobId, plain: u32, packed: Option<u32>, took: Duration, now: Moment) {
        let cost = took.as_secs_f64() / f64::from(plain.max(1));
        let before = self.cost_at(now);
        self.cost = (before + (cost - before) * WEIGHT).max(FIRST_COST);
        self.measured = now;
        if self.blobs.len() >= MAX_BLOBS && !self.blobs.contains_key(&blob) {
            self.blobs.clear();
        }
        let shrinking = self.blobs.entry(blob).or_default();
        if let Some(packed) = packed {
            let ratio = f64::from(packed) / f64::from(plain.max(1));
            let ratio = shrinking.ratio + (ratio - shrinking.ratio) * WEIGHT;
            *shrinking = Shrinking { ratio, ..Shrinking::default() };
            return;
        }
        shrinking.in_vain += 1;
        if shrinking.in_vain >= MAX_IN_VAIN {
            shrinking.left_alone = shrinking.next_left_alone;
            shrinking.next_left_alone = (shrinking.next_left_alone * 2).min(LEFT_ALONE.1);
        }
    }

    fn cost_at(&self, now: Moment) -> f64 {
        let halves = now.since(self.measured).as_secs_f64() / HALF_LIFE.as_secs_f64();
        FIRST_COST + (self.cost - FIRST_COST) * 0.5_f64.powf(halves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: BlobId = BlobId([1; 32]);
    const PIECE: u32 = 1 << 19;

    /// A rate in megabits per second.
    fn mbit(rate: u64) -> Option<u64> {
        Some(rate * 125_000)
    }

    fn at(millis: u64) -> Moment {
        Moment::from_micros(millis * 1000)
    }

    /// The time in which a piece is packed at this many megabytes per second.
    fn at_speed(megabytes: f64) -> Duration {
        Duration::from_secs_f64(f64::from(PIECE) / (megabytes * 1e6))
    }

    #[test]
    fn slow_connections_get_packed_pieces_and_quick_ones_plain_ones() {
        let mut packing = Packing::default();
        for (rate, packs) in [(50, true), (200, true), (500, true), (1000, false), (10_000, false)] {
            assert_eq!(packing.packs(BLOB, mbit(rate), at(0)), packs, "{rate} Mbit/s");
        }
        assert!(!packing.packs(BLOB, None, at(0)), "nobody knows how quick it is");
        // What is packed already has only to be unpacked.
        for (rate, sends) in [(200, true), (1000, true), (10_000, false)] {
            assert_eq!(packing.sends_packed(0.5, mbit(rate), at(0)), sends, "{rate} Mbit/s");
        }
        assert!(!packing.sends_packed(0.5, None, at(0)));
    }

    #[test]
    fn a_busy_holder_packs_for_slower_connections_alone_and_tries_again_after_a_while() {
        let mut packing = Packing::default();
        // A turn comes late: 20 MB/s in all.
        (0..50).for_each(|_| packing.tried(BLOB, PIECE, Some(PIECE / 2), at_speed(20.0), at(1000)));
        assert!(!packing.packs(BLOB, mbit(200), at(1000)) && packing.packs(BLOB, mbit(20), at(1000)));
        assert!(packing.packs(BLOB, mbit(200), at(6000)), "that was long ago");
        (0..50).for_each(|_| packing.tried(BLOB, PIECE, Some(PIECE / 2), at_speed(400.0), at(1000)));
        assert!(packing.packs(BLOB, mbit(200), at(1000)));
    }

    #[test]
    fn the_more_pieces_of_a_blob_shrink_the_quicker_a_connection_may_be() {
        let quickest = |left: u32| {
            let mut packing = Packing::default();
            (0..50).for_each(|_| packing.tried(BLOB, PIECE, Some(left), at_speed(400.0), at(0)));
            (0..2000).step_by(10).take_while(|rate| packing.packs(BLOB, mbit(*rate), at(0))).last().unwrap()
        };
        let (little, half, most) = (quickest(PIECE / 10 * 9), quickest(PIECE / 2), quickest(PIECE / 10));
        assert!(little < half / 2 && half < most, "{little}, {half}, {most}");
    }

    #[test]
    fn of_a_blob_that_does_not_shrink_ever_more_pieces_are_left_alone_until_one_shrinks() {
        let mut packing = Packing::default();
        let left_alone = |packing: &mut Packing| (0..).take_while(|_| !packing.packs(BLOB, mbit(50), at(0))).count();
        let mut runs = Vec::new();
        for _ in 0..14 {
            runs.push(left_alone(&mut packing));
            packing.tried(BLOB, PIECE, None, at_speed(2000.0), at(0));
        }
        assert_eq!(runs, [0, 0, 0, 0, 8, 16, 32, 64, 128, 256, 512, 512, 512, 512]);
        assert_eq!(left_alone(&mut packing), 512);
        packing.tried(BLOB, PIECE, Some(PIECE / 2), at_speed(400.0), at(0));
        assert_eq!(left_alone(&mut packing), 0);
        assert!(packing.packs(BlobId([2; 32]), mbit(50), at(0)), "another blob");
    }

    #[test]
    fn memory_is_bounded() {
        let mut packing = Packing::default();
        for number in 0..3 * MAX_BLOBS as u64 {
            let mut blob = [0; 32];
            blob[..8].copy_from_slice(&number.to_le_bytes());
            packing.tried(BlobId(blob), PIECE, None, Duration::ZERO, at(0));
        }
        assert!(packing.blobs.len() <= MAX_BLOBS);
    }
}
