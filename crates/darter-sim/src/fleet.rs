//! The engine: takes one event after the other from the queue and lets pickers and lead decide.
//!
//! A node dies silently and is missed after a while; a lead's death leads to an election. Messages take the network's
//! latency and wait behind data where their delay matters to a decision (requests, cancels, announcements, failures); the
//! tracker's notices arrive at once.
//!
//! Pickers are polled only when something may follow: news of neighbours' pieces waits unread (`Node::news`) while the picker is
//! at its limit, and is not sent at all to who holds the piece.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use darter_core::{Moment, PieceIndex, Place, Tier};
use darter_swarm::{Action, Event, ReaderId, RequestId, Start, Teaching, Tuning};

use crate::node::{Node, Spot, id_of, index_of, scattered};
use crate::queue::{Queue, What};
use crate::report::Report;
use crate::scenario::{Network, Operation, Scenario};
use crate::uploads::{Limits, Upload, Uploads};

/// How long it takes until a dead node is missed.
const MISSED_AFTER: Duration = Duration::from_millis(200);

/// Pieces that a node sends at a time.
const SLOTS: u32 = 4;

/// News that may wait unread at a node.
const MOST_NEWS: usize = 512;

/// Polls of one node are at least this far apart, as those of a daemon are that handles what came in together.
const POLL_EVERY: Duration = Duration::from_micros(500);

/// A fleet in the middle of a scenario.
#[derive(Debug)]
pub struct Fleet {
    pub(crate) now: Moment,
    pub(crate) queue: Queue,
    pub(crate) nodes: Vec<Node>,
    /// When each node's cable will have received what is on its way.
    pub(crate) down_free: Vec<Moment>,
    pub(crate) shared: Vec<Shared>,
    pub(crate) leader: Option<u32>,
    /// Counts leads; a reading of the origin under a former one is void.
    pub(crate) reading: u32,
    pub(crate) is_reading: bool,
    /// How many hashes the origin has given.
    pub(crate) known: u32,
    /// When the lead has to tell members of their neighbours next.
    pub(crate) notices_at: Option<Moment>,
    pub(crate) teaching: Teaching,
    /// Members of the lead's swarm, its own node included.
    pub(crate) members: usize,
    /// When the lead looks whether to tell members of new hashes.
    pub(crate) growth_at: Option<Moment>,
    pub(crate) pieces: u32,
    pub(crate) piece_bytes: u64,
    pub(crate) origin: f64,
    pub(crate) network: Network,
    /// Bytes of a grain.
    pub(crate) grain: f64,
    pub(crate) limits: Limits,
    sample_every: Option<Duration>,
    tell_lead_pause: Option<Duration>,
    pub(crate) tuning: Tuning,
    pub(crate) seed: u64,
    pub(crate) report: Report,
    /// Former leads that sent wrong pieces: not elected again.
    pub(crate) deposed: BTreeSet<u32>,
    strikes: u32,
    /// Whether somebody ever sent a wrong piece.
    any_liar: bool,
    cuts: BTreeSet<(u32, u32)>,
    /// Pieces that came into each rack.
    crossings: BTreeMap<u32, u64>,
    operations: Vec<(Duration, Operation)>,
    operations_left: usize,
    waiting_for: usize,
    limit: Moment,
    actions: Vec<Action>,
}

/// A link that a rack or a zone shares.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Bytes per second, each way.
    pub(crate) rate: f64,
    /// When it will have passed on what is on its way.
    pub(crate) out_free: Moment,
    pub(crate) in_free: Moment,
}

