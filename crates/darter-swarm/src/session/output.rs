//! Outputs of a session.

use darter_core::{Digest, NodeId, PieceIndex};
use darter_protocol::{Failure, Message, PeerInfo, Wanted};

use super::Rejection;
use crate::{Loss, OriginReader, OriginRun, RequestId, Step, Widening};

/// How certain it is that an agent which led must not be followed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guilt {
    /// An honest agent may have done that once.
    Perhaps,
    /// The agent blames the origin. An origin may change or fail, but seldom twice while one program opens it.
    BlamesOrigin,
    /// The agent gave nothing, or withdrew what it led: no honest one does.
    Sure,
}

/// A step for the driver of a session. Steps are taken in the order of the outputs.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "most are messages, and each is moved once")]
pub enum Output {
    /// Send this message to these agents.
    Say {
        /// The agents.
        to: Vec<NodeId>,
        /// The message.
        message: Message,
    },
    /// Tell these agents why the blob is deleted.
    SayDissolved {
        /// The agents.
        to: Vec<NodeId>,
    },
    /// Answer an agent that it is not admitted.
    Reject {
        /// The agent.
        node: NodeId,
        /// The number of its request.
        request: u32,
        /// The reason.
        why: Rejection,
    },
    /// Connect to these agents: they are to be met.
    Dial(Vec<PeerInfo>),
    /// Ask an agent for a piece.
    Ask {
        /// Names the request in later inputs and outputs.
        request: RequestId,
        /// The agent.
        of: NodeId,
        /// The piece, or any that the agent chooses.
        wanted: Wanted,
        /// True if a reader waits: the request is to be sent before all that are not urgent.
        urgent: bool,
    },
    /// Withdraw a request; an answer that is already under way is still used.
    Withdraw {
        /// The request.
        request: RequestId,
        /// The peer that was asked.
        of: NodeId,
    },
    /// There may be more to give to members than when members were last given something.
    Give,
    /// Read these pieces from the origin, and say when this has ended ([`Input::ReadEnded`](super::Input::ReadEnded)).
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
        /// How many did before.
        before: u8,
        /// How many do now.
        after: u8,
        /// The reason, in words.
        why: String,
    },
    /// The lead can only read the origin from its first byte on: what comes later in the blob is waited for.
    LeadReadsInOrder {
        /// The lead.
        lead: NodeId,
        /// The reason, in words.
        reason: String,
    },
    /// All pieces are here: find out whether the whole is right.
    Check,
    /// The whole is here and right.
    Completed,
    /// No agent was responsible for the lacking pieces. Outputs that follow mend this.
    Unattended,
    /// Take this step to find a lead, and report its result ([`Input::Sought`](super::Input::Sought)); or begin to lead
    /// ([`Input::Leads`](super::Input::Leads)).
    Seek(Step),
    /// This seed is connected again and does not lead: ask it to.
    Return(NodeId),
    /// The lead is lost. Outputs with the consequences follow, or another lead is looked for.
    LeadLost {
        /// The lead.
        lead: NodeId,
        /// How it was lost.
        loss: Loss,
        /// True if it failed this agent, and no other output says so.
        lets_down: bool,
        /// The reason, in words.
        why: String,
    },
    /// Nothing confirms what this node, as the lead, said of the blob: delete all of it, and begin anew.
    StartOver {
        /// The node.
        lead: NodeId,
        /// How certain it is that the node lied.
        guilt: Guilt,
        /// The reason, in words.
        reason: String,
    },
    /// A single node said what the pieces must be, and it is lost: forget what it said.
    EndTrust {
        /// The reason, in words.
        reason: String,
    },
    /// Nothing came for too long: the transfer ends.
    EndStalled,
    /// A holder failed this agent.
    Doubted(NodeId),
    /// A peer sent a wrong piece, and is not asked for anything any more. The lead has been told, unless it is the peer itself.
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
        /// True if the peer is put aside, since other members say the same.
        put_aside: bool,
    },
    /// A peer says that it was given a wrong piece: compare the piece with its hash once more.
    Recheck {
        /// The peer.
        by: NodeId,
        /// The piece.
        piece: PieceIndex,
    },
    /// A member found another digest than that of the verdict which this agent has from the lead before it: hash the whole.
    RecheckWhole {
        /// The member.
        by: NodeId,
        /// The digest that was asked for.
        expected: Digest,
        /// The digest that the member found.
        got: Digest,
    },
    /// The lead, a seed, does not ask the origin for anything for a while, and no other agent would: give up.
    GiveUp(Failure),
    /// The lead found that the origin has another version now: delete this one.
    Superseded {
        /// The lead.
        by: NodeId,
        /// The reason.
        failure: Failure,
    },
    /// The lead, a seed, deletes the blob: delete it here, too.
    Dissolve {
        /// The reason, in words.
        reason: String,
    },
    /// The lead, or the last one if none has led since, says that the content does not have its digest. All of it came from that lead.
    Refuted {
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of the bytes that came.
        got: Digest,
        /// The agent that, as the lead says, deceived the lead itself.
        reader: Option<NodeId>,
    },
}
