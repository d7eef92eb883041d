//! [`Scan`]: an archive of either kind, read by ranges. Its first bytes say which kind it is; its name says nothing.

use darter_core::ByteRange;
use darter_image::Compression;
use darter_image::tar::Time;

use crate::error::ArchiveError;
use crate::tar::TarScan;
use crate::tree::Tree;
use crate::zip::{self, ZipScan};

/// How much is read to know the kind: a tar's first header.
const HEAD: u64 = 512;

/// The bytes that hold the magic of all tars but those of the oldest kind.
const USTAR: std::ops::Range<usize> = 257..262;

/// How long a tar without members is, at most: what programs write. Longer files of zeros are anything.
const MAX_EMPTY: u64 = 10 << 10;

/// An archive that is being looked through.
#[derive(Debug)]
pub struct Scan {
    state: State,
    length: u64,
    mtime: Time,
}

#[derive(Debug)]
enum State {
    Head,
    /// Zeros, and nothing else if it is a tar.
    Zeros,
    Tar(Box<TarScan>),
    Zip(Box<ZipScan>),
}

/// An archive that was looked through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// The archive's members.
    pub tree: Tree,
    /// The archive's kind: `tar` or `zip`.
    pub kind: &'static str,
}

impl Scan {
    /// Begins with an archive of this length; directories that it does not name are of this time.
    pub const fn new(length: u64, mtime: Time) -> Self {
        Self { state: State::Head, length, mtime }
    }

    /// The bytes that are wanted next, a MiB at most; `None` when there is enough.
    pub fn wants(&self) -> Option<ByteRange> {
        match &self.state {
            State::Head => Some(ByteRange::new(0, HEAD.min(self.length))).filter(|range| !range.is_empty()),
            State::Zeros => Some(ByteRange::new(0, self.length)),
            State::Tar(tar) => tar.wants(),
            State::Zip(zip) => zip.wants(),
        }
    }

    /// Takes the bytes that were wanted: all of them.
    ///
    /// # Errors
    /// They are no archive's, or one's that can't be shown.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        match &mut self.state {
            State::Tar(tar) => tar.take(bytes),
            State::Zip(zip) => zip.take(bytes),
            State::Head => {
                self.state = self.kind_of(bytes)?;
                Ok(())
            }
            State::Zeros => {
                let is_tar = bytes.iter().all(|byte| *byte == 0);
                self.state = if is_tar { self.tar() } else { self.behind() };
                Ok(())
            }
        }
    }

    fn kind_of(&self, head: &[u8]) -> Result<State, ArchiveError> {
        if zip::begins(head) {
            return Ok(State::Zip(Box::new(ZipScan::new(self.length, self.mtime))));
        }
        match Compression::of_bytes(head) {
            Ok(Compression::None) => {}
            Ok(packed) => return Err(ArchiveError::Packed { kind: packed.name() }),
            Err(unreadable) => return Err(ArchiveError::Packed { kind: unreadable.0 }),
        }
        if head.get(USTAR) == Some(b"ustar") || darter_image::tar::is_header(head) {
            return Ok(self.tar());
        }
        let may_be_empty = head.len() as u64 == HEAD && self.length <= MAX_EMPTY && head.iter().all(|byte| *byte == 0);
        Ok(if may_be_empty { State::Zeros } else { self.behind() })
    }

    fn tar(&self) -> State {
        State::Tar(Box::new(TarScan::new(self.length, self.mtime)))
    }

    /// Anything may stand before a zip, whose list is at its end: a program that unpacks it.
    fn behind(&self) -> State {
        State::Zip(Box::new(ZipScan::behind(self.length, self.mtime)))
    }

    /// The archive's members.
    ///
    /// # Errors
    /// As [`Self::take`]; or it ended too early.
    pub fn finish(self) -> Result<Scanned, ArchiveError> {
        match self.state {
            State::Head | State::Zeros => Err(ArchiveError::Unknown),
            State::Tar(tar) => Ok(Scanned { tree: tar.finish()?, kind: "tar" }),
            State::Zip(zip) => Ok(Scanned { tree: zip.finish()?, kind: "zip" }),
        }
    }
}
