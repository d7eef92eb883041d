//! A node that wants parts of a blob, while others do, too: hosts that start the same image at the same moment.
//!
//! Such a node requests the pieces that it needs by name. If all of them did so at once, the lead would send each piece to each of them. So
//! while there are several, they are an ordinary swarm over the pieces that they *seek*: those for which their readers wait and those that are foreseen.
//! The lead is asked for any of these (it knows them by [`Message::Want`](darter_protocol::Message), and sends those that nobody has first), and
//! neighbours for the rarest. A node that is alone requests by name, as many at a time as its link needs.
//!
//! A piece for which a reader waits, and that no neighbour is known to hold, is on its way to one of them or about to be. The lead is asked for
//! it by name only after a while, and requests are given up sooner than for a whole blob: a start is over in a second.
//!
//! If nothing is foreseen, nodes that are ahead show those that are behind which pieces come next: a piece that arrives at a neighbour with the
//! same order of reads so far is sought, too, as a *hint*. A neighbour has the same order if readers here waited for all but a few of the pieces
//! that it holds; so a neighbour that fetches everything, or runs another program, costs no more than these few pieces. Hints are used only while
//! readers here wait now and then.
//!
//! Invariant: while not everything is wanted, `sought` has exactly the pieces for which readers wait, those that are foreseen, and the hints.

use std::ops::Range;
use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex, PieceSet, Tier};

use crate::locality::fetcher_rank;
use crate::picker::neighbour::Neighbour;
use crate::picker::{Picker, Request};
use crate::tuning::Tuning;

/// Pieces of one reader, or of one foreseen stretch, that are sought at a time.
const MAX_SOUGHT: u32 = 1024;

/// Hints that are sought at a time.
const MAX_HINTS: usize = 64;

impl Picker {
    /// Says whether the lead answers asks for any piece with one for which this node told it that it waits. Leads of older releases don't.
    pub(crate) const fn lead_gives_parts(&mut self, gives: bool) {
        self.lead_gives_parts = gives;
    }

    /// True if this node wants parts, and so do others that were met or came to hold a piece a short time ago.
    pub(super) fn is_among_starters(&self, now: Moment) -> bool {
        let is_asked = self.lead_gives_parts && self.lead.is_some();
        let are_active = self.stirred.is_some_and(|stirred| now < stirred + self.tuning.starters_for);
        !self.wants && is_asked && are_active && self.has_others()
    }

    fn has_others(&self) -> bool {
        self.neighbours.iter().any(|peer| self.starts(peer.wants, &peer.held))
    }

    /// True if a neighbour that `wants` pieces and holds `held` wants only parts: it does not want everything, and lacks some pieces.
    pub(super) fn starts(&self, wants: bool, held: &PieceSet) -> bool {
        !wants && self.total.is_some_and(|total| held.len() < total)
    }

    /// A neighbour that wanted parts says that it wants everything now. Returns false if it is another one, or has lost pieces: then it is met like a new
    /// neighbour.
    pub(super) fn wants_more(&mut self, peer: NodeId, tier: Tier, wants: bool, held: &PieceSet) -> bool {
        let is_it = |it: &Neighbour| it.id == peer && it.tier == tier && !it.wants && !held.lacks_some_of(&it.held);
        let Some(at) = self.neighbours.iter().position(is_it).filter(|_| wants) else { return false };
        let fresh: Vec<_> = held.difference(&self.neighbours[at].held).collect();
        for piece in fresh {
            self.neighbours[at].held.insert(piece);
            self.rarity.add_holder(piece);
        }
        self.neighbours[at].wants = true;
        self.turns = [const { Vec::new() }; 5];
        true
    }

