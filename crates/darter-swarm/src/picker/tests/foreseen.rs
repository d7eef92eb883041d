use super::*;
use crate::Foresight;

/// The named requests of a poll, as (peer, piece, urgent).
fn asked(scene: &mut Scene) -> Vec<(u8, u32, bool)> {
    let asked = scene.after(1).into_iter().filter_map(|action| match action {
        Action::Request { peer, piece, urgent, .. } => Some((peer.0[0], piece.0, urgent)),
        _ => None,
    });
    asked.collect()
}

fn foreseen(reader: u64, piece: u32, count: u32, by: Foresight) -> Event {
    Event::Foreseen { reader: ReaderId(reader), piece: PieceIndex(piece), count, by }
}

/// A picker of a blob of which nobody wants everything, whose lead is node 9.
fn scene() -> Scene {
    let mut scene = Scene::new(1000);
    scene.tell(Event::Wants(false));
    scene.tell(Event::LeadChanged { lead: Some(node(9)) });
    scene
}

#[test]
fn what_a_reader_waits_for_comes_first_then_what_others_touched_then_what_a_pattern_tells() {
    let mut scene = scene();
    scene.tell(foreseen(1, 500, 2, Foresight::Pattern));
    scene.tell(foreseen(2, 700, 1, Foresight::Profile));
    scene.tell(foreseen(3, 30, 2, Foresight::Profile));
    let (reader, patience) = (ReaderId(4), Duration::ZERO);
    scene.tell(Event::ReaderAt { reader, piece: PieceIndex(10), count: 1, patience });
    let expected = [(10, true), (700, false), (30, false), (31, false), (500, false), (501, false)];
    assert_eq!(asked(&mut scene), expected.map(|(piece, urgent)| (9, piece, urgent)));
    assert_eq!(asked(&mut scene), [], "none is asked for twice");
}

#[test]
fn a_neighbour_that_holds_it_is_asked_and_the_lead_for_the_rest() {
    let mut scene = scene();
    scene.join(1, Tier::Rack, pieces(&[3]));
    scene.tell(foreseen(1, 2, 2, Foresight::Profile));
    assert_eq!(asked(&mut scene), [(9, 2, false), (1, 3, false)]);
}

#[test]
fn a_links_worth_is_under_way_at_a_time_and_more_as_it_comes() {
    let mut scene = scene();
    scene.tell(foreseen(1, 0, 500, Foresight::Profile));
    let first = scene.requests(0);
    assert_eq!(first.len(), Tuning::default().in_all as usize);
    scene.receive(first[0].0, first[0].2);
    assert_eq!(asked(&mut scene), [(9, first.len() as u32, false)]);
    // Of short pieces more.
    let mut short = Picker::new(node(0), 1 << 17, Tuning::default(), 7);
    let now = Moment::ZERO;
    short.handle(Event::ManifestGrew { known: 0..1000, total: Some(1000) }, now);
    short.handle(Event::Wants(false), now);
    short.handle(Event::LeadChanged { lead: Some(node(9)) }, now);
    short.handle(foreseen(1, 0, 500, Foresight::Profile), now);
    let mut actions = Vec::new();
    short.poll(now, &mut actions);
    assert_eq!(actions.len(), 32);
}

#[test]
fn what_is_not_foreseen_any_more_is_not_asked_for() {
    let mut scene = scene();
    scene.tell(foreseen(1, 5, 1, Foresight::Profile));
    scene.tell(foreseen(1, 6, 1, Foresight::Profile));
    assert_eq!(asked(&mut scene), [(9, 6, false)]);
    scene.tell(foreseen(2, 7, 1, Foresight::Pattern));
    scene.tell(Event::ReaderGone { reader: ReaderId(2) });
    assert_eq!(asked(&mut scene), []);
}

#[test]
fn what_a_program_waits_for_does_not_stand_behind_what_was_foreseen() {
    for neighbour in [false, true] {
        let mut scene = scene();
        if neighbour {
            scene.join(1, Tier::Rack, PieceSet::full(1000));
        }
        scene.tell(foreseen(1, 0, 500, Foresight::Profile));
        let first = scene.requests(0);
        let (reader, patience) = (ReaderId(4), Duration::ZERO);
        let (front, behind) = (first[0].2, first.last().unwrap().2);
        scene.tell(Event::ReaderAt { reader, piece: PieceIndex(behind), count: 1, patience });
        let actions = scene.after(1);
        let cancelled =
            |wanted| actions.iter().any(|action| matches!(action, Action::Cancel { id, .. } if *id == wanted));
        assert!(cancelled(first.last().unwrap().0), "{neighbour}: {actions:?}");
        let asked_anew = actions
            .iter()
            .any(|action| matches!(action, Action::Request { piece, urgent: true, .. } if piece.0 == behind));
        assert!(asked_anew, "{neighbour}: {actions:?}");
        assert!(!scene.after(1).iter().any(|action| matches!(action, Action::Cancel { .. })), "once");
        // The first of a queue comes as soon as an urgent one would.
        scene.tell(Event::ReaderAt { reader, piece: PieceIndex(front), count: 1, patience });
        assert!(!scene.after(1).iter().any(|action| matches!(action, Action::Cancel { .. })));
        // One that has begun to come goes on.
        scene.tell(Event::Progress { request: first[1].0, bytes: 1000 });
        scene.tell(Event::ReaderAt { reader, piece: PieceIndex(first[1].2), count: 1, patience });
        assert!(!scene.after(1).iter().any(|action| matches!(action, Action::Cancel { .. })));
    }
}
