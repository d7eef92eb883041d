//! [`Picker::poll`]: urgent pieces first, then asks to the lead, then the rarest pieces of each holder with room, then
//! what only slow holders have, and in the end the last pieces twice.

use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex, PieceSet, Tier};

use crate::event::{Action, RequestId};
use crate::locality::{fetcher_rank, is_across};
use crate::picker::neighbour::Neighbour;
use crate::picker::{Picker, Request};

impl Picker {
    /// Appends what is to be done now. Call it after events, and at [`Picker::next_wakeup`].
    pub fn poll(&mut self, now: Moment, actions: &mut Vec<Action>) {
        self.wakeup = None;
        self.give_up_overdue(now);
        self.abandon_stuck(now);
        self.try_slow_ones_again(now);
        self.request_urgent(now);
        self.adjust_asks(now);
        self.take_offers(now);
        self.request_rarest(now);
        self.request_from_slow(now);
        self.request_twice(now);
        self.note_deadlines(now);
        self.is_full = self.open_count() >= self.most_open();
        actions.append(&mut self.waiting);
    }

    /// How many requests and asks may be open: a bound on the memory that answers may need.
    fn most_open(&self) -> usize {
        let by_bytes = u32::try_from(self.tuning.bytes_in_flight / self.piece_bytes.max(1)).unwrap_or(u32::MAX);
        by_bytes.min(self.tuning.in_all).max(self.tuning.at_least) as usize
    }

    /// Requests for named pieces, and asks that the lead answers. Overdue ones don't count (somebody else was asked in
    /// their stead), nor do spares, nor asks that just stand: most of those of a large swarm are never answered.
    fn open_count(&self) -> usize {
        self.requests.iter().filter(|request| request.piece.is_some() && !request.overdue && !request.spare).count()
    }

    fn wake_at(&mut self, moment: Moment) {
        self.wakeup = Some(self.wakeup.map_or(moment, |before| before.min(moment)));
    }

    fn give_up_overdue(&mut self, now: Moment) {
        for at in 0..self.requests.len() {
            let request = self.requests[at];
            let Some(piece) = request.piece.filter(|_| !request.overdue) else { continue };
            let (piece_bytes, tuning) = (self.piece_bytes, self.tuning);
            let Some(meter) = self.meter_mut(&request) else { continue };
            if meter.deadline(request.moved, piece_bytes, &tuning) > now {
                continue;
            }
            meter.overdue(piece_bytes, request.asked, now, &tuning);
            self.requests[at].overdue = true;
            self.reopen(piece);
            self.judge_rates(now);
        }
    }

    /// Withdraws overdue requests that still don't move, so that even the only holder can be asked anew.
    fn abandon_stuck(&mut self, now: Moment) {
        let (piece_bytes, tuning) = (self.piece_bytes, self.tuning);
        for request in self.requests.clone() {
            if !request.overdue {
                continue;
            }
            let Some(meter) = self.meter_mut(&request) else { continue };
            let end = meter.deadline(request.moved, piece_bytes, &tuning) + tuning.abandon;
            if end > now {
                self.wake_at(end);
                continue;
            }
            self.waiting.push(Action::Cancel { id: request.id, peer: request.peer });
            self.fail(request.id, now);
        }
    }

    fn try_slow_ones_again(&mut self, now: Moment) {
        for neighbour in &mut self.neighbours {
            if neighbour.slow_until.is_some_and(|until| until <= now) {
                neighbour.slow_until = None;
                neighbour.meter.forget_rate();
            }
        }
    }

    fn request_urgent(&mut self, now: Moment) {
        let mut urgent = Vec::new();
        for reader in self.readers.values() {
            let end = reader.at.0.saturating_add(reader.count.max(1));
            let piece = self.held.first_missing_from(reader.at);
            if piece.0 >= end {
                continue;
            }
            let due = reader.since + reader.patience;
            let missing = (piece.0..end.min(self.known)).map(PieceIndex).filter(|piece| !self.held.contains(*piece));
            urgent.extend(missing.take(self.tuning.per_holder as usize).map(|piece| (piece, due)));
        }
        for (piece, due) in urgent {
            if due <= now {
                self.request_at_once(piece, now);
            } else {
                self.wake_at(due);
            }
        }
    }

