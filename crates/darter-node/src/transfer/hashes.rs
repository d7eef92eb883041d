//! The list of a blob's hashes at one agent: how far it goes, what proves it to others, whom to ask for the rest. Decisions without I/O.
//!
//! Invariants: the chain stands for hashes that are in the store; the proof is for its first ones, and by the lead that is followed now.
//! Hashes from anybody but that lead are taken only from who was asked for them, and only with its proof.

use std::collections::HashMap;

use darter_core::{HashChain, LeadKey, Moment, NodeId, PieceHash, Proof};
use darter_swarm::{Learner, MAX_HASHES, Teacher, Tuning};

use super::runs::RunProofs;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Hashes {
    chain: HashChain,
    /// What the proofs of the lead that is followed are checked with.
    key: Option<LeadKey>,
    proof: Option<Proof>,
    learner: Learner,
    /// What proves hashes behind gaps.
    pub(super) runs: RunProofs,
    /// From where on peers asked that were answered, when how many were known, and when.
    asked_by: HashMap<NodeId, (u32, u32, Moment)>,
    tuning: Tuning,
}

/// What hashes from a neighbour are checked with, apart from the state that they may change.
pub(super) struct Check {
    chain: HashChain,
    key: LeadKey,
}

/// What an answer of a neighbour is.
#[derive(Debug)]
pub(super) enum Answer {
    /// New hashes, for which there is the lead's word.
    Proven(Proven),
    /// Nothing that was not known, perhaps meanwhile.
    Stale,
    /// No hashes, or none with the lead's word.
    Useless,
}

/// Hashes for which there is the lead's word.
#[derive(Debug)]
pub(super) struct Proven {
    /// Which of the hashes is the first new one.
    pub(super) at: usize,
    /// How many were known.
    pub(super) known: u32,
    /// The chain with the new ones.
    chain: HashChain,
    key: LeadKey,
    proof: Proof,
}

impl Check {
    /// Looks at hashes from the one of piece `from` on.
    pub(super) fn prove(mut self, from: u32, hashes: &[PieceHash], proof: Option<Proof>) -> Answer {
        let known = self.chain.count();
        let (Some(proof), Some(at)) = (proof, known.checked_sub(from)) else { return Answer::Useless };
        let Some(fresh) = hashes.get(at as usize..).filter(|fresh| !fresh.is_empty()) else { return Answer::Stale };
        self.chain.extend(fresh);
        if !self.key.proves(&self.chain, &proof) {
            return Answer::Useless;
        }
        Answer::Proven(Proven { at: at as usize, known, chain: self.chain, key: self.key, proof })
    }
}

impl Hashes {
    /// With the chain of all hashes that are known, and a number that differs from agent to agent.
    pub(super) fn new(chain: HashChain, turn: usize, tuning: Tuning) -> Self {
        let learner = Learner::new(chain.count(), turn);
        Self { chain, key: None, proof: None, learner, runs: RunProofs::default(), asked_by: HashMap::new(), tuning }
    }

    /// How many hashes are known.
    pub(super) const fn count(&self) -> u32 {
        self.chain.count()
    }

    /// How many neighbours are to hear of: none that can't be proven to them.
    pub(super) const fn shown(&self) -> u32 {
        if self.key.is_some() { self.chain.count() } else { 0 }
    }

    /// The chain over all of them.
    pub(super) const fn chain(&self) -> &HashChain {
        &self.chain
    }

    /// Takes in the next hashes that the store has learned. Whether neighbours are to hear of it, since these are the first and members
    /// ask each other.
    pub(super) fn learned(&mut self, next: &[PieceHash]) -> bool {
        let are_first = self.chain.count() == 0 && !next.is_empty();
        self.chain.extend(next);
        self.learner.learned(self.chain.count());
        are_first && self.learner.do_members_ask()
    }

    /// Takes in what was proven and is in the store now. Another lead may have come meanwhile. Whether as in [`Self::learned`].
    pub(super) fn took(&mut self, from: NodeId, proven: Proven, now: Moment) -> bool {
        let are_first = self.chain.count() == 0;
        if self.chain.count() < proven.chain.count() {
            self.chain = proven.chain;
            self.learner.learned(self.chain.count());
        }
        self.learner.answered(from, true, now, &self.tuning);
        let is_newer = self.proof.is_none_or(|proof| proof.count < proven.proof.count);
        if self.key == Some(proven.key) && is_newer {
            self.proof = Some(proven.proof);
        }
        are_first && self.learner.do_members_ask()
    }

