//! Turns at reading origins, so that pieces become complete one after the other.
//!
//! A part of a piece can't be passed on. If sixty-four blobs were read concurrently, they would share the origin's rate, and the first piece of each would be
//! complete only when all are: the seed's uplink would idle meanwhile. So an agent begins few pieces at a time, each blob in its turn.
//!
//! Connections besides the first one of a blob are few in all, and shared among the blobs that are fetched. A blob that ends, or is read by
//! fewer connections, *gives back* its share of the link: other blobs are told, since their rates then grow for another reason than their own connections.
//!
//! Only the beginning of a piece waits. A reader whose origin stalls, or is slow, loses its turn to the next one and reads on without a turn:
//! an origin delays the others for at most `MAX_TURN`, and a piece that has begun is never put off.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Sleep, sleep};

/// How many pieces are read at a time, unless one blob may be read by more connections.
const AT_A_TIME: usize = 8;

/// How long a turn is kept although nothing arrives.
const IDLE_TURN_TIMEOUT: Duration = Duration::from_millis(50);

/// How long a turn is kept at most.
const MAX_TURN: Duration = Duration::from_secs(1);

/// The turns of one agent, given in the order in which they were requested.
#[derive(Debug)]
pub struct Turns {
    turns: Semaphore,
    /// Connections besides the first one of a blob, for all blobs together.
    beside: Arc<Semaphore>,
    /// The maximum number of them.
    most_beside: usize,
    /// How often a blob gave back its share of the link.
    given_back: AtomicU64,
}

/// One reader, and its turn while it has one.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    /// The turn, with the time until which it may be kept.
    held: Option<(SemaphorePermit<'a>, Pin<Box<Sleep>>)>,
    begun: bool,
}

impl Turns {
    /// Enough turns for one blob to be read by this many connections.
    pub fn for_connections(connections: u8) -> Self {
        let most = AT_A_TIME.max(connections.into());
        let most_beside = most - 1;
        Self {
            turns: Semaphore::new(most),
            beside: Arc::new(Semaphore::new(most_beside)),
            most_beside,
            given_back: AtomicU64::new(0),
        }
    }

    /// A blob gives back its share of the link. Returns how often that has happened.
    pub(crate) fn give_back(&self) -> u64 {
        self.given_back.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How often a blob gave back its share of the link.
    pub(crate) fn given_back(&self) -> u64 {
        self.given_back.load(Ordering::Relaxed)
    }

    /// True if a turn is free.
    pub(crate) fn has_room(&self) -> bool {
        self.turns.available_permits() > 0
    }

    /// True if a further connection of a blob, by its number, is within the blob's share, while `blobs` blobs are
    /// fetched. The first connections of the other blobs count: many blobs already use many connections.
    pub(crate) fn shares_beside(&self, number: u8, blobs: u32) -> bool {
        let blobs = usize::try_from(blobs).unwrap_or(usize::MAX).max(1);
        usize::from(number) < (self.most_beside + 1).saturating_sub(blobs).div_ceil(blobs)
    }

    /// True if one more such connection may be made, for any blob.
    pub(crate) fn has_beside(&self) -> bool {
        self.beside.available_permits() > 0
    }

    /// A permit for such a connection, which is free again when it is dropped.
    pub(crate) fn beside(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.beside).try_acquire_owned().ok()
    }

    /// A reader that has no turn yet.
    pub(crate) const fn reader(&self) -> Turn<'_> {
        Turn { turns: self, held: None, begun: false }
    }
}

