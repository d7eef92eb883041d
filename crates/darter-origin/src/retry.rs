//! Retries: exponential backoff with jitter and a maximum pause, within a time limit, and with respect for the origin's `Retry-After`.
//!
//! Only errors that may be temporary are retried. If an origin asks for a longer pause than there is time left, the error is returned at once.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use darter_core::{Blamed as _, in_full};
use tokio::time::Instant;

use crate::error::{ErrorKind, OriginError};

/// For how long a host name that does not exist is retried. If a name server fails, that is another error, which is retried for the whole patience.
const UNKNOWN_NAME_TIMEOUT: Duration = Duration::from_secs(5);
/// A failure that lasts longer than this is logged, since somebody may be waiting.
const QUIET: Duration = Duration::from_secs(2);
/// The maximum time that is added to a pause that an origin asks for, so that not all agents of a fleet come back at the same moment.
const MAX_ADDED: Duration = Duration::from_secs(1);

/// For how long and how often to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// For how long after the first attempt (or the last progress) there are further attempts. There is always one attempt.
    pub patience: Duration,
    /// The maximum pause before the second attempt; it doubles with each further attempt.
    pub first_pause: Duration,
    /// The maximum of all pauses, unless the origin asks for a longer one.
    pub max_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::patient(Duration::from_secs(120))
    }
}

impl RetryPolicy {
    /// Retries for this long.
    pub const fn patient(patience: Duration) -> Self {
        Self { patience, first_pause: Duration::from_millis(200), max_pause: Duration::from_secs(10) }
    }

    /// No retries.
    pub const fn never() -> Self {
        Self { patience: Duration::ZERO, first_pause: Duration::ZERO, max_pause: Duration::ZERO }
    }

    /// How long to wait after attempt number `made` (from 1) failed with `error`, `spent` after the first attempt (or the
    /// last progress) began; `None` to give up.
    pub fn pause(&self, made: u32, spent: Duration, error: &OriginError) -> Option<Duration> {
        let is_unknown_name = *error.kind() == ErrorKind::UnknownName;
        if !is_unknown_name && !error.blame().retry.is_later() {
            return None;
        }
        let patience = if is_unknown_name { self.patience.min(UNKNOWN_NAME_TIMEOUT) } else { self.patience };
        let left = patience.checked_sub(spent).filter(|left| !left.is_zero())?;
        let doubled = self.first_pause.saturating_mul(1 << made.saturating_sub(1).min(16));
        let max = doubled.min(self.max_pause);
        // Half fixed, half random: a fleet that failed together does not come back together.
        let pause = max / 2 + (max / 2).mul_f64(random_fraction());
        match error.retry_after() {
            Some(asked) if asked > left => None,
            // An origin that asks for no time at all gets some.
            Some(asked) => Some(pause.max(asked + (asked / 10).min(MAX_ADDED).mul_f64(random_fraction()))),
            None => Some(pause.min(left)),
        }
    }
}

/// Runs `attempt` until it succeeds, fails for good, or the policy gives up.
///
/// # Errors
/// Those of the last attempt.
pub async fn retry<T, F>(policy: RetryPolicy, attempt: impl FnMut() -> F) -> Result<T, OriginError>
where
    F: Future<Output = Result<T, OriginError>>,
{
    retry_noting(policy, attempt, |_, _| ()).await
}

/// Runs `attempt` as [`retry`] does. `note` is called before each pause, and its result is dropped after the pause.
pub(crate) async fn retry_noting<T, F, N>(
    policy: RetryPolicy,
    mut attempt: impl FnMut() -> F,
    note: impl Fn(&OriginError, Duration) -> N,
) -> Result<T, OriginError>
where
    F: Future<Output = Result<T, OriginError>>,
{
    let (started, mut made, mut told) = (Instant::now(), 0, false);
    loop {
        made += 1;
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let spent = started.elapsed();
        let Some(pause) = policy.pause(made, spent, &error) else { return Err(error) };
        if spent + pause > QUIET && !std::mem::replace(&mut told, true) {
            let until = policy.patience.as_secs();
            let error = in_full(&error);
            tracing::warn!(%error, "an origin fails; trying again for up to {until} s (--origin-patience)");
        }
        tracing::debug!(error = %in_full(&error), made, ?pause, "an origin fails; trying again");
        let _noted = note(&error, pause);
        tokio::time::sleep(pause).await;
    }
}

