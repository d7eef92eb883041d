//! A trace of a session's inputs and outputs, so that they can be run again.
//!
//! A session that records ([`Session::record`]) keeps its first [`MAX_RECORDED`] calls: the input, what the store and the connections answered
//! meanwhile ([`Facts`]), and the outputs. Any other session that is told the same from the start does the same, in an agent, in the
//! simulator or in a test ([`SessionTrace::diverges`]).
//!
//! The calls are all that changes a session: inputs, polls, looks, and the questions of readers of the origin and of senders of pieces.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use darter_core::{BlobId, Moment, NodeId, PieceHash, PieceIndex, PieceLength, PieceSet, Place, Tier, Version};

use super::{AtPiece, Choice, Input, Output, ReadsOn, Seen, Session};
use crate::{Facts, SessionStart, Standing};

/// Calls that are kept, at most.
pub const MAX_RECORDED: usize = 4096;

/// A session's calls from the start.
#[derive(Clone, Debug)]
pub struct SessionTrace {
    start: SessionStart,
    steps: Vec<Recorded>,
}

/// One call.
#[derive(Clone, Debug)]
struct Recorded {
    at: Moment,
    call: Call,
    facts: VecDeque<Fact>,
    did: Did,
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "most are inputs")]
enum Call {
    Handle(Input),
    Poll,
    PollOrigin,
    Look(Seen),
    ReadsOn(AtPiece),
    Choose(NodeId),
    ChooseCopy(NodeId, bool),
    MayGive,
}

#[derive(Clone, Debug, PartialEq)]
enum Did {
    Follows(bool),
    Outputs(Vec<Output>),
    ReadsOn(ReadsOn),
    Chose(Choice),
    MayGive(bool),
    Nothing,
}

macro_rules! facts {
    ($($name:ident($($argument:ident: $of:ty)?) -> $answer:ty, $variant:ident, or $none:expr;)*) => {
        /// An answer of the store or the connections.
        #[derive(Clone, Debug)]
        enum Fact {
            List(Vec<PieceHash>),
            $($variant($answer)),*
        }

        impl Facts for Witness<'_> {
            $(fn $name(&self $(, $argument: $of)?) -> $answer {
                let answer = self.facts.$name($($argument)?);
                self.keep(Fact::$variant(answer.clone()));
                answer
            })*

            fn hashes_from(&self, from: u32, most: usize) -> Vec<PieceHash> {
                let answer = self.facts.hashes_from(from, most);
                self.keep(Fact::List(answer.clone()));
                answer
            }
        }

        impl Facts for Replay {
            $(fn $name(&self $(, _: $of)?) -> $answer {
                match self.next() {
                    Some(Fact::$variant(answer)) => answer,
                    _ => {
                        self.diverged.set(true);
                        $none
                    }
                }
            })*

            fn hashes_from(&self, _: u32, _: usize) -> Vec<PieceHash> {
                match self.next() {
                    Some(Fact::List(answer)) => answer,
                    _ => {
                        self.diverged.set(true);
                        Vec::new()
                    }
                }
            }
        }
    };
}

facts! {
    blob() -> BlobId, Blob, or BlobId([0; 32]);
    version() -> Version, Version, or Version::default();
    piece_length() -> PieceLength, PieceLength, or PieceLength::UNKNOWN_BLOB;
    length() -> Option<u64>, Length, or None;
    pieces() -> Option<u32>, Pieces, or None;
    prefix() -> u32, Prefix, or 0;
    known_count() -> u32, KnownCount, or 0;
    known() -> PieceSet, Known, or PieceSet::new();
    knows(piece: PieceIndex) -> bool, Knows, or false;
    address(node: NodeId) -> String, Address, or String::new();
    place(node: NodeId) -> Option<Place>, Place, or None;
    tier(node: NodeId) -> Tier, Tier, or Tier::Far;
    is_connected(node: NodeId) -> bool, IsConnected, or false;
    is_seed(node: NodeId) -> bool, IsSeed, or false;
    seeds() -> Vec<NodeId>, Seeds, or Vec::new();
    gives_parts(node: NodeId) -> bool, GivesParts, or false;
    fetched() -> u32, Fetched, or 1;
    standing(node: NodeId) -> Standing, Standing, or Standing::default();
    is_on_trust() -> bool, IsOnTrust, or false;
    may_change() -> bool, MayChange, or false;
    is_headed_last() -> bool, IsHeadedLast, or false;
    is_read_alone() -> bool, IsReadAlone, or false;
    may_read_beside(number: u8) -> bool, MayReadBeside, or false;
}

