//! A node asks the seeds for a source, and looks for another way while they wait for its origin.
//!
//! The seed that rendezvous hashing names is asked, then the next. A seed that has nothing of a blob, because it was evicted
//! there or its disk was lost, waits for the origin for as long as `--origin-patience` allows, while a node may hold all of
//! it. So whoever has no answer after a moment, or hears that the origin is in trouble, asks the seeds who holds it, and follows such a
//! node: a registry that is away, or asks to slow down, keeps nobody from what the fleet has.
//!
//! Invariants: only content that is named by its digest is taken in this way, so that the whole shows whether it is right;
//! and only for a source that is proven ([`proof`](super::proof)). The seeds are asked to the end all the same: what was begun with a
//! lead is not left half done.

use std::sync::Arc;
use std::time::Duration;

use darter_api::Role;
use darter_core::source::{Credentials, blob_of};
use darter_core::{NodeId, Source, rendezvous};
use tokio::task::JoinHandle;

use super::Swarms;
use super::access::Caller;
use super::nodes::Settled;
use super::open::TELL_WAIT_FROM;
use super::refused::Refused;
use crate::error::FetchError;
use crate::transfer::{Lead, Transfer};

/// How long a request waits for the first seed right after the agent's start.
const FIRST_SEED_TIMEOUT: Duration = Duration::from_secs(1);

/// A seed that took longer than this to say that an origin fails has been patient with it: the next seed would be as
/// patient, and so would this agent be.
pub(super) const PATIENT_SEED_AFTER: Duration = Duration::from_secs(10);

/// Seeds that have not answered for so long wait for the origin: who holds all of it is looked for. Then again after twice as
/// long each time, since a holder may come.
const LOOK_FOR_HOLDERS_AFTER: Duration = Duration::from_secs(2);

/// How long a holder may take to let this node in.
const HOLDER_TIMEOUT: Duration = Duration::from_secs(5);

/// What came of asking the seeds.
pub(super) enum BySeeds {
    /// This node follows one, or a node that holds all of it.
    Opened(Arc<Transfer>),
    /// None is there, or none could.
    NotOpened {
        /// Whether the origin is to be tried for long: no seed has done so.
        patient: bool,
        /// Why which seed could not.
        troubles: Vec<String>,
    },
}

impl Swarms {
    /// Opens a source by way of the seeds, for which this agent is `proven` or only a seed's checked whole will do.
    pub(super) async fn open_by_seeds(
        self: &Arc<Self>,
        source: &Source,
        caller: Caller<'_>,
        proven: bool,
    ) -> Result<BySeeds, FetchError> {
        let seeds = self.seeds_for(source).await;
        if seeds.is_empty() {
            return Ok(BySeeds::NotOpened { patient: true, troubles: Vec::new() });
        }
        let mut asking = {
            let (swarms, source, credentials) = (Arc::clone(self), source.clone(), caller.credentials.clone());
            let Caller { requester, everything, .. } = caller;
            self.house.tasks.spawn(async move {
                let caller = Caller { credentials: &credentials, requester, everything };
                swarms.ask_seeds(seeds, &source, caller, proven).await
            })
        };
        let mut pause = LOOK_FOR_HOLDERS_AFTER;
        loop {
            let asked = tokio::time::timeout(pause, &mut asking).await;
            let mut answer = asked.ok().map(|asked| asked.expect("asking seeds does not panic"));
            let is_in_trouble = match &answer {
                None => true,
                Some(Err(error)) => error.is_trouble_of_the_origin(),
                Some(Ok(_)) => false,
            };
            if proven && is_in_trouble {
                let mut looking = self.look_for_holder(source, caller);
                // A seed that has an answer by now is followed.
                let found = tokio::select! {
                    found = &mut looking => found.ok().flatten(),
                    asked = &mut asking, if answer.is_none() => {
                        let asked = asked.expect("asking seeds does not panic");
                        if asked.as_ref().err().is_none_or(|error| !error.is_trouble_of_the_origin()) {
                            return asked;
                        }
                        answer = Some(asked);
                        tokio::time::timeout(HOLDER_TIMEOUT, looking).await.ok().and_then(|found| found.ok().flatten())
                    }
                    () = tokio::time::sleep(HOLDER_TIMEOUT) => None,
                };
                if let Some(transfer) = found {
                    return Ok(BySeeds::Opened(transfer));
                }
            }
            if let Some(answer) = answer {
                return answer;
            }
            pause *= 2;
        }
    }

