//! The process that keeps a tree: an archive's members, or several files, as a directory. Ordinary users mount it with fusermount3, as they do a single file.
//!
//! An archive is one file, which is opened like any other ([`archive`]); files of a list, a directory or an artifact are opened when programs open them (`files`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use darter_api::client::Client;
use darter_api::{BlobRequest, GetRequest, MountKind, MountStatus};
use darter_archive::tree::TreeBuilder;
use darter_archive::{ArchiveError, Tree};
use darter_core::{BlobId, Clock as _, Digest, Source, SystemClock};
use darter_image::tar::Time;
use darter_mount::archive::{Archive, ScanError, scan};
use darter_mount::set::{FileSet, MAX_KEPT, NotOpened, OpenedFile, Opener};
use darter_mount::supply::Content;
use darter_mount::tree::TreeReader;
use darter_mount::{Condition, Fill, KeptFile, Mounted, MountedFile, Pages, Settings};
use darter_store::threads;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::runtime::Handle;
use url::Url;

use super::hub::{self, HubFile, Repository};
use super::image::Artifact;
use super::image::ImageMount;
use super::keeper::{LAST_READS, away};
use super::listed::{self, MAX_LIST};
use super::register::Registration;
use super::sources::{Agents, FileSource, request};
use super::told::{self, About, told_of};
use crate::cli::MountArgs;
use crate::failure::Failure;
use crate::get::credentials::Senders;
use crate::output;
use crate::signals::Signals;

/// How many files of a list are requested at a time.
const MAX_ASKING: usize = 8;

/// If the search for an archive's members takes longer than this, progress is printed at this interval.
const TELL_EVERY: Duration = Duration::from_secs(3);

/// The kind of a tree's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Archive,
    List,
    Directory,
    Hub,
}

/// The URL to be mounted as a tree, and its mount point.
pub(super) struct TreeMount {
    pub(super) shape: Shape,
    pub(super) url: Url,
    /// The directory, with all links resolved.
    pub(super) dir: PathBuf,
    pub(super) digest: Option<Digest>,
    pub(super) senders: Senders,
}

/// A tree that can be mounted.
struct Ready {
    tree: Arc<Tree>,
    kind: MountKind,
    source: Opened,
    /// The URL as it is listed.
    url: String,
    image: Option<Digest>,
}

/// The source of a tree's bytes.
enum Opened {
    Archive(Arc<KeptFile>),
    Set(Arc<FileSet>),
}

/// Mounts, calls `told` when that is done, and keeps the mount until it is unmounted.
pub(super) async fn run(
    args: &MountArgs,
    mount: TreeMount,
    foreground: bool,
    told: impl FnOnce(&MountStatus) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut signals = if foreground { Signals::catch_in_foreground()? } else { Signals::catch()? };
    let asked = request(&mount.url, mount.senders.of(&mount.url), mount.digest);
    // A local list may name files anywhere, which the daemon may not be allowed to read.
    let is_local = mount.url.scheme() == "file";
    let signed = &args.origin.signed_parameter;
    let shown = Source::from_signed_url(mount.url.clone(), &[], None, signed).0.to_string();
    let interrupted =
        |signal: tokio::signal::unix::SignalKind| -> anyhow::Error { Failure::ended_by(signal, String::new()).into() };
    let below = match mount.shape {
        Shape::Directory => Some(top_of(&mount.url).await?),
        Shape::Archive | Shape::List | Shape::Hub => None,
    };
    let agents = tokio::select! {
        agents = Agents::choose(args, &asked, is_local && mount.shape != Shape::List, below.clone()) => agents?,
        signal = signals.which() => return Err(interrupted(signal)),
    };
    let prepared = async {
        match below {
            Some(top) => directory(args, &agents, top, shown).await,
            None if mount.shape == Shape::List => list(args, &agents, (&mount, asked.clone()), shown).await,
            None if mount.shape == Shape::Hub => hub(args, &agents, &mount, shown).await,
            None => archive(args, &agents, asked.clone(), shown).await,
        }
    };
    let prepared = tokio::select! {
        prepared = prepared => prepared,
        signal = signals.which() => Err(interrupted(signal)),
    };
    let kept = match prepared {
        Ok(ready) => keep(args, mount.dir, &agents, ready, signals, told).await,
        Err(error) => Err(error),
    };
    // However the mount ends, nothing that was read for it stays.
    agents.close().await;
    kept
}

