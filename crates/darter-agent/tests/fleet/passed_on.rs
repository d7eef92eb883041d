//! In a large swarm the lead lets members in without a list of hashes: they tell each other, with the lead's word for it.

use std::sync::Arc;
use std::time::Duration;

use darter_agent::Agent;
use darter_core::{HashChain, LeadKey, NodeId, PieceHash, PieceSet, Signer};
use darter_wire::control::{self, ControlConfig, ControlReceiver, ControlSender};
use darter_wire::{Bind, ConnectionKind, Message, Role, TcpTransport, Wanted, preface};
use tokio_util::sync::CancellationToken;

use crate::seed::{self, Content, Part};

const SEED: NodeId = NodeId([1; 16]);
const MEMBER: NodeId = NodeId([2; 16]);
const NEWCOMER: NodeId = NodeId([3; 16]);
const LIARS: [NodeId; 3] = [NodeId([4; 16]), NodeId([5; 16]), NodeId([6; 16])];

/// A seed that says nothing of hashes and has never room to send, or a member that gives what is asked of it by name.
struct Player {
    name: NodeId,
    content: Arc<Content>,
    /// The key that the lead's proofs are checked with.
    key: LeadKey,
}

impl Part for Player {
    fn asked_to_lead(&self, _seed: NodeId, request: u32) -> Message {
        let mut joined = self.content.joined(request);
        if let Message::Joined { hashes, key, members_ask, .. } = &mut joined {
            (*key, *members_ask) = (self.key, true);
            hashes.clear();
        }
        joined
    }

    fn bind(&self, wanted: Wanted) -> Bind {
        match wanted {
            Wanted::Piece(piece) if self.name == MEMBER => self.content.gives(piece),
            Wanted::Piece(_) => Bind::Busy,
            Wanted::Any => Bind::Wait,
        }
    }
}

/// One of the swarm, with a control connection to the agent.
async fn member(player: Player, agent: &str) -> (ControlSender, ControlReceiver) {
    let name = player.name;
    let address = seed::start(name, Role::Node, Arc::new(player), CancellationToken::new()).await;
    let me = seed::hello(name, Role::Node, &address);
    let greeted = preface::open(&TcpTransport::default(), agent, ConnectionKind::Control, &me).await.unwrap();
    control::start(greeted.stream, &ControlConfig::default())
}

/// Waits until the agent asks for hashes.
async fn asked(receiver: &mut ControlReceiver) {
    while !matches!(receiver.recv().await.unwrap(), Some(Message::AskHashes { from: 0, .. })) {}
}

/// The next answer with hashes, or that there are none.
async fn answered(receiver: &mut ControlReceiver) -> Option<Message> {
    loop {
        let message = receiver.recv().await.unwrap()?;
        if matches!(message, Message::Grew { .. }) {
            return Some(message);
        }
    }
}

#[tokio::test]
async fn hashes_are_passed_on_with_the_leads_word_and_taken_only_with_it() {
    let (content, mut lead) = (Arc::new(Content::new()), Signer::draw());
    let key = lead.key();
    let player = |name| Player { name, content: Arc::clone(&content), key };
    let seed = seed::start(SEED, Role::Seed, Arc::new(player(SEED)), CancellationToken::new()).await;
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(seed::node(dir.path(), vec![seed])).await.unwrap();
    let address = agent.status().listen.unwrap();
    let (blob, hashes) = (content.blob(), content.hashes());
    let chain_of = |hashes: &[PieceHash]| {
        let mut chain = HashChain::new(blob, content.piece_length);
        chain.extend(hashes);
        chain
    };

    let (honest, mut to_honest) = member(player(MEMBER), &address).await;
    let (newcomer, mut to_newcomer) = member(player(NEWCOMER), &address).await;
    let fetching = seed::fetch(&agent, &content);
    let told = async {
        // Each of them is met by the agent as soon as it is in the swarm itself. Nobody but a liar can be asked at first.
        let wrong = vec![PieceHash([9; 32]); 3];
        let right = Some(lead.prove(&chain_of(&hashes)));
        let forged = [None, Some(Signer::draw().prove(&chain_of(&wrong))), right];
        let mut liars = Vec::new();
        for (name, proof) in LIARS.into_iter().zip(forged) {
            let (liar, mut to_liar) = member(player(name), &address).await;
            liar.send(&Message::Meet { blob, held: PieceSet::full(3), known: 3, wants: false }).await.unwrap();
            asked(&mut to_liar).await;
            let (hashes, members_ask) = (wrong.clone(), true);
            liar.send(&Message::Grew { blob, from: 0, hashes, length: None, members_ask, proof }).await.unwrap();
            liars.push((liar, to_liar));
        }
        honest.send(&Message::Meet { blob, held: PieceSet::full(3), known: 3, wants: false }).await.unwrap();
        asked(&mut to_honest).await;
        let proof = right;
        let all = hashes.clone();
        honest
            .send(&Message::Grew { blob, from: 0, hashes: all, length: None, members_ask: true, proof })
            .await
            .unwrap();

        newcomer.send(&Message::Meet { blob, held: PieceSet::new(), known: 0, wants: true }).await.unwrap();
        loop {
            newcomer.send(&Message::AskHashes { blob, from: 1 }).await.unwrap();
            // The agent answers nothing to peers that it has not met, and to those that ask too often.
            let answer = tokio::time::timeout(Duration::from_millis(300), answered(&mut to_newcomer)).await;
            if let Ok(Some(Message::Grew { from, hashes: passed, proof, .. })) = answer
                && !passed.is_empty()
            {
                assert_eq!((from, &passed[..]), (1, &hashes[1..]));
                assert!(key.proves(&chain_of(&hashes), &proof.unwrap()));
                break;
            }
        }
    };
    let both = async { tokio::join!(fetching, told) };
    tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .expect("the member has everything, and hashes are passed on");
    let traffic = agent.explain(&blob.to_string()).await.unwrap().traffic;
    assert_eq!((traffic.from_peers, traffic.from_seed), (content.length(), 0), "{traffic:?}");
    agent.drain().await;
}
