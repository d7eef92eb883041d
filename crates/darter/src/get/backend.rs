//! The backend of a download: a daemon that this user may use, or else an agent in this process, for this one command. Both deliver
//! the same verified content, if possible as ranges of a file: in order for a stream, in any order for a file.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use darter_agent::{Agent, Download, FetchError, Handing, Order, Part, StartError};
use darter_api::client::{self, Client, ClientError};
use darter_api::handover::{Anew, Handed, ORDER_HEADER, Receiver};
use darter_api::headers::{
    BLOB_HEADER, CHANGED_TRAILER, DISPOSITION_HEADER, ERROR_TRAILER, FAULT_TRAILER, LENGTH_HEADER, MODIFIED_HEADER,
    RANGE_HEADER, RETRY_AFTER_TRAILER, RETRY_TRAILER, TRAFFIC_HEADER,
};
use darter_api::{Checked, GetRequest, Problem, Progress, Span, Traffic, Waiting, socket_path};
use darter_core::source::Credentials;
use darter_core::{Blame, BlobId, ByteRange, Digest, Fault, Retry, Source};
use darter_store::{StoreError, threads};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http::HeaderValue;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use parking_lot::Mutex;
use url::Url;

use super::jobs::Job;
use super::rooms;
use super::sink::{Chunk, Home};
use crate::cli::GetArgs;
use crate::failure::Failure;
use crate::show::{TOLD_AFTER, WAITING_POLL};

/// How often to check whether another process has released the data directory.
const LOCK_POLL: Duration = Duration::from_millis(300);

/// The downloader.
pub(super) enum Backend {
    Daemon(Client),
    Embedded(Embedded),
}

/// An agent in this process.
pub(super) struct Embedded {
    agent: Agent,
    /// Its data directory.
    room: PathBuf,
    home: Arc<Home>,
    /// Why no daemon does the work.
    pub(super) why: String,
    keep: bool,
    /// The sources whose downloads are not done.
    open: Mutex<Vec<BlobId>>,
    /// Blobs that were stored before this command, and whether each was complete.
    before: HashMap<BlobId, bool>,
    /// Blobs that need not be kept, but were still being read when their downloads ended.
    left: Mutex<HashSet<BlobId>>,
}

/// One request for content.
pub(super) struct Question<'a> {
    pub(super) url: &'a Url,
    pub(super) headers: &'a [(String, String)],
    pub(super) digest: Option<Digest>,
    /// Query parameters that sign addresses, besides those of the usual object stores. A daemon has its own list.
    pub(super) signed: &'a [String],
    /// True to ask the origin for a file name.
    pub(super) disposition: bool,
    /// The order in which the content is wanted.
    pub(super) order: Order,
    /// The bytes that are wanted; all if `None`.
    pub(super) range: Option<Span>,
    /// Called to tell the user what the daemon waits for.
    pub(super) says: &'a (dyn Fn(&Waiting) + Sync),
    /// Called to tell the user that the daemon does not answer.
    pub(super) mute: &'a (dyn Fn(&Path) + Sync),
}

/// A download that has begun: the origin or the swarm has confirmed that the content exists.
pub(super) struct Opened {
    pub(super) blob: BlobId,
    /// Length in bytes, if known.
    pub(super) length: Option<u64>,
    /// The range that is delivered, if not everything. Offsets of delivered bytes count from its beginning.
    pub(super) part: Option<ByteRange>,
    /// When it was last modified, in the origin's spelling.
    pub(super) modified: Option<String>,
    /// The file name that the origin gave, if it was asked for one.
    pub(super) disposition: Option<String>,
    /// The store whose file may become the result, because it need not be kept.
    pub(super) moves: Option<Arc<Home>>,
    /// True if this process need not keep the content.
    pub(super) spent: bool,
    /// The blob's traffic before this request. An older daemon does not say.
    pub(super) before: Traffic,
    /// True if the final message will say which digests were checked.
    pub(super) vouched: bool,
    /// Verified content. Ends with [`Given::Whole`] or an error.
    pub(super) content: BoxStream<'static, anyhow::Result<Given>>,
    pub(super) watch: Watch,
}

/// One message of a download.
pub(super) enum Given {
    Chunk(Chunk),
    /// All earlier bytes are void: other content follows.
    Anew(Anew),
    /// The content is complete.
    Whole {
        length: u64,
        checked: Vec<Checked>,
    },
}

/// The content changed at its origin while it was read: the bytes so far are of the old version.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Changed(String);

/// How to ask for a download's progress.
pub(super) enum Watch {
    Daemon(Client, BlobId),
    Embedded(Arc<Download>),
}

