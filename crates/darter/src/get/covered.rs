//! Which bytes of a content have arrived: ranges in any order, some more than once.

use std::collections::BTreeMap;

use darter_core::ByteRange;

/// The ranges that have arrived, as their beginnings and ends. No two touch or overlap.
#[derive(Debug, Default)]
pub(super) struct Covered(BTreeMap<u64, u64>);

impl Covered {
    /// Adds a range that has arrived.
    pub(super) fn add(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start(), range.end());
        // From the last range backwards, until one ends before `start`: it does not touch the new one.
        while let Some((&other, &other_end)) = self.0.range(..=end).next_back().filter(|(_, other)| **other >= start) {
            self.0.remove(&other);
            (start, end) = (start.min(other), end.max(other_end));
        }
        self.0.insert(start, end);
    }

    /// The offset of the first byte that has not arrived.
    pub(super) fn prefix(&self) -> u64 {
        self.0.get(&0).copied().unwrap_or(0)
    }

    /// True if exactly the first `length` bytes have arrived.
    pub(super) fn is_all_of(&self, length: u64) -> bool {
        self.prefix() == length && self.0.len() == usize::from(length > 0)
    }

    /// How many bytes have arrived.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// The ranges that have arrived.
    pub(super) fn ranges(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.0.iter().map(|(start, end)| ByteRange::new(*start, *end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ranges: &[(u64, u64)]) -> Covered {
        let mut covered = Covered::default();
        for (start, end) in ranges {
            covered.add(ByteRange::new(*start, *end));
        }
        covered
    }

    #[test]
    fn ranges_that_touch_or_overlap_are_one() {
        let told = |covered: &Covered| covered.ranges().map(|it| (it.start(), it.end())).collect::<Vec<_>>();
        assert_eq!(told(&of(&[(4, 6), (0, 2)])), [(0, 2), (4, 6)]);
        assert_eq!(told(&of(&[(4, 6), (0, 2), (2, 4)])), [(0, 6)]);
        assert_eq!(told(&of(&[(4, 6), (8, 9), (5, 12), (5, 7)])), [(4, 12)]);
        assert_eq!(told(&of(&[(0, 10), (3, 4), (7, 7)])), [(0, 10)]);
        assert_eq!(of(&[(4, 6), (0, 2), (1, 2)]).bytes(), 4);
    }

    #[test]
    fn all_is_from_the_first_byte_to_the_last() {
        assert!(of(&[]).is_all_of(0) && !of(&[]).is_all_of(1));
        assert!(of(&[(5, 9), (0, 5)]).is_all_of(9));
        for short in [of(&[(5, 9), (0, 4)]), of(&[(1, 9)]), of(&[(0, 8)]), of(&[(0, 9), (10, 11)])] {
            assert!(!short.is_all_of(9), "{short:?}");
        }
        assert_eq!((of(&[(1, 9)]).prefix(), of(&[(0, 3), (4, 9)]).prefix()), (0, 3));
    }
}
