//! Manifests this agent has seen, in memory and on disk: small, immutable, named by digest.
//!
//! # On disk
//!
//! `<dir>/<algorithm>/<hexadecimal digest>` is one file for each manifest:
//!
//! ```text
//! darter-manifest-1 <media type>\n
//! <the manifest's bytes>
//! ```
//!
//! A file is written under a temporary name (a leading dot) and renamed, without a sync: whatever is read back is
//! checked against its name, and a file that fails is removed. Past the limits, what was used longest ago goes; use is
//! remembered by this process only, an earlier one's files count as used when they were written.
//!
//! A disk that fails costs the cache, never the pull: failures are logged and the manifest is served all the same.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use darter_core::Digest;
use parking_lot::Mutex;

use crate::mirror::recent::Recent;

/// Bytes kept in memory: a few hundred manifests of ordinary images.
const IN_MEMORY: u64 = 4 << 20;
/// Bytes kept on disk.
const ON_DISK: u64 = 128 << 20;
/// Counted for each manifest besides its bytes, so that tiny ones are bounded in number too.
const OVERHEAD: u64 = 4096;
/// Longest media type taken, which is what RFC 6838 allows (twice 127, and a slash).
const LONGEST_MEDIA_TYPE: usize = 255;

const MAGIC: &[u8] = b"darter-manifest-1 ";

/// A manifest (or index) as the upstream gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
}

/// The cache. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Manifests(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    memory: Mutex<Recent<Digest, Manifest>>,
    /// What is on disk. Held only to look and to note, never during I/O.
    disk: Mutex<Recent<Digest, ()>>,
    temporary: AtomicU64,
}

impl Manifests {
    /// Opens the cache in `dir`, which is made if missing. Blocking.
    ///
    /// # Errors
    /// When the directory can't be made or listed.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let mut disk = Recent::new(ON_DISK);
        for found in scan(&dir)? {
            for gone in disk.insert(found.digest, (), found.length + OVERHEAD) {
                remove(&path_of(&dir, &gone));
            }
        }
        let memory = Mutex::new(Recent::new(IN_MEMORY));
        Ok(Self(Arc::new(Inner { dir, memory, disk: Mutex::new(disk), temporary: AtomicU64::new(0) })))
    }

    /// A manifest, if it is here and right.
    pub(crate) async fn get(&self, digest: Digest) -> Option<Manifest> {
        if let Some(manifest) = self.0.memory.lock().get(&digest) {
            return Some(manifest.clone());
        }
        self.0.disk.lock().get(&digest)?;
        let inner = Arc::clone(&self.0);
        let manifest = tokio::task::spawn_blocking(move || inner.read(digest)).await.ok()??;
        self.0.remember(&manifest);
        Some(manifest)
    }

    /// Keeps a manifest. Its bytes must be what its digest says.
    pub(crate) async fn put(&self, manifest: Manifest) {
        self.0.remember(&manifest);
        let fits = manifest.media_type.len() <= LONGEST_MEDIA_TYPE && !manifest.media_type.contains('\n');
        if !fits || self.0.disk.lock().get(&manifest.digest).is_some() {
            return;
        }
        let inner = Arc::clone(&self.0);
        // The task is never cancelled; if it panicked, the manifest is only not kept.
        let _ = tokio::task::spawn_blocking(move || inner.write(&manifest)).await;
    }
}

impl Inner {
    fn remember(&self, manifest: &Manifest) {
        let weight = manifest.bytes.len() as u64 + OVERHEAD;
        self.memory.lock().insert(manifest.digest, manifest.clone(), weight);
    }

    fn read(&self, digest: Digest) -> Option<Manifest> {
        let path = path_of(&self.dir, &digest);
        let manifest = fs::read(&path).ok().and_then(|file| parse(digest, &file.into()));
        if manifest.is_none() {
            tracing::warn!(path = %path.display(), "a cached manifest is damaged; it will be fetched again");
            self.disk.lock().remove(&digest);
            remove(&path);
        }
        manifest
    }

