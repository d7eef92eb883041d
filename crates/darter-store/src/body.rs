//! One blob's manifest, its held pieces and their bytes, with all rules of verification.
//!
//! Invariants, all under `state`'s lock:
//! - a held piece has a known hash, and was written after its bytes matched that hash;
//! - a piece is *verified* only if this process has put or hashed it, and the file's stamp is still the one after our last write. Only verified pieces are read. Pieces of a sidecar are held, but not
//!   verified;
//! - `held_bytes` is this blob's part of the used room. `lacks` is its part of the bytes that open blobs lack: the missing bytes while it is open and not discarded, otherwise zero;
//! - `epoch` changes whenever work that has begun becomes doubtful: a verification or a write that began in another epoch does not count, and is repeated.
//!
//! A change of the file by somebody else is noticed between our writes, not during them. Several pieces that are written in a row count as one write: the stamp is compared before the first and
//! taken after the last ([`Body::writing`]). When parts of the file are sent from the page cache, the stamp is compared at most every [`LOOK_PAUSE`]: such bytes can change until the moment at which
//! they are sent anyway, and the sender must not wait for a disk. Damage that does not change the file's modification time, such as decay of the medium, is found by hashing: at the first read after
//! a restart, and whenever a piece that is to be sent as a part of the file has to be read from the disk first. A bit that flips in memory is not noticed here.
//!
//! Hashing, reading and writing are done without a lock; only holes are punched under it, since that must not coincide with a write.

mod expected;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use darter_core::manifest::ManifestError;
use darter_core::{BlobId, ByteRange, Clock, Manifest, Moment, PieceHash, PieceIndex, PieceSet};
use parking_lot::{Mutex, RwLock};

pub(crate) use self::expected::{Expected, Hashed, Written};
use crate::error::{Result, StoreError};
use crate::facts::Facts;
use crate::medium::{Medium, Stamp};
use crate::room::Room;
use crate::sidecar::Sidecar;
use crate::store::BlobInfo;

/// For how long one comparison of the stamp is valid for parts of the file that are sent from the page cache.
pub(crate) const LOOK_PAUSE: Duration = Duration::from_millis(10);

pub(crate) struct Body<M> {
    pub(crate) id: BlobId,
    pub(crate) info: BlobInfo,
    pub(crate) medium: M,
    /// True if something changed since the last snapshot was taken.
    pub(crate) unsaved: AtomicBool,
    /// True if the body is in its keeper's list of bodies to save.
    pub(crate) listed: AtomicBool,
    /// How many holders of the blob's handle rest: see [`StoredBlob::rest`](crate::StoredBlob::rest).
    pub(crate) resting: AtomicUsize,
    /// Held while the sidecar is written or removed. Taken before `state`.
    pub(crate) saving: Mutex<()>,
    state: RwLock<PieceState>,
    room: Arc<Room>,
    /// Without a clock, the stamp is compared each time.
    clock: Option<Arc<dyn Clock>>,
    /// When the stamp was last found right, in microseconds of the clock; zero if never.
    looked: AtomicU64,
}

/// A write of pieces that is in progress. Meanwhile the stamp is not compared; it is taken when the last such write ends.
pub(crate) struct Writing<'a, M: Medium>(&'a Body<M>);

impl<M: Medium> Drop for Writing<'_, M> {
    fn drop(&mut self) {
        let mut state = self.0.state.write();
        state.writers -= 1;
        if state.writers == 0 {
            self.0.take_stamp(&mut state);
        }
    }
}

struct PieceState {
    manifest: Manifest,
    held: PieceSet,
    verified: PieceSet,
    lost: PieceSet,
    held_bytes: u64,
    /// True while there is a handle.
    is_open: bool,
    lacks: u64,
    /// How many writes are in progress: meanwhile the stamp is not compared.
    writers: u32,
    stamp: Option<Stamp>,
    epoch: u64,
    complete: bool,
    pinned: bool,
    discarded: bool,
}

impl PieceState {
    fn expected(&self, piece: PieceIndex) -> Option<Expected> {
        let hash = self.manifest.hash(piece)?;
        let pieces = self.manifest.piece_length();
        let range = pieces.range(piece, self.manifest.length().unwrap_or(u64::MAX));
        let only = self.manifest.piece_count() == Some(1);
        Some(Expected { piece, pieces, range, hash, only, epoch: self.epoch, may_be_last: false })
    }

