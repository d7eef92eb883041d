//! The disk's own tests: restarts, damage, foreign hands, and one process a directory.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use darter_core::{BlobId, ByteRange, Clock, Digest, Moment, PieceIndex, Version};
use darter_store::{Amount, DiskStore, SourceRecord, Store, StoreConfig, StoreError};

use crate::content::{Content, PIECE, config, ids};

fn open(dir: &Path) -> DiskStore {
    DiskStore::open(dir, &config(None)).unwrap()
}

fn file(dir: &Path, blob: BlobId, extension: &str) -> PathBuf {
    let name = blob.to_string();
    dir.join("blobs").join(&name[..2]).join(format!("{name}.{extension}"))
}

/// Damages a file's content.
type Spoil<'a> = &'a dyn Fn(&mut Vec<u8>);

/// Flips a bit of a blob's bytes.
fn damage(dir: &Path, blob: BlobId, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(file(dir, blob, "data")).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0] ^= 0x10;
    // The kernel's clock for files ticks every few milliseconds.
    std::thread::sleep(std::time::Duration::from_millis(20));
    file.write_all_at(&byte, offset).unwrap();
}

#[test]
fn what_is_removed_leaves_the_disk_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), Content::new(1, 3 * PIECE));
    content.fill(&store);
    assert!(file(dir.path(), content.id, "data").exists());
    assert!(store.remove(content.id).unwrap());
    assert!(!file(dir.path(), content.id, "data").exists());
    assert_eq!(fs::read_dir(dir.path().join("trash")).unwrap().count(), 0, "its bytes take room there");
}

#[test]
fn a_restart_keeps_pieces_pins_uses_and_sources() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, part) = (Content::new(1, 3 * PIECE), Content::new(2, 3 * PIECE + 9));
    let record = SourceRecord { blob: whole.id, version: Version::default(), checked: 3, fetched: None };
    let key = BlobId([9; 32]);
    let before = {
        let store = open(dir.path());
        whole.fill(&store);
        let blob = part.open(&store);
        part.put(&*blob, 3);
        part.put(&*blob, 1);
        store.pin(part.id, true).unwrap();
        store.touch(whole.id);
        store.remember_source(key, record.clone());
        drop(blob);
        store.list()
    };
    let store = open(dir.path());
    assert_eq!(store.list(), before);
    assert_eq!(store.recall_source(key).unwrap(), Some(record));
    assert_eq!(store.usage().used, 4 * PIECE + 9);
    let blob = store.open(part.id).unwrap().unwrap();
    assert_eq!(blob.held().iter().collect::<Vec<_>>(), [PieceIndex(1), PieceIndex(3)]);
    part.check_held(&*blob);
    part.put(&*blob, 0);
    let blob = store.open(whole.id).unwrap().unwrap();
    assert!(blob.is_complete());
    whole.check_held(&*blob);
}

#[test]
fn a_bit_that_flips_between_two_runs_is_found_before_it_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 4 * PIECE);
    drop(content.fill(&open(dir.path())));
    damage(dir.path(), content.id, 2 * PIECE + 5);
    let store = open(dir.path());
    let blob = store.open(content.id).unwrap().unwrap();
    assert!(matches!(blob.read_at(2 * PIECE + 100, &mut [0; 4]), Err(StoreError::NotHeld { .. })));
    assert!(!blob.is_complete());
    assert_eq!(blob.take_lost().iter().collect::<Vec<_>>(), [PieceIndex(2)]);
    assert!(blob.take_lost().is_empty());
    assert_eq!(blob.held().len(), 3);
    assert_eq!(store.usage().used, 3 * PIECE);
    content.check_held(&*blob);
    content.put(&*blob, 2);
    content.check_held(&*blob);
    assert_eq!(blob.held().len(), 4);
}

/// Decay of the medium shows in no modification time.
#[test]
fn a_bit_that_decays_while_the_store_is_open_is_found_when_its_piece_comes_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 2 * PIECE);
    let store = open(dir.path());
    let blob = content.fill(&store);
    store.flush().unwrap();
    assert!(blob.ready_file(PieceIndex(1)).is_some());
    let data = file(dir.path(), content.id, "data");
    let modified = fs::metadata(&data).unwrap().modified().unwrap();
    damage(dir.path(), content.id, PIECE + 5);
    let data = fs::File::open(data).unwrap();
    data.set_modified(modified).unwrap();
    assert!(blob.piece_file(PieceIndex(1)).unwrap().is_some(), "it is in memory, and looks as it did");
    data.sync_all().unwrap();
    rustix::fs::fadvise(&data, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    // A file system in memory has no other place for it.
    if blob.ready_file(PieceIndex(1)).is_none() {
        assert!(matches!(blob.piece_file(PieceIndex(1)), Err(StoreError::NotHeld { .. })));
        assert!(blob.piece_file(PieceIndex(0)).unwrap().is_some());
        assert_eq!(blob.take_lost().iter().collect::<Vec<_>>(), [PieceIndex(1)]);
    }
}

