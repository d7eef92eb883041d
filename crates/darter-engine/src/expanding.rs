//! Layers of images in their expanded form, as an origin on top of one that reads registries.
//!
//! Whoever leads the swarm of an expanded layer reads the layer from its registry, once and from its first byte to its last, decompresses
//! it while it comes and writes the file into the data directory, without a name: nothing is left of it when it is let go of, half a
//! minute after it was opened last and read no more, nor when the agent dies. Layer and tar are both checked before a byte of it goes on. From there on the lead reads the file as it reads any
//! origin, by ranges too, and its members never see the layer. A layer that is stored here whole is not read from its registry, if it may
//! be given for that registry (`swarms/proof.rs`): anybody may run one that says yes to every digest. A copy that is damaged is left
//! for the registry's.
//!
//! Invariants: nothing is given of a layer whose digest or whose tar's digest is not what was named, and only of the right bytes is it said
//! that they can't be expressed. Memory is bounded by
//! [`limits`](darter_image::limits) and the chunks in a queue of `MAX_CHUNKS`; `MAX_AT_A_TIME` layers are expanded at a time. What can't
//! be expressed is not read again for a while.
//!
//! Not decided here: who may have it. That is asked about the layer, before.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use darter_core::recent::Recent;
use darter_core::source::{Credentials, blob_of};
use darter_core::{BlobId, ByteRange, Clock, Digest, ExpandedLayer, Moment, Shown, Source, Version, in_full};
use darter_image::{FORMAT, LayerDigests, LayerError, expand_layer};
use darter_metrics::Metrics;
use darter_origin::{
    Body, ErrorKind, Origin, OriginError, OriginFailure, Pauses, Reading, RetryPolicy, Stat, Upstreams,
};
use darter_store::{Dir, Disk, StoredBlob};
use darter_wire::Budget as _;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore, mpsc};

use crate::budget::ByteBudget;
use crate::swarms::is_named_for;

/// Layers that are expanded at a time. Each may take what a large window and a large tree take; more would come no sooner.
const MAX_AT_A_TIME: usize = 2;

/// Chunks of a layer that came and were not decompressed yet.
const MAX_CHUNKS: usize = 8;

/// How much of the file is read at a time.
const CHUNK: u64 = 512 << 10;

/// How much the file system keeps free for others.
const MIN_FREE: u64 = 64 << 20;

/// How long a layer that turned out wrong is not read again; and one that can't be expressed, which stays so.
const WRONG_FOR: Duration = Duration::from_secs(30);
const UNMOUNTABLE_FOR: Duration = Duration::from_secs(600);

/// How long an expanded layer is kept after it was opened. Who reads it goes on elsewhere when a member waits for another part, and would
/// have it read and expanded again.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// Layers of which something is remembered.
const MAX_REMEMBERED: u64 = 1024;

/// How long whoever waits is told at a time that a layer is being expanded.
const TELL_EVERY: Duration = Duration::from_secs(3600);

/// Layers that are being expanded, and those that are read.
pub struct Expansions {
    data_dir: PathBuf,
    disk: Disk,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    budget: Arc<ByteBudget>,
    pauses: Pauses,
    registries: Upstreams,
    patience: Duration,
    /// Each with who reads it, by [`Source::record_key`].
    open: Mutex<HashMap<BlobId, Weak<Slot>>>,
    refusals: Mutex<Recent<BlobId, (OriginFailure, Moment)>>,
    /// What was read of which, for people.
    told: Mutex<Recent<BlobId, String>>,
    turns: Semaphore,
    /// Numbers the files for the moment in which they have a name.
    files: AtomicU64,
}

/// A layer that is expanded once, for whoever asks while somebody has it.
type Slot = OnceCell<Expansion>;

/// An expanded layer in a file of its own.
struct Expansion {
    file: Arc<File>,
    length: u64,
}

