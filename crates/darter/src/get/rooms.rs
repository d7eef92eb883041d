//! Where a get without a daemon keeps what it reads: a store has one process at a time, so gets that run side by side need
//! several.
//!
//! There is the store of the data directory, which a daemon would have, and there are rooms beside it, `DATA_DIR/get/N`: each
//! a store of its own, used by whoever finds it free. A get goes to the room where an earlier one with the same URL was
//! interrupted; else to the data directory's store if anything is kept there; else to the first free room. With `--keep` only
//! the data directory's store will do.
//!
//! A room's file `wanted` lists the keys of the sources that were begun there and are not done, one a line. It is written by
//! the process that has the room's lock, and read by everybody.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use darter_core::BlobId;
use darter_store::Dir;

/// More gets side by side than this wait for each other.
const MAX_ROOMS: u32 = 256;

const WANTED: &str = "wanted";
const NEW_WANTED: &str = "wanted.new";

/// Directories to try, in order, for a get of these sources.
pub(super) fn candidates(data_dir: &Path, sources: &[BlobId], keep: bool) -> Vec<PathBuf> {
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

/// Makes a room that is not there yet, for its owner alone.
pub(super) fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Writes down what is being fetched in a room and not done: nothing, at the end.
pub(super) fn note(dir: &Path, sources: &[BlobId]) {
    let written = Dir::open(dir).map_err(io::Error::other).and_then(|dir| {
        if sources.is_empty() {
            return dir.remove(WANTED).map(drop);
        }
        let lines: String = sources.iter().map(|source| format!("{source}\n")).collect();
        dir.replace(WANTED, NEW_WANTED, &[lines.as_bytes()], false)
    });
    // What can't be written makes a later get begin anew, which is no reason to fail this one.
    if let Err(error) = written {
        tracing::debug!(%error, "could not note what is being fetched");
    }
}

fn wanted(dir: &Path) -> Vec<BlobId> {
    let text = std::fs::read_to_string(dir.join(WANTED)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Whether the data directory's own store has any blob.
fn keeps_something(data_dir: &Path) -> bool {
    let shards = std::fs::read_dir(data_dir.join("blobs")).into_iter().flatten().flatten();
    shards.into_iter().any(|shard| std::fs::read_dir(shard.path()).is_ok_and(|mut files| files.next().is_some()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

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
