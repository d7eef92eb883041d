//! The values that every part of an agent's engine shares: its identity, its options, the rooms below it, and the
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
use darter_swarm::Ahead;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::budget::ByteBudget;
use crate::error::FetchError;
use crate::expanding::{Expanding, Expansions};
use crate::let_downs::LetDowns;
use crate::profiles::Profiles;
use crate::setbacks::{Culprit, Setbacks, key_of};
use crate::thrown_away::ThrownAway;
use crate::transfer::doubts::Rechecks;
use crate::transfer::journal::Archive;
use crate::transfer::manners::Manners;
use crate::transfer::meter::TierBytes;
use crate::transfer::turns::Turns;

/// An agent's options for how blobs are had. Its other options are its own affair.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The agent's role in its fleet.
    pub role: Role,
    /// The directory of the pieces, the index and the records.
    pub data_dir: PathBuf,
    /// Seeds, as `HOST:PORT`.
    pub join: Vec<String>,
    /// Connections by which the origin of one blob is read at a time, at most.
    pub origin_connections: u8,
    /// How long an origin that fails is tried again without any progress.
    pub origin_patience: Duration,
    /// How long an origin may take to the first byte of an answer.
    pub origin_timeout: Duration,
    /// How long a download may get nothing at all from whoever leads it, before another one or the origin is asked, which has as long, or it fails; zero: for
    /// ever.
    pub stall_timeout: Duration,
    /// The whole content is hashed here, instead of believing the seed.
    pub verify_whole: bool,
    /// True if first touches of expanded layers are noted, told, merged and fetched.
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
    /// The way to the store, where pieces are kept.
    pub disk: Disk,
    /// The origins of blobs.
    pub origins: AllOrigins,
    /// Which of them are being waited for.
    pub pauses: Pauses,
    /// Which registries are configured, and trusted.
    pub registries: Upstreams,
    /// Layers that are being expanded.
    pub expansions: Arc<Expansions>,
    /// Meters what is read from origins.
    pub origin_budget: Arc<ByteBudget>,
    /// Turns to read origins.
    pub origin_turns: Turns,
    /// Which origins are read by one connection.
    pub manners: Manners,
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// Bytes of pieces by how near the other agent is.
    pub tiers: TierBytes,
    /// How many transfers fetch.
    pub fetching: Fetchers,
    /// Content that was wrong of late.
    pub setbacks: Setbacks,
    /// Explanations of what was thrown away for it.
    pub thrown_away: ThrownAway,
    /// Which of the doubts of others are looked into.
    pub rechecks: Rechecks,
    /// Agents that led a blob and let this one down.
    pub let_downs: LetDowns,
    /// Explanations of ended transfers.
    pub archive: Archive,
    /// Which parts of expanded layers are touched first.
    pub profiles: Profiles,
    /// The bytes that are being fetched ahead by these profiles.
    pub ahead: Mutex<Ahead>,
    /// Marked as changed when an expanded layer can't be had any more as it was opened.
    pub layers_failing: watch::Sender<()>,
    /// True if decisions about who leads are kept.
    pub records: bool,
}

/// The origins of blobs, one for each kind of [`Requester`]: addresses that a host may reach for itself it may not reach for another host.
pub struct AllOrigins {
    here: Patience,
    named: Patience,
    elsewhere: Patience,
}

/// An origin with patience of its own, and without.
struct Patience {
    patient: Arc<dyn Origin>,
    once: Arc<dyn Origin>,
}

impl AllOrigins {
    /// Each sees what it may.
    pub fn new(origins: &Origins) -> Self {
        let of = |requester| {
            let origins = origins.for_requester(requester);
            Patience { once: Arc::new(origins.once()), patient: Arc::new(origins) }
        };
        Self { here: of(Requester::Here), named: of(Requester::Named), elsewhere: of(Requester::Elsewhere) }
    }

    /// One origin for everybody, which is as patient as it is.
    pub fn only(origin: &Arc<dyn Origin>) -> Self {
        let of = || Patience { once: Arc::clone(origin), patient: Arc::clone(origin) };
        Self { here: of(), named: of(), elsewhere: of() }
    }

    /// These origins, and layers in their expanded form.
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

    /// Tries again what may pass.
    pub fn patient(&self, requester: Requester) -> &dyn Origin {
        &*self.of(requester).patient
    }

    /// Tries once.
    pub fn once(&self, requester: Requester) -> &dyn Origin {
        &*self.of(requester).once
    }
}

/// Counts the transfers that fetch at a time: they share what one agent may have asked for.
#[derive(Debug, Default)]
pub struct Fetchers(Arc<AtomicU32>);

/// One transfer that fetches, as long as this lives.
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

/// How long a seed may say that it waits for an origin, unless this agent would wait for longer itself: it may be configured to be more
/// patient.
const MAX_SEED_WAITING: Duration = Duration::from_secs(600);

impl EngineContext {
    /// How long an agent that was asked to lead may say that it waits: a node for as long as this agent would wait for an origin. One that
    /// says so for longer may say so for ever.
    pub(crate) fn most_waiting(&self, is_seed: bool) -> Duration {
        let patience = self.options.origin_patience;
        if is_seed { patience.max(MAX_SEED_WAITING) } else { patience }
    }

    /// True if an agent that led a source, for whoever shows these credentials, let this one down a short time ago: another try goes without it.
    pub fn was_let_down(&self, source: &Source, credentials: &Credentials) -> bool {
        self.let_downs.is_any(key_of(source, credentials), self.now())
    }

    /// This agent could not read a source's origin: leads that gave up and said the same were right. Sources are named as for
    /// [`setbacks`](key_of).
    pub(crate) fn origin_failed(&self, source: BlobId, error: &FetchError) {
        let blame = error.blame();
        if matches!(blame.fault, Fault::Origin | Fault::Network) && !blame.is_final() {
            self.let_downs.origin_failed(source);
        }
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// The date, in seconds since 1970: for what people and later runs read.
    pub fn unix(&self) -> u64 {
        self.clock.unix()
    }

    /// A blob was not what its digest says: remembers that for whoever asks next, and names who sent it.
    pub(crate) fn wrong_content(&self, key: BlobId, blob: BlobId, culprit: &Culprit, error: &FetchError) {
        let Culprit { reader, said_by, source: sender, from } = culprit;
        if self.setbacks.note(key, *reader, *said_by, error, self.now()) {
            tracing::warn!(blob = %blob.short(), source = sender, from, "wrong content");
            self.setbacks.blame(from, blob, self.unix());
            self.metrics.wrong_content(sender);
        }
    }
}

/// The clock by which a store dates uses.
pub fn dates(clock: &Arc<dyn Clock>) -> WallClock {
    let clock = Arc::clone(clock);
    Arc::new(move || clock.unix())
}
