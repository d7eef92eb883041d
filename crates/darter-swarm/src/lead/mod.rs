//! The tracker of one swarm, and what its seed sends to whom.

use darter_core::{Moment, NodeId, PieceIndex, PieceSet, Place};

use crate::tuning::Tuning;

/// How a lead came to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nobody led before: the origin may be asked at once.
    Fresh,
    /// Another lead is gone: members need a moment to say what they hold before the origin is asked.
    TakeOver,
}

/// What [`Lead::serve`] decided: answer `node`'s ask `ask` with `piece`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who gets it.
    pub node: NodeId,
    /// The ask that is answered, as named by the node.
    pub ask: u64,
    /// The piece to send.
    pub piece: PieceIndex,
}

/// A member has to be told of a neighbour it gained or lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// `to` and `peer` are neighbours now: they tell each other what they hold.
    Linked {
        /// Who is to be told.
        to: NodeId,
        /// Its new neighbour.
        peer: NodeId,
        /// Where the neighbour stands.
        place: Place,
        /// Whether the neighbour wants the whole blob.
        wants: bool,
    },
    /// They are neighbours no more.
    Unlinked {
        /// Who is to be told.
        to: NodeId,
        /// Its former neighbour.
        peer: NodeId,
    },
}

/// Pieces to be read from the origin, in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginRun {
    /// The first piece.
    pub first: PieceIndex,
    /// One past the last; `None` for "to the end of the blob".
    pub end: Option<PieceIndex>,
}

/// The lead of one swarm.
#[derive(Debug)]
pub struct Lead {}

#[expect(unused_variables, clippy::needless_pass_by_value, reason = "signatures first")]
impl Lead {
    /// A lead that runs at node `me`, which holds nothing yet, in a swarm without members.
    pub fn new(me: NodeId, place: Place, start: Start, tuning: Tuning, seed: u64, now: Moment) -> Self {
        unimplemented!()
    }

    /// Learns how many pieces the blob has.
    pub fn set_total(&mut self, total: u32) {
        unimplemented!()
    }

    /// A node says that it is here, what it holds, and whether it wants the whole blob. Joining again replaces what
    /// was known of it. The lead's own node joins too if it fetches pieces from members (after a take-over).
    pub fn join(&mut self, node: NodeId, place: Place, held: PieceSet, wants: bool) {
        unimplemented!()
    }

    /// A node is gone, or its connection is.
    pub fn leave(&mut self, node: NodeId) {
        unimplemented!()
    }

    /// A member holds one more piece.
    pub fn have(&mut self, node: NodeId, piece: PieceIndex, now: Moment) {
        unimplemented!()
    }

    /// A member turned out not to hold a piece that it was thought to hold.
    pub fn lacks(&mut self, node: NodeId, piece: PieceIndex) {
        unimplemented!()
    }

    /// A member began or ceased to want the whole blob.
    pub fn wants(&mut self, node: NodeId, wants: bool) {
        unimplemented!()
    }

    /// `reporter` got a wrong piece from `suspect`. Reports of two different nodes, or the lead's own, put the suspect
    /// aside: it is nobody's neighbour and counts as no holder. True when this report did so.
    pub fn report(&mut self, reporter: NodeId, suspect: NodeId) -> bool {
        unimplemented!()
    }

    /// The lead's own store has a piece now.
    pub fn own(&mut self, piece: PieceIndex) {
        unimplemented!()
    }

    /// The lead's own store lost a piece.
    pub fn disown(&mut self, piece: PieceIndex) {
        unimplemented!()
    }

    /// A member asks for any piece. The ask stands until [`Lead::serve`] answers it, or it is withdrawn.
    pub fn ask(&mut self, node: NodeId, ask: u64) {
        unimplemented!()
    }

    /// A member needs an ask no longer.
    pub fn withdraw(&mut self, node: NodeId, ask: u64) {
        unimplemented!()
    }

    /// Call with a free upload slot, after anything changed, and at [`Lead::next_wakeup`]: which ask to answer now,
    /// and with what. The piece counts as sent; say [`Lead::unsent`] if it did not arrive.
    pub fn serve(&mut self, now: Moment) -> Option<Grant> {
        unimplemented!()
    }

    /// The piece that `node` should get next, counted as sent.
    pub fn choose(&mut self, node: NodeId, now: Moment) -> Option<PieceIndex> {
        unimplemented!()
    }

    /// A piece is being sent that a member asked for by name.
    pub fn sending(&mut self, node: NodeId, piece: PieceIndex, now: Moment) {
        unimplemented!()
    }

    /// A piece counted as sent did not get there.
    pub fn unsent(&mut self, node: NodeId, piece: PieceIndex) {
        unimplemented!()
    }

    /// The next pieces that must be read from the origin: not owned, and held by no live member (those are the lead's
    /// own picker's business). Ask again after each piece, and stop reading when the answer no longer begins with the
    /// piece that comes next: somebody who holds it has turned up.
    pub fn origin_plan(&self, now: Moment) -> Option<OriginRun> {
        unimplemented!()
    }

    /// Takes the notices that members have to be given.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        unimplemented!()
    }

    /// When [`Lead::serve`] or [`Lead::origin_plan`] may say something new though nothing happens, if ever.
    pub fn next_wakeup(&self, now: Moment) -> Option<Moment> {
        unimplemented!()
    }

    /// What the lead's own store has.
    pub fn owned(&self) -> &PieceSet {
        unimplemented!()
    }

    /// The live members that are not put aside, in the order of their ids.
    pub fn members(&self) -> Vec<NodeId> {
        unimplemented!()
    }
}
