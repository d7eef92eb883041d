//! Keeps the blobs of one store: who is open, who was used when, who has to go. The same for every backend.
//!
//! Lock order: `flushing`, `shelf`, a body's `saving`, a body's `state`; `unsaved` comes last and alone. A handle is never
//! dropped while `shelf` is locked, since its drop locks the shelf.
//!
//! Invariants: a blob with a live handle is not evicted; `room.used` is what all blobs on the shelf hold, and what is
//! being written; a body with unsaved changes stays loaded until it is saved.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use darter_core::manifest::ManifestError;
use darter_core::{BlobId, Manifest, PieceSet};
use parking_lot::Mutex;

use crate::backend::{Backend, LastUse, SaveError};
use crate::body::{Body, Facts};
use crate::error::{Result, StoreError};
use crate::handle::{Handle, no_room};
use crate::room::Room;
use crate::sidecar::Sidecar;
use crate::store::{BlobInfo, BlobSummary, SourceRecord, Store, StoreConfig, StoredBlob, Usage, WallClock};

pub(crate) struct Keeper<B: Backend> {
    pub(crate) backend: B,
    pub(crate) room: Arc<Room>,
    now: WallClock,
    shelf: Mutex<Shelf<B>>,
    unsaved: Mutex<Vec<Arc<Body<B::Medium>>>>,
    /// Held by a whole flush, so that a second one ends after the first.
    flushing: Mutex<()>,
    /// Set while eviction can't get below the high water mark: storing pieces need not ask for it again.
    crowded: AtomicBool,
}

/// All blobs of the store.
struct Shelf<B: Backend> {
    entries: HashMap<BlobId, Entry<B>>,
    /// Numbers uses, so that their order survives a wall clock that is set back.
    uses: u64,
    /// What removed blobs left, to be disposed of when the shelf is unlocked.
    trash: Vec<String>,
}

struct Entry<B: Backend> {
    info: BlobInfo,
    /// As of the last unloading; the body knows better while it is loaded.
    resting: Facts,
    body: Option<Arc<Body<B::Medium>>>,
    handle: Weak<Handle<B>>,
    last_use: LastUse,
}

impl<B: Backend> Entry<B> {
    fn facts(&self) -> Facts {
        self.body.as_ref().map_or(self.resting, |body| body.facts())
    }

    fn in_use(&self) -> bool {
        self.handle.strong_count() > 0
    }
}

impl<B: Backend> Keeper<B> {
    /// Keeps what was found in `backend`.
    pub(crate) fn new(backend: B, config: &StoreConfig, found: Vec<(Sidecar, LastUse)>) -> Self {
        let room = Arc::new(Room::new(config));
        let mut shelf = Shelf { entries: HashMap::new(), uses: 0, trash: Vec::new() };
        for (sidecar, last_use) in found {
            let resting = sidecar.facts();
            room.found(resting.held_bytes);
            shelf.uses = shelf.uses.max(last_use.order);
            let entry = Entry { info: sidecar.info, resting, body: None, handle: Weak::new(), last_use };
            shelf.entries.insert(sidecar.id, entry);
        }
        room.measure(backend.free());
        Self {
            backend,
            room,
            now: config.now.clone(),
            shelf: Mutex::new(shelf),
            unsaved: Mutex::new(Vec::new()),
            flushing: Mutex::new(()),
            crowded: AtomicBool::new(false),
        }
    }

    pub(crate) fn open(self: &Arc<Self>, blob: BlobId) -> Result<Option<Arc<Handle<B>>>> {
        self.on_shelf(|shelf| self.open_on(shelf, blob))
    }

    pub(crate) fn is_absent(&self, blob: BlobId) -> bool {
        // Whoever has the shelf locked may wait for the disk.
        self.shelf.try_lock().is_some_and(|shelf| !shelf.entries.contains_key(&blob))
    }

