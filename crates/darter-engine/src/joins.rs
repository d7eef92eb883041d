//! Questions to a lead that are waiting for its answer.
//!
//! An answer is taken the moment it is heard, before anything else that its sender says: what a lead says of a blob
//! right after letting somebody in must find that somebody in.

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
    /// The lead refused, with its reason or the origin's own word.
    #[error("{}", .0.text)]
    Rejected(Failure),
    /// The origin sent the lead other content than the digest says.
    #[error("{0}")]
    Refuted(FetchError),
    /// The lead has other content under the same name.
    #[error("it has other content under the name of what is here")]
    Otherwise,
    /// The transfer under way here has another source.
    #[error("another registry's copy is under way here")]
    Apart,
    /// The lead is gone.
    #[error("the connection was lost")]
    Gone,
    /// The lead is connected and does not answer.
    #[error("no answer")]
    Silent,
}

impl NotJoined {
    /// The origin's final word on this request: nobody else need be asked.
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

/// How this agent was let in.
#[derive(Debug)]
pub(crate) enum Entered {
    /// A new transfer begins with this.
    New(Box<Joined>),
    /// This blob's transfer was there, and follows the lead already.
    Followed {
        blob: BlobId,
        /// True if the lead has the same content, as far as that showed.
        is_same: Option<bool>,
        /// True if the lead has all of it, checked.
        is_checked: bool,
    },
}

impl Joined {
    /// True if the lead has the content that is stored here under the same name, as far as their hashes tell: an address's content is named
    /// by what its origin says of it, and some origins say the same of what they show to different callers.
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

/// A question to a lead: to be let into a source's swarm.
pub(crate) struct JoinQuestion {
    pub(crate) source: Source,
    pub(crate) credentials: Credentials,
    /// The part of it that is stored here.
    pub(crate) held: Option<Held>,
    /// True if all of it is wanted, false if only what will be said.
    pub(crate) everything: bool,
    /// How long a layer that is to be expanded is as it is stored, if a manifest is known.
    pub(crate) size: Option<u64>,
}

/// A lead's answer.
type JoinAnswer = Result<Entered, NotJoined>;

/// A lead that says nothing about a question for this long is given up. A lead whose origin is slow says every
/// [`WAITING_EVERY`] that it waits.
const LEAD_ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// A node that has said nothing about a question for this long is given up: it may be one that only says that it holds the blob, and
/// the next one is to be asked before long. An honest one has said by then that it waits.
const NODE_ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// When a lead first says that it waits for an origin, and how often from then on. Before version 4 of the protocol it was said late.
pub(crate) const FIRST_WAITING_AFTER: Duration = Duration::from_millis(500);
pub(crate) const WAITING_EVERY: Duration = Duration::from_secs(5);

/// Joins under way.
pub struct Joins {
    pauses: Pauses,
    last: AtomicU32,
    waiting: Mutex<HashMap<u32, OpenJoin>>,
}

/// One question.
struct OpenJoin {
    lead: NodeId,
    source: Source,
    answer: oneshot::Sender<JoinAnswer>,
    /// The lead said that it waits, too.
    patience: Arc<Notify>,
}

impl Joins {
    /// None yet; `pauses` tells which origins are being waited for.
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

    /// A lead waits for the origin itself.
    pub(crate) fn waits(&self, from: NodeId, request: u32) {
        if let Some(waiting) = self.waiting.lock().get(&request).filter(|waiting| waiting.lead == from) {
            waiting.patience.notify_one();
        }
    }

    /// The source of this request, if an answer to it is expected from this sender.
    pub(crate) fn awaited(&self, from: NodeId, request: u32) -> Option<Source> {
        let waiting = self.waiting.lock();
        waiting.get(&request).filter(|waiting| waiting.lead == from).map(|waiting| waiting.source.clone())
    }

    /// An answer came. An answer that nobody waits for from this sender is dropped.
    pub(crate) fn answer(&self, from: NodeId, request: u32, answer: JoinAnswer) {
        let mut waiting = self.waiting.lock();
        if waiting.get(&request).is_some_and(|waiting| waiting.lead == from)
            && let Some(waiting) = waiting.remove(&request)
        {
            // The asker may have given up just now.
            let _ = waiting.answer.send(answer);
        }
    }

    /// A lead is gone, and its answers with it.
    pub(crate) fn gone(&self, lead: NodeId) {
        self.waiting.lock().retain(|_, waiting| waiting.lead != lead);
    }
}

/// Forgets a question when nobody waits any more.
struct OpenQuestion<'a> {
    joins: &'a Joins,
    request: u32,
}

impl Drop for OpenQuestion<'_> {
    fn drop(&mut self) {
        self.joins.waiting.lock().remove(&self.request);
    }
}
