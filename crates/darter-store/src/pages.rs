//! The page cache: finds out which bytes of a file are in memory, so that sending a piece does not wait for the disk.
//!
//! The kernel reads ahead at least 128 KiB, so one byte of each 128 KiB shows whether all of them are in memory. They may be gone a moment later; then the sender waits for the disk.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use darter_core::ByteRange;
use rustix::io::{Errno, ReadWriteFlags};

const READ_AHEAD: u64 = 128 * 1024;

/// The stretches of a range, [`READ_AHEAD`] bytes each.
fn stretches(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let starts = (range.start()..range.end()).step_by(READ_AHEAD as usize);
    starts.map(move |start| ByteRange::new(start, (start + READ_AHEAD).min(range.end())))
}

/// Asks the kernel whether bytes of files are in memory. If a file system does not support the question, it is asked only once: it is in memory itself (tmpfs), or does
/// not matter.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    unknown: AtomicBool,
}

impl Pages {
    /// The end of the part of `range`, from its start on, that is in memory. Reads nothing from the disk.
    pub(crate) fn in_memory(&self, file: &File, range: ByteRange) -> u64 {
        let absent = stretches(range).find(|stretch| !self.has(file, *stretch));
        absent.map_or(range.end(), |stretch| stretch.start())
    }

    /// True if the last byte of a stretch is in memory.
    fn has(&self, file: &File, stretch: ByteRange) -> bool {
        if self.unknown.load(Ordering::Relaxed) {
            return true;
        }
        let mut byte = [0];
        let mut byte = [io::IoSliceMut::new(&mut byte)];
        match rustix::io::preadv2(file, &mut byte, stretch.end() - 1, ReadWriteFlags::NOWAIT) {
            Err(Errno::AGAIN) => false,
            Err(Errno::OPNOTSUPP) => {
                self.unknown.store(true, Ordering::Relaxed);
                true
            }
            _ => true,
        }
    }
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
        assert_eq!(Pages::default().in_memory(&file, ByteRange::new(1, 3 * READ_AHEAD)), 3 * READ_AHEAD);
    }

    #[test]
    fn a_file_system_that_does_not_know_is_asked_once() {
        let Ok(file) = tempfile::tempfile_in("/dev/shm") else { return eprintln!("skipped: no /dev/shm") };
        file.set_len(2 * READ_AHEAD).unwrap();
        let pages = Pages::default();
        assert_eq!(pages.in_memory(&file, ByteRange::new(0, 2 * READ_AHEAD)), 2 * READ_AHEAD);
        let mut byte = [0];
        let asked = rustix::io::preadv2(&file, &mut [io::IoSliceMut::new(&mut byte)], 0, ReadWriteFlags::NOWAIT);
        assert_eq!(pages.unknown.load(Ordering::Relaxed), asked == Err(Errno::OPNOTSUPP));

        let disk = tempfile::tempfile().unwrap();
        disk.set_len(READ_AHEAD).unwrap();
        let cold = Pages::default().in_memory(&disk, ByteRange::new(0, READ_AHEAD));
        let known = Pages { unknown: AtomicBool::new(true) };
        assert!(cold <= known.in_memory(&disk, ByteRange::new(0, READ_AHEAD)));
        assert_eq!(known.in_memory(&disk, ByteRange::new(0, READ_AHEAD)), READ_AHEAD);
    }
}
