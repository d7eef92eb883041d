//! The search for a lead. [`Leadership`](crate::Leadership) says the next step; the driver of the session takes it ([`Output::Seek`]) and
//! reports its result ([`Sought`]).
//!
//! A lead is lost when it fails, gives nothing, or no longer knows this agent. The consequence depends on what it gave: if nothing confirms what a
//! node said of the blob, the node is left and everything that it said is forgotten.
//!
//! Invariant: one step at a time; while a lead is looked for, a step is under way or the next one is put out at the next
//! [`Session::poll`].

use darter_core::{Moment, NodeId};
use darter_protocol::{Message, PeerInfo};

use super::{Guilt, Output, Session};
use crate::{Facts, Found, Leader, Loss, Phase, Step};

/// How a step of the search for a lead ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sought {
    /// It is done: the pause is over, or the agent that was asked has admitted this one.
    Done,
    /// The survey's result.
    Found {
        /// Agents that lead, hold all or have a part.
        found: Found,
        /// Agents that hold pieces of which a new lead may not know: they are met then.
        holders: Vec<PeerInfo>,
    },
    /// The agent does not lead this one.
    Refused(NodeId),
    /// It did not answer in time.
    Silent(NodeId),
}

/// How a lead was lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    pub(super) loss: Loss,
    /// True if it was followed and gave nothing.
    pub(super) in_vain: bool,
    /// True if it is a seed that said itself that it can't go on.
    pub(super) is_given_up: bool,
}

impl Session {
    /// Begins to look for a lead, unless that is under way.
    pub(super) fn seek(&mut self) {
        if self.leadership.begin_search() {
            self.found_holders.clear();
        }
    }

    /// A step of the search has ended.
    pub(super) fn sought(&mut self, how: Sought, now: Moment) {
        self.step = None;
        match how {
            Sought::Done if self.following().is_some() && !self.found_holders.is_empty() => {
                let holders = std::mem::take(&mut self.found_holders);
                self.dials(holders, &[], now);
            }
            Sought::Done => {}
            Sought::Found { found, holders } => {
                self.leadership.found(found);
                self.found_holders = holders;
            }
            Sought::Refused(node) => self.leadership.refused(node),
            Sought::Silent(node) => self.leadership.silent(node),
        }
    }

    /// Puts out the next step of the search, if one is due.
    pub(super) fn poll_search(&mut self, facts: &dyn Facts, outputs: &mut Vec<Output>) {
        // When the bytes have been deleted, it is known whether a lead is still needed.
        if !self.leadership.is_searching() || self.course.phase() == Phase::Dissolving {
            return;
        }
        if !self.course.is_open() {
            self.step = None;
            return self.leadership.end_search();
        }
        if self.step.is_some() {
            return;
        }
        let members: Vec<NodeId> = self.met.iter().copied().filter(|node| facts.is_connected(*node)).collect();
        match self.leadership.next(&facts.seeds(), &members) {
            Step::End => {}
            step => {
                self.step = Some(step);
                outputs.push(Output::Seek(step));
            }
        }
    }

    /// A seed is connected, perhaps again: it is asked to lead, unless a seed leads already.
    pub(super) fn seed_came(&mut self, seed: NodeId, facts: &dyn Facts) -> bool {
        let may_lead = self.leadership.seed_came(seed, |lead| facts.is_seed(lead));
        if may_lead {
            self.outputs.push(Output::Return(seed));
        }
        may_lead
    }

    /// A lead is lost. Returns false if it was not followed.
    pub(super) fn loses(&mut self, lead: NodeId, loss: Loss, why: String, facts: &dyn Facts, now: Moment) -> bool {
        self.loses_it(lead, Lost { loss, in_vain: false, is_given_up: false }, why, facts, now)
    }

    /// A lead is lost. Returns how.
    pub(super) fn loses_it(
        &mut self,
        lead: NodeId,
        Lost { loss, in_vain, is_given_up }: Lost,
        why: String,
        facts: &dyn Facts,
        now: Moment,
    ) -> bool {
        let follows_seed = self.follows_seed;
        if !self.lost_lead(lead, loss, now) {
            return false;
        }
        if !self.course.is_open() {
            return true;
        }
        let holds_nothing = self.picker.held().is_empty();
        let is_hearsay = match loss {
            Loss::Forgot => false,
            Loss::Mute | Loss::Stalled => holds_nothing,
            Loss::Failed => {
                let is_arriving = self.course.phase() == Phase::Arriving;
                let has_nothing_but_hashes = !is_arriving && holds_nothing && facts.known_count() > 0;
                // Nothing confirms the hashes of a seed either, if nobody has a piece of them.
                let nobody_holds = || self.picker.held_by_neighbours().all(|(_, held)| held.is_empty());
                has_nothing_but_hashes && (!follows_seed || (is_given_up && nobody_holds()))
            }
        };
        let gave_nothing = matches!(loss, Loss::Mute | Loss::Stalled);
        if gave_nothing {
            self.say(lead, Message::Leave { blob: facts.blob() });
        }
        self.outputs.push(Output::LeadLost {
            lead,
            loss,
            lets_down: (gave_nothing || in_vain) && !is_hearsay,
            why: why.clone(),
        });
        if is_hearsay {
            // A transfer that goes on with those hashes might never end.
            let guilt = match loss {
                Loss::Mute => Guilt::Sure,
                _ if is_given_up => Guilt::BlamesOrigin,
                _ => Guilt::Perhaps,
            };
            self.outputs.push(Output::StartOver { lead, guilt, reason: why });
        } else if facts.is_on_trust() {
            self.outputs.push(Output::EndTrust { reason: why });
        } else {
            self.seek();
        }
        true
    }

    /// Pieces are lacking: some agent has to be responsible for them.
    pub(super) fn goes_on(&mut self) {
        // An agent that leads goes on reading by itself.
        if self.leader() == Leader::Nobody {
            self.seek();
        }
    }
}
