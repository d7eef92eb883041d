//! The bytes of one blob for one caller, over several tries if necessary.
//!
//! If a swarm is dissolved because its content was wrong, or changed at its origin, the bytes that its readers have got are
//! void. If nothing was passed on yet, or the bytes passed on are the same in the next try (their pieces have the same hashes), the caller need not know: it
//! gets the rest from the next try, which another agent leads. `Setbacks` decides which agent may try, and when. After two failed
//! tries no node leads, only a seed or this agent itself: what liars made up may have reached honest nodes. So this ends.
//!
//! A caller that writes a file and gets its ranges in any order is told instead that all of them are void
//! ([`Handing::Anew`]), and gets everything from the next try: in any order, the bytes of the old file can't be told
//! from those of the new one.

use std::sync::Arc;

use darter_api::Checked;
use darter_api::handover::Order;
use darter_core::source::Credentials;
use darter_core::{BlobId, ByteRange, PieceIndex};
use darter_origin::Requester;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};

use super::Swarms;
use crate::error::FetchError;
use crate::part::Part;
use crate::transfer::stream::Giving;
use crate::transfer::{Outcome, Transfer};

/// The maximum number of tries after the first one.
const MAX_TRIES: u32 = 3;

/// From this one on, no node is followed: an honest one may pass on hashes that a liar made up.
const ALONE_FROM: u32 = 2;

/// One message to a program that is handed a blob.
#[derive(Debug)]
pub enum Handing {
    /// Verified bytes, and their offset in the blob.
    Part(u64, Part),
    /// The bytes so far are void: everything will be sent again, from this content.
    Anew {
        /// Its blob.
        blob: BlobId,
        /// Its length, if known.
        length: Option<u64>,
        /// When it was last modified, as the origin writes it.
        modified: Option<String>,
    },
    /// The content is complete and right.
    Whole {
        /// The blob's length.
        length: u64,
        /// The digests of the whole that were checked.
        checked: Vec<Checked>,
    },
}

struct Attempt {
    swarms: Arc<Swarms>,
    transfer: Arc<Transfer>,
    /// The caller for whom further tries are made.
    caller: (Requester, Credentials),
    parts: PlacedParts,
    order: Order,
    giving: Giving,
    start: u64,
    /// The offset of the next byte to pass on.
    at: u64,
    /// The offset after the last byte that is wanted; the blob's end if `None`.
    end: Option<u64>,
    tries: u32,
}

/// Parts with their offsets.
type PlacedParts = BoxStream<'static, Result<(u64, Part), FetchError>>;

/// Parts in order, from `at` on, with their offsets.
fn placed(parts: impl Stream<Item = Result<Part, FetchError>> + Send + 'static, mut at: u64) -> PlacedParts {
    let place = move |part: Part| {
        let start = at;
        at += part.len();
        (start, part)
    };
    parts.map_ok(place).boxed()
}

impl Swarms {
    /// Verified bytes of `range`, or of everything, in order. Further tries are made for `caller`.
    pub fn read(
        self: &Arc<Self>,
        transfer: &Arc<Transfer>,
        caller: (Requester, Credentials),
        range: Option<ByteRange>,
        giving: Giving,
    ) -> impl Stream<Item = Result<Part, FetchError>> + Send + use<> {
        let start = range.map_or(0, ByteRange::start);
        let attempt = Attempt {
            swarms: Arc::clone(self),
            parts: placed(transfer.read_on(range, giving), start),
            transfer: Arc::clone(transfer),
            caller,
            order: Order::InOrder,
            giving,
            start,
            at: start,
            end: range.map(ByteRange::end),
            tries: 0,
        };
        stream::unfold(Some(attempt), |attempt| async move {
            let mut attempt = attempt?;
            loop {
                return match attempt.next().await? {
                    Ok(Handing::Part(_, part)) => Some((Ok(part), Some(attempt))),
                    Ok(Handing::Anew { .. } | Handing::Whole { .. }) => continue,
                    Err(error) => Some((Err(error), None)),
                };
            }
        })
        // A body of unknown length is polled again after its end.
        .fuse()
    }

