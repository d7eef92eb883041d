//! The pieces for members that ask for any.

use super::*;
use darter_protocol::Wanted;

use crate::{Choice, Output};

/// A lead that has two pieces, of one that it let in and that holds none.
fn lead() -> Scene {
    let mut scene = Scene::new();
    scene.leads();
    scene.admits(1);
    [0, 1].iter().for_each(|piece| scene.stores(*piece, None));
    scene.due();
    scene
}

impl Scene {
    /// True if the session was to be polled; it is now.
    fn due(&mut self) -> bool {
        let is_due = self.session.is_due();
        self.session.poll(&self.known, self.now, &mut Vec::new());
        is_due
    }

    fn chooses(&mut self, member: u8) -> Choice {
        self.session.choose(node(member), self.now)
    }
}

#[test]
fn a_member_is_sent_what_nobody_has_and_then_a_copy_when_nothing_else_is_to_go_first() {
    let mut scene = lead();
    assert_eq!(scene.chooses(2), Choice::NoMember);
    let has_fresh_for = |member: u8| scene.session.has_fresh_for(node(member), scene.now);
    assert!(has_fresh_for(1) && !has_fresh_for(2));
    assert_eq!((scene.chooses(1), scene.chooses(1)), (Choice::Send(PieceIndex(0)), Choice::Send(PieceIndex(1))));
    scene.admits(2);
    scene.now = scene.now + Duration::from_secs(60);
    assert_eq!(scene.chooses(2), Choice::Send(PieceIndex(0)), "it never came to the other");
    scene.hears(Input::Unsent { to: node(2), piece: PieceIndex(0) });
    assert_eq!(scene.chooses(2), Choice::Send(PieceIndex(0)), "nor to this one");
    let have = Message::Have { blob: BLOB, pieces: vec![PieceIndex(0), PieceIndex(1)], known: 0 };
    scene.hears(Input::Said { by: node(1), message: have });
    scene.now = scene.now + Duration::from_secs(60);
    assert_eq!(scene.chooses(2), Choice::MayCopy);
    assert_eq!(scene.session.choose_copy(node(2), false, scene.now), Choice::Nothing, "another blob goes first");
    assert!(matches!(scene.session.choose_copy(node(2), true, scene.now), Choice::Send(_)));
}

#[test]
fn a_lead_that_has_nothing_for_a_member_wakes_up_again_without_being_told_anything() {
    let mut scene = lead();
    let asks = |scene: &mut Scene| match scene.chooses(1) {
        Choice::MayCopy => scene.session.choose_copy(node(1), true, scene.now),
        choice => choice,
    };
    while let Choice::Send(_) = asks(&mut scene) {}
    scene.now = scene.now + Duration::from_millis(100);
    scene.due();
    assert_eq!(asks(&mut scene), Choice::Nothing);
    assert!(!scene.due(), "whoever tries it again by itself need not be told");
    assert!(scene.hears(Input::AskStands) && scene.due(), "its time has changed");
    let wakes = scene.session.next_wakeup(scene.now).expect("it looks again");
    assert!(wakes > scene.now && wakes.since(scene.now) <= Duration::from_millis(100), "{:?}", wakes.since(scene.now));
    assert!(!scene.hears(Input::AskStands), "that is known");
    scene.now = wakes;
    let mut outputs = Vec::new();
    scene.session.poll(&scene.known, scene.now, &mut outputs);
    assert!(outputs.contains(&Output::Give), "{outputs:?}");
}

#[test]
fn what_was_asked_for_by_name_counts_as_sent_and_what_was_forgotten_is_nobodys() {
    let mut scene = lead();
    scene.hears(Input::Sending { to: node(1), piece: PieceIndex(1) });
    assert_eq!(scene.chooses(1), Choice::Send(PieceIndex(0)), "the other one is on its way");
    assert!(!scene.session.has_fresh_for(node(1), scene.now));
    assert_eq!(scene.session.holders(PieceIndex(0)), 0);
    assert_eq!(scene.session.first_unheld(), Some(PieceIndex(0)));
    scene.hears(Input::Forgotten(PieceIndex(0)));
    assert_eq!(scene.lead().owned(), &pieces(&[1]));
}

#[test]
fn a_member_that_wants_parts_is_sent_what_it_says_it_waits_for_and_hears_of_it_at_once() {
    let mut scene = lead();
    scene.admits_with(3, &[], false);
    assert_eq!(scene.chooses(3), Choice::MayCopy, "its ask came before its word");
    let wish = darter_protocol::Wish { first: 1, end: 2, within_ms: 100 };
    let want = Message::Want { blob: BLOB, everything: false, wishes: vec![wish] };
    scene.hears(Input::Said { by: node(3), message: want });
    let mut outputs = Vec::new();
    scene.session.poll(&scene.known, scene.now, &mut outputs);
    assert!(outputs.contains(&Output::Give), "{outputs:?}");
    assert_eq!((scene.chooses(3), scene.chooses(3)), (Choice::Send(PieceIndex(1)), Choice::MayCopy));
    assert_eq!(scene.session.choose_copy(node(3), true, scene.now), Choice::Nothing);
}

