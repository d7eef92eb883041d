//! How hashes get about: where members are few the lead tells them all, where they are many they ask each other.
//!
//! What is told takes room on its teller's cable, and comes behind what that has to send already; receivers' cables are left out. Nobody
//! tells wrong hashes: an answer without proof is the only useless one. Whoever leads knows all hashes that the origin ever gave.

use darter_swarm::{Event, Leader, Teacher, Teaching, Telling};

use crate::fleet::Fleet;
use crate::node::{id_of, index_of};
use crate::queue::{Told, What};

/// Bytes of a hash.
const HASH: u64 = 32;
/// Bytes of the lead's signature.
const PROOF: u64 = 64;
/// Bytes of a message besides.
const MESSAGE: u64 = 60;

impl Fleet {
    /// Another lead for a node, or none. What it asked the former one to choose is void.
    pub(crate) fn change_lead(&mut self, index: u32, leader: Leader) {
        let node = &mut self.nodes[index as usize];
        let former = node.leadership.last_followed();
        node.leadership.set(leader);
        let lead = node.leadership.following();
        node.knowledge.lead_changed();
        node.news.lead_knows(self.now);
        if let Some(former) = former {
            self.nodes[index_of(former) as usize].uploads.drop_asks(index);
        }
        self.tell(index, Event::LeadChanged { lead });
    }

    /// A node knows so many hashes now. What waited for them is taken in.
    pub(crate) fn learn(&mut self, index: u32, known: u32) {
        let node = &mut self.nodes[index as usize];
        if known <= node.knowledge.known() {
            return;
        }
        let tells = node.knowledge.learned(known);
        let ready: Vec<_> = node.unproven.extract_if(.., |arrival| arrival.piece < known).collect();
        self.tell_known(index);
        if tells {
            self.nodes[index as usize].news.first_hashes();
            self.tell_soon(index);
        }
        for arrival in &ready {
            self.piece_arrived(arrival);
        }
        self.tell_growth(index, None);
    }

    /// Tells a picker for how many pieces there are hashes, and how many there are in all.
    pub(crate) fn tell_known(&mut self, index: u32) {
        let known = self.nodes[index as usize].knowledge.known();
        self.tell(index, Event::ManifestGrew { known: 0..known, total: Some(self.pieces) });
    }

    /// A lead tells members of new hashes, if it tells them at all and the time has come; but not one that is just coming in.
    pub(crate) fn tell_growth(&mut self, leader: u32, entering: Option<u32>) {
        let node = &mut self.nodes[leader as usize];
        let known = node.knowledge.known();
        let Some(leading) = &mut node.leading else { return };
        let telling = leading.teaching.tell(known, known == self.pieces, leading.members, self.now);
        if let Some(due) = leading.teaching.due().filter(|due| leading.growth_at != Some(*due)) {
            leading.growth_at = Some(due);
            self.queue.push(due, What::Growth(leader));
        }
        let Some(telling) = telling else { return };
        for member in leading.lead.members() {
            let to = index_of(member);
            if to != leader && Some(to) != entering {
                self.report.tracker_notices += 1;
                self.send_hashes(leader, to, telling);
            }
        }
    }

    /// A lead's answer to a newcomer, with or without the list.
    pub(crate) fn answer_newcomer(&mut self, leader: u32, to: u32) {
        let Some(leading) = &mut self.nodes[leader as usize].leading else { return };
        let telling = leading.teaching.greet(leading.members, self.now);
        self.send_hashes(leader, to, telling);
    }

    fn send_hashes(&mut self, from: u32, to: u32, telling: Telling) {
        let proof = if telling.signed { PROOF } else { 0 };
        let bytes = MESSAGE + proof + u64::from(telling.count) * HASH;
        let leading = self.nodes[from as usize].leading.as_ref();
        let members_ask = leading.is_none_or(|leading| leading.teaching.members_ask());
        if leading.is_some() {
            self.report.lead_hash_bytes += bytes;
        }
        let to_life = self.nodes[to as usize].life;
        let sender = &mut self.nodes[from as usize];
        let left = sender.take_up(bytes as f64 / sender.up * 1e6, self.now);
        let (first, end) = (telling.from, telling.from + telling.count);
        let told = Told { from, to, to_life, first, end, members_ask, with_proof: telling.signed };
        self.queue.push(self.delivered_at(from, to, left), What::Hashes(told));
    }

