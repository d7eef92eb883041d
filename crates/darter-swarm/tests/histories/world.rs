//! Agents that lead, follow, elect and greet by the decisions of `darter-swarm`, over a network that delays, loses, parts and kills.
//!
//! Between two agents there is one connection, which keeps messages in order until it breaks, as TCP does; between different pairs they
//! overtake each other. A message that is lost breaks its connection. Everything random comes from one number.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use darter_core::{BlobId, Moment, NodeId, PieceHash, PieceIndex, PieceLength, PieceSet, Place, Tier, Version};
use darter_protocol::{Message, Verdict};
use darter_swarm::asking::{self, SURVEY_TIMEOUT, Survey, SurveyAnswer};
use darter_swarm::leadership::JOIN_TIMEOUT;
use darter_swarm::{
    Came, Desk, Entering, Facts, Found, Hashes, Input, Leader, Leadership, LetIn, Loss, Output, Picker, Session,
    Sought, Start, Step, Tuning,
};

use crate::pull::{Lie, WHOLE_AFTER};

pub(crate) const BLOB: BlobId = BlobId([0xb1; 32]);

/// The root and digest of the whole.
pub(crate) const VERDICT: Verdict = Verdict { root: PieceHash([7; 32]), digest: None };

pub(crate) const PIECES: PieceLength = PieceLength::UNKNOWN_BLOB;

/// How many pieces the blob has.
pub(crate) const COUNT: u32 = 8;

/// An agent's knowledge of a blob of eight pieces: all hashes or none, since nothing is fetched here; and the agents that can be met.
pub(crate) struct View {
    pub(crate) knows: bool,
    pub(crate) reached: Vec<NodeId>,
    pub(crate) seeds: Vec<NodeId>,
}

impl Facts for View {
    fn blob(&self) -> BlobId {
        BLOB
    }

    fn version(&self) -> Version {
        Version::default()
    }

    fn piece_length(&self) -> PieceLength {
        PIECES
    }

    fn length(&self) -> Option<u64> {
        Some(PIECES.bytes() * u64::from(COUNT))
    }

    fn prefix(&self) -> u32 {
        if self.knows { COUNT } else { 0 }
    }

    fn known_count(&self) -> u32 {
        self.prefix()
    }

    fn known(&self) -> PieceSet {
        PieceSet::full(self.prefix())
    }

    fn knows(&self, _: PieceIndex) -> bool {
        self.knows
    }

    fn hashes_from(&self, from: u32, most: usize) -> Vec<PieceHash> {
        (from..self.prefix()).take(most).map(|piece| PieceHash([piece as u8; 32])).collect()
    }

    fn address(&self, node: NodeId) -> String {
        format!("host-{}:7400", node.0[0])
    }

    fn place(&self, _: NodeId) -> Option<Place> {
        None
    }

    fn tier(&self, _: NodeId) -> Tier {
        Tier::Far
    }

    fn is_connected(&self, node: NodeId) -> bool {
        self.reached.contains(&node)
    }

    fn is_seed(&self, node: NodeId) -> bool {
        self.seeds.contains(&node)
    }

    fn seeds(&self) -> Vec<NodeId> {
        self.seeds.iter().copied().filter(|seed| self.is_connected(*seed)).collect()
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) const fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    pub(crate) const fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from * 1000 + self.below((to - from) * 1000))
    }
}

/// Messages between agents.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    Join {
        request: u32,
    },
    Rejected {
        request: u32,
    },
    /// The sender, which leads, knows nothing of whom it let in.
    Forgot,
    /// A session's message.
    Told(Box<Message>),
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Said {
        to: usize,
        from: usize,
        connection: u32,
        what: Said,
    },
    /// An agent finds out that a connection is gone.
    Gone {
        agent: usize,
        life: u32,
        peer: usize,
    },
    /// A question was not answered in time.
    Late {
        agent: usize,
        life: u32,
        request: u32,
    },
    Found {
        agent: usize,
        life: u32,
        found: Found,
    },
    Rested {
        agent: usize,
        life: u32,
    },
    /// An agent does what it decides.
    Advance {
        agent: usize,
        life: u32,
    },
    /// An agent looks at its pull.
    Look {
        agent: usize,
        life: u32,
    },
    /// An agent connects to a seed that it is not connected to.
    Redial {
        agent: usize,
        life: u32,
        seed: usize,
    },
    Fault(Fault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill(usize),
    Start(usize),
    /// Agents whose bit is set can't reach the others.
    Part(u64),
    Heal,
    /// The connection of two breaks, and can be made again.
    Break(usize, usize),
}

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) id: NodeId,
    pub(crate) alive: bool,
    pub(crate) life: u32,
    pub(crate) is_seed: bool,
    pub(crate) lie: Option<Lie>,
    pub(crate) session: Session,
    requests: u32,
    asked: Option<(u32, NodeId)>,
    /// When it does next what it decides.
    advances: Option<Moment>,
    /// At how many looks bytes came; and whether all are here and were checked.
    pub(crate) given: u32,
    pub(crate) is_complete: bool,
}

