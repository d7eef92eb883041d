//! Events that a [`Picker`](crate::Picker) is told, and actions that it wants done.

use std::ops::Range;
use std::time::Duration;

use darter_core::{NodeId, PieceIndex, PieceSet, Tier};

/// Names one request or ask of one picker; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names one reader in order, chosen by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(pub u64);

/// The reason to expect that pieces will be needed: the surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Foresight {
    /// Other hosts that started the same needed them ([`Profile`](crate::Profile)).
    Profile,
    /// A reader's pattern; or all the rest is to come some time.
    Pattern,
}

/// An event. Events about unknown peers or requests (late answers, say) are harmless.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The hashes of the pieces `known` are known, perhaps some of them for long; `total` pieces in all, once that is known.
    /// A piece without a known hash is never asked for by name.
    ManifestGrew {
        /// Pieces that have a known hash.
        known: Range<u32>,
        /// How many pieces the blob has.
        total: Option<u32>,
    },
    /// A neighbour can be asked. Joining again replaces what was known of it; its open requests count as failed.
    PeerJoined {
        /// The neighbour.
        peer: NodeId,
        /// How far it is.
        tier: Tier,
        /// True if the peer wants the whole blob, and so takes its share in fetching pieces from afar.
        wants: bool,
        /// The pieces that the peer holds.
        held: PieceSet,
    },
    /// A neighbour no longer holds a piece: it said so, or refused a request for it because of that. Requests for it
    /// that are open there are forgotten. (That it holds more is said by [`Picker::peer_has`](crate::Picker::peer_has).)
    PeerLost {
        /// The neighbour.
        peer: NodeId,
        /// The piece.
        piece: PieceIndex,
    },
    /// A neighbour is gone; its requests go to others.
    PeerLeft {
        /// The neighbour.
        peer: NodeId,
    },
    /// The lead of this swarm now; `None` while nobody leads, and at the lead itself. Asks to the former lead are void, and called back.
    /// The same lead again (after a reconnection) voids them as well.
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
    /// More bytes of an answer came. Tell it every now and then for large pieces, so that a slow but moving answer is not given up, and
    /// one that crawls is.
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
        /// Its length in bytes as it came over the wire.
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
    /// A reader in order needs `count` pieces from `piece` on, next. Tell it at each step.
    ReaderAt {
        /// The reader.
        reader: ReaderId,
        /// The piece it stands at.
        piece: PieceIndex,
        /// How many pieces from there it waits for at once: one for a stream.
        count: u32,
        /// How long it may stand still before its piece becomes urgent: about a second for a stream to a
        /// container engine, zero for a page fault of a mount.
        patience: Duration,
    },
    /// These pieces will be needed, though nobody waits for them yet: they are asked for behind what readers wait for, and before
    /// everything else. Tell it at each step; [`Event::ReaderGone`] ends it.
    Foreseen {
        /// Names it; no reader's.
        reader: ReaderId,
        /// The first piece.
        piece: PieceIndex,
        /// How many.
        count: u32,
        /// How it is known.
        by: Foresight,
    },
    /// A reader is done.
    ReaderGone {
        /// The reader.
        reader: ReaderId,
    },
    /// True if this node wants the whole blob (so it does at first), false if it only serves what it holds and fetches
    /// what its readers need.
    Wants(bool),
    /// Pieces were lost from the store (found rotten, or evicted).
    Lost {
        /// The piece.
        piece: PieceIndex,
    },
}

/// Something to be done by the caller.
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
        /// True if a reader waits: to be sent before anything that is not urgent.
        urgent: bool,
    },
    /// Ask the lead for whatever piece it chooses. It answers when it has one; until then the ask just stands.
    Ask {
        /// Names the ask in later events.
        id: RequestId,
        /// The lead.
        lead: NodeId,
    },
    /// Withdraw a request or an ask; an answer already on its way is still welcome. No further event is needed.
    Cancel {
        /// The request to withdraw.
        id: RequestId,
        /// The peer that was asked.
        peer: NodeId,
    },
    /// A holder let this node down: it answers nothing, or at a crawl, or refuses. If this node leads, it must not leave to that holder
    /// what only it is said to have; see [`Lead::doubt`](crate::Lead::doubt).
    Doubt {
        /// The holder.
        peer: NodeId,
    },
    /// Tell the lead that a peer sent a wrong piece, and don't use the peer for this blob any more.
    Report {
        /// The peer.
        peer: NodeId,
        /// The piece.
        piece: PieceIndex,
    },
}
