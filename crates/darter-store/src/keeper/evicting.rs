//! Eviction: decides which blobs are removed if the quota or the disk has no room, the least recently used first.
//!
//! Invariant: a blob that is in use, pinned, spared or busy is not evicted. An evicted blob is removed from the shelf at once, and its files are deleted when the shelf is unlocked.

use super::*;

impl<B: Backend> Keeper<B> {
    /// Evicts blobs so that there is room for `rest` more bytes of a blob and for everything that is missing of the other blobs in use.
    pub(super) fn make_room(&self, shelf: &mut Shelf<B>, blob: BlobId, rest: u64) -> Result<()> {
        if rest == 0 {
            return Ok(());
        }
        self.room.measure(self.backend.space());
        let (used, capacity) = (self.room.used(), self.room.capacity());
        // Blobs on which all their holders rest are among them. If there is room for these, too, not every blob is looked at.
        let own = shelf.entries.get(&blob).and_then(|entry| entry.body.as_ref()).map_or(0, |body| body.lacks());
        let being_made: u64 = shelf.busy.values().sum();
        let lacking = self.room.lacking().saturating_sub(own).saturating_add(being_made);
        if used.saturating_add(lacking).saturating_add(rest) <= capacity {
            return Ok(());
        }
        let others = shelf.entries.iter().filter(|(id, entry)| **id != blob && entry.in_use());
        let promised = others.map(|(_, entry)| entry.facts().rest()).sum::<u64>() + being_made;
        if used.saturating_add(promised).saturating_add(rest) <= capacity {
            return Ok(());
        }
        let mut could_free = 0;
        for busy in [Busy::Spared, Busy::AwaitedFor] {
            let evictable = shelf.entries.iter().filter(|(id, entry)| **id != blob && may_go(shelf, **id, entry, busy));
            let evictable: u64 = evictable.map(|(_, entry)| entry.facts().held_bytes).sum();
            could_free = capacity.saturating_sub(used.saturating_sub(evictable)).saturating_sub(promised);
            if could_free >= rest {
                self.evict_down_to(shelf, capacity - promised - rest, busy);
                return Ok(());
            }
        }
        Err(self.room.full(rest, could_free))
    }

    /// Evicts blobs, least recently used first, until no more than `mark` bytes are held or nothing may go.
    pub(super) fn evict_down_to(&self, shelf: &mut Shelf<B>, mark: u64, busy: Busy) {
        if self.room.used() <= mark {
            return;
        }
        let candidates = shelf.entries.iter().filter(|(id, entry)| may_go(shelf, **id, entry, busy));
        let mut candidates: Vec<(LastUse, BlobId)> = candidates.map(|(id, entry)| (entry.last_use, *id)).collect();
        candidates.sort_unstable();
        for (_, blob) in candidates {
            if self.room.used() <= mark {
                return;
            }
            self.evict(shelf, blob);
        }
    }

    pub(super) fn evict(&self, shelf: &mut Shelf<B>, blob: BlobId) {
        let Some(entry) = shelf.entries.get(&blob) else { return };
        let bytes = entry.facts().held_bytes;
        tracing::info!(%blob, name = entry.info.name, bytes, last_used = entry.last_use.at, "evicted to make room");
        self.evicted_blobs.fetch_add(1, Ordering::Relaxed);
        self.evicted_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.take_off(shelf, blob);
    }

    /// Removes a blob from the shelf and gives its room back. Its files are deleted when the shelf is unlocked.
    pub(super) fn take_off(&self, shelf: &mut Shelf<B>, blob: BlobId) {
        let Some(entry) = shelf.entries.remove(&blob) else { return };
        match &entry.body {
            Some(body) => body.dissolve(),
            None => self.room.give_back(entry.resting.held_bytes),
        }
        shelf.busy.insert(blob, 0);
        shelf.leaving.push((blob, entry.body));
        self.backend.forget(blob);
    }
}

/// How an eviction treats blobs that are being saved.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Busy {
    /// They stay: waiting for the disk would delay the caller that needs the room.
    Spared,
    /// It waits for them: otherwise a blob would be refused that fits a moment later.
    AwaitedFor,
}

/// True if a blob may be evicted.
fn may_go<B: Backend>(shelf: &Shelf<B>, blob: BlobId, entry: &BlobEntry<B>, busy: Busy) -> bool {
    let being_saved = || entry.body.as_ref().is_some_and(|body| body.saving.is_locked());
    let is_needed = entry.in_use() || entry.facts().pinned || shelf.spared.contains(&blob);
    let may_go = !is_needed && !shelf.busy.contains_key(&blob);
    may_go && (busy == Busy::AwaitedFor || !being_saved())
}
