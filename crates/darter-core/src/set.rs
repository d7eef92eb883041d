//! Sets of pieces, as one bit per piece.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::piece::PieceIndex;

/// A set of pieces of one blob. Grows as needed: a blob's length may not be known yet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
pub struct PieceSet {
    words: Vec<u64>,
    count: u32,
}

impl PieceSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { words: Vec::new(), count: 0 }
    }

    /// The set of the first `count` pieces.
    pub fn full(count: u32) -> Self {
        let mut words = vec![u64::MAX; (count / 64) as usize];
        if !count.is_multiple_of(64) {
            words.push((1 << (count % 64)) - 1);
        }
        Self { words, count }
    }

    /// Adds a piece; false if it was there already.
    pub fn insert(&mut self, piece: PieceIndex) -> bool {
        let (word, bit) = position(piece);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let fresh = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u32::from(fresh);
        fresh
    }

    /// Removes a piece; false if it was not there.
    pub fn remove(&mut self, piece: PieceIndex) -> bool {
        let (word, bit) = position(piece);
        let Some(slot) = self.words.get_mut(word) else { return false };
        let present = *slot & bit != 0;
        *slot &= !bit;
        self.count -= u32::from(present);
        present
    }

    /// True if the piece is in the set.
    pub fn contains(&self, piece: PieceIndex) -> bool {
        let (word, bit) = position(piece);
        self.words.get(word).is_some_and(|slot| slot & bit != 0)
    }

    /// How many pieces the set has.
    pub const fn len(&self) -> u32 {
        self.count
    }

    /// True if the set has none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The pieces in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.words
            .iter()
            .enumerate()
            .flat_map(|(at, &word)| Bits(word).map(move |bit| PieceIndex(at as u32 * 64 + bit)))
    }

    /// The pieces as runs of consecutive ones, in ascending order.
    pub fn runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut at = PieceIndex(0);
        std::iter::from_fn(move || {
            let first = self.first_from(at)?;
            at = self.first_missing_from(first);
            Some(first.0..at.0)
        })
    }

    /// The first piece at or after `from` that is in the set.
    pub fn first_from(&self, from: PieceIndex) -> Option<PieceIndex> {
        let (begin, _) = position(from);
        let behind = u64::MAX << (from.0 % 64);
        let rest = self.words.get(begin..)?.iter().enumerate();
        let mut found = rest.map(|(at, word)| (at, if at == 0 { word & behind } else { *word }));
        let (at, word) = found.find(|(_, word)| *word != 0)?;
        Some(PieceIndex((begin + at) as u32 * 64 + word.trailing_zeros()))
    }

    /// Adds every piece of `other`.
    pub fn union_with(&mut self, other: &Self) {
        if other.words.len() > self.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine |= theirs;
        }
        self.recount();
    }

    /// True if `other` has a piece that this set lacks.
    pub fn lacks_some_of(&self, other: &Self) -> bool {
        other.words.iter().enumerate().any(|(at, &theirs)| theirs & !self.words.get(at).copied().unwrap_or(0) != 0)
    }

    /// The pieces of this set that `other` lacks, in ascending order.
    pub fn difference<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = PieceIndex> + 'a {
        self.words.iter().enumerate().flat_map(|(at, &mine)| {
            let left = mine & !other.words.get(at).copied().unwrap_or(0);
            Bits(left).map(move |bit| PieceIndex(at as u32 * 64 + bit))
        })
    }

    /// The first piece at or after `from` that is not in the set.
    pub fn first_missing_from(&self, from: PieceIndex) -> PieceIndex {
        let mut at = from.0;
        loop {
            let (word, _) = position(PieceIndex(at));
            let Some(&slot) = self.words.get(word) else { return PieceIndex(at) };
            let rest = !slot >> (at % 64);
            if rest != 0 {
                return PieceIndex(at + rest.trailing_zeros());
            }
            at = (at / 64 + 1) * 64;
        }
    }

    /// The first piece at or after `from` that is neither in this set nor in `other`.
    pub fn first_missing_with(&self, other: &Self, from: PieceIndex) -> PieceIndex {
        let mut at = from;
        loop {
            let next = other.first_missing_from(self.first_missing_from(at));
            if next == at {
                return at;
            }
            at = next;
        }
    }

    /// How many pieces at or after `from` are in the set.
    pub fn count_from(&self, from: PieceIndex) -> u32 {
        let (word, _) = position(from);
        let Some((first, rest)) = self.words.get(word..).and_then(<[u64]>::split_first) else { return 0 };
        (first >> (from.0 % 64)).count_ones() + rest.iter().map(|word| word.count_ones()).sum::<u32>()
    }

    /// Bytes of memory behind the set, with spare room.
    pub const fn memory(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }

    /// The bits, 64 pieces to a word, lowest piece in the lowest bit.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    fn recount(&mut self) {
        self.count = self.words.iter().map(|word| word.count_ones()).sum();
    }
}

