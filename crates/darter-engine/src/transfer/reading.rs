//! The lead reads the origin, once for everybody: in order, from the first piece that nobody has, each piece hashed
//! and stored the moment it is whole; and beside that, on *errands*, what somebody waits for wherever it is. Where several
//! connections get more than one, others read further stretches meanwhile (see [`beside`](super::beside)).
//!
//! What to read next is the swarm's decision (`Lead::origin_plan`), asked anew after each piece: a member that turns up with the next piece
//! in hand ends the run, and the piece comes from it. An origin that can't be read but from its first byte on, since it gives no ranges or
//! nothing tells its versions apart, gets no errands: all of it is read, and `darter explain` says so. A body that breaks is continued by
//! range, with the version checked; an origin without ranges, or that answers ranges with anything else, is read from its start again and
//! what is known is skipped (see [`parts`](super::parts)). Where nothing tells whether it is the same version, it is read from its start,
//! too, and compared (see [`anew`](super::anew) and [`through`](super::through)). The bytes of an unfinished piece are kept for that, where
//! the version can be checked: an origin that cuts each answer off after some bytes gets to the end, too. It has failed when it gave no
//! byte for as long as `--origin-patience`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_api::Giver;
use darter_core::{ByteRange, Moment, PieceIndex, PieceLength, Source, Version, in_full};
use darter_origin::{ErrorKind, OriginError, Reading, RetryPolicy, Witness};
use darter_store::{Put, StoreError};
use darter_swarm::{Books, OriginReader, OriginRun};
use darter_wire::{MAX_BLOB_LENGTH, MAX_PIECES, Message};
use futures_util::StreamExt as _;

use super::manners::{MAX_SILENCE, limits};
use super::parts::{Next, RangeSupport};
use super::turns::Turn;
use super::whole::Fresh;
use super::{Lead, Transfer, TransferState};
use crate::error::FetchError;

/// Of an answer of which nothing came for this long nothing is on its way to here.
const ON_ITS_WAY: Duration = Duration::from_millis(1);

/// Why a run ended.
pub(super) enum RunEnd {
    /// The plan has changed, or the run is done.
    Replan,
    /// The origin failed.
    Origin(OriginError),
    /// Something here did.
    Here(FetchError),
    /// The answer to a range begins with the first byte.
    Whole(Reading),
}

/// A piece being put together.
pub(super) struct Assembly {
    pub(super) reader: OriginReader,
    pub(super) piece: PieceIndex,
    pub(super) bytes: Vec<u8>,
    /// Bytes of the body before the first byte wanted.
    skip: u64,
    /// True if all of the answer is read, and what is here is compared.
    pub(super) through: bool,
    /// True if nothing tells whether the answer is of the same version as what is here.
    pub(super) anew: bool,
    /// True if the answer goes on to the blob's end.
    pub(super) to_the_end: bool,
}

/// The state that a broken reading leaves to the next one.
pub(super) struct Leftover {
    reader: OriginReader,
    /// The piece that was begun.
    assembly: Option<Assembly>,
    /// When a byte came that was not here before.
    progress: Moment,
    /// One past the furthest byte that came.
    reached: u64,
    /// The same of bytes that were here already and came again since then.
    again: u64,
    /// True if it begins with the first byte, and what is known is compared.
    anew: bool,
    parts: RangeSupport,
}

impl Leftover {
    pub(super) const fn new(reader: OriginReader, now: Moment) -> Self {
        Self { reader, assembly: None, progress: now, reached: 0, again: 0, anew: false, parts: RangeSupport::Given }
    }

    fn bytes(&self) -> u64 {
        self.assembly.as_ref().map_or(0, |assembly| assembly.bytes.len() as u64)
    }
}

