//! The keeper of one store: which blobs there are, which are open, when they were used, and which are evicted. It is the same for every backend.
//!
//! The shelf, which is the table of all blobs, is never locked during I/O. So a disk that hangs delays only callers that need it: questions are answered, and blobs that are loaded can be read. A thread
//! that works on a blob's files marks the blob as busy; other threads that want to open, create or remove that blob wait until it is not.
//!
//! Lock order: `flushing`, a body's `saving`, `shelf`, a body's `state`; `unsaved` is last, and never held with another. A handle is never dropped while `shelf` is locked, since dropping it
//! locks the shelf.
//!
//! Invariants:
//! - a blob in use is not evicted; holders of its handle that [rest](crate::StoredBlob::rest) do not count as users;
//! - `room.used` is the number of bytes that all blobs on the shelf hold and that are being written; `room.lacking` is what is missing of those that have a handle;
//! - a body with unsaved changes, or with a handle, stays loaded.

mod evicting;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use darter_core::manifest::ManifestError;
use darter_core::{BlobId, Clock, Manifest, PieceSet};
use parking_lot::{Condvar, Mutex, MutexGuard};

use self::evicting::Busy;
use crate::backend::{Backend, LastUse, SaveError};
use crate::body::Body;
use crate::error::{Result, StoreError};
use crate::facts::Facts;
use crate::handle::{Handle, no_room};
use crate::room::Room;
use crate::sidecar::Sidecar;
use crate::store::{Amount, BlobInfo, BlobSummary, SourceRecord, StoreConfig, Usage, WallClock};
use crate::threads::{self, Guard};

/// How many bodies may wait to be saved. If there are more, they are saved at once.
const MAX_UNSAVED: usize = 128;

pub(crate) struct Keeper<B: Backend> {
    pub(crate) backend: B,
    pub(crate) room: Arc<Room>,
    pub(crate) guard: Guard,
    now: WallClock,
    /// The clock of its bodies.
    clock: Option<Arc<dyn Clock>>,
    shelf: Mutex<Shelf<B>>,
    /// Notified when a blob is no longer busy.
    done: Condvar,
    unsaved: Mutex<Vec<Arc<Body<B::Medium>>>>,
    /// Held during a flush, so that there is one at a time.
    flushing: Mutex<()>,
    /// True while eviction can't get below the high-water mark: then stored pieces do not request it again.
    crowded: AtomicBool,
    evicted_blobs: AtomicU64,
    evicted_bytes: AtomicU64,
}

/// All blobs of the store.
struct Shelf<B: Backend> {
    entries: HashMap<BlobId, BlobEntry<B>>,
    /// The number of the last use: the order of uses does not depend on the wall clock, which may be set back.
    uses: u64,
    /// Blobs whose files a thread works on, each with the number of bytes that were promised to it if it is being created.
    busy: HashMap<BlobId, u64>,
    /// Blobs that are not evicted, stored or not.
    spared: HashSet<BlobId>,
    /// Blobs that were removed from the table and marked as busy; their files are deleted when the shelf is unlocked.
    leaving: Vec<Leaving<B>>,
}

/// A blob whose files are to be deleted, with its body if it was loaded.
type Leaving<B> = (BlobId, Option<Arc<Body<<B as Backend>::Medium>>>);

/// The locked shelf, and a body on it.
type LoadedBody<'a, B> = (MutexGuard<'a, Shelf<B>>, Option<Arc<Body<<B as Backend>::Medium>>>);

struct BlobEntry<B: Backend> {
    info: BlobInfo,
    /// The facts when it was last unloaded; outdated while the body is loaded.
    resting: Facts,
    body: Option<Arc<Body<B::Medium>>>,
    handle: Weak<Handle<B>>,
    last_use: LastUse,
}

impl<B: Backend> BlobEntry<B> {
    fn facts(&self) -> Facts {
        self.body.as_ref().map_or(self.resting, |body| body.facts())
    }

    /// True if a holder of its handle does not rest, and so may read or write at any moment.
    fn in_use(&self) -> bool {
        let resting = self.body.as_ref().map_or(0, |body| body.resting.load(Ordering::Acquire));
        self.handle.strong_count() > resting
    }

