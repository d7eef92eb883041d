//! A fleet's options, and what it shares with the rest of its agent.

use std::path::PathBuf;
use std::sync::Arc;

use darter_api::Role;
use darter_core::{Clock, Moment, Place};
use darter_metrics::Metrics;
use darter_store::Disk;

/// A fleet's options, and what it shares with the rest of its agent.
pub struct FleetContext {
    /// The agent's role in its fleet.
    pub role: Role,
    /// This agent's place: rack, zone and region.
    pub place: Place,
    /// The addresses and names to join.
    pub join: Vec<String>,
    /// The directory of the list of known nodes.
    pub data_dir: PathBuf,
    /// Monotonic time, and the date.
    pub clock: Arc<dyn Clock>,
    /// The disk.
    pub disk: Disk,
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
}

impl FleetContext {
    pub(crate) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// The date, in seconds since 1970.
    pub(crate) fn unix(&self) -> u64 {
        self.clock.unix()
    }
}
