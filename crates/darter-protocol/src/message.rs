//! Everything that is said on a control channel.
//!
//! A message is the number of its kind as a varint, then its fields in order, in postcard's encoding:
//!
//! | written | is |
//! |---|---|
//! | varint | an unsigned number, seven bits a byte, the lowest first; the highest bit says that more follow |
//! | byte | a number of one byte; a bool is 0 or 1; a piece length is its logarithm to base 2 |
//! | text, bytes | the length as a varint, then UTF-8, or any bytes; addresses and digests are texts |
//! | node | 16 bytes; blob, hash, key: 32; signature: 64 |
//! | `X?` | 0, or 1 and then X |
//! | `[X]` | how many as a varint, then each |
//! | `{X, Y}` | X, then Y |
//!
//! Structures, wherever they stand:
//!
//! | name | written as |
//! |---|---|
//! | peer | `node, text: address, text: region, text: zone, text: rack, text: host` |
//! | headers | `[{text, text}]` |
//! | source | `0, text: URL, headers: variant, text?: digest`, or `1, text: registry, text: repository, text: digest`, or, to agents with [`EXPANDED_LAYERS`](crate::Capabilities::EXPANDED_LAYERS) only, `2, text: registry, text: repository, text: digest, text: diff id, varint: format` |
//! | version | `text?: entity tag, text?: modification date, varint?: length, varint?: nonce` |
//! | set | `[varint]`: 64 pieces to a number, the lowest in the lowest bit |
//! | verdict | `hash: root, text?: digest` |
//! | proof | `varint: count, signature` |
//! | failure | `varint: kind, varint?: status, text, text?: challenge` |
//! | question | `text: registry, bool: configured, bool: head, text: path, headers, headers: credentials` |
//!
//! | number | kind | fields |
//! |---|---|---|
//! | 0 | [`Join`](Message::Join) | `varint: request, source, headers: credentials, {blob, set}?: held, bool: wants, varint?: size` |
//! | 1 | [`Leave`](Message::Leave) | `blob` |
//! | 2 | [`Report`](Message::Report) | `blob, node, varint: piece` |
//! | 3 | [`Inventory`](Message::Inventory) | `[blob]` |
//! | 4 | [`Joined`](Message::Joined) | `varint: request, blob, version, byte: piece length, varint?: length, [hash], key, bool: members ask, proof?, [peer], verdict?, bytes?: the whole` |
//! | 5 | [`Rejected`](Message::Rejected) | `varint: request, failure` |
//! | 6 | [`Grew`](Message::Grew) | `blob, varint: from, [hash], varint?: length, bool: members ask, proof?` |
//! | 7 | [`Neighbours`](Message::Neighbours) | `blob, [peer]: add, [node]: gone` |
//! | 8 | [`Whole`](Message::Whole) | `blob, verdict` |
//! | 9 | [`Dissolved`](Message::Dissolved) | `blob, text: reason` |
//! | 10 | [`Failed`](Message::Failed) | `blob, failure` |
//! | 11 | [`Meet`](Message::Meet) | `blob, set: held, varint: known, bool: wants` |
//! | 12 | [`Have`](Message::Have) | `blob, [varint]: pieces, varint: known` |
//! | 13 | [`Lost`](Message::Lost) | `blob, [varint]: pieces` |
//! | 14 | [`Part`](Message::Part) | `blob` |
//! | 15 | [`AskManifest`](Message::AskManifest) | `varint: request, blob` |
//! | 16 | [`ManifestIs`](Message::ManifestIs) | `varint: request, blob, {byte: piece length, varint?: length, [hash]}?` |
//! | 17 | [`AskHashes`](Message::AskHashes) | `blob, varint: from` |
//! | 18 | [`AskPeers`](Message::AskPeers) | |
//! | 19 | [`Peers`](Message::Peers) | `[peer]` |
//! | 20 | [`AskLead`](Message::AskLead) | `varint: request, blob: key, blob?` |
//! | 21 | [`LeadIs`](Message::LeadIs) | `varint: request, varint: part, peer?: lead, [peer]: seeds, [peer]: nearest` |
//! | 22 | [`SameId`](Message::SameId) | `text: address` |
//! | 23 | [`Waiting`](Message::Waiting) | `varint: request` |
//! | 24 | [`AskRegistry`](Message::AskRegistry) | `varint: request, question` |
//! | 25 | [`RegistryIs`](Message::RegistryIs) | `varint: request, then 0 and {varint: status, [{text, bytes}]: headers, bytes: body, varint: age, {varint: age, text: reason}?}, or 1 and a failure` |
//! | 26 | [`Refuted`](Message::Refuted) | `varint?: request, blob, text: expected, text: got, node?: reader` |
//! | 27 | [`Seeds`](Message::Seeds) | `[peer]` |
//! | 28 | [`AskRegistryAlike`](Message::AskRegistryAlike) | `varint: request, question, text: proof` |
//! | 29 | [`AskRegistryKnown`](Message::AskRegistryKnown) | `varint: request, question, text?: proof` |
//! | 30 | [`Run`](Message::Run) | `blob, varint: from, [hash], proof?` |
//! | 31 | [`Want`](Message::Want) | `blob, bool: everything, [{varint: first, varint: end, varint: milliseconds}]` |
//! | 32 | [`Unreached`](Message::Unreached) | `blob, node` |
//! | 33 | [`Touched`](Message::Touched) | `blob, [{varint: first, varint: end}]` |
//! | 34 | [`Profile`](Message::Profile) | `blob, [{varint: first, varint: end}], bool: wants` |
//! | 35 | [`Naming`](Message::Naming) | `blob, bool: names all` |
//! | 36 | [`InOrder`](Message::InOrder) | `blob, text: reason` |
//!
//! Kinds are added behind these, and fields at the end of a kind, with `#[serde(default)]`: a reader skips kinds and fields that it
//! does not know, and gives fields that are missing their default. Nothing else about a message ever changes.
//! [`Message::since`] says which version of the protocol brought a kind.
//!
//! *Member* is a node that holds or wants a blob; *lead* is the seed that owns the blob's swarm. A blob of many
//! members has one lead at a time. Unknown blobs in messages are not errors: messages cross.

