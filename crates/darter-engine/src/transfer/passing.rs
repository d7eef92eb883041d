//! A blob that does not fit passes through (see `darter_store::Passing`): which of its pieces are still needed, and when
//! reading has to wait.
//!
//! The lead reads the origin at most a window of pieces ahead. It forgets a piece once every reader of this host is past it
//! and a member holds it. A member requests only what its readers need next, and forgets what they have passed. So the origin is
//! read once for all that read at the same time, and nobody delays the others for long: the lead waits for a member that takes nothing for
//! [`IDLE_MEMBER_TIMEOUT`], then reads again what the member lacks when it asks.
//!
//! If nobody wants everything, but members want ranges, no piece is forgotten for good: a piece that a member has is dropped, and read again if another one asks for it.
//!
//! After the beginning is forgotten, a new member asks for pieces that nobody holds, and these are read again. For a reader of
//! this host another transfer is begun, unless this one has members; then the reader is told to read the origin itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use darter_core::{Blamed as _, Fault, PieceIndex, PieceSet, in_full};
use darter_store::StoreError;
use darter_swarm::{Input, ReaderId};

use super::rest::IDLE_MEMBER_TIMEOUT;
use super::{Lead, Outcome, Transfer, TransferState};
use crate::error::FetchError;

/// How long to wait for the first reader of a blob that is open on this host, and how long to go on reading without a reader.
const READER_TIMEOUT: Duration = Duration::from_secs(10);
/// After this time a piece that was sent counts as arrived, although no member has said that it holds it.
const GIVEN_AFTER: Duration = Duration::from_millis(500);
/// How often to check whether readers went on.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The positions of this host's readers.
#[derive(Debug, Default)]
pub(super) struct Positions {
    at: HashMap<ReaderId, PieceIndex>,
    any_came: bool,
    /// True if the picker knows that only what readers need is to be fetched.
    told: bool,
}

impl Positions {
    /// The first piece that a reader needs; `None` if there is no reader.
    fn first(&self) -> Option<PieceIndex> {
        self.at.values().min().copied()
    }
}

impl Transfer {
    /// A reader is at this piece now.
    pub(super) fn reader_stands(&self, reader: ReaderId, piece: PieceIndex) {
        let mut state = self.state();
        state.positions.at.insert(reader, piece);
        state.positions.any_came = true;
    }

    /// A reader has gone.
    pub(super) fn reader_left(&self, reader: ReaderId) {
        self.state().positions.at.remove(&reader);
    }

    /// How many pieces a reader needs at once. For a blob that passes through, nothing else is fetched.
    pub(super) fn pieces_ahead(&self) -> u32 {
        if !self.stored.passes() {
            return 1;
        }
        u32::try_from(self.stored.window() / self.piece_length.bytes() / 2).unwrap_or(u32::MAX).max(2)
    }

    /// Once the blob passes through, lets the picker fetch only what readers need.
    pub(super) fn note_passing(&self, state: &mut TransferState) {
        if self.stored.passes() && !state.positions.told {
            state.positions.told = true;
            state.session.handle(Input::Passes, self, self.context.now());
            state
                .journal
                .note(self.context.now(), "passes through without being stored whole: there is no room for it");
            self.context.metrics.blobs_passed.inc();
        }
    }

    /// True if it passes through and its beginning is forgotten.
    pub(crate) fn is_past_its_beginning(&self) -> bool {
        self.stored.passes() && !self.stored.forgotten().is_empty()
    }

    /// True if it can go on only for its own readers: no other agent is in its swarm.
    pub(crate) fn is_alone(&self) -> bool {
        self.lead() == Lead::Me && !self.is_leading_others()
    }

    /// True if it passes through and every reader has something to read: then the transfer waits for the readers.
    pub(super) fn nobody_waits(&self, state: &TransferState) -> bool {
        self.stored.passes() && state.positions.at.values().all(|piece| self.stored.holds(*piece))
    }

    /// True if it passes through and has no reader.
    pub(crate) fn passes_in_vain(&self) -> bool {
        self.stored.passes() && !self.is_held() && !self.is_wanted_by_members()
    }

    fn is_wanted_by_members(&self) -> bool {
        self.state().session.is_wanted_by_members()
    }

    /// True if nobody wants everything: then pieces may be read again, and must not be forgotten for good.
    pub(super) fn is_read_in_parts(&self) -> bool {
        !self.state().session.is_all_wanted()
    }

