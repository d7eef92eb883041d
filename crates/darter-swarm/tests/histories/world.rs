//! Agents that lead, follow, elect and greet by the decisions of `darter-swarm`, over a network that delays, loses, parts and kills.
//!
//! Between two agents there is one connection, which keeps messages in order until it breaks, as TCP does; between different pairs they
//! overtake each other. A message that is lost breaks its connection. Everything random comes from one number.
//!
//! | file | |
//! |---|---|
//! | this one | events, and what they come to |
//! | `network` | connections, what is said on them, delays and losses |
//! | `hearing` | what agents hear |
//! | `deciding` | what they do |
//! | `view`, `random` | what an agent knows besides its session; the generator |

mod deciding;
mod hearing;
mod network;
mod random;
pub(crate) mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use darter_core::{BlobId, Moment, NodeId, PieceHash, PieceLength};
use darter_protocol::{Message, Verdict};
use darter_swarm::{Found, Hashes, Input, Leadership, Picker, Session, Sought, Start, Tuning};

pub(crate) use self::random::Random;
use crate::pull::{Lie, WHOLE_AFTER};

pub(crate) const BLOB: BlobId = BlobId([0xb1; 32]);

/// The root and digest of the whole.
pub(crate) const VERDICT: Verdict = Verdict { root: PieceHash([7; 32]), digest: None };

pub(crate) const PIECES: PieceLength = PieceLength::UNKNOWN_BLOB;

/// How many pieces the blob has.
pub(crate) const COUNT: u32 = 8;

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
    /// An agent looks before its session's time has come, if it heard nothing meanwhile.
    LooksEarly {
        agent: usize,
        life: u32,
        heard: u64,
        wakeup: Option<Moment>,
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
    /// How often its session was told or asked something.
    pub(crate) heard: u64,
    /// At how many looks bytes came; and whether all are here and were checked.
    pub(crate) given: u32,
    pub(crate) is_complete: bool,
    /// Agents that led it and gave nothing: it asks them no more.
    pub(crate) let_down_by: BTreeSet<NodeId>,
}

pub(crate) struct World {
    pub(crate) now: Moment,
    events: BTreeMap<(Moment, u64), Event>,
    put: u64,
    random: Random,
    /// Draws who looks early, and when: nothing else depends on it.
    early: Random,
    pub(crate) agents: Vec<Agent>,
    /// Connected pairs, the lower first, each with the number of the connection and when what was said last arrives each way.
    connected: BTreeMap<(usize, usize), (u32, [Moment; 2])>,
    connections: u32,
    /// How many of two have not noticed yet that their connection is gone: they make no other before.
    breaking: BTreeMap<(usize, usize), u8>,
    parted: u64,
    /// Pairs that never reach each other, the lower first.
    pub(crate) walls: BTreeSet<(usize, usize)>,
    /// One message in this many is lost; none if zero.
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
            heard: 0,
            lie: None,
            given: 0,
            is_complete: false,
            let_down_by: BTreeSet::new(),
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
        let inside = neighbours * 2 / 3;
        let racks = Tuning { neighbours_inside: inside, neighbours_outside: neighbours - inside, ..Tuning::default() };
        let tuning = Tuning { neighbours, neighbours_few: inside, ..racks };
        let agents = (0..seeds + nodes).map(|at| Agent::new(at, at < seeds, tuning, &mut random)).collect();
        let mut world = Self {
            now: Moment::from_micros(1),
            events: BTreeMap::new(),
            put: 0,
            random,
            early: Random(!number),
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
            Event::LooksEarly { agent, life, heard, wakeup } => {
                let it = &self.agents[agent];
                if it.alive && it.life == life && it.heard == heard && wakeup.is_none_or(|at| self.now < at) {
                    self.look_early(agent, wakeup);
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
}
