//! Hashes that pieces must have, and those that they have.

use darter_core::manifest::hash_piece;
use darter_core::{ByteRange, PieceHash, PieceIndex, PieceLength};

/// The hash that a piece must have, as of an epoch.
#[derive(Clone, Copy)]
pub(crate) struct Expected {
    pub(super) piece: PieceIndex,
    pub(super) pieces: PieceLength,
    pub(super) range: ByteRange,
    pub(super) hash: PieceHash,
    pub(super) only: bool,
    pub(super) epoch: u64,
    /// True if only the blob's length, which is not known, can tell whether the piece is as short as that.
    pub(super) may_be_last: bool,
}

impl Expected {
    /// Bytes in the piece.
    pub(crate) fn len(&self) -> u64 {
        self.range.len()
    }

    /// The piece's place in the blob.
    pub(crate) fn range(&self) -> ByteRange {
        self.range
    }

    /// True if a piece that matches can't be taken yet: it is the last one if it matches, and the blob's length is not known.
    pub(crate) const fn may_be_last(&self) -> bool {
        self.may_be_last
    }

    /// Hashes `data`, unless that was just done, and compares.
    pub(crate) fn matches(&self, data: &[u8], hashed: Option<Hashed>) -> bool {
        let hash = || match hashed.filter(|hashed| hashed.only == self.only) {
            Some(hashed) => hashed.hash,
            None => hash_piece(self.pieces, self.piece, data, self.only),
        };
        data.len() as u64 == self.range.len() && hash() == self.hash
    }
}

/// The hash that the bytes in hand have.
#[derive(Clone, Copy)]
pub(crate) struct Hashed {
    hash: PieceHash,
    /// True if they were taken for all of the blob.
    only: bool,
}

impl Hashed {
    /// Hashes a piece, which is all of its blob or not.
    pub(crate) fn of(pieces: PieceLength, piece: PieceIndex, data: &[u8], only: bool) -> Self {
        Self { hash: hash_piece(pieces, piece, data, only), only }
    }

    pub(crate) const fn hash(self) -> PieceHash {
        self.hash
    }
}

/// The outcome of writing a verified piece.
pub(crate) enum Written {
    /// It is held now.
    Held,
    /// Another writer wrote it meanwhile.
    HeldBefore,
    /// The epoch changed under way: begin again.
    Overtaken,
}
