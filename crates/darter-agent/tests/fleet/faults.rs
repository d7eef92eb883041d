//! Faults, as an agent says and counts them.

use std::time::Duration;

use darter_agent::Options;
use darter_core::NodeId;
use darter_wire::{ConnectionKind, Role, TcpTransport, preface};
use tokio::io::AsyncWriteExt as _;

use crate::seed;

/// Bad luck, such as a connection that breaks, is nobody's fault and none of its own.
#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_counted_as_at_fault_and_one_that_goes_away_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { local: Some(([127, 0, 0, 1], 0).into()), ..seed::node(dir.path(), Vec::new()) };
    let agent = darter_gateway::start(options).await.unwrap();
    let (listen, local) = (agent.status().listen.unwrap(), agent.status().local.unwrap());
    let counted = async || reqwest::get(format!("http://{local}/metrics")).await.unwrap().text().await.unwrap();
    let at_fault = r#"darter_failures_total{what="peer",fault="peer"} 1"#;
    for (number, says) in [(8, &[][..]), (9, &[0xff; 64])] {
        let me = seed::hello(NodeId([number; 16]), Role::Node, "127.0.0.1:1");
        let mut greeted = preface::open(&TcpTransport::default(), &listen, ConnectionKind::Control, &me).await.unwrap();
        assert!(!counted().await.contains(at_fault));
        greeted.stream.writer.write_all(says).await.unwrap();
        drop(greeted);
    }
    let told = async {
        while !counted().await.contains(at_fault) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.unwrap();
    agent.drain().await;
}
