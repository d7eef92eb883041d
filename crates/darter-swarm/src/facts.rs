//! An agent's knowledge of a blob, as far as decisions need it. The store and the connections have it; the decisions ask.

use darter_core::{BlobId, NodeId, PieceHash, PieceIndex, PieceLength, PieceSet, Place, Tier, Version};

use crate::Standing;

/// See the module's text. No method waits, and none touches a disk: they are called with whatever the caller has locked.
pub trait Facts {
    /// The blob.
    fn blob(&self) -> BlobId;

    /// The version of its source.
    fn version(&self) -> Version;

    /// Length of its pieces.
    fn piece_length(&self) -> PieceLength;

    /// Its length in bytes, once known.
    fn length(&self) -> Option<u64>;

    /// How many pieces it has, once known.
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

    /// Up to `most` hashes of `from` and the pieces behind it, up to the first one that is not known.
    fn hashes_from(&self, from: u32, most: usize) -> Vec<PieceHash>;

    /// The address at which `node` can be reached, as other agents are told it.
    fn address(&self, node: NodeId) -> String;

    /// The place of `node`, if it is connected.
    fn place(&self, node: NodeId) -> Option<Place>;

    /// How far another agent is.
    fn tier(&self, node: NodeId) -> Tier;

    /// True if `node` is connected.
    fn is_connected(&self, node: NodeId) -> bool;

    /// True if `node`, which leads, is a seed, or gone: not so a connected node.
    fn is_seed(&self, node: NodeId) -> bool;

    /// The seeds that are connected.
    fn seeds(&self) -> Vec<NodeId>;

    /// True if `node`, when it leads, answers an ask for any piece of a member that wants parts with one of these.
    fn gives_parts(&self, _: NodeId) -> bool {
        true
    }

    /// How many blobs this agent fetches at the same time, this one included.
    fn fetched(&self) -> u32 {
        1
    }

    /// The load that stands between this agent and another, of all blobs together.
    fn standing(&self, _: NodeId) -> Standing {
        Standing::default()
    }

    /// True if a node alone says what the pieces must be, and this is a seed: it takes the word of no other node in its place.
    fn is_on_trust(&self) -> bool {
        false
    }

    /// True if the source may come to have another version, under the same name.
    fn may_change(&self) -> bool {
        false
    }

    /// True if the first piece is read last, once the length is known.
    fn is_headed_last(&self) -> bool {
        false
    }

    /// True if the origin is to be read by one connection, for a reason that lies beyond this blob: it refused more for another one, say.
    fn is_read_alone(&self) -> bool {
        false
    }

    /// True if the agent, which reads for other blobs, too, has room for this blob's further connection to the origin of this number.
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
        /// Nodes that are not connected, of those that would be.
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
