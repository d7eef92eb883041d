//! All blobs that this agent transfers now, by id.
//!
//! | file | what lives there |
//! |---|---|
//! | [`again`] | the bytes for one caller, over several tries if the content was wrong |
//! | this one | [`Swarms`]: the table; keeps messages about a blob until it has a transfer; retires idle transfers |
//! | `listening` | passes each message of a peer to the transfer that it is about |
//! | `access` | which callers may have the known content of an address |
//! | `inventory` | complete blobs of nodes, of which a seed may have lost its own copy |
//! | `lending` | layers' own blobs, for making their expanded form |
//! | `limits` | origins that limit requests |
//! | `by_seeds` | a node opens a source through seeds |
//! | `holders` | a node that holds everything, used while the origin does not answer |
//! | `digests` | an address with a digest and the same address without one |
//! | `doors` | one request for all callers that want a source at the same time |
//! | `first_answer` | the first answer of an origin, which may serve no ranges |
//! | `open` | from a source to a transfer: whether to follow or to lead, for programs of this host and members |
//! | `joining` | asks another agent to let this one into its swarm |
//! | `leading` | leads, with stored content or the origin's answer |
//! | `places` | a blob's place in the store |
//! | `proof` | whether stored content may be served for a registry that did not deliver it |
//! | `nodes` | opens a source without a seed: which node leads |
//! | `seeds` | opens a source among several seeds: which of them has it |
//! | `refused` | why an agent that was asked to lead does not |
//! | `uploads` | which pieces are sent to peers |
//!
//! After a lead has let this agent in, a disk access is needed before the transfer exists. The lead's messages about the
//! blob are kept meanwhile, and passed to the transfer before any later message.
//!
//! A member that is told of a newcomer may send it a Meet before the lead's answer has reached the newcomer, and sends it only once. So
//! messages of such a *stranger* are kept, too.
//!
//! Lock order: `early`, then `strangers` or `transfers`, then a transfer's state.

mod access;
pub mod again;
mod by_seeds;
mod digests;
mod doors;
mod first_answer;
mod holders;
mod inventory;
mod joining;
mod leading;
mod lending;
mod limits;
mod listening;
mod nodes;
mod open;
mod places;
mod proof;
mod refused;
mod sample;
mod seeds;
mod silent;
mod uploads;

pub use self::listening::ListeningSwarms;
pub use self::uploads::GivingSwarms;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use darter_core::{BlobId, Moment, NodeId, Source};
use darter_fleet::questions::Questions;
use darter_store::StoredBlob;
use darter_wire::descriptors;
use darter_wire::{Failure, FailureKind, Message};
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use crate::error::FetchError;
use crate::joins::{Entered, Joined, NotJoined};
use crate::transfer::{House, Lead, Outcome, Transfer};

/// A transfer that was neither read nor requested for this time is closed; its blob stays in the store.
const RETIRE_AFTER: Duration = Duration::from_secs(60);

/// A transfer of a blob that passes through is closed after this time without a reader, since nothing of it is stored to resume from.
const RETIRE_PASSING_AFTER: Duration = Duration::from_secs(10);

/// A lead remembers its members for longer, so that it can tell them of the next member.
const RETIRE_LEAD_AFTER: Duration = Duration::from_secs(600);

/// Ended transfers may use this part of the files that this process may have open (a divisor): each has its blob's file open.
const IDLE_SHARE: usize = 4;

/// If idle transfers use more than that, a transfer is closed once it was idle for this long.
const RETIRE_SURPLUS_AFTER: Duration = Duration::from_millis(250);

/// Limits on the kept messages of strangers: the number of blobs, and the messages for each.
const MAX_STRANGE: (usize, usize) = (256, 256);

/// Most messages of the lead that are kept for a blob until it has a transfer. Other agents may use a quarter of that.
const MAX_EARLY: usize = 4096;

/// Most requests of one peer that are in progress at a time: as many as a control channel has room for answers.
const MAX_QUESTIONS: u32 = 4096;

/// All transfers of an agent.
pub struct Swarms {
    /// The values that all transfers share.
    pub house: House,
    transfers: Mutex<HashMap<BlobId, UsedTransfer>>,
    /// Messages about blobs whose transfer is being created.
    early: Mutex<HashMap<BlobId, Early>>,
    /// Messages, from a Meet on, about blobs without a transfer. Changed only with `early` locked,
    /// like a part of it.
    strangers: Mutex<HashMap<BlobId, Early>>,
    opening: doors::Doors,
    /// The doors of a seed that looks for another seed with a source.
    following: doors::Doors,
    beginnings: doors::BlobTurns,
    comparisons: proof::Comparisons,
    inventory: inventory::Inventory,
    limits: limits::Limits,
    questions: Arc<Questions>,
    silent: silent::SilentNodes,
    /// Blobs without a transfer from which peers fetch pieces.
    served: Mutex<HashMap<BlobId, ServedBlob>>,
    draining: AtomicBool,
    /// Cancelled when the agent ends: it no longer waits for origins, which may never answer.
    ends: CancellationToken,
    /// False once no blob is created any more. Locked for reading while one is created.
    creates: Arc<RwLock<bool>>,
}

