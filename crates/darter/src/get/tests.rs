//! Targets, and the ways in which content gets there.

mod daemon;

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use clap::Parser as _;
use darter_core::ByteRange;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::sink::{Chunk, Home, Sink};
use super::target::OutputPlace;
use super::*;
use crate::cli::Cli;

fn url(text: &str) -> url::Url {
    text.parse().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn wishes() -> Wishes {
    Wishes { blob: BlobId([1; 32]), length: None, marks: true, moves: None, link: false, modified: None, sync: false }
}

fn write_with(path: &Path, wishes: Wishes, chunks: &[Chunk]) -> anyhow::Result<Placed> {
    let mut sink = Sink::open(&Target::choose(path)?, wishes)?;
    for chunk in chunks {
        sink.take(chunk, None)?;
    }
    sink.commit()
}

/// Writes the content as bytes and as ranges of a file, and checks both results.
fn write_both_ways(path: &Path, content: &'static [u8], check: impl Fn(Placed)) {
    check(write_with(path, wishes(), &[Chunk::Bytes(0, Bytes::from_static(content))]).unwrap());
    let (_dir, parts) = stored(content);
    check(write_with(path, wishes(), &parts).unwrap());
    assert_eq!(std::fs::read(path).unwrap(), content);
}

/// The store that this directory is.
fn home(dir: &tempfile::TempDir) -> Option<Arc<Home>> {
    Some(Arc::new(Home::new(dir.path())))
}

/// A store's file with this content, and two chunks of it.
fn stored(content: &[u8]) -> (tempfile::TempDir, Vec<Chunk>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = Arc::new(File::options().read(true).write(true).open(path).unwrap());
    let (half, all) = (content.len() as u64 / 2, content.len() as u64);
    let parts = [ByteRange::new(0, half), ByteRange::new(half, all)];
    (dir, parts.map(|range| Chunk::File(Arc::clone(&file), range)).to_vec())
}

#[test]
fn the_url_or_the_origin_names_the_file() {
    let here = OutputPlace::of(None);
    let named = |text: &str, called| here.target(&url(text), called).map(|target| target.shown().unwrap().to_owned());
    assert_eq!(named("https://a/b/c.iso?x=1", None).unwrap(), Path::new("c.iso"));
    assert_eq!(named("https://a/b/c.iso", Some("d.iso")).unwrap(), Path::new("d.iso"));
    for (path, name) in [
        ("My%20File.bin", "My File.bin"),
        ("ä.bin", "ä.bin"),
        ("100%25", "100%"),
        ("a%2Fb", "a%2Fb"),
        ("a%0Ab", "a%0Ab"),
        ("%FF.bin", "%FF.bin"),
        ("txt.%E2%80%AEexe", "txt.%E2%80%AEexe"),
        ("%20", "%20"),
    ] {
        assert_eq!(named(&format!("https://a/{path}"), None).unwrap(), Path::new(name), "{path}");
    }
    let long = "語".repeat(85);
    assert_eq!(named(&format!("https://a/{long}"), None).unwrap(), Path::new(&long), "255 bytes, and 765 encoded");
    for nameless in ["https://a", "https://a/b/"] {
        assert!(named(nameless, None).unwrap_err().to_string().contains("-o FILE"), "{nameless}");
    }
    assert_eq!(OutputPlace::of(Some(Path::new("-"))), OutputPlace::Stdout);
    let room = tempfile::tempdir().unwrap();
    for dir in ["", "fresh/", "a/b/c/", "dotted/."].map(|dir| room.path().join(dir)) {
        let target = OutputPlace::of(Some(&dir)).target(&url("https://a/b"), None).unwrap();
        assert_eq!(target.shown(), Some(dir.join("b").as_path()));
        assert!(dir.is_dir());
    }
}

#[test]
fn what_could_only_fail_later_is_refused_now() {
    let room = tempfile::tempdir().unwrap();
    let told = |path: &Path| Target::choose(path).unwrap_err().to_string();
    assert!(told(&room.path().join("no/b")).contains("there is no directory"));
    assert!(told(&room.path().join("x".repeat(256))).contains("too long"));
    std::fs::create_dir(room.path().join("b")).unwrap();
    let taken = OutputPlace::of(Some(room.path())).target(&url("https://a/b"), None).unwrap_err().to_string();
    assert!(taken.contains("is a directory"), "{taken}");
    let path = room.path().join("ro");
    std::fs::write(&path, "old").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).unwrap();
    assert!(told(&path).contains("read-only (mode 0444)"), "{}", told(&path));
    symlink("loop", room.path().join("loop")).unwrap();
    assert!(Target::choose(&room.path().join("loop")).is_err());
}

