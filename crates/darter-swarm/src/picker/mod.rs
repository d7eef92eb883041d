//! Which piece to request from which peer, at one node, for one blob.
//!
//! All nodes of a swarm cooperate: no choking, no tit-for-tat. The picker asks the *lead* (the seed that tracks the
//! swarm) for any piece and leaves the choice to it, requests the locally rarest pieces by name from neighbours, and makes
//! sure that no single slow or lying peer decides when the blob is complete.
//!
//! Invariants, kept by the methods of this file and of `requests`:
//! - a request is *relied on* unless it is overdue, or was made to a holder that failed this node before: its piece
//!   may be requested from others at the same time, so that no reader waits for such a holder;
//! - a piece is *open* exactly when this node wants the whole blob or seeks the piece, knows its hash, lacks it, and no request
//!   for it that is relied on is under way;
//! - a peer's count of open requests is the number of entries in `requests` for it;
//! - `coming` has exactly the pieces of requests that are relied on, and `counts` says how many requests there are of each kind:
//!   both change only in `add_request`, `remove_request`, `mark_overdue` and `started`;
//! - a request's `neighbour` is its index in `neighbours`;
//! - nothing is requested from a peer that sent a wrong piece.
//!
//! A poll costs little while it can have no consequence: `check_at`, `slow_check` and `paused_until` are the earliest times at which something falls
//! due; they may be too early and never too late. And a picker at its limit looks at no holder.
//!
//! The picker does not verify pieces: [`Event::Received`] is for verified pieces only. It keeps no data, and it
//! does not tell others what this node holds.
//!
//! | file | |
//! |---|---|
//! | `choose` | [`Picker::poll`]: the requests to make now |
//! | `reading` | the pieces that readers in order need next |
//! | `foreseen` | pieces that will be needed, and for which nobody waits yet |
//! | `parts` | nodes that want parts of the blob while others do, too |
//! | `requests` | requests as they begin, are answered, fail or are withdrawn |
//! | `rarity` | holders per piece, and the open pieces by their rarity |
//! | `neighbour` | what the picker knows of a peer |

mod choose;
mod foreseen;
mod neighbour;
mod parts;
mod rarity;
mod reading;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex, PieceSet, Tier};

use crate::MAX_PIECES;
use crate::event::{Action, Event, Foresight, ReaderId, RequestId};
use crate::locality::is_across;
use crate::news::Spread;
use crate::pace::Standing;
use crate::picker::neighbour::{Failures, Neighbour, PeerRecord};
use crate::picker::rarity::Rarity;
use crate::picker::reading::Reader;
use crate::random::Random;
use crate::tuning::Tuning;

/// Later than any other moment.
const NEVER: Moment = Moment::from_micros(u64::MAX);

/// Holders that left and are remembered, because they failed or left without answering requests.
const MAX_BAD: usize = 64;

/// Rates are compared again after this many answers, or when a holder seems slow by the last comparison.
const JUDGE_EVERY: u32 = 16;

