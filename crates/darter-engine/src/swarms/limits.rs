//! Origins that limit requests (429): for a while, equal requests get the same answer, and the origin
//! is not asked again.
//!
//! Pure: time is an argument. Kept by credentials, since a limit may apply to one caller.

use std::time::Duration;

use darter_core::recent::Recent;
use darter_core::source::Credentials;
use darter_core::{BlobId, Moment, Source};
use darter_origin::ErrorKind;
use parking_lot::Mutex;

use crate::error::FetchError;

/// How long, if the origin does not say.
const DEFAULT_PAUSE: Duration = Duration::from_secs(2);
/// The longest `Retry-After` that is applied to other requests.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How many sources are remembered.
const MAX_LIMITS: u64 = 1024;

/// A source, and a fingerprint of the credentials.
type Key = (BlobId, [u8; 32]);

/// Recent limits.
pub(super) struct Limits(Mutex<Recent<Key, (FetchError, Moment)>>);

impl Default for Limits {
    fn default() -> Self {
        Self(Mutex::new(Recent::new(MAX_LIMITS)))
    }
}

impl Limits {
    /// Notes a failed read of a source, if it failed because of a limit.
    pub(super) fn note(&self, source: &Source, credentials: &Credentials, error: &FetchError, now: Moment) {
        let FetchError::Origin(failure) = error else { return };
        let ErrorKind::RateLimited { retry_after } = failure.kind else { return };
        let until = now + retry_after.unwrap_or(DEFAULT_PAUSE).min(MAX_PAUSE);
        self.0.lock().insert(key_of(source, credentials), (error.clone(), until), 1);
    }

    /// The answer for these credentials while the origin is not asked.
    pub(super) fn of(&self, source: &Source, credentials: &Credentials, now: Moment) -> Option<FetchError> {
        let mut limits = self.0.lock();
        let (error, until) = limits.get(&key_of(source, credentials))?;
        (now < *until).then(|| error.clone())
    }
}

/// A key for the source including its registry: one registry's limit does not apply to another, even for the same digest.
fn key_of(source: &Source, credentials: &Credentials) -> Key {
    (source.record_key(&Credentials::none()), credentials.fingerprint())
}

#[cfg(test)]
mod tests {
    use darter_origin::OriginFailure;

    use super::*;

    fn limited(retry_after: Option<Duration>) -> FetchError {
        let kind = ErrorKind::RateLimited { retry_after };
        FetchError::Origin(OriginFailure::new(kind, "slow down"))
    }

    #[test]
    fn a_limit_holds_for_those_who_ask_alike_as_long_as_the_origin_said() {
        let (source, _) = Source::from_url("https://lab.example/file".parse().unwrap(), &[], None);
        let alice = Credentials { headers: vec![("authorization".into(), "Bearer alice".into())] };
        let (limits, nobody) = (Limits::default(), Credentials::none());
        let at = |seconds| Moment::ZERO + Duration::from_secs(seconds);
        limits.note(&source, &nobody, &limited(Some(Duration::from_secs(7))), at(0));
        assert!(limits.of(&source, &nobody, at(6)).is_some());
        assert!(limits.of(&source, &nobody, at(7)).is_none());
        assert!(limits.of(&source, &alice, at(0)).is_none());
        let registry = |host: &str| Source::Registry {
            registry: format!("https://{host}/").parse().unwrap(),
            repository: "app".into(),
            digest: darter_core::Digest::sha256(b"layer"),
        };
        limits.note(&registry("stranger.example"), &nobody, &limited(None), at(0));
        assert!(limits.of(&registry("lab.example"), &nobody, at(0)).is_none(), "a stranger's limit is its own");
        limits.note(&source, &alice, &limited(Some(Duration::from_secs(86_400))), at(0));
        assert!(limits.of(&source, &alice, at(60)).is_none());
        limits.note(&source, &nobody, &FetchError::Draining, at(10));
        assert!(limits.of(&source, &nobody, at(10)).is_none());
    }
}
