//! Random histories. After each step: reads are right, held pieces can be read unless the file was damaged, `used` is what all blobs hold, and the
//! quota is not passed.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use darter_core::PieceIndex;
use darter_store::{DiskStore, MemStore, Store, StoreError};
use proptest::prelude::*;

use crate::content::{Content, PIECE, config};

const BLOBS: u8 = 4;
const PIECES: u32 = 5;
const QUOTA: u64 = 12 * PIECE;

#[derive(Clone, Debug)]
enum Step {
    Put {
        blob: u8,
        piece: u32,
        right: bool,
    },
    Read {
        blob: u8,
        piece: u32,
    },
    Drop {
        blob: u8,
        piece: u32,
    },
    Seal {
        blob: u8,
    },
    Pin {
        blob: u8,
        pinned: bool,
    },
    Remove {
        blob: u8,
    },
    Discard {
        blob: u8,
    },
    Flush,
    /// Opens the store again, after a bit of one blob flipped.
    Restart {
        damaged: u8,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let blob = || 0..BLOBS;
    let piece = || 0..PIECES;
    prop_oneof![
        20 => (blob(), piece(), prop::bool::weighted(0.9)).prop_map(|(blob, piece, right)| Step::Put { blob, piece, right }),
        8 => (blob(), piece()).prop_map(|(blob, piece)| Step::Read { blob, piece }),
        2 => (blob(), piece()).prop_map(|(blob, piece)| Step::Drop { blob, piece }),
        2 => blob().prop_map(|blob| Step::Seal { blob }),
        1 => (blob(), any::<bool>()).prop_map(|(blob, pinned)| Step::Pin { blob, pinned }),
        1 => blob().prop_map(|blob| Step::Remove { blob }),
        1 => blob().prop_map(|blob| Step::Discard { blob }),
        2 => Just(Step::Flush),
        2 => blob().prop_map(|damaged| Step::Restart { damaged }),
    ]
}

/// Does one step on a store; restarts are the caller's.
fn act(store: &dyn Store, contents: &[Content], step: &Step) {
    let content = |blob: &u8| &contents[usize::from(*blob)];
    let create = |blob: &u8| {
        let content = content(blob);
        match store.open_or_create(content.id, content.info(), content.manifest.clone()) {
            Ok(blob) => Some(blob),
            Err(StoreError::Full { .. }) => None,
            Err(other) => panic!("{other:?}"),
        }
    };
    match step {
        Step::Put { blob: at, piece, right } => {
            let Some(blob) = create(at) else { return };
            let mut bytes = content(at).piece(*piece).to_vec();
            bytes[3] ^= u8::from(!right);
            let held = blob.holds(PieceIndex(*piece));
            match blob.put(PieceIndex(*piece), &bytes) {
                Ok(_) => assert!(*right || held),
                Err(StoreError::WrongPiece { .. }) => assert!(!right),
                Err(other) => panic!("{other:?}"),
            }
        }
        Step::Read { blob: at, piece } => {
            let Some(blob) = store.open(content(at).id).unwrap() else { return };
            let mut bytes = [0; 40];
            match blob.read_at(u64::from(*piece) * PIECE + 8, &mut bytes) {
                Ok(()) => assert_eq!(bytes, content(at).piece(*piece)[8..48]),
                Err(StoreError::NotHeld { .. }) => assert!(!blob.holds(PieceIndex(*piece))),
                Err(other) => panic!("{other:?}"),
            }
        }
        Step::Drop { blob: at, piece } => {
            let Some(blob) = store.open(content(at).id).unwrap() else { return };
            blob.drop_pieces(&[PieceIndex(*piece)].into_iter().collect()).unwrap();
            assert!(!blob.holds(PieceIndex(*piece)));
        }
        Step::Seal { blob: at } => {
            let Some(blob) = store.open(content(at).id).unwrap() else { return };
            let whole = blob.held().len() == PIECES;
            assert_eq!(blob.seal(content(at).manifest.root().unwrap()).is_ok(), whole);
        }
        Step::Pin { blob, pinned } => drop(store.pin(content(blob).id, *pinned)),
        Step::Remove { blob } => drop(store.remove(content(blob).id)),
        Step::Discard { blob: at } => {
            let Some(blob) = store.open(content(at).id).unwrap() else { return };
            blob.discard().unwrap();
        }
        Step::Flush => store.flush().unwrap(),
        Step::Restart { .. } => {}
    }
}

fn check(store: &dyn Store) {
    let usage = store.usage();
    assert!(usage.used <= QUOTA);
    assert_eq!(usage.used, store.list().iter().map(|line| line.held_bytes).sum::<u64>());
}

fn contents() -> Vec<Content> {
    (0..BLOBS).map(|seed| Content::new(seed, (u64::from(PIECES) - 1) * PIECE + 50)).collect()
}

fn flip_a_bit(dir: &Path, content: &Content) {
    let name = content.id.to_string();
    let path = dir.join("blobs").join(&name[..2]).join(format!("{name}.data"));
    let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else { return };
    let mut byte = [0];
    if file.read_exact_at(&mut byte, PIECE + 9).is_ok() {
        file.write_all_at(&[byte[0] ^ 2], PIECE + 9).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_disk(steps in prop::collection::vec(any_step(), 1..80)) {
        let dir = tempfile::tempdir().unwrap();
        let contents = contents();
        let config = config(Some(QUOTA));
        let mut store = DiskStore::open(dir.path(), &config).unwrap();
        for step in &steps {
            act(&store, &contents, step);
            if let Step::Restart { damaged } = step {
                let before: Vec<_> = store.list();
                drop(store);
                store = DiskStore::open(dir.path(), &config).unwrap();
                prop_assert_eq!(store.list(), before);
                flip_a_bit(dir.path(), &contents[usize::from(*damaged)]);
            }
            check(&store);
        }
    }

    #[test]
    fn in_memory(steps in prop::collection::vec(any_step(), 1..200)) {
        let contents = contents();
        let store = MemStore::new(&config(Some(QUOTA)));
        for step in &steps {
            act(&store, &contents, step);
            check(&store);
        }
    }
}
