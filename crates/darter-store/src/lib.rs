//! Pieces on disk: verified, resumable, evicted by quota.

pub mod error;
pub mod store;

pub use error::{Result, StoreError};
pub use store::{
    BlobInfo, BlobSummary, PieceFile, Put, SourceRecord, Store, StoreConfig, StoredBlob, Usage, WallClock,
};
