//! Readers in order: the pieces that they need next, and the urgent ones.
//!
//! The rarest piece of the whole blob is the best choice for the swarm and the worst for a reader in order: while all links are full, a node may
//! hold nine tenths of a blob and have given its reader a twentieth. So a reader is *behind* as soon as many of the pieces that arrived lie after
//! a piece that it lacks. Then its very next pieces are requested first, in order, then the rarest pieces within a window, and others with the
//! remaining requests. If the answer for one of the very next pieces does not begin, the piece is requested from another holder. Nothing changes
//! for readers that are not behind, since a new piece needs time to spread through a swarm, and a window shorter than that lengthens it
//! (`docs/notes/readers-window.md`).
//!
//! A node that joined late has a neighbour far ahead. It keeps asking the lead for pieces that nobody has, and passes them on to the nodes that
//! are ahead, which lack nothing else; its own reader loses nothing by this. A node that gets little from the lead does the same. Other nodes ask
//! the lead for such pieces only with the requests that their readers do not need: otherwise the lead of a small swarm with a fast link would
//! give all of them the end of the blob first. Once neighbours hold every lacking piece, a node requests pieces from the lead by name: pieces of
//! the lead's choice could lie anywhere ahead, and would be half of what a node gets that joins when others have finished.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use darter_core::{Moment, PieceIndex, PieceSet};

use crate::picker::choose::is_asked;
use crate::picker::{Picker, Request};

/// A reader in order.
#[derive(Debug)]
pub(super) struct Reader {
    /// The piece that it needs next.
    pub(super) at: PieceIndex,
    pub(super) count: u32,
    pub(super) patience: Duration,
    /// Since when it waits for that piece.
    pub(super) since: Moment,
}

/// The pieces that readers that are behind need next; near ones are the first of the window.
#[derive(Debug)]
pub(super) struct Needs {
    pub(super) near: Vec<Range<u32>>,
    pub(super) window: Vec<Range<u32>>,
}

impl Needs {
    pub(super) const fn is_empty(&self) -> bool {
        self.near.is_empty()
    }

    fn are_near(&self, piece: PieceIndex) -> bool {
        self.near.iter().any(|range| range.contains(&piece.0))
    }
}

impl Picker {
    /// How many pieces this node holds behind the first one that it lacks: pieces that are of no use yet to a reader in order.
    pub fn lag(&self) -> u32 {
        self.held.len() - self.prefix.0
    }

    /// Readers are behind once more pieces than these lie behind one that they lack.
    fn most_lag(&self) -> u32 {
        let most = u32::try_from(self.tuning.reader_lag / self.piece_bytes.max(1)).unwrap_or(u32::MAX);
        most.max(self.total.unwrap_or(0) / self.tuning.reader_lag_part)
    }

    /// True if readers here are behind, as their like at neighbours may be.
    pub(super) fn are_readers_behind(&self) -> bool {
        !self.readers.is_empty() && self.lag() > self.most_lag()
    }

    /// The pieces that readers that are behind need next.
    pub(super) fn needs_of_readers(&self) -> Needs {
        let (tuning, most) = (&self.tuning, self.most_lag());
        let firsts = self.readers.values().map(|reader| self.held.first_missing_from(reader.at));
        let behind: Vec<_> = firsts.filter(|first| self.held.count_from(*first) > most).collect();
        let ahead = |pieces: u32| behind.iter().map(|first| first.0..first.0.saturating_add(pieces)).collect();
        Needs { near: ahead(tuning.reader_near), window: ahead(self.reader_window()) }
    }

    fn reader_window(&self) -> u32 {
        if self.is_in_large_swarm() { self.tuning.reader_window_large } else { self.tuning.reader_window }
    }

    /// True if a neighbour that wants pieces has all that readers here need, and as many again behind them: pieces that nobody has yet are
    /// of use to it.
    pub(super) fn is_anyone_ahead(&self, needs: &Needs) -> bool {
        let Some(first) = needs.near.iter().map(|need| need.start).max() else { return false };
        let far = first.saturating_add(self.reader_window() * 2);
        let total = self.total.unwrap_or(u32::MAX);
        let ends = |held: &PieceSet| held.first_missing_with(&self.held, PieceIndex(first)).0;
        self.neighbours.iter().filter(|peer| peer.wants).any(|peer| (far + 1..total).contains(&ends(&peer.held)))
    }

