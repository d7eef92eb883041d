//! [`Picker::poll`]: urgent pieces first, then foreseen ones, then asks to the lead, then the rarest pieces of each holder with room (those near to readers that are
//! behind first), then pieces that only slow holders have, and at the end the last pieces twice.

use std::ops::Range;
use std::time::Duration;

use darter_core::{Moment, PieceIndex, Tier};

use crate::event::{Action, RequestId};
use crate::locality::{fetcher_rank, is_across};
use crate::picker::neighbour::Neighbour;
use crate::picker::{NEVER, Picker, Request};
use crate::random::Random;
use crate::tuning::Tuning;

/// Every piece of a blob.
const WHOLE: Range<u32> = 0..u32::MAX;

impl Picker {
    /// Appends the actions to take now. To be called after events, and at [`Picker::next_wakeup`].
    pub(crate) fn poll(&mut self, now: Moment, actions: &mut Vec<Action>) {
        self.wakeup = None;
        if self.check_at <= now {
            self.check_requests(now);
        }
        if self.slow_check <= now {
            self.try_slow_ones_again(now);
        }
        self.drop_hints(now);
        self.note_starters(now);
        self.request_urgent(now);
        self.request_foreseen(now);
        self.request_wanted(now);
        if self.slow_check != NEVER {
            self.request_from_slow(now);
        }
        self.request_twice(now);
        self.note_pauses(now);
        if self.check_at != NEVER {
            self.wake_at(self.check_at.max(now));
        }
        self.is_full = self.counts.open >= self.most_open();
        actions.append(&mut self.waiting);
    }

    /// How many requests and asks may be open: a bound on the memory that answers may need. Overdue requests don't count
    /// (others were made in their place), nor do asks that stand: most of those of a large swarm are never
    /// answered.
    pub(super) fn most_open(&self) -> usize {
        let by_bytes = u32::try_from(self.tuning.bytes_in_flight / self.piece_bytes.max(1)).unwrap_or(u32::MAX);
        let in_all = if self.is_in_large_swarm() { self.tuning.in_all_large } else { self.tuning.in_all };
        let alone = by_bytes.min(in_all).max(self.tuning.at_least);
        // Two, so that one slow holder never decides.
        alone.div_ceil(self.among).max(2) as usize
    }

    /// True if this node is taken to be in a swarm too large for a full mesh, by the neighbours that it has or that the lead named.
    pub(super) fn is_in_large_swarm(&self) -> bool {
        self.tuning.is_large(self.neighbours.len().max(self.expected))
    }

    /// How many requests of this blob may be open at one holder. With many neighbours it is one: otherwise all of them would send the first holders of a new piece
    /// requests for it and for other pieces at the same time.
    pub(super) fn most_at_one(&self) -> u32 {
        let holders = u32::try_from(self.neighbours.len()).unwrap_or(u32::MAX).max(1);
        self.tuning.in_all.div_ceil(holders).min(self.tuning.per_holder)
    }

    pub(super) fn wake_at(&mut self, moment: Moment) {
        self.wakeup = Some(self.wakeup.map_or(moment, |before| before.min(moment)));
    }

