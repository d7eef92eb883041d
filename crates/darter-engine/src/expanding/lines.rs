//! Layers of one repository are read a few at a time, in the order in which they were requested.
//!
//! Most of a layer is of use to nobody before its end: its length, its metadata and its beginning are known last, and a member gets these only then. If all layers of an image are read
//! at once, they all end at the same time, and much is left to be sent when the registry's link falls idle; and an engine that wants one layer after the other waits for the first of them as
//! long as for the last. Reading [`SIDE_BY_SIDE`] layers keeps the link busy while a registry takes its time to answer the next request. Layers of other repositories do not wait: an image of
//! large layers must not hold up another image.
//!
//! Layers of one length that begin together would still end together, in groups, and the first of them late, while the links to members are idle. So a layer begins only when a part of the layer before it has come, or some time has passed since that began: a part of the
//! time that the last layer took, as a registry may take most of it to answer. So their ends are spread evenly, and what members get at the end of a layer is sent while others are read.
//!
//! Invariant: a layer that makes no progress keeps nobody waiting, however many of them there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use darter_core::{BlobId, Clock, ExpandedLayer, Moment};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// How many layers of a repository are read at a time: one more than containerd does by itself.
pub(super) const SIDE_BY_SIDE: u8 = 4;

/// Most bytes that come of a layer before the next one begins: little of a long layer is left for its end.
const MAX_LEAD: u64 = 512 << 10;

/// How long after the layer before it one begins at the latest if none has ended yet: a registry that takes longer to answer answers several.
const FIRST_SPACING: Duration = Duration::from_millis(100);

/// How often the lines are looked at, since layers may have stalled.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A repository: the registry's address, and the repository's name.
type Place = (String, String);

/// See the module's documentation.
pub(super) struct Lines {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    lines: HashMap<Place, Line>,
}

/// The layers of a repository that are being read or wait for that.
struct Line {
    /// In the order of their requests.
    layers: BTreeMap<u64, Layer>,
    /// How long after the layer before it a layer begins at the latest.
    spacing: Duration,
}

struct Layer {
    key: BlobId,
    /// When it began to be read.
    begun: Option<Moment>,
    /// True once so much of it has come that the next one may begin.
    leads: bool,
}

/// A place in a line, until dropped.
pub(super) struct InLine<'a> {
    lines: &'a Lines,
    place: Place,
    number: u64,
    /// How many bytes of the layer have come, and how many let the next layer begin.
    came: AtomicU64,
    lead: u64,
}

impl Lines {
    /// Nothing is being read.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default(), freed: Notify::new() }
    }

    /// Waits until a layer may be read. `length` is that of the stored layer, if known; `moves` tells of a layer that is being read, by `key`, whether it makes
    /// progress.
    pub(super) async fn enter(
        &self,
        layer: &ExpandedLayer,
        key: BlobId,
        length: Option<u64>,
        moves: impl Fn(BlobId) -> bool,
    ) -> InLine<'_> {
        let here = self.join((layer.registry.to_string(), layer.repository.clone()), key, length);
        loop {
            let freed = self.freed.notified();
            let Some(pause) = self.begin(&here, &moves) else { return here };
            let _ = tokio::time::timeout(pause, freed).await;
        }
    }

    fn join(&self, place: Place, key: BlobId, length: Option<u64>) -> InLine<'_> {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        let layer = Layer { key, begun: None, leads: false };
        let line = || Line { layers: BTreeMap::new(), spacing: FIRST_SPACING };
        state.lines.entry(place.clone()).or_insert_with(line).layers.insert(number, layer);
        let lead = length.map_or(MAX_LEAD, |length| MAX_LEAD.min(length / u64::from(SIDE_BY_SIDE)));
        InLine { lines: self, place, number, came: AtomicU64::new(0), lead }
    }

    /// Lets the layer begin if it may; otherwise returns how long to wait before it is tried again.
    fn begin(&self, here: &InLine<'_>, moves: impl Fn(BlobId) -> bool) -> Option<Duration> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let line = state.lines.get_mut(&here.place)?;
        if let Some(pause) = line.pause(here.number, now, moves) {
            return Some(pause);
        }
        if let Some(layer) = line.layers.get_mut(&here.number) {
            layer.begun = Some(now);
        }
        // The next one may have looked before.
        self.freed.notify_waiters();
        None
    }
}

impl Line {
    /// How long a layer has to wait before it is looked at again; `None` if it may begin: few are being read, none waits that was requested before it, and
    /// the one before it has come far enough.
    fn pause(&self, number: u64, now: Moment, moves: impl Fn(BlobId) -> bool) -> Option<Duration> {
        let begun = |layer: &&Layer| layer.begun.is_some() && moves(layer.key);
        let is_full = self.layers.values().filter(begun).count() >= usize::from(SIDE_BY_SIDE);
        let mut before = self.layers.range(..number).map(|(_, layer)| layer);
        if is_full || before.clone().any(|layer| layer.begun.is_none()) {
            return Some(LOOK_EVERY);
        }
        let last = before.next_back().filter(|layer| !layer.leads && moves(layer.key))?;
        let left = self.spacing.saturating_sub(now.since(last.begun?));
        Some(left.min(LOOK_EVERY)).filter(|left| !left.is_zero())
    }
}