    pub(crate) fn open_or_create(
        self: &Arc<Self>,
        blob: BlobId,
        info: BlobInfo,
        manifest: &Manifest,
    ) -> Result<Arc<Handle<B>>> {
        let (handle, created) = self.on_shelf(|shelf| match self.open_on(shelf, blob)? {
            Some(handle) => Ok((handle, false)),
            None => Ok((self.create_on(shelf, blob, info, manifest)?, true)),
        })?;
        if !created {
            handle.learn(manifest)?;
            let rest = handle.body().facts().rest();
            self.on_shelf(|shelf| self.make_room(shelf, blob, rest))?;
        }
        Ok(handle)
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
        self.on_shelf(|shelf| {
            let Some(entry) = shelf.entries.get(&blob) else { return Ok(false) };
            if entry.in_use() {
                return Err(StoreError::InUse(blob));
            }
            if entry.facts().pinned {
                return Err(StoreError::Pinned(blob));
            }
            self.take_off(shelf, blob)?;
            Ok(true)
        })
    }

    pub(crate) fn pin(&self, blob: BlobId, pinned: bool) -> Result<()> {
        // On the shelf, so that the body is not unloaded before it is noted as changed.
        self.on_shelf(|shelf| {
            let body = self.body_on(shelf, blob)?.ok_or(StoreError::NoSuchBlob(blob))?;
            body.set_pinned(pinned);
            self.note(&body);
            Ok(())
        })
    }

    pub(crate) fn touch(&self, blob: BlobId) {
        self.on_shelf(|shelf| self.count_use(shelf, blob));
    }

    pub(crate) fn usage(&self) -> Usage {
        let disk_free = self.backend.free();
        self.room.measure(disk_free);
        Usage { used: self.room.used(), capacity: self.room.capacity(), quota: self.room.quota(), disk_free }
    }

    pub(crate) fn recall(&self, key: BlobId) -> Result<Option<SourceRecord>> {
        let record = self.backend.recall(key)?;
        Ok(record.filter(|record| self.shelf.lock().entries.contains_key(&record.blob)))
    }

    /// Takes room for a piece, evicting if it must.
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

    /// Evicts as the disk or the quota have no room for a piece.
    pub(crate) fn evict_for(&self, bytes: u64) {
        self.room.measure(self.backend.free());
        let mark = self.room.low_mark().min(self.room.capacity().saturating_sub(bytes));
        self.on_shelf(|shelf| self.evict_down_to(shelf, mark, Busy::Spared));
    }

    /// Evicts if the high water mark is passed.
    pub(crate) fn tidy(&self) {
        self.room.measure(self.backend.free());
        if self.room.above_high_water() {
            self.on_shelf(|shelf| self.evict_down_to(shelf, self.room.low_mark(), Busy::Spared));
        }
        self.crowded.store(self.room.above_high_water(), Ordering::Relaxed);
    }

    /// Remembers to save a body that changed.
    pub(crate) fn note(&self, body: &Arc<Body<B::Medium>>) {
        if body.unsaved.load(Ordering::Acquire) && !body.listed.swap(true, Ordering::AcqRel) {
            self.unsaved.lock().push(body.clone());
        }
    }

    /// Saves every body that changed, and the index. Goes on after a failure; what failed is tried again next time.
    pub(crate) fn flush(&self) -> Result<()> {
        let _flushing = self.flushing.lock();
        let mut result = Ok(());
        let bodies = std::mem::take(&mut *self.unsaved.lock());
        for body in bodies {
            body.listed.store(false, Ordering::Release);
            let saved = self.save(&body);
            if saved.is_err() {
                self.note(&body);
            }
            result = result.and(saved);
            self.rest(body.id);
        }
        result.and(self.backend.commit())
    }

    /// Unloads a blob that nobody uses, unless there is something left to save.
    pub(crate) fn rest(&self, blob: BlobId) {
        if !self.backend.unloads() {
            return;
        }
        let mut shelf = self.shelf.lock();
        let Some(entry) = shelf.entries.get_mut(&blob).filter(|entry| !entry.in_use()) else { return };
        let idle = |body: &Arc<Body<_>>| !body.unsaved.load(Ordering::Acquire) && !body.listed.load(Ordering::Acquire);
        if entry.body.as_ref().is_some_and(idle) {
            entry.resting = entry.facts();
            entry.body = None;
        }
    }

