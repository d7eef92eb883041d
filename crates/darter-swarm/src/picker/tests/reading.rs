//! Readers that are behind, and whom they have to thank for their next pieces.

use super::*;

#[test]
fn the_very_next_pieces_come_in_order_though_those_after_the_first_are_rarer() {
    let mut scene = behind();
    scene.join(1, Tier::Rack, PieceSet::full(40));
    for peer in 2..=3 {
        scene.join(peer, Tier::Rack, PieceSet::full(2));
    }
    let mut asked: Vec<_> = scene.requests(0).into_iter().map(|(.., piece)| piece).collect();
    asked.sort_unstable();
    assert_eq!(asked, [0, 1, 2, 3, 4]);
}

#[test]
fn what_a_reader_stands_before_is_asked_of_another_when_its_holder_lets_it_wait() {
    let mut scene = behind();
    let (slow, quick) = (node(1), node(2));
    for peer in 1..=2 {
        scene.join(peer, Tier::Rack, PieceSet::full(40));
    }
    let mut open = scene.requests(0);
    let waits: Vec<u32> = open.iter().filter(|(_, of, _)| *of == slow).map(|(.., piece)| *piece).collect();
    assert!(waits.len() >= 2 && waits.iter().all(|piece| *piece < 8), "{waits:?}");
    let mut of_quick = Vec::new();
    // Long before a request counts as overdue.
    for _ in 0..15 {
        for (request, _, piece) in open.extract_if(.., |(_, of, _)| *of == quick).collect::<Vec<_>>() {
            of_quick.push(piece);
            scene.receive(request, piece);
        }
        open.extend(scene.requests(20));
    }
    assert!(waits.iter().all(|piece| of_quick.contains(piece)), "{waits:?} {of_quick:?}");
    assert!(!scene.picker.neighbours[0].meter.is_failing(), "it may be slow, or serve many");
}

#[test]
fn once_all_that_lacks_is_to_be_had_the_lead_is_asked_by_name_for_what_a_reader_needs_next() {
    let mut scene = behind();
    lead_gives(&mut scene);
    scene.join(1, Tier::Rack, PieceSet::full(200));
    assert!(asks(&scene.after(0)) > 0, "there is what nobody holds");
    for piece in (200..400).map(PieceIndex) {
        scene.picker.peer_has(node(1), &[piece]);
    }
    let actions = scene.after(1);
    let is_withdrawn = |action: &Action| matches!(action, Action::Cancel { peer, .. } if *peer == node(9));
    assert!(actions.iter().any(is_withdrawn));
    let of_lead = actions.iter().filter_map(|action| match action {
        Action::Request { peer, piece, .. } if *peer == node(9) => Some(piece.0),
        _ => None,
    });
    let of_lead: Vec<u32> = of_lead.collect();
    assert!(!of_lead.is_empty() && of_lead.iter().all(|piece| *piece < 32), "{actions:?}");
    assert_eq!(asks(&actions), 0);
}

#[test]
fn a_reader_is_behind_by_bytes_and_not_by_pieces() {
    let held_behind = |piece_bytes: u64, count: u32| {
        let mut picker = Picker::new(node(0), piece_bytes, Tuning::default(), 7);
        let (known, total) = (0..100, Some(100));
        picker.handle(Event::ManifestGrew { known, total }, Moment::ZERO);
        for piece in 1..=count {
            let piece = PieceIndex(piece);
            picker.handle(Event::Received { request: None, piece, bytes: piece_bytes }, Moment::ZERO);
        }
        let (reader, piece, patience) = (ReaderId(0), PieceIndex(0), Duration::ZERO);
        picker.handle(Event::ReaderAt { reader, piece, count: 1, patience }, Moment::ZERO);
        !picker.needs_of_readers().near.is_empty()
    };
    let lag = Tuning::default().reader_lag;
    let most = |piece_bytes: u64| u32::try_from(lag / piece_bytes).unwrap();
    for piece_bytes in [MIB / 2, MIB, 4 * MIB - 1] {
        assert!(!held_behind(piece_bytes, most(piece_bytes)), "{piece_bytes}");
        assert!(held_behind(piece_bytes, most(piece_bytes).max(3) + 2), "{piece_bytes}");
    }
}

#[test]
fn what_a_reader_stands_before_is_left_to_its_only_holder_though_others_have_nothing_to_do() {
    let mut scene = behind();
    let quick = node(2);
    scene.join(1, Tier::Rack, PieceSet::full(40));
    scene.join(2, Tier::Rack, pieces(&[200, 201]));
    let mut open = scene.requests(0);
    let waits: Vec<u32> = open.iter().filter(|(_, of, _)| *of == node(1)).map(|(.., piece)| *piece).collect();
    assert!(waits.len() >= 2 && waits.iter().all(|piece| *piece < 8), "{waits:?}");
    for _ in 0..20 {
        for (request, _, piece) in open.extract_if(.., |(_, of, _)| *of == quick).collect::<Vec<_>>() {
            scene.receive(request, piece);
        }
        open.extend(scene.requests(20));
    }
    assert!(scene.picker.held().contains(PieceIndex(200)), "what is usual is known");
    assert!(waits.iter().all(|piece| scene.picker.in_flight(PieceIndex(*piece))), "nobody else could give it");
}
