//! Who is sent what next: the upload side of a node, for requests by name (the lead's own choices are
//! [`Lead::serve`](crate::Lead::serve)).
//!
//! Urgent requests go first. Otherwise receivers take turns, and none of them ever has more than half the slots: a
//! receiver that takes its pieces slowly would otherwise fill every slot of every node, and hold up all the others.

use std::collections::VecDeque;

use darter_core::{NodeId, PieceIndex};

/// A request that waits for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Who asked.
    pub to: NodeId,
    /// The receiver's name for the request.
    pub request: u64,
    /// The piece.
    pub piece: PieceIndex,
    /// Whether a reader waits for it.
    pub urgent: bool,
}

/// The waiting requests and busy slots of one node, for one blob.
#[derive(Debug)]
pub struct Uploads {
    slots: u32,
    waiting: VecDeque<Upload>,
    /// Receivers being sent to, with the number of their slots.
    busy: Vec<(NodeId, u32)>,
    /// How often each piece was sent from here.
    sent: Vec<u32>,
}

impl Uploads {
    /// A node that sends `slots` pieces at a time, at least one. Four is a good number: fewer leave the link idle when
    /// a receiver is slow, more gain nothing.
    pub fn new(slots: u32) -> Self {
        Self { slots: slots.max(1), waiting: VecDeque::new(), busy: Vec::new(), sent: Vec::new() }
    }

    /// A request came.
    pub fn push(&mut self, upload: Upload) {
        self.waiting.push_back(upload);
    }

    /// A request was withdrawn; false if it was not waiting (any more).
    pub fn cancel(&mut self, to: NodeId, request: u64) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|upload| upload.to != to || upload.request != request);
        self.waiting.len() < before
    }

    /// A receiver is gone: nothing waits for it any more. Its busy slots are still given back by [`Uploads::done`].
    pub fn forget(&mut self, to: NodeId) {
        self.waiting.retain(|upload| upload.to != to);
    }

    /// Whether a slot is free at all.
    pub fn has_room(&self) -> bool {
        self.busy.iter().map(|(_, slots)| slots).sum::<u32>() < self.slots
    }

    /// The next request to serve, which takes a slot: among those whose receiver may have one more, urgent ones first,
    /// then those whose receiver has the fewest, then the piece sent least from here (so that each piece soon has a
    /// second holder that carries it on), then the oldest.
    pub fn take_next(&mut self) -> Option<Upload> {
        if !self.has_room() {
            return None;
        }
        let most = self.slots.div_ceil(2);
        let may = self.waiting.iter().enumerate().filter(|(_, upload)| self.sending_to(upload.to) < most);
        let (at, _) = may.min_by_key(|(at, upload)| {
            (!upload.urgent, self.sending_to(upload.to), self.times_sent(upload.piece), *at)
        })?;
        let upload = self.waiting.remove(at)?;
        let at = upload.piece.as_usize();
        if at >= self.sent.len() {
            self.sent.resize(at + 1, 0);
        }
        self.sent[at] += 1;
        self.start(upload.to);
        Some(upload)
    }

    fn times_sent(&self, piece: PieceIndex) -> u32 {
        self.sent.get(piece.as_usize()).copied().unwrap_or(0)
    }

    /// Takes a slot for something that did not wait here (a piece that the lead chose).
    pub fn start(&mut self, to: NodeId) {
        match self.busy.iter_mut().find(|(receiver, _)| *receiver == to) {
            Some((_, slots)) => *slots += 1,
            None => self.busy.push((to, 1)),
        }
    }

    /// Gives a slot back: the piece was sent, or could not be.
    pub fn done(&mut self, to: NodeId) {
        if let Some(at) = self.busy.iter().position(|(receiver, _)| *receiver == to) {
            self.busy[at].1 -= 1;
            if self.busy[at].1 == 0 {
                self.busy.swap_remove(at);
            }
        }
    }

    /// How many slots a receiver has.
    pub fn sending_to(&self, to: NodeId) -> u32 {
        self.busy.iter().find(|(receiver, _)| *receiver == to).map_or(0, |(_, slots)| *slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(to: u8, request: u64, urgent: bool) -> Upload {
        Upload { to: NodeId([to; 16]), request, piece: PieceIndex(0), urgent }
    }

    fn drain(uploads: &mut Uploads) -> Vec<u64> {
        std::iter::from_fn(|| uploads.take_next()).map(|upload| upload.request).collect()
    }

    #[test]
    fn a_slow_receiver_never_has_all_slots() {
        let mut uploads = Uploads::new(4);
        for request in 0..8 {
            uploads.push(upload(1, request, false));
        }
        assert_eq!(drain(&mut uploads), [0, 1]);
        uploads.push(upload(2, 100, false));
        assert_eq!(drain(&mut uploads), [100]);
        uploads.done(NodeId([1; 16]));
        assert_eq!(drain(&mut uploads), [2]);
    }

    #[test]
    fn urgent_ones_overtake_and_receivers_take_turns() {
        let mut uploads = Uploads::new(3);
        for request in 0..3 {
            uploads.push(upload(1, request, false));
        }
        uploads.push(upload(2, 10, false));
        uploads.push(upload(3, 20, true));
        assert_eq!(drain(&mut uploads), [20, 0, 10]);
        assert!(!uploads.has_room());
    }

    #[test]
    fn what_is_withdrawn_is_not_sent() {
        let mut uploads = Uploads::new(4);
        uploads.push(upload(1, 1, false));
        uploads.push(upload(2, 2, false));
        assert!(uploads.cancel(NodeId([1; 16]), 1));
        assert!(!uploads.cancel(NodeId([1; 16]), 1));
        uploads.forget(NodeId([2; 16]));
        assert_eq!(uploads.take_next(), None);
    }
}
