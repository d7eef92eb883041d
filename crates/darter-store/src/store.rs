//! The store as its users see it: the two traits that everyone else codes against, and the words they use.
//!
//! A blob is *in use* while anybody holds the `Arc` that [`Store::open`] gave and does not [rest](StoredBlob::rest); all who
//! open the same blob share one. A blob in use is never evicted. So hold the `Arc` for as long as a download or a reader
//! lives, and no longer, or say that you rest.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use darter_core::{BlobId, ByteRange, Clock, Digest, Fetched, Manifest, PieceHash, PieceIndex, PieceSet, Version};
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Tells wall-clock time: seconds since 1970, as the operating system has them. For people who list blobs; the order of
/// eviction follows the order of use, whatever this clock says.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// An amount of bytes, or a share of a file system.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// A share of the file system, in per cent.
    Percent(f64),
}

impl Amount {
    /// In bytes, on a file system of `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            // Rounding does not matter here.
            Self::Percent(share) => (total as f64 * share.clamp(0.0, 100.0) / 100.0) as u64,
        }
    }
}

/// How much a store may keep, and when it tidies.
#[derive(Clone)]
pub struct StoreConfig {
    /// Most bytes of pieces to hold; `None` leaves it to the disk.
    pub quota: Option<Amount>,
    /// Bytes that others are to find free on the file system; they count against what the store may hold.
    pub reserve_free: Amount,
    /// Above this share of what it may hold, the store evicts...
    pub high_water: f64,
    /// ...until it holds this share.
    pub low_water: f64,
    /// At most how long a piece is held in memory's bookkeeping only: what a crash makes us fetch again.
    pub flush_every: Duration,
    /// Dates uses.
    pub now: WallClock,
    /// Spaces the looks at a file whose parts are sent one after the other; without one, each of them takes a look.
    pub clock: Option<Arc<dyn Clock>>,
}

impl StoreConfig {
    /// 80 % of the file system, of which 10 % stay free, water marks at 95 and 85 per cent, bookkeeping written every second.
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

/// A blob's description, besides its bytes. Fixed when the blob is first stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobInfo {
    /// The source for people: a URL, or a repository and a digest.
    pub name: String,
    /// The digest that the content must have, if one is known.
    pub digest: Option<Digest>,
    /// The state of the source that these bytes are.
    pub version: Version,
    /// When the blob was first wanted here: seconds since 1970.
    pub created: u64,
}

/// One line of a store's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobSummary {
    /// The blob's name in the fleet.
    pub id: BlobId,
    /// The blob's description, besides its bytes.
    pub info: BlobInfo,
    /// Its length in bytes, once known.
    pub length: Option<u64>,
    /// Bytes of the pieces held.
    pub held_bytes: u64,
    /// True if it is whole and its digest was checked.
    pub complete: bool,
    /// True if it is kept whatever happens.
    pub pinned: bool,
    /// True if somebody holds it open.
    pub in_use: bool,
    /// When it was last opened or touched: seconds since 1970.
    pub last_used: u64,
}

/// How full a store is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Held pieces.
    pub used: u64,
    /// Bytes that the store may hold at most now: the lesser of its quota and what the disk allows.
    pub capacity: u64,
    /// The configured quota, in bytes.
    pub quota: Option<u64>,
    /// Free on the file system for this user, when it was last asked; `None` for a store that is not on one.
    pub disk_free: Option<u64>,
    /// Blobs on the shelf.
    pub blobs: u64,
    /// Blobs evicted since the store was opened.
    pub evicted_blobs: u64,
    /// Bytes of theirs.
    pub evicted_bytes: u64,
}

/// Files that a store found at its start that a newer version of Darter wrote, or that nobody can read: they were left untouched, or set
/// aside where their name was needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAside {
    /// Blobs.
    pub blobs: Vec<BlobId>,
    /// The index of last uses and sources.
    pub index: bool,
}

/// A source as it was when it was last read: saves asking the origin for bytes that are here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// The blob that the source's bytes are stored as.
    pub blob: BlobId,
    /// The validators to ask the origin about.
    pub version: Version,
    /// When the origin last vouched for this version: seconds since 1970.
    pub checked: u64,
    /// The caller whose answer it was and what the answer showed; unknown in records of older releases.
    pub fetched: Option<Fetched>,
}

