//! The target of a get. It is chosen before a byte is read, so that errors are reported before the download and not after it.
//!
//! A name leads to the same file as for every program that opens it: symbolic links are followed, by the kernel's own
//! rules (`fs.protected_symlinks`), which have to be applied here because the file behind a link is replaced, not opened. Anything that is no regular
//! file is written to and never replaced: pipes, devices, and the standard streams under all their names.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use percent_encoding::percent_decode_str;
use rustix::fs::{Access, AtFlags, CWD, OFlags, accessat};
use url::Url;

use super::attributes;
use super::disposition::is_unseen;
use super::temporary::directory_of;
use crate::failure::Failure;

/// How many symbolic links are followed: as many as the kernel follows.
const MAX_LINKS: usize = 40;

/// Where the user wants the content.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum OutputPlace {
    /// Standard output.
    Stdout,
    /// Under this name.
    Name(PathBuf),
    /// In this directory, under the name that the URL or the origin gives. The directory is created if it does not exist.
    Directory(PathBuf),
}

impl OutputPlace {
    /// The place that `-o` names.
    pub(super) fn of(output: Option<&Path>) -> Self {
        let Some(path) = output else { return Self::Directory(PathBuf::from(".")) };
        if path == Path::new("-") {
            return Self::Stdout;
        }
        let name = path.as_os_str().as_encoded_bytes();
        let slash = name.ends_with(b"/") || name.ends_with(b"/.");
        if slash || path.is_dir() { Self::Directory(path.to_owned()) } else { Self::Name(path.to_owned()) }
    }

    /// Refuses a directory that is not writable, before the name of the file in it is known.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match self {
            Self::Directory(dir) if dir.is_dir() => may_write_into(dir),
            _ => Ok(()),
        }
    }

    /// The target of content that the origin calls `called`, or else of the last part of the URL.
    pub(super) fn target(&self, url: &Url, called: Option<&str>) -> anyhow::Result<Target> {
        match self {
            Self::Stdout => Ok(Target::Stdout),
            Self::Name(path) => Target::choose(path),
            Self::Directory(dir) => {
                let name = called
                    .map(str::to_owned)
                    .or_else(|| file_name(url))
                    .ok_or_else(|| Failure::Usage(format!("{url} names no file; choose a name with -o FILE")))?;
                let path = if dir == Path::new(".") { PathBuf::from(name) } else { dir.join(name) };
                let parent = directory_of(&path);
                if !parent.is_dir() {
                    std::fs::create_dir_all(parent)
                        .with_context(|| format!("can't make the directory {}", parent.display()))?;
                }
                if path.is_dir() {
                    bail!("{} is a directory; choose another name with -o FILE", path.display());
                }
                Target::choose(&path)
            }
        }
    }
}

/// The URL's last component, percent-decoded if that gives a name that is visible and easy to type, and else as
/// the URL has it. (Encoded, a name of 85 letters can be too long.)
pub(crate) fn file_name(url: &Url) -> Option<String> {
    let last = url.path_segments()?.next_back()?;
    let decoded = percent_decode_str(last).decode_utf8().ok().filter(|name| is_plain(name));
    let name = decoded.map_or_else(|| last.to_owned(), std::borrow::Cow::into_owned);
    (!matches!(name.as_str(), "" | "." | "..")).then_some(name)
}

fn is_plain(name: &str) -> bool {
    let odd = |letter: char| letter == '/' || letter.is_control() || is_unseen(letter);
    !matches!(name, "." | "..") && !name.contains(odd) && name.trim() == name
}

/// Where content is written.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// Standard output.
    Stdout,
    /// Standard error, by one of its names.
    Stderr,
    /// A device or a pipe: written as it comes.
    Device(PathBuf),
    /// A file that is created or replaced once the content is verified.
    File(FileTarget),
}

/// A file that will be created or replaced.
#[derive(Clone, Debug)]
pub(super) struct FileTarget {
    /// As the user named it.
    pub(super) shown: PathBuf,
    /// The path with all links resolved.
    pub(super) path: PathBuf,
    /// The file that exists now.
    pub(super) old: Option<Metadata>,
}

