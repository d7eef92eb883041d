//! The bytes that open blobs lack are known at any moment without looking at all blobs.

use std::sync::Arc;

use darter_core::manifest::hash_piece;
use darter_core::{BlobId, Manifest, PieceIndex, PieceLength};
use proptest::prelude::*;

use super::*;
use crate::kept::Kept;
use crate::store::{Store, StoreConfig, StoredBlob};
use crate::{DiskStore, MemStore};

const BLOBS: u8 = 4;
const PIECES: u32 = 4;
const PIECE: u64 = 1 << 14;

#[derive(Clone, Debug)]
enum Step {
    /// Opens a blob, or makes it, with its length or without. Each opening is kept.
    Open {
        blob: u8,
        with_length: bool,
    },
    /// Tells the length.
    Length {
        blob: u8,
    },
    Put {
        blob: u8,
        piece: u32,
    },
    Drop {
        blob: u8,
        piece: u32,
    },
    /// A bit flips in what is held, and somebody reads it.
    Decay {
        blob: u8,
        piece: u32,
    },
    Discard {
        blob: u8,
    },
    Remove {
        blob: u8,
    },
    /// The last of its openings rests, or wakes.
    Rest {
        blob: u8,
    },
    Wake {
        blob: u8,
    },
    /// The last of its openings ends.
    Close {
        blob: u8,
    },
    Flush,
}

fn any_step() -> impl Strategy<Value = Step> {
    let blob = || 0..BLOBS;
    let both = || (0..BLOBS, 0..PIECES);
    prop_oneof![
        6 => (blob(), any::<bool>()).prop_map(|(blob, with_length)| Step::Open { blob, with_length }),
        2 => blob().prop_map(|blob| Step::Length { blob }),
        12 => both().prop_map(|(blob, piece)| Step::Put { blob, piece }),
        2 => both().prop_map(|(blob, piece)| Step::Drop { blob, piece }),
        2 => both().prop_map(|(blob, piece)| Step::Decay { blob, piece }),
        1 => blob().prop_map(|blob| Step::Discard { blob }),
        1 => blob().prop_map(|blob| Step::Remove { blob }),
        2 => blob().prop_map(|blob| Step::Rest { blob }),
        2 => blob().prop_map(|blob| Step::Wake { blob }),
        4 => blob().prop_map(|blob| Step::Close { blob }),
        2 => Just(Step::Flush),
    ]
}

fn id(blob: u8) -> BlobId {
    BlobId([blob; 32])
}

fn bytes(blob: u8, piece: u32) -> Vec<u8> {
    vec![blob * 16 + piece as u8; PIECE as usize]
}

fn manifest(blob: u8, with_length: bool) -> Manifest {
    let pieces = PieceLength::from_log2(14).unwrap();
    let mut manifest = Manifest::new(pieces, with_length.then_some(u64::from(PIECES) * PIECE));
    for piece in 0..PIECES {
        let hash = hash_piece(pieces, PieceIndex(piece), &bytes(blob, piece), false);
        manifest.extend(piece, &[hash]).unwrap();
    }
    manifest
}

/// A blob's openings, and whether each rests.
type Openings = Vec<(Arc<dyn StoredBlob>, bool)>;

fn act<S: Store>(store: &S, open: &mut [Openings], step: &Step, decay: impl Fn(u8)) {
    let last = |open: &[Openings], blob: u8| open[usize::from(blob)].last().map(|(stored, _)| Arc::clone(stored));
    match *step {
        Step::Open { blob, with_length } => {
            // There may be no room.
            if let Ok(stored) = store.open_or_create(id(blob), BlobInfo::default(), manifest(blob, with_length)) {
                open[usize::from(blob)].push((stored, false));
            }
        }
        Step::Length { blob } => drop(last(open, blob).map(|it| it.set_length(u64::from(PIECES) * PIECE))),
        Step::Put { blob, piece } => drop(last(open, blob).map(|it| it.put(PieceIndex(piece), &bytes(blob, piece)))),
        Step::Drop { blob, piece } => {
            drop(last(open, blob).map(|it| it.drop_pieces(&[PieceIndex(piece)].into_iter().collect())));
        }
        Step::Decay { blob, piece } => {
            decay(blob);
            drop(last(open, blob).map(|it| it.verify(PieceIndex(piece))));
        }
        Step::Discard { blob } => drop(last(open, blob).map(|it| it.discard())),
        Step::Remove { blob } => drop(store.remove(id(blob))),
        Step::Rest { blob } | Step::Wake { blob } => {
            let Some((stored, rests)) = open[usize::from(blob)].last_mut() else { return };
            match (step, *rests) {
                (Step::Rest { .. }, false) => stored.rest(),
                (Step::Wake { .. }, true) => drop(stored.wake()),
                _ => return,
            }
            *rests = !*rests;
        }
        Step::Close { blob } => {
            let closed = open[usize::from(blob)].pop();
            if let Some((stored, true)) = &closed {
                let _ = stored.wake();
            }
        }
        Step::Flush => store.flush().unwrap(),
    }
}

fn check<B: Backend>(keeper: &Keeper<B>) {
    let shelf = keeper.shelf.lock();
    let open = shelf.entries.values().filter(|entry| entry.is_open());
    let lacking: u64 = open.map(|entry| entry.facts().rest()).sum();
    assert_eq!(keeper.room.lacking(), lacking);
    let in_use = shelf.entries.values().filter(|entry| entry.in_use());
    assert!(in_use.map(|entry| entry.facts().rest()).sum::<u64>() <= lacking);
}

fn tell<S: Store + Kept>(store: &S, steps: &[Step], decay: impl Fn(u8)) {
    let mut open: Vec<Openings> = (0..BLOBS).map(|_| Vec::new()).collect();
    for step in steps {
        act(store, &mut open, step, &decay);
        check(store.keeper());
    }
    drop(open);
    assert_eq!(store.keeper().room.lacking(), 0, "nobody has one open");
}

fn config() -> StoreConfig {
    // Of four blobs two and a half fit, so that some are refused and some evicted.
    let quota = Some(Amount::Bytes(10 * PIECE));
    StoreConfig { quota, reserve_free: Amount::Bytes(0), ..StoreConfig::new(Arc::new(|| 0)) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_memory(steps in prop::collection::vec(any_step(), 1..120)) {
        let store = MemStore::new(&config());
        tell(&store, &steps, |_| store.flip_bits());
    }

    #[test]
    fn on_disk(steps in prop::collection::vec(any_step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let store = DiskStore::open(dir.path(), &config()).unwrap();
        tell(&store, &steps, |blob| {
            let path = store.path(id(blob));
            path.into_iter().for_each(|path| std::fs::write(path, [7; 3 * PIECE as usize]).unwrap());
        });
    }
}
