//! The lead reads the origin, once for all: in order, from the first piece that nobody has, each piece hashed
//! and stored as soon as it is complete ([`body`](super::body)); and concurrently, on *errands*, what a reader waits for anywhere in the blob. If several
//! connections are faster than one, others read further stretches (see [`beside`](super::beside)).
//!
//! The session decides what to read next (`Output::Read`), and is asked after each piece whether to go on: if a member joins
//! that has the next piece, the run ends, and the piece comes from it. An origin that can only be read from its first byte on, because it serves no ranges or
//! nothing distinguishes its versions, gets no errands: all of it is read, and `darter explain` says so. If a body breaks off, it is continued by
//! range, with the version checked; an origin without ranges, or that answers ranges with anything else, is read from its start again and
//! the known bytes are skipped (see [`parts`](super::parts)). If nothing shows whether it is the same version, it is read from its start, too, and
//! compared (see [`anew`](super::anew) and [`through`](super::through)). The bytes of an unfinished piece are kept for that, if the version can be
//! checked: so even an origin that cuts each answer off after some bytes is read to the end. The origin has failed when it sent no byte for
//! `--origin-patience`.

use std::sync::Arc;
use std::time::Duration;

use darter_core::{ByteRange, Moment, PieceIndex, Source, Version, in_full};
use darter_origin::{ErrorKind, OriginError, Reading, RetryPolicy};
use darter_swarm::{AtPiece, FIRST_STRETCH, Input, OriginReader, OriginRun, ReadsOn};

