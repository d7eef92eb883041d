//! Complete blobs of connected nodes, which help a seed whose own copy is gone (evicted, or lost with its disk).
//!
//! A node tells a seed what it holds when they connect, and again when a blob is complete. Only content named by its digest counts. The node's
//! claim is a member's claim like any other: the claimed holders are named to members, and asked, while the seed reads the
//! origin. The seed learns the pieces' hashes from the origin, or from an earlier read, and never from a node: a node with a made-up list
//! would keep everybody from the blob. Non-goal: a blob that only the seed's own host waits for ([`holders`](super::holders)).

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use darter_api::Role;
use darter_core::{BlobId, NodeId, PieceSet, rendezvous};
use darter_swarm::MAX_HASHES;
use darter_wire::{Message, PeerInfo};
use parking_lot::Mutex;

use super::Swarms;
use crate::transfer::{Lead, Transfer};

/// Most blobs in one message: the most recently used ones.
const MAX_TOLD: usize = 10_000;

/// Among how many holders of a blob the ones to be named are chosen: there may be thousands, and thousands of requests.
const MAX_NAMED: usize = 64;

/// How many of these are asked, one after the other.
const MAX_ASKED: usize = 3;

/// Most blobs that are noted for one node, the last that it told: ids cost nothing to make up.
const MAX_OF_NODE: usize = 2 * MAX_TOLD;

/// The holders of each blob.
#[derive(Default)]
pub(super) struct Inventory(Mutex<KnownHolders>);

#[derive(Default)]
struct KnownHolders {
    holders: HashMap<BlobId, BTreeSet<NodeId>>,
    /// The blobs that each node told, in that order.
    blobs: HashMap<NodeId, VecDeque<BlobId>>,
}

impl KnownHolders {
    /// Removes a node from the holders of a blob.
    fn unname(&mut self, node: NodeId, blob: BlobId) {
        if let Entry::Occupied(mut nodes) = self.holders.entry(blob) {
            nodes.get_mut().remove(&node);
            if nodes.get().is_empty() {
                nodes.remove();
            }
        }
    }
}

impl Inventory {
    /// Notes the blobs that a node says it holds.
    pub(super) fn told(&self, node: NodeId, blobs: &[BlobId]) {
        let told = &mut *self.0.lock();
        for blob in blobs.iter().take(MAX_TOLD) {
            if !told.holders.entry(*blob).or_default().insert(node) {
                continue;
            }
            let of_node = told.blobs.entry(node).or_default();
            of_node.push_back(*blob);
            if of_node.len() > MAX_OF_NODE
                && let Some(oldest) = of_node.pop_front()
            {
                told.unname(node, oldest);
            }
        }
    }

    /// Removes a node that is gone.
    pub(super) fn gone(&self, node: NodeId) {
        let mut told = self.0.lock();
        for blob in told.blobs.remove(&node).unwrap_or_default() {
            told.unname(node, blob);
        }
    }

    /// True if nodes hold all of this blob.
    pub(super) fn holds(&self, blob: BlobId) -> bool {
        self.0.lock().holders.get(&blob).is_some_and(|nodes| !nodes.is_empty())
    }

    /// Some of the holders, the same ones each time.
    fn some_of(&self, blob: BlobId) -> Vec<NodeId> {
        let told = self.0.lock();
        told.holders.get(&blob).map(|nodes| nodes.iter().copied().take(MAX_NAMED).collect()).unwrap_or_default()
    }

    fn holders_of(&self, blob: BlobId) -> Vec<NodeId> {
        self.0.lock().holders.get(&blob).map(|nodes| nodes.iter().copied().collect()).unwrap_or_default()
    }
}

impl Swarms {
    /// Tells a seed which complete blobs are here.
    pub(super) fn tell_inventory(self: &Arc<Self>, seed: NodeId) {
        if self.house.context.options.role != Role::Node {
            return;
        }
        let swarms = Arc::clone(self);
        self.house.tasks.spawn(async move {
            let rows = swarms.house.context.disk.list().await;
            let named = rows.into_iter().filter(|row| row.complete && row.info.digest.is_some());
            let blobs: Vec<_> = named.take(MAX_TOLD).map(|row| row.id).collect();
            if !blobs.is_empty() {
                swarms.house.fleet.say(seed, &Message::Inventory { blobs });
            }
        });
    }

