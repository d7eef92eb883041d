//! The stores of gets without a daemon. A store is used by one process at a time, so gets that run at the same time need
//! several.
//!
//! There is the store of the data directory, which a daemon would use, and there are *rooms*, `DATA_DIR/get/N`: further
//! stores, each used by the next get that finds it unlocked. A get uses the room where an earlier one for the same URL was
//! interrupted; else the data directory's store if anything is kept there; else the first free room. With `--keep` it uses
//! only the data directory's store.
//!
//! A user without a home directory has the rooms in the directory for temporary files.
//!
//! The pieces of a killed get are kept for the next get of the same source, for [`LEFTOVERS_KEPT_FOR`]. A get that starts later
//! empties rooms that were not used for longer; their directories and lock files stay, so that no process locks a deleted file.
//!
//! A room's file `wanted` lists the ids of the sources whose download has begun there and is not done, one per line. The process
//! with the room's lock writes it, and others read it.
//!
//! Blobs that a mount without a daemon fetches are removed when it ends. In the data directory's store they are next to blobs that are kept, so the
//! file `guests` lists them: if a mount was killed, the next mount, or a daemon that starts, removes its blobs.

use std::collections::HashSet;
use std::fs::{DirBuilder, DirEntry, Metadata, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use darter_agent::Agent;
use darter_core::{BlobId, in_full};
use darter_store::{Dir, threads};
use rustix::fs::{FlockOperation, OFlags, flock};

use crate::config;

/// If more gets than this run at the same time, the others wait.
const MAX_ROOMS: u32 = 256;

/// How long the pieces of a killed get are kept for the next get of the same source: over a weekend.
const LEFTOVERS_KEPT_FOR: Duration = Duration::from_secs(3 * 24 * 3600);

/// How often to try to remove a blob whose last reader is about to close it, and the pause between tries.
const MAX_REMOVALS: u32 = 150;
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// The lock of a room, which is the lock file of its store.
const LOCK: &str = "lock";

const WANTED: &str = "wanted";
const NEW_WANTED: &str = "wanted.new";

const GUESTS: &str = "guests";

/// The directory with the rooms: the data directory; or, if that is the default and this user can't create it (the home directory does not exist, belongs to
/// another user or is `/`, as in many containers), a directory among the temporary files. With `keep`, always the data directory.
pub(crate) fn parent(data_dir: PathBuf, keep: bool) -> PathBuf {
    if keep || !is_nobodys_choice(&data_dir) || make(&data_dir.join("get")).is_ok() {
        return data_dir;
    }
    let user = rustix::process::geteuid().as_raw();
    let other = std::env::temp_dir().join(format!("darter-{user}"));
    // Any user may have created something of that name there.
    let is_mine = |found: &Metadata| found.is_dir() && found.uid() == user && found.mode() & 0o077 == 0;
    if make(&other).is_ok() && std::fs::symlink_metadata(&other).is_ok_and(|found| is_mine(&found)) {
        other
    } else {
        data_dir
    }
}

/// True if this is the default data directory of this user.
pub(crate) fn is_nobodys_choice(data_dir: &Path) -> bool {
    config::own_data_dir().is_some_and(|own| own == data_dir)
}

/// Directories to try, in order, for a get of these sources.
pub(crate) fn candidates(data_dir: &Path, sources: &[BlobId], keep: bool) -> Vec<PathBuf> {
    if keep {
        return vec![data_dir.to_owned()];
    }
    let rooms = (0..MAX_ROOMS).map(|number| data_dir.join("get").join(number.to_string()));
    let (mut found, others): (Vec<_>, Vec<_>) =
        rooms.partition(|room| wanted(room).iter().any(|source| sources.contains(source)));
    if keeps_something(data_dir) {
        found.push(data_dir.to_owned());
    }
    found.extend(others);
    found
}

/// Creates a room's directory, accessible to its owner only.
pub(crate) fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Writes down the sources whose downloads have begun in a room and are not done.
pub(crate) fn note(dir: &Path, sources: &[BlobId]) {
    let written = Dir::open(dir).map_err(io::Error::other).and_then(|dir| {
        if sources.is_empty() {
            return dir.remove(WANTED).map(drop);
        }
        let lines: String = sources.iter().map(|source| format!("{source}\n")).collect();
        dir.replace(WANTED, NEW_WANTED, &[lines.as_bytes()], false)
    });
    // Without this note, a later get may start over. That is no reason to fail this one.
    if let Err(error) = written {
        tracing::debug!(%error, "could not note what is being fetched");
    }
}

/// Empties rooms whose gets were killed long ago. `mine`, which has just been noted, is left alone. Blocking.
pub(crate) fn clear_leftovers(data_dir: &Path, mine: &Path) {
    let Some(now) = mtime(&mine.join(WANTED)) else { return };
    for entry in std::fs::read_dir(data_dir.join("get")).into_iter().flatten().flatten() {
        let room = entry.path();
        let is_old = |used: SystemTime| now.duration_since(used).is_ok_and(|age| age > LEFTOVERS_KEPT_FOR);
        if room != mine
            && last_used(&room).is_some_and(is_old)
            && let Err(error) = clear(&room)
        {
            tracing::debug!(room = %room.display(), %error, "could not remove the leftovers of a killed download");
        }
    }
}

/// Removes everything in a room except its lock file, unless a process holds the lock.
fn clear(room: &Path) -> io::Result<()> {
    let no_links = OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(no_links);
    let lock = options.open(room.join(LOCK))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    tracing::info!(room = %room.display(), "removing the leftovers of a download that was killed long ago");
    for entry in left_in(room) {
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// When something in a room last changed; `None` if it is empty.
fn last_used(room: &Path) -> Option<SystemTime> {
    left_in(room).filter_map(|entry| mtime(&entry.path())).max()
}

fn left_in(room: &Path) -> impl Iterator<Item = DirEntry> {
    let entries = std::fs::read_dir(room).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name() != LOCK)
}

fn mtime(path: &Path) -> Option<SystemTime> {
    std::fs::symlink_metadata(path).ok()?.modified().ok()
}

/// The sources whose downloads have begun in a room and are not done.
pub(crate) fn wanted(dir: &Path) -> Vec<BlobId> {
    let text = std::fs::read_to_string(dir.join(WANTED)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Notes that a blob is to be removed from a room's store when this process ends.
pub(crate) fn note_guest(dir: &Path, blob: BlobId) {
    let noted = Dir::open(dir).map_err(io::Error::other).and_then(|dir| {
        let mut file = dir.open_or_create(GUESTS)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(format!("{blob}\n").as_bytes())
    });
    // If the blob can't be noted and this process is killed, the blob stays until it is evicted.
    if let Err(error) = noted {
        tracing::debug!(%error, "could not note a blob that is to be removed with this mount");
    }
}

/// The blobs that were noted by [`note_guest`].
pub(crate) fn guests(dir: &Path) -> HashSet<BlobId> {
    let text = std::fs::read_to_string(dir.join(GUESTS)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Deletes these notes, after the blobs were removed.
pub(crate) fn forget_guests(dir: &Path) {
    if let Ok(dir) = Dir::open(dir) {
        let _ = dir.remove(GUESTS);
    }
}

/// Removes the blobs of a killed mount, when an agent has just started.
pub(crate) async fn remove_guests(agent: &Agent) {
    let dir = agent.options().data_dir.clone();
    let left = {
        let dir = dir.clone();
        threads::run(move || guests(&dir)).await
    };
    if left.is_empty() {
        return;
    }
    tracing::info!(blobs = left.len(), "removing the blobs of a mount that was killed");
    for blob in left {
        if let Err(error) = agent.remove(&blob.to_string()).await {
            tracing::info!(%blob, error = %in_full(&error), "the blob stays in the store");
        }
    }
    threads::run(move || forget_guests(&dir)).await;
}

/// True if the data directory's own store has any blob.
fn keeps_something(data_dir: &Path) -> bool {
    let shards = std::fs::read_dir(data_dir.join("blobs")).into_iter().flatten().flatten();
    shards.into_iter().any(|shard| std::fs::read_dir(shard.path()).is_ok_and(|mut files| files.next().is_some()))
}

/// Removes `blob` from a room's store after its last reader has closed it. False, with a warning, if it is still read after all tries.
pub(crate) async fn remove(agent: &Agent, blob: BlobId) -> bool {
    let mut tries = 1;
    loop {
        let Err(error) = agent.remove(&blob.to_string()).await else { return true };
        if tries == MAX_REMOVALS {
            tracing::warn!(error = %in_full(&error), "the content stays in the store");
            return false;
        }
        tries += 1;
        tokio::time::sleep(REMOVAL_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_a_killed_get_left_is_cleared_after_some_days_unless_somebody_has_the_room() {
        let dir = tempfile::tempdir().unwrap();
        let room = |name: &str| dir.path().join("get").join(name);
        for name in ["mine", "young", "old", "locked"] {
            std::fs::create_dir_all(room(name).join("blobs/ab")).unwrap();
            std::fs::write(room(name).join("blobs/ab/x"), "left").unwrap();
            std::fs::write(room(name).join(LOCK), "").unwrap();
            note(&room(name), &[BlobId([1; 32])]);
        }
        let now = mtime(&room("mine").join(WANTED)).unwrap();
        let age = |name: &str, age: Duration| {
            for entry in left_in(&room(name)) {
                std::fs::File::open(entry.path()).unwrap().set_modified(now - age).unwrap();
            }
        };
        age("young", LEFTOVERS_KEPT_FOR / 2);
        age("old", LEFTOVERS_KEPT_FOR * 2);
        age("locked", LEFTOVERS_KEPT_FOR * 2);
        let locked = std::fs::File::open(room("locked").join(LOCK)).unwrap();
        flock(&locked, FlockOperation::LockExclusive).unwrap();
        clear_leftovers(dir.path(), &room("mine"));
        let left = |name: &str| room(name).join("blobs/ab/x").exists();
        assert_eq!(["mine", "young", "old", "locked"].map(left), [true, true, false, true]);
        assert!(room("old").join(LOCK).exists() && wanted(&room("old")).is_empty());
    }

    #[test]
    fn one_goes_where_one_was_interrupted_and_else_where_something_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (data, mine) = (dir.path(), BlobId([7; 32]));
        let first = |sources: &[BlobId], keep| candidates(data, sources, keep)[0].clone();
        assert_eq!(first(&[mine], false), data.join("get/0"));
        assert_eq!(candidates(data, &[mine], true), [data]);

        make(&data.join("get/3")).unwrap();
        note(&data.join("get/3"), &[BlobId([1; 32]), mine]);
        assert_eq!(first(&[mine], false), data.join("get/3"));
        assert_eq!(first(&[BlobId([2; 32])], false), data.join("get/0"));
        let list = std::fs::metadata(data.join("get/3").join(WANTED)).unwrap();
        assert_eq!(list.permissions().mode() & 0o777, 0o600, "what is fetched is nobody else's business");

        std::fs::create_dir_all(data.join("blobs/ab")).unwrap();
        assert_eq!(first(&[BlobId([2; 32])], false), data.join("get/0"), "an empty store is no reason to wait for it");
        std::fs::write(data.join("blobs/ab/x"), "").unwrap();
        assert_eq!(first(&[BlobId([2; 32])], false), data);
        assert_eq!(first(&[mine], false), data.join("get/3"));

        note(&data.join("get/3"), &[]);
        assert_eq!(first(&[mine], false), data);
    }
}
