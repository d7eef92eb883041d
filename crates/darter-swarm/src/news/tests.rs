use darter_core::{PieceSet, Tier};

use super::*;
use crate::Event;

fn node(n: u8) -> NodeId {
    NodeId([n; 16])
}

fn pieces(list: &[u32]) -> Vec<PieceIndex> {
    list.iter().copied().map(PieceIndex).collect()
}

/// A node with neighbours that hold these pieces.
fn picker(neighbours: &[(u8, &[u32])]) -> Picker {
    let mut picker = Picker::new(node(0), 1 << 20, Tuning::default(), 1);
    picker.handle(Event::ManifestGrew { known: 0..8, total: Some(8) }, Moment::ZERO);
    for (peer, held) in neighbours {
        let held: PieceSet = pieces(held).into_iter().collect();
        picker.handle(Event::PeerJoined { peer: node(*peer), tier: Tier::Rack, wants: true, held }, Moment::ZERO);
    }
    picker
}

fn later(millis: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(millis)
}

#[test]
fn a_neighbour_is_told_of_what_it_lacks_and_the_lead_of_everything() {
    let picker = picker(&[(1, &[]), (2, &[3]), (3, &[3, 4])]);
    let mut news = News::new(Tuning::default());
    news.came(PieceIndex(3), false, Spread::Rare, Moment::ZERO);
    news.came(PieceIndex(4), false, Spread::Rare, Moment::ZERO);
    let told = news.take(later(20), &picker, &[node(1), node(2), node(3)], Some(node(9)));
    let have = |list: &[u32]| PieceNews::Have(pieces(list));
    assert_eq!(told, [(vec![node(1), node(9)], have(&[3, 4])), (vec![node(2)], have(&[4]))]);
}

#[test]
fn news_is_gathered_for_a_moment() {
    let picker = picker(&[(1, &[])]);
    let mut news = News::new(Tuning::default());
    assert_eq!(news.due(), None);
    news.came(PieceIndex(0), false, Spread::Rare, Moment::ZERO);
    assert_eq!(news.take(later(20), &picker, &[node(1)], None).len(), 1);
    news.came(PieceIndex(1), false, Spread::Rare, Moment::ZERO);
    assert!(news.take(later(21), &picker, &[node(1)], None).is_empty());
    news.came(PieceIndex(2), false, Spread::Rare, Moment::ZERO);
    assert!(news.due().is_some());
    let told = news.take(later(30), &picker, &[node(1)], None);
    assert_eq!(told, [(vec![node(1)], PieceNews::Have(pieces(&[1, 2])))]);
    assert_eq!(news.due(), None);
}

#[test]
fn many_neighbours_are_told_of_several_pieces_at_once() {
    let many: Vec<(u8, &[u32])> = (1..=60).map(|peer| (peer, &[][..])).collect();
    let picker = picker(&many);
    let neighbours: Vec<NodeId> = (1..=60).map(node).collect();
    let mut news = News::new(Tuning::default());
    let mut told = Vec::new();
    for step in 0..4 {
        news.came(PieceIndex(step), false, Spread::Rare, Moment::ZERO);
        let tellings = news.take(later(1000 + u64::from(step) * 20), &picker, &neighbours, None);
        told.extend(tellings.into_iter().map(|(_, message)| message));
    }
    assert_eq!(told, [PieceNews::Have(pieces(&[0]))], "the first at once, the others later");
    news.came(PieceIndex(4), false, Spread::Rare, Moment::ZERO);
    let tellings = news.take(later(1150), &picker, &neighbours, None);
    assert_eq!(tellings[0].1, PieceNews::Have(pieces(&[1, 2, 3, 4])));
}

#[test]
fn in_a_large_swarm_the_lead_is_told_seldom_and_misses_nothing() {
    let many: Vec<(u8, &[u32])> = (1..=60).map(|peer| (peer, &[][..])).collect();
    let picker = picker(&many);
    let neighbours: Vec<NodeId> = (1..=60).map(node).collect();
    let mut news = News::new(Tuning::default());
    let mut heard = Vec::new();
    for step in 0..80 {
        if step < 8 {
            news.came(PieceIndex(step), false, Spread::Rare, Moment::ZERO);
        }
        for (to, message) in news.take(later(20 + u64::from(step) * 50), &picker, &neighbours, Some(node(99))) {
            let PieceNews::Have(pieces) = message else { panic!("{message:?}") };
            if to.contains(&node(99)) {
                heard.push(pieces);
            }
        }
    }
    assert!(heard.len() <= 2, "{heard:?}");
    assert_eq!(heard.concat(), pieces(&[0, 1, 2, 3, 4, 5, 6, 7]));
    assert_eq!(news.due(), None);
}

#[test]
fn the_first_piece_after_a_join_waits_too_in_a_large_swarm() {
    let many: Vec<(u8, &[u32])> = (1..=60).map(|peer| (peer, &[][..])).collect();
    let (picker, neighbours): (_, Vec<NodeId>) = (picker(&many), (1..=60).map(node).collect());
    let mut news = News::new(Tuning::default());
    news.lead_knows(later(5000));
    news.came(PieceIndex(0), false, Spread::Rare, Moment::ZERO);
    let mut hears = |at| {
        let told = news.take(later(at), &picker, &neighbours, Some(node(99)));
        told.iter().any(|(to, _)| to.contains(&node(99)))
    };
    assert!(!hears(5300));
    assert!(hears(6000));
}

