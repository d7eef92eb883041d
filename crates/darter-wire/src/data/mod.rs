//! The data channel: pieces from one holder to one requester, many requests in flight. Integers are little-endian.
//!
//! The requester (the side that connected) sends frames of 44 bytes:
//!
//! ```text
//! offset  size  field
//!      0     4  id, chosen by the requester, not in use by another unanswered request
//!      4     1  what: 0 request, 1 cancel
//!      5     1  flags: bit 0 urgent; others zero
//!      6     2  zero
//!      8     4  piece; 0xFFFFFFFF for any
//!     12    32  blob
//! ```
//!
//! A cancel names the id of the request that it calls back; its other fields are zero. The holder answers every
//! request exactly once, in the order it chooses: a header of 16 bytes, then the bytes of the piece.
//!
//! ```text
//! offset  size  field
//!      0     4  id of the request
//!      4     1  status: 0 data, 1 not held, 2 busy, 3 refused, 4 unknown blob, 5 cancelled
//!      5     3  zero
//!      8     4  piece; 0xFFFFFFFF when none
//!     12     4  length of the bytes that follow, at most 16 MiB; zero unless data
//! ```
//!
//! A cancel is answered through its request: with *cancelled*, or with whatever was under way already. A requester
//! has at most [`MAX_UNANSWERED`] requests unanswered; a holder closes the connection of one that has more. A request
//! for any piece stays open until the holder has a piece to give, and keeps nobody waiting meanwhile.

mod client;
mod queue;
mod serve;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use darter_core::{BlobId, PieceIndex};

pub use client::{Answers, DataClient, Receiving};
pub use serve::{Bind, Payload, Sending, Slots, Uploads, serve_data};

use crate::{MAX_PIECE_LENGTH, MAX_PIECES, PooledBuffer, Result, WireError};

/// The most requests that one connection may have unanswered.
pub const MAX_UNANSWERED: usize = 256;

pub(crate) const REQUEST_FRAME: usize = 44;
pub(crate) const ANSWER_HEADER: usize = 16;

const ANY: u32 = u32::MAX;
const URGENT: u8 = 1;

/// Which piece is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// This one.
    Piece(PieceIndex),
    /// Whichever the holder chooses, when it has room to send.
    Any,
}

/// One request for one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Tells requests of one connection apart.
    pub id: u32,
    /// The blob.
    pub blob: BlobId,
    /// Which piece of it.
    pub wanted: Wanted,
    /// Goes before all that are not urgent.
    pub urgent: bool,
}

/// The answer to one request.
#[derive(Debug)]
pub enum Answer {
    /// A piece, unverified.
    Data {
        /// The request's id.
        id: u32,
        /// The request's blob.
        blob: BlobId,
        /// Which piece it is said to be.
        piece: PieceIndex,
        /// Its bytes.
        data: PooledBuffer,
    },
    /// No piece.
    None {
        /// The request's id.
        id: u32,
        /// The request's blob.
        blob: BlobId,
        /// What was asked for.
        wanted: Wanted,
        /// Why there is none.
        reason: Refusal,
    },
}

/// Why a request was answered without a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// The holder lacks that piece.
    NotHeld = 1,
    /// The holder has too much to do; ask again later, or somebody else.
    Busy = 2,
    /// The holder does not give this to the requester.
    Refused = 3,
    /// The holder knows nothing of the blob.
    UnknownBlob = 4,
    /// The requester called it back.
    Cancelled = 5,
}
