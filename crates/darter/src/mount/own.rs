//! Gets bytes for a mount from an agent in the keeper's process: if no daemon runs, and for local files, which the daemon's user may not be
//! allowed to read. It keeps its pieces as a `get` without a daemon does ([`rooms`]), for as long as the mount exists.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use darter_agent::{Agent, Download, FetchError, HeldPart, KeptOpen, Options, StartError};
use darter_api::GetRequest;
use darter_core::source::Credentials;
use darter_core::{BlobId, ByteRange, PieceHash, Source, in_full};
use darter_mount::supply::{Content, End, Given, Refusal, Supplier, Supply};
use darter_store::{StoreError, threads};
use parking_lot::Mutex;

use crate::cli::MountArgs;
use crate::get::rooms;

/// An agent in the keeper's process.
pub(super) struct OwnAgent {
    agent: Agent,
    room: PathBuf,
    /// Blobs that were in the room before. They are not removed with the mount: a daemon or a `get --keep` keeps them, or a killed `get` left them.
    others: HashSet<BlobId>,
    /// Blobs that are noted as belonging to this mount.
    noted: Mutex<HashSet<BlobId>>,
    /// Query parameters that sign addresses, besides the usual ones.
    signed: Vec<String>,
}

/// A file that the keeper's own agent reads.
pub(super) struct OwnFile {
    own: Arc<OwnAgent>,
    source: Source,
    credentials: Credentials,
}

struct OpenDownload {
    download: Download,
    _kept: KeptOpen,
}

impl OwnAgent {
    /// Starts an agent in the first free room for these sources. If `below` is given, it reads only local files below that directory, a path without links.
    pub(super) async fn start(
        args: &MountArgs,
        request: &GetRequest,
        below: Option<PathBuf>,
    ) -> anyhow::Result<Arc<Self>> {
        let roots = below.map(|below| vec![below]);
        let wanted = vec![source_of(&args.origin.signed_parameter, request)?.0.key()];
        let data_dir = rooms::parent(args.place.data_dir()?, false);
        for room in rooms::candidates(&data_dir, &wanted, false) {
            rooms::make(&room)
                .with_context(|| format!("can't keep anything in {}; give another --data-dir", room.display()))?;
            let options = Options { local_roots: roots.clone(), ..args.embedded_options(room.clone())? };
            let agent = match Agent::start(options).await {
                Ok(agent) => agent,
                Err(StartError::Store(StoreError::Locked { .. })) => continue,
                Err(error) => return Err(error.into()),
            };
            let before: HashSet<BlobId> = agent.list().await?.into_iter().map(|row| row.blob).collect();
            let (directory, mine) = (data_dir.clone(), room.clone());
            let (is_left, guests) = threads::run(move || {
                // A killed mount of the same content left these pieces, alone in a room.
                let is_left = mine != directory && rooms::wanted(&mine) == wanted;
                rooms::note(&mine, &wanted);
                rooms::clear_leftovers(&directory, &mine);
                (is_left, rooms::guests(&mine))
            })
            .await;
            let others = if is_left { HashSet::new() } else { &before - &guests };
            let (noted, signed) = (Mutex::new(guests), args.origin.signed_parameter.clone());
            return Ok(Arc::new(Self { agent, room, others, noted, signed }));
        }
        bail!("all rooms in {} are in use; give another --data-dir", data_dir.display())
    }

    /// Ends the agent, after unmounting, and removes what it fetched for this mount.
    pub(super) async fn close(&self) {
        // What is still being opened would leave its blob behind.
        self.agent.store_no_more().await;
        let mut are_gone = true;
        match self.agent.list().await {
            Ok(blobs) => {
                for blob in blobs.into_iter().filter(|row| !self.others.contains(&row.blob)) {
                    are_gone &= rooms::remove(&self.agent, blob.blob).await;
                }
            }
            Err(error) => {
                are_gone = false;
                tracing::warn!(error = %in_full(&error), "the fetched blobs can't be listed, so they stay in the store");
            }
        }
        let room = self.room.clone();
        let forgetting = move || {
            rooms::note(&room, &[]);
            // Blobs that could not be removed are left to the next mount.
            if are_gone {
                rooms::forget_guests(&room);
            }
        };
        threads::run(forgetting).await;
        self.agent.drain().await;
    }

    /// Notes that a blob belongs to this mount, unless it was stored before.
    async fn is_opened(&self, blob: BlobId) {
        if self.others.contains(&blob) || !self.noted.lock().insert(blob) {
            return;
        }
        let room = self.room.clone();
        threads::run(move || rooms::note_guest(&room, blob)).await;
    }
}

/// The source of a request, with its credentials.
fn source_of(signed: &[String], request: &GetRequest) -> anyhow::Result<(Source, Credentials)> {
    Ok(Source::from_signed_url(request.url.parse()?, &request.headers, request.digest, signed))
}

impl OwnFile {
    /// A file that this agent reads.
    pub(super) fn new(own: &Arc<OwnAgent>, request: &GetRequest) -> anyhow::Result<Self> {
        let (source, credentials) = source_of(&own.signed, request)?;
        Ok(Self { own: Arc::clone(own), source, credentials })
    }

    /// Opens the content for the first time.
    pub(super) async fn first(&self) -> Result<(Content, Arc<dyn Supply>), FetchError> {
        let download = self.own.agent.open_parts(self.source.clone(), self.credentials.clone()).await?;
        self.own.is_opened(download.blob()).await;
        let content = Content {
            blob: download.blob(),
            length: download.length_when_known().await?,
            pieces: download.piece_length(),
            modified: download.version().last_modified,
        };
        let _kept = download.keep_open();
        Ok((content, Arc::new(OpenDownload { download, _kept })))
    }
}

#[async_trait]
impl Supplier for OwnFile {
    async fn open(&self) -> Result<(Content, Arc<dyn Supply>), String> {
        self.first().await.map_err(|error| in_full(&error).to_string())
    }
}

#[async_trait]
impl Supply for OpenDownload {
    async fn read(&self, range: ByteRange, within: Duration) -> Result<Given, Refusal> {
        match self.download.part(range, within).await {
            Ok(Some(HeldPart::File(file))) => Ok(Given::File(file, self.download.hashes(range).unwrap_or_default())),
            Ok(Some(HeldPart::Bytes(bytes))) => Ok(Given::Bytes(bytes)),
            Ok(None) => Err(Refusal::Late),
            Err(error) => Err(Refusal::Now(in_full(&error).to_string())),
        }
    }

    async fn fetch(&self, range: ByteRange, within: Duration) -> Result<Vec<PieceHash>, Refusal> {
        match self.download.fetch_ahead(range, within).await {
            Ok(true) => Ok(self.download.hashes(range).unwrap_or_default()),
            Ok(false) => Err(Refusal::Late),
            Err(error) => Err(Refusal::Now(in_full(&error).to_string())),
        }
    }

    async fn everything(&self) {
        self.download.want_everything();
    }

    async fn touched(&self, _: &[ByteRange]) {
        // No other program waits for this agent's changes.
    }

    async fn progress(&self) -> Option<(u64, bool)> {
        let progress = self.download.progress();
        Some((progress.held_bytes, progress.complete))
    }

    async fn ended(&self) -> End {
        let error = self.download.ended().await;
        let reason = in_full(&error).to_string();
        match error {
            FetchError::WrongDigest { .. } => End::Wrong(reason),
            error if error.is_changed() => End::Changed(reason),
            _ => End::Gone(reason),
        }
    }
}
