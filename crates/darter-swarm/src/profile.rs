//! First-touch profiles: the order in which a program that starts out of a blob needs its pieces. Pure.
//!
//! A program that reads a mounted blob waits for its missing pieces one after the other, and each costs a round trip. Programs that started earlier
//! touched the same pieces: members report which pieces were touched first in the first minute ([`Touches`]), the lead keeps some of these records
//! and merges them ([`Profile`]), and later starts fetch the merged list at once, many pieces at a time.
//!
//! Merging: a piece gets the median of its positions in the records that have it, so that an order in which all records agree is kept. Pieces
//! that fewer than half of the records have go to the end, and pieces that fewer than a quarter have are left out: images share layers, and a
//! single start of another program is not typical. So among five records or more, a false one adds nothing.
//!
//! Invariants: the pieces of a list differ, lie within the blob, and are no more than [`Bounds`] allows: a part of a large blob, or
//! what a link carries in a moment of a small one, whatever was reported. A profile keeps [`MAX_RECORDED`] records, one for each node.
//!
//! Not here: who records (`darter-mount`), what is kept on the disk and when records are sent (`darter-engine`).

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use darter_core::{NodeId, PieceIndex, PieceSet};
use darter_protocol::{MAX_STRETCHES, Stretch};

mod ahead;

pub use ahead::Ahead;

/// How many records are kept of one blob.
pub(crate) const MAX_RECORDED: usize = 16;

/// Once all of these are kept, one node in this many is still asked for a record: starts change, and a fleet is large.
const ONE_IN: u8 = 16;

/// The most bytes of a profile.
const MAX_BYTES: u64 = 256 << 20;

/// Half of a blob may be in a profile, or as much as this.
const MIN_BYTES: u64 = 32 << 20;

/// How much of a blob a profile may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many pieces the blob has, once that is known.
    pub total: Option<u32>,
    /// The length of a piece, in bytes.
    pub piece_bytes: u64,
}

impl Bounds {
    /// The most pieces that a list may have.
    pub fn most(self) -> usize {
        let length = self.total.map_or(u64::MAX, |total| u64::from(total) * self.piece_bytes);
        let bytes = (length / 2).clamp(MIN_BYTES, MAX_BYTES);
        usize::try_from((bytes / self.piece_bytes.max(1)).max(1)).unwrap_or(usize::MAX)
    }
}

/// Pieces of a blob in the order in which they are needed: different ones, within bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touches(Vec<Range<u32>>);

impl Touches {
    /// The touches that an agent reports. Pieces that do not exist, that were named before or that are past the bounds are left out. An
    /// honest list names each piece once, and two such lists together each piece twice: a list that names more is read no further.
    pub fn heard(stretches: impl IntoIterator<Item = Range<u32>>, bounds: Bounds) -> Self {
        let total = bounds.total.unwrap_or(crate::MAX_PIECES);
        let (mut touches, mut seen, mut left) = (Self::default(), PieceSet::new(), bounds.most());
        let mut steps = left.saturating_mul(2);
        for stretch in stretches.into_iter().take(MAX_STRETCHES) {
            for piece in stretch.start..stretch.end.min(total) {
                if left == 0 || steps == 0 || touches.0.len() > MAX_STRETCHES {
                    touches.0.truncate(MAX_STRETCHES);
                    return touches;
                }
                steps -= 1;
                if seen.insert(PieceIndex(piece)) {
                    touches.push(piece);
                    left -= 1;
                }
            }
        }
        touches.0.truncate(MAX_STRETCHES);
        touches
    }

    fn push(&mut self, piece: u32) {
        match self.0.last_mut() {
            Some(last) if last.end == piece => last.end += 1,
            _ => self.0.push(piece..piece + 1),
        }
    }

    /// The pieces, in order, as runs.
    pub fn stretches(&self) -> &[Range<u32>] {
        &self.0
    }

    /// The list as it is sent.
    pub fn to_told(&self) -> Vec<Stretch> {
        self.0.iter().map(|run| Stretch { first: run.start, end: run.end }).collect()
    }

    /// The pieces, in order.
    pub fn pieces(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().cloned().flatten()
    }

    fn begins_with(&self, other: &Self) -> bool {
        let mut pieces = self.pieces();
        other.pieces().all(|piece| pieces.next() == Some(piece))
    }

    /// How many pieces.
    pub fn count(&self) -> usize {
        self.0.iter().map(ExactSizeIterator::len).sum()
    }

    /// True if there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The profile of one blob, as one agent knows it: from the records of members if it leads, otherwise from its lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    bounds: Bounds,
    /// The records, the latest last.
    records: Vec<(NodeId, Touches)>,
    /// The touches that an operator pinned in place of all records.
    pinned: Option<Touches>,
    order: Touches,
    /// The list that members were last sent.
    told: HashSet<u32>,
}

impl Profile {
    /// The profile of a blob of which nothing is known.
    pub fn new(bounds: Bounds) -> Self {
        Self::kept(bounds, Vec::new(), None)
    }

