//! Handles, by which callers hold blobs. All callers that open the same blob share one handle; while it exists, the blob is in use.
//!
//! This file and `keeper` import each other on purpose: the keeper finds the handle that it gave out, and a handle tells the keeper which blobs have changed and when it is dropped.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use darter_core::{BlobId, ByteRange, Digest, Manifest, PieceHash, PieceIndex, PieceSet};

use crate::backend::Backend;
use crate::body::{Body, Expected, Hashed, Written};
use crate::error::{Result, StoreError};
use crate::keeper::Keeper;
use crate::medium::Medium as _;
use crate::pages::Pages;
use crate::room::Room;
use crate::store::{BlobInfo, PieceFile, Put, StoredBlob};

pub(crate) struct Handle<B: Backend> {
    keeper: Arc<Keeper<B>>,
    body: Arc<Body<B::Medium>>,
    pages: Pages,
}

impl<B: Backend> Handle<B> {
    pub(crate) fn new(keeper: Arc<Keeper<B>>, body: Arc<Body<B::Medium>>) -> Arc<Self> {
        Arc::new(Self { keeper, body, pages: Pages::default() })
    }

    pub(crate) fn body(&self) -> &Body<B::Medium> {
        &self.body
    }

    /// Adds the length and the hashes that `manifest` knows and the stored manifest does not.
    pub(crate) fn learn(&self, manifest: &Manifest) -> Result<()> {
        let stored = self.body.manifest(Manifest::piece_length);
        let wanted = manifest.piece_length();
        if stored != wanted {
            return Err(StoreError::OtherPieces { blob: self.body.id, stored, wanted });
        }
        if let Some(length) = manifest.length() {
            self.set_length(length)?;
        }
        // The beginning in any case: a manifest without hashes is no contradiction.
        self.extend(0, manifest.hashes())?;
        for run in manifest.known().runs().filter(|run| run.start > 0) {
            self.extend(run.start, manifest.run_from(run.start))?;
        }
        Ok(())
    }

    /// Checks that `call`, which may wait for the disk, is made on a thread that may wait.
    fn enter(&self, call: &'static str) {
        self.keeper.guard.enter(call);
    }

    /// Runs work that may change the body, and lists the body for saving if it did.
    fn noted<T>(&self, work: impl FnOnce(&Body<B::Medium>) -> T) -> T {
        let result = work(&self.body);
        self.keeper.note(&self.body);
        result
    }

    /// Verifies a piece and stores it. `hashed` is its hash, if it was just computed.
    fn put_as(&self, piece: PieceIndex, data: &[u8], hashed: Option<Hashed>) -> Result<Put> {
        loop {
            let Some(expected) = self.body.expect(piece, data.len())? else { return Ok(Put::AlreadyHeld) };
            if !expected.matches(data, hashed) {
                return Err(StoreError::WrongPiece { blob: self.body.id, piece });
            }
            if expected.may_be_last() {
                return Err(StoreError::UnknownPiece { blob: self.body.id, piece });
            }
            match self.write(&expected, data)? {
                Written::Held => {
                    self.keeper.note(&self.body);
                    return Ok(Put::Stored);
                }
                Written::HeldBefore => return Ok(Put::AlreadyHeld),
                Written::Overtaken => {}
            }
        }
    }

    /// The first of `pieces`, as far as they are verified and in the page cache. If not `may_wait`, a recent check of the file counts.
    fn ready(&self, pieces: Range<PieceIndex>, may_wait: bool) -> Option<PieceFile> {
        let file = self.body.medium.file()?;
        let verified = self.body.verified(pieces, !may_wait)?;
        let length = self.body.manifest(Manifest::piece_length).bytes();
        let cached = self.pages.in_memory(&file, verified, may_wait);
        // Whole pieces: those that end where the pages do, or with the run.
        let end = if cached == verified.end() { cached } else { cached - cached % length };
        (end > verified.start()).then(|| PieceFile { file, range: ByteRange::new(verified.start(), end) })
    }

