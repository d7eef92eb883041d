//! The trash: the directory in which a store's files are created before they are moved to their place, and to which they are moved before they are deleted.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::dir::Dir;

/// Files that are about to be deleted, or are not in their place yet. Emptied at each start.
pub(crate) struct Trash {
    pub(super) dir: Dir,
    /// The number that names the next file.
    next: AtomicU64,
}

impl Trash {
    /// The trash in this directory.
    pub(super) const fn in_dir(dir: Dir) -> Self {
        Self { dir, next: AtomicU64::new(0) }
    }

    pub(super) fn name(&self) -> String {
        self.next.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// Creates an empty file that can be moved to its place later; also returns its name.
    pub(crate) fn create(&self) -> io::Result<(std::fs::File, String)> {
        let name = self.name();
        Ok((self.dir.create(&name)?, name))
    }

    /// Moves a file to its place.
    pub(crate) fn place(&self, name: &str, dir: &Dir, new: &str) -> io::Result<()> {
        self.dir.rename(name, dir, new)
    }
}
