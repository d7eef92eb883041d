//! A node that wants parts, alone and beside others.

use super::*;

const LEAD: u8 = 9;

/// A node that wants parts of a blob of a hundred pieces, and follows a lead.
fn starter(gives_parts: bool) -> Scene {
    let mut scene = Scene::new(100);
    scene.tell(Event::Wants(false));
    scene.tell(Event::LeadChanged { lead: Some(node(LEAD)) });
    scene.picker.lead_gives_parts(gives_parts);
    scene
}

fn joins(scene: &mut Scene, peer: u8, held: PieceSet) {
    scene.tell(Event::PeerJoined { peer: node(peer), tier: Tier::Rack, wants: false, held });
}

fn foresee(scene: &mut Scene, reader: u64, piece: u32) {
    let (reader, piece) = (ReaderId(reader), PieceIndex(piece));
    scene.tell(Event::Foreseen { reader, piece, count: 1, by: Foresight::Profile });
}

fn reads(scene: &mut Scene, piece: u32) {
    let (piece, patience) = (PieceIndex(piece), Duration::ZERO);
    scene.tell(Event::ReaderAt { reader: ReaderId(0), piece, count: 1, patience });
}

/// The asks of a poll, and its requests as (peer, piece).
fn asked(scene: &mut Scene, millis: u64) -> (usize, Vec<(NodeId, u32)>) {
    let actions = scene.after(millis);
    let requests = actions.iter().filter_map(|action| match action {
        Action::Request { peer, piece, .. } => Some((*peer, piece.0)),
        _ => None,
    });
    (asks(&actions), requests.collect())
}

#[test]
fn one_that_is_alone_or_whose_lead_is_older_asks_by_name() {
    let (old, new) = (starter(false), starter(true));
    for (mut scene, has_others) in [(new, false), (old, true)] {
        if has_others {
            joins(&mut scene, 1, PieceSet::new());
        }
        foresee(&mut scene, 1, 30);
        reads(&mut scene, 40);
        assert_eq!(asked(&mut scene, 0), (0, vec![(node(LEAD), 40), (node(LEAD), 30)]));
    }
    let mut scene = starter(true);
    scene.join(1, Tier::Rack, PieceSet::new());
    joins(&mut scene, 2, PieceSet::full(100));
    reads(&mut scene, 40);
    assert_eq!(asked(&mut scene, 0), (0, vec![(node(2), 40)]), "one wants everything, and the other has it");
}

#[test]
fn beside_others_the_lead_is_asked_for_any_of_them_and_neighbours_for_what_they_hold() {
    let mut scene = starter(true);
    joins(&mut scene, 1, pieces(&[31, 50]));
    (0..4).for_each(|at| foresee(&mut scene, at + 1, 30 + at as u32));
    assert_eq!(asked(&mut scene, 0), (3, vec![(node(1), 31)]), "50 is not sought");
    scene.picker.peer_has(node(1), &[PieceIndex(33)]);
    let (more, requests) = asked(&mut scene, 1);
    assert_eq!((more, requests), (0, vec![(node(1), 33)]));
    scene.tell(Event::ReaderGone { reader: ReaderId(1) });
    scene.tell(Event::ReaderGone { reader: ReaderId(3) });
    let withdrawn = scene.after(1).iter().filter(|action| matches!(action, Action::Cancel { .. })).count();
    assert_eq!(withdrawn, 2, "nothing is asked for that nobody wants any more");
}

#[test]
fn a_piece_that_a_reader_waits_for_is_asked_of_the_lead_by_name_when_it_does_not_come_from_others() {
    let mut scene = starter(true);
    joins(&mut scene, 1, PieceSet::new());
    reads(&mut scene, 40);
    assert_eq!(asked(&mut scene, 0), (1, vec![]), "it is given to whoever asks first");
    assert_eq!(asked(&mut scene, 100), (0, vec![]));
    reads(&mut scene, 40);
    let wakeup = scene.picker.next_wakeup().expect("nothing else happens").since(scene.now);
    assert!(wakeup <= Duration::from_millis(60), "it waits since it came to it: {wakeup:?}");
    assert_eq!(asked(&mut scene, 60), (0, vec![(node(LEAD), 40)]));
}

