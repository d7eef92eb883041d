//! Reads the stored (compressed) layer: this host's own copy as far as it is right, or else the layer's own blob as it arrives, or its registry.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use darter_core::source::{Credentials, blob_of};
use darter_core::{ByteRange, ExpandedLayer, Moment, Source, Version, in_full};
use darter_origin::{ErrorKind, Origin, OriginError, Reading, Requester, RetryPolicy};
use darter_store::StoredBlob;
use darter_wire::Budget as _;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::Expansions;
use super::blob::LayerBytes;
use super::lines::InLine;
use crate::error::FetchError;
use crate::stored_name::is_named_for;

/// How many bytes of an own copy are read at a time.
const CHUNK: u64 = 512 << 10;

/// Where the stored layer is read from.
pub(super) enum StoredForm {
    /// From this host's store, which has all of it, with this length.
    Here(Arc<dyn StoredBlob>, u64),
    /// From the layer's own blob, as it arrives.
    Comes(LayerBytes),
    /// From its registry, for this purpose alone.
    AtRegistry,
}

impl StoredForm {
    /// True if its digest is checked while it arrives, before its last bytes.
    pub(super) const fn is_hashed(&self) -> bool {
        matches!(self, Self::Comes(LayerBytes { is_hashed: true, .. }))
    }
}

/// Passes the bytes of a stored layer on to the decompressor.
pub(super) struct Outlet<'a> {
    pub(super) feed: mpsc::Sender<Bytes>,
    /// Learns how much of the layer has come.
    pub(super) in_line: &'a InLine<'a>,
}

impl Outlet<'_> {
    /// Passes on a chunk. An error means that the decompressor needs no more.
    pub(super) async fn send(&self, chunk: Bytes) -> Result<(), mpsc::error::SendError<Bytes>> {
        self.in_line.came(chunk.len());
        self.feed.send(chunk).await
    }

    fn is_closed(&self) -> bool {
        self.feed.is_closed()
    }
}

/// How far a layer has been read.
struct Progress {
    at: u64,
    /// When the last byte arrived.
    moved: Moment,
}

impl Expansions {
    /// Finds out from where to read a layer, for a taker of its expanded form. A read without a taker has to prove that a registry has the layer: it reads
    /// that registry, unless the registry is trusted.
    pub(super) async fn stored_form(
        &self,
        origin: &dyn Origin,
        layer: &ExpandedLayer,
        credentials: &Credentials,
        requester: Option<Requester>,
    ) -> Result<StoredForm, OriginError> {
        if let Some((stored, length)) = self.own_copy(origin, layer, credentials, requester.is_none()).await
            && self.is_right(&stored, length, layer).await
        {
            return Ok(StoredForm::Here(stored, length));
        }
        let Some(requester) = requester else { return Ok(StoredForm::AtRegistry) };
        let comes = self.open_blob(layer, credentials, requester).await?;
        Ok(comes.map_or(StoredForm::AtRegistry, StoredForm::Comes))
    }

    /// Passes on the bytes of a stored layer, and an empty chunk at its end.
    pub(super) async fn read_layer(
        &self,
        origin: &dyn Origin,
        layer: &ExpandedLayer,
        credentials: &Credentials,
        stored: StoredForm,
        outlet: Outlet<'_>,
    ) -> Result<(), OriginError> {
        let at = match stored {
            StoredForm::Comes(bytes) => return self.give_blob(layer, bytes, &outlet).await,
            StoredForm::AtRegistry => 0,
            StoredForm::Here(stored, length) => {
                let at = self.give_stored(&stored, length, layer, &outlet).await;
                if at == length {
                    let _ = outlet.send(Bytes::new()).await;
                    return Ok(());
                }
                at
            }
        };
        self.read_registry(origin, layer, credentials, at, outlet).await
    }