impl Transfer {
    /// Starts the task that reads the origin while this agent leads. `opened` is an answer opened already.
    pub(super) fn start_reading(self: &Arc<Self>, opened: Option<Reading>) {
        if std::mem::replace(&mut self.state.lock().reading, true) {
            return;
        }
        let transfer = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut opened = opened;
            loop {
                transfer.read_origin(OriginReader::Everything, opened.take()).await;
                let mut state = transfer.state.lock();
                // Since it decided to end, this agent may have come to lead again or a piece may have been lost, and
                // whoever saw to that took this task for alive.
                let leads = state.lead() == Lead::Me && state.session.course.is_open();
                let lacks = transfer.pieces() != Some(transfer.stored.held().len()) || state.session.compares;
                if !leads || !lacks || transfer.closed.is_cancelled() {
                    state.reading = false;
                    return;
                }
            }
        });
    }

    /// Starts the task that reads what somebody waits for, while this agent leads.
    pub(super) fn run_errands(self: &Arc<Self>) {
        if !self.has_errands() || std::mem::replace(&mut self.state.lock().on_errands, true) {
            return;
        }
        let transfer = Arc::clone(self);
        self.tasks.spawn(async move {
            loop {
                transfer.read_origin(OriginReader::Errands, None).await;
                // Wishes that came since it decided to end were left to it.
                let mut state = transfer.state.lock();
                if !transfer.has_errands_now(&state) {
                    state.on_errands = false;
                    return;
                }
            }
        });
    }

    fn has_errands(&self) -> bool {
        self.has_errands_now(&self.state.lock())
    }

    fn has_errands_now(&self, state: &TransferState) -> bool {
        let leads = state.lead() == Lead::Me && state.session.course.is_open() && !self.closed.is_cancelled();
        let lacks = self.pieces() != Some(self.stored.held().len());
        let has_wishes = |books: &Books| books.lead().wishes().next().is_some();
        leads && lacks && !state.in_order_only && state.session.books().is_some_and(has_wishes)
    }

    /// All of it is read from its first byte on, and who waits for a part waits for what comes before. `answer` is an answer of the
    /// origin that begins there; `why` tells people.
    pub(crate) fn read_in_order(self: &Arc<Self>, answer: Option<Reading>, why: Option<&str>) {
        if let Some(why) = why {
            self.note(format!("{why}; reading all of it from the first byte"));
        }
        {
            let mut state = self.state.lock();
            state.in_order_only |= why.is_some();
            let now = self.context.now();
            if let Some(books) = state.session.books_mut() {
                let lead = books.lead_mut();
                let is_idle = !lead.is_reading(OriginReader::Everything);
                lead.read_everything();
                if why.is_some() {
                    lead.origin_refused(now);
                }
                state.whole_answer = answer.filter(|_| is_idle);
            }
        }
        self.start_reading(None);
    }

    async fn read_origin(self: &Arc<Self>, reader: OriginReader, opened: Option<Reading>) {
        self.read_as(reader, opened).await;
        if let Some(books) = self.state.lock().session.books_mut() {
            books.lead_mut().reads(reader, None);
        }
        self.ring();
    }

    async fn read_as(self: &Arc<Self>, reader: OriginReader, mut opened: Option<Reading>) {
        let on_errands = reader == OriginReader::Errands;
        let fresh = self.stored.held().is_empty() && !on_errands;
        if fresh {
            self.whole.begin(self.hasher(), None);
        }
        let policy = RetryPolicy::patient(self.context.options.origin_patience);
        let mut left = Leftover::new(reader, self.context.now());
        left.anew = !on_errands && self.state.lock().session.compares;
        let mut tries = 0;
        loop {
            let Some(run) = self.next_run_or_all(reader).await else { break };
            let stands_beside_others = run.first.0 > 0 || self.stored.known_count() > 0;
            let is_unproven = stands_beside_others && !self.can_be_continued();
            if on_errands && is_unproven {
                let why = "nothing tells whether two answers of the origin are of the same version";
                return self.read_in_order(None, Some(why));
            }
            if !on_errands {
                opened = opened.or_else(|| self.state.lock().whole_answer.take());
            }
            if tries == 0 {
                // It may have been long since there was anything to read.
                left.progress = self.context.now();
            }
            let progress_before = left.progress;
            left.anew |= is_unproven;
            left.assembly = left.assembly.take().filter(|assembly| assembly.piece == run.first && !left.anew);
            if opened.is_none() {
                let rest = self.wait_for_rest().await;
                if !rest.is_zero() {
                    // Nobody failed meanwhile.
                    left.progress = left.progress + rest;
                    continue;
                }
            }
            let asked_part = opened.is_none() && !left.anew && self.range_of(run, &left).is_some();
            let caller = self.state.lock().callers.current().clone();
            let mut turn = self.context.origin_turns.reader();
            let end = match opened.take().filter(|reading| run.first.0 == 0 && reading.start == 0) {
                Some(reading) => self.consume(run, reading, &mut turn, &mut left).await,
                // No origin is made to wait with a body that nobody reads.
                None if self.begins(reader, &mut turn, run.first).await => tokio::select! {
                    opened = turn.wait_for(self.open_run(run, &mut left)) => match opened {
                        Ok(reading) => self.consume(run, reading, &mut turn, &mut left).await,
                        Err(error) => RunEnd::Origin(error),
                    },
                    () = self.closed.cancelled() => RunEnd::Replan,
                },
                None => RunEnd::Replan,
            };
            drop(turn);
            if left.parts == RangeSupport::Refused && !on_errands {
                self.origin_is_read_alone(None, "it gives no parts any more");
            }
            let end = match end {
                RunEnd::Whole(reading) => {
                    let why = "the origin gave all of it though a part was requested: it serves no ranges";
                    return self.read_in_order(Some(reading), Some(why));
                }
                RunEnd::Origin(error) if on_errands && self.is_another_version(&error) => {
                    return self.read_in_order(None, Some(&format!("reading a part of the origin: {error}")));
                }
                end => end,
            };
            match end {
                RunEnd::Replan => {
                    (tries, left.reached, left.again) = (0, 0, 0);
                    left.anew = !on_errands && self.state.lock().session.compares;
                }
                RunEnd::Here(error) => return self.give_up(&error),
                RunEnd::Whole(_) => {}
                // Nothing of it can be told right from wrong.
                RunEnd::Origin(error) if *error.kind() == ErrorKind::Contradicted => {
                    return self.dissolve(error.into()).await;
                }
                RunEnd::Origin(error) if is_refusal(&error) && self.state.lock().callers.refused(&caller) => {
                    self.note(format!(
                        "reading the origin: {}; going on with another caller's credentials",
                        in_full(&error)
                    ));
                }
                RunEnd::Origin(error) if self.is_another_version(&error) => {
                    if left.anew {
                        return self.supersede(error.into()).await;
                    }
                    self.note(format!("reading the origin: {}; comparing it from the first byte on", in_full(&error)));
                    (left.anew, left.assembly, left.again) = (true, None, 0);
                }
                RunEnd::Origin(error) => {
                    let moved_on = left.progress > progress_before;
                    let others_read = !self.state.lock().beside.is_empty();
                    match left.parts.after(asked_part, moved_on, others_read, &error) {
                        Next::AsBefore => {}
                        Next::Whole | Next::Compared if on_errands => {
                            return self.read_in_order(None, Some(&format!("reading a part of the origin: {error}")));
                        }
                        Next::Whole => {
                            let told = in_full(&error);
                            self.note(format!("reading the origin by range: {told}; reading it from the first byte"));
                            continue;
                        }
                        // Nothing that came of such a part can be relied on.
                        Next::Compared => {
                            self.note(format!(
                                "reading the origin by range: {}; comparing it from the first byte on",
                                in_full(&error)
                            ));
                            left.assembly = None;
                            left.anew = matches!(self.source, Source::Url { .. });
                            continue;
                        }
                    }
                    if moved_on {
                        tries = 0;
                    }
                    tries += 1;
                    let spent = self.context.now().since(left.progress);
                    let in_vain = tries > 1 && !self.is_wanted();
                    let pause = policy.pause(tries, spent, &error).filter(|_| !in_vain);
                    let Some(pause) = pause else { return self.give_up(&error.into()) };
                    if limits(&error) {
                        self.origin_is_read_alone(error.retry_after(), &in_full(&error).to_string());
                        self.origin_rests(pause);
                    }
                    self.note(format!("reading the origin: {}; continuing", in_full(&error)));
                    let _told = self.context.pauses.begin(&self.source, error.to_string(), pause);
                    // A holder that does not answer within the pause is asked in a later one.
                    let asking = tokio::time::timeout(pause, self.meet_holders());
                    let _ = tokio::join!(self.pause_reading(pause), asking);
                }
            }
        }
    }

    /// The next stretch to read; waits until there is one, `None` once this agent need not read any more.
    pub(super) async fn next_run(&self, reader: OriginReader) -> Option<OriginRun> {
        loop {
            if self.closed.is_cancelled() {
                return None;
            }
            let now = self.context.now();
            let known = self.stored.known();
            let (plan, wake) = {
                let mut state = self.state.lock();
                let leads = state.lead() == Lead::Me && state.session.course.is_open();
                let lead = state.session.books_mut().filter(|_| leads)?.lead_mut();
                if reader == OriginReader::Errands && lead.wishes().next().is_none() {
                    return None;
                }
                let plan = lead.origin_plan(reader, &known, now);
                match plan {
                    Some(run) => lead.begins(reader, run),
                    None if lead.reads(reader, None) => self.replan(),
                    None => {}
                }
                (plan, lead.next_wakeup(now))
            };
            if let Some(plan) = plan {
                return Some(plan);
            }
            if self.pieces() == Some(self.stored.held().len()) {
                return None;
            }
            let sleep = wake.map_or(Duration::from_secs(1), |at| at.since(now));
            tokio::select! {
                () = self.plan_changed[usize::from(reader == OriginReader::Errands)].notified() => {}
                () = tokio::time::sleep(sleep.max(Duration::from_millis(1))) => {}
                () = self.closed.cancelled() => return None,
            }
        }
    }

    /// True if the plan still begins with this piece, and this agent still leads.
    pub(super) fn still_planned(&self, reader: OriginReader, piece: PieceIndex) -> bool {
        let now = self.context.now();
        let known = self.stored.known();
        let mut state = self.state.lock();
        let leads = state.lead() == Lead::Me && state.session.course.is_open();
        let Some(books) = state.session.books_mut().filter(|_| leads) else { return false };
        books.lead_mut().goes_on(reader, piece, &known, now)
    }

    /// Waits for this blob's turn to read a piece. False when the piece need not be read any more, or not by this agent.
    pub(super) async fn begins(&self, reader: OriginReader, turn: &mut Turn<'_>, piece: PieceIndex) -> bool {
        tokio::select! {
            () = turn.begin() => self.still_planned(reader, piece),
            () = self.closed.cancelled() => false,
        }
    }

    /// The part of the origin to ask for; `None` for all of it.
    pub(super) fn range_of(&self, run: OriginRun, left: &Leftover) -> Option<ByteRange> {
        let start = self.piece_length.offset(run.first) + left.bytes();
        let length = self.stored.length();
        let end = run.end.map_or(u64::MAX, |end| self.piece_length.offset(end));
        let end = length.map_or(end, |length| end.min(length));
        let whole = start == 0 && (run.end.is_none() || length == Some(end));
        (!whole).then(|| ByteRange::new(start, end))
    }

    /// The version that an answer has to be of.
    pub(super) fn expected(&self) -> Option<&Version> {
        (self.version != Version::default() || self.digest().is_some()).then_some(&self.version)
    }

    /// Opens the origin's answer for a run.
    async fn open_run(&self, run: OriginRun, left: &mut Leftover) -> Result<Reading, OriginError> {
        let (credentials, requester) = {
            let state = self.state.lock();
            (state.callers.current().clone(), state.requester)
        };
        let origins = &self.context.origins;
        if left.anew {
            return origins.patient(requester).read(&self.source, &credentials, None, None).await;
        }
        let range = self.range_of(run, left);
        let start = range.map_or(0, ByteRange::start);
        if start > 0 {
            self.note(format!("reading the origin from byte {start} on"));
            self.joined_parts();
        }
        let expect = self.expected();
        // Once: the pauses of one that fails are made by who asked, who can tell those that wait.
        let origin = origins.once(requester);
        let read = |range| origin.read(&self.source, &credentials, range, expect);
        match range {
            Some(range) => left.parts.open(|| read(Some(range)), || read(None)).await,
            None => read(None).await,
        }
    }

    /// Takes in what the origin answers to a question for a run.
    pub(super) async fn consume(
        self: &Arc<Self>,
        run: OriginRun,
        reading: Reading,
        turn: &mut Turn<'_>,
        left: &mut Leftover,
    ) -> RunEnd {
        let _connection = self.context.metrics.origin_connection();
        let first = if left.anew { PieceIndex(0) } else { run.first };
        let start = self.piece_length.offset(first) + left.bytes();
        if reading.start > start {
            let text = format!("{} sent bytes from {} on, not from {start}", self.source, reading.start);
            return RunEnd::Origin(OriginError::new(ErrorKind::Protocol, text));
        }
        let reads_everything = left.reader == OriginReader::Everything;
        if !reads_everything && reading.start < start {
            return RunEnd::Whole(reading);
        }
        if !reads_everything {
            // Only the reader of everything heeds the hashes that the origin declares of the
            // whole.
        } else if left.anew {
            self.whole.begin(self.hasher(), reading.witness);
        } else if start == 0 {
            self.whole.is_declared(reading.witness);
        } else if let Some(later) = reading.witness
            && let Err(error) = self.heed(later, first).await
        {
            return RunEnd::Origin(error);
        }
        if let Some(length) = reading.length {
            if length == 0 {
                self.note_streamed(Some(0));
            }
            if let Err(error) = self.accept_length(length) {
                return self.wrong_length(error);
            }
        }
        let through = reads_everything && (left.anew || reading.start < start);
        let to_the_end = reads_everything && run.end.is_none_or(|end| self.pieces() == Some(end.0));
        let run = if through { OriginRun { end: None, ..run } } else { run };
        // All that stands before the run is compared, too.
        let first = if through { PieceIndex(self.piece_length.count(reading.start)) } else { first };
        let start = if through { self.piece_length.offset(first) } else { start };
        let room = usize::try_from(self.piece_length.bytes()).expect("at most 16 MiB");
        let begun = left.assembly.take().filter(|_| !through);
        let bytes = begun.map_or_else(|| Vec::with_capacity(room), |assembly| assembly.bytes);
        let (reader, anew) = (left.reader, left.anew);
        let before = start - reading.start;
        let mut assembly = Assembly { reader, piece: first, bytes, skip: before, through, anew, to_the_end };
        let (mut body, mut at) = (reading.body, reading.start);
        let mut breaks_off = false;
        loop {
            if !turn.has_begun() && !self.begins_piece(turn, &mut assembly).await {
                return RunEnd::Replan;
            }
            let asked = self.context.now();
            let may_break_off = breaks_off && assembly.to_the_end && !assembly.through;
            let chunk = tokio::select! {
                biased;
                chunk = turn.wait_for(next_chunk(&mut body, left.reader, &self.source)) => chunk,
                () = tokio::time::sleep(ON_ITS_WAY), if may_break_off => {
                    left.assembly = Some(assembly).filter(|assembly| self.can_go_on_after(assembly));
                    return RunEnd::Replan;
                }
                () = self.closed.cancelled() => return RunEnd::Replan,
            };
            let waited = self.context.now().since(asked);
            let mut chunk = match chunk {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => {
                    left.assembly = Some(assembly).filter(|assembly| self.can_go_on_after(assembly));
                    return RunEnd::Origin(error);
                }
                None => break,
            };
            let length = chunk.len() as u64;
            at += length;
            skip(&mut chunk, &mut assembly.skip);
            // Bytes that came before and were lost are no progress: an origin may break off at the same byte for ever.
            if !chunk.is_empty() && assembly.piece >= run.first && at > left.reached {
                (left.progress, left.reached, left.again) = (self.context.now(), at, 0);
                self.moved();
            } else if at > left.again {
                left.again = at;
                self.moved();
            }
            let is_held_up = self.meter_origin(length).await;
            if !through {
                breaks_off = self.origin_came(left.reader, length, waited, is_held_up);
            }
            while !chunk.is_empty() {
                // While the length is unknown, a full piece waits for the next byte: it may be the blob's only one.
                if assembly.bytes.len() == room {
                    turn.end();
                    if let Some(end) = self.piece_came(&mut assembly).await {
                        return end;
                    }
                }
                let take = chunk.len().min(room - assembly.bytes.len());
                assembly.bytes.extend_from_slice(&chunk.split_to(take));
                if self.is_whole_piece(&assembly) {
                    turn.end();
                    if let Some(end) = self.piece_came(&mut assembly).await {
                        return end;
                    }
                }
            }
        }
        turn.end();
        self.end_of_body(run, assembly, left).await
    }

    /// True if the rest of a piece can be asked for, and be known to be of the same version.
    fn can_go_on_after(&self, assembly: &Assembly) -> bool {
        // A full piece may be the last one of a blob whose length is not known.
        self.can_be_continued() && assembly.bytes.len() as u64 != self.piece_length.bytes()
    }

    /// The body ended: of a blob of unknown length, that was its end.
    async fn end_of_body(self: &Arc<Self>, run: OriginRun, mut assembly: Assembly, left: &mut Leftover) -> RunEnd {
        let is_all = assembly.through && assembly.anew;
        if assembly.piece < run.first {
            return self.ended_before(run, &assembly);
        }
        if assembly.skip > 0 {
            let text = format!("{} ended before what it sent at first", self.source);
            return RunEnd::Origin(OriginError::new(ErrorKind::Truncated, text));
        }
        if self.stored.length().is_none() {
            let length = self.piece_length.offset(assembly.piece) + assembly.bytes.len() as u64;
            if length == 0 {
                let mut hashing = self.whole.take().await;
                let verdict = hashing.witness.take().map(Witness::verdict);
                self.whole.give_back(hashing);
                if let Some(Err(error)) = verdict {
                    return RunEnd::Origin(error);
                }
            }
            self.note_streamed(Some(length));
            if let Err(error) = self.accept_length(length) {
                return RunEnd::Here(error);
            }
            if !assembly.bytes.is_empty()
                && let Some(end) = self.piece_came(&mut assembly).await
            {
                return end;
            }
        } else if run.end != Some(assembly.piece) && self.pieces() != Some(assembly.piece.0) {
            // Not every origin says how much it sends. Asked again at once, it might end early for ever.
            let text = format!("{} ended within piece {}", self.source, assembly.piece);
            left.assembly = Some(assembly).filter(|assembly| self.can_go_on_after(assembly));
            return RunEnd::Origin(OriginError::new(ErrorKind::Truncated, text));
        }
        if is_all {
            self.is_one_version();
        }
        RunEnd::Replan
    }

    /// Returns true if the agent's own limit held it up.
    pub(super) async fn meter_origin(&self, bytes: u64) -> bool {
        self.context.metrics.origin_bytes.inc_by(bytes);
        self.context.origin_budget.take_saying(u32::try_from(bytes).unwrap_or(u32::MAX)).await
    }

    fn accept_length(self: &Arc<Self>, length: u64) -> Result<(), FetchError> {
        if self.stored.length() == Some(length) {
            return Ok(());
        }
        check_length(&self.source, self.piece_length, length)?;
        self.stored.set_length(length)?;
        self.total_known();
        Ok(())
    }

    /// Takes the piece in hand: where all of an answer is read, one that is here is compared.
    async fn piece_came(self: &Arc<Self>, assembly: &mut Assembly) -> Option<RunEnd> {
        if assembly.through && self.stored.holds(assembly.piece) {
            return self.compare_piece(assembly).await;
        }
        self.may_be_of_another_version(assembly);
        self.store_piece(assembly).await
    }

    fn is_whole_piece(&self, assembly: &Assembly) -> bool {
        let Some(length) = self.stored.length() else { return false };
        assembly.bytes.len() as u64 == self.piece_length.range(assembly.piece, length).len()
    }

    /// Hashes and stores the piece in hand, and goes on to the next; says how the run ends if it does.
    async fn store_piece(self: &Arc<Self>, assembly: &mut Assembly) -> Option<RunEnd> {
        let piece = assembly.piece;
        let bytes = std::mem::take(&mut assembly.bytes);
        let length = bytes.len() as u64;
        let (stored, piece_length) = (Arc::clone(&self.stored), self.piece_length);
        let only = stored.length().is_some_and(|length| piece_length.count(length) == 1);
        let is_last = stored.length() == Some(piece_length.offset(piece) + length);
        let mut hashing = self.whole.take_at(piece_length.offset(piece));
        let put = self.context.disk.run(move || {
            let put = Fresh { piece, piece_length, bytes: &bytes, only, is_last }.put(&*stored, &mut hashing);
            (put, bytes, hashing)
        });
        let (put, mut bytes, hashing) = put.await;
        match (hashing, &put) {
            (Some(hashing), Ok(Ok(_))) => self.hashed(hashing),
            (Some(hashing), _) => self.whole.give_back(hashing),
            (None, Ok(Ok(_))) => self.hash_if_next(piece),
            (None, _) => {}
        }
        match put {
            Ok(Err(error)) => return Some(RunEnd::Origin(error)),
            Ok(Ok(put)) => {
                bytes.clear();
                assembly.bytes = bytes;
                assembly.piece = PieceIndex(piece.0 + 1);
                match put {
                    Put::Stored => {
                        self.learned_run(&mut self.state.lock(), piece.0..piece.0 + 1);
                        self.total_known();
                        self.stored_piece(piece, length, None, Giver::Origin);
                        self.read_beside();
                    }
                    Put::AlreadyHeld => self.is_here(piece),
                }
            }
            // The hash is from an earlier reading: the origin has other bytes now, under the same version.
            Err(StoreError::WrongPiece { .. }) => {
                let text = format!("{} changed while it was read (piece {piece})", self.source);
                return Some(RunEnd::Origin(OriginError::new(ErrorKind::Changed, text)));
            }
            Err(error) => return Some(RunEnd::Here(error.into())),
        }
        if matches!(assembly.reader, OriginReader::Beside(_)) && self.stored.passes() {
            return Some(RunEnd::Replan);
        }
        if let Err(error) = self.room_to_read(assembly.piece).await {
            return Some(RunEnd::Here(error));
        }
        (!self.reads_on(assembly)).then_some(RunEnd::Replan)
    }

    /// This agent can't lead this swarm to its end: the members look elsewhere, the readers here learn why.
    pub(super) fn give_up(self: &Arc<Self>, error: &FetchError) {
        let failure = error.to_failure();
        for node in self.member_nodes() {
            self.fleet.say(node, &Message::Failed { blob: self.blob, failure: failure.clone() });
        }
        self.fail(error.clone());
    }
}

