//! A lead that reads an origin, while members come, go, hold pieces, and wait for some or for all of them: what it reads by which reader, and
//! what it sends to whom, is its session's to say. Readers are slow, are broken off, fail, and find out that the origin gives no parts.
//!
//! Nothing is moved: a reader at work gets a part of a piece at each step, a piece that is sent arrives or does not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use darter_core::{Moment, NodeId, PieceIndex, PieceSet, Place, Signer};
use darter_protocol::{Message, Refusal, Wanted, Wish};
use darter_swarm::{
    AtPiece, Came, CheckedBy, Choice, Desk, Entering, Facts as _, Gave, Input, OriginReader, Output, Phase, ReadsOn,
    RequestId, Session, SessionStart, Start, Tuning,
};

use crate::world::view::View;
use crate::world::{BLOB, PIECES, Random, VERDICT};

/// How many pieces the blob has.
const COUNT: u32 = 96;

/// Parts of a piece, one of which a reader gets at each step at most.
const PARTS: u64 = 4;

const STEP: Duration = Duration::from_millis(10);

/// A reader's run.
#[derive(Debug)]
struct Run {
    at: u32,
    end: Option<u32>,
    parts: u64,
    began: Moment,
}

/// A request of the lead, to a member.
struct Asked {
    request: RequestId,
    of: NodeId,
    wanted: Wanted,
    due: Moment,
}

/// The lead and its world.
pub(crate) struct Led {
    session: Session,
    view: View,
    pub(crate) now: Moment,
    random: Random,
    readers: BTreeMap<OriginReader, Run>,
    members: BTreeMap<NodeId, PieceSet>,
    came: u8,
    asked: Vec<Asked>,
    /// How often each piece came of the origin.
    pub(crate) read: Vec<u32>,
    /// How many pieces were sent to members, and came of them.
    pub(crate) sent: u32,
    pub(crate) given: u32,
    pub(crate) most_readers: usize,
    /// The readers that were ever at work.
    pub(crate) worked: BTreeSet<OriginReader>,
    gives_parts: bool,
    pub(crate) is_done: bool,
    /// The acts of the session, a line each.
    pub(crate) told: Vec<String>,
}

impl Led {
    pub(crate) fn new(number: u64) -> Self {
        let mut random = Random(number);
        let me = NodeId([1; 16]);
        let now = Moment::from_micros(1);
        let everything = !random.one_in(3);
        // It may have led before: only whose hashes it knows can it have of members.
        let known = PieceSet::full(if random.one_in(2) { COUNT } else { 0 });
        let view = View { pieces: COUNT, known: known.clone(), reached: Vec::new(), seeds: vec![me] };
        let start = SessionStart {
            me,
            source: BLOB,
            blob: BLOB,
            may_follow: false,
            pieces: PIECES,
            piece_bytes: PIECES.bytes(),
            total: Some(COUNT),
            hashes: view.hashes_from(0, COUNT as usize),
            known,
            held: PieceSet::new(),
            verdict: None,
            is_complete: false,
            everything,
            seed: number,
            tuning: Tuning::default(),
            now,
        };
        let mut session = Session::begin(start.clone());
        session.record(start);
        let mut led = Self {
            session,
            view,
            now,
            random,
            readers: BTreeMap::new(),
            members: BTreeMap::new(),
            came: 1,
            asked: Vec::new(),
            read: vec![0; COUNT as usize],
            sent: 0,
            given: 0,
            most_readers: 0,
            worked: BTreeSet::new(),
            gives_parts: true,
            is_done: false,
            told: Vec::new(),
        };
        let desk = Desk { place: Place::default(), seed: number, signer: Signer::draw() };
        led.hears(Input::Leads { start: Start::Fresh, desk });
        let (piece_length, length) = (PIECES, u64::from(COUNT) * PIECES.bytes());
        led.hears(Input::OriginBears { connections: 4, known_until: None, piece_length, length });
        led
    }

    fn hears(&mut self, input: Input) {
        self.session.handle(input, &self.view, self.now);
    }

