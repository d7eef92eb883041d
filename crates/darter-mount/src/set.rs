//! Several files, each with a content of its own, as the files of one tree.
//!
//! A file is opened at its origin when a program opens it, and stays open while programs have it open, and after that as long as fewer than
//! [`MAX_KEPT`] others are open: each costs a connection here and at the agent. The tree has announced its length: content of another length is an
//! error, and so is content that differs from the last time.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use darter_archive::{Body, Contents, NodeId, Tree};
use darter_core::{BlobId, ByteRange, Clock};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use crate::file::{Condition, Glance, MountedFile, Settings, Unread};
use crate::fill::Fill;
use crate::layers::KeptFile;
use crate::supply::{Content, Supplier, Supply};
use crate::tree::{TreeCache, TreeReader, Unopened};

/// How many files stay open that no program has open.
pub const MAX_KEPT: usize = 128;

/// The pause before a file is requested again that can't be had now.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// A file that was opened at its origin.
pub struct OpenedFile {
    /// The file's content.
    pub content: Content,
    /// The connection on which it was opened.
    pub supply: Arc<dyn Supply>,
    /// Opens further connections.
    pub supplier: Arc<dyn Supplier>,
    /// True if the content must have a certain digest.
    pub has_digest: bool,
}

/// Why a file could not be opened at its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotOpened {
    /// Why.
    pub reason: String,
    /// True if another try may succeed.
    pub may_pass: bool,
}

/// Opens files at their origins.
#[async_trait]
pub trait Opener: Send + Sync + 'static {
    /// Opens a file of the set by its number.
    ///
    /// # Errors
    /// [`NotOpened`].
    async fn open(&self, file: u32) -> Result<OpenedFile, NotOpened>;
}

/// See the module's documentation.
pub struct FileSet {
    tree: Arc<Tree>,
    opener: Arc<dyn Opener>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    slots: Vec<Slot>,
    /// The numbers of the files that are open at their origins. Locked before a slot's lock.
    open: Mutex<BTreeSet<u32>>,
    /// Counts openings, which gives the order in which files were used.
    uses: AtomicU64,
    cache: Arc<OnceLock<TreeCache>>,
}

#[derive(Default)]
struct Slot {
    /// Locked while the file is being opened.
    opening: AsyncMutex<()>,
    kept: Mutex<Option<Arc<KeptFile>>>,
    users: AtomicUsize,
    used: AtomicU64,
    known: Mutex<Known>,
}

/// What is known of a file that is not open.
#[derive(Clone, Debug, Default)]
struct Known {
    blob: Option<BlobId>,
    held: u64,
    whole: bool,
    /// Why it could not be opened the last time.
    trouble: Option<String>,
    /// True if another try is useless.
    is_final: bool,
}

impl FileSet {
    /// The files of a tree, whose contents are [`Contents::Whole`] with numbers below `count`.
    pub fn new(
        tree: Arc<Tree>,
        count: usize,
        opener: Arc<dyn Opener>,
        settings: Settings,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let slots = std::iter::repeat_with(Slot::default).take(count).collect();
        let (open, uses, cache) = (Mutex::default(), AtomicU64::new(0), Arc::default());
        Arc::new(Self { tree, opener, settings, clock, slots, open, uses, cache })
    }

    /// Sets the cache of the mount, once it is mounted.
    pub fn mounted(&self, cache: TreeCache) {
        let _ = self.cache.set(cache);
    }

