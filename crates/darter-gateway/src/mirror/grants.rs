//! Grants of access: no caller gets bytes that their own credentials could not fetch.
//!
//! Cached content goes to a caller if two things are known, both from the upstream itself:
//!
//! 1. *acceptance*: the upstream served something of the repository to exactly these credentials (a manifest, a tag list,
//!    a blob's headers) at most `ttl` ago. Registries authorise by repository, so access to one thing in it means
//!    access to everything in it;
//! 2. *membership*: the content belongs to that repository, because a manifest that the upstream served for the repository names it,
//!    or because the upstream was asked for it there. Digests are immutable, so this does not expire.
//!
//! If either is unknown, the mirror asks the upstream with the caller's credentials. So an ordinary pull costs the
//! upstream one conditional manifest request and nothing for its blobs.
//!
//! A caller without credentials is one more caller: the one whose credentials are empty. To the upstream, it is represented by
//! the login that the agent's owner configured for that registry, or by an anonymous token; so a configured login
//! opens what it can read to every program that reaches the local port. It is never used for a caller with credentials.
//!
//! Limit: a registry's answer counts for its own repositories. If a registry claims to hold content that it never had, callers who
//! know the content's digest get it, as from the content stores of the engines themselves. The same holds for
//! a registry that answers HEAD, digest included, to callers to whom it refuses GET.
//!
//! Pure: time is an argument. Both tables are bounded; for what is forgotten the upstream is asked again.

use std::sync::Arc;
use std::time::Duration;

use darter_core::recent::Recent;
use darter_core::{Digest, Moment};

/// Entries of each table. An entry is a few hundred bytes at most.
const CAPACITY: u64 = 10_000;

/// How long a pull that has begun may go on while its upstream does not answer.
const GIVEN_FOR: Duration = Duration::from_secs(3600);

/// A repository of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    upstream: Arc<str>,
    repository: Arc<str>,
}

/// [`Credentials::fingerprint`](darter_core::source::Credentials::fingerprint) of a caller.
pub(crate) type Fingerprint = [u8; 32];

/// What is known of a blob that a manifest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NamedBlob {
    /// Length in bytes, if the manifest or the upstream says.
    pub(crate) size: Option<u64>,
}

/// What upstreams said about callers and content.
#[derive(Debug)]
pub(crate) struct Grants {
    ttl: Duration,
    accepted: Recent<(Scope, Fingerprint), Moment>,
    members: Recent<(Scope, Digest), NamedBlob>,
    /// Blobs of which callers got at least a part.
    given: Recent<(Scope, Fingerprint, Digest), (Moment, NamedBlob)>,
}

impl Scope {
    /// The repository `repository` of the upstream of this name.
    pub(crate) fn new(upstream: &str, repository: &str) -> Self {
        Self { upstream: upstream.into(), repository: repository.into() }
    }
}

impl Grants {
    /// Empty tables; an acceptance counts for `ttl`.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { ttl, accepted: Recent::new(CAPACITY), members: Recent::new(CAPACITY), given: Recent::new(CAPACITY) }
    }

    /// The upstream just served something of the repository to this caller.
    pub(crate) fn accept(&mut self, scope: &Scope, caller: Fingerprint, now: Moment) {
        self.accepted.insert((scope.clone(), caller), now, 1);
    }

    /// The upstream just refused this caller.
    pub(crate) fn refuse(&mut self, scope: &Scope, caller: Fingerprint) {
        self.accepted.remove(&(scope.clone(), caller));
    }

    /// Notes that the content belongs to the repository.
    pub(crate) fn belongs(&mut self, scope: &Scope, digest: Digest, member: NamedBlob) {
        self.members.insert((scope.clone(), digest), member, 1);
    }

    /// Notes that the caller just got at least a part of the blob.
    pub(crate) fn give(&mut self, scope: &Scope, caller: Fingerprint, digest: Digest, member: NamedBlob, now: Moment) {
        self.given.insert((scope.clone(), caller, digest), (now, member), 1);
    }

    /// What is known of the blob, if the caller got a part of it in the last hour and the upstream has not refused the
    /// caller since. With this, a pull that has begun goes on while the upstream does not answer.
    pub(crate) fn was_given(
        &mut self,
        scope: &Scope,
        caller: Fingerprint,
        digest: Digest,
        now: Moment,
    ) -> Option<NamedBlob> {
        self.accepted.get(&(scope.clone(), caller))?;
        let (at, member) = *self.given.get(&(scope.clone(), caller, digest))?;
        (now - at < GIVEN_FOR).then_some(member)
    }

    /// Notes that the upstream just said that the repository has no such content.
    pub(crate) fn is_gone(&mut self, scope: &Scope, digest: Digest) {
        self.members.remove(&(scope.clone(), digest));
    }

    /// What is known of the blob, if the caller may read it without asking the upstream.
    pub(crate) fn look_up(
        &mut self,
        scope: &Scope,
        caller: Fingerprint,
        digest: Digest,
        now: Moment,
    ) -> Option<NamedBlob> {
        let accepted = *self.accepted.get(&(scope.clone(), caller))?;
        if now - accepted >= self.ttl {
            return None;
        }
        self.members.get(&(scope.clone(), digest)).copied()
    }
}