/// Mounts an artifact of a registry, calls `told` when that is done, and keeps the mount until it is unmounted.
pub(super) async fn run_artifact(
    args: &MountArgs,
    mount: &ImageMount,
    (daemon, artifact): (Client, Artifact),
    signals: Signals,
    told: impl FnOnce(&MountStatus) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let agents = Agents::Daemon(daemon);
    let mut builder = TreeBuilder::new(Time::default());
    let mut requests = Vec::new();
    for file in artifact.files {
        builder.add(file.path.as_bytes(), 0o644, Time::default(), listed::body(requests.len(), file.size)?)?;
        let blob = BlobRequest {
            registry: mount.image.registry.clone(),
            repository: mount.image.repository.clone(),
            digest: file.digest,
            size: Some(file.size),
        };
        let asked = request(&Url::parse(&blob.address())?, mount.headers.clone(), None);
        requests.push(GetRequest { blob: Some(blob), ..asked });
    }
    let tree = Arc::new(builder.finish()?);
    let set = set(args, &agents, &tree, requests).await?;
    let source = Opened::Set(set);
    let (url, image) = (mount.image.to_string(), Some(artifact.digest));
    let ready = Ready { tree, kind: MountKind::Artifact, source, url, image };
    keep(args, mount.dir.clone(), &agents, ready, signals, told).await
}

fn settings(args: &MountArgs, has_digest: bool) -> Settings {
    Settings { limit: args.timeout, fill: args.fill, fill_rate: args.fill_rate, has_digest, pages: Pages::Mounted }
}

/// Opens an archive, and finds its members.
async fn archive(args: &MountArgs, agents: &Agents, asked: GetRequest, url: String) -> anyhow::Result<Ready> {
    let has_digest = asked.digest.is_some();
    let source = agents.source(asked)?;
    let (content, supply) = source.first().await?;
    let mtime = modified(&content);
    let file = MountedFile::new(content, supply, settings(args, has_digest), Arc::new(SystemClock::start()));
    let kept = KeptFile::begin(Arc::clone(&file), source);
    let mut telling = tokio::time::interval(TELL_EVERY);
    telling.tick().await;
    let mut scanning = std::pin::pin!(scan(&file, mtime));
    let scanned = loop {
        tokio::select! {
            scanned = &mut scanning => break scanned,
            _ = telling.tick() => {
                let held = crate::units::size(file.glance().await.held);
                output::complain(&format!("looking for the archive's members ({held} of it are here so far)"));
            }
        }
    };
    let scanned = match scanned {
        Ok(scanned) => scanned,
        Err(ScanError::Archive(error)) => return Err(refused(&url, &error)),
        Err(error @ ScanError::Unread { .. }) => {
            let why = told_of(file.glance().await.condition).1.unwrap_or_else(|| "they do not come".to_owned());
            let text = format!("{url}: {error} within {:?}: {why}", args.timeout);
            let blame = darter_core::Blame::new(darter_core::Fault::Origin, darter_core::Retry::Later(None));
            return Err(Failure::Judged { text, blame }.into());
        }
    };
    let (count, named) = &scanned.tree.unreadable;
    if *count > 0 {
        let named: Vec<_> = named.iter().map(|(name, why)| format!("{name} {why}")).collect();
        let more = if *count > named.len() as u64 { ", …" } else { "" };
        output::complain(&format!("{count} of its files can't be read: {}{more}", named.join(", ")));
    }
    let kind = if scanned.kind == "zip" { MountKind::Zip } else { MountKind::Tar };
    Ok(Ready { tree: Arc::new(scanned.tree), kind, source: Opened::Archive(kept), url, image: None })
}

fn refused(url: &str, error: &ArchiveError) -> anyhow::Error {
    use darter_core::Blamed as _;
    Failure::Judged { text: format!("{url} can't be shown as a directory: {error}"), blame: error.blame() }.into()
}

/// When the content was last modified; the current time if unknown.
fn modified(content: &Content) -> Time {
    let told = content.modified.as_deref().and_then(|date| httpdate::parse_http_date(date).ok());
    let since = told.and_then(|told| told.duration_since(std::time::UNIX_EPOCH).ok());
    let seconds = since.map_or_else(|| SystemClock::start().unix(), |since| since.as_secs());
    Time { seconds: seconds.try_into().unwrap_or_default(), nanos: 0 }
}

