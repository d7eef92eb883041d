//! The first answer of an origin. Where only parts of its content are wanted: a few bytes, which say what there is to know of the whole. Where
//! all is, and several connections may come to read it: the first stretch, which ends by itself. Or the whole, where the origin gives that and no parts.
//!
//! Origins refuse parts in every way there is ([`RangeSupport`]): by a status that says so, by 5xx, by silence. One that fails altogether is
//! asked again as patiently as for anything else, and asks for a pause in vain for nobody.

use std::pin::pin;
use std::time::Duration;

use darter_core::source::Credentials;
use darter_core::{Blamed as _, ByteRange, Source, Version};
use darter_origin::{Origin, OriginError, Reading};
use darter_swarm::FIRST_STRETCH;
use futures_util::future::{Either, select};

use super::sample::SAMPLE;
use crate::transfer::parts::RangeSupport;

/// How long the part alone is waited for. An engine that waits for a range gives up after ten seconds or more.
const PART_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks for a part, and for the whole where the part is refused. `once` asks one time, `origin` as patiently as the caller is.
pub(super) async fn first_answer(
    origin: &dyn Origin,
    once: &dyn Origin,
    source: &Source,
    credentials: &Credentials,
) -> Result<Reading, OriginError> {
    let part = || once.read(source, credentials, Some(ByteRange::new(0, SAMPLE)), None);
    let whole = || once.read(source, credentials, None, None);
    let error = match part_or_whole(part, whole).await {
        // Without the length no other part can be had.
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

/// Asks for the first stretch of a source of which everything is wanted, and for the whole where that is refused, or what lies behind it could not
/// be told to be of the same version.
pub(super) async fn first_stretch(
    origin: &dyn Origin,
    source: &Source,
    credentials: &Credentials,
) -> Result<Reading, OriginError> {
    let whole = || origin.read(source, credentials, None, None);
    match origin.read(source, credentials, Some(ByteRange::new(0, FIRST_STRETCH)), None).await {
        Ok(reading) if reading.is_part && !goes_on(source, &reading) => whole().await,
        Err(error) if error.may_be_of_part() => whole().await,
        answer => answer,
    }
}

/// True if the rest can be had by other requests.
fn goes_on(source: &Source, reading: &Reading) -> bool {
    let Version { etag, last_modified, .. } = &reading.version;
    let is_strong = etag.as_deref().is_some_and(|etag| !etag.starts_with("W/"));
    reading.length.is_some() && (source.digest().is_some() || is_strong || last_modified.is_some())
}

/// Whichever answers first, where the part takes long.
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