    /// Marks overdue requests, withdraws those that make no progress long after that (so that even the only holder can be asked
    /// again), and notes when to look again.
    fn check_requests(&mut self, now: Moment) {
        let (piece_bytes, tuning) = (self.piece_bytes, self.tuning_now());
        let usual = self.usual_piece_time();
        let longest = self.longest(usual);
        let mut next = NEVER;
        let mut stuck = Vec::new();
        for at in 0..self.requests.len() {
            let request = self.requests[at];
            if request.piece.is_none() && request.overdue.is_none() {
                continue;
            }
            // A lead may be much slower than the members, but pieces that others have need not come from it.
            let others = usual.filter(|_| request.neighbour.is_some() || self.is_held_by_a_good_one(request.piece));
            let crawls = request.neighbour.is_some() && request.crawls(piece_bytes, longest, &tuning, now);
            let place = self.place_in_queue(&request);
            let Some(meter) = self.meter_mut(&request) else { continue };
            let since = request.overdue.unwrap_or_else(|| {
                let queued = place.unwrap_or(meter.queued());
                let deadline = meter.deadline((request.moved, queued), others, piece_bytes, &tuning);
                if crawls { deadline.min(now) } else { deadline }
            });
            if request.overdue.is_none() {
                if since > now {
                    let looks = request.began.map_or(NEVER, |_| now + tuning.overdue_floor);
                    next = next.min(since).min(looks);
                    continue;
                }
                // A peer that answered another request meanwhile is busy; a peer that did not, or crawls, fails this node.
                let lets_down = crawls || meter.pace.last_answer() <= request.asked;
                meter.pace.overdue(piece_bytes, request.asked, now, &tuning);
                self.mark_overdue(at, now);
                if lets_down && request.neighbour.is_some() {
                    self.failed(request.neighbour, now);
                }
                self.judge_rates(now);
            }
            let end = since.max(request.moved) + tuning.abandon;
            if end > now {
                next = next.min(end);
            } else {
                stuck.push(request.id);
                self.waiting.push(Action::Cancel { id: request.id, peer: request.peer });
            }
        }
        self.check_at = next;
        for id in stuck {
            self.fail(id, now);
        }
    }

    fn is_held_by_a_good_one(&self, piece: Option<PieceIndex>) -> bool {
        let holds = |peer: &Neighbour| piece.is_some_and(|piece| peer.held.contains(piece));
        self.neighbours.iter().any(|peer| !peer.meter.is_failing() && holds(peer))
    }

    fn try_slow_ones_again(&mut self, now: Moment) {
        self.slow_check = NEVER;
        for neighbour in &mut self.neighbours {
            if neighbour.slow_until.is_some_and(|until| until <= now) {
                neighbour.slow_until = None;
                neighbour.meter.forget_rate(now);
            }
            self.slow_check = self.slow_check.min(neighbour.slow_until.unwrap_or(NEVER));
        }
    }

    /// Requests lacking pieces: those for readers that are behind first, then the rarest.
    fn request_wanted(&mut self, now: Moment) {
        let needs = self.needs_of_readers();
        self.hurry(&needs, now);
        if !self.wants {
            self.adjust_asks(usize::MAX, now);
            if self.is_among_starters(now) {
                self.request_rarest(&[], &[WHOLE], now);
            }
            return;
        }
        let is_lead_for_all = self.lead_share > self.tuning.reader_lead_share && !self.is_anyone_ahead(&needs);
        if needs.is_empty() || !is_lead_for_all {
            self.adjust_asks(usize::MAX, now);
            return self.request_rarest(&needs.near, &[&needs.near[..], &needs.window, &[WHOLE]].concat(), now);
        }
        self.request_rarest(&needs.near, &[&needs.near[..], &needs.window].concat(), now);
        if self.is_all_to_be_had() {
            // The lead would choose copies of any pieces: requests by name make it one more holder of the pieces that are needed next.
            self.adjust_asks(0, now);
            self.request_of_lead(&needs, now);
        } else {
            // A fast lead gives pieces further and further ahead; these, and other rare pieces, get the remaining requests. If asks were
            // withdrawn and made again for every piece, they would be most of the lead's messages, so some stay open while few requests remain.
            let (open, most) = (self.counts.open, self.most_open());
            let asks = if open >= most {
                0
            } else if open * 2 > most {
                self.counts.standing
            } else {
                usize::MAX
            };
            self.adjust_asks(asks, now);
        }
        self.request_rarest(&[], &[WHOLE], now);
    }

    /// How many asks may be open at the lead: the more neighbours, the smaller the lead's share in what this node gets.
    pub(super) fn most_asks(&self) -> usize {
        let neighbours = self.neighbours.len().max(self.expected);
        // For parts, as many requests as a node that is alone would make by name.
        let alone = if self.wants { self.tuning.asks as usize } else { self.most_foreseen() };
        let less = (neighbours / 8).max(if self.tuning.is_large(neighbours) { 2 } else { 0 });
        (alone / (1 + less)).max(1)
    }

