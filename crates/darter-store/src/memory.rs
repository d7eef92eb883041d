//! A store in memory: for nodes without a disk, and for tests. It has the same rules as a store on disk, but does not survive the process. Tests can cause accidents of
//! disks: [flipped bits](MemStore::flip_bits), [a full disk](MemStore::fill), and a process that starts again with [what the store had](MemStore::reopened).

use std::collections::HashMap;
use std::sync::Arc;

use darter_core::BlobId;
use parking_lot::Mutex;

use crate::backend::{Backend, LastUse, SaveError};
use crate::error::Result;
use crate::keeper::Keeper;
use crate::kept::Kept;
use crate::medium::{Full, MemoryMedium};
use crate::sidecar::Sidecar;
use crate::space::Space;
use crate::store::{SourceRecord, StoreConfig};

/// Keeps blobs in memory, up to its quota. Clones are the same store.
#[derive(Clone)]
pub struct MemStore {
    keeper: Arc<Keeper<Memory>>,
}

impl MemStore {
    /// An empty store for at most `config.quota` bytes of pieces. The settings for disks in `config` have no effect.
    pub fn new(config: &StoreConfig) -> Self {
        Self { keeper: Arc::new(Keeper::new(Memory::default(), config, Vec::new())) }
    }

    /// Flips a bit in every held piece, as a decaying medium does: this is noticed only when the piece is hashed.
    pub fn flip_bits(&self) {
        self.keeper.bodies().iter().for_each(|body| body.medium.flip_bits());
    }

    /// From now on every write fails, as on a full disk, whatever the store's quota is.
    pub fn fill(&self) {
        self.keeper.backend.full.fill();
    }

    /// A store with these blobs, as a process has it that starts again: each piece is hashed before it is first read.
    #[must_use]
    pub fn reopened(&self) -> Self {
        self.keeper.bodies().iter().for_each(|body| body.doubt());
        Self { keeper: Arc::clone(&self.keeper) }
    }
}

/// The records of a store in memory; the bytes are in the bodies.
#[derive(Default)]
pub(crate) struct Memory {
    sources: Mutex<HashMap<BlobId, SourceRecord>>,
    full: Full,
}

impl Backend for Memory {
    type Medium = MemoryMedium;

    fn create(&self, _: BlobId) -> Result<MemoryMedium> {
        Ok(MemoryMedium::new(self.full.clone()))
    }

    fn load(&self, _: BlobId) -> Result<Option<(Sidecar, MemoryMedium)>> {
        Ok(None)
    }

    fn save(&self, _: &Sidecar, _: &MemoryMedium) -> Result<(), SaveError> {
        Ok(())
    }

    fn remove(&self, _: BlobId) -> Result<Option<String>> {
        Ok(None)
    }

    fn dispose(&self, _: String) {}

    fn unloads(&self) -> bool {
        false
    }

    fn space(&self) -> Option<Space> {
        None
    }

    fn wake(&self) -> bool {
        false
    }

    fn note_use(&self, _: BlobId, _: LastUse) {}

    fn forget(&self, blob: BlobId) {
        self.sources.lock().retain(|_, record| record.blob != blob);
    }

    fn remember(&self, key: BlobId, record: SourceRecord) {
        self.sources.lock().insert(key, record);
    }

    fn recall(&self, key: BlobId) -> Result<Option<SourceRecord>> {
        Ok(self.sources.lock().get(&key).cloned())
    }

    fn commit(&self) -> Result<()> {
        Ok(())
    }
}

impl Kept for MemStore {
    type Backend = Memory;

    fn keeper(&self) -> &Arc<Keeper<Memory>> {
        &self.keeper
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use darter_core::manifest::hash_piece;
    use darter_core::{Manifest, PieceIndex, PieceLength};

    use super::*;
    use crate::store::{BlobInfo, Put, Store as _};

    #[test]
    fn pieces_that_are_stored_together_are_one_writing_and_not_one_each() {
        let pieces = PieceLength::from_log2(14).unwrap();
        let bytes: Vec<Vec<u8>> = (0..8).map(|piece| vec![piece; 1 << 14]).collect();
        let mut manifest = Manifest::new(pieces, Some(8 << 14));
        for (piece, bytes) in (0..).map(PieceIndex).zip(&bytes) {
            manifest.extend(piece.0, &[hash_piece(pieces, piece, bytes, false)]).unwrap();
        }
        let store = MemStore::new(&crate::StoreConfig::new(Arc::new(|| 0)));
        let blob = store.open_or_create(BlobId([1; 32]), BlobInfo::default(), manifest).unwrap();
        let looks = || store.keeper.bodies()[0].medium.stamps.load(Ordering::Relaxed);
        let before = looks();
        let all: Vec<_> = (0..).map(PieceIndex).zip(bytes.iter().map(Vec::as_slice)).collect();
        for (piece, data) in &all[..4] {
            assert_eq!(blob.put(*piece, data).unwrap(), Put::Stored);
        }
        assert_eq!(looks() - before, 8, "before and after each");
        let before = looks();
        assert!(blob.put_all(&all[4..]).into_iter().all(|put| put.unwrap() == Put::Stored));
        assert_eq!(looks() - before, 2, "before the first and after the last");
    }
}
