//! Seeds that make up an expanded layer, with hashes and a verdict that agree with it. Every piece of it is verified, and nobody else looks at what is mounted:
//! a node finds it once all of it is here, says whose it was, and gives nothing more of that layer before it has all of it, from another reader.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use darter_core::manifest::{hash_piece, root_of_pieces};
use darter_core::{NodeId, PieceHash, PieceIndex, PieceLength, Signer, Source, Version};
use darter_wire::{Bind, Failure, FailureKind, Message, Payload, Role, Verdict, Wanted};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::seed::Part;

struct Forger {
    file: Vec<u8>,
    given: AtomicU32,
}

impl Forger {
    const PIECES: PieceLength = PieceLength::UNKNOWN_BLOB;

    fn count(&self) -> u32 {
        Self::PIECES.count(self.file.len() as u64)
    }

    fn piece(&self, piece: u32) -> &[u8] {
        let range = Self::PIECES.range(PieceIndex(piece), self.file.len() as u64);
        &self.file[range.start() as usize..range.end() as usize]
    }
}

impl Part for Forger {
    fn asked_to_lead(&self, _: NodeId, _: u32) -> Message {
        unreachable!("it has to be known for what")
    }

    fn asked_to_lead_for(&self, _: NodeId, request: u32, source: &Source) -> Message {
        if !source.is_headed_last() {
            // Of the layer as it is stored it says nothing.
            let text = "it is full".to_owned();
            let failure = Failure { kind: FailureKind::NoSpace, status: None, text, challenge: None };
            return Message::Rejected { request, failure };
        }
        let hash = |piece| hash_piece(Self::PIECES, PieceIndex(piece), self.piece(piece), false);
        let hashes: Vec<PieceHash> = (0..self.count()).map(hash).collect();
        let version = Version::default();
        Message::Joined {
            request,
            blob: source.blob(&version),
            version,
            piece_length: Self::PIECES,
            length: Some(self.file.len() as u64),
            key: Signer::draw().key(),
            members_ask: false,
            proof: None,
            neighbours: Vec::new(),
            verdict: Some(Verdict { root: root_of_pieces(&hashes), digest: None }),
            hashes,
            whole: None,
        }
    }

    fn bind(&self, wanted: Wanted) -> Bind {
        let piece = match wanted {
            Wanted::Piece(piece) => piece,
            Wanted::Any => PieceIndex(self.given.fetch_add(1, Ordering::Relaxed) % self.count()),
        };
        Bind::Send { piece, payload: Payload::Bytes(bytes::Bytes::copy_from_slice(self.piece(piece.0))) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_finds_that_its_seeds_made_a_layer_up_and_takes_no_other_word_for_it() {
    let tar = some_tar();
    let right = expanded(&tar);
    let mut other_content = tar.clone();
    other_content[1 << 20] ^= 1;
    // Whose tar is the right one, but whose files belong to somebody else, or have other modes.
    let mut other_metadata = right.clone();
    let last = other_metadata.len() - 1;
    other_metadata[last] ^= 1;
    for file in [expanded(&other_content), other_metadata] {
        let directory = tempfile::tempdir().unwrap();
        let (registry, layer) = registry_with(&tar).await;
        let mut join = Vec::new();
        for number in [7, 8] {
            let forger = Arc::new(Forger { file: file.clone(), given: AtomicU32::new(0) });
            join.push(crate::seed::start(NodeId([number; 16]), Role::Seed, forger, CancellationToken::new()).await);
        }
        let by = |address: &String| format!("{}, read by seed {address}", registry.name());
        let all_of_them: std::collections::BTreeSet<_> = join.iter().map(by).collect();
        let node =
            darter_gateway::start(Options { join, ..options(directory.path(), "node", &registry) }).await.unwrap();
        while node.status().peers.len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }

        // It looks like any other layer as long as it is not whole.
        // The seed, which answers no question about registries, is not asked whether the caller may have it.
        let open = || node.expanded(&layer, Credentials::none(), Access::Granted, WITHIN);
        let download = open().await.unwrap();
        let at_first = ByteRange::new(0, 10_000);
        download.ensure(at_first, WITHIN).await.unwrap();
        let chunks: Vec<bytes::Bytes> = download.bytes_of(at_first).try_collect().await.unwrap();
        assert!(chunks.concat() == file[..10_000]);
        assert_eq!(reads(&registry, layer.digest), 0);

        download.want_everything();
        let error = tokio::time::timeout(WITHIN, download.ended()).await.expect("it is found");
        let FetchError::WrongDigest { expected, from, .. } = &error else { panic!("{error:?}") };
        assert_eq!(**expected, layer.diff_id);
        assert!(all_of_them.contains(from), "{from}");
        assert!(node.list().await.unwrap().iter().all(|row| row.held == 0), "nothing of it is kept");
        let told = node.explain(&layer.diff_id.to_string()).await.unwrap();
        assert!(told.failed.as_ref().unwrap().contains(from), "{told:?}");

        drop(download);
        // The other seed is asked next, and given nothing for its word: the layer is opened when it is right.
        let again = open().await.unwrap();
        let all = ByteRange::new(0, again.length().unwrap());
        assert!(again.progress().complete);
        let chunks: Vec<bytes::Bytes> = again.bytes_of(all).try_collect().await.unwrap();
        assert!(chunks.concat() == right, "it reads the layer itself");
        assert_eq!(reads(&registry, layer.digest), 1);
        let named: std::collections::BTreeSet<_> = node.status().wrong.into_iter().map(|wrong| wrong.from).collect();
        assert_eq!(named, all_of_them);
        node.drain().await;
    }
}
