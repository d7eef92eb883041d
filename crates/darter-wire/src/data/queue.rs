//! Which request of a connection comes next: decisions without I/O.
//!
//! A request that is to be answered behind those of others waits behind all of its own connection, too. Of the rest:
//! the first request of each blob goes before all others, urgent requests before the rest; then blobs take turns, and of one
//! blob the first that came goes first. So that of hundreds of blobs each gets its first piece soon. A request that the holder could
//! give nothing to is *parked*, together with all that ask the same, until something changes. It keeps its turn.

use std::collections::{HashMap, VecDeque};

use darter_core::BlobId;
use darter_protocol::data::Ask;
use darter_protocol::{MAX_UNANSWERED, Refusal, Request, Wanted};

use crate::{Result, WireError};

/// Blobs whose turns are remembered, at most; those without requests are forgotten beyond that.
const MAX_TURNS: usize = 4 * MAX_UNANSWERED;

/// The request whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) request: Request,
    /// True if it is to be answered behind all others, of all connections.
    pub(super) is_last: bool,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Requests to be answered, in the order in which they came.
    open: VecDeque<Request>,
    /// The ids of those that are answered behind all others, of all connections.
    last: Vec<u32>,
    /// Ids of requests that must be told why they get no piece: they were called back, or are of a sort that is not known.
    refused: VecDeque<(u32, Refusal)>,
    /// Wishes for which the holder had nothing to give when it was last asked.
    parked: Vec<(BlobId, Wanted)>,
    /// How many requests had been settled when one of this blob last was.
    turns: HashMap<BlobId, u64>,
    settled: u64,
}

impl Queue {
    /// Takes in what the requester said.
    ///
    /// # Errors
    /// [`WireError::Protocol`] for more requests than one may have unanswered.
    pub(super) fn take_in(&mut self, ask: Ask) -> Result<()> {
        match ask {
            Ask::Request(request) => {
                self.check_room()?;
                self.open.push_back(request);
            }
            Ask::Cancel { id } => {
                // If it is not here its answer is on the way, and that settles it.
                if let Some(at) = self.open.iter().position(|request| request.id == id) {
                    self.open.remove(at);
                    self.last.retain(|last| *last != id);
                    self.refused.push_back((id, Refusal::Cancelled));
                }
            }
        }
        Ok(())
    }

    /// Takes in a request of a sort that is not known here.
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

    /// The next request that gets no piece, to be told so.
    pub(super) fn take_refused(&mut self) -> Option<(u32, Refusal)> {
        self.refused.pop_front()
    }

    /// The request whose turn it is. It stays until it is [parked](Self::park) or [settled](Self::settle).
    pub(super) fn next(&self) -> Option<Next> {
        let ready = self.open.iter().filter(|request| !self.parked.contains(&(request.blob, request.wanted)));
        let turn = |request: &&Request| {
            let last = self.turns.get(&request.blob).copied();
            (self.is_last(request), last.is_some(), !request.urgent, last.unwrap_or_default())
        };
        // Of equal ones the first.
        let request = *ready.min_by_key(turn)?;
        Some(Next { request, is_last: self.is_last(&request) })
    }

    fn is_last(&self, request: &Request) -> bool {
        self.last.contains(&request.id)
    }

    /// This request is answered behind all others, of all connections.
    pub(super) fn put_last(&mut self, request: &Request) {
        self.last.push(request.id);
    }

    /// True if `request` still waits for its answer.
    pub(super) fn has(&self, request: &Request) -> bool {
        self.open.contains(request)
    }

    /// There is nothing to give to this request, nor to any that asks the same.
    pub(super) fn park(&mut self, request: &Request) {
        self.parked.push((request.blob, request.wanted));
    }

    /// True if some request waits for a change.
    pub(super) fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Something changed: every request is worth another try.
    pub(super) fn unpark_all(&mut self) {
        self.parked.clear();
    }

    /// This request is being answered.
    pub(super) fn settle(&mut self, request: &Request) {
        if let Some(at) = self.open.iter().position(|open| open == request) {
            self.open.remove(at);
            self.last.retain(|last| *last != request.id);
        }
        self.settled += 1;
        self.turns.insert(request.blob, self.settled);
        if self.turns.len() > MAX_TURNS {
            let open = &self.open;
            self.turns.retain(|blob, _| open.iter().any(|request| request.blob == *blob));
        }
    }
}

#[cfg(test)]
mod tests;
