//! The readers of the origin for this transfer: their state, and what each keeps between two runs.
//!
//! The session says what is read ([`Output::Read`](darter_swarm::Output::Read)), a run at a time. What a run leaves is kept for the next run of the
//! same reader: bytes of an unfinished piece, how often the reader failed, an open answer. It is thrown away when the reader has nothing
//! more to do.
//!
//! Further connections keep nothing, and are not here.

use darter_core::Moment;
use darter_origin::Reading;
use darter_swarm::{OriginReader, Session};

use super::body::Leftover;

/// A reader that may keep something between two runs.
#[derive(Default)]
enum RunReader {
    /// It has not begun, or is done.
    #[default]
    Idle,
    /// It waits for the next run, and keeps this.
    Waits(Box<Leftover>),
    /// A task is reading a run.
    Reads,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Readers {
    everything: RunReader,
    errands: RunReader,
}

impl Readers {
    fn of(&mut self, reader: OriginReader) -> &mut RunReader {
        if reader == OriginReader::Errands { &mut self.errands } else { &mut self.everything }
    }

    /// A reader begins a run. Returns what it kept.
    pub(super) fn begins(&mut self, reader: OriginReader, now: Moment) -> Box<Leftover> {
        match std::mem::replace(self.of(reader), RunReader::Reads) {
            RunReader::Waits(left) => left,
            RunReader::Idle | RunReader::Reads => Box::new(Leftover::new(reader, now)),
        }
    }

    /// A run has ended; `left` is kept if the reader goes on.
    pub(super) fn ended(&mut self, reader: OriginReader, left: Option<Box<Leftover>>) {
        *self.of(reader) = left.map_or(RunReader::Idle, RunReader::Waits);
    }

    /// Keeps an open answer of the origin that begins with the first byte. It is dropped if the reader of everything has another one.
    pub(super) fn opened(&mut self, answer: Reading, now: Moment) {
        let reader = self.of(OriginReader::Everything);
        match reader {
            RunReader::Idle => {
                let mut left = Box::new(Leftover::new(OriginReader::Everything, now));
                left.answer = Some(answer);
                *reader = RunReader::Waits(left);
            }
            RunReader::Waits(left) => left.answer = Some(answer),
            RunReader::Reads => {}
        }
    }

    /// Drops what is kept for readers that have nothing more to do. Returns when the readers that used the link began.
    pub(super) fn clear(&mut self, session: &Session) -> Vec<Moment> {
        let mut began = Vec::new();
        for reader in [OriginReader::Everything, OriginReader::Errands] {
            let kept = self.of(reader);
            if let RunReader::Waits(left) = kept
                && !session.reads(reader)
            {
                began.extend(left.began);
                *kept = RunReader::Idle;
            }
        }
        began
    }

    /// Drops what is kept for all readers.
    pub(super) fn close(&mut self) {
        for kept in [&mut self.everything, &mut self.errands] {
            if matches!(kept, RunReader::Waits(_)) {
                *kept = RunReader::Idle;
            }
        }
    }
}
