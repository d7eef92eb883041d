//! Shows and pins profiles: which parts of expanded layers are read first. A part of `impl Agent`.
//!
//! For a layer with a transfer, the transfer has the profile; for others, the one on disk is used.

use std::io;
use std::ops::Range;

use darter_api::profile::LayerProfile;
use darter_core::{BlobId, ByteRange, Digest, ExpandedLayer, PieceIndex, PieceLength};
use darter_engine::FetchError;
use darter_image::FORMAT;
use darter_store::StoreError;
use darter_swarm::{Bounds, Profile};

use super::Agent;

impl Agent {
    /// True if this agent uses profiles: see [`Options::profiles`](crate::Options::profiles).
    pub fn keeps_profiles(&self) -> bool {
        self.inner.context.options.profiles
    }

    /// The profile of the layer whose tar has the digest `diff_id`; `None` if none is known.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn layer_profile(&self, diff_id: Digest) -> Result<Option<LayerProfile>, FetchError> {
        let blob = ExpandedLayer::blob_of(&diff_id, FORMAT);
        let Some((profile, pieces, length)) = self.profile_of(blob).await? else { return Ok(None) };
        if profile.order().is_empty() && profile.pinned().is_none() {
            return Ok(None);
        }
        let end = length.unwrap_or(u64::MAX);
        let bytes = |run: &Range<u32>| {
            let range = ByteRange::new(pieces.offset(PieceIndex(run.start)), pieces.offset(PieceIndex(run.end)));
            range.clamp_to(end)
        };
        let ranges: Vec<_> = profile.order().stretches().iter().map(bytes).collect();
        Ok(Some(LayerProfile {
            diff_id,
            length_bytes: length,
            piece_bytes: pieces.bytes(),
            starts: profile.records().len() as u64,
            pinned: profile.pinned().is_some(),
            bytes: ranges.iter().map(|range| range.len()).sum(),
            ranges: ranges.into_iter().map(|range| (range.start(), range.end())).collect(),
        }))
    }

    /// Sets a list in place of the learnt profile of that layer, or removes it. Returns false if nothing of the layer is here.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn pin_layer_profile(&self, diff_id: Digest, ranges: Option<&[ByteRange]>) -> Result<bool, FetchError> {
        let blob = ExpandedLayer::blob_of(&diff_id, FORMAT);
        let pieces_of = |pieces: PieceLength| {
            let wanted = ranges?.iter().filter(|range| !range.is_empty());
            let wanted = wanted.map(|range| range.clamp_to(pieces.offset(PieceIndex(darter_swarm::MAX_PIECES))));
            Some(wanted.filter(|range| !range.is_empty()).map(|range| pieces.pieces_of(range)).collect::<Vec<_>>())
        };
        let context = &self.inner.context;
        let kept = if let Some(transfer) = self.inner.swarms.get(blob) {
            transfer.pin_profile(pieces_of(transfer.piece_length)).await
        } else {
            let Some((mut profile, pieces, _)) = self.profile_of(blob).await? else { return Ok(false) };
            profile.pin(pieces_of(pieces));
            let profiles = context.profiles.clone();
            context.disk.run(move || profiles.keep(blob, pieces, &profile)).await
        };
        let newer =
            || io::Error::new(io::ErrorKind::Unsupported, "a newer Darter wrote the one that is there: run that again");
        let kept = kept.and_then(|kept| if kept { Ok(true) } else { Err(newer()) });
        let path = context.options.data_dir.clone();
        kept.map_err(|source| StoreError::Io { action: "write a profile into", path, source }.into())
    }

    /// The profile, piece length and length of a blob of which at least a part is here; else `None`.
    async fn profile_of(&self, blob: BlobId) -> Result<Option<(Profile, PieceLength, Option<u64>)>, FetchError> {
        if let Some(transfer) = self.inner.swarms.get(blob) {
            return Ok(Some((transfer.profile(), transfer.piece_length, transfer.stored.length())));
        }
        let context = &self.inner.context;
        let Some(stored) = context.disk.open(blob).await? else { return Ok(None) };
        let (pieces, length) = (stored.manifest().piece_length(), stored.length());
        let profiles = context.profiles.clone();
        let kept = context.disk.run(move || profiles.recall(blob, pieces)).await;
        let bounds = Bounds { total: stored.manifest().piece_count(), piece_bytes: pieces.bytes() };
        Ok(Some((kept.unwrap_or_else(|| Profile::new(bounds)), pieces, length)))
    }
}
