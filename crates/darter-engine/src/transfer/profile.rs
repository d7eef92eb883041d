//! The profile of an expanded layer: which parts programs read first. Agents tell the lead what their programs read first, the lead keeps and merges that, and an agent
//! that opens the layer prefetches at once what was read first elsewhere, after what its readers wait for.
//!
//! The lead sends its list after `Joined`, and again when much has changed, to agents that support it. An agent that follows uses its lead's list
//! and keeps it, too, since it may lead next, and users ask for it. [`Profile`] decides what is recorded;
//! [`Profiles`](crate::profiles::Profiles) writes it to disk.
//!
//! Invariants: profiles are recorded and exchanged only for expanded layers; a node's report of what it read counts only while it is a
//! member, and a list only if it is from the lead that is followed. Prefetching ends when the program that opened the layer goes away.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use darter_core::{ByteRange, Moment, NodeId, PieceIndex, PieceSet, Source, in_full};
use darter_swarm::{Bounds, Foresight, Profile};
use darter_wire::{Capabilities, Message, Stretch};
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Lead, Outcome, Transfer};
use crate::error::FetchError;

/// How long after its opening a layer's list is used, and new lists are.
const STARTING: Duration = Duration::from_secs(60);

/// How long after its opening only the list is prefetched, unless a program waits for something else.
const BY_LIST: Duration = Duration::from_secs(5);

/// The minimum time between two messages to members about changes.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// How many bytes are fetched together, unless a piece is longer.
const UNIT: u64 = 1 << 20;

/// How many units are waited for at a time. The picker decides how many are requested at once.
const MAX_AT_A_TIME: usize = 32;

/// See the module's documentation.
pub(super) struct Profiling {
    known: Mutex<Known>,
    changed: watch::Sender<()>,
    /// Held while the profile is written. Contains whether the last write succeeded.
    saving: tokio::sync::Mutex<bool>,
}

struct Known {
    profile: Profile,
    /// The lead that wants to be told what is read here.
    wanted_by: Option<NodeId>,
    /// What programs here have read first, as last reported: if a lead wants it later, it is sent then.
    touched: Vec<Stretch>,
    /// When members were last told.
    told: Option<Moment>,
    telling: bool,
    /// True if the profile has changed since it was last written.
    unsaved: bool,
    /// How many programs are having a list prefetched now.
    fetching: usize,
    /// When a program last opened the layer with a list, and whether it has waited for something else since: then it reads other parts.
    opened: Option<Moment>,
    strayed: bool,
    /// Pieces that were prefetched from a list and that no program has read yet.
    unread: PieceSet,
    /// Pieces that programs read while a list is prefetched: they may be in the list and not yet counted as prefetched.
    read: PieceSet,
}

impl Known {
    /// True if a program that opened the layer recently has a list to follow.
    fn goes_by_list(&self, now: Moment) -> bool {
        self.opened.is_some_and(|opened| now < opened + BY_LIST) && !self.profile.order().is_empty()
    }
}

impl Profiling {
    pub(super) fn new(profile: Profile) -> Self {
        let (fetching, opened, strayed, unread) = (0, None, false, PieceSet::new());
        let (told, telling, unsaved) = (None, false, false);
        let known = Known {
            profile,
            wanted_by: None,
            touched: Vec::new(),
            told,
            telling,
            unsaved,
            fetching,
            opened,
            strayed,
            unread,
            read: PieceSet::new(),
        };
        Self { known: Mutex::new(known), changed: watch::channel(()).0, saving: tokio::sync::Mutex::new(true) }
    }
}

impl Transfer {
    fn bounds(&self) -> Bounds {
        Bounds { total: self.pieces(), piece_bytes: self.piece_length.bytes() }
    }

    /// True if the layer has a profile, and this agent uses profiles.
    fn is_profiled(&self) -> bool {
        self.context.options.profiles && self.is_expanded()
    }

    /// True if it is a layer in mountable form.
    pub(crate) const fn is_expanded(&self) -> bool {
        matches!(self.source, Source::Expanded(_))
    }

    /// The profile, as known here.
    pub fn profile(&self) -> Profile {
        self.profiling.known.lock().profile.clone()
    }

