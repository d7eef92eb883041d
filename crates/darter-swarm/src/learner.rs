//! Which agent a member asks for the hashes that it lacks.
//!
//! In a large swarm the lead does not send the list of hashes by itself (see [`crate::teaching`]): members ask each other, and check the answers
//! by the lead's signature. The asking member knows what it lacks, so nobody has to record what others were sent, and any failure (a neighbour
//! that leaves, an answer that is refused, a change of lead) costs one more question. Most hashes become known in order, so one number says which
//! hashes an agent knows. Beyond this number, a neighbour may hold pieces behind a *gap*, and can send their hashes, too. A member that is asked
//! sends both.
//!
//! Invariants: one question to a neighbour is open at a time, and one to the lead; a neighbour is asked only if it said that it knows
//! more; the lead is asked when no neighbour can answer, or when neighbours have sent nothing for a while, so that a member that follows a lead
//! which knows more learns it in the end, whatever neighbours claim. A neighbour that fails is left alone for longer each time.

use std::collections::BTreeMap;

use darter_core::{Moment, NodeId};

use crate::Tuning;

/// How many failures in a row lengthen the pause, which doubles with each.
const MAX_DOUBLINGS: u32 = 5;

/// The agent to ask for hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Teacher {
    /// A neighbour.
    Neighbour(NodeId),
    /// The lead.
    Lead,
}

/// One member's count of known hashes, and its choice of the agent to ask for more.
#[derive(Debug)]
pub(crate) struct Learner {
    known: u32,
    /// How many hashes there are in all, as far as known.
    total: u32,
    neighbours: BTreeMap<NodeId, Knowledge>,
    /// How many hashes the lead must know, since it gave a piece.
    of_lead: u32,
    /// How many hashes there must be, since neighbours that have not said how many they know hold pieces.
    elsewhere: u32,
    /// True if the lead sends hashes to all members by itself.
    lead_tells: bool,
    /// The neighbour that is asked now, and since when.
    open: Option<(NodeId, Moment)>,
    lead_asked: Option<Moment>,
    proof_asked: Option<Moment>,
    /// Since when hashes are lacking that another agent knows.
    lacks: Option<Moment>,
    /// When to call [`Learner::ask`] again.
    wake: Option<Moment>,
    /// The index of the neighbour to begin with, so that not all members ask the same one.
    turn: usize,
}

#[derive(Debug, Default)]
struct Knowledge {
    knows: u32,
    /// True if the neighbour holds pieces behind a gap whose hashes are not known here, and has not been asked since it
    /// said so.
    gap: bool,
    /// How many hashes were known here when it was asked, if it has not answered yet, in time or not.
    asked: Option<u32>,
    /// True if the neighbour sent hashes behind a gap since it was asked.
    told_run: bool,
    /// How many times in a row it was of no help, and until when it is left alone for that.
    failures: u32,
    again: Moment,
}

impl Learner {
    /// For a member that knows `known` hashes. `turn` chooses the neighbour that it asks first, and differs from member to member.
    pub(crate) const fn new(known: u32, turn: usize) -> Self {
        Self {
            known,
            total: u32::MAX,
            neighbours: BTreeMap::new(),
            of_lead: 0,
            elsewhere: 0,
            lead_tells: true,
            open: None,
            lead_asked: None,
            proof_asked: None,
            lacks: None,
            wake: None,
            turn,
        }
    }

    /// How many hashes there are in all; the largest number while the blob's length is unknown.
    pub(crate) const fn total(&self) -> u32 {
        self.total
    }

    /// There are `total` hashes in all: an agent that claims to know more does not.
    pub(crate) const fn set_total(&mut self, total: u32) {
        self.total = total;
    }

    /// This member knows `known` hashes now, and waits for no answer any more.
    pub(crate) const fn learned(&mut self, known: u32) {
        if known > self.known {
            self.known = known;
            (self.open, self.lead_asked, self.lacks) = (None, None, None);
        }
    }

