//! The diff ids that an image may name for its layers, in whatever way an engine reads its documents.
//!
//! Engines are written in Go, whose JSON decoder matches the names of fields regardless of case, and of fields that come twice takes the last or a mixture of
//! both. Only the writer of a document can know what results. So everything counts here that *could* be taken: a field that is written in several ways has all of
//! these values. A document in the usual form names exactly what [`image`](crate::image) reads from it.
//!
//! Pure. Invariant: an engine that unpacks an image asks only for diff ids that are named here, or the result says that nobody can tell.

use std::fmt;

use darter_core::Digest;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::media_type;

/// What an engine would unpack of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpacked {
    /// Nothing: it is a list, an artifact, a signature or the like.
    Nothing,
    /// Layers, with the diff ids that this configuration names.
    Layers {
        /// The digest of the configuration.
        config: Digest,
    },
    /// Nobody can tell.
    Unclear,
}

impl Unpacked {
    /// What an engine would unpack of this manifest.
    pub fn of(manifest: &[u8]) -> Self {
        let Ok(manifest) = serde_json::from_slice::<Loose>(manifest) else { return Self::Unclear };
        let configs: Vec<&Loose> = manifest.all("config").collect();
        let texts = |field| configs.iter().flat_map(move |config| config.all(field)).filter_map(Loose::text);
        // Old writers leave the type out.
        let is_image = texts("mediatype").next().is_none() || texts("mediatype").any(media_type::is_image_config);
        let mut layers = manifest.all("layers").flat_map(Loose::list).flat_map(|layer| layer.all("mediatype"));
        if configs.is_empty() || !is_image || !layers.any(|kind| kind.text().is_some_and(media_type::is_layer)) {
            return Self::Nothing;
        }
        let mut digests = texts("digest");
        match (digests.next().and_then(|digest| digest.parse().ok()), digests.next()) {
            (Some(config), None) => Self::Layers { config },
            _ => Self::Unclear,
        }
    }
}

/// All diff ids that an image's configuration may name; `None` if nobody can tell.
pub fn diff_ids(config: &[u8]) -> Option<Vec<Digest>> {
    let config: Loose = serde_json::from_slice(config).ok()?;
    let named = config.all("rootfs").flat_map(|rootfs| rootfs.all("diff_ids")).flat_map(Loose::list);
    // An engine refuses what is no digest.
    Some(named.filter_map(|diff_id| diff_id.text()?.parse().ok()).collect())
}

/// The fields that are looked at. Others are passed over.
const FIELDS: [&str; 6] = ["config", "layers", "mediatype", "digest", "rootfs", "diff_ids"];

