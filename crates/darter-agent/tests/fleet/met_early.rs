//! A member of a swarm meets a newcomer before the newcomer knows that it was let in, or that they are neighbours.

use std::sync::Arc;
use std::time::Duration;

use darter_agent::Agent;
use darter_core::{NodeId, PieceIndex, PieceSet, Place};
use darter_wire::control::{self, ControlConfig};
use darter_wire::{Bind, ConnectionKind, Message, PeerInfo, Role, TcpTransport, Wanted, preface};
use tokio_util::sync::CancellationToken;

use crate::seed::{self, Content, Part};

const SEED: NodeId = NodeId([1; 16]);
const MEMBER: NodeId = NodeId([2; 16]);

/// A seed that lets everybody in and has never room to send, or a member that gives what is asked of it by name.
struct Player(NodeId, Arc<Content>, Option<Message>);

impl Part for Player {
    fn asked_to_lead(&self, _seed: NodeId, request: u32) -> Message {
        self.1.joined(request)
    }

    fn says_then(&self) -> Option<Message> {
        self.2.clone()
    }

    fn bind(&self, wanted: Wanted) -> Bind {
        match wanted {
            Wanted::Piece(piece) if self.0 == MEMBER => self.1.gives(piece),
            Wanted::Piece(_) => Bind::Busy,
            Wanted::Any => Bind::Wait,
        }
    }
}

#[tokio::test]
async fn a_member_that_meets_a_newcomer_before_it_is_let_in_gives_all_the_same() {
    let content = Arc::new(Content::new());
    let player = |node| Arc::new(Player(node, Arc::clone(&content), None));
    let (seed_stays, member_stays) = (CancellationToken::new(), CancellationToken::new());
    let seed = seed::start(SEED, Role::Seed, player(SEED), seed_stays).await;
    let member = seed::start(MEMBER, Role::Node, player(MEMBER), member_stays).await;
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(seed::node(dir.path(), vec![seed])).await.unwrap();

    let address = agent.status().listen.unwrap();
    let me = seed::hello(MEMBER, Role::Node, &member);
    let greeted = preface::open(&TcpTransport::default(), &address, ConnectionKind::Control, &me).await.unwrap();
    let (sender, mut receiver) = control::start(greeted.stream, &ControlConfig::default());
    let blob = content.blob();
    sender.send(&Message::Meet { blob, held: PieceSet::full(3), known: 3, wants: false }).await.unwrap();
    sender.send(&Message::AskManifest { request: 1, blob }).await.unwrap();
    // An answer in turn says that the Meet was heard.
    while !matches!(receiver.recv().await.unwrap(), Some(Message::ManifestIs { .. })) {}
    let listening = tokio::spawn(async move { while let Ok(Some(_)) = receiver.recv().await {} });

    let fetched = seed::fetch(&agent, &content);
    tokio::time::timeout(Duration::from_secs(60), fetched).await.expect("nobody is asked for what the member has");
    let traffic = agent.explain(&blob.to_string()).await.unwrap().traffic;
    assert_eq!((traffic.from_peers, traffic.from_seed), (content.length(), 0), "{traffic:?}");
    agent.drain().await;
    listening.await.unwrap();
}

#[tokio::test]
async fn a_neighbour_that_was_lost_and_gained_within_one_notice_is_followed_on() {
    let content = Arc::new(Content::new());
    let blob = content.blob();
    let player = |node, then| Arc::new(Player(node, Arc::clone(&content), then));
    let (seed_stays, member_stays) = (CancellationToken::new(), CancellationToken::new());
    let member = seed::start(MEMBER, Role::Node, player(MEMBER, None), member_stays).await;
    let info = PeerInfo { node: MEMBER, addr: member.clone(), place: Place::default() };
    let again = Message::Neighbours { blob, add: vec![info], gone: vec![MEMBER] };
    let seed = seed::start(SEED, Role::Seed, player(SEED, Some(again)), seed_stays).await;
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(seed::node(dir.path(), vec![seed])).await.unwrap();

    let me = seed::hello(MEMBER, Role::Node, &member);
    let address = agent.status().listen.unwrap();
    let greeted = preface::open(&TcpTransport::default(), &address, ConnectionKind::Control, &me).await.unwrap();
    let (sender, mut receiver) = control::start(greeted.stream, &ControlConfig::default());
    sender.send(&Message::Meet { blob, held: PieceSet::new(), known: 3, wants: true }).await.unwrap();
    let announcing = async {
        // The member knows the agent all the time: it does not answer, and tells what it comes to hold.
        while let Ok(Some(message)) = receiver.recv().await {
            if matches!(message, Message::Meet { .. }) {
                let pieces = (0..3).map(PieceIndex).collect();
                sender.send(&Message::Have { blob, pieces, known: 3 }).await.unwrap();
            }
        }
    };
    let fetched = async {
        tokio::select! {
            () = seed::fetch(&agent, &content) => {}
            () = announcing => panic!("the agent hung up"),
        }
    };
    tokio::time::timeout(Duration::from_secs(20), fetched).await.expect("the neighbour's news is heard");
    agent.drain().await;
}
