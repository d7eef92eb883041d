//! Turns for threads that work: a thread gives its turn back while it waits for others.

use parking_lot::{Condvar, Mutex};

/// A number of turns.
pub(super) struct Work {
    free: Mutex<usize>,
    back: Condvar,
}

/// A turn, until dropped.
pub(super) struct WorkTurn<'a>(&'a Work);

impl Work {
    pub(super) const fn new(turns: usize) -> Self {
        Self { free: Mutex::new(turns), back: Condvar::new() }
    }

    /// Waits for a turn. This never takes long: a thread holds a turn only while it works.
    pub(super) fn turn(&self) -> WorkTurn<'_> {
        self.take();
        WorkTurn(self)
    }

    fn take(&self) {
        let mut free = self.free.lock();
        self.back.wait_while(&mut free, |free| *free == 0);
        *free -= 1;
    }

    fn give_back(&self) {
        *self.free.lock() += 1;
        self.back.notify_one();
    }
}

impl WorkTurn<'_> {
    /// Waits with `wait`, during which another thread may have the turn.
    pub(super) fn while_others_work<T>(&self, wait: impl FnOnce() -> T) -> T {
        /// Takes the turn again, also if `wait` panics, since the turn is given back once more afterwards.
        struct Again<'a>(&'a Work);
        impl Drop for Again<'_> {
            fn drop(&mut self) {
                self.0.take();
            }
        }
        self.0.give_back();
        let _again = Again(self.0);
        wait()
    }
}

impl Drop for WorkTurn<'_> {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn who_waits_keeps_nobody_from_working() {
        let work = Work::new(1);
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            let turn = work.turn();
            let waiting = || {
                scope.spawn(|| {
                    let _turn = work.turn();
                    tell.send("worked").unwrap();
                });
                assert_eq!(told.recv(), Ok("worked"));
                "waited"
            };
            assert_eq!(turn.while_others_work(waiting), "waited");
            assert_eq!(*work.free.lock(), 0, "it has its turn again");
            drop(turn);
            assert_eq!(*work.free.lock(), 1);
        });
    }
}
