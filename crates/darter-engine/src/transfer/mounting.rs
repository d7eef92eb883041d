//! The parts of an expanded layer that every mount reads, fetched before it is mounted: the superblock in front and the metadata behind the tar. All
//! of a small one.
//!
//! An engine that has pulled an image mounts its layers one after the other, and the kernel reads these parts of each one after the other: an image of thirty-three
//! layers would wait for a hundred round trips. They are few bytes, and nothing starts without them. So all layers' are fetched side by side as soon as the
//! image is pulled, behind what programs wait for.
//!
//! A small layer is hardly more than the pieces with its superblock and its metadata: the rest of it costs less than to wait for it. If it is known
//! what others touched first (`profile`), that comes in place of the rest.
//!
//! Invariant: what is fetched so had room in the store when it was asked for, within what may be fetched ahead at all. That of the ends is taken until they have
//! come; that of the rest of a small layer is looked for, and not kept: a small layer that is wanted as a whole is a reader's like any other.

use std::sync::Arc;
use std::time::Duration;

use darter_core::{ByteRange, PieceIndex};
use darter_image::{TAR_START, metadata_at};
use darter_swarm::Foresight;
use futures_util::future::join;

use super::Transfer;
use super::profile::Taken;

/// A layer of at most this length is small: four of its pieces.
pub const SMALL: u64 = 2 << 20;

/// How long it may take: a start that comes later asks for what it needs.
const TIMEOUT: Duration = Duration::from_secs(60);

impl Transfer {
    /// Fetches what every mount of an expanded layer reads; of a small one everything, if there `is_room` for that.
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
        // The metadata ends where the file does: most often it is all in the last piece.
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
        // A layer with known first touches gets those when it is opened.
        if is_room && length <= SMALL && self.profile().order().count() == 0 && taken.take(length) {
            self.want_everything();
        }
    }

    /// The offset of the metadata, by the superblock, which is here.
    async fn read_metadata_place(&self) -> Option<u64> {
        let stored = Arc::clone(&self.stored);
        let read = self.context.disk.run(move || {
            let mut beginning = vec![0; usize::try_from(TAR_START).unwrap_or_default()];
            stored.read_at(0, &mut beginning).ok()?;
            metadata_at(&beginning)
        });
        read.await
    }

    /// The pieces that `range` touches, as bytes.
    fn whole_pieces(&self, range: ByteRange, length: u64) -> ByteRange {
        let pieces = self.piece_length.pieces_of(range.clamp_to(length));
        let at = |piece| self.piece_length.offset(PieceIndex(piece));
        ByteRange::new(at(pieces.start), at(pieces.end)).clamp_to(length)
    }
}
