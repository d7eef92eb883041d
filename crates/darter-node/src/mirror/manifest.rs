//! Manifests and indexes, by tag and by digest.
//!
//! *By tag*: the upstream is asked in every request. A tag seen before is asked for by HEAD: it costs no body, and
//! nothing of the quota of registries that count pulls; if its digest is cached, the cached bytes are the answer. In
//! all other cases the manifest is read anew, for a HEAD too: engines ask for the digest they learnt right after.
//!
//! *By digest*: cached bytes if the caller may read them; else the upstream is asked, and its answer is checked against
//! the digest before a byte of it is passed on.
//!
//! Whatever manifest is served, what it names from then on belongs to the repository (`grants`).

use bytes::Bytes;
use darter_core::Digest;
use darter_origin::{Answer, HEAD_PATIENCE};
use futures_util::StreamExt;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use http::{HeaderMap, Method, Response, StatusCode};
use serde::Deserialize;

use crate::local::{self, Body};
use crate::metrics::{AccessCheck, MirrorKind};
use crate::mirror::cache::Manifest;
use crate::mirror::grants::Member;
use crate::mirror::problem::{Code, Problem};
use crate::mirror::provenance::place_of;
use crate::mirror::route::Reference;
use crate::mirror::{Ask, DOCKER_CONTENT_DIGEST, Mirror, entity_tag, header};

/// Largest manifest. Registries take up to 4 MiB; somewhat more, for those that let more pass.
const LARGEST: usize = 6 << 20;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What a manifest of which nobody says the media type is passed on as.
const UNKNOWN_TYPE: &str = "application/octet-stream";

impl Mirror {
    pub(super) async fn manifest(&self, ask: &Ask<'_>, reference: Reference<'_>) -> Result<Response<Body>, Problem> {
        let manifest = match reference {
            Reference::Tag(tag) => self.tagged(ask, tag).await?,
            Reference::Digest(digest) => self.immutable(ask, digest).await?,
        };
        self.note_members(ask, &manifest);
        respond(ask, manifest)
    }

    async fn tagged(&self, ask: &Ask<'_>, tag: &str) -> Result<Manifest, Problem> {
        let key = (ask.scope.clone(), tag.to_owned());
        let seen = self.tags.lock().get(&key).is_some();
        if seen && let Some(manifest) = self.unchanged(ask, tag).await {
            return Ok(manifest);
        }
        let manifest = self.read_manifest(ask, tag, None).await?;
        self.tags.lock().insert(key, (), 1);
        Ok(manifest)
    }

    /// The cached manifest that the tag stands for now; `None` if it is another one, or the upstream does not tell.
    async fn unchanged(&self, ask: &Ask<'_>, tag: &str) -> Option<Manifest> {
        let headers = self.head_manifest(ask, tag).await?;
        let manifest = self.manifests.get(digest_of(&headers)?).await?;
        self.may_give(ask, manifest.digest).await.then_some(manifest)
    }

    async fn immutable(&self, ask: &Ask<'_>, digest: Digest) -> Result<Manifest, Problem> {
        let reference = digest.to_string();
        let cached = self.manifests.get(digest).await.filter(|manifest| accepts(ask.headers, &manifest.media_type));
        let Some(manifest) = cached else { return self.read_manifest(ask, &reference, Some(digest)).await };
        let delivered = self.provenance.knows(digest, &place_of(&ask.upstream, &ask.repository)).await;
        if delivered && self.believed(ask, digest).is_some() {
            return Ok(manifest);
        }
        // Anybody may write a manifest that names this one, and no word of a stranger opens what others delivered.
        let may_vouch = delivered || ask.upstream.is_trusted();
        if may_vouch && self.head_manifest(ask, &reference).await.is_some() {
            self.metrics.mirror_access_check(AccessCheck::Granted);
            self.provenance.note(digest, place_of(&ask.upstream, &ask.repository)).await;
            return Ok(manifest);
        }
        self.read_manifest(ask, &reference, Some(digest)).await
    }