/// The outcome of a piece that was given to [`StoredBlob::put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It was verified, written, and is held now.
    Stored,
    /// It was held already.
    AlreadyHeld,
}

/// A verified piece as a part of a file, for `sendfile`.
#[derive(Clone, Debug)]
pub struct PieceFile {
    /// The blob's data file. Stays readable after the blob was evicted.
    pub file: Arc<File>,
    /// The piece's bytes in it.
    pub range: ByteRange,
}

/// Keeps blobs. A method may wait for the disk unless it says that it is answered from memory: asynchronous code calls it by way of
/// [`Disk`](crate::Disk).
pub trait Store: Send + Sync {
    /// Opens a blob that is stored, whole or in part; `None` if it is not. Counts as a use.
    ///
    /// # Errors
    /// When the disk refuses.
    fn open(&self, blob: BlobId) -> Result<Option<Arc<dyn StoredBlob>>>;

    /// True if nothing is stored of a blob, answered from memory; false when in doubt. It spares most openings of what is not here.
    fn is_absent(&self, blob: BlobId) -> bool;

    /// Opens a blob, or makes room for it and starts to store it. A stored blob keeps its info and learns what
    /// `manifest` knows beyond its own. Counts as a use.
    ///
    /// # Errors
    /// [`StoreError::Full`](crate::StoreError::Full) at once when the rest of the blob (of known length) and of
    /// all the others in use will not fit, even after eviction; [`OtherPieces`](crate::StoreError::OtherPieces) and
    /// [`Manifest`](crate::StoreError::Manifest) when what is stored contradicts `manifest`.
    fn open_or_create(&self, blob: BlobId, info: BlobInfo, manifest: Manifest) -> Result<Arc<dyn StoredBlob>>;

    /// All blobs, most recently used first.
    fn list(&self) -> Vec<BlobSummary>;

    /// Removes a blob. False if there was none.
    ///
    /// # Errors
    /// [`InUse`](crate::StoreError::InUse) or [`Pinned`](crate::StoreError::Pinned).
    fn remove(&self, blob: BlobId) -> Result<bool>;

    /// Spares a blob from eviction and removal (`true`) until it is not spared any more (`false`), or the store is closed; also one that is not
    /// stored yet. Answered from memory. Unlike a pin it is nothing that people see and change.
    fn spare(&self, blob: BlobId, spared: bool);

    /// The file that a stored blob's bytes are in; `None` where they are in none.
    fn path(&self, blob: BlobId) -> Option<PathBuf>;

    /// Keeps a blob (`true`) until it is unpinned (`false`). A blob that is pinned before it is whole stays pinned.
    ///
    /// # Errors
    /// [`NoSuchBlob`](crate::StoreError::NoSuchBlob).
    fn pin(&self, blob: BlobId, pinned: bool) -> Result<()>;

    /// Counts a use of a blob, if it is stored: in memory, for readers that hold a blob open for long. May be called on any thread.
    fn touch(&self, blob: BlobId);

    /// How full the store is, answered from memory: the disk is measured about once a second.
    fn usage(&self) -> Usage;

    /// The files that were not used at the start because a newer version wrote them, answered from memory.
    fn set_aside(&self) -> SetAside;

    /// Takes another quota and another reserve. Blobs over the new limit are evicted in the background, or at once by a store without a thread for it.
    fn set_limits(&self, quota: Option<Amount>, reserve: Amount);

    /// Remembers in memory what a source was, for the next flush; `key` is [`Source::record_key`](darter_core::Source::record_key). Forgotten with the blob.
    fn remember_source(&self, key: BlobId, record: SourceRecord);

    /// The record of a source when it was last read, unless its blob was stored and is not any more.
    ///
    /// # Errors
    /// When the disk refuses.
    fn recall_source(&self, key: BlobId) -> Result<Option<SourceRecord>>;

