//! Makes sure that some agent is responsible for whatever a transfer lacks, and that nobody waits for ever.
//!
//! A complete transfer may lose a piece again: the disk damaged it, or somebody truncated the file. Then the transfer is open
//! again, and needs a lead, an election or a read like any other. The driver checks about once a second whether that is so, so that
//! no sequence of events can leave a piece that no agent fetches.
//!
//! A transfer that receives nothing for `--stall-timeout` fails, and says what it waited for. Time in which the lead
//! deliberately waits (an origin asked it to come back later) does not count, nor does time in which this agent itself works on what the transfer waits
//! for ([`steps`](super::steps)).
//!
//! Non-goals: how long a single request to a peer may take (the picker), or an answer of an origin (`darter_origin`).

use std::sync::Arc;
use std::time::Duration;

use darter_core::{Moment, NodeId, PieceSet, Source, in_full};
use darter_swarm::session::LOOK_EVERY;
use darter_swarm::{Guilt, Input, Seen};

use super::{Lead, Transfer, TransferState};
use crate::error::FetchError;

impl Transfer {
    /// The facts that the session is told about once a second while something is missing.
    pub(super) fn seen(&self, state: &TransferState) -> Seen {
        let options = &self.context.options;
        Seen {
            is_idle: self.nobody_waits(state) || state.session.is_at_rest() || self.is_at_work(state),
            stall: Some(options.stall_timeout).filter(|limit| !limit.is_zero()),
            origin: options.origin_timeout,
        }
    }

    /// True if this agent works on what the transfer waits for, and makes progress: it checks the whole, or reads a layer for the beginning of its
    /// expanded form.
    fn is_at_work(&self, state: &TransferState) -> bool {
        let now = self.context.now();
        let expands = |layer| state.lead() == Lead::Me && self.context.expansions.moves(layer, now);
        self.steps.are_taken(now) || matches!(&self.source, Source::Expanded(layer) if expands(layer))
    }

    /// Ends the transfer, because nothing was received for too long.
    pub(super) fn end_stalled(self: &Arc<Self>) {
        let error = self.stalled();
        tracing::warn!(blob = %self.blob.short(), name = %self.source, error = %in_full(&error), "a transfer is stalled");
        self.give_up(&error);
    }

    /// Notes that an agent that leads this transfer let this agent down.
    pub(super) fn let_down_by(&self, lead: NodeId, guilt: Guilt) {
        // A lead whose connection is closed was the last that was followed.
        let is_seed = self.fleet.is_seed(lead) || self.state().session.has_left_seed(lead);
        self.context.let_downs.lock().note(self.setback_key(), lead, is_seed, guilt, self.context.now());
    }

    /// Throws away what a lead that let this agent down said of this blob. Waiting readers get their bytes from the next
    /// try.
    pub(super) async fn start_over_without(self: &Arc<Self>, lead: NodeId, guilt: Guilt, reason: String) {
        self.let_down_by(lead, guilt);
        let error = self.stalled_at(lead).unwrap_or(FetchError::Withdrawn { blob: self.blob, reason });
        let dissolves = {
            let mut state = self.state();
            let now = self.context.now();
            // A blob that is complete and checked stays, whatever a node says.
            state.session.course().is_open() && state.session.handle(Input::Dissolves { tells: false }, &**self, now)
        };
        if dissolves {
            self.supersede(error).await;
        }
    }

    /// Something is missing again: some agent has to be responsible for it.
    pub(crate) fn resume(&self) {
        self.tell(Input::Resumes);
    }

    /// Notes what the store found damaged, and makes sure that it is fetched again.
    pub(crate) fn note_losses(self: &Arc<Self>) {
        let mut lost = self.stored.take_lost();
        {
            let state = self.state();
            // An evicted blob lacks nothing.
            let is_complete = state.is_complete() && !self.stored.is_discarded();
            if let Some(pieces) = self.pieces().filter(|_| is_complete) {
                // The finder of the damage may have noted it already.
                for piece in self.missing(pieces) {
                    lost.insert(piece);
                }
            }
        }
        if !lost.is_empty() {
            self.lost_pieces(&lost);
            self.resume();
        }
    }

