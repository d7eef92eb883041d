//! Which pieces of the agent's file are known to be right, and which of them stay in the page cache. No I/O.
//!
//! A piece is *fresh* from the moment at which the agent confirmed it, while it is among the last [`MAX_FRESH`] bytes: it is in the page cache,
//! and is read without a request. A piece that is no longer fresh is dropped from the page cache if the kernel keeps its bytes in
//! the page cache of the mounted file ([`Pages`](crate::Pages)); otherwise all of it would be there twice. While the connection exists on which the agent confirmed
//! a piece, the piece is not evicted, and so is read from the disk without another request.
//!
//! The hash of each confirmed piece stays known. So the piece can be read without an agent, and verified here.

use std::collections::{BTreeSet, VecDeque};

use darter_core::manifest::hash_piece;
use darter_core::{ByteRange, PieceHash, PieceIndex, PieceLength, PieceSet};

/// Most bytes of fresh pieces.
pub const MAX_FRESH: u64 = 32 << 20;

/// A page of memory, the unit in which a hole in a file reads as zeros: reads begin at page boundaries, so that a hole is seen as a whole.
pub const PAGE: u64 = 4096;

/// See the module's documentation.
#[derive(Debug)]
pub struct Kept {
    pieces: PieceLength,
    length: u64,
    hashes: Vec<Option<PieceHash>>,
    /// Pieces that the agent confirmed on this connection, and fresh ones.
    vouched: PieceSet,
    fresh: PieceSet,
    /// Fresh pieces, the oldest first.
    order: VecDeque<PieceIndex>,
    /// Pages of fresh pieces, by their offsets, that are zeros in the content itself.
    zeros: BTreeSet<u64>,
}

impl Kept {
    /// Nothing is known yet of content of this length.
    pub fn new(pieces: PieceLength, length: u64) -> Self {
        let count = pieces.count(length) as usize;
        let (fresh, order, zeros) = (PieceSet::new(), VecDeque::new(), BTreeSet::new());
        Self { pieces, length, hashes: vec![None; count], vouched: PieceSet::new(), fresh, order, zeros }
    }

    /// The piece length.
    pub const fn pieces(&self) -> PieceLength {
        self.pieces
    }

    /// The range in bytes of the pieces that `range` touches.
    pub fn whole_pieces(&self, range: ByteRange) -> ByteRange {
        let pieces = self.pieces.pieces_of(range);
        let end = self.pieces.offset(PieceIndex(pieces.end));
        ByteRange::new(self.pieces.offset(PieceIndex(pieces.start)), end).clamp_to(self.length)
    }

    /// Learns the hashes of the pieces that `range` touches. Returns false if one contradicts a known hash: then the hashes are of other
    /// content, and nothing is learnt.
    #[must_use]
    pub fn learn(&mut self, range: ByteRange, hashes: &[PieceHash]) -> bool {
        let pieces = self.pieces.pieces_of(range);
        let (first, count) = (pieces.start as usize, pieces.len());
        let Some(known) = self.hashes.get_mut(first..first + count).filter(|_| hashes.len() == count) else {
            return true;
        };
        if known.iter().zip(hashes).any(|(known, told)| known.is_some_and(|known| known != *told)) {
            return false;
        }
        for (known, told) in known.iter_mut().zip(hashes) {
            *known = Some(*told);
        }
        true
    }

    /// The first piece whose hash is known.
    pub fn first_known(&self) -> Option<ByteRange> {
        let piece = self.hashes.iter().position(Option::is_some)?;
        Some(self.pieces.range(PieceIndex(u32::try_from(piece).ok()?), self.length))
    }

    /// Notes that the pieces that `range` touches are in the page cache, and right, and that `range` was delivered. Returns the ranges
    /// that should be dropped from the page cache now.
    pub fn came(&mut self, range: ByteRange) -> Vec<ByteRange> {
        for piece in self.pieces.pieces_of(range).map(PieceIndex) {
            self.vouched.insert(piece);
            if self.fresh.insert(piece) {
                self.order.push_back(piece);
            }
        }
        // The pieces of this request stay, however long they are.
        let most = (MAX_FRESH / self.pieces.bytes()).max(self.pieces.pieces_of(range).len() as u64);
        let mut dropped = Vec::new();
        while self.order.len() as u64 > most {
            let Some(piece) = self.order.pop_front() else { break };
            self.fresh.remove(piece);
            let range = self.pieces.range(piece, self.length);
            for page in range.start() / PAGE..range.end().div_ceil(PAGE) {
                self.zeros.remove(&(page * PAGE));
            }
            dropped.push(range);
        }
        dropped
    }

