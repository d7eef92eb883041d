//! Whom a member asks for the hashes that it lacks.
//!
//! In a large swarm the lead tells nobody the list of hashes by itself (see [`crate::teaching`]): members ask each other, and check the
//! answers by the lead's signature. Who asks knows best what it lacks, so nobody keeps books of what others were told, and whatever goes
//! wrong (a neighbour that leaves, an answer that is refused, another lead) ends with one more question. Most hashes become known in
//! order, so a number says what somebody knows; and a neighbour that holds pieces behind a *gap*, whose hashes are not known here, can
//! tell these. Whoever is asked tells both.
//!
//! Invariants: one question to a neighbour is open at a time, and one to the lead; no neighbour is asked that did not say that it knows
//! more; the lead is asked when no neighbour can tell, or when they have told nothing for a while, and so whoever follows a lead that knows
//! more learns it in the end, whatever neighbours claim. A neighbour that fails is left alone for longer each time.

use std::collections::BTreeMap;

use darter_core::{Moment, NodeId};

use crate::Tuning;

/// How many failures in a row make the pause longer, each twice as long as the last.
const MAX_DOUBLINGS: u32 = 5;

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teacher {
    /// A neighbour.
    Neighbour(NodeId),
    /// Whoever leads.
    Lead,
}

/// What one member knows, and whom it asks for more.
#[derive(Debug)]
pub struct Learner {
    known: u32,
    /// How many hashes there are in all, as far as is known.
    total: u32,
    neighbours: BTreeMap<NodeId, Neighbour>,
    /// How many the lead must know, since it gave a piece.
    of_lead: u32,
    /// How many there must be, since neighbours that tell of no hashes hold pieces.
    elsewhere: u32,
    /// Whether the lead tells everybody by itself.
    lead_tells: bool,
    /// Which neighbour is asked now, and since when.
    open: Option<(NodeId, Moment)>,
    lead_asked: Option<Moment>,
    proof_asked: Option<Moment>,
    /// Since when something is lacked that somebody knows.
    lacks: Option<Moment>,
    /// When to look again.
    wake: Option<Moment>,
    /// Where to begin among the neighbours, so that not all ask the first.
    turn: usize,
}

#[derive(Debug, Default)]
struct Neighbour {
    knows: u32,
    /// Whether it holds pieces behind a gap whose hashes are not known here, and has not been asked since it said so.
    gap: bool,
    /// How many were known when it was asked, if it has not answered yet, in time or not.
    asked: Option<u32>,
    /// Whether it told hashes behind a gap since it was asked.
    told_run: bool,
    /// How often in a row it was of no help, and until when it is left alone for that.
    failures: u32,
    again: Moment,
}

