//! Layers of one repository are read a few at a time, in the order in which they were requested.
//!
//! Most of a layer is of use to nobody before its end: its length, its metadata and its beginning are known last, and a member gets these only then. If all layers of an image are read
//! at once, they all end at the same time, and much is left to be sent when the registry's link falls idle; and an engine that wants one layer after the other waits for the first of them as
//! long as for the last. Reading [`SIDE_BY_SIDE`] layers keeps the link busy while a registry takes its time to answer the next request. Layers of other repositories do not wait: an image of
//! large layers must not hold up another image.
//!
//! Invariant: a layer that makes no progress keeps nobody waiting, however many of them there are.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use darter_core::{BlobId, ExpandedLayer};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// How many layers of a repository are read at a time: one more than containerd does by itself.
pub(super) const SIDE_BY_SIDE: usize = 4;

/// How often the lines are looked at, since layers may have stalled.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A repository: the registry's address, and the repository's name.
type Place = (String, String);

/// The layers of a repository that are read or wait for that, in the order of their requests, and whether each is being read.
type Line = BTreeMap<u64, (BlobId, bool)>;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Lines {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    lines: HashMap<Place, Line>,
}

/// A place in a line, until dropped.
pub(super) struct InLine<'a> {
    lines: &'a Lines,
    place: Place,
    number: u64,
}

impl Lines {
    /// Waits until a layer may be read. `moves` tells of a layer that is being read, by `key`, whether it makes progress.
    pub(super) async fn enter(&self, layer: &ExpandedLayer, key: BlobId, moves: impl Fn(BlobId) -> bool) -> InLine<'_> {
        let place = (layer.registry.to_string(), layer.repository.clone());
        let here = self.join(place, key);
        loop {
            let freed = self.freed.notified();
            if self.may_begin(&here, &moves) {
                return here;
            }
            let _ = tokio::time::timeout(LOOK_EVERY, freed).await;
        }
    }

    fn join(&self, place: Place, key: BlobId) -> InLine<'_> {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.lines.entry(place.clone()).or_default().insert(number, (key, false));
        InLine { lines: self, place, number }
    }

    /// Lets the layer begin if few are being read, and none waits that was requested before it.
    fn may_begin(&self, here: &InLine<'_>, moves: impl Fn(BlobId) -> bool) -> bool {
        let mut state = self.state.lock();
        let Some(line) = state.lines.get_mut(&here.place) else { return true };
        let begun = line.values().filter(|(key, is_read)| *is_read && moves(*key)).count();
        let is_first = line.range(..here.number).all(|(_, (_, is_read))| *is_read);
        let may = begun < SIDE_BY_SIDE && is_first;
        if may && let Some((_, is_read)) = line.get_mut(&here.number) {
            *is_read = true;
            // The next one may have looked before.
            self.freed.notify_waiters();
        }
        may
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.lines.state.lock();
            if let Some(line) = state.lines.get_mut(&self.place) {
                line.remove(&self.number);
                if line.is_empty() {
                    state.lines.remove(&self.place);
                }
            }
        }
        self.lines.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use darter_core::Digest;
    use darter_image::FORMAT;
    use futures_util::FutureExt as _;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

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
        let (lines, app, other) = (Lines::default(), layer("app"), layer("other"));
        let enter = |layer, number| Box::pin(lines.enter(layer, key(number), |_| true));
        let mut read = Vec::new();
        for number in 0..SIDE_BY_SIDE as u8 {
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
        let (lines, app) = (Lines::default(), layer("app"));
        let stalled = Mutex::new(false);
        let enter = |number| Box::pin(lines.enter(&app, key(number), |key_of| key_of != key(1) || !*stalled.lock()));
        let mut read = Vec::new();
        for number in 0..SIDE_BY_SIDE as u8 {
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
}
