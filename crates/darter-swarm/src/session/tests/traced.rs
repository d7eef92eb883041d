//! What a session was told is told again to another.

use super::*;
use crate::{Found, Output, SessionStart};

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
    let seen = crate::Seen { reads: false, is_idle: false, stall: None, origin: Duration::ZERO };
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
fn a_trace_ends_where_the_agent_lets_others_in() {
    let mut scene = recorded(start());
    let count = |scene: &Scene| scene.session.trace().map(|trace| trace.inputs().count());
    let before = count(&scene);
    scene.hears(Input::OpensBooks(desk()));
    assert_eq!(count(&scene), before.map(|count| count + 1), "with that itself");
    scene.admits(3);
    assert_eq!((count(&scene), scene.session.trace().unwrap().diverges()), (before.map(|count| count + 1), None));
}