    /// As if more than [`MAX_FRESH`] bytes had arrived since.
    #[cfg(test)]
    pub(crate) fn forget_fresh(&mut self) {
        (self.fresh, self.order) = (PieceSet::new(), VecDeque::new());
        self.zeros.clear();
    }

    /// True if `range` may be read from the file without a check.
    pub fn is_fresh(&self, range: ByteRange) -> bool {
        self.pieces.pieces_of(range).all(|piece| self.fresh.contains(PieceIndex(piece)))
    }

    /// True if `range` may be read from the file without a check, while the connection to the agent exists.
    pub fn is_vouched(&self, range: ByteRange) -> bool {
        self.pieces.pieces_of(range).all(|piece| self.vouched.contains(PieceIndex(piece)))
    }

    /// There is another connection: pieces that are not fresh may have been evicted since.
    pub fn another_connection(&mut self) {
        self.vouched = self.fresh.clone();
    }

    /// The pieces that `range` touches, with their ranges and hashes; `None` if a hash is unknown.
    pub fn proofs(&self, range: ByteRange) -> Option<Vec<PieceCheck>> {
        let only = self.hashes.len() == 1;
        let proof = |piece: u32| {
            let hash = self.hashes.get(piece as usize).copied().flatten()?;
            let piece = PieceIndex(piece);
            Some(PieceCheck { pieces: self.pieces, piece, range: self.pieces.range(piece, self.length), hash, only })
        };
        self.pieces.pieces_of(range).map(proof).collect()
    }

    /// Forgets which pieces are fresh, since they belong to another file.
    pub fn another_file(&mut self) {
        (self.vouched, self.fresh, self.order) = (PieceSet::new(), PieceSet::new(), VecDeque::new());
        self.zeros.clear();
    }

    /// Notes pages that were read as zeros from verified pieces; only those of fresh pieces are kept.
    pub fn learn_zeros(&mut self, pages: Vec<u64>) {
        let (fresh, pieces) = (&self.fresh, self.pieces);
        self.zeros.extend(pages.into_iter().filter(|page| fresh.contains(pieces.piece_at(*page))));
    }

    /// True if all of these pages are known to be zeros.
    pub fn are_zeros(&self, mut pages: impl Iterator<Item = u64>) -> bool {
        pages.all(|page| self.zeros.contains(&page))
    }

    /// True if every piece can be read without an agent.
    pub fn knows_all(&self) -> bool {
        self.hashes.iter().all(Option::is_some)
    }
}

/// The hash and range of a piece.
#[derive(Clone, Copy, Debug)]
pub struct PieceCheck {
    pieces: PieceLength,
    piece: PieceIndex,
    hash: PieceHash,
    only: bool,
    /// Its range in the file.
    pub range: ByteRange,
}

impl PieceCheck {
    /// True if these bytes are the piece.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.range.len() && hash_piece(self.pieces, self.piece, bytes, self.only) == self.hash
    }
}

