//! The files that are changed, below a root: `/`, or the directory where an image is mounted.
//!
//! Links are followed as for a process with this root directory: an absolute link begins at the root, and no link leads out of it.
//! A file is replaced in one step, and its contents are on the disk before its name is: after a crash it is the old file or the new one.

use std::collections::VecDeque;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::get::attributes;
use crate::get::temporary::Temporary;

/// The maximum number of links in a path, as in Linux.
const MAX_LINKS: usize = 40;

/// Most bytes of a file that is read. Configuration files are much shorter.
const MAX_LENGTH: u64 = 4 << 20;

/// The files below a root directory.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    root: PathBuf,
}

/// The mode and owner of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) mode: u32,
    /// Its user and group; if `None`, those of this process.
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

    /// The real path of `path` in the tree: all links are followed, including the last component. Missing components stay as they are.
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

    /// A file's text; `None` if it does not exist.
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

    /// The sorted names in a directory, each with true if it is a directory; empty if the directory does not exist.
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
            // A name that is not UTF-8 belongs to no registry and no configuration.
            if let Ok(name) = entry?.file_name().into_string() {
                let is_directory = self.resolve(&path.join(&name)).is_ok_and(|path| path.is_dir());
                names.push((name, is_directory));
            }
        }
        names.sort();
        Ok(names)
    }

    /// True if the directory exists.
    pub(crate) fn has_directory(&self, path: &Path) -> bool {
        self.resolve(path).is_ok_and(|path| path.is_dir())
    }

    /// When a file was last modified.
    pub(crate) fn modified(&self, path: &Path) -> Option<SystemTime> {
        fs::metadata(self.resolve(path).ok()?).ok()?.modified().ok()
    }

    /// The directories that have to be created before this file, outermost first.
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

    /// Creates the missing directories of a file. Returns their paths, outermost first.
    pub(crate) fn make_directories(&self, path: &Path, access: Access) -> io::Result<Vec<PathBuf>> {
        let lacking = self.lacking(path);
        for directory in &lacking {
            // A file that only its owner may read gets a directory that only its owner may enter.
            let is_private = access.mode & 0o077 == 0 && path.parent() == Some(directory);
            let directory = self.resolve(directory)?;
            fs::create_dir(&directory)?;
            fs::set_permissions(&directory, Permissions::from_mode(if is_private { 0o700 } else { 0o755 }))?;
            sync_directory_of(&directory)?;
        }
        Ok(lacking)
    }

    /// The real path of a file, which exists or will exist once its missing directories are created. Changes nothing.
    ///
    /// # Errors
    /// It can't be created because a link leads to a missing directory, or can't be replaced because something is mounted on it.
    pub(crate) fn place(&self, named: &Path) -> io::Result<PathBuf> {
        let mut made: Vec<PathBuf> = Vec::new();
        for path in self.lacking(named).iter().map(PathBuf::as_path).chain([named]) {
            let path = self.resolve(path)?;
            let directory = path.parent().ok_or(ErrorKind::InvalidInput)?;
            if !directory.is_dir() && !made.iter().any(|made| made == directory) {
                let text = format!(
                    "the link leads to {}, which does not exist: create that directory, or remove the link",
                    directory.display()
                );
                return Err(io::Error::new(ErrorKind::NotFound, text));
            }
            made.push(path);
        }
        let path = made.pop().ok_or(ErrorKind::InvalidInput)?;
        if attributes::is_mount(&path) {
            return Err(io::Error::other(
                "something is mounted on this file, as in a container: run this outside the container",
            ));
        }
        Ok(path)
    }

    /// Replaces a file if its text is still `before`, or creates it with this access and its missing directories.
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
        // No other user can read it before it has its final mode.
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

    /// Fails if the text of a file is no longer `before`.
    pub(crate) fn check(&self, path: &Path, before: Option<&str>) -> io::Result<()> {
        if self.read(path)?.as_deref() == before {
            return Ok(());
        }
        Err(io::Error::other("another program has changed it in the meantime: run this again"))
    }

    /// Removes a file; a missing file is no error.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        let path = self.resolve(path)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => sync_directory_of(&path),
        }
    }

    /// Removes a directory if it is empty.
    pub(crate) fn remove_if_empty(&self, path: &Path) {
        // A directory that is not empty stays.
        let _ = self.resolve(path).map(fs::remove_dir);
    }

    /// True if the file belongs to another user, which explains why writing was refused.
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
        assert!(refused.to_string().contains("gone/away, which does not exist: create that directory"), "{refused}");
        // A directory that is a link to a missing directory is an error, too, and nothing is created on the way.
        symlink("/gone/away", root.join("etc/nowhere")).unwrap();
        for path in ["/etc/dangling", "/etc/nowhere/file"] {
            let told = tree.place(Path::new(path)).unwrap_err().to_string();
            assert!(told.contains("which does not exist"), "{path}: {told}");
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
