//! Further connections to an origin that serves several connections faster than one.
//!
//! The session decides whether there are any, and what each of them reads; it is told what arrives on each. The failure
//! of one of them ends nothing: the reader of everything goes on, and reads what the other one was to read. If a connection broke, or sent
//! nothing for a moment, fewer connections read for a while. An origin that answers a range with the whole, with an error, or with a request for a pause, is
//! read by one connection from then on, and so are its other blobs for a while (see [`manners`](super::manners)). A request for a pause on one
//! connection applies to all that read the blob.
//!
//! The first further connection is a *trial*: the first bytes of its stretch show whether both together are faster. Nothing is read twice for that, nor when connections are given up: a
//! connection reads what it has requested. So the first request for a large blob is for a stretch, too ([`first_stretch`](crate::swarms)).
//!
//! A connection reads a stretch at a time, with the version and the credentials of the first one, and takes its turns as any reader does
//! (see [`turns`](super::turns)): if other blobs are read at the same time, they share the connections, and none begins another stretch while
//! another reader waits.
//!
//! Never read by several connections: blobs that pass through without being stored, local files, content whose answers can't be compared for their
//! version, and signed addresses, which may expire before the last request is made.

use std::sync::Arc;
use std::time::Duration;

use darter_core::source::{Credentials, SIGNED_QUERY};
use darter_core::{Blamed as _, ByteRange, Moment, PieceIndex, Source, in_full};
use darter_origin::{ErrorKind, OriginError, Reading, RetryPolicy};
use darter_store::size;
use darter_swarm::{Gave, Input, OriginReader, OriginRun, Widening};

use super::Transfer;
use super::after_run::is_refusal;
use super::body::{Leftover, RunEnd};
use super::dissolve::origin_of;
use super::manners::limits;

/// How long such a connection may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// True if an address is signed: the signature may expire before the last request is made.
pub(crate) fn is_signed(credentials: &Credentials) -> bool {
    credentials.headers.iter().any(|(name, _)| name == SIGNED_QUERY)
}

/// The number of connections by which an origin may be read.
pub(super) struct Connections {
    pub(super) most: u8,
    /// Until when another blob's trial counts, which showed that more connections are no faster.
    pub(super) known_until: Option<Moment>,
}

/// What the end of one connection means for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consequence {
    Nothing,
    /// Fewer connections for a while.
    Fewer,
    /// One connection from now on.
    Alone,
}

impl Transfer {
    /// By how many connections the origin may be read at a time.
    pub(super) fn origin_connections(&self) -> Connections {
        let (now, origin) = (self.context.now(), origin_of(&self.source));
        // A source on this host is not read faster by several readers.
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
        is_signed(self.state().callers.current())
    }

    /// `bytes` of the origin arrived after a wait of `waited`; `is_held_up` is true if this agent's own limit delayed them.
    pub(super) fn origin_gave(&self, reader: OriginReader, bytes: u64, waited: Duration, is_held_up: bool) {
        let now = self.context.now();
        let mut state = self.state();
        let given_back = self.context.origin_turns.given_back();
        let others_gave_back = std::mem::replace(&mut state.given_back, given_back) != given_back;
        let gave = Gave { reader, bytes, waited, is_held_up, others_gave_back };
        state.session.handle(Input::OriginGave(gave), self, now);
    }

    /// The number of connections was decided: notes the reason.
    pub(super) fn widened(&self, widening: Widening) {
        let now = self.context.now();
        if let Widening::Back { connections: 1, .. } | Widening::NoLimit { .. } = widening {
            self.context.manners.gained_nothing(&origin_of(&self.source), now);
        }
        let mut state = self.state();
        if !matches!(widening, Widening::Wider { .. }) {
            state.given_back = self.context.origin_turns.give_back();
        }
        state.journal.note(now, told(widening));
    }

    /// Fewer connections read from now on.
    pub(super) fn narrowed(&self, before: u8, after: u8, why: &str) {
        self.note(format!("reading the origin by {before} connections: {why}; going on with {after}"));
    }

    /// The origin does not want several connections (for this time, if it named one): one connection reads this blob from now on.
    pub(crate) fn origin_is_read_alone(&self, asked: Option<Duration>, why: &str) {
        let now = self.context.now();
        self.context.manners.refused(&origin_of(&self.source), asked, now);
        self.tell(Input::OriginRefused { why: why.to_owned() });
    }

    /// True if this blob's origin is to be read by one connection, even if more would be faster.
    pub(super) fn reads_alone(&self) -> bool {
        self.stored.passes() || self.context.manners.is_alone(&origin_of(&self.source), self.context.now())
    }

