mod afar;
mod foreseen;
mod histories;
mod holders;
mod parts;
mod polls;
mod reading;
mod urgent;
mod watched;

use super::*;
use crate::pace::Pace;

const MIB: u64 = 1 << 20;

/// A picker and what it asked for, driven by hand.
struct Scene {
    picker: Picker,
    now: Moment,
}

fn node(n: u8) -> NodeId {
    NodeId([n; 16])
}

fn pieces(list: &[u32]) -> PieceSet {
    list.iter().copied().map(PieceIndex).collect()
}

impl Scene {
    fn new(total: u32) -> Self {
        let mut scene = Self { picker: Picker::new(node(0), MIB, Tuning::default(), 7), now: Moment::ZERO };
        scene.tell(Event::ManifestGrew { known: 0..total, total: Some(total) });
        scene
    }

    fn tell(&mut self, event: Event) {
        self.picker.handle(event, self.now);
    }

    fn join(&mut self, peer: u8, tier: Tier, held: PieceSet) {
        self.tell(Event::PeerJoined { peer: node(peer), tier, wants: true, held });
    }

    /// A quarter of a second later: so many requests stand at each peer for all blobs, and each took that long for its last piece.
    fn share(&mut self, among: u32, standing: impl Fn(u8) -> u32) {
        let before = self.now;
        self.now = self.now + Duration::from_millis(250);
        let mut pace = Pace::default();
        pace.answered(MIB, before, self.now, &Tuning::default());
        self.picker.share(among, self.now, |peer| Standing { named: standing(peer.0[0]), pace });
    }

    fn after(&mut self, millis: u64) -> Vec<Action> {
        self.now = self.now + Duration::from_millis(millis);
        let mut actions = Vec::new();
        self.picker.poll(self.now, &mut actions);
        actions
    }

    /// The named requests of a poll, as (peer, piece).
    fn requests(&mut self, millis: u64) -> Vec<(RequestId, NodeId, u32)> {
        let requests = self.after(millis).into_iter().filter_map(|action| match action {
            Action::Request { id, peer, piece, .. } => Some((id, peer, piece.0)),
            _ => None,
        });
        requests.collect()
    }

    fn receive(&mut self, request: RequestId, piece: u32) {
        self.tell(Event::Received { request: Some(request), piece: PieceIndex(piece), bytes: MIB });
    }
}

#[test]
fn the_rarest_piece_is_asked_for_first_and_no_holder_is_overloaded() {
    let mut scene = Scene::new(6);
    for peer in 1..=3 {
        let held = if peer == 1 { PieceSet::full(6) } else { PieceSet::full(5) };
        scene.join(peer, Tier::Rack, held);
    }
    let requests = scene.requests(0);
    assert!(requests.iter().any(|(_, peer, piece)| *peer == node(1) && *piece == 5));
    for peer in 1..=3 {
        assert!(requests.iter().filter(|(_, to, _)| *to == node(peer)).count() <= 4);
    }
    let mut asked: Vec<u32> = requests.iter().map(|(.., piece)| *piece).collect();
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), requests.len(), "no piece is asked for twice");
    assert_eq!(requests.len(), 6);
}

#[test]
fn of_several_holders_those_are_asked_whose_queues_are_shortest_with_what_stands_there_for_other_blobs() {
    let asked_of = |among, queues: [u32; 4]| {
        let mut scene = Scene::new(20);
        (1..=4).for_each(|peer| scene.join(peer, Tier::Rack, PieceSet::full(20)));
        scene.share(among, |peer| queues[usize::from(peer) - 1]);
        let mut peers: Vec<u8> = scene.requests(0).into_iter().map(|(_, peer, _)| peer.0[0]).collect();
        peers.sort_unstable();
        peers
    };
    assert_eq!(asked_of(6, [3, 0, 3, 2]), [2, 4]);
    assert_eq!(asked_of(6, [2, 3, 1, 3]), [1, 3]);
    // Requests that stood there before do not count once this blob is alone.
    let all = asked_of(1, [3, 0, 3, 2]);
    assert!((1..=4).all(|peer| all.iter().filter(|asked| **asked == peer).count() == 3), "{all:?}");
}

