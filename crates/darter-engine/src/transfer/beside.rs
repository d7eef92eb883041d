//! Further connections to an origin that gives several more than one.
//!
//! Whether there are any, and what each reads, is the swarm's decision (`darter_swarm::Lead`), which is told what comes on each. A failure
//! of one of them ends nothing: the reader of everything goes on, and reads what another was to read and did not. Where one's connection
//! broke, or sent nothing for a moment, fewer read for a while. An origin that answers a range with everything, with an error, or with the
//! wish to be left alone, is read by one connection from then on, and so are its other blobs for a while (see [`manners`](super::manners)).
//! What it says to one connection about waiting holds for all that read the blob.
//!
//! The first of them *tries*: it reads a little, which tells whether both get more than one, and throws it away.
//!
//! A connection reads a stretch at a time, with the version and the credentials that the first one has, and takes its turns as any reader does
//! (see [`turns`](super::turns)): where other blobs are read at the same time they share the connections, and none begins another stretch while
//! somebody waits.
//!
//! Not by several: what passes through without being kept, local files, content of which nothing tells whether two answers are of the same
//! version, and signed addresses, which may expire before the last request is made.

use std::sync::Arc;
use std::time::Duration;

use darter_core::source::{Credentials, SIGNED_QUERY};
use darter_core::{Blamed as _, ByteRange, Moment, PieceIndex, Source, in_full};
use darter_origin::{ErrorKind, OriginError, Reading, RetryPolicy};
use darter_store::size;
use darter_swarm::{Lead as SwarmLead, OriginReader, OriginRun, Widening};

use super::body::{Leftover, RunEnd, next_chunk};
use super::dissolve::origin_of;
use super::manners::limits;
use super::reading::is_refusal;
use super::{Lead, Transfer, TransferState};

/// How long it may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The connection that tries.
const TRIAL: u8 = 0;

/// By how many connections an origin may be read.
pub(super) struct Connections {
    pub(super) most: u8,
    /// Until when it is known from another blob that more than one get nothing.
    pub(super) known_until: Option<Moment>,
}

/// The consequence of one connection's end for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consequence {
    Nothing,
    /// There are fewer for a while.
    Fewer,
    /// One reads, for good.
    Alone,
}

impl Transfer {
    /// By how many connections the origin may be read at a time.
    pub(super) fn origin_connections(&self) -> Connections {
        let (now, origin) = (self.context.now(), origin_of(&self.source));
        // Nothing is gained by several readers of what lies on this host.
        let is_here = match &self.source {
            Source::Url { url, .. } => url.scheme() == "file",
            Source::Registry { .. } => false,
            Source::Expanded(_) => true,
        };
        let is_one = is_here || self.stored.passes() || !self.can_be_continued() || self.is_signed();
        let is_one = is_one || self.context.manners.is_alone(&origin, now);
        let most = if is_one { 1 } else { self.context.options.origin_connections.max(1) };
        Connections { most, known_until: self.context.manners.known_until(&origin, now) }
    }

    fn is_signed(&self) -> bool {
        self.state.lock().callers.current().headers.iter().any(|(name, _)| name == SIGNED_QUERY)
    }

    /// Bytes of the origin came that were `waited` for so long, and this agent's own limit held them up or not. Returns true if an answer
    /// for everything is to be broken off at the next moment when nothing of it is on its way.
    pub(super) fn origin_came(
        self: &Arc<Self>,
        reader: OriginReader,
        bytes: u64,
        waited: Duration,
        is_held_up: bool,
    ) -> bool {
        let now = self.context.now();
        let (are_more, is_trial_due, may_break_off) = {
            let mut state = self.state.lock();
            let is_shut_out = state.is_shut_out;
            let turns = &self.context.origin_turns;
            let given_back = turns.given_back();
            let others_gave_back = std::mem::replace(&mut state.given_back, given_back) != given_back;
            let Some(books) = state.session.books_mut() else { return false };
            let lead = books.lead_mut();
            let before = lead.connections();
            if is_held_up {
                lead.origin_held_up();
            }
            if others_gave_back {
                lead.origin_given_back(now);
            }
            let widening = lead.origin_came(reader, bytes, waited, now);
            let (are_more, is_trial_due) = (lead.connections() > before, lead.is_origin_trial_due());
            // Where no other answer would be given, the one that is open goes on to the end.
            let may_break_off = reader == OriginReader::Everything && !is_shut_out && lead.may_break_off();
            if let Some(Widening::Back { connections: 1, .. } | Widening::NoLimit { .. }) = widening {
                self.context.manners.gained_nothing(&origin_of(&self.source), now);
            }
            if let Some(widening) = widening {
                if !matches!(widening, Widening::Wider { .. }) {
                    state.given_back = turns.give_back();
                }
                state.journal.note(now, told(widening));
            }
            (are_more, is_trial_due, may_break_off)
        };
        if are_more {
            self.read_beside();
        }
        if is_trial_due {
            self.try_another();
        }
        may_break_off
    }

