//! A peer that asks for ever new blobs: it takes no more memory for it, and nobody else waits for what it made up.

use std::sync::Arc;
use std::time::Duration;

use darter_agent::options::Role as AgentRole;
use darter_agent::{Agent, Options};
use darter_core::source::Credentials;
use darter_core::{BlobId, NodeId, PieceIndex, Source};
use darter_wire::control::{self, ControlConfig};
use darter_wire::{
    Answer, BufferPool, ConnectionKind, DataClient, Greeted, Message, Receiving, Refusal, Request, Role, TcpTransport,
    Unlimited, Wanted, preface,
};
use tokio::net::TcpListener;

use crate::seed;

/// Long enough for any machine.
const SOON: Duration = Duration::from_secs(120);

/// Questions of one peer that an agent works on at a time.
const MAX_OPEN: u32 = 4096;

async fn seed_of(directory: &tempfile::TempDir) -> Agent {
    let options = Options { role: AgentRole::Seed, ..seed::node(directory.path(), Vec::new()) };
    Agent::start(options).await.unwrap()
}

async fn meet(agent: &Agent, node: NodeId, kind: ConnectionKind) -> Greeted {
    let address = agent.status().listen.unwrap();
    preface::open(&TcpTransport::default(), &address, kind, &seed::hello(node, Role::Node, "")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_that_a_peer_has_made_up_leave_room_for_those_that_are_here() {
    let directory = tempfile::tempdir().unwrap();
    let agent = seed_of(&directory).await;
    let channel = meet(&agent, NodeId([7; 16]), ConnectionKind::Data).await.stream;
    let receiving = Receiving { budget: Arc::new(Unlimited), buffers: BufferPool::default() };
    let (client, mut answers) = DataClient::start(channel, receiving);
    let asking = async {
        for round in 0..50_u32 {
            for id in round * 100..(round + 1) * 100 {
                let mut blob = [9; 32];
                blob[..4].copy_from_slice(&id.to_le_bytes());
                let wanted = Wanted::Piece(PieceIndex(0));
                client
                    .request(Request { id, blob: BlobId(blob), wanted, urgent: false, takes_packed: false }, 1 << 20)
                    .unwrap();
            }
            for _ in 0..100 {
                let answer = answers.recv().await.unwrap();
                let Some(Answer::None { reason, .. }) = answer else { panic!("{answer:?}") };
                assert_eq!(reason, Refusal::UnknownBlob, "round {round}");
            }
        }
    };
    tokio::time::timeout(SOON, asking).await.unwrap();
    agent.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_beyond_what_is_worked_on_for_a_peer_are_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let agent = seed_of(&directory).await;
    // Connections come, and nobody answers.
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/file", origin.local_addr().unwrap());
    let (source, _) = Source::from_url(url.parse().unwrap(), &[], None);
    let channel = meet(&agent, NodeId([7; 16]), ConnectionKind::Control).await.stream;
    let (sender, mut receiver) = control::start(channel, &ControlConfig::default());
    let asking = async {
        for request in 0..MAX_OPEN + 3 {
            let (source, credentials) = (source.clone(), Credentials::none());
            let join = Message::Join { request, source, credentials, held: None, wants: true, size: None };
            sender.send(&join).await.unwrap();
        }
    };
    let hearing = async {
        let mut refused = Vec::new();
        while refused.len() < 3 {
            match receiver.recv().await.unwrap().expect("it does not hang up") {
                Message::Rejected { request, failure } => {
                    assert!(failure.text.contains("too many of your requests"), "{failure:?}");
                    refused.push(request);
                }
                Message::Joined { .. } => panic!("nobody has it"),
                _ => {}
            }
        }
        refused
    };
    let (_, refused) = tokio::time::timeout(SOON, async { tokio::join!(asking, hearing) }).await.unwrap();
    assert_eq!(refused, [MAX_OPEN, MAX_OPEN + 1, MAX_OPEN + 2]);
}