    /// Removes a piece from the held ones; returns its length in bytes, zero if it was not held.
    fn drop_piece(&mut self, piece: PieceIndex, range: ByteRange) -> u64 {
        if !self.held.remove(piece) {
            return 0;
        }
        self.verified.remove(piece);
        self.complete = false;
        self.held_bytes -= range.len();
        range.len()
    }

    fn facts(&self) -> Facts {
        let length = self.manifest.length();
        Facts { length, held_bytes: self.held_bytes, complete: self.complete, pinned: self.pinned }
    }

    /// True if a different stamp means that somebody else changed the file: no write is in progress, and the blob was not discarded,
    /// which removes its file.
    const fn is_watched(&self) -> bool {
        self.writers == 0 && !self.discarded
    }

    /// Forgets what was verified before.
    fn doubt(&mut self) {
        self.verified = PieceSet::new();
        self.epoch += 1;
    }
}

impl<M: Medium> Body<M> {
    /// The body that a sidecar describes. The caller accounts for its bytes.
    pub(crate) fn new(sidecar: Sidecar, medium: M, room: Arc<Room>, clock: Option<Arc<dyn Clock>>) -> Self {
        let held_bytes = sidecar.facts().held_bytes;
        let stamp = medium.stamp().unwrap_or(None);
        let state = PieceState {
            manifest: sidecar.manifest,
            held: sidecar.held,
            verified: PieceSet::new(),
            lost: PieceSet::new(),
            held_bytes,
            is_open: false,
            lacks: 0,
            writers: 0,
            stamp,
            epoch: 0,
            complete: sidecar.complete,
            pinned: sidecar.pinned,
            discarded: false,
        };
        Self {
            id: sidecar.id,
            info: sidecar.info,
            medium,
            unsaved: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            resting: AtomicUsize::new(0),
            saving: Mutex::new(()),
            state: RwLock::new(state),
            room,
            clock,
            looked: AtomicU64::new(0),
        }
    }

    /// The sidecar as it should be now; `None` for a blob that is gone.
    pub(crate) fn snapshot(&self) -> Option<Sidecar> {
        let state = self.state.read();
        (!state.discarded).then(|| Sidecar {
            id: self.id,
            info: self.info.clone(),
            manifest: state.manifest.clone(),
            held: state.held.clone(),
            complete: state.complete,
            pinned: state.pinned,
        })
    }

    pub(crate) fn facts(&self) -> Facts {
        self.state.read().facts()
    }

    /// How many bytes are missing while the blob is open: its part of [`Room::lacking`].
    pub(crate) fn lacks(&self) -> u64 {
        self.state.read().lacks
    }

    /// Notes whether there are handles of the blob from now on.
    pub(crate) fn set_open(&self, is_open: bool) {
        let mut state = self.state.write();
        state.is_open = is_open;
        self.count_lacking(&mut state);
    }

    /// The length, the held bytes, or whether it is open may have changed.
    fn count_lacking(&self, state: &mut PieceState) {
        let is_counted = state.is_open && !state.discarded;
        let lacks = if is_counted { state.facts().rest() } else { 0 };
        self.room.lacks(std::mem::replace(&mut state.lacks, lacks), lacks);
    }

    /// Calls a function with the manifest, without copying it.
    pub(crate) fn manifest<T>(&self, ask: impl FnOnce(&Manifest) -> T) -> T {
        ask(&self.state.read().manifest)
    }

    /// Calls a function with the held pieces, without copying them.
    pub(crate) fn held<T>(&self, ask: impl FnOnce(&PieceSet) -> T) -> T {
        ask(&self.state.read().held)
    }

    pub(crate) fn take_lost(&self) -> PieceSet {
        std::mem::take(&mut self.state.write().lost)
    }

    pub(crate) fn set_pinned(&self, pinned: bool) {
        self.state.write().pinned = pinned;
        self.changed();
    }

    pub(crate) fn extend(&self, from: u32, hashes: &[PieceHash]) -> Result<u32> {
        let mut state = self.state.write();
        if state.discarded {
            return Err(StoreError::Discarded(self.id));
        }
        let fresh = state.manifest.extend(from, hashes).map_err(|source| self.contradiction(source))?;
        drop(state);
        if fresh > 0 {
            self.changed();
        }
        Ok(fresh)
    }