    /// Runs until everything is here, and checked.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        for step in 0..20_000 {
            if self.is_done {
                return self.session.trace().and_then(|trace| trace.diverges()).map_or(Ok(()), |call| {
                    Err(format!("told the same, another session does something else at call {call}"))
                });
            }
            self.now = self.now + STEP;
            if step < 600 {
                self.trouble()?;
            } else if step == 600 {
                self.hears(Input::WantsAll { passes: false });
            }
            self.read_on()?;
            self.answer();
            self.give();
            self.poll()?;
        }
        let lacking = (0..COUNT).filter(|piece| !self.session.picker().held().contains(PieceIndex(*piece)));
        Err(format!("{:?} never come; {:?} are at work", lacking.collect::<Vec<_>>(), self.readers))
    }

    /// Members come, go, and wait for something; readers fail.
    fn trouble(&mut self) -> Result<(), String> {
        let drawn = self.random.below(60);
        let member = self.members.keys().nth(self.random.below(6) as usize).copied();
        match (drawn, member) {
            (0, _) if self.members.len() < 6 => self.comes(),
            (1, Some(member)) => {
                self.members.remove(&member);
                self.view.reached.retain(|other| *other != member);
                let lost = self.asked.extract_if(.., |asked| asked.of == member).map(|asked| asked.request);
                for request in lost.collect::<Vec<_>>() {
                    self.hears(Input::Unanswered { request });
                }
                self.hears(Input::Gone(member));
            }
            (2 | 3, Some(by)) => {
                let first = self.random.below(u64::from(COUNT)) as u32;
                let wishes = vec![Wish { first, end: (first + 4).min(COUNT), within_ms: 1000 }];
                self.hears(Input::Said { by, message: Message::Want { blob: BLOB, everything: false, wishes } });
            }
            (4 | 5, _) => {
                if let Some(reader) = self.readers.keys().nth(self.random.below(4) as usize).copied() {
                    let began = self.readers[&reader].began;
                    if matches!(reader, OriginReader::Beside(_)) {
                        self.hears(Input::OriginFailed { began, why: "it broke".to_owned() });
                    }
                    self.ends(reader)?;
                }
            }
            (6, _) if self.random.one_in(8) => {
                self.gives_parts = false;
                self.hears(Input::ReadsAll { in_order: Some("it serves no ranges".to_owned()) });
            }
            (7, _) if self.random.one_in(8) => self.hears(Input::OriginRefused { why: "one at a time".to_owned() }),
            _ => {}
        }
        Ok(())
    }

    /// A member that holds a few pieces, or none.
    fn comes(&mut self) {
        self.came += 1;
        let node = NodeId([self.came; 16]);
        let first = self.random.below(u64::from(COUNT)) as u32;
        let count = [0, 0, 6][self.random.below(3) as usize];
        let held: PieceSet = (first..(first + count).min(COUNT)).map(PieceIndex).collect();
        self.members.insert(node, held.clone());
        self.view.reached.push(node);
        let (entering, wants) = (Entering { node, request: 1, whole: None }, self.random.one_in(2));
        self.hears(Input::Enters { entering, place: Place::default(), held: held.clone(), wants });
        let message = Message::Meet { blob: BLOB, held, known: COUNT, wants };
        self.hears(Input::Said { by: node, message });
    }

    /// All readers that are at work get something.
    fn read_on(&mut self) -> Result<(), String> {
        for reader in self.readers.keys().copied().collect::<Vec<_>>() {
            self.gave(reader, PIECES.bytes() / PARTS);
            let run = self.readers.get_mut(&reader).expect("it reads");
            run.parts += 1;
            if run.parts < PARTS {
                continue;
            }
            let piece = run.at;
            (run.parts, run.at) = (0, run.at + 1);
            let next = (run.end != Some(run.at) && run.at < COUNT).then_some(PieceIndex(run.at));
            self.stores(piece, None, None);
            let at = |piece| AtPiece { reader, piece, through: false, to_the_end: false };
            let goes_on =
                next.is_some_and(|piece| self.session.reads_on(at(piece), &self.view, self.now) != ReadsOn::Ends);
            if !goes_on {
                self.ends(reader)?;
            }
        }
        Ok(())
    }

    fn gave(&mut self, reader: OriginReader, bytes: u64) {
        let gave = Gave { reader, bytes, waited: Duration::MAX, is_held_up: false, others_gave_back: false };
        self.hears(Input::OriginGave(gave));
    }

    fn ends(&mut self, reader: OriginReader) -> Result<(), String> {
        if self.readers.remove(&reader).is_none() || !self.session.is_at_work(reader) {
            return Err(format!("{reader:?} ends and was not at work"));
        }
        self.hears(Input::ReadEnded { reader });
        Ok(())
    }

    fn stores(&mut self, piece: u32, from: Option<NodeId>, request: Option<RequestId>) {
        if from.is_none() {
            self.read[piece as usize] += 1;
        }
        self.view.known.insert(PieceIndex(piece));
        self.hears(Input::Learned(piece..piece + 1));
        let came = Came { piece: PieceIndex(piece), bytes: PIECES.bytes(), request, from };
        let is_new = !self.session.picker().held().contains(PieceIndex(piece));
        // A member may have given it while it was read.
        self.hears(if is_new { Input::Stored(came) } else { Input::Again(came) });
    }

    /// Members answer what they were asked for, or do not.
    fn answer(&mut self) {
        let now = self.now;
        for Asked { request, of, wanted, .. } in self.asked.extract_if(.., |asked| asked.due <= now).collect::<Vec<_>>()
        {
            let holds = |piece: &PieceIndex| self.members.get(&of).is_some_and(|held| held.contains(*piece));
            match wanted {
                Wanted::Piece(piece) if holds(&piece) && !self.random.one_in(4) => {
                    self.given += 1;
                    self.stores(piece.0, Some(of), Some(request));
                }
                _ => self.hears(Input::Refused { request, by: of, wanted, reason: Refusal::NotHeld }),
            }
        }
    }

    /// There is room to send something to somebody.
    fn give(&mut self) {
        let members: Vec<NodeId> = self.members.keys().copied().collect();
        for member in members {
            let mut choice = self.session.choose(member, self.now);
            if choice == Choice::MayCopy {
                choice = self.session.choose_copy(member, self.random.one_in(2), self.now);
            }
            let Choice::Send(piece) = choice else { continue };
            if self.random.one_in(6) {
                self.hears(Input::Unsent { to: member, piece });
                continue;
            }
            self.sent += 1;
            self.members.get_mut(&member).expect("it is here").insert(piece);
            self.hears(Input::Said {
                by: member,
                message: Message::Have { blob: BLOB, pieces: vec![piece], known: COUNT },
            });
        }
    }

    fn poll(&mut self) -> Result<(), String> {
        let mut outputs = Vec::new();
        self.session.poll(&self.view, self.now, &mut outputs);
        self.session.poll_origin(&self.view, self.now, &mut outputs);
        for output in outputs {
            if !matches!(output, Output::Say { .. }) {
                self.told.push(format!("{} {output:?}", self.now.as_micros()));
            }
            match output {
                Output::Read { reader, run } => self.begins(reader, run.first.0, run.end.map(|end| end.0))?,
                Output::Ask { request, of, wanted, .. } => {
                    let due = self.now + self.random.millis(10, 400);
                    self.asked.push(Asked { request, of, wanted, due });
                }
                Output::Withdraw { request, .. } => self.asked.retain(|asked| asked.request != request),
                Output::Check => {
                    self.hears(Input::Sealed { verdict: VERDICT, by: CheckedBy::Here });
                    self.is_done = self.session.course().phase() == Phase::Complete;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A reader is given a run. Until it is asked again, nobody else reads these pieces.
    fn begins(&mut self, reader: OriginReader, first: u32, end: Option<u32>) -> Result<(), String> {
        if self.readers.contains_key(&reader) {
            return Err(format!("{reader:?} is given a run, and is at work"));
        }
        if !self.gives_parts && reader != OriginReader::Everything {
            return Err(format!("{reader:?} reads a part of an origin that gives none"));
        }
        let at_first = self.readers.iter().find(|(_, run)| run.at == first);
        if let Some((other, _)) = at_first {
            return Err(format!("{reader:?} and {other:?} both read piece {first}"));
        }
        if self.session.picker().held().contains(PieceIndex(first)) {
            return Err(format!("{reader:?} is to read piece {first}, which is here"));
        }
        self.worked.insert(reader);
        self.readers.insert(reader, Run { at: first, end, parts: 0, began: self.now });
        self.most_readers = self.most_readers.max(self.readers.len());
        Ok(())
    }
}
