//! Decides which callers may have the known content of an address, and remembers what is needed for that.
//!
//! The origin is asked on every use, with the caller's own credentials. Its answer is compared with the one that came with the known bytes
//! ([`darter_core::sharing`] decides); unless that shows that both are the same, the caller gets a download of its own, under its own name. The
//! answer to the caller's GET decides in the same way as the answer to the HEAD before it: some servers send fewer headers with one of the two.
//!
//! Two records of an address are kept: one for callers with the same credentials, and one for everybody.
//!
//! Not decided here: who may have a registry's content (the mirror's grants decide).

use std::time::Duration;

use darter_core::sharing::{self, ContentFacts, Reach, may_share};
use darter_core::source::Credentials;
use darter_core::{BlobId, Fetched, Shown, Source, Version, in_full};
use darter_origin::{Requester, Stat};
use darter_store::SourceRecord;

use super::Swarms;
use crate::error::FetchError;

/// How long an origin may take to confirm what a node says.
const STAT_TIMEOUT: Duration = Duration::from_secs(2);

/// A caller that wants a source: its credentials, the kind of agent that it asks for, and whether it wants everything or only ranges.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) credentials: &'a Credentials,
    pub(super) requester: Requester,
    pub(super) everything: bool,
}

/// The origin's own answer to a caller.
#[derive(Clone, Copy)]
pub(super) struct Own<'a> {
    pub(super) source: &'a Source,
    pub(super) credentials: &'a Credentials,
    pub(super) version: &'a Version,
    pub(super) shown: Shown,
}

impl Own<'_> {
    fn fetched(&self) -> Fetched {
        Fetched { by: self.credentials.fingerprint(), shown: Some(self.shown) }
    }

    /// True if these credentials fetched the remembered content.
    pub(super) fn fetched_this(&self, record: &SourceRecord) -> bool {
        record.fetched.is_some_and(|fetched| fetched.by == self.credentials.fingerprint())
    }

    /// The version for a separate download of this caller; `random` makes it unique.
    pub(super) fn own_version(&self, random: u64) -> Version {
        sharing::own_version(self.source, self.version, &self.fetched(), random)
    }

    /// True if every caller to whom the origin shows the same may have it.
    pub(super) fn is_for_anyone(&self) -> bool {
        sharing::is_for_anyone(self.version, &self.shown)
    }
}

impl Swarms {
    /// The records of an address whose blobs are still here, complete or in part: for these credentials, then for everybody. Then those of the same
    /// address with a digest, or without it ([`digests`](super::digests)).
    pub(super) async fn records_of(
        &self,
        source: &Source,
        credentials: &Credentials,
    ) -> Result<Vec<SourceRecord>, FetchError> {
        let mut keys = vec![source.record_key(credentials), source.record_key(&Credentials::none())];
        keys.dedup();
        let mut records: Vec<SourceRecord> = Vec::new();
        for key in keys {
            let Some(record) = self.recall_key(key).await? else { continue };
            if self.is_known(record.blob).await? {
                records.push(record);
            }
        }
        records.extend(self.twins_of(source, credentials).await?);
        Ok(records)
    }

    /// True if these credentials fetched the part of this blob that is here.
    pub(super) async fn has_fetched(
        &self,
        source: &Source,
        credentials: &Credentials,
        blob: BlobId,
    ) -> Result<bool, FetchError> {
        let by = credentials.fingerprint();
        let is_it = |record: &SourceRecord| record.fetched.is_some_and(|fetched| fetched.by == by);
        Ok(self.records_of(source, credentials).await?.iter().any(|record| record.blob == blob && is_it(record)))
    }

    /// True if a blob has a transfer here, or is stored.
    ///
    /// # Errors
    /// The store can't be asked.
    pub async fn is_known(&self, blob: BlobId) -> Result<bool, FetchError> {
        Ok(self.get(blob).is_some() || self.stored(blob).await?.is_some())
    }

    /// True if the origin is sent something that is configured on this host. Then a refusal says nothing about agents that are
    /// configured in another way, and vice versa.
    pub(super) async fn shows_own_keys(&self, source: &Source, credentials: &Credentials) -> bool {
        self.house.context.origins.once(Requester::Here).shows_own_keys(source, credentials).await
    }

    /// Asks the origin, once, what a source is for this caller. `None` if it does not say: a GET may still be answered. It is
    /// retried as long as the patience lasts, and its failure gives the reason.
    pub(super) async fn ask_origin(
        &self,
        source: &Source,
        Caller { credentials, requester, .. }: Caller<'_>,
        records: &[SourceRecord],
    ) -> Option<Stat> {
        let by = credentials.fingerprint();
        // Only for this caller's own entity tag, "not modified" is a complete answer.
        let own = records.iter().find(|record| record.fetched.is_some_and(|fetched| fetched.by == by));
        let origin = self.house.context.origins.once(requester);
        match origin.stat(source, credentials, own.map(|record| &record.version)).await {
            Ok(stat) => Some(stat),
            Err(error) => {
                tracing::debug!(%source, error = %in_full(&error), "the origin does not say what it has; reading it");
                None
            }
        }
    }

