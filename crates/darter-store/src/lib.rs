//! Pieces on disk: verified, resumable, evicted by quota.
//!
//! | file | what lives there |
//! |---|---|
//! | [`threads`] | [`Disk`], through which asynchronous code uses a store, and a guard that finds code that does not |
//! | [`store`] | the traits [`Store`] and [`StoredBlob`], and the types of their arguments and results |
//! | [`error`] | [`StoreError`] |
//! | [`dir`] | a directory of the agent, in which no link is followed |
//! | `disk.rs` | [`DiskStore`], and the layout of its directory |
//! | `disk/layout.rs` | its files: names, order of writing, leftovers of a crash |
//! | `disk/trash.rs` | files that are not in their place yet, or no longer |
//! | `disk/lock.rs` | one process per directory |
//! | `disk/index.rs` | last uses and sources, in redb |
//! | `disk/flusher.rs` | the thread that saves and evicts |
//! | `memory.rs` | [`MemStore`] |
//! | `passing.rs` | [`Passing`], a blob for which the store has no room |
//! | `keeper.rs` | which blobs there are, which are in use, which are evicted: the same for both stores |
//! | `handle.rs` | a blob that a caller has open |
//! | `body.rs` | one blob: what is held, what is verified, and the rules of reading and writing |
//! | `sidecar.rs` | a blob's manifest and held pieces as bytes in a file |
//! | `medium.rs` | a blob's bytes: in a file, or in memory |
//! | `pages.rs` | which bytes of a file are in the page cache |
//! | `room.rs` | how much is held, and how much may be |
//! | `space.rs`, `facts.rs` | the size of a file system; the facts about a blob in a listing |
//! | `backend.rs` | what the keeper needs from the disk or from memory |
//!
//! Everything except [`Disk`] is synchronous, since hashing and disk I/O block. Asynchronous code uses that handle, which does the work on blocking threads: so a slow disk fills a pool of
//! threads, and does not stop the runtime. A build with debug assertions panics if the store is used on a thread of the runtime.
//!
//! The path of a piece: [`StoredBlob::put`] hashes it once (BLAKE3), takes room for it, writes it at its offset, and from then on it is held. Within about a second the flusher makes it durable and writes
//! the sidecar. After a restart a piece is held if the sidecar says so, but is hashed again before it is first read: a damaged piece is [lost](StoredBlob::take_lost) and fetched again, never
//! given out.
//!
//! Non-goals: deciding what to fetch, to whom to give it, and whether an origin's copy is newer. The caller also checks the digest of a whole blob ([`StoredBlob::hash_whole`], then
//! [`StoredBlob::seal`]).

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
