mod copies;
mod histories;
mod holding;
mod keeping;
mod parts;
mod reading;

use std::collections::{BTreeMap, BTreeSet};

use super::*;

impl Lead {
    /// The piece that a member should get now, where there is no other blob.
    pub(crate) fn choose(&mut self, node: NodeId, now: Moment) -> Option<PieceIndex> {
        self.choose_fresh(node, now).or_else(|| self.choose_copy(node, now))
    }

    /// The pieces that the lead's own store has.
    pub(crate) const fn owned(&self) -> &PieceSet {
        &self.pieces.own
    }
}

fn node(n: u16) -> NodeId {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&n.to_be_bytes());
    NodeId(id)
}

fn rack(name: &str) -> Place {
    Place { rack: name.into(), ..Place::default() }
}

fn at(millis: u64) -> Moment {
    Moment::from_micros(millis * 1000)
}

/// Of a lead that knows every hash.
const ALL: u32 = 64;

/// The next stretch for a lead that knows the first `known` hashes and wants everything.
fn plan(lead: &mut Lead, known: u32, now: Moment) -> Option<OriginRun> {
    lead.origin_plan(OriginReader::Everything, &PieceSet::full(known), now)
}

fn lead(pieces: u32, owned: u32) -> Lead {
    let mut lead = Lead::new(node(0), Place::default(), Start::Fresh, Tuning::default(), 1, at(0));
    lead.set_total(pieces);
    for piece in 0..owned {
        lead.own(PieceIndex(piece));
    }
    lead
}

fn join(lead: &mut Lead, n: u16) {
    lead.join(node(n), Place::default(), &PieceSet::new(), true);
}

#[test]
fn what_members_hold_can_be_looked_up() {
    let mut lead = lead(4, 4);
    join(&mut lead, 1);
    lead.have(node(1), &[PieceIndex(2)], at(1));
    assert_eq!((lead.held_by(node(1)), lead.held_by(node(7))), (Some(1), None));
}

#[test]
fn every_piece_is_sent_once_before_any_is_sent_twice() {
    let mut lead = lead(4, 4);
    join(&mut lead, 1);
    join(&mut lead, 2);
    let first: Vec<_> = (0..4).filter_map(|turn| lead.choose(node(1 + turn % 2), at(0))).collect();
    assert_eq!(first, [0, 1, 2, 3].map(PieceIndex));
    assert_eq!(lead.choose(node(1), at(0)), None, "peers get time to pass on what was sent");
    let again = lead.next_wakeup(at(0)).unwrap();
    let copy = lead.choose(node(1), again).unwrap();
    assert!([1, 3].contains(&copy.0), "what it is being sent already is not sent again");
}

#[test]
fn a_piece_that_did_not_arrive_is_sent_anew_and_so_is_one_whose_receiver_died() {
    let mut lead = lead(2, 2);
    join(&mut lead, 1);
    join(&mut lead, 2);
    assert_eq!(lead.choose(node(1), at(0)), Some(PieceIndex(0)));
    lead.unsent(node(1), PieceIndex(0));
    assert_eq!(lead.choose(node(2), at(0)), Some(PieceIndex(0)));
    lead.have(node(2), &[PieceIndex(0)], at(5));
    assert_eq!(lead.choose(node(1), at(5)), Some(PieceIndex(1)));
    lead.leave(node(2));
    assert_eq!(lead.choose(node(1), at(5)), Some(PieceIndex(0)), "the only other holder is gone");
}

#[test]
fn what_was_never_confirmed_is_given_again_to_the_same_member_too() {
    let mut lead = lead(2, 2);
    join(&mut lead, 1);
    assert_eq!(lead.choose(node(1), at(0)), Some(PieceIndex(0)));
    assert_eq!(lead.choose(node(1), at(1)), Some(PieceIndex(1)));
    lead.have(node(1), &[PieceIndex(1)], at(100));
    assert_eq!(lead.choose(node(1), at(1000)), None, "the piece may still be on its way");
    let mut again = None;
    while let Some(wakeup) = lead.next_wakeup(again.unwrap_or(at(1000))) {
        again = Some(wakeup);
        if let Some(piece) = lead.choose(node(1), wakeup) {
            assert_eq!(piece, PieceIndex(0));
            return;
        }
    }
    panic!("an ask stood that nothing would have answered");
}

