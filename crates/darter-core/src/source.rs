//! The source of a blob's bytes, and the blob's name that follows from it.
//!
//! Content with a digest is named by the digest alone, wherever it is read. Content without one is named by its
//! *source* and its *version*: an origin whose validators change makes a new blob, so no swarm mixes two versions. A layer that is to
//! come expanded is named by its tar ([`ExpandedLayer`]).
//! [`Credentials`], which authorise a request, are never part of a name.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::digest::Digest;
use crate::id::{BlobId, named};
use crate::layer::{ExpandedLayer, in_registry};
use crate::signature;

/// The name, in a [`Credentials`] list, of the whole query of a signed address: no header has such a name.
pub const SIGNED_QUERY: &str = "?";

/// The place where bytes are stored, without what authorises reading them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Source {
    /// A URL that a GET answers with the bytes: `http`, `https` or `file`.
    Url {
        /// The address, normalised as the WHATWG URL standard does, without its fragment.
        url: Url,
        /// Request headers that choose a variant of the resource (`Accept` and its kin), names in lower case, sorted.
        variant: Vec<(String, String)>,
        /// The digest the content must have, if the user said one.
        digest: Option<Digest>,
    },
    /// A blob of an OCI registry.
    Registry {
        /// The registry's base address, such as `https://registry-1.docker.io/`.
        registry: Url,
        /// The repository, such as `library/debian`.
        repository: String,
        /// The blob's digest.
        digest: Digest,
    },
    /// A registry's layer, in the form that the kernel mounts.
    Expanded(ExpandedLayer),
}

/// The validators by which an origin tells one state of a resource from another (RFC 9110, section 8.8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The entity tag with its quotes, and `W/` if weak.
    pub etag: Option<String>,
    /// The modification date as the origin wrote it.
    pub last_modified: Option<String>,
    /// Length in bytes.
    pub length: Option<u64>,
    /// Set when the origin gave no validator: makes every reading a version of its own.
    pub nonce: Option<u64>,
}

/// Request headers that authorise a download. Printed only as a count.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Credentials {
    /// Names in lower case, with their values.
    pub headers: Vec<(String, String)>,
}

impl Source {
    /// A URL source. Headers that choose a variant become part of it, all others authorise: they are returned apart. So is
    /// a user in the address (`https://user:password@host/`), as Basic authorisation unless a header says otherwise: it
    /// would else be part of a name that people and peers see. So is what signs the address (see [`signature`]).
    pub fn from_url(url: Url, headers: &[(String, String)], digest: Option<Digest>) -> (Self, Credentials) {
        Self::from_signed_url(url, headers, digest, &[])
    }

    /// A URL source ([`Source::from_url`]), where further query parameters sign addresses: `signed` has their names in lower case.
    pub fn from_signed_url(
        mut url: Url,
        headers: &[(String, String)],
        digest: Option<Digest>,
        signed: &[String],
    ) -> (Self, Credentials) {
        url.set_fragment(None);
        let login = take_login(&mut url);
        let query = signature::take(&mut url, signed);
        let (mut variant, mut authorising): (Vec<_>, Vec<_>) = headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .partition(|(name, _)| matches!(name.as_str(), "accept" | "accept-language" | "accept-encoding"));
        variant.sort();
        if let Some(login) = login
            && !authorising.iter().any(|(name, _)| name == "authorization")
        {
            authorising.push(("authorization".to_owned(), login));
        }
        authorising.extend(query.map(|query| (SIGNED_QUERY.to_owned(), query)));
        (Self::Url { url, variant, digest }, Credentials { headers: authorising })
    }

    /// The digest that the content must have, if one is known beforehand.
    pub const fn digest(&self) -> Option<Digest> {
        match self {
            Self::Url { digest, .. } => *digest,
            Self::Registry { digest, .. } => Some(*digest),
            Self::Expanded(_) => None,
        }
    }

