//! What the lead knows of each piece: whether it has it, which members hold it, how often it sent it.

use std::ops::Range;
use std::time::Duration;

use darter_core::{Moment, PieceIndex, PieceSet};

use crate::random::mix;

/// One piece.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Piece {
    /// How many live members that are not put aside hold it.
    pub(super) holders: u32,
    /// How many members the lead is sending it to.
    pub(super) coming: u32,
    /// How many of these take long to confirm it, while nobody holds it.
    pub(super) late: u32,
    /// How often the lead sent it.
    pub(super) sent: u32,
    pub(super) last_sent: Moment,
    /// The slot that was first to confirm a piece of the lead's, and when; until a second member holds it.
    pub(super) first: Option<(u32, Moment)>,
}

/// All pieces. Invariant: `fresh` has exactly the owned pieces that no member holds or is being sent, apart from members that take long to confirm.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pub(super) own: PieceSet,
    fresh: PieceSet,
    table: Vec<Piece>,
}

impl Pieces {
    pub(super) fn get(&self, piece: PieceIndex) -> Piece {
        self.table.get(piece.as_usize()).copied().unwrap_or_default()
    }

    pub(super) fn change(&mut self, piece: PieceIndex, by: impl FnOnce(&mut Piece)) {
        if piece.as_usize() >= self.table.len() {
            self.table.resize(piece.as_usize() + 1, Piece::default());
        }
        let changed = &mut self.table[piece.as_usize()];
        by(changed);
        // The next receiver is not one that is late.
        changed.late = if changed.holders > 0 { 0 } else { changed.late.min(changed.coming) };
        self.refresh(piece);
    }

    /// Bytes of memory behind this, with spare room.
    pub(super) const fn memory(&self) -> usize {
        self.own.memory() + self.fresh.memory() + self.table.capacity() * size_of::<Piece>()
    }

    pub(super) fn set_own(&mut self, piece: PieceIndex, own: bool) {
        if own {
            self.own.insert(piece);
        } else {
            self.own.remove(piece);
        }
        self.refresh(piece);
    }

    fn refresh(&mut self, piece: PieceIndex) {
        let Piece { holders, coming, late, .. } = self.get(piece);
        if holders == 0 && coming <= late && self.own.contains(piece) {
            self.fresh.insert(piece);
        } else {
            self.fresh.remove(piece);
        }
    }

    /// The lowest owned piece that nobody holds or is being sent in time.
    pub(super) fn first_fresh(&self) -> Option<PieceIndex> {
        self.fresh.iter().next()
    }

    /// The lowest owned piece that a member lacks, that `accept` takes, and that counts as fresh: it may be held by, or on its way to, a member that
    /// keeps pieces to itself, is doubted or is slow.
    pub(super) fn first_fresh_besides(
        &self,
        held: &PieceSet,
        accept: impl Fn(PieceIndex) -> bool,
    ) -> Option<PieceIndex> {
        self.fresh.difference(held).find(|piece| accept(*piece))
    }

    /// The same for the pieces in `runs` only, in the order of the runs.
    pub(super) fn first_fresh_of(
        &self,
        runs: &[Range<u32>],
        held: &PieceSet,
        accept: impl Fn(PieceIndex) -> bool,
    ) -> Option<PieceIndex> {
        within(&self.fresh, runs).find(|piece| !held.contains(*piece) && accept(*piece))
    }

    /// True if an owned piece was never sent.
    pub(super) fn any_unsent(&self) -> bool {
        self.own.iter().any(|piece| self.get(piece).sent == 0)
    }

    /// The oldest `last_sent` among owned pieces. `None` if an owned piece was never sent, or none is owned.
    pub(super) fn oldest_sent(&self) -> Option<Moment> {
        let mut oldest = None;
        for piece in self.own.iter() {
            let Piece { sent, last_sent, .. } = self.get(piece);
            if sent == 0 {
                return None;
            }
            oldest = Some(oldest.map_or(last_sent, |before: Moment| before.min(last_sent)));
        }
        oldest
    }

