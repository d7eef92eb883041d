//! Registries' answers about manifests, tags, lists and access: asked for once for the fleet, and known when the
//! registries are away.
//!
//! | file | what lives there |
//! |---|---|
//! | this one | [`Registries`]: from a question to its answer |
//! | [`question`] | questions and replies, and how they travel between agents |
//! | `flights` | one question for everybody who asks the same |
//! | `others` | asking a seed, or another node, instead of the registry |
//! | `serving` | answering other agents |
//! | `relay` | questions and answers on the wire, and whom to ask |
//! | `request` | one question to a registry itself |
//! | `remembered` | what is known without the registry: noted from answers, given while it is away |
//! | `record` | the part of that which is open to everybody, on disk |
//! | `known` | what other nodes know while a registry is away |
//! | [`manifests`] | manifests in memory and on disk |
//! | [`provenance`] | which registry and repository delivered a cached manifest |
//! | [`images`] | the images that this host was asked for, by name |
//! | `outage` | when a registry counts as away, and what is said then |
//! | `small_files` | work on small files beside the blobs, for which nobody waits while the disk hangs |
//! | [`waits`] | how long a program waits for an answer of the mirror |
//!
//! # One question
//!
//! ```text
//! a program of a node ─► flights ─► a seed ─► its flights ─────────────────┐
//!                                   no seed can: a node ─► its own flights ─┼─► the registry ─► answer
//!                                   nobody can: its own flights ────────────┘
//! 429, 5xx, a page, silence of the registry ─► the record and the cached manifests, or that failure
//! ```
//!
//! A node asks the seed that rendezvous hashing names for the repository, so that equal questions of a fleet meet at one
//! seed. The seed asks with what the caller brought, or else with its own logins: *a login that is configured at a seed
//! opens what it can read to every program of every host of the fleet that brings no credentials of its own*.
//! If a seed is refused and the node has a login of its own for that registry, the node asks by itself.
//!
//! If no seed can be asked, the node asks the node that all of them name for the repository, or is that one itself. *What is
//! configured at a node opens nothing to others*: a node does not ask for another what it would show its own login,
//! headers or certificate for, and one that has these asks by itself. Nodes that have the same login are the exception: the
//! asker shows that it has it, by a digest that is of use to the one that is asked alone. A node that is asked asks its seeds, or the registry,
//! and no other node; it never waits for an answer of its own host's question. So no question goes round in a circle.
//!
//! # Invariants
//!
//! - An answer to one caller's credentials is given to nobody who brings others.
//! - A registry that asks to slow down (429) is not asked again by the node whose seed was told so.
//! - What is served without the registry's word now was open to everybody when it last gave it; or, for a tag, was
//!   given to these very credentials within the time that a yes counts.
//! - A stale reply grants nothing further, and a manifest in one was delivered by that very repository.
//!
//! Non-goals: the bytes of blobs, which the swarm carries.

mod flights;
pub mod images;
mod known;
pub mod manifests;
mod others;
mod outage;
pub mod provenance;
pub mod question;
mod record;
mod relay;
mod remembered;
mod request;
mod serving;
mod small_files;
pub mod waits;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use darter_core::recent::Recent;
use darter_core::{Clock, Digest, Moment, NodeId};
use darter_metrics::{Metrics, RegistryAnswered};
use darter_origin::{ErrorKind, OriginFailure, RegistryClient};
use darter_store::Dir;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::flights::{Asker, Flights, Outcome, Way};
use self::images::Images;
use self::manifests::Manifests;
use self::outage::{Trouble, Watch};
use self::provenance::Provenance;
use self::question::{About, Question, Reply};
use self::record::{Record, Tagged};
pub use self::relay::Relay;
pub use self::request::REFUSAL_BODY_TIMEOUT;
use self::request::Requests;
use self::waits::Waits;

/// The directory of manifests, within the data directory.
const MANIFESTS: &str = "manifests";

/// Others who ask the same within this time are given the same answer.
const SHARED_FOR: Duration = Duration::from_secs(3);

/// Tags remembered for callers with credentials.
const MAX_PRIVATE_TAGS: u64 = 10_000;

/// How a tag was last answered to a caller with credentials.
type PrivateTag = (Digest, String, Digest);

/// When a tag is answered as it was last seen, because its registry gives no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StaleTags {
    /// Never.
    Never,
    /// When the registry can't be reached, does not answer in time, or asks to slow down (429).
    #[default]
    Unreachable,
    /// Also when it answers with an error of its own (5xx).
    Errors,
}