    /// The profile with the records that were kept on the disk.
    pub fn kept(bounds: Bounds, mut records: Vec<(NodeId, Touches)>, pinned: Option<Touches>) -> Self {
        let surplus = records.len().saturating_sub(MAX_RECORDED);
        records.drain(..surplus);
        let mut profile = Self { bounds, records, pinned, order: Touches::default(), told: HashSet::new() };
        profile.merge();
        profile
    }

    /// The blob's bounds have become known, or have changed.
    pub fn within(&mut self, bounds: Bounds) {
        if self.bounds != bounds {
            self.bounds = bounds;
            for touches in self.records.iter_mut().map(|(_, touches)| touches).chain(&mut self.pinned) {
                *touches = Touches::heard(touches.0.iter().cloned(), bounds);
            }
            self.merge();
        }
    }

    /// The blob's bounds.
    pub const fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The records from which the list is made: each node with its touches, the latest last.
    pub fn records(&self) -> &[(NodeId, Touches)] {
        &self.records
    }

    /// The list that is used in place of all records, if one is pinned.
    pub const fn pinned(&self) -> Option<&Touches> {
        self.pinned.as_ref()
    }

    /// The pieces in the order in which a start needs them.
    pub const fn order(&self) -> &Touches {
        &self.order
    }

    /// True if `node` is to report what it touches.
    pub fn wants_record_of(&self, node: &NodeId) -> bool {
        let is_sampled = node.0[15].is_multiple_of(ONE_IN);
        self.records.len() < MAX_RECORDED || is_sampled || self.records.iter().any(|(by, _)| by == node)
    }

    /// `by` reports what it touched. A node that reports again has gone on, or has opened the blob again and then finds the pieces that it
    /// touched before in its page cache: the new pieces are added to its record. Returns true if that changes the list.
    pub fn record(&mut self, by: NodeId, stretches: impl IntoIterator<Item = Range<u32>>) -> bool {
        let mut touches = Touches::heard(stretches, self.bounds);
        if touches.is_empty() || !self.wants_record_of(&by) {
            return false;
        }
        if let Some((_, before)) = self.records.iter().find(|(other, _)| *other == by) {
            if !touches.begins_with(before) {
                touches = Touches::heard(before.0.iter().chain(&touches.0).cloned(), self.bounds);
            }
            if touches == *before {
                return false;
            }
        }
        self.records.retain(|(other, _)| *other != by);
        if self.records.len() >= MAX_RECORDED {
            self.records.remove(0);
        }
        self.records.push((by, touches));
        self.merge();
        true
    }

    /// `lead` sent its list. Returns true if that changes the list here. An empty list takes away only what this lead itself sent before.
    pub fn told_by(&mut self, lead: NodeId, stretches: impl IntoIterator<Item = Range<u32>>) -> bool {
        let touches = Touches::heard(stretches, self.bounds);
        if touches.is_empty() && self.records.iter().any(|(by, _)| *by != lead) {
            return false;
        }
        let records = if touches.is_empty() { Vec::new() } else { vec![(lead, touches)] };
        let is_new = self.records != records;
        self.records = records;
        self.merge();
        is_new
    }

    /// The list of a lead other than `lead`, as it is sent: a new lead may not know it.
    pub fn said_by_another(&self, lead: NodeId) -> Vec<Stretch> {
        let others = self.records.iter().any(|(by, _)| *by != lead);
        if others { self.order.to_told() } else { Vec::new() }
    }

    /// Uses a list in place of all records, or stops doing so.
    pub fn pin(&mut self, stretches: Option<Vec<Range<u32>>>) {
        self.pinned = stretches.map(|stretches| Touches::heard(stretches, self.bounds));
        self.merge();
    }

    /// True if the list has changed so much since it was last sent that it is to be sent again (a fourth of its pieces were not in that one);
    /// it then counts as sent.
    pub fn is_news(&mut self) -> bool {
        let fresh = self.order.pieces().filter(|piece| !self.told.contains(piece)).count();
        let is_news = fresh > 0 && fresh * 4 >= self.order.count();
        if is_news {
            self.told = self.order.pieces().collect();
        }
        is_news
    }

    fn merge(&mut self) {
        self.order = self.pinned.clone().unwrap_or_else(|| merged(&self.records, self.bounds));
    }
}

/// The list that these records give.
fn merged(records: &[(NodeId, Touches)], bounds: Bounds) -> Touches {
    let mut ranks = BTreeMap::<u32, Vec<usize>>::new();
    for (_, touches) in records {
        for (rank, piece) in touches.pieces().enumerate() {
            ranks.entry(piece).or_default().push(rank);
        }
    }
    let wanted = ranks.into_iter().filter(|(_, ranks)| ranks.len() * 4 >= records.len());
    let mut order: Vec<_> = wanted
        .map(|(piece, mut ranks)| {
            ranks.sort_unstable();
            let is_seldom = ranks.len() * 2 < records.len();
            (is_seldom, ranks[(ranks.len() - 1) / 2], piece)
        })
        .collect();
    order.sort_unstable();
    let mut joined = Touches::default();
    order.into_iter().for_each(|(_, _, piece)| joined.push(piece));
    Touches::heard(joined.0, bounds)
}

#[cfg(test)]
mod tests;
