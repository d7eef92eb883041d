//! Packed pieces: compressed for the wire, by a holder for a requester that said that it takes them.
//!
//! Nothing else knows of packing. Hashes, stores and messages are about the plain bytes: a receiver unpacks what came, verifies that as
//! any piece, and forgets how it came. The bytes behind the header of such an answer (integers are little-endian):
//!
//! ```text
//! offset  size  field
//!      0     4  length of the plain piece, from 1 on, at most what was asked for
//!      4     …  one zstd frame (RFC 8878) without a dictionary, whose header tells that length, and nothing behind it
//! ```
//!
//! Invariants: a [`PackedPiece`] is no longer than the plain piece may be; unpacking gives exactly the length that it names, or an error,
//! and writes no more than that, whatever the frame says.
//!
//! Non-goals: when packing pays (`darter-swarm`), and whether the bytes are right (they are hashed as any others).

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{find_frame_compressed_size, get_frame_content_size};

use crate::{MAX_PIECE_LENGTH, ProtocolError, Result};

/// Bytes in front of the frame.
const PREFIX: usize = 4;

/// How hard a holder tries: why so is in docs/notes/packed-pieces.md.
const LEVEL: i32 = 1;

/// A piece that does not shrink by this part is not worth its unpacking.
const MIN_GAIN: usize = 10;

/// A piece as it crosses the wire when it is packed. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedPiece(Bytes);

impl PackedPiece {
    /// Takes in what came behind the header, for a request for at most `longest` bytes.
    ///
    /// # Errors
    /// [`ProtocolError::Violation`], [`ProtocolError::TooLong`]. The frame itself is looked at by [`Unpacker::unpack`].
    pub fn read(body: Bytes, longest: u32) -> Result<Self> {
        let longest = longest.min(MAX_PIECE_LENGTH);
        let Some(length) = plain_length(&body) else {
            return Err(ProtocolError::Violation { what: "a packed piece without a length" });
        };
        if length == 0 || body.len() == PREFIX {
            return Err(ProtocolError::Violation { what: "a packed piece of no bytes" });
        }
        for length in [length.into(), body.len() as u64] {
            if length > longest.into() {
                return Err(ProtocolError::TooLong { what: "packed piece", length, limit: longest.into() });
            }
        }
        Ok(Self(body))
    }

    /// The bytes that stand behind the header.
    pub const fn body(&self) -> &Bytes {
        &self.0
    }

    /// Bytes on the wire, the header aside.
    pub fn length(&self) -> u32 {
        u32::try_from(self.0.len()).expect("no longer than a piece")
    }

    /// The length of the plain piece, in bytes.
    pub fn plain_length(&self) -> u32 {
        plain_length(&self.0).expect("looked at when it was made")
    }

    /// The same in memory of just its length.
    #[must_use]
    pub fn compact(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }
}

/// The length of the plain piece that a packed one of which this much has come names.
pub fn plain_length(begun: &[u8]) -> Option<u32> {
    begun.first_chunk().map(|length| u32::from_le_bytes(*length))
}

/// Packs pieces, one after the other: its memory is used again.
pub struct Packer {
    compressor: Compressor<'static>,
    room: Vec<u8>,
}

impl Packer {
    /// Packs a piece; `None` if it does not become shorter by a tenth.
    pub fn pack(&mut self, plain: &[u8]) -> Option<PackedPiece> {
        let length = u32::try_from(plain.len()).ok().filter(|length| *length <= MAX_PIECE_LENGTH)?;
        // With no more room than is of use, the compressor gives up by itself.
        let most = plain.len() - plain.len().div_ceil(MIN_GAIN);
        if most <= PREFIX {
            return None;
        }
        self.room.resize(most.max(self.room.len()), 0);
        let frame = self.compressor.compress_to_buffer(plain, &mut self.room[PREFIX..most]).ok()?;
        self.room[..PREFIX].copy_from_slice(&length.to_le_bytes());
        Some(PackedPiece(Bytes::copy_from_slice(&self.room[..PREFIX + frame])))
    }
}

impl Default for Packer {
    fn default() -> Self {
        Self { compressor: Compressor::new(LEVEL).expect("zstd has this level"), room: Vec::new() }
    }
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packer")
    }
}

/// Unpacks pieces, one after the other: its memory is used again.
#[derive(Default)]
pub struct Unpacker(Decompressor<'static>);

impl Unpacker {
    /// Replaces the content of `plain` with the piece.
    ///
    /// # Errors
    /// [`ProtocolError::Violation`] for anything but one frame of exactly the length that was named.
    pub fn unpack(&mut self, packed: &PackedPiece, plain: &mut Vec<u8>) -> Result<()> {
        let (frame, length) = (&packed.0[PREFIX..], packed.plain_length() as usize);
        let wrong = ProtocolError::Violation { what: "a packed piece that can't be unpacked" };
        let is_one = find_frame_compressed_size(frame).is_ok_and(|end| end == frame.len());
        let is_as_long = get_frame_content_size(frame).is_ok_and(|told| told == Some(length as u64));
        if !is_one || !is_as_long {
            return Err(wrong);
        }
        plain.clear();
        plain.reserve_exact(length);
        // Written behind one another, and no more than the frame's header tells: zstd compares the two.
        match self.0.decompress_to_buffer(frame, plain) {
            Ok(unpacked) if unpacked == length => Ok(()),
            _ => {
                plain.clear();
                Err(wrong)
            }
        }
    }
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unpacker")
    }
}

#[cfg(test)]
mod tests;
