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
//! remembered by this process only, an earlier one's files count as used when they were written. A file that a newer release
//! wrote, or that can't be read, is left alone: it does not count towards the limit, and never goes.
//!
//! A disk that fails costs the cache, never the pull: failures are logged and the manifest is served all the same.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use darter_core::Digest;
use darter_core::recent::Recent;
use darter_oci::manifest::ImageManifest;
use darter_store::Dir;
use darter_store::dir::Access;
use parking_lot::Mutex;

use crate::small_files::SmallFiles;

/// Bytes kept in memory: a few hundred manifests of ordinary images.
const IN_MEMORY: u64 = 4 << 20;
/// Bytes kept on disk.
const ON_DISK: u64 = 128 << 20;
/// Counted for each manifest besides its bytes, so that tiny ones are bounded in number too.
const OVERHEAD: u64 = 4096;
/// Longest media type taken, which is what RFC 6838 allows (twice 127, and a slash).
const MAX_MEDIA_TYPE: usize = 255;

const MAGIC: &[u8] = b"darter-manifest-1 ";
/// The beginning of a file of any release.
const ANY_MAGIC: &[u8] = b"darter-manifest-";

/// The cache. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Manifests(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: Dir,
    memory: Mutex<Recent<Digest, ImageManifest>>,
    /// The manifests on disk. Held only to look and to note, never during I/O.
    disk: Mutex<Recent<Digest, ()>>,
    temporary: AtomicU64,
    files: SmallFiles,
    /// Files that were left alone when the cache was opened.
    left_alone: usize,
}

impl Manifests {
    /// Opens the cache in `path`, a directory in the agent's data directory, which is made if missing. Blocking.
    ///
    /// # Errors
    /// When the directory can't be made or listed.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let (Some(data_dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let dir = Dir::open(data_dir).map_err(io::Error::other)?.sub(name)?;
        let mut disk = Recent::new(ON_DISK);
        let Scan { found, left_alone } = scan(&dir);
        if let Some(example) = left_alone.first() {
            let example = example.display();
            tracing::warn!(manifests = left_alone.len(), %example, "cached manifests of a newer version, or that can't be read, are left alone: until they can be, they are fetched anew where they are wanted");
        }
        for found in found {
            for gone in disk.insert(found.digest, (), found.length + OVERHEAD) {
                remove(&dir, &gone);
            }
        }
        let memory = Mutex::new(Recent::new(IN_MEMORY));
        Ok(Self(Arc::new(Inner {
            dir,
            memory,
            disk: Mutex::new(disk),
            temporary: AtomicU64::new(0),
            files: SmallFiles::default(),
            left_alone: left_alone.len(),
        })))
    }

    /// How many files are not used: a newer release wrote them, or they can't be read.
    pub(crate) fn left_alone(&self) -> usize {
        self.0.left_alone
    }

    /// A manifest, if it is here and right.
    pub async fn get(&self, digest: Digest) -> Option<ImageManifest> {
        if let Some(manifest) = self.0.memory.lock().get(&digest) {
            return Some(manifest.clone());
        }
        self.0.disk.lock().get(&digest)?;
        let inner = Arc::clone(&self.0);
        let manifest = self.0.files.work(move || inner.read(digest)).await??;
        self.0.remember(&manifest);
        Some(manifest)
    }

    /// True if a manifest is here.
    pub fn has(&self, digest: &Digest) -> bool {
        self.0.memory.lock().get(digest).is_some() || self.0.disk.lock().get(digest).is_some()
    }

    /// The digests of all that are here.
    pub fn all(&self) -> Vec<Digest> {
        let mut all: Vec<_> = self.0.disk.lock().keys().copied().collect();
        all.extend(self.0.memory.lock().keys().copied());
        all
    }

    /// Keeps a manifest, whose bytes must be what its digest says.
    pub(crate) async fn put(&self, manifest: ImageManifest) {
        self.0.remember(&manifest);
        let fits = manifest.media_type.len() <= MAX_MEDIA_TYPE && !manifest.media_type.contains('\n');
        if !fits || self.0.disk.lock().get(&manifest.digest).is_some() {
            return;
        }
        let inner = Arc::clone(&self.0);
        // While the disk hangs, the manifest is only not kept.
        self.0.files.work(move || inner.write(&manifest)).await;
    }
}

impl Inner {
    fn remember(&self, manifest: &ImageManifest) {
        let weight = manifest.bytes.len() as u64 + OVERHEAD;
        self.memory.lock().insert(manifest.digest, manifest.clone(), weight);
    }

