//! The agents this one talks to, and the connections to them.
//!
//! | file | what lives there |
//! |---|---|
//! | this one | [`Fleet`]: who is connected; making, accepting and losing control connections |
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

use darter_core::{Blame, Blamed as _, Fault, Moment, NodeId, Retry, in_full};
use darter_metrics::Failed;
use darter_wire::control::{self, ControlConfig, ControlReceiver, ControlSender};
use darter_wire::descriptors::AcceptFailures;
use darter_wire::preface::{self, Greeted};
use darter_wire::{
    Frame, Hello, Kind, Message, PeerInfo, Receiving, Sending, Transport, Unknown, Uploads, WireError, serve_data,
};
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

/// Control connections of one agent, at most: two that dial each other at once have two, and those of a network that was cut may linger.
const MAX_CONTROLS: usize = 8;

/// How long a node is left alone that speaks no version of the protocol which this agent speaks, even if others tell of it.
const STRANGER_PAUSE: Duration = Duration::from_secs(60);

/// Such nodes that are remembered, at most.
const MAX_STRANGERS: usize = 1024;

struct Connected {
    peer: Peer,
    /// The address at which this agent reached it, where it did: that one works from here.
    dialled: Option<String>,
    /// When it last said something, in microseconds of the context's clock.
    heard: Arc<AtomicU64>,
    /// Never empty: the entry goes with its last connection.
    controls: Vec<(u64, ControlSender)>,
}

