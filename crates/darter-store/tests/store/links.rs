//! Foreign things in the data directory: links, files with second names, another user's files. An agent that runs as
//! root must not be led by them to write anywhere else.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use darter_core::PieceIndex;
use darter_store::{DiskStore, SetAside, Store as _, StoreError};

use crate::content::{Content, PIECE, config, ids};

const PRECIOUS: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n";

/// A data directory with one whole blob of two pieces in it, and a precious file beside it.
struct World {
    dir: tempfile::TempDir,
    precious: PathBuf,
    content: Content,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("passwd");
        fs::write(&precious, PRECIOUS).unwrap();
        let world = Self { dir, precious, content: Content::new(1, 2 * PIECE) };
        world.content.fill(&world.open());
        world
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn open(&self) -> DiskStore {
        DiskStore::open(&self.data_dir(), &config(None)).unwrap()
    }

    fn file(&self, extension: &str) -> PathBuf {
        let name = self.content.id.to_string();
        self.data_dir().join("blobs").join(&name[..2]).join(format!("{name}.{extension}"))
    }

    /// Fetches what is missing of the blob and changes what is there, as a transfer does.
    fn use_it(&self) {
        let store = self.open();
        let blob = self.content.open(&store);
        let mut buffer = Vec::new();
        for piece in 0..2 {
            // Damage is found by reading it.
            let _ = blob.read_piece(PieceIndex(piece), &mut buffer);
            blob.put(PieceIndex(piece), self.content.piece(piece)).unwrap();
        }
        self.content.check_held(&*blob);
        blob.drop_pieces(&[PieceIndex(0)].into_iter().collect()).unwrap();
        self.content.put(&*blob, 0);
        store.flush().unwrap();
        drop((blob, store));
        let store = self.open();
        assert_eq!(ids(&store), [self.content.id]);
        self.content.check_held(&*store.open(self.content.id).unwrap().unwrap());
    }