    /// Keeps as many asks open at the lead as it could answer with a useful piece, and no more than `most`.
    fn adjust_asks(&mut self, most: usize, now: Moment) {
        let Some(lead) = &mut self.lead else { return };
        // A start is over before many nodes could have asked one after the other.
        let neighbours = if self.wants { self.neighbours.len().max(self.expected) } else { 0 };
        let asked_from =
            *lead.asked_from.get_or_insert_with(|| now + first_ask(neighbours, &self.tuning, &mut self.random));
        let (lead, ready) = (lead.id, lead.meter.paused_until().max(asked_from));
        let useful = self.unassigned(now).min(self.most_asks()).min(self.most_open()).min(most);
        while self.counts.standing > useful {
            let is_standing = |request: &Request| request.neighbour.is_none() && request.piece.is_none();
            let Some(at) = self.requests.iter().rposition(is_standing) else { break };
            let ask = self.remove_request(at);
            self.waiting.push(Action::Cancel { id: ask.id, peer: lead });
        }
        let missing = useful.saturating_sub(self.counts.standing + self.counts.bound);
        if missing == 0 {
            return;
        }
        if ready > now {
            self.wake_at(ready);
            return;
        }
        for _ in 0..missing {
            let id = self.open_request(None, None, false, now);
            self.waiting.push(Action::Ask { id, lead });
        }
    }

    /// How many lacking pieces no peer is sending; unbounded while the blob's length is unknown.
    fn unassigned(&self, now: Moment) -> usize {
        if !self.wants {
            // Pieces that others hold come from them: otherwise the lead would send them, too, at the same time.
            return if self.is_among_starters(now) { self.left_to_lead(now) } else { 0 };
        }
        let Some(total) = self.total else { return usize::MAX };
        total.saturating_sub(self.held.len()).saturating_sub(self.coming.len()) as usize
    }

    /// Requests, from each holder with room, the first piece that it has of those that are `near`, or else the rarest that it has in the first of
    /// these ranges in which it has one, until this node has no room left. Which node fetches a piece from afar depends on other nodes, too.
    fn request_rarest(&mut self, near: &[Range<u32>], ranges: &[Range<u32>], now: Moment) {
        let mut room = self.most_open().saturating_sub(self.counts.open);
        while room > 0 && self.rarity.any_to_be_had() {
            self.order_holders(now);
            let before = room;
            let ready = std::mem::take(&mut self.ready);
            for key in &ready {
                let at = (key & 0xffff) as usize;
                let peer = &self.neighbours[at];
                if !self.rarity.any_open_in(&peer.held) {
                    continue;
                }
                let across = is_across(peer.tier);
                let first = if across { None } else { self.first_of(at, near) };
                let mut rarest = |range: &Range<u32>| {
                    if across { self.rarest_across(at, range, now) } else { self.rarest_near(at, range) }
                };
                let Some(piece) = first.or_else(|| ranges.iter().find_map(&mut rarest)) else { continue };
                self.request(Some(at), piece, false, now);
                room -= 1;
                if room == 0 {
                    break;
                }
            }
            self.ready = ready;
            if room == before {
                if self.among > 1 {
                    // Answers to requests for other blobs make room, and this picker is not told of them.
                    self.wake_at(now + self.tuning.room_pause);
                }
                break;
            }
        }
    }

    /// Lists the holders with room: near ones first, then those with the shorter queue, ties at random. Each is one number with its
    /// index in the low 16 bits, for sorting quickly. The limit is for all blobs together; a blob that has nothing under way may exceed it a little,
    /// or else blobs that refill their places at every answer would leave no room for it.
    fn order_holders(&mut self, now: Moment) {
        self.ready.clear();
        let (limit, tuning) = (self.most_at_one(), &self.tuning);
        let most_queued = self.tuning.per_holder * if self.counts.open == 0 { 2 } else { 1 };
        for (at, peer) in self.neighbours.iter().enumerate().take(1 << 16) {
            let limit = if peer.meter.is_bad(tuning) { 1 } else { limit };
            let has_room = peer.meter.open < limit && peer.meter.queued() < most_queued;
            if is_quick(peer, now) && has_room {
                let tie = self.random.next() >> 40;
                let far = u64::from(is_across(peer.tier));
                self.ready.push(far << 63 | u64::from(peer.meter.queued()) << 40 | tie << 16 | at as u64);
            }
        }
        self.ready.sort_unstable();
    }

