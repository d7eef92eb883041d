//! What a blob's pieces must be: one BLAKE3 subtree value per piece, and one root over them.
//!
//! A piece of `2^k` bytes that starts at a multiple of `2^k` is a subtree of the blob's BLAKE3 tree (BLAKE3
//! specification, section 2.1), so its chaining value checks the piece by itself, and the pieces' values merge into
//! exactly the hash that `b3sum` prints for the whole blob. A blob of one piece is the exception that the tree
//! demands: its only piece *is* the root, so its value is the root hash.
//!
//! A manifest grows at its end while the seed reads the origin. Invariants: hashes are only appended, never changed;
//! once the length is known it stays; [`Manifest::root`] exists exactly when length and all hashes are known.

use std::fmt;

use blake3::hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};
use serde::{Deserialize, Serialize};

use crate::piece::{PieceIndex, PieceLength};
use crate::range::ByteRange;

/// A 32-byte BLAKE3 value: of a piece (its subtree's chaining value), or of a whole blob (its root).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PieceHash(pub [u8; 32]);

impl fmt::Display for PieceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PieceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..4]))
    }
}

/// The BLAKE3 hash of bytes at hand, as a root.
pub fn root_of(data: &[u8]) -> PieceHash {
    PieceHash(*blake3::hash(data).as_bytes())
}

/// The value of one piece. `only` says that the piece is the whole blob.
///
/// # Panics
/// When a piece that is not the only one is empty, or is longer than `length`.
pub fn hash_piece(length: PieceLength, piece: PieceIndex, data: &[u8], only: bool) -> PieceHash {
    if only {
        return root_of(data);
    }
    assert!(data.len() as u64 <= length.bytes(), "a piece is no longer than its blob's piece length");
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(length.offset(piece));
    hasher.update(data);
    PieceHash(hasher.finalize_non_root())
}

/// Merges the values of all pieces of a blob, in order, into its root.
pub fn root_of_pieces(hashes: &[PieceHash]) -> PieceHash {
    match hashes {
        [] => root_of(b""),
        [only] => *only,
        _ => {
            let (left, right) = hashes.split_at(left_length(hashes.len()));
            PieceHash(*merge_subtrees_root(&chaining_value(left), &chaining_value(right), Mode::Hash).as_bytes())
        }
    }
}

fn chaining_value(hashes: &[PieceHash]) -> ChainingValue {
    match hashes {
        [only] => only.0,
        _ => {
            let (left, right) = hashes.split_at(left_length(hashes.len()));
            merge_subtrees_non_root(&chaining_value(left), &chaining_value(right), Mode::Hash)
        }
    }
}

/// BLAKE3's trees are left-full: the left subtree takes the largest power of two that leaves something to the right.
const fn left_length(count: usize) -> usize {
    count.next_power_of_two() / 2
}

/// The pieces of one blob, as far as they are known. See the module's text for the invariants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    piece_length: PieceLength,
    length: Option<u64>,
    hashes: Vec<PieceHash>,
}

/// Why a manifest could not take what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Hashes that don't continue where the known ones end.
    #[error("hashes from piece {from} do not continue {known} known ones")]
    Gap {
        /// First piece of the new hashes.
        from: u32,
        /// How many hashes were known.
        known: u32,
    },
    /// A hash that differs from the one already known for that piece.
    #[error("a different hash for piece {0}")]
    Conflict(PieceIndex),
    /// A second length that differs from the first, or one that the known hashes don't fit in.
    #[error("length {got} does not fit what is known of the blob")]
    Length {
        /// The length given.
        got: u64,
    },
    /// More hashes than the length has pieces.
    #[error("more hashes than the blob has pieces")]
    TooMany,
}

impl Manifest {
    /// A manifest that knows no piece yet.
    pub const fn new(piece_length: PieceLength, length: Option<u64>) -> Self {
        Self { piece_length, length, hashes: Vec::new() }
    }

    /// Length of a full piece.
    pub const fn piece_length(&self) -> PieceLength {
        self.piece_length
    }

    /// Length of the blob in bytes, once known.
    pub const fn length(&self) -> Option<u64> {
        self.length
    }

    /// How many pieces the blob has, once its length is known.
    pub fn piece_count(&self) -> Option<u32> {
        self.length.map(|length| self.piece_length.count(length))
    }

    /// How many pieces have a known hash: always the first ones.
    pub fn known(&self) -> u32 {
        u32::try_from(self.hashes.len()).expect("a blob has fewer than 2^32 pieces")
    }

    /// The hashes of the first pieces, in order.
    pub fn hashes(&self) -> &[PieceHash] {
        &self.hashes
    }

    /// The hash of a piece, if known.
    pub fn hash(&self, piece: PieceIndex) -> Option<PieceHash> {
        self.hashes.get(piece.as_usize()).copied()
    }