    /// Looks for a node that holds all of it, and follows it. To the end, whoever waits for that: a question to a lead that is dropped
    /// half-way keeps what is said of the blob from everybody.
    fn look_for_holder(
        self: &Arc<Self>,
        source: &Source,
        Caller { credentials, requester, everything }: Caller<'_>,
    ) -> JoinHandle<Option<Arc<Transfer>>> {
        let (swarms, source, credentials) = (Arc::clone(self), source.clone(), credentials.clone());
        self.house.tasks.spawn(async move {
            let caller = Caller { credentials: &credentials, requester, everything };
            swarms.open_by_holder(&source, caller).await
        })
    }

    async fn ask_seeds(
        self: &Arc<Self>,
        seeds: Vec<NodeId>,
        source: &Source,
        caller: Caller<'_>,
        proven: bool,
    ) -> Result<BySeeds, FetchError> {
        let (context, mut troubles) = (&self.house.context, Vec::new());
        for seed in seeds {
            let asked = context.now();
            let joined = match proven {
                true => self.join(seed, source, caller).await,
                false => self.join_proven(seed, source, caller).await,
            };
            let addr = || self.house.fleet.address(seed);
            match joined {
                Ok(transfer) => {
                    if !proven {
                        self.proven(source);
                    }
                    // A transfer that was here may be of another source, and be taken back when that one sent something else.
                    self.check_given(&transfer, source).await?;
                    let waited = context.now().since(asked);
                    if waited >= TELL_WAIT_FROM {
                        transfer.note(format!("seed {} took {:.1} s to answer", addr(), waited.as_secs_f64()));
                    }
                    return Ok(BySeeds::Opened(transfer));
                }
                Err(Refused::Final(error)) => return Err(error),
                Err(Refused::Origin(text)) if context.now().since(asked) > PATIENT_SEED_AFTER => {
                    troubles.push(format!("seed {}: {text}", addr()));
                    return Ok(BySeeds::NotOpened { patient: false, troubles });
                }
                Err(Refused::Trouble(reason) | Refused::Origin(reason) | Refused::ToIt(reason)) => {
                    let seed = addr();
                    tracing::warn!(seed, reason, "a seed could not take on this download; trying the next one");
                    troubles.push(format!("seed {seed}: {reason}"));
                }
            }
        }
        Ok(BySeeds::NotOpened { patient: true, troubles })
    }

    /// Follows a node that holds all of a registry's blob, if the connected seeds know of one.
    async fn open_by_holder(self: &Arc<Self>, source: &Source, caller: Caller<'_>) -> Option<Arc<Transfer>> {
        let Source::Registry { digest, .. } = source else { return None };
        let (key, blob) = (source.record_key(&Credentials::none()), blob_of(digest));
        let holders = self.house.fleet.holders_by_seeds(key, blob).await;
        for holder in holders.iter().map(|info| info.node).filter(|holder| self.may_lead(*holder, source)) {
            // A seed has let this node in by now, or an earlier holder at last.
            if let Some(transfer) = self.get(blob).filter(|transfer| transfer.lead() != Lead::Nobody) {
                return self.check_given(&transfer, source).await.ok().map(|()| transfer);
            }
            if let Ok(Settled::Transfer(transfer)) = self.try_lead(holder, source, caller, &mut Vec::new()).await
                && self.check_given(&transfer, source).await.is_ok()
            {
                self.follow_also(&transfer, holder, &holders, "no seed has begun it yet");
                return Some(transfer);
            }
        }
        None
    }

    /// Connected seeds that may be asked, best first. Right after the start, the first connection is waited for a little.
    async fn seeds_for(&self, source: &Source) -> Vec<NodeId> {
        let options = &self.house.context.options;
        if options.role != Role::Node || options.join.is_empty() {
            return Vec::new();
        }
        let key = source.key();
        let fleet = &self.house.fleet;
        let context = &self.house.context;
        let until = context.now() + FIRST_SEED_TIMEOUT;
        loop {
            let seeds = fleet.seeds();
            // Where everything given to join was tried and is a node, there is no seed to wait for.
            let no_seed = fleet.has_joined() && !fleet.peers().is_empty();
            let waited = context.now() >= until;
            let starting = context.now().as_micros() < 2 * FIRST_SEED_TIMEOUT.as_micros() as u64;
            if !seeds.is_empty() || no_seed || waited || !starting {
                let may_lead: Vec<_> = seeds.into_iter().filter(|seed| self.may_lead(*seed, source)).collect();
                return rendezvous::ranking(&key.0, &may_lead);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