    /// Makes everything durable that was stored and remembered before the call.
    ///
    /// # Errors
    /// When the disk refuses; what could not be written is tried again later.
    fn flush(&self) -> Result<()>;
}

/// One stored blob, whole or in part. Questions about its manifest, its held pieces and its state are answered from memory;
/// everything else may wait for the disk.
///
/// Invariant: a piece is held only if its bytes, verified against the manifest, were written; bytes leave the store
/// only if they were verified by this process and the file was not touched by another since; a piece that is given as a part of a file
/// and is not in memory any more is verified anew.
pub trait StoredBlob: Send + Sync + fmt::Debug {
    /// The blob's name in the fleet.
    fn id(&self) -> BlobId;

    /// The blob's description, besides its bytes.
    fn info(&self) -> BlobInfo;

    /// A copy of the manifest as it is now: 32 bytes a piece.
    fn manifest(&self) -> Manifest;

    /// The hashes of up to `most` pieces from `from` on, up to the first one that is not known.
    fn hashes_from(&self, from: u32, most: usize) -> Vec<PieceHash>;

    /// Length in bytes, once known.
    fn length(&self) -> Option<u64>;

    /// How many of the first pieces have a known hash: the number of the first piece that has none.
    fn prefix(&self) -> u32;

    /// A copy of the set of pieces with a known hash.
    fn known(&self) -> PieceSet;

    /// How many pieces have a known hash.
    fn known_count(&self) -> u32;

    /// The hash of a piece, if known.
    fn hash(&self, piece: PieceIndex) -> Option<PieceHash>;

    /// Learns hashes, see [`Manifest::extend`]; returns how many were new.
    ///
    /// # Errors
    /// [`Manifest`](crate::StoreError::Manifest) when they contradict what is known.
    fn extend(&self, from: u32, hashes: &[PieceHash]) -> Result<u32>;

    /// Learns the blob's length, see [`Manifest::set_length`]. A last piece held with another length is dropped.
    ///
    /// # Errors
    /// [`Manifest`](crate::StoreError::Manifest) when it contradicts what is known.
    fn set_length(&self, length: u64) -> Result<()>;

    /// A copy of the set of pieces held.
    fn held(&self) -> PieceSet;

    /// True if `piece` is held.
    fn holds(&self, piece: PieceIndex) -> bool;

    /// Bytes of the pieces held.
    fn held_bytes(&self) -> u64;

    /// The pieces that were held and found damaged since the last call: they have to be fetched again.
    fn take_lost(&self) -> PieceSet;

    /// Verifies a piece and stores it: one pass of hashing, one write, no lock held during either. While the length is
    /// unknown, a full piece is taken if its hash is known.
    ///
    /// # Errors
    /// [`WrongPiece`](crate::StoreError::WrongPiece), [`UnknownPiece`](crate::StoreError::UnknownPiece),
    /// [`Full`](crate::StoreError::Full) (the blob stays readable), [`Discarded`](crate::StoreError::Discarded).
    fn put(&self, piece: PieceIndex, data: &[u8]) -> Result<Put>;

    /// Stores several pieces, each as [`put`](Self::put) does: those that are together at hand cost less than one by one.
    fn put_all(&self, pieces: &[(PieceIndex, &[u8])]) -> Vec<Result<Put>> {
        pieces.iter().map(|(piece, data)| self.put(*piece, data)).collect()
    }

    /// Stores a piece that comes from where the content is read first, and learns its hash: one pass of hashing as well. `only` is whether it
    /// is all of the blob. A piece whose hash is known is [`put`](Self::put).
    ///
    /// # Errors
    /// As [`Self::put`] and [`Self::extend`].
    fn put_first(&self, piece: PieceIndex, data: &[u8], only: bool) -> Result<Put>;

    /// Fills `buffer` with the bytes from `offset` on; all must lie in held pieces.
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

    /// Compares a held piece with its hash, though that was done before: somebody was given something else.
    ///
    /// # Errors
    /// [`NotHeld`](crate::StoreError::NotHeld): it is damaged, and one of [those that were lost](Self::take_lost).
    fn verify(&self, piece: PieceIndex) -> Result<()>;

