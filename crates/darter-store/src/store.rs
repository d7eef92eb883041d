//! The traits [`Store`] and [`StoredBlob`], which are all that other crates need, and the types of their arguments and results.
//!
//! A blob is *in use* while anybody has the `Arc` that [`Store::open`] returned and does not [rest](StoredBlob::rest). All callers that open the same blob share it. A blob in use is never
//! evicted: so keep the `Arc` as long as a download or a reader exists, and no longer, or rest.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use darter_core::{BlobId, ByteRange, Clock, Digest, Fetched, Manifest, PieceHash, PieceIndex, PieceSet, Version};
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Returns the time of the operating system's clock in seconds since 1970. It is only shown to people: the order of
/// eviction is the order of uses, which does not depend on this clock.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A number of bytes, or a share of a file system.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// This many bytes.
    Bytes(u64),
    /// This many per cent of the file system's size.
    Percent(f64),
}

impl Amount {
    /// The amount in bytes on a file system of `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            // Rounding does not matter here.
            Self::Percent(share) => (total as f64 * share.clamp(0.0, 100.0) / 100.0) as u64,
        }
    }
}

/// How much a store may hold, and when it evicts and saves.
#[derive(Clone)]
pub struct StoreConfig {
    /// The quota: most bytes of pieces that are held. `None` means that only the disk is a limit.
    pub quota: Option<Amount>,
    /// The bytes that have to stay free on the file system for others.
    pub reserve_free: Amount,
    /// The high-water mark, a share of what the store may hold: above it, the store evicts blobs...
    pub high_water: f64,
    /// ...until it holds at most this share.
    pub low_water: f64,
    /// How often changes are saved: pieces that were stored since then are fetched again after a crash.
    pub flush_every: Duration,
    /// The clock for the dates of uses.
    pub now: WallClock,
    /// The clock by which a file's stamp is compared only now and then while parts of the file are sent. Without one, it is compared for each part.
    pub clock: Option<Arc<dyn Clock>>,
}

impl StoreConfig {
    /// A quota of 80 % of the file system, a reserve of 10 %, water marks of 95 and 85 %, and changes saved every second.
    pub fn new(now: WallClock) -> Self {
        Self {
            quota: Some(Amount::Percent(80.0)),
            reserve_free: Amount::Percent(10.0),
            high_water: 0.95,
            low_water: 0.85,
            flush_every: Duration::from_secs(1),
            now,
            clock: None,
        }
    }
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig")
            .field("quota", &self.quota)
            .field("reserve_free", &self.reserve_free)
            .field("high_water", &self.high_water)
            .field("low_water", &self.low_water)
            .field("flush_every", &self.flush_every)
            .finish_non_exhaustive()
    }
}

/// A blob's description, which is fixed when the blob is first stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobInfo {
    /// The name of its source, for people: a URL, or a repository and a digest.
    pub name: String,
    /// The digest that the content must have, if one is known.
    pub digest: Option<Digest>,
    /// The version of the source to which the bytes belong.
    pub version: Version,
    /// When the blob was first requested on this host, in seconds since 1970.
    pub created: u64,
}

/// One line of a store's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobSummary {
    /// The blob's name in the fleet.
    pub id: BlobId,
    /// The blob's description.
    pub info: BlobInfo,
    /// Its length in bytes, once known.
    pub length: Option<u64>,
    /// How many bytes its held pieces have.
    pub held_bytes: u64,
    /// True if it is complete and was checked.
    pub complete: bool,
    /// True if it is pinned: never evicted.
    pub pinned: bool,
    /// True if it is in use.
    pub in_use: bool,
    /// When it was last opened or [touched](Store::touch), in seconds since 1970.
    pub last_used: u64,
}

/// How full a store is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The bytes of held pieces.
    pub used: u64,
    /// The most bytes that the store may hold now: the lesser of its quota and what the disk allows.
    pub capacity: u64,
    /// The configured quota, in bytes.
    pub quota: Option<u64>,
    /// The bytes that were free on the file system for this user when it was last asked; `None` for a store in memory.
    pub disk_free: Option<u64>,
    /// How many blobs there are, complete or not.
    pub blobs: u64,
    /// How many blobs were evicted since the store was opened.
    pub evicted_blobs: u64,
    /// How many bytes these blobs had.
    pub evicted_bytes: u64,
}