mod bounds;
mod failure;

use darter_core::source::Credentials;
use darter_core::{
    BlobId, Digest, LeadKey, Manifest, NodeId, PieceHash, PieceIndex, PieceLength, PieceSet, Place, Proof, Source,
    Version,
};
use serde::{Deserialize, Serialize};

pub use self::failure::{Failure, FailureKind};
use crate::open_enum::open_enum;

/// The version of the protocol in which members say what they want of a blob.
pub const WANT_SINCE: u8 = 4;

/// One message of a control channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Member → lead: let me into the swarm of what this source is now. Sent when somebody here asks for the source,
    /// and again to the next seed when the lead is lost. Answered by [`Message::Joined`] or [`Message::Rejected`].
    Join {
        /// Chosen by the member; the answer repeats it.
        request: u32,
        /// The source whose blob the member wants.
        source: Source,
        /// The credentials for reading it, which the lead shows to the origin.
        credentials: Credentials,
        /// The pieces that the member holds of a version it knows, if any.
        held: Option<Held>,
        /// True if the member wants the rest, false if it only offers what it holds.
        wants: bool,
        /// For an expanded layer: how long it is as its registry stores it, by the longest manifest that the member knows. No more of it has to be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
    },
    /// Member → lead: I left this swarm and serve nothing of it any more.
    Leave {
        /// The swarm left.
        blob: BlobId,
    },
    /// Member → lead, and to a peer that [heeds doubts](crate::Capabilities::DOUBTS) of itself: this peer sent me a piece that does not
    /// match the manifest.
    Report {
        /// The blob.
        blob: BlobId,
        /// The peer that sent the piece.
        peer: NodeId,
        /// Which piece was wrong.
        piece: PieceIndex,
    },
    /// Node → seed, when a connection is made and when a blob is complete: I hold these whole, so that a seed whose own
    /// copy is gone need not ask the origin.
    Inventory {
        /// Blobs held whole.
        blobs: Vec<BlobId>,
    },
    /// Lead → member: you are in. Answers [`Message::Join`].
    Joined {
        /// The number from the request.
        request: u32,
        /// The blob that the source is now.
        blob: BlobId,
        /// The version it is in.
        version: Version,
        /// Length of its pieces.
        piece_length: PieceLength,
        /// The blob's length in bytes, if the origin said.
        length: Option<u64>,
        /// The hashes of its first pieces, as far as they are known; in a large swarm none, if many come at once.
        hashes: Vec<PieceHash>,
        /// The key that this lead's proofs are checked with.
        key: LeadKey,
        /// True if members have to ask each other for hashes; otherwise the lead tells them.
        members_ask: bool,
        /// The lead's word for the hashes, where members ask each other.
        proof: Option<Proof>,
        /// Neighbours to connect with.
        neighbours: Vec<PeerInfo>,
        /// The end's verdict, if the lead has checked the whole.
        verdict: Option<Verdict>,
        /// The bytes themselves, when they are few.
        #[serde(with = "serde_bytes")]
        whole: Option<Vec<u8>>,
    },
    /// Lead → member: you cannot have it. Answers [`Message::Join`].
    Rejected {
        /// The number from the request.
        request: u32,
        /// Why.
        failure: Failure,
    },
    /// Lead → member: these are hashes that you may lack. Member → member, in answer to [`Message::AskHashes`]: the same with the lead's
    /// proof; without hashes there are none to be had here.
    Grew {
        /// The blob.
        blob: BlobId,
        /// The piece that the first of `hashes` belongs to.
        from: u32,
        /// Hashes of consecutive pieces.
        hashes: Vec<PieceHash>,
        /// The blob's length, once known; only a lead's word counts.
        length: Option<u64>,
        /// True if members have to ask each other from now on; only a lead's word counts.
        members_ask: bool,
        /// The lead's word for these and all before.
        proof: Option<Proof>,
    },
    /// Lead → member: the neighbours you should know changed. A node in both lists is to be met anew.
    Neighbours {
        /// The blob.
        blob: BlobId,
        /// Nodes to meet, after the others went.
        add: Vec<PeerInfo>,
        /// Nodes that left, or are somebody else's neighbours now.
        gone: Vec<NodeId>,
    },
    /// Lead → member: the whole was read and checked; this is what it must be.
    Whole {
        /// The blob.
        blob: BlobId,
        /// The root and digest of the whole.
        verdict: Verdict,
    },
    /// Lead → member: forget this blob and throw its bytes away, they were wrong (or the origin changed under them).
    Dissolved {
        /// The blob.
        blob: BlobId,
        /// Why, for people.
        reason: String,
    },
    /// Lead → member: the origin can't be read on; what is held stays valid.
    Failed {
        /// The blob.
        blob: BlobId,
        /// Why.
        failure: Failure,
    },
    /// Member → member, in both directions: I am in this swarm too, and hold this much. Sent by whoever learns of
    /// the other first; answered by a Meet, unless one was sent already.
    Meet {
        /// The blob.
        blob: BlobId,
        /// The pieces that the sender holds.
        held: PieceSet,
        /// How many hashes the sender knows, from the first on.
        known: u32,
        /// True if the sender wants the rest: not if it wants no more than parts of it.
        wants: bool,
    },
    /// Member → member and member → lead: I hold these pieces now, too.
    Have {
        /// The blob.
        blob: BlobId,
        /// Pieces that were verified since the last such message.
        pieces: Vec<PieceIndex>,
        /// How many hashes the sender knows, from the first on.
        known: u32,
    },
    /// Member → member and member → lead: I no longer hold these pieces (found damaged, or evicted).
    Lost {
        /// The blob.
        blob: BlobId,
        /// The pieces.
        pieces: Vec<PieceIndex>,
    },
    /// Member → member: I left this swarm; you need not tell me of it any more.
    Part {
        /// The blob.
        blob: BlobId,
    },
    /// Seed → holder: tell me this blob's manifest. A seed without a copy asks one of those whose inventory named it.
    AskManifest {
        /// Chosen by the asker; the answer repeats it.
        request: u32,
        /// The blob.
        blob: BlobId,
    },
    /// Holder → seed: the manifest as this node knows it. Answers [`Message::AskManifest`].
    ManifestIs {
        /// The number from the request.
        request: u32,
        /// The blob.
        blob: BlobId,
        /// The manifest; none if the holder no longer has it.
        manifest: Option<Manifest>,
    },
    /// Member → member or lead: tell me the hashes from here on. Answered by [`Message::Grew`].
    AskHashes {
        /// The blob.
        blob: BlobId,
        /// The first piece whose hash the asker lacks.
        from: u32,
    },
    /// Agent → agent: tell me nodes that you know, so that I find others when no seed is left. Answered by
    /// [`Message::Peers`].
    AskPeers,
    /// Agent → agent: nodes that are connected to the sender or were a short time ago, at most [`MAX_PEERS_TOLD`](crate::MAX_PEERS_TOLD).
    /// Answers [`Message::AskPeers`].
    Peers {
        /// The nodes.
        peers: Vec<PeerInfo>,
    },
    /// Agent → agent: what is your part in the swarm of this source, and whom do you know that may lead it? Nodes ask it when no
    /// seed can lead, seeds ask it other seeds before they read an origin. Answered by [`Message::LeadIs`].
    AskLead {
        /// Chosen by the asker; the answer repeats it.
        request: u32,
        /// [`Source::record_key`] of what is wanted, for callers without credentials; or a repository's key, to find out
        /// who is to ask its registry.
        key: BlobId,
        /// The blob, where the source alone names it.
        blob: Option<BlobId>,
    },
    /// Agent → agent: answers [`Message::AskLead`].
    LeadIs {
        /// The number from the request.
        request: u32,
        /// The sender's part in the swarm.
        part: SwarmPart,
        /// The lead of the swarm, where the sender is a member of it.
        lead: Option<PeerInfo>,
        /// The seeds that the sender is connected to.
        seeds: Vec<PeerInfo>,
        /// Of the nodes that the sender knows, those that rendezvous hashing ranks first for the key.
        nearest: Vec<PeerInfo>,
    },
    /// Agent → agent: another agent, at this address, has your id. Sent to both; the one that came later is
    /// disconnected.
    SameId {
        /// The address on which the other one listens.
        addr: String,
    },
    /// Lead → member, instead of the answer to a [`Message::Join`] that takes long: the origin has not answered yet.
    Waiting {
        /// The number from the request.
        request: u32,
    },
    /// Node → seed, or node → node where no seed can: ask this registry for me. A seed uses what the question brings to authorise
    /// it, or else its own logins; a node uses nothing of its own. Equal questions of many nodes cost the registry one request. Answered by [`Message::RegistryIs`].
    AskRegistry {
        /// Chosen by the asker; the answer repeats it.
        request: u32,
        /// The question to the registry.
        question: RegistryQuestion,
    },
    /// Seed or node → node: what the registry answered. Answers [`Message::AskRegistry`].
    RegistryIs {
        /// The number from the request.
        request: u32,
        /// The registry's answer, whatever its status, or why there is none.
        answer: Result<RegistryAnswer, Failure>,
    },
    /// Lead → member: what the origin sent is not what the digest says. Throw it away, and ask somebody else. With a number,
    /// it answers [`Message::Join`]. Member → lead that [heeds doubts](crate::Capabilities::DOUBTS): I hashed the whole that you vouch for.
    Refuted {
        /// The number from the request, if it answers one.
        request: Option<u32>,
        /// The blob.
        blob: BlobId,
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of the bytes that came.
        got: Digest,
        /// The agent that the sender has it from, if it did not read the origin itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reader: Option<NodeId>,
    },
    /// Node → seeds, when it is connected to several: these are they. So seeds get to know each other.
    Seeds {
        /// The seeds that the sender is connected to, at most [`MAX_PEERS_TOLD`](crate::MAX_PEERS_TOLD).
        seeds: Vec<PeerInfo>,
    },
    /// Node → node: as [`Message::AskRegistry`], from an asker that would show the registry a login of its own. A node that has
    /// the same one asks with it. Answered by [`Message::RegistryIs`].
    AskRegistryAlike {
        /// Chosen by the asker; the answer repeats it.
        request: u32,
        /// The question to the registry, without credentials.
        question: RegistryQuestion,
        /// Shows that the asker has the login, to the one that is asked and to nobody else.
        proof: Digest,
    },
    /// Node → node: what do you know of the answer to this question, whose registry does not answer? Nobody is asked for it.
    /// Answered by [`Message::RegistryIs`].
    AskRegistryKnown {
        /// Chosen by the asker; the answer repeats it.
        request: u32,
        /// The question that the sender is about to ask.
        question: RegistryQuestion,
        /// As in [`Message::AskRegistryAlike`], if the asker has a login.
        proof: Option<Digest>,
    },
    /// Lead → member: hashes behind a gap, of pieces that the sender has read before those in front of them. Member → member, before
    /// the answer to [`Message::AskHashes`]: the same with the lead's proof. Only of a blob whose length was told.
    Run {
        /// The blob.
        blob: BlobId,
        /// The piece that the first of `hashes` belongs to.
        from: u32,
        /// Hashes of consecutive pieces, all in one [`block_of`](darter_core::proof::block_of) them.
        hashes: Vec<PieceHash>,
        /// The lead's word for just these.
        proof: Option<Proof>,
    },
    /// Member → lead: what I want, in place of what I said before. A member that joined without wanting the rest wants nothing until it
    /// says so.
    Want {
        /// The blob.
        blob: BlobId,
        /// True if that is everything.
        everything: bool,
        /// The pieces that readers wait for, at most [`MAX_WISHES`](crate::MAX_WISHES) runs.
        wishes: Vec<Wish>,
    },
    /// Member → lead: I can't reach this neighbour. The lead names another one, where there are others.
    Unreached {
        /// The blob.
        blob: BlobId,
        /// The neighbour.
        peer: NodeId,
    },
    /// Member → lead: the pieces that a program here touched, in the order of first touches, in the first minute after it opened the blob; in
    /// place of what was said before. Said to a lead that wants it ([`Message::Profile`]).
    Touched {
        /// The blob.
        blob: BlobId,
        /// The pieces, at most [`MAX_STRETCHES`](crate::MAX_STRETCHES) runs.
        pieces: Vec<Stretch>,
    },
    /// Lead → member: the pieces that programs touch first, in this order. Said after [`Message::Joined`], and when much has changed, to agents
    /// with [`PROFILES`](crate::Capabilities::PROFILES).
    Profile {
        /// The blob.
        blob: BlobId,
        /// The pieces, at most [`MAX_STRETCHES`](crate::MAX_STRETCHES) runs.
        pieces: Vec<Stretch>,
        /// True if the member is to say what its programs touch.
        wants: bool,
    },
    /// Lead → member: whether the tar of an expanded layer names all directories that it has something in. Said after [`Message::Joined`] by a lead that
    /// has all of the layer; a member that is not told looks for itself.
    Naming {
        /// The blob.
        blob: BlobId,
        /// False if it may not name one.
        names_all: bool,
    },
    /// Lead → member: the origin can only be read from its first byte on, so a piece comes after all before it. Said when the lead finds this out, and
    /// after [`Message::Joined`] to members that come later.
    InOrder {
        /// The blob.
        blob: BlobId,
        /// Why, for people.
        reason: String,
    },
}

