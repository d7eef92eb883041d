//! What happens at the node that leads: it tracks, it sends (see `links`), it reads the origin; and how another takes
//! over when it dies.

use std::time::Duration;

use darter_core::{NodeId, PieceIndex, rendezvous};
use darter_swarm::{Event, Lead, Start, Teaching};

use crate::fleet::Fleet;
use crate::node::{id_of, index_of};
use crate::queue::What;

/// How many parked asks are tried again when something changes. The daemon tries all; the first of them tell whether
/// the lead has anything to give, and each change brings up others.
const UNPARKED: usize = 4;

impl Fleet {
    /// Makes a node the lead, and has everybody join it.
    pub(crate) fn lead_by(&mut self, leader: u32, start: Start) {
        if let Some(former) = self.leader.take() {
            self.nodes[former as usize].lead = None;
        }
        self.reading += 1;
        self.is_reading = false;
        self.leader = Some(leader);
        // Whoever leads here knows every hash.
        self.learn(leader, self.known);
        self.teaching = Teaching::new(self.known, self.tuning, self.now);
        self.members = 1;
        let node = &mut self.nodes[leader as usize];
        let seed = self.seed ^ u64::from(self.reading);
        let mut lead = Lead::new(node.id, node.place.clone(), start, self.tuning, seed, self.now);
        lead.set_total(self.pieces);
        for piece in (0..self.pieces).map(PieceIndex) {
            if node.holds(piece) {
                lead.own(piece);
            }
        }
        for liar in node.picker.dropped() {
            lead.report(node.id, liar);
        }
        node.lead = Some(Box::new(lead));
        for index in 0..self.nodes.len() as u32 {
            if self.nodes[index as usize].alive && (index != leader || start == Start::TakeOver) {
                self.join_lead(index);
            }
        }
        self.part_cut();
        self.wake_lead(leader);
        self.look_after(leader);
    }

    /// A node says to the lead that it is here.
    pub(crate) fn join_lead(&mut self, index: u32) {
        let Some(leader) = self.leader else { return };
        let leader_id = self.nodes[leader as usize].id;
        let node = &self.nodes[index as usize];
        let (id, place, held) = (node.id, node.place.clone(), node.picker.held().clone());
        let wants = !node.picker.is_complete();
        self.count_message();
        self.report.tracker_notices += 1;
        let Some(lead) = &mut self.nodes[leader as usize].lead else { return };
        let is_new = index != leader && lead.held_by(id).is_none();
        lead.join(id, place, &held, wants);
        let notice = lead.take_notice(id);
        self.members += usize::from(is_new);
        self.change_lead(index, (index != leader).then_some(leader_id));
        self.tell_known(index);
        // It meets them, and so they know each other before the lead tells them.
        let (lost, gained) = notice.map_or_else(Default::default, |notice| (notice.lost, notice.gained));
        lost.iter().for_each(|peer| self.unlink(index, index_of(*peer)));
        for neighbour in gained {
            self.link(id, neighbour.node, neighbour.wants);
            // The lead's node is asked as the lead.
            if index != leader {
                self.link(neighbour.node, id, wants);
            }
        }
        if index != leader {
            self.tell_growth(Some(index));
            self.answer_newcomer(leader, index);
        }
        self.give_notices();
        self.look_after(leader);
    }

    /// Runs something on the lead, then whatever follows from it.
    pub(crate) fn with_lead(&mut self, change: impl FnOnce(&mut Lead)) {
        let Some(leader) = self.leader else { return };
        let Some(lead) = &mut self.nodes[leader as usize].lead else { return };
        change(lead);
        self.give_notices();
        self.look_after(leader);
    }

    /// The lead's chores after a change: free slots and the origin.
    pub(crate) fn look_after(&mut self, leader: u32) {
        self.nodes[leader as usize].uploads.unpark(UNPARKED);
        self.fill_slots(leader);
        self.read_on(leader);
    }

    /// Sees to it that the lead is looked after when time alone changes something.
    pub(crate) fn wake_lead(&mut self, leader: u32) {
        let now = self.now;
        let node = &mut self.nodes[leader as usize];
        let Some(at) = node.lead.as_ref().and_then(|lead| lead.next_wakeup(now)) else { return };
        if node.lead_wake.is_none_or(|before| before <= now || at < before) {
            node.lead_wake = Some(at);
            self.queue.push(at, What::Lead(leader));
        }
    }

    pub(crate) fn lead_woken(&mut self, leader: u32) {
        if self.nodes[leader as usize].lead_wake == Some(self.now) {
            self.nodes[leader as usize].lead_wake = None;
        }
        if self.leader == Some(leader) {
            self.look_after(leader);
        }
    }

