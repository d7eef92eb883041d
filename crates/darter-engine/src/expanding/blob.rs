//! A layer that is not stored here is fetched as a blob of its own, just as an engine's pull would fetch it: one read of the registry supplies both the expanded form
//! and any pull of the layer that is in progress at the same time, or begins before the expanded form is complete.
//!
//! A pull that began earlier is shared. A copy that is fetched only for the expanded form is *lent*: it is removed [`KEEP_LENT`] after its last use, unless
//! somebody else requests it. Until then, it serves pulls of images that turn out not to be mountable, or not soon enough.
//!
//! Invariants: only a lent copy is removed; this agent has checked the digest of the whole before the layer's last bytes are passed on.
//!
//! Not decided here: who leads the blob's swarm, from where and by how many connections it is read, what is kept if there is no space. The
//! transfer decides these.

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

use super::Expansions;
use super::reading::Outlet;
use crate::error::FetchError;
use crate::part::Part;

/// How long a lent copy is kept after its last use: the puller of an image may be about to request its layers.
pub(crate) const KEEP_LENT: Duration = Duration::from_secs(600);

/// A copy is lent only in a store that may hold this many times the layer's length: the expanded form has to fit as well.
const MIN_ROOM: u64 = 5;

/// A function that opens a layer's own blob, to be read from its first byte to its last.
pub(crate) type OpensLayer =
    Box<dyn Fn(Source, Credentials, Requester) -> BoxFuture<'static, Result<LayerBytes, FetchError>> + Send + Sync>;

/// A layer that is being fetched. Fields are dropped in order.
pub(crate) struct LayerBytes {
    /// Its length, if known.
    pub(crate) length: Option<u64>,
    /// Its bytes in order; the last ones arrive after the whole was checked.
    pub(crate) parts: BoxStream<'static, Result<Part, FetchError>>,
    /// True if the agent computes the digest of the whole while it arrives.
    pub(crate) is_hashed: bool,
    /// True if this agent itself has checked the digest of the whole.
    pub(crate) was_checked: Box<dyn Fn() -> bool + Send + Sync>,
    /// Calls back when the reader has finished or given up.
    _ends: Ends,
}

/// A function that is called when this is dropped.
struct Ends(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

impl LayerBytes {
    /// A layer of unknown length whose digest is not computed while it arrives; `ends` is called when it is no longer read.
    pub(crate) fn new(
        parts: BoxStream<'static, Result<Part, FetchError>>,
        ends: impl FnOnce() + Send + Sync + 'static,
    ) -> Self {
        let (was_checked, ends) = (Box::new(|| false), Ends(Some(Box::new(ends))));
        Self { length: None, parts, is_hashed: false, was_checked, _ends: ends }
    }
}

/// The lent copies, with the time of their last use.
#[derive(Default)]
pub(crate) struct Lent(Mutex<HashMap<BlobId, Moment>>);

impl Lent {
    /// Notes that a copy is begun, or used once more, for an expanded form.
    pub(crate) fn lend(&self, blob: BlobId, now: Moment) {
        self.0.lock().insert(blob, now);
    }

    /// Somebody else requests this blob: from now on it is kept like any other.
    pub(crate) fn claim(&self, blob: BlobId) {
        self.0.lock().remove(&blob);
    }

    /// True if nobody else has requested this blob.
    pub(crate) fn is_lent(&self, blob: BlobId) -> bool {
        self.0.lock().contains_key(&blob)
    }

    /// Removes from this list, and returns, the copies that were kept for long enough.
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
    /// Sets the function that opens layers' own blobs. To be called once.
    pub(crate) fn opens_layers(&self, opens: OpensLayer) {
        let is_first = self.opens_layer.set(opens).is_ok();
        debug_assert!(is_first, "one agent's blobs");
    }

    /// Opens a layer's own blob; `None` if the layer has to be read in another way: the registry has yet to show that it has the content that is here under that digest, or the
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

    /// Passes on the bytes of a layer as they arrive, and an empty chunk at its end.
    pub(super) async fn give_blob(
        &self,
        layer: &ExpandedLayer,
        mut bytes: LayerBytes,
        outlet: &Outlet<'_>,
    ) -> Result<(), OriginError> {
        let source = layer.stored();
        self.check_size(layer, &source, bytes.length.unwrap_or_default())?;
        let mut at = 0;
        while let Some(part) = bytes.parts.try_next().await.map_err(|error| failure_of(layer, error))? {
            // Ranges of files were not requested.
            let Part::Bytes(chunk) = part else { continue };
            at += chunk.len() as u64;
            self.note_move(layer);
            self.check_size(layer, &source, at)?;
            if outlet.send(chunk).await.is_err() {
                // The taker has refused the layer, and reports why.
                return Ok(());
            }
        }
        if bytes.is_hashed && !(bytes.was_checked)() && !self.is_right_here(layer).await {
            let text = format!("{source}: the received bytes could not be checked here; request it again");
            return Err(OriginError::new(ErrorKind::Unreachable, text));
        }
        let _ = outlet.send(Bytes::new()).await;
        Ok(())
    }

    /// True if a copy that only another agent has checked has the layer's digest.
    async fn is_right_here(&self, layer: &ExpandedLayer) -> bool {
        let stored = self.disk.open(blob_of(&layer.digest)).await.ok().flatten();
        match stored.map(|stored| (stored.length(), stored)) {
            Some((Some(length), stored)) => self.is_right(&stored, length, layer).await,
            _ => false,
        }
    }
}

/// Why a layer's own blob could not be fetched.
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
