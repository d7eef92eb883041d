//! What is true of each poll, whatever happened before: a node with room asks whoever has some, for the rarest that this one has, and for nothing of
//! those that are left alone.

use super::*;

/// A picker as it was before a poll.
pub(super) struct Before {
    holders: Vec<u16>,
    open: PieceSet,
    asked: Vec<(RequestId, Option<usize>, PieceIndex)>,
}

impl Before {
    pub(super) fn of(picker: &Picker) -> Self {
        let holders = (0..picker.known_end).map(|piece| picker.rarity.holders(PieceIndex(piece))).collect();
        let asked = picker.requests.iter().filter_map(|it| Some((it.id, it.neighbour, it.piece?))).collect();
        Self { holders, open: picker.rarity.open().clone(), asked }
    }

    /// Checks what a poll did.
    pub(super) fn check(mut self, picker: &Picker, actions: &[Action], now: Moment) {
        self.asked
            .retain(|(id, ..)| !actions.iter().any(|it| matches!(it, Action::Cancel { id: other, .. } if other == id)));
        let asked: Vec<&Request> = actions.iter().filter_map(|action| request_of(picker, action)).collect();
        for request in &asked {
            self.check_request(picker, request, now);
        }
        no_holder_with_room_is_passed_over(picker, now);
        overdue_requests_come_to_an_end(picker, now);
        let plain = asked.iter().any(|request| !request.urgent && request.piece.is_some());
        let most = picker.most_open().max(if picker.foreseen.is_empty() { 0 } else { picker.most_foreseen() });
        assert!(!plain || picker.wants_twice() || picker.counts.open <= most, "{} of {most}", picker.counts.open);
    }

    fn check_request(&self, picker: &Picker, request: &Request, now: Moment) {
        let Some(piece) = request.piece else { return };
        let is_it =
            |(_, of, asked): &(RequestId, Option<usize>, PieceIndex)| (*of, *asked) == (request.neighbour, piece);
        assert!(!self.asked.iter().any(is_it), "{piece} is asked of the same one twice");
        let Some(at) = request.neighbour else {
            let lead = picker.lead.as_ref().unwrap();
            assert!(lead.meter.paused_until() <= now, "the lead is left alone");
            return;
        };
        let peer = &picker.neighbours[at];
        assert!(peer.is_ready(now), "it is left alone");
        let limit = picker.tuning.per_holder * 2;
        assert!(peer.meter.open <= limit, "{} of {limit}", peer.meter.open);
        if request.urgent || !self.open.contains(piece) {
            return;
        }
        if peer.slow_until.is_some() {
            let others = picker.neighbours.iter().filter(|it| it.slow_until.is_none() && it.is_ready(now));
            assert!(!others.into_iter().any(|it| it.held.contains(piece)), "a quick one has {piece}");
            assert_eq!(peer.meter.open, 1);
        }
        if !picker.foreseen.is_empty() || !picker.readers.is_empty() || !picker.wants || is_across(peer.tier) {
            return;
        }
        // What is open still was open all the time.
        let rarer = |other: PieceIndex| self.holders[other.as_usize()] < self.holders[piece.as_usize()];
        let left: Vec<_> = picker.rarity.open().iter().filter(|it| peer.held.contains(*it) && rarer(*it)).collect();
        let may = may_ask_of(picker, at);
        assert!(!left.iter().any(|piece| may(*piece)), "{left:?} are rarer than {piece}");
    }
}

impl Picker {
    /// True if last pieces may be asked of a second holder, which is not a matter of room.
    fn wants_twice(&self) -> bool {
        self.knows_all() && self.total.is_some_and(|total| total - self.held.len() <= self.tuning.endgame)
    }
}

fn request_of<'a>(picker: &'a Picker, action: &Action) -> Option<&'a Request> {
    let (Action::Request { id, .. } | Action::Ask { id, .. }) = action else { return None };
    picker.requests.iter().find(|request| request.id == *id)
}

/// Not asked of it already; and not one of the last pieces, if it fails.
fn may_ask_of(picker: &Picker, at: usize) -> impl Fn(PieceIndex) -> bool + '_ {
    move |piece| {
        let is_asked = picker.requests.iter().any(|it| it.piece == Some(piece) && it.neighbour == Some(at));
        !is_asked && !picker.left_to_others.contains(&piece) && !picker.neighbours[at].meter.is_failing()
    }
}

fn no_holder_with_room_is_passed_over(picker: &Picker, now: Moment) {
    if !picker.wants || picker.counts.open >= picker.most_open() {
        return;
    }
    let limit = picker.most_at_one();
    for (at, peer) in picker.neighbours.iter().enumerate() {
        let is_quick = peer.slow_until.is_none() && peer.is_ready(now);
        let has_room = peer.meter.open < limit && peer.meter.queued() < picker.tuning.per_holder;
        if is_across(peer.tier) || !is_quick || !has_room {
            continue;
        }
        let may = may_ask_of(picker, at);
        let left = picker.rarity.open().iter().find(|piece| peer.held.contains(*piece) && may(*piece));
        assert_eq!(left, None, "{} has it, and room", peer.id);
    }
}

/// Even the only holder is asked anew in the end.
fn overdue_requests_come_to_an_end(picker: &Picker, now: Moment) {
    for request in &picker.requests {
        let Some(overdue) = request.overdue else { continue };
        assert!(overdue <= now && now < overdue.max(request.moved) + picker.tuning.abandon);
    }
}
