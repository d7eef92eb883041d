//! Takes content and puts it where it belongs.
//!
//! Content comes as bytes, or as verified parts of a file of the store's; for a file in any order, and some parts perhaps again.
//! A file is never copied where it need not be:
//!
//! | way | when | what the result is |
//! |---|---|---|
//! | move | this process's own store, which need not keep it, on the same file system | the store's file |
//! | reflink | the file system can share blocks | a file of its own, which takes no room |
//! | hard link | `--link`, same file system, and the user may | the store's file under a second name |
//! | copy | else, while the content comes | a file of its own |
//!
//! Copies are made inside the kernel (see [`copying`](super::copying)), so that the last part is in its place a moment after it
//! came. The result is not waited for on its way to the disk, as `cp` or `curl` don't: the store has the content as well, or the
//! origin. `--sync` waits. An old file that is written to is waited for in any case: what was half written could not be told.
//!
//! An old file is replaced by one with its mode, owner and attributes. It is written to instead when it has other names
//! (hard links), is mounted there, or when a new file could not take its place: then its bytes change once the content is all here
//! and right, and not before.
//!
//! Dropped without [`Sink::commit`], it leaves nothing behind.

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

/// Some content.
#[derive(Clone, Debug)]
pub(super) enum Chunk {
    /// In memory, and its place.
    Bytes(u64, Bytes),
    /// In this file, at the content's own offsets.
    File(Arc<File>, ByteRange),
}

/// The content's description, and how it may be placed.
#[derive(Clone, Debug)]
pub(super) struct Wishes {
    /// Names the content.
    pub(super) blob: BlobId,
    /// Its length, if known.
    pub(super) length: Option<u64>,
    /// True if the result is the content, and not a part of it: then it is marked as that.
    pub(super) marks: bool,
    /// The store whose file may become the result.
    pub(super) moves: Option<Arc<Home>>,
    /// The result may be a hard link to the store's file.
    pub(super) link: bool,
    /// The modification time to give it.
    pub(super) modified: Option<SystemTime>,
    /// True to wait until it is on the disk.
    pub(super) sync: bool,
}

/// A store of this process, whose files may become results. A blob may be wanted under several names: the first to come gets the
/// file, the others a copy.
#[derive(Debug)]
pub(super) struct Home {
    directory: PathBuf,
    /// The files (device and inode) that have become results: wherever they are, none is the store's any more. Locked while a file is
    /// moved.
    moved: Mutex<HashSet<(u64, u64)>>,
}

impl Home {
    /// The store in a directory.
    pub(super) fn new(directory: &Path) -> Self {
        // As the kernel names files in it.
        let directory = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
        Self { directory, moved: Mutex::default() }
    }

    /// True if a file is the store's, and nobody's result yet.
    fn has(&self, moved: &HashSet<(u64, u64)>, file: &File, found: (u64, u64)) -> bool {
        !moved.contains(&found) && temporary::path_of(file).is_ok_and(|path| path.starts_with(&self.directory))
    }
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
    /// A standard stream, a device or a pipe: written as it comes, in order.
    Stream { spout: Spout, path: Option<PathBuf>, at: u64 },
    /// A file.
    File(Box<FileUnderWay>),
}

impl Sink {
    /// Opens a target. May wait for a pipe's reader.
    pub(super) fn open(target: &Target, wishes: Wishes) -> anyhow::Result<Self> {
        let stream = |file: std::os::fd::OwnedFd| Self::Stream { spout: Spout::new(file.into()), path: None, at: 0 };
        match target {
            // Without the line buffer that `io::stdout` puts in the way.
            Target::Stdout => Ok(stream(io::stdout().as_fd().try_clone_to_owned()?)),
            Target::Stderr => Ok(stream(io::stderr().as_fd().try_clone_to_owned()?)),
            Target::Device(path) => {
                // A descriptor's name may lead to a file that others have written to before.
                let append = std::fs::metadata(path).is_ok_and(|found| found.is_file());
                let file = OpenOptions::new().write(true).append(append).open(path);
                let file = file.with_context(|| format!("can't write to {}", path.display()))?;
                Ok(Self::Stream { spout: Spout::new(file), path: Some(path.clone()), at: 0 })
            }
            Target::File(target) => Ok(Self::File(Box::new(FileUnderWay::new(target.clone(), wishes)))),
        }
    }

