//! The values that every part of an agent's engine shares: its identity, its options, the crates that it uses, and the
//! clock.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use darter_api::Role;
use darter_core::source::Credentials;
use darter_core::{Blamed as _, BlobId, Clock, Fault, Moment, NodeId, Place, Source};
use darter_metrics::Metrics;
use darter_origin::{Origin, Origins, Pauses, Requester, Upstreams};
use darter_store::{Disk, WallClock};
use darter_swarm::{Ahead, LetDowns};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::budget::ByteBudget;
use crate::error::FetchError;
use crate::expanding::{Expanding, Expansions};
use crate::packing::PackedPieces;
use crate::profiles::Profiles;
use crate::setbacks::{Culprit, Setbacks, key_of};
use crate::thrown_away::ThrownAway;
use crate::transfer::journal::Archive;
use crate::transfer::manners::Manners;
use crate::transfer::meter::TierBytes;
use crate::transfer::rechecks::Rechecks;
use crate::transfer::turns::Turns;

/// An agent's options for how blobs are fetched. Its other options do not matter to the engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The agent's role in its fleet.
    pub role: Role,
    /// The directory of the pieces, the index and the records.
    pub data_dir: PathBuf,
    /// Seeds, as `HOST:PORT`.
    pub join: Vec<String>,
    /// Most connections by which the origin of one blob is read at a time.
    pub origin_connections: u8,
    /// How long an origin that fails is retried without any progress.
    pub origin_patience: Duration,
    /// How long an origin may take until the first byte of an answer.
    pub origin_timeout: Duration,
    /// How long a download may receive nothing from its lead before another lead or the origin is asked, which gets as long before the download fails; zero for
    /// no limit.
    pub stall_timeout: Duration,
    /// True to hash the whole content here, instead of trusting the seed's check.
    pub verify_whole: bool,
    /// True to record, exchange, merge and use the profiles of expanded layers: which parts are read first.
    pub profiles: bool,
}

/// Shared by every part of one agent.
pub struct EngineContext {
    /// The id of this agent.
    pub me: NodeId,
    /// The place of this agent: rack, zone and region.
    pub place: Place,
    /// The agent's options.
    pub options: EngineOptions,
    /// Monotonic time, and the date.
    pub clock: Arc<dyn Clock>,
    /// The store, where pieces are kept.
    pub disk: Disk,
    /// The origins of blobs.
    pub origins: AllOrigins,
    /// The origins that are being waited for.
    pub pauses: Pauses,
    /// The configured registries, and which of them are trusted.
    pub registries: Upstreams,
    /// Layers that are being expanded.
    pub expansions: Arc<Expansions>,
    /// Limits the rate of reading from origins.
    pub origin_budget: Arc<ByteBudget>,
    /// Turns for reading origins.
    pub origin_turns: Turns,
    /// Which origins are to be read by one connection.
    pub manners: Manners,
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// Bytes of pieces by the distance of the other agent.
    pub tiers: TierBytes,
    /// How many transfers are fetching.
    pub fetching: Fetchers,
    /// Recent wrong content.
    pub setbacks: Setbacks,
    /// Explanations of blobs that were thrown away because of it.
    pub thrown_away: ThrownAway,
    /// The other agents' doubts that are being examined.
    pub rechecks: Rechecks,
    /// Agents that led a blob and gave nothing.
    pub let_downs: Mutex<LetDowns>,
    /// Explanations of ended transfers.
    pub archive: Archive,
    /// The profiles of expanded layers: which parts are read first.
    pub profiles: Profiles,
    /// Pieces of expanded layers, packed for the wire.
    pub packed: Arc<PackedPieces>,
    /// How many bytes are being prefetched by these profiles.
    pub ahead: Mutex<Ahead>,
    /// Notified when an expanded layer can no longer be had as it was opened.
    pub layers_failing: watch::Sender<()>,
    /// True to record decisions about who leads.
    pub records: bool,
}

/// The origins of blobs, for each kind of [`Requester`]: a host must not reach, for another host, addresses that only it may reach for itself.
pub struct AllOrigins {
    here: Patience,
    named: Patience,
    elsewhere: Patience,
}

/// An origin with retries, and the same without.
struct Patience {
    patient: Arc<dyn Origin>,
    once: Arc<dyn Origin>,
}

impl AllOrigins {
    /// Each kind of requester reaches only what it may.
    pub fn new(origins: &Origins) -> Self {
        let of = |requester| {
            let origins = origins.for_requester(requester);
            Patience { once: Arc::new(origins.once()), patient: Arc::new(origins) }
        };
        Self { here: of(Requester::Here), named: of(Requester::Named), elsewhere: of(Requester::Elsewhere) }
    }

