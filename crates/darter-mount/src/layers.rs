//! The layers of images as files that the kernel mounts, in a directory in which containerd looks for them (`layer_content_caches`).
//!
//! A layer is a virtual file whose reads wait, and a link to the store's file once it is complete. Entries may change at any time, so the kernel caches no
//! entry of a layer, and its attributes only for a moment. A sidecar file for dm-verity never exists, and the kernel need not ask again. The number of blocks is that
//! of the bytes that are really here.
//!
//! The kernel reads a virtual file past its page cache (`FOPEN_DIRECT_IO`): EROFS, or a loop device, has its own page cache for what it reads, each of its reads is one request, which is
//! answered with all of its bytes or none, and nothing is read but what it wants. Metadata, which EROFS reads page by page, stays in memory
//! nevertheless (`FOPEN_KEEP_CACHE`).
//!
//! If the kernel's EROFS supports it ([`erofs::goes_on`]), such requests are asynchronous (`FUSE_ASYNC_DIO`): EROFS reads ahead while its
//! reader copies earlier bytes, and a reader that waits can be killed. On other kernels, and for metadata, the reading thread makes the request, and can't be
//! killed before it is answered: so the thread is checked while it waits (`asker`).
//!
//! Only the user who mounts the directory, and root, can access it: it contains layers of private images, and any user of the host could ask for paths.
//!
//! Requests that may take time are answered by tasks of the runtime, so that one that hangs delays no other.
//!
//! A directory that should no longer be found ([`LayersDir::hide`]) is kept by a descriptor as long as one of its files is open, so that the kernel can be made to forget pages of a
//! wrong layer: the descriptor is closed with the last file, which ends the mount.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use darter_core::Digest;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, Notifier, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{UnmountFlags, unmount};
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;

use crate::asker::Asker;
use crate::erofs;
use crate::file::{Condition, MountedFile};
pub use crate::names::layer_at;
use crate::names::{
    ALGORITHM, ALGORITHM_INODE, EntryName, Form, Inodes, name_of, named, retired_name, retired_named, shard_inode,
    shard_named, shard_of,
};
use crate::session::{self, BLOCK, Cache, FOREVER, FORGETS, Forgotten, MountError, Mounted, Opener, Threads, tune};
use crate::supply::Supplier;

/// How long the kernel may cache names of layers.
const NOT_AT_ALL: Duration = Duration::ZERO;

/// How long the kernel caches attributes: a program that looks a name up needs them next. Only the number of blocks changes.
const A_MOMENT: Duration = Duration::from_millis(100);

/// Most concurrent reads past the page cache. A read of bytes that can't be had takes up to its limit, and if all of these are such reads, a reader of
/// bytes that are here waits until one of them ends.
const MAX_QUESTIONS: u16 = 8192;

/// A layer in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// A virtual file.
    File {
        /// The layer's length.
        length: u64,
        /// How many of its bytes are here.
        here: u64,
    },
    /// A link to this file, which has the complete layer.
    Link(PathBuf),
}

/// The layers that the directory shows.
#[async_trait]
pub trait Layers: Send + Sync + 'static {
    /// The result of [`Self::look_up`], if it is known without waiting.
    fn at_hand(&self, layer: Digest) -> Option<Layer> {
        let _ = layer;
        None
    }

    /// The layer that is found under its name now; `None` if there is no such file.
    async fn look_up(&self, layer: Digest) -> Option<Layer>;

    /// Opens a layer that was found; `None` if opening it fails.
    async fn open(&self, layer: Digest) -> Option<Arc<KeptFile>>;

    /// The layers that a listing shows: those that were found.
    fn listed(&self) -> Vec<Digest>;
}

/// A file, and its connections to agents, which exist as long as somebody has it.
pub struct KeptFile {
    file: Arc<MountedFile>,
    over: watch::Receiver<Option<Condition>>,
    keeping: JoinHandle<()>,
    runtime: Handle,
}

impl KeptFile {
    /// Keeps a file connected through this supplier.
    pub fn begin(file: Arc<MountedFile>, supplier: impl Supplier + 'static) -> Arc<Self> {
        let (tell, over) = watch::channel(None);
        let kept = Arc::clone(&file);
        let keeping = tokio::spawn(async move {
            let condition = kept.keep(&supplier).await;
            tell.send_replace(Some(condition));
        });
        Arc::new(Self { file, over, keeping, runtime: Handle::current() })
    }

