//! Neighbours that are met, and neighbours that are lost.

use std::collections::BTreeSet;

use darter_core::{Moment, NodeId, PieceIndex, PieceSet, Tier};
use darter_protocol::PeerInfo;

use super::{Output, Session};
use crate::{Event, Facts, Leader, Notice};

/// A peer's message when it meets this agent.
#[derive(Debug)]
pub(super) struct Meeting {
    /// How far away it is.
    pub(super) tier: Tier,
    /// The pieces that the peer holds.
    pub(super) held: PieceSet,
    /// How many hashes the peer can prove.
    pub(super) known: u32,
    /// True if the peer lacks pieces.
    pub(super) wants: bool,
}

impl Session {
    /// Peers that were told which pieces are held here.
    pub const fn met(&self) -> &BTreeSet<NodeId> {
        &self.met
    }

    /// Peers that are to be told which pieces are held here, when they are connected.
    pub const fn to_meet(&self) -> &BTreeSet<NodeId> {
        &self.to_meet
    }

    /// The lead says that the agents in `add` are neighbours, and those in `gone` no longer are. A peer in both lists is only met anew: it may have known
    /// this agent all the time.
    pub(super) fn named(&mut self, add: &[NodeId], gone: &[NodeId], now: Moment) {
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

    /// The books of this agent changed its own neighbours.
    pub(super) fn noticed(&mut self, own: &Notice, now: Moment) {
        let add: Vec<NodeId> = own.gained.iter().map(|peer| peer.node).collect();
        self.named(&add, &own.lost, now);
    }

    /// The nodes to meet now. They count as met afterwards.
    pub(super) fn meet(&mut self, is_connected: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let meets: Vec<NodeId> = self.to_meet.extract_if(.., |node| is_connected(*node)).collect();
        self.met.extend(&meets);
        meets
    }

    /// Meets all neighbours again when everything comes to be wanted here. Those that were met while only parts were wanted do not count on this agent for
    /// pieces from afar, and each of them would fetch the same pieces as well.
    pub(super) fn meet_anew(&mut self) {
        if self.following().is_some() && self.is_all_wanted() && !std::mem::replace(&mut self.told_all, true) {
            self.to_meet.append(&mut self.met);
        }
    }

    /// `peer` meets this agent.
    pub(super) fn met_by(&mut self, peer: NodeId, meeting: Meeting, facts: &dyn Facts, now: Moment) {
        let Meeting { tier, held, known, wants } = meeting;
        self.showed(peer, known, held.iter(), facts);
        if self.leader() != Leader::Node(peer) {
            self.picker.handle(Event::PeerJoined { peer, tier, wants, held }, now);
        }
        if !self.met.contains(&peer) {
            self.to_meet.insert(peer);
        }
    }

    /// A neighbour knows the first `known` hashes and holds more pieces. Returns true if the picker has something to ask for, or some agent
    /// is to be asked for hashes.
    pub(super) fn has_more(
        &mut self,
        peer: NodeId,
        known: u32,
        pieces: &[PieceIndex],
        facts: &dyn Facts,
        now: Moment,
    ) -> bool {
        let is_neighbour = self.met.contains(&peer) || self.to_meet.contains(&peer);
        let follows = is_neighbour && self.showed(peer, known, pieces.iter().copied(), facts);
        let may_ask = self.picker.peer_has(peer, pieces);
        self.picker.follow(peer, pieces, now) || may_ask || follows
    }

    /// A peer showed that it knows the first `known` hashes, and holds pieces. Returns true if some agent is to be asked for hashes.
    pub(super) fn showed(
        &mut self,
        peer: NodeId,
        known: u32,
        pieces: impl Iterator<Item = PieceIndex>,
        facts: &dyn Facts,
    ) -> bool {
        let wants = &self.wants;
        self.hashes.showed(peer, known, pieces.filter(|piece| wants.includes(*piece)), facts)
    }

    /// A peer says that it is no longer a neighbour.
    pub(super) fn parted(&mut self, peer: NodeId, now: Moment) {
        self.met.remove(&peer);
        self.forget(peer, now);
    }

    /// A peer's connection is lost. The peer is dialled if it is to be met again.
    pub(super) fn loses_connection(&mut self, peer: NodeId, facts: &dyn Facts, now: Moment) {
        self.given.gone(peer);
        self.left(peer);
        if self.gone(peer, now) {
            let (addr, place) = (facts.address(peer), facts.place(peer).unwrap_or_default());
            self.outputs.push(Output::Dial(vec![PeerInfo { node: peer, addr, place }]));
        }
    }

    /// Forgets a peer whose connection is lost. Returns true if the peer is to be met again, since only the connection may be lost: not if
    /// it leads, or nothing is lacking here.
    pub(super) fn gone(&mut self, peer: NodeId, now: Moment) -> bool {
        let was_met = self.met.remove(&peer);
        self.forget(peer, now);
        let again = was_met && self.course.is_open() && self.following().is_some_and(|lead| lead != peer);
        if again {
            self.to_meet.insert(peer);
        }
        again
    }

    /// A peer can't be reached. Returns the lead that is to be told, if there is one: it names other neighbours if it knows any.
    pub(super) fn unreached(&self, peer: NodeId) -> Option<NodeId> {
        let is_missed = self.course.is_open() && self.to_meet.contains(&peer);
        self.following().filter(|lead| is_missed && *lead != peer)
    }

    pub(super) fn forget(&mut self, peer: NodeId, now: Moment) {
        self.hashes.left(peer);
        self.picker.handle(Event::PeerLeft { peer }, now);
    }

    /// A peer sent a wrong piece ([`Action::Report`](crate::Action::Report)). Returns the node that is to be told: the lead that is
    /// followed. If the peer is that lead, the lead is lost.
    pub(super) fn accuse(&mut self, peer: NodeId) -> Option<NodeId> {
        self.met.remove(&peer);
        self.hashes.left(peer);
        // A peer that sends wrong pieces is not asked to lead.
        self.leadership.refused(peer);
        if let Some(books) = &mut self.books {
            books.lead_mut().report(self.me, peer);
        }
        self.following()
    }
}
