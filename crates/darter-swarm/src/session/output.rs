//! Outputs of a session.

use darter_core::{Digest, NodeId, PieceIndex};
use darter_protocol::{Failure, Message, PeerInfo, Wanted};

use super::Rejection;
use crate::{Loss, OriginReader, OriginRun, RequestId, Step, Widening};

/// How sure it is that an agent that led is not to be followed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guilt {
    /// An honest agent may have done that once.
    Perhaps,
    /// The agent blames the origin. An origin may change or fail, but seldom twice while one program opens it.
    BlamesOrigin,
    /// The agent gave nothing, or took back what it led: no honest one does.
    Sure,
}

/// A step for the driver of a session. Steps are taken in the order in which they are given.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "most are messages, and each is moved once")]
pub enum Output {
    /// Say this to these agents.
    Say {
        /// The agents.
        to: Vec<NodeId>,
        /// The message.
        message: Message,
    },
    /// Tell these agents why the blob is thrown away.
    SayDissolved {
        /// The agents.
        to: Vec<NodeId>,
    },
    /// Answer an agent that it is not let in.
    Reject {
        /// The agent.
        node: NodeId,
        /// The number of its question.
        request: u32,
        /// Why.
        why: Rejection,
    },
    /// Connect to these agents: they are to be met.
    Dial(Vec<PeerInfo>),
    /// Ask an agent for a piece.
    Ask {
        /// Names the request in what follows.
        request: RequestId,
        /// The agent.
        of: NodeId,
        /// The piece, or any that the agent chooses.
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
    /// Read this of the origin, and say when that has ended ([`Input::ReadEnded`](super::Input::ReadEnded)).
    Read {
        /// The reader, which is not at work.
        reader: OriginReader,
        /// The pieces that it is to read.
        run: OriginRun,
    },
    /// More or fewer connections read the origin from now on, as far as there is something to read.
    Widened(Widening),
    /// Fewer connections read the origin, or try, than before.
    Narrowed {
        /// How many did.
        before: u8,
        /// How many do.
        after: u8,
        /// Why, for people.
        why: String,
    },
    /// All pieces are here: find out whether the whole is what it should be.
    Check,
    /// The whole is here and right.
    Completed,
    /// Nobody was responsible for what is lacking. The consequences come next.
    Unattended,
    /// Take this step to find a lead, and say how it ended ([`Input::Sought`](super::Input::Sought)); or lead
    /// ([`Input::Leads`](super::Input::Leads)).
    Seek(Step),
    /// This seed does not lead, and is there again: ask it to.
    Return(NodeId),
    /// The lead is lost. The consequences come next, or another lead is looked for.
    LeadLost {
        /// The lead.
        lead: NodeId,
        /// How.
        loss: Loss,
        /// True if it let this agent down, and nothing else says so.
        lets_down: bool,
        /// Why, for people.
        why: String,
    },
    /// Nothing bears out what this node said of the blob as its lead: throw all of it away, and begin anew.
    StartOver {
        /// The node.
        lead: NodeId,
        /// How sure it is that the node lies.
        guilt: Guilt,
        /// Why, for people.
        reason: String,
    },
    /// A node alone said what the pieces must be, and it is lost: throw away what it said.
    EndTrust {
        /// Why, for people.
        reason: String,
    },
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
        /// True if it led, and is lost.
        led: bool,
    },
    /// A member says that another sent it a wrong piece.
    Reported {
        /// The other member.
        peer: NodeId,
        /// True if the peer is put aside, since others say so, too.
        put_aside: bool,
    },
    /// A peer says that it was given a wrong piece: compare the piece with its hash once more.
    Recheck {
        /// The peer.
        by: NodeId,
        /// The piece.
        piece: PieceIndex,
    },
    /// A member found another digest than the one that the lead before this agent vouched for: hash the whole.
    RecheckWhole {
        /// The member.
        by: NodeId,
        /// The digest that was asked for.
        expected: Digest,
        /// The digest that the member found.
        got: Digest,
    },
    /// The lead, a seed, asks the origin for nothing for a while, and nor would anybody else: give up.
    GiveUp(Failure),
    /// The lead found that the origin has another version now: throw this one away.
    Superseded {
        /// The lead.
        by: NodeId,
        /// Why.
        failure: Failure,
    },
    /// The lead, a seed, throws the blob away: so does this agent.
    Dissolve {
        /// Why, for people.
        reason: String,
    },
    /// The lead, or the last one if nobody leads since, says that the content is not what its digest says. All of it came from that lead.
    Refuted {
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of the bytes that came.
        got: Digest,
        /// The agent by whom the lead says that it was deceived itself.
        reader: Option<NodeId>,
    },
}