#[cfg(test)]
mod tests {
    use darter_core::source::Credentials;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const SIZED: NamedBlob = NamedBlob { size: Some(7) };

    fn at(minutes: u32) -> Moment {
        Moment::ZERO + MINUTE * minutes
    }

    fn caller(token: &str) -> Fingerprint {
        Credentials { headers: vec![("authorization".into(), token.into())] }.fingerprint()
    }

    struct World {
        grants: Grants,
        app: Scope,
        layer: Digest,
        alice: Fingerprint,
    }

    /// Alice was accepted for `lab/app` at minute 0; the layer belongs to it.
    fn world() -> World {
        let mut grants = Grants::new(MINUTE * 5);
        let (app, layer, alice) = (Scope::new("lab", "app"), Digest::sha256(b"layer"), caller("alice"));
        grants.accept(&app, alice, at(0));
        grants.belongs(&app, layer, SIZED);
        World { grants, app, layer, alice }
    }

    #[test]
    fn an_accepted_caller_reads_what_belongs_to_the_repository() {
        let World { mut grants, app, layer, alice } = world();
        assert_eq!(grants.look_up(&app, alice, layer, at(4)), Some(SIZED));
    }

    #[test]
    fn a_grant_ends_with_its_time_and_starts_anew_with_a_new_acceptance() {
        let World { mut grants, app, layer, alice } = world();
        assert_eq!(grants.look_up(&app, alice, layer, at(5)), None);
        grants.accept(&app, alice, at(6));
        assert_eq!(grants.look_up(&app, alice, layer, at(10)), Some(SIZED));
    }

    #[test]
    fn one_callers_grant_is_nobody_elses() {
        let World { mut grants, app, layer, .. } = world();
        assert_eq!(grants.look_up(&app, caller("bob"), layer, at(1)), None);
        assert_eq!(grants.look_up(&app, Credentials::none().fingerprint(), layer, at(1)), None);
    }

    #[test]
    fn a_grant_for_one_repository_or_upstream_is_none_for_another() {
        let World { mut grants, layer, alice, .. } = world();
        assert_eq!(grants.look_up(&Scope::new("lab", "other"), alice, layer, at(1)), None);
        assert_eq!(grants.look_up(&Scope::new("elsewhere", "app"), alice, layer, at(1)), None);
    }

    #[test]
    fn an_accepted_caller_does_not_read_what_only_another_repository_has() {
        let World { mut grants, app, alice, .. } = world();
        let secret = Digest::sha256(b"secret");
        grants.belongs(&Scope::new("lab", "vault"), secret, SIZED);
        assert_eq!(grants.look_up(&app, alice, secret, at(1)), None);
    }

    #[test]
    fn a_refusal_and_a_removal_take_effect_at_once() {
        let World { mut grants, app, layer, alice } = world();
        grants.is_gone(&app, layer);
        assert_eq!(grants.look_up(&app, alice, layer, at(1)), None);
        grants.belongs(&app, layer, SIZED);
        grants.refuse(&app, alice);
        assert_eq!(grants.look_up(&app, alice, layer, at(1)), None);
    }

    #[test]
    fn a_pull_that_has_begun_goes_on_for_an_hour_unless_its_caller_is_refused() {
        let World { mut grants, app, layer, alice } = world();
        assert_eq!(grants.was_given(&app, alice, layer, at(1)), None);
        grants.give(&app, alice, layer, SIZED, at(1));
        assert_eq!(grants.look_up(&app, alice, layer, at(50)), None);
        assert_eq!(grants.was_given(&app, alice, layer, at(50)), Some(SIZED));
        assert_eq!(grants.was_given(&app, caller("bob"), layer, at(50)), None);
        assert_eq!(grants.was_given(&app, alice, layer, at(61)), None);
        grants.refuse(&app, alice);
        assert_eq!(grants.was_given(&app, alice, layer, at(2)), None);
    }

    #[test]
    fn the_tables_are_bounded_and_what_is_used_stays() {
        let World { mut grants, app, layer, alice } = world();
        for n in 0..CAPACITY * 2 {
            grants.accept(&app, caller(&n.to_string()), at(1));
            grants.belongs(&app, Digest::sha256(&n.to_le_bytes()), SIZED);
            if n % 1000 == 0 {
                assert_eq!(grants.look_up(&app, alice, layer, at(1)), Some(SIZED));
            }
        }
        assert_eq!(grants.look_up(&app, caller("0"), layer, at(1)), None);
    }
}
