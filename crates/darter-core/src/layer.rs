//! A layer of an image in its expanded form: its tar, uncompressed, in a file that the kernel mounts.
//!
//! The file's bytes follow from the tar and from the format alone: the same bytes on every host, whichever registry gave the layer
//! and however it was compressed. So that names the blob, and all who want it meet in one swarm. An [`ExpandedLayer`] says besides from which
//! registry the layer is read, and its digest there: the lead reads it there once, and that registry's word about its own layer decides who may have
//! it.
//!
//! That a layer unpacks into a tar is a claim of whoever names both. It is believed only once an agent has read the layer and found
//! it so: else a layer that everybody may read would open the tar of one that they may not.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::digest::Digest;
use crate::id::{BlobId, named};

/// A registry's layer, and the tar that it unpacks into.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExpandedLayer {
    /// The registry's base address, such as `https://registry-1.docker.io/`.
    pub registry: Url,
    /// The repository, such as `library/debian`.
    pub repository: String,
    /// The layer's digest, as the registry stores it.
    pub digest: Digest,
    /// The digest of its tar, which the image's configuration names.
    pub diff_id: Digest,
    /// The format of the expanded file.
    pub format: u32,
}

impl ExpandedLayer {
    /// The blob that the expanded file is.
    pub fn blob(&self) -> BlobId {
        Self::blob_of(&self.diff_id, self.format)
    }

    /// The blob of the expanded file of any layer with this tar.
    pub fn blob_of(diff_id: &Digest, format: u32) -> BlobId {
        named("darter 2026-11 expanded layer", &[diff_id.to_string().as_bytes(), &format.to_le_bytes()])
    }

    /// Names that this layer unpacks into this tar.
    pub fn pair(&self) -> BlobId {
        let texts = [self.digest.to_string(), self.diff_id.to_string()];
        named("darter 2026-11 tar of a layer", &[texts[0].as_bytes(), texts[1].as_bytes(), &self.format.to_le_bytes()])
    }
}

/// The layer and the tar that the name of an expanded layer tells, as [`ExpandedLayer`] is displayed; `None` for any other name.
pub fn expanded_name(name: &str) -> Option<(Digest, Digest)> {
    let (stored, expanded) = name.split_once(" expanded-")?;
    let (_, digest) = stored.rsplit_once('@')?;
    let (_, diff_id) = expanded.split_once(' ')?;
    Some((digest.parse().ok()?, diff_id.parse().ok()?))
}

/// As the layer's own source, with what it unpacks into.
impl fmt::Display for ExpandedLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registry, repository, digest, diff_id, format } = self;
        in_registry(f, registry, repository, digest)?;
        write!(f, " expanded-{format} {diff_id}")
    }
}

/// A blob of a registry, as people read it.
pub(crate) fn in_registry(
    f: &mut fmt::Formatter<'_>,
    registry: &Url,
    repository: &str,
    digest: &Digest,
) -> fmt::Result {
    let host = registry.host_str().unwrap_or_default();
    let port = registry.port().map(|port| format!(":{port}")).unwrap_or_default();
    write!(f, "{host}{port}/{repository}@{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Credentials, Source, Version};

    #[test]
    fn the_tar_names_the_blob_whoever_compressed_it_and_wherever_it_is_read() {
        let layer = |registry: &str, digest: &[u8], diff_id: &[u8], format| ExpandedLayer {
            registry: registry.parse().unwrap(),
            repository: "app".into(),
            digest: Digest::sha256(digest),
            diff_id: Digest::sha256(diff_id),
            format,
        };
        let gzip = layer("https://a/", b"gzip", b"tar", 1);
        let zstd = layer("https://b/", b"zstd", b"tar", 1);
        assert_eq!(gzip.blob(), zstd.blob());
        assert_ne!(gzip.pair(), zstd.pair());
        for other in [layer("https://a/", b"gzip", b"other", 1), layer("https://a/", b"gzip", b"tar", 2)] {
            assert_ne!(gzip.blob(), other.blob());
            assert_ne!(gzip.pair(), other.pair());
        }
        let [gzip, zstd] = [gzip, zstd].map(Source::Expanded);
        assert_eq!(gzip.key(), zstd.key(), "both meet at one seed");
        assert_eq!(gzip.own_blob(), Some(gzip.blob(&Version::default())));
        assert_eq!(gzip.digest(), None, "the file's digest is not known beforehand");
        assert_ne!(gzip.record_key(&Credentials::none()), zstd.record_key(&Credentials::none()));
        let told = gzip.to_string();
        let (layer, tar) = (Digest::sha256(b"gzip"), Digest::sha256(b"tar"));
        assert_eq!(told, format!("a/app@{layer} expanded-1 {tar}"));
        assert_eq!(expanded_name(&told), Some((layer, tar)));
        for other in
            [format!("a/app@{layer}"), format!("https://a/x expanded-1 {tar}"), format!("a@{layer} expanded-1 x")]
        {
            assert_eq!(expanded_name(&other), None, "{other}");
        }
    }
}
