//! Outputs of a session.

use darter_core::{Digest, NodeId, PieceIndex};
use darter_protocol::{Failure, Message, PeerInfo, Wanted};

use crate::RequestId;

/// Something to be done by whoever drives a session, in the order in which it is given.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "most are messages, and each is moved once")]
pub enum Output {
    /// Say this to these agents.
    Say {
        /// To whom.
        to: Vec<NodeId>,
        /// The message.
        message: Message,
    },
    /// Connect to these agents: they are to be met.
    Dial(Vec<PeerInfo>),
    /// Ask an agent for a piece.
    Ask {
        /// Names the request in what follows.
        request: RequestId,
        /// The agent.
        of: NodeId,
        /// The piece, or whichever it chooses.
        wanted: Wanted,
        /// True if a reader waits: to be sent before anything that is not urgent.
        urgent: bool,
    },
    /// Withdraw a request; an answer already on its way is still welcome.
    Withdraw {
        /// The request.
        request: RequestId,
        /// The peer that was asked.
        of: NodeId,
    },
    /// There may be more to give to members than when they were last given something.
    Give,
    /// Members wait for pieces that only the origin has.
    RunErrands,
    /// All pieces are here: find out whether the whole is what it should be.
    Check,
    /// Nobody leads, or whoever leads reads nothing: find somebody, or read.
    Resume,
    /// This node let the agent in and gives nothing: leave it.
    LeaveMute(NodeId),
    /// Nothing came for too long: it ends.
    EndStalled,
    /// A holder let this agent down.
    Doubted(NodeId),
    /// A peer sent a wrong piece, and is asked for nothing any more. The lead has heard of it, unless it is the peer itself.
    Accused {
        /// The peer.
        peer: NodeId,
        /// The piece.
        piece: PieceIndex,
    },
    /// A member says that another sent it a wrong piece.
    Reported {
        /// The other.
        peer: NodeId,
        /// True if the peer is put aside, since others say so, too.
        put_aside: bool,
    },
    /// The lead knows nothing of this agent's part in the swarm.
    Forgotten {
        /// The lead.
        by: NodeId,
    },
    /// The lead can't read the origin on.
    GivenUp {
        /// The lead.
        by: NodeId,
        /// Why.
        failure: Failure,
    },
    /// The lead throws the blob away.
    Dissolved {
        /// The lead.
        by: NodeId,
        /// Why, for people.
        reason: String,
    },
    /// The lead, or the last one if nobody leads since, says that the content is not what its digest says.
    Refuted {
        /// True if the peer leads.
        by_lead: bool,
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of the bytes that came.
        got: Digest,
    },
}
