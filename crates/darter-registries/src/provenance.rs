//! Which registry and repository delivered a cached manifest, across restarts.
//!
//! A manifest goes to those who ask for it in a repository that delivered these very bytes; any other has to deliver
//! them itself first. The digests that a manifest *names* prove nothing: anybody may write a manifest that names any digest.
//!
//! # On disk
//!
//! `<manifests>/from/<algorithm>/<hexadecimal digest>` is one file for each manifest, a line for each place:
//!
//! ```text
//! <base address of the registry> <repository>\n
//! ```
//!
//! A file is written anew when a place is added, under a temporary name (a leading dot) and renamed, without a sync. A line
//! that was lost costs one request; a file without its manifest is removed when the cache is opened. A file that can't be
//! read or written is no proof, and never fails a pull. Nor is what stands behind a symbolic link, be it in the place of
//! a file or of a directory: it is neither read nor written nor removed ([`Dir`]).

use std::io;
use std::sync::Arc;

use darter_core::Digest;
use darter_core::recent::Recent;
use darter_origin::Upstream;
use darter_store::Dir;
use parking_lot::Mutex;
use url::Url;

use crate::small_files::SmallFiles;

/// The directory, within that of the manifests.
const FROM: &str = "from";
/// Manifests whose places are kept in memory.
const IN_MEMORY: u64 = 4096;
/// Places kept for one manifest; the oldest goes. More repositories than this rarely share one.
const MAX_PLACES: usize = 64;
/// Longest file that is read: places at their longest.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The places that delivered each digest. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Provenance(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// None where it can't be used; places are then known for as long as the process runs.
    dir: Option<Dir>,
    memory: Mutex<Recent<Digest, Vec<String>>>,
    /// Held while a file is read or written, so that no line is lost. Counts the files written.
    writing: Mutex<u64>,
    files: SmallFiles,
}

/// A repository of a registry, as a line says it.
pub fn place_of(upstream: &Upstream, repository: &str) -> String {
    place_at(upstream.base(), repository)
}

/// A repository of a registry at this base address, as a line says it.
pub(crate) fn place_at(base: &Url, repository: &str) -> String {
    format!("{base} {repository}")
}

impl Provenance {
    /// Opens what is kept beside the manifests in `manifests`. Blocking.
    pub(crate) fn open(manifests: &Dir) -> Self {
        let dir = manifests.sub(FROM);
        let dir = dir.inspect_err(|error| {
            let path = manifests.path_of(FROM);
            tracing::warn!(path = %path.display(), %error, "can't record which registries delivered cached manifests");
        });
        let dir = dir.ok();
        for algorithm in Digest::ALGORITHMS {
            let Some(dir) = &dir else { break };
            if let Err(error) = tidy(dir, manifests, algorithm) {
                let path = dir.path_of(algorithm);
                tracing::warn!(path = %path.display(), %error, "can't remove old records of which registries delivered manifests");
            }
        }
        let memory = Mutex::new(Recent::new(IN_MEMORY));
        Self(Arc::new(Inner { dir, memory, writing: Mutex::new(0), files: SmallFiles::default() }))
    }

    /// True if the place delivered this manifest.
    pub async fn knows(&self, digest: Digest, place: &str) -> bool {
        self.places(digest).await.iter().any(|known| known == place)
    }

    /// Notes that the place delivered this manifest.
    pub async fn note(&self, digest: Digest, place: String) {
        if self.knows(digest, &place).await {
            return;
        }
        let inner = Arc::clone(&self.0);
        self.0.files.work(move || inner.note(digest, place)).await;
    }

    async fn places(&self, digest: Digest) -> Vec<String> {
        if let Some(places) = self.0.memory.lock().get(&digest) {
            return places.clone();
        }
        let inner = Arc::clone(&self.0);
        let places = self.0.files.work(move || {
            let _writing = inner.writing.lock();
            inner.load(digest)
        });
        places.await.unwrap_or_default()
    }
}

impl Inner {
    /// The places known in memory, or else by the file. `writing` is held.
    fn load(&self, digest: Digest) -> Vec<String> {
        if let Some(places) = self.memory.lock().get(&digest) {
            return places.clone();
        }
        let places = self.read(&digest);
        self.memory.lock().insert(digest, places.clone(), 1);
        places
    }

    fn note(&self, digest: Digest, place: String) {
        let mut writing = self.writing.lock();
        let mut places = self.load(digest);
        if places.contains(&place) {
            return;
        }
        if places.len() >= MAX_PLACES {
            places.remove(0);
        }
        places.push(place);
        self.memory.lock().insert(digest, places.clone(), 1);
        *writing += 1;
        if let Err(error) = self.write(&digest, &places, *writing) {
            tracing::warn!(%digest, %error, "can't record which registry delivered a manifest");
        }
    }

    fn read(&self, digest: &Digest) -> Vec<String> {
        let (shard, name) = name_of(digest);
        let shard = self.dir.as_ref().and_then(|dir| dir.find_sub(&shard).ok().flatten());
        let small =
            |shard: &Dir| shard.look(&name).is_ok_and(|file| file.is_some_and(|it| it.length <= MAX_FILE_BYTES));
        let bytes = shard.filter(small).and_then(|shard| shard.read(&name).ok());
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        // A last line without its end was cut short.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(str::to_owned).collect()
    }

