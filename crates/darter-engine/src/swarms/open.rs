//! From a source to a transfer, for a program of this host or a member that asks to be admitted.
//!
//! A node asks the connected seed that rendezvous hashing chooses, then the next one ([`by_seeds`](super::by_seeds)); if
//! no seed is connected or none can lead, the nodes decide among themselves who leads (see [`nodes`](super::nodes)). A seed leads, or follows
//! another seed that leads already or holds everything.
//!
//! If a seed reports that an origin refuses, another seed is asked before the program gets the error. The node does not ask the origin: a refusal costs the origin the
//! requests of the seeds, not of every host, and a host may have no route to the origin.
//!
//! An address on loopback means the host of the agent that asks: only agents of that host are asked, and answer (`may_lead`).
//! Otherwise users of one host could read with another host's rights, for example its cloud's metadata service. If a name or a redirect leads there, it is
//! refused to an agent that asks for another host ([`Requester`]); that host then reads it by itself.
//!
//! Leading begins with a question on which every answer depends: *does the origin still have what is stored here?*
//! For a registry's blob the answer is in its name, which has the digest. For a URL the origin is asked with the caller's own
//! credentials, on every use (`access`): either the stored content is what it shows to this caller (and is completed if it is
//! partial), or it is another blob.

use std::sync::Arc;

use darter_api::Role;
use darter_core::source::Credentials;
use darter_core::{BlobId, NodeId, Source, Version};
use darter_origin::{Requester, is_this_host};
use darter_store::StoredBlob;
use darter_wire::{Capabilities, Failure, Message};

use super::access::Caller;
use super::by_seeds::BySeeds;
use super::nodes::Settled;
use super::proof::may_go_on_with;
use super::{Swarms, failure_of, refusal};
use crate::error::FetchError;
use crate::joins::{FIRST_WAITING_AFTER, JoinQuestion, WAITING_EVERY};
use crate::setbacks::key_of;
use crate::transfer::dissolve::refuse;
use crate::transfer::{Beginning, House, Lead, Transfer};

impl Swarms {
    /// Opens a source for a program of this host, which wants `everything` or only ranges. Completes even if the caller goes
    /// away, since a half-done join would leave the lead with a member that has no transfer.
    ///
    /// # Errors
    /// The origin refuses or fails, or no agent could lead.
    pub async fn open(
        self: &Arc<Self>,
        requester: Requester,
        source: Source,
        credentials: Credentials,
        everything: bool,
    ) -> Result<Arc<Transfer>, FetchError> {
        self.claim(&source);
        self.open_unclaimed(requester, source, credentials, everything).await
    }

    /// Opens the expanded form of a layer. This does not count as interest in the layer's own blob.
    pub(super) async fn open_unclaimed(
        self: &Arc<Self>,
        requester: Requester,
        source: Source,
        credentials: Credentials,
        everything: bool,
    ) -> Result<Arc<Transfer>, FetchError> {
        let swarms = Arc::clone(self);
        let opening = self.house.tasks.spawn(async move {
            let transfer = swarms.open_to_the_end(requester, source.clone(), credentials, everything).await?;
            transfer.is_asked_by(requester);
            swarms.count_use(transfer.blob);
            swarms.check_digest(&transfer, &source, everything).await?;
            Ok(transfer)
        });
        opening.await.expect("opening does not panic")
    }

    /// Counts a use of a blob, so that it is evicted last. For a blob with a transfer; otherwise opening it in the store
    /// counts the use.
    pub(super) fn count_use(&self, blob: BlobId) {
        self.house.context.disk.touch(blob);
    }

    async fn open_to_the_end(
        self: &Arc<Self>,
        requester: Requester,
        source: Source,
        credentials: Credentials,
        everything: bool,
    ) -> Result<Arc<Transfer>, FetchError> {
        if self.is_draining() {
            return Err(FetchError::Draining);
        }
        let proven = self.is_proven(&source).await?;
        if proven && let Some(transfer) = self.open_here(&source).await? {
            transfer.offer_credentials(&source, &credentials);
            return Ok(transfer);
        }
        let context = &self.house.context;
        let caller = Caller { credentials: &credentials, requester, everything };
        let (mut patient, mut troubles) = match self.open_by_seeds(&source, caller, proven).await? {
            BySeeds::Opened(transfer) => return Ok(transfer),
            BySeeds::NotOpened { patient, troubles } => (patient, troubles),
        };
        if !proven {
            return Err(FetchError::Unproven { name: source.to_string() });
        }
        let alone = context.options.role == Role::Node;
        if alone {
            let found = self.open_by_nodes(&source, caller, patient, &mut troubles).await?;
            match found {
                Settled::Transfer(transfer) => {
                    self.check_given(&transfer, &source).await?;
                    return Ok(transfer);
                }
                Settled::NotHere | Settled::Refused | Settled::Hearsay => {}
                Settled::OriginAway => patient = false,
                Settled::Word(error) => return Err(error),
            }
        }
        let transfer = match context.options.role {
            Role::Seed => self.open_on_a_seed(&source, caller).await?,
            _ => self.lead(&source, caller, patient).await?,
        };
        self.check_given(&transfer, &source).await?;
        if alone && transfer.lead() == Lead::Me {
            context.metrics.back_to_source.inc();
            let why = if !troubles.is_empty() {
                troubles.join("; ")
            } else if is_of_host(&source) && !self.house.fleet.seeds().is_empty() {
                "its address means this host, and no seed is here".to_owned()
            } else {
                "no seed is connected".to_owned()
            };
            transfer.note(format!("reading the origin from here: {why}"));
        }
        Ok(transfer)
    }

