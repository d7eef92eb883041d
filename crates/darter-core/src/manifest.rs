//! The hashes that a blob's pieces must have: one BLAKE3 subtree value per piece, and one root over them.
//!
//! A piece of `2^k` bytes that starts at a multiple of `2^k` is a subtree of the blob's BLAKE3 tree (BLAKE3
//! specification, section 2.1), so its chaining value checks the piece by itself, and the pieces' values merge into
//! exactly the hash that `b3sum` prints for the whole blob. A blob of one piece is the exception that the tree
//! demands: its only piece *is* the root, so its value is the root hash.
//!
//! A manifest grows while the seed reads the origin: at its end while the length is not known, and in any order once it is,
//! since then any range of the origin may be read. The first piece alone may be left out while the length is unknown: content may begin
//! with what is only known at its end ([`Source::is_headed_last`](crate::Source::is_headed_last)). Invariants: a hash is never changed; once
//! the length is known it stays, and without it the known hashes are those of neighbouring pieces, from the first or the second on;
//! [`Manifest::root`] exists exactly when length and all hashes are known.

use std::fmt;

use blake3::hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};
use serde::{Deserialize, Serialize};

use crate::digest::write_digits;
use crate::piece::{PieceIndex, PieceLength};
use crate::range::ByteRange;
use crate::set::PieceSet;

/// A 32-byte BLAKE3 value: of a piece (its subtree's chaining value), or of a whole blob (its root).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PieceHash(pub [u8; 32]);

impl fmt::Display for PieceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_digits(f, &self.0)
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
///
/// As bytes it is its piece length, its length and the hashes of the first pieces: hashes behind a gap are told in runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Beginning", into = "Beginning")]
pub struct Manifest {
    piece_length: PieceLength,
    length: Option<u64>,
    /// By piece, up to the last one whose hash is known; zeros where none is.
    hashes: Vec<PieceHash>,
    known: PieceSet,
    /// How many of the first pieces have a known hash.
    prefix: u32,
}

/// A manifest as it is written.
#[derive(Serialize, Deserialize)]
struct Beginning {
    piece_length: PieceLength,
    length: Option<u64>,
    hashes: Vec<PieceHash>,
}

impl From<Beginning> for Manifest {
    fn from(Beginning { piece_length, length, hashes }: Beginning) -> Self {
        let prefix = u32::try_from(hashes.len()).expect("a blob has fewer than 2^32 pieces");
        Self { piece_length, length, hashes, known: PieceSet::full(prefix), prefix }
    }
}

impl From<Manifest> for Beginning {
    fn from(Manifest { piece_length, length, mut hashes, prefix, .. }: Manifest) -> Self {
        hashes.truncate(prefix as usize);
        Self { piece_length, length, hashes }
    }
}

