//! The kernel's end of a mount: a directory with one file, for a FUSE session.
//!
//! The kernel keeps what it was given (`FOPEN_KEEP_CACHE`) and asks for no attribute twice, since the content never changes. Reads are answered
//! out of order, by tasks of the runtime; everything else at once. All of the file's blocks are reported as there: a program that is told
//! of fewer may take the rest for zeros without reading it.
//!
//! With root's rights the kernel is asked directly, else by `fusermount3`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, MountOption, Notifier, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request, Session, SessionACL,
};
use tokio::runtime::Handle;

use crate::file::MountedFile;

/// The file's inode; the directory's is the root's.
const FILE: INodeNo = INodeNo(2);

/// For how long names and attributes are good: they never change.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Bytes that the kernel asks for at once, at most.
const MAX_READ: u32 = 1 << 20;

/// Requests of the kernel's read-ahead that are under way, at most.
const MAX_BACKGROUND: u16 = 64;

const BLOCK: u32 = 4096;

/// Why a mount could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no FUSE.
    #[error(
        "this host has no /dev/fuse: load the kernel's module with `modprobe fuse`, or give a container `--device /dev/fuse`"
    )]
    NoDevice,
    /// It is not for this user.
    #[error("may not open /dev/fuse: it has to be open to this user (mode 0666 is usual), or run this as root")]
    Device(#[source] io::Error),
    /// A user's mount needs a program that is not there.
    #[error("there is no fusermount3, by which users mount: install the package fuse3, or run this as root")]
    NoHelper,
    /// The kernel, or fusermount3, said no.
    #[error("can't mount at {dir}: {}", .reason.trim())]
    Refused {
        /// Where.
        dir: String,
        /// Its words.
        reason: String,
    },
}

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

/// A mount. Unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    session: BackgroundSession,
}

impl Mounted {
    /// Mounts a file. Blocking. `runtime` runs the reads.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn mount(
        file: Arc<MountedFile>,
        dir: &Path,
        options: MountOptions,
        runtime: Handle,
    ) -> Result<Self, MountError> {
        check_device()?;
        let others = options.others;
        let directory = Directory::new(file, options, runtime);
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::RO,
            MountOption::FSName("darter".to_owned()),
            MountOption::Subtype("darter".to_owned()),
            MountOption::DefaultPermissions,
        ];
        config.acl = if others { SessionACL::All } else { SessionACL::Owner };
        let refused = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => MountError::NoHelper,
            _ => MountError::Refused { dir: dir.display().to_string(), reason: error.to_string() },
        };
        let session = Session::new(directory, dir, &config).and_then(Session::spawn).map_err(refused)?;
        Ok(Self { session })
    }

    /// The handle that lets the kernel forget what it was given of the file.
    pub fn cache(&self) -> Cache {
        Cache(self.session.notifier())
    }

    /// Waits until it is unmounted. Blocking.
    ///
    /// # Errors
    /// When the kernel ends it otherwise.
    pub fn wait(self) -> io::Result<()> {
        self.session.join()
    }
}

/// The kernel's pages of the file.
#[derive(Clone, Debug)]
pub struct Cache(Notifier);

impl Cache {
    /// Lets the kernel forget all pages: whoever reads one asks again. Waits for reads that are under way. Blocking.
    ///
    /// # Errors
    /// When it is not mounted any more.
    pub fn forget(&self) -> io::Result<()> {
        self.0.inval_inode(FILE, 0, 0)
    }
}

fn check_device() -> Result<(), MountError> {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(MountError::Device(error)),
        Err(_) => Err(MountError::NoDevice),
    }
}

/// The directory that is mounted.
struct Directory {
    file: Arc<MountedFile>,
    name: OsString,
    root: FileAttr,
    attributes: FileAttr,
    runtime: Handle,
}

impl Directory {
    fn new(file: Arc<MountedFile>, options: MountOptions, runtime: Handle) -> Self {
        let size = file.content().length;
        let time = options.modified;
        let root = FileAttr {
            ino: INodeNo::ROOT,
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: FileType::Directory,
            perm: 0o555,
            nlink: 2,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        };
        let attributes = FileAttr {
            ino: FILE,
            size,
            blocks: size.div_ceil(512),
            kind: FileType::RegularFile,
            perm: 0o444,
            nlink: 1,
            ..root
        };
        Self { file, name: options.name, root, attributes, runtime }
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
        // An older kernel has lower limits, which are as good.
        let _ = config.set_max_write(MAX_READ);
        let _ = config.set_max_readahead(MAX_READ).map_err(|most| config.set_max_readahead(most));
        let _ = config.set_max_background(MAX_BACKGROUND);
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
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if inode != FILE {
            return reply.error(Errno::EISDIR);
        }
        let file = Arc::clone(&self.file);
        self.runtime.spawn(async move {
            match file.read(offset, size).await {
                Ok(bytes) => reply.data(&bytes),
                Err(_) => reply.error(Errno::EIO),
            }
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
        // There are none, and the kernel need not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }
}
