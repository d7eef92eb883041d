//! What an image is made of, asked of the daemon's registry mirror: the manifest for this host's platform, and the layers with their diff
//! ids out of the configuration. Both documents are checked by their digests.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use darter_api::LayerRequest;
use darter_api::client::Client;
use darter_core::source::Credentials;
use darter_core::{Blame, Digest, Fault, Retry, SystemClock};
use darter_oci::image::{ImageParts, MAX_CONFIG};
use darter_oci::manifest::{Named, check};
use darter_origin::{HttpClient, HttpConfig, RegistryClient, RegistryConfig, Upstream};
use futures_util::StreamExt as _;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;

use super::reference::ImageRef;
use crate::failure::Failure;

/// The longest manifest that registries have to take.
const MAX_MANIFEST: u64 = 4 << 20;

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// An image for this host.
pub(crate) struct Image {
    /// Its manifest.
    pub(crate) digest: Digest,
    /// Its layers, the lowest first.
    pub(crate) layers: Vec<LayerRequest>,
}

/// The mirror of a daemon, for one image.
struct Mirror<'a> {
    client: RegistryClient,
    upstream: Upstream,
    image: &'a ImageRef,
    credentials: Credentials,
}

/// Asks a daemon's mirror for an image, with these headers.
pub(crate) async fn resolve(daemon: &Client, image: &ImageRef, headers: &[(String, String)]) -> anyhow::Result<Image> {
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
    Mirror { client, upstream, image, credentials }.image().await
}

impl Mirror<'_> {
    async fn image(&self) -> anyhow::Result<Image> {
        let (mut digest, mut manifest) = self.manifest(&self.image.reference).await?;
        if Named::parse(&manifest).is_index() {
            let chosen = for_this_host(&manifest).with_context(|| format!("{} can't be mounted", self.image))?;
            (digest, manifest) = self.manifest(&chosen.to_string()).await?;
        }
        let Some(parts) = ImageParts::parse(&manifest) else {
            return Err(
                self.refused("it is no image, or has layers that can't be mounted (encrypted, foreign, or no tars)")
            );
        };
        let config = self.get(&format!("blobs/{}", parts.config), MAX_CONFIG).await?.1;
        let mut hasher = parts.config.hasher();
        hasher.update(&config);
        if hasher.finish() != parts.config {
            return Err(self.refused("its configuration is not what its digest says"));
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
        Ok(Image { digest, layers: layers.collect() })
    }

    async fn manifest(&self, reference: &str) -> anyhow::Result<(Digest, Vec<u8>)> {
        let (headers, bytes) = self.get(&format!("manifests/{reference}"), MAX_MANIFEST).await?;
        match check(&headers, bytes.into(), reference.parse().ok()) {
            Ok(checked) => Ok((checked.manifest.digest, checked.manifest.bytes.to_vec())),
            Err(_) => Err(self.refused("its manifest is none, or not what its digest says")),
        }
    }

    async fn get(&self, what: &str, most: u64) -> anyhow::Result<(HeaderMap, Vec<u8>)> {
        let Self { client, upstream, image, credentials } = self;
        let path = format!("/v2/{}/{what}?ns={}", image.repository, image.registry);
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(MANIFESTS))]);
        let answer = client.send(upstream, Method::GET, &path, headers, credentials).await?;
        let answer = answer.into_success().with_context(|| format!("can't find out what {image} is"))?;
        let (headers, mut body, mut bytes) = (answer.headers, answer.body, Vec::new());
        while let Some(chunk) = body.next().await {
            bytes.extend_from_slice(&chunk?);
            if bytes.len() as u64 > most {
                bail!("{image}: {what} is longer than {most} bytes");
            }
        }
        Ok((headers, bytes))
    }

    fn refused(&self, why: &str) -> anyhow::Error {
        let text = format!("{} can't be mounted: {why}", self.image);
        Failure::Judged { text, blame: Blame::new(Fault::Origin, Retry::Never) }.into()
    }
}

/// The lengths that a manifest has for its layers.
fn sizes_of(manifest: &[u8], layer: Digest) -> Option<u64> {
    Named::parse(manifest).all().find(|named| named.digest == layer)?.size
}

/// The manifest in a list that is for this host.
fn for_this_host(list: &[u8]) -> anyhow::Result<Digest> {
    #[derive(Deserialize)]
    struct List {
        manifests: Vec<Listed>,
    }
    #[derive(Deserialize)]
    struct Listed {
        digest: Digest,
        platform: Option<Platform>,
    }
    #[derive(Deserialize)]
    struct Platform {
        os: String,
        architecture: String,
        #[serde(default)]
        variant: String,
    }
    let list: List = serde_json::from_slice(list).context("its list of manifests can't be read")?;
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    let is_own = |listed: &&Listed| match &listed.platform {
        Some(platform) => platform.os == "linux" && platform.architecture == own,
        None => list.manifests.len() == 1,
    };
    // Of several variants the plainest runs everywhere.
    let plain = |listed: &&Listed| listed.platform.as_ref().map_or(0, |platform| platform.variant.len());
    if let Some(found) = list.manifests.iter().filter(is_own).min_by_key(plain) {
        return Ok(found.digest);
    }
    let others = list.manifests.iter().filter_map(|listed| listed.platform.as_ref());
    let others: Vec<_> = others.map(|platform| format!("{}/{}", platform.os, platform.architecture)).collect();
    bail!("it is for {}, and this host is linux/{own}", others.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_list_the_manifest_for_this_host_is_taken() {
        let digest = |text: &str| Digest::sha256(text.as_bytes());
        let listed = |name: &str, architecture: &str| json!({ "digest": digest(name), "platform": { "os": "linux", "architecture": architecture } });
        let attestation =
            json!({ "digest": digest("other"), "platform": { "os": "unknown", "architecture": "unknown" } });
        let of = |manifests: serde_json::Value| for_this_host(json!({ "manifests": manifests }).to_string().as_bytes());
        let both = json!([attestation, listed("arm", "arm64"), listed("intel", "amd64")]);
        let expected = if cfg!(target_arch = "aarch64") { "arm" } else { "intel" };
        if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
            assert_eq!(of(both).unwrap(), digest(expected));
        }
        let told = of(json!([listed("z", "s390z")])).unwrap_err().to_string();
        assert!(told.contains("linux/s390z") && told.contains("this host is linux/"), "{told}");
        assert_eq!(of(json!([{ "digest": digest("only") }])).unwrap(), digest("only"));
    }
}