    /// Takes a part. A stream's bytes are shown to `seen`, since they can't be read again.
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
                    // A pipe's reader that goes away has seen enough, whatever the pipe is called.
                    Some(path) if error.kind() == io::ErrorKind::BrokenPipe => Failure::ReaderLeft(path.clone()).into(),
                    Some(path) => cannot_write(path)(error),
                    None => output::stdout_error(error),
                })
            }
            Self::File(part) => part.take(chunk),
        }
    }

    /// Drops all bytes before; other content comes, described by `wishes`. Not for a stream that was written to.
    pub(super) fn start_over(&mut self, wishes: Wishes) -> anyhow::Result<()> {
        match self {
            Self::Stream { at: 0, .. } => Ok(()),
            Self::Stream { .. } => bail!("the content changed while it was read; ask again"),
            Self::File(part) => {
                **part = FileUnderWay::new(part.target.clone(), wishes);
                Ok(())
            }
        }
    }

    /// Up to where all bytes have come.
    pub(super) fn prefix(&self) -> u64 {
        match self {
            Self::Stream { at, .. } => *at,
            Self::File(part) => part.covered.prefix(),
        }
    }

    /// Succeeds if all of `length` bytes have come; else tells how many have.
    pub(super) fn has_all_of(&self, length: u64) -> Result<(), u64> {
        match self {
            Self::Stream { at, .. } if *at == length => Ok(()),
            Self::Stream { at, .. } => Err(*at),
            Self::File(part) if part.covered.is_all_of(length) => Ok(()),
            Self::File(part) => Err(part.covered.bytes()),
        }
    }

    /// The file in which the content is that came, at its own offsets; `None` for a stream, and where nothing came.
    pub(super) fn readable(&self) -> Option<&File> {
        let Self::File(part) = self else { return None };
        match &part.way {
            Way::Undecided => None,
            Way::Source(source, _) => Some(source),
            Way::Temporary(temporary, _) => Some(temporary.file()),
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

impl Chunk {
    /// The chunk's place in the content.
    pub(super) fn range(&self) -> ByteRange {
        match self {
            Self::Bytes(at, bytes) => ByteRange::new(*at, at.saturating_add(bytes.len() as u64)),
            Self::File(_, range) => *range,
        }
    }
}

/// A file on its way.
#[derive(Debug)]
pub(super) struct FileUnderWay {
    target: FileTarget,
    wishes: Wishes,
    /// The old file is written to, not replaced.
    in_place: bool,
    way: Way,
    covered: Covered,
    copier: Copier,
}

#[derive(Debug)]
enum Way {
    /// Nothing came yet.
    Undecided,
    /// Nothing is written before all is here: this file has it.
    Source(Arc<File>, Share),
    /// Written as it comes.
    Temporary(Temporary, Reserved),
}

#[derive(Debug)]
enum Share {
    Move,
    Reflink(Temporary),
    Hardlink,
    /// Into the old file.
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

    /// How content in `file` is to become the result.
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
        // A file that can't be linked is copied while it comes, and not at its end.
        if same && self.wishes.link && attributes::mark_as_stores(file) {
            return share(Share::Hardlink);
        }
        let room = self.reserve(&temporary, self.target.directory(), self.wishes.length)?;
        Ok(Way::Temporary(temporary, room))
    }

    /// A file that the content is written to as it comes, with room for it. Content that is written into the old file waits for its
    /// end where there is room: in the directory for temporary files, or else beside the old file.
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

    /// Makes sure of the room, so that a full disk is told before anything is read for it.
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

    /// Makes sure of the room in the old file, into which everything is written at the end: what it has now makes room, and blocks that
    /// can be shared need none.
    fn judge_room_in_place(&self, source: &File) -> anyhow::Result<()> {
        let directory = self.target.directory();
        let shares = || Temporary::create(directory).is_ok_and(|model| ioctl_ficlone(model.file(), source).is_ok());
        match (self.wishes.length, self.target.open_in_place()) {
            (Some(length), Ok(old)) if !shares() => check_room(directory, length, room_for_all_of(&old)),
            _ => Ok(()),
        }
    }

    /// The source's bytes so far, in a file of their own.
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
            // A name is durable only once its directory is. One that may be written to and not be read can't be synced.
            match File::open(self.target.directory()).and_then(|directory| directory.sync_all()) {
                Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
                    return Err(error).with_context(finishing);
                }
                _ => {}
            }
        }
        Ok(placed)
    }

    /// Sees what is there now: since the beginning somebody may have made the file, removed it, or changed its mode, owner or names.
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
            // Empty content never came.
            Way::Undecided | Way::Source(..) => Temporary::create(self.target.directory())?,
        };
        self.dress(temporary.file())?;
        temporary.name(&self.target.path)?;
        Ok(Placed::Copied)
    }

    /// Makes the store's file the result; false where that can't be.
    fn move_here(&self, source: &File) -> io::Result<bool> {
        let Some(home) = &self.wishes.moves else { return Ok(false) };
        let mut moved = home.moved.lock();
        let found = source.metadata().map(|found| (found.dev(), found.ino()))?;
        // A file of the store's is its owner's alone until now.
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

    /// Gives a file that is to have the final name everything but the name.
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

    /// Writes all of the content into the file that is there.
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

/// True if the content is written into the file that is there, since it has other names, or a new file can't take its
/// place.
fn is_written_to(target: &FileTarget) -> bool {
    target.old.as_ref().is_some_and(|old| {
        target.linked().is_some()
            || attributes::is_mount(&target.path)
            || !attributes::can_replace(old, target.directory())
    })
}

/// True if the file is the content and nothing more.
fn is_whole(source: &File, bytes: u64) -> bool {
    source.metadata().is_ok_and(|found| found.len() == bytes)
}

/// The error of a device or a pipe.
fn cannot_write(path: &Path) -> impl Fn(io::Error) -> anyhow::Error + use<> {
    let path = path.to_owned();
    move |error| anyhow::Error::new(error).context(format!("can't write {}", path.display()))
}

/// The error of a file, for which there was room.
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