    /// The file.
    pub fn file(&self) -> &Arc<MountedFile> {
        &self.file
    }

    /// Waits until the file is no longer useful, and returns its condition. `None` if it is closed before.
    pub fn over(&self) -> impl Future<Output = Option<Condition>> + Send + use<> {
        let mut over = self.over.clone();
        async move { over.wait_for(Option::is_some).await.ok()?.clone() }
    }
}

impl Drop for KeptFile {
    fn drop(&mut self) {
        self.keeping.abort();
        let file = Arc::clone(&self.file);
        // The kernel's forget arrives on a thread outside the runtime.
        self.runtime.spawn(async move { file.hand_over().await });
    }
}

impl Mounted {
    /// Mounts a directory of layers, accessible for this user and root: root's engines read it, whoever mounts it. Blocking. Everything in it has the time `since`;
    /// `runtime` runs what takes time; `opener` helps the kernel to forget pages of a wrong layer.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn mount_layers(
        layers: Arc<dyn Layers>,
        dir: &Path,
        since: SystemTime,
        opener: Opener,
        runtime: Handle,
    ) -> Result<(Self, LayersDir), MountError> {
        let shared = Arc::new(Shared {
            layers,
            inodes: Mutex::new(Inodes::new()),
            notifier: OnceLock::new(),
            forgotten: Forgotten::default(),
            opener,
            dir: dir.to_owned(),
            since,
            users: Mutex::default(),
        });
        let mounted =
            Self::begin(Directory { shared: Arc::clone(&shared), threads: Threads::new(runtime) }, dir, true)?;
        let _ = shared.notifier.set(mounted.notifier());
        Ok((mounted, LayersDir { shared }))
    }
}

/// A directory of layers, while it can be found.
#[derive(Clone)]
pub struct LayersDir {
    shared: Arc<Shared>,
}

impl LayersDir {
    /// True if this is the name of a layer that is open as a virtual file, and is complete.
    pub fn is_whole(&self, name: &Path) -> bool {
        let Some(layer) = layer_at(name) else { return false };
        self.shared.inodes.lock().of(layer).any(|node| node.own.get().is_some_and(|kept| kept.file.is_whole()))
    }

    /// Detaches the directory from the file system's tree. Its mount ends with the last of its open files, at once if none is open. Blocking.
    ///
    /// # Errors
    /// It is no longer mounted.
    pub fn hide(self) -> io::Result<()> {
        let dir = &self.shared.dir;
        let root = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        unmount(dir, UnmountFlags::DETACH)?;
        let mut users = self.shared.users.lock();
        // If no file is open, nothing keeps the mount: the descriptor is closed right here.
        users.hidden = (users.open > 0).then(|| Arc::new(root));
        Ok(())
    }
}

/// The open files of a directory.
#[derive(Default)]
struct Users {
    /// How many files are open.
    open: u64,
    /// The directory's descriptor, once the directory can't be found any more.
    hidden: Option<Arc<OwnedFd>>,
}

/// The file of an inode, after it was opened.
type Opened = Arc<OnceCell<Arc<KeptFile>>>;

struct Shared {
    layers: Arc<dyn Layers>,
    inodes: Mutex<Inodes<Opened>>,
    notifier: OnceLock<Notifier>,
    forgotten: Forgotten,
    opener: Opener,
    dir: PathBuf,
    since: SystemTime,
    users: Mutex<Users>,
}

struct Directory {
    shared: Arc<Shared>,
    threads: Threads,
}