#[test]
fn a_late_confirmation_counts_the_holder_once() {
    let mut lead = lead(1, 1);
    join(&mut lead, 1);
    assert_eq!(lead.choose(node(1), at(0)), Some(PieceIndex(0)));
    assert_eq!(lead.choose(node(1), at(60_000)), Some(PieceIndex(0)), "sent anew after a while");
    lead.have(node(1), &[PieceIndex(0)], at(60_100));
    assert_eq!(lead.holders(PieceIndex(0)), 1);
    assert_eq!(lead.choose(node(1), at(120_000)), None);
    lead.leave(node(1));
    assert_eq!(lead.holders(PieceIndex(0)), 0);
}

#[test]
fn an_ask_stands_until_the_origin_has_given_something() {
    let mut lead = lead(10, 0);
    join(&mut lead, 1);
    assert_eq!(lead.choose(node(1), at(0)), None);
    lead.own(PieceIndex(0));
    assert_eq!(lead.choose(node(1), at(1)), Some(PieceIndex(0)));
}

#[test]
fn what_takes_long_to_reach_a_member_is_given_to_another_as_well_and_to_one_alone() {
    let mut lead = lead(4, 4);
    (1..=3).for_each(|n| join(&mut lead, n));
    assert_eq!(lead.choose_fresh(node(2), at(0)), Some(PieceIndex(0)));
    assert_eq!(lead.choose_fresh(node(1), at(1000)), Some(PieceIndex(1)), "nobody knows yet what is long");
    lead.have(node(1), &[PieceIndex(1)], at(1020));
    assert_eq!(lead.choose_fresh(node(2), at(1020)), Some(PieceIndex(2)), "it is on its way to that one");
    assert_eq!(lead.choose_fresh(node(1), at(1020)), Some(PieceIndex(0)));
    assert_eq!(lead.choose_fresh(node(3), at(1020)), Some(PieceIndex(3)));
    assert_eq!(lead.choose_fresh(node(3), at(1100)), None, "two are enough");
    lead.have(node(2), &[PieceIndex(0)], at(1110));
    assert_eq!(lead.holders(PieceIndex(0)), 1);
    lead.have(node(3), &[PieceIndex(3)], at(1110));
    lead.leave(node(2));
    assert_eq!(lead.choose_fresh(node(3), at(1110)), Some(PieceIndex(2)), "who left has none of it");
    assert_eq!(lead.choose_fresh(node(3), at(1110)), None, "it is on its way to the other still");
}

#[test]
fn what_was_late_at_one_that_left_is_given_to_one_other_and_not_to_two() {
    let mut lead = lead(4, 2);
    (1..=4).for_each(|n| join(&mut lead, n));
    assert_eq!(lead.choose_fresh(node(2), at(0)), Some(PieceIndex(0)));
    assert_eq!(lead.choose_fresh(node(1), at(1000)), Some(PieceIndex(1)));
    lead.have(node(1), &[PieceIndex(1)], at(1020));
    // The lead sees by now that it takes long.
    assert_eq!(lead.choose_fresh(node(1), at(1020)), Some(PieceIndex(0)));
    lead.leave(node(1));
    lead.leave(node(2));
    assert_eq!(lead.choose_fresh(node(3), at(1030)), Some(PieceIndex(0)));
    assert_ne!(lead.choose_fresh(node(4), at(1030)), Some(PieceIndex(0)), "it is on its way");
}

#[test]
fn what_comes_late_is_given_to_one_that_was_quick_and_when_that_is_late_to_a_third() {
    let mut lead = lead(4, 3);
    (1..=4).for_each(|n| join(&mut lead, n));
    assert_eq!(lead.choose_fresh(node(2), at(0)), Some(PieceIndex(0)));
    assert_eq!(lead.choose_fresh(node(1), at(1000)), Some(PieceIndex(1)));
    lead.have(node(1), &[PieceIndex(1)], at(1020));
    assert_eq!(lead.choose_fresh(node(3), at(1020)), Some(PieceIndex(2)), "it may be as slow as the first");
    assert_eq!(lead.choose_fresh(node(1), at(1020)), Some(PieceIndex(0)));
    assert_eq!(lead.choose_fresh(node(4), at(1030)), None, "it is on its way");
    assert_eq!(lead.choose_fresh(node(4), at(1500)), Some(PieceIndex(0)), "there is nothing else for it");
    lead.have(node(2), &[PieceIndex(0)], at(1510));
    assert!(![1, 3, 4].iter().any(|n| lead.choose_fresh(node(*n), at(1520)) == Some(PieceIndex(0))), "one holds it");
}

