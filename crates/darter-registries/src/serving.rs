//! Questions of other agents: which of them this one answers, and with whose logins.

use std::sync::Arc;

use darter_core::{Digest, NodeId};
use darter_fleet::failures;
use darter_fleet::questions::{Questions, TakenUp};
use darter_oci::manifest::MAX_MANIFEST;
use darter_origin::is_this_host;
use darter_wire::{Failure, FailureKind, RegistryAnswer, RegistryQuestion};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::question::Question;
use super::{Logins, Registries};

/// Questions of nodes that are being answered at a time; those beyond are told to ask elsewhere.
const MAX_QUESTIONS: usize = 16_384;

/// Questions of one node that are being answered at a time. A pull asks a few, and equal ones of a host are one.
const MAX_QUESTIONS_OF_ONE: u32 = 1024;

/// Room for questions of nodes. A node that asks for ever more leaves the others theirs.
pub(crate) struct Room {
    all: Arc<Semaphore>,
    of_each: Arc<Questions>,
}

impl Default for Room {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(MAX_QUESTIONS)), of_each: Questions::new(MAX_QUESTIONS_OF_ONE) }
    }
}

impl Room {
    /// Room for a question of `from`, for as long as the result lives.
    pub(crate) fn take_up(&self, from: NodeId) -> Option<(TakenUp, OwnedSemaphorePermit)> {
        let taken_up = self.of_each.take_up(from)?;
        Some((taken_up, Arc::clone(&self.all).try_acquire_owned().ok()?))
    }
}

impl Registries {
    /// A node asks.
    pub fn asked(self: &Arc<Self>, from: NodeId, request: u32, question: RegistryQuestion, proof: Option<Digest>) {
        let Some(relay) = self.relay.clone() else { return };
        let (registries, tasks) = (Arc::clone(self), relay.tasks().clone());
        tasks.spawn(async move {
            let answer = registries.answer(from, question, proof).await;
            relay.tell(from, request, answer);
        });
    }

    /// An agent answered.
    pub fn answered(&self, from: NodeId, request: u32, answer: Result<RegistryAnswer, Failure>) {
        if let Some(relay) = &self.relay {
            relay.answered(from, request, answer);
        }
    }

    /// An agent is gone, and its answers with it.
    pub fn gone(&self, node: NodeId) {
        if let Some(relay) = &self.relay {
            relay.gone(node);
        }
    }

    async fn answer(
        self: &Arc<Self>,
        from: NodeId,
        question: RegistryQuestion,
        proof: Option<Digest>,
    ) -> Result<RegistryAnswer, Failure> {
        let own_trouble =
            |text: &str| Failure { kind: FailureKind::Other, status: None, text: text.into(), challenge: None };
        if !self.relay.as_ref().is_some_and(|relay| relay.is_in_fleet()) {
            return Err(own_trouble("this agent asks registries for its own host only"));
        }
        let Some(_taken_up) = self.questions.take_up(from) else {
            return Err(own_trouble("too many questions at a time"));
        };
        let Some(question) = Question::from_wire(question, self.client().upstreams()) else {
            return Err(own_trouble("the question is not one for a registry"));
        };
        if is_this_host(question.base()) && !self.relay.as_ref().is_some_and(|relay| relay.is_here(from)) {
            return Err(own_trouble("the registry's address means the host of whoever asks"));
        }
        let is_alike = self.has_same_login(&question, from, proof).await;
        if proof.is_some() && !is_alike {
            return Err(own_trouble("it has no login for this registry, or another one"));
        }
        if self.is_node() && !is_alike && self.shows_own_keys(&question).await {
            return Err(own_trouble("it has a login, headers or a certificate of its own for this registry"));
        }
        let logins = if is_alike || !self.is_node() { Logins::Own } else { Logins::None };
        let reply = self.ask_here(Some(from), question, logins, self.waits().relayed()).await;
        let reply = reply.map_err(|failure| failures::told(&failure))?;
        if reply.body.len() > MAX_MANIFEST {
            return Err(own_trouble("the answer is too long to be passed on"));
        }
        Ok(reply.to_wire())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_asks_for_ever_more_leaves_the_others_room() {
        let room = Room::default();
        let node = |name: u8| NodeId([name; 16]);
        let eager: Vec<_> = (0..MAX_QUESTIONS).map_while(|_| room.take_up(node(1))).collect();
        assert_eq!(eager.len(), MAX_QUESTIONS_OF_ONE as usize);
        let others: Vec<_> = (2..=255).flat_map(|name| (0..100).map(move |_| name)).collect();
        let others: Vec<_> = others.into_iter().map_while(|name| room.take_up(node(name))).collect();
        assert_eq!(eager.len() + others.len(), MAX_QUESTIONS, "all together have no more");
        drop(eager);
        assert!(room.take_up(node(1)).is_some() && room.take_up(node(200)).is_some());
    }
}
