//! [`Passing`]: a blob that does not fit into the store. Pieces for which there is no room are kept in memory, and forgotten when nobody needs them any more. So a blob that is larger than the
//! quota, or that comes while the disk is full or fails, still reaches those who read it meanwhile.
//!
//! A blob begins as an ordinary one (or only in memory, if it could not be created on the disk), and *passes* from the first piece on that the store refuses. From then on a piece is
//! stored, *aside* in memory, or *forgotten*. All three kinds count as held: a forgotten piece was here and was right. Stored pieces stay, since parts of the file may be in use. Reading a
//! forgotten piece fails with [`StoreError::NotHeld`].
//!
//! Invariants: a piece is aside or forgotten only after its bytes matched the manifest; `digest`, while there is one, has hashed exactly the first `hashed` pieces, so that the digest of the
//! whole is known although the whole was never here.
//!
//! Not decided here: which pieces are needed. The caller says from which piece on they are, and stops fetching while too much is aside.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use darter_core::digest::DigestHasher;
use darter_core::manifest::hash_piece;
use darter_core::{BlobId, Digest, Manifest, PieceHash, PieceIndex, PieceLength, PieceSet};
use parking_lot::Mutex;

use crate::error::{Result, StoreError};
use crate::memory::MemStore;
use crate::store::{BlobInfo, PieceFile, Put, Store as _, StoreConfig, StoredBlob};
use crate::threads;

/// How many bytes may be aside: enough for readers of the same blob that are at different places.
const WINDOW: u64 = 32 << 20;
/// How many pieces may be aside even if they have more bytes.
const MIN_WINDOW: u64 = 4;

/// A blob that may be stored only in part. See the module's documentation.
pub struct Passing {
    inner: Arc<dyn StoredBlob>,
    pieces: PieceLength,
    /// True if a piece was refused.
    passes: AtomicBool,
    /// Held while pieces are forgotten, so that they are hashed in order. Taken before `state`.
    forgetting: Mutex<()>,
    state: Mutex<PassingState>,
}

#[derive(Default)]
struct PassingState {
    aside: BTreeMap<PieceIndex, Arc<[u8]>>,
    aside_bytes: u64,
    forgotten: PieceSet,
    /// All pieces before this one are forgotten, or were never here.
    floor: u32,
    digest: Option<DigestHasher>,
    hashed: u32,
    complete: bool,
}

impl Passing {
    /// A stored blob. If there is no room for further pieces, they pass through memory.
    pub fn over(inner: Arc<dyn StoredBlob>) -> Arc<Self> {
        Self::new(inner, false)
    }

    /// A blob that passes through memory completely.
    ///
    /// # Errors
    /// [`Manifest`](StoreError::Manifest) if the length is too large for any blob.
    pub fn in_memory(blob: BlobId, info: BlobInfo, manifest: &Manifest, config: &StoreConfig) -> Result<Arc<Self>> {
        let store = MemStore::new(&StoreConfig { quota: None, ..config.clone() });
        // Held by the blob's handle from here on.
        let inner = store.open_or_create(blob, info, manifest.clone())?;
        Ok(Self::new(inner, true))
    }

    fn new(inner: Arc<dyn StoredBlob>, passes: bool) -> Arc<Self> {
        let digest = inner.info().digest.map(|digest| digest.hasher());
        let pieces = inner.manifest().piece_length();
        let state = PassingState { digest, ..PassingState::default() };
        Arc::new(Self {
            inner,
            pieces,
            passes: AtomicBool::new(passes),
            forgetting: Mutex::new(()),
            state: Mutex::new(state),
        })
    }

    fn is_passing(&self) -> bool {
        self.passes.load(Ordering::Acquire)
    }

