//! The tasks of a transfer: its driver, its readers of the origin, the check of its whole, and others for whose end something waits.
//!
//! Invariant: none of them ends unnoticed. If a task panicked, everybody who waits for the blob, or asks for it later, would wait
//! for ever, since it is the driver that checks whether anything arrives. So a panic ends the transfer with an error, and the next request starts a new one.
//!
//! Not here: tasks for which nothing waits, such as those that save profiles.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;

use super::Transfer;
use crate::error::FetchError;

impl Transfer {
    /// Runs work on which this transfer depends.
    pub(super) fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let transfer = Arc::clone(self);
        self.tasks.spawn(async move {
            // State that the task left half changed is not used: the transfer ends.
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                transfer.ends_broken();
            }
        });
    }

    /// A task panicked; the panic's message is on standard error.
    fn ends_broken(self: &Arc<Self>) {
        let error = FetchError::Broken { blob: self.blob };
        tracing::error!(blob = %self.blob.short(), name = %self.source, "a download was ended by an error in this program");
        // Without the session, which may be inconsistent.
        self.state().failure.get_or_insert_with(|| error.clone());
        self.changed.send_replace(());
        self.give_up(&error);
    }
}
