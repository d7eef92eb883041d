//! Requests to leads that have not been answered yet.
//!
//! An answer is handled at once, before any later message of its sender: what a lead says of a blob
//! right after it has let a member in must find that member in the swarm.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use darter_core::source::Credentials;
use darter_core::{BlobId, LeadKey, NodeId, PieceHash, PieceLength, Proof, Source, Version};
use darter_fleet::Fleet;
use darter_origin::{Pauses, Pausing};
use darter_store::StoredBlob;
use darter_wire::{Failure, FailureKind, Held, Message, PeerInfo, Verdict, WANT_SINCE};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::error::FetchError;

/// A lead's answer to [`Message::Join`].
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
    /// The lead refused, for its own reason or the origin's.
    #[error("{}", .0.text)]
    Rejected(Failure),
    /// The origin sent the lead content with another digest.
    #[error("{0}")]
    Refuted(FetchError),
    /// The lead has other content under the same name.
    #[error("it has other content under this name")]
    Otherwise,
    /// The transfer in progress here has another source.
    #[error("a copy from another registry is in progress here")]
    Apart,
    /// The connection to the lead is closed.
    #[error("the connection was lost")]
    Gone,
    /// The lead is connected but does not answer.
    #[error("no answer")]
    Silent,
}

impl NotJoined {
    /// The origin's final answer to this request, after which no other agent need be asked.
    pub(crate) fn final_word(self) -> Option<FetchError> {
        match self {
            Self::Rejected(failure) => FetchError::from_failure(failure).filter(FetchError::is_final),
            Self::Refuted(error) => Some(error),
            Self::Otherwise | Self::Apart | Self::Gone | Self::Silent => None,
        }
    }

    /// True if the lead could not read the origin.
    pub(crate) const fn is_of_the_origin(&self) -> bool {
        matches!(self, Self::Rejected(failure) if matches!(failure.kind.plain(), FailureKind::Unreachable))
    }
}

/// What follows from being let in.
#[derive(Debug)]
pub(crate) enum Entered {
    /// A new transfer begins with this answer.
    New(Box<Joined>),
    /// This blob's transfer existed, and follows the lead already.
    Followed {
        blob: BlobId,
        /// True if the lead has the same content, false if not; `None` if that could not be seen.
        is_same: Option<bool>,
        /// True if the lead has all of it, checked.
        is_checked: bool,
    },
}

impl Joined {
    /// The answer in a message, and the number of the request that it answers; `None` if the message is another one.
    pub(crate) fn heard(message: Message) -> Option<(u32, Self)> {
        let Message::Joined {
            request,
            blob,
            version,
            piece_length,
            length,
            hashes,
            key,
            members_ask,
            proof,
            neighbours,
            verdict,
            whole,
        } = message
        else {
            return None;
        };
        let joined =
            Self { blob, version, piece_length, length, hashes, key, members_ask, proof, neighbours, verdict, whole };
        Some((request, joined))
    }

    /// True if the lead has the same content as is stored here under the same name, as far as their hashes show. (The content of an address is named
    /// by its origin's headers, and some origins send the same headers with different content to different callers.)
    pub(crate) fn is_same(&self, stored: &dyn StoredBlob) -> Option<bool> {
        if stored.known_count() == 0 {
            return Some(true);
        }
        if self.piece_length != stored.manifest().piece_length() {
            return None;
        }
        if let (Some(verdict), Some(root)) = (&self.verdict, stored.manifest().root()) {
            return Some(verdict.root == root);
        }
        let here = stored.hashes_from(0, self.hashes.len());
        let mut both = here.iter().zip(&self.hashes).peekable();
        both.peek()?;
        Some(both.all(|(here, there)| here == there))
    }
}

/// A request to a lead to be let into a source's swarm.
pub(crate) struct JoinQuestion {
    pub(crate) source: Source,
    pub(crate) credentials: Credentials,
    /// The pieces that are stored here.
    pub(crate) held: Option<Held>,
    /// True if everything is wanted, false if only ranges that will be named.
    pub(crate) everything: bool,
    /// For a layer that has to be expanded, the length of its stored form, if a manifest names it.
    pub(crate) size: Option<u64>,
}

/// A lead's answer.
type JoinAnswer = Result<Entered, NotJoined>;