/// The next bytes of a body. A connection besides others is not waited for as long: what it was to read can be read by them.
pub(super) async fn next_chunk(
    body: &mut darter_origin::Body,
    reader: OriginReader,
    source: &Source,
) -> Option<Result<Bytes, OriginError>> {
    if !matches!(reader, OriginReader::Beside(_)) {
        return body.next().await;
    }
    tokio::time::timeout(MAX_SILENCE, body.next()).await.unwrap_or_else(|_| {
        let text = format!("{source} sent nothing for {} s on one of several connections", MAX_SILENCE.as_secs());
        Some(Err(OriginError::new(ErrorKind::Timeout, text)))
    })
}

/// True if the origin does not take these credentials, and may take others.
pub(super) const fn is_refusal(error: &OriginError) -> bool {
    matches!(error.kind(), ErrorKind::Unauthorized { .. } | ErrorKind::Forbidden)
}

fn skip(chunk: &mut Bytes, skip: &mut u64) {
    let skipped = usize::try_from(*skip).unwrap_or(usize::MAX).min(chunk.len());
    let _ = chunk.split_to(skipped);
    *skip -= skipped as u64;
}

/// Refuses lengths that an origin may claim but no swarm can carry.
pub(crate) fn check_length(source: &Source, pieces: PieceLength, length: u64) -> Result<(), OriginError> {
    if length <= MAX_BLOB_LENGTH && pieces.count(length) <= MAX_PIECES {
        return Ok(());
    }
    let text = format!("{source} is said to have {length} bytes, more than darter can carry; fetch it without");
    Err(OriginError::new(ErrorKind::Protocol, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_no_swarm_can_carry_are_refused() {
        let (source, _) = Source::from_url("http://a.example/b".parse().unwrap(), &[], None);
        let fits = |length| check_length(&source, PieceLength::for_blob(length), length).is_ok();
        assert!(fits(0) && fits(1 << 40));
        assert!(!fits(1 << 60) && !fits(u64::MAX));
    }
}
