//! Proof that stored content may be served for this registry and repository.
//!
//! Content with a digest is one blob, wherever it came from. But a registry that claims to have it proves nothing:
//! anybody can run a registry that claims to have every digest. So content that is stored or being fetched is served to callers that
//! request it from a source only if that source is *proven*:
//!
//! - the content came from there: the blob was created for this source, or is being fetched from it;
//! - or the source has delivered the same content since, completely: here ([`Swarms::compare`]), or directly to an engine. For an expanded layer,
//!   the content is the layer as it is stored, which has to unpack into the named tar;
//! - or it is a registry that the operator trusts, which has just accepted the caller's credentials;
//! - or a seed let this agent in for that very source, after the same checks.
//!
//! Proofs are kept with the source in the store's index, and removed with the blob. The first source is in the blob's
//! sidecar, so a lost index costs at most a comparison.
//!
//! Not decided here: whether these credentials give access to the repository. The mirror decides that (`mirror/grants.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use darter_api::Role;
use darter_core::source::{Credentials, blob_of};
use darter_core::{BlobId, ExpandedLayer, Source, Version, in_full};
use darter_origin::{Requester, Upstreams};
use darter_wire::Budget as _;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Swarms;
use super::access::Caller;
use crate::error::FetchError;
use crate::stored_name::is_named_for;
use crate::transfer::Transfer;
use crate::transfer::dissolve::origin_of;

/// How long a member waits for a comparison. A longer one goes on for later requests.
const COMPARISON_TIMEOUT: Duration = Duration::from_secs(5);

/// The comparisons in progress.
#[derive(Default)]
pub(super) struct Comparisons(Mutex<HashMap<Compared, Comparison>>);

/// A source, a fingerprint of the credentials, and whether it is read for another host.
type Compared = (BlobId, [u8; 32], bool);

/// The result of a comparison; `None` until it has ended.
type Comparison = watch::Receiver<Option<Result<(), FetchError>>>;

impl Swarms {
    /// True if all of this content is here, and may be served for this source.
    ///
    /// # Errors
    /// The store can't be asked.
    pub async fn is_whole(&self, source: &Source) -> Result<bool, FetchError> {
        let Some(blob) = source.own_blob() else { return Ok(false) };
        if !self.is_proven(source).await? {
            return Ok(false);
        }
        let is_complete = self.get(blob).is_some_and(|transfer| transfer.is_complete());
        Ok(is_complete || self.stored(blob).await?.is_some_and(|stored| stored.is_complete()))
    }

    /// True if stored content may be served for this source, or nothing is stored.
    ///
    /// # Errors
    /// The store can't be asked.
    pub async fn is_proven(&self, source: &Source) -> Result<bool, FetchError> {
        let Some(blob) = source.own_blob() else { return Ok(true) };
        let transfer = self.get(blob);
        if let Some(transfer) = &transfer {
            if transfer.source == *source {
                return Ok(true);
            }
            if !self.may_come_to_this(transfer) {
                return Ok(false);
            }
        }
        match self.stored(blob).await? {
            // The name does not say who completes a blob that somebody else has created.
            Some(stored) => {
                let is_all_its_own = transfer.is_none_or(|transfer| transfer.is_complete());
                if is_all_its_own && is_named_for(&*stored, source) {
                    return Ok(true);
                }
            }
            // The blob passes through memory.
            None if transfer.is_some() => {}
            None => return Ok(true),
        }
        Ok(self.recall(source).await?.is_some_and(|record| record.blob == blob))
    }

    /// True if a transfer from another source is worth waiting for: it is complete, its lead has checked the whole, or it comes from a registry that is trusted to send the right
    /// content. A transfer from an untrusted registry may never end, or end with wrong content.
    pub(super) fn may_come_to_this(&self, transfer: &Transfer) -> bool {
        let is_checked = transfer.has_verdict() && !transfer.is_on_trust();
        transfer.is_complete() || is_checked || self.is_trusted(&transfer.source)
    }

    /// True if a request for one source may use a transfer of the other. All transfers of one digest have one name; but
    /// a caller of an untrusted registry must not get what another registry sends, nor the other way round.
    pub(super) fn may_go_together(&self, one: &Source, other: &Source) -> bool {
        let are_addresses = matches!((one, other), (Source::Url { .. }, Source::Url { .. }));
        one == other || are_addresses || (self.is_trusted(one) && self.is_trusted(other))
    }

