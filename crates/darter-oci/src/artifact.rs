//! Artifacts: manifests whose layers are files, such as models, and no layers of an image.
//!
//! Pure. A file's name stands in an annotation (`org.opencontainers.image.title`, as ORAS writes it; `org.cncf.model.filepath` of the model
//! specification). A layer without one is called by its digest, so that nothing is left out.

use std::collections::BTreeMap;

use darter_core::Digest;
use serde::Deserialize;

use crate::media_type;

/// Annotations that name a file, the first that is there counts.
const TITLES: [&str; 2] = ["org.opencontainers.image.title", "org.cncf.model.filepath"];

/// ORAS packs a directory into a tar and marks it so.
const UNPACK: &str = "io.deis.oras.content.unpack";

/// The most files of an artifact that are believed.
pub const MAX_FILES: usize = 100_000;

/// A file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactFile {
    /// Its path.
    pub path: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
}

/// The files of an artifact's manifest; `None` if it is an image's, or names none, or does not tell how long they are.
pub fn files_of(manifest: &[u8]) -> Option<Vec<ArtifactFile>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Manifest {
        config: Option<Part>,
        #[serde(default)]
        layers: Vec<Part>,
        /// Of the artifact manifests that OCI gave up again.
        #[serde(default)]
        blobs: Vec<Part>,
    }
    let Manifest { config, layers, blobs } = serde_json::from_slice(manifest).ok()?;
    let parts: Vec<_> = layers.into_iter().chain(blobs).collect();
    let is_image = config.is_some_and(|config| config.media_type.as_deref().is_some_and(media_type::is_image_config));
    let titled = parts.iter().any(|part| part.title().is_some());
    if parts.is_empty() || parts.len() > MAX_FILES || (is_image && !titled) {
        return None;
    }
    let file = |part: Part| Some(ArtifactFile { path: part.path(), digest: part.digest, size: part.size? });
    parts.into_iter().map(file).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    media_type: Option<String>,
    digest: Digest,
    size: Option<u64>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Part {
    fn title(&self) -> Option<&str> {
        let annotations = self.annotations.as_ref()?;
        TITLES.iter().find_map(|title| annotations.get(*title)).map(String::as_str).filter(|title| !title.is_empty())
    }

    fn path(&self) -> String {
        let is_packed = self.annotations.as_ref().is_some_and(|of| of.get(UNPACK).is_some_and(|value| value == "true"));
        match self.title() {
            // A file with the directory's name would be taken for something else.
            Some(title) if is_packed => format!("{}.tar.gz", title.trim_end_matches('/')),
            Some(title) => title.to_owned(),
            None => self.digest.to_string().replace(':', "-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::sha256(name.as_bytes())
    }

    #[test]
    fn files_have_their_titles_or_are_called_by_their_digests() {
        let layer = |name: &str, annotations: serde_json::Value| json!({ "mediaType": "application/octet-stream", "digest": digest(name), "size": name.len(), "annotations": annotations });
        let manifest = json!({
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": digest("{}"), "size": 2 },
            "layers": [
                layer("weights", json!({ "org.opencontainers.image.title": "model/weights.bin" })),
                layer("card", json!({ "org.cncf.model.filepath": "README.md" })),
                layer("packed", json!({ "org.opencontainers.image.title": "dir", "io.deis.oras.content.unpack": "true" })),
                layer("nameless", json!(null)),
            ],
        });
        let files = files_of(manifest.to_string().as_bytes()).unwrap();
        let found: Vec<_> = files.iter().map(|file| (file.path.as_str(), file.size)).collect();
        let nameless = digest("nameless").to_string().replace(':', "-");
        assert_eq!(found, [("model/weights.bin", 7), ("README.md", 4), ("dir.tar.gz", 6), (nameless.as_str(), 8)]);
        assert_eq!(files[0].digest, digest("weights"));
    }

    #[test]
    fn images_and_lists_are_no_artifacts() {
        let config = json!({ "mediaType": crate::media_type::CONFIG, "digest": digest("c"), "size": 1 });
        let layer = json!({ "mediaType": "x/y", "digest": digest("a"), "size": 1 });
        let no_size = json!({ "digest": digest("a") });
        for other in [
            json!({ "config": config, "layers": [layer] }),
            json!({ "manifests": [{ "digest": digest("a"), "size": 1 }] }),
            json!({ "layers": [] }),
            json!({ "layers": [no_size] }),
            json!([]),
        ] {
            assert_eq!(files_of(other.to_string().as_bytes()), None, "{other}");
        }
    }
}