    /// Asks whoever will be quickest for one piece, even if it is under way but late; the lead if nobody else has it.
    fn request_at_once(&mut self, piece: PieceIndex, now: Moment) {
        let (piece_bytes, tuning) = (self.piece_bytes, self.tuning);
        for request in self.requests.clone() {
            if request.piece != Some(piece) || request.overdue {
                continue;
            }
            let Some(meter) = self.meter_mut(&request) else { continue };
            let expected = request.moved + meter.piece_time(piece_bytes, &tuning) * meter.open.max(1);
            if request.urgent {
                return;
            }
            if expected > now {
                self.wake_at(expected);
                return;
            }
        }
        let room = tuning.per_holder * 2;
        let quickest = self
            .neighbours
            .iter()
            .filter(|peer| peer.held.contains(piece) && peer.is_ready(now) && peer.meter.open < room)
            .filter(|peer| !self.is_asked_of(piece, peer.id))
            .min_by_key(|peer| peer.meter.piece_time(piece_bytes, &tuning) * (peer.meter.open + 1));
        if let Some(peer) = quickest.map(|peer| peer.id) {
            self.request(peer, false, piece, true, now);
            return;
        }
        let Some(lead) = &self.lead else { return };
        let (id, ready) = (lead.id, lead.meter.paused_until);
        if ready > now {
            self.wake_at(ready);
        } else if !self.is_asked_of(piece, id) {
            self.request(id, true, piece, true, now);
        }
    }

    fn is_asked_of(&self, piece: PieceIndex, peer: NodeId) -> bool {
        self.requests.iter().any(|request| request.piece == Some(piece) && request.peer == peer)
    }

    /// Keeps as many asks open at the lead as could be answered with something useful.
    fn adjust_asks(&mut self, now: Moment) {
        let Some(lead) = &self.lead else { return };
        let (lead, ready) = (lead.id, lead.meter.paused_until);
        let mut open: Vec<RequestId> = self
            .requests
            .iter()
            .filter(|request| request.to_lead && request.piece.is_none())
            .map(|ask| ask.id)
            .collect();
        let bound = self.requests.iter().filter(|request| request.to_lead && request.piece.is_some()).count();
        // The more neighbours, the smaller the lead's part in what this node gets.
        let asks = (self.tuning.asks as usize).div_ceil(1 + self.neighbours.len() / 8);
        let useful = self.unassigned().min(asks).min(self.most_open());
        while open.len() > useful {
            let Some(id) = open.pop() else { break };
            self.requests.retain(|request| request.id != id);
            if let Some(lead) = &mut self.lead {
                lead.meter.open -= 1;
            }
            self.waiting.push(Action::Cancel { id, peer: lead });
        }
        let missing = useful.saturating_sub(open.len() + bound);
        if missing == 0 {
            return;
        }
        if ready > now {
            self.wake_at(ready);
            return;
        }
        for _ in 0..missing {
            let id = self.open_request(lead, true, None, false, now);
            self.waiting.push(Action::Ask { id, lead });
        }
    }

    /// How many pieces are lacking that nobody is sending; unbounded while the blob's length is unknown.
    fn unassigned(&self) -> usize {
        if !self.wants {
            return 0;
        }
        let Some(total) = self.total else { return usize::MAX };
        let mut coming: Vec<PieceIndex> =
            self.requests.iter().filter(|request| !request.overdue).filter_map(|request| request.piece).collect();
        coming.sort_unstable();
        coming.dedup();
        (total.saturating_sub(self.held.len()) as usize).saturating_sub(coming.len())
    }

    /// Asks new holders, too, for pieces that wait in the queue of another: whoever begins first sends it, the others are
    /// told to forget it. Otherwise all neighbours of a piece's first holder stand in its queue while those who got
    /// it from there have nothing to do.
    fn take_offers(&mut self, now: Moment) {
        for (peer, piece) in std::mem::take(&mut self.offers) {
            let Some(neighbour) = self.neighbours.iter().find(|neighbour| neighbour.id == peer) else { continue };
            let may = is_quick(neighbour, now) && neighbour.meter.open < self.tuning.per_holder;
            if may && !is_across(neighbour.tier) && self.is_waiting(piece) && !self.is_asked_of(piece, peer) {
                self.request(peer, false, piece, false, now);
                if let Some(request) = self.requests.last_mut() {
                    request.spare = true;
                }
            }
        }
    }

