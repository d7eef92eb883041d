//! The medium of one blob's bytes: a file, or memory. A medium does not know pieces and hashes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use darter_core::ByteRange;
use parking_lot::{Mutex, RwLock};
use rustix::fs::FallocateFlags;

use crate::dir::Dir;
use crate::disk::trash::Trash;

/// How many bytes are written with one call. For more, the kernel looks for a long run of free memory, and moves other pages if there is none, which takes
/// longer than writing (docs/notes/expanded-layers.md).
const WRITE: usize = 128 << 10;

/// The bytes of one blob. A write or read is never longer than one piece.
pub(crate) trait Medium: Send + Sync + 'static {
    /// Writes all of `data`.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Fills all of `buffer`; `UnexpectedEof` if nothing was ever written there.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Frees the space of these bytes.
    fn release(&self, range: ByteRange) -> io::Result<()>;

    /// A stamp that changes when somebody else changes the bytes; `None` if nobody else can.
    fn stamp(&self) -> io::Result<Option<Stamp>>;

    /// The blob is gone: frees the space as soon as no read is in progress, even if there are handles of the blob.
    fn let_go(&self);

    /// The file with the bytes, if they are in a file.
    fn file(&self) -> Option<Arc<File>>;

    /// The name of the bytes in errors.
    fn path(&self) -> &Path;
}

/// Modification time and size of a file. Two writes within one tick of the kernel's clock (4 ms or less) have the same stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: (i64, i64),
    size: u64,
}

/// Bytes in a sparse file.
///
/// A file that has other names (hard links), too, is only read: before the first change its bytes are copied to a new file, which
/// replaces it when the blob is next saved.
pub(crate) struct FileMedium {
    /// `None` once the blob is gone, since an open file takes space, even without a name.
    file: RwLock<Option<Arc<File>>>,
    path: PathBuf,
    /// Held while the file is copied or moved to its place.
    links: Mutex<Links>,
}

enum Links {
    /// The file has no other name.
    None,
    /// It has other names; a copy will be made here.
    Some(Destination),
    /// It is a copy with this name, which is not in its place yet.
    Copied(Destination, String),
}

/// The directory in which a copy is made, and the place to which it is moved.
#[derive(Clone)]
struct Destination {
    trash: Arc<Trash>,
    dir: Dir,
    name: String,
}

impl FileMedium {
    /// The bytes in a file that has no other name.
    pub(crate) fn new(file: File, dir: &Dir, name: &str) -> Self {
        let path = dir.path_of(name);
        Self { file: RwLock::new(Some(Arc::new(file))), path, links: Mutex::new(Links::None) }
    }

    /// The bytes in a file that has other names.
    pub(crate) fn linked(file: File, dir: Dir, name: String, trash: Arc<Trash>) -> Self {
        let medium = Self::new(file, &dir, &name);
        *medium.links.lock() = Links::Some(Destination { trash, dir, name });
        medium
    }

    /// Makes the bytes durable, and moves a copy to its place.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let mut links = self.links.lock();
        if let Links::Copied(place, copy) = &*links {
            place.trash.place(copy, &place.dir, &place.name)?;
            *links = Links::None;
        }
        drop(links);
        // Of a blob that is gone nothing need be kept.
        self.file().map_or(Ok(()), |file| file.sync_data())
    }

    fn current(&self) -> io::Result<Arc<File>> {
        self.file().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The file, after it was copied if it had other names.
    fn own(&self) -> io::Result<Arc<File>> {
        let mut links = self.links.lock();
        if let Links::Some(place) = &*links {
            let (mut copy, name) = place.trash.create()?;
            let before = self.current()?;
            io::copy(&mut &*before, &mut copy)?;
            *self.file.write() = Some(Arc::new(copy));
            *links = Links::Copied(place.clone(), name);
        }
        drop(links);
        self.current()
    }
}

impl Medium for FileMedium {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let file = self.own()?;
        for (part, at) in data.chunks(WRITE).zip((offset..).step_by(WRITE)) {
            file.write_all_at(part, at)?;
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.current()?.read_exact_at(buffer, offset)
    }

