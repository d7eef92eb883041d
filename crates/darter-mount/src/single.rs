//! A mount of one file, in a directory of its own: what `darter mount URL` makes.
//!
//! The kernel keeps pages (`FOPEN_KEEP_CACHE`) and attributes, since the content never changes. Reads are answered
//! out of order, by tasks of the runtime; everything else at once. All blocks of the file are reported as allocated: a program that is told
//! of fewer may take the rest for zeros without reading it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner,
    OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr,
    Request,
};
use tokio::runtime::Handle;

use crate::file::MountedFile;
use crate::session::{
    BLOCK, Cache, FOREVER, FORGETS, Forgotten, MountError, Mounted, Opener, Threads, directory, file, tune,
};

/// The file's inode; the directory has the root's.
const FILE: INodeNo = INodeNo(2);

/// How a file is mounted.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// The file's name.
    pub name: OsString,
    /// When it was last modified.
    pub modified: SystemTime,
    /// True if other users may read it.
    pub others: bool,
}

impl Mounted {
    /// Mounts a file. Blocking. `runtime` runs the reads. Also returns the cache, which makes the kernel forget the file's pages, with the help of `opener`.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn mount(
        file: Arc<MountedFile>,
        dir: &Path,
        options: MountOptions,
        opener: Opener,
        runtime: Handle,
    ) -> Result<(Self, Cache), MountError> {
        let (others, path) = (options.others, dir.join(&options.name));
        let forgotten = Forgotten::default();
        let directory = Directory::new(file, options, forgotten.clone(), runtime);
        let mounted = Self::begin(directory, dir, others)?;
        let cache = Cache { notifier: mounted.notifier(), forgotten, opener, files: vec![(FILE, path)] };
        Ok((mounted, cache))
    }
}

/// The mounted directory.
struct Directory {
    file: Arc<MountedFile>,
    name: OsString,
    root: FileAttr,
    attributes: FileAttr,
    forgotten: Forgotten,
    threads: Threads,
}

impl Directory {
    fn new(mounted: Arc<MountedFile>, options: MountOptions, forgotten: Forgotten, runtime: Handle) -> Self {
        let size = mounted.content().length;
        let time = options.modified;
        let (root, attributes) = (directory(INodeNo::ROOT, time), file(FILE, time, size, size.div_ceil(512)));
        Self { file: mounted, name: options.name, root, attributes, forgotten, threads: Threads::new(runtime) }
    }

    fn attributes(&self, inode: INodeNo) -> Option<&FileAttr> {
        match inode {
            INodeNo::ROOT => Some(&self.root),
            FILE => Some(&self.attributes),
            _ => None,
        }
    }
}

impl Filesystem for Directory {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        tune(config);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == self.name {
            reply.entry(&FOREVER, &self.attributes, Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&FOREVER, attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if inode != FILE {
            reply.error(Errno::EISDIR);
        } else if flags.acc_mode() != OpenAccMode::O_RDONLY {
            reply.error(Errno::EROFS);
        } else if self.forgotten.note_opened(inode) {
            reply.opened(FORGETS, FopenFlags::empty());
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        }
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
        if inode != FILE {
            return reply.error(Errno::EISDIR);
        }
        if handle == FORGETS {
            return reply.error(Errno::EIO);
        }
        self.file.answer(&self.threads, None, offset, size, |read| match read {
            Ok(bytes) => reply.data(bytes),
            Err(_) => reply.error(Errno::EIO),
        });
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if inode != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let entries = [
            (INodeNo::ROOT, FileType::Directory, OsStr::new(".")),
            (INodeNo::ROOT, FileType::Directory, OsStr::new("..")),
            (FILE, FileType::RegularFile, &self.name),
        ];
        for (place, (inode, kind, name)) in (1..).zip(entries) {
            if place > offset && reply.add(inode, place, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.attributes.size.div_ceil(BLOCK.into());
        reply.statfs(blocks, 0, 0, 1, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        // There are none, and this error tells the kernel not to ask again.
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }
}
