//! Decides which requested ranges are *lone*: not part of a read of the whole blob, so that only the pieces that they touch are fetched. And which
//! of them begin with the upstream rather than with the agent.
//!
//! The reader of the origin jumps to the range that is waited for. An older agent does not, and some origins serve no ranges; then the agent delivers a
//! byte far ahead only after everything before it. Two kinds of readers ask for such bytes:
//!
//! - engines that fetch a layer by several ranges at once (containerd's `concurrent_layer_fetch_buffer`). Together the ranges
//!   cover the whole blob in order. These engines get their headers at once and wait for the agent: if it were bypassed, the
//!   registry would be read once for each host;
//! - lazy snapshotters, which read a footer, a table of contents, a file. These read little, and a program waits for it.
//!   They get the upstream's bytes if the agent can't jump.
//!
//! Earlier requests tell the two apart: a *sweep* begins at 0, and each further range of it begins where an earlier one ended, or
//! a few lengths ahead. Only the last range may be shorter. Some engines (containerd) ask
//! for everything from the beginning of each range on.
//!
//! Concurrent requests arrive in any order, and the last range of a sweep looks like a footer. So a request for the
//! blob's first bytes counts from its arrival on, even before anything is known of the blob; and the first range that looks lone is
//! judged again after [`ORDER_TIMEOUT`]. A reader of lone ranges waits for that once.
//!
//! Pure: nothing here does I/O.

use std::hash::Hash;
use std::time::Duration;

use darter_core::ByteRange;
use darter_core::recent::Recent;

/// How many blobs' ranges are remembered.
const MAX_BLOBS: u64 = 1000;
/// How many ranges of sweeps are remembered for one blob; the oldest is dropped first.
const MAX_RANGES: usize = 32;
/// How far ahead of each other the ranges of a sweep are requested at most, in lengths of one range.
const MAX_PARALLEL: u64 = 32;
/// A range of a sweep has at least this many bytes. Shorter ranges would make too many offsets look like the next one.
const MIN_STEP: u64 = 64 << 10;
/// A range from 0 on that has more bytes is the beginning of a sweep.
const MAX_BEGINNING: u64 = 4 << 20;
/// A range with more bytes is not lone: its reader probably wants the rest, too.
const MAX_JUMP: u64 = 16 << 20;

/// How much later a range may arrive than another one that was requested after it.
pub(crate) const ORDER_TIMEOUT: Duration = Duration::from_millis(10);

/// A requested range of a blob.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(crate) range: ByteRange,
    /// True if the request names no last byte and asks for everything from its start on.
    pub(crate) open_ended: bool,
}

/// The judgement on a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// It is part of a read of the whole blob.
    Sweep,
    Lone,
    /// It looks lone, but may belong to a sweep whose beginning has yet to arrive: judge it again.
    Unsure,
}

/// The requested ranges, by blob.
#[derive(Debug)]
pub(crate) struct AskedRanges<K>(Recent<K, Ranges>);

/// The ranges of one blob.
#[derive(Clone, Debug, Default)]
struct Ranges {
    /// Ranges that belong to sweeps.
    of_sweeps: Vec<ByteRange>,
    /// True if there was a lone range.
    had_lone: bool,
}

impl Ranges {
    fn add(&mut self, range: ByteRange) {
        if self.of_sweeps.contains(&range) {
            return;
        }
        if self.of_sweeps.len() >= MAX_RANGES {
            self.of_sweeps.remove(0);
        }
        self.of_sweeps.push(range);
    }
}

impl<K: Clone + Eq + Hash> AskedRanges<K> {
    pub(crate) fn new() -> Self {
        Self(Recent::new(MAX_BLOBS))
    }

    /// Notes a request for a blob from its first byte up to `end`, which may lie beyond the blob's end.
    pub(crate) fn begins(&mut self, blob: K, end: u64) {
        let mut ranges = self.0.get(&blob).cloned().unwrap_or_default();
        ranges.add(ByteRange::new(0, end));
        self.0.insert(blob, ranges, 1);
    }