    /// Takes a body off the shelf whatever it is used for; nothing if another has its name by now.
    pub(crate) fn discard(&self, body: &Arc<Body<B::Medium>>) -> Result<()> {
        self.on_shelf(|shelf| {
            let on_shelf = shelf.entries.get(&body.id).and_then(|entry| entry.body.as_ref());
            if !on_shelf.is_some_and(|other| Arc::ptr_eq(other, body)) {
                return Ok(());
            }
            self.take_off(shelf, body.id)
        })
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

    fn on_shelf<T>(&self, work: impl FnOnce(&mut Shelf<B>) -> T) -> T {
        let mut shelf = self.shelf.lock();
        let result = work(&mut shelf);
        let trash = std::mem::take(&mut shelf.trash);
        drop(shelf);
        for path in trash {
            self.backend.dispose(path);
        }
        result
    }

    fn open_on(self: &Arc<Self>, shelf: &mut Shelf<B>, blob: BlobId) -> Result<Option<Arc<Handle<B>>>> {
        let Some(body) = self.body_on(shelf, blob)? else { return Ok(None) };
        self.count_use(shelf, blob);
        let entry = shelf.entries.get_mut(&blob).expect("a loaded blob is on the shelf");
        if let Some(handle) = entry.handle.upgrade() {
            return Ok(Some(handle));
        }
        let handle = Handle::new(self.clone(), body);
        entry.handle = Arc::downgrade(&handle);
        Ok(Some(handle))
    }

    fn create_on(
        self: &Arc<Self>,
        shelf: &mut Shelf<B>,
        blob: BlobId,
        info: BlobInfo,
        manifest: &Manifest,
    ) -> Result<Arc<Handle<B>>> {
        if manifest
            .length()
            .is_some_and(|length| length.div_ceil(manifest.piece_length().bytes()) > u64::from(u32::MAX))
        {
            let source = ManifestError::Length { got: manifest.length().unwrap_or_default() };
            return Err(StoreError::Manifest { blob, source });
        }
        self.make_room(shelf, blob, manifest.length().unwrap_or(0))?;
        let medium = self.backend.create(blob).map_err(|refusal| match refusal {
            StoreError::Io { source, .. } if no_room(&source) => self.room.full(manifest.length().unwrap_or(0), 0),
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
        let body = Arc::new(Body::new(sidecar, medium, self.room.clone()));
        body.unsaved.store(true, Ordering::Release);
        self.note(&body);
        let handle = Handle::new(self.clone(), body.clone());
        let entry = Entry {
            info,
            resting: Facts::default(),
            body: Some(body),
            handle: Arc::downgrade(&handle),
            last_use: LastUse::default(),
        };
        shelf.entries.insert(blob, entry);
        self.count_use(shelf, blob);
        Ok(handle)
    }

    /// The blob's body, loaded if need be. A blob that is found damaged is forgotten.
    fn body_on(&self, shelf: &mut Shelf<B>, blob: BlobId) -> Result<Option<Arc<Body<B::Medium>>>> {
        let Some(entry) = shelf.entries.get_mut(&blob) else { return Ok(None) };
        if let Some(body) = &entry.body {
            return Ok(Some(body.clone()));
        }
        let Some((sidecar, medium)) = self.backend.load(blob)? else {
            self.take_off(shelf, blob)?;
            return Ok(None);
        };
        let body = Arc::new(Body::new(sidecar, medium, self.room.clone()));
        self.room.give_back(entry.resting.held_bytes);
        self.room.found(body.facts().held_bytes);
        entry.body = Some(body.clone());
        Ok(Some(body))
    }

    fn count_use(&self, shelf: &mut Shelf<B>, blob: BlobId) {
        let Some(entry) = shelf.entries.get_mut(&blob) else { return };
        shelf.uses += 1;
        entry.last_use = LastUse { order: shelf.uses, at: (self.now)() };
        self.backend.note_use(blob, entry.last_use);
    }

    /// Sees to it that `rest` more bytes of a blob will fit beside all that the other blobs in use still want.
    fn make_room(&self, shelf: &mut Shelf<B>, blob: BlobId, rest: u64) -> Result<()> {
        if rest == 0 {
            return Ok(());
        }
        self.room.measure(self.backend.free());
        let others = shelf.entries.iter().filter(|(id, entry)| **id != blob && entry.in_use());
        let promised: u64 = others.map(|(_, entry)| entry.facts().rest()).sum();
        let used = self.room.used();
        let mut could_free = 0;
        for busy in [Busy::Spared, Busy::AwaitedFor] {
            let evictable = shelf.entries.values().filter(|entry| may_go(entry, busy));
            let evictable: u64 = evictable.map(|entry| entry.facts().held_bytes).sum();
            could_free = self.room.capacity().saturating_sub(used.saturating_sub(evictable)).saturating_sub(promised);
            if could_free >= rest {
                self.evict_down_to(shelf, self.room.capacity() - promised - rest, busy);
                return Ok(());
            }
        }
        Err(self.room.full(rest, could_free))
    }

    /// Evicts blobs, least recently used first, until no more than `mark` bytes are held or nothing may go.
    fn evict_down_to(&self, shelf: &mut Shelf<B>, mark: u64, busy: Busy) {
        if self.room.used() <= mark {
            return;
        }
        let candidates = shelf.entries.iter().filter(|(_, entry)| may_go(entry, busy));
        let mut candidates: Vec<(LastUse, BlobId)> = candidates.map(|(id, entry)| (entry.last_use, *id)).collect();
        candidates.sort_unstable();
        for (_, blob) in candidates {
            if self.room.used() <= mark {
                return;
            }
            match self.take_off(shelf, blob) {
                Ok(()) => tracing::info!(%blob, "evicted"),
                Err(error) => tracing::warn!(%blob, error = &error as &dyn std::error::Error, "could not evict"),
            }
        }
    }

    /// Takes a blob off the shelf and off the disk, and gives its room back.
    fn take_off(&self, shelf: &mut Shelf<B>, blob: BlobId) -> Result<()> {
        let Some(entry) = shelf.entries.get(&blob) else { return Ok(()) };
        let saving = entry.body.as_ref().map(|body| body.saving.lock());
        let trash = self.backend.remove(blob)?;
        match &entry.body {
            Some(body) => body.dissolve(),
            None => self.room.give_back(entry.resting.held_bytes),
        }
        drop(saving);
        shelf.entries.remove(&blob);
        shelf.trash.extend(trash);
        self.backend.forget(blob);
        Ok(())
    }
}

/// What to do about blobs that are being saved when something is evicted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Busy {
    /// They stay: waiting for the disk would hold everybody up.
    Spared,
    /// They are waited for: better than to refuse what would fit a moment later.
    AwaitedFor,
}

/// Whether a blob may be evicted.
fn may_go<B: Backend>(entry: &Entry<B>, busy: Busy) -> bool {
    let being_saved = || entry.body.as_ref().is_some_and(|body| body.saving.is_locked());
    !entry.in_use() && !entry.facts().pinned && (busy == Busy::AwaitedFor || !being_saved())
}

impl<B: Backend> Drop for Keeper<B> {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not save everything at the end");
        }
    }
}

