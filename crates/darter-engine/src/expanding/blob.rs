//! A layer that is not stored here comes by way of its own blob, as an engine's pull of it does: one reading of the registry gives the expanded form
//! and, piece by piece, whatever pull of the layer is under way at the same time or begins before the expanded form is there.
//!
//! A pull that began before is read along with. A copy that comes for the expanded form alone is *lent*: it goes [`KEEP_LENT`] after that, unless
//! somebody asked for it. So long the pulls of an image may still want it of which another layer can't be mounted, or not soon enough.
//!
//! Invariants: nothing but a lent copy is taken away; the digest of the whole was checked here before the layer's end is given on.
//!
//! Not decided here: who leads the blob's swarm, whence and by how many connections it is read, what is kept when there is no room. That is the
//! transfer's own.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use darter_core::source::{Credentials, blob_of};
use darter_core::{BlobId, ExpandedLayer, Moment, Source, in_full};
use darter_origin::{ErrorKind, OriginError, Requester};
use futures_util::TryStreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Expansions;
use crate::error::FetchError;
use crate::transfer::stream::Part;

/// How long a lent copy is kept after its last use: the puller of an image may be about to look for its layers.
pub(crate) const KEEP_LENT: Duration = Duration::from_secs(600);

/// A layer is lent a copy only in a store that may hold so many times as much: what it becomes has to fit beside it.
const MIN_ROOM: u64 = 5;

/// Opens a layer's own blob, to be read from its first byte to its last.
pub(crate) type OpensLayer =
    Box<dyn Fn(Source, Credentials, Requester) -> BoxFuture<'static, Result<LayerBytes, FetchError>> + Send + Sync>;

/// A layer as it comes. Fields are dropped in order.
pub(crate) struct LayerBytes {
    /// How long it is, if that is known.
    pub(crate) length: Option<u64>,
    /// Its bytes in order, the last ones once the whole was checked.
    pub(crate) parts: BoxStream<'static, Result<Part, FetchError>>,
    /// True if the agent computes the digest of the whole while it comes.
    pub(crate) is_hashed: bool,
    /// True if the digest of the whole was checked by this agent itself.
    pub(crate) was_checked: Box<dyn Fn() -> bool + Send + Sync>,
    /// Hears when whoever reads it is done, or gives up.
    _ends: Ends,
}

/// A call that is made when this is dropped.
struct Ends(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

impl LayerBytes {
    /// A layer of unknown length that nobody checks while it comes; `ends` is called when nobody reads it any more.
    pub(crate) fn new(
        parts: BoxStream<'static, Result<Part, FetchError>>,
        ends: impl FnOnce() + Send + Sync + 'static,
    ) -> Self {
        let (was_checked, ends) = (Box::new(|| false), Ends(Some(Box::new(ends))));
        Self { length: None, parts, is_hashed: false, was_checked, _ends: ends }
    }
}

/// The copies that were begun for expanded forms alone, with the time of their last use.
#[derive(Default)]
pub(crate) struct Lent(Mutex<HashMap<BlobId, Moment>>);

impl Lent {
    /// A copy is begun, or used once more, for an expanded form.
    pub(crate) fn lend(&self, blob: BlobId, now: Moment) {
        self.0.lock().insert(blob, now);
    }

    /// Somebody else asks for this blob: it is kept as any other is from now on.
    pub(crate) fn claim(&self, blob: BlobId) {
        self.0.lock().remove(&blob);
    }

    /// True if nobody else has asked for this blob.
    pub(crate) fn is_lent(&self, blob: BlobId) -> bool {
        self.0.lock().contains_key(&blob)
    }

    /// The copies that have been kept for long enough, which are lent no more.
    pub(crate) fn due(&self, now: Moment) -> Vec<BlobId> {
        let mut due = Vec::new();
        self.0.lock().retain(|blob, used| {
            let is_kept = now.since(*used) < KEEP_LENT;
            due.extend((!is_kept).then_some(*blob));
            is_kept
        });
        due
    }
}

impl Expansions {
    /// Sets the call that opens layers' own blobs. Called once.
    pub(crate) fn opens_layers(&self, opens: OpensLayer) {
        let is_first = self.opens_layer.set(opens).is_ok();
        debug_assert!(is_first, "one agent's blobs");
    }

    /// Opens a layer's own blob; `None` where it is to be read past that: the registry has yet to show that it has what is here under that digest, or the
    /// store could not hold both forms.
    pub(super) async fn open_blob(
        &self,
        layer: &ExpandedLayer,
        credentials: &Credentials,
        requester: Requester,
    ) -> Result<Option<LayerBytes>, OriginError> {
        let Some(opens) = self.opens_layer.get() else { return Ok(None) };
        let named = self.sizes.lock().get(&blob_of(&layer.digest)).copied();
        if named.unwrap_or_default().saturating_mul(MIN_ROOM) > self.disk.usage().capacity {
            return Ok(None);
        }
        match opens(layer.stored(), credentials.clone(), requester).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(FetchError::Unproven { .. } | FetchError::Store(_)) => Ok(None),
            Err(error) => Err(failure_of(layer, error)),
        }
    }

    /// Gives the bytes of a layer that comes, and an empty chunk at its end.
    pub(super) async fn give_blob(
        &self,
        layer: &ExpandedLayer,
        mut bytes: LayerBytes,
        feed: &mpsc::Sender<Bytes>,
    ) -> Result<(), OriginError> {
        let source = layer.stored();
        self.check_size(layer, &source, bytes.length.unwrap_or_default())?;
        let mut at = 0;
        while let Some(part) = bytes.parts.try_next().await.map_err(|error| failure_of(layer, error))? {
            // No parts of files were asked for.
            let Part::Bytes(chunk) = part else { continue };
            at += chunk.len() as u64;
            self.note_move(layer);
            self.check_size(layer, &source, at)?;
            if feed.send(chunk).await.is_err() {
                // It was refused: that says more.
                return Ok(());
            }
        }
        if bytes.is_hashed && !(bytes.was_checked)() && !self.is_right_here(layer).await {
            let text = format!("{source}: what came could not be checked here; ask for it again");
            return Err(OriginError::new(ErrorKind::Unreachable, text));
        }
        let _ = feed.send(Bytes::new()).await;
        Ok(())
    }

    /// True if a copy that came by another agent's word has the layer's digest.
    async fn is_right_here(&self, layer: &ExpandedLayer) -> bool {
        let stored = self.disk.open(blob_of(&layer.digest)).await.ok().flatten();
        match stored.map(|stored| (stored.length(), stored)) {
            Some((Some(length), stored)) => self.is_right(&stored, length, layer).await,
            _ => false,
        }
    }
}

/// Why a layer's own blob does not come.
fn failure_of(layer: &ExpandedLayer, error: FetchError) -> OriginError {
    match error {
        FetchError::Origin(failure) => failure.into(),
        FetchError::WrongDigest { .. } => {
            OriginError::new(ErrorKind::Contradicted, format!("{}: {}", layer.stored(), in_full(&error)))
        }
        error => OriginError::new(ErrorKind::Unreachable, format!("{}: {}", layer.stored(), in_full(&error))),
    }
}

impl std::fmt::Debug for LayerBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerBytes").field("length", &self.length).finish_non_exhaustive()
    }
}