    /// The blob that this source is whatever its origin says: what a registry has, and what that expands into.
    pub fn own_blob(&self) -> Option<BlobId> {
        match self {
            Self::Url { .. } => None,
            Self::Registry { digest, .. } => Some(blob_of(digest)),
            Self::Expanded(layer) => Some(layer.blob()),
        }
    }

    /// True if the content begins with what is known only once all of it was read: its first piece comes last.
    pub const fn is_headed_last(&self) -> bool {
        matches!(self, Self::Expanded(_))
    }

    /// The blob of the content that the source's name says: by a digest, or by the tar of an expanded layer.
    pub fn named_blob(&self) -> Option<BlobId> {
        self.digest().map(|digest| blob_of(&digest)).or_else(|| self.own_blob())
    }

    /// True if the source's name says what the content is: a digest, or the tar of an expanded layer.
    pub fn names_content(&self) -> bool {
        self.named_blob().is_some()
    }

    /// The registry that it is read from.
    pub const fn registry(&self) -> Option<&Url> {
        match self {
            Self::Url { .. } => None,
            Self::Registry { registry, .. } | Self::Expanded(ExpandedLayer { registry, .. }) => Some(registry),
        }
    }

    /// The address that it is read from: a registry's base address for what is in one.
    pub const fn address(&self) -> &Url {
        match self {
            Self::Url { url, .. } => url,
            Self::Registry { registry, .. } | Self::Expanded(ExpandedLayer { registry, .. }) => registry,
        }
    }

    /// The source's name apart from its version: 32 bytes. Sources with one digest have one name wherever they are, so that everybody who
    /// asks for it meets at one seed.
    pub fn key(&self) -> BlobId {
        match (self, self.digest()) {
            (Self::Expanded(layer), _) => named("darter 2026-11 source", &[&layer.blob().0]),
            (_, Some(digest)) => named("darter 2026-11 source", &[digest.to_string().as_bytes()]),
            (_, None) => self.record_key(&Credentials::none()),
        }
    }

    /// Names what is remembered of this source for callers with these credentials; without any, for everybody.
    pub fn record_key(&self, credentials: &Credentials) -> BlobId {
        let source = self.to_bytes();
        if credentials.is_empty() {
            return named("darter 2026-11 source", &[&source]);
        }
        named("darter 2026-11 source of a caller", &[&source, &credentials.fingerprint()])
    }

    /// The same address without the digest that its content must have; `None` if it has none.
    fn without_digest(&self) -> Option<Self> {
        let Self::Url { url, variant, digest: Some(_) } = self else { return None };
        Some(Self::Url { url: url.clone(), variant: variant.clone(), digest: None })
    }

    /// Names what is remembered of this address for callers with these credentials, as it was last requested with a digest. The same for an
    /// address with a digest as for that address without one; `None` for other sources.
    pub fn record_key_by_digest(&self, credentials: &Credentials) -> Option<BlobId> {
        let Self::Url { digest, .. } = self else { return None };
        let plain = if digest.is_some() { self.without_digest()? } else { self.clone() };
        let key = plain.record_key(credentials);
        Some(named("darter 2026-11 source by its digest", &[&key.0]))
    }

    /// Names what is remembered of this address under its other name, for callers with these credentials: of an address with a digest, as
    /// it was requested without one; of one without, as it was last requested with a digest. `None` for other sources.
    pub fn record_key_of_twin(&self, credentials: &Credentials) -> Option<BlobId> {
        match self.without_digest() {
            Some(plain) => Some(plain.record_key(credentials)),
            None => self.record_key_by_digest(credentials),
        }
    }

