//! An agent that ends within a process that goes on: nothing of it stays.

use std::time::Duration;

use darter_agent::options::Role;
use darter_agent::{Agent, Options};
use darter_core::Digest;
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::seed;
use crate::start_over::get;
use crate::web::{Reply, Web};

const TIMES: u32 = 20;

/// Three pieces, others each time.
fn content(time: u32) -> Vec<u8> {
    (0..700_000_u32).map(|at| (at * 31 + at / 251 + time) as u8).collect()
}

async fn start(role: Role, dir: &TempDir, join: Vec<String>) -> Agent {
    let local = Some(([127, 0, 0, 1], 0).into());
    darter_gateway::start(Options { role, local, ..seed::node(dir.path(), join) }).await.unwrap()
}

// The fleet and the swarms held each other, and the directory of an agent that was long gone was locked.
#[tokio::test]
async fn a_directory_can_be_opened_again_as_soon_as_its_agent_is_drained_and_dropped() {
    let dirs = [(); 2].map(|()| TempDir::new().unwrap());
    let web = Web::start(|seen| Reply::ok(&content(seen.path[1..].parse().unwrap()))).await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for time in 0..TIMES {
        let seed = start(Role::Seed, &dirs[0], Vec::new()).await;
        let node = start(Role::Node, &dirs[1], vec![seed.status().listen.unwrap()]).await;
        for time in time.saturating_sub(1)..=time {
            let digest = Some(Digest::sha256(&content(time)));
            assert!(get(&node, &web.url(&format!("/{time}")), digest).await.unwrap() == content(time));
        }
        assert_eq!(node.list().await.unwrap().len(), 1 + time as usize, "what the agents before it fetched is here");
        let given = node.status().traffic;
        assert_eq!((given.from_seed + given.from_peers, given.from_origin), (700_000, 0), "by way of the seed");
        // By turns, the one that dialled and the one that listens.
        let (first, second) = if time % 2 == 0 { (node, seed) } else { (seed, node) };
        first.drain().await;
        drop(first);
        second.drain().await;
    }
    let gone = async {
        while tasks() > before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(60), gone).await;
    assert!(gone.is_ok(), "{} tasks, {before} before the agents began", tasks());
}

// Readers of metrics at once were told of an empty store without a free byte, until it was tidied for the first time.
#[tokio::test]
async fn metrics_tell_what_is_stored_as_soon_as_there_is_a_port() {
    let dir = TempDir::new().unwrap();
    let web = Web::start(|_| Reply::ok(&content(0))).await;
    let agent = start(Role::Seed, &dir, Vec::new()).await;
    get(&agent, &web.url("/0"), None).await.unwrap();
    agent.drain().await;
    drop(agent);
    let agent = start(Role::Seed, &dir, Vec::new()).await;
    let metrics = crate::registries::get(&agent, "/metrics").await.body;
    let metrics = String::from_utf8(metrics.to_vec()).unwrap();
    assert!(metrics.contains("darter_store_used_bytes 700000\n"), "{metrics}");
    assert!(!metrics.contains("darter_store_free_bytes 0\n"));
    agent.drain().await;
}
