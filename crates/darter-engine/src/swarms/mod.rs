//! All blobs this agent moves now, by id.
//!
//! | file | what lives there |
//! |---|---|
//! | [`again`] | one caller's bytes, over several tries if the content was wrong |
//! | this one | [`Swarms`]: the table; keeps what is said of a blob until it has a transfer; retires idle ones |
//! | `listening` | hands what peers say to the transfer it is about |
//! | `access` | who may have what is known of an address |
//! | `inventory` | what nodes hold whole, of which a seed may have lost its own copy |
//! | `lending` | layers' own blobs, for whoever makes their expanded form |
//! | `limits` | origins that ask to slow down |
//! | `by_seeds` | a node asks the seeds |
//! | `holders` | a node that holds all of it, while the origin is waited for |
//! | `doors` | one question for all who want a source at once |
//! | `first_answer` | an origin of which only parts are wanted, which may give none |
//! | `open` | from a source to a transfer: whether to follow or to lead |
//! | `joining` | asking another agent to be let into its swarm |
//! | `leading` | leading, from what is stored or from the origin |
//! | `places` | a blob's place in the store |
//! | `proof` | whether content at hand may be given for a registry that did not deliver it |
//! | `nodes` | the same without a seed: which node leads |
//! | `seeds` | the same among several seeds: which of them has it |
//! | `refused` | why an agent that was asked does not lead |
//! | `uploads` | what peers are given |
//!
//! Between a lead's "you are in" and the transfer that follows from it lies a disk access. The lead's messages about the
//! blob in between are kept, and given to the transfer before any later one.
//!
//! A member that is told of a newcomer may meet it before the lead's answer has reached the newcomer, and meets it once. So
//! what such a *stranger* says is kept, too.
//!
//! Lock order: `early`, then `strangers` or `transfers`, then a transfer's state.

mod access;
pub mod again;
mod by_seeds;
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

pub(crate) use self::proof::is_named_for;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use darter_core::{BlobId, Moment, NodeId, PieceLength, Source};
use darter_fleet::questions::Questions;
use darter_store::StoredBlob;
use darter_wire::descriptors;
use darter_wire::{Failure, FailureKind, Message};
use parking_lot::Mutex;

use crate::error::FetchError;
use crate::joins::{Entered, Joined, NotJoined};
use crate::transfer::{House, Lead, Outcome, Transfer};

/// A transfer that nobody read or asked for during this time is put away; its blob stays in the store.
const RETIRE_AFTER: Duration = Duration::from_secs(60);

/// A transfer of a blob that passes through is put away after this time without a reader: there is nothing to go on from.
const RETIRE_PASSING_AFTER: Duration = Duration::from_secs(10);

/// A lead remembers its members for longer: they are who the next one to come is sent to.
const RETIRE_LEAD_AFTER: Duration = Duration::from_secs(600);

/// Transfers that are over may take this part of the files that this process may have open: each has its blob's.
const IDLE_SHARE: usize = 4;

/// If idle transfers take more than that share, a transfer is retired once it was idle for this long.
const RETIRE_SURPLUS_AFTER: Duration = Duration::from_millis(250);

/// Messages of strangers that are kept: for how many blobs, and how many for each.
const MAX_STRANGE: (usize, usize) = (256, 256);

/// Messages that are kept until a blob that this agent was let into has a transfer, at most: those of the lead. Others may take a quarter.
const MAX_EARLY: usize = 4096;

/// Questions of one peer that are worked on at a time: as many as a control channel has room for answers.
const MAX_QUESTIONS: u32 = 4096;

/// All transfers of an agent.
pub struct Swarms {
    /// The values that all transfers share.
    pub house: House,
    transfers: Mutex<HashMap<BlobId, UsedTransfer>>,
    /// Messages about blobs whose transfer is being made.
    early: Mutex<HashMap<BlobId, Early>>,
    /// Messages, from a Meet on, about blobs that are not on their way to here. Part of what `early` guards: added to and taken with that
    /// locked.
    strangers: Mutex<HashMap<BlobId, Early>>,
    opening: doors::Doors,
    /// The doors of a seed that looks for another one that has a source.
    following: doors::Doors,
    beginnings: doors::BlobTurns,
    comparisons: proof::Comparisons,
    inventory: inventory::Inventory,
    limits: limits::Limits,
    questions: Arc<Questions>,
    silent: silent::SilentNodes,
    /// Blobs without a transfer that peers fetch.
    served: Mutex<HashMap<BlobId, ServedBlob>>,
    draining: AtomicBool,
}

