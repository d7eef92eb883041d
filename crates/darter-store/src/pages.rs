//! The page cache: which bytes of a file are in memory, so that a piece that is about to be sent waits for no disk.
//!
//! The kernel reads ahead 128 KiB at the least, so one byte in as many tells whether they are in memory. They may be gone
//! a moment later; then whoever sends them waits for the disk, as anybody may who uses memory that is short.

use std::fs::File;
use std::io;

use darter_core::ByteRange;
use rustix::io::{Errno, ReadWriteFlags};

const READ_AHEAD: u64 = 128 * 1024;

/// The stretches of a range, [`READ_AHEAD`] each.
fn stretches(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let starts = (range.start()..range.end()).step_by(READ_AHEAD as usize);
    starts.map(move |start| ByteRange::new(start, (start + READ_AHEAD).min(range.end())))
}

/// True if the last byte of a stretch is in memory. A file system that does not know the question is in memory itself, or is not worth
/// asking.
fn is_in_memory(file: &File, stretch: ByteRange) -> bool {
    let mut byte = [0];
    let mut byte = [io::IoSliceMut::new(&mut byte)];
    let last = stretch.end() - 1;
    rustix::io::preadv2(file, &mut byte, last, ReadWriteFlags::NOWAIT) != Err(Errno::AGAIN)
}

/// Up to where a range is in memory, from its beginning on. Reads nothing from the disk.
pub(crate) fn in_memory(file: &File, range: ByteRange) -> u64 {
    let absent = stretches(range).find(|stretch| !is_in_memory(file, *stretch));
    absent.map_or(range.end(), |stretch| stretch.start())
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
        assert_eq!(in_memory(&file, ByteRange::new(1, 3 * READ_AHEAD)), 3 * READ_AHEAD);
    }
}
