//! Mounts a layer's file as EROFS, read-only. Blocking; only root may do this.
//!
//! The kernel can read a file past that file's own page cache (`directio`): without a second copy in memory, and with a read-ahead
//! as for a device, as long as for other files of the disk (`read_ahead`). This is used if the kernel does it without harm (`is_sound`), if the file system below supports it (`is_direct`), and only for a
//! file with hardly any pages in memory: a layer that was received a moment ago is read faster from there. Never for a file of FUSE: [the directory of layers](crate::layers) lets it be read past its page cache in any case.

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

/// The flags for a layer on which containers run: programs in it may have all rights that a container has.
pub const EXECUTABLE: MountFlags = MountFlags::RDONLY;

/// The flags for a layer that users look into: setuid files and device nodes in it have no effect.
pub const INERT: MountFlags = MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV);

/// The unit in which the kernel reads a layer: EROFS blocks, which match the alignment of a tar's members.
const BLOCK: u32 = 512;

/// A file is read past the page cache if fewer than one in this many of its pages are there.
const MIN_COLD: u64 = 16;

/// `FUSE_SUPER_MAGIC`.
const FUSE: u64 = 0x6573_5546;

/// Why a layer could not be mounted.
#[derive(Debug, Error)]
pub enum MountFailure {
    /// The kernel has no EROFS.
    #[error(
        "this kernel has no EROFS: load it with `modprobe erofs`, or take a kernel with CONFIG_EROFS_FS (5.4 and later have it)"
    )]
    NoErofs,
    /// The kernel needs a loop device, and `mount` could not make one.
    #[error("this kernel mounts EROFS from devices only (before Linux 6.12), and `mount -o loop` failed: {0}")]
    NoLoop(String),
    /// Any other failure.
    #[error("can't mount a layer at {}: {}", .0.display(), .1)]
    Failed(PathBuf, io::Error),
}

/// Mounts a file, with a loop device if the kernel needs one; the device is freed when the mount is gone.
///
/// # Errors
/// [`MountFailure`].
pub fn mount(file: &Path, at: &Path, flags: MountFlags) -> Result<(), MountFailure> {
    if suits(file) && kernel_mount(file, at, "erofs", flags, Some(c"directio")).is_ok() {
        // If this fails, the layer is only read more slowly.
        if let Err(error) = read_ahead::as_below(file, at) {
            tracing::debug!(%error, at = %at.display(), "the kernel's default read-ahead is used for a layer");
        }
        return Ok(());
    }
    match kernel_mount(file, at, "erofs", flags, None) {
        Ok(()) => Ok(()),
        Err(Errno::NODEV) => Err(MountFailure::NoErofs),
        // Before Linux 6.12 only a device can be mounted; later kernels may be built without this feature, too.
        Err(Errno::NOTBLK) => by_loop_device(file, at, flags),
        Err(error) => Err(MountFailure::Failed(at.to_owned(), error.into())),
    }
}

/// Lets the kernel read a file past its page cache from now on that was mounted at `at` without options, if that suits the file; then returns true. `device` is
/// the number of its file system's device: if something else is mounted there by now, nothing is changed.
///
/// # Errors
/// The kernel refuses. Then the read-ahead, or everything, stays as it was.
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
    // For this file system only: the mount's own flags, such as `nosuid`, stay.
    let picked = fspick(&root, c"", FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC)?;
    fsconfig_set_flag(&picked, "directio")?;
    fsconfig_reconfigure(&picked)?;
    read_ahead::as_below(file, at)?;
    Ok(true)
}

/// True if a file should be read past its page cache.
fn suits(file: &Path) -> bool {
    goes_on() && is_direct(file) && is_cold(file)
}

/// True if the kernel has EROFS, or has loaded it now. Tries a mount at `dir`, which is created.
pub fn is_known(dir: &Path) -> bool {
    let _ = std::fs::create_dir(dir);
    // There is nothing to mount, so this always fails, and the error says why.
    kernel_mount("/dev/null", dir, "erofs", EXECUTABLE, None) != Err(Errno::NODEV)
}

/// True if this kernel's EROFS supports asynchronous reads, which go on after the call that started them, as those past the page cache of a file do.
pub fn goes_on() -> bool {
    is_sound(&uname().release().to_string_lossy())
}

/// True if a kernel of this release reads in this way without harm. Earlier ones may use freed memory, and crash (CVE-2026-23224). A kernel with the fix
/// but an earlier number is treated as one of these.
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

/// True if hardly any of it is in memory, and all of it is on the disk.
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
