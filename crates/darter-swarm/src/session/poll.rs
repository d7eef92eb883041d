//! The outputs that are due now, and when to poll again.

use darter_core::{BlobId, Moment, NodeId};
use darter_protocol::{Message, Wanted};

use super::hearing::PendingRequest;
use super::{Output, Session};
use crate::hashes::Reply;
use crate::{Action, Checkable, Facts, Leader, Loss, Phase, PieceNews, RequestId, Teacher};

impl Session {
    /// True if pieces that are wanted are lacking.
    pub fn is_fetching(&self) -> bool {
        self.course.is_fetching() && !self.is_at_rest()
    }

    /// Puts out what is due now.
    pub(super) fn put_out(&mut self, facts: &dyn Facts, now: Moment, outputs: &mut Vec<Output>) {
        let blob = facts.blob();
        self.news.hurries(!self.wants.are_all());
        let requests = self.poll_picker(facts, now);
        outputs.append(&mut self.outputs);
        self.catch_up(facts);
        self.poll_rest(facts, now, outputs);
        self.poll_books(facts, now, outputs);
        if let Leader::Node(lead) = self.leader()
            && self.course.is_open()
            && let Some(message) = self.tell_wants(blob)
        {
            outputs.push(Output::Say { to: vec![lead], message });
        }
        let checks = self.begins_check(facts, now);
        self.poll_news(facts, now, outputs);
        if let Some(teacher) = self.teacher(now) {
            let message = Message::AskHashes { blob, from: self.hashes.count() };
            outputs.push(Output::Say { to: vec![teacher], message });
        }
        self.answer_questions(facts, now, outputs);
        outputs.extend(requests);
        self.poll_search(facts, outputs);
        if checks {
            outputs.push(Output::Check);
        }
    }

    /// When to call [`Session::poll`] again although nothing happens.
    pub fn next_wakeup(&self, now: Moment) -> Option<Moment> {
        let picker = self.picker.next_wakeup().filter(|_| self.course.asks());
        let books = self.books.as_ref().and_then(|books| books.next_wakeup(now));
        let may_ask = self.course.is_fetching() && self.following().is_some();
        let hashes = self.hashes.next_wakeup().filter(|_| may_ask);
        [picker, books, self.news_due(), hashes, self.course.due(), self.rest_due()].into_iter().flatten().min()
    }

