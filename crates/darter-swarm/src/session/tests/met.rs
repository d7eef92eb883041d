//! Neighbours that are met, forgotten, and met again.

use super::*;

#[test]
fn neighbours_are_met_when_they_are_connected_and_each_once() {
    let mut scene = Scene::led(&[1, 2, 3, ME]);
    assert_eq!(scene.meets(&[2]), [node(1), node(3)]);
    assert_eq!(scene.meets(&[2]), []);
    assert!(scene.session.to_meet().iter().eq([&node(2)]));
    scene.session.named(&[node(3), node(4), node(ME)], &[], scene.now);
    assert_eq!(scene.meets(&[]), [node(2), node(4)], "those that were met know what is here");
    scene.met_by(4, &[]);
    assert_eq!(scene.meets(&[]), [], "and that one answers");
    scene.met_by(6, &[]);
    assert_eq!(scene.meets(&[]), [node(6)], "whoever meets this agent by itself is met");
    assert_eq!(scene.session.met().len(), 5);
}

#[test]
fn who_is_no_neighbour_any_more_is_asked_for_nothing_and_one_that_is_named_anew_goes_on() {
    let mut scene = Scene::led(&[1, 2, 3]);
    scene.meets(&[3]);
    [1, 2, 3].iter().for_each(|peer| scene.met_by(*peer, &[0, 1, 2, 3, 4, 5, 6, 7]));
    scene.session.named(&[node(2)], &[node(1), node(2), node(3)], scene.now);
    assert_eq!(scene.asked(), [node(2)]);
    assert_eq!(scene.meets(&[]), [node(2)], "it is told again what is here");
    assert!(scene.session.met().iter().eq([&node(2)]));
    scene.session.parted(node(2), scene.now);
    assert!(scene.session.met().is_empty() && scene.session.picker.holdings().next().is_none());
}

#[test]
fn a_neighbour_whose_connection_is_gone_is_met_again_while_something_is_lacking_and_another_leads() {
    let gone = |peer: u8, is_lacking: bool| {
        let mut scene = Scene::led(&[1, 9]);
        scene.meets(&[]);
        scene.met_by(1, &[0]);
        scene.session.course = Course::new(!is_lacking);
        let again = scene.session.gone(node(peer), scene.now);
        assert_eq!(scene.session.picker.holdings().count(), usize::from(peer != 1));
        (again, scene.meets(&[]).len())
    };
    assert_eq!(gone(1, true), (true, 1));
    assert_eq!(gone(1, false), (false, 0), "what is here is all that was wanted");
    assert_eq!(gone(9, true), (false, 0), "the lead is asked again by a search for one");
    assert_eq!(gone(2, true), (false, 0), "it was no neighbour");
    let mut scene = Scene::new();
    scene.met_by(1, &[0]);
    scene.meets(&[]);
    assert!(!scene.session.gone(node(1), scene.now), "nobody says that it is still a neighbour");
}

#[test]
fn the_lead_hears_who_could_not_be_reached_of_those_that_are_to_be_met() {
    let mut scene = Scene::led(&[1, 2]);
    scene.meets(&[1]);
    let told = |scene: &Scene, peer| scene.session.unreached(node(peer));
    assert_eq!([1, 2, 3].map(|peer| told(&scene, peer)), [Some(node(9)), None, None]);
    scene.session.course = Course::new(true);
    assert_eq!(told(&scene, 1), None, "nothing is lacking");
    scene.session.course = Course::new(false);
    scene.loses(9, Loss::Failed);
    assert_eq!(told(&scene, 1), None, "there is nobody to hear it");
    scene.follows(1, &[]);
    assert_eq!(told(&scene, 1), None, "it is the lead itself");
}

#[test]
fn who_sends_a_wrong_piece_is_told_nothing_and_not_asked_to_lead() {
    let mut scene = Scene::led(&[1, 2]);
    scene.meets(&[]);
    assert_eq!(scene.session.accuse(node(1)), Some(node(9)), "the lead is to hear of it");
    assert!(scene.session.met().iter().eq([&node(2)]));
    scene.loses(9, Loss::Failed);
    let mut asked = Vec::new();
    while let Step::Ask(peer) = scene.seeks(&[1], &[]) {
        asked.push(peer);
        scene.hears(Input::Sought(Sought::Refused(peer)));
    }
    assert!(!asked.contains(&node(1)), "{asked:?}");
    scene.leads();
    scene.admits(3);
    assert_eq!(scene.session.accuse(node(3)), None);
    assert_eq!(scene.lead().members(), [node(ME)], "its own word puts it aside");
}

#[test]
fn whom_a_lead_named_anew_and_the_next_one_does_not_is_not_met_again() {
    let mut scene = Scene::led(&[1, 2]);
    scene.meets(&[]);
    scene.loses(9, Loss::Failed);
    scene.follows(8, &[1, 3]);
    scene.loses(8, Loss::Failed);
    scene.follows(7, &[2]);
    assert_eq!(scene.meets(&[]), [node(2), node(3)], "that one was never met");
}

#[test]
fn a_process_that_starts_again_knows_nobody_and_has_what_it_stored() {
    let mut scene = Scene::led(&[1, 2]);
    scene.meets(&[2]);
    [1, 2].iter().for_each(|peer| scene.met_by(*peer, &[0]));
    scene.stores(3, Some(9));
    let leadership = Leadership::new(node(ME), BlobId([1; 32]), BLOB, true);
    scene.session.restart(leadership, scene.now);
    assert_eq!((scene.session.leader(), scene.session.news_due()), (Leader::Nobody, None));
    assert!(scene.session.met().is_empty() && scene.session.to_meet().is_empty());
    assert_eq!(scene.session.picker.held(), &pieces(&[3]));
    assert!(scene.asked().is_empty());
}

#[test]
fn whoever_led_tells_those_that_it_met_anew_what_it_holds_when_it_follows() {
    let mut scene = Scene::new();
    scene.leads();
    [1, 2].iter().for_each(|peer| scene.met_by(*peer, &[]));
    scene.meets(&[]);
    scene.stores(0, None);
    assert_eq!(scene.tells(), [], "whoever leads gives of its own accord");
    assert!(scene.follows(9, &[2, 3]));
    assert_eq!(scene.meets(&[]), [node(1), node(2), node(3)]);
    assert_eq!(scene.tells(), [], "they were told of all of it");
}