/// The files that a store found at its start and does not use: files of a newer version of Darter, and files that can't be read. They stay as they are, or are renamed
/// if their name is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAside {
    /// The blobs with such files.
    pub blobs: Vec<BlobId>,
    /// True if the index of last uses and sources is such a file.
    pub index: bool,
}

/// What was last read from a source: so bytes that are stored need not be requested from its origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// The blob as which the source's bytes are stored.
    pub blob: BlobId,
    /// The version, by which the origin can be asked whether it is still current.
    pub version: Version,
    /// When the origin last confirmed this version, in seconds since 1970.
    pub checked: u64,
    /// Whose credentials got the origin's answer, and what the answer said about sharing it; `None` in records of older releases.
    pub fetched: Option<Fetched>,
}

/// The outcome of a piece that was given to [`StoredBlob::put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It was verified and written, and is held now.
    Stored,
    /// It was held already.
    AlreadyHeld,
}

/// Verified pieces as a part of a file, for `sendfile`.
#[derive(Clone, Debug)]
pub struct PieceFile {
    /// The blob's data file, which can be read even after the blob was evicted.
    pub file: Arc<File>,
    /// The range of the pieces in the file, in bytes.
    pub range: ByteRange,
}

/// Keeps blobs. A method may wait for the disk unless its documentation says that it is answered from memory: asynchronous code calls it through
/// [`Disk`](crate::Disk).
pub trait Store: Send + Sync {
    /// Opens a blob that is stored, completely or in part; `None` if nothing of it is. Counts as a use.
    ///
    /// # Errors
    /// The disk refuses.
    fn open(&self, blob: BlobId) -> Result<Option<Arc<dyn StoredBlob>>>;

    /// True if nothing is stored of a blob; false if that is not certain. Answered from memory, so that most blobs that are not here need not be opened.
    fn is_absent(&self, blob: BlobId) -> bool;

    /// Opens a blob, or makes room for it and creates it. A stored blob keeps its info, and adds the hashes and the length that
    /// `manifest` has and its own manifest lacks. Counts as a use.
    ///
    /// # Errors
    /// [`StoreError::Full`](crate::StoreError::Full) if there is no room, even after evictions, for what is missing of the blob (if its length is known) and of
    /// all others in use; [`OtherPieces`](crate::StoreError::OtherPieces) and
    /// [`Manifest`](crate::StoreError::Manifest) if the stored blob contradicts `manifest`.
    fn open_or_create(&self, blob: BlobId, info: BlobInfo, manifest: Manifest) -> Result<Arc<dyn StoredBlob>>;

    /// All blobs, most recently used first.
    fn list(&self) -> Vec<BlobSummary>;

    /// Removes a blob. False if there was none.
    ///
    /// # Errors
    /// [`InUse`](crate::StoreError::InUse) or [`Pinned`](crate::StoreError::Pinned).
    fn remove(&self, blob: BlobId) -> Result<bool>;

    /// Spares a blob from eviction and removal (`true`), or no longer (`false`). The blob need not be stored yet. Forgotten when the store is closed. Answered from memory.
    /// Unlike pins, this is not shown to people, who can't change it.
    fn spare(&self, blob: BlobId, spared: bool);

    /// The file with a stored blob's bytes; `None` for a store in memory.
    fn path(&self, blob: BlobId) -> Option<PathBuf>;

    /// Pins a blob (`true`) or unpins it (`false`): a pinned blob is not evicted. It may be incomplete.
    ///
    /// # Errors
    /// [`NoSuchBlob`](crate::StoreError::NoSuchBlob).
    fn pin(&self, blob: BlobId, pinned: bool) -> Result<()>;

    /// Counts a use of a blob, if it is stored: for readers that have a blob open for a long time. Answered from memory.
    fn touch(&self, blob: BlobId);

    /// How full the store is. Answered from memory: the disk is asked about once a second.
    fn usage(&self) -> Usage;

    /// The files that the store does not use. Answered from memory.
    fn set_aside(&self) -> SetAside;

    /// Sets another quota and reserve. Blobs above the new limit are evicted in the background, or at once by a store without a thread for this.
    fn set_limits(&self, quota: Option<Amount>, reserve: Amount);

    /// Records what was read from a source; `key` is [`Source::record_key`](darter_core::Source::record_key). Done in memory; the next flush makes it durable. The record is removed with the blob.
    fn remember_source(&self, key: BlobId, record: SourceRecord);

    /// The record of a source; `None` if there is none, or if its blob was removed.
    ///
    /// # Errors
    /// The disk refuses.
    fn recall_source(&self, key: BlobId) -> Result<Option<SourceRecord>>;

