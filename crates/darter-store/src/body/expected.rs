//! The hashes that pieces must have, and the hashes of bytes that are to be put.

use darter_core::manifest::hash_piece;
use darter_core::{ByteRange, PieceHash, PieceIndex, PieceLength};

/// The hash that a piece must have, as it was known in an epoch.
#[derive(Clone, Copy)]
pub(crate) struct Expected {
    pub(super) piece: PieceIndex,
    pub(super) pieces: PieceLength,
    pub(super) range: ByteRange,
    pub(super) hash: PieceHash,
    pub(super) only: bool,
    pub(super) epoch: u64,
    /// True if the bytes are fewer than those of a full piece while the blob's length is unknown: the piece may be the last one.
    pub(super) may_be_last: bool,
}

impl Expected {
    /// The piece's length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.range.len()
    }

    /// The piece's range in the blob.
    pub(crate) fn range(&self) -> ByteRange {
        self.range
    }

    /// True if a piece that matches can't be accepted yet: then it is the last one, but the blob's length is unknown.
    pub(crate) const fn may_be_last(&self) -> bool {
        self.may_be_last
    }

    /// True if `data` has this hash. Hashes it unless `hashed` is its hash.
    pub(crate) fn matches(&self, data: &[u8], hashed: Option<Hashed>) -> bool {
        let hash = || match hashed.filter(|hashed| hashed.only == self.only) {
            Some(hashed) => hashed.hash,
            None => hash_piece(self.pieces, self.piece, data, self.only),
        };
        data.len() as u64 == self.range.len() && hash() == self.hash
    }
}

/// The hash of bytes that are to be put.
#[derive(Clone, Copy)]
pub(crate) struct Hashed {
    hash: PieceHash,
    /// True if it was computed as that of a blob of one piece.
    only: bool,
}

impl Hashed {
    /// Hashes a piece; `only` says whether it is the only one of its blob.
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
    /// The epoch changed meanwhile: the write has to be repeated.
    Overtaken,
}