    fn write(&self, digest: &Digest, places: &[String], number: u64) -> io::Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let (shard, name) = name_of(digest);
        let text: String = places.iter().map(|place| format!("{place}\n")).collect();
        dir.sub(&shard)?.replace(&name, &format!(".{number}"), &[text.as_bytes()], false)
    }
}

/// Removes what a crash left, the files of manifests that are gone, and what is no file of ours.
fn tidy(dir: &Dir, manifests: &Dir, algorithm: &str) -> io::Result<()> {
    let Some(shard) = dir.find_sub(algorithm)? else { return Ok(()) };
    let kept = manifests.find_sub(algorithm)?;
    for name in shard.names()? {
        let is_kept = kept.as_ref().map(|kept| kept.look(&name)).transpose()?.flatten().is_some();
        if !is_kept || shard.look(&name)?.is_none() {
            shard.remove(&name)?;
        }
    }
    Ok(())
}

/// The directory and the name of a manifest's file.
fn name_of(digest: &Digest) -> (String, String) {
    let text = digest.to_string();
    let (algorithm, value) = text.split_once(':').expect("a digest is written with a colon");
    (algorithm.to_owned(), value.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::small_files::elsewhere;

    const PLACE: &str = "https://a.lab/ app";

    fn path_of(dir: &Path, digest: &Digest) -> PathBuf {
        let (shard, name) = name_of(digest);
        dir.join(shard).join(name)
    }

    fn manifest(dir: &Path, text: &str) -> Digest {
        let digest = Digest::sha256(text.as_bytes());
        let path = path_of(dir, &digest);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        digest
    }

    fn open(manifests: &Path) -> Provenance {
        elsewhere(|| {
            let data_dir = Dir::open(manifests.parent().unwrap()).unwrap();
            Provenance::open(&data_dir.sub("manifests").unwrap())
        })
    }

    #[tokio::test]
    async fn who_delivered_a_manifest_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let manifests = dir.path().join("manifests");
        let digest = manifest(&manifests, "{}");
        open(&manifests).note(digest, PLACE.into()).await;
        open(&manifests).note(digest, "https://b.lab/ app".into()).await;
        let known = open(&manifests);
        assert!(known.knows(digest, PLACE).await && known.knows(digest, "https://b.lab/ app").await);
        assert!(!known.knows(digest, "https://a.lab/ other").await);
        fs::remove_file(path_of(&manifests, &digest)).unwrap();
        assert!(!open(&manifests).knows(digest, PLACE).await, "it goes with its manifest");
    }

    #[tokio::test]
    async fn places_are_bounded_and_a_torn_line_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let manifests = dir.path().join("manifests");
        let digest = manifest(&manifests, "{}");
        let known = open(&manifests);
        for n in 0..=MAX_PLACES {
            known.note(digest, format!("https://a.lab/ app{n}")).await;
        }
        let path = path_of(&manifests.join(FROM), &digest);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text + "https://b.lab/ app").unwrap();
        let known = open(&manifests);
        assert!(!known.knows(digest, "https://a.lab/ app0").await && known.knows(digest, "https://a.lab/ app1").await);
        assert!(!known.knows(digest, "https://b.lab/ app").await);
    }

    #[tokio::test]
    async fn a_link_in_the_place_of_a_file_is_replaced_and_not_followed() {
        for target_exists in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let manifests = dir.path().join("manifests");
            let digest = manifest(&manifests, "{}");
            let (target, file) = (dir.path().join("precious"), path_of(&manifests.join(FROM), &digest));
            if target_exists {
                fs::write(&target, format!("{PLACE}\n")).unwrap();
            }
            let before = fs::read(&target).ok();
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            let known = open(&manifests);
            for name in [file.file_name().unwrap().to_str().unwrap(), ".1", ".2"] {
                symlink(&target, file.with_file_name(name)).unwrap();
            }
            assert!(!known.knows(digest, PLACE).await, "a link proves nothing");
            for n in 0..=MAX_PLACES {
                known.note(digest, format!("https://b.lab/ app{n}")).await;
            }
            assert!(fs::symlink_metadata(&file).unwrap().is_file());
            assert!(open(&manifests).knows(digest, "https://b.lab/ app1").await);
            assert_eq!(fs::read(&target).ok(), before);
        }
    }

    #[tokio::test]
    async fn nothing_is_read_written_or_removed_behind_a_linked_directory() {
        for linked in ["from", "from/sha256"] {
            let dir = tempfile::tempdir().unwrap();
            let (manifests, elsewhere) = (dir.path().join("manifests"), dir.path().join("elsewhere"));
            let (digest, other) = (manifest(&manifests, "{}"), manifest(&manifests, "[]"));
            let link = manifests.join(linked);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(&elsewhere, &link).unwrap();
            let shard = if linked == FROM { elsewhere.join("sha256") } else { elsewhere.clone() };
            fs::create_dir_all(&shard).unwrap();
            let (_, name) = name_of(&digest);
            fs::write(shard.join(&name), format!("{PLACE}\n")).unwrap();
            fs::write(shard.join("precious"), "x").unwrap();
            let known = open(&manifests);
            assert!(!known.knows(digest, PLACE).await, "{linked}");
            known.note(digest, "https://b.lab/ app".into()).await;
            known.note(other, PLACE.into()).await;
            assert!(known.knows(other, PLACE).await, "a pull goes on");
            assert_eq!(fs::read_to_string(shard.join(&name)).unwrap(), format!("{PLACE}\n"));
            assert_eq!(fs::read_dir(&shard).unwrap().count(), 2, "{linked}");
        }
    }
}