    /// Verifies a piece as the store does, and keeps it in memory.
    fn set_aside(&self, piece: PieceIndex, data: &[u8]) -> Result<Put> {
        let blob = self.inner.id();
        let hash = self.inner.hash(piece).ok_or(StoreError::UnknownPiece { blob, piece })?;
        let length = self.inner.length();
        let expected = self.pieces.range(piece, length.unwrap_or(u64::MAX)).len();
        // While the length is not known, a short piece with the right hash is the last one.
        let is_first = piece == PieceIndex(0);
        let may_be_last = (data.len() as u64) < expected && length.is_none() && (is_first || !data.is_empty());
        let only = length.map_or(may_be_last && is_first, |length| self.pieces.count(length) == 1);
        let fits = may_be_last || data.len() as u64 == expected;
        if !fits || hash_piece(self.pieces, piece, data, only) != hash {
            return Err(StoreError::WrongPiece { blob, piece });
        }
        if may_be_last {
            return Err(StoreError::UnknownPiece { blob, piece });
        }
        let mut state = self.state.lock();
        if self.inner.is_discarded() {
            return Err(StoreError::Discarded(blob));
        }
        if state.forgotten.contains(piece) || state.aside.contains_key(&piece) {
            return Ok(Put::AlreadyHeld);
        }
        state.aside.insert(piece, data.into());
        state.aside_bytes += expected;
        // A piece that comes late, read here and there, is forgotten like any other.
        state.floor = state.floor.min(piece.0);
        Ok(Put::Stored)
    }

    /// Keeps in memory a piece for which the store had no room. From then on the blob passes.
    fn put_or_set_aside(&self, piece: PieceIndex, data: &[u8], put: Result<Put>) -> Result<Put> {
        match put {
            Err(error @ (StoreError::Full { .. } | StoreError::Io { .. })) => {
                let blob = self.inner.id().short();
                let error: &dyn std::error::Error = &error;
                tracing::warn!(blob, error, "a blob does not fit: it is passed on without being stored whole");
                self.passes.store(true, Ordering::Release);
                self.set_aside(piece, data)
            }
            other => other,
        }
    }

    /// A piece that is aside; `None` if only the store can have it.
    fn in_memory_now(&self, piece: PieceIndex) -> Result<Option<Arc<[u8]>>> {
        if !self.is_passing() {
            return Ok(None);
        }
        let state = self.state.lock();
        if state.forgotten.contains(piece) {
            return Err(StoreError::NotHeld { blob: self.inner.id(), piece });
        }
        Ok(state.aside.get(&piece).cloned())
    }
}

impl StoredBlob for Passing {
    fn id(&self) -> BlobId {
        self.inner.id()
    }

    fn info(&self) -> BlobInfo {
        self.inner.info()
    }

    fn manifest(&self) -> Manifest {
        self.inner.manifest()
    }

    fn hashes_from(&self, from: u32, most: usize) -> Vec<PieceHash> {
        self.inner.hashes_from(from, most)
    }

    fn length(&self) -> Option<u64> {
        self.inner.length()
    }

    fn prefix(&self) -> u32 {
        self.inner.prefix()
    }

    fn known(&self) -> PieceSet {
        self.inner.known()
    }

    fn known_count(&self) -> u32 {
        self.inner.known_count()
    }

    fn hash(&self, piece: PieceIndex) -> Option<PieceHash> {
        self.inner.hash(piece)
    }

    fn extend(&self, from: u32, hashes: &[PieceHash]) -> Result<u32> {
        self.inner.extend(from, hashes)
    }

    fn set_length(&self, length: u64) -> Result<()> {
        self.inner.set_length(length)?;
        let mut state = self.state.lock();
        // A last piece that passed for a full one.
        let wrong = |(piece, data): (&PieceIndex, &Arc<[u8]>)| {
            (data.len() as u64 != self.pieces.range(*piece, length).len()).then_some(*piece)
        };
        if let Some(piece) = state.aside.iter().next_back().and_then(wrong) {
            let data = state.aside.remove(&piece);
            state.aside_bytes -= data.map_or(0, |data| data.len() as u64);
        }
        Ok(())
    }

    fn held(&self) -> PieceSet {
        let mut held = self.inner.held();
        if self.is_passing() {
            let state = self.state.lock();
            for piece in state.forgotten.iter().chain(state.aside.keys().copied()) {
                held.insert(piece);
            }
        }
        held
    }