/// A random number, from the random keys of the standard library's hash maps. Not for secrets.
pub(crate) fn random_u64() -> u64 {
    RandomState::new().hash_one(())
}

/// A random number in 0..1, uniformly distributed.
fn random_fraction() -> f64 {
    (random_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn failed(kind: ErrorKind) -> OriginError {
        OriginError::new(kind, "failed")
    }

    fn limited(seconds: u32) -> OriginError {
        failed(ErrorKind::RateLimited { retry_after: Some(SECOND * seconds) })
    }

    /// How long it was tried, how often, and what came of it.
    async fn tried(patience: Duration, fails: impl Fn(u32) -> Option<OriginError>) -> (Duration, u32, bool) {
        let (begin, made) = (Instant::now(), Cell::new(0));
        let result = retry(RetryPolicy::patient(patience), async || {
            made.set(made.get() + 1);
            fails(made.get()).map_or(Ok(()), Err)
        });
        let worked = result.await.is_ok();
        (begin.elapsed(), made.get(), worked)
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_is_waited_for_as_long_as_it_asks_within_the_patience() {
        for error in [|| limited(30), || failed(ErrorKind::Status(503)).asking_to_wait(Some(SECOND * 30))] {
            let (time, made, worked) = tried(SECOND * 120, |made| (made <= 2).then(error)).await;
            assert!(worked && made == 3 && time >= SECOND * 60 && time < SECOND * 63, "{time:?}");
        }
        for too_long in [121, u32::MAX] {
            let (time, made, worked) = tried(SECOND * 120, |_| Some(limited(too_long))).await;
            assert!(!worked && made == 1 && time.is_zero());
        }
        let for_ever = || failed(ErrorKind::RateLimited { retry_after: Some(Duration::MAX) });
        assert_eq!(tried(SECOND * 120, |_| Some(for_ever())).await.1, 1);
        let (_, made, _) = tried(SECOND * 120, |_| Some(limited(0))).await;
        assert!(made < 40, "{made} requests to an origin that asks for no pause");
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_until_the_patience_ends_and_seldom() {
        for kind in [ErrorKind::Unreachable, ErrorKind::Status(502), ErrorKind::Truncated] {
            let (time, made, worked) = tried(SECOND * 120, |_| Some(failed(kind.clone()))).await;
            assert!(!worked && time >= SECOND * 120 && time < SECOND * 121, "{time:?}");
            assert!((12..40).contains(&made), "{made}");
            let back_after_eight = async || {
                let begin = Instant::now();
                tried(SECOND * 120, |_| (begin.elapsed() < SECOND * 8).then(|| failed(kind.clone()))).await
            };
            let (time, _, worked) = back_after_eight().await;
            assert!(worked && time < SECOND * 20, "{time:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_not_pass_ends_it_at_once_and_an_unknown_name_soon() {
        assert_eq!(tried(SECOND * 120, |_| Some(failed(ErrorKind::NotFound))).await, (Duration::ZERO, 1, false));
        assert_eq!(tried(Duration::ZERO, |_| Some(failed(ErrorKind::Timeout))).await, (Duration::ZERO, 1, false));
        let (time, ..) = tried(SECOND * 120, |_| Some(failed(ErrorKind::UnknownName))).await;
        assert!(time < SECOND * 6, "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_took_the_whole_patience_was_the_only_one() {
        let begin = Instant::now();
        let made = Cell::new(0);
        let result: Result<(), _> = retry(RetryPolicy::patient(SECOND * 120), async || {
            made.set(made.get() + 1);
            tokio::time::sleep(SECOND * 120).await;
            Err(failed(ErrorKind::Timeout))
        })
        .await;
        assert_eq!((result.is_err(), made.get(), begin.elapsed()), (true, 1, SECOND * 120));
    }
}