    /// `neighbour` knows `knows` hashes. True if it has just overtaken this member.
    pub(crate) fn showed(&mut self, neighbour: NodeId, knows: u32) -> bool {
        let entry = self.neighbours.entry(neighbour).or_default();
        let before = entry.knows;
        entry.knows = before.max(knows);
        before <= self.known && self.known < knows
    }

    /// `neighbour` holds pieces behind a gap that are wanted here and whose hashes are not known. Returns true if that is
    /// new.
    pub(crate) fn showed_gap(&mut self, neighbour: NodeId) -> bool {
        let entry = self.neighbours.entry(neighbour).or_default();
        !std::mem::replace(&mut entry.gap, true)
    }

    /// `neighbour`, which was asked, sent hashes behind a gap.
    pub(crate) fn told_run(&mut self, neighbour: NodeId) {
        if let Some(entry) = self.neighbours.get_mut(&neighbour) {
            entry.told_run = true;
        }
    }

    /// A neighbour that has not said how many hashes it knows holds pieces that need `knows` hashes. Returns true if this is the first
    /// reason to look for a neighbour that knows more.
    pub(crate) fn showed_pieces(&mut self, knows: u32) -> bool {
        let before = self.elsewhere;
        self.elsewhere = before.max(knows);
        before <= self.known && self.known < knows
    }

    /// The lead knows at least `knows` hashes, since it sent a piece: perhaps more than when it was last asked.
    pub(crate) fn lead_showed(&mut self, knows: u32) {
        if knows > self.of_lead {
            self.of_lead = knows;
            self.lead_asked.take_if(|_| knows > self.known);
        }
    }

    /// The lead answered that it knows only the first `end` hashes in order: a piece that it sent before lies behind a gap.
    pub(crate) fn lead_answered(&mut self, end: u32) {
        if self.lead_asked.is_some() && end <= self.known {
            (self.of_lead, self.elsewhere) = (0, 0);
        }
    }

    /// The lead changed: what the former lead knew, and answers with its signature, no longer count.
    pub(crate) fn lead_changed(&mut self) {
        self.of_lead = 0;
        self.lead_tells = true;
        (self.open, self.lead_asked, self.proof_asked, self.lacks) = (None, None, None, None);
        for neighbour in self.neighbours.values_mut() {
            *neighbour = Knowledge { knows: neighbour.knows, gap: neighbour.gap, ..Knowledge::default() };
        }
    }

    /// The lead says whether members have to ask each other, or are sent hashes by the lead.
    pub(crate) const fn members_ask(&mut self, ask: bool) {
        self.lead_tells = !ask;
    }

    /// True if members ask each other for hashes.
    pub(crate) const fn do_members_ask(&self) -> bool {
        !self.lead_tells
    }

    /// `neighbour` left.
    pub(crate) fn left(&mut self, neighbour: NodeId) {
        self.neighbours.remove(&neighbour);
        self.open.take_if(|(whom, _)| *whom == neighbour);
    }

    /// True if `neighbour` was asked and has not answered: nothing is accepted from any other. A late answer counts like one in time.
    pub(crate) fn was_asked(&self, neighbour: NodeId) -> bool {
        self.neighbours.get(&neighbour).is_some_and(|entry| entry.asked.is_some())
    }

    /// `neighbour`, which was asked, has answered. A useless answer counts as a failure, and so does one with only hashes that were known when it was asked.
    pub(crate) fn answered(&mut self, neighbour: NodeId, is_useful: bool, now: Moment, tuning: &Tuning) {
        let Some(entry) = self.neighbours.get_mut(&neighbour) else { return };
        let before = entry.asked.take();
        let told_run = std::mem::take(&mut entry.told_run);
        entry.gap = false;
        if is_useful && (told_run || before.is_some_and(|before| before < self.known)) {
            (entry.failures, entry.again) = (0, Moment::ZERO);
        } else {
            self.leave_alone(neighbour, now, tuning);
        }
        self.open.take_if(|(whom, _)| *whom == neighbour);
    }