    /// The origin does not want several connections, for this time if it said one: one reads this blob from now on.
    pub(super) fn origin_is_read_alone(&self, asked: Option<Duration>, why: &str) {
        let now = self.context.now();
        self.context.manners.refused(&origin_of(&self.source), asked, now);
        self.narrows(why, |lead| lead.origin_refused(now));
    }

    /// Fewer connections may read from now on.
    fn narrows(&self, why: &str, narrow: impl FnOnce(&mut SwarmLead)) {
        let now = self.context.now();
        let mut state = self.state.lock();
        let Some(books) = state.session.books_mut() else { return };
        let lead = books.lead_mut();
        let before = lead.connections() + u8::from(lead.is_origin_tried());
        narrow(lead);
        let after = lead.connections();
        if after < before {
            let what = format!("reading the origin by {before} connections: {why}; going on with {after}");
            state.journal.note(now, what);
        }
    }

    /// The origin asked for a pause: nobody asks it for anything of this blob before it is over.
    pub(super) fn origin_rests(&self, pause: Duration) {
        let until = self.context.now() + pause;
        let mut state = self.state.lock();
        state.origin_rests = state.origin_rests.max(until);
    }

    /// Waits until the pause is over that the origin asked another connection for. How long that was.
    pub(super) async fn wait_for_rest(&self) -> Duration {
        let now = self.context.now();
        let rest = self.state.lock().origin_rests.since(now);
        if rest.is_zero() {
            return rest;
        }
        let text = format!("{} asked for a pause on another connection", self.source);
        let _told = self.context.pauses.begin(&self.source, text, rest);
        self.pause_reading(rest).await;
        rest
    }

    /// Starts a second connection that tries whether both get more, if there may be one now.
    fn try_another(self: &Arc<Self>) {
        let turns = &self.context.origin_turns;
        let is_alone = self.context.manners.is_alone(&origin_of(&self.source), self.context.now());
        if is_alone || !turns.shares_beside(TRIAL, self.context.fetching.count()) {
            return;
        }
        let Some(connection) = turns.beside() else { return };
        let range = {
            let mut state = self.state.lock();
            let leads = state.lead() == Lead::Me && state.session.course().is_open() && !self.closed.is_cancelled();
            let may_read = leads && !state.in_order_only && !state.session.compares() && !state.beside.contains(&TRIAL);
            let now = self.context.now();
            let books = state.session.books_mut().filter(|_| may_read);
            let range = books.and_then(|books| books.lead_mut().origin_trial(now));
            if range.is_some() {
                state.beside.insert(TRIAL);
            }
            range
        };
        let Some(range) = range else { return };
        let transfer = Arc::clone(self);
        self.tasks.spawn(async move {
            let _connection = connection;
            let (began, caller) = (transfer.context.now(), transfer.state.lock().callers.current().clone());
            let end = tokio::select! {
                end = transfer.read_for_nothing(range, &caller) => end,
                () = transfer.closed.cancelled() => RunEnd::Replan,
            };
            transfer.state.lock().beside.remove(&TRIAL);
            transfer.after_stretch(end, began, &caller).await;
            // More may have been found to be good when its last bytes came.
            transfer.read_beside();
        });
    }

    /// Reads a part of the origin that nobody keeps.
    async fn read_for_nothing(self: &Arc<Self>, range: ByteRange, credentials: &Credentials) -> RunEnd {
        let reader = OriginReader::Beside(TRIAL);
        let mut reading = match self.open_part(Some(range), credentials).await {
            Ok(reading) if reading.start == range.start() => reading,
            Ok(whole) => return RunEnd::Whole(whole),
            Err(error) => return RunEnd::Origin(error),
        };
        let _connection = self.context.metrics.origin_connection();
        let mut lacks = range.len();
        while lacks > 0 {
            let bytes = match next_chunk(&mut reading.body, reader, &self.source).await {
                Some(Ok(chunk)) => lacks.min(chunk.len() as u64),
                Some(Err(error)) => return RunEnd::Origin(error),
                None => {
                    let text = format!("{} ended before what it was asked for", self.source);
                    return RunEnd::Origin(OriginError::new(ErrorKind::Truncated, text));
                }
            };
            lacks -= bytes;
            let is_held_up = self.meter_origin(bytes).await;
            self.origin_came(reader, bytes, Duration::ZERO, is_held_up);
        }
        // The connection is of use to the next request when the answer's end was seen.
        let _end = next_chunk(&mut reading.body, reader, &self.source).await;
        RunEnd::Replan
    }

