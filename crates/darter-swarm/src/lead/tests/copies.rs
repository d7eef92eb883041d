//! How soon the lead sends a piece again.

use super::*;

/// A lead that has read 300 pieces of a blob of `total`. The first of `members` members came to hold them, and the lead gave it those of which
/// `is_given` is true.
fn after(members: u16, total: u32, is_given: impl Fn(u32) -> bool) -> Lead {
    let mut lead = lead(total, 300);
    (1..=members).for_each(|n| join(&mut lead, n));
    for piece in 0..300 {
        if is_given(piece) {
            lead.sending(node(1), PieceIndex(piece), at(piece.into()));
        }
        lead.have(node(1), &[PieceIndex(piece)], at(u64::from(piece) + 1));
    }
    lead
}

/// All is being sent to the second member now. After how many milliseconds is the third sent a copy?
fn pause(lead: &mut Lead, now: u64) -> u64 {
    (0..300).for_each(|piece| lead.sending(node(2), PieceIndex(piece), at(now)));
    let sent = |after: &u64| lead.choose_copy(node(3), at(now + after)).is_some();
    (0..1000).map(|step| step * 50).find(sent).expect("it is sent some day")
}

#[test]
fn members_that_feed_each_other_are_sent_copies_seldom() {
    let usual = pause(&mut after(12, 300, |_| true), 400);
    assert!(usual > 0);
    assert_eq!(pause(&mut after(12, 300, |piece| piece % 2 == 0), 400), usual, "the lead gives half of what comes");
    assert!(pause(&mut after(12, 300, |_| false), 400) >= usual * 10);
    let reading = pause(&mut after(12, 301, |_| true), 400);
    assert!((usual * 2..usual * 10).contains(&reading), "what is read meanwhile goes before: {reading}");
}

#[test]
fn in_a_small_swarm_a_piece_that_one_member_holds_alone_is_repeated_soon() {
    let of_many = pause(&mut after(12, 300, |_| false), 400);
    let alone = pause(&mut after(8, 300, |_| false), 400);
    assert!(alone * 4 <= of_many, "{alone} and {of_many}");
    let mut held_by_two = after(8, 300, |_| false);
    (0..300).for_each(|piece| held_by_two.have(node(4), &[PieceIndex(piece)], at(350)));
    assert_eq!(pause(&mut held_by_two, 400), of_many);
}

/// Twenty of these pieces have come to the first member, each a second after it was sent.
fn slowly(pieces: u32) -> Lead {
    let mut lead = lead(pieces, pieces);
    join(&mut lead, 1);
    for piece in 0..20 {
        lead.sending(node(1), PieceIndex(piece), at(u64::from(piece) * 1000));
        lead.have(node(1), &[PieceIndex(piece)], at(u64::from(piece) * 1000 + 1000));
    }
    lead
}

#[test]
fn where_pieces_take_long_to_arrive_they_are_repeated_late_and_given_up_late() {
    let mut lead = slowly(300);
    (2..=3).for_each(|n| join(&mut lead, n));
    let pause = pause(&mut lead, 20_000);
    assert!((2000..8000).contains(&pause), "some times a second: {pause}");
    let mut lead = slowly(21);
    assert_eq!(lead.choose(node(1), at(20_000)), Some(PieceIndex(20)));
    assert_eq!(lead.choose(node(1), at(25_000)), None, "it may be on its way");
    assert_eq!(lead.choose(node(1), at(30_000)), Some(PieceIndex(20)));
}

#[test]
fn of_copies_the_piece_sent_least_goes_first_and_then_the_one_that_fewest_hold() {
    let mut lead = lead(3, 3);
    (1..=4).for_each(|n| join(&mut lead, n));
    for piece in 0..3 {
        lead.sending(node(1), PieceIndex(piece), at(0));
        lead.have(node(1), &[PieceIndex(piece)], at(1));
    }
    lead.have(node(2), &[PieceIndex(0)], at(2));
    lead.sending(node(3), PieceIndex(1), at(3));
    lead.have(node(3), &[PieceIndex(1)], at(4));
    lead.lacks(node(3), PieceIndex(1));
    lead.lacks(node(1), PieceIndex(1));
    lead.have(node(1), &[PieceIndex(1)], at(5));
    let copies: Vec<_> = (0..3).filter_map(|turn| lead.choose_copy(node(4), at(5000 + turn))).collect();
    assert_eq!(copies, [2, 0, 1].map(PieceIndex));
}

/// Readers in order would stand before what is sent last, and each would ask for it by name.
#[test]
fn what_one_only_says_it_holds_is_sent_to_the_others_in_order() {
    let mut lead = lead(20, 20);
    lead.join(node(9), Place::default(), &PieceSet::full(20), true);
    (1..=2).for_each(|member| join(&mut lead, member));
    let sent: Vec<_> = (0..20).filter_map(|turn| lead.choose(node(1 + turn % 2), at(u64::from(turn)))).collect();
    assert_eq!(sent, (0..20).map(PieceIndex).collect::<Vec<_>>());
}