impl Backend {
    /// Uses a daemon if one runs and may be used; else starts an agent in this process. `say` gives notes to the user.
    pub(super) async fn choose(
        args: &GetArgs,
        jobs: &[Job],
        sources: &[BlobId],
        say: impl Fn(&str),
    ) -> anyhow::Result<Self> {
        // A daemon reads no local files for others: the daemon may have rights that this user has not.
        let files = jobs.iter().all(|job| job.url.scheme() == "file");
        let why = if args.no_daemon {
            let own = Client::at(socket_path(&args.place.data_dir()?));
            if args.keep && own.runs().await.unwrap_or(false) {
                anyhow::bail!("--keep: a daemon uses this store; leave out --no-daemon, or give another --data-dir");
            }
            "--no-daemon".to_owned()
        } else if files {
            "a local file".to_owned()
        } else {
            match find_daemon(args, &say).await? {
                Ok(client) => return Ok(Self::Daemon(client)),
                Err(why) => why,
            }
        };
        if args.log.verbose > 0 {
            say(&format!("{why}: downloading in this process"));
        }
        let data_dir = rooms::parent(args.place.data_dir()?, args.keep);
        let mut told = false;
        loop {
            let mut holder = None;
            for room in rooms::candidates(&data_dir, sources, args.keep) {
                rooms::make(&room)
                    .with_context(|| format!("can't keep anything in {}; give another --data-dir", room.display()))?;
                match Agent::start(args.embedded_options(room.clone())?).await {
                    Ok(agent) => {
                        let (mine, wanted) = (room.clone(), sources.to_vec());
                        threads::run(move || rooms::note(&mine, &wanted)).await;
                        let (directory, mine) = (data_dir.clone(), room.clone());
                        // Nothing waits for this cleanup.
                        threads::run(move || rooms::clear_leftovers(&directory, &mine)).detach();
                        let open = Mutex::new(sources.to_vec());
                        let home = Arc::new(Home::new(&room));
                        // Listed now, since a small blob can be complete by the time that its download is open.
                        let rows = agent.list().await?;
                        let before = rows.iter().map(|row| (row.blob, row.complete)).collect();
                        let (keep, left) = (args.keep, Mutex::default());
                        return Ok(Self::Embedded(Embedded { agent, room, home, why, keep, open, before, left }));
                    }
                    Err(StartError::Store(StoreError::Locked { pid, .. })) => holder = pid,
                    Err(error) => return Err(error.into()),
                }
            }
            if !told && !args.quiet {
                let who = holder.map_or_else(|| "another darter".to_owned(), |pid| format!("darter (process {pid})"));
                say(&format!("{who} is using {}: waiting for it to end", data_dir.display()));
            }
            told = true;
            tokio::time::sleep(LOCK_POLL).await;
        }
    }

    /// Requests content.
    pub(super) async fn open(&self, question: &Question<'_>) -> anyhow::Result<Opened> {
        match self {
            Self::Daemon(client) => open_at_daemon(client, question).await,
            Self::Embedded(embedded) => embedded.open(question).await,
        }
    }

    /// Ends the work on a source; `spent` is its blob if it is complete and need not be kept.
    pub(super) async fn done(&self, source: BlobId, spent: Option<BlobId>) {
        let Self::Embedded(embedded) = self else { return };
        embedded.open.lock().retain(|open| *open != source);
        if let Some(blob) = spent
            && embedded.agent.remove(&blob.to_string()).await.is_err()
        {
            embedded.left.lock().insert(blob);
        }
    }

    /// Stops the agent in this process. A daemon goes on.
    pub(super) async fn close(&self) {
        let Self::Embedded(embedded) = self else { return };
        let (room, open) = (embedded.room.clone(), embedded.open.lock().clone());
        threads::run(move || rooms::note(&room, &open)).await;
        embedded.remove_left().await;
        embedded.agent.drain().await;
    }

    /// The daemon's socket, if a daemon does the work.
    pub(super) fn socket(&self) -> Option<&Path> {
        match self {
            Self::Daemon(client) => Some(client.socket()),
            Self::Embedded(_) => None,
        }
    }

    /// Why no daemon does the work.
    pub(super) fn why_alone(&self) -> Option<&str> {
        match self {
            Self::Daemon(_) => None,
            Self::Embedded(embedded) => Some(&embedded.why),
        }
    }
}

