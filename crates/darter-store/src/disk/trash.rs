//! The trash: the directory in which a store's files are made before they have their place, and to which they go before they are deleted.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::dir::Dir;

/// Files that are about to be deleted, or are not in their place yet. Emptied at each start.
pub(crate) struct Trash {
    pub(super) dir: Dir,
    /// Names the next file.
    next: AtomicU64,
}

impl Trash {
    /// In this directory.
    pub(super) const fn in_dir(dir: Dir) -> Self {
        Self { dir, next: AtomicU64::new(0) }
    }

    pub(super) fn name(&self) -> String {
        self.next.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// Makes an empty file that can be put into its place later; returns its name, too.
    pub(crate) fn create(&self) -> io::Result<(std::fs::File, String)> {
        let name = self.name();
        Ok((self.dir.create(&name)?, name))
    }

    /// Puts a file into its place.
    pub(crate) fn place(&self, name: &str, dir: &Dir, new: &str) -> io::Result<()> {
        self.dir.rename(name, dir, new)
    }
}