/// What expansions are made of.
pub struct ExpansionsOptions {
    /// Where the files are written.
    pub data_dir: PathBuf,
    /// Whose layers need not be read elsewhere.
    pub disk: Disk,
    /// Tells how long an origin has given nothing.
    pub clock: Arc<dyn Clock>,
    /// Counts what is read.
    pub metrics: Arc<Metrics>,
    /// Meters it.
    pub budget: Arc<ByteBudget>,
    /// Tell people what is waited for.
    pub pauses: Pauses,
    /// Which of the registries are trusted.
    pub registries: Upstreams,
    /// How long an origin that fails is tried again without any progress.
    pub patience: Duration,
}

impl Expansions {
    /// None yet.
    pub fn new(options: ExpansionsOptions) -> Arc<Self> {
        let ExpansionsOptions { data_dir, disk, clock, metrics, budget, pauses, registries, patience } = options;
        Arc::new(Self {
            data_dir,
            disk,
            clock,
            metrics,
            budget,
            pauses,
            registries,
            patience,
            open: Mutex::default(),
            refusals: Mutex::new(Recent::new(MAX_REMEMBERED)),
            told: Mutex::new(Recent::new(MAX_REMEMBERED)),
            turns: Semaphore::new(MAX_AT_A_TIME),
            files: AtomicU64::new(0),
        })
    }

    /// What was read to expand a layer, for `darter explain`.
    pub(crate) fn told(&self, layer: &ExpandedLayer) -> Option<String> {
        self.told.lock().get(&key_of(layer)).cloned()
    }

    /// Reads a layer to its end, and says whether it unpacks into its tar. Keeps nothing.
    ///
    /// # Errors
    /// Why it can't be read, or is another one.
    pub(crate) async fn check(
        self: &Arc<Self>,
        origin: &dyn Origin,
        layer: &ExpandedLayer,
        credentials: &Credentials,
    ) -> Result<(), OriginError> {
        self.make(origin, layer, credentials, None).await.map(drop)
    }