/// How long to wait for a lead that says nothing about a request. A lead whose origin is slow says every
/// [`WAITING_EVERY`] that it waits.
const LEAD_ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// How long to wait for a node that says nothing about a request: it may only claim to hold the blob, and
/// the next node should be asked soon. An honest one has said by then that it waits.
const NODE_ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// When a lead first says that it waits for an origin, and how often from then on. Before version 4 of the protocol, leads said so later.
pub(crate) const FIRST_WAITING_AFTER: Duration = Duration::from_millis(500);
pub(crate) const WAITING_EVERY: Duration = Duration::from_secs(5);

/// The requests in progress.
pub struct Joins {
    pauses: Pauses,
    last: AtomicU32,
    waiting: Mutex<HashMap<u32, OpenJoin>>,
}

/// One request.
struct OpenJoin {
    lead: NodeId,
    source: Source,
    answer: oneshot::Sender<JoinAnswer>,
    /// Notified when the lead says that it waits, too.
    patience: Arc<Notify>,
}

impl Joins {
    /// No requests yet; `pauses` says which origins are being waited for.
    pub fn new(pauses: Pauses) -> Self {
        Self { pauses, last: AtomicU32::new(0), waiting: Mutex::default() }
    }

    /// Asks a lead to let this agent in.
    pub(crate) async fn ask(&self, fleet: &Fleet, lead: NodeId, asked: JoinQuestion) -> JoinAnswer {
        let JoinQuestion { source, credentials, held, everything, size } = asked;
        let request = self.last.fetch_add(1, Ordering::Relaxed);
        let (sender, mut answer) = oneshot::channel();
        let patience = Arc::new(Notify::new());
        let waiting = OpenJoin { lead, source: source.clone(), answer: sender, patience: Arc::clone(&patience) };
        self.waiting.lock().insert(request, waiting);
        let waits = OpenQuestion { joins: self, request };
        let question = Message::Join { request, source: source.clone(), credentials, held, wants: everything, size };
        if !fleet.say(lead, &question) {
            return Err(NotJoined::Gone);
        }
        let is_told_soon = fleet.peer(lead).is_some_and(|peer| !peer.is_seed() && peer.version >= WANT_SINCE);
        let mut most = if is_told_soon { NODE_ANSWER_TIMEOUT } else { LEAD_ANSWER_TIMEOUT };
        let mut told: Option<Pausing> = None;
        let answer = loop {
            tokio::select! {
                answer = &mut answer => break answer.unwrap_or(Err(NotJoined::Gone)),
                () = patience.notified() => {
                    most = LEAD_ANSWER_TIMEOUT;
                    let reason = format!("{} waits for it", fleet.title(lead));
                    drop(told.take());
                    told = Some(self.pauses.begin(&source, reason, WAITING_EVERY));
                }
                () = tokio::time::sleep(most) => break Err(NotJoined::Silent),
            }
        };
        drop((waits, told));
        answer
    }

    /// The lead says that it waits for the origin.
    pub(crate) fn waits(&self, from: NodeId, request: u32) {
        if let Some(waiting) = self.waiting.lock().get(&request).filter(|waiting| waiting.lead == from) {
            waiting.patience.notify_one();
        }
    }

    /// The source of a request, if an answer to it from this sender is expected.
    pub(crate) fn awaited(&self, from: NodeId, request: u32) -> Option<Source> {
        let waiting = self.waiting.lock();
        waiting.get(&request).filter(|waiting| waiting.lead == from).map(|waiting| waiting.source.clone())
    }

    /// Handles an answer. An answer that is not expected from this sender is dropped.
    pub(crate) fn answer(&self, from: NodeId, request: u32, answer: JoinAnswer) {
        let mut waiting = self.waiting.lock();
        if waiting.get(&request).is_some_and(|waiting| waiting.lead == from)
            && let Some(waiting) = waiting.remove(&request)
        {
            // The asker may have given up just now.
            let _ = waiting.answer.send(answer);
        }
    }

    /// A lead is gone: its requests fail.
    pub(crate) fn gone(&self, lead: NodeId) {
        self.waiting.lock().retain(|_, waiting| waiting.lead != lead);
    }
}

/// Removes a request when its asker no longer waits.
struct OpenQuestion<'a> {
    joins: &'a Joins,
    request: u32,
}

impl Drop for OpenQuestion<'_> {
    fn drop(&mut self) {
        self.joins.waiting.lock().remove(&self.request);
    }
}
