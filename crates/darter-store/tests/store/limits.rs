//! Limits that change while the store runs, what is counted, and a disk that does not take what is to be saved.

use std::fs;

use darter_core::PieceIndex;
use darter_store::{Amount, DiskStore, MemStore, Store};

use crate::content::{Content, PIECE, config, ids};

#[test]
fn a_lower_quota_evicts_in_the_background_and_a_higher_one_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = DiskStore::open(dir.path(), &config(Some(10 * PIECE))).unwrap();
    (1..=4).for_each(|seed| drop(Content::new(seed, 2 * PIECE).fill(&store)));
    let usage = store.usage();
    assert_eq!((usage.blobs, usage.used, usage.capacity, usage.quota), (4, 8 * PIECE, 10 * PIECE, Some(10 * PIECE)));
    assert!(usage.disk_free.is_some());
    store.set_limits(Some(Amount::Bytes(4 * PIECE)), Amount::Bytes(0));
    assert_eq!(store.usage().quota, Some(4 * PIECE));
    while store.usage().used > 2 * PIECE {
        std::thread::yield_now();
    }
    let usage = store.usage();
    assert_eq!((usage.evicted_blobs, usage.evicted_bytes), (3, 6 * PIECE), "below the mark");
    assert_eq!(ids(&store), [Content::new(4, 0).id], "the one used last stays");
    let large = Content::new(9, 8 * PIECE);
    assert!(store.open_or_create(large.id, large.info(), large.manifest.clone()).is_err());
    store.set_limits(Some(Amount::Bytes(20 * PIECE)), Amount::Bytes(0));
    large.fill(&store);
}

#[test]
fn a_store_in_memory_is_on_no_file_system() {
    let store = MemStore::new(&config(Some(10 * PIECE)));
    let usage = store.usage();
    assert_eq!((usage.blobs, usage.used, usage.capacity, usage.disk_free), (0, 0, 10 * PIECE, None));
    assert_eq!(store.set_aside(), darter_store::SetAside::default());
}

#[test]
fn a_lower_quota_evicts_from_memory_at_once_and_a_higher_one_makes_room() {
    let store = MemStore::new(&config(Some(10 * PIECE)));
    (1..=4).for_each(|seed| drop(Content::new(seed, 2 * PIECE).fill(&store)));
    store.set_limits(Some(Amount::Bytes(4 * PIECE)), Amount::Bytes(0));
    let usage = store.usage();
    assert_eq!((usage.used, usage.quota, usage.evicted_blobs), (2 * PIECE, Some(4 * PIECE), 3));
    let large = Content::new(9, 8 * PIECE);
    assert!(store.open_or_create(large.id, large.info(), large.manifest.clone()).is_err());
    store.set_limits(Some(Amount::Bytes(20 * PIECE)), Amount::Bytes(0));
    large.fill(&store);
}

#[test]
fn a_blob_in_memory_is_evicted_above_the_high_water_mark_by_who_stores_the_next_piece() {
    let store = MemStore::new(&config(Some(20 * PIECE)));
    drop(Content::new(1, 4 * PIECE).fill(&store));
    let content = Content::new(2, 16 * PIECE);
    let pieces = content.manifest.piece_length();
    let growing = darter_core::Manifest::new(pieces, None);
    let blob = store.open_or_create(content.id, content.info(), growing).unwrap();
    blob.extend(0, content.manifest.hashes()).unwrap();
    (0..15).for_each(|piece| content.put(&*blob, piece));
    assert_eq!(ids(&store).len(), 2, "as full as it may be");
    content.put(&*blob, 15);
    assert_eq!(ids(&store), [content.id]);
}

#[test]
fn an_ordinary_blob_does_not_pass() {
    let store = MemStore::new(&config(None));
    let content = Content::new(1, 2 * PIECE);
    let blob = content.fill(&store);
    assert!(!blob.passes() && !blob.is_crowded(PieceIndex(u32::MAX)) && blob.window() == u64::MAX);
    blob.forget(PieceIndex(2)).unwrap();
    assert!(blob.forgotten().is_empty());
    content.check_held(&*blob);
}

#[test]
fn what_could_not_be_saved_is_saved_when_the_disk_takes_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 2 * PIECE);
    {
        let store = DiskStore::open(dir.path(), &config(None)).unwrap();
        let blob = content.open(&store);
        let shard = dir.path().join("blobs").join(&content.id.to_string()[..2]);
        let away = dir.path().join("away");
        fs::rename(&shard, &away).unwrap();
        fs::write(&shard, "no directory").unwrap();
        content.put(&*blob, 1);
        for _ in 0..2 {
            assert!(store.flush().is_err(), "each time that it is tried");
        }
        fs::remove_file(&shard).unwrap();
        fs::rename(&away, &shard).unwrap();
        store.flush().unwrap();
        let saved = fs::read(shard.join(format!("{}.piece", content.id))).unwrap();
        assert!(!saved.is_empty());
    }
    let store = DiskStore::open(dir.path(), &config(None)).unwrap();
    let blob = store.open(content.id).unwrap().unwrap();
    assert_eq!(blob.held().iter().collect::<Vec<_>>(), [PieceIndex(1)]);
}
