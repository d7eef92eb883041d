//! Blobs to store, and stores to put them in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use darter_core::manifest::hash_piece;
use darter_core::{BlobId, ByteRange, Digest, Manifest, PieceIndex, PieceLength};
use darter_store::{Amount, BlobInfo, Put, Store, StoreConfig, StoredBlob};

/// Bytes in a piece of every test's blobs.
pub(crate) const PIECE: u64 = 1 << 14;

/// A blob with right bytes.
pub(crate) struct Content {
    pub(crate) id: BlobId,
    pub(crate) data: Vec<u8>,
    pub(crate) manifest: Manifest,
}

impl Content {
    /// A blob of `length` bytes that differs from those of other seeds everywhere.
    pub(crate) fn new(seed: u8, length: u64) -> Self {
        let data: Vec<u8> = (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8 ^ seed).collect();
        let pieces = PieceLength::from_log2(14).unwrap();
        let mut manifest = Manifest::new(pieces, Some(length));
        let count = pieces.count(length);
        for (at, piece) in data.chunks(PIECE as usize).enumerate() {
            let index = PieceIndex(at as u32);
            manifest.extend(index.0, &[hash_piece(pieces, index, piece, count == 1)]).unwrap();
        }
        Self { id: BlobId([seed; 32]), data, manifest }
    }

    pub(crate) fn pieces(&self) -> u32 {
        self.manifest.prefix()
    }

    pub(crate) fn piece(&self, piece: u32) -> &[u8] {
        let range = self.range(piece);
        &self.data[range.start() as usize..range.end() as usize]
    }

    pub(crate) fn range(&self, piece: u32) -> ByteRange {
        self.manifest.piece_length().range(PieceIndex(piece), self.data.len() as u64)
    }

    pub(crate) fn info(&self) -> BlobInfo {
        BlobInfo { name: format!("http://a/{}", self.id.short()), ..BlobInfo::default() }
    }

    pub(crate) fn open(&self, store: &dyn Store) -> Arc<dyn StoredBlob> {
        store.open_or_create(self.id, self.info(), self.manifest.clone()).unwrap()
    }

    pub(crate) fn put(&self, blob: &dyn StoredBlob, piece: u32) {
        assert_eq!(blob.put(PieceIndex(piece), self.piece(piece)).unwrap(), Put::Stored);
    }

    /// Stores all of it and seals it.
    pub(crate) fn fill(&self, store: &dyn Store) -> Arc<dyn StoredBlob> {
        let blob = self.open(store);
        for piece in 0..self.pieces() {
            self.put(&*blob, piece);
        }
        let digest = Digest::sha256(&self.data);
        assert_eq!(blob.hash_whole(&digest, &|| {}).unwrap(), digest);
        blob.seal(self.manifest.root().unwrap()).unwrap();
        blob
    }

    /// Every held piece reads as it should.
    pub(crate) fn check_held(&self, blob: &dyn StoredBlob) {
        let mut buffer = Vec::new();
        for piece in blob.held().iter() {
            blob.read_piece(piece, &mut buffer).unwrap();
            assert_eq!(buffer, self.piece(piece.0), "piece {piece}");
        }
    }
}

/// A configuration whose wall clock ticks once a question, and that leaves the disk's free space alone.
pub(crate) fn config(quota: Option<u64>) -> StoreConfig {
    let clock = AtomicU64::new(1_000);
    let mut config = StoreConfig::new(Arc::new(move || clock.fetch_add(1, Ordering::Relaxed)));
    config.quota = quota.map(Amount::Bytes);
    config.reserve_free = Amount::Bytes(0);
    // Tests flush when they mean to.
    config.flush_every = Duration::from_secs(3600);
    config
}

pub(crate) fn ids(store: &dyn Store) -> Vec<BlobId> {
    store.list().iter().map(|line| line.id).collect()
}
