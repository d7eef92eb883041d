//! Pieces that members and the lead's own store come to hold, and lose.

use super::*;
use crate::lead::members::tests::known_to_each;

#[test]
fn what_a_member_lost_is_given_to_it_again() {
    let mut lead = lead(1, 1);
    join(&mut lead, 1);
    lead.have(node(1), &[PieceIndex(0)], at(0));
    assert_eq!((lead.holders(PieceIndex(0)), lead.choose(node(1), at(1))), (1, None));
    for who in [1, 1, 7] {
        lead.lacks(node(who), PieceIndex(0));
    }
    assert_eq!((lead.holders(PieceIndex(0)), lead.held_by(node(1))), (0, Some(0)));
    assert_eq!(lead.choose(node(1), at(1)), Some(PieceIndex(0)));
}

#[test]
fn what_the_store_lost_is_not_sent_and_is_read_again() {
    let mut lead = lead(2, 2);
    join(&mut lead, 1);
    lead.disown(PieceIndex(0));
    assert_eq!(lead.owned().iter().collect::<Vec<_>>(), [PieceIndex(1)]);
    let first = OriginRun { first: PieceIndex(0), end: Some(PieceIndex(1)) };
    assert_eq!(plan(&mut lead, ALL, at(0)), Some(first));
    assert_eq!(lead.choose(node(1), at(0)), Some(PieceIndex(1)));
    assert_eq!(lead.choose(node(1), at(10)), None);
    assert_eq!(lead.node(), node(0));
}

#[test]
fn what_members_claim_beyond_the_blob_is_ignored_and_so_is_what_the_leads_own_node_says() {
    let mut lead = lead(2, 0);
    lead.join(node(1), Place::default(), &PieceSet::full(3), true);
    assert_eq!(lead.held_by(node(1)), Some(2));
    lead.have(node(1), &[PieceIndex(2), PieceIndex(u32::MAX - 1)], at(0));
    assert_eq!((lead.held_by(node(1)), lead.holders(PieceIndex(2))), (Some(2), 0));
    // That is said by `own` alone.
    lead.join(node(0), Place::default(), &PieceSet::full(2), true);
    lead.have(node(0), &[PieceIndex(0)], at(0));
    assert_eq!((lead.held_by(node(0)), lead.holders(PieceIndex(0))), (Some(0), 1));
}

#[test]
fn a_piece_that_comes_to_the_store_after_a_member_held_it_may_be_sent_at_once() {
    let mut lead = lead(2, 1);
    (1..=2).for_each(|n| join(&mut lead, n));
    lead.have(node(1), &[PieceIndex(1)], at(0));
    assert_eq!(lead.choose(node(2), at(0)), Some(PieceIndex(0)));
    assert_eq!(lead.choose(node(2), at(1)), None);
    lead.own(PieceIndex(1));
    assert_eq!(lead.choose(node(2), at(2)), Some(PieceIndex(1)));
}

#[test]
fn a_swarm_is_wanted_while_another_member_that_is_trusted_lacks_something() {
    let mut lead = lead(2, 2);
    join(&mut lead, 0);
    assert!(!lead.is_wanted(), "the lead's own node is no other");
    lead.join(node(1), Place::default(), &PieceSet::new(), false);
    assert!(!lead.is_wanted(), "it offers what it holds");
    join(&mut lead, 2);
    assert!(lead.is_wanted());
    lead.have(node(2), &[PieceIndex(0)], at(0));
    assert!(lead.is_wanted());
    lead.have(node(2), &[PieceIndex(1)], at(0));
    assert!(!lead.is_wanted());
    join(&mut lead, 3);
    assert!(lead.is_wanted());
    assert!(lead.report(node(0), node(3)), "the lead's own word is enough");
    assert!(!lead.report(node(2), node(3)), "it is aside already");
    assert!(!lead.is_wanted());
}

#[test]
fn the_first_piece_that_nobody_holds_is_named() {
    let mut lead = lead(4, 4);
    assert_eq!(lead.first_unheld(), PieceIndex(0));
    lead.join(node(1), Place::default(), &[0, 1, 3].map(PieceIndex).into_iter().collect(), true);
    assert_eq!(lead.first_unheld(), PieceIndex(2));
    lead.have(node(1), &[PieceIndex(2)], at(0));
    assert_eq!(lead.first_unheld(), PieceIndex(4));
}

#[test]
fn who_sent_wrong_pieces_is_given_what_nobody_has_only_where_nobody_else_asks() {
    let mut lead = lead(10, 10);
    (1..=2).for_each(|n| join(&mut lead, n));
    assert!(lead.report(node(0), node(2)));
    assert!(lead.choose_fresh(node(1), at(0)).is_some());
    assert_eq!(lead.choose_fresh(node(2), at(1)), None);
    assert!(lead.choose_fresh(node(2), at(10_000)).is_some());
}

#[test]
fn a_piece_that_nobody_has_is_fresh_until_it_is_sent() {
    let mut takes_over = Lead::new(node(0), Place::default(), Start::TakeOver, Tuning::default(), 1, at(0));
    takes_over.own(PieceIndex(0));
    join(&mut takes_over, 1);
    assert!(!takes_over.has_fresh_for(node(1), at(1)), "members are still saying what they hold");
    let settled = takes_over.next_wakeup(at(1)).unwrap();
    assert!(takes_over.has_fresh_for(node(1), settled) && !takes_over.has_fresh_for(node(2), settled));
    assert_eq!(takes_over.choose_fresh(node(1), settled), Some(PieceIndex(0)));
    assert!(!takes_over.has_fresh_for(node(1), settled));
}

