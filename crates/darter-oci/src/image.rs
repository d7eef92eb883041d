//! An image's parts: the layers that its manifest names, and the diff ids that its configuration has for them.
//!
//! Pure. Only images whose layers can be mounted count: artifacts, lists, Docker's schema 1, encrypted layers and layers that are kept away
//! from registries ("foreign") are none. Anybody may write either document: that a diff id belongs to a layer is shown by the layer's tar
//! alone.

use darter_core::Digest;
use serde::Deserialize;

use crate::media_type;

/// The longest configuration that is read. Real ones have a few kilobytes.
pub const MAX_CONFIG: u64 = 4 << 20;

/// The most layers of an image: the kernel stacks fewer than this.
pub const MAX_LAYERS: usize = 512;

/// An image, as its manifest tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageParts {
    /// Its configuration.
    pub config: Digest,
    /// How long that is, if it is told.
    pub config_size: Option<u64>,
    /// Its layers, the lowest first.
    pub layers: Vec<LayerPart>,
}

/// A layer, as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LayerPart {
    /// Its digest, as it is stored.
    pub digest: Digest,
    /// Its length there, if it is told.
    pub size: Option<u64>,
    /// Its media type.
    pub media_type: String,
}

impl ImageParts {
    /// The parts of an image's manifest; `None` if it is anything else, or has layers that can't be mounted.
    pub fn parse(manifest: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Manifest {
            config: Part,
            layers: Vec<Part>,
            #[serde(default)]
            manifests: Vec<serde::de::IgnoredAny>,
        }
        let manifest: Manifest = serde_json::from_slice(manifest).ok()?;
        let is_image = manifest.manifests.is_empty()
            && manifest.config.media_type.as_deref().is_none_or(media_type::is_image_config)
            && (1..=MAX_LAYERS).contains(&manifest.layers.len());
        if !is_image {
            return None;
        }
        let layer = |part: Part| {
            let media_type = part.media_type.filter(|name| media_type::is_mountable_layer(name))?;
            Some(LayerPart { digest: part.digest, size: part.size, media_type })
        };
        let layers = manifest.layers.into_iter().map(layer).collect::<Option<_>>()?;
        Some(Self { config: manifest.config.digest, config_size: manifest.config.size, layers })
    }

    /// Its layers with the diff ids of a configuration; `None` if that is none, or has another number of them.
    pub fn paired(&self, config: &[u8]) -> Option<Vec<(LayerPart, Digest)>> {
        let diff_ids = diff_ids(config)?;
        (diff_ids.len() == self.layers.len()).then(|| self.layers.iter().cloned().zip(diff_ids).collect())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    media_type: Option<String>,
    digest: Digest,
    size: Option<u64>,
}

/// The diff ids of an image's configuration, the lowest layer's first.
pub fn diff_ids(config: &[u8]) -> Option<Vec<Digest>> {
    #[derive(Deserialize)]
    struct Config {
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        diff_ids: Vec<Digest>,
    }
    let config: Config = serde_json::from_slice(config).ok()?;
    Some(config.rootfs.diff_ids)
}

/// Names for the layers from the lowest up to each, as engines have them: a chain id for each diff id.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut below: Option<Digest> = None;
    let chain = |diff_id: &Digest| {
        let chain = match below {
            Some(below) => Digest::sha256(format!("{below} {diff_id}").as_bytes()),
            None => *diff_id,
        };
        below = Some(chain);
        chain
    };
    diff_ids.iter().map(chain).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    fn manifest(config: Option<&str>, layers: &[(&str, &str)]) -> Value {
        let layers: Vec<_> =
            layers.iter().map(|(name, kind)| json!({ "mediaType": kind, "digest": digest(name), "size": 5 })).collect();
        json!({ "config": { "mediaType": config, "digest": digest("config"), "size": 7 }, "layers": layers })
    }