#[test]
fn a_holder_with_enough_to_do_for_other_blobs_is_asked_when_it_has_room_again() {
    let mut scene = Scene::new(20);
    (1..=2).for_each(|peer| scene.join(peer, Tier::Rack, PieceSet::full(20)));
    scene.share(6, |_| 8);
    assert_eq!(scene.requests(0), [], "whoever has the piece first would be bound to give it to all");
    let wakeup = scene.picker.next_wakeup().expect("nobody tells this picker of room");
    assert!(wakeup.since(scene.now) < Duration::from_millis(100));
    scene.share(6, |peer| if peer == 1 { 8 } else { 3 });
    assert_eq!(scene.requests(0).iter().map(|(_, peer, _)| *peer).collect::<Vec<_>>(), [node(2)]);
}

#[test]
fn an_answer_is_late_only_after_what_stands_before_it_for_other_blobs() {
    let asked_anew = |elsewhere| {
        let mut scene = Scene::new(20);
        (1..=4).for_each(|peer| scene.join(peer, Tier::Rack, PieceSet::full(20)));
        scene.share(6, |_| elsewhere);
        assert_eq!(scene.requests(0).len(), 2);
        scene.requests(2000).len()
    };
    assert_eq!(asked_anew(1), 2, "two pieces take half a second");
    assert_eq!(asked_anew(3), 0, "four take a second, and it may be three times that");
}

#[test]
fn a_holder_that_answers_for_other_blobs_only_is_not_waited_for_without_end() {
    let mut scene = Scene::new(20);
    (1..=2).for_each(|peer| scene.join(peer, Tier::Rack, PieceSet::full(20)));
    scene.share(6, |_| 1);
    assert_eq!(scene.requests(0).len(), 2, "all that one blob of six may have open");
    let mut asked_anew = Vec::new();
    for _ in 0..40 {
        scene.share(6, |_| 2);
        asked_anew.extend(scene.requests(0));
    }
    assert_eq!(asked_anew.len(), 2, "two that came to nothing hold up no others");
}

#[test]
fn a_blob_with_nothing_under_way_gets_a_place_though_others_fill_all() {
    let mut scene = Scene::new(20);
    scene.join(1, Tier::Rack, PieceSet::full(20));
    scene.share(2, |_| 4);
    assert_eq!(scene.requests(0).len(), 1, "one, and no more while it is under way");
}

#[test]
fn a_small_answer_says_nothing_of_a_rate() {
    let tuning = Tuning::default();
    let mut pace = Pace::default();
    pace.answered(MIB, Moment::ZERO, Moment::from_micros(10_000), &tuning);
    let before = pace.piece_time(MIB, &tuning);
    pace.answered(2_000, Moment::from_micros(10_000), Moment::from_micros(12_000), &tuning);
    assert_eq!(pace.piece_time(MIB, &tuning), before);
    assert_eq!(pace.last_answer(), Moment::from_micros(12_000));
}

#[test]
fn the_last_piece_of_one_blob_of_many_is_not_asked_for_twice() {
    let asked_twice = |standing| {
        let mut scene = Scene::new(64);
        scene.tell(Event::PeerJoined { peer: node(1), tier: Tier::Rack, wants: true, held: PieceSet::full(64) });
        for piece in 0..63 {
            scene.tell(Event::Received { request: None, piece: PieceIndex(piece), bytes: MIB });
        }
        assert_eq!(scene.requests(0).len(), 1);
        scene.join(2, Tier::Rack, PieceSet::full(64));
        scene.share(6, |_| standing);
        scene.requests(260 * u64::from(standing)).len()
    };
    assert_eq!(asked_twice(1), 1, "there is nothing else to wait for");
    assert_eq!(asked_twice(9), 0, "pieces of other blobs are coming");
}

