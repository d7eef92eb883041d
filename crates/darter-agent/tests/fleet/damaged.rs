//! Pieces that get lost on the disk of a running agent are fetched again, and nobody waits for ever.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use darter_agent::options::Role as AgentRole;
use darter_agent::{Agent, FetchError, Options};
use darter_core::NodeId;
use darter_wire::{Message, Role};
use tokio_util::sync::CancellationToken;

use crate::origin::{Answer, Origin, read};
use crate::seed::{self, Content, Part};

const SOON: Duration = Duration::from_secs(60);

fn alone(dir: &Path) -> Options {
    Options {
        role: AgentRole::Embedded,
        listen: None,
        stall_timeout: Duration::from_secs(30),
        ..seed::node(dir, Vec::new())
    }
}

/// The only data file of a data directory.
pub(crate) fn data_file(dir: &Path) -> PathBuf {
    let shards = std::fs::read_dir(dir.join("blobs")).unwrap().map(|shard| shard.unwrap().path());
    let files = shards.flat_map(|shard| std::fs::read_dir(shard).unwrap().map(|file| file.unwrap().path()));
    let mut data: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "data")).collect();
    assert_eq!(data.len(), 1);
    data.pop().unwrap()
}

#[tokio::test]
async fn what_a_disk_damaged_in_a_complete_blob_is_read_again() {
    let content: Vec<u8> = (0..3_000_000_u32).map(|at| (at * 31 + at / 251) as u8).collect();
    let served = content.clone();
    let origin = Origin::start(move |_, _| Answer::of(&served)).await;
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(alone(dir.path())).await.unwrap();
    let source = origin.blob(&content);
    assert!(read(&agent, &source).await.unwrap() == content);
    let path = data_file(dir.path());
    let flip = |at: usize| {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    };
    let cut = |length: u64| std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
    // In the middle, at both ends, and all that comes after a place.
    let damages: [&dyn Fn(); 5] =
        [&|| flip(2_900_000), &|| flip(0), &|| flip(1_500_000), &|| cut(1_000_000), &|| cut(0)];
    for (nth, damage) in damages.into_iter().enumerate() {
        damage();
        let got = tokio::time::timeout(SOON, read(&agent, &source)).await.expect("nobody waits for ever").unwrap();
        assert!(got == content, "{nth}");
        assert!(std::fs::read(&path).unwrap() == content, "{nth}: and the file is mended");
    }
    agent.drain().await;
}

/// A seed that lets everybody in and sends nothing.
struct Silent {
    content: Content,
}

impl Part for Silent {
    fn asked_to_lead(&self, _seed: NodeId, request: u32) -> Message {
        self.content.joined(request)
    }
}

#[tokio::test]
async fn who_gets_nothing_from_a_seed_ends_and_says_whom_it_waited_for() {
    let silent = Arc::new(Silent { content: Content::new() });
    let source = silent.content.source.clone();
    let address = seed::start(NodeId([1; 16]), Role::Seed, silent, CancellationToken::new()).await;
    let dir = tempfile::tempdir().unwrap();
    let options = Options { stall_timeout: Duration::from_secs(1), ..seed::node(dir.path(), vec![address.clone()]) };
    let agent = Agent::start(options).await.unwrap();
    let error =
        tokio::time::timeout(SOON, read(&agent, &source)).await.expect("it does not wait for ever").unwrap_err();
    assert!(matches!(error, FetchError::Stalled { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&format!("seed {address} to send piece 1 of 3")) && text.contains("--stall-timeout"),
        "{text}"
    );
    agent.drain().await;
}

#[tokio::test]
async fn who_gets_nothing_from_an_origin_ends_and_says_so() {
    let origin = Origin::start(|_, _| Answer { hangs_at: Some(200_000), ..Answer::of(&[7; 400_000]) }).await;
    let dir = tempfile::tempdir().unwrap();
    let options = Options { stall_timeout: Duration::from_secs(1), ..alone(dir.path()) };
    let agent = Agent::start(options).await.unwrap();
    let failed = tokio::time::timeout(SOON, read(&agent, &origin.file())).await.expect("it does not wait for ever");
    let text = failed.unwrap_err().to_string();
    assert!(text.contains(&origin.address) && text.contains("to send piece 2 of 4"), "{text}");
    agent.drain().await;
}

#[tokio::test]
async fn nobody_waits_for_the_length_of_what_was_put_away_a_moment_before() {
    let origin = Origin::start(|_, _| Answer { tells_length: false, breaks: true, ..Answer::of(&[7; 400_000]) }).await;
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(Options { origin_patience: SOON * 2, ..alone(dir.path()) }).await.unwrap();
    let download = agent.open(origin.file(), Default::default()).await.unwrap();
    assert_eq!(download.length(), None);
    agent.drain().await;
    let known = tokio::time::timeout(SOON, download.length_when_known()).await.expect("it does not wait for ever");
    assert!(matches!(known, Err(FetchError::Draining)), "{known:?}");
}

#[tokio::test]
async fn an_empty_answer_of_unknown_length_is_an_empty_blob() {
    let origin = Origin::start(|_, _| Answer { tells_length: false, ..Answer::of(b"") }).await;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let seed = Options { role: AgentRole::Seed, ..seed::node(dirs[0].path(), Vec::new()) };
    let seed = Agent::start(seed).await.unwrap();
    let node = Agent::start(seed::node(dirs[1].path(), vec![seed.status().listen.unwrap()])).await.unwrap();
    for agent in [&node, &seed] {
        let got = tokio::time::timeout(SOON, read(agent, &origin.file())).await.expect("it ends");
        assert_eq!(got.unwrap(), [0; 0]);
        // With the digest of nothing, too.
        let got = tokio::time::timeout(SOON, read(agent, &origin.blob(b""))).await.expect("it ends");
        assert_eq!(got.unwrap(), [0; 0]);
    }
    node.drain().await;
    seed.drain().await;
}

#[tokio::test]
async fn an_answer_that_ends_before_what_came_at_first_is_no_end() {
    // Of unknown length, without ranges, broken off and then shorter than before.
    let content = vec![7; 900_000];
    let (first, second, whole) = (content[..600_000].to_vec(), content[..100_000].to_vec(), content.clone());
    let origin = Origin::start(move |nth, _| {
        let unknown = |body: &[u8]| Answer { tells_length: false, ..Answer::of(body) };
        match nth {
            0 => Answer { breaks: true, ..unknown(&first) },
            1 => unknown(&second),
            _ => unknown(&whole),
        }
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(alone(dir.path())).await.unwrap();
    let got = tokio::time::timeout(SOON, read(&agent, &origin.file())).await.expect("it ends");
    assert!(got.is_err() || got.unwrap() == content, "what is not whole does not pass for it");
    agent.drain().await;
}
