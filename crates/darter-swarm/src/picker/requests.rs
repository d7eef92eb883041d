//! Requests from when they are made until they are answered, withdrawn or failed, and what each end says of the peer.
//!
//! Invariant: `requests`, `counts`, `coming`, the open pieces and each peer's count of open requests change only here, and together.

use super::*;

impl Picker {
    /// Forgets requests without telling the peers that were asked.
    pub(super) fn drop_requests(&mut self, gone: impl Fn(&Request) -> bool) {
        while let Some(at) = self.requests.iter().position(&gone) {
            self.remove_request(at);
        }
    }

    pub(super) fn add_request(&mut self, request: Request) {
        self.count(&request, true);
        if let Some(meter) = self.meter_mut(&request) {
            meter.open += 1;
        }
        if let Some(piece) = request.piece {
            // Nothing falls due sooner; whether something is due then is checked then.
            self.check_at = self.check_at.min(self.may_be_overdue_at(request.asked));
            if request.is_relied_on() {
                self.coming.insert(piece);
                self.rarity.set_open(piece, false);
            }
        }
        self.requests.push(request);
    }

    /// Removes a request, and does what follows from that.
    pub(super) fn remove_request(&mut self, at: usize) -> Request {
        let request = self.requests.swap_remove(at);
        self.count(&request, false);
        if let Some(meter) = self.meter_mut(&request) {
            meter.open -= 1;
        }
        if let Some(piece) = request.piece {
            self.recount_coming(piece);
        }
        request
    }

    pub(super) fn mark_overdue(&mut self, at: usize, now: Moment) {
        let before = self.requests[at];
        self.count(&before, false);
        self.requests[at].overdue = Some(now);
        let after = self.requests[at];
        self.count(&after, true);
        if let Some(piece) = after.piece {
            self.recount_coming(piece);
        }
    }

    pub(super) fn count(&mut self, request: &Request, present: bool) {
        let counts = &mut self.counts;
        let named = request.piece.is_some();
        let kinds = [
            (&mut counts.open, named && request.overdue.is_none()),
            (&mut counts.standing, request.neighbour.is_none() && !named),
            (&mut counts.bound, request.neighbour.is_none() && named),
            (&mut counts.aside, !request.is_relied_on()),
        ];
        for (count, is_one) in kinds {
            let one = usize::from(is_one);
            *count = if present { *count + one } else { *count - one };
        }
    }

    pub(super) fn recount_coming(&mut self, piece: PieceIndex) {
        if self.requests.iter().any(|request| request.piece == Some(piece) && request.is_relied_on()) {
            self.coming.insert(piece);
        } else {
            self.coming.remove(piece);
        }
        self.reopen(piece);
    }

    pub(super) fn meter_mut(&mut self, request: &Request) -> Option<&mut PeerRecord> {
        match request.neighbour {
            Some(at) => self.neighbours.get_mut(at).map(|neighbour| &mut neighbour.meter),
            None => self.lead.as_mut().map(|lead| &mut lead.meter),
        }
    }

    pub(super) fn place_of(&self, id: RequestId) -> Option<usize> {
        self.requests.iter().position(|request| request.id == id)
    }

    pub(super) fn started(&mut self, id: RequestId, piece: PieceIndex, now: Moment) {
        let Some(at) = self.place_of(id) else { return };
        let before = self.requests[at];
        let request = &mut self.requests[at];
        request.moved = now;
        if before.piece.is_some() {
            return;
        }
        // The ask stood until the lead had room: only from here on does its age say anything about the lead's rate.
        request.asked = now;
        request.piece = Some(piece);
        let after = *request;
        self.count(&before, false);
        self.count(&after, true);
        self.check_at = self.check_at.min(self.may_be_overdue_at(now));
        self.recount_coming(piece);
        let useless = self.held.contains(piece);
        self.cancel_where(|other| other.piece == Some(piece) && (useless || other.id != id));
    }

    pub(super) fn progressed(&mut self, id: RequestId, bytes: u64, now: Moment) {
        let Some(at) = self.place_of(id) else { return };
        let request = &mut self.requests[at];
        (request.moved, request.arrived) = (now, bytes);
        request.began.get_or_insert((now, bytes));
        self.check_at = self.check_at.min(self.may_be_overdue_at(now));
    }