/// The picker of one blob: its session tells it events and carries out its actions; others only read it.
#[derive(Debug)]
pub struct Picker {
    me: NodeId,
    piece_bytes: u64,
    tuning: Tuning,
    random: Random,
    wants: bool,
    /// The pieces with a known hash.
    known: PieceSet,
    /// How many of the first pieces have a known hash, and one past the last piece that has one.
    known_prefix: u32,
    known_end: u32,
    total: Option<u32>,
    held: PieceSet,
    /// The first piece that is not held.
    prefix: PieceIndex,
    rarity: Rarity,
    neighbours: Vec<Neighbour>,
    lead: Option<LeadPeer>,
    requests: Vec<Request>,
    counts: Counts,
    coming: PieceSet,
    readers: BTreeMap<ReaderId, Reader>,
    /// Runs of pieces that will be needed, in the order in which they are asked for.
    foreseen: BTreeMap<(Foresight, ReaderId), Range<u32>>,
    /// The pieces that are wanted while not everything is.
    sought: PieceSet,
    /// When a neighbour that lacks pieces was last met, or came to hold a piece.
    stirred: Option<Moment>,
    /// True if, at the last poll, other nodes were starting the same program.
    was_among: bool,
    /// Pieces for which readers wait and that others are to get first, as the last poll found.
    left_to_others: Vec<PieceIndex>,
    /// Pieces that others needed, and readers here may need next.
    hints: VecDeque<PieceIndex>,
    /// The pieces for which readers here waited while not everything was wanted, and when a reader last began to wait for another.
    waited_for: PieceSet,
    waited: Option<Moment>,
    /// True if the lead answers asks of a node that wants parts with a piece of these parts.
    lead_gives_parts: bool,
    /// Peers that sent a wrong piece, each with that piece.
    banned: Vec<(NodeId, PieceIndex)>,
    /// Holders that failed, or took back requested pieces, and then left or joined again: their record is kept for when they come back.
    bad: Vec<(NodeId, Failures)>,
    /// By the holder's tier and the piece: for how many turns this node lets others fetch it first; empty when to be counted again.
    turns: [Vec<u8>; 5],
    /// By piece: when it was first found that only holders across a boundary have it.
    afar_since: Vec<Moment>,
    /// The average time of a piece from across a boundary, from the request to its last byte; zero before the first.
    from_afar: Duration,
    next_id: u64,
    /// Cancels and reports that the next poll hands out.
    waiting: Vec<Action>,
    wakeup: Option<Moment>,
    /// How many blobs this node fetches at a time, this one included.
    among: u32,
    /// The lead's share, of late, in the pieces that came.
    lead_share: f32,
    /// How many neighbours the lead named.
    expected: usize,
    /// True if the last poll left no room for more requests.
    is_full: bool,
    /// True if, at the last poll, a piece was urgent: any holder of it is to be asked, even without room.
    is_urgent: bool,
    /// No request falls due before this.
    check_at: Moment,
    /// No slow neighbour is to be tried again before this.
    slow_check: Moment,
    /// After this no neighbour is paused.
    paused_until: Moment,
    /// The rate below which a holder is slow, in bytes per second (a part of the median), and how many samples ago it was computed.
    slow_limit: (f64, u32),
    /// Holders with room, in the order in which they are asked; kept for its memory.
    ready: Vec<u64>,
}

/// Requests by kind.
#[derive(Debug, Default)]
struct Counts {
    /// For named pieces, and not overdue; including asks that the lead is answering.
    open: usize,
    /// Asks that the lead has not answered.
    standing: usize,
    /// Requests to the lead for a piece that is known: named, or chosen by the lead.
    bound: usize,
    /// Requests that are not relied on.
    aside: usize,
}

#[derive(Debug)]
struct LeadPeer {
    id: NodeId,
    meter: PeerRecord,
    strikes: u32,
    /// The moment from which on the lead is asked; decided at the first poll.
    asked_from: Option<Moment>,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    id: RequestId,
    peer: NodeId,
    /// The peer's index in `neighbours`; `None` for the lead.
    neighbour: Option<usize>,
    /// `None` for an ask that the lead has not answered yet.
    piece: Option<PieceIndex>,
    urgent: bool,
    /// True if the request tests whether a holder that failed this node gives pieces again.
    is_trial: bool,
    asked: Moment,
    moved: Moment,
    /// When bytes of the answer were first seen, and how many they were; and how many have come so far.
    began: Option<(Moment, u64)>,
    arrived: u64,
    /// Since when it has been overdue, if it is.
    overdue: Option<Moment>,
}

impl Request {
    /// True if the piece is requested from no other peer.
    const fn is_relied_on(&self) -> bool {
        self.overdue.is_none() && !self.is_trial
    }

    /// True if the answer comes so slowly that a piece takes longer than `most`.
    fn crawls(&self, piece_bytes: u64, most: Duration, tuning: &Tuning, now: Moment) -> bool {
        let Some((began, first)) = self.began else { return false };
        let spent = now.since(began);
        let came = self.arrived.saturating_sub(first).max(1);
        spent >= tuning.overdue_floor && spent.as_secs_f64() * (piece_bytes as f64 / came as f64) > most.as_secs_f64()
    }
}

/// An open request, for observers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// The peer that was asked.
    pub peer: NodeId,
    /// The piece; `None` for an ask that the lead has not answered yet.
    pub piece: Option<PieceIndex>,
    /// When it was made, or when more of its answer last came.
    pub moved: Moment,
    /// True if it has made no progress for longer than expected, so that its piece may be requested from another peer.
    pub overdue: bool,
}

