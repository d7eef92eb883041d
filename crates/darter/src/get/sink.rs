//! Takes content and puts it where it belongs.
//!
//! Content comes as bytes, or as verified parts of a file of the store's. A file is never copied where it need not be:
//!
//! | way | when | what the result is |
//! |---|---|---|
//! | move | this process's own store, which need not keep it, on the same file system | the store's file |
//! | reflink | the file system can share blocks | a file of its own, which takes no room |
//! | hard link | `--link`, same file system, and the user may | the store's file under a second name |
//! | copy | else, while the content comes | a file of its own |
//!
//! An old file is replaced by one with its mode, owner and attributes. It is written to instead when it has other names
//! (hard links), or when a new file could not be given its owner: then its bytes change once the content is all here and
//! right, and not before.
//!
//! Dropped without [`Sink::commit`], it leaves nothing behind.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use darter_core::{BlobId, ByteRange};
use rustix::fs::{FallocateFlags, copy_file_range, fallocate, ioctl_ficlone};
use serde::Serialize;

use super::attributes;
use super::target::{FileTarget, Target};
use super::temporary::{self, Temporary};
use crate::{output, units};

/// Bytes that are read, hashed and written at a time.
const BUFFER: usize = 1 << 20;

/// Some content.
#[derive(Clone, Debug)]
pub(super) enum Chunk {
    /// In memory.
    Bytes(Bytes),
    /// In this file, at the content's own offsets.
    File(Arc<File>, ByteRange),
}

/// What is known of the content, and how it may be placed.
#[derive(Clone, Debug)]
pub(super) struct Wishes {
    /// Names the content.
    pub(super) blob: BlobId,
    /// Its length, if known.
    pub(super) length: Option<u64>,
    /// The store's file may become the result.
    pub(super) moves: bool,
    /// The result may be a hard link to the store's file.
    pub(super) link: bool,
    /// The modification time to give it.
    pub(super) modified: Option<SystemTime>,
}

/// How content came to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Placed {
    /// The store's file has become the result.
    Moved,
    /// The result shares the store's blocks.
    Reflink,
    /// The result is the store's file.
    Hardlink,
    /// Every byte was written.
    Copied,
    /// It was right already.
    Kept,
}

/// Takes content.
#[derive(Debug)]
pub(super) enum Sink {
    /// A standard stream, a device or a pipe: written as it comes.
    Stream { file: File, path: Option<PathBuf> },
    /// A file.
    File(Box<Part>),
}

impl Sink {
    /// Opens a target. May wait for a pipe's reader.
    pub(super) fn open(target: &Target, wishes: Wishes) -> anyhow::Result<Self> {
        let stream = |file: std::os::fd::OwnedFd| Self::Stream { file: file.into(), path: None };
        match target {
            // Without the line buffer that `io::stdout` puts in the way.
            Target::Stdout => Ok(stream(io::stdout().as_fd().try_clone_to_owned()?)),
            Target::Stderr => Ok(stream(io::stderr().as_fd().try_clone_to_owned()?)),
            Target::Device(path) => {
                // A descriptor's name may lead to a file that others have written to before.
                let append = std::fs::metadata(path).is_ok_and(|found| found.is_file());
                let file = OpenOptions::new().write(true).append(append).open(path);
                let file = file.with_context(|| format!("can't write to {}", path.display()))?;
                Ok(Self::Stream { file, path: Some(path.clone()) })
            }
            Target::File(target) => Ok(Self::File(Box::new(Part::new(target.clone(), wishes)))),
        }
    }

    /// Takes what comes next, and shows its bytes to `seen`.
    pub(super) fn take(&mut self, chunk: &Chunk, seen: &mut impl FnMut(&[u8])) -> anyhow::Result<()> {
        match self {
            Self::Stream { file, path } => read_chunk(chunk, &mut |bytes| {
                file.write_all(bytes).map_err(|error| match path {
                    Some(path) => cannot_write(path)(error),
                    None => output::stdout_error(error),
                })?;
                seen(bytes);
                Ok(())
            }),
            Self::File(part) => part.take(chunk, seen),
        }
    }

