//! Pieces that will be needed and for which no reader waits yet: first those that other nodes touched when they started the same program, then those that
//! readers' patterns suggest. They are requested by name, in order, many at a time, so that the bandwidth decides how soon they come and not the round trips; and
//! not as urgent, so that a holder sends the pieces for which readers wait first.
//!
//! If other nodes start the same program, foreseen pieces are spread like any pieces of a swarm ([`parts`](super::parts)). A node that wants everything gets its other pieces in the room that these leave.

use darter_core::{Moment, PieceIndex};

use crate::picker::Picker;
use crate::picker::choose::is_asked;

impl Picker {
    /// How many requests may be open while pieces are foreseen: short pieces are requested farther ahead than
    /// [`Picker::most_open`] allows, as nothing is gained by leaving the choice to others.
    pub(super) fn most_foreseen(&self) -> usize {
        let by_bytes = self.tuning.foreseen_in_flight / self.piece_bytes.max(1);
        let alone = usize::try_from(by_bytes).unwrap_or(usize::MAX);
        (alone / self.among.max(1) as usize).max(self.most_open())
    }

    /// Requests foreseen pieces, as far as there is room, from the neighbour with the shortest queue that holds them, or else from the lead.
    pub(super) fn request_foreseen(&mut self, now: Moment) {
        let is_alone = !self.is_among_starters(now);
        let mut room = if self.foreseen.is_empty() || !is_alone {
            0
        } else {
            self.most_foreseen().saturating_sub(self.counts.open)
        };
        if room == 0 {
            return;
        }
        let (runs, known): (Vec<_>, _) = (self.foreseen.values().cloned().collect(), self.known_end);
        for piece in runs.into_iter().flat_map(|run| run.start..run.end.min(known)).map(PieceIndex) {
            // A holder that failed this node is not relied on: another is asked, too.
            while self.is_due(piece) && !self.in_flight(piece) {
                if room == 0 {
                    return;
                }
                if !self.request_foreseen_piece(piece, now) {
                    break;
                }
                room -= 1;
            }
        }
    }

    fn request_foreseen_piece(&mut self, piece: PieceIndex, now: Moment) -> bool {
        let (piece_bytes, tuning) = (self.piece_bytes, self.tuning);
        let quickest = (self.neighbours.iter().enumerate())
            .filter(|(_, peer)| peer.held.contains(piece) && peer.is_ready(now) && peer.slow_until.is_none())
            .filter(|(at, peer)| {
                let limit = if peer.meter.is_bad(&tuning) { 1 } else { tuning.per_holder * 2 };
                peer.meter.open < limit && !is_asked(&self.requests, piece, Some(*at))
            })
            .min_by_key(|(_, peer)| peer.meter.time_for_one_more(piece_bytes, &tuning));
        if let Some((at, _)) = quickest {
            self.request(Some(at), piece, false, now);
            return true;
        }
        let Some(ready) = self.lead.as_ref().map(|lead| lead.meter.paused_until()) else { return false };
        if ready > now {
            self.wake_at(ready);
            return false;
        }
        let is_new = !is_asked(&self.requests, piece, None);
        if is_new {
            self.request(None, piece, false, now);
        }
        is_new
    }
}
