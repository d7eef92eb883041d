//! Members that want parts: each is given what it waits for and nothing else.

use super::*;

fn starts(lead: &mut Lead, n: u16, wishes: &[u32]) {
    lead.join(node(n), Place::default(), &PieceSet::new(), false);
    wants(lead, n, wishes);
}

fn wants(lead: &mut Lead, n: u16, wishes: &[u32]) {
    let wish = |first: &u32| Wish { first: *first, end: first + 1, within: Duration::from_secs(1) };
    lead.wants(node(n), false);
    lead.wish(node(n), &wishes.iter().map(wish).collect::<Vec<_>>(), at(0));
}

#[test]
fn each_member_is_given_a_piece_that_it_waits_for_in_its_order_and_each_piece_once() {
    let mut lead = lead(100, 100);
    let list = [70, 3, 41, 12, 99];
    (1..=3).for_each(|n| starts(&mut lead, n, &list));
    let given: Vec<_> = (0..5).map(|turn| lead.choose(node(turn % 3 + 1), at(1)).expect("it waits for it").0).collect();
    assert_eq!(given, list);
    assert_eq!(lead.choose(node(1), at(2)), None, "the rest comes from others, and nothing else is wanted");
    wants(&mut lead, 1, &[50]);
    assert_eq!(lead.choose(node(1), at(3)), Some(PieceIndex(50)));
}

#[test]
fn one_that_wants_everything_after_all_is_given_anything() {
    let mut lead = lead(100, 100);
    lead.join(node(1), Place::default(), &PieceSet::new(), false);
    assert_eq!(lead.choose(node(1), at(0)), None, "it said nothing yet");
    lead.wants(node(1), true);
    assert_eq!(lead.choose(node(1), at(0)), Some(PieceIndex(0)));
}

#[test]
fn one_that_wants_everything_after_all_is_waited_for_and_gets_to_know_those_that_have_it() {
    let mut lead = lead(10, 10);
    lead.join(node(2), Place::default(), &PieceSet::full(10), false);
    starts(&mut lead, 1, &[3]);
    let knows_it = |lead: &mut Lead| {
        let notice = lead.take_notice(node(1));
        notice.is_some_and(|notice| notice.gained.iter().any(|peer| peer.node == node(2)))
    };
    assert!(!lead.is_wanted() && !knows_it(&mut lead));
    lead.wants(node(1), true);
    assert!(lead.is_wanted() && knows_it(&mut lead));
    lead.wants(node(1), true);
    assert!(!knows_it(&mut lead), "it does already");
}

#[test]
fn wishes_for_more_than_there_is_are_granted_as_far_as_there_is_something_and_cost_no_more() {
    let mut lead = lead(100, 100);
    starts(&mut lead, 1, &[]);
    let wish = Wish { first: 2, end: crate::MAX_PIECES, within: Duration::from_secs(1) };
    lead.wish(node(1), &[wish; 64], at(0));
    let given: Vec<_> = (0..98).map(|_| lead.choose(node(1), at(1)).expect("it waits for it").0).collect();
    assert_eq!(given, (2..100).collect::<Vec<_>>());
    // All of this at each look would keep the lead from anything else.
    assert!((0..100).all(|_| lead.choose(node(1), at(1)).is_none()));
    let slot = lead.members.slot(node(1)).expect("it is in");
    let parts: u32 = lead.members.get(slot).parts.iter().flatten().map(|run| run.end - run.start).sum();
    assert!(parts < crate::MAX_PIECES / 10, "{parts}");
}

#[test]
fn members_that_want_parts_are_neighbours_of_each_other() {
    let mut lead = lead(10, 10);
    starts(&mut lead, 1, &[3]);
    starts(&mut lead, 2, &[3]);
    (3..=4).for_each(|n| lead.join(node(n), Place::default(), &PieceSet::full(10), false));
    let mut known: Vec<_> = Vec::new();
    for Notice { to, gained, .. } in lead.take_notices(at(0)) {
        known.extend(gained.into_iter().map(|peer| (to, peer.node)));
    }
    let knows = |one, other| known.contains(&(node(one), node(other)));
    assert!(knows(1, 2) && knows(2, 1));
    assert!(!knows(3, 4) && !knows(4, 3), "neither has anything for the other");
}

