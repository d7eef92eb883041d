//! Peers that ask for pieces and never take what is sent to them, on more connections than an agent sends on at a time: they cost those
//! who take theirs a moment.

use std::sync::Arc;
use std::time::Duration;

use darter_agent::options::Role as AgentRole;
use darter_agent::{Agent, Options};
use darter_core::source::blob_of;
use darter_core::{BlobId, NodeId, PieceIndex};
use darter_protocol::data::Ask;
use darter_wire::{ConnectionKind, Request, Role, TcpTransport, Wanted, preface};
use futures_util::future::join_all;
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

use crate::origin::{Answer, Origin, read};
use crate::seed;

/// More than a fleet takes whose peers take what they ask for, on a machine that has other things to do; less than one of the others
/// takes to be given up again and again.
const SOON: Duration = Duration::from_secs(25);

/// Three times as many as an agent sends on at a time.
const CONNECTIONS: u8 = 12;

/// Asks for pieces on one connection after the other, and takes nothing of them.
async fn asks_and_never_reads(node: NodeId, agent: String, blob: BlobId) {
    let me = seed::hello(node, Role::Node, "127.0.0.1:1");
    loop {
        let Ok(greeted) = preface::open(&TcpTransport::default(), &agent, ConnectionKind::Data, &me).await else {
            continue;
        };
        let mut stream = greeted.stream;
        let ask = |id| {
            let wanted = Wanted::Piece(PieceIndex(id % 64));
            Ask::Request(Request { id, blob, wanted, urgent: true, takes_packed: false }).encode()
        };
        let mut said: Vec<u8> = (0..200).flat_map(ask).collect();
        while stream.writer.write_all(&said).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
            said = Ask::Cancel { id: 999 }.encode().to_vec();
        }
    }
}

/// Each connection is of a peer of its own, or all are of one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_ask_and_take_nothing_stop_nobody() {
    let content: Vec<u8> = (0..8_u32 << 20).map(|at| (at * 31 + at / 251) as u8).collect();
    for is_one in [true, false] {
        let content = Arc::new(content.clone());
        let served = Arc::clone(&content);
        let origin = Origin::start(move |_, _| Answer::of(&served)).await;
        let source = origin.blob(&content);
        let dir = tempfile::tempdir().unwrap();
        let holder = Options { role: AgentRole::Seed, ..seed::node(&dir.path().join("seed"), Vec::new()) };
        let holder = Agent::start(holder).await.unwrap();
        assert!(read(&holder, &source).await.unwrap() == *content);
        let (address, blob) = (holder.status().listen.unwrap(), blob_of(&source.digest().unwrap()));
        let gone = CancellationToken::new();
        for number in 0..CONNECTIONS {
            let asking = asks_and_never_reads(NodeId([if is_one { 1 } else { number + 1 }; 16]), address.clone(), blob);
            tokio::spawn(gone.clone().run_until_cancelled_owned(asking));
        }
        // Soon nothing more goes into their sockets.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let nodes = join_all(
            (0..3).map(|node| Agent::start(seed::node(&dir.path().join(node.to_string()), vec![address.clone()]))),
        )
        .await;
        let nodes: Vec<_> = nodes.into_iter().map(Result::unwrap).collect();
        let pulls = join_all(nodes.iter().map(|node| read(node, &source)));
        let pulled = tokio::time::timeout(SOON, pulls).await.expect("nobody waits for those that take nothing");
        assert!(pulled.into_iter().all(|got| got.unwrap() == *content));
        gone.cancel();
        join_all(nodes.iter().chain([&holder]).map(Agent::drain)).await;
    }
}