    /// The place of a held piece in a file, verified and in the page cache: pages that are not there are read from the disk first. `None` for a store
    /// without files: read it instead.
    ///
    /// # Errors
    /// [`NotHeld`](crate::StoreError::NotHeld).
    fn piece_file(&self, piece: PieceIndex) -> Result<Option<PieceFile>> {
        self.file_run(piece..PieceIndex(piece.0.saturating_add(1)))
    }

    /// The place of the first of these pieces in a file, at least of one, as [`piece_file`](Self::piece_file) tells of one: those that
    /// follow in the page cache take one look at the file for all.
    ///
    /// # Errors
    /// [`NotHeld`](crate::StoreError::NotHeld): the first is not.
    fn file_run(&self, pieces: Range<PieceIndex>) -> Result<Option<PieceFile>>;

    /// The place of a piece in a file that can be sent at once: this process has verified it, and it is in the page cache. May be called
    /// on any thread, since it asks an open file and reads nothing. `None` says nothing of the piece but that it has to be asked for
    /// where the disk may be waited for.
    fn ready_file(&self, piece: PieceIndex) -> Option<PieceFile> {
        self.ready_run(piece..PieceIndex(piece.0.saturating_add(1)))
    }

    /// The place of the first of these pieces in a file, up to one that is not ready ([`ready_file`](Self::ready_file)): one look at the
    /// file for all of them.
    fn ready_run(&self, pieces: Range<PieceIndex>) -> Option<PieceFile>;

    /// The digest of all bytes, by `like`'s algorithm. `step` is called for each piece: all of them may take minutes.
    ///
    /// # Errors
    /// [`Incomplete`](crate::StoreError::Incomplete), or [`NotHeld`](crate::StoreError::NotHeld) when a piece is found
    /// damaged on the way.
    fn hash_whole(&self, like: &Digest, step: &dyn Fn()) -> Result<Digest>;

    /// Declares the blob complete: the caller has checked its digest. The record of it is durable after the next flush.
    ///
    /// # Errors
    /// [`Incomplete`](crate::StoreError::Incomplete), [`WrongRoot`](crate::StoreError::WrongRoot).
    fn seal(&self, root: PieceHash) -> Result<()>;

    /// True if the blob was sealed and has lost nothing since.
    fn is_complete(&self) -> bool;

    /// Drops pieces, such as those of a source found wrong, and gives their room back.
    ///
    /// # Errors
    /// When the disk refuses.
    fn drop_pieces(&self, pieces: &PieceSet) -> Result<()>;

    /// Dissolves the blob at once, pinned or in use: it holds nothing from now on, takes nothing, and its name is free
    /// for a new one.
    ///
    /// # Errors
    /// When the disk refuses.
    fn discard(&self) -> Result<()>;

    /// True if it was discarded, or evicted while all its holders rested: this handle is of no use any more.
    fn is_discarded(&self) -> bool;

    /// The caller keeps its `Arc` but reads and writes nothing until it [wakes](Self::wake): while all who hold one rest, the
    /// blob may be evicted. Call it once before each `wake`.
    fn rest(&self);

    /// Ends the caller's rest. False if the blob was evicted meanwhile: open it anew.
    fn wake(&self) -> bool;

    /// True if it passes through memory, since there is no room to store it: see [`Passing`](crate::Passing).
    fn passes(&self) -> bool {
        false
    }

    /// How many bytes of it may be in memory while it passes.
    fn window(&self) -> u64 {
        u64::MAX
    }

    /// Returns true if that many are, of the pieces that come before this one.
    fn is_crowded(&self, before: PieceIndex) -> bool {
        let _ = before;
        false
    }

    /// Forgets the pieces before this one that are in memory, if it passes: they count as held but can't be read any more.
    ///
    /// # Errors
    /// When the disk refuses.
    fn forget(&self, before: PieceIndex) -> Result<()> {
        let _ = before;
        Ok(())
    }

    /// The pieces that lie in memory.
    fn aside(&self) -> PieceSet {
        PieceSet::new()
    }

    /// The pieces that were forgotten.
    fn forgotten(&self) -> PieceSet {
        PieceSet::new()
    }
}