/// A JSON value with the fields in [`FIELDS`], each as often as it comes.
enum Loose {
    Fields(Vec<(&'static str, Self)>),
    List(Vec<Self>),
    Text(String),
    Other,
}

impl Loose {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &Self> {
        let fields = match self {
            Self::Fields(fields) => &fields[..],
            _ => &[],
        };
        fields.iter().filter(move |(its, _)| *its == name).map(|(_, value)| value)
    }

    fn list(&self) -> &[Self] {
        match self {
            Self::List(list) => list,
            _ => &[],
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// The field that Go's decoder takes this name for. Two letters beyond ASCII count as the letters that they are variants of.
fn field(name: &str) -> Option<&'static str> {
    let plain = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    FIELDS.into_iter().find(|field| name.chars().map(plain).eq(field.chars()))
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Loose;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Loose, E> {
        Ok(Loose::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Loose, E> {
        Ok(Loose::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Loose, E> {
        Ok(Loose::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Loose, E> {
        Ok(Loose::Other)
    }

    fn visit_unit<E>(self) -> Result<Loose, E> {
        Ok(Loose::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Loose, E> {
        Ok(Loose::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Loose, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = values.next_element()? {
            if !matches!(value, Loose::Other) {
                list.push(value);
            }
        }
        Ok(Loose::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<Loose, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = values.next_key::<String>()? {
            match field(&name) {
                Some(field) => fields.push((field, values.next_value()?)),
                None => drop(values.next_value::<IgnoredAny>()?),
            }
        }
        Ok(if fields.is_empty() { Loose::Other } else { Loose::Fields(fields) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    fn unpacked(config_type: &str, layer_type: &str) -> Unpacked {
        let config = json!({ "mediaType": config_type, "digest": digest("config"), "size": 7 });
        let layers = [json!({ "mediaType": layer_type, "digest": digest("layer"), "size": 1e3 })];
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers, "annotations": { "a": null } });
        Unpacked::of(manifest.to_string().as_bytes())
    }

    #[test]
    fn engines_unpack_every_kind_of_layer_of_an_image_and_nothing_of_what_is_none() {
        let image = Unpacked::Layers { config: digest("config") };
        for config_type in [media_type::CONFIG, "application/vnd.docker.container.image.v1+json"] {
            for layer_type in [
                media_type::LAYER,
                "application/vnd.oci.image.layer.nondistributable.v1.tar",
                "application/vnd.oci.image.layer.v1.tar+anything",
                "application/vnd.docker.image.rootfs.diff.tar",
                "application/vnd.docker.image.rootfs.diff.tar.zstd",
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip+encrypted",
                "application/vnd.erofs.layer.v1",
            ] {
                assert_eq!(unpacked(config_type, layer_type), image, "{layer_type}");
            }
        }
        for (config_type, layer_type) in [
            (media_type::CONFIG, "application/vnd.in-toto+json"),
            (media_type::CONFIG, "application/vnd.dev.cosign.simplesigning.v1+json"),
            (media_type::CONFIG, ""),
            ("application/vnd.cncf.helm.config.v1+json", media_type::LAYER),
            ("application/vnd.oci.empty.v1+json", media_type::LAYER),
            ("application/vnd.docker.plugin.v1+json", "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        ] {
            assert_eq!(unpacked(config_type, layer_type), Unpacked::Nothing, "{config_type}, {layer_type}");
        }
        let index = json!({ "manifests": [{ "mediaType": media_type::MANIFEST, "digest": digest("a"), "size": 1 }] });
        let old = json!({ "schemaVersion": 1, "fsLayers": [{ "blobSum": digest("a") }] });
        for other in [index, old, json!({}), json!([]), json!({ "layers": [{ "mediaType": media_type::LAYER }] })] {
            assert_eq!(Unpacked::of(other.to_string().as_bytes()), Unpacked::Nothing, "{other}");
        }
    }

    #[test]
    fn a_manifest_may_be_written_in_any_way_that_an_engine_reads() {
        let (layer, config) = (media_type::LAYER, digest("config"));
        let of = |text: String| Unpacked::of(text.as_bytes());
        let odd = format!(r#"{{"CONFIG":{{"DIGEST":"{config}"}},"Layer\u017f":[{{"MediaType":"{layer}"}}]}}"#);
        assert_eq!(of(odd), Unpacked::Layers { config });
        let two = format!(
            r#"{{"config":{{"digest":"{config}"}},"config":{{"digest":"{}"}},"layers":[{{"mediaType":"{layer}"}}]}}"#,
            digest("x")
        );
        assert_eq!(of(two), Unpacked::Unclear);
        let typed = format!(
            r#"{{"config":{{"mediaType":"x","digest":"{config}"}},"config":{{"mediaType":"{}"}},"layers":[],"layers":[{{"mediaType":"{layer}"}}]}}"#,
            media_type::CONFIG
        );
        assert_eq!(of(typed), Unpacked::Layers { config });
        assert_eq!(
            of(format!(r#"{{"config":{{"digest":"md5:0"}},"layers":[{{"mediaType":"{layer}"}}]}}"#)),
            Unpacked::Unclear
        );
        assert_eq!(of("{".to_owned()), Unpacked::Unclear);
    }

    #[test]
    fn a_configuration_names_every_diff_id_that_may_be_taken() {
        let [a, b] = ["a", "b"].map(digest);
        let named = |text: String| diff_ids(text.as_bytes());
        assert_eq!(named(format!(r#"{{"rootfs":{{"diff_ids":["{a}","{b}"]}},"x":1}}"#)), Some(vec![a, b]));
        assert_eq!(named(format!(r#"{{"RootFS":{{"Diff_Ids":["{a}"]}}}}"#)), Some(vec![a]));
        assert_eq!(named(format!(r#"{{"rootf\u017f":{{"diff_ids":["{a}"]}}}}"#)), Some(vec![a]));
        assert_eq!(
            named(format!(r#"{{"rootfs":{{"diff_ids":["{a}"]}},"rootfs":{{"diff_ids":["{b}"]}}}}"#)),
            Some(vec![a, b])
        );
        assert_eq!(named(format!(r#"{{"rootfs":{{"diff_ids":["{a}"],"DIFF_IDS":["{b}"]}}}}"#)), Some(vec![a, b]));
        assert_eq!(named(format!(r#"{{"rootfs":{{"diff_ids":["md5:00", 7, null, "{a}"]}}}}"#)), Some(vec![a]));
        for none in ["{}", "[]", "null", r#"{"rootfs":null}"#, r#"{"rootfs":{"diff_ids":{}}}"#] {
            assert_eq!(named(none.to_owned()), Some(Vec::new()), "{none}");
        }
        assert_eq!(named("{".to_owned()), None);
    }
}
