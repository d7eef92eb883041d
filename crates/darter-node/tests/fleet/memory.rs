//! Fleets in memory: agents as they are, over a network, an origin and stores that touch no socket, in virtual time. A minute's
//! silence takes no longer than it takes to tell.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use darter_core::{Clock, Moment, Source};
use darter_node::options::Role;
use darter_node::{Agent, Options};
use darter_origin::MemOrigin;
use darter_store::{MemStore, StoreConfig};
use darter_wire::{Cuts, MemNetwork};
use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::seed;

/// Long in virtual time.
const AT_LAST: Duration = Duration::from_secs(120);

const SEED: u8 = 1;

/// The runtime's time, which a test may have paused.
#[derive(Clone, Copy)]
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> Moment {
        Moment::ZERO + self.0.elapsed()
    }

    fn unix(&self) -> u64 {
        1
    }
}

/// Agents by the last number of their hosts' addresses.
struct Fleet {
    network: MemNetwork,
    cuts: Cuts,
    origin: MemOrigin,
    clock: Virtual,
    agents: HashMap<u8, Agent>,
    dirs: Vec<TempDir>,
}

impl Fleet {
    /// A seed and nodes that join it.
    async fn of(nodes: impl IntoIterator<Item = u8>) -> Self {
        let mut fleet = Self {
            network: MemNetwork::new(),
            cuts: Cuts::new(),
            origin: MemOrigin::new(),
            clock: Virtual(Instant::now()),
            agents: HashMap::new(),
            dirs: Vec::new(),
        };
        fleet.start(SEED, |options| options.role = Role::Seed).await;
        for host in nodes {
            fleet.joins(host).await;
        }
        fleet
    }

    async fn joins(&mut self, host: u8) {
        self.start(host, |options| options.join = vec![format!("10.0.0.{SEED}:7400")]).await;
    }

    async fn start(&mut self, host: u8, configure: impl FnOnce(&mut Options)) {
        let (ip, dir) = ([10, 0, 0, host], TempDir::new().unwrap());
        let mut options = Options { listen: Some((ip, 7400).into()), ..seed::node(dir.path(), Vec::new()) };
        options.labels.insert("host".to_owned(), format!("host-{host}"));
        configure(&mut options);
        let agent = Agent::builder(options)
            .transport(self.cuts.on(ip, self.network.host(ip)))
            .origin(self.origin.clone())
            .store(MemStore::new(&StoreConfig::new(Arc::new(|| 1))))
            .clock(self.clock);
        self.agents.insert(host, agent.start().await.unwrap());
        self.dirs.push(dir);
    }

    async fn leaves(&mut self, host: u8) {
        self.agents.remove(&host).unwrap().drain().await;
    }

    /// Content that the origin has from now on.
    fn publish(&self, name: &str, length: usize) -> (Source, Vec<u8>) {
        let bytes: Vec<u8> = (0..length).map(|at| (at * 31 + at / 251 + name.len()) as u8).collect();
        let (source, _) = Source::from_url(format!("http://origin.lab/{name}").parse().unwrap(), &[], None);
        self.origin.put(&source, bytes.clone());
        (source, bytes)
    }

    async fn fetches(&self, host: u8, (source, content): &(Source, Vec<u8>)) {
        let read = async {
            let download = self.agents[&host].open(source.clone(), Default::default()).await.unwrap();
            let (mut stream, mut read) = (download.stream(None), Vec::new());
            while let Some(bytes) = stream.next().await {
                read.extend_from_slice(&bytes.unwrap());
            }
            read
        };
        let read = timeout(AT_LAST, read).await.expect("it comes");
        assert!(read == *content, "host {host}");
    }