    fn holds(&self, piece: PieceIndex) -> bool {
        if self.inner.holds(piece) {
            return true;
        }
        let state = self.is_passing().then(|| self.state.lock());
        state.is_some_and(|state| state.forgotten.contains(piece) || state.aside.contains_key(&piece))
    }

    fn held_bytes(&self) -> u64 {
        self.inner.held_bytes() + self.state.lock().aside_bytes
    }

    fn take_lost(&self) -> PieceSet {
        self.inner.take_lost()
    }

    fn put(&self, piece: PieceIndex, data: &[u8]) -> Result<Put> {
        threads::enter("put");
        if self.is_passing() {
            return if self.inner.holds(piece) { Ok(Put::AlreadyHeld) } else { self.set_aside(piece, data) };
        }
        self.put_or_set_aside(piece, data, self.inner.put(piece, data))
    }

    fn put_all(&self, pieces: &[(PieceIndex, &[u8])]) -> Vec<Result<Put>> {
        threads::enter("put_all");
        if self.is_passing() {
            return pieces.iter().map(|(piece, data)| self.put(*piece, data)).collect();
        }
        let puts = self.inner.put_all(pieces);
        puts.into_iter().zip(pieces).map(|(put, (piece, data))| self.put_or_set_aside(*piece, data, put)).collect()
    }

