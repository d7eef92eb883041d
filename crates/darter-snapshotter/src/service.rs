//! Carries out containerd's calls: the tree decides what is allowed, the book records it, then it is done.
//!
//! An unpacker asks for a snapshot into which it will unpack a layer, and names in a label the snapshot that it finally wants. If the layer can be had lazily,
//! that snapshot is committed at once, and the answer is that it exists: nothing is downloaded. Whatever goes wrong on the way (no agent, no directory, no
//! EROFS) is no error: the layer is then unpacked as usual.
//!
//! Invariants: a snapshot that containerd was told of is in the book, and so is a mount before it is used; what is no longer wanted is removed after the book says so. No
//! lock is held while the kernel mounts, which may wait for a layer's first bytes. The agent is asked for each layer that an unpacker wants, also
//! for one that is mounted already: containerd shares lazy snapshots between its namespaces, and only the agent knows who may have a layer.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use darter_core::{Clock, Digest};
use darter_mount::erofs;
use darter_store::threads::{self, DiskWork};
use thiserror::Error;
use tokio::sync::Notify;

use crate::book::{Book, BookError, MountChange};
use crate::disk;
use crate::filter::Filters;
use crate::layout::{Layout, Mount};
use crate::ledger::{Entry, Ledger, State};
use crate::stack::{File, Mounted, Stack};
use crate::tree::{Change, Labels, Part, Refusal, Snapshot, SnapshotKind, TARGET, Tree, Usage};

/// How long the directory of layers may take to respond.
const DIRECTORY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a call that mounts layers may take: longer than reads of the layers may wait for bytes.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(150);

/// How long after a change the agent is told which layers snapshots name, so that one message is sent for an image.
const TELL_PAUSE: Duration = Duration::from_millis(500);
/// How long until the agent is told again without a change: it may be another process by then.
const TELL_AGAIN: Duration = Duration::from_secs(600);
/// The pause between tries to tell the agent.
const TELL_RETRY: Duration = Duration::from_secs(5);

/// The layers of the local agent.
#[async_trait]
pub trait Layers: Send + Sync + 'static {
    /// The top layer of the chain with this id; `None` if it can't be had lazily.
    async fn uppermost(&self, chain: Digest) -> Option<FoundLayer>;

    /// Tells the agent that snapshots name these layers, and no others.
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
    /// The length of its file.
    pub length: u64,
    /// How many of its bytes are on this host.
    pub held: u64,
}

/// The options of a snapshotter.
#[derive(Clone)]
pub struct Options {
    /// The directory for its snapshots and its book.
    pub root: PathBuf,
    /// The directory of layers.
    pub layers: PathBuf,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// Why the snapshotter can't start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The book can't be read or written.
    #[error(transparent)]
    Book(#[from] BookError),
    /// A directory can't be used.
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

/// See the module's documentation. Cheap to clone.
#[derive(Clone)]
pub struct Snapshotter {
    inner: Arc<Inner>,
    layers: Arc<dyn Layers>,
}

struct Inner {
    layout: Layout,
    directory: PathBuf,
    clock: Arc<dyn Clock>,
    /// False if the kernel has no EROFS.
    can_mount: bool,
    ledger: Ledger,
    /// Notified when the named layers may have changed.
    changed: Notify,
    /// Notified when there may be another old mount.
    aged: Notify,
}

impl Snapshotter {
    /// Continues with the state of an earlier run: existing mounts that the book knows are used, others are unmounted. Blocking.
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
        let listed = |dir: PathBuf| disk::numbers(&dir).map(|(numbers, _)| numbers).map_err(failed(&dir));
        let (unpacked, places) = (listed(layout.snapshots())?, listed(layout.layers())?);
        let (book, written) = Book::open(&layout.book(), &unpacked)?;
        let there = disk::places(&layout.layers()).map_err(failed(&layout.layers()))?;
        let mut tree = Tree::new(written.snapshots, written.next);
        let (stack, found) = Stack::reconcile(written.mounts, &there, &tree.lazy(), options.clock.now());
        // A process that was killed may have created a directory before it wrote anything into the book.
        if let Some(highest) = unpacked.iter().chain(&places).chain(&there).max() {
            tree.skip(*highest);
        }
        let lost: Vec<MountChange> = found.lost.iter().map(|layer| (*layer, None)).collect();
        book.write(&Change::default(), &lost, tree.next())?;
        disk::remove_empty(&layout.layers(), places.into_iter().filter(|place| !there.contains(place)));
        let probe = layout.layers().join("probe");
        let can_mount = erofs::is_known(&probe);
        let _ = std::fs::remove_dir(probe);
        if !can_mount {
            tracing::warn!("this kernel has no EROFS: all layers will be unpacked (modprobe erofs)");
        }
        if !disk::sees_all_mounts() {
            tracing::warn!(
                "this process has mounts of its own, apart from the host's: containerd sees no layer that it mounts, unless it runs among the same mounts (no PrivateMounts= or the like for either)"
            );
        }
        let (snapshots, mounts, strays) = (tree.all().count(), stack.count(), found.stray.len());
        tracing::info!(snapshots, mounts, strays, root = %layout.root().display(), "found the snapshots and mounts of an earlier run");
        let inner = Inner {
            layout,
            directory: options.layers,
            clock: options.clock,
            can_mount,
            ledger: Ledger::new(book, State { tree, stack, making: HashSet::new() }),
            changed: Notify::new(),
            aged: Notify::new(),
        };
        inner.clean_up();
        Ok(Self { inner: Arc::new(inner), layers })
    }

    /// Tells the agent which layers snapshots name, as long as this is awaited, and unmounts old mounts.
    pub async fn attend(&self) {
        tokio::join!(self.tell(), self.sweep());
    }

    async fn sweep(&self) {
        loop {
            // Places that become old meanwhile have to wait longer than this one.
            let next = self.inner.ledger.state().stack.next_over();
            match next {
                Some(until) => tokio::time::sleep(until.since(self.inner.clock.now())).await,
                None => self.inner.aged.notified().await,
            }
            self.blocking(Inner::take_old_away).await;
        }
    }

    async fn tell(&self) {
        let mut is_told_off = false;
        loop {
            let named = self.inner.ledger.state().tree.lazy();
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
            let _ = tokio::time::timeout(pause, self.inner.changed.notified()).await;
            tokio::time::sleep(TELL_PAUSE).await;
        }
    }

    fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> T + Send + 'static) -> DiskWork<T> {
        let inner = Arc::clone(&self.inner);
        threads::run(move || work(&inner))
    }

