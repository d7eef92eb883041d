//! Uploads: which receiver is sent what next, by the rules of the daemon's data channels (`darter-wire`) and of the sockets below them:
//! decisions without events.
//!
//! A connection writes one piece at a time, its urgent requests first and then the oldest; the connections with something to
//! write wait in one line for one of the node's slots, first come first served; those with requests alone that go last in another. A piece is bound only when the slot is there. A
//! slot is free again when all of the piece has left the socket but what the connection's rate allows ([`Ahead`]). The cable takes a *grain* of each connection in
//! turn, as long as the connection has not too much under way.
//!
//! A connection itself holds what usually waits and is under way: a run's time is that of its cache misses, and grains are half of all
//! events.

use std::collections::VecDeque;
use std::time::Duration;

use darter_core::{Ahead, Moment, PieceIndex};
use smallvec::SmallVec;

/// How often an agent looks whether answers make progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// So many others take a slot while one that goes last waits, at most: as agents have it.
const MAX_BEFORE_LAST: u32 = 32;

/// A request that waits at a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Upload {
    /// The receiver's name for the request.
    pub(crate) request: u32,
    /// The piece; `None` for whatever the lead chooses.
    pub(crate) piece: Option<PieceIndex>,
    /// True if a reader waits for it.
    pub(crate) urgent: bool,
    /// True if it is answered behind those of others; decided when its turn comes.
    pub(crate) last: bool,
}

/// A piece that is being sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sending {
    pub(crate) request: u32,
    pub(crate) piece: PieceIndex,
    /// True if the lead chose it.
    pub(crate) chosen: bool,
    /// Grains that have not left yet.
    pub(crate) left: u32,
    /// When it was bound, or its receiver last noticed progress.
    noticed: Moment,
}

/// A node's connection to one receiver.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    pub(crate) to: u32,
    /// Oldest first.
    waiting: SmallVec<[Upload; 1]>,
    /// True if the lead had nothing for its asks, the last time it was asked.
    parked: bool,
    /// True if it stands in the line or has a slot.
    is_busy: bool,
    has_slot: bool,
    /// True if its slot is for a piece that goes last.
    is_last: bool,
    /// When it got its slot.
    began: Moment,
    ahead: Ahead,
    /// Pieces bound and not sent yet, the first under way.
    sending: SmallVec<[Sending; 1]>,
    /// Grains of `sending`.
    backlog: u32,
    /// When each grain that left will have been received, the oldest first. Those that were are struck out when that matters: an event
    /// for each would be a third of all events.
    on_way: SmallVec<[Moment; 2]>,
    /// True if it stands in the cable's turn, or is being served.
    in_turn: bool,
    /// True if it has as much under way as it may, and [`Uploads::has_room`] will be called.
    waits: bool,
}

/// How much a connection may have where, in grains.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Pieces that are written at a time.
    pub(crate) slots: u32,
    /// Grains of one piece.
    pub(crate) of_piece: u32,
    /// A piece counts as written when no more bytes than this are left of it in the socket; what the connection's rate allows if `None`.
    pub(crate) unsent: Option<u32>,
    /// Bytes of a grain.
    pub(crate) grain: u32,
    /// The most under way to a receiver.
    pub(crate) window: u32,
}

/// The connections of one node.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    /// Receivers in ascending order, each with the place of its connection.
    by_receiver: Vec<(u32, u32)>,
    connections: Vec<Connection>,
    /// Connections that wait for a slot, and those of them whose requests are all answered behind others.
    line: VecDeque<u32>,
    last: VecDeque<u32>,
    /// How many of the others took a slot while one of these waited.
    before_last: u32,
    /// Connections whose asks wait until the lead has something to give; may name some that wait no more.
    parked: VecDeque<u32>,
    busy: u32,
    /// How many slots are for pieces that go last.
    busy_last: u32,
    /// Connections with something for the cable.
    turn: VecDeque<u32>,
    /// The connection of which the cable is taking a grain.
    current: Option<u32>,
    /// Grains bound and not sent, of all connections.
    backlog: u32,
}

/// A grain that left, and what is to be known of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) connection: u32,
    pub(crate) to: u32,
    pub(crate) piece: Sending,
    /// True if the receiver is to notice progress.
    pub(crate) is_noticed: bool,
}

