//! The agents with which this one is connected, and the connections.
//!
//! | file | what lives there |
//! |---|---|
//! | this one | [`Fleet`]: who is connected; sending messages; making and accepting connections |
//! | `connections` | control connections: accepting, receiving, losing them |
//! | `context` | [`FleetContext`]: a fleet's options |
//! | `peer` | [`Peer`], a connected agent; [`PeerListener`], which gets peers' messages |
//! | [`data`] | data connections, made when the first piece is requested, and their answers |
//! | [`failures`] | an origin's failure, as agents send it to each other |
//! | [`questions`] | limits how many requests of one peer are in progress |
//! | [`seeds`] | the agents of `--join`: kept connected, retried when lost |
//! | `addresses` | where agents listen, also those that are not connected |
//! | `circle` | how nodes learn of each other, and what happens when the last seed is lost |
//! | `dialling` | limits how many agents are being connected to |
//! | `known` | the known nodes, in memory and on disk |
//! | [`survey`] | asks the nodes who leads or holds a blob |
//! | `turns` | the requests that wait for their turn at a holder |
//! | `twins` | two agents with one id |
//!
//! Most files of this crate contain an `impl Fleet`: they import this file, and it imports the parts of its state from them.
//!
//! Two agents that dial each other at the same time have two control connections for a while; either carries any message, and the
//! peer counts as gone when the last one ends. Messages are passed to a [`PeerListener`], which must not block. A fleet holds only weak references to
//! its owners. Non-goals: what messages about swarms mean, and the hashes of pieces.

mod addresses;
mod circle;
mod connections;
mod context;
pub mod data;
mod dialling;
pub mod failures;
mod known;
mod peer;
pub mod questions;
pub mod seeds;
pub mod survey;
mod turns;
mod twins;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use darter_core::{Moment, NodeId, in_full};
use darter_wire::control::ControlSender;
use darter_wire::descriptors::AcceptFailures;
use darter_wire::preface::{self, Greeted};
use darter_wire::{ConnectionKind, Frame, Hello, Message, PeerInfo, Receiving, Sending, Transport, Uploads, WireError};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::addresses::Addresses;
pub use self::context::FleetContext;
use self::data::DataLink;
use self::dialling::{Dialling, MayDial};
use self::known::KnownNodes;
pub use self::peer::{Peer, PeerListener};
use self::survey::Surveys;
use self::twins::Twins;

/// Most accepted connections at a time: a control and a data connection from each of some thousands of agents.
const MAX_ACCEPTED: usize = 16_384;

/// How long a node with which no version of the protocol is common is left alone, even if others tell of it.
const STRANGER_PAUSE: Duration = Duration::from_secs(60);

/// Most such nodes that are remembered.
const MAX_STRANGERS: usize = 1024;

struct Connected {
    peer: Arc<Peer>,
    /// The address to which this agent connected, if it did: that address works from here.
    dialled: Option<String>,
    /// When the last message arrived, in microseconds of the context's clock.
    heard: Arc<AtomicU64>,
    /// Never empty: the entry is removed with its last connection.
    controls: Vec<(u64, ControlSender)>,
}

#[derive(Default)]
struct FleetState {
    peers: HashMap<NodeId, Connected>,
    dialling: Dialling,
    links: HashMap<NodeId, Arc<DataLink>>,
    addresses: Addresses,
    /// Addresses of agents with which no version of the protocol is common, and until when they are left alone.
    strangers: HashMap<String, Moment>,
    connections: u64,
}

impl FleetState {
    fn note_address(&mut self, node: NodeId, addr: &str) {
        let Self { addresses, peers, dialling, .. } = self;
        let is_used = |node: &NodeId| peers.contains_key(node) || dialling.has(*node);
        addresses.note(node, addr, peers.len() + dialling.len(), is_used);
    }

    fn leave_alone(&mut self, addr: &str, now: Moment) {
        if self.strangers.len() >= MAX_STRANGERS {
            self.strangers.retain(|_, until| now < *until);
        }
        if self.strangers.len() < MAX_STRANGERS {
            self.strangers.insert(addr.to_owned(), now + STRANGER_PAUSE);
        }
    }
}

