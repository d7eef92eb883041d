//! A fleet as the simulator has it: who is there, how they are connected, and with which constants they decide. Events and their times are
//! told in the words of `darter-scenario`.

use std::time::Duration;

use darter_core::{Place, Rate};
use darter_scenario::{Event, Lie};
use darter_swarm::Tuning;

/// How long a reader in order stands still before its piece becomes urgent: what an agent's stream says.
const URGENT_AFTER: Duration = Duration::from_secs(1);

/// One node of a scenario.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its place: rack, zone and region.
    pub place: Place,
    /// Its rate up.
    pub up: Rate,
    /// Its rate down.
    pub down: Rate,
    /// When it joins; never by itself if `None` (an [`Event::Join`] may still make it).
    pub joins: Option<Duration>,
    /// True if it holds the blob from the start and only serves it: a further seed.
    pub holds: bool,
}

/// A link that all nodes of a rack, or of a zone, share towards everybody else.
#[derive(Clone, Debug)]
pub struct SharedLink {
    /// The place whose link it is: nodes in the same region and zone, and the same rack if `rack` is named.
    pub place: Place,
    /// Its rate, each way.
    pub rate: Rate,
}

/// The network between the nodes, and how much it holds. The defaults are those of a data centre.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// Time of a message from one node to another, one way, when nothing is in its way.
    pub latency: Duration,
    /// Latency between racks besides.
    pub rack_latency: Duration,
    /// Latency between zones besides.
    pub zone_latency: Duration,
    /// The longest that a control message waits for data on a busy cable, at each end.
    pub queue: Duration,
    /// Connections of a node share its cable in turns of this many bytes, as far as pieces are divisible. `None` for a quarter of a
    /// piece, and no less than 64 KiB: finer ones take time to run and change little.
    pub grain: Option<u64>,
    /// A piece is written, and its slot free, when no more bytes than this wait in the socket unsent. `None` for what agents decide by
    /// each connection's rate.
    pub unsent: Option<u32>,
    /// Bytes that a connection may have on their way; two grains at least.
    pub window: u64,
    /// True if a receiver notices when the answer to a request for a named piece begins. Agents do for asks alone.
    pub tells_begun: bool,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(200),
            rack_latency: Duration::ZERO,
            zone_latency: Duration::from_millis(1),
            queue: Duration::from_millis(2),
            grain: None,
            unsent: None,
            window: 256 << 10,
            tells_begun: false,
        }
    }
}

/// The pieces that nodes read that start something out of the blob, instead of wanting all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Starts {
    /// The pieces that a program reads, in its order: it waits for each.
    pub touched: Vec<u32>,
    /// True if nodes know that list from the start, as by a first-touch profile.
    pub is_listed: bool,
}

impl Starts {
    /// So many of a blob's pieces, none beside the one that is read before it.
    pub fn scattered(count: u32, of: u32, is_listed: bool) -> Self {
        let mut touched: Vec<u32> = (0..of).collect();
        touched.sort_by_key(|piece| crate::node::scattered(*piece));
        touched.truncate(count as usize);
        Self { touched, is_listed }
    }
}

