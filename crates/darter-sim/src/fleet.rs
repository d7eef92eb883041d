//! The engine: takes one event after the other from the queue and lets pickers and lead decide.
//!
//! A node dies silently and is missed after a while; those who followed it look for another lead. Messages take the network's
//! latency and wait behind data where their delay matters to a decision (requests, cancels, announcements, failures); the
//! tracker's notices arrive at once.
//!
//! Pickers are polled only when something may follow: news of neighbours' pieces waits unread (`Node::unread`) while the picker is
//! at its limit.

use std::collections::BTreeMap;
use std::time::Duration;

use darter_core::{Moment, PieceIndex, Place, Tier};
use darter_scenario::Event as Happening;
use darter_swarm::{Action, Came, Event, ReaderId, RequestId, Start, Told};

use crate::events::Troubles;
use crate::hashes::{Blob, Mail};
use crate::leading::Leading;
use crate::node::{Node, Spot, id_of, index_of, scattered};
use crate::queue::{Queue, What};
use crate::report::Report;
use crate::scenario::{Network, Scenario};
use crate::uploads::{Limits, Upload, Uploads};

/// How long it takes until a dead node is missed.
pub(crate) const MISSED_AFTER: Duration = Duration::from_millis(200);

/// Pieces that a node sends at a time.
const SLOTS: u32 = 4;

