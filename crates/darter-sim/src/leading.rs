//! A node that leads: it tracks, it sends (see `links`), it reads the origin.
//!
//! Who is let in, and what members are told in which order, is decided by [`Books`], as in the agent.
//!
//! Several may lead at a time, each for those who follow it. A node that follows another and was asked to lead passes on what it gets, and
//! does not read the origin. A node that begins to lead knows all hashes that the origin ever gave: what agents ask each other for after
//! an election is left out.

use std::time::Duration;

use darter_core::{Moment, PieceIndex, PieceLength, PieceSet};
use darter_protocol::Message;
use darter_scenario::Lie;
use darter_swarm::leadership::JOIN_TIMEOUT;
use darter_swarm::{Books, Came, Desk, Entering, Input, Leader, LetIn, OriginReader, OriginRun, Sought, Start};

use crate::fleet::Fleet;
use crate::node::{BLOB, Node, index_of};
use crate::queue::What;

/// The connection that tries, and in how many parts its bytes come.
const TRIAL: OriginReader = OriginReader::Beside(0);
const TRIAL_PARTS: u32 = 4;

/// A lead's state; its books are the session's.
#[derive(Debug, Default)]
pub(crate) struct Leading {
    /// Its connections to the origin.
    reading: Vec<OriginReader>,
}

impl Fleet {
    /// A node leads from now on.
    pub(crate) fn lead_by(&mut self, leader: u32, start: Start) {
        self.learn(leader, self.known);
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
        Desk { place: self.blob.place(leader).clone(), seed: self.seed ^ u64::from(self.books + 1) }
    }

    /// Tells a node's session what opens its books, whomever it follows.
    fn opens(&mut self, leader: u32, input: Input) {
        let were_open = self.nodes[leader as usize].session.books().is_some();
        self.tell(leader, input);
        if were_open {
            return;
        }
        self.books += 1;
        let node = &mut self.nodes[leader as usize];
        let log2 = u8::try_from(self.piece_bytes.max(1).ilog2()).unwrap_or(u8::MAX);
        let piece_length = PieceLength::from_log2(log2).ok().filter(|length| length.bytes() == self.piece_bytes);
        let piece_length = piece_length.filter(|_| self.origin_connections > 1);
        if let Some((piece_length, books)) = piece_length.zip(node.session.books_mut()) {
            let length = u64::from(self.pieces) * self.piece_bytes;
            books.lead_mut().read_by(self.origin_connections, None, piece_length, length);
        }
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
        let wants = !node.session.picker().is_complete();
        self.count_message();
        let entering = Entering { node: id, request: 0, whole: None };
        let place = self.blob.place(index).clone();
        self.tell(leader, Input::Enters { entering, place, held, wants });
        self.look_after(leader);
        // Both may be cut off from each other, or the lead die, before it says so.
        let (node, life) = (index, self.nodes[index as usize].life);
        self.queue.push(self.now + JOIN_TIMEOUT, What::NotLed { node, by: leader, life });
    }

    /// A node is let in by a lead, which it follows from now on if it has asked it.
    pub(crate) fn enter(&mut self, index: u32, let_in: LetIn) -> bool {
        let lead = let_in.lead;
        let leader = index_of(lead);
        let node = &mut self.nodes[index as usize];
        let is_answer = node.asks.take_if(|asked| *asked == leader).is_some();
        // One that was asked twice lets it in twice.
        if !is_answer && node.session.following() != Some(lead) {
            self.post(index, &[lead], Message::Leave { blob: BLOB });
            return false;
        }
        let (view, now) = (self.blob.seen_by(node), node.clock(self.now));
        let follows = node.session.handle(Input::LetIn(let_in), &view, now);
        if follows {
            self.tell_known(index);
        }
        self.sought(index, if follows { Sought::Done } else { Sought::Refused(lead) });
        follows
    }