impl Fleet {
    /// A fleet at the start of a scenario.
    ///
    /// # Panics
    /// When the scenario has no node, or an operation names a node that it doesn't have.
    pub fn new(scenario: &Scenario) -> Self {
        assert!(!scenario.nodes.is_empty(), "a scenario has a seed");
        let nodes = (0..).zip(&scenario.nodes).map(|(index, spec)| {
            let seed = scenario.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ scattered(index);
            Node::new(index, spec, scenario.piece_bytes, scenario.tuning, seed)
        });
        let network = scenario.network;
        let grain = network.grain.unwrap_or_else(|| (scenario.piece_bytes / 4).max(64 << 10));
        let of_piece = scenario.piece_bytes.div_ceil(grain.max(1)).max(1);
        let grain = scenario.piece_bytes as f64 / of_piece as f64;
        let limits = Limits {
            slots: SLOTS,
            of_piece: of_piece as u32,
            unsent: (network.unsent as f64 / grain) as u32,
            window: ((network.window as f64 / grain) as u32).max(2),
        };
        let shared = scenario.links.iter().map(|link| Shared {
            rate: link.rate.bytes_per_second() as f64,
            out_free: Moment::ZERO,
            in_free: Moment::ZERO,
        });
        let mut fleet = Self {
            now: Moment::ZERO,
            queue: Queue::default(),
            nodes: nodes.collect(),
            down_free: vec![Moment::ZERO; scenario.nodes.len()],
            shared: shared.collect(),
            leader: None,
            reading: 0,
            is_reading: false,
            known: 0,
            notices_at: None,
            teaching: Teaching::new(0, scenario.tuning, Moment::ZERO),
            members: 0,
            growth_at: None,
            pieces: scenario.pieces,
            piece_bytes: scenario.piece_bytes,
            origin: scenario.origin.map_or(1e15, |rate| rate.bytes_per_second() as f64),
            network,
            grain,
            limits,
            sample_every: scenario.sample_every,
            tell_lead_pause: scenario.tell_lead_pause,
            tuning: scenario.tuning,
            seed: scenario.seed,
            report: Report::default(),
            deposed: BTreeSet::new(),
            strikes: 0,
            any_liar: scenario.operations.iter().any(|(_, what)| matches!(what, Operation::Corrupt(_))),
            cuts: BTreeSet::new(),
            crossings: BTreeMap::new(),
            operations: scenario.operations.clone(),
            operations_left: scenario.operations.len(),
            waiting_for: 0,
            limit: Moment::ZERO + scenario.limit,
            actions: Vec::new(),
        };
        fleet.place(scenario);
        fleet.start(scenario);
        fleet
    }

    /// Numbers the places, and puts nodes behind the links that they share.
    fn place(&mut self, scenario: &Scenario) {
        let mut numbers: BTreeMap<(&str, &str, &str), u32> = BTreeMap::new();
        for (node, spec) in self.nodes.iter_mut().zip(&scenario.nodes) {
            let Place { region, zone, rack, .. } = &spec.place;
            let mut number = |names| {
                let next = numbers.len() as u32;
                *numbers.entry(names).or_insert(next)
            };
            node.spot = Spot {
                region: number((region, "", "")),
                zone: number((region, zone, "")),
                rack: number((region, zone, rack)),
            };
            let is_inside = |place: &Place| {
                (place.region == *region && place.zone == *zone) && (place.rack.is_empty() || place.rack == *rack)
            };
            let behind = (0..).zip(&scenario.links).filter(|(_, link)| is_inside(&link.place)).map(|(at, _)| at);
            node.behind = behind.collect();
        }
    }

    fn start(&mut self, scenario: &Scenario) {
        let joins = scenario.nodes.iter().enumerate().skip(1);
        self.operations.extend(joins.filter_map(|(index, spec)| Some((spec.joins?, Operation::Join(index)))));
        self.operations_left = self.operations.len();
        for (at, (when, _)) in self.operations.iter().enumerate() {
            self.queue.push(Moment::ZERO + *when, What::Operation(at as u32));
        }
        self.nodes[0].alive = true;
        if scenario.origin.is_none() {
            self.known = self.pieces;
            let holders = scenario.nodes.iter().enumerate().filter(|(index, spec)| *index == 0 || spec.holds);
            for (index, _) in holders {
                self.learn(index as u32, self.pieces);
                for piece in (0..self.pieces).map(PieceIndex) {
                    self.tell(index as u32, Event::Received { request: None, piece, bytes: self.piece_bytes });
                }
            }
        }
        self.lead_by(0, Start::Fresh);
    }

    /// Runs until everybody who stays has finished, or the limit is reached.
    pub fn run(mut self) -> Report {
        while let Some((at, what)) = self.queue.pop() {
            if at > self.limit || (self.waiting_for == 0 && self.operations_left == 0) {
                break;
            }
            self.sample_until(at);
            self.now = at;
            self.report.events += 1;
            self.happen(what);
        }
        self.finish()
    }