#[test]
fn devices_pipes_and_the_standard_streams_are_written_to_and_never_replaced() {
    let room = tempfile::tempdir().unwrap();
    let kind = |path: &str| match Target::choose(Path::new(path)).unwrap() {
        Target::Stdout => "stdout",
        Target::Stderr => "stderr",
        Target::Device(_) => "device",
        Target::File(_) => "file",
    };
    assert_eq!(kind("/dev/null"), "device");
    for (path, expected) in
        [("/dev/stdout", "stdout"), ("/dev/fd/1", "stdout"), ("/proc/self/fd/2", "stderr"), ("/dev/stderr", "stderr")]
    {
        assert_eq!(kind(path), expected, "{path}");
    }
    let link = room.path().join("link");
    symlink("/dev/stdout", &link).unwrap();
    assert_eq!(kind(link.to_str().unwrap()), "stdout", "by a link to it, too");
    assert_eq!(
        Target::choose(Path::new("/dev/fd/7")).unwrap().shown(),
        Some(Path::new("/dev/fd/7")),
        "as it was given"
    );
    let pipe = room.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(kind(pipe.to_str().unwrap()), "device");
}

#[test]
fn the_final_name_appears_with_the_commit_and_nothing_before() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("out");
    std::fs::write(&path, "old").unwrap();
    for chunks in [vec![Chunk::Bytes(0, Bytes::from_static(b"ne"))], stored(b"ne").1] {
        let mut dropped = Sink::open(&Target::choose(&path).unwrap(), wishes()).unwrap();
        for chunk in &chunks {
            dropped.take(chunk, None).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(room.path()), ["out"], "nothing to be left by a process that is killed");
    }
    write_both_ways(&path, b"new", |_| ());
    assert_eq!(names(room.path()), ["out"]);
    write_with(&path, wishes(), &[]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"", "content may be empty");
    write_both_ways(&room.path().join("y".repeat(255)), b"a name as long as names can be", |_| ());
}

#[test]
fn a_replaced_file_keeps_its_mode_owner_and_attributes() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("out");
    std::fs::write(&path, "old").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4751)).unwrap();
    let root = rustix::process::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(&path, Some(12), Some(34)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4751)).unwrap();
    }
    let attributes = rustix::fs::setxattr(&path, "user.test", b"kept", rustix::fs::XattrFlags::empty()).is_ok();
    let before = std::fs::metadata(&path).unwrap();
    write_both_ways(&path, b"new", |_| {
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        assert_eq!(after.mode() & 0o7777, 0o751, "all but the rights that are lent to whoever runs it");
        let mut value = [0; 16];
        if attributes {
            let length = rustix::fs::getxattr(&path, "user.test", &mut value[..]).unwrap();
            assert_eq!(&value[..length], b"kept");
        }
    });
    let fresh = room.path().join("fresh");
    let (dir, parts) = stored(b"new");
    let moving = Wishes { moves: home(&dir), ..wishes() };
    write_with(&fresh, moving, &parts).unwrap();
    let plain = room.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode();
    assert_eq!(mode(&fresh), mode(&plain), "a new file has the mode that the umask leaves");
}

