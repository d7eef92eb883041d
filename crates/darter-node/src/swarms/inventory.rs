//! What connected nodes hold whole, so that a seed whose own copy is gone — evicted, or lost with its disk — asks them
//! and not the origin.
//!
//! A node says what it holds when it meets a seed, and again when a blob is complete. Only content named by its digest
//! counts: its manifest may come from a holder, because the whole is checked against the digest before it is called
//! complete. A holder whose manifest leads to other content is believed no more for that blob.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use darter_core::{BlobId, Manifest, NodeId, PieceSet, Source, Version};
use darter_swarm::{MAX_HASHES, Start};
use darter_wire::Message;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Swarms;
use super::access::Caller;
use crate::error::FetchError;
use crate::options::Role;
use crate::transfer::{Lead, Transfer};

/// Blobs that one message tells of at most: the most recently used.
const MAX_TOLD: usize = 10_000;

/// Holders that are asked for a manifest before the origin is.
const MAX_ASKED: usize = 3;

/// How long a holder may take to answer.
const MANIFEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Who holds what, and questions about it.
#[derive(Default)]
pub(super) struct Inventory {
    holders: Mutex<HashMap<BlobId, HashSet<NodeId>>>,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    last: u32,
    waiting: HashMap<u32, (NodeId, oneshot::Sender<Option<Manifest>>)>,
}

impl Inventory {
    /// A node told what it holds.
    pub(super) fn told(&self, node: NodeId, blobs: &[BlobId]) {
        let mut holders = self.holders.lock();
        for blob in blobs.iter().take(MAX_TOLD) {
            holders.entry(*blob).or_default().insert(node);
        }
    }

    /// A node is gone.
    pub(super) fn gone(&self, node: NodeId) {
        self.holders.lock().retain(|_, nodes| {
            nodes.remove(&node);
            !nodes.is_empty()
        });
        self.asked.lock().waiting.retain(|_, (asked, _)| *asked != node);
    }

    /// What was told of this blob is not to be believed.
    pub(super) fn forget(&self, blob: BlobId) {
        self.holders.lock().remove(&blob);
    }

    /// A holder answered.
    pub(super) fn answered(&self, from: NodeId, request: u32, manifest: Option<Manifest>) {
        let mut asked = self.asked.lock();
        if asked.waiting.get(&request).is_some_and(|(node, _)| *node == from)
            && let Some((_, sender)) = asked.waiting.remove(&request)
        {
            // Whoever asked may have given up just now.
            let _ = sender.send(manifest);
        }
    }

    /// Whether nodes hold anything whole.
    pub(super) fn knows_any(&self) -> bool {
        !self.holders.lock().is_empty()
    }

    /// Whether nodes hold this blob whole.
    pub(super) fn holds(&self, blob: BlobId) -> bool {
        self.holders.lock().get(&blob).is_some_and(|nodes| !nodes.is_empty())
    }

    fn holders_of(&self, blob: BlobId) -> Vec<NodeId> {
        self.holders.lock().get(&blob).map(|nodes| nodes.iter().copied().collect()).unwrap_or_default()
    }
}

impl Swarms {
    /// Tells a seed what is here whole.
    pub(super) fn tell_inventory(self: &Arc<Self>, seed: NodeId) {
        if self.house.context.options.role != Role::Node {
            return;
        }
        let swarms = Arc::clone(self);
        self.house.tasks.spawn(async move {
            let rows = swarms.house.context.disk.list().await;
            let named = rows.into_iter().filter(|row| row.complete && row.info.digest.is_some());
            let blobs: Vec<_> = named.take(MAX_TOLD).map(|row| row.id).collect();
            if !blobs.is_empty() {
                swarms.house.fleet.say(seed, &Message::Inventory { blobs });
            }
        });
    }

    /// A holder is asked for a manifest.
    pub(super) fn tell_manifest(self: &Arc<Self>, seed: NodeId, request: u32, blob: BlobId) {
        let swarms = Arc::clone(self);
        self.house.tasks.spawn(async move {
            let stored = swarms.stored(blob).await.ok().flatten().filter(|stored| stored.is_complete());
            // One too long for a message is not told; the seed then reads the origin.
            let fits = stored.filter(|stored| stored.prefix() <= MAX_HASHES);
            let manifest = fits.map(|stored| stored.manifest());
            swarms.house.fleet.say(seed, &Message::ManifestIs { request, blob, manifest });
        });
    }

    /// Leads a swarm from what nodes hold, if any does; the origin is asked only for what gets lost on the way. Whether the
    /// caller may have it is decided already.
    pub(super) async fn lead_from_holders(
        &self,
        source: &Source,
        blob: BlobId,
        version: &Version,
        caller: Caller<'_>,
    ) -> Result<Option<Arc<Transfer>>, FetchError> {
        let holders = self.inventory.holders_of(blob);
        for holder in holders.iter().copied().take(MAX_ASKED) {
            let Some(manifest) = self.ask_manifest(holder, blob).await.filter(Manifest::is_whole) else { continue };
            let pieces = manifest.piece_count().unwrap_or_default();
            let stored = self.create(blob, source, version, manifest).await?;
            let transfer = self.begin(source, version.clone(), caller, stored).await;
            if transfer.lead() == Lead::Nobody {
                transfer.take_word_of(holder);
                transfer.lead_it(Start::TakeOver, None);
                for node in &holders {
                    transfer.count_in(*node, &PieceSet::full(pieces));
                }
                transfer.note(format!("{} nodes hold it; the origin is not asked", holders.len()));
            }
            return Ok(Some(transfer));
        }
        Ok(None)
    }

    async fn ask_manifest(&self, holder: NodeId, blob: BlobId) -> Option<Manifest> {
        let (sender, answer) = oneshot::channel();
        let request = {
            let mut asked = self.inventory.asked.lock();
            asked.last = asked.last.wrapping_add(1);
            let request = asked.last;
            asked.waiting.insert(request, (holder, sender));
            request
        };
        if !self.house.fleet.say(holder, &Message::AskManifest { request, blob }) {
            return None;
        }
        let manifest = tokio::time::timeout(MANIFEST_TIMEOUT, answer).await.ok().and_then(Result::ok).flatten();
        self.inventory.asked.lock().waiting.remove(&request);
        manifest
    }
}