#[test]
fn what_nobody_has_goes_to_those_who_pass_it_on_quickly() {
    let mut lead = lead(100, 100);
    join(&mut lead, 1);
    join(&mut lead, 2);
    let (quick, slow) = (node(1), node(2));
    // Two pieces each: one member takes 10 ms for them, the other a second.
    let pieces: Vec<_> = [quick, slow, quick, slow].map(|node| lead.choose(node, at(0)).unwrap()).into();
    for (step, node, piece) in [(10, quick, 0), (11, quick, 2), (1000, slow, 1), (1001, slow, 3)] {
        lead.have(node, &pieces[piece..=piece], at(step));
    }
    // Each passes on what it was given.
    lead.have(quick, &pieces, at(1002));
    lead.have(slow, &pieces, at(1002));
    assert!(lead.choose(quick, at(1002)).is_some());
    assert_eq!(lead.choose(slow, at(1003)), None, "it does with what others hold");
    assert!(lead.has_fresh_for(slow, at(1003)), "and gets no copies of other blobs instead");
    assert!(lead.next_wakeup(at(1003)).is_some(), "its ask stands");
    // Nobody else has asked for long.
    assert!(lead.choose(slow, at(5000)).is_some());
    assert!(lead.choose(quick, at(5001)).is_some());
    assert_eq!(lead.choose(slow, at(5002)), None);
    // In the end it may have been a bad day.
    let much_later = at(5002) + Tuning::default().slow_for;
    assert!(lead.choose(quick, much_later).is_some());
    assert!(lead.choose(slow, much_later).is_some());
}

#[test]
fn where_hashes_end_the_origin_is_read_though_members_hold_more() {
    let run = |first, end: u32| Some(OriginRun { first: PieceIndex(first), end: Some(PieceIndex(end)) });
    let mut some = lead(10, 0);
    some.join(node(1), Place::default(), &PieceSet::full(6), true);
    assert_eq!(plan(&mut some, 0, at(0)), run(0, 10), "in one go");
    assert_eq!(plan(&mut some, 4, at(0)), run(4, 10));
    assert_eq!(plan(&mut some, 8, at(0)), run(6, 10));
    let mut all = lead(10, 0);
    all.join(node(1), Place::default(), &PieceSet::full(10), true);
    assert_eq!(plan(&mut all, 4, at(0)), run(4, 10));
    assert_eq!(plan(&mut all, 10, at(0)), None);
}

#[test]
fn the_origin_is_asked_for_what_nobody_has() {
    let mut lead = lead(10, 2);
    let held = [3, 4, 7].map(PieceIndex).into_iter().collect();
    lead.join(node(1), Place::default(), &held, true);
    let run = |first, end: u32| Some(OriginRun { first: PieceIndex(first), end: Some(PieceIndex(end)) });
    assert_eq!(plan(&mut lead, ALL, at(0)), run(2, 3));
    lead.own(PieceIndex(2));
    assert_eq!(plan(&mut lead, ALL, at(0)), run(5, 7));
    lead.leave(node(1));
    assert_eq!(plan(&mut lead, ALL, at(0)), run(3, 10));
    for piece in 0..10 {
        lead.own(PieceIndex(piece));
    }
    assert_eq!(plan(&mut lead, ALL, at(0)), None);
}

#[test]
fn a_blob_of_unknown_length_is_read_to_its_end() {
    let mut lead = Lead::new(node(0), Place::default(), Start::Fresh, Tuning::default(), 1, at(0));
    lead.own(PieceIndex(0));
    assert_eq!(plan(&mut lead, ALL, at(0)), Some(OriginRun { first: PieceIndex(1), end: None }));
    lead.set_total(1);
    assert_eq!(plan(&mut lead, ALL, at(0)), None);
}

