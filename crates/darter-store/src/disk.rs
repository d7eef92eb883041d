//! A store on disk. Its directory has these files:
//!
//! | path | content |
//! |---|---|
//! | `lock` | locked (`flock`) by the process that has the store; contains its process id in decimal |
//! | `blobs/ab/abcd….data` | a blob's bytes at their offsets, in a sparse file; `abcd…` is the blob's id in hexadecimal |
//! | `blobs/ab/abcd….piece` | its sidecar: manifest, held pieces, flags (`sidecar.rs` documents the bytes) |
//! | `blobs/ab/abcd….piece.new` | a sidecar that is being written |
//! | `blobs/ab/abcd….newer-data`, `….newer-piece`, `….newer-data-2`, … | files of a newer version for a blob that this version has stored again, or files that could not be read |
//! | `trash/n` | the bytes of a removed blob, which are about to be deleted |
//! | `index.redb` | last uses and sources (see `disk/index.rs`); `index.redb.unread`, `index.redb.unread-2`, … are indexes that could not be used |
//!
//! Order of writing: bytes, `fdatasync`, sidecar to a new file, `fsync`, rename. So a sidecar never describes bytes that a power failure can take. Order of removing: the sidecar first; bytes
//! without a sidecar are deleted at the next start. The sidecars are authoritative. If the index is lost, only the order of uses is lost, and some origins are asked again.
//!
//! At the start every sidecar is read (32 bytes per piece), and its blob is not kept in memory. Damaged files and leftovers are deleted with a warning. Files with unknown names, files of a newer version of
//! Darter, and files that can't be read are left alone, and renamed when their name is needed. The other blobs can be used. Files of a newer version are counted, and reported in one warning.
//!
//! Every file is opened as `dir.rs` says: links are not followed, and files of other users are not opened.

mod flusher;
mod index;
mod layout;
mod lock;
pub(crate) mod trash;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use darter_core::BlobId;

use crate::backend::{Backend, LastUse, SaveError};
use crate::dir::Dir;
use crate::disk::flusher::{Bell, Flusher};
use crate::disk::index::Index;
use crate::disk::layout::Layout;
use crate::disk::lock::Lock;
use crate::error::Result;
use crate::keeper::Keeper;
use crate::kept::Kept;
use crate::medium::FileMedium;
use crate::sidecar::Sidecar;
use crate::space::Space;
use crate::store::{SetAside, SourceRecord, StoreConfig};

/// Keeps blobs in a directory. When it is dropped, it saves everything; the directory stays locked while blobs are held open.
pub struct DiskStore {
    /// Dropped first, so that no flush runs when the keeper is dropped.
    _flusher: Flusher,
    keeper: Arc<Keeper<Files>>,
}

impl DiskStore {
    /// Opens the store in `dir`; creates the directory if it does not exist.
    ///
    /// # Errors
    /// [`Locked`](crate::StoreError::Locked) if another process has the store; errors of the disk.
    pub fn open(dir: &Path, config: &StoreConfig) -> Result<Self> {
        let dir = &Dir::open(dir)?;
        let lock = Lock::take(dir)?;
        let layout = Layout::new(dir)?;
        layout.empty_trash();
        let (sidecars, newer) = layout.scan()?;
        let existing = sidecars.iter().map(|sidecar| sidecar.id).chain(newer.iter().copied()).collect();
        let (index, anew) = Index::open(dir, &existing)?;
        let set_aside = SetAside { blobs: newer, index: anew };
        let last_uses = index.last_uses()?;
        let found = sidecars.into_iter().map(|sidecar| {
            let unknown = LastUse { order: 0, at: sidecar.info.created };
            let last_use = last_uses.get(&sidecar.id).copied().unwrap_or(unknown);
            (sidecar, last_use)
        });
        let found = found.collect();
        let bell = Arc::new(Bell::default());
        let disk = Files { layout, index, set_aside, bell: bell.clone(), _lock: lock };
        let keeper = Arc::new(Keeper::new(disk, config, found));
        let flusher = Flusher::start(&keeper, bell, config.flush_every)?;
        Ok(Self { _flusher: flusher, keeper })
    }
}

/// The store's directory, as the keeper's backend.
pub(crate) struct Files {
    layout: Layout,
    index: Index,
    set_aside: SetAside,
    bell: Arc<Bell>,
    _lock: Lock,
}

impl Backend for Files {
    type Medium = FileMedium;

    fn create(&self, blob: BlobId) -> Result<FileMedium> {
        self.layout.create(blob)
    }

    fn load(&self, blob: BlobId) -> Result<Option<(Sidecar, FileMedium)>> {
        self.layout.load(blob)
    }

    fn save(&self, sidecar: &Sidecar, medium: &FileMedium) -> Result<(), SaveError> {
        self.layout.save(sidecar, medium)
    }

    fn remove(&self, blob: BlobId) -> Result<Option<String>> {
        self.layout.remove(blob)
    }

    fn dispose(&self, trash: String) {
        self.layout.dispose(&trash);
    }

    fn unloads(&self) -> bool {
        true
    }

    fn path(&self, blob: BlobId) -> Option<PathBuf> {
        Some(self.layout.path(blob))
    }

    fn space(&self) -> Option<Space> {
        self.layout.space()
    }

    fn set_aside(&self) -> SetAside {
        self.set_aside.clone()
    }

    fn wake(&self) -> bool {
        self.bell.ring();
        true
    }

    fn note_use(&self, blob: BlobId, last_use: LastUse) {
        self.index.note_use(blob, last_use);
    }

    fn forget(&self, blob: BlobId) {
        self.index.forget(blob);
    }

    fn remember(&self, key: BlobId, record: SourceRecord) {
        self.index.remember(key, record);
    }

    fn recall(&self, key: BlobId) -> Result<Option<SourceRecord>> {
        self.index.recall(key)
    }

    fn commit(&self) -> Result<()> {
        self.index.commit()
    }
}

impl Kept for DiskStore {
    type Backend = Files;

    fn keeper(&self) -> &Arc<Keeper<Files>> {
        &self.keeper
    }
}
