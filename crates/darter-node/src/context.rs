//! What every part of an agent shares: its identity, its options, the rooms below it, and the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use darter_core::{BlobId, Clock, Moment, NodeId, Place};
use darter_metrics::Metrics;
use darter_origin::{Origin, Origins, Pauses, Requester, Upstreams};
use darter_store::{Disk, WallClock};

use crate::budget::ByteBudget;
use crate::error::FetchError;
use crate::let_downs::LetDowns;
use crate::options::Options;
use crate::setbacks::{Culprit, Setbacks};
use crate::transfer::journal::Archive;
use crate::transfer::manners::Manners;
use crate::transfer::meter::TierBytes;
use crate::transfer::turns::Turns;

/// Shared by every part of one agent.
pub(crate) struct Context {
    /// Who this agent is.
    pub(crate) me: NodeId,
    /// Where it stands.
    pub(crate) place: Place,
    /// What it was told.
    pub(crate) options: Options,
    /// Monotonic time, and the date.
    pub(crate) clock: Arc<dyn Clock>,
    /// The way to the store, where pieces are kept.
    pub(crate) disk: Disk,
    /// Where blobs come from.
    pub(crate) origins: AllOrigins,
    /// Which of them are being waited for.
    pub(crate) pauses: Pauses,
    /// Which registries are configured, and trusted.
    pub(crate) registries: Upstreams,
    /// Meters what is read from origins.
    pub(crate) origin_budget: Arc<ByteBudget>,
    /// Who reads origins when.
    pub(crate) origin_turns: Turns,
    /// Which origins are read by one connection.
    pub(crate) manners: Manners,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
    /// Bytes of pieces by how near the other agent is.
    pub(crate) tiers: TierBytes,
    /// How many transfers fetch.
    pub(crate) fetching: Fetchers,
    /// Content that was wrong of late.
    pub(crate) setbacks: Setbacks,
    /// Nodes that led a blob and let this agent down.
    pub(crate) let_downs: LetDowns,
    /// Explanations of ended transfers.
    pub(crate) archive: Archive,
    /// Whether decisions about who leads are kept.
    pub(crate) records: bool,
}

/// Where blobs come from, for each of those who ask. It matters who does: see [`Requester`].
pub(crate) struct AllOrigins {
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
    pub(crate) fn new(origins: &Origins) -> Self {
        let of = |requester| {
            let origins = origins.for_requester(requester);
            Patience { once: Arc::new(origins.once()), patient: Arc::new(origins) }
        };
        Self { here: of(Requester::Here), named: of(Requester::Named), elsewhere: of(Requester::Elsewhere) }
    }

    /// One origin for everybody, which is as patient as it is.
    pub(crate) fn only(origin: &Arc<dyn Origin>) -> Self {
        let of = || Patience { once: Arc::clone(origin), patient: Arc::clone(origin) };
        Self { here: of(), named: of(), elsewhere: of() }
    }

    fn of(&self, requester: Requester) -> &Patience {
        match requester {
            Requester::Here => &self.here,
            Requester::Named => &self.named,
            Requester::Elsewhere => &self.elsewhere,
        }
    }

    /// Tries again what may pass.
    pub(crate) fn patient(&self, requester: Requester) -> &dyn Origin {
        &*self.of(requester).patient
    }

    /// Tries once.
    pub(crate) fn once(&self, requester: Requester) -> &dyn Origin {
        &*self.of(requester).once
    }
}

/// Counts the transfers that fetch at a time: they share what one agent may have asked for.
#[derive(Debug, Default)]
pub(crate) struct Fetchers(Arc<AtomicU32>);

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

impl Context {
    /// The present moment.
    pub(crate) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// The date, in seconds since 1970: for what people and later runs read.
    pub(crate) fn unix(&self) -> u64 {
        self.clock.unix()
    }

    /// A blob was not what its digest says: remembers that for whoever asks next, and names who sent it.
    pub(crate) fn wrong_content(&self, key: BlobId, blob: BlobId, culprit: &Culprit, error: &FetchError) {
        let Culprit { reader, source: sender, from } = culprit;
        if self.setbacks.note(key, *reader, error, self.now()) {
            tracing::warn!(blob = %blob.short(), source = sender, from, "wrong content");
            self.setbacks.blame(from, blob, self.unix());
            self.metrics.wrong_content(sender);
        }
    }
}

/// What a store dates uses by.
pub(crate) fn dates(clock: &Arc<dyn Clock>) -> WallClock {
    let clock = Arc::clone(clock);
    Arc::new(move || clock.unix())
}
