//! A store on disk. Its directory holds:
//!
//! | path | what |
//! |---|---|
//! | `lock` | locked (`flock`) by the process that has the store; holds its id in decimal |
//! | `blobs/ab/abcd….data` | a blob's bytes at their offsets, in a sparse file; `abcd…` is its id in hexadecimal |
//! | `blobs/ab/abcd….piece` | its sidecar: manifest, held pieces, flags (see `sidecar.rs` for the bytes) |
//! | `blobs/ab/abcd….piece.new` | a sidecar being written |
//! | `blobs/ab/abcd….newer-data`, `….newer-piece` | what a newer version wrote of a blob that this one stored anew, or what could not be read |
//! | `trash/n` | the bytes of a removed blob, about to be deleted |
//! | `index.redb` | last uses and sources (see `disk/index.rs`); `index.redb.unread` is one that could not be used |
//!
//! Order of writing: bytes, `fdatasync`, sidecar to a new file, `fsync`, rename. So a sidecar never claims what a power
//! failure can take. Order of removing: sidecar first; bytes without a sidecar are deleted at the next start.
//! The sidecars are the truth. The index is a convenience: what it loses is the order of use and some questions to origins.
//!
//! At the start every sidecar is read (32 bytes a piece) and dropped again. Damaged files and leftovers are deleted with a warning;
//! what has a foreign name, what a newer version of Darter wrote, and what can't be read (whoever wrote it) is left alone, and set
//! aside when its name is needed. The other blobs go on. Files of a newer version are counted, and named in one warning.
//!
//! Every file is opened as `dir.rs` says: no link is followed, and what is another's is not opened.

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

/// Keeps blobs in a directory of its own. Dropping it saves everything; blobs still held open keep it locked.
pub struct DiskStore {
    /// Dropped first: no flush runs any more when the keeper goes.
    _flusher: Flusher,
    keeper: Arc<Keeper<Files>>,
}

impl DiskStore {
    /// Opens the store in `dir`, which is made if it does not exist.
    ///
    /// # Errors
    /// [`Locked`](crate::StoreError::Locked) when another process has it, or when the disk refuses.
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

/// The directory, as a keeper uses it.
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
