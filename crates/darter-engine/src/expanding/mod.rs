//! Layers of images in their expanded form, as an origin on top of one that reads registries.
//!
//! The lead of an expanded layer's swarm reads the layer from its registry, once and from its first byte to its last. While the layer arrives, it is
//! decompressed, and its expanded form is passed on at once: into the lead's store, where alone it is written, and from there to the members. So the fleet
//! has the tar almost as soon as the lead has read the layer. If the expanded form does not fit, that is found when the store has no more
//! space.
//! | file | what lives there |
//! |---|---|
//! | `origin` | the origin: streams, and the beginnings of files, which are made last |
//! | `reading` | reads the stored (compressed) layer: from this host's store, through its own blob, or from its registry |
//! | `blob` | the layer's own blob, which is shared with a pull in progress |
//! | `making` | decompresses and checks the layer, on a disk thread |
//! | `work` | turns for that |
//! | `lines` | how many layers of a repository are read at a time |
//! | `refusals` | layers that are not read again for a while, and why |
//!
//! Such an origin does not know the length until everything is read, and serves no ranges except the file's beginning, whose superblock is made
//! last: see [`Source::is_headed_last`]. If a part is missing later, the whole layer is read again, and the parts that are here are compared.
//!
//! The layer is fetched as for any pull, and shared with pulls: if a pull and the expanded form are wanted at the same time, or shortly after each other, the
//! registry is read once. A layer that is completely stored here is not read from its registry, if it may be served for that registry (`swarms/proof.rs`): anybody can
//! run a registry that claims to have every digest. A copy is compared with the layer's digest before it is expanded: a damaged copy is left
//! alone, a wrong one is thrown away, and the registry is read in the same try.
//!
//! Invariants: a file's length, its metadata and its beginning are passed on only once the digest of the layer and that of its tar were found right,
//! so that nothing of the file can be read before; that a layer can't be expressed as EROFS is reported only for the right bytes. Memory is bounded
//! by [`limits`](darter_image::limits), the file's beginning, `MAX_CHUNKS` chunks and `MAX_MADE` pieces for each of `MAX_BEGUN` layers, of which `MAX_AT_WORK` are
//! decompressed at a time: a layer that waits for its origin, or for the taker of its expanded form, waits without a turn.
//!
//! Not decided here: who may read the expanded form. Whether a caller may read the layer is decided before.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use darter_core::recent::Recent;
use darter_core::source::{Credentials, blob_of};
use darter_core::{BlobId, Clock, Digest, ExpandedLayer, Moment, PieceLength, Source, Version, in_full};
use darter_image::{FORMAT, LayerDigests};
use darter_metrics::Metrics;
use darter_origin::{ErrorKind, Origin, OriginError, Pauses, Requester, Upstreams};
use darter_store::{Disk, SourceRecord, size};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use self::blob::{Lent, OpensLayer};
use self::lines::Lines;
use self::making::Sink;
use self::reading::Outlet;
use self::refusals::Refusals;
use self::work::Work;
use crate::budget::ByteBudget;
use crate::error::FetchError;
use crate::transfer::steps::STEP_COUNTS_FOR;

pub(crate) mod blob;
mod lines;
mod making;
mod origin;
mod reading;
mod refusals;
#[cfg(test)]
mod tests;
mod work;

pub use self::origin::Expanding;

/// How many layers are decompressed at a time. More would not finish sooner.
const MAX_AT_WORK: usize = 2;

/// How many layers are in progress at a time; most of them wait. Each may need the memory of a large window and a large tree.
const MAX_BEGUN: usize = 16;

/// Most chunks of a layer that have arrived and are not decompressed yet.
const MAX_CHUNKS: usize = 8;

/// Most pieces of a file that are made and not taken yet.
const MAX_MADE: usize = 2;

/// The length of a file's beginning, which is made last: its first piece.
pub const HEAD: u64 = PieceLength::UNKNOWN_BLOB.bytes();