impl Learner {
    /// A member that knows `known` hashes. `turn` chooses the neighbour that it asks first, and differs from member to member.
    pub const fn new(known: u32, turn: usize) -> Self {
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

    /// How many hashes are known.
    pub const fn known(&self) -> u32 {
        self.known
    }

    /// How many there are in all: who claims to know more does not.
    pub const fn set_total(&mut self, total: u32) {
        self.total = total;
    }

    /// This member knows `known` hashes now. It waits for nobody any more.
    pub const fn learned(&mut self, known: u32) {
        if known > self.known {
            self.known = known;
            (self.open, self.lead_asked, self.lacks) = (None, None, None);
        }
    }

    /// `neighbour` knows `knows` hashes. True if it has just overtaken this member.
    pub fn showed(&mut self, neighbour: NodeId, knows: u32) -> bool {
        let entry = self.neighbours.entry(neighbour).or_default();
        let before = entry.knows;
        entry.knows = before.max(knows);
        before <= self.known && self.known < knows
    }

    /// A neighbour holds pieces that are wanted here, behind a gap, whose hashes are not known. Whether that is news.
    pub fn showed_gap(&mut self, neighbour: NodeId) -> bool {
        let entry = self.neighbours.entry(neighbour).or_default();
        !std::mem::replace(&mut entry.gap, true)
    }

    /// A neighbour that was asked told hashes behind a gap.
    pub fn told_run(&mut self, neighbour: NodeId) {
        if let Some(entry) = self.neighbours.get_mut(&neighbour) {
            entry.told_run = true;
        }
    }

    /// A neighbour that tells of no hashes holds pieces that need `knows` hashes.
    /// Whether this is reason enough, for the first time, to look for somebody who does.
    pub fn showed_pieces(&mut self, knows: u32) -> bool {
        let before = self.elsewhere;
        self.elsewhere = before.max(knows);
        before <= self.known && self.known < knows
    }

    /// The lead sent a piece, and so knows at least `knows` hashes: more than when it was asked last, perhaps.
    pub fn lead_showed(&mut self, knows: u32) {
        if knows > self.of_lead {
            self.of_lead = knows;
            self.lead_asked.take_if(|_| knows > self.known);
        }
    }

    /// The lead answered that it knows the first `end` hashes, and no more of them in order: what it showed before lies behind a gap.
    pub fn lead_answered(&mut self, end: u32) {
        if self.lead_asked.is_some() && end <= self.known {
            (self.of_lead, self.elsewhere) = (0, 0);
        }
    }

    /// Another lead: what the last one knew, and answers that it signed, are nothing now.
    pub fn lead_changed(&mut self) {
        self.of_lead = 0;
        self.lead_tells = true;
        (self.open, self.lead_asked, self.proof_asked, self.lacks) = (None, None, None, None);
        for neighbour in self.neighbours.values_mut() {
            *neighbour = Neighbour { knows: neighbour.knows, gap: neighbour.gap, ..Neighbour::default() };
        }
    }

    /// The lead says whether members have to ask each other, or are told by it.
    pub const fn members_ask(&mut self, ask: bool) {
        self.lead_tells = !ask;
    }

    /// Whether members ask each other here.
    pub const fn do_members_ask(&self) -> bool {
        !self.lead_tells
    }

    /// A neighbour left.
    pub fn left(&mut self, neighbour: NodeId) {
        self.neighbours.remove(&neighbour);
        self.open.take_if(|(whom, _)| *whom == neighbour);
    }

    /// Whether this neighbour was asked and has not answered: nothing is taken from anybody else. Late answers are as good as others.
    pub fn was_asked(&self, neighbour: NodeId) -> bool {
        self.neighbours.get(&neighbour).is_some_and(|entry| entry.asked.is_some())
    }

    /// Who was asked has answered. Something useless is held against it, and so is what was known when it was asked.
    pub fn answered(&mut self, neighbour: NodeId, is_useful: bool, now: Moment, tuning: &Tuning) {
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

    /// Whom to ask now for what comes behind the known ones, if anything is lacked and nobody is asked. Where the lead tells everybody
    /// by itself, what it tells is waited for a while.
    pub fn ask(&mut self, now: Moment, tuning: &Tuning) -> Option<Teacher> {
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
        // Where the lead tells everybody nobody else has its signature.
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
                self.wake = Some(asked + tuning.hash_patience_with_lead);
                if !may_ask_lead {
                    return None;
                }
            }
        }
        Some(whom)
    }

    /// The neighbour whose turn it is to be asked, of those that know more.
    fn able(&mut self, now: Moment) -> Option<NodeId> {
        let (known, total) = (self.known, self.total);
        let able = |(_, it): &(&NodeId, &Neighbour)| (it.knows.min(total) > known || it.gap) && it.again <= now;
        let count = self.neighbours.iter().filter(able).count();
        self.turn = self.turn.wrapping_add(1);
        let nth = self.turn.checked_rem(count)?;
        self.neighbours.iter().filter(able).nth(nth).map(|(node, _)| *node)
    }

    /// When [`Learner::ask`] may say something new though nothing happens.
    pub const fn next_wakeup(&self) -> Option<Moment> {
        self.wake
    }

