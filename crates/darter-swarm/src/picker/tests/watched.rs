//! A picker as others see it, and when they need not ask it.

use super::*;

#[test]
fn news_of_pieces_needs_a_poll_only_where_a_request_may_follow() {
    let mut scene = Scene::new(100);
    scene.join(1, Tier::Rack, PieceSet::new());
    assert!(scene.picker.peer_has(node(1), &[PieceIndex(5)]), "it may be asked for");
    assert!(!scene.picker.peer_has(node(2), &[PieceIndex(5)]), "of a stranger");
    scene.tell(Event::Received { request: None, piece: PieceIndex(6), bytes: MIB });
    assert!(!scene.picker.peer_has(node(1), &[PieceIndex(6)]), "it is here");
    assert!(scene.picker.peer_has(node(1), &[PieceIndex(6), PieceIndex(7)]), "the other is not");
    for peer in 2..=5 {
        scene.join(peer, Tier::Rack, PieceSet::full(90));
    }
    assert_eq!(scene.requests(0).len(), 12, "all that may be open");
    assert!(!scene.picker.peer_has(node(1), &[PieceIndex(95)]));
    let patience = Duration::ZERO;
    scene.tell(Event::ReaderAt { reader: ReaderId(1), piece: PieceIndex(95), count: 1, patience });
    scene.after(0);
    assert!(scene.picker.peer_has(node(1), &[PieceIndex(96)]), "a reader may wait for it");
}

#[test]
fn a_holder_that_is_asked_for_enough_is_not_asked_for_what_it_tells_of() {
    let mut scene = Scene::new(100);
    (1..=4)
        .for_each(|peer| scene.join(peer, Tier::Rack, if peer == 1 { pieces(&[1, 2, 3, 4]) } else { PieceSet::new() }));
    assert_eq!(scene.requests(0).len(), 3);
    assert!(!scene.picker.peer_has(node(1), &[PieceIndex(50)]));
    assert!(scene.picker.peer_has(node(2), &[PieceIndex(50)]), "others may be asked");
}

#[test]
fn those_who_sent_wrong_pieces_are_known_by_name() {
    let mut scene = Scene::new(2);
    (1..=2).for_each(|peer| scene.join(peer, Tier::Rack, PieceSet::full(2)));
    scene.tell(Event::Corrupt { peer: node(2), request: None, piece: PieceIndex(0) });
    assert_eq!(scene.picker.dropped().collect::<Vec<_>>(), [node(2)]);
    assert_eq!(scene.picker.holdings().collect::<Vec<_>>(), [(node(1), 2)]);
}

#[test]
fn a_lead_that_sends_wrong_pieces_is_asked_no_more_after_some() {
    let mut scene = Scene::new(20);
    scene.tell(Event::LeadChanged { lead: Some(node(9)) });
    let mut wrong = 0;
    for _ in 0..100 {
        let ask = scene.after(500).into_iter().find_map(|action| match action {
            Action::Ask { id, .. } => Some(id),
            _ => None,
        });
        if let Some(request) = ask {
            scene.tell(Event::Started { request, piece: PieceIndex(wrong) });
            scene.tell(Event::Corrupt { peer: node(9), request: Some(request), piece: PieceIndex(wrong) });
            wrong += 1;
        }
    }
    assert!((2..=8).contains(&wrong), "asked {wrong} times");
    assert_eq!(scene.picker.dropped().collect::<Vec<_>>(), [node(9)]);
}

#[test]
fn what_is_held_counts_as_lacked_by_nobody_and_what_a_stranger_holds_is_not_known() {
    let mut scene = Scene::new(4);
    scene.join(1, Tier::Rack, pieces(&[0, 2]));
    let all = [0, 1, 2, 3].map(PieceIndex);
    let lacked_by = |peer| scene.picker.lacked_by(node(peer), &all).collect::<Vec<_>>();
    assert_eq!(lacked_by(1), [1, 3].map(PieceIndex));
    assert_eq!(lacked_by(2), all);
}

/// How many of sixteen neighbours, `across` of them in another rack, must hold a piece that it is common, if it ever is.
fn common_from(across: u8, is_large: bool) -> Option<u8> {
    let mut scene = Scene::new(4);
    for peer in 1..=16 {
        scene.join(peer, if peer <= across { Tier::Zone } else { Tier::Rack }, PieceSet::new());
    }
    (1..=16).find(|peer| {
        scene.picker.peer_has(node(*peer), &[PieceIndex(2)]);
        assert_eq!(scene.picker.spread(PieceIndex(3), is_large), Spread::Rare, "nobody has it");
        scene.picker.spread(PieceIndex(2), is_large) == Spread::Common
    })
}

