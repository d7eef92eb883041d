//! Puts arriving content into its place.
//!
//! Content arrives as bytes, or as verified ranges of a file of the store; for a file in any order, and some ranges perhaps twice.
//! A file is copied only if no cheaper way works:
//!
//! | way | when | what the result is |
//! |---|---|---|
//! | move | this process's own store, which need not keep the blob, on the same file system | the store's file |
//! | reflink | the file system can share blocks | a separate file, which takes no space |
//! | hard link | `--link`, same file system, and the user has the right | the store's file under a second name |
//! | copy | otherwise, while the content arrives | a separate file |
//!
//! Copies are made inside the kernel (see [`copying`](super::copying)), so that the last range is in place a moment after it
//! arrived. As with `cp` or `curl`, nothing waits until the result is on the disk, since the store or the origin still has the content.
//! `--sync` waits. If an old file is overwritten in place, the get always waits: after a crash nobody could tell that it is half written.
//!
//! An old file is replaced by a new one with the same mode, owner and attributes. It is overwritten in place instead if it has several names
//! (hard links), is a mount point, or can't be replaced: then its bytes change only once the content is complete
//! and verified.
//!
//! A [`Sink`] that is dropped without [`Sink::commit`] leaves nothing behind.

use std::collections::HashSet;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use darter_core::{BlobId, ByteRange};
use parking_lot::Mutex;
use rustix::fs::ioctl_ficlone;
use serde::Serialize;

use super::attributes;
use super::copying::{Copier, Seen, Spout};
use super::covered::Covered;
use super::reserving::{Reserved, check_room, no_room_left, room_for_all_of};
use super::target::{FileTarget, Target, writable};
use super::temporary::{self, Temporary};
use crate::failure::Failure;
use crate::output;

/// A range of the content.
#[derive(Clone, Debug)]
pub(super) enum Chunk {
    /// Bytes in memory, and their offset.
    Bytes(u64, Bytes),
    /// A range of this file, at the same offsets as in the content.
    File(Arc<File>, ByteRange),
}

/// What is known of the content, and how it may be placed.
#[derive(Clone, Debug)]
pub(super) struct Wishes {
    /// The blob.
    pub(super) blob: BlobId,
    /// The content's length, if known.
    pub(super) length: Option<u64>,
    /// True if the result is the whole content, not a range: then it is marked with the blob.
    pub(super) marks: bool,
    /// The store whose file may become the result.
    pub(super) moves: Option<Arc<Home>>,
    /// True if the result may be a hard link to the store's file.
    pub(super) link: bool,
    /// The modification time for the result.
    pub(super) modified: Option<SystemTime>,
    /// True to wait until the result is on the disk.
    pub(super) sync: bool,
}

/// A store of this process whose files may become results. If a blob is wanted under several names, the first gets the
/// file and the others get copies.
#[derive(Debug)]
pub(super) struct Home {
    directory: PathBuf,
    /// The files (device and inode) that have become results: they no longer belong to the store, under whatever name. Locked while a file is
    /// moved.
    moved: Mutex<HashSet<(u64, u64)>>,
}

impl Home {
    /// The store in a directory.
    pub(super) fn new(directory: &Path) -> Self {
        // The kernel names files by the resolved path.
        let directory = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
        Self { directory, moved: Mutex::default() }
    }

    /// True if a file belongs to the store and has not become a result.
    fn has(&self, moved: &HashSet<(u64, u64)>, file: &File, found: (u64, u64)) -> bool {
        !moved.contains(&found) && temporary::path_of(file).is_ok_and(|path| path.starts_with(&self.directory))
    }
}

/// How content got to its place.
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
    /// The file had the right content already.
    Kept,
}

/// Takes content in.
#[derive(Debug)]
pub(super) enum Sink {
    /// A standard stream, a device or a pipe: written in order, as the content arrives.
    Stream { spout: Spout, path: Option<PathBuf>, at: u64 },
    /// A file.
    File(Box<FileUnderWay>),
}

