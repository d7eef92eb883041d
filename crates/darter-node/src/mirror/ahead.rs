//! Which ranges begin with the upstream rather than with the agent.
//!
//! Piece hashes are known from the first piece on, so the agent gives a byte far ahead only after everything before
//! it. Two kinds of readers ask for such bytes:
//!
//! - engines that fetch a layer by several ranges at once (containerd's `concurrent_layer_fetch_buffer`). Together they
//!   read the whole in order. They get their headers at once and wait for the agent: reading past it would cost the
//!   registry a copy for each host;
//! - lazy snapshotters, which read a footer, a table of contents, a file. These read little, and somebody waits for it.
//!   They are given the upstream's bytes.
//!
//! What tells them apart is what was asked for before: a sweep begins at 0, and each further range of it lies a few
//! ranges ahead of an earlier one.
//!
//! Pure: nothing here does I/O.

use std::hash::Hash;

use darter_core::ByteRange;

use crate::mirror::recent::Recent;

/// Blobs whose ranges are remembered.
const MAX_BLOBS: u64 = 1000;
/// Ranges of sweeps remembered of one blob; the oldest goes.
const MAX_RANGES: usize = 32;
/// Ranges of a sweep are asked for this far ahead of each other at most, in lengths of one.
const MAX_PARALLEL: u64 = 32;
/// A longer range is no jump: whoever reads so much wants the rest, too.
const MAX_JUMP: u64 = 16 << 20;

/// Where a byte is, as the agent knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nearness {
    /// Here.
    Held,
    /// Not here, but others may have it: it can be asked for before the bytes before it.
    Within,
    /// It comes only after this many bytes before it.
    After(u64),
}

/// Ranges of sweeps, by blob.
#[derive(Debug)]
pub(crate) struct Asked<K>(Recent<K, Vec<ByteRange>>);

impl<K: Clone + Eq + Hash> Asked<K> {
    pub(crate) fn new() -> Self {
        Self(Recent::new(MAX_BLOBS))
    }

    /// Notes a range, and tells whether it is a jump: no part of a sweep over the blob.
    pub(crate) fn jumps(&mut self, blob: K, range: ByteRange) -> bool {
        let mut ranges = self.0.get(&blob).cloned().unwrap_or_default();
        let reach = range.len().saturating_mul(MAX_PARALLEL);
        let follows = |before: &ByteRange| {
            before.len() > range.len() / 2 && before.start() <= range.start() && range.start() - before.start() <= reach
        };
        let sweeps = range.start() == 0 || ranges.iter().any(follows);
        if !sweeps && range.len() <= MAX_JUMP {
            return true;
        }
        if ranges.len() >= MAX_RANGES {
            ranges.remove(0);
        }
        ranges.push(range);
        self.0.insert(blob, ranges, 1);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Which of these ranges, in this order, are jumps.
    fn jumps(ranges: &[(u64, u64)]) -> Vec<bool> {
        let mut asked = Asked::new();
        ranges.iter().map(|(start, end)| asked.jumps("blob", ByteRange::new(*start, *end))).collect()
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
    }
}
