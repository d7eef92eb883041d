//! The list of layers that engines may have mounted, in the data directory, and its effect on the store: blobs on the list are protected from
//! eviction. [`given`](super::given) decides what is on the list.
//!
//! A list of another release, or one that can't be read, is not touched: then the layers that this release gives are not written down. Layers that another
//! release's list names are protected all the same. On a full disk, [reserved space](super::kept_room) lets the list be written: a layer that the next agent does not know of can't be mounted.
//!
//! Invariant: every blob on the list is protected. Both are changed under one lock.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use darter_agent::AtHand;
use darter_api::LayerRequest;
use darter_api::layers::Namer;
use darter_core::Digest;
use darter_store::{Dir, threads};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use super::blobs::{Mountable, MountableLayers};
use super::given::{Given, GivenLayer};
use super::kept_room::{self, Names};

const FILE: &str = "layers";
const NAMES: Names = Names { file: FILE, temporary: ".layers", room: ".layers-room" };

/// How long to wait for further opened layers before the list is written: an engine opens the layers of an image one after the other. If the agent is
/// killed meanwhile, the next one does not know that these layers are in use, but still gives the complete ones.
const GATHER: Duration = Duration::from_millis(200);

/// See the module's documentation. Cheap to clone.
#[derive(Clone)]
pub struct GivenLayers(Arc<Inner>);

struct Inner {
    dir: Dir,
    keep: Duration,
    /// True if the file is another release's, or can't be read: then it is not written.
    set_aside: bool,
    given: Mutex<Given>,
    /// Held while the list and the protection change.
    sparing: AsyncMutex<()>,
    /// Held while the file is written, so that an older list never replaces a newer one. Changes meanwhile go with the next write.
    writing: Arc<AsyncMutex<()>>,
    /// True while a task waits to write that layers were opened.
    gathering: AtomicBool,
}

impl fmt::Debug for GivenLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GivenLayers").field("keep", &self.0.keep).finish_non_exhaustive()
    }
}

