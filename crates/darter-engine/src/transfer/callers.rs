//! Callers, whose credentials the origin is read with.
//!
//! All callers of a transfer may have its bytes: the origin showed all of them the same content. It is read with the credentials of the last
//! one to come, since those last longest. When the origin refuses these half-way (a token expired, an account was closed), it
//! is read on with another caller's; a transfer whose every caller is refused fails with the last refusal.
//!
//! Pure. The number of callers is bounded; credentials that were refused are forgotten.

use std::collections::VecDeque;

use darter_core::source::Credentials;

/// Callers besides the one whose credentials are used.
const MAX_OTHERS: usize = 16;

/// The callers of one transfer, by their credentials.
#[derive(Debug)]
pub(super) struct Callers {
    current: Credentials,
    /// The last one to come is the last.
    others: VecDeque<Credentials>,
}

impl Callers {
    pub(super) const fn new(first: Credentials) -> Self {
        Self { current: first, others: VecDeque::new() }
    }

    /// The credentials that the origin is read with.
    pub(super) const fn current(&self) -> &Credentials {
        &self.current
    }

    /// Reads with a newer caller's from now on.
    pub(super) fn renew(&mut self, newer: Credentials) {
        let before = std::mem::replace(&mut self.current, newer);
        self.others.retain(|other| *other != self.current);
        self.keep(before);
    }

    /// Keeps another caller's, in case those in use are refused.
    pub(super) fn keep(&mut self, credentials: Credentials) {
        if credentials == self.current || self.others.contains(&credentials) {
            return;
        }
        if self.others.len() >= MAX_OTHERS {
            self.others.pop_front();
        }
        self.others.push_back(credentials);
    }

    /// The origin refused these: whether there are others to go on with.
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
        // Another caller's request was under way meanwhile.
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
