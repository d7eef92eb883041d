//! One address, with a digest and without: what the fleet has under one of the two names is not read for the other, and nobody gets what their own
//! credentials would not have given them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use darter_agent::options::Role;
use darter_agent::{Agent, Download, FetchError, Options};
use darter_core::{Digest, Source};
use futures_util::StreamExt as _;
use tempfile::TempDir;

use crate::seed;
use crate::web::{Reply, Seen, Web};

/// Some pieces.
fn content(length: u32) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

struct Fleet {
    dirs: [TempDir; 2],
    seed: Agent,
    node: Agent,
}

impl Fleet {
    async fn start() -> Self {
        let dirs = [(); 2].map(|()| TempDir::new().unwrap());
        let (seed, node) = Self::agents(&dirs).await;
        Self { dirs, seed, node }
    }

    async fn agents(dirs: &[TempDir; 2]) -> (Agent, Agent) {
        let options = Options { role: Role::Seed, ..seed::node(dirs[0].path(), Vec::new()) };
        let seed = Agent::start(options).await.unwrap();
        let join = vec![seed.status().listen.unwrap()];
        let node = Agent::start(seed::node(dirs[1].path(), join)).await.unwrap();
        (seed, node)
    }

    /// Ends all agents and starts them again with what they have on their disks.
    async fn restart(self) -> Self {
        let Self { dirs, seed, node } = self;
        node.drain().await;
        seed.drain().await;
        drop((seed, node));
        let (seed, node) = Self::agents(&dirs).await;
        Self { dirs, seed, node }
    }

    async fn end(self) {
        self.node.drain().await;
        self.seed.drain().await;
    }
}

async fn open(agent: &Agent, url: &str, digest: Option<Digest>, user: Option<&str>) -> Result<Download, FetchError> {
    let headers: Vec<_> = user.map(|user| ("Authorization".to_owned(), user.to_owned())).into_iter().collect();
    let (source, credentials) = Source::from_url(url.parse().unwrap(), &headers, digest);
    agent.open(source, credentials).await
}

async fn get(agent: &Agent, url: &str, digest: Option<Digest>, user: Option<&str>) -> Result<Vec<u8>, FetchError> {
    let mut stream = open(agent, url, digest, user).await?.stream(None);
    let mut read = Vec::new();
    while let Some(bytes) = stream.next().await {
        read.extend_from_slice(&bytes?);
    }
    Ok(read)
}

/// How many blobs an agent has.
async fn blobs(agent: &Agent) -> usize {
    agent.list().await.unwrap().len()
}

/// The usual headers of a server of files.
fn tagged(bytes: &[u8], version: usize) -> Reply {
    Reply::ok(bytes).with("etag", format!("\"{version}\""))
}

#[tokio::test]
async fn what_is_held_of_an_address_is_what_it_is_with_its_digest_and_the_other_way_round() {
    for length in [17, 60_000, 1_500_000] {
        let bytes = content(length);
        let served = bytes.clone();
        let web = Web::start(move |_| tagged(&served, 1)).await;
        let digest = Digest::sha256(&bytes);
        let mut fleet = Fleet::start().await;
        for (path, first, second) in [("/plain", None, Some(digest)), ("/named", Some(digest), None)] {
            let url = web.url(path);
            assert!(get(&fleet.node, &url, first, None).await.unwrap() == bytes);
            let (read, held) = (web.reads(path), (blobs(&fleet.seed).await, blobs(&fleet.node).await));
            for _ in 0..2 {
                for agent in [&fleet.node, &fleet.seed] {
                    assert!(get(agent, &url, second, None).await.unwrap() == bytes, "{path} {length}");
                }
                assert_eq!(web.reads(path), read, "{path} {length}: the origin is only asked whether it is the same");
                assert_eq!((blobs(&fleet.seed).await, blobs(&fleet.node).await), held, "{path} {length}");
                fleet = fleet.restart().await;
            }
        }
        fleet.end().await;
    }
}

