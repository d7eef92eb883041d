//! One call after the other: the tree says what may be done, the book writes it down, then it is so.
//!
//! An unpacker asks for a snapshot to unpack a layer into, and says by a label which one it wants in the end. If the layer can be had lazily, that
//! one is there at once, and the answer is that it exists: nothing is downloaded. Anything amiss on the way to it (no agent, no directory, no EROFS) is
//! no error: the layer is unpacked as ever.
//!
//! Invariants: a snapshot that was told of is on the disk, and so is a mount before it is used; what is not wanted any more goes after the book says so. No
//! lock is held while the kernel mounts: that may wait for a layer's first bytes.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use darter_core::{Clock, Digest};
use darter_mount::erofs;
use darter_store::threads::{self, DiskWork};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Notify;

use crate::book::{Book, BookError, MountChange};
use crate::disk;
use crate::filter::Filters;
use crate::layout::{Layout, Mount};
use crate::stack::{File, LINGER, Mounted, Stack};
use crate::tree::{Change, Kind, Labels, Part, Refusal, Snapshot, TARGET, Tree, Usage};

/// How long the directory of layers may say nothing.
const DIRECTORY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long what has to mount layers may take: longer than their keeper waits for bytes.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(150);

/// The agent is told which layers are named so long after a change, so that an image is one message; and again after this time, as it may be another one.
const TELL_PAUSE: Duration = Duration::from_millis(500);
const TELL_AGAIN: Duration = Duration::from_secs(600);
/// Between tries to tell it.
const TELL_RETRY: Duration = Duration::from_secs(5);

/// The layers that the agent of this host has.
#[async_trait]
pub trait Layers: Send + Sync + 'static {
    /// The uppermost layer of the image whose layers up to that one have this chain id; `None`: it can't be had lazily.
    async fn uppermost(&self, chain: Digest) -> Option<FoundLayer>;

    /// These layers, and no others, are named by snapshots.
    ///
    /// # Errors
    /// Why the agent could not be told.
    async fn named(&self, layers: &[Digest]) -> std::result::Result<(), String>;
}

/// A layer that can be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundLayer {
    /// Its diff id.
    pub diff_id: Digest,
    /// How long its file is.
    pub length: u64,
    /// Bytes that are here.
    pub held: u64,
}

