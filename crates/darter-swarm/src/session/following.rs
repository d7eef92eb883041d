//! Following: the lead is this agent, another one, or nobody while a lead is looked for.

use darter_core::{LeadKey, Moment, NodeId};
use darter_protocol::PeerInfo;

use super::{Output, Session};
use crate::{Event, Leader, Loss, Step};

impl Session {
    /// The lead, as this agent sees it.
    pub const fn leader(&self) -> Leader {
        self.leadership.leader()
    }

    /// The agent that is followed, if one is.
    pub const fn following(&self) -> Option<NodeId> {
        self.leadership.following()
    }

    /// This agent leads from now on.
    pub fn leads(&mut self, now: Moment) {
        self.change_lead(Leader::Me, None, now);
    }

    /// An agent has let this one in: it is followed from now on, unless this one goes on to lead it. `key` proves its hashes, and
    /// `neighbours` are to be met. Returns true if `lead` is followed.
    pub fn follow(&mut self, lead: NodeId, key: LeadKey, neighbours: Vec<PeerInfo>, now: Moment) -> bool {
        if self.has_member(lead) && self.leadership.stays_lead_of(lead) {
            return false;
        }
        if self.leader() == Leader::Me {
            // They were not told what came here meanwhile.
            self.to_meet.append(&mut self.met);
        }
        self.change_lead(Leader::Node(lead), Some(key), now);
        self.picker.handle(Event::PeerLeft { peer: lead }, now);
        let met = &self.met;
        self.to_meet.retain(|node| !met.contains(node));
        // Even those that were met before: they may have been told that they are no neighbours any more.
        self.to_meet.extend(neighbours.iter().map(|info| info.node));
        self.outputs.push(Output::Dial(neighbours));
        self.to_meet.remove(&self.me);
        true
    }

    /// A lead is lost; false if it was not followed.
    pub fn lost_lead(&mut self, lead: NodeId, loss: Loss, now: Moment) -> bool {
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
        self.vigil.follows(now);
        self.picker.handle(Event::LeadChanged { lead: self.following() }, now);
        self.news.lead_knows(now);
    }

    /// The next step to find a lead, with these seeds connected; see [`Leadership::next`](crate::Leadership::next).
    pub fn next_step(&mut self, seeds: &[NodeId], is_connected: impl Fn(NodeId) -> bool) -> Step {
        let members: Vec<NodeId> = self.met.iter().copied().filter(|node| is_connected(*node)).collect();
        self.leadership.next(seeds, &members)
    }
}