#[test]
fn the_lead_is_asked_for_any_piece_as_long_as_that_is_useful() {
    let mut scene = Scene::new(3);
    scene.tell(Event::LeadChanged { lead: Some(node(9)) });
    let asks: Vec<RequestId> = scene
        .after(0)
        .into_iter()
        .map(|action| match action {
            Action::Ask { id, lead } if lead == node(9) => id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(asks.len(), 3, "no more asks than pieces are lacking");
    scene.tell(Event::Started { request: asks[0], piece: PieceIndex(2) });
    assert!(scene.picker.in_flight(PieceIndex(2)));
    scene.receive(asks[0], 2);
    scene.tell(Event::Received { request: None, piece: PieceIndex(0), bytes: MIB });
    let actions = scene.after(1);
    assert!(matches!(actions[..], [Action::Cancel { .. }]), "one piece is lacking, so one ask stands: {actions:?}");
    assert!(!scene.picker.is_complete());
}

#[test]
fn an_ask_that_the_lead_answers_is_not_called_back_when_fewer_are_useful() {
    let mut scene = Scene::new(3);
    scene.tell(Event::LeadChanged { lead: Some(node(9)) });
    let asks = scene.after(0);
    let &[Action::Ask { .. }, Action::Ask { .. }, Action::Ask { id: last, .. }] = &asks[..] else { panic!("{asks:?}") };
    scene.tell(Event::Started { request: last, piece: PieceIndex(2) });
    scene.tell(Event::Received { request: None, piece: PieceIndex(0), bytes: MIB });
    let actions = scene.after(1);
    assert!(matches!(actions[..], [Action::Cancel { id, .. }] if id != last), "{actions:?}");
    assert!(scene.picker.in_flight(PieceIndex(2)));
}

#[test]
fn half_of_a_large_swarm_asks_the_lead_at_once_and_everybody_in_the_end() {
    let Tuning { ask_late, neighbours, .. } = Tuning::default();
    let neighbours = neighbours as usize;
    for (neighbours, at_once) in [(neighbours - 1, 200..=200), (neighbours, 70..=130)] {
        let mut asked = [0, 0];
        for seed in 0..200 {
            let mut scene = Scene::new(8);
            scene.picker = Picker::new(node(0), MIB, Tuning::default(), seed);
            // The lead names neighbours before any of them is met.
            scene.picker.expect(neighbours);
            scene.tell(Event::LeadChanged { lead: Some(node(9)) });
            asked[0] += usize::from(!scene.after(0).is_empty());
            if let Some(wakeup) = scene.picker.next_wakeup() {
                assert!(wakeup <= scene.now + ask_late);
                let later = scene.after(wakeup.since(scene.now).as_millis() as u64 + 1);
                asked[1] += usize::from(!later.is_empty());
            }
        }
        assert!(at_once.contains(&asked[0]), "{neighbours} neighbours: {asked:?}");
        assert_eq!(asked[0] + asked[1], 200, "nobody is left out");
    }
}

#[test]
fn a_request_that_does_not_move_is_given_to_another_and_the_late_answer_is_welcome() {
    let mut scene = Scene::new(1);
    scene.join(1, Tier::Rack, PieceSet::full(1));
    let first = scene.requests(0)[0];
    scene.join(2, Tier::Rack, PieceSet::full(1));
    assert!(scene.requests(10).is_empty());
    // It may wake to find that nothing is due yet.
    let again = (0..10)
        .find_map(|_| {
            let wakeup = scene.picker.next_wakeup().unwrap();
            let requests = scene.requests(wakeup.since(scene.now).as_millis() as u64 + 1);
            requests.first().copied().map(|again| [again])
        })
        .unwrap();
    assert_eq!(again[0].1, node(2));
    scene.receive(first.0, 0);
    assert!(scene.picker.is_complete());
    assert_eq!(scene.after(0), [Action::Cancel { id: again[0].0, peer: node(2) }]);
}

#[test]
fn whoever_watches_sees_what_is_asked_of_whom_and_what_is_overdue() {
    let mut scene = Scene::new(2);
    scene.join(1, Tier::Rack, PieceSet::full(1));
    let asked = scene.requests(0)[0];
    let made = scene.now;
    let open = |scene: &Scene| scene.picker.open_requests().collect::<Vec<_>>();
    let expected = OpenRequest { peer: node(1), piece: Some(PieceIndex(asked.2)), moved: made, overdue: false };
    assert_eq!(open(&scene), [expected]);
    assert_eq!(scene.picker.holdings().collect::<Vec<_>>(), [(node(1), 1)]);
    scene.requests(3_001);
    assert_eq!(open(&scene), [OpenRequest { overdue: true, ..expected }]);
    scene.receive(asked.0, asked.2);
    assert_eq!(open(&scene), []);
}

#[test]
fn a_named_request_that_waits_is_withdrawn_when_the_lead_begins_to_send_the_piece() {
    let mut scene = Scene::new(2);
    scene.tell(Event::LeadChanged { lead: Some(node(9)) });
    let asks = scene.after(0);
    let Action::Ask { id: ask, .. } = asks[0] else { panic!("{asks:?}") };
    scene.join(1, Tier::Rack, pieces(&[0]));
    let named = scene.requests(0)[0];
    scene.tell(Event::Started { request: ask, piece: PieceIndex(0) });
    let actions = scene.after(0);
    assert!(actions.contains(&Action::Cancel { id: named.0, peer: node(1) }), "{actions:?}");
}

#[test]
fn the_only_holder_is_asked_anew_when_it_swallowed_a_request() {
    let mut scene = Scene::new(1);
    scene.join(1, Tier::Rack, PieceSet::full(1));
    assert_eq!(scene.requests(0).len(), 1);
    let mut asked_again = false;
    for _ in 0..100 {
        asked_again |= !scene.requests(200).is_empty();
    }
    assert!(asked_again);
}

#[test]
fn a_holder_that_lost_a_piece_is_not_asked_for_it_again_and_keeps_the_rest() {
    let mut scene = Scene::new(2);
    scene.join(1, Tier::Rack, PieceSet::full(2));
    let requests = scene.requests(0);
    assert_eq!(requests.len(), 2);
    scene.tell(Event::PeerLost { peer: node(1), piece: PieceIndex(0) });
    let refused = requests.iter().find(|(.., piece)| *piece == 0).unwrap().0;
    scene.tell(Event::Failed { request: refused });
    assert!(!scene.picker.in_flight(PieceIndex(0)), "it is asked of nobody");
    assert!(scene.requests(200).is_empty(), "nor asked there again");
    scene.join(2, Tier::Rack, PieceSet::new());
    scene.picker.peer_has(node(2), &[PieceIndex(0)]);
    assert!(scene.requests(0).iter().any(|(_, peer, piece)| *peer == node(2) && *piece == 0));
    scene.picker.peer_has(node(1), &[PieceIndex(0)]);
    scene.tell(Event::PeerLeft { peer: node(2) });
    let again = scene.requests(0);
    assert_eq!((again[0].1, again[0].2), (node(1), 0), "it has it again, and was never paused");
}

#[test]
fn a_liar_is_reported_and_never_asked_again_also_to_the_next_lead() {
    let mut scene = Scene::new(2);
    scene.join(1, Tier::Rack, PieceSet::full(2));
    let (id, peer, piece) = scene.requests(0)[0];
    scene.tell(Event::Corrupt { peer, request: Some(id), piece: PieceIndex(piece) });
    let report = Action::Report { peer, piece: PieceIndex(piece) };
    assert_eq!(scene.after(0), [report]);
    scene.join(1, Tier::Rack, PieceSet::full(2));
    assert!(scene.requests(10_000).is_empty());
    scene.tell(Event::LeadChanged { lead: Some(node(9)) });
    assert!(scene.after(0).contains(&report));
}

#[test]
fn what_a_lost_or_refusing_holder_owed_goes_to_others() {
    let mut scene = Scene::new(2);
    scene.join(1, Tier::Rack, PieceSet::full(2));
    let requests = scene.requests(0);
    assert_eq!(requests.len(), 2);
    scene.join(2, Tier::Rack, PieceSet::full(2));
    scene.tell(Event::Failed { request: requests[0].0 });
    let moved = scene.requests(0);
    assert_eq!((moved[0].1, moved[0].2), (node(2), requests[0].2));
    scene.tell(Event::PeerLeft { peer: node(1) });
    let moved = scene.requests(0);
    assert_eq!((moved[0].1, moved[0].2), (node(2), requests[1].2));
}

#[test]
fn a_reader_waits_for_its_patience_then_its_piece_is_asked_for_by_name_even_of_the_lead() {
    let mut scene = Scene::new(100);
    scene.tell(Event::Wants(false));
    scene.tell(Event::LeadChanged { lead: Some(node(9)) });
    assert!(scene.after(0).is_empty(), "a passive holder wants nothing");
    let patience = Duration::from_secs(1);
    scene.tell(Event::ReaderAt { reader: ReaderId(1), piece: PieceIndex(40), count: 1, patience });
    assert!(scene.after(500).is_empty());
    assert_eq!(scene.picker.next_wakeup(), Some(Moment::from_micros(1_000_000)));
    assert!(matches!(
        scene.after(500)[..],
        [Action::Request { peer, piece: PieceIndex(40), urgent: true, .. }] if peer == node(9)
    ));
    scene.tell(Event::ReaderGone { reader: ReaderId(1) });
}

#[test]
fn urgent_pieces_come_from_peers_if_they_have_them() {
    let mut scene = Scene::new(100);
    scene.tell(Event::LeadChanged { lead: Some(node(9)) });
    scene.tell(Event::Wants(false));
    scene.join(1, Tier::Rack, pieces(&[5]));
    scene.tell(Event::ReaderAt { reader: ReaderId(1), piece: PieceIndex(5), count: 1, patience: Duration::ZERO });
    assert_eq!(scene.requests(0)[0].1, node(1));
}

#[test]
fn a_slow_holder_is_left_alone_while_others_have_the_piece() {
    let mut scene = Scene::new(200);
    for peer in 1..=4 {
        scene.join(peer, Tier::Rack, PieceSet::full(200));
    }
    let mut late: Vec<(RequestId, u32)> = Vec::new();
    let mut asked_of_slow = 0;
    for round in 0..60 {
        for (id, peer, piece) in scene.requests(10) {
            if peer == node(4) {
                late.push((id, piece));
                asked_of_slow += u32::from(round > 30);
            } else {
                scene.receive(id, piece);
            }
        }
        if round % 8 == 7
            && let Some((id, piece)) = late.pop()
        {
            scene.receive(id, piece);
        }
    }
    assert_eq!(asked_of_slow, 0);
}

#[test]
fn the_same_lead_told_again_voids_its_asks_and_keeps_the_count_right() {
    let mut scene = Scene::new(50);
    for _ in 0..3 {
        scene.tell(Event::LeadChanged { lead: Some(node(9)) });
        let asks = scene.after(1).into_iter().filter(|action| matches!(action, Action::Ask { .. })).count();
        assert_eq!(asks, 4);
    }
}

#[test]
fn what_a_peer_claims_beyond_the_blob_is_ignored() {
    let mut scene = Scene::new(5);
    scene.join(1, Tier::Rack, PieceSet::new());
    scene.picker.peer_has(node(1), &[PieceIndex(u32::MAX - 1)]);
    scene.picker.peer_has(node(1), &[PieceIndex(4)]);
    let requests = scene.requests(0);
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].2, 4);
}

