//! Hashes behind a gap: a range in the middle of the blob was read, and what comes before it was not.
//!
//! They are told in runs, each within a block of pieces and so provable by itself (see `darter_core::proof`). The lead tells each run to
//! whoever waits for it, and to everybody where members are few; whoever asks for hashes in order is told the runs behind them as
//! well, by the lead and by members that have its word for them. Once the gap before a run is filled its hashes are told like any
//! others: an agent of the release before learns them then.
//!
//! Invariants: a run is taken from the lead, or with its signature from who was asked; proofs are of the lead that is followed now.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use darter_core::manifest::ManifestError;
use darter_core::proof::block_of;
use darter_core::{BlobId, HashChain, NodeId, PieceHash, PieceIndex, PieceSet, Proof};
use darter_store::{StoreError, StoredBlob};
use darter_swarm::Event;
use darter_wire::Message;

use super::leading::Leading;
use super::{Lead, State, Transfer};

/// Runs that are told in answer to one question, at most: 128 KiB of hashes.
const MAX_TOLD: usize = 64;

/// The lead's word for runs, by their block.
#[derive(Debug, Default)]
pub(super) struct RunProofs(BTreeMap<u32, (u32, Proof)>);

impl RunProofs {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    fn keep(&mut self, first: u32, proof: Proof) {
        self.0.insert(block_of(PieceIndex(first)).start, (first, proof));
    }

    /// What can be proven of the hashes from `from` on.
    fn behind(&self, from: u32) -> Vec<(u32, Proof)> {
        let behind = self.0.range(block_of(PieceIndex(from)).start..).map(|(_, run)| *run);
        behind.filter(|(first, proof)| first + proof.count > from).take(MAX_TOLD).collect()
    }
}

/// Which runs a lead has told.
#[derive(Debug, Default)]
pub(super) struct ToldRuns {
    /// To everybody.
    all: PieceSet,
    /// To those who wait for something, where members are many.
    some: HashMap<NodeId, PieceSet>,
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

impl Leading {
    /// Tells members of hashes behind gaps: to all where they are few, else to who waits for them.
    pub(super) fn tell_runs(&mut self, transfer: &Transfer, prefix: u32) -> Vec<(NodeId, Message)> {
        if transfer.stored.known_count() <= prefix {
            self.told_runs = ToldRuns::default();
            return Vec::new();
        }
        let known = transfer.stored.known();
        let mut messages = Vec::new();
        if !self.members_ask() {
            let fresh = known.difference(&self.told_runs.all).collect();
            self.told_runs.all.union_with(&fresh);
            let told: Vec<_> = runs_behind(&fresh, prefix).into_iter().map(|run| self.run(transfer, run)).collect();
            for node in self.others() {
                messages.extend(told.iter().map(|message| (node, message.clone())));
            }
            return messages;
        }
        for (node, wish) in self.wishes_of_others() {
            let told = self.told_runs.some.entry(node).or_default();
            let fresh: PieceSet =
                known.difference(told).filter(|piece| (wish.first..wish.end).contains(&piece.0)).collect();
            told.union_with(&fresh);
            for run in runs_behind(&fresh, prefix) {
                let around = around(&*transfer.stored, run.start);
                messages.push((node, self.run(transfer, around)));
            }
        }
        messages
    }

    /// The runs behind the first `from` hashes, for who lacks them.
    pub(super) fn runs_from(&mut self, transfer: &Transfer, from: u32) -> Vec<Message> {
        if transfer.stored.known_count() <= transfer.stored.prefix() {
            return Vec::new();
        }
        let known = transfer.stored.known();
        let runs = runs_behind(&known, from.max(transfer.stored.prefix()));
        runs.into_iter().take(MAX_TOLD).map(|run| self.run(transfer, run)).collect()
    }

    fn run(&mut self, transfer: &Transfer, run: Range<u32>) -> Message {
        let hashes = transfer.stored.hashes_from(run.start, run.len());
        let proof = self.members_ask().then(|| {
            let mut chain = HashChain::begin(transfer.blob, transfer.piece_length, run.start);
            chain.extend(&hashes);
            self.prove(&chain)
        });
        Message::Run { blob: transfer.blob, from: run.start, hashes, proof }
    }
}

/// The known hashes around that of a piece, within its block.
fn around(stored: &dyn StoredBlob, piece: u32) -> Range<u32> {
    let block = block_of(PieceIndex(piece));
    let is_known = |piece: &u32| stored.hash(PieceIndex(*piece)).is_some();
    let first = (block.start..piece).rev().take_while(is_known).last().unwrap_or(piece);
    let end = (piece..block.end).find(|piece| !is_known(piece)).unwrap_or(block.end);
    first..end
}

impl Transfer {
    /// Somebody tells a run of hashes: the lead, or who was asked for hashes.
    pub(super) fn hear_run(self: &Arc<Self>, from: NodeId, first: u32, hashes: &[PieceHash], proof: Option<Proof>) {
        let (is_lead, key, was_asked) = {
            let state = self.state.lock();
            (state.lead() == Lead::Node(from), state.hashes.key(), state.hashes.was_asked(from))
        };
        let mut chain = HashChain::begin(self.blob, self.piece_length, first);
        chain.extend(hashes);
        let word = proof.filter(|proof| key.is_some_and(|key| key.proves(&chain, proof)));
        let is_proven = was_asked && word.is_some();
        if !is_lead && !is_proven {
            self.context.metrics.hashes_refused.inc_by(hashes.len() as u64);
            return;
        }
        match self.stored.extend(first, hashes) {
            Ok(_) => {}
            // Its length is on its way, or the lead has been left.
            Err(StoreError::Manifest { source: ManifestError::Gap { .. }, .. }) => return,
            Err(error) if is_lead => return self.lead_failed(from, &error.to_string()),
            Err(error) => return tracing::debug!(blob = %self.blob.short(), %error, "a run of hashes was not taken"),
        }
        {
            let mut state = self.state.lock();
            if let Some(word) = word {
                state.hashes.runs.keep(first, word);
            }
            if !is_lead {
                state.hashes.told_run(from);
            }
            self.learned_run(&mut state, first..first + hashes.len() as u32);
        }
        self.kick.notify_one();
        self.changed.send_replace(());
    }

    /// Takes note of hashes behind a gap that the store has learned.
    pub(super) fn learned_run(&self, state: &mut State, run: Range<u32>) {
        self.catch_up(state);
        let total = self.pieces();
        state.picker.handle(Event::ManifestGrew { known: run, total }, self.context.now());
    }

    /// What this agent can prove of hashes behind gaps, for who lacks those from `from` on.
    pub(super) fn proven_runs(&self, from: u32) -> Vec<Message> {
        let proven = self.state.lock().hashes.runs.behind(from);
        let told = |(first, proof): (u32, Proof)| {
            let hashes = self.stored.hashes_from(first, proof.count as usize);
            (hashes.len() == proof.count as usize).then(|| run_of(self.blob, first, hashes, proof))
        };
        proven.into_iter().filter_map(told).collect()
    }
}

fn run_of(blob: BlobId, from: u32, hashes: Vec<PieceHash>, proof: Proof) -> Message {
    Message::Run { blob, from, hashes, proof: Some(proof) }
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
        let told = |from| proofs.behind(from).iter().map(|(first, proof)| (*first, proof.count)).collect::<Vec<_>>();
        assert_eq!(told(0), [(100, 9), (640, 1)]);
        assert_eq!(told(108), [(100, 9), (640, 1)]);
        assert_eq!(told(109), [(640, 1)]);
    }
}
