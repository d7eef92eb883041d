//! The layers that were given to be mounted, as a list in the data directory ([`given`](super::given) decides what is on it), and what follows for the
//! store: what is on the list is not evicted.
//!
//! A list of another release, or one that can't be read, is left alone: what this release gives is then not written down. What another release's list names
//! is spared all the same.
//!
//! Invariant: what is on the list is spared. Both are changed under one lock.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use darter_agent::AtHand;
use darter_api::LayerRequest;
use darter_core::Digest;
use darter_store::{Dir, threads};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use super::blobs::{Mountable, MountableLayers};
use super::given::{Given, GivenLayer};

const FILE: &str = "layers";
const TEMPORARY: &str = ".layers";

/// How long it is waited for others before layers that were opened are noted: an engine opens those of an image one after the other.
const GATHER: Duration = Duration::from_millis(200);

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub struct GivenLayers(Arc<Inner>);

struct Inner {
    dir: Dir,
    keep: Duration,
    /// Whether the file is another release's, or can't be read.
    set_aside: bool,
    given: Mutex<Given>,
    /// Held while the list changes, and what is spared with it.
    sparing: AsyncMutex<()>,
    /// Held while the file is written: no older list replaces a newer one, and what is noted meanwhile goes with the next one.
    writing: Arc<AsyncMutex<()>>,
    /// Somebody is about to write that layers were opened.
    gathering: AtomicBool,
}

impl fmt::Debug for GivenLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GivenLayers").field("keep", &self.0.keep).finish_non_exhaustive()
    }
}

impl GivenLayers {
    /// Opens the list of a data directory. Blocking. Layers stay for `keep` after somebody asked for them, where nobody tells what snapshots name.
    pub fn open(dir: Dir, keep: Duration) -> Self {
        let (given, is_own) = match dir.read(FILE) {
            Ok(bytes) => Given::parse(&String::from_utf8_lossy(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Given::default(), true),
            Err(error) => {
                let path = dir.path_of(FILE);
                tracing::error!(path = %path.display(), %error, "the list of layers that engines mount can't be read: they may be evicted");
                return Self::with(dir, keep, Given::default(), true);
            }
        };
        if !is_own {
            let (path, blobs) = (dir.path_of(FILE), given.blobs().count());
            tracing::warn!(path = %path.display(), blobs, "the list of layers that engines mount is another version's: it is left alone, and what it names is kept");
        }
        Self::with(dir, keep, given, !is_own)
    }

    fn with(dir: Dir, keep: Duration, given: Given, set_aside: bool) -> Self {
        let (given, sparing, writing) = (Mutex::new(given), AsyncMutex::default(), Arc::default());
        let gathering = AtomicBool::new(false);
        Self(Arc::new(Inner { dir, keep, set_aside, given, sparing, writing, gathering }))
    }

    /// Spares all of it from eviction: before anything else is done with the store.
    pub async fn spare(&self, layers: &dyn MountableLayers) {
        let _sparing = self.0.sparing.lock().await;
        let all = self.0.given.lock().blobs().collect();
        layers.spare(all, true).await;
    }

    pub(super) fn in_use(&self, diff_id: Digest) -> Option<GivenLayer> {
        self.0.given.lock().in_use(diff_id).cloned()
    }

    pub(super) fn get(&self, diff_id: Digest) -> Option<GivenLayer> {
        self.0.given.lock().get(diff_id).cloned()
    }

    pub(super) fn has(&self, layer: &LayerRequest) -> bool {
        self.0.given.lock().has(layer)
    }

    /// A layer is opened. The result notes that in the list; it is for a task that nobody waits for.
    pub(super) fn opened(&self, diff_id: Digest) -> impl Future<Output = ()> + Send + 'static {
        self.0.given.lock().opened(diff_id);
        let given = self.clone();
        async move {
            if !given.0.gathering.swap(true, Ordering::SeqCst) {
                tokio::time::sleep(GATHER).await;
                given.0.gathering.store(false, Ordering::SeqCst);
                given.save().await;
            }
        }
    }

    /// Notes that layers are given, before anybody hears of it. Tells what is here of each now that they are spared; `None`: too many are given.
    pub(super) async fn give(
        &self,
        given: &[(LayerRequest, Mountable)],
        needs_login: bool,
        layers: &dyn MountableLayers,
        now: u64,
    ) -> Option<Vec<AtHand>> {
        let blobs: Vec<_> = given.iter().map(|(_, mountable)| mountable.blob).collect();
        let at_hand = {
            let _sparing = self.0.sparing.lock().await;
            let mut new = Vec::new();
            {
                let mut list = self.0.given.lock();
                for (layer, Mountable { blob, length }) in given {
                    let is_known = list.get(layer.diff_id).is_some_and(|given| given.blob == *blob);
                    if !list.give(layer, (*blob, *length), needs_login, now) {
                        return None;
                    }
                    if !is_known {
                        new.push(*blob);
                    }
                }
            }
            if !new.is_empty() {
                layers.spare(new, true).await;
            }
            self.let_go(layers, now).await;
            // Until now they could be evicted.
            layers.at_hand(blobs).await
        };
        self.save().await;
        Some(at_hand)
    }

    /// Snapshots name these layers, and no others. Tells which of them were not given.
    pub(super) async fn named(&self, named: &HashSet<Digest>, layers: &dyn MountableLayers, now: u64) -> Vec<Digest> {
        let unknown = {
            let _sparing = self.0.sparing.lock().await;
            let unknown = self.0.given.lock().name(named, now);
            self.let_go(layers, now).await;
            unknown
        };
        self.save().await;
        unknown
    }

    /// With `sparing` held.
    async fn let_go(&self, layers: &dyn MountableLayers, now: u64) {
        let gone = self.0.given.lock().let_go(self.0.keep, now);
        if gone.is_empty() {
            return;
        }
        for blob in &gone {
            tracing::info!(%blob, "an engine's layer is let go of: nobody asked for it for long");
        }
        layers.spare(gone, false).await;
    }

    async fn save(&self) {
        // Whoever writes now may write what changed here.
        let writing = Arc::clone(&self.0.writing).lock_owned().await;
        if self.0.set_aside || !self.0.given.lock().is_changed() {
            return;
        }
        let inner = Arc::clone(&self.0);
        threads::run(move || {
            inner.write();
            drop(writing);
        })
        .await;
    }
}

impl Inner {
    fn write(&self) {
        let Some(text) = self.given.lock().take_changed() else { return };
        if let Err(error) = self.dir.replace(FILE, TEMPORARY, &[text.as_bytes()], true) {
            self.given.lock().not_written();
            tracing::warn!(path = %self.dir.path_of(FILE).display(), %error, "could not note which layers engines mount");
        }
    }
}
