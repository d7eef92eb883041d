//! The page cache: finds out which bytes of a file are in memory, so that sending a piece does not wait for the disk.
//!
//! The kernel reads ahead at least 128 KiB, so one byte of each 128 KiB shows whether all of them are in memory. They may be gone a moment later; then the sender waits for the disk.

use std::fs::File;
use std::io;
use std::sync::OnceLock;

use darter_core::ByteRange;
use rustix::io::{Errno, ReadWriteFlags};

const READ_AHEAD: u64 = 128 * 1024;

/// The magic numbers of tmpfs and ramfs (statfs(2)).
const MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// The stretches of a range, [`READ_AHEAD`] bytes each.
fn stretches(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let starts = (range.start()..range.end()).step_by(READ_AHEAD as usize);
    starts.map(move |start| ByteRange::new(start, (start + READ_AHEAD).min(range.end())))
}

/// Asks the kernel whether bytes of one file are in memory. A file system may not support the question (NFS, FUSE, older tmpfs): then one that is in memory
/// itself has all bytes there, and of others nothing is known to be in memory.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    /// Where the question is not supported: true if the file system is in memory.
    assumed: OnceLock<bool>,
}

impl Pages {
    /// The end of the part of `range`, from its start on, that is known to be in memory. Reads nothing from the disk. If `may_wait`, it may ask a server what kind of
    /// file system this is.
    pub(crate) fn in_memory(&self, file: &File, range: ByteRange, may_wait: bool) -> u64 {
        let absent = stretches(range).find(|stretch| !self.has(file, *stretch, may_wait));
        absent.map_or(range.end(), |stretch| stretch.start())
    }

    /// True if the last byte of a stretch is in memory.
    fn has(&self, file: &File, stretch: ByteRange, may_wait: bool) -> bool {
        if let Some(assumed) = self.assumed.get() {
            return *assumed;
        }
        let mut byte = [0];
        let mut byte = [io::IoSliceMut::new(&mut byte)];
        let asked = rustix::io::preadv2(file, &mut byte, stretch.end() - 1, ReadWriteFlags::NOWAIT);
        match answer(asked) {
            Some(answer) => answer,
            None if may_wait => *self.assumed.get_or_init(|| is_of_memory(file)),
            None => false,
        }
    }
}

/// The meaning of the kernel's answer; `None` if the file system does not support the question.
const fn answer(asked: Result<usize, Errno>) -> Option<bool> {
    match asked {
        Ok(_) => Some(true),
        Err(Errno::OPNOTSUPP) => None,
        // Bytes that have to be read first, and anything that is not understood.
        Err(_) => Some(false),
    }
}

/// True if a file's file system keeps all bytes in memory.
fn is_of_memory(file: &File) -> bool {
    // A magic number has 32 bits, whatever the width and sign of the field.
    rustix::fs::fstatfs(file).is_ok_and(|found| MEMORY.contains(&(found.f_type as u32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_looked_at_in_stretches_that_have_all_of_it() {
        let range = ByteRange::new(5, 5 + 2 * READ_AHEAD + 7);
        let bounds: Vec<_> = stretches(range).map(|stretch| (stretch.start(), stretch.end())).collect();
        assert_eq!(
            bounds,
            [(5, 5 + READ_AHEAD), (5 + READ_AHEAD, 5 + 2 * READ_AHEAD), (5 + 2 * READ_AHEAD, range.end())]
        );
        assert_eq!(stretches(ByteRange::new(9, 9)).count(), 0);
    }

    #[test]
    fn what_was_just_written_is_in_memory() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 * READ_AHEAD).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; 3 * READ_AHEAD as usize], 0).unwrap();
        assert_eq!(Pages::default().in_memory(&file, ByteRange::new(1, 3 * READ_AHEAD), false), 3 * READ_AHEAD);
    }

    #[test]
    fn only_an_answer_counts_as_one() {
        assert_eq!(
            (answer(Ok(1)), answer(Err(Errno::AGAIN)), answer(Err(Errno::OPNOTSUPP))),
            (Some(true), Some(false), None)
        );
        for refusal in [Errno::INTR, Errno::IO, Errno::NOSYS, Errno::INVAL, Errno::STALE] {
            assert_eq!(answer(Err(refusal)), Some(false), "{refusal}");
        }
    }

    #[test]
    fn all_bytes_of_a_file_system_in_memory_are_in_memory() {
        let Ok(file) = tempfile::tempfile_in("/dev/shm") else { return eprintln!("skipped: no /dev/shm") };
        file.set_len(2 * READ_AHEAD).unwrap();
        assert!(is_of_memory(&file));
        let pages = Pages::default();
        assert_eq!(pages.in_memory(&file, ByteRange::new(0, 2 * READ_AHEAD), true), 2 * READ_AHEAD);
        assert_eq!(pages.in_memory(&file, ByteRange::new(0, 2 * READ_AHEAD), false), 2 * READ_AHEAD);
    }

    /// Of the kernel's own files none supports the question, as on NFS and FUSE.
    #[test]
    fn where_the_question_is_not_supported_nothing_is_in_memory() {
        let Ok(file) = File::open("/proc/self/status") else { return eprintln!("skipped: no /proc") };
        let mut byte = [0];
        let asked = rustix::io::preadv2(&file, &mut [io::IoSliceMut::new(&mut byte)], 0, ReadWriteFlags::NOWAIT);
        assert_eq!(asked, Err(Errno::OPNOTSUPP));
        assert!(!is_of_memory(&file));
        let pages = Pages::default();
        assert_eq!(pages.in_memory(&file, ByteRange::new(0, 9), false), 0);
        assert_eq!(pages.assumed.get(), None, "a server may have to be asked: not on any thread");
        for may_wait in [true, false] {
            assert_eq!(pages.in_memory(&file, ByteRange::new(0, 9), may_wait), 0);
            assert_eq!(pages.assumed.get(), Some(&false), "asked once");
        }
    }
}
