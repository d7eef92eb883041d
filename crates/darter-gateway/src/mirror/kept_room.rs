//! A small file that is replaced on a full disk, too: another file keeps room for it.
//!
//! When there is no space for the new content, that other file goes and makes room; it comes back once there is space again: at the latest, replacing the
//! content gives back as much as the old content took. Blocking.

use std::io::{self, ErrorKind};

use darter_store::Dir;

/// The least room that is kept, and the step in which it grows.
const STEP: usize = 64 << 10;

/// The names of a file, of the one that new content is written to first, and of the one that keeps room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    pub(super) file: &'static str,
    pub(super) temporary: &'static str,
    pub(super) room: &'static str,
}

/// Replaces a file's content, durably.
///
/// # Errors
/// When the system refuses, though the room was made use of; the old content stands then.
pub(super) fn replace(dir: &Dir, names: Names, content: &[u8]) -> io::Result<()> {
    let write = || dir.replace(names.file, names.temporary, &[content], true);
    let written = match write() {
        Err(error) if is_full(&error) && dir.remove(names.room)? => write(),
        written => written,
    };
    keep(dir, names, content.len());
    written
}

/// Keeps room for `2 * length` bytes, or for `length`, if there is space for that.
pub(super) fn keep(dir: &Dir, names: Names, length: usize) {
    let there = dir.look(names.room).ok().flatten().map_or(0, |look| look.length);
    for wanted in [2 * length, length].map(|length| length.max(1).next_multiple_of(STEP)) {
        if there >= wanted as u64 {
            return;
        }
        // A smaller file stays if there is no space for this one.
        if dir.replace(names.room, names.temporary, &[&vec![0; wanted]], false).is_ok() {
            return;
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
