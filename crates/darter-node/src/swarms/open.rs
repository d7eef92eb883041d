//! From a source to a transfer.
//!
//! A node asks the seed that rendezvous hashing names among those it is connected to, then the next; when none is
//! there or none can, the nodes settle among themselves who leads (see [`nodes`](super::nodes)). A seed leads.
//!
//! Leading begins with the question that keeps every answer honest: *is what is here still what the origin has?*
//! A blob with a digest in its name needs no answer. For a URL the origin is asked with the caller's own credentials,
//! on every use: unchanged means what is stored is good (and completed where it is partial), changed means another blob.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use darter_core::source::{Credentials, blob_of};
use darter_core::{BlobId, Manifest, NodeId, PieceLength, Source, Version, rendezvous};
use darter_origin::Reading;
use darter_store::{BlobInfo, SourceRecord, StoreError, StoredBlob};
use darter_swarm::Start;
use darter_wire::{Failure, Held, Message};
use parking_lot::Mutex;

use super::nodes::Settled;
use super::{Swarms, failure_of, refusal};
use crate::context::unix_now;
use crate::error::FetchError;
use crate::joins::{Joined, WAITING_EVERY};
use crate::options::Role;
use crate::transfer::reading::check_length;
use crate::transfer::{Beginning, Lead, Transfer};

/// A seed that took longer than this to say that an origin fails has been patient with it: the next seed would be as
/// patient, and so would this agent be.
pub(super) const PATIENT: Duration = Duration::from_secs(10);

/// How long a request waits for the first seed right after the agent's start.
const SEED_PATIENCE: Duration = Duration::from_secs(1);

/// One door for each source: who wants to open it waits for who is opening it. Callers with the same credentials share
/// what came of that, and all callers share that the origin could not be reached: a slow or dead origin is asked once.
#[derive(Default)]
pub(super) struct Doors(Mutex<HashMap<BlobId, Arc<Door>>>);

#[derive(Default)]
struct Door {
    /// How many came out so far.
    left: AtomicU64,
    /// Held by who is opening; what the last one found.
    opening: tokio::sync::Mutex<Option<Found>>,
}

/// What was behind a door.
struct Found {
    /// Whose credentials opened it.
    caller: [u8; 32],
    /// Weak: a door may stay in the table when nobody waits any more, and must not keep a blob in use.
    outcome: Result<Weak<Transfer>, FetchError>,
}

/// Inside of a door.
struct Opening<'a> {
    door: &'a Door,
    caller: [u8; 32],
    last: tokio::sync::MutexGuard<'a, Option<Found>>,
}

impl Doors {
    fn at(&self, key: BlobId) -> Arc<Door> {
        let mut doors = self.0.lock();
        // A door that nobody holds or waits for is only in the table.
        doors.retain(|_, door| Arc::strong_count(door) > 1);
        Arc::clone(doors.entry(key).or_default())
    }
}

impl Door {
    /// Waits for whoever is opening. `Err` is what they found, if it is for this caller too.
    async fn enter(&self, credentials: &Credentials) -> Result<Opening<'_>, Result<Arc<Transfer>, FetchError>> {
        let (caller, before) = (credentials.fingerprint(), self.left.load(Ordering::Relaxed));
        let last = self.opening.lock().await;
        let found = last.as_ref().filter(|_| self.left.load(Ordering::Relaxed) > before);
        match found {
            Some(Found { outcome: Err(error), .. }) => Err(Err(error.clone())),
            Some(Found { outcome: Ok(transfer), caller: opener }) if *opener == caller => match transfer.upgrade() {
                Some(transfer) => Err(Ok(transfer)),
                None => Ok(Opening { door: self, caller, last }),
            },
            _ => Ok(Opening { door: self, caller, last }),
        }
    }
}

impl Opening<'_> {
    /// Tells those who wait what was found: that the origin could not be reached, to all of them.
    fn leave(mut self, found: Result<Arc<Transfer>, FetchError>) -> Result<Arc<Transfer>, FetchError> {
        let is_for_others = match &found {
            Ok(_) => true,
            Err(FetchError::Origin(failure)) => failure.kind.retryable() && failure.status != Some(429),
            Err(_) => false,
        };
        *self.last = is_for_others
            .then(|| Found { caller: self.caller, outcome: found.as_ref().map(Arc::downgrade).map_err(Clone::clone) });
        self.door.left.fetch_add(1, Ordering::Relaxed);
        found
    }
}

