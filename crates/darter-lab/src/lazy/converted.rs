//! Images as other snapshotters want them, made once for each image: layers as eStargz, or an index beside the layers.
//!
//! An image goes from the registry's storage into a directory, is converted there by the peer's own program, and is pushed into a storage of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use darter_core::Digest;
use serde::Deserialize;
use serde_json::{Value, json};

use super::content::Content;
use crate::engine::peers::Peer;
use crate::netns::{Host, Network};
use crate::oci::{Layer, Layout};
use crate::place::cache_directory;
use crate::process::Process;
use crate::registry::Registry;

/// Counted up when conversions change, so that those of an older build are not taken for them.
const BUILD: u32 = 1;
const CONVERT_TIMEOUT: Duration = Duration::from_secs(600);
/// How a layer's annotations name the digest of its table of contents.
const TOC: &str = "containerd.io/snapshot/stargz/toc.digest";
/// The name of an image in a directory.
const NAME: &str = "image";

/// A layer as the program that converts it tells of it.
#[derive(Debug, Deserialize)]
struct Told {
    digest: Digest,
    size: u64,
    diff: Digest,
    toc: Digest,
}

/// The storage of a registry that has the content's image, under its name, as a peer wants it. Runs that start together wait for one conversion.
pub(super) fn storage(content: &Content, peer: Peer) -> Result<PathBuf> {
    let cache = cache_directory()?;
    let lock = File::create(cache.join(format!("{}-images.lock", peer.name()))).context("create a lock")?;
    lock.lock().context("wait for another run to convert an image")?;
    let manifest = content.image.manifest.to_string();
    let hex = manifest.split_once(':').context("a digest names its algorithm")?.1;
    let directory = cache.join(format!("{}-image-{}-{BUILD}", peer.name(), &hex[..12]));
    if !directory.is_dir() {
        eprintln!("converting {} for {} (once; a minute or two)", content.image.name, peer.name());
        let work = tempfile::tempdir_in(&cache).context("create a directory to convert in")?;
        let made = convert(content, peer, work.path());
        made.with_context(|| format!("convert {} for {}", content.image.name, peer.name()))?;
        fs::rename(work.path().join("registry"), &directory).context("name a converted image")?;
    }
    Ok(directory)
}

fn convert(content: &Content, peer: Peer, work: &Path) -> Result<()> {
    let [plain, converted, storage] = ["plain", "converted", "registry"].map(|name| work.join(name));
    fs::create_dir(&storage).context("create a registry's storage")?;
    let network = Network::new()?;
    let (from, to) = (network.host("from")?, network.host("to")?);
    let source = Registry::public(&from, &content.storage)?;
    let target = Registry::writable(&to, &storage)?;
    let name = &content.image.name;
    let reference = |registry: &Registry| format!("docker://{}/{name}", registry.authority());
    copy(&to, &reference(&source), &format!("oci:{}:{NAME}", plain.display()))?;
    match peer {
        Peer::Stargz => to_stargz(&plain, &converted, peer, work)?,
        Peer::Soci => {
            let mut command = Command::new(peer.program(true)?);
            command.args(["convert", "--standalone", "--format", "oci-dir"]).arg(&plain).arg(&converted);
            Process::spawn(&mut command, "soci-convert", work)?.finish(CONVERT_TIMEOUT)?;
        }
    }
    let from = match peer {
        Peer::Stargz => format!("oci:{}:{NAME}", converted.display()),
        Peer::Soci => format!("oci:{}", converted.display()),
    };
    copy(&to, &from, &reference(&target))
}

fn copy(host: &Host, from: &str, to: &str) -> Result<()> {
    let mut command = host.command("skopeo");
    command.args(["copy", "--src-tls-verify=false", "--dest-tls-verify=false"]);
    if from.starts_with("oci:") {
        command.arg("--all");
    }
    host.run("skopeo", command.args([from, to]), CONVERT_TIMEOUT).map(drop)
}

/// Converts every layer of the one image in a directory.
fn to_stargz(plain: &Path, converted: &Path, peer: Peer, work: &Path) -> Result<()> {
    let read = |digest: &str| -> Result<Value> {
        let path = plain.join("blobs").join(digest.replace(':', "/"));
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
    };
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a digest is a string");
    let index: Value =
        serde_json::from_slice(&fs::read(plain.join("index.json")).context("read an index")?).context("an index")?;
    let manifest = read(&text(&index["manifests"][0]["digest"])?)?;
    let config = read(&text(&manifest["config"]["digest"])?)?;
    let mut layout = Layout::create(converted)?;
    let (mut layers, mut annotations) = (Vec::new(), Vec::new());
    for layer in manifest["layers"].as_array().context("a manifest has layers")? {
        let blob = plain.join("blobs").join(text(&layer["digest"])?.replace(':', "/"));
        let out = work.join("layer");
        let mut command = Command::new(peer.program(true)?);
        let said = Process::spawn(command.arg("convert").arg(&blob).arg(&out), "stargz-convert", work)?
            .finish(CONVERT_TIMEOUT)?;
        let told: Told = serde_json::from_str(&said).with_context(|| format!("read {said:?}"))?;
        fs::rename(&out, layout.blob(told.digest)).context("name a layer by its digest")?;
        layers.push(Layer { digest: told.digest, size: told.size, diff: told.diff });
        annotations.push(json!({ TOC: told.toc }));
    }
    let architecture = text(&config["architecture"])?;
    let manifest = layout.add_annotated(&architecture, &layers, &config["config"], &annotations)?;
    layout.name(&manifest, NAME);
    layout.finish()
}