    fn release(&self, range: ByteRange) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(self.own()?, hole, range.start(), range.len()) {
            // A file system without holes keeps the blocks until the blob goes.
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            result => Ok(result?),
        }
    }

    fn stamp(&self) -> io::Result<Option<Stamp>> {
        let metadata = self.current()?.metadata()?;
        Ok(Some(Stamp { modified: (metadata.mtime(), metadata.mtime_nsec()), size: metadata.size() }))
    }

    fn let_go(&self) {
        *self.file.write() = None;
    }

    fn file(&self) -> Option<Arc<File>> {
        self.file.read().clone()
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// True while a store in memory accepts no bytes, like a full disk. All its media share this.
#[derive(Clone, Default)]
pub(crate) struct Full(Arc<AtomicBool>);

impl Full {
    pub(crate) fn fill(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Bytes in memory, with one allocation for each piece.
#[derive(Default)]
pub(crate) struct MemoryMedium {
    pieces: RwLock<BTreeMap<u64, Arc<[u8]>>>,
    full: Full,
    /// How often its stamp was asked for.
    #[cfg(test)]
    pub(crate) stamps: std::sync::atomic::AtomicUsize,
}

impl MemoryMedium {
    pub(crate) fn new(full: Full) -> Self {
        Self { full, ..Self::default() }
    }

    /// Has a bit flip in the middle of each piece.
    pub(crate) fn flip_bits(&self) {
        for piece in self.pieces.write().values_mut() {
            let mut bytes = piece.to_vec();
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 1;
            }
            *piece = bytes.into();
        }
    }
}

impl Medium for MemoryMedium {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.full.0.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.pieces.write().insert(offset, data.into());
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let found = self.pieces.read().range(..=offset).next_back().map(|(start, piece)| (*start, piece.clone()));
        let (start, piece) = found.ok_or(io::ErrorKind::UnexpectedEof)?;
        let from = usize::try_from(offset - start).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let bytes = piece.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn release(&self, range: ByteRange) -> io::Result<()> {
        self.pieces.write().retain(|start, _| !(range.start()..range.end()).contains(start));
        Ok(())
    }

    fn stamp(&self) -> io::Result<Option<Stamp>> {
        #[cfg(test)]
        self.stamps.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }

    fn let_go(&self) {
        self.pieces.write().clear();
    }

    fn file(&self) -> Option<Arc<File>> {
        None
    }

    fn path(&self) -> &Path {
        Path::new("memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_memory_are_read_from_within_what_was_written_and_given_back_piece_by_piece() {
        let medium = MemoryMedium::default();
        medium.write_at(100, b"abcdef").unwrap();
        medium.write_at(106, b"ghi").unwrap();
        let read = |offset, length| {
            let mut bytes = vec![0; length];
            medium.read_at(offset, &mut bytes).map(|()| String::from_utf8(bytes).unwrap()).map_err(|error| error.kind())
        };
        let nothing = Err(io::ErrorKind::UnexpectedEof);
        assert_eq!(
            (read(102, 3), read(100, 6), read(106, 3)),
            (Ok("cde".into()), Ok("abcdef".into()), Ok("ghi".into()))
        );
        assert_eq!((read(99, 1), read(104, 3), read(109, 1)), (nothing.clone(), nothing.clone(), nothing.clone()));
        medium.release(ByteRange::new(100, 106)).unwrap();
        assert_eq!((read(100, 1), read(106, 3)), (nothing.clone(), Ok("ghi".into())));
        medium.let_go();
        assert_eq!(read(106, 3), nothing);
    }

    #[test]
    fn a_file_that_somebody_changed_has_another_stamp_and_the_rest_of_one_with_a_hole_stays() {
        let directory = tempfile::tempdir().unwrap();
        let dir = Dir::open(directory.path()).unwrap();
        let medium = FileMedium::new(dir.create("x").unwrap(), &dir, "x");
        medium.write_at(0, &[7; 3 << 14]).unwrap();
        let stamp = medium.stamp().unwrap();
        assert_eq!(medium.stamp().unwrap(), stamp);
        medium.file().unwrap().set_len(1 << 20).unwrap();
        assert_ne!(medium.stamp().unwrap(), stamp);
        medium.release(ByteRange::new(1 << 14, 1 << 14)).unwrap();
        medium.release(ByteRange::new(1 << 14, 2 << 14)).unwrap();
        let mut bytes = [0; 3 << 14];
        medium.read_at(0, &mut bytes).unwrap();
        assert!(bytes[..1 << 14].iter().chain(&bytes[2 << 14..]).all(|byte| *byte == 7));
        assert!(bytes[1 << 14..2 << 14].iter().all(|byte| *byte == 0), "a hole");
        medium.let_go();
        assert_eq!(medium.read_at(0, &mut bytes).unwrap_err().kind(), io::ErrorKind::NotFound);
        medium.sync().unwrap();
    }
}
