//! A fleet without a seed that is larger than the number of nodes that one keeps connections with.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::routing::get;
use darter_agent::{Agent, Download, Options};
use darter_core::Source;
use darter_core::source::Credentials;
use futures_util::StreamExt as _;
use futures_util::future::join_all;

use crate::another_user::copied;
use crate::origin::{Answer, Origin, read};
use crate::seed;

/// More than a node's companions and itself.
const NODES: usize = 40;

const LENGTH: usize = 1_500_000;

/// An origin that counts how often it was read.
async fn counting_origin() -> (Source, Arc<AtomicUsize>) {
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let answer = move |method: http::Method| {
        if method == http::Method::GET {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        async move { ([("etag", "\"1\"")], vec![7_u8; LENGTH]) }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/file", get(answer))).await });
    (Source::from_url(url.parse().unwrap(), &[], None).0, reads)
}

async fn node(directory: &Path, name: usize, join: Option<&Agent>) -> Agent {
    let join = join.map(|agent| agent.status().listen.unwrap()).into_iter().collect();
    Agent::start(seed::node(&directory.join(name.to_string()), join)).await.unwrap()
}

async fn check(download: Download) {
    let mut stream = download.stream(None);
    let mut read = 0;
    while let Some(bytes) = stream.next().await {
        read += bytes.unwrap().len();
    }
    assert_eq!(read, LENGTH);
}

/// Each joins only the one before it: the first knows nobody, and nobody is told of all. All read what one asks for next, and the origin is
/// read once; once more by a node whose question nobody had the time to answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_join_one_another_in_a_chain_choose_one_to_read_the_origin() {
    let directory = tempfile::tempdir().unwrap();
    let (source, reads) = counting_origin().await;
    let mut nodes: Vec<Agent> = Vec::new();
    for name in 0..NODES {
        nodes.push(node(directory.path(), name, nodes.last()).await);
    }
    let mingled = async {
        while nodes.iter().any(|node| node.status().peers.len() < NODES / 4) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), mingled).await.expect("they come to know each other");
    let opened = join_all(nodes.iter().map(|node| node.open(source.clone(), Credentials::default()))).await;
    let checked = join_all(opened.into_iter().map(|download| check(download.unwrap())));
    tokio::time::timeout(Duration::from_secs(120), checked).await.expect("all get it");
    let reads = reads.load(Ordering::Relaxed);
    assert!(reads <= 2, "{reads}");
    join_all(nodes.iter().map(Agent::drain)).await;
}

/// A node follows the only other one that holds a blob, which is lost half-way while the origin fails. When that one is back, it is
/// asked for the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_comes_back_gives_the_rest_while_the_origin_fails() {
    let directory = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..LENGTH as u32).map(|at| (at * 31 + at / 251) as u8).collect();
    let served = content.clone();
    let broken = || Answer { tells_length: false, breaks: true, ..Answer::of(&[]) };
    let origin = Origin::start(move |nth, _| if nth == 0 { Answer::of(&served) } else { broken() }).await;
    let source = origin.blob(&content);
    let first = seed::node(&directory.path().join("holder"), Vec::new());
    let holder = Agent::start(first.clone()).await.unwrap();
    assert!(read(&holder, &source).await.unwrap() == content);
    let listen = holder.status().listen.unwrap();
    holder.drain().await;

    // The same agent later, as this process goes on having the former one's directory open.
    let dirs = [copied(&first.data_dir), copied(&first.data_dir)];
    let holding = dirs.each_ref().map(|dir| Options {
        data_dir: dir.path().to_owned(),
        listen: Some(listen.parse().unwrap()),
        ..first.clone()
    });
    let [slow, back] = holding;
    let slow = Options { upload_limit: darter_core::Rate::from_bytes_per_second(400_000), ..slow };
    let holder = Agent::start(slow).await.unwrap();
    let wanting = seed::node(&directory.path().join("wants"), vec![listen]);
    let wanting = Agent::start(Options { origin_patience: Duration::from_secs(60), ..wanting }).await.unwrap();
    let download = wanting.open(source.clone(), Credentials::none()).await.unwrap();
    let mut parts = download.stream(None);
    assert!(parts.next().await.unwrap().is_ok());
    holder.drain().await;
    let asked = origin.gets();
    let soon = Duration::from_secs(60);
    let alone = async {
        while origin.gets() == asked {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(soon, alone).await.expect("the node tries the origin itself");
    let holder = Agent::start(back).await.unwrap();
    let got = tokio::time::timeout(soon, read(&wanting, &source)).await.expect("nobody waits for the origin alone");
    assert!(got.unwrap() == content);
    drop(parts);
    wanting.drain().await;
    holder.drain().await;
}
