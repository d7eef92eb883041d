//! A connected agent, and the receiver of what connected agents send.

use async_trait::async_trait;
use darter_api::Giver;
use darter_core::{BlobId, NodeId, PieceIndex, Tier};
use darter_swarm::RequestId;
use darter_wire::{Answer, Hello, Message, PeerInfo, Role};

/// Receives what other agents send, and learns of their connections.
#[async_trait]
pub trait PeerListener: Send + Sync {
    /// A peer's first control connection is established.
    fn peer_up(&self, peer: &Peer);
    /// A peer's last control connection is closed.
    fn peer_down(&self, node: NodeId);
    /// A node could not be reached.
    fn not_reached(&self, node: NodeId);
    /// A peer sent a message.
    fn said(&self, from: NodeId, message: Message);
    /// The lead chose a piece for a request, and is sending it.
    fn begun(&self, blob: BlobId, request: RequestId, piece: PieceIndex);
    /// A peer answered a request for a piece. It may be disconnected by now.
    async fn answered(&self, from: &Peer, blob: BlobId, request: RequestId, answer: Answer);
    /// A request for a piece will not be answered.
    fn unanswered(&self, from: NodeId, blob: BlobId, request: RequestId);
}

/// A connected agent.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its introduction.
    pub hello: Hello,
    /// The version of the protocol that is used with it.
    pub version: u8,
    /// How near it is.
    pub tier: Tier,
    /// True if the peer is certainly on this host: each of its connections is within this host, and it does not name another host. The peer's
    /// own claim is not enough, since many hosts have the same name.
    pub is_here: bool,
}

impl Peer {
    /// True if the peer reads origins for others.
    pub const fn is_seed(&self) -> bool {
        matches!(self.hello.role, Role::Seed)
    }

    /// The peer's description for others.
    pub fn info(&self) -> PeerInfo {
        let Hello { node, listen, place, .. } = &self.hello;
        PeerInfo { node: *node, addr: listen.clone(), place: place.clone() }
    }

    /// The peer as a giver of pieces.
    pub fn giver(&self) -> Giver {
        let (node, addr) = (self.hello.node, self.hello.listen.clone());
        if self.is_seed() { Giver::Seed { node, addr } } else { Giver::Peer { node, addr } }
    }
}
