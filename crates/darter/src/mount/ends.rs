//! The parts of an image's layer that every mount reads: the superblock in front of the tar and the metadata behind it.
//!
//! The kernel mounts one layer after the other, and waits for a few round trips with each. So these parts are read of all layers side by side, before. And they tell whether
//! the mounted image has a directory otherwise than the unpacked one: see [`inherited()`].

use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use darter_core::ByteRange;
use darter_image::{LayerDirectories, TAR_START, inherited, metadata_at};
use darter_mount::supply::{Content, Given, Supply};
use darter_store::threads;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::output;

/// Parts of one layer that are read at a time.
const MAX_READING: usize = 8;

/// Metadata of an image that is read so, of all its layers together: of more than a million files. The kernel reads what is beyond as it needs it.
const MAX_METADATA: u64 = 128 << 20;

/// Differences that are told.
const MAX_TOLD: usize = 3;

/// How much metadata of an image may still be read.
pub(super) struct MetadataAllowance(AtomicU64);

impl MetadataAllowance {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(MAX_METADATA))
    }

    fn has(&self, bytes: u64) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

/// Reads a layer's ends; `None` if they can't be had now, or are not what Darter writes: the kernel will say so.
pub(super) async fn read(
    content: &Content,
    supply: &dyn Supply,
    room: &MetadataAllowance,
    within: Duration,
) -> Option<LayerDirectories> {
    let beginning = part(content, supply, ByteRange::new(0, TAR_START.min(content.length)), within).await?;
    let start = metadata_at(&beginning)?;
    let rest = ByteRange::new(start, content.length);
    if rest.is_empty() || !room.has(rest.len()) {
        return None;
    }
    let pieces = content.pieces.pieces_of(rest).map(|piece| {
        let piece = content.pieces.range(darter_core::PieceIndex(piece), content.length);
        ByteRange::new(piece.start().max(start), piece.end())
    });
    let parts = stream::iter(pieces).map(async |range| part(content, supply, range, within).await.ok_or(()));
    let parts: Vec<_> = parts.buffered(MAX_READING).try_collect().await.ok()?;
    LayerDirectories::new(&beginning, parts.concat()).ok()
}

/// The bytes of a range that is within a piece.
async fn part(content: &Content, supply: &dyn Supply, range: ByteRange, within: Duration) -> Option<Vec<u8>> {
    let piece = content.pieces.range(content.pieces.piece_at(range.start()), content.length);
    let given = supply.read(piece, within).await.ok()?;
    let taking = move || {
        let length = usize::try_from(range.len()).ok()?;
        match given {
            Given::Bytes(bytes) => {
                let from = usize::try_from(range.start() - piece.start()).ok()?;
                bytes.get(from..from + length).map(<[u8]>::to_vec)
            }
            Given::File(file, _) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, range.start()).ok()?;
                Some(bytes)
            }
        }
    };
    threads::run(taking).await
}

/// Says where the mounted image has directories otherwise than the unpacked one. The layers, the lowest first.
pub(super) async fn tell_differences(layers: Vec<LayerDirectories>) {
    let Ok(mut found) = threads::run(move || inherited(&layers)).await else { return };
    found.retain(|it| !it.is_covered);
    if found.is_empty() {
        return;
    }
    let told: Vec<_> = found.iter().take(MAX_TOLD).map(ToString::to_string).collect();
    let more =
        if found.len() > told.len() { format!("; and {} more", found.len() - told.len()) } else { String::new() };
    output::complain(&format!(
        "directories that the image's layers don't name are root's with mode 0755 here, and not as the layers below have them: {}{more}",
        told.join("; ")
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_layers_of_an_image_share_the_room_for_their_metadata() {
        let room = MetadataAllowance::new();
        assert!(room.has(MAX_METADATA - 5) && !room.has(6) && room.has(5) && !room.has(1));
    }
}
