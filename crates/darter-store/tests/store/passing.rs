//! Blobs that the store has no room for.

use std::sync::Arc;

use darter_core::{Digest, Manifest, PieceIndex};
use darter_store::{BlobInfo, MemStore, Passing, Put, Store as _, StoreError, StoredBlob};

use crate::content::{Content, PIECE, config};

/// Behind every piece.
const LAST: PieceIndex = PieceIndex(u32::MAX);

fn info(content: &Content) -> BlobInfo {
    BlobInfo { digest: Some(Digest::sha256(&content.data)), ..content.info() }
}

fn in_memory(content: &Content) -> Arc<Passing> {
    Passing::in_memory(content.id, info(content), &content.manifest, &config(None)).unwrap()
}

#[test]
fn pieces_that_come_together_when_the_store_is_full_are_all_taken() {
    let (content, small) = (Content::new(1, 4 * PIECE), config(Some(4 * PIECE)));
    let store = MemStore::new(&small);
    let blob = Passing::over(content.open(&store));
    store.fill();
    let together: Vec<_> = (0..3).map(|piece| (PieceIndex(piece), content.piece(piece))).collect();
    assert!(blob.put_all(&together).into_iter().all(|put| put.unwrap() == Put::Stored));
    assert!(blob.passes());
    content.check_held(&*blob);
    let rest = [(PieceIndex(2), content.piece(2)), (PieceIndex(3), content.piece(3))];
    let told: Vec<_> = blob.put_all(&rest).into_iter().map(Result::unwrap).collect();
    assert_eq!(told, [Put::AlreadyHeld, Put::Stored]);
}

#[test]
fn pieces_pass_through_in_order_and_the_digest_of_the_whole_is_told() {
    let content = Content::new(1, 9 * PIECE + 7);
    let blob = in_memory(&content);
    for piece in 0..content.pieces() {
        content.put(&*blob, piece);
        let mut read = vec![0; content.range(piece).len() as usize];
        blob.read_at(content.range(piece).start(), &mut read).unwrap();
        assert_eq!(read, content.piece(piece));
        blob.forget(PieceIndex(piece)).unwrap();
        assert!(blob.held_bytes() <= PIECE, "one piece is left");
    }
    assert_eq!(blob.held().len(), content.pieces(), "what was forgotten counts");
    assert!(matches!(blob.read_piece(PieceIndex(3), &mut Vec::new()), Err(StoreError::NotHeld { .. })));
    assert!(blob.take_lost().is_empty());
    let digest = Digest::sha256(&content.data);
    assert_eq!(blob.hash_whole(&digest, &|| {}).unwrap(), digest);
    blob.seal(content.manifest.root().unwrap()).unwrap();
    assert!(blob.is_complete());
    blob.drop_pieces(&[PieceIndex(2), PieceIndex(3)].into_iter().collect()).unwrap();
    assert!(!blob.is_complete() && !blob.holds(PieceIndex(2)));
    content.put(&*blob, 2);
}

#[test]
fn what_is_read_first_passes_and_its_hash_is_learnt() {
    let content = Content::new(1, 3 * PIECE);
    let manifest = Manifest::new(content.manifest.piece_length(), None);
    let over = config(Some(PIECE));
    let store = MemStore::new(&over);
    let small = Passing::over(store.open_or_create(content.id, info(&content), manifest.clone()).unwrap());
    let memory = Passing::in_memory(content.id, info(&content), &manifest, &config(None)).unwrap();
    for (blob, kept) in [(small, 1), (memory, 0)] {
        for piece in 0..content.pieces() {
            assert_eq!(blob.put_first(PieceIndex(piece), content.piece(piece), false).unwrap(), Put::Stored);
            assert_eq!(blob.hash(PieceIndex(piece)), Some(content.manifest.hashes()[piece as usize]));
        }
        assert!(blob.passes());
        assert_eq!(blob.aside().len(), content.pieces() - kept);
        let again = blob.put_first(PieceIndex(2), content.piece(1), false);
        assert!(matches!(again, Err(StoreError::WrongPiece { .. })), "{again:?}");
    }
}

#[test]
fn nothing_wrong_passes_and_too_much_is_said() {
    let content = Content::new(1, 3000 * PIECE);
    let blob = in_memory(&content);
    let wrong = blob.put(PieceIndex(0), content.piece(1));
    assert!(matches!(wrong, Err(StoreError::WrongPiece { .. })));
    assert!(matches!(blob.put(PieceIndex(0), &content.piece(0)[1..]), Err(StoreError::WrongPiece { .. })));
    let mut put = 0;
    while !blob.is_crowded(LAST) {
        content.put(&*blob, put);
        put += 1;
    }
    assert!(u64::from(put) * PIECE <= blob.window());
    blob.forget(PieceIndex(put / 2)).unwrap();
    assert!(!blob.is_crowded(LAST));
    content.put(&*blob, put);
}