struct UsedTransfer {
    transfer: Arc<Transfer>,
    used: Moment,
}

/// Messages about a blob that arrived before it had a transfer.
#[derive(Default)]
struct Early {
    since: Moment,
    /// The lead that let this agent in.
    lead: Option<NodeId>,
    said: Vec<(NodeId, Message)>,
}

impl Early {
    /// Keeps messages of the lead, and some of others.
    fn keep(&mut self, from: NodeId, message: Message) {
        let most = if self.lead == Some(from) { MAX_EARLY } else { MAX_EARLY / 4 };
        if self.said.len() < most {
            self.said.push((from, message));
        }
    }
}

/// A blob without a transfer, as far as its state is known.
struct ServedBlob {
    state: ServedState,
    used: Moment,
}

/// A blob whose pieces are sent to peers, as long as nothing else needs its space.
struct RestingBlob(Arc<dyn StoredBlob>);

impl RestingBlob {
    fn new(stored: Arc<dyn StoredBlob>) -> Self {
        stored.rest();
        Self(stored)
    }
}

impl Drop for RestingBlob {
    fn drop(&mut self) {
        // Evicted or not, the blob has one user fewer.
        let _ = self.0.wake();
    }
}

enum ServedState {
    Opening,
    /// The blob, and true if its pieces may be sent packed.
    Open(RestingBlob, bool),
    /// It was not stored here when last checked.
    Absent,
}

impl Swarms {
    /// No transfers yet.
    pub fn new(house: House) -> Arc<Self> {
        let swarms = Arc::new(Self {
            house,
            transfers: Mutex::default(),
            early: Mutex::default(),
            strangers: Mutex::default(),
            opening: doors::Doors::default(),
            following: doors::Doors::default(),
            beginnings: doors::BlobTurns::default(),
            comparisons: proof::Comparisons::default(),
            inventory: inventory::Inventory::default(),
            limits: limits::Limits::default(),
            questions: Questions::new(MAX_QUESTIONS),
            silent: silent::SilentNodes::default(),
            served: Mutex::default(),
            draining: AtomicBool::new(false),
            ends: CancellationToken::new(),
            creates: Arc::new(RwLock::new(true)),
        });
        Self::lends(&swarms);
        let throws = Arc::downgrade(&swarms);
        swarms.house.context.expansions.throws_away(move |blob, error| {
            let transfer = throws.upgrade().and_then(|swarms| swarms.get(blob));
            transfer.is_some_and(|transfer| {
                transfer.throw_away(error.clone());
                true
            })
        });
        swarms
    }

    /// The transfer of a blob. One that failed, or whose blob was evicted, is removed instead, so that the next request
    /// starts a new one.
    pub fn get(&self, blob: BlobId) -> Option<Arc<Transfer>> {
        let mut transfers = self.transfers.lock();
        let entry = transfers.get_mut(&blob)?;
        let failed = matches!(entry.transfer.outcome(), Outcome::Failed(_));
        if !failed && !entry.transfer.is_evicted() {
            entry.used = self.house.context.now();
            return Some(Arc::clone(&entry.transfer));
        }
        let entry = transfers.remove(&blob)?;
        drop(transfers);
        if failed {
            entry.transfer.close();
        } else {
            // Without the lock: leaving may find that a peer is gone, and then every transfer is notified.
            entry.transfer.leave();
        }
        None
    }

    /// The transfer of a blob for a reader on this host. If a transfer passes through and has forgotten its beginning, it goes on only for its
    /// present readers, if it can, and a new one is begun.
    pub(super) fn get_to_read(&self, blob: BlobId) -> Option<Arc<Transfer>> {
        let transfer = self.get(blob)?;
        if !transfer.is_past_its_beginning() || !(transfer.is_alone() || transfer.is_complete()) {
            return Some(transfer);
        }
        let mut transfers = self.transfers.lock();
        if transfers.get(&blob).is_some_and(|entry| Arc::ptr_eq(&entry.transfer, &transfer)) {
            transfers.remove(&blob);
        }
        drop(transfers);
        transfer.go_alone();
        None
    }

    /// Every transfer.
    pub fn all(&self) -> Vec<Arc<Transfer>> {
        self.transfers.lock().values().map(|entry| Arc::clone(&entry.transfer)).collect()
    }

    /// Accepts no new blobs from here on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Lets no blob into the store from here on, also not one that is being opened: when this returns, all blobs that there will be are there.
    pub async fn create_no_more(&self) {
        self.drain();
        let creates = Arc::clone(&self.creates);
        self.house.context.disk.run(move || *creates.write() = false).await;
    }

