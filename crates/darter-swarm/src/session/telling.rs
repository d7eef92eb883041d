//! News of pieces and hashes for other agents, and when it is sent.

use std::ops::Range;

use darter_core::{Moment, NodeId, Proof};

use super::Session;
use crate::hashes::{HashAnswer, Reply, Run};
use crate::news::Tellings;
use crate::{Event, Facts, Leader};

impl Session {
    /// When there is news to send, if there is any.
    pub(super) fn news_due(&self) -> Option<Moment> {
        self.news.due().filter(|_| !self.course.tells_later())
    }

    /// Takes the news to send now, but none for the peers that are met now: these are told of all that is held.
    pub(super) fn tell(&mut self, meets: &[NodeId], now: Moment) -> Tellings {
        let is_told = |node: &&NodeId| self.leader() != Leader::Me && !meets.contains(node);
        let neighbours: Vec<NodeId> = self.met.iter().filter(is_told).copied().collect();
        self.news.take(now, &self.picker, &neighbours, self.following())
    }

    /// Takes in the next hashes that the store has learned. Returns true if neighbours are to be told
    /// ([`Hashes::catch_up`](crate::Hashes::catch_up)).
    pub(super) fn catch_up(&mut self, facts: &dyn Facts) -> bool {
        let tells = self.hashes.catch_up(facts);
        self.are_first(tells)
    }

    /// Takes in that the hashes of `run` are in the store, perhaps behind a gap. Returns true if neighbours are to be told.
    pub(super) fn learned(&mut self, run: Range<u32>, facts: &dyn Facts, now: Moment) -> bool {
        let tells = self.catch_up(facts);
        self.picker.handle(Event::ManifestGrew { known: run, total: facts.pieces() }, now);
        tells
    }

    /// The blob's length, or more of its first hashes, has become known.
    pub(super) fn sized(&mut self, facts: &dyn Facts, now: Moment) {
        let (known, total) = (0..facts.prefix(), facts.pieces());
        if let Some(total) = total {
            self.hashes.set_total(total);
            if let Some(books) = &mut self.books {
                books.lead_mut().set_total(total);
            }
        }
        self.picker.handle(Event::ManifestGrew { known, total }, now);
    }

    /// The lead sent hashes ([`Hashes::lead_told`](crate::Hashes::lead_told)).
    pub(super) fn lead_told(&mut self, first: u32, count: u32, word: Option<Proof>, facts: &dyn Facts) {
        let tells = self.hashes.lead_told(first, count, word, facts);
        self.are_first(tells);
    }

    /// A neighbour that was asked has sent hashes ([`Hashes::answered`](crate::Hashes::answered)).
    pub(super) fn answered(&mut self, from: NodeId, answer: HashAnswer, now: Moment) {
        let tells = self.hashes.answered(from, answer, now);
        self.are_first(tells);
    }

    /// A run of hashes was stored ([`Hashes::took_run`](crate::Hashes::took_run)).
    pub(super) fn took_run(&mut self, from: NodeId, run: Run, facts: &dyn Facts) {
        let tells = self.hashes.took_run(from, run, facts);
        self.are_first(tells);
    }

    /// The answer to a peer that asks for the hashes from the one of piece `from` on: a lead's answer if the peer was admitted here, and otherwise
    /// all that can be proven to it if it is a neighbour.
    pub(super) fn asked_for_hashes(&mut self, peer: NodeId, from: u32, facts: &dyn Facts, now: Moment) -> Reply {
        self.catch_up(facts);
        if !self.has_member(peer) && !self.met.contains(&peer) {
            return Reply::default();
        }
        self.hashes.answer(peer, from, self.books.as_deref_mut(), facts, now)
    }

    fn are_first(&mut self, tells: bool) -> bool {
        if tells {
            self.news.first_hashes();
        }
        tells
    }
}