impl Swarms {
    /// Opens a source for a program of this host. Goes on to its end when the caller goes away: what was begun with a
    /// lead is not left half done.
    pub(crate) async fn open(
        self: &Arc<Self>,
        source: Source,
        credentials: Credentials,
    ) -> Result<Arc<Transfer>, FetchError> {
        let swarms = Arc::clone(self);
        let opening = self.house.tasks.spawn(async move { swarms.open_to_the_end(source, credentials).await });
        opening.await.expect("opening does not panic")
    }

    async fn open_to_the_end(
        self: &Arc<Self>,
        source: Source,
        credentials: Credentials,
    ) -> Result<Arc<Transfer>, FetchError> {
        if self.is_draining() {
            return Err(FetchError::Draining);
        }
        let proven = self.is_proven(&source).await?;
        if proven && let Some(transfer) = self.open_here(&source).await? {
            return Ok(transfer);
        }
        let mut troubles = Vec::new();
        let mut patient = true;
        for seed in self.seeds_for(&source).await {
            let asked = tokio::time::Instant::now();
            match self.join(seed, &source, &credentials).await {
                Ok(transfer) => return Ok(transfer),
                Err(Refused::Final(error)) => return Err(error),
                Err(Refused::Origin(text)) if asked.elapsed() > PATIENT => {
                    troubles.push(format!("seed {}: {text}", self.house.fleet.address(seed)));
                    patient = false;
                    break;
                }
                Err(Refused::Trouble(text) | Refused::Origin(text)) => {
                    let addr = self.house.fleet.address(seed);
                    tracing::warn!(seed = addr, reason = text, "a seed can't lead; trying the next");
                    troubles.push(format!("seed {addr}: {text}"));
                }
            }
        }
        if !proven {
            return Err(FetchError::Unproven { name: source.to_string() });
        }
        let alone = self.house.context.options.role == Role::Node;
        if alone && patient {
            let found = self.open_by_nodes(&source, &credentials, &mut troubles).await?;
            match found {
                Settled::Transfer(transfer) => return Ok(transfer),
                Settled::NotHere => {}
                Settled::OriginAway => patient = false,
            }
        }
        let transfer = self.lead(&source, &credentials, patient).await?;
        self.check_given(&transfer, &source).await?;
        if alone && transfer.lead() == Lead::Me {
            self.house.context.metrics.back_to_source.inc();
            let why = if troubles.is_empty() { "no seed is connected".to_owned() } else { troubles.join("; ") };
            transfer.note(format!("reading the origin from here: {why}"));
        }
        Ok(transfer)
    }

    /// Opens a source for a member of its swarm, who is told while that takes long that somebody is at it.
    pub(super) async fn open_saying_so(
        self: &Arc<Self>,
        member: NodeId,
        request: u32,
        source: Source,
        credentials: Credentials,
    ) -> Result<Arc<Transfer>, Failure> {
        let mut opening = Box::pin(self.open_for_member(member, source, credentials));
        loop {
            if let Ok(opened) = tokio::time::timeout(WAITING_EVERY, &mut opening).await {
                return opened;
            }
            self.house.fleet.say(member, &Message::Waiting { request });
        }
    }

    /// Opens a source for a member of its swarm.
    pub(super) async fn open_for_member(
        self: &Arc<Self>,
        member: NodeId,
        source: Source,
        credentials: Credentials,
    ) -> Result<Arc<Transfer>, Failure> {
        if self.is_draining() {
            return Err(refusal("the seed is shutting down"));
        }
        self.prove(&source, &credentials).await.map_err(|error| failure_of(&error))?;
        if let Some(transfer) = self.open_here(&source).await.map_err(|error| failure_of(&error))? {
            return Ok(transfer);
        }
        let transfer = match self.house.context.options.role {
            Role::Node => self.open_as_node(member, &source, &credentials).await?,
            _ => self.lead(&source, &credentials, true).await.map_err(|error| failure_of(&error))?,
        };
        self.check_given(&transfer, &source).await.map_err(|error| failure_of(&error))?;
        tracing::debug!(blob = %transfer.blob.short(), member = %member.short(), "leading for a member");
        Ok(transfer)
    }

