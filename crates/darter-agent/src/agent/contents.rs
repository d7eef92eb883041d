//! Contents of manifests, remembered: `darter ls` asks for those of every known image, each time. A manifest is named by its digest, so
//! what was read once stays true; only whether it is still here is looked up.
//!
//! Invariant: at most [`MAX_REMEMBERED`] manifests; when there are more, all are read anew.

use std::collections::HashMap;
use std::sync::Arc;

use darter_api::ImageRole;
use darter_core::Digest;
use darter_oci::manifest::{NamedParts, PartRole};
use darter_registries::Registries;
use parking_lot::Mutex;

/// As many as a busy host's images have: each is a few kilobytes.
const MAX_REMEMBERED: usize = 4096;

/// The manifests read so far.
#[derive(Default)]
pub(super) struct ReadManifests(Mutex<HashMap<Digest, Arc<ManifestParts>>>);

/// One manifest.
pub(super) struct ManifestParts {
    /// Its length in bytes.
    pub(super) length: u64,
    /// True if it is a list of manifests.
    pub(super) is_index: bool,
    /// The parts that it names: role, digest and length, if that is told.
    pub(super) parts: Vec<(ImageRole, Digest, Option<u64>)>,
}

impl ReadManifests {
    /// The parts that a manifest names, if it is here.
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