    /// The lead's chores after a change: free slots and the origin.
    pub(crate) fn look_after(&mut self, leader: u32) {
        let node = &mut self.nodes[leader as usize];
        let now = node.clock(self.now);
        if let Some(books) = node.session.books_mut()
            && node.uploads.has_parked()
            && books.lead_mut().may_give(now)
        {
            node.uploads.unpark_all();
        }
        self.fill_slots(leader);
        self.wake_later(leader);
        self.read_on(leader);
    }

    /// Asks the origin for what is to be read next, on each connection that reads nothing.
    fn read_on(&mut self, leader: u32) {
        self.read_by(leader, OriginReader::Everything);
        let connections = self.nodes[leader as usize].session.books().map_or(1, |books| books.lead().connections());
        for number in 0..connections - 1 {
            self.read_by(leader, OriginReader::Beside(number));
        }
    }

    fn read_by(&mut self, leader: u32, reader: OriginReader) {
        let node = &mut self.nodes[leader as usize];
        if node.leading.reading.contains(&reader) {
            return;
        }
        let is_none_of_its = node.lie.is_some_and(|lie| !matches!(lie, Lie::Wrong | Lie::Vanish));
        if node.session.leader() != Leader::Me || node.session.picker().is_complete() || is_none_of_its {
            return;
        }
        let known = PieceSet::full(self.known);
        let now = node.clock(self.now);
        let Some(lead) = node.session.books_mut().map(Books::lead_mut) else { return };
        let Some(run) = lead.origin_plan(reader, &known, now) else {
            if !node.session.picker().is_complete() {
                // Members may stand still.
                self.wake_later(leader);
            }
            return;
        };
        if self.origin_connections > 1 {
            lead.begins(reader, run);
        }
        node.leading.reading.push(reader);
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
        let now = node.clock(self.now);
        if self.origin_connections == 1 {
            node.leading.reading.clear();
        } else if let Some(books) = node.session.books_mut() {
            let lead = books.lead_mut();
            lead.origin_came(reader, self.piece_bytes, Duration::MAX, now);
            let trial = if lead.is_origin_trial_due() { lead.origin_trial(now) } else { None };
            if let Some(trial) = trial {
                node.leading.reading.push(TRIAL);
                self.report.origin_tried += trial.len();
                self.read_of_trial(leader, life, trial.len(), TRIAL_PARTS);
            }
        }
        self.known = self.known.max(piece.0 + 1);
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

    /// A second connection tries, in so many parts of as many bytes in all.
    fn read_of_trial(&mut self, by: u32, life: u8, bytes: u64, parts: u32) {
        let connections = self.nodes[by as usize].leading.reading.len().max(1);
        let rate = self.origin_each.min(self.origin / connections as f64);
        let took = Duration::from_secs_f64(bytes as f64 / f64::from(parts) / rate);
        self.queue.push(self.now + took, What::Tried { by, life, bytes, parts });
    }

    /// A part of what was to be tried came.
    pub(crate) fn origin_tried(&mut self, by: u32, life: u8, bytes: u64, parts: u32) {
        let node = &mut self.nodes[by as usize];
        let Some(books) = node.session.books_mut().filter(|_| node.life == life) else { return };
        let part = bytes / u64::from(parts);
        books.lead_mut().origin_came(TRIAL, part, Duration::MAX, self.now);
        if parts > 1 {
            return self.read_of_trial(by, life, bytes - part, parts - 1);
        }
        node.leading.reading.retain(|other| *other != TRIAL);
        self.look_after(by);
    }

    /// A connection goes on with its run, or ends it.
    fn read_next(&mut self, leader: u32, reader: OriginReader, run: OriginRun) {
        let known = PieceSet::full(self.known);
        let node = &mut self.nodes[leader as usize];
        let (leads, now) = (node.session.leadership().leader() == Leader::Me, node.clock(self.now));
        let Some(books) = node.session.books_mut().filter(|_| self.origin_connections > 1) else { return };
        let may_go_on = leads && run.end != Some(run.first);
        if may_go_on && books.lead_mut().goes_on(reader, run.first, &known, now) {
            return self.read_piece(leader, reader, run);
        }
        books.lead_mut().reads(reader, None);
        node.leading.reading.retain(|other| *other != reader);
    }
}
