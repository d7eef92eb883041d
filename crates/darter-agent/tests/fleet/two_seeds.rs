//! Several seeds: what one of them holds is not read again for another one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::Path as Named;
use axum::routing::get;
use darter_agent::options::Role;
use darter_agent::{Agent, Options};
use darter_core::Source;
use darter_core::source::Credentials;
use futures_util::StreamExt as _;

use crate::registry::Registry;
use crate::{registries, seed};

const LENGTH: usize = 700_000;

/// Sources enough for each of two seeds to be named for some of them.
const SOURCES: usize = 12;

/// An origin that counts how often it was read.
async fn counting_origin() -> (Vec<Source>, Arc<AtomicUsize>) {
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let answer = move |method: http::Method, Named(name): Named<u8>| {
        if method == http::Method::GET {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        async move { ([("etag", format!("\"{name}\""))], vec![name; LENGTH]) }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/{name}", get(answer))).await });
    let source = |name| Source::from_url(format!("http://{address}/{name}").parse().unwrap(), &[], None).0;
    ((0..SOURCES).map(source).collect(), reads)
}

async fn start(directory: &Path, name: &str, role: Role, join: &[&Agent]) -> Agent {
    let join = join.iter().map(|agent| agent.status().listen.unwrap()).collect();
    darter_gateway::start(Options { role, ..seed::node(&directory.join(name), join) }).await.unwrap()
}

async fn fetch(agent: &Agent, source: &Source) {
    let mut stream = agent.open(source.clone(), Credentials::default()).await.unwrap().stream(None);
    let mut read = 0;
    while let Some(bytes) = stream.next().await {
        read += bytes.unwrap().len();
    }
    assert_eq!(read, LENGTH);
}

/// Seeds are told of each other by nodes.
async fn connected(agents: &[&Agent], peers: usize) {
    let connected = async {
        while agents.iter().any(|agent| agent.status().peers.len() < peers) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), connected).await.expect("seeds come to know each other");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_that_comes_later_takes_from_the_first_one_what_that_holds() {
    let directory = tempfile::tempdir().unwrap();
    let (sources, reads) = counting_origin().await;
    let first = start(directory.path(), "first", Role::Seed, &[]).await;
    for source in &sources {
        fetch(&first, source).await;
    }
    let second = start(directory.path(), "second", Role::Seed, &[]).await;
    let node = start(directory.path(), "node", Role::Node, &[&first, &second]).await;
    connected(&[&first, &second], 2).await;
    for source in &sources {
        fetch(&node, source).await;
    }
    assert_eq!(reads.load(Ordering::Relaxed), SOURCES);
    let gave = &second.status().traffic;
    assert!(gave.to_peers > 0 && gave.from_origin == 0, "the second one was asked, too");
    // One that dies is no reason to read again what the other one has by now.
    first.drain().await;
    drop(first);
    let late = start(directory.path(), "late", Role::Node, &[&second]).await;
    let held = sources.iter().filter(|_| true);
    for source in held {
        fetch(&late, source).await;
    }
}

/// The caller's own credentials decide, by way of whichever seed.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_seed_holds_is_given_to_whoever_may_have_it() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let seed = |name: &str| Options { role: Role::Seed, ..registries::options(directory.path(), name, &registry) };
    let mut blobs = Vec::new();
    for n in 0..SOURCES as u8 {
        let (_, [_, layer]) = registry.put_image(&format!("lab/{n}"), Some("1"), &vec![n; LENGTH]);
        registry.allow("Bearer right", &format!("lab/{n}"));
        blobs.push(format!("/v2/lab/{n}/blobs/{layer}"));
    }
    let first = darter_gateway::start(seed("first")).await.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async |agent: &Agent, path: &str, token: &str| {
        let url = format!("http://{}{path}", agent.status().local.unwrap());
        let response = client.get(url).header("authorization", format!("Bearer {token}")).send().await.unwrap();
        (response.status().as_u16(), response.bytes().await.unwrap().len())
    };
    for blob in &blobs {
        assert_eq!(get(&first, blob, "right").await, (200, LENGTH));
    }
    let second = darter_gateway::start(seed("second")).await.unwrap();
    let join = [&first, &second].map(|agent| agent.status().listen.unwrap()).to_vec();
    let node = Options { join, ..registries::options(directory.path(), "node", &registry) };
    let node = darter_gateway::start(node).await.unwrap();
    connected(&[&first, &second], 2).await;
    for blob in &blobs {
        assert_eq!(get(&node, blob, "wrong").await.0, 401, "{blob}");
        assert_eq!(get(&node, blob, "right").await, (200, LENGTH));
    }
    let status = second.status();
    assert!(status.traffic.to_peers > 0, "it was asked for some of them");
    assert_eq!(status.traffic.from_origin, 0);
}
