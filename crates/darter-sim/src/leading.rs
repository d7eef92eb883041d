//! What happens at a node that leads: it tracks, it sends (see `links`), it reads the origin.
//!
//! Several may lead at a time, each for those who follow it. A node that follows another and was asked to lead passes on what it gets,
//! and does not read the origin. Whoever begins to lead knows all hashes that the origin ever gave: what agents ask each other for
//! after an election is left out.

use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex, PieceSet};
use darter_swarm::{Event, Lead, Leader, OriginReader, Start, Teaching};

use crate::fleet::Fleet;
use crate::node::{Node, id_of, index_of};
use crate::queue::What;

/// A lead's books on one swarm.
#[derive(Debug)]
pub(crate) struct Leading {
    pub(crate) lead: Lead,
    pub(crate) teaching: Teaching,
    /// Members, its own node included.
    pub(crate) members: usize,
    /// When it has to tell members of their neighbours next.
    notices_at: Option<Moment>,
    /// When it looks whether to tell members of new hashes.
    pub(crate) growth_at: Option<Moment>,
    /// When it looks whether there is something to send or to read though nothing happened.
    wakes_at: Option<Moment>,
    /// Whether it reads the origin.
    is_reading: bool,
}

impl Fleet {
    /// A node leads from now on.
    pub(crate) fn lead_by(&mut self, leader: u32, start: Start) {
        self.learn(leader, self.known);
        self.open_books(leader, start);
        self.change_lead(leader, Leader::Me);
        self.tell_known(leader);
        if start == Start::TakeOver {
            self.report.elected.push((self.now.since(Moment::ZERO), leader as usize));
        }
        self.look_after(leader);
    }

    /// Sets up a lead's books, whomever it follows.
    fn open_books(&mut self, leader: u32, start: Start) {
        let node = &self.nodes[leader as usize];
        if node.leading.is_some() {
            return;
        }
        self.books += 1;
        let seed = self.seed ^ u64::from(self.books);
        let mut lead = Lead::new(node.id, node.place.clone(), start, self.tuning, seed, self.now);
        lead.set_total(self.pieces);
        let held = node.picker.held();
        held.iter().for_each(|piece| lead.own(piece));
        if start == Start::TakeOver {
            lead.join(node.id, node.place.clone(), held, !node.picker.is_complete());
        }
        for liar in node.picker.dropped() {
            lead.report(node.id, liar);
        }
        let teaching = Teaching::new(node.knowledge.known(), self.tuning, self.now);
        let (notices_at, growth_at, wakes_at, is_reading) = (None, None, None, false);
        let leading = Leading { lead, teaching, members: 1, notices_at, growth_at, wakes_at, is_reading };
        self.nodes[leader as usize].leading = Some(Box::new(leading));
    }

    /// A lead counts a node that holds all as a member, which need not know: nodes tell seeds what they hold whole.
    pub(crate) fn count_in(&mut self, holder: u32, leader: u32) {
        let node = &self.nodes[holder as usize];
        let (id, place, held) = (node.id, node.place.clone(), node.picker.held().clone());
        let Some(leading) = &mut self.nodes[leader as usize].leading else { return };
        leading.members += usize::from(leading.lead.held_by(id).is_none());
        leading.lead.join(id, place, &held, false);
        self.give_notices(leader);
    }

    /// A lead lets a node in, which follows it.
    pub(crate) fn join_lead(&mut self, index: u32, leader: u32) {
        self.open_books(leader, Start::TakeOver);
        let leader_id = self.nodes[leader as usize].id;
        let node = &self.nodes[index as usize];
        let (id, place, held) = (node.id, node.place.clone(), self.shown(index));
        let wants = !node.picker.is_complete();
        self.count_message();
        self.report.tracker_notices += 1;
        let Some(leading) = &mut self.nodes[leader as usize].leading else { return };
        let is_new = leading.lead.held_by(id).is_none();
        leading.lead.join(id, place, &held, wants);
        let notice = leading.lead.take_notice(id);
        leading.members += usize::from(is_new);
        self.change_lead(index, Leader::Node(leader_id));
        self.tell_known(index);
        // It meets them, and so they know each other before the lead tells them.
        let (lost, gained) = notice.map_or_else(Default::default, |notice| (notice.lost, notice.gained));
        lost.iter().for_each(|peer| self.unlink(index, index_of(*peer)));
        for neighbour in gained {
            self.link(id, neighbour.node, neighbour.wants);
            self.link(neighbour.node, id, wants);
        }
        self.tell_growth(leader, Some(index));
        self.answer_newcomer(leader, index);
        self.give_notices(leader);
        self.look_after(leader);
    }

    /// Runs something on a lead, then whatever follows from it.
    pub(crate) fn with_lead(&mut self, leader: u32, change: impl FnOnce(&mut Lead)) {
        let Some(leading) = &mut self.nodes[leader as usize].leading else { return };
        change(&mut leading.lead);
        self.give_notices(leader);
        self.look_after(leader);
    }

