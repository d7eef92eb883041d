//! Verified bytes on their way to a program: in memory, or as a range of the blob's file, which a receiver can send without reading it.

use bytes::Bytes;
use darter_store::PieceFile;

/// Verified bytes.
#[derive(Clone, Debug)]
pub enum Part {
    /// In memory.
    Bytes(Bytes),
    /// In the blob's file, and in the page cache a moment ago.
    File(PieceFile),
}

impl Part {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(part) => part.range.len(),
        }
    }
}
