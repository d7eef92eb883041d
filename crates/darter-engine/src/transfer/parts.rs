//! Ranges: whether an origin serves ranges of its content, or only the whole.
//!
//! Origins that serve the whole refuse ranges in many ways (any status, no answer, a broken connection, another range than the requested
//! one), and nothing that they sent before shows it. So a failed range request is no reason to give up
//! before the whole was requested: the whole is read from its first byte, and the bytes that are here are skipped.
//!
//! An origin that fails altogether must not be taken for one that refuses ranges, since reading all of a large blob again
//! costs much. If a failure may be temporary, the next request is for the whole; if that is answered, the range is requested
//! again before the whole is read. An origin that asks for a pause then may count requests: it gets the pause, and the
//! range is requested once more, without the whole.
//!
//! Decided without I/O, except for the two requests, which are passed in.

use std::time::Duration;

use darter_core::Blamed as _;
use darter_origin::{ErrorKind, OriginError, Reading};
use futures_util::future::{self, Either};

/// How long to wait for an answer to a range before the whole is requested as well.
const RANGE_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for an answer to a range after the whole has been answered already.
const SHORT_RANGE_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether an origin serves ranges, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RangeSupport {
    /// It serves ranges, as far as is known.
    Given,
    /// It failed when it was asked for a range, possibly for another reason.
    Doubted,
    /// It asked for a pause when it was asked for a range right after the whole.
    Limited,
    /// It serves only the whole.
    Refused,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Handle the failure as without ranges: try again after a pause, or give up.
    AsBefore,
    /// Request the whole at once.
    Whole,
    /// Request the whole at once, and compare it with what is here: the range may have been another one.
    Compared,
}

/// A failed read of the origin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FailedReading {
    /// True if a range was requested.
    pub(super) asked_part: bool,
    /// True if bytes arrived that were not here before.
    pub(super) moved_on: bool,
    /// True if other connections read ranges at the time: then a temporary failure is due to their number.
    pub(super) others_read: bool,
}

impl RangeSupport {
    /// Updates the state after a failure, and returns what to do.
    pub(super) fn after(&mut self, failed: FailedReading, error: &OriginError) -> Next {
        let FailedReading { asked_part, moved_on, others_read } = failed;
        if !asked_part || others_read && error.blame().retry.is_later() {
            return Next::AsBefore;
        }
        match *self {
            Self::Given if *error.kind() == ErrorKind::UnknownName => Next::AsBefore,
            Self::Given if error.blame().retry.is_later() => {
                if !moved_on && !error.is_unconnected() {
                    *self = Self::Doubted;
                }
                Next::AsBefore
            }
            Self::Given => {
                *self = Self::Refused;
                let is_other = *error.kind() == ErrorKind::Protocol && moved_on;
                if is_other { Next::Compared } else { Next::Whole }
            }
            // The whole broke off: it would be read again and again up to that byte.
            Self::Refused if error.blame().retry.is_later() => {
                *self = Self::Doubted;
                Next::AsBefore
            }
            Self::Doubted | Self::Limited | Self::Refused => Next::AsBefore,
        }
    }

