//! A file without a name, which gets one when its content is verified: however the process ends, nothing is left of it. On file systems without such files it has
//! a temporary name; it is removed when it is dropped, or, if its process was killed, by a later get in the same directory.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, OFlags, StatxFlags, flock, linkat, statx};
use tempfile::NamedTempFile;

/// The beginning of temporary names: short, since a final name may be as long as names can be.
const PREFIX: &str = ".darter-";

/// The end of temporary names on file systems that know no files without a name.
const SUFFIX: &str = ".part";

/// A file that has no final name yet.
#[derive(Debug)]
pub(crate) enum Temporary {
    Unnamed(File),
    Named(NamedTempFile),
}

impl Temporary {
    /// A new file on the file system of this directory, with a mode according to the umask.
    pub(crate) fn create(directory: &Path) -> io::Result<Self> {
        Self::create_as(directory, 0o666)
    }

    /// A new file that only its owner can read, from the beginning.
    pub(crate) fn create_private(directory: &Path) -> io::Result<Self> {
        Self::create_as(directory, 0o600)
    }

    fn create_as(directory: &Path, mode: u32) -> io::Result<Self> {
        // Without /proc the file could not be given a name.
        if Path::new("/proc/self/fd").exists() {
            let flags = i32::try_from(OFlags::TMPFILE.bits()).map_err(io::Error::other)?;
            if let Ok(file) = OpenOptions::new().read(true).write(true).mode(mode).custom_flags(flags).open(directory) {
                return Ok(Self::Unnamed(file));
            }
        }
        Self::create_named(directory, mode)
    }

    fn create_named(directory: &Path, mode: u32) -> io::Result<Self> {
        remove_leftovers(directory);
        let refusal = Cell::new(None);
        let part = tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).make_in(directory, |path| {
            let made = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path);
            made.inspect_err(|error| refusal.set(error.raw_os_error()))
        });
        // The library's error would name the temporary file, and keeps the system's message only as text.
        let told = |error: io::Error| refusal.get().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
        let part = part.map_err(told)?;
        // The lock shows that the process is alive.
        let _ = flock(part.as_file(), FlockOperation::NonBlockingLockExclusive);
        Ok(Self::Named(part))
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        match self {
            Self::Unnamed(file) => file,
            Self::Named(part) => part.as_file(),
        }
    }

    /// Gives the file its final name, and replaces a file that has it.
    pub(crate) fn name(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Unnamed(file) => link(&file, path),
            Self::Named(part) => part.persist(path).map(drop).map_err(|failed| failed.error),
        }
    }
}

/// Gives an open file a further name, and replaces a file that has it.
pub(super) fn link(file: &File, path: &Path) -> io::Result<()> {
    match link_as(file, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => return result,
    }
    // A link can't replace an existing name; a rename can. The lock shows meanwhile that this process is alive.
    let _ = flock(file, FlockOperation::NonBlockingLockShared);
    let step = link_beside(file, path)?;
    let renamed = std::fs::rename(&step, path).inspect_err(|_| {
        let _ = std::fs::remove_file(&step);
    });
    let _ = flock(file, FlockOperation::NonBlockingUnlock);
    renamed
}

/// Gives an open file a temporary name next to `path`: the one that a killed get left for the same `path`, or another
/// one if that get is alive.
fn link_beside(file: &File, path: &Path) -> io::Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    path.file_name().hash(&mut hasher);
    let mut name = hasher.finish();
    loop {
        let step = directory_of(path).join(format!("{PREFIX}{name:016x}{SUFFIX}"));
        match link_as(file, &step) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result.map(|()| step),
        }
        if remove_if_left(&step).is_err() {
            name = random()?;
        }
    }
}

/// True if an open file can probably be given a name in this directory: both are on one file system and
/// reached through one mount. A daemon in a container, or with mounts of its own, hands over files of other mounts.
pub(super) fn can_name(file: &File, directory: &Path) -> bool {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let file = statx(file, "", AtFlags::EMPTY_PATH, wanted);
    let directory = statx(CWD, directory, AtFlags::empty(), wanted);
    match (file, directory) {
        (Ok(file), Ok(directory)) => {
            (file.stx_dev_major, file.stx_dev_minor) == (directory.stx_dev_major, directory.stx_dev_minor)
                && file.stx_mnt_id == directory.stx_mnt_id
        }
        _ => false,
    }
}