/// How many bytes of files' beginnings are remembered: each is requested right after the rest.
const MAX_HEADS: u64 = 32 << 20;

/// For how many layers something is remembered.
const MAX_REMEMBERED: u64 = 1024;

/// How often waiting readers are told that a layer is being expanded.
const TELL_EVERY: Duration = Duration::from_secs(3600);

/// Layers that are being expanded.
pub struct Expansions {
    data_dir: PathBuf,
    disk: Disk,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    budget: Arc<ByteBudget>,
    pauses: Pauses,
    registries: Upstreams,
    patience: Duration,
    refusals: Refusals,
    /// The beginnings of files, by [`key_of`].
    heads: Mutex<Recent<BlobId, Head>>,
    /// The text about each layer's reading, for `darter explain`.
    told: Mutex<Recent<BlobId, String>>,
    /// When a layer that is being read, or waits for its turn, last made progress.
    moved: Mutex<Recent<BlobId, Moment>>,
    /// The lengths of layers according to manifests, by the layers' own blobs: for each the longest that was named.
    sizes: Mutex<Recent<BlobId, u64>>,
    lines: Lines,
    begun: Semaphore,
    work: Work,
    wrong_copies: OnceLock<ThrowsAway>,
    opens_layer: OnceLock<OpensLayer>,
    /// Copies of layers that are here only for their expanded form.
    pub(crate) lent: Lent,
}

/// The taker of an expanded form.
struct Taker {
    give: mpsc::Sender<Result<Bytes, OriginError>>,
    /// The requester for whom the registry is asked.
    requester: Requester,
}

/// A function that throws a blob away whose content does not match its digest, and tells its members, if it has a transfer here. False if it has none.
type ThrowsAway = Box<dyn Fn(BlobId, &FetchError) -> bool + Send + Sync>;

/// The beginning of a file, or all of a short one, and the length of the file.
#[derive(Clone)]
struct Head {
    bytes: Bytes,
    length: u64,
}

/// What [`Expansions`] is made of.
pub struct ExpansionsOptions {
    /// The store's directory, for messages.
    pub data_dir: PathBuf,
    /// The store; layers that it holds need not be read elsewhere.
    pub disk: Disk,
    /// Measures how long an origin has sent nothing.
    pub clock: Arc<dyn Clock>,
    /// Counts what is read.
    pub metrics: Arc<Metrics>,
    /// Limits the rate of reading.
    pub budget: Arc<ByteBudget>,
    /// Tells users what is waited for.
    pub pauses: Pauses,
    /// Says which registries are trusted.
    pub registries: Upstreams,
    /// How long an origin that fails is retried without any progress.
    pub patience: Duration,
}

impl Expansions {
    /// No layers are being expanded yet.
    pub fn new(options: ExpansionsOptions) -> Arc<Self> {
        let ExpansionsOptions { data_dir, disk, clock, metrics, budget, pauses, registries, patience } = options;
        Arc::new(Self {
            data_dir,
            disk,
            lines: Lines::new(Arc::clone(&clock)),
            clock,
            metrics,
            budget,
            pauses,
            registries,
            patience,
            refusals: Refusals::default(),
            heads: Mutex::new(Recent::new(MAX_HEADS)),
            told: Mutex::new(Recent::new(MAX_REMEMBERED)),
            moved: Mutex::new(Recent::new(MAX_REMEMBERED)),
            sizes: Mutex::new(Recent::new(MAX_REMEMBERED)),
            begun: Semaphore::new(MAX_BEGUN),
            work: Work::new(MAX_AT_WORK),
            wrong_copies: OnceLock::new(),
            opens_layer: OnceLock::new(),
            lent: Lent::default(),
        })
    }

    /// Sets the function that throws wrong copies away, which other agents may have got from here. To be called once.
    pub(crate) fn throws_away(&self, throws: impl Fn(BlobId, &FetchError) -> bool + Send + Sync + 'static) {
        let is_first = self.wrong_copies.set(Box::new(throws)).is_ok();
        debug_assert!(is_first, "one agent's blobs");
    }

