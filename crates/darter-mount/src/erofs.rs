//! A layer's file mounted as EROFS, read-only. Blocking, and for root alone.
//!
//! The kernel may read a file past that file's own page cache (`directio`): without a second copy of everything in memory, and ahead of
//! readers as from a device, as far as in files of the disk below (`read_ahead`). It is asked for where the kernel does so without harm (`is_sound`), where the file system below says that it can (`is_direct`), and only of a
//! file of which next to nothing is in memory: a layer that came a moment ago is read faster from there. Never of a file of FUSE: [the directory of layers](crate::layers) has it read past its page cache in any case.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use darter_kernel::cached::{Cached, cached};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, fstat, major, minor, statfs, statx};
use rustix::io::Errno;
use rustix::mount::{FsPickFlags, MountFlags, fsconfig_reconfigure, fsconfig_set_flag, fspick, mount as kernel_mount};
use rustix::system::uname;
use thiserror::Error;

use crate::read_ahead;

/// How a layer is mounted on which containers run: programs in it may have all rights that a container has.
pub const EXECUTABLE: MountFlags = MountFlags::RDONLY;

/// How one is mounted that people look into: setuid files and device nodes in it mean nothing.
pub const INERT: MountFlags = MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV);

/// The unit in which the kernel reads a layer: blocks of EROFS, whose places are those of a tar's members.
const BLOCK: u32 = 512;

/// A file is read past the page cache if less than one page in this many of it is there.
const MIN_COLD: u64 = 16;

/// `FUSE_SUPER_MAGIC`.
const FUSE: u64 = 0x6573_5546;

/// Why a layer could not be mounted.
#[derive(Debug, Error)]
pub enum MountFailure {
    /// The kernel does not know EROFS.
    #[error(
        "this kernel has no EROFS: load it with `modprobe erofs`, or take a kernel with CONFIG_EROFS_FS (5.4 and later have it)"
    )]
    NoErofs,
    /// The kernel wants a device, and `mount` makes none.
    #[error("this kernel mounts EROFS from devices only (before Linux 6.12), and `mount -o loop` failed: {0}")]
    NoLoop(String),
    /// Anything else.
    #[error("can't mount a layer at {}: {}", .0.display(), .1)]
    Failed(PathBuf, io::Error),
}

/// Mounts a file, by way of a loop device where the kernel wants one: it goes with the mount.
///
/// # Errors
/// [`MountFailure`].
pub fn mount(file: &Path, at: &Path, flags: MountFlags) -> Result<(), MountFailure> {
    if suits(file) && kernel_mount(file, at, "erofs", flags, Some(c"directio")).is_ok() {
        // The layer is read without this setting as well, only slower.
        if let Err(error) = read_ahead::as_below(file, at) {
            tracing::debug!(%error, at = %at.display(), "how far a layer is read ahead is left to the kernel");
        }
        return Ok(());
    }
    match kernel_mount(file, at, "erofs", flags, None) {
        Ok(()) => Ok(()),
        Err(Errno::NODEV) => Err(MountFailure::NoErofs),
        // Before Linux 6.12 only a device can be mounted; this one may have been built so.
        Err(Errno::NOTBLK) => by_loop_device(file, at, flags),
        Err(error) => Err(MountFailure::Failed(at.to_owned(), error.into())),
    }
}

/// Has the kernel read a file past its page cache from now on that somebody mounted at `at` with no options, where that suits the file: true if it does. `device` is
/// the number of its file system's device: nothing is done to what is mounted there by now.
///
/// # Errors
/// Where the kernel refuses. How far it reads ahead is left to it then, or all is.
pub(crate) fn make_direct(file: &Path, at: &Path, device: (u32, u32)) -> io::Result<bool> {
    if !suits(file) {
        return Ok(false);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(at, flags, Mode::empty())?;
    let found = fstat(&root)?.st_dev;
    if (major(found), minor(found)) != device {
        return Ok(false);
    }
    // Of this file system alone: the flags of the mount, such as `nosuid`, stay.
    let picked = fspick(&root, c"", FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC)?;
    fsconfig_set_flag(&picked, "directio")?;
    fsconfig_reconfigure(&picked)?;
    read_ahead::as_below(file, at)?;
    Ok(true)
}

/// True if a file is to be read past its page cache.
fn suits(file: &Path) -> bool {
    goes_on() && is_direct(file) && is_cold(file)
}

/// True if the kernel knows EROFS, or has loaded it now. `dir` is a directory at which it is tried; it is made.
pub fn is_known(dir: &Path) -> bool {
    let _ = std::fs::create_dir(dir);
    // There is nothing to be mounted, so it never is.
    kernel_mount("/dev/null", dir, "erofs", EXECUTABLE, None) != Err(Errno::NODEV)
}

/// True if this kernel's EROFS bears it that its reads go on after the call that began them, as those past the page cache of a file do.
pub fn goes_on() -> bool {
    is_sound(&uname().release().to_string_lossy())
}

/// True if a kernel of this release reads so without harm. Those before may use memory that they freed, and crash (CVE-2026-23224). One whose builder mended it and
/// left its number is taken for one of these.
fn is_sound(release: &str) -> bool {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0_u32);
    match (next(), next(), next()) {
        (6, 12, patch) => patch >= 72,
        (6, 18, patch) => patch >= 11,
        (6, 19, patch) => patch >= 1,
        (major, ..) => major >= 7,
    }
}

/// True if the file system says that any block of this file can be read past the page cache.
fn is_direct(path: &Path) -> bool {
    let is_fuse = statfs(path).is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| kind == FUSE));
    let Ok(found) = statx(CWD, path, AtFlags::empty(), StatxFlags::DIOALIGN) else { return false };
    let tells = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::DIOALIGN);
    let suits = |unit: u32| (1..=BLOCK).contains(&unit) && BLOCK.is_multiple_of(unit);
    !is_fuse && tells && suits(found.stx_dio_mem_align) && suits(found.stx_dio_offset_align)
}

/// True if next to nothing of it is in memory, and all of it on the disk.
fn is_cold(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let (Ok(Cached { pages, unwritten: 0 }), Ok(about)) = (cached(&file, 0, 0), file.metadata()) else { return false };
    pages * rustix::param::page_size() as u64 * MIN_COLD < about.len()
}

fn by_loop_device(file: &Path, at: &Path, flags: MountFlags) -> Result<(), MountFailure> {
    let options = if flags.contains(MountFlags::NOSUID) { "ro,loop,nosuid,nodev" } else { "ro,loop" };
    let ended = Command::new("mount").args(["-t", "erofs", "-o", options]).arg(file).arg(at).output();
    let ended = ended.map_err(|error| MountFailure::NoLoop(format!("`mount` can't be run: {error}")))?;
    if ended.status.success() {
        return Ok(());
    }
    Err(MountFailure::NoLoop(String::from_utf8_lossy(&ended.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_may_crash_is_not_asked_to_read_past_the_page_cache() {
        for sound in ["6.12.72", "6.12.90-1-lts", "6.18.11", "6.18.44-x", "6.19.1+", "7.0.0-rc1", "7.0", "10.2.3"] {
            assert!(is_sound(sound), "{sound}");
        }
        for unsound in
            ["5.15.0-91-generic", "6.12.71", "6.14.0-37-generic", "6.17.13", "6.18.0", "6.18.10", "6.19.0", "6.19", ""]
        {
            assert!(!is_sound(unsound), "{unsound}");
        }
    }
}
