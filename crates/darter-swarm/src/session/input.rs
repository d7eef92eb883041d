//! Inputs of a session.

use std::ops::Range;
use std::time::Duration;

use darter_core::{LeadKey, Moment, NodeId, PieceIndex, PieceLength, PieceSet, Place, Proof, Signer};
use darter_protocol::{Failure, Message, PeerInfo, Refusal, Verdict, Wanted};

use super::{Came, Gave, Sought};
use crate::hashes::{HashAnswer, Run};
use crate::{CheckedBy, Entering, Foresight, Loss, OriginReader, ReaderId, RequestId, Start, Wish};

/// Something that happened to one blob at one agent. Names of peers or requests that are not known (in late answers, say) are harmless.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "most are messages, and each is moved once")]
pub enum Input {
    /// A peer sent a message about the blob. Hashes in it are not used: they are checked without a lock and stored first
    /// ([`Input::LeadTold`], [`Input::HashesAnswered`], [`Input::RunTaken`]).
    Said {
        /// The peer.
        by: NodeId,
        /// The message.
        message: Message,
    },
    /// The store has learned the hashes of these pieces, perhaps behind a gap.
    Learned(Range<u32>),
    /// The blob's length, or more of its first hashes, has become known.
    Sized,
    /// The lead sent hashes (zero is possible), and perhaps its proof for them and all before. The store has taken in those that it could.
    LeadTold {
        /// The piece of the first hash.
        first: u32,
        /// The number of hashes.
        count: u32,
        /// The lead's proof.
        proof: Option<Proof>,
        /// Whether members have to ask each other for hashes, if the lead said so.
        members_ask: Option<bool>,
        /// How many of them were new; `None` if the store did not take them.
        taken: Option<u32>,
    },
    /// A neighbour that was asked sent hashes, which were checked. Those that it proved are in the store.
    HashesAnswered {
        /// The neighbour.
        by: NodeId,
        /// Its answer.
        answer: HashAnswer,
    },
    /// A run of hashes that a peer sent was accepted, and is in the store.
    RunTaken {
        /// The peer.
        by: NodeId,
        /// The run.
        run: Run,
        /// The pieces whose hashes it has.
        pieces: Range<u32>,
    },
    /// The lead waits for its origin on purpose.
    LeadWaits {
        /// The lead.
        lead: NodeId,
        /// The longest time for which the member waits because of this.
        most: Duration,
    },
    /// A node is to be admitted here. The books are open.
    Enters {
        /// The node, and its request.
        entering: Entering,
        /// Its place: rack, zone and region.
        place: Place,
        /// The pieces that it holds.
        held: PieceSet,
        /// True if it wants the rest.
        wants: bool,
    },
    /// A node holds these pieces and asks for none: it counts as a member, and need not know of this.
    CountsIn {
        /// The node.
        node: NodeId,
        /// Its place: rack, zone and region.
        place: Place,
        /// The pieces that it holds.
        held: PieceSet,
    },
    /// Agents hold pieces of which the lead may not know: they are to be met.
    Found(Vec<PeerInfo>),
    /// A peer is connected; it may be one to meet or to ask.
    Connected(NodeId),
    /// A peer's connection is gone. If it was a member here, it leaves; if it led, [`Input::LeadLost`] says so.
    Gone(NodeId),
    /// `lead` is lost, if it was followed.
    LeadLost {
        /// The lead.
        lead: NodeId,
        /// How it was lost.
        loss: Loss,
        /// The reason, in words.
        why: String,
    },
    /// A seed is connected, perhaps again.
    SeedCame(NodeId),
    /// An agent that was asked to lead admits this one.
    LetIn(LetIn),
    /// This agent leads from now on. The books are opened, if they are not open.
    Leads {
        /// Says whether another agent led before.
        start: Start,
        /// The state at which its books begin.
        desk: Desk,
    },
    /// A member is to be admitted here, also if this agent follows another lead.
    OpensBooks(Desk),
    /// Pieces are lacking after all: some agent has to lead, or this one has to read.
    Resumes,
    /// A step of the search for a lead has ended ([`Output::Seek`](super::Output::Seek)).
    Sought(Sought),
    /// A peer can't be reached.
    Unreached(NodeId),
    /// The peer that was asked begins to send a piece.
    Begun {
        /// The request.
        request: RequestId,
        /// The piece.
        piece: PieceIndex,
    },
    /// Bytes of an answer have come.
    Moved {
        /// The request.
        request: RequestId,
        /// How many bytes of the answer have come so far.
        bytes: u32,
    },
    /// A piece came before its hash.
    Early {
        /// The giver.
        by: NodeId,
        /// The piece.
        piece: PieceIndex,
    },
    /// A request is refused.
    Refused {
        /// The request.
        request: RequestId,
        /// The agent that refuses.
        by: NodeId,
        /// The piece that was requested, or any.
        wanted: Wanted,
        /// The reason.
        reason: Refusal,
    },
    /// A request will not be answered, for example because its holder can't be reached.
    Unanswered {
        /// The request.
        request: RequestId,
    },
    /// A piece that was lacking was verified and stored.
    Stored(Came),
    /// A piece came that is here already.
    Again(Came),
    /// A piece came that does not match its hash.
    Wrong {
        /// The sender.
        by: NodeId,
        /// The request that it answers.
        request: RequestId,
        /// The piece.
        piece: PieceIndex,
    },
    /// Pieces that were held are lacking now.
    Lacking(PieceSet),
    /// A piece was held, and can't be given any more.
    Forgotten(PieceIndex),
    /// A piece that a peer requested by name is being sent.
    Sending {
        /// The peer.
        to: NodeId,
        /// The piece.
        piece: PieceIndex,
    },
    /// There was nothing to send to a member that asked for any piece. Its ask is tried again when there may be
    /// ([`Output::Give`](super::Output::Give)).
    AskStands,
    /// A piece that was being sent, or was chosen to be sent ([`Session::choose`](super::Session::choose)), did not arrive.
    Unsent {
        /// The peer.
        to: NodeId,
        /// The piece.
        piece: PieceIndex,
    },
    /// A reader in order is at `piece`, and waits for `count` pieces from there on.
    ReaderAt {
        /// The reader.
        reader: ReaderId,
        /// The piece.
        piece: PieceIndex,
        /// How many pieces it waits for at once.
        count: u32,
        /// How long it may wait before its piece becomes urgent.
        patience: Duration,
    },
    /// These pieces will be needed, though nobody waits for them yet; until [`Input::ReaderGone`].
    Foreseen {
        /// Names this expectation; differs from the id of every reader.
        reader: ReaderId,
        /// The first piece.
        piece: PieceIndex,
        /// How many pieces.
        count: u32,
        /// The reason to expect it.
        by: Foresight,
    },
    /// A reader is done.
    ReaderGone(ReaderId),
    /// A reader waits for these pieces, wherever they are in the blob; or no longer waits for any.
    Wish {
        /// The reader.
        reader: ReaderId,
        /// The pieces.
        wish: Option<Wish>,
    },
    /// The blob passes through without being stored as a whole: only pieces that readers wait for are fetched.
    Passes,
    /// The blob's origin may be read by more than one connection. The first such input counts.
    OriginBears {
        /// The number of connections at most, as far as they get more than fewer do.
        connections: u8,
        /// If another blob of the origin showed that more connections get no more, they are not tried before this moment.
        known_until: Option<Moment>,
        /// The length of the blob's pieces.
        piece_length: PieceLength,
        /// The blob's length.
        length: u64,
    },
    /// Bytes of the origin came, though perhaps not a whole piece: the blob makes progress.
    OriginCame,
    /// Bytes of the origin came on one of its connections, whether they are kept or not.
    OriginGave(Gave),
    /// A reader has read what it was told to ([`Output::Read`](super::Output::Read)), or
    /// could not begin.
    ReadEnded {
        /// The reader.
        reader: OriginReader,
    },
    /// One of several connections to the origin failed for a reason that may pass.
    OriginFailed {
        /// When the connection began.
        began: Moment,
        /// The reason, in words.
        why: String,
    },
    /// The origin does not serve several connections: it answered a range with everything, or asks for fewer requests.
    OriginRefused {
        /// The reason, in words.
        why: String,
    },
    /// The origin refuses the credentials of every caller.
    OriginShut,
    /// All of the origin is to be read, whichever pieces are wanted.
    ReadsAll {
        /// The reason, in words, if it can only be read from its first byte on.
        in_order: Option<String>,
    },
    /// The origin is not asked for anything for this time, since it asked for a pause.
    OriginRests(Duration),
    /// The origin asks to be left alone for this time: no reader asks it for anything meanwhile ([`Session::asked_to_rest`](super::Session)).
    OriginAsksForRest(Duration),
    /// The pieces here may be of two versions, or (false) no longer are.
    Compares(bool),
    /// All pieces that came with the lead's answer are stored, as far as they could be.
    Arrived,
    /// The whole is what it should be.
    Sealed {
        /// The digest and the root that it has.
        verdict: Verdict,
        /// The agent that found out.
        by: CheckedBy,
    },
    /// The check of the whole has ended, whatever it came to.
    CheckEnded,
    /// This agent can't go on as the lead: members are told so.
    GivesUp(Failure),
    /// The bytes are thrown away.
    Dissolves {
        /// True if members are to throw them away, too.
        tells: bool,
    },
    /// It is over.
    Fails,
    /// This agent leaves the swarm.
    Leaves,
    /// A program of this host wants everything.
    WantsAll {
        /// True if the blob passes through without being stored whole, so that its readers alone fetch it.
        passes: bool,
    },
}

/// How an agent lets another in.
#[derive(Clone, Debug)]
pub struct LetIn {
    /// The agent that leads.
    pub lead: NodeId,
    /// Proves its hashes.
    pub key: LeadKey,
    /// True if members have to ask each other for hashes.
    pub members_ask: bool,
    /// Agents to meet.
    pub neighbours: Vec<PeerInfo>,
    /// The verdict on the whole, if the lead knows it.
    pub verdict: Option<Verdict>,
    /// True if all pieces came with the answer, and are being stored.
    pub arrives: bool,
}

/// The part of a lead's books that its session does not know.
#[derive(Clone, Debug)]
pub struct Desk {
    /// The place of this agent.
    pub place: Place,
    /// Chooses among what is equal.
    pub seed: u64,
    /// Vouches for hashes.
    pub signer: Signer,
}