    fn put_first(&self, piece: PieceIndex, data: &[u8], only: bool) -> Result<Put> {
        threads::enter("put_first");
        if self.is_passing() {
            if self.inner.hash(piece).is_none() {
                self.inner.extend(piece.0, &[hash_piece(self.pieces, piece, data, only)])?;
            }
            return self.put(piece, data);
        }
        self.put_or_set_aside(piece, data, self.inner.put_first(piece, data, only))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if !self.is_passing() {
            return self.inner.read_at(offset, buffer);
        }
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let piece = self.pieces.piece_at(at);
            let start = self.pieces.offset(piece);
            let end = self.pieces.range(piece, self.inner.length().unwrap_or(u64::MAX)).end();
            let count = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(rest.len());
            if count == 0 {
                let blob = self.inner.id();
                return Err(StoreError::PastTheEnd { blob, offset, end: at + rest.len() as u64 });
            }
            let (part, others) = rest.split_at_mut(count);
            match self.in_memory_now(piece)? {
                Some(data) => {
                    let from = usize::try_from(at - start).expect("a piece has at most 16 MiB");
                    part.copy_from_slice(&data[from..from + count]);
                }
                None => self.inner.read_at(at, part)?,
            }
            at += count as u64;
            rest = others;
        }
        Ok(())
    }

    fn read_piece(&self, piece: PieceIndex, buffer: &mut Vec<u8>) -> Result<()> {
        match self.in_memory_now(piece)? {
            Some(data) => {
                buffer.clear();
                buffer.extend_from_slice(&data);
                Ok(())
            }
            None => self.inner.read_piece(piece, buffer),
        }
    }

    fn verify(&self, piece: PieceIndex) -> Result<()> {
        // A piece in memory was verified when it came, and is given from there.
        if self.in_memory_now(piece)?.is_some() { Ok(()) } else { self.inner.verify(piece) }
    }

    fn file_run(&self, pieces: Range<PieceIndex>) -> Result<Option<PieceFile>> {
        if self.in_memory_now(pieces.start)?.is_some() { Ok(None) } else { self.inner.file_run(pieces) }
    }

    fn ready_run(&self, pieces: Range<PieceIndex>) -> Option<PieceFile> {
        self.inner.ready_run(pieces)
    }

    fn hash_whole(&self, like: &Digest, step: &dyn Fn()) -> Result<Digest> {
        threads::enter("hash_whole");
        if !self.is_passing() {
            return self.inner.hash_whole(like, step);
        }
        let incomplete = || StoreError::Incomplete { blob: self.inner.id(), held: self.held().len() };
        let (hasher, hashed) = {
            let state = self.state.lock();
            (state.digest.clone(), state.hashed)
        };
        let same = self.inner.info().digest.is_some_and(|digest| digest.algorithm() == like.algorithm());
        let mut hasher = hasher.filter(|_| same).ok_or_else(incomplete)?;
        let count = self.inner.manifest().piece_count().ok_or_else(incomplete)?;
        let mut buffer = Vec::new();
        for piece in hashed..count {
            step();
            self.read_piece(PieceIndex(piece), &mut buffer)?;
            hasher.update(&buffer);
        }
        Ok(hasher.finish())
    }

    fn seal(&self, root: PieceHash) -> Result<()> {
        if !self.is_passing() {
            return self.inner.seal(root);
        }
        let (blob, held) = (self.inner.id(), self.held().len());
        let manifest = self.inner.manifest();
        match manifest.root() {
            _ if self.inner.is_discarded() => return Err(StoreError::Discarded(blob)),
            Some(actual) if held == manifest.prefix() && actual == root => {}
            Some(_) if held == manifest.prefix() => return Err(StoreError::WrongRoot(blob)),
            _ => return Err(StoreError::Incomplete { blob, held }),
        }
        self.state.lock().complete = true;
        Ok(())
    }

    fn is_complete(&self) -> bool {
        if self.is_passing() { self.state.lock().complete } else { self.inner.is_complete() }
    }

    fn drop_pieces(&self, pieces: &PieceSet) -> Result<()> {
        {
            let mut state = self.state.lock();
            for piece in pieces.iter() {
                state.forgotten.remove(piece);
                if let Some(data) = state.aside.remove(&piece) {
                    state.aside_bytes -= data.len() as u64;
                }
                state.floor = state.floor.min(piece.0);
                state.complete = false;
            }
        }
        self.inner.drop_pieces(pieces)
    }

    fn discard(&self) -> Result<()> {
        {
            let mut state = self.state.lock();
            *state = PassingState::default();
        }
        self.inner.discard()
    }

    fn is_discarded(&self) -> bool {
        self.inner.is_discarded()
    }

    fn rest(&self) {
        self.inner.rest();
    }

    fn wake(&self) -> bool {
        self.inner.wake()
    }

    fn passes(&self) -> bool {
        self.is_passing()
    }

    fn window(&self) -> u64 {
        WINDOW.max(MIN_WINDOW * self.pieces.bytes())
    }

    fn is_crowded(&self, before: PieceIndex) -> bool {
        if !self.is_passing() {
            return false;
        }
        let state = self.state.lock();
        let aside: u64 = state.aside.range(..before).map(|(_, data)| data.len() as u64).sum();
        aside + self.pieces.bytes() > self.window()
    }

    fn forget(&self, before: PieceIndex) -> Result<()> {
        threads::enter("forget");
        if !self.is_passing() {
            return Ok(());
        }
        let _forgetting = self.forgetting.lock();
        let stored = self.inner.held();
        let mut buffer = Vec::new();
        loop {
            let mut state = self.state.lock();
            let piece = PieceIndex(state.floor);
            if piece >= before || piece.0 >= self.inner.prefix() {
                break;
            }
            let aside = state.aside.remove(&piece);
            state.aside_bytes -= aside.as_ref().map_or(0, |data| data.len() as u64);
            let is_stored = stored.contains(piece);
            if aside.is_some() {
                state.forgotten.insert(piece);
            }
            state.floor += 1;
            let in_order = state.hashed == piece.0 && (aside.is_some() || is_stored);
            let hasher = state.digest.take().filter(|_| in_order);
            drop(state);
            if let Some(mut hasher) = hasher {
                let read = match &aside {
                    Some(data) => {
                        hasher.update(data);
                        Ok(())
                    }
                    None => self.inner.read_piece(piece, &mut buffer).map(|()| hasher.update(&buffer)),
                };
                if read.is_ok() {
                    let mut state = self.state.lock();
                    state.digest = Some(hasher);
                    state.hashed = piece.0 + 1;
                }
            }
        }
        Ok(())
    }

    fn aside(&self) -> PieceSet {
        self.state.lock().aside.keys().copied().collect()
    }

    fn forgotten(&self) -> PieceSet {
        self.state.lock().forgotten.clone()
    }
}

impl fmt::Debug for Passing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passing")
            .field("inner", &self.inner)
            .field("passes", &self.is_passing())
            .finish_non_exhaustive()
    }
}
