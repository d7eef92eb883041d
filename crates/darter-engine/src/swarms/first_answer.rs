//! The first request to an origin for a blob. What it requests depends on what is wanted:
//!
//! - only ranges of the blob: a few bytes, since the headers of the answer describe the whole;
//! - the whole, which several connections may read: the first stretch of it;
//! - either of these from an origin that serves no ranges: the whole.
//!
//! Origins refuse ranges in many ways ([`RangeSupport`]): with a status that says so, with 5xx, or by not answering. An origin that fails for the whole, too, is
//! retried as for any other request, and no second request is sent during a pause that it asked for.

use std::pin::pin;
use std::time::Duration;

use darter_core::source::Credentials;
use darter_core::{Blamed as _, ByteRange, Source, Version};
use darter_origin::{Origin, OriginError, Reading};
use darter_swarm::FIRST_STRETCH;
use futures_util::future::{Either, select};

use super::sample::SAMPLE;
use crate::transfer::parts::RangeSupport;

/// How long to wait for an answer to the range before the whole is requested, too. An engine that waits for a range gives up after ten seconds or more.
const PART_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests a range, and the whole if the range is refused. `once` asks one time, `origin` with the caller's patience.
pub(super) async fn first_answer(
    origin: &dyn Origin,
    once: &dyn Origin,
    source: &Source,
    credentials: &Credentials,
) -> Result<Reading, OriginError> {
    let part = || once.read(source, credentials, Some(ByteRange::new(0, SAMPLE)), None);
    let whole = || once.read(source, credentials, None, None);
    let error = match part_or_whole(part, whole).await {
        // Without the length, no other range can be requested.
        Ok(reading) if reading.is_part && reading.length.is_none() => return whole().await,
        Ok(reading) => return Ok(reading),
        Err(error) => error,
    };
    if error.may_be_of_part() {
        return whole().await;
    }
    if !error.blame().retry.is_later() {
        return Err(error);
    }
    if !error.is_unconnected() && error.retry_after().is_none() {
        let mut parts = RangeSupport::Doubted;
        if let Ok(reading) = parts.open(part, whole).await {
            return Ok(reading);
        }
    }
    origin.read(source, credentials, Some(ByteRange::new(0, SAMPLE)), None).await
}

/// Whether an answer shows that its origin refuses stretches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stretch {
    /// It does not: the answer is a stretch, or everything was requested.
    Any,
    /// The origin was asked for a stretch, and serves only the whole.
    Refused,
}

/// Requests the first stretch of a source of which everything is wanted. Requests the whole if that is refused, or if nothing would show that later stretches
/// are of the same version. `once` asks one time, `origin` with the caller's patience.
pub(super) async fn first_stretch(
    origin: &dyn Origin,
    once: &dyn Origin,
    source: &Source,
    credentials: &Credentials,
) -> Result<(Reading, Stretch), OriginError> {
    let part = || once.read(source, credentials, Some(ByteRange::new(0, FIRST_STRETCH)), None);
    let whole = || once.read(source, credentials, None, None);
    let patient = || origin.read(source, credentials, None, None);
    let first = match part_or_whole(part, whole).await {
        Err(error) if error.may_be_of_part() => return Ok((patient().await?, Stretch::Refused)),
        Err(error) if !error.blame().retry.is_later() => return Err(error),
        // Such an error says nothing about ranges, and the origin is not asked again at once.
        Err(error) if error.is_unconnected() || error.retry_after().is_some() => None,
        Err(_) => RangeSupport::Doubted.open(part, whole).await.ok(),
        Ok(reading) => Some(reading),
    };
    match first {
        Some(reading) if reading.is_part && !goes_on(source, &reading) => Ok((patient().await?, Stretch::Any)),
        Some(reading) => {
            let stretch = if reading.is_part { Stretch::Any } else { Stretch::Refused };
            Ok((reading, stretch))
        }
        // The origin may serve the whole although it keeps failing for ranges.
        None => Ok((patient().await?, Stretch::Any)),
    }
}