    fn is_open(&self) -> bool {
        self.handle.strong_count() > 0
    }
}

impl<B: Backend> Keeper<B> {
    /// A keeper of the blobs that were `found` in `backend`.
    pub(crate) fn new(backend: B, config: &StoreConfig, found: Vec<(Sidecar, LastUse)>) -> Self {
        let room = Arc::new(Room::new(config));
        let mut shelf = Shelf {
            entries: HashMap::new(),
            uses: 0,
            busy: HashMap::new(),
            spared: HashSet::new(),
            leaving: Vec::new(),
        };
        for (sidecar, last_use) in found {
            let resting = sidecar.facts();
            room.found(resting.held_bytes);
            shelf.uses = shelf.uses.max(last_use.order);
            let entry = BlobEntry { info: sidecar.info, resting, body: None, handle: Weak::new(), last_use };
            shelf.entries.insert(sidecar.id, entry);
        }
        room.measure(backend.space());
        Self {
            backend,
            room,
            guard: Guard::default(),
            now: config.now.clone(),
            clock: config.clock.clone(),
            shelf: Mutex::new(shelf),
            done: Condvar::new(),
            unsaved: Mutex::new(Vec::new()),
            flushing: Mutex::new(()),
            crowded: AtomicBool::new(false),
            evicted_blobs: AtomicU64::new(0),
            evicted_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn open(self: &Arc<Self>, blob: BlobId) -> Result<Option<Arc<Handle<B>>>> {
        let (mut shelf, body) = self.loaded(blob)?;
        Ok(body.map(|body| self.hand_out(&mut shelf, body)))
    }

    pub(crate) fn is_absent(&self, blob: BlobId) -> bool {
        let shelf = self.shelf.lock();
        !shelf.entries.contains_key(&blob) && !shelf.busy.contains_key(&blob)
    }

    pub(crate) fn open_or_create(
        self: &Arc<Self>,
        blob: BlobId,
        info: BlobInfo,
        manifest: &Manifest,
    ) -> Result<Arc<Handle<B>>> {
        let (mut shelf, body) = self.loaded(blob)?;
        let Some(body) = body else { return self.create(shelf, blob, info, manifest) };
        let handle = self.hand_out(&mut shelf, body);
        drop(shelf);
        handle.learn(manifest)?;
        let rest = handle.body().facts().rest();
        self.on_shelf(|shelf| self.make_room(shelf, blob, rest))?;
        Ok(handle)
    }

    /// Every body that is loaded.
    pub(crate) fn bodies(&self) -> Vec<Arc<Body<B::Medium>>> {
        self.shelf.lock().entries.values().filter_map(|entry| entry.body.clone()).collect()
    }

    pub(crate) fn list(&self) -> Vec<BlobSummary> {
        let mut lines: Vec<(LastUse, BlobSummary)> = self.on_shelf(|shelf| {
            let lines = shelf.entries.iter().map(|(id, entry)| {
                let facts = entry.facts();
                let summary = BlobSummary {
                    id: *id,
                    info: entry.info.clone(),
                    length: facts.length,
                    held_bytes: facts.held_bytes,
                    complete: facts.complete,
                    pinned: facts.pinned,
                    in_use: entry.in_use(),
                    last_used: entry.last_use.at,
                };
                (entry.last_use, summary)
            });
            lines.collect()
        });
        lines.sort_by_key(|(last_use, _)| std::cmp::Reverse(*last_use));
        lines.into_iter().map(|(_, summary)| summary).collect()
    }

    pub(crate) fn remove(&self, blob: BlobId) -> Result<bool> {
        let mut shelf = self.shelf_for(blob);
        let Some(entry) = shelf.entries.get(&blob) else { return Ok(false) };
        if entry.in_use() || shelf.spared.contains(&blob) {
            return Err(StoreError::InUse(blob));
        }
        if entry.facts().pinned {
            return Err(StoreError::Pinned(blob));
        }
        self.take_off(&mut shelf, blob);
        self.clear(shelf)?;
        Ok(true)
    }

    pub(crate) fn pin(&self, blob: BlobId, pinned: bool) -> Result<()> {
        // On the shelf, so that the body is not unloaded before it is noted as changed.
        let (_shelf, body) = self.loaded(blob)?;
        let body = body.ok_or(StoreError::NoSuchBlob(blob))?;
        body.set_pinned(pinned);
        self.note(&body);
        Ok(())
    }

    pub(crate) fn spare(&self, blob: BlobId, spared: bool) {
        let mut shelf = self.shelf.lock();
        if spared {
            shelf.spared.insert(blob);
        } else {
            shelf.spared.remove(&blob);
        }
    }

    pub(crate) fn path(&self, blob: BlobId) -> Option<PathBuf> {
        let is_stored = self.shelf.lock().entries.contains_key(&blob);
        self.backend.path(blob).filter(|_| is_stored)
    }

    pub(crate) fn touch(&self, blob: BlobId) {
        self.count_use(&mut self.shelf.lock(), blob);
    }

    pub(crate) fn set_limits(&self, quota: Option<Amount>, reserve: Amount) {
        self.room.set_limits(quota, reserve);
        self.room.measure(self.backend.space());
        // Blobs beyond the new limit go in the background, if there is a thread for it.
        if !self.backend.wake() {
            self.tidy();
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            blobs: self.shelf.lock().entries.len() as u64,
            used: self.room.used(),
            capacity: self.room.capacity(),
            quota: self.room.quota(),
            disk_free: self.room.disk_free(),
            evicted_blobs: self.evicted_blobs.load(Ordering::Relaxed),
            evicted_bytes: self.evicted_bytes.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn recall(&self, key: BlobId) -> Result<Option<SourceRecord>> {
        self.backend.recall(key)
    }

    /// Takes room for a piece; evicts blobs if need be.
    pub(crate) fn take_room(&self, bytes: u64) -> Result<()> {
        if self.room.take(bytes).is_err() {
            self.evict_for(bytes);
            self.room.take(bytes)?;
        }
        if self.room.above_high_water() && !self.crowded.load(Ordering::Relaxed) && !self.backend.wake() {
            self.tidy();
        }
        Ok(())
    }

    /// Evicts blobs, since the disk or the quota has no room for a piece of `bytes`.
    pub(crate) fn evict_for(&self, bytes: u64) {
        self.room.measure(self.backend.space());
        let mark = self.room.low_mark().min(self.room.capacity().saturating_sub(bytes));
        self.on_shelf(|shelf| self.evict_down_to(shelf, mark, Busy::Spared));
    }

    /// Evicts blobs if the high-water mark is exceeded.
    pub(crate) fn tidy(&self) {
        self.room.measure(self.backend.space());
        if self.room.above_high_water() {
            self.on_shelf(|shelf| self.evict_down_to(shelf, self.room.low_mark(), Busy::Spared));
        }
        self.crowded.store(self.room.above_high_water(), Ordering::Relaxed);
    }

    /// Lists a changed body for saving. Many bodies are saved before it is time, since each has a file open until then.
    pub(crate) fn note(&self, body: &Arc<Body<B::Medium>>) {
        if self.put_down(body).is_some_and(|unsaved| unsaved.is_multiple_of(MAX_UNSAVED)) {
            self.backend.wake();
        }
    }

    /// Lists a changed body for saving. Returns the length of the list, or `None` if the body was in it already.
    fn put_down(&self, body: &Arc<Body<B::Medium>>) -> Option<usize> {
        let listed = !body.unsaved.load(Ordering::Acquire) || body.listed.swap(true, Ordering::AcqRel);
        (!listed).then(|| {
            let mut unsaved = self.unsaved.lock();
            unsaved.push(body.clone());
            unsaved.len()
        })
    }

    /// Saves all changed bodies, and the index. After a failure it goes on with the others; what failed is tried again in the next flush.
    pub(crate) fn flush(&self) -> Result<()> {
        let _flushing = self.flushing.lock();
        let mut result = Ok(());
        let bodies = std::mem::take(&mut *self.unsaved.lock());
        for body in bodies {
            body.listed.store(false, Ordering::Release);
            let saved = self.save(&body);
            if saved.is_err() {
                self.put_down(&body);
            }
            result = result.and(saved);
            self.rest(body.id);
        }
        result.and(self.backend.commit())
    }

    /// Unloads a blob without a handle, unless it has unsaved changes.
    pub(crate) fn rest(&self, blob: BlobId) {
        let mut shelf = self.shelf.lock();
        let Some(entry) = shelf.entries.get_mut(&blob).filter(|entry| !entry.is_open()) else { return };
        if let Some(body) = &entry.body {
            body.set_open(false);
        }
        if !self.backend.unloads() {
            return;
        }
        let idle = |body: &Arc<Body<_>>| !body.unsaved.load(Ordering::Acquire) && !body.listed.load(Ordering::Acquire);
        if entry.body.as_ref().is_some_and(idle) {
            entry.resting = entry.facts();
            entry.body = None;
        }
    }

    /// Removes a body from the shelf even if it is in use. Does nothing if the shelf has another body of that blob by now.
    pub(crate) fn discard(&self, body: &Arc<Body<B::Medium>>) -> Result<()> {
        let mut shelf = self.shelf.lock();
        let on_shelf = shelf.entries.get(&body.id).and_then(|entry| entry.body.as_ref());
        if !on_shelf.is_some_and(|other| Arc::ptr_eq(other, body)) {
            return Ok(());
        }
        self.take_off(&mut shelf, body.id);
        self.clear(shelf)
    }

    /// A holder of a blob's handle will read and write nothing until it [wakes](Self::wake).
    pub(crate) fn rest_on(&self, body: &Body<B::Medium>) {
        body.resting.fetch_add(1, Ordering::AcqRel);
    }

    /// A holder of a blob's handle no longer rests. False if the blob was removed meanwhile.
    pub(crate) fn wake(&self, body: &Body<B::Medium>) -> bool {
        // On the shelf, so that it is not evicted at the same time.
        let _shelf = self.shelf.lock();
        body.resting.fetch_sub(1, Ordering::AcqRel);
        !body.is_discarded()
    }

    fn save(&self, body: &Body<B::Medium>) -> Result<()> {
        let _saving = body.saving.lock();
        body.unsaved.store(false, Ordering::Release);
        let Some(sidecar) = body.snapshot() else { return Ok(()) };
        self.backend.save(&sidecar, &body.medium).map_err(|failure| {
            body.unsaved.store(true, Ordering::Release);
            match failure {
                SaveError::Sidecar(error) => error,
                // The kernel may have dropped what it could not write: nothing in memory says what the disk has now.
                SaveError::Bytes(error) => {
                    body.doubt();
                    error
                }
            }
        })
    }

    /// Locks the shelf, after waiting until the blob is not busy.
    fn shelf_for(&self, blob: BlobId) -> MutexGuard<'_, Shelf<B>> {
        let mut shelf = self.shelf.lock();
        while shelf.busy.contains_key(&blob) {
            self.done.wait(&mut shelf);
        }
        shelf
    }

    /// Locks the shelf again after work on the blob's files. The blob is no longer busy.
    fn shelf_after(&self, blob: BlobId) -> MutexGuard<'_, Shelf<B>> {
        let mut shelf = self.shelf.lock();
        shelf.busy.remove(&blob);
        self.done.notify_all();
        shelf
    }

    /// Works on the shelf, and then deletes the files of blobs that were removed from it.
    fn on_shelf<T>(&self, work: impl FnOnce(&mut Shelf<B>) -> T) -> T {
        let mut shelf = self.shelf.lock();
        let result = work(&mut shelf);
        // Said in the log; the files are found again at the next start.
        let _ = self.clear(shelf);
        result
    }

    /// Unlocks the shelf and deletes the files of blobs that were removed from it.
    fn clear(&self, mut shelf: MutexGuard<'_, Shelf<B>>) -> Result<()> {
        let leaving = std::mem::take(&mut shelf.leaving);
        drop(shelf);
        let mut result = Ok(());
        for (blob, body) in leaving {
            let removed = {
                let _saving = body.as_ref().map(|body| body.saving.lock());
                self.backend.remove(blob)
            };
            drop(self.shelf_after(blob));
            match removed {
                Ok(Some(trash)) => self.backend.dispose(trash),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%blob, error = &error as &dyn std::error::Error, "could not delete a blob's files");
                    result = Err(error);
                }
            }
        }
        result
    }

