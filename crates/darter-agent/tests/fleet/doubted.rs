//! An agent that gives or vouches for wrong content without knowing it is told so, looks again, and mends it.

use std::sync::Arc;
use std::time::Duration;

use darter_agent::options::Role;
use darter_agent::{Agent, Options};
use darter_core::{Digest, Source};
use darter_origin::MemOrigin;
use darter_store::{MemStore, StoreConfig};
use darter_wire::MemNetwork;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::in_memory::{self, Virtual};
use crate::origin::read;

const SEED: u8 = 1;

const LENGTH: usize = 2_000_000;

/// A seed gave wrong pieces to one host after the other, since it did not know that its memory had damaged them.
#[tokio::test(start_paused = true)]
async fn a_seed_whose_pieces_were_damaged_hears_of_it_and_gives_right_ones_to_the_next_node() {
    let content: Vec<u8> = (0..LENGTH).map(|at| (at * 31 + at / 251) as u8).collect();
    let (network, origin, dir) = (MemNetwork::new(), MemOrigin::new(), TempDir::new().unwrap());
    let registry = "http://registry.lab/".parse().unwrap();
    let source = Source::Registry { registry, repository: "lab/app".into(), digest: Digest::sha256(&content) };
    origin.put(&source, content.clone());
    let (clock, store) = (Virtual(Instant::now()), MemStore::new(&StoreConfig::new(Arc::new(|| 1))));
    let options = Options { role: Role::Seed, ..in_memory::options(SEED, [], dir.path()) };
    let builder = Agent::builder(options).transport(network.host([10, 0, 0, SEED])).origin(origin.clone());
    let seed = builder.store(store.clone()).clock(clock).start().await.unwrap();
    assert!(read(&seed, &source).await.unwrap() == content);
    store.flip_bits();
    let mut read_of_origin = Vec::new();
    for host in 2..=4 {
        let options = in_memory::options(host, [SEED], dir.path());
        let node = in_memory::start(host, options, &network, origin.clone(), clock).await;
        while node.status().peers.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
        let got = timeout(Duration::from_secs(60), read(&node, &source)).await.expect("it ends");
        assert!(got.unwrap() == content, "node {host}");
        // The seed mends what it heard of meanwhile.
        sleep(Duration::from_secs(10)).await;
        read_of_origin.push(origin.bytes_read(&source));
        node.drain().await;
    }
    println!("{read_of_origin:?} bytes were read of the origin in all");
    let told = seed.explain(&source.digest().unwrap().to_string()).await.unwrap();
    let hears = |event: &darter_api::ExplainedEvent| event.what.contains("from here: it is damaged here");
    assert!(told.events.iter().any(hears), "{:#?}", told.events);
    assert_eq!(read_of_origin[1], read_of_origin[0], "the second node is given right pieces");
    assert_eq!(read_of_origin[2], read_of_origin[0]);
    seed.drain().await;
}
