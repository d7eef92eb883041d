//! The tests that every store must pass. Each scenario runs on each kind of store.

use std::ops::Range;

use darter_core::{BlobId, Digest, Manifest, PieceHash, PieceIndex, PieceLength, Version};
use darter_store::{Limit, Put, SourceRecord, Store, StoreConfig, StoreError};

use crate::content::{Content, PIECE, config, ids};

/// Makes an empty store.
type Make<'a> = &'a dyn Fn(StoreConfig) -> Box<dyn Store>;

macro_rules! scenarios {
    ($($name:ident)*) => {
        mod disk {
            $(#[test] fn $name() {
                let dir = tempfile::tempdir().unwrap();
                super::$name(&|config| Box::new(darter_store::DiskStore::open(dir.path(), &config).unwrap()));
            })*
        }
        mod memory {
            $(#[test] fn $name() {
                super::$name(&|config| Box::new(darter_store::MemStore::new(&config)));
            })*
        }
    };
}

mod room;

scenarios! {
    a_blob_is_stored_piece_by_piece_and_read_back
    a_wrong_piece_is_refused_and_nothing_is_written
    pieces_that_come_together_are_stored_or_refused_each_by_itself
    reads_are_served_from_held_pieces_only
    a_lone_piece_is_taken_when_the_length_is_known_and_a_wrong_one_never
    a_growing_blob_takes_pieces_before_its_length_is_known
    a_growing_blob_makes_room_for_each_piece
    what_is_read_first_is_stored_and_its_hash_learnt
    a_length_that_makes_the_last_piece_short_drops_the_full_one
    an_empty_blob_is_whole_at_once
    sealing_needs_every_piece_and_the_right_root
    everybody_shares_one_open_blob
    a_blob_is_stored_from_its_middle_and_its_gaps_are_filled
    a_contradicting_manifest_is_refused
    an_absurd_length_is_refused
    blobs_in_use_and_pinned_ones_are_not_removed
    dropped_pieces_give_their_room_back
    a_discarded_blob_makes_way_for_a_new_one
    sources_are_remembered_as_long_as_their_blob
    many_threads_store_one_blob
    storing_dropping_and_reading_at_once_never_shows_wrong_bytes
    the_listing_has_the_latest_use_first
}

fn a_blob_is_stored_piece_by_piece_and_read_back(make: Make<'_>) {
    let store = make(config(None));
    let content = Content::new(1, 3 * PIECE + 100);
    assert!(store.open(content.id).unwrap().is_none());
    let blob = content.fill(&*store);
    assert!(blob.is_complete());
    assert_eq!(blob.held().len(), 4);
    assert_eq!(blob.held_bytes(), content.data.len() as u64);
    assert_eq!(store.usage().used, content.data.len() as u64);
    assert_eq!(blob.put(PieceIndex(2), content.piece(2)).unwrap(), Put::AlreadyHeld);
    assert_eq!(blob.info(), content.info());
    assert_eq!(blob.manifest(), content.manifest);
    assert_eq!(blob.hashes_from(1, 2), content.manifest.hashes()[1..3]);
    assert_eq!(blob.hashes_from(9, 2), []);
    content.check_held(&*blob);
    let mut across = vec![0; PIECE as usize + 7];
    blob.read_at(PIECE - 3, &mut across).unwrap();
    assert_eq!(across, content.data[PIECE as usize - 3..2 * PIECE as usize + 4]);
    if let Some(part) = blob.piece_file(PieceIndex(3)).unwrap() {
        use std::os::unix::fs::FileExt as _;
        assert_eq!(part.range, content.range(3));
        let mut bytes = vec![0; part.range.len() as usize];
        part.file.read_exact_at(&mut bytes, part.range.start()).unwrap();
        assert_eq!(bytes, content.piece(3));
    }
}

