//! Disk work: [`Disk`], through which asynchronous code uses a store, and a guard that finds code that does not.
//!
//! The store is synchronous: it hashes, reads and writes on the calling thread. The threads of the runtime serve every connection of the process, so they must never wait for a disk. Asynchronous code
//! uses the store through [`Disk`], and small files through [`run`]; both do the work on tokio's blocking threads, and *mark* the thread meanwhile.
//!
//! The guard exists in builds with debug assertions, such as those of tests. Every call that may wait for the disk looks for the mark, and panics with the call's name on a thread of a runtime without the
//! mark. A panic in a task is easily overlooked, so a store that was used in this way refuses everything from then on, and the test fails. Threads that belong to no runtime (the
//! store's own, those of synchronous tests) need no mark.
//!
//! Two kinds of questions may be asked on any thread: those that are answered from memory, and [`StoredBlob::ready_file`], for pieces that are sent from the page cache.
//!
//! Non-goals: the number of threads (tokio decides it), and the order of work (a caller that needs one awaits the first piece of work).

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use darter_core::BlobId;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::Result;
use crate::store::{BlobSummary, SourceRecord, Store, StoredBlob, Usage};

thread_local! {
    /// True while this thread does disk work.
    static MARKED: Cell<bool> = const { Cell::new(false) };
}

/// Does `work` on a thread that may wait for the disk. It begins at once, and is completed even if nobody waits for it.
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> DiskWork<T> {
    DiskWork(tokio::task::spawn_blocking(move || marked(work)))
}

/// Does `work` while this thread is marked.
pub(crate) fn marked<T>(work: impl FnOnce() -> T) -> T {
    struct Mark(bool);
    impl Drop for Mark {
        fn drop(&mut self) {
            MARKED.set(self.0);
        }
    }
    let _mark = Mark(MARKED.replace(true));
    work()
}

/// Disk work, to be awaited. Dropping it does not end the work.
#[derive(Debug)]
#[must_use = "the work goes on, but what becomes of it is not heard of"]
pub struct DiskWork<T>(JoinHandle<T>);

impl<T> DiskWork<T> {
    /// Lets the work go on without waiting for it.
    pub fn detach(self) {}
}

impl<T> Future for DiskWork<T> {
    type Output = T;

    /// # Panics
    /// If the work did.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match Pin::new(&mut self.0).poll(cx) {
            Poll::Ready(Ok(done)) => Poll::Ready(done),
            Poll::Ready(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down, and this task with it.
                Err(_) => Poll::Pending,
            },
            Poll::Pending => Poll::Pending,
        }
    }
}

/// A handle on a store for asynchronous code, which must not wait for a disk. Cheap to clone.
#[derive(Clone)]
pub struct Disk {
    store: Arc<dyn Store>,
    /// How many pieces of work are in progress.
    running: watch::Sender<usize>,
}

/// Counts work that is in progress, until dropped.
struct Running(watch::Sender<usize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

impl Disk {
    /// A handle on `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, running: watch::channel(0).0 }
    }

    /// Does `work`, which may wait for the disk: on an open blob, or on other files.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> DiskWork<T> {
        self.running.send_modify(|running| *running += 1);
        let running = Running(self.running.clone());
        run(move || {
            // Ended only when what the work held of the store was let go.
            let _running = running;
            work()
        })
    }

    /// Does `work` on the store.
    pub fn on_store<T: Send + 'static>(&self, work: impl FnOnce(&dyn Store) -> T + Send + 'static) -> DiskWork<T> {
        let store = Arc::clone(&self.store);
        self.run(move || work(&*store))
    }

    /// Waits until no work is in progress.
    pub async fn settled(&self) {
        // Never closed: this handle has a sender.
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }

    /// How many pieces of work are in progress.
    pub fn running(&self) -> usize {
        *self.running.borrow()
    }

    /// See [`Store::open`].
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn open(&self, blob: BlobId) -> Result<Option<Arc<dyn StoredBlob>>> {
        if self.store.is_absent(blob) {
            return Ok(None);
        }
        self.on_store(move |store| store.open(blob)).await
    }

    /// See [`Store::is_absent`].
    pub fn is_absent(&self, blob: BlobId) -> bool {
        self.store.is_absent(blob)
    }

    /// See [`Store::touch`].
    pub fn touch(&self, blob: BlobId) {
        self.store.touch(blob);
    }

    /// See [`Store::list`].
    pub async fn list(&self) -> Vec<BlobSummary> {
        self.on_store(|store| store.list()).await
    }

    /// See [`Store::usage`].
    pub fn usage(&self) -> Usage {
        self.store.usage()
    }

    /// See [`Store::remember_source`].
    pub fn remember_source(&self, key: BlobId, record: SourceRecord) {
        self.store.remember_source(key, record);
    }

    /// See [`Store::recall_source`].
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn recall_source(&self, key: BlobId) -> Result<Option<SourceRecord>> {
        self.on_store(move |store| store.recall_source(key)).await
    }
}

