//! Reads an answer of the origin to its end, although the plan would stop at a piece that somebody has.
//!
//! An answer that begins before the missing pieces was requested because the origin serves no ranges, or because nothing shows whether it is of
//! the same version as what is here. If it were stopped at a piece that is here, the rest would have to be read from the start again;
//! and pieces after the first gap, read ahead by other connections or on errands, would never be compared with it.
//! So all of it is read, and each piece that is here is compared. Pieces of two versions never make a whole: if bytes of such an unverified answer
//! were stored, the whole is not checked before everything after them was compared.
//!
//! The same applies to an answer with the whole whose credentials have expired meanwhile: no further request would be answered.

use std::sync::Arc;

use darter_core::PieceIndex;
use darter_swarm::{AtPiece, Came, Input, ReadsOn};

use super::Transfer;
use super::body::Assembly;
use super::turns::Turn;

impl Transfer {
    /// Waits for this blob's turn to read the next piece. Returns false if it need not be read any more, or not by this agent.
    pub(super) async fn begins_piece(&self, turn: &mut Turn<'_>, assembly: &mut Assembly) -> bool {
        tokio::select! {
            () = turn.begin() => self.reads_on(assembly),
            () = self.closed.cancelled() => false,
        }
    }

    /// True if the answer is read on with the next piece.
    pub(super) fn reads_on(&self, assembly: &mut Assembly) -> bool {
        let Assembly { reader, piece, through, to_the_end, .. } = *assembly;
        let reads_on = self.comes_to(AtPiece { reader, piece, through, to_the_end });
        assembly.through |= reads_on == ReadsOn::Through;
        reads_on != ReadsOn::Ends
    }

    /// Asks the session whether a reader goes on.
    pub(super) fn comes_to(&self, at: AtPiece) -> ReadsOn {
        let now = self.context.now();
        self.state().session.reads_on(at, self, now)
    }

    /// A piece is about to be stored. If it comes from an answer that may be of another version than what is here, all known pieces
    /// after it have to be compared with the rest of that answer.
    pub(super) fn may_be_of_another_version(&self, assembly: &Assembly) {
        let piece = assembly.piece;
        let is_vouched_for = !assembly.anew || self.stored.hash(piece).is_some();
        if !is_vouched_for && self.stored.known().first_from(PieceIndex(piece.0 + 1)).is_some() {
            self.tell(Input::Compares(true));
        }
    }

    /// A piece that was read from the origin has arrived in another way already.
    pub(super) fn is_here(&self, piece: PieceIndex) {
        self.tell(Input::Again(Came { piece, bytes: 0, request: None, from: None }));
    }

    /// All pieces were compared with an answer that was read from its first byte to its last.
    pub(super) fn is_one_version(self: &Arc<Self>) {
        self.tell(Input::Compares(false));
    }
}
