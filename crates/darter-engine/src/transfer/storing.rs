//! Writes pieces from peers to the disk. A thread that is started for one piece also takes the pieces that arrive meanwhile: it need
//! not be woken for each, and pieces that are adjacent in memory are written together ([`StoredBlob::put_all`]). On an idle host each
//! piece is stored at once, by itself; the busier the host is, the more pieces share a thread's turn.
//!
//! Invariants: each caller that waits for a piece gets the result once; while pieces wait, a turn is running or about to start; one blob has at
//! most [`MAX_TURNS`] turns at a time.
//!
//! The thread that stores a packed piece unpacks it.
//!
//! Non-goals: limiting how much waits here. The reader of a connection does that.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use darter_core::{PieceIndex, in_full};
use darter_store::{Disk, Put, StoreError, StoredBlob};
use darter_wire::{PieceData, Unpacker};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Most pieces that are stored together. If as many wait, another thread is started.
const TOGETHER: usize = 4;

/// Most bytes that are stored together: long pieces are stored one by one, so that each is announced as soon as it is there.
const TOGETHER_BYTES: usize = 1 << 20;

/// Most threads that store pieces of one blob at a time: enough for the fastest links.
const MAX_TURNS: usize = 4;

thread_local! {
    /// A disk thread's memory to unpack with, until the thread ends.
    static UNPACKER: RefCell<Unpacker> = RefCell::default();
}

/// The pieces of one blob that wait to be stored.
#[derive(Debug, Default)]
pub(super) struct Storing(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    pieces: VecDeque<Coming>,
    turns: usize,
}

#[derive(Debug)]
struct Coming {
    piece: PieceIndex,
    data: PieceData,
    stored: oneshot::Sender<Result<Put, StoreError>>,
}

impl Storing {
    /// Stores a piece. This completes even if the caller goes away.
    pub(super) async fn put(
        &self,
        disk: &Disk,
        blob: &Arc<dyn StoredBlob>,
        piece: PieceIndex,
        data: PieceData,
    ) -> Result<Put, StoreError> {
        let (stored, told) = oneshot::channel();
        let begins = {
            let mut waiting = self.0.lock();
            waiting.pieces.push_back(Coming { piece, data, stored });
            let begins = waiting.turns == 0 || (waiting.turns < MAX_TURNS && waiting.pieces.len() >= TOGETHER);
            waiting.turns += usize::from(begins);
            begins
        };
        if begins {
            let (turn, blob) = (StoringTurn(Arc::clone(&self.0)), Arc::clone(blob));
            disk.run(move || turn.run(&*blob)).detach();
        }
        told.await.expect("the thread that stored a piece tells of it, unless it panicked")
    }
}

/// One thread's work on the waiting pieces.
struct StoringTurn(Arc<Mutex<Waiting>>);

impl StoringTurn {
    fn run(self, blob: &dyn StoredBlob) {
        loop {
            let batch = self.next();
            if batch.is_empty() {
                return;
            }
            let (mut pieces, mut told) = (Vec::new(), Vec::new());
            for Coming { piece, data, stored } in batch {
                match UNPACKER.with_borrow_mut(|unpacker| data.unpack(unpacker)) {
                    Ok(data) => {
                        pieces.push((piece, data));
                        told.push(stored);
                    }
                    Err(error) => {
                        tracing::debug!(blob = %blob.id().short(), %piece, error = %in_full(&error), "no piece");
                        // The task that waited may be gone.
                        let _ = stored.send(Err(StoreError::WrongPiece { blob: blob.id(), piece }));
                    }
                }
            }
            let pieces: Vec<_> = pieces.iter().map(|(piece, data)| (*piece, &**data)).collect();
            for (told, stored) in told.into_iter().zip(blob.put_all(&pieces)) {
                let _ = told.send(stored);
            }
        }
    }

    /// The pieces to be stored next. If there are none the turn ends: the next piece starts a new one.
    fn next(&self) -> Vec<Coming> {
        let mut waiting = self.0.lock();
        let (mut count, mut bytes) = (0, 0);
        while let Some(coming) = waiting.pieces.get(count)
            && count < TOGETHER
            && (count == 0 || bytes + coming.data.plain_length() as usize <= TOGETHER_BYTES)
        {
            bytes += coming.data.plain_length() as usize;
            count += 1;
        }
        if count == 0 {
            waiting.turns -= 1;
        }
        waiting.pieces.drain(..count).collect()
    }
}