/// Renames an open file. In one step, so that the store and the user never both have a name for it: the
/// store may delete a file that it considers damaged.
pub(super) fn rename(file: &File, path: &Path) -> io::Result<()> {
    let own = path_of(file)?;
    let (there, here) = (std::fs::symlink_metadata(&own)?, file.metadata()?);
    if (there.dev(), there.ino()) != (here.dev(), here.ino()) {
        return Err(io::ErrorKind::NotFound.into());
    }
    std::fs::rename(own, path)
}

/// The current name of an open file.
pub(super) fn path_of(file: &File) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn link_as(file: &File, path: &Path) -> io::Result<()> {
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, descriptor, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_le_bytes(bytes))
}

/// Removes temporary files that killed gets of this user left here: those that no process has locked.
fn remove_leftovers(directory: &Path) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for path in entries.filter(|entry| is_part(&entry.file_name())).map(|entry| entry.path()) {
        let _ = remove_if_left(&path);
    }
}

fn is_part(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(PREFIX.as_bytes()) && name.ends_with(SUFFIX.as_bytes())
}

fn remove_if_left(path: &PathBuf) -> io::Result<()> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    std::fs::remove_file(path)
}

/// The directory of a path.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let names = std::fs::read_dir(directory).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn both_kinds_appear_only_under_their_final_name_and_replace_what_has_it() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("x".repeat(255));
        for (turn, create) in [Temporary::create_as, Temporary::create_named].into_iter().enumerate() {
            for content in ["one", "two"] {
                let temporary = create(room.path(), 0o600).unwrap();
                assert_eq!(temporary.file().metadata().unwrap().mode() & 0o777, 0o600, "{turn}");
                temporary.file().write_all(content.as_bytes()).unwrap();
                temporary.name(&path).unwrap();
                assert_eq!(std::fs::read_to_string(&path).unwrap(), content, "{turn}");
                assert_eq!(names(room.path()).len(), 1, "{turn}");
            }
            drop(create(room.path(), 0o600).unwrap());
            assert_eq!(names(room.path()).len(), 1, "{turn}");
            let refusal = create(&room.path().join("none"), 0o600).unwrap_err();
            assert_eq!(refusal.raw_os_error(), Some(2), "{turn}: {refusal}");
        }
    }

    #[test]
    fn a_get_that_was_killed_before_its_rename_leaves_nothing_to_the_next_one_of_the_same_file() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("out");
        std::fs::write(&path, "old").unwrap();
        let begun = |content: &[u8]| {
            let mut file = tempfile::tempfile_in(room.path()).unwrap();
            file.write_all(content).unwrap();
            file
        };
        drop(link_beside(&begun(b"killed"), &path).unwrap());
        assert_eq!(names(room.path()).len(), 2);
        link(&begun(b"next"), &path).unwrap();
        assert_eq!((names(room.path()), std::fs::read(&path).unwrap()), (vec!["out".to_owned()], b"next".to_vec()));

        let living = begun(b"living");
        flock(&living, FlockOperation::NonBlockingLockShared).unwrap();
        let step = link_beside(&living, &path).unwrap();
        link(&begun(b"another"), &path).unwrap();
        assert_eq!(
            (std::fs::read(&path).unwrap(), std::fs::read(&step).unwrap()),
            (b"another".to_vec(), b"living".to_vec())
        );
    }

    #[test]
    fn a_killed_gets_file_is_removed_by_the_next_and_a_living_ones_is_not() {
        let room = tempfile::tempdir().unwrap();
        let left = room.path().join(".darter-left.part");
        std::fs::write(&left, "half").unwrap();
        let living = Temporary::create_named(room.path(), 0o666).unwrap();
        let _next = Temporary::create_named(room.path(), 0o666).unwrap();
        let Temporary::Named(living) = &living else { panic!() };
        assert!(living.path().exists());
        assert!(!left.exists());
    }
}