    /// Another agent asks to be let into a source's swarm: a task of its own opens the source, and admits or refuses the agent. An agent that has too
    /// many requests in progress is refused at once.
    pub(super) fn asked_to_admit(self: &Arc<Self>, from: NodeId, request: u32, asked: JoinQuestion) {
        let Some(taken_up) = self.questions.take_up(from) else {
            let failure = refusal("too many of your requests are in progress: ask again when some are answered");
            self.house.fleet.say(from, &Message::Rejected { request, failure });
            return;
        };
        let named_size = match (&asked.source, asked.size) {
            (Source::Expanded(layer), Some(size)) => {
                let before = self.house.context.expansions.names_size(&layer.digest, size);
                Some((layer.digest, size, before))
            }
            _ => None,
        };
        let swarms = Arc::clone(self);
        self.house.tasks.spawn(async move {
            let _taken_up = taken_up;
            let JoinQuestion { source, credentials, held, everything, .. } = asked;
            let named = held.as_ref().map(|held| held.blob);
            let opened = swarms.open_saying_so(from, request, source.clone(), credentials.clone(), named, everything);
            match opened.await {
                Ok(transfer) => {
                    swarms.count_use(transfer.blob);
                    transfer.small_is_whole().await;
                    let held = held.filter(|held| held.blob == transfer.blob).map(|held| held.pieces);
                    if let Err(error) = transfer.admit(from, request, &held.unwrap_or_default(), everything).await {
                        refuse(&swarms.house.fleet, from, Some(request), transfer.blob, &error);
                    }
                }
                Err(failure) => {
                    if let Some((layer, size, before)) = named_size {
                        swarms.house.context.expansions.takes_size_back(&layer, size, before);
                    }
                    swarms.refuse_to_open(from, request, (&source, &credentials), failure);
                }
            }
        });
    }

    /// Says why the source can't be opened: that its content was wrong recently, if that is why.
    fn refuse_to_open(
        &self,
        to: NodeId,
        request: u32,
        (source, credentials): (&Source, &Credentials),
        failure: Failure,
    ) {
        let House { fleet, context, .. } = &self.house;
        match (self.setback(source, credentials, context.me), source.named_blob()) {
            (Some(error), Some(blob)) => refuse(fleet, to, Some(request), blob, &error),
            _ => {
                fleet.say(to, &Message::Rejected { request, failure });
            }
        }
    }

    /// Opens a source for a member of its swarm. While that takes long, the member is told that this agent is working on it.
    async fn open_saying_so(
        self: &Arc<Self>,
        member: NodeId,
        request: u32,
        source: Source,
        credentials: Credentials,
        held: Option<BlobId>,
        everything: bool,
    ) -> Result<Arc<Transfer>, Failure> {
        let mut opening = Box::pin(self.open_for_member(member, source, credentials, held, everything));
        let mut pause = FIRST_WAITING_AFTER;
        loop {
            if let Ok(opened) = tokio::time::timeout(pause, &mut opening).await {
                return opened;
            }
            pause = WAITING_EVERY;
            self.house.fleet.say(member, &Message::Waiting { request });
        }
    }

    /// Why an agent must not read a source now: it did so recently, and got other content than the source's name says.
    pub(super) fn setback(&self, source: &Source, credentials: &Credentials, reader: NodeId) -> Option<FetchError> {
        let context = &self.house.context;
        source.named_blob()?;
        context.setbacks.refusal(key_of(source, credentials), reader, context.now())
    }

