//! The data channel: pieces from one holder to one requester, many requests in flight. Integers are little-endian.
//!
//! The requester (the side that connected) sends frames of 44 bytes:
//!
//! ```text
//! offset  size  field
//!      0     4  id, chosen by the requester, not in use by another unanswered request
//!      4     1  what: 0 request, 1 cancel
//!      5     1  flags: bit 0 urgent, bit 1 takes packed pieces; others zero
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
//!      4     1  status: 0 data, 1 not held, 2 busy, 3 refused, 4 unknown blob, 5 cancelled, 6 not understood, 7 packed data
//!      5     3  zero
//!      8     4  piece; 0xFFFFFFFF when none
//!     12     4  length of the bytes that follow, at most 16 MiB
//! ```
//!
//! A cancel is answered through its request: with *cancelled*, or with whatever was under way already. A requester
//! has at most [`MAX_UNANSWERED`](crate::MAX_UNANSWERED) requests unanswered; a holder closes the connection of one that has more. A
//! request for any piece stays open until the holder has a piece to give, and keeps nobody waiting meanwhile.
//!
//! Packed data is a piece in the form of [`packed`](crate::packed), and no longer than the piece may be. Only a request that takes packed
//! pieces is answered with it, and only an agent with [`PACKED_PIECES`](crate::Capabilities::PACKED_PIECES) is sent such a request.
//!
//! # Other releases
//!
//! All frames of a requester have 44 bytes. A holder answers a *what* that it does not know with *not understood* if it is below 128, and
//! skips it from there on; flags that it does not know are skipped, and so are fields that are zero here. Every status but 0 and 7 is a
//! refusal: one that the requester does not know is a refusal for another reason, and the bytes behind it are skipped. Such an answer may also have
//! an id that nobody waits for. A holder of version 3 closes the connection instead.

use darter_core::{BlobId, PieceIndex};

use crate::{MAX_PIECE_LENGTH, MAX_PIECES, ProtocolError, Result};

/// Bytes of what a requester sends at a time.
pub const ASK_LENGTH: usize = 44;
const REQUEST: u8 = 0;
const CANCEL: u8 = 1;
/// From here on, what a requester sends wants no answer.
const FIRST_WITHOUT_ANSWER: u8 = 128;
const URGENT: u8 = 1;
const TAKES_PACKED: u8 = 2;

/// Bytes that precede those of an answer.
pub const HEADER_LENGTH: usize = 16;
const DATA: u8 = 0;
const PACKED: u8 = 7;

/// Stands for any piece in a request, and for none in an answer.
const NO_PIECE: u32 = u32::MAX;

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
    /// May be answered with a packed piece.
    pub takes_packed: bool,
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
    /// The holder does not know requests of this sort.
    NotUnderstood = 6,
    /// A reason that is not known here.
    Other = 255,
}

/// One frame from a requester to a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Give me a piece.
    Request(Request),
    /// I need no answer to a request any more.
    Cancel {
        /// The request's id.
        id: u32,
    },
}

/// A frame of a requester of another release, of a sort that is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownAsk {
    /// The id of the request that is to be answered with [`Refusal::NotUnderstood`]; none if it wants no answer.
    pub refuse: Option<u32>,
}

/// The header in front of an answer's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A piece.
    Data {
        /// The request's id.
        id: u32,
        /// Which piece it is said to be.
        piece: PieceIndex,
        /// How many bytes of it follow.
        length: u32,
    },
    /// A packed piece.
    Packed {
        /// The request's id.
        id: u32,
        /// Which piece it is said to be.
        piece: PieceIndex,
        /// How many bytes follow: see [`packed`](crate::packed).
        length: u32,
    },
    /// No piece.
    None {
        /// The request's id.
        id: u32,
        /// Why there is none.
        reason: Refusal,
        /// How many bytes follow all the same, to be skipped.
        skip: u32,
    },
}

