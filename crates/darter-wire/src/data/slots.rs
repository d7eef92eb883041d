//! Slots: limit how many pieces are sent at a time, over all connections of a process, first come, first served.
//!
//! Pieces that are sent one after the other arrive sooner than pieces that are sent at the same time. But a peer may request pieces and not read them, and would keep its slot as long as its
//! connection exists; a few such peers would keep a holder from everybody else. So a slot is given back if nothing of its piece is taken for a while, and the rest of the piece is sent without one. The more
//! often that happens with a peer, on any of its connections, the sooner its slot is given back.
//!
//! Requests that [go last](super::Uploads::goes_last) wait until nobody else has a slot or waits for one, since pieces that are sent at the same time share the link. So that they are
//! answered in the end, the first of them gets a slot after [`MAX_BEFORE_LAST`] others.
//!
//! A peer has one place in the queue and one slot, however many connections it has: these take turns.
//!
//! Invariant: the memory for peers is bounded.
//!
//! Non-goals: closing connections (`serve`), measuring rates.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use darter_core::NodeId;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// How long a slot may be held, the first time, while its receiver takes nothing. A receiver that shares a holder's slow link with others takes
/// some bytes more often.
const MAX_IDLE: Duration = Duration::from_secs(2);

/// How often this time is halved at most.
const MAX_HALVINGS: u32 = 7;

/// After a slot was given back, a peer has to take this many pieces in time until that is forgotten: more than fit into a new connection's
/// buffers without being read.
const PIECES_OF_A_LOSS: u32 = 64;

/// How many others may get a slot before a request that goes last.
const MAX_BEFORE_LAST: u64 = 32;

/// Most peers that are remembered.
const MAX_REMEMBERED: usize = 1024;

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Slots(Arc<SlotPool>);

#[derive(Debug)]
struct SlotPool {
    free: Semaphore,
    /// Of requests that do not go last: how many have a slot or wait for one now, and how many have ever got one.
    first: AtomicUsize,
    taken: AtomicU64,
    /// Of requests that go last, only the one that holds this waits for a change of `first` or `taken`. The others wait for this.
    last: Semaphore,
    changed: Notify,
    /// The peers that have a slot or wait for one. One connection of each peer has the peer's turn.
    turns: Mutex<HashMap<NodeId, Arc<Semaphore>>>,
    /// How many pieces each peer has to take in time until it is treated like any other.
    owed: Mutex<HashMap<NodeId, u32>>,
}

/// A slot: one piece may be sent to one peer.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    permit: Option<SemaphorePermit<'a>>,
    _counted: Option<Counted<'a>>,
    turn: Turn<'a>,
    patience: Duration,
}

impl Slots {
    /// Slots for `count` pieces at a time.
    pub fn new(count: usize) -> Self {
        Self(Arc::new(SlotPool {
            free: Semaphore::new(count),
            first: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            last: Semaphore::new(1),
            changed: Notify::new(),
            turns: Mutex::default(),
            owed: Mutex::default(),
        }))
    }

    /// Waits for a slot.
    pub(super) async fn take(&self, peer: NodeId) -> Slot<'_> {
        let pool = &*self.0;
        let turn = Turn::of(pool, peer).await;
        // Not before: a connection that goes last may have the peer's turn, and waits until nobody is counted.
        let counted = Counted::new(pool);
        let permit = pool.free.acquire().await.expect("nobody closes the semaphore");
        pool.taken.fetch_add(1, Ordering::Relaxed);
        pool.changed.notify_one();
        pool.slot(permit, Some(counted), turn)
    }

    /// Waits for a slot for a request that goes last.
    pub(super) async fn take_last(&self, peer: NodeId) -> Slot<'_> {
        let pool = &*self.0;
        let turn = Turn::of(pool, peer).await;
        let _first = pool.last.acquire().await.expect("nobody closes the semaphore");
        let before = pool.taken.load(Ordering::Relaxed);
        loop {
            let changed = pool.changed.notified();
            if pool.first.load(Ordering::Relaxed) == 0
                && let Ok(permit) = pool.free.try_acquire()
            {
                return pool.slot(permit, None, turn);
            }
            if pool.taken.load(Ordering::Relaxed) - before >= MAX_BEFORE_LAST {
                let permit = pool.free.acquire().await.expect("nobody closes the semaphore");
                return pool.slot(permit, None, turn);
            }
            changed.await;
        }
    }
}

