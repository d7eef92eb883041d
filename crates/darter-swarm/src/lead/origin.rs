//! What of the origin is read next, and by which of the lead's connections.
//!
//! One reader reads everything, from the first piece that nobody has. Another runs errands: it reads what somebody waits for, wherever
//! that is in the blob, so that a range of a cold blob need not wait for all that stands before it. Where nobody wants everything
//! there are only errands.
//!
//! Who waits longest is served first, as far as all wait with the same patience. A wish is for a few pieces at a time; who goes on
//! wishes anew, and stands behind the others then. So readers of different parts share the origin.
//!
//! Invariant: no piece is read by two readers at a time.

use std::ops::Range;
use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex, PieceSet};

use crate::lead::{Lead, OriginRun};

/// An errand that lies so few pieces before the reader of everything is left to it.
const NEAR: u32 = 4;

/// One of the lead's readers of the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginReader {
    /// Reads everything that nobody has.
    Everything,
    /// Reads what somebody waits for.
    Errands,
}

/// Pieces that a reader waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The first piece.
    pub first: u32,
    /// One past the last.
    pub end: u32,
    /// How long the reader can wait.
    pub within: Duration,
}

/// A wish, and whose it is.
#[derive(Debug)]
struct Wished {
    node: NodeId,
    wish: Wish,
    since: Moment,
}

/// Who reads what, and who waits for what.
#[derive(Debug)]
pub(super) struct Readings {
    /// Whether everything is to be read.
    pub(super) everything: bool,
    wishes: Vec<Wished>,
    /// By reader: the pieces that it is at, or on its way to.
    at: [Option<Range<u32>>; 2],
}

impl Default for Readings {
    fn default() -> Self {
        Self { everything: true, wishes: Vec::new(), at: [None, None] }
    }
}

impl Readings {
    /// Whether another reader than `reader` is at a piece, or will come to it.
    fn is_others(&self, reader: OriginReader, piece: PieceIndex) -> bool {
        let others = self.at.iter().enumerate().filter(|(other, _)| *other != reader as usize);
        others.filter_map(|(_, at)| at.as_ref()).any(|at| at.contains(&piece.0))
    }

    /// Forgets the wishes of a node.
    pub(super) fn leave(&mut self, node: NodeId) {
        self.wishes.retain(|wished| wished.node != node);
    }
}

impl Lead {
    /// From now on nothing is read but what somebody waits for, until somebody wants everything.
    pub const fn read_on_errands_only(&mut self) {
        self.readings.everything = false;
    }

    /// Somebody wants everything.
    pub const fn read_everything(&mut self) {
        self.readings.everything = true;
    }

    /// A node, a member or the lead's own, waits for these pieces, and for nothing that it waited for before.
    pub fn wish(&mut self, node: NodeId, wishes: &[Wish], now: Moment) {
        if self.readings.wishes.is_empty() {
            self.watch.forget(OriginReader::Errands);
        }
        let before = &self.readings.wishes;
        let since = |wish: &Wish| {
            let same = before.iter().find(|it| it.node == node && it.wish.first == wish.first);
            same.map_or(now, |same| same.since)
        };
        let fresh: Vec<_> = wishes.iter().map(|wish| Wished { node, wish: *wish, since: since(wish) }).collect();
        self.readings.leave(node);
        self.readings.wishes.extend(fresh);
    }

