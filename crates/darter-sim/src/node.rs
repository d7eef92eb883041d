//! One simulated node: its picker, and the state of its cable.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use darter_core::{BlobId, Moment, NodeId, PieceHash, PieceIndex, PieceLength, PieceSet, Tier};
use darter_protocol::Verdict;
use darter_scenario::Lie;
use darter_swarm::asking::Survey;
use darter_swarm::{Leadership, LetDowns, Session, SessionStart, Tuning};

use crate::leading::Leading;
use crate::queue::Arrival;
use crate::scenario::{NodeSpec, Starts};
use crate::starters::Program;
use crate::uploads::Uploads;

/// The blob of a run, and its source.
pub const BLOB: BlobId = BlobId([0xb1; 32]);

/// The verdict on the whole.
pub(crate) const WHOLE: Verdict = Verdict { root: PieceHash([0; 32]), digest: None };

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// Bytes per second.
    pub(crate) up: f64,
    pub(crate) down: f64,
    /// When its cable will have taken up the grain under way and the hashes that it tells, in microseconds.
    up_free: f64,
    pub(crate) alive: bool,
    /// Tells this life from earlier ones: transfers of an earlier life are void. Wraps; none lasts 256 lives.
    pub(crate) life: u8,
    pub(crate) honest: bool,
    /// Its lie, instead of giving what it holds.
    pub(crate) lie: Option<Lie>,
    /// Pieces on its disk that are not what they were.
    pub(crate) rotten: PieceSet,
    /// Pieces since its disk is full.
    pub(crate) passing: Option<Passing>,
    /// How far its clock has jumped ahead of the others'.
    pub(crate) ahead: Duration,
    pub(crate) wants: bool,
    /// The program that reads it, if it does not want everything.
    pub(crate) program: Option<Program>,
    /// How its session began.
    pub(crate) start: SessionStart,
    pub(crate) session: Session,
    /// Its state as a lead.
    pub(crate) leading: Leading,
    /// Nodes that asked it, besides its neighbours.
    pub(crate) acquainted: BTreeSet<NodeId>,
    /// The survey of a node that asks around.
    pub(crate) survey: Option<Survey>,
    /// How many hashes its store has, from the first on.
    pub(crate) known: u32,
    /// True if these are hashes that a false seed made up.
    pub(crate) is_forged: bool,
    /// The leads that let it down.
    pub(crate) let_downs: LetDowns,
    /// Pieces that came before their hashes.
    pub(crate) unproven: Vec<Arrival>,
    /// When what it told last of its own pieces arrives.
    pub(crate) told_at: Moment,
    /// The node that it has asked to lead it.
    pub(crate) asks: Option<u32>,
    pub(crate) uploads: Uploads,
    /// The moment for which a poll stands in the queue.
    pub(crate) poll_at: Option<Moment>,
    /// The moment for which a look at whether there is something to poll for stands in the queue.
    pub(crate) wake_at: Option<Moment>,
    pub(crate) joined: Moment,
    pub(crate) finished: Option<Moment>,
    /// The most pieces that it ever held behind the first one that it lacked.
    pub(crate) max_lag: u32,
    /// The piece that its reader is at.
    pub(crate) reader: Option<PieceIndex>,
    /// Which shared links lie between it and everybody outside.
    pub(crate) behind: Vec<u16>,
    pub(crate) spot: Spot,
}

/// Pieces that a node has no room for, as `Passing` of `darter-store` has them: in memory as long as there is a window's room, then
/// forgotten.
#[derive(Debug, Default)]
pub(crate) struct Passing {
    /// Oldest first.
    pub(crate) aside: VecDeque<PieceIndex>,
    pub(crate) forgotten: PieceSet,
}

/// A place as numbers: comparing texts for each transfer would be slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) region: u32,
    pub(crate) zone: u32,
    pub(crate) rack: u32,
}

impl Spot {
    /// How far apart two nodes are; the host doesn't matter here.
    pub(crate) fn tier_to(self, other: Self) -> Tier {
        if self.region != other.region {
            Tier::Far
        } else if self.zone != other.zone {
            Tier::Region
        } else if self.rack != other.rack {
            Tier::Zone
        } else {
            Tier::Rack
        }
    }
}

