//! The bytes of one blob for one caller, over several tries if they must be.
//!
//! A swarm that is dissolved because its content was wrong, or changed at its origin, takes the bytes back that its readers
//! have. Where nothing was
//! given yet, or what was given is the same in the next try (its pieces have the same hashes), the caller need not know:
//! it is given the rest of the next try, which another agent leads. Who may try, and when, `Setbacks` decides; so
//! this ends where nobody is left.

use std::sync::Arc;

use darter_core::source::Credentials;
use darter_core::{ByteRange, PieceIndex};
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};

use super::Swarms;
use crate::error::FetchError;
use crate::transfer::stream::{Giving, Part};
use crate::transfer::{Outcome, Transfer};

/// Tries after the first one.
const MAX_TRIES: u32 = 3;

struct Attempt {
    swarms: Arc<Swarms>,
    transfer: Arc<Transfer>,
    credentials: Credentials,
    parts: BoxStream<'static, Result<Part, FetchError>>,
    giving: Giving,
    start: u64,
    /// The next byte to give.
    at: u64,
    /// One past the last byte wanted; the blob's end if `None`.
    end: Option<u64>,
    tries: u32,
}

impl Swarms {
    /// Verified bytes of `range`, or of everything, in order. `credentials` are for another try.
    pub(crate) fn read(
        self: &Arc<Self>,
        transfer: &Arc<Transfer>,
        credentials: Credentials,
        range: Option<ByteRange>,
        giving: Giving,
    ) -> impl Stream<Item = Result<Part, FetchError>> + Send + use<> {
        let start = range.map_or(0, ByteRange::start);
        let attempt = Attempt {
            swarms: Arc::clone(self),
            parts: transfer.read_on(range, giving).boxed(),
            transfer: Arc::clone(transfer),
            credentials,
            giving,
            start,
            at: start,
            end: range.map(ByteRange::end),
            tries: 0,
        };
        stream::unfold(Some(attempt), |attempt| async move {
            let mut attempt = attempt?;
            match attempt.next().await? {
                Ok(part) => Some((Ok(part), Some(attempt))),
                Err(error) => Some((Err(error), None)),
            }
        })
        // A body of unknown length is asked for more after its end.
        .fuse()
    }
}

impl Attempt {
    async fn next(&mut self) -> Option<Result<Part, FetchError>> {
        loop {
            match self.parts.next().await? {
                Ok(part) => {
                    self.at += part.len();
                    return Some(Ok(part));
                }
                Err(error) => {
                    if let Err(error) = self.try_again(error).await {
                        return Some(Err(error));
                    }
                }
            }
        }
    }

    /// Goes on with another try at the same content after `error`, or says how this ends.
    async fn try_again(&mut self, error: FetchError) -> Result<(), FetchError> {
        let source = self.transfer.source.clone();
        let was_taken_back = matches!(error, FetchError::WrongDigest { .. } | FetchError::Withdrawn { .. });
        let may_try = error.is_changed() || (was_taken_back && source.digest().is_some());
        if !may_try || self.tries >= MAX_TRIES || self.swarms.is_draining() {
            return Err(error);
        }
        self.tries += 1;
        let Ok(next) = self.swarms.open(source, self.credentials.clone()).await else { return Err(error) };
        let given = ByteRange::new(self.start, self.at);
        // The caller may have been told how long it is.
        let length = self.transfer.stored.length();
        let is_as_long = length.is_none() || next.stored.length() == length;
        if Arc::ptr_eq(&next, &self.transfer) || !is_as_long || !is_same(&self.transfer, &next, given).await {
            return Err(error);
        }
        next.note(format!("another try, after {error}"));
        let rest = ByteRange::new(self.at, self.end.unwrap_or(u64::MAX));
        self.parts = next.read_on(Some(rest), self.giving).boxed();
        self.transfer = next;
        Ok(())
    }
}

/// Whether the bytes given of one try are those of the next one, as far as their hashes tell. Waits for the hashes.
async fn is_same(before: &Transfer, next: &Transfer, given: ByteRange) -> bool {
    if given.is_empty() {
        return true;
    }
    if before.piece_length != next.piece_length {
        return false;
    }
    let first = next.piece_length.piece_at(given.start()).0;
    let end = next.piece_length.piece_at(given.end() - 1).0 + 1;
    let mut changed = next.changes();
    while next.stored.known() < end {
        if next.is_closed() || !matches!(next.outcome(), Outcome::Open) || changed.changed().await.is_err() {
            return false;
        }
    }
    (first..end).map(PieceIndex).all(|piece| {
        let hash = before.stored.hash(piece);
        hash.is_some() && hash == next.stored.hash(piece)
    })
}