    /// Open requests, each with the peer that was asked.
    pub fn asked(&self) -> impl Iterator<Item = (RequestId, NodeId)> + '_ {
        self.asked.iter().map(|(request, asked)| (*request, asked.of))
    }

    fn poll_picker(&mut self, facts: &dyn Facts, now: Moment) -> Vec<Output> {
        if !self.is_fetching() {
            // A holder would keep the requests for ever otherwise.
            return self.withdraw();
        }
        self.picker.share(facts.fetched(), now, |node| facts.standing(*node));
        // In a large swarm most of its neighbours meet this agent by themselves, and the lead names it only a few.
        let least = if self.hashes.do_members_ask() { self.tuning.neighbours as usize } else { 0 };
        self.picker.expect((self.met.len() + self.to_meet.len()).max(least));
        let gives_parts = !self.wants.are_all() && self.following().is_some_and(|lead| facts.gives_parts(lead));
        self.picker.lead_gives_parts(gives_parts);
        self.read_for_members(now);
        let mut actions = Vec::new();
        if self.course.asks() {
            self.picker.poll(now, &mut actions);
        }
        let blob = facts.blob();
        let outputs: Vec<_> = actions.into_iter().map(|action| self.act(action, blob)).collect();
        for output in &outputs {
            if let Output::Accused { peer, led: true, .. } = output {
                self.loses(*peer, Loss::Failed, "it sent wrong pieces".to_owned(), facts, now);
            }
        }
        outputs
    }

    fn act(&mut self, action: Action, blob: BlobId) -> Output {
        match action {
            Action::Request { id, peer, piece, urgent } => self.ask(id, peer, Wanted::Piece(piece), urgent),
            Action::Ask { id, lead } => self.ask(id, lead, Wanted::Any, false),
            Action::Cancel { id, peer } => {
                self.asked.remove(&id);
                Output::Withdraw { request: id, of: peer }
            }
            Action::Doubt { peer } => {
                self.doubts(peer);
                Output::Doubted(peer)
            }
            Action::Report { peer, piece } => {
                let lead = self.accuse(peer);
                if let Some(lead) = lead.filter(|lead| *lead != peer) {
                    self.say(lead, Message::Report { blob, peer, piece });
                }
                Output::Accused { peer, piece, led: lead == Some(peer) }
            }
        }
    }

    fn ask(&mut self, request: RequestId, of: NodeId, wanted: Wanted, urgent: bool) -> Output {
        self.asked.insert(request, PendingRequest::new(of, wanted));
        Output::Ask { request, of, wanted, urgent }
    }

    fn poll_books(&mut self, facts: &dyn Facts, now: Moment, outputs: &mut Vec<Output>) {
        let Some(books) = &mut self.books else { return };
        if books.may_give_more(now) {
            outputs.push(Output::Give);
        }
        if self.course.phase() == Phase::Failed {
            return self.reject_waiting(outputs);
        }
        let speech = self.speak(facts, now);
        for (to, message) in speech.messages {
            let is_let_in = matches!(message, Message::Joined { .. });
            outputs.push(Output::Say { to: vec![to], message });
            if is_let_in && let Some(message) = self.tells_order(facts.blob()) {
                outputs.push(Output::Say { to: vec![to], message });
            }
        }
    }

    fn poll_news(&mut self, facts: &dyn Facts, now: Moment, outputs: &mut Vec<Output>) {
        if self.course.tells_later() {
            return;
        }
        let (blob, known) = (facts.blob(), self.hashes.shown());
        self.meet_anew();
        let meets = self.meet(|node| facts.is_connected(node));
        if !meets.is_empty() {
            // A member that wants parts says so: others do not count on it for the rest.
            let wants = self.course.phase() != Phase::Complete && self.is_all_wanted();
            let held = self.picker.held().clone();
            let message = Message::Meet { blob, held, known, wants };
            outputs.push(Output::Say { to: meets.clone(), message });
        }
        if self.news_due().is_none_or(|due| now < due) {
            return;
        }
        for (to, told) in self.tell(&meets, now) {
            let message = match told {
                PieceNews::Have(pieces) => Message::Have { blob, pieces, known },
                PieceNews::Lost(pieces) => Message::Lost { blob, pieces },
            };
            outputs.push(Output::Say { to, message });
        }
    }

    /// The node to ask now for the hashes that are lacking.
    fn teacher(&mut self, now: Moment) -> Option<NodeId> {
        let lead = self.following().filter(|_| self.is_fetching())?;
        self.hashes.ask(now).map(|teacher| match teacher {
            Teacher::Neighbour(node) => node,
            Teacher::Lead => lead,
        })
    }

    /// Answers the agents that asked for hashes since the last time.
    fn answer_questions(&mut self, facts: &dyn Facts, now: Moment, outputs: &mut Vec<Output>) {
        for (peer, from) in std::mem::take(&mut self.questions) {
            let Reply { messages, question } = self.asked_for_hashes(peer, from, facts, now);
            outputs.extend(messages.into_iter().map(|message| Output::Say { to: vec![peer], message }));
            if let Some((lead, message)) = self.following().zip(question) {
                outputs.push(Output::Say { to: vec![lead], message });
            }
        }
    }

    /// Returns true if the whole is to be checked now.
    fn begins_check(&mut self, facts: &dyn Facts, now: Moment) -> bool {
        let is_whole = self.picker.is_complete() && facts.pieces() == Some(facts.prefix());
        let leader = self.leader();
        let is_whole = is_whole && !(self.compares && leader == Leader::Me);
        let checkable = match (is_whole, &self.verdict) {
            (false, _) => Checkable::NotYet,
            (true, None) => Checkable::WithoutVerdict,
            (true, Some(_)) => Checkable::WithVerdict,
        };
        self.course.begins_check(checkable, leader, now)
    }
}
