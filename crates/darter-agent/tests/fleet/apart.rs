//! One digest, of a registry that is trusted and of a stranger's, asked for at the same moment: neither is given what the other one
//! sends, whichever begins first. All transfers of one digest have one name, and one place in the store.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use darter_agent::options::UpstreamOption;
use darter_agent::{Agent, FetchError, Options};
use darter_core::manifest::{hash_piece, root_of_pieces};
use darter_core::source::{Credentials, blob_of};
use darter_core::{BlobId, Digest, Manifest, NodeId, PieceIndex, PieceLength, Source};
use darter_store::{
    Amount, BlobInfo, BlobSummary, MemStore, Result, SetAside, SourceRecord, Store, StoreConfig, StoreError,
    StoredBlob, Usage,
};
use darter_wire::{Bind, Failure, FailureKind, Message, Role, Verdict, Wanted};
use futures_util::TryStreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::registries;
use crate::registry::Registry;
use crate::seed::{self, Content, Part};

/// A store that may take long to make the first place for a blob, and counts the places that were asked for and made.
struct SlowToBegin {
    store: Arc<MemStore>,
    pause: Duration,
    asked: Arc<AtomicU32>,
    made: Arc<AtomicU32>,
    /// It makes none.
    refuses: bool,
}

impl Store for SlowToBegin {
    fn open_or_create(&self, blob: BlobId, info: BlobInfo, manifest: Manifest) -> Result<Arc<dyn StoredBlob>> {
        if self.refuses {
            return Err(StoreError::NoSuchBlob(blob));
        }
        if self.asked.fetch_add(1, Ordering::Relaxed) == 0 {
            std::thread::sleep(self.pause);
        }
        let made = self.store.open_or_create(blob, info, manifest);
        self.made.fetch_add(1, Ordering::Relaxed);
        made
    }

    fn open(&self, blob: BlobId) -> Result<Option<Arc<dyn StoredBlob>>> {
        self.store.open(blob)
    }

    fn is_absent(&self, blob: BlobId) -> bool {
        self.store.is_absent(blob)
    }

    fn list(&self) -> Vec<BlobSummary> {
        self.store.list()
    }

    fn remove(&self, blob: BlobId) -> Result<bool> {
        self.store.remove(blob)
    }

    fn pin(&self, blob: BlobId, pinned: bool) -> Result<()> {
        self.store.pin(blob, pinned)
    }

    fn spare(&self, blob: BlobId, spared: bool) {
        self.store.spare(blob, spared);
    }

    fn path(&self, blob: BlobId) -> Option<std::path::PathBuf> {
        self.store.path(blob)
    }

    fn touch(&self, blob: BlobId) {
        self.store.touch(blob);
    }

    fn usage(&self) -> Usage {
        self.store.usage()
    }

    fn set_aside(&self) -> SetAside {
        self.store.set_aside()
    }

    fn set_limits(&self, quota: Option<Amount>, reserve: Amount) {
        self.store.set_limits(quota, reserve);
    }

    fn remember_source(&self, key: BlobId, record: SourceRecord) {
        self.store.remember_source(key, record);
    }

    fn recall_source(&self, key: BlobId) -> Result<Option<SourceRecord>> {
        self.store.recall_source(key)
    }

    fn flush(&self) -> Result<()> {
        self.store.flush()
    }
}

/// A seed that leads the trusted registry's blob, and can't read the stranger's. It has all of it, or nothing yet.
struct HasLabs {
    content: Content,
    is_whole: bool,
    next: AtomicU32,
}

impl Part for HasLabs {
    fn asked_to_lead(&self, _: NodeId, request: u32) -> Message {
        let failure = Failure { kind: FailureKind::Other, status: None, text: "no way there".into(), challenge: None };
        Message::Rejected { request, failure }
    }

    fn asked_to_lead_for(&self, seed: NodeId, request: u32, source: &Source) -> Message {
        let mut answer = self.content.joined(request);
        if *source != self.content.source {
            answer = self.asked_to_lead(seed, request);
        } else if let Message::Joined { hashes, verdict, .. } = &mut answer {
            let length = self.content.piece_length;
            let all = self
                .content
                .bytes
                .chunks(length.bytes() as usize)
                .zip(0..)
                .map(|(bytes, index)| hash_piece(length, PieceIndex(index), bytes, false));
            *hashes = all.filter(|_| self.is_whole).collect();
            *verdict = self.is_whole.then(|| Verdict { root: root_of_pieces(hashes), digest: None });
        }
        answer
    }