    /// All verified bytes, as ranges of files if the store has files, and finally [`Handing::Whole`]. Further tries are made for
    /// `caller`.
    pub fn hand_on(
        self: &Arc<Self>,
        transfer: &Arc<Transfer>,
        caller: (Requester, Credentials),
        order: Order,
    ) -> impl Stream<Item = Result<Handing, FetchError>> + Send + use<> {
        let giving = Giving { files: true, lone: false, own: false };
        let attempt = Attempt {
            swarms: Arc::clone(self),
            parts: match order {
                Order::InOrder => placed(transfer.read_on(None, giving), 0),
                Order::Any => transfer.hand_on().boxed(),
            },
            transfer: Arc::clone(transfer),
            caller,
            order,
            giving,
            start: 0,
            at: 0,
            end: None,
            tries: 0,
        };
        stream::unfold(Some(attempt), |attempt| async move {
            let mut attempt = attempt?;
            match attempt.next().await {
                Some(Ok(handing)) => Some((Ok(handing), Some(attempt))),
                Some(Err(error)) => Some((Err(error), None)),
                None => {
                    let length = attempt.transfer.stored.length().unwrap_or(attempt.at);
                    let whole = Handing::Whole { length, checked: attempt.transfer.checked() };
                    Some((Ok(whole), None))
                }
            }
        })
    }
}

impl Attempt {
    async fn next(&mut self) -> Option<Result<Handing, FetchError>> {
        loop {
            match self.parts.next().await? {
                Ok((at, part)) => {
                    self.at = at + part.len();
                    return Some(Ok(Handing::Part(at, part)));
                }
                Err(error) => match self.try_again(error).await {
                    Err(error) => return Some(Err(error)),
                    Ok(()) if self.order == Order::InOrder => {}
                    Ok(()) => {
                        let next = &self.transfer;
                        let (blob, length) = (next.blob, next.stored.length());
                        let modified = next.version.last_modified.clone();
                        return Some(Ok(Handing::Anew { blob, length, modified }));
                    }
                },
            }
        }
    }

    /// Goes on with another try at the same content after `error`; returns the final error if there is none.
    async fn try_again(&mut self, error: FetchError) -> Result<(), FetchError> {
        let source = self.transfer.source.clone();
        let was_taken_back = matches!(error, FetchError::WrongDigest { .. } | FetchError::Withdrawn { .. });
        let stood_still = matches!(error, FetchError::Stalled { .. });
        let context = &self.swarms.house.context;
        let was_let_down = || context.was_let_down(&source, &self.caller.1);
        let may_try = error.is_changed()
            || (was_taken_back && (source.digest().is_some() || was_let_down()))
            || (stood_still && was_let_down());
        if !may_try || self.tries >= MAX_TRIES || self.swarms.is_draining() {
            return Err(error);
        }
        self.tries += 1;
        let (requester, credentials) = self.caller.clone();
        if self.tries >= ALONE_FROM {
            context.follow_no_node(&source, &credentials);
        }
        let Ok(next) = self.swarms.open(requester, source, credentials, !self.giving.lone).await else {
            return Err(error);
        };
        let given = ByteRange::new(self.start, self.at);
        // The caller may have been told the length.
        let length = self.transfer.stored.length();
        let is_as_long = length.is_none() || next.stored.length() == length;
        let goes_on = match self.order {
            Order::Any => true,
            Order::InOrder => is_as_long && is_same(&self.transfer, &next, given).await,
        };
        if Arc::ptr_eq(&next, &self.transfer) || !goes_on {
            return Err(error);
        }
        next.note(format!("another try, after {error}"));
        self.parts = match self.order {
            Order::Any => next.hand_on().boxed(),
            Order::InOrder => {
                let rest = ByteRange::new(self.at, self.end.unwrap_or(u64::MAX));
                placed(next.read_on(Some(rest), self.giving), self.at)
            }
        };
        self.transfer = next;
        Ok(())
    }
}

/// True if the bytes that were passed on from one try are the same in the next one, as far as their hashes show. Waits for the hashes.
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
    while (first..end).any(|piece| next.stored.hash(PieceIndex(piece)).is_none()) {
        if next.is_closed() || !matches!(next.outcome(), Outcome::Open) || changed.changed().await.is_err() {
            return false;
        }
    }
    (first..end).map(PieceIndex).all(|piece| {
        let hash = before.stored.hash(piece);
        hash.is_some() && hash == next.stored.hash(piece)
    })
}
