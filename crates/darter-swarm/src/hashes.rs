//! The list of a blob's hashes at one agent: how long it is, what proves it to others, which agent to ask for the rest, and the answer to
//! an agent that asks.
//!
//! Invariants: the chain is over hashes that are in the store; the proof covers the first of these, and is signed by the present lead.
//! Hashes from any other agent are accepted only if it was asked for them, and only with the lead's proof.
//!
//! Non-goals: the hashes themselves, which the store has ([`Facts`]). [`HashCheck`] and [`RunCheck`] check signatures without access to this
//! state, so that no lock is held meanwhile.

use std::collections::HashMap;

use darter_core::{BlobId, HashChain, LeadKey, Moment, NodeId, PieceHash, PieceIndex, PieceLength, Proof};
use darter_protocol::Message;

use crate::runs::RunProofs;
use crate::{Books, Facts, Learner, MAX_HASHES, Teacher, Tuning};

/// See the module's text.
#[derive(Debug)]
pub struct Hashes {
    blob: BlobId,
    pieces: PieceLength,
    chain: HashChain,
    /// The key by which proofs of the present lead are checked.
    key: Option<LeadKey>,
    proof: Option<Proof>,
    learner: Learner,
    /// Proofs for hashes behind gaps.
    runs: RunProofs,
    /// For each peer whose question was answered: from which piece on it asked, how many hashes were known then, and when.
    asked_by: HashMap<NodeId, (u32, u32, Moment)>,
    tuning: Tuning,
}

/// The chain and key by which hashes from a neighbour are checked.
#[derive(Debug)]
pub struct HashCheck {
    chain: HashChain,
    key: LeadKey,
}

/// A neighbour's answer, once checked.
#[derive(Clone, Debug)]
pub enum HashAnswer {
    /// New hashes with the lead's proof.
    Proven(Proven),
    /// No hashes that are still unknown.
    Stale,
    /// No hashes, or none with the lead's proof.
    Useless,
}

/// Hashes with the lead's proof.
#[derive(Clone, Debug)]
pub struct Proven {
    /// The index of the first new one among the hashes of the answer.
    pub at: usize,
    /// How many hashes were known.
    pub known: u32,
    /// The chain that includes the new hashes.
    chain: HashChain,
    key: LeadKey,
    proof: Proof,
}

/// The proof by which a run of hashes behind a gap is checked.
#[derive(Debug)]
pub struct RunCheck {
    chain: HashChain,
    key: Option<LeadKey>,
    is_from_lead: bool,
    was_asked: bool,
}

/// A run of hashes that may be stored, with the lead's proof if that came with it.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    first: u32,
    word: Option<Proof>,
}

/// The messages to send after a peer asked for hashes.
#[derive(Debug, Default)]
pub struct Reply {
    /// To the peer, in this order.
    pub messages: Vec<Message>,
    /// To the lead, if another agent leads: a request for its proof.
    pub question: Option<Message>,
}

impl HashCheck {
    /// Checks `hashes`, of which the first is that of piece `from`.
    pub fn prove(mut self, from: u32, hashes: &[PieceHash], proof: Option<Proof>) -> HashAnswer {
        let known = self.chain.count();
        let (Some(proof), Some(at)) = (proof, known.checked_sub(from)) else { return HashAnswer::Useless };
        let Some(fresh) = hashes.get(at as usize..).filter(|fresh| !fresh.is_empty()) else { return HashAnswer::Stale };
        self.chain.extend(fresh);
        if !self.key.proves(&self.chain, &proof) {
            return HashAnswer::Useless;
        }
        HashAnswer::Proven(Proven { at: at as usize, known, chain: self.chain, key: self.key, proof })
    }
}

impl RunCheck {
    /// Checks the run's `hashes`; `None` if they must not be stored.
    pub fn prove(mut self, hashes: &[PieceHash], proof: Option<Proof>) -> Option<Run> {
        let first = self.chain.first();
        self.chain.extend(hashes);
        let word = proof.filter(|proof| self.key.is_some_and(|key| key.proves(&self.chain, proof)));
        let is_proven = self.was_asked && word.is_some();
        (self.is_from_lead || is_proven).then_some(Run { first, word })
    }
}

impl Hashes {
    /// The list of a blob in pieces of length `pieces`, of which `hashes` are known. `turn` differs from agent to agent.
    pub fn new(blob: BlobId, pieces: PieceLength, hashes: &[PieceHash], turn: usize, tuning: Tuning) -> Self {
        let mut chain = HashChain::new(blob, pieces);
        chain.extend(hashes);
        let learner = Learner::new(chain.count(), turn);
        let (runs, asked_by) = (RunProofs::default(), HashMap::new());
        Self { blob, pieces, chain, key: None, proof: None, learner, runs, asked_by, tuning }
    }

