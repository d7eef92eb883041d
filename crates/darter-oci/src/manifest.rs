//! OCI manifests: how one is recognised and compared with the digest that was asked for, and what it names.
//!
//! Pure. Content that an upstream sends in a manifest's place (a page of HTML from a portal, an error in JSON with a
//! status of success) is told from one by its being no JSON object, or one without any field that manifests have; unless
//! the upstream names its digest.
//!
//! Docker's signed schema 1 is digested without its signatures. It is recognised and checked, and passed on, but not kept: what is
//! kept is checked against its digest byte for byte.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use darter_core::Digest;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName};
use serde::Deserialize;

use crate::media_type;

/// The header by which a registry names a digest.
pub const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Largest manifest that is passed on. Registries take up to 4 MiB; somewhat more, for those that let more pass.
pub const MAX_MANIFEST: usize = 6 << 20;

/// Fields of which each format of manifests has one.
const MANIFEST_FIELDS: [&str; 7] = ["schemaVersion", "mediaType", "config", "layers", "manifests", "blobs", "fsLayers"];

/// The media type under which a manifest is passed on of which nobody says one.
const UNKNOWN_TYPE: &str = "application/octet-stream";

/// A manifest (or index) as a registry gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageManifest {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Bytes,
}

/// A manifest that is the one its digest says.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The manifest.
    pub manifest: ImageManifest,
    /// True if its bytes alone have that digest, so that it can be kept.
    pub keeps: bool,
}

/// Why an answer is no manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// More than [`MAX_MANIFEST`] bytes.
    TooLong,
    /// No JSON object, or another one than manifests are.
    NoManifest,
    /// Another manifest than was asked for, or than the answer says.
    Other(Box<Mismatch>),
}

/// A digest that is not the one it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The digest that was asked for.
    pub claimed: Digest,
    /// The digest of the bytes.
    pub got: Digest,
}

/// Checks an answer's body against the digest that was asked for, or that the answer names.
///
/// # Errors
/// When the bytes are another manifest, or none at all.
pub fn check(headers: &HeaderMap, bytes: Bytes, expected: Option<Digest>) -> Result<Checked, Wrong> {
    if bytes.len() > MAX_MANIFEST {
        return Err(Wrong::TooLong);
    }
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let named: Option<Digest> = text(DOCKER_CONTENT_DIGEST).and_then(|digest| digest.parse().ok());
    let claimed = expected.or(named);
    let of = |bytes: &[u8]| {
        let mut hasher = claimed.map_or_else(darter_core::DigestHasher::sha256, |claimed| claimed.hasher());
        hasher.update(bytes);
        hasher.finish()
    };
    let got = of(&bytes);
    let keeps = claimed.is_none_or(|claimed| claimed == got);
    let is_manifest = match json_object(&bytes) {
        Some(object) => named == Some(got) || MANIFEST_FIELDS.iter().any(|field| object.contains_key(*field)),
        None => false,
    };
    // Bytes of the digest that was asked for are what was asked for, whatever they are.
    if !is_manifest && expected.is_none_or(|expected| expected != got) {
        return Err(Wrong::NoManifest);
    }
    let digest = match claimed {
        Some(claimed) if !keeps => {
            let payload = signed_payload(&bytes).filter(|payload| of(payload) == claimed);
            payload.map(|_| claimed).ok_or_else(|| Wrong::Other(Box::new(Mismatch { claimed, got })))?
        }
        _ => got,
    };
    let content_type = text(CONTENT_TYPE).map(str::to_owned);
    let media_type = NamedParts::parse(&bytes).own_type().or(content_type).unwrap_or_else(|| UNKNOWN_TYPE.to_owned());
    Ok(Checked { manifest: ImageManifest { digest, media_type, bytes }, keeps })
}

fn json_object(bytes: &[u8]) -> Option<serde_json::Map<String, serde_json::Value>> {
    serde_json::from_slice(bytes).ok()
}

/// True if a list's answer is a list: of tags, or an index of referrers.
pub fn is_list(bytes: &[u8]) -> bool {
    json_object(bytes).is_some_and(|object| object.contains_key("tags") || object.contains_key("manifests"))
}

/// The signed part of a signed schema 1 manifest: its beginning, and an end that the signature tells.
fn signed_payload(bytes: &[u8]) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Signed {
        signatures: Vec<Signature>,
    }
    #[derive(Deserialize)]
    struct Signature {
        protected: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Protected {
        format_length: usize,
        format_tail: String,
    }
    let signed: Signed = serde_json::from_slice(bytes).ok()?;
    let protected = BASE64_URL_SAFE_NO_PAD.decode(&signed.signatures.first()?.protected).ok()?;
    let protected: Protected = serde_json::from_slice(&protected).ok()?;
    let tail = BASE64_URL_SAFE_NO_PAD.decode(protected.format_tail).ok()?;
    Some([bytes.get(..protected.format_length)?, &tail].concat())
}

/// True if a caller accepts this media type: any, if its headers do not say.
pub fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
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

/// The contents that a manifest or an index names, in any of the formats in use.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NamedParts {
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
    manifests: Vec<Descriptor>,
    blobs: Vec<Descriptor>,
    /// Docker's schema 1.
    fs_layers: Vec<FsLayer>,
}

/// Something that a manifest names.
#[derive(Debug, Deserialize)]
pub struct Descriptor {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes, if it is told.
    pub size: Option<u64>,
}

/// The role of a part in its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartRole {
    /// A manifest.
    Manifest,
    /// The image's configuration.
    Config,
    /// A layer.
    Layer,
}

#[derive(Debug, Deserialize)]
struct FsLayer {
    #[serde(rename = "blobSum")]
    blob_sum: Digest,
}

