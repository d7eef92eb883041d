//! Agents that are refused: those of another version of the protocol, and two with one id. The log mentions each once.
//!
//! Two agents have one id if somebody has copied a data directory. The rest of the fleet would take them for one agent in
//! two places, and messages for one would reach the other. So the one that connects later is refused, and both are
//! told; each of them and this agent log it.
//!
//! An agent that was restarted also has the id of its former process, whose connection may linger. So the
//! connected agent is asked for a sign of life first. Agents of version 2 of the protocol can't be told apart.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use darter_core::{NodeId, in_full};
use darter_wire::control::{self, ControlConfig};
use darter_wire::{Greeted, Hello, Message, WireError};

use super::{Connected, Fleet, Peer};

/// How long a connected agent may take to answer. A dead one is disconnected sooner.
const SIGN_OF_LIFE_TIMEOUT: Duration = Duration::from_secs(6);

/// How often to check for the answer.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long the refused agent may take to read the reason.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Most twins that are remembered as logged; each is logged once.
const MAX_TOLD: usize = 64;

/// The twins that were logged.
#[derive(Default)]
pub(super) struct Twins {
    /// Ids, and the run of the process that was refused.
    refused: HashSet<(NodeId, u64)>,
    /// The addresses on which this agent's own twins listen.
    own: HashSet<String>,
    /// Hosts from which agents have connected that use another version of the protocol, or whose id does not match their
    /// key.
    turned_away: HashSet<String>,
}

impl Twins {
    fn is_new<T: std::hash::Hash + Eq>(told: &mut HashSet<T>, twin: T) -> bool {
        if told.len() >= MAX_TOLD {
            told.clear();
        }
        told.insert(twin)
    }
}

impl Connected {
    /// True if this introduction is from another process with the same id.
    fn is_other_than(&self, hello: &Hello) -> bool {
        let run = self.peer.hello.run;
        run != hello.run && run != 0 && hello.run != 0
    }
}

impl Fleet {
    /// True if another process with this id is connected.
    pub(super) fn is_twin(&self, hello: &Hello) -> bool {
        self.state.lock().peers.get(&hello.node).is_some_and(|connected| connected.is_other_than(hello))
    }

    /// The other agent with this id, if it is connected and alive.
    pub(super) async fn twin_of(&self, hello: &Hello) -> Option<Arc<Peer>> {
        let began = self.context.now();
        let mut is_asked = false;
        loop {
            let (twin, heard) = {
                let state = self.state.lock();
                let connected = state.peers.get(&hello.node).filter(|connected| connected.is_other_than(hello))?;
                (Arc::clone(&connected.peer), connected.heard.load(Ordering::Relaxed))
            };
            let is_alive = heard > began.as_micros();
            if is_alive || self.context.now().since(began) > SIGN_OF_LIFE_TIMEOUT {
                return Some(twin);
            }
            if !std::mem::replace(&mut is_asked, true) {
                self.say(hello.node, &Message::AskPeers);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Tells both agents, and disconnects the one that came later.
    pub(super) async fn refuse_twin(&self, refused: Greeted, twin: &Peer) {
        let hello = &refused.hello;
        let node = hello.node;
        if Twins::is_new(&mut self.twins.lock().refused, (node, hello.run)) {
            tracing::warn!(
                %node,
                refused = hello.listen,
                connected = twin.hello.listen,
                "two agents have one id; the one that came later is refused. One data directory is a copy of the other: \
                 remove the files node-id and node-key from one of them and restart its agent"
            );
        }
        self.say(node, &Message::SameId { addr: hello.listen.clone() });
        let (sender, mut receiver) = control::start(refused.stream, &ControlConfig::default());
        let told = sender.try_send(&Message::SameId { addr: twin.hello.listen.clone() });
        drop(sender);
        if told.is_ok() {
            // If the connection were closed with unread bytes, TCP would discard the message just sent.
            let read_away = async { while let Ok(Some(_)) = receiver.recv().await {} };
            let _ = tokio::time::timeout(GOODBYE_TIMEOUT, read_away).await;
        }
    }

    /// A connection was refused. An agent of another release, or with another agent's id, is logged as a warning, once; an
    /// agent with this agent's own id as an error.
    pub(super) fn tell_of_stranger(&self, error: &WireError) {
        if let WireError::SameId { addr, .. } = error {
            self.has_twin(addr);
            return;
        }
        let addr = match error {
            WireError::Version { addr, .. } | WireError::Identity { addr, .. } => addr.as_str(),
            _ => "",
        };
        let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
        if !host.is_empty() && Twins::is_new(&mut self.twins.lock().turned_away, host.to_owned()) {
            tracing::warn!(error = %in_full(error), "refused the connection of an agent");
        } else {
            tracing::debug!(error = %in_full(error), "turned a connection away");
        }
    }

    /// Another agent says that this one has a twin.
    pub(super) fn has_twin(&self, addr: &str) {
        if Twins::is_new(&mut self.twins.lock().own, addr.to_owned()) {
            tracing::error!(
                node = %self.me().node,
                other = addr,
                "another agent has the id of this one. One data directory is a copy of the other: remove the files \
                 node-id and node-key from one of them and restart its agent"
            );
        }
    }
}