#[test]
fn a_new_file_belongs_to_its_directory_however_it_came_there() {
    let room = tempfile::tempdir().unwrap();
    let shared = room.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&shared, None, Some(34)).unwrap();
        std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o2775)).unwrap();
    }
    // An access list of version 2: the owner and user 65534 may read and write, and nobody else may do anything.
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 6, 65534), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        list.extend([&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat());
    }
    // On a file system without such lists, the test checks the rest.
    let _ = rustix::fs::setxattr(&shared, "system.posix_acl_default", &list, rustix::fs::XattrFlags::empty());
    let (plain, moved) = (shared.join("plain"), shared.join("moved"));
    std::fs::write(&plain, "").unwrap();
    let (dir, parts) = stored(b"new");
    write_with(&moved, Wishes { moves: home(&dir), ..wishes() }, &parts).unwrap();
    let look = |path: &Path| {
        let (found, mut list) = (std::fs::metadata(path).unwrap(), [0; 256]);
        let length = rustix::fs::getxattr(path, "system.posix_acl_access", &mut list[..]).unwrap_or(0);
        (found.mode(), found.gid(), list[..length].to_vec())
    };
    assert_eq!(look(&moved), look(&plain));
}

#[test]
fn what_somebody_did_with_the_name_meanwhile_counts() {
    let room = tempfile::tempdir().unwrap();
    let at = |name: &str| room.path().join(name);
    let write = |path: &Path, meanwhile: &dyn Fn()| {
        for parts in [vec![Chunk::Bytes(0, Bytes::from_static(b"new"))], stored(b"new").1] {
            let _ = std::fs::remove_file(path);
            std::fs::write(path, "old").unwrap();
            let mut sink = Sink::open(&Target::choose(path)?, wishes())?;
            parts.iter().for_each(|part| sink.take(part, None).unwrap());
            meanwhile();
            sink.commit()?;
            assert_eq!(std::fs::read(path).unwrap(), b"new");
        }
        anyhow::Ok(())
    };
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    let close = |mode| std::fs::set_permissions(at("out"), std::fs::Permissions::from_mode(mode)).unwrap();
    write(&at("out"), &|| close(0o640)).unwrap();
    assert_eq!(mode(&at("out")), 0o640, "the mode that it got");
    let told = write(&at("out"), &|| close(0o400)).unwrap_err().to_string();
    assert!(told.contains("read-only (mode 0400)"), "{told}");
    assert_eq!(std::fs::read(at("out")).unwrap(), b"old");
    write(&at("out"), &|| {
        let _ = std::fs::remove_file(at("twin"));
        std::fs::hard_link(at("out"), at("twin")).unwrap();
    })
    .unwrap();
    assert_eq!(std::fs::read(at("twin")).unwrap(), b"new", "another name that it got");
    write(&at("out"), &|| std::fs::remove_file(at("out")).unwrap()).unwrap();
    write(&at("out"), &|| {
        std::fs::remove_file(at("out")).unwrap();
        std::fs::write(at("out"), "another's").unwrap();
        close(0o600);
    })
    .unwrap();
    assert_eq!(mode(&at("out")), 0o600, "of a file that took its place");
}

#[test]
fn links_stay_what_they_are() {
    let room = tempfile::tempdir().unwrap();
    let at = |name: &str| room.path().join(name);
    std::fs::write(at("real"), "old").unwrap();
    symlink("real", at("link")).unwrap();
    write_both_ways(&at("link"), b"through the link", |_| ());
    assert_eq!(std::fs::read(at("real")).unwrap(), b"through the link");
    assert!(std::fs::symlink_metadata(at("link")).unwrap().is_symlink());

    symlink("not yet", at("dangling")).unwrap();
    write_both_ways(&at("dangling"), b"made", |_| ());
    assert_eq!(std::fs::read(at("not yet")).unwrap(), b"made");
    assert!(std::fs::symlink_metadata(at("dangling")).unwrap().is_symlink());

    std::fs::hard_link(at("real"), at("twin")).unwrap();
    let inode = std::fs::metadata(at("real")).unwrap().ino();
    write_both_ways(&at("twin"), b"in both", |_| ());
    assert_eq!(std::fs::read(at("real")).unwrap(), b"in both");
    assert_eq!(std::fs::metadata(at("real")).unwrap().ino(), inode);
    assert_eq!(std::fs::metadata(at("real")).unwrap().nlink(), 2);
}

