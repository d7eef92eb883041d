//! A mount: how one is made, unmounted and made to forget pages, whatever is in it.
//!
//! | file | what is mounted |
//! |---|---|
//! | [`single`](crate::single) | one file |
//! | [`layers`](crate::layers) | the layers of images |
//! | [`tree`](crate::tree) | a directory of several files |
//!
//! Root mounts through the kernel, other users through `fusermount3`. Files are never passed through to another one (`FUSE_PASSTHROUGH`), since the kernel mounts no
//! EROFS over such a file.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, FileAttr, FileHandle, FileType, Filesystem, INodeNo, KernelConfig, MountOption,
    Notifier, Session, SessionACL,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;

/// How long the kernel may cache names and attributes that never change.
pub(crate) const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Most bytes that the kernel reads with one request.
pub(crate) const MAX_READ: u32 = 1 << 20;

/// Most concurrent requests of the kernel's read-ahead.
const MAX_BACKGROUND: u16 = 64;

/// How many threads take the kernel's requests.
const THREADS: usize = 4;

pub(crate) const BLOCK: u32 = 4096;

/// Why a mount could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The host has no FUSE.
    #[error(
        "this host has no /dev/fuse: load the kernel's module with `modprobe fuse`, or give a container `--device /dev/fuse`"
    )]
    NoDevice,
    /// This user may not open the device.
    #[error("may not open /dev/fuse: it has to be open to this user (mode 0666 is usual), or run this as root")]
    Device(#[source] io::Error),
    /// A user's mount needs `fusermount3`, which is missing.
    #[error("there is no fusermount3, by which users mount: install the package fuse3, or run this as root")]
    NoHelper,
    /// The kernel, or fusermount3, refused.
    #[error("can't mount at {dir}: {}", .reason.trim())]
    Refused {
        /// The mount point.
        dir: String,
        /// The message of the system or of fusermount3.
        reason: String,
    },
}

/// A mount, which is unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    session: BackgroundSession,
}

impl Mounted {
    /// Mounts a file system. Blocking.
    ///
    /// # Errors
    /// [`MountError`].
    pub(crate) fn begin(filesystem: impl Filesystem, dir: &Path, others: bool) -> Result<Self, MountError> {
        check_device()?;
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::RO,
            MountOption::FSName("darter".to_owned()),
            MountOption::Subtype("darter".to_owned()),
            MountOption::DefaultPermissions,
        ];
        config.n_threads = Some(THREADS);
        config.acl = if others { SessionACL::All } else { SessionACL::Owner };
        let refused = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => MountError::NoHelper,
            _ => MountError::Refused { dir: dir.display().to_string(), reason: error.to_string() },
        };
        let session = Session::new(filesystem, dir, &config).and_then(Session::spawn).map_err(refused)?;
        Ok(Self { session })
    }

    pub(crate) fn notifier(&self) -> Notifier {
        self.session.notifier()
    }

    /// Waits until it is unmounted. Blocking.
    ///
    /// # Errors
    /// The kernel ends it in another way.
    pub fn wait(self) -> io::Result<()> {
        self.session.join()
    }
}

/// Opens and closes files of a mount, in another process. Blocking.
pub type Opener = fn(&[PathBuf]) -> io::Result<()>;

/// How many files are opened at a time.
const MAX_OPENED: usize = 256;

/// The handle of a file that was opened only so that the kernel forgets its pages; nothing is read by it.
pub(crate) const FORGETS: FileHandle = FileHandle(u64::MAX);

/// Inodes whose pages the kernel should forget when somebody opens them, each with true if somebody did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forgotten(Arc<Mutex<HashMap<u64, bool>>>);

impl Forgotten {
    /// True if the pages of this inode should be forgotten.
    pub(crate) fn is_wanted(&self, inode: INodeNo) -> bool {
        self.0.lock().contains_key(&inode.0)
    }

    /// Notes that a file is opened. Returns true if that should make the kernel forget its pages: then it is opened as [`FORGETS`], without flags.
    pub(crate) fn note_opened(&self, inode: INodeNo) -> bool {
        self.0.lock().get_mut(&inode.0).map(|was_opened| *was_opened = true).is_some()
    }
}