impl Picker {
    /// A picker for node `me` and pieces of `piece_bytes`, that holds nothing yet and wants everything.
    pub fn new(me: NodeId, piece_bytes: u64, tuning: Tuning, seed: u64) -> Self {
        Self {
            me,
            piece_bytes,
            tuning,
            random: Random::new(seed),
            wants: true,
            known: PieceSet::new(),
            known_prefix: 0,
            known_end: 0,
            total: None,
            held: PieceSet::new(),
            prefix: PieceIndex(0),
            rarity: Rarity::default(),
            neighbours: Vec::new(),
            lead: None,
            requests: Vec::new(),
            counts: Counts::default(),
            coming: PieceSet::new(),
            readers: BTreeMap::new(),
            foreseen: BTreeMap::new(),
            sought: PieceSet::new(),
            stirred: None,
            was_among: false,
            left_to_others: Vec::new(),
            hints: VecDeque::new(),
            waited_for: PieceSet::new(),
            waited: None,
            lead_gives_parts: false,
            banned: Vec::new(),
            bad: Vec::new(),
            turns: [const { Vec::new() }; 5],
            afar_since: Vec::new(),
            from_afar: Duration::ZERO,
            next_id: 0,
            waiting: Vec::new(),
            wakeup: None,
            among: 1,
            lead_share: 0.0,
            expected: 0,
            is_full: false,
            is_urgent: false,
            check_at: NEVER,
            slow_check: NEVER,
            paused_until: Moment::ZERO,
            slow_limit: (0.0, 0),
            ready: Vec::new(),
        }
    }

    /// Handles an event. The next [`Picker::poll`] gives the actions that follow from it.
    pub(crate) fn handle(&mut self, event: Event, now: Moment) {
        match event {
            Event::ManifestGrew { known, total } => self.manifest_grew(&known, total),
            Event::PeerJoined { peer, tier, wants, held } => {
                self.peer_joined(peer, tier, wants, &held, now);
                self.stirred = if self.starts(wants, &held) { Some(now) } else { self.stirred };
            }
            Event::PeerLost { peer, piece } => self.peer_lost(peer, piece, now),
            Event::PeerLeft { peer } => self.peer_left(peer, now),
            Event::LeadChanged { lead } => self.lead_changed(lead),
            Event::Started { request, piece } => self.started(request, piece, now),
            Event::Progress { request, bytes } => self.progressed(request, bytes, now),
            Event::Received { request, piece, bytes } => self.received(request, piece, bytes, now),
            Event::Corrupt { peer, request, piece } => self.corrupt(peer, request, piece, now),
            Event::Failed { request } => self.fail(request, now),
            Event::ReaderAt { reader, piece, count, patience } => {
                // A reader that is reported again without having moved has waited since the first report.
                let before = self.readers.get(&reader).filter(|it| it.at == piece && patience.is_zero());
                let since = before.map_or(now, |it| it.since);
                self.readers.insert(reader, Reader { at: piece, count, patience, since });
                if since == now && patience.is_zero() {
                    self.waits_for(piece, count, now);
                }
                self.seek();
            }
            Event::Foreseen { reader, piece, count, by } => {
                self.foreseen.retain(|(_, other), _| *other != reader);
                self.foreseen.insert((by, reader), piece.0..piece.0.saturating_add(count));
                self.seek();
            }
            Event::ReaderGone { reader } => {
                self.readers.remove(&reader);
                self.foreseen.retain(|(_, other), _| *other != reader);
                self.seek();
            }
            Event::Wants(wants) => {
                self.wants = wants;
                self.seek();
                self.reopen_all();
            }
            Event::Lost { piece } => {
                self.held.remove(piece);
                self.prefix = self.prefix.min(piece);
                self.reopen(piece);
            }
        }
    }

    /// A neighbour holds these pieces, too. False means that no poll is needed, so that a swarm full of announcements
    /// costs little.
    pub(crate) fn peer_has(&mut self, peer: NodeId, pieces: &[PieceIndex]) -> bool {
        let Some(at) = self.neighbours.iter().position(|neighbour| neighbour.id == peer) else { return false };
        let mut matters = false;
        for piece in pieces {
            matters |= self.neighbour_has(at, *piece);
        }
        matters
    }