    /// Opens all files, at most [`MAX_KEPT`], and keeps them open, so that [`Fill`] fetches them.
    ///
    /// # Errors
    /// Why a file can't be opened.
    pub async fn open_all(&self) -> Result<(), NotOpened> {
        for file in self.files().into_iter().filter(|_| self.settings.fill != Fill::Never) {
            self.open_at_origin(file).await?;
            if let Some((slot, _, _)) = self.slot(file) {
                slot.users.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    /// Every file once, not counting further hard links.
    fn files(&self) -> Vec<NodeId> {
        let mut seen = HashSet::new();
        let all = (0..self.tree.len()).filter_map(NodeId::at);
        all.filter(|node| self.slot(*node).is_some_and(|(_, number, _)| seen.insert(number))).collect()
    }

    fn slot(&self, file: NodeId) -> Option<(&Slot, u32, u64)> {
        match self.tree.get(file)?.body {
            Body::File { size, contents: Contents::Whole(number) } => {
                Some((self.slots.get(usize::try_from(number).ok()?)?, number, size))
            }
            _ => None,
        }
    }

    /// The file of a slot, opened once for all that want it.
    async fn open_at_origin(&self, file: NodeId) -> Result<Arc<KeptFile>, NotOpened> {
        let never = |reason: &str| NotOpened { reason: reason.to_owned(), may_pass: false };
        let Some((slot, number, size)) = self.slot(file) else { return Err(never("it is no file")) };
        let _opening = slot.opening.lock().await;
        let there = slot.kept.lock().clone();
        if let Some(kept) = there {
            return Ok(kept);
        }
        let opened = self.opener.open(number).await.and_then(|opened| {
            let blob = slot.known.lock().blob;
            let is_same = opened.content.length == size && blob.is_none_or(|blob| blob == opened.content.blob);
            let other = "the content is another one at its origin by now; unmount it, and mount what is there";
            if is_same { Ok(opened) } else { Err(never(other)) }
        });
        let mut known = slot.known.lock();
        let OpenedFile { content, supply, supplier, has_digest } = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(reason = error.reason, number, "a file can't be opened");
                (known.trouble, known.is_final) = (Some(error.reason.clone()), !error.may_pass);
                return Err(error);
            }
        };
        (known.blob, known.trouble, known.is_final) = (Some(content.blob), None, false);
        drop(known);
        let settings = Settings { has_digest, ..self.settings };
        let mounted = MountedFile::new(content, supply, settings, Arc::clone(&self.clock));
        let kept = KeptFile::begin(mounted, supplier);
        let (over, cache) = (kept.over(), Arc::clone(&self.cache));
        tokio::spawn(async move {
            if let Some(Condition::Tainted(reason)) = over.await
                && let Some(cache) = cache.get().cloned()
            {
                tracing::warn!(reason, "a mounted file is wrong: all reads of it fail from now on");
                // This waits for reads in progress.
                let _ = tokio::task::spawn_blocking(move || cache.forget(Some(file))).await;
            }
        });
        *slot.kept.lock() = Some(Arc::clone(&kept));
        self.open.lock().insert(number);
        self.trim(number);
        Ok(kept)
    }

    /// If too many files are open, closes the least recently used ones that no program has open.
    fn trim(&self, but: u32) {
        let mut open = self.open.lock();
        let Some(excess) = open.len().checked_sub(MAX_KEPT).filter(|excess| *excess > 0) else { return };
        let slot = |number: u32| usize::try_from(number).ok().and_then(|number| self.slots.get(number));
        let all = open.iter().filter(|number| **number != but).filter_map(|number| Some((*number, slot(*number)?)));
        let mut idle: Vec<_> = all.filter(|(_, slot)| slot.users.load(Ordering::SeqCst) == 0).collect();
        idle.sort_by_key(|(_, slot)| slot.used.load(Ordering::SeqCst));
        for (number, slot) in idle.into_iter().take(excess) {
            let mut kept = slot.kept.lock();
            // A task that opens the file counts itself before it looks here.
            let closed = if slot.users.load(Ordering::SeqCst) == 0 { kept.take() } else { None };
            drop(kept);
            if closed.is_some() {
                open.remove(&number);
            }
        }
    }

    /// The state of all files together.
    pub async fn overview(&self) -> Glance {
        let mut all = Glance { condition: Condition::Open, held: 0, whole: true, alone: true, waiting: 0 };
        for slot in &self.slots {
            let kept = slot.kept.lock().clone();
            if let Some(kept) = kept {
                let glance = kept.file().glance().await;
                all.alone &= glance.alone;
                all.waiting += glance.waiting;
                let mut known = slot.known.lock();
                (known.held, known.whole) = (glance.held, glance.whole);
                drop(known);
                // A tainted file takes precedence over one that waits.
                if glance.condition != Condition::Open && !matches!(all.condition, Condition::Tainted(_)) {
                    all.condition = glance.condition;
                }
            } else {
                all.alone = false;
            }
            let known = slot.known.lock().clone();
            all.held += known.held;
            all.whole &= known.whole;
            if let (Some(trouble), Condition::Open) = (known.trouble, &all.condition) {
                all.condition = if known.is_final { Condition::Changed(trouble) } else { Condition::Waiting(trouble) };
            }
        }
        all
    }

    /// Reports to the agents which parts were read, at the end.
    pub async fn hand_over(&self) {
        for slot in &self.slots {
            let kept = slot.kept.lock().take();
            if let Some(kept) = kept {
                kept.file().hand_over().await;
            }
        }
    }
}

#[async_trait]
impl TreeReader for FileSet {
    async fn open(&self, file: NodeId) -> Result<(), Unopened> {
        let Some((slot, ..)) = self.slot(file) else { return Err(Unopened::Unread) };
        // From now on it is never closed.
        slot.users.fetch_add(1, Ordering::SeqCst);
        slot.used.store(self.uses.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
        let opening = async {
            loop {
                match self.open_at_origin(file).await {
                    Err(NotOpened { may_pass: true, .. }) => tokio::time::sleep(RETRY_PAUSE).await,
                    opened => return opened,
                }
            }
        };
        match tokio::time::timeout(self.settings.limit, opening).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                slot.users.fetch_sub(1, Ordering::SeqCst);
                Err(Unopened::Unread)
            }
        }
    }

    async fn read(&self, file: NodeId, range: ByteRange) -> Result<Bytes, Unread> {
        let kept = self.slot(file).and_then(|(slot, ..)| slot.kept.lock().clone()).ok_or(Unread)?;
        let size = u32::try_from(range.len()).map_err(|_| Unread)?;
        kept.file().read(range.start(), size).await
    }

    fn release(&self, file: NodeId) {
        if let Some((slot, number, _)) = self.slot(file) {
            slot.users.fetch_sub(1, Ordering::SeqCst);
            self.trim(number);
        }
    }
}