impl Connection {
    /// The place of the request whose turn it is.
    fn next(&self) -> Option<usize> {
        let is_ready = |upload: &Upload| upload.piece.is_some() || !self.parked;
        let any_first = self.waiting.iter().any(|upload| is_ready(upload) && !upload.last);
        let ready = |upload: &Upload| is_ready(upload) && !(any_first && upload.last);
        let first = self.waiting.iter().position(ready)?;
        if self.waiting[first].urgent {
            return Some(first);
        }
        Some(self.waiting.iter().position(|upload| upload.urgent && ready(upload)).unwrap_or(first))
    }
}

impl Uploads {
    fn connection(&mut self, to: u32) -> Option<(u32, &mut Connection)> {
        let found = self.by_receiver.binary_search_by_key(&to, |(receiver, _)| *receiver).ok()?;
        let (_, at) = self.by_receiver[found];
        Some((at, &mut self.connections[at as usize]))
    }

    pub(crate) fn push(&mut self, to: u32, upload: Upload) {
        let at = match self.by_receiver.binary_search_by_key(&to, |(receiver, _)| *receiver) {
            Ok(found) => self.by_receiver[found].1,
            Err(place) => {
                let at = self.connections.len() as u32;
                self.connections.push(Connection { to, ..Connection::default() });
                self.by_receiver.insert(place, (to, at));
                at
            }
        };
        self.connections[at as usize].waiting.push(upload);
        self.stand_in_line(at);
    }

    fn stand_in_line(&mut self, at: u32) {
        let connection = &mut self.connections[at as usize];
        let Some(next) = connection.next() else { return };
        let is_last = connection.waiting[next].last;
        if !connection.is_busy {
            connection.is_busy = true;
            (if is_last { &mut self.last } else { &mut self.line }).push_back(at);
        } else if !is_last && let Some(place) = self.last.iter().position(|other| *other == at) {
            // The connection has something else to answer now.
            self.last.remove(place);
            self.line.push_back(at);
        }
    }

    /// A request that was taken is to be answered behind those of others.
    pub(crate) fn put_last(&mut self, at: u32, upload: Upload) {
        self.connections[at as usize].waiting.push(Upload { last: true, ..upload });
        self.pass(at);
    }

    pub(crate) fn cancel(&mut self, to: u32, request: u32) {
        if let Some((_, connection)) = self.connection(to) {
            connection.waiting.retain(|upload| upload.request != request);
        }
    }

    /// A receiver is gone: nothing waits for it, and what was on its way is lost and returned.
    pub(crate) fn forget(&mut self, to: u32) -> SmallVec<[Sending; 1]> {
        let Some((at, connection)) = self.connection(to) else { return SmallVec::new() };
        connection.waiting.clear();
        let lost = std::mem::take(&mut connection.sending);
        let backlog = std::mem::take(&mut connection.backlog);
        let had_slot = std::mem::take(&mut connection.has_slot);
        self.backlog -= backlog;
        if had_slot {
            self.busy -= 1;
            self.busy_last -= u32::from(self.connections[at as usize].is_last);
            self.pass(at);
        }
        lost
    }

    /// The connection whose turn it is if a slot is free, and its request, which leaves the queue. Follow it with
    /// [`Uploads::bind`], [`Uploads::park`] or [`Uploads::pass`].
    pub(crate) fn take_next(&mut self, limits: &Limits) -> Option<(u32, u32, Upload)> {
        while self.busy < limits.slots {
            let is_idle = self.line.is_empty() && self.busy == self.busy_last;
            let is_turn_of_last = is_idle || self.before_last >= MAX_BEFORE_LAST;
            let last = if is_turn_of_last { self.last.pop_front() } else { None };
            let at = last.or_else(|| self.line.pop_front())?;
            let is_one_before = last.is_none() && !self.last.is_empty();
            self.before_last = if is_one_before { self.before_last + 1 } else { 0 };
            let connection = &mut self.connections[at as usize];
            let Some(next) = connection.next() else {
                connection.is_busy = false;
                continue;
            };
            return Some((at, connection.to, connection.waiting.remove(next)));
        }
        None
    }

    /// The request got a slot, and this piece is its answer. When the connection has to wait for room first, it returns until when.
    #[must_use]
    pub(crate) fn bind(
        &mut self,
        at: u32,
        upload: &Upload,
        piece: PieceIndex,
        limits: &Limits,
        now: Moment,
    ) -> Option<Moment> {
        let connection = &mut self.connections[at as usize];
        let chosen = upload.piece.is_none();
        let left = limits.of_piece;
        connection.sending.push(Sending { request: upload.request, piece, chosen, left, noticed: now });
        connection.backlog += limits.of_piece;
        self.backlog += limits.of_piece;
        self.busy += 1;
        connection.has_slot = true;
        connection.is_last = upload.last;
        self.busy_last += u32::from(upload.last);
        connection.began = now;
        let wait = self.stand_in_turn(at, limits, now);
        self.release_slot(at, limits, now);
        wait
    }