/// Why a manifest could not take what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Hashes that don't continue where the known ones end, of a blob whose length is not known.
    #[error("hashes from piece {from} do not continue {known} known ones, and the length is not known")]
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
        Self { piece_length, length, hashes: Vec::new(), known: PieceSet::new(), prefix: 0 }
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

    /// How many of the first pieces have a known hash: the number of the first piece that has none.
    pub const fn prefix(&self) -> u32 {
        self.prefix
    }

    /// Which pieces have a known hash.
    pub const fn known(&self) -> &PieceSet {
        &self.known
    }

    /// The hashes of the first pieces, in order, up to the first one that is not known.
    pub fn hashes(&self) -> &[PieceHash] {
        &self.hashes[..self.prefix as usize]
    }

    /// The hashes of `from` and the pieces behind it, up to the first one that is not known.
    pub fn run_from(&self, from: u32) -> &[PieceHash] {
        let end = self.known.first_missing_from(PieceIndex(from)).as_usize();
        self.hashes.get(from as usize..end).unwrap_or_default()
    }

    /// The hash of a piece, if known.
    pub fn hash(&self, piece: PieceIndex) -> Option<PieceHash> {
        self.hashes.get(piece.as_usize()).copied().filter(|_| self.known.contains(piece))
    }

    /// The bytes of a piece; `None` while the length is unknown and the piece could be the last one.
    pub fn piece_range(&self, piece: PieceIndex) -> Option<ByteRange> {
        match self.length {
            Some(length) => Some(self.piece_length.range(piece, length)),
            // A piece with a known successor is a full one.
            None if self.known.contains(PieceIndex(piece.0.checked_add(1)?)) => {
                self.known.contains(piece).then(|| self.piece_length.range(piece, u64::MAX))
            }
            None => None,
        }
    }

    /// True if length and every hash are known.
    pub fn is_whole(&self) -> bool {
        self.piece_count() == Some(self.prefix)
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
        if known || (self.piece_length.count(length) as usize) < self.hashes.len() {
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
        let end = u64::from(from) + hashes.len() as u64;
        match self.piece_count() {
            Some(count) if end > u64::from(count) => return Err(ManifestError::TooMany),
            // Without the length nothing bounds what a gap may cost.
            None if from > self.known.first_missing_from(PieceIndex(1)).0 => {
                return Err(ManifestError::Gap { from, known: self.prefix });
            }
            None if end > u64::from(u32::MAX) => return Err(ManifestError::TooMany),
            _ => {}
        }
        let run = (from..).map(PieceIndex).zip(hashes);
        if let Some((piece, _)) =
            run.clone().find(|(piece, hash)| self.hash(*piece).is_some_and(|known| known != **hash))
        {
            return Err(ManifestError::Conflict(piece));
        }
        if !hashes.is_empty() && self.hashes.len() < end as usize {
            self.hashes.resize(end as usize, PieceHash([0; 32]));
        }
        let mut fresh = 0;
        for (piece, hash) in run {
            self.hashes[piece.as_usize()] = *hash;
            fresh += u32::from(self.known.insert(piece));
        }
        self.prefix = self.known.first_missing_from(PieceIndex(self.prefix)).0;
        Ok(fresh)
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
                let only = manifest.piece_count() == Some(1);
                let hash_of = |piece: &[u8]| Some(hash_piece(pieces, index, piece, only));
                assert_eq!(manifest.hash(index), hash_of(piece), "{length}");
                let mut wrong = piece.to_vec();
                wrong[0] ^= 1;
                assert_ne!(manifest.hash(index), hash_of(&wrong), "{length}");
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
        assert_eq!(manifest.extend(4, &[b]), Err(ManifestError::Gap { from: 4, known: 3 }), "without the length");
        assert_eq!(manifest.piece_range(PieceIndex(1)), Some(ByteRange::new(16_384, 32_768)));
        assert_eq!(manifest.piece_range(PieceIndex(2)), None);
        assert_eq!(manifest.set_length(20_000), Err(ManifestError::Length { got: 20_000 }));
        assert_eq!(manifest.set_length(40_000), Ok(()));
        assert_eq!(manifest.extend(3, &[a]), Err(ManifestError::TooMany));
        assert!(manifest.is_whole());
    }

    #[test]
    fn without_the_length_only_the_first_piece_may_be_left_out() {
        let pieces = PieceLength::from_log2(14).unwrap();
        let data: Vec<u8> = (0..60_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let whole = manifest_of(&data, pieces);
        let hashes = whole.hashes();
        let mut manifest = Manifest::new(pieces, None);
        assert_eq!(manifest.extend(2, &hashes[2..3]), Err(ManifestError::Gap { from: 2, known: 0 }));
        assert_eq!(manifest.extend(1, &hashes[1..2]), Ok(1));
        assert_eq!(manifest.extend(3, &hashes[3..4]), Err(ManifestError::Gap { from: 3, known: 0 }));
        assert_eq!(manifest.extend(2, &hashes[2..4]), Ok(2));
        assert_eq!((manifest.prefix(), manifest.known().len()), (0, 3));
        let ranges = [0, 2, 3].map(|piece| manifest.piece_range(PieceIndex(piece)));
        assert_eq!(ranges, [None, Some(ByteRange::new(32_768, 49_152)), None]);
        assert_eq!(manifest.set_length(60_000), Ok(()));
        assert_eq!((manifest.extend(0, &hashes[..1]), manifest.prefix()), (Ok(1), 4));
        assert_eq!(manifest, whole);
    }

    #[test]
    fn once_the_length_is_known_hashes_are_learned_in_any_order() {
        let pieces = PieceLength::from_log2(14).unwrap();
        let data: Vec<u8> = (0..150_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let whole = manifest_of(&data, pieces);
        let hashes = whole.hashes();
        let mut manifest = Manifest::new(pieces, Some(150_000));
        assert_eq!(manifest.extend(9, &hashes[9..]), Ok(1));
        assert_eq!(manifest.extend(4, &hashes[4..6]), Ok(2));
        assert_eq!((manifest.prefix(), manifest.hashes()), (0, &[][..]));
        let runs: Vec<_> = manifest.known().runs().collect();
        assert_eq!(runs, [4..6, 9..10]);
        assert_eq!(manifest.run_from(5), &hashes[5..6]);
        assert_eq!((manifest.run_from(6), manifest.hash(PieceIndex(6))), (&[][..], None));
        assert_eq!(manifest.hash(PieceIndex(5)), Some(hashes[5]));
        assert_eq!(manifest.extend(5, &[hashes[4]]), Err(ManifestError::Conflict(PieceIndex(5))));
        assert_eq!(manifest.extend(9, &[hashes[9], hashes[9]]), Err(ManifestError::TooMany));
        assert_eq!((manifest.extend(0, &hashes[..7]), manifest.prefix()), (Ok(5), 7));
        assert_eq!(manifest.root(), None);
        assert_eq!((manifest.extend(6, &hashes[6..]), manifest.prefix()), (Ok(2), 10));
        assert_eq!(manifest.root(), Some(root_of(&data)));
        assert_eq!(manifest, whole);
    }
}