    /// Notes a request for a range of a blob of this length, and judges whether it is lone: not part of a sweep as far as
    /// is known. A short range that could be the first of a sweep counts as lone, too, since it may be all that its reader wants. `again` is true if
    /// the range was judged before.
    pub(crate) fn judge(&mut self, blob: K, asked: Stretch, length: u64, again: bool) -> Judged {
        let mut ranges = self.0.get(&blob).cloned().unwrap_or_default();
        let range = asked.range;
        let begins = range.start() == 0;
        let goes_on = || ranges.of_sweeps.iter().any(|before| follows(before.clamp_to(length), asked, length));
        let judged = if !begins && range.len() <= MAX_JUMP && !goes_on() {
            if !again && !ranges.had_lone {
                return Judged::Unsure;
            }
            ranges.had_lone = true;
            Judged::Lone
        } else {
            ranges.add(range);
            let is_short = begins && range.len() <= MAX_BEGINNING && !asked.open_ended && range.end() < length;
            if is_short { Judged::Lone } else { Judged::Sweep }
        };
        self.0.insert(blob, ranges, 1);
        judged
    }
}

/// True if `asked` continues the sweep to which the earlier range belongs.
fn follows(before: ByteRange, asked: Stretch, length: u64) -> bool {
    let range = asked.range;
    if before.start() > range.start() {
        return false;
    }
    let ahead = range.start() - before.start();
    let is_step = range.len() == before.len()
        && ahead.is_multiple_of(range.len())
        && ahead <= range.len().saturating_mul(MAX_PARALLEL);
    let ends_like = asked.open_ended && before.end() == length;
    is_step || range.start() == before.end() || ends_like || is_last_of(before, range, length)
}

