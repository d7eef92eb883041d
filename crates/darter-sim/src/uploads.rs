//! Who is sent what next, by the rule of the daemon's data channels (`darter-wire`): a connection sends one piece at a
//! time, its urgent requests first and then the oldest; the connections with something to send wait in one line for
//! one of the node's slots, first come first served. What to send is bound only when the slot is there.

use std::collections::{BTreeMap, VecDeque};

use darter_core::PieceIndex;

/// A request that waits at a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Upload {
    /// The receiver's name for the request.
    pub(crate) request: u64,
    /// The piece; `None` for whatever the lead chooses.
    pub(crate) piece: Option<PieceIndex>,
    /// Whether a reader waits for it.
    pub(crate) urgent: bool,
}

/// What waits for one receiver.
#[derive(Debug, Default)]
struct Connection {
    waiting: VecDeque<Upload>,
    /// Whether the lead had nothing for its asks, the last time it was asked.
    parked: bool,
    /// Whether it stands in the line or has a slot.
    is_busy: bool,
}

/// The connections of one node.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    connections: BTreeMap<u32, Connection>,
    /// Receivers whose connection waits for a slot.
    line: VecDeque<u32>,
    /// Receivers whose asks wait until the lead has something to give; may name some that wait no more.
    parked: VecDeque<u32>,
    busy: u32,
}

impl Connection {
    /// The place of the request whose turn it is.
    fn next(&self) -> Option<usize> {
        let ready = |upload: &&Upload| upload.piece.is_some() || !self.parked;
        let urgent = self.waiting.iter().position(|upload| upload.urgent);
        urgent.or_else(|| self.waiting.iter().position(|upload| ready(&upload)))
    }
}

impl Uploads {
    pub(crate) fn push(&mut self, to: u32, upload: Upload) {
        self.connections.entry(to).or_default().waiting.push_back(upload);
        self.stand_in_line(to);
    }

    fn stand_in_line(&mut self, to: u32) {
        let Some(connection) = self.connections.get_mut(&to) else { return };
        if !connection.is_busy && connection.next().is_some() {
            connection.is_busy = true;
            self.line.push_back(to);
        }
    }

    pub(crate) fn cancel(&mut self, to: u32, request: u64) {
        if let Some(connection) = self.connections.get_mut(&to) {
            connection.waiting.retain(|upload| upload.request != request);
        }
    }

    /// A receiver is gone: nothing waits for it any more.
    pub(crate) fn forget(&mut self, to: u32) {
        if let Some(connection) = self.connections.get_mut(&to) {
            connection.waiting.clear();
        }
    }

    /// Whether one of so many slots is free.
    pub(crate) const fn has_room(&self, slots: u32) -> bool {
        self.busy < slots
    }

    /// The receiver whose turn it is, and its request, which leaves the queue. Follow it with [`Uploads::start`],
    /// [`Uploads::park`] or [`Uploads::pass`].
    pub(crate) fn take_next(&mut self) -> Option<(u32, Upload)> {
        loop {
            let to = self.line.pop_front()?;
            let Some(connection) = self.connections.get_mut(&to) else { continue };
            let Some(upload) = connection.next().and_then(|at| connection.waiting.remove(at)) else {
                connection.is_busy = false;
                continue;
            };
            return Some((to, upload));
        }
    }

    /// The request got a slot.
    pub(crate) const fn start(&mut self) {
        self.busy += 1;
    }

    /// The lead had nothing for an ask: it keeps its turn until something changes.
    pub(crate) fn park(&mut self, to: u32, ask: Upload) {
        let Some(connection) = self.connections.get_mut(&to) else { return };
        connection.waiting.push_front(ask);
        connection.parked = true;
        self.parked.push_back(to);
        self.pass(to);
    }

    /// The request came to nothing.
    pub(crate) fn pass(&mut self, to: u32) {
        if let Some(connection) = self.connections.get_mut(&to) {
            connection.is_busy = false;
        }
        self.stand_in_line(to);
    }

    /// A slot is free again.
    pub(crate) fn done(&mut self, to: u32) {
        self.busy -= 1;
        self.pass(to);
    }

    /// The lead may have something to give: the first `count` parked connections get into line.
    pub(crate) fn unpark(&mut self, count: usize) {
        for _ in 0..count {
            let Some(to) = self.parked.pop_front() else { return };
            if let Some(connection) = self.connections.get_mut(&to) {
                connection.parked = false;
            }
            self.stand_in_line(to);
        }
    }
}
