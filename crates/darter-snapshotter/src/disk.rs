//! Directories of snapshots, and mounts of layers. Blocking.

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use darter_mount::erofs::{self, EXECUTABLE, MountFailure};
use rustix::mount::{UnmountFlags, unmount};

use crate::stack::{self, File};
use crate::tree::Usage;

/// Creates a directory that only root may access.
pub(crate) fn private(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(0o700))
}

/// Creates the directories of a snapshot: `fs` for its files, with its parent's owner, and `work` for overlayfs.
pub(crate) fn make(dir: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    fs::create_dir(dir)?;
    for (name, mode) in [("fs", 0o755), ("work", 0o711)] {
        let inner = dir.join(name);
        fs::create_dir(&inner)?;
        // Independent of the umask.
        fs::set_permissions(&inner, Permissions::from_mode(mode))?;
    }
    if let Some((user, group)) = owner {
        std::os::unix::fs::lchown(dir.join("fs"), Some(user), Some(group))?;
    }
    fs::set_permissions(dir, Permissions::from_mode(0o700))
}

/// The owner of a directory.
pub(crate) fn owner(dir: &Path) -> io::Result<(u32, u32)> {
    fs::metadata(dir).map(|found| (found.uid(), found.gid()))
}

/// Removes a directory, or whatever else has this path. A missing path is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let removed = fs::symlink_metadata(path)
        .and_then(|found| if found.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) });
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The entries of `dir`: numbers, and other names.
pub(crate) fn numbers(dir: &Path) -> io::Result<(Vec<u64>, Vec<String>)> {
    let (mut numbers, mut others) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        match name.parse() {
            Ok(number) => numbers.push(number),
            Err(_) => others.push(name),
        }
    }
    Ok((numbers, others))
}

/// The space that a directory uses: each file once, also if it has several names.
pub(crate) fn usage(dir: &Path) -> io::Result<Usage> {
    let (mut usage, mut seen, mut pending) = (Usage::default(), HashSet::new(), vec![dir.to_owned()]);
    while let Some(path) = pending.pop() {
        let found = match fs::symlink_metadata(&path) {
            // A running container may remove files meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        if seen.insert((found.dev(), found.ino())) {
            usage.bytes += found.blocks() * 512;
            usage.inodes += 1;
        }
        if found.is_dir() {
            let entries = match fs::read_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                pending.push(entry?.path());
            }
        }
    }
    Ok(usage)
}

/// A layer's file, with all links followed: its identity for the kernel, and its length.
pub(crate) fn file(path: &Path) -> io::Result<(File, u64)> {
    let found = fs::metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other(format!("{} is not a file", path.display())));
    }
    Ok((File { device: found.dev(), inode: found.ino() }, found.len()))
}

/// Mounts a layer.
pub(crate) fn mount(file: &Path, at: &Path) -> Result<(), MountFailure> {
    fs::create_dir(at).map_err(|error| MountFailure::Failed(at.to_owned(), error))?;
    erofs::mount(file, at, EXECUTABLE).inspect_err(|_| drop(fs::remove_dir(at)))
}

/// True if something is mounted at this directory, and responds.
pub(crate) fn is_mounted(at: &Path) -> bool {
    let device = |dir: &Path| fs::metadata(dir).map(|found| found.dev());
    let around = at.parent().map(device);
    matches!((device(at), around), (Ok(its), Some(Ok(around))) if its != around)
}

/// Unmounts a mount that nothing uses yet.
pub(crate) fn take_away(at: &Path) -> io::Result<()> {
    // Something may have been mounted there more than once.
    while unmount(at, UnmountFlags::DETACH).is_ok() {}
    match fs::remove_dir(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The places below `layers` (a path without links) at which layers are mounted.
pub(crate) fn places(layers: &Path) -> io::Result<Vec<u64>> {
    let list = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(stack::places(&list, &layers.to_string_lossy()))
}

/// Removes the directories of places at which nothing is mounted. A directory that is not empty stays.
pub(crate) fn remove_empty(layers: &Path, places: impl Iterator<Item = u64>) {
    for place in places {
        if let Err(error) = fs::remove_dir(layers.join(place.to_string())) {
            tracing::warn!(dir = %layers.display(), place, %error, "can't remove the directory of a layer that is no longer mounted");
        }
    }
}

/// True if this process sees the host's mounts, as containerd does; also if that can't be found out.
pub(crate) fn sees_all_mounts() -> bool {
    let [own, first] = ["self", "1"].map(|process| fs::read_link(format!("/proc/{process}/ns/mnt")));
    !matches!((own, first), (Ok(own), Ok(first)) if own != first)
}

/// True if overlayfs supports the option to run without an index.
pub(crate) fn has_overlay_index() -> bool {
    Path::new("/sys/module/overlay/parameters/index").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let room = tempfile::tempdir().unwrap();
        let dir = room.path().join("1");
        make(&dir, None).unwrap();
        let written = dir.join("fs/a");
        fs::write(&written, vec![1; 10_000]).unwrap();
        let one = usage(&dir.join("fs")).unwrap();
        assert!(one.bytes >= 10_000 && one.inodes == 2, "{one:?}");
        fs::hard_link(&written, dir.join("fs/b")).unwrap();
        std::os::unix::fs::symlink("/", dir.join("fs/c")).unwrap();
        let two = usage(&dir.join("fs")).unwrap();
        assert_eq!(two.inodes, 3, "links are not followed");
        assert_eq!(fs::metadata(dir.join("work")).unwrap().mode() & 0o777, 0o711);
        fs::create_dir(room.path().join("new-x")).unwrap();
        assert_eq!(numbers(room.path()).unwrap(), (vec![1], vec!["new-x".to_owned()]));
        remove(&dir).unwrap();
        remove(&dir).unwrap();
        let outside = room.path().join("outside");
        fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, &dir).unwrap();
        remove(&dir).unwrap();
        assert!(outside.exists() && dir.symlink_metadata().is_err(), "a link is removed, and nothing behind it");
    }
}