/// All connections of an agent.
pub struct Fleet {
    me: OnceLock<Hello>,
    context: FleetContext,
    transport: Arc<dyn Transport>,
    receiving: Receiving,
    sending: Sending,
    state: Mutex<FleetState>,
    /// Notified when an agent has come or gone, or an attempt to reach one has ended.
    changed: watch::Sender<()>,
    known: Mutex<KnownNodes>,
    surveys: Mutex<Surveys>,
    twins: Mutex<Twins>,
    /// Wakes the task that looks for companions.
    lonely: Notify,
    /// True if the last seed was lost, and none is back.
    was_lonely: AtomicBool,
    /// True if every address to join was tried at least once.
    joined: AtomicBool,
    listener: OnceLock<Weak<dyn PeerListener>>,
    uploads: OnceLock<Weak<dyn Uploads>>,
    /// How many data connections of others are being served.
    serving: AtomicU32,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Fleet {
    /// A fleet without connections.
    pub fn new(
        context: FleetContext,
        transport: Arc<dyn Transport>,
        receiving: Receiving,
        sending: Sending,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Arc::new(Self {
            me: OnceLock::new(),
            context,
            transport,
            receiving,
            sending,
            state: Mutex::default(),
            changed: watch::channel(()).0,
            known: Mutex::default(),
            surveys: Mutex::default(),
            twins: Mutex::default(),
            lonely: Notify::new(),
            was_lonely: AtomicBool::new(false),
            joined: AtomicBool::new(false),
            listener: OnceLock::new(),
            uploads: OnceLock::new(),
            serving: AtomicU32::new(0),
            stop: CancellationToken::new(),
            tasks,
        })
    }

    /// Sets this agent's introduction, the receiver of peers' messages, and the giver of pieces. To be called once. The agent owns both and
    /// this fleet, so the fleet must not own them.
    pub fn begin(&self, me: Hello, listener: Weak<dyn PeerListener>, uploads: Weak<dyn Uploads>) {
        let first = self.me.set(me).is_ok() && self.listener.set(listener).is_ok() && self.uploads.set(uploads).is_ok();
        assert!(first, "a fleet begins once");
    }

    /// Accepts connections until the fleet is closed.
    pub fn accept(self: &Arc<Self>, listener: Box<dyn darter_wire::Listener>) {
        let fleet = Arc::clone(self);
        let room = Arc::new(Semaphore::new(MAX_ACCEPTED));
        let mut failures = AcceptFailures::new("the peer port");
        self.tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = fleet.stop.cancelled() => return,
                };
                let stream = match accepted {
                    Ok(stream) => {
                        failures.succeeded();
                        stream
                    }
                    Err(error) => {
                        tokio::time::sleep(failures.failed(&error)).await;
                        continue;
                    }
                };
                let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                    tracing::warn!(from = %stream.peer_addr(), "too many peer connections; refused one");
                    continue;
                };
                let greeting = Arc::clone(&fleet);
                fleet.tasks.spawn(async move {
                    let _permit = permit;
                    match preface::greet(stream, greeting.me()).await {
                        Ok(greeted) => greeting.use_connection(greeted).await,
                        Err(error) => greeting.tell_of_stranger(&error),
                    }
                });
            }
        });
    }

    /// Connects to an address and returns the agent that answers. The connection is in use when this returns.
    pub(crate) async fn dial(self: &Arc<Self>, addr: &str) -> Result<NodeId, WireError> {
        let greeted = preface::open(&*self.transport, addr, ConnectionKind::Control, self.me()).await?;
        if let Some(twin) = self.twin_of(&greeted.hello).await {
            let (addr, node) = (addr.to_owned(), greeted.hello.node);
            self.refuse_twin(greeted, &twin).await;
            return Err(WireError::SameId { addr, node, other: twin.hello.listen.clone() });
        }
        let node = greeted.hello.node;
        let fleet = Arc::clone(self);
        if let Some(adopted) = self.adopt(greeted, Some(addr)) {
            self.tasks.spawn(async move { fleet.listen_to(node, adopted).await });
        }
        Ok(node)
    }

    /// Connects to a node unless it is connected or being connected. The result is reported by [`PeerListener::peer_up`].
    pub fn ensure(self: &Arc<Self>, info: &PeerInfo) {
        let turn = {
            let mut state = self.state.lock();
            let known = state.peers.contains_key(&info.node) || info.node == self.me().node;
            // A connected agent has itself said where it is: what others say of that does not count.
            if !known {
                state.note_address(info.node, &info.addr);
            }
            let is_stranger = state.strangers.get(&info.addr).is_some_and(|until| self.context.now() < *until);
            let is_wanted = !(known || is_stranger || info.addr.is_empty());
            if is_wanted { state.dialling.turn(info.node) } else { MayDial::Taken }
        };
        if turn == MayDial::Taken {
            return;
        }
        let (fleet, info) = (Arc::clone(self), info.clone());
        self.tasks.spawn(async move {
            if turn == MayDial::Now {
                fleet.meet(&info).await;
            }
            // The node may have connected to this agent meanwhile.
            if fleet.peer(info.node).is_none()
                && let Some(listener) = fleet.listener()
            {
                listener.not_reached(info.node);
            }
        });
    }

    /// Connects to a node, and waits until it is connected or can't be. Returns true if it is connected.
    async fn reach(self: &Arc<Self>, info: &PeerInfo) -> bool {
        let mut changed = self.changed.subscribe();
        self.ensure(info);
        loop {
            let (connected, dialling) = {
                let state = self.state.lock();
                (state.peers.contains_key(&info.node), state.dialling.has(info.node))
            };
            if connected || !dialling || changed.changed().await.is_err() {
                return connected;
            }
        }
    }

    /// Sends a message to a peer; false if it is not connected. A peer that does not read its messages is disconnected: it will
    /// come back and get the current state, which is better than an unbounded queue.
    pub fn say(&self, node: NodeId, message: &Message) -> bool {
        if matches!(message, Message::Join { .. } | Message::AskManifest { .. }) {
            self.context.metrics.round_trips.inc();
        }
        let is_said = Frame::encode(message).is_ok_and(|frame| self.pass_on(node, frame));
        self.context.metrics.hashes_sent.inc_by(if is_said { hashes_in(message) } else { 0 });
        is_said
    }

    /// Sends the same message to several peers.
    pub fn tell(&self, nodes: &[NodeId], message: &Message) {
        match Frame::encode(message) {
            Ok(frame) => {
                let said = nodes.iter().filter(|node| self.pass_on(**node, frame.clone())).count();
                self.context.metrics.hashes_sent.inc_by(said as u64 * hashes_in(message));
            }
            Err(error) => tracing::error!(error = %in_full(&error), "a message is too long to be sent"),
        }
    }

    fn pass_on(&self, node: NodeId, frame: Frame) -> bool {
        let (sender, capabilities) = match self.state.lock().peers.get(&node) {
            // An agent of an older version does not know this message, and up to version 3 would close the connection.
            Some(connected) if connected.peer.version < frame.since() => return false,
            Some(Connected { peer, controls, .. }) if let Some((_, sender)) = controls.first() => {
                (sender.clone(), peer.hello.capabilities)
            }
            _ => return false,
        };
        let frame = frame.for_agent(capabilities);
        self.context.metrics.control_messages.inc();
        let Err(error) = sender.try_send_frame(frame) else { return true };
        tracing::warn!(peer = %node.short(), error = %in_full(&error), "disconnecting a peer");
        let controls = self.state.lock().peers.get(&node).map(|peer| peer.controls.clone()).unwrap_or_default();
        for (connection, _) in controls {
            self.drop_connection(node, connection);
        }
        false
    }

    fn peer_of(&self, greeted: &Greeted) -> Peer {
        let hello = greeted.hello.clone();
        let (here, there) = (&self.context.place.host, &hello.place.host);
        let is_here = greeted.stream.is_within_host() && (there.is_empty() || here == there);
        Peer { tier: self.context.place.tier_to(&hello.place), hello, version: greeted.version, is_here }
    }

    /// A connected peer.
    pub fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.state.lock().peers.get(&node).map(|connected| Arc::clone(&connected.peer))
    }

    /// True if a peer is connected, and a seed.
    pub fn is_seed(&self, node: NodeId) -> bool {
        self.state.lock().peers.get(&node).is_some_and(|connected| connected.peer.is_seed())
    }

    /// True if a peer is connected and on this host.
    pub fn is_here(&self, node: NodeId) -> bool {
        self.state.lock().peers.get(&node).is_some_and(|connected| connected.peer.is_here)
    }

    /// All connected peers.
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.state.lock().peers.values().map(|connected| Arc::clone(&connected.peer)).collect()
    }

    /// The number of connections with other agents: control and data, made and accepted.
    pub fn connections(&self) -> u32 {
        let state = self.state.lock();
        let controls: usize = state.peers.values().map(|connected| connected.controls.len()).sum();
        let links = state.links.values().filter(|link| link.is_up()).count();
        u32::try_from(controls + links).unwrap_or(u32::MAX).saturating_add(self.serving.load(Ordering::Relaxed))
    }

    /// Connected seeds.
    pub fn seeds(&self) -> Vec<NodeId> {
        let state = self.state.lock();
        state.peers.values().filter(|it| it.peer.is_seed()).map(|it| it.peer.hello.node).collect()
    }

    /// True if every address to join was tried at least once.
    pub fn has_joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }

    /// The address on which a peer listens, as it or another agent has said; empty if unknown.
    pub fn address(&self, node: NodeId) -> String {
        self.state.lock().addresses.of(&node).unwrap_or_default().to_owned()
    }

    /// The name of an agent in messages for people, such as `seed 10.0.0.2:7400`.
    pub fn title(&self, node: NodeId) -> String {
        let kind = self.peer(node).map_or("agent", |peer| if peer.is_seed() { "seed" } else { "node" });
        format!("{kind} {}", self.address(node))
    }

    /// How this agent introduces itself.
    pub fn me(&self) -> &Hello {
        self.me.get().expect("a fleet begins before it connects")
    }

    /// Gives the memory of received pieces back to the system while nothing is transferred.
    pub fn trim(&self) {
        self.receiving.buffers.trim();
    }

    /// Closes every connection and accepts no more.
    pub fn close(&self) {
        self.stop.cancel();
        let mut state = self.state.lock();
        state.peers.clear();
        for link in state.links.values() {
            link.close();
        }
    }

    fn listener(&self) -> Option<Arc<dyn PeerListener>> {
        self.listener.get().and_then(Weak::upgrade)
    }
}

/// How many piece hashes a message contains.
const fn hashes_in(message: &Message) -> u64 {
    match message {
        Message::Joined { hashes, .. } | Message::Grew { hashes, .. } | Message::Run { hashes, .. } => {
            hashes.len() as u64
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
