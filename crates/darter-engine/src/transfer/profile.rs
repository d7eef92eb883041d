//! First touches of an expanded layer: agents tell the lead what their programs touch first, the lead keeps and merges what it hears, and an agent
//! that opens the layer fetches at once what others touched first, behind what its readers wait for.
//!
//! The lead says its list behind `Joined`, and again when much has changed, to agents that know it. An agent that follows goes by its lead's list
//! and keeps that, too: it may lead next, and people ask it. [`Profile`] decides what is recorded; bytes on the disk are
//! [`Profiles`](crate::profiles::Profiles)'.
//!
//! Invariants: nothing is recorded or told of other content than expanded layers; a node's word about what it touched counts only while it is a
//! member, and a list only of the lead that is followed. Fetching ends when its asker goes away.

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

/// For how long after it is opened a layer's list counts, and new ones are heeded.
const STARTING: Duration = Duration::from_secs(60);

/// For how long after it is opened nothing is fetched ahead but what the list has, unless a program waits for something else.
const BY_LIST: Duration = Duration::from_secs(5);

/// Members are told of changes no more often than this.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Bytes that are fetched as one, unless a piece is longer.
const UNIT: u64 = 1 << 20;

/// Units that are waited for at a time. The picker decides how many are requested at once.
const MAX_AT_A_TIME: usize = 32;

/// See the module's text.
pub(super) struct Profiling {
    known: Mutex<Known>,
    changed: watch::Sender<()>,
    /// Held while it is written: whether it was, the last time.
    saving: tokio::sync::Mutex<bool>,
}

struct Known {
    profile: Profile,
    /// The lead that is to be told what is touched here.
    wanted_by: Option<NodeId>,
    /// The touches of programs here, as they were last told: a lead that wants them later is told then.
    touched: Vec<Stretch>,
    /// When members were last told, and whether they are about to be.
    told: Option<Moment>,
    telling: bool,
    /// True if it changed since it was written.
    unsaved: bool,
    /// How many fetch a list now.
    fetching: usize,
    /// When one that goes by the list opened it last; and whether it waited for something else since: then it takes another way.
    opened: Option<Moment>,
    strayed: bool,
    /// Pieces that were fetched for a list and that no program has read yet.
    unread: PieceSet,
    /// Pieces that programs read while a list is fetched, which may be of it and not counted as fetched yet.
    read: PieceSet,
}

impl Known {
    /// True if one that opened it a short time ago has a list to go by.
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

    /// True if first touches of it are of use, and this agent is to heed them.
    fn is_profiled(&self) -> bool {
        self.context.options.profiles && self.is_expanded()
    }

    /// True if it is a layer in the form that is mounted.
    pub(super) const fn is_expanded(&self) -> bool {
        matches!(self.source, Source::Expanded(_))
    }

    /// The list of what is touched first, as it is known here.
    pub fn profile(&self) -> Profile {
        self.profiling.known.lock().profile.clone()
    }

    /// Puts a list in place of what is recorded, or takes it away, and writes that down; all members are told. False if a newer version
    /// wrote what is there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn pin_profile(&self, pieces: Option<Vec<Range<u32>>>) -> io::Result<bool> {
        self.apply(|profile| {
            profile.pin(pieces);
            true
        });
        self.tell_profile(&self.members_to_tell());
        self.save_profile().await
    }

    /// A program here has touched these bytes, in this order, since it opened the blob. Says so to whoever collects it.
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

    /// A peer says what was touched there.
    pub(super) fn hear_touched(self: &Arc<Self>, from: NodeId, pieces: Vec<Stretch>) {
        let is_wanted = || self.profiling.known.lock().profile.wants_record_of(&from);
        if self.is_profiled() && is_wanted() && self.state().session.has_member(from) {
            self.record(from, pieces.into_iter().map(|run| run.first..run.end).collect());
        }
    }

    /// The lead says what is touched first.
    pub(super) fn hear_profile(self: &Arc<Self>, from: NodeId, pieces: Vec<Stretch>, wants: bool) {
        if !self.is_profiled() || self.lead() != Lead::Node(from) {
            return;
        }
        let untold = {
            let mut known = self.profiling.known.lock();
            let before = std::mem::replace(&mut known.wanted_by, wants.then_some(from));
            let is_asked = wants && before != Some(from);
            // A lead that knows nothing is told what an earlier one did, if nothing was touched here.
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

    /// Tells members of what has changed, as soon as they may be told again.
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

    /// Changes what is known; true if that is something new, and then it is written down.
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

    /// Changes what is known without writing it down; true if that is something new.
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

    /// Writes down what is known, unless that was done. The profile of a blob that was removed meanwhile is not kept.
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
            // The blob was removed a moment ago, and its profile forgotten before this one was kept.
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

    /// Tells these members what is touched first, if they know what that is.
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

    /// Fetches what others touched first, in their order, for a program that has just opened the blob. Returns when that is of no use any more.
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
        // More is nobody's start any more; what few of it are read is counted.
        let _ = tokio::time::timeout(STARTING, fetching).await;
    }

    /// The units of the list that are lacking here, as far as there is room.
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

    /// True while what others touched first is being fetched, and for a while after it was opened if programs here wait for nothing else: what others
    /// did not touch is hardly of use then, whatever a reader's pattern tells.
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
                // If the piece has a reader, that one asks for it.
                Err(_) => {}
            }
        }
        drop(fetching);
        let took = self.context.now().since(began).as_secs_f64();
        self.note(format!("fetched {bytes} bytes in {count} parts that others touched first, in {took:.2} s"));
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

    /// A program reads these bytes, and they are here.
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

/// Fetches a list as long as it lives.
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

/// The room that an opening takes of the store in advance, as long as this lives.
pub(super) struct Taken<'a> {
    transfer: &'a Transfer,
    bytes: u64,
}

impl<'a> Taken<'a> {
    pub(super) const fn nothing(transfer: &'a Transfer) -> Self {
        Self { transfer, bytes: 0 }
    }

    /// Takes room for `bytes` more, if there is any.
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

/// Counts at its end what was fetched and not read.
struct CountUnread<'a>(&'a Transfer);

impl Drop for CountUnread<'_> {
    fn drop(&mut self) {
        let unread = std::mem::take(&mut self.0.profiling.known.lock().unread);
        self.0.context.metrics.profile_unread_bytes.inc_by(unread.iter().map(|piece| self.0.bytes_of(piece)).sum());
    }
}
