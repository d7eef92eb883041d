use std::time::Duration;

use darter_core::manifest::hash_piece;
use darter_core::{BlobId, Manifest, PieceLength, SystemClock};
use darter_store::{BlobInfo, MemStore, Put, Store, StoreConfig};
use darter_wire::Unpacker;
use futures_util::future::join_all;

use super::*;

const PIECE: usize = 1 << 16;
const SLOW: Option<u64> = Some(1_000_000);

fn bytes_of(piece: u32) -> Vec<u8> {
    // The last one does not shrink.
    let next = |at: u32| at.wrapping_mul(2_654_435_761).wrapping_add(piece).rotate_left(at % 31);
    let noise = (0..PIECE as u32).map(next).map(|word| (word ^ (word >> 15)) as u8);
    if piece == 3 { blake3_like(noise) } else { noise.map(|byte| byte & 3).collect() }
}

/// Bytes without any pattern.
fn blake3_like(noise: impl Iterator<Item = u8>) -> Vec<u8> {
    let plain: Vec<u8> = noise.collect();
    let digests = plain.chunks(32).enumerate().map(|(at, chunk)| {
        let seeded = [&(at as u64).to_le_bytes()[..], chunk].concat();
        hash_piece(PieceLength::from_log2(16).unwrap(), PieceIndex(at as u32), &seeded, false).0
    });
    digests.flatten().collect()
}

/// A blob of four pieces in a store, all held.
fn blob() -> (Disk, Arc<dyn StoredBlob>) {
    let pieces = PieceLength::from_log2(16).unwrap();
    let mut manifest = Manifest::new(pieces, Some(4 << 16));
    for piece in 0..4 {
        manifest.extend(piece, &[hash_piece(pieces, PieceIndex(piece), &bytes_of(piece), false)]).unwrap();
    }
    let store = MemStore::new(&StoreConfig::new(Arc::new(|| 0)));
    let blob = store.open_or_create(BlobId([1; 32]), BlobInfo::default(), manifest).unwrap();
    for piece in 0..4 {
        assert_eq!(blob.put(PieceIndex(piece), &bytes_of(piece)).unwrap(), Put::Stored);
    }
    (Disk::new(Arc::new(store)), blob)
}

fn packed_pieces() -> Arc<PackedPieces> {
    PackedPieces::new(true, Arc::new(SystemClock::start()))
}

async fn blob_on_disk_thread() -> (Disk, Arc<dyn StoredBlob>) {
    darter_store::threads::run(blob).await
}

async fn packed(pieces: &Arc<PackedPieces>, disk: &Disk, blob: &Arc<dyn StoredBlob>, piece: u32) -> Tried {
    let hash = blob.hash(PieceIndex(piece)).unwrap();
    pieces.pack(disk, Arc::clone(blob), PieceIndex(piece), hash).await
}

/// How often something was packed.
fn kept(pieces: &PackedPieces) -> usize {
    pieces.state.lock().kept.keys().count()
}

#[tokio::test]
async fn eight_peers_that_want_one_piece_have_it_packed_once_and_later_ones_find_it() {
    let ((disk, blob), pieces) = (blob_on_disk_thread().await, packed_pieces());
    let way = |piece: u32, rate| pieces.way(&*blob, PieceIndex(piece), rate);
    assert!(matches!(way(0, SLOW), Way::ToPack(_)));
    assert!(matches!((way(0, None), way(0, Some(u64::MAX))), (Way::Plain, Way::Plain)));
    let turn = pieces.turns.acquire_many(pieces.turns.available_permits() as u32).await.unwrap();
    let mut all = std::pin::pin!(join_all((0..8).map(|_| packed(&pieces, &disk, &blob, 0))));
    assert!(futures_util::poll!(&mut all).is_pending());
    assert_eq!(pieces.under_way.lock().len(), 1, "one of them works, and the others wait for it");
    drop(turn);
    let all = all.await;
    let first = all[0].clone().expect("it shrinks");
    assert!(all.iter().all(|one| one.as_ref().is_some_and(|one| one.body().as_ptr() == first.body().as_ptr())));
    let mut plain = Vec::new();
    Unpacker::default().unpack(&first, &mut plain).unwrap();
    assert!(plain == bytes_of(0));
    let Way::Packed(found) = way(0, SLOW) else { panic!("it is at hand") };
    assert_eq!((found, kept(&pieces)), (first, 1));
    assert!(matches!(way(0, Some(u64::MAX)), Way::Plain), "a connection that is quick enough gets it plain");
}

#[tokio::test]
async fn a_piece_that_does_not_shrink_is_tried_once_and_what_came_packed_is_passed_on() {
    let ((disk, blob), pieces) = (blob_on_disk_thread().await, packed_pieces());
    assert_eq!(packed(&pieces, &disk, &blob, 3).await, None);
    assert!(matches!(pieces.way(&*blob, PieceIndex(3), SLOW), Way::Plain));
    let came = Packer::default().pack(&bytes_of(1)).unwrap();
    pieces.came(blob.hash(PieceIndex(1)), &came);
    assert!(matches!(pieces.way(&*blob, PieceIndex(1), SLOW), Way::Packed(packed) if packed == came));
    pieces.trim();
    assert_eq!((kept(&pieces), pieces.packers.lock().len()), (0, 0));
    assert!(matches!(pieces.way(&*blob, PieceIndex(1), SLOW), Way::ToPack(_)));
}

#[tokio::test]
async fn what_is_kept_is_bounded_and_an_agent_that_packs_nothing_keeps_nothing() {
    let ((_, blob), pieces) = (blob_on_disk_thread().await, packed_pieces());
    let came = Packer::default().pack(&vec![7; 1 << 16]).unwrap();
    let large = Packer::default().pack(&bytes_of(0)).unwrap();
    for number in 0..3 * (MAX_KEPT / u64::from(large.length())) {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_le_bytes());
        pieces.came(Some(PieceHash(hash)), &large);
    }
    assert!(kept(&pieces) as u64 * u64::from(large.length()) <= MAX_KEPT);
    let none = PackedPieces::new(false, Arc::new(SystemClock::start()));
    none.came(blob.hash(PieceIndex(1)), &came);
    assert!(matches!(none.way(&*blob, PieceIndex(1), SLOW), Way::Plain));
    assert_eq!(kept(&none), 0);
}

#[tokio::test]
async fn a_peer_that_goes_while_its_piece_is_packed_leaves_the_others_theirs() {
    let ((disk, blob), pieces) = (blob_on_disk_thread().await, packed_pieces());
    let turn = pieces.turns.acquire_many(pieces.turns.available_permits() as u32).await.unwrap();
    let other = {
        let mut gone = Box::pin(packed(&pieces, &disk, &blob, 2));
        assert!(futures_util::poll!(&mut gone).is_pending());
        let mut other = Box::pin(packed(&pieces, &disk, &blob, 2));
        assert!(futures_util::poll!(&mut other).is_pending());
        other
    };
    drop(turn);
    assert!(tokio::time::timeout(Duration::from_secs(60), other).await.unwrap().is_some());
}