impl NamedParts {
    /// Nothing, if it can't be read: what it names is then asked for.
    pub fn parse(manifest: &[u8]) -> Self {
        serde_json::from_slice(manifest).unwrap_or_default()
    }

    /// The media type that the bytes themselves tell. It goes before the header's: the same bytes are cached for every
    /// upstream, and no upstream is to decide what another's manifest is taken for. Only OCI's formats may leave it out.
    fn own_type(&self) -> Option<String> {
        if let Some(media_type) = &self.media_type {
            return Some(media_type.clone());
        }
        if self.config.is_some() {
            return Some(media_type::MANIFEST.to_owned());
        }
        (!self.manifests.is_empty()).then(|| media_type::INDEX.to_owned())
    }

    /// The parts of an image, in the order of the manifest.
    pub fn parts(self) -> impl Iterator<Item = (PartRole, Descriptor)> {
        let bare = self.fs_layers.into_iter().map(|layer| Descriptor { digest: layer.blob_sum, size: None });
        let as_a = |role| move |descriptor| (role, descriptor);
        let layers = self.layers.into_iter().chain(self.blobs).chain(bare).map(as_a(PartRole::Layer));
        let manifests = self.manifests.into_iter().map(as_a(PartRole::Manifest));
        manifests.chain(self.config.into_iter().map(as_a(PartRole::Config))).chain(layers)
    }

    /// True for a list of manifests.
    pub const fn is_index(&self) -> bool {
        !self.manifests.is_empty()
    }

    /// Everything that it names.
    pub fn all(self) -> impl Iterator<Item = Descriptor> {
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
        let oci = media_type::INDEX;
        assert!(accept(&[], oci));
        assert!(accept(&["text/plain, */*;q=0.1"], oci));
        assert!(accept(&["application/*"], oci));
        assert!(accept(&["text/plain", "application/vnd.oci.image.index.v1+json; q=0.5"], oci));
        assert!(accept(&[oci], "Application/vnd.oci.image.index.v1+json; charset=utf-8"));
        assert!(!accept(&["text/plain", "image/*"], oci));
        assert!(!accept(&["application/vnd.oci.image.manifest.v1+json"], oci));
    }

    /// The manifest that distribution 2.x makes of a schema 2 image for clients that accept nothing: digested without signatures.
    #[test]
    fn a_signed_manifest_is_digested_without_its_signatures_and_not_kept() {
        let payload = "{\n   \"schemaVersion\": 1,\n   \"fsLayers\": []\n}";
        let protected = serde_json::json!({ "formatLength": payload.len() - 2, "formatTail": "Cn0", "time": "now" });
        let protected = BASE64_URL_SAFE_NO_PAD.encode(protected.to_string());
        let signatures = format!(",\n   \"signatures\": [{{ \"protected\": \"{protected}\" }}]\n}}");
        let signed = format!("{}{signatures}", &payload[..payload.len() - 2]);
        let digest = Digest::sha256(payload.as_bytes());
        let headers = HeaderMap::from_iter([(DOCKER_CONTENT_DIGEST, digest.to_string().parse().unwrap())]);
        for expected in [None, Some(digest)] {
            let checked = check(&headers, signed.clone().into(), expected).unwrap();
            assert_eq!((checked.manifest.digest, checked.keeps), (digest, false));
        }
        let forged = signed.replace("[]", "[7]");
        assert!(matches!(check(&headers, forged.into(), None), Err(Wrong::Other(_))));
        assert!(check(&headers, payload.to_owned().into(), None).unwrap().keeps);
    }

    #[test]
    fn what_is_no_json_object_is_no_manifest() {
        let none = HeaderMap::new();
        // The last ones: errors that a proxy passes on with a status of success.
        for page in [
            "<html>Log in first</html>",
            "",
            "[]",
            "null",
            "{\"cut\": ",
            "{}",
            "{\"error\":\"log in first\"}",
            "{\"errors\": [{\"code\": \"UNAUTHORIZED\"}]}",
            "{\"message\": \"not now\", \"status\": 503}",
        ] {
            assert_eq!(check(&none, page.into(), None).unwrap_err(), Wrong::NoManifest, "{page}");
        }
        let named = HeaderMap::from_iter([(DOCKER_CONTENT_DIGEST, Digest::sha256(b"{}").to_string().parse().unwrap())]);
        assert!(check(&named, "{}".into(), None).is_ok(), "the registry's word");
        let digest = Digest::sha256(b"odd");
        assert_eq!(check(&none, "odd".into(), Some(digest)).unwrap().manifest.digest, digest);
        assert_eq!(check(&none, "<html>".into(), Some(digest)).unwrap_err(), Wrong::NoManifest);
    }

    #[test]
    fn every_format_names_its_parts() {
        let digest = |text: &str| Digest::sha256(text.as_bytes());
        let named = |json: serde_json::Value| {
            let all = NamedParts::parse(json.to_string().as_bytes()).all();
            all.map(|descriptor| (descriptor.digest, descriptor.size)).collect::<Vec<_>>()
        };
        let (a, b) = (digest("a"), digest("b"));
        let image = serde_json::json!({ "config": { "digest": a, "size": 1 }, "layers": [{ "digest": b, "size": 2 }] });
        assert_eq!(named(image), [(a, Some(1)), (b, Some(2))]);
        let index = serde_json::json!({ "manifests": [{ "digest": a, "size": 1 }, { "digest": b, "size": 2 }] });
        assert_eq!(named(index), [(a, Some(1)), (b, Some(2))]);
        let old = serde_json::json!({ "schemaVersion": 1, "fsLayers": [{ "blobSum": a }, { "blobSum": b }] });
        assert_eq!(named(old), [(a, None), (b, None)]);
        assert!(NamedParts::parse(b"not JSON").all().next().is_none());
    }
}
