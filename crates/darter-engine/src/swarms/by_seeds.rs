//! A node opens a source through seeds.
//!
//! The node asks the seed that rendezvous hashing chooses, then the next one, also if a seed says that the origin refuses ([`SeedsWords`]). While the seeds wait
//! for the origin, a node that holds everything may be found ([`holders`](super::holders)). Even then the request to a seed is completed, since a half-done join would
//! leave the lead with a member that has no transfer.

use std::sync::Arc;
use std::time::Duration;

use darter_api::Role;
use darter_core::{NodeId, Source, rendezvous};

use super::Swarms;
use super::access::Caller;
use super::leading::TELL_WAIT_FROM;
use super::refused::{Refused, SeedsWords, was_patient};
use crate::error::FetchError;
use crate::transfer::Transfer;

/// How long a request waits for the first seed right after the agent's start.
const FIRST_SEED_TIMEOUT: Duration = Duration::from_secs(1);

/// The result of asking the seeds.
pub(super) enum BySeeds {
    /// This node follows a seed, or a node that holds everything.
    Opened(Arc<Transfer>),
    /// No seed is connected, or none could lead.
    NotOpened {
        /// True if the origin should be retried for long: no seed has done so.
        patient: bool,
        /// For each seed that could not lead, why.
        troubles: Vec<String>,
    },
}

impl From<Arc<Transfer>> for BySeeds {
    fn from(transfer: Arc<Transfer>) -> Self {
        Self::Opened(transfer)
    }
}

impl Swarms {
    /// Opens a source through the seeds. `proven` is true if this agent may serve the content for the source; otherwise only a seed that has checked the whole will do.
    pub(super) async fn open_by_seeds(
        self: &Arc<Self>,
        source: &Source,
        caller: Caller<'_>,
        proven: bool,
    ) -> Result<BySeeds, FetchError> {
        let seeds = self.seeds_for(source).await;
        if seeds.is_empty() {
            let older = self.house.fleet.seeds().into_iter().filter(|seed| !self.knows_sort(*seed, source));
            let told = older.map(|seed| {
                let addr = self.house.fleet.address(seed);
                format!("seed {addr} is of a release that expands no layers: upgrade it")
            });
            return Ok(BySeeds::NotOpened { patient: true, troubles: told.collect() });
        }
        let asking = {
            let (swarms, source, credentials) = (Arc::clone(self), source.clone(), caller.credentials.clone());
            let Caller { requester, everything, .. } = caller;
            self.house.tasks.spawn(async move {
                let caller = Caller { credentials: &credentials, requester, everything };
                swarms.ask_seeds(seeds, &source, caller, proven).await
            })
        };
        match proven {
            true => self.unless_held(source, caller, asking).await,
            false => asking.await.expect("asking seeds does not panic"),
        }
    }

    async fn ask_seeds(
        self: &Arc<Self>,
        seeds: Vec<NodeId>,
        source: &Source,
        caller: Caller<'_>,
        proven: bool,
    ) -> Result<BySeeds, FetchError> {
        let (context, mut troubles, mut words) = (&self.house.context, Vec::new(), SeedsWords::default());
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
                    // The existing transfer may be for another source, and be thrown away if that source sends wrong content.
                    self.check_given(&transfer, source).await?;
                    let waited = context.now().since(asked);
                    if waited >= TELL_WAIT_FROM {
                        transfer.note(format!("seed {} took {:.1} s to answer", addr(), waited.as_secs_f64()));
                    }
                    return Ok(BySeeds::Opened(transfer));
                }
                Err(Refused::Final(error)) => return Err(error),
                Err(Refused::Word(error)) => words.add(error.said_by(&self.house.fleet.title(seed)))?,
                Err(Refused::Origin(text)) if was_patient(context.now().since(asked)) => {
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
        words.believe()?;
        Ok(BySeeds::NotOpened { patient: true, troubles })
    }

    /// Connected seeds that may be asked, best first. Right after the start, waits a little for the first connection.
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
            // If every address to join was tried and belongs to a node, there is no seed to wait for.
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