    /// All of it has come, and is right.
    pub(super) fn commit(self) -> anyhow::Result<Placed> {
        match self {
            Self::Stream { .. } => Ok(Placed::Copied),
            Self::File(part) => part.commit(),
        }
    }
}

/// A file on its way.
#[derive(Debug)]
pub(super) struct Part {
    target: FileTarget,
    wishes: Wishes,
    /// The old file is written to, not replaced.
    in_place: bool,
    way: Way,
    taken: u64,
}

#[derive(Debug)]
enum Way {
    /// Nothing came yet.
    Undecided,
    /// Nothing is written before all is here: this file has it.
    Source(Arc<File>, Share),
    /// Written as it comes.
    Temporary(Temporary),
}

#[derive(Debug)]
enum Share {
    Move,
    Reflink(Temporary),
    Hardlink,
    /// Into the old file.
    Copy,
}

impl Part {
    fn new(target: FileTarget, wishes: Wishes) -> Self {
        let named_twice = |old: &Metadata| old.nlink() > 1 && !attributes::is_stores(&target.path);
        let in_place = target.old.as_ref().is_some_and(|old| named_twice(old) || !attributes::can_own(old));
        Self { target, wishes, in_place, way: Way::Undecided, taken: 0 }
    }

    fn take(&mut self, chunk: &Chunk, seen: &mut impl FnMut(&[u8])) -> anyhow::Result<()> {
        if matches!(self.way, Way::Undecided) {
            self.way = match chunk {
                Chunk::Bytes(_) => Way::Temporary(self.begin()?),
                Chunk::File(file, _) => self.way_from(file)?,
            };
        }
        let other = match (&self.way, chunk) {
            (Way::Source(source, _), Chunk::File(file, _)) => !Arc::ptr_eq(source, file),
            (Way::Source(..), Chunk::Bytes(_)) => true,
            _ => false,
        };
        if other {
            self.copy_source()?;
        }
        let (path, at) = (&self.target.shown, &mut self.taken);
        match &self.way {
            Way::Temporary(temporary) => read_chunk(chunk, &mut |bytes| {
                temporary.file().write_all_at(bytes, *at).map_err(cannot_write(path))?;
                *at += bytes.len() as u64;
                seen(bytes);
                Ok(())
            }),
            Way::Source(..) | Way::Undecided => read_chunk(chunk, &mut |bytes| {
                *at += bytes.len() as u64;
                seen(bytes);
                Ok(())
            }),
        }
    }

    /// How content in `file` is to become the result.
    fn way_from(&mut self, file: &Arc<File>) -> anyhow::Result<Way> {
        let share = |share| Ok(Way::Source(Arc::clone(file), share));
        if self.in_place {
            return share(Share::Copy);
        }
        let here = std::fs::metadata(self.target.directory()).map_err(cannot_write(&self.target.shown))?;
        let same = file.metadata().is_ok_and(|found| found.dev() == here.dev());
        if same && self.wishes.moves {
            return share(Share::Move);
        }
        let temporary = match Temporary::create(self.target.directory()) {
            Ok(temporary) => temporary,
            // A file that may be written in a directory that may not: written as it is.
            Err(_) if self.target.old.is_some() => {
                self.in_place = true;
                return share(Share::Copy);
            }
            Err(error) => return Err(cannot_make(self.target.directory())(error)),
        };
        if ioctl_ficlone(temporary.file(), file).is_ok() {
            return share(Share::Reflink(temporary));
        }
        if same && self.wishes.link {
            return share(Share::Hardlink);
        }
        self.reserve(&temporary)?;
        Ok(Way::Temporary(temporary))
    }

