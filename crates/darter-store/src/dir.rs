//! A directory of the agent, held open. Every file below the data directory is opened by one name relative to such a descriptor, and symbolic links are never followed.
//!
//! Why: an agent often runs as root, and a user who could once write to its directory may have left a link there to a file that only root may write. So:
//!
//! - the data directory belongs to the user as whom the agent runs, and nobody else may write to it; otherwise it is refused;
//! - a file is opened only if it is regular, belongs to that user, and has no second name (a hard link may be somebody else's file). [`Dir::open_linked`] is the one exception, for reading;
//! - directories are created with mode 0700 and files with mode 0600. What an older release created with more permissions loses these when it is opened, or examined by [`Dir::look`];
//! - a new file never reuses an existing one: an entry with its name is removed first. Removing a link leaves its target alone.
//!
//! Not checked here: the permissions of the directories above the data directory. The descriptor refers to the same directory whatever happens to them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Result, StoreError};
use crate::space::Space;
use crate::threads;

const PRIVATE_DIR: Mode = Mode::RWXU;
const PRIVATE_FILE: Mode = Mode::from_raw_mode(0o600);
/// The permissions with which others can read or execute something.
const FOR_OTHERS: u32 = 0o077;
/// The permissions with which others can change something.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The names that agents create in their data directory, apart from temporary ones (`.images`, `peers.new`), and names that file systems
/// have in their root.
const OWN: [&str; 16] = [
    "lock",
    "blobs",
    "trash",
    "index",
    "node-id",
    "node-key",
    "node-machine",
    "peers",
    "darter",
    "manifests",
    "explain",
    "profiles",
    "images",
    "get",
    "wanted",
    "lost+found",
];

/// Most entries that [`Dir::set_aside`] keeps of one name and suffix.
const MAX_SET_ASIDE: usize = 100;

/// An open directory of the agent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dir {
    fd: Arc<OwnedFd>,
    path: PathBuf,
}

/// The purpose for which a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    Read,
    /// For reading and writing.
    Write,
}

/// The description of a directory entry, without following links.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Its length in bytes.
    pub length: u64,
    /// When its content was last modified: seconds since 1970.
    pub modified: i64,
}

impl Dir {
    /// Opens a data directory; creates it if it does not exist.
    ///
    /// # Errors
    /// [`StoreError::UnsafeDir`] if it belongs to another user, or others may write to it; otherwise the system's error.
    pub fn open(path: &Path) -> Result<Self> {
        threads::enter("Dir::open");
        // Without a slash at the end, by which a link would be followed before it is looked at.
        let path: PathBuf = path.components().collect();
        make(&path)?;
        let refused = |problem: String| StoreError::UnsafeDir { path: path.clone(), problem };
        let me = rustix::process::geteuid().as_raw();
        let link = rustix::fs::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW);
        let link = link.map_err(|refusal| StoreError::io("look at", &path)(refusal.into()))?;
        if FileType::from_raw_mode(link.st_mode) == FileType::Symlink && link.st_uid != me && link.st_uid != 0 {
            return Err(refused(format!(
                "is a symbolic link that user {} made: remove it, or choose another directory with --data-dir",
                link.st_uid
            )));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, &path, flags, Mode::empty());
        let fd = fd.map_err(|refusal| StoreError::io("open", &path)(refusal.into()))?;
        let found = rustix::fs::fstat(&fd).map_err(|refusal| StoreError::io("look at", &path)(refusal.into()))?;
        if found.st_uid != me {
            return Err(refused(format!(
                "belongs to user {}, and darter runs as user {me}: run it as that user, or choose another directory with \
                 --data-dir",
                found.st_uid
            )));
        }
        if found.st_mode & WRITABLE_BY_OTHERS != 0 {
            return Err(refused(format!(
                "may be written to by others (mode {:04o}): look through it and `chmod go-w` it, or choose a directory \
                 with --data-dir that does not exist yet, which is made with mode 0700",
                found.st_mode & 0o7777
            )));
        }
        let dir = Self { fd: Arc::new(fd), path };
        dir.tighten_own(&found).map_err(StoreError::io("close to others", &dir.path))?;
        Ok(dir)
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of an entry, for messages.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a directory in this one; creates it if it does not exist.
    ///
    /// # Errors
    /// It is a link, it belongs to another user, or the system refuses.
    pub fn sub(&self, name: &str) -> io::Result<Self> {
        threads::enter("Dir::sub");
        match rustix::fs::mkdirat(&self.fd, name, PRIVATE_DIR) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(refusal) => return Err(refusal.into()),
        }
        self.find_sub(name)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Opens a directory in this one for files that can be rebuilt; creates it if it does not exist. An entry with its name that can't be used is
    /// [set aside](Self::set_aside) as `NAME.unread`.
    ///
    /// # Errors
    /// The system refuses that, too.
    pub fn sub_or_anew(&self, name: &str) -> io::Result<Self> {
        self.sub(name).or_else(|error| {
            let kept = self.set_aside(name, "unread")?;
            tracing::warn!(path = %self.path_of(name).display(), %error, kept, "a directory can't be used and is begun anew");
            self.sub(name)
        })
    }

