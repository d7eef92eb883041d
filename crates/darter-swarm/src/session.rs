//! One agent's session in one swarm: what follows for all of its machines from what happens to it.
//!
//! | what happens | what follows |
//! |---|---|
//! | another lead ([`Session::leads`], [`Session::follow`], [`Session::lost_lead`]) | the picker asks it, hashes are proven by its key, news goes to it |
//! | neighbours are named, met or lost ([`Session::named`], [`Session::met_by`], [`Session::gone`], …) | who is met, asked for pieces and hashes, and told news |
//! | a request is answered or not ([`Session::begun`], [`Session::refused`], [`Session::failed`]) | what its holder has, and knows |
//! | a piece comes or goes ([`Session::stored`], [`Session::lacks`]) | it is asked for no more, told, and given |
//! | a peer sends a wrong piece ([`Session::accuse`]) | it is not asked for anything, nor to lead |
//! | hashes come ([`Session::catch_up`], …) | pieces are asked for, and neighbours hear that there are hashes |
//!
//! Two agents are neighbours when both have said what they hold: each says so ([`Message::Meet`](darter_protocol::Message)) when it is
//! named the other by its lead, or when the other meets it, and connected to it. Who leads is nobody's neighbour: it is asked to choose.
//!
//! Invariants: the picker, the hashes and the news go by the lead that [`Leadership`] says; whoever leads tells no news, since it gives of
//! its own accord, and meets its neighbours anew when it follows another.
//!
//! The machines are open to the caller for what concerns one of them alone: a reader's place, a request that failed, a search for a lead.
//! Whoever leads others has [`Books`], too; they are told here what follows for them.
//!
//! Non-goals: connections and messages, the store, and how far the blob is ([`Course`](crate::Course)), which are the caller's.

use std::collections::BTreeSet;
use std::ops::Range;

use darter_core::{LeadKey, Moment, NodeId, PieceIndex, PieceSet, Proof, Tier};

use crate::hashes::{Answer, Run};
use crate::news::Tellings;
use crate::{Books, Event, Facts, Hashes, Leader, Leadership, Loss, News, Notice, Picker, RequestId, Step, Tuning};

/// See the module's text.
#[derive(Debug)]
pub struct Session {
    me: NodeId,
    /// Which piece to ask of whom.
    pub picker: Picker,
    /// Who leads.
    pub leadership: Leadership,
    /// How far the list of hashes goes.
    pub hashes: Hashes,
    news: News,
    /// Peers that were told what is held here.
    met: BTreeSet<NodeId>,
    /// Peers that are to be told, when they are connected.
    to_meet: BTreeSet<NodeId>,
}

/// What a peer says when it meets this agent.
#[derive(Debug)]
pub struct Meeting {
    /// How far it is.
    pub tier: Tier,
    /// What it holds.
    pub held: PieceSet,
    /// How many hashes it can prove.
    pub known: u32,
    /// Whether it lacks pieces.
    pub wants: bool,
}

/// A verified piece that is in the store now.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    /// The piece.
    pub piece: PieceIndex,
    /// Its length in bytes.
    pub bytes: u64,
    /// The request that it answers.
    pub request: Option<RequestId>,
    /// The peer that gave it; `None` for the origin and the disk.
    pub from: Option<NodeId>,
}

impl Session {
    /// The session of agent `me`, which has met nobody.
    pub const fn new(me: NodeId, picker: Picker, leadership: Leadership, hashes: Hashes, tuning: Tuning) -> Self {
        let news = News::new(tuning);
        Self { me, picker, leadership, hashes, news, met: BTreeSet::new(), to_meet: BTreeSet::new() }
    }

    /// This process has ended; what lies on its disk remains. It begins anew with `leadership`.
    pub fn restart(&mut self, leadership: Leadership, tuning: Tuning, now: Moment) {
        self.leadership = leadership;
        self.news = News::new(tuning);
        for node in std::mem::take(&mut self.met).into_iter().chain(std::mem::take(&mut self.to_meet)) {
            self.forget(node, now);
        }
        self.change_lead(Leader::Nobody, None, now);
    }