    /// The layer's complete copy in this store, with its length, if it may be served for that registry: it came from there, or the operator
    /// trusts the registry, which has just accepted these credentials. For a proof (`is_proof`), only the copy for a trusted registry.
    async fn own_copy(
        &self,
        origin: &dyn Origin,
        layer: &ExpandedLayer,
        credentials: &Credentials,
        is_proof: bool,
    ) -> Option<(Arc<dyn StoredBlob>, u64)> {
        let is_trusted = self.registries.at(&layer.registry).is_trusted();
        if is_proof && !is_trusted {
            return None;
        }
        let (source, blob) = (layer.stored(), blob_of(&layer.digest));
        let stored = self.disk.open(blob).await.ok().flatten().filter(|stored| stored.is_complete())?;
        let length = stored.length()?;
        let key = source.record_key(&Credentials::none());
        let is_proven = is_named_for(&*stored, &source)
            || self.disk.recall_source(key).await.ok().flatten().is_some_and(|record| record.blob == blob);
        if !is_proven {
            let stat = if is_trusted { origin.stat(&source, credentials, None).await.ok() } else { None };
            // An answer with another length is about something else, such as a login page.
            stat.filter(|stat| stat.version.length.is_none_or(|told| told == length))?;
        }
        Some((stored, length))
    }

    /// True if this host's own copy has the layer's digest. This agent may have got the copy from another agent without checking it, and the expanded form of a
    /// wrong copy could not be taken back from the agents that have it. A wrong copy is thrown away.
    pub(super) async fn is_right(&self, stored: &Arc<dyn StoredBlob>, length: u64, layer: &ExpandedLayer) -> bool {
        let (blob, dir) = (blob_of(&layer.digest), self.data_dir.display());
        let (mut hasher, mut at) = (layer.digest.hasher(), 0);
        while at < length {
            let (copy, part) = (Arc::clone(stored), (length - at).min(CHUNK));
            let hashed = self.disk.run(move || {
                let mut bytes = vec![0; usize::try_from(part).unwrap_or_default()];
                copy.read_at(at, &mut bytes).map(|()| {
                    hasher.update(&bytes);
                    hasher
                })
            });
            hasher = match hashed.await {
                Ok(hasher) => hasher,
                Err(error) => {
                    tracing::warn!(layer = %layer, blob = %blob.short(), data_dir = %dir, error = %in_full(&error), at,
                        "the copy of a layer that is stored here is damaged: reading its registry");
                    return false;
                }
            };
            at += part;
            self.note_move(layer);
        }
        let got = hasher.finish();
        if got == layer.digest {
            return true;
        }
        tracing::warn!(layer = %layer, blob = %blob.short(), data_dir = %dir, digest = %got,
            "the copy of a layer that is stored here is another layer: it is thrown away, and its registry is read");
        let is_under_way =
            self.wrong_copies.get().is_some_and(|throws| throws(blob, &FetchError::refuted(layer.digest, got, None)));
        if is_under_way {
            return false;
        }
        let wrong = Arc::clone(stored);
        if let Err(error) = self.disk.run(move || wrong.discard()).await {
            tracing::error!(blob = %blob.short(), error = %in_full(&error), "a wrong copy could not be thrown away");
        }
        false
    }

    /// Passes on an own copy from its first byte as far as it can be read; returns how many bytes that were.
    async fn give_stored(
        &self,
        stored: &Arc<dyn StoredBlob>,
        length: u64,
        layer: &ExpandedLayer,
        outlet: &Outlet<'_>,
    ) -> u64 {
        let mut at = 0;
        while at < length {
            let (blob, part) = (Arc::clone(stored), (length - at).min(CHUNK));
            let read = self.disk.run(move || {
                let mut bytes = vec![0; usize::try_from(part).unwrap_or_default()];
                blob.read_at(at, &mut bytes).map(|()| Bytes::from(bytes))
            });
            match read.await {
                Ok(bytes) => {
                    if outlet.send(bytes).await.is_err() {
                        // The taker has refused the layer, and reports why.
                        return length;
                    }
                }
                Err(error) => {
                    let (blob, dir) = (blob_of(&layer.digest), self.data_dir.display());
                    tracing::warn!(layer = %layer, blob = %blob.short(), data_dir = %dir, error = %in_full(&error), at,
                        "the copy of a layer that is stored here is damaged: reading its registry from there on");
                    break;
                }
            }
            at += part;
            self.note_move(layer);
        }
        at
    }

