//! A node that leads: it tracks, it sends (see `links`), it reads the origin.
//!
//! [`Books`] decides which nodes are let in, and what members are told in which order, as in the agent.
//!
//! Several may lead at a time, each for those who follow it. A node that follows another and was asked to lead passes on what it gets, and
//! does not read the origin. A node that begins to lead knows all hashes that the origin ever gave: what agents ask each other for after
//! an election is left out.

use std::time::Duration;

use darter_core::{Moment, PieceIndex, PieceLength, Signer};
use darter_protocol::Message;
use darter_scenario::Lie;
use darter_swarm::leadership::JOIN_TIMEOUT;
use darter_swarm::{
    AtPiece, Came, Desk, Entering, Gave, Input, LetIn, OriginReader, OriginRun, ReadsOn, Sought, Start,
};

use crate::fleet::Fleet;
use crate::node::{BLOB, Node, index_of};
use crate::queue::What;

/// A lead's state; its books are the session's.
#[derive(Debug, Default)]
pub(crate) struct Leading {
    /// The lead's connections to the origin.
    reading: Vec<OriginReader>,
}

impl Fleet {
    /// A node leads from now on.
    pub(crate) fn lead_by(&mut self, leader: u32, start: Start) {
        if !self.nodes[leader as usize].is_forged {
            self.learn(leader, self.known);
        }
        let desk = self.desk(leader);
        self.opens(leader, Input::Leads { start, desk });
        self.tell_known(leader);
        if start == Start::TakeOver {
            self.report.elected.push((self.now.since(Moment::ZERO), leader as usize));
        }
        self.look_after(leader);
    }

    /// The state with which a lead's books begin.
    fn desk(&self, leader: u32) -> Desk {
        let seed = self.seed ^ u64::from(self.books + 1);
        Desk { place: self.blob.place(leader).clone(), seed, signer: Signer::draw() }
    }

    /// Tells a node's session what opens its books, whomever it follows.
    fn opens(&mut self, leader: u32, input: Input) {
        let were_open = self.nodes[leader as usize].session.has_books();
        self.tell(leader, input);
        if were_open {
            return;
        }
        self.books += 1;
        let log2 = u8::try_from(self.piece_bytes.max(1).ilog2()).unwrap_or(u8::MAX);
        let piece_length = PieceLength::from_log2(log2).ok().filter(|length| length.bytes() == self.piece_bytes);
        if let Some(piece_length) = piece_length.filter(|_| self.origin_connections > 1) {
            let (connections, length) = (self.origin_connections, u64::from(self.pieces) * self.piece_bytes);
            self.note(leader, Input::OriginBears { connections, known_until: None, piece_length, length });
        }
    }

    /// Tells a node's session something that it does nothing about by itself.
    pub(crate) fn note(&mut self, index: u32, input: Input) -> bool {
        let node = &mut self.nodes[index as usize];
        let (view, now) = (self.blob.seen_by(node), node.clock(self.now));
        node.session.handle(input, &view, now)
    }

    /// A lead counts a node that holds all as a member, which need not know: nodes tell seeds what they hold whole.
    pub(crate) fn count_in(&mut self, holder: u32, leader: u32) {
        let node = &self.nodes[holder as usize];
        let (id, held) = (node.id, node.session.picker().held().clone());
        let place = self.blob.place(holder).clone();
        self.tell(leader, Input::CountsIn { node: id, place, held });
    }

    /// A lead lets a node in, which follows it when it hears so.
    pub(crate) fn join_lead(&mut self, index: u32, leader: u32) {
        let desk = self.desk(leader);
        self.opens(leader, Input::OpensBooks(desk));
        let node = &self.nodes[index as usize];
        let (id, held) = (node.id, self.shown(index));
        let wants = !node.session.picker().is_complete() && node.program.is_none();
        self.count_message();
        let entering = Entering { node: id, request: 0, whole: None };
        let place = self.blob.place(index).clone();
        self.tell(leader, Input::Enters { entering, place, held, wants });
        self.look_after(leader);
        // Both may be cut off from each other, or the lead die, before it says so.
        let (node, life) = (index, self.nodes[index as usize].life);
        self.queue.push(self.now + JOIN_TIMEOUT, What::NotLed { node, by: leader, life });
    }

    /// Lets a node in: it follows that lead from now on, if it has asked it.
    pub(crate) fn enter(&mut self, index: u32, let_in: LetIn) -> bool {
        let lead = let_in.lead;
        let leader = index_of(lead);
        let node = &mut self.nodes[index as usize];
        let is_answer = node.asks.take_if(|asked| *asked == leader).is_some();
        // A lead that was asked twice lets the node in twice.
        if !is_answer && node.session.following() != Some(lead) {
            self.post(index, &[lead], Message::Leave { blob: BLOB });
            return false;
        }
        let (view, now) = (self.blob.seen_by(node), node.clock(self.now));
        let follows = node.session.handle(Input::LetIn(let_in), &view, now);
        if follows {
            self.tell_known(index);
            self.starts(index);
        }
        self.sought(index, if follows { Sought::Done } else { Sought::Refused(lead) });
        follows
    }