    /// Asks the origin for the next piece that nobody has, if none is being read.
    fn read_on(&mut self, leader: u32) {
        if self.is_reading {
            return;
        }
        let now = self.now;
        let Some(lead) = &self.nodes[leader as usize].lead else { return };
        // Whoever leads here knows every hash.
        let Some(run) = lead.origin_plan(u32::MAX, now) else { return };
        let piece = run.first;
        self.report.origin_pieces += 1;
        let holds = |node: &&crate::node::Node| node.alive && node.honest && node.holds(piece);
        if self.nodes.iter().find(holds).is_some() {
            self.report.origin_needless += 1;
        }
        self.is_reading = true;
        let took = Duration::from_secs_f64(self.piece_bytes as f64 / self.origin);
        self.queue.push(now + took, What::Read { piece: piece.0, reading: self.reading });
    }

    pub(crate) fn origin_piece(&mut self, piece: PieceIndex, reading: u32) {
        let Some(leader) = self.leader.filter(|_| self.reading == reading) else { return };
        self.is_reading = false;
        if self.known <= piece.0 {
            self.known = piece.0 + 1;
            self.learn(leader, self.known);
            self.tell_growth(None);
        }
        self.learn(leader, self.known);
        let fresh = !self.nodes[leader as usize].holds(piece);
        self.tell(leader, Event::Received { request: None, piece, bytes: self.piece_bytes });
        if fresh {
            self.stored(leader, piece, false);
        }
        self.look_after(leader);
    }

    pub(crate) fn give_notices(&mut self) {
        let Some(leader) = self.leader else { return };
        let Some(lead) = &mut self.nodes[leader as usize].lead else { return };
        let notices = lead.take_notices(self.now);
        if let Some(due) = lead.notices_due().filter(|due| self.notices_at.is_none_or(|at| at <= self.now || *due < at))
        {
            self.notices_at = Some(due);
            self.queue.push(due, What::Notices);
        }
        for notice in notices {
            self.report.tracker_notices += 1;
            let to = index_of(notice.to);
            notice.lost.iter().for_each(|peer| self.unlink(to, index_of(*peer)));
            notice.gained.iter().for_each(|peer| self.link(notice.to, peer.node, peer.wants));
        }
    }

    fn link(&mut self, to: NodeId, peer: NodeId, wants: bool) {
        let (to, other) = (index_of(to), index_of(peer));
        let (node, neighbour) = (&self.nodes[to as usize], &self.nodes[other as usize]);
        if !node.alive || !neighbour.alive || self.is_cut(to, other) {
            return;
        }
        if node.links.contains(&other) {
            let held: Vec<PieceIndex> = neighbour.picker.held().iter().collect();
            self.hear(to, other, &held);
            self.show_known(to, other);
            return;
        }
        let tier = node.place.tier_to(&neighbour.place);
        let held = neighbour.picker.held().clone();
        self.nodes[to as usize].links.push(other);
        self.tell(to, Event::PeerJoined { peer, tier, wants, held });
        self.show_known(to, other);
    }

    /// `to` finds out that it can't ask `peer` any more.
    pub(crate) fn unlink(&mut self, to: u32, peer: u32) {
        let before = self.nodes[to as usize].links.len();
        self.nodes[to as usize].links.retain(|other| *other != peer);
        if self.nodes[to as usize].links.len() < before {
            self.drop_queued(peer, to);
            self.part_from(to, peer);
        }
    }

    /// A node has a neighbour no more.
    pub(crate) fn part_from(&mut self, index: u32, neighbour: u32) {
        let peer = id_of(neighbour);
        self.nodes[index as usize].knowledge.learner.left(peer);
        self.tell(index, Event::PeerLeft { peer });
    }

    /// Whether a live node turned away from another, and so would not follow it.
    pub(crate) fn is_shunned(&self, index: u32) -> bool {
        let id = self.nodes[index as usize].id;
        let shuns =
            |node: &crate::node::Node| node.alive && node.honest && node.picker.dropped().any(|dropped| dropped == id);
        self.deposed.contains(&index) || self.nodes.iter().any(shuns)
    }

    /// The members find out that nobody leads, and elect the first of themselves in rendezvous order whom all would
    /// follow.
    pub(crate) fn elect(&mut self) {
        if self.leader.is_some() {
            return;
        }
        let alive: Vec<u32> = (0..self.nodes.len() as u32).filter(|index| self.nodes[*index as usize].alive).collect();
        for index in &alive {
            self.change_lead(*index, None);
        }
        let trusted: Vec<NodeId> =
            alive.iter().filter(|index| !self.is_shunned(**index)).map(|index| id_of(*index)).collect();
        if let Some(elected) = rendezvous::owner(b"the blob", &trusted) {
            self.lead_by(index_of(elected), Start::TakeOver);
        }
    }
}
