//! Following: the lead is this agent, another one, or none while one is looked for.

use darter_core::{LeadKey, Moment, NodeId};

use super::{LetIn, Output, Session};
use crate::{Event, Facts, Leader, Loss, Step};

impl Session {
    /// The lead, as this agent sees it.
    pub const fn leader(&self) -> Leader {
        self.leadership.leader()
    }

    /// The agent that is followed, if one is.
    pub const fn following(&self) -> Option<NodeId> {
        self.leadership.following()
    }

    /// True if `lead` was the last agent that was followed, and is a seed.
    pub fn has_left_seed(&self, lead: NodeId) -> bool {
        self.follows_seed && self.leadership.last_followed() == Some(lead)
    }

    /// True if nothing of the blob was read from the origin here: all of it came by way of leads.
    pub const fn has_read_nothing(&self) -> bool {
        !self.has_read
    }

    /// This agent leads from now on.
    pub(super) fn leads(&mut self, now: Moment) {
        if self.step == Some(Step::Lead) {
            self.step = None;
        }
        self.change_lead(Leader::Me, None, now);
    }

    /// An agent has admitted this one, which follows it from now on, unless this one goes on to lead that agent. Returns true if it is followed.
    pub(super) fn follow(&mut self, let_in: LetIn, facts: &dyn Facts, now: Moment) -> bool {
        let LetIn { lead, key, members_ask, neighbours, verdict, arrives } = let_in;
        if self.has_member(lead) && self.leadership.stays_lead_of(lead) {
            return false;
        }
        if self.leader() == Leader::Me {
            // These peers were not told of the pieces that came here meanwhile.
            self.to_meet.append(&mut self.met);
        }
        let is_again = self.leader() != Leader::Nobody || self.leadership.last_followed().is_some();
        self.change_lead(Leader::Node(lead), Some(key), now);
        if is_again {
            self.wants.are_told_again();
        }
        self.follows_seed = facts.is_seed(lead);
        self.picker.handle(Event::PeerLeft { peer: lead }, now);
        let met = &self.met;
        self.to_meet.retain(|node| !met.contains(node));
        // Even peers that were met before: they may have been told that they are no longer neighbours.
        self.to_meet.extend(neighbours.iter().map(|info| info.node));
        self.outputs.push(Output::Dial(neighbours));
        self.to_meet.remove(&self.me);
        self.hashes.members_ask(members_ask);
        if let Some(verdict) = verdict {
            self.told_verdict(verdict);
        }
        if arrives {
            self.course.arrives();
        }
        true
    }

    pub(super) fn lost_lead(&mut self, lead: NodeId, loss: Loss, now: Moment) -> bool {
        let is_lost = self.leadership.lost(lead, loss);
        if is_lost {
            self.change_lead(Leader::Nobody, None, now);
        }
        is_lost
    }

    pub(super) fn change_lead(&mut self, leader: Leader, key: Option<LeadKey>, now: Moment) {
        self.leadership.set(leader);
        self.hashes.lead_changed(key);
        self.wants.lead_changed();
        self.origin.lead_changed();
        self.vigil.follows(now);
        self.picker.handle(Event::LeadChanged { lead: self.following() }, now);
        self.news.lead_knows(now);
    }
}