impl InLine<'_> {
    /// Notes that so many bytes of the layer have come.
    pub(super) fn came(&self, bytes: usize) {
        let before = self.came.fetch_add(bytes as u64, Ordering::Relaxed);
        if before < self.lead && before + bytes as u64 >= self.lead {
            self.change(|line| {
                if let Some(layer) = line.layers.get_mut(&self.number) {
                    layer.leads = true;
                }
            });
        }
    }

    fn change(&self, change: impl FnOnce(&mut Line)) {
        let mut state = self.lines.state.lock();
        if let Some(line) = state.lines.get_mut(&self.place) {
            change(line);
            if line.layers.is_empty() {
                state.lines.remove(&self.place);
            }
        }
        drop(state);
        self.lines.freed.notify_waiters();
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let now = self.lines.clock.now();
        self.change(|line| {
            let begun = line.layers.remove(&self.number).and_then(|layer| layer.begun);
            line.spacing = begun.map_or(line.spacing, |begun| now.since(begun) / u32::from(SIDE_BY_SIDE));
        });
    }
}

#[cfg(test)]
mod tests {
    use darter_core::Digest;
    use darter_image::FORMAT;
    use futures_util::FutureExt as _;
    use tokio::time::Instant;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const LENGTH: u64 = 1 << 20;

    /// The runtime's time, which the tests pause.
    struct Paused(Instant);

    impl Clock for Paused {
        fn now(&self) -> Moment {
            Moment::default() + self.0.elapsed()
        }

        fn unix(&self) -> u64 {
            0
        }
    }

    fn lines() -> Lines {
        Lines::new(Arc::new(Paused(Instant::now())))
    }

    fn layer(repository: &str) -> ExpandedLayer {
        let (digest, diff_id) = (Digest::sha256(b"stored"), Digest::sha256(b"tar"));
        let registry = "https://lab.example/".parse().unwrap();
        ExpandedLayer { registry, repository: repository.into(), digest, diff_id, format: FORMAT }
    }

    fn key(number: u8) -> BlobId {
        BlobId([number; 32])
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_layers_of_a_repository_are_read_at_a_time_in_their_order_and_others_do_not_wait() {
        let (lines, app, other) = (lines(), layer("app"), layer("other"));
        let enter = |layer, number| Box::pin(lines.enter(layer, key(number), None, |_| true));
        let mut read = Vec::new();
        for number in 0..SIDE_BY_SIDE {
            read.push(enter(&app, number).await);
        }
        let (mut next, mut last) = (enter(&app, 10), enter(&app, 11));
        assert!(next.as_mut().now_or_never().is_none() && last.as_mut().now_or_never().is_none());
        drop(enter(&other, 12).await);
        read.remove(2);
        assert!(last.as_mut().now_or_never().is_none(), "the one before it has yet to begin");
        read.push(next.await);
        assert!(tokio::time::timeout(HOUR, last.as_mut()).await.is_err());
        read.clear();
        drop(last.await);
        assert!(lines.state.lock().lines.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_that_makes_no_progress_and_one_that_is_given_up_keep_nobody_waiting() {
        let (lines, app) = (lines(), layer("app"));
        let stalled = Mutex::new(false);
        let moves = |key_of| key_of != key(1) || !*stalled.lock();
        let enter = |number| Box::pin(lines.enter(&app, key(number), None, moves));
        let mut read = Vec::new();
        for number in 0..SIDE_BY_SIDE {
            read.push(enter(number).await);
        }
        let (mut given_up, mut next) = (enter(10), enter(11));
        assert!(given_up.as_mut().now_or_never().is_none() && next.as_mut().now_or_never().is_none());
        drop(given_up);
        assert!(next.as_mut().now_or_never().is_none());
        *stalled.lock() = true;
        let _next = next.await;
        assert!(tokio::time::timeout(HOUR, enter(12)).await.is_err(), "as many as before move");
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_begins_when_a_part_of_the_one_before_has_come_or_after_a_part_of_the_last_ones_time() {
        let (lines, app) = (lines(), layer("app"));
        let enter = |number, length| Box::pin(lines.enter(&app, key(number), length, |_| true));
        let kept = enter(0, Some(LENGTH)).await;
        let first = enter(1, Some(LENGTH)).await;
        tokio::time::sleep(4 * HOUR).await;
        drop(first);

        let now = Instant::now();
        let second = enter(2, Some(LENGTH)).await;
        let mut third = enter(3, Some(100 * LENGTH));
        second.came(LENGTH as usize / 4 - 1);
        assert!(third.as_mut().now_or_never().is_none());
        second.came(1);
        let third = third.await;
        drop(kept);
        // Of a long layer, and of one of unknown length, less than a quarter is enough.
        third.came(MAX_LEAD as usize);
        let _fourth = enter(4, None).await;
        assert_eq!(now.elapsed(), Duration::ZERO);
        let _fifth = enter(5, None).await;
        let waited = now.elapsed();
        assert!(waited >= HOUR && waited < HOUR + Duration::from_secs(1), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn layers_that_are_requested_at_once_and_take_equally_long_end_one_after_the_other() {
        let lines = lines();
        let app = layer("app");
        // Each takes a second to be answered, and nothing more.
        let ends = Mutex::new(Vec::new());
        let begun = Instant::now();
        let read = |number| {
            let (lines, app, ends) = (&lines, &app, &ends);
            async move {
                let here = lines.enter(app, key(number), Some(LENGTH), |_| true).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                here.came(LENGTH as usize);
                drop(here);
                ends.lock().push(begun.elapsed().as_millis());
            }
        };
        futures_util::future::join_all((0..16).map(read)).await;
        let ends = ends.into_inner();
        assert_eq!(ends[..4], [1000, 1100, 1200, 1300]);
        assert!(ends[4..].windows(2).all(|pair| pair[1] - pair[0] >= 245), "{ends:?}");
        assert!(ends[15] <= 5000, "{ends:?}");
    }
}
