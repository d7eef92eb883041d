//! From a source to a transfer.
//!
//! A node asks the seed that rendezvous hashing names among those it is connected to, then the next ([`by_seeds`](super::by_seeds)); when
//! none is there or none can, the nodes settle among themselves who leads (see [`nodes`](super::nodes)). A seed leads, or follows
//! another seed that leads already or holds all of it.
//!
//! An address on loopback means the host of whoever asks: only agents of that host are asked, and answer (`may_lead`).
//! Else users of one host would read with another's rights, such as those of its cloud's metadata service. Where a name or a
//! redirect leads there, the origin refuses it to who asks for another host ([`Requester`]), who then reads it alone.
//!
//! Leading begins with the question that keeps every answer honest: *is what is here still what the origin has?*
//! A registry's blob has its digest in its name and needs no answer. For a URL the origin is asked with the caller's own
//! credentials, on every use (`access`): what it shows to this caller is what is stored (and completed where it is
//! partial), or it is another blob.

use std::sync::Arc;
use std::time::Duration;

use darter_api::Role;
use darter_core::source::{Credentials, blob_of};
use darter_core::{BlobId, Clock, Manifest, NodeId, PieceLength, Source, Version};
use darter_origin::{Body, ErrorKind, Reading, Requester, Witness, is_this_host};
use darter_store::StoredBlob;
use darter_swarm::Start;
use darter_wire::{Failure, Held, Message};

use super::access::{Caller, Own};
use super::by_seeds::BySeeds;
use super::first_answer::first_answer;
use super::nodes::Settled;
use super::proof::may_go_on_with;
use super::refused::Refused;
use super::sample::SAMPLE;
use super::{Swarms, failure_of, refusal};
use crate::error::FetchError;
use crate::joins::{Entered, FIRST_WAITING_AFTER, Joined, NotJoined, WAITING_EVERY};
use crate::let_downs::How;
use crate::setbacks::key_of;
use crate::transfer::dissolve::{origin_of, read_wrong};
use crate::transfer::reading::check_length;
use crate::transfer::{Beginning, Lead, Transfer};

/// `darter explain` tells of an answer that takes this long.
pub(super) const TELL_WAIT_FROM: Duration = Duration::from_secs(1);

impl Swarms {
    /// Opens a source for a program of this host, which wants `everything` or parts alone. Goes on to its end when the caller goes
    /// away: what was begun with a lead is not left half done.
    pub async fn open(
        self: &Arc<Self>,
        requester: Requester,
        source: Source,
        credentials: Credentials,
        everything: bool,
    ) -> Result<Arc<Transfer>, FetchError> {
        let swarms = Arc::clone(self);
        let opening = self.house.tasks.spawn(async move {
            let opened = swarms.open_to_the_end(requester, source, credentials, everything).await;
            opened.inspect(|transfer| {
                transfer.is_asked_by(requester);
                swarms.count_use(transfer.blob);
            })
        });
        opening.await.expect("opening does not panic")
    }