impl Sink {
    /// Opens a target. May wait for a pipe's reader.
    pub(super) fn open(target: &Target, wishes: Wishes) -> anyhow::Result<Self> {
        let stream = |file: std::os::fd::OwnedFd| Self::Stream { spout: Spout::new(file.into()), path: None, at: 0 };
        match target {
            // Written directly: `io::stdout` has a line buffer.
            Target::Stdout => Ok(stream(io::stdout().as_fd().try_clone_to_owned()?)),
            Target::Stderr => Ok(stream(io::stderr().as_fd().try_clone_to_owned()?)),
            Target::Device(path) => {
                // The name of a descriptor may lead to a file into which others have written before.
                let append = std::fs::metadata(path).is_ok_and(|found| found.is_file());
                let file = OpenOptions::new().write(true).append(append).open(path);
                let file = file.with_context(|| format!("can't write to {}", path.display()))?;
                Ok(Self::Stream { spout: Spout::new(file), path: Some(path.clone()), at: 0 })
            }
            Target::File(target) => Ok(Self::File(Box::new(FileUnderWay::new(target.clone(), wishes)))),
        }
    }

    /// Takes a range. The bytes of a stream are shown to `seen`, since they can't be read again.
    pub(super) fn take(&mut self, chunk: &Chunk, seen: Seen<'_>) -> anyhow::Result<()> {
        match self {
            Self::Stream { spout, path, at } => {
                let range = chunk.range();
                if range.start() != *at {
                    bail!("the daemon left out a part of the content; is it of another version?");
                }
                *at = range.end();
                let written = match chunk {
                    Chunk::Bytes(_, bytes) => spout.write(bytes).map(|()| {
                        if let Some(seen) = seen {
                            seen(bytes);
                        }
                    }),
                    Chunk::File(file, range) => spout.pour(file, *range, seen),
                };
                written.map_err(|error| match path {
                    // A pipe whose reader closes it is no error, whatever name the pipe has.
                    Some(path) if error.kind() == io::ErrorKind::BrokenPipe => Failure::ReaderLeft(path.clone()).into(),
                    Some(path) => cannot_write(path)(error),
                    None => output::stdout_error(error),
                })
            }
            Self::File(part) => part.take(chunk),
        }
    }

    /// Drops everything so far and starts over with the content that `wishes` describes. Fails for a stream that was written to.
    pub(super) fn start_over(&mut self, wishes: Wishes) -> anyhow::Result<()> {
        match self {
            Self::Stream { at: 0, .. } => Ok(()),
            Self::Stream { .. } => bail!("the content changed while it was read; run the command again"),
            Self::File(part) => {
                **part = FileUnderWay::new(part.target.clone(), wishes);
                Ok(())
            }
        }
    }

    /// The offset up to which all bytes have arrived.
    pub(super) fn prefix(&self) -> u64 {
        match self {
            Self::Stream { at, .. } => *at,
            Self::File(part) => part.covered.prefix(),
        }
    }

    /// Succeeds if all of `length` bytes have arrived; else returns how many have.
    pub(super) fn has_all_of(&self, length: u64) -> Result<(), u64> {
        match self {
            Self::Stream { at, .. } if *at == length => Ok(()),
            Self::Stream { at, .. } => Err(*at),
            Self::File(part) if part.covered.is_all_of(length) => Ok(()),
            Self::File(part) => Err(part.covered.bytes()),
        }
    }

    /// The file that has the content so far, at its own offsets; `None` for a stream, and if nothing has arrived.
    pub(super) fn readable(&self) -> Option<&File> {
        let Self::File(part) = self else { return None };
        match &part.way {
            Way::Undecided => None,
            Way::Source(source, _) => Some(source),
            Way::Temporary(temporary, _) => Some(temporary.file()),
        }
    }

    /// Finishes the result; the content has to be complete and verified.
    pub(super) fn commit(self) -> anyhow::Result<Placed> {
        match self {
            Self::Stream { .. } => Ok(Placed::Copied),
            Self::File(part) => part.commit(),
        }
    }
}