    /// The lead's chores after a change: free slots and the origin.
    pub(crate) fn look_after(&mut self, leader: u32) {
        let node = &mut self.nodes[leader as usize];
        let now = node.clock(self.now);
        if node.uploads.has_parked() && node.session.may_give(now) {
            node.uploads.unpark_all();
        }
        self.fill_slots(leader);
        self.wake_later(leader);
        self.read_on(leader);
    }

    /// Reads of the origin what its session says.
    fn read_on(&mut self, leader: u32) {
        let node = &mut self.nodes[leader as usize];
        let is_none_of_its = node.lie.is_some_and(|lie| !matches!(lie, Lie::Wrong | Lie::Vanish));
        if is_none_of_its {
            return;
        }
        let mut outputs = std::mem::take(&mut self.outputs);
        let (view, now) = (self.blob.seen_by(node), node.clock(self.now));
        node.session.poll_origin(&view, now, &mut outputs);
        for output in outputs.drain(..) {
            self.carry_out(leader, output);
        }
        self.outputs = outputs;
        let session = &self.nodes[leader as usize].session;
        if session.reads(OriginReader::Everything) && !session.is_at_work(OriginReader::Everything) {
            // Members may stand still.
            self.wake_later(leader);
        }
    }

    /// A connection to the origin is given something to read.
    pub(crate) fn read(&mut self, leader: u32, reader: OriginReader, run: OriginRun) {
        self.nodes[leader as usize].leading.reading.push(reader);
        self.read_piece(leader, reader, run);
    }

    /// Reads the first piece of a run.
    fn read_piece(&mut self, leader: u32, reader: OriginReader, run: OriginRun) {
        let node = &self.nodes[leader as usize];
        let (piece, life, id) = (run.first, node.life, node.id);
        let connections = node.leading.reading.len();
        self.report.origin_pieces += 1;
        self.report.origin_connections = self.report.origin_connections.max(connections);
        let holds = |node: &&Node| {
            node.alive && node.honest && node.holds(piece) && node.id != id && !self.is_cut(leader, index_of(node.id))
        };
        if self.nodes[leader as usize].honest && self.nodes.iter().find(holds).is_some() {
            self.report.origin_needless += 1;
        }
        let rate = self.origin_each.min(self.origin / connections as f64);
        let took = Duration::from_secs_f64(self.piece_bytes as f64 / rate);
        self.queue.push(self.now + took, What::Read { by: leader, life, reader, run });
    }

    pub(crate) fn origin_piece(&mut self, leader: u32, life: u8, reader: OriginReader, run: OriginRun) {
        let piece = run.first;
        let node = &mut self.nodes[leader as usize];
        if node.life != life {
            return;
        }
        self.origin_gave(leader, reader, self.piece_bytes);
        self.known = self.known.max(piece.0 + 1);
        if self.nodes[leader as usize].is_forged {
            return self.finds_forged(leader);
        }
        self.learn(leader, self.known);
        let came = Came { piece, bytes: self.piece_bytes, request: None, from: None };
        if self.nodes[leader as usize].holds(piece) {
            self.tell(leader, Input::Again(came));
        } else {
            self.stored(leader, came);
        }
        self.read_next(leader, reader, OriginRun { first: PieceIndex(piece.0 + 1), ..run });
        self.look_after(leader);
    }

    /// Bytes came on a connection to the origin. More connections follow at once, if any do.
    fn origin_gave(&mut self, leader: u32, reader: OriginReader, bytes: u64) {
        let (waited, is_held_up, others_gave_back) = (Duration::MAX, false, false);
        let gave = Gave { reader, bytes, waited, is_held_up, others_gave_back };
        if self.note(leader, Input::OriginGave(gave)) {
            self.read_on(leader);
        }
    }

    /// A connection goes on with its run, or ends it.
    fn read_next(&mut self, leader: u32, reader: OriginReader, run: OriginRun) {
        let node = &mut self.nodes[leader as usize];
        let (view, now) = (self.blob.seen_by(node), node.clock(self.now));
        let at = AtPiece { reader, piece: run.first, through: false, to_the_end: false };
        if run.end != Some(run.first) && node.session.reads_on(at, &view, now) != ReadsOn::Ends {
            return self.read_piece(leader, reader, run);
        }
        self.read_ended(leader, reader);
    }

    fn read_ended(&mut self, leader: u32, reader: OriginReader) {
        self.nodes[leader as usize].leading.reading.retain(|other| *other != reader);
        self.note(leader, Input::ReadEnded { reader });
    }
}