/// Reads a list, and asks for the length of each of its files.
async fn list(
    args: &MountArgs,
    agents: &Agents,
    (mount, asked): (&TreeMount, GetRequest),
    url: String,
) -> anyhow::Result<Ready> {
    let text = if mount.url.scheme() == "file" {
        let path = local(&mount.url)?;
        threads::run(move || listed::read(&path)).await?
    } else {
        read_list(args, agents, asked, listed::NO_LIST).await?
    };
    let files = listed::parsed(&text, &mount.url)?;
    // Headers go only to the server that the user named; logins go to their hosts.
    let logins = mount.senders.logins();
    let is_users_own = |url: &Url| mount.url.scheme() == "file" || url.origin() == mount.url.origin();
    let requests = files.iter().map(|file| {
        let senders = if is_users_own(&file.url) { &mount.senders } else { &logins };
        request(&file.url, senders.of(&file.url), file.digest)
    });
    let requests: Vec<_> = requests.collect();
    if requests.iter().any(|asked| asked.url.starts_with("file:")) && agents.socket().is_some() {
        let text = "the list names local files, which a daemon does not read for others: add --no-daemon, so that this process reads everything";
        return Err(Failure::Usage(text.to_owned()).into());
    }
    let contents = stream::iter(&requests).map(async |asked| {
        let (content, _) = agents.source(asked.clone())?.first().await.with_context(|| asked.url.clone())?;
        anyhow::Ok((content.length, modified(&content)))
    });
    let contents: Vec<_> = contents.buffered(MAX_ASKING).try_collect().await?;
    let mut builder = TreeBuilder::new(Time { seconds: SystemClock::start().unix().try_into()?, nanos: 0 });
    for (number, (file, (length, mtime))) in files.iter().zip(contents).enumerate() {
        let body = listed::body(number, length)?;
        builder.add(file.path.as_bytes(), 0o644, mtime, body).map_err(|error| refused(&url, &error))?;
    }
    let tree = Arc::new(builder.finish()?);
    let source = Opened::Set(set(args, agents, &tree, requests).await?);
    Ok(Ready { tree, kind: MountKind::List, source, url, image: None })
}

/// Asks a hub for the files of a repository.
async fn hub(args: &MountArgs, agents: &Agents, mount: &TreeMount, url: String) -> anyhow::Result<Ready> {
    let repository = Repository::at(&mount.url)?;
    let question = repository.question()?;
    let asked = request(&question, mount.senders.of(&question), None);
    let text = read_list(args, agents, asked, hub::NO_ANSWER).await?;
    let files = repository.files(&text)?;
    let now = Time { seconds: SystemClock::start().unix().try_into()?, nanos: 0 };
    let (mut builder, mut requests) = (TreeBuilder::new(now), Vec::new());
    for HubFile { file, length } in files {
        let body = listed::body(requests.len(), length)?;
        builder.add(file.path.as_bytes(), 0o644, now, body).map_err(|error| refused(&url, &error))?;
        requests.push(request(&file.url, mount.senders.of(&file.url), file.digest));
    }
    let tree = Arc::new(builder.finish()?);
    let source = Opened::Set(set(args, agents, &tree, requests).await?);
    Ok(Ready { tree, kind: MountKind::Hub, source, url, image: None })
}

/// Reads a list. If the content is not a list, the error ends with `but`.
async fn read_list(args: &MountArgs, agents: &Agents, asked: GetRequest, but: &str) -> anyhow::Result<String> {
    let (url, source) = (asked.url.clone(), agents.source(asked)?);
    let (content, supply) = source.first().await?;
    let length = content.length;
    if length > MAX_LIST {
        return Err(listed::too_long(&url, length, but).into());
    }
    let file = MountedFile::new(content, supply, settings(args, false), Arc::new(SystemClock::start()));
    let kept = KeptFile::begin(Arc::clone(&file), source);
    let mut text = Vec::new();
    while (text.len() as u64) < length {
        let read = file.read(text.len() as u64, 1 << 20).await;
        let bytes = read.map_err(|_| anyhow::anyhow!("{url} can't be read within {:?}", args.timeout))?;
        text.extend_from_slice(&bytes);
    }
    drop(kept);
    String::from_utf8(text).map_err(|_| anyhow::anyhow!("{url} is not text, and {but}"))
}

/// The local path of a URL.
pub(super) fn local(url: &Url) -> anyhow::Result<PathBuf> {
    url.to_file_path().map_err(|()| Failure::Usage(format!("{url} is not a path on this host")).into())
}

/// A local directory, with all links resolved.
async fn top_of(url: &Url) -> anyhow::Result<PathBuf> {
    let top = local(url)?;
    let shown = top.display().to_string();
    threads::run(move || std::fs::canonicalize(top)).await.with_context(|| format!("can't read {shown}"))
}

async fn directory(args: &MountArgs, agents: &Agents, top: PathBuf, url: String) -> anyhow::Result<Ready> {
    let (tree, files) = threads::run(move || listed::walk(&top)).await?;
    let of = |path: &PathBuf| {
        let url = Url::from_file_path(path).map_err(|()| anyhow::anyhow!("{} is no path", path.display()))?;
        anyhow::Ok(request(&url, Vec::new(), None))
    };
    let requests = files.iter().map(of).collect::<anyhow::Result<_>>()?;
    let tree = Arc::new(tree);
    let source = Opened::Set(set(args, agents, &tree, requests).await?);
    Ok(Ready { tree, kind: MountKind::Directory, source, url, image: None })
}