/// Facts whose answers are recorded.
struct Witness<'a> {
    facts: &'a dyn Facts,
    heard: RefCell<VecDeque<Fact>>,
}

impl Witness<'_> {
    fn keep(&self, fact: Fact) {
        self.heard.borrow_mut().push_back(fact);
    }
}

/// Facts that give recorded answers.
struct Replay {
    facts: RefCell<VecDeque<Fact>>,
    /// True if another question was asked than the recorded one.
    diverged: Cell<bool>,
}

impl Replay {
    fn next(&self) -> Option<Fact> {
        self.facts.borrow_mut().pop_front()
    }
}

impl SessionTrace {
    /// The session's inputs.
    pub fn inputs(&self) -> impl Iterator<Item = &Input> {
        self.steps.iter().filter_map(|step| if let Call::Handle(input) = &step.call { Some(input) } else { None })
    }

    /// The session's outputs.
    pub fn outputs(&self) -> impl Iterator<Item = &Output> {
        let outputs =
            self.steps.iter().map(|step| if let Did::Outputs(outputs) = &step.did { &outputs[..] } else { &[] });
        outputs.flatten()
    }

    /// The session's answers to senders with a free slot.
    pub fn choices(&self) -> impl Iterator<Item = Choice> {
        self.steps.iter().filter_map(|step| if let Did::Chose(choice) = step.did { Some(choice) } else { None })
    }

    /// The session's answers to readers of the origin that came to a piece.
    pub fn reads_on(&self) -> impl Iterator<Item = ReadsOn> {
        self.steps.iter().filter_map(|step| if let Did::ReadsOn(on) = step.did { Some(on) } else { None })
    }

    #[cfg(test)]
    pub(super) fn begins_as(&mut self, start: SessionStart) {
        self.start = start;
    }

    /// Runs all calls on another session in the same place. Returns the number of the first call for which that session does something else, if any.
    pub fn diverges(&self) -> Option<usize> {
        let mut session = Session::begin(self.start.clone());
        self.steps.iter().position(|step| !step.is_done_again(&mut session))
    }
}

impl Recorded {
    fn is_done_again(&self, session: &mut Session) -> bool {
        let told = Replay { facts: RefCell::new(self.facts.clone()), diverged: Cell::new(false) };
        let did = self.call.clone().done(session, &told, self.at);
        did == self.did && !told.diverged.get() && told.facts.borrow().is_empty()
    }
}

impl Call {
    fn done(self, session: &mut Session, facts: &dyn Facts, now: Moment) -> Did {
        match self {
            Self::Handle(input) => Did::Follows(session.take_in(input, facts, now)),
            Self::Poll => {
                let mut outputs = Vec::new();
                session.put_out(facts, now, &mut outputs);
                Did::Outputs(outputs)
            }
            Self::PollOrigin => {
                let mut outputs = Vec::new();
                session.read_next(facts, now, &mut outputs);
                Did::Outputs(outputs)
            }
            Self::Look(seen) => {
                session.look_around(seen, facts, now);
                Did::Nothing
            }
            Self::ReadsOn(at) => Did::ReadsOn(session.comes_to(at, facts, now)),
            Self::Choose(node) => Did::Chose(session.fresh_for(node, now)),
            Self::ChooseCopy(node, may) => Did::Chose(session.copy_for(node, may, now)),
            Self::MayGive => Did::MayGive(session.has_any(now)),
        }
    }
}

impl Session {
    /// Records all calls from now on. The session has just begun with `start`.
    pub fn record(&mut self, start: SessionStart) {
        self.record_decisions();
        self.trace = Some(Box::new(SessionTrace { start, steps: Vec::new() }));
    }

    /// Records the decisions on who leads from now on ([`Leadership::record`](crate::Leadership::record)).
    pub fn record_decisions(&mut self) {
        self.leadership.record();
    }

    /// The trace, if one is recorded.
    pub fn trace(&self) -> Option<&SessionTrace> {
        self.trace.as_deref()
    }

    fn records(&self) -> bool {
        self.trace.as_ref().is_some_and(|trace| trace.steps.len() < MAX_RECORDED)
    }