    fn bind(&self, wanted: Wanted) -> Bind {
        if !self.is_whole {
            return Bind::Wait;
        }
        let piece = match wanted {
            Wanted::Piece(piece) => piece,
            Wanted::Any => PieceIndex(self.next.fetch_add(1, Ordering::Relaxed) % 6),
        };
        self.content.gives(piece)
    }
}

/// The bytes that were given, and how that ended.
pub(crate) async fn read(agent: &Agent, source: &Source) -> (Vec<u8>, std::result::Result<(), FetchError>) {
    let mut given = Vec::new();
    let reading = async {
        let mut parts = agent.open(source.clone(), Credentials::none()).await?.stream(None);
        while let Some(bytes) = parts.try_next().await? {
            given.extend_from_slice(&bytes);
        }
        Ok(())
    };
    let end = tokio::time::timeout(Duration::from_secs(60), reading).await.expect("an end");
    (given, end)
}

/// A registry's source for a digest.
pub(crate) fn source_of(address: &str, digest: Digest) -> Source {
    Source::Registry { registry: format!("http://{address}/").parse().unwrap(), repository: "app".into(), digest }
}

#[tokio::test]
async fn neither_of_two_who_ask_different_registries_for_one_digest_is_given_what_the_other_one_sends() {
    // The stranger's transfer is made first, and stands still; or its place is, and the other one's transfer.
    for strangers_is_first in [false, true] {
        let mut content = Content::new();
        let (bytes, digest) = (content.bytes.clone(), Digest::sha256(&content.bytes));
        let registry = Registry::start().await;
        registry.put_blob("app", b"");
        {
            let mut state = registry.state.lock();
            let wrong = bytes.iter().map(|byte| byte ^ 1).collect();
            state.repositories.get_mut("app").unwrap().blobs.insert(digest, wrong);
            state.blobs_stop_after = strangers_is_first.then_some(1000);
        }
        let (lab, stranger) = (source_of("127.0.0.1:1", digest), source_of(&registry.name(), digest));
        content.source = lab.clone();
        // As who reads the origin cuts it.
        content.piece_length = PieceLength::for_blob(content.length());
        let (is_whole, next) = (strangers_is_first, AtomicU32::new(0));
        let part = Arc::new(HasLabs { content, is_whole, next });
        let seed = seed::start(NodeId([1; 16]), Role::Seed, part, CancellationToken::new()).await;
        let urls = vec!["http://127.0.0.1:1/".parse().unwrap()];
        let trusted = UpstreamOption { name: "lab".into(), urls, ..UpstreamOption::default() };
        let dir = tempfile::tempdir().unwrap();
        let stall_timeout = Duration::from_secs(6);
        let options = Options { upstreams: vec![trusted], stall_timeout, ..seed::node(dir.path(), vec![seed]) };
        let (asked, made) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let store = MemStore::new(&StoreConfig::new(Arc::new(|| 1)));
        let pause = Duration::from_millis(1500);
        let (asked_too, made_too) = (Arc::clone(&asked), Arc::clone(&made));
        let store = SlowToBegin { store: Arc::new(store), pause, asked: asked_too, made: made_too, refuses: false };
        let agent = Agent::builder(options).store(store).start().await.unwrap();
        let labs = async {
            // As soon as the stranger's place is made, or is being made.
            let began = if strangers_is_first { &made } else { &asked };
            while began.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            read(&agent, &lab).await
        };
        let ((strangers, strangers_end), (labs, labs_end)) = tokio::join!(read(&agent, &stranger), labs);
        let what = format!("the stranger's is first: {strangers_is_first}; {strangers_end:?}; {labs_end:?}");
        assert!(bytes.starts_with(&labs) && labs_end.is_err(), "{what}");
        assert!(strangers_end.is_err() && (strangers.is_empty() || !bytes.starts_with(&strangers)), "{what}");
        agent.drain().await;
    }
}

