//! Media types of documents and layers, in the OCI's own words.

/// An index of manifests by platform.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// A manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An image's configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A compressed layer.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// True for the media type of an image's configuration, by OCI or by Docker.
pub fn is_image_config(media_type: &str) -> bool {
    matches!(media_type, CONFIG | "application/vnd.docker.container.image.v1+json")
}

/// True for the media type of a layer that is a tar, compressed or not, and that registries have.
pub fn is_mountable_layer(media_type: &str) -> bool {
    const FAMILIES: [(&str, [&str; 3]); 2] = [
        ("application/vnd.oci.image.layer.v1.tar", ["", "+gzip", "+zstd"]),
        ("application/vnd.docker.image.rootfs.diff.tar", ["", ".gzip", ".zstd"]),
    ];
    FAMILIES.iter().any(|(family, kinds)| media_type.strip_prefix(family).is_some_and(|kind| kinds.contains(&kind)))
}

/// True for the media type of a layer that engines unpack, or try to: also if it can't be mounted.
pub fn is_layer(media_type: &str) -> bool {
    let base = media_type.split('+').next().unwrap_or_default();
    media_type.starts_with("application/vnd.oci.image.layer.")
        || matches!(
            base,
            "application/vnd.docker.image.rootfs.diff.tar"
                | "application/vnd.docker.image.rootfs.diff.tar.gzip"
                | "application/vnd.docker.image.rootfs.diff.tar.zstd"
                | "application/vnd.docker.image.rootfs.foreign.diff.tar"
                | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
                | "application/vnd.erofs.layer.v1"
        )
}
