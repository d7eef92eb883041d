//! What the daemon knows, as text or JSON: `status`, `ls`, `rm`, `pin`, `unpin`, `explain`.
//!
//! | file | what lives there |
//! |---|---|
//! | `show/status.rs` | the state of one agent |
//! | `show/blobs.rs` | the store's blobs: list, remove, pin |
//! | `show/explain.rs` | where a blob's bytes came from |
//! | `show/image.rs` | the same for each part of an image |

mod blobs;
mod explain;
mod image;
mod status;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use darter_api::Client;

use crate::output;

pub(crate) use self::blobs::{list, pin, remove};
pub(crate) use self::explain::explain;
pub(crate) use self::status::{received, status};

/// If a daemon has not answered for this long, a message says so: it may be stopped, or its host may hang.
pub(crate) const TOLD_AFTER: Duration = Duration::from_secs(5);

/// How often to ask the daemon what a download waits for that has not begun.
pub(crate) const WAITING_POLL: Duration = Duration::from_secs(1);

/// Waits for a daemon's answer, and prints a message once if that takes long.
pub(crate) async fn patiently<T>(client: &Client, answer: impl Future<Output = T>) -> T {
    let mut answer = pin!(answer);
    if let Ok(answer) = tokio::time::timeout(TOLD_AFTER, &mut answer).await {
        return answer;
    }
    output::complain(&mute(client.socket()));
    answer.await
}

/// The message that a daemon does not answer.
pub(crate) fn mute(socket: &Path) -> String {
    format!("the daemon at {} has not answered for {} s; still waiting", socket.display(), TOLD_AFTER.as_secs())
}