    /// Whether the lead is to be asked for its word on what is known here, since others ask from `from` on for what can't be proven to them.
    pub fn needs_proof(&mut self, from: u32, now: Moment, tuning: &Tuning) -> bool {
        let may_ask = self.proof_asked.is_none_or(|at| at + tuning.hash_patience <= now);
        let needs = self.known > from && may_ask;
        if needs {
            self.proof_asked = Some(now);
        }
        needs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: u8) -> NodeId {
        NodeId([name; 16])
    }

    fn at(millis: u64) -> Moment {
        Moment::from_micros(millis * 1000)
    }

    /// One that knows nothing, where members ask each other.
    fn learner() -> (Learner, Tuning) {
        let mut learner = Learner::new(0, 0);
        learner.members_ask(true);
        (learner, Tuning::default())
    }

    #[test]
    fn who_shows_that_it_knows_more_is_asked_and_one_at_a_time() {
        let (mut learner, tuning) = learner();
        assert!(!learner.showed(node(1), 0));
        assert_eq!(learner.ask(at(0), &tuning), None, "nobody knows anything");
        assert!(learner.showed(node(2), 3));
        assert_eq!(learner.ask(at(0), &tuning), Some(Teacher::Neighbour(node(2))));
        assert!(learner.showed(node(1), 5) && !learner.showed(node(1), 6), "that one knows more is news once");
        assert_eq!(learner.ask(at(1), &tuning), None, "a question is open");
        assert!(learner.was_asked(node(2)) && !learner.was_asked(node(1)));
        learner.learned(3);
        learner.answered(node(2), true, at(2), &tuning);
        assert_eq!(learner.ask(at(2), &tuning), Some(Teacher::Neighbour(node(1))));
        learner.learned(6);
        assert_eq!(learner.ask(at(3), &tuning), None);
    }

    #[test]
    fn a_neighbour_that_holds_pieces_behind_a_gap_is_asked_once_until_it_holds_more() {
        let (mut learner, tuning) = learner();
        assert!(learner.showed_gap(node(1)) && !learner.showed_gap(node(1)));
        assert_eq!(learner.ask(at(0), &tuning), Some(Teacher::Neighbour(node(1))));
        learner.told_run(node(1));
        learner.answered(node(1), true, at(1), &tuning);
        assert_eq!(learner.ask(at(1), &tuning), None, "it told all that it can");
        assert!(learner.showed_gap(node(1)));
        assert_eq!(learner.ask(at(2), &tuning), Some(Teacher::Neighbour(node(1))), "it was of use");
        learner.answered(node(1), true, at(3), &tuning);
        learner.showed_gap(node(1));
        assert_eq!(learner.ask(at(4), &tuning), Some(Teacher::Lead), "it told nothing: the lead can");
    }

    #[test]
    fn a_lead_that_reads_behind_a_gap_is_not_asked_again_for_what_lies_before_it() {
        let (mut learner, tuning) = learner();
        learner.lead_showed(900);
        assert_eq!(learner.ask(at(0), &tuning), Some(Teacher::Lead));
        learner.lead_answered(0);
        assert_eq!(learner.ask(at(60_000), &tuning), None, "it has read nothing before piece 899");
        learner.lead_showed(901);
        assert_eq!(learner.ask(at(60_000), &tuning), Some(Teacher::Lead));
    }

    #[test]
    fn who_fails_or_is_silent_or_leaves_is_followed_by_others_and_at_last_the_lead() {
        let (mut learner, tuning) = learner();
        for name in 1..=3 {
            learner.showed(node(name), 4);
        }
        let mut asked = Vec::new();
        let mut now = at(0);
        for attempt in 0..3 {
            let Some(Teacher::Neighbour(one)) = learner.ask(now, &tuning) else { panic!("there are neighbours left") };
            asked.push(one);
            match attempt {
                0 => now = learner.next_wakeup().unwrap(),
                1 => learner.answered(one, false, now, &tuning),
                _ => learner.left(one),
            }
        }
        assert!(learner.was_asked(asked[0]), "a late answer is as good as any");
        asked.sort_unstable();
        assert_eq!(asked, [1, 2, 3].map(node), "each once");
        assert_eq!(learner.ask(now, &tuning), Some(Teacher::Lead));
        assert_eq!(learner.ask(now, &tuning), None, "it was asked just now");
        learner.showed(node(9), 4);
        assert_eq!(learner.ask(now, &tuning), Some(Teacher::Neighbour(node(9))), "a slow lead hinders nobody");
        learner.left(node(9));
        let later = now + tuning.hash_patience_with_lead;
        learner.ask(now, &tuning);
        assert_eq!(learner.next_wakeup(), Some(later));
    }