impl SlotPool {
    fn slot<'a>(&'a self, permit: SemaphorePermit<'a>, counted: Option<Counted<'a>>, turn: Turn<'a>) -> Slot<'a> {
        let owed = self.owed.lock().get(&turn.peer).copied().unwrap_or_default();
        let halvings = owed.div_ceil(PIECES_OF_A_LOSS).min(MAX_HALVINGS);
        let patience = MAX_IDLE / (1 << halvings);
        Slot { permit: Some(permit), _counted: counted, turn, patience }
    }
}

/// The turn of one of a peer's connections, while it waits for a slot and while it has one.
#[derive(Debug)]
struct Turn<'a> {
    pool: &'a SlotPool,
    peer: NodeId,
    turns: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl<'a> Turn<'a> {
    async fn of(pool: &'a SlotPool, peer: NodeId) -> Self {
        let turns = Arc::clone(pool.turns.lock().entry(peer).or_insert_with(|| Arc::new(Semaphore::new(1))));
        let mut turn = Self { pool, peer, turns, permit: None };
        let permit = Arc::clone(&turn.turns).acquire_owned().await.expect("nobody closes the semaphore");
        turn.permit = Some(permit);
        turn
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.permit = None;
        let mut turns = self.pool.turns.lock();
        // This one's and the pool's: no other connection of the peer waits.
        if Arc::strong_count(&self.turns) == 2 {
            turns.remove(&self.peer);
        }
    }
}

/// Counts a request that does not go last, while it waits for a slot and while it has one.
#[derive(Debug)]
struct Counted<'a>(&'a SlotPool);

impl<'a> Counted<'a> {
    fn new(pool: &'a SlotPool) -> Self {
        pool.first.fetch_add(1, Ordering::Relaxed);
        Self(pool)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.first.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        // The slot is freed before others are notified.
        self.permit = None;
        self.turn.pool.changed.notify_one();
    }
}