    /// Makes space in memory if readers want ranges: pieces are dropped, except one that has just arrived, and are fetched again when a reader asks.
    /// Members should have them first, unless they have been `waited` for too long: none of them asks for what another one wants.
    pub(super) async fn let_go_aside(&self, but: Option<PieceIndex>, waited: Duration) {
        let ahead = self.pieces_ahead();
        let going: PieceSet = {
            let state = self.state();
            let is_due = waited >= IDLE_MEMBER_TIMEOUT || !state.session.leads_others();
            // A piece that has just arrived is not counted yet, and would be counted as held after it was dropped.
            let counted = |piece: &PieceIndex| Some(*piece) != but && state.session.holds(*piece);
            let is_read = |piece: PieceIndex| {
                state.positions.at.values().any(|at| (at.0..at.0.saturating_add(ahead)).contains(&piece.0))
            };
            // A member whose readers are past a piece forgets it, perhaps before it says that it held it; or no longer wants it.
            let is_over = |piece| state.session.was_given(piece) || !state.session.is_wished(piece);
            let was_given = |piece| waited >= GIVEN_AFTER && is_over(piece);
            let is_given =
                |piece: PieceIndex| (state.session.holders(piece) > 0 || was_given(piece)) && !is_read(piece);
            let goes = |piece: &PieceIndex| counted(piece) && (is_due || is_given(*piece));
            self.stored.aside().iter().filter(goes).collect()
        };
        if going.is_empty() {
            return;
        }
        let (stored, dropped) = (Arc::clone(&self.stored), going.clone());
        if let Err(error) = self.context.disk.run(move || stored.drop_pieces(&dropped)).await {
            tracing::debug!(blob = %self.blob.short(), error = %in_full(&error), "pieces could not be dropped");
        }
        self.lack(&going, "were dropped: the store has no room for them");
    }

    /// The first piece that a reader still needs, after it has waited this long for space.
    pub(super) fn needed_from(&self, waited: Duration) -> PieceIndex {
        let is_held = self.is_held();
        let state = self.state();
        // No reader will come for a blob that is read only for members.
        let for_members = !is_held && state.session.is_wanted_by_members();
        let readers = match state.positions.first() {
            Some(piece) => piece,
            None if state.positions.any_came || for_members || waited >= READER_TIMEOUT => PieceIndex(u32::MAX),
            None => PieceIndex(0),
        };
        let members = state.session.first_unheld().filter(|_| waited < IDLE_MEMBER_TIMEOUT);
        members.map_or(readers, |members| readers.min(members))
    }

    /// Waits until a blob that passes through has space in memory for `next`, the next piece to be read. `Err` if nobody reads the blob. Pieces that
    /// were read ahead of `next` take space but are ignored, since readers wait for `next` itself.
    pub(super) async fn room_to_read(self: &Arc<Self>, next: PieceIndex) -> Result<(), FetchError> {
        let began = self.context.now();
        // Only when the space is full: readers that come while the beginning is here share it.
        while self.stored.is_crowded(next) && !self.closed.is_cancelled() {
            let waited = self.context.now().since(began);
            if self.is_read_in_parts() {
                // A piece that was forgotten for good could not be had again.
                self.let_go_aside(next.0.checked_sub(1).map(PieceIndex), waited).await;
            } else {
                let (stored, needed) = (Arc::clone(&self.stored), self.needed_from(waited));
                self.context.disk.run(move || stored.forget(needed)).await?;
            }
            if !self.stored.is_crowded(next) {
                break;
            }
            if waited >= READER_TIMEOUT && self.passes_in_vain() {
                let reason = "nobody reads it, and there is no room to store it".to_owned();
                return Err(FetchError::Withdrawn { blob: self.blob, reason });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// A piece that a peer should get could not be read. A piece that was forgotten, and that no member holds, is read
    /// again.
    pub(crate) fn could_not_give(self: &Arc<Self>, piece: PieceIndex) {
        self.note_losses();
        if self.lead() != Lead::Me || !self.stored.forgotten().contains(piece) {
            return;
        }
        let again: PieceSet = {
            let mut state = self.state();
            // Another holder gives it; this agent does not.
            state.session.handle(Input::Forgotten(piece), &**self, self.context.now());
            self.stored.forgotten().iter().filter(|piece| state.session.holders(*piece) == 0).collect()
        };
        if !again.contains(piece) {
            return;
        }
        let transfer = Arc::clone(self);
        self.spawn(async move {
            let (stored, dropped) = (Arc::clone(&transfer.stored), again.clone());
            if let Err(error) = transfer.context.disk.run(move || stored.drop_pieces(&dropped)).await {
                tracing::debug!(blob = %transfer.blob.short(), error = %in_full(&error), "forgotten pieces could not be dropped");
            }
            transfer.lack(&again, "were forgotten and are read again for a member that came late");
            transfer.resume();
        });
    }

    /// The error for a reader of this host that needs a forgotten piece.
    pub(super) fn forgot(&self, piece: PieceIndex) -> Option<FetchError> {
        self.stored.forgotten().contains(piece).then(|| FetchError::Withdrawn {
            blob: self.blob,
            reason: "it passes through for others, since the store has no room for it: ask again when they are done"
                .to_owned(),
        })
    }

    /// Closes the transfer when it has ended and nobody reads it any more, since no table refers to it.
    pub(crate) fn go_alone(self: &Arc<Self>) {
        let transfer = Arc::clone(self);
        self.tasks.spawn(async move {
            while matches!(transfer.outcome(), Outcome::Open) || transfer.is_held() {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    () = transfer.closed.cancelled() => return,
                }
            }
            transfer.close();
        });
    }
}

/// True if a store refused a blob for a reason for which it may pass through.
pub(crate) fn lets_pass(error: &StoreError) -> bool {
    error.blame().fault == Fault::Disk || matches!(error, StoreError::InUse(_))
}
