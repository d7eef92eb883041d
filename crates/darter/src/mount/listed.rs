//! Files that a list or a local directory names.
//!
//! A list is text: each line has a URL, then optionally the digest of its content, then optionally its path in the mount. Lines that are empty or begin with
//! `#` are ignored. Pure, except [`walk`], which is blocking.

use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use darter_archive::tree::TreeBuilder;
use darter_archive::{Body, Contents, NodeId, Tree};
use darter_core::Digest;
use darter_image::tar::Time;
use url::Url;

use crate::failure::Failure;
use crate::get::file_name;
use crate::units;

/// Most bytes of a list.
pub(super) const MAX_LIST: u64 = 8 << 20;

/// Most files of a list. Each of them is requested before the mount exists.
pub(super) const MAX_LISTED: usize = 10_000;

/// The error for content that is not a list.
pub(super) const NO_LIST: &str = "not a list of files: mount it without --as list";

/// A file of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedFile {
    pub(super) url: Url,
    pub(super) digest: Option<Digest>,
    /// The file's path in the mount.
    pub(super) path: String,
}

/// Reads a list from a local file. Blocking.
///
/// # Errors
/// The path can't be read, is not a regular file (a pipe might never end), is too long for a list, or is not text.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let found = std::fs::metadata(path).with_context(|| format!("can't read {shown}"))?;
    if !found.is_file() {
        return Err(Failure::Usage(format!("{shown} is not a file: name a list of files")).into());
    }
    if found.len() > MAX_LIST {
        return Err(too_long(&shown.to_string(), found.len(), NO_LIST).into());
    }
    std::fs::read_to_string(path).with_context(|| format!("can't read {shown}"))
}

/// The error for `name`, which has `length` bytes, too many; `but` says what to do.
pub(super) fn too_long(name: &str, length: u64, but: &str) -> Failure {
    Failure::Usage(format!("{name} is {} long, and {but}", units::size(length)))
}

/// The files that a list at `base` names. A list from another host must not name files of this one.
pub(super) fn parsed(text: &str, base: &Url) -> anyhow::Result<Vec<ListedFile>> {
    let mut files = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| Failure::Usage(format!("line {} of the list {base}: {why}", number + 1));
        let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let url = base.join(first).map_err(|error| wrong(&format!("not a URL: {first:?} ({error})")))?;
        match url.scheme() {
            "http" | "https" => {}
            "file" if base.scheme() == "file" => {}
            "file" => return Err(wrong("a list from another host can't name files of this host").into()),
            other => return Err(wrong(&format!("can't read {other}: URLs (only http and https)")).into()),
        }
        let rest = rest.trim();
        let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let (digest, path) = match word.parse::<Digest>() {
            Ok(digest) => (Some(digest), after.trim()),
            Err(error) if word.starts_with("sha256:") || word.starts_with("sha512:") => {
                return Err(wrong(&format!("{error}: {word}")).into());
            }
            Err(_) => (None, rest),
        };
        let path = match path {
            "" => file_name(&url).ok_or_else(|| wrong("the URL names no file: write its path after it"))?,
            path => path.to_owned(),
        };
        files.push(ListedFile { url, digest, path });
        if files.len() > MAX_LISTED {
            return Err(wrong(&format!("the list has more than {MAX_LISTED} files: split it")).into());
        }
    }
    if files.is_empty() {
        return Err(Failure::Usage(format!(
            "the list {base} names no file: write URLs into it, one per line, optionally with a digest and a path"
        ))
        .into());
    }
    Ok(files)
}

/// The tree's node for a file; `number` is its index in the list.
pub(super) fn body(number: usize, size: u64) -> anyhow::Result<Body> {
    Ok(Body::File { size, contents: Contents::Whole(u32::try_from(number).context("too many files")?) })
}

