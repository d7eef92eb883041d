//! The engine: takes one event after the other from the queue and lets pickers and lead decide.
//!
//! A node dies silently and is missed after a while; a lead's death leads to an election. Messages take the scenario's
//! latency where their order or delay matters to a decision (requests, asks, announcements, failures); the tracker's
//! notices arrive at once.

use std::collections::BTreeSet;
use std::time::Duration;

use darter_core::{Moment, PieceIndex};
use darter_swarm::{Action, Event, ReaderId, RequestId, Start, Tuning};

use crate::links::Transfer;
use crate::node::{Node, content, id_of, index_of};
use crate::queue::{Queue, What};
use crate::report::Report;
use crate::scenario::{Operation, Scenario};
use crate::uploads::{Upload, Uploads};

/// How long it takes until a dead node is missed.
const MISSED_AFTER: Duration = Duration::from_millis(200);

/// Polls of one node are at least this far apart, as those of a daemon are that handles what came in together.
const POLL_EVERY: Duration = Duration::from_micros(500);

/// A fleet in the middle of a scenario.
#[derive(Debug)]
pub struct Fleet {
    pub(crate) now: Moment,
    pub(crate) queue: Queue,
    pub(crate) nodes: Vec<Node>,
    pub(crate) transfers: Vec<Transfer>,
    pub(crate) free_transfers: Vec<u32>,
    pub(crate) leader: Option<u32>,
    /// Counts leads; a reading of the origin under a former one is void.
    pub(crate) reading: u32,
    pub(crate) is_reading: bool,
    pub(crate) known: u32,
    pub(crate) manifest_due: bool,
    pub(crate) pieces: u32,
    pub(crate) piece_bytes: u64,
    pub(crate) origin: f64,
    pub(crate) latency: Duration,
    tell_pause: Duration,
    tell_lead_pause: Duration,
    pub(crate) tuning: Tuning,
    pub(crate) seed: u64,
    pub(crate) report: Report,
    /// Former leads that sent wrong pieces: not elected again.
    pub(crate) deposed: BTreeSet<u32>,
    strikes: u32,
    cuts: BTreeSet<(u32, u32)>,
    crossings: std::collections::BTreeMap<String, u64>,
    operations: Vec<(Duration, Operation)>,
    operations_left: usize,
    waiting_for: usize,
    limit: Moment,
    actions: Vec<Action>,
}

impl Fleet {
    /// A fleet at the start of a scenario.
    ///
    /// # Panics
    /// When the scenario has no node, or an operation names a node that it doesn't have.
    pub fn new(scenario: &Scenario) -> Self {
        assert!(!scenario.nodes.is_empty(), "a scenario has a seed");
        let nodes = (0..).zip(&scenario.nodes).map(|(index, spec)| {
            let seed = scenario.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ content(index);
            Node::new(index, spec, scenario.pieces, scenario.piece_bytes, scenario.tuning, seed)
        });
        let mut fleet = Self {
            now: Moment::ZERO,
            queue: Queue::default(),
            nodes: nodes.collect(),
            transfers: Vec::new(),
            free_transfers: Vec::new(),
            leader: None,
            reading: 0,
            is_reading: false,
            known: 0,
            manifest_due: false,
            pieces: scenario.pieces,
            piece_bytes: scenario.piece_bytes,
            origin: scenario.origin.map_or(1e15, |rate| rate.bytes_per_second() as f64),
            latency: scenario.latency,
            tell_pause: scenario.tell_pause,
            tell_lead_pause: scenario.tell_lead_pause,
            tuning: scenario.tuning,
            seed: scenario.seed,
            report: Report::default(),
            deposed: BTreeSet::new(),
            strikes: 0,
            cuts: BTreeSet::new(),
            crossings: std::collections::BTreeMap::new(),
            operations: scenario.operations.clone(),
            operations_left: scenario.operations.len(),
            waiting_for: 0,
            limit: Moment::ZERO + scenario.limit,
            actions: Vec::new(),
        };
        fleet.start(scenario);
        fleet
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
            self.tell_manifest(0);
            for piece in (0..self.pieces).map(PieceIndex) {
                self.put(0, piece, content(piece.0));
                self.tell(0, Event::Received { request: None, piece, bytes: self.piece_bytes });
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
            self.now = at;
            self.report.events += 1;
            self.happen(what);
        }
        self.finish()
    }

