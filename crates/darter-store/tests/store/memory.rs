//! Accidents of disks, brought about in memory.

use darter_core::PieceIndex;
use darter_store::{MemStore, Store as _, StoreError};

use crate::content::{Content, PIECE, config};

#[test]
fn a_bit_that_flips_is_read_as_it_is_until_the_store_is_opened_again_and_then_its_piece_is_lost() {
    let (store, content) = (MemStore::new(&config(None)), Content::new(1, 3 * PIECE));
    let blob = content.fill(&store);
    store.flip_bits();
    let mut read = Vec::new();
    blob.read_piece(PieceIndex(1), &mut read).unwrap();
    let differing: u32 = read.iter().zip(content.piece(1)).map(|(is, was)| (is ^ was).count_ones()).sum();
    assert_eq!(differing, 1, "one bit, and nobody noticed");
    drop(blob);
    let again = store.reopened();
    let blob = again.open(content.id).unwrap().expect("it has what it had");
    assert_eq!(blob.held().len(), 3);
    for piece in 0..3 {
        assert!(matches!(blob.read_piece(PieceIndex(piece), &mut read), Err(StoreError::NotHeld { .. })), "{piece}");
    }
    assert_eq!(blob.take_lost().len(), 3);
    content.put(&*blob, 1);
    content.check_held(&*blob);
}

#[test]
fn a_full_store_refuses_what_comes_and_gives_what_it_has() {
    let (store, content) = (MemStore::new(&config(None)), Content::new(1, 3 * PIECE));
    let blob = content.open(&store);
    content.put(&*blob, 0);
    store.fill();
    let refused = blob.put(PieceIndex(1), content.piece(1)).unwrap_err();
    assert!(matches!(refused, StoreError::Full { needed: PIECE, .. }), "{refused}");
    content.check_held(&*blob);
    assert_eq!(blob.held().len(), 1);
}