    /// True if the operator trusts the registry of a source.
    pub(super) fn is_trusted(&self, source: &Source) -> bool {
        source.registry().is_some_and(|registry| self.house.context.registries.at(registry).is_trusted())
    }

    /// Notes that the source has shown that it has the content it names.
    pub fn proven(&self, source: &Source) {
        if let Some(blob) = source.own_blob() {
            self.remember(source, blob, &Version::default());
        }
    }

    /// Notes that a registry's layer was read, and unpacks into the tar with the expected diff id.
    pub(super) fn unpacked(&self, layer: &ExpandedLayer) {
        self.remember_key(layer.pair(), layer.blob());
        self.proven(&Source::Expanded(layer.clone()));
    }

    /// True if a registry's claim to have the blob is enough. A claim about a layer says nothing about the tar in it: that has to be known,
    /// from any registry.
    async fn is_told_by_a_yes(&self, source: &Source) -> Result<bool, FetchError> {
        let Source::Expanded(layer) = source else { return Ok(true) };
        Ok(self.recall_key(layer.pair()).await?.is_some_and(|record| record.blob == layer.blob()))
    }

    /// Refuses a transfer that another source has begun meanwhile, and for which this source is not proven.
    pub(super) async fn check_given(&self, transfer: &Transfer, source: &Source) -> Result<(), FetchError> {
        if transfer.source == *source || self.is_proven(source).await? {
            return Ok(());
        }
        Err(FetchError::Unproven { name: source.to_string() })
    }

    /// Makes sure that the source is proven.
    ///
    /// # Errors
    /// The registry's answer; [`FetchError::Unproven`] if it takes more than a few seconds.
    pub(super) async fn prove(self: &Arc<Self>, source: &Source, caller: Caller<'_>) -> Result<(), FetchError> {
        if self.is_proven(source).await? {
            return Ok(());
        }
        if self.is_vouched(source, caller).await? {
            self.proven(source);
            return Ok(());
        }
        self.compare(source, caller).await
    }

    /// Makes sure that the source is proven for a program of this host. A node leaves this to the seeds that let it in.
    ///
    /// # Errors
    /// The same as for a member.
    pub async fn prove_for_program(
        self: &Arc<Self>,
        source: &Source,
        credentials: &Credentials,
        requester: Requester,
    ) -> Result<(), FetchError> {
        let house = &self.house;
        if house.context.options.role == Role::Node && !house.fleet.seeds().is_empty() {
            return Ok(());
        }
        self.prove(source, Caller { credentials, requester, everything: false }).await
    }

    /// True if a registry that the operator trusts says that it has the content; false for any other registry.
    pub(super) async fn is_vouched(&self, source: &Source, caller: Caller<'_>) -> Result<bool, FetchError> {
        if !self.is_trusted(source) || !self.is_told_by_a_yes(source).await? {
            return Ok(false);
        }
        let context = &self.house.context;
        let stat = context.origins.patient(caller.requester).stat(source, caller.credentials, None).await?;
        // An answer with another length is about something else, such as a login page.
        let (Some(digest), Some(told)) = (source.digest(), stat.version.length) else { return Ok(true) };
        let known = self.stored(blob_of(&digest)).await?.and_then(|stored| stored.length());
        Ok(known.is_none_or(|known| known == told))
    }

    /// Reads the source completely, and compares it with its digest. Callers with the same request wait for this
    /// read.
    async fn compare(self: &Arc<Self>, source: &Source, caller: Caller<'_>) -> Result<(), FetchError> {
        let mut result = self.comparison(source, caller);
        let told = async { result.wait_for(Option::is_some).await.ok().and_then(|result| result.clone()) };
        match tokio::time::timeout(COMPARISON_TIMEOUT, told).await {
            Ok(Some(result)) => result,
            Ok(None) | Err(_) => Err(FetchError::Unproven { name: source.to_string() }),
        }
    }

    fn comparison(self: &Arc<Self>, source: &Source, caller: Caller<'_>) -> Comparison {
        let Caller { credentials, requester, .. } = caller;
        let key =
            (source.record_key(&Credentials::none()), credentials.fingerprint(), requester == Requester::Elsewhere);
        let mut running = self.comparisons.0.lock();
        if let Some(result) = running.get(&key) {
            return result.clone();
        }
        let (tell, result) = watch::channel(None);
        running.insert(key, result.clone());
        let (swarms, source, credentials) = (Arc::clone(self), source.clone(), credentials.clone());
        self.house.tasks.spawn(async move {
            let caller = Caller { credentials: &credentials, requester, everything: true };
            let compared = swarms.read_and_compare(&source, caller).await;
            match &compared {
                Ok(()) => swarms.proven(&source),
                Err(error) => {
                    tracing::warn!(%source, error = %in_full(error), "a registry did not deliver what it says it has");
                }
            }
            swarms.comparisons.0.lock().remove(&key);
            tell.send_replace(Some(compared));
        });
        result
    }