    /// Sets a list in place of the recorded one, or removes it, and saves that; all members are told. Returns false if a newer version
    /// wrote the existing file.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn pin_profile(&self, pieces: Option<Vec<Range<u32>>>) -> io::Result<bool> {
        self.apply(|profile| {
            profile.pin(pieces);
            true
        });
        self.tell_profile(&self.members_to_tell());
        self.save_profile().await
    }

    /// A program of this host has read these bytes, in this order, since it opened the blob. Reports this to the lead.
    pub fn touched(self: &Arc<Self>, ranges: &[ByteRange]) {
        if !self.is_profiled() {
            return;
        }
        let length = self.stored.length().unwrap_or(u64::MAX);
        let ranges = ranges.iter().filter(|range| !range.is_empty() && range.end() <= length);
        let pieces: Vec<_> = ranges.map(|range| self.piece_length.pieces_of(*range)).collect();
        let lead = self.lead();
        let told = pieces.iter().take(darter_wire::MAX_STRETCHES);
        let told: Vec<_> = told.map(|run| Stretch { first: run.start, end: run.end }).collect();
        let is_wanted = {
            let mut known = self.profiling.known.lock();
            known.touched.clone_from(&told);
            known.wanted_by.map(Lead::Node) == Some(lead)
        };
        match lead {
            Lead::Node(lead) if is_wanted => self.say_touched(lead, told),
            Lead::Node(_) => {}
            Lead::Me | Lead::Nobody => self.record(self.context.me, pieces),
        }
    }

    fn say_touched(&self, lead: NodeId, pieces: Vec<Stretch>) {
        if !pieces.is_empty() {
            self.fleet.say(lead, &Message::Touched { blob: self.blob, pieces });
        }
    }

    /// A peer reports what was read there.
    pub(super) fn hear_touched(self: &Arc<Self>, from: NodeId, pieces: Vec<Stretch>) {
        let is_wanted = || self.profiling.known.lock().profile.wants_record_of(&from);
        if self.is_profiled() && is_wanted() && self.state().session.has_member(from) {
            self.record(from, pieces.into_iter().map(|run| run.first..run.end).collect());
        }
    }

    /// The lead sends its list.
    pub(super) fn hear_profile(self: &Arc<Self>, from: NodeId, pieces: Vec<Stretch>, wants: bool) {
        if !self.is_profiled() || self.lead() != Lead::Node(from) {
            return;
        }
        let untold = {
            let mut known = self.profiling.known.lock();
            let before = std::mem::replace(&mut known.wanted_by, wants.then_some(from));
            let is_asked = wants && before != Some(from);
            // A lead that knows nothing gets an earlier lead's list, if nothing was read here.
            let inherited = || if pieces.is_empty() { known.profile.said_by_another(from) } else { Vec::new() };
            is_asked.then(|| if known.touched.is_empty() { inherited() } else { known.touched.clone() })
        };
        if let Some(untold) = untold {
            self.say_touched(from, untold);
        }
        let mut count = 0;
        self.change(|profile| {
            let is_new = profile.told_by(from, pieces.into_iter().map(|run| run.first..run.end));
            count = profile.order().count();
            is_new
        });
        if count > 0 {
            self.note(format!("{} told which {count} pieces are touched first", self.fleet.address(from)));
        }
    }

    fn record(self: &Arc<Self>, by: NodeId, pieces: Vec<Range<u32>>) {
        if self.change(|profile| profile.record(by, pieces)) {
            self.tell_soon();
        }
    }

    /// Tells members of changes, as soon as they may be told again.
    fn tell_soon(self: &Arc<Self>) {
        let pause = {
            let mut known = self.profiling.known.lock();
            if std::mem::replace(&mut known.telling, true) {
                return;
            }
            let now = self.context.now();
            known.told.map_or(Duration::ZERO, |told| TELL_EVERY.saturating_sub(now.since(told)))
        };
        let transfer = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = transfer.closed.cancelled() => return,
            }
            let is_news = {
                let mut known = transfer.profiling.known.lock();
                known.telling = false;
                let is_news = known.profile.is_news();
                if is_news {
                    known.told = Some(transfer.context.now());
                }
                is_news
            };
            if is_news {
                transfer.tell_profile(&transfer.members_to_tell());
            }
        });
    }

    /// Changes the profile. Returns true if anything changed; then it is also saved.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut Profile) -> bool) -> bool {
        let is_new = self.apply(change);
        if is_new {
            let transfer = Arc::clone(self);
            self.tasks.spawn(async move {
                if let Err(error) = transfer.save_profile().await {
                    let blob = transfer.blob.short();
                    tracing::warn!(blob, error = %in_full(&error), "can't save which parts of a layer are read first");
                }
            });
        }
        is_new
    }

    /// Changes the profile without saving it. Returns true if anything changed.
    fn apply(&self, change: impl FnOnce(&mut Profile) -> bool) -> bool {
        {
            let mut known = self.profiling.known.lock();
            known.profile.within(self.bounds());
            if !change(&mut known.profile) {
                return false;
            }
            known.unsaved = true;
        }
        self.profiling.changed.send_replace(());
        true
    }

    /// Saves the profile, unless it is saved. The profile of a blob that was removed meanwhile is not kept.
    async fn save_profile(&self) -> io::Result<bool> {
        let mut saved = self.profiling.saving.lock().await;
        let profile = {
            let mut known = self.profiling.known.lock();
            if !std::mem::take(&mut known.unsaved) {
                return Ok(*saved);
            }
            known.profile.clone()
        };
        let (profiles, blob, pieces) = (self.context.profiles.clone(), self.blob, self.piece_length);
        let stored = Arc::clone(&self.stored);
        let keeping = move || {
            if stored.is_discarded() {
                return Ok(true);
            }
            let kept = profiles.keep(blob, pieces, &profile);
            // The blob was removed meanwhile, and its profile before this one was written.
            if stored.is_discarded() {
                profiles.forget(blob);
            }
            kept
        };
        let kept = self.context.disk.run(keeping).await;
        *saved = kept.as_ref().is_ok_and(|kept| *kept);
        kept
    }

    fn members_to_tell(&self) -> Vec<NodeId> {
        self.state().session.member_nodes()
    }

    /// Tells these members the list, if they support it.
    pub(super) fn tell_profile(&self, members: &[NodeId]) {
        if !self.is_profiled() {
            return;
        }
        for member in members {
            let knows = |peer: Arc<darter_fleet::Peer>| peer.hello.capabilities.contains(Capabilities::PROFILES);
            if *member == self.context.me || !self.fleet.peer(*member).is_some_and(knows) {
                continue;
            }
            let (pieces, wants) = {
                let known = self.profiling.known.lock();
                (known.profile.order().to_told(), known.profile.wants_record_of(member))
            };
            self.fleet.say(*member, &Message::Profile { blob: self.blob, pieces, wants });
        }
    }

    /// Prefetches the parts in the profile, in their order, for a program that has just opened the blob. Returns when that is no longer useful.
    pub async fn fetch_first_touches(self: &Arc<Self>) {
        if !self.is_profiled() || self.stored.passes() {
            return;
        }
        let _unread = CountUnread(self);
        {
            let mut known = self.profiling.known.lock();
            (known.opened, known.strayed) = (Some(self.context.now()), false);
        }
        let mut taken = Taken::nothing(self);
        let fetching = async {
            let mut changed = self.profiling.changed.subscribe();
            loop {
                changed.mark_unchanged();
                if self.stored.passes() {
                    return;
                }
                let units = self.units_to_fetch(&mut taken);
                if !units.is_empty() && self.fetch_units(units).await.is_err() {
                    return;
                }
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        // After this time no start needs the rest; it is only counted how little of it was read.
        let _ = tokio::time::timeout(STARTING, fetching).await;
    }

    /// The units of the list that are missing here, as far as there is space.
    fn units_to_fetch(&self, taken: &mut Taken<'_>) -> Vec<ByteRange> {
        let Some(length) = self.stored.length() else { return Vec::new() };
        let (held, order) = (self.stored.held(), self.profile().order().clone());
        let mut units: Vec<ByteRange> = Vec::new();
        for piece in order.pieces().map(PieceIndex).filter(|piece| !held.contains(*piece)) {
            let range = self.piece_length.range(piece, length);
            if range.is_empty() || !taken.take(range.len()) {
                continue;
            }
            match units.last_mut() {
                Some(last) if last.end() == range.start() && last.len() + range.len() <= UNIT => {
                    *last = ByteRange::new(last.start(), range.end());
                }
                _ => units.push(range),
            }
        }
        units
    }

    /// True while the profile's parts are being prefetched, and for a while after the opening if programs here wait for nothing else: other parts
    /// are hardly needed then, whatever a reader's pattern suggests.
    pub fn goes_by_first_touches(&self) -> bool {
        let known = self.profiling.known.lock();
        known.fetching > 0 || (known.goes_by_list(self.context.now()) && !known.strayed)
    }

    /// A program waits for these bytes.
    pub fn noted_wait(&self, range: ByteRange) {
        let mut known = self.profiling.known.lock();
        if known.strayed || !known.goes_by_list(self.context.now()) {
            return;
        }
        let held = self.stored.held();
        let listed = known.profile.order().stretches();
        let is_listed = |piece: u32| listed.iter().any(|run| run.contains(&piece));
        let strays = |piece: u32| !held.contains(PieceIndex(piece)) && !is_listed(piece);
        known.strayed = self.piece_length.pieces_of(range).any(strays);
    }

    async fn fetch_units(self: &Arc<Self>, units: Vec<ByteRange>) -> Result<(), FetchError> {
        let _fetching = FetchingList::begin(self);
        let began = self.context.now();
        let (mut bytes, count) = (0, units.len());
        let mut fetching = stream::iter(units)
            .map(async |unit| (unit, self.foresee(unit, STARTING, Foresight::Profile).await))
            .buffer_unordered(MAX_AT_A_TIME);
        while let Some((unit, fetched)) = fetching.next().await {
            match fetched {
                Ok(()) => {
                    bytes += unit.len();
                    self.fetched_for_profile(unit);
                }
                Err(error) if matches!(self.outcome(), Outcome::Failed(_)) => return Err(error),
                // If the piece has a reader, the reader requests it.
                Err(_) => {}
            }
        }
        drop(fetching);
        let took = self.context.now().since(began).as_secs_f64();
        self.note(format!("fetched {bytes} bytes in {count} parts that were read first elsewhere, in {took:.2} s"));
        Ok(())
    }

    fn fetched_for_profile(&self, unit: ByteRange) {
        self.context.metrics.profile_fetched_bytes.inc_by(unit.len());
        let mut known = self.profiling.known.lock();
        let mut read = 0;
        for piece in self.piece_length.pieces_of(unit).map(PieceIndex) {
            if known.read.remove(piece) {
                read += self.bytes_of(piece);
            } else {
                known.unread.insert(piece);
            }
        }
        drop(known);
        self.context.metrics.profile_hit_bytes.inc_by(read);
    }

    /// A program reads these bytes, which are here.
    pub fn noted_read(&self, range: ByteRange) {
        let mut known = self.profiling.known.lock();
        if known.unread.is_empty() && known.fetching == 0 {
            return;
        }
        let mut bytes = 0;
        for piece in self.piece_length.pieces_of(range).map(PieceIndex) {
            if known.unread.remove(piece) {
                bytes += self.bytes_of(piece);
            } else if known.fetching > 0 {
                known.read.insert(piece);
            }
        }
        drop(known);
        self.context.metrics.profile_hit_bytes.inc_by(bytes);
    }

    fn bytes_of(&self, piece: PieceIndex) -> u64 {
        self.piece_length.range(piece, self.stored.length().unwrap_or(u64::MAX)).len()
    }
}

/// Counts one prefetch of a list, until dropped.
struct FetchingList<'a>(&'a Transfer);