    /// The expanded layer with its length; it is made unless somebody reads it already.
    async fn of(
        self: &Arc<Self>,
        origin: &dyn Origin,
        layer: &ExpandedLayer,
        credentials: &Credentials,
    ) -> Result<(Arc<Slot>, u64), OriginError> {
        let key = key_of(layer);
        let slot = {
            let mut open = self.open.lock();
            open.retain(|_, slot| slot.strong_count() > 0);
            let known = open.get(&key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let slot = Arc::new(Slot::new());
                open.insert(key, Arc::downgrade(&slot));
                slot
            })
        };
        let expansion = slot
            .get_or_try_init(|| async {
                let number = self.files.fetch_add(1, Ordering::Relaxed);
                let data_dir = self.data_dir.clone();
                let file = self.disk.run(move || nameless(&data_dir, number)).await;
                let file = Arc::new(file.map_err(|error| self.no_room(layer, error))?);
                let length = self.make(origin, layer, credentials, Some(Arc::clone(&file))).await?;
                Ok::<_, OriginError>(Expansion { file, length })
            })
            .await?;
        let length = expansion.length;
        let kept = Arc::clone(&slot);
        tokio::spawn(async move {
            tokio::time::sleep(KEPT_FOR).await;
            drop(kept);
        });
        Ok((slot, length))
    }

    /// Reads the layer, and writes what it becomes into a file if there is one, else to prove that it is there; returns the file's length.
    async fn make(
        self: &Arc<Self>,
        origin: &dyn Origin,
        layer: &ExpandedLayer,
        credentials: &Credentials,
        file: Option<Arc<File>>,
    ) -> Result<u64, OriginError> {
        if layer.format != FORMAT {
            let text = format!(
                "{layer} is wanted in format {} and this agent makes format {FORMAT}: upgrade the older of the two",
                layer.format
            );
            return Err(OriginError::new(ErrorKind::OutOfReach, text));
        }
        if let Some((failure, until)) = self.refusals.lock().get(&key_of(layer)).cloned()
            && self.clock.now() < until
        {
            return Err(failure.into());
        }
        let source = Source::Expanded(layer.clone());
        let _told = self.pauses.begin(&source, "the layer is being read and expanded", TELL_EVERY);
        // Never closed.
        let _turn = self.turns.acquire().await;
        if let Some((stored, length)) = self.own_copy(origin, layer, credentials, file.is_none()).await {
            let (give, take) = mpsc::channel(MAX_CHUNKS);
            let given = self.give_stored(stored, length, layer, give);
            let (read, made) = tokio::join!(given, self.expand(layer, take, file.clone()));
            match read.and(made) {
                // This host is at fault, and the registry was not asked yet.
                Err(error) if matches!(error.kind(), ErrorKind::Io | ErrorKind::Contradicted) => {
                    let (blob, dir) = (blob_of(&layer.digest), self.data_dir.display());
                    let error = in_full(&error);
                    tracing::warn!(layer = %layer, blob = %blob.short(), data_dir = %dir, %error,
                        "the copy of a layer that is stored here is damaged: reading its registry");
                }
                made => return self.noted(layer, made),
            }
        }
        let (give, take) = mpsc::channel(MAX_CHUNKS);
        let reading = self.read_layer(origin, layer, credentials, give);
        let (read, made) = tokio::join!(reading, self.expand(layer, take, file));
        // Whatever is made of a layer that did not come is no word about it.
        read?;
        self.noted(layer, made)
    }

    /// Makes the file of what comes.
    async fn expand(
        self: &Arc<Self>,
        layer: &ExpandedLayer,
        take: mpsc::Receiver<Bytes>,
        file: Option<Arc<File>>,
    ) -> Result<(LayerDigests, u64), OriginError> {
        let made = {
            let (this, layer) = (Arc::clone(self), layer.clone());
            self.disk.run(move || this.write(&layer, take, file.as_deref()))
        };
        made.await.map_err(|error| error.told_of(layer))
    }

    /// Remembers what became of a layer, and returns the file's length.
    fn noted(&self, layer: &ExpandedLayer, made: Result<(LayerDigests, u64), OriginError>) -> Result<u64, OriginError> {
        match made {
            Ok((digests, length)) => {
                self.metrics.expanded_layers.inc();
                let (stored, tar) = (digests.stored_length, digests.tar_length);
                let told = format!("expanded here: {stored} bytes of {} are {tar} bytes of tar", layer.stored());
                tracing::info!(layer = %layer, stored, tar, "expanded a layer");
                self.told.lock().insert(key_of(layer), told, 1);
                Ok(length)
            }
            Err(error) => {
                let lasts = match error.kind() {
                    ErrorKind::Unmountable => Some(UNMOUNTABLE_FOR),
                    ErrorKind::Contradicted => Some(WRONG_FOR),
                    _ => None,
                };
                if let Some(lasts) = lasts {
                    tracing::warn!(layer = %layer, error = %in_full(&error), "a layer could not be expanded");
                    let until = self.clock.now() + lasts;
                    self.refusals.lock().insert(key_of(layer), (OriginFailure::from(&error), until), 1);
                }
                Err(error)
            }
        }
    }

    /// The layer as it is stored here whole, with its length, if it may be given for that registry: it came from there, or the operator
    /// trusts the registry and it has just said yes to these credentials. What is to prove that a registry has a layer is read from there,
    /// unless that is trusted.
    async fn own_copy(
        &self,
        origin: &dyn Origin,
        layer: &ExpandedLayer,
        credentials: &Credentials,
        is_proof: bool,
    ) -> Option<(Arc<dyn StoredBlob>, u64)> {
        let is_trusted = self.registries.at(&layer.registry).is_trusted();
        if is_proof && !is_trusted {
            return None;
        }
        let (source, blob) = (layer.stored(), blob_of(&layer.digest));
        let stored = self.disk.open(blob).await.ok().flatten().filter(|stored| stored.is_complete())?;
        let length = stored.length()?;
        let key = source.record_key(&Credentials::none());
        let is_proven = is_named_for(&*stored, &source)
            || self.disk.recall_source(key).await.ok().flatten().is_some_and(|record| record.blob == blob);
        if !is_proven {
            let stat = if is_trusted { origin.stat(&source, credentials, None).await.ok() } else { None };
            // Content of another length is something else, such as a login page.
            stat.filter(|stat| stat.version.length.is_none_or(|told| told == length))?;
        }
        Some((stored, length))
    }

    /// Gives the bytes of a layer as it is stored, and an empty chunk at its end.
    async fn read_layer(
        &self,
        origin: &dyn Origin,
        layer: &ExpandedLayer,
        credentials: &Credentials,
        give: mpsc::Sender<Bytes>,
    ) -> Result<(), OriginError> {
        let source = layer.stored();
        let policy = RetryPolicy::patient(self.patience);
        let (mut at, mut version, mut tries) = (0, None::<Version>, 0);
        let mut progress = self.clock.now();
        loop {
            let range = (at > 0).then(|| ByteRange::new(at, u64::MAX));
            let before = progress;
            let read = async {
                let reading = origin.read(&source, credentials, range, version.as_ref()).await?;
                let length = reading.length;
                version = Some(reading.version.clone());
                self.give_reading(reading, &source, (&mut at, &mut progress), &give).await?;
                if length.is_some_and(|length| at < length) {
                    let text = format!("{source} ended after {at} bytes");
                    return Err(OriginError::new(ErrorKind::Truncated, text));
                }
                Ok(())
            };
            let error = match read.await {
                Ok(()) => break,
                Err(error) => error,
            };
            tries = if progress > before { 1 } else { tries + 1 };
            let spent = self.clock.now().since(progress);
            let Some(pause) = policy.pause(tries, spent, &error).filter(|_| !give.is_closed()) else {
                return Err(error);
            };
            tracing::info!(%source, error = %in_full(&error), at, "reading a layer broke off; going on");
            tokio::time::sleep(pause).await;
        }
        // Whoever decompresses it may have seen enough.
        let _ = give.send(Bytes::new()).await;
        Ok(())
    }

    /// Gives what comes of one answer.
    async fn give_reading(
        &self,
        mut reading: Reading,
        source: &Source,
        (at, progress): (&mut u64, &mut Moment),
        give: &mpsc::Sender<Bytes>,
    ) -> Result<(), OriginError> {
        let Some(mut skip) = at.checked_sub(reading.start) else {
            let text = format!("{source} sent bytes from {} on, not from {at}", reading.start);
            return Err(OriginError::new(ErrorKind::Protocol, text));
        };
        while let Some(chunk) = reading.body.next().await {
            let mut chunk = chunk?;
            self.metrics.origin_bytes.inc_by(chunk.len() as u64);
            self.budget.take(u32::try_from(chunk.len()).unwrap_or(u32::MAX)).await;
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            chunk.advance(skipped);
            skip -= skipped as u64;
            if chunk.is_empty() {
                continue;
            }
            *at += chunk.len() as u64;
            *progress = self.clock.now();
            if give.send(chunk).await.is_err() {
                // It was refused: that says more.
                return Ok(());
            }
        }
        Ok(())
    }

    async fn give_stored(
        &self,
        stored: Arc<dyn StoredBlob>,
        length: u64,
        layer: &ExpandedLayer,
        give: mpsc::Sender<Bytes>,
    ) -> Result<(), OriginError> {
        let mut at = 0;
        while at < length {
            let (blob, part) = (Arc::clone(&stored), (length - at).min(CHUNK));
            let read = self.disk.run(move || {
                let mut bytes = vec![0; usize::try_from(part).unwrap_or_default()];
                blob.read_at(at, &mut bytes).map(|()| Bytes::from(bytes))
            });
            let bytes = read.await.map_err(|error| {
                let text = format!("the copy of {} that is stored here can't be read", layer.stored());
                OriginError::new(ErrorKind::Io, text).caused_by(error)
            })?;
            if give.send(bytes).await.is_err() {
                return Ok(());
            }
            at += part;
        }
        let _ = give.send(Bytes::new()).await;
        Ok(())
    }

    /// Decompresses what comes, and writes what it becomes. On a thread of the disk's.
    fn write(
        &self,
        layer: &ExpandedLayer,
        take: mpsc::Receiver<Bytes>,
        file: Option<&File>,
    ) -> Result<(LayerDigests, u64), NotMade> {
        // Nothing is left of what was made of a damaged copy.
        if let Some(file) = file {
            file.set_len(0).map_err(|error| NotMade::Refused(self.no_room(layer, error)))?;
        }
        let mut since_look = u64::MAX;
        let mut write = |at: u64, bytes: &[u8]| -> Result<(), NotMade> {
            let Some(file) = file else { return Ok(()) };
            // The store makes room as the disk fills, but no faster than it looks.
            if since_look >= MIN_FREE / 4 {
                since_look = 0;
                if self.disk.usage().disk_free.is_some_and(|free| free < MIN_FREE) {
                    return Err(NotMade::Refused(self.no_room(layer, io::ErrorKind::StorageFull.into())));
                }
            }
            since_look += bytes.len() as u64;
            file.write_all_at(bytes, at).map_err(|error| NotMade::Refused(self.no_room(layer, error)))
        };
        let check = |stored: &Digest, tar: Option<&Digest>| {
            let source = layer.stored();
            if *stored != layer.digest {
                let text = format!("{source}: what came has the digest {stored}");
                return Err(NotMade::Refused(OriginError::new(ErrorKind::Contradicted, text)));
            }
            if let Some(tar) = tar.filter(|tar| **tar != layer.diff_id) {
                let text = format!(
                    "{source} unpacks into a tar with the digest {tar}, not {} as the image's configuration says (diff id)",
                    layer.diff_id
                );
                return Err(NotMade::Refused(OriginError::new(ErrorKind::Unmountable, text)));
            }
            Ok(())
        };
        let feed = Feed { take, chunk: Bytes::new(), ended: false };
        let (digests, expanded) = expand_layer(feed, &mut write, check, |_| ())?;
        Ok((digests, expanded.length()))
    }

    /// The file can't be written: another agent may have room for it.
    fn no_room(&self, layer: &ExpandedLayer, error: io::Error) -> OriginError {
        let place = self.data_dir.display();
        let text = format!("no room to expand {} in {place}: make some, or give another --data-dir", layer.stored());
        OriginError::new(ErrorKind::OutOfReach, text).caused_by(error)
    }
}