fn a_wrong_piece_is_refused_and_nothing_is_written(make: Make<'_>) {
    let store = make(config(None));
    let content = Content::new(1, 2 * PIECE);
    let blob = content.open(&*store);
    let mut wrong = content.piece(0).to_vec();
    wrong[77] ^= 1;
    assert!(matches!(blob.put(PieceIndex(0), &wrong), Err(StoreError::WrongPiece { .. })));
    assert!(matches!(blob.put(PieceIndex(0), content.piece(1)), Err(StoreError::WrongPiece { .. })));
    assert!(matches!(blob.put(PieceIndex(0), &content.piece(0)[1..]), Err(StoreError::WrongPiece { .. })));
    assert!(matches!(blob.put(PieceIndex(2), content.piece(0)), Err(StoreError::UnknownPiece { .. })));
    assert!(blob.held().is_empty());
    assert_eq!(store.usage().used, 0);
}

fn pieces_that_come_together_are_stored_or_refused_each_by_itself(make: Make<'_>) {
    let store = make(config(Some(3 * PIECE)));
    let content = Content::new(1, 3 * PIECE);
    let blob = content.open(&*store);
    content.put(&*blob, 2);
    let wrong = vec![7; PIECE as usize];
    let (none, long) = (&[][..], [content.piece(1), &[7]].concat());
    let together = [
        (2, content.piece(2)),
        (0, content.piece(0)),
        (1, &wrong),
        (1, none),
        (1, &long),
        (9, &wrong),
        (1, content.piece(1)),
    ];
    let together = together.map(|(piece, data)| (PieceIndex(piece), data));
    let told = blob.put_all(&together);
    assert!(matches!(
        told.as_slice(),
        [
            Ok(Put::AlreadyHeld),
            Ok(Put::Stored),
            Err(StoreError::WrongPiece { piece: PieceIndex(1), .. }),
            Err(StoreError::WrongPiece { piece: PieceIndex(1), .. }),
            Err(StoreError::WrongPiece { piece: PieceIndex(1), .. }),
            Err(StoreError::UnknownPiece { piece: PieceIndex(9), .. }),
            Ok(Put::Stored),
        ]
    ));
    assert_eq!((blob.held().len(), store.usage().used), (3, 3 * PIECE));
    content.check_held(&*blob);
    assert!(blob.put_all(&[]).is_empty());
}

fn reads_are_served_from_held_pieces_only(make: Make<'_>) {
    let store = make(config(None));
    let content = Content::new(1, 3 * PIECE);
    let blob = content.open(&*store);
    content.put(&*blob, 1);
    let mut buffer = vec![0; 10];
    let not_held = |result: Result<(), StoreError>, at: u32| match result {
        Err(StoreError::NotHeld { piece, .. }) => assert_eq!(piece, PieceIndex(at)),
        other => panic!("{other:?}"),
    };
    blob.read_at(PIECE + 5, &mut buffer).unwrap();
    not_held(blob.read_at(PIECE - 5, &mut buffer), 0);
    not_held(blob.read_at(2 * PIECE - 5, &mut buffer), 2);
    assert!(matches!(blob.read_at(3 * PIECE - 5, &mut buffer), Err(StoreError::PastTheEnd { .. })));
    assert!(matches!(blob.read_at(u64::MAX, &mut buffer), Err(StoreError::PastTheEnd { .. })));
    not_held(blob.read_piece(PieceIndex(0), &mut buffer), 0);
    blob.read_at(3 * PIECE, &mut []).unwrap();
}

fn a_lone_piece_is_taken_when_the_length_is_known_and_a_wrong_one_never(make: Make<'_>) {
    let store = make(config(None));
    let content = Content::new(1, 10);
    let pieces = content.manifest.piece_length();
    let blob = store.open_or_create(content.id, content.info(), Manifest::new(pieces, None)).unwrap();
    assert_eq!(blob.extend(0, content.manifest.hashes()).unwrap(), 1);
    assert!(matches!(blob.put(PieceIndex(0), content.piece(0)), Err(StoreError::UnknownPiece { .. })));
    for short in [&content.piece(0)[1..], &[]] {
        assert!(matches!(blob.put(PieceIndex(0), short), Err(StoreError::WrongPiece { .. })));
    }
    blob.set_length(10).unwrap();
    content.put(&*blob, 0);
    content.check_held(&*blob);
}

