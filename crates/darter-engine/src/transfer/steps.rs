//! Work of this agent itself that a transfer waits for, such as the check of a whole that has to be read once more. Nothing comes meanwhile,
//! from nobody, and a large blob on a slow disk takes minutes; but nothing stands still as long as the work takes steps.
//!
//! Invariant: only a step that was taken counts. A disk that hangs takes none, and is no longer waited for than a peer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use darter_core::{Clock, Moment};
use darter_swarm::session::LOOK_EVERY;

/// How long a step counts: a look every [`LOOK_EVERY`] sees each.
pub(crate) const STEP_COUNTS_FOR: Duration = LOOK_EVERY.saturating_mul(2);

/// When the last step was taken.
pub(super) struct Steps {
    clock: Arc<dyn Clock>,
    /// In microseconds; zero if none was.
    last: AtomicU64,
}

impl Steps {
    pub(super) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self { clock: Arc::clone(clock), last: AtomicU64::new(0) }
    }

    /// A step is taken. On whatever thread.
    pub(super) fn take(&self) {
        self.last.store(self.clock.now().as_micros(), Ordering::Relaxed);
    }

    /// True if one was taken a moment ago.
    pub(super) fn are_taken(&self, now: Moment) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        last > 0 && now.since(Moment::from_micros(last)) < STEP_COUNTS_FOR
    }
}

#[cfg(test)]
mod tests {
    use darter_core::SystemClock;

    use super::*;

    #[test]
    fn a_step_counts_for_a_moment() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let steps = Steps::new(&clock);
        assert!(!steps.are_taken(clock.now()), "none was taken");
        while clock.now() == Moment::ZERO {}
        steps.take();
        let now = clock.now();
        assert!(steps.are_taken(now) && !steps.are_taken(now + STEP_COUNTS_FOR));
    }
}
