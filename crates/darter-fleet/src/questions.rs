//! Limits how many requests of one peer are in progress. Each takes a task and memory until it is answered, some also a request to an origin or a
//! registry, and the peer's next messages are read meanwhile: a peer that keeps asking for new blobs would take more and more.
//!
//! Pure.

use std::collections::HashMap;
use std::sync::Arc;

use darter_core::NodeId;
use parking_lot::Mutex;

/// The number of requests in progress for each peer.
pub struct Questions {
    most: u32,
    open: Mutex<HashMap<NodeId, u32>>,
}

/// A request in progress, until dropped.
pub struct TakenUp {
    questions: Arc<Questions>,
    by: NodeId,
}

impl Questions {
    /// No requests yet; each peer may have at most `most` in progress at a time.
    pub fn new(most: u32) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    /// A peer makes a request. `None` if the limit is reached and the request has to be refused.
    pub fn take_up(self: &Arc<Self>, by: NodeId) -> Option<TakenUp> {
        let mut open = self.open.lock();
        let count = open.entry(by).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(TakenUp { questions: Arc::clone(self), by })
    }
}

impl Drop for TakenUp {
    fn drop(&mut self) {
        let mut open = self.questions.open.lock();
        if let Some(count) = open.get_mut(&self.by) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.by);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_asks_ever_more_is_refused_until_something_is_answered_and_others_are_not() {
        let (questions, eager, other) = (Questions::new(9), NodeId([1; 16]), NodeId([2; 16]));
        let mut open: Vec<_> = (0..9).map(|_| questions.take_up(eager).expect("there is room")).collect();
        assert!(questions.take_up(eager).is_none() && questions.take_up(other).is_some());
        open.pop();
        open.extend(questions.take_up(eager));
        assert_eq!(open.len(), 9);
        drop(open);
        assert!(questions.open.lock().is_empty(), "nobody is remembered");
    }
}
