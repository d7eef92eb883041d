//! The language of scenarios: who is there, and what happens when.

use std::time::Duration;

use darter_core::{Place, Rate};
use darter_swarm::Tuning;

/// One node of a scenario.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Where it stands.
    pub place: Place,
    /// Its rate up.
    pub up: Rate,
    /// Its rate down.
    pub down: Rate,
    /// When it joins; never by itself if `None` (an [`Operation::Join`] may still make it).
    pub joins: Option<Duration>,
}

/// Something that happens to a fleet. Nodes are named by their index: zero is the seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A node starts, with what it held before if it was there already, and wants the blob.
    Join(usize),
    /// A node goes in good order: others know at once.
    Leave(usize),
    /// A node dies: others find out after a while.
    Kill(usize),
    /// Two nodes can't reach each other any more. The link of a node to the lead can't be cut.
    Lose(usize, usize),
    /// Every piece that a node sends is wrong from now on.
    Corrupt(usize),
    /// A node's rates are divided by this.
    SlowDown(usize, u32),
    /// A node stops answering requests, though it stays connected.
    Hang(usize),
    /// Whoever leads dies.
    KillLead,
    /// The seed starts again with what it had on disk, and leads.
    RestartSeed,
    /// A reader in order starts at a node, at the given piece.
    Read {
        /// The node.
        node: usize,
        /// The first piece it reads.
        from: u32,
        /// How long it may stand still.
        patience: Duration,
    },
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
    /// How fast the origin sends; `None` means that the seed holds the blob from the start.
    pub origin: Option<Rate>,
    /// Time of a control message from one node to another, and a transfer's extra time.
    pub latency: Duration,
    /// How long a node gathers new pieces before it tells its neighbours of them: the daemon's 10 ms.
    pub tell_pause: Duration,
    /// The same for what it tells the lead: 10 ms, too.
    pub tell_lead_pause: Duration,
    /// What happens, and when.
    pub operations: Vec<(Duration, Operation)>,
    /// The constants of picker and lead.
    pub tuning: Tuning,
    /// Whence all randomness comes.
    pub seed: u64,
    /// Virtual time after which the run ends, finished or not.
    pub limit: Duration,
}

impl Scenario {
    /// `nodes` equal nodes and a seed, at `rate` up and down, in one rack. The seed holds the blob.
    pub fn equal(nodes: usize, pieces: u32, piece_bytes: u64, rate: Rate) -> Self {
        let spec = NodeSpec { place: Place::default(), up: rate, down: rate, joins: Some(Duration::ZERO) };
        Self {
            nodes: vec![spec; nodes + 1],
            pieces,
            piece_bytes,
            origin: None,
            latency: Duration::from_micros(200),
            tell_pause: Duration::from_millis(10),
            tell_lead_pause: Duration::from_millis(10),
            operations: Vec::new(),
            tuning: Tuning::default(),
            seed: 1,
            limit: Duration::from_secs(3600),
        }
    }

    /// Length of the blob in bytes.
    pub const fn bytes(&self) -> u64 {
        self.pieces as u64 * self.piece_bytes
    }

    /// The least time in which the blob can reach all nodes, if all are there from the start.
    pub fn least_time(&self) -> Duration {
        let Some((seed, nodes)) = self.nodes.split_first() else { return Duration::ZERO };
        let rates: Vec<(Rate, Rate)> = nodes.iter().map(|node| (node.up, node.down)).collect();
        let swarm = darter_swarm::bound::least_time(self.bytes(), seed.up, &rates);
        let origin = self.origin.map_or(0.0, |rate| self.bytes() as f64 / rate.bytes_per_second() as f64);
        swarm.max(Duration::from_secs_f64(origin))
    }
}