    // Who leads.

    /// Who leads.
    pub const fn leader(&self) -> Leader {
        self.leadership.leader()
    }

    /// The agent that is followed, if one is.
    pub const fn following(&self) -> Option<NodeId> {
        self.leadership.following()
    }

    /// This agent leads from now on.
    pub fn leads(&mut self, now: Moment) {
        self.change_lead(Leader::Me, None, now);
    }

    /// An agent has let this one in: it is followed from now on, unless this one goes on to lead it. `key` proves its hashes, and
    /// `neighbours` are to be met. Whether it is followed.
    pub fn follow(
        &mut self,
        lead: NodeId,
        key: LeadKey,
        neighbours: impl IntoIterator<Item = NodeId>,
        books: Option<&Books>,
        now: Moment,
    ) -> bool {
        if self.stays_lead_of(lead, books) {
            return false;
        }
        if self.leader() == Leader::Me {
            // They were not told what came here meanwhile.
            self.to_meet.append(&mut self.met);
        }
        self.change_lead(Leader::Node(lead), Some(key), now);
        self.picker.handle(Event::PeerLeft { peer: lead }, now);
        self.to_meet.retain(|node| !self.met.contains(node));
        // Even those that were met before: they may have been told that they are no neighbours any more.
        self.to_meet.extend(neighbours);
        self.to_meet.remove(&self.me);
        true
    }

    /// Whether this agent, which has let in `other`, goes on to lead it though `other` would let it in as well.
    pub fn stays_lead_of(&self, other: NodeId, books: Option<&Books>) -> bool {
        books.is_some_and(|books| books.has(other)) && self.leadership.stays_lead_of(other)
    }

    /// A lead is lost; false if it was not followed.
    pub fn lost_lead(&mut self, lead: NodeId, loss: Loss, now: Moment) -> bool {
        let is_lost = self.leadership.lost(lead, loss);
        if is_lost {
            self.change_lead(Leader::Nobody, None, now);
        }
        is_lost
    }

    fn change_lead(&mut self, leader: Leader, key: Option<LeadKey>, now: Moment) {
        self.leadership.set(leader);
        self.hashes.lead_changed(key);
        self.picker.handle(Event::LeadChanged { lead: self.following() }, now);
        self.news.lead_knows(now);
    }

    /// What to do next to find a lead, with these seeds connected; see [`Leadership::next`].
    pub fn next_step(&mut self, seeds: &[NodeId], is_connected: impl Fn(NodeId) -> bool) -> Step {
        let members: Vec<NodeId> = self.met.iter().copied().filter(|node| is_connected(*node)).collect();
        self.leadership.next(seeds, &members)
    }

    // Neighbours.

    /// Peers that were told what is held here.
    pub const fn met(&self) -> &BTreeSet<NodeId> {
        &self.met
    }

    /// Peers that are to be told when they are connected.
    pub const fn to_meet(&self) -> &BTreeSet<NodeId> {
        &self.to_meet
    }

    /// The lead says that some are neighbours, and that others are none any more. A peer in both lists is only met anew: it may have known
    /// this agent all the time.
    pub fn named(&mut self, add: &[NodeId], gone: &[NodeId], now: Moment) {
        for node in gone {
            self.to_meet.remove(node);
            self.met.remove(node);
            if !add.contains(node) {
                self.forget(*node, now);
            }
        }
        let (me, met) = (self.me, &self.met);
        self.to_meet.extend(add.iter().filter(|node| **node != me && !met.contains(node)));
    }

    /// The books of this agent say who are its own neighbours.
    pub fn noticed(&mut self, own: &Notice, now: Moment) {
        let add: Vec<NodeId> = own.gained.iter().map(|peer| peer.node).collect();
        self.named(&add, &own.lost, now);
    }

