//! Control connections of a fleet: accepting them, receiving from them, losing them.
//!
//! Invariants: a peer is up while it has a control connection, and each of its connections ends once; the listener is notified of the first connection and of the end
//! of the last one.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use darter_core::{Blame, Blamed as _, Fault, NodeId, Retry, in_full};
use darter_metrics::Failed;
use darter_wire::control::{self, ControlConfig, ControlReceiver};
use darter_wire::preface::Greeted;
use darter_wire::{ConnectionKind, Message, Unknown, WireError, serve_data};

use super::{Connected, Fleet, Peer, survey};

/// Most control connections with one agent: two agents that dial each other at the same time have two, and those of an interrupted network may linger.
const MAX_CONTROLS: usize = 8;

/// A control connection that is in use.
pub(super) struct Adopted {
    connection: u64,
    receiver: ControlReceiver,
    heard: Arc<AtomicU64>,
}

impl Fleet {
    pub(super) async fn use_connection(self: Arc<Self>, greeted: Greeted) {
        let node = greeted.hello.node;
        match greeted.kind {
            ConnectionKind::Control => {
                if let Some(twin) = self.twin_of(&greeted.hello).await {
                    self.refuse_twin(greeted, &twin).await;
                    return;
                }
                if let Some(adopted) = self.adopt(greeted, None) {
                    self.listen_to(node, adopted).await;
                }
            }
            ConnectionKind::Data if self.is_twin(&greeted.hello) => {
                tracing::debug!(peer = %node.short(), "a data connection of another agent with this id is refused");
            }
            ConnectionKind::Data => {
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

    /// Takes a control connection into use, unless there are too many with this agent; `dialled` is the address to which this agent
    /// connected, if it did.
    pub(super) fn adopt(self: &Arc<Self>, greeted: Greeted, dialled: Option<&str>) -> Option<Adopted> {
        let peer = Arc::new(self.peer_of(&greeted));
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
            // A further connection that names another address may come from another agent: the first address counts as long as its connection lasts.
            if !state.peers.contains_key(&hello.node) {
                state.note_address(hello.node, &hello.listen);
            }
            let entry = state.peers.entry(hello.node);
            let known = entry.or_insert_with(|| Connected {
                peer: Arc::clone(&peer),
                dialled: None,
                heard: Arc::default(),
                controls: Vec::new(),
            });
            if known.controls.len() >= MAX_CONTROLS {
                tracing::debug!(peer = %hello.node.short(), "too many connections with one agent; one is closed");
                return None;
            }
            if known.peer.is_here && !peer.is_here {
                Arc::make_mut(&mut known.peer).is_here = false;
            }
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

    pub(super) async fn listen_to(self: &Arc<Self>, node: NodeId, adopted: Adopted) {
        let Adopted { connection, mut receiver, heard } = adopted;
        let mut stopped = pin!(self.stop.cancelled());
        loop {
            let received = tokio::select! {
                received = receiver.recv() => received,
                () = &mut stopped => break,
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

    /// A connection with a peer failed. A peer that broke the protocol is not asked for a while, like one that could not
    /// be reached.
    pub(super) fn failed(&self, node: NodeId, error: &WireError) {
        let Blame { fault, retry } = error.blame();
        self.context.metrics.failed(Failed::Peer, fault);
        if fault == Fault::Peer && retry == Retry::Elsewhere {
            tracing::warn!(peer = %node.short(), error = %in_full(error), "a peer broke the protocol; closing the connection");
            self.known.lock().failed(node, self.context.now());
        } else {
            tracing::debug!(peer = %node.short(), error = %in_full(error), "a connection failed");
        }
    }

    /// Handles messages about the fleet itself; passes all others to the listener.
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

    /// A peer of another release sent an unknown message. Nobody should wait because of it: a request is answered with a message that says so,
    /// and an unknown answer counts as no answer.
    fn skipped(self: &Arc<Self>, from: NodeId, unknown: Unknown) {
        self.context.metrics.unknown_messages.inc();
        if let Some(refusal) = unknown.refusal() {
            self.say(from, &refusal);
        }
        if let Some(failure) = unknown.as_failure() {
            self.hear(from, failure);
        }
    }

    pub(super) fn drop_connection(&self, node: NodeId, connection: u64) {
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

    /// Notifies the listener that a peer has come or gone. Several connections with one agent may come and go at the same time, and the notifications may
    /// arrive in another order than the changes: so they are repeated until the last one is right.
    fn announce(&self, node: NodeId, came: Option<&Arc<Peer>>) {
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
