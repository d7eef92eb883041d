//! The result of a run.

use std::time::Duration;

use darter_swarm::leadership::trace::Trace;

/// The outcome of a run. Nodes are in the scenario's order, the seed first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How long each node took from its joining to the last piece; `None` for those that did not finish, those that
    /// lie, and the seed.
    pub finished: Vec<Option<Duration>>,
    /// When the last of those nodes had the last piece, since the start.
    pub last: Duration,
    /// The most pieces that each node that finished ever held behind the first one that it lacked.
    pub max_lags: Vec<u32>,
    /// Pieces that every node held at a time: the time since the start, then pieces held, and how many of them before the first one that
    /// lacked.
    pub samples: Vec<(Duration, Vec<(u32, u32)>)>,
    /// Nodes that live, are honest and want the blob, but don't have it.
    pub unfinished: Vec<usize>,
    /// Pieces asked of the origin, repetitions included.
    pub origin_pieces: u64,
    /// Connections by which a lead read it at a time, at most.
    pub origin_connections: usize,
    /// Nodes that began to lead after another had, and when.
    pub elected: Vec<(Duration, usize)>,
    /// Decisions of each node about who leads since it last started.
    pub decisions: Vec<Trace>,
    /// Pieces asked of the origin though a live, honest node held them that the asking lead could reach.
    pub origin_needless: u64,
    /// Pieces sent by the seed.
    pub seed_pieces: u64,
    /// Pieces sent by the seed and all nodes.
    pub sent_pieces: u64,
    /// Pieces that came into another rack, as (rack of arrival, number); racks without a crossing are left out.
    pub crossings: Vec<(String, u64)>,
    /// Pieces that came to somebody who had them already.
    pub duplicates: u64,
    /// Pieces that came into another zone.
    pub zone_crossings: u64,
    /// Messages to the tracker in each second of virtual time: joins, asks and their cancels, announcements, reports.
    pub tracker_messages: Vec<u64>,
    /// Messages from node to node, each as often as it has receivers.
    pub messages: u64,
    /// Messages from the tracker: answers to joins, news of neighbours, and hashes.
    pub tracker_notices: u64,
    /// Bytes of hashes that leads sent, with their messages.
    pub lead_hash_bytes: u64,
    /// The most bytes that the lead's own tables took, as looked at each second and at the end.
    pub tracker_bytes: u64,
    /// Events that the run took.
    pub events: u64,
    /// A fingerprint of every arrival and its time: equal runs have equal ones.
    pub fingerprint: u64,
    /// Virtual time at the end.
    pub ended: Duration,
}

impl Report {
    /// Messages to the tracker in a second, on average and in the busiest one, while nodes were served.
    pub fn tracker_rate(&self) -> (f64, f64) {
        let all: u64 = self.tracker_messages.iter().sum();
        let most = self.tracker_messages.iter().max().copied().unwrap_or(0);
        (all as f64 / self.ended.as_secs_f64().max(1e-9), most as f64)
    }

    /// The part of the blob that the lag of this part of the nodes (1.0: of the last) never exceeded.
    pub fn lag_quantile(&self, part: f64, pieces: u32) -> f64 {
        let mut lags = self.max_lags.clone();
        lags.sort_unstable();
        let at = (part * lags.len() as f64).ceil() as usize;
        let lag = lags.get(at.clamp(1, lags.len().max(1)) - 1).copied().unwrap_or_default();
        f64::from(lag) / f64::from(pieces.max(1))
    }

    /// The time by which this part of the nodes that finished had finished (1.0: the last); zero if none did.
    pub fn quantile(&self, part: f64) -> Duration {
        let mut times: Vec<Duration> = self.finished.iter().flatten().copied().collect();
        times.sort_unstable();
        let at = (part * times.len() as f64).ceil() as usize;
        times.get(at.clamp(1, times.len().max(1)) - 1).copied().unwrap_or_default()
    }
}
