//! What registries say of manifests, tags, lists and access: asked once for the fleet, and known when they are away.
//!
//! | file | what lives there |
//! |---|---|
//! | this one | [`Registries`]: from a question to its answer |
//! | [`question`] | questions and replies, and how they travel between agents |
//! | `flights` | one question for everybody who asks the same |
//! | `relay` | nodes ask seeds, seeds answer nodes |
//! | `request` | one question to a registry itself |
//! | `record` | what is open to everybody, on disk |
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
//! Where a seed is refused and the node has a login of its own for that registry, the node asks by itself.
//!
//! Where no seed can be asked, the node asks the one that the nodes name for the repository, or is that one itself. *What is
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
mod outage;
pub mod provenance;
pub mod question;
mod record;
mod relay;
mod request;
mod small_files;
pub mod waits;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_core::recent::Recent;
use darter_core::{Clock, Digest, Moment, NodeId};
use darter_fleet::failures;
use darter_metrics::{Metrics, RegistryAnswered};
use darter_oci::manifest::{self, ImageManifest, MAX_MANIFEST, Named};
use darter_origin::{ErrorKind, OriginFailure, RegistryClient, is_this_host};
use darter_store::Dir;
use darter_wire::{Failure, FailureKind, Message, RegistryAnswer, RegistryQuestion};
use futures_util::future::BoxFuture;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::flights::{Asker, Flights, Outcome, Way};
use self::images::Images;
use self::manifests::Manifests;
use self::outage::{Trouble, Watch};
use self::provenance::{Provenance, place_at};
use self::question::{About, Question, Reply, Stale};
use self::record::{Learnt, Record, Repository, Tagged, accept_key};
use self::relay::NoReply;
pub use self::relay::Relay;
pub use self::request::REFUSAL_BODY_TIMEOUT;
use self::request::Requests;
use self::waits::Waits;

/// The directory of manifests, within the data directory.
const MANIFESTS: &str = "manifests";

/// Others who ask the same within this time are given the same answer.
const SHARED_FOR: Duration = Duration::from_secs(3);

/// Others who knew nothing while a registry is silent are asked again, then after twice as long each time.
const KNOWN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Questions of nodes that are being answered at a time; those beyond are told to ask elsewhere.
const MAX_QUESTIONS: usize = 16_384;
/// Tags remembered for callers with credentials.
const MAX_PRIVATE_TAGS: u64 = 10_000;

/// How a tag was last answered to a caller with credentials.
type PrivateTag = (Digest, String, Digest);