    fn read(&self, digest: Digest) -> Option<ImageManifest> {
        let (shard, name) = name_of(&digest);
        let file = self.dir.sub(&shard).and_then(|shard| shard.read(&name));
        // A file that can't be read, or that a newer release wrote, is not deleted.
        let is_kept = file.as_ref().map_or(true, |file| is_newer(file));
        let manifest = file.ok().and_then(|file| parse(digest, &file.into()));
        if manifest.is_none() {
            let path = path_of(&self.dir, &digest);
            tracing::warn!(path = %path.display(), "a cached manifest can't be used; it will be fetched again");
            self.disk.lock().remove(&digest);
            if !is_kept {
                remove(&self.dir, &digest);
            }
        }
        manifest
    }

    fn write(&self, manifest: &ImageManifest) {
        if let Err(error) = self.try_write(manifest) {
            let path = path_of(&self.dir, &manifest.digest);
            tracing::warn!(path = %path.display(), %error, "could not keep a manifest");
            return;
        }
        let weight = manifest.bytes.len() as u64 + OVERHEAD;
        let gone = self.disk.lock().insert(manifest.digest, (), weight);
        for digest in gone {
            remove(&self.dir, &digest);
        }
    }

    fn try_write(&self, manifest: &ImageManifest) -> io::Result<()> {
        let (shard, name) = name_of(&manifest.digest);
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let parts = [MAGIC, manifest.media_type.as_bytes(), b"\n", &manifest.bytes];
        let shard = self.dir.sub(&shard)?;
        if head_of(&shard, &name).is_ok_and(|head| is_newer(&head)) {
            return Err(io::Error::other("a newer version keeps it there: it is left alone"));
        }
        shard.replace(&name, &format!(".{number}"), &parts, false)
    }
}

/// True if a newer release wrote a file.
fn is_newer(file: &[u8]) -> bool {
    file.starts_with(ANY_MAGIC) && !file.starts_with(MAGIC)
}

fn parse(digest: Digest, file: &Bytes) -> Option<ImageManifest> {
    let rest = file.strip_prefix(MAGIC)?;
    let end = rest.iter().take(MAX_MEDIA_TYPE + 1).position(|byte| *byte == b'\n')?;
    let media_type = std::str::from_utf8(&rest[..end]).ok()?.to_owned();
    let bytes = file.slice(MAGIC.len() + end + 1..);
    let mut hasher = digest.hasher();
    hasher.update(&bytes);
    (hasher.finish() == digest).then_some(ImageManifest { digest, media_type, bytes })
}

struct StoredManifest {
    digest: Digest,
    length: u64,
    /// Seconds since 1970.
    written: i64,
}

/// The files of a cache.
#[derive(Default)]
struct Scan {
    /// This release's, oldest first.
    found: Vec<StoredManifest>,
    /// Those of a newer release, and those that can't be read.
    left_alone: Vec<PathBuf>,
}

/// The manifests in `dir`. Leftovers of a crash are removed; other files are left alone.
fn scan(dir: &Dir) -> Scan {
    let Scan { mut found, mut left_alone } = Scan::default();
    for algorithm in Digest::ALGORITHMS {
        let listed = dir.find_sub(algorithm).and_then(|shard| {
            let names = shard.as_ref().map(Dir::names).transpose()?.unwrap_or_default();
            Ok((shard, names))
        });
        let (shard, names) = listed.unwrap_or_else(|error| {
            let path = dir.path_of(algorithm);
            tracing::warn!(path = %path.display(), %error, "cached manifests can't be read: remove the directory");
            (None, Vec::new())
        });
        let Some(shard) = shard else { continue };
        for name in names {
            if name.starts_with('.') {
                // A file that can't be removed is in nobody's way.
                let _ = shard.remove(&name);
                continue;
            }
            let Ok(digest) = format!("{algorithm}:{name}").parse() else { continue };
            match shard.look(&name).unwrap_or_default() {
                Some(_) if head_of(&shard, &name).map_or(true, |head| is_newer(&head)) => {
                    left_alone.push(shard.path_of(&name));
                }
                Some(file) => found.push(StoredManifest { digest, length: file.length, written: file.modified }),
                // A link, say: it goes, and what it points to stays.
                None => drop(shard.remove(&name)),
            }
        }
    }
    found.sort_by_key(|manifest| manifest.written);
    Scan { found, left_alone }
}

