//! Further connections to an origin that gives several more than one.
//!
//! Whether there are any, and what each reads, is the swarm's decision (`darter_swarm::Lead`), which is told what comes on each. What
//! happens to one of them is never the end of anything: the reader of everything goes on, and reads what another was to read and did
//! not. An origin that answers a range with everything, with an error, or with the wish to be left alone is read by one connection from
//! then on; one whose connection broke, or sent nothing for a moment, by fewer for a while.
//!
//! A connection reads a stretch at a time, with the version and the credentials that the first one has, and takes its turns as any reader does
//! (see [`turns`](super::turns)): where other blobs are read at the same time they share the connections, and none begins another stretch while
//! somebody waits.
//!
//! Not by several: what passes through without being kept, local files, and content of which nothing tells whether two answers are of the same
//! version.

use std::sync::Arc;
use std::time::Duration;

use darter_core::{PieceIndex, Source, in_full};
use darter_origin::{ErrorKind, OriginError, Reading};
use darter_store::size;
use darter_swarm::{OriginReader, OriginRun, Widening};

use super::leading::Leading;
use super::reading::{Leftover, RunEnd};
use super::{Lead, State, Transfer};

/// How long a connection besides others may send nothing.
pub(super) const MAX_SILENCE: Duration = Duration::from_secs(2);

/// How long it may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

impl Leading {
    /// How many connections read the origin now.
    pub(super) fn origin_connections(&mut self) -> u32 {
        u32::try_from(self.books().lead().readers()).unwrap_or(u32::MAX)
    }
}

impl Transfer {
    /// By how many connections the origin may be read at a time.
    pub(super) fn max_connections(&self) -> u8 {
        let is_file = matches!(&self.source, Source::Url { url, .. } if url.scheme() == "file");
        let is_one = is_file || self.stored.passes() || !self.can_be_continued();
        if is_one { 1 } else { self.context.options.origin_connections.max(1) }
    }

    /// Bytes of the origin came.
    pub(super) fn origin_came(self: &Arc<Self>, reader: OriginReader, bytes: u64) {
        let now = self.context.now();
        let are_more = {
            let mut state = self.state.lock();
            let Some(leading) = &mut state.leading else { return };
            let before = leading.books().lead().connections();
            let widening = leading.books().lead_mut().origin_came(reader, bytes, now);
            let are_more = leading.books().lead().connections() > before;
            if let Some(widening) = widening {
                state.journal.note(now, told(widening));
            }
            are_more
        };
        if are_more {
            self.read_beside();
        }
    }

    /// Starts the connections that are to read and do not.
    pub(super) fn read_beside(self: &Arc<Self>) {
        let idle: Vec<u8> = {
            let mut state = self.state.lock();
            let connections = state.leading.as_mut().map_or(1, |leading| leading.books().lead().connections());
            (0..connections - 1).filter(|number| !state.beside.contains(number)).collect()
        };
        for number in idle {
            let Some(connection) = self.context.origin_turns.beside() else { return };
            let Some(run) = self.next_stretch(number, true) else { return };
            let transfer = Arc::clone(self);
            self.tasks.spawn(async move {
                let _connection = connection;
                transfer.read_stretches(number, run).await;
            });
        }
    }

    /// What a connection reads next; `None` ends it. One that `begins` may have been begun by others meanwhile.
    fn next_stretch(&self, number: u8, begins: bool) -> Option<OriginRun> {
        let (now, known) = (self.context.now(), self.stored.known());
        let reader = OriginReader::Beside(number);
        let turns = &self.context.origin_turns;
        let has_room = turns.has_room() && turns.shares_beside(number, self.context.fetching.count());
        let may_read = has_room && !self.stored.passes() && !self.closed.is_cancelled();
        let mut state = self.state.lock();
        if begins && state.beside.contains(&number) {
            return None;
        }
        let leads = state.lead() == Lead::Me && state.course.is_open();
        let may_read = may_read && leads && !state.in_order_only;
        let run = state.leading.as_mut().filter(|_| may_read).and_then(|leading| leading.plan(reader, &known, now));
        let State { leading, beside, .. } = &mut *state;
        match (leading, run) {
            (Some(leading), Some(run)) => {
                leading.begins(reader, run);
                beside.insert(number);
            }
            (leading, _) => {
                if let Some(leading) = leading {
                    leading.reads(reader, None);
                }
                beside.remove(&number);
            }
        }
        run
    }