fn a_growing_blob_takes_pieces_before_its_length_is_known(make: Make<'_>) {
    let store = make(config(None));
    let content = Content::new(1, 2 * PIECE + 10);
    let pieces = content.manifest.piece_length();
    let blob = store.open_or_create(content.id, content.info(), Manifest::new(pieces, None)).unwrap();
    assert!(matches!(blob.put(PieceIndex(0), content.piece(0)), Err(StoreError::UnknownPiece { .. })));
    assert_eq!(blob.extend(0, &content.manifest.hashes()[..2]).unwrap(), 2);
    content.put(&*blob, 1);
    content.put(&*blob, 0);
    let mut across = [0; 6];
    blob.read_at(PIECE - 3, &mut across).unwrap();
    assert_eq!(across, content.data[PIECE as usize - 3..PIECE as usize + 3]);
    assert_eq!(blob.extend(1, &content.manifest.hashes()[1..]).unwrap(), 1);
    assert!(
        matches!(blob.put(PieceIndex(2), content.piece(2)), Err(StoreError::UnknownPiece { .. })),
        "is it the last?"
    );
    for short in [&content.piece(2)[1..], &content.piece(1)[..10], &[]] {
        let put = [blob.put(PieceIndex(2), short), blob.put_all(&[(PieceIndex(2), short)]).remove(0)];
        assert!(put.iter().all(|put| matches!(put, Err(StoreError::WrongPiece { .. }))), "{put:?}");
    }
    assert!(matches!(blob.seal(PieceHash([0; 32])), Err(StoreError::Incomplete { held: 2, .. })));
    assert!(matches!(blob.read_at(u64::MAX - 1, &mut [0]), Err(StoreError::NotHeld { .. })));
    blob.set_length(2 * PIECE + 10).unwrap();
    content.put(&*blob, 2);
    content.check_held(&*blob);
    assert_eq!(blob.held().len(), 3);
    blob.seal(content.manifest.root().unwrap()).unwrap();
}

fn a_growing_blob_makes_room_for_each_piece(make: Make<'_>) {
    let store = make(config(Some(4 * PIECE)));
    let (old, new) = (Content::new(1, 3 * PIECE), Content::new(2, 3 * PIECE));
    drop(old.fill(&*store));
    let manifest = Manifest::new(new.manifest.piece_length(), None);
    let blob = store.open_or_create(new.id, new.info(), manifest).unwrap();
    blob.extend(0, new.manifest.hashes()).unwrap();
    (0..3).for_each(|piece| new.put(&*blob, piece));
    assert_eq!(ids(&*store), [new.id]);
}

fn what_is_read_first_is_stored_and_its_hash_learnt(make: Make<'_>) {
    let store = make(config(None));
    let content = Content::new(1, 2 * PIECE + 10);
    let manifest = Manifest::new(content.manifest.piece_length(), None);
    let blob = store.open_or_create(content.id, content.info(), manifest).unwrap();
    assert_eq!(blob.put_first(PieceIndex(1), content.piece(1), false).unwrap(), Put::Stored);
    assert_eq!(blob.hash(PieceIndex(1)), Some(content.manifest.hashes()[1]));
    assert_eq!(blob.put_first(PieceIndex(1), content.piece(0), false).unwrap(), Put::AlreadyHeld);
    blob.extend(0, &content.manifest.hashes()[..1]).unwrap();
    let wrong = blob.put_first(PieceIndex(0), content.piece(1), false);
    assert!(matches!(wrong, Err(StoreError::WrongPiece { .. })), "its hash was known: {wrong:?}");
    assert_eq!(blob.put_first(PieceIndex(0), content.piece(0), false).unwrap(), Put::Stored);
    blob.set_length(2 * PIECE + 10).unwrap();
    assert_eq!(blob.put_first(PieceIndex(2), content.piece(2), false).unwrap(), Put::Stored);
    content.check_held(&*blob);
    blob.seal(content.manifest.root().unwrap()).unwrap();

    let small = Content::new(2, 10);
    let manifest = Manifest::new(small.manifest.piece_length(), Some(10));
    let blob = store.open_or_create(small.id, small.info(), manifest).unwrap();
    let as_part = blob.put_first(PieceIndex(0), small.piece(0), false);
    assert!(matches!(as_part, Err(StoreError::WrongPiece { .. })), "it is all of the blob: {as_part:?}");
    blob.discard().unwrap();
    let manifest = Manifest::new(small.manifest.piece_length(), Some(10));
    let blob = store.open_or_create(small.id, small.info(), manifest).unwrap();
    assert_eq!(blob.put_first(PieceIndex(0), small.piece(0), true).unwrap(), Put::Stored);
    blob.seal(small.manifest.root().unwrap()).unwrap();
}

