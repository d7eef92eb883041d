//! Where the bytes of a file are in the device or file that its file system is on: `FS_IOC_FIEMAP`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// Extents that are asked for at a time.
const MAX_AT_A_TIME: usize = 32;

/// The last extent of a file.
const LAST: u32 = 1;

/// `_IOWR('f', 11, struct fiemap)`, on machines that number such calls as most do.
const FIEMAP: u64 = 3 << 30 | HEAD << 16 | 0x66 << 8 | 11;

/// The bytes of `struct fiemap` before its extents.
const HEAD: u64 = 32;

/// Bytes of a file that lie one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where they begin in the file.
    pub logical: u64,
    /// Where they begin in the device, or in the file that the file system is in.
    pub physical: u64,
    /// How many there are.
    pub length: u64,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Found {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    more_reserved: [u32; 3],
}

/// `struct fiemap`, with room for its extents.
#[repr(C)]
struct Question {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    found: [Found; MAX_AT_A_TIME],
}

/// The extents of a file, in order. Reads nothing of the file.
///
/// # Errors
/// Where the file system does not tell.
pub fn extents(file: &File) -> io::Result<Vec<Extent>> {
    if cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let (mut extents, mut start) = (Vec::new(), 0);
    loop {
        let mut question = Question {
            start,
            length: u64::MAX - start,
            flags: 0,
            mapped: 0,
            count: MAX_AT_A_TIME as u32,
            reserved: 0,
            found: [Found::default(); MAX_AT_A_TIME],
        };
        // SAFETY: the kernel reads one `struct fiemap` and writes it and at most `count` extents behind it, which have room there, and keeps no pointer to them. The
        // descriptor is open for as long as `file` is borrowed.
        let failed = unsafe { libc::ioctl(file.as_raw_fd(), FIEMAP as libc::Ioctl, &raw mut question) };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
        let found = question.found.get(..question.mapped as usize).unwrap_or_default();
        extents.extend(found.iter().map(|found| {
            let Found { logical, physical, length, .. } = *found;
            Extent { logical, physical, length }
        }));
        match found.last() {
            Some(last) if last.flags & LAST == 0 && last.logical + last.length > start => {
                start = last.logical + last.length;
            }
            _ => return Ok(extents),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn all_bytes_of_a_file_with_holes_are_somewhere_and_nothing_else_is() {
        let path = std::env::temp_dir().join(format!("darter-extents-{}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        // More stretches than are told at a time.
        const STRETCHES: u64 = 3 * MAX_AT_A_TIME as u64;
        for number in 0..STRETCHES {
            file.write_all_at(&[7; 4096], number << 20).unwrap();
        }
        file.sync_all().unwrap();
        let extents = match extents(&file) {
            Ok(extents) => extents,
            Err(error) => return eprintln!("skipped: fiemap: {error}"),
        };
        let is_there = |at: u64| extents.iter().any(|it| (it.logical..it.logical + it.length).contains(&at));
        for number in 0..STRETCHES {
            assert!(is_there(number << 20) && !is_there((number << 20) + (1 << 19)), "{number}: {extents:?}");
        }
    }
}