    /// What is waited for, whoever does.
    pub fn wishes(&self) -> impl Iterator<Item = Wish> + '_ {
        self.readings.wishes.iter().map(|wished| wished.wish)
    }

    /// A reader begins with these pieces, or ends. Whether it has ended with this.
    pub fn reads(&mut self, reader: OriginReader, pieces: Option<Range<u32>>) -> bool {
        let ends = pieces.is_none();
        std::mem::replace(&mut self.readings.at[reader as usize], pieces).is_some() && ends
    }

    /// Whether a reader is at some pieces.
    pub const fn is_reading(&self, reader: OriginReader) -> bool {
        self.readings.at[reader as usize].is_some()
    }

    /// What each node waits for.
    pub fn wishes_by_node(&self) -> impl Iterator<Item = (NodeId, Wish)> + '_ {
        self.readings.wishes.iter().map(|wished| (wished.node, wished.wish))
    }

    /// The next pieces that must be read from the origin: not owned, and held by no live member (those are the lead's
    /// own picker's business). Ask again after each piece, and stop reading when the answer no longer begins with the
    /// piece that comes next: somebody who holds it has turned up.
    ///
    /// `known` is which pieces have a hash that this agent knows. Of the others it counts no holders: without
    /// the hash nobody who comes could check what they give. A seed that was killed before it saved
    /// anything comes back like that.
    ///
    /// Members that hold what is lacked are waited for as long as something comes from them: after
    /// [`Tuning::holders_patience`](crate::Tuning::holders_patience) without that, none of them counts until it gives again.
    pub fn origin_plan(&mut self, reader: OriginReader, known: &PieceSet, now: Moment) -> Option<OriginRun> {
        if now < self.settled {
            return None;
        }
        let run = self.plan(reader, known);
        if run.is_some() || !self.is_left_to_members(reader, known) {
            self.watch.forget(reader);
            return run;
        }
        if self.members_stand_still(reader, now) { self.plan(reader, known) } else { None }
    }

    /// Whether pieces that this reader would read are left to members that hold them.
    fn is_left_to_members(&self, reader: OriginReader, known: &PieceSet) -> bool {
        let Some(total) = self.total.filter(|total| self.pieces.own.len() < *total) else { return false };
        let is_left =
            |piece: u32| !self.pieces.own.contains(PieceIndex(piece)) && self.has_holder(PieceIndex(piece), known);
        match reader {
            OriginReader::Everything => self.readings.everything && (0..total).any(is_left),
            OriginReader::Errands => self.wishes().any(|wish| (wish.first..wish.end.min(total)).any(is_left)),
        }
    }

    /// Whether a member holds a piece that can be checked when it comes.
    fn has_holder(&self, piece: PieceIndex, known: &PieceSet) -> bool {
        self.pieces.get(piece).holders > 0 && known.contains(piece)
    }

    fn plan(&self, reader: OriginReader, known: &PieceSet) -> Option<OriginRun> {
        let is_gap = |piece: PieceIndex| self.is_gap(reader, piece, known);
        match reader {
            OriginReader::Everything if !self.readings.everything => None,
            OriginReader::Everything => {
                let gap = self.pieces.first_gap(self.total, is_gap);
                gap.map(|(first, end)| OriginRun { first, end })
            }
            OriginReader::Errands => self.errand(is_gap),
        }
    }

    /// Whether a reader that comes to `piece` is to read on. Who reads everything then is at that piece. An errand goes on as long as the
    /// piece is waited for, whoever waits for others longer by now: an answer that is broken off was read in vain in part.
    pub fn goes_on(&mut self, reader: OriginReader, piece: PieceIndex, known: &PieceSet, now: Moment) -> bool {
        match reader {
            OriginReader::Everything => {
                let is_next = self.origin_plan(reader, known, now).is_some_and(|run| run.first == piece);
                if is_next {
                    self.reads(reader, Some(piece.0..piece.0 + 1));
                }
                is_next
            }
            OriginReader::Errands => {
                let is_waited_for = self.wishes().any(|wish| (wish.first..wish.end).contains(&piece.0));
                is_waited_for && self.is_gap(reader, piece, known)
            }
        }
    }

    /// Whether a piece is lacking that this reader may read.
    fn is_gap(&self, reader: OriginReader, piece: PieceIndex, known: &PieceSet) -> bool {
        !self.pieces.own.contains(piece) && !self.has_holder(piece, known) && !self.readings.is_others(reader, piece)
    }

    /// Whether everything is to be read.
    pub const fn reads_everything(&self) -> bool {
        self.readings.everything
    }

    /// What is lacking of the wish that is to be granted first.
    fn errand(&self, is_gap: impl Fn(PieceIndex) -> bool) -> Option<OriginRun> {
        let everything = self.readings.at[OriginReader::Everything as usize].as_ref();
        let comes_soon = |piece: u32| everything.is_some_and(|at| (at.start..at.end + NEAR).contains(&piece));
        let lacking = |wished: &Wished| {
            let end = wished.wish.end.min(self.total?);
            let first = (wished.wish.first..end).find(|piece| is_gap(PieceIndex(*piece)) && !comes_soon(*piece))?;
            let end = (first..end).find(|piece| !is_gap(PieceIndex(*piece))).unwrap_or(end);
            Some((wished.since + wished.wish.within, first, end))
        };
        let (_, first, end) = self.readings.wishes.iter().filter_map(lacking).min()?;
        Some(OriginRun { first: PieceIndex(first), end: Some(PieceIndex(end)) })
    }
}

#[cfg(test)]
mod tests {
    use darter_core::Place;

    use super::*;
    use crate::{Start, Tuning};

    fn node(name: u8) -> NodeId {
        NodeId([name; 16])
    }

    fn at(millis: u64) -> Moment {
        Moment::from_micros(millis * 1000)
    }

    /// A lead of a blob of a hundred pieces, of which nobody wants everything.
    fn lead() -> Lead {
        let mut lead = Lead::new(node(0), Place::default(), Start::Fresh, Tuning::default(), 1, at(0));
        lead.set_total(100);
        lead.read_on_errands_only();
        lead
    }

