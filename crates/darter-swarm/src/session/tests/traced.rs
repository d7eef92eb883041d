//! The inputs of one session are told again to another.

use super::*;
use crate::session::trace::MAX_RECORDED;
use crate::{AtPiece, Choice, Found, Gave, Output, ReadsOn, SessionStart};

fn start() -> SessionStart {
    SessionStart {
        me: node(ME),
        source: BlobId([1; 32]),
        blob: BLOB,
        may_follow: true,
        pieces: PieceLength::UNKNOWN_BLOB,
        piece_bytes: 1 << 20,
        total: None,
        hashes: Vec::new(),
        known: PieceSet::new(),
        held: PieceSet::new(),
        verdict: None,
        is_complete: false,
        everything: true,
        seed: 1,
        tuning: Tuning::default(),
        now: later(0),
    }
}

/// A member whose lead is lost, and that finds another.
fn recorded(recorded: SessionStart) -> Scene {
    let mut scene = Scene::new();
    scene.session = Session::begin(recorded.clone());
    scene.session.record(recorded);
    let polls = |scene: &mut Scene| {
        scene.now = scene.now + Duration::from_millis(300);
        let mut outputs = Vec::new();
        scene.session.poll(&scene.known, scene.now, &mut outputs);
        outputs
    };
    scene.follows(9, &[2, 4]);
    scene.hears(Input::Learned(0..PIECES));
    polls(&mut scene);
    let meet = Message::Meet { blob: BLOB, held: pieces(&[0, 1]), known: 0, wants: true };
    scene.hears(Input::Said { by: node(2), message: meet });
    polls(&mut scene);
    scene.hears(Input::Stored(Came { piece: PieceIndex(0), bytes: 1 << 20, request: None, from: Some(node(2)) }));
    scene.loses(9, Loss::Failed);
    let asked = polls(&mut scene);
    if asked.contains(&Output::Seek(Step::Survey)) {
        scene.hears(Input::Sought(Sought::Found { found: Found::default(), holders: vec![info(6)] }));
    }
    let seen = crate::Seen { is_idle: false, stall: None, origin: Duration::ZERO };
    scene.session.look(seen, &scene.known, scene.now);
    scene.follows(8, &[2]);
    scene.hears(Input::Sought(Sought::Done));
    polls(&mut scene);
    scene
}

#[test]
fn what_a_session_did_another_in_its_place_does_that_is_told_the_same() {
    let scene = recorded(start());
    let trace = scene.session.trace().expect("it was to keep one");
    assert_eq!(trace.diverges(), None);
    assert!(trace.inputs().any(|it| matches!(it, Input::LeadLost { .. })));
    assert!(trace.outputs().any(|it| matches!(it, Output::Seek(_))));
    let asks = |it: &&Output| matches!(it, Output::Ask { .. });
    assert!(trace.outputs().filter(asks).count() >= 3, "{trace:?}");
}

#[test]
fn one_that_began_otherwise_does_something_else() {
    for change in
        [(|it| it.held = pieces(&[1])) as fn(&mut SessionStart), |it| it.everything = false, |it| it.tuning.asks = 1]
    {
        let mut other = start();
        change(&mut other);
        let mut scene = recorded(start());
        let trace = scene.session.trace.as_mut().expect("it was to keep one");
        trace.begins_as(other);
        assert!(trace.diverges().is_some());
    }
}

#[test]
fn what_a_lead_read_and_sent_another_reads_and_sends_that_is_told_the_same() {
    let mut scene = recorded(start());
    scene.loses(8, Loss::Failed);
    scene.leads();
    scene.admits(3);
    scene.now = scene.now + Duration::from_secs(5);
    let mut outputs = Vec::new();
    scene.session.poll_origin(&scene.known, scene.now, &mut outputs);
    let Some(Output::Read { reader, run }) = outputs.pop() else { panic!("it leads") };
    let gave = Gave { reader, bytes: 1 << 20, waited: Duration::ZERO, is_held_up: false, others_gave_back: false };
    scene.hears(Input::OriginGave(gave));
    scene.hears(Input::Stored(Came { piece: run.first, bytes: 1 << 20, request: None, from: None }));
    let at = AtPiece { reader, piece: PieceIndex(run.first.0 + 1), through: false, to_the_end: true };
    assert_eq!(scene.session.reads_on(at, &scene.known, scene.now), ReadsOn::Planned);
    scene.hears(Input::ReadEnded { reader });
    assert!(scene.session.may_give(scene.now));
    while let Choice::Send(piece) = scene.session.choose(node(3), scene.now) {
        scene.hears(Input::Unsent { to: node(3), piece });
        scene.hears(Input::Sending { to: node(3), piece });
    }
    scene.session.choose_copy(node(3), false, scene.now);
    scene.hears(Input::AskStands);
    scene.session.poll(&scene.known, scene.now, &mut outputs);
    let trace = scene.session.trace().expect("it was to keep one");
    assert_eq!(trace.diverges(), None);
    assert!(trace.outputs().any(|it| matches!(it, Output::Read { .. })));
    assert_eq!(trace.reads_on().collect::<Vec<_>>(), [ReadsOn::Planned]);
    assert!(trace.choices().any(|it| matches!(it, Choice::Send(_))));
    let mut other = start();
    other.held = pieces(&[run.first.0]);
    scene.session.trace.as_mut().expect("it was to keep one").begins_as(other);
    assert!(scene.session.trace().unwrap().diverges().is_some(), "one that has it need not read it");
}

#[test]
fn a_trace_has_an_end() {
    let mut scene = Scene::new();
    scene.session.record(start());
    for _ in 0..MAX_RECORDED + 10 {
        scene.hears(Input::Forgotten(PieceIndex(0)));
    }
    let kept = scene.session.trace().expect("it keeps one").inputs().count();
    assert_eq!(kept, MAX_RECORDED);
}
