//! Nodes meet and lose each other: whom, [`Session`](darter_swarm::Session) says.
//!
//! A named neighbour that can be reached is met at once, since a lead's news of neighbours takes no time here. A node that is dead and not
//! missed yet is not met, and nobody says so; who can't be reached is found out after a while.

use darter_core::NodeId;
use darter_swarm::Meeting;

use crate::fleet::Fleet;
use crate::node::{id_of, index_of};
use crate::queue::What;

impl Fleet {
    /// A lead says who a node's neighbours are, and who is none any more.
    pub(crate) fn named(&mut self, index: u32, add: &[NodeId], gone: &[NodeId]) {
        let node = &mut self.nodes[index as usize];
        node.session.named(add, gone, node.clock(self.now));
        self.was_named(index, add, gone);
    }

    /// A node knows who its neighbours are now, and who is none any more.
    pub(crate) fn was_named(&mut self, index: u32, add: &[NodeId], gone: &[NodeId]) {
        for peer in gone.iter().filter(|peer| !add.contains(peer)) {
            self.drop_queued(index_of(*peer), index);
        }
        self.poll_soon(index);
        self.dial(index, add.iter().copied());
    }

    /// A node connects to some others, and meets them.
    pub(crate) fn dial(&mut self, index: u32, peers: impl Iterator<Item = NodeId>) {
        if !self.nodes[index as usize].alive {
            return;
        }
        for peer in peers.map(index_of) {
            if self.nodes[peer as usize].alive && self.is_cut(index, peer) {
                self.dial_fails(index, peer);
            }
        }
        self.meet(index);
    }

    /// A node meets those whom it is to meet and can reach.
    pub(crate) fn meet(&mut self, index: u32) {
        let reached = |peer: &NodeId| {
            let peer = index_of(*peer);
            self.nodes[peer as usize].alive && !self.is_cut(index, peer)
        };
        let node = &self.nodes[index as usize];
        if !node.alive || node.session.to_meet().is_empty() {
            return;
        }
        let reached: Vec<NodeId> = node.session.to_meet().iter().copied().filter(reached).collect();
        for peer in self.nodes[index as usize].session.meet(|peer| reached.contains(&peer)) {
            self.met_by(index_of(peer), index);
        }
    }

    /// A node hears from another that it meets it, and what it holds.
    fn met_by(&mut self, index: u32, peer: u32) {
        let other = &self.nodes[peer as usize];
        let tier = self.blob.place(index).tier_to(self.blob.place(peer));
        let (known, wants) = (other.session.hashes.shown(), !other.session.picker.is_complete());
        let meeting = Meeting { tier, held: self.shown(peer), known, wants };
        let node = &mut self.nodes[index as usize];
        let now = node.clock(self.now);
        node.session.met_by(id_of(peer), meeting, &self.blob.known(node.known), now);
        self.poll_soon(index);
        self.meet(index);
    }

    /// The connection of a node to another is gone.
    pub(crate) fn disconnected(&mut self, index: u32, peer: u32) {
        let node = &mut self.nodes[index as usize];
        if !node.session.met().contains(&id_of(peer)) {
            return;
        }
        let is_lacking = node.alive && !node.session.picker.is_complete();
        let again = node.session.gone(id_of(peer), is_lacking, node.clock(self.now));
        self.drop_queued(peer, index);
        if self.nodes[index as usize].alive {
            self.poll_soon(index);
        }
        if again {
            self.dial_fails(index, peer);
        }
    }

    /// A node tries in vain to reach another.
    pub(crate) fn dial_fails(&mut self, node: u32, peer: u32) {
        let life = self.nodes[node as usize].life;
        self.queue.push(self.now + self.network.latency * 2, What::Unreached { node, peer, life });
    }
}
