//! Questions to seeds and nodes that wait for an answer, and answers to nodes.
//!
//! If no seed can ask a registry, the nodes that see each other name one of them for each repository, as they do for a
//! blob ([`Fleet::survey`]). The agents found for a repository hold for some seconds: a pull asks many questions.
//!
//! A question about a registry on loopback means the asker's own host: it is passed on only to an agent on that host.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use darter_api::Role;
use darter_core::recent::Recent;
use darter_core::source::blob_of;
use darter_core::{Digest, Moment, NodeId, rendezvous};
use darter_fleet::Fleet;
use darter_fleet::failures;
use darter_origin::{OriginFailure, is_this_host};
use darter_wire::{Failure, Message, RegistryAnswer};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use url::Url;

use super::question::Reply;

/// How long the nodes that were found for a repository are asked without looking for them again.
const FOUND_FOR: Duration = Duration::from_secs(10);

/// Nodes that are asked before this one asks by itself.
const MAX_ASKED: usize = 3;

/// Nodes that are asked what they know of a repository.
const MAX_KNOWING: usize = 16;

/// Repositories of which it is remembered.
const MAX_FOUND: u64 = 1000;

/// Why an agent gave no answer.
#[derive(Debug)]
pub(crate) enum NoReply {
    /// The registry's own failure, as the agent met it.
    OfRegistry(OriginFailure),
    /// The agent's: another may do better.
    OfAgent(String),
}

type Waiting = HashMap<u32, (NodeId, oneshot::Sender<Result<RegistryAnswer, Failure>>)>;

/// The way to seeds and nodes.
pub struct Relay {
    fleet: Arc<Fleet>,
    role: Role,
    tasks: TaskTracker,
    last: AtomicU32,
    waiting: Mutex<Waiting>,
    /// Nodes that were found for repositories.
    found: Mutex<Recent<Digest, FoundNodes>>,
}

/// The nodes to ask about a repository.
#[derive(Clone)]
struct FoundNodes {
    nodes: Arc<[NodeId]>,
    /// All nodes that answered.
    alive: Arc<[NodeId]>,
    at: Moment,
    /// How many agents were connected then: it is found out anew when somebody came or went.
    peers: usize,
}

impl Relay {
    /// The relay of an agent of this role. Questions on the way run among `tasks`.
    pub fn new(fleet: Arc<Fleet>, role: Role, tasks: TaskTracker) -> Self {
        let found = Mutex::new(Recent::new(MAX_FOUND));
        Self { fleet, role, tasks, last: AtomicU32::new(0), waiting: Mutex::default(), found }
    }

    pub(super) const fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// True if this agent asks registries for others, and is told by others what they know.
    pub(super) fn is_in_fleet(&self) -> bool {
        self.role != Role::Embedded
    }

    /// True if this agent asks others before it asks a registry.
    pub(super) fn is_node(&self) -> bool {
        self.role == Role::Node
    }

    /// Seeds to ask about a repository of this key, best first.
    pub(super) fn seeds_for(&self, repository: &Digest, base: &Url) -> Vec<NodeId> {
        if self.role != Role::Node {
            return Vec::new();
        }
        let seeds = self.fleet.seeds();
        let seeds: Vec<_> = seeds.into_iter().filter(|seed| !is_this_host(base) || self.is_here(*seed)).collect();
        rendezvous::ranking(repository.value(), &seeds)
    }

    /// Agents to ask about a repository when no connected seed could, best first: seeds that were found just now, and the nodes
    /// that rank before this one. None, if this node is the one to ask.
    pub(super) async fn nodes_for(&self, repository: &Digest, base: &Url, now: Moment) -> Vec<NodeId> {
        let found = self.find(repository, now).await.nodes;
        found.iter().copied().filter(|node| self.may_ask(*node, base)).take(MAX_ASKED).collect()
    }