/// The tree below a directory, and the paths of its files. Blocking. Sockets, devices and pipes are left out. An unreadable file is an
/// error.
pub(super) fn walk(top: &Path) -> anyhow::Result<(Tree, Vec<PathBuf>)> {
    let cannot = |path: &Path| format!("can't read {}", path.display());
    let of = |metadata: &Metadata| Time {
        seconds: metadata.mtime(),
        nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or_default(),
    };
    let metadata = std::fs::metadata(top).with_context(|| cannot(top))?;
    let (mut builder, mut files, mut todo) = (TreeBuilder::new(of(&metadata)), Vec::new(), vec![top.to_owned()]);
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).with_context(|| cannot(&directory))? {
            let path = entry.with_context(|| cannot(&directory))?.path();
            let metadata = std::fs::symlink_metadata(&path).with_context(|| cannot(&path))?;
            let mode = (metadata.mode() & 0o777) as u16;
            let body = if metadata.is_dir() {
                todo.push(path.clone());
                Body::Directory { parent: NodeId::ROOT, entries: Box::new([]) }
            } else if metadata.is_symlink() {
                let target = std::fs::read_link(&path).with_context(|| cannot(&path))?;
                Body::Symlink(target.as_os_str().as_bytes().into())
            } else if metadata.is_file() {
                files.push(path.clone());
                body(files.len() - 1, metadata.len())?
            } else {
                continue;
            };
            let Ok(name) = path.strip_prefix(top) else { bail!(cannot(&path)) };
            builder.add(name.as_os_str().as_bytes(), mode, of(&metadata), body)?;
        }
    }
    Ok((builder.finish()?, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, base: &str) -> anyhow::Result<Vec<ListedFile>> {
        parsed(text, &base.parse().unwrap())
    }

    #[test]
    fn only_a_file_of_some_length_is_read_as_a_list() {
        let room = tempfile::tempdir().unwrap();
        let (list, long, pipe) = (room.path().join("list"), room.path().join("long"), room.path().join("pipe"));
        std::fs::write(&list, "https://a/b\n").unwrap();
        assert_eq!(read(&list).unwrap(), "https://a/b\n");
        std::fs::File::create(&long).unwrap().set_len(MAX_LIST + 1).unwrap();
        let error = read(&long).unwrap_err().to_string();
        assert!(error.contains("8.4 MB long, and not a list of files"), "{error}");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        let error = read(&pipe).unwrap_err().to_string();
        assert!(error.contains("is not a file"), "{error}");
        assert!(read(&room.path().join("none")).unwrap_err().to_string().starts_with("can't read "));
    }

    #[test]
    fn a_line_is_a_url_a_digest_and_a_path() {
        let digest = Digest::sha256(b"x");
        let text = format!(
            "# a model\r\n\nhttps://a/m/w-1.bin\nw-2.bin {digest}\n/other/x  {digest}\tsub dir/a b.json\n../y?sig=1 z\n"
        );
        let files = of(&text, "https://r.example/m/files.txt").unwrap();
        let found: Vec<_> =
            files.iter().map(|file| (file.url.as_str(), file.digest.is_some(), file.path.as_str())).collect();
        assert_eq!(
            found,
            [
                ("https://a/m/w-1.bin", false, "w-1.bin"),
                ("https://r.example/m/w-2.bin", true, "w-2.bin"),
                ("https://r.example/other/x", true, "sub dir/a b.json"),
                ("https://r.example/y?sig=1", false, "z"),
            ]
        );
    }

    #[test]
    fn what_is_no_list_is_refused_by_its_line() {
        for (text, why) in [
            ("", "names no file"),
            ("# nothing", "names no file"),
            ("https://a/x\nfile:///etc/passwd", "line 2"),
            ("ftp://a/x", "can't read ftp"),
            ("https://a/x sha256:12 y", "line 1"),
            ("https://a/", "names no file"),
            ("https://[", "not a URL"),
        ] {
            let told = of(text, "https://r.example/l").unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
        assert!(
            of("file:///etc/hostname", "file:///home/me/list").is_ok(),
            "who has the list here may read them anyway"
        );
    }

    #[test]
    fn a_directory_is_walked_and_links_in_it_stay_links() {
        let room = tempfile::tempdir().unwrap();
        std::fs::create_dir(room.path().join("sub")).unwrap();
        std::fs::write(room.path().join("sub/file"), "hello").unwrap();
        std::os::unix::fs::symlink("/", room.path().join("link")).unwrap();
        let (tree, files) = walk(room.path()).unwrap();
        assert_eq!(files, [room.path().join("sub/file")]);
        let body = |path: &str| &tree.get(tree.find(path).unwrap()).unwrap().body;
        assert_eq!(*body("sub/file"), Body::File { size: 5, contents: Contents::Whole(0) });
        assert_eq!(*body("link"), Body::Symlink(b"/".as_slice().into()));
        assert!(walk(&room.path().join("none")).is_err());
    }
}
