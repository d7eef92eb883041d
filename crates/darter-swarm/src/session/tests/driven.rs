//! A session as whoever drives it sees it: inputs in, outputs out.

use darter_protocol::{Refusal, Verdict, Wanted};

use super::*;

/// The outputs that are due now.
fn outputs(scene: &mut Scene) -> Vec<Output> {
    scene.now = scene.now + Duration::from_millis(1);
    let mut outputs = Vec::new();
    scene.session.poll(&scene.known, scene.now, &mut outputs);
    outputs
}

fn is_told(scene: &mut Scene, by: u8, message: Message) -> bool {
    scene.session.handle(Input::Said { by: node(by), message }, &scene.known, scene.now)
}

fn said(outputs: &[Output]) -> Vec<(Vec<u8>, &Message)> {
    let say = |output: &'_ Output| match output {
        Output::Say { to, .. } => Some(to.iter().map(|it| it.0[0]).collect()),
        _ => None,
    };
    let messages =
        outputs.iter().filter_map(|it| if let Output::Say { message, .. } = it { Some(message) } else { None });
    outputs.iter().filter_map(say).zip(messages).collect()
}

#[test]
fn a_peer_hears_what_is_here_before_it_is_asked_for_anything() {
    let mut scene = Scene::led(&[2, 3]);
    scene.stores(1, None);
    let meet = Message::Meet { blob: BLOB, held: pieces(&[0]), known: 0, wants: true };
    assert!(is_told(&mut scene, 2, meet));
    let done = outputs(&mut scene);
    assert!(
        matches!(&done[0], Output::Dial(infos) if infos.iter().map(|it| it.node).eq([node(2), node(3)])),
        "{done:?}"
    );
    let meets = done.iter().position(|it| {
        matches!(it, Output::Say { to, message: Message::Meet { held, wants: true, .. } } if to[..] == [node(2)] && *held == pieces(&[1]))
    });
    let asks =
        |it: &Output| matches!(it, Output::Ask { of, wanted: Wanted::Piece(PieceIndex(0)), .. } if *of == node(2));
    assert!(meets.expect("it is connected") < done.iter().position(asks).expect("it has a piece"), "{done:?}");
    assert_eq!(scene.session.asked().filter(|(_, of)| *of == node(2)).count(), 1);
    let complete: Vec<Output> = {
        scene.session.course.dissolves();
        outputs(&mut scene)
    };
    let is_withdrawn = |it: &Output| matches!(it, Output::Withdraw { of, .. } if *of == node(2));
    assert!(complete.iter().any(is_withdrawn) && scene.session.asked().next().is_none(), "{complete:?}");
}

#[test]
fn an_announcement_from_which_nothing_follows_wakes_nobody_and_one_of_what_is_lacking_does() {
    let mut scene = Scene::led(&[2]);
    is_told(&mut scene, 2, Message::Meet { blob: BLOB, held: pieces(&[]), known: 0, wants: true });
    scene.stores(1, None);
    let mut has = |piece| {
        let message = Message::Have { blob: BLOB, pieces: vec![PieceIndex(piece)], known: 0 };
        is_told(&mut scene, 2, message)
    };
    assert!(!has(1) && has(2));
    assert!(!is_told(&mut scene, 7, Message::Dissolved { blob: BLOB, reason: String::new() }), "it does not lead");
    assert!(is_told(&mut scene, 9, Message::Dissolved { blob: BLOB, reason: String::new() }));
}

#[test]
fn what_the_lead_says_of_the_whole_is_heeded_and_what_others_say_is_not() {
    let verdict = Verdict { root: darter_core::PieceHash([1; 32]), digest: None };
    let whole = || Message::Whole { blob: BLOB, verdict: verdict.clone() };
    let mut scene = Scene::led(&[]);
    is_told(&mut scene, 1, whole());
    assert_eq!(scene.session.verdict, None);
    is_told(&mut scene, 9, whole());
    assert_eq!((&scene.session.verdict, scene.session.checked_by), (&Some(verdict.clone()), CheckedBy::Lead));
    let digest = || format!("sha256:{}", "0".repeat(64)).parse().expect("a digest");
    let refuted = || Message::Refuted { request: None, blob: BLOB, expected: digest(), got: digest(), reader: None };
    assert!(!is_told(&mut scene, 1, refuted()));
    let is_heeded = |scene: &mut Scene| {
        is_told(scene, 9, refuted());
        outputs(scene).contains(&Output::Refuted { expected: digest(), got: digest(), reader: None })
    };
    assert!(is_heeded(&mut scene));
    scene.loses(9, Loss::Failed);
    assert!(is_heeded(&mut scene), "it may be given up for what it refuses before it says why");
    scene.stores(0, None);
    assert!(!is_heeded(&mut scene), "a part was read of the origin here");
    scene.leads();
    assert!(!is_told(&mut scene, 9, refuted()), "this agent reads the origin by itself");
}

