//! Blobs that the store has no room for.

use std::sync::Arc;

use darter_core::{Digest, Manifest, PieceIndex};
use darter_store::{BlobInfo, MemStore, Passing, Put, Store as _, StoreError, StoredBlob};

use crate::content::{Content, PIECE, config};

fn info(content: &Content) -> BlobInfo {
    BlobInfo { digest: Some(Digest::sha256(&content.data)), ..content.info() }
}

fn in_memory(content: &Content) -> Arc<Passing> {
    Passing::in_memory(content.id, info(content), &content.manifest, &config(None)).unwrap()
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
    assert_eq!(blob.hash_whole(&digest).unwrap(), digest);
    blob.seal(content.manifest.root().unwrap()).unwrap();
    assert!(blob.is_complete());
    blob.drop_pieces(&[PieceIndex(2), PieceIndex(3)].into_iter().collect()).unwrap();
    assert!(!blob.is_complete() && !blob.holds(PieceIndex(2)));
    content.put(&*blob, 2);
}

#[test]
fn nothing_wrong_passes_and_too_much_is_said() {
    let content = Content::new(1, 3000 * PIECE);
    let blob = in_memory(&content);
    let wrong = blob.put(PieceIndex(0), content.piece(1));
    assert!(matches!(wrong, Err(StoreError::WrongPiece { .. })));
    assert!(matches!(blob.put(PieceIndex(0), &content.piece(0)[1..]), Err(StoreError::WrongPiece { .. })));
    let mut put = 0;
    while !blob.is_crowded() {
        content.put(&*blob, put);
        put += 1;
    }
    assert!(u64::from(put) * PIECE <= blob.window());
    blob.forget(PieceIndex(put / 2)).unwrap();
    assert!(!blob.is_crowded());
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
    assert_eq!(blob.hash_whole(&digest).unwrap(), digest);
    blob.seal(content.manifest.root().unwrap()).unwrap();
    assert!(blob.is_complete());
}