impl Shared {
    /// The attributes of an inode; `None` if it does not exist.
    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        if inode == INodeNo::ROOT || inode == ALGORITHM_INODE || shard_of(inode).is_some() {
            return Some(self.directory(inode));
        }
        let inodes = self.inodes.lock();
        let node = inodes.get(inode)?;
        Some(match &node.form {
            Form::File(length) => {
                let here = node.own.get().map_or(0, |kept| kept.file.held());
                self.file(inode, *length, here)
            }
            Form::Link(target) => self.link(inode, target),
        })
    }

    fn directory(&self, inode: INodeNo) -> FileAttr {
        FileAttr { perm: 0o500, ..session::directory(inode, self.since) }
    }

    fn file(&self, inode: INodeNo, length: u64, here: u64) -> FileAttr {
        FileAttr { perm: 0o400, ..session::file(inode, self.since, length, here.min(length).div_ceil(512)) }
    }

    fn link(&self, inode: INodeNo, target: &Path) -> FileAttr {
        let size = target.as_os_str().len() as u64;
        FileAttr { kind: FileType::Symlink, perm: 0o777, ..session::file(inode, self.since, size, 0) }
    }

    /// Looks a layer up for the kernel.
    async fn find(&self, layer: Digest) -> Option<FileAttr> {
        Some(self.found(layer, self.layers.look_up(layer).await?))
    }

    /// The attributes of a layer that was found.
    fn found(&self, layer: Digest, found: Layer) -> FileAttr {
        let mut inodes = self.inodes.lock();
        match found {
            Layer::File { length, here } => {
                let inode = inodes.enter(layer, Form::File(length), Opened::default);
                let known = inodes.get(inode).and_then(|node| node.own.get()).map(|kept| kept.file.held());
                self.file(inode, length, known.unwrap_or_default().max(here))
            }
            Layer::Link(target) => {
                let inode = inodes.enter(layer, Form::Link(target.clone()), Opened::default);
                self.link(inode, &target)
            }
        }
    }

    /// Opens a file, once for all that have it open.
    async fn open(self: &Arc<Self>, inode: INodeNo) -> Result<(), Errno> {
        let (layer, opened) = {
            let inodes = self.inodes.lock();
            let node = inodes.get(inode).ok_or(Errno::ENOENT)?;
            (node.layer, Arc::clone(&node.own))
        };
        let mut is_new = false;
        let kept = opened.get_or_try_init(|| async {
            is_new = true;
            self.layers.open(layer).await.ok_or(Errno::EIO)
        });
        let over = kept.await?.over();
        if is_new {
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                if let Some(condition) = over.await {
                    shared.is_over(inode, layer, condition).await;
                }
            });
        }
        Ok(())
    }

    /// A file is no longer useful: the next program that opens the layer gets another one.
    async fn is_over(&self, inode: INodeNo, layer: Digest, condition: Condition) {
        self.inodes.lock().retire(inode);
        let (Condition::Tainted(reason), Some(notifier)) = (condition, self.notifier.get().cloned()) else { return };
        tracing::error!(%layer, reason, "a mounted layer is wrong: all reads of it fail from now on");
        let (forgotten, opener) = (self.forgotten.clone(), self.opener);
        let hidden = self.users.lock().hidden.clone();
        let dir = match &hidden {
            Some(root) => format!("/proc/{}/fd/{}", std::process::id(), root.as_raw_fd()).into(),
            None => self.dir.clone(),
        };
        let cache = Cache { notifier, forgotten, opener, files: vec![(inode, dir.join(retired_name(inode)))] };
        let forgetting = move || {
            // A layer that is not mounted any more has no cached pages.
            let _ = cache.forget();
            // This file may be the last that keeps the mount, which then ends.
            drop(hidden);
        };
        let _ = tokio::task::spawn_blocking(forgetting).await;
    }

    /// A file was closed. Returns the directory's descriptor if it has to be dropped, which must happen on a thread that may block, since the mount ends by that.
    fn closed(&self) -> Option<Arc<OwnedFd>> {
        let mut users = self.users.lock();
        users.open = users.open.saturating_sub(1);
        if users.open == 0 { users.hidden.take() } else { None }
    }

    /// The attributes of an inode whose pages should be forgotten, and which lookups no longer find.
    fn retired(&self, inode: INodeNo) -> Option<FileAttr> {
        let is_wanted = self.forgotten.is_wanted(inode) && self.inodes.lock().told_again(inode);
        is_wanted.then(|| self.attributes(inode)).flatten()
    }

    fn opened(&self, inode: INodeNo) -> Option<Arc<KeptFile>> {
        self.inodes.lock().get(inode)?.own.get().cloned()
    }

    fn is_file(&self, inode: INodeNo) -> bool {
        self.inodes.lock().get(inode).is_some_and(|node| matches!(node.form, Form::File(_)))
    }

    /// The entries of a directory; `None` if it is not a directory.
    fn entries(&self, inode: INodeNo) -> Option<Vec<(INodeNo, FileType, String)>> {
        let mut entries =
            vec![(inode, FileType::Directory, ".".to_owned()), (INodeNo::ROOT, FileType::Directory, "..".to_owned())];
        if inode == INodeNo::ROOT {
            entries.push((ALGORITHM_INODE, FileType::Directory, ALGORITHM.to_owned()));
        } else if inode == ALGORITHM_INODE {
            let shard = |shard| (shard_inode(shard), FileType::Directory, format!("{shard:02x}"));
            entries.extend((0..=u8::MAX).map(shard));
        } else {
            let shard = shard_of(inode)?;
            let mut names: Vec<_> = self.layers.listed().into_iter().filter_map(name_of).collect();
            names.sort_unstable();
            let inside = names.into_iter().filter(|(its, _)| *its == shard);
            // By the time it is looked up, each may be a link, with another inode.
            entries.extend(inside.map(|(_, name)| (INodeNo(u64::MAX), FileType::RegularFile, name)));
        }
        Some(entries)
    }
}

