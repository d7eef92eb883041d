//! One simulated node: its picker, its store, and the state of its link.

use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex, Place};
use darter_swarm::{Lead, Picker, Tuning};

use crate::scenario::NodeSpec;
use crate::uploads::Uploads;

/// Pieces that a node sends at a time.
pub(crate) const SLOTS: u32 = 4;

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) place: Place,
    /// Bytes per second.
    pub(crate) up: f64,
    pub(crate) down: f64,
    pub(crate) alive: bool,
    /// Tells this life from earlier ones: transfers of an earlier life are void.
    pub(crate) life: u32,
    pub(crate) honest: bool,
    pub(crate) hung: bool,
    pub(crate) wants: bool,
    pub(crate) picker: Picker,
    pub(crate) lead: Option<Box<Lead>>,
    /// What lies on its disk: per piece its content, as a number that stands for the bytes.
    pub(crate) store: Vec<Option<u64>>,
    pub(crate) links: Vec<u32>,
    /// New pieces that its neighbours, and the lead, are still to be told of.
    pub(crate) untold: Vec<PieceIndex>,
    pub(crate) untold_to_lead: Vec<PieceIndex>,
    pub(crate) uploads: Uploads,
    /// When the links will have sent and received what is under way.
    pub(crate) up_free: Moment,
    pub(crate) down_free: Moment,
    /// The moment for which a poll stands in the queue.
    pub(crate) poll_at: Option<Moment>,
    pub(crate) lead_wake: Option<Moment>,
    pub(crate) joined: Moment,
    pub(crate) finished: Option<Moment>,
    /// Where its reader stands.
    pub(crate) reader: Option<(PieceIndex, Duration)>,
}

impl Node {
    pub(crate) fn new(index: u32, spec: &NodeSpec, pieces: u32, piece_bytes: u64, tuning: Tuning, seed: u64) -> Self {
        let id = id_of(index);
        Self {
            id,
            place: spec.place.clone(),
            up: spec.up.bytes_per_second() as f64,
            down: spec.down.bytes_per_second() as f64,
            alive: false,
            life: 0,
            honest: true,
            hung: false,
            wants: index != 0,
            picker: Picker::new(id, piece_bytes, tuning, seed),
            lead: None,
            store: vec![None; pieces as usize],
            links: Vec::new(),
            untold: Vec::new(),
            untold_to_lead: Vec::new(),
            uploads: Uploads::default(),
            up_free: Moment::ZERO,
            down_free: Moment::ZERO,
            poll_at: None,
            lead_wake: None,
            joined: Moment::ZERO,
            finished: None,
            reader: None,
        }
    }

    pub(crate) fn holds(&self, piece: PieceIndex) -> bool {
        self.store[piece.as_usize()].is_some()
    }
}

/// The id of the node with this index: the index, then scattered bits for rendezvous hashing.
pub(crate) fn id_of(index: u32) -> NodeId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&index.to_le_bytes());
    bytes[4..12].copy_from_slice(&content(index).to_le_bytes());
    NodeId(bytes)
}

pub(crate) fn index_of(id: NodeId) -> u32 {
    u32::from_le_bytes([id.0[0], id.0[1], id.0[2], id.0[3]])
}

/// The right content of a piece: a number that nobody hits by chance.
pub(crate) const fn content(piece: u32) -> u64 {
    let value = (piece as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value ^ (value >> 29)
}
