//! A seed that lost its copy takes it from a node for its own host, while the registry is away: it gives none of it to others before it has
//! checked the whole, and goes on with another node where one can't.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use darter_agent::options::Role as AgentRole;
use darter_agent::{Agent, FetchError, Options};
use darter_core::source::Credentials;
use darter_core::{Digest, NodeId, PieceIndex};
use darter_wire::control::{self, ControlConfig};
use darter_wire::{Bind, ConnectionKind, Message, Role, SwarmPart, TcpTransport, Wanted, preface};
use http::StatusCode;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::apart::{read, source_of};
use crate::damaged::data_file;
use crate::registry::Registry;
use crate::seed::{self, Content, Part};

const SOON: Duration = Duration::from_secs(30);

/// A node that says it holds all of a blob.
struct Holder {
    content: Content,
    /// It gives what lies before this piece.
    gives: watch::Sender<u32>,
    /// How often it gave one.
    given: AtomicU32,
    /// How many pieces it was asked for.
    asked: watch::Sender<u32>,
}

impl Holder {
    fn new(content: Content, gives: u32) -> Arc<Self> {
        Arc::new(Self { content, gives: watch::channel(gives).0, given: AtomicU32::new(0), asked: watch::channel(0).0 })
    }

    async fn was_asked_for(&self, pieces: u32) {
        let mut asked = self.asked.subscribe();
        tokio::time::timeout(SOON, asked.wait_for(|asked| *asked >= pieces)).await.expect("it is asked").unwrap();
    }
}

impl Part for Holder {
    fn asked_to_lead(&self, _: NodeId, request: u32) -> Message {
        self.content.joined(request)
    }

    fn says_first(&self) -> Option<Message> {
        Some(Message::Inventory { blobs: vec![self.content.blob()] })
    }

    fn hears(&self, message: &Message) -> Option<Message> {
        let Message::AskLead { request, .. } = message else { return None };
        let part = SwarmPart::Holder;
        Some(Message::LeadIs { request: *request, part, lead: None, seeds: Vec::new(), nearest: Vec::new() })
    }

    fn bind(&self, wanted: Wanted) -> Bind {
        let piece = match wanted {
            Wanted::Piece(piece) => piece,
            Wanted::Any => PieceIndex(self.given.load(Ordering::Relaxed) % 3),
        };
        self.asked.send_modify(|asked| *asked = (*asked).max(piece.0 + 1));
        if piece.0 >= *self.gives.borrow() {
            return Bind::Wait;
        }
        self.given.fetch_add(1, Ordering::Relaxed);
        self.content.gives(piece)
    }

    fn changes(&self) -> Option<watch::Receiver<()>> {
        let (changed, mut gives) = (watch::channel(()), self.gives.subscribe());
        tokio::spawn(async move {
            while gives.changed().await.is_ok() {
                changed.0.send_replace(());
            }
        });
        Some(changed.1)
    }
}

/// A registry that has this content and does not give it now.
async fn registry_with(content: &mut Content) -> Registry {
    let registry = Registry::start().await;
    let digest = registry.put_blob("app", &content.bytes);
    registry.state.lock().broken = Some(StatusCode::SERVICE_UNAVAILABLE);
    content.source = source_of(&registry.name(), digest);
    registry
}

/// The answer to a stranger that asks the agent to lead.
async fn ask_to_lead(agent: &Agent, content: &Content) -> Message {
    let me = seed::hello(NodeId([200; 16]), Role::Node, "127.0.0.1:1");
    let address = agent.status().listen.unwrap();
    let greeted = preface::open(&TcpTransport::default(), &address, ConnectionKind::Control, &me).await.unwrap();
    let (sender, mut receiver) = control::start(greeted.stream, &ControlConfig::default());
    let (source, credentials) = (content.source.clone(), Credentials::none());
    sender.send(&Message::Join { request: 1, source, credentials, held: None, wants: true, size: None }).await.unwrap();
    let answer = async {
        loop {
            let said = receiver.recv().await.unwrap().expect("the agent stays");
            if matches!(said, Message::Joined { .. } | Message::Rejected { .. } | Message::Refuted { .. }) {
                return said;
            }
        }
    };
    tokio::time::timeout(SOON, answer).await.expect("an answer")
}