    /// Opens a directory in this one; `None` if there is no entry with that name.
    ///
    /// # Errors
    /// It is not a directory, it belongs to another user, or the system refuses.
    pub fn find_sub(&self, name: &str) -> io::Result<Option<Self>> {
        threads::enter("Dir::find_sub");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            // The kernel says either of a link.
            Err(why @ (Errno::NOTDIR | Errno::LOOP)) => return Err(no_directory(why)),
            Err(refusal) => return Err(refusal.into()),
        };
        let found = rustix::fs::fstat(&fd)?;
        check_owner(&found)?;
        if found.st_mode & FOR_OTHERS != 0 {
            rustix::fs::fchmod(&fd, PRIVATE_DIR)?;
        }
        Ok(Some(Self { fd: Arc::new(fd), path: self.path.join(name) }))
    }

    /// Opens a file that exists.
    ///
    /// # Errors
    /// It does not exist, is a link or not a regular file, belongs to another user, has a second name, or the system refuses.
    pub fn open_file(&self, name: &str, access: Access) -> io::Result<File> {
        let (file, links) = self.open_linked(name, access)?;
        if links > 1 {
            return Err(refusal(format!("has {links} names (hard links): remove it")));
        }
        Ok(file)
    }

    /// Opens a file that exists and may have several names; also returns how many it has.
    ///
    /// # Errors
    /// It does not exist, is a link or not a regular file, belongs to another user, or the system refuses.
    pub fn open_linked(&self, name: &str, access: Access) -> io::Result<(File, u64)> {
        threads::enter("Dir::open_file");
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::RDWR,
        };
        // Without waiting for the other end of what turns out to be a pipe.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::LOOP) => return Err(refusal("is a symbolic link, which is not followed: remove it".to_owned())),
            Err(refusal) => return Err(refusal.into()),
        };
        let found = rustix::fs::fstat(&fd)?;
        check_regular(&found)?;
        if found.st_mode & FOR_OTHERS != 0 && found.st_nlink == 1 {
            rustix::fs::fchmod(&fd, PRIVATE_FILE)?;
        }
        Ok((fd.into(), found.st_nlink))
    }

    /// Opens a file for reading and writing; creates an empty one if it does not exist.
    ///
    /// # Errors
    /// Those of [`open_file`](Self::open_file).
    pub fn open_or_create(&self, name: &str) -> io::Result<File> {
        loop {
            match self.open_file(name, Access::Write) {
                Err(missing) if missing.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
            match self.create_new(name) {
                // Another process made it meanwhile.
                Err(exists) if exists.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other,
            }
        }
    }

    /// Creates an empty file. An entry with its name is removed first.
    ///
    /// # Errors
    /// The name is that of a directory, or the system refuses.
    pub fn create(&self, name: &str) -> io::Result<File> {
        self.remove(name)?;
        self.create_new(name)
    }

    /// Creates an empty file with a name that no entry has.
    fn create_new(&self, name: &str) -> io::Result<File> {
        threads::enter("Dir::create");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, name, flags, PRIVATE_FILE)?.into())
    }

    /// All bytes of a file.
    ///
    /// # Errors
    /// Those of [`open_file`](Self::open_file).
    pub fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_file(name, Access::Read)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes a file under a temporary name and renames it, so that a reader sees either the old content or the new content.
    /// If `durable`, the new content is on the disk before it replaces the old.
    ///
    /// # Errors
    /// The system refuses; then the old content stays.
    pub fn replace(&self, name: &str, temporary: &str, parts: &[&[u8]], durable: bool) -> io::Result<()> {
        let mut file = self.create(temporary)?;
        let mut written = parts.iter().try_for_each(|part| file.write_all(part));
        if durable {
            written = written.and_then(|()| file.sync_all());
        }
        let placed = written.and_then(|()| self.rename(temporary, self, name));
        if placed.is_err() {
            // It is no worse if it stays.
            let _ = self.remove(temporary);
        }
        placed
    }

    /// Renames an entry; an entry with the new name is replaced.
    ///
    /// # Errors
    /// There is no such entry, or the system refuses.
    pub fn rename(&self, from: &str, to: &Self, name: &str) -> io::Result<()> {
        threads::enter("Dir::rename");
        Ok(rustix::fs::renameat(&self.fd, from, &to.fd, name)?)
    }

    /// Renames an entry to `NAME.SUFFIX`, or to `NAME.SUFFIX-2` and so on: the first of these that no entry has, which is returned.
    ///
    /// # Errors
    /// There is no such entry, too many were set aside already, or the system refuses.
    pub fn set_aside(&self, name: &str, suffix: &str) -> io::Result<String> {
        let taken = self.names()?;
        let names = (1..=MAX_SET_ASIDE).map(|number| match number {
            1 => format!("{name}.{suffix}"),
            _ => format!("{name}.{suffix}-{number}"),
        });
        let free = names.into_iter().find(|name| !taken.contains(name));
        let free = free.ok_or_else(|| {
            io::Error::other(format!("{MAX_SET_ASIDE} files {name}.{suffix}-… were set aside here: remove some"))
        })?;
        self.rename(name, self, &free)?;
        Ok(free)
    }

    /// Removes an entry that is not a directory. False if there was none.
    ///
    /// # Errors
    /// The system refuses.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> io::Result<bool> {
        threads::enter("Dir::remove");
        match rustix::fs::unlinkat(&self.fd, name.as_ref(), AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Describes an entry without opening it, and takes the permissions of others from it if it is a regular file of this user. `None` if there is
    /// no such entry, or if it is anything else.
    ///
    /// # Errors
    /// The system refuses.
    pub fn look(&self, name: &str) -> io::Result<Option<Look>> {
        threads::enter("Dir::look");
        let found = match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(None),
            Err(refusal) => return Err(refusal.into()),
        };
        if check_regular(&found).is_err() {
            return Ok(None);
        }
        if found.st_mode & FOR_OTHERS != 0 && found.st_nlink == 1 {
            // Nobody else may write here, so it is still what it was a moment ago.
            rustix::fs::chmodat(&self.fd, name, PRIVATE_FILE, AtFlags::empty())?;
        }
        let length = u64::try_from(found.st_size).unwrap_or_default();
        Ok(Some(Look { length, modified: found.st_mtime }))
    }

    /// The names of its entries, as far as they are UTF-8: agents create no other names.
    ///
    /// # Errors
    /// The system refuses.
    pub fn names(&self) -> io::Result<Vec<String>> {
        threads::enter("Dir::names");
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Its file system.
    pub(crate) fn space(&self) -> io::Result<Space> {
        let space = rustix::fs::fstatvfs(&self.fd)?;
        let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
        Ok(Space { total: bytes(space.f_blocks), free: bytes(space.f_bavail) })
    }

    /// Takes the permissions of others from the data directory if it has only entries of agents: a home directory, for example, that somebody named by
    /// mistake stays as it is.
    fn tighten_own(&self, found: &Stat) -> io::Result<()> {
        if found.st_mode & FOR_OTHERS == 0 {
            return Ok(());
        }
        let names = self.names()?;
        let is_own = |name: &String| {
            let name = name.trim_start_matches('.');
            OWN.contains(&name.split_once('.').map_or(name, |(front, _)| front))
        };
        if names.iter().all(is_own) {
            rustix::fs::fchmod(&self.fd, PRIVATE_DIR)?;
        }
        Ok(())
    }
}

