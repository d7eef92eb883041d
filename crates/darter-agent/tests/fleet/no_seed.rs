//! A fleet without a seed that is larger than the number of nodes that one keeps connections with.

use std::time::Duration;

use darter_agent::{Agent, Options};
use darter_core::source::Credentials;
use futures_util::StreamExt as _;
use futures_util::future::join_all;

use crate::another_user::copied;
use crate::origin::{Answer, Origin, read};
use crate::seed;
use crate::stories::world::{SEED, World, fetches, ip};

/// More than a node's companions and itself.
const NODES: u8 = 40;

const LENGTH: usize = 1_500_000;

/// Each joins only the one before it: the first knows nobody, and nobody is told of all. All read what one asks for next, and the origin is
/// read once.
#[tokio::test(start_paused = true)]
async fn nodes_that_join_one_another_in_a_chain_choose_one_to_read_the_origin() {
    let mut world = World::new();
    let nodes = SEED + 1..=SEED + NODES;
    for host in nodes.clone() {
        let before = (host > SEED + 1).then(|| format!("{}:7400", ip(host - 1)));
        world.starts(host, |options| options.join = before.into_iter().collect()).await;
    }
    let mingled = async {
        while nodes.clone().any(|host| world.agent(host).status().peers.len() < usize::from(NODES) / 4) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), mingled).await.expect("they come to know each other");
    let content = world.publish("file", LENGTH);
    let fetched = nodes.clone().map(|host| fetches(world.agent(host).clone(), content.clone(), 0));
    let fetched = tokio::time::timeout(Duration::from_secs(120), join_all(fetched)).await.expect("all get it");
    assert!(fetched.iter().all(Result::is_ok), "{fetched:?}");
    assert_eq!(world.origin.bytes_read(&content.source), LENGTH as u64);
    for host in nodes {
        world.leaves(host).await;
    }
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
