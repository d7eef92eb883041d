//! Pieces on disk: verified, resumable, evicted by quota.
//!
//! | file | what lives there |
//! |---|---|
//! | [`threads`] | [`Disk`], the way of asynchronous code to a store, and the guard that finds who goes past it |
//! | [`store`] | the traits [`Store`] and [`StoredBlob`], and the words they use |
//! | [`error`] | [`StoreError`] |
//! | [`dir`] | a directory of the agent's own, in which no link is followed |
//! | `disk.rs` | [`DiskStore`], and the layout of its directory |
//! | `disk/layout.rs` | its files: names, order of writing, what is left over after a crash |
//! | `disk/trash.rs` | files that are not in their place yet, or not any more |
//! | `disk/lock.rs` | one process a directory |
//! | `disk/index.rs` | last uses and sources, in redb |
//! | `disk/flusher.rs` | the thread that saves and evicts |
//! | `memory.rs` | [`MemStore`] |
//! | `passing.rs` | [`Passing`], a blob that the store has no room for |
//! | `keeper.rs` | which blobs there are, who is in use, who is evicted: the same for both stores |
//! | `handle.rs` | what callers hold of a blob |
//! | `body.rs` | one blob: what is held, what is verified, and the rules of reading and writing |
//! | `sidecar.rs` | a blob's manifest and held pieces as bytes in a file |
//! | `medium.rs` | a blob's bytes: in a file, or in memory |
//! | `pages.rs` | what of a file is in memory |
//! | `room.rs` | how much is held, and how much may be |
//! | `space.rs`, `facts.rs` | of a file system, how much there is; of a blob, what a listing needs |
//! | `backend.rs` | what the keeper needs of disk or memory |
//!
//! Everything but [`Disk`] is synchronous: hashing and disk I/O block by nature. Asynchronous code comes by way of that handle, on
//! blocking threads; then a slow disk is a full thread pool, not a stalled runtime. A build with debug assertions panics
//! where the store is entered on a thread of the runtime.
//!
//! The path of a piece: [`StoredBlob::put`] hashes it (BLAKE3, once), takes room for it, writes it at its offset, and calls it
//! held. Within a second or so the flusher makes it durable and writes the sidecar. After a restart a piece is held as its
//! sidecar says, but it is hashed again before it is first read: what was damaged is [lost](StoredBlob::take_lost) and
//! fetched again, never served.
//!
//! Not here: deciding what to fetch, whom to give it to, or whether an origin's copy is newer; checking the digest of a
//! whole blob is the caller's act too ([`StoredBlob::hash_whole`], then [`StoredBlob::seal`]).

mod backend;
mod body;
pub mod dir;
mod disk;
pub mod error;
mod facts;
mod handle;
mod keeper;
mod kept;
mod medium;
mod memory;
mod pages;
mod passing;
mod room;
mod sidecar;
mod space;
pub mod store;
pub mod threads;

pub use dir::Dir;
pub use disk::DiskStore;
pub use error::{Limit, Result, StoreError, size};
pub use memory::MemStore;
pub use passing::Passing;
pub use store::{
    Amount, BlobInfo, BlobSummary, PieceFile, Put, SetAside, SourceRecord, Store, StoreConfig, StoredBlob, Usage,
    WallClock,
};
pub use threads::{Disk, DiskWork};