#[test]
fn every_way_of_reading_finds_the_damage() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 4 * PIECE);
    drop(content.fill(&open(dir.path())));
    for piece in 0..3 {
        damage(dir.path(), content.id, piece * PIECE + 5);
    }
    let store = open(dir.path());
    let blob = store.open(content.id).unwrap().unwrap();
    assert!(matches!(
        blob.hash_whole(&Digest::sha256(b""), &|| {}),
        Err(StoreError::NotHeld { piece: PieceIndex(0), .. })
    ));
    assert!(matches!(blob.piece_file(PieceIndex(1)), Err(StoreError::NotHeld { .. })));
    assert!(matches!(blob.read_piece(PieceIndex(2), &mut Vec::new()), Err(StoreError::NotHeld { .. })));
    assert_eq!(blob.take_lost().len(), 3);
    content.check_held(&*blob);
}

#[test]
fn a_file_that_somebody_touched_is_verified_anew() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 4 * PIECE);
    let store = open(dir.path());
    let blob = content.fill(&store);
    content.check_held(&*blob);
    damage(dir.path(), content.id, PIECE + 1);
    assert!(matches!(blob.read_at(PIECE, &mut [0; 4]), Err(StoreError::NotHeld { .. })));
    content.check_held(&*blob);
    // Also when we write before we read.
    damage(dir.path(), content.id, 1);
    content.put(&*blob, 1);
    assert!(matches!(blob.read_at(0, &mut [0; 4]), Err(StoreError::NotHeld { .. })));
    assert_eq!(blob.held().len(), 3);
    content.check_held(&*blob);
}

#[test]
fn what_is_sent_from_the_page_cache_is_looked_at_again_after_a_moment_and_what_is_read_each_time() {
    struct Stopped(AtomicU64);
    impl Clock for Stopped {
        fn now(&self) -> Moment {
            Moment::from_micros(self.0.load(Ordering::Relaxed))
        }

        fn unix(&self) -> u64 {
            1
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (content, clock) = (Content::new(1, 4 * PIECE), Arc::new(Stopped(AtomicU64::new(1))));
    let store = DiskStore::open(dir.path(), &StoreConfig { clock: Some(clock.clone()), ..config(None) }).unwrap();
    let blob = content.fill(&store);
    let all = || blob.ready_run(PieceIndex(0)..PieceIndex(4)).map(|part| part.range);
    assert_eq!(all(), Some(ByteRange::new(0, 4 * PIECE)));
    damage(dir.path(), content.id, PIECE + 1);
    assert!(all().is_some(), "it may have gone out before, too");
    clock.0.fetch_add(1_000_000, Ordering::Relaxed);
    assert_eq!(all(), None, "everything is verified anew");
    assert!(matches!(blob.piece_file(PieceIndex(1)), Err(StoreError::NotHeld { .. })));
    content.check_held(&*blob);
    assert_eq!(all(), Some(ByteRange::new(0, PIECE)), "as far as there is no gap");
    damage(dir.path(), content.id, 1);
    assert!(matches!(blob.read_at(0, &mut [0; 4]), Err(StoreError::NotHeld { .. })), "in the same moment");
}

#[test]
fn bytes_that_were_cut_off_are_lost_and_the_rest_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 4 * PIECE);
    let store = open(dir.path());
    let blob = content.fill(&store);
    let data = fs::OpenOptions::new().write(true).open(file(dir.path(), content.id, "data")).unwrap();
    data.set_len(2 * PIECE + 1).unwrap();
    assert!(blob.read_piece(PieceIndex(1), &mut Vec::new()).is_ok());
    for piece in 2..4 {
        assert!(matches!(blob.read_piece(PieceIndex(piece), &mut Vec::new()), Err(StoreError::NotHeld { .. })));
        content.put(&*blob, piece);
    }
    content.check_held(&*blob);
}

