//! Agents over memory and in virtual time: their addresses, their clock, and how one starts.

use std::path::Path;
use std::sync::Arc;

use darter_agent::{Agent, Options};
use darter_core::{Clock, Moment};
use darter_origin::MemOrigin;
use darter_store::{MemStore, StoreConfig};
use darter_wire::MemNetwork;
use tokio::time::Instant;

use crate::seed;

/// The runtime's time, which is paused.
#[derive(Clone, Copy)]
pub(crate) struct Virtual(pub(crate) Instant);

impl Clock for Virtual {
    fn now(&self) -> Moment {
        Moment::ZERO + self.0.elapsed()
    }

    fn unix(&self) -> u64 {
        1
    }
}

/// Where the agent of a host listens.
pub(crate) fn address(host: u8) -> String {
    format!("10.0.0.{host}:7400")
}

/// A node on `host` that joins `others`, by its directory below `dir`.
pub(crate) fn options(host: u8, others: impl IntoIterator<Item = u8>, dir: &Path) -> Options {
    let join = others.into_iter().filter(|other| *other != host).map(address).collect();
    Options { listen: Some(([10, 0, 0, host], 7400).into()), ..seed::node(&dir.join(host.to_string()), join) }
}

/// Starts the agent of `host`.
pub(crate) async fn start(
    host: u8,
    options: Options,
    network: &MemNetwork,
    origin: &MemOrigin,
    clock: Virtual,
) -> Agent {
    let agent = Agent::builder(options)
        .transport(network.host([10, 0, 0, host]))
        .origin(origin.clone())
        .store(MemStore::new(&StoreConfig::new(Arc::new(|| 1))))
        .clock(clock);
    agent.start().await.unwrap()
}
