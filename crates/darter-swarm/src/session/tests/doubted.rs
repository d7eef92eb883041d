//! Others doubt what this agent gives or vouches for.

use darter_core::{Digest, PieceHash};
use darter_protocol::Verdict;

use super::*;

fn tell(scene: &mut Scene, by: u8, message: Message) -> bool {
    scene.hears(Input::Said { by: node(by), message })
}

fn doubts(scene: &mut Scene, by: u8, piece: u32) -> bool {
    tell(scene, by, Message::Report { blob: BLOB, peer: node(ME), piece: PieceIndex(piece) })
}

#[test]
fn a_piece_that_somebody_got_wrong_from_here_is_looked_at_and_not_many_in_a_moment() {
    let mut scene = Scene::led(&[2]);
    scene.stores(0, Some(9));
    scene.stores(1, Some(9));
    scene.met_by(2, &[]);
    assert_eq!(scene.meets(&[]), [node(2)]);
    assert!(!doubts(&mut scene, 3, 0), "a stranger was given nothing");
    assert!(!doubts(&mut scene, 2, 5), "it is not held");
    assert!(doubts(&mut scene, 2, 1));
    let looked = Output::Recheck { by: node(2), piece: PieceIndex(1) };
    assert!(scene.session.outputs.contains(&looked), "{:?}", scene.session.outputs);
    assert!(!doubts(&mut scene, 2, 0), "one at a time");
    scene.now = scene.now + Duration::from_secs(1);
    assert!(doubts(&mut scene, 9, 0), "the lead is given pieces, too");
    let mut scene = Scene::new();
    scene.leads();
    scene.admits(1);
    scene.stores(0, None);
    assert!(doubts(&mut scene, 1, 0), "a member of this lead's");
}

#[test]
fn a_whole_that_a_member_found_wrong_is_hashed_once_where_another_vouched_for_it() {
    let [expected, got, other] = [b"a", b"b", b"c"].map(|text| Digest::sha256(text));
    let refute = |scene: &mut Scene, by, expected| {
        tell(scene, by, Message::Refuted { request: None, blob: BLOB, expected, got, reader: None })
    };
    let verdict = Verdict { root: PieceHash([1; 32]), digest: Some(expected) };
    let mut vouches = Scene::new();
    vouches.leads();
    vouches.admits(1);
    assert!(!refute(&mut vouches, 1, expected), "nothing was said of the whole");
    vouches.session.told_verdict(verdict.clone());
    assert!(!refute(&mut vouches, 3, expected), "it was not let in");
    assert!(!refute(&mut vouches, 1, other), "that is not what was said");
    assert!(refute(&mut vouches, 1, expected));
    assert!(vouches.session.outputs.contains(&Output::RecheckWhole { by: node(1), expected, got }));
    assert!(!refute(&mut vouches, 1, expected), "it is found out once");
    let mut knows = Scene::new();
    knows.leads();
    knows.admits(1);
    (knows.session.verdict, knows.session.checked_by) = (Some(verdict), CheckedBy::Here);
    assert!(!refute(&mut knows, 1, expected), "this agent hashed it itself");
}
