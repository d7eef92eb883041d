//! Layers in mountable form, and blobs of registries as they are stored, for programs of this host. A part of `impl Agent`.
//!
//! The lead of the layer's swarm reads it from its registry and expands it; the expanded file is opened here like any other blob.
//! A caller gets it only if their own credentials open the layer: the registry is asked about the layer, for each
//! caller, unless the caller of this code has just got that answer.

use std::time::Duration;

use darter_api::{BlobRequest, LayerRequest, Role};
use darter_core::source::Credentials;
use darter_core::{Digest, ExpandedLayer, Source};
use darter_engine::FetchError;
use darter_image::{Compression, FORMAT};
use darter_oci::route;
use darter_origin::{ErrorKind, OriginFailure, Requester, Upstream, of_status};
use darter_registries::question::Question;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method};
use tokio::sync::watch;

use super::{Agent, Download};

/// Pauses before a layer is requested again that other agents may have, or may have space for.
const PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(200), Duration::from_millis(600), Duration::from_secs(2)];

/// A request to a registry that takes this long has become a download: the layer may be here when it is requested once more.
const IS_READ: Duration = Duration::from_secs(1);

/// How it is known that a caller may have a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The registry has to be asked, with the caller's credentials.
    Asked,
    /// The registry has just accepted these credentials, and confirmed that the layer is in that repository: the caller of this code has checked that.
    Granted,
}

impl Agent {
    /// Opens a layer's expanded file, for a caller that wants ranges of it. Returns once its length is known, within this time. `layer` contains
    /// the repository's name at the registry.
    ///
    /// # Errors
    /// [`ErrorKind::Unmountable`], with the reason, for a layer that can't be expressed as EROFS, or that unpacks into another tar: it has to be downloaded the
    /// ordinary way. [`FetchError::Silent`] if it takes too long; the work that has begun goes on. Else the same as of [`Agent::open`].
    pub async fn expanded(
        &self,
        layer: &LayerRequest,
        credentials: Credentials,
        access: Access,
        within: Duration,
    ) -> Result<Download, FetchError> {
        let opened = self.open_expanded(layer, credentials, access);
        tokio::time::timeout(within, opened).await.unwrap_or(Err(FetchError::Silent))
    }

    /// An image with these tars will not be mounted: its layers are downloaded as they are stored, and their expanded form must not
    /// take a share of the link as well.
    pub fn let_go_of_layers(&self, diff_ids: &[Digest]) {
        for diff_id in diff_ids {
            self.inner.swarms.let_go(ExpandedLayer::blob_of(diff_id, FORMAT));
        }
    }

    /// Notifies whenever the expanded form of a layer can no longer be had as it was opened.
    pub fn layers_failing(&self) -> watch::Receiver<()> {
        self.inner.context.layers_failing.subscribe()
    }

    async fn open_expanded(
        &self,
        layer: &LayerRequest,
        credentials: Credentials,
        access: Access,
    ) -> Result<Download, FetchError> {
        if let Some(media_type) = &layer.media_type {
            let of_layers = Compression::of_media_type(media_type);
            of_layers.map_err(|error| unmountable(layer, &error.to_string()))?;
        }
        let upstream = self.inner.context.registries.resolve(&layer.registry)?;
        if access == Access::Asked {
            let stored = BlobRequest {
                registry: layer.registry.clone(),
                repository: layer.repository.clone(),
                digest: layer.digest,
                size: layer.size,
            };
            let said = self.ask_for_blob(&upstream, &stored, &credentials).await?;
            if !said.shows_it(layer.size) {
                return Err(not_shown(&stored));
            }
        }
        let source = source_of(&upstream, layer);
        if let Some(size) = layer.size {
            self.inner.context.expansions.names_size(&layer.digest, size);
        }
        let mut pauses = PAUSES.into_iter();
        loop {
            let begun = self.inner.context.now();
            match self.open_once(&source, &credentials).await {
                // The lead threw it away, or gave it up: if asked again, it gives the whole reason, or others have the layer by now. If this agent should lead
                // and had no space for it, another one may have it, which perhaps is about to learn that the last lead had none.
                Err(error) if self.may_be_had_of_others(&source, &credentials, &error) => match pauses.next() {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(error),
                },
                // The tar is here, or is being fetched, from another repository or with another compression. This layer is read meanwhile: downloading it the
                // ordinary way would read it, too, and an engine that has mounted the lower layers of an image can't change to unpacking.
                Err(error @ FetchError::Unproven { .. }) => {
                    let is_read = self.inner.context.now().since(begun) >= IS_READ;
                    match if is_read { Some(PAUSES[0]) } else { pauses.next() } {
                        Some(pause) => tokio::time::sleep(pause).await,
                        None => return Err(error),
                    }
                }
                opened => return opened,
            }
        }
    }

