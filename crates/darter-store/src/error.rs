//! Errors of a store, and what to do about them.

use std::io;
use std::path::{Path, PathBuf};

use darter_core::fault::advice;
use darter_core::manifest::ManifestError;
use darter_core::{Blame, Blamed, BlobId, Fault, PieceIndex, PieceLength, Retry};

/// The result of this crate's operations.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why a store could not carry out a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no room for the bytes, although everything that may be evicted was evicted. Held pieces stay readable.
    #[error("{}", no_room(*needed, *free, *limit))]
    Full {
        /// How many bytes were to be stored.
        needed: u64,
        /// How many bytes could have been stored.
        free: u64,
        /// The limit that is reached.
        limit: Limit,
    },
    /// The bytes do not match the piece's hash in the manifest; nothing was written. The sender is at fault.
    #[error("the bytes given for piece {piece} of blob {} are not that piece: fetch it from another holder", blob.short())]
    WrongPiece {
        /// The blob.
        blob: BlobId,
        /// The piece.
        piece: PieceIndex,
    },
    /// The piece's hash or its length is not known yet: extend the manifest first.
    #[error("the manifest of blob {} does not know piece {piece} yet: extend it, then try again", blob.short())]
    UnknownPiece {
        /// The blob.
        blob: BlobId,
        /// The piece.
        piece: PieceIndex,
    },
    /// The piece is not held: it never was, or it was found damaged just now. Fetch it.
    #[error("piece {piece} of blob {} is not held: fetch it, then try again", blob.short())]
    NotHeld {
        /// The blob.
        blob: BlobId,
        /// The first piece of the requested ones that is not held.
        piece: PieceIndex,
    },
    /// A read after the blob's end.
    #[error("bytes {offset}..{end} reach past the end of blob {}", blob.short())]
    PastTheEnd {
        /// The blob.
        blob: BlobId,
        /// The offset of the first requested byte.
        offset: u64,
        /// The offset after the last requested byte.
        end: u64,
    },
    /// The blob is in use.
    #[error("blob {} is in use: try again when its downloads and readers are done", .0.short())]
    InUse(BlobId),
    /// The blob is pinned.
    #[error("blob {} is pinned: unpin it first (darter unpin)", .0.short())]
    Pinned(BlobId),
    /// The store has no such blob.
    #[error("there is no blob {} in the store: darter ls lists those that are", .0.short())]
    NoSuchBlob(BlobId),
    /// The blob was discarded while this handle was open: open the blob again.
    #[error("blob {} was discarded: open it anew", .0.short())]
    Discarded(BlobId),
    /// The stored manifest contradicts the new hashes or length: discard the blob, or don't trust the
    /// other side.
    #[error("what is stored of blob {} contradicts the new manifest: remove the blob to take the new one", blob.short())]
    Manifest {
        /// The blob.
        blob: BlobId,
        /// The contradiction.
        #[source]
        source: ManifestError,
    },
    /// The stored blob has pieces of another length.
    #[error(
        "blob {} is stored in pieces of {stored}, not of {wanted}: keep to them, or remove the blob first",
        blob.short()
    )]
    OtherPieces {
        /// The blob.
        blob: BlobId,
        /// The length of the stored pieces.
        stored: PieceLength,
        /// The requested length of pieces.
        wanted: PieceLength,
    },
    /// The blob can't be sealed: pieces are missing, or its length is not known yet.
    #[error("blob {} is not whole, {held} pieces are held: fetch the rest before sealing it", blob.short())]
    Incomplete {
        /// The blob.
        blob: BlobId,
        /// How many pieces are held.
        held: u32,
    },
    /// The blob can't be sealed: the root of its pieces is not the expected one.
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
    /// The data directory belongs to another user, or others may write to it: its content can't be trusted.
    #[error("{} {problem}", path.display())]
    UnsafeDir {
        /// The directory.
        path: PathBuf,
        /// The problem, and what to do.
        problem: String,
    },
    /// The operating system refused.
    #[error("could not {action} {}{}", path.display(), what_to_do(source))]
    Io {
        /// The attempted action, as an infinitive.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The index could not be read or written. Everything in it can be rebuilt.
    #[error("could not use the index {}: {}", path.display(), index_advice(source))]
    Index {
        /// The index file.
        path: PathBuf,
        /// The database's error.
        #[source]
        source: Box<redb::Error>,
    },
}

/// The limits of how much is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The quota, in bytes.
    Quota(u64),
    /// The bytes that have to stay free on the file system.
    Reserve(u64),
    /// The file system itself.
    Disk,
    /// This user's quota on the file system.
    UserQuota,
    /// The maximum size of a file of this process.
    OneFile,
}

/// Advice about an error of the system. Errors of this crate itself contain theirs.
fn what_to_do(refusal: &io::Error) -> String {
    if refusal.get_ref().is_some() { String::new() } else { format!(": {}", advice(refusal)) }
}

fn index_advice(error: &redb::Error) -> &'static str {
    refusal_of(error).map_or("stop darter and delete the file, it is rebuilt", advice)
}