impl Target {
    /// Resolves a name, and checks that it may be written.
    pub(super) fn choose(shown: &Path) -> anyhow::Result<Self> {
        let mut path = shown.to_owned();
        for _ in 0..MAX_LINKS {
            let name = path
                .file_name()
                .ok_or_else(|| anyhow!("{} is not a file name; choose one with -o FILE", shown.display()))?;
            let parent = canonical(directory_of(&path))?;
            path = parent.join(name);
            if let Some(stream) = standard_stream(shown, &parent, &path) {
                return Ok(stream);
            }
            let found = match std::fs::symlink_metadata(&path) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    may_write_into(&parent)?;
                    return Ok(Self::File(FileTarget { shown: shown.to_owned(), path, old: None }));
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
                    bail!("the name {} is too long; choose another with -o FILE", path.display())
                }
                Err(error) => return Err(cannot_write(shown)(error)),
            };
            let kind = found.file_type();
            if kind.is_symlink() {
                may_follow(&parent, &found).map_err(cannot_write(shown))?;
                let next = std::fs::read_link(&path).map_err(cannot_write(shown))?;
                path = parent.join(next);
            } else if kind.is_file() {
                writable(shown, &found)?;
                return Ok(Self::File(FileTarget { shown: shown.to_owned(), path, old: Some(found) }));
            } else if kind.is_dir() {
                return Err(Failure::Usage(format!(
                    "{} is a directory; name a file in it, or end it with / for the URL's own name",
                    shown.display()
                ))
                .into());
            } else if kind.is_socket() {
                bail!("{} is a socket, which can't be written to; choose another name with -o FILE", shown.display());
            } else {
                return Ok(Self::Device(shown.to_owned()));
            }
        }
        Err(cannot_write(shown)(io::Error::from(rustix::io::Errno::LOOP)))
    }

    /// The name to print; `None` for the standard streams.
    pub(super) fn shown(&self) -> Option<&Path> {
        match self {
            Self::Stdout | Self::Stderr => None,
            Self::Device(path) | Self::File(FileTarget { shown: path, .. }) => Some(path),
        }
    }

    /// True if the content goes to standard output.
    pub(super) const fn is_stdout(&self) -> bool {
        matches!(self, Self::Stdout)
    }
}

impl FileTarget {
    /// The directory of the file.
    pub(super) fn directory(&self) -> &Path {
        directory_of(&self.path)
    }

    /// The device and inode of the existing file, if it has further names, which show what is written to it.
    pub(super) fn linked(&self) -> Option<(u64, u64)> {
        let old = self.old.as_ref().filter(|old| old.nlink() > 1 && !attributes::is_stores(&self.path))?;
        Some((old.dev(), old.ino()))
    }

    /// Opens the existing file for writing, by the name that the user gave.
    pub(super) fn open_in_place(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(&self.shown)
    }
}

fn canonical(directory: &Path) -> anyhow::Result<PathBuf> {
    std::fs::canonicalize(directory).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Failure::Usage(format!(
            "there is no directory {}; make it first, or choose another place with -o FILE",
            directory.display()
        ))
        .into(),
        _ => anyhow::Error::new(error).context(format!("can't use the directory {}", directory.display())),
    })
}

/// The standard streams, by any name that leads to them. Opening the name would not do the same: a file that standard
/// output is redirected to would be overwritten from its beginning.
fn standard_stream(shown: &Path, parent: &Path, path: &Path) -> Option<Target> {
    let own = format!("/proc/{}/", std::process::id());
    let number = match path.to_str()? {
        "/dev/stdout" => "1",
        "/dev/stderr" => "2",
        _ => {
            let parent = parent.to_str()?;
            let descriptors = parent.starts_with(&own) && parent.ends_with("/fd");
            path.file_name()?.to_str().filter(|_| descriptors || parent == "/dev/fd")?
        }
    };
    match number {
        "1" => Some(Target::Stdout),
        "2" => Some(Target::Stderr),
        _ => Some(Target::Device(shown.to_owned())),
    }
}

/// Refuses a directory in which no file can be created.
fn may_write_into(directory: &Path) -> anyhow::Result<()> {
    let may = accessat(CWD, directory, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
    may.map_err(|refusal| {
        let (shown, refusal) = (directory.display(), io::Error::from(refusal));
        anyhow!("can't write into {shown}: {refusal}; choose another place with -o FILE")
    })
}

/// The kernel's rule of `fs.protected_symlinks`: in a sticky directory that all may write to, only links of
/// this user or of the directory's owner are followed. Otherwise any user could put a link into /tmp and choose the file that root replaces.
fn may_follow(parent: &Path, link: &Metadata) -> io::Result<()> {
    let directory = std::fs::metadata(parent)?;
    let shared = directory.mode() & 0o1002 == 0o1002;
    let own = link.uid() == rustix::process::geteuid().as_raw() || link.uid() == directory.uid();
    if shared && !own { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
}

/// Refuses a file that this user may not write, although the directory would allow to replace it.
pub(super) fn writable(shown: &Path, found: &Metadata) -> anyhow::Result<()> {
    if found.mode() & 0o222 == 0 {
        bail!(
            "{} is read-only (mode {:04o}); make it writable with chmod, or choose another name with -o FILE",
            shown.display(),
            found.mode() & 0o7777
        );
    }
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
    match OpenOptions::new().write(true).custom_flags(flags).open(shown) {
        Ok(_) => Ok(()),
        // The file of a running program can be replaced, though not written.
        Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => Ok(()),
        Err(error) => Err(cannot_write(shown)(error)),
    }
}

fn cannot_write(path: &Path) -> impl FnOnce(io::Error) -> anyhow::Error {
    let path = path.to_owned();
    move |error| anyhow::Error::new(error).context(format!("can't write {}", path.display()))
}