    /// Requests a range, or the whole.
    pub(crate) async fn open<P, W>(
        &mut self,
        part: impl Fn() -> P,
        whole: impl Fn() -> W,
    ) -> Result<Reading, OriginError>
    where
        P: Future<Output = Result<Reading, OriginError>>,
        W: Future<Output = Result<Reading, OriginError>>,
    {
        match *self {
            Self::Refused => whole().await,
            Self::Doubted => {
                let whole = whole().await?;
                match tokio::time::timeout(SHORT_RANGE_ANSWER_TIMEOUT, part()).await {
                    Ok(Ok(part)) => {
                        *self = Self::Given;
                        Ok(part)
                    }
                    Ok(Err(error)) if error.retry_after().is_some() => {
                        *self = Self::Limited;
                        Err(error)
                    }
                    _ => {
                        *self = Self::Refused;
                        Ok(whole)
                    }
                }
            }
            Self::Limited => match tokio::time::timeout(RANGE_ANSWER_TIMEOUT, part()).await {
                Ok(Ok(part)) => {
                    *self = Self::Given;
                    Ok(part)
                }
                _ => {
                    *self = Self::Refused;
                    whole().await
                }
            },
            Self::Given => {
                let mut part = Box::pin(part());
                if let Ok(answered) = tokio::time::timeout(RANGE_ANSWER_TIMEOUT, &mut part).await {
                    return answered;
                }
                match future::select(part, Box::pin(whole())).await {
                    Either::Left((answered, _)) => answered,
                    Either::Right((Ok(whole), _)) => {
                        *self = Self::Refused;
                        Ok(whole)
                    }
                    Either::Right((Err(_), part)) => part.await,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::{StreamExt as _, stream};

    use super::*;

    const WHOLE: FailedReading = FailedReading { asked_part: false, moved_on: true, others_read: false };
    const RANGE: FailedReading = FailedReading { asked_part: true, moved_on: false, others_read: false };
    const MOVED_ON: FailedReading = FailedReading { moved_on: true, ..RANGE };
    const BESIDE_OTHERS: FailedReading = FailedReading { others_read: true, ..RANGE };

    fn failed(kind: ErrorKind) -> OriginError {
        OriginError::new(kind, "failed")
    }

    /// The answer that was opened, and the requests that were made. Each request is answered after the given number of
    /// seconds.
    async fn opened(
        parts: &mut RangeSupport,
        part: (u64, Option<ErrorKind>),
        whole: (u64, Option<ErrorKind>),
    ) -> (Result<u64, ErrorKind>, String) {
        let asked = RefCell::new(String::new());
        let answer = async |name: char, (seconds, error): (u64, Option<ErrorKind>), start| {
            asked.borrow_mut().push(name);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let body = stream::empty().boxed();
            let (version, shown) = Default::default();
            let reading = Reading { version, shown, start, is_part: start > 0, length: None, witness: None, body };
            error.map_or(Ok(reading), |kind| Err(failed(kind)))
        };
        let opened = parts.open(|| answer('p', part.clone(), 7), || answer('w', whole.clone(), 0)).await;
        let opened = opened.map(|reading| reading.start).map_err(|error| error.kind().clone());
        (opened, asked.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn a_range_that_is_refused_or_silent_is_no_end_where_the_whole_is_given() {
        let mut parts = RangeSupport::Given;
        assert_eq!(opened(&mut parts, (1, None), (1, None)).await, (Ok(7), "p".into()));
        assert_eq!(parts.after(RANGE, &failed(ErrorKind::Status(400))), Next::Whole);
        assert_eq!(opened(&mut parts, (1, None), (1, None)).await, (Ok(0), "w".into()));
        assert_eq!(parts.after(RANGE, &failed(ErrorKind::NotFound)), Next::AsBefore, "nothing is left to try");

        let mut parts = RangeSupport::Given;
        assert_eq!(opened(&mut parts, (1000, None), (1, None)).await, (Ok(0), "pw".into()));
        assert_eq!(parts, RangeSupport::Refused);
        // An origin that is slow with everything is asked once more at most.
        let mut parts = RangeSupport::Given;
        assert_eq!(opened(&mut parts, (35, None), (35, None)).await, (Ok(7), "pw".into()));
        let away = Some(ErrorKind::Unreachable);
        assert_eq!(opened(&mut parts, (35, None), (1, away)).await, (Ok(7), "pw".into()));
        assert_eq!(parts, RangeSupport::Given);
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_was_away_is_read_by_range_again() {
        let mut parts = RangeSupport::Given;
        let away = Some(ErrorKind::Status(503));
        assert_eq!(parts.after(MOVED_ON, &failed(ErrorKind::Truncated)), Next::AsBefore);
        assert_eq!(parts.after(RANGE, &failed(ErrorKind::UnknownName)), Next::AsBefore);
        assert_eq!(parts, RangeSupport::Given, "bytes came by range, and nobody was asked");
        assert_eq!(parts.after(RANGE, &failed(ErrorKind::Status(503))), Next::AsBefore);
        let asked = opened(&mut parts, (1, away.clone()), (1, away.clone())).await;
        assert_eq!(asked, (Err(ErrorKind::Status(503)), "w".into()));
        assert_eq!(parts.after(RANGE, &failed(ErrorKind::Status(503))), Next::AsBefore);
        assert_eq!(opened(&mut parts, (1, None), (1, None)).await, (Ok(7), "wp".into()));
        // But not if the range fails while the whole is served.
        for part in [(1, away), (1000, None)] {
            let mut parts = RangeSupport::Doubted;
            assert_eq!(opened(&mut parts, part, (1, None)).await, (Ok(0), "wp".into()));
            assert_eq!(parts, RangeSupport::Refused);
            assert_eq!(parts.after(MOVED_ON, &failed(ErrorKind::Truncated)), Next::AsBefore);
            assert_eq!(parts, RangeSupport::Doubted, "the rest is asked for by range once more");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_counts_requests_is_given_its_pause_and_asked_for_the_range_alone() {
        let limited = || ErrorKind::RateLimited { retry_after: Some(Duration::from_secs(1)) };
        let mut parts = RangeSupport::Given;
        assert_eq!(parts.after(RANGE, &failed(limited())), Next::AsBefore);
        let asked = opened(&mut parts, (0, Some(limited())), (0, None)).await;
        assert_eq!(asked, (Err(limited()), "wp".into()));
        assert_eq!(parts.after(RANGE, &failed(limited())), Next::AsBefore);
        assert_eq!(opened(&mut parts, (0, None), (0, None)).await, (Ok(7), "p".into()));
        assert_eq!(parts, RangeSupport::Given);
        // An origin that asks for a pause at every range request serves no ranges.
        let mut parts = RangeSupport::Limited;
        assert_eq!(opened(&mut parts, (0, Some(limited())), (0, None)).await, (Ok(0), "pw".into()));
        assert_eq!(parts, RangeSupport::Refused);
    }

    #[test]
    fn an_origin_that_bears_few_connections_gives_parts_all_the_same() {
        let mut parts = RangeSupport::Given;
        for kind in [ErrorKind::Status(503), ErrorKind::RateLimited { retry_after: None }, ErrorKind::Unreachable] {
            assert_eq!(parts.after(BESIDE_OTHERS, &failed(kind)), Next::AsBefore);
            assert_eq!(parts, RangeSupport::Given);
        }
        assert_eq!(parts.after(BESIDE_OTHERS, &failed(ErrorKind::Status(400))), Next::Whole);
    }

    #[test]
    fn what_came_of_a_part_that_was_another_one_is_compared() {
        let mut parts = RangeSupport::Given;
        assert_eq!(parts.after(WHOLE, &failed(ErrorKind::Protocol)), Next::AsBefore);
        assert_eq!(parts.after(MOVED_ON, &failed(ErrorKind::Protocol)), Next::Compared);
    }
}