/// A run of pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// The first piece.
    pub first: u32,
    /// One past the last.
    pub end: u32,
}

/// Pieces that a reader waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// The first piece.
    pub first: u32,
    /// One past the last.
    pub end: u32,
    /// For how many milliseconds the reader can wait.
    pub within_ms: u32,
}

/// A request to a registry, for a manifest, a list, or whether a blob may be read; never for a blob's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryQuestion {
    /// The registry's base address, such as `https://registry-1.docker.io/`.
    pub registry: String,
    /// True if the asker's configuration names the registry. One that is named by a program alone is asked only at
    /// public addresses.
    pub configured: bool,
    /// True for HEAD, false for GET.
    pub head: bool,
    /// Path and query, from `/v2/` on.
    pub path: String,
    /// The request's headers that choose or shorten the answer, such as `Accept`.
    pub headers: Vec<(String, String)>,
    /// The caller's credentials; empty, if the seed's own login is to be used.
    pub credentials: Credentials,
}

/// A registry's answer to a [`RegistryQuestion`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The headers, without those that belong to one connection.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body; empty for HEAD and for blobs.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
    /// Milliseconds since the registry gave this answer.
    pub age_ms: u32,
    /// Set when the registry did not give it now: the seed answers from what it knows.
    pub stale: Option<StaleAnswer>,
}