#[test]
fn a_blob_whose_length_turns_out_too_long_passes_on_from_where_the_room_ends() {
    let store = MemStore::new(&config(Some(4 * PIECE)));
    let content = Content::new(1, 10 * PIECE);
    let growing = Manifest::new(content.manifest.piece_length(), None);
    let stored = store.open_or_create(content.id, info(&content), growing).unwrap();
    let blob = Passing::over(stored);
    for piece in 0..10 {
        blob.extend(piece, &content.manifest.hashes()[piece as usize..=piece as usize]).unwrap();
        assert_eq!(blob.put(PieceIndex(piece), content.piece(piece)).unwrap(), Put::Stored);
        assert_eq!(blob.passes(), piece >= 4);
    }
    blob.set_length(content.data.len() as u64).unwrap();
    content.check_held(&*blob);
    let mut across = vec![0; 3 * PIECE as usize];
    blob.read_at(2 * PIECE + 5, &mut across).unwrap();
    assert_eq!(across, content.data[2 * PIECE as usize + 5..5 * PIECE as usize + 5]);
    blob.forget(PieceIndex(6)).unwrap();
    assert_eq!((store.usage().used, blob.held().len()), (4 * PIECE, 10));
    assert_eq!(blob.forgotten().iter().collect::<Vec<_>>(), [PieceIndex(4), PieceIndex(5)]);
    blob.read_at(0, &mut across).unwrap();
    assert_eq!(across, content.data[..3 * PIECE as usize], "what is stored can still be read");
    let digest = Digest::sha256(&content.data);
    assert_eq!(blob.hash_whole(&digest, &|| {}).unwrap(), digest);
    blob.seal(content.manifest.root().unwrap()).unwrap();
    assert!(blob.is_complete());
}

#[test]
fn what_is_known_of_a_passing_blob_is_what_is_known_of_the_stored_one() {
    let store = MemStore::new(&config(Some(2 * PIECE)));
    let content = Content::new(1, 5 * PIECE + 9);
    let growing = Manifest::new(content.manifest.piece_length(), None);
    let stored = store.open_or_create(content.id, info(&content), growing).unwrap();
    let blob = Passing::over(Arc::clone(&stored));
    assert_eq!((blob.id(), blob.info()), (content.id, info(&content)));
    assert_eq!(blob.extend(0, &content.manifest.hashes()[..4]).unwrap(), 4);
    assert_eq!((blob.prefix(), blob.known_count(), blob.length()), (4, 4, None));
    assert_eq!(blob.hash(PieceIndex(1)), content.manifest.hash(PieceIndex(1)));
    assert_eq!((blob.hash(PieceIndex(4)), blob.hashes_from(1, 2)), (None, content.manifest.hashes()[1..3].to_vec()));
    assert_eq!((blob.known(), blob.manifest()), (stored.known(), stored.manifest()));
    assert!(!blob.holds(PieceIndex(0)) && !blob.passes());
    blob.forget(PieceIndex(3)).unwrap();
    assert!(blob.forgotten().is_empty(), "it does not pass yet");
    // Two are stored, two are aside.
    (0..4).for_each(|piece| content.put(&*blob, piece));
    assert!((0..4).map(PieceIndex).all(|piece| blob.holds(piece)) && !blob.holds(PieceIndex(4)));
    assert_eq!((blob.held().len(), blob.held_bytes(), stored.held_bytes()), (4, 4 * PIECE, 2 * PIECE));
    for piece in [1, 3] {
        assert_eq!(blob.put(PieceIndex(piece), content.piece(piece)).unwrap(), Put::AlreadyHeld);
    }
    assert!(matches!(blob.put(PieceIndex(4), content.piece(4)), Err(StoreError::UnknownPiece { .. })));
    blob.extend(4, &content.manifest.hashes()[4..]).unwrap();
    assert!(
        matches!(blob.put(PieceIndex(5), content.piece(5)), Err(StoreError::UnknownPiece { .. })),
        "is it the last?"
    );
    for short in [&content.piece(5)[1..], &[]] {
        assert!(matches!(blob.put(PieceIndex(5), short), Err(StoreError::WrongPiece { .. })));
    }
    let mut read = Vec::new();
    (0..4).for_each(|piece| {
        blob.read_piece(PieceIndex(piece), &mut read).unwrap();
        assert_eq!(read, content.piece(piece));
    });
    blob.set_length(content.data.len() as u64).unwrap();
    assert!(matches!(blob.read_at(content.data.len() as u64 - 1, &mut [0; 2]), Err(StoreError::NotHeld { .. })));
    (4..6).for_each(|piece| content.put(&*blob, piece));
    match blob.read_at(content.data.len() as u64 - 1, &mut [0; 2]) {
        Err(StoreError::PastTheEnd { end, .. }) => assert_eq!(end, content.data.len() as u64 + 1),
        other => panic!("{other:?}"),
    }
    assert_eq!(blob.held_bytes(), content.data.len() as u64);
    blob.drop_pieces(&[PieceIndex(3)].into_iter().collect()).unwrap();
    assert_eq!(blob.held_bytes(), content.data.len() as u64 - PIECE);
    assert!(matches!(blob.seal(content.manifest.root().unwrap()), Err(StoreError::Incomplete { held: 5, .. })));
    content.put(&*blob, 3);
    assert!(matches!(blob.seal(darter_core::PieceHash([0; 32])), Err(StoreError::WrongRoot(_))));
    assert!(!blob.is_complete());
    blob.seal(content.manifest.root().unwrap()).unwrap();
    assert!(blob.is_complete());
    assert!(blob.piece_file(PieceIndex(3)).unwrap().is_none() && blob.ready_file(PieceIndex(3)).is_none());
    blob.discard().unwrap();
    assert!(blob.is_discarded() && stored.is_discarded() && blob.held().is_empty() && !blob.is_complete());
    assert!(matches!(blob.put(PieceIndex(3), content.piece(3)), Err(StoreError::Discarded(_))));
    assert!(matches!(blob.seal(content.manifest.root().unwrap()), Err(StoreError::Discarded(_))));
}