/// How a snapshotter runs.
#[derive(Clone)]
pub struct Options {
    /// Where it keeps what it has.
    pub root: PathBuf,
    /// The directory of layers.
    pub layers: PathBuf,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

/// Why it can't start.
#[derive(Debug, Error)]
pub enum StartError {
    /// What it has.
    #[error(transparent)]
    Book(#[from] BookError),
    /// Its directories.
    #[error("can't use {}: {}", .0.display(), .1)]
    Directory(PathBuf, io::Error),
}

/// Why a call failed.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A layer can't be had now.
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Failed(String),
}

impl From<BookError> for Failure {
    fn from(error: BookError) -> Self {
        Self::Failed(error.to_string())
    }
}

type Result<T> = std::result::Result<T, Failure>;

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub struct Snapshotter {
    inner: Arc<Inner>,
    layers: Arc<dyn Layers>,
}

struct Inner {
    layout: Layout,
    directory: PathBuf,
    clock: Arc<dyn Clock>,
    /// False where the kernel has no EROFS.
    can_mount: bool,
    book: Book,
    state: Mutex<State>,
    /// The layers that are named may be others.
    changed: Notify,
}

struct State {
    tree: Tree,
    stack: Stack,
    /// Numbers whose directories are being made.
    making: HashSet<u64>,
}

impl Snapshotter {
    /// Takes up what was there: mounts that are as they were are gone on with, others are taken away. Blocking.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open(options: Options, layers: Arc<dyn Layers>) -> std::result::Result<Self, StartError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| StartError::Directory(path, error)
        };
        disk::private(&options.root).map_err(failed(&options.root))?;
        let root = options.root.canonicalize().map_err(failed(&options.root))?;
        let layout = Layout::new(root, disk::has_overlay_index());
        for dir in [layout.snapshots(), layout.layers()] {
            disk::private(&dir).map_err(failed(&dir))?;
        }
        let (book, written) = Book::open(&layout.book())?;
        let there = disk::places(&layout.layers()).map_err(failed(&layout.layers()))?;
        let mut tree = Tree::new(written.snapshots, written.next);
        let (stack, found) = Stack::reconcile(written.mounts, &there, &tree.lazy());
        let highest = stack.highest().into_iter().chain(there.iter().copied()).max();
        while highest.is_some_and(|highest| tree.number() <= highest) {}
        let lost: Vec<MountChange> = found.lost.iter().map(|layer| (*layer, None)).collect();
        book.write(&Change::default(), &lost, tree.next())?;
        let probe = layout.layers().join("probe");
        let can_mount = erofs::is_known(&probe);
        let _ = std::fs::remove_dir(probe);
        if !can_mount {
            tracing::warn!("this kernel has no EROFS: all layers are unpacked (modprobe erofs)");
        }
        let (snapshots, mounts) = (tree.all().count(), there.len() - found.stray.len());
        tracing::info!(snapshots, mounts, root = %layout.root().display(), "took up what was there");
        let inner = Inner {
            layout,
            directory: options.layers,
            clock: options.clock,
            can_mount,
            book,
            state: Mutex::new(State { tree, stack, making: HashSet::new() }),
            changed: Notify::new(),
        };
        inner.clean_up();
        Ok(Self { inner: Arc::new(inner), layers })
    }

    /// Tells the agent which layers snapshots name, as long as this is awaited, and takes old mounts away.
    pub async fn attend(&self) {
        let mut is_told_off = false;
        loop {
            let named = self.inner.state.lock().tree.lazy();
            let pause = match self.layers.named(&named).await {
                Ok(()) => {
                    is_told_off = false;
                    TELL_AGAIN
                }
                Err(reason) => {
                    if !std::mem::replace(&mut is_told_off, true) {
                        tracing::warn!(reason, "the agent can't be told which layers are in use; trying again");
                    }
                    TELL_RETRY
                }
            };
            let lingers = self.inner.state.lock().stack.has_old();
            let pause = if lingers { pause.min(LINGER) } else { pause };
            let _ = tokio::time::timeout(pause, self.inner.changed.notified()).await;
            tokio::time::sleep(TELL_PAUSE).await;
            self.blocking(|inner| {
                inner.take_old_away();
                Ok(())
            })
            .await
            .unwrap_or_default();
        }
    }

    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> DiskWork<Result<T>> {
        let inner = Arc::clone(&self.inner);
        threads::run(move || work(&inner))
    }

    /// The same for what may mount layers, which a directory that hangs keeps from its end. It goes on then; what it makes after that is nobody's, and
    /// containerd takes it away.
    async fn mounting<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        tokio::time::timeout(MOUNT_TIMEOUT, self.blocking(work)).await.unwrap_or_else(|_| {
            let (directory, seconds) = (self.inner.directory.display(), MOUNT_TIMEOUT.as_secs());
            Err(Failure::Unavailable(format!(
                "the directory of layers {directory} has not answered for {seconds} s: is its keeper (darter lazy-dir) stopped?"
            )))
        })
    }

    pub(crate) async fn prepare(&self, key: String, parent: String, labels: Labels) -> Result<Vec<Mount>> {
        if let Some(target) = labels.get(TARGET)
            && self.is_there_lazily(target, &key, &parent, &labels).await?
        {
            return Err(Refusal::Exists(target.clone()).into());
        }
        self.mounting(move |inner| inner.create(Kind::Active, &key, &parent, labels)).await
    }

    pub(crate) async fn view(&self, key: String, parent: String, labels: Labels) -> Result<Vec<Mount>> {
        self.mounting(move |inner| inner.create(Kind::View, &key, &parent, labels)).await
    }

    /// True if the committed snapshot that an unpacker wants is there, or can be had without unpacking.
    async fn is_there_lazily(&self, target: &str, key: &str, parent: &str, labels: &Labels) -> Result<bool> {
        {
            let state = self.inner.state.lock();
            state.tree.check(key, parent)?;
            if state.tree.found(target, parent).is_some() {
                return Ok(true);
            }
        }
        let Some(chain) = target.parse().ok().filter(|_| self.inner.can_mount) else { return Ok(false) };
        let Some(found) = self.layers.uppermost(chain).await else { return Ok(false) };
        // The kernel is not asked to mount it: whoever only pulls an image reads nothing of it.
        let looked = self.blocking(move |inner| Ok(disk::file(&inner.layer_file(found.diff_id))));
        let file = match tokio::time::timeout(DIRECTORY_TIMEOUT, looked).await {
            Ok(looked) => looked?.map_err(|error| error.to_string()),
            Err(_) => Err("no answer".to_owned()),
        };
        match file {
            Ok((_, length)) if length == found.length => {}
            other => {
                let reason = other.err().unwrap_or_else(|| "it has another length there".to_owned());
                let directory = self.inner.directory.display();
                tracing::warn!(layer = %found.diff_id, %directory, reason, "a layer is unpacked, since it is not in the directory of layers");
                return Ok(false);
            }
        }
        let (target, parent, labels) = (target.to_owned(), parent.to_owned(), labels.clone());
        self.blocking(move |inner| inner.commit_lazy(&target, &parent, labels, found)).await?;
        Ok(true)
    }

    pub(crate) async fn mounts(&self, key: String) -> Result<Vec<Mount>> {
        self.mounting(move |inner| inner.mounts(&key)).await
    }

    pub(crate) async fn commit(&self, key: String, name: String, labels: Labels) -> Result<()> {
        self.blocking(move |inner| inner.commit(&key, &name, labels)).await
    }

    pub(crate) async fn remove(&self, key: String) -> Result<()> {
        self.blocking(move |inner| inner.remove(&key)).await
    }

    pub(crate) fn stat(&self, key: &str) -> Result<Snapshot> {
        Ok(self.inner.state.lock().tree.get(key)?.clone())
    }

    pub(crate) async fn update(&self, key: String, labels: Labels, paths: Vec<String>) -> Result<Snapshot> {
        self.blocking(move |inner| {
            let now = inner.clock.date();
            inner.change(&mut inner.state.lock(), |tree| tree.update(&key, labels, &paths, now))?;
            Ok(inner.state.lock().tree.get(&key)?.clone())
        })
        .await
    }

    pub(crate) fn list(&self, filters: &[String]) -> Result<Vec<(String, Snapshot)>> {
        let filters = Filters::parse(filters)?;
        let state = self.inner.state.lock();
        let fitting = state.tree.all().filter(|(name, snapshot)| filters.fit(name, snapshot));
        Ok(fitting.map(|(name, snapshot)| (name.clone(), snapshot.clone())).collect())
    }

    pub(crate) async fn usage(&self, key: String) -> Result<Usage> {
        self.blocking(move |inner| {
            let snapshot = inner.state.lock().tree.get(&key)?.clone();
            match snapshot.kind {
                Kind::Active => inner.usage(snapshot.number),
                Kind::View | Kind::Committed => Ok(snapshot.usage),
            }
        })
        .await
    }

    pub(crate) async fn clean_up(&self) -> Result<()> {
        self.blocking(|inner| {
            inner.clean_up();
            Ok(())
        })
        .await
    }
}