#[test]
fn a_lead_that_takes_over_listens_first() {
    let mut lead = Lead::new(node(0), Place::default(), Start::TakeOver, Tuning::default(), 1, at(1000));
    lead.set_total(4);
    assert_eq!(plan(&mut lead, ALL, at(1100)), None);
    assert_eq!(lead.next_wakeup(at(1100)), Some(at(1300)));
    lead.join(node(1), Place::default(), &PieceSet::full(3), true);
    let tail = OriginRun { first: PieceIndex(3), end: Some(PieceIndex(4)) };
    assert_eq!(plan(&mut lead, ALL, at(1300)), Some(tail));
}

#[test]
fn two_reporters_put_a_liar_aside_one_only_loses_it_as_neighbour() {
    let mut lead = lead(2, 0);
    lead.join(node(1), Place::default(), &PieceSet::full(2), false);
    join(&mut lead, 2);
    join(&mut lead, 3);
    lead.take_notices(at(0));
    assert!(!lead.report(node(2), node(1)));
    assert!(!lead.report(node(2), node(1)), "the same reporter counts once");
    let told = lead.take_notices(at(0));
    assert!(told.iter().any(|notice| notice.to == node(2) && notice.lost == [node(1)]), "{told:?}");
    assert_eq!(plan(&mut lead, ALL, at(0)), None, "the others may still get it there");
    assert!(lead.report(node(3), node(1)));
    assert_eq!(lead.members(), [node(2), node(3)]);
    assert!(plan(&mut lead, ALL, at(0)).is_some(), "it counts as no holder any more");
    lead.join(node(1), Place::default(), &PieceSet::full(2), false);
    assert!(plan(&mut lead, ALL, at(0)).is_some(), "joining again does not clear it");
}

#[test]
fn whoever_reports_everybody_is_not_heeded_and_those_it_helped_to_put_aside_are_taken_in_again() {
    let mut lead = lead(2, 0);
    for n in 1..=6 {
        lead.join(node(n), Place::default(), &PieceSet::full(2), true);
    }
    let everybody: Vec<_> = (1..=6).map(node).collect();
    for accuser in [node(5), node(6)] {
        for other in (1..=4).map(node) {
            lead.report(accuser, other);
        }
    }
    assert_eq!(lead.members(), everybody, "two that lie put nobody aside for long");
    assert_eq!(plan(&mut lead, ALL, at(0)), None, "what the others hold is left to them");
    let told = lead.take_notices(at(0));
    let of = |name| told.iter().find(|notice| notice.to == node(name)).map_or(0, |notice| notice.gained.len());
    assert_eq!((of(1), of(4), of(5)), (3, 5, 2), "what was reported before that parts the two alone");
    assert!(!lead.report(node(7), node(1)) && !lead.report(node(8), node(1)), "strangers are not heeded either");
    assert!(!lead.report(node(1), node(4)) && lead.report(node(2), node(4)), "and others are, as before");
}

#[test]
fn a_small_swarm_is_a_full_mesh_and_a_large_one_knows_mostly_near_neighbours() {
    let mut small = lead(1, 1);
    (1..=5).for_each(|n| join(&mut small, n));
    let told = small.take_notices(at(0));
    assert_eq!(told.iter().map(|notice| notice.gained.len()).sum::<usize>(), 5 * 4);

    let mut large = lead(1, 1);
    let racks = ["a", "b", "c", "d"];
    for n in 1..=400 {
        large.join(node(n), rack(racks[usize::from(n) % 4]), &PieceSet::new(), true);
    }
    let mut links = Links::new();
    follow(&mut links, &mut large);
    assert_regular(&links, 400);
    let rack_of = |node: &NodeId| u16::from_be_bytes([node.0[0], node.0[1]]) % 4;
    let all = links.iter().flat_map(|(one, others)| others.iter().map(move |other| (one, other)));
    let near = all.clone().filter(|(one, other)| rack_of(one) == rack_of(other)).count();
    let part = near as f64 / all.count() as f64;
    assert!((0.65..0.95).contains(&part), "{part}");

    // A member that goes leaves no gap, and one that comes takes nobody's neighbours away.
    (1..=200).for_each(|n| large.leave(node(n * 2)));
    follow(&mut links, &mut large);
    assert_regular(&links, 200);
    (401..=600).for_each(|n| large.join(node(n), rack(racks[usize::from(n) % 4]), &PieceSet::new(), true));
    follow(&mut links, &mut large);
    assert_regular(&links, 400);
}