fn a_length_that_makes_the_last_piece_short_drops_the_full_one(make: Make<'_>) {
    let store = make(config(None));
    let content = Content::new(1, 2 * PIECE);
    let blob = store.open_or_create(content.id, content.info(), Manifest::new(content.manifest.piece_length(), None));
    let blob = blob.unwrap();
    blob.extend(0, content.manifest.hashes()).unwrap();
    content.put(&*blob, 0);
    content.put(&*blob, 1);
    blob.set_length(PIECE + 1).unwrap();
    assert!(!blob.holds(PieceIndex(1)));
    assert!(blob.take_lost().contains(PieceIndex(1)));
    assert_eq!(store.usage().used, PIECE);
}

fn an_empty_blob_is_whole_at_once(make: Make<'_>) {
    let store = make(config(Some(0)));
    let content = Content::new(1, 0);
    let blob = content.fill(&*store);
    assert!(blob.is_complete());
    blob.read_at(0, &mut []).unwrap();
}

fn sealing_needs_every_piece_and_the_right_root(make: Make<'_>) {
    let store = make(config(None));
    let content = Content::new(1, 2 * PIECE);
    let root = content.manifest.root().unwrap();
    let blob = content.open(&*store);
    content.put(&*blob, 0);
    assert!(matches!(blob.seal(root), Err(StoreError::Incomplete { held: 1, .. })));
    assert!(matches!(blob.hash_whole(&Digest::sha256(b""), &|| {}), Err(StoreError::Incomplete { .. })));
    content.put(&*blob, 1);
    assert!(matches!(blob.seal(PieceHash([1; 32])), Err(StoreError::WrongRoot(_))));
    assert!(!blob.is_complete());
    blob.seal(root).unwrap();
    assert!(blob.is_complete());
    assert!(store.list()[0].complete);
}

fn everybody_shares_one_open_blob(make: Make<'_>) {
    let store = make(config(None));
    let content = Content::new(1, 2 * PIECE);
    assert!(store.is_absent(content.id));
    let first = content.open(&*store);
    assert!(!store.is_absent(content.id));
    let second = store.open(content.id).unwrap().unwrap();
    content.put(&*first, 0);
    assert!(second.holds(PieceIndex(0)));
    drop((first, second));
    assert!(!store.list()[0].in_use);
    assert!(store.open(content.id).unwrap().unwrap().holds(PieceIndex(0)));
}

fn a_blob_is_stored_from_its_middle_and_its_gaps_are_filled(make: Make<'_>) {
    let store = make(config(None));
    let content = Content::new(1, 5 * PIECE + 10);
    let (pieces, hashes) = (content.manifest.piece_length(), content.manifest.hashes());
    let blob = store.open_or_create(content.id, content.info(), Manifest::new(pieces, None)).unwrap();
    assert!(matches!(blob.extend(3, &hashes[3..4]), Err(StoreError::Manifest { .. })), "its length is not known");
    blob.set_length(content.data.len() as u64).unwrap();
    assert_eq!(blob.extend(3, &hashes[3..5]).unwrap(), 2);
    content.put(&*blob, 3);
    assert!(matches!(blob.put(PieceIndex(1), content.piece(1)), Err(StoreError::UnknownPiece { .. })));
    assert_eq!((blob.prefix(), blob.hashes_from(0, 9), blob.hashes_from(4, 9)), (0, vec![], hashes[4..5].to_vec()));
    assert!(blob.known().runs().eq(std::iter::once(3..5)));
    let mut middle = vec![0; 100];
    blob.read_at(3 * PIECE + 7, &mut middle).unwrap();
    assert_eq!(middle, content.data[3 * PIECE as usize + 7..][..100]);
    assert!(matches!(blob.read_at(3 * PIECE - 1, &mut [0; 2]), Err(StoreError::NotHeld { .. })));
    // Opened again by somebody who knows other pieces' hashes.
    drop(blob);
    let mut other = Manifest::new(pieces, Some(content.data.len() as u64));
    other.extend(0, &hashes[..1]).unwrap();
    other.extend(5, &hashes[5..]).unwrap();
    let blob = store.open_or_create(content.id, content.info(), other).unwrap();
    assert_eq!(blob.known().runs().collect::<Vec<_>>(), [0..1, 3..6]);
    blob.extend(0, hashes).unwrap();
    (0..6).filter(|piece| *piece != 3).for_each(|piece| content.put(&*blob, piece));
    blob.seal(content.manifest.root().unwrap()).unwrap();
    content.check_held(&*blob);
}