    fn check_precious(&self, what: &str) {
        assert_eq!(fs::read(&self.precious).unwrap(), PRECIOUS, "{what}");
        assert_eq!(fs::metadata(&self.precious).unwrap().nlink(), 1, "{what}: no name of it is left here");
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn open_error(dir: &Path) -> StoreError {
    DiskStore::open(dir, &config(None)).err().expect("refused")
}

#[test]
fn no_link_in_the_data_directory_is_followed() {
    type Link = fn(&Path, &Path);
    let soft: Link = |to, at| symlink(to, at).unwrap();
    let hard: Link = |to, at| fs::hard_link(to, at).unwrap();
    for (kind, link) in [("a symbolic link", soft), ("a hard link", hard)] {
        for extension in ["data", "piece", "piece.new"] {
            let world = World::new();
            let at = world.file(extension);
            let _ = fs::remove_file(&at);
            link(&world.precious, &at);
            world.use_it();
            world.check_precious(&format!("{kind} as {extension}"));
        }
        let world = World::new();
        for name in ["index.redb", "trash/0", "trash/7"] {
            let at = world.data_dir().join(name);
            let _ = fs::remove_file(&at);
            link(&world.precious, &at);
        }
        world.use_it();
        world.check_precious(kind);
    }
}

#[test]
fn a_link_that_comes_while_the_store_is_open_is_not_followed() {
    let world = World::new();
    let store = world.open();
    // Both while nobody has the blob open, and in the place of one that is about to be made.
    fs::remove_file(world.file("data")).unwrap();
    symlink(&world.precious, world.file("data")).unwrap();
    assert!(store.open(world.content.id).unwrap().is_none());
    assert!(store.list().is_empty());
    symlink(&world.precious, world.file("data")).unwrap();
    symlink(&world.precious, world.file("piece.new")).unwrap();
    drop(world.content.fill(&store));
    store.flush().unwrap();
    drop(store);
    world.use_it();
    world.check_precious("while open");
}

#[test]
fn linked_directories_and_a_linked_lock_are_refused_and_say_so() {
    for name in ["blobs", "trash", "lock"] {
        let world = World::new();
        let (at, elsewhere) = (world.data_dir().join(name), world.dir.path().join("elsewhere"));
        fs::rename(&at, &elsewhere).unwrap();
        symlink(&elsewhere, &at).unwrap();
        let error = open_error(&world.data_dir());
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(error.to_string().contains(name) && cause.contains("remove it"), "{error}: {cause}");
    }
    let world = World::new();
    let lock = world.data_dir().join("lock");
    fs::remove_file(&lock).unwrap();
    fs::hard_link(&world.precious, &lock).unwrap();
    assert!(matches!(open_error(&world.data_dir()), StoreError::Io { .. }));
    assert_eq!(fs::read(&world.precious).unwrap(), PRECIOUS);

    // A directory of blobs: what lies in it is nobody's, and nothing of it is deleted.
    let world = World::new();
    let shard = world.file("data").parent().unwrap().to_owned();
    let elsewhere = world.dir.path().join("elsewhere");
    fs::rename(&shard, &elsewhere).unwrap();
    symlink(&elsewhere, &shard).unwrap();
    let store = world.open();
    assert!(store.list().is_empty());
    assert!(store.open_or_create(world.content.id, world.content.info(), world.content.manifest).is_err());
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 2);
}

#[test]
fn a_pipe_in_the_place_of_a_file_holds_nobody_up() {
    for extension in ["data", "piece"] {
        let world = World::new();
        let at = world.file(extension);
        fs::remove_file(&at).unwrap();
        // Without a process of its own, which would have the lock for a moment.
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &at, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        world.use_it();
    }
}

#[test]
fn bytes_with_a_second_name_are_read_and_never_changed_under_it() {
    let world = World::new();
    let theirs = world.dir.path().join("result.bin");
    fs::hard_link(world.file("data"), &theirs).unwrap();
    {
        let store = world.open();
        let blob = store.open(world.content.id).unwrap().unwrap();
        assert!(blob.is_complete());
        world.content.check_held(&*blob);
        assert_eq!(fs::metadata(&theirs).unwrap().nlink(), 2, "reading needs no copy");
    }
    world.use_it();
    assert_eq!(fs::read(&theirs).unwrap(), world.content.data);
    assert_eq!(fs::metadata(&theirs).unwrap().nlink(), 1);
    assert_eq!(fs::read_dir(world.data_dir().join("trash")).unwrap().count(), 0);
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    for bits in [0o777, 0o720, 0o702, 0o1777] {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(bits)).unwrap();
        let error = open_error(dir.path());
        assert!(matches!(error, StoreError::UnsafeDir { .. }), "{bits:o}: {error:?}");
        assert!(error.to_string().contains("chmod go-w"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was put into it");
    }
}

#[test]
fn another_users_directory_and_files_are_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    let world = World::new();
    let give_away = |path: &Path| std::os::unix::fs::lchown(path, Some(65_534), None).unwrap();
    give_away(&world.file("data"));
    world.use_it();
    give_away(&world.file("piece"));
    world.use_it();
    give_away(&world.data_dir().join("lock"));
    assert!(matches!(open_error(&world.data_dir()), StoreError::Io { .. }));
    give_away(&world.data_dir());
    let error = open_error(&world.data_dir());
    assert!(matches!(error, StoreError::UnsafeDir { .. }) && error.to_string().contains("65534"), "{error}");

    // A link that another user made, to a directory of ours.
    let (ours, link) = (world.dir.path().join("ours"), world.dir.path().join("link"));
    fs::create_dir(&ours).unwrap();
    symlink(&ours, &link).unwrap();
    drop(DiskStore::open(&link, &config(None)).unwrap());
    give_away(&link);
    assert!(matches!(open_error(&link), StoreError::UnsafeDir { .. }));
}

/// Every entry below `dir` that others may do anything with.
fn open_to_others(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = (mode(dir) & 0o077 != 0).then(|| dir.to_owned()).into_iter().collect();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(open_to_others(&path)),
            false => found.extend((mode(&path) & 0o177 != 0).then_some(path)),
        }
    }
    found
}

