//! Files that can't be read, at the start and while the store is open: the other blobs go on, nothing hangs, and what may be a
//! newer version's is not deleted.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use darter_core::PieceIndex;
use darter_store::{DiskStore, Store as _};

use crate::content::{Content, PIECE, config};

/// The thing in the place of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instead {
    Directory,
    Pipe,
    DanglingLink,
    NotReadable,
    Nothing,
    ZeroBytes,
    Garbage,
    NewerVersion,
}

const ALL: [Instead; 8] = [
    Instead::Directory,
    Instead::Pipe,
    Instead::DanglingLink,
    Instead::NotReadable,
    Instead::Nothing,
    Instead::ZeroBytes,
    Instead::Garbage,
    Instead::NewerVersion,
];

impl Instead {
    fn put(self, at: &Path) {
        let before = fs::read(at).unwrap();
        let clear = || fs::remove_file(at).unwrap();
        match self {
            Self::Directory => {
                clear();
                fs::create_dir(at).unwrap();
                fs::write(at.join("x"), "x").unwrap();
            }
            Self::Pipe => {
                clear();
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            }
            Self::DanglingLink => {
                clear();
                symlink("/nowhere/at/all", at).unwrap();
            }
            // Root reads whatever the mode is, but nothing of another user's below its own directory.
            Self::NotReadable if rustix::process::geteuid().is_root() => {
                std::os::unix::fs::lchown(at, Some(65_534), None).unwrap();
            }
            Self::NotReadable => fs::set_permissions(at, Permissions::from_mode(0o0)).unwrap(),
            Self::Nothing => clear(),
            Self::ZeroBytes => fs::write(at, "").unwrap(),
            Self::Garbage => fs::write(at, "garbage").unwrap(),
            Self::NewerVersion => {
                let mut newer = before;
                newer[8] = 77;
                fs::write(at, newer).unwrap();
            }
        }
    }

    /// True if nobody can know what it is, or it is a newer version's.
    fn is_kept(self) -> bool {
        !matches!(self, Self::Nothing | Self::ZeroBytes | Self::Garbage)
    }
}

struct World {
    dir: tempfile::TempDir,
    /// The content whose file is changed.
    struck: Content,
    other: Content,
}

impl World {
    fn new() -> Self {
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
            struck: Content::new(1, 2 * PIECE),
            other: Content::new(2, 2 * PIECE),
        };
        let store = world.open();
        world.struck.fill(&store);
        world.other.fill(&store);
        drop(store);
        world
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn open(&self) -> DiskStore {
        DiskStore::open(&self.data_dir(), &config(None)).unwrap()
    }

    fn file(&self, extension: &str) -> PathBuf {
        let name = self.struck.id.to_string();
        self.data_dir().join("blobs").join(&name[..2]).join(format!("{name}.{extension}"))
    }

    /// The other blob is there, and the struck one can be stored anew.
    fn goes_on(&self, store: &DiskStore, what: &str) {
        let other = store.open(self.other.id).unwrap().unwrap_or_else(|| panic!("{what}: the other blob is gone"));
        assert!(other.is_complete(), "{what}");
        self.other.check_held(&*other);
        let _ = store.open(self.struck.id);
        let struck = self.struck.open(store);
        let mut buffer = Vec::new();
        for piece in 0..2 {
            // Each piece is hashed before its first use.
            let _ = struck.read_piece(PieceIndex(piece), &mut buffer);
            struck.put(PieceIndex(piece), self.struck.piece(piece)).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        self.struck.check_held(&*struck);
    }
}

#[test]
fn a_sidecar_that_is_not_what_it_should_be_is_one_blobs_affair() {
    for instead in ALL {
        for while_open in [false, true] {
            let what = format!("{instead:?}, while open: {while_open}");
            let world = World::new();
            let bytes = fs::read(world.file("data")).unwrap();
            let store = while_open.then(|| world.open());
            instead.put(&world.file("piece"));
            let store = store.unwrap_or_else(|| world.open());
            if instead.is_kept() {
                assert!(world.file("piece").symlink_metadata().is_ok(), "{what}");
                assert_eq!(fs::read(world.file("data")).unwrap(), bytes, "{what}");
            }
            world.goes_on(&store, &what);
            drop(store);
            if instead.is_kept() {
                assert_eq!(fs::read(world.file("newer-data")).unwrap(), bytes, "{what}");
                assert!(world.file("newer-piece").symlink_metadata().is_ok(), "{what}");
            }
            // Blobs stored anew are here at the next start, and so are those set aside.
            let store = world.open();
            assert_eq!(store.list().len(), 2, "{what}");
            assert_eq!(world.file("newer-piece").symlink_metadata().is_ok(), instead.is_kept(), "{what}");
        }
    }
}

#[test]
fn bytes_that_are_not_what_they_should_be_are_one_blobs_affair() {
    for instead in ALL {
        for while_open in [false, true] {
            let what = format!("{instead:?}, while open: {while_open}");
            let world = World::new();
            let store = while_open.then(|| world.open());
            instead.put(&world.file("data"));
            let store = store.unwrap_or_else(|| world.open());
            world.goes_on(&store, &what);
            drop(store);
            assert_eq!(world.open().list().len(), 2, "{what}");
        }
    }
}

#[test]
fn what_else_is_in_the_directory_holds_up_no_blob() {
    for instead in ALL {
        let world = World::new();
        let index = world.data_dir().join("index.redb");
        instead.put(&index);
        fs::create_dir_all(world.data_dir().join("trash/7/x")).unwrap();
        fs::create_dir(world.file("piece.new")).unwrap();
        fs::create_dir(world.data_dir().join("blobs/zz")).unwrap();
        fs::write(world.data_dir().join("blobs/file"), "x").unwrap();
        let store = world.open();
        assert_eq!(store.list().len(), 2, "{instead:?}");
        world.goes_on(&store, &format!("{instead:?}"));
        store.flush().unwrap_or_else(|error| panic!("{instead:?}: {error}"));
        drop(store);
        drop(world.open());
        if instead.is_kept() && instead != Instead::NewerVersion {
            assert!(world.data_dir().join("index.redb.unread").symlink_metadata().is_ok(), "{instead:?}");
        }
    }
}

#[test]
fn no_index_that_is_set_aside_replaces_another() {
    let world = World::new();
    let at = |name: &str| world.data_dir().join(name);
    let texts = ["a later index", "a damaged one"];
    for text in texts {
        fs::write(at("index.redb"), text).unwrap();
        assert!(world.open().set_aside().index);
    }
    assert!(!world.open().set_aside().index, "the one that was begun is right");
    let kept = ["index.redb.unread", "index.redb.unread-2"].map(|name| fs::read_to_string(at(name)).unwrap());
    assert_eq!(kept, texts);
}