    /// The locked shelf and the blob's body, which is loaded if need be. A damaged blob is removed.
    fn loaded(&self, blob: BlobId) -> Result<LoadedBody<'_, B>> {
        let mut shelf = self.shelf_for(blob);
        match shelf.entries.get(&blob) {
            None => return Ok((shelf, None)),
            Some(BlobEntry { body: Some(body), .. }) => {
                let body = body.clone();
                return Ok((shelf, Some(body)));
            }
            Some(_) => shelf.busy.insert(blob, 0),
        };
        drop(shelf);
        let loaded = self.backend.load(blob);
        let mut shelf = self.shelf_after(blob);
        let Some((sidecar, medium)) = loaded? else {
            self.take_off(&mut shelf, blob);
            self.clear(shelf)?;
            return Ok((self.shelf_for(blob), None));
        };
        let body = Arc::new(Body::new(sidecar, medium, self.room.clone(), self.clock.clone()));
        let entry = shelf.entries.get_mut(&blob).expect("what is busy stays on the shelf");
        self.room.give_back(entry.resting.held_bytes);
        self.room.found(body.facts().held_bytes);
        entry.body = Some(body.clone());
        Ok((shelf, Some(body)))
    }

    /// A handle on a loaded body.
    fn hand_out(self: &Arc<Self>, shelf: &mut Shelf<B>, body: Arc<Body<B::Medium>>) -> Arc<Handle<B>> {
        self.count_use(shelf, body.id);
        let entry = shelf.entries.get_mut(&body.id).expect("a loaded blob is on the shelf");
        if let Some(handle) = entry.handle.upgrade() {
            return handle;
        }
        body.set_open(true);
        let handle = Handle::new(self.clone(), body);
        entry.handle = Arc::downgrade(&handle);
        handle
    }

    /// Creates a blob that is not on the shelf.
    fn create(
        self: &Arc<Self>,
        mut shelf: MutexGuard<'_, Shelf<B>>,
        blob: BlobId,
        info: BlobInfo,
        manifest: &Manifest,
    ) -> Result<Arc<Handle<B>>> {
        let length = manifest.length().unwrap_or_default();
        if length.div_ceil(manifest.piece_length().bytes()) > u64::from(u32::MAX) {
            return Err(StoreError::Manifest { blob, source: ManifestError::Length { got: length } });
        }
        self.make_room(&mut shelf, blob, length)?;
        shelf.busy.insert(blob, length);
        // An evicted blob is deleted before the one that takes its room
        // comes.
        let _ = self.clear(shelf);
        let created = self.backend.create(blob);
        let mut shelf = self.shelf_after(blob);
        let medium = created.map_err(|refusal| match refusal {
            StoreError::Io { source, .. } if no_room(&source) => Room::refused(length, 0, &source),
            other => other,
        })?;
        let sidecar = Sidecar {
            id: blob,
            info: info.clone(),
            manifest: manifest.clone(),
            held: PieceSet::new(),
            complete: false,
            pinned: false,
        };
        let body = Arc::new(Body::new(sidecar, medium, self.room.clone(), self.clock.clone()));
        body.unsaved.store(true, Ordering::Release);
        self.note(&body);
        let entry = BlobEntry {
            info,
            resting: Facts::default(),
            body: Some(body.clone()),
            handle: Weak::new(),
            last_use: LastUse::default(),
        };
        shelf.entries.insert(blob, entry);
        Ok(self.hand_out(&mut shelf, body))
    }

    fn count_use(&self, shelf: &mut Shelf<B>, blob: BlobId) {
        let Some(entry) = shelf.entries.get_mut(&blob) else { return };
        shelf.uses += 1;
        entry.last_use = LastUse { order: shelf.uses, at: (self.now)() };
        self.backend.note_use(blob, entry.last_use);
    }
}

impl<B: Backend> Drop for Keeper<B> {
    fn drop(&mut self) {
        // The thread that drops a store last waits for it.
        if let Err(error) = threads::marked(|| self.flush()) {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not save everything at the end");
        }
    }
}
