//! The lead reads the origin, once for all: in order, from the first piece that nobody has, each piece hashed
//! and stored as soon as it is complete ([`body`](super::body)); and concurrently, on *errands*, what a reader waits for anywhere in the blob. If several
//! connections are faster than one, others read further stretches (see [`beside`](super::beside)).
//!
//! The session decides what to read next (`Output::Read`), and is asked after each piece whether to go on: if a member joins
//! that has the next piece, the run ends, and the piece comes from it. An origin that can only be read from its first byte on, because it serves no ranges or
//! nothing distinguishes its versions, gets no errands: all of it is read, and `darter explain` says so, here and on each member. If a body breaks off, it is continued by
//! range, with the version checked; an origin without ranges, or that answers ranges with anything else, is read from its start again and
//! the known bytes are skipped (see [`parts`](super::parts)). If nothing shows whether it is the same version, it is read from its start, too, and
//! compared (see [`anew`](super::anew) and [`through`](super::through)). The bytes of an unfinished piece are kept for that, if the version can be
//! checked: so even an origin that cuts each answer off after some bytes is read to the end. The origin has failed when it sent no byte for
//! `--origin-patience`. How a reader goes on after a run is decided in [`after_run`](super::after_run).

use std::sync::Arc;
use std::time::Duration;

use darter_core::{ByteRange, Moment, PieceIndex, Source, Version};
use darter_origin::{OriginError, Reading};
use darter_swarm::{AtPiece, FIRST_STRETCH, Input, OriginReader, OriginRun, ReadsOn};

use super::Transfer;
use super::after_run::Attempt;
use super::body::{Leftover, RunEnd};
use super::parts::RangeSupport;
use super::turns::Turn;

/// A shorter read did not take a share of the link that other blobs would notice.
const SHORT_READING: Duration = Duration::from_millis(100);

impl Transfer {
    /// Starts a run of a reader.
    pub(super) fn read(self: &Arc<Self>, reader: OriginReader, run: OriginRun) {
        if matches!(reader, OriginReader::Beside(_)) {
            return self.read_beside(reader, run);
        }
        let left = self.state().readers.begins(reader, self.context.now());
        let transfer = Arc::clone(self);
        self.spawn(async move {
            let mut left = left;
            let goes_on = transfer.read_run(run, &mut left).await && !transfer.closed.is_cancelled();
            let (began, left) = if goes_on { (None, Some(left)) } else { (left.began, None) };
            transfer.tell_and(Input::ReadEnded { reader }, |state, _| state.readers.ended(reader, left));
            transfer.gives_back(began);
        });
    }

    /// Readers that began at these times are done: other blobs get their share of the link to the origin.
    pub(super) fn gives_back(&self, began: impl IntoIterator<Item = Moment>) {
        let now = self.context.now();
        if began.into_iter().any(|began| now.since(began) >= SHORT_READING) {
            self.state().given_back = self.context.origin_turns.give_back();
        }
    }

    /// All of it is read from its first byte on, and a reader of a range waits for what comes before. `answer` is an open answer of the
    /// origin that begins there; `why` is the reason, for the journal.
    pub(crate) fn read_in_order(self: &Arc<Self>, answer: Option<Reading>, why: Option<&str>) {
        if let Some(why) = why {
            self.note(format!("{why}; reading all of it from the first byte"));
        }
        self.tell_and(Input::ReadsAll { in_order: why.map(str::to_owned) }, |state, now| {
            if let Some(answer) = answer {
                state.readers.opened(answer, now);
            }
        });
    }

    /// Reads a run with what the previous one left. Returns false if its reader is done.
    async fn read_run(self: &Arc<Self>, run: OriginRun, left: &mut Leftover) -> bool {
        self.begin_reader(left);
        let stands_beside_others = run.first.0 > 0 || self.stored.known_count() > 0;
        let is_unproven = stands_beside_others && !self.can_be_continued();
        if left.is_on_errands() && is_unproven {
            let why = "nothing tells whether two answers of the origin are of the same version";
            self.read_in_order(None, Some(why));
            return false;
        }
        left.anew |= is_unproven;
        left.assembly = left.assembly.take().filter(|assembly| assembly.piece == run.first && !left.anew);
        if left.tries == 0 {
            // There may have been nothing to read for a long time.
            left.progress = self.context.now();
        }
        let opened = self.take_answer(run, left);
        if opened.is_none() {
            let rest = self.wait_for_rest().await;
            if !rest.is_zero() {
                // The pause was requested: it is no failure.
                left.progress = left.progress + rest;
                return true;
            }
        }
        let run = self.ends_with(run, opened.as_ref());
        let asks_origin = !self.source.is_headed_last() && opened.is_none() && !left.anew;
        let attempt = Attempt {
            asked_part: asks_origin && self.range_of(run, left).is_some(),
            caller: self.state().callers.current().clone(),
            progress_before: left.progress,
        };
        let end = self.read_answer(run, opened, left).await;
        if left.parts == RangeSupport::Refused && !left.is_on_errands() {
            self.origin_is_read_alone(None, "it gives no parts any more");
        }
        self.goes_on_after(end, &attempt, left).await
    }