    /// A manifest names the length of a layer: no more than that is read. If manifests differ, the longest length counts, since anybody
    /// can write a manifest. Returns the length that counted before.
    pub fn names_size(&self, layer: &Digest, size: u64) -> Option<u64> {
        let mut sizes = self.sizes.lock();
        let key = blob_of(layer);
        let before = sizes.get(&key).copied();
        sizes.insert(key, before.map_or(size, |before| size.max(before)), 1);
        before
    }

    /// The caller that named `size` may not read the layer: the length `before` counts again, unless somebody else has named a longer one since.
    pub(crate) fn takes_size_back(&self, layer: &Digest, size: u64, before: Option<u64>) {
        let mut sizes = self.sizes.lock();
        let key = blob_of(layer);
        if before.is_some_and(|before| before >= size) || sizes.get(&key) != Some(&size) {
            return;
        }
        match before {
            Some(before) => drop(sizes.insert(key, before, 1)),
            None => drop(sizes.remove(&key)),
        }
    }

    /// The length of the layer to be expanded, according to the manifests known here.
    pub(crate) fn named_size(&self, source: &Source) -> Option<u64> {
        let Source::Expanded(layer) = source else { return None };
        self.sizes.lock().get(&blob_of(&layer.digest)).copied()
    }

    /// The text about a layer's reading, for `darter explain`.
    pub(crate) fn told(&self, layer: &ExpandedLayer) -> Option<String> {
        self.told.lock().get(&key_of(layer)).cloned()
    }

    /// Notes in the store's index that a registry's layer was read, and unpacks into the tar with the expected diff id. The expanded layer is in
    /// the store, and the note is removed with it.
    pub(crate) fn note_unpacked(&self, layer: &ExpandedLayer) {
        let (version, checked) = (Version::default(), self.clock.unix());
        let record = SourceRecord { blob: layer.blob(), version, checked, fetched: None };
        self.disk.remember_source(layer.pair(), record.clone());
        self.disk.remember_source(key_of(layer), record);
    }

    /// The store had no space for an expanded layer: it is not read again for a while, which grows each time. Another agent may have space.
    pub(crate) fn has_no_room(&self, layer: &ExpandedLayer) -> OriginError {
        let usage = self.disk.usage();
        let limit = match (usage.quota, usage.disk_free) {
            (Some(quota), _) if quota <= usage.capacity => {
                format!("{} of {} (--quota) are in use", size(usage.used), size(quota))
            }
            (_, Some(free)) => format!("{} of its file system are free, some of it for others (--reserve)", size(free)),
            _ => format!("{} are in use", size(usage.used)),
        };
        let (layer_name, place) = (layer.stored(), self.data_dir.display());
        let text = format!("no room to expand {layer_name} in {place}: {limit}; make some, or give another --data-dir");
        let error = OriginError::new(ErrorKind::OutOfReach, text);
        self.refusals.note(key_of(layer), &error, self.clock.now());
        error
    }

    /// True if there was recently no space here for the expanded form of a source.
    pub fn lacks_room(&self, source: &Source) -> bool {
        let Source::Expanded(layer) = source else { return false };
        let refusal = self.refusals.of(key_of(layer), self.clock.now());
        refusal.is_some_and(|failure| failure.kind == ErrorKind::OutOfReach)
    }

    /// Reads a layer to its end, and checks whether it unpacks into the expected tar. Keeps nothing.
    ///
    /// # Errors
    /// Why it can't be read, or is another layer.
    pub(crate) async fn check(
        self: &Arc<Self>,
        origin: &dyn Origin,
        layer: &ExpandedLayer,
        credentials: &Credentials,
    ) -> Result<(), OriginError> {
        self.make(origin, layer, credentials, None).await
    }