    /// Gives the slot back when the piece is as good as sent; whether it was.
    fn release_slot(&mut self, at: u32, limits: &Limits, now: Moment) -> bool {
        let connection = &mut self.connections[at as usize];
        let unsent = limits.unsent.unwrap_or(connection.ahead.limit());
        if !connection.has_slot || connection.backlog > unsent / limits.grain {
            return false;
        }
        connection.has_slot = false;
        connection.ahead.handed_over(limits.of_piece * limits.grain, connection.began, now);
        self.busy -= 1;
        self.busy_last -= u32::from(self.connections[at as usize].is_last);
        self.pass(at);
        true
    }

    /// The lead had nothing for an ask: it keeps its turn until something changes.
    pub(crate) fn park(&mut self, at: u32, ask: Upload) {
        let connection = &mut self.connections[at as usize];
        connection.waiting.insert(0, ask);
        connection.parked = true;
        self.parked.push_back(at);
        self.pass(at);
    }

    /// The request is done with.
    pub(crate) fn pass(&mut self, at: u32) {
        self.connections[at as usize].is_busy = false;
        self.stand_in_line(at);
    }

    /// True if asks wait until the lead has something to give.
    pub(crate) fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// The lead may have something to give: parked connections get into line, in the order in which they were parked.
    pub(crate) fn unpark_all(&mut self) {
        for at in std::mem::take(&mut self.parked) {
            self.connections[at as usize].parked = false;
            self.stand_in_line(at);
        }
    }

    /// Puts a connection with something to send into the cable's turn, or returns when it will have room for that.
    fn stand_in_turn(&mut self, at: u32, limits: &Limits, now: Moment) -> Option<Moment> {
        let connection = &mut self.connections[at as usize];
        if connection.in_turn || connection.waits || connection.backlog == 0 {
            return None;
        }
        while connection.on_way.first().is_some_and(|there| *there <= now) {
            connection.on_way.remove(0);
        }
        let oldest = connection.on_way.first().filter(|_| connection.on_way.len() >= limits.window as usize).copied();
        connection.waits = oldest.is_some();
        if oldest.is_none() {
            connection.in_turn = true;
            self.turn.push_back(at);
        }
        oldest
    }

    /// The time has come for which a connection waited.
    pub(crate) fn has_room(&mut self, at: u32, limits: &Limits, now: Moment) -> Option<Moment> {
        self.connections[at as usize].waits = false;
        self.stand_in_turn(at, limits, now)
    }

    /// Begins to take a grain of the next connection, if the cable is free and there is one.
    pub(crate) fn begin_grain(&mut self) -> bool {
        if self.current.is_some() {
            return false;
        }
        self.current = self.turn.pop_front();
        self.current.is_some()
    }

    /// The cable has taken up a grain. `None` if what it belonged to is gone. Follow it with [`Uploads::left`].
    pub(crate) fn end_grain(&mut self, now: Moment) -> Option<Sent> {
        let at = self.current.take()?;
        let connection = &mut self.connections[at as usize];
        connection.in_turn = false;
        let first = connection.sending.first_mut()?;
        first.left -= 1;
        let is_noticed = now.since(first.noticed) >= PROGRESS_EVERY;
        if is_noticed {
            first.noticed = now;
        }
        let piece = *first;
        if piece.left == 0 {
            connection.sending.remove(0);
        }
        connection.backlog -= 1;
        self.backlog -= 1;
        Some(Sent { connection: at, to: connection.to, piece, is_noticed })
    }

    /// A grain left that will be received at the moment given, or is received already. Returns whether a slot became free, and
    /// until when the connection has to wait for room if it has to.
    pub(crate) fn left(
        &mut self,
        at: u32,
        there: Option<Moment>,
        limits: &Limits,
        now: Moment,
    ) -> (bool, Option<Moment>) {
        self.connections[at as usize].on_way.extend(there);
        let wait = self.stand_in_turn(at, limits, now);
        (self.release_slot(at, limits, now), wait)
    }

    /// Grains bound and not sent yet.
    pub(crate) const fn backlog(&self) -> u32 {
        self.backlog
    }
}