    pub(crate) fn set_length(&self, length: u64) -> Result<()> {
        let mut state = self.state.write();
        if state.discarded {
            return Err(StoreError::Discarded(self.id));
        }
        if state.manifest.length() == Some(length) {
            return Ok(());
        }
        let pieces = state.manifest.piece_length();
        if length.div_ceil(pieces.bytes()) > u64::from(u32::MAX) {
            return Err(self.contradiction(ManifestError::Length { got: length }));
        }
        state.manifest.set_length(length).map_err(|source| self.contradiction(source))?;
        state.epoch += 1;
        // While the length was unknown, the last piece passed for a full one among others.
        let count = pieces.count(length);
        if let Some(last) = count.checked_sub(1).map(PieceIndex)
            && (count == 1 || pieces.range(last, length).len() < pieces.bytes())
        {
            let full = pieces.range(last, u64::MAX);
            if state.held.contains(last) {
                self.room.give_back(state.drop_piece(last, full));
                state.lost.insert(last);
            }
        }
        self.count_lacking(&mut state);
        drop(state);
        self.changed();
        Ok(())
    }

    pub(crate) fn seal(&self, root: PieceHash) -> Result<()> {
        let mut state = self.state.write();
        let held = state.held.len();
        match state.manifest.root() {
            _ if state.discarded => return Err(StoreError::Discarded(self.id)),
            Some(_) if held < state.manifest.prefix() => return Err(StoreError::Incomplete { blob: self.id, held }),
            None => return Err(StoreError::Incomplete { blob: self.id, held }),
            Some(actual) if actual != root => return Err(StoreError::WrongRoot(self.id)),
            Some(_) => state.complete = true,
        }
        drop(state);
        self.changed();
        Ok(())
    }

    /// The hash that a piece of `bytes` bytes must have to be put; `None` if the piece is held already.
    pub(crate) fn expect(&self, piece: PieceIndex, bytes: usize) -> Result<Option<Expected>> {
        let state = self.state.read();
        if state.discarded {
            return Err(StoreError::Discarded(self.id));
        }
        if state.held.contains(piece) {
            return Ok(None);
        }
        let mut expected = state.expected(piece).ok_or(StoreError::UnknownPiece { blob: self.id, piece })?;
        let bytes = bytes as u64;
        let may_be_short = bytes > 0 || piece == PieceIndex(0);
        if may_be_short && bytes < expected.len() && state.manifest.length().is_none() {
            // It may be the last piece: then its hash is right.
            expected.may_be_last = true;
            expected.only = piece == PieceIndex(0);
            expected.range = ByteRange::new(expected.range.start(), expected.range.start() + bytes);
        }
        Ok(Some(expected))
    }

