//! When a blob whose pieces are all here is checked as a whole.
//!
//! Whoever leads finds out what the whole must be, since it read it; a member is told, and compares. Where the lead says nothing for too
//! long, or nobody leads, a member finds out for itself. One check at a time.

use std::time::Duration;

use darter_core::Moment;

use crate::Leader;

/// How long a member that holds everything waits for its lead's verdict before it finds out for itself.
pub const VERDICT_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module's text.
#[derive(Debug, Default)]
pub struct Finish {
    /// When a member that holds everything stops waiting for the verdict.
    due: Option<Moment>,
    is_under_way: bool,
}

impl Finish {
    /// Whether the check begins now. `is_whole` is whether all pieces and their hashes are here and the blob is not complete yet,
    /// `has_verdict` whether this agent knows what the whole must be.
    pub fn begins(&mut self, is_whole: bool, has_verdict: bool, leader: Leader, now: Moment) -> bool {
        if !is_whole || self.is_under_way {
            self.due = None;
            return false;
        }
        if !has_verdict && matches!(leader, Leader::Node(_)) && now < *self.due.get_or_insert(now + VERDICT_TIMEOUT) {
            return false;
        }
        self.due = None;
        self.is_under_way = true;
        true
    }

    /// The check has ended, whatever it came to.
    pub const fn ended(&mut self) {
        self.is_under_way = false;
    }

    /// Whether the whole is being checked.
    pub const fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// When [`Finish::begins`] changes its mind by itself.
    pub const fn due(&self) -> Option<Moment> {
        self.due
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

    #[test]
    fn a_member_waits_for_its_leads_verdict_and_not_for_ever() {
        let mut finish = Finish::default();
        assert!(!finish.begins(false, true, LEAD, at(0)), "a piece is lacking");
        assert!(!finish.begins(true, false, LEAD, at(1)));
        assert!(!finish.begins(true, false, LEAD, at(10)) && !finish.is_under_way());
        assert_eq!(finish.due(), Some(at(11)));
        assert!(finish.begins(true, false, LEAD, at(11)));
        assert!(!finish.begins(true, true, LEAD, at(12)), "one check at a time");
        finish.ended();
        assert!(finish.begins(true, true, LEAD, at(13)));
    }

    #[test]
    fn who_leads_or_has_nobody_to_wait_for_checks_at_once() {
        for leader in [Leader::Me, Leader::Nobody] {
            assert!(Finish::default().begins(true, false, leader, at(0)));
        }
        let mut finish = Finish::default();
        assert!(!finish.begins(true, false, LEAD, at(0)));
        assert!(finish.begins(true, false, Leader::Nobody, at(1)), "the lead is gone");
    }

    #[test]
    fn a_piece_that_is_lost_while_the_verdict_is_waited_for_ends_the_wait() {
        let mut finish = Finish::default();
        finish.begins(true, false, LEAD, at(0));
        assert!(!finish.begins(false, false, LEAD, at(5)));
        assert_eq!(finish.due(), None, "nobody looks again in vain");
        finish.begins(true, false, LEAD, at(8));
        assert_eq!(finish.due(), Some(at(18)));
    }
}
