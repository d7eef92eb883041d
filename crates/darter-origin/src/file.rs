//! `file` addresses as an [`Origin`].
//!
//! A seed reads files that its fleet names; which directories may be read is decided when the origin is created. A file's version is its length, inode and modification time. It is checked again after the
//! last byte was read: if the file was written to meanwhile, that is an error, as far as its file system's clock shows it.

use std::fs::Metadata;
use std::io::{self, SeekFrom};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use darter_core::source::Credentials;
use darter_core::{ByteRange, Shown, Source, Version};
use futures_util::{StreamExt, stream};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::body;
use crate::error::{ErrorKind, OriginError};
use crate::origin::{Origin, Reading, Stat};
use crate::validators::{settle, surely_same};

/// How many bytes are read at a time.
const CHUNK: usize = 256 << 10;

/// Reads `file` addresses.
#[derive(Clone, Debug)]
pub struct FileOrigin {
    /// The directories (their paths without symbolic links) that may be read; `None` for all.
    roots: Option<Vec<PathBuf>>,
}

impl FileOrigin {
    /// Reads any file that the process can read: for a process that works only for its own user.
    pub const fn anywhere() -> Self {
        Self { roots: None }
    }

    /// Reads only files below these directories; symbolic links in their paths are resolved.
    ///
    /// # Errors
    /// One of them does not exist.
    pub fn under(directories: impl IntoIterator<Item = PathBuf>) -> io::Result<Self> {
        let roots: io::Result<Vec<_>> = directories.into_iter().map(std::fs::canonicalize).collect();
        Ok(Self { roots: Some(roots?) })
    }

    /// Reads only files below these directories, whose paths have no symbolic links.
    pub const fn below(directories: Vec<PathBuf>) -> Self {
        Self { roots: Some(directories) }
    }

    /// The error for a file that is not below the directories that may be read.
    fn check(&self, path: &Path) -> Result<(), OriginError> {
        if let Some(roots) = &self.roots
            && !roots.iter().any(|root| path.starts_with(root))
        {
            let text = format!("{} may not be read: it is outside of the configured directories", path.display());
            return Err(OriginError::new(ErrorKind::Forbidden, text));
        }
        Ok(())
    }

    async fn open(&self, source: &Source) -> Result<(File, Metadata), OriginError> {
        let Source::Url { url, .. } = source else {
            return Err(not_a_file(source));
        };
        let path = url.to_file_path().map_err(|()| not_a_file(source))?;
        let path = tokio::fs::canonicalize(&path).await.map_err(|error| failed(error, &path))?;
        self.check(&path)?;
        let metadata = tokio::fs::metadata(&path).await.map_err(|error| failed(error, &path))?;
        if !metadata.is_file() {
            let text = format!("{} is not a file: name one", path.display());
            return Err(OriginError::new(ErrorKind::Io, text));
        }
        let file = File::open(&path).await.map_err(|error| failed(error, &path))?;
        if self.roots.is_some() {
            // Another user may have put a link there meanwhile.
            let opened = tokio::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).await;
            self.check(&opened.map_err(|error| failed(error, &path))?)?;
        }
        let metadata = file.metadata().await.map_err(|error| failed(error, &path))?;
        Ok((file, metadata))
    }
}

#[async_trait]
impl Origin for FileOrigin {
    async fn stat(&self, source: &Source, _: &Credentials, known: Option<&Version>) -> Result<Stat, OriginError> {
        let (_, metadata) = self.open(source).await?;
        let current = version(&metadata);
        let unchanged = known.is_some_and(|known| surely_same(known, &current));
        Ok(Stat { version: current, shown: Shown::default(), unchanged, ranges: true })
    }

    async fn read(
        &self,
        source: &Source,
        _: &Credentials,
        range: Option<ByteRange>,
        expect: Option<&Version>,
    ) -> Result<Reading, OriginError> {
        let (mut file, metadata) = self.open(source).await?;
        let at_first = version(&metadata);
        let length = metadata.len();
        let range = range.unwrap_or(ByteRange::new(0, length));
        let what = source.to_string();
        let settled = settle(expect, at_first.clone(), range.start(), source.digest().is_some(), &what)?;
        if range.start() > 0 && range.start() >= length {
            let text = format!("{what} is shorter than the requested range");
            return Err(OriginError::new(ErrorKind::RangeNotSatisfiable, text));
        }
        let range = range.clamp_to(length);
        let path = PathBuf::from(&what);
        if length == 0 && file.read(&mut [0]).await.map_err(|error| failed(error, &path))? > 0 {
            let text = format!(
                "{what} says that it is empty and is not, as files of /proc and /sys do: copy it with cat, and read the copy"
            );
            return Err(OriginError::new(ErrorKind::Io, text));
        }
        file.seek(SeekFrom::Start(range.start())).await.map_err(|error| failed(error, &path))?;
        let reader = OpenedFile { file, left: range.len(), at_first, path };
        let bytes = stream::try_unfold(reader, OpenedFile::next).boxed();
        let body = body::checked(bytes, Some(range.len()), what);
        Ok(Reading {
            version: settled,
            shown: Shown::default(),
            start: range.start(),
            is_part: range.len() < length,
            length: Some(length),
            witness: None,
            body,
        })
    }
}

struct OpenedFile {
    file: File,
    left: u64,
    at_first: Version,
    path: PathBuf,
}

impl OpenedFile {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, OriginError> {
        let wanted = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
        let mut chunk = Vec::with_capacity(wanted);
        if wanted > 0 {
            let read = (&mut self.file).take(wanted as u64).read_buf(&mut chunk).await;
            read.map_err(|error| failed(error, &self.path))?;
        }
        if !chunk.is_empty() {
            self.left -= chunk.len() as u64;
            return Ok(Some((chunk.into(), self)));
        }
        let metadata = self.file.metadata().await.map_err(|error| failed(error, &self.path))?;
        if version(&metadata) == self.at_first {
            return Ok(None);
        }
        let text = format!("{} was written to while it was being read: start over", self.path.display());
        Err(OriginError::new(ErrorKind::Changed, text))
    }
}

fn version(metadata: &Metadata) -> Version {
    let etag = format!("\"{:x}-{:x}.{:x}\"", metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
    Version { etag: Some(etag), last_modified: None, length: Some(metadata.len()), nonce: None }
}

fn not_a_file(source: &Source) -> OriginError {
    OriginError::new(ErrorKind::Protocol, format!("{source} does not name a local file: write file:///path"))
}

fn failed(error: io::Error, path: &Path) -> OriginError {
    let path = path.display();
    let (kind, text) = match error.kind() {
        io::ErrorKind::NotFound => (ErrorKind::NotFound, format!("{path} does not exist: check the path")),
        io::ErrorKind::PermissionDenied => {
            (ErrorKind::Forbidden, format!("{path} may not be read by this user: change its permissions"))
        }
        _ => (ErrorKind::Io, format!("{path} can't be read: check the disk it is on")),
    };
    OriginError::new(kind, text).caused_by(error)
}
