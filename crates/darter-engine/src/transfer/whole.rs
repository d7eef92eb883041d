//! The digest of the whole, and the origin's declarations about it: computed once, while the origin is read.
//!
//! Both need the bytes in order, but pieces arrive in any order: by several connections, as readers wait for them, from members. The task
//! that stores the next piece hashes the bytes that it has in memory. A piece that arrived early is read from the store when those
//! before it are here (it was written recently, and is in the page cache), by a separate task. After the last
//! piece, the check of the whole hashes the rest.
//!
//! Invariants: one task hashes at a time; it gives the hashing state back, unchanged if the piece was not stored, or loses it for good
//! ([`Whole::lose`]): then the check of the whole reads everything, and the origin's declarations are not checked. If the next piece was stored meanwhile,
//! the task that stored it continues.
//!
//! Non-goals: content that an earlier run of this agent, or another lead, began to read. Its digest is computed at the end.

use std::sync::Arc;

use darter_api::Role;
use darter_core::{Digest, DigestHasher, PieceIndex, PieceLength, Source};
use darter_origin::{OriginError, Witness};
use darter_store::{Put, StoreError, StoredBlob};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Transfer;
use crate::error::FetchError;

/// For content without its own digest and without declarations, at most this many bytes are read again to compute its digest.
const MAX_READ_AGAIN: u64 = 64 << 20;

/// How many pieces are read from the store before others may have their turn.
const PIECES_AT_A_TIME: usize = 16;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Whole {
    slot: Mutex<Slot>,
    /// Notified when the hashing state is given back.
    back: Notify,
}

#[derive(Debug)]
struct Slot {
    /// `None` while a task hashes.
    hashing: Option<Hashing>,
    /// Counts starts: state from before the last start is not taken back.
    beginning: u32,
}

/// The hashing state: how far the whole was hashed.
#[derive(Default)]
pub(super) struct Hashing {
    hasher: Option<DigestHasher>,
    /// Checks the origin's declarations.
    pub(super) witness: Option<Witness>,
    /// The offset of the next byte.
    pub(super) next: u64,
    beginning: u32,
}

impl Default for Slot {
    fn default() -> Self {
        Self { hashing: Some(Hashing::default()), beginning: 0 }
    }
}

impl std::fmt::Debug for Hashing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hashing").field("next", &self.next).field("witness", &self.witness).finish_non_exhaustive()
    }
}

impl Hashing {
    /// True if nothing is to be computed for the whole.
    pub(super) const fn is_idle(&self) -> bool {
        self.hasher.is_none() && self.witness.is_none()
    }

    /// Adds the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.next += bytes.len() as u64;
    }

    /// Reads and adds the next pieces from the store, at most `most`, until one is missing or the blob ends. `step` is called for each.
    fn read_on(
        &mut self,
        stored: &dyn StoredBlob,
        piece_length: PieceLength,
        most: usize,
        step: impl Fn(),
    ) -> Result<(), StoreError> {
        let mut buffer = Vec::new();
        for _ in 0..most {
            if stored.length().is_none_or(|length| self.next >= length) {
                return Ok(());
            }
            let piece = piece_length.piece_at(self.next);
            if !stored.holds(piece) {
                return Ok(());
            }
            step();
            stored.read_piece(piece, &mut buffer)?;
            if let Some(witness) = &mut self.witness {
                witness.update(&buffer);
            }
            self.update(&buffer);
        }
        Ok(())
    }
}

/// A piece that was read from the origin, and is to be stored.
pub(super) struct Fresh<'a> {
    pub(super) piece: PieceIndex,
    pub(super) bytes: &'a [u8],
    /// True if it is the blob's only piece.
    pub(super) only: bool,
    /// True if it is the last piece.
    pub(super) is_last: bool,
}

impl Fresh<'_> {
    /// Stores the piece, and its hash if that was not known. Adds its bytes to `hashing` if it is the next piece; if it is not stored, `hashing`
    /// stays as it was.
    ///
    /// # Errors
    /// The store refuses it. Inside: the whole does not match the origin's declarations; the last piece is held back until that is known.
    pub(super) fn put(
        &self,
        stored: &dyn StoredBlob,
        hashing: &mut Option<Hashing>,
    ) -> Result<Result<Put, OriginError>, StoreError> {
        let Self { piece, bytes, only, is_last } = *self;
        if is_last && let Some(mut witness) = hashing.as_mut().and_then(|hashing| hashing.witness.take()) {
            witness.update(bytes);
            if let Err(error) = witness.verdict() {
                return Ok(Err(error));
            }
        }
        let put = stored.put_first(piece, bytes, only)?;
        // If the piece was here already, it may have other bytes than these.
        if let Some(hashing) = hashing.as_mut().filter(|_| put == Put::Stored) {
            if let Some(witness) = &mut hashing.witness {
                witness.update(bytes);
            }
            hashing.update(bytes);
        }
        Ok(Ok(put))
    }
}

