//! The parts of an image's layer that every mount reads: the superblock before the tar and the metadata after it.
//!
//! The kernel mounts one layer after the other, and each costs a few round trips. So these parts of all layers are read in parallel first. They also show whether
//! the mounted image has directories that differ from those of the unpacked image: see [`inherited()`].

use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use darter_core::ByteRange;
use darter_image::{LayerDirectories, TAR_START, inherited, metadata_at};
use darter_mount::supply::{Content, Given, Supply};
use darter_store::threads;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::output;

/// How many parts of one layer are read at a time.
const MAX_READING: usize = 8;

/// Most bytes of metadata that are read in advance for all layers of an image together: enough for more than a million files. The kernel reads the rest when it needs it.
const MAX_METADATA: u64 = 128 << 20;

/// How many differences are printed.
const MAX_TOLD: usize = 3;

/// How many bytes of an image's metadata may still be read.
pub(super) struct MetadataAllowance(AtomicU64);

impl MetadataAllowance {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(MAX_METADATA))
    }

    fn has(&self, bytes: u64) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

/// Reads a layer's two ends; `None` if they can't be read now, or are not in the form that Darter writes: then the kernel reports it.
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

/// The bytes of a range that lies within one piece.
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

/// Prints in which directories the mounted image differs from the unpacked one. `layers` has the lowest first.
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
        "directories that a layer does not name belong to root with mode 0755 here, instead of having the attributes from the layers below: {}{more}",
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
