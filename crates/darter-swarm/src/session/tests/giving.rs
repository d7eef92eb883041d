//! What members are sent that ask for any piece.

use super::*;
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
