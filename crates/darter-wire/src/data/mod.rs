//! Data channels in use: pieces from one holder to one requester, many requests in flight. Their bytes are those of
//! [`darter_protocol::data`].

mod client;
mod queue;
mod serve;

use darter_core::{BlobId, PieceIndex};

pub use client::{Answers, DataClient, Receiving};
pub use serve::{Bind, Later, Payload, Sending, Slots, Uploads, serve_data};

use crate::{PooledBuffer, Refusal, Wanted};

/// The answer to one request.
#[derive(Debug)]
pub enum Answer {
    /// A request for any piece begins to be answered: which piece the holder chose. [`Answer::Data`] follows.
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