impl Chunk {
    /// The chunk's range of the content.
    pub(super) fn range(&self) -> ByteRange {
        match self {
            Self::Bytes(at, bytes) => ByteRange::new(*at, at.saturating_add(bytes.len() as u64)),
            Self::File(_, range) => *range,
        }
    }
}

/// A file that is being downloaded.
#[derive(Debug)]
pub(super) struct FileUnderWay {
    target: FileTarget,
    wishes: Wishes,
    /// True if the old file is overwritten in place, not replaced.
    in_place: bool,
    way: Way,
    covered: Covered,
    copier: Copier,
}

#[derive(Debug)]
enum Way {
    /// Nothing has arrived.
    Undecided,
    /// Nothing is written until the content is complete; this file of the store has it.
    Source(Arc<File>, Share),
    /// Written as the content arrives.
    Temporary(Temporary, Reserved),
}

#[derive(Debug)]
enum Share {
    Move,
    Reflink(Temporary),
    Hardlink,
    /// Into the old file, in place.
    Copy,
}

impl FileUnderWay {
    fn new(target: FileTarget, wishes: Wishes) -> Self {
        let in_place = is_written_to(&target);
        let (way, covered, copier) = (Way::Undecided, Covered::default(), Copier::new());
        Self { target, wishes, in_place, way, covered, copier }
    }

    fn take(&mut self, chunk: &Chunk) -> anyhow::Result<()> {
        if matches!(self.way, Way::Undecided) {
            self.way = match chunk {
                Chunk::Bytes(..) => {
                    let (temporary, room) = self.begin()?;
                    Way::Temporary(temporary, room)
                }
                Chunk::File(file, _) => self.way_from(file)?,
            };
        }
        let other = match (&self.way, chunk) {
            (Way::Source(source, _), Chunk::File(file, _)) => !Arc::ptr_eq(source, file),
            (Way::Source(..), Chunk::Bytes(..)) => true,
            _ => false,
        };
        if other {
            self.copy_source()?;
        }
        if let Way::Temporary(temporary, _) = &self.way {
            let written = match chunk {
                Chunk::Bytes(at, bytes) => temporary.file().write_all_at(bytes, *at),
                Chunk::File(file, range) => self.copier.copy(file, temporary.file(), *range),
            };
            written.map_err(cannot_fill(&self.target.shown))?;
        }
        self.covered.add(chunk.range());
        if let (Way::Temporary(_, room), Some(length)) = (&mut self.way, self.wishes.length) {
            room.has_left(length.saturating_sub(self.covered.bytes()));
        }
        Ok(())
    }

    /// How content that is in `file` will become the result.
    fn way_from(&mut self, file: &Arc<File>) -> anyhow::Result<Way> {
        let share = |share| Ok(Way::Source(Arc::clone(file), share));
        if self.in_place {
            self.judge_room_in_place(file)?;
            return share(Share::Copy);
        }
        let same = temporary::can_name(file, self.target.directory());
        if same && self.wishes.moves.is_some() {
            return share(Share::Move);
        }
        let temporary = Temporary::create(self.target.directory()).map_err(cannot_make(self.target.directory()))?;
        if ioctl_ficlone(temporary.file(), file).is_ok() {
            return share(Share::Reflink(temporary));
        }
        // If the link is not possible, the content is copied while it arrives, rather than at the end.
        if same && self.wishes.link && attributes::mark_as_stores(file) {
            return share(Share::Hardlink);
        }
        let room = self.reserve(&temporary, self.target.directory(), self.wishes.length)?;
        Ok(Way::Temporary(temporary, room))
    }

    /// A temporary file with reserved space, into which content is written as it arrives. If the old file is overwritten in place at the end, the
    /// temporary file is in the directory for temporary files if there is space, or else next to the old file.
    fn begin(&mut self) -> anyhow::Result<(Temporary, Reserved)> {
        let here = self.target.directory();
        if !self.in_place {
            return self.begin_in(here, self.wishes.length);
        }
        self.begin_in(&std::env::temp_dir(), self.wishes.length).or_else(|refusal| {
            let old = std::fs::metadata(&self.target.path).map_or(0, |old| old.blocks() * 512);
            let twice = self.wishes.length.map(|length| length.max((2 * length).saturating_sub(old)));
            self.begin_in(here, twice).map_err(|_| refusal)
        })
    }