    /// Prepares what the reader keeps between its runs, if this is its first one.
    fn begin_reader(&self, left: &mut Leftover) {
        if left.began.is_some() {
            return;
        }
        left.began = Some(self.context.now());
        if self.stored.held().is_empty() && !left.is_on_errands() {
            self.whole.begin(self.hasher(), None);
        }
        left.anew = self.must_compare(left);
    }

    /// Takes the open answer that the reader has, if the run can begin with it. Another one is dropped.
    fn take_answer(&self, run: OriginRun, left: &mut Leftover) -> Option<Reading> {
        left.answer.take().filter(|reading| match self.source.is_headed_last() {
            true => reading.start <= self.piece_length.offset(run.first),
            false => run.first.0 == 0 && reading.start == 0,
        })
    }

    /// Reads the `opened` answer, or requests one when it is this blob's turn.
    async fn read_answer(self: &Arc<Self>, run: OriginRun, opened: Option<Reading>, left: &mut Leftover) -> RunEnd {
        let mut turn = self.context.origin_turns.reader();
        if let Some(reading) = opened {
            return self.consume(run, reading, &mut turn, left).await;
        }
        // Waits for the turn first: an origin must not have to wait with an open body that nobody reads.
        if !self.begins(left.reader, &mut turn, run.first).await {
            return RunEnd::Replan;
        }
        let opened = tokio::select! {
            opened = turn.wait_for(self.open_run(run, left)) => opened,
            () = self.closed.cancelled() => return RunEnd::Replan,
        };
        match opened {
            Ok(reading) => self.consume(run, reading, &mut turn, left).await,
            Err(error) => RunEnd::Origin(error),
        }
    }

    /// True if the pieces here may be of two versions, and this reader is the one that compares them with the origin's.
    pub(super) fn must_compare(&self, left: &Leftover) -> bool {
        !left.is_on_errands() && self.state().session.compares()
    }

    /// The run, cut to the end of the open answer, if that is for a range.
    fn ends_with(&self, run: OriginRun, opened: Option<&Reading>) -> OriginRun {
        if self.source.is_headed_last() || opened.is_none_or(|reading| !reading.is_part) {
            return run;
        }
        let end = PieceIndex(self.piece_length.count(FIRST_STRETCH));
        OriginRun { end: Some(run.end.map_or(end, |other| other.min(end))), ..run }
    }

    /// Waits for this blob's turn to read a piece. Returns false if the piece need not be read any more, or not by this agent.
    pub(super) async fn begins(&self, reader: OriginReader, turn: &mut Turn<'_>, piece: PieceIndex) -> bool {
        tokio::select! {
            () = turn.begin() => {
                let at = AtPiece { reader, piece, through: false, to_the_end: false };
                self.comes_to(at) != ReadsOn::Ends
            }
            () = self.closed.cancelled() => false,
        }
    }

    /// The range of the origin to request; `None` for all of it.
    pub(super) fn range_of(&self, run: OriginRun, left: &Leftover) -> Option<ByteRange> {
        let start = self.piece_length.offset(run.first) + left.bytes();
        let length = self.stored.length();
        let end = run.end.map_or(u64::MAX, |end| self.piece_length.offset(end));
        let end = length.map_or(end, |length| end.min(length));
        let whole = start == 0 && (run.end.is_none() || length == Some(end));
        (!whole).then(|| ByteRange::new(start, end))
    }

    /// The version that an answer must have.
    pub(super) fn expected(&self) -> Option<&Version> {
        (self.version != Version::default() || self.digest().is_some()).then_some(&self.version)
    }

    /// Opens the origin's answer for a run.
    async fn open_run(&self, run: OriginRun, left: &mut Leftover) -> Result<Reading, OriginError> {
        let (credentials, requester) = {
            let state = self.state();
            (state.callers.current().clone(), state.requester)
        };
        let origins = &self.context.origins;
        if left.anew {
            return origins.patient(requester).read(&self.source, &credentials, None, None).await;
        }
        let range = self.range_of(run, left);
        if self.source.is_headed_last() {
            return origins.once(requester).read(&self.source, &credentials, range, self.expected()).await;
        }
        let start = range.map_or(0, ByteRange::start);
        if start > 0 {
            self.note(format!("reading the origin from byte {start} on"));
            self.joined_parts();
        }
        let expect = self.expected();
        // Without retries: the caller makes the pauses, and tells members that it waits.
        let origin = origins.once(requester);
        let read = |range| origin.read(&self.source, &credentials, range, expect);
        match range {
            Some(range) => left.parts.open(|| read(Some(range)), || read(None)).await,
            None => read(None).await,
        }
    }

    /// Applies the agent's own limit. Returns true if that caused a delay.
    pub(super) async fn meter_origin(&self, bytes: u64) -> bool {
        if matches!(self.source, Source::Expanded(_)) {
            // The bytes of the layer itself were counted when they were read.
            return false;
        }
        self.context.metrics.origin_bytes.inc_by(bytes);
        self.context.origin_budget.take_saying(u32::try_from(bytes).unwrap_or(u32::MAX)).await
    }
}
