//! A pull in such a world: bytes come while an agent follows an honest one that is given some itself, by way of others or from the origin;
//! an agent that has them all is told the verdict by its lead, or finds it by itself. And agents that lie.
//!
//! Bytes are no more than looks, every two seconds, at whether any would come.

use std::time::Duration;

use darter_core::{NodeId, Signer, Version};
use darter_protocol::Message;
use darter_protocol::SwarmPart;
use darter_swarm::{CheckedBy, Input, Leader, Seen, asking};

use crate::world::{BLOB, Event, PIECES, Said, VERDICT, World};

const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long nothing may come of what one lead does, though it is a seed.
const STALL: Duration = Duration::from_secs(30);

/// After this many looks at which bytes came, all are there.
pub(crate) const WHOLE_AFTER: u32 = 3;

/// The ways in which an agent lies. It gives nothing to anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// It is connected and says nothing.
    Silent,
    /// It lets nobody in.
    Refuses,
    /// It says that it leads, and lets everybody in.
    Leads,
    /// It says that it holds everything, and lets everybody in.
    Holds,
    /// It lets everybody in and forgets them.
    Forgets,
    /// It lets everybody in, and says right then what the whole must be.
    Knows,
}

impl Lie {
    pub(crate) const ALL: [Self; 6] =
        [Self::Silent, Self::Refuses, Self::Leads, Self::Holds, Self::Forgets, Self::Knows];

    /// Its answer when it is asked for its part.
    pub(crate) const fn part(self) -> Option<SwarmPart> {
        match self {
            Self::Silent => None,
            Self::Leads | Self::Knows => Some(SwarmPart::Lead),
            Self::Holds => Some(SwarmPart::Holder),
            Self::Refuses | Self::Forgets => Some(SwarmPart::Member),
        }
    }
}

/// The answer of a liar that lets somebody in.
fn let_in(request: u32, verdict: bool) -> Message {
    Message::Joined {
        request,
        blob: BLOB,
        version: Version::default(),
        piece_length: PIECES,
        length: None,
        hashes: Vec::new(),
        key: Signer::draw().key(),
        members_ask: false,
        proof: None,
        neighbours: Vec::new(),
        verdict: verdict.then_some(VERDICT),
        whole: None,
    }
}

impl World {
    /// From now on all that start want bytes, and these agents lie.
    pub(crate) fn pull(&mut self, liars: impl IntoIterator<Item = (usize, Lie)>) {
        self.pulls = true;
        for (liar, lie) in liars {
            self.agents[liar].lie = Some(lie);
        }
        for agent in 0..self.agents.len() {
            self.look_later(agent);
        }
    }

    pub(crate) fn look_later(&mut self, agent: usize) {
        if self.pulls && self.agents[agent].lie.is_none() {
            let life = self.agents[agent].life;
            self.put(self.now + LOOK_EVERY, Event::Look { agent, life });
        }
    }

    /// An agent's part in the swarm, as it says; nothing is heard of one that is silent.
    pub(crate) fn part_of(&self, agent: usize) -> Option<SwarmPart> {
        let it = &self.agents[agent];
        it.lie.map_or_else(|| Some(asking::part_of(it.session.leader(), it.is_complete)), Lie::part)
    }

    /// True if a liar answers, or does not answer, this in its way.
    pub(crate) fn lies(&mut self, liar: usize, to: NodeId, what: &Said) -> bool {
        let Some(lie) = self.agents[liar].lie else { return false };
        match (lie, what) {
            (Lie::Silent, _) => {}
            (Lie::Refuses, Said::Join { request }) => {
                self.say(liar, to, Said::Rejected { request: *request });
            }
            (_, Said::Join { request }) => {
                let (request, verdict) = (*request, lie == Lie::Knows);
                self.say(liar, to, Said::Told(Box::new(let_in(request, verdict))));
                if lie == Lie::Forgets {
                    self.say(liar, to, Said::Forgot);
                }
            }
            _ => return false,
        }
        true
    }

    /// True if bytes come to an agent: an agent on its way to the origin has them, or reads them.
    fn is_given(&self, agent: usize) -> bool {
        let mut on = agent;
        for _ in 0..self.agents.len() {
            let it = &self.agents[on];
            match it.session.leader() {
                _ if on != agent && it.is_complete => return true,
                Leader::Me => return true,
                Leader::Nobody => return false,
                Leader::Node(lead) => {
                    let lead = self.at(lead);
                    let leads = &self.agents[lead];
                    if leads.lie.is_some() || self.connection(on, lead).is_none() || !leads.leads(it.id) {
                        return false;
                    }
                    on = lead;
                }
            }
        }
        false
    }

    /// An agent finds that the whole is right.
    pub(crate) fn is_right(&mut self, agent: usize) {
        let by = CheckedBy::Lead;
        self.agents[agent].is_complete = self.hears(agent, Input::Sealed { verdict: VERDICT, by });
        self.tell(|| format!("{agent} is done"));
        self.advance_soon(agent);
    }

    /// Two seconds of an agent's pull are over.
    pub(crate) fn look(&mut self, agent: usize) {
        let (now, comes) = (self.now, self.is_given(agent));
        if self.agents[agent].is_complete {
            return;
        }
        if comes {
            self.hears(agent, Input::OriginCame);
            self.agents[agent].given += 1;
            if self.agents[agent].given == WHOLE_AFTER {
                self.gets_all(agent);
            }
        }
        self.look_later(agent);
        let view = self.view(agent, false);
        let seen = Seen { is_idle: false, stall: Some(STALL), origin: Duration::ZERO };
        self.agents[agent].session.look(seen, &view, now);
        self.agents[agent].heard += 1;
        self.advance_soon(agent);
        if self.agents[agent].session.leader() == Leader::Nobody {
            self.seek(agent);
        }
    }
}