impl Whole {
    /// Starts with the first byte.
    pub(super) fn begin(&self, hasher: Option<DigestHasher>, witness: Option<Witness>) {
        let mut slot = self.slot.lock();
        slot.beginning = slot.beginning.wrapping_add(1);
        slot.hashing = Some(Hashing { hasher, witness, next: 0, beginning: slot.beginning });
        drop(slot);
        self.back.notify_waiters();
    }

    /// The hash so far is lost.
    pub(super) fn lose(&self) {
        self.begin(None, None);
    }

    /// Adds the declarations of an answer that begins with the first byte, if nothing was hashed yet.
    pub(super) fn is_declared(&self, witness: Option<Witness>) {
        if let Some(hashing) = self.slot.lock().hashing.as_mut().filter(|hashing| hashing.next == 0) {
            hashing.witness = witness;
        }
    }

    /// Takes the hashing state if this byte is next.
    pub(super) fn take_at(&self, offset: u64) -> Option<Hashing> {
        self.slot.lock().hashing.take_if(|hashing| hashing.next == offset)
    }

    /// Takes the hashing state, as soon as no other task has it.
    pub(super) async fn take(&self) -> Hashing {
        loop {
            let mut back = std::pin::pin!(self.back.notified());
            back.as_mut().enable();
            if let Some(hashing) = self.slot.lock().hashing.take() {
                return hashing;
            }
            back.await;
        }
    }

    /// Gives the hashing state back; it is dropped if hashing was restarted meanwhile.
    pub(super) fn give_back(&self, hashing: Hashing) {
        self.give_back_unless(hashing, |_| false);
    }

    /// Gives the hashing state back, unless there is something to go on with.
    fn give_back_unless(&self, hashing: Hashing, goes_on: impl FnOnce(&Hashing) -> bool) -> Option<Hashing> {
        let mut slot = self.slot.lock();
        if hashing.beginning == slot.beginning {
            // Checked with the slot locked, so that a task that stores a piece afterwards finds the state given back.
            if goes_on(&hashing) {
                return Some(hashing);
            }
            slot.hashing = Some(hashing);
        }
        drop(slot);
        self.back.notify_waiters();
        None
    }

    /// The hasher, if it has had all of a blob of this length.
    fn take_hasher(&self, length: u64) -> Option<DigestHasher> {
        let mut slot = self.slot.lock();
        slot.hashing.as_mut().filter(|hashing| hashing.next == length)?.hasher.take()
    }
}

impl Transfer {
    /// The hasher of the whole while it is read: for the algorithm of its digest, else SHA-256, for callers that want to know it. An agent
    /// that runs for one command hashes only what it has to check. For an expanded layer nobody knows the
    /// digest of the file; its tar was checked when it was expanded.
    pub(super) fn hasher(&self) -> Option<DigestHasher> {
        if matches!(self.source, Source::Expanded(_)) {
            return None;
        }
        let options = &self.context.options;
        let may_be_asked = options.role != Role::Embedded || options.verify_whole;
        self.digest().map(|digest| digest.hasher()).or_else(|| may_be_asked.then(DigestHasher::sha256))
    }

    /// After `length` bytes, the whole's digest is known. Noted before anybody learns that all pieces are here, since the
    /// check of the whole would read them again.
    pub(super) fn note_streamed(&self, length: Option<u64>) {
        // With the state locked, the check of the whole finds either the hasher or its result.
        let mut state = self.state();
        if let Some(hasher) = length.and_then(|length| self.whole.take_hasher(length)) {
            state.streamed_digest = Some(hasher.finish());
        }
    }

    /// A piece is stored. If it has become the next one meanwhile, or no task that hashes had its bytes in memory, it is hashed now.
    pub(super) fn hash_if_next(self: &Arc<Self>, piece: PieceIndex) {
        if let Some(hashing) = self.whole.take_at(self.piece_length.offset(piece)) {
            self.hashed(hashing);
        }
    }

    /// A piece was hashed, and the following ones may have arrived before.
    pub(super) fn hashed(self: &Arc<Self>, hashing: Hashing) {
        let goes_on = |hashing: &Hashing| !hashing.is_idle() && self.has_next(hashing);
        let Some(hashing) = self.whole.give_back_unless(hashing, goes_on) else {
            return self.note_streamed(self.stored.length());
        };
        let transfer = Arc::clone(self);
        self.spawn(async move { transfer.hash_on(hashing).await });
    }

