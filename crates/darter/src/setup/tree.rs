//! The files that are set up, below a root: `/`, or the directory where an image is mounted.
//!
//! Links are followed as a process would that has this root: one that begins with `/` begins at the root, and none leads out of it.
//! A file is replaced in one step and is on the disk before its name is: whatever happens, there is the old one or the new one.

use std::collections::VecDeque;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::get::attributes;
use crate::get::temporary::Temporary;

/// Links that lead to links: as many as Linux follows.
const MAX_LINKS: usize = 40;

/// The longest file that is read. Configuration is shorter by far.
const MAX_LENGTH: u64 = 4 << 20;

/// The files below a root.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    root: PathBuf,
}

/// Mode and owner of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) mode: u32,
    /// Its user and group; those of this process, if `None`.
    pub(crate) owner: Option<(u32, u32)>,
}

impl Access {
    pub(crate) const PUBLIC: Self = Self { mode: 0o644, owner: None };
    pub(crate) const PRIVATE: Self = Self { mode: 0o600, owner: None };
}

impl Tree {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// True if these are the files of this host.
    pub(crate) fn is_host(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The real path of `path` of the tree, with all links followed, also the last one. Parts that are not there stay as they are written.
    pub(crate) fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut rest: VecDeque<_> = components(path).collect();
        let (mut found, mut links) = (PathBuf::new(), 0);
        while let Some(component) = rest.pop_front() {
            if component == ".." {
                found.pop();
                continue;
            }
            let next = found.join(&component);
            match fs::read_link(self.root.join(&next)) {
                Ok(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(io::Error::other("too many links"));
                    }
                    if target.is_absolute() {
                        found = PathBuf::new();
                    }
                    for part in components(&target).collect::<Vec<_>>().into_iter().rev() {
                        rest.push_front(part);
                    }
                }
                Err(_) => found = next,
            }
        }
        Ok(self.root.join(found))
    }

    /// A file's text; `None` where there is no such file.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Option<String>> {
        let file = match File::open(self.resolve(path)?) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a plain file"));
        }
        let mut text = String::new();
        file.take(MAX_LENGTH + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_LENGTH {
            return Err(io::Error::other("longer than 4 MiB"));
        }
        Ok(Some(text))
    }

    /// The names in a directory, sorted, and whether each is a directory; none where there is no such directory.
    pub(crate) fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        let entries = match fs::read_dir(self.resolve(path)?) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            // A name that is no text is no registry and no configuration.
            if let Ok(name) = entry?.file_name().into_string() {
                let is_directory = self.resolve(&path.join(&name)).is_ok_and(|path| path.is_dir());
                names.push((name, is_directory));
            }
        }
        names.sort();
        Ok(names)
    }

    /// True if there is a directory.
    pub(crate) fn has_directory(&self, path: &Path) -> bool {
        self.resolve(path).is_ok_and(|path| path.is_dir())
    }

    /// When a file was last changed.
    pub(crate) fn modified(&self, path: &Path) -> Option<SystemTime> {
        fs::metadata(self.resolve(path).ok()?).ok()?.modified().ok()
    }

    /// The directories that have to be made before this file can be, outermost first.
    pub(crate) fn lacking(&self, path: &Path) -> Vec<PathBuf> {
        let mut lacking: Vec<_> = path
            .ancestors()
            .skip(1)
            .take_while(|directory| !self.resolve(directory).is_ok_and(|path| path.exists()))
            .map(Path::to_path_buf)
            .collect();
        lacking.reverse();
        lacking
    }

    /// The mode and owner of a file.
    pub(crate) fn access(&self, path: &Path) -> Option<Access> {
        let found = fs::metadata(self.resolve(path).ok()?).ok()?;
        Some(Access { mode: found.mode() & 0o1777, owner: Some((found.uid(), found.gid())) })
    }

    /// Makes the directories that a file lacks; gives their paths, outermost first.
    pub(crate) fn make_directories(&self, path: &Path, access: Access) -> io::Result<Vec<PathBuf>> {
        let lacking = self.lacking(path);
        for directory in &lacking {
            // A file that only its owner may read lies in a directory that only its owner may enter.
            let is_private = access.mode & 0o077 == 0 && path.parent() == Some(directory);
            let directory = self.resolve(directory)?;
            fs::create_dir(&directory)?;
            fs::set_permissions(&directory, Permissions::from_mode(if is_private { 0o700 } else { 0o755 }))?;
            sync_directory_of(&directory)?;
        }
        Ok(lacking)
    }

    /// Where a file is, or is going to be once the directories that it lacks are made. Changes nothing.
    ///
    /// # Errors
    /// It can't be made there, since a link leads to a directory that is not there, or be replaced, since something is mounted on it.
    pub(crate) fn place(&self, named: &Path) -> io::Result<PathBuf> {
        let mut made: Vec<PathBuf> = Vec::new();
        for path in self.lacking(named).iter().map(PathBuf::as_path).chain([named]) {
            let path = self.resolve(path)?;
            let directory = path.parent().ok_or(ErrorKind::InvalidInput)?;
            if !directory.is_dir() && !made.iter().any(|made| made == directory) {
                let text = format!(
                    "the link leads to {}, which is not there: make that directory, or remove the link",
                    directory.display()
                );
                return Err(io::Error::new(ErrorKind::NotFound, text));
            }
            made.push(path);
        }
        let path = made.pop().ok_or(ErrorKind::InvalidInput)?;
        if attributes::is_mount(&path) {
            return Err(io::Error::other("something is mounted on this file, as into a container: run it outside"));
        }
        Ok(path)
    }

    /// Replaces a file that says what was read before, or makes it with this access; its directories, too.
    pub(crate) fn write(
        &self,
        named: &Path,
        before: Option<&str>,
        text: &str,
        access: Access,
        modified: Option<SystemTime>,
    ) -> io::Result<()> {
        self.check(named, before)?;
        let path = self.place(named)?;
        let directory = path.parent().ok_or(ErrorKind::InvalidInput)?;
        self.make_directories(named, access)?;
        // Nobody else reads it before it has the mode that it is to have.
        let temporary = Temporary::create_private(directory)?;
        let mut file = temporary.file();
        file.write_all(text.as_bytes())?;
        match fs::metadata(&path) {
            Ok(old) => attributes::keep(file, &old, &path)?,
            Err(_) => {
                if let Some((uid, gid)) = access.owner {
                    attributes::give_owner(file, uid, gid)?;
                }
                file.set_permissions(Permissions::from_mode(access.mode))?;
            }
        }
        if let Some(modified) = modified {
            file.set_modified(modified)?;
        }
        file.sync_all()?;
        self.check(named, before)?;
        temporary.name(&path)?;
        sync_directory_of(&path)
    }

    /// Fails if a file no longer says what was read.
    pub(crate) fn check(&self, path: &Path, before: Option<&str>) -> io::Result<()> {
        if self.read(path)?.as_deref() == before {
            return Ok(());
        }
        Err(io::Error::other("somebody has changed it in the meantime: run this again"))
    }

    /// Removes a file; that it is not there is no error.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        let path = self.resolve(path)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => sync_directory_of(&path),
        }
    }

    /// Removes a directory if nothing is in it.
    pub(crate) fn remove_if_empty(&self, path: &Path) {
        // A directory that others have put something into stays.
        let _ = self.resolve(path).map(fs::remove_dir);
    }

    /// True if what is there belongs to another user: a hint for people whose writing was refused.
    pub(crate) fn is_others(&self, path: &Path) -> bool {
        let found = path.ancestors().find_map(|path| fs::metadata(self.resolve(path).ok()?).ok());
        found.is_some_and(|found| found.uid() != rustix::process::geteuid().as_raw())
    }
}

