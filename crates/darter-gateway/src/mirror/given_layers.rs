//! The layers that were given to be mounted, as a list in the data directory ([`given`](super::given) decides what is on it), and what follows for the
//! store: what is on the list is not evicted.
//!
//! A list of another release is left alone, and then nothing is let go of that this release gave; it is only not written down.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use darter_api::LayerRequest;
use darter_core::Digest;
use darter_store::{Dir, threads};
use parking_lot::Mutex;

use super::blobs::{Mountable, MountableLayers};
use super::given::{Given, GivenLayer};

const FILE: &str = "layers";
const TEMPORARY: &str = ".layers";

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub struct GivenLayers(Arc<Inner>);

struct Inner {
    dir: Dir,
    keep: Duration,
    /// Whether the file is another release's.
    set_aside: bool,
    given: Mutex<Given>,
    /// Held while the file is written: no older list replaces a newer one.
    writing: Mutex<()>,
}

impl fmt::Debug for GivenLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GivenLayers").field("keep", &self.0.keep).finish_non_exhaustive()
    }
}

impl GivenLayers {
    /// Opens the list of a data directory. Blocking. Layers stay for `keep` after somebody asked for them, where nobody tells what snapshots name.
    pub fn open(dir: Dir, keep: Duration) -> Self {
        let text = dir.read(FILE);
        let is_new = text.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        let read = text.ok().and_then(|bytes| Given::parse(&String::from_utf8_lossy(&bytes)));
        let set_aside = read.is_none() && !is_new;
        if set_aside {
            let path = dir.path_of(FILE);
            tracing::warn!(path = %path.display(), "the list of layers that engines mount is a newer version's or can't be read: it is left alone");
        }
        let (given, writing) = (Mutex::new(read.unwrap_or_default()), Mutex::new(()));
        Self(Arc::new(Inner { dir, keep, set_aside, given, writing }))
    }

    /// Spares all of it from eviction: before anything else is done with the store.
    pub async fn spare(&self, layers: &dyn MountableLayers) {
        let all: Vec<_> = self.0.given.lock().layers().map(|given| given.blob).collect();
        for blob in all {
            layers.spare(blob, true).await;
        }
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

    pub(super) async fn opened(&self, diff_id: Digest) {
        self.0.given.lock().opened(diff_id);
        self.save().await;
    }

    /// Notes that a layer is given, before anybody hears of it.
    pub(super) async fn give(
        &self,
        layer: &LayerRequest,
        mountable: &Mountable,
        layers: &dyn MountableLayers,
        now: u64,
    ) -> bool {
        let is_noted = self.0.given.lock().give(layer, (mountable.blob, mountable.length), now);
        if is_noted {
            layers.spare(mountable.blob, true).await;
            self.let_go(layers, now).await;
        }
        is_noted
    }

    async fn let_go(&self, layers: &dyn MountableLayers, now: u64) {
        let gone = self.0.given.lock().let_go(self.0.keep, now);
        for blob in gone {
            tracing::info!(%blob, "an engine's layer is let go of: nobody asked for it for long");
            layers.spare(blob, false).await;
        }
        self.save().await;
    }

    async fn save(&self) {
        let inner = Arc::clone(&self.0);
        threads::run(move || inner.write()).await;
    }
}

impl Inner {
    fn write(&self) {
        if self.set_aside {
            return;
        }
        let _writing = self.writing.lock();
        let Some(text) = self.given.lock().take_changed() else { return };
        if let Err(error) = self.dir.replace(FILE, TEMPORARY, &[text.as_bytes()], true) {
            tracing::warn!(path = %self.dir.path_of(FILE).display(), %error, "could not note which layers engines mount");
        }
    }
}
