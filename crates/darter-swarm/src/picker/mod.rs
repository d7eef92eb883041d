//! Which piece to ask of whom, at one node, for one blob.

use darter_core::{Moment, NodeId, PieceIndex, PieceSet};

use crate::event::{Action, Event};
use crate::tuning::Tuning;

/// The picker of one blob. Tell it what happens with [`Picker::handle`], then do what [`Picker::poll`] says.
#[derive(Debug)]
pub struct Picker {}

impl Picker {
    /// A picker for node `me` and pieces of `piece_bytes`, that holds nothing yet and wants everything.
    pub fn new(me: NodeId, piece_bytes: u64, tuning: Tuning, seed: u64) -> Self {
        let _ = (me, piece_bytes, tuning, seed);
        unimplemented!()
    }

    /// Takes note of something that happened. Wants done are given by the next [`Picker::poll`].
    pub fn handle(&mut self, event: Event, now: Moment) {
        let _ = (event, now);
        unimplemented!()
    }

    /// Appends what is to be done now. Call it after events, and at [`Picker::next_wakeup`].
    pub fn poll(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let _ = (now, actions);
        unimplemented!()
    }

    /// When [`Picker::poll`] has something to do though nothing happens, if ever.
    pub fn next_wakeup(&self) -> Option<Moment> {
        unimplemented!()
    }

    /// What this node holds.
    pub fn held(&self) -> &PieceSet {
        unimplemented!()
    }

    /// Whether every piece is held.
    pub fn is_complete(&self) -> bool {
        unimplemented!()
    }

    /// Whether a piece is on its way from somebody.
    pub fn in_flight(&self, piece: PieceIndex) -> bool {
        let _ = piece;
        unimplemented!()
    }
}