    /// Makes everything durable that was stored and recorded before the call.
    ///
    /// # Errors
    /// The disk refuses; what could not be written is tried again later.
    fn flush(&self) -> Result<()>;
}

/// One stored blob, complete or in part. Questions about its manifest, its held pieces and its state are answered from memory;
/// everything else may wait for the disk.
///
/// Invariants: a piece is held only if its bytes were verified against the manifest and written. Bytes are given out
/// only if this process has verified them and nobody else has changed the file since. A piece that is given out as a part of a file
/// is verified again if it is no longer in the page cache.
pub trait StoredBlob: Send + Sync + fmt::Debug {
    /// The blob's name in the fleet.
    fn id(&self) -> BlobId;

    /// The blob's description.
    fn info(&self) -> BlobInfo;

    /// A copy of the manifest as it is now, which takes 32 bytes per piece.
    fn manifest(&self) -> Manifest;

    /// The hashes of at most `most` pieces from `from` on, up to the first unknown hash.
    fn hashes_from(&self, from: u32, most: usize) -> Vec<PieceHash>;

    /// The length in bytes, once known.
    fn length(&self) -> Option<u64>;

    /// The number of the first piece without a known hash.
    fn prefix(&self) -> u32;

    /// A copy of the set of pieces with a known hash.
    fn known(&self) -> PieceSet;

    /// How many pieces have a known hash.
    fn known_count(&self) -> u32;

    /// The hash of a piece, if known.
    fn hash(&self, piece: PieceIndex) -> Option<PieceHash>;

    /// Adds hashes, see [`Manifest::extend`]; returns how many were new.
    ///
    /// # Errors
    /// [`Manifest`](crate::StoreError::Manifest) if they contradict what is known.
    fn extend(&self, from: u32, hashes: &[PieceHash]) -> Result<u32>;

    /// Sets the blob's length, see [`Manifest::set_length`]. If the last piece is held with another length, it is dropped.
    ///
    /// # Errors
    /// [`Manifest`](crate::StoreError::Manifest) if it contradicts what is known.
    fn set_length(&self, length: u64) -> Result<()>;

    /// A copy of the set of held pieces.
    fn held(&self) -> PieceSet;

    /// True if `piece` is held.
    fn holds(&self, piece: PieceIndex) -> bool;

    /// How many bytes the held pieces have.
    fn held_bytes(&self) -> u64;

    /// The pieces that were found damaged since the last call, and have to be fetched again.
    fn take_lost(&self) -> PieceSet;

    /// Verifies a piece and stores it, with one pass of hashing and one write, and no lock held during either. While the length is
    /// unknown, only a full piece is accepted, if its hash is known.
    ///
    /// # Errors
    /// [`WrongPiece`](crate::StoreError::WrongPiece), [`UnknownPiece`](crate::StoreError::UnknownPiece),
    /// [`Full`](crate::StoreError::Full) (the blob stays readable), [`Discarded`](crate::StoreError::Discarded).
    fn put(&self, piece: PieceIndex, data: &[u8]) -> Result<Put>;

    /// Stores several pieces, each as [`put`](Self::put) does, which costs less than storing them one by one.
    fn put_all(&self, pieces: &[(PieceIndex, &[u8])]) -> Vec<Result<Put>> {
        pieces.iter().map(|(piece, data)| self.put(*piece, data)).collect()
    }

    /// Stores a piece that was read from the origin, and adds its hash to the manifest, with one pass of hashing. `only` says whether the piece
    /// is the whole blob. If the hash is known already, the piece is [`put`](Self::put).
    ///
    /// # Errors
    /// As [`Self::put`] and [`Self::extend`].
    fn put_first(&self, piece: PieceIndex, data: &[u8], only: bool) -> Result<Put>;

    /// Fills `buffer` with the bytes from `offset` on; all of them must be in held pieces.
    ///
    /// # Errors
    /// [`NotHeld`](crate::StoreError::NotHeld) names the first piece to fetch;
    /// [`PastTheEnd`](crate::StoreError::PastTheEnd).
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Replaces the content of `buffer` with a held piece.
    ///
    /// # Errors
    /// [`NotHeld`](crate::StoreError::NotHeld).
    fn read_piece(&self, piece: PieceIndex, buffer: &mut Vec<u8>) -> Result<()>;

