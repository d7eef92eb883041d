//! Which ranges are lone: no part of a reading of everything, so that the pieces that they touch are fetched and no others. And which
//! of them begin with the upstream rather than with the agent.
//!
//! The reader of the origin jumps to what is waited for. An older agent does not, and some origins give no ranges; then the agent gives a
//! byte far ahead only after everything before it. Two kinds of readers ask for such bytes:
//!
//! - engines that fetch a layer by several ranges at once (containerd's `concurrent_layer_fetch_buffer`). Together they
//!   read the whole in order. They get their headers at once and wait for the agent: reading past it would cost the
//!   registry a copy for each host;
//! - lazy snapshotters, which read a footer, a table of contents, a file. These read little, and somebody waits for it.
//!   They are given the upstream's bytes where the agent can't jump.
//!
//! Earlier requests tell them apart: a sweep begins at 0, and each further range of it goes on where an earlier one ended, or
//! lies a few steps of its length ahead. Only the last step may be shorter. Engines that name no last byte (containerd) ask
//! for everything from each step on.
//!
//! Ranges that are asked for at the same time arrive in any order, and the last one of a sweep looks like a footer. So a request for the
//! blob's first bytes counts from its arrival on, though nothing is known of the blob yet; and the first range that looks lone is
//! looked at once more after [`ORDER_TIMEOUT`]. A reader of lone ranges waits for that once.
//!
//! Pure: nothing here does I/O.

use std::hash::Hash;
use std::time::Duration;

use darter_core::ByteRange;
use darter_core::recent::Recent;

/// Blobs whose ranges are remembered.
const MAX_BLOBS: u64 = 1000;
/// Ranges of sweeps remembered of one blob; the oldest goes.
const MAX_RANGES: usize = 32;
/// Ranges of a sweep are asked for this far ahead of each other at most, in lengths of one.
const MAX_PARALLEL: u64 = 32;
/// Shorter ranges than this are no steps of a sweep: too many starts would look like the next one's.
const MIN_STEP: u64 = 64 << 10;
/// A longer range from 0 on is the beginning of a sweep.
const MAX_BEGINNING: u64 = 4 << 20;
/// A longer range is no jump: its reader wants the rest, too.
const MAX_JUMP: u64 = 16 << 20;

/// How much later a range may arrive than one that it was asked for before.
pub(crate) const ORDER_TIMEOUT: Duration = Duration::from_millis(10);

/// A range of a blob as a reader asks for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(crate) range: ByteRange,
    /// True if it has no last byte: everything from its start on.
    pub(crate) open_ended: bool,
}

/// The judgement on a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// It is a part of a reading of everything.
    Sweep,
    Lone,
    /// It looks lone, and may turn out to be of a sweep whose beginning has yet to arrive: judge it again.
    Unsure,
}

/// Ranges that were asked for, by blob.
#[derive(Debug)]
pub(crate) struct AskedRanges<K>(Recent<K, Ranges>);

/// The ranges of one blob.
#[derive(Clone, Debug, Default)]
struct Ranges {
    /// The parts of sweeps.
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

    /// Notes that a blob is asked for from its first byte on, up to `end`, which may lie past the blob's.
    pub(crate) fn begins(&mut self, blob: K, end: u64) {
        let mut ranges = self.0.get(&blob).cloned().unwrap_or_default();
        ranges.add(ByteRange::new(0, end));
        self.0.insert(blob, ranges, 1);
    }

    /// Notes what is asked of a blob of this length, and judges whether it is lone: no part of a sweep over the blob as far as
    /// is known. A range that could be the first of a sweep may be all that its reader wants; if it is short it counts as lone, too. `again` is whether
    /// it was judged before.
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

/// True if a range goes on with the sweep that an earlier one is part of.
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

/// True if a range is what is left of a blob after ranges as long as `before`, which may come in any order.
fn is_last_of(before: ByteRange, range: ByteRange, length: u64) -> bool {
    let step = before.len();
    let is_step = step >= MIN_STEP && before.start().is_multiple_of(step) && before.end() < length;
    is_step && range.end() == length && range.len() <= step && range.start().is_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// True if a range is lone in the end, if nothing arrives before it is judged again.
    fn is_lone(asked: &mut AskedRanges<&str>, stretch: Stretch, length: u64) -> bool {
        let first = asked.judge("blob", stretch, length, false);
        let judged = if first == Judged::Unsure { asked.judge("blob", stretch, length, true) } else { first };
        judged == Judged::Lone
    }

    /// Which of these ranges of a blob of 1,000 MiB, in this order, are jumps.
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
        // Requests at the same time come in any order.
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

    /// The same for `bytes=START-`.
    fn open_ended_jumps(starts: &[u64], length: u64) -> Vec<bool> {
        let mut asked = AskedRanges::new();
        let stretch = |start| Stretch { range: ByteRange::new(start, length), open_ended: true };
        starts.iter().map(|start| is_lone(&mut asked, stretch(*start), length)).collect()
    }

    /// containerd 2.4 asks for all from each of its steps on, and ends a request when the step is over.
    #[test]
    fn the_short_rest_after_an_engines_steps_is_no_jump() {
        let starts: Vec<_> = (0..10).map(|n| n * 16 * MIB).collect();
        for rest in [1, 25_884, MIB, 16 * MIB] {
            assert!(open_ended_jumps(&starts, 9 * 16 * MIB + rest).iter().all(|jump| !jump), "{rest}");
        }
        assert_eq!(open_ended_jumps(&[0, 16 * MIB], 16 * MIB + 51), [false, false]);
        // Nobody sweeps: a download that goes on near the end.
        assert_eq!(open_ended_jumps(&[99 * MIB], 100 * MIB), [true]);
        // Other engines name the last byte; parallel requests come in any order.
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

    /// containerd asks for all of a layer without any range, and at the same time for all from each step on.
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