    fn keep(&mut self, at: Moment, call: Call, witness: Witness<'_>, did: Did) {
        if let Some(trace) = &mut self.trace {
            trace.steps.push(Recorded { at, call, facts: witness.heard.into_inner(), did });
        }
    }

    /// Handles an input. Returns true if anything follows from it now: [`Session::poll`] and [`Session::poll_origin`] say what.
    pub fn handle(&mut self, input: Input, facts: &dyn Facts, now: Moment) -> bool {
        let follows = if self.records() {
            let witness = Witness { facts, heard: RefCell::default() };
            let follows = self.take_in(input.clone(), &witness, now);
            self.keep(now, Call::Handle(input), witness, Did::Follows(follows));
            follows
        } else {
            self.take_in(input, facts, now)
        };
        self.is_due |= follows;
        follows
    }

    /// The outputs that are due now. The driver carries them out in this order, so that a peer is told of a neighbour's
    /// pieces when it knows the neighbour, and a member of hashes in the order of the pieces.
    pub fn poll(&mut self, facts: &dyn Facts, now: Moment, outputs: &mut Vec<Output>) {
        self.is_due = false;
        if !self.records() {
            return self.put_out(facts, now, outputs);
        }
        let (witness, before) = (Witness { facts, heard: RefCell::default() }, outputs.len());
        self.put_out(&witness, now, outputs);
        self.keep(now, Call::Poll, witness, Did::Outputs(outputs[before..].to_vec()));
    }

    /// The outputs for readers of the origin that are not at work.
    pub fn poll_origin(&mut self, facts: &dyn Facts, now: Moment, outputs: &mut Vec<Output>) {
        if !self.records() {
            return self.read_next(facts, now, outputs);
        }
        let (witness, before) = (Witness { facts, heard: RefCell::default() }, outputs.len());
        self.read_next(&witness, now, outputs);
        self.keep(now, Call::PollOrigin, witness, Did::Outputs(outputs[before..].to_vec()));
    }

    /// True if the session is to be polled before its time ([`Session::next_wakeup`]): something has happened that has
    /// consequences.
    pub const fn is_due(&self) -> bool {
        self.is_due
    }

    /// Looks for what is due although no input says so.
    pub fn look(&mut self, seen: Seen, facts: &dyn Facts, now: Moment) {
        if !self.records() {
            return self.look_around(seen, facts, now);
        }
        let witness = Witness { facts, heard: RefCell::default() };
        self.look_around(seen, &witness, now);
        self.keep(now, Call::Look(seen), witness, Did::Nothing);
    }

    /// A reader with an open answer comes to a piece. Returns whether it goes on; to be asked before each piece of an answer.
    pub fn reads_on(&mut self, at: AtPiece, facts: &dyn Facts, now: Moment) -> ReadsOn {
        if !self.records() {
            return self.comes_to(at, facts, now);
        }
        let witness = Witness { facts, heard: RefCell::default() };
        let reads_on = self.comes_to(at, &witness, now);
        self.keep(now, Call::ReadsOn(at), witness, Did::ReadsOn(reads_on));
        reads_on
    }

    /// There is room to send a piece to a node that asked for any. Returns the piece that it should get now, of those that nobody has
    /// yet.
    pub fn choose(&mut self, node: NodeId, now: Moment) -> Choice {
        let choice = self.fresh_for(node, now);
        self.note(now, Call::Choose(node), Did::Chose(choice));
        choice
    }

    /// The piece that a node should get after [`Choice::MayCopy`], of those that others have; none if it `may` not get one because of
    /// another blob.
    pub fn choose_copy(&mut self, node: NodeId, may: bool, now: Moment) -> Choice {
        let choice = self.copy_for(node, may, now);
        self.note(now, Call::ChooseCopy(node, may), Did::Chose(choice));
        choice
    }

    /// True if an ask for any piece may be answered now; while it is false, asks that stand need not be tried. When time alone may change
    /// it, [`Session::next_wakeup`] says so.
    pub fn may_give(&mut self, now: Moment) -> bool {
        let may = self.has_any(now);
        self.note(now, Call::MayGive, Did::MayGive(may));
        may
    }

    /// Records a call that asks for no facts.
    fn note(&mut self, at: Moment, call: Call, did: Did) {
        if self.records()
            && let Some(trace) = &mut self.trace
        {
            trace.steps.push(Recorded { at, call, facts: VecDeque::new(), did });
        }
    }
}
