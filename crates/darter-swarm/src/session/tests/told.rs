//! News of pieces and hashes, and its receivers.

use super::*;

#[test]
fn a_piece_that_came_is_told_to_neighbours_and_to_the_lead_at_once_if_that_gave_it() {
    let mut scene = Scene::led(&[1, 2]);
    scene.meets(&[]);
    scene.met_by(2, &[3]);
    scene.stores(3, Some(1));
    let told = scene.tells();
    assert!(told.contains(&(vec![1], have(&[3]))) || told.contains(&(vec![1, 9], have(&[3]))), "{told:?}");
    assert!(told.iter().all(|(nodes, _)| !nodes.contains(&2)), "it holds it");
    let due = |giver: u8| {
        let many: Vec<u8> = (10..80).collect();
        let mut scene = Scene::led(&many);
        scene.meets(&[]);
        scene.stores(0, None);
        scene.now = scene.now + Duration::from_secs(60);
        scene.tells();
        let before = scene.now;
        scene.stores(4, Some(giver));
        let mut told = Vec::new();
        while !told.iter().any(|(nodes, _): &(Vec<u8>, PieceNews)| nodes.contains(&9)) {
            scene.now = scene.session.news_due().expect("the lead hears of everything").max(scene.now);
            let news = scene.session.tell(&[], scene.now);
            told.extend(news.into_iter().map(|(nodes, it)| (nodes.iter().map(|it| it.0[0]).collect(), it)));
        }
        scene.now.since(before)
    };
    assert!(due(9) < due(10), "{:?} {:?}", due(9), due(10));
}

#[test]
fn those_that_are_met_now_are_not_told_the_same_as_news() {
    let mut scene = Scene::led(&[1, 2]);
    scene.meets(&[2]);
    scene.stores(0, None);
    let meets = scene.meets(&[]);
    scene.now = scene.now + Duration::from_secs(1);
    let told = scene.session.tell(&meets, scene.now);
    assert!(told.iter().all(|(nodes, _)| !nodes.contains(&node(2))), "{told:?}");
}

#[test]
fn a_piece_that_is_lost_is_told_and_asked_for_again_and_one_that_a_neighbour_lost_is_offered_to_it() {
    let mut scene = Scene::led(&[1]);
    scene.meets(&[]);
    scene.met_by(1, &[0, 1]);
    scene.stores(0, Some(1));
    scene.tells();
    scene.session.lost_by(node(1), PieceIndex(0), scene.now);
    scene.session.lost_by(node(1), PieceIndex(1), scene.now);
    assert_eq!(scene.tells(), [(vec![1], have(&[0]))]);
    assert!(scene.asked().is_empty(), "that one has nothing that is lacking here");
    scene.session.lacks(PieceIndex(0), scene.now);
    let lost = PieceNews::Lost(vec![PieceIndex(0)]);
    assert_eq!(scene.tells(), [(vec![1, 9], lost)]);
    scene.met_by(1, &[0]);
    assert_eq!(scene.asked(), [node(1)]);
}

#[test]
fn neighbours_hear_of_the_first_hashes_where_members_ask_each_other() {
    for ask in [false, true] {
        let mut scene = Scene::led(&[1]);
        let tuning = Tuning::default();
        scene.session.hashes = Hashes::new(BLOB, PieceLength::UNKNOWN_BLOB, &[], 0, tuning);
        scene.session.hashes.members_ask(ask);
        scene.meets(&[]);
        assert_eq!(scene.session.catch_up(&Known::first(2)), ask);
        assert!(!scene.session.learned(2..4, &Known::first(4), scene.now), "they are not the first");
        assert_eq!(scene.tells(), if ask { vec![(vec![1], have(&[]))] } else { Vec::new() });
    }
}

#[test]
fn a_peer_that_meets_this_agent_shows_what_hashes_it_can_tell_of_what_is_wanted() {
    let teacher = |wanted: bool| {
        let mut scene = Scene::new();
        let known = Known::first(2);
        scene.session.hashes = Hashes::new(BLOB, PieceLength::UNKNOWN_BLOB, &[], 0, Tuning::default());
        scene.session.catch_up(&known);
        scene.follows(9, &[1]);
        scene.session.hashes.members_ask(true);
        let meeting = Meeting { tier: Tier::Rack, held: pieces(&[6]), known: 2, wants: true };
        if !wanted {
            scene.session.wants_parts(scene.now);
        }
        scene.session.met_by(node(1), meeting, &known, scene.now);
        scene.session.hashes.ask(scene.now)
    };
    assert_eq!(teacher(true), Some(Teacher::Neighbour(node(1))));
    assert_eq!(teacher(false), None);
}

#[test]
fn a_lead_that_begins_to_send_a_piece_knows_its_hash_and_a_neighbour_need_not() {
    let asks = |giver: u8| {
        let mut scene = Scene::new();
        scene.session.hashes = Hashes::new(BLOB, PieceLength::UNKNOWN_BLOB, &[], 0, Tuning::default());
        scene.follows(9, &[1]);
        scene.session.hashes.members_ask(true);
        scene.session.begun(RequestId(7), PieceIndex(3), node(giver), scene.now);
        scene.session.hashes.ask(scene.now)
    };
    assert_eq!(asks(9), Some(Teacher::Lead));
    assert_eq!(asks(1), None);
}

#[test]
fn what_came_while_this_agent_led_is_no_news_when_it_follows() {
    let mut scene = Scene::new();
    scene.leads();
    [1, 2].iter().for_each(|peer| scene.met_by(*peer, &[]));
    scene.meets(&[]);
    scene.stores(0, None);
    assert_eq!(scene.session.news_due(), None);
    scene.follows(9, &[2]);
    scene.meets(&[]);
    assert_eq!(scene.tells(), [], "they were told of it when they were met anew");
    scene.stores(1, None);
    assert_eq!(scene.tells(), [(vec![1, 2, 9], have(&[1]))]);
}

#[test]
fn a_neighbour_that_comes_to_lead_is_told_what_neighbours_were_still_to_hear() {
    let many: Vec<u8> = (10..80).collect();
    let mut scene = Scene::led(&many);
    scene.meets(&[]);
    scene.stores(0, None);
    scene.tells();
    scene.loses(9, Loss::Failed);
    scene.stores(4, Some(11));
    assert_eq!(scene.session.tell(&[], scene.now), [], "so many neighbours are told once in a while");
    scene.follows(10, &[11]);
    scene.now = scene.now + Duration::from_secs(60);
    let told = scene.tells();
    let is_told = |peer: u8| told.iter().any(|(nodes, it)| nodes.contains(&peer) && *it == have(&[4]));
    assert!(is_told(10) && is_told(12), "{told:?}");
}