    fn finish(mut self) -> Report {
        let took = |node: &Node| node.finished.map(|finished| finished.since(node.joined));
        self.report.finished = self.nodes.iter().map(took).collect();
        self.report.unfinished = (0..self.nodes.len()).filter(|index| self.is_waited_for(*index)).collect();
        let wrong = |node: &Node| {
            let stored = (0..).zip(&node.store);
            stored.filter(|(piece, stored)| stored.is_some_and(|stored| stored != content(*piece))).count() as u64
        };
        self.report.wrong_pieces = self.nodes.iter().map(wrong).sum();
        self.report.crossings = self.crossings.into_iter().collect();
        self.report.ended = self.now.since(Moment::ZERO);
        self.report
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Operation(at) => self.operate(at as usize),
            What::Poll(node) => self.poll(node),
            What::Announce(node) => self.announce(node),
            What::TellLead(node) => self.tell_lead(node),
            What::Request { to, from, id, piece, urgent } => self.requested(to, from, id, PieceIndex(piece), urgent),
            What::Ask { to, from, id } => self.asked(to, from, id),
            What::Started(transfer) => self.transfer_started(transfer),
            What::Sent(transfer) => self.transfer_sent(transfer),
            What::Ended(transfer) => self.transfer_ended(transfer),
            What::Failed { node, id } => self.tell(node, Event::Failed { request: RequestId(id) }),
            What::Lead(node) => self.lead_woken(node),
            What::Read { piece, reading } => self.origin_piece(PieceIndex(piece), reading),
            What::Noticed(node) => self.noticed(node),
            What::Elect => self.elect(),
            What::Manifest => self.manifest_to_all(),
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
        node.life += 1;
        node.joined = now;
        if self.is_waited_for(index as usize) {
            self.waiting_for += 1;
        }
        if let Some(leader) = self.leader.filter(|leader| self.is_shunned(*leader)) {
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
        self.nodes[0].life += 1;
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
        node.life += 1;
        node.lead = None;
        node.uploads = Uploads::default();
        node.up_free = now;
        node.down_free = now;
        if self.leader == Some(index) {
            self.leader = None;
            self.reading += 1;
        }
        // What it had under way is lost with it; what lies on its disk is not.
        self.tell(index, Event::LeadChanged { lead: None });
        for other in std::mem::take(&mut self.nodes[index as usize].links) {
            let peer = self.nodes[other as usize].id;
            self.tell(index, Event::PeerLeft { peer });
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
            self.with_lead(|lead| lead.leave(id));
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

    /// Tells a picker something, and has it polled soon if anything follows.
    pub(crate) fn tell(&mut self, index: u32, event: Event) {
        let node = &mut self.nodes[index as usize];
        if node.picker.handle(event, self.now) && node.alive {
            let at = self.now + POLL_EVERY;
            self.poll_by(index, at);
        }
    }

    fn poll_by(&mut self, index: u32, at: Moment) {
        let node = &mut self.nodes[index as usize];
        if node.poll_at.is_none_or(|before| at < before) {
            node.poll_at = Some(at);
            self.queue.push(at, What::Poll(index));
        }
    }

    fn poll(&mut self, index: u32) {
        let now = self.now;
        let node = &mut self.nodes[index as usize];
        if node.poll_at != Some(now) {
            return;
        }
        node.poll_at = None;
        if !node.alive {
            return;
        }
        let mut actions = std::mem::take(&mut self.actions);
        node.picker.poll(now, &mut actions);
        if let Some(at) = node.picker.next_wakeup() {
            self.poll_by(index, at.max(now + POLL_EVERY));
        }
        for action in actions.drain(..) {
            self.act(index, action);
        }
        self.actions = actions;
    }

    fn act(&mut self, from: u32, action: Action) {
        let at = self.now + self.latency;
        match action {
            Action::Request { id: RequestId(id), peer, piece, urgent } => {
                let to = index_of(peer);
                self.queue.push(at, What::Request { to, from, id, piece: piece.0, urgent });
            }
            Action::Ask { id: RequestId(id), lead } => {
                self.queue.push(at, What::Ask { to: index_of(lead), from, id });
            }
            Action::Cancel { id: RequestId(id), peer } => {
                let to = index_of(peer);
                self.report.tracker_messages += u64::from(self.leader == Some(to));
                self.nodes[to as usize].uploads.cancel(from, id);
            }
            Action::Report { peer, .. } => {
                let reporter = self.nodes[from as usize].id;
                self.unlink(from, index_of(peer));
                if self.leader == Some(index_of(peer)) {
                    self.depose_after_strikes(index_of(peer));
                    return;
                }
                self.report.tracker_messages += 1;
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

    fn asked(&mut self, to: u32, from: u32, id: u64) {
        self.report.tracker_messages += 1;
        if self.leader != Some(to) || self.nodes[to as usize].hung {
            return;
        }
        if self.nodes[from as usize].alive {
            self.nodes[to as usize].uploads.push(from, Upload { request: id, piece: None, urgent: false });
            self.fill_slots(to);
        }
    }

    /// A node's new pieces become known to its neighbours.
    fn announce(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        let pieces = std::mem::take(&mut node.untold);
        if !node.alive {
            return;
        }
        let peer = node.id;
        let links = std::mem::take(&mut node.links);
        for other in &links {
            for piece in &pieces {
                self.tell(*other, Event::PeerHas { peer, piece: *piece });
            }
        }
        let leader = self.leader.filter(|leader| *leader != index);
        if let Some(leader) = leader.filter(|leader| self.nodes[*leader as usize].links.contains(&index)) {
            for piece in &pieces {
                self.tell(leader, Event::PeerHas { peer, piece: *piece });
            }
        }
        self.nodes[index as usize].links = links;
    }

    /// A node's new pieces become known to the lead.
    fn tell_lead(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        let pieces = std::mem::take(&mut node.untold_to_lead);
        if !node.alive || self.leader.is_none_or(|leader| leader == index) {
            return;
        }
        let (peer, now) = (node.id, self.now);
        self.report.tracker_messages += 1;
        self.with_lead(|lead| {
            for piece in pieces {
                lead.have(peer, piece, now);
            }
        });
    }

    /// Writes a piece to a node's store; false if it was there.
    pub(crate) fn put(&mut self, index: u32, piece: PieceIndex, content: u64) -> bool {
        self.nodes[index as usize].store[piece.as_usize()].replace(content).is_none()
    }

    /// What follows when a node has stored a piece that it lacked.
    pub(crate) fn stored(&mut self, index: u32, piece: PieceIndex) {
        let now = self.now;
        let node = &mut self.nodes[index as usize];
        if node.wants && node.finished.is_none() && node.picker.is_complete() {
            node.finished = Some(now);
            self.waiting_for -= usize::from(node.honest && node.alive);
        }
        self.move_reader(index);
        if self.leader == Some(index) {
            self.with_lead(|lead| lead.own(piece));
        } else {
            let node = &mut self.nodes[index as usize];
            if node.untold.is_empty() {
                self.queue.push(now + self.tell_pause + self.latency, What::Announce(index));
            }
            if node.untold_to_lead.is_empty() {
                self.queue.push(now + self.tell_lead_pause + self.latency, What::TellLead(index));
            }
            node.untold.push(piece);
            node.untold_to_lead.push(piece);
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
        let (sender, receiver) = (&self.nodes[from as usize].place, &self.nodes[to as usize].place);
        if darter_swarm::locality::is_across(receiver.tier_to(sender)) {
            *self.crossings.entry(receiver.rack.clone()).or_default() += 1;
        }
        for word in [self.now.as_micros(), u64::from(from), u64::from(to), u64::from(piece.0)] {
            self.report.fingerprint =
                (self.report.fingerprint.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }
}