/// The pages of files in the kernel's page cache.
///
/// The kernel forgets them when a file is opened without the flag to keep them, and waits for reads of them that are in progress: in the process that
/// opens the file. A message over the connection (`FUSE_NOTIFY_INVAL_INODE`) does the same, but waits in the process that has the connection: if
/// that is killed meanwhile, it never ends, and neither does its connection, since it would have to answer its last reads itself.
#[derive(Clone, Debug)]
pub struct Cache {
    pub(crate) notifier: Notifier,
    pub(crate) forgotten: Forgotten,
    pub(crate) opener: Opener,
    /// The files, by their absolute paths.
    pub(crate) files: Vec<(INodeNo, PathBuf)>,
}

impl Cache {
    /// Makes the kernel forget all pages: a program that reads one causes a new request. Waits for reads in progress. Blocking.
    ///
    /// # Errors
    /// They are no longer mounted.
    pub fn forget(&self) -> io::Result<()> {
        self.files.chunks(MAX_OPENED).try_for_each(|some| self.forget_some(some))
    }

    fn forget_some(&self, files: &[(INodeNo, PathBuf)]) -> io::Result<()> {
        self.forgotten.0.lock().extend(files.iter().map(|(inode, _)| (inode.0, false)));
        let paths: Vec<_> = files.iter().map(|(_, path)| path.clone()).collect();
        if let Err(error) = (self.opener)(&paths) {
            tracing::debug!(%error, "files whose pages are to be forgotten could not be opened");
        }
        let was_opened = |inode: INodeNo| self.forgotten.0.lock().remove(&inode.0) == Some(true);
        let left: Vec<_> = files.iter().map(|(inode, _)| *inode).filter(|inode| !was_opened(*inode)).collect();
        // The files whose path leads elsewhere by now.
        left.into_iter().try_for_each(|inode| self.notifier.inval_inode(inode, 0, 0))
    }
}

/// The threads that answer reads of one mount. The thread that took the kernel's request may itself wait for the disk, which saves handing the request over to
/// another one; but at least one thread stays free for further requests.
#[derive(Clone, Debug)]
pub(crate) struct Threads {
    /// Runs whatever takes longer.
    pub(crate) runtime: Handle,
    reading: Arc<AtomicUsize>,
}

/// Allows a thread that takes requests to wait for the disk, until dropped.
#[derive(Debug)]
pub(crate) struct MayWait<'a>(&'a AtomicUsize);

impl Threads {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime, reading: Arc::default() }
    }

    /// Called by a thread that takes requests. `None` if no other thread would be free.
    pub(crate) fn may_wait(&self) -> Option<MayWait<'_>> {
        let one_more = |reading| (reading + 1 < THREADS).then_some(reading + 1);
        self.reading.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(MayWait(&self.reading))
    }
}

impl Drop for MayWait<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn check_device() -> Result<(), MountError> {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(MountError::Device(error)),
        Err(_) => Err(MountError::NoDevice),
    }
}

/// Sets the options of the kernel's requests.
pub(crate) fn tune(config: &mut KernelConfig) {
    // An older kernel has lower limits, which are as good.
    let _ = config.set_max_write(MAX_READ);
    let _ = config.set_max_readahead(MAX_READ).map_err(|most| config.set_max_readahead(most));
    let _ = config.set_max_background(MAX_BACKGROUND);
}

/// The attributes of a read-only directory.
pub(crate) fn directory(inode: INodeNo, time: SystemTime) -> FileAttr {
    FileAttr {
        ino: inode,
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
    }
}

/// The attributes of a read-only file.
pub(crate) fn file(inode: INodeNo, time: SystemTime, size: u64, blocks: u64) -> FileAttr {
    FileAttr { ino: inode, size, blocks, kind: FileType::RegularFile, perm: 0o444, nlink: 1, ..directory(inode, time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_thread_stays_for_what_is_asked_next() {
        let threads = Threads::new(Handle::current());
        let mut waiting: Vec<_> = (1..THREADS).map(|_| threads.may_wait().unwrap()).collect();
        assert!(threads.may_wait().is_none() && threads.clone().may_wait().is_none());
        waiting.pop();
        assert!(threads.may_wait().is_some());
    }
}
