//! What is wanted of a blob: everything, or only what a few readers wait for.
//!
//! A lone range (read by a lazy snapshotter, `darter get --range`, or any caller of [`Transfer::ensure`]) fetches only the pieces that it
//! touches. It tells the lead what it waits for, a window at a time, and the lead reads that from the origin
//! before anything else (`darter_swarm::OriginReader::Errands`). As soon as somebody wants everything, here or elsewhere, all of it
//! is fetched.
//!
//! A transfer of which nobody wants anything is *at rest*: it is open, and nothing is fetched.
//!
//! Invariants: the lead that is followed is told of every change; the lead tells each member that waits for a piece its hash as soon as the hash
//! is known. An older lead is not told; it reads everything, and so finally gives what is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use darter_core::{ByteRange, PieceIndex};
use darter_store::size;
use darter_swarm::{Foresight, Input, ReaderId, Wish};

use super::{Lead, Outcome, Transfer};
use crate::error::FetchError;

/// How many bytes a reader waits for at a time.
const WINDOW: u64 = 8 << 20;

/// The deadline of a reader that gives none: what comes first is served first.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// How many pieces of a lone range are requested at once.
pub(super) const MAX_AHEAD: u32 = 32;

/// A number that no other reader has.
pub(super) fn next_reader() -> ReaderId {
    static READERS: AtomicU64 = AtomicU64::new(0);
    ReaderId(READERS.fetch_add(1, Ordering::Relaxed))
}

/// How much of an unfinished blob stays on the disk, as text.
pub(super) fn kept(transfer: &Transfer) -> String {
    let held = transfer.stored.held_bytes();
    match transfer.stored.length() {
        _ if transfer.stored.passes() || held == 0 => "nothing is kept".to_owned(),
        Some(length) if length > 0 => format!("{} of {} are kept", size(held), size(length)),
        _ => "what came is kept".to_owned(),
    }
}

/// A reader that waits for pieces, until dropped.
pub(super) struct WaitingReader {
    transfer: Arc<Transfer>,
    id: ReaderId,
    wish: Option<Wish>,
    within: Duration,
}

impl WaitingReader {
    /// Waits for the pieces from `piece` up to `end`. To be called at each step.
    pub(super) fn at(&mut self, piece: PieceIndex, end: u32) {
        let length = self.transfer.piece_length.bytes();
        let window = u32::try_from(WINDOW / length).unwrap_or(u32::MAX).max(1);
        let wish = Wish { first: piece.0, end: end.min(piece.0.saturating_add(window)), within: self.within };
        // Otherwise each arriving piece would cause a message.
        let goes_on = |told: &Wish| {
            let half = told.first + (told.end - told.first) / 2;
            (told.first..=half).contains(&piece.0) && (piece.0 < told.end) && told.end.min(end) == told.end
        };
        if !self.wish.as_ref().is_some_and(goes_on) {
            self.wish = Some(wish);
            self.transfer.wish(self.id, Some(wish));
        }
    }
}

impl Drop for WaitingReader {
    fn drop(&mut self) {
        self.transfer.wish(self.id, None);
    }
}

impl Transfer {
    /// A program of this host wants everything.
    pub fn want_everything(&self) {
        self.tell(Input::WantsAll { passes: self.stored.passes() });
    }

    /// True if nobody wants anything of it, although it is not complete.
    pub(crate) fn is_at_rest(&self) -> bool {
        let state = self.state();
        state.session.course().is_open() && state.session.is_at_rest()
    }

    /// The handle by which a reader tells others what it waits for.
    pub(super) fn waiting_reader(self: &Arc<Self>, id: ReaderId, within: Option<Duration>) -> WaitingReader {
        WaitingReader { transfer: Arc::clone(self), id, wish: None, within: within.unwrap_or(DEFAULT_DEADLINE) }
    }

    fn wish(self: &Arc<Self>, reader: ReaderId, wish: Option<Wish>) {
        self.tell(Input::Wish { reader, wish });
    }

    /// True if bytes after a gap can arrive before those in the gap: not if an older lead reads, and not if the origin, as far as this agent knows or its
    /// lead has said, can only be read from its first byte on.
    pub fn may_jump(&self) -> bool {
        let state = self.state();
        let is_told_wants = match state.lead() {
            Lead::Me | Lead::Nobody => true,
            Lead::Node(lead) => self.fleet.peer(lead).is_some_and(|peer| peer.version >= darter_wire::WANT_SINCE),
        };
        is_told_wants && state.session.gives_parts()
    }

