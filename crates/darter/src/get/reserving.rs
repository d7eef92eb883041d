//! Reserves space for a file before anything is read for it.
//!
//! | file system | how |
//! |---|---|
//! | keeps files on a disk | the kernel reserves blocks (`fallocate`), which no other program can take |
//! | keeps files in memory (tmpfs) | downloads of this command count the bytes that each has still to write |
//!
//! Reserving memory would fill it with pages, which are out of the CPU's caches when they are written later: that costs more than writing
//! alone (docs/notes/handing-over.md). *Limit:* another process may take memory that was only counted; then writing fails, and the store
//! keeps what has arrived.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::LazyLock;

use darter_core::{Blame, Fault, Retry};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate, fstatfs, fstatvfs};
use rustix::io::Errno;

use crate::failure::Failure;
use crate::units;

/// The file system type that `statfs` reports for a tmpfs.
const TMPFS: i64 = 0x0102_1994;

/// For each device, the bytes of memory that downloads of this command have still to write. Locked during any reservation: if several
/// downloads took the last space of a disk at the same time, each would find the disk full although there is space for some of them.
static PROMISED: LazyLock<Mutex<HashMap<u64, u64>>> = LazyLock::new(Mutex::default);

/// Space that is reserved for a file. Dropping it releases what was not written.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    device: u64,
    /// Bytes that are counted for this file; zero if blocks are reserved.
    bytes: u64,
}

impl Reserved {
    /// Reserves space for `length` bytes of `file`, which is in `directory`, if `needed` bytes are free there.
    pub(super) fn keep(file: &File, directory: &Path, length: u64, needed: u64) -> anyhow::Result<Self> {
        let mut promised = PROMISED.lock();
        let (free, device) = (room_at(file), file.metadata().map(|found| found.dev()).unwrap_or_default());
        let free = free.map(|free| free.saturating_sub(promised.get(&device).copied().unwrap_or(0)));
        check_room(directory, needed, free)?;
        if is_in_memory(file) {
            *promised.entry(device).or_default() += length;
            return Ok(Self { device, bytes: length });
        }
        // Other errors mean that the file system can't reserve blocks.
        if let Err(Errno::NOSPC | Errno::DQUOT) = fallocate(file, FallocateFlags::KEEP_SIZE, 0, length) {
            check_room(directory, length, Some(free.unwrap_or(0).min(length.saturating_sub(1))))?;
        }
        Ok(Self::default())
    }

    /// All but `bytes` bytes are written, and these no longer count as reserved.
    pub(super) fn has_left(&mut self, bytes: u64) {
        if bytes < self.bytes {
            let mut promised = PROMISED.lock();
            if let Some(all) = promised.get_mut(&self.device) {
                *all -= self.bytes - bytes;
            }
            self.bytes = bytes;
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.has_left(0);
    }
}

#[allow(clippy::unnecessary_cast, reason = "the type is as wide as the machine's words")]
fn is_in_memory(file: &File) -> bool {
    fstatfs(file).is_ok_and(|found| found.f_type as i64 == TMPFS)
}

/// Bytes that are free for this user on the file system of `file`.
fn room_at(file: &File) -> Option<u64> {
    let space = fstatvfs(file).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Bytes that would be free for this user if `file` were emptied.
pub(super) fn room_for_all_of(file: &File) -> Option<u64> {
    let freed = file.metadata().ok()?.blocks() * 512;
    Some(room_at(file)?.saturating_add(freed))
}

/// Fails if `free` is less than `needed` bytes.
pub(super) fn check_room(directory: &Path, needed: u64, free: Option<u64>) -> anyhow::Result<()> {
    match free {
        Some(free) if free < needed => {
            let text = format!(
                "no room for {} in {}: {} are free; free some space, or choose another place with -o",
                units::size(needed),
                directory.display(),
                units::size(free)
            );
            Err(Failure::Judged { text, blame: Blame::new(Fault::Disk, Retry::Never) }.into())
        }
        _ => Ok(()),
    }
}

/// The error for a file system that became full while the file was written.
pub(super) fn no_room_left(path: &Path) -> anyhow::Error {
    let text = format!("no room for the rest of {}: free some space, or choose another place with -o", path.display());
    Failure::Judged { text, blame: Blame::new(Fault::Disk, Retry::Never) }.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    /// Downloads of one command share a tmpfs as if each had reserved its own space, and release what they do not write.
    #[test]
    fn memory_is_counted_and_neither_promised_twice_nor_filled_before_it_is_written() {
        let there = Path::new("/dev/shm");
        let Ok(file) = tempfile::tempfile_in(there) else { return eprintln!("skipped: no /dev/shm") };
        if !is_in_memory(&file) {
            return eprintln!("skipped: /dev/shm is not in memory");
        }
        let most = room_at(&file).unwrap() / 5 * 3;
        let mut first = Reserved::keep(&file, there, most, most).unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), 0, "nothing is filled");
        let told = Reserved::keep(&file, there, most, most).unwrap_err().to_string();
        assert!(told.contains("no room for"), "{told}");
        file.write_all_at(&[1; 4096], 0).unwrap();
        first.has_left(most - 4096);
        assert!(Reserved::keep(&file, there, most, most).is_err(), "what is left counts still");
        drop(first);
        drop(Reserved::keep(&file, there, most, most).unwrap());
        assert_eq!(PROMISED.lock().get(&file.metadata().unwrap().dev()), Some(&0));
    }
}