    fn leave_alone(&mut self, neighbour: NodeId, now: Moment, tuning: &Tuning) {
        if let Some(entry) = self.neighbours.get_mut(&neighbour) {
            entry.again = now + tuning.hash_patience_with_lead * (1 << entry.failures.min(MAX_DOUBLINGS));
            entry.failures += 1;
        }
    }

    /// The agent to ask now for the hashes behind the known ones, if any are lacking and no agent is asked. If the lead sends hashes to all members
    /// by itself, they are waited for a while.
    pub(crate) fn ask(&mut self, now: Moment, tuning: &Tuning) -> Option<Teacher> {
        self.wake = None;
        if let Some((silent, since)) = self.open {
            if now < since + tuning.hash_patience {
                self.wake = Some(since + tuning.hash_patience);
                return None;
            }
            self.open = None;
            self.leave_alone(silent, now, tuning);
        }
        let (known, total) = (self.known, self.total);
        let lacked = |knows: u32| knows.min(total) > known;
        let is_told_of = self.neighbours.values().any(|neighbour| lacked(neighbour.knows) || neighbour.gap);
        let is_urgent = is_told_of || lacked(self.of_lead);
        if !is_urgent && !lacked(self.elsewhere) {
            self.lacks = None;
            return None;
        }
        let since = *self.lacks.get_or_insert(now);
        let due = since + tuning.hash_patience;
        if (self.lead_tells || !is_urgent) && now < due {
            self.wake = Some(due);
            return None;
        }
        // If the lead sends hashes to all members, no neighbour has its signature.
        let is_late = since + tuning.hash_patience_with_lead <= now;
        let may_ask_lead = self.lead_asked.is_none_or(|at| at + tuning.hash_patience_with_lead <= now);
        let able = if self.lead_tells || is_late && may_ask_lead { None } else { self.able(now) };
        let whom = able.map_or(Teacher::Lead, Teacher::Neighbour);
        match whom {
            Teacher::Neighbour(node) => {
                self.open = Some((node, now));
                self.wake = Some(now + tuning.hash_patience);
                self.neighbours.entry(node).or_default().asked = Some(self.known);
            }
            Teacher::Lead => {
                let asked = self.lead_asked.filter(|_| !may_ask_lead).unwrap_or(now);
                self.lead_asked = Some(asked);
                let answers = asked + tuning.hash_patience_with_lead;
                let again = self.next_able(now).filter(|_| !self.lead_tells);
                self.wake = Some(again.map_or(answers, |again| again.min(answers)));
                if !may_ask_lead {
                    return None;
                }
            }
        }
        Some(whom)
    }

    /// The neighbour to ask next, of those that know more.
    fn able(&mut self, now: Moment) -> Option<NodeId> {
        let (known, total) = (self.known, self.total);
        let able = |(_, it): &(&NodeId, &Knowledge)| (it.knows.min(total) > known || it.gap) && it.again <= now;
        let count = self.neighbours.iter().filter(able).count();
        self.turn = self.turn.wrapping_add(1);
        let nth = self.turn.checked_rem(count)?;
        self.neighbours.iter().filter(able).nth(nth).map(|(node, _)| *node)
    }

    /// When the first of the neighbours that know more, and are left alone now, may be asked again.
    fn next_able(&self, now: Moment) -> Option<Moment> {
        let (known, total) = (self.known, self.total);
        let more = self.neighbours.values().filter(|it| it.knows.min(total) > known || it.gap);
        more.map(|it| it.again).filter(|again| *again > now).min()
    }

    /// When to call [`Learner::ask`] again although nothing happened.
    pub(crate) const fn next_wakeup(&self) -> Option<Moment> {
        self.wake
    }

    /// True if the lead is to be asked for its proof of the hashes known here, since others ask for those from the one of piece `from` on, which
    /// can't be proven to them.
    pub(crate) fn needs_proof(&mut self, from: u32, now: Moment, tuning: &Tuning) -> bool {
        let may_ask = self.proof_asked.is_none_or(|at| at + tuning.hash_patience <= now);
        let needs = self.known > from && may_ask;
        if needs {
            self.proof_asked = Some(now);
        }
        needs
    }
}

#[cfg(test)]
mod tests;
