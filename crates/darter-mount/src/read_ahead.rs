//! How far the kernel reads ahead in a layer that it reads past the page cache of its file. Blocking, and for root alone.
//!
//! EROFS over a file has a read-ahead of its own, 128 KiB, whatever the disk has. A whole layer is read ahead as any file of its disk is: nothing is fetched by that, it ends
//! with each file in the layer, and a page fault brings no more than it would in a file of that disk. If EROFS reads by the page cache of the layer's file, that is read ahead as
//! the disk says, and more above it wins little; in a layer of the directory of layers, what is read ahead is fetched, until all of it is here.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use darter_kernel::sysfs;
use rustix::fs::{major, minor};

use crate::session::MAX_READ;

/// Reads ahead in what is mounted at `at` as far as in files of the disk that `file` is on, which is mounted there; never less far than before.
///
/// # Errors
/// Where `file` is on no disk, or the kernel does not tell (before Linux 6.9) or let say how far.
pub(crate) fn as_below(file: &Path, at: &Path) -> io::Result<()> {
    let below = read(&of_disk(fs::metadata(file)?.dev())?)?;
    let own = of_mounted(&sysfs::name(&File::open(at)?)?)?;
    if below > read(&own)? {
        fs::write(own, below.to_string())?;
    }
    Ok(())
}

/// Reads ahead in what is mounted at `at`, over a virtual file of which all is here by now, by as much as one question can ask for; never less far than before.
/// More would make two questions of one read. `device` is the number of its file system's device: nothing is done to what is mounted there by now.
///
/// # Errors
/// As [`as_below`].
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

/// The file with the read-ahead of a disk, or of the disk of a partition, in KiB.
fn of_disk(device: u64) -> io::Result<PathBuf> {
    let disk = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
    let places = ["queue/read_ahead_kb", "../queue/read_ahead_kb"].map(|place| disk.join(place));
    places.into_iter().find(|place| place.exists()).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The file with the read-ahead of an EROFS without a device, in KiB. `name` is its name in sysfs.
fn of_mounted(name: &str) -> io::Result<PathBuf> {
    let own = name.strip_prefix("erofs/").ok_or(io::ErrorKind::NotFound)?;
    Ok(Path::new("/sys/class/bdi").join(own).join("read_ahead_kb"))
}

fn read(place: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(place)?;
    text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
