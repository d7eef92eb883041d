//! Agents act: each polls its session soon after it was told something, and looks for a lead as that says.

use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex, PieceSet, Place, Signer};
use darter_swarm::asking::{self, SURVEY_TIMEOUT, Survey, SurveyAnswer};
use darter_swarm::leadership::JOIN_TIMEOUT;
use darter_swarm::{Came, Desk, Entering, Found, Input, Leader, Loss, Output, Sought, Start, Step};

use super::{BLOB, COUNT, Event, PIECES, Said, World};

impl World {
    /// An agent does soon what it decides.
    pub(crate) fn advance_soon(&mut self, at: usize) {
        self.agents[at].heard += 1;
        self.advance_at(at, self.now);
    }

    pub(super) fn advance_at(&mut self, at: usize, when: Moment) {
        let agent = &mut self.agents[at];
        if agent.alive && agent.advances.is_none_or(|before| when < before) {
            agent.advances = Some(when);
            let life = agent.life;
            self.put(when, Event::Advance { agent: at, life });
        }
    }

    pub(super) fn advance(&mut self, at: usize) {
        if self.agents[at].advances != Some(self.now) {
            return;
        }
        let view = self.view(at, true);
        let (now, agent) = (self.now, &mut self.agents[at]);
        agent.advances = None;
        let mut outputs = Vec::new();
        agent.session.poll(&view, now, &mut outputs);
        let wakeup = agent.session.next_wakeup(now);
        for output in outputs {
            match output {
                Output::Say { to, message } => {
                    for to in to {
                        self.say(at, to, Said::Told(Box::new(message.clone())));
                    }
                }
                Output::Dial(infos) => infos.iter().for_each(|info| self.dial(at, info.node)),
                Output::Check => self.is_right(at),
                Output::Seek(step) => self.seek_by(at, step),
                // Without a lead it asks seeds by itself.
                Output::Return(seed) if self.agents[at].session.leader() != Leader::Nobody => self.ask(at, seed),
                Output::LeadLost { lead, loss, why, .. } => {
                    self.tell(|| format!("{at} lost its lead {lead}: {why}"));
                    if loss == Loss::Mute {
                        self.agents[at].let_down_by.insert(lead);
                    }
                }
                // There is nothing to throw away.
                Output::StartOver { .. } => self.seek(at),
                _ => {}
            }
        }
        if let Some(wakeup) = wakeup {
            self.advance_at(at, wakeup.max(now + Duration::from_millis(1)));
        }
        self.looks_early(at, wakeup);
    }

    /// Some agents look once before their session's time has come.
    fn looks_early(&mut self, at: usize, wakeup: Option<Moment>) {
        let most = wakeup.map_or(Duration::from_secs(1), |wakeup| wakeup.since(self.now));
        if self.early.one_in(4) {
            let early = self.now + most.mul_f64(self.early.below(1000) as f64 / 1000.0);
            let agent = &self.agents[at];
            let (life, heard) = (agent.life, agent.heard);
            self.put(early, Event::LooksEarly { agent: at, life, heard, wakeup });
        }
    }

    /// Whatever time alone brings was announced: nothing is put out before, if nothing was heard.
    pub(super) fn look_early(&mut self, at: usize, wakeup: Option<Moment>) {
        let view = self.view(at, true);
        let (now, mut outputs) = (self.now, Vec::new());
        self.agents[at].session.poll(&view, now, &mut outputs);
        // A lead may look in vain for something to give when a time is over for which it waits no more.
        outputs.retain(|output| !matches!(output, Output::Give));
        assert!(outputs.is_empty(), "{at} at {now:?}, though {wakeup:?} was said: {outputs:?}");
    }

    /// All bytes have come to an agent.
    pub(crate) fn gets_all(&mut self, at: usize) {
        self.hears(at, Input::Learned(0..COUNT));
        for piece in (0..COUNT).map(PieceIndex) {
            self.hears(at, Input::Stored(Came { piece, bytes: PIECES.bytes(), request: None, from: None }));
        }
    }

