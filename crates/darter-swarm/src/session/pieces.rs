//! Requests that begin and end, and pieces that this agent gets and loses.

use darter_core::{Moment, NodeId, PieceIndex, PieceSet};

use super::Session;
use crate::{Event, Leader, RequestId};

/// A verified piece that is in the store now.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    /// The piece.
    pub piece: PieceIndex,
    /// Its length in bytes.
    pub bytes: u64,
    /// The request that it answers.
    pub request: Option<RequestId>,
    /// The peer that gave it; `None` for the origin and the disk.
    pub from: Option<NodeId>,
}

impl Session {
    /// `giver` begins to answer a request with a piece.
    pub(super) fn begun(&mut self, request: RequestId, piece: PieceIndex, giver: NodeId, now: Moment) {
        self.gives(giver, piece);
        self.picker.handle(Event::Started { request, piece }, now);
    }

    /// A piece of `giver` is on its way, or came before its hash: if `giver` leads, it knows the hash.
    pub(super) fn gives(&mut self, giver: NodeId, piece: PieceIndex) {
        if self.following() == Some(giver) {
            self.hashes.lead_showed(piece.0 + 1);
        }
    }

    /// A request for a piece is refused, since the peer does not hold it. If this agent leads, another holder has to be found.
    pub(super) fn refused(&mut self, request: RequestId, peer: NodeId, piece: PieceIndex, now: Moment) {
        self.given.needs_again(peer, piece);
        self.picker.handle(Event::PeerLost { peer, piece }, now);
        self.failed(request, peer, piece, now);
    }

    /// A request for a piece is not answered, since its holder can't be reached. If this agent leads, it does not rely on that holder for pieces that
    /// the origin can give, until the holder says again that it holds them.
    pub(super) fn failed(&mut self, request: RequestId, holder: NodeId, piece: PieceIndex, now: Moment) {
        self.picker.handle(Event::Failed { request }, now);
        if let Some(books) = &mut self.books {
            books.lead_mut().lacks(holder, piece);
        }
    }

    /// A piece that was lacking is here now.
    pub(super) fn stored(&mut self, came: Came, now: Moment) {
        let Came { piece, bytes, request, from } = came;
        self.vigil.moved(now);
        self.has_read |= from.is_none();
        self.leadership.piece_came();
        self.picker.handle(Event::Received { request, piece, bytes }, now);
        if self.leader() != Leader::Me {
            let from_lead = from.is_some() && from == self.following();
            let spread = self.picker.spread(piece, self.hashes.do_members_ask());
            self.news.came(piece, from_lead, spread, now);
        }
        if let Some(books) = &mut self.books {
            if let Some(member) = from {
                books.lead_mut().gave(member, true, now);
            }
            books.lead_mut().own(piece);
        }
    }

    /// A piece that was held is lacking now.
    pub(super) fn lacks(&mut self, piece: PieceIndex, now: Moment) {
        self.picker.handle(Event::Lost { piece }, now);
        self.news.went(piece);
        if let Some(books) = &mut self.books {
            books.lead_mut().disown(piece);
        }
    }

    /// Pieces that were held are lacking now. A complete blob is open again: somebody has to lead it, and is told what is wanted.
    pub(super) fn are_lacking(&mut self, pieces: &PieceSet, now: Moment) {
        pieces.iter().for_each(|piece| self.lacks(piece, now));
        if self.course.lacks() {
            self.vigil.moved(now);
            self.wants.are_told_again();
        }
    }

    /// A peer no longer holds a piece.
    pub(super) fn lost_by(&mut self, peer: NodeId, piece: PieceIndex, now: Moment) {
        self.picker.handle(Event::PeerLost { peer, piece }, now);
        if self.picker.held().contains(piece) {
            self.news.is_wanted_by(peer, piece);
        }
        if let Some(books) = &mut self.books {
            books.lead_mut().lacks(peer, piece);
        }
    }
}