    /// Takes note of what everybody holds at each moment for that until `at`.
    fn sample_until(&mut self, at: Moment) {
        let Some(every) = self.sample_every else { return };
        loop {
            let due = every * self.report.samples.len() as u32;
            if Moment::ZERO + due > at {
                return;
            }
            let held = |node: &Node| (node.picker.held().len(), node.picker.held().len() - node.picker.lag());
            self.report.samples.push((due, self.nodes.iter().map(held).collect()));
        }
    }

    fn finish(mut self) -> Report {
        let took = |node: &Node| node.finished.map(|finished| finished.since(node.joined));
        self.report.finished = self.nodes.iter().map(took).collect();
        self.report.max_lags =
            self.nodes.iter().filter(|node| node.finished.is_some()).map(|node| node.max_lag).collect();
        self.report.unfinished = (0..self.nodes.len()).filter(|index| self.is_waited_for(*index)).collect();
        let crossings = self.crossings.iter().filter_map(|(rack, pieces)| {
            let inside = self.nodes.iter().find(|node| node.spot.rack == *rack)?;
            Some((inside.place.rack.clone(), *pieces))
        });
        self.report.crossings = crossings.collect();
        self.look_at_lead();
        self.report.ended = self.now.since(Moment::ZERO);
        self.report
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Operation(at) => self.operate(at as usize),
            What::Poll(node) => self.poll(node),
            What::Wake(node) => self.wake(node),
            What::Announce(node) => self.announce(node),
            What::TellLead(node) => self.tell_lead(node),
            What::Request { to, from, id, piece, urgent } => self.requested(to, from, id, PieceIndex(piece), urgent),
            What::Ask { to, from, id } => self.asked(to, from, id),
            What::Cancel { to, from, id } => self.nodes[to as usize].uploads.cancel(from, id),
            What::Grain { from, life } => self.grain_sent(from, life),
            What::Arrived(arrival) => self.arrived(&arrival),
            What::Room { from, connection, life } => self.has_room(from, connection, life),
            What::Started { node, id, piece, life } => {
                let starts = &mut self.nodes[node as usize];
                if starts.life == life {
                    starts.knowledge.learner.lead_showed(piece + 1);
                    let request = RequestId(u64::from(id));
                    self.tell(node, Event::Started { request, piece: PieceIndex(piece) });
                }
            }
            What::Failed { node, id, lost } => {
                if let Some((peer, piece)) = lost {
                    self.tell(node, Event::PeerLost { peer: id_of(peer), piece: PieceIndex(piece) });
                }
                self.tell(node, Event::Failed { request: RequestId(u64::from(id)) });
            }
            What::Lead(node) => self.lead_woken(node),
            What::Read { piece, reading } => self.origin_piece(PieceIndex(piece), reading),
            What::Noticed(node) => self.noticed(node),
            What::Elect => self.elect(),
            What::Notices => self.give_notices(),
            What::Growth => self.tell_growth(None),
            What::AskHashes { to, from, known } => self.asked_for_hashes(to, from, known),
            What::Hashes(told) => self.hear_hashes(&told),
        }
    }

    fn operate(&mut self, at: usize) {
        self.operations_left -= 1;
        match self.operations[at].1.clone() {
            Operation::Join(node) => self.join(node as u32),
            Operation::Leave(node) => {
                self.kill(node as u32);
                self.noticed(node as u32);
            }
            Operation::Kill(node) => self.kill(node as u32),
            Operation::Lose(one, other) => self.cut(one as u32, other as u32),
            Operation::Corrupt(node) => {
                if self.is_waited_for(node) {
                    self.waiting_for -= 1;
                }
                self.nodes[node].honest = false;
            }
            Operation::SlowDown(node, by) => {
                self.nodes[node].up /= f64::from(by.max(1));
                self.nodes[node].down /= f64::from(by.max(1));
            }
            Operation::Hang(node) => self.nodes[node].hung = true,
            Operation::KillLead => {
                if let Some(leader) = self.leader {
                    self.kill(leader);
                }
            }
            Operation::RestartSeed => self.restart_seed(),
            Operation::Read { node, from, patience } => {
                self.nodes[node].reader = Some((PieceIndex(from), patience));
                self.move_reader(node as u32);
            }
        }
    }

    fn join(&mut self, index: u32) {
        let now = self.now;
        let node = &mut self.nodes[index as usize];
        if node.alive {
            return;
        }
        node.alive = true;
        node.life = node.life.wrapping_add(1);
        node.joined = now;
        if self.is_waited_for(index as usize) {
            self.waiting_for += 1;
        }
        if let Some(leader) = self.leader.filter(|leader| self.any_liar && self.is_shunned(*leader)) {
            self.depose(leader);
        }
        if self.leader.is_none() {
            self.queue.push(now + MISSED_AFTER, What::Elect);
        }
        self.join_lead(index);
    }

    /// Whether the run goes on until this node has finished. Nothing is owed to one that sends wrong pieces.
    fn is_waited_for(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        node.alive && node.wants && node.honest && node.finished.is_none()
    }

    fn restart_seed(&mut self) {
        if self.nodes[0].alive {
            return;
        }
        self.nodes[0].alive = true;
        self.nodes[0].life = self.nodes[0].life.wrapping_add(1);
        self.lead_by(0, Start::TakeOver);
    }

    fn kill(&mut self, index: u32) {
        let now = self.now;
        if self.is_waited_for(index as usize) {
            self.waiting_for -= 1;
        }
        let node = &mut self.nodes[index as usize];
        if !node.alive {
            return;
        }
        node.alive = false;
        node.life = node.life.wrapping_add(1);
        node.lead = None;
        node.uploads = Uploads::default();
        node.news.clear();
        node.unproven.clear();
        self.down_free[index as usize] = now;
        if self.leader == Some(index) {
            self.leader = None;
            self.reading += 1;
        }
        // What it had under way is lost with it; what lies on its disk is not.
        self.change_lead(index, None);
        for other in std::mem::take(&mut self.nodes[index as usize].links) {
            self.part_from(index, other);
        }
        self.queue.push(now + MISSED_AFTER, What::Noticed(index));
    }

    fn noticed(&mut self, index: u32) {
        if self.nodes[index as usize].alive {
            return;
        }
        let id = self.nodes[index as usize].id;
        for other in 0..self.nodes.len() as u32 {
            self.unlink(other, index);
        }
        if self.leader.is_none() {
            self.elect();
        } else {
            let mut was_member = false;
            self.with_lead(|lead| {
                was_member = lead.held_by(id).is_some();
                lead.leave(id);
            });
            self.members -= usize::from(was_member);
            self.tell_growth(None);
        }
    }

    fn cut(&mut self, one: u32, other: u32) {
        if one == other || self.leader == Some(one) || self.leader == Some(other) {
            return;
        }
        self.cuts.insert((one.min(other), one.max(other)));
        self.unlink(one, other);
        self.unlink(other, one);
        self.part_cut();
    }

    /// The members say to the lead whom they can't reach.
    pub(crate) fn part_cut(&mut self) {
        let cuts = self.cuts.iter().filter(|(one, other)| self.is_cut(*one, *other));
        let cuts: Vec<_> = cuts.map(|(one, other)| (id_of(*one), id_of(*other))).collect();
        self.with_lead(|lead| {
            for (one, other) in cuts {
                lead.part(one, other);
            }
        });
    }

    pub(crate) fn is_cut(&self, one: u32, other: u32) -> bool {
        let to_lead = self.leader == Some(one) || self.leader == Some(other);
        !to_lead && !self.cuts.is_empty() && self.cuts.contains(&(one.min(other), one.max(other)))
    }

    /// Tells a picker something, and has it polled soon.
    pub(crate) fn tell(&mut self, index: u32, event: Event) {
        let node = &mut self.nodes[index as usize];
        node.picker.handle(event, self.now);
        if node.alive {
            self.poll_soon(index);
        }
    }

    pub(crate) fn poll_soon(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        if node.poll_at.is_none() {
            let at = self.now + POLL_EVERY;
            node.poll_at = Some(at);
            self.queue.push(at, What::Poll(index));
        }
    }

    fn poll(&mut self, index: u32) {
        let now = self.now;
        let node = &mut self.nodes[index as usize];
        node.poll_at = None;
        if !node.alive {
            return;
        }
        node.take_news();
        let mut actions = std::mem::take(&mut self.actions);
        node.picker.poll(now, &mut actions);
        self.ask_for_hashes(index);
        let next = self.next_wakeup(index);
        let node = &mut self.nodes[index as usize];
        if let Some(at) = next {
            let at = at.max(now + POLL_EVERY);
            if node.wake_at.is_none_or(|before| at < before) {
                node.wake_at = Some(at);
                self.queue.push(at, What::Wake(index));
            }
        }
        for action in actions.drain(..) {
            self.act(index, action);
        }
        self.actions = actions;
    }

    /// When a node has something to do though nothing happens.
    fn next_wakeup(&self, index: u32) -> Option<Moment> {
        let node = &self.nodes[index as usize];
        let of_hashes = node.knowledge.learner.next_wakeup().filter(|_| self.may_ask_for_hashes(index));
        node.picker.next_wakeup().into_iter().chain(of_hashes).min()
    }

    /// Polls a picker if its time has come by now; else waits on.
    fn wake(&mut self, index: u32) {
        if self.nodes[index as usize].wake_at != Some(self.now) {
            return;
        }
        self.nodes[index as usize].wake_at = None;
        match self.next_wakeup(index) {
            Some(at) if at > self.now => {
                self.nodes[index as usize].wake_at = Some(at);
                self.queue.push(at, What::Wake(index));
            }
            Some(_) => self.poll_soon(index),
            None => {}
        }
    }

    fn act(&mut self, from: u32, action: Action) {
        match action {
            Action::Request { id, peer, piece, urgent } => {
                let (to, id) = (index_of(peer), short(id));
                self.queue.push(self.message_at(from, to), What::Request { to, from, id, piece: piece.0, urgent });
            }
            Action::Ask { id, lead } => {
                let (to, id) = (index_of(lead), short(id));
                self.queue.push(self.message_at(from, to), What::Ask { to, from, id });
            }
            Action::Cancel { id, peer } => {
                let (to, id) = (index_of(peer), short(id));
                if self.leader == Some(to) {
                    self.count_message();
                }
                self.queue.push(self.message_at(from, to), What::Cancel { to, from, id });
            }
            Action::Report { peer, .. } => {
                let reporter = self.nodes[from as usize].id;
                if self.leader == Some(index_of(peer)) {
                    self.depose_after_strikes(index_of(peer));
                    return;
                }
                self.unlink(from, index_of(peer));
                self.count_message();
                self.with_lead(|lead| {
                    lead.report(reporter, peer);
                });
            }
        }
    }

    /// Members turn away from a lead that keeps sending wrong pieces, and elect another.
    fn depose_after_strikes(&mut self, leader: u32) {
        self.strikes += 1;
        if self.strikes < self.tuning.lead_strikes {
            return;
        }
        self.depose(leader);
        self.elect();
    }

    fn depose(&mut self, leader: u32) {
        self.strikes = 0;
        self.deposed.insert(leader);
        self.nodes[leader as usize].lead = None;
        self.leader = None;
    }

    fn asked(&mut self, to: u32, from: u32, request: u32) {
        self.count_message();
        if self.leader != Some(to) || self.nodes[to as usize].hung {
            return;
        }
        if self.nodes[from as usize].alive {
            self.nodes[to as usize].uploads.push(from, Upload { request, piece: None, urgent: false });
            self.fill_slots(to);
        }
    }

    /// A node's new pieces become known to its neighbours, and that it knows hashes.
    fn announce(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        let pieces = std::mem::take(&mut node.untold);
        let tells_of_hashes = std::mem::take(&mut node.tells_of_hashes);
        if !node.alive {
            return;
        }
        node.told = self.now;
        let links = std::mem::take(&mut node.links);
        for other in &links {
            if self.hear(*other, index, &pieces) || tells_of_hashes {
                self.show_known(*other, index);
            }
        }
        let leader = self.leader.filter(|leader| *leader != index);
        if let Some(leader) = leader.filter(|leader| self.nodes[*leader as usize].links.contains(&index)) {
            self.hear(leader, index, &pieces);
        }
        self.nodes[index as usize].links = links;
    }

    /// A node hears what a neighbour holds; whether it is told anything. Whoever holds a piece has no use for another holder.
    pub(crate) fn hear(&mut self, index: u32, peer: u32, pieces: &[PieceIndex]) -> bool {
        let node = &mut self.nodes[index as usize];
        let held = node.picker.held();
        let before = node.news.len();
        node.news.extend(pieces.iter().filter(|piece| !held.contains(**piece)).map(|piece| (peer, *piece)));
        if node.news.len() == before || !node.alive {
            return false;
        }
        let reads = node.picker.heeds_news() || node.news.len() > MOST_NEWS;
        if reads && node.take_news() {
            self.poll_soon(index);
        }
        true
    }

    /// Has a node tell its neighbours as soon as it may, unless that stands in the queue. Follow it with what there is to tell.
    pub(crate) fn announce_soon(&mut self, index: u32) {
        let node = &self.nodes[index as usize];
        if node.untold.is_empty() && !node.tells_of_hashes {
            let may_tell = (node.told + self.tuning.tell_pause(node.links.len())).max(self.now);
            self.queue.push(self.telling_at(index, may_tell), What::Announce(index));
        }
    }

    /// A node's new pieces become known to the lead.
    fn tell_lead(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        if node.tells_lead != Some(self.now) {
            return;
        }
        node.tells_lead = None;
        let pieces = std::mem::take(&mut node.untold_to_lead);
        if !node.alive || pieces.is_empty() || self.leader.is_none_or(|leader| leader == index) {
            return;
        }
        let (peer, now) = (node.id, self.now);
        self.count_message();
        self.with_lead(|lead| lead.have(peer, &pieces, now));
    }

    /// Counts a message to the tracker.
    pub(crate) fn count_message(&mut self) {
        let second = (self.now.as_micros() / 1_000_000) as usize;
        let seconds = &mut self.report.tracker_messages;
        if second >= seconds.len() {
            seconds.resize(second + 1, 0);
            self.look_at_lead();
        }
        self.report.tracker_messages[second] += 1;
    }

    fn look_at_lead(&mut self) {
        let lead = self.leader.and_then(|leader| self.nodes[leader as usize].lead.as_ref());
        let bytes = lead.map_or(0, |lead| lead.memory() as u64);
        self.report.tracker_bytes = self.report.tracker_bytes.max(bytes);
    }

    /// What follows when a node has stored a piece that it lacked, and whether the lead chose it.
    pub(crate) fn stored(&mut self, index: u32, piece: PieceIndex, chosen: bool) {
        let now = self.now;
        let node = &mut self.nodes[index as usize];
        if node.wants && node.finished.is_none() && node.picker.is_complete() {
            node.finished = Some(now);
            self.waiting_for -= usize::from(node.honest && node.alive);
        }
        node.max_lag = node.max_lag.max(node.picker.lag());
        self.move_reader(index);
        if self.leader == Some(index) {
            self.with_lead(|lead| lead.own(piece));
            return;
        }
        self.announce_soon(index);
        let node = &mut self.nodes[index as usize];
        node.untold.push(piece);
        node.untold_to_lead.push(piece);
        let usual = self.tell_lead_pause.unwrap_or_else(|| self.tuning.tell_lead_pause(node.links.len()));
        let pause = if chosen { self.tuning.tell_lead_soon } else { usual };
        let tells_lead = self.telling_at(index, now + pause);
        let node = &mut self.nodes[index as usize];
        if node.tells_lead.is_none_or(|before| tells_lead < before) {
            node.tells_lead = Some(tells_lead);
            self.queue.push(tells_lead, What::TellLead(index));
        }
    }

    fn move_reader(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        let Some((at, patience)) = node.reader else { return };
        let next = node.picker.held().first_missing_from(at);
        node.reader = (next.0 < self.pieces).then_some((next, patience));
        let reader = ReaderId(0);
        let event = match node.reader {
            None => Event::ReaderGone { reader },
            Some((piece, patience)) => Event::ReaderAt { reader, piece, count: 1, patience },
        };
        self.tell(index, event);
    }

    /// Counts an arrival, and notes it in the run's fingerprint.
    pub(crate) fn note_arrival(&mut self, from: u32, to: u32, piece: PieceIndex) {
        self.report.sent_pieces += 1;
        self.report.seed_pieces += u64::from(from == 0);
        let (sender, receiver) = (self.nodes[from as usize].spot, self.nodes[to as usize].spot);
        let tier = receiver.tier_to(sender);
        self.report.zone_crossings += u64::from(tier > Tier::Zone);
        if darter_swarm::locality::is_across(tier) {
            *self.crossings.entry(receiver.rack).or_default() += 1;
        }
        for word in [self.now.as_micros(), u64::from(from), u64::from(to), u64::from(piece.0)] {
            self.report.fingerprint =
                (self.report.fingerprint.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }
}

/// A request's name in events: no node makes 2^32 of them.
fn short(RequestId(id): RequestId) -> u32 {
    u32::try_from(id).expect("fewer requests than 2^32")
}