/// Options of [`Registries`].
#[derive(Clone, Debug)]
pub struct RegistriesOptions {
    /// The agent's data directory: manifests, and what is open, are kept in `manifests/`.
    pub data_dir: PathBuf,
    /// How long a registry's yes to a caller's credentials counts.
    pub grant_ttl: Duration,
    /// When a tag is answered without its registry.
    pub stale_tags: StaleTags,
    /// How long an engine waits for an answer.
    pub answer_timeout: Duration,
}

/// Asks registries for this host and for the fleet.
pub struct Registries {
    requests: Requests,
    relay: Option<Arc<Relay>>,
    options: RegistriesOptions,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    flights: Flights,
    manifests: Manifests,
    provenance: Provenance,
    record: Record,
    images: Images,
    private_tags: Mutex<Recent<PrivateTag, (Tagged, Moment)>>,
    watch: Watch,
    questions: serving::Room,
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registries").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Registries {
    /// Registries asked by this agent alone. Blocking: it lists the manifests kept.
    ///
    /// # Errors
    /// When the directory of manifests can't be made or listed.
    pub fn open(
        options: RegistriesOptions,
        client: RegistryClient,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let data_dir = Dir::open(&options.data_dir).map_err(io::Error::other)?;
        let manifests = data_dir.sub_or_anew(MANIFESTS)?;
        let images = Images::open(data_dir, Arc::clone(&clock));
        metrics.set_aside("images", usize::from(images.is_set_aside()));
        let cached = Manifests::open(&options.data_dir.join(MANIFESTS))?;
        metrics.set_aside("manifests", cached.left_alone());
        Ok(Self {
            manifests: cached,
            provenance: Provenance::open(&manifests),
            // The record's version is in its directory's name, so that one file never has to be read by two releases.
            record: Record::open(manifests.sub_or_anew("open-1")?)?,
            images,
            requests: Requests::new(client, Arc::clone(&metrics), Arc::clone(&clock)),
            relay: None,
            options,
            metrics,
            clock,
            flights: Flights::default(),
            private_tags: Mutex::new(Recent::new(MAX_PRIVATE_TAGS)),
            watch: Watch::default(),
            questions: serving::Room::default(),
        })
    }

    /// These registries, asked by way of seeds where there are any, or of other nodes.
    pub fn with_relay(self, relay: Relay) -> Self {
        Self { relay: Some(Arc::new(relay)), ..self }
    }

    /// The client, for what is not asked here: the bytes of blobs.
    pub const fn client(&self) -> &RegistryClient {
        self.requests.client()
    }

    /// Manifests seen.
    pub const fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// Images that this host was asked for by tag.
    pub const fn images(&self) -> &Images {
        &self.images
    }

    /// The registries and repositories that delivered cached manifests.
    pub const fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Answers a question of this host. Any status is an answer.
    ///
    /// # Errors
    /// Why there is no answer, neither of the registry nor of what is known.
    pub async fn ask(self: &Arc<Self>, question: Question) -> Outcome {
        let (registries, asked) = (Arc::clone(self), question.clone());
        let found_out = async move {
            if let Some(reply) = registries.while_away(&asked).await {
                return Ok(reply);
            }
            if let Some(trouble) = registries.watch.trouble_with(asked.base(), registries.clock.now())
                && let Some(reply) = registries.known_to_others(&asked, &trouble).await
            {
                return Ok(reply);
            }
            let asking = async {
                match registries.is_node() {
                    true => registries.ask_by_others(&asked).await,
                    false => {
                        let until = registries.waits().registry();
                        registries.ask_here(None, asked.clone(), Logins::Own, until).await
                    }
                }
            };
            let outcome = tokio::select! {
                outcome = asking => outcome,
                reply = registries.known_while_silent(&asked) => return Ok(reply),
            };
            match Trouble::of(&asked, &outcome) {
                Some(trouble) => registries.known_to_others(&asked, &trouble).await.map_or(outcome, Ok),
                None => outcome,
            }
        };
        self.fly(question.key(), None, &question, Box::pin(found_out)).await
    }

    /// True if others are asked before the registry is.
    fn is_node(&self) -> bool {
        self.relay.as_ref().is_some_and(|relay| relay.is_node())
    }

    /// A proof for `asked` (this agent, if none is named) that `asker` has the login that is configured here.
    async fn login_proof(&self, question: &Question, asker: NodeId, asked: Option<NodeId>) -> Option<Digest> {
        let me = self.relay.as_ref()?.me();
        self.client().login_proof(&question.upstream, [&asker.0, &asked.unwrap_or(me).0]).await
    }