#[test]
fn a_neighbour_that_becomes_the_lead_is_told_what_only_the_lead_before_was_told() {
    let eight: Vec<(u8, &[u32])> = (1..=8).map(|peer| (peer, &[][..])).collect();
    let picker = picker(&eight);
    let neighbours: Vec<NodeId> = (1..=8).map(node).collect();
    let mut news = News::new(Tuning::default());
    news.came(PieceIndex(0), true, Spread::Rare, Moment::ZERO);
    news.take(later(1000), &picker, &neighbours, Some(node(9)));
    news.came(PieceIndex(1), true, Spread::Rare, Moment::ZERO);
    let have = PieceNews::Have(pieces(&[1]));
    let told = news.take(later(1012), &picker, &neighbours, Some(node(9)));
    assert_eq!(told, [(vec![node(9)], have.clone())], "neighbours wait");
    news.lead_knows(later(1013));
    let told = news.take(later(1100), &picker, &neighbours, Some(node(1)));
    let knows = |node: &NodeId| told.iter().any(|(nodes, message)| nodes.contains(node) && *message == have);
    assert!(neighbours.iter().all(knows), "{told:?}");
}

#[test]
fn what_the_lead_sent_is_confirmed_at_once() {
    let many: Vec<(u8, &[u32])> = (1..=60).map(|peer| (peer, &[][..])).collect();
    let (picker, neighbours): (_, Vec<NodeId>) = (picker(&many), (1..=60).map(node).collect());
    let mut news = News::new(Tuning::default());
    for (step, from_lead) in [(0, false), (1, false), (2, true)] {
        let now = later(2000 + u64::from(step) * 50);
        news.came(PieceIndex(step), from_lead, Spread::Rare, Moment::ZERO);
        let told = news.take(now, &picker, &neighbours, Some(node(99)));
        let hears = told.iter().any(|(to, _)| to.contains(&node(99)));
        assert_eq!(hears, step != 1, "the first of all, and what it waits for");
    }
}

#[test]
fn a_neighbour_that_lost_a_piece_is_told_who_holds_it_and_losses_are_told_to_all() {
    let picker = picker(&[(1, &[5]), (2, &[5])]);
    let mut news = News::new(Tuning::default());
    news.is_wanted_by(node(1), PieceIndex(5));
    news.went(PieceIndex(6));
    let told = news.take(later(20), &picker, &[node(1), node(2)], Some(node(2)));
    assert_eq!(told[0], (vec![node(1)], PieceNews::Have(pieces(&[5]))));
    assert_eq!(told[1], (vec![node(1), node(2)], PieceNews::Lost(pieces(&[6]))));
}

#[test]
fn the_first_hashes_are_news_without_any_piece() {
    let picker = picker(&[]);
    let mut news = News::new(Tuning::default());
    news.first_hashes();
    let told = news.take(later(20), &picker, &[node(1), node(2)], Some(node(9)));
    let expected = PieceNews::Have(Vec::new());
    assert_eq!(told, [(vec![node(1), node(2)], expected)], "the lead knows");
    assert_eq!(news.due(), None);
}

#[test]
fn two_pieces_of_the_lead_that_come_at_once_are_confirmed_at_once() {
    let many: Vec<(u8, &[u32])> = (1..=60).map(|peer| (peer, &[][..])).collect();
    let (picker, neighbours): (_, Vec<NodeId>) = (picker(&many), (1..=60).map(node).collect());
    let mut news = News::new(Tuning::default());
    news.came(PieceIndex(0), false, Spread::Rare, Moment::ZERO);
    news.take(later(2000), &picker, &neighbours, Some(node(99)));
    for piece in [1, 2] {
        news.came(PieceIndex(piece), true, Spread::Rare, Moment::ZERO);
    }
    news.came(PieceIndex(3), false, Spread::Rare, Moment::ZERO);
    let told = news.take(later(2050), &picker, &neighbours, Some(node(99)));
    assert_eq!(told, [(vec![node(99)], PieceNews::Have(pieces(&[1, 2, 3])))], "neighbours wait");
}

#[test]
fn without_a_lead_only_neighbours_are_told_and_without_neighbours_only_the_lead() {
    let (alone, with_one) = (picker(&[]), picker(&[(1, &[])]));
    let mut news = News::new(Tuning::default());
    news.came(PieceIndex(0), true, Spread::Rare, Moment::ZERO);
    let have = |list: &[u32]| PieceNews::Have(pieces(list));
    assert_eq!(news.take(later(1000), &with_one, &[node(1)], None), [(vec![node(1)], have(&[0]))]);
    assert_eq!(news.due(), None, "nobody else is to hear of it");
    news.came(PieceIndex(1), false, Spread::Rare, Moment::ZERO);
    assert_eq!(news.take(later(2000), &alone, &[], Some(node(9))), [(vec![node(9)], have(&[1]))]);
    news.went(PieceIndex(1));
    assert!(news.due().is_some());
    assert_eq!(news.take(later(3000), &alone, &[], Some(node(9))), [(vec![node(9)], PieceNews::Lost(pieces(&[1])))]);
    assert_eq!(news.due(), None);
}

