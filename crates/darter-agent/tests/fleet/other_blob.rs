//! A lead that answers a question with another blob than was asked for: a digest says which blob it is, so nobody is given
//! another one for it, above all none that others' credentials opened. And one that lets two in at once who want the same
//! digest of different registries: what a stranger's registry may send is not given to callers that asked another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use darter_agent::options::UpstreamOption;
use darter_agent::{Agent, FetchError, Options};
use darter_core::source::Credentials;
use darter_core::{Digest, NodeId, PieceIndex, Source};
use darter_wire::{Bind, Message, Role, Wanted};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::origin::read;
use crate::seed::{self, Content, Part};

/// Lets everybody into one and the same swarm, whatever was asked for, and gives all of it.
struct Same {
    content: Content,
    next: AtomicU32,
}

impl Part for Same {
    fn asked_to_lead(&self, _: NodeId, request: u32) -> Message {
        self.content.joined(request)
    }

    fn bind(&self, wanted: Wanted) -> Bind {
        let piece = match wanted {
            Wanted::Piece(piece) => piece,
            Wanted::Any => PieceIndex(self.next.fetch_add(1, Ordering::Relaxed) % 3),
        };
        self.content.gives(piece)
    }
}

#[tokio::test]
async fn a_lead_that_names_another_blob_than_the_digests_lets_nobody_into_it() {
    // Nothing is known of the other blob; or it was pulled before, by somebody else, and its transfer follows this lead.
    for pulled_before in [false, true] {
        let same = Arc::new(Same { content: Content::new(), next: AtomicU32::new(0) });
        let part: Arc<dyn Part> = Arc::<Same>::clone(&same);
        let lead = seed::start(NodeId([1; 16]), Role::Seed, part, CancellationToken::new()).await;
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent::start(seed::node(dir.path(), vec![lead])).await.unwrap();
        if pulled_before {
            seed::fetch(&agent, &same.content).await;
        }
        let registry = "http://127.0.0.1:1/".parse().unwrap();
        let asked = Source::Registry { registry, repository: "app".into(), digest: Digest::sha256(b"another") };
        let error = read(&agent, &asked).await.expect_err("there is nobody who has it");
        assert!(error.to_string().contains("127.0.0.1:1"), "its registry is asked: {error}");
        let known: Vec<_> = agent.list().await.unwrap().into_iter().map(|row| row.blob).collect();
        assert_eq!(known.contains(&same.content.blob()), pulled_before, "{known:?}");
        agent.drain().await;
    }
}

/// Answers the first question when the second one has come, then that. Nothing of the blob is ever given.
struct BothAtOnce {
    content: Content,
    first: Mutex<Option<u32>>,
    second: Mutex<Option<Message>>,
}

impl Part for BothAtOnce {
    fn asked_to_lead(&self, _: NodeId, request: u32) -> Message {
        let first = *self.first.lock().get_or_insert(request);
        if first == request {
            return Message::Waiting { request };
        }
        *self.second.lock() = Some(self.answer(request));
        self.answer(first)
    }

    fn says_then(&self) -> Option<Message> {
        self.second.lock().take()
    }
}

impl BothAtOnce {
    fn answer(&self, request: u32) -> Message {
        let mut joined = self.content.joined(request);
        if let Message::Joined { hashes, verdict, .. } = &mut joined {
            (*hashes, *verdict) = (Vec::new(), None);
        }
        joined
    }
}

#[tokio::test]
async fn a_strangers_blob_that_begins_meanwhile_is_not_given_to_who_asked_another_registry() {
    let mut content = Content::new();
    let digest = Digest::sha256(&content.bytes);
    let of = |port: u16| Source::Registry {
        registry: format!("http://127.0.0.1:{port}/").parse().unwrap(),
        repository: "app".into(),
        digest,
    };
    let (stranger, lab) = (of(2), of(1));
    content.source = stranger.clone();
    let (first, second) = Default::default();
    let script = Arc::new(BothAtOnce { content, first, second });
    let part: Arc<dyn Part> = Arc::<BothAtOnce>::clone(&script);
    let seed = seed::start(NodeId([1; 16]), Role::Seed, part, CancellationToken::new()).await;
    let urls = vec!["http://127.0.0.1:1/".parse().unwrap()];
    let trusted = UpstreamOption { name: "lab".into(), urls, ..UpstreamOption::default() };
    let dir = tempfile::tempdir().unwrap();
    let options = Options { upstreams: vec![trusted], ..seed::node(dir.path(), vec![seed]) };
    let agent = Agent::start(options).await.unwrap();
    let strangers = agent.open(stranger, Credentials::none());
    let labs = async {
        while script.first.lock().is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        agent.open(lab, Credentials::none()).await
    };
    let (strangers, labs) = tokio::join!(strangers, labs);
    // The agent with the faster disk begins the transfer; the other one has not shown that it has the same.
    let refused = match (strangers, labs) {
        (Ok(_), labs) => labs.err().expect("the stranger's transfer may come to anything"),
        (Err(error), labs) => labs.map(|_| error).expect("the seed let both in"),
    };
    assert!(matches!(refused, FetchError::Unproven { .. }), "{refused}");
    agent.drain().await;
}
