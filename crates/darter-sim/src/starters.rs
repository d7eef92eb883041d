//! Nodes that start something out of the blob: a program reads pieces here and there, one after the other, and waits for each. As lazily
//! mounted layers are read: of the rest nothing is wanted. With a list (a first-touch profile) all of them are foreseen from the start.

use std::time::Duration;

use darter_core::PieceIndex;
use darter_swarm::{Foresight, Input, ReaderId, Wish};

use crate::fleet::Fleet;
use crate::scenario::Starts;

/// How long what is waited for may take, as agents say.
const WITHIN: Duration = Duration::from_secs(60);

/// The program's reader; what is foreseen is named by the places of the list behind it.
const PROGRAM: ReaderId = ReaderId(0);

/// The pieces that a node's program reads, and how far it is.
#[derive(Debug)]
pub(crate) struct Program {
    starts: Starts,
    /// How many of the pieces it has read.
    read: usize,
}

impl Program {
    pub(crate) const fn new(starts: Starts) -> Self {
        Self { starts, read: 0 }
    }

    /// True if it has read everything that it reads.
    pub(crate) const fn is_through(&self) -> bool {
        self.read >= self.starts.touched.len()
    }
}

impl Fleet {
    /// A node's program begins, or goes on when its node follows another lead.
    pub(crate) fn starts(&mut self, index: u32) {
        let Some(program) = &self.nodes[index as usize].program else { return };
        if program.is_through() {
            return;
        }
        if program.starts.is_listed {
            let held = self.nodes[index as usize].session.picker().held();
            let lacking = (1..).zip(&program.starts.touched).filter(|(_, piece)| !held.contains(PieceIndex(**piece)));
            for (reader, piece) in lacking.map(|(place, piece)| (ReaderId(place), *piece)).collect::<Vec<_>>() {
                self.wants(index, reader, piece, Some(Foresight::Profile));
            }
        }
        self.read_on_by(index);
    }

    /// The program goes on as far as its pieces are here, and waits for the next one.
    pub(crate) fn read_on_by(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        let Some(program) = &mut node.program else { return };
        let before = program.read;
        let held = node.session.picker().held();
        while program.starts.touched.get(program.read).is_some_and(|piece| held.contains(PieceIndex(*piece))) {
            program.read += 1;
        }
        let (after, next) = (program.read, program.starts.touched.get(program.read).copied());
        for done in before..after {
            self.wants_no_more(index, ReaderId(done as u64 + 1));
        }
        match next {
            Some(piece) => self.wants(index, PROGRAM, piece, None),
            None => self.wants_no_more(index, PROGRAM),
        }
    }

    fn wants(&mut self, index: u32, reader: ReaderId, piece: u32, foreseen: Option<Foresight>) {
        let (first, count, patience) = (piece, 1, Duration::ZERO);
        let piece = PieceIndex(piece);
        self.tell(
            index,
            match foreseen {
                None => Input::ReaderAt { reader, piece, count, patience },
                Some(by) => Input::Foreseen { reader, piece, count, by },
            },
        );
        let wish = Some(Wish { first, end: first + 1, within: WITHIN });
        self.tell(index, Input::Wish { reader, wish });
    }

    fn wants_no_more(&mut self, index: u32, reader: ReaderId) {
        self.tell(index, Input::ReaderGone(reader));
        self.tell(index, Input::Wish { reader, wish: None });
    }
}