    /// The same origin for every requester, with that origin's own retries.
    pub fn only(origin: &Arc<dyn Origin>) -> Self {
        let of = || Patience { once: Arc::clone(origin), patient: Arc::clone(origin) };
        Self { here: of(), named: of(), elsewhere: of() }
    }

    /// These origins, extended by layers in their expanded form.
    #[must_use]
    pub fn expanding(self, expansions: &Arc<Expansions>) -> Self {
        let with = |Patience { patient, once }, requester| {
            let origin =
                |origin| Arc::new(Expanding::new(origin, Arc::clone(expansions), requester)) as Arc<dyn Origin>;
            Patience { patient: origin(patient), once: origin(once) }
        };
        Self {
            here: with(self.here, Requester::Here),
            named: with(self.named, Requester::Named),
            elsewhere: with(self.elsewhere, Requester::Elsewhere),
        }
    }

    fn of(&self, requester: Requester) -> &Patience {
        match requester {
            Requester::Here => &self.here,
            Requester::Named => &self.named,
            Requester::Elsewhere => &self.elsewhere,
        }
    }

    /// The origin that retries temporary failures.
    pub fn patient(&self, requester: Requester) -> &dyn Origin {
        &*self.of(requester).patient
    }

    /// The origin that tries once.
    pub fn once(&self, requester: Requester) -> &dyn Origin {
        &*self.of(requester).once
    }
}

/// Counts the transfers that fetch at the same time: they share the limit on requests of one agent.
#[derive(Debug, Default)]
pub struct Fetchers(Arc<AtomicU32>);

/// Counts one transfer that fetches, until dropped.
#[derive(Debug)]
pub(crate) struct Fetching(Arc<AtomicU32>);

impl Fetchers {
    pub(crate) fn enter(&self) -> Fetching {
        self.0.fetch_add(1, Ordering::Relaxed);
        Fetching(Arc::clone(&self.0))
    }

    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a seed may keep saying that it waits for an origin, unless this agent's own patience is longer: the seed may be configured with
/// more patience.
const MAX_SEED_WAITING: Duration = Duration::from_secs(600);

impl EngineContext {
    /// How long an agent that was asked to lead may keep saying that it waits: a node, as long as this agent itself would wait for an origin. A node that
    /// says so for longer might never stop.
    pub(crate) fn most_waiting(&self, is_seed: bool) -> Duration {
        let patience = self.options.origin_patience;
        if is_seed { patience.max(MAX_SEED_WAITING) } else { patience }
    }

    /// True if an agent that led this source, for a caller with these credentials, recently gave nothing: the next try goes without it.
    pub fn was_let_down(&self, source: &Source, credentials: &Credentials) -> bool {
        self.let_downs.lock().is_any(key_of(source, credentials), self.now())
    }

    /// No node is followed for this source, for a caller with these credentials, for a while.
    pub(crate) fn follow_no_node(&self, source: &Source, credentials: &Credentials) {
        self.let_downs.lock().follow_no_node(key_of(source, credentials), self.now());
    }

    /// This agent could not read a source's origin: leads that gave up and said the same told the truth. Sources are named as for
    /// [`setbacks`](key_of).
    pub(crate) fn origin_failed(&self, source: BlobId, error: &FetchError) {
        let blame = error.blame();
        if matches!(blame.fault, Fault::Origin | Fault::Network) && !blame.is_final() {
            self.let_downs.lock().origin_failed(source);
        }
    }

    /// The current time of the monotonic clock.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// The date, in seconds since 1970, for users and later runs.
    pub fn unix(&self) -> u64 {
        self.clock.unix()
    }

    /// True if what others gave of a source was wrong a short time ago: it is given to nobody before all of it is here.
    pub fn was_wrong(&self, source: &Source, credentials: &Credentials) -> bool {
        self.setbacks.has(key_of(source, credentials), self.now())
    }

    /// A blob did not match its digest: remembers that for later requests, and logs who sent it.
    pub(crate) fn wrong_content(&self, key: BlobId, blob: BlobId, culprit: &Culprit, error: &FetchError) {
        let Culprit { reader, said_by, source: sender, from } = culprit;
        if self.setbacks.note(key, *reader, *said_by, error, self.now()) {
            tracing::warn!(blob = %blob.short(), source = sender, from, "wrong content");
            self.setbacks.blame(from, blob, self.unix());
            self.metrics.wrong_content(sender);
        }
    }
}

/// The clock by which a store dates the use of blobs.
pub fn dates(clock: &Arc<dyn Clock>) -> WallClock {
    let clock = Arc::clone(clock);
    Arc::new(move || clock.unix())
}