#[test]
fn one_that_holds_it_and_does_not_give_it_is_soon_given_up() {
    let mut scene = starter(true);
    joins(&mut scene, 1, pieces(&[40]));
    reads(&mut scene, 40);
    assert_eq!(asked(&mut scene, 0).1, [(node(1), 40)]);
    let mut waited = 0;
    loop {
        waited += 10;
        let (_, requests) = asked(&mut scene, 10);
        if requests.contains(&(node(LEAD), 40)) {
            break;
        }
        assert!(waited < 1000, "nobody else is asked");
    }
}

#[test]
fn what_others_come_to_need_that_went_the_same_way_is_sought_here_next() {
    let news = |pieces: std::ops::Range<u32>| pieces.map(PieceIndex).collect::<Vec<_>>();
    let heard = |scene: &mut Scene, peer: u8, pieces: &[PieceIndex]| {
        scene.picker.peer_has(node(peer), pieces);
        scene.picker.follow(node(peer), pieces, scene.now)
    };
    let mut scene = starter(true);
    joins(&mut scene, 1, PieceSet::new());
    assert!(!heard(&mut scene, 1, &news(40..42)), "nothing is read here");
    reads(&mut scene, 40);
    assert!(heard(&mut scene, 1, &news(42..44)));
    let (_, mut requests) = asked(&mut scene, 0);
    requests.sort_unstable();
    assert_eq!(requests, [(node(1), 40), (node(1), 42), (node(1), 43)]);
    assert!(!heard(&mut scene, 1, &news(60..80)), "it has much that nobody reads here");
    scene.join(2, Tier::Rack, PieceSet::new());
    assert!(!heard(&mut scene, 2, &news(50..51)), "it wants everything");
    joins(&mut scene, 3, PieceSet::new());
    assert!(heard(&mut scene, 3, &news(50..51)));
    scene.after(3000);
    assert!(!scene.picker.has_hints() && !heard(&mut scene, 3, &news(52..53)), "nobody has waited for long");
}

#[test]
fn a_neighbour_that_comes_to_want_everything_is_a_rival_and_still_the_one_that_was_asked() {
    let mut scene = Scene::new(10);
    joins(&mut scene, 1, pieces(&[3]));
    assert_eq!(asked(&mut scene, 0).1, [(node(1), 3)]);
    scene.join(1, Tier::Rack, pieces(&[3, 4]));
    assert_eq!(asked(&mut scene, 0).1, [(node(1), 4)], "3 is on its way");
    assert!(scene.picker.neighbours[0].wants);
    // One that has lost something may have been started anew: nothing that it was asked for comes.
    joins(&mut scene, 2, pieces(&[5]));
    assert_eq!(asked(&mut scene, 0).1, [(node(2), 5)]);
    scene.join(2, Tier::Rack, pieces(&[6]));
    scene.join(3, Tier::Rack, pieces(&[5]));
    let mut again = asked(&mut scene, 0).1;
    again.sort_unstable();
    assert_eq!(again, [(node(2), 6), (node(3), 5)]);
}

#[test]
fn a_piece_that_one_holds_is_asked_of_it_by_one_first_and_by_the_others_in_turn() {
    let waits = |me: u8| {
        let mut scene = starter(true);
        scene.picker = Picker::new(node(me), MIB, Tuning::default(), 7);
        scene.tell(Event::ManifestGrew { known: 0..100, total: Some(100) });
        scene.tell(Event::Wants(false));
        scene.tell(Event::LeadChanged { lead: Some(node(LEAD)) });
        scene.picker.lead_gives_parts(true);
        (1..=4).filter(|peer| *peer != me).for_each(|peer| joins(&mut scene, peer, PieceSet::new()));
        joins(&mut scene, 5, pieces(&[40]));
        reads(&mut scene, 40);
        (0..400)
            .find(|millis| asked(&mut scene, u64::from(*millis > 0)).1.contains(&(node(5), 40)))
            .expect("in the end")
    };
    let mut times: Vec<i32> = (1..=4).map(waits).collect();
    times.sort_unstable();
    assert_eq!(times[0], 0, "one does not wait: {times:?}");
    assert!(times[1] > 0 && times[3] > times[1] && times[3] <= 150, "{times:?}");
}

