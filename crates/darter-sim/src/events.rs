//! Events of a scenario, applied to a fleet: processes that start and die, ways that are cut, bits that flip, disks that fill, clocks that
//! jump. Nodes that lie are in `liars`.
//!
//! Hosts that are cut off from each other are told by nobody: what they say to each other lies on the way, and is there at once when
//! the cut is healed. After [`SILENCE`] each gives the other up, as an agent does with a silent connection, and what lay on the way is
//! lost.
//!
//! Dates decide nothing here, so that a wall clock that jumps does nothing. A monotonic clock that jumps is that of one node: every pause
//! by which it decides ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex, PieceSet};
use darter_scenario::{Clock, Event as Happening, Lie, SEED};
use darter_swarm::{Input, Leader, Start};

use crate::fleet::Fleet;
use crate::node::{Passing, id_of, index_of};
use crate::queue::What;

/// How long nothing is heard before a host is given up, as on an agent's control channels.
const SILENCE: Duration = Duration::from_secs(5);

/// Bytes that a node whose disk is full keeps in memory, as an agent does.
const WINDOW: u64 = 32 << 20;

/// Connections on which nothing passes, or other bytes than were sent.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    /// Pairs of nodes, the lesser first.
    cuts: BTreeMap<(u32, u32), Cut>,
    /// Senders and receivers between which the next piece is not what was sent.
    flips: BTreeSet<(u32, u32)>,
}

#[derive(Debug)]
struct Cut {
    since: Moment,
    /// Things on the way.
    under_way: Vec<What>,
}

fn pair(one: u32, other: u32) -> (u32, u32) {
    (one.min(other), one.max(other))
}

/// Between whom something is on its way, if it is.
const fn ends(what: &What) -> Option<(u32, u32)> {
    match *what {
        What::Request { to, from, .. } | What::Ask { to, from, .. } | What::Cancel { to, from, .. } => Some((from, to)),
        What::Arrived(arrival) => Some((arrival.from, arrival.to)),
        _ => None,
    }
}

impl Fleet {
    /// The scenario's event of this index happens.
    pub(crate) fn event(&mut self, at: usize) {
        self.events_left -= 1;
        match self.events[at].1 {
            Happening::Join(SEED) => self.restart_seed(),
            Happening::Join(node) => self.join(node),
            Happening::Leave(node) => {
                self.kill(node);
                self.noticed(node);
            }
            Happening::Kill(node) => self.kill(node),
            Happening::KillLead {} => {
                if let Some(leader) = self.most_followed() {
                    self.kill(leader);
                }
            }
            Happening::Cut(one, other) => self.cut(one, other),
            Happening::Heal(one, other) => self.heal(one, other),
            Happening::Slow { node, by } => {
                let node = &mut self.nodes[node as usize];
                node.up /= f64::from(by.max(1));
                node.down /= f64::from(by.max(1));
            }
            Happening::Lie { node, how } => self.lie(node as usize, how),
            Happening::Corrupt(node) => {
                let node = &mut self.nodes[node as usize];
                node.rotten = node.session.picker().held().clone();
            }
            Happening::Flip(from, to) => {
                self.troubles.flips.insert((from, to));
            }
            Happening::FullDisk(node) => self.fill_disk(node),
            Happening::Jump { clock: Clock::Wall, .. } => {}
            Happening::Jump { node, clock: Clock::Monotonic, by } => {
                self.nodes[node as usize].ahead += Duration::from_secs_f64(by.max(0.0));
                self.poll_soon(node);
            }
            // A node whose disk is full has another node read everything already.
            Happening::Read { node, .. } if self.nodes[node as usize].passing.is_some() => {}
            Happening::Read { node, from } => {
                self.nodes[node as usize].reader = Some(PieceIndex(from));
                self.move_reader(node);
            }
        }
    }

    /// The node that most follow.
    fn most_followed(&self) -> Option<u32> {
        let leads = self.nodes.iter().filter(|node| node.alive && node.session.leadership().leader() == Leader::Me);
        let followers =
            |lead: NodeId| self.nodes.iter().filter(|node| node.session.leadership().following() == Some(lead)).count();
        leads
            .max_by_key(|node| (followers(node.id), std::cmp::Reverse(index_of(node.id))))
            .map(|node| index_of(node.id))
    }

    /// The seed leads again: those who follow no seed come to it.
    fn restart_seed(&mut self) {
        if !self.start_up(SEED) {
            return;
        }
        self.lead_by(SEED, Start::TakeOver);
        for index in 1..self.nodes.len() as u32 {
            self.seed_came(index);
        }
    }

    /// A node reaches the seed, which leads.
    fn seed_came(&mut self, index: u32) {
        if self.nodes[index as usize].alive && !self.is_barred(index, SEED) && !self.is_cut(index, SEED) {
            self.tell_at_once(index, Input::SeedCame(id_of(SEED)));
        }
    }

    /// A node comes to the seed, which is to lead it.
    pub(crate) fn return_to_seed(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        if node.session.picker().is_complete() {
            self.count_in(index, SEED);
        } else {
            node.asks = Some(SEED);
            self.join_lead(index, SEED);
        }
    }

