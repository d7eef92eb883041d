//! How many neighbours hold each piece, and which pieces are open: wanted, and requested from no peer.
//!
//! Open pieces stand in buckets by their number of holders, each a bit set, so that "the rarest open piece that this
//! holder has" is an intersection of words and every change costs constant time. Invariant: a piece is in the bucket
//! of its count exactly when it is open.

use std::ops::Range;

use darter_core::{PieceIndex, PieceSet};

use crate::random::Random;

#[derive(Debug, Default)]
pub(super) struct Rarity {
    holders: Vec<u16>,
    open: PieceSet,
    buckets: Vec<PieceSet>,
    /// The number of open pieces that a neighbour holds: all that are not in the first bucket.
    to_be_had: u32,
}

impl Rarity {
    pub(super) fn holders(&self, piece: PieceIndex) -> u16 {
        self.holders.get(piece.as_usize()).copied().unwrap_or(0)
    }

    pub(super) const fn open(&self) -> &PieceSet {
        &self.open
    }

    pub(super) fn set_open(&mut self, piece: PieceIndex, open: bool) {
        let changed = if open { self.open.insert(piece) } else { self.open.remove(piece) };
        if changed {
            self.place(piece, open);
        }
    }

    pub(super) fn add_holder(&mut self, piece: PieceIndex) {
        if piece.as_usize() >= self.holders.len() {
            self.holders.resize(piece.as_usize() + 1, 0);
        }
        self.change(piece, |count| count + 1);
    }

    pub(super) fn remove_holder(&mut self, piece: PieceIndex) {
        self.change(piece, |count| count - 1);
    }

    fn change(&mut self, piece: PieceIndex, by: impl Fn(u16) -> u16) {
        let open = self.open.contains(piece);
        if open {
            self.place(piece, false);
        }
        let count = &mut self.holders[piece.as_usize()];
        *count = by(*count);
        if open {
            self.place(piece, true);
        }
    }

    fn place(&mut self, piece: PieceIndex, present: bool) {
        let bucket = usize::from(self.holders(piece));
        if bucket >= self.buckets.len() {
            self.buckets.resize_with(bucket + 1, PieceSet::new);
        }
        let is_held = u32::from(bucket > 0);
        if present {
            self.buckets[bucket].insert(piece);
            self.to_be_had += is_held;
        } else {
            self.buckets[bucket].remove(piece);
            self.to_be_had -= is_held;
        }
    }

    /// True if some open piece has a holder.
    pub(super) const fn any_to_be_had(&self) -> bool {
        self.to_be_had > 0
    }

    /// True if there is an open piece that no neighbour holds.
    pub(super) fn any_unheld(&self) -> bool {
        self.buckets.first().is_some_and(|unheld| !unheld.is_empty())
    }

    /// True if some open piece is in `held`.
    pub(super) fn any_open_in(&self, held: &PieceSet) -> bool {
        self.open.words().iter().zip(held.words()).any(|(open, held)| open & held != 0)
    }

    /// The rarest open piece of `range` in `held` that `accept` takes, ties at random.
    pub(super) fn rarest(
        &self,
        held: &PieceSet,
        range: &Range<u32>,
        random: &mut Random,
        mut accept: impl FnMut(PieceIndex) -> bool,
    ) -> Option<PieceIndex> {
        let begin = (range.start / 64) as usize;
        for bucket in self.buckets.iter().skip(1).filter(|bucket| !bucket.is_empty()) {
            let end = bucket.words().len().min(held.words().len()).min(range.end.div_ceil(64) as usize);
            if begin >= end {
                continue;
            }
            let first = begin + random.below(end - begin);
            for at in (first..end).chain(begin..first) {
                let mut bits = bucket.words()[at] & held.words()[at] & bits_of(range, at as u32);
                let turn = if bits == 0 { 0 } else { random.below(64) as u32 };
                bits = bits.rotate_right(turn);
                while bits != 0 {
                    let bit = (bits.trailing_zeros() + turn) % 64;
                    bits &= bits - 1;
                    let piece = PieceIndex(at as u32 * 64 + bit);
                    if accept(piece) {
                        return Some(piece);
                    }
                }
            }
        }
        None
    }
}

/// The pieces of `range` among the 64 of a word of a [`PieceSet`].
fn bits_of(range: &Range<u32>, word: u32) -> u64 {
    let first = u64::from(word) * 64;
    let from = |piece: u32| match u64::from(piece).saturating_sub(first) {
        behind @ 0..64 => u64::MAX << behind,
        _ => 0,
    };
    from(range.start) & !from(range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_the_bits_of_the_range_and_no_others() {
        for (range, word, bits) in [
            (0..u32::MAX, 0, u64::MAX),
            (0..u32::MAX, 1 << 20, u64::MAX),
            (3..5, 0, 0b11000),
            (3..5, 1, 0),
            (60..70, 0, 0xf << 60),
            (60..70, 1, 0b11_1111),
            (60..70, 2, 0),
            (64..128, 1, u64::MAX),
            (5..5, 0, 0),
        ] {
            assert_eq!(bits_of(&range, word), bits, "{range:?} in word {word}");
        }
    }
}
