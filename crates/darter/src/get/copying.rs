//! Copies bytes from a file into another one, or into a pipe or a socket, inside the kernel if possible: they are in the page
//! cache already, and reading them into this process only to write them again would be most of the work.
//!
//! | to | by | if that fails |
//! |---|---|---|
//! | a file | `copy_file_range`, which shares blocks where the file system can | `sendfile`, then reading and writing |
//! | a pipe | `splice`: the pages themselves | reading and writing |
//! | a socket, another file | `sendfile` | reading and writing |
//!
//! A method that the kernel or the file system does not support is tried once. Steps are short, so that a process that has to end does not wait long.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use darter_core::ByteRange;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, copy_file_range, sendfile};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, splice};

/// How many bytes the kernel copies at a time.
const STEP: u64 = 4 << 20;

/// How many bytes are read and written at a time.
const BUFFER: u64 = 1 << 20;

/// The size that a pipe is set to. By default a pipe holds only sixteen pages.
const PIPE: usize = 1 << 20;

/// A function that sees the bytes on their way.
pub(super) type Seen<'a> = Option<&'a mut (dyn FnMut(&[u8]) + 'a)>;

/// A method of copying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Means {
    CopyFileRange,
    Splice,
    SendFile,
    ReadAndWrite,
}

impl Means {
    /// The method to try if this one fails.
    const fn next(self) -> Self {
        match self {
            Self::CopyFileRange => Self::SendFile,
            Self::Splice | Self::SendFile | Self::ReadAndWrite => Self::ReadAndWrite,
        }
    }
}

/// Copies from files into files, at the same offsets.
#[derive(Debug)]
pub(super) struct Copier {
    means: Means,
    buffer: Vec<u8>,
}

impl Copier {
    pub(super) const fn new() -> Self {
        Self { means: Means::CopyFileRange, buffer: Vec::new() }
    }

    /// The method of the last copy.
    #[cfg(test)]
    pub(super) const fn means(&self) -> Means {
        self.means
    }