/// The system's error, if the index failed because of one.
const fn refusal_of(error: &redb::Error) -> Option<&io::Error> {
    match error {
        redb::Error::Io(refusal) => Some(refusal),
        _ => None,
    }
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
        Limit::UserQuota => format!(
            "{needs} into what the file system lets this user keep (disk quota): delete some of the user's files, or have \
             that limit raised"
        ),
        Limit::OneFile => format!(
            "{needs} into the file that they belong to (File too large): raise the limit of the length of files \
             (`ulimit -f`, LimitFSIZE= of a service), or choose another file system with --data-dir"
        ),
    }
}

/// A number of bytes for people, in decimal units, as those of disks.
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

impl Blamed for StoreError {
    fn blame(&self) -> Blame {
        use Fault::{Disk, Ourselves, Peer, User};
        let (fault, retry) = match self {
            // Blobs that others use now go when they are done; an agent with more room need not wait for that.
            Self::Full { needed, limit: Limit::Quota(quota), .. } if needed > quota => (Disk, Retry::Elsewhere),
            Self::Full { limit: Limit::Disk | Limit::UserQuota | Limit::OneFile, .. } => (Disk, Retry::Elsewhere),
            Self::Full { .. } => (Disk, Retry::Later(None)),
            Self::WrongPiece { .. } | Self::WrongRoot(_) | Self::Manifest { .. } => (Peer, Retry::Elsewhere),
            Self::UnknownPiece { .. } | Self::NotHeld { .. } | Self::Incomplete { .. } => {
                (Ourselves, Retry::Later(None))
            }
            Self::OtherPieces { .. } => (Ourselves, Retry::Elsewhere),
            Self::Discarded(_) => (Ourselves, Retry::Now),
            Self::InUse(_) => (User, Retry::Later(None)),
            Self::PastTheEnd { .. }
            | Self::Pinned(_)
            | Self::NoSuchBlob(_)
            | Self::Locked { .. }
            | Self::UnsafeDir { .. } => (User, Retry::Never),
            // Another agent's disk may do.
            Self::Io { source, .. } if source.blame().may_pass() => (Disk, Retry::Later(None)),
            Self::Index { source, .. } if refusal_of(source).is_some_and(|it| it.blame().may_pass()) => {
                (Disk, Retry::Later(None))
            }
            Self::Io { .. } | Self::Index { .. } => (Disk, Retry::Elsewhere),
        };
        Blame::new(fault, retry)
    }
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

#[cfg(test)]
mod tests {
    use darter_core::in_full;

    use super::*;

    #[test]
    fn a_refusal_says_what_to_do_about_it_and_what_the_system_said() {
        let refusal = |number| io::Error::from_raw_os_error(number);
        let at = |number| StoreError::Io { action: "write", path: "/d/blobs".into(), source: refusal(number) };
        let index = |source| StoreError::Index { path: "/d/index.redb".into(), source: Box::new(source) };
        let cases = [
            (at(20), "remove it: Not a directory (os error 20)", Retry::Elsewhere),
            (at(30), "choose another place: Read-only file system (os error 30)", Retry::Elsewhere),
            (at(28), "choose another place: No space left on device (os error 28)", Retry::Elsewhere),
            (at(24), "(os error 24)", Retry::Later(None)),
            (index(redb::Error::Io(refusal(28))), "No space left on device (os error 28)", Retry::Elsewhere),
            (
                index(redb::Error::Corrupted("x".into())),
                "delete the file, it is rebuilt: DB corrupted: x",
                Retry::Elsewhere,
            ),
        ];
        for (error, ends, retry) in cases {
            let told = in_full(&error).to_string();
            assert!(told.contains("/d/") && told.ends_with(ends), "{told}");
            assert_eq!(error.blame(), Blame::new(Fault::Disk, retry), "{told}");
        }
    }

    #[test]
    fn sizes_are_written_as_disks_are_sold() {
        let texts = [0, 999, 1000, 1049, 999_949, 999_950, 1_500_000_000, 40_000_000_000_000, u64::MAX].map(size);
        let expected = ["0 B", "999 B", "1.0 kB", "1.0 kB", "999.9 kB", "1.0 MB", "1.5 GB", "40.0 TB", "18.4 EB"];
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_refusal_for_want_of_room_names_what_has_to_give_way() {
        let said = |needed, free, limit| StoreError::Full { needed, free, limit }.to_string();
        assert!(said(11, 10, Limit::Quota(10)).ends_with("into 10 B (--quota): raise --quota"));
        let in_use = said(10, 4, Limit::Quota(10));
        assert!(in_use.starts_with("10 B do not fit: 6 B of 10 B (--quota) are pinned"), "{in_use}");
        let reserve = said(10, 4, Limit::Reserve(100));
        assert!(reserve.contains("4 B can be stored while 100 B") && reserve.contains("--reserve"), "{reserve}");
        let may_pass = |needed, limit| StoreError::Full { needed, free: 4, limit }.blame().may_pass();
        assert!(may_pass(10, Limit::Quota(10)) && may_pass(10, Limit::Reserve(100)), "others will be done");
        assert!(!may_pass(11, Limit::Quota(10)) && !may_pass(10, Limit::Disk));
        let disk = said(10, 4, Limit::Disk);
        assert!(disk.contains("which has 4 B free") && disk.contains("free some disk"), "{disk}");
        for (limit, named) in [(Limit::UserQuota, "disk quota"), (Limit::OneFile, "ulimit -f")] {
            let told = said(10, 9, limit);
            assert!(told.starts_with("10 B do not fit into") && told.contains(named) && !may_pass(10, limit), "{told}");
        }
    }
}
