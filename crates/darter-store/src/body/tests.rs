//! Bytes that the disk does not take or give, and work that was overtaken.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use darter_core::PieceLength;
use darter_core::manifest::hash_piece;
use rustix::io::Errno;

use super::*;
use crate::store::{Amount, StoreConfig};

const PIECE: usize = 1 << 14;
const FIRST: PieceIndex = PieceIndex(0);

/// Bytes in memory that are not taken or given while there is a refusal.
#[derive(Default)]
struct Moody {
    bytes: RwLock<BTreeMap<u64, Vec<u8>>>,
    refusal: Mutex<Option<Errno>>,
    /// How often its stamp was asked for.
    stamps: AtomicUsize,
}

/// A clock that a test sets.
#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Moment {
        Moment::from_micros(self.0.load(Ordering::Relaxed))
    }

    fn unix(&self) -> u64 {
        0
    }
}

impl Moody {
    fn answer(&self) -> io::Result<()> {
        self.refusal.lock().map_or(Ok(()), |refusal| Err(refusal.into()))
    }
}

impl Medium for Moody {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.answer()?;
        self.bytes.write().insert(offset, data.to_vec());
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.answer()?;
        buffer.copy_from_slice(&self.bytes.read()[&offset][..buffer.len()]);
        Ok(())
    }

    fn release(&self, _: ByteRange) -> io::Result<()> {
        self.answer()
    }

    fn stamp(&self) -> io::Result<Option<Stamp>> {
        self.stamps.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }

    fn let_go(&self) {}

    fn file(&self) -> Option<Arc<File>> {
        None
    }

    fn path(&self) -> &Path {
        Path::new("a moody disk")
    }
}

/// A blob of two pieces of zeros, of which nothing is held.
fn body() -> (Body<Moody>, Arc<Room>) {
    body_by(None)
}

fn body_by(clock: Option<Arc<dyn Clock>>) -> (Body<Moody>, Arc<Room>) {
    let pieces = PieceLength::from_log2(14).unwrap();
    let mut manifest = Manifest::new(pieces, Some(2 * PIECE as u64));
    for piece in (0..2).map(PieceIndex) {
        manifest.extend(piece.0, &[hash_piece(pieces, piece, &[0; PIECE], false)]).unwrap();
    }
    let config = StoreConfig { quota: Some(Amount::Bytes(10 * PIECE as u64)), ..StoreConfig::new(Arc::new(|| 0)) };
    let room = Arc::new(Room::new(&config));
    let (id, info) = (BlobId([1; 32]), BlobInfo::default());
    let sidecar = Sidecar { id, info, manifest, held: PieceSet::new(), complete: false, pinned: false };
    (Body::new(sidecar, Moody::default(), room.clone(), clock), room)
}

/// Those from here on.
fn from(piece: PieceIndex) -> Range<PieceIndex> {
    piece..PieceIndex(u32::MAX)
}

#[test]
fn a_run_of_pieces_takes_one_look_and_what_follows_soon_takes_none() {
    let clock = Arc::new(Hand(AtomicU64::new(1)));
    for clock in [None, Some(&clock)] {
        let (body, room) = body_by(clock.map(|clock| Arc::clone(clock) as Arc<dyn Clock>));
        put(&body, &room, FIRST);
        put(&body, &room, PieceIndex(1));
        let looks = |ask: &dyn Fn()| {
            let before = body.medium.stamps.load(Ordering::Relaxed);
            ask();
            body.medium.stamps.load(Ordering::Relaxed) - before
        };
        let ask = || assert_eq!(body.verified(from(FIRST), true), Some(ByteRange::new(0, 2 * PIECE as u64)));
        let Some(clock) = clock else {
            assert_eq!((looks(&ask), looks(&ask)), (1, 1), "nobody knows how long ago the last was");
            continue;
        };
        assert_eq!(looks(&ask), 0, "what this process wrote is its own");
        clock.0.fetch_add(LOOK_PAUSE.as_micros() as u64, Ordering::Relaxed);
        assert_eq!((looks(&ask), looks(&ask)), (1, 0));
        assert_eq!(looks(&|| drop(body.read_piece(FIRST, &mut Vec::new()))), 1, "whoever can wait looks in any case");
        assert_eq!(looks(&|| assert!(body.verified(from(FIRST), false).is_some())), 1);
        body.doubt();
        assert_eq!(body.verified(from(FIRST), true), None, "whenever somebody looked");
    }
}

/// Nobody writes here: a bit flips on the medium.
#[test]
fn a_piece_that_decayed_after_it_was_verified_is_lost_when_it_is_verified_again() {
    let (body, room) = body();
    put(&body, &room, FIRST);
    body.verify(FIRST).unwrap();
    body.medium.bytes.write().get_mut(&0).unwrap()[77] ^= 4;
    assert!(matches!(body.verify(FIRST), Err(StoreError::NotHeld { .. })));
    assert!(body.take_lost().contains(FIRST), "it will be fetched again");
}

/// Writes a piece for which room is taken.
fn write(body: &Body<Moody>, room: &Room, expected: &Expected) -> io::Result<Written> {
    room.take(expected.len()).unwrap();
    body.write(expected, &[0; PIECE])
}

fn put(body: &Body<Moody>, room: &Room, piece: PieceIndex) {
    let expected = body.expect(piece, PIECE).unwrap().unwrap();
    assert!(matches!(write(body, room, &expected), Ok(Written::Held)));
}

