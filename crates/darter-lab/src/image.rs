//! The laboratory's images: built once, cached as a registry's storage, served read-only to every scenario.
//!
//! Two repositories come of one build. `app` is a multi-architecture index whose manifest for this machine has
//! every layer; `tools` is a plain manifest of the lower layers, for scenarios that need a smaller pull.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use darter_core::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::netns::Network;
use crate::oci::{Layer, Layout};
use crate::place::cache_directory;
use crate::registry::Registry;
use crate::rootfs::{Builder, Tar};

/// Packages of the layers above the base. Together with the base some 280 MB compressed.
const SOFTWARE: [&[&str]; 2] =
    [&["python3", "perl", "git", "curl", "ca-certificates"], &["gcc", "libc6-dev", "make", "default-jre-headless"]];
/// Counted up when the build changes, so that caches of an older one are not taken for it.
const BUILD: u32 = 1;
/// The other architecture in the index: enough to make a choice necessary.
const OTHER_ARCHITECTURE: &str = "riscv64";
/// How long pushing may take.
const PUSH_TIMEOUT: Duration = Duration::from_secs(120);

/// The built images, and the registry storage that holds them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Images {
    /// The whole image, behind an index.
    pub app: Image,
    /// Its lower layers as an image of their own.
    pub tools: Image,
    build: u32,
    software: Vec<Vec<String>>,
    #[serde(skip)]
    storage: PathBuf,
}

/// One image of a [`Images`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Image {
    /// Repository and tag, without the registry's name.
    pub name: String,
    /// The digest that the tag points at, when that is an index.
    pub index: Option<Digest>,
    /// The manifest for this machine.
    pub manifest: Digest,
    /// Its configuration blob.
    pub config: Digest,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
}

impl Image {
    /// The repository, without its tag.
    pub fn repository(&self) -> &str {
        self.name.split_once(':').map_or(self.name.as_str(), |(repository, _)| repository)
    }

    /// The image as an engine names it.
    pub fn reference(&self, registry: &str) -> String {
        format!("{registry}/{}", self.name)
    }

    /// The blobs of a pull: configuration and layers.
    pub fn blobs(&self) -> Vec<Digest> {
        let mut blobs = vec![self.config];
        blobs.extend(self.layers.iter().map(|layer| layer.digest));
        blobs
    }

    /// Bytes of all layers as they travel.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

impl Images {
    /// The images from the cache, built first when they aren't there. Runs that start together wait for one build.
    pub fn open() -> Result<Self> {
        let cache = cache_directory()?;
        let lock = File::create(cache.join("lock")).context("create the cache's lock")?;
        lock.lock().context("wait for another run to build the images")?;
        let directory = cache.join("images");
        match Self::load(&directory) {
            Some(shelf) => Ok(shelf),
            None => build(&directory).context("build the laboratory's images"),
        }
    }

    /// The directory that a registry serves the images from.
    pub fn storage(&self) -> &Path {
        &self.storage
    }

    /// A cached build of just what is wanted today.
    fn load(directory: &Path) -> Option<Self> {
        let text = fs::read(directory.join("shelf.json")).ok()?;
        let mut shelf: Self = serde_json::from_slice(&text).ok()?;
        shelf.storage = storage_below(directory);
        (shelf.build == BUILD && shelf.software == wanted_software()).then_some(shelf)
    }
}

fn wanted_software() -> Vec<Vec<String>> {
    SOFTWARE.iter().map(|layer| layer.iter().map(ToString::to_string).collect()).collect()
}

fn storage_below(directory: &Path) -> PathBuf {
    directory.join("registry")
}

/// Builds everything anew; `shelf.json` is written last and makes it count.
fn build(directory: &Path) -> Result<Images> {
    eprintln!("building the laboratory's images in {} (once; a minute or two)", directory.display());
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let work = tempfile::tempdir_in(directory).context("create a directory to build in")?;
    let mut builder = Builder::debootstrap(work.path())?;
    for packages in SOFTWARE {
        builder.install(packages)?;
    }
    let layers = builder.finish()?;

    let path = work.path().join("layout");
    let mut layout = Layout::create(&path)?;
    let layers = pack(&layout, &layers)?;
    let app = layout.add_manifest(architecture(), &layers)?;
    let elsewhere = layout.add_manifest(OTHER_ARCHITECTURE, &layers[1..2])?;
    let index = layout.add_index(&[app.clone(), elsewhere])?;
    let lower = &layers[..layers.len() - 1];
    let tools = layout.add_manifest(architecture(), lower)?;
    layout.name(&index, "app");
    layout.name(&tools, "tools");
    layout.finish()?;

    let mut shelf = Images {
        app: describe(&path, "library/app:1", Some(digest(&index)?), &app, layers.clone())?,
        tools: describe(&path, "library/tools:1", None, &tools, lower.to_vec())?,
        build: BUILD,
        software: wanted_software(),
        storage: storage_below(directory),
    };
    push(&path, &mut shelf)?;
    fs::write(directory.join("shelf.json"), serde_json::to_vec_pretty(&shelf)?).context("write shelf.json")?;
    Ok(shelf)
}

/// Compresses the layers side by side.
fn pack(layout: &Layout, directories: &[PathBuf]) -> Result<Vec<Layer>> {
    thread::scope(|scope| {
        let packing: Vec<_> =
            directories.iter().map(|directory| scope.spawn(|| layout.add_layer(Tar::of(directory)?))).collect();
        packing
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("packing a layer panicked"))))
            .collect()
    })
}

pub(crate) fn describe(
    layout: &Path,
    name: &str,
    index: Option<Digest>,
    manifest: &Value,
    layers: Vec<Layer>,
) -> Result<Image> {
    let manifest = digest(manifest)?;
    let path = layout.join("blobs").join(manifest.to_string().replace(':', "/"));
    let content: Value = serde_json::from_slice(&fs::read(path).context("read a manifest")?)?;
    Ok(Image { name: name.to_owned(), index, manifest, config: digest(&content["config"])?, layers })
}

fn digest(descriptor: &Value) -> Result<Digest> {
    Ok(descriptor["digest"].as_str().context("a descriptor has a digest")?.parse()?)
}

/// Brings both images into the registry's storage, as their authors would: by pushing.
fn push(layout: &Path, shelf: &mut Images) -> Result<()> {
    let network = Network::new()?;
    let host = network.host("registry")?;
    let registry = Registry::writable(&host, shelf.storage())?;
    for (name, image) in [("app", &shelf.app), ("tools", &shelf.tools)] {
        let mut copy = host.command("skopeo");
        copy.args(["copy", "--all", "--dest-tls-verify=false"]);
        copy.arg(format!("oci:{}:{name}", layout.display()));
        copy.arg(format!("docker://{}/{}", registry.authority(), image.name));
        host.run("push", &mut copy, PUSH_TIMEOUT)?;
    }
    Ok(())
}

/// This machine's architecture as the OCI names it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