/// The daemon to use, or why there is none. If a data directory was named and its daemon refuses this user, that is an error: this user
/// can't use the directory without the daemon either.
async fn find_daemon(args: &GetArgs, say: &impl Fn(&str)) -> anyhow::Result<Result<Client, String>> {
    let own = args.place.data_dir()?;
    let mut why = None;
    for client in args.place.clients()? {
        match client.runs().await {
            Ok(true) => {
                if args.log.verbose > 0 {
                    say(&format!("using the daemon at {}", client.socket().display()));
                }
                return Ok(Ok(client));
            }
            Ok(false) => {}
            // A home directory of another user, as `sudo -u` leaves it in the environment.
            Err(ClientError::Forbidden(_)) if rooms::is_nobodys_choice(&own) && client.socket().starts_with(&own) => {
                why = Some(format!("{} is not open to this user", own.display()));
            }
            Err(error @ ClientError::Forbidden(_)) if client.socket().starts_with(&own) => return Err(error.into()),
            Err(ClientError::Forbidden(socket)) => {
                let text = format!(
                    "the daemon at {} is not open to this user (ask for membership in the group of its --socket-group)",
                    socket.display()
                );
                if !args.quiet {
                    say(&format!("{text}; downloading without it"));
                }
                why = Some(format!("{} is not open to this user", socket.display()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let none = || {
        let sockets: Vec<_> =
            args.place.clients().unwrap_or_default().iter().map(|it| it.socket().display().to_string()).collect();
        format!("no daemon at {}", sockets.join(" or "))
    };
    Ok(Err(why.unwrap_or_else(none)))
}

impl Embedded {
    /// Removes blobs that other downloads of this command still read when they were to be removed.
    async fn remove_left(&self) {
        let left = std::mem::take(&mut *self.left.lock());
        for blob in left {
            rooms::remove(&self.agent, blob).await;
        }
    }

    async fn open(&self, question: &Question<'_>) -> anyhow::Result<Opened> {
        let (source, credentials) = source_of(question);
        let disposition = if question.disposition { self.agent.disposition(&source, &credentials).await } else { None };
        if let Some(span) = question.range {
            return self.open_span(source, credentials, span, disposition).await;
        }
        let download = Arc::new(self.agent.open(source, credentials).await?);
        // A blob that was complete in the store before this command stays.
        let was_whole = self.before.get(&download.blob()).is_some_and(|whole| *whole);
        let moves = (!self.keep && !was_whole).then(|| Arc::clone(&self.home));
        let parts = download.hand_on(question.order).map(given_here);
        Ok(Opened {
            blob: download.blob(),
            length: download.length(),
            part: None,
            modified: download.version().last_modified,
            disposition,
            spent: moves.is_some(),
            moves,
            before: download.traffic_before(),
            vouched: true,
            content: parts.boxed(),
            watch: Watch::Embedded(download),
        })
    }

    async fn open_span(
        &self,
        source: Source,
        credentials: Credentials,
        span: Span,
        disposition: Option<String>,
    ) -> anyhow::Result<Opened> {
        let (download, range) = self.agent.open_span(source, credentials, span).await?;
        let download = Arc::new(download);
        let bytes = download.bytes_of(range).scan(0, |at, bytes| {
            let here = *at;
            *at += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
            std::future::ready(Some(bytes.map(|bytes| Handing::Part(here, Part::Bytes(bytes)))))
        });
        let end = Handing::Whole { length: range.len(), checked: Vec::new() };
        Ok(Opened {
            blob: download.blob(),
            length: download.length(),
            part: Some(range),
            modified: download.version().last_modified,
            disposition,
            moves: None,
            spent: !self.before.contains_key(&download.blob()) && !self.keep,
            before: download.traffic_before(),
            vouched: true,
            content: bytes.chain(stream::iter([Ok(end)])).map(given_here).boxed(),
            watch: Watch::Embedded(download),
        })
    }
}

/// The source of a request, with its credentials.
pub(super) fn source_of(question: &Question<'_>) -> (Source, Credentials) {
    Source::from_signed_url(question.url.clone(), question.headers, question.digest, question.signed)
}

async fn open_at_daemon(client: &Client, question: &Question<'_>) -> anyhow::Result<Opened> {
    let request = GetRequest {
        url: question.url.to_string(),
        headers: question.headers.to_vec(),
        digest: question.digest,
        disposition: question.disposition,
        range: question.range,
        layer: None,
        blob: None,
        again: false,
    };
    let order = Some(question.order).filter(|_| question.range.is_none());
    let mut given = std::pin::pin!(client.get(&request, order));
    let client::GetAnswer { head, content } = loop {
        if let Ok(given) = tokio::time::timeout(WAITING_POLL, &mut given).await {
            break given?;
        }
        let mut waiting = std::pin::pin!(client.waiting(&request));
        let told = match tokio::time::timeout(TOLD_AFTER, &mut waiting).await {
            Ok(told) => told,
            Err(_) => {
                (question.mute)(client.socket());
                waiting.await
            }
        };
        if let Some(waiting) = told {
            (question.says)(&waiting);
        }
    };
    let header = |name: &str| head.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let blob = header(BLOB_HEADER)
        .and_then(|text| text.parse().ok())
        .context("the daemon's answer names no blob; is it of another version?")?;
    let part = header(RANGE_HEADER).and_then(|text| part_of(&text));
    if question.range.is_some() && part.is_none() {
        anyhow::bail!("the daemon is of an older version, which gives no ranges: restart it, or add --no-daemon");
    }
    let vouched = head.contains_key(ORDER_HEADER);
    let content = match content {
        client::Content::File(receiver) => stream::try_unfold(Some(receiver), next_handed).boxed(),
        client::Content::Bytes(body) => stream::try_unfold(Some((body, 0)), next_bytes).boxed(),
    };
    Ok(Opened {
        blob,
        length: header(LENGTH_HEADER).and_then(|text| text.parse().ok()),
        part,
        modified: header(MODIFIED_HEADER),
        disposition: header(DISPOSITION_HEADER),
        moves: None,
        spent: false,
        before: header(TRAFFIC_HEADER).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
        vouched,
        content,
        watch: Watch::Daemon(client.clone(), blob),
    })
}

/// `FIRST-LAST/LENGTH`.
fn part_of(text: &str) -> Option<ByteRange> {
    let (first, last) = text.split_once('/')?.0.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then(|| ByteRange::new(first, last.saturating_add(1)))
}

/// The error for a daemon that ended or was killed.
fn went_away() -> Failure {
    let text =
        "the daemon ended before the download did; look into its log, then run the command again to get the rest"
            .to_owned();
    Failure::Judged { text, blame: Blame::new(Fault::Ourselves, Retry::Later(None)) }
}

/// A message from the agent in this process.
fn given_here(handing: Result<Handing, FetchError>) -> anyhow::Result<Given> {
    Ok(match handing {
        Ok(Handing::Part(_, Part::File(part))) => Given::Chunk(Chunk::File(part.file, part.range)),
        Ok(Handing::Part(at, Part::Bytes(bytes))) => Given::Chunk(Chunk::Bytes(at, bytes)),
        Ok(Handing::Anew { blob, length, modified }) => Given::Anew(Anew { blob, length, modified }),
        Ok(Handing::Whole { length, checked }) => Given::Whole { length, checked },
        Err(error) if error.is_changed() => return Err(Changed(error.to_string()).into()),
        Err(error) => return Err(error.into()),
    })
}

/// The next message from a daemon that hands over a file.
async fn next_handed(receiver: Option<Receiver>) -> anyhow::Result<Option<(Given, Option<Receiver>)>> {
    let Some(mut receiver) = receiver else { return Ok(None) };
    let given = match receiver.next().await.with_context(went_away)? {
        Handed::Range(file, range) => Given::Chunk(Chunk::File(file, range)),
        Handed::Bytes(at, bytes) => Given::Chunk(Chunk::Bytes(at, bytes)),
        Handed::Anew(anew) => Given::Anew(anew),
        Handed::End { length, checked } => return Ok(Some((Given::Whole { length, checked }, None))),
        Handed::Failed(problem) => return Err(ClientError::Refused(problem).into()),
        Handed::Changed(reason) => return Err(Changed(reason).into()),
    };
    Ok(Some((given, Some(receiver))))
}

/// The rest of a daemon's answer, and the offset of its next byte.
type RestOfBody = Option<(Incoming, u64)>;

/// The next bytes from a daemon that sends bytes instead of a file. An answer that fails half-way gives the reason in its trailer, if the daemon
/// is still alive.
async fn next_bytes(body: RestOfBody) -> anyhow::Result<Option<(Given, RestOfBody)>> {
    let Some((mut body, at)) = body else { return Ok(None) };
    let end = || Ok(Some((Given::Whole { length: at, checked: Vec::new() }, None)));
    let Some(frame) = body.frame().await else { return end() };
    let frame = frame.with_context(went_away)?;
    match frame.into_data() {
        Ok(data) => {
            let next = at + data.len() as u64;
            Ok(Some((Given::Chunk(Chunk::Bytes(at, data)), Some((body, next)))))
        }
        Err(other) => {
            let trailer = |name| other.trailers_ref().and_then(|trailers| trailers.get(name));
            let Some(reason) = trailer(ERROR_TRAILER) else { return end() };
            let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let reason = text(reason);
            if trailer(CHANGED_TRAILER).is_some() {
                return Err(Changed(reason).into());
            }
            let told = |name| trailer(name).map(text);
            let problem = Problem {
                error: reason,
                fault: Fault::ALL.into_iter().find(|fault| told(FAULT_TRAILER).as_deref() == Some(fault.name())),
                retry: told(RETRY_TRAILER),
                retry_after_seconds: told(RETRY_AFTER_TRAILER).and_then(|wait| wait.parse().ok()),
            };
            Err(ClientError::Refused(problem).into())
        }
    }
}

impl Watch {
    /// The progress of the download; `None` if the daemon does not say.
    pub(super) async fn progress(&self) -> Option<Progress> {
        match self {
            Self::Daemon(client, blob) => client.progress(*blob).await.ok(),
            Self::Embedded(download) => Some(download.progress()),
        }
    }
}
