//! The state of a transfer, and its lock.
//!
//! A task that learns something locks the state ([`Transfer::state`]), tells its session, and unlocks: if anything follows from that,
//! unlocking wakes the driver. So no caller can forget to.

use std::ops::{Deref, DerefMut};

use darter_core::{Digest, Moment};
use darter_origin::Requester;
use darter_swarm::{Phase, Session};
use parking_lot::MutexGuard;
use tokio::sync::Notify;

use super::callers::Callers;
use super::handing::Losses;
use super::journal::Journal;
use super::passing::Positions;
use super::readers::Readers;
use super::view::Flows;
use super::{Lead, Outcome, Transfer};
use crate::context::Fetching;
use crate::error::FetchError;

pub(crate) struct TransferState {
    pub(super) session: Session,
    pub(super) callers: Callers,
    /// The requester for whom the origin is read: of all callers, the one who may read the least.
    pub(super) requester: Requester,
    /// The whole's digest, if it was computed while the origin was read.
    pub(super) streamed_digest: Option<Digest>,
    /// The readers of the origin.
    pub(super) readers: Readers,
    /// The agent's count of blobs that gave back their share of the link to the origin, when last checked.
    pub(super) given_back: u64,
    /// True if parts of several of the origin's answers were combined.
    pub(super) joined_parts: bool,
    /// Why the transfer failed, if it did; or why the blob is thrown away, as members are told.
    pub(super) failure: Option<FetchError>,
    pub(super) dissolved_for: Option<FetchError>,
    /// Counts this transfer among those that fetch.
    pub(super) fetching: Option<Fetching>,
    pub(super) journal: Journal,
    pub(super) flows: Flows,
    /// When a peer was last sent a piece.
    pub(super) last_sent: Option<Moment>,
    /// The positions of this host's readers.
    pub(super) positions: Positions,
    pub(super) losses: Losses,
}

impl TransferState {
    pub(super) fn new(session: Session, callers: Callers, requester: Requester, journal: Journal) -> Self {
        Self {
            session,
            callers,
            requester,
            streamed_digest: None,
            readers: Readers::default(),
            given_back: 0,
            joined_parts: false,
            failure: None,
            dissolved_for: None,
            fetching: None,
            journal,
            flows: Flows::default(),
            last_sent: None,
            positions: Positions::default(),
            losses: Losses::default(),
        }
    }

    /// The number of agents in the swarm, as far as is known here.
    pub(super) fn members(&self) -> u32 {
        u32::try_from(self.session.members()).unwrap_or(u32::MAX)
    }

    /// Whether and how the transfer has ended.
    pub(super) fn outcome(&self) -> Outcome {
        match (&self.failure, self.is_complete()) {
            (Some(error), _) => Outcome::Failed(error.clone()),
            (None, true) => Outcome::Complete,
            (None, false) => Outcome::Open,
        }
    }

    /// True if everything is held and the whole was checked.
    pub(super) fn is_complete(&self) -> bool {
        self.session.course().phase() == Phase::Complete
    }

    /// The lead, as this agent sees it.
    pub(super) const fn lead(&self) -> Lead {
        self.session.leader()
    }
}

/// A transfer's state, locked until this is dropped.
pub(crate) struct LockedState<'a> {
    state: MutexGuard<'a, TransferState>,
    driver: &'a Notify,
}

impl Transfer {
    /// Locks the state.
    pub(super) fn state(&self) -> LockedState<'_> {
        LockedState { state: self.state.lock(), driver: &self.driver }
    }
}

impl Deref for LockedState<'_> {
    type Target = TransferState;

    fn deref(&self) -> &TransferState {
        &self.state
    }
}

impl DerefMut for LockedState<'_> {
    fn deref_mut(&mut self) -> &mut TransferState {
        &mut self.state
    }
}

impl Drop for LockedState<'_> {
    fn drop(&mut self) {
        if self.state.session.is_due() {
            self.driver.notify_one();
        }
    }
}
