//! A member that can't reach a neighbour says so to its lead, and gets another one.

use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use darter_agent::options::Role as AgentRole;
use darter_agent::{Agent, Options};
use darter_core::source::Credentials;
use darter_core::{NodeId, PieceSet, Place, Source};
use darter_wire::control::{self, ControlConfig, ControlReceiver, ControlSender};
use darter_wire::{Bind, ConnectionKind, Message, PeerInfo, Role, TcpTransport, Wanted, preface};
use tokio_util::sync::CancellationToken;

use crate::seed::{self, Content, Part};

const SEED: NodeId = NodeId([1; 16]);
const HOLDER: NodeId = NodeId([2; 16]);
const GONE: NodeId = NodeId([3; 16]);

/// One more than a member has neighbours, the seed and the member itself aside, and some.
const MEMBERS: u8 = 24;

/// A seed that names a neighbour where nobody listens, and a holder to a node that can't reach it; and that holder.
struct Player {
    me: NodeId,
    content: Arc<Content>,
    holder: Option<PeerInfo>,
}

impl Part for Player {
    fn asked_to_lead(&self, _seed: NodeId, request: u32) -> Message {
        let mut joined = self.content.joined(request);
        if let Message::Joined { neighbours, .. } = &mut joined {
            neighbours.push(PeerInfo { node: GONE, addr: "127.0.0.1:1".to_owned(), place: Place::default() });
        }
        joined
    }

    fn hears(&self, message: &Message) -> Option<Message> {
        let blob = self.content.blob();
        if matches!(message, Message::Meet { .. }) && self.me == HOLDER {
            return Some(Message::Meet { blob, held: PieceSet::full(3), known: 3, wants: false });
        }
        let is_told = matches!(message, Message::Unreached { blob: of, peer } if *of == blob && *peer == GONE);
        is_told.then(|| Message::Neighbours { blob, add: self.holder.iter().cloned().collect(), gone: vec![GONE] })
    }

    fn bind(&self, wanted: Wanted) -> Bind {
        match wanted {
            Wanted::Piece(piece) if self.me == HOLDER => self.content.gives(piece),
            Wanted::Piece(_) => Bind::Busy,
            Wanted::Any => Bind::Wait,
        }
    }
}

#[tokio::test]
async fn a_dial_that_fails_gets_the_member_another_neighbour() {
    let content = Arc::new(Content::new());
    let player = |me, holder| Arc::new(Player { me, content: Arc::clone(&content), holder });
    let addr = seed::start(HOLDER, Role::Node, player(HOLDER, None), CancellationToken::new()).await;
    let holder = PeerInfo { node: HOLDER, addr, place: Place::default() };
    let seed = seed::start(SEED, Role::Seed, player(SEED, Some(holder)), CancellationToken::new()).await;
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(seed::node(dir.path(), vec![seed])).await.unwrap();
    let fetched = seed::fetch(&agent, &content);
    tokio::time::timeout(Duration::from_secs(60), fetched).await.expect("another neighbour gives it");
    agent.drain().await;
}

/// A member's connection to the seed.
struct Member {
    node: NodeId,
    sender: ControlSender,
    receiver: ControlReceiver,
    neighbours: Vec<NodeId>,
}

impl Member {
    async fn join(name: u8, seed: &str, source: &Source) -> Self {
        let node = NodeId([name; 16]);
        let me = seed::hello(node, Role::Node, "127.0.0.1:1");
        let greeted = preface::open(&TcpTransport::default(), seed, ConnectionKind::Control, &me).await.unwrap();
        let (sender, receiver) = control::start(greeted.stream, &ControlConfig::default());
        let (source, credentials) = (source.clone(), Credentials::default());
        sender
            .send(&Message::Join { request: 1, source, credentials, held: None, wants: true, size: None })
            .await
            .unwrap();
        let mut member = Self { node, sender, receiver, neighbours: Vec::new() };
        member.hear(|_, message| matches!(message, Message::Joined { .. })).await;
        member
    }

    /// Follows what the seed says of neighbours until something was said.
    async fn hear(&mut self, is_enough: impl Fn(&[NodeId], &Message) -> bool) -> Message {
        let hearing = async {
            loop {
                let message = self.receiver.recv().await.unwrap().expect("the seed stays");
                if let Message::Joined { neighbours: add, .. } | Message::Neighbours { add, .. } = &message {
                    if let Message::Neighbours { gone, .. } = &message {
                        self.neighbours.retain(|node| !gone.contains(node));
                    }
                    self.neighbours.extend(add.iter().map(|info| info.node));
                }
                if is_enough(&self.neighbours, &message) {
                    return message;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), hearing).await.expect("the seed says so")
    }
}

#[tokio::test]
async fn a_lead_takes_away_a_neighbour_that_cannot_be_reached_and_names_another() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    let app = axum::Router::new().route("/file", get(|| async { ([("etag", "\"1\"")], vec![7_u8; 1 << 20]) }));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let (source, _) = Source::from_url(url.parse().unwrap(), &[], None);
    let dir = tempfile::tempdir().unwrap();
    let options = Options { role: AgentRole::Seed, ..seed::node(dir.path(), Vec::new()) };
    let agent = Agent::start(options).await.unwrap();
    let address = agent.status().listen.unwrap();
    let mut members = Vec::new();
    for name in 10..10 + MEMBERS {
        members.push(Member::join(name, &address, &source).await);
    }
    let mut last = members.pop().unwrap();
    let before = last.neighbours.len();
    assert!(before < usize::from(MEMBERS) - 1, "not everybody is a neighbour");
    let blob = agent.status().swarms[0].blob;
    let mut missed = Vec::new();
    for _ in 0..3 {
        let peer = last.neighbours[0];
        last.sender.send(&Message::Unreached { blob, peer }).await.unwrap();
        last.hear(|neighbours, _| !neighbours.contains(&peer)).await;
        missed.push(peer);
    }
    // One of those that were named may be the seed itself, of which nobody is told.
    let are_enough = |neighbours: &[NodeId]| neighbours.len() + 1 >= before;
    if !are_enough(&last.neighbours) {
        last.hear(|neighbours, _| are_enough(neighbours)).await;
    }
    assert!(last.neighbours.iter().all(|node| !missed.contains(node)));
    let mut other = members.into_iter().find(|member| member.node == missed[0]).unwrap();
    other.hear(|neighbours, _| !neighbours.contains(&last.node)).await;
    agent.drain().await;
}
