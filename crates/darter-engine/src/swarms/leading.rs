//! Leads the swarm of a source: with what is stored if the origin still has the same, else with the origin's answer.

use std::sync::Arc;
use std::time::Duration;

use darter_api::Role;
use darter_core::source::{Credentials, blob_of};
use darter_core::{BlobId, Manifest, PieceLength, Source, Version};
use darter_origin::{Body, ErrorKind, Reading, Witness};
use darter_store::StoredBlob;
use darter_swarm::{FIRST_STRETCH, Start};

use super::Swarms;
use super::access::{Caller, Own};
use super::first_answer::{Stretch, first_answer, first_stretch};
use super::sample::{SAMPLE, fresh_nonce};
use crate::error::FetchError;
use crate::setbacks::key_of;
use crate::transfer::beside::is_signed;
use crate::transfer::body::check_length;
use crate::transfer::dissolve::{origin_of, read_wrong};
use crate::transfer::{Lead, Transfer};

/// `darter explain` mentions an answer that takes at least this long.
pub(super) const TELL_WAIT_FROM: Duration = Duration::from_secs(1);

impl Swarms {
    /// Leads the swarm of a source: with what is stored, else with the origin's answer. The origin is retried only if this agent is to be
    /// `patient`, and is no longer waited for when this agent ends.
    pub(super) async fn lead(
        self: &Arc<Self>,
        source: &Source,
        caller: Caller<'_>,
        patient: bool,
    ) -> Result<Arc<Transfer>, FetchError> {
        let led = self.ends.run_until_cancelled(self.lead_with_answer(source, caller, patient));
        led.await.unwrap_or(Err(FetchError::Draining))
    }