    /// Whom to meet now: they count as met.
    pub fn meet(&mut self, is_connected: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let meets: Vec<NodeId> = self.to_meet.extract_if(.., |node| is_connected(*node)).collect();
        self.met.extend(&meets);
        meets
    }

    /// A peer meets this agent. `is_wanted` says which pieces are wanted here.
    pub fn met_by(
        &mut self,
        peer: NodeId,
        meeting: Meeting,
        is_wanted: impl Fn(PieceIndex) -> bool,
        facts: &dyn Facts,
        now: Moment,
    ) {
        let Meeting { tier, held, known, wants } = meeting;
        self.hashes.showed(peer, known, held.iter().filter(|piece| is_wanted(*piece)), facts);
        if self.leader() != Leader::Node(peer) {
            self.picker.handle(Event::PeerJoined { peer, tier, wants, held }, now);
        }
        if !self.met.contains(&peer) {
            self.to_meet.insert(peer);
        }
    }

    /// A peer is no neighbour any more, as it says itself.
    pub fn parted(&mut self, peer: NodeId, now: Moment) {
        self.met.remove(&peer);
        self.forget(peer, now);
    }

    /// A peer's connection is gone. Whether it is to be met again, since it may be this connection alone that is: not if it leads, or
    /// nothing `is_lacking` here.
    pub fn gone(&mut self, peer: NodeId, is_lacking: bool, now: Moment) -> bool {
        let was_met = self.met.remove(&peer);
        self.forget(peer, now);
        let again = was_met && is_lacking && self.following().is_some_and(|lead| lead != peer);
        if again {
            self.to_meet.insert(peer);
        }
        again
    }

    /// A peer can't be reached. The lead that is to hear of it, if one is: it names others where there are any.
    pub fn unreached(&self, peer: NodeId, is_lacking: bool) -> Option<NodeId> {
        let is_missed = is_lacking && self.to_meet.contains(&peer);
        self.following().filter(|lead| is_missed && *lead != peer)
    }

    fn forget(&mut self, peer: NodeId, now: Moment) {
        self.hashes.left(peer);
        self.picker.handle(Event::PeerLeft { peer }, now);
    }

    /// A peer sent a wrong piece ([`Action::Report`](crate::Action::Report)). Who is to hear of it: the lead that is followed. If that is
    /// the peer itself, it is lost.
    pub fn accuse(&mut self, peer: NodeId, books: Option<&mut Books>) -> Option<NodeId> {
        self.met.remove(&peer);
        self.hashes.left(peer);
        // Whoever sends wrong pieces is not asked to lead.
        self.leadership.refused(peer);
        if let Some(books) = books {
            books.lead_mut().report(self.me, peer);
        }
        self.following()
    }

    // Answers.

    /// `giver` begins to answer a request with a piece.
    pub fn begun(&mut self, request: RequestId, piece: PieceIndex, giver: NodeId, now: Moment) {
        self.gives(giver, piece);
        self.picker.handle(Event::Started { request, piece }, now);
    }

    /// A piece of `giver` is on its way, or here before its hash: if that one leads, it knows the hash.
    pub fn gives(&mut self, giver: NodeId, piece: PieceIndex) {
        if self.following() == Some(giver) {
            self.hashes.lead_showed(piece.0 + 1);
        }
    }

    /// A request for a piece is refused, since the peer does not hold it. If this agent leads, somebody has to be found who does.
    pub fn refused(
        &mut self,
        request: RequestId,
        peer: NodeId,
        piece: PieceIndex,
        books: Option<&mut Books>,
        now: Moment,
    ) {
        self.picker.handle(Event::PeerLost { peer, piece }, now);
        self.failed(request, peer, piece, books, now);
    }