/// A fleet and what happens to it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The nodes; the first is the seed and joins by itself at the start.
    pub nodes: Vec<NodeSpec>,
    /// How many pieces the blob has.
    pub pieces: u32,
    /// Bytes in each piece.
    pub piece_bytes: u64,
    /// How fast the origin sends; `None`: the seed holds the blob from the start, and a node that takes over the lead reads it at once.
    pub origin: Option<Rate>,
    /// The rate that the origin gives one connection, if it limits each.
    pub origin_each: Option<Rate>,
    /// Connections by which a lead may read the origin at a time.
    pub origin_connections: u8,
    /// Cables and sockets.
    pub network: Network,
    /// Links that racks and zones share.
    pub links: Vec<SharedLink>,
    /// How often the report takes note of what every node holds; never if `None`.
    pub sample_every: Option<Duration>,
    /// How long a node gathers new pieces before it tells the lead; what [`Tuning::tell_lead_pause`] says if `None`.
    pub tell_lead_pause: Option<Duration>,
    /// The pieces that each node reads that joins, if it does not want everything.
    pub starts: Option<Starts>,
    /// Events, each with how long after the start.
    pub events: Vec<(Duration, Event)>,
    /// How long a reader in order stands still before its piece becomes urgent.
    pub patience: Duration,
    /// The constants of picker and lead.
    pub tuning: Tuning,
    /// The seed of all randomness.
    pub seed: u64,
    /// Virtual time after which the run ends, finished or not.
    pub limit: Duration,
    /// True if the seed makes up the hashes of all pieces. It reads nothing of the origin, and gives nothing.
    pub forges: bool,
    /// True if what each session is told and does is kept ([`Fleet::run_recorded`](crate::Fleet::run_recorded)).
    pub records: bool,
}

impl Scenario {
    /// `nodes` equal nodes and a seed, at `rate` up and down, in one rack. The seed holds the blob.
    pub fn equal(nodes: usize, pieces: u32, piece_bytes: u64, rate: Rate) -> Self {
        let spec =
            NodeSpec { place: Place::default(), up: rate, down: rate, joins: Some(Duration::ZERO), holds: false };
        Self {
            nodes: vec![spec; nodes + 1],
            pieces,
            piece_bytes,
            origin: None,
            origin_each: None,
            origin_connections: 1,
            network: Network::default(),
            links: Vec::new(),
            sample_every: None,
            tell_lead_pause: None,
            starts: None,
            events: Vec::new(),
            patience: URGENT_AFTER,
            tuning: Tuning::default(),
            seed: 1,
            limit: Duration::from_secs(3600),
            forges: false,
            records: false,
        }
    }

    /// Has every node that joins by itself read the blob in order from then on.
    pub fn read_in_order(&mut self) {
        let joins = (0..).zip(&self.nodes).skip(1).filter_map(|(node, spec)| Some((node, spec.joins?)));
        let reads = joins.map(|(node, at)| (at, Event::Read { node, from: 0 }));
        self.events.extend(reads.collect::<Vec<_>>());
    }

    /// Has a node lie from the start.
    pub fn lie(&mut self, node: u32, how: Lie) {
        self.events.push((Duration::ZERO, Event::Lie { node, how }));
        if how == Lie::Vanish {
            self.events.push((self.least_time() / 2, Event::Kill(node)));
        }
    }

    /// How many pieces each node wants.
    pub fn wanted(&self) -> u32 {
        self.starts.as_ref().map_or(self.pieces, |starts| starts.touched.len() as u32)
    }

    /// Length of the blob in bytes.
    pub const fn bytes(&self) -> u64 {
        self.pieces as u64 * self.piece_bytes
    }

    /// The least time in which the blob, or what is wanted of it, can reach all nodes that want it, if all are there from the start. Several seeds count
    /// as one; shared links are left out.
    pub fn least_time(&self) -> Duration {
        let (seeds, nodes): (Vec<_>, Vec<_>) =
            self.nodes.iter().enumerate().partition(|(index, node)| *index == 0 || node.holds);
        let rates: Vec<(Rate, Rate)> = nodes.iter().map(|(_, node)| (node.up, node.down)).collect();
        let up = seeds.iter().map(|(_, node)| node.up.bytes_per_second()).sum();
        let Some(up) = Rate::from_bytes_per_second(up) else { return Duration::ZERO };
        let wanted = u64::from(self.wanted()) * self.piece_bytes;
        let swarm = darter_swarm::bound::least_time(wanted, up, &rates);
        let each = self.origin_each.map_or(f64::INFINITY, |rate| rate.bytes_per_second() as f64);
        let most = each * f64::from(self.origin_connections.max(1));
        let origin = self.origin.map_or(0.0, |rate| wanted as f64 / most.min(rate.bytes_per_second() as f64));
        swarm.max(Duration::from_secs_f64(origin))
    }
}