    fn write(&self, manifest: &Manifest) {
        let path = path_of(&self.dir, &manifest.digest);
        if let Err(error) = self.try_write(&path, manifest) {
            tracing::warn!(path = %path.display(), %error, "could not keep a manifest");
            return;
        }
        let weight = manifest.bytes.len() as u64 + OVERHEAD;
        let gone = self.disk.lock().insert(manifest.digest, (), weight);
        for digest in gone {
            remove(&path_of(&self.dir, &digest));
        }
    }

    fn try_write(&self, path: &Path, manifest: &Manifest) -> io::Result<()> {
        let dir = self.dir.join(manifest.digest.algorithm());
        fs::create_dir_all(&dir)?;
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = dir.join(format!(".{number}"));
        let written = fs::File::create(&temporary).and_then(|mut file| {
            file.write_all(MAGIC)?;
            file.write_all(manifest.media_type.as_bytes())?;
            file.write_all(b"\n")?;
            file.write_all(&manifest.bytes)
        });
        let placed = written.and_then(|()| fs::rename(&temporary, path));
        if placed.is_err() {
            remove(&temporary);
        }
        placed
    }
}

fn parse(digest: Digest, file: &Bytes) -> Option<Manifest> {
    let rest = file.strip_prefix(MAGIC)?;
    let end = rest.iter().take(LONGEST_MEDIA_TYPE + 1).position(|byte| *byte == b'\n')?;
    let media_type = std::str::from_utf8(&rest[..end]).ok()?.to_owned();
    let bytes = file.slice(MAGIC.len() + end + 1..);
    let mut hasher = digest.hasher();
    hasher.update(&bytes);
    (hasher.finish() == digest).then_some(Manifest { digest, media_type, bytes })
}

struct Found {
    digest: Digest,
    length: u64,
    written: SystemTime,
}

/// Manifests in `dir`, oldest first. Leftovers of a crash are removed; other files are left alone.
fn scan(dir: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for algorithm in ["sha256", "sha512"] {
        let entries = match fs::read_dir(dir.join(algorithm)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with('.') {
                remove(&entry.path());
                continue;
            }
            let Ok(digest) = format!("{algorithm}:{name}").parse() else { continue };
            let metadata = entry.metadata()?;
            let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push(Found { digest, length: metadata.len(), written });
        }
    }
    found.sort_by_key(|manifest| manifest.written);
    Ok(found)
}

fn path_of(dir: &Path, digest: &Digest) -> PathBuf {
    let text = digest.to_string();
    let (algorithm, value) = text.split_once(':').expect("a digest is written with a colon");
    dir.join(algorithm).join(value)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "could not remove a cached manifest");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &'static str) -> Manifest {
        let digest = Digest::sha256(text.as_bytes());
        Manifest { digest, media_type: "application/test+json".into(), bytes: Bytes::from_static(text.as_bytes()) }
    }

    #[tokio::test]
    async fn a_manifest_outlives_the_process_with_its_media_type() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Manifests::open(dir.path().to_owned()).unwrap();
        open().put(manifest("{}")).await;
        assert_eq!(open().get(manifest("{}").digest).await, Some(manifest("{}")));
        assert_eq!(open().get(manifest("other").digest).await, None);
    }

    #[tokio::test]
    async fn a_damaged_file_is_not_served_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Manifests::open(dir.path().to_owned()).unwrap();
        open().put(manifest("{}")).await;
        let path = path_of(dir.path(), &manifest("{}").digest);
        let mut file = fs::read(&path).unwrap();
        *file.last_mut().unwrap() ^= 1;
        fs::write(&path, file).unwrap();
        let cache = open();
        assert_eq!(cache.get(manifest("{}").digest).await, None);
        assert!(!path.exists());
        cache.put(manifest("{}")).await;
        assert_eq!(open().get(manifest("{}").digest).await, Some(manifest("{}")));
    }

    #[tokio::test]
    async fn leftovers_go_and_strangers_stay() {
        let dir = tempfile::tempdir().unwrap();
        Manifests::open(dir.path().to_owned()).unwrap().put(manifest("{}")).await;
        let (leftover, stranger) = (dir.path().join("sha256/.7"), dir.path().join("sha256/notes"));
        fs::write(&leftover, "x").unwrap();
        fs::write(&stranger, "x").unwrap();
        Manifests::open(dir.path().to_owned()).unwrap();
        assert!(!leftover.exists() && stranger.exists());
    }
}