/// A store that leaves everything to its keeper.
pub(crate) trait Kept: Send + Sync {
    type Backend: Backend;

    fn keeper(&self) -> &Arc<Keeper<Self::Backend>>;
}

impl<T: Kept> Store for T {
    fn open(&self, blob: BlobId) -> Result<Option<Arc<dyn StoredBlob>>> {
        Ok(self.keeper().open(blob)?.map(|handle| handle as Arc<dyn StoredBlob>))
    }

    fn is_absent(&self, blob: BlobId) -> bool {
        self.keeper().is_absent(blob)
    }

    fn open_or_create(&self, blob: BlobId, info: BlobInfo, manifest: Manifest) -> Result<Arc<dyn StoredBlob>> {
        Ok(self.keeper().open_or_create(blob, info, &manifest)?)
    }

    fn list(&self) -> Vec<BlobSummary> {
        self.keeper().list()
    }

    fn remove(&self, blob: BlobId) -> Result<bool> {
        self.keeper().remove(blob)
    }

    fn pin(&self, blob: BlobId, pinned: bool) -> Result<()> {
        self.keeper().pin(blob, pinned)
    }

    fn touch(&self, blob: BlobId) {
        self.keeper().touch(blob);
    }

    fn usage(&self) -> Usage {
        self.keeper().usage()
    }

    fn remember_source(&self, key: BlobId, record: SourceRecord) {
        self.keeper().backend.remember(key, record);
    }

    fn recall_source(&self, key: BlobId) -> Result<Option<SourceRecord>> {
        self.keeper().recall(key)
    }

    fn flush(&self) -> Result<()> {
        self.keeper().flush()
    }
}
