//! The engine: takes one event after the other from the queue and lets pickers and lead decide.
//!
//! A node dies silently and is missed after a while; those who followed it look for another lead. Requests, cancels and failures take the
//! network's latency and wait behind data, as messages do (`letters`).
//!
//! Sessions are polled only when something may follow.
//!
//! In a circle with `events`, `hashes`, `leading`, `letters`, `node` and `starters`, on purpose: the `impl` of [`Fleet`] goes on in them, and what each
//! of them keeps is a part of the fleet or of a `Node`.

mod building;

use std::collections::BTreeMap;
use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex, Tier};
use darter_protocol::{Refusal, Wanted};
use darter_scenario::{Event as Happening, SEED};
use darter_swarm::session::trace::SessionTrace;
use darter_swarm::{Came, CheckedBy, Guilt, Input, Loss, Output, ReaderId, RequestId, Seen};

use crate::events::Troubles;
use crate::hashes::Blob;
use crate::leading::Leading;
use crate::letters::Mail;
use crate::node::{Node, WHOLE, id_of, index_of};
use crate::queue::{Failed, Queue, What};
use crate::report::Report;
use crate::scenario::Network;
use crate::uploads::{Limits, Upload, Uploads};

/// How long it takes until a dead node is missed.
pub(crate) const MISSED_AFTER: Duration = Duration::from_millis(200);

/// How long a blob may stand still, as agents have it unless somebody says otherwise.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

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
    pub(crate) shared: Vec<BusyLink>,
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
    /// The rate that the origin gives one connection, and how many connections a lead may have.
    pub(crate) origin_each: f64,
    pub(crate) origin_connections: u8,
    pub(crate) network: Network,
    /// Bytes of a grain.
    pub(crate) grain: f64,
    pub(crate) limits: Limits,
    sample_every: Option<Duration>,
    pub(crate) seed: u64,
    pub(crate) report: Report,
    /// Connections on which nothing passes, or other bytes than were sent.
    pub(crate) troubles: Troubles,
    /// Pieces that came into each rack.
    crossings: BTreeMap<u32, u64>,
    pub(crate) events: Vec<(Duration, Happening)>,
    pub(crate) events_left: usize,
    /// How long a reader in order stands still before its piece becomes urgent.
    patience: Duration,
    pub(crate) waiting_for: usize,
    limit: Moment,
    pub(crate) outputs: Vec<Output>,
}

/// A link that a rack or a zone shares.
#[derive(Debug)]
pub(crate) struct BusyLink {
    /// Bytes per second, each way.
    pub(crate) rate: f64,
    /// When it will have passed on what is on its way.
    pub(crate) out_free: Moment,
    pub(crate) in_free: Moment,
}

impl Fleet {
    /// Runs until everybody who stays has finished, or the limit is reached.
    pub fn run(mut self) -> Report {
        self.play();
        self.finish()
    }

    /// Runs the fleet ([`run`](Self::run)); gives also what each node's session was told in its first life and did, if the scenario keeps that.
    pub fn run_recorded(mut self) -> (Report, Vec<SessionTrace>) {
        self.play();
        let traces = self.nodes.iter().filter_map(|node| node.session.trace().cloned()).collect();
        (self.finish(), traces)
    }

    fn play(&mut self) {
        while let Some((at, what)) = self.queue.pop() {
            if at > self.limit || (self.waiting_for == 0 && self.events_left == 0) {
                break;
            }
            self.sample_until(at);
            self.now = at;
            self.report.events += 1;
            self.happen(what);
        }
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
                (node.session.picker().held().len(), node.session.picker().held().len() - node.session.picker().lag())
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
        self.report.decisions = self.nodes.iter().filter_map(|node| node.session.leadership().trace()).collect();
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
            What::Request { to, from, id, piece, urgent } => self.requested(to, from, id, PieceIndex(piece), urgent),
            What::Ask { to, from, id } => self.asked(to, from, id),
            What::Cancel { to, from, id } => self.nodes[to as usize].uploads.cancel(from, id),
            What::Grain { from, life } => self.grain_sent(from, life),
            What::Arrived(arrival) => self.arrived(&arrival),
            What::Room { from, connection, life } => self.has_room(from, connection, life),
            What::Started { node, id, piece, life } => {
                if self.nodes[node as usize].life == life {
                    let (request, piece) = (RequestId(u64::from(id)), PieceIndex(piece));
                    self.tell(node, Input::Begun { request, piece });
                }
            }
            What::Failed(failed) => self.not_answered(failed),
            What::Read { by, life, reader, run } => self.origin_piece(by, life, reader, run),
            What::Noticed(node) => self.noticed(node),
            What::AskToLead { to, from, life } => self.asked_to_lead(to, from, life),
            What::NotLed { node, by, life } => self.not_led(node, by, life),
            What::Unreached { node, peer, life } => {
                if self.nodes[node as usize].life == life {
                    self.tell(node, Input::Unreached(id_of(peer)));
                }
            }
            What::Heard { node, life } => self.round_over(node, life),
            What::Rested { node, life } => self.rested(node, life),
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
        if !self.nodes[index as usize].session.picker().is_complete() {
            self.seek(index);
        } else if self.nodes[SEED as usize].alive && !self.is_cut(index, SEED) {
            self.count_in(index, SEED);
        }
    }