/// Finds calls that may wait for the disk on threads of the runtime. Without debug assertions it has no size and no effect.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    /// The first call on a wrong thread.
    #[cfg(debug_assertions)]
    wrong: std::sync::OnceLock<&'static str>,
}

impl Guard {
    /// `call` may wait for the disk.
    ///
    /// # Panics
    /// In builds with debug assertions: on a thread of the runtime, and for ever after.
    pub(crate) fn enter(&self, call: &'static str) {
        #[cfg(debug_assertions)]
        {
            if is_of_runtime() {
                let _ = self.wrong.set(call);
            }
            if let Some(call) = self.wrong.get() {
                refuse(call);
            }
        }
        #[cfg(not(debug_assertions))]
        let _ = call;
    }
}

/// `call` may wait for the disk, and belongs to no store.
///
/// # Panics
/// In builds with debug assertions, on a thread of the runtime.
pub fn enter(call: &'static str) {
    if cfg!(debug_assertions) && is_of_runtime() {
        refuse(call);
    }
}

/// True if this is a thread of a runtime that no handle has brought work to.
fn is_of_runtime() -> bool {
    !MARKED.get() && tokio::runtime::Handle::try_current().is_ok()
}

#[cold]
fn refuse(call: &'static str) {
    // A test that unwinds has its reason already.
    assert!(
        std::thread::panicking(),
        "`{call}` may wait for the disk and was called on a thread of the runtime: go by way of `darter_store::Disk`"
    );
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn told(work: impl FnOnce()) -> Option<String> {
        catch_unwind(AssertUnwindSafe(work)).err().map(|panic| *panic.downcast::<String>().unwrap())
    }

    #[tokio::test]
    async fn on_a_thread_of_the_runtime_the_guard_says_what_was_called_and_lets_nothing_pass_from_then_on() {
        let guard = Arc::new(Guard::default());
        let enter = |guard: &Arc<Guard>| {
            let guard = Arc::clone(guard);
            move || guard.enter("put")
        };
        // Brought by the handle.
        run(enter(&guard)).await;
        assert_eq!(std::thread::spawn(enter(&guard)).join().ok(), Some(()), "of no runtime");
        assert!(told(enter(&guard)).unwrap().contains("`put`"));
        let again = Arc::clone(&guard);
        let again = run(move || told(|| again.enter("usage"))).await;
        assert!(again.unwrap().contains("`put`"), "what was called first");
        assert!(told(|| super::enter("names")).unwrap().contains("`names`"));
        let past = tokio::task::spawn_blocking(|| told(|| super::enter("names"))).await.unwrap();
        assert!(past.is_some(), "a blocking thread that no handle brought the work to");
    }

    #[tokio::test]
    async fn a_thread_is_marked_for_as_long_as_the_work_takes_and_not_longer() {
        let panicked = tokio::spawn(run(|| -> () { panic!("as it may") })).await.unwrap_err().into_panic();
        assert_eq!(panicked.downcast_ref::<&str>(), Some(&"as it may"));
        for _ in 0..20 {
            run(|| ()).await;
            assert!(tokio::task::spawn_blocking(|| !MARKED.get()).await.unwrap());
        }
    }

    #[tokio::test]
    async fn work_under_way_is_counted_and_can_be_waited_for() {
        let store = crate::MemStore::new(&crate::StoreConfig::new(Arc::new(|| 0)));
        let disk = Disk::new(Arc::new(store));
        disk.settled().await;
        let (goes_on, waits) = std::sync::mpsc::channel::<()>();
        let work = disk.run(move || waits.recv().unwrap());
        assert_eq!(disk.running(), 1);
        let waiting = disk.clone();
        let settled = tokio::spawn(async move { waiting.settled().await });
        tokio::task::yield_now().await;
        assert!(!settled.is_finished());
        goes_on.send(()).unwrap();
        work.await;
        assert_eq!(disk.running(), 0);
        settled.await.unwrap();
    }
}