    fn has_next(&self, hashing: &Hashing) -> bool {
        let is_within = self.stored.length().is_some_and(|length| hashing.next < length);
        is_within && self.stored.holds(self.piece_length.piece_at(hashing.next))
    }

    /// Hashes pieces that arrived early.
    async fn hash_on(self: &Arc<Self>, mut hashing: Hashing) {
        loop {
            let (stored, piece_length) = (Arc::clone(&self.stored), self.piece_length);
            // Once all pieces are here, the check of the whole waits for this work; before, the transfer waits for others.
            let steps = (self.pieces() == Some(stored.held().len())).then(|| Arc::clone(&self.steps));
            let step = move || steps.iter().for_each(|steps| steps.take());
            let read = self.context.disk.run(move || {
                let read = hashing.read_on(&*stored, piece_length, PIECES_AT_A_TIME, step);
                (hashing, read)
            });
            let (read, result) = read.await;
            if let Err(error) = result {
                // A damaged piece is fetched again, and the rest is hashed at the end.
                tracing::debug!(blob = %self.blob.short(), %error, "hashing the whole stopped");
                return self.whole.give_back(read);
            }
            let goes_on = |hashing: &Hashing| !self.closed.is_cancelled() && self.has_next(hashing);
            match self.whole.give_back_unless(read, goes_on) {
                Some(rest) => hashing = rest,
                None => return self.note_streamed(self.stored.length()),
            }
        }
    }

