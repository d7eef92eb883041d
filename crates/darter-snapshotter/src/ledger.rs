//! The state of the snapshotter, in memory and in the book, which this module owns.
//!
//! A change holds the book's lock from its decision until it is made in memory. The state itself is locked only for moments, never during disk
//! access: threads that must not block answer questions from it.
//!
//! Invariants: of the two locks, the book's is taken first. What is in the book changes in memory only by [`Ledger::write`].

use std::collections::HashSet;

use parking_lot::{Mutex, MutexGuard};

use crate::book::{Book, BookError, MountChange};
use crate::stack::Stack;
use crate::tree::{Change, Tree};

/// The snapshots, and the layers that are mounted.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) tree: Tree,
    pub(crate) stack: Stack,
    /// The numbers of directories that are being created.
    pub(crate) making: HashSet<u64>,
}

/// One write to the book: as a whole or not at all.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub(crate) change: Change,
    pub(crate) mounts: Vec<MountChange>,
}

impl From<Change> for Entry {
    fn from(change: Change) -> Self {
        Self { change, mounts: Vec::new() }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Ledger {
    book: Mutex<Book>,
    state: Mutex<State>,
}

impl Ledger {
    pub(crate) fn new(book: Book, state: State) -> Self {
        Self { book: Mutex::new(book), state: Mutex::new(state) }
    }

    /// The current state. Its holder must not wait for anything.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Writes what was decided, if anything; then changes the snapshots, and `then` changes the mounts. Blocking.
    pub(crate) fn write<D, T, E: From<BookError>>(
        &self,
        decide: impl FnOnce(&mut State) -> Result<(Option<Entry>, D), E>,
        then: impl FnOnce(&mut State, D) -> T,
    ) -> Result<T, E> {
        self.write_by(decide, then, |book, entry, next| book.write(&entry.change, &entry.mounts, next))
    }

    fn write_by<D, T, E: From<BookError>>(
        &self,
        decide: impl FnOnce(&mut State) -> Result<(Option<Entry>, D), E>,
        then: impl FnOnce(&mut State, D) -> T,
        write: impl FnOnce(&Book, &Entry, u64) -> Result<(), BookError>,
    ) -> Result<T, E> {
        let book = self.book.lock();
        let (entry, decided, next) = {
            let mut state = self.state.lock();
            let (entry, decided) = decide(&mut state)?;
            (entry, decided, state.tree.next())
        };
        if let Some(entry) = &entry {
            write(&book, entry, next)?;
        }
        let mut state = self.state.lock();
        if let Some(entry) = entry {
            state.tree.apply(&entry.change);
        }
        Ok(then(&mut state, decided))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_answered_while_the_disk_is_waited_for() {
        let room = tempfile::tempdir().unwrap();
        let (book, _) = Book::open(&room.path().join("book"), &[]).unwrap();
        let ledger = Ledger::new(book, State::default());
        let mut is_free = false;
        let written = ledger.write_by(
            |state| Ok::<_, BookError>((Some(Entry::default()), state.tree.number())),
            |state, number| state.tree.next() - number,
            |book, entry, next| {
                assert!(ledger.book.try_lock().is_none(), "nobody else decides meanwhile");
                is_free = ledger.state.try_lock().is_some();
                book.write(&entry.change, &entry.mounts, next)
            },
        );
        assert_eq!(written.unwrap(), 1);
        assert!(is_free, "the state is locked while the book is written");
    }
}
