//! The callers with whose credentials the origin is read.
//!
//! All callers of a transfer may have its bytes: the origin showed all of them the same content. It is read with the credentials of the last
//! caller, since those stay valid longest. If the origin refuses these in the middle (a token expired, an account was closed),
//! another caller's are used; if every caller is refused, the transfer fails with the last refusal.
//!
//! Pure. The number of callers is bounded; credentials that were refused are removed.

use std::collections::VecDeque;

use darter_core::source::Credentials;

/// How many callers are kept besides the one whose credentials are used.
const MAX_OTHERS: usize = 16;

/// The credentials of the callers of one transfer.
#[derive(Debug)]
pub(super) struct Callers {
    current: Credentials,
    /// The most recent caller is at the end.
    others: VecDeque<Credentials>,
}

impl Callers {
    pub(super) const fn new(first: Credentials) -> Self {
        Self { current: first, others: VecDeque::new() }
    }

    /// The credentials with which the origin is read.
    pub(super) const fn current(&self) -> &Credentials {
        &self.current
    }

    /// Uses a newer caller's credentials from now on.
    pub(super) fn renew(&mut self, newer: Credentials) {
        let before = std::mem::replace(&mut self.current, newer);
        self.others.retain(|other| *other != self.current);
        self.keep(before);
    }

    /// Keeps another caller's credentials, in case those in use are refused.
    pub(super) fn keep(&mut self, credentials: Credentials) {
        if credentials == self.current || self.others.contains(&credentials) {
            return;
        }
        if self.others.len() >= MAX_OTHERS {
            self.others.pop_front();
        }
        self.others.push_back(credentials);
    }

    /// Removes credentials that the origin refused. Returns true if there are others to use.
    pub(super) fn refused(&mut self, refused: &Credentials) -> bool {
        self.others.retain(|other| other != refused);
        if self.current != *refused {
            return true;
        }
        let Some(next) = self.others.pop_back() else { return false };
        self.current = next;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Credentials {
        Credentials { headers: vec![("authorization".to_owned(), name.to_owned())] }
    }

    #[test]
    fn who_is_refused_is_followed_by_who_came_last_before_and_nobody_is_tried_twice() {
        let mut callers = Callers::new(of("first"));
        callers.renew(of("second"));
        callers.renew(of("third"));
        callers.keep(of("second"));
        assert_eq!(*callers.current(), of("third"));
        assert!(callers.refused(&of("third")) && *callers.current() == of("second"));
        // Another caller's request was in progress meanwhile.
        assert!(callers.refused(&of("third")) && *callers.current() == of("second"));
        assert!(callers.refused(&of("second")) && *callers.current() == of("first"));
        assert!(!callers.refused(&of("first")));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut callers = Callers::new(Credentials::none());
        (0..100).for_each(|caller| callers.renew(of(&caller.to_string())));
        assert_eq!(callers.others.len(), MAX_OTHERS);
    }
}
