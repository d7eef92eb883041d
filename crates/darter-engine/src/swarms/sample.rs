//! Samples: with some of its bytes, an origin shows that it serves a caller the very content that another caller's credentials
//! fetched.
//!
//! An origin's headers do not prove what it serves: some answer HEAD for everybody, or with an entity tag that never changes, and answer a GET with a
//! login page, or 403. So before content that other credentials fetched is given to a caller, the caller's own GET has
//! to return some bytes of it: at an offset that nobody can predict if the origin serves ranges, else at the
//! beginning.
//!
//! A sample says nothing about the other bytes; the origin's entity tag has to distinguish those.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use darter_core::{BlobId, ByteRange, Clock, Source, in_full};
use darter_origin::{Body, OriginError};
use futures_util::StreamExt as _;
use futures_util::stream;

use super::Swarms;
use super::access::{Caller, Own};
use crate::error::FetchError;
use crate::part::Part;
use crate::transfer::stream::Giving;

/// How many bytes are compared.
pub(super) const SAMPLE: u64 = 1024;
/// How long the origin, or reading the known bytes, may take.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(10);

impl Swarms {
    /// True if the caller's own GET returns the bytes of a known blob, and `shows_same` accepts its headers.
    pub(super) async fn gives_sample(
        &self,
        source: &Source,
        caller: Caller<'_>,
        blob: BlobId,
        shows_same: impl Fn(&Own<'_>) -> bool,
    ) -> bool {
        let compared: Result<Result<bool, FetchError>, _> = tokio::time::timeout(SAMPLE_TIMEOUT, async {
            let range = self.place_of_sample(blob).await?;
            let origin = self.house.context.origins.once(caller.requester);
            let credentials = caller.credentials;
            let mut reading = origin.read(source, credentials, range, None).await?;
            let own = Own { source, credentials, version: &reading.version, shown: reading.shown };
            let begins = range.is_none_or(|range| reading.start == range.start() || reading.start == 0);
            if !begins || !shows_same(&own) {
                return Ok(false);
            }
            let start = reading.start;
            let taken = take(&mut reading.body).await?;
            self.has_at(blob, start, &taken, reading.length).await
        })
        .await;
        let same = match compared {
            Ok(Ok(same)) => same,
            Ok(Err(error)) => {
                tracing::debug!(%source, error = %in_full(&error), "the origin gives this caller no sample");
                false
            }
            Err(_) => false,
        };
        if !same {
            tracing::debug!(%source, "this is not the content that other credentials fetched, or is not shown to be");
        }
        same
    }

    /// True if a body begins like a known blob. The bytes stay in the body.
    pub(super) async fn begins_alike(&self, blob: BlobId, body: &mut Body, length: Option<u64>) -> bool {
        // If the body fails, its reader gets the error.
        let taken = match take(body).await {
            Ok(taken) => taken,
            Err(error) => {
                *body = stream::once(async { Err(error) }).boxed();
                return false;
            }
        };
        let rest = std::mem::replace(body, stream::empty().boxed());
        *body = stream::iter([Ok(taken.clone().into())]).chain(rest).boxed();
        let compared = tokio::time::timeout(SAMPLE_TIMEOUT, self.has_at(blob, 0, &taken, length));
        matches!(compared.await, Ok(Ok(true)))
    }
}

impl Swarms {
    /// The range for a sample of a known blob; `None` for the whole of an empty one.
    async fn place_of_sample(&self, blob: BlobId) -> Result<Option<ByteRange>, FetchError> {
        let live = self.get(blob).filter(|transfer| !transfer.is_over());
        let stored = match live {
            Some(transfer) => Some(Arc::clone(&transfer.stored)),
            None => self.stored(blob).await?,
        };
        let Some(stored) = stored else { return Ok(Some(ByteRange::new(0, SAMPLE))) };
        let end = stored.length().unwrap_or(u64::MAX);
        if end == 0 {
            return Ok(None);
        }
        let held: Vec<_> = stored.held().iter().collect();
        let drawn = fresh_nonce(&*self.house.context.clock) as usize;
        // A blob that is being fetched is compared at its beginning.
        let Some(piece) = held.get(drawn % held.len().max(1)) else {
            return Ok(Some(ByteRange::new(0, SAMPLE.min(end))));
        };
        let piece = stored.manifest().piece_length().range(*piece, end);
        let places = piece.len().saturating_sub(SAMPLE) + 1;
        let start = piece.start() + fresh_nonce(&*self.house.context.clock) % places;
        Ok(Some(ByteRange::new(start, piece.end().min(start + SAMPLE))))
    }

    /// True if a known blob has these bytes at `start`, and this length if both are known. If these are fewer bytes than a sample, they have to be the
    /// blob's last ones.
    async fn has_at(&self, blob: BlobId, start: u64, taken: &[u8], length: Option<u64>) -> Result<bool, FetchError> {
        let taken = &taken[..taken.len().min(SAMPLE as usize)];
        let range = ByteRange::new(start, start + taken.len() as u64);
        let live = self.get(blob).filter(|transfer| !transfer.is_over());
        let stored = match &live {
            Some(transfer) => Some(Arc::clone(&transfer.stored)),
            None => self.stored(blob).await?,
        };
        let Some(stored) = stored else { return Ok(false) };
        let mut known = Vec::new();
        match live {
            Some(transfer) if !range.is_empty() => {
                let mut parts = pin!(transfer.read_on(Some(range), Giving::default()));
                while let Some(part) = parts.next().await {
                    if let Part::Bytes(bytes) = part? {
                        known.extend_from_slice(&bytes);
                    }
                }
            }
            _ => {
                let (stored, wanted) = (Arc::clone(&stored), taken.len());
                let read = self.house.context.disk.run(move || {
                    let mut bytes = vec![0; wanted];
                    stored.read_at(start, &mut bytes).map(|()| bytes)
                });
                known = read.await?;
            }
        }
        let whole = stored.length();
        let is_as_long = whole.zip(length).is_none_or(|(known, told)| known == told);
        let is_all_there_is = range.len() == SAMPLE || whole == Some(range.end());
        Ok(is_as_long && is_all_there_is && known == taken)
    }
}

/// The first bytes of a body: a sample, or everything if it is shorter; possibly more, up to the end of a chunk.
async fn take(body: &mut Body) -> Result<Vec<u8>, OriginError> {
    let mut taken = Vec::new();
    while (taken.len() as u64) < SAMPLE
        && let Some(chunk) = body.next().await
    {
        taken.extend_from_slice(&chunk?);
    }
    Ok(taken)
}

/// A number that identifies one reading of an origin without validators.
pub(super) fn fresh_nonce(clock: &dyn Clock) -> u64 {
    let mut bytes = [0; 8];
    // Shortly after the host has started, random numbers may not be available; the time then distinguishes readings.
    match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(8) => u64::from_le_bytes(bytes),
        _ => clock.unix(),
    }
}