    /// Starts a node's process; false if it runs. Nodes that have not missed it yet do so now.
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

    /// True if the run goes on until this node has finished. Nothing is owed to one that lies.
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
        // Pieces under way are lost with it; those on its disk are not.
        node.session.restart(Node::leadership(index), now);
        node.survey = None;
        node.uploads = Uploads::default();
        node.asks = None;
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
            self.lose_lead(other, id);
        }
    }

    /// Tells a node's session something, and polls that soon if something follows.
    pub(crate) fn tell(&mut self, index: u32, input: Input) {
        let node = &mut self.nodes[index as usize];
        let (view, now) = (self.blob.seen_by(node), node.clock(self.now));
        if node.session.handle(input, &view, now) {
            self.poll_soon(index);
        }
    }

    /// Tells a node's session something that it does something about at once.
    pub(crate) fn tell_at_once(&mut self, index: u32, input: Input) {
        let node = &mut self.nodes[index as usize];
        let (view, now) = (self.blob.seen_by(node), node.clock(self.now));
        if node.session.handle(input, &view, now) {
            self.poll(index);
        }
    }

    pub(crate) fn poll_soon(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        if node.alive && node.poll_at.is_none() {
            let at = self.now + POLL_EVERY;
            node.poll_at = Some(at);
            self.queue.push(at, What::Poll(index));
        }
    }

    fn poll(&mut self, index: u32) {
        let node = &self.nodes[index as usize];
        if !node.alive {
            self.nodes[index as usize].poll_at = None;
            return;
        }
        let reached = |peer: &NodeId| self.reaches(index, index_of(*peer));
        let mut reached: Vec<NodeId> = node.session.to_meet().iter().copied().filter(reached).collect();
        let has_seed = index != SEED && self.reaches(index, SEED) && !self.is_barred(index, SEED);
        if node.session.leadership().is_searching() {
            // A node that dies is missed by those that ask it.
            reached.extend(node.session.met().difference(node.session.to_meet()));
        }
        let stall = self.does_seed_lie().then_some(STALL_TIMEOUT);
        let mut outputs = std::mem::take(&mut self.outputs);
        let node = &mut self.nodes[index as usize];
        node.poll_at = None;
        let view = self.blob.seen_by(node).meeting(reached, has_seed);
        let now = node.clock(self.now);
        let seen = Seen { is_idle: false, stall, origin: Duration::ZERO };
        node.session.look(seen, &view, now);
        node.session.poll(&view, now, &mut outputs);
        for output in outputs.drain(..) {
            self.carry_out(index, output);
        }
        self.outputs = outputs;
        if self.nodes[index as usize].session.has_books() {
            self.look_after(index);
        }
        self.wake_later(index);
    }

    /// True if the seed lies, so that members have to find out that nothing comes of it.
    fn does_seed_lie(&self) -> bool {
        self.nodes[SEED as usize].lie.is_some()
    }

    /// When a node has something to do though nothing happens, in the fleet's time.
    fn next_wakeup(&self, index: u32) -> Option<Moment> {
        let node = &self.nodes[index as usize];
        let (session, now) = (&node.session, node.clock(self.now));
        // An honest seed is waited for.
        let is_waited_for = |lead| index_of(lead) == SEED && !self.does_seed_lie();
        let look = session.look_due().filter(|_| session.following().is_some_and(|lead| !is_waited_for(lead)));
        session.next_wakeup(now).into_iter().chain(look).min().map(|at| node.when(at))
    }

    /// Sees to it that a node is polled when it has something to do though nothing happens.
    pub(crate) fn wake_later(&mut self, index: u32) {
        let Some(at) = self.next_wakeup(index) else { return };
        let at = at.max(self.now + POLL_EVERY);
        let node = &mut self.nodes[index as usize];
        if node.wake_at.is_none_or(|before| at < before) {
            node.wake_at = Some(at);
            self.queue.push(at, What::Wake(index));
        }
    }

    /// Polls a node if its time has come by now; else waits on. A lead is told by the time itself that it may have more to give.
    fn wake(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        if node.wake_at.take_if(|at| *at == self.now).is_none() {
            return;
        }
        if node.session.has_books() {
            return self.poll(index);
        }
        match self.next_wakeup(index) {
            Some(at) if at > self.now => self.wake_later(index),
            Some(_) => self.poll_soon(index),
            None => {}
        }
    }

    pub(crate) fn carry_out(&mut self, index: u32, output: Output) {
        match output {
            Output::Say { to, message } => self.post(index, &to, message),
            Output::Dial(peers) => self.dial(index, &peers),
            Output::Ask { request, of, wanted, urgent } => {
                let (from, to, id) = (index, index_of(of), short(request));
                let what = match wanted {
                    Wanted::Piece(piece) => What::Request { to, from, id, piece: piece.0, urgent },
                    Wanted::Any => What::Ask { to, from, id },
                };
                self.queue.push(self.message_at(from, to), what);
            }
            Output::Withdraw { request, of } => {
                let (from, to, id) = (index, index_of(of), short(request));
                if self.nodes[to as usize].session.has_books() {
                    self.count_message();
                }
                self.queue.push(self.message_at(from, to), What::Cancel { to, from, id });
            }
            Output::Check => self.tell(index, Input::Sealed { verdict: WHOLE, by: CheckedBy::Lead }),
            Output::Accused { peer, .. } => self.drop_queued(index_of(peer), index),
            Output::Seek(step) => self.seek_by(index, step),
            Output::Return(_) => self.return_to_seed(index),
            Output::StartOver { lead, guilt, .. } => self.start_over(index, index_of(lead), guilt),
            // Nobody is followed on trust here.
            Output::EndTrust { .. } => {}
            Output::LeadLost { lead, loss, lets_down: true, .. } => {
                let guilt = if loss == Loss::Mute { Guilt::Sure } else { Guilt::Perhaps };
                self.is_let_down(index, index_of(lead), guilt);
            }
            Output::Superseded { by, .. } => self.start_over(index, index_of(by), Guilt::BlamesOrigin),
            Output::Read { reader, run } => self.read(index, reader, run),
            Output::Completed
            | Output::Unattended
            | Output::LeadLost { .. }
            | Output::EndStalled
            | Output::Give
            | Output::Widened(_)
            | Output::Narrowed { .. }
            | Output::LeadReadsInOrder { .. }
            | Output::Doubted(_)
            // Nothing decays here.
            | Output::Recheck { .. }
            | Output::RecheckWhole { .. }
            | Output::Reported { .. } => {}
            // A lead is not asked to follow; and nobody gives up here.
            Output::SayDissolved { .. } | Output::Reject { .. } => {}
            Output::GiveUp(_) | Output::Dissolve { .. } | Output::Refuted { .. } => {}
        }
    }

    fn asked(&mut self, to: u32, from: u32, request: u32) {
        self.count_message();
        if !self.nodes[to as usize].session.has_member(id_of(from)) {
            return;
        }
        if self.nodes[from as usize].alive && !self.lies_as_lead(to, from, request) {
            self.nodes[to as usize].uploads.push(from, Upload { request, piece: None, urgent: false, last: false });
            self.fill_slots(to);
        }
    }

    /// A request of a node is refused, since the holder lacks the piece or for no reason.
    fn not_answered(&mut self, Failed { node, by, id, wanted, lost }: Failed) {
        let wanted = wanted.map_or(Wanted::Any, |piece| Wanted::Piece(PieceIndex(piece)));
        let reason = if lost { Refusal::NotHeld } else { Refusal::Refused };
        self.tell(node, Input::Refused { request: RequestId(id.into()), by: id_of(by), wanted, reason });
    }

    /// Counts a message to the lead.
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
        let bytes = self.nodes.iter().map(|node| node.session.lead_memory() as u64).max().unwrap_or_default();
        self.report.tracker_bytes = self.report.tracker_bytes.max(bytes);
    }

    /// The consequences when a node has stored a piece that it lacked.
    pub(crate) fn stored(&mut self, index: u32, came: Came) {
        let now = self.now;
        let node = &mut self.nodes[index as usize];
        let (view, clock) = (self.blob.seen_by(node), node.clock(now));
        node.session.handle(Input::Stored(came), &view, clock);
        self.read_on_by(index);
        let node = &mut self.nodes[index as usize];
        if node.wants && node.finished.is_none() && node.has_all() {
            node.finished = Some(now);
            self.waiting_for -= usize::from(node.honest && node.alive);
        }
        node.max_lag = node.max_lag.max(node.session.picker().lag());
        self.poll_soon(index);
        self.move_reader(index);
        self.pass_through(index, came.piece);
        if self.nodes[index as usize].session.has_books() {
            self.look_after(index);
        }
    }

    pub(crate) fn move_reader(&mut self, index: u32) {
        let ahead = self.pieces_ahead(index);
        let node = &mut self.nodes[index as usize];
        let Some(at) = node.reader else { return };
        let next = node.session.picker().held().first_missing_from(at);
        node.reader = (next.0 < self.pieces).then_some(next);
        let (reader, passes) = (ReaderId(0), node.passing.is_some());
        let patience = if passes { Duration::ZERO } else { self.patience };
        let input = match node.reader {
            None => Input::ReaderGone(reader),
            Some(piece) => Input::ReaderAt { reader, piece, count: ahead, patience },
        };
        self.tell(index, input);
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
