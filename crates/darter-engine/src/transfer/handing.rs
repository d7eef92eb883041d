//! Verified bytes in any order, for a program of this host that writes a file: ranges of the blob's file, each
//! passed on as soon as its pieces are verified and stored. The order is the swarm's: nothing is requested earlier because
//! of this, and no range waits for an earlier piece that is missing.
//!
//! Invariants, as for a [`stream`](super::stream) in order:
//! - only verified pieces are passed on, and the last piece only after the whole was checked;
//! - it ends successfully only after every piece was passed on in its present form: a piece that was found damaged and was fetched again is passed
//!   on again. Losses are recorded where all of them pass, [`Transfer::lack`], and not by checking what is held, since the blob
//!   may be complete again by then.
//!
//! A receiver that takes nothing for a while delays nobody: what arrives meanwhile is one set of pieces, and is passed on as
//! a few long ranges. While little has arrived, a range waits a moment for more: bytes that are passed on together wake a disk thread, a connection and
//! the receiver once.
//!
//! A blob that has no file, or passes through (see [`passing`](super::passing)), is passed on in order, from the first byte that
//! was not yet passed on: pieces that are kept in memory are forgotten in that order.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use darter_core::{ByteRange, Moment, PieceIndex, PieceLength, PieceSet};
use darter_store::{PieceFile, StoreError, StoredBlob};
use darter_swarm::ReaderId;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::watch;

use super::rest::Hold;
use super::stream::{FILE_CHUNK, Giving, file_part};
use super::wants::{kept, next_reader};
use super::{Outcome, Transfer};
use crate::error::FetchError;
use crate::part::Part;

/// How many bytes are passed on without waiting for more: few enough to be in the processor's cache still when they are copied.
const BATCH: u64 = 2 << 20;

/// How long fewer bytes wait for more: too short to be noticed, and long enough for some pieces on any link.
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// For each receiver, the pieces that were lost since it last checked.
#[derive(Debug, Default)]
pub(super) struct Losses(HashMap<ReaderId, PieceSet>);

impl Losses {
    /// Notes pieces that are no longer held.
    pub(super) fn note(&mut self, pieces: &PieceSet) {
        for lost in self.0.values_mut() {
            lost.union_with(pieces);
        }
    }
}

/// A program that receives ranges.
struct Taker {
    transfer: Arc<Transfer>,
    /// `None` if the blob was evicted before the program came.
    _hold: Option<Hold>,
    id: ReaderId,
    changed: watch::Receiver<()>,
    /// The pieces that it has got.
    given: PieceSet,
    /// Ranges that count as passed on and are sent next.
    ready: VecDeque<PieceFile>,
    /// Since when it has waited for a missing piece.
    since: Option<Moment>,
    /// Until when the present ranges wait for more.
    pause_until: Option<Moment>,
    /// The rest, once it has to be passed on in order, and the offset of its next byte.
    rest: Option<(BoxStream<'static, Result<Part, FetchError>>, u64)>,
}

/// The next step.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Pass on these pieces: runs of neighbours, all held.
    Give(Vec<Range<PieceIndex>>),
    /// Wait for a change, but at most until then.
    Wait(Option<Moment>),
    /// Continue in order.
    InOrder,
    /// Everything was passed on.
    End,
}

