//! The layers that `POST /v1/parts` takes in place of an address: a layer of an image that is wanted in the form that the kernel mounts, or a registry's blob as it is
//! stored.

use std::fmt;

use darter_core::Digest;
use serde::{Deserialize, Serialize};

/// A layer, as an image's manifest and configuration name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRequest {
    /// The name of the registry, such as `docker.io`.
    pub registry: String,
    /// The repository, such as `library/debian`.
    pub repository: String,
    /// The layer's digest, from the manifest.
    pub digest: Digest,
    /// Its length there. A registry whose answers name no digest is believed only if it says the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Its media type there, by which some layers are known to be of no use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The digest of its tar, from the configuration (`rootfs.diff_ids`).
    pub diff_id: Digest,
}

impl LayerRequest {
    /// The text in a request's `url`: nothing that can be downloaded, so that a daemon that knows no layers does not give the layer
    /// itself in place of its expanded form.
    pub fn address(&self) -> String {
        format!("layer://{self}")
    }
}

/// As people name it.
impl fmt::Display for LayerRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.registry, self.repository, self.digest)
    }
}

/// A blob of a registry, as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRequest {
    /// The name of the registry, such as `docker.io`.
    pub registry: String,
    /// The repository, such as `library/debian`.
    pub repository: String,
    /// The blob's digest, from the manifest.
    pub digest: Digest,
    /// Its length there. A registry whose answers name no digest is believed only if it says the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

impl BlobRequest {
    /// The text in a request's `url`: nothing that a daemon that knows no such requests would download.
    pub fn address(&self) -> String {
        format!("blob://{self}")
    }
}

/// As people name it.
impl fmt::Display for BlobRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.registry, self.repository, self.digest)
    }
}
