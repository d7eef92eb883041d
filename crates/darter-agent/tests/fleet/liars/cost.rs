//! What liars cost those who are not: agents as they are, over memory and in virtual time, compared with the same fleet without them. Every
//! kind that holds and does not give, and a longer blob, is the simulator's (`scenarios.rs` in `darter-sim`): there one costs a tenth at
//! most. Here a blob has an eighth of the pieces, and the last of them count for more.

use std::sync::Arc;
use std::time::Duration;

use darter_agent::options::Role;
use darter_agent::{Agent, Options};
use darter_core::{Clock, Digest, Moment, Rate, Source};
use darter_origin::MemOrigin;
use darter_store::{MemStore, StoreConfig};
use darter_wire::MemNetwork;
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::{Above, Liar, Lie, content};
use crate::origin::read;
use crate::seed;

/// Nodes, the liars among them.
const NODES: u8 = 8;

const SEED: u8 = 1;

/// Of the seed and of each node, up.
const BYTES_PER_SECOND: u64 = 4_000_000;

/// In virtual time: whoever has not ended by then never does.
const AT_LAST: Duration = Duration::from_secs(200);

/// How often the origin may be read; without a seed by the one that a liar asks to lead, and by the one that the others choose.
const fn most_copies(above: Above) -> f64 {
    if matches!(above, Above::Nobody) { 2.1 } else { 1.1 }
}

/// The runtime's time, which is paused.
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

fn address(host: u8) -> String {
    format!("10.0.0.{host}:7400")
}

struct World {
    above: Above,
    network: MemNetwork,
    origin: MemOrigin,
    clock: Virtual,
    dir: TempDir,
}

async fn start(World { above, network, origin, clock, dir }: &World, host: u8) -> Agent {
    let ip = [10, 0, 0, host];
    let join = if host == SEED { Vec::new() } else { vec![address(SEED)] };
    let is_seed = host == SEED && !matches!(above, Above::Nobody);
    let options = Options {
        role: if is_seed { Role::Seed } else { Role::Node },
        listen: Some((ip, 7400).into()),
        upload_limit: Rate::from_bytes_per_second(BYTES_PER_SECOND),
        ..seed::node(&dir.path().join(host.to_string()), join)
    };
    let agent = Agent::builder(options)
        .transport(network.host(ip))
        .origin(origin.clone())
        .store(MemStore::new(&StoreConfig::new(Arc::new(|| 1))))
        .clock(*clock);
    agent.start().await.unwrap()
}

/// What came of a pull.
struct Pulled {
    /// How long the last of the honest ones took.
    last: Duration,
    /// How often the origin was read.
    copies: f64,
}

/// So many nodes pull a blob of so many bytes in the company of these liars.
async fn pull(above: Above, honest: u8, length: u32, lies: &[Lie]) -> Pulled {
    let content = Arc::new(content(length));
    let (network, origin) = (MemNetwork::new(), MemOrigin::new());
    let digest = Digest::sha256(&content);
    let registry = "http://registry.lab/".parse().unwrap();
    let source = Source::Registry { registry, repository: "lab/app".into(), digest };
    origin.put(&source, content.to_vec());
    let clock = Virtual(Instant::now());
    let world = World { above, network, origin, clock, dir: TempDir::new().unwrap() };
    let first = start(&world, SEED).await;
    if matches!(above, Above::Full) {
        assert!(read(&first, &source).await.unwrap() == **content);
    }
    let mut nodes = Vec::new();
    for host in 2..2 + honest {
        nodes.push(start(&world, host).await);
    }
    let mut liars = Vec::new();
    for (number, lie) in (100..).zip(lies) {
        let at = (world.network.host([10, 0, 0, number]), address(number));
        let (source, content) = (source.clone(), Arc::clone(&content));
        liars.push(Liar::start(number, *lie, source, content, (at.0, &at.1), &address(SEED)).await);
    }
    while nodes.iter().any(|node| node.status().peers.is_empty()) {
        sleep(Duration::from_millis(10)).await;
    }
    let began = Instant::now();
    let pulls = nodes.iter().map(async |node| {
        let got = timeout(AT_LAST, read(node, &source)).await;
        let got = got.unwrap_or_else(|_| panic!("{above:?}, {lies:?}: one never ends"));
        assert!(got.unwrap_or_else(|error| panic!("{above:?}, {lies:?}: {error}")) == **content);
        began.elapsed()
    });
    let last = join_all(pulls).await.into_iter().max().unwrap();
    liars.iter().for_each(|liar| liar.vanish());
    join_all(nodes.iter().chain([&first]).map(Agent::drain)).await;
    Pulled { last, copies: world.origin.bytes_read(&source) as f64 / f64::from(length) }
}

/// So many of each of these kinds may cost so much: what the last of the honest ones takes over what it takes without them.
async fn cost(above: Above, (nodes, length): (u8, u32), liars: u8, kinds: &[Lie], most: f64) {
    let honest = nodes - liars;
    let alone = pull(above, honest, length, &[]).await.last;
    for lie in kinds {
        let Pulled { last, copies } = pull(above, honest, length, &vec![*lie; liars.into()]).await;
        let ratio = last.as_secs_f64() / alone.as_secs_f64();
        println!("{above:?}, {liars} {lie:?}: {ratio:.3} of {alone:?}, {copies:.2} copies");
        assert!(ratio <= most, "{above:?}, {liars} {lie:?}: {ratio:.3}");
        assert!(copies <= most_copies(above), "{above:?}, {liars} {lie:?}: {copies:.2} copies");
    }
}

/// Eight, and 32 MiB.
const EIGHT: (u8, u32) = (NODES, 32 << 20);

#[tokio::test(start_paused = true)]
async fn one_among_eight_costs_the_others_a_fifth_at_most() {
    let kinds = [Lie::Silent, Lie::Chunks, Lie::Empty, Lie::Wrong, Lie::Leads];
    cost(Above::Full, EIGHT, 1, &kinds, 1.2).await;
}

#[tokio::test(start_paused = true)]
async fn two_among_eight_cost_the_others_three_tenths_at_most() {
    cost(Above::Full, EIGHT, 2, &[Lie::Bytes, Lie::Refuses, Lie::Withdraws, Lie::Late], 1.3).await;
}

/// Five, and 8 MiB: they take two seconds, so that a wait counts for much.
const FIVE: (u8, u32) = (5, 8 << 20);

#[tokio::test(start_paused = true)]
async fn whoever_breaks_the_protocol_of_pieces_is_left_alone() {
    cost(Above::Full, FIVE, 1, &Lie::GIVERS, 2.0).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_keeps_others_busy_with_what_it_says_or_takes_stops_nobody() {
    cost(Above::Full, FIVE, 1, &Lie::NUISANCES, 1.3).await;
    // These take what any member may.
    cost(Above::Full, FIVE, 1, &Lie::TAKERS, 1.6).await;
}

/// One that says it holds all of it is asked to lead first, and says nothing to that. It is given up after four seconds, and after two by the one that is asked next.
#[tokio::test(start_paused = true)]
async fn whoever_keeps_others_busy_stops_nobody_without_a_seed_either() {
    cost(Above::Nobody, FIVE, 1, &Lie::NUISANCES, 4.0).await;
}