    fn rarest_near(&mut self, at: usize, range: &Range<u32>) -> Option<PieceIndex> {
        let may_ask = may_ask(&self.neighbours, at, &self.requests, self.counts.aside, self.is_ending());
        let accept = |piece| !self.left_to_others.contains(&piece) && may_ask(piece);
        self.rarity.rarest(&self.neighbours[at].held, range, &mut self.random, accept)
    }

    /// The first piece in these ranges that a holder has and that is requested from no peer.
    fn first_of(&self, at: usize, ranges: &[Range<u32>]) -> Option<PieceIndex> {
        let accept = may_ask(&self.neighbours, at, &self.requests, self.counts.aside, self.is_ending());
        let (open, held) = (self.rarity.open(), &self.neighbours[at].held);
        let mut pieces = ranges.iter().flat_map(|range| range.clone().map(PieceIndex));
        pieces.find(|piece| open.contains(*piece) && held.contains(*piece) && accept(*piece))
    }

    /// True while the last pieces are being requested.
    fn is_ending(&self) -> bool {
        let is_nearly_whole = |total: u32| total.saturating_sub(self.held.len()) <= 2 * self.tuning.in_all;
        !self.wants || self.total.is_some_and(is_nearly_whole)
    }

    /// The rarest piece that a holder across a boundary has and that is this node's to fetch: no nearer node has it, and
    /// this node's turn has come. Turns are counted from the moment in which this node found that the piece is only to be had from afar.
    fn rarest_across(&mut self, at: usize, range: &Range<u32>, now: Moment) -> Option<PieceIndex> {
        let tier = self.neighbours[at].tier;
        self.count_turns(tier);
        let turn = self.turn(tier);
        self.afar_since.resize(self.known_end as usize, NEVER);
        let (neighbours, requests, peer) = (&self.neighbours, &self.requests, &self.neighbours[at]);
        let (turns, afar_since) = (&self.turns[tier as usize], &mut self.afar_since);
        let mut next = NEVER;
        let piece = self.rarity.rarest(&peer.held, range, &mut self.random, |piece| {
            if is_asked(requests, piece, Some(at)) {
                return false;
            }
            let is_late = requests.iter().any(|request| request.piece == Some(piece) && request.overdue.is_some());
            let mut nearer = neighbours.iter().filter(|other| other.tier < tier && other.is_ready(now));
            if is_late || nearer.any(|other| other.held.contains(piece)) {
                return is_late;
            }
            let since = &mut afar_since[piece.as_usize()];
            *since = now.min(*since);
            let due = *since + turn * u32::from(turns[piece.as_usize()]);
            if due > now {
                next = next.min(due);
            }
            due <= now
        });
        if piece.is_none() && next != NEVER {
            self.wake_at(next);
        }
        piece
    }

    /// Brings up to date, for each piece, how many turns this node waits before it fetches the piece from a tier.
    fn count_turns(&mut self, tier: Tier) {
        if self.turns[tier as usize].len() == self.known_end as usize {
            return;
        }
        let rivals = || self.neighbours.iter().filter(|other| other.tier < tier && other.wants).map(|other| &other.id);
        let turn = |piece| fetcher_rank(&self.me, rivals(), piece).try_into().unwrap_or(u8::MAX);
        self.turns[tier as usize] = (0..self.known_end).map(PieceIndex).map(turn).collect();
    }