    /// Hashes reach a node: from its lead, or as an answer.
    pub(crate) fn hear_hashes(&mut self, told: &Told) {
        let Told { from, to, first, end, members_ask, with_proof, .. } = *told;
        let node = &mut self.nodes[to as usize];
        let is_from_lead = node.leadership.following() == Some(id_of(from));
        if !node.alive || node.life != told.to_life {
            return;
        }
        let known = node.knowledge.known();
        if is_from_lead {
            node.knowledge.learner.members_ask(members_ask);
            if first <= known {
                self.learn(to, end);
            } else if first < end {
                // Those before came when members were many.
                node.knowledge.learner.lead_showed(end);
            }
        } else if node.knowledge.learner.was_asked(id_of(from)) {
            if with_proof && first <= known && known < end {
                self.learn(to, end);
            }
            let learner = &mut self.nodes[to as usize].knowledge.learner;
            learner.answered(id_of(from), with_proof, self.now, &self.tuning);
        } else {
            return;
        }
        if with_proof {
            self.nodes[to as usize].knowledge.vouched(end);
        }
        self.poll_soon(to);
    }

    /// A neighbour shows a node how many hashes it knows.
    pub(crate) fn show_known(&mut self, to: u32, neighbour: u32) {
        let knows = self.nodes[neighbour as usize].knowledge.known();
        let node = &mut self.nodes[to as usize];
        if node.alive && knows > node.knowledge.known() {
            node.knowledge.learner.showed(id_of(neighbour), knows);
            self.poll_soon(to);
        }
    }

    /// Whether a node has somebody to ask for hashes, and lacks some.
    pub(crate) fn may_ask_for_hashes(&self, index: u32) -> bool {
        let node = &self.nodes[index as usize];
        node.leadership.following().is_some() && node.knowledge.known() < self.pieces
    }

    /// A node asks for the hashes that it lacks, if the time has come.
    pub(crate) fn ask_for_hashes(&mut self, index: u32) {
        if !self.may_ask_for_hashes(index) {
            return;
        }
        let node = &mut self.nodes[index as usize];
        let Some(leader) = node.leadership.following().map(index_of) else { return };
        let knowledge = &mut node.knowledge;
        let known = knowledge.known();
        let to = match knowledge.ask(self.now, &self.tuning) {
            None => return,
            Some(Teacher::Lead) => leader,
            Some(Teacher::Neighbour(neighbour)) => index_of(neighbour),
        };
        self.queue.push(self.message_at(index, to), What::AskHashes { to, from: index, known });
    }

    /// A question for the hashes behind the known ones reaches a node.
    pub(crate) fn asked_for_hashes(&mut self, to: u32, from: u32, known: u32) {
        let leading = self.nodes[to as usize].leading.as_ref();
        let leads = leading.is_some_and(|leading| leading.lead.held_by(id_of(from)).is_some());
        if leads {
            self.count_message();
        }
        let is_cut = self.is_cut(to, from);
        let node = &mut self.nodes[to as usize];
        if !node.alive || node.hung || is_cut {
            return;
        }
        if leads {
            self.report.tracker_notices += 1;
            let telling = Teaching::answer(node.knowledge.known(), known);
            self.send_hashes(to, from, telling);
            return;
        }
        let end = node.knowledge.answer(known);
        let with_proof = end > known;
        let asks = !with_proof && node.knowledge.needs_proof(known, self.now, &self.tuning);
        let own = node.knowledge.known();
        self.send_hashes(to, from, Telling { from: known, count: end - known, signed: with_proof });
        let lead = self.nodes[to as usize].leadership.following();
        if let Some(leader) = lead.filter(|_| asks).map(index_of) {
            let question = What::AskHashes { to: leader, from: to, known: own };
            self.queue.push(self.message_at(to, leader), question);
        }
    }
}