    /// Takes a member out of a lead's books.
    pub(crate) fn member_left(&mut self, leader: u32, member: NodeId) {
        let Some(leading) = &mut self.nodes[leader as usize].leading else { return };
        if leading.lead.held_by(member).is_some() {
            leading.members -= 1;
            self.with_lead(leader, |lead| lead.leave(member));
            self.tell_growth(leader, None);
        }
    }

    /// The lead's chores after a change: free slots and the origin.
    pub(crate) fn look_after(&mut self, leader: u32) {
        let now = self.now;
        let node = &mut self.nodes[leader as usize];
        if let Some(leading) = &mut node.leading
            && node.uploads.has_parked()
            && leading.lead.may_give(now)
        {
            node.uploads.unpark_all();
        }
        self.fill_slots(leader);
        self.wake_lead(leader);
        self.read_on(leader);
    }

    /// Sees to it that the lead is looked after when time alone changes something.
    pub(crate) fn wake_lead(&mut self, leader: u32) {
        let now = self.now;
        let Some(leading) = &mut self.nodes[leader as usize].leading else { return };
        let Some(at) = leading.lead.next_wakeup(now) else { return };
        if leading.wakes_at.is_none_or(|before| before <= now || at < before) {
            leading.wakes_at = Some(at);
            self.queue.push(at, What::Lead(leader));
        }
    }

    pub(crate) fn lead_woken(&mut self, leader: u32) {
        let Some(leading) = &mut self.nodes[leader as usize].leading else { return };
        leading.wakes_at.take_if(|at| *at == self.now);
        self.look_after(leader);
    }

    /// Asks the origin for the next piece that nobody has, if none is being read.
    fn read_on(&mut self, leader: u32) {
        let node = &mut self.nodes[leader as usize];
        let Some(leading) = node.leading.as_mut().filter(|leading| !leading.is_reading) else { return };
        if node.leadership.leader() != Leader::Me || node.picker.is_complete() {
            return;
        }
        let known = PieceSet::full(self.known);
        let Some(run) = leading.lead.origin_plan(OriginReader::Everything, &known, self.now) else {
            if !node.picker.is_complete() {
                // Members may stand still.
                self.wake_lead(leader);
            }
            return;
        };
        leading.is_reading = true;
        let (piece, life, id) = (run.first, node.life, node.id);
        self.report.origin_pieces += 1;
        let holds =
            |node: &&Node| node.alive && node.honest && node.holds(piece) && node.leadership.following() == Some(id);
        if self.nodes[leader as usize].honest && self.nodes.iter().find(holds).is_some() {
            self.report.origin_needless += 1;
        }
        let took = Duration::from_secs_f64(self.piece_bytes as f64 / self.origin);
        self.queue.push(self.now + took, What::Read { by: leader, life, piece: piece.0 });
    }

    pub(crate) fn origin_piece(&mut self, leader: u32, life: u8, piece: PieceIndex) {
        let node = &mut self.nodes[leader as usize];
        let Some(leading) = node.leading.as_mut().filter(|_| node.life == life) else { return };
        leading.is_reading = false;
        self.known = self.known.max(piece.0 + 1);
        self.learn(leader, self.known);
        let fresh = !self.nodes[leader as usize].holds(piece);
        self.tell(leader, Event::Received { request: None, piece, bytes: self.piece_bytes });
        if fresh {
            self.stored(leader, piece, false);
        }
        self.look_after(leader);
    }

    pub(crate) fn give_notices(&mut self, leader: u32) {
        let Some(leading) = &mut self.nodes[leader as usize].leading else { return };
        let notices = leading.lead.take_notices(self.now);
        let due = leading.lead.notices_due();
        if let Some(due) = due.filter(|due| leading.notices_at.is_none_or(|at| at <= self.now || *due < at)) {
            leading.notices_at = Some(due);
            self.queue.push(due, What::Notices(leader));
        }
        let leader = id_of(leader);
        for notice in notices {
            self.report.tracker_notices += 1;
            let to = index_of(notice.to);
            // Whoever follows another does not hear it, nor does one that was only counted in.
            if notice.to == leader || self.nodes[to as usize].leadership.following() == Some(leader) {
                notice.lost.iter().for_each(|peer| self.unlink(to, index_of(*peer)));
                notice.gained.iter().for_each(|peer| self.link(notice.to, peer.node, peer.wants));
            }
        }
    }

    fn link(&mut self, to: NodeId, peer: NodeId, wants: bool) {
        let (to, other) = (index_of(to), index_of(peer));
        let (node, neighbour) = (&self.nodes[to as usize], &self.nodes[other as usize]);
        if !node.alive || !neighbour.alive {
            return;
        }
        if self.is_cut(to, other) {
            return self.dial_fails(to, other);
        }
        if node.links.contains(&other) {
            let held: Vec<PieceIndex> = self.shown(other).iter().collect();
            self.hear(to, other, &held);
            self.show_known(to, other);
            return;
        }
        let tier = node.place.tier_to(&neighbour.place);
        let held = self.shown(other);
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
}