    /// A file that the content is written to as it comes, with room for it.
    fn begin(&mut self) -> anyhow::Result<Temporary> {
        let directory = if self.in_place { std::env::temp_dir() } else { self.target.directory().to_owned() };
        let temporary = match Temporary::create(&directory) {
            Err(_) if self.target.old.is_some() && !self.in_place => {
                self.in_place = true;
                return self.begin();
            }
            made => made.map_err(cannot_make(&directory))?,
        };
        self.reserve(&temporary)?;
        Ok(temporary)
    }

    /// Makes sure of the room, so that a full disk is told before anything is read for it.
    fn reserve(&self, temporary: &Temporary) -> anyhow::Result<()> {
        let Some(length) = self.wishes.length.filter(|length| *length > 0) else { return Ok(()) };
        let room = room_at(temporary.file());
        check_room(self.target.directory(), length, room)?;
        match fallocate(temporary.file(), FallocateFlags::KEEP_SIZE, 0, length) {
            Err(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
                check_room(self.target.directory(), length, Some(room.unwrap_or(0).min(length - 1)))
            }
            // Not every file system can promise.
            _ => Ok(()),
        }
    }

    /// The source's bytes so far, in a file of their own.
    fn copy_source(&mut self) -> anyhow::Result<()> {
        let Way::Source(source, _) = &self.way else { return Ok(()) };
        let source = Arc::clone(source);
        let temporary = self.begin()?;
        copy(&source, temporary.file(), self.taken).map_err(cannot_write(&self.target.shown))?;
        self.way = Way::Temporary(temporary);
        Ok(())
    }

    fn commit(mut self: Box<Self>) -> anyhow::Result<Placed> {
        let placed = self.place().with_context(|| format!("can't finish {}", self.target.shown.display()))?;
        // A name is durable only once its directory is. One that may be written to and not be read can't be synced.
        match File::open(self.target.directory()).and_then(|directory| directory.sync_all()) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
                Err(error).with_context(|| format!("can't finish {}", self.target.shown.display()))
            }
            _ => Ok(placed),
        }
    }

    fn place(&mut self) -> anyhow::Result<Placed> {
        match std::mem::replace(&mut self.way, Way::Undecided) {
            Way::Source(source, Share::Move) if is_whole(&source, self.taken) => {
                // A file of the store's is its owner's alone until now.
                source.set_permissions(attributes::fresh_mode())?;
                self.dress(&source)?;
                if temporary::rename(&source, &self.target.path).is_ok() {
                    return Ok(Placed::Moved);
                }
                self.way = Way::Source(source, Share::Copy);
            }
            Way::Source(source, Share::Hardlink) if is_whole(&source, self.taken) => {
                let linked = attributes::mark_as_stores(&source) && temporary::link(&source, &self.target.path).is_ok();
                if linked {
                    return Ok(Placed::Hardlink);
                }
                self.way = Way::Source(source, Share::Copy);
            }
            Way::Source(source, Share::Reflink(temporary)) => {
                if ioctl_ficlone(temporary.file(), &source).is_ok() {
                    temporary.file().set_len(self.taken)?;
                    self.dress(temporary.file())?;
                    temporary.name(&self.target.path)?;
                    return Ok(Placed::Reflink);
                }
                self.way = Way::Source(source, Share::Copy);
            }
            way => self.way = way,
        }
        if self.in_place {
            return self.write_in_place();
        }
        self.copy_source()?;
        let temporary = match std::mem::replace(&mut self.way, Way::Undecided) {
            Way::Temporary(temporary) => temporary,
            // Empty content never came.
            Way::Undecided | Way::Source(..) => match Temporary::create(self.target.directory()) {
                Err(_) if self.target.old.is_some() => return self.write_in_place(),
                made => made?,
            },
        };
        self.dress(temporary.file())?;
        temporary.name(&self.target.path)?;
        Ok(Placed::Copied)
    }

    /// Gives a file that is to have the final name everything but the name, and makes it durable.
    fn dress(&self, file: &File) -> io::Result<()> {
        if let Some(old) = &self.target.old {
            attributes::keep(file, old, &self.target.path)?;
        }
        self.date(file)?;
        file.sync_all()
    }

    fn date(&self, file: &File) -> io::Result<()> {
        if let Some(modified) = self.wishes.modified {
            file.set_modified(modified)?;
        }
        attributes::mark(file, self.wishes.blob);
        Ok(())
    }

    /// Writes all of the content into the file that is there.
    fn write_in_place(&mut self) -> anyhow::Result<Placed> {
        let mut file = self.target.open_in_place()?;
        let freed = file.metadata()?.blocks() * 512;
        let room = room_at(&file).map(|room| room.saturating_add(freed));
        let way = std::mem::replace(&mut self.way, Way::Undecided);
        let source = match &way {
            Way::Source(source, _) => Some(&**source),
            Way::Temporary(temporary) => Some(temporary.file()),
            Way::Undecided => None,
        };
        let mut placed = Placed::Copied;
        match source {
            Some(source) if ioctl_ficlone(&file, source).is_ok() => placed = Placed::Reflink,
            Some(source) => {
                check_room(self.target.directory(), self.taken, room)?;
                file.rewind()?;
                copy(source, &file, self.taken)?;
            }
            None => {}
        }
        file.set_len(self.taken)?;
        self.date(&file)?;
        file.sync_all()?;
        Ok(placed)
    }
}

