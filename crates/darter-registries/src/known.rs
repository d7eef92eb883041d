//! Answers that other nodes know, while the registry does not answer and nothing is known of the question here.
//!
//! A seed knows what its whole fleet asked for. If none is left, or its disk was lost, each node knows what its own host asked for,
//! and what it asked for others. So an agent that comes new to an image asks the others, who ask nobody.
//!
//! Invariant: an answer is what the one that gives it would give its own host for these credentials, in the same case; nothing
//! that something of its own opened, unless the asker has the same login. A seed gives its own host what a node says, and
//! learns nothing from it that it would tell the fleet.

use std::sync::Arc;
use std::time::Duration;

use darter_core::{Digest, NodeId};
use darter_metrics::RegistryAnswered;
use darter_oci::manifest::MAX_MANIFEST;
use darter_origin::is_this_host;
use darter_wire::{Failure, FailureKind, Message, RegistryAnswer, RegistryQuestion};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::Registries;
use super::outage::Trouble;
use super::question::{About, Question, Reply};
use super::record::Repository;

/// How long the others may take: they need ask nobody.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(1);

impl Registries {
    /// Another node's answer, if this caller may have it.
    pub(super) async fn known_to_others(&self, question: &Question, trouble: &Trouble) -> Option<Reply> {
        let relay = self.relay.as_ref().filter(|relay| relay.is_in_fleet())?;
        let may_be_known = match question.about().1 {
            About::Tag(_) => trouble.opens_tags(self.options.stale_tags),
            About::Manifest(_) | About::Blob(_) => true,
            About::Other => false,
        };
        if !may_be_known {
            return None;
        }
        let repository = Repository::new(question.base(), question.about().0).key();
        let asking = async {
            let nodes = relay.others_for(&repository, question.base(), self.clock.now()).await;
            let asked = nodes.into_iter().map(|node| async move {
                let proof = match question.is_open() {
                    true => self.login_proof(question, relay.me(), Some(node)).await,
                    false => None,
                };
                let question = question.to_wire();
                relay.ask(node, move |request| Message::AskRegistryKnown { request, question, proof }).await
            });
            let mut asked: FuturesUnordered<_> = asked.collect();
            while let Some(answer) = asked.next().await {
                if let Ok(reply) = answer
                    && reply.status.is_success()
                    && reply.stale.is_some()
                {
                    return Some(reply);
                }
            }
            None
        };
        let mut reply = tokio::time::timeout(KNOWN_TIMEOUT, asking).await.ok().flatten()?;
        if let Some(stale) = &mut reply.stale {
            trouble.reason().clone_into(&mut stale.reason);
        }
        self.metrics.registry_answer(RegistryAnswered::Stale);
        if relay.is_node() {
            self.learn(question, &reply).await;
        }
        Some(reply)
    }

    /// Another agent asks what is known here.
    pub fn asked_for_known(
        self: &Arc<Self>,
        from: NodeId,
        request: u32,
        question: RegistryQuestion,
        proof: Option<Digest>,
    ) {
        let Some(relay) = self.relay.clone() else { return };
        let (registries, tasks) = (Arc::clone(self), relay.tasks().clone());
        tasks.spawn(async move {
            let answer = registries.answer_known(from, question, proof).await.ok_or_else(|| {
                let text = "nothing is known of it here".to_owned();
                Failure { kind: FailureKind::Other, status: None, text, challenge: None }
            });
            relay.tell(from, request, answer);
        });
    }

    async fn answer_known(
        &self,
        from: NodeId,
        question: RegistryQuestion,
        proof: Option<Digest>,
    ) -> Option<RegistryAnswer> {
        let relay = self.relay.as_ref().filter(|relay| relay.is_in_fleet())?;
        let _taken_up = self.questions.take_up(from)?;
        let question = Question::from_wire(question, self.client().upstreams())?;
        if is_this_host(question.base()) && !relay.is_here(from) {
            return None;
        }
        // Answers that this node's own login, headers or certificate opened were kept as open to its own host.
        if self.is_node() && self.shows_own_keys(&question).await && !self.has_same_login(&question, from, proof).await
        {
            return None;
        }
        let trouble = Trouble::Away("its registry does not answer".to_owned());
        let reply = self.instead(&question, &trouble).await?;
        (reply.body.len() <= MAX_MANIFEST).then(|| reply.to_wire())
    }
}