fn components(path: &Path) -> impl Iterator<Item = String> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        Component::ParentDir => Some("..".to_owned()),
        _ => None,
    })
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_below_the_root_and_never_out_of_it() {
        let room = tempfile::tempdir().unwrap();
        let root = room.path();
        fs::create_dir_all(root.join("etc/real")).unwrap();
        symlink("/etc/real", root.join("etc/linked")).unwrap();
        symlink("../../../../etc/real/file", root.join("etc/up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let tree = Tree::new(root.to_owned());
        assert_eq!(tree.resolve(Path::new("/etc/linked/file")).unwrap(), root.join("etc/real/file"));
        assert_eq!(tree.resolve(Path::new("/etc/up")).unwrap(), root.join("etc/real/file"));
        assert!(tree.resolve(Path::new("/loop")).is_err());
        tree.write(Path::new("/etc/up"), None, "x", Access::PUBLIC, None).unwrap();
        assert!(root.join("etc/up").is_symlink(), "the link stays one");
        symlink("/gone/away/file", root.join("etc/dangling")).unwrap();
        let refused = tree.write(Path::new("/etc/dangling"), None, "x", Access::PUBLIC, None).unwrap_err();
        assert!(refused.to_string().contains("gone/away, which is not there: make that directory"), "{refused}");
        // So does a directory that is a link to nowhere, and nothing is made on the way.
        symlink("/gone/away", root.join("etc/nowhere")).unwrap();
        for path in ["/etc/dangling", "/etc/nowhere/file"] {
            let told = tree.place(Path::new(path)).unwrap_err().to_string();
            assert!(told.contains("which is not there"), "{path}: {told}");
            tree.write(Path::new(path), None, "x", Access::PUBLIC, None).unwrap_err();
            assert!(!root.join("gone").exists());
        }
        assert_eq!(tree.place(Path::new("/var/own/secret")).unwrap(), root.join("var/own/secret"));
        assert!(!root.join("var").exists());
        tree.write(Path::new("/var/own/secret"), None, "x", Access::PRIVATE, None).unwrap();
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode("var"), mode("var/own"), mode("var/own/secret")], [0o755, 0o700, 0o600]);
        assert_eq!(tree.read(Path::new("/etc/linked/file")).unwrap().as_deref(), Some("x"));
    }

    #[test]
    fn what_somebody_changed_since_it_was_read_is_not_replaced() {
        let room = tempfile::tempdir().unwrap();
        let (tree, path) = (Tree::new(room.path().to_owned()), Path::new("/f"));
        tree.write(path, None, "theirs", Access::PUBLIC, None).unwrap();
        for read in [None, Some("old")] {
            let refused = tree.write(path, read, "ours", Access::PUBLIC, None).unwrap_err();
            assert!(refused.to_string().contains("run this again"), "{refused}");
            assert_eq!(tree.read(path).unwrap().as_deref(), Some("theirs"));
        }
        tree.write(path, Some("theirs"), "ours", Access::PUBLIC, None).unwrap();
    }
}
