//! This agent leads: members, and what they hold.

use super::*;

#[test]
fn the_books_of_whoever_leads_name_its_neighbours_as_a_lead_names_those_of_members() {
    let mut scene = Scene::new();
    scene.leads();
    [1, 2].iter().for_each(|member| scene.admits(*member));
    let notice = |scene: &mut Scene| {
        let speech = scene.session.speak(&scene.known, scene.now);
        assert!(speech.own.is_some(), "somebody came or went");
    };
    notice(&mut scene);
    assert_eq!(scene.meets(&[]), [node(1), node(2)]);
    scene.met_by(1, &[0]);
    scene.session.left(node(1));
    notice(&mut scene);
    assert!(scene.session.met().iter().eq([&node(2)]) && scene.session.picker.holdings().next().is_none());
}

#[test]
fn whoever_leads_leads_nobody_before_the_first_came_and_after_the_last_left() {
    let mut scene = Scene::new();
    scene.leads();
    assert!(!scene.session.leads_others());
    [1, 2].iter().for_each(|member| scene.admits(*member));
    for (member, leads_others) in [(1, true), (2, false)] {
        scene.session.left(node(member));
        assert_eq!(scene.session.leads_others(), leads_others);
    }
}

#[test]
fn whoever_leads_owns_what_comes_and_knows_who_gave_it() {
    let mut scene = Scene::new();
    scene.leads();
    scene.admits(1);
    scene.stores(2, Some(1));
    let owned = |scene: &Scene| scene.lead().owned().clone();
    assert_eq!(owned(&scene), pieces(&[2]));
    assert!(scene.session.picker.held().contains(PieceIndex(2)));
    scene.session.lacks(PieceIndex(2), scene.now);
    assert!(owned(&scene).is_empty() && scene.session.picker.held().is_empty());
}

#[test]
fn whoever_leads_leaves_nothing_to_a_member_that_refuses_a_piece_or_is_out_of_reach() {
    for is_reached in [true, false] {
        let mut scene = Scene::new();
        scene.leads();
        scene.admits_with(1, &[4], false);
        scene.met_by(1, &[4]);
        let request =
            scene.polls().into_iter().find_map(|it| if let Action::Request { id, .. } = it { Some(id) } else { None });
        let (request, piece) = (request.expect("it is the only holder"), PieceIndex(4));
        let Scene { session, now, .. } = &mut scene;
        match is_reached {
            true => session.refused(request, node(1), piece, *now),
            false => session.failed(request, node(1), piece, *now),
        }
        assert_eq!(scene.lead().holders(piece), 0);
        assert_eq!(scene.session.picker.open_requests().count(), 0);
        scene.now = scene.now + Duration::from_secs(60);
        let is_asked_again = scene.asked() == [node(1)];
        assert_eq!(is_asked_again, !is_reached, "one that may be back is tried again");
    }
}

#[test]
fn a_member_that_let_this_agent_down_counts_as_a_holder_again_when_it_has_given_something() {
    let mut scene = Scene::new();
    scene.leads();
    scene.admits_with(1, &[3, 4], false);
    scene.session.doubts(node(1));
    let holders = |scene: &Scene| scene.lead().holders(PieceIndex(3));
    assert_eq!(holders(&scene), 0);
    scene.stores(4, None);
    assert_eq!(holders(&scene), 0, "that was the origin");
    scene.stores(5, Some(1));
    assert_eq!(holders(&scene), 1);
}

#[test]
fn a_node_that_begins_to_lead_counts_in_the_neighbours_that_are_connected_and_whoever_led_from_the_start_does_not() {
    for (start, holders) in [(Start::TakeOver, 1), (Start::Fresh, 0)] {
        let mut scene = Scene::led(&[1, 2]);
        scene.meets(&[]);
        [1, 2].iter().for_each(|peer| scene.met_by(*peer, &[0]));
        let Scene { session, known, now } = &mut scene;
        session.lost_lead(node(9), Loss::Failed, *now);
        session.leads(*now);
        assert!(session.open_books(start, desk(), known, *now));
        assert!(!session.open_books(start, desk(), known, *now), "they are open");
        assert_eq!(scene.lead().holders(PieceIndex(0)), holders, "one of them is connected");
    }
}