struct UsedTransfer {
    transfer: Arc<Transfer>,
    used: Moment,
}

/// Messages about a blob that came before it had a transfer.
#[derive(Default)]
struct Early {
    since: Moment,
    /// The lead that let this agent in.
    lead: Option<NodeId>,
    said: Vec<(NodeId, Message)>,
}

impl Early {
    /// Keeps what the lead says, and some of what others say.
    fn keep(&mut self, from: NodeId, message: Message) {
        let most = if self.lead == Some(from) { MAX_EARLY } else { MAX_EARLY / 4 };
        if self.said.len() < most {
            self.said.push((from, message));
        }
    }
}

/// A blob without a transfer, as far as it is known.
struct ServedBlob {
    state: ServedState,
    used: Moment,
}

/// A blob that peers are given pieces of while nothing else needs its room.
struct RestingBlob(Arc<dyn StoredBlob>);

impl RestingBlob {
    fn new(stored: Arc<dyn StoredBlob>) -> Self {
        stored.rest();
        Self(stored)
    }
}

impl Drop for RestingBlob {
    fn drop(&mut self) {
        // Evicted or not, nobody rests on it any more.
        let _ = self.0.wake();
    }
}

enum ServedState {
    Opening,
    Open(RestingBlob, PieceLength),
    /// Not stored here, when last looked.
    Absent,
}

impl Swarms {
    /// No transfer yet.
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

    /// The transfer of a blob, unless it failed or its blob was evicted: such a one is forgotten, so that the next request
    /// tries anew.
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
            // Without the lock: saying good-bye may find a peer gone, and then every transfer is told.
            entry.transfer.leave();
        }
        None
    }

    /// The transfer of a blob for a reader on this host. A transfer that passes through and has forgotten its beginning goes on for its
    /// own readers alone, if it can, and another is begun.
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

    /// Takes no new blobs from here on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// True if this agent takes no new blobs.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Forgets a transfer, so that its blob can be removed; refuses while somebody on this host reads it.
    pub fn put_away(&self, blob: BlobId) -> bool {
        let entry = {
            let mut transfers = self.transfers.lock();
            if transfers.get(&blob).is_some_and(|entry| entry.transfer.has_readers()) {
                return false;
            }
            transfers.remove(&blob)
        };
        // Without the lock: saying good-bye may find a peer gone, and then every transfer is told.
        if let Some(entry) = entry {
            entry.transfer.leave();
        }
        self.served.lock().remove(&blob);
        true
    }

    /// Puts idle transfers away. Called every few seconds.
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
        // Messages kept for a transfer that never came to be.
        self.early.lock().retain(|_, early| now.since(early.since) <= RETIRE_AFTER);
        self.strangers.lock().retain(|_, met| now.since(met.since) <= RETIRE_AFTER);
    }

    /// Puts a transfer into the table, lets it follow the lead that it came from, and tells it what was said meanwhile.
    /// If its blob has a transfer already, that transfer is used and the new one closed.
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

    /// Puts away those that have been idle longest of the complete transfers, where there are more than this process can spare
    /// descriptors for: thousands of small files may come within a minute. Leads that have members go last.
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
        // A quarter more than must, so that not each new one looks through all.
        idle.truncate(transfers.len() - most + most / 4);
        for (_, _, blob) in idle {
            if let Some(entry) = transfers.remove(&blob) {
                entry.transfer.close();
            }
        }
    }

    /// A lead lets this agent in. A transfer that is there follows at once; else what the lead says from here on is
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
                // The seed has seen to it that this registry delivered the same whole: what comes, or is all here, may be given for it, too.
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

    /// True if a transfer takes what `lead` gives to all that ask for `source`.
    fn may_follow(&self, transfer: &Transfer, lead: NodeId, source: &Source) -> bool {
        self.may_go_together(&transfer.source, source) && (transfer.is_on_trust() || !self.leads_on_trust(lead))
    }

    /// Keeps what a stranger says of the pieces it holds, in case this agent is about to be let into that swarm.
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
            // A newcomer meets a node that has long finished: it can still give.
            (None, Message::Meet { .. }) => self.meet_from_shelf(blob, from),
            (None, _) => {}
        }
    }
}

/// The failure that a member is told if this agent can't let it in for a reason of its own.
fn refusal(text: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::Other, status: None, text: text.into(), challenge: None }
}

fn failure_of(error: &FetchError) -> Failure {
    error.to_failure()
}
