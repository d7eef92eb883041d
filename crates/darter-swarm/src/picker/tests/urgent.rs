//! Urgent requests: those made at once since a reader waits, those to the lead, and those to holders that are slow.

use super::*;

fn waits(scene: &mut Scene, piece: u32, count: u32, patience: u64) {
    let patience = Duration::from_millis(patience);
    scene.tell(Event::ReaderAt { reader: ReaderId(1), piece: PieceIndex(piece), count, patience });
}

/// The urgent requests of a poll, as (id, peer, piece).
fn urgent(scene: &mut Scene, millis: u64) -> Vec<(RequestId, NodeId, u32)> {
    let requests = scene.after(millis).into_iter().filter_map(|action| match action {
        Action::Request { id, peer, piece, urgent: true } => Some((id, peer, piece.0)),
        _ => None,
    });
    requests.collect()
}

fn names(requests: &[(RequestId, NodeId, u32)]) -> Vec<u32> {
    requests.iter().map(|(.., piece)| *piece).collect()
}

#[test]
fn all_pieces_that_a_reader_waits_for_at_once_are_asked_for_and_each_once() {
    let mut scene = Scene::new(100);
    scene.tell(Event::Wants(false));
    scene.join(1, Tier::Rack, PieceSet::full(100));
    scene.tell(Event::Received { request: None, piece: PieceIndex(41), bytes: MIB });
    waits(&mut scene, 40, 4, 0);
    let asked = urgent(&mut scene, 0);
    assert_eq!(names(&asked), [40, 42, 43]);
    assert_eq!(urgent(&mut scene, 1), []);
    for (id, _, piece) in &asked {
        scene.receive(*id, *piece);
    }
    assert_eq!(urgent(&mut scene, 1), [], "it has all that it waits for");
    waits(&mut scene, 98, 4, 0);
    assert_eq!(names(&urgent(&mut scene, 0)), [98, 99], "the blob ends there");
    waits(&mut scene, 10, 0, 0);
    assert_eq!(names(&urgent(&mut scene, 0)), [10], "one at least");
}

#[test]
fn a_reader_that_goes_on_in_time_makes_nothing_urgent() {
    let mut scene = Scene::new(100);
    scene.tell(Event::Wants(false));
    scene.join(1, Tier::Rack, PieceSet::full(100));
    waits(&mut scene, 40, 2, 1000);
    assert_eq!(urgent(&mut scene, 900), []);
    scene.tell(Event::Received { request: None, piece: PieceIndex(40), bytes: MIB });
    assert_eq!(urgent(&mut scene, 900), [], "its patience begins anew with each piece that it gets");
    scene.tell(Event::Received { request: None, piece: PieceIndex(90), bytes: MIB });
    assert_eq!(names(&urgent(&mut scene, 100)), [41], "and with no other");
}

#[test]
fn news_matters_to_a_node_without_room_only_while_a_reader_waits_for_an_urgent_piece() {
    let mut scene = Scene::new(100);
    for peer in 1..=3 {
        scene.join(peer, Tier::Rack, PieceSet::full(60));
    }
    waits(&mut scene, 70, 1, 1000);
    assert_eq!(scene.requests(0).len(), 12);
    assert!(!scene.picker.peer_has(node(1), &[PieceIndex(80)]), "its reader can wait");
    assert_eq!(urgent(&mut scene, 1000), [], "nobody has it");
    assert!(scene.picker.peer_has(node(2), &[PieceIndex(70)]));
    assert_eq!(names(&urgent(&mut scene, 1)), [70]);
    scene.tell(Event::ReaderGone { reader: ReaderId(1) });
    scene.after(1);
    assert!(!scene.picker.peer_has(node(3), &[PieceIndex(81)]));
}

#[test]
fn a_piece_that_comes_in_time_is_not_asked_for_twice_and_one_that_is_late_of_another() {
    let mut scene = Scene::new(1);
    scene.join(1, Tier::Rack, PieceSet::full(1));
    assert_eq!(scene.requests(0).len(), 1);
    scene.join(2, Tier::Rack, PieceSet::full(1));
    waits(&mut scene, 0, 1, 0);
    assert_eq!(urgent(&mut scene, 100), [], "it may come yet");
    // It may wake to find that nothing is due yet.
    let again = (0..10).find_map(|_| {
        let wakeup = scene.picker.next_wakeup().expect("nothing else happens");
        let pause = wakeup.since(scene.now);
        let requests = urgent(&mut scene, pause.as_millis() as u64);
        (!requests.is_empty()).then_some(requests)
    });
    let again = again.expect("it is late");
    assert_eq!(again.iter().map(|(_, peer, _)| *peer).collect::<Vec<_>>(), [node(2)]);
    assert_eq!(urgent(&mut scene, 1), []);
}

