//! Hosts in memory, with what befalls them: agents as they are, over a network, an origin and stores that touch no socket and no disk but
//! for small files, in virtual time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use darter_agent::options::Role;
use darter_agent::{Agent, Options};
use darter_core::{Clock, Digest, Moment, Source};
use darter_origin::MemOrigin;
use darter_store::{MemStore, StoreConfig};
use darter_wire::{Cuts, MemNetwork};
use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio::time::Instant;

use super::cables::Cables;
use crate::seed;

/// The number of the seed's host.
pub(crate) const SEED: u8 = 0;

/// The date at which every story begins, in seconds since 1970.
const BEGIN: i64 = 1_800_000_000;

/// A host's clocks: the runtime's time, which is paused, and how far they have jumped.
#[derive(Clone)]
pub(crate) struct HostClock(Arc<Jumps>);

struct Jumps {
    started: Instant,
    micros: AtomicU64,
    seconds: AtomicI64,
}

impl HostClock {
    pub(crate) fn new(started: Instant) -> Self {
        Self(Arc::new(Jumps { started, micros: AtomicU64::new(0), seconds: AtomicI64::new(BEGIN) }))
    }

    /// Moves the clock that measures pauses ahead by `by`.
    pub(crate) fn jump(&self, by: Duration) {
        self.0.micros.fetch_add(by.as_micros() as u64, Ordering::Relaxed);
    }

    /// Somebody sets the date.
    pub(crate) fn set(&self, by: i64) {
        self.0.seconds.fetch_add(by, Ordering::Relaxed);
    }
}

impl Clock for HostClock {
    fn now(&self) -> Moment {
        Moment::from_micros(self.0.micros.load(Ordering::Relaxed)) + self.0.started.elapsed()
    }

    fn unix(&self) -> u64 {
        let since = self.0.started.elapsed().as_secs() as i64;
        (self.0.seconds.load(Ordering::Relaxed) + since) as u64
    }
}

/// A host: its agent while it runs, and what outlasts it.
pub(crate) struct Host {
    pub(crate) agent: Option<Agent>,
    pub(crate) store: MemStore,
    pub(crate) clock: HostClock,
    dir: TempDir,
}

/// Hosts by the last number of their addresses.
pub(crate) struct World {
    network: MemNetwork,
    pub(crate) cables: Cables,
    pub(crate) cuts: Cuts,
    pub(crate) origin: MemOrigin,
    pub(crate) started: Instant,
    pub(crate) hosts: BTreeMap<u8, Host>,
}

pub(crate) fn ip(host: u8) -> IpAddr {
    [10, 0, 0, host + 1].into()
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            network: MemNetwork::new(),
            cables: Cables::default(),
            cuts: Cuts::new(),
            origin: MemOrigin::new(),
            started: Instant::now(),
            hosts: BTreeMap::new(),
        }
    }

    /// Starts the agent of a host, with what its store has if it ran before.
    pub(crate) async fn starts(&mut self, host: u8, configure: impl FnOnce(&mut Options)) {
        let (known, ip) = (self.hosts.remove(&host), ip(host));
        let (store, clock, dir) = match known {
            Some(known) => (known.store.reopened(), known.clock, known.dir),
            None => {
                let clock = HostClock::new(self.started);
                let dates = clock.clone();
                let store = MemStore::new(&StoreConfig::new(Arc::new(move || dates.unix())));
                (store, clock, TempDir::new().unwrap())
            }
        };
        let mut options = Options { listen: Some((ip, 7400).into()), ..seed::node(dir.path(), Vec::new()) };
        options.labels.insert("host".to_owned(), format!("host-{host}"));
        match host {
            SEED => options.role = Role::Seed,
            _ => options.join = vec![format!("{}:7400", self::ip(SEED))],
        }
        configure(&mut options);
        let agent = Agent::builder(options)
            .transport(self.cables.on(ip, self.cuts.on(ip, self.network.host(ip))))
            .origin(self.cables.to_origin(ip, self.origin.clone()))
            .store(store.clone())
            .clock(clock.clone())
            .record_decisions();
        let agent = Some(agent.start().await.unwrap());
        self.hosts.insert(host, Host { agent, store, clock, dir });
    }

    pub(crate) fn agent(&self, host: u8) -> &Agent {
        self.hosts[&host].agent.as_ref().expect("it runs")
    }

    /// An agent goes in good order.
    pub(crate) async fn leaves(&mut self, host: u8) {
        if let Some(agent) = self.hosts.get_mut(&host).and_then(|host| host.agent.take()) {
            agent.drain().await;
        }
    }

    /// An agent's process dies: nobody hears another word of it.
    pub(crate) async fn dies(&mut self, host: u8) {
        self.cables.die(ip(host));
        self.leaves(host).await;
    }

    /// Content with a digest that the origin has from now on.
    pub(crate) fn publish(&self, name: &str, length: usize) -> Content {
        let salt: usize = name.bytes().enumerate().map(|(at, byte)| (at + 1) * usize::from(byte)).sum();
        let bytes: Vec<u8> = (0..length).map(|at| (at * 31 + at / 251 + salt) as u8).collect();
        let registry = "http://origin.lab".parse().unwrap();
        let source = Source::Registry { registry, repository: name.to_owned(), digest: Digest::sha256(&bytes) };
        self.origin.put(&source, bytes.clone());
        Content { source, bytes: bytes.into() }
    }
}

/// The content that is fetched.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) source: Source,
    pub(crate) bytes: Arc<[u8]>,
}

/// Fetches content through an agent from an offset on; what went wrong, if something did.
pub(crate) async fn fetches(agent: Agent, content: Content, from: u64) -> Result<(), String> {
    let opened = agent.open(content.source.clone(), Default::default()).await;
    let download = opened.map_err(|error| error.to_string())?;
    let range = (from > 0).then(|| darter_core::ByteRange::new(from, content.bytes.len() as u64));
    let (mut stream, mut at) = (download.stream(range), from as usize);
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.map_err(|error| format!("after {at} bytes: {error}"))?;
        if content.bytes.get(at..at + bytes.len()) != Some(&bytes[..]) {
            return Err(format!("wrong bytes at {at}"));
        }
        at += bytes.len();
    }
    if at == content.bytes.len() { Ok(()) } else { Err(format!("{at} bytes of {}", content.bytes.len())) }
}
