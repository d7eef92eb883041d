//! An agent's knowledge of its blob and of the others, besides its session.

use darter_core::{BlobId, NodeId, PieceHash, PieceIndex, PieceLength, PieceSet, Place, Tier, Version};
use darter_swarm::Facts;

use super::{BLOB, PIECES};

/// An agent's knowledge of a blob of `pieces` pieces, and the agents that can be met.
pub(crate) struct View {
    pub(crate) pieces: u32,
    /// The pieces whose hashes it knows.
    pub(crate) known: PieceSet,
    pub(crate) reached: Vec<NodeId>,
    pub(crate) seeds: Vec<NodeId>,
}

impl Facts for View {
    fn blob(&self) -> BlobId {
        BLOB
    }

    fn version(&self) -> Version {
        Version::default()
    }

    fn piece_length(&self) -> PieceLength {
        PIECES
    }

    fn length(&self) -> Option<u64> {
        Some(PIECES.bytes() * u64::from(self.pieces))
    }

    fn prefix(&self) -> u32 {
        self.known.first_missing_from(PieceIndex(0)).0
    }

    fn known_count(&self) -> u32 {
        self.known.len()
    }

    fn known(&self) -> PieceSet {
        self.known.clone()
    }

    fn knows(&self, piece: PieceIndex) -> bool {
        self.known.contains(piece)
    }

    fn hashes_from(&self, from: u32, most: usize) -> Vec<PieceHash> {
        let known = (from..self.pieces).take_while(|piece| self.known.contains(PieceIndex(*piece)));
        known.take(most).map(|piece| PieceHash([piece as u8; 32])).collect()
    }

    fn address(&self, node: NodeId) -> String {
        format!("host-{}:7400", node.0[0])
    }

    fn place(&self, _: NodeId) -> Option<Place> {
        None
    }

    fn tier(&self, _: NodeId) -> Tier {
        Tier::Far
    }

    fn is_connected(&self, node: NodeId) -> bool {
        self.reached.contains(&node)
    }

    fn is_seed(&self, node: NodeId) -> bool {
        self.seeds.contains(&node)
    }

    fn seeds(&self) -> Vec<NodeId> {
        self.seeds.iter().copied().filter(|seed| self.is_connected(*seed)).collect()
    }
}
