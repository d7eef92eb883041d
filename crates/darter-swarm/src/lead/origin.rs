//! Plans for the origin: what is read next, and by which of the lead's connections.
//!
//! One reader reads everything, from the first piece that nobody has. Another runs errands: it reads pieces that somebody waits for, wherever
//! they are in the blob, so that a range of a blob that is not cached need not wait for all that stands before it. If nobody wants everything there
//! are only errands. If several connections get more than one, further readers help the one that reads everything (see [`beside`](super::beside)).
//!
//! Among wishes of equal patience, the oldest is served first. A wish is for a few pieces at a time; a reader that goes on makes a new wish, which
//! then stands behind the others. So readers of different parts share the origin.
//!
//! Invariant: no piece is read by two readers at a time.

use std::ops::Range;
use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex, PieceLength, PieceSet};

use crate::breadth::Breadth;
use crate::lead::rests::Speeds;
use crate::lead::{Lead, OriginReader, OriginRun};

/// An errand no more than this many pieces ahead of the reader of everything is left to that reader.
const NEAR: u32 = 4;

/// Pieces, of all wishes of a member together, that it may be given without having named them: as many as 64 readers with windows of 8 MiB wait for. All
/// are looked through each time that something is to be given to it.
const MAX_PARTS: u32 = 1 << 16;

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

/// A wish, with the node that made it.
#[derive(Debug)]
struct Wished {
    node: NodeId,
    wish: Wish,
    since: Moment,
}

/// The readers of the origin with their stretches, and the wishes that they read for.
#[derive(Debug)]
pub(super) struct Readings {
    /// True if everything is to be read.
    pub(super) everything: bool,
    /// True if the first piece can be read only once the length is known.
    headed_last: bool,
    wishes: Vec<Wished>,
    /// For each reader that reads: the pieces that it is at, or on its way to.
    pub(super) at: Vec<(OriginReader, Range<u32>)>,
    /// How many connections read everything.
    pub(super) breadth: Breadth,
    /// The speed of each reader.
    pub(super) speeds: Speeds,
    /// The length of a piece and of the blob, once several connections may read it.
    pub(super) lengths: Option<(PieceLength, u64)>,
}

impl Default for Readings {
    fn default() -> Self {
        let (breadth, speeds) = (Breadth::new(1, 0), Speeds::default());
        Self {
            everything: true,
            headed_last: false,
            wishes: Vec::new(),
            at: Vec::new(),
            breadth,
            speeds,
            lengths: None,
        }
    }
}

impl Readings {
    /// True if a reader other than `reader` is at a piece, or will come to it.
    fn is_others(&self, reader: OriginReader, piece: PieceIndex) -> bool {
        self.at.iter().filter(|(other, _)| *other != reader).any(|(_, at)| {
            // A wish for a piece at the end of another reader's stretch does not wait for all that comes before it there.
            let end = if reader == OriginReader::Errands { at.end.min(at.start + NEAR) } else { at.end };
            (at.start..end).contains(&piece.0)
        })
    }

    /// The pieces that a reader is at.
    pub(super) fn of(&self, reader: OriginReader) -> Option<&Range<u32>> {
        self.at.iter().find(|(other, _)| *other == reader).map(|(_, at)| at)
    }

    /// Forgets the wishes of a node.
    pub(super) fn leave(&mut self, node: NodeId) {
        self.wishes.retain(|wished| wished.node != node);
    }
}

impl Lead {
    /// From now on only pieces that somebody waits for are read, until somebody wants everything.
    pub(crate) const fn read_on_errands_only(&mut self) {
        self.readings.everything = false;
    }

    /// The first piece is read last, when the length is known.
    pub(crate) const fn read_head_last(&mut self) {
        self.readings.headed_last = true;
    }

    /// Somebody wants everything.
    pub(crate) const fn read_everything(&mut self) {
        self.readings.everything = true;
    }

    /// A node, a member or the lead's own, waits for these pieces, and for nothing that it waited for before.
    pub(crate) fn wish(&mut self, node: NodeId, wishes: &[Wish], now: Moment) {
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
        if let Some(slot) = self.members.slot(node)
            && let Some(parts) = &mut self.members.get_mut(slot).parts
        {
            *parts = parts_of(wishes);
        }
    }

    /// A member wants everything from now on, or only the pieces that it says it waits for ([`Lead::wish`]).
    pub(crate) fn wants(&mut self, node: NodeId, everything: bool) {
        if everything {
            self.read_everything();
        }
        let Some(slot) = self.members.slot(node) else { return };
        let member = self.members.get_mut(slot);
        let is_more = everything && !member.wants;
        (member.wants, member.parts) = (everything, (!everything).then(Vec::new));
        if is_more {
            // Until now, neighbours that hold all were of no use to it.
            self.members.link_up(slot);
        }
    }

