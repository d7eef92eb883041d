//! The questions that decisions ask about a blob. The store and the connections answer them.

use darter_core::{BlobId, NodeId, PieceHash, PieceIndex, PieceLength, PieceSet, Place, Tier, Version};

use crate::Standing;

/// See the module's text. No method waits or touches a disk: they are called while the caller holds locks.
pub trait Facts {
    /// The blob.
    fn blob(&self) -> BlobId;

    /// The version of the blob's source.
    fn version(&self) -> Version;

    /// The length of the blob's pieces.
    fn piece_length(&self) -> PieceLength;

    /// The blob's length in bytes, once known.
    fn length(&self) -> Option<u64>;

    /// The number of the blob's pieces, once known.
    fn pieces(&self) -> Option<u32> {
        self.length().map(|length| self.piece_length().count(length))
    }

    /// How many of the first pieces have a known hash: the number of the first piece that has none.
    fn prefix(&self) -> u32;

    /// How many pieces have a known hash.
    fn known_count(&self) -> u32;

    /// Which pieces have a known hash.
    fn known(&self) -> PieceSet;

    /// True if the hash of `piece` is known.
    fn knows(&self, piece: PieceIndex) -> bool;

    /// Up to `most` hashes, from the one of piece `from` on, and no further than the first piece whose hash is not known.
    fn hashes_from(&self, from: u32, most: usize) -> Vec<PieceHash>;

    /// The address at which `node` can be reached, as it is given to other agents.
    fn address(&self, node: NodeId) -> String;

    /// The place of `node`, if it is connected.
    fn place(&self, node: NodeId) -> Option<Place>;

    /// How far away another agent is.
    fn tier(&self, node: NodeId) -> Tier;

    /// True if `node` is connected.
    fn is_connected(&self, node: NodeId) -> bool;

    /// True if `node`, which leads, is a seed or is no longer connected; false if it is connected and an ordinary node.
    fn is_seed(&self, node: NodeId) -> bool;

    /// The seeds that are connected.
    fn seeds(&self) -> Vec<NodeId>;

    /// True if `node`, when it leads, answers an ask for any piece, from a member that wants parts of the blob, with a piece of those parts.
    fn gives_parts(&self, _: NodeId) -> bool {
        true
    }

    /// How many blobs this agent fetches at the same time, this one included.
    fn fetched(&self) -> u32 {
        1
    }

    /// The open requests and the pace of another agent, for all blobs of this agent together.
    fn standing(&self, _: NodeId) -> Standing {
        Standing::default()
    }

    /// True if the hashes rest on the word of a single node, and this is a seed: it takes the word of no other node instead.
    fn is_on_trust(&self) -> bool {
        false
    }

    /// True if the source may later have another version under the same name.
    fn may_change(&self) -> bool {
        false
    }

    /// True if the first piece is read last, when the length is known.
    fn is_headed_last(&self) -> bool {
        false
    }

    /// True if one connection is to read the origin, for a reason that lies outside this blob: the origin refused more for another blob, for example.
    fn is_read_alone(&self) -> bool {
        false
    }

    /// True if the agent, which may read for other blobs too, has room for a further connection of this blob to the origin: that of this number.
    fn may_read_beside(&self, _: u8) -> bool {
        true
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    use super::*;

    /// An agent that knows these hashes, each of which is its piece's number.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Known {
        pub(crate) pieces: Option<u32>,
        pub(crate) known: PieceSet,
        pub(crate) seeds: Vec<NodeId>,
        /// Nodes that are not connected, of those that otherwise would be.
        pub(crate) cut: Vec<NodeId>,
        pub(crate) on_trust: bool,
        /// How many further connections to the origin the agent has to give, if there is a limit.
        pub(crate) room_beside: Option<u8>,
        pub(crate) read_alone: bool,
    }

    pub(crate) const BLOB: BlobId = BlobId([5; 32]);

    pub(crate) fn hash(piece: u32) -> PieceHash {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&piece.to_le_bytes());
        PieceHash(hash)
    }

    impl Known {
        /// The first `count` of an unknown number of hashes.
        pub(crate) fn first(count: u32) -> Self {
            Self { known: PieceSet::full(count), ..Self::default() }
        }
    }

    impl Facts for Known {
        fn blob(&self) -> BlobId {
            BLOB
        }

        fn version(&self) -> Version {
            Version::default()
        }

        fn piece_length(&self) -> PieceLength {
            PieceLength::UNKNOWN_BLOB
        }

        fn length(&self) -> Option<u64> {
            self.pieces.map(|pieces| u64::from(pieces) * self.piece_length().bytes())
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
            (from..).take(most).take_while(|piece| self.known.contains(PieceIndex(*piece))).map(hash).collect()
        }

        fn address(&self, node: NodeId) -> String {
            format!("host-{}:7400", node.0[0])
        }

        /// All with an even number are connected.
        fn place(&self, node: NodeId) -> Option<Place> {
            node.0[0].is_multiple_of(2).then(Place::default)
        }

        fn tier(&self, _: NodeId) -> Tier {
            Tier::Rack
        }

        fn is_connected(&self, node: NodeId) -> bool {
            node.0[0].is_multiple_of(2) && !self.cut.contains(&node)
        }

        fn seeds(&self) -> Vec<NodeId> {
            self.seeds.clone()
        }

        fn is_on_trust(&self) -> bool {
            self.on_trust
        }

        fn is_read_alone(&self) -> bool {
            self.read_alone
        }

        fn may_read_beside(&self, number: u8) -> bool {
            self.room_beside.is_none_or(|room| number < room)
        }

        /// All from 100 on are seeds.
        fn is_seed(&self, node: NodeId) -> bool {
            node.0[0] >= 100
        }
    }
}
