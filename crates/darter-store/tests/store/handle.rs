//! Stores as asynchronous callers see them, and what is sent without waiting for the disk.

use std::sync::Arc;

use darter_core::{BlobId, PieceIndex, Version};
use darter_store::{Disk, DiskStore, SourceRecord, Store};

use crate::content::{Content, PIECE, config};

#[tokio::test]
async fn the_asynchronous_handle_has_what_the_store_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let store = std::thread::spawn(move || DiskStore::open(&path, &config(None)).unwrap()).join().unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let disk = Disk::new(Arc::clone(&store));
    let content = Arc::new(Content::new(1, 2 * PIECE));
    assert!(disk.is_absent(content.id) && disk.open(content.id).await.unwrap().is_none());
    let filled = Arc::clone(&content);
    drop(disk.on_store(move |store| filled.fill(store)).await);
    assert!(!disk.is_absent(content.id));
    let opened = disk.open(content.id).await.unwrap().unwrap();
    assert!(opened.is_complete());
    let list = disk.list().await;
    assert_eq!((list.len(), list[0].id), (1, content.id));
    let usage = disk.usage();
    assert_eq!((usage.used, usage.blobs), (2 * PIECE, 1));
    let (key, version) = (BlobId([7; 32]), Version::default());
    let record = SourceRecord { blob: content.id, version, checked: 1, fetched: None };
    assert_eq!(disk.recall_source(key).await.unwrap(), None);
    // In memory, so that nobody has to be woken for it.
    disk.touch(content.id);
    disk.remember_source(key, record.clone());
    assert_eq!(disk.recall_source(key).await.unwrap(), Some(record));
    // Let go where the disk may be waited for.
    disk.run(move || drop(opened)).await;
    disk.settled().await;
    std::thread::spawn(move || drop((disk, store))).join().unwrap();
}

#[test]
fn a_piece_can_be_sent_at_once_when_it_was_verified_and_is_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 3 * PIECE);
    {
        let store = DiskStore::open(dir.path(), &config(None)).unwrap();
        let blob = content.open(&store);
        content.put(&*blob, 1);
        let ready = blob.ready_file(PieceIndex(1)).expect("it was just written");
        assert_eq!(ready.range, content.range(1));
        assert!(blob.ready_file(PieceIndex(0)).is_none(), "it is not held");
    }
    let store = DiskStore::open(dir.path(), &config(None)).unwrap();
    let blob = store.open(content.id).unwrap().unwrap();
    assert!(blob.ready_file(PieceIndex(1)).is_none(), "nobody has looked at it since the start");
    let part = blob.piece_file(PieceIndex(1)).unwrap().unwrap();
    assert!(blob.ready_file(PieceIndex(1)).is_some());
    // On a file system that drops pages when it is told to, the piece is read again.
    part.file.sync_all().unwrap();
    rustix::fs::fadvise(&part.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert_eq!(blob.piece_file(PieceIndex(1)).unwrap().unwrap().range, part.range);
    assert!(blob.ready_file(PieceIndex(1)).is_some());
    assert!(blob.take_lost().is_empty());
}

#[test]
fn what_this_process_writes_and_drops_casts_no_doubt_on_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 3 * PIECE);
    let store = DiskStore::open(dir.path(), &config(None)).unwrap();
    let blob = content.open(&store);
    for piece in [1, 0, 2] {
        // The kernel's clock for files ticks every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        content.put(&*blob, piece);
        assert!(blob.ready_file(PieceIndex(1)).is_some(), "after piece {piece} came");
    }
    std::thread::sleep(std::time::Duration::from_millis(20));
    blob.drop_pieces(&[PieceIndex(0)].into_iter().collect()).unwrap();
    assert!(blob.ready_file(PieceIndex(1)).is_some() && blob.ready_file(PieceIndex(0)).is_none());
}
