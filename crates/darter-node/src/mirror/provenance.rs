//! Which registry and repository delivered a cached manifest, across restarts.
//!
//! A manifest goes to those who ask for it in a repository that delivered these very bytes; any other has to deliver
//! them itself first. What a manifest *names* proves nothing: anybody may write a manifest that names any digest.
//!
//! # On disk
//!
//! `<manifests>/from/<algorithm>/<hexadecimal digest>` is one file for each manifest, a line for each place:
//!
//! ```text
//! <base address of the registry> <repository>\n
//! ```
//!
//! Lines are appended without a sync. A line that was lost costs one request; a file without its manifest is removed
//! when the cache is opened. A file that can't be read or written is no proof, and never fails a pull.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use darter_core::Digest;
use darter_origin::Upstream;
use parking_lot::Mutex;
use url::Url;

use crate::mirror::recent::Recent;

/// Manifests whose places are kept in memory.
const IN_MEMORY: u64 = 4096;
/// Places kept for one manifest; the oldest goes. More repositories than this rarely share one.
const MAX_PLACES: usize = 64;
/// Longest file that is read: places at their longest.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Who delivered what. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Provenance(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    memory: Mutex<Recent<Digest, Vec<String>>>,
}

/// A repository of a registry, as a line says it.
pub(crate) fn place_of(upstream: &Upstream, repository: &str) -> String {
    place_at(upstream.base(), repository)
}

/// The same, by the registry's base address.
pub(crate) fn place_at(base: &Url, repository: &str) -> String {
    format!("{base} {repository}")
}

impl Provenance {
    /// Opens what is kept beside the manifests of `manifests`. Blocking.
    pub(crate) fn open(manifests: &Path) -> Self {
        let dir = manifests.join("from");
        if let Err(error) = tidy(&dir, manifests) {
            tracing::warn!(path = %dir.display(), %error, "could not tidy up where manifests came from");
        }
        Self(Arc::new(Inner { dir, memory: Mutex::new(Recent::new(IN_MEMORY)) }))
    }

    /// Whether the place delivered this manifest.
    pub(crate) async fn knows(&self, digest: Digest, place: &str) -> bool {
        self.places(digest).await.iter().any(|known| known == place)
    }

    /// Notes that the place delivered this manifest.
    pub(crate) async fn note(&self, digest: Digest, place: String) {
        let mut places = self.places(digest).await;
        if places.contains(&place) {
            return;
        }
        let full = places.len() >= MAX_PLACES;
        if full {
            places.remove(0);
        }
        places.push(place.clone());
        self.0.memory.lock().insert(digest, places.clone(), 1);
        let inner = Arc::clone(&self.0);
        let written = tokio::task::spawn_blocking(move || {
            let path = path_of(&inner.dir, &digest);
            let written = if full { write(&path, &places) } else { append(&path, &place) };
            written.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "could not keep a provenance"))
        });
        // It never panics, and was logged.
        let _ = written.await;
    }

    async fn places(&self, digest: Digest) -> Vec<String> {
        if let Some(places) = self.0.memory.lock().get(&digest) {
            return places.clone();
        }
        let inner = Arc::clone(&self.0);
        let read = tokio::task::spawn_blocking(move || read(&path_of(&inner.dir, &digest)));
        let places = read.await.unwrap_or_default();
        self.0.memory.lock().insert(digest, places.clone(), 1);
        places
    }
}

fn read(path: &Path) -> Vec<String> {
    let small = fs::symlink_metadata(path).is_ok_and(|it| it.is_file() && it.len() <= MAX_FILE_BYTES);
    let text = if small { fs::read_to_string(path).unwrap_or_default() } else { String::new() };
    // A last line without its end was cut short.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(str::to_owned).collect()
}

fn append(path: &Path, place: &str) -> io::Result<()> {
    make_dir(path)?;
    let mut file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(format!("{place}\n").as_bytes())
}

fn write(path: &Path, places: &[String]) -> io::Result<()> {
    let text: String = places.iter().map(|place| format!("{place}\n")).collect();
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    fs::rename(temporary, path)
}

fn make_dir(path: &Path) -> io::Result<()> {
    let Some(dir) = path.parent() else { return Ok(()) };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Removes the files of manifests that are gone.
fn tidy(dir: &Path, manifests: &Path) -> io::Result<()> {
    for algorithm in ["sha256", "sha512"] {
        let entries = match fs::read_dir(dir.join(algorithm)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if !manifests.join(algorithm).join(entry.file_name()).exists() {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

fn path_of(dir: &Path, digest: &Digest) -> PathBuf {
    let text = digest.to_string();
    let (algorithm, value) = text.split_once(':').expect("a digest is written with a colon");
    dir.join(algorithm).join(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(dir: &Path, text: &str) -> Digest {
        let digest = Digest::sha256(text.as_bytes());
        let path = path_of(dir, &digest);
        make_dir(&path).unwrap();
        fs::write(path, text).unwrap();
        digest
    }

    #[tokio::test]
    async fn who_delivered_a_manifest_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let digest = manifest(dir.path(), "{}");
        let open = || Provenance::open(dir.path());
        open().note(digest, "https://a.lab/ app".into()).await;
        open().note(digest, "https://b.lab/ app".into()).await;
        let known = open();
        assert!(known.knows(digest, "https://a.lab/ app").await && known.knows(digest, "https://b.lab/ app").await);
        assert!(!known.knows(digest, "https://a.lab/ other").await);
        fs::remove_file(path_of(dir.path(), &digest)).unwrap();
        assert!(!open().knows(digest, "https://a.lab/ app").await, "it goes with its manifest");
    }

    #[tokio::test]
    async fn places_are_bounded_and_a_torn_line_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let digest = manifest(dir.path(), "{}");
        let known = Provenance::open(dir.path());
        for n in 0..=MAX_PLACES {
            known.note(digest, format!("https://a.lab/ app{n}")).await;
        }
        let path = path_of(&dir.path().join("from"), &digest);
        append(&path, "https://b.lab/ app").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.trim_end()).unwrap();
        let known = Provenance::open(dir.path());
        assert!(!known.knows(digest, "https://a.lab/ app0").await && known.knows(digest, "https://a.lab/ app1").await);
        assert!(!known.knows(digest, "https://b.lab/ app").await);
    }
}