/// A seed's note on an answer that its registry could not give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaleAnswer {
    /// Seconds since the registry last said so.
    pub age_s: u64,
    /// Why the registry did not answer, for people.
    pub reason: String,
}

open_enum! {
    /// A node's part in the swarm of one blob.
    pub enum SwarmPart else Nothing {
        /// Holds nothing of it, or says something that is not known here.
        Nothing = 0,
        /// Follows a lead, or holds a part.
        Member = 1,
        /// Holds all of it.
        Holder = 2,
        /// Leads it.
        Lead = 3,
    }
}

/// The part of a blob that a member already holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The blob.
    pub blob: BlobId,
    /// The verified pieces.
    pub pieces: PieceSet,
}

/// How to reach a node, and how near it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PeerInfo {
    /// The node.
    pub node: NodeId,
    /// Its peer address, `HOST:PORT`.
    pub addr: String,
    /// Its place: region, zone, rack and host.
    pub place: Place,
}

/// The root and digest that a whole blob was found to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The root over its manifest.
    pub root: PieceHash,
    /// The origin's own digest that the bytes matched, where the origin has one; else the SHA-256 that the lead computed while it
    /// read, if it read all of it.
    pub digest: Option<Digest>,
}

impl Message {
    /// The message for agents without [`FAILURE_KINDS`](crate::Capabilities::FAILURE_KINDS), where it is another one.
    pub(crate) fn plain(&self) -> Option<Self> {
        match self {
            Self::Rejected { request, failure } => {
                failure.plain().map(|failure| Self::Rejected { request: *request, failure })
            }
            Self::Failed { blob, failure } => failure.plain().map(|failure| Self::Failed { blob: *blob, failure }),
            Self::RegistryIs { request, answer: Err(failure) } => {
                failure.plain().map(|failure| Self::RegistryIs { request: *request, answer: Err(failure) })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