/// A control connection that was taken into use.
struct Adopted {
    connection: u64,
    receiver: ControlReceiver,
    heard: Arc<AtomicU64>,
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
        let greeted = preface::open(&*self.transport, addr, Kind::Control, self.me()).await?;
        if let Some(twin) = self.twin_of(&greeted.hello).await {
            let (addr, node) = (addr.to_owned(), greeted.hello.node);
            self.refuse_twin(greeted, &twin).await;
            return Err(WireError::SameId { addr, node, other: twin.hello.listen });
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
    pub fn peer(&self, node: NodeId) -> Option<Peer> {
        self.state.lock().peers.get(&node).map(|connected| connected.peer.clone())
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
    pub fn peers(&self) -> Vec<Peer> {
        self.state.lock().peers.values().map(|connected| connected.peer.clone()).collect()
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

    async fn use_connection(self: Arc<Self>, greeted: Greeted) {
        let node = greeted.hello.node;
        match greeted.kind {
            Kind::Control => {
                if let Some(twin) = self.twin_of(&greeted.hello).await {
                    self.refuse_twin(greeted, &twin).await;
                    return;
                }
                if let Some(adopted) = self.adopt(greeted, None) {
                    self.listen_to(node, adopted).await;
                }
            }
            Kind::Data if self.is_twin(&greeted.hello) => {
                tracing::debug!(peer = %node.short(), "a data connection of another agent with this id is refused");
            }
            Kind::Data => {
                let Some(uploads) = self.uploads.get().and_then(Weak::upgrade) else { return };
                self.serving.fetch_add(1, Ordering::Relaxed);
                let served = tokio::select! {
                    served = serve_data(greeted.stream, node, uploads, &self.sending) => served,
                    () = self.stop.cancelled() => Ok(()),
                };
                self.serving.fetch_sub(1, Ordering::Relaxed);
                if let Err(error) = served {
                    self.failed(node, &error);
                }
            }
        }
    }

    /// Takes a control connection into use, unless there are too many with this agent; `dialled` is the address that this agent
    /// connected to, if it did.
    fn adopt(self: &Arc<Self>, greeted: Greeted, dialled: Option<&str>) -> Option<Adopted> {
        let peer = self.peer_of(&greeted);
        let hello = &peer.hello;
        let (fleet, node) = (Arc::downgrade(self), hello.node);
        let skipped = move |unknown| {
            if let Some(fleet) = fleet.upgrade() {
                fleet.skipped(node, unknown);
            }
        };
        let config = ControlConfig { skipped: Some(Arc::new(skipped)), ..ControlConfig::default() };
        let (sender, receiver) = control::start(greeted.stream, &config);
        let (connection, is_first, heard) = {
            let mut state = self.state.lock();
            state.connections += 1;
            let connection = state.connections;
            // A further connection that names another address may be somebody else's: the first one stands for as long as it lasts.
            if !state.peers.contains_key(&hello.node) {
                state.note_address(hello.node, &hello.listen);
            }
            let entry = state.peers.entry(hello.node);
            let known = entry.or_insert_with(|| Connected {
                peer: peer.clone(),
                dialled: None,
                heard: Arc::default(),
                controls: Vec::new(),
            });
            if known.controls.len() >= MAX_CONTROLS {
                tracing::debug!(peer = %hello.node.short(), "too many connections with one agent; one is closed");
                return None;
            }
            known.peer.is_here &= peer.is_here;
            if let Some(addr) = dialled {
                known.dialled = Some(addr.to_owned());
            }
            known.controls.push((connection, sender));
            (connection, known.controls.len() == 1, Arc::clone(&known.heard))
        };
        if is_first {
            tracing::debug!(peer = %hello.node.short(), addr = hello.listen, "peer connected");
            self.welcome(&peer);
            self.announce(hello.node, Some(&peer));
        }
        Some(Adopted { connection, receiver, heard })
    }

    async fn listen_to(self: &Arc<Self>, node: NodeId, adopted: Adopted) {
        let Adopted { connection, mut receiver, heard } = adopted;
        loop {
            let received = tokio::select! {
                received = receiver.recv() => received,
                () = self.stop.cancelled() => break,
            };
            match received {
                Ok(Some(message)) => {
                    self.context.metrics.control_messages.inc();
                    heard.store(self.context.now().as_micros(), Ordering::Relaxed);
                    self.hear(node, message);
                }
                Ok(None) => break,
                Err(error) => {
                    self.failed(node, &error);
                    break;
                }
            }
        }
        self.drop_connection(node, connection);
    }

    /// A connection with a peer failed. A peer that broke the protocol is not asked what it knows for a while, as one that could not
    /// be reached.
    fn failed(&self, node: NodeId, error: &WireError) {
        let Blame { fault, retry } = error.blame();
        self.context.metrics.failed(Failed::Peer, fault);
        if fault == Fault::Peer && retry == Retry::Elsewhere {
            tracing::warn!(peer = %node.short(), error = %in_full(error), "a peer broke the protocol; hanging up");
            self.known.lock().failed(node, self.context.now());
        } else {
            tracing::debug!(peer = %node.short(), error = %in_full(error), "a connection failed");
        }
    }

    /// Answers what is about the fleet itself; everything else is about swarms.
    fn hear(self: &Arc<Self>, from: NodeId, message: Message) {
        match message {
            Message::AskPeers => self.tell_peers(from),
            Message::Peers { peers } => self.learn_peers(peers),
            Message::Seeds { seeds } => self.meet_seeds(&seeds),
            Message::LeadIs { request, part, lead, seeds, nearest } => {
                self.lead_is(from, request, survey::LeadAnswer { part, lead, seeds, nearest });
            }
            Message::SameId { addr } => self.has_twin(&addr),
            message => {
                if let Some(listener) = self.listener() {
                    listener.said(from, message);
                }
            }
        }
    }

    /// A peer of another release said what is not known here. Nobody need wait because of it: an asker is told that it is not
    /// understood, and an answer that is not understood is none.
    fn skipped(self: &Arc<Self>, from: NodeId, unknown: Unknown) {
        self.context.metrics.unknown_messages.inc();
        if let Some(refusal) = unknown.refusal() {
            self.say(from, &refusal);
        }
        if let Some(failure) = unknown.as_failure() {
            self.hear(from, failure);
        }
    }

    fn drop_connection(&self, node: NodeId, connection: u64) {
        let (connected, link) = {
            let mut state = self.state.lock();
            let Some(connected) = state.peers.get_mut(&node) else { return };
            connected.controls.retain(|(id, _)| *id != connection);
            if !connected.controls.is_empty() {
                return;
            }
            let Some(connected) = state.peers.remove(&node) else { return };
            (connected, state.links.remove(&node))
        };
        if let Some(link) = link {
            link.close();
        }
        tracing::debug!(peer = %node.short(), "peer gone");
        self.miss(&connected.peer);
        self.announce(node, None);
    }

    /// Tells the listener that a peer came, or that it is gone. Several connections with one agent may come and go at once, and what is told
    /// of them in another order than they did: whoever tells something tells again until it is so, and so the last that is told is right.
    fn announce(&self, node: NodeId, came: Option<&Peer>) {
        self.changed.send_replace(());
        let Some(listener) = self.listener() else { return };
        let mut told = came.cloned();
        loop {
            match &told {
                Some(peer) => listener.peer_up(peer),
                None => listener.peer_down(node),
            }
            let now = self.peer(node);
            if now.is_some() == told.is_some() {
                return;
            }
            told = now;
        }
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