    /// Names the blob that this source is in `version`. Of a digest without a version it is the digest's own blob: what
    /// a registry has. An address's content with a digest is kept apart from that, and from other addresses': whoever
    /// may read the one need not be allowed to read the other.
    pub fn blob(&self, version: &Version) -> BlobId {
        if let Self::Expanded(layer) = self {
            return layer.blob();
        }
        if let Some(digest) = self.digest()
            && (matches!(self, Self::Registry { .. }) || *version == Version::default())
        {
            return blob_of(&digest);
        }
        let length = version.length.map(u64::to_le_bytes);
        let nonce = version.nonce.map(u64::to_le_bytes);
        named(
            "darter 2026-11 blob by version",
            &[
                &self.to_bytes(),
                version.etag.as_deref().unwrap_or_default().as_bytes(),
                version.last_modified.as_deref().unwrap_or_default().as_bytes(),
                length.as_ref().map_or(&[], |bytes| bytes.as_slice()),
                nonce.as_ref().map_or(&[], |bytes| bytes.as_slice()),
            ],
        )
    }

    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Url { url, variant, digest } => {
                let headers: String = variant.iter().map(|(name, value)| format!("\n{name}: {value}")).collect();
                let Some(digest) = digest else { return format!("url {url}{headers}").into_bytes() };
                // The digest tells what the query would.
                let mut place = url.clone();
                place.set_query(None);
                format!("url {place}{headers}\n{digest}").into_bytes()
            }
            Self::Registry { registry, repository, digest } => {
                format!("registry {registry} {repository} {digest}").into_bytes()
            }
            Self::Expanded(ExpandedLayer { registry, repository, digest, diff_id, format }) => {
                format!("expanded {format} {registry} {repository} {digest} {diff_id}").into_bytes()
            }
        }
    }
}

/// Takes the user out of an address, as the value of an `Authorization` header (RFC 7617).
fn take_login(url: &mut Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut login: Vec<u8> = percent_decode_str(url.username()).collect();
    login.push(b':');
    login.extend(percent_decode_str(url.password().unwrap_or_default()));
    // Only addresses without a host refuse, and those have no user.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Some(format!("Basic {}", BASE64.encode(login)))
}

/// Names the blob whose content has this digest.
pub fn blob_of(digest: &Digest) -> BlobId {
    named("darter 2026-11 blob by digest", &[digest.to_string().as_bytes()])
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { url, .. } => url.fmt(f),
            Self::Registry { registry, repository, digest } => in_registry(f, registry, repository, digest),
            Self::Expanded(layer) => layer.fmt(f),
        }
    }
}

impl ExpandedLayer {
    /// The layer as the registry has it.
    pub fn stored(&self) -> Source {
        let Self { registry, repository, digest, .. } = self.clone();
        Source::Registry { registry, repository, digest }
    }
}

impl Version {
    /// True if the origin gave anything by which to recognise this state again.
    pub const fn has_validator(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }
}

impl Credentials {
    /// No credentials: an anonymous request.
    pub const fn none() -> Self {
        Self { headers: Vec::new() }
    }

