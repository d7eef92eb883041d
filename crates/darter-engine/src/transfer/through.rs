//! Reading an answer of the origin through to its end, where the plan would break it off at a piece that somebody has.
//!
//! An answer that begins before what is lacking was asked for since the origin gives no part, or since nothing tells whether it is of
//! the same version as what is here. To break it off at a piece that is here, and ask for the rest anew, would read all that stands before
//! the rest again; and what is here behind the first gap, read ahead by other connections or on errands, would never be held against it.
//! So all of it is read, and each piece that is here is compared. Pieces of two versions never make a whole: where something came of such an answer that
//! nothing vouches for, the whole is not checked before everything behind it was compared.
//!
//! The same goes for an answer for everything whose caller's credentials have expired meanwhile: no other request would be answered.

use std::sync::Arc;

use darter_core::PieceIndex;
use darter_swarm::{AtPiece, Came, Input, ReadsOn};

use super::Transfer;
use super::body::Assembly;
use super::turns::Turn;

impl Transfer {
    /// Waits for this blob's turn to read the piece that comes next. False when it need not be read any more, or not by this agent.
    pub(super) async fn begins_piece(&self, turn: &mut Turn<'_>, assembly: &mut Assembly) -> bool {
        tokio::select! {
            () = turn.begin() => self.reads_on(assembly),
            () = self.closed.cancelled() => false,
        }
    }

    /// True if an answer is read on with the piece that comes next.
    pub(super) fn reads_on(&self, assembly: &mut Assembly) -> bool {
        let Assembly { reader, piece, through, to_the_end, .. } = *assembly;
        let reads_on = self.comes_to(AtPiece { reader, piece, through, to_the_end });
        assembly.through |= reads_on == ReadsOn::Through;
        reads_on != ReadsOn::Ends
    }

    /// Asks the session if a reader goes on.
    pub(super) fn comes_to(&self, at: AtPiece) -> ReadsOn {
        let now = self.context.now();
        self.state().session.reads_on(at, self, now)
    }

    /// A piece is about to be stored. If nothing vouches for it but an answer that may be of another version than what is here, all that
    /// is known behind it is to be compared with the rest of that answer.
    pub(super) fn may_be_of_another_version(&self, assembly: &Assembly) {
        let piece = assembly.piece;
        let is_vouched_for = !assembly.anew || self.stored.hash(piece).is_some();
        if !is_vouched_for && self.stored.known().first_from(PieceIndex(piece.0 + 1)).is_some() {
            self.tell(Input::Compares(true));
        }
    }

    /// A piece that was read of the origin is here by other ways already.
    pub(super) fn is_here(&self, piece: PieceIndex) {
        self.tell(Input::Again(Came { piece, bytes: 0, request: None, from: None }));
    }

    /// All pieces were compared with an answer that was read from its first byte to its last.
    pub(super) fn is_one_version(self: &Arc<Self>) {
        self.tell(Input::Compares(false));
    }
}