/// Why nothing was made of a layer.
enum NotMade {
    /// It is not the right one, or can't be written.
    Refused(OriginError),
    /// It is the right one, and can't be decompressed, or expressed.
    Layer(LayerError),
}

impl From<LayerError> for NotMade {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

impl NotMade {
    fn told_of(self, layer: &ExpandedLayer) -> OriginError {
        let layer = layer.stored();
        match self {
            Self::Refused(error) => error,
            Self::Layer(LayerError::Read(error)) => {
                let text = format!("{layer}: reading it was broken off; ask for it again");
                OriginError::new(ErrorKind::Unreachable, text).caused_by(error)
            }
            Self::Layer(error) => {
                let text = format!("{layer} can't be mounted as it is: pull it the ordinary way");
                OriginError::new(ErrorKind::Unmountable, text).caused_by(error)
            }
        }
    }
}

/// Bytes that another task reads.
struct Feed {
    take: mpsc::Receiver<Bytes>,
    chunk: Bytes,
    ended: bool,
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            // Without the empty chunk that ends it, more was to come.
            self.chunk = self.take.blocking_recv().ok_or(io::ErrorKind::BrokenPipe)?;
            self.ended = self.chunk.is_empty();
        }
        let length = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// A file of this directory without a name.
fn nameless(data_dir: &std::path::Path, number: u64) -> io::Result<File> {
    let directory = Dir::open(data_dir).map_err(io::Error::other)?;
    let name = format!("expanding-{number}");
    // An agent that died in the next moment has left one.
    directory.remove(&name)?;
    let file = directory.create(&name)?;
    directory.remove(&name)?;
    Ok(file)
}

fn key_of(layer: &ExpandedLayer) -> BlobId {
    Source::Expanded(layer.clone()).record_key(&Credentials::none())
}

/// An origin that has layers in their expanded form, too.
pub struct Expanding {
    inner: Arc<dyn Origin>,
    expansions: Arc<Expansions>,
}

impl Expanding {
    /// On top of an origin that has the layers themselves.
    pub const fn new(inner: Arc<dyn Origin>, expansions: Arc<Expansions>) -> Self {
        Self { inner, expansions }
    }

