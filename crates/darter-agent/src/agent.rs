//! [`Agent`], the handle on a running agent; [`Download`], the handle on one blob.
//!
//! `builder` assembles an agent from what `build` makes of its options. Ports for the programs of its host attach to the handle.
//! Some files of this directory contain further parts of `impl Agent`.

mod attach;
mod build;
pub(crate) mod builder;
mod contents;
mod ending;
mod expanded;
mod images;
mod misfit;
mod mounting;
mod names;
mod parts;
mod profiles;
mod reload;
mod view;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use darter_api as api;
use darter_api::handover::Order;
use darter_core::source::Credentials;
use darter_core::{Blamed as _, BlobId, ByteRange, PieceIndex, Source, Version, in_full};
use darter_engine::FetchError;
use darter_engine::context::EngineContext;
use darter_engine::part::Part;
use darter_engine::swarms::again::Handing;
use darter_engine::swarms::{GivingSwarms, ListeningSwarms, Swarms};
use darter_engine::transfer::Transfer;
use darter_engine::transfer::rest::Hold;
use darter_engine::transfer::status::waiting_for;
use darter_engine::transfer::stream::Giving;
use darter_fleet::Fleet;
use darter_fleet::seeds::Seeds;
use darter_metrics::Failed;
use darter_metrics::process::Usage;
use darter_origin::Requester;
use darter_registries::Registries;
use darter_swarm::leadership::trace::Trace;
use darter_swarm::session::trace::SessionTrace;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

pub use self::attach::Phase;
use self::builder::Builder;
use self::contents::ReadManifests;
pub use self::expanded::Access;
use self::images::Removable;
pub use self::misfit::Misfit;
pub use self::mounting::MountRoom;
pub use self::names::MIN_DIGITS;
pub use self::parts::HeldPart;
pub use self::reload::Reloaded;
use self::view::{Sampler, store_status};
use crate::error::StartError;
use crate::options::Options;

/// How often idle transfers are closed and gauges are set.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// How long a drain waits for tasks that were told to end.
const LAST_TASKS: Duration = Duration::from_secs(2);

/// How long an agent that ends waits for its disk to save everything. What is not saved is fetched again; service managers kill after 90 s.
const LAST_SAVE: Duration = Duration::from_secs(60);

/// A running agent. Cheap to clone. Keep one until [`Agent::drain`] has returned.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    context: Arc<EngineContext>,
    fleet: Arc<Fleet>,
    seeds: Arc<Seeds>,
    swarms: Arc<Swarms>,
    /// `None` in an agent that runs for one download.
    registries: Option<Arc<Registries>>,
    /// The contents of the manifests known here.
    contents: ReadManifests,
    sampler: Sampler,
    /// How many more bytes of parts may be in memory: see [`parts`].
    inline: Arc<Semaphore>,
    /// The listener of the fleet, which has only a weak reference to it.
    _ears: Arc<ListeningSwarms>,
    /// The giver of pieces to peers; the fleet has only a weak reference to it.
    _hands: Arc<GivingSwarms>,
    listen: Option<String>,
    local_address: OnceLock<String>,
    phase: watch::Sender<Phase>,
    /// The ports for programs of this host.
    ports: TaskTracker,
    changeable: reload::Changeable,
    tasks: TaskTracker,
}

/// One blob that is being fetched or is stored. Dropping this ends the caller's interest; the blob stays in the store.
pub struct Download {
    swarms: Arc<Swarms>,
    transfer: Arc<Transfer>,
    _hold: Hold,
    credentials: Credentials,
    requester: Requester,
    inline: Arc<Semaphore>,
    /// The blob's traffic when this caller requested it.
    before: api::Traffic,
}

/// How near a byte is, as far as the agent knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nearness {
    /// It is here.
    Held,
    /// It is not here, but others may have it: it can be requested before the bytes before it.
    Within,
    /// It arrives only after this many bytes before it.
    After(u64),
}

/// How much of a blob is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AtHand {
    /// How many of its bytes are stored.
    pub held: u64,
    /// The absolute path of its file, once it is complete and checked.
    pub file: Option<PathBuf>,
}

