//! A lazy snapshotter on a node: it reads the end of a layer first, then a few files, and checks what it reads by itself.

use std::time::Duration;

use darter_agent::options::Role;
use darter_agent::{Agent, Options};
use darter_core::{Digest, Rate};
use http::header::RANGE;

use crate::registries::{get, options};
use crate::registry::Registry;

/// At the node's limit the whole takes ten seconds.
const LENGTH: usize = 20_000_000;
const LIMIT: u64 = 2_000_000;

async fn range(agent: &Agent, path: &str, range: &str) -> (u16, Vec<u8>) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}{path}", agent.status().local.unwrap());
    let response = client.get(url).header(RANGE, range).send().await.unwrap();
    (response.status().as_u16(), response.bytes().await.unwrap().to_vec())
}

/// The last piece used to be held back until the whole was here and checked: the stargz snapshotter's first read of a layer
/// that the seed held took as long as the layer.
#[tokio::test]
async fn the_end_and_a_file_of_a_layer_that_the_seed_holds_come_long_before_the_whole() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start().await;
    let content: Vec<u8> = (0..LENGTH as u32 / 4).flat_map(u32::to_le_bytes).collect();
    let path = format!("/v2/lab/app/blobs/{}", registry.put_blob("lab/app", &content));
    let seed = Options { role: Role::Seed, ..options(directory.path(), "seed", &registry) };
    let seed = darter_gateway::start(seed).await.unwrap();
    assert_eq!(Digest::sha256(&get(&seed, &path).await.body), Digest::sha256(&content));

    let join = vec![seed.status().listen.unwrap()];
    let download_limit = Some(Rate::from_bytes_per_second(LIMIT).unwrap());
    let node = Options { join, download_limit, ..options(directory.path(), "node", &registry) };
    let node = darter_gateway::start(node).await.unwrap();
    let footer = async {
        assert_eq!(range(&node, &path, "bytes=0-1").await, (206, content[..2].to_vec()));
        range(&node, &path, "bytes=-51").await
    };
    let footer = tokio::time::timeout(Duration::from_secs(60), footer).await.expect("an end");
    assert_eq!(footer, (206, content[LENGTH - 51..].to_vec()));
    // A file in the middle: eight pieces, each of which used to wait a second for its turn.
    let file = tokio::time::timeout(Duration::from_secs(60), range(&node, &path, "bytes=12000001-14000000"));
    assert!(file.await.expect("an end") == (206, content[12_000_001..=14_000_000].to_vec()));
    let beginning = tokio::time::timeout(Duration::from_secs(60), range(&node, &path, "bytes=0-1999999"));
    assert!(beginning.await.expect("an end") == (206, content[..2_000_000].to_vec()));
    let rows = node.list().await.unwrap();
    assert!(rows.iter().all(|row| row.held < LENGTH as u64 / 2), "much else came before: {rows:?}");
    assert_eq!(registry.asked().iter().filter(|line| line.starts_with("GET")).count(), 1, "the seed's own read");
    node.drain().await;
    seed.drain().await;
}
