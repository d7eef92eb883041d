//! Hashes behind a gap: a range in the middle of the blob was read, and the pieces before it were not.
//!
//! They are sent in runs, each within a block of pieces and so provable by itself (see `darter_core::proof`). The lead sends each run to
//! the members that wait for its pieces, and in a small swarm to all. A member that asks for hashes in order is also sent the runs behind
//! them, by the lead and by members that have the lead's proof of them. Once the gap before a run is filled, its hashes are sent in order like
//! all others: agents of the release before, which do not know runs, learn them then.
//!
//! Invariants: a run is taken from the lead, or with its signature from a neighbour that was asked ([`Hashes`](crate::Hashes)); proofs are those
//! of the present lead.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use darter_core::proof::block_of;
use darter_core::{HashChain, NodeId, PieceIndex, PieceSet, Proof, Signer};
use darter_protocol::Message;

use crate::{Facts, Wish};

/// Runs that are sent in answer to one question, at most: 128 KiB of hashes.
const MAX_TOLD: usize = 64;

/// The lead's proofs of runs, by their block.
#[derive(Debug, Default)]
pub(crate) struct RunProofs(BTreeMap<u32, (u32, Proof)>);

impl RunProofs {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn keep(&mut self, first: u32, proof: Proof) {
        self.0.insert(block_of(PieceIndex(first)).start, (first, proof));
    }

    /// The messages that prove the hashes from `from` on.
    pub(crate) fn behind(&self, from: u32, facts: &dyn Facts) -> Vec<Message> {
        let told = |(first, proof): (u32, Proof)| {
            let hashes = facts.hashes_from(first, proof.count as usize);
            let is_whole = hashes.len() == proof.count as usize;
            is_whole.then(|| Message::Run { blob: facts.blob(), from: first, hashes, proof: Some(proof) })
        };
        self.provable(from).into_iter().filter_map(told).collect()
    }

    fn provable(&self, from: u32) -> Vec<(u32, Proof)> {
        let behind = self.0.range(block_of(PieceIndex(from)).start..).map(|(_, run)| *run);
        behind.filter(|(first, proof)| first + proof.count > from).take(MAX_TOLD).collect()
    }
}

/// Which runs a lead has sent.
#[derive(Debug, Default)]
pub(crate) struct ToldRuns {
    /// To all members.
    all: PieceSet,
    /// To single members that wait for something, in a large swarm.
    some: HashMap<NodeId, PieceSet>,
}

/// How a lead sends runs: with its signature if members ask each other for hashes.
pub(crate) struct Teller<'a> {
    pub(crate) facts: &'a dyn Facts,
    pub(crate) signer: Option<&'a mut Signer>,
}

impl ToldRuns {
    /// The messages to members about hashes behind the first `prefix` ones: in a small swarm `others` are all sent all of them; in a large one
    /// the members in `wishes` are sent those that they wait for.
    pub(crate) fn tell(
        &mut self,
        mut teller: Teller<'_>,
        prefix: u32,
        others: impl FnOnce() -> Vec<NodeId>,
        wishes: impl FnOnce() -> Vec<(NodeId, Wish)>,
    ) -> Vec<(NodeId, Message)> {
        if teller.facts.known_count() <= prefix {
            if !(self.all.is_empty() && self.some.is_empty()) {
                *self = Self::default();
            }
            return Vec::new();
        }
        let known = teller.facts.known();
        let mut messages = Vec::new();
        if teller.signer.is_none() {
            let fresh = known.difference(&self.all).collect();
            self.all.union_with(&fresh);
            let told: Vec<_> = runs_behind(&fresh, prefix).into_iter().map(|run| teller.run(run)).collect();
            for node in others() {
                messages.extend(told.iter().map(|message| (node, message.clone())));
            }
            return messages;
        }
        for (node, wish) in wishes() {
            let told = self.some.entry(node).or_default();
            let fresh: PieceSet =
                known.difference(told).filter(|piece| (wish.first..wish.end).contains(&piece.0)).collect();
            told.union_with(&fresh);
            for run in runs_behind(&fresh, prefix) {
                let around = around(teller.facts, run.start);
                messages.push((node, teller.run(around)));
            }
        }
        messages
    }
}

impl Teller<'_> {
    /// The runs behind the first `from` hashes, for a member that lacks them.
    pub(crate) fn runs_from(&mut self, from: u32) -> Vec<Message> {
        let prefix = self.facts.prefix();
        if self.facts.known_count() <= prefix {
            return Vec::new();
        }
        let runs = runs_behind(&self.facts.known(), from.max(prefix));
        runs.into_iter().take(MAX_TOLD).map(|run| self.run(run)).collect()
    }

    fn run(&mut self, run: Range<u32>) -> Message {
        let hashes = self.facts.hashes_from(run.start, run.len());
        let (blob, pieces) = (self.facts.blob(), self.facts.piece_length());
        let proof = self.signer.as_mut().map(|signer| {
            let mut chain = HashChain::begin(blob, pieces, run.start);
            chain.extend(&hashes);
            signer.prove(&chain)
        });
        Message::Run { blob, from: run.start, hashes, proof }
    }
}

/// The pieces of a set that come after the first `prefix` ones, as runs that each lie in one block.
fn runs_behind(known: &PieceSet, prefix: u32) -> Vec<Range<u32>> {
    let mut runs = Vec::new();
    for run in known.runs().filter(|run| run.end > prefix) {
        let mut first = run.start.max(prefix);
        while first < run.end {
            let end = run.end.min(block_of(PieceIndex(first)).end);
            runs.push(first..end);
            first = end;
        }
    }
    runs
}

/// The range of known hashes around that of `piece`, within its block.
fn around(facts: &dyn Facts, piece: u32) -> Range<u32> {
    let block = block_of(PieceIndex(piece));
    let is_known = |piece: &u32| facts.knows(PieceIndex(*piece));
    let first = (block.start..piece).rev().take_while(is_known).last().unwrap_or(piece);
    let end = (piece..block.end).find(|piece| !is_known(piece)).unwrap_or(block.end);
    first..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_lie_behind_the_first_hashes_and_each_in_one_block() {
        let known: PieceSet = (0..5).chain(60..70).chain([200]).map(PieceIndex).collect();
        assert_eq!(runs_behind(&known, 5), [60..64, 64..70, 200..201]);
        assert_eq!(runs_behind(&known, 62), [62..64, 64..70, 200..201]);
        assert_eq!(runs_behind(&known, 201), [0..0; 0]);
    }

    #[test]
    fn the_last_word_for_a_block_is_passed_on_to_who_lacks_some_of_it() {
        let proof = |count| Proof { count, signature: [[0; 32]; 2] };
        let mut proofs = RunProofs::default();
        proofs.keep(100, proof(4));
        proofs.keep(100, proof(9));
        proofs.keep(640, proof(1));
        let told = |from| proofs.provable(from).iter().map(|(first, proof)| (*first, proof.count)).collect::<Vec<_>>();
        assert_eq!(told(0), [(100, 9), (640, 1)]);
        assert_eq!(told(108), [(100, 9), (640, 1)]);
        assert_eq!(told(109), [(640, 1)]);
    }
}
