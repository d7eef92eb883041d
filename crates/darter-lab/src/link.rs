//! A host's cable to its switch: shaped rates, and byte counters.
//!
//! `tbf` shapes each direction where it is sent: a host's upload at its own end, its download at the switch's. The token
//! bucket's queue is bounded in time, so that TCP sees loss instead of a second of latency.

use anyhow::{Context, Result};
use darter_core::Rate;
pub use darter_scenario::Link;

/// How long a packet may wait in a shaped queue, in milliseconds.
const QUEUE_MILLISECONDS: u64 = 50;
/// The least bucket, in bytes: a packet as large as segmentation offload makes them passes whole.
const MIN_BURST: u64 = 128 * 1024;

/// Bytes that crossed a host's cable, with the headers of every layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that came to the host.
    pub received: u64,
    /// Bytes that the host sent.
    pub sent: u64,
}

impl Traffic {
    /// Reads the counters that `ip -json -statistics link show` prints for one interface.
    pub(crate) fn parse(json: &str) -> Result<Self> {
        let links: serde_json::Value = serde_json::from_str(json).context("read the link's statistics")?;
        let bytes = |way: &str| links.pointer(&format!("/0/stats64/{way}/bytes")).and_then(serde_json::Value::as_u64);
        bytes("rx")
            .zip(bytes("tx"))
            .map(|(received, sent)| Self { received, sent })
            .context("the link's statistics have no byte counters")
    }
}

/// `tc`'s words for a queue of this rate.
pub(crate) fn shaper(rate: Rate) -> Vec<String> {
    let bits = rate.bytes_per_second() * 8;
    let burst = (rate.bytes_per_second() / 100).max(MIN_BURST);
    format!("tbf rate {bits}bit burst {burst} latency {QUEUE_MILLISECONDS}ms").split(' ').map(str::to_owned).collect()
}