    /// All pieces are here: hashes the rest. Returns the digest, if it is being computed. If the blob passes through, the rest may be
    /// forgotten: then the store returns the digest, if it knows it.
    ///
    /// # Errors
    /// The whole does not match the origin's declarations, or a piece can't be read.
    pub(super) async fn hash_rest(&self) -> Result<Option<Digest>, FetchError> {
        let Some(length) = self.stored.length() else { return Ok(None) };
        let mut hashing = self.whole.take().await;
        let is_needed = self.digest().is_some() || hashing.witness.is_some();
        if hashing.is_idle() || !is_needed && length.saturating_sub(hashing.next) > MAX_READ_AGAIN {
            self.whole.give_back(hashing);
            return Ok(None);
        }
        let (stored, piece_length, steps) = (Arc::clone(&self.stored), self.piece_length, Arc::clone(&self.steps));
        let read = self.context.disk.run(move || {
            let read = hashing.read_on(&*stored, piece_length, usize::MAX, || steps.take());
            (hashing, read)
        });
        let (read, result) = read.await;
        hashing = read;
        let verdict = hashing.witness.take_if(|_| hashing.next == length).map(Witness::verdict);
        let digest = hashing.hasher.take_if(|_| hashing.next == length).map(DigestHasher::finish);
        self.whole.give_back(hashing);
        match result {
            Err(_) if self.stored.passes() => return Ok(None),
            result => result?,
        }
        verdict.transpose()?;
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use darter_core::manifest::hash_piece;
    use darter_core::{BlobId, Manifest, Version};
    use darter_store::{BlobInfo, MemStore, Store as _, StoreConfig};

    use super::*;

    const PIECE: PieceLength = PieceLength::UNKNOWN_BLOB;

    /// A blob of three pieces, all of which are missing.
    fn blob() -> (Arc<dyn StoredBlob>, Vec<u8>) {
        let content: Vec<u8> = (0..PIECE.bytes() as u32 * 2 + 9).map(|at| (at / 7) as u8).collect();
        let store = MemStore::new(&StoreConfig::new(Arc::new(|| 0)));
        let info = BlobInfo { name: "blob".to_owned(), digest: None, version: Version::default(), created: 0 };
        let manifest = Manifest::new(PIECE, Some(content.len() as u64));
        (store.open_or_create(BlobId([7; 32]), info, manifest).unwrap(), content)
    }

    fn put(
        stored: &dyn StoredBlob,
        piece: u32,
        bytes: &[u8],
        hashing: &mut Option<Hashing>,
    ) -> Result<Put, StoreError> {
        let fresh = Fresh { piece: PieceIndex(piece), bytes, only: false, is_last: piece == 2 };
        fresh.put(stored, hashing).map(|put| put.expect("nothing is declared"))
    }

    #[test]
    fn a_piece_that_is_not_stored_leaves_what_was_hashed_as_it_was() {
        let (stored, content) = blob();
        let pieces: Vec<&[u8]> = content.chunks(PIECE.bytes() as usize).collect();
        let whole = Whole::default();
        whole.begin(Some(DigestHasher::sha256()), None);
        for piece in 0..3 {
            let offset = PIECE.offset(PieceIndex(piece));
            let bytes = pieces[piece as usize];
            stored.extend(piece, &[hash_piece(PIECE, PieceIndex(piece), bytes, false)]).unwrap();
            let mut wrong = bytes.to_vec();
            wrong[0] ^= 1;
            let mut hashing = whole.take_at(offset);
            put(&*stored, piece, &wrong, &mut hashing).unwrap_err();
            whole.give_back(hashing.expect("it is not lost"));
            let mut hashing = whole.take_at(offset);
            assert_eq!(put(&*stored, piece, bytes, &mut hashing).unwrap(), Put::Stored);
            whole.give_back(hashing.unwrap());
        }
        let hasher = whole.take_hasher(content.len() as u64).expect("all of it was hashed");
        assert_eq!(hasher.finish(), sha256(&content));
    }

    #[test]
    fn bytes_of_a_piece_that_is_here_already_are_not_hashed_in_its_place() {
        let (stored, content) = blob();
        let first = &content[..PIECE.bytes() as usize];
        put(&*stored, 0, first, &mut None).unwrap();
        let mut hashing = Some(Hashing { hasher: Some(DigestHasher::sha256()), ..Hashing::default() });
        assert_eq!(put(&*stored, 0, first, &mut hashing).unwrap(), Put::AlreadyHeld);
        let mut hashing = hashing.unwrap();
        assert_eq!(hashing.next, 0, "it is read from the store");
        hashing.read_on(&*stored, PIECE, 5, || {}).unwrap();
        assert_eq!(hashing.next, PIECE.bytes());
    }

    /// Two connections store adjacent pieces: when the second one began its piece, the first one still had the hashing state.
    #[test]
    fn whoever_stored_the_piece_whose_turn_came_meanwhile_goes_on() {
        let (stored, content) = blob();
        let pieces: Vec<&[u8]> = content.chunks(PIECE.bytes() as usize).collect();
        let whole = Whole::default();
        whole.begin(Some(DigestHasher::sha256()), None);
        let mut first = whole.take_at(0);
        let mut second = whole.take_at(PIECE.bytes());
        assert!(second.is_none());
        put(&*stored, 0, pieces[0], &mut first).unwrap();
        let goes_on = |hashing: &Hashing| stored.holds(PIECE.piece_at(hashing.next));
        assert!(whole.give_back_unless(first.unwrap(), goes_on).is_none(), "the second piece is not here yet");
        put(&*stored, 1, pieces[1], &mut second).unwrap();
        let mut hashing = second.or_else(|| whole.take_at(PIECE.bytes())).expect("it is its turn by now");
        hashing.read_on(&*stored, PIECE, 5, || {}).unwrap();
        assert_eq!(hashing.next, 2 * PIECE.bytes());
    }

    fn sha256(bytes: &[u8]) -> Digest {
        Digest::sha256(bytes)
    }

    #[test]
    fn who_stores_the_piece_whose_turn_it_is_hashes_it() {
        let whole = Whole::default();
        whole.begin(Some(DigestHasher::sha256()), None);
        assert!(whole.take_at(5).is_none(), "it came before its turn");
        let mut hashing = whole.take_at(0).unwrap();
        assert!(whole.take_at(0).is_none(), "somebody else has it");
        hashing.update(b"first");
        whole.give_back(hashing);
        assert!(whole.take_hasher(9).is_none());
        let mut hashing = whole.take_at(5).unwrap();
        hashing.update(b"last");
        whole.give_back(hashing);
        assert_eq!(whole.take_hasher(9).unwrap().finish(), sha256(b"firstlast"));
    }

    #[test]
    fn what_began_before_is_not_given_back() {
        let whole = Whole::default();
        let before = whole.take_at(0).unwrap();
        whole.begin(Some(DigestHasher::sha256()), None);
        whole.give_back(before);
        assert!(!whole.take_at(0).unwrap().is_idle());
    }

    #[tokio::test]
    async fn the_check_of_the_whole_waits_for_who_hashes() {
        let whole = Arc::new(Whole::default());
        let mut hashing = whole.take_at(0).unwrap();
        let waiting = tokio::spawn({
            let whole = Arc::clone(&whole);
            async move { whole.take().await.next }
        });
        tokio::task::yield_now().await;
        hashing.next = 7;
        assert!(whole.give_back_unless(hashing, |hashing| hashing.next < 7).is_none());
        assert_eq!(waiting.await.unwrap(), 7);
    }
}
