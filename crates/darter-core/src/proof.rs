//! Proof that hashes are what a lead said they are, whoever passes them on.
//!
//! Each member of a swarm needs every piece's hash, 32 bytes of it, and from somebody whom it trusts. From the lead itself that is a third
//! of a copy of a blob of a thousand pieces for ten thousand members, and ten thousand messages for each piece that the origin
//! gives. So the lead signs the list, members pass it on, and nobody has to trust whom it hears it from.
//!
//! The lead signs the end of a [`HashChain`]: a value that begins with the blob and takes in one hash after the other. A member that
//! knows the first hashes checks further ones without going through the first again. Most chains begin with the first piece; one that
//! begins behind a gap is for a run of pieces within a [`block_of`] them, so that it is short, and provable by itself. Signatures are Ed25519 (RFC 8032); the
//! key is drawn anew by whoever begins to lead a swarm, and members learn it from the lead itself as they join.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::{BlobId, PieceHash, PieceIndex, PieceLength, identity};

/// Keeps chains apart from whatever else BLAKE3 is used for.
const CHAIN: &str = "darter 2026-11 chain of piece hashes";
/// Keeps what is signed here apart from whatever else an Ed25519 key may sign.
const SIGNED: &[u8] = b"darter piece hashes\0";

/// Pieces in a block: a run of hashes behind a gap is told, and proven, with those of its block.
const BLOCK: u32 = 64;

/// Signatures that a lead keeps: more than a blob has blocks that are asked for at a time.
const MAX_KEPT: usize = 256;

/// The block that a piece is in: its first piece, and one past its last.
pub const fn block_of(piece: PieceIndex) -> Range<u32> {
    let first = piece.0 / BLOCK * BLOCK;
    first..first.saturating_add(BLOCK)
}

/// Hashes of consecutive pieces of a blob, as one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashChain {
    first: u32,
    count: u32,
    value: [u8; 32],
}

impl HashChain {
    /// The chain of a blob in pieces of this length, before its first hash.
    pub fn new(blob: BlobId, pieces: PieceLength) -> Self {
        Self::begin(blob, pieces, 0)
    }

    /// The chain of a run of pieces, before the hash of its first.
    pub fn begin(blob: BlobId, pieces: PieceLength, first: u32) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CHAIN);
        hasher.update(&blob.0).update(&[pieces.log2()]);
        if first > 0 {
            hasher.update(&first.to_le_bytes());
        }
        Self { first, count: 0, value: *hasher.finalize().as_bytes() }
    }

    /// The piece that its first hash belongs to.
    pub const fn first(&self) -> u32 {
        self.first
    }

    /// How many hashes it has taken in.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Takes in the next hashes.
    pub fn extend(&mut self, hashes: &[PieceHash]) {
        for hash in hashes {
            let mut link = [0; 64];
            link[..32].copy_from_slice(&self.value);
            link[32..].copy_from_slice(&hash.0);
            self.value = *blake3::hash(&link).as_bytes();
            self.count += 1;
        }
    }

    fn signed(&self) -> Vec<u8> {
        [SIGNED, &self.value].concat()
    }
}

/// A lead's word for `count` hashes of a blob, from the first on or as a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// How many hashes it is for.
    pub count: u32,
    /// The Ed25519 signature of 64 bytes, in halves.
    pub signature: [[u8; 32]; 2],
}

/// The key that a lead's proofs are checked with: an Ed25519 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeadKey(pub [u8; 32]);

impl LeadKey {
    /// True if this lead signed `proof` for just this `chain`.
    pub fn proves(&self, chain: &HashChain, proof: &Proof) -> bool {
        proof.count == chain.count
            && UnparsedPublicKey::new(&ED25519, &self.0).verify(&chain.signed(), proof.signature.as_flattened()).is_ok()
    }
}

/// Signs for a lead.
#[derive(Clone, Debug)]
pub struct Signer {
    pair: Arc<Ed25519KeyPair>,
    key: LeadKey,
    /// The chain that was last signed, and its proof, by first piece: many members ask for the same one.
    last: HashMap<u32, (HashChain, Proof)>,
}

impl Signer {
    /// Draws a key.
    ///
    /// # Panics
    /// When the system has no random numbers.
    pub fn draw() -> Self {
        let pair = identity::draw_pair();
        let key = pair.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes");
        Self { pair: Arc::new(pair), key: LeadKey(key), last: HashMap::new() }
    }

    /// The key that others check this signer's proofs with.
    pub const fn key(&self) -> LeadKey {
        self.key
    }

    /// Vouches for all hashes of a chain.
    pub fn prove(&mut self, chain: &HashChain) -> Proof {
        if let Some((_, proof)) = self.last.get(&chain.first).filter(|(signed, _)| signed == chain) {
            return *proof;
        }
        if self.last.len() >= MAX_KEPT {
            self.last.clear();
        }
        let signature = self.pair.sign(&chain.signed());
        let (halves, _) = signature.as_ref().as_chunks::<32>();
        let proof = Proof { count: chain.count, signature: [halves[0], halves[1]] };
        self.last.insert(chain.first, (chain.clone(), proof));
        proof
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(hashes: &[u8]) -> HashChain {
        let mut chain = HashChain::new(BlobId([7; 32]), PieceLength::UNKNOWN_BLOB);
        chain.extend(&hashes.iter().map(|it| PieceHash([*it; 32])).collect::<Vec<_>>());
        chain
    }

    #[test]
    fn a_proof_holds_for_the_very_list_and_key() {
        let mut signer = Signer::draw();
        let mut grown = chain(&[1, 2]);
        let proof = signer.prove(&chain(&[1, 2, 3]));
        assert!(!signer.key().proves(&grown, &proof), "another count");
        grown.extend(&[PieceHash([3; 32])]);
        assert!(signer.key().proves(&grown, &proof), "it does not matter in how many steps the list came");
        assert!(!signer.key().proves(&chain(&[1, 3, 2]), &proof), "another order");
        assert!(!Signer::draw().key().proves(&grown, &proof), "another lead");
        let other_blob = {
            let mut chain = HashChain::new(BlobId([8; 32]), PieceLength::UNKNOWN_BLOB);
            chain.extend(&[1, 2, 3].map(|it| PieceHash([it; 32])));
            chain
        };
        assert!(!signer.key().proves(&other_blob, &proof), "another blob");
        assert!(signer.key().proves(&other_blob, &signer.prove(&other_blob)));
    }

    #[test]
    fn a_proof_of_a_run_holds_for_no_other_run() {
        let run = |first| {
            let mut chain = HashChain::begin(BlobId([7; 32]), PieceLength::UNKNOWN_BLOB, first);
            chain.extend(&[1, 2].map(|it| PieceHash([it; 32])));
            chain
        };
        let mut signer = Signer::draw();
        let proof = signer.prove(&run(64));
        assert!(signer.key().proves(&run(64), &proof));
        for other in [0, 65, 128] {
            assert!(!signer.key().proves(&run(other), &proof), "{other}");
        }
    }

    #[test]
    fn garbage_is_no_key_and_no_proof() {
        let mut signer = Signer::draw();
        let list = chain(&[1]);
        let proof = Proof { count: 1, signature: [[9; 32]; 2] };
        assert!(!signer.key().proves(&list, &proof));
        assert!(!LeadKey([0xff; 32]).proves(&list, &signer.prove(&list)));
    }
}
