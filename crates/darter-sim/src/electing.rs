//! How nodes find another lead when the one that they followed is gone: each by itself, by what it knows
//! ([`Leadership`](darter_swarm::Leadership)), with questions that take their time and may find nobody.
//!
//! A node that starts without a seed asks around as well. It knows of the others as an agent does from earlier runs.

use std::collections::BTreeSet;

use darter_core::NodeId;
use darter_swarm::asking::{self, SURVEY_TIMEOUT, Survey, SurveyAnswer};
use darter_swarm::leadership::JOIN_TIMEOUT;
use darter_swarm::{Input, Leader, Loss, Sought, Start, Step};

use crate::fleet::{Fleet, MISSED_AFTER};
use crate::node::{BLOB, id_of, index_of};
use crate::queue::What;

/// A seed tells a newcomer of this many others.
const MAX_TOLD: usize = 64;

impl Fleet {
    /// A node's lead is lost to it: gone.
    pub(crate) fn lose_lead(&mut self, index: u32, lead: NodeId) {
        if self.nodes[index as usize].session.following() == Some(lead) {
            self.tell_at_once(index, Input::LeadLost { lead, loss: Loss::Failed, why: String::new() });
        }
    }

    /// A node looks for a lead, unless it does so already.
    pub(crate) fn seek(&mut self, index: u32) {
        self.tell_at_once(index, Input::Resumes);
    }

    /// A step of a node's search has ended.
    pub(crate) fn sought(&mut self, index: u32, how: Sought) {
        self.tell_at_once(index, Input::Sought(how));
    }

    /// The time has come for which a search waited.
    pub(crate) fn rested(&mut self, index: u32, life: u8) {
        if self.nodes[index as usize].life == life {
            self.sought(index, Sought::Done);
        }
    }

    /// A node takes a step to find a lead.
    pub(crate) fn seek_by(&mut self, index: u32, step: Step) {
        let life = self.nodes[index as usize].life;
        match step {
            Step::End => {}
            Step::Rest(pause) => self.queue.push(self.now + pause, What::Rested { node: index, life }),
            Step::Ask(candidate) => {
                let to = index_of(candidate);
                if self.is_barred(index, to) {
                    return self.sought(index, Sought::Refused(candidate));
                }
                self.nodes[index as usize].asks = Some(to);
                self.queue.push(self.message_at(index, to), What::AskToLead { to, from: index, life });
            }
            Step::Survey => {
                self.nodes[index as usize].survey = Some(self.survey(index));
                self.ask_around(index);
            }
            Step::Lead => self.lead_by(index, Start::TakeOver),
        }
    }

    /// A node is asked to lead another.
    pub(crate) fn asked_to_lead(&mut self, to: u32, from: u32, life: u8) {
        let asker = &self.nodes[from as usize];
        if !asker.alive || asker.life != life {
            return;
        }
        if asker.session.leadership().leader() != Leader::Nobody {
            // The seed came back meanwhile.
            return self.sought(from, Sought::Done);
        }
        self.count_message();
        let asked = &self.nodes[to as usize];
        let refusal = if !asked.alive {
            self.now + MISSED_AFTER
        } else if self.is_cut(from, to) {
            self.now + JOIN_TIMEOUT
        } else if !asked.session.leadership().may_admit(id_of(from)) {
            self.message_at(to, from)
        } else {
            return self.join_lead(from, to);
        };
        self.queue.push(refusal, What::NotLed { node: from, by: to, life });
    }

    /// A node that was asked to lead does not: it refuses, or does not answer.
    pub(crate) fn not_led(&mut self, index: u32, by: u32, life: u8) {
        let is_cut = self.is_cut(index, by);
        let node = &mut self.nodes[index as usize];
        if node.life == life && node.asks.take_if(|asked| *asked == by).is_some() {
            let by = id_of(by);
            self.sought(index, if is_cut { Sought::Silent(by) } else { Sought::Refused(by) });
        }
    }

    /// A node has heard from those whom it asked in a round.
    pub(crate) fn round_over(&mut self, index: u32, life: u8) {
        if self.nodes[index as usize].life == life {
            self.ask_around(index);
        }
    }

    /// A node begins to ask around.
    fn survey(&self, index: u32) -> Survey {
        let node = &self.nodes[index as usize];
        let met: Vec<NodeId> = node.session.met().iter().copied().collect();
        // In a small fleet agents are told of each other, or connected by an earlier question.
        let knows_others = met.is_empty() || self.nodes.len() <= MAX_TOLD;
        let others = self.nodes.iter().filter(|other| knows_others && other.alive && other.id != node.id);
        let known: Vec<NodeId> = others.map(|other| other.id).collect();
        let first = asking::first_to_ask(BLOB, &[], &met, &known);
        Survey::new(BLOB, first, node.session.leadership().failed().chain([node.id]))
    }

    /// A node asks the next round, and goes on when all have answered or had their time.
    fn ask_around(&mut self, index: u32) {
        let Some(mut survey) = self.nodes[index as usize].survey.take() else { return };
        let round = survey.next_round();
        if round.is_empty() {
            let found = survey.heard(|_| true).into();
            return self.sought(index, Sought::Found { found, holders: Vec::new() });
        }
        let mut longest = self.network.latency * 2;
        for other in round {
            match self.part_of(index, index_of(other)) {
                Some(answer) => {
                    survey.answered(other, answer);
                    self.nodes[index_of(other) as usize].acquainted.insert(id_of(index));
                }
                None => longest = SURVEY_TIMEOUT,
            }
        }
        let node = &mut self.nodes[index as usize];
        node.survey = Some(survey);
        self.queue.push(self.now + longest, What::Heard { node: index, life: node.life });
    }

    /// A node's answer to another that asks around; `None` if it does not answer.
    fn part_of(&self, asker: u32, asked: u32) -> Option<SurveyAnswer> {
        let node = &self.nodes[asked as usize];
        if !node.alive || self.is_cut(asker, asked) {
            return None;
        }
        let part = asking::part_of(node.session.leadership().leader(), node.session.picker().is_complete());
        let knows: BTreeSet<NodeId> = node.session.met().iter().chain(&node.acquainted).copied().collect();
        Some(SurveyAnswer { part, lead: node.session.following(), nearest: asking::nearest(BLOB, &knows) })
    }
}
