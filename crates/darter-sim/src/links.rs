//! Uploads on their way: cables, shared links, and what arrives.
//!
//! A node's cable sends a grain of each connection in turn. At the receiver grains stand in one line for its cable, after those of
//! any shared link between. The bytes under way on a connection are bounded, so that a busy receiver holds back the senders and not
//! the other way round: this is TCP as far as it decides when a piece is there. Loss and slow start are left out.

use std::time::Duration;

use darter_core::{Moment, PieceIndex};
use darter_swarm::{Came, Choice, Input, RequestId};

use crate::fleet::Fleet;
use crate::node::{Node, id_of};
use crate::queue::{Arrival, Failed, What};
use crate::uploads::{Sent, Upload};

impl Fleet {
    /// When a control message from one node reaches another that is sent now: it waits behind data on both cables.
    pub(crate) fn message_at(&self, from: u32, to: u32) -> Moment {
        self.delivered_at(from, to, self.now)
    }

    /// When a control message reaches the other node that its sender's cable has not taken up before some moment.
    pub(crate) fn delivered_at(&self, from: u32, to: u32, left: Moment) -> Moment {
        let longest = self.network.queue;
        let (sender, receiver) = (&self.nodes[from as usize], &self.nodes[to as usize]);
        let waits = f64::from(sender.uploads.backlog()) * self.grain / sender.up;
        let up = Duration::from_secs_f64(waits).min(longest);
        let down = self.down_free[to as usize].since(self.now).min(longest);
        (self.now + up).max(left) + down + self.latency_between(sender, receiver)
    }

    /// When what a node tells all its neighbours reaches them: receivers' cables are left out.
    pub(crate) fn telling_at(&self, from: u32, at: Moment) -> Moment {
        let sender = &self.nodes[from as usize];
        let waits = f64::from(sender.uploads.backlog()) * self.grain / sender.up;
        at + Duration::from_secs_f64(waits).min(self.network.queue) + self.network.latency
    }

    pub(crate) fn latency_between(&self, one: &Node, other: &Node) -> Duration {
        let mut latency = self.network.latency;
        if one.spot.rack != other.spot.rack {
            latency += self.network.rack_latency;
        }
        if one.spot.zone != other.spot.zone {
            latency += self.network.zone_latency;
        }
        latency
    }

    /// A request for a named piece reached a node.
    pub(crate) fn requested(&mut self, to: u32, from: u32, request: u32, piece: PieceIndex, urgent: bool) {
        let node = &mut self.nodes[to as usize];
        if !node.alive || self.is_lied_to(to, from, request, piece) {
            return;
        }
        let node = &mut self.nodes[to as usize];
        if !node.holds(piece) {
            let failed = Failed { node: from, by: to, id: request, wanted: Some(piece.0), lost: true };
            self.queue.push(self.message_at(to, from), What::Failed(failed));
            return;
        }
        node.uploads.push(from, Upload { request, piece: Some(piece), urgent, last: false });
        self.fill_slots(to);
    }

    /// Starts uploads while a node has free slots and something to send.
    pub(crate) fn fill_slots(&mut self, from: u32) {
        let now = self.now;
        let limits = self.limits;
        let node = &mut self.nodes[from as usize];
        let (mut nothing_to_give, clock) = (false, node.clock(now));
        while node.alive {
            let Some((at, to, upload)) = node.uploads.take_next(&limits) else { break };
            let receiver = id_of(to);
            let piece = if let Some(piece) = upload.piece {
                if !upload.last && node.session.goes_last(receiver, piece, clock) {
                    node.uploads.put_last(at, upload);
                    continue;
                }
                let view = self.blob.seen_by(node);
                node.session.handle(Input::Sending { to: receiver, piece }, &view, clock);
                piece
            } else {
                let mut choice = node.session.choose(receiver, clock);
                if choice == Choice::MayCopy {
                    // There is one blob.
                    choice = node.session.choose_copy(receiver, true, clock);
                }
                match choice {
                    Choice::Send(piece) => piece,
                    Choice::NoMember if !node.session.has_books() => {
                        node.uploads.pass(at);
                        continue;
                    }
                    Choice::NoMember | Choice::MayCopy | Choice::Nothing => {
                        node.uploads.park(at, upload);
                        nothing_to_give = true;
                        continue;
                    }
                }
            };
            if let Some(until) = node.uploads.bind(at, &upload, piece, &limits, now) {
                self.queue.push(until, What::Room { from, connection: at, life: node.life });
            }
        }
        if nothing_to_give {
            self.wake_later(from);
        }
        self.begin_grain(from);
    }

    fn begin_grain(&mut self, from: u32) {
        let node = &mut self.nodes[from as usize];
        if node.alive && node.uploads.begin_grain() {
            let took = Duration::from_secs_f64(self.grain / node.up);
            let end = node.take_up(took.as_micros() as f64, self.now);
            self.queue.push(end, What::Grain { from, life: node.life });
        }
    }