    /// Reads the layer, and passes on its expanded form except the beginning, which is remembered. Without a taker, the layer is read only to prove
    /// that it is there, or to make the beginning.
    async fn make(
        self: &Arc<Self>,
        origin: &dyn Origin,
        layer: &ExpandedLayer,
        credentials: &Credentials,
        taker: Option<Taker>,
    ) -> Result<(), OriginError> {
        if layer.format != FORMAT {
            let text = format!(
                "{layer} is wanted in format {} and this agent makes format {FORMAT}: upgrade the older of the two",
                layer.format
            );
            return Err(OriginError::new(ErrorKind::OutOfReach, text));
        }
        if let Some(failure) = self.refusals.of(key_of(layer), self.clock.now()) {
            return Err(failure.into());
        }
        let source = Source::Expanded(layer.clone());
        let _told = self.pauses.begin(&source, "the layer is being read and expanded", TELL_EVERY);
        let moves = |key| self.has_moved(key, self.clock.now());
        let turn = async {
            let in_line = self.lines.enter(layer, key_of(layer), self.named_size(&source), moves).await;
            (in_line, tokio::time::timeout(self.patience, self.begun.acquire()).await)
        };
        let (in_line, turn) = tokio::select! {
            turn = turn => turn,
            // The other layers make progress.
            never = self.keep_moving(layer) => match never {},
        };
        let _begun = turn.map_err(|_| {
            let text = format!("{layer}: {MAX_BEGUN} other layers are being expanded here: ask again later");
            OriginError::new(ErrorKind::OutOfReach, text)
        })?;
        let requester = taker.as_ref().map(|taker| taker.requester);
        let stored = self.stored_form(origin, layer, credentials, requester).await?;
        let known = stored.is_hashed().then_some(layer.digest);
        let (feed, take) = mpsc::channel(MAX_CHUNKS);
        let reading = self.read_layer(origin, layer, credentials, stored, Outlet { feed, in_line: &in_line });
        let sink = Sink::new(taker.map(|taker| taker.give));
        let (read, made) = tokio::join!(reading, self.expand(layer, known, take, sink));
        // If the layer could not be read, the result of expanding it says nothing about it.
        read?;
        self.noted(layer, made)
    }

    /// Notes that the work on a layer made progress.
    fn note_move(&self, layer: &ExpandedLayer) {
        self.moved.lock().insert(key_of(layer), self.clock.now(), 1);
    }

    async fn keep_moving(&self, layer: &ExpandedLayer) -> std::convert::Infallible {
        loop {
            self.note_move(layer);
            tokio::time::sleep(STEP_COUNTS_FOR / 2).await;
        }
    }

    /// True if the work on a layer made progress recently, although nothing of its expanded form may have been passed on yet.
    pub(crate) fn moves(&self, layer: &ExpandedLayer, now: Moment) -> bool {
        self.has_moved(key_of(layer), now)
    }

    fn has_moved(&self, key: BlobId, now: Moment) -> bool {
        self.moved.lock().get(&key).is_some_and(|moved| now.since(*moved) < STEP_COUNTS_FOR)
    }

    /// Remembers the result of expanding a layer.
    fn noted(&self, layer: &ExpandedLayer, made: Result<(LayerDigests, Head), OriginError>) -> Result<(), OriginError> {
        let key = key_of(layer);
        match made {
            Ok((digests, head)) => {
                self.metrics.expanded_layers.inc();
                let (stored, tar) = (digests.stored_length, digests.tar_length);
                let told = format!("expanded here: {stored} bytes of {} are {tar} bytes of tar", layer.stored());
                tracing::info!(layer = %layer, stored, tar, "expanded a layer");
                self.told.lock().insert(key, told, 1);
                let weight = head.bytes.len() as u64;
                self.heads.lock().insert(key, head, weight);
                self.refusals.forget(key);
                Ok(())
            }
            Err(error) => {
                if self.refusals.note(key, &error, self.clock.now()) {
                    tracing::warn!(layer = %layer, error = %in_full(&error), "a layer could not be expanded");
                }
                Err(error)
            }
        }
    }
}

fn key_of(layer: &ExpandedLayer) -> BlobId {
    Source::Expanded(layer.clone()).record_key(&Credentials::none())
}