fn open_up(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => open_up(&path),
            false => fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap(),
        }
    }
    fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn everything_is_for_its_owner_only_also_what_an_older_release_left() {
    let world = World::new();
    assert_eq!(open_to_others(&world.data_dir()), [] as [PathBuf; 0]);
    open_up(&world.data_dir());
    drop(world.open());
    assert_eq!(open_to_others(&world.data_dir()), [] as [PathBuf; 0]);
    // A directory that was named by mistake keeps its mode.
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("letter.txt"), "x").unwrap();
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
    for _ in 0..2 {
        drop(DiskStore::open(home.path(), &config(None)).unwrap());
        assert_eq!(mode(home.path()), 0o755);
    }
    assert_eq!(mode(&home.path().join("letter.txt")), 0o644);
}

#[test]
fn what_a_newer_version_stored_is_set_aside_and_not_deleted() {
    let world = World::new();
    let mut sidecar = fs::read(world.file("piece")).unwrap();
    sidecar[8] = 77;
    let before = sidecar[9];
    fs::write(world.file("piece"), &sidecar).unwrap();
    let bytes = fs::read(world.file("data")).unwrap();
    let store = world.open();
    assert!(store.list().is_empty());
    assert_eq!(store.set_aside(), SetAside { blobs: vec![world.content.id], index: false });
    assert_eq!(fs::read(world.file("piece")).unwrap(), sidecar);
    assert_eq!(fs::read(world.file("data")).unwrap(), bytes);
    drop(world.content.fill(&store));
    assert_eq!(fs::read(world.file("newer-piece")).unwrap(), sidecar);
    assert_eq!(fs::read(world.file("newer-data")).unwrap(), bytes);
    drop(store);
    world.use_it();
    assert_eq!(fs::read(world.file("newer-piece")).unwrap(), sidecar);

    // The newer version runs for a while again.
    sidecar[9] = 78;
    fs::write(world.file("piece"), &sidecar).unwrap();
    drop(world.content.fill(&world.open()));
    assert_eq!(fs::read(world.file("newer-piece-2")).unwrap(), sidecar);
    assert_eq!(fs::read(world.file("newer-data-2")).unwrap(), bytes);
    sidecar[9] = before;
    assert_eq!(fs::read(world.file("newer-piece")).unwrap(), sidecar, "what was set aside first stays");
    assert_eq!(fs::read(world.file("newer-data")).unwrap(), bytes);
    drop(world.open());
    assert!(world.file("newer-piece-2").exists());
}

#[test]
fn a_newer_versions_sidecar_without_bytes_is_set_aside_all_the_same() {
    for while_open in [false, true] {
        let world = World::new();
        let mut sidecar = fs::read(world.file("piece")).unwrap();
        sidecar[8] = 77;
        let store = while_open.then(|| world.open());
        fs::write(world.file("piece"), &sidecar).unwrap();
        fs::remove_file(world.file("data")).unwrap();
        let store = store.unwrap_or_else(|| world.open());
        assert!(store.open(world.content.id).unwrap().is_none());
        drop(world.content.fill(&store));
        assert_eq!(fs::read(world.file("newer-piece")).unwrap(), sidecar);
        assert!(!world.file("newer-data").exists());
    }
}

#[test]
fn bytes_that_cannot_be_taken_away_are_said_and_gone_after_the_next_start() {
    let world = World::new();
    let store = world.open();
    // A foreign hand's directories, where the bytes were to go.
    (0..9).for_each(|name| fs::create_dir_all(world.data_dir().join(format!("trash/{name}/x"))).unwrap());
    assert!(store.remove(world.content.id).is_err());
    assert!(store.list().is_empty(), "it is not there for anybody");
    assert!(world.file("data").exists());
    drop(store);
    drop(world.open());
    assert!(!world.file("data").exists());
}
