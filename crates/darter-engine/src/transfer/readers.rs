//! The readers of the origin for this transfer: their state, and what they have in hand between two runs.
//!
//! The session says what is read ([`Output::Read`](darter_swarm::Output::Read)), a run at a time. Leftovers of a run are kept for the next one of the
//! same reader: bytes of a piece that is not whole yet, how often it failed, an answer that is open. They are thrown away when there is nothing more
//! for that reader to do.
//!
//! Connections beside the first one keep nothing, and are not here.

use darter_core::Moment;
use darter_origin::Reading;
use darter_swarm::{OriginReader, Session};

use super::body::Leftover;

/// A reader that keeps something between two runs.
#[derive(Default)]
enum RunReader {
    /// It has not begun, or is done.
    #[default]
    Idle,
    /// It waits for something to read, with this in hand.
    Waits(Box<Leftover>),
    /// A task reads a run.
    Reads,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Readers {
    everything: RunReader,
    errands: RunReader,
}

impl Readers {
    fn of(&mut self, reader: OriginReader) -> &mut RunReader {
        if reader == OriginReader::Errands { &mut self.errands } else { &mut self.everything }
    }

    /// A reader begins a run, with this in hand.
    pub(super) fn begins(&mut self, reader: OriginReader, now: Moment) -> Box<Leftover> {
        match std::mem::replace(self.of(reader), RunReader::Reads) {
            RunReader::Waits(left) => left,
            RunReader::Idle | RunReader::Reads => Box::new(Leftover::new(reader, now)),
        }
    }

    /// A run has ended, and left this, if the reader goes on.
    pub(super) fn ended(&mut self, reader: OriginReader, left: Option<Box<Leftover>>) {
        *self.of(reader) = left.map_or(RunReader::Idle, RunReader::Waits);
    }

    /// An answer of the origin from its first byte on was opened. It is of no use if the reader of everything reads another one.
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

    /// Throws away what is kept for those that have nothing more to do. When the ones that read with it began.
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

    /// Throws away what is kept for any.
    pub(super) fn close(&mut self) {
        for kept in [&mut self.everything, &mut self.errands] {
            if matches!(kept, RunReader::Waits(_)) {
                *kept = RunReader::Idle;
            }
        }
    }
}