    fn request_rarest(&mut self, now: Moment) {
        let mut room = self.most_open().saturating_sub(self.open_count());
        let mut refused_across = false;
        while room > 0 && !self.rarity.open().is_empty() {
            let mut ready: Vec<(bool, u32, u64, usize)> = Vec::with_capacity(self.neighbours.len());
            for (at, peer) in self.neighbours.iter().enumerate() {
                if peer.slow_until.is_none()
                    && peer.is_ready(now)
                    && peer.meter.open < self.tuning.per_holder
                    && self.rarity.any_open_in(&peer.held)
                {
                    ready.push((is_across(peer.tier), peer.meter.open, self.random.next(), at));
                }
            }
            ready.sort_unstable();
            let before = room;
            for (across, .., at) in ready {
                let piece = if across { self.rarest_across(at, now) } else { self.rarest_near(at) };
                let Some(piece) = piece else {
                    refused_across |= across;
                    continue;
                };
                if !across {
                    self.starved_since = None;
                }
                self.request(self.neighbours[at].id, false, piece, false, now);
                room -= 1;
                if room == 0 {
                    break;
                }
            }
            if room == before {
                break;
            }
        }
        self.note_starving(refused_across, now);
    }

    /// Notes since when this node has nothing to do but wait for other fetchers, and wakes it at its next turn.
    fn note_starving(&mut self, refused_across: bool, now: Moment) {
        let idle = self.open_count() == 0;
        if !refused_across || (!idle && self.starved_since.is_none()) {
            self.starved_since = None;
            return;
        }
        let since = *self.starved_since.get_or_insert(now);
        let patience = self.fetcher_patience();
        let turns = now.since(since).as_nanos() / patience.as_nanos().max(1);
        self.wake_at(since + patience * (u32::try_from(turns).unwrap_or(u32::MAX - 1) + 1));
    }

    fn rarest_near(&mut self, at: usize) -> Option<PieceIndex> {
        let peer = &self.neighbours[at];
        let requests = &self.requests;
        self.rarity.rarest(&peer.held, None, &mut self.random, |piece| !is_asked(requests, piece, peer.id))
    }

    /// The rarest piece that a holder across a boundary has and that is this node's to fetch: nobody nearer has it, and
    /// this node is its designated fetcher, or those before it had their time.
    fn rarest_across(&mut self, at: usize, now: Moment) -> Option<PieceIndex> {
        let tier = self.neighbours[at].tier;
        self.prepare_fetches(tier);
        let patience = self.fetcher_patience().as_nanos().max(1);
        let turns = self.starved_since.map_or(0, |since| now.since(since).as_nanos() / patience);
        let mask = if turns == 0 { self.fetches[tier as usize].as_ref() } else { None };
        let peer = &self.neighbours[at];
        let (neighbours, requests, me) = (&self.neighbours, &self.requests, &self.me);
        let piece = self.rarity.rarest(&peer.held, mask, &mut self.random, |piece| {
            let nearer = neighbours.iter().filter(|other| other.tier < tier);
            if is_asked(requests, piece, peer.id) {
                return false;
            }
            let late = requests.iter().any(|request| request.piece == Some(piece));
            if !late && nearer.clone().any(|other| other.held.contains(piece) && other.is_ready(now)) {
                return false;
            }
            let rivals = nearer.filter(|other| other.wants).map(|other| &other.id);
            mask.is_some() || late || u128::from(fetcher_rank(me, rivals, piece)) <= turns
        })?;
        let own = self.fetches[tier as usize].as_ref().is_some_and(|own| own.contains(piece));
        if own {
            self.starved_since = None;
        }
        Some(piece)
    }

    fn prepare_fetches(&mut self, tier: Tier) {
        if self.fetches[tier as usize].is_some() {
            return;
        }
        let rivals = || self.neighbours.iter().filter(|other| other.tier < tier && other.wants).map(|other| &other.id);
        let own: PieceSet =
            (0..self.known).map(PieceIndex).filter(|piece| fetcher_rank(&self.me, rivals(), *piece) == 0).collect();
        self.fetches[tier as usize] = Some(own);
    }

    fn fetcher_patience(&self) -> Duration {
        let (piece_bytes, tuning) = (self.piece_bytes, &self.tuning);
        let known = self.neighbours.iter().filter(|peer| peer.meter.rate(tuning).is_some());
        let usual = known.map(|peer| peer.meter.piece_time(piece_bytes, tuning)).min().unwrap_or_default();
        (usual * tuning.fetcher_factor).max(tuning.fetcher_floor)
    }

