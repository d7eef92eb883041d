//! Remembers with which credentials layers were given to be mounted, as long as this process lives.
//!
//! These credentials open a layer again without asking its registry, but only for as long as the registry's answer about access counts: the owner
//! of the layer may have revoked access. Later the layer is still read with them, if the registry allows it.
//!
//! Pure: time is an argument.

use std::time::Duration;

use darter_core::recent::Recent;
use darter_core::source::Credentials;
use darter_core::{Digest, Moment};

/// For how many layers the credentials are remembered.
const MAX_LOGINS: u64 = 20_000;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Logins {
    ttl: Duration,
    given: Recent<Digest, (Credentials, Moment)>,
}

impl Logins {
    /// An empty table; a registry's answer counts for `ttl`.
    pub(super) fn new(ttl: Duration) -> Self {
        Self { ttl, given: Recent::new(MAX_LOGINS) }
    }

    /// Notes that a layer is given to a client that may read it with these credentials.
    pub(super) fn given(&mut self, diff_id: Digest, credentials: Credentials, now: Moment) {
        self.given.insert(diff_id, (credentials, now), 1);
    }

    /// The credentials with which a layer was last given.
    pub(super) fn last(&mut self, diff_id: &Digest) -> Option<Credentials> {
        self.given.get(diff_id).map(|(credentials, _)| credentials.clone())
    }

    /// True if the layer was given with these credentials, and the registry's answer still counts.
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
