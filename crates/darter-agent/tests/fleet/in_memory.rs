//! Agents over memory and in virtual time: their addresses, their clock, their origins, and how one starts.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use darter_agent::{Agent, Options};
use darter_core::source::Credentials;
use darter_core::{ByteRange, Clock, Moment, Source, Version};
use darter_origin::{Body, MemOrigin, Origin, OriginError, Reading, Stat};
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

/// An origin whose answers come as `body` makes them of the right bytes: later, say, or not to their end.
pub(crate) struct Altered<F> {
    pub(crate) origin: MemOrigin,
    pub(crate) body: F,
}

#[async_trait]
impl<F: Fn(Body) -> Body + Send + Sync> Origin for Altered<F> {
    async fn stat(&self, source: &Source, shown: &Credentials, known: Option<&Version>) -> Result<Stat, OriginError> {
        self.origin.stat(source, shown, known).await
    }

    async fn read(
        &self,
        source: &Source,
        shown: &Credentials,
        range: Option<ByteRange>,
        expect: Option<&Version>,
    ) -> Result<Reading, OriginError> {
        let reading = self.origin.read(source, shown, range, expect).await?;
        Ok(Reading { body: (self.body)(reading.body), ..reading })
    }
}

/// The address on which the agent of `host` listens.
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
    origin: impl Origin + 'static,
    clock: Virtual,
) -> Agent {
    let agent = Agent::builder(options)
        .transport(network.host([10, 0, 0, host]))
        .origin(origin)
        .store(MemStore::new(&StoreConfig::new(Arc::new(|| 1))))
        .clock(clock);
    agent.start().await.unwrap()
}