#[test]
fn rights_to_a_directory_or_a_file_count_before_anything_is_read() {
    let room = tempfile::tempdir().unwrap();
    let at = |name: &str| room.path().join(name);
    let close = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    std::fs::write(at("unreadable"), "old").unwrap();
    std::fs::hard_link(at("unreadable"), at("twin")).unwrap();
    close(&at("unreadable"), 0o200);
    write_with(&at("unreadable"), wishes(), &[Chunk::Bytes(0, Bytes::from_static(b"new"))]).unwrap();
    close(&at("unreadable"), 0o600);
    assert_eq!(std::fs::read(at("twin")).unwrap(), b"new", "writing takes no right to read");
    if rustix::process::geteuid().is_root() {
        return eprintln!("skipped: root may write everywhere");
    }
    std::fs::create_dir(at("closed")).unwrap();
    close(&at("closed"), 0o500);
    let told = format!("{:#}", Target::choose(&at("closed/file")).unwrap_err());
    assert!(told.contains("can't write into") && !told.contains(".darter-"), "{told}");
    assert!(OutputPlace::of(Some(&at("closed"))).check().is_err(), "whatever the origin will call it");
    // This user's own file there can be written but not replaced.
    close(&at("closed"), 0o700);
    std::fs::write(at("closed/file"), "old").unwrap();
    close(&at("closed"), 0o500);
    for moves in [false, true] {
        let (dir, parts) = stored(b"new");
        let moves = home(&dir).filter(|_| moves);
        write_with(&at("closed/file"), Wishes { moves, ..wishes() }, &parts).unwrap();
        assert_eq!(std::fs::read(at("closed/file")).unwrap(), b"new");
        std::fs::write(at("closed/file"), "old").unwrap();
    }
    std::fs::create_dir(at("dropbox")).unwrap();
    close(&at("dropbox"), 0o300);
    write_with(&at("dropbox/file"), wishes(), &[Chunk::Bytes(0, Bytes::from_static(b"new"))]).unwrap();
    close(&at("dropbox"), 0o700);
    assert_eq!(names(&at("dropbox")), ["file"]);
}

#[test]
fn in_a_shared_directory_a_strangers_link_is_not_followed() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: makes another user's link");
    }
    let room = tempfile::tempdir().unwrap();
    let shared = room.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::write(room.path().join("precious"), "old").unwrap();
    let link = shared.join("link");
    symlink(room.path().join("precious"), &link).unwrap();
    assert!(Target::choose(&link).is_ok(), "one's own is followed");
    std::os::unix::fs::lchown(&link, Some(12), Some(12)).unwrap();
    assert!(Target::choose(&link).is_err());
}