    /// Whether a cached manifest may be given in this repository, of which the upstream just named it.
    async fn may_give(&self, ask: &Ask<'_>, digest: Digest) -> bool {
        let place = place_of(&ask.upstream, &ask.repository);
        if self.provenance.knows(digest, &place).await {
            return true;
        }
        if ask.upstream.is_trusted() {
            self.provenance.note(digest, place).await;
        }
        ask.upstream.is_trusted()
    }

    /// Asks the upstream for a manifest's headers; `None` if it says anything but yes, or nothing for a while: registries
    /// and their gateways refuse HEAD in every way for what GET gives, so only the answer to a GET is a refusal.
    async fn head_manifest(&self, ask: &Ask<'_>, reference: &str) -> Option<HeaderMap> {
        let rest = format!("manifests/{reference}");
        let asked = self.request(ask, MirrorKind::Manifest, Method::HEAD, &rest, ask.accept());
        match tokio::time::timeout(HEAD_PATIENCE, asked).await {
            Ok(Ok(answer)) if answer.status == StatusCode::OK => {
                self.accepted(ask);
                Some(answer.headers)
            }
            _ => None,
        }
    }

    /// Reads a manifest from the upstream, checks it and keeps it.
    async fn read_manifest(
        &self,
        ask: &Ask<'_>,
        reference: &str,
        expected: Option<Digest>,
    ) -> Result<Manifest, Problem> {
        let rest = format!("manifests/{reference}");
        let answer = self.request(ask, MirrorKind::Manifest, Method::GET, &rest, ask.accept()).await?;
        if answer.status != StatusCode::OK {
            return Err(self.refusal(ask, answer, expected).await);
        }
        let upstream = ask.upstream.name();
        let claimed = expected.or_else(|| digest_of(&answer.headers));
        let content_type = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let bytes = read_whole(answer, upstream).await?;
        let digest = claimed.map_or_else(
            || Digest::sha256(&bytes),
            |claimed| {
                let mut hasher = claimed.hasher();
                hasher.update(&bytes);
                hasher.finish()
            },
        );
        if let Some(claimed) = claimed.filter(|claimed| *claimed != digest) {
            let text = format!("{upstream} sent a manifest that is {digest} for {claimed}: ask who runs it");
            return Err(Problem::bad_upstream(Code::ManifestInvalid, text));
        }
        let media_type = Named::parse(&bytes).own_type().or(content_type).unwrap_or_else(|| UNKNOWN_TYPE.to_owned());
        let manifest = Manifest { digest, media_type, bytes };
        self.accepted(ask);
        self.manifests.put(manifest.clone()).await;
        self.provenance.note(digest, place_of(&ask.upstream, &ask.repository)).await;
        Ok(manifest)
    }

    async fn refusal(&self, ask: &Ask<'_>, answer: Answer, digest: Option<Digest>) -> Problem {
        self.refused(ask, answer.status, digest);
        Problem::of_answer(answer, ask.upstream.name(), Code::ManifestUnknown).await
    }

    /// The manifest and what it names belong to the repository, since the upstream gave it for that.
    fn note_members(&self, ask: &Ask<'_>, manifest: &Manifest) {
        let mut grants = self.grants.lock();
        let size = Some(manifest.bytes.len() as u64);
        grants.belongs(&ask.scope, manifest.digest, Member { size });
        for named in Named::parse(&manifest.bytes).all() {
            grants.belongs(&ask.scope, named.digest, Member { size: named.size });
        }
    }
}

fn respond(ask: &Ask<'_>, manifest: Manifest) -> Result<Response<Body>, Problem> {
    let mut response = Response::new(local::empty());
    let headers = response.headers_mut();
    headers.insert(DOCKER_CONTENT_DIGEST, header(&manifest.digest.to_string())?);
    headers.insert(ETAG, header(&entity_tag(&manifest.digest))?);
    headers.insert(CONTENT_TYPE, header(&manifest.media_type)?);
    if ask.has_already(&manifest.digest) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    headers.insert(CONTENT_LENGTH, manifest.bytes.len().into());
    if !ask.head {
        *response.body_mut() = local::full(manifest.bytes);
    }
    Ok(response)
}

fn digest_of(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}

