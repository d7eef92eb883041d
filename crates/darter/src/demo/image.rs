//! The image that `darter demo --lazy` runs: two programs of this machine in one layer, and generated content of any length in another, as a registry serves
//! them. Nothing of it is stored on disk.
//!
//! Invariant: whatever the registry serves under a digest has that digest, since agents check it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use darter_core::Digest;
use darter_oci::media_type;
use serde_json::json;

use super::content::Content;
use super::origin::Served;

/// The path of the generated file in a container.
pub(super) const FILE: &str = "model/weights";

/// Its repository and tag.
pub(super) const NAME: &str = "demo/image:1";

/// The programs that a container runs.
const PROGRAMS: [&str; 2] = ["sh", "od"];

/// Directories on which the container's own file systems are mounted.
const MOUNT_POINTS: [&str; 3] = ["dev", "proc", "sys"];

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

const BLOCK: usize = 512;

/// How many bytes of a path fit into a tar header's name field. A prefix field holds more, up to one of the path's slashes.
const MAX_NAME: usize = 100;
const MAX_PREFIX: usize = 155;

/// The longest file whose length eleven octal digits can express.
const MAX_LENGTH: u64 = (1 << 33) - 1;

/// An image, and the files with which a registry serves it.
pub(super) struct DemoImage {
    /// The registry's files by path.
    pub(super) files: HashMap<String, Served>,
    /// The length of all layers together.
    pub(super) length: u64,
}

impl DemoImage {
    /// The image with a generated file of this length. Hashes all of it.
    pub(super) fn generated(length: u64) -> anyhow::Result<Self> {
        if length > MAX_LENGTH {
            bail!("a file of {length} bytes does not fit into the demo's image, whose longest has {MAX_LENGTH}");
        }
        let mut tar = Tar::default();
        for dir in MOUNT_POINTS {
            tar.directory(dir)?;
        }
        for (name, path) in programs()? {
            let bytes = std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
            tar.file(&name, bytes.len() as u64)?;
            tar.bytes(&bytes);
        }
        let programs = Content::Bytes(tar.end());
        let mut head = Tar::default();
        head.file(FILE, length)?;
        let filling = length.next_multiple_of(BLOCK as u64) - length;
        let end = vec![0; usize::try_from(filling)? + 2 * BLOCK];
        let data = Content::Joined(vec![Content::Bytes(head.0), Content::generated(length), Content::Bytes(end)]);
        Self::of(vec![programs, data])
    }

    fn of(layers: Vec<Content>) -> anyhow::Result<Self> {
        let (repository, tag) = NAME.split_once(':').context("the image's name has a tag")?;
        let (mut files, mut described, mut diff_ids, mut length) = (HashMap::new(), Vec::new(), Vec::new(), 0);
        let mut put = |path: String, media_type, content: Content| {
            files.insert(format!("/v2/{repository}/{path}"), Served { content: Arc::new(content), media_type });
        };
        for layer in layers {
            let digest = layer.digest().context("can't read a layer")?;
            described.push(json!({ "mediaType": LAYER, "digest": digest, "size": layer.length() }));
            diff_ids.push(digest);
            length += layer.length();
            put(format!("blobs/{digest}"), "application/octet-stream", layer);
        }
        let config = json!({ "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } }).to_string();
        let digest = Digest::sha256(config.as_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::MANIFEST,
            "config": { "mediaType": media_type::CONFIG, "digest": digest, "size": config.len() },
            "layers": described,
        });
        put(format!("blobs/{digest}"), "application/octet-stream", Content::Bytes(config.into_bytes()));
        let manifest = manifest.to_string().into_bytes();
        put(format!("manifests/{}", Digest::sha256(&manifest)), media_type::MANIFEST, Content::Bytes(manifest.clone()));
        put(format!("manifests/{tag}"), media_type::MANIFEST, Content::Bytes(manifest));
        Ok(Self { files, length })
    }
}

/// The files that the container's programs need: each with its name in the image, and the file that it is copied from.
fn programs() -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut all: Vec<(String, PathBuf)> = Vec::new();
    for program in PROGRAMS {
        let path = find(program).with_context(|| format!("{program} is not installed"))?;
        for library in libraries(&path)? {
            let name = library.strip_prefix("/").context("a library has a whole path")?.to_string_lossy().into_owned();
            if all.iter().all(|(other, _)| *other != name) {
                all.push((name, library));
            }
        }
        all.push((format!("bin/{program}"), path));
    }
    Ok(all)
}

