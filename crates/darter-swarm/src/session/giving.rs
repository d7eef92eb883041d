//! The pieces that members are sent. They are chosen late, when there is room to send.
//!
//! This is a question with an answer and no output: the sender has a free slot at this moment, for this member, and either binds a piece to it or
//! offers it to another member. Between the two halves of the question it asks other blobs, without a lock on this one.
//!
//! Invariant: a piece that was chosen counts as sent until its sender says that it did not arrive ([`Input::Unsent`](super::Input::Unsent)).

use darter_core::{Moment, NodeId, PieceIndex};

use super::Session;
use crate::lead::Wish;

/// The answer to a member that asked for any piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The member was not admitted here.
    NoMember,
    /// This piece is to be sent, and counts as sent.
    Send(PieceIndex),
    /// There is no piece for it that nobody has yet. A copy of another piece may go, if nothing else is to be sent first: see
    /// [`Session::choose_copy`].
    MayCopy,
    /// There is nothing for it now: the ask stands. A sender that tries it again only when it is told to
    /// ([`Output::Give`](super::Output::Give)) says so ([`Input::AskStands`](super::Input::AskStands)).
    Nothing,
}

impl Session {
    /// The first half of the answer to a member that asked for any piece: a piece that nobody has yet.
    pub(super) fn fresh_for(&mut self, node: NodeId, now: Moment) -> Choice {
        let Some(books) = self.books.as_mut().filter(|books| books.has(node)) else { return Choice::NoMember };
        let lead = books.lead_mut();
        if !lead.may_give(now) {
            return Choice::Nothing;
        }
        let Some(piece) = lead.choose_fresh(node, now) else { return Choice::MayCopy };
        self.given.sends(node, piece);
        Choice::Send(piece)
    }

    /// The second half: one more copy of a piece, if a copy `may` be sent.
    pub(super) fn copy_for(&mut self, node: NodeId, may: bool, now: Moment) -> Choice {
        let Some(books) = self.books.as_mut().filter(|books| books.has(node)) else { return Choice::NoMember };
        let copy = if may { books.lead_mut().choose_copy(node, now) } else { None };
        let Some(piece) = copy else { return Choice::Nothing };
        self.given.sends(node, piece);
        Choice::Send(piece)
    }

    /// An ask stands. Returns true if the session is to wake up sooner for that.
    pub(super) fn ask_stands(&mut self, now: Moment) -> bool {
        self.books.as_mut().is_some_and(|books| books.gave_nothing(now))
    }

    /// True if an ask of a member may be answered now; while it is false, asks that stand need not be tried.
    pub(super) fn has_any(&mut self, now: Moment) -> bool {
        self.books.as_mut().is_some_and(|books| books.lead_mut().may_give(now))
    }

    /// True if there is a piece for a member that nobody has yet.
    pub fn has_fresh_for(&self, node: NodeId, now: Moment) -> bool {
        let books = self.books.as_ref().filter(|books| books.has(node));
        books.is_some_and(|books| books.lead().has_fresh_for(node, now))
    }

    /// True if a node's request for a named piece is answered behind those of others: it was given the piece, or says that it holds it, or it is a member that
    /// tells of nothing that it is given, keeps that to itself, or names what others have and passes on nothing.
    pub fn goes_last(&self, node: NodeId, piece: PieceIndex, now: Moment) -> bool {
        let is_held = || self.picker.is_held_by(node, piece);
        let is_no_help = || self.books.as_ref().is_some_and(|books| books.lead().goes_last(node, piece, now));
        self.given.has(node, piece) || is_held() || is_no_help()
    }

    /// A piece that a node requested by name is being sent.
    pub(super) fn sending(&mut self, node: NodeId, piece: PieceIndex, now: Moment) {
        self.given.sends(node, piece);
        if let Some(books) = &mut self.books {
            books.lead_mut().sending(node, piece, now);
        }
    }

    /// A piece that was being sent did not arrive.
    pub(super) fn unsent(&mut self, node: NodeId, piece: PieceIndex) {
        self.given.unsent(node, piece);
        if let Some(books) = &mut self.books {
            books.lead_mut().unsent(node, piece);
        }
    }

    /// A piece that was here can't be given any more.
    pub(super) fn forgets(&mut self, piece: PieceIndex) {
        if let Some(books) = &mut self.books {
            books.lead_mut().disown(piece);
        }
    }

    /// How many members hold a piece.
    pub fn holders(&self, piece: PieceIndex) -> u32 {
        self.books.as_ref().map_or(0, |books| books.lead().holders(piece))
    }

    /// True if a piece was sent to a member, which may have passed it on and forgotten it by now.
    pub fn was_given(&self, piece: PieceIndex) -> bool {
        self.books.as_ref().is_some_and(|books| books.lead().was_sent(piece))
    }

    /// True if a member or a reader of this agent wants a piece that is in a part of the blob.
    pub fn is_wished(&self, piece: PieceIndex) -> bool {
        let holds = |wish: Wish| (wish.first..wish.end).contains(&piece.0);
        self.books.as_ref().is_some_and(|books| books.lead().wishes().any(holds))
    }

    /// The first piece that no member holds, if any member still wants pieces.
    pub fn first_unheld(&self) -> Option<PieceIndex> {
        self.books.as_ref().map(|books| books.lead()).filter(|lead| lead.is_wanted()).map(|lead| lead.first_unheld())
    }
}