/// Whether the file is the content and nothing more.
fn is_whole(source: &File, bytes: u64) -> bool {
    source.metadata().is_ok_and(|found| found.len() == bytes)
}

/// Shows all bytes of a chunk, in order.
fn read_chunk(chunk: &Chunk, each: &mut impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    match chunk {
        Chunk::Bytes(bytes) => each(bytes),
        Chunk::File(file, range) => {
            let mut buffer = vec![0; BUFFER.min(usize::try_from(range.len()).unwrap_or(BUFFER))];
            let mut at = range.start();
            while at < range.end() {
                let count = buffer.len().min(usize::try_from(range.end() - at).unwrap_or(buffer.len()));
                file.read_exact_at(&mut buffer[..count], at).context("can't read the store's file")?;
                each(&buffer[..count])?;
                at += count as u64;
            }
            Ok(())
        }
    }
}

/// Copies the first bytes of a file, inside the kernel where it can.
fn copy(from: &File, to: &File, bytes: u64) -> io::Result<()> {
    let (mut read, mut written) = (0, 0);
    while read < bytes {
        let most = usize::try_from(bytes - read).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(from, Some(&mut read), to, Some(&mut written), most) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(rustix::io::Errno::NOSPC) => return Err(rustix::io::Errno::NOSPC.into()),
            // Other file systems, or none that can.
            Err(_) => break,
        }
    }
    let mut buffer = vec![0; BUFFER];
    while read < bytes {
        let count = BUFFER.min(usize::try_from(bytes - read).unwrap_or(BUFFER));
        from.read_exact_at(&mut buffer[..count], read)?;
        to.write_all_at(&buffer[..count], read)?;
        read += count as u64;
    }
    Ok(())
}

/// Bytes free for this user where a file is.
fn room_at(file: &File) -> Option<u64> {
    let space = rustix::fs::fstatvfs(file).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

fn check_room(directory: &Path, needed: u64, free: Option<u64>) -> anyhow::Result<()> {
    match free {
        Some(free) if free < needed => bail!(
            "no room for {} in {}: {} are free; free some, or choose another place with -o",
            units::size(needed),
            directory.display(),
            units::size(free)
        ),
        _ => Ok(()),
    }
}

fn cannot_write(path: &Path) -> impl Fn(io::Error) -> anyhow::Error + use<> {
    let path = path.to_owned();
    move |error| anyhow::Error::new(error).context(format!("can't write {}", path.display()))
}

fn cannot_make(directory: &Path) -> impl Fn(io::Error) -> anyhow::Error + use<> {
    let directory = directory.to_owned();
    move |error| anyhow::Error::new(error).context(format!("can't write into {}", directory.display()))
}
