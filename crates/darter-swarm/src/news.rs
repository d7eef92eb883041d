//! News of a node's pieces for other nodes: pieces that came, and pieces that are gone.
//!
//! Each node tells each of its neighbours of every piece, so that most messages are of this kind, and where links are slow they are a
//! noticeable part of the load. So news is gathered for a moment, and a neighbour is not told of a piece that it is known to hold: it has
//! no use for another holder. Should it lose the piece it says so, and is told then.
//!
//! The lead is told of every piece, since it counts holders, but seldom by a node with many neighbours, because a swarm of thousands
//! would flood it otherwise. Only pieces that the lead itself sent are confirmed at once, so that it learns which members are slow; it sends
//! each piece only a few times, so that these messages are few.

use std::collections::BTreeMap;
use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex};

use crate::{Picker, Tuning};

/// One piece of news about this node's pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PieceNews {
    /// These pieces are held here now, too. Without any: hashes are known here.
    Have(Vec<PieceIndex>),
    /// These pieces are no longer held here.
    Lost(Vec<PieceIndex>),
}

/// How many of this node's neighbours hold a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// So few that most nodes that lack the piece may know no other holder.
    Rare,
    /// So many that news of one more holder can wait.
    Common,
}

/// News to send, each with all its receivers.
pub(crate) type Tellings = Vec<(Vec<NodeId>, PieceNews)>;

/// Lists of pieces, each with all nodes that are to be told of them.
type Groups = Vec<(Vec<PieceIndex>, Vec<NodeId>)>;

/// News that was not sent yet.
#[derive(Debug)]
pub(crate) struct News {
    tuning: Tuning,
    come: Vec<PieceIndex>,
    gone: Vec<PieceIndex>,
    /// Pieces held here that neighbours lost.
    asked_for: Vec<(NodeId, PieceIndex)>,
    /// True if neighbours are to be told that the list of hashes is here, with or without pieces.
    first_hashes: bool,
    /// True if one of the pieces that came is not common.
    is_rare: bool,
    /// When the first of the pieces that came did.
    first_came: Moment,
    told: Moment,
    /// True if readers wait for pieces of others: news is then sent sooner.
    hurries: bool,
    /// How many neighbours there were when news was last sent to them.
    neighbours: usize,
    /// Pieces that the lead is still to be told of, when the first of them came, and for how long the news may wait.
    for_lead: Vec<PieceIndex>,
    lead_told: Moment,
    lead_pause: Duration,
    /// True if some of the news for the lead is of pieces that came from the lead itself.
    lead_waits: bool,
    /// True if no more pieces come soon.
    is_all: bool,
}

impl News {
    /// Nothing to tell.
    pub(crate) const fn new(tuning: Tuning) -> Self {
        Self {
            tuning,
            come: Vec::new(),
            gone: Vec::new(),
            asked_for: Vec::new(),
            first_hashes: false,
            is_rare: false,
            first_came: Moment::ZERO,
            told: Moment::ZERO,
            hurries: false,
            neighbours: 0,
            for_lead: Vec::new(),
            lead_told: Moment::ZERO,
            lead_pause: Duration::ZERO,
            lead_waits: false,
            is_all: false,
        }
    }

    /// Says whether this node wants parts, as its neighbours may, too: then a reader waits for each piece.
    pub(crate) const fn hurries(&mut self, hurries: bool) {
        self.hurries = hurries;
    }

    /// A piece came to be held here, from the lead or from others.
    pub(crate) fn came(&mut self, piece: PieceIndex, from_lead: bool, spread: Spread, now: Moment) {
        if self.come.is_empty() {
            self.first_came = now;
        }
        self.come.push(piece);
        self.is_rare |= spread == Spread::Rare;
        self.for_lead.push(piece);
        self.lead_waits |= from_lead;
    }

    /// The lead chose a piece that is here already, so it does not know of all pieces that are here.
    pub(crate) const fn tell_lead_at_once(&mut self) {
        self.lead_told = Moment::ZERO;
        self.lead_waits = true;
    }

    /// Called when a lead has admitted this node (it knows what this node holds). If the lead was a neighbour until now, pieces not yet
    /// announced to neighbours must go to it as the lead.
    pub(crate) fn lead_knows(&mut self, now: Moment) {
        self.lead_told = now;
        for &piece in &self.come {
            if !self.for_lead.contains(&piece) {
                self.for_lead.push(piece);
            }
        }
    }

    /// No more pieces come soon: the news that was gathered is sent without waiting.
    pub(crate) const fn at_once(&mut self) {
        self.is_all = true;
    }

