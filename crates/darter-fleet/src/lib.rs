//! The agents this one talks to, and the connections to them.
//!
//! | file | what lives there |
//! |---|---|
//! | this one | [`Fleet`]: who is connected, and what is said to them; making and accepting connections |
//! | `connections` | control connections: taken in, listened to, lost |
//! | `context` | [`FleetContext`]: what a fleet is told |
//! | `peer` | [`Peer`], a connected agent; [`PeerListener`], who hears them |
//! | [`data`] | data connections, made when the first piece is asked for, and where their answers go |
//! | [`failures`] | an origin's failure as agents tell each other of it |
//! | [`questions`] | how many questions of one peer are worked on at a time |
//! | [`seeds`] | what was given by `--join`: kept connected, tried again when lost |
//! | `addresses` | where agents listen, those that are not connected, too |
//! | `circle` | how nodes come to know each other, and what happens when the last seed is lost |
//! | `dialling` | which agents are being connected to, and how many at a time |
//! | `known` | the nodes known, in memory and on the disk |
//! | [`survey`] | asking around among the nodes who leads or holds a blob |
//! | `twins` | two agents with one id |
//!
//! The files here go on with `impl Fleet`: they import this one, and it the parts of its state.
//!
//! Two agents that dial each other at once have two control connections for a while; either carries any message, and the
//! peer counts as gone when the last one ends. Messages are handed to a [`PeerListener`], which must not block. A fleet holds
//! nobody who holds it. Non-goals: what is said of swarms, and what a piece must hash to.

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

/// Connections that others made, at a time: a control and a data connection from each of some thousands of agents.
const MAX_ACCEPTED: usize = 16_384;

/// How long a node is left alone that speaks no version of the protocol which this agent speaks, even if others tell of it.
const STRANGER_PAUSE: Duration = Duration::from_secs(60);

/// Such nodes that are remembered, at most.
const MAX_STRANGERS: usize = 1024;

struct Connected {
    peer: Arc<Peer>,
    /// The address at which this agent reached it, where it did: that one works from here.
    dialled: Option<String>,
    /// When it last said something, in microseconds of the context's clock.
    heard: Arc<AtomicU64>,
    /// Never empty: the entry goes with its last connection.
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
    /// Marked as changed when an agent has come or gone, or an attempt to reach one has ended.
    changed: watch::Sender<()>,
    known: Mutex<KnownNodes>,
    surveys: Mutex<Surveys>,
    twins: Mutex<Twins>,
    /// Wakes the task that looks for companions.
    lonely: Notify,
    /// True if the last seed was lost, and none is back.
    was_lonely: AtomicBool,
    /// True if everything given to join was tried at least once.
    joined: AtomicBool,
    listener: OnceLock<Weak<dyn PeerListener>>,
    uploads: OnceLock<Weak<dyn Uploads>>,
    /// Data connections of others that are being served.
    serving: AtomicU32,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Fleet {
    /// A fleet of which nobody knows yet.
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

    /// Starts to be somebody: says who this agent is, who hears what peers say, and who gives them pieces. Once. Both are the
    /// agent's, and hold this fleet: it must not hold them.
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
                    tracing::warn!(from = %stream.peer_addr(), "too many peer connections; turned one away");
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

    /// Connects to an address and says who is there. The connection is in use when this returns.
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

    /// Connects to a node unless it is connected or being connected. [`PeerListener::peer_up`] tells the rest.
    pub fn ensure(self: &Arc<Self>, info: &PeerInfo) {
        let turn = {
            let mut state = self.state.lock();
            let known = state.peers.contains_key(&info.node) || info.node == self.me().node;
            // A connected agent said by itself where it is: what others say of that does not count.
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
            // It may have reached this agent meanwhile.
            if fleet.peer(info.node).is_none()
                && let Some(listener) = fleet.listener()
            {
                listener.not_reached(info.node);
            }
        });
    }

    /// Connects to a node, and waits until it is connected or can't be; whether it is.
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

    /// Says something to a peer; false if it is not connected. A peer that does not keep up is disconnected: it will
    /// come back and be told afresh, which is better than a queue without end.
    pub fn say(&self, node: NodeId, message: &Message) -> bool {
        if matches!(message, Message::Join { .. } | Message::AskManifest { .. }) {
            self.context.metrics.round_trips.inc();
        }
        let is_said = Frame::encode(message).is_ok_and(|frame| self.pass_on(node, frame));
        self.context.metrics.hashes_sent.inc_by(if is_said { hashes_in(message) } else { 0 });
        is_said
    }

    /// Says the same to several peers.
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
            // An agent of an older version does not know it, and up to version 3 would hang up.
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

    /// True if a peer is connected, and on this host.
    pub fn is_here(&self, node: NodeId) -> bool {
        self.state.lock().peers.get(&node).is_some_and(|connected| connected.peer.is_here)
    }

    /// All connected peers.
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.state.lock().peers.values().map(|connected| Arc::clone(&connected.peer)).collect()
    }

    /// Connections with other agents: control and data, made and accepted.
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

    /// True if everything given to join was tried at least once.
    pub fn has_joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }

    /// The address on which a peer listens, by its own word or that of others; empty if it is not known.
    pub fn address(&self, node: NodeId) -> String {
        self.state.lock().addresses.of(&node).unwrap_or_default().to_owned()
    }

    /// `seed 10.0.0.2:7400`.
    pub fn title(&self, node: NodeId) -> String {
        let kind = self.peer(node).map_or("agent", |peer| if peer.is_seed() { "seed" } else { "node" });
        format!("{kind} {}", self.address(node))
    }

    /// How this agent introduces itself.
    pub fn me(&self) -> &Hello {
        self.me.get().expect("a fleet begins before it connects")
    }

    /// Gives the memory of received pieces back while nothing moves.
    pub fn trim(&self) {
        self.receiving.buffers.trim();
    }

    /// Ends every connection and accepts no more.
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

/// How many piece hashes a message tells.
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