    /// True if `asker` has shown that it has the login that is configured here.
    async fn has_same_login(&self, question: &Question, asker: NodeId, proof: Option<Digest>) -> bool {
        proof.is_some() && question.is_open() && self.login_proof(question, asker, None).await == proof
    }

    /// True if the registry would be shown something of this agent's own.
    async fn shows_own_keys(&self, question: &Question) -> bool {
        self.client().shows_own_keys(&question.upstream, &question.credentials).await
    }

    /// Answers a question of this host or of another one from here: a seed or a node that is to ask the registry.
    async fn ask_here(self: &Arc<Self>, asker: Asker, question: Question, logins: Logins, until: Instant) -> Outcome {
        let (registries, asked) = (Arc::clone(self), question.clone());
        let found_out = async move {
            if let Some(reply) = registries.while_away(&asked).await {
                return Ok(reply);
            }
            let by_seed = match asker {
                Some(asker) => registries.ask_seeds_for(asker, &asked, until).await,
                None => None,
            };
            let outcome = match by_seed {
                Some(outcome) => outcome,
                None => registries.ask_registry(&asked, logins, until).await,
            };
            registries.settle(&asked, outcome).await
        };
        self.fly(question.key_here(), asker, &question, Box::pin(found_out)).await
    }

    /// One question for everybody who asks the same.
    async fn fly(
        self: &Arc<Self>,
        key: Digest,
        asker: Asker,
        question: &Question,
        found_out: BoxFuture<'static, Outcome>,
    ) -> Outcome {
        let outcome = match self.flights.board(key, asker, self.clock.now()) {
            Way::Known(outcome) => Some(outcome),
            Way::Follow(mut landed) => {
                let landed = landed.wait_for(Option::is_some).await;
                landed.ok().and_then(|outcome| outcome.clone())
            }
            Way::Ask(pilot) => {
                // Goes on when the asker leaves: others may wait for it.
                let (registries, question) = (Arc::clone(self), question.clone());
                let flight = tokio::spawn(async move {
                    let outcome = found_out.await;
                    let good_for = registries.shared_for(&question, &outcome);
                    pilot.land(outcome.clone(), good_for, registries.clock.now());
                    outcome
                });
                return flight.await.unwrap_or_else(|_| Err(interrupted()));
            }
        };
        self.metrics.registry_answer(RegistryAnswered::Shared);
        outcome.unwrap_or_else(|| Err(interrupted()))
    }

    /// How long others are given the same answer. A registry's answer for a digest does not change, as long as its yes
    /// counts; the reply tells its age.
    fn shared_for(&self, question: &Question, outcome: &Outcome) -> Duration {
        let immutable = matches!(question.about().1, About::Manifest(_) | About::Blob(_));
        match outcome {
            _ if Trouble::of(question, outcome).is_some() => SHARED_FOR,
            Ok(reply) if immutable && reply.status.is_success() && reply.stale.is_none() => {
                self.options.grant_ttl.max(SHARED_FOR)
            }
            _ => SHARED_FOR,
        }
    }

    /// The stored answer, while the registry is known to be away.
    async fn while_away(&self, question: &Question) -> Option<Reply> {
        let trouble = self.watch.trouble_with(question.base(), self.clock.now())?;
        self.instead(question, &trouble).await
    }

    /// Learns from an answer; what is known takes the place of one that is none.
    async fn settle(&self, question: &Question, outcome: Outcome) -> Outcome {
        let Some(trouble) = Trouble::of(question, &outcome) else {
            if let Ok(reply) = &outcome {
                self.learn(question, reply).await;
            }
            return outcome;
        };
        self.watch.note(question.base(), &trouble, self.clock.now());
        match self.instead(question, &trouble).await {
            Some(reply) => Ok(reply),
            None => outcome,
        }
    }

    const fn waits(&self) -> Waits {
        Waits::new(self.options.answer_timeout)
    }

    /// Asks the registry itself.
    async fn ask_registry(&self, question: &Question, logins: Logins, until: Instant) -> Outcome {
        self.metrics.registry_answer(RegistryAnswered::Registry);
        let until = until.min(self.waits().registry());
        match logins {
            Logins::Own => self.requests.ask(question, until).await,
            Logins::None => self.requests.ask_without_logins(question, until).await,
        }
    }
}

/// Which logins a registry may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logins {
    /// This agent's own.
    Own,
    /// None: somebody else asks.
    None,
}

fn interrupted() -> OriginFailure {
    OriginFailure::new(ErrorKind::Unreachable, "the question to the registry was broken off: ask again")
}
