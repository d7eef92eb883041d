//! Turns at reading origins, so that pieces become whole one after the other.
//!
//! A part of a piece can't be passed on. Sixty-four blobs read side by side share what the origin gives, and the first piece of each
//! is whole when all are: the seed's uplink idles for so long. So an agent puts few pieces together at a time, each blob in its
//! turn. Who has to wait for the origin gives the turn up meanwhile: an origin that stalls holds up no other.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Pieces that are put together at a time: several connections, should the origin limit each.
const AT_A_TIME: usize = 8;

/// For how long a turn is kept though nothing comes.
const PATIENCE: Duration = Duration::from_millis(50);

/// The turns of one agent, given in the order in which they are asked for.
#[derive(Debug)]
pub(crate) struct Turns(Semaphore);

/// One reader's turn, taken when it reads and held until it ends it.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    held: Option<SemaphorePermit<'a>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(AT_A_TIME))
    }
}

impl Turns {
    /// A reader that has no turn yet.
    pub(crate) const fn reader(&self) -> Turn<'_> {
        Turn { turns: self, held: None }
    }

    async fn take(&self) -> SemaphorePermit<'_> {
        self.0.acquire().await.expect("never closed")
    }
}

impl Turn<'_> {
    /// Waits for this reader's turn, unless it has it, and then for what comes next of a body.
    pub(crate) async fn next<B: Stream + Unpin>(&mut self, body: &mut B) -> Option<B::Item> {
        if self.held.is_none() {
            self.held = Some(self.turns.take().await);
        }
        if let Ok(next) = tokio::time::timeout(PATIENCE, body.next()).await {
            return next;
        }
        self.held = None;
        let next = body.next().await;
        self.held = Some(self.turns.take().await);
        next
    }

    /// Lets the next reader read.
    pub(crate) fn end(&mut self) {
        self.held = None;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_waits_for_its_turn() {
        let turns = Turns::default();
        let mut reading: Vec<_> = (0..AT_A_TIME).map(|_| turns.reader()).collect();
        for turn in &mut reading {
            assert_eq!(turn.next(&mut stream::iter([1])).await, Some(1));
        }
        let mut late = turns.reader();
        let mut body = stream::iter([2]);
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, late.next(&mut body)).await.is_err(), "all turns are taken");
        reading[3].end();
        assert_eq!(tokio::time::timeout(hour, late.next(&mut body)).await, Ok(Some(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn origins_that_stall_hold_up_no_other() {
        let turns = Turns::default();
        let stalled = (0..AT_A_TIME).map(|_| async {
            let mut turn = turns.reader();
            let _ = turn.next(&mut stream::pending::<u32>()).await;
        });
        let stalled = futures_util::future::join_all(stalled);
        let quick = async { turns.reader().next(&mut stream::iter([3])).await };
        tokio::select! {
            _ = stalled => panic!("they never end"),
            chunk = quick => assert_eq!(chunk, Some(3)),
        }
    }
}