#[test]
fn a_node_whose_lead_names_as_many_neighbours_as_in_a_large_swarm_has_fewer_requests_open() {
    let tuning = Tuning::default();
    let open = |named: usize, met: u8| {
        let mut scene = Scene::new(400);
        scene.picker.expect(named);
        (1..=met).for_each(|peer| scene.join(peer, Tier::Rack, PieceSet::full(400)));
        scene.requests(0).len()
    };
    let large = tuning.neighbours as usize;
    assert!(tuning.in_all_large < tuning.in_all);
    assert_eq!(open(large - 1, tuning.neighbours as u8 - 1), tuning.in_all as usize, "all know each other");
    assert_eq!(open(large, tuning.neighbours as u8), tuning.in_all_large as usize);
    assert_eq!(open(large, 4), tuning.in_all_large as usize, "the others are still to be met");
}

#[test]
fn a_reader_that_is_behind_in_a_large_swarm_has_a_wider_window() {
    let tuning = Tuning::default();
    assert!(tuning.reader_window < tuning.reader_window_large);
    for (named, window) in
        [(tuning.neighbours - 1, tuning.reader_window), (tuning.neighbours, tuning.reader_window_large)]
    {
        let mut scene = behind();
        scene.picker.expect(named as usize);
        let needs = scene.picker.needs_of_readers();
        assert_eq!(needs.window.first(), Some(&(0..window)), "{named} neighbours");
    }
}