/// Whether a caller takes this media type: any, if it does not say.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let essence = |text: &str| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let media_type = essence(media_type);
    let mut said = false;
    for value in headers.get_all(ACCEPT) {
        said = true;
        let Ok(value) = value.to_str() else { continue };
        let takes = |range: &str| match essence(range).strip_suffix('*') {
            Some("*/") => true,
            Some(front) => front.ends_with('/') && media_type.starts_with(front),
            None => essence(range) == media_type,
        };
        if value.split(',').any(takes) {
            return true;
        }
    }
    !said
}

async fn read_whole(mut answer: Answer, upstream: &str) -> Result<Bytes, Problem> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.body.next().await {
        bytes.extend_from_slice(&chunk.map_err(|error| Problem::of_error(&error, Code::ManifestUnknown))?);
        if bytes.len() > LARGEST {
            let text = format!("{upstream} sent a manifest of more than {LARGEST} bytes: ask who made the image");
            return Err(Problem::bad_upstream(Code::ManifestInvalid, text));
        }
    }
    Ok(bytes.into())
}

/// What a manifest or an index names, in any of the formats in use.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Named {
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
    manifests: Vec<Descriptor>,
    blobs: Vec<Descriptor>,
    /// Docker's schema 1.
    fs_layers: Vec<FsLayer>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: Digest,
    size: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct FsLayer {
    #[serde(rename = "blobSum")]
    blob_sum: Digest,
}

impl Named {
    /// Nothing, if it can't be read: what it names is then asked for.
    fn parse(manifest: &[u8]) -> Self {
        serde_json::from_slice(manifest).unwrap_or_default()
    }

    /// The media type that the bytes themselves tell. It goes before the header's: the same bytes are cached for every
    /// upstream, and no upstream is to decide what another's manifest is taken for. Only OCI's formats may leave it out.
    fn own_type(&self) -> Option<String> {
        if let Some(media_type) = &self.media_type {
            return Some(media_type.clone());
        }
        if self.config.is_some() {
            return Some(OCI_MANIFEST.to_owned());
        }
        (!self.manifests.is_empty()).then(|| OCI_INDEX.to_owned())
    }

    fn all(self) -> impl Iterator<Item = Descriptor> {
        let bare = self.fs_layers.into_iter().map(|layer| Descriptor { digest: layer.blob_sum, size: None });
        self.config.into_iter().chain(self.layers).chain(self.manifests).chain(self.blobs).chain(bare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_accepts() {
        let accept = |values: &[&'static str], media_type: &str| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT, http::HeaderValue::from_static(value));
            }
            accepts(&headers, media_type)
        };
        let oci = "application/vnd.oci.image.index.v1+json";
        assert!(accept(&[], oci));
        assert!(accept(&["text/plain, */*;q=0.1"], oci));
        assert!(accept(&["application/*"], oci));
        assert!(accept(&["text/plain", "application/vnd.oci.image.index.v1+json; q=0.5"], oci));
        assert!(accept(&[oci], "Application/vnd.oci.image.index.v1+json; charset=utf-8"));
        assert!(!accept(&["text/plain", "image/*"], oci));
        assert!(!accept(&["application/vnd.oci.image.manifest.v1+json"], oci));
    }

    #[test]
    fn every_format_names_its_parts() {
        let digest = |text: &str| Digest::sha256(text.as_bytes());
        let named = |json: serde_json::Value| {
            let all = Named::parse(json.to_string().as_bytes()).all();
            all.map(|descriptor| (descriptor.digest, descriptor.size)).collect::<Vec<_>>()
        };
        let (a, b) = (digest("a"), digest("b"));
        let image = serde_json::json!({ "config": { "digest": a, "size": 1 }, "layers": [{ "digest": b, "size": 2 }] });
        assert_eq!(named(image), [(a, Some(1)), (b, Some(2))]);
        let index = serde_json::json!({ "manifests": [{ "digest": a, "size": 1 }, { "digest": b, "size": 2 }] });
        assert_eq!(named(index), [(a, Some(1)), (b, Some(2))]);
        let old = serde_json::json!({ "schemaVersion": 1, "fsLayers": [{ "blobSum": a }, { "blobSum": b }] });
        assert_eq!(named(old), [(a, None), (b, None)]);
        assert!(Named::parse(b"not JSON").all().next().is_none());
    }
}