    /// Does `work`, which may mount layers and unmount old mounts. If a directory of layers hangs, the call fails after a time although the work goes
    /// on; mounts that it makes afterwards are not in use, and containerd removes them.
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
        self.mounting(move |inner| inner.create(SnapshotKind::Active, &key, &parent, labels)).await
    }

    pub(crate) async fn view(&self, key: String, parent: String, labels: Labels) -> Result<Vec<Mount>> {
        self.mounting(move |inner| inner.create(SnapshotKind::View, &key, &parent, labels)).await
    }

    /// True if the committed snapshot that an unpacker wants can be had without unpacking, and exists.
    async fn is_there_lazily(&self, target: &str, key: &str, parent: &str, labels: &Labels) -> Result<bool> {
        self.inner.ledger.state().tree.check(key, parent)?;
        let Some(chain) = target.parse().ok().filter(|_| self.inner.can_mount) else { return Ok(false) };
        let Some(found) = self.layers.uppermost(chain).await else { return Ok(false) };
        // The kernel is not asked to mount the layer, since a client that only pulls an image reads nothing of it.
        let looked = self.blocking(move |inner| disk::file(&inner.layer_file(found.diff_id)));
        let file = match tokio::time::timeout(DIRECTORY_TIMEOUT, looked).await {
            Ok(looked) => looked.map_err(|error| error.to_string()),
            Err(_) => Err("no answer".to_owned()),
        };
        match file {
            Ok((_, length)) if length == found.length => {}
            other => {
                let reason = other.err().unwrap_or_else(|| "its file has another length".to_owned());
                let directory = self.inner.directory.display();
                tracing::warn!(layer = %found.diff_id, %directory, reason, "a layer is not in the directory of layers, so it will be unpacked");
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
        Ok(self.inner.ledger.state().tree.get(key)?.clone())
    }

    pub(crate) async fn update(&self, key: String, labels: Labels, paths: Vec<String>) -> Result<Snapshot> {
        self.blocking(move |inner| {
            let now = inner.clock.date();
            inner.change(|tree| tree.update(&key, labels, &paths, now))?;
            Ok(inner.ledger.state().tree.get(&key)?.clone())
        })
        .await
    }

    pub(crate) fn list(&self, filters: &[String]) -> Result<Vec<(String, Snapshot)>> {
        let filters = Filters::parse(filters)?;
        let state = self.inner.ledger.state();
        let fitting = state.tree.all().filter(|(name, snapshot)| filters.fit(name, snapshot));
        Ok(fitting.map(|(name, snapshot)| (name.clone(), snapshot.clone())).collect())
    }

    pub(crate) async fn usage(&self, key: String) -> Result<Usage> {
        self.blocking(move |inner| {
            let snapshot = inner.ledger.state().tree.get(&key)?.clone();
            match snapshot.kind {
                SnapshotKind::Active => inner.usage(snapshot.number),
                SnapshotKind::View | SnapshotKind::Committed => Ok(snapshot.usage),
            }
        })
        .await
    }

    pub(crate) async fn clean_up(&self) -> Result<()> {
        self.blocking(Inner::clean_up).await;
        Ok(())
    }
}

impl Inner {
    fn layer_file(&self, layer: Digest) -> PathBuf {
        let text = layer.to_string();
        let (algorithm, digits) = text.split_once(':').unwrap_or(("", &text));
        self.directory.join(algorithm).join(digits.get(..2).unwrap_or_default()).join(format!("{digits}.erofs"))
    }

    /// Records what the tree has decided, then does it.
    fn change(&self, decide: impl FnOnce(&Tree) -> std::result::Result<Change, Refusal>) -> Result<()> {
        self.ledger.write(|state| Ok((Some(decide(&state.tree)?.into()), ())), |_, ()| ())
    }

    fn made(&self, number: u64, kind: SnapshotKind, labels: Labels) -> Snapshot {
        let now = self.clock.date();
        Snapshot { number, kind, parent: None, created: now, updated: now, labels, usage: Usage::default(), lazy: None }
    }

    fn create(&self, kind: SnapshotKind, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let (number, below) = {
            let mut state = self.ledger.state();
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
        self.ledger.state().making.remove(&number);
        created
    }

    fn create_on(
        &self,
        kind: SnapshotKind,
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
        self.change(|tree| tree.create(key, parent, made))?;
        Ok(self.layout.mounts(kind, number, &below))
    }

    fn commit_lazy(&self, target: &str, parent: &str, labels: Labels, found: FoundLayer) -> Result<()> {
        let decide = |state: &mut State| {
            if state.tree.found(target, parent).is_some() {
                return Ok((None, false));
            }
            let number = state.tree.number();
            let usage = Usage { bytes: found.held, inodes: 1 };
            let made =
                Snapshot { lazy: Some(found.diff_id), usage, ..self.made(number, SnapshotKind::Committed, labels) };
            // With another parent it is another snapshot.
            let change = state.tree.create(&format!("lazy/{number}/{target}"), parent, made)?;
            Ok::<_, Failure>((Some(change.into()), true))
        };
        if self.ledger.write(decide, |_, is_new| is_new)? {
            tracing::info!(layer = %found.diff_id, "a layer is available lazily");
            self.changed.notify_one();
        }
        Ok(())
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let (snapshot, below) = {
            let state = self.ledger.state();
            let snapshot = state.tree.get(key)?.clone();
            let below = state.tree.below(&snapshot);
            (snapshot, below)
        };
        if snapshot.kind == SnapshotKind::Committed {
            return Err(Refusal::Precondition(format!("snapshot {key} is committed, and can't be mounted")).into());
        }
        Ok(self.layout.mounts(snapshot.kind, snapshot.number, &self.directories(&below)?))
    }

    /// The directories of `parts`; mounts the layers that are not mounted yet.
    fn directories(&self, parts: &[Part]) -> Result<Vec<PathBuf>> {
        let directory = |part: &Part| match part {
            Part::Unpacked(number) => Ok(self.layout.upper(*number)),
            Part::Lazy(layer) => Ok(self.layout.layer(self.mounted(*layer)?)),
        };
        parts.iter().map(directory).collect()
    }

    /// The place at which a layer is mounted from the file that has its name now.
    fn mounted(&self, layer: Digest) -> Result<u64> {
        let path = self.layer_file(layer);
        let failed = |error: &dyn std::fmt::Display| {
            Failure::Unavailable(format!(
                "the layer {layer} can't be mounted now, try again: {}: {error}",
                path.display()
            ))
        };
        let (file, _) = disk::file(&path).map_err(|error| failed(&error))?;
        let known = self.ledger.state().stack.place(layer, file);
        if let Some(place) = known {
            if disk::is_mounted(&self.layout.layer(place)) {
                return Ok(place);
            }
            tracing::warn!(%layer, place, "a layer was unmounted by another program: mounting it again");
            self.note_lost(layer, place)?;
        }
        let place = self.ledger.state().tree.number();
        let at = self.layout.layer(place);
        disk::mount(&path, &at).map_err(|error| failed(&error))?;
        let used = self.note_mount(layer, place, file);
        match &used {
            Ok(used) if *used == place => tracing::info!(%layer, place, "mounted a layer"),
            _ => self.take_away(place),
        }
        used
    }

    /// Notes that a layer was mounted at this place, unless another call has mounted it meanwhile. Returns its place. Fails for a layer that no
    /// snapshot names any more, since nothing would unmount it.
    fn note_mount(&self, layer: Digest, place: u64, file: File) -> Result<u64> {
        let mounted = Mounted { place, file };
        let decide = |state: &mut State| {
            if let Some(place) = state.stack.place(layer, file) {
                return Ok((None, place));
            }
            if !state.tree.names(layer) {
                let text = format!("no snapshot has the layer {layer} any more: it was removed meanwhile");
                return Err(Failure::from(Refusal::Precondition(text)));
            }
            Ok((Some(Entry { mounts: vec![(layer, Some(mounted))], ..Entry::default() }), place))
        };
        let used = self.ledger.write(decide, |state, used| {
            if used == place {
                state.stack.mounted(layer, mounted, self.clock.now());
            }
            used
        })?;
        self.aged.notify_one();
        Ok(used)
    }

    /// Notes that nothing is mounted at this place any more, and removes its directory.
    fn note_lost(&self, layer: Digest, place: u64) -> Result<()> {
        let decide = |state: &mut State| {
            let entry = Entry { mounts: vec![(layer, None)], ..Entry::default() };
            Ok::<_, Failure>((state.stack.is_at(layer, place).then_some(entry), ()))
        };
        self.ledger.write(decide, |state, ()| state.stack.lost(layer, place))?;
        self.take_away(place);
        Ok(())
    }

    fn commit(&self, key: &str, name: &str, labels: Labels) -> Result<()> {
        let active = self.ledger.state().tree.get(key)?.clone();
        let usage = match active.kind {
            SnapshotKind::Active => self.usage(active.number)?,
            SnapshotKind::View | SnapshotKind::Committed => Usage::default(),
        };
        let now = self.clock.date();
        self.change(|tree| tree.commit(key, name, usage, labels, now))
    }

    fn remove(&self, key: &str) -> Result<()> {
        let decide = |state: &mut State| {
            let gone = state.tree.get(key)?.clone();
            let change = state.tree.remove(key)?;
            let is_last = |layer: &Digest| {
                state.tree.all().filter(|(_, snapshot)| snapshot.lazy.as_ref() == Some(layer)).count() == 1
            };
            let unnamed = gone.lazy.filter(is_last);
            let mounts = unnamed.into_iter().map(|layer| (layer, None)).collect();
            Ok::<_, Failure>((Some(Entry { change, mounts }), (gone, unnamed)))
        };
        let (gone, places) = self.ledger.write(decide, |state, (gone, unnamed)| {
            (gone, unnamed.map(|layer| state.stack.unnamed(layer)).unwrap_or_default())
        })?;
        for place in places {
            self.take_away(place);
        }
        if gone.lazy.is_some() {
            self.changed.notify_one();
        } else if let Err(error) = disk::remove(&self.layout.snapshot(gone.number)) {
            // Nothing refers to it any more; the next start removes it.
            tracing::warn!(snapshot = key, number = gone.number, %error, "can't remove the files of a snapshot");
        }
        Ok(())
    }

    fn usage(&self, number: u64) -> Result<Usage> {
        let dir = self.layout.upper(number);
        disk::usage(&dir).map_err(|error| Failure::Failed(format!("can't add up {}: {error}", dir.display())))
    }

    fn take_old_away(&self) {
        let over = self.ledger.state().stack.over(self.clock.now());
        for place in over {
            self.take_away(place);
        }
    }

    fn take_away(&self, place: u64) {
        let at = self.layout.layer(place);
        match disk::take_away(&at) {
            Ok(()) => tracing::debug!(place, "unmounted a layer"),
            Err(error) => tracing::warn!(at = %at.display(), %error, "can't unmount a layer"),
        }
    }

    /// Removes directories that belong to no snapshot. A directory that can't be removed is left to the next time.
    fn clean_up(&self) {
        let snapshots = self.layout.snapshots();
        let (numbers, others) = match disk::numbers(&snapshots) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(dir = %snapshots.display(), %error, "can't look for directories that belong to no snapshot");
                return;
            }
        };
        // Read after the directory, so that a snapshot that is created meanwhile is known.
        let known: HashSet<u64> = {
            let state = self.ledger.state();
            state.tree.numbers().chain(state.making.iter().copied()).collect()
        };
        let strays = numbers.into_iter().filter(|number| !known.contains(number)).map(|number| number.to_string());
        for stray in strays.chain(others) {
            match disk::remove(&snapshots.join(&stray)) {
                Ok(()) => tracing::info!(stray, "removed a directory that belongs to no snapshot"),
                Err(error) => {
                    tracing::warn!(dir = %snapshots.display(), stray, %error, "can't remove a directory that belongs to no snapshot");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
