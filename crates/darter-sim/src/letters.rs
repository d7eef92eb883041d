//! Messages between nodes: the real messages of [`Session`](darter_swarm::Session), each as long as it is when it is encoded.
//!
//! A message waits behind the data that its sender has bound, and takes its time on that cable; one to a single node waits at the
//! receiver's cable, too. A message to many arrives at all of them at once, when its last copy has left. Messages from one node to another arrive in
//! order, as on a control channel: news of pieces behind earlier news, all else behind all else.
//!
//! Nobody tells wrong hashes. A node that is dead or out of reach is not met; one that is told to meet it finds that out after a while.

use std::collections::HashMap;
use std::time::Duration;

use darter_core::{Moment, NodeId, PieceSet};
use darter_protocol::{Frame, Message, PeerInfo};
use darter_scenario::Lie;
use darter_scenario::SEED;
use darter_swarm::{Input, LetIn};

use crate::fleet::Fleet;
use crate::node::{id_of, index_of};
use crate::queue::What;

/// For how long a seed may say that it waits for its origin. A node may for as long as others would wait for an origin themselves: not at all here.
const MAX_SEED_WAITING: Duration = Duration::from_secs(600);

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Letter {
    from: u32,
    /// To whom, and in which of their lives.
    to: Vec<(u32, u8)>,
    message: Message,
}

/// Messages on their way, each in its place: events name places.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    places: Vec<Option<Letter>>,
    free: Vec<u32>,
    /// When what was said last arrives, from whom and to whom.
    last: HashMap<(u32, u32), Moment>,
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

    /// A message is lost.
    pub(crate) fn lose(&mut self, at: u32) {
        self.take(at);
    }

    fn take(&mut self, at: u32) -> Option<Letter> {
        self.free.push(at);
        self.places[at as usize].take()
    }

    /// Takes those out of a letter's receivers that `is_cut` off from its sender: each with a letter of its own, and the sender.
    pub(crate) fn split(&mut self, at: u32, is_cut: impl Fn(u32, u32) -> bool) -> Vec<(u32, u32, u32)> {
        let Some(letter) = &mut self.places[at as usize] else { return Vec::new() };
        let from = letter.from;
        let cut: Vec<(u32, u8)> = letter.to.extract_if(.., |(to, _)| is_cut(from, *to)).collect();
        let message = letter.message.clone();
        let alone = |to| Letter { from, to: vec![to], message: message.clone() };
        cut.into_iter().map(|to| (from, to.0, self.put(alone(to)))).collect()
    }
}

/// True if a message is news of pieces, which neighbours tell each other all the time.
const fn is_news(message: &Message) -> bool {
    matches!(message, Message::Meet { .. } | Message::Have { .. } | Message::Lost { .. })
}

impl Fleet {
    /// A message goes its way to these nodes.
    pub(crate) fn post(&mut self, from: u32, to: &[NodeId], mut message: Message) {
        if let Message::Meet { held, .. } = &mut message
            && self.nodes[from as usize].lie.is_some_and(Lie::claims_all)
        {
            *held = PieceSet::full(self.pieces);
        }
        let bytes = (Frame::encode(&message).expect("agents tell no more at once").bytes().len() * to.len()) as u64;
        self.report.messages += to.len() as u64;
        let sender = &mut self.nodes[from as usize];
        if sender.session.has_books() && !is_news(&message) {
            self.report.tracker_notices += to.len() as u64;
            self.report.lead_hash_bytes += match &message {
                Message::Grew { .. } => bytes,
                Message::Joined { hashes, .. } => std::mem::size_of_val(hashes.as_slice()) as u64,
                _ => 0,
            };
        }
        let left = sender.take_up(bytes as f64 / sender.up * 1e6, self.now);
        let there = match to {
            [to] if !is_news(&message) => {
                let to = index_of(*to);
                let there = self.delivered_at(from, to, left);
                let last = self.mail.last.entry((from, to)).or_default();
                *last = there.max(*last);
                *last
            }
            _ => {
                let there = self.telling_at(from, left).max(self.nodes[from as usize].told_at);
                self.nodes[from as usize].told_at = there;
                there
            }
        };
        let to = to.iter().map(|to| (index_of(*to), self.nodes[index_of(*to) as usize].life)).collect();
        let at = self.mail.put(Letter { from, to, message });
        self.queue.push(there, What::Letter(at));
    }

    /// A message is there.
    pub(crate) fn letter_came(&mut self, at: u32) {
        let Some(Letter { from, mut to, message }) = self.mail.take(at) else { return };
        let Some(last) = to.pop() else { return };
        for receiver in to {
            self.said(receiver, from, message.clone());
        }
        self.said(last, from, message);
    }

    /// A node hears what another says.
    fn said(&mut self, (to, life): (u32, u8), from: u32, message: Message) {
        let (by, node) = (id_of(from), &self.nodes[to as usize]);
        if !node.alive || node.life != life {
            return;
        }
        let is_to_lead = node.session.has_member(by) && !matches!(message, Message::Meet { .. });
        if is_to_lead {
            self.count_message();
        }
        match message {
            Message::Joined { hashes, key, members_ask, proof, neighbours, verdict, .. } => {
                let let_in = LetIn { lead: by, key, members_ask, neighbours, verdict, arrives: false };
                if self.enter(to, let_in) {
                    self.hear_hashes(to, from, 0, &hashes, (members_ask, proof));
                }
            }
            Message::Grew { from: first, hashes, members_ask, proof, .. } => {
                if hashes.is_empty() {
                    let most = if index_of(by) == SEED { MAX_SEED_WAITING } else { Duration::ZERO };
                    self.tell(to, Input::LeadWaits { lead: by, most });
                }
                self.hear_hashes(to, from, first, &hashes, (members_ask, proof));
            }
            message => {
                if let Message::Neighbours { add, gone, .. } = &message {
                    let is_gone = |node: &&NodeId| add.iter().all(|info| info.node != **node);
                    gone.iter().filter(is_gone).for_each(|peer| self.drop_queued(index_of(*peer), to));
                }
                self.tell(to, Input::Said { by, message });
            }
        }
        if is_to_lead {
            self.look_after(to);
        }
    }

    /// A node connects to some others, and meets them.
    pub(crate) fn dial(&mut self, index: u32, peers: &[PeerInfo]) {
        for peer in peers {
            let peer = index_of(peer.node);
            if !self.reaches(index, peer) {
                self.dial_fails(index, peer);
            }
        }
        self.poll_soon(index);
    }

    /// True if a node can connect to another.
    pub(crate) fn reaches(&self, index: u32, peer: u32) -> bool {
        self.nodes[peer as usize].alive && !self.is_cut(index, peer)
    }

    /// A node tries in vain to reach another.
    fn dial_fails(&mut self, node: u32, peer: u32) {
        let life = self.nodes[node as usize].life;
        self.queue.push(self.now + self.network.latency * 2, What::Unreached { node, peer, life });
    }

    /// The connection of a node to another is gone.
    pub(crate) fn disconnected(&mut self, index: u32, peer: u32) {
        let session = &self.nodes[index as usize].session;
        if session.met().contains(&id_of(peer)) || session.has_member(id_of(peer)) {
            self.tell(index, Input::Gone(id_of(peer)));
            self.drop_queued(peer, index);
            self.look_after(index);
        }
    }
}