    /// Reserves space first, so that a full disk is reported before anything is read.
    fn begin_in(&self, directory: &Path, needed: Option<u64>) -> anyhow::Result<(Temporary, Reserved)> {
        let temporary = Temporary::create(directory).map_err(cannot_make(directory))?;
        let room = self.reserve(&temporary, directory, needed)?;
        Ok((temporary, room))
    }

    fn reserve(&self, temporary: &Temporary, directory: &Path, needed: Option<u64>) -> anyhow::Result<Reserved> {
        match self.wishes.length.filter(|length| *length > 0) {
            Some(length) => Reserved::keep(temporary.file(), directory, length, needed.unwrap_or(length)),
            None => Ok(Reserved::default()),
        }
    }

    /// Checks that the content will fit into the old file at the end. The old file's blocks count as free, and blocks that
    /// can be shared need no space.
    fn judge_room_in_place(&self, source: &File) -> anyhow::Result<()> {
        let directory = self.target.directory();
        let shares = || Temporary::create(directory).is_ok_and(|model| ioctl_ficlone(model.file(), source).is_ok());
        match (self.wishes.length, self.target.open_in_place()) {
            (Some(length), Ok(old)) if !shares() => check_room(directory, length, room_for_all_of(&old)),
            _ => Ok(()),
        }
    }

    /// Copies the source's bytes so far into a temporary file.
    fn copy_source(&mut self) -> anyhow::Result<()> {
        let Way::Source(source, _) = &self.way else { return Ok(()) };
        let source = Arc::clone(source);
        let (temporary, room) = self.begin()?;
        for range in self.covered.ranges() {
            self.copier.copy(&source, temporary.file(), range).map_err(cannot_fill(&self.target.shown))?;
        }
        self.way = Way::Temporary(temporary, room);
        Ok(())
    }