    /// A piece is no longer held here.
    pub(crate) fn went(&mut self, piece: PieceIndex) {
        self.gone.push(piece);
    }

    /// `neighbour` lost a piece that is held here, and was perhaps never told that it is.
    pub(crate) fn is_wanted_by(&mut self, neighbour: NodeId, piece: PieceIndex) {
        self.asked_for.push((neighbour, piece));
    }

    /// Hashes are known here where none were: neighbours may ask for them.
    pub(crate) const fn first_hashes(&mut self) {
        self.first_hashes = true;
    }

    /// When there is news to send, if there is any.
    pub(crate) fn due(&self) -> Option<Moment> {
        self.neighbours_due().into_iter().chain(self.lead_due()).min()
    }

    fn neighbours_due(&self) -> Option<Moment> {
        let soon = self.first_hashes || self.is_rare || !self.gone.is_empty() || !self.asked_for.is_empty();
        let pause = self.tuning.tell_pause(self.neighbours);
        let parts = self.tuning.tell_each.saturating_mul(u32::try_from(self.neighbours).unwrap_or(u32::MAX)) / 4;
        let pieces = !self.come.is_empty();
        match (self.is_all, self.hurries) {
            (true, _) if soon || pieces => Some(self.told),
            (false, true) if soon || pieces => Some(self.told + parts.min(pause)),
            (false, false) if soon => Some(self.told + pause),
            (false, false) if pieces => Some(self.first_came + self.tuning.tell_common_pause(self.neighbours)),
            _ => None,
        }
    }

    fn lead_due(&self) -> Option<Moment> {
        let soon = self.tuning.tell_lead_soon;
        let pause = match (self.is_all, self.lead_waits) {
            (true, _) => Duration::ZERO,
            (false, true) => soon,
            (false, false) => self.lead_pause,
        };
        (!self.for_lead.is_empty()).then(|| self.lead_told + pause)
    }

    /// Takes the news to send now, to these neighbours and this lead.
    pub(crate) fn take(
        &mut self,
        now: Moment,
        picker: &Picker,
        neighbours: &[NodeId],
        lead: Option<NodeId>,
    ) -> Tellings {
        if lead.is_none() {
            self.for_lead.clear();
        }
        let mut gone = Vec::new();
        let mut tells_of_hashes = false;
        // Most neighbours lack the same pieces among a few: one message for each such group.
        let mut groups: Groups = Vec::new();
        if self.neighbours_due().is_some_and(|due| due <= now) {
            self.told = now;
            self.is_rare = false;
            tells_of_hashes = std::mem::take(&mut self.first_hashes);
            self.neighbours = neighbours.len();
            self.lead_pause = self.tuning.tell_lead_pause(neighbours.len());
            let come = std::mem::take(&mut self.come);
            gone = std::mem::take(&mut self.gone);
            let mut wanted: BTreeMap<NodeId, Vec<PieceIndex>> = BTreeMap::new();
            for (node, piece) in self.asked_for.drain(..) {
                wanted.entry(node).or_default().push(piece);
            }
            let mut pieces = Vec::new();
            for &node in neighbours.iter().filter(|node| Some(**node) != lead) {
                pieces.clear();
                pieces.extend(picker.lacked_by(node, &come));
                pieces.extend(wanted.remove(&node).unwrap_or_default());
                add(&mut groups, &pieces, node);
            }
        }
        if let Some(lead) = lead
            && self.lead_due().is_some_and(|due| due <= now)
        {
            self.lead_told = now;
            self.lead_waits = false;
            add(&mut groups, &std::mem::take(&mut self.for_lead), lead);
        }
        self.is_all = false;
        groups.retain(|(pieces, _)| tells_of_hashes || !pieces.is_empty());
        groups.sort_unstable();
        let mut tellings: Tellings =
            groups.into_iter().map(|(pieces, nodes)| (nodes, PieceNews::Have(pieces))).collect();
        if !gone.is_empty() {
            let mut everybody = neighbours.to_vec();
            everybody.extend(lead.filter(|lead| !neighbours.contains(lead)));
            tellings.push((everybody, PieceNews::Lost(gone)));
        }
        tellings
    }
}

fn add(groups: &mut Groups, pieces: &[PieceIndex], node: NodeId) {
    match groups.iter_mut().find(|(told, _)| told == pieces) {
        Some((_, nodes)) => nodes.push(node),
        None => groups.push((pieces.to_vec(), vec![node])),
    }
}

#[cfg(test)]
mod tests;
