//! A fleet at the start of its scenario: nodes, places, links, and the events to come. Goes on with `impl Fleet`.

use std::collections::BTreeMap;

use darter_core::{Moment, PieceIndex, Place};
use darter_scenario::Event as Happening;
use darter_swarm::{Came, Input, Start};

use super::{BusyLink, Fleet};
use crate::events::Troubles;
use crate::hashes::Blob;
use crate::letters::Mail;
use crate::node::{Node, Spot, WHOLE, scattered};
use crate::queue::{Queue, What};
use crate::report::Report;
use crate::scenario::Scenario;
use crate::uploads::Limits;

/// Pieces that a node sends at a time.
const SLOTS: u32 = 4;

impl Fleet {
    /// A fleet at the start of a scenario.
    ///
    /// # Panics
    /// When the scenario has no node, or an operation names a node that it doesn't have.
    pub fn new(scenario: &Scenario) -> Self {
        assert!(!scenario.nodes.is_empty(), "a scenario has a seed");
        let mut tuning = scenario.tuning;
        if let Some(pause) = scenario.tell_lead_pause {
            (tuning.tell_lead_soon, tuning.tell_lead_late) = (pause, pause);
        }
        let nodes = (0..).zip(&scenario.nodes).map(|(index, spec)| {
            let seed = scenario.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ scattered(index);
            let (pieces, starts) = ((scenario.pieces, scenario.piece_bytes), scenario.starts.as_ref());
            Node::new(index, spec, pieces, tuning, (seed, scenario.records), starts)
        });
        let network = scenario.network;
        let grain = network.grain.unwrap_or_else(|| (scenario.piece_bytes / 4).max(64 << 10));
        let of_piece = scenario.piece_bytes.div_ceil(grain.max(1)).max(1);
        let grain = scenario.piece_bytes as f64 / of_piece as f64;
        let limits = Limits {
            slots: SLOTS,
            of_piece: of_piece as u32,
            unsent: network.unsent,
            grain: grain as u32,
            window: ((network.window as f64 / grain) as u32).max(2),
        };
        let shared = scenario.links.iter().map(|link| BusyLink {
            rate: link.rate.bytes_per_second() as f64,
            out_free: Moment::ZERO,
            in_free: Moment::ZERO,
        });
        let mut fleet = Self {
            now: Moment::ZERO,
            queue: Queue::default(),
            nodes: nodes.collect(),
            down_free: vec![Moment::ZERO; scenario.nodes.len()],
            shared: shared.collect(),
            books: 0,
            blob: Blob::new(
                scenario.pieces,
                scenario.piece_bytes,
                scenario.nodes.iter().map(|node| node.place.clone()).collect(),
            ),
            mail: Mail::default(),
            known: 0,
            pieces: scenario.pieces,
            piece_bytes: scenario.piece_bytes,
            origin: scenario.origin.map_or(1e15, |rate| rate.bytes_per_second() as f64),
            origin_each: scenario.origin_each.map_or(f64::INFINITY, |rate| rate.bytes_per_second() as f64),
            origin_connections: scenario.origin_connections,
            network,
            grain,
            limits,
            sample_every: scenario.sample_every,
            seed: scenario.seed,
            report: Report::default(),
            troubles: Troubles::default(),
            crossings: BTreeMap::new(),
            events: scenario.events.clone(),
            events_left: scenario.events.len(),
            patience: scenario.patience,
            waiting_for: 0,
            limit: Moment::ZERO + scenario.limit,
            outputs: Vec::new(),
        };
        fleet.place(scenario);
        fleet.start(scenario);
        fleet
    }

    /// Numbers the places, and puts nodes behind the links that they share.
    fn place(&mut self, scenario: &Scenario) {
        let mut numbers: BTreeMap<(&str, &str, &str), u32> = BTreeMap::new();
        for (node, spec) in self.nodes.iter_mut().zip(&scenario.nodes) {
            let Place { region, zone, rack, .. } = &spec.place;
            let mut number = |names| {
                let next = numbers.len() as u32;
                *numbers.entry(names).or_insert(next)
            };
            node.spot = Spot {
                region: number((region, "", "")),
                zone: number((region, zone, "")),
                rack: number((region, zone, rack)),
            };
            let is_inside = |place: &Place| {
                (place.region == *region && place.zone == *zone) && (place.rack.is_empty() || place.rack == *rack)
            };
            let behind = (0..).zip(&scenario.links).filter(|(_, link)| is_inside(&link.place)).map(|(at, _)| at);
            node.behind = behind.collect();
        }
    }

    fn start(&mut self, scenario: &Scenario) {
        let joins = (0..).zip(&scenario.nodes).skip(1);
        self.events.extend(joins.filter_map(|(index, spec)| Some((spec.joins?, Happening::Join(index)))));
        self.events_left = self.events.len();
        for (at, (when, _)) in self.events.iter().enumerate() {
            self.queue.push(Moment::ZERO + *when, What::Event(at as u32));
        }
        self.nodes[0].alive = true;
        let holds = |index: usize| scenario.nodes[index].holds || (index == 0 && scenario.origin.is_none());
        if (0..scenario.nodes.len()).any(holds) {
            self.known = self.pieces;
            for index in (0..scenario.nodes.len()).filter(|index| holds(*index)) {
                self.learn(index as u32, self.pieces);
                for piece in (0..self.pieces).map(PieceIndex) {
                    let came = Came { piece, bytes: self.piece_bytes, request: None, from: None };
                    self.tell(index as u32, Input::Again(came));
                }
                self.nodes[index].session.resumes(Some(WHOLE), true);
            }
        }
        if scenario.forges {
            self.forges();
        }
        self.lead_by(0, Start::Fresh);
    }
}