    /// The blob's length in bytes, as soon as it is known.
    ///
    /// # Errors
    /// The transfer failed, or the agent drains, before the length was known.
    pub async fn length_when_known(&self) -> Result<u64, FetchError> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(length) = self.stored.length() {
                return Ok(length);
            }
            if let Outcome::Failed(error) = self.outcome() {
                return Err(error);
            }
            // Checked before waiting: a transfer that was closed a moment ago sends no more notifications.
            if self.is_closed() || changed.changed().await.is_err() {
                // A transfer that fails is closed soon after.
                return Err(match self.outcome() {
                    Outcome::Failed(error) => error,
                    _ => FetchError::Draining,
                });
            }
        }
    }

    /// Makes sure that the bytes of `range`, as far as they exist, are here and verified within a time. Shorter
    /// deadlines are served first.
    ///
    /// # Errors
    /// [`FetchError::Stalled`] if they are not here in time; the transfer's error, if it fails.
    pub async fn ensure(self: &Arc<Self>, range: ByteRange, within: Duration) -> Result<(), FetchError> {
        self.have(range, within, None).await
    }

    /// Makes sure that bytes which no reader waits for yet, but which will be needed, are here and verified: after everything that readers wait for.
    ///
    /// # Errors
    /// As for [`Transfer::ensure`]; at once if the store has no space for the blob, which then passes through memory.
    pub async fn foresee(
        self: &Arc<Self>,
        range: ByteRange,
        within: Duration,
        by: Foresight,
    ) -> Result<(), FetchError> {
        self.have(range, within, Some(by)).await
    }

    async fn have(
        self: &Arc<Self>,
        range: ByteRange,
        within: Duration,
        foreseen: Option<Foresight>,
    ) -> Result<(), FetchError> {
        if range.is_empty() {
            return Ok(());
        }
        let _hold = self.hold();
        let id = next_reader();
        let mut waiting = self.waiting_reader(id, Some(within));
        self.readers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let _reading = ReadUnderWay { transfer: self, id };
        let late = || {
            let what = format!("bytes {} to {} of {}", range.start(), range.end() - 1, self.source);
            FetchError::Stalled { waited: within, what }
        };
        let all = async {
            let mut changed = self.changed.subscribe();
            loop {
                changed.mark_unchanged();
                let outcome = self.outcome();
                if let Outcome::Failed(error) = outcome {
                    return Err(error);
                }
                if self.closed.is_cancelled() && !matches!(outcome, Outcome::Complete) {
                    return Err(FetchError::Stopped { kept: kept(self) });
                }
                if let Some(length) = self.stored.length() {
                    let pieces = self.piece_length.pieces_of(range.clamp_to(length));
                    let missing = self.stored.held().first_missing_from(PieceIndex(pieces.start));
                    if missing.0 >= pieces.end {
                        return Ok(());
                    }
                    if foreseen.is_some() && self.stored.passes() {
                        // The piece would be kept in memory, where readers need the space.
                        return Err(late());
                    }
                    self.note_losses();
                    let count = (pieces.end - missing.0).min(MAX_AHEAD);
                    self.tell(match foreseen {
                        None => Input::ReaderAt { reader: id, piece: missing, count, patience: Duration::ZERO },
                        Some(by) => Input::Foreseen { reader: id, piece: missing, count, by },
                    });
                    waiting.at(missing, pieces.end);
                }
                if changed.changed().await.is_err() {
                    return Err(FetchError::Draining);
                }
            }
        };
        tokio::time::timeout(within, all).await.unwrap_or_else(|_| Err(late()))
    }
}

/// Keeps a transfer from being closed while nobody reads: see [`Transfer::keep_open`].
pub struct KeptOpen(Arc<Transfer>);

impl Drop for KeptOpen {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Transfer {
    /// Counts as use until dropped, for a program that will read more of the blob later: a mount.
    pub fn keep_open(self: &Arc<Self>) -> KeptOpen {
        self.readers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        KeptOpen(Arc::clone(self))
    }

    /// Waits until all of it is here and was checked.
    ///
    /// # Errors
    /// Why it can't be had.
    pub async fn whole(&self) -> Result<(), FetchError> {
        let mut changed = self.changed.subscribe();
        let complete = async {
            loop {
                changed.mark_unchanged();
                if matches!(self.outcome(), Outcome::Complete) || changed.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = complete => Ok(()),
            error = self.ended() => Err(error),
        }
    }

    /// Waits until nothing more of it can be had, and returns why.
    pub async fn ended(&self) -> FetchError {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            match self.outcome() {
                Outcome::Failed(error) => return error,
                Outcome::Complete if self.stored.is_discarded() => {
                    let reason = "it was removed".to_owned();
                    return FetchError::Withdrawn { blob: self.blob, reason };
                }
                Outcome::Open if self.closed.is_cancelled() => return FetchError::Stopped { kept: kept(self) },
                _ => {}
            }
            tokio::select! {
                told = changed.changed() => if told.is_err() { return FetchError::Draining },
                () = self.closed.cancelled(), if !self.closed.is_cancelled() => {}
            }
        }
    }
}

/// Counts as use while bytes are waited for.
struct ReadUnderWay<'a> {
    transfer: &'a Transfer,
    id: ReaderId,
}

impl Drop for ReadUnderWay<'_> {
    fn drop(&mut self) {
        self.transfer.readers.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        self.transfer.tell(Input::ReaderGone(self.id));
    }
}
