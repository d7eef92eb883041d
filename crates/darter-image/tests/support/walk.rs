//! A tree on a disk, in lines that can be compared: everything that a layer says of a file.

#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use darter_core::DigestHasher;

/// The entry at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub what: String,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    pub is_whiteout: bool,
    pub is_directory: bool,
}

/// Everything below a directory, itself as `.`, by name.
pub type Listing = BTreeMap<String, Found>;

pub fn walk(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut rest = vec![root.to_owned()];
    while let Some(path) = rest.pop() {
        let name = path.strip_prefix(root).unwrap().as_os_str();
        let name = if name.is_empty() { ".".to_owned() } else { name.as_bytes().escape_ascii().to_string() };
        let found = look(&path);
        if found.is_directory {
            rest.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        listing.insert(name, found);
    }
    listing
}

/// The differences between a mounted tree and the one that containerd unpacked, from the time `begun` on.
pub fn differences(name: &str, theirs: &Listing, ours: &Listing, begun: i64) -> Vec<String> {
    let mut different = Vec::new();
    for path in theirs.keys().chain(ours.keys().filter(|path| !theirs.contains_key(*path))) {
        let (Some(theirs), Some(ours)) = (theirs.get(path), ours.get(path)) else {
            different.push(format!("{name}: {path}: theirs {:?}, ours {:?}", theirs.get(path), ours.get(path)));
            continue;
        };
        // An entry that no member gives a time has that of unpacking.
        let is_timeless = theirs.is_whiteout || theirs.is_directory;
        let is_same_time = theirs.mtime == ours.mtime || (is_timeless && theirs.mtime.0 >= begun);
        if theirs.what != ours.what || !is_same_time {
            different.push(format!("{name}: {path}:\n  theirs {theirs:?}\n  ours   {ours:?}"));
        }
    }
    different
}

fn look(path: &Path) -> Found {
    let metadata = match fs::symlink_metadata(path) {
        // Overlayfs lists whiteouts in directories that only one layer has.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let what = "listed, and not there".to_owned();
            return Found { what, mtime: (0, 0), is_whiteout: true, is_directory: false };
        }
        metadata => metadata.unwrap(),
    };
    let kind = metadata.file_type();
    let mut what = format!("mode {:06o} owner {}:{}", metadata.mode(), metadata.uid(), metadata.gid());
    if !kind.is_dir() {
        write!(what, " links {}", metadata.nlink()).unwrap();
    }
    if kind.is_char_device() || kind.is_block_device() {
        write!(what, " device {}", metadata.rdev()).unwrap();
    }
    if kind.is_symlink() {
        write!(what, " to {}", fs::read_link(path).unwrap().as_os_str().as_bytes().escape_ascii()).unwrap();
    }
    if kind.is_file() {
        write!(what, " size {} {}", metadata.size(), hash(path)).unwrap();
    }
    for (name, value) in attributes(path) {
        write!(what, " {name}={}", value.escape_ascii()).unwrap();
    }
    Found {
        what,
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        is_whiteout: kind.is_char_device() && metadata.rdev() == 0,
        is_directory: kind.is_dir(),
    }
}

/// Of what is longer than this, some parts are enough.
const MAX_HASHED: u64 = 64 << 20;

fn hash(path: &Path) -> String {
    let file = fs::File::open(path).unwrap();
    let length = file.metadata().unwrap().len();
    let (mut hasher, mut buffer) = (DigestHasher::sha256(), vec![0; 1 << 20]);
    let is_long = length > MAX_HASHED;
    let step = if is_long { length / 16 } else { 1 << 20 };
    for at in (0..length).step_by(step as usize).chain(is_long.then(|| length - (1 << 20))) {
        let wanted = (length - at).min(1 << 20) as usize;
        file.read_exact_at(&mut buffer[..wanted], at).unwrap();
        hasher.update(&buffer[..wanted]);
    }
    hasher.finish().short()
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
            value.truncate(length);
            (name.escape_ascii().to_string(), value)
        })
        .collect()
}