fn a_contradicting_manifest_is_refused(make: Make<'_>) {
    let store = make(config(None));
    let content = Content::new(1, 2 * PIECE);
    let blob = content.open(&*store);
    let other = Content::new(2, 2 * PIECE).manifest;
    let refused = store.open_or_create(content.id, content.info(), other);
    assert!(matches!(refused, Err(StoreError::Manifest { .. })));
    let coarse = Manifest::new(PieceLength::from_log2(20).unwrap(), None);
    let refused = store.open_or_create(content.id, content.info(), coarse);
    assert!(matches!(refused, Err(StoreError::OtherPieces { .. })));
    assert!(matches!(blob.set_length(5), Err(StoreError::Manifest { .. })));
    assert!(matches!(blob.extend(5, &[]), Err(StoreError::Manifest { .. })));
    assert_eq!(blob.manifest(), content.manifest);
}

fn an_absurd_length_is_refused(make: Make<'_>) {
    let store = make(config(None));
    let pieces = PieceLength::from_log2(14).unwrap();
    let content = Content::new(1, 0);
    let refused = store.open_or_create(content.id, content.info(), Manifest::new(pieces, Some(u64::MAX)));
    assert!(matches!(refused, Err(StoreError::Manifest { .. })));
    let blob = store.open_or_create(content.id, content.info(), Manifest::new(pieces, None)).unwrap();
    assert!(matches!(blob.set_length(u64::MAX), Err(StoreError::Manifest { .. })));
    let known = store.open_or_create(content.id, content.info(), Manifest::new(pieces, Some(u64::MAX)));
    assert!(matches!(known, Err(StoreError::Manifest { .. })));
}

fn blobs_in_use_and_pinned_ones_are_not_removed(make: Make<'_>) {
    let store = make(config(None));
    let content = Content::new(1, PIECE);
    let blob = content.fill(&*store);
    assert!(matches!(store.remove(content.id), Err(StoreError::InUse(_))));
    drop(blob);
    store.pin(content.id, true).unwrap();
    assert!(matches!(store.remove(content.id), Err(StoreError::Pinned(_))));
    store.pin(content.id, false).unwrap();
    assert!(store.remove(content.id).unwrap());
    assert!(!store.remove(content.id).unwrap());
    assert!(store.open(content.id).unwrap().is_none());
    assert!(matches!(store.pin(content.id, true), Err(StoreError::NoSuchBlob(_))));
    assert_eq!(store.usage().used, 0);
}

fn dropped_pieces_give_their_room_back(make: Make<'_>) {
    let store = make(config(Some(3 * PIECE)));
    let content = Content::new(1, 3 * PIECE);
    let blob = content.fill(&*store);
    blob.drop_pieces(&[PieceIndex(0), PieceIndex(2), PieceIndex(9)].into_iter().collect()).unwrap();
    assert_eq!(blob.held().iter().collect::<Vec<_>>(), [PieceIndex(1)]);
    assert!(!blob.is_complete());
    assert_eq!(store.usage().used, PIECE);
    content.check_held(&*blob);
    content.put(&*blob, 0);
    content.put(&*blob, 2);
    content.check_held(&*blob);
}