    /// This node fetches `among` blobs at a time, this one included: they share the requests that may be open. If each had them all,
    /// its requests would stand in long queues behind those of the others, and be given up as overdue.
    ///
    /// `standing` gives the requests of all blobs that stand at a peer: the piece is requested from the holder with the shortest queue, and
    /// its answer awaited as long as that queue takes. Without it most requests stand at the holder with the most pieces, and other links
    /// idle (`docs/notes/many-blobs.md`). It is called only while there are several blobs, room for a request, or one that is due.
    pub(crate) fn share(&mut self, among: u32, now: Moment, standing: impl Fn(&NodeId) -> Standing) {
        let alone = among <= 1;
        if alone && self.among == 1 {
            return;
        }
        self.among = among.max(1);
        if !alone && self.counts.open >= self.most_open() && self.check_at > now {
            return;
        }
        let lead = self.lead.iter_mut().map(|lead| (&lead.id, &mut lead.meter));
        let neighbours = self.neighbours.iter_mut().map(|neighbour| (&neighbour.id, &mut neighbour.meter));
        for (peer, meter) in lead.chain(neighbours) {
            if alone {
                meter.elsewhere = 0;
            } else {
                meter.adopt(standing(peer));
            }
        }
    }

    /// Sets the number of neighbours that the lead named, met or not: a large swarm is to be recognised before its members join here.
    pub(crate) const fn expect(&mut self, neighbours: usize) {
        self.expected = neighbours;
    }

    /// When to call [`Picker::poll`] although nothing happens, if ever.
    pub(crate) const fn next_wakeup(&self) -> Option<Moment> {
        self.wakeup
    }

    /// The pieces that this node holds.
    pub const fn held(&self) -> &PieceSet {
        &self.held
    }

    /// True if every piece is held.
    pub fn is_complete(&self) -> bool {
        self.total == Some(self.held.len())
    }

