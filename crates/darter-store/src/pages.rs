//! The page cache: which bytes of a file are in memory, so that a piece that is about to be sent waits for no disk.
//!
//! The kernel reads ahead 128 KiB at the least, so one byte in as many tells whether they are in memory. They may be gone
//! a moment later; then their sender waits for the disk, as anybody may who uses memory that is short.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use darter_core::ByteRange;
use rustix::io::{Errno, ReadWriteFlags};

const READ_AHEAD: u64 = 128 * 1024;

/// The stretches of a range, [`READ_AHEAD`] each.
fn stretches(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let starts = (range.start()..range.end()).step_by(READ_AHEAD as usize);
    starts.map(move |start| ByteRange::new(start, (start + READ_AHEAD).min(range.end())))
}

/// Asks where a file's bytes are. A file system that does not know the question (tmpfs) is in memory itself, or is not worth asking: it is
/// asked once.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    unknown: AtomicBool,
}

impl Pages {
    /// Up to where a range is in memory, from its beginning on. Reads nothing from the disk.
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