    /// Takes room for a verified piece and writes it. If the disk is full, evicts blobs and tries once more.
    fn write(&self, expected: &Expected, data: &[u8]) -> Result<Written> {
        let bytes = expected.len();
        self.keeper.take_room(bytes)?;
        match self.body.write(expected, data) {
            Ok(written) => return Ok(written),
            // Blobs that go make no room in another one's file.
            Err(refusal) if is_no_room_on_disk(&refusal) => self.keeper.evict_for(bytes),
            Err(refusal) => return Err(self.refused(bytes, refusal)),
        }
        self.keeper.take_room(bytes)?;
        self.body.write(expected, data).map_err(|refusal| self.refused(bytes, refusal))
    }

    fn refused(&self, bytes: u64, refusal: io::Error) -> StoreError {
        if !no_room(&refusal) {
            return StoreError::io("write", self.body.medium.path())(refusal);
        }
        let free = self.keeper.backend.space().map_or(0, |space| space.free);
        Room::refused(bytes, free.min(bytes.saturating_sub(1)), &refusal)
    }
}

fn is_no_room_on_disk(refusal: &io::Error) -> bool {
    no_room(refusal) && refusal.kind() != io::ErrorKind::FileTooLarge
}

/// True if this error of a write means that there is no room: on the disk, for this user, or in one file.
pub(crate) fn no_room(refusal: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(refusal.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

impl<B: Backend> StoredBlob for Handle<B> {
    fn id(&self) -> BlobId {
        self.body.id
    }

    fn info(&self) -> BlobInfo {
        self.body.info.clone()
    }

    fn manifest(&self) -> Manifest {
        self.body.manifest(Manifest::clone)
    }

    fn hashes_from(&self, from: u32, most: usize) -> Vec<PieceHash> {
        self.body.manifest(|manifest| {
            let hashes = manifest.run_from(from);
            hashes[..most.min(hashes.len())].to_vec()
        })
    }

    fn length(&self) -> Option<u64> {
        self.body.manifest(Manifest::length)
    }

    fn prefix(&self) -> u32 {
        self.body.manifest(Manifest::prefix)
    }

    fn known(&self) -> PieceSet {
        self.body.manifest(|manifest| manifest.known().clone())
    }

    fn known_count(&self) -> u32 {
        self.body.manifest(|manifest| manifest.known().len())
    }

    fn hash(&self, piece: PieceIndex) -> Option<PieceHash> {
        self.body.manifest(|manifest| manifest.hash(piece))
    }

    fn extend(&self, from: u32, hashes: &[PieceHash]) -> Result<u32> {
        self.noted(|body| body.extend(from, hashes))
    }

    fn set_length(&self, length: u64) -> Result<()> {
        self.noted(|body| body.set_length(length))
    }

    fn held(&self) -> PieceSet {
        self.body.held(PieceSet::clone)
    }

    fn holds(&self, piece: PieceIndex) -> bool {
        self.body.held(|held| held.contains(piece))
    }

    fn held_bytes(&self) -> u64 {
        self.body.facts().held_bytes
    }

    fn take_lost(&self) -> PieceSet {
        self.body.take_lost()
    }

    fn put(&self, piece: PieceIndex, data: &[u8]) -> Result<Put> {
        self.enter("put");
        self.put_as(piece, data, None)
    }

    fn put_all(&self, pieces: &[(PieceIndex, &[u8])]) -> Vec<Result<Put>> {
        self.enter("put_all");
        let (length, only) =
            self.body.manifest(|manifest| (manifest.piece_length(), manifest.piece_count() == Some(1)));
        // Hashed before, since nobody notices a foreign hand while pieces are written.
        let can_be = |data: &[u8]| (1..=length.bytes()).contains(&(data.len() as u64));
        let hash = |(piece, data): &(PieceIndex, &[u8])| can_be(data).then(|| Hashed::of(length, *piece, data, only));
        let hashed = pieces.iter().map(hash).collect::<Vec<_>>();
        let _writing = self.body.writing();
        pieces.iter().zip(hashed).map(|((piece, data), hashed)| self.put_as(*piece, data, hashed)).collect()
    }

    fn put_first(&self, piece: PieceIndex, data: &[u8], only: bool) -> Result<Put> {
        self.enter("put_first");
        if self.hash(piece).is_some() {
            return self.put_as(piece, data, None);
        }
        let hashed = Hashed::of(self.body.manifest(Manifest::piece_length), piece, data, only);
        self.extend(piece.0, &[hashed.hash()])?;
        self.put_as(piece, data, Some(hashed))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.enter("read_at");
        let blob = self.body.id;
        let (pieces, length, known) =
            self.body.manifest(|manifest| (manifest.piece_length(), manifest.length(), manifest.prefix()));
        let range = ByteRange::new(offset, offset.saturating_add(buffer.len() as u64));
        if length.is_some_and(|length| range.end() > length) {
            return Err(StoreError::PastTheEnd { blob, offset, end: range.end() });
        }
        if length.is_none() && range.end() > u64::from(known) * pieces.bytes() {
            return Err(StoreError::NotHeld { blob, piece: PieceIndex(known) });
        }
        self.noted(|body| {
            let mut rest = buffer;
            for piece in pieces.pieces_of(range).map(PieceIndex) {
                let from = pieces.offset(piece).max(range.start());
                let to = (pieces.offset(piece) + pieces.bytes()).min(range.end());
                let count = usize::try_from(to - from).expect("a piece has at most 16 MiB");
                let (part, others) = rest.split_at_mut(count);
                body.read_within(piece, from, part)?;
                rest = others;
            }
            Ok(())
        })
    }

    fn read_piece(&self, piece: PieceIndex, buffer: &mut Vec<u8>) -> Result<()> {
        self.enter("read_piece");
        self.noted(|body| body.read_piece(piece, buffer))
    }

    fn verify(&self, piece: PieceIndex) -> Result<()> {
        self.enter("verify");
        self.noted(|body| body.verify(piece)).map(drop)
    }

    fn file_run(&self, pieces: Range<PieceIndex>) -> Result<Option<PieceFile>> {
        self.enter("file_run");
        let Some(file) = self.body.medium.file() else { return Ok(None) };
        let first = pieces.start;
        if let Some(ready) = self.ready(pieces, true) {
            return Ok(Some(ready));
        }
        // A piece that comes from the disk may have decayed there since it was verified; and all of it is read now in any case.
        let range = self.noted(|body| body.verify(first))?;
        Ok(Some(PieceFile { file, range }))
    }

    fn ready_run(&self, pieces: Range<PieceIndex>) -> Option<PieceFile> {
        self.ready(pieces, false)
    }

    fn hash_whole(&self, like: &Digest, step: &dyn Fn()) -> Result<Digest> {
        self.enter("hash_whole");
        let held = self.body.held(PieceSet::len);
        let count = self.body.manifest(Manifest::piece_count);
        let Some(count) = count.filter(|count| *count == held) else {
            return Err(StoreError::Incomplete { blob: self.body.id, held });
        };
        let mut hasher = like.hasher();
        let mut buffer = Vec::new();
        for piece in 0..count {
            step();
            self.read_piece(PieceIndex(piece), &mut buffer)?;
            hasher.update(&buffer);
        }
        Ok(hasher.finish())
    }

    fn seal(&self, root: PieceHash) -> Result<()> {
        self.enter("seal");
        self.noted(|body| body.seal(root))
    }

    fn is_complete(&self) -> bool {
        self.body.facts().complete
    }

    fn drop_pieces(&self, pieces: &PieceSet) -> Result<()> {
        self.enter("drop_pieces");
        self.noted(|body| body.drop_pieces(pieces))
    }

    fn discard(&self) -> Result<()> {
        self.enter("discard");
        self.keeper.discard(&self.body)
    }

    fn is_discarded(&self) -> bool {
        self.body.is_discarded()
    }

    fn rest(&self) {
        self.keeper.rest_on(&self.body);
    }

    fn wake(&self) -> bool {
        self.keeper.wake(&self.body)
    }
}

impl<B: Backend> Drop for Handle<B> {
    fn drop(&mut self) {
        self.keeper.rest(self.body.id);
    }
}

impl<B: Backend> fmt::Debug for Handle<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = self.body.facts();
        f.debug_struct("StoredBlob")
            .field("id", &self.body.id)
            .field("length", &facts.length)
            .field("held_bytes", &facts.held_bytes)
            .field("complete", &facts.complete)
            .finish_non_exhaustive()
    }
}
