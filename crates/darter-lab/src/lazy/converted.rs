//! Images as other snapshotters want them, made once for each image: layers as eStargz, or an index beside the layers.
//!
//! An image goes from the registry's storage into a directory, is converted there by the peer's own program, and is pushed into a storage of its own.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use darter_core::{Digest, DigestHasher};
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::{Value, json};

use super::content::Content;
use crate::engine::peers::Peer;
use crate::netns::{Host, Network};
use crate::oci::{Layer, Layout, digest_of};
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
struct ConvertedLayer {
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
        Peer::Stargz => repack(&plain, &converted, work, |from, to| {
            let mut command = Command::new(peer.program(true)?);
            let mut process = Process::spawn(command.arg("convert").args([from, to]), "stargz-convert", work)?;
            let said = process.finish(CONVERT_TIMEOUT)?;
            let told: ConvertedLayer = serde_json::from_str(&said).with_context(|| format!("read {said:?}"))?;
            Ok((Layer { digest: told.digest, size: told.size, diff: told.diff }, json!({ TOC: told.toc })))
        })?,
        Peer::Soci => {
            // The laboratory's layers, which are quick to make, have no place within that an index could lead to, unlike others'.
            let usual = work.join("usual");
            repack(&plain, &usual, work, |from, to| {
                let mut command = Command::new("sh");
                command.args(["-euc", r#"gzip -dc "$0" | gzip -6n > "$1""#]).args([from, to]);
                Process::spawn(&mut command, "gzip", work)?.finish(CONVERT_TIMEOUT)?;
                let size = fs::metadata(to).context("look at a layer")?.len();
                let mut plain = DigestHasher::sha256();
                let mut reader = GzDecoder::new(File::open(to).context("open a layer")?);
                let mut buffer = vec![0; 256 << 10];
                loop {
                    match reader.read(&mut buffer).context("read a layer")? {
                        0 => break,
                        read => plain.update(&buffer[..read]),
                    }
                }
                Ok((Layer { digest: digest_of(to)?, size, diff: plain.finish() }, json!({})))
            })?;
            let mut command = Command::new(peer.program(true)?);
            command.args(["convert", "--standalone", "--format", "oci-dir"]).args([&usual, &converted]);
            Process::spawn(&mut command, "soci-convert", work)?.finish(CONVERT_TIMEOUT)?;
        }
    }
    let from = match peer {
        Peer::Stargz => format!("oci:{}:{NAME}", converted.display()),
        // The image that it writes has no name.
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

/// Makes an image out of the one in the directory `plain`, with each of its layers packed anew by `pack`, from a file to another, which gives its annotations, too.
fn repack(
    plain: &Path,
    repacked: &Path,
    work: &Path,
    pack: impl Fn(&Path, &Path) -> Result<(Layer, Value)>,
) -> Result<()> {
    let read = |path: &Path| -> Result<Value> {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
    };
    let blob = |descriptor: &Value| -> Result<PathBuf> {
        let digest = descriptor["digest"].as_str().context("a descriptor has a digest")?;
        Ok(plain.join("blobs").join(digest.replace(':', "/")))
    };
    let manifest = read(&blob(&read(&plain.join("index.json"))?["manifests"][0])?)?;
    let config = read(&blob(&manifest["config"])?)?;
    let mut layout = Layout::create(repacked)?;
    let (mut layers, mut annotations) = (Vec::new(), Vec::new());
    for descriptor in manifest["layers"].as_array().context("a manifest has layers")? {
        let out = work.join("layer");
        let (layer, annotated) = pack(&blob(descriptor)?, &out)?;
        fs::rename(&out, layout.blob(layer.digest)).context("name a layer by its digest")?;
        layers.push(layer);
        annotations.push(annotated);
    }
    let architecture = config["architecture"].as_str().context("a configuration names an architecture")?;
    let manifest = layout.add_annotated(architecture, &layers, &config["config"], &annotations)?;
    layout.name(&manifest, NAME);
    layout.finish()
}