#[test]
fn of_those_who_have_an_urgent_piece_the_one_that_will_be_quickest_is_asked() {
    let mut scene = Scene::new(100);
    scene.tell(Event::Wants(false));
    for peer in 1..=3 {
        scene.join(peer, Tier::Rack, if peer == 3 { pieces(&[0]) } else { PieceSet::full(100) });
    }
    // Three stand at the first, one at the second.
    scene.picker.neighbours[0].meter.elsewhere = 3;
    scene.picker.neighbours[1].meter.elsewhere = 1;
    waits(&mut scene, 5, 1, 0);
    assert_eq!(urgent(&mut scene, 0)[0].1, node(2));
    waits(&mut scene, 6, 1, 0);
    assert_eq!(urgent(&mut scene, 0)[0].1, node(2));
    waits(&mut scene, 7, 1, 0);
    scene.tell(Event::PeerLeft { peer: node(2) });
    assert_eq!(urgent(&mut scene, 0)[0].1, node(1));
}

#[test]
fn a_lead_that_failed_is_asked_for_an_urgent_piece_when_its_pause_is_over() {
    let mut scene = Scene::new(10);
    scene.tell(Event::Wants(false));
    scene.tell(Event::LeadChanged { lead: Some(node(9)) });
    waits(&mut scene, 3, 1, 0);
    let first = urgent(&mut scene, 0);
    assert_eq!((first[0].1, first[0].2), (node(9), 3));
    scene.tell(Event::Failed { request: first[0].0 });
    assert_eq!(urgent(&mut scene, 0), []);
    let wakeup = scene.picker.next_wakeup().expect("nothing else happens");
    let pause = wakeup.since(scene.now);
    assert_eq!(names(&urgent(&mut scene, pause.as_millis() as u64)), [3]);
}

#[test]
fn the_more_neighbours_a_node_has_the_fewer_asks_stand_at_the_lead() {
    let asked = |neighbours: u8| {
        let mut scene = Scene::new(100);
        (1..=neighbours).for_each(|peer| scene.join(100 + peer, Tier::Rack, PieceSet::new()));
        scene.tell(Event::LeadChanged { lead: Some(node(9)) });
        asks(&scene.after(0)) + asks(&scene.after(5000))
    };
    let all = Tuning::default().neighbours as u8;
    let [none, few, many, most] = [0, 8, all - 1, all].map(asked);
    assert!(none > few && few == many && few > most && most == 1, "{none}, {few}, {many}, {most}");
}

#[test]
fn a_blob_of_unknown_length_is_asked_of_the_lead_though_no_hash_is_known() {
    let mut scene = Scene { picker: Picker::new(node(0), MIB, Tuning::default(), 7), now: Moment::ZERO };
    scene.tell(Event::LeadChanged { lead: Some(node(9)) });
    assert!(asks(&scene.after(0)) > 0);
    scene.tell(Event::ManifestGrew { known: 0..2, total: Some(2) });
    for piece in 0..2 {
        scene.tell(Event::Received { request: None, piece: PieceIndex(piece), bytes: MIB });
    }
    let withdrawn = scene.after(0);
    assert!(!withdrawn.is_empty() && withdrawn.iter().all(|action| matches!(action, Action::Cancel { .. })));
}

#[test]
fn what_only_a_slow_holder_has_is_asked_of_it_piece_by_piece_until_it_is_tried_again() {
    let mut scene = Scene::new(20);
    scene.join(1, Tier::Rack, PieceSet::full(20));
    scene.join(2, Tier::Rack, PieceSet::full(10));
    scene.picker.neighbours[0].slow_until = Some(scene.now + Duration::from_secs(10));
    scene.picker.slow_check = scene.now + Duration::from_secs(10);
    let mut asked = Vec::new();
    for _ in 0..6 {
        let requests = scene.requests(10);
        let of_slow: Vec<_> = requests.iter().filter(|(_, peer, _)| *peer == node(1)).collect();
        assert!(of_slow.len() <= 1, "{of_slow:?}");
        asked.extend(of_slow.iter().map(|(.., piece)| *piece));
        for (id, _, piece) in &requests {
            scene.receive(*id, *piece);
        }
    }
    assert!(asked.len() >= 5 && asked.iter().all(|piece| *piece >= 10), "{asked:?}");
    assert!(scene.requests(10_000).len() > 1, "it is a holder like others again");
}

