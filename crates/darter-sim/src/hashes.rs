//! How hashes get about: where members are few the lead tells them all, where they are many they ask each other. Who tells whom what, and
//! what is taken, is decided by [`Books`](darter_swarm::Books) and [`Hashes`](darter_swarm::Hashes), as in the agent, with real messages
//! and signatures.
//!
//! Hashes take room on their teller's cable, and come behind what that has to send already; receivers' cables are left out. The origin is
//! read in order, and so nobody knows hashes behind a gap. Nobody tells wrong hashes. A node that begins to lead knows all hashes that the
//! origin ever gave.

use darter_core::{BlobId, NodeId, PieceHash, PieceIndex, PieceLength, PieceSet, Place, Proof, Version};
use darter_protocol::{Frame, Message};
use darter_swarm::hashes::{Answer, Reply};
use darter_swarm::{Event, Facts, Teacher};

use crate::fleet::Fleet;
use crate::node::{BLOB, id_of, index_of};
use crate::queue::What;

/// What all nodes share: the list of the blob's hashes, and where each of them stands.
#[derive(Debug)]
pub(crate) struct Blob {
    list: Vec<PieceHash>,
    piece_bytes: u64,
    places: Vec<Place>,
}

/// What one node knows of it: the first hashes.
#[derive(Debug)]
pub(crate) struct View<'a> {
    blob: &'a Blob,
    known: u32,
}

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Letter {
    from: u32,
    to: u32,
    to_life: u8,
    message: Message,
}

/// Messages on their way, each in its place: events name places.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    places: Vec<Option<Letter>>,
    free: Vec<u32>,
}

impl Mail {
    fn put(&mut self, letter: Letter) -> u32 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() as u32 - 1
        });
        self.places[at as usize] = Some(letter);
        at
    }

    /// From whom a message comes, and to whom it goes.
    pub(crate) fn ends(&self, at: u32) -> Option<(u32, u32)> {
        self.places[at as usize].as_ref().map(|letter| (letter.from, letter.to))
    }

    /// A message is lost.
    pub(crate) fn lose(&mut self, at: u32) {
        self.take(at);
    }

    fn take(&mut self, at: u32) -> Option<Letter> {
        self.free.push(at);
        self.places[at as usize].take()
    }
}

impl Blob {
    /// A blob of so many pieces, at nodes that stand there.
    pub(crate) fn new(pieces: u32, piece_bytes: u64, places: Vec<Place>) -> Self {
        let hash = |piece: u32| {
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&piece.to_le_bytes());
            PieceHash(hash)
        };
        Self { list: (0..pieces).map(hash).collect(), piece_bytes, places }
    }

    /// Where a node stands.
    pub(crate) fn place(&self, node: u32) -> &Place {
        &self.places[node as usize]
    }

    /// The same where the first `known` hashes are known.
    pub(crate) const fn known(&self, known: u32) -> View<'_> {
        View { blob: self, known }
    }
}

impl Facts for View<'_> {
    fn blob(&self) -> BlobId {
        BLOB
    }

    fn version(&self) -> Version {
        Version::default()
    }

    fn piece_length(&self) -> PieceLength {
        PieceLength::UNKNOWN_BLOB
    }

    fn length(&self) -> Option<u64> {
        Some(self.blob.list.len() as u64 * self.blob.piece_bytes)
    }

    fn pieces(&self) -> Option<u32> {
        Some(self.blob.list.len() as u32)
    }

    fn prefix(&self) -> u32 {
        self.known
    }

    fn known_count(&self) -> u32 {
        self.known
    }

    fn known(&self) -> PieceSet {
        PieceSet::full(self.known)
    }

    fn knows(&self, piece: PieceIndex) -> bool {
        piece.0 < self.known
    }

    fn hashes_from(&self, from: u32, most: usize) -> Vec<PieceHash> {
        let known = self.blob.list[..self.known as usize].get(from as usize..).unwrap_or_default();
        known[..known.len().min(most)].to_vec()
    }

    fn address(&self, node: NodeId) -> String {
        let [a, b, c, d] = index_of(node).to_be_bytes();
        format!("{}.{b}.{c}.{d}:7400", a | 10)
    }

    fn place(&self, node: NodeId) -> Option<Place> {
        Some(self.blob.place(index_of(node)).clone())
    }
}

impl Fleet {
    /// A node knows the first `known` hashes now.
    pub(crate) fn learn(&mut self, index: u32, known: u32) {
        if self.store_hashes(index, known) {
            let node = &mut self.nodes[index as usize];
            let view = self.blob.known(node.known);
            let tells = node.session.catch_up(&view);
            self.knows_more(index, tells);
        }
    }

    /// Whether these are more than a node knew.
    fn store_hashes(&mut self, index: u32, known: u32) -> bool {
        let node = &mut self.nodes[index as usize];
        let is_more = known > node.known;
        node.known = node.known.max(known);
        is_more
    }

    /// What follows from a node's having learned hashes: what waited for them is taken in, and told on.
    fn knows_more(&mut self, index: u32, tells: bool) {
        let node = &mut self.nodes[index as usize];
        let known = node.known;
        let ready: Vec<_> = node.unproven.extract_if(.., |arrival| arrival.piece < known).collect();
        self.tell_known(index);
        if tells {
            self.tell_soon(index);
        }
        for arrival in &ready {
            self.piece_arrived(arrival);
        }
        self.speak(index);
    }