/// The pages, by their offsets, that are all zeros in bytes that were read from `start` on: each may be a hole. Content may have such
/// pages, too, so a caller then checks further.
pub fn zero_pages(start: u64, bytes: &[u8]) -> impl Iterator<Item = u64> {
    // The first bytes of a page without zeros are seldom all zeros.
    let pages = (start..).step_by(PAGE as usize).zip(bytes.chunks(PAGE as usize));
    pages.filter(|(_, page)| page.iter().all(|byte| *byte == 0)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(length: u64) -> Kept {
        Kept::new(PieceLength::from_log2(20).unwrap(), length)
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_came_last_is_read_without_a_question_and_the_rest_is_dropped_from_memory() {
        let mut kept = kept(100 * MIB + 5);
        assert_eq!(kept.whole_pieces(ByteRange::new(3 * MIB - 1, 3 * MIB + 1)), ByteRange::new(2 * MIB, 4 * MIB));
        assert_eq!(
            kept.whole_pieces(ByteRange::new(100 * MIB, 100 * MIB + 1)),
            ByteRange::new(100 * MIB, 100 * MIB + 5)
        );
        for piece in 0..32 {
            assert!(kept.came(ByteRange::new(piece * MIB, (piece + 1) * MIB)).is_empty());
        }
        assert!(kept.is_fresh(ByteRange::new(5, 32 * MIB)));
        assert_eq!(kept.came(ByteRange::new(40 * MIB, 41 * MIB)), [ByteRange::new(0, MIB)]);
        assert!(!kept.is_fresh(ByteRange::new(5, 6)) && kept.is_fresh(ByteRange::new(MIB, 32 * MIB)));
        // More than is kept, at once.
        kept.came(ByteRange::new(50 * MIB, 90 * MIB));
        assert!(kept.is_fresh(ByteRange::new(50 * MIB, 90 * MIB)));
        assert!(kept.is_vouched(ByteRange::new(MIB, 32 * MIB)) && !kept.is_fresh(ByteRange::new(MIB, 2 * MIB)));
        assert!(!kept.is_vouched(ByteRange::new(31 * MIB, 33 * MIB)), "one of them never came");
        kept.another_connection();
        assert!(kept.is_vouched(ByteRange::new(50 * MIB, 90 * MIB)) && !kept.is_vouched(ByteRange::new(MIB, 2 * MIB)));
        kept.another_file();
        let last = ByteRange::new(50 * MIB, 51 * MIB);
        assert!(!kept.is_fresh(last) && !kept.is_vouched(last));
    }

    #[test]
    fn a_piece_is_verified_by_the_hash_that_the_agent_told() {
        let length = MIB + 9;
        let content: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
        let pieces = PieceLength::from_log2(20).unwrap();
        let hash = |piece, bytes: &[u8]| hash_piece(pieces, PieceIndex(piece), bytes, false);
        let (first, last) = content.split_at(MIB as usize);
        let mut kept = kept(length);
        assert!(kept.proofs(ByteRange::new(0, 5)).is_none());
        assert_eq!(kept.first_known(), None);
        assert!(kept.learn(ByteRange::new(MIB, length), &[hash(1, last)]));
        assert_eq!(kept.first_known(), Some(ByteRange::new(MIB, length)));
        assert!(kept.learn(ByteRange::new(0, length), &[hash(0, first), hash(1, last)]));
        assert!(kept.knows_all());
        assert!(!kept.learn(ByteRange::new(0, length), &[hash(0, first), hash(0, first)]), "of other content");
        let proofs = kept.proofs(ByteRange::new(MIB - 1, MIB + 1)).unwrap();
        assert!(proofs[0].matches(first) && proofs[1].matches(last));
        assert!(!proofs[1].matches(first) && !proofs[1].matches(&[0; 9]));
        assert_eq!(proofs[1].range, ByteRange::new(MIB, length));
        // An agent that sends none teaches nothing.
        assert!(kept.learn(ByteRange::new(0, 5), &[]));
        assert!(kept.proofs(ByteRange::new(0, 5)).unwrap()[0].matches(first));
    }

    #[test]
    fn a_page_of_zeros_may_be_a_hole_until_it_was_verified() {
        const SIZE: usize = PAGE as usize;
        let found = |bytes: &[u8]| zero_pages(MIB, bytes).collect::<Vec<_>>();
        let mut bytes = vec![1; 3 * SIZE + 17];
        assert!(found(&bytes).is_empty() && found(&[]).is_empty());
        bytes[SIZE..2 * SIZE].fill(0);
        assert_eq!(found(&bytes), [MIB + PAGE]);
        bytes[2 * SIZE - 1] = 1;
        assert!(found(&bytes).is_empty());
        bytes[3 * SIZE..].fill(0);
        assert_eq!(found(&bytes), [MIB + 3 * PAGE], "the rest of a page");
        let mut kept = kept(100 * MIB);
        kept.came(ByteRange::new(MIB, 2 * MIB));
        kept.learn_zeros(vec![MIB + PAGE, 5 * MIB]);
        let knows = |kept: &Kept, pages: &[u64]| kept.are_zeros(pages.iter().copied());
        assert!(knows(&kept, &[MIB + PAGE]) && !knows(&kept, &[MIB + PAGE, MIB + 2 * PAGE]));
        assert!(!knows(&kept, &[5 * MIB]), "that piece is not fresh");
        kept.came(ByteRange::new(40 * MIB, 90 * MIB));
        assert!(!knows(&kept, &[MIB + PAGE]), "nor is the other one now");
    }
}