#[test]
fn a_damaged_sidecar_costs_its_blob_and_no_other() {
    let sound = Content::new(1, PIECE);
    let ill = Content::new(2, PIECE);
    let spoil: [&dyn Fn(Vec<u8>) -> Vec<u8>; 5] = [
        &|bytes| bytes[..bytes.len() / 2].to_vec(),
        &|_| Vec::new(),
        &|mut bytes| {
            bytes[20] ^= 1;
            bytes
        },
        &|mut bytes| {
            bytes[8] = 0;
            bytes
        },
        &|_| b"quite another file".to_vec(),
    ];
    for spoil in spoil {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = open(dir.path());
            sound.fill(&store);
            ill.fill(&store);
        }
        let path = file(dir.path(), ill.id, "piece");
        fs::write(&path, spoil(fs::read(&path).unwrap())).unwrap();
        let store = open(dir.path());
        assert_eq!(ids(&store), [sound.id]);
        assert_eq!(store.usage().used, PIECE);
        assert!(!file(dir.path(), ill.id, "data").exists());
        ill.fill(&store);
    }
}

#[test]
fn a_sidecar_under_anothers_name_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Content::new(1, PIECE), Content::new(2, PIECE));
    {
        let store = open(dir.path());
        a.fill(&store);
        b.fill(&store);
    }
    fs::copy(file(dir.path(), a.id, "piece"), file(dir.path(), b.id, "piece")).unwrap();
    assert_eq!(ids(&open(dir.path())), [a.id]);
}

#[test]
fn what_a_crash_leaves_is_cleared_and_what_is_foreign_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, PIECE);
    drop(content.fill(&open(dir.path())));
    let orphan = file(dir.path(), BlobId([1; 32]), "piece.new");
    let bytes_only = file(dir.path(), Content::new(3, 0).id, "data");
    let trash = dir.path().join("trash/5");
    let foreign = [dir.path().join("blobs/README"), dir.path().join("blobs/01/notes.txt")];
    fs::create_dir_all(bytes_only.parent().unwrap()).unwrap();
    for path in [&orphan, &bytes_only, &trash, &foreign[0], &foreign[1]] {
        fs::write(path, b"left").unwrap();
    }
    let no_bytes = Content::new(4, PIECE);
    fs::create_dir_all(file(dir.path(), no_bytes.id, "piece").parent().unwrap()).unwrap();
    drop(no_bytes.fill(&open(dir.path())));
    fs::remove_file(file(dir.path(), no_bytes.id, "data")).unwrap();

    let store = open(dir.path());
    assert_eq!(ids(&store), [content.id]);
    assert!(!orphan.exists() && !bytes_only.exists() && !trash.exists());
    assert!(foreign.iter().all(|path| path.exists()));
}

#[test]
fn a_damaged_index_costs_the_order_of_use_only() {
    let content = Content::new(1, PIECE);
    let spoil: [Spoil<'_>; 3] =
        [&|bytes| *bytes = b"not a database at all".repeat(300), &|bytes| bytes.truncate(bytes.len() / 3), &|bytes| {
            bytes.iter_mut().skip(64).step_by(7).for_each(|byte| *byte ^= 0xa5);
        }];
    for spoil in spoil {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = open(dir.path());
            content.fill(&store);
            store.pin(content.id, true).unwrap();
        }
        let path = dir.path().join("index.redb");
        let mut bytes = fs::read(&path).unwrap();
        spoil(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let store = open(dir.path());
        let line = &store.list()[0];
        assert!(line.complete && line.pinned);
        content.check_held(&*store.open(content.id).unwrap().unwrap());
        store.flush().unwrap();
    }
}

#[test]
fn a_second_opener_is_told_who_has_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    match DiskStore::open(dir.path(), &config(None)).err() {
        Some(StoreError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_blob_held_open_outlives_its_store_and_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 2 * PIECE);
    let store = open(dir.path());
    let blob = content.open(&store);
    drop(store);
    content.put(&*blob, 1);
    assert!(matches!(DiskStore::open(dir.path(), &config(None)), Err(StoreError::Locked { .. })));
    drop(blob);
    assert_eq!(open(dir.path()).list()[0].held_bytes, PIECE);
}

#[test]
fn the_flusher_saves_without_being_asked() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 2 * PIECE);
    let mut config = config(None);
    config.flush_every = std::time::Duration::from_millis(5);
    let store = DiskStore::open(dir.path(), &config).unwrap();
    let blob = content.open(&store);
    let sidecar = file(dir.path(), content.id, "piece");
    while !sidecar.exists() {
        std::thread::yield_now();
    }
    let before = fs::read(&sidecar).unwrap();
    content.put(&*blob, 0);
    while fs::read(&sidecar).unwrap() == before {
        std::thread::yield_now();
    }
}

