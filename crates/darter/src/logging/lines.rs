//! A queue of lines in front of a writer that may block: standard error is a pipe to journald, a container's runtime or a file, and each
//! of these blocks when its disk does. A thread of its own writes, and callers wait for it only while it keeps up.
//!
//! Invariants: lines keep their order; the queue is bounded; lost lines are counted and reported.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// How long one write may take before callers no longer wait.
const WRITE_TIMEOUT: Duration = Duration::from_millis(250);

/// Most bytes in the queue.
const MAX_WAITING: usize = 1 << 20;

thread_local! {
    /// True on the writing thread, which must not wait for its own lines.
    static WRITES: Cell<bool> = const { Cell::new(false) };
}

/// A queue of lines in front of a slow writer. Cheap to clone.
#[derive(Clone)]
pub(super) struct Lines(Arc<LineQueue>);

struct LineQueue {
    state: Mutex<QueuedLines>,
    /// Notified at each change of the state.
    changed: Condvar,
}

#[derive(Default)]
struct QueuedLines {
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    /// How many lines were given; `written` counts those that were written.
    given: u64,
    written: u64,
    /// Lines that found no space in the queue.
    lost: u64,
    /// True if a write took too long and lines are still waiting.
    behind: bool,
}

impl Lines {
    /// Starts the thread that writes to `place`. It calls `tell_lost` with the number of lost lines; `tell_lost` may log.
    pub(super) fn start(
        place: impl Write + Send + 'static,
        tell_lost: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(LineQueue { state: Mutex::default(), changed: Condvar::new() });
        let writer = Arc::clone(&shared);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_all(place, tell_lost))?;
        Ok(Self(shared))
    }

    /// Waits until everything is written, for at most `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let state = self.0.state();
        let waits = self.0.changed.wait_timeout_while(state, patience, |state| state.written < state.given);
        drop(waits);
    }

    fn give(&self, line: &[u8]) {
        let mut state = self.0.state();
        if state.waiting_bytes + line.len() > MAX_WAITING {
            state.lost += 1;
            return;
        }
        state.waiting_bytes += line.len();
        state.waiting.push_back(line.to_vec());
        state.given += 1;
        let this = state.given;
        self.0.changed.notify_all();
        let waits = |state: &mut QueuedLines| state.written < this && !state.behind && !WRITES.get();
        let waited = self.0.changed.wait_timeout_while(state, WRITE_TIMEOUT, waits);
        let (mut state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        state.behind |= timeout.timed_out();
    }
}

impl LineQueue {
    fn state(&self) -> MutexGuard<'_, QueuedLines> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut place: impl Write, tell_lost: impl Fn(u64)) {
        WRITES.set(true);
        loop {
            let waits = self.changed.wait_while(self.state(), |state| state.waiting.is_empty());
            let mut state = waits.unwrap_or_else(PoisonError::into_inner);
            let Some(line) = state.waiting.pop_front() else { continue };
            drop(state);
            // There is no other place to report the failure to.
            let _ = place.write_all(&line);
            let mut state = self.state();
            state.written += 1;
            state.waiting_bytes -= line.len();
            if state.waiting.is_empty() {
                state.behind = false;
                let lost = std::mem::take(&mut state.lost);
                if lost > 0 {
                    drop(state);
                    tell_lost(lost);
                }
            }
            self.changed.notify_all();
        }
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.give(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_line_is_written_when_it_was_given() {
        let (mut reader, place) = UnixStream::pair().unwrap();
        let lines = Lines::start(place, |_| ()).unwrap();
        for line in ["one\n", "two\n"] {
            lines.give(line.as_bytes());
            let mut got = [0; 4];
            reader.set_nonblocking(true).unwrap();
            reader.read_exact(&mut got).unwrap();
            assert_eq!(got, line.as_bytes());
        }
    }

    #[test]
    fn a_place_that_takes_no_more_holds_up_nobody_and_what_is_lost_is_counted() {
        let (mut reader, place) = UnixStream::pair().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let lines = Lines::start(place, move |lost| tell.send(lost).unwrap()).unwrap();
        let line = [b"x".repeat(999), b"\n".to_vec()].concat();
        let given = 3000;
        for _ in 0..given {
            lines.give(&line);
        }
        let lost = lines.0.state().lost;
        assert!(lost > 0 && lines.0.state().waiting_bytes <= MAX_WAITING);
        let mut text = vec![0; usize::try_from(given - lost).unwrap() * line.len()];
        reader.read_exact(&mut text).unwrap();
        assert!(text.chunks(line.len()).all(|read| read == line));
        assert_eq!(told.recv().unwrap(), lost);
        // The writer keeps up again.
        lines.give(b"after\n");
        lines.flush(Duration::from_secs(60));
        reader.set_nonblocking(true).unwrap();
        let mut rest = Vec::new();
        let _ = reader.read_to_end(&mut rest);
        assert!(rest.ends_with(b"after\n"));
    }
}
