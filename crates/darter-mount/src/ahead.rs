//! Prefetching for readers, by their pattern. Pure.
//!
//! A reader that continues where it stopped is a *stream*: after [`MIN_RUN`] bytes in order, data is prefetched for it, first [`MIN_WINDOW`], then twice
//! as much each time it has read half of that, up to [`MAX_WINDOW`]. For a reader that jumps, only what it touches is fetched. Several
//! streams in one file (threads, processes) are distinguished by their positions.
//!
//! The kernel reads 128 KiB at a time, in an order that may differ from the program's: a read a little behind or ahead of a stream
//! belongs to the stream.

use darter_core::ByteRange;

/// How many bytes in order make a stream: more than one read of the kernel.
pub const MIN_RUN: u64 = 256 << 10;

/// The first window, and the least that is worth a request.
pub const MIN_WINDOW: u64 = 256 << 10;

/// The longest window: a second at 128 Mbit/s.
pub const MAX_WINDOW: u64 = 16 << 20;

/// How far reads of a stream may be out of order.
const SLACK: u64 = 512 << 10;

/// How many streams are remembered; the one that was read least recently is forgotten.
const MAX_STREAMS: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Stream {
    /// The offset at which it began.
    start: u64,
    /// The offset after the last byte that was read.
    at: u64,
    /// How many bytes were read.
    read: u64,
    /// The offset after the last byte that was prefetched.
    asked: u64,
    /// How far ahead is prefetched; zero if nothing is.
    window: u64,
}

/// The readers of one file.
#[derive(Debug)]
pub struct Ahead {
    length: u64,
    /// The most recently used stream is at the end.
    streams: Vec<Stream>,
}

impl Ahead {
    /// No reads yet, for a file of this length.
    pub const fn new(length: u64) -> Self {
        Self { length, streams: Vec::new() }
    }

    /// Notes a read of `range`. Returns the range that should be prefetched for it, if any.
    pub fn read(&mut self, range: ByteRange) -> Option<ByteRange> {
        let follows = |stream: &Stream| {
            let lowest = stream.at.saturating_sub(SLACK).max(stream.start);
            (lowest..=stream.at + SLACK).contains(&range.start())
        };
        let Some(found) = self.streams.iter().rposition(follows) else {
            if self.streams.len() >= MAX_STREAMS {
                self.streams.remove(0);
            }
            let (start, at, read) = (range.start(), range.end(), range.len());
            self.streams.push(Stream { start, at, read, asked: at, window: 0 });
            return None;
        };
        let mut stream = self.streams.remove(found);
        stream.at = stream.at.max(range.end());
        stream.read += range.len();
        let ahead = stream.next(self.length);
        self.streams.push(stream);
        ahead
    }
}

impl Stream {
    fn next(&mut self, length: u64) -> Option<ByteRange> {
        if self.read <= MIN_RUN {
            return None;
        }
        if self.window == 0 {
            self.window = MIN_WINDOW;
        } else if self.asked.saturating_sub(self.at) * 2 > self.window {
            return None;
        } else {
            self.window = (self.window * 2).min(MAX_WINDOW);
        }
        let range = ByteRange::new(self.asked.max(self.at), self.at + self.window).clamp_to(length);
        self.asked = self.asked.max(range.end());
        (!range.is_empty()).then_some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u64 = 128 << 10;
    const GIB: u64 = 1 << 30;

    fn at(number: u64) -> ByteRange {
        ByteRange::new(number * READ, (number + 1) * READ)
    }

    #[test]
    fn whoever_jumps_is_given_what_it_touches_and_nothing_more() {
        let mut ahead = Ahead::new(GIB);
        for number in [7, 5000, 90, 6000, 0, 2500, 11, 8000] {
            assert_eq!(ahead.read(at(number)), None, "{number}");
        }
        // A page fault may cause two reads.
        assert_eq!((ahead.read(at(4000)), ahead.read(at(4001))), (None, None));
    }

    #[test]
    fn whoever_reads_in_order_is_fetched_ahead_of_by_ever_more_and_never_twice() {
        let mut ahead = Ahead::new(GIB);
        let (mut asked, mut largest, mut end) = (0, 0, 0);
        for number in 0..2000 {
            let Some(range) = ahead.read(at(number)) else { continue };
            assert!(end == 0 || range.start() == end.max((number + 1) * READ), "{range} after {end}");
            (asked, largest, end) = (asked + 1, largest.max(range.len()), range.end());
            assert!(end - (number + 1) * READ <= MAX_WINDOW);
        }
        assert!(largest >= MAX_WINDOW / 2, "{largest}");
        assert!((10..60).contains(&asked), "{asked} questions for 250 MiB");
    }

    #[test]
    fn the_end_of_the_file_is_the_end_of_what_is_asked_for() {
        let mut ahead = Ahead::new(5 * READ + 7);
        let asked: Vec<_> = (0..6).filter_map(|number| ahead.read(at(number).clamp_to(5 * READ + 7))).collect();
        assert_eq!(asked.last().unwrap().end(), 5 * READ + 7);
    }

    #[test]
    fn several_in_one_file_are_told_apart_and_the_kernels_order_is_no_jump() {
        let mut ahead = Ahead::new(GIB);
        let mut asked = [0, 0];
        for number in 0..100 {
            // In pairs, the later one first.
            let number = number ^ 1;
            for (reader, first) in [0, 4000].into_iter().enumerate() {
                if let Some(range) = ahead.read(at(first + number)) {
                    assert!(range.start() >= first * READ && range.end() <= first * READ + 13 * (2 << 20) + MAX_WINDOW);
                    asked[reader] += 1;
                }
            }
        }
        assert!(asked.iter().all(|asked| (3..20).contains(asked)), "{asked:?}");
    }

    #[test]
    fn of_many_readers_the_latest_are_remembered() {
        let mut ahead = Ahead::new(GIB);
        for number in 0..1000 {
            ahead.read(at(number * 8));
        }
        assert_eq!(ahead.streams.len(), MAX_STREAMS);
    }
}