#[test]
fn one_that_wants_parts_says_so_to_others_and_asks_the_lead_for_any_of_them() {
    let mut scene = Scene::led(&[2]);
    scene.session.wants_parts(scene.now);
    let wish = Wish { first: 4, end: 5, within: Duration::from_secs(1) };
    scene.hears(Input::Wish { reader: ReaderId(1), wish: Some(wish) });
    scene.hears(Input::ReaderAt { reader: ReaderId(1), piece: PieceIndex(4), count: 1, patience: Duration::ZERO });
    let polls = |scene: &mut Scene| {
        let mut outputs = Vec::new();
        scene.session.poll(&scene.known, scene.now, &mut outputs);
        outputs
    };
    let outputs = polls(&mut scene);
    let is_meet = |it: &Output| matches!(it, Output::Say { message: Message::Meet { wants: false, .. }, .. });
    assert!(outputs.iter().any(is_meet), "{outputs:?}");
    let by_name = |it: &Output| matches!(it, Output::Ask { wanted: Wanted::Piece(PieceIndex(4)), .. });
    assert!(outputs.iter().any(by_name), "nobody else starts anything: {outputs:?}");
    let mut scene = Scene::led(&[2]);
    scene.session.wants_parts(scene.now);
    let meet = Message::Meet { blob: BLOB, held: pieces(&[0]), known: 0, wants: false };
    scene.hears(Input::Said { by: node(2), message: meet });
    scene.hears(Input::Wish { reader: ReaderId(1), wish: Some(wish) });
    scene.hears(Input::ReaderAt { reader: ReaderId(1), piece: PieceIndex(4), count: 1, patience: Duration::ZERO });
    let outputs = polls(&mut scene);
    assert!(outputs.iter().any(|it| matches!(it, Output::Ask { wanted: Wanted::Any, .. })), "{outputs:?}");
    assert!(!outputs.iter().any(by_name), "{outputs:?}");
}

#[test]
fn one_that_comes_to_want_everything_says_so_to_those_that_it_met_before_and_once() {
    let mut scene = Scene::led(&[2]);
    scene.session.wants_parts(scene.now);
    let meets = |scene: &mut Scene| {
        let mut outputs = Vec::new();
        scene.session.poll(&scene.known, scene.now, &mut outputs);
        let said = outputs.into_iter().filter_map(|output| match output {
            Output::Say { to, message: Message::Meet { wants, .. } } => Some((to, wants)),
            _ => None,
        });
        said.collect::<Vec<_>>()
    };
    assert_eq!(meets(&mut scene), [(vec![node(2)], false)]);
    scene.hears(Input::WantsAll { passes: false });
    assert_eq!(meets(&mut scene), [(vec![node(2)], true)]);
    assert_eq!(meets(&mut scene), []);
}

/// For a program that reads a part, its agent may ask to be let in to a swarm that it is in, and the lead goes by what was asked for last.
#[test]
fn one_that_is_let_in_again_says_that_it_wants_everything() {
    let wants = |scene: &mut Scene| {
        let mut outputs = Vec::new();
        scene.session.poll(&scene.known, scene.now, &mut outputs);
        let said = outputs.into_iter().filter_map(|output| match output {
            Output::Say { to, message: Message::Want { everything, .. } } => Some((to, everything)),
            _ => None,
        });
        said.collect::<Vec<_>>()
    };
    let mut scene = Scene::led(&[2]);
    assert_eq!(wants(&mut scene), [], "it said so when it came");
    assert!(scene.follows(9, &[2]));
    assert_eq!(wants(&mut scene), [(vec![node(9)], true)]);
    assert_eq!(wants(&mut scene), []);
    let mut leads = lead();
    leads.admits_with(3, &[], false);
    assert_eq!(leads.chooses(3), Choice::MayCopy);
    leads.hears(Input::Said { by: node(3), message: Message::Want { blob: BLOB, everything: true, wishes: vec![] } });
    assert!(matches!(leads.chooses(3), Choice::Send(_)));
}

