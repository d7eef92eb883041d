//! Media types of documents and layers, in the OCI's own words.

/// An index of manifests by platform.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// A manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An image's configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A compressed layer.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
