//! What can go wrong with stored pieces, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use darter_core::manifest::ManifestError;
use darter_core::{BlobId, PieceIndex, PieceLength};

/// Result of this crate's operations.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No room for the bytes, although everything that may be evicted was. What is held stays readable.
    #[error("{}", no_room(*needed, *free, *limit))]
    Full {
        /// Bytes that were to be stored.
        needed: u64,
        /// Bytes that could have been stored.
        free: u64,
        /// What limits them.
        limit: Limit,
    },
    /// Bytes that are not the piece the manifest vouches for; nothing was written. Whoever sent them is wrong.
    #[error("the bytes given for piece {piece} of blob {} are not that piece: fetch it from another holder", blob.short())]
    WrongPiece {
        /// The blob.
        blob: BlobId,
        /// The piece.
        piece: PieceIndex,
    },
    /// The manifest does not know the piece's hash, or not its length, yet: extend it first.
    #[error("the manifest of blob {} does not know piece {piece} yet: extend it, then try again", blob.short())]
    UnknownPiece {
        /// The blob.
        blob: BlobId,
        /// The piece.
        piece: PieceIndex,
    },
    /// A piece that is not held, never was or was found damaged just now: fetch it.
    #[error("piece {piece} of blob {} is not held: fetch it, then try again", blob.short())]
    NotHeld {
        /// The blob.
        blob: BlobId,
        /// The piece, the first such one of those asked for.
        piece: PieceIndex,
    },
    /// A read beyond the blob's end.
    #[error("bytes {offset}..{end} reach past the end of blob {}", blob.short())]
    PastTheEnd {
        /// The blob.
        blob: BlobId,
        /// First byte asked for.
        offset: u64,
        /// One past the last byte asked for.
        end: u64,
    },
    /// Somebody reads or fills the blob.
    #[error("blob {} is in use: try again when its downloads and readers are done", .0.short())]
    InUse(BlobId),
    /// The blob is pinned.
    #[error("blob {} is pinned: unpin it first", .0.short())]
    Pinned(BlobId),
    /// The store has no such blob.
    #[error("there is no blob {} in the store", .0.short())]
    NoSuchBlob(BlobId),
    /// The blob was discarded while this handle to it was open: open it anew.
    #[error("blob {} was discarded: open it anew", .0.short())]
    Discarded(BlobId),
    /// The stored manifest and what was to be learned contradict each other: discard the blob, or don't trust the
    /// other side.
    #[error("what is stored of blob {} contradicts the new manifest: remove the blob to take the new one", blob.short())]
    Manifest {
        /// The blob.
        blob: BlobId,
        /// The contradiction.
        #[source]
        source: ManifestError,
    },
    /// The stored blob is cut into pieces of another length.
    #[error(
        "blob {} is stored in pieces of {stored}, not of {wanted}: keep to them, or remove the blob first",
        blob.short()
    )]
    OtherPieces {
        /// The blob.
        blob: BlobId,
        /// Length of the stored pieces.
        stored: PieceLength,
        /// Length that was asked for.
        wanted: PieceLength,
    },
    /// The blob can't be sealed: pieces are missing, or its length is not known yet.
    #[error("blob {} is not whole, {held} pieces are held: fetch the rest before sealing it", blob.short())]
    Incomplete {
        /// The blob.
        blob: BlobId,
        /// Pieces held.
        held: u32,
    },
    /// The blob can't be sealed: its pieces don't make the root they should.
    #[error("the pieces of blob {} do not make the expected root: discard the blob", .0.short())]
    WrongRoot(BlobId),
    /// Another process has the store.
    #[error(
        "{} is in use by {}: stop it or choose another data directory",
        path.display(), pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process that holds the lock, if it could be read.
        pid: Option<u32>,
    },
    /// A data directory that is another's, or that others may write to: what is in it can't be relied on.
    #[error("{} {problem}", path.display())]
    UnsafeDir {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The operating system refused.
    #[error("could not {action} {}: check the disk and the permissions of the data directory", path.display())]
    Io {
        /// What was tried: an infinitive.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The refusal.
        #[source]
        source: io::Error,
    },
    /// The index could not be read or written; it holds nothing that can't be rebuilt.
    #[error("could not use the index {}: stop darter and delete the file, it is rebuilt", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: Box<redb::Error>,
    },
}

/// What limits how much is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The quota, of so many bytes.
    Quota(u64),
    /// What is to stay free on the file system: so many bytes.
    Reserve(u64),
    /// The file system itself.
    Disk,
}

fn no_room(needed: u64, free: u64, limit: Limit) -> String {
    let needs = format!("{} do not fit", size(needed));
    match limit {
        Limit::Quota(quota) if needed > quota => format!("{needs} into {} (--quota): raise --quota", size(quota)),
        Limit::Quota(quota) => format!(
            "{needs}: {} of {} (--quota) are pinned, being read or on their way; wait, `darter unpin` something, or raise \
             --quota",
            size(quota.saturating_sub(free)),
            size(quota)
        ),
        Limit::Reserve(reserve) => format!(
            "{needs}: {} can be stored while {} of the file system stay free (--reserve); free some disk, or lower --reserve",
            size(free),
            size(reserve)
        ),
        Limit::Disk => {
            format!("{needs} on the file system, which has {} free: free some disk, or lower --quota", size(free))
        }
    }
}

/// Bytes for people, in decimal units as disks are sold.
pub fn size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

impl StoreError {
    /// Whether the same call may succeed later without anybody repairing anything.
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::UnknownPiece { .. } | Self::NotHeld { .. } | Self::InUse(_))
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
