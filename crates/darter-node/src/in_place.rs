//! Work on the disk from within an async task, where its order with what the task does next matters.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does `work` here and now. The runtime's other tasks go on meanwhile on another thread, however long the disk takes.
pub(crate) fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