#[test]
fn one_that_confirms_nothing_costs_the_others_one_wait_and_not_one_for_each_piece() {
    let mut lead = lead(100, 100);
    let list: Vec<u32> = (0..20).collect();
    (1..=3).for_each(|n| starts(&mut lead, n, &list));
    let mut now = 0;
    let mut given = [0_u32; 4];
    while lead.held_by(node(1)) < Some(20) {
        now += 20;
        assert!(now < 5000, "{given:?}");
        for n in 1..=3 {
            let Some(piece) = lead.choose(node(n), at(now)) else { continue };
            given[usize::from(n)] += 1;
            if n < 3 {
                lead.have(node(n), &[piece], at(now + 10));
                lead.have(node(3 - n), &[piece], at(now + 15));
            }
        }
    }
    assert!(now < 1000, "after {now} ms");
}

#[test]
fn one_that_passes_nothing_on_is_found_out_by_the_first_that_waits_in_vain() {
    let mut lead = lead(100, 100);
    let list: Vec<u32> = (0..20).collect();
    (1..=3).for_each(|n| starts(&mut lead, n, &list));
    for piece in 0..3 {
        assert_eq!(lead.choose(node(3), at(piece)), Some(PieceIndex(piece as u32)));
        lead.have(node(3), &[PieceIndex(piece as u32)], at(piece + 5));
    }
    assert!(lead.has_fresh_for(node(1), at(10)) && lead.holders(PieceIndex(0)) == 1);
    lead.sending(node(1), PieceIndex(0), at(200));
    assert_eq!([0, 1, 2].map(|piece| lead.holders(PieceIndex(piece))), [0; 3], "nobody is to wait for it again");
    assert_eq!(lead.choose(node(2), at(200)), Some(PieceIndex(1)));
    assert_eq!(lead.choose(node(3), at(201)), None, "it is given nothing that nobody has");
    // A piece that it alone held turns up elsewhere: it gave it.
    lead.have(node(1), &[PieceIndex(2)], at(210));
    assert_eq!(lead.choose(node(3), at(211)), Some(PieceIndex(3)));
}

/// As each that asks for any piece was sent copies of what others had by then, the seed sent half as much again where processors are busy.
#[test]
fn what_others_hold_that_pass_on_what_they_are_given_is_not_sent_again_until_one_has_waited_for_long() {
    let mut lead = lead(100, 100);
    let list = [0, 1, 2];
    (1..=3).for_each(|n| starts(&mut lead, n, &list));
    for piece in 0..2 {
        assert_eq!(lead.choose(node(1), at(piece)), Some(PieceIndex(piece as u32)));
        lead.have(node(1), &[PieceIndex(piece as u32)], at(piece + 5));
    }
    lead.have(node(2), &[PieceIndex(0), PieceIndex(1)], at(50));
    assert_eq!(lead.choose(node(1), at(60)), Some(PieceIndex(2)));
    (1..=2).for_each(|n| lead.have(node(n), &[PieceIndex(2)], at(60 + n as u64)));
    let waits = |lead: &mut Lead, from: u64| (from..).find(|now| lead.choose(node(3), at(*now)).is_some()).unwrap();
    assert!((1000..1500).contains(&waits(&mut lead, 70)), "it is to be had from others");
    // A piece that comes from others shows that the member does not wait for the lead.
    lead.have(node(3), &[PieceIndex(1)], at(1500));
    assert!(waits(&mut lead, 1500) >= 2500);
}

#[test]
fn what_one_says_that_it_holds_and_was_not_given_is_sent_at_once_to_whoever_asks() {
    let mut lead = lead(100, 100);
    lead.join(node(1), Place::default(), &PieceSet::full(100), false);
    (2..=3).for_each(|n| starts(&mut lead, n, &[40]));
    assert_eq!(lead.choose(node(2), at(1)), Some(PieceIndex(40)));
    lead.have(node(2), &[PieceIndex(40)], at(10));
    assert_eq!(lead.choose(node(3), at(400)), None, "two hold it");
}

#[test]
fn one_that_asks_by_name_for_what_it_says_it_holds_is_no_holder_of_anything() {
    let mut lead = lead(100, 100);
    lead.join(node(1), Place::default(), &PieceSet::full(100), false);
    starts(&mut lead, 2, &[7, 8]);
    assert_eq!(lead.choose_fresh(node(2), at(1)), None, "it is taken to hold them");
    lead.sending(node(2), PieceIndex(7), at(2));
    assert_eq!(lead.choose_fresh(node(2), at(2)), None, "that one lacks what it asks for");
    lead.sending(node(1), PieceIndex(50), at(3));
    assert_eq!(lead.choose_fresh(node(2), at(3)), Some(PieceIndex(8)), "its word counts for nothing more");
}