impl Agent {
    /// Starts an agent: opens the store, listens to its peers, joins the fleet. When this returns, the handle and the peer port can be used. The options for
    /// ports and sockets for programs of this host are for the parts that attach to it.
    ///
    /// # Errors
    /// [`StartError`], each with what to do about it.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        Self::builder(options).start().await
    }

    /// A builder for an agent with other parts than the operating system's.
    pub fn builder(options: Options) -> Builder {
        Builder::new(options)
    }

    /// Opens a blob. Returns after the first answer of the origin or the swarm, so that "no such file" and
    /// "not allowed" are errors of this function and not of the stream.
    ///
    /// # Errors
    /// The origin refuses, or the agent itself fails.
    pub async fn open(&self, source: Source, credentials: Credentials) -> Result<Download, FetchError> {
        self.open_for(Requester::Here, source, credentials, true).await
    }

    /// Opens a blob ([`Agent::open`]) for a caller that wants only ranges of it: nothing is fetched but the ranges for
    /// [`Download::ensure`] and [`Download::parts_of`].
    ///
    /// # Errors
    /// The same as of [`Agent::open`].
    pub async fn open_parts(&self, source: Source, credentials: Credentials) -> Result<Download, FetchError> {
        self.open_for(Requester::Here, source, credentials, false).await
    }

    /// Opens a range of a blob. Returns as soon as the blob's length is known.
    ///
    /// # Errors
    /// The same as of [`Agent::open`]; [`FetchError::Range`] if the range lies outside the blob.
    pub async fn open_span(
        &self,
        source: Source,
        credentials: Credentials,
        span: api::Span,
    ) -> Result<(Download, ByteRange), FetchError> {
        let download = self.open_parts(source, credentials).await?;
        let length = download.transfer.length_when_known().await?;
        let range = span.of(length).ok_or(FetchError::Range { length })?;
        Ok((download, range))
    }

    /// Opens a blob ([`Agent::open`]) for a program that named the registry: a private address is read only if it is configured.
    ///
    /// # Errors
    /// The same as of [`Agent::open`].
    pub async fn open_named(
        &self,
        source: Source,
        credentials: Credentials,
        everything: bool,
    ) -> Result<Download, FetchError> {
        self.open_for(Requester::Named, source, credentials, everything).await
    }

    async fn open_for(
        &self,
        requester: Requester,
        source: Source,
        credentials: Credentials,
        everything: bool,
    ) -> Result<Download, FetchError> {
        let asked = self.inner.context.now();
        loop {
            let opened = self.inner.swarms.open(requester, source.clone(), credentials.clone(), everything);
            let transfer = opened.await?;
            // If there is no hold, the blob was evicted just now, and is opened again.
            if let Some(hold) = transfer.hold() {
                let swarms = Arc::clone(&self.inner.swarms);
                let inline = Arc::clone(&self.inner.inline);
                let before = transfer.traffic_before(asked);
                return Ok(Download { swarms, transfer, _hold: hold, credentials, requester, inline, before });
            }
        }
    }

    /// True if stored content may be served for this source.
    pub async fn is_proven(&self, source: &Source) -> bool {
        // If the store can't answer, it can't serve the content either.
        self.inner.swarms.is_proven(source).await.unwrap_or(false)
    }

    /// True if all of a source's content is here, and may be served for it.
    pub async fn is_whole(&self, source: &Source) -> bool {
        self.inner.swarms.is_whole(source).await.unwrap_or(false)
    }

    /// Notes that the source has shown that it has the content it names.
    pub fn proven(&self, source: &Source) {
        self.inner.swarms.proven(source);
    }

    /// The origin of a source, if some transfer waits for it.
    pub fn waiting(&self, source: &Source) -> Option<api::Waiting> {
        let pause = self.inner.context.pauses.of(source)?;
        Some(waiting_for(source, pause))
    }

    /// Counts a failed request of a program.
    pub fn failed(&self, error: &FetchError) {
        self.inner.context.metrics.failed(Failed::Command, error.blame().fault);
    }

    /// The origin's file name for the content (`Content-Disposition`). `None` if it names none, or can't be asked from here.
    pub async fn disposition(&self, source: &Source, credentials: &Credentials) -> Option<String> {
        match self.inner.context.origins.patient(Requester::Here).disposition(source, credentials).await {
            Ok(disposition) => disposition,
            Err(error) => {
                tracing::info!(error = %in_full(&error), %source, "the origin was asked for a file name and gave none");
                None
            }
        }
    }

    /// The agent's status.
    pub fn status(&self) -> api::Status {
        let inner = &*self.inner;
        let options = &inner.options;
        let usage = inner.context.disk.usage();
        let process = Usage::now();
        api::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: inner.context.me,
            role: options.role,
            pid: std::process::id(),
            uptime: Duration::from_micros(inner.context.now().as_micros()).as_secs_f64(),
            listen: inner.listen.clone(),
            local: inner.local_address.get().cloned(),
            data_dir: options.data_dir.display().to_string(),
            labels: options.labels.clone(),
            draining: inner.swarms.is_draining(),
            resident: process.resident_bytes,
            cpu: process.cpu_seconds,
            cpu_seconds: process.cpu_seconds,
            store: store_status(&usage),
            traffic: inner.context.metrics.traffic(),
            seeds: inner.seeds.status(),
            peers: inner.fleet.peers().iter().map(|peer| peer_status(peer)).collect(),
            swarms: inner.swarms.all().iter().map(|transfer| transfer.status()).collect(),
            wrong: inner.context.setbacks.sources(),
        }
    }

    /// Query parameters that sign addresses, besides those of the usual object stores.
    pub fn signed_parameters(&self) -> &[String] {
        &self.inner.options.signed_parameters
    }

    /// The blobs in the store, most recently used first.
    ///
    /// # Errors
    /// None today; a remote store may fail to answer.
    pub async fn list(&self) -> Result<Vec<api::BlobRow>, FetchError> {
        let rows = self.inner.context.disk.list().await;
        let mut images = images::by_blob(&self.inner).await;
        let row = |summary: darter_store::BlobSummary| {
            let images = images.remove(&summary.id).unwrap_or_default();
            blob_row(summary, images)
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// Removes a blob by its id or digest (or the beginning of either) or its URL; or, by an image's name, the name and all blobs of the image except those that
    /// another known image needs. Returns the removed blobs; `None` if nothing here has this name.
    ///
    /// # Errors
    /// [`FetchError::Ambiguous`] if the name fits more than one thing,
    /// [`StoreError::InUse`](darter_store::StoreError::InUse) while a program reads the blob,
    /// [`StoreError::Pinned`](darter_store::StoreError::Pinned).
    pub async fn remove(&self, name: &str) -> Result<Option<Vec<BlobId>>, FetchError> {
        let Removable { blobs, expanded, images } = images::removable(&self.inner, name).await?;
        let mut removed = Vec::new();
        for blob in blobs {
            if self.remove_blob(blob).await? {
                removed.push(blob);
            }
        }
        for blob in expanded {
            match self.remove_blob(blob).await {
                Ok(true) => removed.push(blob),
                Ok(false) => {}
                // An engine may be about to mount it.
                Err(FetchError::Store(error)) if matches!(&*error, darter_store::StoreError::InUse(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(registries) = &self.inner.registries
            && !images.is_empty()
        {
            registries.images().forget(&images).await;
        }
        Ok(Some(removed).filter(|removed| !(removed.is_empty() && images.is_empty())))
    }

    async fn remove_blob(&self, blob: BlobId) -> Result<bool, FetchError> {
        if !self.inner.swarms.put_away(blob) {
            return Err(darter_store::StoreError::InUse(blob).into());
        }
        // A transfer that was closed releases the blob a moment later.
        let mut tries = 0;
        loop {
            let context = &self.inner.context;
            match context.disk.on_store(move |store| store.remove(blob)).await {
                Ok(removed) => {
                    let archive = context.archive.clone();
                    let profiles = context.profiles.clone();
                    context
                        .disk
                        .run(move || {
                            archive.forget(blob);
                            profiles.forget(blob);
                        })
                        .await;
                    return Ok(removed);
                }
                Err(darter_store::StoreError::InUse(_)) if tries < 50 => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Protects the blob that is called `name`, or all stored blobs of an image, from eviction (`pinned`), or ends that.
    /// Returns these blobs.
    ///
    /// # Errors
    /// [`FetchError::Ambiguous`] if the name fits more than one thing; the disk refuses.
    pub async fn pin(&self, name: &str, pinned: bool) -> Result<Vec<BlobId>, FetchError> {
        let mut found = Vec::new();
        for blob in images::blobs_of(&self.inner, name).await? {
            match self.inner.context.disk.on_store(move |store| store.pin(blob, pinned)).await {
                Ok(()) => found.push(blob),
                Err(darter_store::StoreError::NoSuchBlob(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    /// How much of each of these blobs is stored.
    pub async fn at_hand(&self, blobs: Vec<BlobId>) -> Vec<AtHand> {
        let at_hand = self.inner.context.disk.on_store(move |store| {
            let look = |blob| {
                let Ok(Some(stored)) = store.open(blob) else { return AtHand::default() };
                let path = store.path(blob).filter(|_| stored.is_complete());
                let file = path.and_then(|path| std::path::absolute(path).ok());
                AtHand { held: stored.held_bytes(), file }
            };
            blobs.into_iter().map(look).collect()
        });
        at_hand.await
    }

    /// For each of `blobs`, true if its bytes can be had without opening it again: it is open and has not failed, or is complete.
    pub async fn are_ready(&self, blobs: Vec<BlobId>) -> Vec<bool> {
        let mut ready: Vec<bool> = blobs.iter().map(|blob| self.inner.swarms.get(*blob).is_some()).collect();
        if ready.contains(&false) {
            let closed = blobs.into_iter().zip(&ready).filter(|(_, is_open)| !**is_open).map(|(blob, _)| blob);
            let held = self.at_hand(closed.collect()).await;
            for (is_ready, held) in ready.iter_mut().filter(|is_open| !**is_open).zip(held) {
                *is_ready = held.file.is_some();
            }
        }
        ready
    }

    /// Protects blobs from eviction and removal, stored or not, as long as this agent runs (`true`), or ends that.
    pub async fn spare(&self, blobs: Vec<BlobId>, spared: bool) {
        let spare = move |store: &dyn darter_store::Store| blobs.into_iter().for_each(|blob| store.spare(blob, spared));
        self.inner.context.disk.on_store(spare).await;
    }

    /// The explanation of where a blob's bytes came from; `None` if nothing is known of it.
    pub async fn explain(&self, name: &str) -> Option<api::Explanation> {
        match self.explain_named(name).await {
            Ok(Some(api::Explained::Blob(explanation))) => Some(*explanation),
            _ => None,
        }
    }

    /// The explanation of where the bytes of a blob, or of an image's parts, came from; `None` if nothing is known of it.
    ///
    /// # Errors
    /// [`FetchError::Ambiguous`] if the name fits more than one thing.
    pub async fn explain_named(&self, name: &str) -> Result<Option<api::Explained>, FetchError> {
        images::explain(&self.inner, name).await
    }

    /// The progress of a blob that is being fetched or served.
    pub fn progress(&self, blob: BlobId) -> Option<api::Progress> {
        self.inner.swarms.get(blob).map(|transfer| transfer.progress())
    }

    /// This agent's decisions about who leads a blob that is being fetched or served; `None` unless the agent was built to
    /// record them ([`Builder::record_decisions`]).
    pub fn decisions(&self, blob: BlobId) -> Option<Trace> {
        self.inner.swarms.get(blob)?.decisions()
    }

    /// The inputs and outputs of this agent's session of `blob` until it let others in; `None` unless the agent was built to record them
    /// ([`Builder::record_decisions`]).
    pub fn trace(&self, blob: BlobId) -> Option<SessionTrace> {
        self.inner.swarms.get(blob)?.trace()
    }
}

impl Download {
    /// The blob's id.
    pub fn blob(&self) -> BlobId {
        self.transfer.blob
    }

    /// Its length, once known (some origins do not say).
    pub fn length(&self) -> Option<u64> {
        self.transfer.stored.length()
    }

    /// The version of the source to which these bytes belong.
    pub fn version(&self) -> Version {
        self.transfer.version.clone()
    }

    /// How many of its pieces are here.
    pub fn held(&self) -> u64 {
        u64::from(self.transfer.stored.held().len())
    }

    /// For how much of the time since the last byte its origin asked not to be asked.
    pub fn excused(&self) -> Duration {
        self.transfer.excused()
    }

    /// How near the byte at offset `at` is, for a reader of a `lone` range, of which the lead is told, or for a reader of everything in order.
    pub fn nearness(&self, at: u64, lone: bool) -> Nearness {
        let (stored, pieces) = (&self.transfer.stored, self.transfer.piece_length);
        let piece = pieces.piece_at(at);
        // The last piece is passed on only after the whole was checked.
        if stored.is_complete() || (stored.holds(piece) && self.transfer.pieces() != Some(piece.0 + 1)) {
            return Nearness::Held;
        }
        if stored.hash(piece).is_some() || (lone && self.transfer.may_jump()) {
            return Nearness::Within;
        }
        Nearness::After(at.saturating_sub(pieces.offset(PieceIndex(stored.prefix()))))
    }

    /// Verified bytes in order, from the first byte of `range` (everything if `None`), as they arrive. Ends early only with an
    /// error.
    pub fn stream(&self, range: Option<ByteRange>) -> BoxStream<'static, Result<Bytes, FetchError>> {
        self.bytes(range, Giving::default())
    }

    /// Verified bytes of a lone range, in order: only the pieces that it touches are fetched, and its bytes do not wait until the
    /// whole was checked.
    pub fn bytes_of(&self, range: ByteRange) -> BoxStream<'static, Result<Bytes, FetchError>> {
        self.bytes(Some(range), Giving { files: false, lone: true, own: false })
    }

    fn bytes(&self, range: Option<ByteRange>, giving: Giving) -> BoxStream<'static, Result<Bytes, FetchError>> {
        let parts = self.read(range, giving);
        let bytes = parts.try_filter_map(|part| async move {
            Ok(match part {
                Part::Bytes(bytes) => Some(bytes),
                // Ranges of files were not requested.
                Part::File(_) => None,
            })
        });
        bytes.boxed()
    }

    /// Like [`stream`](Self::stream), but with ranges of files if the store has files, for callers that can send files without reading them.
    pub fn parts(&self, range: Option<ByteRange>) -> BoxStream<'static, Result<Part, FetchError>> {
        self.read(range, Giving { files: true, lone: false, own: false }).boxed()
    }

    /// Like [`bytes_of`](Self::bytes_of), but with ranges of files if the store has files: only the pieces that the range touches are fetched,
    /// and its bytes do not wait until the whole was checked.
    pub fn parts_of(&self, range: ByteRange) -> BoxStream<'static, Result<Part, FetchError>> {
        self.read(Some(range), Giving { files: true, lone: true, own: false }).boxed()
    }

    /// Everything, as ranges of files if the store has files, for a program that writes it elsewhere; the last message says that it
    /// is complete, and which digests were checked.
    pub fn hand_on(&self, order: Order) -> BoxStream<'static, Result<Handing, FetchError>> {
        self.swarms.hand_on(&self.transfer, (self.requester, self.credentials.clone()), order).boxed()
    }

    /// Makes sure that the bytes of `range`, as far as they exist, are here and verified within this time. Only the pieces that it touches
    /// are fetched; among ranges that are waited for, those with the least time left come first.
    ///
    /// # Errors
    /// [`FetchError::Stalled`] if they are not here in time; else why the blob can't be had.
    pub async fn ensure(&self, range: ByteRange, within: Duration) -> Result<(), FetchError> {
        self.transfer.ensure(range, within).await
    }

    fn read(
        &self,
        range: Option<ByteRange>,
        giving: Giving,
    ) -> impl Stream<Item = Result<Part, FetchError>> + Send + use<> {
        self.swarms.read(&self.transfer, (self.requester, self.credentials.clone()), range, giving)
    }

    /// The progress.
    pub fn progress(&self) -> api::Progress {
        self.transfer.progress()
    }

    /// The traffic of this blob when this caller requested it: later traffic happened while the caller waited.
    pub const fn traffic_before(&self) -> api::Traffic {
        self.before
    }
}

fn peer_status(peer: &darter_fleet::Peer) -> api::PeerStatus {
    let seed = peer.is_seed();
    api::PeerStatus { node: peer.hello.node, addr: peer.hello.listen.clone(), tier: peer.tier, seed }
}

fn blob_row(summary: darter_store::BlobSummary, images: Vec<String>) -> api::BlobRow {
    api::BlobRow {
        blob: summary.id,
        name: summary.info.name,
        digest: summary.info.digest,
        length: summary.length,
        held: summary.held_bytes,
        complete: summary.complete,
        pinned: summary.pinned,
        in_use: summary.in_use,
        last_used: summary.last_used,
        images,
    }
}
