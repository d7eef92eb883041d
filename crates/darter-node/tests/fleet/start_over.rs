//! Origins that break off, or change, while they are read: reading starts over by itself, and the hashes that are known
//! tell whether it is the same content.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use darter_core::{Digest, Source};
use darter_node::options::Role;
use darter_node::{Agent, FetchError, Options};
use darter_origin::ErrorKind;
use futures_util::StreamExt as _;
use tempfile::TempDir;

use crate::seed;
use crate::web::{Reply, Seen, Web};

/// Six pieces.
fn content() -> Vec<u8> {
    (0..1_500_000_u32).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// As long, and the same up to the third piece.
fn next_version() -> Vec<u8> {
    let mut bytes = content();
    bytes[600_000..].iter_mut().for_each(|byte| *byte = !*byte);
    bytes
}

struct Fleet {
    _seed: Agent,
    nodes: [Agent; 2],
    _dirs: [TempDir; 3],
}

impl Fleet {
    async fn start() -> Self {
        let dirs = [(); 3].map(|()| TempDir::new().unwrap());
        let options = Options { role: Role::Seed, ..seed::node(dirs[0].path(), Vec::new()) };
        let seed = Agent::start(options).await.unwrap();
        let join = || vec![seed.status().listen.unwrap()];
        let first = Agent::start(seed::node(dirs[1].path(), join())).await.unwrap();
        let second = Agent::start(seed::node(dirs[2].path(), join())).await.unwrap();
        Self { _seed: seed, nodes: [first, second], _dirs: dirs }
    }
}

async fn get(agent: &Agent, url: &str, digest: Option<Digest>) -> Result<Vec<u8>, FetchError> {
    let (source, credentials) = Source::from_url(url.parse().unwrap(), &[], digest);
    let download = agent.open(source, credentials).await?;
    let mut stream = download.stream(None);
    let mut read = Vec::new();
    while let Some(bytes) = stream.next().await {
        read.extend_from_slice(&bytes?);
    }
    Ok(read)
}

/// Whether somebody reads, rather than asks for one byte.
fn is_read(seen: &Seen) -> bool {
    seen.is_get() && seen.header("range") != Some("bytes=0-0")
}

/// The first two answers break off; nobody who reads meanwhile need know.
async fn goes_on(name: &str, shape: fn(Reply, usize) -> Reply) {
    for digest in [None, Some(Digest::sha256(&content()))] {
        let (reads, answers) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let web = Web::start(move |seen| {
            let answer = answers.fetch_add(1, Ordering::Relaxed);
            let reply = shape(Reply::ok(&content()), answer);
            match is_read(seen).then(|| counted.fetch_add(1, Ordering::Relaxed)) {
                Some(0) => reply.cut(700_000),
                Some(1) => reply.cut(1_100_000),
                _ => reply,
            }
        })
        .await;
        let fleet = Fleet::start().await;
        let url = web.url("/x");
        let (first, second) = tokio::join!(get(&fleet.nodes[0], &url, digest), get(&fleet.nodes[1], &url, digest));
        assert!(first.unwrap() == content() && second.unwrap() == content(), "{name} {digest:?}");
        assert!(reads.load(Ordering::Relaxed) >= 2, "{name}: nothing broke off");
    }
}

#[tokio::test]
async fn without_validators() {
    goes_on("with ranges", |reply, _| reply).await;
    goes_on("without ranges", |reply, _| reply.without_ranges()).await;
}

#[tokio::test]
async fn with_a_weak_tag() {
    goes_on("weak", |reply, _| reply.with("etag", "W/\"1\"")).await;
}

#[tokio::test]
async fn with_a_range_ignored() {
    goes_on("strong", |reply, _| reply.with("etag", "\"1\"").without_ranges()).await;
}

#[tokio::test]
async fn a_version_that_changes_half_way_is_found_and_the_next_one_is_another_blob() {
    for digest in [None, Some(Digest::sha256(&next_version()))] {
        for tags in [[None, None], [Some("\"1\""), Some("\"2\"")], [Some("\"1\""), Some("\"1\"")]] {
            if digest.is_none() && tags == [Some("\"1\""); 2] {
                // Without a digest, an origin that gives two versions one strong tag is believed.
                continue;
            }
            let reads = AtomicUsize::new(0);
            let web = Web::start(move |seen| {
                let is_first = is_read(seen) && reads.fetch_add(1, Ordering::Relaxed) == 0;
                let (bytes, tag) = if is_first { (content(), tags[0]) } else { (next_version(), tags[1]) };
                let reply = tag.into_iter().fold(Reply::ok(&bytes), |reply, tag| reply.with("etag", tag));
                if is_first { reply.cut(900_000) } else { reply }
            })
            .await;
            let fleet = Fleet::start().await;
            let url = web.url("/x");
            for node in &fleet.nodes {
                let mut read = get(node, &url, digest).await;
                if let Err(FetchError::Origin(failure)) = &read {
                    // What was given is of the former version: whoever was given it asks again.
                    assert_eq!(failure.kind, ErrorKind::Changed);
                    read = get(node, &url, digest).await;
                }
                assert!(read.unwrap() == next_version(), "{tags:?} {digest:?}");
            }
        }
    }
}

// Two servers behind one name, each with tags of its own for the same file.
#[tokio::test]
async fn with_a_tag_for_each_replica() {
    let reads = AtomicUsize::new(0);
    let web = Web::start(move |seen| {
        let read = if is_read(seen) { reads.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let reply = Reply::ok(&content()).with("etag", format!("\"replica {}\"", read % 2));
        if read == 0 { reply.cut(700_000) } else { reply }
    })
    .await;
    let fleet = Fleet::start().await;
    for digest in [None, Some(Digest::sha256(&content()))] {
        assert!(get(&fleet.nodes[0], &web.url("/x"), digest).await.unwrap() == content());
    }
}

#[tokio::test]
async fn without_a_length() {
    let reads = AtomicUsize::new(0);
    let web = Web::start(move |seen| {
        let reply = Reply::ok(&content());
        if is_read(seen) && reads.fetch_add(1, Ordering::Relaxed) == 0 {
            reply.cut(700_000)
        } else {
            reply.without_length()
        }
    })
    .await;
    let fleet = Fleet::start().await;
    assert!(get(&fleet.nodes[0], &web.url("/x"), None).await.unwrap() == content());
}
