//! A directory of the agent's own, entry by entry.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use darter_store::Dir;
use darter_store::dir::Access;

fn own() -> (tempfile::TempDir, Dir) {
    let outer = tempfile::tempdir().unwrap();
    let own = Dir::open(&outer.path().join("data/of/mine")).unwrap();
    (outer, own)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn open_up(path: &Path) {
    let more = if path.is_dir() { 0o755 } else { 0o644 };
    fs::set_permissions(path, Permissions::from_mode(more)).unwrap();
}

fn kind<T>(result: io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn a_data_directory_is_made_with_those_above_it_and_is_its_owners() {
    let (outer, own) = own();
    assert_eq!(own.path(), outer.path().join("data/of/mine"));
    assert_eq!(own.path_of("x"), outer.path().join("data/of/mine/x"));
    assert_eq!(mode(own.path()), 0o700);
    assert_eq!(own.names().unwrap(), [] as [&str; 0]);
    drop(Dir::open(own.path()).unwrap());
    fs::write(outer.path().join("file"), "x").unwrap();
    fs::set_permissions(outer.path().join("file"), Permissions::from_mode(0o600)).unwrap();
    assert!(Dir::open(&outer.path().join("file")).is_err() && Dir::open(&outer.path().join("file/x")).is_err());
}

#[test]
fn a_file_is_replaced_as_a_whole_or_not_at_all() {
    let (_outer, own) = own();
    let contents: [[&[u8]; 2]; 2] = [[b"one", b"two"], [b"an", b"other"]];
    for (durable, parts) in [true, false].into_iter().zip(contents) {
        own.replace("a", "a.new", &parts, durable).unwrap();
        assert_eq!(own.read("a").unwrap(), parts.concat());
        assert_eq!((own.names().unwrap(), mode(&own.path_of("a"))), (vec!["a".to_owned()], 0o600));
    }
    // A directory is not replaced, and nothing is left of the attempt.
    own.sub("b").unwrap();
    assert!(own.replace("b", "b.new", &[b"x"], false).is_err());
    assert!(!own.path_of("b.new").exists() && own.path_of("b").is_dir());
}

#[test]
fn what_is_removed_was_there_before() {
    let (_outer, own) = own();
    drop(own.create("a").unwrap());
    assert!(own.remove("a").unwrap() && !own.remove("a").unwrap());
    own.sub("b").unwrap();
    assert!(own.remove("b").is_err() && own.path_of("b").is_dir());
}

#[test]
fn a_file_is_opened_for_what_it_is_wanted_for_and_no_other_way() {
    let (outer, own) = own();
    assert_eq!(kind(own.open_file("a", Access::Read)), Some(ErrorKind::NotFound));
    own.open_or_create("a").unwrap().write_all(b"hello").unwrap();
    assert_eq!(own.read("a").unwrap(), b"hello");
    own.open_or_create("a").unwrap().write_all(b"J").unwrap();
    assert_eq!(own.read("a").unwrap(), b"Jello", "what is there is opened");
    own.open_file("a", Access::Write).unwrap().write_all(b"h").unwrap();
    assert!(own.open_file("a", Access::Read).unwrap().write_all(b"x").is_err());
    open_up(&own.path_of("a"));
    assert_eq!(own.read("a").unwrap(), b"hello");
    assert_eq!(mode(&own.path_of("a")), 0o600);
    drop(own.create("a").unwrap());
    assert_eq!(own.read("a").unwrap(), b"", "made anew");
    // Links, and what is no file.
    let theirs = outer.path().join("theirs");
    fs::write(&theirs, "theirs").unwrap();
    open_up(&theirs);
    symlink(&theirs, own.path_of("soft")).unwrap();
    fs::hard_link(&theirs, own.path_of("hard")).unwrap();
    own.sub("dir").unwrap();
    for name in ["soft", "hard", "dir"] {
        assert_eq!(kind(own.open_file(name, Access::Read)), Some(ErrorKind::PermissionDenied), "{name}");
        assert!(own.open_or_create(name).is_err(), "{name}");
    }
    let (mut file, links) = own.open_linked("hard", Access::Read).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), links), ("theirs", 2));
    assert_eq!(mode(&theirs), 0o644, "another's mode is left alone");
    drop(own.create("soft").unwrap());
    assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
}