#[test]
fn all_pieces_are_checked_when_they_are_here_and_the_lead_has_said_what_they_must_be() {
    let mut scene = Scene::led(&[]);
    (0..PIECES).for_each(|piece| scene.stores(piece, Some(9)));
    let checks = |scene: &mut Scene| outputs(scene).contains(&Output::Check);
    assert!(!checks(&mut scene));
    let verdict = Verdict { root: darter_core::PieceHash([1; 32]), digest: None };
    is_told(&mut scene, 9, Message::Whole { blob: BLOB, verdict });
    assert!(checks(&mut scene) && !checks(&mut scene), "once");
    let mut scene = Scene::new();
    scene.leads();
    scene.session.compares = true;
    (0..PIECES).for_each(|piece| scene.stores(piece, None));
    assert!(!checks(&mut scene), "they may be of two versions");
    scene.session.compares = false;
    assert!(checks(&mut scene));
}

#[test]
fn a_request_that_is_refused_answered_or_moving_is_known_for_what_it_is() {
    let ask = |scene: &mut Scene| {
        let meet = Message::Meet { blob: BLOB, held: pieces(&[0, 1, 2, 3, 4, 5, 6, 7]), known: 0, wants: true };
        is_told(scene, 2, meet);
        let done = outputs(scene);
        let asked = done.iter().find_map(|it| match it {
            Output::Ask { request, of, wanted: Wanted::Piece(piece), .. } if *of == node(2) => Some((*request, *piece)),
            _ => None,
        });
        asked.expect("it has all pieces")
    };
    let is_open = |scene: &Scene, request| scene.session.asked().any(|(it, _)| it == request);
    let mut scene = Scene::led(&[2]);
    let (request, piece) = ask(&mut scene);
    let handle = |scene: &mut Scene, input| scene.session.handle(input, &scene.known, scene.now);
    let before = scene.session.vigil.gives_up_at(crate::Awaited::Given);
    scene.now = scene.now + Duration::from_secs(1);
    handle(&mut scene, Input::Moved { request, bytes: 1 << 19 });
    assert!(scene.session.vigil.gives_up_at(crate::Awaited::Given) > before, "bytes came");
    let (by, wanted) = (node(2), Wanted::Piece(piece));
    handle(&mut scene, Input::Refused { request, by, wanted, reason: Refusal::NotHeld });
    assert!(!is_open(&scene, request));
    let again = outputs(&mut scene);
    let asks =
        |it: &Output| matches!(it, Output::Ask { of, wanted: Wanted::Piece(it), .. } if *of == by && *it == piece);
    assert!(!again.iter().any(asks), "it said that it lacks that one: {again:?}");
    let mut scene = Scene::led(&[2]);
    let (request, piece) = ask(&mut scene);
    handle(&mut scene, Input::Stored(Came { piece, bytes: 1, request: Some(request), from: Some(by) }));
    assert!(!is_open(&scene, request));
    let mut scene = Scene::led(&[]);
    let done = outputs(&mut scene);
    let asked = done.iter().find_map(|it| match it {
        Output::Ask { request, of, wanted: Wanted::Any, .. } if *of == node(9) => Some(*request),
        _ => None,
    });
    let request = asked.expect("the lead chooses");
    let refused = Input::Refused { request, by: node(9), wanted: Wanted::Any, reason: Refusal::UnknownBlob };
    handle(&mut scene, refused.clone());
    handle(&mut scene, refused);
    let is_lost = |it: &&Output| matches!(it, Output::LeadLost { lead, loss: Loss::Forgot, .. } if *lead == node(9));
    assert_eq!(outputs(&mut scene).iter().filter(is_lost).count(), 1, "the second answer is to no question");
    assert!(scene.session.leadership.is_searching());
}

#[test]
fn whoever_is_asked_for_hashes_answers_members_and_neighbours_once_and_nobody_else() {
    let mut scene = Scene::new();
    scene.leads();
    scene.admits(1);
    outputs(&mut scene);
    for _ in 0..3 {
        [1, 3].iter().for_each(|by| assert!(is_told(&mut scene, *by, Message::AskHashes { blob: BLOB, from: 0 })));
    }
    let done = outputs(&mut scene);
    let answers: Vec<_> = said(&done).into_iter().filter(|(_, it)| matches!(it, Message::Grew { .. })).collect();
    assert!(answers.len() == 1 && answers[0].0 == [1], "{answers:?}");
}

#[test]
fn a_wrong_piece_is_reported_to_the_lead_and_a_report_heard_from_members_alone() {
    let mut scene = Scene::led(&[2]);
    is_told(&mut scene, 2, Message::Meet { blob: BLOB, held: pieces(&[0]), known: 0, wants: true });
    outputs(&mut scene);
    let (request, _) = scene.session.asked().find(|(_, of)| *of == node(2)).expect("it has a piece");
    let wrong = Input::Wrong { by: node(2), request, piece: PieceIndex(0) };
    scene.session.handle(wrong, &scene.known, scene.now);
    let done = outputs(&mut scene);
    assert!(done.contains(&Output::Accused { peer: node(2), piece: PieceIndex(0), led: false }), "{done:?}");
    let report = Message::Report { blob: BLOB, peer: node(2), piece: PieceIndex(0) };
    assert!(said(&done).contains(&(vec![9], &report)), "{done:?}");
    let mut scene = Scene::new();
    scene.leads();
    scene.admits(1);
    assert!(!is_told(&mut scene, 3, report.clone()), "it was not let in");
    assert!(is_told(&mut scene, 1, report));
    assert!(outputs(&mut scene).contains(&Output::Reported { peer: node(2), put_aside: false }));
}