#[test]
fn what_a_lead_was_told_when_it_let_this_node_in_is_not_told_it_twice() {
    let picker = picker(&[(1, &[])]);
    let mut news = News::new(Tuning::default());
    news.came(PieceIndex(0), false, Spread::Rare, Moment::ZERO);
    news.lead_knows(later(1000));
    news.came(PieceIndex(1), false, Spread::Rare, Moment::ZERO);
    let told = news.take(later(2000), &picker, &[node(1)], Some(node(9)));
    assert_eq!(told, [(vec![node(1), node(9)], PieceNews::Have(pieces(&[0, 1])))]);
}

/// News of a node with these neighbours, which were told of piece 0 at 1000 ms.
fn told(neighbours: u8) -> News {
    let many: Vec<(u8, &[u32])> = (1..=neighbours).map(|peer| (peer, &[][..])).collect();
    let mut news = News::new(Tuning::default());
    news.came(PieceIndex(0), false, Spread::Rare, later(1000));
    news.take(later(1000), &picker(&many), &(1..=neighbours).map(node).collect::<Vec<_>>(), None);
    news
}

#[test]
fn news_of_a_piece_that_neighbours_hold_already_waits_longer() {
    let tuning = Tuning::default();
    let due = |neighbours: u8, spread| {
        let mut news = told(neighbours);
        news.came(PieceIndex(1), false, spread, later(1001));
        news.neighbours_due()
    };
    for neighbours in [1, 7, 13, 14, 60] {
        let pause = tuning.tell_pause(neighbours.into());
        assert_eq!(due(neighbours, Spread::Rare), Some(later(1000) + pause), "{neighbours} neighbours");
        assert_eq!(due(neighbours, Spread::Common), Some(later(1001) + pause * tuning.common_pauses));
    }
}

#[test]
fn common_pieces_go_with_other_news() {
    let (picker, neighbours) = (picker(&[(1, &[]), (2, &[2])]), [node(1), node(2)]);
    let mut news = told(2);
    let soon = later(1000) + Tuning::default().tell_pause(2);
    news.came(PieceIndex(1), false, Spread::Common, later(1001));
    assert!(news.take(soon, &picker, &neighbours, None).is_empty(), "alone it waits");
    news.came(PieceIndex(2), false, Spread::Rare, soon);
    let have = |list: &[u32]| PieceNews::Have(pieces(list));
    let both = [(vec![node(2)], have(&[1])), (vec![node(1)], have(&[1, 2]))];
    assert_eq!(news.take(soon, &picker, &neighbours, None), both);
    assert_eq!(news.neighbours_due(), None);
    news.came(PieceIndex(3), false, Spread::Common, later(2000));
    assert!(news.neighbours_due() > Some(later(2000) + Tuning::default().tell_pause(2)), "the rare one is told");
}

#[test]
fn news_of_common_pieces_waits_for_no_more_of_them() {
    let (picker, neighbours) = (picker(&[(1, &[]), (2, &[])]), [node(1), node(2)]);
    let mut news = told(2);
    let pause = Tuning::default().tell_common_pause(2);
    news.came(PieceIndex(1), false, Spread::Common, later(1001));
    news.came(PieceIndex(2), false, Spread::Common, later(1001) + pause / 2);
    let told = news.take(later(1001) + pause, &picker, &neighbours, None);
    assert_eq!(told, [(vec![node(1), node(2)], PieceNews::Have(pieces(&[1, 2])))]);
}

#[test]
fn common_pieces_wait_no_longer_than_others_where_readers_do_or_nothing_more_comes() {
    let mut news = told(7);
    news.came(PieceIndex(1), false, Spread::Common, later(1001));
    let usual = news.neighbours_due();
    news.hurries(true);
    assert!(news.neighbours_due() < usual);
    news.hurries(false);
    news.at_once();
    assert_eq!(news.neighbours_due(), Some(later(1000)));
}

#[test]
fn where_readers_wait_neighbours_are_told_after_a_quarter_of_the_pause() {
    let due_after = |neighbours: u8, spread| {
        let mut news = told(neighbours);
        news.hurries(true);
        news.came(PieceIndex(1), false, spread, later(1001));
        news.neighbours_due().unwrap().since(later(1000))
    };
    for spread in [Spread::Rare, Spread::Common] {
        for neighbours in [16, 40, 60] {
            assert_eq!(due_after(neighbours, spread) * 4, Tuning::default().tell_pause(neighbours.into()));
        }
        for few in [1, 4, 8] {
            let each = due_after(16, spread) / 16;
            assert_eq!(
                due_after(few, spread),
                each * few.into(),
                "{few} neighbours: none are waited for twice as long"
            );
        }
    }
}
