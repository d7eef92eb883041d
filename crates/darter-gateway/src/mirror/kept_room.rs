//! A small file that can be replaced even on a full disk, because another file reserves space for it.
//!
//! If there is no space for the new content, the other file is deleted to make space. It is created again once there is space: at the latest, replacing the
//! content frees as much as the old content took. Blocking.

use std::io::{self, ErrorKind};

use darter_store::Dir;

/// The minimum of reserved bytes, and the step in which they grow.
const STEP: usize = 64 << 10;

/// The names of a file, of the temporary file for new content, and of the file that reserves space.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    pub(super) file: &'static str,
    pub(super) temporary: &'static str,
    pub(super) room: &'static str,
}

/// Replaces a file's content, durably.
///
/// # Errors
/// If the system refuses although the reserved space was used; the old content then stays.
pub(super) fn replace(dir: &Dir, names: Names, content: &[u8]) -> io::Result<()> {
    let write = || dir.replace(names.file, names.temporary, &[content], true);
    let written = match write() {
        Err(error) if is_full(&error) && dir.remove(names.room)? => write(),
        written => written,
    };
    keep(dir, names, content.len());
    written
}

/// Reserves `2 * length` bytes, or `length` bytes, if there is space for that.
pub(super) fn keep(dir: &Dir, names: Names, length: usize) {
    let there = dir.look(names.room).ok().flatten().map_or(0, |look| look.length);
    for wanted in [2 * length, length].map(|length| length.max(1).next_multiple_of(STEP)) {
        if there >= wanted as u64 {
            return;
        }
        // If there is no space for this size, a smaller existing file stays.
        if dir.replace(names.room, names.temporary, &[&vec![0; wanted]], false).is_ok() {
            return;
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
