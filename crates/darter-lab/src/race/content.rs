//! The bytes that are raced: generated once for a scenario, in memory, the same on every machine; incompressible, or an image's
//! [`layers`].

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use darter_core::Digest;
use darter_oci::media_type::{LAYER, MANIFEST};
use darter_scenario::Scenario;
use serde_json::json;

use crate::oci::digest_of;
use crate::race::layers::{self, Layers, Pool};
use crate::race::noise::splitmix;

/// Files with their digests, in a directory that vanishes with this value.
#[derive(Debug)]
pub struct Content {
    directory: PathBuf,
    /// Names and digests, in order.
    pub files: Vec<(String, Digest)>,
    /// Bytes of each.
    pub size: u64,
    /// The image of which they are the layers, if they are.
    pub layers: Option<Layers>,
}

impl Content {
    /// Generates what a scenario is about.
    pub fn of(scenario: &Scenario) -> Result<Self> {
        let generate = if scenario.layers { Self::generate_layers } else { Self::generate };
        generate(scenario.blobs, scenario.blob_size())
    }

    /// Generates `count` files of `size` bytes each, in memory.
    pub fn generate(count: u32, size: u64) -> Result<Self> {
        Self::generate_below(&memory_directory()?, count, size)
    }

    /// Generates them in a directory below `parent`.
    pub(crate) fn generate_below(parent: &Path, count: u32, size: u64) -> Result<Self> {
        // Named after this process, as runs are: what a killed laboratory leaves is swept by the next.
        let directory = parent.join(format!("{}-content-{count}x{size}", std::process::id()));
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        let mut content = Self { directory, files: Vec::new(), size, layers: None };
        for number in 0..count {
            let name = format!("blob-{number:02}");
            let path = content.directory.join(&name);
            write(&path, u64::from(number), size).with_context(|| format!("write {}", path.display()))?;
            content.files.push((name, digest_of(&path)?));
        }
        Ok(content)
    }

    /// Generates an image of `count` layers of `size` bytes each, in memory.
    pub fn generate_layers(count: u32, size: u64) -> Result<Self> {
        let directory = memory_directory()?.join(format!("{}-layers-{count}x{size}", std::process::id()));
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        let mut content = Self { directory, files: Vec::new(), size, layers: None };
        let names: Vec<String> = (0..count).map(|number| format!("blob-{number:02}")).collect();
        let pool = Pool::new();
        let (pool, directory) = (&pool, &content.directory);
        let written = thread::scope(|scope| {
            let write = |(number, name)| {
                scope.spawn(move || layers::write(&directory.join::<&String>(name), pool, number, size))
            };
            let writing: Vec<_> = (0..).zip(&names).map(write).collect();
            let joined = writing.into_iter().map(|thread| thread.join());
            joined.map(|layer| layer.unwrap_or_else(|_| bail!("writing a layer panicked"))).collect::<Result<Vec<_>>>()
        })?;
        let named: Vec<_> =
            names.iter().zip(&written).map(|(name, (layer, _))| (name.as_str(), layer.clone())).collect();
        let image = layers::image(directory, &content.storage(), &named)?;
        content.files = names.iter().cloned().zip(image.layers.iter().map(|layer| layer.digest)).collect();
        content.layers = Some(Layers { image, unpacked: written.iter().map(|(_, bytes)| bytes).sum() });
        Ok(content)
    }

    /// The storage of a registry that holds the image, if there is one.
    pub fn storage(&self) -> PathBuf {
        self.directory.join("registry")
    }

    /// Lets the files, and a manifest that names them, lie as a registry would show them below `v2/REPOSITORY`, for a plain
    /// web server; gives the manifest's digest.
    pub fn as_registry(&self, repository: &str) -> Result<Digest> {
        let root = self.directory.join("v2").join(repository);
        let (blobs, manifests) = (root.join("blobs"), root.join("manifests"));
        for directory in [&blobs, &manifests] {
            fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        }
        let mut layers = Vec::new();
        for (name, digest) in &self.files {
            let link = blobs.join(digest.to_string());
            if !link.is_symlink() {
                symlink(self.directory.join(name), &link).with_context(|| format!("create {}", link.display()))?;
            }
            layers.push(json!({ "mediaType": LAYER, "digest": digest.to_string(), "size": self.size }));
        }
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers }).to_string();
        let digest = Digest::sha256(manifest.as_bytes());
        let path = manifests.join(digest.to_string());
        fs::write(&path, manifest).with_context(|| format!("write {}", path.display()))?;
        Ok(digest)
    }

    /// The directory of the files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        // The next run sweeps what stays behind.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The directory of races' files: in memory, so that no disk is measured.
pub fn memory_directory() -> Result<PathBuf> {
    let directory = PathBuf::from("/dev/shm/darter-lab");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    Ok(directory)
}

fn write(path: &Path, number: u64, size: u64) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for word in 0..size / 8 {
        file.write_all(&splitmix(number << 40 | word).to_le_bytes())?;
    }
    file.write_all(&[0; 8][..(size % 8) as usize])?;
    file.flush()
}
