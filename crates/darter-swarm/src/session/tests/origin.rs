//! The pieces that are read of the origin, and their readers.

use super::*;
use crate::{AtPiece, Gave, OriginReader, OriginRun, Output, ReadsOn, Widening};

const EVERYTHING: OriginReader = OriginReader::Everything;
const ERRANDS: OriginReader = OriginReader::Errands;
const BESIDE: OriginReader = OriginReader::Beside(0);

/// A reader's run: its first piece, and the one behind its last.
type Given = (OriginReader, u32, Option<u32>);

fn given(run: (OriginReader, OriginRun)) -> Given {
    let (reader, OriginRun { first, end }) = run;
    (reader, first.0, end.map(|end| end.0))
}

impl Scene {
    /// The runs that readers are given now.
    fn reads(&mut self) -> Vec<Given> {
        let mut outputs = Vec::new();
        self.session.poll_origin(&self.known, self.now, &mut outputs);
        let read = |it| if let Output::Read { reader, run } = it { Some(given((reader, run))) } else { None };
        outputs.into_iter().filter_map(read).collect()
    }

    fn ends(&mut self, reader: OriginReader) -> bool {
        self.hears(Input::ReadEnded { reader })
    }

    fn reads_on(&mut self, reader: OriginReader, piece: u32) -> ReadsOn {
        let at = AtPiece { reader, piece: PieceIndex(piece), through: false, to_the_end: true };
        self.session.reads_on(at, &self.known, self.now)
    }

    /// A member waits for a piece.
    fn waits_for(&mut self, member: u8, piece: u32) {
        let wishes = vec![darter_protocol::Wish { first: piece, end: piece + 1, within_ms: 0 }];
        let message = Message::Want { blob: BLOB, everything: false, wishes };
        self.hears(Input::Said { by: node(member), message });
    }
}

/// One that leads, and of which everything is wanted.
fn lead() -> Scene {
    let mut scene = Scene::new();
    scene.leads();
    scene
}

#[test]
fn whoever_leads_reads_what_is_lacking_and_is_given_nothing_else_before_that_has_ended() {
    let mut scene = Scene::new();
    assert_eq!(scene.reads(), [], "nobody leads");
    scene.leads();
    assert!(!scene.session.leads_others(), "nobody was let in");
    assert_eq!(scene.reads(), [(EVERYTHING, 0, Some(PIECES))]);
    assert_eq!(scene.reads(), [], "it is at work");
    assert!(scene.session.is_at_work(EVERYTHING) && !scene.session.is_read_beside(), "one connection reads");
    scene.stores(0, None);
    assert_eq!(scene.reads_on(EVERYTHING, 1), ReadsOn::Planned);
    scene.admits_with(1, &[1, 2], true);
    assert!(scene.session.leads_others());
    assert_eq!(scene.reads_on(EVERYTHING, 1), ReadsOn::Ends, "somebody has it");
    assert!(scene.ends(EVERYTHING) && !scene.ends(EVERYTHING));
    assert_eq!(scene.reads(), [(EVERYTHING, 3, Some(PIECES))]);
    scene.ends(EVERYTHING);
    (0..PIECES).for_each(|piece| scene.stores(piece, None));
    assert!(scene.reads().is_empty() && !scene.session.reads(EVERYTHING), "all is here");
}

#[test]
fn one_that_follows_or_has_come_to_its_end_reads_nothing() {
    let mut scene = lead();
    scene.reads();
    assert!(scene.follows(9, &[]));
    assert_eq!(scene.reads_on(EVERYTHING, 0), ReadsOn::Ends);
    scene.ends(EVERYTHING);
    assert_eq!(scene.reads(), []);
    let mut scene = lead();
    scene.hears(Input::Fails);
    assert_eq!(scene.reads(), []);
}

#[test]
fn what_somebody_waits_for_is_read_besides_unless_the_origin_gives_no_parts() {
    let mut scene = Scene::new();
    scene.session.wants_parts(scene.now);
    scene.leads();
    scene.admits_with(1, &[], false);
    assert_eq!(scene.reads(), [], "nobody wants anything");
    scene.waits_for(1, 5);
    assert_eq!(scene.reads(), [(ERRANDS, 5, Some(6))]);
    scene.hears(Input::ReadsAll { in_order: Some("it serves no ranges".to_owned()) });
    assert!(!scene.session.gives_parts());
    scene.ends(ERRANDS);
    assert_eq!(scene.reads(), [(EVERYTHING, 0, Some(PIECES))], "all that stands before it comes first");
    scene.ends(EVERYTHING);
    scene.hears(Input::LeadLost { lead: node(9), loss: Loss::Failed, why: String::new() });
    assert_eq!(scene.reads(), [(EVERYTHING, 0, Some(PIECES))], "and it stays so");
}

