//! Content that is not what its digest says: it ends once for everybody who waits, another agent tries, and whoever sent it is
//! named.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use darter_agent::options::Role;
use darter_agent::{Agent, FetchError, Options};
use darter_core::source::blob_of;
use darter_core::{Digest, NodeId, PieceIndex};
use darter_wire::{Bind, Message, Wanted};
use tokio_util::sync::CancellationToken;

use crate::origin::{Answer, Origin, read};
use crate::seed::{self, Content, Part};

const SOON: Duration = Duration::from_secs(60);

fn content(length: u32) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn damaged(content: &[u8]) -> Vec<u8> {
    let mut wrong = content.to_vec();
    *wrong.last_mut().unwrap() ^= 1;
    wrong
}

/// A seed, and nodes that join it.
async fn fleet(dir: &Path, nodes: u32) -> (Agent, Vec<Agent>) {
    let seed = Options { role: Role::Seed, ..seed::node(&dir.join("seed"), Vec::new()) };
    let seed = Agent::start(seed).await.unwrap();
    let mut joined = Vec::new();
    for number in 0..nodes {
        let options = seed::node(&dir.join(number.to_string()), vec![seed.status().listen.unwrap()]);
        joined.push(Agent::start(options).await.unwrap());
    }
    (seed, joined)
}

async fn drain(seed: &Agent, nodes: &[Agent]) {
    for agent in nodes.iter().chain([seed]) {
        agent.drain().await;
    }
}

/// harbor#20788, dragonfly#4604: wrong through one reader, right through another.
#[tokio::test]
async fn content_that_came_wrong_through_a_seed_comes_right_through_another_reader() {
    for length in [17, 60_000, 300_000, 2_000_000] {
        let content = content(length);
        let (right, wrong) = (content.clone(), damaged(&content));
        let origin = Origin::start(move |nth, _| Answer::of(if nth == 0 { &wrong } else { &right })).await;
        let dir = tempfile::tempdir().unwrap();
        let (seed, nodes) = fleet(dir.path(), 1).await;
        let got = tokio::time::timeout(SOON, read(&nodes[0], &origin.blob(&content))).await.expect("it ends");
        assert!(got.unwrap() == content, "{length}: the node reads it itself");
        assert_eq!(origin.gets(), 2, "{length}");
        let blamed = |agent: &Agent, reader: &str| {
            let wrong = agent.status().wrong;
            assert_eq!((wrong.len(), wrong[0].times), (1, 1), "{length}: {wrong:?}");
            assert_eq!(wrong[0].from, format!("{}, read by {reader}", origin.address));
        };
        blamed(&seed, "this agent");
        blamed(&nodes[0], &format!("seed {}", seed.status().listen.unwrap()));
        drain(&seed, &nodes).await;
    }
}

/// A blob of a few bytes that was always wrong was asked for seventeen times a second, for ever.
#[tokio::test]
async fn content_that_is_always_wrong_ends_for_everybody_and_is_left_alone() {
    for length in [1, 17, 60_000, 300_000] {
        let content = content(length);
        let wrong = damaged(&content);
        let origin = Origin::start(move |_, _| Answer::of(&wrong)).await;
        let dir = tempfile::tempdir().unwrap();
        let (seed, nodes) = fleet(dir.path(), 2).await;
        let source = origin.blob(&content);
        let ends = futures_util::future::join_all(nodes.iter().map(|node| read(node, &source)));
        for end in tokio::time::timeout(SOON, ends).await.expect("everybody is told") {
            assert!(matches!(end, Err(FetchError::WrongDigest { .. })), "{length}: {end:?}");
        }
        let asked = origin.gets();
        // The seed, and each node when the seed has failed; once more, if that took longer than the first pause.
        assert!(asked <= 6, "{length}: asked {asked} times");
        for agent in nodes.iter().chain([&seed]) {
            let end = read(agent, &source).await;
            assert!(matches!(end, Err(FetchError::WrongDigest { .. })), "{length}: {end:?}");
        }
        assert!(origin.gets() <= asked + 3, "{length}: once more at most, if the pause was over");
        let asked = origin.gets();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(origin.gets(), asked, "{length}: nobody waits, nobody asks");
        // Nothing of it is left but what is told.
        let told = seed.explain(&Digest::sha256(&content).to_string()).await.unwrap();
        let failed = told.failed.unwrap();
        assert!(failed.contains(&origin.address) && told.traffic.from_origin > 0, "{length}: {failed}");
        drain(&seed, &nodes).await;
    }
}