    async fn read_and_compare(&self, source: &Source, caller: Caller<'_>) -> Result<(), FetchError> {
        let context = &self.house.context;
        if let Source::Expanded(layer) = source {
            context.expansions.check(context.origins.patient(caller.requester), layer, caller.credentials).await?;
            self.unpacked(layer);
            return Ok(());
        }
        let Some(digest) = source.digest() else { return Ok(()) };
        tracing::info!(%source, "comparing a registry's copy with what is cached from elsewhere");
        let origin = context.origins.patient(caller.requester);
        let mut body = origin.read(source, caller.credentials, None, None).await?.body;
        let mut hasher = digest.hasher();
        while let Some(chunk) = body.next().await {
            if self.is_draining() {
                return Err(FetchError::Draining);
            }
            let chunk = chunk?;
            context.metrics.origin_bytes.inc_by(chunk.len() as u64);
            context.origin_budget.take(u32::try_from(chunk.len()).unwrap_or(u32::MAX)).await;
            hasher.update(&chunk);
        }
        let got = hasher.finish();
        if got == digest {
            return Ok(());
        }
        Err(FetchError::WrongDigest {
            expected: Box::new(digest),
            got: Box::new(got),
            from: origin_of(source),
            reader: None,
        })
    }
}

/// True if a source may continue a part of a blob that was stored under `name`, another source's. A blob under a registry's name counts
/// as delivered by that registry once it is complete ([`Swarms::is_proven`]); so if an untrusted registry's transfer began and never ended, another registry must not complete
/// the blob and so prove the first one. A trusted registry needs no proof. The whole is checked in any case.
pub(super) fn may_go_on_with(registries: &Upstreams, name: &str, source: &Source) -> bool {
    let is_address = name.contains("://");
    if is_address || name == source.to_string() {
        return true;
    }
    let Some((registry, (place, _))) = source.registry().zip(name.split_once('/')) else { return false };
    place == origin_of(source) || (registries.at(registry).is_trusted() && registries.has_trusted_at(place))
}

#[cfg(test)]
mod tests {
    use darter_core::Digest;
    use darter_origin::RegistryConfig;

    use super::*;

    #[test]
    fn what_one_registry_began_is_no_part_of_what_another_one_or_an_address_has() {
        let digest = Digest::sha256(b"layer");
        let of = |registry: &str, repository: &str| Source::Registry {
            registry: registry.parse().unwrap(),
            repository: repository.into(),
            digest,
        };
        let (lab, evil) = (of("https://lab.example/", "app"), of("https://evil.example/", "app"));
        let (address, _) = Source::from_url("https://lab.example/layer".parse().unwrap(), &[], Some(digest));
        let trusted = ["lab.example", "mirror.example:444"].map(str::to_owned).into();
        let registries = Upstreams::new(&RegistryConfig { trusted, guarded: true, ..RegistryConfig::default() });
        let may_go_on_with = |name: &Source, source: &Source| may_go_on_with(&registries, &name.to_string(), source);
        assert!(may_go_on_with(&lab, &lab) && may_go_on_with(&evil, &evil));
        assert!(may_go_on_with(&of("https://lab.example/", "base"), &lab), "a layer of two images");
        assert!(may_go_on_with(&address, &lab), "an address's name proves nothing");
        for other in [&evil, &of("https://lab.example:444/", "app"), &of("https://lab.example.evil/", "app")] {
            assert!(!may_go_on_with(other, &lab), "{other}");
            assert!(!may_go_on_with(&lab, other), "{other}");
        }
        assert!(!may_go_on_with(&evil, &address));
        // Both trusted.
        let mirror = of("https://mirror.example:444/", "app");
        assert!(may_go_on_with(&mirror, &lab) && may_go_on_with(&lab, &mirror));
        assert!(!may_go_on_with(&mirror, &evil) && !may_go_on_with(&evil, &mirror));
        assert!(!may_go_on_with(&mirror, &address));
    }
}
