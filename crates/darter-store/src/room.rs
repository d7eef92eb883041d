//! How much may be held, and how much is. Bytes are counted by held pieces; one atomic, so that storing a piece
//! takes no lock.
//!
//! `capacity` is the lesser of the quota and what the file system allows: what is held, plus what is free, minus what
//! is to be left to others. It is computed when the file system is asked, which is once per tidying (about once a second) and per new blob.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::backend::Space;
use crate::error::{Limit, Result, StoreError};
use crate::store::{Amount, StoreConfig};

#[derive(Debug)]
pub(crate) struct Room {
    used: AtomicU64,
    capacity: AtomicU64,
    /// In bytes; all bits set while there is none.
    quota: AtomicU64,
    reserve: AtomicU64,
    /// Free on the file system when it was last asked; all bits set before.
    disk_free: AtomicU64,
    /// The quota and the reserve, as they are configured.
    wanted: Mutex<(Option<Amount>, Amount)>,
    high_water: f64,
    low_water: f64,
}

impl Room {
    /// An empty room that knows only of its quota until the disk is measured.
    pub(crate) fn new(config: &StoreConfig) -> Self {
        let quota = match config.quota {
            Some(Amount::Bytes(quota)) => quota,
            _ => u64::MAX,
        };
        Self {
            used: AtomicU64::new(0),
            capacity: AtomicU64::new(quota),
            quota: AtomicU64::new(quota),
            reserve: AtomicU64::new(0),
            disk_free: AtomicU64::new(u64::MAX),
            wanted: Mutex::new((config.quota, config.reserve_free)),
            high_water: config.high_water,
            low_water: config.low_water,
        }
    }

    /// Takes other limits, which count from the next measuring on.
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

    /// Free on the file system when it was last asked.
    pub(crate) fn disk_free(&self) -> Option<u64> {
        Some(self.disk_free.load(Ordering::Relaxed)).filter(|free| *free != u64::MAX)
    }

    /// Takes note of how large the file system is and what is free on it.
    pub(crate) fn measure(&self, space: Option<Space>) {
        let Some(space) = space else { return };
        let (quota, reserve) = *self.wanted.lock();
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

    /// The refusal of bytes that what is kept leaves no room for.
    pub(crate) fn full(&self, needed: u64, free: u64) -> StoreError {
        let limit = match self.quota() {
            Some(quota) if quota <= self.capacity() => Limit::Quota(quota),
            _ => Limit::Reserve(self.reserve.load(Ordering::Relaxed)),
        };
        StoreError::Full { needed, free, limit }
    }

    /// The refusal of bytes that the file system did not take.
    pub(crate) const fn disk_full(&self, needed: u64, free: u64) -> StoreError {
        StoreError::Full { needed, free, limit: Limit::Disk }
    }

    /// Whether it is time to evict.
    pub(crate) fn above_high_water(&self) -> bool {
        self.used() > share(self.capacity(), self.high_water)
    }

    /// What eviction should bring `used` down to.
    pub(crate) fn low_mark(&self) -> u64 {
        share(self.capacity(), self.low_water)
    }
}

/// A share of a number of bytes; rounding does not matter here.
fn share(bytes: u64, share: f64) -> u64 {
    (bytes as f64 * share.clamp(0.0, 1.0)) as u64
}