#[test]
fn an_entry_is_looked_at_without_being_opened_and_closed_to_others() {
    let (outer, own) = own();
    own.replace("a", "a.new", &[b"hello"], false).unwrap();
    open_up(&own.path_of("a"));
    let modified = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    fs::File::open(own.path_of("a")).unwrap().set_modified(modified).unwrap();
    let look = own.look("a").unwrap().unwrap();
    assert_eq!((look.length, look.modified), (5, 1_000_000));
    assert_eq!(mode(&own.path_of("a")), 0o600);
    let theirs = outer.path().join("theirs");
    fs::write(&theirs, "x").unwrap();
    open_up(&theirs);
    fs::hard_link(&theirs, own.path_of("hard")).unwrap();
    assert!(own.look("hard").unwrap().is_some());
    assert_eq!(mode(&theirs), 0o644);
    symlink(&theirs, own.path_of("soft")).unwrap();
    own.sub("dir").unwrap();
    for name in ["soft", "dir", "missing"] {
        assert!(own.look(name).unwrap().is_none(), "{name}");
    }
}

#[test]
fn a_directory_in_it_is_made_or_found_and_nothing_else_is_taken_for_one() {
    let (outer, own) = own();
    assert!(own.find_sub("sub").unwrap().is_none());
    drop(own.sub("sub").unwrap().create("x").unwrap());
    open_up(&own.path_of("sub"));
    assert_eq!(own.sub("sub").unwrap().names().unwrap(), ["x"]);
    assert_eq!(mode(&own.path_of("sub")), 0o700);
    assert_eq!(own.find_sub("sub").unwrap().unwrap().path(), own.path_of("sub"));
    drop(own.create("file").unwrap());
    symlink(outer.path(), own.path_of("soft")).unwrap();
    for name in ["file", "soft"] {
        let refused = own.find_sub(name).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        assert!(refused.to_string().contains("remove it"), "{refused}");
        assert!(own.sub(name).is_err());
        // A directory that can be had again is begun anew beside it.
        assert_eq!(own.sub_or_anew(name).unwrap().names().unwrap(), [] as [&str; 0]);
        assert!(own.path_of(&format!("{name}.unread")).symlink_metadata().is_ok());
    }
    assert_eq!(own.sub_or_anew("sub").unwrap().names().unwrap(), ["x"]);
}

#[test]
fn no_entry_that_is_set_aside_replaces_another() {
    let (_outer, own) = own();
    let texts = ["first", "second", "third"];
    let names = texts.map(|text| {
        fs::write(own.path_of("list"), text).unwrap();
        own.set_aside("list", "unread").unwrap()
    });
    assert_eq!(names, ["list.unread", "list.unread-2", "list.unread-3"]);
    assert_eq!(names.map(|name| fs::read_to_string(own.path_of(&name)).unwrap()), texts);
    assert_eq!(kind(own.set_aside("list", "unread")), Some(ErrorKind::NotFound));
    // Directories too: a rename to one that has something in it fails.
    for _ in 0..3 {
        fs::create_dir(own.path_of("x")).unwrap();
        fs::write(own.path_of("x/y"), "x").unwrap();
        own.set_aside("x", "unread").unwrap();
    }
    (4..=100).for_each(|number| fs::write(own.path_of(&format!("list.unread-{number}")), "x").unwrap());
    fs::write(own.path_of("list"), "stays").unwrap();
    assert!(own.set_aside("list", "unread").unwrap_err().to_string().contains("remove some"));
    assert_eq!(fs::read_to_string(own.path_of("list")).unwrap(), "stays");
}

#[test]
fn names_are_those_of_its_entries_that_are_text() {
    let (_outer, own) = own();
    drop((own.create("a").unwrap(), own.sub(".hidden").unwrap()));
    fs::write(own.path().join(OsStr::from_bytes(b"\xff")), "x").unwrap();
    let mut names = own.names().unwrap();
    names.sort();
    assert_eq!(names, [".hidden", "a"]);
    own.rename("a", &own.sub(".hidden").unwrap(), "b").unwrap();
    assert_eq!(own.sub(".hidden").unwrap().names().unwrap(), ["b"]);
    assert_eq!(kind(own.rename("a", &own, "c")), Some(ErrorKind::NotFound));
}

/// Programs that an agent starts have no business with its files.
#[test]
fn no_program_that_is_started_inherits_what_is_open() {
    let (_outer, own) = own();
    let made = own.create("file").unwrap();
    for file in [&made, &own.open_file("file", Access::Read).unwrap()] {
        assert!(rustix::io::fcntl_getfd(file).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
}