    fn parse(manifest: &Value) -> Option<ImageParts> {
        ImageParts::parse(manifest.to_string().as_bytes())
    }

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let [a, b] = ["a", "b"].map(digest);
        assert_eq!(chain_ids(&[]), []);
        assert_eq!(chain_ids(&[a]), [a]);
        let two = Digest::sha256(format!("sha256:{} sha256:{}", hex_of(a), hex_of(b)).as_bytes());
        let three = Digest::sha256(format!("sha256:{} sha256:{}", hex_of(two), hex_of(a)).as_bytes());
        assert_eq!(chain_ids(&[a, b, a]), [a, two, three]);
    }

    fn hex_of(digest: Digest) -> String {
        digest.to_string().trim_start_matches("sha256:").to_owned()
    }

    #[test]
    fn images_of_docker_and_of_oci_name_their_layers_in_their_order_and_the_same_one_twice() {
        let docker = "application/vnd.docker.container.image.v1+json";
        for (config, kind) in [
            (Some(media_type::CONFIG), OCI_LAYER),
            (Some(docker), DOCKER_LAYER),
            // Old writers leave it out.
            (None, DOCKER_LAYER),
            (Some(media_type::CONFIG), "application/vnd.oci.image.layer.v1.tar"),
            (Some(media_type::CONFIG), "application/vnd.oci.image.layer.v1.tar+zstd"),
            (Some(media_type::CONFIG), DOCKER_LAYER),
            (Some(docker), "application/vnd.docker.image.rootfs.diff.tar"),
            (Some(docker), "application/vnd.docker.image.rootfs.diff.tar.zstd"),
        ] {
            let image = parse(&manifest(config, &[("a", kind), ("b", kind), ("a", kind)])).expect(kind);
            assert_eq!((image.config, image.config_size), (digest("config"), Some(7)));
            let names: Vec<_> = image.layers.iter().map(|layer| layer.digest).collect();
            assert_eq!(names, [digest("a"), digest("b"), digest("a")]);
            assert_eq!(image.layers[0].media_type, kind);
        }
    }

    #[test]
    fn what_is_no_image_that_can_be_mounted_has_no_parts() {
        let with = |layers: &[(&str, &str)]| parse(&manifest(Some(media_type::CONFIG), layers));
        for kind in [
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.in-toto+json",
            "application/vnd.erofs.layer.v1",
            "",
        ] {
            assert_eq!(with(&[("a", OCI_LAYER), ("b", kind)]), None, "{kind}: all layers or none");
        }
        assert_eq!(with(&[]), None);
        let many: Vec<_> = (0..=MAX_LAYERS).map(|_| ("a", OCI_LAYER)).collect();
        assert_eq!(with(&many), None);
        assert_eq!(
            parse(&manifest(Some("application/vnd.oci.empty.v1+json"), &[("a", OCI_LAYER)])),
            None,
            "an artifact"
        );
        let list = json!({ "manifests": [{ "digest": digest("a"), "size": 1 }] });
        let old = json!({ "schemaVersion": 1, "fsLayers": [{ "blobSum": digest("a") }] });
        let no_config = json!({ "layers": [{ "mediaType": OCI_LAYER, "digest": digest("a"), "size": 1 }] });
        let mut both = manifest(Some(media_type::CONFIG), &[("a", OCI_LAYER)]);
        both["manifests"] = list["manifests"].clone();
        for other in [list, old, no_config, both, json!([]), json!("x")] {
            assert_eq!(parse(&other), None, "{other}");
        }
        assert_eq!(ImageParts::parse(b"not JSON"), None);
    }

    #[test]
    fn diff_ids_belong_to_layers_only_where_there_are_as_many() {
        let image = parse(&manifest(Some(media_type::CONFIG), &[("a", OCI_LAYER), ("b", OCI_LAYER)])).unwrap();
        let config = |diff_ids: &[&str]| {
            let diff_ids: Vec<_> = diff_ids.iter().map(|name| digest(name)).collect();
            // Entries of the history without a layer don't count.
            let history = [json!({ "empty_layer": true }), json!({}), json!({})];
            json!({ "rootfs": { "type": "layers", "diff_ids": diff_ids }, "history": history }).to_string()
        };
        let paired = image.paired(config(&["x", "y"]).as_bytes()).unwrap();
        assert_eq!(paired, [(image.layers[0].clone(), digest("x")), (image.layers[1].clone(), digest("y"))]);
        for other in [config(&["x"]), config(&["x", "y", "z"]), config(&[]), "{}".to_owned(), "no".to_owned()] {
            assert_eq!(image.paired(other.as_bytes()), None, "{other}");
        }
        let unknown = r#"{ "rootfs": { "diff_ids": ["md5:00", "sha256:0"] } }"#;
        assert_eq!(image.paired(unknown.as_bytes()), None);
    }
}