/// The neighbours of each node.
type Links = BTreeMap<NodeId, BTreeSet<NodeId>>;

/// Brings the links up to date with what members are told, as members do.
fn follow(links: &mut Links, lead: &mut Lead) {
    lead.take_notices(at(0));
    for notice in lead.take_notices(at(10_000)) {
        let known = links.entry(notice.to).or_default();
        // Also of some that came and went before it was told of them.
        known.retain(|peer| !notice.lost.contains(peer));
        for neighbour in notice.gained {
            assert!(known.insert(neighbour.node), "told twice");
        }
    }
    links.retain(|node, _| lead.held_by(*node).is_some());
}

/// All have about as many neighbours as they should, and everybody is in reach within a few steps.
fn assert_regular(links: &Links, members: usize) {
    let Tuning { neighbours_inside, neighbours_outside, .. } = Tuning::default();
    let wanted = (neighbours_inside + neighbours_outside) as usize;
    assert_eq!(links.len(), members);
    assert!(links.values().all(|others| others.len() <= wanted), "{links:?}");
    assert!(links.values().all(|others| others.len() + 5 > wanted), "{links:?}");
    let all: usize = links.values().map(BTreeSet::len).sum();
    assert!(all > members * (wanted - 1), "{} neighbours on average", all as f64 / members as f64);
    let mut reached = BTreeSet::from([*links.keys().next().unwrap()]);
    for _ in 0..4 {
        reached.extend(reached.clone().iter().flat_map(|node| links[node].clone()));
    }
    assert_eq!(reached.len(), members);
}

#[test]
fn the_leads_own_node_learns_of_neighbours_but_is_nobodys() {
    let mut lead = lead(3, 0);
    lead.join(node(1), Place::default(), &PieceSet::full(3), false);
    join(&mut lead, 0);
    let told = lead.take_notices(at(0));
    let pairs: Vec<_> = told.iter().flat_map(|it| it.gained.iter().map(|peer| (it.to, peer.node))).collect();
    assert_eq!(pairs, [(node(0), node(1))]);
}

#[test]
fn a_piece_is_sent_into_another_rack_once() {
    let mut lead = lead(1, 1);
    for n in 1..=2 {
        lead.join(node(n), rack("far"), &PieceSet::new(), true);
    }
    assert_eq!(lead.choose(node(1), at(0)), Some(PieceIndex(0)));
    lead.have(node(1), &[PieceIndex(0)], at(5));
    assert_eq!(lead.choose(node(2), at(900)), None, "its neighbour has it");
    lead.separate(node(1), node(2));
    assert_eq!(lead.choose(node(2), at(900)), Some(PieceIndex(0)), "which is out of reach");
}

#[test]
fn a_piece_sent_twice_to_one_member_does_not_keep_it_waiting() {
    let mut lead = lead(10, 10);
    join(&mut lead, 1);
    for _ in 0..4 {
        lead.sending(node(1), PieceIndex(0), at(0));
    }
    lead.have(node(1), &[PieceIndex(0)], at(1));
    assert!(lead.choose(node(1), at(1)).is_some());
}

#[test]
fn who_joins_again_is_told_at_once_what_it_lost_and_what_it_has_now() {
    let mut large = lead(1, 1);
    (1..=200).for_each(|n| join(&mut large, n));
    large.take_notices(at(0));
    let mut links = Links::new();
    follow(&mut links, &mut large);
    let before = links[&node(7)].clone();
    join(&mut large, 7);
    let told = large.take_notice(node(7)).unwrap();
    assert_eq!(told.lost.into_iter().collect::<BTreeSet<_>>(), before);
    assert_eq!(told.gained.len(), Tuning::default().neighbours as usize);
    assert_eq!(large.take_notice(node(7)), None);
    large.leave(node(7));
    assert_eq!(large.take_notice(node(7)), None, "who is gone is told nothing");
}