    /// Compares a held piece with its hash even if that was done before, since a peer says that it was given something else.
    ///
    /// # Errors
    /// [`NotHeld`](crate::StoreError::NotHeld): it is damaged, and [lost](Self::take_lost).
    fn verify(&self, piece: PieceIndex) -> Result<()>;

    /// The place of a held piece in a file. The piece is verified and in the page cache: if it was not, it is read from the disk first. `None` for a store
    /// without files: read the piece instead.
    ///
    /// # Errors
    /// [`NotHeld`](crate::StoreError::NotHeld).
    fn piece_file(&self, piece: PieceIndex) -> Result<Option<PieceFile>> {
        self.file_run(piece..PieceIndex(piece.0.saturating_add(1)))
    }

    /// The place in a file of the first of these pieces, at least of one, each as [`piece_file`](Self::piece_file) gives it. Further pieces are included while they
    /// are in the page cache; the file's stamp is compared once for all.
    ///
    /// # Errors
    /// [`NotHeld`](crate::StoreError::NotHeld): the first piece is not held.
    fn file_run(&self, pieces: Range<PieceIndex>) -> Result<Option<PieceFile>>;

    /// The place in a file of a piece that can be sent at once: this process has verified it, and it is in the page cache, as far as the file system can tell. May be called
    /// on any thread, since it reads nothing. `None` means only that the piece has to be requested on a thread that may
    /// wait for the disk.
    fn ready_file(&self, piece: PieceIndex) -> Option<PieceFile> {
        self.ready_run(piece..PieceIndex(piece.0.saturating_add(1)))
    }

    /// The place in a file of the first of these pieces, up to one that is not ready (see [`ready_file`](Self::ready_file)). The file's stamp is compared once for
    /// all.
    fn ready_run(&self, pieces: Range<PieceIndex>) -> Option<PieceFile>;

    /// The digest of all bytes, by the algorithm of `like`. May take minutes; `step` is called for each piece.
    ///
    /// # Errors
    /// [`Incomplete`](crate::StoreError::Incomplete), or [`NotHeld`](crate::StoreError::NotHeld) if a piece is found
    /// damaged.
    fn hash_whole(&self, like: &Digest, step: &dyn Fn()) -> Result<Digest>;

    /// Declares the blob complete, after the caller has checked its digest. This is durable after the next flush.
    ///
    /// # Errors
    /// [`Incomplete`](crate::StoreError::Incomplete), [`WrongRoot`](crate::StoreError::WrongRoot).
    fn seal(&self, root: PieceHash) -> Result<()>;

    /// True if the blob was sealed and has lost no piece since.
    fn is_complete(&self) -> bool;

    /// Drops pieces, such as those of a source with wrong content, and gives their room back.
    ///
    /// # Errors
    /// The disk refuses.
    fn drop_pieces(&self, pieces: &PieceSet) -> Result<()>;

    /// Removes the blob at once, even if it is pinned or in use. From now on it holds nothing and accepts nothing, and a new blob with
    /// its id may be created.
    ///
    /// # Errors
    /// The disk refuses.
    fn discard(&self) -> Result<()>;

    /// True if the blob was discarded, or evicted while all its holders rested: then this handle is useless.
    fn is_discarded(&self) -> bool;

    /// The caller keeps its `Arc`, but reads and writes nothing until it [wakes](Self::wake). While all holders rest, the
    /// blob may be evicted. Call this once before each `wake`.
    fn rest(&self);

    /// Ends the caller's rest. False if the blob was evicted meanwhile: then open it again.
    fn wake(&self) -> bool;

    /// True if the blob passes through memory, since there is no room to store it: see [`Passing`](crate::Passing).
    fn passes(&self) -> bool {
        false
    }

    /// How many bytes of it may be in memory while it passes through memory.
    fn window(&self) -> u64 {
        u64::MAX
    }

    /// True if so many bytes of pieces before this one are in memory.
    fn is_crowded(&self, before: PieceIndex) -> bool {
        let _ = before;
        false
    }

    /// Forgets the pieces before this one that are in memory, if the blob passes through memory: they count as held, but can't be read any more.
    ///
    /// # Errors
    /// The disk refuses.
    fn forget(&self, before: PieceIndex) -> Result<()> {
        let _ = before;
        Ok(())
    }

    /// The pieces that are in memory because there was no room for them.
    fn aside(&self) -> PieceSet {
        PieceSet::new()
    }

    /// The pieces that were forgotten.
    fn forgotten(&self) -> PieceSet {
        PieceSet::new()
    }
}