    /// Notes when other nodes come that start the same program: asks for any piece then replace the requests to the lead by name. And looks again when they have
    /// received nothing for too long to count.
    pub(super) fn note_starters(&mut self, now: Moment) {
        let is_among = self.is_among_starters(now);
        if let Some(stirred) = self.stirred.filter(|_| is_among) {
            self.wake_at(stirred + self.tuning.starters_for);
        }
        let was_alone = !std::mem::replace(&mut self.was_among, is_among);
        if is_among && was_alone {
            // They have requested the same piece, unless they hold it already: a piece that is on its way would come twice.
            let is_shared = |request: &&Request| {
                let piece = request.piece.filter(|_| request.neighbour.is_none() && request.began.is_none());
                piece.is_some_and(|piece| self.rarity.holders(piece) == 0)
            };
            let shared: Vec<_> = self.requests.iter().filter(is_shared).map(|request| request.id).collect();
            self.cancel_where(|request| shared.contains(&request.id));
        }
    }

    /// How many open pieces the lead is to be asked for: those that no reliable neighbour holds.
    pub(super) fn left_to_lead(&self, now: Moment) -> usize {
        let gives = |piece: &PieceIndex| {
            let holders = self.neighbours.iter().filter(|peer| peer.held.contains(*piece));
            holders.into_iter().any(|peer| peer.is_ready(now) && !peer.meter.is_failing())
        };
        self.rarity.open().iter().filter(|piece| !gives(piece)).count()
    }

    /// Brings `sought` up to date, and the open pieces with it.
    pub(super) fn seek(&mut self) {
        if self.wants {
            return;
        }
        let readers = self.readers.values().map(|reader| reader.at.0..reader.at.0.saturating_add(reader.count.max(1)));
        let within = |run: Range<u32>| run.start..run.end.min(run.start.saturating_add(MAX_SOUGHT));
        let runs = readers.chain(self.foreseen.values().cloned()).flat_map(within);
        let sought: PieceSet =
            runs.chain(self.hints.iter().map(|piece| piece.0)).map(PieceIndex).filter(|it| self.can_be(*it)).collect();
        let before = std::mem::replace(&mut self.sought, sought);
        let changed: Vec<_> = before.difference(&self.sought).chain(self.sought.difference(&before)).collect();
        changed.into_iter().for_each(|piece| self.reopen(piece));
    }

    /// A reader began to wait for these pieces.
    pub(super) fn waits_for(&mut self, piece: PieceIndex, count: u32, now: Moment) {
        if !self.wants {
            let run = piece.0..piece.0.saturating_add(count.clamp(1, MAX_SOUGHT));
            run.map(PieceIndex).filter(|it| self.can_be(*it)).collect::<Vec<_>>().into_iter().for_each(|it| {
                self.waited_for.insert(it);
            });
            self.waited = Some(now);
        }
    }

    /// A neighbour came to hold these pieces: the pieces that it needs may be needed here next. Returns true if some of them are sought now.
    pub(crate) fn follow(&mut self, peer: NodeId, pieces: &[PieceIndex], now: Moment) -> bool {
        let starter = self.neighbours.iter().find(|it| it.id == peer && self.starts(it.wants, &it.held));
        let Some(is_same) = starter.map(|starter| self.goes_the_same_way(starter)) else { return false };
        self.stirred = Some(now);
        let is_starting = self.waited.is_some_and(|waited| now < waited + self.tuning.hints_for);
        if !is_starting || !is_same || !self.is_among_starters(now) {
            return false;
        }
        self.hints.retain(|hint| !self.held.contains(*hint));
        let before = self.hints.len();
        let fresh =
            pieces.iter().filter(|it| self.can_be(**it) && !self.held.contains(**it) && !self.sought.contains(**it));
        let fresh: Vec<_> = fresh.copied().take(MAX_HINTS.saturating_sub(before)).collect();
        self.hints.extend(fresh);
        let follows = self.hints.len() > before;
        if follows {
            self.seek();
        }
        follows
    }

    fn goes_the_same_way(&self, neighbour: &Neighbour) -> bool {
        let other = neighbour.held.difference(&self.waited_for).count();
        let same = neighbour.held.len() as usize - other;
        other <= same + self.tuning.hints_free
    }

