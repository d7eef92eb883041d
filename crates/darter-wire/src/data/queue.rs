//! Decides which request of a connection is answered next. No I/O.
//!
//! Requests that are answered behind those of others wait behind all other requests of their connection, too. Among the rest, the first request of each blob goes before all others, then
//! urgent ones before others; then blobs take turns, and requests for one blob are answered in the order in which they came. So each of hundreds of blobs gets its first piece soon. If the
//! holder has nothing to give to a request, this and all equal ones are *parked* until something changes. They keep their turns.

use std::collections::{HashMap, VecDeque};

use darter_core::BlobId;
use darter_protocol::data::Ask;
use darter_protocol::{MAX_UNANSWERED, Refusal, Request};

use crate::{Result, WireError};

/// Most blobs whose turns are remembered. If there are more, those without requests are forgotten.
const MAX_TURNS: usize = 4 * MAX_UNANSWERED;

/// The request whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) request: Request,
    /// True if the request is answered behind all others, of all connections.
    pub(super) is_last: bool,
}

/// An unanswered request. All that decides about its turn is kept here, since hundreds are compared for each answer.
#[derive(Debug)]
struct Open {
    request: Request,
    /// True if it is answered behind all others, of all connections.
    is_last: bool,
    /// True if the holder had nothing to give for it when it was last asked.
    is_parked: bool,
    /// How many requests had been answered when one of its blob was.
    turn: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The unanswered requests, in the order in which they came.
    open: VecDeque<Open>,
    /// The ids of requests that are to be answered with a refusal: they were cancelled, or are of a kind that this release does not know.
    refused: VecDeque<(u32, Refusal)>,
    /// For each blob, how many requests had been answered when one of its own was.
    turns: HashMap<BlobId, u64>,
    settled: u64,
}

impl Queue {
    /// Handles a frame of the requester.
    ///
    /// # Errors
    /// [`WireError::Protocol`] if there are more than [`MAX_UNANSWERED`] unanswered requests.
    pub(super) fn take_in(&mut self, ask: Ask) -> Result<()> {
        match ask {
            Ask::Request(request) => {
                self.check_room()?;
                let is_same = |open: &Open| (open.request.blob, open.request.wanted) == (request.blob, request.wanted);
                let is_parked = self.open.iter().any(|open| open.is_parked && is_same(open));
                let turn = self.turns.get(&request.blob).copied();
                self.open.push_back(Open { request, is_last: false, is_parked, turn });
            }
            Ask::Cancel { id } => {
                // If it is not here its answer is on the way, and that settles it.
                if let Some(at) = self.open.iter().position(|open| open.request.id == id) {
                    self.open.remove(at);
                    self.refused.push_back((id, Refusal::Cancelled));
                }
            }
        }
        Ok(())
    }

    /// Handles a request of a kind that this release does not know.
    ///
    /// # Errors
    /// As [`take_in`](Self::take_in).
    pub(super) fn take_in_unknown(&mut self, id: u32) -> Result<()> {
        self.check_room()?;
        self.refused.push_back((id, Refusal::NotUnderstood));
        Ok(())
    }

    fn check_room(&self) -> Result<()> {
        match self.open.len() + self.refused.len() {
            ..MAX_UNANSWERED => Ok(()),
            _ => Err(WireError::violation("too many unanswered requests")),
        }
    }

    /// Removes and returns a request that is to be refused, with the reason.
    pub(super) fn take_refused(&mut self) -> Option<(u32, Refusal)> {
        self.refused.pop_front()
    }

    /// The request whose turn it is. It stays until it is [parked](Self::park) or [settled](Self::settle).
    pub(super) fn next(&self) -> Option<Next> {
        let ready = self.open.iter().filter(|open| !open.is_parked);
        let turn =
            |open: &&Open| (open.is_last, open.turn.is_some(), !open.request.urgent, open.turn.unwrap_or_default());
        // Of equal ones the first.
        ready.min_by_key(turn).map(|open| Next { request: open.request, is_last: open.is_last })
    }

    /// From now on `request` is answered behind all others, of all connections.
    pub(super) fn put_last(&mut self, request: &Request) {
        let open = self.open.iter_mut().find(|open| open.request.id == request.id);
        open.into_iter().for_each(|open| open.is_last = true);
    }

    /// True if `request` still waits for its answer.
    pub(super) fn has(&self, request: &Request) -> bool {
        self.open.iter().any(|open| open.request == *request)
    }

    /// The holder has nothing to give to `request`, nor to any other for the same.
    pub(super) fn park(&mut self, request: &Request) {
        for open in &mut self.open {
            open.is_parked |= (open.request.blob, open.request.wanted) == (request.blob, request.wanted);
        }
    }

    /// True if a request is parked.
    pub(super) fn has_parked(&self) -> bool {
        self.open.iter().any(|open| open.is_parked)
    }

    /// Something has changed: every request is tried again.
    pub(super) fn unpark_all(&mut self) {
        self.open.iter_mut().for_each(|open| open.is_parked = false);
    }

    /// `request` is being answered.
    pub(super) fn settle(&mut self, request: &Request) {
        if let Some(at) = self.open.iter().position(|open| open.request == *request) {
            self.open.remove(at);
        }
        self.settled += 1;
        for open in self.open.iter_mut().filter(|open| open.request.blob == request.blob) {
            open.turn = Some(self.settled);
        }
        self.turns.insert(request.blob, self.settled);
        if self.turns.len() > MAX_TURNS {
            let open = &self.open;
            self.turns.retain(|blob, _| open.iter().any(|open| open.request.blob == *blob));
        }
    }
}

#[cfg(test)]
mod tests;
