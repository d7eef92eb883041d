//! Readers of the origin and their stretches, beside what `origin.rs` tests.

use super::*;

fn wish(first: u32, end: u32) -> Wish {
    Wish { first, end, within: Duration::from_secs(1) }
}

/// The errands of a lead that knows every hash.
fn errand(lead: &mut Lead, now: Moment) -> Option<(u32, Option<u32>)> {
    let run = lead.origin_plan(OriginReader::Errands, &PieceSet::full(100), now);
    run.map(|run| (run.first.0, run.end.map(|end| end.0)))
}

#[test]
fn everything_is_read_as_soon_as_another_member_wants_it_and_not_for_the_leads_own_node_or_who_offers() {
    let mut lead = lead(10, 0);
    assert!(lead.reads_everything());
    lead.read_on_errands_only();
    join(&mut lead, 0);
    lead.join(node(1), Place::default(), &PieceSet::new(), false);
    assert!(!lead.reads_everything());
    join(&mut lead, 2);
    assert!(lead.reads_everything());
    join(&mut lead, 3);
    lead.join(node(4), Place::default(), &PieceSet::new(), false);
    assert!(lead.reads_everything(), "somebody still does");
    lead.read_on_errands_only();
    lead.read_everything();
    assert!(lead.reads_everything());
}

#[test]
fn an_errand_near_the_reader_of_everything_is_left_to_it_and_one_far_off_is_run() {
    let mut lead = lead(100, 0);
    lead.wish(node(1), &[wish(50, 53)], at(0));
    for (reads, runs) in [(10, true), (40, true), (48, false), (50, false), (60, true)] {
        lead.reads(OriginReader::Everything, Some(reads..reads + 1));
        assert_eq!(errand(&mut lead, at(0)).is_some(), runs, "everything is at {reads}");
    }
}

#[test]
fn a_reader_is_at_its_pieces_until_it_ends() {
    let mut lead = lead(10, 0);
    assert!(!lead.is_reading(OriginReader::Errands));
    assert!(!lead.reads(OriginReader::Errands, None), "none had begun");
    assert!(!lead.reads(OriginReader::Errands, Some(3..4)));
    assert!(lead.is_reading(OriginReader::Errands) && !lead.is_reading(OriginReader::Everything));
    assert!(!lead.reads(OriginReader::Errands, Some(4..5)), "it goes on");
    assert!(lead.reads(OriginReader::Errands, None));
    assert!(!lead.is_reading(OriginReader::Errands));
}

#[test]
fn who_reads_everything_goes_on_with_the_next_piece_only_and_nobody_else_reads_that_meanwhile() {
    let mut lead = lead(10, 2);
    let known = PieceSet::full(10);
    assert!(!lead.goes_on(OriginReader::Everything, PieceIndex(3), &known, at(0)));
    assert!(!lead.is_reading(OriginReader::Everything));
    assert!(lead.goes_on(OriginReader::Everything, PieceIndex(2), &known, at(0)));
    assert!(lead.is_reading(OriginReader::Everything));
    lead.wish(node(1), &[wish(2, 3)], at(0));
    assert_eq!(errand(&mut lead, at(0)), None);
    assert!(!lead.goes_on(OriginReader::Errands, PieceIndex(2), &known, at(0)));
}

#[test]
fn what_each_node_waits_for_can_be_looked_up() {
    let mut lead = lead(10, 0);
    lead.wish(node(1), &[wish(2, 3), wish(5, 6)], at(0));
    lead.wish(node(2), &[wish(7, 8)], at(0));
    lead.wish(node(1), &[wish(5, 6)], at(1));
    let mut by_node: Vec<_> = lead.wishes_by_node().collect();
    by_node.sort_by_key(|(node, _)| *node);
    assert_eq!(by_node, [(node(1), wish(5, 6)), (node(2), wish(7, 8))]);
    assert_eq!(lead.wishes().count(), 2);
}

#[test]
fn what_is_waited_for_and_left_to_members_that_give_nothing_is_read_after_a_while() {
    let mut lead = lead(100, 0);
    lead.read_on_errands_only();
    lead.join(node(1), Place::default(), &PieceSet::full(100), false);
    lead.wish(node(2), &[wish(20, 22)], at(0));
    assert_eq!(errand(&mut lead, at(0)), None, "a member has it");
    let gives_up = lead.next_wakeup(at(0)).expect("nothing else may happen");
    assert_eq!(errand(&mut lead, gives_up), Some((20, Some(22))));
    // A wish that comes after a time without any waits as long.
    let mut lead = super::lead(100, 0);
    lead.read_on_errands_only();
    lead.join(node(1), Place::default(), &PieceSet::full(100), false);
    assert_eq!(errand(&mut lead, at(0)), None);
    assert_eq!(lead.next_wakeup(at(0)), None, "nothing is waited for");
    lead.wish(node(2), &[wish(20, 22)], at(60_000));
    assert_eq!(errand(&mut lead, at(60_000)), None);
    lead.wish(node(2), &[], at(60_001));
    lead.wish(node(2), &[wish(30, 32)], at(70_000));
    assert_eq!(errand(&mut lead, at(70_000)), None, "it may give this");
}

#[test]
fn a_blob_of_unknown_length_is_read_up_to_what_a_member_holds_and_then_to_its_end() {
    let mut lead = Lead::new(node(0), Place::default(), Start::Fresh, Tuning::default(), 1, at(0));
    lead.join(node(1), Place::default(), &[5, 6].map(PieceIndex).into_iter().collect(), true);
    let run = |first, end: Option<u32>| Some(OriginRun { first: PieceIndex(first), end: end.map(PieceIndex) });
    assert_eq!(plan(&mut lead, ALL, at(0)), run(0, Some(5)));
    (0..5).for_each(|piece| lead.own(PieceIndex(piece)));
    assert_eq!(plan(&mut lead, ALL, at(0)), run(7, None));
    (7..200).for_each(|piece| lead.own(PieceIndex(piece)));
    assert_eq!(plan(&mut lead, 250, at(0)), run(200, None));
    let mut ends_known = Lead::new(node(0), Place::default(), Start::Fresh, Tuning::default(), 1, at(0));
    [0, 100].map(PieceIndex).into_iter().for_each(|piece| ends_known.own(piece));
    assert_eq!(plan(&mut ends_known, ALL, at(0)), run(1, Some(100)), "what is here is not read again");
}