    /// Opens a source for a member of its swarm.
    pub(super) async fn open_for_member(
        self: &Arc<Self>,
        member: NodeId,
        source: Source,
        credentials: Credentials,
        held: Option<BlobId>,
        everything: bool,
    ) -> Result<Arc<Transfer>, Failure> {
        if self.is_draining() {
            return Err(refusal("the seed is shutting down"));
        }
        if !self.may_lead(member, &source) {
            return Err(refusal("its address means the host of whoever asks: only an agent there can read it"));
        }
        let is_here = self.house.fleet.is_here(member);
        let requester = if is_here { Requester::Here } else { Requester::Elsewhere };
        let caller = Caller { credentials: &credentials, requester, everything };
        self.prove(&source, caller).await.map_err(|error| failure_of(&error))?;
        self.claim(&source);
        let here = self.open_here(&source).await.map_err(|error| failure_of(&error))?;
        if let Some(transfer) = here.filter(|transfer| !transfer.is_on_trust()) {
            return Ok(transfer);
        }
        let transfer = match self.house.context.options.role {
            Role::Node => self.open_as_node(member, &source, caller, held).await?,
            _ => self.open_as_seed(member, &source, caller).await.map_err(|error| failure_of(&error))?,
        };
        self.check_given(&transfer, &source).await.map_err(|error| failure_of(&error))?;
        if transfer.is_on_trust() {
            return Err(refusal("it comes from a node, and the whole was not checked yet: ask the nodes that hold it"));
        }
        tracing::debug!(blob = %transfer.blob.short(), member = %member.short(), "leading for a member");
        Ok(transfer)
    }

    /// Opens content without asking any other agent: content of a registry that is named by its digest, and is being fetched or complete here. The caller
    /// has checked access before (see the mirror's grants).
    async fn open_here(self: &Arc<Self>, source: &Source) -> Result<Option<Arc<Transfer>>, FetchError> {
        let Some(blob) = source.own_blob() else { return Ok(None) };
        let is_wanted = |transfer: &Arc<Transfer>| transfer.source == *source || self.may_come_to_this(transfer);
        if let Some(transfer) = self.get_to_read(blob).filter(is_wanted) {
            return Ok(Some(transfer));
        }
        let complete = self.stored(blob).await?.filter(|stored| stored.is_complete());
        let nobody = Caller { credentials: &Credentials::none(), requester: Requester::Here, everything: true };
        Ok(match complete {
            Some(stored) => Some(self.begin(source, Version::default(), nobody, stored).await),
            None => None,
        })
    }

    /// True if one agent may read a source for another, connected one.
    pub(super) fn may_lead(&self, other: NodeId, source: &Source) -> bool {
        (!is_of_host(source) || self.house.fleet.is_here(other)) && self.knows_sort(other, source)
    }

    /// True if `other`, a connected agent, has a release that supports this kind of source.
    pub(super) fn knows_sort(&self, other: NodeId, source: &Source) -> bool {
        let needed =
            if matches!(source, Source::Expanded(_)) { Capabilities::EXPANDED_LAYERS } else { Capabilities::NONE };
        self.house.fleet.peer(other).is_none_or(|peer| peer.hello.capabilities.contains(needed))
    }

    /// True if another agent may be asked for a caller. An agent on this host would take another host's request for this host's.
    pub(super) fn may_ask(&self, other: NodeId, source: &Source, caller: Caller<'_>) -> bool {
        let is_passed_on = caller.requester == Requester::Elsewhere && self.house.fleet.is_here(other);
        !is_passed_on && self.may_lead(other, source)
    }

    pub(super) async fn begin(
        &self,
        source: &Source,
        version: Version,
        Caller { credentials, requester, everything }: Caller<'_>,
        stored: Arc<dyn StoredBlob>,
    ) -> Arc<Transfer> {
        let (source, credentials) = (source.clone(), credentials.clone());
        let beginning = Beginning { source, version, credentials, requester, stored, everything, on_trust: false };
        self.register(Transfer::begin(&self.house, beginning).await, None)
    }

    /// The blob of a source, or its blob when callers with these credentials last got it.
    pub(super) async fn known_blob(
        &self,
        source: &Source,
        credentials: &Credentials,
    ) -> Result<Option<BlobId>, FetchError> {
        if let Some(blob) = source.own_blob() {
            return Ok(Some(blob));
        }
        let by = credentials.fingerprint();
        let mut records = self.records_of(source, credentials).await?;
        records.retain(|record| record.fetched.is_some_and(|fetched| fetched.by == by));
        Ok(records.first().map(|record| record.blob))
    }

    /// See [`may_go_on_with`].
    pub(super) fn may_go_on_with(&self, stored: &Arc<dyn StoredBlob>, source: &Source) -> bool {
        may_go_on_with(&self.house.context.registries, &stored.info().name, source)
    }

    pub(super) async fn stored(&self, blob: BlobId) -> Result<Option<Arc<dyn StoredBlob>>, FetchError> {
        Ok(self.house.context.disk.open(blob).await?)
    }
}

/// True if a source is at an address that means the host of its reader.
fn is_of_host(source: &Source) -> bool {
    is_this_host(source.address())
}
