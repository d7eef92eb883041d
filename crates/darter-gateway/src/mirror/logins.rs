//! With which credentials layers were given to be mounted, as long as this process lives.
//!
//! The credentials of a layer that was given open it again without asking its registry, but only for as long as a registry's word on access counts: its
//! owner may have taken it back. Later they are still those that it is read with, as the registry sees fit.
//!
//! Pure: time is an argument.

use std::time::Duration;

use darter_core::recent::Recent;
use darter_core::source::Credentials;
use darter_core::{Digest, Moment};

/// Layers whose credentials are remembered.
const MAX_LOGINS: u64 = 20_000;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Logins {
    ttl: Duration,
    given: Recent<Digest, (Credentials, Moment)>,
}

impl Logins {
    /// Nothing was given; a registry's word counts for `ttl`.
    pub(super) fn new(ttl: Duration) -> Self {
        Self { ttl, given: Recent::new(MAX_LOGINS) }
    }

    /// A layer is given to a client that may read it with these credentials.
    pub(super) fn given(&mut self, diff_id: Digest, credentials: Credentials, now: Moment) {
        self.given.insert(diff_id, (credentials, now), 1);
    }

    /// The credentials that a layer was given with last.
    pub(super) fn last(&mut self, diff_id: &Digest) -> Option<Credentials> {
        self.given.get(diff_id).map(|(credentials, _)| credentials.clone())
    }

    /// True if the layer was given with these credentials within the time for which they count.
    pub(super) fn are_good(&mut self, diff_id: &Digest, credentials: &Credentials, now: Moment) -> bool {
        self.given.get(diff_id).is_some_and(|(given, at)| given == credentials && now.since(*at) < self.ttl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_open_what_was_given_with_them_for_a_time_and_are_remembered_longer() {
        let at = |seconds| Moment::ZERO + Duration::from_secs(seconds);
        let login = |name: &str| Credentials { headers: vec![("authorization".into(), name.into())] };
        let layer = Digest::sha256(b"layer");
        let mut logins = Logins::new(Duration::from_secs(300));
        assert!(!logins.are_good(&layer, &login("alice"), at(0)) && logins.last(&layer).is_none());
        logins.given(layer, login("alice"), at(0));
        assert!(logins.are_good(&layer, &login("alice"), at(299)) && !logins.are_good(&layer, &login("bob"), at(1)));
        assert!(!logins.are_good(&layer, &login("alice"), at(300)), "her registry is asked again");
        assert_eq!(logins.last(&layer), Some(login("alice")));
        logins.given(layer, login("alice"), at(301));
        assert!(logins.are_good(&layer, &login("alice"), at(600)));
    }
}
