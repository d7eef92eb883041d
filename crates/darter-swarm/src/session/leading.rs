//! The members that were admitted here: they come, go, and say which pieces they hold and miss. [`Books`] keeps this.

use darter_core::{Moment, NodeId, PieceIndex, PieceSet, Place};

use super::{Desk, Output, Rejection, Session};
use crate::{Books, Entering, Facts, Opening, Phase, Speech, Start};

impl Session {
    /// True if an agent was admitted here, or this agent leads.
    pub fn has_books(&self) -> bool {
        self.books.is_some()
    }

    /// The members that were admitted here, and how many pieces each holds.
    pub fn member_holdings(&self) -> impl Iterator<Item = (NodeId, u32)> + '_ {
        self.books.iter().flat_map(|books| books.holdings())
    }

    /// Bytes of memory that the tables of members and pieces take.
    pub fn lead_memory(&self) -> usize {
        self.books.as_ref().map_or(0, |books| books.lead().memory())
    }

    /// True if `node` was admitted here, or is about to be, and has not left.
    pub fn has_member(&self, node: NodeId) -> bool {
        self.books.as_ref().is_some_and(|books| books.has(node))
    }

    /// This agent leads from now on, with books that are opened if they are not open yet.
    pub(super) fn begins_to_lead(&mut self, start: Start, desk: Desk, facts: &dyn Facts, now: Moment) {
        self.leads(now);
        self.open_books(start, desk, facts, now);
        if facts.is_headed_last() {
            // To get any part, all of it has to be read.
            self.gives_no_parts();
        }
        if let Some(books) = self.books.as_mut().filter(|_| start == Start::Fresh) {
            // If a member was admitted a moment before, the books were opened as if somebody else had led. An answer of the origin that is
            // open by now would be dropped, and requested again.
            books.lead_mut().settle();
        }
    }

    /// Opens the books, also if this agent follows another lead. Returns false if they are open already.
    pub(super) fn open_books(&mut self, start: Start, desk: Desk, facts: &dyn Facts, now: Moment) -> bool {
        let Desk { place, seed, signer } = desk;
        if self.books.is_some() {
            return false;
        }
        let opening = Opening {
            me: self.me,
            place,
            start,
            held: self.picker.held(),
            everything: self.wants.are_all(),
            wishes: &self.wants.wishes(),
            dropped: self.picker.dropped().collect(),
            has_verdict: self.verdict.is_some(),
            seed,
            signer,
            tuning: self.tuning,
        };
        let mut books = Books::open(opening, facts, now);
        if start == Start::TakeOver {
            // A neighbour that comes late or never to this lead holds its pieces all the same.
            for (neighbour, held) in self.picker.held_by_neighbours() {
                if let Some(place) = facts.place(neighbour) {
                    books.count_in(neighbour, place, held);
                }
            }
        }
        self.books = Some(Box::new(books));
        true
    }

    /// Admits a node at `place` that holds the pieces `held`, and `wants` the others or not.
    pub(super) fn enters(&mut self, entering: Entering, place: Place, held: &PieceSet, wants: bool) {
        let Entering { node, request, .. } = entering;
        let why = match self.course.phase() {
            Phase::Failed | Phase::Dissolving => Some(Rejection::Ended),
            // An agent that holds all of it has nothing to wait for.
            Phase::Complete => None,
            _ => (!self.leadership.may_admit(node)).then_some(Rejection::Follows),
        };
        match (why, &mut self.books) {
            (Some(why), _) => self.outputs.push(Output::Reject { node, request, why }),
            (None, Some(books)) => books.admit(entering, place, held, wants),
            (None, None) => {}
        }
    }

    /// Counts a node as a member that holds the pieces `held` and asks for none; the node need not know of this.
    pub(super) fn count_in(&mut self, node: NodeId, place: Place, held: &PieceSet) {
        if let Some(books) = &mut self.books {
            books.count_in(node, place, held);
        }
    }

    /// A member left or was lost.
    pub(super) fn left(&mut self, node: NodeId) {
        self.hashes.left(node);
        if let Some(books) = &mut self.books {
            books.left(node);
        }
    }

    /// A member holds more pieces.
    pub(super) fn member_has(&mut self, node: NodeId, pieces: &[PieceIndex], now: Moment) {
        if let Some(books) = &mut self.books {
            books.lead_mut().have(node, pieces, now);
        }
    }

    /// A member was sent a wrong piece by another. Returns true if the suspect is put aside.
    pub(super) fn member_reports(&mut self, reporter: NodeId, suspect: NodeId) -> bool {
        self.books.as_mut().is_some_and(|books| books.lead_mut().report(reporter, suspect))
    }

    /// A member can't reach another.
    pub(super) fn member_misses(&mut self, member: NodeId, other: NodeId) {
        if let Some(books) = self.books.as_mut().filter(|books| books.has(member)) {
            books.lead_mut().separate(member, other);
        }
    }

    /// A holder failed this agent: if it leads, it does not rely on that holder alone for any piece.
    pub(super) fn doubts(&mut self, holder: NodeId) {
        if let Some(books) = &mut self.books {
            books.lead_mut().doubt(holder);
        }
    }

    /// How many agents are in the swarm, as far as known here.
    pub fn members(&self) -> usize {
        self.books.as_ref().map_or(self.met.len(), |books| books.member_count())
    }

    /// True if this agent counts the piece as here.
    pub fn holds(&self, piece: PieceIndex) -> bool {
        self.picker.held().contains(piece)
    }

    /// True if other agents were admitted here.
    pub fn leads_others(&self) -> bool {
        self.books.as_ref().is_some_and(|books| books.member_count() > 1)
    }

    /// True if a member still wants pieces.
    pub fn is_wanted_by_members(&self) -> bool {
        self.books.as_ref().is_some_and(|books| books.lead().is_wanted())
    }

    /// The messages to send now to members that were admitted here. Changes of this agent's own neighbours have been applied by then.
    pub(super) fn speak(&mut self, facts: &dyn Facts, now: Moment) -> Speech {
        let Some(books) = &mut self.books else { return Speech::default() };
        let speech = books.speak(facts, self.hashes.chain(), self.verdict.as_ref(), now);
        if let Some(own) = &speech.own {
            self.noticed(own, now);
        }
        speech
    }
}