    /// The bytes of a piece; `None` while the length is unknown and the piece could be the last one.
    pub fn piece_range(&self, piece: PieceIndex) -> Option<ByteRange> {
        match self.length {
            Some(length) => Some(self.piece_length.range(piece, length)),
            // A piece with a known successor is a full one.
            None if piece.0 + 1 < self.known() => Some(self.piece_length.range(piece, u64::MAX)),
            None => None,
        }
    }

    /// Whether length and every hash are known.
    pub fn is_whole(&self) -> bool {
        self.piece_count() == Some(self.known())
    }

    /// The root over all pieces, once all are known.
    pub fn root(&self) -> Option<PieceHash> {
        self.is_whole().then(|| root_of_pieces(&self.hashes))
    }

    /// Learns the blob's length.
    ///
    /// # Errors
    /// [`ManifestError::Length`] when it contradicts what is known.
    pub fn set_length(&mut self, length: u64) -> Result<(), ManifestError> {
        let known = self.length.is_some_and(|before| before != length);
        if known || self.piece_length.count(length) < self.known() {
            return Err(ManifestError::Length { got: length });
        }
        self.length = Some(length);
        Ok(())
    }

    /// Learns the hashes of the pieces from `from` on; ones already known must be the same. Returns how many were new.
    ///
    /// # Errors
    /// [`ManifestError::Gap`], [`ManifestError::Conflict`] or [`ManifestError::TooMany`]; nothing is taken then.
    pub fn extend(&mut self, from: u32, hashes: &[PieceHash]) -> Result<u32, ManifestError> {
        let known = self.known();
        let Some(skip) = known.checked_sub(from) else {
            return Err(ManifestError::Gap { from, known });
        };
        let skip = (skip as usize).min(hashes.len());
        let (old, fresh) = hashes.split_at(skip);
        if let Some(at) = old.iter().zip(&self.hashes[from as usize..]).position(|(a, b)| a != b) {
            return Err(ManifestError::Conflict(PieceIndex(from + at as u32)));
        }
        if self.piece_count().is_some_and(|count| (count - known) < fresh.len() as u32) {
            return Err(ManifestError::TooMany);
        }
        self.hashes.extend_from_slice(fresh);
        Ok(fresh.len() as u32)
    }

    /// Whether `data` is the piece that the manifest vouches for; false for a piece of unknown hash.
    pub fn verifies(&self, piece: PieceIndex, data: &[u8]) -> bool {
        let only = self.piece_count() == Some(1);
        let right_length = self.piece_range(piece).is_some_and(|range| range.len() == data.len() as u64);
        right_length
            && (only || !data.is_empty())
            && self.hash(piece) == Some(hash_piece(self.piece_length, piece, data, only))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest_of(data: &[u8], pieces: PieceLength) -> Manifest {
        let mut manifest = Manifest::new(pieces, Some(data.len() as u64));
        let count = pieces.count(data.len() as u64);
        for (at, piece) in data.chunks(pieces.bytes() as usize).enumerate() {
            let index = PieceIndex(at as u32);
            manifest.extend(index.0, &[hash_piece(pieces, index, piece, count == 1)]).unwrap();
        }
        manifest
    }

    #[test]
    fn the_root_is_the_hash_of_the_whole() {
        let pieces = PieceLength::from_log2(14).unwrap();
        let data: Vec<u8> = (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for length in [0, 1, 16_383, 16_384, 16_385, 32_768, 49_152, 81_920, 100_000, 131_072, 200_000] {
            let data = &data[..length];
            let manifest = manifest_of(data, pieces);
            assert_eq!(manifest.root(), Some(root_of(data)), "{length}");
            for (at, piece) in data.chunks(16_384).enumerate() {
                let index = PieceIndex(at as u32);
                assert!(manifest.verifies(index, piece), "{length}");
                let mut wrong = piece.to_vec();
                wrong[0] ^= 1;
                assert!(!manifest.verifies(index, &wrong), "{length}");
                assert!(!manifest.verifies(index, &piece[..piece.len() - 1]), "{length}");
            }
        }
    }

    #[test]
    fn hashes_are_appended_and_never_changed() {
        let pieces = PieceLength::from_log2(14).unwrap();
        let (a, b) = (PieceHash([1; 32]), PieceHash([2; 32]));
        let mut manifest = Manifest::new(pieces, None);
        assert_eq!(manifest.extend(0, &[a, b]), Ok(2));
        assert_eq!(manifest.extend(1, &[b, a]), Ok(1));
        assert_eq!(manifest.extend(0, &[b]), Err(ManifestError::Conflict(PieceIndex(0))));
        assert_eq!(manifest.extend(4, &[b]), Err(ManifestError::Gap { from: 4, known: 3 }));
        assert_eq!(manifest.piece_range(PieceIndex(1)), Some(ByteRange::new(16_384, 32_768)));
        assert_eq!(manifest.piece_range(PieceIndex(2)), None);
        assert_eq!(manifest.set_length(20_000), Err(ManifestError::Length { got: 20_000 }));
        assert_eq!(manifest.set_length(40_000), Ok(()));
        assert_eq!(manifest.extend(3, &[a]), Err(ManifestError::TooMany));
        assert!(manifest.is_whole());
    }
}