fn a_discarded_blob_makes_way_for_a_new_one(make: Make<'_>) {
    let store = make(config(None));
    let content = Content::new(1, 2 * PIECE);
    let old = content.fill(&*store);
    store.pin(content.id, true).unwrap();
    old.discard().unwrap();
    assert!(old.held().is_empty() && !old.is_complete());
    assert!(matches!(old.put(PieceIndex(0), content.piece(0)), Err(StoreError::Discarded(_))));
    assert!(matches!(old.read_at(0, &mut [0]), Err(StoreError::NotHeld { .. })));
    assert!(store.list().is_empty());
    assert_eq!(store.usage().used, 0);
    let fresh = content.open(&*store);
    content.put(&*fresh, 1);
    old.discard().unwrap();
    drop(old);
    store.flush().unwrap();
    assert!(fresh.holds(PieceIndex(1)));
    content.check_held(&*fresh);
    assert_eq!(store.usage().used, PIECE);
}

fn sources_are_remembered_as_long_as_their_blob(make: Make<'_>) {
    let store = make(config(None));
    let content = Content::new(1, PIECE);
    let key = BlobId([200; 32]);
    let version = Version { etag: Some("\"1\"".into()), ..Version::default() };
    let record = SourceRecord { blob: content.id, version, checked: 7, fetched: None };
    drop(content.fill(&*store));
    store.remember_source(key, record.clone());
    assert_eq!(store.recall_source(key).unwrap(), Some(record.clone()));
    store.flush().unwrap();
    assert_eq!(store.recall_source(key).unwrap(), Some(record));
    assert_eq!(store.recall_source(BlobId([201; 32])).unwrap(), None);
    store.remove(content.id).unwrap();
    assert_eq!(store.recall_source(key).unwrap(), None);
    store.flush().unwrap();
    drop(content.open(&*store));
    assert_eq!(store.recall_source(key).unwrap(), None, "a new blob of that name starts without");
}

fn many_threads_store_one_blob(make: Make<'_>) {
    let store = make(config(None));
    let content = Content::new(1, 64 * PIECE);
    let blob = content.open(&*store);
    let stored: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let put = |piece| blob.put(PieceIndex(piece), content.piece(piece)).unwrap();
                    let stored = (0..64).filter(|piece| put(*piece) == Put::Stored).count();
                    content.check_held(&*blob);
                    stored
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(stored, 64, "each piece was stored by one of them");
    assert_eq!(store.usage().used, 64 * PIECE);
    content.check_held(&*blob);
}

fn storing_dropping_and_reading_at_once_never_shows_wrong_bytes(make: Make<'_>) {
    let store = make(config(None));
    let content = Content::new(1, 8 * PIECE);
    let blob = content.open(&*store);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..800 {
                    blob.put(PieceIndex(round % 8), content.piece(round % 8)).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for round in 0..400 {
                blob.drop_pieces(&[PieceIndex(round * 3 % 8)].into_iter().collect()).unwrap();
            }
        });
        scope.spawn(|| {
            let (mut whole, mut part) = (Vec::new(), [0; 100]);
            for round in 0..1600 {
                let piece = round * 5 % 8;
                if blob.read_piece(PieceIndex(piece), &mut whole).is_ok() {
                    assert_eq!(whole, content.piece(piece));
                }
                if blob.read_at(u64::from(piece) * PIECE + 50, &mut part).is_ok() {
                    assert_eq!(part, content.piece(piece)[50..150]);
                }
            }
        });
    });
    content.check_held(&*blob);
    assert!(blob.take_lost().is_empty());
    assert_eq!(store.usage().used, u64::from(blob.held().len()) * PIECE);
}

fn the_listing_has_the_latest_use_first(make: Make<'_>) {
    let store = make(config(None));
    let (first, second) = (Content::new(1, PIECE), Content::new(2, 2 * PIECE));
    let _open = first.fill(&*store);
    let half = second.open(&*store);
    second.put(&*half, 1);
    drop(half);
    store.touch(first.id);
    let lines = store.list();
    assert_eq!([lines[0].id, lines[1].id], [first.id, second.id]);
    assert!(lines[0].last_used > lines[1].last_used);
    assert_eq!((lines[0].in_use, lines[0].complete, lines[0].held_bytes), (true, true, PIECE));
    assert_eq!((lines[1].in_use, lines[1].complete, lines[1].held_bytes), (false, false, PIECE));
    assert_eq!(lines[1].length, Some(2 * PIECE));
    assert_eq!(lines[1].info, second.info());
}