    /// True if every piece is here, on its way, or held by a neighbour, and no neighbour fails: a neighbour that gives nothing may say that it holds all.
    pub(super) fn is_all_to_be_had(&self) -> bool {
        let is_anyone_failing = self.counts.aside > 0 || self.neighbours.iter().any(|peer| peer.meter.is_failing());
        self.knows_all() && !self.rarity.any_unheld() && !is_anyone_failing
    }

    /// Gives up a request for one of the very next pieces if its answer does not begin, another neighbour holds the piece, and the holder that was asked has never
    /// answered, so that nobody knows how long it takes. It does not count as a failure, and the answer is still used.
    pub(super) fn hurry(&mut self, needs: &Needs, now: Moment) {
        if needs.is_empty() {
            return;
        }
        let Some(usual) = self.usual_piece_time() else { return };
        for at in 0..self.requests.len() {
            let request = self.requests[at];
            let (Some(piece), Some(holder)) = (request.piece, request.neighbour) else { continue };
            if !request.is_relied_on() || request.began.is_some() || !needs.are_near(piece) {
                continue;
            }
            let meter = &self.neighbours[holder].meter;
            if meter.pace.measured(self.piece_bytes).is_some() {
                continue;
            }
            let queue = usual * meter.queued().max(1);
            let due = request.moved + (queue * self.tuning.reader_hurry).max(self.tuning.reader_hurry_floor);
            if due > now {
                self.wake_at(due);
                continue;
            }
            let mut others = self.neighbours.iter().enumerate().filter(|(other, _)| *other != holder);
            if others.any(|(_, peer)| peer.held.contains(piece) && peer.is_ready(now) && !peer.meter.is_failing()) {
                self.mark_overdue(at, now);
            }
        }
    }

    /// Requests from the lead, by name, the pieces that readers that are behind need and that are requested from no peer, as far as there is room. If answers are overdue, this
    /// node is the slow one.
    pub(super) fn request_of_lead(&mut self, needs: &Needs, now: Moment) {
        let Some(lead) = self.lead.as_ref().filter(|_| self.counts.aside == 0) else { return };
        let ready = lead.meter.paused_until();
        if ready > now {
            return self.wake_at(ready);
        }
        let room = self.most_open().saturating_sub(self.counts.open);
        let room = room.min(self.most_asks().saturating_sub(self.counts.bound));
        let pieces = needs.window.iter().flat_map(|range| range.clone().map(PieceIndex));
        let open: BTreeSet<PieceIndex> = pieces.filter(|piece| self.rarity.open().contains(*piece)).collect();
        for piece in open.into_iter().take(room) {
            self.request(None, piece, false, now);
        }
    }

    pub(super) fn request_urgent(&mut self, now: Moment) {
        let mut urgent = Vec::new();
        for reader in self.readers.values() {
            let end = reader.at.0.saturating_add(reader.count.max(1));
            let piece = self.held.first_missing_from(reader.at);
            if piece.0 >= end {
                continue;
            }
            let due = reader.since + reader.patience;
            let missing = (piece.0..end.min(self.known_end)).map(PieceIndex).filter(|piece| self.is_due(*piece));
            let is_waited_for = reader.patience.is_zero();
            let since = reader.since;
            urgent
                .extend(missing.take(self.tuning.per_holder as usize).map(|piece| (piece, due, is_waited_for, since)));
        }
        self.left_to_others.clear();
        self.is_urgent = urgent.iter().any(|(_, due, ..)| *due <= now);
        // All such pieces first: the length of a holder's queue says how late its answers may be.
        for (piece, ..) in urgent.iter().filter(|(_, due, is_waited_for, _)| *is_waited_for && *due <= now) {
            self.take_out_of_queue(*piece, now);
        }
        for (piece, due, _, since) in urgent {
            if due <= now {
                self.request_at_once(piece, since, now);
            } else {
                self.wake_at(due);
            }
        }
    }

