//! An address that is requested with a digest, and the same address without one: content that is here under one of the two names is not read again
//! for the other.
//!
//! The two are different sources, and their blobs have different names ([`Source::blob`]). An agent that leads also considers the other name's blob
//! ([`Swarms::twins_of`]):
//!
//! - for a request with a digest, a blob of the plain address whose whole is here and has that digest;
//! - for a plain request, a blob that was requested with a digest and is complete, so that its digest was found right.
//!
//! Whether the caller may have it, and whether the address still is that content, is decided as for any other known blob
//! ([`access`](super::access)): by the origin's answer to the caller's own request.
//!
//! Invariants: a digest counts only if this agent computed it, or the lead that it followed said so; and content that was requested with a digest is
//! given to a caller only if that digest is checked, before ([`Swarms::check_digest`]) or at the end of its transfer.

use std::sync::Arc;

use darter_core::source::Credentials;
use darter_core::{BlobId, Digest, Source};
use darter_store::SourceRecord;

use super::Swarms;
use crate::error::FetchError;
use crate::transfer::dissolve::origin_of;
use crate::transfer::{Outcome, Transfer, recalled};

impl Swarms {
    /// The records of an address's other name, as far as their blobs are here, complete, and what `source` requires: for these credentials, then
    /// for everybody.
    pub(super) async fn twins_of(
        &self,
        source: &Source,
        credentials: &Credentials,
    ) -> Result<Vec<SourceRecord>, FetchError> {
        let for_each = [credentials, &Credentials::none()];
        let mut keys: Vec<BlobId> = for_each.into_iter().filter_map(|it| source.record_key_of_twin(it)).collect();
        keys.dedup();
        let mut twins = Vec::new();
        for key in keys {
            let Some(record) = self.recall_key(key).await? else { continue };
            let is_it = match source.digest() {
                Some(digest) => self.digest_of(record.blob).await? == Some(digest),
                None => self.is_complete_here(record.blob).await?,
            };
            if is_it {
                twins.push(record);
            }
        }
        Ok(twins)
    }

    async fn is_complete_here(&self, blob: BlobId) -> Result<bool, FetchError> {
        match self.get(blob) {
            Some(transfer) => Ok(transfer.is_complete()),
            None => Ok(self.stored(blob).await?.is_some_and(|stored| stored.is_complete())),
        }
    }

    /// The digest of a blob that is complete here, if this agent or its lead has computed one.
    pub(super) async fn digest_of(&self, blob: BlobId) -> Result<Option<Digest>, FetchError> {
        if let Some(transfer) = self.get(blob) {
            return Ok(transfer.checked_digest());
        }
        let Some(stored) = self.stored(blob).await?.filter(|stored| stored.is_complete()) else { return Ok(None) };
        let Some(root) = stored.manifest().root() else { return Ok(None) };
        Ok(recalled(&self.house.context, blob, root).await.or(stored.info().digest))
    }

    /// Makes sure that a transfer has the digest that `source` requires. A transfer that began for this digest checks it at its end; any other one is
    /// waited for, unless only ranges are wanted and its lead says that the whole has this digest.
    ///
    /// # Errors
    /// It has another digest, or failed.
    pub(super) async fn check_digest(
        &self,
        transfer: &Arc<Transfer>,
        source: &Source,
        everything: bool,
    ) -> Result<(), FetchError> {
        let Source::Url { digest: Some(expected), .. } = source else { return Ok(()) };
        let is_its_own = transfer.source.digest() == Some(*expected);
        let is_told = !everything && transfer.told_digest() == Some(*expected);
        if !is_its_own && !is_told && matches!(transfer.outcome(), Outcome::Open) {
            transfer.want_everything();
            let mut changed = transfer.changes();
            while matches!(transfer.outcome(), Outcome::Open) && changed.changed().await.is_ok() {}
        }
        let got = match transfer.outcome() {
            Outcome::Open => return Ok(()),
            Outcome::Failed(error) => return Err(error),
            Outcome::Complete => {
                let computed = transfer.checked_digest().filter(|digest| digest.algorithm() == expected.algorithm());
                match computed {
                    Some(digest) => digest,
                    None => transfer.hash_whole(*expected).await?,
                }
            }
        };
        if got == *expected {
            return Ok(());
        }
        let (expected, got) = (Box::new(*expected), Box::new(got));
        Err(FetchError::WrongDigest { expected, got, from: origin_of(source), reader: None })
    }
}