    /// Begins a write of pieces; several may overlap.
    pub(crate) fn writing(&self) -> Writing<'_, M> {
        let mut state = self.state.write();
        self.compare_stamp(&mut state);
        state.writers += 1;
        Writing(self)
    }

    /// Writes a piece whose bytes matched and for which room was taken. Gives the room back unless the piece is held now.
    pub(crate) fn write(&self, expected: &Expected, data: &[u8]) -> io::Result<Written> {
        let writing = self.writing();
        let result = self.medium.write_at(expected.range.start(), data);
        drop(writing);
        let mut state = self.state.write();
        let written = match result {
            Err(refusal) => Err(refusal),
            Ok(()) if state.epoch != expected.epoch => Ok(Written::Overtaken),
            Ok(()) if !state.held.insert(expected.piece) => Ok(Written::HeldBefore),
            Ok(()) => {
                state.verified.insert(expected.piece);
                state.held_bytes += expected.len();
                self.count_lacking(&mut state);
                drop(state);
                self.changed();
                return Ok(Written::Held);
            }
        };
        self.room.give_back(expected.len());
        written
    }

    /// Replaces the content of `buffer` with a held and verified piece.
    pub(crate) fn read_piece(&self, piece: PieceIndex, buffer: &mut Vec<u8>) -> Result<()> {
        self.read_checked(piece, buffer, false)
    }

    /// Replaces the content of `buffer` with a held and verified piece. With `again`, its bytes are compared with the hash even if they were before.
    fn read_checked(&self, piece: PieceIndex, buffer: &mut Vec<u8>, again: bool) -> Result<()> {
        loop {
            let (expected, verified) = self.admit(piece)?;
            let length = usize::try_from(expected.len()).expect("a piece has at most 16 MiB");
            buffer.resize(length, 0);
            if !self.read_bytes(&expected, expected.range.start(), buffer)? {
                continue;
            }
            if (again || !verified) && !expected.matches(buffer, None) {
                self.lose(&expected);
                continue;
            }
            if self.confirm(&expected, verified) {
                return Ok(());
            }
        }
    }

    /// Fills `buffer` from within one held piece.
    pub(crate) fn read_within(&self, piece: PieceIndex, offset: u64, buffer: &mut [u8]) -> Result<()> {
        loop {
            let (expected, verified) = self.admit(piece)?;
            if !verified {
                let mut whole = Vec::new();
                self.read_piece(piece, &mut whole)?;
                let from = usize::try_from(offset - expected.range.start()).expect("a piece has at most 16 MiB");
                match whole.get(from..from + buffer.len()) {
                    Some(bytes) => buffer.copy_from_slice(bytes),
                    None => continue,
                }
                return Ok(());
            }
            if self.read_bytes(&expected, offset, buffer)? && self.confirm(&expected, true) {
                return Ok(());
            }
        }
    }

    /// Reads a held piece and compares it with its hash, even if that was done before; returns its range.
    pub(crate) fn verify(&self, piece: PieceIndex) -> Result<ByteRange> {
        let (expected, _) = self.admit(piece)?;
        self.read_checked(piece, &mut Vec::new(), true)?;
        Ok(expected.range())
    }

    /// The range of `pieces` up to the first one that is not held, or that this process has not verified; `None` if that is the first of all. With
    /// `lately`, a comparison of the stamp within the last [`LOOK_PAUSE`] is good enough.
    pub(crate) fn verified(&self, pieces: Range<PieceIndex>, lately: bool) -> Option<ByteRange> {
        if !lately || !self.was_looked_at() {
            self.look();
        }
        let state = self.state.read();
        let Range { start, end } = pieces;
        let mut found: Option<ByteRange> = None;
        for piece in (start.0..end.0).map(PieceIndex) {
            let Some(expected) = state.expected(piece).filter(|_| state.verified.contains(piece)) else { break };
            found = Some(ByteRange::new(found.map_or(expected.range.start(), ByteRange::start), expected.range.end()));
        }
        found
    }

    /// Drops pieces and gives their room back.
    pub(crate) fn drop_pieces(&self, pieces: &PieceSet) -> Result<()> {
        let mut state = self.state.write();
        state.epoch += 1;
        let mut result = Ok(());
        for piece in pieces.iter().filter(|piece| state.held.contains(*piece)).collect::<Vec<_>>() {
            let Some(expected) = state.expected(piece) else { continue };
            self.room.give_back(state.drop_piece(piece, expected.range));
            let released = self.medium.release(expected.range);
            result = result.and(released.map_err(StoreError::io("free a part of", self.medium.path())));
        }
        if state.writers == 0 {
            self.take_stamp(&mut state);
        }
        self.count_lacking(&mut state);
        drop(state);
        self.changed();
        result
    }

    /// From now on the blob holds nothing and accepts nothing. Gives its room back.
    pub(crate) fn dissolve(&self) {
        let mut state = self.state.write();
        state.discarded = true;
        state.epoch += 1;
        state.held = PieceSet::new();
        state.verified = PieceSet::new();
        state.complete = false;
        self.room.give_back(std::mem::take(&mut state.held_bytes));
        self.count_lacking(&mut state);
        drop(state);
        self.medium.let_go();
    }

    /// True if the blob was discarded.
    pub(crate) fn is_discarded(&self) -> bool {
        self.state.read().discarded
    }

    /// Forgets what was verified before, since the disk failed to write.
    pub(crate) fn doubt(&self) {
        self.state.write().doubt();
    }

    /// The hash that a held piece must have, and true if it is verified.
    fn admit(&self, piece: PieceIndex) -> Result<(Expected, bool)> {
        self.look();
        let state = self.state.read();
        let expected = state.expected(piece).filter(|_| state.held.contains(piece));
        let expected = expected.ok_or(StoreError::NotHeld { blob: self.id, piece })?;
        Ok((expected, state.verified.contains(piece)))
    }

    /// Doubts everything if somebody else changed the file since our last write.
    fn look(&self) {
        let state = self.state.read();
        if state.is_watched() && self.stamp_differs(&state) {
            drop(state);
            self.compare_stamp(&mut self.state.write());
        }
    }

    fn was_looked_at(&self) -> bool {
        let Some(clock) = &self.clock else { return false };
        let looked = self.looked.load(Ordering::Acquire);
        looked > 0 && clock.now().since(Moment::from_micros(looked)) < LOOK_PAUSE
    }

    /// Notes that the stamp is right now.
    fn note_look(&self) {
        if let Some(clock) = &self.clock {
            self.looked.store(clock.now().as_micros(), Ordering::Release);
        }
    }

    /// Takes the stamp of the file as it is now, after our own writes.
    fn take_stamp(&self, state: &mut PieceState) {
        state.stamp = self.medium.stamp().unwrap_or(None);
        self.note_look();
    }

    /// Reads bytes of an admitted piece. If they can't be read any more, drops the piece and returns false.
    fn read_bytes(&self, expected: &Expected, offset: u64, buffer: &mut [u8]) -> Result<bool> {
        match self.medium.read_at(offset, buffer) {
            Ok(()) => Ok(true),
            Err(refusal) if is_damage(&refusal) => {
                self.lose(expected);
                Ok(false)
            }
            Err(refusal) => Err(StoreError::io("read", self.medium.path())(refusal)),
        }
    }

    /// Ends a read. False if the piece may have changed meanwhile.
    fn confirm(&self, expected: &Expected, verified: bool) -> bool {
        if verified {
            return self.state.read().epoch == expected.epoch;
        }
        let mut state = self.state.write();
        let valid = state.epoch == expected.epoch && state.held.contains(expected.piece);
        if valid {
            state.verified.insert(expected.piece);
        }
        valid
    }

    /// Drops a piece that was found damaged.
    fn lose(&self, expected: &Expected) {
        let mut state = self.state.write();
        if state.epoch != expected.epoch || !state.held.contains(expected.piece) {
            return;
        }
        self.room.give_back(state.drop_piece(expected.piece, expected.range));
        state.lost.insert(expected.piece);
        state.epoch += 1;
        self.count_lacking(&mut state);
        drop(state);
        self.changed();
        let path = self.medium.path().display();
        tracing::warn!(blob = %self.id, piece = expected.piece.0, %path, "a stored piece is damaged and will be fetched again");
    }

    fn stamp_differs(&self, state: &PieceState) -> bool {
        // A file that can't be asked is as good as changed.
        let differs = self.medium.stamp().map_or(true, |stamp| stamp != state.stamp);
        if !differs {
            self.note_look();
        }
        differs
    }

    /// Doubts everything if somebody else changed the file since our last write.
    fn compare_stamp(&self, state: &mut PieceState) {
        if !state.is_watched() || !self.stamp_differs(state) {
            return;
        }
        state.doubt();
        self.take_stamp(state);
        let path = self.medium.path().display();
        tracing::warn!(blob = %self.id, %path, "somebody changed the file: its pieces are verified anew");
    }

    fn contradiction(&self, source: ManifestError) -> StoreError {
        StoreError::Manifest { blob: self.id, source }
    }

    fn changed(&self) {
        self.unsaved.store(true, Ordering::Release);
    }
}

/// True if this error of a read means that the bytes are gone: the file is too short, or the medium unreadable.
fn is_damage(refusal: &io::Error) -> bool {
    use rustix::io::Errno;
    // Errors of file systems for bytes that they cannot give, apart from EIO: checksums that don't match, structures
    // that make no sense, a server that has another file by now.
    const DAMAGE: [Errno; 9] = [
        Errno::IO,
        Errno::BADMSG,
        Errno::UCLEAN,
        Errno::ILSEQ,
        Errno::STALE,
        Errno::NODATA,
        Errno::REMOTEIO,
        Errno::NXIO,
        Errno::OVERFLOW,
    ];
    let damage = |code| DAMAGE.iter().any(|errno| errno.raw_os_error() == code);
    refusal.kind() == io::ErrorKind::UnexpectedEof || refusal.raw_os_error().is_some_and(damage)
}