impl GivenLayers {
    /// Opens the list of a data directory. Blocking. Layers stay for `keep` after the last request, unless a snapshotter reports which layers its snapshots name.
    pub fn open(dir: Dir, keep: Duration) -> Self {
        let (given, is_own) = match dir.read(FILE) {
            Ok(bytes) => {
                kept_room::keep(&dir, NAMES, bytes.len());
                Given::parse(&String::from_utf8_lossy(&bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                kept_room::keep(&dir, NAMES, 0);
                (Given::default(), true)
            }
            Err(error) => {
                let path = dir.path_of(FILE);
                tracing::error!(path = %path.display(), %error, "the list of layers that engines mount can't be read: these layers may be evicted");
                return Self::with(dir, keep, Given::default(), true);
            }
        };
        if !is_own {
            let (path, blobs) = (dir.path_of(FILE), given.blobs().count());
            tracing::warn!(path = %path.display(), blobs, "the list of layers that engines mount has another version: it is not changed, and the layers in it are kept");
        }
        Self::with(dir, keep, given, !is_own)
    }

    fn with(dir: Dir, keep: Duration, given: Given, set_aside: bool) -> Self {
        let (given, sparing, writing) = (Mutex::new(given), AsyncMutex::default(), Arc::default());
        let gathering = AtomicBool::new(false);
        Self(Arc::new(Inner { dir, keep, set_aside, given, sparing, writing, gathering }))
    }

    /// True if the list there is not used by this release, or only to protect what it names.
    pub fn is_set_aside(&self) -> bool {
        self.0.set_aside
    }

    /// Protects all blobs on the list from eviction. To be called before anything else is done with the store.
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

    /// Notes that a layer is opened. The returned future writes that into the list; nothing needs to wait for it.
    pub(super) fn opened(&self, diff_id: Digest) -> impl Future<Output = ()> + Send + 'static {
        self.0.given.lock().opened(diff_id);
        let given = self.clone();
        async move {
            if !given.0.gathering.swap(true, Ordering::SeqCst) {
                given.save().await;
                tokio::time::sleep(GATHER).await;
                given.0.gathering.store(false, Ordering::SeqCst);
                given.save().await;
            }
        }
    }

    /// Notes that layers are given, before any program is told. Returns how much of each is stored now that they are protected. If there is not space
    /// for all, only the first ones are returned; if not even for the first, none.
    pub(super) async fn give(
        &self,
        given: &[(LayerRequest, Mountable)],
        needs_login: bool,
        layers: &dyn MountableLayers,
        now: u64,
    ) -> Vec<AtHand> {
        let mut blobs = Vec::new();
        let at_hand = {
            let _sparing = self.0.sparing.lock().await;
            let mut new = Vec::new();
            {
                let mut list = self.0.given.lock();
                // Without its first layer, an answer is useless. The layers before the one that finds no space stay on the list, and are protected.
                for (layer, Mountable { blob, length }) in given {
                    let is_known = list.get(layer.diff_id).is_some_and(|given| given.blob == *blob);
                    if !list.give(layer, (*blob, *length), needs_login, now) {
                        break;
                    }
                    blobs.push(*blob);
                    if !is_known {
                        new.push(*blob);
                    }
                }
            }
            if !new.is_empty() {
                layers.spare(new, true).await;
            }
            self.let_go(layers, now).await;
            // Until now the blobs could be evicted.
            layers.at_hand(blobs).await
        };
        self.save().await;
        at_hand
    }

    /// Notes the layers that `namer`'s snapshots name. Returns those of them that were never given.
    pub(super) async fn named(
        &self,
        namer: Namer,
        named: &HashSet<Digest>,
        layers: &dyn MountableLayers,
        now: u64,
    ) -> Vec<Digest> {
        let unknown = {
            let _sparing = self.0.sparing.lock().await;
            let unknown = self.0.given.lock().name(namer, named, now);
            self.let_go(layers, now).await;
            unknown
        };
        self.save().await;
        unknown
    }

    /// Ends the protection of layers that are no longer asked for. `sparing` has to be held.
    async fn let_go(&self, layers: &dyn MountableLayers, now: u64) {
        let gone = self.0.given.lock().let_go(self.0.keep, now);
        if gone.is_empty() {
            return;
        }
        for blob in &gone {
            tracing::info!(%blob, "a layer that an engine mounted may be evicted now: no program has asked for it for --lazy-keep");
        }
        layers.spare(gone, false).await;
    }

    async fn save(&self) {
        // A write in progress may include this change already.
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
        if let Err(error) = kept_room::replace(&self.dir, NAMES, text.as_bytes()) {
            self.given.lock().not_written();
            tracing::warn!(path = %self.dir.path_of(FILE).display(), %error, "could not note which layers engines mount");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use darter_agent::{FetchError, Misfit, MountRoom};
    use darter_core::BlobId;
    use darter_core::source::{Credentials, blob_of};

    use super::super::given::MAX_GIVEN;
    use super::*;

    const KEEP: Duration = Duration::from_secs(3600);

    /// Layers of which a test observes only the protected blobs.
    #[derive(Default)]
    struct Spared(Mutex<HashSet<BlobId>>);

    #[async_trait]
    impl MountableLayers for Spared {
        async fn expanded(&self, _: &LayerRequest, _: Credentials, _: Duration) -> Result<Mountable, FetchError> {
            Err(FetchError::Silent)
        }

        fn fetch_for_mount(&self, _: &[BlobId], _: &mut MountRoom) {}

        fn let_go(&self, _: &[Digest]) {}

        async fn misfit(&self, _: Vec<BlobId>, _: Duration) -> Result<Option<Misfit>, FetchError> {
            Ok(None)
        }

        async fn names_all(&self, _: BlobId, _: Duration) -> bool {
            true
        }

        async fn are_ready(&self, blobs: Vec<BlobId>) -> Vec<bool> {
            vec![false; blobs.len()]
        }

        async fn at_hand(&self, blobs: Vec<BlobId>) -> Vec<AtHand> {
            vec![AtHand::default(); blobs.len()]
        }

        async fn spare(&self, blobs: Vec<BlobId>, spared: bool) {
            assert!(spared);
            self.0.lock().extend(blobs);
        }
    }

    fn layer(number: usize) -> (LayerRequest, Mountable) {
        let diff_id = Digest::sha256(&number.to_le_bytes());
        let (registry, repository) = ("lab".to_owned(), "app".to_owned());
        let layer = LayerRequest { registry, repository, digest: diff_id, size: None, media_type: None, diff_id };
        (layer, Mountable { blob: blob_of(&diff_id), length: 5 })
    }

    async fn opened(room: &tempfile::TempDir) -> GivenLayers {
        let path = room.path().to_owned();
        threads::run(move || GivenLayers::open(Dir::open(&path).unwrap(), KEEP)).await
    }

    #[tokio::test]
    async fn where_there_is_no_room_for_all_the_first_ones_are_given_and_whatever_is_on_the_list_is_spared() {
        let (room, spared) = (tempfile::tempdir().unwrap(), Arc::new(Spared::default()));
        let given = opened(&room).await;
        let many: Vec<_> = (0..MAX_GIVEN - 1).map(layer).collect();
        assert_eq!(given.give(&many, false, &*spared, 0).await.len(), MAX_GIVEN - 1);
        let last = [layer(MAX_GIVEN), layer(MAX_GIVEN + 1), layer(MAX_GIVEN + 2)];
        assert_eq!(given.give(&last, false, &*spared, 0).await.len(), 1);
        assert!(spared.0.lock().contains(&last[0].1.blob));
        assert_eq!(*spared.0.lock(), given.0.given.lock().blobs().collect::<HashSet<_>>());
        assert_eq!(given.give(&last[1..], false, &*spared, 0).await, [], "the one that is asked for has no room");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_layer_that_is_opened_is_noted_at_once() {
        let (room, spared) = (tempfile::tempdir().unwrap(), Spared::default());
        let given = opened(&room).await;
        let both = [layer(1), layer(2)];
        given.give(&both, false, &spared, 0).await;
        let started = tokio::time::Instant::now();
        let noting = tokio::spawn(given.opened(both[0].0.diff_id));
        while opened(&room).await.in_use(both[0].0.diff_id).is_none() {
            assert!(started.elapsed() < GATHER, "it waits for others");
            tokio::task::yield_now().await;
        }
        given.opened(both[1].0.diff_id).await;
        noting.await.unwrap();
        assert!(opened(&room).await.in_use(both[1].0.diff_id).is_some());
    }
}