    async fn read_stretches(self: &Arc<Self>, number: u8, first: OriginRun) {
        let mut run = Some(first);
        while let Some(stretch) = run {
            let end = self.read_stretch(OriginReader::Beside(number), stretch).await;
            self.after_stretch(end).await;
            run = self.next_stretch(number, false);
        }
        self.kick.notify_one();
    }

    async fn read_stretch(self: &Arc<Self>, reader: OriginReader, run: OriginRun) -> RunEnd {
        let mut left = Leftover::new(reader, self.context.now());
        let mut turn = self.context.origin_turns.reader();
        if !self.begins(reader, &mut turn, run.first).await {
            return RunEnd::Replan;
        }
        let opened = tokio::select! {
            opened = turn.wait_for(self.open_stretch(run, &left)) => opened,
            () = self.closed.cancelled() => return RunEnd::Replan,
        };
        match opened {
            Ok(reading) => self.consume(run, reading, &mut turn, &mut left).await,
            Err(error) => RunEnd::Origin(error),
        }
    }

    async fn open_stretch(&self, run: OriginRun, left: &Leftover) -> Result<Reading, OriginError> {
        let (credentials, requester) = {
            let state = self.state.lock();
            (state.callers.current().clone(), state.requester)
        };
        if run.first > PieceIndex(0) {
            self.joined_parts();
        }
        let origin = self.context.origins.once(requester);
        let opened = origin.read(&self.source, &credentials, self.range_of(run, left), self.expected());
        tokio::time::timeout(ANSWER_TIMEOUT, opened).await.unwrap_or_else(|_| {
            let text = format!("{} did not answer for {} s", self.source, ANSWER_TIMEOUT.as_secs());
            Err(OriginError::new(ErrorKind::Timeout, text))
        })
    }

    /// What follows from how a stretch ended.
    async fn after_stretch(self: &Arc<Self>, end: RunEnd) {
        let (why, may_pass) = match end {
            // Whoever reads everything meets with what failed here.
            RunEnd::Replan | RunEnd::Here(_) => return,
            RunEnd::Whole(_) => ("the origin gave all of it though a part was requested".to_owned(), false),
            RunEnd::Origin(error) if *error.kind() == ErrorKind::Contradicted => {
                return self.dissolve(error.into()).await;
            }
            RunEnd::Origin(error) => (in_full(&error).to_string(), may_pass(&error)),
        };
        let now = self.context.now();
        let mut state = self.state.lock();
        let Some(leading) = &mut state.leading else { return };
        let before = leading.books().lead().connections();
        if may_pass {
            leading.books().lead_mut().origin_failed(now);
        } else {
            leading.books().lead_mut().origin_refused(now);
        }
        let after = leading.books().lead().connections();
        if after < before {
            let what = format!("reading the origin by {before} connections: {why}; going on with {after}");
            state.journal.note(now, what);
        }
    }
}

/// Whether several connections may be tried again after a failure of one.
fn may_pass(error: &OriginError) -> bool {
    let broke = matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::Truncated);
    broke && error.retry_after().is_none()
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }

    #[test]
    fn a_broken_connection_is_no_refusal() {
        let failed = |kind| OriginError::new(kind, "failed");
        assert!(may_pass(&failed(ErrorKind::Truncated)));
        for kind in [ErrorKind::RateLimited { retry_after: None }, ErrorKind::Status(503), ErrorKind::Changed] {
            assert!(!may_pass(&failed(kind)));
        }
    }
}
