//! A seed among other seeds: whether one of them leads a source's swarm already, or holds everything.
//!
//! Nodes ask the seed that rendezvous hashing chooses. When seeds come and go, that is not always the one that has the bytes: it may have been added
//! later, or its disk is new. So a seed that lacks a source asks its connected seeds before it reads the origin,
//! and follows the one that has it. It asks the other seed as a node would, and the other seed checks the same: whether the caller may have the content,
//! and whether the origin still has the same.
//!
//! Invariant: a seed that is asked by another seed asks no further one, so that no request goes round in a circle.
//!
//! For its own host, a seed whose origin does not answer takes complete blobs from a node ([`holders`](super::holders)).
//!
//! Not here: which complete blobs nodes hold ([`inventory`](super::inventory)), and how seeds learn of each other
//! ([`Message::Seeds`](darter_wire::Message)).

use std::sync::Arc;

use darter_api::Role;
use darter_core::source::Credentials;
use darter_core::{NodeId, Source};

use super::Swarms;
use super::access::Caller;
use super::refused::Refused;
use crate::error::FetchError;
use crate::transfer::Transfer;

impl Swarms {
    /// Opens a source for a program of the seed's own host.
    pub(super) async fn open_on_a_seed(
        self: &Arc<Self>,
        source: &Source,
        caller: Caller<'_>,
    ) -> Result<Arc<Transfer>, FetchError> {
        let asking = {
            let (swarms, source, credentials) = (Arc::clone(self), source.clone(), caller.credentials.clone());
            let Caller { requester, everything, .. } = caller;
            self.house.tasks.spawn(async move {
                let caller = Caller { credentials: &credentials, requester, everything };
                match swarms.open_by_another_seed(&source, caller).await? {
                    Some(transfer) => Ok(transfer),
                    None => swarms.lead(&source, caller, true).await,
                }
            })
        };
        self.unless_held(source, caller, asking).await
    }

    /// Opens a source for a member of its swarm.
    pub(super) async fn open_as_seed(
        self: &Arc<Self>,
        member: NodeId,
        source: &Source,
        caller: Caller<'_>,
    ) -> Result<Arc<Transfer>, FetchError> {
        let is_for_a_seed = self.house.fleet.peer(member).is_some_and(|peer| peer.is_seed());
        if !is_for_a_seed && let Some(transfer) = self.open_by_another_seed(source, caller).await? {
            return Ok(transfer);
        }
        self.lead(source, caller, true).await
    }

    /// Follows another seed that has what this one lacks. Returns `None` if this agent is not a seed.
    pub(super) async fn open_by_another_seed(
        self: &Arc<Self>,
        source: &Source,
        caller: Caller<'_>,
    ) -> Result<Option<Arc<Transfer>>, FetchError> {
        let credentials = caller.credentials;
        if !self.may_be_at_another_seed(source, credentials).await? {
            return Ok(None);
        }
        // A separate door from that of leads: the seed that is asked may wait for this one's.
        let door = self.following.at(source.key());
        let _opening = match door.enter(source, caller).await {
            Ok(opening) => opening,
            Err(found) => return found.map(Some),
        };
        if !self.may_be_at_another_seed(source, credentials).await? {
            return Ok(None);
        }
        let Some(seed) = self.seed_with(source).await.filter(|seed| self.may_ask(*seed, source, caller)) else {
            return Ok(None);
        };
        let fleet = &self.house.fleet;
        match self.join(seed, source, caller).await {
            Ok(transfer) => {
                transfer.note(format!("seed {} has it; the origin is not read from here", fleet.address(seed)));
                Ok(Some(transfer))
            }
            Err(Refused::Final(error)) => Err(error),
            Err(Refused::Word(error)) => {
                tracing::info!(seed = fleet.address(seed), %error, "another seed says that the origin refuses it");
                Ok(None)
            }
            Err(Refused::Trouble(reason) | Refused::Origin(reason) | Refused::ToIt(reason)) => {
                tracing::info!(seed = fleet.address(seed), reason, "another seed has the blob but could not give it");
                Ok(None)
            }
        }
    }

    /// A connected seed that leads the swarm or holds everything, perhaps of the same address with a digest, or without it.
    async fn seed_with(&self, source: &Source) -> Option<NodeId> {
        let (fleet, none) = (&self.house.fleet, Credentials::none());
        match (fleet.seed_with(source.record_key(&none), source.own_blob()).await, source.record_key_of_twin(&none)) {
            (None, Some(key)) => fleet.seed_with(key, None).await,
            (found, _) => found,
        }
    }

    /// True if this is a seed that lacks some of a source, and is connected with other seeds.
    async fn may_be_at_another_seed(&self, source: &Source, credentials: &Credentials) -> Result<bool, FetchError> {
        if self.house.context.options.role != Role::Seed || self.house.fleet.seeds().is_empty() {
            return Ok(false);
        }
        let known = match source.own_blob() {
            Some(blob) => vec![blob],
            None => self.records_of(source, credentials).await?.into_iter().map(|record| record.blob).collect(),
        };
        for blob in known {
            if self.get(blob).is_some() || self.stored(blob).await?.is_some_and(|stored| stored.is_complete()) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
