//! Questions to a lead that are waiting for its answer.
//!
//! An answer is taken the moment it is heard, before anything else that its sender says: what a lead says of a blob
//! right after letting somebody in must find that somebody in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use darter_core::source::Credentials;
use darter_core::{BlobId, LeadKey, NodeId, PieceHash, PieceLength, Proof, Source, Version};
use darter_wire::{Failure, Held, Message, PeerInfo, Verdict};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::error::FetchError;
use crate::fleet::Fleet;

/// What a lead answered to [`Message::Join`].
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) blob: BlobId,
    pub(crate) version: Version,
    pub(crate) piece_length: PieceLength,
    pub(crate) length: Option<u64>,
    pub(crate) hashes: Vec<PieceHash>,
    pub(crate) key: LeadKey,
    pub(crate) members_ask: bool,
    pub(crate) proof: Option<Proof>,
    pub(crate) neighbours: Vec<PeerInfo>,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) whole: Option<Vec<u8>>,
}

/// Why a lead did not let this agent in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotJoined {
    /// It said why; the origin's own word if there is one.
    #[error("{}", .0.text)]
    Rejected(Failure),
    /// It is gone.
    #[error("the connection was lost")]
    Gone,
}

impl NotJoined {
    /// The origin's final word on this request: nobody else need be asked.
    pub(crate) fn final_word(self) -> Option<FetchError> {
        match self {
            Self::Rejected(failure) => FetchError::from_failure(failure).filter(FetchError::is_final),
            Self::Gone => None,
        }
    }
}

/// A lead's answer: what a new transfer begins with, or `None` where the blob's transfer has followed the lead already.
type Answer = Result<Option<Joined>, NotJoined>;

/// Joins under way.
#[derive(Default)]
pub(crate) struct Joins {
    last: AtomicU32,
    waiting: Mutex<HashMap<u32, (NodeId, oneshot::Sender<Answer>)>>,
}

impl Joins {
    /// Asks a lead to let this agent in.
    pub(crate) async fn ask(
        &self,
        fleet: &Fleet,
        lead: NodeId,
        source: Source,
        credentials: Credentials,
        held: Option<Held>,
    ) -> Answer {
        let request = self.last.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().insert(request, (lead, sender));
        let waits = Waits { joins: self, request };
        if !fleet.say(lead, &Message::Join { request, source, credentials, held, wants: true }) {
            return Err(NotJoined::Gone);
        }
        let answer = answer.await.unwrap_or(Err(NotJoined::Gone));
        drop(waits);
        answer
    }

    /// Whether an answer to this request is expected from this sender.
    pub(crate) fn is_waiting(&self, from: NodeId, request: u32) -> bool {
        self.waiting.lock().get(&request).is_some_and(|(lead, _)| *lead == from)
    }

    /// An answer came. One that nobody waits for from this sender is dropped.
    pub(crate) fn answer(&self, from: NodeId, request: u32, answer: Answer) {
        let mut waiting = self.waiting.lock();
        if waiting.get(&request).is_some_and(|(lead, _)| *lead == from)
            && let Some((_, sender)) = waiting.remove(&request)
        {
            // Whoever asked may have given up just now.
            let _ = sender.send(answer);
        }
    }

    /// A lead is gone, and its answers with it.
    pub(crate) fn gone(&self, lead: NodeId) {
        self.waiting.lock().retain(|_, (asked, _)| *asked != lead);
    }
}

/// Forgets a question when nobody waits any more.
struct Waits<'a> {
    joins: &'a Joins,
    request: u32,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.joins.waiting.lock().remove(&self.request);
    }
}
