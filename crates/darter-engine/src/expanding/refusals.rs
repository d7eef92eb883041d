//! Layers that are not read again for a while, and why: a layer that can't be expressed stays so, wrong content may be corrected at its origin, and
//! a full disk may have space later. Each pause of a layer is longer than the last one.
//!
//! Pure: time is an argument.

use std::time::Duration;

use darter_core::recent::Recent;
use darter_core::{BlobId, Moment};
use darter_origin::{ErrorKind, OriginError, OriginFailure};
use parking_lot::Mutex;

use super::MAX_REMEMBERED;

/// The first pause for a layer: one with wrong content; one for which there was no space; and one that can't be expressed. Each further pause is twice
/// as long.
const WRONG_FOR: Duration = Duration::from_secs(30);
const NO_ROOM_FOR: Duration = Duration::from_secs(10);
const UNMOUNTABLE_FOR: Duration = Duration::from_secs(600);

/// The longest pause, except for layers that can't be expressed.
const MAX_PAUSE: Duration = Duration::from_secs(600);

/// How long after its pause a failure still makes the next pause longer.
const REMEMBER_FOR: Duration = Duration::from_secs(600);

/// See the module's documentation.
pub(super) struct Refusals(Mutex<Recent<BlobId, Refusal>>);

struct Refusal {
    failure: OriginFailure,
    pause: Duration,
    until: Moment,
}

impl Default for Refusals {
    fn default() -> Self {
        Self(Mutex::new(Recent::new(MAX_REMEMBERED)))
    }
}

impl Refusals {
    /// Why a layer is not to be read now.
    pub(super) fn of(&self, key: BlobId, now: Moment) -> Option<OriginFailure> {
        let mut refusals = self.0.lock();
        let refusal = refusals.get(&key).filter(|refusal| now < refusal.until)?;
        Some(refusal.failure.clone())
    }

    /// Notes how expanding a layer failed, if it would fail again. Returns true if so.
    pub(super) fn note(&self, key: BlobId, error: &OriginError, now: Moment) -> bool {
        let first = match error.kind() {
            ErrorKind::Unmountable => UNMOUNTABLE_FOR,
            ErrorKind::Contradicted => WRONG_FOR,
            ErrorKind::OutOfReach => NO_ROOM_FOR,
            _ => return false,
        };
        let mut refusals = self.0.lock();
        let before = refusals.get(&key).filter(|refusal| now < refusal.until + REMEMBER_FOR);
        let pause = before.map_or(first, |before| (before.pause * 2).min(MAX_PAUSE)).max(first);
        let mut failure = OriginFailure::from(error);
        if *error.kind() == ErrorKind::OutOfReach {
            failure.text = format!("{}; it is tried again in {} s", failure.text, pause.as_secs());
        }
        refusals.insert(key, Refusal { failure, pause, until: now + pause }, 1);
        true
    }

    /// Removes the entry of a layer that was expanded after all.
    pub(super) fn forget(&self, key: BlobId) {
        self.0.lock().remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_without_room_is_left_alone_for_longer_each_time_until_there_was_some() {
        let (refusals, key) = (Refusals::default(), BlobId([1; 32]));
        let at = |seconds| Moment::ZERO + Duration::from_secs(seconds);
        let error = |kind| OriginError::new(kind, "no room");
        let refused = |seconds| refusals.of(key, at(seconds)).is_some();
        assert!(refusals.note(key, &error(ErrorKind::OutOfReach), at(0)));
        assert!(refusals.of(key, at(9)).unwrap().text.contains("again in 10 s"));
        assert!(!refused(10));
        refusals.note(key, &error(ErrorKind::OutOfReach), at(10));
        assert!(refused(29) && !refused(30));
        for _ in 0..20 {
            refusals.note(key, &error(ErrorKind::OutOfReach), at(30));
        }
        assert!(refused(629) && !refused(630));
        refusals.forget(key);
        assert!(!refused(31));
        refusals.note(key, &error(ErrorKind::OutOfReach), at(31));
        assert!(refused(40) && !refused(41));
        refusals.note(key, &error(ErrorKind::OutOfReach), at(700));
        assert!(refused(709) && !refused(710), "long ago");
        refusals.note(key, &error(ErrorKind::Unmountable), at(710));
        assert!(refused(1309), "it stays so");
        assert!(!refusals.note(BlobId([2; 32]), &error(ErrorKind::Unreachable), at(0)));
        assert!(refusals.of(BlobId([2; 32]), at(0)).is_none());
    }
}
