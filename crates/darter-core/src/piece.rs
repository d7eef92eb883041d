//! Pieces: the unit in which a blob is hashed, stored and handed on.
//!
//! A piece's length is a power of two, so that each piece is a subtree of the blob's BLAKE3 tree (see
//! [`crate::manifest`]). The last piece of a blob may be shorter.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::range::ByteRange;

/// Which piece of a blob, counted from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PieceIndex(pub u32);

impl PieceIndex {
    /// The index as a position in a vector.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Length of a blob's pieces in bytes: a power of two from 16 KiB to 16 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct PieceLength {
    log2: u8,
}

/// A length that pieces can't have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pieces have a length of 2^14 to 2^24 bytes, not 2^{0}")]
pub struct PieceLengthError(u8);

impl PieceLength {
    const MIN_LOG2: u8 = 14;
    const MAX_LOG2: u8 = 24;

    /// The piece length of a blob whose length is unknown.
    pub const UNKNOWN_BLOB: Self = Self { log2: 19 };

    /// Pieces of `2^log2` bytes.
    ///
    /// # Errors
    /// When `log2` is outside 14..=24.
    pub const fn from_log2(log2: u8) -> Result<Self, PieceLengthError> {
        if log2 < Self::MIN_LOG2 || log2 > Self::MAX_LOG2 {
            return Err(PieceLengthError(log2));
        }
        Ok(Self { log2 })
    }

    /// The length that suits a blob of `length` bytes: 128 KiB up to 128 MiB, then about a thousand pieces a blob, at most 4 MiB
    /// each (a node keeps a dozen pieces in flight, in memory). A piece takes some steps from node to node, so fewer than five
    /// hundred of them cost a swarm more than the bound's tenth; shorter ones cost more in messages than they gain.
    pub fn for_blob(length: u64) -> Self {
        let wanted = (length / 1024).next_power_of_two().clamp(1 << 17, 1 << 22);
        Self { log2: u8::try_from(wanted.trailing_zeros()).expect("at most 22") }
    }

    /// Bytes in a full piece.
    pub const fn bytes(self) -> u64 {
        1 << self.log2
    }

    /// Base-two logarithm of the length.
    pub const fn log2(self) -> u8 {
        self.log2
    }

    /// How many pieces a blob of `length` bytes has.
    pub fn count(self, length: u64) -> u32 {
        u32::try_from(length.div_ceil(self.bytes())).expect("a blob has fewer than 2^32 pieces")
    }

    /// The piece that holds the byte at `offset`.
    pub fn piece_at(self, offset: u64) -> PieceIndex {
        PieceIndex(u32::try_from(offset >> self.log2).expect("a blob has fewer than 2^32 pieces"))
    }

    /// The offset of `piece` in a blob, in bytes.
    pub const fn offset(self, piece: PieceIndex) -> u64 {
        (piece.0 as u64) << self.log2
    }

    /// The bytes of `piece` in a blob of `length` bytes (empty for a piece past the end).
    pub const fn range(self, piece: PieceIndex, length: u64) -> ByteRange {
        let start = self.offset(piece);
        ByteRange::new(start, start + self.bytes()).clamp_to(length)
    }

    /// The pieces that `range` touches, first and one past the last.
    pub fn pieces_of(self, range: ByteRange) -> std::ops::Range<u32> {
        if range.is_empty() {
            let at = self.piece_at(range.start()).0;
            return at..at;
        }
        self.piece_at(range.start()).0..self.piece_at(range.end() - 1).0 + 1
    }
}

impl TryFrom<u8> for PieceLength {
    type Error = PieceLengthError;

    fn try_from(log2: u8) -> Result<Self, PieceLengthError> {
        Self::from_log2(log2)
    }
}

impl From<PieceLength> for u8 {
    fn from(length: PieceLength) -> Self {
        length.log2
    }
}

impl fmt::Display for PieceLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB", self.bytes() >> 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_follows_the_blob() {
        let kib = |length| PieceLength::for_blob(length).bytes() >> 10;
        assert_eq!(kib(0), 128);
        assert_eq!(kib(128 << 20), 128);
        assert_eq!(kib(256 << 20), 256);
        assert_eq!(kib(512 << 20), 512);
        assert_eq!(kib(1 << 30), 1024);
        assert_eq!(kib(100 << 30), 4096);
    }

    #[test]
    fn the_last_piece_is_shorter() {
        let pieces = PieceLength::from_log2(14).unwrap();
        assert_eq!(pieces.count(40_000), 3);
        assert_eq!(pieces.range(PieceIndex(2), 40_000), ByteRange::new(32_768, 40_000));
        assert!(pieces.range(PieceIndex(3), 40_000).is_empty());
        assert_eq!(pieces.pieces_of(ByteRange::new(16_383, 16_385)), 0..2);
        assert_eq!(pieces.pieces_of(ByteRange::new(16_384, 16_384)), 1..1);
    }
}
