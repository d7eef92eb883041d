//! A layer's file mounted as EROFS, read-only. Blocking, and for root alone.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount as kernel_mount};
use thiserror::Error;

/// How a layer is mounted on which containers run: programs in it may have all rights that a container has.
pub const EXECUTABLE: MountFlags = MountFlags::RDONLY;

/// How one is mounted that people look into: setuid files and device nodes in it mean nothing.
pub const INERT: MountFlags = MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV);

/// Why a layer could not be mounted.
#[derive(Debug, Error)]
pub enum MountFailure {
    /// The kernel does not know EROFS.
    #[error(
        "this kernel has no EROFS: load it with `modprobe erofs`, or take a kernel with CONFIG_EROFS_FS (5.4 and later have it)"
    )]
    NoErofs,
    /// It wants a device, and `mount` makes none.
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
    match kernel_mount(file, at, "erofs", flags, None) {
        Ok(()) => Ok(()),
        Err(Errno::NODEV) => Err(MountFailure::NoErofs),
        // Before Linux 6.12 only a device can be mounted; this one may have been built so.
        Err(Errno::NOTBLK) => by_loop_device(file, at, flags),
        Err(error) => Err(MountFailure::Failed(at.to_owned(), error.into())),
    }
}

/// True if the kernel knows EROFS, or has loaded it now. `dir` is a directory at which it is tried; it is made.
pub fn is_known(dir: &Path) -> bool {
    let _ = std::fs::create_dir(dir);
    // There is nothing to be mounted, so it never is.
    kernel_mount("/dev/null", dir, "erofs", EXECUTABLE, None) != Err(Errno::NODEV)
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