    fn body(&self, slot: Arc<Slot>, range: ByteRange) -> Body {
        let disk = self.expansions.disk.clone();
        let chunks = stream::try_unfold(range.start(), move |at| {
            let (slot, disk) = (Arc::clone(&slot), disk.clone());
            async move {
                let part = range.end().saturating_sub(at).min(CHUNK);
                if part == 0 {
                    return Ok(None);
                }
                let read = disk.run(move || {
                    let expansion = slot.get().ok_or(io::ErrorKind::NotFound)?;
                    let mut bytes = vec![0; usize::try_from(part).unwrap_or_default()];
                    expansion.file.read_exact_at(&mut bytes, at)?;
                    Ok::<_, io::Error>(Bytes::from(bytes))
                });
                let bytes = read.await.map_err(|error| {
                    OriginError::new(ErrorKind::OutOfReach, "an expanded layer can't be read back").caused_by(error)
                })?;
                Ok(Some((bytes, at + part)))
            }
        });
        chunks.boxed()
    }
}

/// The layer's tar is its version.
fn version(layer: &ExpandedLayer, length: Option<u64>) -> Version {
    let etag = format!("\"{}-{}\"", layer.diff_id, layer.format);
    Version { etag: Some(etag), last_modified: None, length, nonce: None }
}

#[async_trait]
impl Origin for Expanding {
    async fn stat(
        &self,
        source: &Source,
        credentials: &Credentials,
        known: Option<&Version>,
    ) -> Result<Stat, OriginError> {
        let Source::Expanded(layer) = source else { return self.inner.stat(source, credentials, known).await };
        // That the layer is there.
        self.inner.stat(&layer.stored(), credentials, None).await?;
        Ok(Stat { version: version(layer, None), shown: Shown::default(), unchanged: true, ranges: true })
    }

