//! Samples: an origin shows by some of its bytes that it gives a caller the very content that another's credentials
//! fetched.
//!
//! An origin's headers do not prove what it gives: some answer HEAD, or an entity tag that never changes, to everybody, and a
//! login page, or 403, to a GET. So before content that other credentials opened is given to a caller, the caller's own GET has
//! to bring some bytes of it: from a place that nobody can know beforehand where the origin serves ranges, else from its
//! beginning.
//!
//! A sample proves nothing of content whose other bytes differ; that is the origin's entity tag to say.

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
use crate::transfer::stream::{Giving, Part};

/// Bytes that are compared.
pub(super) const SAMPLE: u64 = 1024;
/// How long the origin, or the bytes that are known, may take.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(10);

impl Swarms {
    /// True if the caller's own GET brings bytes of a known blob, and `shows_same` says so of its headers.
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
            tracing::debug!(%source, "not what another's credentials fetched, or not shown to be");
        }
        same
    }

    /// True if a body begins as a known blob does; nothing of it is lost.
    pub(super) async fn begins_alike(&self, blob: BlobId, body: &mut Body, length: Option<u64>) -> bool {
        // A body that fails fails its reader.
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
    /// The range of a known blob's sample: `None` for all of an empty one.
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
        // A blob under way is compared from its beginning.
        let Some(piece) = held.get(drawn % held.len().max(1)) else {
            return Ok(Some(ByteRange::new(0, SAMPLE.min(end))));
        };
        let piece = stored.manifest().piece_length().range(*piece, end);
        let places = piece.len().saturating_sub(SAMPLE) + 1;
        let start = piece.start() + fresh_nonce(&*self.house.context.clock) % places;
        Ok(Some(ByteRange::new(start, piece.end().min(start + SAMPLE))))
    }

    /// True if a known blob has these bytes at `start`, and this length where both are known. Fewer bytes than a sample has are its last
    /// ones.
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

/// The first bytes of a body: a sample, or all if it is shorter; what came with the last of them as well.
async fn take(body: &mut Body) -> Result<Vec<u8>, OriginError> {
    let mut taken = Vec::new();
    while (taken.len() as u64) < SAMPLE
        && let Some(chunk) = body.next().await
    {
        taken.extend_from_slice(&chunk?);
    }
    Ok(taken)
}

/// A number that no other reading of an origin without validators has.
pub(super) fn fresh_nonce(clock: &dyn Clock) -> u64 {
    let mut bytes = [0; 8];
    // Early in a host's life the pool may not answer; the time then tells readings apart.
    match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(8) => u64::from_le_bytes(bytes),
        _ => clock.unix(),
    }
}
