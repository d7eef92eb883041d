//! Work of this agent itself for which a transfer waits, such as the check of a whole that has to be read once more. Nothing arrives meanwhile,
//! and for a large blob on a slow disk this takes minutes; but the transfer has not stalled as long as the work makes steps.
//!
//! Invariant: only completed steps count. A disk that hangs makes none, and is waited for no longer than a peer.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use darter_core::{Clock, Moment};
use darter_swarm::session::LOOK_EVERY;

/// How long a step counts: a check every [`LOOK_EVERY`] sees each.
pub(crate) const STEP_COUNTS_FOR: Duration = LOOK_EVERY.saturating_mul(2);

/// The time of the last step.
pub(super) struct Steps {
    clock: Arc<dyn Clock>,
    /// In microseconds; zero if there was none.
    last: AtomicU64,
}

impl Steps {
    pub(super) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self { clock: Arc::clone(clock), last: AtomicU64::new(0) }
    }

    /// Notes a step. May be called on any thread.
    pub(super) fn take(&self) {
        self.last.store(self.clock.now().as_micros(), Ordering::Relaxed);
    }

    /// Takes steps, one after the other, while this work waits for other work of this agent, which makes steps of its own.
    pub(super) async fn keep_taking(&self) -> Infallible {
        loop {
            self.take();
            tokio::time::sleep(STEP_COUNTS_FOR / 2).await;
        }
    }

    /// True if there was a step recently.
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