    /// Somebody wants a blob: it goes last when room is wanted. One whose transfer is at hand is not opened in the store, which
    /// would count it.
    pub(super) fn count_use(&self, blob: BlobId) {
        // The store may be busy with its disk; nobody waits for it.
        self.house.context.disk.on_store(move |store| store.touch(blob)).detach();
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

    /// Opens a source for a member of its swarm, who is told while that takes long that somebody is at it.
    pub(super) async fn open_saying_so(
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

    /// Why an agent is not to read a source now: it did so a short time ago, and got something else than the digest says.
    pub(super) fn setback(&self, source: &Source, credentials: &Credentials, reader: NodeId) -> Option<FetchError> {
        let context = &self.house.context;
        source.digest()?;
        context.setbacks.refusal(key_of(source, credentials), reader, context.now())
    }

    /// An agent that was asked to lead read the origin, and got something else than the digest says.
    fn read_wrong_by(&self, lead: NodeId, (source, credentials): (&Source, &Credentials), mut error: FetchError) {
        let (FetchError::WrongDigest { from, .. }, Some(digest)) = (&mut error, source.digest()) else { return };
        let culprit = read_wrong(source, lead, &self.house.fleet.title(lead));
        from.clone_from(&culprit.from);
        self.house.context.wrong_content(key_of(source, credentials), blob_of(&digest), &culprit, &error);
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

    /// What needs no question to anybody: content named by its digest in a registry, under way or all here. Whether
    /// the caller may have it was decided by who called (see the mirror's grants).
    async fn open_here(self: &Arc<Self>, source: &Source) -> Result<Option<Arc<Transfer>>, FetchError> {
        let Source::Registry { digest, .. } = source else { return Ok(None) };
        let blob = blob_of(digest);
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

    /// Whether one agent may read a source for another, which is connected to it.
    pub(super) fn may_lead(&self, other: NodeId, source: &Source) -> bool {
        !is_of_host(source) || self.house.fleet.is_here(other)
    }

    /// Whether another agent may be asked for a caller. One on this host would take the question of another host's for this
    /// one's.
    pub(super) fn may_ask(&self, other: NodeId, source: &Source, caller: Caller<'_>) -> bool {
        let is_passed_on = caller.requester == Requester::Elsewhere && self.house.fleet.is_here(other);
        !is_passed_on && self.may_lead(other, source)
    }

    pub(super) async fn join(
        self: &Arc<Self>,
        seed: NodeId,
        source: &Source,
        caller: Caller<'_>,
    ) -> Result<Arc<Transfer>, Refused> {
        self.join_if(seed, source, caller, |_| true).await
    }

    /// The same for content at hand that this source is not proven for: only if the seed has all of it, checked. A seed that
    /// has nothing lets in whoever names a registry that has begun to answer.
    pub(super) async fn join_proven(
        self: &Arc<Self>,
        seed: NodeId,
        source: &Source,
        caller: Caller<'_>,
    ) -> Result<Arc<Transfer>, Refused> {
        self.join_if(
            seed,
            source,
            caller,
            |entered| matches!(entered, Entered::New(joined) if joined.verdict.is_some()),
        )
        .await
    }

    async fn join_if(
        self: &Arc<Self>,
        seed: NodeId,
        source: &Source,
        caller: Caller<'_>,
        is_enough: impl Fn(&Entered) -> bool,
    ) -> Result<Arc<Transfer>, Refused> {
        let Caller { credentials, everything, .. } = caller;
        if let Some(error) = self.setback(source, credentials, seed) {
            return Err(Refused::Trouble(error.to_string()));
        }
        let is_seed = self.house.fleet.is_seed(seed);
        let (context, key) = (&self.house.context, key_of(source, credentials));
        if !is_seed && context.let_downs.is_barred(key, seed, context.now()) {
            return Err(Refused::Trouble("nodes that led it gave nothing".to_owned()));
        }
        let on_trust = self.leads_on_trust(seed);
        let held = if on_trust { None } else { self.held_of(source, credentials).await? };
        let (source_asked, credentials_shown) = (source.clone(), credentials.clone());
        let asked = self.house.joins.ask(&self.house.fleet, seed, source_asked, credentials_shown, held, everything);
        // A seed may be more patient with origins than this agent. A node that says so for longer may say so for ever.
        let most = if is_seed { Duration::MAX } else { context.options.origin_patience + WAITING_EVERY };
        let answered = tokio::time::timeout(most, asked).await;
        let answer = match answered.unwrap_or(Err(NotJoined::Silent)) {
            Ok(answer) => answer,
            Err(refusal) => {
                let (text, origins) = (refusal.to_string(), refusal.is_of_the_origin());
                let otherwise = if origins { Refused::Origin(text) } else { Refused::Trouble(text) };
                return Err(match refusal.final_word() {
                    Some(wrong @ FetchError::WrongDigest { .. }) => {
                        self.read_wrong_by(seed, (source, credentials), wrong);
                        otherwise
                    }
                    Some(word) if word.is_of_access() && self.shows_own_keys(source, credentials).await => {
                        Refused::ToIt(word.to_string())
                    }
                    word => word.map_or(otherwise, Refused::Final),
                });
            }
        };
        let (blob, is_same) = match &answer {
            Entered::New(joined) => {
                let stored = self.stored(joined.blob).await?;
                (joined.blob, stored.map_or(Some(true), |stored| joined.is_same(&*stored)))
            }
            Entered::Followed { blob, is_same } => (*blob, *is_same),
        };
        let is_other = match source {
            Source::Registry { digest, .. } => blob_of(digest) != blob,
            Source::Url { .. } if is_same.is_none() => !self.has_fetched(source, credentials, blob).await?,
            Source::Url { .. } => is_same == Some(false),
        };
        let is_made_up = match &answer {
            Entered::New(joined) if !is_seed => !self.agrees(source, caller, joined.length).await,
            _ => false,
        };
        if is_made_up {
            context.let_downs.note(key, seed, How::Surely, context.now());
        }
        let is_other = is_other || is_made_up;
        if is_other || !is_enough(&answer) {
            self.early.lock().remove(&blob);
            if matches!(answer, Entered::New(_)) {
                self.house.fleet.say(seed, &Message::Leave { blob });
            }
            let text = match source {
                Source::Url { .. } if is_other => NotJoined::Otherwise.to_string(),
                _ => "it does not hold all of what was asked for".to_owned(),
            };
            return Err(Refused::Trouble(text));
        }
        let joined = match answer {
            Entered::New(joined) => *joined,
            Entered::Followed { .. } => {
                // The blob's transfer was there, and follows the seed already.
                let known = self.get(blob);
                let transfer = known.ok_or_else(|| Refused::Trouble("the blob was removed meanwhile".to_owned()))?;
                // A lead may let two in who asked different registries. A stranger's bytes show that another registry has the
                // same only once the lead has checked the whole.
                if transfer.source != *source && !self.may_come_to_this(&transfer) && !transfer.has_verdict() {
                    return Err(Refused::Final(FetchError::Unproven { name: source.to_string() }));
                }
                transfer.renew_credentials(source, credentials.clone());
                self.proven(source);
                if matches!(source, Source::Url { .. }) {
                    self.remember_joined(source, credentials, blob, &transfer.version);
                }
                return Ok(transfer);
            }
        };
        let entered = self.enter(seed, source, (credentials, everything), joined).await;
        if entered.is_err() {
            self.early.lock().remove(&blob);
        }
        // What can't be stored may be due to a length that a node made up.
        if let Err(error) = &entered
            && !is_seed
        {
            self.house.fleet.say(seed, &Message::Leave { blob });
            return Err(Refused::Trouble(error.to_string()));
        }
        Ok(entered?)
    }

    /// Makes the transfer that a lead let this agent into, and follows the lead.
    async fn enter(
        self: &Arc<Self>,
        seed: NodeId,
        source: &Source,
        (credentials, everything): (&Credentials, bool),
        joined: Joined,
    ) -> Result<Arc<Transfer>, FetchError> {
        let (blob, version) = (joined.blob, joined.version.clone());
        let manifest = Manifest::new(joined.piece_length, joined.length);
        let on_trust = self.leads_on_trust(seed);
        let _turn = self.beginnings.turn(blob).await;
        let stored = self.create(blob, source, &version, manifest, on_trust).await?;
        if matches!(source, Source::Url { .. }) {
            self.remember_joined(source, credentials, blob, &version);
        }
        if on_trust {
            self.proven(source);
        }
        // A caller that is let in is told apart once the transfer is
        // there.
        let requester = Requester::Here;
        let beginning = Beginning {
            source: source.clone(),
            version,
            credentials: credentials.clone(),
            requester,
            stored,
            everything,
            on_trust,
        };
        Ok(self.register(Transfer::begin(&self.house, beginning).await, Some((seed, joined))))
    }

    /// Leads the swarm of a source: from what is stored, else from the origin, which is asked once
    /// only unless this agent is to be `patient`.
    pub(super) async fn lead(
        self: &Arc<Self>,
        source: &Source,
        caller: Caller<'_>,
        patient: bool,
    ) -> Result<Arc<Transfer>, FetchError> {
        let Caller { credentials, requester, everything } = caller;
        // Without the door: callers of what is known need not wait for each other's questions to the origin. A part in the
        // store may have been created this moment by the opener that holds the door.
        let mut says = true;
        let is_begun = match source {
            Source::Registry { digest, .. } => {
                let blob = blob_of(digest);
                self.get(blob).is_none() && self.stored(blob).await?.is_some_and(|stored| !stored.is_complete())
            }
            Source::Url { .. } => false,
        };
        if !is_begun && let Some(transfer) = self.lead_known(source, caller, &mut says).await? {
            return Ok(transfer);
        }
        // A stranger who answers slowly keeps nobody from other registries with the same digest.
        let is_stranger = matches!(source, Source::Registry { .. }) && !self.is_trusted(source);
        let door = self.opening.at(if is_stranger { source.record_key(&Credentials::none()) } else { source.key() });
        let opening = match door.enter(source, caller).await {
            Ok(opening) => opening,
            Err(found) => return found,
        };
        if let Some(transfer) = self.lead_known(source, caller, &mut says).await? {
            return Ok(transfer);
        }
        // Those who waited at the door while somebody read it hear what came of that.
        if let Some(error) = self.setback(source, credentials, self.house.context.me) {
            return Err(error);
        }
        let context = &self.house.context;
        if let Some(error) = self.limits.of(source, credentials, context.now()) {
            return Err(error);
        }
        tracing::debug!(%source, "reading the origin");
        let asked = context.now();
        let origins = &context.origins;
        let origin = if patient { origins.patient(requester) } else { origins.once(requester) };
        let answered = match everything {
            true => origin.read(source, credentials, None, None).await,
            false => first_answer(origin, origins.once(requester), source, credentials).await,
        };
        let led = match answered {
            Ok(reading) => self.lead_reading(source, caller, reading).await,
            Err(error) => {
                let error = FetchError::from(error);
                self.limits.note(source, credentials, &error, context.now());
                // A second request at once would get the same page.
                if let (FetchError::Origin(failure), Some(digest)) = (&error, source.digest())
                    && failure.kind == ErrorKind::Page
                {
                    let culprit = read_wrong(source, context.me, "this agent");
                    context.wrong_content(key_of(source, credentials), blob_of(&digest), &culprit, &error);
                }
                Err(error)
            }
        };
        let waited = context.now().since(asked);
        if let Some(transfer) = led.as_ref().ok().filter(|_| waited >= TELL_WAIT_FROM) {
            transfer.note(format!("{} took {:.1} s to answer", origin_of(source), waited.as_secs_f64()));
        }
        opening.leave(led)
    }

    /// Leads what is under way or stored, if the origin shows the same to this caller. `says` is whether the origin says
    /// what it has: one that did not is not asked again.
    async fn lead_known(
        self: &Arc<Self>,
        source: &Source,
        caller: Caller<'_>,
        says: &mut bool,
    ) -> Result<Option<Arc<Transfer>>, FetchError> {
        let blob = match source {
            Source::Registry { digest, .. } => Some(blob_of(digest)),
            Source::Url { .. } if *says => self.shared_blob(source, caller, says).await?,
            Source::Url { .. } => None,
        };
        let Some(blob) = blob else { return Ok(None) };
        let transfer = self.open_stored(blob, source, caller).await?;
        if let Some(transfer) = &transfer {
            transfer.renew_credentials(source, caller.credentials.clone());
        }
        Ok(transfer)
    }

    /// The known blob of an address that this caller may have, as the origin's answer to it shows.
    async fn shared_blob(
        &self,
        source: &Source,
        caller: Caller<'_>,
        says: &mut bool,
    ) -> Result<Option<BlobId>, FetchError> {
        let credentials = caller.credentials;
        let records = self.records_of(source, credentials).await?;
        if records.is_empty() {
            return Ok(None);
        }
        let Some(stat) = self.ask_origin(source, caller, &records).await else {
            *says = false;
            return Ok(None);
        };
        let own = Own { source, credentials, version: &stat.version, shown: stat.shown };
        if let Some(record) = self.shared(&own, &records) {
            let shows_same = |given: &Own<'_>| self.shared(given, std::slice::from_ref(record)).is_some();
            let is_given = own.fetched_this(record) || self.gives_sample(source, caller, record.blob, shows_same).await;
            if is_given {
                self.adopt(&own, record);
            }
            return Ok(is_given.then_some(record.blob));
        }
        Ok(None)
    }

    async fn lead_reading(
        self: &Arc<Self>,
        source: &Source,
        caller: Caller<'_>,
        mut reading: Reading,
    ) -> Result<Arc<Transfer>, FetchError> {
        // Nothing of it comes that could be held back.
        if reading.length == Some(0)
            && let Some(Err(error)) = reading.witness.take().map(Witness::verdict)
        {
            return Err(error.into());
        }
        if let Some(length) = reading.length {
            check_length(source, PieceLength::for_blob(length), length)?;
        }
        let (version, blob) = match source {
            Source::Registry { digest, .. } => (reading.version.clone(), blob_of(digest)),
            Source::Url { .. } => {
                let Caller { credentials, .. } = caller;
                let own = Own { source, credentials, version: &reading.version, shown: reading.shown };
                self.named_for(own, &mut reading.body, reading.length).await?
            }
        };
        let here = match source {
            Source::Registry { .. } => self.get_to_read(blob),
            Source::Url { .. } => self.open_stored(blob, source, caller).await?,
        };
        if let Some(transfer) = here {
            transfer.renew_credentials(source, caller.credentials.clone());
            return Ok(transfer);
        }
        let _turn = self.beginnings.turn(blob).await;
        let piece_length = reading.length.map_or(PieceLength::UNKNOWN_BLOB, PieceLength::for_blob);
        let manifest = Manifest::new(piece_length, reading.length);
        let stored = self.create(blob, source, &version, manifest, false).await?;
        let transfer = self.begin(source, version, caller, stored).await;
        // Another source's, begun since: this answer is none of its. The caller sees to it whether it may be given.
        if !self.may_go_together(&transfer.source, source) {
            return Ok(transfer);
        }
        // A sample alone is of no use: what is wanted is asked for.
        let whole = Some(reading).filter(|reading| !reading.is_part);
        let came_whole = whole.as_ref().filter(|_| !caller.everything).map(|reading| reading.length);
        transfer.lead_it(Start::Fresh, whole);
        self.count_holders_in(&transfer);
        if let Some(length) = came_whole {
            let gives_no_parts = length.is_none_or(|length| length > SAMPLE);
            let why = "the origin gave all of it though a part was requested: it serves no ranges";
            transfer.read_in_order(None, gives_no_parts.then_some(why));
        }
        Ok(transfer)
    }

    /// The blob that an answer's bytes are: a known one that the caller may have, else a new one.
    async fn named_for(
        &self,
        own: Own<'_>,
        body: &mut Body,
        length: Option<u64>,
    ) -> Result<(Version, BlobId), FetchError> {
        let records = self.records_of(own.source, own.credentials).await?;
        if let Some(record) = self.shared(&own, &records)
            && (own.fetched_this(record) || self.begins_alike(record.blob, body, length).await)
        {
            self.adopt(&own, record);
            return Ok((own.version.clone(), record.blob));
        }
        let mut version = own.own_version(fresh_nonce(&*self.house.context.clock));
        let mut blob = own.source.blob(&version);
        if !self.is_known(blob).await? {
            self.remember_own(&own, blob);
            return Ok((version, blob));
        }
        // A blob that has this name already is the same if the name says all there is to say, and the bytes bear it out. Else
        // it may be an earlier state, or what the origin shows to others under the same tag.
        if own.is_for_anyone() && self.begins_alike(blob, body, length).await {
            self.remember_own(&own, blob);
            return Ok((version, blob));
        }
        version.nonce = Some(fresh_nonce(&*self.house.context.clock));
        blob = own.source.blob(&version);
        self.remember_apart(&own, blob);
        Ok((version, blob))
    }

    /// A transfer of what is under way or stored, led by this agent if nobody leads it. A new one reads the origin with
    /// these credentials.
    async fn open_stored(
        self: &Arc<Self>,
        blob: BlobId,
        source: &Source,
        caller: Caller<'_>,
    ) -> Result<Option<Arc<Transfer>>, FetchError> {
        if let Some(transfer) = self.get_to_read(blob) {
            return Ok(Some(transfer));
        }
        // Without the turn: a registry may take as long as this agent's patience. Of what this agent knows the hash it need not read again
        // what nodes give.
        let is_part = |it: &Arc<dyn StoredBlob>| it.length().is_some() && !it.is_complete();
        let is_own_part = |it: &Arc<dyn StoredBlob>| is_part(it) && self.may_go_on_with(it, source);
        let is_held = self.stored(blob).await?.as_ref().is_some_and(is_own_part) && self.inventory.holds(blob);
        let may_be_given = is_held && self.may_take_from_holders(source, caller).await;
        let _turn = self.beginnings.turn(blob).await;
        let Some(stored) = self.stored(blob).await?.filter(|stored| stored.length().is_some()) else { return Ok(None) };
        if !stored.is_complete() && !self.may_go_on_with(&stored, source) {
            return Ok(None);
        }
        let version = stored.info().version;
        let transfer = self.begin(source, version, caller, stored).await;
        let is_own = self.may_go_together(&transfer.source, source);
        if is_own && transfer.lead() == Lead::Nobody && !transfer.is_complete() {
            // Members of the swarm that was may come back with what they hold.
            let alone = self.house.context.options.role == Role::Embedded;
            transfer.lead_it(if alone { Start::Fresh } else { Start::TakeOver }, None);
            if may_be_given {
                self.count_holders_in(&transfer);
            }
        }
        Ok(Some(transfer))
    }

    /// Whether nodes may give what is stored here in part: an address's own answer has been compared by now, a registry's is
    /// asked for.
    async fn may_take_from_holders(&self, source: &Source, caller: Caller<'_>) -> bool {
        matches!(source, Source::Url { .. }) || self.is_vouched(source, caller).await.unwrap_or(false)
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

    /// The blob that a source is, or was when callers with these credentials were last given it.
    pub(super) async fn known_blob(
        &self,
        source: &Source,
        credentials: &Credentials,
    ) -> Result<Option<BlobId>, FetchError> {
        if let Source::Registry { digest, .. } = source {
            return Ok(Some(blob_of(digest)));
        }
        let by = credentials.fingerprint();
        let mut records = self.records_of(source, credentials).await?;
        records.retain(|record| record.fetched.is_some_and(|fetched| fetched.by == by));
        Ok(records.first().map(|record| record.blob))
    }

    async fn held_of(&self, source: &Source, credentials: &Credentials) -> Result<Option<Held>, FetchError> {
        let Some(blob) = self.known_blob(source, credentials).await? else { return Ok(None) };
        let stored = self.stored(blob).await?;
        // A stranger's unfinished part is thrown away when this source's transfer begins.
        let is_begun = self.get(blob).is_some();
        let kept = stored.filter(|it| is_begun || it.is_complete() || self.may_go_on_with(it, source));
        Ok(kept.map(|stored| Held { blob, pieces: stored.held() }).filter(|held| !held.pieces.is_empty()))
    }

    /// See [`may_go_on_with`].
    fn may_go_on_with(&self, stored: &Arc<dyn StoredBlob>, source: &Source) -> bool {
        may_go_on_with(&self.house.context.registries, &stored.info().name, source)
    }

    pub(super) async fn stored(&self, blob: BlobId) -> Result<Option<Arc<dyn StoredBlob>>, FetchError> {
        Ok(self.house.context.disk.open(blob).await?)
    }
}

/// Whether a source is at an address that means the host of whoever reads it.
fn is_of_host(source: &Source) -> bool {
    match source {
        Source::Url { url: address, .. } | Source::Registry { registry: address, .. } => is_this_host(address),
    }
}

/// A number that no other reading of an origin without validators has.
pub(super) fn fresh_nonce(clock: &dyn Clock) -> u64 {
    let mut bytes = [0; 8];
    // Early in a host's life the pool may not answer; the time then tells readings apart.
    match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(8) => u64::from_le_bytes(bytes),
        _ => clock.unix(),
    }
}
