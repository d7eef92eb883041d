//! Small files that a request would wait for: cached manifests, where they came from, what repositories have, names of images.
//!
//! All of that can be had anew, so a disk that hangs costs it and nothing else: whoever waits does so for [`DISK_TIMEOUT`], once,
//! and nobody begins more work while some is overdue. Work that was begun goes on by itself.
//!
//! Invariant: at most [`MAX_RUNNING`] threads of one owner wait for the disk, however many requests come and go.
//! Non-goals: blobs, which pass through without being stored while the disk hangs (`transfer/passing.rs` in `darter-engine`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use darter_store::threads;
use tokio::sync::Semaphore;
use tokio::time::sleep;

/// How long a request waits for one step of such work. There are up to four in one request.
const DISK_TIMEOUT: Duration = Duration::from_millis(1500);

/// Steps that run at a time; others wait for their turn.
const MAX_RUNNING: usize = 32;

/// One owner's work on its small files.
#[derive(Debug)]
pub(crate) struct SmallFiles {
    turns: Arc<Semaphore>,
    /// Steps that took longer than anybody waits, and have not ended.
    overdue: Arc<AtomicUsize>,
}

impl Default for SmallFiles {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(MAX_RUNNING)), overdue: Arc::default() }
    }
}

impl SmallFiles {
    /// Does `work` on a thread that may block, whether or not the caller stays to hear of it. `None` if that takes too long, and at
    /// once while earlier work does.
    pub(crate) async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if self.overdue.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let mut too_long = pin!(sleep(DISK_TIMEOUT));
        let turn = tokio::select! {
            turn = Arc::clone(&self.turns).acquire_owned() => turn.ok()?,
            () = &mut too_long => return None,
        };
        let mut task = threads::run(move || {
            let _turn = turn;
            // If it panics, what it was for is as good as not there.
            catch_unwind(AssertUnwindSafe(work)).ok()
        });
        tokio::select! {
            biased;
            done = &mut task => done,
            () = too_long => {
                tracing::warn!("the disk hangs: going on without cached manifests and tags");
                let overdue = Arc::clone(&self.overdue);
                overdue.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    task.await;
                    overdue.fetch_sub(1, Ordering::Relaxed);
                });
                None
            }
        }
    }
}

/// Does a test's work on the disk, which no thread of its runtime may do.
#[cfg(test)]
pub(crate) fn elsewhere<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn work_that_hangs_is_waited_for_once_and_nothing_is_begun_beside_it() {
        let (files, (go, held)) = (SmallFiles::default(), mpsc::channel::<()>());
        assert_eq!(files.work(|| 1).await, Some(1));
        assert_eq!(files.work(move || held.recv().ok()).await, None, "it takes too long");
        for _ in 0..3 {
            let begun = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&begun);
            assert_eq!(files.work(move || count.fetch_add(1, Ordering::Relaxed)).await, None);
            assert_eq!(begun.load(Ordering::Relaxed), 0);
        }
        go.send(()).unwrap();
        while files.work(|| 2).await != Some(2) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn callers_that_leave_do_not_pile_up_threads() {
        let (go, held) = mpsc::channel::<()>();
        let (files, held) = (SmallFiles::default(), Arc::new(parking_lot::Mutex::new(held)));
        for _ in 0..200 {
            let held = Arc::clone(&held);
            // The work begins, and its caller leaves at once.
            let leaves = files.work(move || held.lock().recv().is_ok());
            let _ = tokio::time::timeout(Duration::ZERO, leaves).await;
        }
        assert_eq!(files.turns.available_permits(), 0);
        drop(go);
        while files.work(|| ()).await.is_none() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn more_than_run_at_a_time_have_their_turn() {
        let files = SmallFiles::default();
        let all = (0..10 * MAX_RUNNING).map(|number| files.work(move || number));
        let done = futures_util::future::join_all(all).await;
        assert!(done.into_iter().eq((0..10 * MAX_RUNNING).map(Some)));
    }

    #[tokio::test]
    async fn work_that_panics_is_no_answer_and_holds_up_nobody() {
        let files = SmallFiles::default();
        assert_eq!(files.work(|| panic!("as it may")).await, None::<()>);
        assert_eq!(files.work(|| 3).await, Some(3));
    }
}
