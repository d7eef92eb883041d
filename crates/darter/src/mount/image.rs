//! Asks the daemon's registry mirror for an image or an artifact: its manifest for a platform, and its layers with the diff
//! ids from the configuration. Both documents are checked against their digests.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use darter_api::LayerRequest;
use darter_api::client::Client;
use darter_core::source::Credentials;
use darter_core::{Blame, Blamed as _, Digest, Fault, Retry, SystemClock};
use darter_oci::artifact::{self, ArtifactFile};
use darter_oci::error::own_words;
use darter_oci::image::{ImageParts, MAX_CONFIG};
use darter_oci::manifest::{NamedParts, check};
use darter_oci::platform::Platform;
use darter_origin::{
    Answer, Body, HttpClient, HttpConfig, OriginError, RegistryClient, RegistryConfig, Upstream, status_text,
};
use futures_util::{StreamExt as _, stream};
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Method};

use super::reference::ImageRef;
use crate::failure::Failure;

/// Most bytes of a manifest: the size that registries have to accept.
const MAX_MANIFEST: u64 = 4 << 20;

/// Most bytes of an error answer that are read.
const MAX_REFUSAL: u64 = 16 << 10;

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// The image to be mounted, and its mount point.
pub(super) struct ImageMount {
    pub(super) image: ImageRef,
    /// The directory, with all links resolved.
    pub(super) dir: PathBuf,
    pub(super) headers: Vec<(String, String)>,
}

/// An image for one platform.
pub(crate) struct Image {
    /// The digest of its manifest.
    pub(crate) digest: Digest,
    /// Its layers, the lowest first.
    pub(crate) layers: Vec<LayerRequest>,
}

/// An artifact for one platform, or for all.
pub(crate) struct Artifact {
    /// The digest of its manifest.
    pub(crate) digest: Digest,
    /// Its files.
    pub(crate) files: Vec<ArtifactFile>,
}

/// What a reference turned out to name.
pub(crate) enum Resolved {
    Image(Image),
    Artifact(Artifact),
}

/// A daemon's mirror, and the image that it is asked for.
struct Mirror<'a> {
    client: RegistryClient,
    upstream: Upstream,
    image: &'a ImageRef,
    credentials: Credentials,
}

/// As [`resolve_any`], but accepts only an image.
pub(crate) async fn resolve(
    daemon: &Client,
    image: &ImageRef,
    platform: Option<&Platform>,
    headers: &[(String, String)],
) -> anyhow::Result<Image> {
    match resolve_any(daemon, image, platform, headers).await? {
        Resolved::Image(image) => Ok(image),
        Resolved::Artifact(_) => {
            Err(Failure::Usage(format!("{image} is not an image, but an artifact: a set of files")).into())
        }
    }
}

/// Asks a daemon's mirror for an image or an artifact, with these headers; for `platform`, or for this host's if it is `None`.
pub(crate) async fn resolve_any(
    daemon: &Client,
    image: &ImageRef,
    platform: Option<&Platform>,
    headers: &[(String, String)],
) -> anyhow::Result<Resolved> {
    let Some(local) = daemon.status().await?.local else {
        bail!("the daemon has no local port, whose mirror resolves images: start it with --local")
    };
    let mut config = RegistryConfig::default();
    let address = format!("http://{local}/").parse().context("the daemon's local port has no address")?;
    config.addresses.insert(image.registry.clone(), vec![address]);
    let http = HttpClient::new(&HttpConfig { proxy_from_environment: false, ..HttpConfig::default() })?;
    let client = RegistryClient::new(http, &config, Arc::new(SystemClock::start()));
    let upstream = client.upstreams().resolve(&image.registry)?;
    let headers = headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    let credentials = Credentials { headers: headers.filter(|(name, _)| name == "authorization").collect() };
    Mirror { client, upstream, image, credentials }.image(platform).await
}