    #[test]
    fn whoever_claims_more_than_it_can_tell_is_asked_ever_more_seldom_and_the_lead_as_often_as_before() {
        let (mut learner, tuning) = learner();
        let (mut liar_asked, mut lead_asked) = (0, 0);
        let mut now = at(0);
        let end = at(60_000);
        while now < end {
            learner.showed(node(1), u32::MAX);
            match learner.ask(now, &tuning) {
                Some(Teacher::Neighbour(_)) => liar_asked += 1,
                Some(Teacher::Lead) => lead_asked += 1,
                None => now = learner.next_wakeup().unwrap(),
            }
        }
        assert!(liar_asked <= 6, "{liar_asked}");
        assert!((20..=30).contains(&lead_asked), "{lead_asked}");
        learner.set_total(0);
        assert_eq!(learner.ask(now, &tuning), None, "there are no more");
    }

    #[test]
    fn the_lead_is_asked_in_time_though_neighbours_come_and_go_and_answer_with_nothing() {
        let (mut learner, tuning) = learner();
        let mut now = at(0);
        let mut lead_asked = 0;
        for _ in 0..1000 {
            learner.showed(node(1), u32::MAX);
            match learner.ask(now, &tuning) {
                // It leaves with what is held against it, and comes again.
                Some(Teacher::Neighbour(liar)) => {
                    learner.answered(liar, true, now, &tuning);
                    learner.left(liar);
                }
                Some(Teacher::Lead) => lead_asked += 1,
                None => {}
            }
            now = now + std::time::Duration::from_millis(10);
        }
        assert!((4..=5).contains(&lead_asked), "once in two of ten seconds, not {lead_asked} times");
        learner.lead_showed(1);
        learner.left(node(1));
        assert_eq!(learner.ask(now, &tuning), Some(Teacher::Lead), "it is sending a piece, and so knows more");
    }

    #[test]
    fn where_the_lead_tells_everybody_it_is_waited_for_and_then_asked() {
        let (mut learner, tuning) = (Learner::new(0, 0), Tuning::default());
        learner.showed(node(1), 2);
        assert_eq!(learner.ask(at(5), &tuning), None);
        assert_eq!(learner.next_wakeup(), Some(at(5) + tuning.hash_patience));
        learner.learned(2);
        assert_eq!(learner.ask(at(6), &tuning), None);
        assert_eq!(learner.next_wakeup(), None, "it told");
        learner.showed(node(1), 3);
        assert_eq!(learner.ask(at(1000), &tuning), None, "the wait begins anew");
        assert_eq!(learner.ask(at(1000) + tuning.hash_patience, &tuning), Some(Teacher::Lead));
    }

    #[test]
    fn a_piece_of_the_leads_whose_hash_is_lacked_is_reason_enough() {
        let (mut learner, tuning) = learner();
        learner.lead_showed(7);
        assert_eq!(learner.ask(at(0), &tuning), Some(Teacher::Lead));
        learner.lead_changed();
        assert_eq!(learner.ask(at(0), &tuning), None);
    }

    #[test]
    fn pieces_of_neighbours_that_tell_no_hashes_are_reason_enough_after_a_while() {
        let (mut learner, tuning) = learner();
        learner.showed_pieces(7);
        assert_eq!(learner.ask(at(0), &tuning), None, "others may tell soon");
        assert_eq!(learner.ask(learner.next_wakeup().unwrap(), &tuning), Some(Teacher::Lead));
    }
}