/// News that may wait unread at a node.
const MAX_NEWS: usize = 512;

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
    /// Counts the books of leads that were opened.
    pub(crate) books: u32,
    /// The blob, and messages about its hashes on their way.
    pub(crate) blob: Blob,
    pub(crate) mail: Mail,
    /// How many hashes the origin has given.
    pub(crate) known: u32,
    pub(crate) pieces: u32,
    pub(crate) piece_bytes: u64,
    pub(crate) origin: f64,
    /// What the origin gives one connection, and how many a lead may have.
    pub(crate) origin_each: f64,
    pub(crate) origin_connections: u8,
    pub(crate) network: Network,
    /// Bytes of a grain.
    pub(crate) grain: f64,
    pub(crate) limits: Limits,
    sample_every: Option<Duration>,
    pub(crate) seed: u64,
    pub(crate) report: Report,
    /// Where nothing passes, or not what was sent.
    pub(crate) troubles: Troubles,
    /// Pieces that came into each rack.
    crossings: BTreeMap<u32, u64>,
    pub(crate) events: Vec<(Duration, Happening)>,
    pub(crate) events_left: usize,
    /// How long a reader in order stands still before its piece becomes urgent.
    patience: Duration,
    pub(crate) waiting_for: usize,
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
        let mut tuning = scenario.tuning;
        if let Some(pause) = scenario.tell_lead_pause {
            (tuning.tell_lead_soon, tuning.tell_lead_late) = (pause, pause);
        }
        let nodes = (0..).zip(&scenario.nodes).map(|(index, spec)| {
            let seed = scenario.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ scattered(index);
            let mut node = Node::new(index, spec, scenario.piece_bytes, tuning, seed);
            node.session.hashes.set_total(scenario.pieces);
            node
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
            books: 0,
            blob: Blob::new(
                scenario.pieces,
                scenario.piece_bytes,
                scenario.nodes.iter().map(|node| node.place.clone()).collect(),
            ),
            mail: Mail::default(),
            known: 0,
            pieces: scenario.pieces,
            piece_bytes: scenario.piece_bytes,
            origin: scenario.origin.map_or(1e15, |rate| rate.bytes_per_second() as f64),
            origin_each: scenario.origin_each.map_or(f64::INFINITY, |rate| rate.bytes_per_second() as f64),
            origin_connections: scenario.origin_connections,
            network,
            grain,
            limits,
            sample_every: scenario.sample_every,
            seed: scenario.seed,
            report: Report::default(),
            troubles: Troubles::default(),
            crossings: BTreeMap::new(),
            events: scenario.events.clone(),
            events_left: scenario.events.len(),
            patience: scenario.patience,
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
        let joins = (0..).zip(&scenario.nodes).skip(1);
        self.events.extend(joins.filter_map(|(index, spec)| Some((spec.joins?, Happening::Join(index)))));
        self.events_left = self.events.len();
        for (at, (when, _)) in self.events.iter().enumerate() {
            self.queue.push(Moment::ZERO + *when, What::Event(at as u32));
        }
        self.nodes[0].alive = true;
        let holds = |index: usize| scenario.nodes[index].holds || (index == 0 && scenario.origin.is_none());
        if (0..scenario.nodes.len()).any(holds) {
            self.known = self.pieces;
            for index in (0..scenario.nodes.len()).filter(|index| holds(*index)) {
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
            if at > self.limit || (self.waiting_for == 0 && self.events_left == 0) {
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
            let held = |node: &Node| {
                (node.session.picker.held().len(), node.session.picker.held().len() - node.session.picker.lag())
            };
            self.report.samples.push((due, self.nodes.iter().map(held).collect()));
        }
    }

    fn finish(mut self) -> Report {
        let took = |node: &Node| node.finished.filter(|_| node.honest).map(|finished| finished.since(node.joined));
        self.report.finished = self.nodes.iter().map(took).collect();
        let ends = self.nodes.iter().filter(|node| node.honest).filter_map(|node| node.finished);
        self.report.last = ends.max().map_or(Duration::ZERO, |last| last.since(Moment::ZERO));
        self.report.max_lags =
            self.nodes.iter().filter(|node| node.finished.is_some()).map(|node| node.max_lag).collect();
        self.report.unfinished = (0..self.nodes.len()).filter(|index| self.is_waited_for(*index)).collect();
        let crossings = self.crossings.iter().filter_map(|(rack, pieces)| {
            let inside = self.nodes.iter().find(|node| node.spot.rack == *rack)?;
            Some((self.blob.place(index_of(inside.id)).rack.clone(), *pieces))
        });
        self.report.crossings = crossings.collect();
        self.look_at_lead();
        self.report.decisions = self.nodes.iter().filter_map(|node| node.session.leadership.trace()).collect();
        self.report.ended = self.now.since(Moment::ZERO);
        self.report
    }

    fn happen(&mut self, what: What) {
        let Some(what) = self.passes(what) else { return };
        match what {
            What::Event(at) => self.event(at as usize),
            What::Silent { one, other, since } => self.fell_silent(one, other, since),
            What::Poll(node) => self.poll(node),
            What::Wake(node) => self.wake(node),
            What::Tell(node) => self.tell_news(node),
            What::Request { to, from, id, piece, urgent } => self.requested(to, from, id, PieceIndex(piece), urgent),
            What::Ask { to, from, id } => self.asked(to, from, id),
            What::Cancel { to, from, id } => self.nodes[to as usize].uploads.cancel(from, id),
            What::Grain { from, life } => self.grain_sent(from, life),
            What::Arrived(arrival) => self.arrived(&arrival),
            What::Room { from, connection, life } => self.has_room(from, connection, life),
            What::Started { node, from, id, piece, life } => {
                let starts = &mut self.nodes[node as usize];
                if starts.life == life {
                    let (request, now) = (RequestId(u64::from(id)), starts.clock(self.now));
                    starts.session.begun(request, PieceIndex(piece), id_of(from), now);
                    self.poll_soon(node);
                }
            }
            What::Failed { node, id, lost } => self.not_answered(node, id, lost),
            What::Lead(node) => self.lead_woken(node),
            What::Read { by, life, reader, run } => self.origin_piece(by, life, reader, run),
            What::Tried { by, life, bytes, parts } => self.origin_tried(by, life, bytes, parts),
            What::Noticed(node) => self.noticed(node),
            What::AskToLead { to, from, life } => self.asked_to_lead(to, from, life),
            What::NotLed { node, by, life } => self.not_led(node, by, life),
            What::Unreached { node, peer, life } => self.unreached(node, peer, life),
            What::Heard { node, life } => self.round_over(node, life),
            What::Rested { node, life } => self.rested(node, life),
            What::Look { node, life } => self.look_at_own_lead(node, life),
            What::Speak(lead) => self.speak(lead),
            What::Letter(at) => self.letter_came(at),
            What::Lied(lied) => self.lies_on(lied),
        }
    }

    pub(crate) fn join(&mut self, index: u32) {
        if !self.start_up(index) {
            return;
        }
        self.nodes[index as usize].joined = self.now;
        if self.is_waited_for(index as usize) {
            self.waiting_for += 1;
        }
        if self.nodes[0].alive && !self.is_cut(index, 0) {
            self.join_lead(index, 0);
        } else {
            self.seek(index);
        }
    }

    /// A node's process starts; false if it runs. Those who missed it not yet do so now.
    pub(crate) fn start_up(&mut self, index: u32) -> bool {
        if self.nodes[index as usize].alive {
            return false;
        }
        if self.nodes[index as usize].life > 0 {
            self.noticed(index);
        }
        let node = &mut self.nodes[index as usize];
        node.alive = true;
        node.life = node.life.wrapping_add(1);
        self.check_disk(index);
        true
    }

    /// Whether the run goes on until this node has finished. Nothing is owed to one that lies.
    pub(crate) fn is_waited_for(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        node.alive && node.wants && node.honest && node.finished.is_none()
    }

    pub(crate) fn kill(&mut self, index: u32) {
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
        node.leading = Leading::default();
        // What it had under way is lost with it; what lies on its disk is not.
        node.session.restart(Node::leadership(index), now);
        node.survey = None;
        node.looks_at = None;
        node.uploads = Uploads::default();
        node.tells_at = None;
        node.unread.clear();
        node.unproven.clear();
        self.down_free[index as usize] = now;
        self.queue.push(now + MISSED_AFTER, What::Noticed(index));
    }

    pub(crate) fn noticed(&mut self, index: u32) {
        if self.nodes[index as usize].alive {
            return;
        }
        let id = self.nodes[index as usize].id;
        for other in 0..self.nodes.len() as u32 {
            self.disconnected(other, index);
        }
        for other in 0..self.nodes.len() as u32 {
            self.member_left(other, id);
        }
        for other in 0..self.nodes.len() as u32 {
            self.lose_lead(other, id);
        }
    }

    /// A node finds out that it can't reach a neighbour, and says so to its lead.
    fn unreached(&mut self, index: u32, peer: u32, life: u8) {
        let node = &self.nodes[index as usize];
        if node.life != life {
            return;
        }
        let id = node.id;
        if let Some(lead) = node.session.unreached(id_of(peer), !node.session.picker.is_complete()) {
            self.count_message();
            self.with_lead(index_of(lead), |lead| lead.part(id, id_of(peer)));
        }
    }

    /// Tells a picker something, and has it polled soon.
    pub(crate) fn tell(&mut self, index: u32, event: Event) {
        let node = &mut self.nodes[index as usize];
        node.session.picker.handle(event, node.clock(self.now));
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
        node.take_unread();
        let mut actions = std::mem::take(&mut self.actions);
        node.session.picker.poll(node.clock(now), &mut actions);
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

    /// When a node has something to do though nothing happens, in the fleet's time.
    fn next_wakeup(&self, index: u32) -> Option<Moment> {
        let node = &self.nodes[index as usize];
        let of_hashes = node.session.hashes.next_wakeup().filter(|_| self.may_ask_for_hashes(index));
        node.session.picker.next_wakeup().into_iter().chain(of_hashes).min().map(|at| node.when(at))
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
                if self.nodes[to as usize].session.books().is_some() {
                    self.count_message();
                }
                self.queue.push(self.message_at(from, to), What::Cancel { to, from, id });
            }
            Action::Doubt { peer } => self.doubted(from, peer),
            Action::Report { peer, .. } => {
                let node = &mut self.nodes[from as usize];
                let reporter = node.id;
                let lead = node.session.accuse(peer);
                self.drop_queued(index_of(peer), from);
                self.after_books(from);
                if lead == Some(peer) {
                    self.lose_lead(from, peer);
                } else if let Some(lead) = lead {
                    self.count_message();
                    self.with_lead(index_of(lead), |lead| {
                        lead.report(reporter, peer);
                    });
                }
            }
        }
    }

    fn asked(&mut self, to: u32, from: u32, request: u32) {
        self.count_message();
        if !self.nodes[to as usize].session.has_member(id_of(from)) {
            return;
        }
        if self.nodes[from as usize].alive && !self.lies_as_lead(to, from, request) {
            self.nodes[to as usize].uploads.push(from, Upload { request, piece: None, urgent: false });
            self.fill_slots(to);
        }
    }

    /// A request of a node failed: its holder said that it has `lost` the piece, or nothing.
    fn not_answered(&mut self, index: u32, id: u32, lost: Option<(u32, u32)>) {
        let request = RequestId(u64::from(id));
        let Some((peer, piece)) = lost else { return self.tell(index, Event::Failed { request }) };
        let node = &mut self.nodes[index as usize];
        let now = node.clock(self.now);
        node.session.refused(request, id_of(peer), PieceIndex(piece), now);
        self.after_books(index);
        self.poll_soon(index);
    }

    /// A node tells its neighbours and its lead what there is to tell.
    fn tell_news(&mut self, index: u32) {
        let now = self.now;
        let node = &mut self.nodes[index as usize];
        if node.tells_at != Some(now) {
            return;
        }
        node.tells_at = None;
        if !node.alive {
            return;
        }
        let matters = node.take_unread();
        let (id, lead) = (node.id, node.session.following());
        let tellings = node.session.tell(&[], node.clock(now));
        if matters {
            self.poll_soon(index);
        }
        for (nodes, told) in tellings {
            // Nobody loses what it stored.
            let Told::Have(pieces) = told else { continue };
            for to in nodes {
                let other = index_of(to);
                if self.is_cut(index, other) {
                    continue;
                }
                if Some(to) == lead {
                    self.count_message();
                    self.with_lead(other, |lead| lead.have(id, &pieces, now));
                    if self.nodes[other as usize].session.met().contains(&id) {
                        self.hear(other, index, &pieces);
                    }
                } else {
                    self.hear(other, index, &pieces);
                    self.show_known(other, index, &pieces);
                }
            }
        }
        self.tell_soon(index);
    }

    /// Has a node tell what there is to tell as soon as it may.
    pub(crate) fn tell_soon(&mut self, index: u32) {
        let node = &self.nodes[index as usize];
        let Some(due) = node.session.news_due().map(|due| node.when(due)) else { return };
        let at = self.telling_at(index, due.max(self.now));
        let node = &mut self.nodes[index as usize];
        if node.tells_at.is_none_or(|before| at < before) {
            node.tells_at = Some(at);
            self.queue.push(at, What::Tell(index));
        }
    }

    /// A node hears what a neighbour holds. A node that holds a piece has no use for another holder.
    pub(crate) fn hear(&mut self, index: u32, peer: u32, pieces: &[PieceIndex]) {
        let node = &mut self.nodes[index as usize];
        let held = node.session.picker.held();
        let before = node.unread.len();
        node.unread.extend(pieces.iter().filter(|piece| !held.contains(**piece)).map(|piece| (peer, *piece)));
        if node.unread.len() == before || !node.alive {
            return;
        }
        let reads = node.session.picker.heeds_news() || node.unread.len() > MAX_NEWS;
        if reads && node.take_unread() {
            self.poll_soon(index);
        }
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
        let books = self.nodes.iter().filter_map(|node| node.session.books());
        let bytes = books.map(|books| books.lead().memory() as u64).max().unwrap_or_default();
        self.report.tracker_bytes = self.report.tracker_bytes.max(bytes);
    }

    /// What follows when a node has stored a piece that it lacked.
    pub(crate) fn stored(&mut self, index: u32, came: Came) {
        let now = self.now;
        let node = &mut self.nodes[index as usize];
        node.session.stored(came, node.clock(now));
        if node.wants && node.finished.is_none() && node.session.picker.is_complete() {
            node.finished = Some(now);
            self.waiting_for -= usize::from(node.honest && node.alive);
        }
        node.max_lag = node.max_lag.max(node.session.picker.lag());
        self.poll_soon(index);
        self.move_reader(index);
        self.pass_through(index, came.piece);
        self.after_books(index);
        self.tell_soon(index);
    }

    pub(crate) fn move_reader(&mut self, index: u32) {
        let ahead = self.pieces_ahead(index);
        let node = &mut self.nodes[index as usize];
        let Some(at) = node.reader else { return };
        let next = node.session.picker.held().first_missing_from(at);
        node.reader = (next.0 < self.pieces).then_some(next);
        let (reader, passes) = (ReaderId(0), node.passing.is_some());
        let patience = if passes { Duration::ZERO } else { self.patience };
        let event = match node.reader {
            None => Event::ReaderGone { reader },
            Some(piece) => Event::ReaderAt { reader, piece, count: ahead, patience },
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