    /// This neighbour's answer brought nothing.
    pub(super) fn brought_nothing(&mut self, from: NodeId, is_useless: bool, now: Moment) {
        self.learner.answered(from, !is_useless, now, &self.tuning);
    }

    /// The blob has `total` hashes.
    pub(super) const fn set_total(&mut self, total: u32) {
        self.learner.set_total(total);
    }

    /// The lead changed: drops its key and proof, since followers of the new lead cannot check them.
    pub(super) fn lead_changed(&mut self, key: Option<LeadKey>) {
        self.key = key;
        self.proof = None;
        self.runs.clear();
        self.learner.lead_changed();
    }

    /// The lead says whether members have to ask each other.
    pub(super) const fn members_ask(&mut self, ask: bool) {
        self.learner.members_ask(ask);
    }

    /// The lead gave its word for hashes. It is of use if they are the ones that are known.
    pub(super) fn vouched(&mut self, proof: Proof) {
        if self.key.is_some_and(|key| key.proves(&self.chain, &proof)) {
            self.proof = Some(proof);
        }
    }

    /// `neighbour` knows `knows` hashes and holds pieces below `pieces`. True if somebody should now be asked for hashes.
    pub(super) fn showed(&mut self, neighbour: NodeId, knows: u32, pieces: u32) -> bool {
        if knows == 0 { self.learner.showed_pieces(pieces) } else { self.learner.showed(neighbour, knows) }
    }

    /// A neighbour holds wanted pieces behind a gap whose hashes are not known. Whether it follows that somebody is to be asked.
    pub(super) fn showed_gap(&mut self, neighbour: NodeId) -> bool {
        self.learner.showed_gap(neighbour)
    }

    /// A neighbour that was asked told a run.
    pub(super) fn told_run(&mut self, neighbour: NodeId) {
        self.learner.told_run(neighbour);
    }

    /// The lead told the hashes before `end`, perhaps none.
    pub(super) fn lead_answered(&mut self, end: u32) {
        self.learner.lead_answered(end);
    }

    /// What the proofs of the lead that is followed are checked with.
    pub(super) const fn key(&self) -> Option<LeadKey> {
        self.key
    }

    /// Whether this neighbour was asked and has not answered.
    pub(super) fn was_asked(&self, neighbour: NodeId) -> bool {
        self.learner.was_asked(neighbour)
    }

    /// The lead knows at least `knows` hashes: it sent a piece that needs them, or told others of them.
    pub(super) fn lead_showed(&mut self, knows: u32) {
        self.learner.lead_showed(knows);
    }

    /// A neighbour left.
    pub(super) fn left(&mut self, neighbour: NodeId) {
        self.learner.left(neighbour);
        self.asked_by.remove(&neighbour);
    }

    /// Whether a peer's question is to be answered, where `known` hashes are known in all: not the same again right after the same
    /// answer.
    pub(super) fn may_answer(&mut self, peer: NodeId, from: u32, known: u32, now: Moment) -> bool {
        let repeats = self.asked_by.get(&peer).is_some_and(|(last, knew, at)| {
            from <= *last && known <= *knew && now < *at + self.tuning.hash_patience / 2
        });
        if !repeats {
            self.asked_by.insert(peer, (from, known, now));
        }
        !repeats
    }

    /// What an answer of this neighbour is checked with; `None` if it was not asked.
    pub(super) fn check_for(&self, neighbour: NodeId) -> Option<Check> {
        let key = self.key.filter(|_| self.learner.was_asked(neighbour))?;
        Some(Check { chain: self.chain.clone(), key })
    }

    /// How many hashes from `from` on can be told to who asks, and with what proof. A list that is too long for one message can't be
    /// proven in parts: the lead tells it.
    pub(super) fn answer(&self, from: u32) -> Option<(u32, Proof)> {
        let proof = self.proof.filter(|proof| proof.count > from && proof.count - from <= MAX_HASHES)?;
        Some((proof.count - from, proof))
    }

    /// Whether the lead is to be asked for a proof, since others ask for what this agent can't prove.
    pub(super) fn needs_proof(&mut self, from: u32, now: Moment) -> bool {
        self.proof.is_none_or(|proof| proof.count <= from) && self.learner.needs_proof(from, now, &self.tuning)
    }

    /// Whom to ask now for the hashes from [`Self::count`] on.
    pub(super) fn ask(&mut self, now: Moment) -> Option<Teacher> {
        self.learner.ask(now, &self.tuning)
    }

    /// When to look again.
    pub(super) const fn next_wakeup(&self) -> Option<Moment> {
        self.learner.next_wakeup()
    }
}

#[cfg(test)]
mod tests;
