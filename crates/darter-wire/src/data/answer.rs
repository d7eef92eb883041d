//! Answers to a request for a piece.

use darter_core::{BlobId, PieceIndex};
use darter_protocol::{Refusal, Wanted};

use super::piece::PieceData;

/// The answer to one request.
#[derive(Debug)]
pub enum Answer {
    /// The piece that the holder chose for a request for any piece. [`Answer::Data`] follows.
    Begun {
        /// The request's id.
        id: u32,
        /// The request's blob.
        blob: BlobId,
        /// Which piece it is said to be.
        piece: PieceIndex,
    },
    /// A piece, unverified.
    Data {
        /// The request's id.
        id: u32,
        /// The request's blob.
        blob: BlobId,
        /// Which piece it is said to be.
        piece: PieceIndex,
        /// The piece's bytes.
        data: PieceData,
    },
    /// No piece.
    None {
        /// The request's id.
        id: u32,
        /// The request's blob.
        blob: BlobId,
        /// The piece that was asked for, or any.
        wanted: Wanted,
        /// Why the holder sends no piece.
        reason: Refusal,
    },
}