    /// All wishes, of any node.
    pub(crate) fn wishes(&self) -> impl Iterator<Item = Wish> + '_ {
        self.readings.wishes.iter().map(|wished| wished.wish)
    }

    /// A reader is at these pieces, or at none any more. Returns true if it has stopped with this call.
    pub(crate) fn reads(&mut self, reader: OriginReader, pieces: Option<Range<u32>>) -> bool {
        let before = self.readings.at.len();
        self.readings.at.retain(|(other, _)| *other != reader);
        let was_reading = self.readings.at.len() < before;
        let ends = pieces.is_none();
        if ends {
            self.readings.speeds.ended(reader);
        }
        self.readings.at.extend(pieces.map(|pieces| (reader, pieces)));
        was_reading && ends
    }

    /// A reader begins a run: no other reads these pieces meanwhile. The reader of everything goes on as far as the plan lets it, piece by
    /// piece, or stretch by stretch if other connections read, too.
    pub(crate) fn begins(&mut self, reader: OriginReader, run: OriginRun) {
        let first = run.first.0;
        let end = match (reader, run.end) {
            (OriginReader::Everything, end) => self.end_of_stretch(first, end.map(|end| end.0)),
            (_, end) => end.map_or(first + 1, |end| end.0),
        };
        self.reads(reader, Some(first..end));
        if reader == OriginReader::Everything && self.readings.lengths.is_some() && self.stretch().is_none() {
            self.readings.breadth.reads_the_rest();
        }
    }

    /// True if `reader` is at some pieces.
    pub(crate) fn is_reading(&self, reader: OriginReader) -> bool {
        self.readings.of(reader).is_some()
    }

    /// How many readers are at some pieces.
    pub(crate) const fn readers(&self) -> usize {
        self.readings.at.len()
    }

    /// The wishes of each node.
    pub(crate) fn wishes_by_node(&self) -> impl Iterator<Item = (NodeId, Wish)> + '_ {
        self.readings.wishes.iter().map(|wished| (wished.node, wished.wish))
    }

    /// The next pieces that must be read from the origin: pieces that the lead lacks and that no live member holds (those are fetched by the lead's
    /// own picker). To be asked again after each piece: the reader stops when the answer no longer begins with the
    /// piece that comes next, since a holder of it has turned up.
    ///
    /// `known` has the pieces whose hash this agent knows. Of the others it counts no holders: without
    /// the hash, no agent could check what they give. A seed that was killed before it saved
    /// anything comes back like that.
    ///
    /// Members that hold lacking pieces are waited for as long as pieces come from them: after
    /// [`Tuning::holders_patience`](crate::Tuning::holders_patience) without any, none of them counts until it gives again.
    pub(crate) fn origin_plan(&mut self, reader: OriginReader, known: &PieceSet, now: Moment) -> Option<OriginRun> {
        if now < self.settled {
            return None;
        }
        let run = self.plan(reader, known, now);
        if matches!(reader, OriginReader::Beside(_)) {
            return run;
        }
        if run.is_some() || !self.is_left_to_members(reader, known) {
            self.watch.forget(reader);
            return run;
        }
        if self.members_stand_still(reader, now) { self.plan(reader, known, now) } else { None }
    }

    /// True if pieces that this reader would read are left to members that hold them.
    fn is_left_to_members(&self, reader: OriginReader, known: &PieceSet) -> bool {
        let Some(total) = self.total.filter(|total| self.pieces.own.len() < *total) else { return false };
        let is_left =
            |piece: u32| !self.pieces.own.contains(PieceIndex(piece)) && self.has_holder(PieceIndex(piece), known);
        match reader {
            OriginReader::Everything => self.readings.everything && (0..total).any(is_left),
            OriginReader::Errands => self.wishes().any(|wish| (wish.first..wish.end.min(total)).any(is_left)),
            OriginReader::Beside(_) => false,
        }
    }

    /// True if a member holds a piece that can be checked when it comes.
    pub(super) fn has_holder(&self, piece: PieceIndex, known: &PieceSet) -> bool {
        self.pieces.get(piece).holders > 0 && known.contains(piece)
    }

    fn plan(&mut self, reader: OriginReader, known: &PieceSet, now: Moment) -> Option<OriginRun> {
        match reader {
            OriginReader::Beside(number) => self.plan_beside(number, known, now),
            OriginReader::Everything if !self.readings.everything => None,
            OriginReader::Everything => {
                let run = self.plan_everything(known);
                if run.is_some() || !self.shorten_a_slow_one(reader, now) {
                    return run;
                }
                self.plan_everything(known)
            }
            OriginReader::Errands => self.errand(|piece| self.is_gap(reader, piece, known)),
        }
    }

    fn plan_everything(&mut self, known: &PieceSet) -> Option<OriginRun> {
        let (first, end) =
            self.pieces.first_gap(self.total, |piece| self.is_gap(OriginReader::Everything, piece, known))?;
        let end = match (end, self.stretch()) {
            // The origin gives the first piece by itself, and the rest as a stream from the second piece on.
            _ if self.readings.headed_last && first.0 == 0 => Some(PieceIndex(1)),
            (Some(end), Some(stretch)) => Some(end.min(PieceIndex(first.0.saturating_add(stretch)))),
            (end, _) => end,
        };
        Some(OriginRun { first, end })
    }

    /// True if `reader` is to go on with `piece`. If so, the reader of everything is at that piece from now on. An errand goes on as long as
    /// somebody waits for the piece, even if other wishes are older by now: breaking off an answer wastes the bytes of it that were sent but not read.
    pub(crate) fn goes_on(&mut self, reader: OriginReader, piece: PieceIndex, known: &PieceSet, now: Moment) -> bool {
        match reader {
            OriginReader::Everything => {
                let run = self.origin_plan(reader, known, now).filter(|run| run.first == piece);
                let Some(run) = run else { return false };
                let stretch = self.readings.of(reader).filter(|at| at.contains(&piece.0)).map(|at| at.end);
                let end = stretch.unwrap_or_else(|| self.end_of_stretch(piece.0, run.end.map(|end| end.0)));
                self.reads(reader, Some(piece.0..end));
                true
            }
            OriginReader::Errands => {
                let is_waited_for = self.wishes().any(|wish| (wish.first..wish.end).contains(&piece.0));
                is_waited_for && self.is_gap(reader, piece, known)
            }
            OriginReader::Beside(_) => {
                let end = self.readings.of(reader).filter(|at| at.contains(&piece.0)).map(|at| at.end);
                let Some(end) = end.filter(|_| self.is_gap(reader, piece, known)) else { return false };
                self.reads(reader, Some(piece.0..end));
                self.readings.everything
            }
        }
    }

    /// True if a piece is lacking that this reader may read.
    pub(super) fn is_gap(&self, reader: OriginReader, piece: PieceIndex, known: &PieceSet) -> bool {
        let is_too_early = piece.0 == 0 && self.readings.headed_last && self.total.is_none();
        !is_too_early
            && !self.pieces.own.contains(piece)
            && !self.has_holder(piece, known)
            && !self.readings.is_others(reader, piece)
    }

    /// True if everything is to be read.
    pub(crate) const fn reads_everything(&self) -> bool {
        self.readings.everything
    }

    /// The pieces still lacking of the wish that is served first.
    fn errand(&self, is_gap: impl Fn(PieceIndex) -> bool) -> Option<OriginRun> {
        let everything = self.readings.of(OriginReader::Everything);
        let comes_soon = |piece: u32| everything.is_some_and(|at| (at.start..=at.start + NEAR).contains(&piece));
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

/// The pieces for which a member waits with these wishes.
fn parts_of(wishes: &[Wish]) -> Vec<Range<u32>> {
    let mut room = MAX_PARTS;
    let mut run = |wish: &Wish| {
        let length = wish.end.saturating_sub(wish.first).min(room);
        room -= length;
        wish.first..wish.first + length
    };
    wishes.iter().map(&mut run).filter(|run| !run.is_empty()).collect()
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
    fn what_is_headed_last_is_read_from_its_second_piece_on_until_its_length_is_known() {
        let mut lead = Lead::new(node(0), Place::default(), Start::Fresh, Tuning::default(), 1, at(0));
        lead.read_head_last();
        assert_eq!(plan(&mut lead, OriginReader::Everything), Some((1, None)));
        (1..5).for_each(|piece| lead.own(PieceIndex(piece)));
        assert_eq!(plan(&mut lead, OriginReader::Everything), Some((5, None)));
        lead.set_total(5);
        assert_eq!(plan(&mut lead, OriginReader::Everything), Some((0, Some(1))));
        lead.own(PieceIndex(0));
        assert_eq!(plan(&mut lead, OriginReader::Everything), None);
    }

    #[test]
    fn what_is_headed_last_is_read_from_its_beginning_to_its_second_piece_and_then_from_there_on() {
        let mut lead = Lead::new(node(0), Place::default(), Start::Fresh, Tuning::default(), 1, at(0));
        lead.read_head_last();
        lead.set_total(5);
        assert_eq!(plan(&mut lead, OriginReader::Everything), Some((0, Some(1))));
        lead.own(PieceIndex(0));
        assert_eq!(plan(&mut lead, OriginReader::Everything).map(|(first, _)| first), Some(1));
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