    async fn lead_with_answer(
        self: &Arc<Self>,
        source: &Source,
        caller: Caller<'_>,
        patient: bool,
    ) -> Result<Arc<Transfer>, FetchError> {
        // An agent that expands a layer has to read all of it, and keeps the whole expanded form.
        let caller = Caller { everything: caller.everything || source.is_headed_last(), ..caller };
        let Caller { credentials, requester, everything } = caller;
        // Outside the door: callers of known content need not wait for each other's requests to the origin. But a part in the
        // store may have been created just now by the opener that holds the door.
        let mut says = true;
        let is_begun = match source.own_blob() {
            Some(blob) => {
                self.get(blob).is_none() && self.stored(blob).await?.is_some_and(|stored| !stored.is_complete())
            }
            None => false,
        };
        if !is_begun && let Some(transfer) = self.lead_known(source, caller, &mut says).await? {
            return Ok(transfer);
        }
        // A slow answer from an untrusted registry must not keep callers from other registries with the same digest.
        let is_stranger = source.registry().is_some() && !self.is_trusted(source);
        let door = self.opening.at(if is_stranger { source.record_key(&Credentials::none()) } else { source.key() });
        let opening = match door.enter(source, caller).await {
            Ok(opening) => opening,
            Err(found) => return found,
        };
        if let Some(transfer) = self.lead_known(source, caller, &mut says).await? {
            return Ok(transfer);
        }
        // Callers that waited at the door while another one read the origin get its result.
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
        let by_stretches = self.may_read_by_stretches(source, credentials);
        let answered = match everything {
            true if by_stretches => first_stretch(origin, origins.once(requester), source, credentials).await,
            true => origin.read(source, credentials, None, None).await.map(|reading| (reading, Stretch::Any)),
            false => first_answer(origin, origins.once(requester), source, credentials)
                .await
                .map(|reading| (reading, Stretch::Any)),
        };
        let led = match answered {
            Ok((reading, stretch)) => self.lead_reading(source, caller, reading, stretch).await,
            Err(error) => {
                let error = FetchError::from(error);
                self.limits.note(source, credentials, &error, context.now());
                context.origin_failed(key_of(source, credentials), &error);
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

    /// True if a source's origin is read in stretches, so that several connections may be used.
    fn may_read_by_stretches(&self, source: &Source, credentials: &Credentials) -> bool {
        let context = &self.house.context;
        let is_remote = match source {
            Source::Url { url, .. } => url.scheme() != "file",
            Source::Registry { .. } => true,
            Source::Expanded(_) => false,
        };
        let (origin, now) = (origin_of(source), context.now());
        let may = context.options.origin_connections > 1 && is_remote && !is_signed(credentials);
        may && !context.manners.is_alone(&origin, now) && context.manners.known_until(&origin, now).is_none()
    }

    /// Leads the existing transfer or the stored content, if the origin shows this caller the same. `says` is set to false if the origin
    /// does not say what it has: then it is not asked again.
    pub(super) async fn lead_known(
        self: &Arc<Self>,
        source: &Source,
        caller: Caller<'_>,
        says: &mut bool,
    ) -> Result<Option<Arc<Transfer>>, FetchError> {
        let blob = match source.own_blob() {
            Some(blob) => Some(blob),
            None if *says => self.shared_blob(source, caller, says).await?,
            None => None,
        };
        let Some(blob) = blob else { return Ok(None) };
        let transfer = self.open_stored(blob, source, caller).await?;
        if let Some(transfer) = &transfer {
            transfer.renew_credentials(source, caller.credentials.clone());
        }
        Ok(transfer)
    }

    /// The known blob of an address that this caller may have, according to the origin's answer.
    pub(super) async fn shared_blob(
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

    pub(super) async fn lead_reading(
        self: &Arc<Self>,
        source: &Source,
        caller: Caller<'_>,
        mut reading: Reading,
        stretch: Stretch,
    ) -> Result<Arc<Transfer>, FetchError> {
        // An empty body has nothing that could be held back.
        if reading.length == Some(0)
            && let Some(Err(error)) = reading.witness.take().map(Witness::verdict)
        {
            return Err(error.into());
        }
        if let Some(length) = reading.length {
            check_length(source, PieceLength::for_blob(length), length)?;
        }
        let (version, blob) = match source.own_blob() {
            Some(blob) => (reading.version.clone(), blob),
            None => {
                let Caller { credentials, .. } = caller;
                let own = Own { source, credentials, version: &reading.version, shown: reading.shown };
                self.named_for(own, &mut reading.body, reading.length).await?
            }
        };
        let here = match source {
            Source::Registry { .. } | Source::Expanded(_) => self.get_to_read(blob),
            Source::Url { .. } => self.open_stored(blob, source, caller).await?,
        };
        if let Some(transfer) = here {
            if let Source::Expanded(layer) = source
                && reading.length.is_some()
            {
                self.unpacked(layer);
            }
            transfer.renew_credentials(source, caller.credentials.clone());
            return Ok(transfer);
        }
        let _turn = self.beginnings.turn(blob).await;
        let piece_length = reading.length.map_or(PieceLength::UNKNOWN_BLOB, PieceLength::for_blob);
        let manifest = Manifest::new(piece_length, reading.length);
        let stored = self.create(blob, source, &version, manifest, false).await?;
        let transfer = self.begin(source, version, caller, stored).await;
        if let Source::Expanded(layer) = source
            && reading.length.is_some()
        {
            // The layer has been read and checked.
            self.unpacked(layer);
        }
        // Another source's transfer began meanwhile: this answer is not for it. The caller checks whether its content may be served.
        if !self.may_go_together(&transfer.source, source) {
            return Ok(transfer);
        }
        // A sample alone does not help: the wanted range is requested separately.
        let is_of_use = caller.everything || source.is_headed_last();
        let is_long = reading.length.is_none_or(|length| length > FIRST_STRETCH);
        let gave_all = stretch == Stretch::Refused && is_long;
        let whole = Some(reading).filter(|reading| !reading.is_part || is_of_use);
        let came_whole = whole.as_ref().filter(|_| !caller.everything).map(|reading| reading.length);
        transfer.lead_it(Start::Fresh, whole);
        if gave_all {
            let why = "the origin gave all of it though a part was requested";
            transfer.note(format!("{why}: reading it by one connection"));
            transfer.origin_is_read_alone(None, why);
        }
        self.count_holders_in(&transfer);
        if let Some(length) = came_whole {
            let gives_no_parts = length.is_none_or(|length| length > SAMPLE);
            let why = "the origin gave all of it though a part was requested: it serves no ranges";
            transfer.read_in_order(None, gives_no_parts.then_some(why));
        }
        Ok(transfer)
    }

    /// The blob of an answer: a known one that the caller may have, else a new one.
    pub(super) async fn named_for(
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
        // An existing blob of this name is the same if the name identifies the version completely, and the bytes match.
        // Otherwise it may be an earlier version, or what the origin shows to other callers under the same tag.
        if own.is_for_anyone() && self.begins_alike(blob, body, length).await {
            self.remember_own(&own, blob);
            return Ok((version, blob));
        }
        version.nonce = Some(fresh_nonce(&*self.house.context.clock));
        blob = own.source.blob(&version);
        self.remember_apart(&own, blob);
        Ok((version, blob))
    }

    /// The transfer for an existing or stored blob, led by this agent if it has no lead. A new transfer reads the origin with
    /// these credentials.
    pub(super) async fn open_stored(
        self: &Arc<Self>,
        blob: BlobId,
        source: &Source,
        caller: Caller<'_>,
    ) -> Result<Option<Arc<Transfer>>, FetchError> {
        if let Some(transfer) = self.get_to_read(blob) {
            return Ok(Some(transfer));
        }
        // Without the turn, since a registry may take as long as this agent's patience. Pieces whose hashes this agent knows can come from nodes,
        // without being read from the origin again.
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
            // Members of the former swarm may come back with what they hold.
            let alone = self.house.context.options.role == Role::Embedded;
            transfer.lead_it(if alone { Start::Fresh } else { Start::TakeOver }, None);
            if may_be_given {
                self.count_holders_in(&transfer);
            }
        }
        Ok(Some(transfer))
    }

    /// True if nodes may give pieces of the partly stored blob: an address's own answer has been compared by now, a registry is asked.
    pub(super) async fn may_take_from_holders(&self, source: &Source, caller: Caller<'_>) -> bool {
        matches!(source, Source::Url { .. }) || self.is_vouched(source, caller).await.unwrap_or(false)
    }
}
