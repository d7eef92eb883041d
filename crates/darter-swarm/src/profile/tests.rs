#![expect(clippy::single_range_in_vec_init, reason = "a list of pieces may be one run")]

use super::*;
use crate::random::Random;

const PIECE: u64 = 1 << 20;

fn bounds(total: u32) -> Bounds {
    Bounds { total: Some(total), piece_bytes: PIECE }
}

fn node(name: u8) -> NodeId {
    // Not one of those that are always asked.
    NodeId([name, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
}

fn of(records: &[&[u32]]) -> Profile {
    let mut profile = Profile::new(bounds(1000));
    for (name, pieces) in (1..).zip(records) {
        profile.record(node(name), pieces.iter().map(|piece| *piece..piece + 1));
    }
    profile
}

fn order(profile: &Profile) -> Vec<u32> {
    profile.order().pieces().collect()
}

#[test]
fn the_second_starter_gets_the_order_of_the_first() {
    let profile = of(&[&[900, 3, 4, 5, 70]]);
    assert_eq!(order(&profile), [900, 3, 4, 5, 70]);
    assert_eq!(profile.order().stretches(), [900..901, 3..6, 70..71]);
}

#[test]
fn what_few_touch_goes_to_the_end_and_what_very_few_touch_goes_out() {
    let profile = of(&[&[9, 1, 2], &[1, 2], &[1, 2, 8]]);
    assert_eq!(order(&profile), [1, 2, 9, 8], "one of three");
    let profile = of(&[&[9, 1, 2], &[1, 2], &[1, 2, 8], &[1, 2], &[8, 1, 2]]);
    assert_eq!(order(&profile), [1, 2, 8], "one of five, and two of five");
}

#[test]
fn a_node_that_says_so_again_has_gone_on_and_the_oldest_record_makes_room() {
    let mut profile = of(&[&[5]]);
    assert!(profile.record(node(1), [5..6, 7..9]));
    assert!(!profile.record(node(1), [5..6, 7..9]), "nothing new");
    assert!(!profile.record(node(2), []), "nothing was touched");
    assert_eq!((order(&profile), profile.records().len()), (vec![5, 7, 8], 1));
    for name in 2..=MAX_RECORDED as u8 {
        assert!(profile.wants_record_of(&node(name)));
        profile.record(node(name), [20..21]);
    }
    assert!(!profile.wants_record_of(&node(200)) && profile.wants_record_of(&node(1)));
    assert!(!profile.record(node(200), [30..31]), "it was not asked");
    let sampled = NodeId([16; 16]);
    assert!(profile.record(sampled, [30..31]));
    assert_eq!(profile.records().len(), MAX_RECORDED);
    assert!(profile.records().iter().all(|(by, _)| *by != node(1)), "the oldest one");
}

#[test]
fn a_pinned_list_stands_whatever_is_recorded_until_it_is_taken_away() {
    let mut profile = of(&[&[1, 2]]);
    profile.pin(Some(vec![50..53, 2000..3000]));
    profile.record(node(2), [7..8]);
    assert_eq!(order(&profile), [50, 51, 52]);
    profile.pin(None);
    assert_eq!(order(&profile), [1, 7, 2]);
}

#[test]
fn members_go_by_what_their_lead_says() {
    let mut profile = of(&[&[1, 2], &[3]]);
    assert!(profile.told_by(node(9), [40..42]) && !profile.told_by(node(9), [40..42]));
    assert_eq!(order(&profile), [40, 41]);
    assert!(profile.told_by(node(9), []));
    assert!(order(&profile).is_empty());
}

#[test]
fn a_lead_that_knows_nothing_takes_away_nothing_that_another_one_said() {
    let mut profile = of(&[]);
    assert!(profile.told_by(node(9), [40..42]));
    assert!(!profile.told_by(node(8), []), "a new lead with an empty disk");
    assert_eq!(order(&profile), [40, 41]);
    assert_eq!(profile.said_by_another(node(8)), [Stretch { first: 40, end: 42 }], "it is told");
    assert_eq!(profile.said_by_another(node(9)), [], "that is its own word");
    assert!(profile.told_by(node(8), [7..8]));
    assert_eq!(order(&profile), [7]);
}

#[test]
fn a_second_opening_on_the_same_node_adds_to_the_first_one() {
    let mut profile = of(&[&[5, 3, 9, 1]]);
    assert!(!profile.record(node(1), [3..4]), "the page cache had the rest");
    assert_eq!(order(&profile), [5, 3, 9, 1]);
    assert!(profile.record(node(1), [9..10, 20..21]), "something else was started");
    assert_eq!(order(&profile), [5, 3, 9, 1, 20]);
    assert!(!profile.record(node(1), [9..10, 20..21]));
}

#[test]
fn everybody_is_told_again_only_when_much_has_changed() {
    let mut profile = Profile::new(bounds(1000));
    assert!(!profile.is_news(), "nothing is known");
    profile.record(node(1), [0..100]);
    assert!(profile.is_news() && !profile.is_news());
    profile.record(node(1), [0..110]);
    assert!(!profile.is_news(), "a tenth");
    profile.record(node(1), [0..200]);
    assert!(profile.is_news() && !profile.is_news());
}

#[test]
fn what_lies_can_neither_make_it_large_nor_fetch_everything() {
    let backwards = Range { start: 5, end: 2 };
    let huge = [0..u32::MAX, backwards, 0..3, u32::MAX..u32::MAX];
    for (total, most) in [(10, 10), (40, 32), (1000, 256), (4000, 256)] {
        let all = Touches::heard(huge.clone(), bounds(total));
        assert_eq!(all.count(), most.min(total as usize), "{total}");
    }
    let unknown = Bounds { total: None, piece_bytes: 1 << 14 };
    assert_eq!(Touches::heard(huge, unknown).count(), (MAX_BYTES >> 14) as usize);
    // Every other piece: as many stretches as pieces.
    let scattered = Touches::heard((0..1_000_000).map(|at| at * 2..at * 2 + 1), unknown);
    assert!(scattered.stretches().len() <= MAX_STRETCHES);
    // The same over and over: a thousand times as much work as a list may be.
    let most = unknown.most() as u32;
    let again = std::iter::repeat_n(0..most - 1, MAX_STRETCHES - 1).chain([most..most + 1]);
    assert_eq!(Touches::heard(again, unknown).count(), most as usize - 1);
    let twice = std::iter::repeat_n(0..most - 1, 2).chain([most..most + 1]);
    assert_eq!(Touches::heard(twice, unknown).count(), most as usize, "as a list that goes on where another ended");
    // One that lies among five adds nothing, and the four are heard.
    let mut profile = of(&[&[1, 2], &[1, 2], &[1, 2], &[1, 2]]);
    profile.record(node(9), [500..900]);
    assert_eq!(order(&profile), [1, 2]);
}

/// Drawn records: whatever is said, the list is within bounds, has only pieces that enough touched, and each pair of pieces that all who
/// touched one of them touched in the same order stays in that order.
#[test]
fn an_order_in_which_all_agree_stays() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let total = 20 + random.below(200) as u32;
        let mut truth: Vec<u32> = (0..total).collect();
        for at in (1..truth.len()).rev() {
            truth.swap(at, random.below(at + 1));
        }
        let count = 1 + random.below(8);
        let mut profile = Profile::new(Bounds { total: Some(total), piece_bytes: 1 << 17 });
        let mut lists = Vec::new();
        for name in 0..count {
            // Each leaves out some, and some are all over the place.
            let mut list: Vec<u32> = truth.iter().copied().filter(|_| random.below(4) > 0).collect();
            if random.below(5) == 0 {
                list.reverse();
            }
            if !list.is_empty() {
                profile.record(node(name as u8), list.iter().map(|piece| *piece..piece + 1));
                lists.push(list);
            }
        }
        let order = order(&profile);
        assert_eq!(order.iter().collect::<HashSet<_>>().len(), order.len(), "{seed}: none twice");
        assert!(order.len() <= profile.bounds.most() && order.iter().all(|piece| *piece < total), "{seed}");
        let touched = |piece: u32| lists.iter().filter(move |list| list.contains(&piece));
        assert!(order.iter().all(|piece| touched(*piece).count() * 4 >= lists.len()), "{seed}");
        for (at, one) in order.iter().enumerate() {
            for other in &order[at + 1..] {
                let place = |list: &[u32], piece| list.iter().position(|it| *it == piece);
                let mut both = lists.iter().map(|list| (place(list, *one), place(list, *other)));
                let reversed = both.all(|places| match places {
                    (Some(one), Some(other)) => other < one,
                    (None, None) => true,
                    _ => false,
                });
                assert!(!reversed, "{seed}: {one} before {other}, and all had it the other way round");
            }
        }
        // Telling it on changes nothing.
        let mut member = Profile::new(profile.bounds);
        member.told_by(node(99), profile.order().to_told().into_iter().map(|it| it.first..it.end));
        assert_eq!(member.order(), profile.order(), "{seed}");
    }
}
