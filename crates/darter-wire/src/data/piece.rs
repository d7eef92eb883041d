//! [`PieceData`]: a piece as it was received.

use darter_protocol::packed::{PackedPiece, Unpacker};

use crate::{BufferPool, PooledBuffer, Result};

/// The bytes of a piece, unverified.
#[derive(Debug)]
pub enum PieceData {
    /// As they are.
    Plain(PooledBuffer),
    /// Compressed for the wire.
    Packed(PackedData),
}

/// A packed piece, and the memory in which it is unpacked.
#[derive(Debug)]
pub struct PackedData {
    piece: PackedPiece,
    buffers: BufferPool,
}

impl PackedData {
    pub(super) const fn new(piece: PackedPiece, buffers: BufferPool) -> Self {
        Self { piece, buffers }
    }

    /// The piece as it crossed the wire.
    pub const fn piece(&self) -> &PackedPiece {
        &self.piece
    }
}

impl PieceData {
    /// The piece's length in bytes, unpacked; of a packed piece, as its sender says.
    pub fn plain_length(&self) -> u32 {
        match self {
            Self::Plain(data) => length(data),
            Self::Packed(packed) => packed.piece.plain_length(),
        }
    }

    /// How many bytes crossed the wire.
    pub fn wire_length(&self) -> u32 {
        match self {
            Self::Plain(data) => length(data),
            Self::Packed(packed) => packed.piece.length(),
        }
    }

    /// The piece's bytes, unpacked if need be. That takes CPU time, so call it on a blocking thread.
    ///
    /// # Errors
    /// [`WireError::Protocol`](crate::WireError::Protocol) if the packed bytes are not a piece of the announced length.
    pub fn unpack(self, unpacker: &mut Unpacker) -> Result<PooledBuffer> {
        match self {
            Self::Plain(data) => Ok(data),
            Self::Packed(PackedData { piece, buffers }) => {
                let mut plain = buffers.take(piece.plain_length() as usize);
                unpacker.unpack(&piece, plain.emptied())?;
                Ok(plain)
            }
        }
    }
}

fn length(data: &PooledBuffer) -> u32 {
    u32::try_from(data.len()).expect("at most 16 MiB")
}