#[test]
fn parts_of_two_versions_are_compared_from_the_first_gap_to_the_end_and_to_the_last_piece() {
    let mut scene = lead();
    [0, 3].iter().for_each(|piece| scene.stores(*piece, None));
    scene.hears(Input::Compares(true));
    assert_eq!(scene.reads(), [(EVERYTHING, 1, None)]);
    let through = AtPiece { reader: EVERYTHING, piece: PieceIndex(3), through: true, to_the_end: true };
    assert_eq!(scene.session.reads_on(through, &scene.known, scene.now), ReadsOn::Through, "though it is here");
    (0..PIECES).for_each(|piece| scene.stores(piece, None));
    assert_eq!(scene.session.reads_on(through, &scene.known, scene.now), ReadsOn::Through);
    scene.hears(Input::Compares(false));
    assert_eq!(scene.session.reads_on(through, &scene.known, scene.now), ReadsOn::Ends);
}

#[test]
fn an_answer_is_read_to_its_end_where_no_other_would_be_given() {
    let mut scene = lead();
    scene.reads();
    scene.stores(0, None);
    scene.admits_with(1, &[1, 2], true);
    assert_eq!(scene.reads_on(EVERYTHING, 1), ReadsOn::Ends);
    scene.hears(Input::OriginShut);
    assert_eq!(scene.reads_on(EVERYTHING, 1), ReadsOn::Through);
    let part = AtPiece { reader: EVERYTHING, piece: PieceIndex(1), through: false, to_the_end: false };
    assert_eq!(scene.session.reads_on(part, &scene.known, scene.now), ReadsOn::Ends, "it has no such end");
}

/// A lead of a blob of 512 MiB, whose origin gives one connection eight a second; and the outputs of the time until a second connection
/// is to try, or has tried.
struct Wide {
    scene: Scene,
    outputs: Vec<Output>,
}

impl Wide {
    const PIECES: u32 = 1024;

    fn new() -> Self {
        let mut scene = Scene::new();
        scene.known.pieces = Some(Self::PIECES);
        scene.known.known = PieceSet::full(Self::PIECES);
        scene.hears(Input::Sized);
        scene.hears(Input::Learned(0..Self::PIECES));
        scene.leads();
        let piece_length = PieceLength::UNKNOWN_BLOB;
        let length = u64::from(Self::PIECES) * piece_length.bytes();
        scene.hears(Input::OriginBears { connections: 8, known_until: None, piece_length, length });
        let mut wide = Self { scene, outputs: Vec::new() };
        wide.polls();
        wide
    }

    fn polls(&mut self) {
        let Scene { session, known, now } = &mut self.scene;
        session.poll_origin(known, *now, &mut self.outputs);
        session.poll(known, *now, &mut self.outputs);
    }

    /// Bytes come on these connections for four milliseconds. Returns true if something follows from that.
    fn comes(&mut self, readers: &[OriginReader], bytes: u64) -> bool {
        self.scene.now = self.scene.now + Duration::from_millis(4);
        let mut follows = false;
        for reader in readers.iter().copied() {
            let gave = Gave { reader, bytes, waited: Duration::MAX, is_held_up: false, others_gave_back: false };
            follows |= self.scene.hears(Input::OriginGave(gave));
        }
        follows
    }

    /// One connection reads until a second one is to try.
    fn until_trial(&mut self) -> OriginRun {
        (0..5000).find(|_| self.comes(&[EVERYTHING], 32 << 10)).expect("a rate that somebody may have set");
        self.outputs.clear();
        self.polls();
        let [Output::Read { reader: BESIDE, run }] = &self.outputs[..] else { panic!("{:?}", self.outputs) };
        *run
    }

    /// The trial's bytes come beside those of the first connection, and are kept.
    fn tries(&mut self, run: OriginRun) {
        let pieces = run.first.0..run.end.expect("a stretch has an end").0;
        for _ in 0..pieces.len() as u64 * PieceLength::UNKNOWN_BLOB.bytes() / (32 << 10) {
            self.comes(&[BESIDE, EVERYTHING], 32 << 10);
        }
        pieces.for_each(|piece| self.scene.stores(piece, None));
        assert!(self.scene.ends(BESIDE));
    }

    /// Trials bring more until several connections read.
    fn widened() -> Self {
        let mut wide = Self::new();
        while !wide.outputs.iter().any(|it| matches!(it, Output::Widened(_))) {
            let tries = |it: &Output| if let Output::Read { reader: BESIDE, run } = it { Some(*run) } else { None };
            let run = wide.outputs.iter().find_map(tries).unwrap_or_else(|| wide.until_trial());
            wide.tries(run);
            wide.outputs.clear();
            wide.polls();
        }
        wide
    }
}

