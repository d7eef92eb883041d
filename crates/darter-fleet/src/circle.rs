//! How nodes learn of each other, so that a fleet that has lost its seeds, or never had any, stays connected.
//!
//! A node asks each agent that it connects to for nodes that it should know ([`Message::AskPeers`]), and asks some agent again from
//! time to time. A seed tells each newcomer of nodes without being asked, and tells a few others of the newcomer, since the seed may be gone a moment later.
//! While a seed is connected, nodes do no more: knowing addresses costs nothing, connections do. While none is, the node
//! keeps connections with up to [`MAX_COMPANIONS`] of those it knows; in a fleet that is not larger, with all.
//! In a larger fleet, the node's own id decides which ones these are, so that the connections of all nodes together form
//! a random graph.
//!
//! Lock order: the table of known nodes, then the fleet's state.
//!
//! When the last seed is lost, this is logged, counted, and shown by `/healthz?verbose`. A node that can reach no other agent reads
//! every origin by itself, and logs that, too. It is part of the fleet again as soon as one agent connects with it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use darter_api::Role;
use darter_core::{Moment, NodeId, rendezvous};
use darter_swarm::asking::MAX_COMPANIONS;
use darter_wire::{MAX_PEERS_TOLD, Message, PeerInfo};

use super::{Fleet, Peer, known};

/// Most seeds with which one seed is connected.
const MAX_SEEDS: usize = 16;

/// How long a node may be connected with nobody before it logs that.
const ALONE_AFTER: Duration = Duration::from_secs(10);

/// Most connections that are attempted at a time.
const MAX_ATTEMPTS: usize = 8;

/// How often to check whether there are enough companions.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often some agent is asked for nodes: while no seed is connected, and while one is.
const ASK_EVERY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));

/// How often new nodes are written to disk.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// How many nodes a seed tells of a newcomer.
const MAX_HERALDED: usize = 4;

/// How many nodes one answer names: enough for a small fleet to know all of itself, and for a large one to stay connected.
const TOLD: usize = 64;
const _: () = assert!(TOLD <= MAX_PEERS_TOLD);

/// True while this node is connected with nobody.
#[derive(Default)]
struct Alone {
    since: Option<Moment>,
    told: bool,
}

impl Fleet {
    /// Reads the nodes that an earlier run knew, and keeps this node connected until the fleet is closed.
    pub fn mingle(self: &Arc<Self>) {
        if self.context.role != Role::Node {
            return;
        }
        let fleet = Arc::clone(self);
        self.tasks.spawn(async move {
            let data_dir = fleet.context.data_dir.clone();
            let set_aside = fleet.on_disk(data_dir.clone(), known::load).await;
            fleet.context.metrics.set_aside("nodes", usize::from(set_aside));
            let (mut asked, mut saved) = (fleet.context.now(), fleet.context.now());
            let mut alone = Alone::default();
            loop {
                let lonely = fleet.seeds().is_empty();
                if lonely {
                    fleet.seek_companions();
                }
                let now = fleet.context.now();
                fleet.tell_if_alone(&mut alone, now);
                if now.since(asked) >= if lonely { ASK_EVERY.0 } else { ASK_EVERY.1 } {
                    asked = now;
                    fleet.ask_somebody();
                }
                if now.since(saved) >= SAVE_EVERY {
                    saved = now;
                    fleet.on_disk(data_dir.clone(), known::save).await;
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    () = fleet.lonely.notified() => {}
                    () = fleet.stop.cancelled() => break,
                }
            }
            fleet.on_disk(data_dir, known::save).await;
        });
    }

    /// Logs once that nobody is connected, and once that somebody is again.
    fn tell_if_alone(&self, alone: &mut Alone, now: Moment) {
        let was_told = alone.told;
        if !self.peers().is_empty() {
            *alone = Alone::default();
        } else if now.since(*alone.since.get_or_insert(now)) >= ALONE_AFTER {
            alone.told = true;
        }
        self.context.metrics.alone.store(alone.told, Ordering::Relaxed);
        match (was_told, alone.told) {
            (false, true) => tracing::warn!(
                join = self.context.join.join(","),
                "no other agent can be reached: downloads read their origins from here until one is. Check that the \
                 agents given by --join run; several of them, or a name that stands for several, find the others \
                 while one is down"
            ),
            (true, false) => tracing::info!("another agent is connected again"),
            _ => {}
        }
    }