impl From<Vec<u64>> for PieceSet {
    fn from(words: Vec<u64>) -> Self {
        let mut set = Self { words, count: 0 };
        set.recount();
        set
    }
}

impl From<PieceSet> for Vec<u64> {
    fn from(set: PieceSet) -> Self {
        set.words
    }
}

/// Equality of content: trailing empty words don't count.
impl PartialEq for PieceSet {
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count && !self.lacks_some_of(other)
    }
}

impl Eq for PieceSet {}

impl FromIterator<PieceIndex> for PieceSet {
    fn from_iter<I: IntoIterator<Item = PieceIndex>>(pieces: I) -> Self {
        let mut set = Self::new();
        for piece in pieces {
            set.insert(piece);
        }
        set
    }
}

const fn position(piece: PieceIndex) -> (usize, u64) {
    (piece.as_usize() / 64, 1 << (piece.0 % 64))
}

/// The set bits of a word, lowest first.
struct Bits(u64);

impl Iterator for Bits {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_missing_skips_full_words() {
        let mut set = PieceSet::full(130);
        assert_eq!(set.first_missing_from(PieceIndex(0)), PieceIndex(130));
        set.remove(PieceIndex(70));
        assert_eq!(set.first_missing_from(PieceIndex(0)), PieceIndex(70));
        assert_eq!(set.first_missing_from(PieceIndex(71)), PieceIndex(130));
        assert_eq!(set.first_missing_from(PieceIndex(500)), PieceIndex(500));
    }

    #[test]
    fn runs_are_the_pieces_without_their_gaps() {
        let runs = |set: &PieceSet| set.runs().collect::<Vec<_>>();
        assert_eq!(runs(&PieceSet::new()), []);
        for count in [1, 63, 64, 65, 128] {
            let full = PieceSet::full(count);
            assert!(full.runs().eq(std::iter::once(0..count)), "{count}");
            assert_eq!((full.len(), full.iter().count()), (count, count as usize));
        }
        let set: PieceSet = [3, 62, 63, 64, 65, 200].map(PieceIndex).into_iter().collect();
        assert_eq!(runs(&set), [3..4, 62..66, 200..201]);
        assert_eq!(set.first_from(PieceIndex(66)), Some(PieceIndex(200)));
        assert_eq!((set.first_from(PieceIndex(201)), set.first_from(PieceIndex(9000))), (None, None));
    }

    #[test]
    fn difference_and_equality_ignore_trailing_room() {
        let mut long = PieceSet::full(3);
        long.insert(PieceIndex(200));
        long.remove(PieceIndex(200));
        assert_eq!(long, PieceSet::full(3));
        let one: PieceSet = [PieceIndex(1)].into_iter().collect();
        assert_eq!(long.difference(&one).collect::<Vec<_>>(), [PieceIndex(0), PieceIndex(2)]);
        assert!(one.lacks_some_of(&long));
        assert!(!long.lacks_some_of(&one));
    }
}
