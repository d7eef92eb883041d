//! Sets how far the kernel reads ahead in a layer that it reads past the page cache of its file. Blocking; only root may do this.
//!
//! EROFS over a file has a read-ahead of its own, 128 KiB, whatever the disk's is. In a complete layer it is set to that of other files of the same disk: nothing is fetched for it, it ends
//! with each file in the layer, and a page fault reads no more than it would in a file of that disk. If EROFS reads through the page cache of the layer's file, that file is read ahead as
//! the disk says, and a longer read-ahead in the layer gains little; in a virtual file, what is read ahead has to be fetched, until the layer is complete.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use darter_kernel::sysfs;
use rustix::fs::{major, minor};

use crate::session::MAX_READ;

/// Sets the read-ahead of the mount at `at` to that of the disk of `file`, which is mounted there; never reduces it.
///
/// # Errors
/// `file` is on no disk, or the kernel can't report or set the read-ahead (before Linux 6.9).
pub(crate) fn as_below(file: &Path, at: &Path) -> io::Result<()> {
    let below = read(&of_disk(fs::metadata(file)?.dev())?)?;
    let own = of_mounted(&sysfs::name(&File::open(at)?)?)?;
    if below > read(&own)? {
        fs::write(own, below.to_string())?;
    }
    Ok(())
}

/// Sets the read-ahead of the mount at `at`, of a virtual file that is complete by now, to what one request can ask for; never reduces it.
/// More would turn one read into two requests. `device` is the number of its file system's device: if something else is mounted there by now, nothing is changed.
///
/// # Errors
/// The same as of [`as_below`].
pub(crate) fn by_questions(at: &Path, device: (u32, u32)) -> io::Result<()> {
    let root = File::open(at)?;
    let found = root.metadata()?.dev();
    if (major(found), minor(found)) != device {
        return Ok(());
    }
    let (own, most) = (of_mounted(&sysfs::name(&root)?)?, u64::from(MAX_READ >> 10));
    if most > read(&own)? {
        fs::write(own, most.to_string())?;
    }
    Ok(())
}

/// The sysfs file with the read-ahead of a disk, or of a partition's disk, in KiB.
fn of_disk(device: u64) -> io::Result<PathBuf> {
    let disk = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
    let places = ["queue/read_ahead_kb", "../queue/read_ahead_kb"].map(|place| disk.join(place));
    places.into_iter().find(|place| place.exists()).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The sysfs file with the read-ahead of an EROFS without a device, in KiB. `name` is its name in sysfs.
fn of_mounted(name: &str) -> io::Result<PathBuf> {
    let own = name.strip_prefix("erofs/").ok_or(io::ErrorKind::NotFound)?;
    Ok(Path::new("/sys/class/bdi").join(own).join("read_ahead_kb"))
}

fn read(place: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(place)?;
    text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
