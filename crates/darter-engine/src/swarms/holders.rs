//! A node that holds all of a blob gives it to agents for which the origin does not answer.
//!
//! A seed that has nothing of a blob, because it was evicted there or its disk was lost, waits for the origin for as long as
//! `--origin-patience` allows, although a node may hold all of it. So an agent looks for such a node and follows it if its seeds (for a seed, the origin)
//! have not answered after a moment, or if the origin is failing: a registry that is down, or limits requests,
//! does not keep anybody from what the fleet has.
//!
//! Invariants: only content that is named by its digest, or by its tar's, is taken in this way, so that the check of the whole shows whether it is right;
//! and only for a source that is proven ([`proof`](super::proof)). A seed takes it *on trust* ([`Transfer::is_on_trust`]): only for
//! its own host, until it has itself checked the whole. Otherwise a node that made up a manifest
//! would mislead the whole fleet through the seed.

use std::sync::Arc;
use std::time::Duration;

use darter_api::Role;
use darter_core::source::Credentials;
use darter_core::{NodeId, Source};
use tokio::task::JoinHandle;

use super::Swarms;
use super::access::Caller;
use super::nodes::Settled;
use crate::error::FetchError;
use crate::transfer::{Lead, Transfer};

/// How long to wait for an answer before looking for a holder; then again after twice as long each time, since one may appear.
const LOOK_FOR_HOLDERS_AFTER: Duration = Duration::from_secs(2);

/// How long a holder may take to let this agent in.
const HOLDER_TIMEOUT: Duration = Duration::from_secs(5);

impl Swarms {
    /// The result of `asking`; unless it takes long or reports a failing origin, and a node that holds all of the source's content is
    /// found meanwhile. `asking` is completed in any case.
    pub(super) async fn unless_held<T: From<Arc<Transfer>>>(
        self: &Arc<Self>,
        source: &Source,
        caller: Caller<'_>,
        mut asking: JoinHandle<Result<T, FetchError>>,
    ) -> Result<T, FetchError> {
        let mut pause = LOOK_FOR_HOLDERS_AFTER;
        loop {
            let asked = tokio::time::timeout(pause, &mut asking).await;
            let mut answer = asked.ok().map(|asked| asked.expect("asking does not panic"));
            if answer.as_ref().is_none_or(is_trouble) {
                let mut looking = self.look_for_holder(source, caller);
                // An answer that has arrived by now is preferred.
                let found = tokio::select! {
                    found = &mut looking => found.ok().flatten(),
                    asked = &mut asking, if answer.is_none() => {
                        let asked = asked.expect("asking does not panic");
                        if !is_trouble(&asked) {
                            return asked;
                        }
                        answer = Some(asked);
                        tokio::time::timeout(HOLDER_TIMEOUT, looking).await.ok().and_then(|found| found.ok().flatten())
                    }
                    () = tokio::time::sleep(HOLDER_TIMEOUT) => None,
                };
                if let Some(transfer) = found {
                    return Ok(transfer.into());
                }
            }
            if let Some(answer) = answer {
                return answer;
            }
            pause *= 2;
        }
    }

    /// Looks for a node that holds everything, and follows it. The join is completed even if the caller goes away: a request to a lead that is dropped
    /// half-way would hold back messages about the blob.
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

    /// Follows an agent that holds all of a registry's content, if the seeds know one.
    async fn open_by_holder(self: &Arc<Self>, source: &Source, caller: Caller<'_>) -> Option<Arc<Transfer>> {
        let (key, blob) = (source.record_key(&Credentials::none()), source.own_blob()?);
        let holders = self.house.fleet.holders_by_seeds(key, blob, self.known_holders(key, blob)).await;
        for holder in holders.iter().map(|info| info.node).filter(|holder| self.may_lead(*holder, source)) {
            // Meanwhile the agent that was asked has let this one in, or an earlier holder has.
            if let Some(transfer) = self.get(blob).filter(|transfer| transfer.lead() != Lead::Nobody) {
                return self.check_given(&transfer, source).await.ok().map(|()| transfer);
            }
            if let Ok(Settled::Transfer(transfer)) = self.try_lead(holder, source, caller, &mut Vec::new()).await
                && self.check_given(&transfer, source).await.is_ok()
            {
                self.follow_also(&transfer, holder, &holders, "the origin does not answer");
                return Some(transfer);
            }
        }
        None
    }

    /// True if content that `lead` gives is taken on trust here: a seed relies only on origins and other seeds.
    pub(super) fn leads_on_trust(&self, lead: NodeId) -> bool {
        self.house.context.options.role == Role::Seed && !self.house.fleet.is_seed(lead)
    }
}

/// True if the origin is failing, so that a node that holds everything may do better.
fn is_trouble<T>(answer: &Result<T, FetchError>) -> bool {
    answer.as_ref().err().is_some_and(FetchError::is_trouble_of_the_origin)
}
