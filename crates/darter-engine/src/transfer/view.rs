//! The live view of a transfer (`darter top`): rates by peer, and what is overdue.
//!
//! `Flows` is updated once for each piece; its table is bounded, and forgets peers that have been
//! idle for half a minute, so that an ended swarm costs nothing.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use darter_api::Giver;
use darter_api::top::{PeerName, PeerRow, Rates, StalledPiece, SwarmDetail, SwarmRow};
use darter_core::{Moment, NodeId, PieceSet};
use darter_swarm::OpenRequest;

use super::meter::Meter;
use super::status::map_of;
use super::{Lead, Transfer, TransferState};

/// For how many peers rates are kept: more than are ever asked or served within seconds.
const MAX_FLOWS: usize = 256;

/// A peer is removed when nothing was received from it or sent to it for this long.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// Most peers in one answer.
const MAX_PEERS: usize = 256;

/// How many parts the fine map has.
const FINE_PARTS: u32 = 256;

/// Rates of receiving and sending.
#[derive(Debug, Default)]
pub(super) struct Flows {
    received: Meter,
    sent: Meter,
    origin: Meter,
    last_received: Option<Moment>,
    peers: HashMap<NodeId, Flow>,
}

/// The bytes received from and sent to one peer.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    received: Meter,
    sent: Meter,
    last_received: Option<Moment>,
    last_sent: Option<Moment>,
}

impl Flows {
    /// A piece was received and stored.
    pub(super) fn came(&mut self, now: Moment, bytes: u64, from: &Giver) {
        self.received.add(now, bytes);
        self.last_received = Some(now);
        match from {
            Giver::Origin => self.origin.add(now, bytes),
            Giver::Seed { node, .. } | Giver::Peer { node, .. } => {
                if let Some(flow) = self.flow(*node, now) {
                    flow.received.add(now, bytes);
                    flow.last_received = Some(now);
                }
            }
            Giver::Disk => {}
        }
    }

    /// A piece was sent.
    pub(super) fn went(&mut self, now: Moment, bytes: u64, to: NodeId) {
        self.sent.add(now, bytes);
        if let Some(flow) = self.flow(to, now) {
            flow.sent.add(now, bytes);
            flow.last_sent = Some(now);
        }
    }

    /// Bytes per second received from all sources.
    pub(super) fn rate(&mut self, now: Moment) -> u64 {
        self.received.rate(now)
    }

    /// Bytes per second sent to all peers.
    pub(super) fn sent_rate(&mut self, now: Moment) -> u64 {
        self.sent.rate(now)
    }

    /// Removes idle peers.
    fn forget_quiet(&mut self, now: Moment) {
        if self.peers.is_empty() {
            return;
        }
        self.peers.retain(|_, flow| {
            flow.last_received.max(flow.last_sent).is_some_and(|moved| now.since(moved) < FORGET_AFTER)
        });
        if self.peers.is_empty() {
            self.peers = HashMap::new();
        }
    }

    /// The entry of a peer; `None` while too many others are active.
    fn flow(&mut self, node: NodeId, now: Moment) -> Option<&mut Flow> {
        if self.peers.len() >= MAX_FLOWS && !self.peers.contains_key(&node) {
            self.forget_quiet(now);
            if self.peers.len() >= MAX_FLOWS {
                return None;
            }
        }
        Some(self.peers.entry(node).or_default())
    }
}

impl Transfer {
    /// Removes peers that have been idle. Called every few seconds.
    pub fn forget_quiet_peers(&self) {
        let now = self.context.now();
        self.state().flows.forget_quiet(now);
    }

    /// One row of the list of swarms.
    pub fn row(&self) -> SwarmRow {
        let now = self.context.now();
        let mut progress = self.progress();
        if progress.complete {
            // The rate of the last second means nothing for a complete blob.
            progress.rate = 0;
        }
        let missing = progress.length.map(|length| length.saturating_sub(progress.held_bytes));
        let left = missing.filter(|_| progress.rate > 0).map(|missing| missing as f64 / progress.rate as f64);
        let mut state = self.state();
        let lead = match state.lead() {
            Lead::Node(node) => Some(self.name_of(node)),
            Lead::Me | Lead::Nobody => None,
        };
        SwarmRow {
            sent: state.flows.sent.rate(now),
            leads: state.lead() == Lead::Me,
            lead,
            members: state.members(),
            left: left.filter(|_| !progress.complete),
            stalled: state.open_requests().filter(|request| request.overdue).count() as u32,
            quiet: state.flows.last_received.map(|last| now.since(last).as_secs_f64()),
            progress,
        }
    }