    /// The length of a turn: a few times the time that a piece usually takes, so that a waiting node learns that another node has fetched the piece
    /// before it fetches another copy. The fewer requests this node has open, the shorter the turn, since the pieces that it lacks are afar; but a turn is never so short
    /// that a piece requested at once could not have arrived ([`Tuning::fetcher_patience`]).
    fn turn(&self, tier: Tier) -> Duration {
        let tuning = &self.tuning;
        let mut times: Vec<_> =
            self.neighbours.iter().map(|peer| peer.meter.pace.piece_time(self.piece_bytes, tuning)).collect();
        times.sort_unstable();
        let usual = times.get(times.len() / 2).copied().unwrap_or(tuning.first_guess);
        let factor = if tier > Tier::Zone { tuning.fetcher_factor_beyond } else { tuning.fetcher_factor };
        let busy = (self.counts.open as f64 + 2.0) / (self.most_open() as f64 + 2.0);
        (usual * factor).mul_f64(busy.min(1.0)).max(self.from_afar * tuning.fetcher_patience).max(tuning.fetcher_floor)
    }

    /// Makes one request at a time to a holder that was found slow, for a piece that no other peer has.
    fn request_from_slow(&mut self, now: Moment) {
        for at in 0..self.neighbours.len() {
            let peer = &self.neighbours[at];
            let Some(until) = peer.slow_until else { continue };
            if !self.rarity.any_open_in(&peer.held) {
                continue;
            }
            if peer.meter.queued() > 0 || !peer.is_ready(now) || self.counts.open >= self.most_open() {
                self.wake_at(until);
                continue;
            }
            let tier = peer.tier;
            if is_across(tier) {
                self.count_turns(tier);
            }
            let (neighbours, peer) = (&self.neighbours, &self.neighbours[at]);
            let turns = &self.turns[tier as usize];
            let piece = self.rarity.rarest(&peer.held, &WHOLE, &mut self.random, |piece| {
                let quick = |other: &&_| is_quick(other, now);
                let is_own = !is_across(tier) || turns[piece.as_usize()] == 0;
                is_own && !neighbours.iter().filter(quick).any(|other| other.held.contains(piece))
            });
            if let Some(piece) = piece {
                self.request(Some(at), piece, false, now);
            }
        }
    }

    /// Requests the last pieces from a second holder if the first takes longer than expected. When several blobs are fetched, the last pieces of one are not
    /// the end: as long as other pieces come, a piece that comes twice takes their time.
    fn request_twice(&mut self, now: Moment) {
        let Some(total) = self.total.filter(|total| *total == self.known.len()) else { return };
        // Half of the pieces of a blob of sixteen are not its end.
        let last = self.tuning.endgame.min(total.div_ceil(64));
        if !self.wants || total - self.held.len() > last || self.is_complete() {
            return;
        }
        let elsewhere: u32 = self.neighbours.iter().map(|neighbour| neighbour.meter.elsewhere).sum();
        if elsewhere > self.tuning.endgame {
            return;
        }
        let (piece_bytes, tuning, usual) = (self.piece_bytes, self.tuning, self.usual_piece_time());
        for at in 0..self.requests.len() {
            let request = self.requests[at];
            let Some(piece) = request.piece.filter(|_| request.is_relied_on()) else { continue };
            if self.requests.iter().filter(|other| other.piece == Some(piece)).count() > 1 {
                continue;
            }
            let Some(meter) = self.meter_mut(&request) else { continue };
            let expected = request.asked.max(request.moved) + meter.queue_time(usual, piece_bytes, &tuning);
            if expected > now {
                self.wake_at(expected);
                continue;
            }
            let second = (self.neighbours.iter().enumerate())
                .filter(|(at, peer)| request.neighbour != Some(*at) && peer.held.contains(piece) && is_quick(peer, now))
                .filter(|(_, peer)| !is_across(peer.tier) || !self.has_near_holder(piece))
                .filter(|(_, peer)| peer.meter.open < tuning.per_holder && !peer.meter.is_bad(&tuning))
                .min_by_key(|(_, peer)| (peer.tier, peer.meter.time_for_one_more(piece_bytes, &tuning)));
            match second {
                Some((at, _)) => self.request(Some(at), piece, false, now),
                None => self.wake_when_ready(piece, now),
            }
        }
    }