    async fn read(
        &self,
        source: &Source,
        credentials: &Credentials,
        range: Option<ByteRange>,
        expect: Option<&Version>,
    ) -> Result<Reading, OriginError> {
        let Source::Expanded(layer) = source else {
            return self.inner.read(source, credentials, range, expect).await;
        };
        let (slot, length) = self.expansions.of(&*self.inner, layer, credentials).await?;
        let range = range.unwrap_or(ByteRange::new(0, length));
        if range.start() >= length {
            let text = format!("{source} has {length} bytes, and {range} begins behind them");
            return Err(OriginError::new(ErrorKind::RangeNotSatisfiable, text));
        }
        let range = range.clamp_to(length);
        Ok(Reading {
            version: expect.cloned().unwrap_or_else(|| version(layer, Some(length))),
            shown: Shown::default(),
            start: range.start(),
            is_part: range.len() < length,
            length: Some(length),
            witness: None,
            body: self.body(slot, range),
        })
    }

    async fn shows_own_keys(&self, source: &Source, credentials: &Credentials) -> bool {
        match source {
            Source::Expanded(layer) => self.inner.shows_own_keys(&layer.stored(), credentials).await,
            _ => self.inner.shows_own_keys(source, credentials).await,
        }
    }

    async fn disposition(&self, source: &Source, credentials: &Credentials) -> Result<Option<String>, OriginError> {
        match source {
            Source::Expanded(_) => Ok(None),
            _ => self.inner.disposition(source, credentials).await,
        }
    }
}