/// True if the rest can be read with other requests.
fn goes_on(source: &Source, reading: &Reading) -> bool {
    let Version { etag, last_modified, .. } = &reading.version;
    let is_strong = etag.as_deref().is_some_and(|etag| !etag.starts_with("W/"));
    reading.length.is_some() && (source.digest().is_some() || is_strong || last_modified.is_some())
}

/// The first answer of the two, if the answer to the range takes long.
async fn part_or_whole<P, W>(part: impl Fn() -> P, whole: impl Fn() -> W) -> Result<Reading, OriginError>
where
    P: Future<Output = Result<Reading, OriginError>>,
    W: Future<Output = Result<Reading, OriginError>>,
{
    let mut part = pin!(part());
    if let Ok(answered) = tokio::time::timeout(PART_ANSWER_TIMEOUT, &mut part).await {
        return answered;
    }
    match select(part, pin!(whole())).await {
        Either::Left((answered, _)) => answered,
        Either::Right((Ok(whole), _)) => Ok(whole),
        Either::Right((Err(_), part)) => part.await,
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use darter_origin::{ErrorKind, Stat};
    use futures_util::{StreamExt as _, stream};
    use parking_lot::Mutex;

    use super::*;

    /// How a request is answered.
    #[derive(Clone, Copy)]
    enum Says {
        Gives,
        /// The same, without anything that identifies the version.
        GivesAny,
        Fails(u16),
        Nothing,
    }

    /// An origin that answers requests for ranges in one way and those for the whole in another; and the requests that it got.
    struct ScriptedOrigin {
        part: Says,
        whole: Says,
        asked: Mutex<String>,
    }

    #[async_trait]
    impl Origin for ScriptedOrigin {
        async fn stat(&self, _: &Source, _: &Credentials, _: Option<&Version>) -> Result<Stat, OriginError> {
            Err(OriginError::new(ErrorKind::NotFound, "nobody asks"))
        }

        async fn read(
            &self,
            _: &Source,
            _: &Credentials,
            range: Option<ByteRange>,
            _: Option<&Version>,
        ) -> Result<Reading, OriginError> {
            let is_part = range.is_some();
            self.asked.lock().push(if is_part { 'p' } else { 'w' });
            let etag = match if is_part { self.part } else { self.whole } {
                Says::Gives => Some("\"1\"".to_owned()),
                Says::GivesAny => None,
                Says::Fails(status) => return Err(OriginError::new(ErrorKind::Status(status), "failed")),
                Says::Nothing => std::future::pending().await,
            };
            let (version, shown) = (Version { etag, ..Version::default() }, Default::default());
            let length = Some(FIRST_STRETCH * 4);
            Ok(Reading { version, shown, start: 0, is_part, length, witness: None, body: stream::empty().boxed() })
        }
    }

    /// True if a range was served, whether stretches were refused, and the requests that were made.
    async fn answered(part: Says, whole: Says) -> (Option<(bool, Stretch)>, String) {
        let told = ScriptedOrigin { part, whole, asked: Mutex::default() };
        let source = Source::from_url("https://lab.example/file".parse().unwrap(), &[], None).0;
        let answer = first_stretch(&told, &told, &source, &Credentials::none()).await;
        let answer = answer.ok().map(|(reading, stretch)| (reading.is_part, stretch));
        (answer, told.asked.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn where_stretches_are_refused_in_any_way_the_whole_is_read() {
        use Says::{Fails, Gives, Nothing};
        assert_eq!(answered(Gives, Gives).await, (Some((true, Stretch::Any)), "p".into()));
        assert_eq!(answered(Fails(400), Gives).await, (Some((false, Stretch::Refused)), "pw".into()));
        assert_eq!(answered(Fails(500), Gives).await, (Some((false, Stretch::Refused)), "pwp".into()));
        assert_eq!(answered(Nothing, Gives).await, (Some((false, Stretch::Refused)), "pw".into()));
        assert_eq!(answered(Fails(500), Fails(500)).await.0, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_gives_stretches_is_not_said_to_refuse_them_where_all_is_asked_for() {
        let answer = answered(Says::GivesAny, Says::GivesAny).await;
        assert_eq!(answer, (Some((false, Stretch::Any)), "pw".into()));
    }
}