impl Inner {
    fn layer_file(&self, layer: Digest) -> PathBuf {
        let text = layer.to_string();
        let (algorithm, digits) = text.split_once(':').unwrap_or(("", &text));
        self.directory.join(algorithm).join(digits.get(..2).unwrap_or_default()).join(format!("{digits}.erofs"))
    }

    /// Writes down what the tree says, then does it.
    fn change(
        &self,
        state: &mut State,
        decide: impl FnOnce(&Tree) -> std::result::Result<Change, Refusal>,
    ) -> Result<()> {
        let change = decide(&state.tree)?;
        self.book.write(&change, &[], state.tree.next())?;
        state.tree.apply(&change);
        Ok(())
    }

    fn made(&self, number: u64, kind: Kind, labels: Labels) -> Snapshot {
        let now = self.clock.date();
        Snapshot { number, kind, parent: None, created: now, updated: now, labels, usage: Usage::default(), lazy: None }
    }

    fn create(&self, kind: Kind, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let (number, below) = {
            let mut state = self.state.lock();
            state.tree.check(key, parent)?;
            let number = state.tree.number();
            state.making.insert(number);
            let on = Snapshot { parent: Some(parent.to_owned()), ..self.made(number, kind, Labels::new()) };
            (number, state.tree.below(&on))
        };
        let created = self.create_on(kind, number, key, parent, labels, &below);
        if created.is_err()
            && let Err(error) = disk::remove(&self.layout.snapshot(number))
        {
            tracing::warn!(number, %error, "can't remove the directory of a snapshot that could not be made");
        }
        self.state.lock().making.remove(&number);
        created
    }

