//! The phase that a blob is in at one agent, and when the whole of it is checked.
//!
//! | phase | ends with |
//! |---|---|
//! | [`Fetching`](Phase::Fetching): pieces are lacking, whether wanted or not | the last piece, or all pieces with the lead's answer |
//! | [`Arriving`](Phase::Arriving): all pieces came with the lead's answer, and are being stored | the last one stored |
//! | [`Checking`](Phase::Checking): all pieces are here, and the whole is compared with its digest | the result |
//! | [`Complete`](Phase::Complete): the whole is right | a piece that is found to be lacking |
//! | [`Dissolving`](Phase::Dissolving): the whole is wrong, or of a version that is gone, and is being deleted | the blob's end |
//! | [`Failed`](Phase::Failed) | |
//!
//! The lead finds out what the whole must be, since it read it from the origin; members are told, and compare. If the lead says nothing for
//! too long, or nobody leads, a member finds it out by itself.
//!
//! Invariants: one check at a time; a blob that is being deleted, or has failed, never becomes complete.

use std::time::Duration;

use darter_core::Moment;

use crate::Leader;

/// How long a member that holds all pieces waits for its lead's verdict before it hashes the whole itself.
pub(crate) const VERDICT_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Pieces are lacking.
    Fetching,
    /// All pieces are being stored, and nothing is asked for.
    Arriving,
    /// The whole is being checked.
    Checking,
    /// Everything is here, and right.
    Complete,
    /// The bytes are being deleted.
    Dissolving,
    /// The blob cannot be had.
    Failed,
}

/// The agent that found out the root and digest of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckedBy {
    /// An earlier process of this agent.
    Earlier,
    /// The lead that is followed, or was.
    Lead,
    /// This agent.
    Here,
}

/// What this agent has of the things that a check of the whole needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checkable {
    /// A piece, or the hash of one, is lacking.
    NotYet,
    /// All pieces and hashes are here, but not the verdict: what the whole must be.
    WithoutVerdict,
    /// All pieces and hashes are here, and the verdict.
    WithVerdict,
}

/// The phase that a blob is in, and the way from one to the next.
#[derive(Debug)]
pub struct Course {
    phase: Phase,
    /// When a member that holds everything stops waiting for the verdict.
    due: Option<Moment>,
    /// True from the moment when all pieces begin to be stored together until the whole has been checked.
    comes_at_once: bool,
}

impl Course {
    /// For a blob that is here and was checked, or one of which something is lacking.
    pub const fn new(is_complete: bool) -> Self {
        let phase = if is_complete { Phase::Complete } else { Phase::Fetching };
        Self { phase, due: None, comes_at_once: false }
    }

    /// The phase.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// True while the blob's outcome is open.
    pub const fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Complete | Phase::Failed)
    }

    /// True while lacking pieces are fetched.
    pub(crate) const fn is_fetching(&self) -> bool {
        matches!(self.phase, Phase::Fetching | Phase::Arriving | Phase::Checking)
    }

    /// True while others are asked for pieces.
    pub(crate) const fn asks(&self) -> bool {
        matches!(self.phase, Phase::Fetching | Phase::Checking)
    }

    /// True while all pieces, which came together, are stored and checked: the blob is complete in a moment, and other agents are told of
    /// all of it at once then.
    pub(crate) const fn tells_later(&self) -> bool {
        self.comes_at_once && matches!(self.phase, Phase::Arriving | Phase::Checking)
    }

    /// True if all pieces came together and the whole has not been checked yet.
    pub(crate) const fn comes_at_once(&self) -> bool {
        self.comes_at_once
    }

    /// All pieces came with the lead's answer.
    pub(crate) fn arrives(&mut self) {
        self.comes_at_once |= self.moves(Phase::Fetching, Phase::Arriving);
    }

    /// The pieces that came with the answer are stored, as far as they could be.
    pub(crate) fn arrived(&mut self) {
        self.moves(Phase::Arriving, Phase::Fetching);
    }

    /// Returns true if the check of the whole begins now.
    pub(crate) fn begins_check(&mut self, checkable: Checkable, leader: Leader, now: Moment) -> bool {
        let begins = self.may_check(checkable, leader, now);
        if begins {
            self.phase = Phase::Checking;
        } else if self.phase == Phase::Fetching {
            // The pieces that came with the answer are stored, and more are lacking: others hear of them as of any piece.
            self.comes_at_once = false;
        }
        begins
    }

    fn may_check(&mut self, checkable: Checkable, leader: Leader, now: Moment) -> bool {
        if checkable == Checkable::NotYet || !matches!(self.phase, Phase::Fetching | Phase::Arriving) {
            self.due = None;
            return false;
        }
        let waits = checkable == Checkable::WithoutVerdict && matches!(leader, Leader::Node(_));
        if waits && now < *self.due.get_or_insert(now + VERDICT_TIMEOUT) {
            return false;
        }
        self.due = None;
        true
    }

    /// The check has ended, with whatever result.
    pub(crate) fn check_ended(&mut self) {
        self.comes_at_once = false;
        self.moves(Phase::Checking, Phase::Fetching);
    }

    /// The whole is right. Returns false if the blob has ended otherwise meanwhile.
    pub(crate) fn completes(&mut self) -> bool {
        self.moves(Phase::Checking, Phase::Complete)
    }

    /// A piece is lacking. Returns true if the blob was complete.
    pub(crate) fn lacks(&mut self) -> bool {
        self.moves(Phase::Complete, Phase::Fetching)
    }

    /// The bytes are to be deleted. Returns false if they are being deleted already.
    pub(crate) fn dissolves(&mut self) -> bool {
        let begins = self.phase != Phase::Dissolving;
        self.phase = Phase::Dissolving;
        begins
    }

    /// The blob cannot be had.
    pub(crate) const fn fails(&mut self) {
        self.phase = Phase::Failed;
    }

    /// When to call [`Course::begins_check`] again although nothing happened.
    pub(crate) const fn due(&self) -> Option<Moment> {
        self.due
    }

    fn moves(&mut self, from: Phase, to: Phase) -> bool {
        let moves = self.phase == from;
        if moves {
            self.phase = to;
        }
        moves
    }
}