#[tokio::test]
async fn a_caller_who_has_bytes_of_a_wrong_try_is_given_the_rest_only_of_the_same_content() {
    // The wrong byte is in the first piece, which was given by the time the last one told.
    let content = content(300_000);
    let (right, mut wrong) = (content.clone(), content.clone());
    wrong[5] ^= 1;
    let origin = Origin::start(move |nth, _| Answer::of(if nth == 0 { &wrong } else { &right })).await;
    let dir = tempfile::tempdir().unwrap();
    let (seed, nodes) = fleet(dir.path(), 1).await;
    let source = origin.blob(&content);
    match tokio::time::timeout(SOON, read(&nodes[0], &source)).await.expect("it ends") {
        // The try failed before its first piece was asked for.
        Ok(got) => assert!(got == content),
        Err(error) => assert!(matches!(error, FetchError::WrongDigest { .. }), "{error}"),
    }
    let again = tokio::time::timeout(SOON, read(&nodes[0], &source)).await.expect("it ends");
    assert!(again.unwrap() == content, "who asks again gets it from another reader");
    drain(&seed, &nodes).await;
}

/// A seed that throws a blob away while a member asks for its last piece: it knows nothing of the blob any more before the member
/// hears why, and says so only when it is asked to lead again.
struct Dissolving {
    wrong: Content,
    expected: Digest,
    joins: AtomicU32,
    given: AtomicU32,
}

impl Part for Dissolving {
    fn asked_to_lead(&self, _seed: NodeId, request: u32) -> Message {
        let (blob, got) = (blob_of(&self.expected), Digest::sha256(&self.wrong.bytes));
        let mut joined = self.wrong.joined(request);
        match &mut joined {
            Message::Joined { blob: named, verdict, .. } if self.joins.fetch_add(1, Ordering::Relaxed) == 0 => {
                (*named, *verdict) = (blob, None);
            }
            _ => return Message::Refuted { request: Some(request), blob, expected: self.expected, got, reader: None },
        }
        joined
    }

    fn bind(&self, _wanted: Wanted) -> Bind {
        match self.given.fetch_add(1, Ordering::Relaxed) {
            piece @ 0..2 => self.wrong.gives(PieceIndex(piece)),
            _ => Bind::UnknownBlob,
        }
    }
}

#[tokio::test]
async fn a_seed_that_is_lost_before_it_says_that_it_read_something_else_is_named_and_its_pieces_are_not_kept() {
    let mut wrong = Content::new();
    let right = wrong.bytes.clone();
    // In the second piece.
    wrong.bytes[300_000] ^= 1;
    let served = right.clone();
    let origin = Origin::start(move |_, _| Answer::of(&served)).await;
    let (joins, given) = (AtomicU32::new(0), AtomicU32::new(0));
    let part = Arc::new(Dissolving { wrong, expected: Digest::sha256(&right), joins, given });
    let address = seed::start(NodeId([1; 16]), darter_wire::Role::Seed, part, CancellationToken::new()).await;
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(seed::node(dir.path(), vec![address.clone()])).await.unwrap();
    let source = origin.blob(&right);
    let read_soon = || async { tokio::time::timeout(SOON, read(&agent, &source)).await.expect("it ends") };
    match read_soon().await {
        // Nothing had been given when the seed took it back.
        Ok(got) => assert!(got == right),
        Err(error) => assert!(matches!(error, FetchError::WrongDigest { .. }), "{error}"),
    }
    assert!(read_soon().await.unwrap() == right, "who asks again gets it from another reader, this agent");
    let wrong = agent.status().wrong;
    let expected = format!("{}, read by seed {address}", origin.address);
    assert_eq!(wrong.iter().map(|it| (it.from.as_str(), it.times)).collect::<Vec<_>>(), [(expected.as_str(), 1)]);
    agent.drain().await;
}