    fn create_on(
        &self,
        kind: Kind,
        number: u64,
        key: &str,
        parent: &str,
        labels: Labels,
        below: &[Part],
    ) -> Result<Vec<Mount>> {
        let dir = self.layout.snapshot(number);
        let failed = |error: io::Error| Failure::Failed(format!("can't make {}: {error}", dir.display()));
        let below = self.directories(below)?;
        let owner = below.first().map(|parent| disk::owner(parent)).transpose().map_err(failed)?;
        disk::make(&dir, owner).map_err(failed)?;
        let made = self.made(number, kind, labels);
        self.change(&mut self.state.lock(), |tree| tree.create(key, parent, made))?;
        Ok(self.layout.mounts(kind, number, &below))
    }

    fn commit_lazy(&self, target: &str, parent: &str, labels: Labels, found: FoundLayer) -> Result<()> {
        let mut state = self.state.lock();
        if state.tree.found(target, parent).is_some() {
            return Ok(());
        }
        let number = state.tree.number();
        let usage = Usage { bytes: found.held, inodes: 1 };
        let made = Snapshot { lazy: Some(found.diff_id), usage, ..self.made(number, Kind::Committed, labels) };
        // On another parent it is another one.
        self.change(&mut state, |tree| tree.create(&format!("lazy/{number}/{target}"), parent, made))?;
        drop(state);
        tracing::info!(layer = %found.diff_id, "a layer is there lazily");
        self.changed.notify_one();
        Ok(())
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let (snapshot, below) = {
            let state = self.state.lock();
            let snapshot = state.tree.get(key)?.clone();
            let below = state.tree.below(&snapshot);
            (snapshot, below)
        };
        if snapshot.kind == Kind::Committed {
            return Err(Refusal::Precondition(format!("snapshot {key} is committed: nobody mounts it")).into());
        }
        Ok(self.layout.mounts(snapshot.kind, snapshot.number, &self.directories(&below)?))
    }

    /// Where these parts are found; layers are mounted that are not.
    fn directories(&self, parts: &[Part]) -> Result<Vec<PathBuf>> {
        let directory = |part: &Part| match part {
            Part::Unpacked(number) => Ok(self.layout.upper(*number)),
            Part::Lazy(layer) => Ok(self.layout.layer(self.mounted(*layer)?)),
        };
        parts.iter().map(directory).collect()
    }

    /// The place at which a layer is mounted, from the file that its name leads to now.
    fn mounted(&self, layer: Digest) -> Result<u64> {
        let path = self.layer_file(layer);
        let failed = |error: &dyn std::fmt::Display| {
            Failure::Unavailable(format!(
                "the layer {layer} can't be mounted now, try again: {}: {error}",
                path.display()
            ))
        };
        let (file, _) = disk::file(&path).map_err(|error| failed(&error))?;
        let place = {
            let mut state = self.state.lock();
            if let Some(place) = state.stack.place(layer, file) {
                return Ok(place);
            }
            state.tree.number()
        };
        let at = self.layout.layer(place);
        disk::mount(&path, &at).map_err(|error| failed(&error))?;
        let used = self.note_mount(layer, place, file);
        match &used {
            Ok(used) if *used == place => tracing::info!(%layer, place, "mounted a layer"),
            _ => self.take_away(place),
        }
        used
    }