    /// Wakes the picker when a holder of a piece, which is late from another one, may be asked again.
    pub(super) fn wake_when_ready(&mut self, piece: PieceIndex, now: Moment) {
        let holders = self.neighbours.iter().filter(|peer| peer.held.contains(piece) && !is_quick(peer, now));
        let ready = holders.flat_map(|peer| [peer.slow_until, Some(peer.meter.paused_until())]).flatten();
        if let Some(ready) = ready.filter(|at| *at > now).min() {
            self.wake_at(ready);
        }
    }

    fn has_near_holder(&self, piece: PieceIndex) -> bool {
        self.neighbours.iter().any(|peer| !is_across(peer.tier) && peer.held.contains(piece))
    }

    /// Wakes the picker when a holder of an open piece may be asked again.
    fn note_pauses(&mut self, now: Moment) {
        if (self.slow_check == NEVER && self.paused_until <= now) || !self.rarity.any_to_be_had() {
            return;
        }
        for at in 0..self.neighbours.len() {
            let peer = &self.neighbours[at];
            let (slow_until, ready) = (peer.slow_until, peer.meter.paused_until());
            if is_quick(peer, now) || !self.rarity.any_open_in(&peer.held) {
                continue;
            }
            if let Some(until) = slow_until {
                self.wake_at(until);
            }
            if ready > now {
                self.wake_at(ready);
            }
        }
    }

    /// Requests a piece by name from a neighbour, or from the lead if `None`.
    pub(super) fn request(&mut self, neighbour: Option<usize>, piece: PieceIndex, urgent: bool, now: Moment) {
        let id = self.open_request(neighbour, Some(piece), urgent, now);
        let peer = self.requests.last().expect("it was just added").peer;
        self.waiting.push(Action::Request { id, peer, piece, urgent });
    }

    /// Adds a request to a neighbour, or to the lead if `None`, as the last one.
    fn open_request(
        &mut self,
        neighbour: Option<usize>,
        piece: Option<PieceIndex>,
        urgent: bool,
        now: Moment,
    ) -> RequestId {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let lead = || self.lead.as_ref().expect("the lead is only asked while there is one").id;
        let peer = neighbour.map_or_else(lead, |at| self.neighbours[at].id);
        let is_trial = neighbour.is_some_and(|at| self.neighbours[at].meter.is_bad(&self.tuning));
        let (asked, moved) = (now, now);
        let (began, arrived, overdue) = (None, 0, None);
        let fresh = Request { id, peer, neighbour, piece, urgent, is_trial, asked, moved, began, arrived, overdue };
        self.add_request(fresh);
        id
    }
}

/// How long a node with `neighbours` neighbours waits before it first asks a lead: see [`Tuning::ask_late`].
fn first_ask(neighbours: usize, tuning: &Tuning, random: &mut Random) -> Duration {
    if !tuning.is_large(neighbours) || random.below(2) == 0 {
        return Duration::ZERO;
    }
    tuning.ask_late.mul_f64(random.below(1000) as f64 / 1000.0)
}

/// Tests whether the piece may be requested from the holder at index `at`: not if it is requested from this holder already (if the piece is open, that is a
/// request that is not relied on, of which there are `aside`), nor, while the download `is_ending`, if this holder failed and others have the piece.
fn may_ask<'a>(
    neighbours: &'a [Neighbour],
    at: usize,
    requests: &'a [Request],
    aside: usize,
    is_ending: bool,
) -> impl Fn(PieceIndex) -> bool + 'a {
    let is_careful = is_ending && neighbours[at].meter.is_failing();
    let good = neighbours.iter().filter(|other| !other.meter.is_failing());
    move |piece| {
        let is_its_turn = aside == 0 || !is_asked(requests, piece, Some(at));
        is_its_turn && !(is_careful && good.clone().any(|other| other.held.contains(piece)))
    }
}

/// True if `piece` is requested from a neighbour, or from the lead if `None`.
pub(super) fn is_asked(requests: &[Request], piece: PieceIndex, neighbour: Option<usize>) -> bool {
    requests.iter().any(|request| request.piece == Some(piece) && request.neighbour == neighbour)
}

fn is_quick(peer: &Neighbour, now: Moment) -> bool {
    peer.slow_until.is_none() && peer.is_ready(now)
}