    /// A request for a piece is not answered, since its holder can't be reached. If this agent leads, it leaves nothing to that one that
    /// the origin can give, before it says again that it holds it.
    pub fn failed(
        &mut self,
        request: RequestId,
        holder: NodeId,
        piece: PieceIndex,
        books: Option<&mut Books>,
        now: Moment,
    ) {
        self.picker.handle(Event::Failed { request }, now);
        if let Some(books) = books {
            books.lead_mut().lacks(holder, piece);
        }
    }

    // Pieces.

    /// A piece that was lacking is here now.
    pub fn stored(&mut self, came: Came, books: Option<&mut Books>, now: Moment) {
        let Came { piece, bytes, request, from } = came;
        self.leadership.piece_came();
        self.picker.handle(Event::Received { request, piece, bytes }, now);
        if self.leader() != Leader::Me {
            self.news.came(piece, from.is_some() && from == self.following());
        }
        if let Some(books) = books {
            if let Some(member) = from {
                books.lead_mut().gave(member, true, now);
            }
            books.lead_mut().own(piece);
        }
    }

    /// A piece that was held is not any more.
    pub fn lacks(&mut self, piece: PieceIndex, books: Option<&mut Books>, now: Moment) {
        self.picker.handle(Event::Lost { piece }, now);
        self.news.went(piece);
        if let Some(books) = books {
            books.lead_mut().disown(piece);
        }
    }

    /// A peer no longer holds a piece, which `is_held` here or not.
    pub fn lost_by(&mut self, peer: NodeId, piece: PieceIndex, is_held: bool, now: Moment) {
        self.picker.handle(Event::PeerLost { peer, piece }, now);
        if is_held {
            self.news.is_wanted_by(peer, piece);
        }
    }

    // News.

    /// When something is to be told, if anything is.
    pub fn news_due(&self) -> Option<Moment> {
        self.news.due()
    }

    /// Takes what is to be told now, but nothing to those who are met now: they are told of all that is held.
    pub fn tell(&mut self, meets: &[NodeId], now: Moment) -> Tellings {
        let is_told = |node: &&NodeId| self.leader() != Leader::Me && !meets.contains(node);
        let neighbours: Vec<NodeId> = self.met.iter().filter(is_told).copied().collect();
        self.news.take(now, &self.picker, &neighbours, self.following())
    }

    // Hashes.

    /// Takes in the next hashes that the store has learned. Whether neighbours are to hear of it ([`Hashes::catch_up`]).
    pub fn catch_up(&mut self, facts: &dyn Facts) -> bool {
        let tells = self.hashes.catch_up(facts);
        self.are_first(tells)
    }

    /// The same, and the hashes of `run` are in the store, perhaps behind a gap.
    pub fn learned(&mut self, run: Range<u32>, facts: &dyn Facts, now: Moment) -> bool {
        let tells = self.catch_up(facts);
        self.picker.handle(Event::ManifestGrew { known: run, total: facts.pieces() }, now);
        tells
    }

    /// The lead told hashes ([`Hashes::lead_told`]).
    pub fn lead_told(&mut self, first: u32, count: u32, word: Option<Proof>, facts: &dyn Facts) -> bool {
        let tells = self.hashes.lead_told(first, count, word, facts);
        self.are_first(tells)
    }

    /// A neighbour that was asked has told hashes ([`Hashes::answered`]).
    pub fn answered(&mut self, from: NodeId, answer: Answer, now: Moment) -> bool {
        let tells = self.hashes.answered(from, answer, now);
        self.are_first(tells)
    }

    /// A run of hashes was taken ([`Hashes::took_run`]).
    pub fn took_run(&mut self, from: NodeId, run: Run, facts: &dyn Facts) -> bool {
        let tells = self.hashes.took_run(from, run, facts);
        self.are_first(tells)
    }

    fn are_first(&mut self, tells: bool) -> bool {
        if tells {
            self.news.first_hashes();
        }
        tells
    }
}

#[cfg(test)]
mod tests;
