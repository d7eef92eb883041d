//! A mount of a tree: the members of an archive, or several files, as a directory.
//!
//! The tree never changes, so the kernel caches names, attributes and pages
//! (`FOPEN_KEEP_CACHE`). Everything belongs to the user who mounts it, and that user may read all of it, since the owners in an archive are users of another host.
//! All blocks are reported as allocated, except holes, which a [`TreeReader`] returns as zeros because they are zeros in the file.
//!
//! Requests that may take time are answered by tasks of the runtime, so that a file that waits delays no other.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use darter_archive::{Body, Node, NodeId, Tree};
use darter_core::ByteRange;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner,
    Notifier, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::file::Unread;
use crate::session::{BLOCK, Cache, FOREVER, FORGETS, Forgotten, MountError, Mounted, Opener, directory, tune};

/// Why a file can't be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unopened {
    /// Its bytes can't be had now: EIO.
    Unread,
    /// Its bytes can never be had, since this program does not support their form: EOPNOTSUPP.
    Unsupported,
}

/// The bytes of the files in a tree.
#[async_trait]
pub trait TreeReader: Send + Sync + 'static {
    /// Called when a program opens a file.
    ///
    /// # Errors
    /// [`Unopened`].
    async fn open(&self, file: NodeId) -> Result<(), Unopened>;

    /// Reads bytes of an open file; `range` is within the file.
    ///
    /// # Errors
    /// [`Unread`] if not all of them can be had.
    async fn read(&self, file: NodeId, range: ByteRange) -> Result<Bytes, Unread>;

    /// Called when a program closes an open file.
    fn release(&self, file: NodeId);
}

/// The pages of a tree's files in the kernel's page cache.
#[derive(Clone, Debug)]
pub struct TreeCache {
    notifier: Notifier,
    forgotten: Forgotten,
    opener: Opener,
    opened: Arc<Mutex<HashSet<NodeId>>>,
    tree: Arc<Tree>,
    dir: PathBuf,
}

impl TreeCache {
    /// Makes the kernel forget all pages of one file, or of all files that were opened: a program that reads one causes a new request. Blocking.
    pub fn forget(&self, file: Option<NodeId>) {
        let files: Vec<_> = match file {
            Some(file) => vec![file],
            None => self.opened.lock().iter().copied().collect(),
        };
        let names = names(&self.tree);
        let path = |file: NodeId| {
            let (mut path, mut at) = (Vec::new(), file);
            while let Some((parent, name)) = names.get(&at) {
                path.push(OsStr::from_bytes(name));
                at = *parent;
            }
            path.iter().rev().fold(self.dir.clone(), |dir, name| dir.join(name))
        };
        let files = files.into_iter().map(|file| (inode_of(file), path(file))).collect();
        let (notifier, forgotten, opener) = (self.notifier.clone(), self.forgotten.clone(), self.opener);
        // A node that is no longer mounted, or was forgotten, has no cached pages.
        let _ = Cache { notifier, forgotten, opener, files }.forget();
    }
}

/// A name of each node except the root, and its directory.
fn names(tree: &Tree) -> HashMap<NodeId, (NodeId, &[u8])> {
    let all = (0..tree.len()).filter_map(NodeId::at);
    let inside = all.flat_map(|directory| {
        let entries = tree.entries(directory).unwrap_or_default();
        entries.iter().map(move |(name, node)| (*node, (directory, &**name)))
    });
    inside.collect()
}

impl Mounted {
    /// Mounts a tree. Blocking. `runtime` runs the reads; `opener` helps the kernel to forget pages.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn mount_tree(
        tree: Arc<Tree>,
        reader: Arc<dyn TreeReader>,
        dir: &Path,
        others: bool,
        opener: Opener,
        runtime: Handle,
    ) -> Result<(Self, TreeCache), MountError> {
        let (opened, forgotten): (Arc<Mutex<HashSet<NodeId>>>, _) = (Arc::default(), Forgotten::default());
        let directory = Directory {
            tree: Arc::clone(&tree),
            reader,
            opened: Arc::clone(&opened),
            forgotten: forgotten.clone(),
            runtime,
        };
        let mounted = Self::begin(directory, dir, others)?;
        let (notifier, dir) = (mounted.notifier(), dir.to_owned());
        let cache = TreeCache { notifier, forgotten, opener, opened, tree, dir };
        Ok((mounted, cache))
    }
}