    pub(super) fn received(&mut self, id: Option<RequestId>, piece: PieceIndex, bytes: u64, now: Moment) {
        if let Some(at) = id.and_then(|id| self.place_of(id)) {
            let request = self.requests[at];
            let tuning = self.tuning;
            let in_time = request.overdue.is_none() || {
                let longest = self.longest(self.usual_piece_time());
                now.since(request.asked) <= longest
            };
            self.lead_share += (f32::from(u8::from(request.neighbour.is_none())) - self.lead_share) / 128.0;
            let mut rate = None;
            let alone = self.among == 1;
            if let Some(meter) = self.meter_mut(&request) {
                meter.succeeded(in_time);
                if alone {
                    meter.pace.answered(bytes, request.asked, now, &tuning);
                }
                rate = meter.pace.rate(&tuning);
            }
            // Its holder's other requests may fall due sooner than was computed.
            self.check_at = self.check_at.min(self.may_be_overdue_at(now));
            self.note_from_afar(&request, now);
            self.held.insert(piece);
            self.remove_request(at);
            self.slow_limit.1 += 1;
            if self.slow_limit.1 >= JUDGE_EVERY || rate.is_some_and(|rate| rate < self.slow_limit.0) {
                self.judge_rates(now);
            }
        }
        self.held.insert(piece);
        self.prefix = self.held.first_missing_from(self.prefix);
        self.rarity.set_open(piece, false);
        if self.coming.contains(piece) || self.counts.aside > 0 {
            self.cancel_where(|other| other.piece == Some(piece));
        }
        for reader in self.readers.values_mut() {
            if (reader.at.0..reader.at.0.saturating_add(reader.count.max(1))).contains(&piece.0) {
                reader.since = now;
            }
        }
    }

    /// Notes how long a piece from across a boundary was on its way.
    pub(super) fn note_from_afar(&mut self, request: &Request, now: Moment) {
        if request.neighbour.is_some_and(|at| is_across(self.neighbours[at].tier)) {
            let took = now.since(request.asked);
            self.from_afar = if self.from_afar.is_zero() { took } else { (self.from_afar * 3 + took) / 4 };
        }
    }

    /// Withdraws requests that are no longer needed.
    pub(super) fn cancel_where(&mut self, needless: impl Fn(&Request) -> bool) {
        while let Some(at) = self.requests.iter().position(&needless) {
            let request = self.remove_request(at);
            self.waiting.push(Action::Cancel { id: request.id, peer: request.peer });
        }
    }

    pub(super) fn corrupt(&mut self, peer: NodeId, request: Option<RequestId>, piece: PieceIndex, now: Moment) {
        self.waiting.push(Action::Report { peer, piece });
        if let Some(lead) = self.lead.as_mut().filter(|lead| lead.id == peer) {
            lead.strikes += 1;
            if lead.strikes < self.tuning.lead_strikes {
                if let Some(request) = request {
                    self.fail(request, now);
                }
                return;
            }
            self.lead_changed(None);
        }
        self.banned.push((peer, piece));
        self.peer_left(peer, now);
    }

    pub(super) fn fail(&mut self, id: RequestId, now: Moment) {
        let Some(at) = self.place_of(id) else { return };
        let request = self.remove_request(at);
        self.failed(request.neighbour, now);
    }

    /// A neighbour, or the lead if `None`, failed to answer: it is left alone for a while, and after repeated failures it is asked for
    /// little until it answers.
    pub(super) fn failed(&mut self, neighbour: Option<usize>, now: Moment) {
        let tuning = self.tuning;
        let (peer, meter) = match (neighbour, &mut self.lead) {
            (Some(at), _) => (self.neighbours[at].id, &mut self.neighbours[at].meter),
            (None, Some(lead)) => (lead.id, &mut lead.meter),
            (None, None) => return,
        };
        meter.failed(now, &tuning);
        let until = meter.paused_until();
        if neighbour.is_some() && meter.is_bad(&tuning) {
            self.waiting.push(Action::Doubt { peer });
        }
        self.paused_until = self.paused_until.max(until);
    }
}