    /// True if no credentials are set.
    pub const fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// Tells one caller's credentials from another's without holding them: a keyed BLAKE3 value.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut parts = Vec::with_capacity(self.headers.len() * 2);
        for (name, value) in &self.headers {
            parts.push(name.as_bytes());
            parts.push(value.as_bytes());
        }
        named("darter 2026-11 credentials", &parts).0
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} headers)", self.headers.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn a_digest_names_the_blob_wherever_it_is_read() {
        let digest = Digest::sha256(b"x");
        let (from_url, _) = Source::from_url(url("http://a/x"), &[], Some(digest));
        let from_registry = Source::Registry { registry: url("https://b/"), repository: "c/d".into(), digest };
        let version = Version::default();
        assert_eq!(from_url.blob(&version), from_registry.blob(&version));
        assert_eq!(from_url.key(), from_registry.key(), "both meet at one seed");
        let other = Version { etag: Some("\"1\"".into()), ..version };
        assert_ne!(from_url.blob(&other), from_registry.blob(&other), "whoever reads the one may not read the other");
    }

    #[test]
    fn an_address_has_one_name_for_all_its_digests_and_none_of_them_is_its_own() {
        let of = |digest| Source::from_url(url("http://a/x?id=7"), &[], digest).0;
        let (plain, one, other) = (of(None), of(Some(Digest::sha256(b"1"))), of(Some(Digest::sha256(b"2"))));
        assert_eq!((one.without_digest(), plain.without_digest()), (Some(plain.clone()), None));
        let none = Credentials::none();
        let key = plain.record_key_by_digest(&none).unwrap();
        assert_eq!(one.record_key_by_digest(&none), Some(key));
        assert_eq!(other.record_key_by_digest(&none), Some(key));
        assert!(![&plain, &one].map(|source| source.record_key(&none)).contains(&key));
        let caller = Credentials { headers: vec![("authorization".to_owned(), "Bearer t".to_owned())] };
        assert_ne!(one.record_key_by_digest(&caller), Some(key));
    }

    #[test]
    fn the_two_names_of_an_address_lead_to_each_other() {
        let of = |digest| Source::from_url(url("http://a/x"), &[], digest).0;
        let (plain, named) = (of(None), of(Some(Digest::sha256(b"1"))));
        let caller = Credentials { headers: vec![("authorization".to_owned(), "Bearer t".to_owned())] };
        for credentials in [Credentials::none(), caller] {
            assert_eq!(named.record_key_of_twin(&credentials), Some(plain.record_key(&credentials)));
            assert_eq!(plain.record_key_of_twin(&credentials), named.record_key_by_digest(&credentials));
        }
        let (registry, repository, digest) = (url("https://b/"), "c/d".to_owned(), Digest::sha256(b"1"));
        let layer = Source::Registry { registry, repository, digest };
        assert_eq!(layer.record_key_of_twin(&Credentials::none()), None, "it has one name");
    }

    // A signed address is another one each time it is made, and its signature opens the object.
    #[test]
    fn a_signature_is_a_credential_and_no_name() {
        let signed = |query: &str| Source::from_url(url(&format!("https://s/b/x?{query}")), &[], None);
        let (plain, none) = signed("versionId=7");
        for query in ["versionId=7&X-Amz-Date=1&X-Amz-Signature=a", "sig=b&se=2026&versionId=7"] {
            let (source, credentials) = signed(query);
            assert_eq!((source.to_string().as_str(), &source), ("https://s/b/x?versionId=7", &plain));
            assert_eq!(credentials.headers, [(SIGNED_QUERY.to_owned(), query.to_owned())]);
            assert_ne!(credentials.fingerprint(), none.fingerprint());
        }
        let (source, _) = Source::from_signed_url(url("https://s/x?tok=1"), &[], None, &["tok".to_owned()]);
        assert_eq!(source.to_string(), "https://s/x");
    }

    #[test]
    fn a_user_in_the_address_is_a_credential_and_no_name() {
        let (source, credentials) = Source::from_url(url("http://me:p%40ss@a/x"), &[], None);
        assert_eq!(source.to_string(), "http://a/x");
        assert_eq!(credentials.headers, [("authorization".to_owned(), "Basic bWU6cEBzcw==".to_owned())]);
        let header = ("Authorization".to_owned(), "Bearer t".to_owned());
        let (_, credentials) = Source::from_url(url("http://me@a/x"), &[header], None);
        assert_eq!(credentials.headers.len(), 1);
        assert_eq!(credentials.headers[0].1, "Bearer t");
    }

    #[test]
    fn a_new_version_is_a_new_blob_and_credentials_are_no_part_of_it() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let (plain, none) = Source::from_url(url("http://a/x#part"), &[], None);
        let (same, secret) = Source::from_url(url("http://a/x"), &[header("Authorization", "Bearer t")], None);
        assert_eq!(plain, same);
        assert!(none.is_empty() && !secret.is_empty());
        assert_eq!(format!("{secret:?}"), "Credentials(1 headers)");
        let (other, _) = Source::from_url(url("http://a/x"), &[header("ACCEPT", "text/html")], None);
        let first = Version { etag: Some("\"1\"".into()), ..Version::default() };
        let second = Version { etag: Some("\"2\"".into()), ..Version::default() };
        assert_ne!(plain.blob(&first), plain.blob(&second));
        assert_ne!(plain.blob(&first), other.blob(&first));
    }
}
