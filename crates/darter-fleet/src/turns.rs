//! The requests that wait for their turn at one holder, which accepts a limited number at a time.
//!
//! The blob with the fewest requests at the holder goes first, so that none of hundreds of blobs has to wait until the others are complete; of
//! its requests an urgent one, then the oldest. Among blobs with equally many, one with an urgent request goes first, then the one whose request is oldest.
//!
//! Invariant: a blob is listed here while it has requests at the holder, or waiting for it. What is asked often (whose turn it is, how
//! many wait) takes no look at single requests of other blobs.

use std::collections::{HashMap, VecDeque};

use darter_core::BlobId;
use darter_swarm::RequestId;
use darter_wire::Wanted;

use super::data::Ask;

/// See the module's text.
#[derive(Default)]
pub(super) struct Turns {
    blobs: HashMap<BlobId, OfBlob>,
    /// How many requests wait.
    waiting: usize,
    /// How many of these name a piece.
    named: u32,
    /// How many have ever waited.
    came: u64,
}

#[derive(Default)]
struct OfBlob {
    /// How many of its requests are at the holder.
    there: u32,
    /// Those that wait, the oldest first, each with its number in the order in which all came.
    waiting: VecDeque<(u64, Ask)>,
}

impl OfBlob {
    /// Where its next request waits.
    fn next(&self) -> usize {
        self.waiting.iter().position(|(_, ask)| ask.urgent).unwrap_or_default()
    }
}

fn is_named(ask: &Ask) -> bool {
    matches!(ask.wanted, Wanted::Piece(_))
}

impl Turns {
    /// How many requests wait.
    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many of the waiting requests name a piece.
    pub(super) const fn named(&self) -> u32 {
        self.named
    }

    /// A request waits from now on.
    pub(super) fn wait(&mut self, ask: Ask) {
        self.blobs.entry(ask.blob).or_default().waiting.push_back((self.came, ask));
        self.came += 1;
        self.waiting += 1;
        self.named += u32::from(is_named(&ask));
    }

    /// Removes and returns the request whose turn it is.
    pub(super) fn take(&mut self) -> Option<Ask> {
        if self.waiting == 0 {
            return None;
        }
        let turn = |(blob, of): (&BlobId, &OfBlob)| {
            let at = of.next();
            let (number, ask) = of.waiting.get(at)?;
            Some(((of.there, !ask.urgent, *number), *blob, at))
        };
        let (_, blob, at) = self.blobs.iter().filter_map(turn).min_by_key(|(turn, ..)| *turn)?;
        self.remove(blob, at)
    }

    /// Removes a request that still waits; false if it does not.
    pub(super) fn forget(&mut self, blob: BlobId, request: RequestId) -> bool {
        let is_it = |(_, ask): &(u64, Ask)| ask.request == request;
        let at = self.blobs.get(&blob).and_then(|of| of.waiting.iter().position(is_it));
        at.is_some_and(|at| self.remove(blob, at).is_some())
    }

    /// A request of this blob was sent to the holder.
    pub(super) fn sent(&mut self, blob: BlobId) {
        self.blobs.entry(blob).or_default().there += 1;
    }

    /// A request of this blob is at the holder no more.
    pub(super) fn ended(&mut self, blob: BlobId) {
        if let Some(of) = self.blobs.get_mut(&blob) {
            of.there = of.there.saturating_sub(1);
            self.tidy(blob);
        }
    }

    /// The requests that wait.
    pub(super) fn into_waiting(self) -> impl Iterator<Item = Ask> {
        self.blobs.into_values().flat_map(|of| of.waiting).map(|(_, ask)| ask)
    }

    fn remove(&mut self, blob: BlobId, at: usize) -> Option<Ask> {
        let (_, ask) = self.blobs.get_mut(&blob)?.waiting.remove(at)?;
        self.waiting -= 1;
        self.named -= u32::from(is_named(&ask));
        self.tidy(blob);
        Some(ask)
    }

    fn tidy(&mut self, blob: BlobId) {
        if self.blobs.get(&blob).is_some_and(|of| of.there == 0 && of.waiting.is_empty()) {
            self.blobs.remove(&blob);
        }
    }
}

#[cfg(test)]
mod tests {
    use darter_core::PieceIndex;

    use super::*;

    fn ask(blob: u8, request: u64, urgent: bool) -> Ask {
        let wanted = if request.is_multiple_of(2) { Wanted::Piece(PieceIndex(0)) } else { Wanted::Any };
        Ask { blob: BlobId([blob; 32]), request: RequestId(request), wanted, urgent, longest: 1 }
    }

    #[test]
    fn the_blob_with_the_fewest_requests_at_the_holder_goes_first_and_an_urgent_one_before_its_others() {
        let mut turns = Turns::default();
        assert!(turns.take().is_none());
        (0..3).for_each(|_| turns.sent(BlobId([1; 32])));
        for (blob, request, urgent) in
            [(1, 900, true), (1, 901, false), (2, 902, false), (3, 903, false), (3, 904, true)]
        {
            turns.wait(ask(blob, request, urgent));
        }
        assert_eq!((turns.waiting(), turns.named()), (5, 3));
        let mut order = Vec::new();
        while let Some(next) = turns.take() {
            order.push(next.request.0);
            turns.sent(next.blob);
        }
        assert_eq!(order, [904, 902, 903, 900, 901]);
        assert_eq!((turns.waiting(), turns.named()), (0, 0));
        turns.ended(BlobId([2; 32]));
        turns.wait(ask(3, 905, false));
        turns.wait(ask(2, 906, false));
        assert_eq!(turns.take().map(|next| next.request.0), Some(906), "the holder has nothing of it any more");
    }

    #[test]
    fn what_is_forgotten_waits_no_more_and_a_blob_without_requests_is_not_listed() {
        let mut turns = Turns::default();
        (0..4).for_each(|request| turns.wait(ask(1, request, false)));
        assert!(!turns.forget(BlobId([2; 32]), RequestId(1)) && !turns.forget(BlobId([1; 32]), RequestId(9)));
        assert!(turns.forget(BlobId([1; 32]), RequestId(0)) && turns.forget(BlobId([1; 32]), RequestId(3)));
        assert_eq!((turns.waiting(), turns.named()), (2, 1));
        turns.sent(BlobId([1; 32]));
        turns.ended(BlobId([7; 32]));
        let order: Vec<_> = std::iter::from_fn(|| turns.take()).map(|ask| ask.request.0).collect();
        assert_eq!((order, turns.blobs.len()), (vec![1, 2], 1));
        turns.ended(BlobId([1; 32]));
        assert!(turns.blobs.is_empty());
        turns.wait(ask(5, 6, true));
        assert_eq!(turns.into_waiting().map(|ask| ask.request.0).collect::<Vec<_>>(), [6]);
    }
}