#[test]
fn a_stored_file_is_moved_linked_or_shared_rather_than_copied() {
    let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
    let (dir, parts) = stored(b"content");
    let (source, path) = (dir.path().join("data"), dir.path().join("out"));

    let placed = write_with(&path, wishes(), &parts).unwrap();
    assert!(matches!(placed, Placed::Copied | Placed::Reflink), "{placed:?}");
    assert_ne!(inode(&path), inode(&source));

    let placed = write_with(&path, Wishes { link: true, ..wishes() }, &parts).unwrap();
    if placed != Placed::Reflink {
        assert_eq!((placed, inode(&path)), (Placed::Hardlink, inode(&source)));
        assert_eq!(std::fs::metadata(&source).unwrap().mode() & 0o777, 0o600, "the store's file stays as it is");
        write_with(&path, wishes(), &[Chunk::Bytes(0, Bytes::from_static(b"other"))]).unwrap();
        assert_eq!(std::fs::read(&source).unwrap(), b"content", "a later get does not write into the store");
    }
    let before = inode(&source);
    let moving = || Wishes { moves: home(&dir), ..wishes() };
    let mut second = Sink::open(&Target::choose(&dir.path().join("second")).unwrap(), moving()).unwrap();
    parts.iter().for_each(|part| second.take(part, None).unwrap());
    // The results are in another directory.
    let results = tempfile::tempdir_in(dir.path().parent().unwrap()).unwrap();
    let path = results.path().join("out");
    let placed = write_with(&path, moving(), &parts).unwrap();
    assert_eq!((placed, inode(&path)), (Placed::Moved, before));
    assert_eq!(second.commit().unwrap(), Placed::Copied, "what was moved stays under the first of its names");
    assert_eq!(std::fs::read(dir.path().join("second")).unwrap(), b"content");
    assert!(!source.exists(), "the store has it no more");
    assert_eq!(std::fs::read(&path).unwrap(), b"content");
}

/// A daemon in a container, or one whose service has its own mounts.
#[test]
fn a_file_of_another_mount_is_copied_while_it_comes() {
    let (dir, parts) = stored(b"content");
    let (path, start) = (dir.path().join("out"), "echo ready; exec sleep 60");
    let mut other = Command::new("unshare");
    other.args(["--user", "--map-root-user", "--mount", "--propagation", "private", "sh", "-c", start]);
    let Ok(mut other) = other.stdout(Stdio::piped()).stderr(Stdio::null()).spawn() else {
        return eprintln!("skipped: there is no `unshare`");
    };
    let mut ready = [0; 6];
    let entered = other.stdout.take().unwrap().read_exact(&mut ready).is_ok();
    let there = format!("/proc/{}/root{}", other.id(), dir.path().join("data").display());
    let opened = File::open(there);
    if let (true, Ok(file)) = (entered, &opened) {
        assert_eq!(file.metadata().unwrap().dev(), std::fs::metadata(dir.path()).unwrap().dev());
        let file = Arc::new(file.try_clone().unwrap());
        for wishes in [Wishes { link: true, ..wishes() }, Wishes { moves: home(&dir), ..wishes() }] {
            let mut sink = Sink::open(&Target::choose(&path).unwrap(), wishes).unwrap();
            for part in &parts {
                sink.take(&Chunk::File(Arc::clone(&file), part.range()), None).unwrap();
            }
            let (written, stored) = (sink.readable().unwrap().metadata().unwrap(), file.metadata().unwrap());
            let placed = sink.commit().unwrap();
            assert!(
                placed == Placed::Reflink || written.ino() != stored.ino(),
                "{placed:?}: nothing is left for the end"
            );
            assert_eq!(std::fs::read(&path).unwrap(), b"content");
        }
    } else {
        eprintln!("skipped: no other mounts can be made here");
    }
    let _ = other.kill();
    other.wait().unwrap();
}

#[test]
fn parts_may_come_in_any_order_and_again() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("out");
    let content = b"0123456789abcdef";
    let (dir, parts) = stored(content);
    let Chunk::File(file, _) = &parts[0] else { panic!() };
    let part = |start, end| Chunk::File(Arc::clone(file), ByteRange::new(start, end));
    for moves in [false, true] {
        let chunks = [part(9, 16), part(0, 3), part(7, 12), part(3, 9), part(0, 3)];
        let moving = Wishes { moves: home(&dir).filter(|_| moves), ..wishes() };
        write_with(&path, moving, &chunks).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), content, "{moves}");
    }
}