impl Mirror<'_> {
    async fn image(&self, platform: Option<&Platform>) -> anyhow::Result<Resolved> {
        let (mut digest, mut manifest) = self.manifest(&self.image.reference).await?;
        if NamedParts::parse(&manifest).is_index() {
            let chosen = platform.cloned().unwrap_or_else(Platform::host).choose(&manifest);
            let chosen = chosen.map_err(|error| self.refused(&format!("{error}; choose one with --platform")))?;
            (digest, manifest) = self.manifest(&chosen.to_string()).await?;
        }
        let Some(parts) = ImageParts::parse(&manifest) else {
            if let Some(files) = artifact::files_of(&manifest) {
                return Ok(Resolved::Artifact(Artifact { digest, files }));
            }
            return Err(self
                .refused("it is not an image, or has layers that can't be mounted (encrypted, foreign, or not tars)"));
        };
        let config = self.get(&format!("blobs/{}", parts.config), MAX_CONFIG).await?.1;
        let mut hasher = parts.config.hasher();
        hasher.update(&config);
        if hasher.finish() != parts.config {
            return Err(self.refused("its configuration does not match its digest"));
        }
        // The platform of an image that is for one platform only matters only if the user named one.
        if let Some(Err(other)) = platform.map(|platform| platform.check_config(&config)) {
            return Err(self.refused(&other.to_string()));
        }
        let Some(layers) = parts.paired(&config) else {
            return Err(self.refused("its configuration does not name the diff ids of its layers"));
        };
        let layers = layers.into_iter().map(|(layer, diff_id)| LayerRequest {
            registry: self.image.registry.clone(),
            repository: self.image.repository.clone(),
            digest: layer.digest,
            size: sizes_of(&manifest, layer.digest),
            media_type: Some(layer.media_type),
            diff_id,
        });
        Ok(Resolved::Image(Image { digest, layers: layers.collect() }))
    }

    async fn manifest(&self, reference: &str) -> anyhow::Result<(Digest, Vec<u8>)> {
        let (headers, bytes) = self.get(&format!("manifests/{reference}"), MAX_MANIFEST).await?;
        match check(&headers, bytes.into(), reference.parse().ok()) {
            Ok(checked) => Ok((checked.manifest.digest, checked.manifest.bytes.to_vec())),
            Err(_) => Err(self.refused("its manifest is invalid, or does not match its digest")),
        }
    }

    async fn get(&self, what: &str, most: u64) -> anyhow::Result<(HeaderMap, Vec<u8>)> {
        let Self { client, upstream, image, credentials } = self;
        let path = format!("/v2/{}/{what}?ns={}", image.repository, image.registry);
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(MANIFESTS))]);
        let answer = client.send(upstream, Method::GET, &path, headers, credentials).await?;
        if !answer.status.is_success() {
            return Err(self.unknown(answer).await);
        }
        let (headers, bytes) = (answer.headers, read(answer.body, most).await?);
        let bytes = bytes.with_context(|| format!("{image}: {what} is longer than {most} bytes"))?;
        Ok((headers, bytes))
    }

    /// The error for an unsuccessful answer. Its body says more than its status.
    async fn unknown(&self, mut answer: Answer) -> anyhow::Error {
        let (status, body) = (answer.status, std::mem::replace(&mut answer.body, stream::empty().boxed()));
        let said = read(body, MAX_REFUSAL).await.ok().flatten().and_then(|said| own_words(&said));
        let Err(error) = answer.into_success() else { return self.refused(&format!("HTTP {}", status_text(status))) };
        let what = format!("can't find out what {} is", self.image);
        match said {
            Some(said) => {
                Failure::Judged { text: format!("{what}: HTTP {}: {said}", status_text(status)), blame: error.blame() }
                    .into()
            }
            None => anyhow::Error::new(error).context(what),
        }
    }

    fn refused(&self, why: &str) -> anyhow::Error {
        let text = format!("{} can't be mounted: {why}", self.image);
        Failure::Judged { text, blame: Blame::new(Fault::Origin, Retry::Never) }.into()
    }
}

/// All bytes of a body; `None` if these are more than `most`.
async fn read(mut body: Body, most: u64) -> Result<Option<Vec<u8>>, OriginError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() as u64 > most {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}

/// The length of a layer according to the manifest.
fn sizes_of(manifest: &[u8], layer: Digest) -> Option<u64> {
    NamedParts::parse(manifest).all().find(|named| named.digest == layer)?.size
}