    /// True if pieces are sought because other nodes needed them.
    pub(crate) fn has_hints(&self) -> bool {
        self.hints.iter().any(|hint| !self.held.contains(*hint))
    }

    /// Forgets hints when no reader has waited for a while.
    pub(super) fn drop_hints(&mut self, now: Moment) {
        let Some(waited) = self.waited.filter(|_| !self.hints.is_empty()) else { return };
        let end = waited + self.tuning.hints_for * 2;
        if end > now {
            return self.wake_at(end);
        }
        self.hints.clear();
        self.seek();
    }

    /// How long a reader waits for a piece that no neighbour holds until the lead is asked for it by name: as long as it takes to send
    /// one piece to each of the others.
    pub(super) fn patience_with_others(&self) -> Duration {
        let others = self.neighbours.iter().filter(|peer| self.starts(peer.wants, &peer.held)).count();
        let usual = self.usual_piece_time().unwrap_or_default();
        (usual * u32::try_from(others + 1).unwrap_or(u32::MAX))
            .clamp(self.tuning.parts_patience, self.tuning.parts_patience * 3)
    }

    /// True if so few nodes hold a piece, for which a reader has waited since `since`, that this node lets others get it first and pass it on: if all requested it
    /// at once, its holder would send it to all of them late. The number of holders doubles in each turn.
    pub(super) fn leaves_to_others(&mut self, piece: PieceIndex, since: Moment, now: Moment) -> bool {
        if !self.is_among_starters(now) {
            return false;
        }
        let has_it = |peer: &&Neighbour| peer.held.contains(piece) && peer.is_ready(now) && !peer.meter.is_failing();
        let holders = self.neighbours.iter().filter(has_it).count();
        let lacks_it = |peer: &&Neighbour| !peer.held.contains(piece) && self.starts(peer.wants, &peer.held);
        let rivals = self.neighbours.iter().filter(lacks_it).map(|peer| &peer.id);
        let rank = fetcher_rank(&self.me, rivals, piece) as usize;
        if holders == 0 || rank < holders {
            return false;
        }
        let turn = self.usual_piece_time().unwrap_or_default() + self.tuning.parts_turn;
        let turns = (rank / holders).ilog2() + 1;
        let due = since + (turn * turns).min(self.tuning.parts_patience);
        if due > now {
            self.wake_at(due);
            self.left_to_others.push(piece);
        }
        due > now
    }

    /// The tuning that is in effect: the requests of a start are given up sooner if others that start, too, may be asked.
    pub(super) fn tuning_now(&self) -> Tuning {
        if self.wants || !self.has_others() {
            return self.tuning;
        }
        let guess = Duration::from_secs_f64(self.piece_bytes as f64 / self.tuning.parts_rate);
        Tuning {
            overdue_floor: self.tuning.parts_floor,
            first_guess: guess.min(self.tuning.first_guess),
            ..self.tuning
        }
    }

    /// The place of `request` in its holder's queue, if several nodes start the same program and know what comes next. Many requests are open at each holder then;
    /// later requests must not delay the moment at which this node notices that the first one gets no answer.
    pub(super) fn place_in_queue(&self, request: &Request) -> Option<u32> {
        if self.wants || self.foreseen.is_empty() || request.neighbour.is_none() || !self.has_others() {
            return None;
        }
        let before = |other: &&Request| other.neighbour == request.neighbour && other.id <= request.id;
        u32::try_from(self.requests.iter().filter(before).count()).ok()
    }

    /// The moment before which a request made now is not overdue.
    pub(super) fn may_be_overdue_at(&self, now: Moment) -> Moment {
        now + if self.wants {
            self.tuning.overdue_floor
        } else {
            self.tuning.overdue_floor.min(self.tuning.parts_floor)
        }
    }
}
