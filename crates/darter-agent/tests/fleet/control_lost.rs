//! A seed's control connection goes while pieces that it sent are still in hand.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use darter_agent::Agent;
use darter_core::{NodeId, PieceIndex};
use darter_wire::{Bind, Message, Role, Wanted};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::seed::{self, Content, Part};

/// Two seeds with one mind. The one that is asked to lead first tells no hash, sends one piece, which therefore has to wait
/// where it arrived, and leaves once that is sure to have arrived; the other tells the hashes and gives what is asked.
struct Script {
    content: Content,
    first: Mutex<Option<NodeId>>,
    leave: HashMap<NodeId, CancellationToken>,
    asks_of_first: AtomicU32,
    asks_of_second: AtomicU32,
}

/// One of the two.
struct Player(NodeId, Arc<Script>);

impl Part for Player {
    fn asked_to_lead(&self, seed: NodeId, request: u32) -> Message {
        let script = &self.1;
        let first = *script.first.lock().get_or_insert(seed);
        let mut joined = script.content.joined(request);
        if let Message::Joined { hashes, verdict, .. } = &mut joined
            && first == seed
        {
            (*hashes, *verdict) = (Vec::new(), None);
        }
        joined
    }

    fn bind(&self, wanted: Wanted) -> Bind {
        let script = &self.1;
        let give = |index: u32| script.content.gives(PieceIndex(index));
        if *script.first.lock() != Some(self.0) {
            return match wanted {
                Wanted::Piece(piece) => give(piece.0),
                Wanted::Any => give((1 + script.asks_of_second.fetch_add(1, Ordering::Relaxed)) % 3),
            };
        }
        // The agent asks for three pieces at once. It asks anew when it has heard that there is no second one, which came
        // behind the first one: that one is in its hands.
        match script.asks_of_first.fetch_add(1, Ordering::Relaxed) {
            0 => return give(0),
            1 | 2 => {}
            _ => script.leave[&self.0].cancel(),
        }
        Bind::Busy
    }
}

#[tokio::test]
async fn a_piece_that_is_stored_after_its_seed_left_is_counted_as_the_seeds() {
    let names = [1, 2].map(|name| NodeId([name; 16]));
    let script = Arc::new(Script {
        content: Content::new(),
        first: Mutex::default(),
        leave: names.map(|name| (name, CancellationToken::new())).into(),
        asks_of_first: AtomicU32::new(0),
        asks_of_second: AtomicU32::new(0),
    });
    let mut seeds = Vec::new();
    for name in names {
        let part = Arc::new(Player(name, Arc::clone(&script)));
        seeds.push(seed::start(name, Role::Seed, part, script.leave[&name].clone()).await);
    }
    let dir = tempfile::tempdir().unwrap();
    let options = seed::node(dir.path(), seeds);
    let agent = Agent::start(options).await.unwrap();

    let content = &script.content;
    seed::fetch(&agent, content).await;
    let first = script.first.lock().unwrap();
    assert!(script.leave[&first].is_cancelled(), "the first seed left in the middle");
    let explanation = agent.explain(&content.blob().to_string()).await.unwrap();
    let traffic = explanation.traffic;
    assert_eq!((traffic.from_seed, traffic.from_peers), (content.length(), 0), "{explanation:?}");
    let traffic = agent.status().traffic;
    assert!(traffic.from_seed >= content.length() && traffic.from_peers == 0, "{traffic:?}");
    agent.drain().await;
}
