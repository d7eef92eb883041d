//! Invariants of members, counted anew whatever happens to them: `lead/tests/histories.rs` asks.

use super::*;

/// Links are mutual, between those that may know each other, no more than there should be; tables of groups are what members hold.
pub(in crate::lead) fn check_members(members: &Members) {
    for (id, slot) in &members.by_id {
        let member = members.get(*slot);
        assert_eq!(member.id, *id);
        let neighbours: BTreeSet<usize> = member.neighbours.iter().copied().collect();
        assert_eq!(neighbours.len(), member.neighbours.len(), "{id} has a neighbour twice");
        assert!(neighbours.len() <= members.tuning.neighbours as usize, "{id} has {}", neighbours.len());
        let mut reaches = [0; REACHES];
        for other in neighbours.iter().map(|other| members.get(*other)) {
            assert!(other.neighbours.contains(slot) && other.id != *id, "{id} and {}", other.id);
            assert!(!member.aside && !other.aside);
            assert!(!members.parted.contains(&(*id, other.id)), "{id} and {} are parted", other.id);
            let reach = match member.place.tier_to(&other.place) {
                Tier::Host | Tier::Rack => 0,
                Tier::Zone => 1,
                Tier::Region | Tier::Far => 2,
            };
            reaches[reach] += 1;
        }
        assert_eq!(reaches, member.reaches);
        assert!(members.groups[member.group].members.contains(slot));
    }
    assert_eq!(members.count(), members.slots().count());
    let in_groups: usize = members.groups.iter().map(|group| group.members.len()).sum();
    assert_eq!(in_groups, members.count(), "each is in one group");
    for group in &members.groups {
        for (piece, (holders, _)) in (0..).map(PieceIndex).zip(&group.pieces) {
            let counted = group.members.iter().map(|slot| members.get(*slot));
            let counted = counted.filter(|member| member.held.contains(piece) && member.counts(piece)).count();
            assert_eq!(*holders as usize, counted, "{piece}");
        }
    }
}

/// For each member the members that it should know. Nobody is told of the lead's own node.
pub(in crate::lead) fn known_to_each(members: &Members) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
    let known = |slot: &usize| {
        let others = members.get(*slot).neighbours.iter().map(|other| members.get(*other).id);
        others.filter(|other| *other != members.me).collect::<BTreeSet<_>>()
    };
    let each = members.by_id.iter().map(|(id, slot)| (*id, known(slot)));
    each.filter(|(_, known)| !known.is_empty()).collect()
}

fn node(name: u16) -> NodeId {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&name.to_be_bytes());
    NodeId(id)
}

/// Members in two zones of two racks each, all of which want the blob.
fn members(count: u16) -> Members {
    let mut members = Members::new(node(0), Place::default(), Tuning::default(), 1);
    for name in 1..=count {
        let (zone, rack) = (["one", "two"][usize::from(name) % 2], ["a", "b"][usize::from(name) / 2 % 2]);
        let place = Place { zone: zone.into(), rack: rack.into(), ..Place::default() };
        let slot = members.add(node(name), place, PieceSet::new(), true);
        members.link_up(slot);
        check_members(&members);
    }
    members
}

#[test]
fn a_member_knows_most_of_its_rack_some_of_its_zone_and_few_beyond() {
    let members = members(400);
    let mut links = [0; REACHES];
    for slot in members.slots() {
        let reaches = members.get(slot).reaches;
        assert!(reaches[0] >= 8 && reaches[1] >= 1, "{reaches:?}");
        links = std::array::from_fn(|reach| links[reach] + reaches[reach]);
    }
    let each = links.map(|count| f64::from(count) / 400.0);
    assert!(each[0] > each[1] * 1.8 && each[1] > each[2] * 4.0, "{each:?}");
    assert!(each[2] > 0.1, "the zones are linked: {each:?}");
}

#[test]
fn who_cannot_reach_a_neighbour_gets_one_as_near_in_its_place() {
    let mut members = members(400);
    let mut alike = 0;
    for name in 1..=40 {
        let one = members.slot(node(name)).unwrap();
        let other = members.get(one).neighbours[0];
        let (before, others_before) = (members.get(one).reaches, members.get(other).reaches);
        members.part(node(name), members.get(other).id);
        check_members(&members);
        assert!(!members.get(one).neighbours.contains(&other));
        let (after, others_after) = (members.get(one).reaches, members.get(other).reaches);
        assert_eq!(before.iter().sum::<u32>(), after.iter().sum::<u32>());
        assert_eq!(others_before.iter().sum::<u32>(), others_after.iter().sum::<u32>());
        alike += u32::from(before == after && others_before == others_after);
    }
    assert!(alike >= 38, "{alike} of 40");
}

#[test]
fn who_says_of_everybody_that_it_cannot_reach_them_is_not_heeded_for_ever() {
    let mut members = members(400);
    let one = members.slot(node(1)).unwrap();
    for _ in 0..300 {
        let other = members.get(one).neighbours[0];
        members.part(node(1), members.get(other).id);
    }
    let before = members.get(one).neighbours.clone();
    let other = members.get(before[0]).id;
    members.part(node(1), other);
    assert_eq!(members.get(one).neighbours, before);
    members.part(node(2), members.get(members.get(members.slot(node(2)).unwrap()).neighbours[0]).id);
    assert!(!members.are_parted(node(1), other), "nothing is noted of it either");
    check_members(&members);
}
