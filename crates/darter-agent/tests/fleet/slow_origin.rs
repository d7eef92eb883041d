//! An honest seed whose origin is slow. Agents as they are, over memory and in virtual time.

use std::time::Duration;

use async_trait::async_trait;
use darter_agent::options::Role;
use darter_agent::{Agent, Options};
use darter_core::source::Credentials;
use darter_core::{ByteRange, Source, Version};
use darter_origin::{MemOrigin, Origin, OriginError, Reading, Stat};
use darter_store::{MemStore, StoreConfig};
use darter_wire::MemNetwork;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::in_memory::{self, Virtual};
use crate::origin::read;

/// For how long nothing may come of what one lead does.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Each part of a chunk takes so long. Four parts are no more than a piece.
const PART: Duration = Duration::from_secs(25);

const SEED: u8 = 8;

const LENGTH: usize = 300_000;

/// An origin that gives its bytes slowly.
#[derive(Clone)]
struct Slow(MemOrigin);

#[async_trait]
impl Origin for Slow {
    async fn stat(&self, source: &Source, shown: &Credentials, known: Option<&Version>) -> Result<Stat, OriginError> {
        self.0.stat(source, shown, known).await
    }

    async fn read(
        &self,
        source: &Source,
        shown: &Credentials,
        range: Option<ByteRange>,
        expect: Option<&Version>,
    ) -> Result<Reading, OriginError> {
        let mut reading = self.0.read(source, shown, range, expect).await?;
        let parts = reading.body.flat_map(|chunk| {
            let mut parts = Vec::new();
            match chunk {
                Ok(mut chunk) => {
                    let most = chunk.len().div_ceil(4);
                    while !chunk.is_empty() {
                        parts.push(Ok(chunk.split_to(most.min(chunk.len()))));
                    }
                }
                Err(error) => parts.push(Err(error)),
            }
            stream::iter(parts)
        });
        let slowly = |part| async move {
            sleep(PART).await;
            part
        };
        reading.body = parts.then(slowly).boxed();
        Ok(reading)
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_leaves_an_honest_seed_whose_origin_takes_longer_for_a_piece_than_a_blob_may_stand_still() {
    let content: Vec<u8> = (0..LENGTH).map(|at| (at * 31 + at / 251) as u8).collect();
    let (network, origin, dir) = (MemNetwork::new(), MemOrigin::new(), TempDir::new().unwrap());
    let (source, _) = Source::from_url("http://origin.lab/file".parse().unwrap(), &[], None);
    origin.put(&source, content.clone());
    let clock = Virtual(Instant::now());
    let mut agents = Vec::new();
    for host in [SEED, 1, 2, 3] {
        let role = if host == SEED { Role::Seed } else { Role::Node };
        let options = in_memory::options(host, [SEED], dir.path());
        let agent = Agent::builder(Options { role, stall_timeout: STALL_TIMEOUT, ..options })
            .transport(network.host([10, 0, 0, host]))
            .origin(Slow(origin.clone()))
            .store(MemStore::new(&StoreConfig::new(std::sync::Arc::new(|| 1))))
            .clock(clock);
        agents.push(agent.start().await.unwrap());
    }
    while agents[1..].iter().any(|node| node.status().peers.is_empty()) {
        sleep(Duration::from_millis(10)).await;
    }
    let before = Instant::now();
    for pulled in join_all(agents[1..].iter().map(|node| read(node, &source))).await {
        assert!(pulled.unwrap() == content);
    }
    assert!(before.elapsed() > 3 * STALL_TIMEOUT, "the origin is slow");
    assert_eq!(origin.bytes_read(&source), LENGTH as u64, "some left the seed, and read the origin themselves");
    join_all(agents.iter().map(Agent::drain)).await;
}