    /// Answers a seed of an earlier release that asks a holder for a manifest.
    pub(super) fn tell_manifest(self: &Arc<Self>, seed: NodeId, request: u32, blob: BlobId) {
        let Some(taken_up) = self.questions.take_up(seed) else {
            self.house.fleet.say(seed, &Message::ManifestIs { request, blob, manifest: None });
            return;
        };
        let swarms = Arc::clone(self);
        self.house.tasks.spawn(async move {
            let _taken_up = taken_up;
            let stored = swarms.stored(blob).await.ok().flatten().filter(|stored| stored.is_complete());
            // If it is too long for a message, it is not sent; the seed then reads the origin.
            let fits = stored.filter(|stored| stored.prefix() <= MAX_HASHES);
            let manifest = fits.map(|stored| stored.manifest());
            swarms.house.fleet.say(seed, &Message::ManifestIs { request, blob, manifest });
        });
    }

    /// A connected node that claims to hold all of a blob; the same one for all requests.
    pub(super) fn known_holder(&self, key: BlobId, blob: BlobId) -> Option<PeerInfo> {
        self.known_holders(key, blob).into_iter().next()
    }

    /// Some connected nodes that claim to, best first.
    pub(super) fn known_holders(&self, key: BlobId, blob: BlobId) -> Vec<PeerInfo> {
        let holders = rendezvous::ranking(&key.0, &self.inventory.some_of(blob));
        let connected = holders.into_iter().filter_map(|holder| self.house.fleet.peer(holder));
        connected.map(|peer| peer.info()).take(MAX_ASKED).collect()
    }

    /// Counts the claimed holders of a blob as members of the swarm that this agent leads, so that they can give to others what
    /// the origin has shown to be right.
    pub(super) fn count_holders_in(&self, transfer: &Transfer) {
        let (Lead::Me, Some(pieces)) = (transfer.lead(), transfer.pieces()) else { return };
        if !transfer.source.names_content() {
            return;
        }
        let holders = self.inventory.holders_of(transfer.blob);
        for holder in &holders {
            transfer.count_in(*holder, &PieceSet::full(pieces));
        }
        if !holders.is_empty() {
            transfer.note(format!("{} nodes say that they hold it, and are asked while it is read", holders.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs(from: usize, count: usize) -> Vec<BlobId> {
        let id = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            BlobId(id)
        };
        (from..from + count).map(id).collect()
    }

    #[test]
    fn a_node_that_makes_up_ever_new_blobs_takes_no_more_memory_than_others_may() {
        let (inventory, liar, other) = (Inventory::default(), NodeId([1; 16]), NodeId([2; 16]));
        let noted = |inventory: &Inventory| inventory.0.lock().holders.len();
        for round in 0..5 {
            inventory.told(liar, &blobs(round * MAX_TOLD, MAX_TOLD));
        }
        assert_eq!(noted(&inventory), MAX_OF_NODE);
        let news = blobs(10 * MAX_TOLD, 1);
        inventory.told(other, &news);
        assert!(inventory.holds(news[0]), "what one node says takes nothing from another");
        inventory.gone(liar);
        assert_eq!(noted(&inventory), 1);
        assert_eq!(inventory.holders_of(news[0]), vec![other]);
        inventory.told(liar, &news);
        assert_eq!(inventory.holders_of(news[0]).len(), 2, "it came again");
    }

    #[test]
    fn of_a_node_that_tells_of_many_blobs_the_latest_are_known() {
        let (inventory, node) = (Inventory::default(), NodeId([1; 16]));
        let all = blobs(0, MAX_OF_NODE + 2);
        for told in all.chunks(MAX_TOLD) {
            inventory.told(node, told);
            inventory.told(node, told);
        }
        assert!(!inventory.holds(all[0]) && !inventory.holds(all[1]), "the oldest went");
        assert!(all[2..].iter().all(|blob| inventory.holds(*blob)), "told twice, noted once");
    }
}