    pub(crate) fn is_cut(&self, one: u32, other: u32) -> bool {
        !self.troubles.cuts.is_empty() && self.troubles.cuts.contains_key(&pair(one, other))
    }

    /// The part of `what` that happens now: nothing if it is on its way between hosts that are cut off from each other.
    pub(crate) fn passes(&mut self, what: What) -> Option<What> {
        if self.troubles.cuts.is_empty() {
            return Some(what);
        }
        if let What::Letter(at) = what {
            let cuts = &self.troubles.cuts;
            for (from, to, at) in self.mail.split(at, |from, to| cuts.contains_key(&pair(from, to))) {
                let cut = self.troubles.cuts.get_mut(&pair(from, to)).expect("it is cut");
                cut.under_way.push(What::Letter(at));
            }
        }
        let cut = ends(&what).and_then(|(from, to)| self.troubles.cuts.get_mut(&pair(from, to)));
        let Some(cut) = cut else { return Some(what) };
        cut.under_way.push(what);
        None
    }

    fn cut(&mut self, one: u32, other: u32) {
        if one == other || self.is_cut(one, other) {
            return;
        }
        let cut = Cut { since: self.now, under_way: Vec::new() };
        self.troubles.cuts.insert(pair(one, other), cut);
        self.queue.push(self.now + SILENCE, What::Silent { one, other, since: self.now });
    }

    /// Two hosts have heard nothing of each other for as long as that means something.
    pub(crate) fn fell_silent(&mut self, one: u32, other: u32, since: Moment) {
        let cut = self.troubles.cuts.get_mut(&pair(one, other)).filter(|cut| cut.since == since);
        let Some(cut) = cut else { return };
        for lost in std::mem::take(&mut cut.under_way) {
            match lost {
                What::Arrived(arrival) => self.not_delivered(arrival.from, arrival.to, PieceIndex(arrival.piece)),
                What::Letter(at) => self.mail.lose(at),
                _ => {}
            }
        }
        for (node, peer) in [(one, other), (other, one)] {
            self.disconnected(node, peer);
        }
        for (node, peer) in [(one, other), (other, one)] {
            self.lose_lead(node, id_of(peer));
        }
    }

    fn heal(&mut self, one: u32, other: u32) {
        let Some(cut) = self.troubles.cuts.remove(&pair(one, other)) else { return };
        for what in cut.under_way {
            self.queue.push(self.now, what);
        }
        [one, other].into_iter().for_each(|node| self.poll_soon(node));
        if self.nodes[SEED as usize].alive && one.min(other) == SEED {
            self.seed_came(one.max(other));
        }
    }

    /// True if the bytes that arrived are not what their hash says.
    pub(crate) fn is_wrong(&mut self, from: u32, to: u32, piece: PieceIndex) -> bool {
        let (sender, receiver) = (&self.nodes[from as usize], &self.nodes[to as usize]);
        let is_other = sender.is_forged != receiver.is_forged;
        let is_wrong = is_other || sender.lie == Some(Lie::Wrong) || sender.rotten.contains(piece);
        self.troubles.flips.remove(&(from, to)) || is_wrong
    }

    /// A process that starts hashes what lies on its disk before it uses it.
    pub(crate) fn check_disk(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        let (rotten, passing) = (std::mem::take(&mut node.rotten), node.passing.take());
        let is_full = passing.is_some();
        let Passing { aside, forgotten } = passing.unwrap_or_default();
        let lost: PieceSet = rotten.iter().chain(aside).chain(forgotten.iter()).collect();
        if !lost.is_empty() {
            self.tell(index, Input::Lacking(lost));
        }
        if is_full {
            self.fill_disk(index);
        }
    }

    /// A node's disk takes nothing more: what comes passes through its memory, and it fetches no more than its reader needs.
    fn fill_disk(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        node.passing = Some(Passing::default());
        node.reader = Some(PieceIndex(0));
        self.tell(index, Input::Passes);
        self.move_reader(index);
    }

    /// How many pieces a node's reader needs at once.
    pub(crate) fn pieces_ahead(&self, index: u32) -> u32 {
        let passes = self.nodes[index as usize].passing.is_some();
        if passes { ((WINDOW / self.piece_bytes / 2) as u32).max(2) } else { 1 }
    }

    /// A node whose disk is full has got a piece, and forgets what its reader is past when there is too much. A lead forgets nothing:
    /// agents wait for their members there.
    pub(crate) fn pass_through(&mut self, index: u32, piece: PieceIndex) {
        let most = (WINDOW / self.piece_bytes).max(4) as usize;
        let node = &mut self.nodes[index as usize];
        let Some(passing) = node.passing.as_mut().filter(|_| !node.session.has_books()) else { return };
        passing.aside.push_back(piece);
        let stands = node.reader.unwrap_or(PieceIndex(u32::MAX));
        while passing.aside.len() > most
            && let Some(at) = passing.aside.iter().position(|aside| *aside < stands)
            && let Some(past) = passing.aside.remove(at)
        {
            passing.forgotten.insert(past);
        }
    }
}
