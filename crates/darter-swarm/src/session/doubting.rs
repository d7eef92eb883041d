//! Doubts of other agents about the pieces and the verdict that this agent gave them.
//!
//! A holder verified its pieces when they arrived, and a lead verified the whole; either may be wrong by now: memory and disks fail, and a lead
//! may have its verdict from the lead before it. So a peer that was given a wrong piece says so to the giver, too, which compares the piece with
//! its hash once more; and a member that found the whole wrong says so to its lead, which hashes all of it once, unless it has done so itself.
//!
//! Any agent can say so: it only makes this agent check, and checks are few. Invariants: at most one piece in [`RECHECK_PAUSE`] is checked,
//! and the whole once.

use std::time::Duration;

use darter_core::{Digest, Moment, NodeId, PieceIndex};

use super::{Output, Session};
use crate::CheckedBy;

/// How long after one doubted piece was checked no other is.
const RECHECK_PAUSE: Duration = Duration::from_millis(250);

/// The doubts that led to checks.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// When a piece was last checked.
    looked: Option<Moment>,
    /// True if the whole was checked.
    is_whole_checked: bool,
}

impl Session {
    /// A peer says that this agent gave it a wrong piece. Returns true if the piece is to be checked.
    pub(super) fn is_doubted(&mut self, by: NodeId, piece: PieceIndex, now: Moment) -> bool {
        let knows_it = self.met.contains(&by) || self.has_member(by) || self.following() == Some(by);
        let is_soon = self.doubts.looked.is_some_and(|looked| now < looked + RECHECK_PAUSE);
        self.given.needs_again(by, piece);
        if !knows_it || is_soon || !self.picker.held().contains(piece) {
            return false;
        }
        self.doubts.looked = Some(now);
        self.outputs.push(Output::Recheck { by, piece });
        true
    }

    /// A member found another digest of the whole than this agent's verdict. Returns true if the whole is hashed here.
    pub(super) fn is_refuted(&mut self, by: NodeId, expected: Digest, got: Digest) -> bool {
        let vouches = self.verdict.as_ref().is_some_and(|verdict| verdict.digest == Some(expected));
        if !vouches || !self.has_member(by) || self.checked_by == CheckedBy::Here || self.doubts.is_whole_checked {
            return false;
        }
        self.doubts.is_whole_checked = true;
        self.outputs.push(Output::RecheckWhole { by, expected, got });
        true
    }
}