    /// An agent connects to another.
    pub(super) fn dial(&mut self, agent: usize, node: NodeId) {
        let other = self.at(node);
        // If both have yet to notice that their connection is gone, they try again then.
        if !self.connect(agent, other) && !self.may_reach(agent, other) {
            self.hears(agent, Input::Unreached(node));
        }
        self.advance_soon(agent);
    }

    pub(super) fn lead(&mut self, at: usize, start: Start) {
        self.tell(|| format!("{at} leads"));
        let desk = self.desk();
        self.hears(at, Input::Leads { start, desk });
    }

    pub(super) fn desk(&mut self) -> Desk {
        Desk { place: Place::default(), seed: self.random.next(), signer: Signer::draw() }
    }

    pub(super) fn let_in(&mut self, at: usize, member: usize, request: u32) {
        let desk = self.desk();
        self.hears(at, Input::OpensBooks(desk));
        let id = self.agents[member].id;
        let entering = Entering { node: id, request, whole: None };
        let held = PieceSet::new();
        self.hears(at, Input::Enters { entering, place: Place::default(), held, wants: true });
    }

    pub(crate) fn seek(&mut self, agent: usize) {
        self.hears(agent, Input::Resumes);
    }

    pub(super) fn seek_by(&mut self, at: usize, step: Step) {
        let life = self.agents[at].life;
        match step {
            Step::End => {}
            Step::Rest(pause) => self.put(self.now + pause, Event::Rested { agent: at, life }),
            Step::Ask(candidate) => self.ask(at, candidate),
            Step::Survey => {
                let (found, took) = self.ask_around(at);
                self.put(self.now + took, Event::Found { agent: at, life, found });
            }
            Step::Lead => self.lead(at, Start::TakeOver),
        }
    }

    pub(super) fn ask(&mut self, at: usize, candidate: NodeId) {
        let to = self.at(candidate);
        if self.agents[at].let_down_by.contains(&candidate) {
            self.hears(at, Input::Sought(Sought::Refused(candidate)));
            return;
        }
        self.tell(|| format!("{at} asks {to}"));
        self.connect(at, to);
        let it = &mut self.agents[at];
        it.requests += 1;
        let (request, life) = (it.requests, it.life);
        if self.say(at, candidate, Said::Join { request }) {
            self.agents[at].asked = Some((request, candidate));
            self.put(self.now + JOIN_TIMEOUT, Event::Late { agent: at, life, request });
        } else {
            self.hears(at, Input::Sought(Sought::Refused(candidate)));
        }
    }

    pub(super) fn ask_around(&mut self, at: usize) -> (Found, Duration) {
        let me = &self.agents[at];
        let met: Vec<NodeId> = me.session.met().iter().copied().collect();
        let nodes = self.agents.iter().filter(|agent| !agent.is_seed).map(|agent| &agent.id);
        let first = asking::first_to_ask(BLOB, &[], &met, &asking::nearest(BLOB, nodes));
        let mut survey = Survey::new(BLOB, first, me.session.leadership().failed().chain([me.id]));
        let mut took = Duration::ZERO;
        loop {
            let round = survey.next_round();
            if round.is_empty() {
                return (survey.heard(|_| true).into(), took);
            }
            let mut longest = self.random.millis(1, 120);
            for node in round {
                let other = self.at(node);
                let part = self.part_of(other).filter(|_| self.may_reach(at, other));
                if let Some(part) = part {
                    let it = &self.agents[other];
                    let (lead, nearest) = (it.session.following(), asking::nearest(BLOB, it.session.met()));
                    survey.answered(node, SurveyAnswer { part, lead, nearest });
                } else {
                    longest = SURVEY_TIMEOUT;
                }
            }
            took += longest;
        }
    }
}