impl<'a> FetchingList<'a> {
    fn begin(transfer: &'a Transfer) -> Self {
        transfer.profiling.known.lock().fetching += 1;
        Self(transfer)
    }
}

impl Drop for FetchingList<'_> {
    fn drop(&mut self) {
        let mut known = self.0.profiling.known.lock();
        known.fetching -= 1;
        if known.fetching == 0 {
            known.read = PieceSet::new();
        }
    }
}

/// The store's space that is reserved for one prefetch, until dropped.
pub(super) struct Taken<'a> {
    transfer: &'a Transfer,
    bytes: u64,
}

impl<'a> Taken<'a> {
    pub(super) const fn nothing(transfer: &'a Transfer) -> Self {
        Self { transfer, bytes: 0 }
    }

    /// Reserves space for `bytes` more, if there is any.
    pub(super) fn take(&mut self, bytes: u64) -> bool {
        let context = &self.transfer.context;
        let capacity = context.disk.usage().capacity;
        context.ahead.lock().take(&mut self.bytes, bytes, capacity)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.transfer.context.ahead.lock().give_back(self.bytes);
    }
}

/// When dropped, counts what was prefetched and not read.
struct CountUnread<'a>(&'a Transfer);

impl Drop for CountUnread<'_> {
    fn drop(&mut self) {
        let unread = std::mem::take(&mut self.0.profiling.known.lock().unread);
        self.0.context.metrics.profile_unread_bytes.inc_by(unread.iter().map(|piece| self.0.bytes_of(piece)).sum());
    }
}
