//! What one node knows of the blob's hashes, and for how many of them it has the lead's word: the agent's rules (`transfer/hashes.rs` in
//! `darter-node`) with numbers in place of hashes. Decisions without events.
//!
//! Invariant: `proven` is no more than what is known, and by the lead that is followed now.

use darter_core::Moment;
use darter_swarm::{Learner, Teacher, Tuning};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Knowledge {
    /// How many are known, and whom to ask for more.
    pub(crate) learner: Learner,
    /// How many hashes can be proven to others.
    proven: u32,
}

impl Knowledge {
    /// Nothing known yet. The number differs from node to node, see [`Learner::new`].
    pub(crate) fn new(turn: usize) -> Self {
        Self { learner: Learner::new(0, turn), proven: 0 }
    }

    /// How many hashes are known.
    pub(crate) const fn known(&self) -> u32 {
        self.learner.known()
    }

    /// So many are known now. Whether neighbours are to hear of it: these are the first, and members ask each other.
    pub(crate) fn learned(&mut self, known: u32) -> bool {
        let are_first = self.known() == 0 && known > 0;
        self.learner.learned(known);
        are_first && self.learner.do_members_ask()
    }

    /// Another lead, or none.
    pub(crate) fn lead_changed(&mut self) {
        self.proven = 0;
        self.learner.lead_changed();
    }

    /// There is the lead's word for just so many; it is of use to who knows as many.
    pub(crate) fn vouched(&mut self, count: u32) {
        if self.known() == count {
            self.proven = count;
        }
    }

    /// How far hashes from `first` on can be told to who asks, with proof; `first` if none can.
    pub(crate) fn answer(&self, first: u32) -> u32 {
        self.proven.max(first)
    }

    /// Whether to ask the lead for a proof, since others ask for what can't be proven here.
    pub(crate) fn needs_proof(&mut self, first: u32, now: Moment, tuning: &Tuning) -> bool {
        self.proven <= first && self.learner.needs_proof(first, now, tuning)
    }

    /// Whom to ask now for the hashes behind the known ones.
    pub(crate) fn ask(&mut self, now: Moment, tuning: &Tuning) -> Option<Teacher> {
        self.learner.ask(now, tuning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_present_lead_vouched_for_is_told_to_others() {
        let (mut knowledge, tuning) = (Knowledge::new(0), Tuning::default());
        assert!(!knowledge.learned(4), "the lead tells the others, too");
        knowledge.learner.members_ask(true);
        knowledge.vouched(6);
        assert_eq!(knowledge.answer(0), 0, "its word for six is none for four");
        knowledge.learned(6);
        knowledge.vouched(6);
        assert_eq!((knowledge.answer(2), knowledge.answer(7)), (6, 7));
        knowledge.lead_changed();
        assert_eq!(knowledge.answer(2), 2);
        let at = Moment::from_micros(1);
        assert!(knowledge.needs_proof(2, at, &tuning));
        assert!(!knowledge.needs_proof(2, at, &tuning), "it was asked just now");
        assert!(!knowledge.needs_proof(6, at + tuning.hash_patience, &tuning), "there is nothing to prove");
    }
}
