//! A connected agent, and who hears what connected agents say.

use async_trait::async_trait;
use darter_api::Giver;
use darter_core::{BlobId, NodeId, PieceIndex, Tier};
use darter_swarm::RequestId;
use darter_wire::{Answer, Hello, Message, PeerInfo, Role};

/// Is told what other agents say and do.
#[async_trait]
pub trait PeerListener: Send + Sync {
    /// A peer's first control connection is up.
    fn peer_up(&self, peer: &Peer);
    /// A peer's last control connection is gone.
    fn peer_down(&self, node: NodeId);
    /// A node could not be reached.
    fn not_reached(&self, node: NodeId);
    /// A peer said something.
    fn said(&self, from: NodeId, message: Message);
    /// The lead chose a piece for an ask, and is sending it.
    fn begun(&self, blob: BlobId, request: RequestId, piece: PieceIndex);
    /// A peer answered a request for a piece. It may be gone by now.
    async fn answered(&self, from: &Peer, blob: BlobId, request: RequestId, answer: Answer);
    /// A request for a piece will not be answered.
    fn unanswered(&self, from: NodeId, blob: BlobId, request: RequestId);
}

/// A connected agent.
#[derive(Clone, Debug)]
pub struct Peer {
    /// How it introduced itself.
    pub hello: Hello,
    /// The version of the protocol that is spoken with it.
    pub version: u8,
    /// How near it is.
    pub tier: Tier,
    /// True if the peer is on this host beyond doubt: each of its connections is within this host, and it doesn't name another. The peer's
    /// word alone does not count: many hosts have one name.
    pub is_here: bool,
}

impl Peer {
    /// True if the peer reads origins for others.
    pub const fn is_seed(&self) -> bool {
        matches!(self.hello.role, Role::Seed)
    }

    /// The peer as others are told of it.
    pub fn info(&self) -> PeerInfo {
        let Hello { node, listen, place, .. } = &self.hello;
        PeerInfo { node: *node, addr: listen.clone(), place: place.clone() }
    }

    /// The peer as somebody who gives pieces.
    pub fn giver(&self) -> Giver {
        let (node, addr) = (self.hello.node, self.hello.listen.clone());
        if self.is_seed() { Giver::Seed { node, addr } } else { Giver::Peer { node, addr } }
    }
}
