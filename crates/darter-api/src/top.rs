//! The JSON of `GET /v1/top`: one look at everything that moves, made to be asked for every second. Lists are bounded, so
//! that a seed of thousands of blobs and nodes answers as quickly as an idle one.

use darter_core::{NodeId, Tier};
use serde::{Deserialize, Serialize};

use crate::answers::{Progress, Role, SeedStatus, StoreStatus, Traffic};
use crate::units;

/// One agent and its swarms at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Top {
    /// When, in Unix seconds.
    #[serde(flatten, with = "units::at_unix_seconds")]
    pub at: u64,
    /// The agent.
    pub agent: AgentView,
    /// Rates of what moves, in bytes per second over the last second or so.
    pub rates: Rates,
    /// Bytes moved since start.
    pub traffic: Traffic,
    /// The busiest swarms, at most 256: what moves first, then what is not complete, then the rest.
    pub swarms: Vec<SwarmRow>,
    /// How many swarms there are in all.
    pub swarms_in_all: u32,
    /// The swarm that was asked for, if there is one.
    pub swarm: Option<SwarmDetail>,
}

/// The agent itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentView {
    /// Its id.
    pub node: NodeId,
    /// The agent's role in its fleet.
    pub role: Role,
    /// Program version.
    pub version: String,
    /// Peer address it listens on.
    pub listen: Option<String>,
    /// Seconds since start.
    #[serde(flatten, with = "units::uptime_seconds")]
    pub uptime: f64,
    /// True while the agent shuts down.
    pub draining: bool,
    /// CPU used over the last second or so; 1 is one core at work all the time.
    pub cpu: f64,
    /// Cores of this host that it may use.
    pub cores: u32,
    /// Resident memory in bytes.
    #[serde(flatten, with = "units::resident_bytes")]
    pub resident: u64,
    /// Agents that are connected.
    pub peers: u32,
    /// Connections with them: control and data, made and accepted.
    pub connections: u32,
    /// Seeds given by `--join`, and whether they answer.
    pub seeds: Vec<SeedStatus>,
    /// The store.
    pub store: StoreStatus,
}

/// Bytes per second by where they come from and go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Read from origins.
    pub origin: u64,
    /// Received from other agents.
    pub received: TierRates,
    /// Sent to other agents.
    pub sent: TierRates,
    /// Served to programs of this host; not told of one swarm.
    pub local: u64,
}

/// Bytes per second by how near the other agent is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierRates {
    /// Bytes from and to the same machine.
    pub host: u64,
    /// Bytes from and to the same rack or switch.
    pub rack: u64,
    /// Bytes from and to the same zone.
    pub zone: u64,
    /// Bytes from and to the same region.
    pub region: u64,
    /// Anywhere else.
    pub far: u64,
}

impl TierRates {
    /// The rate of one tier.
    pub const fn of(&mut self, tier: Tier) -> &mut u64 {
        match tier {
            Tier::Host => &mut self.host,
            Tier::Rack => &mut self.rack,
            Tier::Zone => &mut self.zone,
            Tier::Region => &mut self.region,
            Tier::Far => &mut self.far,
        }
    }

    /// All tiers together.
    pub const fn sum(&self) -> u64 {
        self.host + self.rack + self.zone + self.region + self.far
    }
}

/// One swarm in the list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SwarmRow {
    /// How far it is here; its `rate` is what comes in, the origin's bytes included.
    #[serde(flatten)]
    pub progress: Progress,
    /// Bytes per second sent to other agents.
    #[serde(flatten, with = "units::sent_bytes_per_second")]
    pub sent: u64,
    /// True if this agent leads the swarm.
    pub leads: bool,
    /// The lead, if another agent leads.
    pub lead: Option<PeerName>,
    /// Members known.
    pub members: u32,
    /// Seconds until it is complete at the present rate.
    #[serde(flatten, with = "units::left_seconds")]
    pub left: Option<f64>,
    /// Pieces that were asked for and are overdue.
    pub stalled: u32,
    /// Seconds since a piece last came in.
    #[serde(flatten, with = "units::quiet_seconds")]
    pub quiet: Option<f64>,
}

/// An agent by id and address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerName {
    /// Its id.
    pub node: NodeId,
    /// Its peer address.
    pub addr: String,
}

/// One swarm at a closer look.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SwarmDetail {
    /// The swarm.
    #[serde(flatten)]
    pub row: SwarmRow,
    /// Like the progress's `map`, in up to 256 parts.
    pub fine_map: String,
    /// Rates of what moves in this swarm.
    pub rates: Rates,
    /// The busiest peers, at most 256: who moves most first.
    pub peers: Vec<PeerRow>,
    /// How many peers there are in all.
    pub peers_in_all: u32,
    /// Pieces that were asked for and are overdue, the longest wait first.
    pub overdue: Vec<StalledPiece>,
}

/// One peer's exchange with this agent in one swarm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerRow {
    /// Its id.
    pub node: NodeId,
    /// Its peer address.
    pub addr: String,
    /// How near it is; `None` while it is not connected.
    pub tier: Option<Tier>,
    /// True if the peer is a seed.
    pub seed: bool,
    /// True if the peer leads this swarm.
    pub leads: bool,
    /// Pieces that it is known to hold. A lead gives without telling what it holds.
    pub held: Option<u32>,
    /// Bytes per second that it gives to this agent.
    #[serde(flatten, with = "units::received_bytes_per_second")]
    pub received: u64,
    /// Bytes per second that it gets from this agent.
    #[serde(flatten, with = "units::sent_bytes_per_second")]
    pub sent: u64,
    /// Requests of this agent that it has not answered yet, overdue ones included.
    pub open: u32,
    /// Overdue ones of these.
    pub overdue: u32,
    /// Seconds since a piece last came from it, if one did of late.
    #[serde(flatten, with = "units::last_received_seconds")]
    pub last_received: Option<f64>,
    /// Seconds since a piece was last sent to it, if one was of late.
    #[serde(flatten, with = "units::last_sent_seconds")]
    pub last_sent: Option<f64>,
}

/// A piece that somebody was asked for and does not give.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StalledPiece {
    /// Which.
    pub piece: u32,
    /// The peer that was asked.
    pub from: PeerName,
    /// Seconds since it was asked for, or since more of it came.
    #[serde(flatten, with = "units::waited_seconds")]
    pub waited: f64,
}
