//! The tasks by which a transfer lives: its driver, its readers of the origin, the check of its whole, and others for whose end something waits.
//!
//! Invariant: none of them ends in silence. A task that panicked would leave everybody who waits for the blob, or asks for it later, waiting
//! for ever, since it is the driver that looks whether anything comes. So a panic ends the transfer with an error, and the next request begins anew.
//!
//! Not here: tasks that nobody waits for, such as those that write down what is touched first.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;

use super::Transfer;
use crate::error::FetchError;

impl Transfer {
    /// Does work on which this transfer depends.
    pub(super) fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let transfer = Arc::clone(self);
        self.tasks.spawn(async move {
            // State that the task left half changed is not used: the transfer ends.
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                transfer.ends_broken();
            }
        });
    }

    /// A task panicked, which has been told on standard error.
    fn ends_broken(self: &Arc<Self>) {
        let error = FetchError::Broken { blob: self.blob };
        tracing::error!(blob = %self.blob.short(), name = %self.source, "a download was broken off by a fault of this program");
        // First without the session, which may be what is broken.
        self.state().failure.get_or_insert_with(|| error.clone());
        self.changed.send_replace(());
        self.give_up(&error);
    }
}