    /// One request at a time to a holder found slow, for a piece that nobody else has.
    fn request_from_slow(&mut self, now: Moment) {
        for at in 0..self.neighbours.len() {
            let peer = &self.neighbours[at];
            let Some(until) = peer.slow_until else { continue };
            if !self.rarity.any_open_in(&peer.held) {
                continue;
            }
            if peer.meter.open > 0 || !peer.is_ready(now) || self.open_count() >= self.most_open() {
                self.wake_at(until);
                continue;
            }
            let tier = peer.tier;
            if is_across(tier) {
                self.prepare_fetches(tier);
            }
            let mask = self.fetches[tier as usize].as_ref().filter(|_| is_across(tier));
            let (neighbours, peer) = (&self.neighbours, &self.neighbours[at]);
            let piece = self.rarity.rarest(&peer.held, mask, &mut self.random, |piece| {
                let quick = |other: &&_| is_quick(other, now);
                !neighbours.iter().filter(quick).any(|other| other.held.contains(piece))
            });
            if let Some(piece) = piece {
                self.request(self.neighbours[at].id, false, piece, false, now);
            }
        }
    }

    /// Asks a second holder for the last pieces when the first takes longer than expected.
    fn request_twice(&mut self, now: Moment) {
        let Some(total) = self.total.filter(|total| *total == self.known) else { return };
        // Half of a blob of sixteen pieces is no end of it.
        let last = self.tuning.endgame.min(total.div_ceil(64));
        if !self.wants || total - self.held.len() > last || self.is_complete() {
            return;
        }
        let (piece_bytes, tuning) = (self.piece_bytes, self.tuning);
        for request in self.requests.clone() {
            let Some(piece) = request.piece else { continue };
            if self.requests.iter().filter(|other| other.piece == Some(piece)).count() > 1 {
                continue;
            }
            let Some(meter) = self.meter_mut(&request) else { continue };
            let expected =
                request.asked.max(request.moved) + meter.piece_time(piece_bytes, &tuning) * meter.open.max(1);
            if expected > now {
                self.wake_at(expected);
                continue;
            }
            let second = self
                .neighbours
                .iter()
                .filter(|peer| peer.id != request.peer && peer.held.contains(piece) && is_quick(peer, now))
                .filter(|peer| !is_across(peer.tier) || !self.has_near_holder(piece))
                .filter(|peer| peer.meter.open < tuning.per_holder)
                .min_by_key(|peer| (peer.tier, peer.meter.piece_time(piece_bytes, &tuning) * (peer.meter.open + 1)));
            if let Some(peer) = second.map(|peer| peer.id) {
                self.request(peer, false, piece, false, now);
            }
        }
    }

    fn has_near_holder(&self, piece: PieceIndex) -> bool {
        self.neighbours.iter().any(|peer| !is_across(peer.tier) && peer.held.contains(piece))
    }

    fn note_deadlines(&mut self, now: Moment) {
        let (piece_bytes, tuning) = (self.piece_bytes, self.tuning);
        for at in 0..self.requests.len() {
            let request = self.requests[at];
            if request.piece.is_none() || request.overdue {
                continue;
            }
            let Some(meter) = self.meter_mut(&request) else { continue };
            let deadline = meter.deadline(request.moved, piece_bytes, &tuning);
            self.wake_at(deadline);
        }
        if self.rarity.open().is_empty() {
            return;
        }
        for at in 0..self.neighbours.len() {
            let peer = &self.neighbours[at];
            if !self.rarity.any_open_in(&peer.held) {
                continue;
            }
            if let Some(until) = peer.slow_until {
                self.wake_at(until);
            }
            let ready = self.neighbours[at].meter.paused_until;
            if ready > now {
                self.wake_at(ready);
            }
        }
    }

    fn request(&mut self, peer: NodeId, to_lead: bool, piece: PieceIndex, urgent: bool, now: Moment) {
        let id = self.open_request(peer, to_lead, Some(piece), urgent, now);
        self.waiting.push(Action::Request { id, peer, piece, urgent });
    }

    fn open_request(
        &mut self,
        peer: NodeId,
        to_lead: bool,
        piece: Option<PieceIndex>,
        urgent: bool,
        now: Moment,
    ) -> RequestId {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let request = Request {
            id,
            peer,
            to_lead,
            piece,
            urgent,
            spare: false,
            started: false,
            asked: now,
            moved: now,
            overdue: false,
        };
        if let Some(meter) = self.meter_mut(&request) {
            meter.open += 1;
        }
        self.requests.push(request);
        if let Some(piece) = piece {
            self.rarity.set_open(piece, false);
        }
        id
    }
}

fn is_asked(requests: &[Request], piece: PieceIndex, peer: NodeId) -> bool {
    requests.iter().any(|request| request.piece == Some(piece) && request.peer == peer)
}

fn is_quick(peer: &Neighbour, now: Moment) -> bool {
    peer.slow_until.is_none() && peer.is_ready(now)
}