    /// True if the agent may make a further connection with this number: the limit is for all its blobs.
    pub(super) fn has_connection(&self, number: u8) -> bool {
        let turns = &self.context.origin_turns;
        turns.has_room() && turns.has_beside() && turns.shares_beside(number, self.context.fetching.count())
    }

    /// Waits until the pause is over that the origin requested on another connection. Returns how long that was.
    pub(super) async fn wait_for_rest(&self) -> Duration {
        let now = self.context.now();
        let rest = self.state().session.asked_to_rest(now);
        if rest.is_zero() {
            return rest;
        }
        let text = format!("{} asked for a pause on another connection", self.source);
        let _told = self.context.pauses.begin(&self.source, text, rest);
        self.pause_reading(rest).await;
        rest
    }

    /// A further connection reads a stretch.
    pub(super) fn read_beside(self: &Arc<Self>, reader: OriginReader, run: OriginRun) {
        // Another blob may have taken the connection since the session asked for it.
        let Some(connection) = self.context.origin_turns.beside() else {
            return self.tell(Input::ReadEnded { reader });
        };
        let transfer = Arc::clone(self);
        self.spawn(async move {
            let (began, caller) = (transfer.context.now(), transfer.state().callers.current().clone());
            let end = transfer.read_stretch(reader, run, &caller).await;
            transfer.after_stretch(end, began, &caller).await;
            // The connection is free for the next reader at once.
            drop(connection);
            transfer.tell(Input::ReadEnded { reader });
        });
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

    /// Requests a range, and waits for the answer for at most `ANSWER_TIMEOUT`.
    async fn open_part(&self, range: Option<ByteRange>, credentials: &Credentials) -> Result<Reading, OriginError> {
        let requester = self.state().requester;
        let origin = self.context.origins.once(requester);
        let opened = origin.read(&self.source, credentials, range, self.expected());
        tokio::time::timeout(ANSWER_TIMEOUT, opened).await.unwrap_or_else(|_| {
            let text = format!("{} did not answer for {} s", self.source, ANSWER_TIMEOUT.as_secs());
            Err(OriginError::new(ErrorKind::Timeout, text))
        })
    }

    /// What follows from the end of a stretch that began at `began`, with these credentials.
    async fn after_stretch(self: &Arc<Self>, end: RunEnd, began: Moment, caller: &Credentials) {
        let is_refused = matches!(&end, RunEnd::Origin(error) if is_refusal(error) && !limits(error));
        let others_may = is_refused && {
            let others_may = self.state().callers.refused(caller);
            if !others_may {
                self.tell(Input::OriginShut);
            }
            others_may
        };
        let consequence = if others_may { Consequence::Fewer } else { consequence(&end) };
        let (why, asked) = match end {
            RunEnd::Replan => return,
            // The reader of everything will meet the same failure.
            RunEnd::Here(error) => (in_full(&error).to_string(), None),
            RunEnd::Whole(_) => ("the origin gave all of it though a part was requested".to_owned(), None),
            RunEnd::Origin(error) if *error.kind() == ErrorKind::Contradicted => {
                return self.dissolve(error.into()).await;
            }
            RunEnd::Origin(error) => {
                if limits(&error) {
                    let patience = self.context.options.origin_patience;
                    let pause = RetryPolicy::patient(patience).pause(1, Duration::ZERO, &error);
                    self.tell(Input::OriginAsksForRest(pause.unwrap_or(patience)));
                }
                (in_full(&error).to_string(), error.retry_after())
            }
        };
        match consequence {
            Consequence::Nothing => {}
            Consequence::Fewer => self.tell(Input::OriginFailed { began, why }),
            // A refusal for one caller says nothing about other blobs.
            Consequence::Alone if is_refused => self.tell(Input::OriginRefused { why }),
            Consequence::Alone => self.origin_is_read_alone(asked, &why),
        }
    }
}

fn consequence(end: &RunEnd) -> Consequence {
    match end {
        RunEnd::Replan => Consequence::Nothing,
        // If the disk fails, the same stretch would be requested again and again.
        RunEnd::Here(_) => Consequence::Fewer,
        RunEnd::Whole(_) => Consequence::Alone,
        RunEnd::Origin(error) if *error.kind() == ErrorKind::UnknownName => Consequence::Fewer,
        RunEnd::Origin(error) if error.blame().retry.is_later() && !limits(error) => Consequence::Fewer,
        RunEnd::Origin(_) => Consequence::Alone,
    }
}

/// The decision as a sentence.
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