    /// No longer waits for origins that were asked to open a source: for an agent that ends, from which nobody reads any more.
    pub fn give_up_openings(&self) {
        self.ends.cancel();
    }

    /// True if this agent accepts no new blobs.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Closes a transfer, so that its blob can be removed. Returns false if a program of this host reads the blob.
    pub fn put_away(&self, blob: BlobId) -> bool {
        let entry = {
            let mut transfers = self.transfers.lock();
            if transfers.get(&blob).is_some_and(|entry| entry.transfer.has_readers()) {
                return false;
            }
            transfers.remove(&blob)
        };
        // Without the lock: leaving may find that a peer is gone, and then every transfer is notified.
        if let Some(entry) = entry {
            entry.transfer.leave();
        }
        self.served.lock().remove(&blob);
        true
    }

    /// Closes idle transfers. Called every few seconds.
    pub fn retire(&self) {
        let now = self.house.context.now();
        let is_idle = |entry: &UsedTransfer| {
            let transfer = &entry.transfer;
            let patience = if transfer.is_leading_others() { RETIRE_LEAD_AFTER } else { RETIRE_AFTER };
            let over = !matches!(transfer.outcome(), Outcome::Open) || transfer.is_at_rest();
            over && !transfer.has_readers() && now.since(entry.used) > patience
        };
        let mut evicted = Vec::new();
        self.transfers.lock().retain(|_, entry| {
            entry.transfer.may_rest();
            let idle = is_idle(entry);
            let in_vain = entry.transfer.passes_in_vain() && now.since(entry.used) > RETIRE_PASSING_AFTER;
            let at_rest = idle && matches!(entry.transfer.outcome(), Outcome::Open);
            if entry.transfer.is_evicted() || in_vain || at_rest {
                evicted.push(Arc::clone(&entry.transfer));
            } else if idle {
                entry.transfer.close();
                return false;
            } else {
                return true;
            }
            false
        });
        // Without the lock, as above.
        for transfer in evicted {
            transfer.leave();
        }
        self.take_lent_back();
        self.served.lock().retain(|_, kept| now.since(kept.used) <= RETIRE_AFTER);
        // Removes messages for transfers that were never created.
        self.early.lock().retain(|_, early| now.since(early.since) <= RETIRE_AFTER);
        self.strangers.lock().retain(|_, met| now.since(met.since) <= RETIRE_AFTER);
    }

    /// Puts a transfer into the table, lets it follow the lead that let it in, and passes it the messages that were kept.
    /// If its blob has a transfer already, that one is used and the new one closed.
    fn register(&self, transfer: Arc<Transfer>, follow: Option<(NodeId, Joined)>) -> Arc<Transfer> {
        let mut early = self.early.lock();
        let source = transfer.source.clone();
        let registered = {
            let mut transfers = self.transfers.lock();
            let used = self.house.context.now();
            match transfers.get(&transfer.blob) {
                Some(entry) if Arc::ptr_eq(&entry.transfer, &transfer) => transfer,
                Some(entry) if !entry.transfer.is_over() => {
                    transfer.close();
                    Arc::clone(&entry.transfer)
                }
                _ => {
                    let failed =
                        transfers.insert(transfer.blob, UsedTransfer { transfer: Arc::clone(&transfer), used });
                    if let Some(failed) = failed {
                        failed.transfer.close();
                    }
                    transfer
                }
            }
        };
        match follow {
            Some((lead, joined)) if self.may_follow(&registered, lead, &source) => registered.follow(lead, joined),
            Some((lead, _)) if registered.lead() != Lead::Node(lead) => {
                self.house.fleet.say(lead, &Message::Leave { blob: registered.blob });
            }
            _ => {}
        }
        let strangers = self.strangers.lock().remove(&registered.blob).unwrap_or_default();
        let before = early.remove(&registered.blob).unwrap_or_default();
        for (from, message) in strangers.said.into_iter().chain(before.said) {
            registered.hear(from, message);
        }
        drop(early);
        self.retire_surplus();
        registered
    }

    /// Closes the complete transfers that have been idle longest, if there are more than this process can spare
    /// descriptors for: thousands of small files may arrive within a minute. Leads that have members are closed last.
    fn retire_surplus(&self) {
        let most = descriptors::limit().map_or(usize::MAX, |limit| limit / IDLE_SHARE);
        let now = self.house.context.now();
        let mut transfers = self.transfers.lock();
        if transfers.len() <= most {
            return;
        }
        let idle = transfers.iter().filter_map(|(blob, UsedTransfer { transfer, used })| {
            let leads = transfer.is_leading_others();
            let patience = if leads { RETIRE_AFTER } else { RETIRE_SURPLUS_AFTER };
            let idle = transfer.is_complete() && !transfer.has_readers() && now.since(*used) > patience;
            idle.then_some((leads, *used, *blob))
        });
        let mut idle: Vec<_> = idle.collect();
        idle.sort_unstable();
        // A quarter more than necessary, so that not every new transfer searches the whole table.
        idle.truncate(transfers.len() - most + most / 4);
        for (_, _, blob) in idle {
            if let Some(entry) = transfers.remove(&blob) {
                entry.transfer.close();
            }
        }
    }