#[test]
fn a_peer_that_is_gone_leaves_the_books_and_is_connected_again_if_it_was_a_neighbour() {
    let mut scene = Scene::led(&[2]);
    outputs(&mut scene);
    scene.session.handle(Input::Gone(node(2)), &scene.known, scene.now);
    let done = outputs(&mut scene);
    assert!(done.iter().any(|it| matches!(it, Output::Dial(infos) if infos[0].node == node(2))), "{done:?}");
    scene.session.handle(Input::Unreached(node(1)), &scene.known, scene.now);
    assert!(outputs(&mut scene).iter().all(|it| !matches!(it, Output::Say { message: Message::Unreached { .. }, .. })));
    let mut scene = Scene::led(&[1]);
    outputs(&mut scene);
    scene.session.handle(Input::Unreached(node(1)), &scene.known, scene.now);
    let (done, unreached) = (outputs(&mut scene), Message::Unreached { blob: BLOB, peer: node(1) });
    assert!(said(&done).contains(&(vec![9], &unreached)), "{done:?}");
    let mut scene = Scene::new();
    scene.leads();
    scene.admits(2);
    scene.session.handle(Input::Gone(node(2)), &scene.known, scene.now);
    assert!(!scene.session.has_member(node(2)));
}

/// One whose lead, agent 9, answered with all bytes, of which `stored` pieces could be stored.
fn arrives_whole(verdict: Option<Verdict>, stored: u32) -> Scene {
    let mut scene = Scene::new();
    let neighbours = vec![info(2)];
    let let_in = LetIn { lead: node(9), key: key(), members_ask: false, neighbours, verdict, arrives: true };
    assert!(scene.hears(Input::LetIn(let_in)));
    assert_eq!(said(&outputs(&mut scene)), [], "it is being stored");
    for piece in 0..stored {
        scene.known.known = PieceSet::full(PIECES);
        let came = Came { piece: PieceIndex(piece), bytes: 1 << 20, request: None, from: Some(node(9)) };
        scene.hears(Input::Stored(came));
    }
    scene
}

#[test]
fn of_a_blob_that_comes_at_once_all_is_told_at_once_when_it_is_complete() {
    // The last piece is stored and the answer is done with in one moment, or the driver has a turn in between.
    for has_turn in [true, false] {
        let verdict = Verdict { root: darter_core::PieceHash([1; 32]), digest: None };
        let mut scene = arrives_whole(Some(verdict.clone()), PIECES);
        let mut done = Vec::new();
        if has_turn {
            done.extend(outputs(&mut scene));
        }
        scene.hears(Input::Arrived);
        done.extend(outputs(&mut scene));
        assert!(done.contains(&Output::Check) && said(&done).is_empty(), "it is being checked: {done:?}");
        assert_eq!(
            scene.session.next_wakeup(scene.now).filter(|at| *at <= later(1000)),
            None,
            "nothing falls due meanwhile"
        );
        scene.hears(Input::Sealed { verdict, by: CheckedBy::Lead });
        let done = outputs(&mut scene);
        assert!(done.contains(&Output::Completed));
        let all = (0..PIECES).map(PieceIndex).collect::<Vec<_>>();
        let told = said(&done);
        assert!(
            matches!(&told[..], [
                (met, Message::Meet { held, wants: false, .. }),
                (lead, Message::Have { pieces, .. }),
            ] if met[..] == [2] && held.len() == PIECES && lead[..] == [9] && *pieces == all),
            "{told:?}"
        );
    }
}

#[test]
fn seeds_hear_that_all_is_here_though_the_transfer_ends_at_that_moment() {
    let verdict = Verdict { root: darter_core::PieceHash([1; 32]), digest: None };
    let mut scene = arrives_whole(Some(verdict.clone()), PIECES);
    assert!(outputs(&mut scene).contains(&Output::Check));
    scene.hears(Input::Sealed { verdict, by: CheckedBy::Lead });
    assert!(scene.session.end().contains(&Output::Completed));
}

#[test]
fn of_a_blob_that_came_at_once_and_is_not_whole_or_has_no_verdict_others_hear_what_is_here() {
    for (verdict, stored) in
        [(None, PIECES), (Some(Verdict { root: darter_core::PieceHash([1; 32]), digest: None }), PIECES - 1)]
    {
        let mut scene = arrives_whole(verdict, stored);
        assert!(said(&outputs(&mut scene)).is_empty());
        scene.hears(Input::Arrived);
        let done = outputs(&mut scene);
        let is_met = |(to, message): &(Vec<u8>, &Message)| {
            to[..] == [2] && matches!(message, Message::Meet { held, wants: true, .. } if held.len() == stored)
        };
        assert!(said(&done).iter().any(is_met), "{done:?}");
    }
}
