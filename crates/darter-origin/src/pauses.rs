//! The origins that are being waited for: what they answered, and when they are asked again. People are shown this.
//!
//! A retry notes its pause, and removes the note when the pause is over. Cheap to clone: all clones are the same table.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use darter_core::{BlobId, Source};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Notes of pauses.
#[derive(Clone, Debug, Default)]
pub struct Pauses(Arc<Mutex<HashMap<BlobId, Noted>>>);

#[derive(Clone, Debug)]
struct Noted {
    reason: String,
    until: Instant,
}

/// A note, which is removed when this is dropped.
#[derive(Debug)]
pub struct Pausing {
    pauses: Pauses,
    key: BlobId,
}

/// The pause of a source that waits for its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// The origin's answer, or the failure.
    pub reason: String,
    /// How long until it is asked again.
    pub left: Duration,
}

impl Pauses {
    /// Notes that a source is asked again after `pause`, until the result is dropped. If there are several notes of a source, the last one counts.
    pub fn begin(&self, source: &Source, reason: impl Into<String>, pause: Duration) -> Pausing {
        // A pause that is too long for the clock is as good as a day.
        let until = Instant::now() + pause.min(Duration::from_secs(24 * 3600));
        let key = source.key();
        self.0.lock().insert(key, Noted { reason: reason.into(), until });
        Pausing { pauses: self.clone(), key }
    }

    /// The pause of a source, if there is one.
    pub fn of(&self, source: &Source) -> Option<Pause> {
        let noted = self.0.lock().get(&source.key()).cloned()?;
        Some(Pause { reason: noted.reason, left: noted.until.saturating_duration_since(Instant::now()) })
    }
}

impl Drop for Pausing {
    fn drop(&mut self) {
        self.pauses.0.lock().remove(&self.key);
    }
}