#[test]
fn who_was_given_a_piece_or_says_that_it_holds_it_is_answered_behind_others_unless_it_needs_it_again() {
    let mut scene = lead();
    scene.admits(2);
    let last = |scene: &Scene| [0, 1].map(|piece| scene.session.goes_last(node(1), PieceIndex(piece), scene.now));
    assert_eq!(last(&scene), [false; 2]);
    assert_eq!(scene.chooses(1), Choice::Send(PieceIndex(0)));
    scene.hears(Input::Sending { to: node(1), piece: PieceIndex(1) });
    assert_eq!(last(&scene), [true; 2]);
    assert!(!scene.session.goes_last(node(2), PieceIndex(0), scene.now), "nobody gave it anything");
    scene.hears(Input::Unsent { to: node(1), piece: PieceIndex(0) });
    assert_eq!(last(&scene), [false, true]);
    let wrong = Message::Report { blob: BLOB, peer: scene.session.me, piece: PieceIndex(1) };
    scene.hears(Input::Said { by: node(1), message: wrong });
    assert_eq!(last(&scene), [false; 2], "what came was wrong");
    let have = Message::Have { blob: BLOB, pieces: vec![PieceIndex(0)], known: 0 };
    scene.hears(Input::Said { by: node(1), message: have });
    assert_eq!(last(&scene), [true, false], "it says that it holds it");
    scene.hears(Input::Said { by: node(1), message: Message::Lost { blob: BLOB, pieces: vec![PieceIndex(0)] } });
    assert_eq!(last(&scene), [false; 2]);
    scene.hears(Input::Sending { to: node(1), piece: PieceIndex(1) });
    scene.hears(Input::Gone(node(1)));
    assert_eq!(last(&scene), [false; 2], "it may have been lost with the connection");
}

#[test]
fn what_a_neighbour_says_that_it_holds_it_is_given_behind_others_by_a_member_too() {
    let mut scene = Scene::led(&[2]);
    let meet = Message::Meet { blob: BLOB, held: pieces(&[0]), known: 0, wants: true };
    scene.hears(Input::Said { by: node(2), message: meet });
    let last = |piece| scene.session.goes_last(node(2), PieceIndex(piece), scene.now);
    assert_eq!([last(0), last(1)], [true, false]);
}

/// It may pass them on and say nothing; but then it is not this lead that it gets the most from.
#[test]
fn a_member_that_tells_of_nothing_that_it_is_given_names_pieces_behind_others_until_it_tells() {
    let mut scene = Scene::new();
    scene.leads();
    scene.admits(1);
    scene.admits_with(2, &[], false);
    (0..8).for_each(|piece| scene.stores(piece, None));
    let last = |scene: &Scene, member| scene.session.goes_last(node(member), PieceIndex(7), scene.now);
    for piece in 0..2 {
        assert!(!last(&scene, 1), "{piece}");
        scene.hears(Input::Sending { to: node(1), piece: PieceIndex(piece) });
        scene.hears(Input::Sending { to: node(2), piece: PieceIndex(piece) });
        scene.now = scene.now + Duration::from_secs(1);
    }
    assert!(last(&scene, 1) && !last(&scene, 2), "a member that starts something is gone soon");
    scene.now = scene.now + Duration::from_secs(60);
    scene.chooses(1);
    assert!(last(&scene, 1), "that was long ago, and nothing better came since");
    let have = Message::Have { blob: BLOB, pieces: vec![PieceIndex(0)], known: 0 };
    scene.hears(Input::Sending { to: node(1), piece: PieceIndex(0) });
    scene.hears(Input::Said { by: node(1), message: have });
    assert!(!last(&scene, 1));
}

/// It tells of all that it is given, and nobody ever gets any of it from it. What only it was given others are given soon; but what others have is given to it besides.
#[test]
fn a_member_that_names_what_others_have_waits_behind_others_while_there_is_something_that_was_never_sent() {
    let most = Tuning::default().copies_named;
    let mut scene = Scene::new();
    scene.leads();
    (1..=3).for_each(|member| scene.admits(member));
    (0..2 * most).for_each(|piece| scene.stores(piece, None));
    let last = |scene: &Scene, member| scene.session.goes_last(node(member), PieceIndex(2 * most - 1), scene.now);
    let has = |piece| Message::Have { blob: BLOB, pieces: vec![PieceIndex(piece)], known: 0 };
    for piece in 0..most {
        // Member 2 is given each first, and member 3 gets it from member 2.
        assert_eq!(scene.chooses(2), Choice::Send(PieceIndex(piece)));
        for member in [2, 3] {
            scene.hears(Input::Said { by: node(member), message: has(piece) });
        }
        assert!(!last(&scene, 1), "{piece}");
        for member in [1, 2] {
            scene.hears(Input::Sending { to: node(member), piece: PieceIndex(piece) });
            scene.hears(Input::Said { by: node(member), message: has(piece) });
        }
    }
    assert!(last(&scene, 1));
    assert!(!last(&scene, 2), "it passes on what it is given");
    assert!(!last(&scene, 3), "it names nothing");
    scene.hears(Input::Said { by: node(1), message: Message::Leave { blob: BLOB } });
    scene.admits(1);
    assert!(last(&scene, 1), "it is no other for having come again");
    while let Choice::Send(_) = scene.chooses(3) {}
    assert!(!last(&scene, 1), "nobody has to wait for it any more");
}