/// Since when a question is asked, and until when an answer is of use.
#[derive(Clone, Copy)]
struct Times {
    begun: Instant,
    until: Instant,
}

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
    questions: Arc<Semaphore>,
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
        Ok(Self {
            manifests: Manifests::open(&options.data_dir.join(MANIFESTS))?,
            provenance: Provenance::open(&manifests),
            // The version is in the name, so that one file never has to be read by two releases.
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
            questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
        })
    }

    /// The same, by way of seeds where there are any, or of other nodes.
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

    /// Where they came from.
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

    /// Whether others are asked before the registry is.
    fn is_node(&self) -> bool {
        self.relay.as_ref().is_some_and(|relay| relay.is_node())
    }

    /// What shows `asked`, or this agent, that `asker`, or this agent, has the login that is configured here.
    async fn login_proof(&self, question: &Question, asker: NodeId, asked: Option<NodeId>) -> Option<Digest> {
        let me = self.relay.as_ref()?.me();
        self.client().login_proof(&question.upstream, [&asker.0, &asked.unwrap_or(me).0]).await
    }

    /// Whether `asker` has shown that it has the login that is configured here.
    async fn has_same_login(&self, question: &Question, asker: NodeId, proof: Option<Digest>) -> bool {
        proof.is_some() && question.is_open() && self.login_proof(question, asker, None).await == proof
    }

    /// Whether the registry would be shown something of this agent's own.
    async fn shows_own_keys(&self, question: &Question) -> bool {
        self.client().shows_own_keys(&question.upstream, &question.credentials).await
    }

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
        let Ok(_permit) = Arc::clone(&self.questions).try_acquire_owned() else {
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

    /// Answers a question of this host by way of others, or from here if nobody else can.
    async fn ask_by_others(self: &Arc<Self>, question: &Question) -> Outcome {
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

    /// What others know of content that is named by its digest, once nobody has had an answer of the registry for a while. The reader has
    /// time left for that. Never ends where they know nothing.
    async fn known_while_silent(&self, question: &Question) -> Reply {
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

    /// What another agent said; an error where that is how a tag was last seen, and this agent is to give no such answer.
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

    /// How long others are given the same answer. What a registry gave for a digest does not change, as long as its yes
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

    /// What is known while a registry is away that need not be asked to find that out.
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
    async fn ask_seeds_for(&self, asker: NodeId, question: &Question, until: Instant) -> Option<Outcome> {
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

    /// Asks the registry itself.
    async fn ask_registry(&self, question: &Question, logins: Logins, until: Instant) -> Outcome {
        self.metrics.registry_answer(RegistryAnswered::Registry);
        let until = until.min(self.waits().registry());
        match logins {
            Logins::Own => self.requests.ask(question, until).await,
            Logins::None => self.requests.ask_without_logins(question, until).await,
        }
    }

    /// Notes what a reply teaches for when the registry is away.
    async fn learn(&self, question: &Question, reply: &Reply) {
        let (name, about) = question.about();
        if name.is_empty() {
            return;
        }
        let mut learnt = Vec::new();
        match (reply.status, about) {
            (StatusCode::OK, About::Tag(_) | About::Manifest(_)) => {
                let Some(digest) = self.keep(question, reply, &mut learnt).await else { return };
                if let About::Tag(tag) = about {
                    let age = reply.age + reply.stale.as_ref().map_or(Duration::ZERO, |stale| stale.age);
                    let tagged = Tagged { digest, at: self.clock.unix().saturating_sub(age.as_secs()) };
                    let (tag, accept) = (tag.to_owned(), accept_key(&question.headers));
                    if !question.is_open() && reply.stale.is_none() {
                        let key = self.private_tag(question, &tag, &accept);
                        self.private_tags.lock().insert(key, (tagged, self.clock.now()), 1);
                    }
                    learnt.push(Learnt::Tag { tag, accept, tagged });
                }
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => learnt.push(Learnt::Closed),
            (StatusCode::NOT_FOUND, About::Tag(tag)) => learnt.push(Learnt::NoTag(tag.to_owned())),
            (StatusCode::NOT_FOUND, About::Manifest(digest) | About::Blob(digest)) => {
                learnt.push(Learnt::HasNot(digest));
            }
            _ => {}
        }
        if question.is_open() && !learnt.is_empty() {
            self.record.learn(Repository::new(question.base(), name), learnt).await;
        }
    }

    /// Keeps the manifest of a reply; its digest, if the manifest is here.
    async fn keep(&self, question: &Question, reply: &Reply, learnt: &mut Vec<Learnt>) -> Option<Digest> {
        if reply.body.is_empty() {
            let digest = reply.digest()?;
            return self.manifests.get(digest).await.map(|manifest| manifest.digest);
        }
        let expected = match question.about().1 {
            About::Manifest(digest) => Some(digest),
            _ => None,
        };
        // One that is wrong is the caller's affair, who sees the same reply.
        let checked = manifest::check(&reply.headers, reply.body.clone(), expected).ok()?;
        let manifest::Checked { manifest, keeps: true } = checked else { return None };
        let size = Some(manifest.bytes.len() as u64);
        let parts = Named::parse(&manifest.bytes).all().map(|part| (part.digest, part.size));
        learnt.push(Learnt::Has([(manifest.digest, size)].into_iter().chain(parts).collect()));
        let digest = manifest.digest;
        self.manifests.put(manifest).await;
        self.provenance.note(digest, place_at(question.base(), question.about().0)).await;
        Some(digest)
    }

    /// What is known instead of the registry's answer, if the caller may have it.
    async fn instead(&self, question: &Question, trouble: &Trouble) -> Option<Reply> {
        let (name, about) = question.about();
        let repository = Repository::new(question.base(), name);
        let stale = |age| Stale { age, reason: trouble.reason().to_owned() };
        let reply = match about {
            About::Blob(digest) => {
                let length = self.record.has(repository, digest).await?;
                of_blob(digest, length, stale(Duration::ZERO))
            }
            About::Manifest(digest) => {
                self.record.has(repository, digest).await?;
                let manifest = self.delivered(question, digest).await?;
                let fits = manifest::accepts(&question.headers, &manifest.media_type);
                fits.then(|| of_manifest(question, &manifest, stale(Duration::ZERO)))?
            }
            About::Tag(tag) if trouble.opens_tags(self.options.stale_tags) => {
                let (manifest, at) = self.last_tagged(question, repository, tag).await?;
                let age = Duration::from_secs(self.clock.unix().saturating_sub(at));
                tracing::debug!(base = %question.base(), repository = name, tag, "answering a tag as it was last seen");
                of_manifest(question, &manifest, stale(age))
            }
            About::Tag(_) | About::Other => return None,
        };
        self.metrics.registry_answer(RegistryAnswered::Stale);
        Some(reply)
    }

    /// The manifest that a tag stood for last, as far as this caller may know, and when.
    async fn last_tagged(
        &self,
        question: &Question,
        repository: Repository,
        tag: &str,
    ) -> Option<(ImageManifest, u64)> {
        let accept = accept_key(&question.headers);
        let key = self.private_tag(question, tag, &accept);
        let private = self.private_tags.lock().get(&key).copied();
        let private = private.filter(|(_, at)| self.clock.now() - *at < self.options.grant_ttl);
        let open = self.record.tag(repository, tag, &accept).await;
        for tagged in private.map(|(tagged, _)| tagged).into_iter().chain(open) {
            if let Some(manifest) = self.delivered(question, tagged.digest).await
                && manifest::accepts(&question.headers, &manifest.media_type)
            {
                return Some((manifest, tagged.at));
            }
        }
        None
    }

    /// A manifest that the repository itself delivered: that it was named there proves nothing.
    async fn delivered(&self, question: &Question, digest: Digest) -> Option<ImageManifest> {
        let place = place_at(question.base(), question.about().0);
        if !self.provenance.knows(digest, &place).await {
            return None;
        }
        self.manifests.get(digest).await
    }

    fn private_tag(&self, question: &Question, tag: &str, accept: &str) -> PrivateTag {
        let repository = Repository::new(question.base(), question.about().0);
        let caller = Digest::Sha256(question.credentials.fingerprint());
        (repository.key(), format!("{tag} {accept}"), caller)
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

/// What came of asking others.
enum Others {
    /// An answer, or a failure of the registry that this agent would meet as well.
    Say(Outcome),
    /// Nobody could; the registry's failure, if somebody met one.
    CanNot(Option<OriginFailure>),
}

fn interrupted() -> OriginFailure {
    OriginFailure::new(ErrorKind::Unreachable, "the question to the registry was broken off: ask again")
}

fn of_blob(digest: Digest, length: Option<u64>, stale: Stale) -> Reply {
    let mut headers = HeaderMap::new();
    put(&mut headers, "docker-content-digest", &digest.to_string());
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    Reply { status: StatusCode::OK, headers, body: Bytes::new(), age: Duration::ZERO, stale: Some(stale) }
}

fn of_manifest(question: &Question, manifest: &ImageManifest, stale: Stale) -> Reply {
    let mut headers = HeaderMap::new();
    put(&mut headers, "docker-content-digest", &manifest.digest.to_string());
    put(&mut headers, CONTENT_TYPE.as_str(), &manifest.media_type);
    headers.insert(CONTENT_LENGTH, manifest.bytes.len().into());
    let body = if question.method == Method::HEAD { Bytes::new() } else { manifest.bytes.clone() };
    Reply { status: StatusCode::OK, headers, body, age: Duration::ZERO, stale: Some(stale) }
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