    /// Notes that a layer was mounted at this place, unless somebody else has mounted it meanwhile: tells where it is.
    fn note_mount(&self, layer: Digest, place: u64, file: File) -> Result<u64> {
        let mut state = self.state.lock();
        if let Some(place) = state.stack.place(layer, file) {
            return Ok(place);
        }
        let mounted = Mounted { place, file };
        self.book.write(&Change::default(), &[(layer, Some(mounted))], state.tree.next())?;
        state.stack.mounted(layer, mounted, self.clock.now());
        Ok(place)
    }

    fn commit(&self, key: &str, name: &str, labels: Labels) -> Result<()> {
        let active = self.state.lock().tree.get(key)?.clone();
        let usage = match active.kind {
            Kind::Active => self.usage(active.number)?,
            Kind::View | Kind::Committed => Usage::default(),
        };
        let now = self.clock.date();
        self.change(&mut self.state.lock(), |tree| tree.commit(key, name, usage, labels, now))
    }

    fn remove(&self, key: &str) -> Result<()> {
        let (gone, places) = {
            let mut state = self.state.lock();
            let gone = state.tree.get(key)?.clone();
            let change = state.tree.remove(key)?;
            let is_last = |layer: &Digest| {
                state.tree.all().filter(|(_, snapshot)| snapshot.lazy.as_ref() == Some(layer)).count() == 1
            };
            let unnamed = gone.lazy.filter(is_last);
            let mounts: Vec<MountChange> = unnamed.into_iter().map(|layer| (layer, None)).collect();
            self.book.write(&change, &mounts, state.tree.next())?;
            state.tree.apply(&change);
            (gone, unnamed.map(|layer| state.stack.unnamed(layer)).unwrap_or_default())
        };
        for place in places {
            self.take_away(place);
        }
        if gone.lazy.is_some() {
            self.changed.notify_one();
        } else if let Err(error) = disk::remove(&self.layout.snapshot(gone.number)) {
            // Nobody finds it any more; it goes at the next start.
            tracing::warn!(snapshot = key, number = gone.number, %error, "can't remove what was unpacked");
        }
        Ok(())
    }

    fn usage(&self, number: u64) -> Result<Usage> {
        let dir = self.layout.upper(number);
        disk::usage(&dir).map_err(|error| Failure::Failed(format!("can't add up {}: {error}", dir.display())))
    }

    fn take_old_away(&self) {
        let over = self.state.lock().stack.over(self.clock.now());
        for place in over {
            self.take_away(place);
        }
    }

    fn take_away(&self, place: u64) {
        let at = self.layout.layer(place);
        match disk::take_away(&at) {
            Ok(()) => tracing::debug!(place, "took a layer's mount away"),
            Err(error) => tracing::warn!(at = %at.display(), %error, "can't take a layer's mount away"),
        }
    }

    /// Removes directories and mounts that belong to nothing.
    fn clean_up(&self) {
        let snapshots = self.layout.snapshots();
        let unpacked = || -> io::Result<()> {
            let (numbers, others) = disk::numbers(&snapshots)?;
            // Looked at after the directory: what is made meanwhile is known by then.
            let known: HashSet<u64> = {
                let state = self.state.lock();
                state.tree.numbers().chain(state.making.iter().copied()).collect()
            };
            let strays = numbers.into_iter().filter(|number| !known.contains(number)).map(|number| number.to_string());
            for stray in strays.chain(others) {
                tracing::info!(stray, "removing what belongs to no snapshot");
                disk::remove(&snapshots.join(stray))?;
            }
            Ok(())
        };
        if let Err(error) = unpacked() {
            tracing::warn!(dir = %snapshots.display(), %error, "can't remove what belongs to no snapshot");
        }
    }
}