struct Directory {
    tree: Arc<Tree>,
    reader: Arc<dyn TreeReader>,
    opened: Arc<Mutex<HashSet<NodeId>>>,
    forgotten: Forgotten,
    runtime: Handle,
}

const fn inode_of(node: NodeId) -> INodeNo {
    INodeNo(node.index() as u64 + 1)
}

fn node_of(inode: INodeNo) -> Option<NodeId> {
    NodeId::at(usize::try_from(inode.0).ok()?.checked_sub(1)?)
}

fn kind_of(node: &Node) -> FileType {
    match node.body {
        Body::Directory { .. } => FileType::Directory,
        Body::File { .. } => FileType::RegularFile,
        Body::Symlink(_) | Body::SymlinkIn { .. } => FileType::Symlink,
        Body::Fifo => FileType::NamedPipe,
        Body::Device { block: true, .. } => FileType::BlockDevice,
        Body::Device { block: false, .. } => FileType::CharDevice,
    }
}

/// A node's modification time; 1970 if this host can't express it.
fn time_of(node: &Node) -> SystemTime {
    let seconds = Duration::from_secs(node.mtime.seconds.unsigned_abs());
    let whole = if node.mtime.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    let nanos = Duration::from_nanos(node.mtime.nanos.into());
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

fn attributes_of(inode: INodeNo, node: &Node) -> FileAttr {
    // The owner may read everything, as they could after unpacking the archive.
    let (size, least) = match &node.body {
        Body::Directory { .. } => (0, 0o500),
        Body::File { size, .. } => (*size, 0o400),
        Body::SymlinkIn { size, .. } => (*size, 0o777),
        Body::Symlink(target) => (target.len() as u64, 0o777),
        Body::Fifo | Body::Device { .. } => (0, 0o400),
    };
    let rdev = match node.body {
        Body::Device { number: (major, minor), .. } => {
            u32::try_from(rustix::fs::makedev(major, minor)).unwrap_or_default()
        }
        _ => 0,
    };
    FileAttr {
        size,
        blocks: size.div_ceil(512),
        kind: kind_of(node),
        perm: node.mode & 0o777 | least,
        nlink: node.links,
        rdev,
        ..directory(inode, time_of(node))
    }
}

impl Directory {
    fn node(&self, inode: INodeNo) -> Option<(NodeId, &Node)> {
        let node = node_of(inode)?;
        Some((node, self.tree.get(node)?))
    }

    /// The size of a file, or of a link whose target is the contents of a file.
    fn file(&self, inode: INodeNo) -> Option<(NodeId, u64)> {
        match self.node(inode)? {
            (node, Node { body: Body::File { size, .. } | Body::SymlinkIn { size, .. }, .. }) => Some((node, *size)),
            _ => None,
        }
    }

    fn reads(&self, file: NodeId, range: ByteRange, reply: ReplyData) {
        let reader = Arc::clone(&self.reader);
        self.runtime.spawn(async move {
            match reader.read(file, range).await {
                Ok(bytes) if bytes.len() as u64 == range.len() => reply.data(&bytes),
                _ => reply.error(Errno::EIO),
            }
        });
    }
}

impl Filesystem for Directory {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        tune(config);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = node_of(parent).and_then(|parent| self.tree.look_up(parent, name.as_bytes()));
        match found.and_then(|node| Some((inode_of(node), self.tree.get(node)?))) {
            Some((inode, node)) => reply.entry(&FOREVER, &attributes_of(inode, node), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(inode) {
            Some((_, node)) => reply.attr(&FOREVER, &attributes_of(inode, node)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        match self.node(inode) {
            Some((_, Node { body: Body::Symlink(target), .. })) => reply.data(target),
            Some((node, Node { body: Body::SymlinkIn { size, .. }, .. })) => {
                let (reader, range) = (Arc::clone(&self.reader), ByteRange::new(0, *size));
                self.runtime.spawn(async move {
                    if let Err(error) = reader.open(node).await {
                        return reply.error(errno(error));
                    }
                    match reader.read(node, range).await {
                        // A target with a zero byte would be cut by the kernel, so it counts as none.
                        Ok(target) if !target.contains(&0) => reply.data(&target),
                        _ => reply.error(Errno::EIO),
                    }
                    reader.release(node);
                });
            }
            Some(_) => reply.error(Errno::EINVAL),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let Some((file, _)) = self.file(inode) else { return reply.error(Errno::EISDIR) };
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        if self.forgotten.note_opened(inode) {
            return reply.opened(FORGETS, FopenFlags::empty());
        }
        let (reader, opened) = (Arc::clone(&self.reader), Arc::clone(&self.opened));
        self.runtime.spawn(async move {
            match reader.open(file).await {
                Ok(()) => {
                    opened.lock().insert(file);
                    reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
                }
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some((file, length)) = self.file(inode) else { return reply.error(Errno::EISDIR) };
        if handle == FORGETS {
            return reply.error(Errno::EIO);
        }
        let range = ByteRange::new(offset, offset.saturating_add(size.into())).clamp_to(length);
        if range.is_empty() {
            return reply.data(&[]);
        }
        self.reads(file, range, reply);
    }

    fn release(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        if let Some((file, _)) = self.file(inode).filter(|_| handle != FORGETS) {
            let (reader, _inside) = (Arc::clone(&self.reader), self.runtime.enter());
            reader.release(file);
        }
        reply.ok();
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some((_, Node { body: Body::Directory { parent, entries }, .. })) = self.node(inode) else {
            return reply.error(Errno::ENOTDIR);
        };
        let dots = [(inode, "."), (inode_of(*parent), "..")];
        for (place, (inode, name)) in (1..).zip(dots) {
            if place > offset && reply.add(inode, place, FileType::Directory, OsStr::new(name)) {
                return reply.ok();
            }
        }
        let first = usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX);
        for (place, (name, node)) in entries.iter().enumerate().skip(first) {
            let kind = self.tree.get(*node).map_or(FileType::RegularFile, kind_of);
            if reply.add(inode_of(*node), place as u64 + 3, kind, OsStr::from_bytes(name)) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.tree.bytes.div_ceil(BLOCK.into());
        reply.statfs(blocks, 0, 0, self.tree.len() as u64, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        // There are none, and this error tells the kernel not to ask again.
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }
}

const fn errno(error: Unopened) -> Errno {
    match error {
        Unopened::Unread => Errno::EIO,
        Unopened::Unsupported => Errno::EOPNOTSUPP,
    }
}

#[cfg(test)]
mod tests {
    use darter_archive::Contents;
    use darter_image::tar::Time;

    use super::*;

    #[test]
    fn who_mounts_it_may_read_everything_and_nothing_is_more_than_a_file() {
        let node = |mode, body, seconds| Node { mode, mtime: Time { seconds, nanos: 5 }, links: 2, body };
        let file = |size| Body::File { size, contents: Contents::Stored(0) };
        let of = |node: &Node| attributes_of(INodeNo(7), node);
        let private = of(&node(0o4000, file(513), 1));
        assert_eq!((private.perm, private.nlink, private.size, private.blocks), (0o400, 2, 513, 2));
        assert_eq!(private.uid, rustix::process::geteuid().as_raw());
        assert_eq!(of(&node(0o751, file(0), 0)).perm, 0o751);
        let empty = Body::Directory { parent: NodeId::ROOT, entries: Box::new([]) };
        assert_eq!(of(&node(0, empty, 0)).perm, 0o500);
        let before = of(&node(0o644, file(0), -3));
        assert_eq!(before.mtime, UNIX_EPOCH - Duration::from_secs(3) + Duration::from_nanos(5));
        assert!(of(&node(0o644, file(0), i64::MIN)).mtime < UNIX_EPOCH);
        let device = of(&node(0o600, Body::Device { block: false, number: (5, 1) }, 0));
        assert_eq!((device.kind, device.rdev), (FileType::CharDevice, 0x501));
    }
}