#[test]
fn a_lead_that_turns_out_to_be_the_first_one_reads_the_origin_at_once() {
    let mut lead = Lead::new(node(0), Place::default(), Start::TakeOver, Tuning::default(), 1, at(1000));
    lead.set_total(1);
    assert_eq!(plan(&mut lead, 0, at(1000)), None, "members may hold some of it");
    lead.settle();
    assert!(plan(&mut lead, 0, at(1000)).is_some());
}

/// Adds what `notices` tell to the neighbours of each node.
fn follow_notices(links: &mut BTreeMap<NodeId, BTreeSet<NodeId>>, notices: Vec<Notice>) {
    for Notice { to, lost, gained } in notices {
        let known = links.entry(to).or_default();
        known.retain(|node| !lost.contains(node));
        known.extend(gained.iter().map(|peer| peer.node));
    }
}

#[test]
fn members_that_cannot_reach_each_other_each_get_another_neighbour() {
    let mut lead = lead(8, 8);
    (1..=60).for_each(|n| join(&mut lead, n));
    let mut links = BTreeMap::new();
    follow_notices(&mut links, lead.take_notices(at(0)));
    follow_notices(&mut links, lead.take_notices(at(10_000)));
    let (one, wanted) = (node(30), links[&node(30)].len());
    for _ in 0..5 {
        let other = *links[&one].first().unwrap();
        let others = links[&other].len();
        lead.separate(one, other);
        follow_notices(&mut links, lead.take_notices(at(20_000)));
        follow_notices(&mut links, lead.take_notices(at(30_000)));
        assert!(!links[&one].contains(&other) && !links[&other].contains(&one));
        assert_eq!((links[&one].len(), links[&other].len()), (wanted, others), "they know as many as before");
    }
}

#[test]
fn who_cannot_be_reached_is_a_neighbour_again_after_it_left_and_came() {
    let mut lead = lead(8, 8);
    (1..=30).for_each(|n| join(&mut lead, n));
    (2..=30).for_each(|n| lead.separate(node(1), node(n)));
    lead.take_notices(at(0));
    for n in 3..=30 {
        lead.leave(node(n));
    }
    join(&mut lead, 2);
    let told: Vec<_> = lead.take_notice(node(2)).unwrap().gained.into_iter().map(|peer| peer.node).collect();
    assert_eq!(told, [node(1)]);
}

#[test]
fn where_everybody_knows_everybody_nobody_is_taken_away_for_not_being_reached() {
    let mut lead = lead(8, 8);
    (1..=8).for_each(|n| join(&mut lead, n));
    lead.take_notices(at(0));
    lead.separate(node(1), node(2));
    assert_eq!(lead.take_notices(at(1)), []);
}

#[test]
fn while_nothing_may_be_given_no_ask_is_answered_and_it_is_said_when_to_look_again() {
    let mut lead = lead(4, 4);
    (1..=3).for_each(|n| join(&mut lead, n));
    assert!(lead.may_give(at(0)));
    for piece in 0..4 {
        assert!(lead.choose(node(1), at(piece)).is_some());
    }
    let (mut now, mut looks) = (at(4), 0);
    while !lead.may_give(now) {
        assert!((1..=3).all(|n| lead.choose(node(n), now).is_none()));
        now = lead.next_wakeup(now).expect("time alone brings something");
        looks += 1;
    }
    assert!((1..20).contains(&looks), "{looks} looks");
    assert!(lead.choose(node(2), now).is_some());
}

#[test]
fn a_lead_that_takes_over_gives_nothing_before_members_have_said_what_they_hold() {
    let mut lead = Lead::new(node(0), Place::default(), Start::TakeOver, Tuning::default(), 1, at(0));
    lead.set_total(1);
    lead.own(PieceIndex(0));
    join(&mut lead, 1);
    assert!(!lead.may_give(at(1)) && lead.choose(node(1), at(1)).is_none());
    let settled = lead.next_wakeup(at(1)).unwrap();
    assert!(lead.may_give(settled) && lead.choose(node(1), settled).is_some());
}