    /// The neighbours, and what each is known to hold.
    pub(crate) fn held_by_neighbours(&self) -> impl Iterator<Item = (NodeId, &PieceSet)> + '_ {
        self.neighbours.iter().map(|neighbour| (neighbour.id, &neighbour.held))
    }

    /// True if the hash of every piece is known.
    pub(crate) fn knows_all(&self) -> bool {
        self.total == Some(self.known.len())
    }

    /// True if a piece is on its way from a peer that is relied on.
    pub(crate) fn in_flight(&self, piece: PieceIndex) -> bool {
        self.coming.contains(piece)
    }

    /// All requests under way.
    pub fn open_requests(&self) -> impl Iterator<Item = OpenRequest> + '_ {
        self.requests.iter().map(|open| OpenRequest {
            peer: open.peer,
            piece: open.piece,
            moved: open.moved,
            overdue: open.overdue.is_some(),
        })
    }

    /// How many pieces each neighbour holds, as far as is known here.
    pub fn holdings(&self) -> impl Iterator<Item = (NodeId, u32)> + '_ {
        self.neighbours.iter().map(|neighbour| (neighbour.id, neighbour.held.len()))
    }

    /// The peers that are not used any more because they sent wrong pieces. A node that becomes the lead reports them to
    /// itself.
    pub(crate) fn dropped(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.banned.iter().map(|(peer, _)| *peer)
    }

    /// True if a neighbour says that it holds a piece.
    pub fn is_held_by(&self, peer: NodeId, piece: PieceIndex) -> bool {
        self.neighbours.iter().any(|neighbour| neighbour.id == peer && neighbour.held.contains(piece))
    }

    /// [`Spread::Common`] if so many neighbours hold `piece` that news of one more holder can wait. In a small swarm the others know of the same holders
    /// as this node. In a large swarm of several racks no piece is common: most nodes know only holders beyond their rack. Nor is one while
    /// readers are behind.
    pub(crate) fn spread(&self, piece: PieceIndex, is_large: bool) -> Spread {
        let crosses = || self.neighbours.iter().any(|neighbour| is_across(neighbour.tier));
        let enough = match is_large {
            _ if self.are_readers_behind() => return Spread::Rare,
            false => self.tuning.common_holders_in_small,
            true if crosses() => return Spread::Rare,
            true => self.tuning.common_holders,
        };
        if self.rarity.holders(piece) < enough { Spread::Rare } else { Spread::Common }
    }

    /// The pieces of `pieces` that a peer lacks, as far as known here: those of which it is worth telling it.
    pub(crate) fn lacked_by(&self, peer: NodeId, pieces: &[PieceIndex]) -> impl Iterator<Item = PieceIndex> {
        let neighbour = self.neighbours.iter().find(|neighbour| neighbour.id == peer);
        let lacks = move |piece: &PieceIndex| neighbour.is_none_or(|neighbour| !neighbour.held.contains(*piece));
        pieces.iter().copied().filter(lacks)
    }

    fn is_banned(&self, peer: NodeId) -> bool {
        self.dropped().any(|dropped| dropped == peer)
    }

    fn manifest_grew(&mut self, known: &Range<u32>, total: Option<u32>) {
        self.total = total.or(self.total);
        let before = self.known.len();
        for piece in (known.start.max(self.known_prefix)..known.end).map(PieceIndex) {
            if self.known.insert(piece) {
                self.reopen(piece);
            }
        }
        if before < self.known.len() {
            self.known_prefix = self.known.first_missing_from(PieceIndex(self.known_prefix)).0;
            self.known_end = self.known_end.max(known.end);
            self.turns = [const { Vec::new() }; 5];
        }
    }

    fn peer_joined(&mut self, peer: NodeId, tier: Tier, wants: bool, held: &PieceSet, now: Moment) {
        if peer == self.me || self.is_banned(peer) {
            return;
        }
        let held: PieceSet = held.iter().filter(|piece| self.can_be(*piece)).collect();
        if self.wants_more(peer, tier, wants, &held) {
            return;
        }
        self.peer_left(peer, now);
        for piece in held.iter() {
            self.rarity.add_holder(piece);
        }
        let mut neighbour = Neighbour::new(peer, tier, wants, held);
        if let Some(at) = self.bad.iter().position(|(bad, _)| *bad == peer) {
            neighbour.meter.failures = self.bad.swap_remove(at).1;
            self.paused_until = self.paused_until.max(neighbour.meter.paused_until());
        }
        self.neighbours.push(neighbour);
        self.turns = [const { Vec::new() }; 5];
        if self.counts.bound > 0 {
            // For pieces that the neighbour has, the lead is not waited for as long.
            self.check_at = self.check_at.min(self.may_be_overdue_at(now));
        }
    }

    /// True if the blob may have this piece at all: tables must not grow without bound because of a peer's messages.
    fn can_be(&self, piece: PieceIndex) -> bool {
        piece.0 < self.total.unwrap_or(MAX_PIECES)
    }

    /// Notes that a neighbour holds a piece. Returns true if the piece may be requested now.
    fn neighbour_has(&mut self, at: usize, piece: PieceIndex) -> bool {
        if !self.can_be(piece) {
            return false;
        }
        let neighbour = &mut self.neighbours[at];
        if neighbour.held.insert(piece) {
            self.rarity.add_holder(piece);
        }
        if self.held.contains(piece) {
            return false;
        }
        let open = neighbour.meter.open;
        let has_room = open < self.most_at_one();
        self.is_urgent || (has_room && !self.is_full && self.rarity.open().contains(piece))
    }

    /// The peer is not asked for this piece any more. The other pieces are not affected: losing a piece is no failure, but losing each
    /// one as soon as it is requested is.
    fn peer_lost(&mut self, peer: NodeId, piece: PieceIndex, now: Moment) {
        let Some(at) = self.neighbours.iter().position(|neighbour| neighbour.id == peer) else { return };
        if self.neighbours[at].held.remove(piece) {
            self.rarity.remove_holder(piece);
        }
        let open = self.requests.len();
        self.drop_requests(|request| request.neighbour == Some(at) && request.piece == Some(piece));
        if self.requests.len() < open && self.neighbours[at].meter.takes_back(&self.tuning) {
            self.failed(Some(at), now);
        }
    }

    /// The peer is no longer a neighbour. If requests to it were open, it has taken these back: when it returns, it counts like a peer that
    /// stayed and took them back.
    fn peer_left(&mut self, peer: NodeId, now: Moment) {
        let Some(at) = self.neighbours.iter().position(|neighbour| neighbour.id == peer) else { return };
        let open = self.requests.len();
        self.drop_requests(|request| request.neighbour == Some(at));
        let took_back = self.requests.len() < open;
        if took_back && self.neighbours[at].meter.takes_back(&self.tuning) {
            self.failed(Some(at), now);
        }
        let neighbour = self.neighbours.swap_remove(at);
        if took_back || neighbour.meter.is_bad(&self.tuning) {
            self.remember_bad(peer, neighbour.meter.failures);
        }
        let moved = self.neighbours.len();
        for request in self.requests.iter_mut().filter(|request| request.neighbour == Some(moved)) {
            request.neighbour = Some(at);
        }
        for piece in neighbour.held.iter() {
            self.rarity.remove_holder(piece);
        }
        self.turns = [const { Vec::new() }; 5];
    }

    /// Remembers the failures of a peer that left. If too many are remembered, one without failures is dropped first: it may be honest.
    fn remember_bad(&mut self, peer: NodeId, failures: Failures) {
        if self.bad.len() >= MAX_BAD {
            let harmless = self.bad.iter().position(|(_, failures)| !failures.is_failing());
            self.bad.remove(harmless.unwrap_or(0));
        }
        self.bad.push((peer, failures));
    }

    fn lead_changed(&mut self, lead: Option<NodeId>) {
        // An ask would stand for ever otherwise.
        self.cancel_where(|request| request.neighbour.is_none() && request.piece.is_none());
        self.drop_requests(|request| request.neighbour.is_none());
        let lead = lead.filter(|lead| *lead != self.me && !self.is_banned(*lead));
        self.lead = lead.map(|id| LeadPeer { id, meter: PeerRecord::default(), strikes: 0, asked_from: None });
        if self.lead.is_some() {
            // A new lead does not know yet which peers sent wrong pieces.
            let reports = self.banned.iter().map(|(peer, piece)| Action::Report { peer: *peer, piece: *piece });
            self.waiting.extend(reports);
        }
    }

    /// The time that a piece takes at the other peers, as far as known: the slower half of the quicker ones, including the lead, so
    /// that peers that answer late or never do not decide what is usual.
    fn usual_piece_time(&self) -> Option<Duration> {
        let meters =
            self.neighbours.iter().map(|neighbour| &neighbour.meter).chain(self.lead.iter().map(|it| &it.meter));
        let mut times: Vec<_> = meters.filter_map(|meter| meter.pace.measured(self.piece_bytes)).collect();
        let middle = times.len().checked_sub(1)? / 2;
        Some(*times.select_nth_unstable(middle).1)
    }

    /// How long an honest holder may take to answer (others are asked sooner), if a piece usually takes `usual`.
    fn longest(&self, usual: Option<Duration>) -> Duration {
        (usual.unwrap_or(self.tuning.first_guess) * self.tuning.overdue_factor_of_others).max(self.tuning.overdue_floor)
    }

    /// True if the piece is lacking, and can be checked when it comes.
    fn is_due(&self, piece: PieceIndex) -> bool {
        self.known.contains(piece) && !self.held.contains(piece)
    }

    /// Brings the open set up to date for one piece.
    fn reopen(&mut self, piece: PieceIndex) {
        let is_wanted = self.wants || self.sought.contains(piece);
        let open = is_wanted && self.is_due(piece) && !self.in_flight(piece);
        self.rarity.set_open(piece, open);
    }

    fn reopen_all(&mut self) {
        for piece in self.known.iter().collect::<Vec<_>>() {
            self.reopen(piece);
        }
    }

    /// Puts holders aside that are slower than the tuned part of the median.
    fn judge_rates(&mut self, now: Moment) {
        let tuning = self.tuning;
        let mut rates: Vec<f64> =
            self.neighbours.iter().filter_map(|neighbour| neighbour.meter.pace.rate(&tuning)).collect();
        self.slow_limit = (0.0, 0);
        if rates.len() < 3 {
            return;
        }
        rates.sort_unstable_by(f64::total_cmp);
        let limit = (rates[rates.len() / 2] * tuning.slow_below).min(rates[(rates.len() / tuning.slow_most).max(1)]);
        self.slow_limit.0 = limit;
        for neighbour in &mut self.neighbours {
            let slow = neighbour.meter.pace.rate(&tuning).is_some_and(|rate| rate < limit);
            if slow && neighbour.slow_until.is_none() {
                neighbour.slow_until = Some(now + tuning.slow_for);
                self.slow_check = self.slow_check.min(now + tuning.slow_for);
            }
        }
    }
}