    /// Starts the connections that are to read and do not.
    pub(super) fn read_beside(self: &Arc<Self>) {
        let idle: Vec<u8> = {
            let state = self.state.lock();
            let connections = state.session.books().map_or(1, |books| books.lead().connections());
            (0..connections - 1).filter(|number| !state.beside.contains(number)).collect()
        };
        for number in idle {
            let Some(connection) = self.context.origin_turns.beside() else { return };
            // One that was slow may read nothing though others may.
            let Some(run) = self.next_stretch(number, true) else { continue };
            let transfer = Arc::clone(self);
            self.tasks.spawn(async move {
                let _connection = connection;
                transfer.read_stretches(number, run).await;
            });
        }
    }

    /// The next stretch of a connection; `None` ends it. One that `begins` may have been begun by others meanwhile.
    fn next_stretch(&self, number: u8, begins: bool) -> Option<OriginRun> {
        let (now, known) = (self.context.now(), self.stored.known());
        let reader = OriginReader::Beside(number);
        let turns = &self.context.origin_turns;
        let has_room = turns.has_room() && turns.shares_beside(number, self.context.fetching.count());
        let is_alone = self.stored.passes() || self.context.manners.is_alone(&origin_of(&self.source), now);
        let mut state = self.state.lock();
        if begins && state.beside.contains(&number) {
            return None;
        }
        if let Some(books) = state.session.books_mut().filter(|_| is_alone) {
            // Or else who reads everything would ask for a stretch at a time, as if there were others.
            books.lead_mut().origin_refused(now);
        }
        let leads = state.lead() == Lead::Me && state.session.course().is_open() && !self.closed.is_cancelled();
        let may_read = has_room && !is_alone && leads && !state.in_order_only && !state.session.compares();
        let TransferState { session, beside, .. } = &mut *state;
        let mut books = session.books_mut();
        let run =
            books.as_mut().filter(|_| may_read).and_then(|books| books.lead_mut().origin_plan(reader, &known, now));
        match (books, run) {
            (Some(books), Some(run)) => {
                books.lead_mut().begins(reader, run);
                beside.insert(number);
            }
            (books, _) => {
                if books.is_some_and(|books| books.lead_mut().reads(reader, None)) {
                    self.replan();
                }
                beside.remove(&number);
            }
        }
        run
    }

    async fn read_stretches(self: &Arc<Self>, number: u8, first: OriginRun) {
        let mut run = Some(first);
        while let Some(stretch) = run {
            let (began, caller) = (self.context.now(), self.state.lock().callers.current().clone());
            let end = self.read_stretch(OriginReader::Beside(number), stretch, &caller).await;
            self.after_stretch(end, began, &caller).await;
            run = self.next_stretch(number, false);
        }
        self.ring();
    }

    async fn read_stretch(self: &Arc<Self>, reader: OriginReader, run: OriginRun, credentials: &Credentials) -> RunEnd {
        let mut left = Leftover::new(reader, self.context.now());
        let mut turn = self.context.origin_turns.reader();
        if !self.begins(reader, &mut turn, run.first).await {
            return RunEnd::Replan;
        }
        if run.first > PieceIndex(0) {
            self.joined_parts();
        }
        let opened = tokio::select! {
            opened = turn.wait_for(self.open_part(self.range_of(run, &left), credentials)) => opened,
            () = self.closed.cancelled() => return RunEnd::Replan,
        };
        match opened {
            Ok(reading) => self.consume(run, reading, &mut turn, &mut left).await,
            Err(error) => RunEnd::Origin(error),
        }
    }

    /// Asks for a part, and waits no longer for the answer than another connection can wait.
    async fn open_part(&self, range: Option<ByteRange>, credentials: &Credentials) -> Result<Reading, OriginError> {
        let requester = self.state.lock().requester;
        let origin = self.context.origins.once(requester);
        let opened = origin.read(&self.source, credentials, range, self.expected());
        tokio::time::timeout(ANSWER_TIMEOUT, opened).await.unwrap_or_else(|_| {
            let text = format!("{} did not answer for {} s", self.source, ANSWER_TIMEOUT.as_secs());
            Err(OriginError::new(ErrorKind::Timeout, text))
        })
    }