    /// What needs no question to anybody: content named by its digest in a registry, under way or all here. Whether
    /// the caller may have it was decided by who called (see the mirror's grants).
    async fn open_here(self: &Arc<Self>, source: &Source) -> Result<Option<Arc<Transfer>>, FetchError> {
        let Source::Registry { digest, .. } = source else { return Ok(None) };
        let blob = blob_of(digest);
        if let Some(transfer) = self.get(blob) {
            return Ok(Some(transfer));
        }
        let complete = self.stored(blob).await?.filter(|stored| stored.is_complete());
        Ok(complete.map(|stored| self.begin(source, Version::default(), Credentials::none(), stored)))
    }

    /// Connected seeds, best first. Right after the start, the first connection is waited for a little.
    async fn seeds_for(&self, source: &Source) -> Vec<NodeId> {
        let options = &self.house.context.options;
        if options.role != Role::Node || options.join.is_empty() {
            return Vec::new();
        }
        let key = source.key();
        let fleet = &self.house.fleet;
        let until = tokio::time::Instant::now() + SEED_PATIENCE;
        loop {
            let seeds = fleet.seeds();
            // Where everything given to join was tried and is a node, there is no seed to wait for.
            let no_seed = fleet.has_joined() && !fleet.peers().is_empty();
            let waited = tokio::time::Instant::now() >= until;
            let starting = self.house.context.now().as_micros() < 2 * SEED_PATIENCE.as_micros() as u64;
            if !seeds.is_empty() || no_seed || waited || !starting {
                return rendezvous::ranking(&key.0, &seeds);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn join(
        self: &Arc<Self>,
        seed: NodeId,
        source: &Source,
        credentials: &Credentials,
    ) -> Result<Arc<Transfer>, Refused> {
        let held = self.held_of(source).await?;
        let asked = self.house.joins.ask(&self.house.fleet, seed, source.clone(), credentials.clone(), held);
        let answer = match asked.await {
            Ok(answer) => answer,
            Err(refusal) => {
                let (text, origins) = (refusal.to_string(), refusal.is_of_the_origin());
                let otherwise = if origins { Refused::Origin(text) } else { Refused::Trouble(text) };
                return Err(refusal.final_word().map_or(otherwise, Refused::Final));
            }
        };
        let Some(joined) = answer else {
            // The blob's transfer was there, and follows the seed already.
            let known = self.known_blob(source).await?.and_then(|blob| self.get(blob));
            let transfer = known.ok_or_else(|| Refused::Trouble("the blob was removed meanwhile".to_owned()))?;
            transfer.renew_credentials(source, credentials.clone());
            self.proven(source);
            return Ok(transfer);
        };
        let blob = joined.blob;
        let entered = self.enter(seed, source, credentials, joined).await;
        if entered.is_err() {
            self.early.lock().remove(&blob);
        }
        Ok(entered?)
    }

    /// Makes the transfer that a lead let this agent into, and follows the lead.
    async fn enter(
        self: &Arc<Self>,
        seed: NodeId,
        source: &Source,
        credentials: &Credentials,
        joined: Joined,
    ) -> Result<Arc<Transfer>, FetchError> {
        let (blob, version) = (joined.blob, joined.version.clone());
        let manifest = Manifest::new(joined.piece_length, joined.length);
        let stored = self.create(blob, source, &version, manifest).await?;
        self.remember(source, blob, &version);
        let beginning = Beginning { source: source.clone(), version, credentials: credentials.clone(), stored };
        Ok(self.register(Transfer::begin(&self.house, beginning), Some((seed, joined))))
    }

    /// Leads the swarm of a source: from what is stored, from what nodes hold, and from the origin, which is asked once
    /// only unless this agent is to be `patient`.
    pub(super) async fn lead(
        self: &Arc<Self>,
        source: &Source,
        credentials: &Credentials,
        patient: bool,
    ) -> Result<Arc<Transfer>, FetchError> {
        // Without the door: callers of what is known need not wait for each other's questions to the origin.
        if let Some(transfer) = self.lead_known(source, credentials).await? {
            return Ok(transfer);
        }
        let door = self.opening.at(source.key());
        let opening = match door.enter(credentials).await {
            Ok(opening) => opening,
            Err(found) => return found,
        };
        if let Some(transfer) = self.lead_known(source, credentials).await? {
            return Ok(transfer);
        }
        if let Some(transfer) = self.lead_from_holders(source, credentials).await? {
            return Ok(transfer);
        }
        tracing::debug!(%source, "reading the origin");
        let context = &self.house.context;
        let origin = if patient { &context.origin } else { &context.origin_once };
        let led = match origin.read(source, credentials, None, None).await {
            Ok(reading) => self.lead_reading(source, credentials, reading).await,
            Err(error) => Err(error.into()),
        };
        opening.leave(led)
    }

    /// Leads what is under way or stored, if it is still what the origin has.
    async fn lead_known(
        self: &Arc<Self>,
        source: &Source,
        credentials: &Credentials,
    ) -> Result<Option<Arc<Transfer>>, FetchError> {
        let known = match source.digest() {
            Some(digest) => Some((blob_of(&digest), None)),
            None => self.recall(source).await?.map(|record| (record.blob, Some(record.version))),
        };
        let Some((blob, version)) = known else { return Ok(None) };
        if self.get(blob).is_none() && self.stored(blob).await?.is_none() {
            return Ok(None);
        }
        if !self.still_good(source, credentials, blob, version).await? {
            return Ok(None);
        }
        let transfer = self.open_stored(blob, source, credentials).await?;
        if let Some(transfer) = &transfer {
            transfer.renew_credentials(source, credentials.clone());
        }
        Ok(transfer)
    }

    /// Whether what is known of a source holds; asks the origin where only it can tell.
    pub(super) async fn still_good(
        &self,
        source: &Source,
        credentials: &Credentials,
        blob: BlobId,
        version: Option<Version>,
    ) -> Result<bool, FetchError> {
        if matches!(source, Source::Registry { .. }) {
            return Ok(true);
        }
        // Content of unknown version that is under way is shared by those who come meanwhile, not by later ones.
        let under_way = self.get(blob).is_some_and(|transfer| !transfer.is_complete());
        let version = version.unwrap_or_default();
        if version.nonce.is_some() && !under_way {
            return Ok(false);
        }
        let stat = self.house.context.origin.stat(source, credentials, Some(&version)).await?;
        Ok(stat.unchanged || version.nonce.is_some() || source.digest().is_some())
    }

    async fn lead_reading(
        self: &Arc<Self>,
        source: &Source,
        credentials: &Credentials,
        reading: Reading,
    ) -> Result<Arc<Transfer>, FetchError> {
        if let Some(length) = reading.length {
            check_length(source, PieceLength::for_blob(length), length)?;
        }
        let mut version = reading.version.clone();
        if source.digest().is_none() && !version.has_validator() {
            version.nonce = Some(fresh_nonce());
        }
        let blob = source.blob(&version);
        if let Some(transfer) = self.get(blob) {
            return Ok(transfer);
        }
        let piece_length = reading.length.map_or(PieceLength::UNKNOWN_BLOB, PieceLength::for_blob);
        let manifest = Manifest::new(piece_length, reading.length);
        let stored = self.create(blob, source, &version, manifest).await?;
        if !matches!(source, Source::Registry { .. }) {
            self.remember(source, blob, &version);
        }
        let transfer = self.begin(source, version, credentials.clone(), stored);
        transfer.lead_it(Start::Fresh, Some(reading));
        Ok(transfer)
    }

    /// A transfer of what is under way or stored, led by this agent if nobody leads it. A new one reads the origin with
    /// these credentials.
    async fn open_stored(
        self: &Arc<Self>,
        blob: BlobId,
        source: &Source,
        credentials: &Credentials,
    ) -> Result<Option<Arc<Transfer>>, FetchError> {
        if let Some(transfer) = self.get(blob) {
            return Ok(Some(transfer));
        }
        let Some(stored) = self.stored(blob).await?.filter(|stored| stored.length().is_some()) else { return Ok(None) };
        let version = stored.info().version;
        let transfer = self.begin(source, version, credentials.clone(), stored);
        if transfer.lead() == Lead::Nobody && !transfer.is_complete() {
            // Members of the swarm that was may come back with what they hold.
            let alone = self.house.context.options.role == Role::Embedded;
            transfer.lead_it(if alone { Start::Fresh } else { Start::TakeOver }, None);
        }
        Ok(Some(transfer))
    }

    pub(super) fn begin(
        &self,
        source: &Source,
        version: Version,
        credentials: Credentials,
        stored: Arc<dyn StoredBlob>,
    ) -> Arc<Transfer> {
        let beginning = Beginning { source: source.clone(), version, credentials, stored };
        self.register(Transfer::begin(&self.house, beginning), None)
    }

    /// The blob that a source is, or was when it was last read.
    pub(super) async fn known_blob(&self, source: &Source) -> Result<Option<BlobId>, FetchError> {
        match source.digest() {
            Some(digest) => Ok(Some(blob_of(&digest))),
            None => Ok(self.recall(source).await?.map(|record| record.blob)),
        }
    }

    async fn held_of(&self, source: &Source) -> Result<Option<Held>, FetchError> {
        let Some(blob) = self.known_blob(source).await? else { return Ok(None) };
        let stored = self.stored(blob).await?;
        Ok(stored.map(|stored| Held { blob, pieces: stored.held() }).filter(|held| !held.pieces.is_empty()))
    }

    pub(super) async fn stored(&self, blob: BlobId) -> Result<Option<Arc<dyn StoredBlob>>, FetchError> {
        let store = Arc::clone(&self.house.context.store);
        if store.is_absent(blob) {
            return Ok(None);
        }
        let opened = tokio::task::spawn_blocking(move || store.open(blob)).await;
        Ok(opened.expect("opening does not panic")?)
    }

    pub(super) async fn create(
        &self,
        blob: BlobId,
        source: &Source,
        version: &Version,
        manifest: Manifest,
    ) -> Result<Arc<dyn StoredBlob>, FetchError> {
        let info = BlobInfo {
            name: source.to_string(),
            digest: source.digest(),
            version: version.clone(),
            created: unix_now(),
        };
        let store = Arc::clone(&self.house.context.store);
        let created = tokio::task::spawn_blocking(move || {
            match store.open_or_create(blob, info.clone(), manifest.clone()) {
                // What is left of an earlier try was cut differently, and is worth less than the swarm's way.
                Err(StoreError::OtherPieces { .. } | StoreError::Manifest { .. }) => {
                    if let Some(stored) = store.open(blob)? {
                        stored.discard()?;
                    }
                    store.open_or_create(blob, info, manifest)
                }
                other => other,
            }
        });
        Ok(created.await.expect("creating does not panic")?)
    }

    pub(crate) async fn recall(&self, source: &Source) -> Result<Option<SourceRecord>, FetchError> {
        self.recall_key(source.key()).await
    }

    pub(super) async fn recall_key(&self, key: BlobId) -> Result<Option<SourceRecord>, FetchError> {
        let store = Arc::clone(&self.house.context.store);
        let recalled = tokio::task::spawn_blocking(move || store.recall_source(key)).await;
        Ok(recalled.expect("recalling does not panic")?)
    }

    pub(super) fn remember(&self, source: &Source, blob: BlobId, version: &Version) {
        let record = SourceRecord { blob, version: version.clone(), checked: unix_now() };
        self.house.context.store.remember_source(source.key(), record);
    }
}

/// Why a seed did not let this agent in.
pub(super) enum Refused {
    /// The origin's word: nobody else would say otherwise.
    Final(FetchError),
    /// The seed could not read the origin.
    Origin(String),
    /// The seed's own trouble.
    Trouble(String),
}

impl From<FetchError> for Refused {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Withdrawn { reason, .. } => Self::Trouble(reason),
            other => Self::Final(other),
        }
    }
}

/// A number that no other reading of an origin without validators has.
fn fresh_nonce() -> u64 {
    let mut bytes = [0; 8];
    // Early in a host's life the pool may not answer; the time then tells readings apart.
    match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(8) => u64::from_le_bytes(bytes),
        _ => unix_now(),
    }
}