    /// A node's cable has taken up a grain, which goes on to its receiver.
    pub(crate) fn grain_sent(&mut self, from: u32, life: u8) {
        let node = &mut self.nodes[from as usize];
        if node.life != life {
            return;
        }
        let Some(sent) = node.uploads.end_grain(self.now) else {
            self.begin_grain(from);
            return;
        };
        let there = self.grain_goes_on(from, &sent);
        let uploads = &mut self.nodes[from as usize].uploads;
        let (frees_slot, wait) = uploads.left(sent.connection, there, &self.limits, self.now);
        if let Some(until) = wait {
            self.queue.push(until, What::Room { from, connection: sent.connection, life });
        }
        self.begin_grain(from);
        if frees_slot {
            self.fill_slots(from);
        }
    }

    /// A connection need not wait any longer for what it has under way.
    pub(crate) fn has_room(&mut self, from: u32, connection: u32, life: u8) {
        let node = &mut self.nodes[from as usize];
        if node.life != life {
            return;
        }
        if let Some(until) = node.uploads.has_room(connection, &self.limits, self.now) {
            self.queue.push(until, What::Room { from, connection, life });
        }
        self.begin_grain(from);
    }

    /// A grain goes its way to its receiver; when it will be there, unless it is already.
    fn grain_goes_on(&mut self, from: u32, sent: &Sent) -> Option<Moment> {
        let Sent { to, piece, .. } = *sent;
        let (sender, receiver) = (&self.nodes[from as usize], &self.nodes[to as usize]);
        let start = self.now.as_micros() as f64 - self.grain / sender.up * 1e6;
        let mut end = self.now;
        // Links pass on what comes while it comes: a grain is through when the last of them is done with it.
        let mut pass = |free: &mut Moment, rate: f64| {
            let done = free.as_micros().max(start as u64) as f64 + self.grain / rate * 1e6;
            *free = Moment::from_micros(done as u64).max(end);
            end = *free;
        };
        for link in sender.behind.iter().filter(|link| !receiver.behind.contains(link)) {
            let link = &mut self.shared[*link as usize];
            pass(&mut link.out_free, link.rate);
        }
        for link in receiver.behind.iter().filter(|link| !sender.behind.contains(link)) {
            let link = &mut self.shared[*link as usize];
            pass(&mut link.in_free, link.rate);
        }
        pass(&mut self.down_free[to as usize], receiver.down);
        let there = end + self.latency_between(sender, receiver);
        let (from_life, to_life) = (sender.life, receiver.life);
        let is_first = piece.left + 1 == self.limits.of_piece;
        if is_first && (piece.chosen || self.network.tells_begun) {
            let begun = What::Started { node: to, id: piece.request, piece: piece.piece.0, life: to_life };
            self.queue.push(there, begun);
        } else if sent.is_noticed {
            let bytes = f64::from(self.limits.of_piece - piece.left) * self.grain;
            self.tell(to, Input::Moved { request: RequestId(u64::from(piece.request)), bytes: bytes as u32 });
        }
        if piece.left == 0 {
            let (id, piece) = (piece.request, piece.piece.0);
            self.queue.push(there, What::Arrived(Arrival { from, to, from_life, to_life, id, piece }));
        } else if end == self.now {
            return None;
        }
        Some(there)
    }

    /// The last grain of a piece is received.
    pub(crate) fn arrived(&mut self, arrival: &Arrival) {
        let Arrival { from, to, .. } = *arrival;
        if self.nodes[from as usize].life != arrival.from_life {
            return;
        }
        if self.is_void(arrival) {
            self.not_delivered(from, to, PieceIndex(arrival.piece));
        } else {
            self.piece_arrived(arrival);
        }
    }

    fn is_void(&self, arrival: &Arrival) -> bool {
        let (from, to) = (&self.nodes[arrival.from as usize], &self.nodes[arrival.to as usize]);
        to.life != arrival.to_life || !from.alive || !to.alive
    }

    pub(crate) fn not_delivered(&mut self, from: u32, to: u32, piece: PieceIndex) {
        self.note(from, Input::Unsent { to: id_of(to), piece });
    }

    /// Checks what arrived, and stores it if it is right. Without its hash it waits for that.
    pub(crate) fn piece_arrived(&mut self, arrival: &Arrival) {
        let Arrival { from, to, .. } = *arrival;
        let piece = PieceIndex(arrival.piece);
        let node = &mut self.nodes[to as usize];
        if arrival.piece >= node.known {
            node.unproven.push(*arrival);
            return self.tell(to, Input::Early { by: id_of(from), piece });
        }
        self.note_arrival(from, to, piece);
        let request = RequestId(u64::from(arrival.id));
        if self.is_wrong(from, to, piece) {
            let peer = self.nodes[from as usize].id;
            self.not_delivered(from, to, piece);
            return self.tell(to, Input::Wrong { by: peer, request, piece });
        }
        let came = Came { piece, bytes: self.piece_bytes, request: Some(request), from: Some(id_of(from)) };
        if !self.nodes[to as usize].holds(piece) {
            self.stored(to, came);
        } else {
            self.tell(to, Input::Again(came));
            self.report.duplicates += 1;
        }
    }

    /// Forgets what `to` waits for at `from`, and what is on its way there.
    pub(crate) fn drop_queued(&mut self, from: u32, to: u32) {
        for lost in self.nodes[from as usize].uploads.forget(to) {
            self.not_delivered(from, to, lost.piece);
        }
        self.fill_slots(from);
    }
}