    /// Passes on a registry's layer from `at` on. Continues after interrupted answers, as long as the patience lasts.
    async fn read_registry(
        &self,
        origin: &dyn Origin,
        layer: &ExpandedLayer,
        credentials: &Credentials,
        at: u64,
        outlet: Outlet<'_>,
    ) -> Result<(), OriginError> {
        let source = layer.stored();
        let policy = RetryPolicy::patient(self.patience);
        let (mut version, mut tries) = (None::<Version>, 0);
        let mut progress = Progress { at, moved: self.clock.now() };
        loop {
            let range = (progress.at > 0).then(|| ByteRange::new(progress.at, u64::MAX));
            let before = progress.moved;
            let read = async {
                let reading = origin.read(&source, credentials, range, version.as_ref()).await?;
                let length = reading.length;
                version = Some(reading.version.clone());
                self.give_reading(reading, layer, &mut progress, &outlet).await?;
                if length.is_some_and(|length| progress.at < length) && !outlet.is_closed() {
                    let text = format!("{source} ended after {} bytes", progress.at);
                    return Err(OriginError::new(ErrorKind::Truncated, text));
                }
                Ok(())
            };
            let error = match read.await {
                Ok(()) => break,
                Err(error) => error,
            };
            tries = if progress.moved > before { 1 } else { tries + 1 };
            let spent = self.clock.now().since(progress.moved);
            let Some(pause) = policy.pause(tries, spent, &error).filter(|_| !outlet.is_closed()) else {
                return Err(error);
            };
            tracing::info!(%source, error = %in_full(&error), at = progress.at, "reading a layer was interrupted; continuing");
            tokio::time::sleep(pause).await;
        }
        // An error here means that the decompressor needs no more.
        let _ = outlet.send(Bytes::new()).await;
        Ok(())
    }

    /// Passes on the bytes of one answer.
    async fn give_reading(
        &self,
        mut reading: Reading,
        layer: &ExpandedLayer,
        progress: &mut Progress,
        outlet: &Outlet<'_>,
    ) -> Result<(), OriginError> {
        let source = layer.stored();
        let Some(mut skip) = progress.at.checked_sub(reading.start) else {
            let text = format!("{source} sent bytes from {} on, not from {}", reading.start, progress.at);
            return Err(OriginError::new(ErrorKind::Protocol, text));
        };
        self.check_size(layer, &source, reading.length.unwrap_or_default())?;
        while let Some(chunk) = reading.body.next().await {
            let mut chunk = chunk?;
            self.metrics.origin_bytes.inc_by(chunk.len() as u64);
            self.budget.take(u32::try_from(chunk.len()).unwrap_or(u32::MAX)).await;
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            chunk.advance(skipped);
            skip -= skipped as u64;
            if chunk.is_empty() {
                continue;
            }
            progress.at += chunk.len() as u64;
            progress.moved = self.clock.now();
            self.note_move(layer);
            self.check_size(layer, &source, progress.at)?;
            if outlet.send(chunk).await.is_err() {
                // The taker has refused the layer, and reports why.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Refuses a layer that is longer than every manifest says.
    pub(super) fn check_size(&self, layer: &ExpandedLayer, source: &Source, length: u64) -> Result<(), OriginError> {
        let named = self.sizes.lock().get(&blob_of(&layer.digest)).copied();
        let Some(named) = named.filter(|named| length > *named) else { return Ok(()) };
        let text = format!("{source} has more than the {named} bytes that its manifest says: it is another layer");
        Err(OriginError::new(ErrorKind::Contradicted, text))
    }
}