/// Several files, each of which is opened when a program opens it.
struct Requests {
    agents: Agents,
    requests: Vec<GetRequest>,
}

#[async_trait]
impl Opener for Requests {
    async fn open(&self, file: u32) -> Result<OpenedFile, NotOpened> {
        let never = |reason: String| NotOpened { reason, may_pass: false };
        let asked =
            self.requests.get(file as usize).cloned().ok_or_else(|| never("it is not in the list".to_owned()))?;
        let has_digest = asked.digest.is_some() || asked.blob.is_some();
        let source = self.agents.source(asked).map_err(|error| never(format!("{error:#}")))?;
        let source = Arc::new(source);
        let opened = FileSource::open_once(&source).await;
        let (content, supply) = opened.map_err(|(reason, may_pass)| NotOpened { reason, may_pass })?;
        Ok(OpenedFile { content, supply, supplier: source, has_digest })
    }
}

async fn set(
    args: &MountArgs,
    agents: &Agents,
    tree: &Arc<Tree>,
    requests: Vec<GetRequest>,
) -> anyhow::Result<Arc<FileSet>> {
    let count = requests.len();
    if args.fill != Fill::Never && count > MAX_KEPT {
        let text = format!("--fill keeps all files open, at most {MAX_KEPT}, but there are {count}: leave out --fill");
        return Err(Failure::Usage(text).into());
    }
    let opener = Arc::new(Requests { agents: agents.clone(), requests });
    let clock = Arc::new(SystemClock::start());
    let set = FileSet::new(Arc::clone(tree), count, opener, settings(args, false), clock);
    if args.fill != Fill::Never {
        set.open_all().await.map_err(|error| anyhow::anyhow!(error.reason))?;
    }
    Ok(set)
}

async fn keep(
    args: &MountArgs,
    dir: PathBuf,
    agents: &Agents,
    ready: Ready,
    mut signals: Signals,
    told: impl FnOnce(&MountStatus) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let since = SystemClock::start().unix();
    let reader: Arc<dyn TreeReader> = match &ready.source {
        Opened::Archive(kept) => Arc::new(Archive::new(Arc::clone(&ready.tree), Arc::clone(kept.file()))),
        Opened::Set(set) => Arc::clone(set) as Arc<dyn TreeReader>,
    };
    let (mounted, cache) = {
        let (tree, dir, others, runtime) = (Arc::clone(&ready.tree), dir.clone(), args.allow_other, Handle::current());
        threads::run(move || Mounted::mount_tree(tree, reader, &dir, others, super::opened, runtime)).await?
    };
    let over = match &ready.source {
        Opened::Archive(kept) => Some((kept.over(), cache)),
        Opened::Set(set) => {
            set.mounted(cache);
            None
        }
    };
    let tainted = async move {
        if let Some((over, cache)) = over
            && let Some(Condition::Tainted(reason)) = over.await
        {
            tracing::warn!(reason, "the mounted archive is wrong: all reads fail from now on");
            let _ = tokio::task::spawn_blocking(move || cache.forget(None)).await;
        }
        std::future::pending::<std::convert::Infallible>().await
    };
    let mut session = tokio::task::spawn_blocking(move || mounted.wait());
    let status = async || status(args, &dir, agents, since, &ready).await;
    let entry = match Registration::announce(&args.place, &status().await, told) {
        Ok(entry) => entry,
        Err(error) => {
            away(&dir).await;
            return Err(error);
        }
    };
    let result = tokio::select! {
        ended = &mut session => ended.context("the mount's thread failed")?.context("the kernel ended the mount"),
        () = signals.next() => {
            away(&dir).await;
            // Reads that still wait get an error when this process ends.
            let _ = tokio::time::timeout(LAST_READS, &mut session).await;
            Ok(())
        }
        never = tainted => match never {},
        never = entry.serve(status) => match never {},
    };
    drop(entry);
    match &ready.source {
        Opened::Archive(kept) => kept.file().hand_over().await,
        Opened::Set(set) => set.hand_over().await,
    }
    result
}

async fn status(args: &MountArgs, dir: &std::path::Path, agents: &Agents, since: u64, ready: &Ready) -> MountStatus {
    let (blob, length, now) = match &ready.source {
        Opened::Archive(kept) => {
            let content = kept.file().content();
            (content.blob, content.length, kept.file().glance().await)
        }
        Opened::Set(set) => (BlobId([0; 32]), ready.tree.bytes, set.overview().await),
    };
    let about = About {
        dir,
        file: String::new(),
        url: ready.url.clone(),
        image: ready.image,
        kind: ready.kind,
        files: Some(ready.tree.files),
        blob,
        length,
        since,
        daemon: agents.socket().map(std::path::Path::to_owned),
    };
    told::status(args, about, now)
}
