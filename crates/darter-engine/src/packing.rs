//! Packs (compresses) pieces of expanded layers for peers that accept packed pieces.
//!
//! [`Packing`] decides which pieces are packed. This module packs them, on disk threads and a few at a time, and keeps the packed form for a
//! while, since peers that start the same image at the same moment request the same pieces. A piece that arrived packed is kept in that form,
//! too, so that a node packs nothing to pass it on. Packed pieces are found by the pieces' hashes: one can't belong to an earlier version of a
//! blob that was thrown away and read again.
//!
//! Invariants: packed pieces take at most `MAX_KEPT` bytes, and none once nothing is transferred ([`trim`](PackedPieces::trim)); if several peers
//! request the same piece at the same moment, it is packed once, and the others wait for that.
//!
//! Non-goals: other blobs. The kernel sends their pieces from the page cache to the socket (`sendfile`).

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use darter_core::recent::Recent;
use darter_core::{Clock, Moment, PieceHash, PieceIndex};
use darter_store::{Disk, StoredBlob};
use darter_swarm::Packing;
use darter_wire::{PackedPiece, Packer};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};

/// Bytes of packed pieces that are kept.
const MAX_KEPT: u64 = 32 << 20;

/// The bytes that are counted for a kept piece in addition to its packed length: all that is kept of a piece that does not shrink.
const UNSHRUNK_WEIGHT: u64 = 128;

/// How many pieces may be listed as being packed before those that are done are removed from the list.
const MAX_UNDER_WAY: usize = 256;

/// A piece that was tried: packed, or `None` if it does not shrink.
type Tried = Option<PackedPiece>;

/// How a piece is sent.
#[derive(Debug)]
pub(crate) enum Way {
    /// As it is.
    Plain,
    /// In this form, which is kept.
    Packed(PackedPiece),
    /// Packed, if that makes it short enough: see [`PackedPieces::pack`].
    ToPack(PieceHash),
}

/// An agent's packed pieces.
pub struct PackedPieces {
    /// False if the operator wants none.
    is_on: bool,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Pieces that are being packed.
    under_way: Mutex<HashMap<PieceHash, Weak<OnceCell<Tried>>>>,
    /// Turns to pack.
    turns: Semaphore,
    /// Memory to pack in, of those that have no turn.
    packers: Mutex<Vec<Bench>>,
}

struct State {
    packing: Packing,
    kept: Recent<PieceHash, Tried>,
}

impl State {
    fn new() -> Self {
        Self { packing: Packing::default(), kept: Recent::new(MAX_KEPT) }
    }

    fn keep(&mut self, hash: PieceHash, tried: Tried) {
        let weight = tried.as_ref().map_or(0, |packed| u64::from(packed.length())) + UNSHRUNK_WEIGHT;
        self.kept.insert(hash, tried, weight);
    }
}

/// A packer, and a piece that it packs.
#[derive(Default)]
struct Bench {
    packer: Packer,
    plain: Vec<u8>,
}

/// Pieces that are packed at a time: half of the processors, as the runtime has, and four at most.
fn turns() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, 4))
}

impl PackedPieces {
    /// None yet. If `is_on` is false there will be none.
    pub fn new(is_on: bool, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            is_on,
            clock,
            state: Mutex::new(State::new()),
            under_way: Mutex::default(),
            turns: Semaphore::new(turns()),
            packers: Mutex::default(),
        })
    }

    /// How a piece goes to a peer that takes it packed, by a connection of which `rate` tells how many bytes it takes in a second.
    pub(crate) fn way(&self, stored: &dyn StoredBlob, piece: PieceIndex, rate: Option<u64>) -> Way {
        let Some(hash) = stored.hash(piece).filter(|_| self.is_on) else { return Way::Plain };
        let now = self.clock.now();
        let mut state = self.state.lock();
        let State { packing, kept } = &mut *state;
        match kept.get(&hash) {
            Some(Some(packed)) if packing.sends_packed(ratio_of(packed), rate, now) => Way::Packed(packed.clone()),
            None if packing.packs(stored.id(), rate, now) => Way::ToPack(hash),
            Some(_) | None => Way::Plain,
        }
    }

    /// Packs a piece, or waits until it is packed for another requester. `None` if it does not shrink, or can't be read.
    pub(crate) async fn pack(
        self: &Arc<Self>,
        disk: &Disk,
        stored: Arc<dyn StoredBlob>,
        piece: PieceIndex,
        hash: PieceHash,
    ) -> Option<PackedPiece> {
        let asked = self.clock.now();
        let work = self.work_on(hash);
        let packed = work.get_or_init(|| async {
            let Ok(_turn) = self.turns.acquire().await else { return None };
            let (pieces, began) = (Arc::clone(self), asked);
            disk.run(move || pieces.pack_now(&*stored, piece, hash, began)).await
        });
        packed.await.clone()
    }

    fn work_on(&self, hash: PieceHash) -> Arc<OnceCell<Tried>> {
        let mut under_way = self.under_way.lock();
        if let Some(work) = under_way.get(&hash).and_then(Weak::upgrade) {
            return work;
        }
        if under_way.len() >= MAX_UNDER_WAY {
            under_way.retain(|_, work| work.strong_count() > 0);
        }
        let work = Arc::default();
        under_way.insert(hash, Arc::downgrade(&work));
        work
    }

    /// Takes as long as packing does, and may wait for the disk.
    fn pack_now(&self, stored: &dyn StoredBlob, piece: PieceIndex, hash: PieceHash, asked: Moment) -> Tried {
        let mut bench = self.packers.lock().pop().unwrap_or_default();
        // Content that is no more what it was has another hash.
        let read = stored.read_piece(piece, &mut bench.plain).is_ok() && stored.hash(piece) == Some(hash);
        let tried = read.then(|| bench.packer.pack(&bench.plain));
        let length = u32::try_from(bench.plain.len()).unwrap_or(u32::MAX);
        self.packers.lock().push(bench);
        let (tried, now) = (tried?, self.clock.now());
        let packed = tried.as_ref().map(PackedPiece::length);
        let mut state = self.state.lock();
        state.packing.tried(stored.id(), length, packed, now.since(asked), now);
        state.keep(hash, tried.clone());
        tried
    }

    /// A piece came packed and was found right: it is passed on so.
    pub(crate) fn came(&self, hash: Option<PieceHash>, packed: &PackedPiece) {
        if let Some(hash) = hash.filter(|_| self.is_on) {
            let packed = packed.compact();
            self.state.lock().keep(hash, Some(packed));
        }
    }

    /// Gives memory back while nothing moves.
    pub fn trim(&self) {
        self.state.lock().kept = Recent::new(MAX_KEPT);
        self.under_way.lock().retain(|_, work| work.strong_count() > 0);
        self.packers.lock().clear();
    }
}

fn ratio_of(packed: &PackedPiece) -> f64 {
    f64::from(packed.length()) / f64::from(packed.plain_length())
}

#[cfg(test)]
mod tests;