#[test]
fn a_piece_is_common_by_one_holder_in_a_small_swarm_by_three_in_a_large_one_and_never_in_one_of_several_racks() {
    assert_eq!([0, 5].map(|across| common_from(across, false)), [Some(1); 2]);
    assert_eq!([0, 5].map(|across| common_from(across, true)), [Some(3), None]);
}

#[test]
fn while_readers_are_behind_no_piece_is_common() {
    let mut scene = Scene::new(100);
    scene.join(1, Tier::Rack, PieceSet::full(100));
    let spread = |scene: &Scene| scene.picker.spread(PieceIndex(60), false);
    for piece in 50..=60 {
        scene.tell(Event::Received { request: None, piece: PieceIndex(piece), bytes: MIB });
    }
    assert_eq!(spread(&scene), Spread::Common, "nobody reads in order");
    scene.tell(Event::ReaderAt { reader: ReaderId(1), piece: PieceIndex(0), count: 100, patience: Duration::ZERO });
    assert_eq!(spread(&scene), Spread::Rare, "11 MiB lie behind what is lacking");
    for piece in 0..50 {
        scene.tell(Event::Received { request: None, piece: PieceIndex(piece), bytes: MIB });
    }
    assert_eq!(spread(&scene), Spread::Common);
}

#[test]
fn a_node_that_joins_itself_is_no_neighbour() {
    let mut scene = Scene::new(4);
    scene.join(0, Tier::Host, PieceSet::full(4));
    assert_eq!(scene.picker.holdings().count(), 0);
    assert_eq!(scene.requests(0), []);
}

#[test]
fn who_only_serves_asks_for_nothing_until_it_wants_the_whole() {
    let mut scene = Scene::new(4);
    scene.join(1, Tier::Rack, PieceSet::full(4));
    scene.tell(Event::Wants(false));
    assert_eq!(scene.requests(0), []);
    scene.tell(Event::Wants(true));
    assert_eq!(scene.requests(0).len(), 4);
}

#[test]
fn large_pieces_are_asked_for_a_few_at_a_time() {
    let requests = |piece_bytes| {
        let mut picker = Picker::new(node(0), piece_bytes, Tuning::default(), 7);
        picker.handle(Event::ManifestGrew { known: 0..40, total: Some(40) }, Moment::ZERO);
        for peer in 1..=4 {
            let (tier, held) = (Tier::Rack, PieceSet::full(40));
            picker.handle(Event::PeerJoined { peer: node(peer), tier, wants: true, held }, Moment::ZERO);
        }
        let mut actions = Vec::new();
        picker.poll(Moment::ZERO, &mut actions);
        actions.len()
    };
    let (small, large, huge) = (requests(MIB), requests(4 * MIB), requests(16 * MIB));
    assert!(small > large && large > huge && huge >= 2, "{small}, {large}, {huge}");
    assert!(large as u64 * 4 * MIB <= Tuning::default().bytes_in_flight);
}

#[test]
fn a_piece_that_is_late_from_afar_is_asked_twice_of_afar_only_where_nobody_near_has_it() {
    let asked_again = |near: bool| {
        let mut scene = Scene::new(64);
        scene.join(1, Tier::Far, PieceSet::full(64));
        for piece in 0..63 {
            scene.tell(Event::Received { request: None, piece: PieceIndex(piece), bytes: MIB });
        }
        let first = scene.requests(0);
        assert_eq!(first.len(), 1);
        scene.join(2, Tier::Far, PieceSet::full(64));
        if near {
            scene.join(3, Tier::Rack, PieceSet::full(64));
        }
        let again = scene.requests(1100);
        again.iter().map(|(_, peer, _)| *peer).collect::<Vec<_>>()
    };
    assert_eq!(asked_again(false), [node(2)]);
    assert_eq!(asked_again(true), [node(3)]);
}

#[test]
fn a_turn_is_the_longer_the_longer_pieces_take() {
    // Two nearby gave a piece each and took so long for it: when is a piece fetched from afar that was another's to fetch first?
    let takes_over = |millis: u64| {
        let mut scene = Scene::new(8);
        (1..=2).for_each(|peer| scene.join(peer, Tier::Rack, pieces(&[u32::from(peer) - 1])));
        let near = scene.requests(0);
        scene.now = scene.now + Duration::from_millis(millis);
        near.iter().for_each(|(id, _, piece)| scene.receive(*id, *piece));
        scene.join(9, Tier::Far, PieceSet::full(8));
        let own = scene.requests(0);
        assert!((1..4).contains(&own.len()), "some are the others' to fetch: {own:?}");
        let began = scene.now;
        while scene.requests(10).is_empty() {}
        let relied_on = scene.picker.open_requests().filter(|open| !open.overdue).count();
        assert!(relied_on > own.len(), "it is asked for before anything is late");
        scene.now.since(began)
    };
    let (quick, slow) = (takes_over(20), takes_over(200));
    assert!(quick < slow, "{quick:?} and {slow:?}");
}