pub(crate) struct World {
    pub(crate) now: Moment,
    events: BTreeMap<(Moment, u64), Event>,
    put: u64,
    random: Random,
    pub(crate) agents: Vec<Agent>,
    /// Connected pairs, the lower first, each with the number of the connection and when what was said last arrives each way.
    connected: BTreeMap<(usize, usize), (u32, [Moment; 2])>,
    connections: u32,
    /// How many of two have not noticed yet that their connection is gone: they make no other before.
    breaking: BTreeMap<(usize, usize), u8>,
    parted: u64,
    /// Pairs that never reach each other, the lower first.
    pub(crate) walls: BTreeSet<(usize, usize)>,
    /// One message in so many is lost; none if zero.
    pub(crate) loses_one_in: u64,
    /// True if agents want bytes.
    pub(crate) pulls: bool,
    tuning: Tuning,
    /// The acts of all agents, a line each, if a trace is wanted.
    pub(crate) trace: String,
    pub(crate) is_traced: bool,
}

impl Agent {
    fn new(at: usize, is_seed: bool, tuning: Tuning, random: &mut Random) -> Self {
        let mut id = [0; 16];
        id[0] = at as u8;
        id[8..].copy_from_slice(&random.next().to_le_bytes());
        let id = NodeId(id);
        Self {
            id,
            alive: false,
            life: 0,
            is_seed,
            session: Self::session(id, is_seed, tuning, Moment::ZERO),
            requests: 0,
            asked: None,
            advances: None,
            lie: None,
            given: 0,
            is_complete: false,
        }
    }

    fn session(id: NodeId, is_seed: bool, tuning: Tuning, now: Moment) -> Session {
        let picker = Picker::new(id, PIECES.bytes(), tuning, 1);
        let leadership = Leadership::new(id, BLOB, BLOB, !is_seed);
        let mut session = Session::new(id, picker, leadership, Hashes::new(BLOB, PIECES, &[], 0, tuning), tuning, now);
        // The arrival of bytes is decided elsewhere.
        session.wants_parts(now);
        session
    }

    /// True if it has let in `other`.
    pub(crate) fn leads(&self, other: NodeId) -> bool {
        self.session.has_member(other)
    }
}

impl World {
    /// Agents of which the first `seeds` are seeds. The first one leads, and the others join it.
    pub(crate) fn new(number: u64, seeds: usize, nodes: usize, neighbours: u32) -> Self {
        let mut random = Random(number);
        let tuning = Tuning { neighbours, neighbours_least: neighbours * 2 / 3, ..Tuning::default() };
        let agents = (0..seeds + nodes).map(|at| Agent::new(at, at < seeds, tuning, &mut random)).collect();
        let mut world = Self {
            now: Moment::from_micros(1),
            events: BTreeMap::new(),
            put: 0,
            random,
            agents,
            connected: BTreeMap::new(),
            connections: 0,
            breaking: BTreeMap::new(),
            parted: 0,
            walls: BTreeSet::new(),
            loses_one_in: 0,
            pulls: false,
            tuning,
            trace: String::new(),
            is_traced: std::env::var_os("DARTER_HISTORY").is_some(),
        };
        for at in 0..world.agents.len() {
            world.start(at);
        }
        world
    }

    /// Nodes come, one after the other; `is_walled` says of each pair of them whether it never meets.
    pub(crate) fn add(&mut self, nodes: usize, mut is_walled: impl FnMut(&mut Random) -> bool) {
        for _ in 0..nodes {
            let at = self.agents.len();
            for other in 1..at {
                if is_walled(&mut self.random) {
                    self.walls.insert((other, at));
                }
            }
            let agent = Agent::new(at, false, self.tuning, &mut self.random);
            self.agents.push(agent);
            self.start(at);
            self.run_for(Duration::from_millis(50));
        }
    }