#[test]
fn one_holder_is_asked_for_twice_as_many_urgent_pieces_as_for_others_and_for_more_when_it_gave_some() {
    let mut scene = Scene::new(100);
    scene.tell(Event::Wants(false));
    scene.join(1, Tier::Rack, PieceSet::full(100));
    for reader in 0..3 {
        let (reader, piece) = (ReaderId(reader), PieceIndex(reader as u32 * 20));
        scene.tell(Event::ReaderAt { reader, piece, count: 4, patience: Duration::ZERO });
    }
    let asked = urgent(&mut scene, 0);
    assert_eq!(names(&asked), [0, 1, 2, 3, 20, 21, 22, 23]);
    scene.receive(asked[5].0, asked[5].2);
    assert_eq!(names(&urgent(&mut scene, 0)), [40]);
}

#[test]
fn of_eight_holders_two_at_most_are_left_alone_for_being_slow() {
    for (slow, left_alone) in [(1, 1), (2, 2), (3, 2), (4, 2)] {
        let mut scene = Scene::new(100);
        for peer in 0..8 {
            scene.join(peer + 1, Tier::Rack, PieceSet::full(100));
            let took = if peer < slow { 2000 + u64::from(peer) * 100 } else { 100 };
            let meter = &mut scene.picker.neighbours[usize::from(peer)].meter;
            for answer in 0..4 {
                let (asked, now) =
                    [answer * took, (answer + 1) * took].map(|millis| Moment::from_micros(millis * 1000)).into();
                meter.pace.answered(MIB, asked, now, &Tuning::default());
            }
        }
        scene.picker.judge_rates(scene.now);
        let alone = scene.picker.neighbours.iter().filter(|neighbour| neighbour.slow_until.is_some()).count();
        assert_eq!(alone, left_alone, "{slow} are slow");
    }
}

#[test]
fn a_holder_that_becomes_slow_is_found_out_by_its_next_answer() {
    let mut scene = Scene::new(100);
    for peer in 1..=4 {
        scene.join(peer, Tier::Rack, PieceSet::full(100));
        let took = if peer == 1 { 180 } else { 100 };
        let meter = &mut scene.picker.neighbours[usize::from(peer) - 1].meter;
        for answer in 0..4 {
            let (asked, now) =
                [answer * took, (answer + 1) * took].map(|millis| Moment::from_micros(millis * 1000)).into();
            meter.pace.answered(MIB, asked, now, &Tuning::default());
        }
    }
    scene.now = Moment::from_micros(1_000_000);
    scene.picker.judge_rates(scene.now);
    assert!(scene.picker.neighbours.iter().all(|neighbour| neighbour.slow_until.is_none()));
    let (id, _, piece) = scene.requests(0).into_iter().find(|(_, peer, _)| *peer == node(1)).unwrap();
    scene.now = scene.now + Duration::from_secs(2);
    scene.receive(id, piece);
    let slow: Vec<_> = scene.picker.neighbours.iter().filter(|neighbour| neighbour.slow_until.is_some()).collect();
    assert_eq!(slow.iter().map(|neighbour| neighbour.id).collect::<Vec<_>>(), [node(1)]);
}

#[test]
fn a_neighbour_is_far_ahead_that_has_what_readers_need_and_as_much_again() {
    let window = Tuning::default().reader_window;
    for (held, is_asked) in [(window, false), (window + 18, false), (window * 2, false), (window * 2 + 1, true)] {
        let mut scene = behind();
        lead_gives(&mut scene);
        scene.join(1, Tier::Rack, PieceSet::full(held));
        (2..=3).for_each(|peer| scene.join(peer, Tier::Rack, PieceSet::full(30)));
        assert_eq!(asks(&scene.after(0)) > 0, is_asked, "{held}");
    }
}

#[test]
fn a_reader_does_not_wait_for_whether_a_holder_that_failed_gives_something_again() {
    let mut scene = Scene::new(100);
    scene.tell(Event::Wants(false));
    scene.tell(Event::LeadChanged { lead: Some(node(9)) });
    scene.join(1, Tier::Rack, pieces(&[40]));
    let tuning = Tuning::default();
    for _ in 0..tuning.failures_of_a_bad_one {
        scene.picker.neighbours[0].meter.failed(scene.now, &tuning);
    }
    scene.after(10_000);
    scene.tell(Event::ReaderAt { reader: ReaderId(1), piece: PieceIndex(40), count: 1, patience: Duration::ZERO });
    let asked: Vec<_> = scene.requests(0).iter().map(|(_, peer, piece)| (*peer, *piece)).collect();
    assert_eq!(asked, [(node(1), 40), (node(9), 40)]);
}