#[test]
fn a_second_connection_tries_once_and_keeps_its_place_meanwhile() {
    let mut wide = Wide::new();
    let run = wide.until_trial();
    assert!(run.first == PieceIndex(32) && wide.scene.session.is_read_beside(), "behind the first stretch: {run:?}");
    wide.outputs.clear();
    wide.polls();
    assert!(wide.outputs.is_empty(), "it tries already: {:?}", wide.outputs);
    wide.scene.hears(Input::OriginFailed { began: wide.scene.now, why: "it broke".to_owned() });
    wide.polls();
    let narrowed = Output::Narrowed { before: 2, after: 1, why: "it broke".to_owned() };
    assert_eq!(wide.outputs, [narrowed]);
    wide.outputs.clear();
    wide.scene.hears(Input::OriginFailed { began: wide.scene.now, why: "and again".to_owned() });
    wide.polls();
    assert!(!wide.outputs.iter().any(|it| matches!(it, Output::Narrowed { .. })), "fewer than one never read");
}

#[test]
fn where_both_get_more_further_connections_read_what_lies_behind_the_stretch_of_the_first() {
    let wide = Wide::widened();
    let widened = wide.outputs.iter().any(|it| matches!(it, Output::Widened(Widening::Wider { .. })));
    let read = |it: &Output| if let Output::Read { reader, run } = it { Some(given((*reader, *run))) } else { None };
    let beside: Vec<Given> = wide.outputs.iter().filter_map(read).collect();
    assert!(widened && !beside.is_empty(), "{:?}", wide.outputs);
    let mut end = 1;
    for (nth, (reader, first, to)) in beside.iter().enumerate() {
        assert_eq!(*reader, OriginReader::Beside(nth as u8));
        assert!(*first >= end, "nobody else reads it: {beside:?}");
        end = to.expect("a stretch has an end");
    }
}

#[test]
fn a_connection_is_given_nothing_where_the_agent_has_none_to_give_or_the_origin_wants_one() {
    let mut wide = Wide::widened();
    wide.scene.ends(BESIDE);
    wide.scene.known.room_beside = Some(0);
    assert_eq!(wide.scene.reads(), [], "other blobs have it");
    wide.scene.known.room_beside = None;
    assert_eq!(wide.scene.reads().len(), 1);
    wide.scene.ends(BESIDE);
    wide.scene.known.read_alone = true;
    assert_eq!(wide.scene.reads(), []);
    wide.scene.known.read_alone = false;
    assert_eq!(wide.scene.reads(), [], "for good");
}

/// A reader on any host that knows this goes to the origin itself instead of waiting for what comes first.
#[test]
fn members_are_told_of_an_origin_that_gives_no_parts_now_or_when_they_come() {
    let told = |scene: &mut Scene| -> Vec<(Vec<NodeId>, String)> {
        scene.now = scene.now + Duration::from_secs(1);
        let mut outputs = Vec::new();
        scene.session.poll(&scene.known, scene.now, &mut outputs);
        let said = outputs.into_iter().filter_map(|output| match output {
            Output::Say { to, message: Message::InOrder { reason, .. } } => Some((to, reason)),
            _ => None,
        });
        said.collect()
    };
    let no_ranges = || "it serves no ranges".to_owned();
    let mut scene = lead();
    scene.admits(2);
    assert_eq!(told(&mut scene), []);
    scene.hears(Input::ReadsAll { in_order: None });
    assert_eq!(told(&mut scene), [], "everything is wanted, and that is all");
    scene.hears(Input::ReadsAll { in_order: Some(no_ranges()) });
    assert_eq!(told(&mut scene), [(vec![node(2)], no_ranges())]);
    scene.hears(Input::ReadsAll { in_order: Some(no_ranges()) });
    assert_eq!(told(&mut scene), [], "once");
    scene.admits(4);
    assert_eq!(told(&mut scene), [(vec![node(4)], no_ranges())]);
    (0..PIECES).for_each(|piece| scene.stores(piece, None));
    scene.admits(6);
    assert_eq!(told(&mut scene), [], "nobody waits for the origin any more");
}

#[test]
fn a_member_passes_on_that_its_lead_reads_in_order_and_forgets_it_with_the_lead() {
    let mut scene = Scene::led(&[]);
    scene.hears(Input::OpensBooks(desk()));
    scene.admits(2);
    let said = |by: u8| Input::Said { by: node(by), message: Message::InOrder { blob: BLOB, reason: "so".to_owned() } };
    assert!(!scene.hears(said(2)) && scene.session.gives_parts(), "only its lead knows");
    assert!(scene.hears(said(9)) && !scene.session.gives_parts());
    assert!(!scene.hears(said(9)), "once");
    let noted = Output::LeadReadsInOrder { lead: node(9), reason: "so".to_owned() };
    assert_eq!(scene.session.outputs.iter().filter(|it| **it == noted).count(), 1);
    let mut outputs = Vec::new();
    scene.session.poll(&scene.known, scene.now, &mut outputs);
    let passes =
        |it: &Output| matches!(it, Output::Say { to, message: Message::InOrder { .. } } if to[..] == [node(2)]);
    assert!(outputs.iter().any(passes), "{outputs:?}");
    scene.loses(9, Loss::Failed);
    assert!(scene.session.gives_parts(), "the next lead may reach another copy");
}