/// Creates a data directory. Missing directories above it get the permissions of the user's umask.
fn make(path: &Path) -> Result<()> {
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        std::fs::create_dir_all(above).map_err(StoreError::io("make", above))?;
    }
    match rustix::fs::mkdirat(CWD, path, PRIVATE_DIR) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(refusal) => Err(StoreError::io("make", path)(refusal.into())),
    }
}

fn check_regular(found: &Stat) -> io::Result<()> {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => check_owner(found),
        FileType::Symlink => Err(refusal("is a symbolic link, which is not followed: remove it".to_owned())),
        _ => Err(refusal("is no regular file: remove it".to_owned())),
    }
}

fn check_owner(found: &Stat) -> io::Result<()> {
    let me = rustix::process::geteuid().as_raw();
    if found.st_uid == me {
        return Ok(());
    }
    Err(refusal(format!("belongs to user {}, and darter runs as user {me}: remove it", found.st_uid)))
}

/// The error for an entry that should be a directory, and is not.
#[derive(Debug, thiserror::Error)]
#[error("is no directory: remove it")]
struct NoDirectory(#[source] io::Error);

fn no_directory(why: Errno) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, NoDirectory(why.into()))
}

/// An error of this module itself. Its kind is never one that means that an entry does not exist.
fn refusal(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}