/// True if `range` is the rest of a blob after ranges of the length of `before`, in whatever order they arrived.
fn is_last_of(before: ByteRange, range: ByteRange, length: u64) -> bool {
    let step = before.len();
    let is_step = step >= MIN_STEP && before.start().is_multiple_of(step) && before.end() < length;
    is_step && range.end() == length && range.len() <= step && range.start().is_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The final judgement, if nothing arrives before the range is judged again.
    fn is_lone(asked: &mut AskedRanges<&str>, stretch: Stretch, length: u64) -> bool {
        let first = asked.judge("blob", stretch, length, false);
        let judged = if first == Judged::Unsure { asked.judge("blob", stretch, length, true) } else { first };
        judged == Judged::Lone
    }

    /// For ranges of a blob of 1,000 MiB, requested in this order: which are lone.
    fn jumps(ranges: &[(u64, u64)]) -> Vec<bool> {
        let mut asked = AskedRanges::new();
        let jumps = |&(start, end): &(u64, u64)| {
            let asked_for = Stretch { range: ByteRange::new(start, end), open_ended: false };
            is_lone(&mut asked, asked_for, 1000 * MIB) && start > 0
        };
        ranges.iter().map(jumps).collect()
    }

    #[test]
    fn an_engine_that_sweeps_over_a_blob_does_not_jump() {
        let chunks: Vec<_> = (0..40).map(|n| (n * 16 * MIB, (n + 1) * 16 * MIB)).collect();
        assert!(jumps(&chunks).iter().all(|jump| !jump));
        // Concurrent requests arrive in any order.
        let mixed = [(0, MIB), (5 * MIB, 6 * MIB), (2 * MIB, 3 * MIB), (7 * MIB, 8 * MIB), (MIB, 2 * MIB)];
        assert!(jumps(&mixed).iter().all(|jump| !jump));
        assert_eq!(jumps(&[(0, 1000 * MIB), (900 * MIB, 1000 * MIB)]), [false, false]);
    }

    #[test]
    fn a_lazy_snapshotters_footer_table_and_files_are_jumps() {
        let (footer, table) = ((300 * MIB - 51, 300 * MIB), (299 * MIB, 300 * MIB - 51));
        let file = [(150 * MIB, 151 * MIB), (151 * MIB, 152 * MIB)];
        assert_eq!(jumps(&[(0, 1), footer, table, file[0], file[1]]), [false, true, true, true, true]);
        // The first file of the layer is read, then one of twice its size in the middle.
        assert_eq!(jumps(&[(0, 1_150_000), (63_050_000, 65_200_000)]), [false, true]);
    }

    /// The same for requests of the form `bytes=START-`.
    fn open_ended_jumps(starts: &[u64], length: u64) -> Vec<bool> {
        let mut asked = AskedRanges::new();
        let stretch = |start| Stretch { range: ByteRange::new(start, length), open_ended: true };
        starts.iter().map(|start| is_lone(&mut asked, stretch(*start), length)).collect()
    }

    /// containerd 2.4 asks for everything from the beginning of each range, and ends the request where the range ends.
    #[test]
    fn the_short_rest_after_an_engines_steps_is_no_jump() {
        let starts: Vec<_> = (0..10).map(|n| n * 16 * MIB).collect();
        for rest in [1, 25_884, MIB, 16 * MIB] {
            assert!(open_ended_jumps(&starts, 9 * 16 * MIB + rest).iter().all(|jump| !jump), "{rest}");
        }
        assert_eq!(open_ended_jumps(&[0, 16 * MIB], 16 * MIB + 51), [false, false]);
        // Not a sweep: a download that is resumed near the end.
        assert_eq!(open_ended_jumps(&[99 * MIB], 100 * MIB), [true]);
        // Other engines name the last byte; concurrent requests arrive in any order.
        let step = 7 * MIB;
        assert_eq!(jumps(&[(0, step), (142 * step, 1000 * MIB), (step, 2 * step)]), [false; 3]);
        assert_eq!(jumps(&[(0, step), (142 * step + 1, 1000 * MIB)]), [false, true]);
    }

    #[test]
    fn a_short_beginning_is_lone_until_a_sweep_goes_on_with_it() {
        let mut asked = AskedRanges::new();
        let mut is_lone = |start, end, open_ended| {
            is_lone(&mut asked, Stretch { range: ByteRange::new(start, end), open_ended }, 100 * MIB)
        };
        assert!(is_lone(0, 1, false) && is_lone(0, MIB, false));
        assert!(!is_lone(MIB, 2 * MIB, false) && !is_lone(0, 16 * MIB, false));
        assert!(!is_lone(0, 100 * MIB, true) && !is_lone(0, 100 * MIB, false));
    }

    #[test]
    fn a_footer_is_a_jump_though_an_engine_sweeps_over_the_same_blob() {
        let (footer, table) = ((1000 * MIB - 51, 1000 * MIB), (999 * MIB + 17, 1000 * MIB - 51));
        let whole = [(0, 1000 * MIB), (16 * MIB, 1000 * MIB), (32 * MIB, 1000 * MIB), footer, table];
        assert_eq!(jumps(&whole), [false, false, false, true, true]);
        assert_eq!(jumps(&[(0, 16 * MIB), (16 * MIB, 32 * MIB), footer]), [false, false, true]);
    }

    /// containerd asks for a whole layer without a range, and at the same time for everything from each offset of its ranges.
    #[test]
    fn the_last_step_that_arrives_before_the_first_one_is_judged_again() {
        let length = 100 * MIB;
        let rest = Stretch { range: ByteRange::new(96 * MIB, length), open_ended: true };
        let mut asked = AskedRanges::new();
        assert_eq!(asked.judge("blob", rest, length, false), Judged::Unsure);
        asked.begins("blob", u64::MAX);
        assert_eq!(asked.judge("blob", rest, length, true), Judged::Sweep);
        assert_eq!(asked.judge("other", rest, length, false), Judged::Unsure, "of another blob");
        // Other engines name the last byte.
        let mut asked = AskedRanges::new();
        let step = Stretch { range: ByteRange::new(64 * MIB, 80 * MIB), open_ended: false };
        assert_eq!(asked.judge("blob", step, length, false), Judged::Unsure);
        asked.begins("blob", 16 * MIB);
        assert_eq!(asked.judge("blob", step, length, true), Judged::Sweep);
        let short = Stretch { range: ByteRange::new(0, 16 * MIB), open_ended: false };
        assert_eq!(asked.judge("blob", short, length, false), Judged::Sweep, "the beginning itself");
    }

    #[test]
    fn a_reader_of_lone_ranges_waits_once() {
        let mut asked = AskedRanges::new();
        let footer = Stretch { range: ByteRange::new(100 * MIB - 51, 100 * MIB), open_ended: false };
        let file = Stretch { range: ByteRange::new(MIB + 1, 2 * MIB), open_ended: false };
        assert_eq!(asked.judge("blob", footer, 100 * MIB, false), Judged::Unsure);
        assert_eq!(asked.judge("blob", footer, 100 * MIB, true), Judged::Lone);
        assert_eq!(asked.judge("blob", file, 100 * MIB, false), Judged::Lone);
    }
}
