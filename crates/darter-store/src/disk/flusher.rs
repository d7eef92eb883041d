//! The thread of a store: about once a second it saves changes, and evicts blobs if the store is too full.
//!
//! Saving takes time of the disk from the threads that store pieces, so the flusher pauses for four times as long as it worked: on a slow disk a crash costs a few more seconds of fetching, but a download
//! is not slowed by saving.
//!
//! This file and `disk` import each other on purpose: a store owns its flusher, which flushes the keeper of that store's files.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use darter_core::{Clock as _, Moment, SystemClock};
use parking_lot::{Condvar, Mutex};

use crate::disk::Files;
use crate::error::{Result, StoreError};
use crate::keeper::Keeper;

/// How often it is logged that saving fails.
const TELL_REFUSAL_EVERY: Duration = Duration::from_secs(60);

/// Wakes the flusher.
#[derive(Default)]
pub(super) struct Bell {
    call: Mutex<Call>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Call {
    #[default]
    None,
    Evict,
    Stop,
}

impl Bell {
    /// Requests an eviction now.
    pub(super) fn ring(&self) {
        let mut call = self.call.lock();
        if *call == Call::None {
            *call = Call::Evict;
            self.changed.notify_one();
        }
    }

    fn stop(&self) {
        *self.call.lock() = Call::Stop;
        self.changed.notify_one();
    }

    /// Waits for a request, at most for `pause`.
    fn wait(&self, pause: Duration) -> Call {
        let mut call = self.call.lock();
        if *call == Call::None {
            self.changed.wait_for(&mut call, pause);
        }
        let heard = *call;
        if heard == Call::Evict {
            *call = Call::None;
        }
        heard
    }
}

/// The running thread. When dropped, it is stopped and waited for.
pub(super) struct Flusher {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    pub(super) fn start(keeper: &Arc<Keeper<Files>>, bell: Arc<Bell>, every: Duration) -> Result<Self> {
        let weak = Arc::downgrade(keeper);
        let heard = bell.clone();
        let thread = std::thread::Builder::new()
            .name("store-flusher".to_owned())
            .spawn(move || run(&weak, &heard, every))
            .map_err(StoreError::io("start the flusher of", std::path::Path::new("the store")))?;
        Ok(Self { bell, thread: Some(thread) })
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.bell.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's flusher had panicked");
        }
    }
}

/// Decides when it is logged that saving fails: when that begins, once a minute, and when it ends.
#[derive(Default)]
struct Trouble {
    told: Option<Moment>,
}

impl Trouble {
    /// Saving failed. Returns true if that should be logged.
    fn is_news(&mut self, now: Moment) -> bool {
        let news = self.told.is_none_or(|told| now - told >= TELL_REFUSAL_EVERY);
        if news {
            self.told = Some(now);
        }
        news
    }

    /// Saving worked. Returns true if it had failed before.
    fn ends(&mut self) -> bool {
        self.told.take().is_some()
    }
}

fn run(keeper: &Weak<Keeper<Files>>, bell: &Bell, every: Duration) {
    let clock = SystemClock::start();
    let mut pause = every;
    let mut trouble = Trouble::default();
    loop {
        let call = bell.wait(pause);
        let Some(keeper) = keeper.upgrade().filter(|_| call != Call::Stop) else { return };
        let began = clock.now();
        turn(&mut trouble, began, || {
            keeper.tidy();
            keeper.flush()
        });
        pause = every.max((clock.now() - began) * 4);
    }
}

/// Saves once. A panic ends this round only, not the thread, without which nothing would be saved or evicted again.
fn turn(trouble: &mut Trouble, began: Moment, save: impl FnOnce() -> Result<()>) {
    match std::panic::catch_unwind(AssertUnwindSafe(save)) {
        Ok(Ok(())) if trouble.ends() => tracing::info!("everything is saved again"),
        Ok(Ok(())) => {}
        Ok(Err(error)) if trouble.is_news(began) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "could not save everything; trying again until it is saved");
        }
        Err(_) if trouble.is_news(began) => {
            tracing::error!("the store's flusher panicked; it goes on: please report it");
        }
        Ok(Err(_)) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_refuses_is_told_once_a_minute_and_when_it_takes_again() {
        let (mut trouble, began) = (Trouble::default(), SystemClock::start().now());
        assert!(!trouble.ends());
        let told: Vec<u64> = (0..130).filter(|second| trouble.is_news(began + Duration::from_secs(*second))).collect();
        assert_eq!(told, [0, 60, 120]);
        assert!(trouble.ends() && !trouble.ends());
        assert!(trouble.is_news(began));
    }

    #[test]
    fn a_ring_is_heard_once_and_the_end_for_ever() {
        let (bell, soon, late) = (Bell::default(), Duration::from_millis(1), Duration::from_secs(5));
        assert!(bell.wait(soon) == Call::None);
        (0..2).for_each(|_| bell.ring());
        assert!(bell.wait(late) == Call::Evict && bell.wait(soon) == Call::None);
        bell.stop();
        bell.ring();
        assert!(bell.wait(late) == Call::Stop && bell.wait(late) == Call::Stop);
    }

    #[test]
    fn a_panic_ends_a_turn_and_is_trouble_until_one_saves_again() {
        let (mut trouble, began) = (Trouble::default(), SystemClock::start().now());
        turn(&mut trouble, began, || panic!("a fault of ours"));
        assert!(trouble.told.is_some());
        turn(&mut trouble, began, || Ok(()));
        assert!(trouble.told.is_none());
    }
}