/// A node of a blob of 400 pieces that holds the last hundred and whose reader stands at the first.
fn behind() -> Scene {
    let mut scene = Scene::new(400);
    for piece in 300..400 {
        scene.tell(Event::Received { request: None, piece: PieceIndex(piece), bytes: MIB });
    }
    let patience = Duration::from_secs(1);
    scene.tell(Event::ReaderAt { reader: ReaderId(1), piece: PieceIndex(0), count: 1, patience });
    assert_eq!(scene.picker.lag(), 100);
    scene
}

/// The lead gives some of the pieces that come, of the end of the blob.
fn lead_gives(scene: &mut Scene) {
    scene.tell(Event::LeadChanged { lead: Some(node(9)) });
    for piece in 260..298 {
        let ask = scene.after(1).into_iter().find_map(|action| match action {
            Action::Ask { id, .. } => Some(id),
            _ => None,
        });
        if let Some(request) = ask {
            scene.tell(Event::Started { request, piece: PieceIndex(piece) });
            scene.receive(request, piece);
        }
    }
    assert!(scene.picker.lead_share > scene.picker.tuning.reader_lead_share);
}

fn asks(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Ask { .. })).count()
}

#[test]
fn a_reader_that_is_behind_is_given_the_rarest_of_what_it_needs_next() {
    let mut scene = behind();
    // Everybody has the first pieces, and one holder has rarer ones far ahead.
    for peer in 1..=3 {
        scene.join(peer, Tier::Rack, PieceSet::full(if peer == 1 { 300 } else { 40 }));
    }
    scene.join(4, Tier::Rack, pieces(&[7, 20, 200, 201, 202, 203]));
    let requests = scene.requests(0);
    let window = scene.picker.tuning.reader_window;
    assert_eq!(window, 32);
    assert!(requests.iter().filter(|(_, peer, _)| *peer != node(4)).all(|(.., piece)| *piece < window), "{requests:?}");
    // A holder that has little of it gives that, and the room that is left goes to the
    // rest.
    let mut of_last: Vec<_> =
        requests.iter().filter(|(_, peer, _)| *peer == node(4)).map(|(.., piece)| *piece).collect();
    of_last.sort_unstable();
    assert!(of_last.iter().filter(|piece| **piece < window).count() >= 1, "{of_last:?}");
}

