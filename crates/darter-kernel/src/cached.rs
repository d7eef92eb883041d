//! How much of a file is in the page cache: `cachestat`, of Linux 6.5 and later.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// The number of the call, which is one for all machines but a few old ones.
const CACHESTAT: libc::c_long = 451;

/// How much of a file is in the page cache, in pages of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cached {
    /// All of it.
    pub pages: u64,
    /// Those of them that are not on the disk yet.
    pub unwritten: u64,
}

/// `struct cachestat_range`.
#[repr(C)]
struct Range {
    start: u64,
    length: u64,
}

/// `struct cachestat`.
#[repr(C)]
#[derive(Default)]
struct Counts {
    cached: u64,
    dirty: u64,
    under_writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Counts the pages of a file that are in the page cache, of `length` bytes from `start` on; up to the file's end if `length` is zero. Reads nothing.
///
/// # Errors
/// Where the kernel does not know the call, does not answer it for files of this kind, or for this user.
pub fn cached(file: &File, start: u64, length: u64) -> io::Result<Cached> {
    if cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let range = Range { start, length };
    let mut counts = Counts::default();
    // SAFETY: the kernel reads one `struct cachestat_range` and writes one `struct cachestat`, which these are, and keeps neither pointer. The
    // descriptor is open for as long as `file` is borrowed.
    let failed = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut counts, 0) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Cached { pages: counts.cached, unwritten: counts.dirty + counts.under_writeback })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_was_written_is_in_the_page_cache() {
        let path = std::env::temp_dir().join(format!("darter-cached-{}", std::process::id()));
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        match cached(&file, 0, 0) {
            Ok(empty) => assert_eq!(empty, Cached::default()),
            Err(error) => return eprintln!("skipped: cachestat: {error}"),
        }
        file.write_all(&[1; 1 << 20]).unwrap();
        let pages = |start, length| cached(&file, start, length).unwrap().pages;
        assert!((1..=(1 << 20) / 4096).contains(&pages(0, 0)), "{}", pages(0, 0));
        assert_eq!((pages(0, 1), pages(1 << 20, 1)), (1, 0));
        file.sync_all().unwrap();
        assert_eq!(cached(&file, 0, 0).unwrap().unwritten, 0);
    }
}