    /// True if an address's origin names the same length as the node that leads it, since callers learn the length before any byte
    /// arrives. If the origin does not answer soon, the node's length is accepted.
    pub(super) async fn agrees(&self, source: &Source, caller: Caller<'_>, length: Option<u64>) -> bool {
        let Source::Url { .. } = source else { return true };
        let Ok(Some(stat)) = tokio::time::timeout(STAT_TIMEOUT, self.ask_origin(source, caller, &[])).await else {
            return true;
        };
        stat.version.length.zip(length).is_none_or(|(there, said)| there == said)
    }

    /// The first known blob that the caller may have, as far as the headers of its own answer show. For content that other
    /// credentials fetched, a [sample](super::sample) is needed as well.
    pub(super) fn shared<'r>(&self, own: &Own<'_>, records: &'r [SourceRecord]) -> Option<&'r SourceRecord> {
        let fetched = own.fetched();
        let has_digest = own.source.digest().is_some();
        records.iter().find(|record| {
            let Some(known) = &record.fetched else { return false };
            let under_way = self.get(record.blob).is_some_and(|transfer| !transfer.is_complete());
            may_share((&record.version, known), (own.version, &fetched), ContentFacts { has_digest, under_way })
        })
    }

    /// Remembers that the caller may have the known content.
    pub(super) fn adopt(&self, own: &Own<'_>, found: &SourceRecord) {
        // The bytes keep the date of their first answer: if that date was too recent to distinguish versions, it still is.
        let known = found.fetched.and_then(|known| known.shown);
        let age = known.and_then(|shown| shown.age);
        let age = own.shown.age.map(|own| age.map_or(own, |age| age.min(own)));
        // The bytes are meant for the same callers as at first: a 304 need not repeat that.
        let reach = own.shown.reach.max(known.map_or(Reach::SameCredentials, |shown| shown.reach));
        let shown = Shown { age, reach, ..own.shown };
        self.remember_own(&Own { shown, ..*own }, found.blob);
    }

    /// Remembers what a source is for this caller, and for everybody if the origin means it for everybody.
    pub(super) fn remember_own(&self, own: &Own<'_>, blob: BlobId) {
        let record = self.record(blob, own.version, Some(own.fetched()));
        if own.is_for_anyone() {
            self.remember_for(own.source, &Credentials::none(), record.clone());
        }
        self.remember_for(own.source, own.credentials, record);
    }

    /// Writes a record down; of an address with a digest, also for requests for that address without one.
    fn remember_for(&self, source: &Source, credentials: &Credentials, record: SourceRecord) {
        let disk = &self.house.context.disk;
        if source.digest().is_some()
            && let Some(key) = source.record_key_by_digest(credentials)
        {
            disk.remember_source(key, record.clone());
        }
        disk.remember_source(source.record_key(credentials), record);
    }

    /// Remembers what a source is for this caller only, although the origin's headers are the same for everybody.
    pub(super) fn remember_apart(&self, own: &Own<'_>, blob: BlobId) {
        let record = self.record(blob, own.version, Some(own.fetched()));
        self.remember_for(own.source, own.credentials, record);
    }

    /// Remembers that a lead let these credentials in.
    pub(super) fn remember_joined(&self, source: &Source, credentials: &Credentials, blob: BlobId, version: &Version) {
        let fetched = Fetched { by: credentials.fingerprint(), shown: None };
        let record = self.record(blob, version, Some(fetched));
        self.remember_for(source, credentials, record);
    }

    /// Remembers that a source is this blob, for all callers.
    pub(super) fn remember(&self, source: &Source, blob: BlobId, version: &Version) {
        let record = self.record(blob, version, None);
        self.house.context.disk.remember_source(source.record_key(&Credentials::none()), record);
    }

    /// Remembers the blob of a key.
    pub(super) fn remember_key(&self, key: BlobId, blob: BlobId) {
        self.house.context.disk.remember_source(key, self.record(blob, &Version::default(), None));
    }

    /// The record of a source for callers without credentials.
    ///
    /// # Errors
    /// The store's index can't be read.
    pub async fn recall(&self, source: &Source) -> Result<Option<SourceRecord>, FetchError> {
        self.recall_key(source.record_key(&Credentials::none())).await
    }

    fn record(&self, blob: BlobId, version: &Version, fetched: Option<Fetched>) -> SourceRecord {
        SourceRecord { blob, version: version.clone(), checked: self.house.context.unix(), fetched }
    }

    pub(super) async fn recall_key(&self, key: BlobId) -> Result<Option<SourceRecord>, FetchError> {
        let record = self.house.context.disk.recall_source(key).await?;
        // A blob that passes through has a transfer and is not in the store.
        let is_here =
            |record: &SourceRecord| !self.house.context.disk.is_absent(record.blob) || self.get(record.blob).is_some();
        Ok(record.filter(is_here))
    }
}
