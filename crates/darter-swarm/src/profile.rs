//! First-touch profiles: in which order the pieces of a blob are needed by a program that starts out of it. Pure.
//!
//! A program that reads a mounted blob waits for its misses one after the other, and each costs a round trip. Earlier starters touched the same
//! pieces: members say what was touched first in the first minute ([`Touches`]), the lead keeps some of these records and merges them ([`Profile`]),
//! and later starters fetch the merged list at once, many pieces at a time.
//!
//! Merging: a piece is where the middle one of those who touched it had it, so that an order in which all agree stays. Pieces that fewer than half
//! touched go to the end, and pieces that fewer than a quarter touched are left out: images share layers, and a start that takes another way is no
//! rule. So of five records and more, one that lies adds nothing.
//!
//! Invariants: pieces of a list are different ones, within the blob, and no more than [`Bounds`] allows: a part of a large blob, and of a
//! small one no more than a moment's worth of a link, whatever was said. A profile keeps [`MAX_RECORDED`] records; a node has one.
//!
//! Not here: who records (`darter-mount`), what is kept on the disk and when it is told (`darter-engine`).

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use darter_core::{NodeId, PieceIndex, PieceSet};
use darter_protocol::{MAX_STRETCHES, Stretch};

mod ahead;

pub use ahead::Ahead;

/// Records that are kept of one blob.
pub(crate) const MAX_RECORDED: usize = 16;

/// Once there are as many, one node in this many is still asked for a record: starts change, and a fleet is large.
const ONE_IN: u8 = 16;

/// The most bytes of a profile.
const MAX_BYTES: u64 = 256 << 20;

/// Half of a blob may be in a profile, or as much as this.
const MIN_BYTES: u64 = 32 << 20;

/// How much of a blob a profile may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many pieces the blob has, once that is known.
    pub total: Option<u32>,
    /// The length of a piece, in bytes.
    pub piece_bytes: u64,
}

impl Bounds {
    /// The most pieces of a list.
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
    /// The touches that an agent reports. Pieces that are not there or were named before are left out, and those past the bounds. An
    /// honest list names each piece once, and one list after another each piece twice: what names more is read no further.
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

    /// As they are told.
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

/// The profile of one blob, as one agent knows it: by the records of members if it leads, else by the lead's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    bounds: Bounds,
    /// The latest last.
    records: Vec<(NodeId, Touches)>,
    /// The touches that an operator pinned in place of all records.
    pinned: Option<Touches>,
    order: Touches,
    /// The list that everybody was told last.
    told: HashSet<u32>,
}

impl Profile {
    /// The profile of a blob of which nothing is known.
    pub fn new(bounds: Bounds) -> Self {
        Self::kept(bounds, Vec::new(), None)
    }

    /// As it was kept.
    pub fn kept(bounds: Bounds, mut records: Vec<(NodeId, Touches)>, pinned: Option<Touches>) -> Self {
        let surplus = records.len().saturating_sub(MAX_RECORDED);
        records.drain(..surplus);
        let mut profile = Self { bounds, records, pinned, order: Touches::default(), told: HashSet::new() };
        profile.merge();
        profile
    }

    /// More is known of how long the blob is.
    pub fn within(&mut self, bounds: Bounds) {
        if self.bounds != bounds {
            self.bounds = bounds;
            for touches in self.records.iter_mut().map(|(_, touches)| touches).chain(&mut self.pinned) {
                *touches = Touches::heard(touches.0.iter().cloned(), bounds);
            }
            self.merge();
        }
    }

    /// How much it may have.
    pub const fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The records that it is made of: each node with its touches, the latest last.
    pub fn records(&self) -> &[(NodeId, Touches)] {
        &self.records
    }

    /// The list that counts in place of all records, if one is pinned.
    pub const fn pinned(&self) -> Option<&Touches> {
        self.pinned.as_ref()
    }

    /// The pieces in the order in which a start needs them.
    pub const fn order(&self) -> &Touches {
        &self.order
    }

    /// True if this node is to say what it touches.
    pub fn wants_record_of(&self, node: &NodeId) -> bool {
        let is_sampled = node.0[15].is_multiple_of(ONE_IN);
        self.records.len() < MAX_RECORDED || is_sampled || self.records.iter().any(|(by, _)| by == node)
    }

    /// A node says what it touched. One that says so again has gone on, or opened the blob again, and then finds in its page cache what it
    /// touched before: what it says anew is added. Returns true if that changes anything.
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

    /// The lead says what the list is. Returns true if that changes anything. A lead that knows nothing takes nothing away but its own word.
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

    /// The list of a lead that `lead` is not, as it is told: what a new one may not know.
    pub fn said_by_another(&self, lead: NodeId) -> Vec<Stretch> {
        let others = self.records.iter().any(|(by, _)| *by != lead);
        if others { self.order.to_told() } else { Vec::new() }
    }

    /// Puts a list in place of all records, or takes it away.
    pub fn pin(&mut self, stretches: Option<Vec<Range<u32>>>) {
        self.pinned = stretches.map(|stretches| Touches::heard(stretches, self.bounds));
        self.merge();
    }

    /// True if so much has changed since everybody was told that they are to be told again, and they count as told: pieces that are a fourth of
    /// the list were not in it.
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

/// The list that follows from these records.
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
