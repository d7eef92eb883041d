//! Room to send a few pieces at a time, for all connections of a process, first come first served.
//!
//! Why slots: pieces that are sent one after the other are there sooner than pieces that are sent side by side. But a peer may ask and
//! not take what it asked for, and would keep its slot for as long as its connection lasts; four of them would keep a holder from
//! everybody. So a slot with which nothing moves is given back soon, and its piece goes on without one. The more often that
//! happens with a peer, on whichever of its connections, the sooner.
//!
//! Invariant: what is remembered of peers is bounded.
//!
//! Non-goals: which connections are given up (`serve`); how fast anybody is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use darter_core::NodeId;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How long a slot is held while its receiver takes nothing, the first time. A receiver that shares a holder's slow link with others takes
/// some bytes more often.
const MAX_IDLE: Duration = Duration::from_secs(2);

/// How often that time is halved, at most.
const MAX_HALVINGS: u32 = 7;

/// So many pieces taken in time make up for a slot that was given back: more than those that a new connection's buffers take though nobody
/// reads.
const PIECES_OF_A_LOSS: u32 = 64;

/// Peers that are remembered, at most.
const MAX_REMEMBERED: usize = 1024;

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Slots(Arc<SlotPool>);

#[derive(Debug)]
struct SlotPool {
    free: Semaphore,
    /// How many pieces each peer has to take in time until it is as good as any.
    owed: Mutex<HashMap<NodeId, u32>>,
}

/// Room to send one piece to one peer.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    _permit: SemaphorePermit<'a>,
    shared: &'a SlotPool,
    peer: NodeId,
    patience: Duration,
}

impl Slots {
    /// Room for `count` pieces at a time.
    pub fn new(count: usize) -> Self {
        Self(Arc::new(SlotPool { free: Semaphore::new(count), owed: Mutex::default() }))
    }

    /// Waits for room.
    pub(super) async fn take(&self, peer: NodeId) -> Slot<'_> {
        let shared = &*self.0;
        let permit = shared.free.acquire().await.expect("nobody closes the semaphore");
        let owed = shared.owed.lock().get(&peer).copied().unwrap_or_default();
        let halvings = owed.div_ceil(PIECES_OF_A_LOSS).min(MAX_HALVINGS);
        Slot { _permit: permit, shared, peer, patience: MAX_IDLE / (1 << halvings) }
    }
}

impl Slot<'_> {
    /// How long it may be held while nothing moves.
    pub(super) const fn patience(&self) -> Duration {
        self.patience
    }

    /// A piece was taken in time.
    pub(super) fn was_used_well(&self) {
        let mut owed = self.shared.owed.lock();
        if let Some(pieces) = owed.get_mut(&self.peer) {
            *pieces -= 1;
            if *pieces == 0 {
                owed.remove(&self.peer);
            }
        }
    }

    /// Nothing moved for too long: others may send.
    pub(super) fn give_back(self) {
        let mut owed = self.shared.owed.lock();
        let has_room = owed.len() < MAX_REMEMBERED;
        if has_room || owed.contains_key(&self.peer) {
            let pieces = owed.entry(self.peer).or_default();
            *pieces = (*pieces + PIECES_OF_A_LOSS).min(PIECES_OF_A_LOSS * MAX_HALVINGS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId([1; 16]);

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

    #[tokio::test]
    async fn a_bounded_number_of_peers_is_remembered() {
        let slots = Slots::new(1);
        for number in 0..2 * MAX_REMEMBERED as u128 {
            slots.take(NodeId(number.to_be_bytes())).await.give_back();
        }
        assert_eq!(slots.0.owed.lock().len(), MAX_REMEMBERED);
    }
}