impl Ask {
    /// Its bytes.
    pub fn encode(&self) -> [u8; ASK_LENGTH] {
        let mut frame = [0; ASK_LENGTH];
        match self {
            Self::Cancel { id } => {
                frame[0..4].copy_from_slice(&id.to_le_bytes());
                frame[4] = CANCEL;
            }
            Self::Request(request) => {
                let piece = match request.wanted {
                    Wanted::Piece(piece) => piece.0,
                    Wanted::Any => NO_PIECE,
                };
                frame[0..4].copy_from_slice(&request.id.to_le_bytes());
                let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
                frame[5] = flag(request.urgent, URGENT) | flag(request.takes_packed, TAKES_PACKED);
                frame[8..12].copy_from_slice(&piece.to_le_bytes());
                frame[12..44].copy_from_slice(&request.blob.0);
            }
        }
        frame
    }

    /// Decodes a requester's frame. The inner error is a frame of a kind that only newer agents know.
    ///
    /// # Errors
    /// [`ProtocolError::Violation`].
    pub fn decode(frame: &[u8; ASK_LENGTH]) -> Result<Result<Self, UnknownAsk>> {
        let id = u32_at(frame, 0);
        match frame[4] {
            REQUEST => {}
            CANCEL => return Ok(Ok(Self::Cancel { id })),
            what => return Ok(Err(UnknownAsk { refuse: (what < FIRST_WITHOUT_ANSWER).then_some(id) })),
        }
        let wanted = match u32_at(frame, 8) {
            NO_PIECE => Wanted::Any,
            piece if piece < MAX_PIECES => Wanted::Piece(PieceIndex(piece)),
            _ => return Err(ProtocolError::Violation { what: "a request for a piece that no blob has" }),
        };
        let mut blob = [0; 32];
        blob.copy_from_slice(&frame[12..44]);
        let [urgent, takes_packed] = [URGENT, TAKES_PACKED].map(|flag| frame[5] & flag != 0);
        Ok(Ok(Self::Request(Request { id, blob: BlobId(blob), wanted, urgent, takes_packed })))
    }
}

impl Header {
    /// Its bytes.
    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let (id, status, piece, length) = match *self {
            Self::Data { id, piece, length } => (id, DATA, piece.0, length),
            Self::Packed { id, piece, length } => (id, PACKED, piece.0, length),
            Self::None { id, reason, skip } => (id, reason as u8, NO_PIECE, skip),
        };
        let mut header = [0; HEADER_LENGTH];
        header[0..4].copy_from_slice(&id.to_le_bytes());
        header[4] = status;
        header[8..12].copy_from_slice(&piece.to_le_bytes());
        header[12..16].copy_from_slice(&length.to_le_bytes());
        header
    }

    /// Decodes a header.
    ///
    /// # Errors
    /// [`ProtocolError::Violation`], [`ProtocolError::TooLong`].
    pub fn decode(header: &[u8; HEADER_LENGTH]) -> Result<Self> {
        let id = u32_at(header, 0);
        let (piece, length) = (u32_at(header, 8), u32_at(header, 12));
        let reason = match header[4] {
            DATA if piece < MAX_PIECES => return Ok(Self::Data { id, piece: PieceIndex(piece), length }),
            PACKED if piece < MAX_PIECES => return Ok(Self::Packed { id, piece: PieceIndex(piece), length }),
            DATA | PACKED => return Err(ProtocolError::Violation { what: "a piece that no blob has" }),
            1 => Refusal::NotHeld,
            2 => Refusal::Busy,
            3 => Refusal::Refused,
            4 => Refusal::UnknownBlob,
            5 => Refusal::Cancelled,
            6 => Refusal::NotUnderstood,
            _ => Refusal::Other,
        };
        if length > MAX_PIECE_LENGTH {
            let limit = MAX_PIECE_LENGTH.into();
            return Err(ProtocolError::TooLong { what: "refusal", length: length.into(), limit });
        }
        Ok(Self::None { id, reason, skip: length })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let (four, _) = bytes[at..].split_first_chunk().expect("fields lie within their frame");
    u32::from_le_bytes(*four)
}

#[cfg(test)]
mod tests;
