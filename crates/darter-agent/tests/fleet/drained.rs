//! Agents that drain while an origin says nothing. Over memory and in virtual time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use darter_agent::options::Role;
use darter_agent::{FetchError, Options};
use darter_core::source::Credentials;
use darter_core::{ByteRange, Source, Version};
use darter_origin::{Origin, OriginError, Reading, Stat};
use darter_wire::MemNetwork;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::in_memory::{self, Virtual};
use crate::origin::read;

const SEED: u8 = 1;
const NODE: u8 = 2;

/// An origin that takes questions and never answers.
#[derive(Clone, Default)]
struct Silent {
    asked: Arc<Notify>,
}

impl Silent {
    async fn never<T>(&self) -> T {
        self.asked.notify_one();
        std::future::pending().await
    }
}

#[async_trait]
impl Origin for Silent {
    async fn stat(&self, _: &Source, _: &Credentials, _: Option<&Version>) -> Result<Stat, OriginError> {
        self.never().await
    }

    async fn read(
        &self,
        _: &Source,
        _: &Credentials,
        _: Option<ByteRange>,
        _: Option<&Version>,
    ) -> Result<Reading, OriginError> {
        self.never().await
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_drains_gives_up_at_once_what_it_opens_for_itself_and_for_others() {
    let (network, clock, dir) = (MemNetwork::new(), Virtual(Instant::now()), TempDir::new().unwrap());
    for (reader, name) in [(SEED, "by-the-seed"), (NODE, "by-a-node")] {
        let origin = Silent::default();
        let start = async |host, role| {
            let options = Options { role, ..in_memory::options(host, [SEED], dir.path()) };
            in_memory::start(host, options, &network, origin.clone(), clock).await
        };
        let (seed, node) = (start(SEED, Role::Seed).await, start(NODE, Role::Node).await);
        let (source, _) = Source::from_url(format!("http://origin.lab/{name}").parse().unwrap(), &[], None);
        let agent = if reader == SEED { seed.clone() } else { node.clone() };
        let reading = tokio::spawn(async move { read(&agent, &source).await });
        timeout(Duration::from_secs(60), origin.asked.notified()).await.expect("the seed asks the origin");
        let began = Instant::now();
        seed.drain().await;
        // Tasks that do not end are waited for for two seconds.
        assert!(began.elapsed() < Duration::from_secs(1), "{name}: {:?}", began.elapsed());
        node.drain().await;
        assert!(matches!(reading.await.unwrap(), Err(FetchError::Draining)), "{name}");
    }
}