    /// Tells a picker for how many pieces there are hashes, and how many there are in all.
    pub(crate) fn tell_known(&mut self, index: u32) {
        let known = self.nodes[index as usize].known;
        self.tell(index, Event::ManifestGrew { known: 0..known, total: Some(self.pieces) });
    }

    /// A message about hashes goes its way.
    pub(crate) fn post(&mut self, from: u32, to: u32, message: Message) {
        let there = if matches!(message, Message::Grew { .. }) {
            let bytes = Frame::encode(&message).expect("agents tell no more at once").bytes().len();
            let sender = &mut self.nodes[from as usize];
            if sender.session.books().is_some() {
                self.report.lead_hash_bytes += bytes as u64;
            }
            let left = sender.take_up(bytes as f64 / sender.up * 1e6, self.now);
            self.delivered_at(from, to, left)
        } else {
            self.message_at(from, to)
        };
        let to_life = self.nodes[to as usize].life;
        let at = self.mail.put(Letter { from, to, to_life, message });
        self.queue.push(there, What::Letter(at));
    }

    /// A message is there.
    pub(crate) fn letter_came(&mut self, at: u32) {
        let Some(Letter { from, to, to_life, message }) = self.mail.take(at) else { return };
        let node = &self.nodes[to as usize];
        if !node.alive || node.life != to_life {
            return;
        }
        match message {
            Message::AskHashes { from: first, .. } => self.asked_for_hashes(to, from, first),
            Message::Grew { from: first, hashes, members_ask, proof, .. } => {
                self.hear_hashes(to, from, first, &hashes, (members_ask, proof));
            }
            other => unreachable!("{other:?} is not sent as a letter"),
        }
    }

    /// Hashes reach a node: from its lead, or as an answer.
    fn hear_hashes(
        &mut self,
        to: u32,
        from: u32,
        first: u32,
        hashes: &[PieceHash],
        (members_ask, proof): (bool, Option<Proof>),
    ) {
        let (teller, count) = (id_of(from), hashes.len() as u32);
        let node = &mut self.nodes[to as usize];
        let (is_new, tells);
        if node.session.leadership.following() == Some(teller) {
            node.session.hashes.members_ask(members_ask);
            is_new = first <= node.known && self.store_hashes(to, first + count);
            let node = &mut self.nodes[to as usize];
            let view = self.blob.known(node.known);
            tells = node.session.lead_told(first, count, proof, &view);
        } else {
            let Some(check) = node.session.hashes.check_for(teller) else { return };
            let answer = check.prove(first, hashes, proof);
            is_new = matches!(&answer, Answer::Proven(_)) && self.store_hashes(to, first + count);
            tells = self.nodes[to as usize].session.answered(teller, answer, self.now);
        }
        if is_new {
            self.knows_more(to, tells);
        }
        self.poll_soon(to);
    }

    /// A neighbour shows a node how many hashes it can tell, and pieces that it holds.
    pub(crate) fn show_known(&mut self, to: u32, neighbour: u32, pieces: &[PieceIndex]) {
        let shown = self.nodes[neighbour as usize].session.hashes.shown();
        let node = &mut self.nodes[to as usize];
        let known = node.session.hashes.count();
        // Most announcements change nothing.
        let is_news = shown > known || pieces.iter().any(|piece| piece.0 >= known);
        if !node.alive || !is_news {
            return;
        }
        let view = self.blob.known(node.known);
        if node.session.showed(id_of(neighbour), shown, pieces.iter().copied(), &view) {
            self.poll_soon(to);
        }
    }

    /// Whether a node has somebody to ask for hashes, and lacks some.
    pub(crate) fn may_ask_for_hashes(&self, index: u32) -> bool {
        let node = &self.nodes[index as usize];
        node.session.leadership.following().is_some() && node.known < self.pieces
    }

    /// A node asks for the hashes that it lacks, if the time has come.
    pub(crate) fn ask_for_hashes(&mut self, index: u32) {
        if !self.may_ask_for_hashes(index) {
            return;
        }
        let node = &mut self.nodes[index as usize];
        let Some(leader) = node.session.leadership.following() else { return };
        let to = match node.session.hashes.ask(self.now) {
            None => return,
            Some(Teacher::Lead) => leader,
            Some(Teacher::Neighbour(neighbour)) => neighbour,
        };
        let question = Message::AskHashes { blob: BLOB, from: node.session.hashes.count() };
        self.post(index, index_of(to), question);
    }

    /// A question for the hashes behind the first ones reaches a node.
    fn asked_for_hashes(&mut self, to: u32, from: u32, first: u32) {
        let asker = id_of(from);
        let leads = self.nodes[to as usize].session.has_member(asker);
        if leads {
            self.count_message();
        }
        let node = &mut self.nodes[to as usize];
        let view = self.blob.known(node.known);
        let Reply { messages, question } = node.session.asked_for_hashes(asker, first, &view, self.now);
        let lead = node.session.leadership.following();
        for message in messages {
            self.report.tracker_notices += u64::from(leads);
            self.post(to, from, message);
        }
        if let (Some(lead), Some(question)) = (lead, question) {
            self.post(to, index_of(lead), question);
        }
    }
}
