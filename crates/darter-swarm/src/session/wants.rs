//! Which pieces of the blob are wanted: all, or only those for which readers wait.
//!
//! A reader of a single range says which pieces it waits for, a window at a time. The lead is told, and reads these from the origin before all
//! others. As soon as a program here or elsewhere wants everything, all of it is fetched. A blob of which nobody wants anything is
//! *at rest*: it is open, and nothing is fetched.
//!
//! Invariants: the present lead is told of every change. A lead of an older release is not told, reads everything, and so gives the pieces that
//! are waited for in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use darter_core::{BlobId, Moment, NodeId, PieceIndex};
use darter_protocol::{MAX_WISHES, Message};

use super::{Output, Session};
use crate::{Books, Event, Leader, ReaderId, Wish};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Wants {
    everything: bool,
    /// True if there was a time when only parts were wanted.
    was_partial: bool,
    wishes: BTreeMap<ReaderId, Wish>,
    /// The wants that the present lead was last told.
    told: Option<(bool, Vec<Wish>)>,
    /// True if the lead may take this agent to want less than it does.
    is_unsure: bool,
    /// Members whose wishes the picker was told.
    for_members: BTreeSet<ReaderId>,
}

impl Wants {
    pub(super) const fn everything() -> Self {
        Self {
            everything: true,
            was_partial: false,
            wishes: BTreeMap::new(),
            told: None,
            is_unsure: false,
            for_members: BTreeSet::new(),
        }
    }

    /// True if a program on this host wants everything.
    pub(super) const fn are_all(&self) -> bool {
        self.everything
    }

    /// True if `piece` is wanted on this host.
    pub(super) fn includes(&self, piece: PieceIndex) -> bool {
        self.everything || self.wishes.values().any(|wish| (wish.first..wish.end).contains(&piece.0))
    }

    /// The wishes of readers on this host.
    pub(super) fn wishes(&self) -> Vec<Wish> {
        self.wishes.values().copied().collect()
    }

    /// The lead changed: the new one, if any, has been told nothing.
    pub(super) fn lead_changed(&mut self) {
        self.told = None;
    }

    /// The lead may have the wants from a request to be admitted that was for a part, made for another program here: it is told again.
    pub(super) const fn are_told_again(&mut self) {
        self.is_unsure = true;
    }
}

impl Session {
    /// No program on this host wants everything, from the start.
    pub fn wants_parts(&mut self, now: Moment) {
        (self.wants.everything, self.wants.was_partial) = (false, true);
        self.picker.handle(Event::Wants(false), now);
    }

    /// A program on this host wants everything. If the blob `passes` through, its readers fetch all of it. Returns true if this is new.
    pub(super) fn wants_all(&mut self, passes: bool, now: Moment) -> bool {
        if std::mem::replace(&mut self.wants.everything, true) {
            return false;
        }
        if !passes {
            self.picker.handle(Event::Wants(true), now);
        }
        if let Some(books) = &mut self.books {
            books.lead_mut().read_everything();
        }
        true
    }

    /// A reader on this host waits for these pieces, or no longer waits for any. Returns true if this is new.
    pub(super) fn wish(&mut self, reader: ReaderId, wish: Option<Wish>, now: Moment) -> bool {
        let before = match wish {
            Some(wish) => self.wants.wishes.insert(reader, wish),
            None => self.wants.wishes.remove(&reader),
        };
        let is_new = before != wish;
        if let Some(books) = self.books.as_mut().filter(|_| is_new) {
            books.lead_mut().wish(self.me, &self.wants.wishes(), now);
        }
        is_new
    }

    /// A member says which pieces it wants.
    pub(super) fn member_wants(
        &mut self,
        node: NodeId,
        everything: bool,
        wishes: &[darter_protocol::Wish],
        now: Moment,
    ) {
        let Some(books) = self.books.as_mut().filter(|books| books.has(node)) else { return };
        let lead = books.lead_mut();
        lead.wants(node, everything);
        lead.wish(node, &wishes.iter().map(heard).collect::<Vec<_>>(), now);
        // The member's ask for any piece may have come earlier.
        if lead.has_fresh_for(node, now) {
            self.outputs.push(Output::Give);
        }
    }

    /// True if nobody wants anything of the blob, neither here nor among members admitted here.
    pub fn is_at_rest(&self) -> bool {
        let is_idle = |books: &Books| !books.lead().reads_everything() && books.lead().wishes().next().is_none();
        let wants_nothing = !self.wants.everything && self.wants.wishes.is_empty() && !self.picker.has_hints();
        wants_nothing && self.books.as_ref().is_none_or(|books| is_idle(books))
    }

    /// True if everything is wanted, here or among members admitted here.
    pub fn is_all_wanted(&self) -> bool {
        self.wants.everything || self.books.as_ref().is_some_and(|books| books.lead().reads_everything())
    }

    /// Fetches what members wish for here first, if this agent follows another lead.
    pub(super) fn read_for_members(&mut self, now: Moment) {
        let follows = matches!(self.leader(), Leader::Node(_));
        let wishes = match &self.books {
            Some(books) if follows => {
                books.lead().wishes_by_node().filter(|(node, _)| *node != self.me).collect::<Vec<_>>()
            }
            _ if self.wants.for_members.is_empty() => return,
            _ => Vec::new(),
        };
        let mut wishes = wishes;
        wishes.sort_by_key(|(_, wish)| wish.within);
        let mut readers = BTreeSet::new();
        // One reader stands for a member: its most urgent wish.
        for (node, wish) in wishes {
            let reader = reader_for(node);
            if readers.insert(reader) {
                let (piece, count) = (PieceIndex(wish.first), wish.end - wish.first);
                self.picker.handle(Event::ReaderAt { reader, piece, count, patience: Duration::ZERO }, now);
            }
        }
        for gone in self.wants.for_members.difference(&readers) {
            self.picker.handle(Event::ReaderGone { reader: *gone }, now);
        }
        self.wants.for_members = readers;
    }

    /// The message to the lead about what is wanted here, if that has changed.
    pub(super) fn tell_wants(&mut self, blob: BlobId) -> Option<Message> {
        let wishes = self.books.as_ref().map_or_else(|| self.wants.wishes(), |books| books.lead().wishes().collect());
        let now = (self.is_all_wanted(), wishes);
        let is_news = self.wants.was_partial || self.wants.told.is_some() || !now.1.is_empty();
        if !self.wants.is_unsure && (!is_news || self.wants.told.as_ref() == Some(&now)) {
            return None;
        }
        (self.wants.told, self.wants.is_unsure) = (Some(now.clone()), false);
        let (everything, mut wishes) = now;
        // The wishes for which there is no room in the message are the least urgent.
        wishes.sort_by_key(|wish| wish.within);
        let wishes = wishes.into_iter().take(MAX_WISHES).map(told).collect();
        Some(Message::Want { blob, everything, wishes })
    }
}

/// Names a member as a reader: readers of this host are counted from zero.
fn reader_for(node: NodeId) -> ReaderId {
    let (half, _) = node.0.split_at(8);
    ReaderId(1 << 63 | u64::from_le_bytes(half.try_into().expect("half of sixteen bytes")))
}

/// A wish as it is sent.
fn told(wish: Wish) -> darter_protocol::Wish {
    let within = u32::try_from(wish.within.as_millis()).unwrap_or(u32::MAX);
    darter_protocol::Wish { first: wish.first, end: wish.end, within_ms: within }
}

fn heard(wish: &darter_protocol::Wish) -> Wish {
    Wish { first: wish.first, end: wish.end, within: Duration::from_millis(wish.within_ms.into()) }
}