/// The files of bytes that this process has open below a directory, under whatever name.
fn open_below(dir: &Path) -> Vec<PathBuf> {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    let opened = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let has_bytes = |path: &PathBuf| {
        let name = path.to_str().unwrap();
        path.starts_with(dir) && (name.ends_with(".data") || name.ends_with(" (deleted)"))
    };
    opened.filter(has_bytes).collect()
}

#[test]
fn what_is_evicted_gives_its_blocks_back_although_its_handle_is_still_about() {
    let dir = tempfile::tempdir().unwrap();
    let store = DiskStore::open(dir.path(), &config(Some(4 * PIECE))).unwrap();
    let (old, new) = (Content::new(1, 3 * PIECE), Content::new(2, 3 * PIECE));
    let resting = old.fill(&store);
    resting.rest();
    let filled = new.fill(&store);
    assert!(resting.is_discarded());
    assert_eq!(open_below(&fs::canonicalize(dir.path()).unwrap()).len(), 1, "that of the new blob");
    assert!(matches!(resting.read_at(0, &mut [0; 4]), Err(StoreError::NotHeld { .. })));
    assert!(!matches!(resting.piece_file(PieceIndex(0)), Ok(Some(_))));
    new.check_held(&*filled);
}

#[test]
fn many_small_blobs_are_saved_before_they_take_all_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    // It saves by itself once an hour.
    let store = open(dir.path());
    for number in 0..=255 {
        drop(Content::new(number, 9).fill(&store));
    }
    let dir = fs::canonicalize(dir.path()).unwrap();
    for _ in 0..3000 {
        if open_below(&dir).len() < 150 {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{} files are open", open_below(&dir).len());
}

#[test]
fn passing_the_high_water_mark_evicts_in_the_background() {
    let dir = tempfile::tempdir().unwrap();
    let store = DiskStore::open(dir.path(), &config(Some(20 * PIECE))).unwrap();
    let old = Content::new(1, 4 * PIECE);
    drop(old.fill(&store));
    let content = Content::new(2, 16 * PIECE);
    let blob = store.open_or_create(
        content.id,
        content.info(),
        darter_core::Manifest::new(content.manifest.piece_length(), None),
    );
    let blob = blob.unwrap();
    blob.extend(0, content.manifest.hashes()).unwrap();
    for piece in 0..16 {
        content.put(&*blob, piece);
    }
    while store.list().len() > 1 {
        std::thread::yield_now();
    }
    assert_eq!(ids(&store), [content.id]);
    content.check_held(&*blob);
}

#[test]
fn the_bytes_are_one_plain_file() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 3 * PIECE + 5);
    content.fill(&open(dir.path()));
    assert_eq!(fs::read(file(dir.path(), content.id, "data")).unwrap(), content.data);
}

#[test]
fn shares_of_the_file_system_are_what_is_kept_and_what_is_left_free() {
    let dir = tempfile::tempdir().unwrap();
    let usage = |quota, reserve| {
        let mut config = config(None);
        (config.quota, config.reserve_free) = (quota, reserve);
        DiskStore::open(dir.path(), &config).unwrap().usage()
    };
    let space = rustix::fs::statvfs(dir.path()).unwrap();
    let total = space.f_blocks * space.f_frsize;
    let half = usage(Some(Amount::Percent(50.0)), Amount::Bytes(0));
    assert_eq!(half.quota, Some(total / 2));
    assert_eq!(usage(None, Amount::Percent(100.0)).capacity, 0);
    assert_eq!(usage(None, Amount::Bytes(0)).quota, None);
    let config = darter_store::StoreConfig::new(std::sync::Arc::new(|| 0));
    let usual = DiskStore::open(dir.path(), &config).unwrap().usage();
    let eighty = (total as f64 * 0.8) as u64;
    assert_eq!(usual.quota, Some(eighty));
    // Others use the disk meanwhile.
    let spare = usual.disk_free.unwrap().saturating_sub(total / 10).min(eighty);
    assert!(usual.capacity.abs_diff(spare) <= total / 20, "{usual:?}");
}

#[test]
fn what_no_room_is_left_for_says_which_flag_leaves_it_free() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(None);
    config.reserve_free = Amount::Percent(100.0);
    let store = DiskStore::open(dir.path(), &config).unwrap();
    let content = Content::new(1, 2 * PIECE);
    let refused = store.open_or_create(content.id, content.info(), content.manifest).unwrap_err().to_string();
    assert!(
        refused.starts_with("32.8 kB do not fit: 0 B can be stored while ") && refused.contains("(--reserve)"),
        "{refused}"
    );
}
