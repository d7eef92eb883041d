//! Questions to seeds that wait for an answer, and answers to nodes.
//!
//! A question about a registry on loopback means the asker's own host: it is passed on only to a seed on that host.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use darter_core::{Digest, NodeId, rendezvous};
use darter_origin::{OriginFailure, is_this_host};
use darter_wire::{Failure, Message, RegistryAnswer, RegistryQuestion};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use url::Url;

use super::question::Reply;
use crate::error::FetchError;
use crate::fleet::Fleet;
use crate::options::Role;

/// Why a seed gave no answer.
#[derive(Debug)]
pub(crate) enum NoReply {
    /// The registry's own failure, as the seed met it.
    OfRegistry(OriginFailure),
    /// The seed's: another may do better.
    OfSeed(String),
}

type Waiting = HashMap<u32, (NodeId, oneshot::Sender<Result<RegistryAnswer, Failure>>)>;

/// The way to seeds and nodes.
pub(crate) struct Relay {
    fleet: Arc<Fleet>,
    role: Role,
    tasks: TaskTracker,
    last: AtomicU32,
    waiting: Mutex<Waiting>,
}

impl Relay {
    pub(crate) fn new(fleet: Arc<Fleet>, role: Role, tasks: TaskTracker) -> Self {
        Self { fleet, role, tasks, last: AtomicU32::new(0), waiting: Mutex::default() }
    }

    pub(super) const fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Whether this agent asks registries for others.
    pub(super) fn answers_nodes(&self) -> bool {
        self.role == Role::Seed
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

    /// Whether an agent is on this host.
    pub(super) fn is_here(&self, node: NodeId) -> bool {
        self.fleet.is_here(node)
    }

    /// Where a seed listens, for messages.
    pub(super) fn address(&self, seed: NodeId) -> String {
        self.fleet.address(seed)
    }

    /// Asks a seed.
    pub(super) async fn ask(&self, seed: NodeId, question: RegistryQuestion) -> Result<Reply, NoReply> {
        let request = self.last.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().insert(request, (seed, sender));
        let _waits = Waits { relay: self, request };
        let lost = || NoReply::OfSeed("the connection was lost".to_owned());
        if !self.fleet.say(seed, &Message::AskRegistry { request, question }) {
            return Err(lost());
        }
        match answer.await.map_err(|_| lost())? {
            Ok(answer) => {
                Reply::from_wire(answer).ok_or_else(|| NoReply::OfSeed("its answer makes no sense".to_owned()))
            }
            Err(failure) => {
                let text = failure.text.clone();
                Err(match FetchError::from_failure(failure) {
                    Some(FetchError::Origin(failure)) => NoReply::OfRegistry(failure),
                    _ => NoReply::OfSeed(text),
                })
            }
        }
    }

    /// Tells a node what came of its question.
    pub(super) fn tell(&self, node: NodeId, request: u32, answer: Result<RegistryAnswer, Failure>) {
        self.fleet.say(node, &Message::RegistryIs { request, answer });
    }

    /// A seed answered. An answer that nobody waits for from this sender is dropped.
    pub(super) fn answered(&self, from: NodeId, request: u32, answer: Result<RegistryAnswer, Failure>) {
        let mut waiting = self.waiting.lock();
        if waiting.get(&request).is_some_and(|(seed, _)| *seed == from)
            && let Some((_, sender)) = waiting.remove(&request)
        {
            // Whoever asked may have given up just now.
            let _ = sender.send(answer);
        }
    }

    /// An agent is gone, and its answers with it.
    pub(super) fn gone(&self, node: NodeId) {
        self.waiting.lock().retain(|_, (asked, _)| *asked != node);
    }
}

/// Forgets a question when nobody waits any more.
struct Waits<'a> {
    relay: &'a Relay,
    request: u32,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.relay.waiting.lock().remove(&self.request);
    }
}
