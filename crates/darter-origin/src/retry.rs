//! Trying again: capped exponential backoff with jitter, a bounded number of attempts, and the origin's own
//! `Retry-After` where it gives one.
//!
//! Only what may succeed later is tried again. An origin that asks for more patience than the cap gets its wish by
//! other means: the error goes to the caller, who knows whether anyone can wait that long.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::error::OriginError;

/// How often and how fast to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; at least one is made.
    pub attempts: u32,
    /// Longest pause before the second attempt; doubles with each further one.
    pub first_pause: Duration,
    /// No pause is longer than this.
    pub longest_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 3, first_pause: Duration::from_millis(200), longest_pause: Duration::from_secs(10) }
    }
}

impl RetryPolicy {
    /// One attempt, no more.
    pub const fn never() -> Self {
        Self { attempts: 1, first_pause: Duration::ZERO, longest_pause: Duration::ZERO }
    }

    /// How long to wait after attempt number `made` (from 1) failed with `error`; `None` to give up.
    pub fn pause(&self, made: u32, error: &OriginError) -> Option<Duration> {
        if made >= self.attempts || !error.retryable() {
            return None;
        }
        if let Some(asked) = error.retry_after() {
            return (asked <= self.longest_pause).then_some(asked);
        }
        let doubled = self.first_pause.saturating_mul(1 << made.saturating_sub(1).min(16));
        let longest = doubled.min(self.longest_pause);
        // Half fixed, half random: a fleet that failed together does not come back together.
        Some(longest / 2 + (longest / 2).mul_f64(random_fraction()))
    }
}

/// Runs `attempt` until it succeeds, fails for good, or the policy gives up.
///
/// # Errors
/// The last attempt's.
pub async fn retry<T, F>(policy: RetryPolicy, mut attempt: impl FnMut() -> F) -> Result<T, OriginError>
where
    F: Future<Output = Result<T, OriginError>>,
{
    let mut made = 0;
    loop {
        made += 1;
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let Some(pause) = policy.pause(made, &error) else { return Err(error) };
        tracing::debug!(%error, made, ?pause, "origin failed, trying again");
        tokio::time::sleep(pause).await;
    }
}

/// A number nobody else drew: the standard library's per-process random keys, hashed. Not for secrets.
pub(crate) fn random_u64() -> u64 {
    RandomState::new().hash_one(())
}

/// Uniform in 0..1.
fn random_fraction() -> f64 {
    (random_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::ErrorKind;

    fn failed(kind: ErrorKind) -> OriginError {
        OriginError::new(kind, "failed")
    }

    #[tokio::test(start_paused = true)]
    async fn tries_until_it_works_and_waits_as_long_as_told() {
        let begin = tokio::time::Instant::now();
        let made = Cell::new(0);
        let result = retry(RetryPolicy::default(), async || {
            made.set(made.get() + 1);
            match made.get() {
                1 => Err(failed(ErrorKind::RateLimited { retry_after: Some(Duration::from_secs(7)) })),
                2 => Err(failed(ErrorKind::Truncated)),
                _ => Ok(made.get()),
            }
        });
        assert_eq!(result.await.unwrap(), 3);
        assert!(begin.elapsed() >= Duration::from_secs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_at_once_on_what_will_not_change_and_in_the_end_on_the_rest() {
        for (kind, attempts) in [(ErrorKind::NotFound, 1), (ErrorKind::Timeout, 3)] {
            let made = Cell::new(0);
            let result: Result<(), _> = retry(RetryPolicy::default(), async || {
                made.set(made.get() + 1);
                Err(failed(kind.clone()))
            })
            .await;
            assert_eq!(*result.unwrap_err().kind(), kind);
            assert_eq!(made.get(), attempts);
        }
    }

    #[test]
    fn pauses_grow_to_the_cap_and_long_waits_are_the_callers_decision() {
        let policy = RetryPolicy { attempts: 100, ..RetryPolicy::default() };
        let pause = |made| policy.pause(made, &failed(ErrorKind::Timeout)).unwrap();
        assert!(pause(1) <= Duration::from_millis(200));
        assert!(pause(50) >= policy.longest_pause / 2 && pause(50) <= policy.longest_pause);
        let hour = ErrorKind::RateLimited { retry_after: Some(Duration::from_secs(3600)) };
        assert_eq!(policy.pause(1, &failed(hour)), None);
    }
}