impl Drop for StoringTurn {
    /// If the thread panics, everyone who waits is told.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut waiting = self.0.lock();
            waiting.turns -= 1;
            waiting.pieces.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use darter_core::manifest::hash_piece;
    use darter_core::{BlobId, Manifest, PieceLength};
    use darter_store::{BlobInfo, MemStore, Store, StoreConfig};
    use darter_wire::BufferPool;
    use futures_util::future::join_all;

    use super::*;

    const PIECES: u32 = 12;

    fn bytes_of(piece: u32) -> Vec<u8> {
        vec![piece as u8; 1 << 14]
    }

    /// A store, and a blob in it without any pieces.
    fn blob() -> (Disk, Arc<dyn StoredBlob>) {
        let pieces = PieceLength::from_log2(14).unwrap();
        let mut manifest = Manifest::new(pieces, Some(u64::from(PIECES) << 14));
        for piece in 0..PIECES {
            manifest.extend(piece, &[hash_piece(pieces, PieceIndex(piece), &bytes_of(piece), false)]).unwrap();
        }
        let store = MemStore::new(&StoreConfig::new(Arc::new(|| 0)));
        let blob = store.open_or_create(BlobId([1; 32]), BlobInfo::default(), manifest).unwrap();
        (Disk::new(Arc::new(store)), blob)
    }

    #[test]
    fn pieces_that_come_while_no_disk_thread_is_free_share_a_few_turns_and_each_is_told_of() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let ((disk, blob), storing, pool) = (blob(), Storing::default(), BufferPool::default());
        runtime.block_on(async {
            let (goes_on, waits) = std::sync::mpsc::channel::<()>();
            let busy = disk.run(move || waits.recv().unwrap());
            let puts = (0..PIECES).map(|piece| {
                // One of them is damaged.
                let bytes = bytes_of(if piece == 5 { 77 } else { piece });
                storing.put(&disk, &blob, PieceIndex(piece), PieceData::Plain(pool.filled(&bytes)))
            });
            let mut puts = std::pin::pin!(join_all(puts));
            assert!(futures_util::poll!(&mut puts).is_pending());
            assert!(disk.running() <= 1 + MAX_TURNS, "{} pieces of work for {PIECES} pieces", disk.running() - 1);
            goes_on.send(()).unwrap();
            busy.await;
            for (piece, put) in puts.await.into_iter().enumerate() {
                match put {
                    Ok(Put::Stored) => assert_ne!(piece, 5),
                    Err(StoreError::WrongPiece { piece: PieceIndex(5), .. }) => assert_eq!(piece, 5),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(blob.held().len(), PIECES - 1);
            // All turns have ended: the next piece starts one.
            disk.settled().await;
            assert_eq!(storing.0.lock().turns, 0);
            let again = storing.put(&disk, &blob, PieceIndex(5), PieceData::Plain(pool.filled(&bytes_of(5)))).await;
            assert!(matches!(again, Ok(Put::Stored)));
            let again = storing.put(&disk, &blob, PieceIndex(5), PieceData::Plain(pool.filled(&bytes_of(5)))).await;
            assert!(matches!(again, Ok(Put::AlreadyHeld)));
        });
    }

    #[test]
    fn few_bytes_go_together_and_long_pieces_one_by_one() {
        let (storing, pool) = (Storing::default(), BufferPool::default());
        let batches = |lengths: &[usize]| {
            let mut waiting = storing.0.lock();
            waiting.turns = 1;
            for (piece, length) in (0..).map(PieceIndex).zip(lengths) {
                let (stored, _) = oneshot::channel();
                waiting.pieces.push_back(Coming {
                    piece,
                    data: PieceData::Plain(pool.filled(&vec![0; *length])),
                    stored,
                });
            }
            drop(waiting);
            let turn = StoringTurn(Arc::clone(&storing.0));
            std::iter::from_fn(|| Some(turn.next().len()).filter(|count| *count > 0)).collect::<Vec<_>>()
        };
        assert_eq!(batches(&[1; 9]), [TOGETHER, TOGETHER, 1]);
        assert_eq!(batches(&[TOGETHER_BYTES / 2; 5]), [2, 2, 1]);
        assert_eq!(batches(&[2 * TOGETHER_BYTES, 1, 1]), [1, 2]);
    }
}