    /// Withdraws a request for a piece for which a reader waits by now, if the request was made when none did, stands behind others at its holder, and
    /// is not answered yet: when it is made again as urgent, it comes before these.
    fn take_out_of_queue(&mut self, piece: PieceIndex, now: Moment) {
        let of_piece = |request: &Request| request.piece == Some(piece) && request.is_relied_on();
        let Some(request) = self.requests.iter().copied().find(of_piece) else { return };
        let stands_before = |other: &Request| {
            other.neighbour == request.neighbour && other.id < request.id && other.piece.is_some() && !other.urgent
        };
        let waits_in_vain = !request.urgent && request.began.is_none() && self.requests.iter().any(stands_before);
        // A holder that is left alone for now could not be asked again.
        let may_ask = self.meter_mut(&request).is_some_and(|meter| meter.paused_until() <= now);
        if waits_in_vain && may_ask {
            self.cancel_where(|other| other.id == request.id);
        }
    }

    /// Requests one piece for which a reader has waited since `since` from the peer that will be quickest, even if it is under way but late; from the lead if
    /// no other has it.
    fn request_at_once(&mut self, piece: PieceIndex, since: Moment, now: Moment) {
        let (piece_bytes, tuning, usual) = (self.piece_bytes, self.tuning_now(), self.usual_piece_time());
        for at in 0..self.requests.len() {
            let request = self.requests[at];
            if request.piece != Some(piece) || !request.is_relied_on() {
                continue;
            }
            let Some(meter) = self.meter_mut(&request) else { continue };
            let expected = request.moved + meter.queue_time(usual, piece_bytes, &tuning);
            if request.urgent {
                return;
            }
            if expected > now {
                self.wake_at(expected);
                return;
            }
        }
        if self.leaves_to_others(piece, since, now) {
            return;
        }
        // The lead gives a piece sooner than a holder that failed and that alone has it.
        let is_careful = self.is_among_starters(now);
        while let Some(at) = self.quickest_for(piece, is_careful, now) {
            let is_relied_on = !self.neighbours[at].meter.is_bad(&tuning);
            self.request(Some(at), piece, true, now);
            if is_relied_on || self.request_of_lead_at_once(piece, since, now) {
                return;
            }
        }
        self.wake_when_ready(piece, now);
        self.request_of_lead_at_once(piece, since, now);
    }

    /// The holder that will be quickest to give a piece, of those from which it is not requested.
    fn quickest_for(&self, piece: PieceIndex, is_careful: bool, now: Moment) -> Option<usize> {
        let (piece_bytes, tuning) = (self.piece_bytes, self.tuning_now());
        let room = tuning.per_holder * 2;
        let quickest = (self.neighbours.iter().enumerate())
            .filter(|(_, peer)| !(is_careful && peer.meter.is_failing()))
            .filter(|(_, peer)| peer.held.contains(piece) && peer.is_ready(now) && peer.meter.open < room)
            .filter(|(at, _)| !is_asked(&self.requests, piece, Some(*at)))
            .min_by_key(|(_, peer)| (peer.meter.is_bad(&tuning), peer.meter.time_for_one_more(piece_bytes, &tuning)));
        quickest.map(|(at, _)| at)
    }

    /// Requests a piece for which a reader has waited since `since` from the lead, unless that has been done or the lead is to be left alone for now. Returns true if it
    /// was requested.
    fn request_of_lead_at_once(&mut self, piece: PieceIndex, since: Moment, now: Moment) -> bool {
        let Some(lead) = &self.lead else { return false };
        let paused_until = lead.meter.paused_until();
        // If other nodes start the same program, the piece is on its way to one of them, or will be given to the next that asks for any.
        let with_others = if self.is_among_starters(now) { since + self.patience_with_others() } else { now };
        let ready = paused_until.max(with_others);
        if ready > now {
            self.wake_at(ready);
        }
        let asks = ready <= now && !is_asked(&self.requests, piece, None);
        if asks {
            self.request(None, piece, true, now);
        }
        asks
    }
}