    async fn open_once(&self, source: &Source, credentials: &Credentials) -> Result<Download, FetchError> {
        self.inner.swarms.prove_for_program(source, credentials, Requester::Named).await?;
        let download = self.open_named(source.clone(), credentials.clone(), false).await?;
        if download.length().is_none() {
            // The layer is being read for the first time: the fleet gets the expanded form as it is made.
            download.want_everything();
        }
        download.length_when_known().await?;
        if self.inner.context.was_wrong(source, credentials) {
            // Its beginning looks like that of any other.
            download.want_everything();
            download.whole().await?;
        }
        Ok(download)
    }

    /// True if a layer that this agent could not get may be had with another request.
    fn may_be_had_of_others(&self, source: &Source, credentials: &Credentials, error: &FetchError) -> bool {
        let context = &self.inner.context;
        match error {
            // The agent that gave it, if it was wrong, is left out now.
            FetchError::Withdrawn { .. } | FetchError::WrongDigest { .. } => true,
            // A lead that gave nothing is not followed again.
            FetchError::Stalled { .. } => context.was_let_down(source, credentials),
            FetchError::Origin(failure) => {
                let has_no_room = || failure.kind == ErrorKind::OutOfReach && context.expansions.lacks_room(source);
                let knows_others = || !self.inner.swarms.house.fleet.peers().is_empty();
                context.options.role == Role::Node && has_no_room() && knows_others()
            }
            _ => false,
        }
    }

    /// Opens a registry's blob as it is stored, for a caller that wants ranges of it. Returns once its length is known. `blob` contains the repository's
    /// name at the registry, which is asked whether these credentials open the blob.
    ///
    /// # Errors
    /// The registry's refusal; [`FetchError::Silent`] if it takes longer than `within`. Else the same as of [`Agent::open`].
    pub async fn registry_blob(
        &self,
        blob: &BlobRequest,
        credentials: Credentials,
        within: Duration,
    ) -> Result<Download, FetchError> {
        let opened = async {
            let upstream = self.inner.context.registries.resolve(&blob.registry)?;
            let said = self.ask_for_blob(&upstream, blob, &credentials).await?;
            let source = stored_at(&upstream, blob);
            self.inner.swarms.prove_for_program(&source, &credentials, Requester::Named).await?;
            let download = self.open_named(source, credentials, false).await?;
            // The length that the caller names proves nothing.
            let length = download.length_when_known().await?;
            if said.shows_it(Some(length)) { Ok(download) } else { Err(not_shown(blob)) }
        };
        tokio::time::timeout(within, opened).await.unwrap_or(Err(FetchError::Silent))
    }

    /// Asks the registry whether these credentials open the blob.
    async fn ask_for_blob(
        &self,
        upstream: &Upstream,
        blob: &BlobRequest,
        credentials: &Credentials,
    ) -> Result<RegistrySaid, FetchError> {
        let Some(registries) = &self.inner.registries else {
            let origin = self.inner.context.origins.patient(Requester::Named);
            let stat = origin.stat(&stored_at(upstream, blob), credentials, None).await?;
            return Ok(RegistrySaid { names_it: true, length: stat.version.length });
        };
        let path = route::of_blob(&blob.repository, &blob.digest)
            .map_err(|error| FetchError::Origin(OriginFailure::new(ErrorKind::Protocol, error.to_string())))?;
        let question = Question {
            upstream: upstream.clone(),
            method: Method::HEAD,
            path,
            headers: HeaderMap::new(),
            credentials: credentials.clone(),
        };
        let reply = registries.ask(question).await.map_err(FetchError::Origin)?;
        if !reply.status.is_success() {
            return Err(of_status(reply.status, &reply.headers, &blob.to_string()).into());
        }
        let length = reply.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(RegistrySaid { names_it: reply.digest() == Some(blob.digest) || reply.stale.is_some(), length })
    }
}

/// A registry's successful answer about a blob. A gateway that wants a login may answer everything with success.
struct RegistrySaid {
    /// True if the answer names the blob's digest.
    names_it: bool,
    length: Option<u64>,
}

impl RegistrySaid {
    /// True if it names the blob, or is about a blob of this length.
    fn shows_it(&self, length: Option<u64>) -> bool {
        self.names_it || (length.is_some() && self.length == length)
    }
}

fn not_shown(blob: &BlobRequest) -> FetchError {
    let text = format!(
        "{blob}: the registry says yes and names neither its digest nor its length: check the registry's address, and \
         whether a gateway answers in its place"
    );
    FetchError::Origin(OriginFailure::new(ErrorKind::Protocol, text))
}

fn stored_at(upstream: &Upstream, blob: &BlobRequest) -> Source {
    Source::Registry { registry: upstream.base().clone(), repository: blob.repository.clone(), digest: blob.digest }
}

fn source_of(upstream: &Upstream, layer: &LayerRequest) -> Source {
    Source::Expanded(ExpandedLayer {
        registry: upstream.base().clone(),
        repository: layer.repository.clone(),
        digest: layer.digest,
        diff_id: layer.diff_id,
        format: FORMAT,
    })
}

fn unmountable(layer: &LayerRequest, reason: &str) -> FetchError {
    FetchError::Origin(OriginFailure::new(ErrorKind::Unmountable, format!("{layer}: {reason}")))
}
