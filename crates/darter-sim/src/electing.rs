//! How nodes find another lead when the one that they followed is gone: each by itself, by what it knows
//! ([`Leadership`](darter_swarm::Leadership)), with questions that take their time and may find nobody.
//!
//! A node that starts without a seed asks around as well. It knows of the others as an agent does from earlier runs.

use std::collections::HashSet;
use std::time::Duration;

use darter_core::{BlobId, NodeId, rendezvous};
use darter_swarm::asking::{self, MAX_NAMED, MAX_ROUNDS, SURVEY_TIMEOUT};
use darter_swarm::leadership::JOIN_TIMEOUT;
use darter_swarm::{Found, Leader, Loss, Start, Step};

use crate::fleet::{Fleet, MISSED_AFTER};
use crate::node::{BLOB, id_of, index_of};
use crate::queue::What;

/// Nodes that a newcomer without a seed asks first.
const MAX_STRANGERS: usize = 8;

/// Connected nodes that are asked first.
const MAX_COMPANIONS: usize = 32;

impl Fleet {
    /// A node's lead is lost to it: gone, or found to send wrong pieces.
    pub(crate) fn lose_lead(&mut self, index: u32, lead: NodeId) {
        let node = &mut self.nodes[index as usize];
        if !node.leadership.lost(lead, Loss::Failed) {
            return;
        }
        let seeks = node.alive && !node.picker.is_complete();
        self.change_lead(index, Leader::Nobody, None);
        if seeks {
            self.seek(index);
        }
    }

    /// A node looks for a lead, unless it does so already.
    pub(crate) fn seek(&mut self, index: u32) {
        if self.nodes[index as usize].leadership.begin_search() {
            self.seek_on(index);
        }
    }

    /// The time has come for which a search waited.
    pub(crate) fn rested(&mut self, index: u32, life: u8) {
        if self.nodes[index as usize].life == life {
            self.seek_on(index);
        }
    }

    fn seek_on(&mut self, index: u32) {
        let has_seed = index != 0 && self.nodes[0].alive && !self.is_cut(index, 0);
        let seeds: Vec<NodeId> = has_seed.then(|| id_of(0)).into_iter().collect();
        let node = &mut self.nodes[index as usize];
        let members: Vec<NodeId> = node.links.iter().map(|other| id_of(*other)).collect();
        let life = node.life;
        match node.leadership.next(&seeds, &members) {
            Step::End => {}
            Step::Rest(pause) => self.queue.push(self.now + pause, What::Rested { node: index, life }),
            Step::Ask(candidate) => {
                let to = index_of(candidate);
                self.queue.push(self.message_at(index, to), What::AskToLead { to, from: index, life });
            }
            Step::Survey => {
                let (found, took) = self.ask_around(index);
                self.nodes[index as usize].found = Some(found);
                self.queue.push(self.now + took, What::Found { node: index, life });
            }
            Step::Lead => {
                self.lead_by(index, Start::TakeOver);
                self.seek_on(index);
            }
        }
    }

    /// A node is asked to lead another.
    pub(crate) fn asked_to_lead(&mut self, to: u32, from: u32, life: u8) {
        let asker = &self.nodes[from as usize];
        if !asker.alive || asker.life != life {
            return;
        }
        if asker.leadership.leader() != Leader::Nobody {
            // The seed came back meanwhile.
            return self.seek_on(from);
        }
        self.count_message();
        let asked = &self.nodes[to as usize];
        let refusal = if !asked.alive {
            self.now + MISSED_AFTER
        } else if self.is_cut(from, to) {
            self.now + JOIN_TIMEOUT
        } else if !asked.leadership.may_admit(id_of(from)) {
            self.message_at(to, from)
        } else {
            self.join_lead(from, to);
            self.seek_on(from);
            return;
        };
        self.queue.push(refusal, What::NotLed { node: from, by: to, life });
    }

    /// A node that was asked to lead does not.
    pub(crate) fn not_led(&mut self, index: u32, by: u32, life: u8) {
        let node = &mut self.nodes[index as usize];
        if node.life == life {
            node.leadership.refused(id_of(by));
            self.seek_on(index);
        }
    }

    /// A node has heard from those whom it asked.
    pub(crate) fn found(&mut self, index: u32, life: u8) {
        let node = &mut self.nodes[index as usize];
        if node.life == life {
            let found = node.found.take().unwrap_or_default();
            node.leadership.found(found);
            self.seek_on(index);
        }
    }

    /// What a node hears from those whom it asks, and how long that takes.
    fn ask_around(&self, index: u32) -> (Found, Duration) {
        let key: &BlobId = &BLOB;
        let node = &self.nodes[index as usize];
        let mut asked: HashSet<NodeId> = node.leadership.failed().chain([node.id]).collect();
        let mut next: Vec<NodeId> = node.links.iter().map(|other| id_of(*other)).take(MAX_COMPANIONS).collect();
        if next.is_empty() {
            let others = self.nodes.iter().filter(|other| other.alive && other.id != node.id).map(|other| &other.id);
            next = rendezvous::ranking(&key.0, others).into_iter().take(MAX_STRANGERS).collect();
        }
        let (mut found, mut took) = (Found::default(), Duration::ZERO);
        for _ in 0..MAX_ROUNDS {
            next.retain(|node| asked.insert(*node));
            if next.is_empty() {
                break;
            }
            let (mut leads, mut named) = (Vec::new(), Vec::new());
            let mut round = self.network.latency * 2;
            for other in next.drain(..) {
                let answering = &self.nodes[index_of(other) as usize];
                if !answering.alive || self.is_cut(index, index_of(other)) {
                    round = SURVEY_TIMEOUT;
                    continue;
                }
                match answering.leadership.leader() {
                    _ if answering.picker.is_complete() => found.holders.push(other),
                    Leader::Me => found.leads.push(other),
                    Leader::Node(_) | Leader::Nobody => found.members.push(other),
                }
                leads.extend(answering.leadership.following());
                let knows: Vec<NodeId> = answering.links.iter().map(|other| id_of(*other)).collect();
                named.extend(rendezvous::ranking(&key.0, &knows).into_iter().take(MAX_NAMED));
            }
            took += round;
            next = asking::next_to_ask(&key.0, leads, named, &asked);
        }
        (found, took)
    }
}