#[tokio::test]
async fn a_digest_that_was_not_computed_of_what_is_held_is_not_taken_for_it() {
    let bytes = content(600_000);
    let served = bytes.clone();
    let web = Web::start(move |_| tagged(&served, 1)).await;
    let fleet = Fleet::start().await;
    let url = web.url("/x");
    let mut reads = Vec::new();
    assert!(get(&fleet.node, &url, None, None).await.unwrap() == bytes);
    reads.push(web.reads("/x"));
    let wrong = Digest::sha256(b"other");
    for agent in [&fleet.node, &fleet.seed] {
        let error = get(agent, &url, Some(wrong), None).await.unwrap_err();
        assert!(matches!(error, FetchError::WrongDigest { .. }), "{error}");
        reads.push(web.reads("/x"));
    }
    // Another algorithm than that of the digest that the lead computes.
    let sha512 = {
        let mut hasher = format!("sha512:{}", "0".repeat(128)).parse::<Digest>().unwrap().hasher();
        hasher.update(&bytes);
        hasher.finish()
    };
    assert!(get(&fleet.node, &url, Some(sha512), None).await.unwrap() == bytes);
    reads.push(web.reads("/x"));
    assert!(get(&fleet.node, &url, None, None).await.unwrap() == bytes, "what was held is still held");
    reads.push(web.reads("/x"));
    assert_eq!(
        reads,
        [1, 3, 3, 4, 4],
        "after each of the requests: wrong content is read twice, and not again for the next who asks"
    );
    fleet.end().await;
}

/// An address that has other content by now, with and without a tag that says so.
#[tokio::test]
async fn without_a_digest_an_address_is_what_it_is_now() {
    for tags in [true, false] {
        let version = Arc::new(AtomicUsize::new(1));
        let (old, new) = (content(600_000), content(600_001));
        let (bytes, serves) = ([old.clone(), new.clone()], Arc::clone(&version));
        let web = Web::start(move |_| {
            let version = serves.load(Ordering::Relaxed);
            let reply = tagged(&bytes[version - 1], version);
            if tags { reply } else { Reply::ok(&bytes[version - 1]) }
        })
        .await;
        let fleet = Fleet::start().await;
        let (url, digest) = (web.url("/x"), Digest::sha256(&old));
        assert!(get(&fleet.node, &url, Some(digest), None).await.unwrap() == old);
        version.store(2, Ordering::Relaxed);
        assert!(get(&fleet.node, &url, None, None).await.unwrap() == new, "{tags}");
        assert!(get(&fleet.node, &url, Some(Digest::sha256(&new)), None).await.unwrap() == new);
        assert_eq!(web.reads("/x"), 2, "{tags}: once for each content");
        fleet.end().await;
    }
}

fn for_alice(seen: &Seen, bytes: &[u8]) -> Reply {
    match seen.header("authorization") {
        Some("alice") => tagged(bytes, 1),
        _ => Reply::status(403),
    }
}

#[tokio::test]
async fn a_digest_opens_nothing_that_the_callers_own_credentials_do_not() {
    let bytes = content(600_000);
    let served = bytes.clone();
    let web = Web::start(move |seen| for_alice(seen, &served)).await;
    let digest = Digest::sha256(&bytes);
    let fleet = Fleet::start().await;
    for (path, first, second) in [("/plain", None, Some(digest)), ("/named", Some(digest), None)] {
        let url = web.url(path);
        assert!(get(&fleet.node, &url, first, Some("alice")).await.unwrap() == bytes);
        for agent in [&fleet.node, &fleet.seed] {
            for user in [None, Some("bob")] {
                let error = get(agent, &url, second, user).await.unwrap_err();
                assert_eq!(error.http_status().as_u16(), 403, "{path} {user:?}: {error}");
            }
            assert!(get(agent, &url, second, Some("alice")).await.unwrap() == bytes);
        }
        let is_given = |seen: &&Seen| {
            let is_sample = seen.range().is_some_and(|(from, to)| to - from <= 1024);
            seen.path == path && seen.is_get() && !is_sample && seen.header("authorization") == Some("alice")
        };
        assert_eq!(web.seen().iter().filter(is_given).count(), 1, "{path}");
    }
    fleet.end().await;
}