/// The rest of another's was thrown away though somebody was reading it.
#[tokio::test]
async fn what_somebody_reads_of_a_strangers_is_left_to_him_and_the_other_one_gets_his_own() {
    const LENGTH: u64 = 600_000;
    let registry = Registry::start().await;
    let bytes: Vec<u8> = (0..LENGTH as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let digest = registry.put_blob("app", &bytes);
    let (lab, stranger) = (source_of(&registry.name(), digest), source_of("evil.example", digest));
    let store = Arc::new(MemStore::new(&StoreConfig::new(Arc::new(|| 1))));
    let start = async |dir: &Path| {
        let role = darter_agent::options::Role::Seed;
        let options = Options { role, ..registries::options(dir, "seed", &registry) };
        let (asked, made) = Default::default();
        let store = SlowToBegin { store: Arc::clone(&store), pause: Duration::ZERO, asked, made, refuses: false };
        let agent = Agent::builder(options).store(store).start().await.unwrap();
        // It said so to the mirror.
        agent.proven(&lab);
        agent
    };
    let begin = {
        let store = Arc::clone(&store);
        move || {
            let length = PieceLength::for_blob(LENGTH);
            let piece = vec![7; length.bytes() as usize];
            let info = BlobInfo { name: stranger.to_string(), digest: Some(digest), ..BlobInfo::default() };
            let manifest = Manifest::new(length, Some(LENGTH));
            let stored = store.open_or_create(blob_of(&digest), info, manifest).unwrap();
            stored.extend(0, &[hash_piece(length, PieceIndex(0), &piece, false)]).unwrap();
            stored.put(PieceIndex(0), &piece).unwrap();
            store.pin(blob_of(&digest), true).unwrap();
            stored
        }
    };
    let reader = darter_store::threads::run(begin).await;
    let (dir, again) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let agent = start(dir.path()).await;
    let (given, end) = read(&agent, &lab).await;
    assert!(given == bytes && end.is_ok(), "{end:?}");
    let reading = darter_store::threads::run(move || {
        let mut begins = [0; 9];
        reader.read_at(0, &mut begins).map(|()| begins)
    });
    assert_eq!(reading.await.unwrap(), [7; 9], "it is still there for who reads it");
    agent.drain().await;

    // Now that he is done the place is the other one's; pinned it stays.
    let agent = start(again.path()).await;
    let (given, end) = read(&agent, &lab).await;
    assert!(given == bytes && end.is_ok(), "{end:?}");
    let kept = darter_store::threads::run(move || store.list()).await;
    let is_whole = |row: &BlobSummary| row.held_bytes == LENGTH && row.pinned && row.info.name == lab.to_string();
    assert!(kept.iter().any(is_whole), "{kept:?}");
    agent.drain().await;
}

/// A seed that lets in whoever asks, and counts who leaves.
struct LetsIn {
    content: Content,
    left: AtomicU32,
}

impl Part for LetsIn {
    fn asked_to_lead(&self, _: NodeId, request: u32) -> Message {
        self.content.joined(request)
    }

    fn hears(&self, message: &Message) -> Option<Message> {
        if *message == (Message::Leave { blob: self.content.blob() }) {
            self.left.fetch_add(1, Ordering::Relaxed);
        }
        None
    }
}

/// The lead went on counting it among the members, and told others to meet it.
#[tokio::test]
async fn a_node_whose_store_refuses_a_blob_leaves_the_swarm_that_a_seed_let_it_into() {
    let part = Arc::new(LetsIn { content: Content::new(), left: AtomicU32::new(0) });
    let source = part.content.source.clone();
    let seed =
        seed::start(NodeId([1; 16]), Role::Seed, Arc::clone(&part) as Arc<dyn Part>, CancellationToken::new()).await;
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(MemStore::new(&StoreConfig::new(Arc::new(|| 1))));
    let (asked, made) = Default::default();
    let store = SlowToBegin { store, pause: Duration::ZERO, asked, made, refuses: true };
    let agent = Agent::builder(seed::node(dir.path(), vec![seed])).store(store).start().await.unwrap();
    let (given, end) = read(&agent, &source).await;
    assert!(given.is_empty() && end.is_err(), "{end:?}");
    let gone = async {
        while part.left.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("a word that it leaves");
    agent.drain().await;
}
