//! Limits the number of connections of a port. At the limit, the connection that has been idle longest makes room for a new one.
//!
//! Programs keep connections open that they do not use, and some open hundreds. Such a connection costs a descriptor, which
//! peers, origins and files need as well: so a port has a share of them. When the share is used up, the connection that has waited
//! longest for its next request is closed; engines open another one when they have a request. A connection with a request in progress is never
//! closed. If all have one, a new connection waits, which the log reports once a minute.
//!
//! Invariant: each connection in the table has a [`Seat`], and each seat one permit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use darter_wire::descriptors;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The maximum number of connections of a port. Engines open a handful each, so this is enough for many of them.
const MAX_CONNECTIONS: usize = 1024;

/// How long to wait for a connection that was told to close, before another one is told, too.
const LEAVING_TIMEOUT: Duration = Duration::from_millis(50);

/// How often the log says that all connections have a request in progress.
const TELL_FULL_EVERY: Duration = Duration::from_secs(60);

/// The connections of one port.
#[derive(Debug)]
pub(super) struct Seats {
    permits: Arc<Semaphore>,
    seats: usize,
    idle: Arc<Idle>,
    said: Mutex<Option<Instant>>,
}

/// Connections without a request, by the time of their last request.
#[derive(Debug, Default)]
struct Idle {
    turn: AtomicU64,
    waiting: Mutex<BTreeMap<u64, CancellationToken>>,
}

/// The place of one connection. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Seat {
    idle: Arc<Idle>,
    /// Its key in the table of idle connections, while it waits for a request.
    since: Mutex<Option<u64>>,
    /// True until the first request.
    fresh: AtomicBool,
    /// Cancelled when the connection has to make room.
    pub(super) leave: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

/// Held while a request is being answered, so that its connection stays.
#[derive(Debug)]
pub(super) struct Busy(Arc<Seat>);

impl Seats {
    /// For as many connections as this process can spare descriptors for.
    pub(super) fn new() -> Self {
        Self::of(descriptors::limit().map_or(MAX_CONNECTIONS, |limit| (limit / 2).clamp(1, MAX_CONNECTIONS)))
    }

    fn of(seats: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(seats)), seats, idle: Arc::default(), said: Mutex::default() }
    }

    /// A seat for the next connection. Cancelling loses nothing.
    pub(super) async fn seat(&self) -> Arc<Seat> {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                break permit;
            }
            if !self.idle.end_one() {
                self.say();
            }
            // A connection that was told to close may first have to finish an answer.
            let permit = Arc::clone(&self.permits).acquire_owned();
            if let Ok(permit) = tokio::time::timeout(LEAVING_TIMEOUT, permit).await {
                break permit.expect("the semaphore is never closed");
            }
        };
        let (idle, leave) = (Arc::clone(&self.idle), CancellationToken::new());
        let fresh = AtomicBool::new(true);
        let seat = Arc::new(Seat { idle, since: Mutex::default(), fresh, leave, _permit: permit });
        seat.wait();
        seat
    }

    fn say(&self) {
        let mut said = self.said.lock();
        if said.is_none_or(|said| said.elapsed() >= TELL_FULL_EVERY) {
            *said = Some(Instant::now());
            tracing::warn!(
                connections = self.seats,
                "the local port answers as many requests as it can: others wait (half of the limit of open files, at most {MAX_CONNECTIONS})"
            );
        }
    }
}

impl Idle {
    /// Tells the connection that has been idle longest to close. False if none is idle.
    fn end_one(&self) -> bool {
        let first = self.waiting.lock().pop_first();
        first.map(|(_, leave)| leave.cancel()).is_some()
    }
}

impl Seat {
    /// Notes that a request has arrived on the connection.
    pub(super) fn request(self: &Arc<Self>) -> Busy {
        self.fresh.store(false, Ordering::Relaxed);
        self.forget();
        Busy(Arc::clone(self))
    }

    /// True if the connection had no request yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh.load(Ordering::Relaxed)
    }

    /// True while a request of the connection is being answered.
    pub(super) fn is_answered(&self) -> bool {
        !self.is_fresh() && self.since.lock().is_none()
    }

    fn wait(&self) {
        let turn = self.idle.turn.fetch_add(1, Ordering::Relaxed);
        *self.since.lock() = Some(turn);
        self.idle.waiting.lock().insert(turn, self.leave.clone());
    }

    fn forget(&self) {
        if let Some(turn) = self.since.lock().take() {
            self.idle.waiting.lock().remove(&turn);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_one_that_is_idle_longest_makes_room_and_none_that_is_answered() {
        let seats = Seats::of(3);
        let (first, second, third) = (seats.seat().await, seats.seat().await, seats.seat().await);
        let answering = second.request();
        drop(first.request());
        let comes = seats.seat();
        tokio::pin!(comes);
        assert!(futures_util::poll!(&mut comes).is_pending());
        assert!(third.leave.is_cancelled(), "the first had a request after the third came");
        assert!(!first.leave.is_cancelled() && !second.leave.is_cancelled());
        drop(third);
        let fourth = comes.await;
        let both = (first.request(), fourth.request());
        let waits = seats.seat();
        tokio::pin!(waits);
        assert!(futures_util::poll!(&mut waits).is_pending());
        assert!([&first, &second, &fourth].iter().all(|seat| !seat.leave.is_cancelled()));
        drop((answering, both));
        drop(second);
        waits.await;
    }
}
