//! Which parts of a complete layer programs have read from an engine's mount of it, by what the kernel has in memory of the mounted files. Blocking, and only for root.
//!
//! An engine mounts a complete layer without Darter, so no process of Darter sees the reads. But each EROFS mount has pages of its own, and none at first: pages that are in memory after a while were
//! read, or read ahead. A single look does not say in which order; what was in memory at an earlier look was read earlier.
//!
//! The look is taken through a copy of the mount that is in no directory. So the engine can unmount the layer meanwhile, and the pages that a program read are seen although the program has ended.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use darter_core::{ByteRange, PieceIndex, PieceLength};
use darter_kernel::cached::cached;
use darter_kernel::extents::{Extent, extents};
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, fstat, major, minor, openat};
use rustix::mount::{OpenTreeFlags, open_tree};

/// The maximum number of files: a layer with more is not examined.
const MAX_FILES: usize = 50_000;

/// The maximum depth of directories.
const MAX_DEPTH: usize = 128;

/// A mounted layer.
#[derive(Debug)]
pub struct MountedLayer {
    root: OwnedFd,
}

impl MountedLayer {
    /// The layer that is mounted at `dir`; `device` is the number of its file system's device.
    ///
    /// # Errors
    /// Something else is mounted there by now, or the kernel refuses.
    pub fn at(dir: &Path, device: (u32, u32)) -> io::Result<Self> {
        let root = open_tree(CWD, dir, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        let found = fstat(&root)?.st_dev;
        if (major(found), minor(found)) != device {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { root })
    }

    /// The parts of the layer's file of which at least one page is in memory, in the order of the file. No part crosses the boundary of a piece of the length `pieces`.
    ///
    /// # Errors
    /// The kernel can't say it, or there are too many files or directories.
    pub fn read_parts(&self, pieces: PieceLength) -> io::Result<Vec<ByteRange>> {
        let (mut parts, mut files) = (Vec::new(), 0);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // The copy's descriptor only names a place, and can't be read.
        let root = openat(&self.root, c".", flags | OFlags::DIRECTORY, Mode::empty())?;
        let mut open = vec![Dir::new(root)?];
        loop {
            let depth = open.len();
            let Some(directory) = open.last_mut() else { break };
            let Some(entry) = directory.read().transpose()? else {
                open.pop();
                continue;
            };
            let name = entry.file_name();
            match entry.file_type() {
                FileType::Directory if name != c"." && name != c".." => {
                    if depth >= MAX_DEPTH {
                        return Err(io::ErrorKind::QuotaExceeded.into());
                    }
                    let inside = openat(directory.fd()?, name, flags | OFlags::DIRECTORY, Mode::empty())?;
                    open.push(Dir::new(inside)?);
                }
                FileType::RegularFile => {
                    files += 1;
                    if files > MAX_FILES {
                        return Err(io::ErrorKind::QuotaExceeded.into());
                    }
                    let file = File::from(openat(directory.fd()?, name, flags, Mode::empty())?);
                    if cached(&file, 0, 0)?.pages > 0 {
                        add(&mut parts, &file, pieces)?;
                    }
                }
                _ => {}
            }
        }
        parts.sort_unstable_by_key(|part: &ByteRange| (part.start(), part.end()));
        parts.dedup();
        Ok(parts)
    }
}

/// Adds the parts of the layer in which `file` lies, if something of them is in memory.
fn add(parts: &mut Vec<ByteRange>, file: &File, pieces: PieceLength) -> io::Result<()> {
    for Extent { logical, physical, length } in extents(file)? {
        let (mut at, end) = (physical, physical + length);
        while at < end {
            let next = pieces.offset(PieceIndex(pieces.piece_at(at).0 + 1)).min(end);
            if cached(file, logical + (at - physical), next - at)?.pages > 0 {
                parts.push(ByteRange::new(at, next));
            }
            at = next;
        }
    }
    Ok(())
}
