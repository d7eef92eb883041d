//! An OCI image layout, written layer by layer: the form that `skopeo copy oci:…` reads.
//!
//! Layers are gzip at its fastest level: as engines meet them in registries, and cheap enough to build in a test.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use darter_core::{Digest, DigestHasher};
use darter_oci::media_type::{CONFIG, INDEX, LAYER, MANIFEST};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How the layout's index says an image's name.
const NAME: &str = "org.opencontainers.image.ref.name";

/// A stored layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The digest of the compressed layer: the name of its blob.
    pub digest: Digest,
    /// Bytes of the compressed layer.
    pub size: u64,
    /// The digest of the uncompressed tar.
    pub diff: Digest,
}

/// An image layout under construction.
#[derive(Debug)]
pub struct Layout {
    directory: PathBuf,
    images: Vec<Value>,
}

impl Layout {
    /// Starts a layout in an empty or new directory.
    pub fn create(directory: &Path) -> Result<Self> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("create {}", blobs.display()))?;
        write(&directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Self { directory: directory.to_path_buf(), images: Vec::new() })
    }

    /// Compresses and stores a tar stream as a layer.
    pub fn add_layer(&self, mut tar: impl Read) -> Result<Layer> {
        let partial = tempfile::NamedTempFile::new_in(&self.directory).context("create a file for a layer")?;
        let mut plain = DigestHasher::sha256();
        let packed = Hashing::new(BufWriter::new(partial));
        let mut gzip = GzEncoder::new(packed, Compression::fast());
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let read = tar.read(&mut buffer).context("read a layer's tar")?;
            if read == 0 {
                break;
            }
            plain.update(&buffer[..read]);
            gzip.write_all(&buffer[..read]).context("write a layer")?;
        }
        let packed = gzip.finish().context("write a layer")?;
        let layer = Layer { digest: packed.hasher.finish(), size: packed.size, diff: plain.finish() };
        let partial = packed.inner.into_inner().map_err(|error| error.into_error()).context("write a layer")?;
        partial.persist(self.blob(layer.digest)).context("name a layer by its digest")?;
        Ok(layer)
    }

    /// Stores configuration and manifest of a Linux image of these layers; gives the manifest's descriptor.
    pub fn add_manifest(&self, architecture: &str, layers: &[Layer]) -> Result<Value> {
        let config = json!({ "Cmd": ["/bin/bash"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] });
        self.add_manifest_with(architecture, layers, &config)
    }

    /// Stores configuration and manifest of such an image, with what a container is started with.
    pub fn add_manifest_with(&self, architecture: &str, layers: &[Layer], config: &Value) -> Result<Value> {
        self.add_annotated(architecture, layers, config, &[])
    }

    /// Stores configuration and manifest of such an image, with annotations of the layers, if there are such.
    pub(crate) fn add_annotated(
        &self,
        architecture: &str,
        layers: &[Layer],
        config: &Value,
        annotations: &[Value],
    ) -> Result<Value> {
        let diffs: Vec<_> = layers.iter().map(|layer| layer.diff).collect();
        let config = self.add_json(
            CONFIG,
            &json!({
                "architecture": architecture,
                "os": "linux",
                "config": config,
                "rootfs": { "type": "layers", "diff_ids": diffs },
            }),
        )?;
        let mut layers: Vec<_> = layers
            .iter()
            .map(|layer| json!({ "mediaType": LAYER, "digest": layer.digest, "size": layer.size }))
            .collect();
        for (layer, annotations) in layers.iter_mut().zip(annotations) {
            layer["annotations"] = annotations.clone();
        }
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        let mut descriptor = self.add_json(MANIFEST, &manifest)?;
        descriptor["platform"] = json!({ "architecture": architecture, "os": "linux" });
        Ok(descriptor)
    }

    /// Stores an index of manifests for several platforms; gives its descriptor.
    pub fn add_index(&self, manifests: &[Value]) -> Result<Value> {
        self.add_json(INDEX, &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }))
    }

    /// Gives a manifest or an index a name in the layout.
    pub fn name(&mut self, descriptor: &Value, name: &str) {
        let mut named = descriptor.clone();
        named["annotations"] = json!({ NAME: name });
        self.images.push(named);
    }

    /// Writes the layout's own index, which makes it whole.
    pub fn finish(self) -> Result<()> {
        let index = json!({ "schemaVersion": 2, "manifests": self.images });
        write(&self.directory.join("index.json"), index.to_string().as_bytes())
    }

    fn add_json(&self, media_type: &str, content: &Value) -> Result<Value> {
        let text = content.to_string();
        let digest = Digest::sha256(text.as_bytes());
        write(&self.blob(digest), text.as_bytes())?;
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": text.len() }))
    }

    /// The path of a blob.
    pub fn blob(&self, digest: Digest) -> PathBuf {
        self.directory.join("blobs").join(digest.to_string().replace(':', "/"))
    }
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("write {}", path.display()))
}

/// The digest of a file's content.
pub fn digest_of(path: &Path) -> Result<Digest> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut hashing = Hashing::new(io::sink());
    io::copy(&mut file, &mut hashing).with_context(|| format!("read {}", path.display()))?;
    Ok(hashing.hasher.finish())
}

/// Counts and hashes what passes through.
struct Hashing<W> {
    inner: W,
    hasher: DigestHasher,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: DigestHasher::sha256(), size: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_named_by_its_compressed_bytes_and_knows_its_plain_ones() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        let plain = b"not a tar, but the layout does not look inside".repeat(1000);
        let layer = layout.add_layer(plain.as_slice()).unwrap();
        let stored = layout.blob(layer.digest);
        assert_eq!(digest_of(&stored).unwrap(), layer.digest);
        assert_eq!(stored.metadata().unwrap().len(), layer.size);
        assert_eq!(Digest::sha256(&plain), layer.diff);
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(File::open(&stored).unwrap()).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, plain);
    }
}