impl Turn<'_> {
    /// True if the piece that was begun has not ended.
    pub(crate) const fn has_begun(&self) -> bool {
        self.begun
    }

    /// Waits for a turn to read a piece.
    pub(crate) async fn begin(&mut self) {
        let permit = self.turns.turns.acquire().await.expect("never closed");
        self.held = Some((permit, Box::pin(sleep(MAX_TURN))));
        self.begun = true;
    }

    /// Waits for something from the origin, an answer or more of its body; gives the turn up if that takes long.
    pub(crate) async fn wait_for<F: Future>(&mut self, what: F) -> F::Output {
        let mut what = pin!(what);
        if let Some((_, kept)) = &mut self.held {
            tokio::select! {
                biased;
                here = &mut what => return here,
                () = kept => {}
                () = sleep(IDLE_TURN_TIMEOUT) => {}
            }
            self.held = None;
        }
        what.await
    }

    /// The piece is complete: the next reader may begin.
    pub(crate) fn end(&mut self) {
        (self.held, self.begun) = (None, false);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    async fn all_taken(turns: &Turns) -> Vec<Turn<'_>> {
        let mut taken = Vec::new();
        for _ in 0..AT_A_TIME {
            let mut turn = turns.reader();
            turn.begin().await;
            taken.push(turn);
        }
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_begins_a_piece_in_its_turn() {
        let turns = Turns::for_connections(1);
        let mut reading = all_taken(&turns).await;
        assert!(reading[3].has_begun(), "its piece is not whole yet");
        let mut late = turns.reader();
        assert!(timeout(HOUR, late.begin()).await.is_err(), "all turns are taken");
        reading[3].end();
        let mut next = turns.reader();
        assert_eq!(timeout(HOUR, next.begin()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_room_as_long_as_nobody_has_to_wait() {
        let turns = Turns::for_connections(1);
        assert!(turns.has_room());
        let mut reading = all_taken(&turns).await;
        assert!(!turns.has_room());
        let mut late = turns.reader();
        tokio::join!(late.begin(), async { reading[0].end() });
        assert!(!turns.has_room(), "another blob has it");
        reading[1].end();
        assert!(turns.has_room());
        let many = Turns::for_connections(12);
        let mut reading = all_taken(&many).await;
        assert!(many.has_room() && reading.len() == AT_A_TIME);
        reading.clear();
    }

    #[test]
    fn blobs_share_the_connections_besides_their_first_ones() {
        let turns = Turns::for_connections(8);
        assert!(turns.shares_beside(6, 1) && !turns.shares_beside(7, 1));
        assert!(turns.shares_beside(1, 3) && !turns.shares_beside(2, 3));
        assert!(turns.shares_beside(0, 7) && !turns.shares_beside(0, 8) && !turns.shares_beside(0, 100));
        let mut made: Vec<_> = std::iter::from_fn(|| turns.beside()).collect();
        assert_eq!((made.len(), turns.has_beside()), (AT_A_TIME - 1, false), "however many blobs there are");
        made.pop();
        assert!(turns.has_beside() && turns.beside().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_stalls_holds_up_no_other_and_its_reader_reads_on_without_a_turn() {
        let turns = Turns::for_connections(1);
        let mut reading = all_taken(&turns).await;
        let mut quick = turns.reader();
        let started = Instant::now();
        let stalled = async {
            reading[0].wait_for(sleep(IDLE_TURN_TIMEOUT * 4)).await;
            // Another reader has the turn by now.
            reading[0].wait_for(sleep(IDLE_TURN_TIMEOUT * 4)).await;
            started.elapsed()
        };
        let begun = async {
            quick.begin().await;
            started.elapsed()
        };
        let (read, waited) = tokio::join!(stalled, begun);
        assert!(read < IDLE_TURN_TIMEOUT * 9, "{read:?}");
        assert!(waited < IDLE_TURN_TIMEOUT * 2, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_is_slow_without_a_pause_keeps_its_turn_for_a_while_only() {
        let turns = Turns::for_connections(1);
        let mut reading = all_taken(&turns).await;
        let started = Instant::now();
        let dripping = async {
            while started.elapsed() < HOUR {
                reading[0].wait_for(sleep(IDLE_TURN_TIMEOUT / 2)).await;
            }
        };
        let mut quick = turns.reader();
        tokio::select! {
            () = dripping => panic!("the others waited for an hour"),
            () = quick.begin() => assert!(started.elapsed() <= MAX_TURN + IDLE_TURN_TIMEOUT),
        }
    }
}