    /// The piece to send once more: of the owned pieces that were not sent within `pause` (or `pause_if_lonely` if at most one member holds them) and that
    /// `accept` takes, the one that was sent least often, then the one with the fewest holders, then a random one (`salt` decides). If there are `runs`, only
    /// pieces in them count.
    ///
    /// Random, because the first piece that a member lacks is most likely on its way from another member. But of pieces that were never sent it is the
    /// first: a member that claims to hold all may give none of them, and readers in order would wait at gaps and all request the same piece by name.
    pub(super) fn copy(
        &self,
        (held, runs): (&PieceSet, Option<&[Range<u32>]>),
        (pause, pause_if_lonely): (Duration, Duration),
        now: Moment,
        salt: u64,
        accept: impl Fn(PieceIndex) -> bool,
    ) -> Option<PieceIndex> {
        let is_due = |piece: &PieceIndex| {
            let state = self.get(*piece);
            let pause = if state.holders > 1 { pause } else { pause_if_lonely };
            (state.sent == 0 || state.last_sent + pause <= now) && accept(*piece)
        };
        let rank = |piece: &PieceIndex| {
            let state = self.get(*piece);
            let order = if state.sent == 0 { u64::from(piece.0) } else { mix(salt ^ u64::from(piece.0)) };
            (state.sent, state.holders, order)
        };
        match runs {
            None => self.own.difference(held).filter(is_due).min_by_key(rank),
            Some(runs) => {
                let lacking = within(&self.own, runs).filter(|piece| !held.contains(*piece));
                lacking.filter(is_due).min_by_key(rank)
            }
        }
    }

    /// The first run of pieces before `total` for which `is_gap` is true; open-ended while the total is unknown. No owned piece is
    /// a gap.
    pub(super) fn first_gap(
        &self,
        total: Option<u32>,
        is_gap: impl Fn(PieceIndex) -> bool,
    ) -> Option<(PieceIndex, Option<PieceIndex>)> {
        // Beyond the table and the owned pieces everything is a gap.
        let seen = u32::try_from(self.table.len()).expect("a blob has fewer than 2^32 pieces");
        let is_over = |piece: PieceIndex| total.is_some_and(|total| piece.0 >= total);
        let mut first = self.own.first_missing_from(PieceIndex(0));
        while !is_over(first) && !is_gap(first) {
            first = self.own.first_missing_from(PieceIndex(first.0 + 1));
        }
        if is_over(first) {
            return None;
        }
        let mut end = first.0 + 1;
        let known_end = total.unwrap_or_else(|| seen.max(self.own.words().len() as u32 * 64));
        while end < known_end && is_gap(PieceIndex(end)) {
            end += 1;
        }
        let open_ended = total.is_none() && end >= known_end;
        Some((first, (!open_ended).then_some(PieceIndex(end))))
    }
}

/// The pieces of a set in these runs, in the runs' order. Pieces that are not in the set cost no time, however long a run is.
fn within<'a>(set: &'a PieceSet, runs: &'a [Range<u32>]) -> impl Iterator<Item = PieceIndex> + 'a {
    runs.iter().flat_map(move |run| {
        let next = move |from: u32| set.first_from(PieceIndex(from)).filter(|piece| piece.0 < run.end);
        std::iter::successors(next(run.start), move |piece| next(piece.0 + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_parts_is_given_the_first_of_them_that_nobody_has_and_that_it_lacks() {
        let mut pieces = Pieces::default();
        (0..9).for_each(|piece| pieces.set_own(PieceIndex(piece), true));
        // The member that asks holds these.
        let held: PieceSet = [2, 7].map(PieceIndex).into_iter().collect();
        let fresh = |pieces: &Pieces, taken: Option<u32>| {
            pieces.first_fresh_of(&[7..20, 2..5], &held, |piece| Some(piece.0) != taken).map(|piece| piece.0)
        };
        assert_eq!(fresh(&pieces, None), Some(8));
        assert_eq!(fresh(&pieces, Some(8)), Some(3), "that is on its way to it");
        pieces.change(PieceIndex(8), |piece| piece.coming = 1);
        pieces.change(PieceIndex(3), |piece| piece.holders = 1);
        assert_eq!(fresh(&pieces, None), Some(4));
        pieces.set_own(PieceIndex(4), false);
        assert_eq!(fresh(&pieces, None), None);
    }
}