    /// The consequences of how a stretch ended that began at `began`, with these credentials.
    async fn after_stretch(self: &Arc<Self>, end: RunEnd, began: Moment, caller: &Credentials) {
        let is_refused = matches!(&end, RunEnd::Origin(error) if is_refusal(error) && !limits(error));
        let others_may = is_refused && {
            let mut state = self.state.lock();
            let others_may = state.callers.refused(caller);
            state.is_shut_out |= !others_may;
            others_may
        };
        let consequence = if others_may { Consequence::Fewer } else { consequence(&end) };
        let (why, asked) = match end {
            RunEnd::Replan => return,
            // The reader of everything meets the same failure.
            RunEnd::Here(error) => (in_full(&error).to_string(), None),
            RunEnd::Whole(_) => ("the origin gave all of it though a part was requested".to_owned(), None),
            RunEnd::Origin(error) if *error.kind() == ErrorKind::Contradicted => {
                return self.dissolve(error.into()).await;
            }
            RunEnd::Origin(error) => {
                if limits(&error) {
                    let patience = self.context.options.origin_patience;
                    let pause = RetryPolicy::patient(patience).pause(1, Duration::ZERO, &error);
                    self.origin_rests(pause.unwrap_or(patience));
                }
                (in_full(&error).to_string(), error.retry_after())
            }
        };
        let now = self.context.now();
        match consequence {
            Consequence::Nothing => {}
            Consequence::Fewer => self.narrows(&why, |lead| lead.origin_failed(began, now)),
            // A refusal to one caller says nothing of other blobs.
            Consequence::Alone if is_refused => self.narrows(&why, |lead| lead.origin_refused(now)),
            Consequence::Alone => self.origin_is_read_alone(asked, &why),
        }
    }
}

fn consequence(end: &RunEnd) -> Consequence {
    match end {
        RunEnd::Replan => Consequence::Nothing,
        // A disk that takes nothing would have the same stretch asked for again and again.
        RunEnd::Here(_) => Consequence::Fewer,
        RunEnd::Whole(_) => Consequence::Alone,
        RunEnd::Origin(error) if *error.kind() == ErrorKind::UnknownName => Consequence::Fewer,
        RunEnd::Origin(error) if error.blame().retry.is_later() && !limits(error) => Consequence::Fewer,
        RunEnd::Origin(_) => Consequence::Alone,
    }
}

/// For people.
fn told(widening: Widening) -> String {
    let rate = |rate: u64| format!("{}/s", size(rate));
    match widening {
        Widening::Wider { connections, tried, rate: got, before } => {
            let got =
                format!("{tried} connections to the origin get {} together, fewer got {}", rate(got), rate(before));
            if connections > tried {
                format!("{got}: reading by {connections}")
            } else {
                format!("{got}: going on with {connections}, the most that --origin-connections allows")
            }
        }
        Widening::Back { connections, tried, rate: got, before } => {
            let got = format!("{tried} connections to the origin get {} together", rate(got));
            format!("{got}, {connections} got {}: going on with {connections}", rate(before))
        }
        Widening::NoLimit { tried, rate: got, before } => {
            let got = format!("{tried} connections to the origin get {} together", rate(got));
            format!("{got}, so that the {} of one were no limit: going on with 1", rate(before))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::FetchError;

    #[test]
    fn people_are_told_what_several_connections_get() {
        let wider = |connections, tried| Widening::Wider { connections, tried, rate: 15_900_000, before: 8_000_000 };
        assert_eq!(
            told(wider(4, 2)),
            "2 connections to the origin get 15.9 MB/s together, fewer got 8.0 MB/s: reading by 4"
        );
        assert!(told(wider(8, 8)).ends_with("going on with 8, the most that --origin-connections allows"));
        let back = Widening::Back { connections: 1, tried: 2, rate: 8_100_000, before: 8_000_000 };
        assert_eq!(told(back), "2 connections to the origin get 8.1 MB/s together, 1 got 8.0 MB/s: going on with 1");
        let none = Widening::NoLimit { tried: 4, rate: 80_000_000, before: 1_400_000 };
        assert_eq!(
            told(none),
            "4 connections to the origin get 80.0 MB/s together, so that the 1.4 MB/s of one were no limit: going on with 1"
        );
    }

    #[test]
    fn a_broken_connection_is_no_refusal_and_what_fails_here_is_not_asked_for_without_end() {
        let failed = |kind| consequence(&RunEnd::Origin(OriginError::new(kind, "failed")));
        for kind in [ErrorKind::Truncated, ErrorKind::Unreachable, ErrorKind::Timeout, ErrorKind::Status(502)] {
            assert_eq!(failed(kind), Consequence::Fewer);
        }
        let limited = ErrorKind::RateLimited { retry_after: None };
        for kind in [limited, ErrorKind::Status(503), ErrorKind::Changed, ErrorKind::RangeNotSatisfiable] {
            assert_eq!(failed(kind), Consequence::Alone);
        }
        assert_eq!(consequence(&RunEnd::Here(FetchError::Draining)), Consequence::Fewer);
        assert_eq!(consequence(&RunEnd::Replan), Consequence::Nothing);
    }
}