fn seed_of(dir: &std::path::Path, join: Vec<String>) -> Options {
    Options { role: AgentRole::Seed, ..seed::node(dir, join) }
}

/// A node may make up all of it: bytes, hashes, and the word that they are right.
#[tokio::test(flavor = "multi_thread")]
async fn a_seed_leads_nobody_with_what_a_node_says_and_believes_its_own_check_alone() {
    let (dir, mut content) = (tempfile::tempdir().unwrap(), Content::new());
    let registry = registry_with(&mut content).await;
    let digest = content.source.digest().unwrap();
    let mut forged = content.copy();
    forged.bytes.iter_mut().for_each(|byte| *byte ^= 1);
    let holder = Holder::new(forged, 2);
    let address = seed::start(NodeId([1; 16]), Role::Node, holder.clone(), CancellationToken::new()).await;
    let agent = Agent::start(seed_of(dir.path(), vec![address])).await.unwrap();
    let (given, end) = tokio::join!(
        async {
            let reading = agent.open(content.source.clone(), Credentials::none()).await.unwrap();
            drop(reading);
            read(&agent, &content.source).await
        },
        async {
            holder.was_asked_for(3).await;
            let answer = ask_to_lead(&agent, &content).await;
            let Message::Rejected { failure, .. } = &answer else { panic!("{answer:?}") };
            assert!(failure.text.contains("not checked yet"), "{}", failure.text);
            holder.gives.send_replace(3);
        }
    )
    .0;
    assert!(matches!(&end, Err(FetchError::WrongDigest { from, .. }) if from.contains("node")), "{end:?}");
    assert!(given.len() < content.bytes.len(), "the last piece is held back");
    registry.state.lock().broken = None;
    let (given, end) = read(&agent, &content.source).await;
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(Digest::sha256(&given), digest);
    let answer = ask_to_lead(&agent, &content).await;
    let Message::Joined { verdict: Some(verdict), .. } = &answer else { panic!("{answer:?}") };
    assert_eq!(verdict.digest, Some(digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_goes_on_with_another_node_when_the_one_that_gives_is_gone() {
    let (dir, mut content) = (tempfile::tempdir().unwrap(), Content::new());
    let registry = registry_with(&mut content).await;
    let digest = content.source.digest().unwrap();
    let (goes, leave) = (Holder::new(content.copy(), 1), CancellationToken::new());
    let (stays, stays_leaves) = (Holder::new(content.copy(), 3), CancellationToken::new());
    let join = vec![
        seed::start(NodeId([1; 16]), Role::Node, goes.clone(), leave.clone()).await,
        seed::start(NodeId([2; 16]), Role::Node, stays, stays_leaves.clone()).await,
    ];
    let agent = Agent::start(seed_of(dir.path(), join)).await.unwrap();
    let (got, ()) = tokio::join!(read(&agent, &content.source), async {
        goes.was_asked_for(2).await;
        leave.cancel();
    });
    assert!(got.1.is_ok(), "{:?}", got.1);
    assert_eq!(Digest::sha256(&got.0), digest);
    // Content that was checked is the seed's own by now.
    let answer = ask_to_lead(&agent, &content).await;
    assert!(matches!(answer, Message::Joined { verdict: Some(_), .. }), "{answer:?}");
    // Its trust in the node has ended: what the disk loses is read from the origin like anything else.
    registry.state.lock().broken = None;
    let path = data_file(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    stays_leaves.cancel();
    let (given, end) = read(&agent, &content.source).await;
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(Digest::sha256(&given), digest);
}
