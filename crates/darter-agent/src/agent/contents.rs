//! Caches the contents of manifests: `darter ls` needs those of every known image, each time. A manifest is named by its digest, so
//! its contents never change; only whether it is still here is checked.
//!
//! Invariant: at most [`MAX_REMEMBERED`] manifests; if there are more, all are read again.

use std::collections::HashMap;
use std::sync::Arc;

use darter_api::ImageRole;
use darter_core::Digest;
use darter_oci::manifest::{NamedParts, PartRole};
use darter_registries::Registries;
use parking_lot::Mutex;

/// How many manifests are cached: as many as a busy host's images have. Each takes a few kilobytes.
const MAX_REMEMBERED: usize = 4096;

/// The cached manifests.
#[derive(Default)]
pub(super) struct ReadManifests(Mutex<HashMap<Digest, Arc<ManifestParts>>>);

/// One manifest.
pub(super) struct ManifestParts {
    /// Its length in bytes.
    pub(super) length: u64,
    /// True if it is an index: a list of manifests.
    pub(super) is_index: bool,
    /// The parts that it names: role, digest and length, if given.
    pub(super) parts: Vec<(ImageRole, Digest, Option<u64>)>,
}

impl ReadManifests {
    /// The contents of a manifest, if it is here.
    pub(super) async fn of(&self, registries: &Registries, digest: Digest) -> Option<Arc<ManifestParts>> {
        if !registries.manifests().has(&digest) {
            return None;
        }
        if let Some(known) = self.0.lock().get(&digest) {
            return Some(Arc::clone(known));
        }
        let cached = registries.manifests().get(digest).await?;
        let manifest = NamedParts::parse(&cached.bytes);
        let is_index = manifest.is_index();
        let parts = manifest.parts().map(|(role, named)| (role_of(role), named.digest, named.size)).collect();
        let content = Arc::new(ManifestParts { length: cached.bytes.len() as u64, is_index, parts });
        let mut known = self.0.lock();
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(digest, Arc::clone(&content));
        Some(content)
    }
}

const fn role_of(part: PartRole) -> ImageRole {
    match part {
        PartRole::Manifest => ImageRole::Manifest,
        PartRole::Config => ImageRole::Config,
        PartRole::Layer => ImageRole::Layer,
    }
}