#[test]
fn of_what_a_reader_that_is_behind_needs_the_very_next_pieces_come_first_though_others_are_as_rare() {
    let mut scene = behind();
    scene.join(1, Tier::Rack, PieceSet::full(300));
    for peer in 2..=3 {
        scene.join(peer, Tier::Rack, PieceSet::full(2));
    }
    let requests = scene.requests(0);
    let of_first: Vec<_> = requests.iter().filter(|(_, peer, _)| *peer == node(1)).map(|(.., piece)| *piece).collect();
    assert!(of_first.len() >= 3 && of_first.iter().all(|piece| *piece < 8), "{of_first:?}");
}

#[test]
fn without_a_reader_that_is_behind_the_rarest_of_all_comes_first() {
    for reads in [false, true] {
        let mut scene = Scene::new(400);
        if reads {
            // Little lies behind what it lacks.
            scene.tell(Event::Received { request: None, piece: PieceIndex(399), bytes: MIB });
            let patience = Duration::from_secs(1);
            scene.tell(Event::ReaderAt { reader: ReaderId(1), piece: PieceIndex(0), count: 1, patience });
        }
        scene.join(1, Tier::Rack, PieceSet::full(40));
        scene.join(2, Tier::Rack, PieceSet::full(40));
        scene.join(3, Tier::Rack, pieces(&[1, 2, 3, 200, 201, 202, 203]));
        let of_last: Vec<_> =
            scene.requests(0).into_iter().filter(|(_, peer, _)| *peer == node(3)).map(|(.., piece)| piece).collect();
        assert!(!of_last.is_empty() && of_last.iter().all(|piece| *piece >= 200), "{of_last:?}");
    }
}