#[test]
fn a_last_piece_that_passed_for_a_full_one_is_dropped_when_the_length_is_known() {
    for (length, kept) in [(4 * PIECE, 4), (3 * PIECE + 5, 3)] {
        let store = MemStore::new(&config(Some(2 * PIECE)));
        let content = Content::new(1, 4 * PIECE);
        let growing = Manifest::new(content.manifest.piece_length(), None);
        let blob = Passing::over(store.open_or_create(content.id, info(&content), growing).unwrap());
        blob.extend(0, content.manifest.hashes()).unwrap();
        (0..4).for_each(|piece| content.put(&*blob, piece));
        blob.set_length(length).unwrap();
        assert_eq!((blob.held().len(), blob.held_bytes()), (kept, u64::from(kept) * PIECE), "{length}");
    }
}

#[test]
fn a_blob_that_rests_while_it_passes_may_be_evicted_of_what_is_stored() {
    let store = MemStore::new(&config(Some(4 * PIECE)));
    let content = Content::new(1, 3 * PIECE);
    let blob = Passing::over(content.fill(&store));
    blob.rest();
    drop(Content::new(2, 3 * PIECE).fill(&store));
    assert!(!blob.wake() && blob.is_discarded());
    let blob = Passing::over(Content::new(3, PIECE).fill(&store));
    blob.rest();
    assert!(blob.wake() && !blob.is_discarded());
}

#[test]
fn a_digest_of_another_kind_cannot_be_told_of_what_has_passed() {
    let content = Content::new(1, 3 * PIECE);
    let blob = in_memory(&content);
    (0..3).for_each(|piece| content.put(&*blob, piece));
    assert!(matches!(blob.hash_whole(&Digest::Sha512([0; 64]), &|| {}), Err(StoreError::Incomplete { held: 3, .. })));
    let digest = Digest::sha256(&content.data);
    assert_eq!(blob.hash_whole(&digest, &|| {}).unwrap(), digest, "of what is aside");
    // Bytes that were forgotten out of order were not hashed.
    let blob = in_memory(&content);
    content.put(&*blob, 1);
    blob.forget(PieceIndex(2)).unwrap();
    (0..3).filter(|piece| *piece != 1).for_each(|piece| content.put(&*blob, piece));
    assert!(blob.hash_whole(&digest, &|| {}).is_err());
}

#[test]
fn what_lies_aside_can_be_let_go_and_come_again_and_a_late_piece_is_forgotten_like_others() {
    let content = Content::new(1, 20 * PIECE);
    let blob = in_memory(&content);
    for piece in [15, 7] {
        content.put(&*blob, piece);
    }
    assert_eq!(blob.aside().iter().collect::<Vec<_>>(), [PieceIndex(7), PieceIndex(15)]);
    blob.drop_pieces(&blob.aside()).unwrap();
    assert_eq!((blob.held_bytes(), blob.holds(PieceIndex(7))), (0, false), "it is not said to be held");
    content.put(&*blob, 7);
    blob.read_piece(PieceIndex(7), &mut Vec::new()).unwrap();
    blob.forget(LAST).unwrap();
    assert_eq!(blob.held_bytes(), 0);
    // Behind all that were passed over.
    content.put(&*blob, 3);
    blob.forget(LAST).unwrap();
    assert_eq!(blob.held_bytes(), 0, "it does not lie there for ever");
}
