//! What can go wrong, whose fault it is, and what to do about it.

use darter_core::{BlobId, Digest};
use darter_origin::OriginError;
use darter_store::StoreError;

/// Why bytes could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The origin said no, or could not be reached.
    #[error("origin: {0}")]
    Origin(std::sync::Arc<OriginError>),
    /// The store could not keep or give them.
    #[error("store: {0}")]
    Store(std::sync::Arc<StoreError>),
    /// The whole content is not what its digest says.
    #[error("wrong content: expected {expected}, got {got}; nothing was kept")]
    WrongDigest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        got: Digest,
    },
    /// A range past the end of the blob.
    #[error("range starts past the end of the blob ({length} bytes)")]
    Range {
        /// The blob's length.
        length: u64,
    },
    /// The blob was dissolved while it was read.
    #[error("blob {} was withdrawn: {reason}; ask for it again", blob.short())]
    Withdrawn {
        /// Which blob.
        blob: BlobId,
        /// Why.
        reason: String,
    },
    /// The agent is shutting down.
    #[error("the agent is shutting down; ask again once it is back")]
    Draining,
}

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port that is taken or not ours to take.
    #[error("can't listen on {addr} ({flag}): {reason}; {advice}")]
    Listen {
        /// The address.
        addr: String,
        /// The flag that chose it.
        flag: &'static str,
        /// What the system says.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// The data directory can't be used.
    #[error("data directory: {0}")]
    Store(#[from] StoreError),
    /// A file of the agent's own can't be read or written.
    #[error("{path}: {reason}")]
    File {
        /// Which file.
        path: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// An address given to join that is not a Darter agent.
    #[error("can't join {addr}: {reason}")]
    Join {
        /// The address.
        addr: String,
        /// What answered, and what to do.
        reason: String,
    },
    /// Options that contradict each other.
    #[error("{0}")]
    Options(String),
}