    /// A lead lets this agent in. An existing transfer follows it at once; otherwise the lead's messages from here on are
    /// kept until there is one.
    fn joined(&self, lead: NodeId, request: u32, joined: Joined) {
        let Some(source) = self.house.joins.awaited(lead, request) else { return };
        let mut early = self.early.lock();
        let transfer = self.transfers.lock().get(&joined.blob).map(|entry| Arc::clone(&entry.transfer));
        let open = transfer.filter(|transfer| !transfer.is_over());
        let (blob, mut left) = (joined.blob, false);
        let answer = match open {
            Some(transfer) if !self.may_follow(&transfer, lead, &source) => {
                let follows = transfer.lead() == Lead::Node(lead);
                left = !follows;
                // The seed has made sure that this registry delivered the same content completely: the content may be served for this registry, too.
                let is_told = self.house.fleet.is_seed(lead) && joined.verdict.is_some();
                let comes = transfer.is_complete() || follows && transfer.has_verdict();
                match is_told && comes && joined.is_same(&*transfer.stored) == Some(true) {
                    true => Ok(Entered::Followed { blob: transfer.blob, is_same: Some(true), is_checked: true }),
                    false => Err(NotJoined::Apart),
                }
            }
            Some(transfer) => {
                let follows = transfer.lead() == Lead::Node(lead);
                let is_same = if follows { Some(true) } else { joined.is_same(&*transfer.stored) };
                match is_same {
                    Some(false) => Err(NotJoined::Otherwise),
                    is_same => {
                        let is_checked = joined.verdict.is_some();
                        transfer.follow(lead, joined);
                        Ok(Entered::Followed { blob: transfer.blob, is_same, is_checked })
                    }
                }
            }
            None => {
                let before = early.entry(joined.blob).or_default();
                (before.since, before.lead) = (self.house.context.now(), Some(lead));
                Ok(Entered::New(Box::new(joined)))
            }
        };
        drop(early);
        if left {
            self.house.fleet.say(lead, &Message::Leave { blob });
        }
        self.house.joins.answer(lead, request, answer);
    }

    /// True if a transfer accepts what `lead` gives to all that ask for `source`.
    fn may_follow(&self, transfer: &Transfer, lead: NodeId, source: &Source) -> bool {
        self.may_go_together(&transfer.source, source) && (transfer.is_on_trust() || !self.leads_on_trust(lead))
    }

    /// Keeps a stranger's message about the pieces it holds, in case this agent is about to be let into that swarm.
    fn keep_for_newcomer(&self, blob: BlobId, from: NodeId, message: &Message) {
        let mut strangers = self.strangers.lock();
        let has_room = strangers.len() < MAX_STRANGE.0;
        match (message, strangers.get_mut(&blob)) {
            (Message::Meet { .. } | Message::Have { .. } | Message::Lost { .. }, Some(met))
                if met.said.len() < MAX_STRANGE.1 =>
            {
                met.said.push((from, message.clone()));
            }
            (Message::Meet { .. }, None) if has_room => {
                let met = Early { since: self.house.context.now(), lead: None, said: vec![(from, message.clone())] };
                strangers.insert(blob, met);
            }
            (Message::Part { .. }, Some(met)) => met.said.retain(|(node, _)| *node != from),
            _ => {}
        }
    }

    fn hear(self: &Arc<Self>, blob: BlobId, from: NodeId, message: Message) {
        let mut early = self.early.lock();
        if let Some(before) = early.get_mut(&blob) {
            before.keep(from, message);
            return;
        }
        let transfer = self.transfers.lock().get(&blob).map(|entry| Arc::clone(&entry.transfer));
        if transfer.is_none() {
            self.keep_for_newcomer(blob, from, &message);
        }
        drop(early);
        match (transfer, message) {
            (Some(transfer), message) => transfer.hear(from, message),
            // A newcomer sends a Meet to a node that has finished long ago: the node can still give pieces.
            (None, Message::Meet { .. }) => self.meet_from_shelf(blob, from),
            (None, _) => {}
        }
    }
}

/// The failure that a member is told if this agent can't let it in for its own reasons.
fn refusal(text: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::Other, status: None, text: text.into(), challenge: None }
}

fn failure_of(error: &FetchError) -> Failure {
    error.to_failure()
}