    /// Nodes that may know something of a repository.
    pub(super) async fn others_for(&self, repository: &Digest, base: &Url, now: Moment) -> Vec<NodeId> {
        let found = self.find(repository, now).await.alive;
        found.iter().copied().filter(|node| self.may_ask(*node, base)).take(MAX_KNOWING).collect()
    }

    fn may_ask(&self, node: NodeId, base: &Url) -> bool {
        self.fleet.peer(node).is_some() && (!is_this_host(base) || self.is_here(node))
    }

    /// Finds out who is to ask about a repository, unless that is known.
    async fn find(&self, repository: &Digest, now: Moment) -> FoundNodes {
        let peers = self.fleet.peers().len();
        let holds = |found: &&FoundNodes| now - found.at < FOUND_FOR && found.peers == peers;
        let known = self.found.lock().get(repository).filter(holds).cloned();
        if let Some(found) = known {
            return found;
        }
        let key = blob_of(repository);
        let survey = self.fleet.survey(key, None).await;
        let nodes = survey.candidates(key, self.fleet.me().node);
        let nodes = survey.found_seeds.iter().copied().chain(nodes).collect();
        let found = FoundNodes { nodes, alive: survey.heard.alive.into(), at: now, peers: self.fleet.peers().len() };
        self.found.lock().insert(*repository, found.clone(), 1);
        found
    }

    /// True if an agent is a seed.
    pub(super) fn is_seed(&self, node: NodeId) -> bool {
        self.fleet.peer(node).is_some_and(|peer| peer.is_seed())
    }

    /// True if an agent is on this host.
    pub(super) fn is_here(&self, node: NodeId) -> bool {
        self.fleet.is_here(node)
    }

    /// An agent's kind and address, for messages.
    pub(super) fn title(&self, node: NodeId) -> String {
        self.fleet.title(node)
    }

    /// This agent.
    pub(super) fn me(&self) -> NodeId {
        self.fleet.me().node
    }

    /// Asks an agent what `question` makes of the number that its answer repeats.
    pub(super) async fn ask(&self, agent: NodeId, question: impl FnOnce(u32) -> Message) -> Result<Reply, NoReply> {
        let request = self.last.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().insert(request, (agent, sender));
        let _waits = OpenQuestion { relay: self, request };
        let lost = || NoReply::OfAgent("the connection was lost".to_owned());
        if !self.fleet.say(agent, &question(request)) {
            return Err(lost());
        }
        match answer.await.map_err(|_| lost())? {
            Ok(answer) => {
                Reply::from_wire(answer).ok_or_else(|| NoReply::OfAgent("its answer makes no sense".to_owned()))
            }
            Err(failure) => {
                let text = failure.text.clone();
                Err(match failures::heard(failure) {
                    Some(failure) => NoReply::OfRegistry(failure),
                    None => NoReply::OfAgent(text),
                })
            }
        }
    }

    /// Tells a node what came of its question.
    pub(super) fn tell(&self, node: NodeId, request: u32, answer: Result<RegistryAnswer, Failure>) {
        self.fleet.say(node, &Message::RegistryIs { request, answer });
    }

    /// An agent answered. An answer that nobody waits for from this sender is dropped.
    pub(super) fn answered(&self, from: NodeId, request: u32, answer: Result<RegistryAnswer, Failure>) {
        let mut waiting = self.waiting.lock();
        if waiting.get(&request).is_some_and(|(asked, _)| *asked == from)
            && let Some((_, sender)) = waiting.remove(&request)
        {
            // The asker may have given up just now.
            let _ = sender.send(answer);
        }
    }

    /// An agent is gone, and its answers with it.
    pub(super) fn gone(&self, node: NodeId) {
        self.waiting.lock().retain(|_, (asked, _)| *asked != node);
    }
}

/// Forgets a question when nobody waits any more.
struct OpenQuestion<'a> {
    relay: &'a Relay,
    request: u32,
}

impl Drop for OpenQuestion<'_> {
    fn drop(&mut self) {
        self.relay.waiting.lock().remove(&self.request);
    }
}