    /// How many hashes are known, in order from the first.
    pub(crate) const fn count(&self) -> u32 {
        self.chain.count()
    }

    /// How many hashes neighbours are told that this agent knows: only those that it can prove to them.
    pub const fn shown(&self) -> u32 {
        if self.key.is_some() { self.chain.count() } else { 0 }
    }

    /// The chain over all known hashes.
    pub(crate) const fn chain(&self) -> &HashChain {
        &self.chain
    }

    /// Takes in the next hashes that the store has learned. Returns true if neighbours are to be told, since these are the first ones and
    /// members ask each other.
    pub(crate) fn catch_up(&mut self, facts: &dyn Facts) -> bool {
        let known = self.chain.count();
        // This is asked at each poll, and nearly always nothing is lacking any more.
        if known >= self.learner.total() || facts.prefix() <= known {
            return false;
        }
        self.learned(&facts.hashes_from(known, usize::MAX))
    }

    fn learned(&mut self, next: &[PieceHash]) -> bool {
        let are_first = self.chain.count() == 0 && !next.is_empty();
        self.chain.extend(next);
        self.learner.learned(self.chain.count());
        are_first && self.learner.do_members_ask()
    }

    /// The blob has `total` hashes.
    pub(crate) const fn set_total(&mut self, total: u32) {
        self.learner.set_total(total);
    }

    /// The lead changed: drops its key and proof, since followers of the new lead cannot check them.
    pub(crate) fn lead_changed(&mut self, key: Option<LeadKey>) {
        self.key = key;
        self.proof = None;
        self.runs.clear();
        self.learner.lead_changed();
    }

    /// True if members have to ask each other for hashes, as in a large swarm.
    pub(crate) const fn do_members_ask(&self) -> bool {
        self.learner.do_members_ask()
    }

    /// The lead says whether members have to ask each other for hashes.
    pub(crate) const fn members_ask(&mut self, ask: bool) {
        self.learner.members_ask(ask);
    }

    /// The lead sent `count` hashes (zero is possible) from the one of piece `first` on, and perhaps its proof for these and all before. The
    /// store has taken in those that it could. Returns true as in [`Self::catch_up`].
    pub(crate) fn lead_told(&mut self, first: u32, count: u32, word: Option<Proof>, facts: &dyn Facts) -> bool {
        let tells = self.catch_up(facts);
        if self.chain.count() < first {
            // Earlier hashes may have been sent to others only, in a large swarm: they are asked for.
            self.learner.lead_showed(first + count);
        } else if let Some(word) = word {
            self.vouched(word);
        }
        self.learner.lead_answered(first + count);
        tells
    }

    /// The lead sent a proof. It is kept if it covers the hashes that are known here.
    fn vouched(&mut self, proof: Proof) {
        if self.key.is_some_and(|key| key.proves(&self.chain, &proof)) {
            self.proof = Some(proof);
        }
    }

    /// The lead knows at least `knows` hashes, since it sent a piece whose hash is among them.
    pub(crate) fn lead_showed(&mut self, knows: u32) {
        self.learner.lead_showed(knows);
    }

    /// `neighbour` knows the first `knows` hashes and holds pieces that are `wanted` here. True if some agent should now be asked
    /// for hashes.
    pub(crate) fn showed(
        &mut self,
        neighbour: NodeId,
        knows: u32,
        wanted: impl Iterator<Item = PieceIndex>,
        facts: &dyn Facts,
    ) -> bool {
        let in_order = knows.max(self.chain.count());
        let (mut needed, mut gap) = (0, false);
        for piece in wanted {
            needed = needed.max(piece.0 + 1);
            gap |= knows > 0 && piece.0 >= in_order && !facts.knows(piece);
        }
        let follows =
            if knows == 0 { self.learner.showed_pieces(needed) } else { self.learner.showed(neighbour, knows) };
        (gap && self.learner.showed_gap(neighbour)) || follows
    }

    /// A neighbour left.
    pub(crate) fn left(&mut self, neighbour: NodeId) {
        self.learner.left(neighbour);
        self.asked_by.remove(&neighbour);
    }

    /// The check for an answer of `neighbour`; `None` if it was not asked.
    pub fn check_for(&self, neighbour: NodeId) -> Option<HashCheck> {
        let key = self.key.filter(|_| self.learner.was_asked(neighbour))?;
        Some(HashCheck { chain: self.chain.clone(), key })
    }