    /// The details.
    pub fn detail(&self) -> SwarmDetail {
        let row = self.row();
        let held = self.stored.held();
        let now = self.context.now();
        let mut state = self.state();
        let mut peers = self.peer_rows(&mut state, now);
        let mut rates = Rates { origin: state.flows.origin.rate(now), ..Rates::default() };
        for peer in &peers {
            if let Some(tier) = peer.tier {
                *rates.received.of(tier) += peer.received;
                *rates.sent.of(tier) += peer.sent;
            }
        }
        let mut overdue: Vec<StalledPiece> = state
            .open_requests()
            .filter(|request| request.overdue)
            .filter_map(|request| {
                let waited = now.since(request.moved).as_secs_f64();
                Some(StalledPiece { piece: request.piece?.0, from: self.name_of(request.peer), waited })
            })
            .collect();
        drop(state);
        overdue.sort_by(|one, other| other.waited.total_cmp(&one.waited));
        let peers_in_all = u32::try_from(peers.len()).unwrap_or(u32::MAX);
        peers.truncate(MAX_PEERS);
        SwarmDetail { fine_map: self.fine_map(&held), row, rates, peers, peers_in_all, overdue }
    }

    /// All known agents in the swarm, those with the highest rates first.
    fn peer_rows(&self, state: &mut TransferState, now: Moment) -> Vec<PeerRow> {
        let mut nodes: BTreeSet<NodeId> = state.flows.peers.keys().copied().collect();
        nodes.extend(state.session.met().iter());
        let mut holds: HashMap<NodeId, u32> = state.session.picker().holdings().collect();
        holds.extend(state.session.member_holdings());
        nodes.extend(holds.keys());
        if let Lead::Node(lead) = state.lead() {
            nodes.insert(lead);
        }
        nodes.remove(&self.context.me);
        let mut requests: HashMap<NodeId, (u32, u32)> = HashMap::new();
        for request in state.open_requests() {
            let (open, overdue) = requests.entry(request.peer).or_default();
            *open += 1;
            *overdue += u32::from(request.overdue);
        }
        let since = |moment: Option<Moment>| moment.map(|moment| now.since(moment).as_secs_f64());
        let mut rows = Vec::with_capacity(nodes.len());
        for node in nodes {
            let flow = state.flows.peers.get_mut(&node);
            let (received, sent, last_received, last_sent) = match flow {
                Some(flow) => (flow.received.rate(now), flow.sent.rate(now), flow.last_received, flow.last_sent),
                None => (0, 0, None, None),
            };
            let connected = self.fleet.peer(node);
            let (open, overdue) = requests.get(&node).copied().unwrap_or_default();
            rows.push(PeerRow {
                node,
                addr: self.fleet.address(node),
                tier: connected.as_ref().map(|peer| peer.tier),
                seed: connected.is_some_and(|peer| peer.is_seed()),
                leads: state.lead() == Lead::Node(node),
                held: holds.get(&node).copied(),
                received,
                sent,
                open,
                overdue,
                last_received: since(last_received),
                last_sent: since(last_sent),
            });
        }
        rows.sort_by(|one, other| {
            let weight = |row: &PeerRow| (row.received + row.sent, row.open);
            weight(other).cmp(&weight(one)).then_with(|| one.addr.cmp(&other.addr))
        });
        rows
    }

    fn fine_map(&self, held: &PieceSet) -> String {
        map_of(held, self.pieces_so_far(), FINE_PARTS)
    }

    fn name_of(&self, node: NodeId) -> PeerName {
        PeerName { node, addr: self.fleet.address(node) }
    }
}

impl TransferState {
    /// Requests in progress; none once the transfer has ended.
    fn open_requests(&self) -> impl Iterator<Item = OpenRequest> + '_ {
        let open = self.session.course().is_open();
        self.session.picker().open_requests().filter(move |_| open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> NodeId {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        NodeId(id)
    }

    fn from(node: NodeId) -> Giver {
        Giver::Peer { node, addr: String::new() }
    }

    #[test]
    fn who_gives_and_who_gets_is_kept_apart() {
        let mut flows = Flows::default();
        let now = Moment::ZERO + Duration::from_secs(100);
        flows.came(now, 1000, &from(peer(1)));
        flows.came(now, 500, &Giver::Origin);
        flows.went(now, 300, peer(2));
        assert_eq!((flows.rate(now), flows.origin.rate(now), flows.sent_rate(now)), (1500, 500, 300));
        assert_eq!(flows.peers.get_mut(&peer(1)).unwrap().received.rate(now), 1000);
        assert_eq!(flows.peers.get_mut(&peer(2)).unwrap().sent.rate(now), 300);
    }

    #[test]
    fn the_table_is_bounded_and_forgets() {
        let mut flows = Flows::default();
        let now = Moment::ZERO + Duration::from_secs(100);
        for number in 0..2 * MAX_FLOWS as u32 {
            flows.went(now, 1, peer(number));
        }
        assert_eq!(flows.peers.len(), MAX_FLOWS);
        assert_eq!(flows.sent.rate(now), 2 * MAX_FLOWS as u64, "the sum misses nobody");
        let later = now + FORGET_AFTER;
        flows.went(later, 1, peer(9999));
        assert_eq!(flows.peers.len(), 1, "the quiet ones made room");
        flows.forget_quiet(later + FORGET_AFTER);
        assert_eq!(flows.peers.capacity(), 0);
    }
}
