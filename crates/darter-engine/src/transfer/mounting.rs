//! Prefetches the parts of an expanded layer that every mount reads: the superblock before the tar and the metadata after it. A small layer is
//! prefetched whole.
//!
//! An engine that has pulled an image mounts its layers one after the other, and for each the kernel reads these parts one after the other: an image of thirty-three
//! layers would wait for a hundred round trips. They are few bytes, and nothing starts without them. So those of all layers are fetched in parallel as soon as the
//! image is pulled, after what programs wait for.
//!
//! A small layer is hardly more than the pieces with its superblock and its metadata: fetching the rest costs less than waiting for it. If a profile
//! (`profile`) is known, its parts are fetched instead of the rest.
//!
//! Invariant: what is prefetched had space in the store when it was requested, within the limit for prefetching. For the superblock and the metadata the space is reserved until they have
//! arrived; for the rest of a small layer it is only checked: a small layer is then fetched as for any reader of the whole.

use std::sync::Arc;
use std::time::Duration;

use darter_core::{ByteRange, PieceIndex};
use darter_image::{TAR_START, metadata_at};
use darter_swarm::Foresight;
use futures_util::future::join;

use super::Transfer;
use super::profile::Taken;

/// A layer of at most this many bytes is small: four of its pieces.
pub const SMALL: u64 = 2 << 20;

/// How long prefetching may take: a start that comes later requests what it needs.
const TIMEOUT: Duration = Duration::from_secs(60);

impl Transfer {
    /// Fetches what every mount of an expanded layer reads; of a small layer everything, if there `is_room` for it.
    pub async fn fetch_for_mount(self: &Arc<Self>, is_room: bool) {
        let Some(length) = self.stored.length() else { return };
        if !self.is_expanded() || self.is_complete() || self.stored.passes() {
            return;
        }
        let mut taken = Taken::nothing(self);
        let ends = [ByteRange::new(0, 1), ByteRange::new(length.saturating_sub(1), length)];
        let [first, last] = ends.map(|end| self.whole_pieces(end, length));
        if !taken.take(first.len()) || !taken.take(last.len()) {
            return;
        }
        let fetch = |range| self.foresee(range, TIMEOUT, Foresight::Profile);
        // The metadata extends to the end of the file: most often all of it is in the last piece.
        let (Ok(()), Ok(())) = join(fetch(first), fetch(last)).await else { return };
        let Some(metadata) = self.read_metadata_place().await.filter(|at| *at < last.start()) else {
            return self.fetch_small(length, is_room, taken).await;
        };
        let metadata = self.whole_pieces(ByteRange::new(metadata, last.start()), length);
        if taken.take(metadata.len()) && fetch(metadata).await.is_ok() {
            self.fetch_small(length, is_room, taken).await;
        }
    }

    async fn fetch_small(self: &Arc<Self>, length: u64, is_room: bool, mut taken: Taken<'_>) {
        // For a layer with a profile, the profile's parts are fetched when it is opened.
        if is_room && length <= SMALL && self.profile().order().count() == 0 && taken.take(length) {
            self.want_everything();
        }
    }

    /// The offset of the metadata according to the superblock, which is here.
    async fn read_metadata_place(&self) -> Option<u64> {
        let stored = Arc::clone(&self.stored);
        let read = self.context.disk.run(move || {
            let mut beginning = vec![0; usize::try_from(TAR_START).unwrap_or_default()];
            stored.read_at(0, &mut beginning).ok()?;
            metadata_at(&beginning)
        });
        read.await
    }

    /// The range in bytes of the pieces that `range` touches.
    fn whole_pieces(&self, range: ByteRange, length: u64) -> ByteRange {
        let pieces = self.piece_length.pieces_of(range.clamp_to(length));
        let at = |piece| self.piece_length.offset(PieceIndex(piece));
        ByteRange::new(at(pieces.start), at(pieces.end)).clamp_to(length)
    }
}