impl Slot<'_> {
    /// How long it may be held while the receiver takes nothing.
    pub(super) const fn patience(&self) -> Duration {
        self.patience
    }

    /// The receiver took a piece in time.
    pub(super) fn was_used_well(&self) {
        let mut owed = self.turn.pool.owed.lock();
        if let Some(pieces) = owed.get_mut(&self.turn.peer) {
            *pieces -= 1;
            if *pieces == 0 {
                owed.remove(&self.turn.peer);
            }
        }
    }

    /// The receiver took nothing for too long: gives the slot to others.
    pub(super) fn give_back(self) {
        let mut owed = self.turn.pool.owed.lock();
        let has_room = owed.len() < MAX_REMEMBERED;
        if has_room || owed.contains_key(&self.turn.peer) {
            let pieces = owed.entry(self.turn.peer).or_default();
            *pieces = (*pieces + PIECES_OF_A_LOSS).min(PIECES_OF_A_LOSS * MAX_HALVINGS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId([1; 16]);
    const OTHERS: [NodeId; 3] = [NodeId([2; 16]), NodeId([3; 16]), NodeId([4; 16])];

    async fn patience(slots: &Slots, peer: NodeId) -> Duration {
        slots.take(peer).await.patience()
    }

    #[tokio::test]
    async fn who_takes_nothing_again_and_again_holds_a_slot_for_ever_shorter_until_it_takes_pieces() {
        let slots = Slots::new(1);
        let mut last = MAX_IDLE * 2;
        for _ in 0..=MAX_HALVINGS {
            let slot = slots.take(PEER).await;
            assert_eq!(slot.patience() * 2, last);
            last = slot.patience();
            slot.give_back();
        }
        for _ in 0..100 {
            slots.take(PEER).await.give_back();
        }
        assert_eq!(patience(&slots, PEER).await, last, "it can become no shorter");
        assert_eq!(patience(&slots, NodeId([2; 16])).await, MAX_IDLE, "others have nothing to do with it");
        for _ in 0..PIECES_OF_A_LOSS {
            slots.take(PEER).await.was_used_well();
        }
        assert_eq!(patience(&slots, PEER).await, last * 2);
        for _ in 0..1000 {
            slots.take(PEER).await.was_used_well();
        }
        assert_eq!(patience(&slots, PEER).await, MAX_IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_last_takes_what_nobody_else_waits_for_and_one_of_some_in_any_case() {
        let slots = Slots::new(1);
        drop(slots.take_last(PEER).await);
        let held = slots.take(OTHERS[0]).await;
        let taken = AtomicUsize::new(0);
        let takes = async |peer: NodeId| {
            for _ in 0..3 * MAX_BEFORE_LAST {
                let slot = slots.take(peer).await;
                taken.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(10)).await;
                drop(slot);
            }
        };
        // Two of the others: one of them always waits.
        let both = async { tokio::join!(takes(OTHERS[1]), takes(OTHERS[2])) };
        let last = async {
            let mut before = Vec::new();
            for _ in 0..4 {
                let slot = slots.take_last(PEER).await;
                before.push(taken.load(Ordering::Relaxed) as u64);
                drop(slot);
            }
            before
        };
        let ((), before, _) = tokio::join!(
            async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                drop(held);
            },
            last,
            both
        );
        assert!(before[0] >= MAX_BEFORE_LAST, "{before:?}");
        assert!(
            before.windows(2).all(|two| (MAX_BEFORE_LAST..MAX_BEFORE_LAST + 4).contains(&(two[1] - two[0]))),
            "{before:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_last_is_woken_by_room_and_by_one_that_waits_no_more() {
        let slots = Slots::new(1);
        let held = slots.take(OTHERS[0]).await;
        let given_up = tokio::time::timeout(Duration::from_millis(20), slots.take(OTHERS[1]));
        let last = tokio::time::timeout(Duration::from_secs(1), slots.take_last(PEER));
        let free = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(held);
        };
        let ((), last, ()) = tokio::join!(
            async {
                let slot = given_up.await.expect("there is room soon");
                tokio::time::sleep(Duration::from_millis(10)).await;
                drop(slot);
            },
            last,
            free
        );
        drop(last.expect("and then there is room for the last one"));
        let held = slots.take(OTHERS[0]).await;
        let last = tokio::time::timeout(Duration::from_secs(1), slots.take_last(PEER));
        let (none, last) = tokio::join!(
            async {
                let none = tokio::time::timeout(Duration::from_millis(20), slots.take(OTHERS[1])).await.is_err();
                drop(held);
                none
            },
            last
        );
        assert!(none && last.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_of_many_connections_has_one_slot_and_one_place_in_line() {
        let (slots, taken) = (Slots::new(1), Arc::new(Mutex::new(Vec::new())));
        let held = slots.take(NodeId([9; 16])).await;
        let connection = |peer: u8, pieces: u32| {
            let (slots, taken) = (slots.clone(), Arc::clone(&taken));
            async move {
                for _ in 0..pieces {
                    let slot = slots.take(NodeId([peer; 16])).await;
                    taken.lock().push(peer);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    drop(slot);
                }
            }
        };
        let mut connections = tokio::task::JoinSet::new();
        (0..16).for_each(|_| drop(connections.spawn(connection(1, 1))));
        connections.spawn(connection(2, 2));
        let given_up = tokio::time::timeout(Duration::from_millis(3), connection(3, 1));
        assert!(given_up.await.is_err());
        drop(held);
        connections.join_all().await;
        assert_eq!(taken.lock()[..5], [1, 2, 1, 2, 1]);
        assert_eq!(taken.lock().len(), 18);
        assert!(slots.0.turns.lock().is_empty(), "nothing is kept of peers that do not wait");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_goes_last_and_another_of_the_same_peer_wait_for_others_and_not_for_each_other() {
        let slots = Slots::new(1);
        let held = slots.take(OTHERS[0]).await;
        let (last, first) = (async { drop(slots.take_last(PEER).await) }, async { drop(slots.take(PEER).await) });
        let free = async { drop(held) };
        let all = tokio::time::timeout(Duration::from_secs(1), async { tokio::join!(last, first, free) });
        all.await.expect("both come");
    }

    #[tokio::test]
    async fn a_bounded_number_of_peers_is_remembered() {
        let slots = Slots::new(1);
        for number in 0..2 * MAX_REMEMBERED as u128 {
            slots.take(NodeId(number.to_be_bytes())).await.give_back();
        }
        assert_eq!(slots.0.owed.lock().len(), MAX_REMEMBERED);
    }
}