    /// The whole could not be checked, since pieces are missing that counted as held.
    pub(super) fn fetch_missing(self: &Arc<Self>) {
        let missing: PieceSet = self.pieces().map(|pieces| self.missing(pieces).collect()).unwrap_or_default();
        if !missing.is_empty() {
            self.lost_pieces(&missing);
            self.resume();
        }
    }

    fn missing(&self, pieces: u32) -> impl Iterator<Item = darter_core::PieceIndex> + use<> {
        let held = self.stored.held();
        (0..pieces).map(darter_core::PieceIndex).filter(move |piece| !held.contains(*piece))
    }

    fn lost_pieces(&self, pieces: &PieceSet) {
        self.lack(pieces, "were damaged on the disk and are fetched again");
    }

    /// Notes that pieces are no longer held.
    pub(super) fn lack(&self, pieces: &PieceSet, why: &str) {
        self.tell_and(Input::Lacking(pieces.clone()), |state, now| {
            state.journal.note(now, format!("{} pieces {why}", pieces.len()));
            state.losses.note(pieces);
        });
        self.end_rest();
    }

    /// Bytes of this blob arrived, though perhaps not a whole piece.
    pub(super) fn moved(&self) {
        let now = self.context.now();
        self.state().session.handle(Input::OriginCame, self, now);
    }

    /// Waits before the origin is asked again; members are told meanwhile.
    pub(super) async fn pause_reading(&self, pause: Duration) {
        self.tell(Input::OriginRests(pause));
        let _ = tokio::time::timeout(pause, self.closed.cancelled()).await;
    }

    /// How much of the time since the last byte does not count as a stall.
    pub fn excused(&self) -> Duration {
        self.state().session.vigil().excused()
    }

    /// What the transfer waits for, if nothing has arrived for a while.
    pub(super) fn waiting(&self, state: &TransferState, now: Moment) -> Option<String> {
        let waited = state.session.vigil().waited(now);
        let waits = state.session.course().is_open() && waited >= LOOK_EVERY;
        waits.then(|| format!("{} s for {}", waited.as_secs(), self.awaited(state)))
    }

    /// The error for readers if nothing was received for too long.
    pub(super) fn stalled(&self) -> FetchError {
        let now = self.context.now();
        let (waited, what) = {
            let state = self.state();
            (state.session.vigil().waited(now), self.awaited(&state))
        };
        FetchError::Stalled { waited, what }
    }

    /// The error for readers if a lead gave nothing for too long and was left for that.
    fn stalled_at(&self, lead: NodeId) -> Option<FetchError> {
        let (waited, limit) =
            (self.state().session.vigil().waited(self.context.now()), self.context.options.stall_timeout);
        let what = || format!("{} to send {}", self.fleet.title(lead), self.next_piece());
        (!limit.is_zero() && waited >= limit).then(|| FetchError::Stalled { waited, what: what() })
    }

    /// The next missing piece.
    fn next_piece(&self) -> String {
        let piece = self.stored.held().first_missing_from(darter_core::PieceIndex(0));
        let of = self.pieces().map_or_else(String::new, |pieces| format!(" of {pieces}"));
        format!("piece {}{of}", piece.0 + 1)
    }

    /// The agent or origin for which this transfer waits, and for what.
    fn awaited(&self, state: &TransferState) -> String {
        let piece = self.next_piece();
        let mut asked: Vec<_> = state.session.asked().map(|(_, of)| of).collect();
        asked.sort_unstable();
        asked.dedup();
        let lead = state.session.leadership().following();
        let others: Vec<_> = asked.into_iter().filter(|node| lead != Some(*node)).collect();
        let others = match others.len() {
            0 => String::new(),
            1 => format!(" or {}", self.fleet.address(others[0])),
            count => format!(" or {count} other agents"),
        };
        match (state.lead(), self.pieces() == Some(self.stored.held().len())) {
            (Lead::Node(lead), true) => format!("{} to say whether the whole is right", self.fleet.title(lead)),
            (_, true) => "the disk, to check the whole".to_owned(),
            (Lead::Me, false) if others.is_empty() => format!("{} to send {piece}", self.source),
            (Lead::Me, false) => format!("{}{others} to send {piece}", self.source),
            (Lead::Node(lead), false) => format!("{}{others} to send {piece}", self.fleet.title(lead)),
            (Lead::Nobody, false) => format!("an agent that leads the download, to get {piece}"),
        }
    }
}
