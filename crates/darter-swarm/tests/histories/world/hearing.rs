//! Messages that agents hear, and news of their connections.

use darter_core::PieceSet;
use darter_protocol::Message;
use darter_swarm::{Input, LetIn, Loss, Sought};

use super::view::View;
use super::{COUNT, Said, World};
use crate::pull::WHOLE_AFTER;

impl World {
    pub(super) fn peer_gone(&mut self, agent: usize, peer: usize) {
        let id = self.agents[peer].id;
        let it = &mut self.agents[agent];
        let asked = it.asked.take_if(|(_, asked)| *asked == id);
        self.hears(agent, Input::Gone(id));
        if asked.is_some() {
            self.hears(agent, Input::Sought(Sought::Refused(id)));
        }
        self.hears(agent, Input::LeadLost { lead: id, loss: Loss::Failed, why: "it is gone".to_owned() });
        if self.agents[peer].is_seed {
            self.keep_connected(agent, peer);
        }
    }

    pub(super) fn seed_came(&mut self, agent: usize, seed: usize) {
        if !self.agents[seed].is_seed || self.agents[agent].is_seed || self.agents[agent].is_complete {
            return;
        }
        let id = self.agents[seed].id;
        self.hears(agent, Input::SeedCame(id));
    }

    /// An agent's session is told something, and does soon what follows.
    pub(crate) fn hears(&mut self, at: usize, input: Input) -> bool {
        let (now, view) = (self.now, self.view(at, false));
        let follows = self.agents[at].session.handle(input, &view, now);
        self.advance_soon(at);
        follows
    }

    /// An agent's knowledge, with those that it is connected to or without.
    pub(crate) fn view(&self, at: usize, connected: bool) -> View {
        let seeds = self.agents.iter().filter(|it| it.is_seed).map(|it| it.id).collect();
        let is_there = |other: &usize| connected && self.connection(at, *other).is_some();
        let reached = (0..self.agents.len()).filter(is_there).map(|other| self.agents[other].id).collect();
        // All hashes or none: nothing is fetched here.
        let known = PieceSet::full(if self.agents[at].given >= WHOLE_AFTER { COUNT } else { 0 });
        View { pieces: COUNT, known, reached, seeds }
    }

    pub(super) fn hear(&mut self, to: usize, from: usize, what: Said) {
        let sender = self.agents[from].id;
        if self.lies(to, sender, &what) {
            return;
        }
        match what {
            Said::Join { request } => {
                if self.agents[to].session.leadership().may_admit(sender) {
                    self.let_in(to, from, request);
                } else {
                    self.say(to, sender, Said::Rejected { request });
                }
            }
            Said::Rejected { request } => {
                let it = &mut self.agents[to];
                if it.asked.take_if(|(asked, _)| *asked == request).is_some() {
                    self.hears(to, Input::Sought(Sought::Refused(sender)));
                }
            }
            Said::Forgot => {
                let why = "it knows nothing of this agent".to_owned();
                self.hears(to, Input::LeadLost { lead: sender, loss: Loss::Forgot, why });
            }
            Said::Told(message) => self.told(to, from, *message),
        }
    }

    /// An agent hears what another one's session says.
    pub(super) fn told(&mut self, to: usize, from: usize, message: Message) {
        let sender = self.agents[from].id;
        match message {
            Message::Joined { request, key, members_ask, neighbours, verdict, .. } => {
                if self.agents[to].asked.take_if(|(asked, _)| *asked == request).is_none() {
                    return;
                }
                let let_in = LetIn { lead: sender, key, members_ask, neighbours, verdict, arrives: false };
                let follows = self.hears(to, Input::LetIn(let_in));
                if follows {
                    self.tell(|| format!("{to} follows {from}"));
                }
                self.hears(to, Input::Sought(if follows { Sought::Done } else { Sought::Refused(sender) }));
            }
            message => {
                self.hears(to, Input::Said { by: sender, message });
            }
        }
    }
}
