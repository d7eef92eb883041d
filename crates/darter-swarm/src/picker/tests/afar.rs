//! Pieces that only holders afar have: one node of a group fetches each, and others take over when it does not.

use super::*;

#[test]
fn of_a_group_one_node_fetches_a_piece_from_afar_and_the_others_only_after_a_while() {
    let everybody: Vec<u8> = (0..4).collect();
    let mut fetchers = vec![0; 200];
    for &me in &everybody {
        let mut picker = Picker::new(node(me), 1, Tuning { in_all: 1000, per_holder: 1000, ..Tuning::default() }, 7);
        picker.handle(Event::ManifestGrew { known: 0..200, total: Some(200) }, Moment::ZERO);
        for peer in everybody.iter().filter(|peer| **peer != me) {
            let event = Event::PeerJoined { peer: node(*peer), tier: Tier::Rack, wants: true, held: PieceSet::new() };
            picker.handle(event, Moment::ZERO);
        }
        let far = Event::PeerJoined { peer: node(99), tier: Tier::Far, wants: false, held: PieceSet::full(200) };
        picker.handle(far, Moment::ZERO);
        let mut actions = Vec::new();
        picker.poll(Moment::ZERO, &mut actions);
        for action in actions {
            if let Action::Request { piece, .. } = action {
                fetchers[piece.as_usize()] += 1;
            }
        }
    }
    assert!(fetchers.iter().all(|count| *count == 1), "{fetchers:?}");
}

#[test]
fn when_the_designated_fetcher_is_stuck_the_next_takes_over() {
    let mut scene = Scene::new(40);
    scene.join(1, Tier::Rack, PieceSet::new());
    scene.join(9, Tier::Far, PieceSet::full(40));
    for _ in 0..400 {
        for (id, _, piece) in scene.requests(50) {
            scene.receive(id, piece);
        }
    }
    assert!(scene.picker.is_complete(), "{} pieces", scene.picker.held().len());
}

#[test]
fn nobody_takes_over_before_four_times_what_a_piece_from_afar_takes() {
    let mut scene = Scene::new(8);
    scene.join(1, Tier::Rack, PieceSet::new());
    scene.join(9, Tier::Far, PieceSet::full(8));
    let own = scene.requests(0);
    assert!((1..8).contains(&own.len()), "some are the other's to fetch: {own:?}");
    scene.now = scene.now + Duration::from_millis(1000);
    for (id, _, piece) in &own {
        scene.receive(*id, *piece);
    }
    assert!(scene.requests(2900).is_empty(), "the other's requests may stand in the same queue");
    assert!(!scene.requests(200).is_empty());
}

#[test]
fn a_piece_from_beyond_the_zone_is_left_to_its_fetcher_for_longer_than_one_from_the_next_rack() {
    let takes_over = |tier: Tier| {
        let mut scene = Scene::new(8);
        scene.join(1, Tier::Rack, PieceSet::new());
        scene.join(9, tier, PieceSet::full(8));
        let own = scene.requests(0).len();
        assert!((1..8).contains(&own));
        (1..1000).find(|_| !scene.requests(20).is_empty()).expect("in the end")
    };
    assert!(is_across(Tier::Zone) && takes_over(Tier::Far) > takes_over(Tier::Zone));
}