/// The loader and the libraries that a program needs; none if it is statically linked.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let told = Command::new("ldd").arg(program).output().context("can't run ldd, which tells what programs need")?;
    let words = String::from_utf8_lossy(&told.stdout).into_owned();
    Ok(words.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// The path of a program, if it is installed.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Directories for system administration, which are often not on a user's path.
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// A tar to which files are added.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn directory(&mut self, name: &str) -> anyhow::Result<()> {
        self.header(name, b'5', 0)
    }

    /// Adds the header of a file, whose bytes have to follow.
    fn file(&mut self, name: &str, length: u64) -> anyhow::Result<()> {
        self.header(name, b'0', length)
    }

    /// Adds bytes of a file.
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }

    fn header(&mut self, name: &str, kind: u8, length: u64) -> anyhow::Result<()> {
        let (prefix, name) = split(name).with_context(|| format!("the path {name:?} is too long for a tar"))?;
        let mut block = [0; BLOCK];
        let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, "0000755");
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{length:011o}"));
        put(136, "14500000000");
        put(148, "        ");
        put(257, "ustar\x0000");
        put(345, prefix);
        block[156] = kind;
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        Ok(())
    }
}

/// A path as two header fields: the part before one of its slashes, empty if the path fits into one field, and the rest.
fn split(path: &str) -> Option<(&str, &str)> {
    let mut parts = path.match_indices('/').filter_map(|(at, _)| Some((path.get(..at)?, path.get(at + 1..)?)));
    let fits = |(prefix, name): &(&str, &str)| prefix.len() <= MAX_PREFIX && name.len() <= MAX_NAME && !name.is_empty();
    if path.len() <= MAX_NAME { Some(("", path)) } else { parts.find(fits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_registry_names_by_a_digest_has_it() {
        let image = DemoImage::generated(100_000).unwrap();
        let mut named = 0;
        for (path, served) in &image.files {
            let Some(digest) = path.rsplit('/').next().and_then(|last| last.parse::<Digest>().ok()) else { continue };
            assert_eq!(served.content.digest().unwrap(), digest, "{path}");
            named += 1;
        }
        assert_eq!(named, 4, "two layers, a configuration and a manifest");
    }

    #[test]
    fn a_long_path_is_what_tar_reads_and_one_that_has_no_room_is_refused() {
        let long = format!("nix/store/{}/lib/libc.so.6", "c".repeat(120));
        let mut tar = Tar::default();
        tar.file(&long, 0).unwrap();
        assert!(tar.file(&"c".repeat(101), 0).is_err() && tar.file(&format!("{}/c", "c/".repeat(200)), 0).is_err());
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("tar");
        std::fs::write(&path, tar.end()).unwrap();
        let out = Command::new("tar").arg("-tvf").arg(&path).output().unwrap();
        let listed = String::from_utf8(out.stdout).unwrap();
        assert!(listed.starts_with("-rwxr-xr-x") && listed.trim_end().ends_with(&long), "{listed}");
    }

    #[test]
    fn layers_are_tars_of_programs_and_of_a_file() {
        let image = DemoImage::generated(100_000).unwrap();
        let room = tempfile::tempdir().unwrap();
        let mut listed = Vec::new();
        for (path, served) in image.files.iter().filter(|(path, _)| path.contains("/blobs/")) {
            let mut bytes = vec![0; usize::try_from(served.content.length()).unwrap()];
            served.content.read_at(0, &mut bytes).unwrap();
            if bytes.starts_with(b"{") {
                continue;
            }
            let tar = room.path().join("tar");
            std::fs::write(&tar, bytes).unwrap();
            let out = Command::new("tar").arg("-C").arg(room.path()).arg("-xvf").arg(&tar).output().unwrap();
            assert!(out.status.success(), "{path}: {}", String::from_utf8_lossy(&out.stderr));
            listed.extend(String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned));
        }
        for name in ["bin/sh", "bin/od", "proc", FILE] {
            assert!(listed.iter().any(|listed| listed.trim_end_matches('/') == name), "{name} is not in {listed:?}");
        }
        let mut expected = vec![0; 100_000];
        Content::generated(100_000).read_at(0, &mut expected).unwrap();
        assert!(std::fs::read(room.path().join(FILE)).unwrap() == expected);
    }
}
