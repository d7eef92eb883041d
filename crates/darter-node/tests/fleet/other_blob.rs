//! A lead that answers a question with another blob than was asked for: a digest says which blob it is, so nobody is given
//! another one for it, above all none that others' credentials opened.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use darter_core::{BlobId, Digest, NodeId, PieceIndex, Source};
use darter_node::Agent;
use darter_wire::{Bind, Message, Payload, Role, Uploads, Wanted};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::origin::read;
use crate::seed::{self, Content, Part};

/// Lets everybody into one and the same swarm, whatever was asked for, and gives all of it.
struct Same {
    content: Content,
    next: AtomicU32,
    changes: watch::Sender<()>,
}

impl Part for Same {
    fn asked_to_lead(&self, _: NodeId, request: u32) -> Message {
        self.content.joined(request)
    }
}

impl Uploads for Same {
    fn bind(&self, _: NodeId, _: BlobId, wanted: Wanted) -> Bind {
        let piece = match wanted {
            Wanted::Piece(piece) => piece,
            Wanted::Any => PieceIndex(self.next.fetch_add(1, Ordering::Relaxed) % 3),
        };
        Bind::Send { piece, payload: Payload::Bytes(Bytes::copy_from_slice(self.content.piece(piece.0))) }
    }

    fn sent(&self, _: NodeId, _: BlobId, _: PieceIndex, _: bool) {}

    fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

#[tokio::test]
async fn a_lead_that_names_another_blob_than_the_digests_lets_nobody_into_it() {
    // Nothing is known of the other blob; or it was pulled before, by somebody else, and its transfer follows this lead.
    for pulled_before in [false, true] {
        let same = Arc::new(Same { content: Content::new(), next: AtomicU32::new(0), changes: watch::channel(()).0 });
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