#[test]
fn only_a_start_beside_others_gives_requests_up_sooner() {
    let is_short = |scene: &Scene| scene.picker.tuning_now().overdue_floor < Tuning::default().overdue_floor;
    let mut scene = starter(true);
    assert!(!is_short(&scene), "it is alone");
    joins(&mut scene, 1, PieceSet::new());
    assert!(is_short(&scene));
    scene.tell(Event::Wants(true));
    assert!(!is_short(&scene), "it wants everything");
}

/// The piece may be the one that a program stands before.
#[test]
fn one_that_failed_is_asked_for_nothing_that_others_hold() {
    let mut scene = starter(true);
    joins(&mut scene, 1, pieces(&[30]));
    foresee(&mut scene, 1, 30);
    let actions = scene.after(0);
    let id = actions.iter().find_map(|action| match action {
        Action::Request { id, .. } => Some(*id),
        _ => None,
    });
    scene.tell(Event::Failed { request: id.expect("it holds it") });
    joins(&mut scene, 2, pieces(&[30, 31]));
    scene.picker.peer_has(node(1), &[PieceIndex(31)]);
    foresee(&mut scene, 2, 31);
    // Long after its pause.
    let (_, requests) = asked(&mut scene, 1000);
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|(peer, _)| *peer == node(2)), "{requests:?}");
}

#[test]
fn what_was_asked_for_later_keeps_nobody_from_finding_that_a_holder_gives_nothing() {
    let given_up_after = |later: u32| {
        let mut scene = starter(true);
        joins(&mut scene, 1, pieces(&[30, 31]));
        (0..=later).for_each(|at| foresee(&mut scene, u64::from(at) + 1, 30 + at));
        assert_eq!(asked(&mut scene, 0).1.len(), 1 + later as usize);
        let first =
            |scene: &Scene| scene.picker.open_requests().any(|it| it.piece == Some(PieceIndex(30)) && it.overdue);
        let mut waited = 0;
        while !first(&scene) {
            scene.after(10);
            waited += 10;
            assert!(waited < 5000);
        }
        waited
    };
    assert_eq!(given_up_after(1), given_up_after(0));
}

#[test]
fn a_request_waits_for_those_that_stand_before_it_at_the_same_holder() {
    let mut scene = starter(true);
    joins(&mut scene, 1, pieces(&[30, 31, 32]));
    joins(&mut scene, 2, pieces(&[40, 41]));
    [30, 40, 31, 41, 32].iter().for_each(|piece| foresee(&mut scene, u64::from(*piece), *piece));
    assert_eq!(asked(&mut scene, 0).1.len(), 5);
    let places = |peer: u8| {
        let of_it = scene.picker.requests.iter().filter(|request| request.peer == node(peer));
        of_it.map(|request| scene.picker.place_in_queue(request)).collect::<Vec<_>>()
    };
    assert_eq!((places(1), places(2)), (vec![Some(1), Some(2), Some(3)], vec![Some(1), Some(2)]));
}

#[test]
fn the_lead_is_asked_for_what_only_one_that_failed_holds() {
    let mut scene = starter(true);
    joins(&mut scene, 1, pieces(&[30]));
    foresee(&mut scene, 1, 30);
    let actions = scene.after(0);
    let &[Action::Request { id, .. }] = &actions[..] else { panic!("{actions:?}") };
    scene.tell(Event::Failed { request: id });
    joins(&mut scene, 2, PieceSet::new());
    // Long after its pause.
    assert_eq!(asked(&mut scene, 1000).0, 1);
}
