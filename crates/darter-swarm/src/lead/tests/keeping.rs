//! Pieces that a member was given and does not pass on.

use super::*;

/// A lead that gave a member one of four pieces, among `others` that want the blob (`wants`), or only offer what they hold. How many holders of
/// the piece count `millis` after it came to the member?
fn holders_after(millis: u64, others: u16, wants: bool) -> u32 {
    let mut lead = lead(4, 1);
    join(&mut lead, 1);
    (2..others + 2).for_each(|n| lead.join(node(n), Place::default(), &PieceSet::new(), wants));
    assert_eq!(lead.choose_fresh(node(1), at(0)), Some(PieceIndex(0)));
    lead.have(node(1), &[PieceIndex(0)], at(10));
    lead.may_give(at(10 + millis));
    lead.holders(PieceIndex(0))
}

#[test]
fn what_nobody_else_came_to_hold_after_a_while_counts_as_held_by_nobody_where_others_want_it() {
    assert_eq!(holders_after(500, 2, true), 1, "they may be fetching it");
    assert_eq!(holders_after(5000, 2, true), 0);
    assert_eq!(holders_after(60_000, 2, false), 1, "it is kept from nobody");
    assert_eq!(holders_after(2000, 80, true), 1, "many members tell the lead late");
    assert_eq!(holders_after(10_000, 80, true), 0);
}

#[test]
fn a_holder_that_lets_the_lead_down_counts_again_once_it_gives_and_each_time_it_has_to_give_more() {
    let mut lead = lead(8, 0);
    lead.join(node(1), Place::default(), &PieceSet::full(8), true);
    let mut gives = Vec::new();
    for _ in 0..4 {
        lead.doubt(node(1));
        // A second doubt tells nothing new.
        lead.doubt(node(1));
        assert_eq!(lead.holders(PieceIndex(3)), 0);
        lead.gave(node(1), false, at(0));
        assert_eq!(lead.holders(PieceIndex(3)), 0, "a part is not a piece");
        let mut given = 0;
        while lead.holders(PieceIndex(3)) == 0 {
            lead.gave(node(1), true, at(0));
            given += 1;
            assert!(given < 100);
        }
        gives.push(given);
    }
    assert_eq!(gives, [1, 2, 4, 8]);
    lead.doubt(node(0));
    lead.doubt(node(9));
    assert_eq!(lead.holders(PieceIndex(3)), 1, "others are others");
}

#[test]
fn a_doubted_member_that_comes_back_owes_what_it_did() {
    let mut lead = lead(8, 0);
    let join = |lead: &mut Lead| lead.join(node(1), Place::default(), &PieceSet::full(8), true);
    join(&mut lead);
    lead.doubt(node(1));
    lead.leave(node(1));
    join(&mut lead);
    assert_eq!(lead.holders(PieceIndex(3)), 0);
    lead.gave(node(1), true, at(0));
    assert_eq!(lead.holders(PieceIndex(3)), 1);
}