/// Answers the kernel with a layer.
fn told(reply: ReplyEntry, attributes: &FileAttr) {
    reply.entry_with_ttls(&A_MOMENT, &NOT_AT_ALL, attributes, Generation(0));
}

/// The answer for a name that does not exist.
fn absent() -> FileAttr {
    session::file(INodeNo(0), SystemTime::UNIX_EPOCH, 0, 0)
}

impl Filesystem for Directory {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        tune(config);
        if erofs::goes_on() && config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).is_ok() {
            let _ = config.set_max_background(MAX_QUESTIONS);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let inside = if parent == INodeNo::ROOT {
            if let Some(attributes) = retired_named(name).and_then(|inode| self.shared.retired(inode)) {
                return told(reply, &attributes);
            }
            (name == ALGORITHM).then_some(ALGORITHM_INODE)
        } else if parent == ALGORITHM_INODE {
            shard_named(name).map(shard_inode)
        } else if let Some(shard) = shard_of(parent) {
            return match named(shard, name) {
                EntryName::Nothing => reply.error(Errno::ENOENT),
                EntryName::Never => reply.entry(&FOREVER, &absent(), Generation(0)),
                EntryName::Layer(layer) => {
                    if let Some(found) = self.shared.layers.at_hand(layer) {
                        return told(reply, &self.shared.found(layer, found));
                    }
                    let shared = Arc::clone(&self.shared);
                    self.threads.runtime.spawn(async move {
                        match shared.find(layer).await {
                            Some(attributes) => told(reply, &attributes),
                            None => reply.error(Errno::ENOENT),
                        }
                    });
                }
            };
        } else {
            None
        };
        match inside {
            Some(inode) => reply.entry(&FOREVER, &self.shared.directory(inode), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn forget(&self, _: &Request, inode: INodeNo, times: u64) {
        let gone = self.shared.inodes.lock().forget(inode, times);
        drop(gone);
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.shared.attributes(inode) {
            Some(attributes) if attributes.kind == FileType::Directory => reply.attr(&FOREVER, &attributes),
            Some(attributes) => reply.attr(&A_MOMENT, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        let form = self.shared.inodes.lock().get(inode).map(|node| node.form.clone());
        match form {
            Some(Form::Link(target)) => reply.data(target.as_os_str().as_bytes()),
            Some(Form::File(_)) => reply.error(Errno::EINVAL),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if !self.shared.is_file(inode) {
            return reply.error(Errno::EISDIR);
        }
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        if self.shared.forgotten.note_opened(inode) {
            return reply.opened(FORGETS, FopenFlags::empty());
        }
        let shared = Arc::clone(&self.shared);
        self.threads.runtime.spawn(async move {
            match shared.open(inode).await {
                Ok(()) => {
                    shared.users.lock().open += 1;
                    reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_KEEP_CACHE);
                }
                Err(error) => reply.error(error),
            }
        });
    }

    fn read(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if handle == FORGETS {
            return reply.error(Errno::EIO);
        }
        let Some(kept) = self.shared.opened(inode) else { return reply.error(Errno::EIO) };
        kept.file.answer(&self.threads, Some(Asker(request.pid())), offset, size, |read| match read {
            Ok(bytes) => reply.data(bytes),
            Err(_) => reply.error(Errno::EIO),
        });
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
        if handle == FORGETS {
            return;
        }
        if let Some(hidden) = self.shared.closed() {
            self.threads.runtime.spawn_blocking(move || drop(hidden));
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(entries) = self.shared.entries(inode) else { return reply.error(Errno::ENOTDIR) };
        for (place, (inode, kind, name)) in (1..).zip(entries) {
            if place > offset && reply.add(inode, place, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        // There are none, and this error tells the kernel not to ask again.
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }
}
