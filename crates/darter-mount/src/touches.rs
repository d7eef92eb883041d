//! Records which pieces of a file were read first, in which order, in the first minute after it was opened. Its agent is told, so that another host that
//! starts the same image later can prefetch them. Pure.
//!
//! Each read of the kernel counts, whether or not it had to wait, including metadata and read-ahead. A file whose pages are in
//! memory is not read at all, so only the first minute of a file counts, and the record is handed over while it grows: a program may
//! run only for a moment. Bounded: `MAX_RUNS` runs of `MAX_PIECES` pieces.

use std::ops::Range;
use std::time::Duration;

use darter_core::{ByteRange, Moment, PieceIndex, PieceLength, PieceSet};

/// For how long after the opening reads are recorded.
const RECORDED_FOR: Duration = Duration::from_secs(60);

/// When the record is first handed over; then after twice as long each time.
const FIRST_AFTER: Duration = Duration::from_secs(2);

/// Most pieces that are recorded.
const MAX_PIECES: u32 = 4096;

/// Most runs of pieces that are handed over.
const MAX_RUNS: usize = 1024;

/// See the module's documentation.
#[derive(Debug)]
pub struct Touches {
    pieces: PieceLength,
    length: u64,
    began: Moment,
    seen: PieceSet,
    runs: Vec<Range<u32>>,
    /// How many pieces were handed over.
    given: u32,
    due: Duration,
}

impl Touches {
    /// An empty record, for a file that is opened now.
    pub const fn new(pieces: PieceLength, length: u64, now: Moment) -> Self {
        Self { pieces, length, began: now, seen: PieceSet::new(), runs: Vec::new(), given: 0, due: FIRST_AFTER }
    }

    /// Records a read.
    pub fn read(&mut self, range: ByteRange, now: Moment) {
        if now.since(self.began) > RECORDED_FOR {
            return;
        }
        for piece in self.pieces.pieces_of(range) {
            if self.seen.len() >= MAX_PIECES || self.seen.contains(PieceIndex(piece)) {
                continue;
            }
            let has_room = self.runs.len() < MAX_RUNS;
            match self.runs.last_mut() {
                Some(last) if last.end == piece => last.end += 1,
                _ if has_room => self.runs.push(piece..piece + 1),
                _ => continue,
            }
            self.seen.insert(PieceIndex(piece));
        }
    }

    /// The whole record, if some of it is new and it is time to report, or this is the `last` time.
    pub fn take(&mut self, last: bool, now: Moment) -> Option<Vec<ByteRange>> {
        let spent = now.since(self.began);
        if self.given == self.seen.len() || (spent < self.due && !last) {
            return None;
        }
        while self.due <= spent {
            self.due *= 2;
        }
        self.due = self.due.min(RECORDED_FOR.max(spent));
        self.given = self.seen.len();
        let bytes = |run: &Range<u32>| {
            let end = self.pieces.offset(PieceIndex(run.end));
            ByteRange::new(self.pieces.offset(PieceIndex(run.start)), end).clamp_to(self.length)
        };
        Some(self.runs.iter().map(bytes).collect())
    }

    /// Starts over, since another agent was told nothing.
    pub const fn begin_anew(&mut self) {
        self.given = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 1 << 17;

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(100 + seconds)
    }

    fn touches(length: u64) -> Touches {
        Touches::new(PieceLength::from_log2(17).unwrap(), length, at(0))
    }

    fn range(first: u64, count: u64) -> ByteRange {
        ByteRange::new(first * PIECE, (first + count) * PIECE)
    }

    #[test]
    fn first_touches_are_told_in_their_order_once_they_grow_and_at_the_end() {
        let mut touches = touches(100 * PIECE + 7);
        touches.read(ByteRange::new(90 * PIECE + 5, 91 * PIECE + 1), at(0));
        touches.read(range(3, 2), at(1));
        touches.read(range(91, 1), at(1));
        assert_eq!(touches.take(false, at(1)), None, "not yet");
        assert_eq!(touches.take(false, at(2)), Some(vec![range(90, 2), range(3, 2)]));
        assert_eq!(touches.take(true, at(3)), None, "nothing new");
        touches.read(ByteRange::new(100 * PIECE, 100 * PIECE + 7), at(3));
        assert_eq!(touches.take(false, at(3)), None);
        let all = Some(vec![range(90, 2), range(3, 2), ByteRange::new(100 * PIECE, 100 * PIECE + 7)]);
        assert_eq!(touches.take(true, at(3)), all, "its reader is gone");
        touches.read(range(50, 1), at(61));
        assert_eq!(touches.take(true, at(61)), None, "that is no start any more");
        touches.begin_anew();
        assert_eq!(touches.take(false, at(70)), all, "another agent");
    }

    #[test]
    fn it_is_told_ever_more_seldom() {
        let mut touches = touches(10_000 * PIECE);
        let mut told = Vec::new();
        for second in 0..100 {
            touches.read(range(second * 7, 1), at(second));
            if touches.take(false, at(second)).is_some() {
                told.push(second);
            }
        }
        assert_eq!(told, [2, 4, 8, 16, 32, 60]);
    }

    #[test]
    fn it_is_bounded_whatever_is_read() {
        let mut touches = touches(1 << 40);
        touches.read(ByteRange::new(0, 1 << 34), at(0));
        assert_eq!(touches.take(true, at(0)), Some(vec![range(0, u64::from(MAX_PIECES))]));
        let mut touches = self::touches(1 << 40);
        (0..10_000).for_each(|number| touches.read(range(number * 2, 1), at(0)));
        assert_eq!(touches.take(true, at(0)).unwrap().len(), MAX_RUNS);
    }
}
