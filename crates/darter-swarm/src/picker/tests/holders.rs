//! Holders that don't give what they hold: what they were asked for comes from others soon, and they are asked less and less.

use super::*;

/// The liar among the holders.
const LIAR: u8 = 4;

/// How the liar answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// As the others do.
    Honestly,
    Never,
    /// A byte at each look.
    ByBytes,
    AfterTenSeconds,
    Refusing,
    /// Takes the piece back, and holds it again a moment later.
    TakingBack,
    /// Goes, and comes again a moment later.
    ComingAndGoing,
}

/// A pull of so many pieces from three honest holders, each of which answers within a moment, and one other.
struct Pull {
    scene: Scene,
    total: u32,
    way: Way,
    /// Requests to the liar, with their pieces and times.
    at_liar: Vec<(RequestId, u32, Moment)>,
    asked_liar: u32,
    doubts: u32,
    requests: u32,
}

impl Pull {
    fn of(total: u32, way: Way) -> Self {
        let mut scene = Scene::new(total);
        (1..=LIAR).for_each(|peer| scene.join(peer, Tier::Rack, PieceSet::full(total)));
        Self { scene, total, way, at_liar: Vec::new(), asked_liar: 0, doubts: 0, requests: 0 }
    }

    /// Ten milliseconds pass.
    fn step(&mut self) {
        for action in self.scene.after(10) {
            match action {
                Action::Request { id, peer, piece, .. } if peer == node(LIAR) && self.way != Way::Honestly => {
                    self.requests += 1;
                    self.asked_liar += 1;
                    self.at_liar.push((id, piece.0, self.scene.now));
                }
                Action::Request { id, piece, .. } => {
                    self.requests += 1;
                    self.scene.receive(id, piece.0);
                }
                Action::Cancel { id, .. } => self.at_liar.retain(|(asked, ..)| *asked != id),
                Action::Doubt { peer } => {
                    assert_eq!(peer, node(LIAR));
                    self.doubts += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        let now = self.scene.now;
        match self.way {
            Way::Honestly | Way::Never => {}
            Way::ByBytes => {
                if let Some((id, _, since)) = self.at_liar.first().copied() {
                    let bytes = now.since(since).as_millis() as u64 / 10;
                    self.scene.tell(Event::Progress { request: id, bytes });
                }
            }
            Way::AfterTenSeconds => {
                let due: Vec<_> =
                    self.at_liar.extract_if(.., |(_, _, since)| *since + Duration::from_secs(10) <= now).collect();
                due.into_iter().for_each(|(id, piece, _)| self.scene.receive(id, piece));
            }
            Way::Refusing => {
                for (id, ..) in std::mem::take(&mut self.at_liar) {
                    self.scene.tell(Event::Failed { request: id });
                }
            }
            Way::ComingAndGoing => {
                if !std::mem::take(&mut self.at_liar).is_empty() {
                    self.scene.tell(Event::PeerLeft { peer: node(LIAR) });
                    self.scene.join(LIAR, Tier::Rack, PieceSet::full(self.total));
                }
            }
            Way::TakingBack => {
                for (_, piece, _) in std::mem::take(&mut self.at_liar) {
                    self.scene.tell(Event::PeerLost { peer: node(LIAR), piece: PieceIndex(piece) });
                    self.scene.picker.peer_has(node(LIAR), &[PieceIndex(piece)]);
                }
            }
        }
    }

    /// How long it takes until all is there.
    fn run(&mut self) -> Duration {
        while !self.scene.picker.is_complete() {
            self.step();
            assert!(self.scene.now < Moment::from_micros(60_000_000), "{:?}: it does not end", self.way);
        }
        self.scene.now.since(Moment::ZERO)
    }
}

#[test]
fn who_does_not_answer_in_whatever_way_holds_nobody_up_and_is_asked_for_little() {
    let usual = Pull::of(3000, Way::Honestly).run();
    let ways = [Way::Never, Way::ByBytes, Way::AfterTenSeconds, Way::Refusing, Way::TakingBack, Way::ComingAndGoing];
    for way in ways {
        let mut pull = Pull::of(3000, way);
        let took = pull.run();
        // A quarter of the places were the liar's, and the others' are as few as before.
        assert!(took <= usual.mul_f64(1.5), "{way:?}: {took:?} instead of {usual:?}");
        assert!(pull.asked_liar <= 20, "{way:?}: asked {} times", pull.asked_liar);
        assert!(pull.doubts > 0, "{way:?}: whoever leads has to know");
    }
}

#[test]
fn the_last_piece_does_not_stand_at_a_liar() {
    for way in [Way::Never, Way::ByBytes, Way::AfterTenSeconds, Way::Refusing, Way::TakingBack] {
        let took = Pull::of(12, way).run();
        assert!(took <= Duration::from_millis(1500), "{way:?}: {took:?}");
    }
}

#[test]
fn a_piece_that_only_a_liar_says_it_holds_is_asked_of_it_again_and_again_without_end_for_nobody_else_has_it() {
    let mut scene = Scene::new(1);
    scene.join(LIAR, Tier::Rack, PieceSet::full(1));
    let mut asked = 0;
    for _ in 0..600 {
        asked += scene.requests(100).len();
    }
    assert!((3..=12).contains(&asked), "asked {asked} times in a minute");
    // And of a neighbour that comes to hold it, at once.
    scene.join(1, Tier::Rack, PieceSet::full(1));
    let asked = (0..60).find_map(|_| scene.requests(100).pop());
    assert_eq!(asked.map(|(_, peer, _)| peer), Some(node(1)));
}

#[test]
fn a_holder_slower_than_the_others_by_nine_is_not_taken_for_one_that_does_not_answer() {
    let mut scene = Scene::new(400);
    (1..=LIAR).for_each(|peer| scene.join(peer, Tier::Rack, PieceSet::full(400)));
    // The others take 100 ms for a piece, and this one 900.
    let mut queues: [Vec<(RequestId, u32)>; LIAR as usize + 1] = Default::default();
    let mut asked = Vec::new();
    let mut spent = 0;
    // The last pieces may be asked for twice of whomever.
    while scene.picker.held().len() < 385 {
        scene.now = scene.now + Duration::from_millis(100);
        spent = if queues[usize::from(LIAR)].is_empty() { 0 } else { spent + 100 };
        for (peer, queue) in (0..).zip(&mut queues) {
            let Some((id, piece)) = queue.first().copied() else { continue };
            if peer != LIAR || spent >= 900 {
                spent = if peer == LIAR { 0 } else { spent };
                queue.remove(0);
                scene.receive(id, piece);
            } else {
                scene.tell(Event::Progress { request: id, bytes: MIB * spent / 900 });
            }
        }
        for (id, peer, piece) in scene.requests(0) {
            asked.push(piece);
            queues[usize::from(peer.0[0])].push((id, piece));
        }
    }
    asked.sort_unstable();
    let before = asked.len();
    asked.dedup();
    assert_eq!(asked.len(), before, "no piece is asked for twice");
}

#[test]
fn the_last_pieces_are_not_asked_of_one_that_failed_once_while_others_hold_them() {
    let mut scene = Scene::new(20);
    for peer in [1, LIAR] {
        scene.join(peer, Tier::Rack, PieceSet::full(20));
    }
    let mut asked = scene.requests(0);
    let at_liar = asked.iter().find(|(_, peer, _)| *peer == node(LIAR)).map(|(id, ..)| *id);
    scene.tell(Event::Failed { request: at_liar.expect("it is one of two holders") });
    for _ in 0..20 {
        for (id, _, piece) in asked.iter().filter(|(_, peer, _)| *peer == node(1)) {
            scene.receive(*id, *piece);
        }
        asked = scene.requests(100);
        assert!(asked.iter().all(|(_, peer, _)| *peer == node(1)), "{asked:?}");
    }
}

#[test]
fn one_that_failed_once_is_asked_again_while_the_end_is_far() {
    let mut scene = Scene::new(60);
    [1, LIAR].iter().for_each(|peer| scene.join(*peer, Tier::Rack, PieceSet::full(60)));
    let asked = scene.requests(0);
    let at_liar = asked.iter().find(|(_, peer, _)| *peer == node(LIAR)).map(|(id, ..)| *id);
    scene.tell(Event::Failed { request: at_liar.expect("it is one of two holders") });
    let again = scene.requests(1000);
    assert!(again.iter().any(|(_, peer, _)| *peer == node(LIAR)), "{again:?}");
}

#[test]
fn what_the_only_holder_sends_at_a_crawl_is_not_called_back() {
    let mut scene = Scene::new(2);
    scene.join(1, Tier::Rack, PieceSet::full(2));
    let asked = scene.requests(0);
    let mut called_back = 0;
    for second in 1..=100_u64 {
        scene.tell(Event::Progress { request: asked[0].0, bytes: second * MIB / 100 });
        let calls = |action: &Action| matches!(action, Action::Cancel { id, .. } if *id == asked[0].0);
        called_back += scene.after(1000).iter().filter(|action| calls(action)).count();
    }
    assert_eq!(called_back, 0);
    scene.receive(asked[0].0, asked[0].2);
    assert!(scene.picker.held().contains(PieceIndex(asked[0].2)));
}

/// A fleet of three honest holders that take 300 ms for a piece each, and one that answers after ten seconds, whatever it is asked for.
#[test]
fn whoever_answers_late_is_waited_for_no_longer_the_second_time_nor_when_its_answers_come() {
    let mut scene = Scene::new(600);
    (1..=LIAR).for_each(|peer| scene.join(peer, Tier::Rack, PieceSet::full(600)));
    let mut open: Vec<(Moment, RequestId, NodeId, u32)> = Vec::new();
    let mut longest = Duration::ZERO;
    while scene.now < Moment::from_micros(60_000_000) && !scene.picker.is_complete() {
        for action in scene.after(100) {
            match action {
                Action::Request { id, peer, piece, .. } => open.push((scene.now, id, peer, piece.0)),
                Action::Cancel { id, .. } => open.retain(|(_, asked, ..)| *asked != id),
                _ => {}
            }
        }
        let now = scene.now;
        let takes = |peer: &NodeId| Duration::from_millis(if *peer == node(LIAR) { 10_000 } else { 300 });
        for peer in (1..=LIAR).map(node) {
            let mut asked = open.iter().filter(|(_, _, of, _)| *of == peer).copied();
            let Some((since, id, of, piece)) = asked.next() else { continue };
            if now.since(since) >= takes(&of) {
                open.retain(|(_, asked, ..)| *asked != id);
                scene.receive(id, piece);
            }
        }
        // For how long a piece was asked of nobody but the liar.
        let alone = open.iter().filter(|(_, _, of, piece)| {
            *of == node(LIAR) && !open.iter().any(|(_, _, other, same)| other != of && same == piece)
        });
        let waits =
            alone.filter(|(.., piece)| scene.picker.in_flight(PieceIndex(*piece))).map(|(since, ..)| now.since(*since));
        longest = longest.max(waits.max().unwrap_or_default());
    }
    assert!(longest <= Duration::from_secs(4), "a piece was asked of nobody else for {longest:?}");
}

#[test]
fn what_is_asked_of_one_that_let_this_node_down_is_asked_of_others_too() {
    let mut scene = Scene::new(1);
    scene.join(LIAR, Tier::Rack, PieceSet::full(1));
    scene.tell(Event::LeadChanged { lead: Some(node(9)) });
    // It lets this node down until it is asked for one piece at a time.
    let mut asks = 0;
    let mut stands_at_liar = false;
    for _ in 0..300 {
        for action in scene.after(100) {
            match action {
                Action::Request { peer, .. } => stands_at_liar = peer == node(LIAR),
                Action::Cancel { peer, .. } if peer == node(LIAR) => stands_at_liar = false,
                Action::Cancel { .. } => asks -= 1,
                Action::Ask { .. } => asks += 1,
                _ => {}
            }
        }
    }
    assert!(asks > 0, "the lead may give it");
    while !stands_at_liar || scene.picker.open_requests().any(|open| open.overdue) {
        stands_at_liar |= scene.requests(100).iter().any(|(_, peer, _)| *peer == node(LIAR));
    }
    scene.join(1, Tier::Rack, PieceSet::full(1));
    assert_eq!(scene.requests(0).iter().map(|(_, peer, _)| *peer).collect::<Vec<_>>(), [node(1)], "at once");
}

#[test]
fn what_came_from_another_is_withdrawn_from_who_is_late_with_it() {
    let mut scene = Scene::new(1);
    scene.join(1, Tier::Rack, PieceSet::full(1));
    let late = scene.requests(0)[0].0;
    scene.join(2, Tier::Rack, PieceSet::full(1));
    let again = scene.requests(3100)[0];
    assert_eq!((again.1, scene.picker.requests.len()), (node(2), 2), "the late answer would be welcome");
    scene.receive(again.0, 0);
    assert_eq!(scene.after(0), [Action::Cancel { id: late, peer: node(1) }], "not any more");
}

#[test]
fn what_a_lead_is_sending_when_another_takes_its_place_is_not_called_back() {
    let mut scene = Scene::new(3);
    scene.tell(Event::LeadChanged { lead: Some(node(9)) });
    let asked = |action| if let Action::Ask { id, .. } = action { Some(id) } else { None };
    let asks: Vec<RequestId> = scene.after(0).into_iter().filter_map(asked).collect();
    scene.tell(Event::Started { request: asks[1], piece: PieceIndex(2) });
    scene.after(0);
    scene.tell(Event::LeadChanged { lead: Some(node(8)) });
    let called = |action| if let Action::Cancel { id, peer } = action { Some((id, peer)) } else { None };
    let mut called_back: Vec<_> = scene.after(0).into_iter().filter_map(called).collect();
    called_back.sort_unstable_by_key(|(id, _)| id.0);
    assert_eq!(called_back, [(asks[0], node(9)), (asks[2], node(9))], "these would stand for ever");
}

#[test]
fn the_last_piece_is_not_asked_a_second_time_of_one_that_failed_again_and_again() {
    let asked_again = |failures: u32| {
        let mut scene = Scene::new(64);
        for piece in 0..63 {
            scene.tell(Event::Received { request: None, piece: PieceIndex(piece), bytes: MIB });
        }
        scene.join(LIAR, Tier::Rack, PieceSet::full(64));
        for _ in 0..failures {
            let request = scene.requests(200)[0].0;
            scene.tell(Event::Failed { request });
        }
        scene.tell(Event::PeerLost { peer: node(LIAR), piece: PieceIndex(63) });
        scene.join(1, Tier::Rack, PieceSet::full(64));
        assert_eq!(scene.requests(0).iter().map(|(_, peer, _)| *peer).collect::<Vec<_>>(), [node(1)]);
        scene.picker.peer_has(node(LIAR), &[PieceIndex(63)]);
        scene.requests(1100).iter().map(|(_, peer, _)| *peer).collect::<Vec<_>>()
    };
    assert_eq!(asked_again(0), [node(LIAR)], "the first takes longer than expected");
    assert_eq!(asked_again(1), [node(LIAR)], "that may happen once");
    assert_eq!(asked_again(2), []);
}
