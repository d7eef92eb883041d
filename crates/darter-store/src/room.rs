//! How many bytes a store may hold, and how many it holds. Only bytes of held pieces count. The number is one atomic, so that storing a piece takes no lock.
//!
//! `capacity` is the lesser of the quota and of what the file system allows: the held bytes plus the free ones, minus the reserve for others. It is computed when the file system is asked: about once
//! a second, and for each new blob.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::{Limit, Result, StoreError};
use crate::space::Space;
use crate::store::{Amount, StoreConfig};

#[derive(Debug)]
pub(crate) struct Room {
    used: AtomicU64,
    /// How many bytes open blobs lack, as far as their lengths are known. Each blob's body adds and subtracts its part.
    lacking: AtomicU64,
    capacity: AtomicU64,
    /// In bytes; [`u64::MAX`] if there is none.
    quota: AtomicU64,
    reserve: AtomicU64,
    /// How many bytes were free on the file system when it was last asked; [`u64::MAX`] before that.
    disk_free: AtomicU64,
    /// The configured quota and reserve.
    wanted: Mutex<(Option<Amount>, Amount)>,
    high_water: f64,
    low_water: f64,
}

impl Room {
    /// An empty room, which is limited only by the quota until [`measure`](Self::measure) is called.
    pub(crate) fn new(config: &StoreConfig) -> Self {
        let quota = without_disk(config.quota);
        Self {
            used: AtomicU64::new(0),
            lacking: AtomicU64::new(0),
            capacity: AtomicU64::new(quota),
            quota: AtomicU64::new(quota),
            reserve: AtomicU64::new(0),
            disk_free: AtomicU64::new(u64::MAX),
            wanted: Mutex::new((config.quota, config.reserve_free)),
            high_water: config.high_water,
            low_water: config.low_water,
        }
    }