    pub(crate) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    pub(crate) fn fault(&mut self, after: Duration, fault: Fault) {
        self.put(self.now + after, Event::Fault(fault));
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= until) {
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.happen(event);
        }
        self.now = until;
    }

    pub(crate) fn put(&mut self, at: Moment, event: Event) {
        self.put += 1;
        self.events.insert((at, self.put), event);
    }

    pub(crate) fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.is_traced {
            let _ = writeln!(self.trace, "{:>10} {}", self.now.as_micros(), text());
        }
    }

    /// Which agent has an id: they begin with it.
    pub(crate) fn at(&self, id: NodeId) -> usize {
        usize::from(id.0[0])
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Said { to, from, connection, what } => {
                if self.connection(to, from) == Some(connection) {
                    self.hear(to, from, what);
                }
            }
            Event::Gone { agent, life, peer } => {
                *self.breaking.get_mut(&(agent.min(peer), agent.max(peer))).expect("it is breaking") -= 1;
                if self.agents[agent].alive && self.agents[agent].life == life {
                    self.peer_gone(agent, peer);
                }
            }
            Event::Late { agent, life, request } => {
                let it = &mut self.agents[agent];
                if it.life == life
                    && let Some((_, asked)) = it.asked.take_if(|(asked, _)| *asked == request)
                {
                    self.hears(agent, Input::Sought(Sought::Silent(asked)));
                }
            }
            Event::Found { agent, life, found } => {
                if self.agents[agent].life == life {
                    self.hears(agent, Input::Sought(Sought::Found { found, holders: Vec::new() }));
                }
            }
            Event::Rested { agent, life } => {
                if self.agents[agent].life == life {
                    self.hears(agent, Input::Sought(Sought::Done));
                }
            }
            Event::Advance { agent, life } => {
                if self.agents[agent].life == life {
                    self.advance(agent);
                }
            }
            Event::Look { agent, life } => {
                if self.agents[agent].life == life {
                    self.look(agent);
                }
            }
            Event::Redial { agent, life, seed } => {
                if self.agents[agent].alive && self.agents[agent].life == life {
                    self.keep_connected(agent, seed);
                }
            }
            Event::Fault(fault) => self.trouble(fault),
        }
    }

    fn trouble(&mut self, fault: Fault) {
        self.tell(|| format!("{fault:?}"));
        match fault {
            Fault::Kill(at) => self.kill(at),
            Fault::Start(at) => self.start(at),
            Fault::Part(group) => {
                self.parted = group;
                for (one, other) in self.connected.keys().copied().collect::<Vec<_>>() {
                    if !self.may_reach(one, other) {
                        self.disconnect(one, other, true);
                    }
                }
            }
            Fault::Heal => self.parted = 0,
            Fault::Break(one, other) => self.disconnect(one, other, false),
        }
    }

    fn start(&mut self, at: usize) {
        let agent = &mut self.agents[at];
        if agent.alive {
            return;
        }
        agent.alive = true;
        agent.life += 1;
        agent.session = Agent::session(agent.id, agent.is_seed, self.tuning, self.now);
        agent.advances = None;
        if agent.is_complete {
            agent.session.resumes(Some(VERDICT), true);
        }
        if agent.given >= WHOLE_AFTER {
            self.gets_all(at);
        }
        self.look_later(at);
        for seed in 0..self.agents.len() {
            if self.agents[seed].is_seed && seed != at {
                self.keep_connected(at, seed);
            }
        }
        if self.agents[at].is_seed {
            let start = if self.agents.iter().any(|agent| agent.life > 1) { Start::TakeOver } else { Start::Fresh };
            self.lead(at, start);
        } else {
            self.seek(at);
        }
    }

    fn kill(&mut self, at: usize) {
        let agent = &mut self.agents[at];
        agent.alive = false;
        agent.life += 1;
        agent.asked = None;
        for other in 0..self.agents.len() {
            self.disconnect(at, other, false);
        }
    }

    // Connections.

    fn may_reach(&self, one: usize, other: usize) -> bool {
        let side = |at: usize| self.parted >> at & 1;
        let is_open = !self.walls.contains(&(one.min(other), one.max(other)));
        is_open && self.agents[one].alive && self.agents[other].alive && side(one) == side(other)
    }

    pub(crate) fn connection(&self, one: usize, other: usize) -> Option<u32> {
        self.connected.get(&(one.min(other), one.max(other))).map(|(connection, _)| *connection)
    }

    /// Connects two, if they can reach each other; whether they are connected.
    fn connect(&mut self, one: usize, other: usize) -> bool {
        if one == other || !self.may_reach(one, other) {
            return false;
        }
        if self.connection(one, other).is_some() {
            return true;
        }
        if self.breaking.get(&(one.min(other), one.max(other))).is_some_and(|sides| *sides > 0) {
            return false;
        }
        self.connections += 1;
        self.connected.insert((one.min(other), one.max(other)), (self.connections, [self.now; 2]));
        for (agent, seed) in [(one, other), (other, one)] {
            self.seed_came(agent, seed);
            self.advance_soon(agent);
        }
        true
    }

    /// Ends a connection. Where the network is silent that is noticed late.
    fn disconnect(&mut self, one: usize, other: usize, silently: bool) {
        if self.connected.remove(&(one.min(other), one.max(other))).is_none() {
            return;
        }
        *self.breaking.entry((one.min(other), one.max(other))).or_default() += 2;
        for (agent, peer) in [(one, other), (other, one)] {
            let late = if silently { self.random.millis(1000, 5000) } else { self.random.millis(1, 20) };
            let life = self.agents[agent].life;
            self.put(self.now + late, Event::Gone { agent, life, peer });
        }
    }

    /// Agents try again and again to reach a seed.
    fn keep_connected(&mut self, agent: usize, seed: usize) {
        if !self.connect(agent, seed) {
            let (life, again) = (self.agents[agent].life, self.random.millis(500, 2000));
            self.put(self.now + again, Event::Redial { agent, life, seed });
        }
    }

    pub(crate) fn say(&mut self, from: usize, to: NodeId, what: Said) -> bool {
        let to = self.at(to);
        let delay = self.random.millis(0, 60);
        let Some((connection, last)) = self.connected.get_mut(&(from.min(to), from.max(to))) else { return false };
        let (connection, last) = (*connection, &mut last[usize::from(from < to)]);
        let at = (self.now + delay).max(*last);
        *last = at;
        if self.loses_one_in > 0 && self.random.one_in(self.loses_one_in) {
            self.disconnect(from, to, true);
        } else {
            self.put(at, Event::Said { to, from, connection, what });
        }
        true
    }

    // Reactions of agents to what they hear.

    fn peer_gone(&mut self, agent: usize, peer: usize) {
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

    fn seed_came(&mut self, agent: usize, seed: usize) {
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
        View { knows: self.agents[at].given >= WHOLE_AFTER, reached, seeds }
    }

    fn hear(&mut self, to: usize, from: usize, what: Said) {
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
    fn told(&mut self, to: usize, from: usize, message: Message) {
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

    // Decisions of agents.

    /// An agent does soon what it decides.
    pub(crate) fn advance_soon(&mut self, at: usize) {
        self.advance_at(at, self.now);
    }

    fn advance_at(&mut self, at: usize, when: Moment) {
        let agent = &mut self.agents[at];
        if agent.alive && agent.advances.is_none_or(|before| when < before) {
            agent.advances = Some(when);
            let life = agent.life;
            self.put(when, Event::Advance { agent: at, life });
        }
    }

    fn advance(&mut self, at: usize) {
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
                Output::LeadLost { lead, why, .. } => self.tell(|| format!("{at} lost its lead {lead}: {why}")),
                // There is nothing to throw away.
                Output::StartOver { .. } => self.seek(at),
                _ => {}
            }
        }
        if let Some(wakeup) = wakeup {
            self.advance_at(at, wakeup.max(now + Duration::from_millis(1)));
        }
    }

    /// All bytes have come to an agent.
    pub(crate) fn gets_all(&mut self, at: usize) {
        self.hears(at, Input::Learned(0..COUNT));
        for piece in (0..COUNT).map(PieceIndex) {
            self.hears(at, Input::Stored(Came { piece, bytes: PIECES.bytes(), request: None, from: None }));
        }
    }

    /// An agent connects to another.
    fn dial(&mut self, agent: usize, node: NodeId) {
        let other = self.at(node);
        // Where both have yet to notice that their connection is gone, they try again then.
        if !self.connect(agent, other) && !self.may_reach(agent, other) {
            self.hears(agent, Input::Unreached(node));
        }
        self.advance_soon(agent);
    }

    // Leading.

    fn lead(&mut self, at: usize, start: Start) {
        self.tell(|| format!("{at} leads"));
        let desk = self.desk();
        self.hears(at, Input::Leads { start, desk });
    }

    fn desk(&mut self) -> Desk {
        Desk { place: Place::default(), seed: self.random.next() }
    }

    fn let_in(&mut self, at: usize, member: usize, request: u32) {
        let desk = self.desk();
        self.hears(at, Input::OpensBooks(desk));
        let id = self.agents[member].id;
        let entering = Entering { node: id, request, whole: None };
        let held = PieceSet::new();
        self.hears(at, Input::Enters { entering, place: Place::default(), held, wants: true });
    }

    // Looking for a lead.

    pub(crate) fn seek(&mut self, agent: usize) {
        self.hears(agent, Input::Resumes);
    }

    fn seek_by(&mut self, at: usize, step: Step) {
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

    fn ask(&mut self, at: usize, candidate: NodeId) {
        let to = self.at(candidate);
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

    fn ask_around(&mut self, at: usize) -> (Found, Duration) {
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
