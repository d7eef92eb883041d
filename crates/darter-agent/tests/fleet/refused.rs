//! An origin that refuses what is asked for: which agents ask it. Agents as they are, over memory and in virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use darter_agent::options::Role;
use darter_agent::{Agent, Options};
use darter_core::source::Credentials;
use darter_core::{ByteRange, Source, Version};
use darter_origin::{ErrorKind, Origin, OriginError, Reading, Stat};
use darter_store::{MemStore, StoreConfig};
use darter_wire::{Cuts, MemNetwork};
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::in_memory::{self, Virtual};
use crate::origin::read;

/// Seeds are the hosts from this one on.
const SEEDS: u8 = 8;

/// As many that each host ranks first for some of them.
const FILES: usize = 12;

/// An origin that refuses everything, and counts how often one agent asked.
#[derive(Clone)]
struct Refusing {
    kind: ErrorKind,
    asked: Arc<AtomicUsize>,
}

impl Refusing {
    fn refusal(&self) -> OriginError {
        self.asked.fetch_add(1, Ordering::Relaxed);
        OriginError::new(self.kind.clone(), "not for you")
    }
}

#[async_trait]
impl Origin for Refusing {
    async fn stat(&self, _: &Source, _: &Credentials, _: Option<&Version>) -> Result<Stat, OriginError> {
        Err(self.refusal())
    }

    async fn read(
        &self,
        _: &Source,
        _: &Credentials,
        _: Option<ByteRange>,
        _: Option<&Version>,
    ) -> Result<Reading, OriginError> {
        Err(self.refusal())
    }
}

struct Fleet {
    agents: Vec<(u8, Agent, Refusing)>,
    _dir: TempDir,
}

impl Fleet {
    /// These hosts; none of `apart` reaches a seed.
    async fn start(kind: ErrorKind, hosts: &[u8], apart: &[u8]) -> Self {
        let (network, cuts, dir) = (MemNetwork::new(), Cuts::default(), TempDir::new().unwrap());
        let clock = Virtual(Instant::now());
        let ip = |host: u8| [10, 0, 0, host];
        let seeds = || hosts.iter().copied().filter(|host| *host >= SEEDS);
        apart.iter().for_each(|host| seeds().for_each(|seed| cuts.cut(ip(*host), ip(seed))));
        let mut agents = Vec::new();
        for host in hosts.iter().copied() {
            let role = if host >= SEEDS { Role::Seed } else { Role::Node };
            let options = in_memory::options(host, seeds().chain([1]), dir.path());
            let origin = Refusing { kind: kind.clone(), asked: Arc::default() };
            let agent = Agent::builder(Options { role, ..options })
                .transport(cuts.on(ip(host), network.host(ip(host))))
                .origin(origin.clone())
                .store(MemStore::new(&StoreConfig::new(Arc::new(|| 1))))
                .clock(clock);
            agents.push((host, agent.start().await.unwrap(), origin));
        }
        // Nodes know node 1 at least, and all seeds that they reach.
        let others = |host: u8| if apart.contains(&host) { 1 } else { seeds().count() };
        while agents.iter().any(|(host, agent, _)| *host < SEEDS && agent.status().peers.len() < others(*host)) {
            sleep(Duration::from_millis(10)).await;
        }
        Self { agents, _dir: dir }
    }

    /// Has these hosts read `FILES` files, and returns how often each host asked its origin for one in the mean.
    async fn refused(&self, readers: &[u8]) -> Vec<(u8, f64)> {
        for number in 0..FILES {
            let (source, _) = Source::from_url(format!("http://origin.lab/{number}").parse().unwrap(), &[], None);
            let readers = self.agents.iter().filter(|(host, ..)| readers.contains(host));
            for end in join_all(readers.map(|(_, agent, _)| read(agent, &source))).await {
                assert!(end.unwrap_err().to_string().contains("not for you"));
            }
        }
        let asked = |refusing: &Refusing| refusing.asked.load(Ordering::Relaxed) as f64 / FILES as f64;
        self.agents.iter().map(|(host, _, refusing)| (*host, asked(refusing))).collect()
    }

    async fn drain(self) {
        join_all(self.agents.iter().map(|(_, agent, _)| agent.drain())).await;
    }
}

/// With several seeds a second one is asked, since one may be wrong, or lie. The nodes believe that, and a seed that is alone: an origin that
/// every host asked for what it refuses, or for more time, would be better off without the swarm; and the error names the seed.
#[tokio::test(start_paused = true)]
async fn an_origin_that_refuses_is_asked_by_two_seeds_at_most_and_by_no_node() {
    for kind in [ErrorKind::NotFound, ErrorKind::Forbidden, ErrorKind::RateLimited { retry_after: None }] {
        for seeds in [&[8][..], &[8, 9, 10]] {
            let hosts = [&[1, 2, 3][..], seeds].concat();
            let fleet = Fleet::start(kind.clone(), &hosts, &[]).await;
            let asked = fleet.refused(&[1, 2, 3]).await;
            let sum =
                |is: fn(u8) -> bool| asked.iter().filter(|(host, _)| is(*host)).map(|(_, asked)| asked).sum::<f64>();
            assert_eq!(sum(|host| host < SEEDS), 0.0, "{kind:?}: {asked:?}");
            let most = 3.0 * seeds.len().min(2) as f64;
            assert!((0.5..=most).contains(&sum(|host| host >= SEEDS)), "{kind:?}: {asked:?}");
            fleet.drain().await;
        }
    }
}

/// A node that reaches no seed asks one that does: that one passes on what the seed says, and does not ask as well.
#[tokio::test(start_paused = true)]
async fn a_node_by_which_another_asks_a_seed_does_not_ask_the_origin_that_refuses() {
    let fleet = Fleet::start(ErrorKind::NotFound, &[8, 1, 2], &[2]).await;
    let asked = fleet.refused(&[2]).await;
    let of = |host: u8| asked.iter().find(|(asker, _)| *asker == host).unwrap().1;
    assert!(of(8) > 0.0, "node 1 is asked first for some of them, and asks the seed");
    assert_eq!(of(1), 0.0);
    fleet.drain().await;
}
