//! When a transfer lets its blob be evicted.
//!
//! A complete blob that nobody reads may be evicted at any time when the store needs its space, though the transfer stays for a while, to
//! be found by later requests. For this the transfer *rests* on it: the store then does not count it as a user. A reader takes a
//! [`Hold`] first, and learns from it if the blob was evicted meanwhile.
//!
//! A lead's blob does not rest while pieces of it are being sent to members that still want some.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Outcome, Transfer};

/// Members that were sent nothing for this long are not waited for.
pub(super) const IDLE_MEMBER_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of readers, and whether the transfer rests.
#[derive(Debug, Default)]
pub(crate) struct Rest(Mutex<HoldCount>);

#[derive(Debug, Default)]
struct HoldCount {
    holds: usize,
    resting: bool,
}

/// Keeps a transfer's blob from being evicted, until dropped.
pub struct Hold(Arc<Transfer>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.rest.0.lock().holds -= 1;
        self.0.may_rest();
    }
}

impl Transfer {
    /// Keeps the blob from being evicted; `None` if it was evicted already.
    pub fn hold(self: &Arc<Self>) -> Option<Hold> {
        let mut rest = self.rest.0.lock();
        if std::mem::take(&mut rest.resting) {
            // `is_evicted` below gives the answer, also for a blob that did not rest.
            let _ = self.stored.wake();
        }
        rest.holds += 1;
        drop(rest);
        let hold = Hold(Arc::clone(self));
        (!self.is_evicted()).then_some(hold)
    }

    /// True if a program of this host has it open.
    pub(crate) fn is_held(&self) -> bool {
        self.rest.0.lock().holds > 0
    }

    /// True if the blob was evicted: then the transfer is useless.
    pub(crate) fn is_evicted(&self) -> bool {
        self.stored.is_discarded() && self.is_complete()
    }

    /// True if it is useless for a newcomer: it failed, or its blob was evicted.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.outcome(), Outcome::Failed(_)) || self.is_evicted()
    }

    /// Allows the blob to be evicted if the transfer has ended and nobody needs it now.
    pub(crate) fn may_rest(&self) {
        // This is asked for every transfer now and then, and most of thousands rest: for those, the state is not locked.
        let is_settled = {
            let rest = self.rest.0.lock();
            rest.holds > 0 || rest.resting
        };
        if is_settled || matches!(self.outcome(), Outcome::Open) || self.is_giving() {
            return;
        }
        let mut rest = self.rest.0.lock();
        if rest.holds == 0 && !rest.resting {
            rest.resting = true;
            self.stored.rest();
        }
    }

    /// Forbids eviction again, for example because a piece was lost and is being fetched.
    pub(super) fn end_rest(&self) {
        if std::mem::take(&mut self.rest.0.lock().resting) {
            let _ = self.stored.wake();
        }
    }

    /// True if members are being sent pieces.
    fn is_giving(&self) -> bool {
        let now = self.context.now();
        let state = self.state();
        let lately = state.last_sent.is_some_and(|sent| now.since(sent) < IDLE_MEMBER_TIMEOUT);
        lately && state.session.is_wanted_by_members()
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.end_rest();
    }
}