#[test]
fn a_lead_is_not_asked_for_more_while_a_reader_is_behind_and_neighbours_have_what_it_needs() {
    let mut scene = behind();
    lead_gives(&mut scene);
    for peer in 1..=3 {
        scene.join(peer, Tier::Rack, PieceSet::full(30));
    }
    assert_eq!(asks(&scene.after(0)), 0);
    // Its reader catches up.
    for piece in 0..290 {
        scene.tell(Event::Received { request: None, piece: PieceIndex(piece), bytes: MIB });
    }
    assert!(asks(&scene.after(1)) > 0);
}

#[test]
fn a_lead_is_asked_for_what_nobody_has_while_a_neighbour_far_ahead_wants_it() {
    let mut scene = behind();
    lead_gives(&mut scene);
    for peer in 1..=3 {
        scene.join(peer, Tier::Rack, PieceSet::full(if peer == 1 { 290 } else { 30 }));
    }
    assert!(asks(&scene.after(0)) > 0);
}

#[test]
fn a_piece_that_was_lost_is_the_first_that_lacks() {
    let mut scene = Scene::new(10);
    for piece in 0..10 {
        scene.tell(Event::Received { request: None, piece: PieceIndex(piece), bytes: MIB });
    }
    assert_eq!(scene.picker.lag(), 0);
    scene.tell(Event::Lost { piece: PieceIndex(4) });
    assert_eq!(scene.picker.lag(), 5);
    scene.tell(Event::Received { request: None, piece: PieceIndex(4), bytes: MIB });
    assert_eq!(scene.picker.lag(), 0);
}

#[test]
fn what_somebody_nearby_holds_is_fetched_from_nobody_afar_though_one_there_has_nothing_else_to_do() {
    let mut scene = Scene::new(40);
    scene.join(1, Tier::Rack, PieceSet::full(40));
    scene.join(2, Tier::Far, PieceSet::full(40));
    for _ in 0..10 {
        let requests = scene.requests(50);
        assert!(requests.iter().all(|(_, peer, _)| *peer == node(1)), "{requests:?}");
        for (request, _, piece) in requests {
            scene.receive(request, piece);
        }
    }
    assert_eq!(scene.picker.held().len(), 40);
}
