//! Counts programs that wait for bytes of any of several files: while one waits for a layer of its image, the rest of other layers is not fetched. Pure.

use std::sync::Arc;

use darter_core::Moment;
use parking_lot::Mutex;

/// The programs that wait for bytes of any file that shares this. All times are of one clock.
#[derive(Clone, Debug, Default)]
pub struct Waits(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    last: Option<Moment>,
}

impl Waits {
    /// Nobody has waited yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A program begins to wait.
    pub(crate) fn begin(&self) {
        self.0.lock().waiting += 1;
    }

    /// A program waits no more.
    pub(crate) fn end(&self, now: Moment) {
        let mut state = self.0.lock();
        state.waiting = state.waiting.saturating_sub(1);
        state.last = Some(now);
    }

    /// When a program last waited: now, if one is waiting.
    pub(crate) fn last(&self, now: Moment) -> Option<Moment> {
        let state = self.0.lock();
        if state.waiting > 0 { Some(now) } else { state.last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_one_file_waits_for_all_that_share() {
        let waits = Waits::new();
        let other = waits.clone();
        let at = Moment::from_micros;
        assert_eq!(waits.last(at(1)), None);
        waits.begin();
        other.begin();
        assert_eq!(other.last(at(2)), Some(at(2)));
        waits.end(at(3));
        assert_eq!(waits.last(at(4)), Some(at(4)), "another one waits");
        other.end(at(5));
        assert_eq!(waits.last(at(9)), Some(at(5)));
    }
}