/// The first bytes of a file, by which releases differ.
fn head_of(shard: &Dir, name: &str) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    shard.open_file(name, Access::Read)?.take(MAGIC.len() as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// The directory and the name of a manifest's file.
fn name_of(digest: &Digest) -> (String, String) {
    let text = digest.to_string();
    let (algorithm, value) = text.split_once(':').expect("a digest is written with a colon");
    (algorithm.to_owned(), value.to_owned())
}

/// The path of a manifest's file, for messages.
fn path_of(dir: &Dir, digest: &Digest) -> PathBuf {
    let (shard, name) = name_of(digest);
    dir.path_of(&shard).join(name)
}

fn remove(dir: &Dir, digest: &Digest) {
    let (shard, name) = name_of(digest);
    if let Err(error) = dir.sub(&shard).and_then(|shard| shard.remove(name)) {
        let path = path_of(dir, digest);
        tracing::warn!(path = %path.display(), %error, "could not remove a cached manifest");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::small_files::elsewhere;

    fn manifest(text: &'static str) -> ImageManifest {
        let digest = Digest::sha256(text.as_bytes());
        ImageManifest { digest, media_type: "application/test+json".into(), bytes: Bytes::from_static(text.as_bytes()) }
    }

    fn file_of(data_dir: &Path, text: &'static str) -> PathBuf {
        let (shard, name) = name_of(&manifest(text).digest);
        data_dir.join("manifests").join(shard).join(name)
    }

    #[tokio::test]
    async fn a_manifest_outlives_the_process_with_its_media_type() {
        let dir = tempfile::tempdir().unwrap();
        let open = || elsewhere(|| Manifests::open(&dir.path().join("manifests")).unwrap());
        open().put(manifest("{}")).await;
        assert_eq!(open().get(manifest("{}").digest).await, Some(manifest("{}")));
        assert_eq!(open().get(manifest("other").digest).await, None);
    }

    #[tokio::test]
    async fn a_damaged_file_is_not_served_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let open = || elsewhere(|| Manifests::open(&dir.path().join("manifests")).unwrap());
        open().put(manifest("{}")).await;
        let path = file_of(dir.path(), "{}");
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
        elsewhere(|| Manifests::open(&dir.path().join("manifests")).unwrap()).put(manifest("{}")).await;
        let (leftover, stranger) = (dir.path().join("manifests/sha256/.7"), dir.path().join("manifests/sha256/notes"));
        fs::write(&leftover, "x").unwrap();
        fs::write(&stranger, "x").unwrap();
        elsewhere(|| Manifests::open(&dir.path().join("manifests")).unwrap());
        assert!(!leftover.exists() && stranger.exists());
    }

    /// The limit counts and removes only what this release wrote.
    #[tokio::test]
    async fn the_limit_does_not_touch_what_a_newer_release_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let open = || elsewhere(|| Manifests::open(&dir.path().join("manifests")).unwrap());
        open().put(manifest("{}")).await;
        let newer: Vec<PathBuf> = ["a", "b", "c"].map(|text| file_of(dir.path(), text)).into();
        for path in &newer {
            let file = fs::File::create(path).unwrap();
            io::Write::write_all(&mut &file, b"darter-manifest-2 x\n").unwrap();
            // Older than all others, and together more than the limit.
            file.set_len(ON_DISK / 2).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        let cache = open();
        assert_eq!(cache.left_alone(), 3);
        assert!(newer.iter().all(|path| path.exists()));
        assert_eq!(cache.get(manifest("{}").digest).await, Some(manifest("{}")), "it has all the room there is");
        for text in ["a", "d"] {
            cache.put(manifest(text)).await;
        }
        assert!(newer.iter().all(|path| fs::metadata(path).unwrap().len() == ON_DISK / 2));
        assert!(file_of(dir.path(), "d").exists());
    }

    #[tokio::test]
    async fn a_link_in_the_place_of_a_manifest_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let open = || elsewhere(|| Manifests::open(&dir.path().join("manifests")).unwrap());
        open().put(manifest("{}")).await;
        let (precious, file) = (dir.path().join("precious"), file_of(dir.path(), "{}"));
        fs::rename(&file, &precious).unwrap();
        let before = fs::read(&precious).unwrap();
        let temporaries = [".0", ".1"].map(|name| file.with_file_name(name));
        for at in [&file].into_iter().chain(&temporaries) {
            symlink(&precious, at).unwrap();
        }
        let cache = open();
        assert_eq!(cache.get(manifest("{}").digest).await, None);
        symlink(&precious, &temporaries[0]).unwrap();
        cache.put(manifest("{}")).await;
        assert_eq!(open().get(manifest("{}").digest).await, Some(manifest("{}")));
        assert!(fs::symlink_metadata(&file).unwrap().is_file());
        assert_eq!(fs::read(&precious).unwrap(), before);
    }

    #[tokio::test]
    async fn manifests_are_for_their_owner_only_also_older_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifests");
        let open = || elsewhere(|| Manifests::open(&path).unwrap());
        let file = file_of(dir.path(), "{}");
        let shard = file.parent().unwrap();
        let modes = || [&path, shard, &file].map(|path| fs::metadata(path).unwrap().permissions().mode() & 0o777);
        open().put(manifest("{}")).await;
        assert_eq!(modes(), [0o700, 0o700, 0o600]);
        for (path, mode) in [(path.as_path(), 0o755), (shard, 0o775), (&file, 0o644)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        open();
        assert_eq!(modes(), [0o700, 0o700, 0o600]);
    }
}