    /// Sets other limits, which apply from the next [`measure`](Self::measure) on.
    pub(crate) fn set_limits(&self, quota: Option<Amount>, reserve: Amount) {
        *self.wanted.lock() = (quota, reserve);
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// The quota in bytes.
    pub(crate) fn quota(&self) -> Option<u64> {
        Some(self.quota.load(Ordering::Relaxed)).filter(|quota| *quota != u64::MAX)
    }

    /// How many bytes were free on the file system when it was last asked.
    pub(crate) fn disk_free(&self) -> Option<u64> {
        Some(self.disk_free.load(Ordering::Relaxed)).filter(|free| *free != u64::MAX)
    }

    /// Notes the size and the free space of the file system; `None` if there is none, or it can't be asked.
    pub(crate) fn measure(&self, space: Option<Space>) {
        let (quota, reserve) = *self.wanted.lock();
        let Some(space) = space else {
            // A disk that can't be asked now keeps what it said before.
            if self.disk_free().is_none() {
                self.quota.store(without_disk(quota), Ordering::Relaxed);
                self.capacity.store(without_disk(quota), Ordering::Relaxed);
            }
            return;
        };
        let reserve = reserve.of(space.total);
        let quota = quota.map_or(u64::MAX, |quota| quota.of(space.total));
        let by_disk = (self.used() + space.free).saturating_sub(reserve);
        self.reserve.store(reserve, Ordering::Relaxed);
        self.disk_free.store(space.free, Ordering::Relaxed);
        self.quota.store(quota, Ordering::Relaxed);
        self.capacity.store(by_disk.min(quota), Ordering::Relaxed);
    }

    /// Takes room for bytes that are about to be written.
    pub(crate) fn take(&self, bytes: u64) -> Result<()> {
        let capacity = self.capacity();
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            let after = used.checked_add(bytes)?;
            (after <= capacity).then_some(after)
        });
        taken.map(drop).map_err(|used| self.full(bytes, capacity.saturating_sub(used)))
    }

    /// Counts bytes that were found on the disk.
    pub(crate) fn found(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives room back.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// How many bytes open blobs lack, including blobs of which all holders rest.
    pub(crate) fn lacking(&self) -> u64 {
        self.lacking.load(Ordering::Relaxed)
    }

    /// An open blob that lacked `before` bytes now lacks `after`.
    pub(crate) fn lacks(&self, before: u64, after: u64) {
        // Wraps where it becomes less.
        self.lacking.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    /// The error for bytes for which the held bytes leave no room.
    pub(crate) fn full(&self, needed: u64, free: u64) -> StoreError {
        let limit = match self.quota() {
            Some(quota) if quota <= self.capacity() => Limit::Quota(quota),
            _ => Limit::Reserve(self.reserve.load(Ordering::Relaxed)),
        };
        StoreError::Full { needed, free, limit }
    }

    /// The error for bytes for which the file system had no room.
    pub(crate) fn refused(needed: u64, free: u64, refusal: &io::Error) -> StoreError {
        let limit = match refusal.kind() {
            io::ErrorKind::QuotaExceeded => Limit::UserQuota,
            io::ErrorKind::FileTooLarge => Limit::OneFile,
            _ => Limit::Disk,
        };
        StoreError::Full { needed, free, limit }
    }

    /// True if it is time to evict.
    pub(crate) fn above_high_water(&self) -> bool {
        self.used() > share(self.capacity(), self.high_water)
    }

    /// The number of bytes to which eviction should reduce `used`.
    pub(crate) fn low_mark(&self) -> u64 {
        share(self.capacity(), self.low_water)
    }
}

/// The quota in bytes if the size of the file system is unknown; [`u64::MAX`] for none, or for a share of that size.
fn without_disk(quota: Option<Amount>) -> u64 {
    match quota {
        Some(Amount::Bytes(quota)) => quota,
        Some(Amount::Percent(_)) | None => u64::MAX,
    }
}

/// A share of a number of bytes, rounded in any direction.
fn share(bytes: u64, share: f64) -> u64 {
    (bytes as f64 * share.clamp(0.0, 1.0)) as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn room(quota: Option<Amount>, reserve_free: Amount) -> Room {
        Room::new(&StoreConfig { quota, reserve_free, ..StoreConfig::new(Arc::new(|| 0)) })
    }

    #[test]
    fn what_may_be_held_is_the_lesser_of_the_quota_and_what_the_disk_leaves() {
        let room = room(Some(Amount::Percent(50.0)), Amount::Bytes(100));
        room.found(200);
        assert_eq!((room.disk_free(), room.quota()), (None, None), "nobody asked the disk yet");
        room.measure(None);
        assert_eq!(room.disk_free(), None);
        let measured = |free| {
            room.measure(Some(Space { total: 1000, free }));
            (room.capacity(), room.quota(), room.disk_free())
        };
        let limit = || match room.full(1, 0) {
            StoreError::Full { limit, .. } => limit,
            other => panic!("{other:?}"),
        };
        assert_eq!(measured(700), (500, Some(500), Some(700)));
        assert_eq!(limit(), Limit::Quota(500));
        assert_eq!(measured(250), (350, Some(500), Some(250)));
        assert_eq!(limit(), Limit::Reserve(100));
        assert_eq!(measured(0).0, 100, "less than is held");
        room.set_limits(Some(Amount::Bytes(300)), Amount::Percent(1.0));
        assert_eq!(measured(700), (300, Some(300), Some(700)));
        room.set_limits(None, Amount::Percent(1.0));
        assert_eq!(measured(700), (890, None, Some(700)));
        assert_eq!(limit(), Limit::Reserve(10));
        room.set_limits(Some(Amount::Bytes(300)), Amount::Bytes(0));
        room.measure(None);
        assert_eq!((room.capacity(), room.quota()), (890, None), "a disk that can't be asked");
    }

    #[test]
    fn without_a_disk_other_limits_count_from_the_next_measuring_on() {
        let room = room(Some(Amount::Bytes(1000)), Amount::Bytes(0));
        let limited = |quota| {
            room.set_limits(quota, Amount::Percent(50.0));
            room.measure(None);
            (room.capacity(), room.quota(), room.disk_free())
        };
        assert_eq!(limited(Some(Amount::Bytes(300))), (300, Some(300), None));
        assert_eq!(limited(Some(Amount::Percent(50.0))), (u64::MAX, None, None));
        assert_eq!(limited(None), (u64::MAX, None, None));
    }

    #[test]
    fn room_is_taken_up_to_the_last_byte_and_given_back() {
        let room = room(Some(Amount::Bytes(1000)), Amount::Bytes(0));
        let refused = |bytes| match room.take(bytes) {
            Err(StoreError::Full { needed, free, .. }) => (needed, free),
            other => panic!("{other:?}"),
        };
        room.take(1000).unwrap();
        assert_eq!(refused(1), (1, 0));
        room.take(0).unwrap();
        room.give_back(400);
        assert_eq!((refused(401), refused(u64::MAX)), ((401, 400), (u64::MAX, 400)));
        room.take(400).unwrap();
        assert_eq!((room.used(), room.capacity()), (1000, 1000));
    }

    #[test]
    fn eviction_begins_above_one_mark_and_ends_at_a_lower_one() {
        let room = room(Some(Amount::Bytes(1000)), Amount::Bytes(0));
        room.take(949).unwrap();
        assert!(!room.above_high_water());
        room.take(3).unwrap();
        assert!(room.above_high_water());
        assert_eq!(room.low_mark(), 850);
    }
}
