//! A registry's storage that is filled without pushing: images lie in it as if they had been pushed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use darter_core::Digest;

use crate::image::Image;

/// Lets an image lie in a registry's storage, with links to its blobs, the manifest among them. Blobs that lie there already stay.
pub(crate) fn shelve(storage: &Path, image: &Image, blob: impl Fn(&Digest) -> PathBuf) -> Result<()> {
    let root = storage.join("docker/registry/v2");
    let below = |parent: &Path, digest: &Digest| parent.join(digest.to_string().replace(':', "/"));
    let (repository, tag) = image.name.split_once(':').context("an image has a tag")?;
    let repository = root.join("repositories").join(repository);
    let manifest = [image.manifest];
    for digest in manifest.iter().chain(&image.blobs()) {
        let name = digest.to_string();
        let (algorithm, hex) = name.split_once(':').context("a digest names its algorithm")?;
        let place = root.join("blobs").join(algorithm).join(&hex[..2]).join(hex);
        fs::create_dir_all(&place).with_context(|| format!("create {}", place.display()))?;
        let data = place.join("data");
        if !data.is_symlink() {
            symlink(blob(digest), &data).with_context(|| format!("create {}", data.display()))?;
        }
    }
    let link = |place: PathBuf, digest: &Digest| -> Result<()> {
        fs::create_dir_all(&place).with_context(|| format!("create {}", place.display()))?;
        fs::write(place.join("link"), digest.to_string()).with_context(|| format!("write below {}", place.display()))
    };
    for digest in &image.blobs() {
        link(below(&repository.join("_layers"), digest), digest)?;
    }
    let manifests = repository.join("_manifests");
    link(below(&manifests.join("revisions"), &image.manifest), &image.manifest)?;
    link(manifests.join("tags").join(tag).join("current"), &image.manifest)?;
    link(below(&manifests.join("tags").join(tag).join("index"), &image.manifest), &image.manifest)
}