impl Transfer {
    /// All bytes, as ranges with their offsets, in any order and some perhaps twice. Counts as use until the stream is dropped.
    pub(crate) fn hand_on(self: &Arc<Self>) -> impl Stream<Item = Result<(u64, Part), FetchError>> + Send + use<> {
        self.want_everything();
        self.readers.fetch_add(1, Ordering::Relaxed);
        let id = next_reader();
        self.state().losses.0.insert(id, PieceSet::new());
        // For a blob that turns out not to fit: no piece is forgotten that was not passed on.
        self.reader_stands(id, PieceIndex(0));
        let taker = Taker {
            transfer: Arc::clone(self),
            _hold: self.hold(),
            id,
            changed: self.changed.subscribe(),
            given: PieceSet::new(),
            ready: VecDeque::new(),
            since: None,
            pause_until: None,
            rest: None,
        };
        futures_util::stream::unfold(Some(taker), |taker| async move {
            let mut taker = taker?;
            match taker.next().await {
                Ok(Some(part)) => Some((Ok(part), Some(taker))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// True if a piece is known not to be the blob's last.
    fn is_inner(&self, piece: PieceIndex) -> bool {
        match self.pieces() {
            Some(pieces) => piece.0 + 1 < pieces,
            None => piece.0 + 1 < self.stored.prefix(),
        }
    }
}

impl Taker {
    async fn next(&mut self) -> Result<Option<(u64, Part)>, FetchError> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Ok(Some((part.range.start(), Part::File(part))));
            }
            if let Some((rest, at)) = &mut self.rest {
                if let Some(part) = rest.next().await.transpose()? {
                    let place = *at;
                    *at += part.len();
                    return Ok(Some((place, part)));
                }
                self.rest = None;
                self.given = PieceSet::full(self.transfer.pieces().unwrap_or(0));
            }
            // Before checking: a change during the check wakes this again.
            self.changed.mark_unchanged();
            match self.step()? {
                Step::End => return Ok(None),
                Step::Give(runs) => self.give(runs).await?,
                Step::InOrder => self.go_on_in_order(),
                Step::Wait(until) => {
                    let transfer = &self.transfer;
                    self.since.get_or_insert_with(|| transfer.context.now());
                    let changed = self.changed.changed();
                    let changed = match until {
                        Some(until) => {
                            let pause = until.since(transfer.context.now());
                            tokio::time::timeout(pause, changed).await.unwrap_or(Ok(()))
                        }
                        None => changed.await,
                    };
                    if changed.is_err() {
                        return Err(FetchError::Draining);
                    }
                }
            }
        }
    }

    fn step(&mut self) -> Result<Step, FetchError> {
        let transfer = Arc::clone(&self.transfer);
        let outcome = transfer.outcome();
        if let Outcome::Failed(error) = outcome {
            return Err(error);
        }
        let complete = matches!(outcome, Outcome::Complete);
        if transfer.closed.is_cancelled() && !complete {
            return Err(FetchError::Stopped { kept: kept(&transfer) });
        }
        self.take_back();
        let pieces = transfer.pieces();
        if complete && pieces == Some(self.given.len()) {
            return Ok(Step::End);
        }
        if transfer.stored.passes() {
            return Ok(Step::InOrder);
        }
        let held = transfer.stored.held();
        if complete && pieces != Some(held.len()) {
            if transfer.stored.is_discarded() {
                let reason = "it was removed".to_owned();
                return Err(FetchError::Withdrawn { blob: transfer.blob, reason });
            }
            // Somebody else found damage; then the blob is not complete any more.
            transfer.note_losses();
            return Ok(Step::Wait(Some(transfer.context.now() + MAX_PAUSE)));
        }
        let fresh = held.difference(&self.given).filter(|piece| complete || transfer.is_inner(*piece));
        let (length, now) = (transfer.piece_length.bytes(), transfer.context.now());
        Ok(choose(fresh, length, complete, &mut self.pause_until, now))
    }

    /// Verifies pieces and makes them ready, or some of them: a piece that turned out damaged is being fetched again, and pieces that
    /// are in no file are passed on in order.
    async fn give(&mut self, runs: Vec<Range<PieceIndex>>) -> Result<(), FetchError> {
        let transfer = Arc::clone(&self.transfer);
        let Some(first) = runs.first().map(|run| run.start) else { return Ok(()) };
        let (stored, pieces) = (Arc::clone(&transfer.stored), transfer.piece_length);
        let verified = transfer.context.disk.run(move || parts_of(&*stored, pieces, &runs));
        let limit = transfer.context.options.stall_timeout;
        let limit = if limit.is_zero() { Duration::MAX } else { limit };
        let Ok(verified) = tokio::time::timeout(limit, verified).await else {
            let what = format!("the disk to give piece {}", first.0 + 1);
            return Err(FetchError::Stalled { waited: limit, what });
        };
        let (parts, end) = verified;
        let has_none = parts.is_empty();
        self.gave(first, parts);
        match end {
            Err(error) => transfer.after_unread(error),
            Ok(()) => {
                if has_none {
                    self.go_on_in_order();
                }
                Ok(())
            }
        }
    }

    /// Passes on the rest in order, from the first byte that was not passed on.
    fn go_on_in_order(&mut self) {
        let piece = self.given.first_missing_from(PieceIndex(0));
        let at = self.transfer.piece_length.offset(piece);
        let rest =
            self.transfer.read_on(Some(ByteRange::new(at, u64::MAX)), Giving { files: true, lone: false, own: false });
        self.rest = Some((rest.boxed(), at));
        // From here on, that reader's position says what is needed.
        self.transfer.reader_left(self.id);
    }

    /// Notes the ranges that are passed on now.
    fn gave(&mut self, first: PieceIndex, parts: Vec<PieceFile>) {
        let bytes: u64 = parts.iter().map(|part| part.range.len()).sum();
        if bytes == 0 {
            return;
        }
        let transfer = &self.transfer;
        let pieces = transfer.piece_length;
        for piece in parts.iter().flat_map(|part| pieces.pieces_of(part.range)) {
            self.given.insert(PieceIndex(piece));
        }
        transfer.reader_stands(self.id, self.given.first_missing_from(PieceIndex(0)));
        let now = transfer.context.now();
        {
            let mut state = transfer.state();
            if let Some(since) = self.since.take() {
                let is_last = transfer.pieces().is_some_and(|pieces| self.given.contains(PieceIndex(pieces - 1)));
                state.journal.waited(first, since, is_last, now);
            }
            state.journal.served(bytes);
        }
        transfer.context.metrics.local_served_bytes.inc_by(bytes);
        self.ready.extend(parts);
    }

    /// Pieces that were passed on and lost have to be passed on again.
    fn take_back(&mut self) {
        let mut state = self.transfer.state();
        let Some(lost) = state.losses.0.get_mut(&self.id) else { return };
        for piece in std::mem::take(lost).iter() {
            self.given.remove(piece);
        }
    }
}

/// The ranges of held pieces in the file, verified and with their pages in memory: all of `runs`, up to the first piece that could not be
/// read, or is in no file.
fn parts_of(
    stored: &dyn StoredBlob,
    pieces: PieceLength,
    runs: &[Range<PieceIndex>],
) -> (Vec<PieceFile>, Result<(), StoreError>) {
    let mut parts = Vec::with_capacity(runs.len());
    let length = stored.length().unwrap_or(u64::MAX);
    for run in runs {
        let range = ByteRange::new(pieces.offset(run.start), pieces.offset(run.end).min(length));
        match file_part(stored, pieces, range) {
            Ok(Some(part)) => parts.push(part),
            Ok(None) => break,
            Err(error) => return (parts, Err(error)),
        }
    }
    (parts, Ok(()))
}

/// The runs of pieces, of `length` bytes each, that are here and were not passed on, unless they wait for more. Nothing waits once everything is here.
fn choose(
    fresh: impl Iterator<Item = PieceIndex>,
    length: u64,
    all_here: bool,
    pause_until: &mut Option<Moment>,
    now: Moment,
) -> Step {
    let most = usize::try_from(FILE_CHUNK / length).unwrap_or(usize::MAX).max(1);
    let (mut runs, mut count) = (Vec::<Range<PieceIndex>>::new(), 0);
    for piece in fresh.take(most) {
        let end = PieceIndex(piece.0 + 1);
        match runs.last_mut() {
            Some(run) if run.end == piece => run.end = end,
            _ => runs.push(piece..end),
        }
        count += 1;
    }
    if runs.is_empty() {
        *pause_until = None;
        return Step::Wait(None);
    }
    if !all_here && count * length < BATCH {
        let until = *pause_until.get_or_insert(now + MAX_PAUSE);
        if now < until {
            return Step::Wait(Some(until));
        }
    }
    *pause_until = None;
    Step::Give(runs)
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.transfer.readers.fetch_sub(1, Ordering::Relaxed);
        self.transfer.reader_left(self.id);
        self.transfer.state().losses.0.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 1 << 19;

    fn chosen(fresh: &[u32], all_here: bool, pause_until: &mut Option<Moment>, now: Moment) -> Step {
        choose(fresh.iter().copied().map(PieceIndex), PIECE, all_here, pause_until, now)
    }

    fn give(runs: &[(u32, u32)]) -> Step {
        Step::Give(runs.iter().map(|(start, end)| PieceIndex(*start)..PieceIndex(*end)).collect())
    }

    #[test]
    fn a_few_pieces_wait_a_moment_for_others_and_no_longer() {
        let (mut pause, now) = (None, Moment::from_micros(7));
        assert_eq!(chosen(&[], false, &mut pause, now), Step::Wait(None));
        assert_eq!(chosen(&[7], false, &mut pause, now), Step::Wait(Some(now + MAX_PAUSE)));
        // Further pieces do not make it wait longer.
        let later = now + MAX_PAUSE / 2;
        assert_eq!(chosen(&[3, 7], false, &mut pause, later), Step::Wait(Some(now + MAX_PAUSE)));
        assert_eq!(chosen(&[3, 7], false, &mut pause, now + MAX_PAUSE), give(&[(3, 4), (7, 8)]));
        assert_eq!(chosen(&[7], false, &mut pause, now + MAX_PAUSE), Step::Wait(Some(now + 2 * MAX_PAUSE)));
        assert_eq!(chosen(&[7], true, &mut pause, now + MAX_PAUSE), give(&[(7, 8)]), "nothing more comes");
    }

    #[test]
    fn what_is_here_goes_together_neighbours_as_one_and_enough_pieces_at_once() {
        let (mut pause, now) = (None, Moment::from_micros(7));
        assert_eq!(chosen(&[1, 2, 4, 9], false, &mut pause, now), give(&[(1, 3), (4, 5), (9, 10)]));
        let many: Vec<u32> = (5..50).collect();
        assert_eq!(chosen(&many, false, &mut pause, now), give(&[(5, 5 + (FILE_CHUNK / PIECE) as u32)]));
        // A piece may be longer than what is passed on together.
        let long = choose([PieceIndex(3), PieceIndex(4)].into_iter(), 2 * FILE_CHUNK, false, &mut pause, now);
        assert_eq!(long, give(&[(3, 4)]));
    }
}
