//! How hashes get about: where members are few the lead tells them all, where they are many they ask each other.
//! `Books` and [`Hashes`](darter_swarm::Hashes) decide who tells whom what, and what is taken, as in the agent, with
//! real messages and signatures.
//!
//! The origin is read in order, and so nobody knows hashes behind a gap. A node that begins to lead knows all hashes that the
//! origin ever gave. A seed may make up a list of its own: whoever has it can check no piece of the right one.

use darter_core::{BlobId, NodeId, PieceHash, PieceIndex, PieceLength, PieceSet, Place, Proof, Tier, Version};
use darter_scenario::SEED;
use darter_swarm::hashes::HashAnswer;
use darter_swarm::{Facts, Input};

use crate::fleet::Fleet;
use crate::node::{BLOB, Node, id_of, index_of};

/// State that all nodes share: the list of the blob's hashes, and where each of them stands.
#[derive(Debug)]
pub(crate) struct Blob {
    list: Vec<PieceHash>,
    piece_bytes: u64,
    places: Vec<Place>,
}

/// One node's knowledge of it: the first hashes, and which of those that it is to meet it can reach.
#[derive(Debug)]
pub(crate) struct View<'a> {
    blob: &'a Blob,
    me: u32,
    known: u32,
    is_forged: bool,
    reached: Vec<NodeId>,
    has_seed: bool,
}

impl Blob {
    /// A blob of `pieces` pieces of `piece_bytes` bytes, at nodes in `places`.
    pub(crate) fn new(pieces: u32, piece_bytes: u64, places: Vec<Place>) -> Self {
        let hash = |piece: u32| {
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&piece.to_le_bytes());
            PieceHash(hash)
        };
        Self { list: (0..pieces).map(hash).collect(), piece_bytes, places }
    }

    /// The place of `node`.
    pub(crate) fn place(&self, node: u32) -> &Place {
        &self.places[node as usize]
    }

    /// The knowledge of a node that meets nobody now.
    pub(crate) const fn seen_by(&self, node: &Node) -> View<'_> {
        let (me, known, is_forged) = (index_of(node.id), node.known, node.is_forged);
        View { blob: self, me, known, is_forged, reached: Vec::new(), has_seed: false }
    }
}

impl View<'_> {
    /// This knowledge, of a node that can reach these nodes, and the seed or not.
    pub(crate) fn meeting(self, reached: Vec<NodeId>, has_seed: bool) -> Self {
        Self { reached, has_seed, ..self }
    }
}

/// Makes another hash of one.
const fn forge(hash: &mut PieceHash) {
    hash.0[31] ^= 0xff;
}

const fn is_forged(hash: &PieceHash) -> bool {
    hash.0[31] != 0
}

impl Facts for View<'_> {
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
        Some(self.blob.list.len() as u64 * self.blob.piece_bytes)
    }

    fn pieces(&self) -> Option<u32> {
        Some(self.blob.list.len() as u32)
    }

    fn prefix(&self) -> u32 {
        self.known
    }

    fn known_count(&self) -> u32 {
        self.known
    }

    fn known(&self) -> PieceSet {
        PieceSet::full(self.known)
    }

    fn knows(&self, piece: PieceIndex) -> bool {
        piece.0 < self.known
    }

    fn hashes_from(&self, from: u32, most: usize) -> Vec<PieceHash> {
        let known = self.blob.list[..self.known as usize].get(from as usize..).unwrap_or_default();
        let mut hashes = known[..known.len().min(most)].to_vec();
        if self.is_forged {
            hashes.iter_mut().for_each(forge);
        }
        hashes
    }

    fn address(&self, node: NodeId) -> String {
        let [a, b, c, d] = index_of(node).to_be_bytes();
        format!("{}.{b}.{c}.{d}:7400", a | 10)
    }

    fn place(&self, node: NodeId) -> Option<Place> {
        Some(self.blob.place(index_of(node)).clone())
    }

    fn tier(&self, node: NodeId) -> Tier {
        self.blob.place(self.me).tier_to(self.blob.place(index_of(node)))
    }

    fn is_connected(&self, node: NodeId) -> bool {
        self.reached.contains(&node)
    }

    fn is_seed(&self, node: NodeId) -> bool {
        index_of(node) == SEED
    }

    fn seeds(&self) -> Vec<NodeId> {
        if self.has_seed { vec![id_of(SEED)] } else { Vec::new() }
    }
}

impl Fleet {
    /// A node knows the first `known` hashes now.
    pub(crate) fn learn(&mut self, index: u32, known: u32) {
        if self.store_hashes(index, known) {
            self.tell(index, Input::Learned(0..known));
            self.knows_more(index);
        }
    }

    /// Returns true if these are more than a node knew.
    fn store_hashes(&mut self, index: u32, known: u32) -> bool {
        let node = &mut self.nodes[index as usize];
        let is_more = known > node.known;
        node.known = node.known.max(known);
        is_more
    }

    /// The consequences of a node's having learned hashes: what waited for them is taken in.
    fn knows_more(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        let known = node.known;
        let ready: Vec<_> = node.unproven.extract_if(.., |arrival| arrival.piece < known).collect();
        self.tell_known(index);
        for arrival in &ready {
            self.piece_arrived(arrival);
        }
    }

    /// Tells a picker for how many pieces there are hashes, and how many there are in all.
    pub(crate) fn tell_known(&mut self, index: u32) {
        self.tell(index, Input::Sized);
    }

    /// Hashes reach a node: from its lead, or as an answer.
    pub(crate) fn hear_hashes(
        &mut self,
        to: u32,
        from: u32,
        first: u32,
        hashes: &[PieceHash],
        (members_ask, proof): (bool, Option<Proof>),
    ) {
        let (teller, count) = (id_of(from), hashes.len() as u32);
        let node = &self.nodes[to as usize];
        let is_new;
        let are_forged = hashes.first().is_some_and(is_forged);
        let contradicts = count > 0 && node.known > 0 && node.is_forged != are_forged;
        if node.session.following() == Some(teller) {
            if !contradicts && first <= node.known && count > 0 {
                self.nodes[to as usize].is_forged = are_forged;
            }
            let node = &self.nodes[to as usize];
            is_new = !contradicts && first <= node.known && self.store_hashes(to, first + count);
            let members_ask = Some(members_ask);
            self.tell(to, Input::LeadTold { first, count, proof, members_ask, taken: is_new.then_some(count) });
            if contradicts {
                return self.lose_lead(to, teller);
            }
        } else {
            let Some(check) = node.session.hashes().check_for(teller) else { return };
            let answer = match check.prove(first, hashes, proof) {
                HashAnswer::Proven(_) if contradicts => HashAnswer::Useless,
                other => other,
            };
            is_new = matches!(&answer, HashAnswer::Proven(_)) && self.store_hashes(to, first + count);
            self.tell(to, Input::HashesAnswered { by: teller, answer });
        }
        if is_new {
            self.knows_more(to);
        }
        self.poll_soon(to);
    }
}
