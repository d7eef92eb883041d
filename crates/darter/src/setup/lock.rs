//! Lets one run change files at a time: the ledger's directory is locked (`flock`) before the first file is read, until the last one is written.
//! A directory that was created for the lock is removed with it if it is empty.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};

use super::tree::{Access, Tree};

/// How often to try to lock, and the pause between tries: a run takes less than a second.
const MAX_TURNS: u32 = 50;
const TURN: Duration = Duration::from_millis(100);

/// Held during a run.
#[derive(Debug)]
pub(crate) struct Lock<'a> {
    tree: &'a Tree,
    made: Vec<PathBuf>,
    _directory: File,
}

impl<'a> Lock<'a> {
    /// Waits a few seconds for another run to end.
    pub(crate) fn take(tree: &'a Tree, book: &Path) -> anyhow::Result<Self> {
        Self::take_within(tree, book, MAX_TURNS)
    }

    fn take_within(tree: &'a Tree, book: &Path, turns: u32) -> anyhow::Result<Self> {
        let directory = book.parent().unwrap_or(Path::new("/"));
        for turn in 0..turns {
            if turn > 0 {
                thread::sleep(TURN);
            }
            let made = match tree.make_directories(book, Access::PRIVATE) {
                // Another run is creating or removing them at this moment.
                Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => continue,
                made => made.with_context(|| super::cant_write(tree, book))?,
            };
            let locked = lock(&tree.resolve(directory)?).with_context(|| {
                format!("can't lock {}, so that one run changes files at a time", directory.display())
            })?;
            if let Some(directory) = locked {
                return Ok(Self { tree, made, _directory: directory });
            }
        }
        anyhow::bail!(
            "another `darter setup` is running and has locked {}: run this again when it has ended",
            directory.display()
        )
    }

    /// The directories that were created, outermost first.
    pub(crate) fn made(&self) -> &[PathBuf] {
        &self.made
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        self.made.iter().rev().for_each(|directory| self.tree.remove_if_empty(directory));
    }
}

/// The locked directory; `None` if another run has locked it, or has removed it after it was opened.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let found = File::open(path).and_then(|directory| {
        flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
        let (own, named) = (directory.metadata()?, fs::metadata(path)?);
        Ok(((own.dev(), own.ino()) == (named.dev(), named.ino())).then_some(directory))
    });
    match found {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotFound) => Ok(None),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_is_refused_while_the_first_one_lives_and_nothing_is_left_of_either() {
        let room = tempfile::tempdir().unwrap();
        let (tree, book) = (Tree::new(room.path().to_owned()), Path::new("/var/own/book"));
        let first = Lock::take(&tree, book).unwrap();
        assert_eq!(first.made(), [PathBuf::from("/var"), "/var/own".into()]);
        let refused = Lock::take_within(&tree, book, 2).unwrap_err().to_string();
        assert!(refused.contains("/var/own") && refused.contains("run this again"), "{refused}");
        drop(first);
        assert!(!room.path().join("var").exists());
        drop(Lock::take_within(&tree, book, 1).unwrap());
    }
}