    async fn until(&self, what: &str, mut is: impl FnMut(&Self) -> bool) {
        let met = async {
            while !is(self) {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(AT_LAST, met).await.expect(what);
    }

    fn peers(&self, host: u8) -> usize {
        self.agents[&host].status().peers.len()
    }

    fn has_seed(&self, host: u8) -> bool {
        self.agents[&host].status().seeds.iter().any(|seed| seed.up)
    }

    fn read_from_origin(&self, host: u8) -> u64 {
        self.agents[&host].status().traffic.from_origin
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_join_fetch_by_way_of_each_other_and_leave() {
    let mut fleet = Fleet::of(2..=5).await;
    let content = fleet.publish("model", 3_000_000);
    futures_util::future::join_all((2..=5).map(|host| fleet.fetches(host, &content))).await;
    assert_eq!(fleet.origin.bytes_read(&content.0), 3_000_000, "read once for all");
    let seed = fleet.agents[&SEED].status().traffic;
    assert!(seed.to_peers < 4 * 3_000_000, "nodes gave pieces to each other, too");
    fleet.leaves(3).await;
    fleet.until("the seed sees that it left", |fleet| fleet.peers(SEED) == 3).await;
    fleet.joins(6).await;
    fleet.fetches(6, &content).await;
    fleet.leaves(SEED).await;
    fleet.until("all see that the seed left", |fleet| [2, 4, 5, 6].iter().all(|host| !fleet.has_seed(*host))).await;
    let (small, other) = (fleet.publish("small", 1000), fleet.publish("other", 2_000_000));
    for host in [2, 4, 5, 6] {
        fleet.fetches(host, &small).await;
        fleet.fetches(host, &other).await;
    }
    assert_eq!((fleet.origin.bytes_read(&small.0), fleet.origin.bytes_read(&other.0)), (1000, 2_000_000));
    for host in [2, 4, 5, 6] {
        fleet.leaves(host).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_from_the_seed_fetches_all_the_same_and_follows_it_again_once_healed() {
    let fleet = Fleet::of(2..=4).await;
    let contents = ["before", "cut off", "healed"].map(|name| fleet.publish(&name.replace(' ', "-"), 2_000_000));
    fleet.fetches(2, &contents[0]).await;
    assert_eq!(fleet.read_from_origin(2), 0);
    fleet.cuts.cut([10, 0, 0, 2], [10, 0, 0, SEED]);
    // It does not know yet.
    let before = Instant::now();
    tokio::join!(fleet.fetches(2, &contents[1]), fleet.fetches(3, &contents[1]));
    assert!(before.elapsed() > Duration::from_secs(1), "silence was waited for, in virtual time");
    fleet.until("both ends give each other up", |fleet| !fleet.has_seed(2) && fleet.peers(SEED) == 2).await;
    fleet.cuts.heal([10, 0, 0, 2], [10, 0, 0, SEED]);
    fleet.until("they find each other again", |fleet| fleet.has_seed(2) && fleet.peers(SEED) == 3).await;
    let read = fleet.read_from_origin(2);
    futures_util::future::join_all((2..=4).map(|host| fleet.fetches(host, &contents[2]))).await;
    assert_eq!(fleet.read_from_origin(2), read, "it follows the seed");
    assert_eq!(fleet.origin.bytes_read(&contents[2].0), 2_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_slow_uplink_is_as_slow_as_it_was_told_in_virtual_time() {
    let mut fleet = Fleet::of([]).await;
    fleet.leaves(SEED).await;
    fleet.start(SEED, |options| (options.role, options.upload_limit) = (Role::Seed, "1MB/s".parse().ok())).await;
    fleet.joins(2).await;
    let (content, began) = (fleet.publish("slow", 10_000_000), Instant::now());
    fleet.fetches(2, &content).await;
    let took = began.elapsed().as_secs_f64();
    assert!((9.0..12.0).contains(&took), "{took} s of virtual time");
}

#[tokio::test]
async fn ports_attach_to_the_handle_of_a_running_agent() {
    let fleet = Fleet::of([]).await;
    let (agent, dir) = (&fleet.agents[&SEED], TempDir::new().unwrap());
    assert_eq!(agent.status().local, None);
    let listen = async || tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let observed = listen().await;
    let metrics = observed.local_addr().unwrap();
    agent.serve_local(listen().await).await.unwrap();
    agent.serve_metrics(observed).await.unwrap();
    agent.serve_admin(&dir.path().join("darter.sock"), None).unwrap();
    let get = async |url: String| reqwest::get(url).await.unwrap().status();
    let local = agent.status().local.unwrap();
    for path in ["readyz", "v2/"] {
        assert_eq!(get(format!("http://{local}/{path}")).await, 200, "{path}");
    }
    assert_eq!(get(format!("http://{metrics}/metrics")).await, 200);
    assert!(tokio::net::UnixStream::connect(dir.path().join("darter.sock")).await.is_ok());
    agent.drain().await;
    assert!(!dir.path().join("darter.sock").exists());
    assert!(reqwest::get(format!("http://{local}/readyz")).await.is_err());
}