#[test]
fn what_the_disk_does_not_take_takes_no_room() {
    let (body, room) = body();
    let expected = body.expect(FIRST, PIECE).unwrap().unwrap();
    *body.medium.refusal.lock() = Some(Errno::NOSPC);
    assert!(write(&body, &room, &expected).is_err());
    assert_eq!((room.used(), body.facts().held_bytes, body.held(PieceSet::len)), (0, 0, 0));
    assert!(!body.unsaved.load(Ordering::Relaxed), "there is nothing to save");
    *body.medium.refusal.lock() = None;
    assert!(matches!(write(&body, &room, &expected), Ok(Written::Held)));
    assert_eq!((room.used(), body.facts().held_bytes), (PIECE as u64, PIECE as u64));
    assert!(body.unsaved.load(Ordering::Relaxed));
}

#[test]
fn a_piece_that_two_write_at_a_time_takes_its_room_once() {
    let (body, room) = body();
    let expected = body.expect(FIRST, PIECE).unwrap().unwrap();
    assert!(matches!(write(&body, &room, &expected), Ok(Written::Held)));
    assert!(matches!(write(&body, &room, &expected), Ok(Written::HeldBefore)));
    assert!(body.expect(FIRST, PIECE).unwrap().is_none());
    assert_eq!((room.used(), body.facts().held_bytes), (PIECE as u64, PIECE as u64));
}

#[test]
fn what_was_begun_before_pieces_were_dropped_is_begun_again() {
    let (body, room) = body();
    let expected = body.expect(FIRST, PIECE).unwrap().unwrap();
    body.drop_pieces(&PieceSet::full(1)).unwrap();
    assert!(matches!(write(&body, &room, &expected), Ok(Written::Overtaken)));
    assert_eq!((room.used(), body.held(PieceSet::len)), (0, 0));
    put(&body, &room, FIRST);
}

#[test]
fn what_the_disk_cannot_read_is_lost_and_what_it_will_not_read_is_kept() {
    for (errno, is_lost) in [(Errno::IO, true), (Errno::UCLEAN, true), (Errno::ACCESS, false), (Errno::NOMEM, false)] {
        let (body, room) = body();
        put(&body, &room, FIRST);
        put(&body, &room, PieceIndex(1));
        *body.medium.refusal.lock() = Some(errno);
        let read = body.read_piece(FIRST, &mut Vec::new());
        match read.unwrap_err() {
            StoreError::NotHeld { piece, .. } => assert!(is_lost && piece == FIRST),
            StoreError::Io { source, .. } => assert!(!is_lost && source.raw_os_error() == Some(errno.raw_os_error())),
            other => panic!("{other:?}"),
        }
        let left = if is_lost { 1 } else { 2 };
        assert_eq!(body.take_lost().contains(FIRST), is_lost);
        assert_eq!((room.used(), body.facts().held_bytes), (left * PIECE as u64, left * PIECE as u64));
        *body.medium.refusal.lock() = None;
        body.read_piece(PieceIndex(1), &mut Vec::new()).unwrap();
    }
}

#[test]
fn room_that_cannot_be_freed_on_the_disk_is_said_and_counts_as_free_all_the_same() {
    let (body, room) = body();
    put(&body, &room, FIRST);
    *body.medium.refusal.lock() = Some(Errno::IO);
    assert!(body.drop_pieces(&PieceSet::full(2)).is_err());
    assert_eq!((room.used(), body.held(PieceSet::len)), (0, 0));
}

#[test]
fn what_was_verified_is_hashed_again_after_the_disk_failed_to_write() {
    let (body, room) = body();
    put(&body, &room, FIRST);
    assert!(body.verified(from(FIRST), false).is_some());
    body.doubt();
    assert!(body.verified(from(FIRST), false).is_none() && body.held(|held| held.contains(FIRST)));
    body.medium.bytes.write().insert(0, vec![1; PIECE]);
    assert!(matches!(body.verify(FIRST), Err(StoreError::NotHeld { .. })), "it is something else now");
    assert!(body.take_lost().contains(FIRST));
}

#[test]
fn a_blob_that_is_gone_learns_nothing_and_says_nothing() {
    let (body, room) = body();
    put(&body, &room, FIRST);
    assert!(body.snapshot().is_some() && !body.is_discarded());
    body.dissolve();
    assert!(body.snapshot().is_none() && body.is_discarded());
    assert_eq!((room.used(), body.held(PieceSet::len)), (0, 0));
    assert!(matches!(body.extend(0, &[]), Err(StoreError::Discarded(_))));
    assert!(matches!(body.set_length(2 * PIECE as u64), Err(StoreError::Discarded(_))));
    assert!(matches!(body.seal(PieceHash([0; 32])), Err(StoreError::Discarded(_))));
    assert!(matches!(body.expect(FIRST, PIECE), Err(StoreError::Discarded(_))));
    let looks = body.medium.stamps.load(Ordering::Relaxed);
    assert!(matches!(body.verify(FIRST), Err(StoreError::NotHeld { .. })));
    assert_eq!(body.medium.stamps.load(Ordering::Relaxed), looks, "its file went because of this store, not of others");
}

#[test]
fn what_is_to_come_of_a_blob_is_its_length_without_what_is_held() {
    let (body, room) = body();
    assert_eq!(body.facts().rest(), 2 * PIECE as u64);
    put(&body, &room, FIRST);
    assert_eq!(body.facts().rest(), PIECE as u64);
    assert_eq!(Facts { held_bytes: 5, ..Facts::default() }.rest(), 0, "nobody knows");
}

#[test]
fn only_what_is_new_has_to_be_saved() {
    let (body, _) = body();
    let hashes = body.manifest(|manifest| manifest.hashes().to_vec());
    assert_eq!(body.extend(0, &hashes).unwrap(), 0);
    body.set_length(2 * PIECE as u64).unwrap();
    assert!(!body.unsaved.load(Ordering::Relaxed));
    body.set_pinned(true);
    assert!(body.unsaved.load(Ordering::Relaxed) && body.facts().pinned);
}