#[test]
fn another_file_of_the_stores_goes_on_where_the_first_one_was_left() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("out");
    let ((one, first), (_two, second)) = (stored(b"0123456789"), stored(b"0123456789"));
    // With a first file that may be moved into place, and with one that may not.
    for moves in [false, true] {
        let chunks = [first[1].clone(), second[0].clone()];
        let moves = home(&one).filter(|_| moves);
        let placed = write_with(&path, Wishes { moves, ..wishes() }, &chunks).unwrap();
        assert_eq!(placed, Placed::Copied);
        assert_eq!(std::fs::read(&path).unwrap(), b"0123456789");
    }
}

#[test]
fn a_file_that_is_begun_anew_has_nothing_of_what_came_before() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("out");
    let (_dir, parts) = stored(b"new");
    let mut sink = Sink::open(&Target::choose(&path).unwrap(), wishes()).unwrap();
    sink.take(&Chunk::Bytes(3, Bytes::from_static(b"former content")), None).unwrap();
    sink.start_over(wishes()).unwrap();
    for part in &parts {
        sink.take(part, None).unwrap();
    }
    assert_eq!((sink.has_all_of(3), sink.has_all_of(4)), (Ok(()), Err(3)));
    sink.commit().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
}

#[test]
fn a_stored_file_that_is_more_than_the_content_is_copied() {
    let (dir, mut parts) = stored(b"content and more");
    parts.truncate(1);
    let path = dir.path().join("out");
    let placed = write_with(&path, Wishes { moves: home(&dir), ..wishes() }, &parts).unwrap();
    assert_eq!(placed, Placed::Copied);
    assert_eq!(std::fs::read(&path).unwrap(), b"content ");
    assert_eq!(std::fs::read(dir.path().join("data")).unwrap(), b"content and more");
}

#[test]
fn room_is_judged_before_anything_is_written() {
    let room = tempfile::tempdir().unwrap();
    let wishes = Wishes { length: Some(1 << 60), ..wishes() };
    let chunk = Chunk::Bytes(0, Bytes::from_static(b"begin"));
    let told = write_with(&room.path().join("out"), wishes, &[chunk]).unwrap_err().to_string();
    assert!(told.starts_with("no room for 1.2 EB in ") && told.contains("-o"), "{told}");
    assert_eq!(names(room.path()), [""; 0]);

    // A file with two names is overwritten at the end, but its space is checked at the beginning.
    let path = room.path().join("out");
    std::fs::write(&path, "old").unwrap();
    std::fs::hard_link(&path, room.path().join("twin")).unwrap();
    let (_dir, parts) = stored(b"begin");
    let mut sink =
        Sink::open(&Target::choose(&path).unwrap(), Wishes { length: Some(1 << 60), ..self::wishes() }).unwrap();
    let told = sink.take(&parts[0], None).map_err(|error| error.to_string());
    // Shared blocks take no space.
    let shares = write_with(&room.path().join("probe"), self::wishes(), &parts).unwrap() == Placed::Reflink;
    assert!(shares || told.as_ref().is_err_and(|told| told.starts_with("no room for 1.2 EB in ")), "{told:?}");
}

#[test]
fn what_was_written_is_known_again_until_it_changes() {
    let room = tempfile::tempdir().unwrap();
    let (path, blob) = (room.path().join("out"), BlobId([1; 32]));
    let date = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let dated = Wishes { modified: Some(date), ..wishes() };
    write_with(&path, dated, &[Chunk::Bytes(0, Bytes::from_static(b"new"))]).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), date);
    if rustix::fs::setxattr(&path, "user.test", b"x", rustix::fs::XattrFlags::empty()).is_err() {
        return eprintln!("skipped: no extended attributes in {}", room.path().display());
    }
    assert!(attributes::is_marked(&path, blob));
    assert!(!attributes::is_marked(&path, BlobId([2; 32])));
    std::fs::write(&path, "eww").unwrap();
    assert!(!attributes::is_marked(&path, blob), "somebody else wrote it");
}