    fn wish(first: u32, end: u32) -> Wish {
        Wish { first, end, within: Duration::from_secs(1) }
    }

    fn plan(lead: &mut Lead, reader: OriginReader) -> Option<(u32, Option<u32>)> {
        let known = lead.pieces.own.clone();
        lead.origin_plan(reader, &known, at(9000)).map(|run| (run.first.0, run.end.map(|end| end.0)))
    }

    #[test]
    fn what_somebody_waits_for_is_read_and_nothing_else() {
        let mut lead = lead();
        assert_eq!((plan(&mut lead, OriginReader::Errands), plan(&mut lead, OriginReader::Everything)), (None, None));
        lead.wish(node(1), &[wish(50, 53)], at(0));
        assert_eq!(plan(&mut lead, OriginReader::Errands), Some((50, Some(53))));
        lead.own(PieceIndex(50));
        lead.own(PieceIndex(52));
        assert_eq!(plan(&mut lead, OriginReader::Errands), Some((51, Some(52))));
        lead.own(PieceIndex(51));
        assert_eq!((plan(&mut lead, OriginReader::Errands), plan(&mut lead, OriginReader::Everything)), (None, None));
        lead.wish(node(1), &[wish(98, 105)], at(0));
        assert_eq!(plan(&mut lead, OriginReader::Errands), Some((98, Some(100))), "the blob ends there");
        lead.leave(node(1));
        assert_eq!(plan(&mut lead, OriginReader::Errands), None, "nobody waits any more");
    }

    #[test]
    fn who_wants_everything_is_given_that_beside_what_others_wait_for_and_nothing_is_read_twice() {
        let mut lead = lead();
        lead.wish(node(1), &[wish(50, 53)], at(0));
        lead.join(node(2), Place::default(), &PieceSet::new(), true);
        assert_eq!(plan(&mut lead, OriginReader::Everything), Some((0, Some(100))));
        lead.reads(OriginReader::Errands, Some(50..53));
        assert_eq!(plan(&mut lead, OriginReader::Everything), Some((0, Some(50))));
        lead.reads(OriginReader::Everything, Some(48..49));
        lead.reads(OriginReader::Errands, None);
        assert_eq!(plan(&mut lead, OriginReader::Errands), None, "it comes next");
        lead.reads(OriginReader::Everything, None);
        assert_eq!(plan(&mut lead, OriginReader::Errands), Some((50, Some(53))));
    }

    #[test]
    fn the_longest_waiting_is_first_and_who_goes_on_stands_behind_the_others() {
        let mut lead = lead();
        lead.wish(node(1), &[wish(10, 18)], at(0));
        lead.wish(node(2), &[wish(60, 68)], at(1));
        lead.wish(node(3), &[Wish { within: Duration::ZERO, ..wish(90, 91) }], at(2));
        assert_eq!(plan(&mut lead, OriginReader::Errands), Some((90, Some(91))), "it can't wait");
        lead.wish(node(3), &[], at(3));
        assert_eq!(plan(&mut lead, OriginReader::Errands), Some((10, Some(18))));
        lead.wish(node(1), &[wish(10, 18), wish(30, 31)], at(4));
        assert_eq!(plan(&mut lead, OriginReader::Errands), Some((10, Some(18))), "it has waited since");
        lead.wish(node(1), &[wish(14, 22)], at(5));
        assert_eq!(plan(&mut lead, OriginReader::Errands), Some((60, Some(68))));
    }

    #[test]
    fn an_errand_goes_on_while_its_pieces_are_waited_for() {
        let mut lead = lead();
        let known = PieceSet::new();
        lead.wish(node(1), &[wish(10, 18)], at(0));
        let goes_on = |lead: &mut Lead, piece| lead.goes_on(OriginReader::Errands, PieceIndex(piece), &known, at(1));
        assert!(goes_on(&mut lead, 10));
        lead.wish(node(2), &[Wish { within: Duration::ZERO, ..wish(60, 68) }], at(1));
        assert!(goes_on(&mut lead, 11), "though another can't wait");
        lead.own(PieceIndex(12));
        assert!(!goes_on(&mut lead, 12), "it came from elsewhere");
        lead.wish(node(1), &[], at(2));
        assert!(!goes_on(&mut lead, 13));
    }

    #[test]
    fn what_a_member_holds_is_left_to_it_where_its_hash_is_known() {
        let mut lead = lead();
        let held: PieceSet = [PieceIndex(20)].into_iter().collect();
        lead.join(node(1), Place::default(), &held, false);
        lead.wish(node(2), &[wish(20, 21)], at(0));
        assert_eq!(plan(&mut lead, OriginReader::Errands), Some((20, Some(21))));
        assert_eq!(lead.origin_plan(OriginReader::Errands, &held, at(9000)), None);
    }
}