impl Node {
    pub(crate) fn new(
        index: u32,
        spec: &NodeSpec,
        (pieces, piece_bytes): (u32, u64),
        tuning: Tuning,
        (seed, records): (u64, bool),
        starts: Option<&Starts>,
    ) -> Self {
        let program = starts.filter(|_| index != 0 && !spec.holds).cloned();
        let id = id_of(index);
        let start = SessionStart {
            me: id,
            source: BLOB,
            blob: BLOB,
            may_follow: index != 0,
            pieces: PieceLength::UNKNOWN_BLOB,
            piece_bytes,
            total: Some(pieces),
            hashes: Vec::new(),
            known: PieceSet::new(),
            held: PieceSet::new(),
            // Everybody here knows the verdict.
            verdict: Some(WHOLE),
            is_complete: false,
            everything: program.is_none(),
            seed,
            tuning,
            now: Moment::ZERO,
        };
        let mut session = Session::begin(start.clone());
        session.record_decisions();
        if records {
            session.record(start.clone());
        }
        Self {
            id,
            up: spec.up.bytes_per_second() as f64,
            down: spec.down.bytes_per_second() as f64,
            up_free: 0.0,
            alive: false,
            life: 0,
            honest: true,
            lie: None,
            rotten: PieceSet::new(),
            passing: None,
            ahead: Duration::ZERO,
            wants: index != 0 && !spec.holds,
            program: program.map(Program::new),
            start,
            session,
            leading: Leading::default(),
            acquainted: BTreeSet::new(),
            survey: None,
            known: 0,
            is_forged: false,
            let_downs: LetDowns::default(),
            unproven: Vec::new(),
            told_at: Moment::ZERO,
            asks: None,
            uploads: Uploads::default(),
            poll_at: None,
            wake_at: None,
            joined: Moment::ZERO,
            finished: None,
            max_lag: 0,
            reader: None,
            behind: Vec::new(),
            spot: Spot::default(),
        }
    }

    /// True if it has all that it wants.
    pub(crate) fn has_all(&self) -> bool {
        self.program.as_ref().map_or_else(|| self.session.picker().is_complete(), Program::is_through)
    }

    /// The leadership as a node that starts knows it. The seed follows nobody.
    pub(crate) fn leadership(index: u32) -> Leadership {
        let mut leadership = Leadership::new(id_of(index), BLOB, BLOB, index != 0);
        leadership.record();
        leadership
    }

    pub(crate) fn holds(&self, piece: PieceIndex) -> bool {
        let is_forgotten = |passing: &Passing| passing.forgotten.contains(piece);
        self.session.picker().held().contains(piece) && !self.passing.as_ref().is_some_and(is_forgotten)
    }

    /// The present by its own clock, at a moment of the fleet's.
    pub(crate) fn clock(&self, now: Moment) -> Moment {
        now + self.ahead
    }

    /// When its own clock will show a moment, in the fleet's time.
    pub(crate) fn when(&self, shows: Moment) -> Moment {
        Moment::ZERO + shows.since(Moment::ZERO + self.ahead)
    }

    /// Has the node's cable take up something that lasts `micros` microseconds, behind what it is taking up. Returns when it is through.
    pub(crate) fn take_up(&mut self, micros: f64, now: Moment) -> Moment {
        self.up_free = self.up_free.max(now.as_micros() as f64) + micros;
        Moment::from_micros(self.up_free as u64)
    }
}

/// The id of the node with this index: the index, then scattered bits for rendezvous hashing.
pub fn id_of(index: u32) -> NodeId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&index.to_le_bytes());
    bytes[4..12].copy_from_slice(&scattered(index).to_le_bytes());
    NodeId(bytes)
}

pub(crate) const fn index_of(id: NodeId) -> u32 {
    u32::from_le_bytes([id.0[0], id.0[1], id.0[2], id.0[3]])
}

pub(crate) const fn scattered(index: u32) -> u64 {
    let value = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value ^ (value >> 29)
}