    /// Copies a range. The file position of `to` is undefined afterwards.
    pub(super) fn copy(&mut self, from: &File, to: &File, range: ByteRange) -> io::Result<()> {
        let mut at = range.start();
        while at < range.end() {
            let most = STEP.min(range.end() - at);
            match self.step(from, to, at, most) {
                Ok(0) if self.means == Means::ReadAndWrite => return Err(io::ErrorKind::UnexpectedEof.into()),
                // Some file systems return zero for bytes that exist.
                Ok(0) => self.means = self.means.next(),
                Ok(count) => at += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.means != Means::ReadAndWrite && cannot(&error) => self.means = self.means.next(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn step(&mut self, from: &File, to: &File, at: u64, most: u64) -> io::Result<u64> {
        let length = usize::try_from(most).unwrap_or(usize::MAX);
        match self.means {
            Means::CopyFileRange => {
                let (mut read, mut written) = (at, at);
                Ok(copy_file_range(from, Some(&mut read), to, Some(&mut written), length)? as u64)
            }
            Means::Splice | Means::SendFile => {
                let (mut to, mut read) = (to, at);
                to.seek(SeekFrom::Start(at))?;
                Ok(sendfile(to, from, Some(&mut read), length)? as u64)
            }
            Means::ReadAndWrite => {
                let read = read_some(from, &mut self.buffer, at, most)?;
                to.write_all_at(read, at)?;
                Ok(read.len() as u64)
            }
        }
    }
}

/// Writes into a target without offsets: a pipe, a socket, a device, or a file that is written from its current position.
#[derive(Debug)]
pub(super) struct Spout {
    to: File,
    means: Means,
    buffer: Vec<u8>,
}

impl Spout {
    pub(super) fn new(to: File) -> Self {
        let kind = rustix::fs::fstat(&to).map(|found| FileType::from_raw_mode(found.st_mode));
        let means = match kind {
            Ok(FileType::Fifo) => {
                // Set to the largest size that this user may still use.
                let _ = fcntl_setpipe_size(&to, PIPE);
                Means::Splice
            }
            // Writes to a terminal are short, and some drivers can't splice.
            Ok(FileType::CharacterDevice) => Means::ReadAndWrite,
            _ => Means::SendFile,
        };
        Self { to, means, buffer: Vec::new() }
    }

    /// The method of the last write.
    #[cfg(test)]
    pub(super) const fn means(&self) -> Means {
        self.means
    }

    /// Writes a range of a file. If `seen` is given, the bytes pass through this process.
    pub(super) fn pour(&mut self, from: &File, range: ByteRange, mut seen: Seen<'_>) -> io::Result<()> {
        if seen.is_some() {
            self.means = Means::ReadAndWrite;
        }
        let mut at = range.start();
        while at < range.end() {
            let most = STEP.min(range.end() - at);
            let moved = match self.means {
                Means::ReadAndWrite => {
                    let read = read_some(from, &mut self.buffer, at, most)?;
                    if read.is_empty() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    write_all(&self.to, read)?;
                    if let Some(seen) = &mut seen {
                        seen(read);
                    }
                    Ok(read.len())
                }
                means => self.step(from, at, usize::try_from(most).unwrap_or(usize::MAX), means),
            };
            match moved {
                Ok(0) => self.means = self.means.next(),
                Ok(count) => at += count as u64,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait_for(&self.to)?,
                Err(error) if cannot(&error.into()) => self.means = self.means.next(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn step(&self, from: &File, at: u64, most: usize, means: Means) -> rustix::io::Result<usize> {
        let mut read = at;
        match means {
            Means::Splice => splice(from, Some(&mut read), &self.to, None, most, SpliceFlags::MOVE | SpliceFlags::MORE),
            _ => sendfile(&self.to, from, Some(&mut read), most),
        }
    }

    /// Writes bytes from memory.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        write_all(&self.to, bytes)
    }
}

/// Writes all bytes, also if the descriptor is non-blocking.
fn write_all(mut to: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for(to)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_for(to: &File) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(to.as_fd(), PollFlags::OUT)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Some bytes from `at` on; none at the end of the file.
fn read_some<'a>(from: &File, buffer: &'a mut Vec<u8>, at: u64, most: u64) -> io::Result<&'a [u8]> {
    buffer.resize(usize::try_from(BUFFER).unwrap_or(usize::MAX), 0);
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
    loop {
        match from.read_at(&mut buffer[..most], at) {
            Ok(count) => return Ok(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// True if an error may mean that the kernel, a file system or a sandbox does not support the method. If it means something else, reading and
/// writing will fail with it.
fn cannot(error: &io::Error) -> bool {
    const CANNOT: [Errno; 7] =
        [Errno::XDEV, Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::BADF, Errno::PERM, Errno::SPIPE];
    CANNOT.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn content() -> Vec<u8> {
        (0..3_000_000_u32).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    fn file_with(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    #[test]
    fn ranges_come_to_their_places_by_whatever_means() {
        let (bytes, source) = (content(), file_with(&content()));
        for means in [Means::CopyFileRange, Means::SendFile, Means::ReadAndWrite] {
            let (mut copier, to) = (Copier { means, ..Copier::new() }, tempfile::tempfile().unwrap());
            for (start, end) in [(2_000_000, 3_000_000), (0, 7), (7, 2_000_000), (5, 5)] {
                copier.copy(&source, &to, ByteRange::new(start, end)).unwrap();
            }
            let mut came = vec![0; bytes.len()];
            to.read_exact_at(&mut came, 0).unwrap();
            assert!(came == bytes, "{means:?}");
            assert_eq!(to.metadata().unwrap().len(), bytes.len() as u64);
        }
    }

    #[test]
    fn bytes_that_are_not_there_are_an_error_and_not_an_endless_try() {
        let source = file_with(b"short");
        for means in [Means::CopyFileRange, Means::SendFile, Means::ReadAndWrite] {
            let to = tempfile::tempfile().unwrap();
            let error = Copier { means, ..Copier::new() }.copy(&source, &to, ByteRange::new(0, 6)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{means:?}");
        }
    }

    /// Files of `/proc` and the like, and files opened for appending: the kernel copies neither from the former nor into the latter.
    #[test]
    fn where_the_kernel_cannot_it_is_read_and_written() {
        let bytes = content();
        let source = file_with(&bytes);
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("log");
        let appended = File::options().append(true).create(true).open(&path).unwrap();
        let mut copier = Copier::new();
        copier.copy(&source, &appended, ByteRange::new(0, bytes.len() as u64)).unwrap();
        assert_eq!(copier.means(), Means::ReadAndWrite);
        assert!(std::fs::read(&path).unwrap() == bytes);
        let mut spout = Spout::new(appended);
        spout.pour(&source, ByteRange::new(0, 10), None).unwrap();
        assert_eq!(spout.means(), Means::ReadAndWrite);
        assert!(std::fs::read(&path).unwrap()[bytes.len()..] == bytes[..10]);
    }

    #[test]
    fn other_file_systems_are_copied_to_inside_the_kernel_or_not_and_right_in_any_case() {
        let Ok(there) = tempfile::tempfile_in("/dev/shm") else { return eprintln!("skipped: no /dev/shm") };
        let (bytes, source) = (content(), file_with(&content()));
        Copier::new().copy(&source, &there, ByteRange::new(0, bytes.len() as u64)).unwrap();
        let mut came = vec![0; bytes.len()];
        there.read_exact_at(&mut came, 0).unwrap();
        assert!(came == bytes);
    }

    /// Writes everything but the first byte to `to`, which `reader` reads; returns the method used.
    fn poured(to: File, mut reader: impl io::Read + Send + 'static, shown: bool) -> Means {
        let bytes = content();
        let source = file_with(&bytes);
        let reading = std::thread::spawn(move || {
            let mut came = Vec::new();
            reader.read_to_end(&mut came).unwrap();
            came
        });
        let mut spout = Spout::new(to);
        let mut seen = Vec::new();
        let mut see = |part: &[u8]| seen.extend_from_slice(part);
        let range = ByteRange::new(1, bytes.len() as u64);
        spout.pour(&source, range, shown.then_some(&mut see as &mut dyn FnMut(&[u8]))).unwrap();
        spout.write(b"end").unwrap();
        let means = spout.means();
        drop(spout);
        assert!(reading.join().unwrap() == [&bytes[1..], b"end"].concat());
        assert!(!shown || seen == bytes[1..]);
        means
    }

    #[test]
    fn pipes_and_sockets_get_pages_and_no_copies() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert_eq!(poured(std::os::fd::OwnedFd::from(writer).into(), reader, false), Means::Splice);
        let (reader, writer) = UnixStream::pair().unwrap();
        assert_eq!(poured(std::os::fd::OwnedFd::from(writer).into(), reader, false), Means::SendFile);
        let (reader, writer) = std::io::pipe().unwrap();
        assert_eq!(poured(std::os::fd::OwnedFd::from(writer).into(), reader, true), Means::ReadAndWrite);
    }

    #[test]
    fn a_pipe_that_does_not_wait_is_waited_for() {
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        poured(std::os::fd::OwnedFd::from(writer).into(), reader, false);
    }
}