#[test]
fn in_a_large_swarm_it_is_said_when_members_have_to_be_told_of_neighbours() {
    let mut lead = lead(1, 1);
    (1..=100).for_each(|n| join(&mut lead, n));
    assert_eq!(lead.take_notices(at(0)), [], "they are gathered for a moment");
    let due = lead.notices_due().expect("something is to be told");
    assert!(due > at(0));
    assert!(!lead.take_notices(due).is_empty());
    assert_eq!(lead.notices_due(), None);
}

#[test]
fn a_piece_whose_only_near_holder_sent_somebody_wrong_ones_is_sent_to_that_one_from_afar() {
    let mut lead = lead(1, 1);
    (1..=3).for_each(|n| lead.join(node(n), rack("far"), &PieceSet::new(), true));
    assert_eq!(lead.choose(node(1), at(0)), Some(PieceIndex(0)));
    lead.have(node(1), &[PieceIndex(0)], at(5));
    assert_eq!(lead.choose(node(2), at(900)), None, "its neighbour has it");
    assert!(!lead.report(node(2), node(1)));
    assert_eq!(lead.choose(node(3), at(900)), None);
    assert_eq!(lead.choose(node(2), at(900)), Some(PieceIndex(0)));
}

#[test]
fn within_its_own_rack_a_lead_sends_a_piece_to_each_that_lacks_it() {
    let mut lead = lead(1, 1);
    (1..=2).for_each(|n| join(&mut lead, n));
    assert_eq!(lead.choose(node(1), at(0)), Some(PieceIndex(0)));
    lead.have(node(1), &[PieceIndex(0)], at(5));
    assert_eq!(lead.choose(node(2), at(900)), Some(PieceIndex(0)));
}

/// By how much a lead's tables grow by what happens.
fn growth(happens: impl FnOnce(&mut Lead)) -> usize {
    let mut lead = lead(1 << 16, 0);
    (1..=4).for_each(|n| join(&mut lead, n));
    let before = lead.memory();
    happens(&mut lead);
    lead.memory() - before
}

#[test]
fn the_memory_of_a_lead_is_about_what_its_tables_hold() {
    let set = (1 << 16) / 8;
    let about = |bytes: usize| bytes / 2..bytes * 4;
    let everything = |lead: &mut Lead| (0..1 << 16).for_each(|piece| lead.own(PieceIndex(piece)));
    let owned = growth(everything);
    assert!((set..set * 400).contains(&owned), "{owned}");
    let held = growth(|lead| {
        (100..200).for_each(|n| lead.join(node(n), Place::default(), &PieceSet::full(1 << 16), false));
    });
    let table = (1 << 16) * size_of::<Piece>() + (1 << 16) * size_of::<(u32, Option<Moment>)>();
    assert!(about(100 * set + table).contains(&held), "{held}");
    let sent = growth(|lead| (0..10_000).for_each(|piece| lead.sending(node(1), PieceIndex(piece), at(0))));
    let each = size_of::<(Moment, NodeId, PieceIndex)>() + size_of::<(PieceIndex, Moment)>() + size_of::<Piece>();
    assert!(about(10_000 * each).contains(&sent), "{sent}");
    let members = growth(|lead| (100..1100).for_each(|n| join(lead, n)));
    // Its neighbours, of which it was not told yet.
    assert!((1000 * 1000..1000 * 20_000).contains(&members), "{members}");
    let names = "x".repeat(1 << 16);
    let named = growth(|lead| lead.join(node(9), rack(&names), &PieceSet::new(), false));
    assert!((names.len()..8 * names.len()).contains(&named), "{named}");
}

#[test]
fn of_many_that_come_at_once_each_is_told_once_and_of_most_links_one_end() {
    const COUNT: u16 = 400;
    let mut lead = lead(4, 4);
    (1..=COUNT).for_each(|n| lead.let_in(node(n), Place::default(), &PieceSet::new(), true));
    let notices: Vec<_> = (1..=COUNT).filter_map(|n| lead.take_notice(node(n))).collect();
    assert!(notices.iter().all(|notice| notice.lost.is_empty()), "they knew nobody");
    let told: usize = notices.iter().map(|notice| notice.gained.len()).sum();
    let links = known_to_each(&lead.members).values().map(|known| known.len()).sum::<usize>() / 2;
    // Of the links of those that came while they were few both ends are told.
    assert!((links..=links + 63 * 16 / 2).contains(&told), "{told} of {links}");
    assert_eq!(lead.take_notices(at(60_000)), []);
}

#[test]
fn a_newcomer_meets_its_neighbours_by_itself_and_none_of_them_is_told_of_it() {
    let mut lead = lead(4, 4);
    (1..=100).for_each(|n| lead.let_in(node(n), Place::default(), &PieceSet::new(), true));
    (1..=100).for_each(|n| drop(lead.take_notice(node(n))));
    lead.take_notices(at(60_000));
    let newcomer = node(200);
    lead.let_in(newcomer, Place::default(), &PieceSet::new(), true);
    let told = lead.take_notice(newcomer).expect("it knows nobody");
    let due = lead.notices_due().expect("neighbours lost links to each other");
    let later = lead.take_notices(due);
    assert!(later.iter().any(|notice| told.gained.iter().any(|gained| gained.node == notice.to)), "{later:?}");
    let gained = |notice: &Notice| notice.gained.iter().any(|gained| gained.node == newcomer);
    assert!(!later.iter().any(gained), "{later:?}");
}
