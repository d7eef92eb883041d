//! The search for a lead. [`Leadership`](crate::Leadership) says the next step; the driver of the session takes it ([`Output::Seek`]) and
//! tells how it ended ([`Sought`]).
//!
//! A lead is lost when it fails, gives nothing, or knows nothing of this agent any more. The consequence depends on what it gave: a node whose word
//! on the blob nothing bears out is left, and all that it said is thrown away.
//!
//! Invariant: one step at a time; while somebody is looked for, a step is under way or the next one is said at the next
//! [`Session::poll`].

use darter_core::{Moment, NodeId};
use darter_protocol::{Message, PeerInfo};

use super::{Guilt, Output, Session};
use crate::{Facts, Found, Leader, Loss, Phase, Step};

/// How a step of the search for a lead ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sought {
    /// It is done: the pause is over, or the agent that was asked has let this one in.
    Done,
    /// Asking around came to this.
    Found {
        /// Agents that lead, hold all or have a part.
        found: Found,
        /// Agents that hold pieces, though whoever comes to lead may not know of them: they are met then.
        holders: Vec<PeerInfo>,
    },
    /// The agent does not lead this one.
    Refused(NodeId),
    /// It did not answer in time.
    Silent(NodeId),
}

/// How a lead was lost, and what came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    pub(super) loss: Loss,
    /// True if it was followed in vain.
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

    /// A step has ended.
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

    /// Says the next step of the search, if one is due.
    pub(super) fn poll_search(&mut self, facts: &dyn Facts, outputs: &mut Vec<Output>) {
        // Once the bytes are thrown away it shows if somebody is still to be found.
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

    /// A seed is connected, perhaps again: it is asked to lead, unless a seed does.
    pub(super) fn seed_came(&mut self, seed: NodeId, facts: &dyn Facts) -> bool {
        let may_lead = self.leadership.seed_came(seed, |lead| facts.is_seed(lead));
        if may_lead {
            self.outputs.push(Output::Return(seed));
        }
        may_lead
    }

    /// A lead is lost, for this reason; false if it was not followed.
    pub(super) fn loses(&mut self, lead: NodeId, loss: Loss, why: String, facts: &dyn Facts, now: Moment) -> bool {
        self.loses_it(lead, Lost { loss, in_vain: false, is_given_up: false }, why, facts, now)
    }

    /// A lead is lost, for this reason; says what came of it.
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
                // Nothing bears out the hashes of a seed either of which nobody has a piece.
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
            // A transfer that goes on by those hashes might never end.
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

    /// Something is lacking that somebody is to see to.
    pub(super) fn goes_on(&mut self) {
        // An agent that leads reads on by itself.
        if self.leader() == Leader::Nobody {
            self.seek();
        }
    }
}
