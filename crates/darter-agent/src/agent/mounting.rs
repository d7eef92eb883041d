//! Prefetches what every mount reads of an image's layers ([`darter_engine::transfer::mounting`]), for all of them in parallel. A part of `impl Agent`.
//!
//! Small layers are fetched completely, as far as the image's [`MountRoom`] reaches: an image of thousands of them must not fill the link before
//! anything was started.

use darter_core::BlobId;
use darter_engine::transfer::mounting::SMALL;
use futures_util::future::join_all;

use super::{Agent, Phase};

/// How many bytes of an image's small layers are fetched completely before they are mounted.
const MAX_SMALL: u64 = 64 << 20;

/// How much of one image's small layers may still be fetched completely. Its layers share it, however many calls of [`Agent::fetch_for_mount`] name them.
#[derive(Debug)]
pub struct MountRoom {
    bytes: u64,
}

impl MountRoom {
    /// The room of an image of which nothing was fetched yet.
    pub const fn for_image() -> Self {
        Self { bytes: MAX_SMALL }
    }

    /// Takes the room for a layer of `length` bytes. Returns false, and takes none, if the layer is not small or the room is too little.
    const fn take(&mut self, length: u64) -> bool {
        let is_room = length <= SMALL && length <= self.bytes;
        if is_room {
            self.bytes -= length;
        }
        is_room
    }
}

impl Agent {
    /// These expanded layers of an image that was pulled are open, and are about to be mounted. Fetches what every mount reads of them, until the agent
    /// drains; `room` is the image's.
    pub fn fetch_for_mount(&self, layers: &[BlobId], room: &mut MountRoom) {
        let mut fetching = Vec::new();
        for transfer in layers.iter().filter_map(|layer| self.inner.swarms.get(*layer)) {
            let is_room = transfer.stored.length().is_some_and(|length| room.take(length));
            fetching.push(async move {
                let _kept = transfer.keep_open();
                transfer.fetch_for_mount(is_room).await;
            });
        }
        let mut phases = self.phases();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                _ = join_all(fetching) => {}
                // If the sender is gone, so is the agent.
                _ = phases.wait_for(|phase| !matches!(phase, Phase::Starting | Phase::Ready)) => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_room_for_its_small_layers_until_it_is_used_up() {
        let mut room = MountRoom::for_image();
        assert!(!room.take(SMALL + 1), "a layer that is not small");
        let whole = (0..1000).filter(|_| room.take(SMALL)).count() as u64;
        assert_eq!(whole * SMALL, MAX_SMALL, "the large one took none of it");
        assert!(!room.take(1));

        let mut room = MountRoom::for_image();
        assert!(room.take(SMALL / 2));
        assert_eq!((1..100).filter(|_| room.take(SMALL)).count() as u64, MAX_SMALL / SMALL - 1);
        assert!(room.take(SMALL / 2), "a layer that does not fit leaves the room to smaller ones");
    }
}
