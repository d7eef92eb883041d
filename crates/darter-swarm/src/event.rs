//! The events that a [`Picker`](crate::Picker) is told, and the actions that it wants done.

use std::ops::Range;
use std::time::Duration;

use darter_core::{NodeId, PieceIndex, PieceSet, Tier};

/// Names one request for a piece, or one ask, of one picker; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names one reader in order, chosen by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(pub u64);

/// The reason to expect that pieces will be needed; the most certain one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Foresight {
    /// Other hosts that started the same program needed them ([`Profile`](crate::Profile)).
    Profile,
    /// A reader's pattern suggests them; or all of the rest is to come at some time.
    Pattern,
}

/// An event. Events about unknown peers or requests (late answers, say) are harmless.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The hashes of the pieces `known` are known (some of them may have been known before); `total` pieces in all, once that is known.
    /// A piece without a known hash is never asked for by name.
    ManifestGrew {
        /// Pieces that have a known hash.
        known: Range<u32>,
        /// How many pieces the blob has.
        total: Option<u32>,
    },
    /// A neighbour can be asked. If it joins again, what was known of it is replaced, and its open requests count as failed.
    PeerJoined {
        /// The neighbour.
        peer: NodeId,
        /// How far away it is.
        tier: Tier,
        /// True if the peer wants the whole blob, and so takes its share in fetching pieces from afar.
        wants: bool,
        /// The pieces that the peer holds.
        held: PieceSet,
    },
    /// A neighbour no longer holds a piece: it said so, or refused a request for that reason. Open requests to it for that piece
    /// are forgotten. ([`Picker::peer_has`](crate::Picker::peer_has) says that it holds more.)
    PeerLost {
        /// The neighbour.
        peer: NodeId,
        /// The piece.
        piece: PieceIndex,
    },
    /// A neighbour is gone; its requests are made to others.
    PeerLeft {
        /// The neighbour.
        peer: NodeId,
    },
    /// The present lead of this swarm; `None` while nobody leads, and at the lead itself. Asks to the former lead are void, and withdrawn.
    /// The same lead again (after a reconnection) makes them void as well.
    LeadChanged {
        /// The lead.
        lead: Option<NodeId>,
    },
    /// The first bytes answering a request came; for an ask this tells which piece the lead chose.
    Started {
        /// The request.
        request: RequestId,
        /// The piece.
        piece: PieceIndex,
    },
    /// More bytes of an answer came. For large pieces it is to be told every now and then, so that an answer that is slow but moves is
    /// not given up, and one that crawls is.
    Progress {
        /// The request.
        request: RequestId,
        /// How many bytes of the answer have come so far.
        bytes: u64,
    },
    /// A piece was received, verified and stored.
    Received {
        /// The request it answers; `None` when it came from the origin, from disk, or unasked.
        request: Option<RequestId>,
        /// The piece.
        piece: PieceIndex,
        /// Its length in bytes, as sent over the network.
        bytes: u64,
    },
    /// A piece came that does not match its hash. The peer is dropped for good and reported.
    Corrupt {
        /// The peer that sent the piece.
        peer: NodeId,
        /// The request it answers.
        request: Option<RequestId>,
        /// The piece.
        piece: PieceIndex,
    },
    /// A request was refused, or its connection was lost.
    Failed {
        /// The request.
        request: RequestId,
    },
    /// A reader in order needs `count` pieces from `piece` on next. To be told at each step of the reader.
    ReaderAt {
        /// The reader.
        reader: ReaderId,
        /// The piece that it needs next.
        piece: PieceIndex,
        /// How many pieces, from `piece` on, it waits for at the same time: one for a stream.
        count: u32,
        /// How long the reader may wait before its piece becomes urgent: about a second for a stream to a
        /// container engine, zero for a page fault of a mount.
        patience: Duration,
    },
    /// These pieces will be needed, though nobody waits for them yet: they are requested after those that readers wait for, and before
    /// all others. To be told at each step; [`Event::ReaderGone`] ends it.
    Foreseen {
        /// Names this expectation; differs from the id of every reader.
        reader: ReaderId,
        /// The first piece.
        piece: PieceIndex,
        /// How many.
        count: u32,
        /// The reason to expect it.
        by: Foresight,
    },
    /// A reader is done.
    ReaderGone {
        /// The reader.
        reader: ReaderId,
    },
    /// True if this node wants the whole blob (the initial state), false if it only serves the pieces that it holds and fetches
    /// those that its readers need.
    Wants(bool),
    /// A piece was lost from the store (it was found corrupt, or was evicted).
    Lost {
        /// The piece.
        piece: PieceIndex,
    },
}

/// Something that the caller is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ask a peer (or, when nobody else has it, the lead) for a piece by name.
    Request {
        /// Names the request in later events.
        id: RequestId,
        /// The peer to ask.
        peer: NodeId,
        /// The piece.
        piece: PieceIndex,
        /// True if a reader waits: the request is to be sent before all that are not urgent.
        urgent: bool,
    },
    /// Ask the lead for any piece, which it chooses. It answers when it has one; until then it *stands*: it stays open.
    Ask {
        /// Names the ask in later events.
        id: RequestId,
        /// The lead.
        lead: NodeId,
    },
    /// Withdraw a request or an ask; an answer that is already under way is still used. No event needs to follow.
    Cancel {
        /// The request to withdraw.
        id: RequestId,
        /// The peer that was asked.
        peer: NodeId,
    },
    /// A holder failed this node: it does not answer, answers at a crawl, or refuses. If this node leads, it must not rely on that holder
    /// for pieces that it alone is said to have; see [`Lead::doubt`](crate::Lead::doubt).
    Doubt {
        /// The holder.
        peer: NodeId,
    },
    /// Tell the lead that a peer sent a wrong piece, and do not use the peer for this blob any more.
    Report {
        /// The peer.
        peer: NodeId,
        /// The piece.
        piece: PieceIndex,
    },
}