use super::Transfer;
use super::body::{Leftover, RunEnd};
use super::manners::limits;
use super::parts::{FailedReading, Next, RangeSupport};
use super::turns::Turn;
use crate::error::FetchError;
use crate::expanding::HEAD;

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
        self.tell_and(Input::ReadsAll { in_order: why.is_some() }, |state, now| {
            if let Some(answer) = answer {
                state.readers.opened(answer, now);
            }
        });
    }

    /// Reads a run with what the previous one left. Returns false if its reader is done.
    async fn read_run(self: &Arc<Self>, run: OriginRun, left: &mut Leftover) -> bool {
        let reader = left.reader;
        let on_errands = reader == OriginReader::Errands;
        if left.began.is_none() {
            left.began = Some(self.context.now());
            if self.stored.held().is_empty() && !on_errands {
                self.whole.begin(self.hasher(), None);
            }
            left.anew = !on_errands && self.compares();
        }
        let policy = RetryPolicy::patient(self.context.options.origin_patience);
        let stands_beside_others = run.first.0 > 0 || self.stored.known_count() > 0;
        let is_unproven = stands_beside_others && !self.can_be_continued();
        if on_errands && is_unproven {
            let why = "nothing tells whether two answers of the origin are of the same version";
            self.read_in_order(None, Some(why));
            return false;
        }
        let gives_parts = !self.source.is_headed_last();
        let begins_where_it_may = |reading: &Reading| match gives_parts {
            true => run.first.0 == 0 && reading.start == 0,
            false => reading.start <= self.piece_length.offset(run.first),
        };
        let opened = left.answer.take().filter(begins_where_it_may);
        if left.tries == 0 {
            // There may have been nothing to read for a long time.
            left.progress = self.context.now();
        }
        let progress_before = left.progress;
        left.anew |= is_unproven;
        left.assembly = left.assembly.take().filter(|assembly| assembly.piece == run.first && !left.anew);
        if opened.is_none() {
            let rest = self.wait_for_rest().await;
            if !rest.is_zero() {
                // The pause was requested: it is no failure.
                left.progress = left.progress + rest;
                return true;
            }
        }
        let run = self.ends_with(run, opened.as_ref());
        let asked_part = gives_parts && opened.is_none() && !left.anew && self.range_of(run, left).is_some();
        let caller = self.state().callers.current().clone();
        let mut turn = self.context.origin_turns.reader();
        let end = match opened {
            Some(reading) => self.consume(run, reading, &mut turn, left).await,
            // Waits for the turn first: an origin must not have to wait with an open body that nobody reads.
            None if self.begins(reader, &mut turn, run.first).await => tokio::select! {
                opened = turn.wait_for(self.open_run(run, left)) => match opened {
                    Ok(reading) => self.consume(run, reading, &mut turn, left).await,
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
                self.read_in_order(Some(reading), Some(why));
                return false;
            }
            RunEnd::Origin(error) if on_errands && self.is_another_version(&error) => {
                self.read_in_order(None, Some(&format!("reading a part of the origin: {error}")));
                return false;
            }
            end => end,
        };
        match end {
            RunEnd::Replan => {
                (left.tries, left.reached, left.again) = (0, 0, 0);
                left.anew = !on_errands && self.compares();
            }
            RunEnd::Here(error) => {
                self.give_up(&error);
                self.clear_unfit().await;
                return false;
            }
            RunEnd::Whole(_) => {}
            // No part of it can be told right from wrong.
            RunEnd::Origin(error) if self.is_all_wrong(&error) => {
                self.dissolve(error.into()).await;
                return false;
            }
            RunEnd::Origin(error) if is_refusal(&error) && self.state().callers.refused(&caller) => {
                self.note(format!(
                    "reading the origin: {}; going on with another caller's credentials",
                    in_full(&error)
                ));
            }
            RunEnd::Origin(error) if self.is_another_length(&error) => {
                self.supersede(error.into()).await;
                return false;
            }
            RunEnd::Origin(error) if self.is_another_version(&error) => {
                if left.anew {
                    let error = self.doubt_last_lead(error.into());
                    self.supersede(error).await;
                    return false;
                }
                self.note(format!("reading the origin: {}; comparing it from the first byte on", in_full(&error)));
                (left.anew, left.assembly, left.again) = (true, None, 0);
            }
            RunEnd::Origin(error) => {
                let moved_on = left.progress > progress_before;
                let others_read = self.state().session.is_read_beside();
                match left.parts.after(FailedReading { asked_part, moved_on, others_read }, &error) {
                    Next::AsBefore => {}
                    Next::Whole | Next::Compared if on_errands => {
                        self.read_in_order(None, Some(&format!("reading a part of the origin: {error}")));
                        return false;
                    }
                    Next::Whole => {
                        let told = in_full(&error);
                        self.note(format!("reading the origin by range: {told}; reading it from the first byte"));
                        return true;
                    }
                    // No byte of that range can be relied on.
                    Next::Compared => {
                        self.note(format!(
                            "reading the origin by range: {}; comparing it from the first byte on",
                            in_full(&error)
                        ));
                        left.assembly = None;
                        left.anew = matches!(self.source, Source::Url { .. });
                        return true;
                    }
                }
                if moved_on {
                    left.tries = 0;
                }
                left.tries += 1;
                let spent = self.context.now().since(left.progress);
                let in_vain = left.tries > 1 && !self.is_wanted();
                let pause = policy.pause(left.tries, spent, &error).filter(|_| !in_vain);
                let Some(pause) = pause else {
                    let error = error.into();
                    self.context.origin_failed(self.setback_key(), &error);
                    self.give_up(&error);
                    return false;
                };
                if limits(&error) {
                    self.origin_is_read_alone(error.retry_after(), &in_full(&error).to_string());
                    self.tell(Input::OriginAsksForRest(pause));
                }
                self.note(format!("reading the origin: {}; continuing", in_full(&error)));
                let _told = self.context.pauses.begin(&self.source, error.to_string(), pause);
                // If a holder does not answer within the pause, it is asked again in a later one.
                let asking = tokio::time::timeout(pause, self.meet_holders());
                let _ = tokio::join!(self.pause_reading(pause), asking);
            }
        }
        true
    }

    /// The run, cut to the end of the open answer, if that is for a range.
    fn ends_with(&self, run: OriginRun, opened: Option<&Reading>) -> OriginRun {
        if self.source.is_headed_last() || opened.is_none_or(|reading| !reading.is_part) {
            return run;
        }
        let end = PieceIndex(self.piece_length.count(FIRST_STRETCH));
        OriginRun { end: Some(run.end.map_or(end, |other| other.min(end))), ..run }
    }

    /// True if the pieces here may be of two versions.
    fn compares(&self) -> bool {
        self.state().session.compares()
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

    /// True if a failure shows that all received bytes are wrong or useless. For an expanded layer, whose digests are checked at the end, this
    /// is also the case if the bytes differ from those of an interrupted read: nothing shows which of the two is right.
    fn is_all_wrong(&self, error: &OriginError) -> bool {
        let is_of_no_use = matches!(error.kind(), ErrorKind::Unmountable | ErrorKind::Changed);
        (self.source.is_headed_last() && is_of_no_use) || *error.kind() == ErrorKind::Contradicted
    }

    /// The error if the store has no space for an expanded layer: what has passed through memory could be had again
    /// only by reading and expanding all of the layer.
    pub(super) fn unfit(&self) -> Option<OriginError> {
        let Source::Expanded(layer) = &self.source else { return None };
        let is_long = self.stored.length().is_none_or(|length| length > HEAD);
        (is_long && self.stored.passes()).then(|| self.context.expansions.has_no_room(layer))
    }

    /// Throws away the part of an expanded layer that has arrived if the layer does not fit, since it is useless.
    async fn clear_unfit(&self) {
        if !(self.source.is_headed_last() && self.stored.passes()) {
            return;
        }
        let stored = Arc::clone(&self.stored);
        if let Err(error) = self.context.disk.run(move || stored.discard()).await {
            tracing::error!(blob = %self.blob.short(), error = %in_full(&error), "the bytes of a blob that did not fit can't be removed");
        }
    }

    /// This agent can't lead this swarm to its end: the members look for another lead, the readers here get the error.
    pub(super) fn give_up(self: &Arc<Self>, error: &FetchError) {
        self.tell(Input::GivesUp(error.to_failure()));
        self.fail(error.clone());
    }
}

/// True if the origin does not accept these credentials, and may accept others.
pub(super) const fn is_refusal(error: &OriginError) -> bool {
    matches!(error.kind(), ErrorKind::Unauthorized { .. } | ErrorKind::Forbidden)
}
