//! Asking others instead of the registry: the seed that rendezvous hashing names for the repository, else the node that the nodes
//! name for it.

use std::sync::Arc;
use std::time::Duration;

use darter_core::NodeId;
use darter_metrics::RegistryAnswered;
use darter_origin::{ErrorKind, OriginFailure};
use darter_wire::Message;
use http::StatusCode;
use tokio::time::Instant;

use super::flights::Outcome;
use super::outage::Trouble;
use super::question::{About, Question, Reply};
use super::record::Repository;
use super::relay::NoReply;
use super::{Logins, Registries, StaleTags};

/// Others who knew nothing while a registry is silent are asked again, then after twice as long each time.
const KNOWN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Since when a question is asked, and until when an answer is of use.
#[derive(Clone, Copy)]
struct Times {
    begun: Instant,
    until: Instant,
}

/// The result of asking others.
enum Others {
    /// An answer, or a failure of the registry that this agent would meet as well.
    Say(Outcome),
    /// Nobody could; the registry's failure, if somebody met one.
    CanNot(Option<OriginFailure>),
}

impl Registries {
    /// Answers a question of this host by way of others, or from here if nobody else can.
    pub(super) async fn ask_by_others(self: &Arc<Self>, question: &Question) -> Outcome {
        let until = self.waits().others();
        match self.ask_others(question, until).await {
            Others::Say(outcome) => self.settle(question, self.unless_stale(question, outcome)).await,
            // The word of a seed is the better one: a node need not have a route to the registry.
            Others::CanNot(failed) => {
                let outcome = self.ask_here(None, question.clone(), Logins::Own, until).await;
                if outcome.is_ok() { outcome } else { failed.map_or(outcome, Err) }
            }
        }
    }

    /// Others' knowledge of content that is named by its digest, once nobody has had an answer of the registry for a while. The reader has
    /// time left for that. Never ends where they know nothing.
    pub(super) async fn known_while_silent(&self, question: &Question) -> Reply {
        let after = self.waits().headers();
        tokio::time::sleep(after).await;
        if !matches!(question.about().1, About::Manifest(_) | About::Blob(_)) {
            return std::future::pending().await;
        }
        let reason = format!("{} has not answered for {} s", question.upstream, after.as_secs());
        let trouble = Trouble::Silent(reason);
        let mut pause = KNOWN_AGAIN_AFTER;
        loop {
            if let Some(reply) = self.known_to_others(question, &trouble).await {
                // Slow is not away: what a digest names stays the same, what a tag stands for need not.
                let slow = Trouble::Failing { reason: trouble.reason().to_owned(), retry_after: Some(after) };
                self.watch.note(question.base(), &slow, self.clock.now());
                return reply;
            }
            // A node that knows it may have been busy, or come since.
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Another agent's outcome; an error where that is how a tag was last seen, and this agent is to give no such answer.
    fn unless_stale(&self, question: &Question, outcome: Outcome) -> Outcome {
        let reply = outcome?;
        match &reply.stale {
            Some(stale)
                if self.options.stale_tags == StaleTags::Never && matches!(question.about().1, About::Tag(_)) =>
            {
                let text = format!("{} does not answer (--stale-tags never): {}", question.upstream, stale.reason);
                Err(OriginFailure::new(ErrorKind::Unreachable, text))
            }
            _ => Ok(reply),
        }
    }

    /// Asks a seed; without one that can say it, the node that is to ask for all.
    async fn ask_others(&self, question: &Question, until: Instant) -> Others {
        let Some(relay) = &self.relay else { return Others::CanNot(None) };
        let repository = Repository::new(question.base(), question.about().0).key();
        let times = Times { begun: Instant::now(), until };
        let by_seeds = self.ask_each(&relay.seeds_for(&repository, question.base()), question, times).await;
        let nobody_could = matches!(by_seeds, Others::CanNot(None));
        // Nodes may have the same login; configured headers and certificates are not compared.
        let has_login = question.is_open() && self.login_proof(question, relay.me(), None).await.is_some();
        if !nobody_could || !has_login && self.shows_own_keys(question).await {
            return by_seeds;
        }
        let nodes = relay.nodes_for(&repository, question.base(), self.clock.now()).await;
        self.ask_each(&nodes, question, times).await
    }

    /// Asks the seeds that this node is connected with for another node, which is connected with none of them.
    pub(super) async fn ask_seeds_for(&self, asker: NodeId, question: &Question, until: Instant) -> Option<Outcome> {
        let relay = self.relay.as_ref()?;
        let repository = Repository::new(question.base(), question.about().0).key();
        let mut seeds = relay.seeds_for(&repository, question.base());
        seeds.retain(|seed| *seed != asker);
        let times = Times { begun: Instant::now(), until };
        match self.ask_each(&seeds, question, times).await {
            Others::Say(outcome) => Some(outcome),
            Others::CanNot(_) => None,
        }
    }

    /// Asks agents one after the other until one has an answer.
    async fn ask_each(&self, agents: &[NodeId], question: &Question, times: Times) -> Others {
        let Some(relay) = &self.relay else { return Others::CanNot(None) };
        let upstream = &question.upstream;
        // An agent that finds the registry unreachable by then leaves enough time for this one to try.
        let quick = times.begun + self.waits().headers();
        for &agent in agents {
            let is_seed = relay.is_seed(agent);
            let proof = match question.is_open() && !is_seed {
                true => self.login_proof(question, relay.me(), Some(agent)).await,
                false => None,
            };
            let is_alike = proof.is_some();
            let question_to = question.to_wire();
            let asked = relay.ask(agent, move |request| match proof {
                Some(proof) => Message::AskRegistryAlike { request, question: question_to, proof },
                None => Message::AskRegistry { request, question: question_to },
            });
            match tokio::time::timeout_at(times.until, asked).await {
                Ok(Ok(reply)) => {
                    let is_refused = matches!(
                        reply.status,
                        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
                    );
                    if is_refused && !is_alike && self.shows_own_keys(question).await {
                        return Others::CanNot(None);
                    }
                    self.metrics.registry_answer(match is_seed {
                        true => RegistryAnswered::Seed,
                        false => RegistryAnswered::Node,
                    });
                    if reply.stale.is_some() {
                        self.metrics.registry_answer(RegistryAnswered::Stale);
                    }
                    return Others::Say(Ok(reply));
                }
                Ok(Err(NoReply::OfRegistry(failure))) => {
                    let was_not_answered = failure.kind.status().is_none();
                    return match was_not_answered && Instant::now() < quick {
                        true => Others::CanNot(Some(failure)),
                        false => Others::Say(Err(failure)),
                    };
                }
                Ok(Err(NoReply::OfAgent(reason))) if is_seed => {
                    let seed = relay.title(agent);
                    tracing::warn!(seed, reason, "a seed could not ask a registry; trying the next");
                }
                Ok(Err(NoReply::OfAgent(reason))) => {
                    tracing::debug!(agent = relay.title(agent), reason, "another node could not ask a registry");
                }
                Err(_) => {
                    let (title, waited) = (relay.title(agent), times.begun.elapsed().as_secs_f64());
                    let text = format!(
                        "{title} was asked what {upstream} says, and has not answered for {waited:.1} s: check that it is \
                         well, and that the network reaches it"
                    );
                    return Others::Say(Err(OriginFailure::new(ErrorKind::Timeout, text)));
                }
            }
        }
        Others::CanNot(None)
    }
}
