//! Many blobs at once on one node: each has its turn.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use darter_agent::options::Role;
use darter_agent::{Agent, Options};
use darter_core::source::Credentials;
use darter_core::{Digest, Rate};
use futures_util::StreamExt as _;
use futures_util::future::join_all;

use crate::origin::{Answer, Origin, read};
use crate::seed;

/// Each has two requests open: together more than a seed takes of one node.
const BLOBS: u32 = 150;

/// Five pieces.
const LENGTH: usize = 600_000;

/// Of 150 blobs eighteen got no first byte for 75 s: the messages of so many filled the control channel's queue, which cost the
/// node its seed; and requests beyond what a holder takes were refused, while those of blobs that had theirs came before.
#[tokio::test]
async fn of_many_blobs_asked_for_at_once_each_gets_its_first_bytes_long_before_all_are_whole() {
    let contents: Vec<Vec<u8>> = (0..BLOBS).map(|blob| blob.to_le_bytes().repeat(LENGTH / 4)).collect();
    let served: HashMap<String, Vec<u8>> = contents
        .iter()
        .map(|content| (format!("/v2/lab/app/blobs/{}", Digest::sha256(content)), content.clone()))
        .collect();
    let origin = Origin::start(move |_, path| Answer::of(served.get(path).map_or(&[][..], |content| content))).await;
    let dir = tempfile::tempdir().unwrap();
    let upload_limit = Some(Rate::from_bytes_per_second(20_000_000).unwrap());
    let options = seed::node(&dir.path().join("seed"), Vec::new());
    let seed = Agent::start(Options { role: Role::Seed, upload_limit, ..options }).await.unwrap();
    let sources: Vec<_> = contents.iter().map(|content| origin.blob(content)).collect();
    for (source, content) in sources.iter().zip(&contents) {
        assert!(read(&seed, source).await.unwrap() == *content);
    }
    let join = vec![seed.status().listen.unwrap()];
    let node = Agent::start(seed::node(&dir.path().join("node"), join)).await.unwrap();
    let all = Arc::new(AtomicU64::new(0));
    let gets = sources.iter().map(|source| {
        let (node, source, all) = (node.clone(), source.clone(), Arc::clone(&all));
        async move {
            let download = node.open(source, Credentials::none()).await.unwrap();
            let mut stream = download.stream(None);
            let mut waited_for = None;
            while let Some(bytes) = stream.next().await {
                let length = bytes.unwrap().len() as u64;
                waited_for.get_or_insert(all.fetch_add(length, Ordering::Relaxed));
            }
            waited_for.unwrap()
        }
    });
    let waited = tokio::time::timeout(Duration::from_secs(120), join_all(gets)).await.expect("all of them end");
    let latest = waited.into_iter().max().unwrap() as f64 / (f64::from(BLOBS) * LENGTH as f64);
    // First pieces are a fifth of all bytes.
    assert!(latest < 0.5, "one got its first bytes after {latest:.2} of all were given");
    assert_eq!(origin.gets(), BLOBS, "nobody lost the seed");
    node.drain().await;
    seed.drain().await;
}