    /// A neighbour answered. The hashes that it proved are in the store now; the lead may have changed meanwhile. Returns true as in
    /// [`Self::catch_up`].
    pub(crate) fn answered(&mut self, from: NodeId, answer: HashAnswer, now: Moment) -> bool {
        let are_first = self.chain.count() == 0;
        let is_useful = match answer {
            HashAnswer::Proven(proven) => {
                self.took(proven);
                true
            }
            HashAnswer::Stale => true,
            HashAnswer::Useless => false,
        };
        self.learner.answered(from, is_useful, now, &self.tuning);
        are_first && self.chain.count() > 0 && self.learner.do_members_ask()
    }

    fn took(&mut self, proven: Proven) {
        if self.chain.count() < proven.chain.count() {
            self.chain = proven.chain;
            self.learner.learned(self.chain.count());
        }
        let is_newer = self.proof.is_none_or(|proof| proof.count < proven.proof.count);
        if self.key == Some(proven.key) && is_newer {
            self.proof = Some(proven.proof);
        }
    }

    /// The check for a run of hashes from the one of piece `first` on, which `from` sent: the lead or a neighbour.
    pub fn check_run(&self, from: NodeId, is_from_lead: bool, first: u32) -> RunCheck {
        let chain = HashChain::begin(self.blob, self.pieces, first);
        RunCheck { chain, key: self.key, is_from_lead, was_asked: self.learner.was_asked(from) }
    }

    /// A run that `from` sent is in the store now. Returns true as in [`Self::catch_up`].
    pub(crate) fn took_run(&mut self, from: NodeId, run: Run, facts: &dyn Facts) -> bool {
        if let Some(word) = run.word {
            self.runs.keep(run.first, word);
        }
        self.learner.told_run(from);
        self.catch_up(facts)
    }

    /// The answer to a member that asks for hashes from the one of piece `from` on: a lead's answer, if `books` has the member, and
    /// otherwise all that can be proven to it. The same answer is not given again soon after.
    pub(crate) fn answer(
        &mut self,
        peer: NodeId,
        from: u32,
        books: Option<&mut Books>,
        facts: &dyn Facts,
        now: Moment,
    ) -> Reply {
        if !self.may_answer(peer, from, facts.known_count(), now) {
            return Reply::default();
        }
        if let Some(books) = books.filter(|books| books.has(peer)) {
            return Reply { messages: books.answer(from, facts, &self.chain), question: None };
        }
        let mut messages = self.runs.behind(from, facts);
        let proof = self.proof_behind(from);
        let hashes = facts.hashes_from(from, proof.map_or(0, |proof| proof.count - from) as usize);
        messages.push(Message::Grew { blob: self.blob, from, hashes, length: None, members_ask: true, proof });
        let asks = proof.is_none() && self.needs_proof(from, now);
        let question = asks.then(|| Message::AskHashes { blob: self.blob, from: self.chain.count() });
        Reply { messages, question }
    }

    /// True if a question of `peer` is to be answered, when `known` hashes are known here.
    fn may_answer(&mut self, peer: NodeId, from: u32, known: u32, now: Moment) -> bool {
        let repeats = self.asked_by.get(&peer).is_some_and(|(last, knew, at)| {
            from <= *last && known <= *knew && now < *at + self.tuning.hash_patience / 2
        });
        if !repeats {
            self.asked_by.insert(peer, (from, known, now));
        }
        !repeats
    }

    /// The proof for hashes from `from` on. A list that is too long for one message can't be proven in parts: only the lead sends it.
    fn proof_behind(&self, from: u32) -> Option<Proof> {
        self.proof.filter(|proof| proof.count > from && proof.count - from <= MAX_HASHES)
    }

    /// True if the lead is to be asked for a proof, since other members ask for hashes that this agent knows and can't prove.
    fn needs_proof(&mut self, from: u32, now: Moment) -> bool {
        self.proof.is_none_or(|proof| proof.count <= from) && self.learner.needs_proof(from, now, &self.tuning)
    }

    /// The agent to ask now for the hashes from [`Self::count`] on.
    pub(crate) fn ask(&mut self, now: Moment) -> Option<Teacher> {
        self.learner.ask(now, &self.tuning)
    }

    /// When to call [`Self::ask`] again although nothing happened.
    pub(crate) const fn next_wakeup(&self) -> Option<Moment> {
        self.learner.next_wakeup()
    }
}

#[cfg(test)]
mod tests;
