//! A blob that honest agents pull in the company of liars, over memory and in virtual time.

use std::sync::Arc;
use std::time::Duration;

use darter_agent::options::Role;
use darter_agent::{Agent, Options};
use darter_core::{Digest, Rate, Source};
use darter_origin::MemOrigin;
use darter_wire::MemNetwork;
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::{Above, Liar, Lie, content};
use crate::in_memory::{self, Virtual, address};
use crate::origin::read;

const SEED: u8 = 1;

/// Of the seed and of each node, up.
const BYTES_PER_SECOND: u64 = 4_000_000;

/// In virtual time: whoever has not ended by then never does.
const AT_LAST: Duration = Duration::from_secs(200);

/// How often the origin may be read; without a seed by the one that a liar asks to lead, and by the one that the others choose.
pub(super) const fn most_copies(above: Above) -> f64 {
    if matches!(above, Above::Nobody) { 2.1 } else { 1.1 }
}

struct World {
    above: Above,
    network: MemNetwork,
    origin: MemOrigin,
    clock: Virtual,
    dir: TempDir,
}

async fn start(World { above, network, origin, clock, dir }: &World, host: u8) -> Agent {
    let is_seed = host == SEED && !matches!(above, Above::Nobody);
    let options = Options {
        role: if is_seed { Role::Seed } else { Role::Node },
        upload_limit: Rate::from_bytes_per_second(BYTES_PER_SECOND),
        ..in_memory::options(host, [SEED], dir.path())
    };
    in_memory::start(host, options, network, origin.clone(), *clock).await
}

/// The result of a pull.
pub(super) struct Pulled {
    /// How long the last of the honest ones took.
    pub(super) last: Duration,
    /// How often the origin was read.
    pub(super) copies: f64,
    /// Copies that the first agent sent to others, during the pull.
    pub(super) sent: f64,
}

/// `honest` nodes pull a blob of `length` bytes in the company of the liars `lies`.
pub(super) async fn pull(above: Above, honest: u8, length: u32, lies: &[Lie]) -> Pulled {
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
    let sent = || first.status().traffic.to_peers as f64 / f64::from(length);
    let (began, sent_before) = (Instant::now(), sent());
    let pulls = nodes.iter().map(async |node| {
        let got = timeout(AT_LAST, read(node, &source)).await;
        let got = got.unwrap_or_else(|_| panic!("{above:?}, {lies:?}: one never ends"));
        assert!(got.unwrap_or_else(|error| panic!("{above:?}, {lies:?}: {error}")) == **content);
        began.elapsed()
    });
    let last = join_all(pulls).await.into_iter().max().unwrap();
    let sent = sent() - sent_before;
    liars.iter().for_each(|liar| liar.vanish());
    join_all(nodes.iter().chain([&first]).map(Agent::drain)).await;
    Pulled { last, copies: world.origin.bytes_read(&source) as f64 / f64::from(length), sent }
}