#[cfg(test)]
mod tests {
    use darter_core::NodeId;

    use super::*;

    const LEAD: Leader = Leader::Node(NodeId([1; 16]));

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    fn checking() -> Course {
        let mut course = Course::new(false);
        assert!(course.begins_check(Checkable::WithVerdict, LEAD, at(0)));
        course
    }

    #[test]
    fn a_member_waits_for_its_leads_verdict_and_not_for_ever() {
        let mut course = Course::new(false);
        assert!(!course.begins_check(Checkable::NotYet, LEAD, at(0)), "a piece is lacking");
        assert!(!course.begins_check(Checkable::WithoutVerdict, LEAD, at(1)));
        assert!(!course.begins_check(Checkable::WithoutVerdict, LEAD, at(10)));
        assert_eq!((course.due(), course.phase()), (Some(at(11)), Phase::Fetching));
        assert!(course.begins_check(Checkable::WithoutVerdict, LEAD, at(11)));
        assert_eq!((course.due(), course.phase()), (None, Phase::Checking));
        assert!(!course.begins_check(Checkable::WithVerdict, LEAD, at(12)), "one check at a time");
        course.check_ended();
        assert!(course.begins_check(Checkable::WithVerdict, LEAD, at(13)));
    }

    #[test]
    fn who_leads_or_has_nobody_to_wait_for_checks_at_once() {
        for leader in [Leader::Me, Leader::Nobody] {
            assert!(Course::new(false).begins_check(Checkable::WithoutVerdict, leader, at(0)));
        }
        let mut course = Course::new(false);
        assert!(!course.begins_check(Checkable::WithoutVerdict, LEAD, at(0)));
        assert!(course.begins_check(Checkable::WithoutVerdict, Leader::Nobody, at(1)), "the lead is gone");
    }

    #[test]
    fn a_piece_that_is_lost_while_the_verdict_is_waited_for_ends_the_wait() {
        let mut course = Course::new(false);
        course.begins_check(Checkable::WithoutVerdict, LEAD, at(0));
        assert!(!course.begins_check(Checkable::NotYet, LEAD, at(5)));
        assert_eq!(course.due(), None, "nobody looks again in vain");
        course.begins_check(Checkable::WithoutVerdict, LEAD, at(8));
        assert_eq!(course.due(), Some(at(18)));
    }

    #[test]
    fn nothing_is_asked_for_while_all_pieces_arrive_and_the_whole_is_checked_though_the_last_is_being_stored() {
        let mut course = Course::new(false);
        assert!(course.is_fetching() && course.asks());
        course.arrives();
        assert!(course.is_fetching() && !course.asks());
        course.arrived();
        assert!(course.asks(), "what could not be stored is asked for");
        course.arrives();
        assert!(course.begins_check(Checkable::WithVerdict, LEAD, at(0)));
        course.arrived();
        assert_eq!(course.phase(), Phase::Checking);
        course.arrives();
        assert!(course.completes() && !course.completes());
        course.check_ended();
        assert_eq!(course.phase(), Phase::Complete);
    }

    #[test]
    fn a_complete_blob_that_lacks_a_piece_is_fetched_and_checked_again() {
        let mut course = Course::new(true);
        assert!(!course.is_open() && !course.is_fetching() && !course.asks());
        assert!(!course.begins_check(Checkable::WithVerdict, LEAD, at(0)), "it was");
        assert!(course.lacks() && !course.lacks());
        assert!(course.is_open() && course.asks());
        assert!(course.begins_check(Checkable::WithVerdict, LEAD, at(1)));
        assert!(!course.lacks(), "the check will find it");
    }

    #[test]
    fn what_is_thrown_away_or_has_failed_is_never_complete_and_asks_for_nothing() {
        let mut course = checking();
        assert!(course.dissolves() && !course.dissolves());
        assert!(course.is_open() && !course.is_fetching() && !course.asks(), "readers wait for its end");
        assert!(!course.completes() && !course.lacks());
        course.check_ended();
        course.arrived();
        assert_eq!(course.phase(), Phase::Dissolving);
        course.fails();
        let mut failed = checking();
        failed.fails();
        for mut course in [course, failed] {
            assert!(!course.completes() && !course.is_open() && !course.asks());
            assert!(!course.begins_check(Checkable::WithVerdict, LEAD, at(1)));
            assert_eq!(course.phase(), Phase::Failed);
        }
        assert!(Course::new(true).dissolves(), "its lead has found out that it is wrong");
    }
}
