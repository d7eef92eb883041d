//! Pieces that will be needed and for which nobody waits yet: those that others touched first who started the same, then what readers' patterns
//! tell. They are asked for by name, in their order, many at a time, so that the link decides how soon they come and not the round trips; and
//! without urgency, so that a holder sends what a reader waits for before all of them.
//!
//! Beside others that start the same, they are a swarm's pieces like any ([`parts`](super::parts)). A node that wants everything gets its other pieces in what room these leave.

use darter_core::{Moment, PieceIndex};

use crate::picker::Picker;
use crate::picker::choose::is_asked;

impl Picker {
    /// How many requests may be open while something is foreseen: short pieces are asked for farther ahead than
    /// [`Picker::most_open`] has it, as nothing is gained by leaving the choice to others.
    pub(super) fn most_foreseen(&self) -> usize {
        let by_bytes = self.tuning.foreseen_in_flight / self.piece_bytes.max(1);
        let alone = usize::try_from(by_bytes).unwrap_or(usize::MAX);
        (alone / self.among.max(1) as usize).max(self.most_open())
    }

    /// Asks for what is foreseen, as far as there is room: a neighbour that holds it, with the shortest queue, else the lead.
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
            // A holder that let this node down is not relied on: another is asked, too.
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