    fn commit(mut self: Box<Self>) -> anyhow::Result<Placed> {
        let shown = self.target.shown.clone();
        let finishing = || format!("can't finish {}", shown.display());
        self.look_again()?;
        let placed = self.place().with_context(finishing)?;
        if self.wishes.sync {
            // A name is durable only once its directory is synced. A directory that is writable but not readable can't be synced.
            match File::open(self.target.directory()).and_then(|directory| directory.sync_all()) {
                Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
                    return Err(error).with_context(finishing);
                }
                _ => {}
            }
        }
        Ok(placed)
    }

    /// Looks at the target again: since the start somebody may have created the file, removed it, or changed its mode, owner or names.
    fn look_again(&mut self) -> anyhow::Result<()> {
        let found = std::fs::symlink_metadata(&self.target.path).ok().filter(Metadata::is_file);
        let kept = |it: &Metadata| (it.dev(), it.ino(), it.mode(), it.uid(), it.gid(), it.nlink());
        if found.as_ref().map(kept) == self.target.old.as_ref().map(kept) {
            return Ok(());
        }
        if let Some(found) = &found {
            writable(&self.target.shown, found)?;
        }
        self.target.old = found;
        self.in_place = is_written_to(&self.target);
        if self.in_place
            && let Way::Source(_, share) = &mut self.way
        {
            *share = Share::Copy;
        }
        Ok(())
    }

    fn place(&mut self) -> anyhow::Result<Placed> {
        let length = self.covered.prefix();
        match std::mem::replace(&mut self.way, Way::Undecided) {
            Way::Source(source, Share::Move) if is_whole(&source, length) => {
                if self.move_here(&source)? {
                    return Ok(Placed::Moved);
                }
                self.way = Way::Source(source, Share::Copy);
            }
            Way::Source(source, Share::Hardlink) if is_whole(&source, length) => {
                if temporary::link(&source, &self.target.path).is_ok() {
                    return Ok(Placed::Hardlink);
                }
                self.way = Way::Source(source, Share::Copy);
            }
            Way::Source(source, Share::Reflink(temporary)) => {
                if ioctl_ficlone(temporary.file(), &source).is_ok() {
                    temporary.file().set_len(length)?;
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
            Way::Temporary(temporary, _) => temporary,
            // The content is empty: no chunk ever arrived.
            Way::Undecided | Way::Source(..) => Temporary::create(self.target.directory())?,
        };
        self.dress(temporary.file())?;
        temporary.name(&self.target.path)?;
        Ok(Placed::Copied)
    }

    /// Makes the store's file the result; false if that is not possible.
    fn move_here(&self, source: &File) -> io::Result<bool> {
        let Some(home) = &self.wishes.moves else { return Ok(false) };
        let mut moved = home.moved.lock();
        let found = source.metadata().map(|found| (found.dev(), found.ino()))?;
        // Until now only its owner may access the store's file.
        let replaces = self.target.old.is_some();
        if !home.has(&moved, source, found)
            || !(replaces || attributes::as_new_in(self.target.directory(), source).is_ok())
        {
            return Ok(false);
        }
        self.dress(source)?;
        let is_here = temporary::rename(source, &self.target.path).is_ok();
        if is_here {
            moved.insert(found);
        }
        Ok(is_here)
    }

    /// Gives a file all attributes that it should have, before it gets the final name.
    fn dress(&self, file: &File) -> io::Result<()> {
        if let Some(old) = &self.target.old {
            attributes::keep(file, old, &self.target.path)?;
        }
        self.date(file)?;
        if self.wishes.sync { file.sync_all() } else { Ok(()) }
    }

    fn date(&self, file: &File) -> io::Result<()> {
        if let Some(modified) = self.wishes.modified {
            file.set_modified(modified)?;
        }
        if self.wishes.marks {
            attributes::mark(file, self.wishes.blob);
        }
        Ok(())
    }

    /// Writes all of the content into the existing file.
    fn write_in_place(&mut self) -> anyhow::Result<Placed> {
        let file = self.target.open_in_place()?;
        let length = self.covered.prefix();
        let room = room_for_all_of(&file);
        let way = std::mem::replace(&mut self.way, Way::Undecided);
        let source = match &way {
            Way::Source(source, _) => Some(&**source),
            Way::Temporary(temporary, _) => Some(temporary.file()),
            Way::Undecided => None,
        };
        let mut placed = Placed::Copied;
        match source {
            Some(source) if ioctl_ficlone(&file, source).is_ok() => placed = Placed::Reflink,
            Some(source) => {
                check_room(self.target.directory(), length, room)?;
                self.copier.copy(source, &file, ByteRange::new(0, length))?;
            }
            None => {}
        }
        file.set_len(length)?;
        file.sync_all()?;
        self.date(&file)?;
        Ok(placed)
    }
}

/// True if the content is to be written into the existing file, which has several names or can't be
/// replaced.
fn is_written_to(target: &FileTarget) -> bool {
    target.old.as_ref().is_some_and(|old| {
        target.linked().is_some()
            || attributes::is_mount(&target.path)
            || !attributes::can_replace(old, target.directory())
    })
}

/// True if the file is the content and nothing else.
fn is_whole(source: &File, bytes: u64) -> bool {
    source.metadata().is_ok_and(|found| found.len() == bytes)
}

/// Makes the error for a device or a pipe that can't be written.
fn cannot_write(path: &Path) -> impl Fn(io::Error) -> anyhow::Error + use<> {
    let path = path.to_owned();
    move |error| anyhow::Error::new(error).context(format!("can't write {}", path.display()))
}

/// Makes the error for a file that can't be written although space was reserved.
fn cannot_fill(path: &Path) -> impl Fn(io::Error) -> anyhow::Error + use<> {
    let path = path.to_owned();
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => no_room_left(&path),
        _ => cannot_write(&path)(error),
    }
}

fn cannot_make(directory: &Path) -> impl Fn(io::Error) -> anyhow::Error + use<> {
    let directory = directory.to_owned();
    move |error| anyhow::Error::new(error).context(format!("can't write into {}", directory.display()))
}
