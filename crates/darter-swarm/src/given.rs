//! The pieces that this agent gave to each peer, so that no peer is given all of a blob twice while others wait.
//!
//! An honest agent asks a holder again for a piece if the piece was wrong, if its connection was lost, or if it has lost the piece since. The
//! holder sees this itself, or the agent says so; as anybody can say so, its word alone counts only a few times. Any other repeated request is
//! answered, too, but after those of others ([`Session::goes_last`](crate::Session::goes_last)).
//!
//! Invariant: what is remembered is bounded.

use std::collections::BTreeMap;

use darter_core::{NodeId, PieceIndex, PieceSet};

/// Peers whose pieces are remembered, at most.
const MAX_PEERS: usize = 1024;

/// How many times a peer's word that it needs a piece again counts.
const MAX_EXCUSES: u32 = 16;

/// A lost connection counts as this many words: every piece that was given on it may be lost.
const EXCUSES_OF_A_CONNECTION: u32 = 4;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Given(BTreeMap<NodeId, GivenTo>);

#[derive(Debug, Default)]
struct GivenTo {
    pieces: PieceSet,
    excuses: u32,
}

impl Given {
    /// A piece is being sent to `peer`.
    pub(crate) fn sends(&mut self, peer: NodeId, piece: PieceIndex) {
        if self.0.len() < MAX_PEERS || self.0.contains_key(&peer) {
            self.0.entry(peer).or_default().pieces.insert(piece);
        }
    }

    /// A piece that was being sent to `peer` did not arrive.
    pub(crate) fn unsent(&mut self, peer: NodeId, piece: PieceIndex) {
        if let Some(given) = self.0.get_mut(&peer) {
            given.pieces.remove(piece);
        }
    }

    /// `peer` says that it needs a piece again.
    pub(crate) fn needs_again(&mut self, peer: NodeId, piece: PieceIndex) {
        if let Some(given) = self.0.get_mut(&peer).filter(|given| given.excuses < MAX_EXCUSES)
            && given.pieces.remove(piece)
        {
            given.excuses += 1;
        }
    }

    /// The connection of `peer` is lost.
    pub(crate) fn gone(&mut self, peer: NodeId) {
        if let Some(given) = self.0.get_mut(&peer).filter(|given| given.excuses < MAX_EXCUSES) {
            given.pieces = PieceSet::new();
            given.excuses += EXCUSES_OF_A_CONNECTION;
        }
    }

    /// True if `peer` was given `piece`, and nothing says that it needs it again.
    pub(crate) fn has(&self, peer: NodeId, piece: PieceIndex) -> bool {
        self.0.get(&peer).is_some_and(|given| given.pieces.contains(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId([1; 16]);

    fn given(pieces: u32) -> Given {
        let mut given = Given::default();
        (0..pieces).for_each(|piece| given.sends(PEER, PieceIndex(piece)));
        given
    }

    #[test]
    fn a_piece_was_given_until_it_was_not_sent_or_is_needed_again_and_to_nobody_else() {
        let mut given = given(3);
        let has = |given: &Given| (0..4).map(|piece| given.has(PEER, PieceIndex(piece))).collect::<Vec<_>>();
        assert_eq!(has(&given), [true, true, true, false]);
        assert!(!given.has(NodeId([2; 16]), PieceIndex(0)));
        given.unsent(PEER, PieceIndex(0));
        given.needs_again(PEER, PieceIndex(2));
        assert_eq!(has(&given), [false, true, false, false]);
        given.gone(PEER);
        assert_eq!(has(&given), [false; 4]);
    }

    #[test]
    fn the_word_that_all_is_needed_again_counts_a_few_times() {
        let mut given = given(100);
        (0..100).for_each(|piece| given.needs_again(PEER, PieceIndex(piece)));
        let left = (0..100).filter(|piece| given.has(PEER, PieceIndex(*piece))).count();
        assert_eq!(left, 100 - MAX_EXCUSES as usize);
        given.gone(PEER);
        assert!(given.has(PEER, PieceIndex(99)), "it said so too often");
        // An observation of the holder itself always counts.
        given.unsent(PEER, PieceIndex(99));
        assert!(!given.has(PEER, PieceIndex(99)));
    }

    #[test]
    fn lost_connections_count_a_few_times() {
        let mut given = Given::default();
        let mut excused = 0;
        for _ in 0..100 {
            given.sends(PEER, PieceIndex(0));
            given.gone(PEER);
            excused += u32::from(!given.has(PEER, PieceIndex(0)));
        }
        assert_eq!(excused, MAX_EXCUSES / EXCUSES_OF_A_CONNECTION);
    }

    #[test]
    fn a_bounded_number_of_peers_is_remembered() {
        let mut given = Given::default();
        for number in 0..2 * MAX_PEERS as u128 {
            given.sends(NodeId(number.to_be_bytes()), PieceIndex(0));
        }
        assert_eq!(given.0.len(), MAX_PEERS);
    }
}