    async fn on_disk<T: Send + 'static>(
        self: &Arc<Self>,
        data_dir: std::path::PathBuf,
        work: fn(&parking_lot::Mutex<known::KnownNodes>, &Path) -> T,
    ) -> T {
        let fleet = Arc::clone(self);
        self.context.disk.run(move || work(&fleet.known, &data_dir)).await
    }

    /// Connects to known nodes until there are enough connections.
    fn seek_companions(self: &Arc<Self>) {
        let connected = self.peers().len();
        let missing = MAX_COMPANIONS.saturating_sub(connected).min(MAX_ATTEMPTS);
        let ranked = self.known.lock().ranked(&self.me().node.0, self.context.now());
        let strangers = ranked.into_iter().filter(|info| self.peer(info.node).is_none());
        for info in strangers.take(missing) {
            self.ensure(&info);
        }
    }

    /// Asks one of the connected agents, preferably a seed, for nodes to know.
    fn ask_somebody(&self) {
        let mut peers = self.peers();
        if peers.iter().any(|peer| peer.is_seed()) {
            peers.retain(|peer| peer.is_seed());
        }
        let nodes: Vec<_> = peers.iter().map(|peer| peer.hello.node).collect();
        // A different agent each time.
        if let Some(node) = rendezvous::owner(&self.context.now().as_micros().to_le_bytes(), &nodes) {
            self.say(node, &Message::AskPeers);
        }
    }

    /// Called for a peer's first connection.
    pub(super) fn welcome(&self, peer: &Peer) {
        let is_node = self.context.role == Role::Node;
        if !peer.is_seed() {
            self.known.lock().met(peer.info(), self.context.unix());
        }
        self.count_peers();
        if is_node && peer.is_seed() && self.was_lonely.swap(false, Ordering::Relaxed) {
            tracing::info!(seed = peer.hello.listen, "a seed is connected again");
        }
        if is_node {
            self.say(peer.hello.node, &Message::AskPeers);
        }
        if is_node && peer.is_seed() {
            self.introduce_seeds();
        }
        if !is_node && !peer.is_seed() {
            self.herald(peer);
        }
    }

    /// Called when a node has connected to this seed: tells it of other nodes, and some of them of it, so that it is not alone if this seed dies
    /// before anybody has asked.
    fn herald(&self, newcomer: &Peer) {
        let id = newcomer.hello.node;
        let others = self.peers().into_iter().filter(|peer| !peer.is_seed()).map(|peer| peer.hello.node);
        let others: Vec<_> = others.filter(|node| *node != id).collect();
        let mut told = rendezvous::ranking(&id.0, &others);
        told.truncate(MAX_HERALDED);
        self.tell(&told, &Message::Peers { peers: vec![newcomer.info()] });
        self.tell_peers(id);
    }

    /// Tells the connected seeds of each other, since they are not configured with other seeds to join.
    fn introduce_seeds(&self) {
        let seeds: Vec<_> =
            self.peers().iter().filter(|peer| peer.is_seed()).map(|peer| peer.info()).take(MAX_SEEDS).collect();
        if seeds.len() > 1 {
            let nodes: Vec<_> = seeds.iter().map(|info| info.node).collect();
            self.tell(&nodes, &Message::Seeds { seeds });
        }
    }

    /// A node told this seed of other seeds: keeps connected with them, since they may hold what this seed would read.
    pub(super) fn meet_seeds(self: &Arc<Self>, seeds: &[PeerInfo]) {
        if self.context.role != Role::Seed {
            return;
        }
        let room = MAX_SEEDS.saturating_sub(self.seeds().len());
        let strangers = seeds.iter().filter(|info| self.peer(info.node).is_none());
        for info in strangers.take(room) {
            self.ensure(info);
        }
    }

    /// Called when a peer's last connection is closed.
    pub(super) fn miss(&self, peer: &Peer) {
        if !peer.is_seed() {
            // The peer was connected until now.
            self.known.lock().met(peer.info(), self.context.unix());
        }
        self.count_peers();
        let is_closing = self.stop.is_cancelled();
        if !peer.is_seed() || is_closing || self.context.role != Role::Node || !self.seeds().is_empty() {
            return;
        }
        self.was_lonely.store(true, Ordering::Relaxed);
        self.context.metrics.last_seed_lost.inc();
        let nodes = self.peers().len();
        tracing::warn!(
            seed = peer.hello.listen,
            nodes,
            "the last seed is gone; until one is back, the nodes choose among themselves which one reads an origin for all"
        );
        self.lonely.notify_one();
    }

    fn count_peers(&self) {
        let (seeds, peers) = {
            let state = self.state.lock();
            (state.peers.values().filter(|it| it.peer.is_seed()).count(), state.peers.len())
        };
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.context.metrics.seeds_connected.set(count(seeds));
        self.context.metrics.peers_connected.set(count(peers));
    }

    /// Tells an agent of nodes that it should know.
    pub(super) fn tell_peers(&self, to: NodeId) {
        let mut peers = self.tellable(&to.0, TOLD);
        peers.retain(|info| info.node != to);
        self.say(to, &Message::Peers { peers });
    }

    /// Known nodes that others should know, in the order of rendezvous hashing for `key`.
    pub(super) fn tellable(&self, key: &[u8], most: usize) -> Vec<PeerInfo> {
        let is_connected = |node| self.state.lock().peers.contains_key(&node);
        self.known.lock().tellable(key, most, is_connected, self.context.unix())
    }

    /// An agent told this one of nodes.
    pub(super) fn learn_peers(&self, peers: Vec<PeerInfo>) {
        self.learn_of(peers);
        if self.seeds().is_empty() {
            self.lonely.notify_one();
        }
    }

    /// Notes nodes that others know.
    pub(super) fn learn_of(&self, peers: impl IntoIterator<Item = PeerInfo>) {
        let me = self.me().node;
        let mut known = self.known.lock();
        for info in peers.into_iter().filter(|info| info.node != me) {
            known.heard(info);
        }
    }
}
