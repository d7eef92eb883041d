//! Where content goes, and how it gets its final name.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::NamedTempFile;
use url::Url;

use crate::failure::Failure;
use crate::output;

/// Where the user wants the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Standard output.
    Stdout,
    /// A file that is there once it is right.
    File(PathBuf),
    /// A device or a pipe: written as it comes, because it can't be replaced by a rename.
    Device(PathBuf),
}

impl Target {
    /// Chooses by what the user said, or by the URL's last part. Refuses what could only fail later.
    pub(super) fn choose(url: &Url, output: Option<&Path>) -> Result<Self, Failure> {
        let path = match output {
            Some(path) if path == Path::new("-") => return Ok(Self::Stdout),
            Some(path) => path.to_owned(),
            None => file_name(url).ok_or_else(|| {
                Failure::Usage(format!("{url} names no file; say where to put the content with -o FILE"))
            })?,
        };
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => Err(Failure::Usage(format!(
                "{} is a directory; name the file in it, for example -o {}",
                path.display(),
                path.join(file_name(url).unwrap_or_else(|| "FILE".into())).display()
            ))),
            // A link's own target is replaced, not the link.
            Ok(found) if found.is_file() => Ok(Self::File(std::fs::canonicalize(&path).unwrap_or(path))),
            Ok(_) => Ok(Self::Device(path)),
            Err(_) => {
                let parent = directory_of(&path);
                if parent.is_dir() {
                    Ok(Self::File(path))
                } else {
                    Err(Failure::Usage(format!(
                        "there is no directory {}; make it first, or choose another place with -o FILE",
                        parent.display()
                    )))
                }
            }
        }
    }

    /// The final name.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Stdout => None,
            Self::File(path) | Self::Device(path) => Some(path),
        }
    }
}

/// The URL's last part, as it is written there.
fn file_name(url: &Url) -> Option<PathBuf> {
    let last = url.path_segments()?.next_back()?;
    (!matches!(last, "" | "." | "..")).then(|| PathBuf::from(last))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Takes content. Dropped without [`Sink::commit`], it leaves nothing behind.
#[derive(Debug)]
pub(super) enum Sink {
    /// Standard output.
    Stdout(File),
    /// A hidden file beside the final name.
    Part { part: NamedTempFile, path: PathBuf },
    /// A device or a pipe.
    Device { file: File, path: PathBuf },
}

impl Sink {
    /// Opens a target for writing.
    pub(super) fn open(target: &Target) -> anyhow::Result<Self> {
        match target {
            // Without the line buffer that `io::stdout` puts in the way.
            Target::Stdout => Ok(Self::Stdout(io::stdout().as_fd().try_clone_to_owned()?.into())),
            Target::File(path) => {
                let directory = directory_of(path);
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let part = tempfile::Builder::new()
                    .prefix(&format!(".{name}."))
                    .suffix(".part")
                    // As any new file: the process's umask decides. A temporary file would be its owner's alone.
                    .permissions(Permissions::from_mode(0o666))
                    .tempfile_in(directory)
                    .with_context(|| format!("can't write into {}", directory.display()))?;
                Ok(Self::Part { part, path: path.clone() })
            }
            Target::Device(path) => {
                let file = File::options()
                    .write(true)
                    .open(path)
                    .with_context(|| format!("can't write to {}", path.display()))?;
                Ok(Self::Device { file, path: path.clone() })
            }
        }
    }

    /// Makes the content durable and gives it its final name.
    pub(super) fn commit(self) -> anyhow::Result<()> {
        let Self::Part { part, path } = self else { return Ok(()) };
        let cannot = || format!("can't finish {}", path.display());
        part.as_file().sync_all().with_context(cannot)?;
        part.persist(&path).map_err(|failed| failed.error).with_context(cannot)?;
        // The rename itself is durable only once the directory is.
        File::open(directory_of(&path)).and_then(|directory| directory.sync_all()).with_context(cannot)
    }

    /// A failure to write, with what could not be written.
    pub(super) fn explain(&self, error: io::Error) -> anyhow::Error {
        match self {
            Self::Stdout(_) => output::stdout_error(error),
            Self::Part { path, .. } | Self::Device { path, .. } => {
                anyhow::Error::new(error).context(format!("can't write {}", path.display()))
            }
        }
    }
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(file) | Self::Device { file, .. } => file.write(data),
            Self::Part { part, .. } => part.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(file) | Self::Device { file, .. } => file.flush(),
            Self::Part { part, .. } => part.flush(),
        }
    }
}
